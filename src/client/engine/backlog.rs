//! A listing that has arrived and is not looked at yet.
//!
//! The driver never waits for whoever reads a listing: he may himself be waiting for an answer that the
//! driver has to read. So entries are kept, packed, up to a cap.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Stop;
use crate::client::exit::{Exit, Failure};
use crate::client::held::IN_PARTS;
use crate::proto::{Entry, EntryType, WirePath};

/// Bytes that one listing may have waiting: some millions of entries.
const BYTES_MAX: usize = 128 * 1024 * 1024;
/// Bytes of an entry beside its name.
const FIXED: usize = 2 + 1 + 8 + 4 + 8;

/// Entries on their way from the driver to the reader of a listing.
#[derive(Default)]
pub(super) struct Backlog {
    kept: Mutex<Kept>,
    changed: Notify,
}

#[derive(Default)]
struct Kept {
    batches: VecDeque<Box<[u8]>>,
    bytes: usize,
    end: Option<Result<(), Failure>>,
    /// Nobody will look at what comes.
    is_left: bool,
    /// Nothing more will come.
    is_over: bool,
}

impl Backlog {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a batch. If too much is waiting then, that is the end of this listing, and of no other request.
    pub(super) fn push(&self, entries: &[Entry]) {
        let batch = pack(entries);
        let mut kept = self.kept();
        if kept.is_left {
            return;
        }
        kept.bytes += batch.len();
        if kept.bytes > BYTES_MAX {
            kept.batches.clear();
            kept.is_left = true;
            let waiting = BYTES_MAX >> 20;
            let text = format!("more than {waiting} MiB of names came faster than they were used");
            kept.end = Some(Err(Failure::new(Exit::Other, text).hint(IN_PARTS)));
        } else {
            kept.batches.push_back(batch);
        }
        drop(kept);
        self.changed.notify_one();
    }

    /// No more will come, for this reason.
    pub(super) fn end(&self, end: Result<(), Failure>) {
        let mut kept = self.kept();
        kept.is_over = true;
        kept.end.get_or_insert(end);
        drop(kept);
        self.changed.notify_one();
    }
}

/// A directory's entries as they come. Whoever lets go of it before the end tells the server to stop.
pub struct Listing {
    backlog: Arc<Backlog>,
    stop: Option<Stop>,
}

impl Drop for Listing {
    fn drop(&mut self) {
        let mut kept = self.backlog.kept();
        kept.is_left = true;
        kept.batches.clear();
        if let (false, Some(stop)) = (kept.is_over, &self.stop) {
            stop.if_possible();
        }
    }
}

impl Listing {
    pub(super) fn new(backlog: Arc<Backlog>, stop: Option<Stop>) -> Self {
        Self { backlog, stop }
    }

    /// Some more entries; `None` at the end.
    ///
    /// # Errors
    /// The server's word, or the connection's end.
    pub async fn next(&mut self) -> Result<Option<Vec<Entry>>, Failure> {
        loop {
            {
                let mut kept = self.backlog.kept();
                if let Some(batch) = kept.batches.pop_front() {
                    kept.bytes -= batch.len();
                    return Ok(Some(unpack(&batch)));
                }
                if let Some(end) = &kept.end {
                    return end.clone().map(|()| None);
                }
            }
            self.backlog.changed.notified().await;
        }
    }
}

fn pack(entries: &[Entry]) -> Box<[u8]> {
    let bytes = entries.iter().map(|entry| FIXED + entry.name.0.len()).sum();
    let mut out = Vec::with_capacity(bytes);
    for entry in entries {
        // A name comes out of a control frame, which is far shorter than 64 KiB.
        let length = u16::try_from(entry.name.0.len()).unwrap_or(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&entry.name.0[..usize::from(length)]);
        out.push(match entry.kind {
            EntryType::File => 0,
            EntryType::Directory => 1,
            EntryType::Other => 2,
        });
        out.extend_from_slice(&entry.bytes.unwrap_or(u64::MAX).to_le_bytes());
        out.extend_from_slice(&entry.mode.to_le_bytes());
        out.extend_from_slice(&entry.mtime_ns.to_le_bytes());
    }
    out.into_boxed_slice()
}

fn unpack(mut batch: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    while let Some(entry) = unpack_one(&mut batch) {
        entries.push(entry);
    }
    entries
}

fn unpack_one(batch: &mut &[u8]) -> Option<Entry> {
    let length = u16::from_le_bytes(take(batch)?);
    let (name, rest) = batch.split_at_checked(usize::from(length))?;
    *batch = rest;
    let [kind] = take(batch)?;
    let bytes = Some(u64::from_le_bytes(take(batch)?)).filter(|bytes| *bytes != u64::MAX);
    let kind = match kind {
        0 => EntryType::File,
        1 => EntryType::Directory,
        _ => EntryType::Other,
    };
    let (mode, mtime_ns) = (u32::from_le_bytes(take(batch)?), i64::from_le_bytes(take(batch)?));
    Some(Entry { name: WirePath(name.to_vec()), kind, bytes, mode, mtime_ns })
}

fn take<const N: usize>(batch: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = batch.split_first_chunk()?;
    *batch = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn entries_come_out_as_they_went_in_and_the_cap_holds() {
        let entry = |name: &[u8], kind, bytes| Entry {
            name: WirePath(name.to_vec()),
            kind,
            bytes,
            mode: 0o640,
            mtime_ns: -7,
        };
        let entries = vec![
            entry(b"a", EntryType::File, Some(3)),
            entry(b"\xff", EntryType::Directory, None),
            entry(b"", EntryType::Other, None),
        ];
        let backlog = Arc::new(Backlog::default());
        backlog.push(&entries);
        backlog.end(Ok(()));
        let mut listing = Listing::new(Arc::clone(&backlog), None);
        assert_eq!(listing.next().await.ok().flatten(), Some(entries));
        assert!(matches!(listing.next().await, Ok(None)));
        let backlog = Backlog::default();
        let many = vec![entry(&[b'x'; 16_000], EntryType::File, None); 64];
        let pushes_one = |_: &i32| {
            backlog.push(&many);
            backlog.kept().end.is_none()
        };
        let pushed = (0..1000).take_while(pushes_one).count();
        assert!(pushed > 100 && pushed < 140, "{pushed} batches of a megabyte");
        backlog.end(Ok(()));
        let listing = &mut Listing::new(Arc::new(backlog), None);
        assert!(listing.next().await.is_err(), "what ended it is told");
        let backlog = Arc::new(Backlog::default());
        drop(Listing::new(Arc::clone(&backlog), None));
        (0..1000).for_each(|_| backlog.push(&many));
        assert!(backlog.kept().bytes == 0 && backlog.kept().end.is_none());
    }
}
