//! What can be asked, and what can be answered.

use std::time::Duration;

use thiserror::Error;

use crate::types::{Pattern, RelPath, Right};

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
    /// The fewest components that a missing directory on the way may have to be made. One that has
    /// fewer must be there; as many as the path has means that none is made.
    pub parents_from: usize,
    /// What was stored less than this ago is neither removed, replaced nor renamed.
    pub retain: Option<Duration>,
    /// The same for a file that a rename would replace.
    pub retain_target: Option<Duration>,
    /// Set when the user may not list here: what is missing is then answered with this refusal, so
    /// that it cannot be told from what is forbidden.
    pub unlisted: Option<Refused>,
}

/// A decision against.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("not allowed: this needs the right \"{}\"{}", needed.name(), if *is_blind { BLIND } else { "" })]
pub struct Refused {
    /// The right that would have allowed it.
    pub needed: Right,
    /// The user may not list here, so that he is told the same of what is not as it should be.
    pub is_blind: bool,
}

/// What else a refusal may mean to somebody who may not know.
const BLIND: &str = "; or something is not there, which is not told without the right \"list\"";

/// What a listing leaves out because the user may not list it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hidden(pub(super) Vec<Pattern>);

impl Hidden {
    /// Whether the listing leaves out this name.
    pub fn hides(&self, name: &[u8]) -> bool {
        self.0.iter().any(|pattern| pattern.last_matches(name))
    }
}
