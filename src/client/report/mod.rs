//! What a run tells: lines for people, bars on a terminal, events for programs, receipts for the files.
//!
//! *Shape*: `docs/json.md` is the schema of the events.

mod bars;
mod events;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::HumanBytes;

use super::exit::{Exit, Failure, said, tell};
use crate::types::{Escaped, RelPath, Sha256Digest};
use bars::{Bar, Bars};
use events::Event;

/// How often a file's progress is an event.
const EVENT_EVERY: Duration = Duration::from_secs(1);
/// Files that are at least so large tell what is being waited for at their end.
const PHASE_LEAST: u64 = 1024 * 1024;
/// Files that are at least so large have a bar of their own.
const BAR_LEAST: u64 = 4 * 1024 * 1024;

/// What is done with a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// It is sent.
    Put,
    /// It is fetched.
    Get,
    /// It is compared.
    Verify,
    /// It is removed.
    Rm,
    /// It gets another name.
    Mv,
    /// It is made, a directory.
    Mkdir,
}

/// One file of a job.
#[derive(Clone, Debug)]
pub struct Item {
    /// What is done with it.
    pub action: Action,
    /// Its path on the server, raw.
    pub path: Vec<u8>,
    /// What it is here, raw; `-` for a stream; empty for what is on the server alone.
    pub local: Vec<u8>,
}

impl Item {
    /// A name on the server, which is changed there.
    pub fn there(action: Action, path: &RelPath) -> Self {
        Self { action, path: path.raw_bytes().to_vec(), local: Vec::new() }
    }

    /// The name that a person recognises: where it ends up.
    fn shown(&self) -> String {
        match self.action {
            Action::Get | Action::Verify => Escaped(&self.local).to_string(),
            _ => Escaped(&self.path).to_string(),
        }
    }
}

/// What came of a file.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Bytes of content.
    pub bytes: u64,
    /// SHA-256 of the content.
    pub sha256: Sha256Digest,
    /// Time of modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Whether another file made room.
    pub replaced: bool,
    /// Bytes that an earlier attempt had left, which were not moved again.
    pub resumed: u64,
    /// The answer was lost, and the file found to be there when it was asked for.
    pub confirmed: bool,
}

/// How a run is told.
#[derive(Clone, Debug, Default)]
pub struct Style {
    /// Nothing but errors.
    pub quiet: bool,
    /// Every file of a tree too.
    pub verbose: bool,
    /// Events for programs, instead of lines for people.
    pub events: Option<Stream>,
}

/// Where events go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error: standard output carries a file.
    Err,
}

/// The teller of a run. Cheap to clone.
#[derive(Clone)]
pub struct Report(Arc<Inner>);

struct Inner {
    style: Style,
    bars: Bars,
    receipt: Option<Mutex<File>>,
    lacks_receipts: AtomicBool,
    /// Whether it is a job of many files, which is told in sums.
    many: AtomicBool,
    totals: Totals,
    started: Instant,
    /// Whether the last event was told: what ends late tells nothing any more.
    is_over: Mutex<bool>,
}

#[derive(Default)]
struct Totals {
    done: AtomicU64,
    skipped: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    moved: AtomicU64,
    files_found: AtomicU64,
    bytes_found: AtomicU64,
}

