//! The tree itself: reading, describing, listing, making directories.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

use super::open::{OpenError, find_staging, open_staging, open_top};
use super::resolve::{component, open_below, open_directory};
use super::staging::existing_file;
use super::{FsError, Kind, Listing, Parents, Staging, Stat, attribute};
use crate::types::{Durability, ErrorCode, FileName, RelPath};

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
}

impl Identity {
    fn of(stat: &FileStat) -> Self {
        Self {
            bytes: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
            links: stat.st_nlink,
        }
    }

    /// Whether the content can still be the same. A file that is replaced or removed meanwhile loses a
    /// link, which moves its time of change; its reader goes on with the version that it opened.
    fn still(&self, now: &Self) -> bool {
        let same_change = self.changed == now.changed || self.links != now.links;
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
        Ok(Self { top: Arc::new(top), stage: Arc::new(stage), options })
    }

    /// The verdict of [`Tree::open`] with no side effect: what cannot be known without a write is
    /// left out.
    ///
    /// # Errors
    /// As [`Tree::open`].
    pub fn check(path: &Path) -> Result<(), OpenError> {
        let top = open_top(path, StagingPlace::Directory)?;
        find_staging(&top, &path.display().to_string()).map(drop)
    }

    /// The account and group that own the directory at `path`; `None` when it cannot be looked at.
    pub fn owner(path: &Path) -> Option<(u32, u32)> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let stat = open(path, flags, Mode::empty()).and_then(fstat).ok()?;
        Some((stat.st_uid, stat.st_gid))
    }

    /// Removes what unfinished transfers left behind, and gives how many they were.
    ///
    /// # Errors
    /// The staging directory cannot be read or written.
    pub fn sweep(&self) -> Result<usize, FsError> {
        let fail = FsError::at("sweep the staging directory");
        let again = open_below(&self.stage, b".", super::resolve::DIRECTORY, Mode::empty())
            .map_err(&fail)?;
        let mut swept = 0;
        for entry in nix::dir::Dir::from_fd(again).map_err(&fail)? {
            let entry = entry.map_err(&fail)?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            match unlinkat(&self.stage, entry.file_name(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) => swept += 1,
                Err(Errno::ENOENT | Errno::EISDIR | Errno::EPERM) => {} // Nothing of ours.
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(swept)
    }

    /// The descriptor of the top, for a sandbox rule.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }

    /// Bytes that can still be written, the reserve for root left out.
    ///
    /// # Errors
    /// The file system cannot be asked.
    pub fn free_bytes(&self) -> Result<u64, FsError> {
        let space = fstatvfs(&self.top).map_err(FsError::at("ask for free space"))?;
        Ok(space.blocks_available().saturating_mul(space.fragment_size()))
    }

    /// Starts a file that nobody can see.
    ///
    /// # Errors
    /// As open(2).
    pub fn stage(&self) -> Result<Staging, FsError> {
        Staging::create(self)
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
    /// As stat(2).
    pub fn stat(&self, path: Option<&RelPath>) -> Result<Stat, FsError> {
        let fail = FsError::at("look at the name");
        let Some(path) = path else {
            return Ok(Stat::of(&fstat(&self.top).map_err(fail)?));
        };
        let (parent, name) = path.split_last();
        let parent = open_directory(&self.top, parent.as_ref()).map_err(&fail)?;
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_NO_AUTOMOUNT;
        let raw = fstatat(&parent, component(&name), flags).map_err(&fail)?;
        if raw.st_dev != fstat(&parent).map_err(&fail)?.st_dev {
            return Err(fail(Errno::EXDEV));
        }
        let stat = Stat::of(&raw);
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

    /// Opens a directory and makes what is missing on the way, as far as `parents` allows; `made` remembers what was made.
    pub(super) fn make_parents(
        &self,
        path: Option<&RelPath>,
        parents: Parents,
        made: &mut Made,
    ) -> Result<OwnedFd, FsError> {
        let fail = FsError::at("make the directory");
        match open_directory(&self.top, path) {
            Err(Errno::ENOENT) => {}
            opened => return opened.map_err(FsError::at("open the directory")),
        }
        let least = match parents {
            Parents::MustExist => usize::MAX,
            Parents::Make => 0,
            Parents::MakeFrom(least) => least,
        };
        let mut directory = open_directory(&self.top, None).map_err(&fail)?;
        for (index, name) in path.iter().flat_map(|path| path.components()).enumerate() {
            let may_make = index + 1 >= least;
            let is_new = may_make
                && match mkdirat(&directory, component(&name), self.directory_mode()) {
                    Ok(()) => true,
                    Err(Errno::EEXIST) => false,
                    Err(error) => return Err(fail(error)),
                };
            let next =
                open_below(&directory, name.raw_bytes(), super::resolve::DIRECTORY, Mode::empty());
            let next = next.map_err(&fail)?;
            let parent = std::mem::replace(&mut directory, next);
            if is_new {
                made.directories.push((parent, name.raw_bytes().to_vec()));
            }
        }
        Ok(directory)
    }

    /// Makes one directory, which must not be there; `made` remembers it.
    pub(super) fn make_one(
        &self,
        parent: OwnedFd,
        name: &FileName<'_>,
        made: &mut Made,
    ) -> Result<(), FsError> {
        mkdirat(&parent, component(name), self.directory_mode())
            .map_err(FsError::at("make the directory"))?;
        made.directories.push((parent, name.raw_bytes().to_vec()));
        Ok(())
    }

    fn directory_mode(&self) -> Mode {
        Mode::from_bits_truncate(0o777 & !self.options.umask)
    }

    /// Flushes a directory, unless this tree does without.
    pub(super) fn flush(&self, directory: impl AsFd) -> nix::Result<()> {
        match self.options.durability {
            Durability::Full => fsync(directory),
            Durability::None => Ok(()),
        }
    }
}

/// Directories that were made on the way to a name, outermost first: each with the one it is in.
#[derive(Default)]
pub(super) struct Made {
    directories: Vec<(OwnedFd, Vec<u8>)>,
}

impl Made {
    /// How many they are.
    pub(super) fn count(&self) -> usize {
        self.directories.len()
    }

    /// Makes the new names durable, innermost first.
    pub(super) fn flush(&self, tree: &Tree) -> Result<(), FsError> {
        for (parent, _) in self.directories.iter().rev() {
            tree.flush(parent).map_err(FsError::at("flush the directory"))?;
        }
        Ok(())
    }

    /// Removes them again, as far as nobody uses them yet.
    pub(super) fn undo(&self) {
        for (parent, name) in self.directories.iter().rev() {
            // A directory that is in use by now stays; so do those above it.
            if unlinkat(parent, name.as_slice(), UnlinkatFlags::RemoveDir).is_err() {
                return;
            }
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

    /// Whether the content still is what it was when it was opened, as far as size and times tell.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn unchanged(&self) -> Result<bool, FsError> {
        let raw = fstat(&self.file).map_err(FsError::at("look at the file"))?;
        Ok(self.identity.still(&Identity::of(&raw)))
    }
}
