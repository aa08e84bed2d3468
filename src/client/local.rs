//! The user's own side: files that are read for a put, the directory that a get lands in.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc::O_NONBLOCK;

use super::exit::{Exit, Failure};
use crate::fsroot::{FsError, Kind, Options, Publish, Published, StagingPlace, Stat, Tree};
use crate::transfer::{Sink, Source, Staging};
use crate::types::{Durability, ErrorCode, Escaped, RelPath};

/// What is read for a put.
pub enum Input {
    /// A file that the user named; a link that the user named is followed.
    File {
        /// Open for reading.
        file: File,
        /// What it was when it was opened.
        stat: Stat,
        /// Time of change, as a second witness.
        changed: (i64, i64),
    },
    /// Standard input, until it ends.
    Stream,
}

impl Input {
    /// Opens a file to be sent.
    ///
    /// # Errors
    /// It is not there, not a regular file, or must not be read.
    #[expect(clippy::disallowed_methods, reason = "the user's own file, named by the user")]
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let name = Escaped(path.as_os_str().as_encoded_bytes()).to_string();
        let fail = |error: io::Error| {
            let exit = match error.kind() {
                io::ErrorKind::NotFound => Exit::NotFound,
                io::ErrorKind::PermissionDenied => Exit::Denied,
                _ => Exit::Other,
            };
            Failure::new(exit, error.to_string()).doing(format!("open {name}"))
        };
        let file = File::options().read(true).custom_flags(O_NONBLOCK).open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if meta.is_dir() {
            return Err(Failure::new(Exit::Other, format!("{name} is a directory"))
                .hint("name the files in it"));
        }
        if !meta.is_file() {
            return Err(Failure::new(Exit::Other, format!("{name} is not a regular file"))
                .hint(format!("send what it gives with: ftc put - :NAME < {name}")));
        }
        let stat = Stat {
            kind: Kind::File,
            bytes: meta.len(),
            mtime_ns: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
            mode: meta.permissions().mode() & 0o777,
            digest: None,
        };
        Ok(Self::File { file, stat, changed: (meta.ctime(), meta.ctime_nsec()) })
    }

    /// What is known about it beforehand.
    pub fn known(&self) -> Option<&Stat> {
        match self {
            Self::File { stat, .. } => Some(stat),
            Self::Stream => None,
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn read_error(error: &io::Error) -> FsError {
    FsError::new(ErrorCode::Io, "read", Some(errno(error)))
}

impl Source for Input {
    fn stat(&self) -> Option<&Stat> {
        self.known()
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, FsError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let room = &mut buffer[filled..];
            let read = match self {
                Self::File { file, .. } => file.read_at(room, offset + filled as u64),
                Self::Stream => io::stdin().lock().read(room),
            };
            match read {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(&error)),
            }
        }
        Ok(filled)
    }

    fn unchanged(&self) -> Result<bool, FsError> {
        let Self::File { file, stat, changed } = self else { return Ok(true) };
        let meta = file.metadata().map_err(|error| read_error(&error))?;
        let mtime_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
        Ok((meta.len(), mtime_ns, (meta.ctime(), meta.ctime_nsec()))
            == (stat.bytes, stat.mtime_ns, *changed))
    }
}

/// Where a get lands: a directory that the user named, and a name in it.
pub struct Destination {
    /// The directory, confined like the daemon's tree: nothing a server says leads out of it.
    pub tree: Arc<Tree>,
    /// The name.
    pub name: RelPath,
    /// How the user would spell it, escaped.
    pub shown: String,
}

impl Destination {
    /// Finds out what `operand` means for a file that is called `name` on the server.
    ///
    /// # Errors
    /// The directory is not there, or the name is none that could be made.
    #[expect(clippy::disallowed_methods, reason = "the user's own directory, named by the user")]
    pub fn new(operand: &Path, name: &[u8]) -> Result<Self, Failure> {
        use std::os::unix::ffi::OsStrExt as _;
        let raw = operand.as_os_str().as_bytes();
        let is_directory = raw.ends_with(b"/") || operand.is_dir();
        let (directory, name) = if is_directory {
            (operand.to_owned(), name.to_vec())
        } else {
            let name = operand.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
            (operand.parent().map(Path::to_owned).unwrap_or_default(), name)
        };
        let directory =
            if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
        let shown =
            Escaped(directory.join(std::ffi::OsStr::from_bytes(&name)).as_os_str().as_bytes())
                .to_string();
        let fail = |exit, text: String| Failure::new(exit, text).doing(format!("store {shown}"));
        let name =
            RelPath::parse(&name).and_then(|path| path.check_creatable().map(|()| path)).map_err(
                |error| fail(Exit::Usage, error.to_string()).hint("give it another name here"),
            )?;
        // Links in what the user typed are the user's own; from here on none is followed.
        let directory = directory.canonicalize().map_err(|error| {
            let exit =
                if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Other };
            fail(exit, error.to_string())
        })?;
        let umask = umask();
        let options =
            Options { staging: StagingPlace::Beside, umask, durability: Durability::Full };
        let tree = Tree::open(&directory, options)
            .map_err(|error| fail(Exit::Other, error.to_string()))?;
        Ok(Self { tree: Arc::new(tree), name, shown })
    }
}

/// The process's own umask; reading it means setting it.
fn umask() -> u32 {
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    nix::sys::stat::umask(mask);
    mask.bits()
}

/// Standard output as a place to store into: written while it comes, verified at the end.
pub struct Stdout;

/// The one file that standard output can take.
pub struct StdoutFile;

impl Sink for Stdout {
    type Staging = StdoutFile;

    fn stage(&self, _target: &RelPath) -> Result<StdoutFile, FsError> {
        Ok(StdoutFile)
    }

    fn stat(&self, _path: Option<&RelPath>) -> Result<Stat, FsError> {
        Err(FsError::new(ErrorCode::NotFound, "standard output has no names", None))
    }
}

impl Staging for StdoutFile {
    fn reserve(&mut self, _bytes: u64) -> Result<(), FsError> {
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        let fail = |error: io::Error| {
            FsError::new(ErrorCode::Io, "write to standard output", Some(errno(&error)))
        };
        io::stdout().lock().write_all(bytes).map_err(fail)
    }

    fn commit(self, _target: &RelPath, publish: &Publish) -> Result<Published, FsError> {
        let fail = |error: io::Error| {
            FsError::new(ErrorCode::Io, "write to standard output", Some(errno(&error)))
        };
        io::stdout().lock().flush().map_err(fail)?;
        let digest = Some(publish.digest);
        let stat =
            Stat { kind: Kind::File, bytes: publish.bytes, mtime_ns: 0, mode: 0o600, digest };
        Ok(Published { replaced: false, stat })
    }
}
