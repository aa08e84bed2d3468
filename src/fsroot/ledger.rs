//! What lies below the homes that have a quota, to the byte, and what is on its way there.
//!
//! Every change of names goes through [`Ledger::in_turn`]: it has the homes above it for itself from the
//! look at what is there to the change, so that the sums are exact whoever races. Nothing is written
//! down: a start counts what there is (`count.rs`), and no file can lie.
//!
//! A change that hangs with the disk holds up nobody but those below the homes whose turn it has. So homes
//! that a reload brings in wait for nothing; their first count does, for the changes that touch them and
//! began without their turn.
//! Changes that come to that home meanwhile wait too, for a while: nothing is stored there unjudged.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::FsError;
use crate::types::{ErrorCode, Quota, RelPath, Reserve};

/// How long a change waits for the first count of a home that came in after it was let in. That count may wait
/// for a disk that hangs.
pub(super) const COUNT_PATIENCE: Duration =
    Duration::from_millis(if cfg!(test) { 300 } else { 10_000 });

/// A home is known by its path, and the root by nothing.
type Key = Vec<u8>;

/// What lies below a home.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Bytes of regular files.
    pub bytes: u64,
    /// Names.
    pub names: u64,
}

/// By how much a change makes something more or less.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Delta {
    pub(super) bytes: i128,
    pub(super) names: i128,
}

impl Delta {
    /// One file of so many bytes, come or gone.
    pub(super) fn file(bytes: u64) -> Self {
        Self { bytes: bytes.into(), names: 1 }
    }

    pub(super) fn of(usage: Usage) -> Self {
        Self { bytes: usage.bytes.into(), names: usage.names.into() }
    }
}

impl std::ops::Add for Delta {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, names: self.names + other.names }
    }
}

impl std::ops::Neg for Delta {
    type Output = Self;

    fn neg(self) -> Self {
        Self { bytes: -self.bytes, names: -self.names }
    }
}

impl std::ops::Sub for Delta {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

/// What changes, and where.
pub(super) type Change = Vec<(RelPath, Delta)>;

#[derive(Debug)]
struct Home {
    quota: Quota,
    /// `None` until it is counted.
    usage: Option<Usage>,
    /// Held by whoever changes names below it, or counts it.
    turn: Arc<Mutex<()>>,
    /// Changes, by number, that were under way when it came in, and that have not its turn.
    before: Vec<u64>,
}

/// A change that is being carried out.
#[derive(Debug)]
struct Running {
    paths: Vec<RelPath>,
    /// Whether directories move with all that is in them.
    whole: bool,
}

impl Running {
    /// Whether it changes what lies below a home, or the home itself.
    fn touches(&self, home: &[u8]) -> bool {
        self.paths.iter().any(|path| {
            keys_above(path).any(|above| above == home) || self.whole && is_within(home, path)
        })
    }
}

/// What a transfer has taken before its file is there.
#[derive(Clone, Debug)]
struct Held {
    target: RelPath,
    delta: Delta,
    /// Bytes that were promised room and are not on the disk yet.
    due: u64,
}

#[derive(Debug, Default)]
struct Table {
    homes: HashMap<Key, Home>,
    held: HashMap<u64, Held>,
    running: HashMap<u64, Running>,
    last: u64,
    /// How many wait for a change to end, or for a home to be counted.
    waiting: usize,
    /// Bytes of the file system that nobody gets.
    reserve: Reserve,
}

/// The sums of all homes with a quota.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    table: Mutex<Table>,
    /// A change has ended, or a home is counted, or is none any more.
    ended: Condvar,
}

/// Strikes a change out when it ends, also by a panic.
struct Ends<'a> {
    ledger: &'a Ledger,
    number: u64,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let mut table = self.ledger.table();
        table.running.remove(&self.number);
        self.ledger.tell(&table);
    }
}

/// What one transfer has taken; given back when dropped.
#[derive(Debug)]
pub(super) struct Hold {
    ledger: Arc<Ledger>,
    number: u64,
    /// Bytes of the file that it replaces; `None` where it adds a name.
    replaces: Option<u64>,
}

/// The homes above a path, by key, outermost first; the root has the empty key.
fn keys_above(path: &RelPath) -> impl Iterator<Item = &[u8]> {
    let raw = path.raw_bytes();
    let slashes = raw.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    std::iter::once(0).chain(slashes).map(|end| &raw[..end])
}

