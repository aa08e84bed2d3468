//! Where the log goes: to the journal under systemd, to stderr otherwise.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::journal::{self, Journal, kind};
use crate::types::Escaped;

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
    let limiter = Limiter::default();
    std::panic::set_hook(Box::new(move |panic| tell_panic(panic, &limiter)));
}

/// One line for a panic, which nothing in its message can break; and no flood of them.
fn tell_panic(panic: &PanicHookInfo<'_>, limiter: &Limiter) {
    let Some(suppressed) = limiter.admit() else { return };
    let what = Escaped(panic.payload_as_str().unwrap_or("no message").as_bytes()).to_string();
    let place = panic.location().map(ToString::to_string);
    // Taken only where `RUST_BACKTRACE` wants it.
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        name: kind::FAULT,
        place,
        backtrace,
        suppressed,
        "an internal error, please report it: {what}"
    );
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
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// a panic is told in the journal, in one line, whatever its message is; a flood of them is not.
    #[test]
    fn a_panic_is_one_line_of_the_journal() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("journal");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        let journal = tracing_subscriber::registry().with(Journal::at(&path)?);
        // Other tests panic as well, on threads of theirs.
        let (own, limiter) = (std::thread::current().id(), Limiter::default());
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().id() == own {
                tell_panic(panic, &limiter);
            } else {
                before(panic);
            }
        }));
        tracing::subscriber::with_default(journal, || {
            for _ in 0..100 {
                let _ = std::panic::catch_unwind(|| panic!("of\nPRIORITY=0\u{1b}[31m{}", 1));
            }
        });
        drop(std::panic::take_hook());
        let mut buffer = vec![0; 1 << 18];
        let bytes = socket.recv(&mut buffer)?;
        let told = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
        assert!(told.starts_with("PRIORITY") && !told.contains('\u{1b}'), "{told}");
        for part in [
            "e8ed3e7190b04d6aae7c70b24a0419b8",
            "FTD_PLACE",
            "src/daemon/logging.rs:",
            "please report it: of\\nPRIORITY=0\\u{1b}[31m1",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let more = std::iter::repeat_with(|| socket.recv(&mut buffer)).take_while(Result::is_ok);
        let more = more.count();
        assert!(more < 50, "{more} more lines");
        Ok(())
    }

    #[test]
    fn a_flood_of_lines_is_counted_and_not_written() {
        let limiter = Limiter::default();
        let told: Vec<u64> = (0..1000).filter_map(|_| limiter.admit()).collect();
        assert!((10..=30).contains(&told.len()), "{told:?}");
        // Every one is written or counted.
        assert_eq!(told.len() as u64 + told.iter().sum::<u64>() + limiter.settle(), 1000);
    }
}
