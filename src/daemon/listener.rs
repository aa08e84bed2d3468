//! Listening sockets: bound before the sandbox, served behind it.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nix::libc::{EAFNOSUPPORT, EROFS};
use nix::sys::socket::{self, Backlog};
use rustls::{AlertDescription, ServerConfig};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::door::{Door, Visitor, leaves_some, offence};
use super::guard::alone;
use super::journal::kind;
use super::logging::Limiter;
use super::server::{Phase, Server};
use super::session;
use super::users::Peer;
use super::watchdog::Pulse;
use crate::config::Listen;
use crate::identity::peer_key;
use crate::transfer::Store;
use crate::types::ErrorCode;
use crate::wire::{Connection, Socket, WireError};

/// Connections that wait for their accept, as far as the kernel allows (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// How long to wait after an accept that failed, or was in vain: without descriptors the next would be, too.
const BACK_OFF: Duration = Duration::from_millis(125);

/// A socket that is bound and listens, not yet served.
pub(super) enum Bound {
    Tcp(std::net::TcpListener, SocketAddr),
    Unix(StdUnixListener, String),
}

/// Why a start ends here.
#[derive(Debug, Error)]
pub(super) enum ListenError {
    #[error("listen on {address}: {source}{}", hint(source))]
    Bind { address: String, source: io::Error },
    #[error("listen on unix:{path}: another process serves it")]
    Served { path: String },
    #[error("listen on unix:{path}: something else stands there; remove it or choose another path")]
    Occupied { path: String },
}

fn hint(error: &io::Error) -> &'static str {
    if matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EROFS)) {
        return "; in its unit ftd opens no sockets and gets them from ftd.socket, which did not pass this one: \
                if systemctl restart ftd does not help, journalctl -b -g ftd.socket tells why";
    }
    match error.kind() {
        io::ErrorKind::AddrInUse => "; find the other program with: ss -ltnp",
        io::ErrorKind::AddrNotAvailable => "; this machine does not have the address",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, a socket its directory"
        }
        io::ErrorKind::NotFound => "; make its directory, and give it to ftd's account",
        _ => "",
    }
}

impl Bound {
    /// Binds one address of the configuration.
    pub(super) fn bind(listen: &Listen) -> Result<Self, ListenError> {
        match listen {
            Listen::Tcp(address) => {
                let fail = |source| ListenError::Bind { address: address.to_string(), source };
                let listener = std::net::TcpListener::bind(address).map_err(fail)?;
                // The standard library asks for room for 128, which a flood fills between two accepts;
                // whoever finds it full waits for a second.
                Backlog::new(BACKLOG)
                    .and_then(|backlog| socket::listen(&listener, backlog))
                    .map_err(|error| fail(error.into()))?;
                listener.set_nonblocking(true).map_err(fail)?;
                let bound = listener.local_addr().map_err(fail)?;
                Ok(Self::Tcp(listener, bound))
            }
            Listen::Unix(path) => bind_unix(path),
        }
    }

    /// The address as a client may spell it.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Tcp(_, address) => address.to_string(),
            Self::Unix(_, path) => format!("unix:{path}"),
        }
    }
}

/// Binds a Unix socket. A socket that nobody serves any more, left by a process that was killed,
/// makes room; anything else that stands there stays.
fn bind_unix(path: &Path) -> Result<Bound, ListenError> {
    let name = path.display().to_string();
    let fail = |source| ListenError::Bind { address: format!("unix:{name}"), source };
    let mut listener = StdUnixListener::bind(path);
    if listener.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
        match StdUnixStream::connect(path) {
            Ok(_) => return Err(ListenError::Served { path: name }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
                remove_stale_socket(path).map_err(fail)?;
                listener = StdUnixListener::bind(path);
            }
            Err(_) => return Err(ListenError::Occupied { path: name }),
        }
    }
    let listener = listener.map_err(fail)?;
    // Everybody may knock: the kernel says who it is, and the configuration who may come in.
    open_to_all(path).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok(Bound::Unix(listener, name))
}

#[expect(clippy::disallowed_methods, reason = "the socket's own path, before anything is served")]
pub(super) fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::symlink_metadata(path).is_ok_and(|stat| stat.file_type().is_socket())
}

#[expect(clippy::disallowed_methods, reason = "the socket's own path, before anything is served")]
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
}