impl Report {
    /// Nothing to tell yet.
    ///
    /// # Errors
    /// The receipt cannot be opened.
    #[expect(clippy::disallowed_methods, reason = "the user's own file, named by the user")]
    pub fn new(style: Style, receipt: Option<&Path>) -> Result<Self, Failure> {
        let open = |path: &Path| {
            File::options().append(true).create(true).mode(0o600).open(path).map_err(|error| {
                Failure::new(Exit::Usage, said(&error))
                    .doing(format!("open the receipt {}", path.display()))
                    .hint("nothing was copied; say another FILE")
            })
        };
        let receipt = receipt.map(open).transpose()?.map(Mutex::new);
        let bars = Bars::new(style.quiet || style.events.is_some());
        let inner = Inner {
            style,
            bars,
            receipt,
            lacks_receipts: false.into(),
            many: false.into(),
            totals: Totals::default(),
            started: Instant::now(),
            is_over: Mutex::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Whether files are told one by one, as far as they are at all.
    fn is_verbose(&self) -> bool {
        self.0.style.verbose || !self.0.many.load(Ordering::Relaxed)
    }

    /// Whether something was copied of which there is no receipt.
    pub fn lacks_receipts(&self) -> bool {
        self.0.lacks_receipts.load(Ordering::Relaxed)
    }

    /// Whether programs are told, and not people.
    pub fn has_events(&self) -> bool {
        self.0.style.events.is_some()
    }

    /// Whether somebody would see how much there is to do.
    pub fn wants_totals(&self) -> bool {
        self.0.bars.is_visible()
    }

    /// It is a job of many files: one bar for all of it, and sums at the end.
    pub fn many(&self) {
        self.0.many.store(true, Ordering::Relaxed);
        self.0.bars.job();
    }

    /// So much more was found that is to be done.
    pub fn found(&self, files: u64, bytes: u64) {
        let files = self.0.totals.files_found.fetch_add(files, Ordering::Relaxed) + files;
        let bytes = self.0.totals.bytes_found.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.0.bars.found(files, bytes);
    }

    /// A file is begun.
    pub fn start(&self, item: Item, bytes: Option<u64>) -> Meter {
        self.event(|| Event::start(&item, bytes));
        let is_alone = !self.0.many.load(Ordering::Relaxed);
        let bar = (is_alone || bytes.is_none_or(|bytes| bytes >= BAR_LEAST))
            .then(|| self.0.bars.file(&item.shown(), bytes))
            .flatten();
        Meter(Some(Arc::new(Metered {
            report: self.clone(),
            item,
            bar,
            total: AtomicU64::new(bytes.unwrap_or(u64::MAX)),
            moved: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            told: Mutex::new(Instant::now()),
        })))
    }

    /// A file is safe where it was to go.
    pub fn done(&self, meter: &Meter, done: &Done) {
        meter.clear();
        let Some(metered) = &meter.0 else { return };
        let totals = &self.0.totals;
        totals.done.fetch_add(1, Ordering::Relaxed);
        totals.bytes.fetch_add(done.bytes, Ordering::Relaxed);
        self.0.bars.advance_files(totals.done.load(Ordering::Relaxed));
        let item = &metered.item;
        let event = (self.0.style.events.is_some() || self.0.receipt.is_some())
            .then(|| Event::done(item, done));
        if let Some(event) = event {
            self.receipt(&event);
            self.event(|| event);
        }
        if self.is_verbose() {
            let how = match (item.action, done.replaced) {
                (Action::Put, false) => "stored",
                (Action::Put, true) => "stored, replacing",
                (_, false) => "got",
                (_, true) => "got, replacing",
            };
            let mut text = format!(
                "{how} {}  {}  sha256 {}",
                item.shown(),
                HumanBytes(done.bytes),
                done.sha256
            );
            if done.resumed > 0 {
                text += &format!("  (resumed at {})", HumanBytes(done.resumed));
            }
            if done.confirmed {
                text += "  (its answer was lost; it is there)";
            }
            self.say(&text);
        }
    }

    /// A file need not be done.
    pub fn skipped(&self, item: &Item, bytes: u64, reason: &str) {
        let totals = &self.0.totals;
        totals.skipped.fetch_add(1, Ordering::Relaxed);
        self.0.bars.pass(bytes);
        self.event(|| Event::skipped(item, reason));
        if self.is_verbose() {
            self.say(&format!("skipped {}: {reason}", item.shown()));
        }
    }

    /// What would be done with a file, of a dry run.
    pub fn would(&self, item: &Item, what: &str) {
        self.0.totals.done.fetch_add(1, Ordering::Relaxed);
        self.event(|| Event::would(item, what));
        if self.0.style.events.is_none() {
            self.0.bars.suspend(|| super::print(&format!("would {what} {}\n", item.shown())));
        }
    }

    /// A name on the server was changed; of a move, with the name that it has since.
    pub fn changed(&self, item: &Item, to: Option<&RelPath>) {
        self.0.totals.done.fetch_add(1, Ordering::Relaxed);
        self.event(|| Event::changed(item, to));
        self.explain(|| match (item.action, to) {
            (_, Some(to)) => format!("moved {} to {to}", item.shown()),
            (Action::Mkdir, None) => format!("made {}", item.shown()),
            (_, None) => format!("removed {}", item.shown()),
        });
    }

    /// A file was compared: what is different about it, if anything is.
    pub fn verified(&self, item: &Item, different: Option<&str>) {
        let totals = &self.0.totals;
        let count = if different.is_none() { &totals.done } else { &totals.failed };
        count.fetch_add(1, Ordering::Relaxed);
        self.event(|| Event::verified(item, different));
        if self.0.style.events.is_none() {
            let verdict = match different {
                None if self.0.style.quiet => return,
                None => "OK".to_owned(),
                Some(why) => format!("FAILED ({why})"),
            };
            super::print(&format!("{}: {verdict}\n", item.shown()));
        }
    }

    /// A file, or whatever else was asked for, failed; people need not be told the same for each file.
    pub fn failed(&self, item: Option<&Item>, failure: &Failure, is_news: bool) {
        self.0.totals.failed.fetch_add(1, Ordering::Relaxed);
        self.event(|| Event::error(item, failure));
        if self.0.style.events.is_none() && is_news {
            self.0.bars.suspend(|| super::exit::report(failure));
        }
    }

    /// A line for people, unless they want to hear nothing.
    pub fn say(&self, text: &str) {
        if !self.0.style.quiet && self.0.style.events.is_none() {
            self.0.bars.suspend(|| tell(format_args!("{text}")));
        }
    }

    /// A line for people who asked to hear everything.
    pub fn explain(&self, text: impl FnOnce() -> String) {
        if self.0.style.verbose {
            let text = text();
            self.0.bars.suspend(|| tell(format_args!("ftc: {text}")));
        }
    }

    /// No bars are drawn while what this gives lives: a connection is being made, and the user may be asked.
    pub fn connecting(&self) -> Connecting {
        self.0.bars.connecting();
        Connecting(self.clone())
    }

    /// There is a connection: bars are drawn from now on.
    pub fn connected(&self) {
        self.0.bars.begin();
    }

    /// Takes the bars away, and tells nothing.
    pub fn clear(&self) {
        self.0.bars.clear();
    }

    /// Takes the bars away and tells the sums; `wire` is what the content that moved was on the line.
    pub fn finish(&self, exit: Exit, wire: u64) {
        self.0.bars.clear();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let totals = &self.0.totals;
        let (done, skipped, failed) =
            (load(&totals.done), load(&totals.skipped), load(&totals.failed));
        let (bytes, moved) = (load(&totals.bytes), load(&totals.moved));
        let took = self.0.started.elapsed();
        let seconds = took.as_secs_f64();
        let counts = [done, skipped, failed, bytes, moved, wire];
        self.emit(|| Event::summary(counts, seconds, exit), true);
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        if self.0.many.load(Ordering::Relaxed) && done + skipped + failed > 0 {
            let rate = HumanBytes(moved.saturating_mul(1000) / millis);
            let mut text = format!("{done} done, {}", HumanBytes(bytes));
            if skipped > 0 {
                text += &format!(", {skipped} skipped");
            }
            if failed > 0 {
                text += &format!(", {failed} failed");
            }
            text += &format!("; {} moved", HumanBytes(moved));
            if wire < moved {
                text += &format!(" as {}", HumanBytes(wire));
            }
            self.say(&format!("{text} in {seconds:.1} s, {rate}/s"));
            if skipped > 0 && exit == Exit::Partial && !self.0.style.verbose {
                self.say("hint: -v names what was skipped");
            }
        }
    }

    fn event(&self, event: impl FnOnce() -> Event) {
        self.emit(event, false);
    }

    fn emit(&self, event: impl FnOnce() -> Event, is_last: bool) {
        if let Some(stream) = self.0.style.events {
            let mut is_over = self.0.is_over.lock().unwrap_or_else(PoisonError::into_inner);
            if *is_over {
                return;
            }
            *is_over = is_last;
            let line = event().line();
            match stream {
                Stream::Out => super::print(&line),
                Stream::Err => tell(format_args!("{}", line.trim_end())),
            }
        }
    }

    fn receipt(&self, event: &Event) {
        let Some(receipt) = &self.0.receipt else { return };
        let line = event.line();
        let written =
            receipt.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        if let Err(error) = written {
            self.0.lacks_receipts.store(true, Ordering::Relaxed);
            let failure = Failure::new(Exit::Other, said(&error)).doing("write the receipt");
            super::exit::report(&failure.hint("the files themselves are as it says here"));
        }
    }
}

/// A connection that is being made.
pub struct Connecting(Report);

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.0.bars.connected();
    }
}

