//! Who is known, and what each user has in use.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

use super::bandwidth::Bandwidth;
use super::door::Count;
use super::logging::Limiter;
use crate::config::{Admission, Barred, Limits, Settings};
use crate::identity::fingerprint;
use crate::transfer::{Pool, Share, Workers};
use crate::types::{Principal, PublicKey};

/// Who connected, as the transport proves it. Not yet anybody who may ask for something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Peer {
    /// The key that signed the TLS handshake.
    Key(PublicKey),
    /// The account at the other end of a Unix socket.
    Account(u32),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(&fingerprint(key)),
            Self::Account(uid) => write!(f, "uid {uid}"),
        }
    }
}

/// Why a peer is nobody who may come in.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub(super) enum NotAdmitted {
    #[error("not known")]
    Unknown,
    #[error("the user {0}: {1}")]
    User(String, Barred),
    #[error("this key of {0}: {1}")]
    Key(String, Barred),
}

/// A user, with the parts of the daemon's resources that are the user's own.
#[derive(Clone)]
pub(super) struct User {
    pub(super) principal: Principal,
    admission: Admission,
    pub(super) share: Share,
    pub(super) workers: Workers,
    pub(super) connections: Count,
    /// Those of them that compress.
    pub(super) compressed: Count,
    /// Keep the user from filling the log: with what is refused, and with what fails here.
    pub(super) refusals: Arc<Limiter>,
    pub(super) faults: Arc<Limiter>,
    /// `None` is as fast as it goes.
    pub(super) bandwidth: Option<Arc<Bandwidth>>,
    max_file_size: Option<u64>,
}

impl User {
    /// Bytes of the largest file that this user may store.
    pub(super) fn bytes_max(&self, limits: &Limits) -> u64 {
        self.max_file_size.map_or(limits.max_file_size, |own| own.min(limits.max_file_size))
    }
}

/// The table of users: a reload makes a new one.
pub(super) struct Users {
    by_key: HashMap<PublicKey, (Arc<User>, Admission)>,
    by_uid: HashMap<u32, Arc<User>>,
}

impl Users {
    /// The users of `settings`. Who was known before keeps what is in use.
    pub(super) fn new(
        settings: &Settings,
        pool: &Arc<Pool>,
        workers: &Workers,
        before: Option<&Self>,
    ) -> Self {
        let mut table = Self { by_key: HashMap::new(), by_uid: HashMap::new() };
        for entry in &settings.users {
            let known = before.and_then(|before| before.named(&entry.principal.name));
            let user = Arc::new(User {
                principal: entry.principal.clone(),
                admission: entry.admission.clone(),
                max_file_size: entry.max_file_size,
                share: known.map_or_else(|| pool.share(), |user| user.share.clone()),
                workers: known.map_or_else(
                    || workers.share(settings.limits.file_workers),
                    |user| user.workers.clone(),
                ),
                refusals: known.map_or_else(Arc::default, |user| Arc::clone(&user.refusals)),
                faults: known.map_or_else(Arc::default, |user| Arc::clone(&user.faults)),
                connections: known.map_or_else(Count::default, |user| user.connections.clone()),
                compressed: known.map_or_else(Count::default, |user| user.compressed.clone()),
                bandwidth: entry.bandwidth.map(|rate| {
                    let same = known.and_then(|user| user.bandwidth.clone());
                    let same = same.filter(|before| before.bytes_per_second() == rate);
                    same.unwrap_or_else(|| Arc::new(Bandwidth::new(rate)))
                }),
            });
            let keys = entry.keys.iter();
            table.by_key.extend(
                keys.map(|key| (key.public.clone(), (Arc::clone(&user), key.admission.clone()))),
            );
            table.by_uid.extend(entry.uids.iter().map(|uid| (*uid, Arc::clone(&user))));
        }
        table
    }

    /// The user that a peer is, if it may come in from `source`, which a Unix socket has not.
    ///
    /// # Errors
    /// Why not: for the log alone, the peer is told the same in every case.
    pub(super) fn admit(
        &self,
        peer: &Peer,
        source: Option<IpAddr>,
    ) -> Result<&Arc<User>, NotAdmitted> {
        let (user, own) = match peer {
            Peer::Key(key) => self.by_key.get(key).map(|(user, own)| (user, Some(own))),
            Peer::Account(uid) => self.by_uid.get(uid).map(|user| (user, None)),
        }
        .ok_or(NotAdmitted::Unknown)?;
        let now = SystemTime::now();
        let name = || user.principal.name.clone();
        user.admission.judge(source, now).map_err(|why| NotAdmitted::User(name(), why))?;
        if let Some(own) = own {
            own.judge(source, now).map_err(|why| NotAdmitted::Key(name(), why))?;
        }
        Ok(user)
    }

    /// Whether the peer's admission ends by itself some day.
    pub(super) fn expires(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Key(key) => self
                .by_key
                .get(key)
                .is_some_and(|(user, own)| user.admission.expires.or(own.expires).is_some()),
            Peer::Account(uid) => {
                self.by_uid.get(uid).is_some_and(|user| user.admission.expires.is_some())
            }
        }
    }

    fn named(&self, name: &str) -> Option<&Arc<User>> {
        let by_key = self.by_key.values().map(|(user, _)| user);
        by_key.chain(self.by_uid.values()).find(|user| user.principal.name == name)
    }
}
