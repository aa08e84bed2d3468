//! Downloads that can be continued: the client's side of what `checkpoint.rs` keeps.
//!
//! The partial file lies beside the files at the top, as `.ftd-ID.part`, where the id is made of what is
//! fetched; so the same command finds it again, in whatever process. A lock on it tells whether one that
//! is found is written at the moment.

use std::fs::File;

use nix::sys::stat::fstat;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::FsError;
use super::checkpoint::{ANNOUNCED_LEAST, Kept, unavailable};
use super::staging::Staging;
use super::tree::{StagingPlace, Tree};
use super::uploads::{Owner, Unavailable, Upload, UploadId};
use crate::types::ErrorCode;

impl Tree {
    /// What an earlier process has left under this id, and of what; it can be taken up with
    /// [`Tree::resume`]. What somebody else has put there is not.
    pub fn find_partial(&self, id: UploadId) -> Option<(Owner, Kept)> {
        let (file, checkpoint) = self.open_kept(id).ok()?;
        let stat = fstat(&file).ok()?;
        if stat.st_uid != geteuid().as_raw() || stat.st_nlink != 1 {
            return None;
        }
        file.try_lock().ok()?;
        let owner = checkpoint.owner;
        let upload =
            Upload { owner: owner.clone(), since: self.uploads.now(), busy: false, hold: None };
        self.uploads.enter(id, upload);
        Some((owner, Kept { id, offset: checkpoint.offset, state: checkpoint.state }))
    }

    /// Starts a file that is kept under this id when it is cut, unless it is too small for that, or
    /// another process is at the same.
    ///
    /// # Errors
    /// As open(2).
    pub fn stage_partial(
        &self,
        id: UploadId,
        owner: &Owner,
        announced: Option<u64>,
    ) -> Result<Staging, FsError> {
        if announced.is_none_or(|bytes| bytes < ANNOUNCED_LEAST) {
            return self.stage(&owner.target);
        }
        match self.stage_as(id, owner) {
            Err(error) if error.code() == ErrorCode::Exists => {}
            Err(error) => return Err(error),
            Ok(staging) => {
                self.lock_partial(&staging.file)?;
                return Ok(staging);
            }
        }
        // One is there that cannot be continued. If nobody writes it, it makes room.
        if !self.forget_partial(id) {
            return self.stage(&owner.target);
        }
        let staging = self.stage_as(id, owner)?;
        self.lock_partial(&staging.file)?;
        Ok(staging)
    }

    /// Removes what is left under this id, unless somebody writes it; gives whether it is gone.
    pub fn forget_partial(&self, id: UploadId) -> bool {
        use nix::fcntl::OFlag;
        self.uploads.forget(id);
        let name = id.file_name(StagingPlace::Beside);
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let opened = super::resolve::open_below(
            &self.stage,
            name.as_bytes(),
            flags,
            nix::sys::stat::Mode::empty(),
        );
        let Ok(file) = opened.map(File::from) else { return false };
        file.try_lock().is_ok()
            && unlinkat(&self.stage, name.as_str(), UnlinkatFlags::NoRemoveDir).is_ok()
    }

    /// Holds a partial file against other processes, for as long as it is open. The daemon's are safe in
    /// a directory that is its own.
    pub(super) fn lock_partial(&self, file: &File) -> Result<(), FsError> {
        match self.options.staging {
            StagingPlace::Directory => Ok(()),
            StagingPlace::Beside => file.try_lock().map_err(|_| unavailable(Unavailable::Busy)),
        }
    }
}
