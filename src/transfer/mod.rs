//! Floor 3: whole transfers, against [`Store`].
//!
//! File work runs on blocking threads, but a thread is held only while bytes move: a transfer whose
//! peer stalls is parked, so that slow peers can never use up the threads. Everything between a
//! thread and a connection goes through bounded channels of pooled buffers.

mod batches;
mod digest;
mod error;
mod files;
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
pub use files::{Files, Held, NoneFree, Visit};
pub use inbox::Inbox;
pub use pool::{Buffer, Pool, Share};
pub use receive::{Incoming, Keep, check};
pub use send::{Outbox, list, send, send_from};
pub use shelf::{Shelf, Taken, Whole};
pub use staged::{Committed, Seal, Staged, Terms, Verified, digest_at};
pub use store::{Sink, Source, Staging, Store};

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::fsroot::{Entry, Stat};
use crate::types::RelPath;

/// Buffers between a connection and a file thread, per transfer.
pub const PARTS_MAX: usize = 4;

/// How long what is read waits when others have all descriptors.
const READ_PATIENCE: Duration = Duration::from_secs(30);

/// How long a file thread waits for its connection before it is given to somebody else.
const LINGER: Duration = Duration::from_millis(20);

/// Where to say that everything up to here was sent; dropped when it was not.
pub type Receipt = oneshot::Sender<()>;

/// One step of a transfer, on its way between a connection and a file thread.
#[derive(Debug)]
pub enum Part {
    /// A file is about to be sent, in this version.
    Begin(Stat, String),
    /// Some of its content.
    Data(Buffer),
    /// The content is complete; where it goes out, somebody waits to hear that it did.
    End(Seal, Option<Receipt>),
    /// A small file, from its beginning to its end.
    Whole(Box<Whole>, Receipt),
    /// Some entries of a directory.
    Entries(Vec<Entry>),
    /// The directory is complete.
    Listed(u64),
    /// The transfer failed.
    Failed(TransferError),
}

/// Descriptors that may be open while something gets its name: its own, and those on the way to it.
pub fn files_on(path: &RelPath) -> u32 {
    1 + u32::try_from(path.depth()).unwrap_or(u32::MAX - 1)
}

/// Does what is one file's alone among others: a panic fails that file, and no other.
fn alone<T>(work: impl FnOnce() -> Result<T, TransferError>) -> Result<T, TransferError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(TransferError::Panicked))
}

/// The right to occupy file threads, and descriptors between two visits to one: a share of the daemon's, and
/// never all of them.
#[derive(Clone, Debug)]
pub struct Workers {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    reads: Files,
    puts: Files,
    pauses: Option<Pauses>,
}

/// How long a simulated file thread takes before its work is done, and again before that is known.
#[derive(Clone)]
struct Pauses(Arc<dyn Fn() -> Duration + Send + Sync>);

impl fmt::Debug for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pauses")
    }
}

impl Workers {
    /// Everybody's threads.
    pub fn new(threads: usize) -> Self {
        let (all, own) = (Arc::new(Semaphore::new(threads)), Arc::new(Semaphore::new(threads)));
        let (reads, puts) = (Files::new(usize::MAX), Files::new(usize::MAX));
        Self { all, own, reads, puts, pauses: None }
    }

    /// The same with no more than so many descriptors: half of them for what is read, half for uploads.
    #[must_use]
    pub fn with_files(self, count: usize) -> Self {
        Self { reads: Files::new(count / 2), puts: Files::new(count / 2), ..self }
    }

    /// The same without threads: a task does the work, all of it at one time, after a pause. So a
    /// simulation has one order of things, and chooses it.
    #[must_use]
    pub fn simulated(threads: usize, pause: Arc<dyn Fn() -> Duration + Send + Sync>) -> Self {
        Self { pauses: Some(Pauses(pause)), ..Self::new(threads) }
    }

    /// One user's part of them: three quarters of the threads, and at least one; of the descriptors half of what is left.
    #[must_use]
    pub fn share(&self, threads: usize) -> Self {
        let own = (threads * 3 / 4).max(1);
        let (reads, puts) = (self.reads.share(), self.puts.share());
        Self { own: Arc::new(Semaphore::new(own)), reads, puts, ..self.clone() }
    }

    /// Descriptors of files and directories that are read.
    pub fn reads(&self) -> &Files {
        &self.reads
    }

    /// Waits for so many of them: while others of the user hold some, as long as that takes. Whoever waits holds
    /// nothing else.
    ///
    /// # Errors
    /// `Busy` when other users have all of them for too long.
    pub async fn hold_reads(&self, count: u32) -> Result<Held, TransferError> {
        let held = self.reads.hold(count, READ_PATIENCE).await;
        held.map_err(|NoneFree| TransferError::Crowded("gets, listings and digests"))
    }

    /// Descriptors of uploads.
    pub fn puts(&self) -> &Files {
        &self.puts
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
        let running = match self.pauses.clone() {
            None => tokio::task::spawn_blocking(job),
            Some(Pauses(pause)) => tokio::spawn(async move {
                tokio::time::sleep(pause()).await;
                let done = job();
                tokio::time::sleep(pause()).await;
                done
            }),
        };
        running.await.map_err(|_| TransferError::Panicked)
    }

    /// Whether no thread or descriptor is taken, neither by this user nor by others.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn are_free(&self, threads: usize) -> bool {
        self.all.available_permits() == threads
            && self.own.available_permits() == (threads * 3 / 4).max(1)
            && self.reads.is_whole()
            && self.puts.is_whole()
    }

    /// How a job that [`Workers::run`] runs waits for its connection.
    fn linger(&self) -> Linger {
        Linger(self.pauses.is_none().then(Handle::current))
    }
}

/// A wait on a file thread; a simulated one has no thread to wait on, and is parked at once.
struct Linger(Option<Handle>);

impl Linger {
    /// What comes within the time that a thread may wait.
    fn wait<T>(&self, coming: impl Future<Output = T>) -> Option<T> {
        let Some(runtime) = &self.0 else {
            return match pin!(coming).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(here) => Some(here),
                Poll::Pending => None,
            };
        };
        runtime.block_on(async { tokio::time::timeout(LINGER, coming).await }).ok()
    }
}

/// Waits for `count` permits of a semaphore that is never closed.
async fn acquire(semaphore: &Arc<Semaphore>, count: u32) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_many_owned(count).await.expect("our semaphores are never closed")
}
