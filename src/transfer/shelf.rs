//! Small files on their way out, which are read whole and several at once.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::batches::Batches;
use super::{Buffer, Files, Held, Seal, Share, Source, Store, TransferError, Workers, alone};
use crate::fsroot::Stat;
use crate::types::{RelPath, Sha256Digest};

/// The largest file that is read whole: larger ones gain little, and would hold memory while they wait.
const WHOLE_BYTES_MAX: u64 = 64 * 1024;

/// Where the files of one connection are taken from.
pub struct Shelf<S: Store> {
    store: Arc<S>,
    batches: Arc<Batches<Wanted<S::Source>>>,
}

/// A file as far as it could be had at once.
pub enum Taken<F> {
    /// All of it.
    Whole(Box<Whole>),
    /// Only opened: it is large, or memory is short.
    Open(F, Held),
    /// Not even that: others hold as many files open as may be.
    Crowded,
}

/// A small file: what it was, in which version, its content, and what a trailer says about it.
#[derive(Debug)]
pub struct Whole {
    /// What it was when it was opened.
    pub stat: Stat,
    /// What tells this content from any other.
    pub version: String,
    /// Nothing where it is empty.
    pub content: Option<Buffer>,
    /// Its end.
    pub seal: Seal,
}

struct Wanted<F> {
    path: RelPath,
    share: Share,
    done: oneshot::Sender<Result<Taken<F>, TransferError>>,
}

impl<S: Store> Shelf<S> {
    /// Nothing is asked for yet.
    pub fn new(store: Arc<S>) -> Self {
        Self { store, batches: Batches::new() }
    }

    /// Opens a file, and reads it if it is small.
    ///
    /// # Errors
    /// `Changed` when it did not stay what it was; the store's.
    pub async fn take(
        &self,
        path: RelPath,
        share: Share,
        workers: &Workers,
    ) -> Result<Taken<S::Source>, TransferError> {
        let (done, taken) = oneshot::channel();
        let (store, files) = (Arc::clone(&self.store), workers.reads().clone());
        // Each is closed before the next one is opened, so that none costs more than the thread.
        self.batches.take_in(
            Wanted { path, share, done },
            workers,
            |_, _| 0,
            move |batch| {
                for Wanted { path, share, done } in batch {
                    // Who no longer waits needs no answer.
                    if !done.is_closed() {
                        drop(done.send(alone(|| take(&*store, &path, &share, &files))));
                    }
                }
            },
        );
        taken.await.unwrap_or(Err(TransferError::Panicked))
    }
}

fn take<S: Store>(
    store: &S,
    path: &RelPath,
    share: &Share,
    files: &Files,
) -> Result<Taken<S::Source>, TransferError> {
    let mut source = store.open(path)?;
    let open = |source| files.try_hold(1).map_or(Taken::Crowded, |held| Taken::Open(source, held));
    let small = source.stat().filter(|stat| stat.bytes <= WHOLE_BYTES_MAX).cloned();
    let Some(stat) = small else { return Ok(open(source)) };
    let mut content = None;
    if stat.bytes > 0 {
        let Some(mut buffer) = share.try_acquire(stat.bytes) else {
            return Ok(open(source));
        };
        let bytes = usize::try_from(stat.bytes).unwrap_or(usize::MAX);
        let room = &mut buffer.room()[..bytes];
        if source.read_at(room, 0)? < bytes {
            return Err(TransferError::Changed); // It shrank.
        }
        buffer.advance(bytes);
        content = Some(buffer);
    }
    if !source.unchanged()? {
        return Err(TransferError::Changed);
    }
    let read = || content.as_ref().map_or(&[][..], Buffer::content);
    let digest = stat.digest.unwrap_or_else(|| Sha256Digest(Sha256::digest(read()).into()));
    let seal = Seal { bytes: stat.bytes, digest };
    Ok(Taken::Whole(Box::new(Whole { version: source.version(), stat, content, seal })))
}
