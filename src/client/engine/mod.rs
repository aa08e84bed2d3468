//! One connection that carries many requests at once.
//!
//! A [`Line`] is a handle on it, cheap to clone. One task drives both directions (`drive.rs`); requests
//! reach it through a bounded channel, and answers come back as they complete. The line stays below the
//! limits that the server's HELLO tells, so that callers ask for as much as they like and wait here.

mod backlog;
mod drive;
#[cfg(test)]
mod tests;
mod throttle;

pub use backlog::Listing;
pub use throttle::Throttle;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::connect::hello_deadline;
use super::exit::{Exit, Failure};
use super::report::Meter;
use crate::proto::{
    Abort, Answer, ClientHello, ClientState, ErrorMessage, FileInfo, Kind, PutRequest, Request,
    ServerHello, VERSION, WirePath, parse,
};
use crate::transfer::{Buffer, PARTS_MAX, Part, Pool, Seal, Share};
use crate::types::RelPath;
use crate::wire::{FrameReader, FrameWriter, Next, WireError};
use backlog::Backlog;

/// Requests that are in flight at once, if the server takes so many.
const REQUESTS_MAX: u32 = 192;
/// Streams that are open at once, if the server takes more: one is left for small files, which are put
/// whole, each between two steps of the writer.
const UPLOADS_MAX: u32 = 8;
/// Steps that wait for the writer.
const STEPS_MAX: usize = 64;
/// Buffers of one stream that wait for the writer: with more of them content would leave the processor's
/// caches before it is sent (`docs/performance.md`).
const AHEAD_MAX: usize = 2;
/// Memory for content on its way out, and as much for content on its way in.
const CONTENT_BYTES: u64 = 16 * 1024 * 1024;

/// How long the server may be silent while a plain answer is due.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);
/// How long the server may be silent while it makes a file durable.
const COMMIT_TIMEOUT: Duration = Duration::from_mins(10);
/// How long the server may be silent while it reads a whole file.
const REREAD_TIMEOUT: Duration = Duration::from_hours(12);
/// How long an upload may go on without an answer; its own progress is watched while sending.
const UPLOAD_TIMEOUT: Duration = Duration::from_hours(24 * 365);
/// How long saying goodbye may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection on which requests are made.
#[derive(Clone)]
pub struct Line(Arc<Inner>);

struct Inner {
    hello: OnceLock<ServerHello>,
    steps: mpsc::Sender<Step>,
    table: Mutex<Table>,
    requests: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    share: Share,
    throttle: Arc<Throttle>,
    driver: OnceLock<AbortHandle>,
    asked_to_compress: AtomicBool,
}

/// What is in flight.
struct Table {
    state: ClientState,
    slots: BTreeMap<u32, Slot>,
    /// Why nothing more can be asked here.
    broken: Option<Failure>,
}

/// Content on its way out: a part of a buffer, which others may have parts of too.
#[derive(Clone)]
pub struct Chunk {
    buffer: Arc<Buffer>,
    range: Range<usize>,
}

impl Chunk {
    /// A part of what is filled.
    pub fn new(buffer: &Arc<Buffer>, range: Range<usize>) -> Self {
        Self { buffer: Arc::clone(buffer), range }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.content().get(self.range.clone()).unwrap_or_default()
    }
}

/// Who waits for what.
struct Slot {
    waits: Waits,
    patience: Duration,
    _held: OwnedSemaphorePermit,
}

enum Waits {
    /// One answer and nothing else.
    Answer(oneshot::Sender<Result<Answer, Failure>>),
    /// Entries, and then an answer.
    Listing(Arc<Backlog>),
    /// A get that is not announced yet.
    File(oneshot::Sender<Result<Begun, Failure>>, Meter),
    /// A get's content, and where to leave the reason when it does not come to its end.
    Content(mpsc::Sender<Part>, Reason, Meter),
}

/// What a get's announcement brings along.
struct Begun {
    info: FileInfo,
    parts: mpsc::Receiver<Part>,
    why: Reason,
}

/// Why a get's content did not come to its end, once it is known.
#[derive(Clone, Default)]
pub struct Reason(Arc<Mutex<Option<Failure>>>);

