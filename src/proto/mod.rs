//! Floor 1: the protocol `ftd/1` as bytes in, messages out.
//!
//! Nothing here touches a socket or a clock, so the daemon, the client, the fuzzers and the tests
//! run the same code. Source: `docs/protocol.md`.

mod client;
mod frame;
mod message;
mod packed;
mod request;
mod server;

pub use client::{ClientState, Reply};
pub use frame::{FrameError, Header, Kind};
pub use message::{
    Abort, Answer, CheckInfo, ClientHello, DigestInfo, Empty, Entries, Entry, EntryType,
    ErrorMessage, FileInfo, HelloLimits, Listed, Made, Renamed, ResumeInfo, ServerHello, StatInfo,
    Stored, Trailer, VERSION, VersionRange, WirePath,
};
pub use packed::{Packer, Unpacker, unpacked_bytes};
pub use request::{PutRequest, Request, ResumeAt};
pub use server::{Event, Expect, ServerState, UPLOADS_MAX};

use thiserror::Error;

use crate::types::Foreign;

/// How a peer broke the protocol; final for the connection.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ProtocolError {
    /// The header cannot be one of ours.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The payload is not the JSON that its kind asks for.
    #[error("{kind} frame: {detail}")]
    Payload {
        /// The kind of frame.
        kind: Kind,
        /// What the JSON parser says, escaped and cut: it repeats words of the peer's.
        detail: String,
    },
    /// A frame that may not come at this point.
    #[error("{kind} frame for request {id}: {rule}")]
    OutOfOrder {
        /// The kind of frame.
        kind: Kind,
        /// Its request id.
        id: u32,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// Compressed content that is not what it should be.
    #[error("PACKED frame: {0}")]
    Packed(&'static str),
    /// No version in common.
    #[error("version {offered} is not spoken here, only {} to {}", VERSION.min, VERSION.max)]
    Version {
        /// What the peer asked for.
        offered: u32,
    },
}

/// Turns one control payload into its message. Nothing else reads what a peer sends, so that no word of a
/// peer's gets into an error as it is.
pub(crate) fn parse<'a, T: serde::Deserialize<'a>>(
    kind: Kind,
    payload: &'a [u8],
) -> Result<T, ProtocolError> {
    serde_json::from_slice(payload).map_err(|error| ProtocolError::Payload {
        kind,
        detail: Foreign(&error.to_string()).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L-02, R-14: this text goes to the client's terminal, and to the server's log.
    #[test]
    fn an_error_repeats_nothing_that_acts_and_not_much() {
        let evil = format!("\\u001b[2J\\r\u{202e}\u{9b}{}", "x".repeat(15_000));
        for json in [
            format!(r#"{{"{evil}":{{}}}}"#),
            format!(r#"{{"stat":{{"type":"{evil}","mode":0,"mtime_ns":0}}}}"#),
            format!(r#"{{"digest":{{"bytes":"{evil}"}}}}"#),
            evil,
        ] {
            let error = parse::<Answer>(Kind::Answer, json.as_bytes())
                .map_or_else(|error| error.to_string(), |answer| panic!("{answer:?} is no answer"));
            assert!(!error.contains(crate::types::is_acting), "{error:?}");
            assert!(error.len() < 1200, "{} bytes", error.len());
        }
    }
}
