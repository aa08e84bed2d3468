//! The flushes that answers wait for, all through one function.

use std::os::fd::AsFd;

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
    /// forgets what it could not write, and a second call would lie.
    ///
    /// # Errors
    /// As fsync(2) and fdatasync(2).
    pub(super) fn of(self, what: impl AsFd) -> nix::Result<()> {
        #[cfg(feature = "leave-out-flush")]
        if std::env::var("FTD_LEAVE_OUT").is_ok_and(|left_out| left_out == self.word()) {
            return Ok(());
        }
        #[cfg(test)]
        super::tests::commit::flushed(self, &nix::sys::stat::fstat(&what)?);
        match self {
            Self::Checkpoint => nix::unistd::fdatasync(what),
            Self::File | Self::Directory | Self::Ancestor => nix::unistd::fsync(what),
        }
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
