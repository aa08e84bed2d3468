//! One run of `ftc`: its settings, its connections, and the count of what failed.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, DefaultHasher, Hash as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::cli::{Copying, Global};
use super::connect::{Dialer, Keys, connect};
use super::engine::{Line, Throttle};
use super::exit::{Exit, Failure};
use super::operand::{Remote, Server};
use super::report::{Done, Item, Meter, Report};
use super::settings::Settings;
use crate::types::Foreign;

/// The first pause before a connection is tried again, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How often a connection is tried that is cut before the server has said hello.
const FIRST_TRIES: u32 = 6;

/// How a file's transfer ended: a failure comes with what it was about.
pub type Outcome = Result<(), (Item, Failure)>;

/// What all parts of a run share.
pub struct Job {
    /// What the user asked for.
    pub settings: Settings,
    /// Who tells about it.
    pub report: Report,
    /// Whether content is to be compressed on its way.
    compress: bool,
    shared: Arc<Shared>,
    failed: Mutex<Failed>,
    done: AtomicU64,
    gone: Mutex<Gone>,
}

/// Connections that are not tried again in this run, and why.
#[derive(Default)]
struct Gone {
    why: HashMap<(String, usize), Failure>,
    is_told: bool,
}

/// What outlives one line at a prompt.
#[derive(Default)]
struct Shared {
    throttle: Arc<Throttle>,
    keys: Keys,
    dialer: Dialer,
    jitter: Jitter,
    lanes: Mutex<HashMap<(String, usize), Arc<Lane>>>,
    /// Where the user stands, at a prompt: a server, and a directory there.
    place: Mutex<Option<(Option<Server>, Vec<u8>)>>,
}

/// A place for one connection.
#[derive(Default)]
struct Lane {
    line: tokio::sync::Mutex<Option<Line>>,
    /// Whether it ever stood: a first connection that fails is not tried again, unless it was cut.
    stood: Arc<AtomicBool>,
}

#[derive(Default)]
struct Failed {
    first: Option<Exit>,
    differs: bool,
}

impl Job {
    /// Nothing done yet.
    pub fn new(settings: Settings, report: Report, how: Option<&Copying>) -> Self {
        Self::with(settings, report, how, Arc::default())
    }

    /// Nothing done yet, and somebody else than the kernel opens Unix sockets.
    #[cfg(test)]
    pub(super) fn dialing(settings: Settings, report: Report, dialer: Dialer, seed: u64) -> Self {
        let jitter = Jitter(AtomicU64::new(seed));
        let shared = Arc::new(Shared { dialer, jitter, ..Shared::default() });
        Self::with(settings, report, None, shared)
    }

    fn with(
        settings: Settings,
        report: Report,
        how: Option<&Copying>,
        shared: Arc<Shared>,
    ) -> Self {
        shared.throttle.set(how.and_then(|how| how.bwlimit).map(|rate| rate.as_u64()));
        let compress = how.is_some_and(|how| how.compress);
        let (failed, gone) = (Mutex::default(), Mutex::default());
        Self { settings, report, compress, shared, failed, done: AtomicU64::new(0), gone }
    }

    /// Another run from the same place, over the same connections.
    pub fn again_with(&self, global: Global, report: Report, how: Option<&Copying>) -> Self {
        let settings = Settings { global, ..self.settings.clone() };
        Self::with(settings, report, how, Arc::clone(&self.shared))
    }

    fn failures(&self) -> MutexGuard<'_, Failed> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> MutexGuard<'_, Gone> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a server is out of reach for the rest of this run.
    pub fn is_gone(&self, server: &Server) -> bool {
        self.gone().why.contains_key(&(server.name(), 0))
    }

    /// Takes a file's bar away, and tells what is done; a failure is the caller's to tell.
    pub fn end(&self, item: Item, meter: &Meter, outcome: Result<Done, Failure>) -> Outcome {
        meter.clear();
        outcome.map(|done| self.report.done(meter, &done)).map_err(|failure| (item, failure))
    }

