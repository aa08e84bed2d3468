//! Who asks, and what they may do.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{FileName, NameError, RelPath};

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
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownRight(String);

impl std::error::Error for UnknownRight {}

impl fmt::Display for UnknownRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown right {:?}; the rights are", self.0)?;
        Right::ALL.iter().try_for_each(|right| write!(f, " {}", right.name()))
    }
}

impl FromStr for Right {
    type Err = UnknownRight;

    fn from_str(word: &str) -> Result<Self, UnknownRight> {
        Self::ALL
            .into_iter()
            .find(|right| right.name() == word)
            .ok_or_else(|| UnknownRight(word.to_owned()))
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

impl std::ops::BitAnd for Rights {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl std::ops::BitOr for Rights {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().fold(0, |set, right| set | 1 << right as u8))
    }
}

/// The directory or file that a rule is about, and all below it: components, of which `*` stands for
/// any one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern(RelPath);

impl Pattern {
    /// Reads a pattern; its components keep the rules for new names.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let path = RelPath::parse(text.as_bytes())?;
        path.check_creatable()?;
        Ok(Self(path))
    }

    /// The text that it was read from.
    pub fn raw_bytes(&self) -> &[u8] {
        self.0.raw_bytes()
    }

    /// How many components it has: the more, the more specific it is.
    pub fn depth(&self) -> usize {
        self.0.depth()
    }

    /// Whether `path` is what the pattern names, or lies below it.
    pub fn covers(&self, path: &RelPath) -> bool {
        self.depth() <= path.depth() && self.agrees(path)
    }

    /// Whether something below `path` can be what the pattern names; the home has no path.
    pub fn reaches_below(&self, path: Option<&RelPath>) -> bool {
        path.is_none_or(|path| self.depth() > path.depth() && self.agrees(path))
    }

    /// The last component, and whether it stands for any name.
    pub fn last_matches(&self, name: &[u8]) -> bool {
        matches(self.0.split_last().1, name)
    }

    /// Whether both agree for as long as both go on.
    fn agrees(&self, path: &RelPath) -> bool {
        self.0.components().zip(path.components()).all(|(own, name)| matches(own, name.raw_bytes()))
    }
}

fn matches(own: FileName<'_>, name: &[u8]) -> bool {
    own.raw_bytes() == b"*" || own.raw_bytes() == name
}

/// What holds at the paths that a pattern covers, unless a more specific rule does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Where, below the user's home.
    pub pattern: Pattern,
    /// What the user may do there, in place of what holds above.
    pub rights: Rights,
    /// How long what is stored is kept; `None` is what holds above.
    pub retain: Option<Duration>,
}

/// Somebody who was authenticated: the only one who can ask for anything.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Principal {
    /// The name in the configuration.
    pub name: String,
    /// Where the user's `/` is below the root; `None` is the root itself.
    pub home: Option<RelPath>,
    /// What the user may do there, where no rule says otherwise.
    pub rights: Rights,
    /// How long what is stored is kept from the user's own hands; zero is not at all.
    pub retain: Duration,
    /// What holds at some paths instead.
    pub rules: Vec<Rule>,
}
