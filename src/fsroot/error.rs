//! How the tree fails.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use thiserror::Error;

use crate::types::ErrorCode;

/// The end of the year 9999, the last that a time is printed of.
const SECONDS_MAX: u64 = 253_402_300_799;

/// What was being done, and why it failed.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub struct FsError {
    code: ErrorCode,
    doing: &'static str,
    cause: Option<Errno>,
    /// Seconds since 1970 until when a name is kept.
    kept_until: Option<u64>,
    /// Used and allowed, where a quota is in the way.
    amounts: Option<(u64, u64)>,
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(until) = self.kept_until {
            let until = UNIX_EPOCH + Duration::from_secs(until.min(SECONDS_MAX));
            let until = humantime::format_rfc3339_seconds(until);
            return write!(f, "{}: what is there is kept until {until}", self.doing);
        }
        match (self.cause, self.amounts) {
            (Some(cause), _) => write!(f, "{}: {}", self.doing, cause.desc().to_lowercase()),
            (None, Some((used, allowed))) => {
                write!(f, "{}: {used} of {allowed} are used or on their way", self.doing)
            }
            (None, None) => f.write_str(self.doing),
        }
    }
}

impl FsError {
    /// An error with its code given; for what the kernel does not say, and for stores in tests.
    pub fn new(code: ErrorCode, doing: &'static str, cause: Option<Errno>) -> Self {
        Self { code, doing, cause, kept_until: None, amounts: None }
    }

    /// A fault of our own.
    pub(super) const fn internal(doing: &'static str) -> Self {
        let code = ErrorCode::Internal;
        Self { code, doing, cause: None, kept_until: None, amounts: None }
    }

    /// A fault of our own in the middle of a commit.
    pub fn unknown_after_a_panic() -> Self {
        Self::internal("commit the file: an internal error, and nobody knows how far it came")
            .after_the_rename()
    }

    /// A refusal because what is there was stored not long enough ago.
    pub(super) fn kept(doing: &'static str, until: u64) -> Self {
        Self { kept_until: Some(until), ..Self::new(ErrorCode::Denied, doing, None) }
    }

    /// The same, with what is used and allowed.
    pub(super) fn amounts(self, used: u64, allowed: u64) -> Self {
        Self { amounts: Some((used, allowed)), ..self }
    }

    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The same failure once the new name is visible: nobody can say which side of a crash it is on.
    pub(super) fn after_the_rename(self) -> Self {
        Self { code: ErrorCode::UnknownOutcome, ..self }
    }

    /// Turns what the kernel says into an error that knows what was being done.
    pub(super) fn at(doing: &'static str) -> impl Fn(Errno) -> Self {
        move |cause| Self::new(code_of(cause), doing, Some(cause))
    }
}

fn code_of(cause: Errno) -> ErrorCode {
    match cause {
        Errno::ENOSPC => ErrorCode::NoSpace,
        Errno::EDQUOT => ErrorCode::Quota,
        Errno::EROFS => ErrorCode::ReadOnly,
        // EXDEV: the path crosses a mount point, or tried to leave the tree.
        Errno::EACCES | Errno::EPERM | Errno::EXDEV => ErrorCode::Denied,
        Errno::ENOENT => ErrorCode::NotFound,
        Errno::EEXIST => ErrorCode::Exists,
        Errno::ELOOP | Errno::ENOTDIR | Errno::EISDIR | Errno::ENXIO => ErrorCode::WrongType,
        Errno::ENOTEMPTY => ErrorCode::NotEmpty,
        Errno::EFBIG => ErrorCode::TooLarge,
        Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN | Errno::EBUSY => ErrorCode::Busy,
        Errno::ENAMETOOLONG | Errno::EILSEQ => ErrorCode::BadName,
        _ => ErrorCode::Io,
    }
}
