//! A file or a directory on its way out: from the store to a channel of parts.

use std::sync::{Arc, Weak};

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::digest::hash_before;
use super::staged::digest_of;
use super::{Buffer, Linger, Part, Seal, Share, Source, Store, TransferError, Workers};
use crate::access::Hidden;
use crate::fsroot::Entry;
use crate::types::RelPath;
use crate::types::limits::BUFFER_BYTES;

/// Entries of a directory that travel in one part.
const ENTRIES_MAX: usize = 128;

/// Descriptors of a directory that is read: one for its entries, one to look at them.
const LISTING_FILES: u32 = 2;

/// Where the parts of one request go.
#[derive(Clone, Debug)]
pub struct Outbox {
    /// The request.
    pub id: u32,
    /// The connection's channel, bounded.
    pub parts: mpsc::Sender<(u32, Part)>,
}

/// A slot in the channel that is already ours, and the buffer that is to fill it.
type Slot = (mpsc::OwnedPermit<(u32, Part)>, Buffer);

impl Outbox {
    /// Waits for room and sends one part.
    ///
    /// # Errors
    /// `Aborted` when the connection is gone.
    pub async fn send(&self, part: Part) -> Result<(), TransferError> {
        self.parts.send((self.id, part)).await.map_err(|_| TransferError::Aborted)
    }

    async fn slot(&self, share: &Share, bytes: u64) -> Result<Slot, TransferError> {
        let permit =
            self.parts.clone().reserve_owned().await.map_err(|_| TransferError::Aborted)?;
        Ok((permit, share.acquire(bytes).await))
    }
}

/// Where a transfer stands between two visits to a file thread.
struct Progress<F> {
    source: F,
    offset: u64,
    /// `None` when the digest is known.
    hasher: Option<Sha256>,
    outbox: Outbox,
    share: Share,
    /// Gone when the request was given up, which a file thread does not notice by itself.
    wanted: Weak<()>,
}

/// Sends the content of `source` as parts and gives what a trailer says about it; the caller sends
/// the end.
///
/// The digest that is kept with the file serves as the trailer, so that nothing is hashed twice and
/// the receiver notices decay; without one the content is hashed while it is read.
///
/// # Errors
/// `Changed` when the source did not stay what it was; the store's; `Aborted` when the connection
/// is gone.
pub async fn send<F: Source>(
    source: F,
    outbox: Outbox,
    share: Share,
    workers: &Workers,
) -> Result<Seal, TransferError> {
    send_from(source, 0, outbox, share, workers).await
}

/// The same from `offset` on, which must not lie behind the end; the seal is of the whole. What comes
/// before it is read only where no digest is kept.
///
/// # Errors
/// As [`send`].
pub async fn send_from<F: Source>(
    mut source: F,
    offset: u64,
    outbox: Outbox,
    share: Share,
    workers: &Workers,
) -> Result<Seal, TransferError> {
    let known = source.stat().and_then(|stat| stat.digest);
    let bytes = source.stat().map(|stat| stat.bytes);
    let mut hasher = known.is_none().then(Sha256::new);
    if let Some(state) = hasher.take_if(|_| offset > 0) {
        let (rest, state) = hash_before(source, state, offset, &share, workers).await?;
        (source, hasher) = (rest, Some(state));
    }
    let alive = Arc::new(());
    let wanted = Arc::downgrade(&alive);
    let mut progress = Box::new(Progress { source, offset, hasher, outbox, share, wanted });
    let mut complete = bytes == Some(offset);
    while !complete {
        let due = bytes.map_or(u64::MAX, |bytes| bytes - progress.offset);
        let slot = progress.outbox.slot(&progress.share, due).await?;
        let linger = workers.linger();
        (progress, complete) = workers
            .run(move || {
                let complete = progress.visit(slot, bytes, &linger)?;
                Ok::<_, TransferError>((progress, complete))
            })
            .await??;
    }
    workers.run(move || progress.finish(bytes, known)).await?
}

impl<F: Source> Progress<F> {
    /// Works on a file thread for as long as the connection takes what is read; gives whether the
    /// end was reached.
    fn visit(
        &mut self,
        slot: Slot,
        bytes: Option<u64>,
        linger: &Linger,
    ) -> Result<bool, TransferError> {
        let mut slot = slot;
        loop {
            if self.wanted.strong_count() == 0 {
                return Err(TransferError::Aborted);
            }
            let (permit, mut buffer) = slot;
            let due = bytes.map_or(u64::MAX, |bytes| bytes - self.offset);
            let room = buffer.room();
            let most = room.len().min(usize::try_from(due).unwrap_or(usize::MAX));
            let read = self.source.read_at(&mut room[..most], self.offset)?;
            let ended = read < most;
            buffer.advance(read);
            if let Some(hasher) = &mut self.hasher {
                hasher.update(buffer.content());
            }
            self.offset += read as u64;
            if read > 0 {
                permit.send((self.outbox.id, Part::Data(buffer)));
            }
            if ended && bytes.is_some() {
                return Err(TransferError::Changed); // It shrank.
            }
            if ended || bytes == Some(self.offset) {
                return Ok(true);
            }
            let next = self.outbox.slot(&self.share, due.min(BUFFER_BYTES as u64));
            match linger.wait(next) {
                Some(next) => slot = next?,
                None => return Ok(false),
            }
        }
    }

    fn finish(
        self,
        bytes: Option<u64>,
        known: Option<crate::types::Sha256Digest>,
    ) -> Result<Seal, TransferError> {
        if bytes.is_some() && !self.source.unchanged()? {
            return Err(TransferError::Changed);
        }
        let digest = match (known, self.hasher) {
            (Some(known), _) => known,
            (None, hasher) => digest_of(hasher.unwrap_or_default()),
        };
        Ok(Seal { bytes: self.offset, digest })
    }
}

/// Sends what a directory holds and is not hidden, in the directory's own order, and gives how many
/// entries it was.
///
/// # Errors
/// The store's, or `Aborted` when the connection is gone.
pub async fn list<S: Store>(
    store: Arc<S>,
    path: Option<RelPath>,
    hidden: &Hidden,
    outbox: &Outbox,
    workers: &Workers,
) -> Result<u64, TransferError> {
    let _held = workers.hold_reads(LISTING_FILES).await?;
    let mut listing = workers.run(move || store.list(path.as_ref())).await??;
    let mut total = 0;
    loop {
        let batch = workers.run(move || {
            let batch = listing.by_ref().take(ENTRIES_MAX).collect::<Result<Vec<Entry>, _>>();
            batch.map(|batch| (listing, batch))
        });
        let (rest, mut entries) = batch.await??;
        listing = rest;
        let is_last = entries.len() < ENTRIES_MAX;
        entries.retain(|entry| !hidden.hides(&entry.name));
        total += entries.len() as u64;
        if !entries.is_empty() {
            outbox.send(Part::Entries(entries)).await?;
        }
        if is_last {
            return Ok(total);
        }
    }
}