/// Counts the bytes of one file. Cheap to clone.
#[derive(Clone, Default)]
pub struct Meter(Option<Arc<Metered>>);

struct Metered {
    report: Report,
    item: Item,
    bar: Option<Bar>,
    total: AtomicU64,
    moved: AtomicU64,
    passed: AtomicU64,
    told: Mutex<Instant>,
}

impl Metered {
    fn done(&self) -> u64 {
        self.moved.load(Ordering::Relaxed) + self.passed.load(Ordering::Relaxed)
    }

    /// It is so many bytes further, which is an event from time to time.
    fn tell(&self, bytes: u64) {
        if self.report.0.style.events.is_some() && bytes > 0 {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() >= EVENT_EVERY {
                *told = Instant::now();
                let total = Some(self.total.load(Ordering::Relaxed)).filter(|t| *t != u64::MAX);
                self.report.event(|| Event::progress(&self.item, self.done(), total));
            }
        }
    }
}

impl Meter {
    /// The size has become known.
    pub fn length(&self, bytes: u64) {
        if let Some(metered) = &self.0 {
            metered.total.store(bytes, Ordering::Relaxed);
            if let Some(bar) = &metered.bar {
                bar.length(bytes);
            }
        }
    }

    /// So many bytes more have gone over the connection.
    pub fn moved(&self, bytes: usize) {
        let Some(metered) = &self.0 else { return };
        let bytes = bytes as u64;
        metered.report.0.totals.moved.fetch_add(bytes, Ordering::Relaxed);
        metered.moved.fetch_add(bytes, Ordering::Relaxed);
        metered.report.0.bars.advance(bytes);
        if let Some(bar) = &metered.bar {
            bar.advance(bytes);
        }
        metered.tell(bytes);
    }

