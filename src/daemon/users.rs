//! Who is known, and what each user has in use.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::config::{Limits, Settings};
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

/// A user, with the parts of the daemon's resources that are the user's own.
#[derive(Clone)]
pub(super) struct User {
    pub(super) principal: Principal,
    pub(super) share: Share,
    pub(super) workers: Workers,
    pub(super) connections: Arc<Semaphore>,
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
    by_key: HashMap<PublicKey, Arc<User>>,
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
                max_file_size: entry.max_file_size,
                share: known.map_or_else(|| pool.share(), |user| user.share.clone()),
                workers: known.map_or_else(
                    || workers.share(settings.limits.file_workers),
                    |user| user.workers.clone(),
                ),
                connections: known.map_or_else(
                    || Arc::new(Semaphore::new(settings.limits.connections_per_user)),
                    |user| Arc::clone(&user.connections),
                ),
            });
            table.by_key.extend(entry.keys.iter().map(|key| (key.clone(), Arc::clone(&user))));
            table.by_uid.extend(entry.uids.iter().map(|uid| (*uid, Arc::clone(&user))));
        }
        table
    }

    /// The user that a peer is.
    pub(super) fn find(&self, peer: &Peer) -> Option<&Arc<User>> {
        match peer {
            Peer::Key(key) => self.by_key.get(key),
            Peer::Account(uid) => self.by_uid.get(uid),
        }
    }

    fn named(&self, name: &str) -> Option<&Arc<User>> {
        self.by_key.values().chain(self.by_uid.values()).find(|user| user.principal.name == name)
    }
}
