//! The commit: from bytes that nobody can see to a name that survives a power cut.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags, renameat2};
use nix::libc::off_t;
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, futimens};
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::unistd::ftruncate;

use super::flush::Flush;
use super::ledger::Delta;
use super::made::Made;
use super::resolve::{component, open_directory};
use super::retain::check_age;
use super::staging::Staging;
use super::tree::StagingPlace;
use super::{FsError, Kind, Stat, attribute};
use crate::types::{ErrorCode, FileName, RelPath, Sha256Digest};

/// What a commit does when parent directories are missing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Parents {
    /// It fails with `NotFound`.
    MustExist,
    /// It makes them, durably.
    Make,
    /// The same, but only those whose path has at least so many components.
    MakeFrom(usize),
}

/// The terms of a commit.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Whether a regular file of that name may be replaced.
    pub replace: bool,
    /// A file that was stored less than this ago is not replaced.
    pub retain: Option<Duration>,
    /// What to do about missing parent directories.
    pub parents: Parents,
    /// Permission bits before the umask; 0666 without.
    pub mode: Option<u32>,
    /// Time of modification, nanoseconds since 1970; the present without.
    pub mtime_ns: Option<i64>,
    /// SHA-256 of the content, which the caller has verified.
    pub digest: Sha256Digest,
    /// Bytes of content, which the caller has verified.
    pub bytes: u64,
}

/// What a commit did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Published {
    /// Whether another file made room.
    pub replaced: bool,
    /// The file as it is stored.
    pub stat: Stat,
}

impl Staging {
    /// Makes the file durable under its name: bytes, then name, then directory. A crash leaves the
    /// old file or the new one, whole.
    ///
    /// *Source*: fsync(2), renameat2(2); `docs/architecture.md`, "Durability".
    ///
    /// # Errors
    /// The old file is as it was, save for `UnknownOutcome`: the name is in place, and whether it
    /// survives a power cut is not known.
    pub fn commit(mut self, target: &RelPath, publish: &Publish) -> Result<Published, FsError> {
        self.finish_content(publish)?;
        let (mut made, ledger) = (Made::default(), Arc::clone(&self.tree.ledger));
        let (parent, replaced) = ledger.in_turn(&[target], false, || {
            let placed = self.place(target, publish, &mut made);
            if placed.is_err() {
                made.undo(&self.tree);
                ledger.enter(&made.change());
            }
            placed
        })?;
        self.hold = None;
        self.forget_kept();
        let flushed =
            self.tree.flush(Flush::Directory, &parent).map_err(FsError::at("flush the directory"));
        flushed.and_then(|()| made.flush(&self.tree)).map_err(FsError::after_the_rename)?;
        let mut stat =
            Stat::of(&fstat(&self.file).map_err(FsError::at("look at the stored file"))?);
        stat.digest = Some(publish.digest);
        Ok(Published { replaced, stat })
    }

    /// Everything that belongs to the file itself, and its flush.
    fn finish_content(&mut self, publish: &Publish) -> Result<(), FsError> {
        if self.allocated > self.written {
            let length = off_t::try_from(self.written).unwrap_or(off_t::MAX);
            ftruncate(&self.file, length).map_err(FsError::at("give back unused space"))?;
        }
        if let Some(mtime_ns) = publish.mtime_ns {
            let mtime = TimeSpec::nanoseconds(mtime_ns);
            futimens(&self.file, &TimeSpec::UTIME_OMIT, &mtime)
                .map_err(FsError::at("set the file's time"))?;
        }
        let stat = Stat::of(&fstat(&self.file).map_err(FsError::at("look at the staged file"))?);
        if stat.bytes != publish.bytes || stat.bytes != self.written {
            return Err(FsError::new(
                ErrorCode::Io,
                "check the staged file: its size is not what was written",
                None,
            ));
        }
        match attribute::write(&self.file, publish.digest, stat.bytes, stat.mtime_ns) {
            // A client's file system may not keep attributes; the daemon's was tried at its start.
            Err(Errno::EOPNOTSUPP) if self.tree.options.staging == StagingPlace::Beside => {}
            written => written.map_err(FsError::at("keep the file's digest"))?,
        }
        // It may be about to write a checkpoint.
        self.early.join().map_err(FsError::at("flush the staged file"))?;
        self.forget_checkpoints().map_err(FsError::at("strike out the checkpoint"))?;
        // Last: a mode without the right to write would refuse us the attributes.
        let mode = publish.mode.unwrap_or(0o666) & 0o777 & !self.tree.options.umask;
        fchmod(&self.file, Mode::from_bits_truncate(mode))
            .map_err(FsError::at("set the file's mode"))?;
        self.tree.flush(Flush::File, &self.file).map_err(FsError::at("flush the staged file"))
    }

