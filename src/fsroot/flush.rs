//! The flushes that answers wait for, all through one function.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;

/// The flushes that have failed since the start: what the disk has lost is not known, and a later flush that
/// succeeds says nothing about it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FailedFlushes {
    /// How many.
    pub count: u64,
    /// When the last one was, and why.
    pub last: Option<(SystemTime, Errno)>,
}

impl fmt::Display for FailedFlushes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.count == 1 { "" } else { "es" };
        write!(f, "{} failed flush{plural}", self.count)?;
        let Some((when, cause)) = self.last else { return Ok(()) };
        let when = humantime::format_rfc3339_seconds(when);
        write!(f, ", the last at {when}: {}", cause.desc().to_lowercase())
    }
}

/// Counts the flushes of one tree that fail.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<FailedFlushes>);

impl Health {
    /// Takes note of what came of a flush, and passes it on.
    pub(super) fn heed(&self, flushed: nix::Result<()>) -> nix::Result<()> {
        flushed.inspect_err(|cause| {
            let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            failed.count += 1;
            failed.last = Some((SystemTime::now(), *cause));
        })
    }

    pub(super) fn failed(&self) -> FailedFlushes {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a flush makes durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Flush {
    /// The content of a file, before the file gets its name.
    File,
    /// A directory in which a name was changed.
    Directory,
    /// A directory in which another one was made.
    Ancestor,
    /// What an upload has so far, before its checkpoint says so.
    Checkpoint,
}

impl Flush {
    /// Flushes a file or a directory; never to be called again after a failure, because the kernel
    /// forgets what it could not write, and a second call would lie. A failure is counted.
    ///
    /// # Errors
    /// As fsync(2) and fdatasync(2).
    pub(super) fn of(self, health: &Health, what: impl AsFd) -> nix::Result<()> {
        #[cfg(feature = "leave-out-flush")]
        if std::env::var("FTD_LEAVE_OUT").is_ok_and(|left_out| left_out == self.word()) {
            return Ok(());
        }
        #[cfg(test)]
        super::tests::commit::flushed(self, &nix::sys::stat::fstat(&what)?);
        health.heed(match self {
            Self::Checkpoint => nix::unistd::fdatasync(what),
            Self::File | Self::Directory | Self::Ancestor => nix::unistd::fsync(what),
        })
    }

    /// What `FTD_LEAVE_OUT` calls it.
    #[cfg(feature = "leave-out-flush")]
    fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Ancestor => "ancestor",
            Self::Checkpoint => "checkpoint",
        }
    }
}
