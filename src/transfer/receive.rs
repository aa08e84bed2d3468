//! A file on its way in: from a channel of parts to a committed name.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::staged::Terms;
use super::{
    Committed, Files, Linger, NoneFree, Part, Sink, Staged, Store, TransferError, Workers, files_on,
};
use crate::access::Overwrite;
use crate::fsroot::{FsError, Kind, Owner, Parents, UploadId};
use crate::types::{ErrorCode, RelPath};

/// How long an upload waits for others to end, when as many are under way as there are descriptors for.
const CROWD_WAIT: Duration = Duration::from_secs(5);

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
    /// For whom it is, and what is kept when the transfer is cut; `None` where nothing is.
    pub keep: Option<Keep>,
}

/// Whose a transfer is, and how it is gone on with when it is cut.
#[derive(Clone, Debug)]
pub struct Keep {
    /// For whom. What is kept for him already goes when this is stored.
    pub owner: Owner,
    /// Whether what has arrived is kept.
    pub resumable: bool,
    /// Which upload this one continues, and from which byte on.
    pub resume: Option<(UploadId, u64)>,
}

/// Where a transfer stands between two visits to a file thread.
struct Progress<S: Sink> {
    store: Arc<S>,
    incoming: Incoming,
    staged: Option<Staged<S::Staging>>,
    /// Parts that have come and are not taken yet.
    first: VecDeque<Part>,
    parts: mpsc::Receiver<Part>,
    files: Files,
}

enum Visit<S: Sink> {
    Parked(Box<Progress<S>>),
    Done(Result<Committed, TransferError>),
}

/// Takes parts until [`Part::End`], those of `first` before those of the channel, and commits.
pub(super) async fn receive_on<S: Sink>(
    store: Arc<S>,
    incoming: Incoming,
    first: VecDeque<Part>,
    parts: mpsc::Receiver<Part>,
    workers: &Workers,
) -> Result<Committed, TransferError> {
    if incoming.announced.is_some_and(|bytes| bytes > incoming.bytes_max) {
        return Err(TransferError::TooLarge { limit: incoming.bytes_max });
    }
    // Not for long: what this connection sends to others waits behind what it sends here.
    let held = workers.puts().hold_soon(1, CROWD_WAIT).await;
    let _held = held.map_err(|NoneFree| TransferError::Crowded("uploads"))?;
    let files = workers.puts().clone();
    let mut progress = Box::new(Progress { store, incoming, staged: None, first, parts, files });
    loop {
        let linger = workers.linger();
        match workers.run(move || progress.visit(&linger)).await? {
            Visit::Done(outcome) => return outcome,
            Visit::Parked(parked) => progress = parked,
        }
        let Some(part) = progress.parts.recv().await else {
            // Flushing or unlinking is file work too.
            workers.run(move || progress.cut()).await?;
            return Err(TransferError::Aborted);
        };
        progress.first.push_back(part);
    }
}

impl<S: Sink> Progress<S> {
    /// Works on a file thread for as long as parts keep coming.
    fn visit(mut self: Box<Self>, linger: &Linger) -> Visit<S> {
        // What is refused for its name or its size is refused before any content is waited for.
        let mut part = self.first.pop_front();
        loop {
            match self.take(part) {
                Ok(None) => {}
                Ok(Some(committed)) => return Visit::Done(Ok(committed)),
                Err(error) => return Visit::Done(Err(error)),
            }
            part = self.first.pop_front();
            if part.is_some() {
                continue;
            }
            part = match self.parts.try_recv() {
                Ok(part) => Some(part),
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.cut();
                    return Visit::Done(Err(TransferError::Aborted));
                }
                Err(mpsc::error::TryRecvError::Empty) => match linger.wait(self.parts.recv()) {
                    Some(Some(part)) => Some(part),
                    Some(None) => {
                        self.cut();
                        return Visit::Done(Err(TransferError::Aborted));
                    }
                    None => return Visit::Parked(self),
                },
            };
        }
    }

    fn take(&mut self, part: Option<Part>) -> Result<Option<Committed>, TransferError> {
        let mut staged = if let Some(staged) = self.staged.take() {
            staged
        } else {
            look(&*self.store, &self.incoming)?;
            open(&*self.store, &self.incoming)?
        };
        match part {
            None => {}
            Some(Part::Data(buffer)) => staged.write(buffer.content())?,
            Some(Part::End(seal, _)) => {
                let verified = staged.verify(seal)?;
                let _held = self.files.visit(files_on(&self.incoming.target));
                let stored = verified.commit(&self.incoming.target, &terms(&self.incoming))?;
                forget_kept(&*self.store, self.incoming.keep.as_ref());
                return Ok(Some(stored));
            }
            Some(Part::Failed(error)) => return Err(error),
            Some(Part::Begin(..) | Part::Whole(..) | Part::Entries(_) | Part::Listed(_)) => {
                return Err(TransferError::Aborted);
            }
        }
        self.staged = Some(staged);
        Ok(None)
    }

    /// The transfer was cut: what has arrived is kept where that was wanted.
    fn cut(&mut self) {
        if let Some(staged) = self.staged.take() {
            staged.keep();
        }
    }
}

