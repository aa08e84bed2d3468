//! Small files, which come in whole and are committed together.
//!
//! A file that is whole in memory waits for a file thread. Whichever thread gets free takes all that wait,
//! up to a limit, and commits them at once: so they share its way there and back, the way to their
//! directories, and the flushes. Nobody waits for company: a file that finds no thread at work starts
//! one, and what comes meanwhile is the next batch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::receive::{look, open, receive_on, terms};
use super::{
    Buffer, Committed, Incoming, LINGER, Part, Seal, Sink, TransferError, Verified, Workers,
};
use crate::access::Overwrite;
use crate::types::limits::BUFFER_BYTES;

/// Files of one batch.
const BATCH_MAX: usize = 64;
/// Batches under way at once.
const BATCHES_MAX: usize = 4;
/// Files that wait behind each batch before there is one more.
const CROWD: usize = 16;

/// Where the files of one connection come in.
pub struct Inbox<S: Sink> {
    store: Arc<S>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Batches under way.
    batches: usize,
}

/// A file that is whole, and whoever waits for what comes of it.
struct Waiting {
    incoming: Incoming,
    content: Vec<Buffer>,
    seal: Seal,
    done: oneshot::Sender<Outcome>,
}

type Outcome = Result<Committed, TransferError>;

/// What has come of a small file.
enum Arrived {
    Whole(Vec<Buffer>, Seal),
    /// The rest takes its time, or there is more than was announced.
    Some(VecDeque<Part>),
}

impl<S: Sink> Inbox<S> {
    /// Nothing has come yet.
    pub fn new(store: Arc<S>) -> Arc<Self> {
        Arc::new(Self { store, queue: Mutex::default() })
    }

    /// Where the files go.
    pub fn store(&self) -> &Arc<S> {
        &self.store
    }

    /// Takes parts until [`Part::End`], verifies and commits.
    ///
    /// What is refused for its size or its name is refused before any content is waited for, unless it
    /// is so small that all of it is under way. A channel that closes before its end is a cut; what is
    /// given up on purpose ends with [`Part::Failed`].
    ///
    /// # Errors
    /// Nothing is stored, and nothing staged is left, save what is kept after a cut; see [`TransferError`].
    pub async fn receive(
        self: &Arc<Self>,
        incoming: Incoming,
        mut parts: mpsc::Receiver<Part>,
        workers: &Workers,
    ) -> Outcome {
        let resumes = incoming.keep.as_ref().is_some_and(|keep| keep.resume.is_some());
        let small = incoming.announced.filter(|bytes| *bytes <= BUFFER_BYTES as u64 && !resumes);
        let arrived = match small {
            Some(bytes) if bytes <= incoming.bytes_max => gather(&mut parts, bytes).await?,
            _ => Arrived::Some(VecDeque::new()),
        };
        match arrived {
            Arrived::Some(first) => {
                receive_on(Arc::clone(&self.store), incoming, first, parts, workers).await
            }
            Arrived::Whole(content, seal) => {
                let (done, outcome) = oneshot::channel();
                self.take_in(Waiting { incoming, content, seal, done }, workers);
                outcome.await.unwrap_or(Err(TransferError::Panicked))
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_in(self: &Arc<Self>, file: Waiting, workers: &Workers) {
        let mut queue = self.queue();
        queue.waiting.push_back(file);
        if queue.batches < BATCHES_MAX && queue.waiting.len() > queue.batches * CROWD {
            queue.batches += 1;
            let (inbox, workers) = (Arc::clone(self), workers.clone());
            tokio::spawn(async move {
                while inbox.has_more() {
                    let inbox = Arc::clone(&inbox);
                    // A panic has dropped those who wait, which is their answer.
                    let _ = workers.run(move || inbox.commit()).await;
                }
            });
        }
    }

    /// Whether there is another batch to be made; if not, whoever asks is done.
    fn has_more(&self) -> bool {
        let mut queue = self.queue();
        let more = !queue.waiting.is_empty();
        queue.batches -= usize::from(!more);
        more
    }

    /// Commits what waits, on a file thread.
    fn commit(&self) {
        let batch: Vec<_> = {
            let mut queue = self.queue();
            let count = queue.waiting.len().min(BATCH_MAX);
            queue.waiting.drain(..count).collect()
        };
        let (mut waiting, mut verified) = (Vec::new(), Vec::new());
        for Waiting { incoming, content, seal, done } in batch {
            match self.verify(&incoming, content, seal) {
                Ok(file) => {
                    verified.push((file, incoming.target.clone(), terms(&incoming)));
                    waiting.push(done);
                }
                Err(error) => drop(done.send(Err(error))), // Who no longer waits needs no answer.
            }
        }
        for (done, outcome) in waiting.into_iter().zip(Verified::commit_all(verified)) {
            drop(done.send(outcome));
        }
    }

    fn verify(
        &self,
        incoming: &Incoming,
        content: Vec<Buffer>,
        seal: Seal,
    ) -> Result<Verified<S::Staging>, TransferError> {
        // What may replace and create is decided by the commit alone.
        if incoming.overwrite != Overwrite::Allowed {
            look(&*self.store, incoming)?;
        }
        let mut staged = open(&*self.store, incoming)?;
        for buffer in content {
            staged.write(buffer.content())?;
        }
        staged.verify(seal)
    }
}

/// Waits for a small file, as long as it keeps coming.
async fn gather(
    parts: &mut mpsc::Receiver<Part>,
    announced: u64,
) -> Result<Arrived, TransferError> {
    let (mut content, mut bytes) = (Vec::new(), 0);
    let mut next = parts.recv().await;
    loop {
        match next {
            Some(Part::Data(buffer)) => {
                bytes += buffer.content().len() as u64;
                content.push(buffer);
            }
            Some(Part::End(seal)) => return Ok(Arrived::Whole(content, seal)),
            Some(Part::Failed(error)) => return Err(error),
            Some(Part::Begin(..) | Part::Entries(_) | Part::Listed(_)) | None => {
                return Err(TransferError::Aborted);
            }
        }
        let soon = if bytes > announced { None } else { timeout(LINGER, parts.recv()).await.ok() };
        match soon {
            Some(part) => next = part,
            None => return Ok(Arrived::Some(content.into_iter().map(Part::Data).collect())),
        }
    }
}
