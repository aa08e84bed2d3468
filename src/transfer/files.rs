//! Descriptors that requests hold while they wait for their peers: a part of the daemon's for all of them,
//! and half of that for each user, so that logins and commits always find theirs.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::acquire;

/// How many may be held.
#[derive(Clone, Debug)]
pub struct Files {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    most: usize,
}

/// The right to hold some, until it is dropped.
#[derive(Debug)]
pub struct Held(OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Files {
    /// So many, for all together.
    pub fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        let (all, own) = (Arc::new(Semaphore::new(most)), Arc::new(Semaphore::new(most)));
        Self { all, own, most }
    }

    /// One user's part of them: half, and enough for one request.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { own: Arc::new(Semaphore::new(self.own_most())), ..self.clone() }
    }

    fn own_most(&self) -> usize {
        (self.most / 2).max(2)
    }

    /// Waits for so many.
    pub async fn hold(&self, count: u32) -> Held {
        let own = acquire(&self.own, count).await;
        Held(own, acquire(&self.all, count).await)
    }

    /// The same without waiting.
    pub fn try_hold(&self, count: u32) -> Option<Held> {
        let own = Arc::clone(&self.own).try_acquire_many_owned(count).ok()?;
        Some(Held(own, Arc::clone(&self.all).try_acquire_many_owned(count).ok()?))
    }

    /// Whether nobody holds any, neither of this user's part nor of the rest.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_whole(&self) -> bool {
        self.own.available_permits() == self.own_most() && self.all.available_permits() == self.most
    }
}

impl Held {
    /// Both as one.
    #[must_use]
    pub fn and(mut self, more: Self) -> Self {
        self.0.merge(more.0);
        self.1.merge(more.1);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one user never holds all, all together never more than there are, and what is held comes back.
    #[tokio::test]
    async fn one_user_holds_half_and_all_no_more_than_there_are() -> Result<(), &'static str> {
        let files = Files::new(8);
        let users = [files.share(), files.share(), files.share()];
        let held = users[0].try_hold(1).ok_or("one")?.and(users[0].try_hold(3).ok_or("three")?);
        assert!(users[0].try_hold(1).is_none(), "his half");
        let rest = users[1].try_hold(4).ok_or("the other half")?;
        assert!(users[2].try_hold(1).is_none(), "there are no more");
        assert!(!users[2].is_whole());
        drop(held);
        drop(users[2].hold(4).await);
        drop(rest);
        assert!(users.iter().all(Files::is_whole));
        Ok(())
    }
}