impl Reason {
    fn leave(&self, failure: Failure) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    /// The reason, if there is one.
    pub fn take(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What the writer is to send next.
enum Step {
    Control(Kind, u32, Vec<u8>),
    /// Content of a stream; the permit is its place among those that wait.
    Data(u32, Chunk, Meter, OwnedSemaphorePermit),
    Whole {
        id: u32,
        request: Vec<u8>,
        content: Chunk,
        seal: Seal,
        meter: Meter,
    },
    Trailer(u32, Seal, Meter),
    Empty(Kind, u32),
    /// Compress content from here on.
    Compress,
    /// Say goodbye and stop.
    Close,
}

impl Inner {
    /// Takes in what the server said first: from now on its limits are ours.
    fn greet(&self, hello: ServerHello) {
        let more = |ours: u32, theirs: u32| (ours.min(theirs).max(1) - 1) as usize;
        self.requests.add_permits(more(REQUESTS_MAX, hello.limits.requests));
        self.uploads.add_permits(more(UPLOADS_MAX, hello.limits.uploads.saturating_sub(1)));
        let _ = self.hello.set(hello); // It is said once.
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a line that works before the server has said hello needs.
pub(super) struct Early {
    /// To be set when the server has said hello.
    pub stood: Arc<AtomicBool>,
    /// What is said of it when the server refuses us instead.
    pub refused: Box<dyn Fn(Failure) -> Failure + Send>,
}

impl Line {
    /// Waits for the server's word on who we are, answers it, and starts to work.
    ///
    /// # Errors
    /// The server does not know us, or speaks another version.
    pub(super) async fn open(
        mut reader: FrameReader,
        writer: FrameWriter,
        throttle: Arc<Throttle>,
    ) -> Result<Self, Failure> {
        let hello = hello(&mut reader).await?;
        let line = Self::start(reader, writer, throttle, None)?;
        line.0.greet(hello);
        Ok(line)
    }

    /// Starts to work at once, with a single request until the server has said hello.
    ///
    /// *Source*: `docs/protocol.md`, "Opening".
    ///
    /// # Errors
    /// The connection is gone.
    pub(super) fn open_early(
        reader: FrameReader,
        writer: FrameWriter,
        throttle: Arc<Throttle>,
        early: Early,
    ) -> Result<Self, Failure> {
        Self::start(reader, writer, throttle, Some(early))
    }

    fn start(
        reader: FrameReader,
        mut writer: FrameWriter,
        throttle: Arc<Throttle>,
        early: Option<Early>,
    ) -> Result<Self, Failure> {
        let client = Some(concat!("ftc/", env!("CARGO_PKG_VERSION")).to_owned());
        writer.control(Kind::Hello, 0, &ClientHello { version: VERSION.max, client })?;
        let (steps, queue) = mpsc::channel(STEPS_MAX);
        let inner = Arc::new(Inner {
            steps,
            table: Mutex::new(Table {
                state: ClientState::default(),
                slots: BTreeMap::new(),
                broken: None,
            }),
            requests: Arc::new(Semaphore::new(1)),
            uploads: Arc::new(Semaphore::new(1)),
            share: Pool::new(2 * CONTENT_BYTES).share(),
            throttle,
            driver: OnceLock::new(),
            asked_to_compress: AtomicBool::new(false),
            hello: OnceLock::new(),
        });
        let driver = tokio::spawn(drive::run(Arc::downgrade(&inner), reader, writer, queue, early));
        let _ = inner.driver.set(driver.abort_handle()); // For the first time.
        Ok(Self(inner))
    }

    /// What the server said first, once it has.
    pub fn hello(&self) -> Option<&ServerHello> {
        self.0.hello.get()
    }

    /// Whether the connection is gone.
    pub fn is_broken(&self) -> bool {
        self.0.table().broken.is_some()
    }

    /// Memory for content on its way out.
    pub fn share(&self) -> &Share {
        &self.0.share
    }

    /// Puts a request into the table and in front of the writer; ids grow in the order of sending.
    async fn begin(
        &self,
        request: &Request,
        patience: Duration,
        waits: Waits,
        step: impl FnOnce(u32, Vec<u8>) -> Step,
    ) -> Result<u32, Failure> {
        let held = Arc::clone(&self.0.requests).acquire_owned().await.map_err(|_| cut())?;
        let json = serde_json::to_vec(request).map_err(|_| cut())?;
        let place = self.0.steps.reserve().await;
        let mut table = self.0.table();
        if let Some(failure) = &table.broken {
            return Err(failure.clone());
        }
        let place = place.map_err(|_| cut())?;
        let id = table.state.begin(request);
        table.slots.insert(id, Slot { waits, patience, _held: held });
        place.send(step(id, json));
        Ok(id)
    }

    async fn step(&self, step: Step) -> Result<(), Failure> {
        let sent = self.0.steps.send(step).await;
        sent.map_err(|_| self.0.table().broken.clone().unwrap_or_else(cut))
    }

    /// Asks for what has one answer and no content.
    ///
    /// # Errors
    /// The server's word, or the connection's end.
    pub async fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        let (answer, answered) = oneshot::channel();
        let patience = match request {
            Request::Digest { .. } => REREAD_TIMEOUT,
            _ => ANSWER_TIMEOUT,
        };
        let control = |id, json| Step::Control(Kind::Request, id, json);
        self.begin(request, patience, Waits::Answer(answer), control).await?;
        answered.await.unwrap_or_else(|_| Err(cut()))
    }

    /// Lists a directory; `None` is the home.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn list(&self, path: Option<&RelPath>) -> Result<Listing, Failure> {
        let request = Request::List { path: path.map(wire) };
        let backlog = Arc::new(Backlog::default());
        let waits = Waits::Listing(Arc::clone(&backlog));
        let control = |id, json| Step::Control(Kind::Request, id, json);
        let id = self.begin(&request, ANSWER_TIMEOUT, waits, control).await?;
        Ok(Listing::new(backlog, Some(Stop(self.clone(), id))))
    }

    /// Asks for a file and waits for its announcement.
    ///
    /// # Errors
    /// The server's word, or the connection's end.
    pub async fn get(&self, request: &Request, meter: &Meter) -> Result<Download, Failure> {
        let (begun, begins) = oneshot::channel();
        let control = |id, json| Step::Control(Kind::Request, id, json);
        let id =
            self.begin(request, ANSWER_TIMEOUT, Waits::File(begun, meter.clone()), control).await?;
        let Begun { info, parts, why } = begins.await.unwrap_or_else(|_| Err(cut()))?;
        Ok(Download { info, parts, why, stop: Stop(self.clone(), id) })
    }

    /// Opens an upload whose content follows.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn put(&self, request: PutRequest) -> Result<Upload, Failure> {
        let held = Arc::clone(&self.0.uploads).acquire_owned().await.map_err(|_| cut())?;
        let (answer, answered) = oneshot::channel();
        let control = |id, json| Step::Control(Kind::Request, id, json);
        let request = Request::Put(request);
        let id = self.begin(&request, UPLOAD_TIMEOUT, Waits::Answer(answer), control).await?;
        let ahead = Arc::new(Semaphore::new(AHEAD_MAX));
        Ok(Upload { line: self.clone(), id, answered, held: Some(held), ahead })
    }

    /// Stores content that is all here, in one go.
    ///
    /// # Errors
    /// The server's word, or the connection's end.
    pub async fn put_whole(
        &self,
        request: PutRequest,
        content: Chunk,
        seal: Seal,
        meter: Meter,
    ) -> Result<Answer, Failure> {
        let (answer, answered) = oneshot::channel();
        // Before HELLO there is one request at a time, and this one ends in the step in which it begins.
        let _alone = match self.hello().map(|hello| hello.limits.uploads) {
            Some(0 | 1) => Some(self.0.uploads.acquire().await.map_err(|_| cut())?),
            _ => None,
        };
        let whole = |id, request| Step::Whole { id, request, content, seal, meter };
        self.begin(&Request::Put(request), COMMIT_TIMEOUT, Waits::Answer(answer), whole).await?;
        answered.await.unwrap_or_else(|_| Err(cut()))
    }

    /// Has content compressed in both directions from now on, where that makes it smaller. Asks at most
    /// once.
    ///
    /// # Errors
    /// The server does not want that, and the connection goes on without; or it is gone.
    pub async fn compress(&self) -> Result<(), Failure> {
        if !self.0.asked_to_compress.swap(true, Ordering::Relaxed) {
            self.ask(&Request::Compress { method: "zstd".to_owned() }).await?;
            self.step(Step::Compress).await?;
        }
        Ok(())
    }

    /// Ends the connection as it is: what waits to be sent is not sent.
    pub fn cut_off(self) {
        self.0.table().end(&cut());
        if let Some(driver) = self.0.driver.get() {
            driver.abort();
        }
    }

    /// Says goodbye, and waits until it is said.
    pub async fn close(self) {
        if self.step(Step::Close).await.is_ok() {
            let _ = tokio::time::timeout(FAREWELL, self.0.steps.closed()).await;
        }
    }
}

/// A file that the server sends.
pub struct Download {
    /// What was announced.
    pub info: FileInfo,
    /// Its content and its end; the channel closes early when it fails.
    pub parts: mpsc::Receiver<Part>,
    /// Why it failed, once it did.
    pub why: Reason,
    /// A way to end it early.
    pub stop: Stop,
}

/// How to stop a [`Download`] or a [`Listing`] that nobody wants any more.
pub struct Stop(Line, u32);

impl Stop {
    /// Tells the server to stop. What is under way is dropped as it comes.
    pub async fn now(self) {
        let is_open = self.0.0.table().slots.contains_key(&self.1);
        if is_open {
            let _ = self.0.step(Step::Empty(Kind::Cancel, self.1)).await; // If it is gone, so much the better.
        }
    }