/// Starts the staging file, with room for what was announced.
pub(super) fn open<S: Sink>(
    store: &S,
    incoming: &Incoming,
) -> Result<Staged<S::Staging>, TransferError> {
    let Incoming { announced, bytes_max, ref keep, .. } = *incoming;
    let mut staged = match keep {
        Some(Keep { owner, resume: Some((id, offset)), .. }) => {
            let (staging, state) = store.resume(owner, *id, *offset)?;
            Staged::resumed(staging, &state, *offset, bytes_max)?
        }
        Some(Keep { owner, resumable: true, .. }) => {
            Staged::new(store.stage_for(owner, announced)?, bytes_max)
        }
        _ => Staged::new(store.stage(&incoming.target)?, bytes_max),
    };
    if let Some(Err(error)) = announced.map(|bytes| staged.reserve(bytes)) {
        staged.leave(); // There may be room another day.
        return Err(error);
    }
    Ok(staged)
}

/// A file is stored: what was kept of others in its place is of no use any more.
pub(super) fn forget_kept<S: Sink>(store: &S, keep: Option<&Keep>) {
    if let Some(keep) = keep {
        store.forget_kept(&keep.owner);
    }
}

/// What the commit may do.
pub(super) fn terms(incoming: &Incoming) -> Terms {
    Terms {
        replace: incoming.overwrite != Overwrite::Never,
        must_replace: incoming.overwrite == Overwrite::Only,
        retain: incoming.retain,
        parents: incoming.parents,
        mode: incoming.mode,
        mtime_ns: incoming.mtime_ns,
    }
}

/// Refuses what can be refused by looking, for which the commit decides again, atomically. Gives whether a
/// file has the name that would be replaced.
pub(super) fn look<S: Sink>(store: &S, incoming: &Incoming) -> Result<bool, TransferError> {
    match (store.stat(Some(&incoming.target)), incoming.overwrite) {
        (Ok(_), Overwrite::Never) => {
            let doing = "store the file: the name is taken";
            Err(FsError::new(ErrorCode::Exists, doing, None).into())
        }
        (Ok(stat), _) if stat.kind != Kind::File => {
            let doing = "replace what stands under this name: it is not a regular file";
            Err(FsError::new(ErrorCode::WrongType, doing, None).into())
        }
        (Ok(_), _) => {
            if incoming.retain.is_some() {
                store.check_replaceable(&incoming.target, incoming.retain)?;
            }
            Ok(true)
        }
        (Err(error), _) if error.code() != ErrorCode::NotFound => Err(error.into()),
        (Err(_), Overwrite::Only) => Err(TransferError::ReplaceOnly),
        (Err(_), _) => Ok(false),
    }
}

/// Says what [`Inbox::receive`](super::Inbox::receive) would say before any content, and changes nothing; gives whether a file would
/// be replaced.
///
/// # Errors
/// As that.
pub fn check<S: Store>(store: &S, incoming: &Incoming) -> Result<bool, TransferError> {
    let Incoming { target, announced, bytes_max, parents, .. } = incoming;
    if announced.is_some_and(|bytes| bytes > *bytes_max) {
        return Err(TransferError::TooLarge { limit: *bytes_max });
    }
    let exists = look(store, incoming)?;
    if !exists {
        let mut directory = target.split_last().0;
        let (depth, may_miss) = (directory.iter().flat_map(RelPath::components).count(), *parents);
        let must_exist = match may_miss {
            Parents::MustExist => depth,
            Parents::Make => 0,
            Parents::MakeFrom(least) => depth.min(least.saturating_sub(1)),
        };
        for _ in must_exist..depth {
            directory = directory.and_then(|directory| directory.split_last().0);
        }
        store.stat(directory.as_ref())?;
    }
    store.check_room(target, announced.unwrap_or(0))?;
    Ok(exists)
}

/// A transfer that is dropped between two visits, because the daemon ends.
impl<S: Sink> Drop for Progress<S> {
    fn drop(&mut self) {
        if let Some(staged) = self.staged.take() {
            staged.leave();
        }
    }
}
