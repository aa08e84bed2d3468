//! Floor 2: bytes to and from a peer, over TLS or a Unix socket.
//!
//! A [`Connection`] is split into a [`FrameReader`] and a [`FrameWriter`], which one task drives side by
//! side: neither direction ever waits for the other.

mod frames;
mod packed;
mod progress;
mod socket;
#[cfg(test)]
mod tests;
mod tls;

pub use frames::{FrameReader, FrameWriter, Next, split};
pub use progress::Progress;
pub use socket::{Socket, Stream};
pub use tls::Connection;

use std::io;

use thiserror::Error;

use crate::proto::ProtocolError;

/// Why a connection ended.
#[derive(Debug, Error)]
pub enum WireError {
    /// The network or the socket failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The peer's TLS is not acceptable, or ours not to it.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The peer sends frames that no protocol of ours allows.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The connection ended without a farewell, or in the middle of a frame.
    #[error("the connection was cut")]
    Cut,
    /// A deadline passed.
    #[error("{0}: the deadline has passed")]
    Timeout(&'static str),
}

impl WireError {
    fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => Self::Cut,
            _ => Self::Io { doing, source },
        }
    }
}
