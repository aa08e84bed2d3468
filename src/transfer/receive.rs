//! A file on its way in: from a channel of parts to a committed name.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::staged::Terms;
use super::{Committed, LINGER, Part, Seal, Sink, Staged, Staging, TransferError, Workers};
use crate::access::Overwrite;
use crate::fsroot::{FsError, Kind, Parents};
use crate::types::limits::BUFFER_BYTES;
use crate::types::{ErrorCode, RelPath};

/// What is known about a file before its content.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Where it is to go.
    pub target: RelPath,
    /// Its size, when the sender knows it.
    pub announced: Option<u64>,
    /// The largest size that is allowed.
    pub bytes_max: u64,
    /// What may happen to a name that is taken.
    pub overwrite: Overwrite,
    /// A file that was stored less than this ago is not replaced.
    pub retain: Option<Duration>,
    /// What to do about missing parent directories.
    pub parents: Parents,
    /// Permission bits, before the umask.
    pub mode: Option<u32>,
    /// Time of modification, nanoseconds since 1970.
    pub mtime_ns: Option<i64>,
}

/// Where a transfer stands between two visits to a file thread.
struct Progress<S: Sink> {
    store: Arc<S>,
    incoming: Incoming,
    staged: Option<Staged<S::Staging>>,
    parts: mpsc::Receiver<Part>,
}

enum Visit<S: Sink> {
    Parked(Box<Progress<S>>),
    Done(Result<Committed, TransferError>),
}

/// Takes parts until [`Part::End`], verifies and commits.
///
/// What is refused for its size or its name is refused before any content is waited for, unless it
/// is so small that all of it is under way. A channel that closes before its end is an abort.
///
/// # Errors
/// Nothing is stored, and nothing staged is left; see [`TransferError`].
pub async fn receive<S: Sink>(
    store: Arc<S>,
    incoming: Incoming,
    parts: mpsc::Receiver<Part>,
    workers: &Workers,
) -> Result<Committed, TransferError> {
    if incoming.announced.is_some_and(|bytes| bytes > incoming.bytes_max) {
        return Err(TransferError::TooLarge { limit: incoming.bytes_max });
    }
    let is_small = incoming.announced.is_some_and(|bytes| bytes <= BUFFER_BYTES as u64);
    let mut progress = Box::new(Progress { store, incoming, staged: None, parts });
    let mut first = if is_small { progress.parts.recv().await.map(Some) } else { Some(None) };
    loop {
        let Some(part) = first else {
            // Unlinking is file work too.
            workers.run(move || drop(progress)).await?;
            return Err(TransferError::Aborted);
        };
        let runtime = Handle::current();
        match workers.run(move || progress.visit(part, &runtime)).await? {
            Visit::Done(outcome) => return outcome,
            Visit::Parked(parked) => progress = parked,
        }
        first = progress.parts.recv().await.map(Some);
    }
}

impl<S: Sink> Progress<S> {
    /// Works on a file thread for as long as parts keep coming.
    fn visit(mut self: Box<Self>, mut part: Option<Part>, runtime: &Handle) -> Visit<S> {
        loop {
            match self.take(part) {
                Ok(None) => {}
                Ok(Some(committed)) => return Visit::Done(Ok(committed)),
                Err(error) => return Visit::Done(Err(error)),
            }
            part = match self.parts.try_recv() {
                Ok(part) => Some(part),
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    return Visit::Done(Err(TransferError::Aborted));
                }
                Err(mpsc::error::TryRecvError::Empty) => {
                    match runtime.block_on(async { timeout(LINGER, self.parts.recv()).await }) {
                        Ok(Some(part)) => Some(part),
                        Ok(None) => return Visit::Done(Err(TransferError::Aborted)),
                        Err(_) => return Visit::Parked(self),
                    }
                }
            };
        }
    }

    fn take(&mut self, part: Option<Part>) -> Result<Option<Committed>, TransferError> {
        let mut staged = match self.staged.take() {
            Some(staged) => staged,
            None => self.open()?,
        };
        match part {
            None => {}
            Some(Part::Data(buffer)) => staged.write(buffer.content())?,
            Some(Part::End(seal)) => return self.finish(staged, seal).map(Some),
            Some(Part::Failed(error)) => return Err(error),
            Some(Part::Begin(_) | Part::Entries(_) | Part::Listed(_)) => {
                return Err(TransferError::Aborted);
            }
        }
        self.staged = Some(staged);
        Ok(None)
    }

    /// Refuses what can be refused by looking, then starts the staging file. The commit decides
    /// again, atomically.
    fn open(&self) -> Result<Staged<S::Staging>, TransferError> {
        let target = &self.incoming.target;
        match (self.store.stat(Some(target)), self.incoming.overwrite) {
            (Ok(_), Overwrite::Never) => {
                return Err(FsError::new(
                    ErrorCode::Exists,
                    "store the file: the name is taken",
                    None,
                )
                .into());
            }
            (Ok(stat), _) if stat.kind != Kind::File => {
                let doing = "replace what stands under this name: it is not a regular file";
                return Err(FsError::new(ErrorCode::WrongType, doing, None).into());
            }
            (Err(error), Overwrite::Only) if error.code() == ErrorCode::NotFound => {
                return Err(TransferError::ReplaceOnly);
            }
            (Err(error), _) if error.code() != ErrorCode::NotFound => return Err(error.into()),
            (Ok(_), _) if self.incoming.retain.is_some() => {
                self.store.check_replaceable(target, self.incoming.retain)?;
            }
            _ => {}
        }
        let mut staging = self.store.stage()?;
        if let Some(bytes) = self.incoming.announced {
            staging.reserve(bytes)?;
        }
        Ok(Staged::new(staging, self.incoming.bytes_max))
    }

    fn finish(&self, staged: Staged<S::Staging>, seal: Seal) -> Result<Committed, TransferError> {
        let terms = Terms {
            replace: self.incoming.overwrite != Overwrite::Never,
            retain: self.incoming.retain,
            parents: self.incoming.parents,
            mode: self.incoming.mode,
            mtime_ns: self.incoming.mtime_ns,
        };
        staged.verify(seal)?.commit(&self.incoming.target, &terms)
    }
}