#[expect(clippy::disallowed_methods, reason = "the socket's own path, before anything is served")]
fn open_to_all(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

/// What an accept loop needs besides the server.
#[derive(Clone)]
pub(super) struct Gate {
    tls: Arc<ServerConfig>,
    door: Arc<Door>,
    noise: Arc<Limiter>,
}

impl Gate {
    pub(super) fn new(tls: Arc<ServerConfig>) -> Self {
        Self { tls, door: Arc::default(), noise: Arc::default() }
    }

    fn complain(&self, address: &str, what: &dyn std::fmt::Display) {
        if let Some(suppressed) = self.noise.admit() {
            tracing::info!(name: kind::TURNED_AWAY, peer = address, suppressed, "connection refused: {what}");
        }
    }
}

/// Accepts on one socket until the daemon drains. Must run inside the runtime.
pub(super) async fn serve<S: Store>(
    bound: Bound,
    gate: Gate,
    server: Server<S>,
    pulse: Pulse,
) -> io::Result<()> {
    let mut phase = server.phase.clone();
    let accept = async {
        match bound {
            Bound::Tcp(listener, _) => {
                let listener = TcpListener::from_std(listener)?;
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) if !leaves_some(&stream) => keep_out(&gate, stream).await,
                        Ok((stream, from)) => {
                            let live = Arc::clone(&server.live.borrow());
                            let limits = &live.settings.limits;
                            match gate.door.knock(from.to_string(), from.ip(), limits) {
                                Ok(visitor) => {
                                    admit(&gate, &server, Accepted::Tcp(stream), visitor);
                                    // Who has left meanwhile gives the descriptor back before the next
                                    // one takes one.
                                    yield_now().await;
                                }
                                Err((address, left)) => gate.complain(
                                    &address,
                                    &format_args!("penalised for {} s more", left.as_secs()),
                                ),
                            }
                        }
                        Err(error) => back_off(&gate, &error).await,
                    }
                }
            }
            Bound::Unix(listener, _) => {
                let listener = UnixListener::from_std(listener)?;
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) if !leaves_some(&stream) => keep_out(&gate, stream).await,
                        Ok((stream, _)) => {
                            let visitor = gate.door.knock_locally();
                            admit(&gate, &server, Accepted::Unix(stream), visitor);
                            yield_now().await;
                        }
                        Err(error) => back_off(&gate, &error).await,
                    }
                }
            }
        }
    };
    tokio::select! {
        ended = accept => ended,
        never = pulse.answer() => match never {},
        _ = phase.wait_for(|phase| *phase == Phase::Draining) => Ok(()), // The listener closes here.
    }
}

/// Why there is no session. Our own client sends this alert to a server whose key it does not know.
fn reason(error: &WireError) -> String {
    match error {
        WireError::Tls(rustls::Error::AlertReceived(AlertDescription::UnknownCA)) => {
            "the client does not trust our host key, or not yet".to_owned()
        }
        _ => error.to_string(),
    }
}

async fn back_off(gate: &Gate, error: &(dyn std::fmt::Display + Sync)) {
    gate.complain("", &format_args!("accept: {error}"));
    sleep(BACK_OFF).await;
}

/// Closes a connection that would leave too few descriptors to those that are there.
async fn keep_out(gate: &Gate, stream: impl Sized) {
    drop(stream);
    back_off(gate, &"as many files are open as may be").await;
}

/// A connection as the kernel gave it.
enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Gives a new connection its task. A panic in it ends the connection, and is told as that.
fn admit<S: Store>(gate: &Gate, server: &Server<S>, accepted: Accepted, mut visitor: Visitor) {
    let (gate, server) = (gate.clone(), server.clone());
    tokio::spawn(async move {
        let address = visitor.address.clone();
        let done = alone(pin!(async {
            let outcome = tokio::select! {
                biased;
                outcome = authenticate(&gate, &server, accepted) => outcome,
                () = visitor.evicted() => {
                    let what = "its place is needed for somebody else (limits.strangers)";
                    return gate.complain(&visitor.address, &what);
                }
            };
            match outcome {
                Ok((connection, peer)) => session::serve(connection, peer, visitor, server).await,
                Err(error) => {
                    if let Some(offence) = offence(&error) {
                        visitor.penalise(offence, &server.live.borrow().settings.limits);
                    }
                    gate.complain(&visitor.address, &reason(&error));
                }
            }
        }))
        .await;
        if done.is_none()
            && let Some(suppressed) = gate.noise.admit()
        {
            let (peer, result) = (address, ErrorCode::Internal.name());
            tracing::error!(name: kind::CLOSED, peer, result, suppressed, "lost: an internal error");
        }
    });
}

/// Finds out who is at the other end: nothing the peer sends is parsed by us here. No turn is waited for:
/// a source computes at most as many handshakes at once as it has places.
async fn authenticate<S: Store>(
    gate: &Gate,
    server: &Server<S>,
    accepted: Accepted,
) -> Result<(Connection, Peer), WireError> {
    let limit = server.live.borrow().settings.limits.handshake_timeout;
    let socket = match accepted {
        Accepted::Unix(stream) => {
            let account = stream.peer_cred().map_err(|_| WireError::Cut)?;
            let connection = Connection::plain(Socket::Unix(stream));
            return Ok((connection, Peer::Account(account.uid())));
        }
        Accepted::Tcp(stream) => Socket::tcp(stream)?,
    };
    let handshake = Connection::accept(socket, Arc::clone(&gate.tls));
    let connection =
        timeout(limit, handshake).await.map_err(|_| WireError::Timeout("TLS handshake"))??;
    let key = connection.with_peer_certificates(peer_key).ok_or(WireError::Cut)?;
    Ok((connection, Peer::Key(key)))
}