fn key(home: Option<&RelPath>) -> Key {
    home.map(|home| home.raw_bytes().to_vec()).unwrap_or_default()
}

/// Whether a home is the path itself or lies below it.
fn is_within(key: &[u8], path: &RelPath) -> bool {
    key.strip_prefix(path.raw_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

impl Ledger {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait, if any: each call would be one of the kernel's.
    fn tell(&self, table: &Table) {
        if table.waiting > 0 {
            self.ended.notify_all();
        }
    }

    /// Waits until something ends, or for so long.
    fn wait<'a>(
        &self,
        mut table: MutexGuard<'a, Table>,
        patience: Duration,
    ) -> MutexGuard<'a, Table> {
        table.waiting += 1;
        let woken = self.ended.wait_timeout(table, patience);
        let mut table = woken.unwrap_or_else(PoisonError::into_inner).0;
        table.waiting -= 1;
        table
    }

    /// Waits until all homes above a path are counted, as every change there does, so that it need not.
    ///
    /// # Errors
    /// `Busy`, when that takes longer than `patience`.
    pub(super) fn await_count(&self, path: &RelPath, patience: Duration) -> Result<(), FsError> {
        self.counted(&[path], patience).map(drop)
    }

    /// The table, once all homes above the paths are counted: what changes there has to be judged.
    fn counted(
        &self,
        paths: &[&RelPath],
        patience: Duration,
    ) -> Result<MutexGuard<'_, Table>, FsError> {
        let mut table = self.table();
        let mut deadline = None;
        while !paths.iter().all(|path| table.is_counted(path)) {
            let now = Instant::now();
            let deadline = *deadline.get_or_insert(now + patience);
            if now >= deadline {
                let doing =
                    "wait until the home is counted, because it has a quota now; try again later";
                return Err(FsError::new(ErrorCode::Busy, doing, None));
            }
            table = self.wait(table, deadline - now);
        }
        Ok(table)
    }

    /// Puts other quotas in force, at once. A home that is new has to be counted.
    pub(super) fn configure(&self, homes: &[(Option<RelPath>, Quota)], reserve: Reserve) {
        let mut table = self.table();
        let Table { homes: now, running, .. } = &mut *table;
        let mut known = std::mem::take(now);
        for (home, quota) in homes {
            let key = key(home.as_ref());
            let home = known.remove(&key).unwrap_or_else(|| {
                let touching = running.iter().filter(|(_, change)| change.touches(&key));
                let before = touching.map(|(number, _)| *number).collect();
                Home { quota: *quota, usage: None, turn: Arc::default(), before }
            });
            now.insert(key, Home { quota: *quota, ..home });
        }
        table.reserve = reserve;
        self.tell(&table);
    }

    /// Whether all homes above a path are counted, so that a change there need not wait.
    pub(super) fn is_counted(&self, path: &RelPath) -> bool {
        self.table().is_counted(path)
    }

    /// The homes that are not counted yet.
    pub(super) fn uncounted(&self) -> Vec<Option<RelPath>> {
        let table = self.table();
        let homes = table.homes.iter().filter(|(_, home)| home.usage.is_none());
        homes.map(|(key, _)| RelPath::parse(key).ok()).collect() // The root's key is no path.
    }

    /// What is known about a home.
    pub(super) fn usage(&self, home: Option<&RelPath>) -> Option<Usage> {
        self.table().homes.get(&key(home))?.usage
    }

    /// Counts a home with everybody else kept out of it, once those are done who are in it already.
    pub(super) fn count<E>(
        &self,
        home: Option<&RelPath>,
        count: impl FnOnce() -> Result<Usage, E>,
    ) -> Result<Option<Usage>, E> {
        let key = key(home);
        let mut table = self.table();
        let turn = loop {
            let Some(home) = table.homes.get(&key) else { return Ok(None) };
            if !home.before.iter().any(|number| table.running.contains_key(number)) {
                break Arc::clone(&home.turn);
            }
            table = self.wait(table, COUNT_PATIENCE);
        };
        drop(table);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = count()?;
        let mut table = self.table();
        // One that went and came again meanwhile is another home.
        let same = table.homes.get_mut(&key).filter(|home| Arc::ptr_eq(&home.turn, &turn));
        if let Some(home) = same {
            home.usage = Some(usage);
        }
        self.tell(&table);
        Ok(Some(usage))
    }

    /// Carries out a change of the names `paths` with the homes above them kept for itself; and those
    /// below them, where `whole` says that a directory moves with all that is in it.
    ///
    /// # Errors
    /// The change's; `Busy`, without it, when a home above them came in and cannot be counted for long.
    pub(super) fn in_turn<T>(
        &self,
        paths: &[&RelPath],
        whole: bool,
        change: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let mut turns = Vec::new();
        let _ends = {
            let mut table = self.counted(paths, COUNT_PATIENCE)?;
            if !table.homes.is_empty() {
                let mut keys: Vec<&[u8]> = paths.iter().flat_map(|path| keys_above(path)).collect();
                if whole {
                    let within = |key: &Key| paths.iter().any(|path| is_within(key, path));
                    keys.extend(table.homes.keys().filter(|key| within(key)).map(Vec::as_slice));
                }
                // Everybody takes them in one order.
                keys.sort_unstable();
                keys.dedup();
                let homes = keys.iter().filter_map(|key| table.homes.get(*key));
                turns.extend(homes.map(|home| Arc::clone(&home.turn)));
            }
            table.last += 1;
            let number = table.last;
            let paths = paths.iter().map(|path| (*path).clone()).collect();
            table.running.insert(number, Running { paths, whole });
            Ends { ledger: self, number }
        };
        let _turns: Vec<_> =
            turns.iter().map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        change()
    }

    /// Whether two names have other homes above them, so that what moves between them moves sums.
    pub(super) fn parts(&self, one: &RelPath, other: &RelPath) -> bool {
        let table = self.table();
        let homes = |path| -> Vec<&[u8]> {
            keys_above(path).filter(|key| table.homes.contains_key(*key)).collect()
        };
        homes(one) != homes(other)
    }

    /// The homes that are `path` or lie below it.
    pub(super) fn homes_within(&self, path: &RelPath) -> Vec<RelPath> {
        let table = self.table();
        let keys = table.homes.keys().filter(|key| is_within(key, path));
        keys.filter_map(|key| RelPath::parse(key).ok()).collect()
    }

    /// Takes what was found by counting again; `None` when that failed. What has never been counted waits for
    /// that: others may be in it.
    pub(super) fn found(&self, home: &RelPath, usage: Option<Usage>) {
        let mut table = self.table();
        if let Some(home) =
            table.homes.get_mut(home.raw_bytes()).filter(|home| home.usage.is_some())
        {
            home.usage = usage;
        }
    }

    /// Whether any quota speaks of a path.
    pub(super) fn speaks_of(&self, path: &RelPath) -> bool {
        let table = self.table();
        !table.homes.is_empty() && keys_above(path).any(|key| table.homes.contains_key(key))
    }

    /// Whether a change fits the quotas, beside what others hold.
    ///
    /// # Errors
    /// `Quota`, of the first home in the way.
    pub(super) fn admit(
        &self,
        change: &[(RelPath, Delta)],
        own: Option<&Hold>,
    ) -> Result<(), FsError> {
        self.table().admit(change, own.map(|hold| hold.number))
    }

    /// Writes down what was changed.
    pub(super) fn enter(&self, change: &[(RelPath, Delta)]) {
        self.table().enter(change);
    }

    /// The same for a file that is there now: what was held for it is free in the same moment, so that
    /// nobody sees it twice, or not at all.
    pub(super) fn settle(&self, change: &[(RelPath, Delta)], hold: Option<&Hold>) {
        let mut table = self.table();
        if let Some(hold) = hold {
            table.held.remove(&hold.number);
        }
        table.enter(change);
    }

    /// Bytes that ftd leaves alone or has promised, of a file system of so many in all.
    pub(super) fn taken(&self, total: u64, own: Option<&Hold>) -> u64 {
        let table = self.table();
        let reserve = match table.reserve {
            Reserve::Bytes(bytes) => bytes,
            Reserve::Percent(percent) => total / 100 * u64::from(percent),
        };
        let others =
            table.held.iter().filter(|(number, _)| own.is_none_or(|own| own.number != **number));
        others.fold(reserve, |sum, (_, held)| sum.saturating_add(held.due))
    }
}

