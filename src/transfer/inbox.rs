//! Small files, which come in whole and are committed together: they share the way to a file thread and
//! back, the way to their directories, and the flushes.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::batches::Batches;
use super::receive::{forget_kept, look, open, receive_on, terms};
use super::{
    Buffer, Committed, Incoming, LINGER, Part, Seal, Sink, TransferError, Verified, Workers, alone,
    files_on,
};
use crate::access::Overwrite;
use crate::types::limits::BUFFER_BYTES;

/// Where the files of one connection come in.
pub struct Inbox<S: Sink> {
    store: Arc<S>,
    batches: Arc<Batches<Waiting>>,
}

/// A file that is whole, and whoever waits for what comes of it.
struct Waiting {
    incoming: Incoming,
    content: Vec<Buffer>,
    seal: Seal,
    /// Descriptors for it and for the way to it.
    files: u32,
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
        Arc::new(Self { store, batches: Batches::new() })
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
        &self,
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
                let store = Arc::clone(&self.store);
                let files = files_on(&incoming.target);
                let file = Waiting { incoming, content, seal, files, done };
                self.batches.take_in(file, workers, cost, move |batch| commit(&*store, batch));
                outcome.await.unwrap_or(Err(TransferError::Panicked))
            }
        }
    }
}

/// Descriptors that a file takes behind another one: its own, and its directory's with those on the way to it
/// that may have to be made.
fn cost(file: &Waiting, before: Option<&Waiting>) -> u32 {
    match before {
        Some(before) if before.incoming.target.is_beside(&file.incoming.target) => 1,
        _ => file.files,
    }
}

/// Commits what waited, on a file thread.
fn commit<S: Sink>(store: &S, batch: Vec<Waiting>) {
    let (mut waiting, mut verified) = (Vec::new(), Vec::new());
    for Waiting { incoming, content, seal, done, .. } in batch {
        match alone(|| verify(store, &incoming, content, seal)) {
            Ok(file) => {
                verified.push((file, incoming.target.clone(), terms(&incoming)));
                waiting.push((done, incoming.keep));
            }
            Err(error) => drop(done.send(Err(error))), // Who no longer waits needs no answer.
        }
    }
    for ((done, keep), outcome) in waiting.into_iter().zip(Verified::commit_all(verified)) {
        if outcome.is_ok() {
            forget_kept(store, keep.as_ref());
        }
        drop(done.send(outcome));
    }
}

fn verify<S: Sink>(
    store: &S,
    incoming: &Incoming,
    content: Vec<Buffer>,
    seal: Seal,
) -> Result<Verified<S::Staging>, TransferError> {
    // What may replace and create is decided by the commit alone.
    if incoming.overwrite != Overwrite::Allowed {
        look(store, incoming)?;
    }
    let mut staged = open(store, incoming)?;
    for buffer in content {
        staged.write(buffer.content())?;
    }
    staged.verify(seal)
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
            Some(Part::End(seal, _)) => return Ok(Arrived::Whole(content, seal)),
            Some(Part::Failed(error)) => return Err(error),
            Some(Part::Begin(..) | Part::Whole(..) | Part::Entries(_) | Part::Listed(_)) | None => {
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
