//! How long an upload may stand still while others on its connection move.
//!
//! The connection itself must move content in every window ([`Progress`]). That leaves an upload which
//! stands still behind another that moves as little as it must, and holds what it announced.
//!
//! Source: `docs/protocol.md`, "Deadlines".

use std::time::Duration;

use tokio::time::Instant;

use crate::wire::{FrameReader, Progress};

/// Windows in which each upload must move what its connection must move in one. Enough for one that waits its
/// turn on the slowest line.
const WINDOWS: u32 = 64;
/// Content of the whole connection in that time that excuses an upload: its line was busy.
const BUSY_BYTES: u64 = 64 * 1024 * 1024;

/// What counts for all uploads of a connection, since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    content_bytes: u64,
    /// Time in which nothing was read because of us.
    ours: Duration,
}

impl Tally {
    /// Counts content of whichever upload.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.content_bytes += bytes as u64;
    }

    /// Leaves a wait that was ours out of account, for the connection and for each of its uploads.
    pub(super) fn excuse(&mut self, reader: &mut FrameReader, waited: Duration) {
        reader.excuse(waited);
        self.ours += waited;
    }
}

/// The patience with one upload.
#[derive(Debug)]
pub(super) struct Patience {
    window: Duration,
    deadline: Instant,
    /// The tally when this time began.
    before: Tally,
    bytes: usize,
    is_late: bool,
}

impl Patience {
    /// A first time that starts now.
    pub(super) fn new(window: Duration, now: Instant, tally: Tally) -> Self {
        let deadline = now + window * WINDOWS;
        Self { window, deadline, before: tally, bytes: 0, is_late: false }
    }

    /// Counts content of this upload.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// When it is to be looked at. Waits of ours put that off, but not for ever: an upload that others of its
    /// user keep waiting ends, too.
    pub(super) fn end(&self, tally: Tally) -> Instant {
        self.deadline + tally.ours.saturating_sub(self.before.ours).min(self.window * WINDOWS)
    }

    /// Whether the upload is to be given up. While frames still come, what it waits for may be behind them: then it
    /// gets one window more.
    pub(super) fn is_over(&mut self, now: Instant, tally: Tally, nothing_came: bool) -> bool {
        let late = now.checked_duration_since(self.end(tally));
        let Some(late) = late else { return false };
        let of_all = tally.content_bytes - self.before.content_bytes;
        if self.bytes >= Progress::WINDOW_BYTES || of_all >= BUSY_BYTES {
            *self = Self::new(self.window, now, tally);
            return false;
        }
        if nothing_came || self.is_late {
            return true;
        }
        self.is_late = true;
        self.deadline += late + self.window;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_mins(1);
    const FILE: usize = 512 * 1024;

    /// Moves so many bytes a second of other uploads, until this one is given up or so much has moved.
    fn stands_still(
        bytes_per_second: usize,
        most: usize,
        mut each: impl FnMut(&mut Tally),
    ) -> Option<Duration> {
        let (start, mut tally) = (Instant::now(), Tally::default());
        let mut patience = Patience::new(WINDOW, start, tally);
        let mut moved = 0;
        for second in 0.. {
            if moved >= most {
                return None;
            }
            let passed = Duration::from_secs(second);
            if patience.is_over(start + passed, tally, second % 2 == 0) {
                return Some(passed);
            }
            tally.moved(bytes_per_second);
            each(&mut tally);
            moved += bytes_per_second;
        }
        None
    }

    #[test]
    fn an_upload_that_waits_its_turn_is_left_alone_and_one_behind_a_trickle_is_not() {
        let nothing = |_: &mut Tally| {};
        // All that waits before it in ftc, on slow lines; and for days, where the line is not that slow.
        for (bytes_per_second, most) in
            [(10 << 10, 32 << 20), (50 << 10, 32 << 20), (150 << 10, 1 << 34), (20 << 10, 1 << 31)]
        {
            let given_up = stands_still(bytes_per_second, most, nothing);
            assert_eq!(given_up, None, "{bytes_per_second} bytes a second");
        }
        for bytes_per_second in [4, 1 << 10, 10 << 10] {
            let given_up = stands_still(bytes_per_second, usize::MAX, nothing);
            let hour = WINDOW * (WINDOWS + 1);
            assert!(
                given_up.is_some_and(|after| after <= hour),
                "{bytes_per_second}: {given_up:?}"
            );
        }
    }

    #[test]
    fn waits_of_ours_put_the_end_off_and_not_for_ever() {
        let all_the_time = |tally: &mut Tally| tally.ours += Duration::from_secs(1);
        let given_up = stands_still(4, usize::MAX, all_the_time);
        assert_eq!(given_up, Some(WINDOW * WINDOWS * 2));
    }

    #[test]
    fn what_moves_is_left_alone_and_what_comes_late_has_a_window() {
        let (start, tally) = (Instant::now(), Tally::default());
        let mut patience = Patience::new(WINDOW, start, tally);
        let mut now;
        for _ in 0..10 {
            patience.moved(FILE);
            now = patience.end(tally);
            assert!(!patience.is_over(now, tally, true));
            assert_eq!(patience.end(tally), now + WINDOW * WINDOWS);
        }
        // We stood still ourselves, and what came meanwhile is about to be read.
        now = patience.end(tally) + WINDOW * 5;
        assert!(!patience.is_over(now, tally, false));
        assert_eq!(patience.end(tally), now + WINDOW);
        assert!(!patience.is_over(now + WINDOW / 2, tally, true));
        assert!(patience.is_over(now + WINDOW, tally, false));
    }
}
