//! Listening sockets that the service manager keeps: handed over at a start, left behind at the end.
//!
//! Because the manager has a copy of each, a restart refuses nobody: who connects meanwhile waits in the
//! kernel's queue. They come from `ftd.socket`, or from an earlier start that left them in the
//! manager's store. Source: `sd_listen_fds(3)`, `sd_notify(3)`, systemd.socket(5).

use std::io;
use std::os::fd::AsFd as _;

use listenfd::ListenFd;
use nix::sys::socket::{getsockopt, sockopt};

use super::listener::{Bound, ListenError, is_socket};
use super::notify;
use crate::config::Listen;

/// What the names of our own sockets in the manager's store start with.
const KEPT: &str = "kept-";

/// A socket that was handed over, and the name that the manager has for it.
struct Passed {
    bound: Bound,
    name: String,
}

/// Opens all places of the configuration: with the sockets that were handed over, where they fit, and
/// with new ones otherwise. What was handed over and fits nothing is closed.
pub(super) fn open(places: &[Listen]) -> Result<Vec<Bound>, ListenError> {
    let mut passed = handed_over();
    let mut open = Vec::with_capacity(places.len());
    for place in places {
        open.push(match passed.iter().position(|socket| serves(&socket.bound, place)) {
            Some(index) => passed.swap_remove(index).bound,
            None => bind(place)?,
        });
    }
    for Passed { bound, name } in passed {
        tracing::info!(address = bound.address(), "closing a socket that `listen` does not name");
        if name.starts_with(KEPT) {
            notify::forget(&name);
        }
    }
    Ok(open)
}

/// Binds a place and leaves a copy of the socket with the manager. A port that the kernel chooses is
/// another one at each start, so there is nothing to keep.
fn bind(place: &Listen) -> Result<Bound, ListenError> {
    let bound = Bound::bind(place)?;
    if !matches!(place, Listen::Tcp(address) if address.port() == 0) {
        // A colon would end the name in the manager's list.
        let name = format!("{KEPT}{}", place.to_string().replace(':', "_"));
        match &bound {
            Bound::Tcp(listener, _) => notify::keep(&name, listener.as_fd()),
            Bound::Unix(listener, _) => notify::keep(&name, listener.as_fd()),
        }
    }
    Ok(bound)
}

fn serves(bound: &Bound, place: &Listen) -> bool {
    match (bound, place) {
        (Bound::Tcp(_, bound), Listen::Tcp(address)) => bound == address,
        // A name that was removed leads nobody to its socket any more.
        (Bound::Unix(_, bound), Listen::Unix(path)) => {
            path.as_os_str() == bound.as_str() && is_socket(path)
        }
        _ => false,
    }
}

/// What the manager handed over. What is no listening stream socket stays closed to everybody.
fn handed_over() -> Vec<Passed> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut descriptors = ListenFd::from_env();
    (0..descriptors.len())
        .filter_map(|index| {
            let name = names.next().unwrap_or_default().to_owned();
            match take(&mut descriptors, index) {
                Ok(bound) => Some(Passed { bound, name }),
                Err(error) => {
                    tracing::warn!(name, "cannot use a descriptor that was handed over: {error}");
                    None
                }
            }
        })
        .collect()
}

fn take(descriptors: &mut ListenFd, index: usize) -> io::Result<Bound> {
    let unusable = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    let bound = if let Ok(Some(listener)) = descriptors.take_tcp_listener(index) {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Bound::Tcp(listener, address)
    } else {
        let listener = descriptors.take_unix_listener(index)?;
        let listener = listener.ok_or_else(|| unusable("it was taken already"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let path = address.as_pathname().and_then(|path| path.to_str());
        let path = path.ok_or_else(|| unusable("it has no path"))?.to_owned();
        Bound::Unix(listener, path)
    };
    let listens = match &bound {
        Bound::Tcp(listener, _) => getsockopt(listener, sockopt::AcceptConn)?,
        Bound::Unix(listener, _) => getsockopt(listener, sockopt::AcceptConn)?,
    };
    if listens { Ok(bound) } else { Err(unusable("it does not listen")) }
}
