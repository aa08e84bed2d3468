//! Names that are safe to hand to the kernel.

use std::fmt;

use super::Escaped;
use super::limits::{
    HOME_BYTES_MAX, HOME_COMPONENTS_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_COMPONENTS_MAX,
    RESERVED_PREFIX,
};

/// A path that a client may ask for: relative, with no empty, `.`, `..` or reserved component.
///
/// Holding one is the proof, so nothing below this floor checks again. It is bytes in and bytes
/// out: nothing is decoded, folded or normalised.
///
/// Source: `docs/protocol.md`, "Paths".
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RelPath(Vec<u8>);

/// One component of a [`RelPath`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileName<'a>(&'a [u8]);

/// Why a path is refused; positions count components from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NameError {
    /// The path has no bytes at all.
    Empty,
    /// The path starts with a slash.
    Absolute,
    /// The path ends with a slash.
    TrailingSlash,
    /// Two slashes follow each other.
    EmptyComponent,
    /// A component is `.` or `..`.
    DotComponent {
        /// Which component.
        position: usize,
    },
    /// The path holds a NUL byte.
    Nul,
    /// A component is longer than a file system stores.
    ComponentTooLong {
        /// Which component.
        position: usize,
        /// Its length.
        bytes: usize,
    },
    /// The whole path is too long.
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The path has too many components.
    TooDeep {
        /// How many it has.
        components: usize,
    },
    /// A component starts with `.ftd-`.
    Reserved {
        /// Which component.
        position: usize,
    },
    /// A name to be created holds a control or bidirectional character.
    Control {
        /// Which component.
        position: usize,
    },
    /// A name to be created is not UTF-8.
    NotUtf8,
}

impl std::error::Error for NameError {}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the path is empty"),
            Self::Absolute => {
                write!(f, "the path starts with '/'; paths are relative to your home")
            }
            Self::TrailingSlash => write!(f, "the path ends with '/'"),
            Self::EmptyComponent => write!(f, "the path contains '//'"),
            Self::DotComponent { position } => {
                write!(f, "component {position} is '.' or '..', which is never followed")
            }
            Self::Nul => write!(f, "the path contains a NUL byte"),
            Self::ComponentTooLong { position, bytes } => {
                write!(
                    f,
                    "component {position} has {bytes} bytes, at most {NAME_BYTES_MAX} are possible"
                )
            }
            Self::TooLong { bytes } => {
                write!(f, "the path has {bytes} bytes, at most {PATH_BYTES_MAX} are possible")
            }
            Self::TooDeep { components } => write!(
                f,
                "the path has {components} components, at most {PATH_COMPONENTS_MAX} are possible"
            ),
            Self::Reserved { position } => {
                write!(f, "component {position} starts with '.ftd-', which is reserved")
            }
            Self::Control { position } => write!(
                f,
                "component {position} contains a control or text-direction character, \
                 which a new name may not"
            ),
            Self::NotUtf8 => write!(f, "the path is not UTF-8, which a new name must be"),
        }
    }
}

