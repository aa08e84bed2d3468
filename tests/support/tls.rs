//! A peer that speaks TLS as it likes, from a loopback address of its own choice.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;

use ftd::identity::{PrivateKey, Signer, client_config, read_key_file};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::PATIENCE;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Connects from a loopback address of one's own choice.
pub fn connect_from(source: [u8; 4], daemon: &str) -> Fallible<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((source, 0))))?;
    let to: SocketAddr = daemon.parse()?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(fd))
}

/// TLS with the key in this file, to whatever server.
pub fn config(key: &Path) -> Fallible<Arc<ClientConfig>> {
    let key = PrivateKey::parse_openssh(&read_key_file(key)?, None)?;
    Ok(client_config(&Signer::from_private(key), Arc::new(|_| true))?)
}

/// Completes a handshake; `early` goes out together with its end, before the server has judged the key.
pub fn handshake(config: &Arc<ClientConfig>, mut tcp: TcpStream, early: &[u8]) -> Fallible<Tls> {
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    let name = ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into());
    let mut tls = ClientConnection::new(Arc::clone(config), name)?;
    tls.writer().write_all(early)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    Ok(StreamOwned::new(tls, tcp))
}
