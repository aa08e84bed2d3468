//! Descriptors that requests hold while they wait for their peers: a part of the daemon's for all of them, so
//! that logins and commits always find theirs.
//!
//! A user gets more for as long as he leaves as many as he has then: one alone has half of them, the next half of
//! what is left, or a third each if both come together, and so on. So it takes many who ask for all that they can to
//! leave nothing to who asks for little.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// How many may be held.
#[derive(Clone, Debug)]
pub struct Files {
    all: Arc<All>,
    own: Arc<Own>,
}

#[derive(Debug)]
struct All {
    free: Mutex<usize>,
    #[cfg(any(test, fuzzing))]
    most: usize,
    /// Some came back.
    returned: Notify,
    /// Who makes a long way to a directory without any of these.
    lone: Mutex<()>,
}

/// What one user has.
#[derive(Debug, Default)]
struct Own {
    /// Changes only while `free` is locked.
    held: AtomicUsize,
    /// Of those who wait the first alone looks for what comes back.
    turn: tokio::sync::Mutex<()>,
}

/// The right to hold some, until it is dropped.
#[derive(Debug)]
pub struct Held {
    files: Files,
    count: usize,
}

/// The right of a visit to a file thread to hold some.
#[derive(Debug)]
pub enum Visit<'f> {
    /// Those of the thread are enough.
    Short,
    /// They count as all others.
    Counted(Held),
    /// No other visit has a long way meanwhile.
    Alone(MutexGuard<'f, ()>),
}

/// The wait for some is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NoneFree;

impl Files {
    /// Descriptors of each file thread, which are not among these.
    pub const OF_A_THREAD: u32 = 4;
    /// Descriptors of one visit at a time, which are not among these either: two paths of the greatest depth, a home's
    /// and one below it.
    pub const OF_ONE_VISIT: u32 = 2 * (64 + 64) + Self::OF_A_THREAD;

    /// So many, for all together.
    pub fn new(most: usize) -> Self {
        let most = most.min(usize::MAX / 4); // There is room for sums.
        let (returned, lone) = (Notify::new(), Mutex::new(()));
        let all = All {
            free: Mutex::new(most),
            #[cfg(any(test, fuzzing))]
            most,
            returned,
            lone,
        };
        Self { all: Arc::new(all), own: Arc::default() }
    }

    /// One user's part of them.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { all: Arc::clone(&self.all), own: Arc::default() }
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        self.all.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many, if as many are left then as the user has; who has none only needs them to be there.
    pub fn try_hold(&self, count: u32) -> Option<Held> {
        let count = usize::try_from(count).ok()?;
        let mut free = self.free();
        let left = free.checked_sub(count)?;
        let held = self.own.held.load(Ordering::Relaxed);
        if held > 0 && held + count > left {
            return None;
        }
        *free = left;
        self.own.held.store(held + count, Ordering::Relaxed);
        Some(Held { files: self.clone(), count })
    }

    /// For a visit to a file thread, which ends by itself: those of the thread, or of the user's, or the ones that
    /// are set aside for one visit at a time; for these it waits on its thread.
    pub fn visit(&self, count: u32) -> Visit<'_> {
        if count <= Self::OF_A_THREAD {
            return Visit::Short;
        }
        self.try_hold(count).map_or_else(|| self.alone(count), Visit::Counted)
    }

    /// The same for a user who cannot have more.
    pub fn alone(&self, count: u32) -> Visit<'_> {
        if count <= Self::OF_A_THREAD {
            return Visit::Short;
        }
        Visit::Alone(self.all.lone.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for so many, however long others of the user hold theirs.
    async fn wait(&self, count: u32) -> Held {
        let _turn = self.own.turn.lock().await;
        loop {
            let mut returned = std::pin::pin!(self.all.returned.notified());
            returned.as_mut().enable(); // What comes back from here on is not missed.
            if let Some(held) = self.try_hold(count) {
                return held;
            }
            returned.await;
        }
    }

    /// Waits for so many: for as long as the user has others that may come back, and else no longer than this.
    ///
    /// # Errors
    /// [`NoneFree`] when that is over.
    pub async fn hold(&self, count: u32, patience: Duration) -> Result<Held, NoneFree> {
        let mut waiting = std::pin::pin!(self.wait(count));
        loop {
            match timeout(patience, &mut waiting).await {
                Ok(held) => return Ok(held),
                Err(_) if self.own.held.load(Ordering::Relaxed) > 0 => {}
                Err(_) => return Err(NoneFree),
            }
        }
    }

    /// The same, but no longer than this in any case.
    ///
    /// # Errors
    /// [`NoneFree`] when that is over.
    pub async fn hold_soon(&self, count: u32, patience: Duration) -> Result<Held, NoneFree> {
        timeout(patience, self.wait(count)).await.map_err(|_| NoneFree)
    }

    /// Whether nobody holds any, neither this user nor others.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_whole(&self) -> bool {
        self.own.held.load(Ordering::Relaxed) == 0 && *self.free() == self.all.most
    }
}

