//! A daemon without sockets, threads and sandbox: its sessions, users and limits, for a simulation.
#![cfg_attr(not(test), allow(dead_code, reason = "the fuzzer needs a part of it"))]

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::door::{Count, Door};
use super::server::{Live, Phase, Server};
use super::session;
use super::users::{Peer, Users};
use crate::config::{Resolvers, Settings, Text, parse};
use crate::transfer::{Pool, Store, Workers};
use crate::wire::{Connection, Socket};

/// How long a file thread may still be at something that only reads, and that nobody waits for.
const LAST_VISIT: Duration = Duration::from_mins(1);

/// A daemon that serves whoever is handed to it.
pub(crate) struct Daemon<S: Store> {
    store: Arc<S>,
    sessions: Mutex<Sessions>,
    busy: mpsc::Sender<Infallible>,
    ended: mpsc::Receiver<Infallible>,
    door: Arc<Door>,
    pool: Arc<Pool>,
    workers: Workers,
    threads: usize,
}

/// What is in force, and where each session hears of what comes next. A channel of its own for each, because
/// those who share one are woken in an order that tokio leaves to chance.
struct Sessions {
    live: Arc<Live>,
    told: Vec<(watch::Sender<Arc<Live>>, watch::Sender<Phase>)>,
}

impl<S: Store> Daemon<S> {
    /// Starts with a configuration, which must be a good one; its users log in by their accounts.
    pub(crate) fn start(
        store: Arc<S>,
        config: &str,
        pause: Arc<dyn Fn() -> Duration + Send + Sync>,
    ) -> Self {
        let settings = settings(config);
        let threads = settings.limits.file_workers;
        let (pool, workers) =
            (Pool::new(settings.limits.buffer_memory), Workers::simulated(threads, pause));
        let users = Users::new(&settings, &pool, &workers, None);
        let live = Arc::new(Live { settings, users });
        let sessions = Mutex::new(Sessions { live, told: Vec::new() });
        let (busy, ended) = mpsc::channel(1);
        Self { store, sessions, busy, ended, door: Arc::default(), pool, workers, threads }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a connection of the account `uid` until it ends.
    pub(crate) async fn serve(&self, socket: Socket, uid: u32) {
        self.session(socket, uid).await;
    }

    /// The same, as a task of its own.
    pub(crate) fn spawn(&self, socket: Socket, uid: u32) {
        tokio::spawn(self.session(socket, uid));
    }

    fn session(&self, socket: Socket, uid: u32) -> impl Future<Output = ()> + use<S> {
        let visitor = self.door.knock_locally();
        let (store, busy) = (Arc::clone(&self.store), self.busy.clone());
        let mut sessions = self.sessions();
        let (tell_live, live) = watch::channel(Arc::clone(&sessions.live));
        let (tell_phase, phase) = watch::channel(Phase::Serving);
        sessions.told.retain(|(live, _)| !live.is_closed());
        sessions.told.push((tell_live, tell_phase));
        let compressed = Count::default();
        let server = Server { store, live, phase, busy, compressed };
        session::serve(Connection::plain(socket), Peer::Account(uid), visitor, server)
    }

    /// Puts another configuration in force, as SIGHUP does.
    pub(crate) fn reload(&self, config: &str) {
        let settings = settings(config);
        let mut sessions = self.sessions();
        let before = Some(&sessions.live.users);
        let users = Users::new(&settings, &self.pool, &self.workers, before);
        sessions.live = Arc::new(Live { settings, users });
        for (live, _) in &sessions.told {
            live.send_replace(Arc::clone(&sessions.live));
        }
    }

    /// Stops as SIGTERM does, but waits for as long as it takes; then tells what was not given back.
    pub(crate) async fn stop(self) -> Vec<String> {
        let Self { sessions, busy, mut ended, threads, .. } = self;
        drop(busy);
        let Sessions { live, told } = sessions.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (_, phase) in &told {
            phase.send_replace(Phase::Draining);
        }
        while ended.recv().await.is_some() {}
        let mut left = held(&live, threads);
        let patience = Instant::now() + LAST_VISIT;
        while !left.is_empty() && Instant::now() < patience {
            sleep(Duration::from_secs(1)).await;
            left = held(&live, threads);
        }
        left
    }
}

/// What users hold.
fn held(live: &Live, threads: usize) -> Vec<String> {
    let mut left = Vec::new();
    for entry in &live.settings.users {
        let name = &entry.principal.name;
        let peers = entry.uids.iter().map(|uid| Peer::Account(*uid));
        for user in peers.filter_map(|peer| live.users.admit(&peer, None).ok().cloned()) {
            if !user.share.is_whole() {
                left.push(format!("{name} holds buffers"));
            }
            if !user.workers.are_free(threads) {
                left.push(format!("{name} holds file threads"));
            }
            if user.connections.get() > 0 {
                left.push(format!("{name} holds {} connections", user.connections.get()));
            }
        }
    }
    left
}

fn settings(config: &str) -> Settings {
    let key = |_: &str| Err("nobody has a key here".to_owned());
    let account = |name: &str| name.parse().map_err(|_| "no such account".to_owned());
    let keys_file = |_: &Path| Err("no file is read here".to_owned());
    let resolvers = Resolvers { key: &key, account: &account, keys_file: &keys_file };
    let text = Text { name: "simulated".to_owned(), text: config.to_owned() };
    parse(&text, &[], &resolvers).expect("the configuration of a simulation is a good one")
}
