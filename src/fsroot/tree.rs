//! The tree itself: reading, describing, listing, making directories.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::sys::statfs::fstatfs;
use nix::sys::statvfs::fstatvfs;

use super::commit::existing_file;
use super::flush::{FailedFlushes, Health};
use super::ledger::{Delta, Hold, Ledger};
use super::look::Look;
use super::made::Unflushed;
use super::open::{Disk, OpenError, find_staging, open_staging, open_top};
use super::resolve::{open_below, open_directory};
use super::uploads::Uploads;
use super::{FsError, Kind, Listing, Staging, Stat, attribute};
use crate::types::{Durability, ErrorCode, Quota, RelPath, Reserve};

/// How a tree is to be used.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where files are kept while they come in.
    pub staging: StagingPlace,
    /// Permission bits that new files and directories do not get.
    pub umask: u32,
    /// Whether changes are flushed before they are acknowledged.
    pub durability: Durability,
}

/// Where files are kept while they come in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StagingPlace {
    /// In `.ftd-stage` at the top, which is ours alone: the daemon's way.
    Directory,
    /// Beside the files at the top, under names that nobody lists: the client's way.
    Beside,
}

/// A directory that nothing leads out of. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tree {
    pub(super) top: Arc<OwnedFd>,
    pub(super) stage: Arc<OwnedFd>,
    pub(super) options: Options,
    pub(super) unflushed: Arc<Unflushed>,
    pub(super) uploads: Arc<Uploads>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) health: Arc<Health>,
}

/// A stored file, open for reading.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    stat: Stat,
    identity: Identity,
}

/// What a file is recognised by while it is read.
#[derive(Debug)]
struct Identity {
    bytes: i64,
    modified: (i64, i64),
    changed: (i64, i64),
    links: u64,
    inode: u64,
}

/// What vouches for a file's content besides its size and time of modification.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Witness {
    /// The digest that is kept with it: whoever receives the content compares.
    Digest,
    /// Only the time of change, which a rename moves too.
    TimeOfChange,
}

impl Identity {
    fn of(stat: &FileStat) -> Self {
        Self {
            bytes: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
            links: stat.st_nlink,
            inode: stat.st_ino,
        }
    }

    /// Whether the content can still be the same, as far as `witness` demands. A file that is replaced
    /// or removed meanwhile loses a link, which moves its time of change; its reader goes on with the
    /// version that it opened.
    fn still(&self, now: &Self, witness: Witness) -> bool {
        let same_change =
            witness == Witness::Digest || self.changed == now.changed || self.links != now.links;
        self.bytes == now.bytes && self.modified == now.modified && same_change
    }
}

