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
        /// What the JSON parser says.
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

/// Turns one control payload into its message.
pub(crate) fn parse<'a, T: serde::Deserialize<'a>>(
    kind: Kind,
    payload: &'a [u8],
) -> Result<T, ProtocolError> {
    serde_json::from_slice(payload)
        .map_err(|error| ProtocolError::Payload { kind, detail: error.to_string() })
}
