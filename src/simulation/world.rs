//! One world: a machine with a daemon, clients, a network between them, and what befalls all of it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep, timeout};

use super::actor;
use super::disk::Disk;
use super::link::{Nature, Shared, Side, link};
use super::sim::{Outcome, Planted, Sim};
use super::store::Shelf;
use crate::client::simulated::{Job, job};
use crate::daemon::simulated::Daemon;
use crate::wire::Socket;

/// What everything must be over in. The client's longest patience is 12 h, for a digest.
const LONGEST: Duration = Duration::from_hours(48);
/// How long a stop may take before it is made short.
const DRAIN: Duration = Duration::from_mins(1);

/// A world, for all that live in it.
pub(crate) struct World {
    pub(crate) sim: Sim,
    pub(crate) disk: Arc<Mutex<Disk>>,
    /// Nothing goes wrong here: then nothing may be lost either.
    pub(crate) is_calm: bool,
    config: Config,
    machine: Mutex<Machine>,
    gremlins: Mutex<JoinSet<()>>,
    /// The machine's disk is slow at the moment.
    is_slow: Arc<AtomicBool>,
    links: Mutex<Vec<Shared>>,
}

/// The daemon that runs, if one does.
#[derive(Default)]
struct Machine {
    daemon: Option<Daemon<Shelf>>,
    shelves: Vec<Shelf>,
    links: Vec<Shared>,
}

/// The limits that a seed decides.
struct Config {
    requests: u64,
    workers: u64,
    clients: u32,
    hurried: bool,
    bandwidth: bool,
}

impl Config {
    fn of(sim: &Sim) -> Self {
        sim.rng(|rng| Self {
            requests: *rng.pick(&[1, 2, 5, 256]),
            workers: *rng.pick(&[1, 2, 16]),
            clients: u32::try_from(rng.between(1, 3)).unwrap_or(1),
            hurried: rng.chance(200),
            bandwidth: rng.chance(150),
        })
    }

    /// The text of it, without the users from `without` on.
    fn text(&self, without: Option<u32>) -> String {
        let (requests, workers) = (self.requests, self.workers);
        let mut text = format!(
            "root = \"/simulated\"\nlisten = [\"unix:/simulated.sock\"]\n[limits]\n\
             requests-per-connection = {requests}\nfile-workers = {workers}\nbuffer-memory = \"8MiB\"\n"
        );
        if self.hurried {
            text += "idle-timeout = \"20s\"\nhandshake-timeout = \"5s\"\n";
        }
        for client in 0..self.clients {
            if without.is_some_and(|without| client >= without) {
                // Nobody is left out altogether, because there must be a user.
                text +=
                    &format!("[[user]]\nname = \"other{client}\"\nunix = [\"{}\"]\n", 500 + client);
            } else {
                text += &format!("[[user]]\nname = \"user{client}\"\nunix = [\"{client}\"]\n");
            }
            text += "home = \".\"\n";
            text += "allow = [\"get\", \"list\", \"create\", \"replace\", \"remove\", \"rename\", \"mkdir\"]\n";
            if self.bandwidth {
                text += "bandwidth = \"256KiB\"\n";
            }
        }
        text
    }
}

/// Lets a world run from its beginning to its end.
pub(crate) fn run(seed: u64, planted: Planted, verbose: bool) -> Outcome {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime without I/O");
    runtime.block_on(async {
        let sim = Sim::new(seed, planted, verbose);
        if timeout(LONGEST, live(&sim)).await.is_err() {
            sim.breach(format_args!("the world does not come to its end"));
        }
        sim.outcome()
    })
}

async fn live(sim: &Sim) {
    let is_calm = sim.rng(|rng| rng.chance(250));
    let config = Config::of(sim);
    let clients = config.clients;
    let world = Arc::new(World {
        sim: sim.clone(),
        disk: Arc::default(),
        is_calm,
        config,
        machine: Mutex::default(),
        gremlins: Mutex::default(),
        is_slow: Arc::default(),
        links: Mutex::default(),
    });
    sim.note(format_args!("a world with {clients} clients{}", if is_calm { ", calm" } else { "" }));
    sim.set_rough(!is_calm);
    world.boot();
    let chaos = tokio::spawn(Arc::clone(&world).chaos());
    let mut living = JoinSet::new();
    for number in 0..clients {
        living.spawn(actor::live(Arc::clone(&world), number));
    }
    // Clients work until their plans are done, then on a sound world they all must get through.
    let calm_again = chaos.await;
    if let Err(error) = calm_again {
        sim.breach(format_args!("chaos: {error}"));
    }
    let mut done = Vec::new();
    while let Some(joined) = living.join_next().await {
        match joined {
            Ok(actor) => done.push(actor),
            Err(error) => sim.breach(format_args!("a client ended badly: {error}")),
        }
    }
    // What still runs by itself, because nobody waits for it any more, has ended then.
    sleep(Duration::from_mins(3)).await;
    world.check_answers();
    for actor in done {
        actor.leave().await;
    }
    world.end().await;
}

