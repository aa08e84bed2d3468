//! The rule that keeps a slow peer from holding resources for ever.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes that must move in every window.
const WINDOW_BYTES: usize = 64 * 1024;
/// Windows by which waits of our own may put a deadline off, all in all: one that others on its connection
/// keep waiting ends, too.
const DELAY_WINDOWS: u32 = 16;

/// A moving minimum: at least 64 KiB in every window. One byte a second does not keep it alive.
///
/// Source: `docs/protocol.md`, "Deadlines".
#[derive(Debug)]
pub struct Progress {
    window: Duration,
    deadline: Instant,
    bytes: usize,
    delayed: Duration,
}

impl Progress {
    /// A first window that starts now.
    pub fn new(window: Duration) -> Self {
        Self { window, deadline: Instant::now() + window, bytes: 0, delayed: Duration::ZERO }
    }

    /// When the running window ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The same for one of so many that share a connection: each has the time of all.
    pub fn deadline_among(&self, count: usize) -> Instant {
        self.deadline + self.window * u32::try_from(count.saturating_sub(1)).unwrap_or(0)
    }

    /// Leaves out of account a time that was spent on our side, within bounds.
    pub fn delay(&mut self, waited: Duration) {
        let delay = waited.min((self.window * DELAY_WINDOWS).saturating_sub(self.delayed));
        self.deadline += delay;
        self.delayed += delay;
    }

    /// Starts afresh: what is due begins now.
    pub fn restart(&mut self) {
        *self = Self::new(self.window);
    }

    /// Counts bytes that moved.
    pub fn moved(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= WINDOW_BYTES {
            self.restart();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_trickle_does_not_move_the_deadline_and_a_window_full_does() {
        let mut progress = Progress::new(Duration::from_mins(1));
        let first = progress.deadline();
        tokio::time::advance(Duration::from_secs(30)).await;
        for _ in 0..WINDOW_BYTES - 1 {
            progress.moved(1);
        }
        assert_eq!(progress.deadline(), first);
        progress.moved(1);
        assert_eq!(progress.deadline(), first + Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_of_ours_put_a_deadline_off_and_not_for_ever() {
        let mut progress = Progress::new(Duration::from_mins(1));
        let first = progress.deadline();
        assert_eq!(progress.deadline_among(3), first + Duration::from_mins(2));
        progress.delay(Duration::from_mins(5));
        assert_eq!(progress.deadline(), first + Duration::from_mins(5));
        progress.delay(Duration::from_hours(1));
        assert_eq!(progress.deadline(), first + Duration::from_mins(16));
    }
}
