//! Standard output as a place to store into.
#![expect(clippy::disallowed_methods, reason = "a spool is a file of our own without a name")]

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::libc::{O_CLOEXEC, O_TMPFILE};

use crate::fsroot::{FsError, Kind, Publish, Published, Stat};
use crate::transfer::{Sink, Staging};
use crate::types::{ErrorCode, RelPath};

/// Written while it comes, verified at the end: who reads it learns from the exit code whether it was good.
pub struct Stdout;

/// Kept in a file without a name, and written when all of it was verified.
pub struct Spool;

/// The one file that standard output can take.
pub struct Stream;

impl Sink for Stdout {
    type Staging = Stream;

    fn stage(&self, _target: &RelPath) -> Result<Stream, FsError> {
        Ok(Stream)
    }

    fn stat(&self, _path: Option<&RelPath>) -> Result<Stat, FsError> {
        Err(no_names())
    }
}

impl Sink for Spool {
    type Staging = File;

    fn stage(&self, _target: &RelPath) -> Result<File, FsError> {
        let fail = |error: io::Error| {
            FsError::new(ErrorCode::Io, "make a spool file in TMPDIR", Some(errno(&error)))
        };
        File::options()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(O_TMPFILE | O_CLOEXEC)
            .open(std::env::temp_dir())
            .map_err(fail)
    }

    fn stat(&self, _path: Option<&RelPath>) -> Result<Stat, FsError> {
        Err(no_names())
    }
}

impl Staging for Stream {
    fn reserve(&mut self, _bytes: u64) -> Result<(), FsError> {
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        io::stdout().lock().write_all(bytes).map_err(|error| gone(&error))
    }

    fn commit(self, _target: &RelPath, publish: &Publish) -> Result<Published, FsError> {
        finish(publish)
    }
}

impl Staging for File {
    fn reserve(&mut self, _bytes: u64) -> Result<(), FsError> {
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        io::Write::write_all(self, bytes).map_err(|error| {
            FsError::new(ErrorCode::Io, "write the spool file", Some(errno(&error)))
        })
    }

    fn commit(mut self, _target: &RelPath, publish: &Publish) -> Result<Published, FsError> {
        self.rewind()
            .and_then(|()| io::copy(&mut self, &mut io::stdout().lock()))
            .map_err(|error| gone(&error))?;
        finish(publish)
    }
}

fn finish(publish: &Publish) -> Result<Published, FsError> {
    io::stdout().lock().flush().map_err(|error| gone(&error))?;
    let digest = Some(publish.digest);
    let stat = Stat { kind: Kind::File, bytes: publish.bytes, mtime_ns: 0, mode: 0o600, digest };
    Ok(Published { replaced: false, stat })
}

fn no_names() -> FsError {
    FsError::new(ErrorCode::NotFound, "standard output has no names", None)
}

/// A reader that has gone, like `head`, is no failure and ends the program quietly.
fn gone(error: &io::Error) -> FsError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    FsError::new(ErrorCode::Io, "write to standard output", Some(errno(error)))
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