impl Table {
    fn is_counted(&self, path: &RelPath) -> bool {
        self.homes.is_empty()
            || keys_above(path)
                .filter_map(|key| self.homes.get(key))
                .all(|home| home.usage.is_some())
    }

    fn enter(&mut self, change: &[(RelPath, Delta)]) {
        if self.homes.is_empty() {
            return;
        }
        for (path, delta) in change {
            for key in keys_above(path) {
                if let Some(usage) = self.homes.get_mut(key).and_then(|home| home.usage.as_mut()) {
                    // What local processes do beside us is met with at zero, not below.
                    usage.bytes = add(usage.bytes, delta.bytes);
                    usage.names = add(usage.names, delta.names);
                }
            }
        }
    }

    fn admit(&self, change: &[(RelPath, Delta)], own: Option<u64>) -> Result<(), FsError> {
        let mut sums: Vec<(&[u8], Delta)> = Vec::new();
        for (path, delta) in change {
            for key in keys_above(path).filter(|key| self.homes.contains_key(*key)) {
                match sums.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, sum)) => *sum = *sum + *delta,
                    None => sums.push((key, *delta)),
                }
            }
        }
        for (key, delta) in sums {
            let Some(Home { quota, usage: Some(usage), .. }) = self.homes.get(key) else {
                continue;
            };
            let held = self
                .held
                .iter()
                .filter(|(number, _)| Some(**number) != own)
                .filter(|(_, held)| keys_above(&held.target).any(|above| above == key))
                .fold(Delta::default(), |sum, (_, held)| sum + held.delta);
            for (delta, used, held, allowed, doing) in [
                (delta.bytes, usage.bytes, held.bytes, quota.bytes, "fit into the quota of bytes"),
                (delta.names, usage.names, held.names, quota.names, "fit into the quota of files"),
            ] {
                let used = i128::from(used) + held;
                if let Some(allowed) =
                    allowed.filter(|allowed| delta > 0 && used + delta > i128::from(*allowed))
                {
                    let used = u64::try_from(used).unwrap_or(0);
                    return Err(FsError::new(ErrorCode::Quota, doing, None).amounts(used, allowed));
                }
            }
        }
        Ok(())
    }
}

