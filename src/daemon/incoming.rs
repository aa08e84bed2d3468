//! Content of puts on its way in: from the frames of a session into buffers, and on to file threads.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::session::Session;
use super::users::User;
use crate::transfer::{Buffer, Part, Store};
use crate::types::limits::BUFFER_BYTES;
use crate::wire::{FrameReader, Progress, WireError};

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
    /// What has moved of it lately.
    pub(super) progress: Progress,
}

/// When the first of the uploads will have moved too little, unless it moves more. One that has failed holds
/// nothing any more.
pub(super) fn stall_deadline(uploads: &BTreeMap<u32, Upload>) -> Option<Instant> {
    let open = uploads.values().filter(|upload| !upload.parts.is_closed());
    open.map(|upload| upload.progress.deadline_among(uploads.len())).min()
}

/// Leaves a wait that was ours out of account, for the connection and for each of its uploads.
pub(super) fn excuse(
    reader: &mut FrameReader,
    uploads: &mut BTreeMap<u32, Upload>,
    waited: Duration,
) {
    reader.resume();
    for upload in uploads.values_mut() {
        upload.progress.delay(waited);
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
        uploads: &mut BTreeMap<u32, Upload>,
        mut taker: Option<u32>,
    ) -> Result<(), WireError> {
        let user = self.user();
        let mut left = payload_bytes as usize;
        let mut nowhere = Vec::new();
        while left > 0 {
            let stalls_at = stall_deadline(uploads);
            let target = taker.and_then(|id| uploads.get_mut(&id));
            let (Some(target), Some(user)) = (target, &user) else {
                nowhere.resize(DROP_BYTES, 0);
                let most = left.min(DROP_BYTES);
                let read = reader.content(&mut nowhere[..most], stalls_at).await?;
                left -= read.unwrap_or(0);
                check_stall(read.is_none(), stalls_at)?;
                if let Some(user) = &user {
                    pace(user, reader, uploads).await;
                }
                continue;
            };
            if target.filling.as_ref().is_some_and(Buffer::is_full) && !target.hand_over().await {
                taker = None; // There is more than was announced, and nobody waits for it.
                continue;
            }
            let due = target.due.unwrap_or(BUFFER_BYTES as u64).max(left as u64);
            let held = target.filling.take().or_else(|| user.share.try_acquire(due));
            let mut buffer = if let Some(buffer) = held {
                buffer
            } else {
                let waited = Instant::now();
                // Whoever waits for memory holds none, or all might wait for each other.
                for upload in uploads.values_mut() {
                    upload.hand_over().await;
                }
                let buffer = user.share.acquire(due).await;
                if waited.elapsed() > HOLD {
                    excuse(reader, uploads, waited.elapsed());
                }
                buffer
            };
            let Some(target) = taker.and_then(|id| uploads.get_mut(&id)) else { continue };
            let until = (!buffer.content().is_empty()).then(|| Instant::now() + HOLD);
            let until = until.into_iter().chain(stalls_at).min();
            let room = buffer.room();
            let most = left.min(room.len());
            let read = reader.content(&mut room[..most], until).await?;
            let is_slow = read.is_none();
            check_stall(is_slow, stalls_at)?;
            let read = read.unwrap_or(0);
            buffer.advance(read);
            target.progress.moved(read);
            left -= read;
            target.due = target.due.map(|due| due.saturating_sub(read as u64));
            // What is whole goes on with its trailer, which is not far behind.
            let goes_on = buffer.is_full() && target.due != Some(0);
            target.filling = Some(buffer);
            if goes_on || is_slow {
                let waited = Instant::now();
                if !target.hand_over().await {
                    taker = None; // It failed and has said why.
                }
                if waited.elapsed() > HOLD {
                    excuse(reader, uploads, waited.elapsed());
                }
            }
            pace(user, reader, uploads).await;
        }
        Ok(())
    }
}

/// Ends a connection that nothing has come from, if one of its uploads is past its time.
fn check_stall(nothing_came: bool, stalls_at: Option<Instant>) -> Result<(), WireError> {
    if nothing_came && stalls_at.is_some_and(|deadline| deadline <= Instant::now()) {
        return Err(WireError::Timeout("receive content"));
    }
    Ok(())
}

/// Waits for as long as what has come in from the user takes at his bandwidth. The wait is ours.
async fn pace(user: &User, reader: &mut FrameReader, uploads: &mut BTreeMap<u32, Upload>) {
    let bytes = reader.content_bytes();
    let wait = user.bandwidth.as_ref().map_or(Duration::ZERO, |bandwidth| bandwidth.charge(bytes));
    if !wait.is_zero() {
        sleep(wait).await;
        excuse(reader, uploads, wait);
    }
}
