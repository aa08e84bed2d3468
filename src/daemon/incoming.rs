//! Content of puts on its way in: from the frames of a session into buffers, and on to file threads.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::patience::{Patience, Tally};
use super::session::Session;
use super::users::User;
use crate::transfer::{Buffer, Part, Store};
use crate::types::limits::BUFFER_BYTES;
use crate::wire::{FrameReader, WireError};

/// How long content may wait in a buffer that is not full, so that a slow sender holds no memory.
pub(super) const HOLD: Duration = Duration::from_millis(200);
/// Bytes that are read at once to be dropped.
const DROP_BYTES: usize = 64 * 1024;

/// A put whose content is coming in.
pub(super) struct Upload {
    pub(super) parts: mpsc::Sender<Part>,
    pub(super) filling: Option<Buffer>,
    /// Bytes still to come, when they were announced.
    pub(super) due: Option<u64>,
    pub(super) patience: Patience,
}

/// The puts of a connection whose content is coming in.
#[derive(Default)]
pub(super) struct Uploads {
    pub(super) by_id: BTreeMap<u32, Upload>,
    pub(super) tally: Tally,
    /// When the patience with one of them may be over.
    pub(super) look_at: Option<Instant>,
}

impl Uploads {
    /// Takes in one that begins.
    pub(super) fn begin(
        &mut self,
        id: u32,
        parts: mpsc::Sender<Part>,
        due: Option<u64>,
        stall: Duration,
    ) {
        let patience = Patience::new(stall, Instant::now(), self.tally);
        let end = patience.end(self.tally);
        self.look_at = Some(self.look_at.map_or(end, |at| at.min(end)));
        self.by_id.insert(id, Upload { parts, filling: None, due, patience });
    }

    /// Whether content is due to anybody: one that has failed holds nothing any more.
    pub(super) fn is_any_open(&self) -> bool {
        self.by_id.values().any(|upload| !upload.parts.is_closed())
    }

    /// Whether one of them has stood still for too long.
    pub(super) fn is_one_over(&mut self, now: Instant, nothing_came: bool) -> bool {
        if self.look_at.is_none_or(|at| now < at) {
            return false;
        }
        let tally = self.tally;
        let open = self.by_id.values_mut().filter(|upload| !upload.parts.is_closed());
        self.look_at = None;
        for Upload { patience, .. } in open {
            if patience.is_over(now, tally, nothing_came) {
                return true;
            }
            let end = patience.end(tally);
            self.look_at = Some(self.look_at.map_or(end, |at| at.min(end)));
        }
        false
    }

    /// Hands over all that is filled, however little.
    pub(super) async fn hand_over(&mut self) {
        for upload in self.by_id.values_mut() {
            upload.hand_over().await;
        }
    }
}

impl Upload {
    /// Hands what is filled to the file thread; `false` when that has given up.
    pub(super) async fn hand_over(&mut self) -> bool {
        match self.filling.take() {
            Some(buffer) => self.parts.send(Part::Data(buffer)).await.is_ok(),
            None => true,
        }
    }
}

impl<S: Store> Session<S> {
    /// Takes the payload of a data frame off the wire: into the buffers of the upload that is its `taker`,
    /// or nowhere.
    pub(super) async fn content(
        &self,
        reader: &mut FrameReader,
        payload_bytes: u32,
        uploads: &mut Uploads,
        mut taker: Option<u32>,
    ) -> Result<(), WireError> {
        let user = self.user();
        let mut left = payload_bytes as usize;
        let mut nowhere = Vec::new();
        while left > 0 {
            let target = taker.and_then(|id| uploads.by_id.get_mut(&id));
            let (Some(target), Some(user)) = (target, &user) else {
                nowhere.resize(DROP_BYTES, 0);
                let most = left.min(DROP_BYTES);
                let read = reader.content(&mut nowhere[..most], None).await?.unwrap_or(0);
                uploads.tally.moved(read);
                left -= read;
                if let Some(user) = &user {
                    pace(user, reader, &mut uploads.tally).await;
                }
                continue;
            };
            if target.filling.as_ref().is_some_and(Buffer::is_full) {
                let since = Instant::now();
                let is_taken = target.hand_over().await;
                uploads.tally.excuse(reader, since.elapsed());
                if !is_taken {
                    taker = None; // There is more than was announced, and nobody waits for it.
                }
                continue;
            }
            let due = target.due.unwrap_or(BUFFER_BYTES as u64).max(left as u64);
            let held = target.filling.take().or_else(|| user.share.try_acquire(due));
            let mut buffer = if let Some(buffer) = held {
                buffer
            } else {
                let since = Instant::now();
                // Whoever waits for memory holds none, or all might wait for each other.
                uploads.hand_over().await;
                let buffer = user.share.acquire(due).await;
                uploads.tally.excuse(reader, since.elapsed());
                buffer
            };
            let Some(target) = taker.and_then(|id| uploads.by_id.get_mut(&id)) else { continue };
            let until = (!buffer.content().is_empty()).then(|| Instant::now() + HOLD);
            let room = buffer.room();
            let most = left.min(room.len());
            let read = reader.content(&mut room[..most], until).await?;
            let is_slow = read.is_none();
            let read = read.unwrap_or(0);
            buffer.advance(read);
            target.patience.moved(read);
            uploads.tally.moved(read);
            left -= read;
            target.due = target.due.map(|due| due.saturating_sub(read as u64));
            // What is whole goes on with its trailer, which is not far behind.
            let goes_on = buffer.is_full() && target.due != Some(0);
            target.filling = Some(buffer);
            if goes_on || is_slow {
                let since = Instant::now();
                if !target.hand_over().await {
                    taker = None; // It failed and has said why.
                }
                uploads.tally.excuse(reader, since.elapsed());
            }
            pace(user, reader, &mut uploads.tally).await;
        }
        Ok(())
    }
}

/// Waits for as long as what has come in from the user takes at his bandwidth. The wait is ours.
async fn pace(user: &User, reader: &mut FrameReader, tally: &mut Tally) {
    let bytes = reader.content_bytes();
    let wait = user.bandwidth.as_ref().map_or(Duration::ZERO, |bandwidth| bandwidth.charge(bytes));
    if !wait.is_zero() {
        let since = Instant::now();
        sleep(wait).await;
        tally.excuse(reader, since.elapsed());
    }
}
