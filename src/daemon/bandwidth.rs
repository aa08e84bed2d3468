//! How fast one user may be: both directions and all connections together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What may go at once after a quiet time.
const BURST: Duration = Duration::from_millis(250);

/// A token bucket that is allowed to run into debt: bytes are counted after they have moved, and whoever
/// moved them waits until the debt is paid. The clock is monotonic.
#[derive(Debug)]
pub(super) struct Bandwidth {
    bytes_per_second: u64,
    /// When all that has moved will be paid for.
    paid_at: Mutex<Instant>,
}

impl Bandwidth {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid_at: Mutex::new(Instant::now()) }
    }

    pub(super) fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// Counts bytes that have moved, and gives how long to wait before more do.
    pub(super) fn charge(&self, bytes: usize) -> Duration {
        let nanos = (bytes as u128 * 1_000_000_000) / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let now = Instant::now();
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        *paid_at = (*paid_at).max(earliest) + cost;
        paid_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_has_moved_is_waited_for_and_a_quiet_time_saves_little() {
        let bandwidth = Bandwidth::new(1_000_000);
        assert_eq!(bandwidth.charge(0), Duration::ZERO);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(bandwidth.charge(250_000), Duration::ZERO, "the burst");
        assert_eq!(bandwidth.charge(500_000), Duration::from_millis(500));
        assert_eq!(bandwidth.charge(500_000), Duration::from_secs(1), "all connections together");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(bandwidth.charge(1000), Duration::from_millis(1));
    }
}
