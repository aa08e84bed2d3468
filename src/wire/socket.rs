//! The kinds of stream that carry a connection.

use std::fmt::Debug;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpStream, UnixStream};

use super::WireError;

/// A connected stream socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP, which carries TLS.
    Tcp(TcpStream),
    /// A Unix socket, which carries frames as they are.
    Unix(UnixStream),
    /// A stream that is none of the kernel's: a simulated network.
    Other(Box<dyn Stream>),
}

/// What a connection needs of a stream, as the kernel's sockets have it.
pub trait Stream: Debug + Send + Sync {
    /// Whether [`Stream::try_read`] is worth a try; one task waits at a time.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Whether [`Stream::try_write`] is worth a try; one task waits at a time.
    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Takes bytes that are there; `WouldBlock` when none are, 0 at the end.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Gives bytes as far as there is room; `WouldBlock` when there is none.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// How long sent data may stay unacknowledged before the kernel gives the peer up.
const USER_TIMEOUT: Duration = Duration::from_mins(1);
/// When the kernel starts to ask a silent peer, how often, and how many times.
const KEEPALIVE: (u32, u32, u32) = (30, 10, 3);

impl Socket {
    /// A TCP stream with the options that a file transfer wants: no delay for small frames, and a
    /// peer that vanished is noticed within about a minute.
    ///
    /// *Source*: tcp(7), `TCP_USER_TIMEOUT`, `TCP_KEEPIDLE`, `TCP_NODELAY`.
    pub fn tcp(stream: TcpStream) -> Result<Self, WireError> {
        let set = || -> nix::Result<()> {
            let millis = u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
            setsockopt(&stream, sockopt::TcpUserTimeout, &millis)?;
            setsockopt(&stream, sockopt::KeepAlive, &true)?;
            setsockopt(&stream, sockopt::TcpKeepIdle, &KEEPALIVE.0)?;
            setsockopt(&stream, sockopt::TcpKeepInterval, &KEEPALIVE.1)?;
            setsockopt(&stream, sockopt::TcpKeepCount, &KEEPALIVE.2)
        };
        set().map_err(io::Error::from).map_err(WireError::io("set socket options"))?;
        stream.set_nodelay(true).map_err(WireError::io("set socket options"))?;
        Ok(Self::Tcp(stream))
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
            Self::Other(stream) => poll_fn(|context| stream.poll_readable(context)).await,
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
            Self::Other(stream) => poll_fn(|context| stream.poll_writable(context)).await,
        }
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
            Self::Other(stream) => stream.try_read(buffer),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Other(stream) => stream.try_write(bytes),
        }
    }

    /// Writes at least one byte, waiting for room.
    pub(super) async fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}
