//! How a transfer fails.

use thiserror::Error;

use crate::access::Refused;
use crate::fsroot::FsError;
use crate::types::{ErrorCode, Sha256Digest};

/// Why a transfer did not happen; the old file, if there was one, is as it was.
#[derive(Clone, Debug, Error)]
pub enum TransferError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] FsError),
    /// What arrived is not what was sent.
    #[error("the content's SHA-256 is {computed}, the sender announced {announced}")]
    Digest {
        /// Over what was written.
        computed: Sha256Digest,
        /// What the trailer says.
        announced: Sha256Digest,
    },
    /// What arrived is not as long as what was sent.
    #[error("{received} bytes arrived, the sender announced {announced}")]
    Length {
        /// Bytes that were written.
        received: u64,
        /// What the trailer says.
        announced: u64,
    },
    /// What is stored is no longer what was stored.
    #[error("the content's SHA-256 is {computed}, and {kept} was kept with it when it was stored")]
    Decayed {
        /// Over what was read.
        computed: Sha256Digest,
        /// What is kept with the file.
        kept: Sha256Digest,
    },
    /// Larger than the largest file allowed.
    #[error("the file is larger than {limit} bytes, the largest that is allowed here")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The file changed while it was read.
    #[error("the file changed while it was being read")]
    Changed,
    /// As many files are open for these as may be.
    #[error("as many {0} are under way as the server has open files for; try again later")]
    Crowded(&'static str),
    /// The other side gave up; nothing is to be reported to it.
    #[error("given up")]
    Aborted,
    /// A file may only be replaced by this user, and there is none.
    #[error("not allowed: this needs the right \"create\"")]
    ReplaceOnly,
    /// What the gate would have said: told in place of an error that would show what is there.
    #[error(transparent)]
    Refused(Refused),
    /// A fault of our own ended this request.
    #[error("an internal error ended this request")]
    Panicked,
}

impl TransferError {
    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Store(error) => error.code(),
            Self::Digest { .. } | Self::Length { .. } => ErrorCode::BadDigest,
            Self::Decayed { .. } => ErrorCode::Corrupt,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Changed => ErrorCode::Changed,
            Self::Crowded(_) => ErrorCode::Busy,
            Self::ReplaceOnly | Self::Refused(_) => ErrorCode::Denied,
            Self::Aborted | Self::Panicked => ErrorCode::Internal,
        }
    }
}
