//! The user's own side: files that are read for a put, the directory that a get lands in.

pub mod batch;
mod partial;
mod stdout;
pub mod walk;

pub use partial::Partial;
pub use stdout::{Spool, Stdout};

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc::O_NONBLOCK;
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use super::exit::{Exit, Failure, said};
use crate::fsroot::{OpenError, Options, StagingPlace, Tree};
use crate::transfer::Inbox;
use crate::types::{Durability, Escaped, RelPath};

/// Bytes that a pipe holds: less than this in one read means that it is empty.
const PIPE_BYTES: usize = 64 * 1024;

/// What is read for a put.
#[derive(Clone)]
pub enum Input {
    /// A regular file.
    File {
        /// Open for reading.
        file: Arc<File>,
        /// What it was when it was opened.
        witness: Witness,
    },
    /// Standard input, or what a command prints, until it ends.
    Stream(Arc<File>),
}

/// What a file is recognised by: it did not change while all of this stayed the same.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Witness {
    /// Its size.
    pub bytes: u64,
    /// Its permission bits.
    pub mode: u32,
    /// Time of modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of change.
    changed_ns: i64,
    device: u64,
    inode: u64,
}

impl Witness {
    /// Of what the kernel says about a file.
    pub fn of(meta: &Metadata) -> Self {
        let nanos =
            |secs: i64, nanos: i64| secs.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            bytes: meta.len(),
            mode: meta.mode() & 0o777,
            mtime_ns: nanos(meta.mtime(), meta.mtime_nsec()),
            changed_ns: nanos(meta.ctime(), meta.ctime_nsec()),
            device: meta.dev(),
            inode: meta.ino(),
        }
    }
}

/// The exit code for what the kernel says of a name of the user's.
fn exit_of(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        io::ErrorKind::PermissionDenied => Exit::Denied,
        _ => Exit::Other,
    }
}

/// What is said of a file that cannot be opened.
pub fn open_failure(path: &[u8], error: &io::Error) -> Failure {
    let exit = exit_of(error);
    let failure = Failure::new(exit, said(error)).doing(format!("open {}", Escaped(path)));
    match exit {
        Exit::NotFound => failure.hint("see what is here with: ls"),
        Exit::Denied => failure.hint("see who may read it with: ls -l"),
        _ => failure,
    }
}

/// What a name of the user's stands for.
pub enum Named {
    /// A file to be read.
    File(Input),
    /// A directory.
    Directory,
}

impl Named {
    /// Opens what the user named; a link that he named is followed.
    ///
    /// # Errors
    /// It is not there, neither file nor directory, or must not be read.
    #[expect(clippy::disallowed_methods, reason = "the user's own file, named by the user")]
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let raw = path.as_os_str().as_encoded_bytes();
        let fail = |error: io::Error| open_failure(raw, &error);
        let file = File::options().read(true).custom_flags(O_NONBLOCK).open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if meta.is_dir() {
            return Ok(Self::Directory);
        }
        if !meta.is_file() {
            let name = Escaped(raw);
            return Err(Failure::new(Exit::Other, format!("{name} is not a regular file"))
                .hint(format!("send what it gives with: ftc put - :NAME < {name}")));
        }
        Ok(Self::File(Input::File { file: Arc::new(file), witness: Witness::of(&meta) }))
    }
}

impl Input {
    /// Standard input.
    ///
    /// # Errors
    /// It is closed.
    pub fn stdin() -> Result<Self, Failure> {
        let own = io::stdin().as_fd().try_clone_to_owned();
        own.map(|own| Self::Stream(Arc::new(own.into())))
            .map_err(|error| Failure::new(Exit::Other, format!("read standard input: {error}")))
    }

    /// What is known about it beforehand.
    pub fn witness(&self) -> Option<&Witness> {
        match self {
            Self::File { witness, .. } => Some(witness),
            Self::Stream(_) => None,
        }
    }

