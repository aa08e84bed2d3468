//! Floor 2: the confined tree, the only place that opens served files.
//!
//! Every name is resolved by the kernel in one `openat2` call with all four restrictions, never by
//! looking first and opening later. What has no such call (rename, unlink, mkdir) acts on the
//! descriptor of a parent and one plain component. All calls block.
//!
//! Source: openat2(2), renameat2(2), fsync(2); `docs/architecture.md`, "Confinement" and "Durability".
#![expect(clippy::disallowed_methods, reason = "this is the module that the ban points to")]

mod attribute;
mod change;
mod checkpoint;
mod commit;
mod count;
mod error;
mod flush;
mod ledger;
#[cfg(test)]
mod ledger_tests;
mod listing;
mod look;
mod made;
#[cfg(test)]
mod made_tests;
mod open;
mod partial;
mod resolve;
mod retain;
mod staging;
#[cfg(test)]
mod tests;
mod tree;
mod uploads;

pub use change::Moving;
pub use checkpoint::{Kept, Resumed, Stale};
pub use commit::{Order, Parents, Publish, Published};
pub use error::FsError;
pub use flush::FailedFlushes;
pub use ledger::Usage;
pub use listing::{Entry, Listing};
pub use open::OpenError;
pub use staging::Staging;
pub use tree::{OpenFile, Options, StagingPlace, Tree};
pub use uploads::{NoUploadId, Owner, UploadId};

use nix::sys::stat::{FileStat, SFlag};

use crate::types::Sha256Digest;

/// What a name stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else: a link, a device, a pipe, a socket, a mount point.
    Other,
}

/// What is known about a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Bytes of content; 0 for what is no file.
    pub bytes: u64,
    /// Time of modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Permission bits.
    pub mode: u32,
    /// SHA-256 of the content, when it was verified at its storing and nothing changed since.
    pub digest: Option<Sha256Digest>,
}

impl Stat {
    fn of(stat: &FileStat) -> Self {
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        Self::from_parts(stat.st_mode, bytes, (stat.st_mtime, stat.st_mtime_nsec))
    }

    /// The same of what the kernel tells in another form: mode, size, and seconds and nanoseconds.
    fn from_parts(mode: u32, bytes: u64, modified: (i64, i64)) -> Self {
        let kind = match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFDIR => Kind::Directory,
            _ => Kind::Other,
        };
        let bytes = if kind == Kind::File { bytes } else { 0 };
        let mtime_ns = modified.0.saturating_mul(1_000_000_000).saturating_add(modified.1);
        Self { kind, bytes, mtime_ns, mode: mode & 0o777, digest: None }
    }
}
