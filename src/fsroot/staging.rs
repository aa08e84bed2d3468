//! From bytes that nobody can see to a name that survives a power cut.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, RenameFlags, fallocate, renameat2};
use nix::libc::off_t;
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, futimens};
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::unistd::{UnlinkatFlags, fdatasync, fsync, ftruncate, unlinkat};

use super::resolve::{component, open_below, open_directory};
use super::retain::check_age;
use super::tree::{Made, StagingPlace, Tree};
use super::{FsError, Kind, Stat, attribute};
use crate::types::{Durability, ErrorCode, FileName, RelPath, Sha256Digest};

/// How far ahead of the data space is allocated, in bytes.
const ALLOCATE_STEP: u64 = 64 * 1024 * 1024;
/// The least size for which allocating ahead pays.
const ALLOCATE_LEAST: u64 = 1024 * 1024;
/// Bytes after which what is written so far starts on its way to the disk, so that little is left for
/// the flush at the end.
const FLUSH_STEP: u64 = 64 * 1024 * 1024;
/// Names that are tried for a staging file.
const NAME_TRIES: usize = 16;

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

/// A file on its way in. Dropping it removes it.
#[derive(Debug)]
pub struct Staging {
    tree: Tree,
    file: File,
    name: OsString,
    written: u64,
    announced: u64,
    allocated: u64,
    /// Up to where a flush was started, and the one that may still run.
    flushed: u64,
    flushing: Option<JoinHandle<nix::Result<()>>>,
    is_published: bool,
}

impl Staging {
    pub(super) fn create(tree: &Tree) -> Result<Self, FsError> {
        let fail = FsError::at("make a staging file");
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        for _ in 0..NAME_TRIES {
            let name = random_name(tree.options.staging)?;
            match open_below(&tree.stage, name.as_bytes(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(fail(error)),
                Ok(file) => {
                    return Ok(Self {
                        tree: tree.clone(),
                        file: File::from(file),
                        name,
                        written: 0,
                        announced: 0,
                        allocated: 0,
                        flushed: 0,
                        flushing: None,
                        is_published: false,
                    });
                }
            }
        }
        Err(fail(Errno::EEXIST))
    }

    /// Makes sure that so many bytes in all will fit, as far as anybody can know beforehand.
    ///
    /// # Errors
    /// `NoSpace`, before the first byte is written.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), FsError> {
        if bytes > self.tree.free_bytes()? {
            return Err(FsError::new(
                ErrorCode::NoSpace,
                "make room for the file",
                Some(Errno::ENOSPC),
            ));
        }
        self.announced = bytes;
        Ok(())
    }

    /// Appends.
    ///
    /// # Errors
    /// As write(2); a write that was cut short is continued.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        let end = self.written + bytes.len() as u64;
        if self.announced >= ALLOCATE_LEAST
            && end > self.allocated
            && self.allocated < self.announced
        {
            self.allocate(end)?;
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
        if self.written - self.flushed >= FLUSH_STEP
            && self.tree.options.durability == Durability::Full
        {
            self.flush_early()?;
        }
        Ok(())
    }

    /// Starts to flush what is there, beside the writing; nothing while the flush before still runs.
    fn flush_early(&mut self) -> Result<(), FsError> {
        if self.flushing.as_ref().is_some_and(|running| !running.is_finished()) {
            return Ok(());
        }
        self.join_flush()?;
        // Without a second descriptor or thread there is just more to do at the end.
        if let Ok(file) = self.file.try_clone() {
            let flush = std::thread::Builder::new().name("ftd-flush".to_owned());
            self.flushing = flush.spawn(move || fdatasync(&file)).ok();
            self.flushed = self.written;
        }
        Ok(())
    }

    /// Waits for an early flush. Its failure is the transfer's: the kernel tells it once, so that the
    /// flush at the end would know nothing of it.
    fn join_flush(&mut self) -> Result<(), FsError> {
        let Some(running) = self.flushing.take() else { return Ok(()) };
        running.join().unwrap_or(Err(Errno::EIO)).map_err(FsError::at("flush the staged file"))
    }

