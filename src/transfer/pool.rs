//! Memory for file content in flight, with a cap for all connections together.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::acquire;
use crate::types::limits::BUFFER_BYTES;

/// The unit in which memory is counted, and to which buffers are aligned: a page.
const PAGE: usize = 4096;
/// A whole buffer's worth of permits.
const BUFFER_PAGES: usize = BUFFER_BYTES / PAGE;

/// The daemon's memory for content.
///
/// Whole buffers are kept for the next transfer; they start on a page, because copies between
/// addresses that differ by a few bytes within their pages are several times slower on some
/// processors (`docs/performance.md`).
pub struct Pool {
    pages: Arc<Semaphore>,
    pages_max: usize,
    spare: Mutex<Vec<Vec<u8>>>,
}

/// One user's part of the pool, so that no user can hold all of it.
#[derive(Clone)]
pub struct Share {
    pool: Arc<Pool>,
    own: Arc<Semaphore>,
}

/// Room for content, and how much of it is filled. Gives its memory back when dropped.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
    filled: usize,
    pool: Arc<Pool>,
    _held: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Pool {
    /// A pool of at most `bytes`, and at least sixteen buffers.
    pub fn new(bytes: u64) -> Arc<Self> {
        let pages = usize::try_from(bytes).unwrap_or(usize::MAX) / PAGE;
        let pages_max = pages.clamp(16 * BUFFER_PAGES, Semaphore::MAX_PERMITS);
        let pages = Arc::new(Semaphore::new(pages_max));
        Arc::new(Self { pages, pages_max, spare: Mutex::new(Vec::new()) })
    }

    /// A user's part: half of everything.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { pool: Arc::clone(self), own: Arc::new(Semaphore::new(self.pages_max / 2)) }
    }
}

/// The pages of a buffer for so many bytes.
fn pages(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX).clamp(1, BUFFER_BYTES).div_ceil(PAGE)
}

impl Share {
    /// Waits for a buffer of at least `bytes`, or of the largest size there is.
    pub async fn acquire(&self, bytes: u64) -> Buffer {
        let pages = pages(bytes);
        let permits = u32::try_from(pages).expect("a buffer has few pages");
        let own = acquire(&self.own, permits).await;
        let all = acquire(&self.pool.pages, permits).await;
        self.buffer(pages, (own, all))
    }

    /// The same without waiting; nothing while memory is short.
    pub fn try_acquire(&self, bytes: u64) -> Option<Buffer> {
        let pages = pages(bytes);
        let permits = u32::try_from(pages).ok()?;
        let own = Arc::clone(&self.own).try_acquire_many_owned(permits).ok()?;
        let all = Arc::clone(&self.pool.pages).try_acquire_many_owned(permits).ok()?;
        Some(self.buffer(pages, (own, all)))
    }

    fn buffer(&self, pages: usize, held: (OwnedSemaphorePermit, OwnedSemaphorePermit)) -> Buffer {
        let spare = if pages == BUFFER_PAGES { self.pool.spare().pop() } else { None };
        // One page more than asked for, so that some address in it starts a page.
        let memory = spare.unwrap_or_else(|| vec![0; (pages + 1) * PAGE]);
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        let pool = Arc::clone(&self.pool);
        Buffer { memory, start, capacity: pages * PAGE, filled: 0, pool, _held: held }
    }
}

impl Pool {
    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// What is filled.
    pub fn content(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    /// What is free.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.start + self.filled..self.start + self.capacity]
    }

    /// Counts bytes that were put into [`Buffer::room`].
    pub fn advance(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.capacity);
    }

    /// Whether nothing is free.
    pub fn is_full(&self) -> bool {
        self.filled == self.capacity
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.capacity == BUFFER_BYTES {
            self.pool.spare().push(std::mem::take(&mut self.memory));
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.filled, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: memory never exceeds the cap, and one user never holds all of it.
    #[tokio::test]
    async fn buffers_are_page_aligned_and_counted() {
        let pool = Pool::new(0);
        let (greedy, other) = (pool.share(), pool.share());
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(greedy.acquire(u64::MAX).await);
        }
        let ninth = tokio::time::timeout(std::time::Duration::from_millis(1), greedy.acquire(1));
        assert!(ninth.await.is_err(), "one user's share is half");
        let mut small = other.acquire(10).await;
        assert_eq!((small.room().as_ptr().align_offset(PAGE), small.room().len()), (0, PAGE));
        small.room()[..2].copy_from_slice(b"ok");
        small.advance(2);
        assert_eq!(small.content(), b"ok");
        held.clear();
        assert_eq!(pool.spare().len(), 8);
        assert_eq!(greedy.acquire(u64::MAX).await.room().len(), BUFFER_BYTES);
    }
}
