//! Bars on a terminal: one for each large file at hand, and one for the job.

use std::fmt::Write;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use indicatif::{
    HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};

const KNOWN: &str =
    "{wide_msg} {share:>3}% {content:>11} {binary_bytes_per_sec:>13} {eta:>4} {prefix}";
const UNKNOWN: &str = "{wide_msg} {content:>11} {binary_bytes_per_sec:>13} {elapsed:>4} {prefix}";

/// All bars of a run. Nothing at all unless stderr is a terminal.
pub(super) struct Bars {
    all: Option<MultiProgress>,
    job: OnceLock<Gauge>,
    files_found: AtomicU64,
    files_done: AtomicU64,
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
pub(super) struct Bar(Gauge);

/// A bar, and what of it need not move: because an earlier run left it, or it is there already. To the bar itself
/// only the rest exists, so that rate and time left are of that.
struct Gauge {
    bar: ProgressBar,
    /// All that there is; `u64::MAX` while that is not known.
    total: AtomicU64,
    passed: Arc<AtomicU64>,
}

impl Gauge {
    fn new(bytes: Option<u64>) -> Self {
        let gauge = Self {
            // Hidden until it is one of all bars: else it would draw itself.
            bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
            total: AtomicU64::new(u64::MAX),
            passed: Arc::default(),
        };
        match bytes {
            Some(bytes) => gauge.length(bytes),
            None => gauge.bar.set_style(gauge.style(UNKNOWN)),
        }
        gauge
    }

    fn length(&self, bytes: u64) {
        if self.total.swap(bytes, Ordering::Relaxed) == u64::MAX {
            self.bar.set_style(self.style(KNOWN));
        }
        self.resize();
    }

    /// So many bytes need not move.
    fn pass(&self, bytes: u64) {
        self.passed.fetch_add(bytes, Ordering::Relaxed);
        self.resize();
    }

    /// So many bytes have to move again, and so many may have to move after all.
    fn retreat(&self, moved: u64, passed: u64) {
        self.passed.fetch_sub(passed, Ordering::Relaxed);
        self.bar.set_position(self.bar.position().saturating_sub(moved));
        self.resize();
    }

    fn resize(&self) {
        let total = self.total.load(Ordering::Relaxed);
        if total != u64::MAX {
            self.bar.set_length(total.saturating_sub(self.passed.load(Ordering::Relaxed)));
        }
    }

    fn style(&self, template: &str) -> ProgressStyle {
        let style = ProgressStyle::with_template(template);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let (of_share, of_content) = (Arc::clone(&self.passed), Arc::clone(&self.passed));
        let share = move |state: &ProgressState, out: &mut dyn Write| {
            let passed = of_share.load(Ordering::Relaxed);
            let total = u128::from(state.len().unwrap_or(0).saturating_add(passed));
            let done = u128::from(state.pos().saturating_add(passed)) * 100;
            let share = done.checked_div(total).unwrap_or(100).min(100);
            let _ = write!(out, "{share}"); // To memory.
        };
        let content = move |state: &ProgressState, out: &mut dyn Write| {
            let passed = of_content.load(Ordering::Relaxed);
            let _ = write!(out, "{}", HumanBytes(state.pos().saturating_add(passed))); // To memory.
        };
        style.with_key("share", share).with_key("content", content)
    }
}

impl Bars {
    pub(super) fn new(hidden: bool) -> Self {
        let visible = !hidden && std::io::stderr().is_terminal();
        let all = visible.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));
        let (files_found, files_done) = (0.into(), 0.into());
        Self { all, job: OnceLock::new(), files_found, files_done, curtain: Mutex::default() }
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
                let gauge = Gauge::new(None);
                gauge.bar.set_message("0 files");
                let gauge = Gauge { bar: all.add(gauge.bar), ..gauge };
                gauge.bar.enable_steady_tick(Duration::from_millis(200));
                gauge
            });
        }
    }

    /// So much is to be done in all, as far as is known.
    pub(super) fn found(&self, files: u64, bytes: u64) {
        self.files_found.fetch_max(files, Ordering::Relaxed);
        if let Some(job) = self.job.get() {
            job.length(bytes);
        }
        self.tell_files();
    }

    /// So many files are done.
    pub(super) fn advance_files(&self, done: u64) {
        self.files_done.fetch_max(done, Ordering::Relaxed);
        self.tell_files();
    }

    fn tell_files(&self) {
        if let Some(job) = self.job.get() {
            let done = self.files_done.load(Ordering::Relaxed);
            let found = self.files_found.load(Ordering::Relaxed).max(done);
            job.bar.set_message(format!("{done} of {found} files"));
        }
    }

    pub(super) fn advance(&self, bytes: u64) {
        if let Some(job) = self.job.get() {
            job.bar.inc(bytes);
        }
    }

    pub(super) fn pass(&self, bytes: u64) {
        if let Some(job) = self.job.get() {
            job.pass(bytes);
        }
    }

    pub(super) fn retreat(&self, moved: u64, passed: u64) {
        if let Some(job) = self.job.get() {
            job.retreat(moved, passed);
        }
    }

    /// A bar for `name`, which is already escaped; `bytes` if the size is known.
    pub(super) fn file(&self, name: &str, bytes: Option<u64>) -> Option<Bar> {
        let all = self.all.as_ref()?;
        let gauge = Gauge::new(bytes);
        gauge.bar.set_message(name.to_owned());
        let bar = match self.job.get() {
            Some(job) => all.insert_before(&job.bar, gauge.bar),
            None => all.add(gauge.bar),
        };
        bar.enable_steady_tick(Duration::from_millis(200));
        Some(Bar(Gauge { bar, ..gauge }))
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
            job.bar.finish_and_clear();
        }
    }
}

impl Bar {
    pub(super) fn length(&self, bytes: u64) {
        self.0.length(bytes);
    }

    pub(super) fn advance(&self, bytes: u64) {
        self.0.bar.inc(bytes);
    }

    pub(super) fn pass(&self, bytes: u64) {
        self.0.pass(bytes);
    }

    pub(super) fn retreat(&self, moved: u64, passed: u64) {
        self.0.retreat(moved, passed);
    }

    pub(super) fn say(&self, what: &'static str) {
        self.0.bar.set_prefix(what);
    }

    pub(super) fn clear(&self) {
        self.0.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}
