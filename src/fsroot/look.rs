//! What a name in a directory stands for, and whether something is mounted there, in one call.
//!
//! A device number that differs gives away another file system, but not a bind of the same one: only
//! statx(2) tells of those, since Linux 5.8.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::{fstat, makedev};
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
use rustix::path::Arg;

use super::Stat;
use super::made::Identity;
use super::resolve::component;
use crate::types::FileName;

/// A name that was looked at; a link is looked at itself.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) stat: Stat,
    /// When anything about it was last changed: seconds since 1970, and nanoseconds.
    pub(super) changed: (i64, u32),
    /// How many names it has.
    pub(super) links: u32,
    /// Device and inode.
    pub(super) identity: Identity,
    /// Whether something is mounted there, be it a part of the same file system.
    pub(super) is_mount_point: bool,
}

impl Look {
    /// Looks at one name. Nothing is mounted by looking.
    pub(super) fn at(directory: impl AsFd, name: impl Arg) -> nix::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let raw = statx(directory, name, flags, StatxFlags::BASIC_STATS)
            .map_err(|error| Errno::from_raw(error.raw_os_error()))?;
        let modified = (raw.stx_mtime.tv_sec, raw.stx_mtime.tv_nsec.into());
        Ok(Self {
            stat: Stat::from_parts(raw.stx_mode.into(), raw.stx_size, modified),
            changed: (raw.stx_ctime.tv_sec, raw.stx_ctime.tv_nsec),
            links: raw.stx_nlink,
            identity: (makedev(raw.stx_dev_major.into(), raw.stx_dev_minor.into()), raw.stx_ino),
            is_mount_point: raw.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        })
    }

    /// The same for a name that is to be described or changed: what is mounted there, or lies on another
    /// file system, is out of bounds.
    ///
    /// # Errors
    /// As statx(2); `EXDEV` for what is out of bounds.
    pub(super) fn within(parent: &OwnedFd, name: &FileName<'_>) -> nix::Result<Self> {
        let look = Self::at(parent, component(name))?;
        let is_inside = !look.is_mount_point && look.identity.0 == fstat(parent)?.st_dev;
        if is_inside { Ok(look) } else { Err(Errno::EXDEV) }
    }
}
