//! Who may knock, and who may stay: the places for strangers and for users, and penalties.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};

use super::logging::Limiter;
use super::penalties::{Offence, Penalties};
use super::strangers::{Slot, Source, Strangers};
use crate::config::Limits;
use crate::wire::WireError;

/// What all listeners share about their visitors.
#[derive(Debug, Default)]
pub(super) struct Door {
    strangers: Arc<Strangers>,
    penalties: Mutex<Penalties>,
    /// Connections of users, all together.
    all: Count,
    /// The same by source.
    sources: Mutex<HashMap<Source, Count>>,
    /// Of peers that are nobody who may come in.
    refusals: Limiter,
}

/// A peer on its way in.
#[derive(Debug)]
pub(super) struct Visitor {
    /// Where it comes from, for the log.
    pub(super) address: String,
    /// Its network address, which a Unix socket has not.
    pub(super) ip: Option<IpAddr>,
    /// Its place among the strangers; the kernel vouches for who comes by a Unix socket.
    slot: Option<Slot>,
    door: Arc<Door>,
}

/// A user's place, in all and by source.
#[derive(Debug)]
pub(super) struct Place {
    _all: Taken,
    _source: Option<Taken>,
}

impl Door {
    /// Lets a peer from the network in as a stranger.
    ///
    /// # Errors
    /// How long it is still kept out for what it did.
    pub(super) fn knock(
        self: &Arc<Self>,
        address: String,
        ip: IpAddr,
        limits: &Limits,
    ) -> Result<Visitor, (String, Duration)> {
        let source = Source::of(ip);
        let is_watched = limits.penalties && !is_exempt(ip, limits);
        if is_watched && let Some(left) = self.penalties().of(source, Instant::now()) {
            return Err((address, left));
        }
        let (slot, is_crowded) =
            self.strangers.enter(source, limits.strangers, limits.strangers_per_source);
        if is_watched && is_crowded {
            self.penalties().add(source, Offence::Crowd, Instant::now());
        }
        Ok(Visitor { address, ip: Some(ip), slot: Some(slot), door: Arc::clone(self) })
    }

    /// The same for a peer on a Unix socket, which is never a stranger for long.
    pub(super) fn knock_locally(self: &Arc<Self>) -> Visitor {
        Visitor { address: "unix".to_owned(), ip: None, slot: None, door: Arc::clone(self) }
    }

    fn penalties(&self) -> MutexGuard<'_, Penalties> {
        self.penalties.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_exempt(ip: IpAddr, limits: &Limits) -> bool {
    limits.penalty_exempt.iter().any(|net| net.contains(&ip.to_canonical()))
}

impl Visitor {
    /// Resolves when somebody else needs the stranger's place, which a user no longer has.
    pub(super) async fn evicted(&mut self) {
        match &mut self.slot {
            Some(slot) => slot.evicted().await,
            None => std::future::pending().await,
        }
    }

    /// Remembers what the peer did.
    pub(super) fn penalise(&self, offence: Offence, limits: &Limits) {
        if let Some(ip) = self.ip.filter(|ip| limits.penalties && !is_exempt(*ip, limits)) {
            self.door.penalties().add(Source::of(ip), offence, Instant::now());
        }
    }

    /// Keeps those who may not come in from filling the log.
    pub(super) fn refusals(&self) -> &Limiter {
        &self.door.refusals
    }

    /// Makes a user's connection of it.
    ///
    /// # Errors
    /// What is full, for the peer.
    pub(super) fn settle(&mut self, limits: &Limits) -> Result<Place, &'static str> {
        let all = self.door.all.take(limits.connections);
        let all = all.ok_or("all connections are taken; try again later")?;
        let source = match self.ip.map(Source::of) {
            None => None,
            Some(source) => {
                let mut sources = self.door.sources.lock().unwrap_or_else(PoisonError::into_inner);
                if sources.len() > 2 * limits.connections {
                    sources.retain(|_, count| count.get() > 0);
                }
                let taken = sources.entry(source).or_default().take(limits.connections_per_source);
                Some(
                    taken
                        .ok_or("too many connections from this address; close one and try again")?,
                )
            }
        };
        self.slot = None;
        Ok(Place { _all: all, _source: source })
    }
}

/// What a handshake that failed says about the peer. Whoever leaves, or refuses our key, did nothing.
pub(super) fn offence(error: &WireError) -> Option<Offence> {
    match error {
        WireError::Timeout(_) => Some(Offence::Timeout),
        WireError::Tls(rustls::Error::NoCertificatesPresented) => Some(Offence::UnknownKey),
        WireError::Tls(rustls::Error::AlertReceived(_)) | WireError::Io { .. } | WireError::Cut => {
            None
        }
        WireError::Tls(_) | WireError::Protocol(_) => Some(Offence::Garbage),
    }
}

/// How many there are of something, against a limit that may change.
#[derive(Clone, Debug, Default)]
pub(super) struct Count(Arc<AtomicUsize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken(Count);

impl Count {
    /// One more, if it is not one too many.
    pub(super) fn take(&self, most: usize) -> Option<Taken> {
        let more = |count: usize| (count < most).then_some(count + 1);
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.ok().map(|_| Taken(self.clone()))
    }

    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Descriptors that no newcomer gets, so that what runs goes on when there are fewer than were counted on:
/// fewer than the budget has to spare, so that it never keeps anybody out who is in it.
const KEPT_BACK: u64 = 24;

/// Whether enough descriptors are left behind this one, which is the lowest that was free.
pub(super) fn leaves_some(newcomer: &impl AsRawFd) -> bool {
    let number = u64::try_from(newcomer.as_raw_fd()).unwrap_or(0);
    getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(limit, _)| number + KEPT_BACK < limit)
}