impl Tree {
    /// Opens the tree at `path`, after proving that it can be confined and written durably.
    ///
    /// # Errors
    /// The first thing that is wrong with it or with the kernel.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let top = open_top(path, options.staging)?;
        let stage = open_staging(&top, path, options.staging)?;
        let (top, stage) = (Arc::new(top), Arc::new(stage));
        Ok(Self {
            top,
            stage,
            options,
            unflushed: Arc::default(),
            uploads: Arc::default(),
            ledger: Arc::default(),
            health: Arc::default(),
        })
    }

    /// The verdict of [`Tree::open`] with no side effect: what cannot be known without a write is
    /// left out. Gives the top.
    ///
    /// # Errors
    /// As [`Tree::open`].
    pub fn check(path: &Path) -> Result<OwnedFd, OpenError> {
        let top = open_top(path, StagingPlace::Directory)?;
        find_staging(&top, &path.display().to_string())?;
        Ok(top)
    }

    /// The account and group that own the directory at `path`; `None` when it cannot be looked at.
    pub fn owner(path: &Path) -> Option<(u32, u32)> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let stat = open(path, flags, Mode::empty()).and_then(fstat).ok()?;
        Some((stat.st_uid, stat.st_gid))
    }

    /// What an administrator should know about the file system, although it is served.
    pub fn caution(&self) -> Option<&'static str> {
        let kind = fstatfs(&self.top).ok()?.filesystem_type();
        (Disk::of(kind) == Disk::Unknown).then_some(
            "a FUSE process serves this file system: whether what is flushed is on a disk is its word alone; \
             use a local disk where \"stored\" has to survive a power cut",
        )
    }

    /// The descriptor of the top, for a sandbox rule.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }

    /// Refuses what cannot fit beside the reserve and what others were promised.
    pub(super) fn check_free(&self, bytes: u64, own: Option<&Hold>) -> Result<(), FsError> {
        let space = fstatvfs(&self.top).map_err(FsError::at("ask for free space"))?;
        let bytes_of = |blocks: u64| blocks.saturating_mul(space.fragment_size());
        let free = bytes_of(space.blocks_available());
        let taken = self.ledger.taken(bytes_of(space.blocks()), own);
        if bytes > free.saturating_sub(taken) {
            let doing = "make room for the file";
            return Err(FsError::new(ErrorCode::NoSpace, doing, Some(Errno::ENOSPC)));
        }
        Ok(())
    }

    /// Whether a file of so many bytes would find room; nothing is reserved.
    ///
    /// # Errors
    /// `Quota`, `NoSpace`.
    pub fn check_room(&self, target: &RelPath, bytes: u64) -> Result<(), FsError> {
        let gone = self.replaced_bytes(target).map_or_else(Delta::default, Delta::file);
        let change = [(target.clone(), Delta::file(bytes) - gone)];
        self.ledger.admit(&change, None)?;
        self.check_free(bytes, None)
    }

    /// Bytes of the file that a quota has counted under a name; `None` when there is none.
    pub(super) fn replaced_bytes(&self, target: &RelPath) -> Option<u64> {
        if !self.ledger.speaks_of(target) {
            return None;
        }
        let (parent, name) = target.split_last();
        let parent = open_directory(&self.top, parent.as_ref()).ok()?;
        existing_file(&parent, &name, None).ok()?
    }

    /// Puts quotas in force: of a home, and of all that lies below it. What is new has to be counted,
    /// which [`Tree::count`] does.
    pub fn configure(&self, homes: &[(Option<RelPath>, Quota)], reserve: Reserve) {
        self.ledger.configure(homes, reserve);
    }

    /// The flushes that have failed since the tree was opened.
    pub fn failed_flushes(&self) -> FailedFlushes {
        self.health.failed()
    }

    /// Whether a change at this path need not wait for a count.
    pub fn is_counted(&self, path: &RelPath) -> bool {
        self.ledger.is_counted(path)
    }

    /// What lies below a home that has a quota, once it is counted.
    pub fn usage(&self, home: Option<&RelPath>) -> Option<super::Usage> {
        self.ledger.usage(home)
    }

    /// Starts a file that nobody can see and that is to go to `target`.
    ///
    /// # Errors
    /// As open(2).
    pub fn stage(&self, target: &RelPath) -> Result<Staging, FsError> {
        Staging::create(self, target, None)
    }

    /// Opens a stored file. It is looked at first through an `O_PATH` descriptor, which nothing can
    /// block on, and then reopened: the same file, whatever its name stands for by now.
    ///
    /// # Errors
    /// `WrongType` for anything but a regular file.
    pub fn open_file(&self, path: &RelPath) -> Result<OpenFile, FsError> {
        let fail = FsError::at("open the file");
        let handle = open_below(
            &self.top,
            path.raw_bytes(),
            OFlag::O_PATH | OFlag::O_NOFOLLOW,
            Mode::empty(),
        )
        .map_err(&fail)?;
        if Stat::of(&fstat(&handle).map_err(&fail)?).kind != Kind::File {
            return Err(FsError::new(
                ErrorCode::WrongType,
                "open the file: it is not a regular file",
                None,
            ));
        }
        let again = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = File::from(open(again.as_str(), flags, Mode::empty()).map_err(&fail)?);
        let raw = fstat(&file).map_err(&fail)?;
        let mut stat = Stat::of(&raw);
        stat.digest = attribute::read(&file, &stat);
        Ok(OpenFile { file, stat, identity: Identity::of(&raw) })
    }

    /// Describes a name itself, not what a link points to; `None` is the top.
    ///
    /// # Errors
    /// As stat(2); `Denied` for a mount point.
    pub fn stat(&self, path: Option<&RelPath>) -> Result<Stat, FsError> {
        let fail = FsError::at("look at the name");
        let Some(path) = path else {
            return Ok(Stat::of(&fstat(&self.top).map_err(fail)?));
        };
        let (parent, name) = path.split_last();
        let parent = open_directory(&self.top, parent.as_ref()).map_err(&fail)?;
        let stat = Look::within(&parent, &name).map_err(fail)?.stat;
        match stat.kind {
            // Only the file itself has its digest; if it is another one by now, so be it.
            Kind::File => Ok(self.open_file(path).map_or(stat, |file| file.stat)),
            Kind::Directory | Kind::Other => Ok(stat),
        }
    }

    /// Reads a directory; `None` is the top.
    ///
    /// # Errors
    /// As open(2).
    pub fn list(&self, path: Option<&RelPath>) -> Result<Listing, FsError> {
        let directory =
            open_directory(&self.top, path).map_err(FsError::at("open the directory"))?;
        Listing::new(directory).map_err(FsError::at("open the directory"))
    }

    /// Whether a put may take this name as far as age goes: `Denied` when a file that was stored less
    /// than `retain` ago has it.
    ///
    /// # Errors
    /// That, or as stat(2); a name that is free is no error.
    pub fn check_replaceable(
        &self,
        path: &RelPath,
        retain: Option<Duration>,
    ) -> Result<(), FsError> {
        let (parent, name) = path.split_last();
        match open_directory(&self.top, parent.as_ref()) {
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(FsError::at("open the directory")(error)),
            Ok(parent) => existing_file(&parent, &name, retain).map(drop),
        }
    }
}

impl OpenFile {
    /// What it was when it was opened.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Fills `buffer` from `offset` on; less than its length is the end of the file.
    ///
    /// # Errors
    /// As pread(2).
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, FsError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let cause = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                    return Err(FsError::at("read the file")(cause));
                }
            }
        }
        Ok(filled)
    }

    /// What tells this content from any other that its name has had; opaque to everybody else.
    pub fn version(&self) -> String {
        let Identity { bytes, modified, changed, inode, .. } = &self.identity;
        format!(
            "{bytes:x}-{:x}.{:x}-{:x}.{:x}-{inode:x}",
            modified.0, modified.1, changed.0, changed.1
        )
    }

    /// Whether the content still is what it was when it was opened, as far as size and times tell.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn unchanged(&self) -> Result<bool, FsError> {
        let raw = fstat(&self.file).map_err(FsError::at("look at the file"))?;
        let witness =
            if self.stat.digest.is_some() { Witness::Digest } else { Witness::TimeOfChange };
        Ok(self.identity.still(&Identity::of(&raw), witness))
    }
}
