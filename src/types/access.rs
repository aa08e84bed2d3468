//! Who asks, and what they may do.

use std::fmt;
use std::str::FromStr;

use super::RelPath;

/// One thing that a user may be allowed to do.
///
/// Source: `docs/architecture.md`, "Access".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Right {
    /// Read a file's content.
    Get,
    /// See names, sizes and digests.
    List,
    /// Store a file under a name that is free.
    Create,
    /// Store a file over one that is there.
    Replace,
    /// Delete.
    Remove,
    /// Give another name.
    Rename,
    /// Make directories, also on the way of a put.
    Mkdir,
}

impl Right {
    /// Every right, in the order in which they are printed.
    pub const ALL: [Self; 7] = [
        Self::Get,
        Self::List,
        Self::Create,
        Self::Replace,
        Self::Remove,
        Self::Rename,
        Self::Mkdir,
    ];

    /// The word for it in the configuration and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::Mkdir => "mkdir",
        }
    }
}

/// The word names no right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownRight;

impl std::error::Error for UnknownRight {}

impl fmt::Display for UnknownRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown right; the rights are")?;
        Right::ALL.iter().try_for_each(|right| write!(f, " {}", right.name()))
    }
}

impl FromStr for Right {
    type Err = UnknownRight;

    fn from_str(word: &str) -> Result<Self, UnknownRight> {
        Self::ALL.into_iter().find(|right| right.name() == word).ok_or(UnknownRight)
    }
}

/// A set of rights; empty by default.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rights(u8);

impl Rights {
    /// Whether `right` is in the set.
    pub fn has(self, right: Right) -> bool {
        self.0 & (1 << right as u8) != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The rights in the set, in the order of [`Right::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.has(*right))
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().fold(0, |set, right| set | 1 << right as u8))
    }
}

/// Somebody who was authenticated: the only one who can ask for anything.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Principal {
    /// The name in the configuration.
    pub name: String,
    /// Where the user's `/` is below the root; `None` is the root itself.
    pub home: Option<RelPath>,
    /// What the user may do there.
    pub rights: Rights,
}
