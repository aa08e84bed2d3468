//! Content of puts on its way in: from the frames of a session into buffers, and on to file threads.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

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
            let target = taker.and_then(|id| uploads.get_mut(&id));
            let (Some(target), Some(user)) = (target, &user) else {
                nowhere.resize(DROP_BYTES, 0);
                let most = left.min(DROP_BYTES);
                let read = reader.content(&mut nowhere[..most], None).await?.unwrap_or(0);
                left -= read;
                if let Some(user) = &user {
                    pace(user, reader).await;
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
                    reader.resume(); // The wait was ours.
                }
                buffer
            };
            let Some(target) = taker.and_then(|id| uploads.get_mut(&id)) else { continue };
            let until = (!buffer.content().is_empty()).then(|| Instant::now() + HOLD);
            let room = buffer.room();
            let most = left.min(room.len());
            let read = reader.content(&mut room[..most], until).await?;
            let is_slow = read.is_none();
            let read = read.unwrap_or(0);
            buffer.advance(read);
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
                    reader.resume();
                }
            }
            pace(user, reader).await;
        }
        Ok(())
    }
}

/// Waits for as long as what has come in from the user takes at his bandwidth. The wait is ours.
async fn pace(user: &User, reader: &mut FrameReader) {
    let bytes = reader.content_bytes();
    let wait = user.bandwidth.as_ref().map_or(Duration::ZERO, |bandwidth| bandwidth.charge(bytes));
    if !wait.is_zero() {
        sleep(wait).await;
        reader.resume();
    }
}
