//! Floor 1: the one gate that every request passes.
//!
//! The decision looks at the user's rights and nothing else, least of all at the disk: so a refusal
//! is the same whether or not the path exists. Source: `docs/architecture.md`, "Access".

use thiserror::Error;

use crate::types::{Principal, Right};

/// What somebody asks to do. A new verb is a new variant, and does not compile without a decision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Store a file; `replace` is whether the client would replace one that is there.
    Put {
        /// The client's wish.
        replace: bool,
    },
    /// Read a file.
    Get,
    /// Name what a directory holds.
    List,
    /// Describe one name.
    Stat,
}

/// What a put may do to the name.
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
    /// What a put may do to the name; [`Overwrite::Never`] for the verbs that only read.
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
pub fn decide(principal: &Principal, action: Action) -> Result<Grant, Refused> {
    let has = |right| principal.rights.has(right);
    let needs = |right| if has(right) { Ok(()) } else { Err(Refused { needed: right }) };
    let parents = has(Right::Mkdir);
    let overwrite = match action {
        Action::Put { replace } => match (has(Right::Create), replace && has(Right::Replace)) {
            (true, true) => Overwrite::Allowed,
            (true, false) => Overwrite::Never,
            (false, true) => Overwrite::Only,
            (false, false) => return Err(Refused { needed: Right::Create }),
        },
        Action::Get => needs(Right::Get).map(|()| Overwrite::Never)?,
        Action::List | Action::Stat => needs(Right::List).map(|()| Overwrite::Never)?,
    };
    Ok(Grant { overwrite, parents })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: each verb asks for exactly its rights. Method: every set of rights against every action.
    #[test]
    fn a_verb_is_granted_by_its_own_rights_and_by_no_others() {
        for set in 0..1_u32 << Right::ALL.len() {
            let rights =
                Right::ALL.into_iter().filter(|right| set & (1 << *right as u32) != 0).collect();
            let principal = Principal { name: "alice".to_owned(), home: None, rights };
            let granted = |action| decide(&principal, action).map(|grant| grant.overwrite).ok();
            let (create, replace) = (rights.has(Right::Create), rights.has(Right::Replace));
            let never = |right| rights.has(right).then_some(Overwrite::Never);
            assert_eq!(granted(Action::Get), never(Right::Get));
            assert_eq!(granted(Action::List), never(Right::List));
            assert_eq!(granted(Action::Stat), never(Right::List));
            assert_eq!(granted(Action::Put { replace: false }), never(Right::Create));
            let expected = match (create, replace) {
                (true, true) => Some(Overwrite::Allowed),
                (true, false) => Some(Overwrite::Never),
                (false, true) => Some(Overwrite::Only),
                (false, false) => None,
            };
            assert_eq!(granted(Action::Put { replace: true }), expected);
        }
    }
}