impl RelPath {
    /// Checks a path as it came from a peer; no system call is made.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn parse(raw: &[u8]) -> Result<Self, NameError> {
        Self::parse_within(raw, PATH_BYTES_MAX, PATH_COMPONENTS_MAX)
    }

    /// Checks a path with a home in front, which [`RelPath::below`] has made and a file has kept: it may be
    /// longer and deeper than what a peer may spell.
    ///
    /// # Errors
    /// As [`RelPath::parse`].
    pub fn parse_joined(raw: &[u8]) -> Result<Self, NameError> {
        let bytes_max = HOME_BYTES_MAX + 1 + PATH_BYTES_MAX;
        Self::parse_within(raw, bytes_max, HOME_COMPONENTS_MAX + PATH_COMPONENTS_MAX)
    }

    fn parse_within(
        raw: &[u8],
        bytes_max: usize,
        components_max: usize,
    ) -> Result<Self, NameError> {
        if raw.is_empty() {
            return Err(NameError::Empty);
        }
        if raw.len() > bytes_max {
            return Err(NameError::TooLong { bytes: raw.len() });
        }
        if raw.contains(&0) {
            return Err(NameError::Nul);
        }
        if raw.starts_with(b"/") {
            return Err(NameError::Absolute);
        }
        if raw.ends_with(b"/") {
            return Err(NameError::TrailingSlash);
        }
        let components = raw.split(|byte| *byte == b'/').count();
        if components > components_max {
            return Err(NameError::TooDeep { components });
        }
        for (index, part) in raw.split(|byte| *byte == b'/').enumerate() {
            let position = index + 1;
            match part {
                b"" => return Err(NameError::EmptyComponent),
                b"." | b".." => return Err(NameError::DotComponent { position }),
                long if long.len() > NAME_BYTES_MAX => {
                    return Err(NameError::ComponentTooLong { position, bytes: long.len() });
                }
                own if own.starts_with(RESERVED_PREFIX) => {
                    return Err(NameError::Reserved { position });
                }
                _ => {}
            }
        }
        Ok(Self(raw.to_vec()))
    }

    /// Checks what only a name to be created must satisfy: UTF-8, no control characters, no
    /// line or paragraph separators, no bidirectional controls.
    ///
    /// Existing odd names stay reachable by their exact bytes, so that they can be cleaned up.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_creatable(&self) -> Result<(), NameError> {
        let text = std::str::from_utf8(&self.0).map_err(|_| NameError::NotUtf8)?;
        for (index, part) in text.split('/').enumerate() {
            if part.chars().any(|c| c.is_control() || is_hidden_direction(c)) {
                return Err(NameError::Control { position: index + 1 });
            }
        }
        Ok(())
    }

    /// Puts `self` below `base`: what a user spells, below the user's home.
    #[must_use]
    pub fn below(&self, base: Option<&Self>) -> Self {
        match base {
            None => self.clone(),
            Some(base) => {
                let mut joined = Vec::with_capacity(base.0.len() + 1 + self.0.len());
                joined.extend_from_slice(&base.0);
                joined.push(b'/');
                joined.extend_from_slice(&self.0);
                Self(joined)
            }
        }
    }

    /// Whether `self` lies somewhere below `above`; a path is not below itself.
    pub fn is_below(&self, above: &Self) -> bool {
        self.0.strip_prefix(above.0.as_slice()).is_some_and(|rest| rest.starts_with(b"/"))
    }

    /// The directory part, if there is one, and the last component.
    pub fn split_last(&self) -> (Option<Self>, FileName<'_>) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            None => (None, FileName(&self.0)),
            Some(slash) => (Some(Self(self.0[..slash].to_vec())), FileName(&self.0[slash + 1..])),
        }
    }

    /// Whether both are in the same directory.
    pub fn is_beside(&self, other: &Self) -> bool {
        let directory = |path: &Self| path.0.iter().rposition(|byte| *byte == b'/');
        let (own, others) = (directory(self), directory(other));
        own == others && self.0[..own.unwrap_or(0)] == other.0[..others.unwrap_or(0)]
    }

    /// The components in order; there is at least one.
    pub fn components(&self) -> impl Iterator<Item = FileName<'_>> {
        self.0.split(|byte| *byte == b'/').map(FileName)
    }

    /// How many components there are.
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// The directories on the way to the path, outermost first, without the path itself.
    pub fn ancestors(&self) -> impl DoubleEndedIterator<Item = Self> {
        let slashes: Vec<usize> = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| at)
            .collect();
        slashes.into_iter().map(|at| Self(self.0[..at].to_vec()))
    }

    /// The bytes as the peer spelled them; print them through [`Escaped`] only.
    pub fn raw_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&self.0).fmt(f)
    }
}

impl<'a> FileName<'a> {
    /// The path of this component in `directory`; `None` is the top.
    #[must_use]
    pub fn below(self, directory: Option<&RelPath>) -> RelPath {
        RelPath(self.0.to_vec()).below(directory)
    }

    /// The bytes of the component; print them through [`Escaped`] only.
    pub fn raw_bytes(self) -> &'a [u8] {
        self.0
    }
}