    /// Fills `room` with what comes at `offset`, or of a stream with what is there by now; nothing at
    /// the end.
    ///
    /// # Errors
    /// As read(2).
    pub fn read(&self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < room.len() {
            let read = match self {
                Self::File { file, .. } => {
                    file.read_at(&mut room[filled..], offset + filled as u64)
                }
                Self::Stream(file) => (&**file).read(&mut room[filled..]),
            };
            match read {
                Ok(0) => break,
                Ok(read) => {
                    filled += read;
                    if matches!(self, Self::Stream(_)) && read < PIPE_BYTES {
                        break; // Its writer is slower than we are.
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Whether it still is what it was when it was opened.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn unchanged(&self) -> io::Result<bool> {
        match self {
            Self::File { file, witness } => Ok(Witness::of(&file.metadata()?) == *witness),
            Self::Stream(_) => Ok(true),
        }
    }
}

/// Where a get lands: a directory that the user named, and a name in it.
#[derive(Clone)]
pub struct Destination {
    /// The directory, confined like the daemon's tree: nothing a server says leads out of it.
    pub tree: Arc<Tree>,
    /// Where its files come in.
    pub inbox: Arc<Inbox<Tree>>,
    /// How the user spells it.
    directory: PathBuf,
    /// The name in it; `None` is the directory itself.
    pub name: Option<RelPath>,
}

impl Destination {
    /// A name in this directory.
    ///
    /// # Errors
    /// The directory is not there, or the name is none that could be made.
    #[expect(clippy::disallowed_methods, reason = "the user's own directory, named by the user")]
    pub fn new(
        directory: &Path,
        name: Option<&[u8]>,
        durability: Durability,
    ) -> Result<Self, Failure> {
        let directory = if directory.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            directory.to_owned()
        };
        let shown = Escaped(directory.as_os_str().as_bytes()).to_string();
        let name = name.map(creatable).transpose()?;
        // Links in what the user typed are the user's own; from here on none is followed.
        let real = directory.canonicalize().map_err(|error| no_place(&shown, &error))?;
        let umask = umask();
        let options = Options { staging: StagingPlace::Beside, umask, durability };
        let tree =
            Tree::open(&real, options).map_err(|error| no_place_as(&shown, &real, &error))?;
        let tree = Arc::new(tree);
        Ok(Self { inbox: Inbox::new(Arc::clone(&tree)), tree, directory, name })
    }

    /// What `operand` means for something that is called `name` on the server: a directory for it if it
    /// is one or ends with a slash, and otherwise its new name.
    ///
    /// # Errors
    /// As [`Destination::new`].
    pub fn of(operand: &Path, name: &[u8], durability: Durability) -> Result<Self, Failure> {
        if operand.as_os_str().as_bytes().ends_with(b"/") || is_directory(operand) {
            return Self::new(operand, Some(name), durability);
        }
        let own = operand.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        let parent = operand.parent().unwrap_or(Path::new(""));
        Self::new(parent, Some(&own), durability).map_err(|failure| {
            if !is_special(operand) {
                return failure;
            }
            let shown = Escaped(operand.as_os_str().as_bytes());
            Failure::new(Exit::Other, "it is not a regular file")
                .doing(format!("store in {shown}"))
                .hint(format!(
                    "only files are replaced here; to write into it: ftc get … - > {shown}"
                ))
        })
    }

    /// How the user would spell it, raw.
    pub fn shown(&self, name: &RelPath) -> Vec<u8> {
        self.directory.join(OsStr::from_bytes(name.raw_bytes())).into_os_string().into_vec()
    }
}

/// What is said of a directory of the user's own that nothing can be stored in.
fn no_place(shown: &str, error: &io::Error) -> Failure {
    let exit = exit_of(error);
    let failure = Failure::new(exit, said(error)).doing(format!("store in {shown}"));
    match (exit, error.kind()) {
        (Exit::NotFound, _) => failure.hint(format!("make it with: mkdir -p {shown}")),
        (Exit::Denied, _) => failure.hint(format!("see who may go there with: namei -l {shown}")),
        (_, io::ErrorKind::NotADirectory) => failure.hint("name a directory, or a name in one"),
        _ => failure,
    }
}

/// The same where the tree says why: its words are for a daemon's administrator.
fn no_place_as(shown: &str, real: &Path, error: &OpenError) -> Failure {
    match error {
        OpenError::Open { cause, .. } => no_place(shown, &(*cause).into()),
        OpenError::Unfit { .. } if access(real, AccessFlags::W_OK) == Err(Errno::EACCES) => {
            Failure::new(Exit::Denied, "you may not write there")
                .doing(format!("store in {shown}"))
                .hint(format!("see who may with: ls -ld {shown}"))
        }
        OpenError::Unfit { what, .. } => {
            Failure::new(Exit::Other, *what).doing(format!("store in {shown}"))
        }
        OpenError::NoOpenat2 { .. } => {
            Failure::new(Exit::Other, error.to_string()).doing(format!("store in {shown}"))
        }
    }
}

/// Whether the user's own name stands for a device, a pipe or a socket.
#[expect(clippy::disallowed_methods, reason = "the user's own file, named by the user")]
fn is_special(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| !meta.is_file() && !meta.is_dir())
}

/// Whether the user's own name stands for a directory.
#[expect(clippy::disallowed_methods, reason = "the user's own directory, named by the user")]
pub fn is_directory(path: &Path) -> bool {
    path.is_dir()
}

/// A name that may be made here.
///
/// # Errors
/// It breaks a rule for names.
pub fn creatable(name: &[u8]) -> Result<RelPath, Failure> {
    RelPath::parse(name).and_then(|path| path.check_creatable().map(|()| path)).map_err(|error| {
        Failure::new(Exit::Usage, error.to_string())
            .doing(format!("store {} here", Escaped(name)))
            .hint("give it another name here")
    })
}

/// The process's own umask; reading it means setting it.
fn umask() -> u32 {
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    nix::sys::stat::umask(mask);
    mask.bits()
}

/// The names in a directory of the user's own, those of directories with a slash.
///
/// # Errors
/// It cannot be read.
#[expect(clippy::disallowed_methods, reason = "the user's own directory, named by the user")]
pub fn names(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let name = |entry: std::fs::DirEntry| {
        let mut name = entry.file_name().into_vec();
        if entry.path().is_dir() {
            name.push(b'/');
        }
        name
    };
    std::fs::read_dir(path)?.map(|entry| entry.map(name)).collect()
}

/// A script of the user's own.
///
/// # Errors
/// It cannot be read.
#[expect(clippy::disallowed_methods, reason = "the user's own script, named by the user")]
pub fn script(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| open_failure(path.as_os_str().as_bytes(), &error))
}