fn add(sum: u64, delta: i128) -> u64 {
    u64::try_from((i128::from(sum) + delta).max(0)).unwrap_or(u64::MAX)
}

impl Hold {
    /// Takes nothing yet, for a file that is to go to `target` and to replace so many bytes, if any.
    pub(super) fn new(ledger: &Arc<Ledger>, target: &RelPath, replaces: Option<u64>) -> Self {
        let mut table = ledger.table();
        table.last += 1;
        let number = table.last;
        let (target, delta) = (target.clone(), Delta::default());
        table.held.insert(number, Held { target, delta, due: 0 });
        Self { ledger: Arc::clone(ledger), number, replaces }
    }

    /// Takes as much as a file of so many bytes needs.
    ///
    /// # Errors
    /// `Quota`; it holds what it held before.
    pub(super) fn grow(&self, bytes: u64) -> Result<(), FsError> {
        let delta = self.delta(bytes);
        let mut table = self.ledger.table();
        let Some(held) = table.held.get(&self.number) else { return Ok(()) };
        if delta.bytes > held.delta.bytes || delta.names > held.delta.names {
            table.admit(&[(held.target.clone(), delta)], Some(self.number))?;
        }
        if let Some(held) = table.held.get_mut(&self.number) {
            held.delta = delta;
        }
        Ok(())
    }

    /// The same for what is there already and has to be counted in any case.
    pub(super) fn force(&self, bytes: u64) {
        if let Some(held) = self.ledger.table().held.get_mut(&self.number) {
            held.delta = self.delta(bytes);
        }
    }

    fn delta(&self, bytes: u64) -> Delta {
        let replaced = self.replaces.unwrap_or(0);
        Delta {
            bytes: bytes.saturating_sub(replaced).into(),
            names: self.replaces.is_none().into(),
        }
    }

    /// Says how many bytes were promised and are still to be written.
    pub(super) fn promise(&self, due: u64) {
        if let Some(held) = self.ledger.table().held.get_mut(&self.number) {
            held.due = due;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.ledger.table().held.remove(&self.number);
    }
}
