//! Floor 3: whole transfers, against [`Store`].
//!
//! File work runs on blocking threads, but a thread is held only while bytes move: a transfer whose
//! peer stalls is parked, so that slow peers can never use up the threads. Everything between a
//! thread and a connection goes through bounded channels of pooled buffers.

mod batches;
mod digest;
mod error;
mod inbox;
mod pool;
mod receive;
mod send;
mod shelf;
mod staged;
mod store;
#[cfg(test)]
mod tests;

pub use digest::digest;
pub use error::TransferError;
pub use inbox::Inbox;
pub use pool::{Buffer, Pool, Share};
pub use receive::{Incoming, Keep, check};
pub use send::{Outbox, list, send, send_from};
pub use shelf::{Shelf, Taken, Whole};
pub use staged::{Committed, Seal, Staged, Terms, Verified, digest_at};
pub use store::{Sink, Source, Staging, Store};

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fsroot::{Entry, Stat};

/// Buffers between a connection and a file thread, per transfer.
pub const PARTS_MAX: usize = 4;

/// How long a file thread waits for its connection before it is given to somebody else.
const LINGER: Duration = Duration::from_millis(20);

/// One step of a transfer, on its way between a connection and a file thread.
#[derive(Debug)]
pub enum Part {
    /// A file is about to be sent, in this version.
    Begin(Stat, String),
    /// Some of its content.
    Data(Buffer),
    /// The content is complete.
    End(Seal),
    /// A small file, from its beginning to its end.
    Whole(Box<Whole>),
    /// Some entries of a directory.
    Entries(Vec<Entry>),
    /// The directory is complete.
    Listed(u64),
    /// The transfer failed.
    Failed(TransferError),
}

/// The right to occupy file threads: a share of the daemon's, and never all of them.
#[derive(Clone, Debug)]
pub struct Workers {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

impl Workers {
    /// Everybody's threads.
    pub fn new(threads: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(threads)), own: Arc::new(Semaphore::new(threads)) }
    }

    /// One user's part of them: three quarters, and at least one.
    #[must_use]
    pub fn share(&self, threads: usize) -> Self {
        let own = (threads * 3 / 4).max(1);
        Self { all: Arc::clone(&self.all), own: Arc::new(Semaphore::new(own)) }
    }

    /// Waits for a thread and runs `job` on it.
    ///
    /// # Errors
    /// `Internal` when the job panicked: that ends its own requests and nothing else.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TransferError> {
        let own = acquire(&self.own, 1).await;
        let all = acquire(&self.all, 1).await;
        let job = move || {
            let _held = (own, all);
            job()
        };
        tokio::task::spawn_blocking(job).await.map_err(|_| TransferError::Panicked)
    }
}

/// Waits for `count` permits of a semaphore that is never closed.
async fn acquire(semaphore: &Arc<Semaphore>, count: u32) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_many_owned(count).await.expect("our semaphores are never closed")
}
