//! The one way from a name to a descriptor.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use crate::types::{FileName, RelPath};

/// How often a resolution is tried again when something in the tree moved meanwhile.
const TRIES: usize = 128;

/// What a directory is opened with: readable, because an `O_PATH` descriptor cannot be flushed.
pub(super) const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Opens `name` below `directory`: never above it, never through a link, never across a mount point.
///
/// Errors are the kernel's and taken literally; there is no second, weaker way.
pub(super) fn open_below(
    directory: impl AsFd,
    name: &[u8],
    flags: OFlag,
    mode: Mode,
) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve);
    let mut tries = 0;
    loop {
        tries += 1;
        match openat2(directory.as_fd(), OsStr::from_bytes(name), how) {
            Err(Errno::EAGAIN) if tries < TRIES => {}
            Err(Errno::EINTR) => {}
            opened => return opened,
        }
    }
}

/// Opens a directory below `top`; `None` is the top itself.
pub(super) fn open_directory(top: impl AsFd, path: Option<&RelPath>) -> nix::Result<OwnedFd> {
    open_below(top, path.map_or(b".", RelPath::raw_bytes), DIRECTORY, Mode::empty())
}

/// A component in the form in which the kernel takes it.
pub(super) fn component<'a>(name: &FileName<'a>) -> &'a OsStr {
    OsStr::from_bytes(name.raw_bytes())
}
