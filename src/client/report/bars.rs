//! Bars on a terminal: one for each large file at hand, and one for the job.

use std::io::IsTerminal as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

const KNOWN: &str =
    "{wide_msg} {percent:>3}% {bytes:>11} {binary_bytes_per_sec:>13} {eta:>4} {prefix}";
const UNKNOWN: &str = "{wide_msg} {bytes:>11} {binary_bytes_per_sec:>13} {elapsed:>4} {prefix}";

/// All bars of a run. Nothing at all unless stderr is a terminal.
pub(super) struct Bars {
    all: Option<MultiProgress>,
    job: OnceLock<ProgressBar>,
    files: std::sync::atomic::AtomicU64,
    curtain: Mutex<Curtain>,
}

/// Whether the bars can be seen: not before there is a connection, and not while another one is made, because
/// the user may be asked something then.
#[derive(Default)]
struct Curtain {
    is_begun: bool,
    connecting: usize,
}

impl Curtain {
    fn is_open(&self) -> bool {
        self.is_begun && self.connecting == 0
    }
}

/// The bar of one file.
pub(super) struct Bar(ProgressBar);

impl Bars {
    pub(super) fn new(hidden: bool) -> Self {
        let visible = !hidden && std::io::stderr().is_terminal();
        let all = visible.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));
        Self { all, job: OnceLock::new(), files: 0.into(), curtain: Mutex::default() }
    }

    /// A connection is being made.
    pub(super) fn connecting(&self) {
        self.draw(|curtain| curtain.connecting += 1);
    }

    /// It was made, or was not.
    pub(super) fn connected(&self) {
        self.draw(|curtain| curtain.connecting -= 1);
    }

    /// There is a connection on which something can move.
    pub(super) fn begin(&self) {
        self.draw(|curtain| curtain.is_begun = true);
    }

    fn draw(&self, change: impl FnOnce(&mut Curtain)) {
        let Some(all) = &self.all else { return };
        let mut curtain = self.curtain.lock().unwrap_or_else(PoisonError::into_inner);
        let was_open = curtain.is_open();
        change(&mut curtain);
        match (was_open, curtain.is_open()) {
            (false, true) => all.set_draw_target(ProgressDrawTarget::stderr()),
            (true, false) => {
                let _ = all.clear(); // A terminal that is gone shows nothing.
                all.set_draw_target(ProgressDrawTarget::hidden());
            }
            _ => {}
        }
    }

    pub(super) fn is_visible(&self) -> bool {
        self.all.is_some()
    }

    /// Shows the bar of the whole job, below all others.
    pub(super) fn job(&self) {
        if let Some(all) = &self.all {
            self.job.get_or_init(|| {
                let bar = all.add(ProgressBar::new(0));
                bar.set_style(style(KNOWN));
                bar.set_message("0 files");
                bar.enable_steady_tick(Duration::from_millis(200));
                bar
            });
        }
    }

    /// So much is to be done in all, as far as is known.
    pub(super) fn found(&self, files: u64, bytes: u64) {
        self.files.store(files, std::sync::atomic::Ordering::Relaxed);
        if let Some(job) = self.job.get() {
            job.set_length(bytes);
        }
    }

    /// So many files are done.
    pub(super) fn advance_files(&self, done: u64) {
        if let Some(job) = self.job.get() {
            let found = self.files.load(std::sync::atomic::Ordering::Relaxed);
            job.set_message(format!("{done} of {} files", found.max(done)));
        }
    }

    pub(super) fn advance(&self, bytes: u64) {
        if let Some(job) = self.job.get() {
            job.inc(bytes);
        }
    }

    pub(super) fn retreat(&self, bytes: u64) {
        if let Some(job) = self.job.get() {
            job.set_position(job.position().saturating_sub(bytes));
        }
    }

    /// A bar for `name`, which is already escaped; `bytes` if the size is known.
    pub(super) fn file(&self, name: &str, bytes: Option<u64>) -> Option<Bar> {
        let all = self.all.as_ref()?;
        let bar = match bytes {
            Some(bytes) => ProgressBar::new(bytes).with_style(style(KNOWN)),
            None => ProgressBar::no_length().with_style(style(UNKNOWN)),
        };
        let bar = match self.job.get() {
            Some(job) => all.insert_before(job, bar),
            None => all.add(bar),
        };
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Some(Bar(bar))
    }

    /// Prints something without tearing the bars.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        match &self.all {
            Some(all) => all.suspend(print),
            None => print(),
        }
    }

    pub(super) fn clear(&self) {
        if let Some(job) = self.job.get() {
            job.finish_and_clear();
        }
    }
}

impl Bar {
    pub(super) fn length(&self, bytes: u64) {
        self.0.set_length(bytes);
        self.0.set_style(style(KNOWN));
    }

    pub(super) fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    pub(super) fn restart(&self) {
        self.0.set_position(0);
    }

    pub(super) fn say(&self, what: &'static str) {
        self.0.set_prefix(what);
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
