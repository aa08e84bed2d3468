//! Goal: what many clients do with few names at once, whoever is cut off or killed meanwhile, is what some
//! order of their operations would have done, and every read is one complete content (B2).
//! Method: real daemons, each killed or stopped in the middle of the work and started again; clients write
//! down calls, ends and outcomes, and a checker looks for the order (`history/check.rs`).
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

#[path = "history/check.rs"]
mod check;
#[path = "history/clients.rs"]
mod clients;
mod support;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use check::{Deed, Event, NAMES, State, Trouble};
use clients::{Client, Contents, Lie, Name, PAIRS, Role, Scene, path};
use nix::sys::signal::Signal;
use support::proxy::Proxy;
use support::{Daemon, Setup, TestResult};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Operations, without `FTD_HISTORY`.
const OPERATIONS: usize = 60_000;
/// About how many operations there are in one life of a daemon.
const LIFE: u64 = 400;

const ROLES: [(Role, u64); 4] =
    [(Role::Writer, 10), (Role::Reader, 10), (Role::Mover, 6), (Role::Remover, 2)];

/// A run: its chance, its contents, and what has come of it so far.
struct Run {
    seed: u64,
    contents: Contents,
    states: [State; PAIRS],
    operations: usize,
    whole: AtomicUsize,
    lives: u64,
    unknown: usize,
    lie: Option<Lie>,
}

impl Run {
    fn new(lie: Option<Lie>) -> Fallible<Self> {
        let seed = match std::env::var("FTD_SEED") {
            Ok(seed) => seed.parse()?,
            Err(_) => SystemTime::UNIX_EPOCH.elapsed()?.as_secs(),
        };
        println!("FTD_SEED={seed}");
        Ok(Self {
            seed,
            contents: Contents::new(),
            states: [[None; NAMES]; PAIRS],
            operations: 0,
            whole: AtomicUsize::new(0),
            lives: 0,
            unknown: 0,
            lie,
        })
    }

    /// One life of a daemon; gives the next daemon, and what the checker says.
    fn live(&mut self, mut daemon: Daemon) -> Fallible<(Daemon, Result<(), Trouble>)> {
        self.lives += 1;
        let chance = self.seed.wrapping_add(self.lives).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let goal = usize::try_from(LIFE / 2 + chance % LIFE)?;
        let signal = if chance >> 40 & 1 == 0 { Signal::SIGKILL } else { Signal::SIGTERM };
        let cuts: Vec<u64> = (1..400).map(|cut: u64| (chance % 97) * cut % 7_000 + 100).collect();
        let proxy = Proxy::start(daemon.path("bad-network"), &daemon.path("sock"), &cuts)?;
        let (start, gone) = (Instant::now(), AtomicBool::new(false));
        let scene = |socket: PathBuf| Scene {
            contents: &self.contents,
            socket,
            start,
            whole: &self.whole,
            gone: &gone,
        };
        let (direct, bad_network) = (scene(daemon.path("sock")), scene(proxy.path.clone()));
        let mut clients: Vec<_> = ROLES
            .into_iter()
            .flat_map(|(role, count)| (0..count).map(move |_| role))
            .zip(1..)
            .map(|(role, number)| Client::new(&direct, role, chance ^ number << 20))
            .collect();
        clients[0].lie = self.lie;
        clients.push(Client::new(&bad_network, Role::Program, chance ^ 7));
        let (done, operations) = std::sync::mpsc::channel();
        let faults = std::thread::scope(|scope| -> Fallible<Vec<String>> {
            let threads: Vec<_> = clients
                .iter_mut()
                .map(|client| {
                    let done = done.clone();
                    scope.spawn(move || client.work(&done))
                })
                .collect();
            drop(done);
            // It ends early when all clients are at their end, because each has met a fault.
            self.operations += operations.iter().take(goal).count();
            daemon.signal(signal)?;
            daemon.wait()?;
            gone.store(true, Ordering::Relaxed);
            self.operations += operations.iter().count();
            let ends =
                threads.into_iter().map(|thread| thread.join().map_err(|_| "a client panicked"));
            Ok(ends.collect::<Result<Vec<_>, _>>()?.into_iter().filter_map(Result::err).collect())
        })?;
        let histories = std::array::from_fn(|pair| {
            clients.iter().flat_map(|client| client.events[pair].iter().copied()).collect()
        });
        drop(clients);
        if !faults.is_empty() {
            return Err(format!("in life {} of seed {}: {faults:?}", self.lives, self.seed).into());
        }
        let found = self.judge(&daemon, histories, direct.now())?;
        drop(proxy);
        std::fs::remove_file(daemon.path("bad-network"))?;
        let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
        Ok((Setup { dir }.start()?, found))
    }