    /// The same without waiting: if the writer is busy, the server is not told.
    fn if_possible(&self) {
        let _ = self.0.0.steps.try_send(Step::Empty(Kind::Cancel, self.1));
    }
}

/// A file that is being sent.
pub struct Upload {
    line: Line,
    id: u32,
    answered: oneshot::Receiver<Result<Answer, Failure>>,
    held: Option<OwnedSemaphorePermit>,
    ahead: Arc<Semaphore>,
}

impl Upload {
    /// Sends content.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn data(&self, content: Chunk, meter: Meter) -> Result<(), Failure> {
        let place = Arc::clone(&self.ahead).acquire_owned().await;
        let place = place.expect("it is never closed");
        self.line.step(Step::Data(self.id, content, meter, place)).await
    }

    /// The server's word, should it come before the end of the content. To be waited for once.
    ///
    /// # Errors
    /// The server's word, or the connection's end.
    pub async fn early(&mut self) -> Result<Answer, Failure> {
        (&mut self.answered).await.unwrap_or_else(|_| Err(cut()))
    }

    /// Ends the stream and waits for the server's word.
    ///
    /// # Errors
    /// The server's word, or the connection's end.
    pub async fn finish(mut self, seal: Seal, meter: Meter) -> Result<Answer, Failure> {
        self.line.step(Step::Trailer(self.id, seal, meter)).await?;
        self.held = None;
        self.wait_for(COMMIT_TIMEOUT);
        self.answered.await.unwrap_or_else(|_| Err(cut()))
    }

