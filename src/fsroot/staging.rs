//! Files on their way in, which nobody can see yet.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::libc::off_t;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::FsError;
use super::checkpoint::{Early, Keeping};
use super::ledger::Hold;
use super::resolve::open_below;
use super::tree::{StagingPlace, Tree};
use crate::types::{ErrorCode, RelPath};

/// How far ahead of the data space is allocated, in bytes.
const ALLOCATE_STEP: u64 = 64 * 1024 * 1024;
/// The least size for which allocating ahead pays.
const ALLOCATE_LEAST: u64 = 1024 * 1024;
/// How much room is asked for at once where no size was announced.
const ROOM_STEP: u64 = 8 * 1024 * 1024;
/// Names that are tried for a staging file.
const NAME_TRIES: usize = 16;

/// A file on its way in. Dropping it removes it.
#[derive(Debug)]
pub struct Staging {
    pub(super) tree: Tree,
    /// Shared with the flush that runs beside the writing, so that there is one descriptor.
    pub(super) file: Arc<File>,
    pub(super) name: OsString,
    pub(super) written: u64,
    pub(super) announced: Option<u64>,
    pub(super) allocated: u64,
    pub(super) early: Early,
    /// What makes it one that can be continued.
    pub(super) keeping: Option<Keeping>,
    /// What it takes of quotas and of the free space; nothing once it is stored.
    pub(super) hold: Option<Hold>,
    /// Up to where there is room, where no size was announced.
    granted: u64,
    /// Whether the file is no longer ours to remove.
    pub(super) is_published: bool,
}

impl Staging {
    pub(super) fn create(
        tree: &Tree,
        target: &RelPath,
        keeping: Option<Keeping>,
    ) -> Result<Self, FsError> {
        let fail = |cause| match (cause, tree.options.staging) {
            // The directory is our own: that it is gone or closed is no fault of the request's.
            (Errno::ENOENT | Errno::EACCES, StagingPlace::Directory) => {
                FsError::new(ErrorCode::Io, "make a staging file", Some(cause))
            }
            _ => FsError::at("make a staging file")(cause),
        };
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        for _ in 0..NAME_TRIES {
            let name = match &keeping {
                Some(keeping) => keeping.id.file_name(tree.options.staging).into(),
                None => random_name(tree.options.staging)?,
            };
            match open_below(&tree.stage, name.as_bytes(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(fail(error)),
                Ok(file) => {
                    let replaces = tree.replaced_bytes(target);
                    let hold = Hold::new(&tree.ledger, target, replaces);
                    return Ok(Self::of(tree, file.into(), name, keeping, hold, 0));
                }
            }
        }
        Err(fail(Errno::EEXIST))
    }

    /// A staging file of which so much is written.
    pub(super) fn of(
        tree: &Tree,
        file: File,
        name: OsString,
        keeping: Option<Keeping>,
        hold: Hold,
        written: u64,
    ) -> Self {
        Self {
            tree: tree.clone(),
            file: Arc::new(file),
            name,
            written,
            announced: None,
            allocated: written,
            early: Early::at(written),
            keeping,
            hold: Some(hold),
            granted: written,
            is_published: false,
        }
    }

    /// Makes sure that so many bytes in all will fit, as far as anybody can know beforehand.
    ///
    /// # Errors
    /// `Quota` or `NoSpace`, before the first byte is written.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), FsError> {
        let due = bytes.saturating_sub(self.written);
        if let Some(hold) = &self.hold {
            hold.grow(bytes)?;
            // First taken, then looked: of two who come at once none is told of room that is not there.
            hold.promise(due);
        }
        let room = self.tree.check_free(due, self.hold.as_ref());
        if let (Err(_), Some(hold)) = (&room, &self.hold) {
            hold.promise(0);
        }
        room?;
        self.announced = Some(bytes);
        Ok(())
    }

    /// The same step by step, for a size that nobody has announced.
    fn make_room(&mut self, end: u64) -> Result<(), FsError> {
        if let Some(hold) = &self.hold {
            hold.grow(end)?;
        }
        if end > self.granted {
            let step = (self.written + ROOM_STEP).max(end);
            let of = |end: u64| self.tree.check_free(end - self.written, self.hold.as_ref());
            self.granted = if of(step).is_ok() { step } else { of(end).map(|()| end)? };
        }
        Ok(())
    }

    /// Appends.
    ///
    /// # Errors
    /// As write(2); a write that was cut short is continued.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        let end = self.written + bytes.len() as u64;
        if let Some(announced) = self.announced.filter(|bytes| *bytes >= ALLOCATE_LEAST)
            && end > self.allocated
            && self.allocated < announced
        {
            self.allocate(end, announced)?;
        }
        if self.announced.is_none() {
            self.make_room(end)?;
        }
        // `write_all_at` repeats what was interrupted or cut short.
        self.file.write_all_at(bytes, self.written).map_err(|error| {
            let cause = match error.kind() {
                std::io::ErrorKind::WriteZero => Errno::ENOSPC,
                _ => error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
            };
            FsError::at("write the file")(cause)
        })?;
        self.written = end;
        if let (Some(hold), Some(announced)) = (&self.hold, self.announced) {
            hold.promise(announced.saturating_sub(end.max(self.allocated)));
        }
        Ok(())
    }

    /// Allocates the next step. In steps, because a fallocate(2) that fails keeps all it could grab.
    fn allocate(&mut self, end: u64, announced: u64) -> Result<(), FsError> {
        let target = (end.max(self.allocated) + ALLOCATE_STEP).min(announced).max(end);
        let (from, length) = (self.allocated, target - self.allocated);
        let fail = FsError::at("allocate space for the file");
        let (Ok(from), Ok(length)) = (off_t::try_from(from), off_t::try_from(length)) else {
            return Err(fail(Errno::EFBIG));
        };
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, length) {
            Ok(()) => self.allocated = target,
            // Not every file system can; the writes will tell.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => self.allocated = announced,
            Err(Errno::EINTR) => {}
            Err(error) => {
                // Dropping the staging file gives back what was grabbed.
                return Err(fail(error));
            }
        }
        Ok(())
    }
}

/// A name that nobody can guess, from the kernel's generator.
fn random_name(place: StagingPlace) -> Result<OsString, FsError> {
    let number = random_number()?;
    Ok(match place {
        StagingPlace::Directory => format!("{number:032x}").into(),
        StagingPlace::Beside => format!(".ftd-{number:032x}.part").into(),
    })
}

pub(super) fn random_number() -> Result<u128, FsError> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_| FsError::new(ErrorCode::Internal, "make a random name", None))?;
    Ok(u128::from_be_bytes(random))
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_published {
            if let Some(keeping) = &self.keeping {
                self.tree.uploads.forget(keeping.id);
            }
            // What cannot be removed now is swept at the next start.
            let _ = unlinkat(&self.tree.stage, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

#[cfg(test)]
mod tests;