impl World {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long file work takes.
    pub(crate) fn pause(&self) -> Arc<dyn Fn() -> Duration + Send + Sync> {
        let (sim, slow) = (self.sim.clone(), Arc::clone(&self.is_slow));
        Arc::new(move || {
            let most = if slow.load(Ordering::Relaxed) { 20_000_000 } else { 3000 };
            Duration::from_micros(sim.rng(|rng| rng.below(most)))
        })
    }

    fn boot(&self) {
        let mut machine = self.machine();
        let number = machine.shelves.len() as u64 + 1;
        let store = Shelf::new(&self.sim, &self.disk, number);
        let daemon = Daemon::start(Arc::new(store.clone()), &self.config.text(None), self.pause());
        self.sim.note(format_args!("daemon {number} starts"));
        machine.daemon = Some(daemon);
        machine.shelves.push(store);
    }

    /// A run of a client.
    pub(crate) fn job(self: &Arc<Self>, uid: u32) -> Arc<Job> {
        let world = Arc::clone(self);
        let seed = self.sim.rng(super::rng::Rng::next);
        job(move || world.dial(uid), seed)
    }

    fn dial(&self, uid: u32) -> io::Result<Socket> {
        let mut machine = self.machine();
        let refused = machine.daemon.is_none() || self.sim.misfortune(50);
        let Some(daemon) = machine.daemon.as_ref().filter(|_| !refused) else {
            self.sim.note(format_args!("client {uid} is refused"));
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let nature = Nature::of(&self.sim);
        self.sim.note(format_args!("client {uid} connects: {nature:?}"));
        let (client, server, shared) = link(&self.sim, nature);
        daemon.spawn(Socket::Other(Box::new(server)), uid);
        machine.links.push(shared.clone());
        self.links.lock().unwrap_or_else(PoisonError::into_inner).push(shared.clone());
        if self.sim.misfortune(600) {
            let mut gremlins = self.gremlins.lock().unwrap_or_else(PoisonError::into_inner);
            gremlins.spawn(disturb(self.sim.clone(), shared));
        }
        Ok(Socket::Other(Box::new(client)))
    }

    /// What befalls the machine, until it is over.
    async fn chaos(self: Arc<Self>) {
        let rounds = self.sim.rng(|rng| rng.between(2, 12));
        for _ in 0..rounds {
            sleep(Duration::from_millis(self.sim.rng(|rng| rng.between(100, 60_000)))).await;
            if self.is_calm {
                continue;
            }
            match self.sim.rng(|rng| rng.below(10)) {
                0 | 1 => self.crash().await,
                2 => self.restart().await,
                3 => {
                    let jump = self.sim.rng(|rng| Duration::from_millis(rng.between(1, 600_000)));
                    self.sim.fault(format_args!("the clock jumps by {jump:?}"));
                    advance(jump).await;
                }
                4 => {
                    let without = u32::try_from(self.sim.rng(|rng| rng.below(3))).ok();
                    self.sim.fault(format_args!("users from {without:?} on are out"));
                    self.reload(without);
                    sleep(Duration::from_secs(self.sim.rng(|rng| rng.below(20)))).await;
                    self.reload(None);
                }
                5 | 6 => {
                    self.sim.fault(format_args!("the disk is slow"));
                    self.is_slow.store(true, Ordering::Relaxed);
                    sleep(Duration::from_secs(self.sim.rng(|rng| rng.below(60)))).await;
                    self.is_slow.store(false, Ordering::Relaxed);
                }
                _ => {}
            }
        }
        self.sim.note(format_args!("all is well from here on"));
        self.sim.set_rough(false);
    }

    fn reload(&self, without: Option<u32>) {
        if let Some(daemon) = &self.machine().daemon {
            daemon.reload(&self.config.text(without));
        }
    }

    /// The machine loses power, and comes back.
    async fn crash(&self) {
        self.sim.fault(format_args!("the machine loses power"));
        let (daemon, links) = {
            let mut machine = self.machine();
            if let Some(shelf) = machine.shelves.last() {
                shelf.alive.store(false, Ordering::SeqCst);
            }
            (machine.daemon.take(), std::mem::take(&mut machine.links))
        };
        let sim = self.sim.clone();
        self.disk().crash(|| sim.rng(|rng| rng.chance(500)));
        kill(&links);
        if let Some(daemon) = daemon {
            // What is left of it must come to an end of its own.
            self.bury(daemon).await;
        }
        sleep(Duration::from_millis(self.sim.rng(|rng| rng.below(20_000)))).await;
        self.boot();
    }

    /// The daemon is stopped and started, as an administrator does it.
    async fn restart(&self) {
        self.sim.fault(format_args!("the daemon is stopped"));
        let (daemon, links) = {
            let mut machine = self.machine();
            (machine.daemon.take(), std::mem::take(&mut machine.links))
        };
        let Some(daemon) = daemon else { return };
        let mut stop = std::pin::pin!(self.bury(daemon));
        if timeout(DRAIN, &mut stop).await.is_err() {
            self.sim.fault(format_args!("the daemon is killed"));
            if let Some(shelf) = self.machine().shelves.last() {
                shelf.alive.store(false, Ordering::SeqCst);
            }
            self.disk().crash(|| false);
            kill(&links);
            stop.await;
        }
        self.boot();
    }

    /// Waits until a daemon has ended, and looks whether it gave everything back.
    async fn bury(&self, daemon: Daemon<Shelf>) {
        for left in daemon.stop().await {
            self.sim.breach(format_args!("a daemon has ended, and {left}"));
        }
    }

    /// Waits until nothing goes wrong any more.
    pub(crate) async fn sound(&self) {
        while self.sim.is_rough() {
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Every request of a connection that stands has had its final frame.
    pub(crate) fn check_answers(&self) {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        for link in links.iter().filter(|link| link.is_alive()) {
            let (open, count) = link.requests();
            if !open.is_empty() {
                self.sim.breach(format_args!("of {count} requests {open:?} have no final frame"));
            }
        }
    }

    async fn end(&self) {
        let started = Instant::now();
        let daemon = self.machine().daemon.take();
        if let Some(daemon) = daemon {
            self.bury(daemon).await;
        }
        self.gremlins.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        sleep(Duration::from_secs(1)).await;
        let open: usize =
            self.machine().shelves.iter().map(|shelf| shelf.open.load(Ordering::SeqCst)).sum();
        if open > 0 {
            self.sim.breach(format_args!("{open} files are still open"));
        }
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        if tasks > 0 {
            self.sim.breach(format_args!("{tasks} tasks are left"));
        }
        self.sim.note(format_args!("all has ended, {:?} after the last client", started.elapsed()));
    }
}

/// The machine at one end is gone.
fn kill(links: &[Shared]) {
    for link in links {
        link.kill(io::ErrorKind::ConnectionReset);
    }
}

/// Disturbs a connection, again and again.
async fn disturb(sim: Sim, link: Shared) {
    loop {
        sleep(Duration::from_millis(sim.rng(|rng| rng.between(1, 40_000)))).await;
        if !sim.is_rough() || !link.is_alive() {
            return;
        }
        let side = sim.rng(|rng| *rng.pick(&[Side::Client, Side::Server]));
        match sim.rng(|rng| rng.below(6)) {
            0 => {
                sim.fault(format_args!("a connection is reset"));
                return link.kill(io::ErrorKind::ConnectionReset);
            }
            1 => {
                sim.fault(format_args!("a connection is closed behind the back of the {side:?}"));
                return link.finish(side);
            }
            kind => {
                // Half of the kernels notice a peer that is silent for too long; nothing else does.
                let patience = sim.rng(|rng| rng.chance(500).then(|| rng.between(60, 90)));
                let time = sim.rng(|rng| match kind {
                    2 => u64::MAX,
                    _ => *rng.pick(&[1, 5, 20, 70, 200, 800]),
                });
                let both = sim.rng(|rng| rng.chance(500));
                sim.fault(format_args!(
                    "{} stalls for {time} s",
                    if both {
                        "a connection".to_owned()
                    } else {
                        format!("what the {side:?} sends")
                    }
                ));
                link.stall(side, true);
                if both {
                    link.stall(Side::Client, true);
                    link.stall(Side::Server, true);
                }
                let noticed = patience.is_some_and(|patience| patience < time);
                let wait = if noticed { patience.unwrap_or(time) } else { time };
                sleep(Duration::from_secs(wait.min(60 * 60 * 24 * 7))).await;
                if noticed {
                    return link.kill(io::ErrorKind::TimedOut);
                }
                link.stall(Side::Client, false);
                link.stall(Side::Server, false);
            }
        }
    }
}