/// Characters that reorder or hide what stands around them (Unicode's bidirectional controls and
/// separators): a name that holds one does not read as it is spelled.
pub(super) fn is_hidden_direction(c: char) -> bool {
    matches!(c,
        '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}' | '\u{2029}'
        | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every spelling that could leave the tree, or confuse a reader, is refused by name.
    /// Method: one row per rule, at the limit and one past it.
    #[test]
    fn hostile_spellings_are_refused_before_any_system_call() {
        let long = "x".repeat(255);
        let too_long = "x".repeat(256);
        let deep = vec!["d"; 64].join("/");
        let too_deep = vec!["d"; 65].join("/");
        let wide = format!("{}/{}", vec![long.as_str(); 15].join("/"), "y".repeat(160));
        assert_eq!(wide.len(), PATH_BYTES_MAX);
        let too_wide = format!("{wide}y");
        for (raw, expected) in [
            (&b""[..], Err(NameError::Empty)),
            (b".", Err(NameError::DotComponent { position: 1 })),
            (b"..", Err(NameError::DotComponent { position: 1 })),
            (b"a/../b", Err(NameError::DotComponent { position: 2 })),
            (b"a/..", Err(NameError::DotComponent { position: 2 })),
            (b"./a", Err(NameError::DotComponent { position: 1 })),
            (b"/a", Err(NameError::Absolute)),
            (b"//", Err(NameError::Absolute)),
            (b"a//b", Err(NameError::EmptyComponent)),
            (b"a/", Err(NameError::TrailingSlash)),
            (b"a\0b", Err(NameError::Nul)),
            (b".ftd-stage/x", Err(NameError::Reserved { position: 1 })),
            (b"a/.ftd-x", Err(NameError::Reserved { position: 2 })),
            (long.as_bytes(), Ok(())),
            (too_long.as_bytes(), Err(NameError::ComponentTooLong { position: 1, bytes: 256 })),
            (deep.as_bytes(), Ok(())),
            (too_deep.as_bytes(), Err(NameError::TooDeep { components: 65 })),
            (wide.as_bytes(), Ok(())),
            (too_wide.as_bytes(), Err(NameError::TooLong { bytes: 4001 })),
            (b"%2e%2e%2f", Ok(())),
            (b"..\\x", Ok(())),
            (b"\xFF", Ok(())),
            (b"...", Ok(())),
        ] {
            assert_eq!(RelPath::parse(raw).map(|_| ()), expected, "{}", Escaped(raw));
        }
    }

    /// Goal: a new name reads as it is spelled, everywhere. Method: one row per kind of character.
    #[test]
    fn new_names_are_plain_text() -> Result<(), NameError> {
        for (raw, ok) in [
            ("report.pdf".as_bytes(), true),
            ("with space".as_bytes(), true),
            ("📦 größe".as_bytes(), true),
            (b"line\nbreak", false),
            (b"\x1b[31m", false),
            (b"del\x7f", false),
            ("c1\u{0085}".as_bytes(), false),
            ("bidi\u{202E}txt".as_bytes(), false),
            ("sep\u{2028}".as_bytes(), false),
            (b"\xC0\xAF", false),
        ] {
            assert_eq!(RelPath::parse(raw)?.check_creatable().is_ok(), ok, "{}", Escaped(raw));
        }
        Ok(())
    }

    #[test]
    fn a_path_splits_and_joins_without_changing_a_byte() -> Result<(), NameError> {
        let path = RelPath::parse(b"a/b/c")?;
        let (parent, name) = path.split_last();
        assert_eq!((parent, name.raw_bytes()), (Some(RelPath::parse(b"a/b")?), &b"c"[..]));
        assert_eq!(RelPath::parse(b"c")?.split_last().0, None);
        assert!(path.is_below(&RelPath::parse(b"a/b")?) && !path.is_below(&path));
        assert!(!RelPath::parse(b"ab/c")?.is_below(&RelPath::parse(b"a")?));
        let home = RelPath::parse(b"home")?;
        assert_eq!(path.below(Some(&home)).raw_bytes(), b"home/a/b/c");
        assert_eq!(path.below(None), path);
        Ok(())
    }

    #[test]
    fn a_path_is_made_of_its_components_and_lies_in_its_ancestors() -> Result<(), NameError> {
        let path = RelPath::parse(b"a/b/c")?;
        let names: Vec<&[u8]> = path.components().map(FileName::raw_bytes).collect();
        assert_eq!(names, [b"a", b"b", b"c"]);
        assert_eq!((path.depth(), RelPath::parse(b"c")?.depth()), (3, 1));
        let above: Vec<RelPath> = path.ancestors().collect();
        assert_eq!(above, [RelPath::parse(b"a")?, RelPath::parse(b"a/b")?]);
        assert_eq!(RelPath::parse(b"c")?.ancestors().count(), 0);
        Ok(())
    }

    /// Goal: who reads a refusal knows which part of which path is meant, and how far it is off.
    /// Method: what is printed, of a path and of the rules that name a place or a limit.
    #[test]
    fn what_is_wrong_with_a_path_is_told_by_place_and_limit() -> Result<(), NameError> {
        assert_eq!(RelPath::parse(b"a/\x1b[1m")?.to_string(), Escaped(b"a/\x1b[1m").to_string());
        let told = |raw: &[u8]| RelPath::parse(raw).err().map_or(String::new(), |e| e.to_string());
        assert_eq!(told(b"a/.."), "component 2 is '.' or '..', which is never followed");
        assert_eq!(told(b".ftd-x"), "component 1 starts with '.ftd-', which is reserved");
        assert_eq!(told(&[b'x'; 256]), "component 1 has 256 bytes, at most 255 are possible");
        assert_eq!(
            RelPath::parse(b"a/b\n")?.check_creatable(),
            Err(NameError::Control { position: 2 })
        );
        Ok(())
    }
}