    /// Allocates the next step. In steps, because a fallocate(2) that fails keeps all it could grab.
    fn allocate(&mut self, end: u64) -> Result<(), FsError> {
        let target = (end.max(self.allocated) + ALLOCATE_STEP).min(self.announced).max(end);
        let (from, length) = (self.allocated, target - self.allocated);
        let fail = FsError::at("allocate space for the file");
        let (Ok(from), Ok(length)) = (off_t::try_from(from), off_t::try_from(length)) else {
            return Err(fail(Errno::EFBIG));
        };
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, length) {
            Ok(()) => self.allocated = target,
            // Not every file system can; the writes will tell.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => self.allocated = self.announced,
            Err(Errno::EINTR) => {}
            Err(error) => {
                // Dropping the staging file gives back what was grabbed.
                return Err(fail(error));
            }
        }
        Ok(())
    }

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
        let mut made = Made::default();
        match self.publish(target, publish, &mut made) {
            Ok(published) => Ok(published),
            Err(error) => {
                if !self.is_published {
                    made.undo();
                }
                Err(error)
            }
        }
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
        // Last: a mode without the right to write would refuse us the attribute.
        let mode = publish.mode.unwrap_or(0o666) & 0o777 & !self.tree.options.umask;
        fchmod(&self.file, Mode::from_bits_truncate(mode))
            .map_err(FsError::at("set the file's mode"))?;
        if self.tree.options.durability == Durability::Full {
            self.join_flush()?;
            // Once: after a failure the kernel forgets what it could not write, and a second call lies.
            fsync(&self.file).map_err(FsError::at("flush the staged file"))?;
        }
        Ok(())
    }

    fn publish(
        &mut self,
        target: &RelPath,
        publish: &Publish,
        made: &mut Made,
    ) -> Result<Published, FsError> {
        let (parent_path, name) = target.split_last();
        let parent = match publish.parents {
            Parents::MustExist => open_directory(&self.tree.top, parent_path.as_ref())
                .map_err(FsError::at("open the directory"))?,
            making => self.tree.make_parents(parent_path.as_ref(), making, made)?,
        };
        let replaced = publish.replace && existing_file(&parent, &name, publish.retain)?;
        self.check_parent(&parent, parent_path.as_ref())?;
        self.rename(&parent, &name, publish.replace)?;
        self.is_published = true;
        let flushed = self.tree.flush(&parent).map_err(FsError::at("flush the directory"));
        flushed.and_then(|()| made.flush(&self.tree)).map_err(FsError::after_the_rename)?;
        let mut stat =
            Stat::of(&fstat(&self.file).map_err(FsError::at("look at the stored file"))?);
        stat.digest = Some(publish.digest);
        Ok(Published { replaced, stat })
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

/// Whether a regular file stands under the name; anything else is not replaced, nor is a file that was
/// stored less than `retain` ago.
pub(super) fn existing_file(
    parent: &OwnedFd,
    name: &FileName<'_>,
    retain: Option<Duration>,
) -> Result<bool, FsError> {
    match fstatat(parent, component(name), AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_NO_AUTOMOUNT)
    {
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(FsError::at("look at the name")(error)),
        Ok(stat) if Stat::of(&stat).kind == Kind::File => {
            check_age(&stat, retain, "replace the file").map(|()| true)
        }
        Ok(_) => {
            let doing = "replace what stands under this name: it is not a regular file";
            Err(FsError::new(ErrorCode::WrongType, doing, None))
        }
    }
}

/// A name that nobody can guess, from the kernel's generator.
fn random_name(place: StagingPlace) -> Result<OsString, FsError> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_| FsError::new(ErrorCode::Internal, "make a random name", None))?;
    let number = u128::from_be_bytes(random);
    Ok(match place {
        StagingPlace::Directory => format!("{number:032x}").into(),
        StagingPlace::Beside => format!(".ftd-{number:032x}.part").into(),
    })
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_published {
            // What cannot be removed now is swept at the next start.
            let _ = unlinkat(&self.tree.stage, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}