impl Held {
    /// Both as one, of the same user.
    #[must_use]
    pub fn and(mut self, mut more: Self) -> Self {
        self.count += std::mem::take(&mut more.count);
        self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        let mut free = self.files.free();
        *free += self.count;
        self.files.own.held.fetch_sub(self.count, Ordering::Relaxed);
        drop(free);
        self.files.all.returned.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn all(user: &Files) -> Vec<Held> {
        std::iter::from_fn(|| user.try_hold(1)).collect()
    }

    /// Goal: one user never holds more than half, and what is held comes back.
    #[tokio::test]
    async fn one_user_holds_half_and_what_is_held_comes_back() -> Result<(), &'static str> {
        let files = Files::new(8);
        let users = [files.share(), files.share()];
        let held = users[0].try_hold(1).ok_or("one")?.and(users[0].try_hold(3).ok_or("three")?);
        assert!(users[0].try_hold(1).is_none(), "his half");
        let rest = users[1].try_hold(4).ok_or("who holds none gets what is there")?;
        assert!(users[1].try_hold(1).is_none(), "there are no more");
        assert!(!users[1].is_whole());
        drop(held);
        drop(users[0].hold(4, PATIENCE).await);
        drop(rest);
        assert!(users.iter().all(Files::is_whole));
        Ok(())
    }

    /// Goal: however many take all that they can, there is enough for the next one.
    #[test]
    fn who_takes_all_leaves_as_many_to_the_next() {
        let files = Files::new(256);
        let mut taken = Vec::new();
        for least in [128, 64, 32, 16, 8, 4, 2] {
            let held = all(&files.share());
            assert_eq!(held.len(), least);
            taken.push(held);
        }
    }

    /// Goal: what a visit to a thread holds is the thread's, counted, or that of the one visit that is not.
    #[test]
    fn a_long_way_is_counted_or_alone() {
        let user = Files::new(20).share();
        assert!(matches!(user.visit(4), Visit::Short));
        let first = user.visit(10);
        assert!(matches!(first, Visit::Counted(_)));
        let second = user.visit(10);
        assert!(matches!(second, Visit::Alone(_)));
        assert!(user.all.lone.try_lock().is_err(), "a third one waits");
        assert!(matches!(user.visit(4), Visit::Short));
        drop((first, second));
        assert!(matches!(user.alone(10), Visit::Alone(_)));
        assert!(user.is_whole());
    }

    /// Goal: who holds none is told when there are none; who holds some waits for his own; nobody who waits is
    /// forgotten.
    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_or_told() {
        let files = Files::new(4);
        let [alice, bob, carol] = [files.share(), files.share(), files.share()];
        let (hers, his) = (all(&alice), bob.try_hold(2));
        assert_eq!((hers.len(), his.is_some()), (2, true));
        assert_eq!(carol.hold(1, PATIENCE).await.err(), Some(NoneFree));
        assert_eq!(bob.hold_soon(1, PATIENCE).await.err(), Some(NoneFree));
        let waits = tokio::spawn(async move { bob.hold(1, PATIENCE).await.is_ok() });
        let asks = tokio::spawn(async move { carol.hold(2, PATIENCE).await.is_ok() });
        tokio::time::sleep(PATIENCE / 2).await;
        drop(hers);
        assert!(asks.await.is_ok_and(|held| held));
        tokio::time::sleep(10 * PATIENCE).await;
        assert!(!waits.is_finished(), "he has as many as are left");
        drop(his);
        assert!(waits.await.is_ok_and(|held| held));
        assert!(alice.is_whole());
    }
}
