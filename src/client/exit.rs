//! Exit codes, and failures that say what, why, and what to do next.

use std::fmt;
use std::io::{self, Write as _};

use crate::transfer::TransferError;
pub use crate::types::said;
use crate::types::{ErrorCode, Foreign};
use crate::wire::WireError;

/// How `ftc` ends; scripts depend on the numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Anything that has no number of its own.
    Other = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// No connection, or it timed out.
    Connect = 3,
    /// The key or the host key was refused.
    Auth = 4,
    /// Not allowed.
    Denied = 5,
    /// There is no such file.
    NotFound = 6,
    /// The name is taken.
    Exists = 7,
    /// No space, quota or size limit.
    NoSpace = 8,
    /// What arrived is not what was sent.
    Integrity = 9,
    /// Some of many failed.
    Partial = 10,
    /// Interrupted.
    Interrupted = 11,
    /// The two sides do not understand each other.
    Protocol = 12,
}

impl Exit {
    /// The word in events for what the protocol has no word for.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Other => "FAILED",
            Self::Usage => "USAGE",
            Self::Connect => "CONNECTION",
            Self::Auth => "AUTH",
            Self::Denied => "DENIED",
            Self::NotFound => "NOT_FOUND",
            Self::Exists => "EXISTS",
            Self::NoSpace => "NO_SPACE",
            Self::Integrity => "BAD_DIGEST",
            Self::Partial => "PARTIAL",
            Self::Interrupted => "INTERRUPTED",
            Self::Protocol => "PROTOCOL",
        }
    }

    /// The exit code for a code of the protocol.
    ///
    /// *Source*: `docs/protocol.md`, "Errors".
    pub fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::BadName => Self::Usage,
            ErrorCode::Denied => Self::Denied,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::Exists => Self::Exists,
            ErrorCode::TooLarge | ErrorCode::NoSpace | ErrorCode::Quota => Self::NoSpace,
            ErrorCode::BadDigest | ErrorCode::Corrupt => Self::Integrity,
            ErrorCode::Timeout | ErrorCode::Shutdown => Self::Connect,
            ErrorCode::Auth => Self::Auth,
            ErrorCode::Protocol => Self::Protocol,
            ErrorCode::WrongType
            | ErrorCode::NotEmpty
            | ErrorCode::ReadOnly
            | ErrorCode::Io
            | ErrorCode::UnknownOutcome
            | ErrorCode::Busy
            | ErrorCode::Limit
            | ErrorCode::Changed
            | ErrorCode::Internal => Self::Other,
        }
    }
}

/// Something that went wrong, for a person.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How the program ends if this is all that happened.
    pub exit: Exit,
    /// What the server called it, if it was the server's word.
    pub code: Option<ErrorCode>,
    /// What was being done, to what, and why it failed; one line.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Whether the connection ended, and nobody said why.
    pub is_cut: bool,
}

impl Failure {
    /// A failure without advice.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, code: None, message: message.into(), hint: None, is_cut: false }
    }

    /// A name that cannot be, before anybody is asked.
    pub fn of_name(error: impl fmt::Display) -> Self {
        Self::of_server(ErrorCode::BadName, &error.to_string())
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says, of what was lost under way and is kept, that it goes on.
    #[must_use]
    pub fn goes_on(self) -> Self {
        if self.is_lost() { self.hint("the same command goes on where it stopped") } else { self }
    }

    /// Says what was being done, in front of why it failed.
    #[must_use]
    pub fn doing(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Whether the connection was lost rather than the request refused: the same again may succeed.
    pub fn is_lost(&self) -> bool {
        self.exit == Exit::Connect
    }

    /// The word for it in events: the protocol's, or one for the exit code.
    pub fn word(&self) -> &'static str {
        self.code.map_or_else(|| self.exit.word(), ErrorCode::name)
    }

    /// What the server answered; its text is foreign.
    pub fn of_server(code: ErrorCode, text: &str) -> Self {
        let mut failure = Self::new(Exit::of(code), format!("{} ({code})", Foreign(text)));
        failure.code = Some(code);
        match remedy(code) {
            Some(remedy) => failure.hint(remedy),
            None => failure,
        }
    }
}

/// What to do about what a server answered.
fn remedy(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::WrongType => {
            "look what it is with: ftc stat; into a directory goes what ends with '/'"
        }
        ErrorCode::Denied => {
            "ftc -v says who the server takes you for; rights are the administrator's to give"
        }
        ErrorCode::NotFound => "see what is there with: ftc ls",
        ErrorCode::Exists => {
            "the name is taken: choose another, or leave --no-clobber away if you may replace it"
        }
        ErrorCode::NotEmpty => "remove it and all that is in it with: ftc rm -r",
        ErrorCode::TooLarge => "the limit is the administrator's: max-file-size in ftd.toml",
        ErrorCode::NoSpace => "the server's disk is full: tell the administrator",
        ErrorCode::Quota => {
            "make room with: ftc rm, or ask the administrator for more; interrupted uploads count until they are \
             finished or expire"
        }
        ErrorCode::ReadOnly => {
            "the server's disk takes no changes at the moment: tell the administrator"
        }
        ErrorCode::Io => {
            "the server's disk is at fault, and its log says more: tell the administrator"
        }
        ErrorCode::UnknownOutcome => "look with: ftc stat, then do it again",
        ErrorCode::BadDigest => {
            "it was changed on its way or in memory: try again, and distrust the machine if it happens again"
        }
        ErrorCode::Corrupt => {
            "the server's disk has lost it: put it again from a good copy, and tell the administrator"
        }
        ErrorCode::Busy | ErrorCode::Limit | ErrorCode::Shutdown => "try again later",
        ErrorCode::Changed => "try again when nobody writes to it",
        ErrorCode::Timeout => "the network or one of the two sides is too slow: try again",
        ErrorCode::Protocol => {
            "one side is newer than the other: ftc --version, and ftd --version there"
        }
        ErrorCode::Internal => "a fault of the server's: its log says more",
        ErrorCode::BadName => "choose another name",
        ErrorCode::Auth => return None,
    })
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        let exit = match &error {
            WireError::Io { .. } | WireError::Cut | WireError::Timeout(_) => Exit::Connect,
            WireError::Tls(_) | WireError::Protocol(_) => Exit::Protocol,
        };
        let is_cut = matches!(error, WireError::Cut);
        Self { is_cut, ..Self::new(exit, error.to_string()) }
    }
}

impl From<TransferError> for Failure {
    fn from(error: TransferError) -> Self {
        let mut failure = Self::new(Exit::of(error.code()), error.to_string());
        failure.code = Some(error.code());
        failure
    }
}

/// Prints a failure on stderr: the message, then the hint on a line of its own.
pub fn report(failure: &Failure) {
    tell(format_args!("ftc: {}", failure.message));
    if let Some(hint) = &failure.hint {
        tell(format_args!("hint: {hint}"));
    }
}

/// Prints a line on stderr. Nobody may be there to read it; that changes nothing about what was done.
pub fn tell(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the document and the code give every error the same exit code.
    #[test]
    fn the_document_names_the_exit_code_of_every_error() {
        let document = include_str!("../../docs/protocol.md");
        for code in ErrorCode::ALL {
            let row = document.lines().find(|line| line.starts_with(&format!("| `{code}` |")));
            let documented = row.and_then(|row| row.split('|').nth(3)).map(str::trim);
            assert_eq!(documented, Some((Exit::of(*code) as u8).to_string().as_str()), "{code}");
        }
    }
}
