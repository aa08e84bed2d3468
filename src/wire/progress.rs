//! The rule that keeps a slow peer from holding resources for ever.

use std::time::Duration;

use tokio::time::Instant;

/// A moving minimum: at least 64 KiB in every window. One byte a second does not keep it alive.
///
/// Source: `docs/protocol.md`, "Deadlines".
#[derive(Debug)]
pub struct Progress {
    window: Duration,
    deadline: Instant,
    bytes: usize,
}

impl Progress {
    /// Bytes that must move in every window.
    pub const WINDOW_BYTES: usize = 64 * 1024;

    /// A first window that starts now.
    pub fn new(window: Duration) -> Self {
        Self { window, deadline: Instant::now() + window, bytes: 0 }
    }

    /// When the running window ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Leaves out of account a time that was spent on our side.
    pub fn delay(&mut self, waited: Duration) {
        self.deadline += waited;
    }

    /// Starts afresh: what is due begins now.
    pub fn restart(&mut self) {
        *self = Self::new(self.window);
    }

    /// Counts bytes that moved.
    pub fn moved(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= Self::WINDOW_BYTES {
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
        for _ in 0..Progress::WINDOW_BYTES - 1 {
            progress.moved(1);
        }
        assert_eq!(progress.deadline(), first);
        progress.delay(Duration::from_secs(5));
        assert_eq!(progress.deadline(), first + Duration::from_secs(5), "a wait of ours");
        progress.moved(1);
        assert_eq!(progress.deadline(), first + Duration::from_secs(30));
    }
}