    /// So many bytes need not go over it: an earlier attempt left them.
    pub fn passed(&self, bytes: u64) {
        let Some(metered) = &self.0 else { return };
        metered.passed.fetch_add(bytes, Ordering::Relaxed);
        metered.report.0.bars.pass(bytes);
        if let Some(bar) = &metered.bar {
            bar.pass(bytes);
        }
        metered.tell(bytes);
    }

    /// Whether something has gone over the connection since it began.
    pub fn has_moved(&self) -> bool {
        self.0.as_ref().is_some_and(|metered| metered.moved.load(Ordering::Relaxed) > 0)
    }

    /// It begins again, from nothing.
    pub fn restart(&self) {
        let Some(metered) = &self.0 else { return };
        let moved = metered.moved.swap(0, Ordering::Relaxed);
        let passed = metered.passed.swap(0, Ordering::Relaxed);
        metered.report.0.bars.retreat(moved, passed);
        if let Some(bar) = &metered.bar {
            bar.retreat(moved, passed);
        }
    }

    /// What is being waited for.
    pub fn say(&self, what: &'static str) {
        if let Some(metered) = &self.0 {
            if let Some(bar) = &metered.bar {
                bar.say(what);
            }
            if metered.done() >= PHASE_LEAST {
                metered.report.event(|| Event::phase(&metered.item, what));
            }
        }
    }

    /// Takes its bar away.
    pub fn clear(&self) {
        if let Some(Metered { bar: Some(bar), .. }) = self.0.as_deref() {
            bar.clear();
        }
    }
}
