//! Where the log goes: to the journal under systemd, to stderr otherwise.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::journal::{self, Journal};

/// Starts logging. `FTD_LOG` sets the level (`info` without it).
pub(super) fn start() {
    let filter = EnvFilter::builder()
        .with_env_var("FTD_LOG")
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let registry = tracing_subscriber::registry().with(filter);
    if stderr_is_the_journal()
        && let Ok(journal) = Journal::at(Path::new(journal::SOCKET))
    {
        registry.with(journal).init();
    } else {
        let stderr = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .with_target(false);
        registry.with(stderr).init();
    }
}

/// Whether systemd connected our stderr to the journal.
///
/// *Source*: systemd.exec(5), `$JOURNAL_STREAM`: device and inode of that stream.
fn stderr_is_the_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    nix::sys::stat::fstat(std::io::stderr())
        .is_ok_and(|stat| stat.st_dev.to_string() == device && stat.st_ino.to_string() == inode)
}

/// Lets at most so many lines through in a second and counts the rest, so that strangers cannot
/// fill the log.
#[derive(Debug)]
pub(super) struct Limiter {
    window: Mutex<(Instant, u32, u64)>,
}

/// Lines of one kind in a second.
const LINES_MAX: u32 = 10;

impl Default for Limiter {
    fn default() -> Self {
        Self { window: Mutex::new((Instant::now(), 0, 0)) }
    }
}

impl Limiter {
    /// How many lines were suppressed that no line has told of yet; it is told now.
    pub(super) fn settle(&self) -> u64 {
        std::mem::take(&mut self.window.lock().unwrap_or_else(PoisonError::into_inner).2)
    }

    /// Whether a line may be written: how many were suppressed before it, if so.
    pub(super) fn admit(&self) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, lines, suppressed) = &mut *window;
        if start.elapsed() >= Duration::from_secs(1) {
            (*start, *lines) = (Instant::now(), 0);
        }
        if *lines < LINES_MAX {
            *lines += 1;
            return Some(std::mem::take(suppressed));
        }
        *suppressed += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_counted_and_not_written() {
        let limiter = Limiter::default();
        let told: Vec<u64> = (0..1000).filter_map(|_| limiter.admit()).collect();
        assert!((10..=30).contains(&told.len()), "{told:?}");
        // Every one is written or counted.
        assert_eq!(told.len() as u64 + told.iter().sum::<u64>() + limiter.settle(), 1000);
    }
}
