//! How much may lie somewhere, and how much is left alone.

/// What may lie below a home; `None` is as much as there is room for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Quota {
    /// Bytes of regular files.
    pub bytes: Option<u64>,
    /// Names: files, links and directories, the home itself not.
    pub names: Option<u64>,
}

/// How much of the file system ftd leaves alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reserve {
    /// So many bytes.
    Bytes(u64),
    /// A part of its size: 0 to 99.
    Percent(u8),
}

impl Default for Reserve {
    fn default() -> Self {
        Self::Bytes(0)
    }
}
