//! A limit for bytes in a second, over all connections of a run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Bytes that are counted at once: small, so that a slow rate stays smooth.
pub const SLICE: usize = 64 * 1024;

/// How much of a wait that was too long is made up for: a timer ticks once in a millisecond, in which a fast rate
/// has many slices.
const SLACK: Duration = Duration::from_millis(20);

/// Whoever moves bytes waits here until they are due.
#[derive(Debug, Default)]
pub struct Throttle {
    /// 0 is no limit.
    bytes_per_second: AtomicU64,
    /// When everything that was let through so far will have been due.
    due: Mutex<Option<Instant>>,
    /// Bytes that were let through.
    passed: AtomicU64,
}

impl Throttle {
    /// From now on no faster than this; without a rate nobody waits.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        self.bytes_per_second.store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
        self.passed.store(0, Ordering::Relaxed);
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn rate(&self) -> Option<u64> {
        Some(self.bytes_per_second.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    /// Bytes that should be moved in one go.
    pub fn slice(&self) -> usize {
        if self.rate().is_some() { SLICE } else { usize::MAX }
    }

    /// Bytes that were let through since the limit was set.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` may pass.
    pub async fn pass(&self, bytes: usize) {
        self.passed.fetch_add(bytes as u64, Ordering::Relaxed);
        let Some(rate) = self.rate() else { return };
        let now = Instant::now();
        let until = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = now.checked_sub(SLACK).unwrap_or(now);
            let from = due.unwrap_or(now).max(earliest);
            let nanos = bytes as u128 * 1_000_000_000 / u128::from(rate);
            *due = Some(from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
            from
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate_and_no_faster() {
        let throttle = Throttle::default();
        throttle.set(Some(1000));
        let start = Instant::now();
        for _ in 0..10 {
            throttle.pass(500).await;
        }
        assert_eq!(start.elapsed().as_millis(), 4500, "the first passes at once");
        assert_eq!(throttle.passed(), 5000);
        Throttle::default().pass(usize::MAX).await;
    }

    /// Where a slice takes less than a tick of the timer, as here where time moves by whole ones.
    #[tokio::test(start_paused = true)]
    async fn a_fast_rate_is_reached() {
        let throttle = Throttle::default();
        throttle.set(Some(1 << 30));
        let start = Instant::now();
        for _ in 0..(256 << 20) / SLICE {
            throttle.pass(SLICE).await;
        }
        let took = start.elapsed();
        assert!((200..=300).contains(&took.as_millis()), "256 MiB at 1 GiB/s: {took:?}");
    }
}