    /// Counts an outcome, and tells a failure; of those that a lost server causes only the first.
    pub fn note(&self, item: Option<&Item>, outcome: Result<(), Failure>) {
        match outcome {
            Ok(()) => self.succeeded(),
            Err(failure) => {
                let is_told = self.gone().tells(&failure);
                self.report.failed(item, &failure, is_told);
                self.count(failure.exit);
            }
        }
    }

    /// Counts something that went well.
    pub fn succeeded(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure that is told elsewhere.
    pub fn count(&self, exit: Exit) {
        let mut failed = self.failures();
        match failed.first {
            None => failed.first = Some(exit),
            Some(first) if first != exit => failed.differs = true,
            Some(_) => {}
        }
    }

    /// How the program ends: the one failure's code, or that some of many failed.
    pub fn exit(&self) -> Exit {
        let failed = self.failures();
        match failed.first {
            None if self.report.lacks_receipts() => Exit::Other,
            None => Exit::Ok,
            Some(first) if self.done.load(Ordering::Relaxed) == 0 && !failed.differs => first,
            Some(_) => Exit::Partial,
        }
    }

    /// Says goodbye to all servers, tells the sums, and gives the exit code.
    pub async fn finish(&self) -> Exit {
        let exit = self.exit();
        self.sum_up(exit);
        self.hang_up().await;
        exit
    }

    /// Says goodbye to all servers.
    pub async fn hang_up(&self) {
        let lanes: Vec<_> = self.lanes().drain().collect();
        for (_, lane) in lanes {
            let line = lane.line.lock().await.take();
            if let Some(line) = line {
                line.close().await;
            }
        }
    }

    /// Drops all connections as they are: what was under way on them counts as cut.
    pub fn drop_lines(&self) {
        for (_, lane) in self.lanes().drain() {
            if let Ok(mut line) = lane.line.try_lock()
                && let Some(line) = line.take()
            {
                line.cut_off();
            }
        }
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<(String, usize), Arc<Lane>>> {
        self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lane(&self, server: &Server, lane: usize) -> Arc<Lane> {
        Arc::clone(self.lanes().entry((server.name(), lane)).or_default())
    }

    /// A connection to a server, made when it is first needed, and again when it was lost.
    ///
    /// # Errors
    /// Each says what to do next.
    pub async fn line(&self, server: &Server, number: usize) -> Result<Line, Failure> {
        let seat = self.lane(server, number);
        let mut place = seat.line.lock().await;
        if let Some(line) = place.as_ref().filter(|line| !line.is_broken()) {
            self.compress(line, server).await;
            self.report.connected();
            return Ok(line.clone());
        }
        let key = (server.name(), number);
        if let Some(failure) = self.gone().why.get(&key) {
            return Err(failure.clone());
        }
        let Shared { keys, dialer, throttle, .. } = &*self.shared;
        let made = {
            // Who was let in before is not asked again.
            let _undrawn = (!seat.stood.load(Ordering::Relaxed)).then(|| self.report.connecting());
            connect(server, &self.settings, keys, dialer, throttle, &seat.stood).await
        };
        let made = made.map_err(|failure| match failure.hint {
            None if failure.is_cut => failure.hint(
                "perhaps too many come from your address at once, or with wrong keys: try again in some minutes",
            ),
            _ => failure,
        });
        let made = made.inspect_err(|failure| {
            if !seat.stood.load(Ordering::Relaxed) && !failure.is_cut {
                self.gone().why.insert(key, failure.clone());
            }
        })?;
        if let Some(hello) = made.hello() {
            seat.stood.store(true, Ordering::Relaxed);
            self.report.explain(|| {
                let (user, version) = (Foreign(&hello.user), Foreign(&hello.server));
                format!("logged in to {} ({version}) as {user}", server.name())
            });
        }
        self.report.connected();
        self.compress(&made, server).await;
        *place = Some(made.clone());
        Ok(made)
    }

    /// Has a connection compress, if that is wanted. One that is gone is noticed by whoever uses it.
    async fn compress(&self, line: &Line, server: &Server) {
        if self.compress
            && let Err(failure) = line.compress().await
        {
            self.report
                .explain(|| format!("{} goes uncompressed: {}", server.name(), failure.message));
        }
    }

    /// Tells the sums.
    pub fn sum_up(&self, exit: Exit) {
        self.report.finish(exit, self.shared.throttle.passed());
    }

    /// A fresh count of tries for one piece of work.
    pub fn patience(&self) -> Patience {
        let jitter = self.shared.jitter.next();
        Patience { limit: self.settings.global.retry, since: None, tries: 0, jitter }
    }

    /// Whether to try again after this outcome; waits before it says yes.
    pub async fn again<T>(
        &self,
        server: &Server,
        lane: usize,
        patience: &mut Patience,
        outcome: &Result<T, Failure>,
    ) -> bool {
        let Err(failure) = outcome else { return false };
        let seat = self.lane(server, lane);
        let key = (server.name(), lane);
        // Cut before it was known who we are: others from our address may have crowded us out.
        let is_crowded = failure.is_cut && patience.tries < FIRST_TRIES;
        if !seat.stood.load(Ordering::Relaxed) && !is_crowded {
            // The server has refused us, or was lost, before it said hello: others need not try.
            self.gone().why.entry(key).or_insert_with(|| failure.clone());
            return false;
        }
        if !failure.is_lost() || self.gone().why.contains_key(&key) {
            return false;
        }
        let Some(pause) = patience.pause() else {
            // Others need not find out for themselves.
            let stands = |line: &Option<Line>| line.as_ref().is_some_and(|line| !line.is_broken());
            if seat.line.try_lock().is_ok_and(|line| !stands(&line)) {
                self.gone().why.insert(key, failure.clone());
            }
            return false;
        };
        self.report.explain(|| {
            format!("{}; trying again in {:.1} s", failure.message, pause.as_secs_f32())
        });
        tokio::time::sleep(pause).await;
        true
    }

    /// A connection, as [`Job::line`] gives it, tried again as [`Job::again`] tells.
    ///
    /// # Errors
    /// As for the last try.
    pub async fn steady_line(&self, server: &Server, number: usize) -> Result<Line, Failure> {
        let mut patience = self.patience();
        loop {
            let outcome = self.line(server, number).await;
            if !self.again(server, number, &mut patience, &outcome).await {
                return outcome;
            }
        }
    }

    /// Asks for what has one answer, again if the connection is lost.
    ///
    /// # Errors
    /// The server's word, or the connection's end.
    pub async fn ask(
        &self,
        server: &Server,
        request: &crate::proto::Request,
    ) -> Result<crate::proto::Answer, Failure> {
        let mut patience = self.patience();
        loop {
            let outcome = match self.line(server, 0).await {
                Ok(line) => line.ask(request).await,
                Err(failure) => Err(failure),
            };
            if !self.again(server, 0, &mut patience, &outcome).await {
                return outcome;
            }
        }
    }

    /// Reads an operand that must be remote.
    ///
    /// # Errors
    /// It names no server, and there is no default one; or its path breaks a rule.
    pub fn remote(&self, operand: &std::ffi::OsStr) -> Result<(Server, Remote), Failure> {
        let remote = self.placed(Remote::parse(operand, self.settings.global.port)?);
        Ok((self.server_of(&remote)?, remote))
    }

    /// The server that an operand means.
    ///
    /// # Errors
    /// It means the default one, and there is none.
    pub fn server_of(&self, remote: &Remote) -> Result<Server, Failure> {
        self.settings.server_of(remote)
    }

    /// The server of operands that name none.
    ///
    /// # Errors
    /// There is none.
    pub fn default_server(&self) -> Result<Server, Failure> {
        let home = Remote { server: None, path: Vec::new() };
        self.server_of(&self.placed(home))
    }

    fn stand(&self) -> MutexGuard<'_, Option<(Option<Server>, Vec<u8>)>> {
        self.shared.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes to a directory: from now on what names no server is there.
    pub fn move_to(&self, server: Option<Server>, path: Vec<u8>) {
        *self.stand() = Some((server, path));
    }

    /// The directory in which the user stands, at a prompt.
    pub fn place(&self) -> Vec<u8> {
        self.stand().as_ref().map_or_else(Vec::new, |(_, path)| path.clone())
    }

    /// An operand as it stands where the user is. At a prompt `/` is the home, and `..` goes up: no
    /// link is ever followed there, so that this can be told from the names alone.
    pub fn placed(&self, remote: Remote) -> Remote {
        match (&*self.stand(), &remote.server) {
            (Some((server, base)), None) => {
                Remote { server: server.clone(), path: resolve(base, &remote.path) }
            }
            _ => remote,
        }
    }
}

impl Gone {
    /// Whether a failure is news.
    fn tells(&mut self, failure: &Failure) -> bool {
        let is_cause = |why: &Failure| {
            why.exit == failure.exit && (why.is_lost() || failure.message.ends_with(&why.message))
        };
        !self.why.values().any(is_cause) || !std::mem::replace(&mut self.is_told, true)
    }
}

/// A path as typed at a prompt, from the home.
fn resolve(base: &[u8], typed: &[u8]) -> Vec<u8> {
    let from = if typed.starts_with(b"/") { &b""[..] } else { base };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in from.split(|byte| *byte == b'/').chain(typed.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut path = parts.join(&b'/');
    let is_directory = typed.is_empty() || typed.ends_with(b"/") || typed.ends_with(b".");
    if !path.is_empty() && is_directory && !is_name_with_dot(typed) {
        path.push(b'/');
    }
    path
}

/// Whether what ends with a dot is a name, and neither `.` nor `..`.
fn is_name_with_dot(typed: &[u8]) -> bool {
    let last = typed.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    !last.is_empty() && !matches!(last, b"." | b"..")
}

/// What makes pauses differ: between two runs, and between two pieces of work of one.
struct Jitter(AtomicU64);

impl Default for Jitter {
    fn default() -> Self {
        Self(AtomicU64::new(RandomState::new().hash_one(0_u8)))
    }
}

impl Jitter {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// How often, and for how long, something lost is tried again.
pub struct Patience {
    limit: Duration,
    since: Option<Instant>,
    tries: u32,
    jitter: u64,
}

impl Patience {
    /// Something went ahead since the last try.
    pub fn progressed(&mut self) {
        (self.since, self.tries) = (None, 0);
    }

    /// Waits before the same is tried again; `false` when that has gone on for too long.
    pub async fn wait(&mut self) -> bool {
        let Some(pause) = self.pause() else { return false };
        tokio::time::sleep(pause).await;
        true
    }

    /// How long to wait now: longer every time, and never the same for two clients of one server.
    fn pause(&mut self) -> Option<Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let full = PAUSE.0.saturating_mul(1 << self.tries.min(10)).min(PAUSE.1);
        let mut hasher = DefaultHasher::new();
        (self.jitter, self.tries).hash(&mut hasher);
        let jitter = (hasher.finish() % 1000) as u32;
        let pause = full / 2 + full * jitter / 2000;
        self.tries += 1;
        (since.elapsed() + pause <= self.limit).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_goes_up_and_down_and_never_above_the_home() {
        for (base, typed, expected) in [
            ("", "a", "a"),
            ("a/b", "", "a/b/"),
            ("a/b", "c", "a/b/c"),
            ("a/b", "c/", "a/b/c/"),
            ("a/b", "..", "a/"),
            ("a/b", "../c.", "a/c."),
            ("a/b", "../../../..", ""),
            ("a/b", "/c", "c"),
            ("a/b", "/", ""),
            ("a/b", ".", "a/b/"),
            ("a", "b//./c", "a/b/c"),
        ] {
            let found = resolve(base.as_bytes(), typed.as_bytes());
            assert_eq!(String::from_utf8_lossy(&found), expected, "{base} {typed}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_with_jitter_and_end_with_the_limit() {
        let mut patience =
            Patience { limit: Duration::from_secs(30), since: None, tries: 0, jitter: 0 };
        let start = Instant::now();
        let mut pauses = Vec::new();
        while let Some(pause) = patience.pause() {
            pauses.push(pause);
            tokio::time::advance(pause).await;
        }
        assert!(start.elapsed() <= Duration::from_secs(30) && pauses.len() > 5, "{pauses:?}");
        assert!(pauses[0] <= PAUSE.0 && pauses.iter().all(|pause| *pause <= PAUSE.1));
        let mut none = Patience { limit: Duration::ZERO, since: None, tries: 0, jitter: 0 };
        assert!(none.pause().is_none(), "--retry 0 never tries again");
    }
}