    /// Takes what is on the disk for the last look at each name, and for the next life's beginning.
    fn judge(
        &mut self,
        daemon: &Daemon,
        histories: [Vec<Event>; PAIRS],
        now: u64,
    ) -> Fallible<Result<(), Trouble>> {
        let mut found = Ok(());
        for (pair, mut history) in histories.into_iter().enumerate() {
            self.unknown += history.iter().filter(|event| event.end.is_none()).count();
            let after = self.on_disk(daemon, pair)?;
            for (name, content) in after.into_iter().enumerate() {
                history.push(Event { call: now, end: Some(now), deed: Deed::Is { name, content } });
            }
            let of_pair = check::check(self.states[pair], &history);
            if of_pair.is_err() && self.lie.is_none() {
                history.sort_by_key(|event| event.call);
                eprintln!("from {:?} on:", self.states[pair]);
                for event in &history {
                    eprintln!("  {event:?}");
                }
            }
            found = found.and(of_pair);
            self.states[pair] = after;
        }
        Ok(found)
    }

    /// What each name of a pair holds when nobody changes it.
    fn on_disk(&self, daemon: &Daemon, pair: usize) -> Fallible<State> {
        let mut state = [None; NAMES];
        for (of, holds) in state.iter_mut().enumerate() {
            let path = path(Name { pair, of });
            match std::fs::read(daemon.stored(&path)) {
                Ok(content) => {
                    let number = self.contents.number(&content);
                    *holds = Some(number.ok_or_else(|| format!("torn: {path}"))?);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(state)
    }
}

fn run(operations: usize) -> TestResult {
    let mut run = Run::new(None)?;
    let mut daemon = Daemon::start()?;
    while run.operations < operations {
        let found;
        (daemon, found) = run.live(daemon)?;
        found
            .map_err(|trouble| format!("in life {} of seed {}: {trouble}", run.lives, run.seed))?;
    }
    daemon.assert_nothing_staged()?;
    println!(
        "assurance: history {} operations of 29 clients on {} names in {} lives of a daemon, {} of them \
         with an outcome that nobody knows: an order explains all",
        run.operations,
        PAIRS * NAMES,
        run.lives,
        run.unknown
    );
    println!(
        "assurance: B2 reads: {} of one complete version each, 0 torn",
        run.whole.load(Ordering::Relaxed)
    );
    Ok(())
}

/// In small, in every run.
#[test]
fn a_short_history_has_an_order() -> TestResult {
    run(1_000)
}

/// B2, C-01, C-02, C-03, C-04, X-01.
#[test]
#[ignore = "minutes; run with: make history-test"]
fn every_history_has_an_order() -> TestResult {
    run(std::env::var("FTD_HISTORY").ok().map_or(Ok(OPERATIONS), |count| count.parse())?)
}

/// The clients and the checker are worth something: a daemon that acknowledges to one of the writers what
/// it has not done is found out.
#[test]
fn an_acknowledgement_that_is_a_lie_is_found() -> TestResult {
    for lie in [Lie::Lost, Lie::Forged] {
        let mut run = Run::new(Some(lie))?;
        let mut daemon = Daemon::start()?;
        let found = loop {
            let found;
            (daemon, found) = run.live(daemon)?;
            if matches!(found, Err(Trouble::NoOrder(_))) || run.lives == 20 {
                break found;
            }
        };
        assert!(matches!(found, Err(Trouble::NoOrder(_))), "{lie:?}: {found:?}");
        println!("{lie:?}: found in life {} of a daemon", run.lives);
    }
    Ok(())
}