    /// Gives the file its name; gives the directory, and whether a file made room.
    fn place(
        &mut self,
        target: &RelPath,
        publish: &Publish,
        made: &mut Made,
    ) -> Result<(OwnedFd, bool), FsError> {
        let (parent_path, name) = target.split_last();
        let parent = match publish.parents {
            Parents::MustExist => self
                .tree
                .open_parent(parent_path.as_ref(), made)
                .map_err(FsError::at("open the directory"))?,
            making => self.tree.make_parents(parent_path.as_ref(), making, made)?,
        };
        let replaced =
            if publish.replace { existing_file(&parent, &name, publish.retain)? } else { None };
        self.check_parent(&parent, parent_path.as_ref())?;
        let mut change = made.change();
        let gone = replaced.map_or_else(Delta::default, Delta::file);
        change.push((target.clone(), Delta::file(self.written) - gone));
        let ledger = &self.tree.ledger;
        ledger.admit(&change, self.hold.as_ref())?;
        self.rename(&parent, &name, publish.replace)?;
        self.is_published = true;
        ledger.settle(&change, self.hold.as_ref());
        Ok((parent, replaced.is_some()))
    }

    /// The directory that is held must still be the one that the path names: a directory that was
    /// moved away meanwhile is not where the user wanted the file.
    fn check_parent(&self, parent: &OwnedFd, path: Option<&RelPath>) -> Result<(), FsError> {
        let fail = FsError::at("look at the directory again");
        let again = match open_directory(&self.tree.top, path) {
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV) => None,
            opened => Some(opened.map_err(&fail)?),
        };
        let held = fstat(parent).map_err(&fail)?;
        let same = match again {
            None => false,
            Some(again) => {
                let again = fstat(&again).map_err(&fail)?;
                (again.st_dev, again.st_ino) == (held.st_dev, held.st_ino)
            }
        };
        if same {
            Ok(())
        } else {
            Err(FsError::new(
                ErrorCode::Changed,
                "publish the file: its directory was moved meanwhile",
                None,
            ))
        }
    }

    fn rename(&self, parent: &OwnedFd, name: &FileName<'_>, replace: bool) -> Result<(), FsError> {
        let fail = FsError::at("publish the staged file");
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        let stage = &self.tree.stage;
        renameat2(stage, self.name.as_os_str(), parent, component(name), flags).map_err(
            |error| match error {
                Errno::EEXIST => FsError::new(
                    ErrorCode::Exists,
                    "publish the staged file: the name is taken",
                    None,
                ),
                error => fail(error),
            },
        )?;
        // Two names of one inode: the kernel does nothing and says it did.
        match fstatat(stage, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(()),
            _ => Err(FsError::new(
                ErrorCode::Io,
                "publish the staged file: it is still staged",
                None,
            )),
        }
    }
}

/// How many bytes the regular file under the name has, if there is one; anything else is not replaced,
/// nor is a file that was stored less than `retain` ago.
pub(super) fn existing_file(
    parent: &OwnedFd,
    name: &FileName<'_>,
    retain: Option<Duration>,
) -> Result<Option<u64>, FsError> {
    match fstatat(parent, component(name), AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_NO_AUTOMOUNT)
    {
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(FsError::at("look at the name")(error)),
        Ok(stat) if Stat::of(&stat).kind == Kind::File => {
            check_age(&stat, retain, "replace the file").map(|()| Some(Stat::of(&stat).bytes))
        }
        Ok(_) => {
            let doing = "replace what stands under this name: it is not a regular file";
            Err(FsError::new(ErrorCode::WrongType, doing, None))
        }
    }
}