    /// Tells the server that the content will not be complete, and waits until it has understood.
    pub async fn abort(self, reason: String) {
        if self.control(Kind::Abort, &Abort { reason }).await.is_ok() {
            self.wait_for(ANSWER_TIMEOUT);
            let _ = tokio::time::timeout(FAREWELL, self.answered).await;
        }
    }

    /// From now on only the answer is due, and the server may be silent for so long.
    fn wait_for(&self, patience: Duration) {
        if let Some(slot) = self.line.0.table().slots.get_mut(&self.id) {
            slot.patience = patience;
        }
    }

    /// Ends the stream of a put that the server has refused.
    pub async fn refused(self) {
        let _ = self.line.step(Step::Empty(Kind::Cancel, self.id)).await;
    }

    async fn control(&self, kind: Kind, message: &impl serde::Serialize) -> Result<(), Failure> {
        let json = serde_json::to_vec(message).map_err(|_| cut())?;
        self.line.step(Step::Control(kind, self.id, json)).await
    }
}

/// A path as it is asked for.
pub fn wire(path: &RelPath) -> WirePath {
    WirePath(path.raw_bytes().to_vec())
}

/// The connection is gone, and nobody said why.
pub fn cut() -> Failure {
    WireError::Cut.into()
}

async fn hello(reader: &mut FrameReader) -> Result<ServerHello, Failure> {
    let header = match reader.header(hello_deadline()).await? {
        Next::Frame(header) => header,
        Next::Farewell => return Err(WireError::Cut.into()),
        Next::Nothing => return Err(WireError::Timeout("wait for the server's hello").into()),
    };
    let wrong = |what: &str| Failure::new(Exit::Protocol, what.to_owned()).hint("is this an ftd?");
    match (header.kind, header.id) {
        (Kind::Hello, 0) => {
            let hello: ServerHello = parse(Kind::Hello, reader.control(&header).await?)
                .map_err(|error| wrong(&format!("the server's hello makes no sense: {error}")))?;
            if VERSION.common(hello.versions) == Some(VERSION.max) {
                return Ok(hello);
            }
            let (min, max) = (hello.versions.min, hello.versions.max);
            let text = format!("the server speaks versions {min} to {max}, and we {}", VERSION.max);
            Err(Failure::new(Exit::Protocol, text).hint("update the older side"))
        }
        (Kind::Error, 0) => {
            let error: ErrorMessage = parse(Kind::Error, reader.control(&header).await?)
                .map_err(|_| wrong("the server's first words make no sense"))?;
            Err(Failure::of_server(error.code, &error.message))
        }
        _ => Err(wrong("the server did not say hello")),
    }
}

/// The channel of a get's content.
fn parts() -> (mpsc::Sender<Part>, mpsc::Receiver<Part>) {
    mpsc::channel(PARTS_MAX)
}
