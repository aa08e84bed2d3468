//! Floor 1: the one gate that every request passes.
//!
//! The decision looks at the user's rights and the spelling of the path, never at the disk: so a
//! refusal is the same whether or not the path exists. Source: `docs/architecture.md`, "Access".

use thiserror::Error;

use crate::types::{Principal, RelPath, Right};

/// What somebody asks to do, and where; paths are the user's own, below the home, and `None` is the
/// home itself. A new verb is a new variant, and does not compile without a decision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action<'a> {
    /// Store a file; `replace` is whether the client would replace one that is there.
    Put {
        /// The name to store under.
        path: &'a RelPath,
        /// The client's wish.
        replace: bool,
    },
    /// Read a file.
    Get {
        /// Its name.
        path: &'a RelPath,
    },
    /// Learn a file's digest, which may mean reading it.
    Digest {
        /// Its name.
        path: &'a RelPath,
    },
    /// Name what a directory holds.
    List {
        /// Its name.
        path: Option<&'a RelPath>,
    },
    /// Describe one name.
    Stat {
        /// Its name.
        path: Option<&'a RelPath>,
    },
    /// Delete what is no directory.
    Remove {
        /// Its name.
        path: &'a RelPath,
    },
    /// Delete an empty directory.
    Rmdir {
        /// Its name.
        path: &'a RelPath,
    },
    /// Make a directory.
    Mkdir {
        /// Its name.
        path: &'a RelPath,
    },
    /// Give a file or directory another name.
    Rename {
        /// Its name before.
        from: &'a RelPath,
        /// Its name after.
        to: &'a RelPath,
        /// The client's wish: whether a file that has the name may be replaced.
        replace: bool,
    },
}

/// What a put or a rename may do to the name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Overwrite {
    /// Only a free name.
    Never,
    /// A free name, or one that is taken.
    Allowed,
    /// Only a name that is taken: the user may not create.
    Only,
}

/// A decision in favour, with the conditions that bind whoever carries it out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    /// What a put or rename may do to the name; [`Overwrite::Never`] for all other verbs.
    pub overwrite: Overwrite,
    /// Whether missing parent directories may be made.
    pub parents: bool,
}

/// A decision against.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("not allowed: this needs the right \"{}\"", needed.name())]
pub struct Refused {
    /// The right that would have allowed it.
    pub needed: Right,
}

/// Decides whether `principal` may do `action`.
///
/// # Errors
/// The right that is missing.
pub fn decide(principal: &Principal, action: Action<'_>) -> Result<Grant, Refused> {
    let has = |right| principal.rights.has(right);
    let needs = |right| if has(right) { Ok(()) } else { Err(Refused { needed: right }) };
    let overwrite = match action {
        Action::Put { replace, .. } => match (has(Right::Create), replace && has(Right::Replace)) {
            (true, true) => Overwrite::Allowed,
            (true, false) => Overwrite::Never,
            (false, true) => Overwrite::Only,
            (false, false) => return Err(Refused { needed: Right::Create }),
        },
        Action::Rename { replace, .. } => {
            needs(Right::Rename).or_else(|refused| needs(Right::Remove).map_err(|_| refused))?;
            needs(Right::Create)?;
            if replace && has(Right::Replace) { Overwrite::Allowed } else { Overwrite::Never }
        }
        Action::Get { .. } | Action::Digest { .. } => {
            needs(Right::Get).map(|()| Overwrite::Never)?
        }
        Action::List { .. } | Action::Stat { .. } => {
            needs(Right::List).map(|()| Overwrite::Never)?
        }
        Action::Remove { .. } | Action::Rmdir { .. } => {
            needs(Right::Remove).map(|()| Overwrite::Never)?
        }
        Action::Mkdir { .. } => needs(Right::Mkdir).map(|()| Overwrite::Never)?,
    };
    Ok(Grant { overwrite, parents: has(Right::Mkdir) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: each verb asks for exactly its rights. Method: every set of rights against every action.
    #[test]
    fn a_verb_is_granted_by_its_own_rights_and_by_no_others() -> Result<(), crate::types::NameError>
    {
        let (path, to) = (&RelPath::parse(b"x")?, &RelPath::parse(b"y")?);
        for set in 0..1_u32 << Right::ALL.len() {
            let rights: crate::types::Rights =
                Right::ALL.into_iter().filter(|right| set & (1 << *right as u32) != 0).collect();
            let principal = Principal { name: "alice".to_owned(), home: None, rights };
            let granted = |action| decide(&principal, action).map(|grant| grant.overwrite).ok();
            let has = |right| rights.has(right);
            let never = |is_granted: bool| is_granted.then_some(Overwrite::Never);
            assert_eq!(granted(Action::Get { path }), never(has(Right::Get)));
            assert_eq!(granted(Action::Digest { path }), never(has(Right::Get)));
            assert_eq!(granted(Action::List { path: None }), never(has(Right::List)));
            assert_eq!(granted(Action::Stat { path: Some(path) }), never(has(Right::List)));
            assert_eq!(granted(Action::Remove { path }), never(has(Right::Remove)));
            assert_eq!(granted(Action::Rmdir { path }), never(has(Right::Remove)));
            assert_eq!(granted(Action::Mkdir { path }), never(has(Right::Mkdir)));
            let put = |replace| granted(Action::Put { path, replace });
            assert_eq!(put(false), never(has(Right::Create)));
            let expected = match (has(Right::Create), has(Right::Replace)) {
                (true, true) => Some(Overwrite::Allowed),
                (true, false) => Some(Overwrite::Never),
                (false, true) => Some(Overwrite::Only),
                (false, false) => None,
            };
            assert_eq!(put(true), expected);
            let rename = |replace| granted(Action::Rename { from: path, to, replace });
            let may = (has(Right::Rename) || has(Right::Remove)) && has(Right::Create);
            assert_eq!(rename(false), never(may));
            let over = if has(Right::Replace) { Overwrite::Allowed } else { Overwrite::Never };
            assert_eq!(rename(true), may.then_some(over));
        }
        Ok(())
    }
}
