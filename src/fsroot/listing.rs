//! Directories, read as they come: no sorting, no limit, no memory that grows.

use std::os::fd::OwnedFd;

use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::look::Look;
use super::{FsError, Kind, Stat};
use crate::types::limits::RESERVED_PREFIX;

/// One entry of a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its name: bytes as the file system has them.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content; 0 for what is no file.
    pub bytes: u64,
    /// Time of modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Permission bits.
    pub mode: u32,
}

/// A directory being read. Names that are ftd's own do not appear; what vanishes meanwhile is
/// left out; a mount point, and what lies on another file system, is [`Kind::Other`].
pub struct Listing {
    entries: OwningIter,
    directory: OwnedFd,
    device: u64,
}

impl Listing {
    pub(super) fn new(directory: OwnedFd) -> nix::Result<Self> {
        let device = fstat(&directory)?.st_dev;
        let entries = Dir::from_fd(directory.try_clone().map_err(|_| Errno::EMFILE)?)?.into_iter();
        Ok(Self { entries, directory, device })
    }
}

impl Iterator for Listing {
    type Item = Result<Entry, FsError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.entries.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(FsError::at("read the directory")(error))),
            };
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || name.starts_with(RESERVED_PREFIX) {
                continue;
            }
            match Look::at(&self.directory, entry.file_name()) {
                Ok(Look { mut stat, identity, is_mount_point, .. }) => {
                    if is_mount_point || identity.0 != self.device {
                        (stat.kind, stat.bytes) = (Kind::Other, 0);
                    }
                    let Stat { kind, bytes, mtime_ns, mode, .. } = stat;
                    return Some(Ok(Entry { name: name.to_vec(), kind, bytes, mtime_ns, mode }));
                }
                Err(Errno::ENOENT) => {}
                Err(error) => {
                    return Some(Err(FsError::at("describe an entry of the directory")(error)));
                }
            }
        }
    }
}
