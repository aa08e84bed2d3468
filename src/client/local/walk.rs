//! A tree of the user's own, walked once: by descriptors, never through a link that nobody named.
#![expect(clippy::disallowed_methods, reason = "the user's own tree, named by the user")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use nix::dir::{Dir, OwningIter, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};

use crate::types::limits::{PATH_COMPONENTS_MAX, RESERVED_PREFIX};

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// A file of a tree, not opened yet.
#[derive(Clone, Debug)]
pub struct Leaf {
    directory: Arc<OwnedFd>,
    name: CString,
    /// Its path below the tree's top.
    pub path: Vec<u8>,
}

/// What a walk comes upon.
#[derive(Debug)]
pub enum Found {
    /// A regular file.
    File(Leaf),
    /// A directory in which nothing was found.
    Empty(Vec<u8>),
    /// Something that is not copied: what, and why.
    Skipped(Vec<u8>, &'static str),
    /// A directory that cannot be read.
    Failed(Vec<u8>, Errno),
}

impl Leaf {
    /// A file that the user named; if the name is a link, it is followed.
    ///
    /// # Errors
    /// As open(2).
    pub fn named(path: &Path) -> nix::Result<Self> {
        let real = std::fs::canonicalize(path)
            .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(Errno::EISDIR);
        };
        let directory = openat(AT_FDCWD, parent, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
        let path = path.as_os_str().as_bytes().to_vec();
        Ok(Self { directory: Arc::new(directory), name, path })
    }

    /// Opens it: the entry itself, without following or blocking.
    pub fn open(&self) -> nix::Result<File> {
        let flags = OFlag::O_RDONLY
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        openat(&self.directory, self.name.as_c_str(), flags, Mode::empty()).map(File::from)
    }

    /// Its size, as far as it can be known.
    pub fn bytes(&self) -> u64 {
        let stat = fstatat(&self.directory, self.name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
    }
}

/// A directory that is being read.
struct Level {
    entries: OwningIter,
    directory: Arc<OwnedFd>,
    path: Vec<u8>,
    found: bool,
}

impl Level {
    fn open(parent: Option<&OwnedFd>, name: &[u8], path: Vec<u8>) -> nix::Result<Self> {
        // A link that the user named is followed; one in the tree is not.
        let directory = match parent {
            None => openat(AT_FDCWD, name, DIRECTORY, Mode::empty())?,
            Some(parent) => openat(parent, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())?,
        };
        let again = directory.try_clone().map_err(|_| Errno::EMFILE)?;
        let entries = Dir::from_fd(again)?.into_iter();
        Ok(Self { entries, directory: Arc::new(directory), path, found: false })
    }

    fn join(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() {
            name.to_vec()
        } else {
            [self.path.as_slice(), b"/", name].concat()
        }
    }

    fn kind(&self, entry: &nix::dir::Entry) -> Option<Type> {
        entry.file_type().or_else(|| {
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            let stat = fstatat(self.directory.as_fd(), entry.file_name(), flags).ok()?;
            match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
                SFlag::S_IFREG => Some(Type::File),
                SFlag::S_IFDIR => Some(Type::Directory),
                SFlag::S_IFLNK => Some(Type::Symlink),
                _ => Some(Type::Fifo),
            }
        })
    }
}

/// Walks the tree at `top` and hands on what it finds, until `take` says no. No more is held than one
/// open directory a level; links are not followed, so that there are no loops.
///
/// # Errors
/// The top cannot be read.
pub fn walk(top: &Path, mut take: impl FnMut(Found) -> bool) -> nix::Result<()> {
    let mut levels = vec![Level::open(None, top.as_os_str().as_bytes(), Vec::new())?];
    while let Some(level) = levels.last_mut() {
        let step = match level.entries.next() {
            None => {
                let Some(level) = levels.pop() else { return Ok(()) };
                if level.found {
                    continue;
                }
                Step::Take(Found::Empty(level.path))
            }
            Some(Err(error)) => {
                level.found = true;
                let failed = Found::Failed(level.path.clone(), error);
                levels.pop();
                Step::Take(failed)
            }
            Some(Ok(entry)) => look(level, &entry),
        };
        let found = match step {
            Step::Nothing => continue,
            Step::Take(found) => found,
            Step::Enter(name) => {
                let path = level_path(&levels, &name);
                let deep = levels.len() >= PATH_COMPONENTS_MAX;
                let parent = levels.last().map(|level| Arc::clone(&level.directory));
                match parent {
                    Some(_) if deep => {
                        Found::Skipped(path, "too deep: paths have at most 64 components")
                    }
                    Some(parent) => match Level::open(Some(&parent), &name, path.clone()) {
                        Ok(level) => {
                            levels.push(level);
                            continue;
                        }
                        Err(error) => Found::Failed(path, error),
                    },
                    None => continue,
                }
            }
        };
        if !take(found) {
            return Ok(());
        }
    }
    Ok(())
}

fn level_path(levels: &[Level], name: &[u8]) -> Vec<u8> {
    levels.last().map_or_else(|| name.to_vec(), |level| level.join(name))
}

enum Step {
    Nothing,
    Take(Found),
    Enter(Vec<u8>),
}

fn look(level: &mut Level, entry: &nix::dir::Entry) -> Step {
    let name: &CStr = entry.file_name();
    let raw = name.to_bytes();
    let is_partial = raw.starts_with(RESERVED_PREFIX) && raw.ends_with(b".part");
    if matches!(raw, b"." | b"..") || is_partial {
        return Step::Nothing; // A download of ours that is under way is nothing of the user's.
    }
    match level.kind(entry) {
        Some(Type::File) => {
            level.found = true;
            let directory = Arc::clone(&level.directory);
            Step::Take(Found::File(Leaf {
                directory,
                name: name.to_owned(),
                path: level.join(raw),
            }))
        }
        Some(Type::Directory) => {
            level.found = true;
            Step::Enter(raw.to_vec())
        }
        Some(Type::Symlink) => Step::Take(Found::Skipped(level.join(raw), "a symbolic link")),
        Some(_) => Step::Take(Found::Skipped(level.join(raw), "not a regular file")),
        None => Step::Nothing, // It vanished.
    }
}
