//! The typed errors of the protocol.

use std::fmt;
use std::str::FromStr;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)+) => {
        /// Why a request failed, as both sides name it.
        ///
        /// Source: `docs/protocol.md`, "Errors".
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum ErrorCode { $($(#[$doc])* $variant,)+ }

        impl ErrorCode {
            /// Every code, in the order of the specification.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

codes! {
    /// The path breaks a rule for names.
    BadName = "BAD_NAME",
    /// Not allowed; the same answer whether or not the path exists.
    Denied = "DENIED",
    /// There is no such file or directory.
    NotFound = "NOT_FOUND",
    /// The name is taken and may not be replaced.
    Exists = "EXISTS",
    /// A directory where a file is expected, the reverse, or neither of the two.
    WrongType = "WRONG_TYPE",
    /// The directory is not empty.
    NotEmpty = "NOT_EMPTY",
    /// Larger than the largest file allowed.
    TooLarge = "TOO_LARGE",
    /// The file system is full.
    NoSpace = "NO_SPACE",
    /// The user's quota is used up.
    Quota = "QUOTA",
    /// The file system is mounted read-only.
    ReadOnly = "READ_ONLY",
    /// The storage reported an error; nothing was acknowledged.
    Io = "IO",
    /// The change may or may not survive a crash: look before repeating it.
    UnknownOutcome = "UNKNOWN_OUTCOME",
    /// Length or digest differ from what the sender announced.
    BadDigest = "BAD_DIGEST",
    /// What is stored is no longer what was stored.
    Corrupt = "CORRUPT",
    /// Taken by somebody else at the moment; try again.
    Busy = "BUSY",
    /// One of the server's limits is reached.
    Limit = "LIMIT",
    /// The file or directory changed under the operation.
    Changed = "CHANGED",
    /// A deadline passed.
    Timeout = "TIMEOUT",
    /// The server is stopping.
    Shutdown = "SHUTDOWN",
    /// The peer broke the protocol.
    Protocol = "PROTOCOL",
    /// The key is not known, or may not be used.
    Auth = "AUTH",
    /// A fault of the server's own.
    Internal = "INTERNAL",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ErrorCode {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|code| code.name() == word).ok_or(())
    }
}
