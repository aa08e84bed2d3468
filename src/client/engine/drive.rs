//! The task that drives a connection: what comes in goes to whoever waits for it, what is to go out goes.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Begun, Early, FAREWELL, Inner, Reason, Slot, Step, Table, Waits, cut, parts};
use crate::client::exit::{Exit, Failure};
use crate::client::report::Meter;
use crate::proto::{Answer, Header, Kind, Reply, Trailer};
use crate::transfer::{Part, Seal, Share};
use crate::types::ErrorCode;
use crate::types::limits::BUFFER_BYTES;
use crate::wire::{FrameReader, FrameWriter, Next, WireError};

/// How often patience is looked at.
const TICK: Duration = Duration::from_secs(5);
/// Steps that are taken from the queue at once.
const BATCH: usize = 32;
/// How long to look for the server's reason when it no longer takes what we send.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Works until the connection ends or everybody has let go of it.
pub(super) async fn run(
    inner: Weak<Inner>,
    reader: FrameReader,
    mut writer: FrameWriter,
    mut queue: mpsc::Receiver<Step>,
    early: Option<Early>,
) {
    let failure = {
        let share = crate::transfer::Pool::new(super::CONTENT_BYTES).share();
        let reading = Incoming { reader, inner: Weak::clone(&inner), share }.run(early);
        let mut reading = std::pin::pin!(reading);
        let mut writing = std::pin::pin!(write(&inner, &mut writer, &mut queue));
        tokio::select! {
            biased; // What the server said goes before what came of it.
            failure = &mut reading => Some(failure),
            written = &mut writing => match written {
                Ok(()) => None,
                // The reason may be on its way.
                Err(error) => match tokio::time::timeout(LAST_WORD, reading).await {
                    Ok(failure) if failure.code.is_some() => Some(failure),
                    _ => Some(error.into()),
                },
            },
        }
    };
    if let Some(inner) = inner.upgrade() {
        inner.table().end(&failure.clone().unwrap_or_else(cut));
    }
    if failure.is_none() {
        writer.close(FAREWELL).await;
    }
    // Whoever waits for the goodbye sees the channel close only now.
    queue.close();
}

/// Sends steps until there is nobody left to give any.
async fn write(
    inner: &Weak<Inner>,
    writer: &mut FrameWriter,
    queue: &mut mpsc::Receiver<Step>,
) -> Result<(), WireError> {
    let Some(throttle) = inner.upgrade().map(|inner| Arc::clone(&inner.throttle)) else {
        return Ok(());
    };
    let mut batch = Vec::with_capacity(BATCH);
    let mut moved: Vec<(Meter, usize)> = Vec::with_capacity(BATCH);
    writer.flush().await?; // The hello.
    loop {
        if queue.recv_many(&mut batch, BATCH).await == 0 {
            return Ok(());
        }
        for step in batch.drain(..) {
            match step {
                Step::Control(kind, id, json) => writer.raw_control(kind, id, &json)?,
                Step::Empty(kind, id) => writer.empty(kind, id)?,
                Step::Trailer(id, Seal { bytes, digest }, meter) => {
                    writer.empty(Kind::Eof, id)?;
                    writer.control(Kind::Trailer, id, &Trailer { bytes, sha256: digest })?;
                    meter.say("committing");
                }
                Step::Compress => writer.pack()?,
                Step::Close => return writer.flush().await,
                Step::Data(id, content, meter, _place) => {
                    for slice in content.bytes().chunks(throttle.slice()) {
                        writer.content(id, slice).await?;
                        throttle.pass(writer.content_bytes()).await;
                        writer.flush().await?;
                        meter.moved(slice.len());
                    }
                }
                Step::Whole { id, request, content, seal: Seal { bytes, digest }, meter } => {
                    writer.raw_control(Kind::Request, id, &request)?;
                    writer.content(id, content.bytes()).await?;
                    throttle.pass(writer.content_bytes()).await;
                    moved.push((meter, content.bytes().len()));
                    writer.empty(Kind::Eof, id)?;
                    writer.control(Kind::Trailer, id, &Trailer { bytes, sha256: digest })?;
                }
            }
            if writer.is_full() {
                writer.flush().await?;
            }
        }
        writer.flush().await?;
        for (meter, bytes) in moved.drain(..) {
            meter.moved(bytes);
        }
    }
}

impl Table {
    /// Whether the server owes content.
    fn awaits_content(&self) -> bool {
        self.slots.values().any(|slot| matches!(slot.waits, Waits::Content(..)))
    }

    /// Tells everybody who waits that it is over.
    pub(super) fn end(&mut self, failure: &Failure) {
        self.broken.get_or_insert_with(|| failure.clone());
        for (_, slot) in std::mem::take(&mut self.slots) {
            slot.waits.fail(failure.clone());
        }
    }
}

impl Waits {
    fn fail(self, failure: Failure) {
        match self {
            // Somebody who no longer waits has no use for it.
            Self::Answer(answer) => drop(answer.send(Err(failure))),
            Self::Listing(backlog) => backlog.end(Err(failure)),
            Self::File(begun, _) => drop(begun.send(Err(failure))),
            Self::Content(_parts, why, _) => why.leave(failure),
        }
    }
}

/// The incoming direction.
struct Incoming {
    reader: FrameReader,
    inner: Weak<Inner>,
    share: Share,
}

impl Incoming {
    /// Takes frames until the connection is over, and gives the reason.
    async fn run(mut self, early: Option<Early>) -> Failure {
        if let Some(Early { stood, refused }) = early {
            match super::hello(&mut self.reader).await {
                Err(failure) => return refused(failure),
                Ok(hello) => {
                    let Some(inner) = self.inner.upgrade() else { return cut() };
                    stood.store(true, Ordering::Relaxed);
                    inner.greet(hello);
                }
            }
        }
        let mut heard = Instant::now();
        loop {
            let next = match self.reader.header(Instant::now() + TICK).await {
                Ok(next) => next,
                Err(error) => return error.into(),
            };
            let Some(inner) = self.inner.upgrade() else { return cut() };
            let taken = match next {
                Next::Farewell => return cut(),
                Next::Nothing => self.wait(&inner, &mut heard),
                Next::Frame(header) => {
                    heard = Instant::now();
                    self.frame(&inner, &header).await
                }
            };
            if let Err(failure) = taken {
                return failure;
            }
        }
    }

    /// Nothing came for a while: is it too long for what is due?
    fn wait(&mut self, inner: &Inner, heard: &mut Instant) -> Result<(), Failure> {
        let table = inner.table();
        let Some(patience) = table.slots.values().map(|slot| slot.patience).max() else {
            *heard = Instant::now(); // Nothing is due.
            return Ok(());
        };
        if !table.awaits_content() {
            self.reader.resume();
        } else if self.reader.stall_deadline() < Instant::now() {
            return Err(WireError::Timeout("receive content").into());
        }
        if heard.elapsed() > patience {
            return Err(WireError::Timeout("wait for the server's answer").into());
        }
        Ok(())
    }

    async fn frame(&mut self, inner: &Inner, header: &Header) -> Result<(), Failure> {
        let is_content = inner.table().state.header(header).map_err(WireError::from)?;
        if is_content {
            return self.content(inner, header).await;
        }
        let payload = self.reader.control(header).await?;
        let (end, begins) = {
            let mut table = inner.table();
            let reply = table.state.control(header, payload).map_err(WireError::from)?;
            if matches!(reply, Reply::Answer(Answer::Compress(_))) {
                self.reader.unpack()?; // From this answer on.
            }
            let begins = matches!(reply, Reply::Answer(Answer::File(_))) && !table.awaits_content();
            (table.take(header.id, reply)?, begins)
        };
        if begins {
            self.reader.resume(); // Nothing was due before.
        }
        if let Some((parts, part)) = end {
            let _ = parts.send(part).await; // Whoever let go of it knows why.
        }
        Ok(())
    }

    /// Passes a frame's content on; drops it when nobody takes it.
    async fn content(&mut self, inner: &Inner, header: &Header) -> Result<(), Failure> {
        let (mut parts, meter) = match inner.table().slots.get(&header.id) {
            Some(Slot { waits: Waits::Content(parts, _, meter), .. }) => {
                (Some(parts.clone()), meter.clone())
            }
            _ => (None, Meter::default()),
        };
        let mut left = header.payload_bytes as usize;
        while left > 0 {
            let mut buffer = self.share.acquire(left.min(BUFFER_BYTES) as u64).await;
            while left > 0 && !buffer.is_full() {
                let room = buffer.room();
                let most = left.min(room.len()).min(inner.throttle.slice());
                let read = self.reader.content(&mut room[..most], None).await?.unwrap_or(0);
                buffer.advance(read);
                left -= read;
                inner.throttle.pass(self.reader.content_bytes()).await;
                meter.moved(read);
            }
            if let Some(taker) = &parts
                && taker.send(Part::Data(buffer)).await.is_err()
            {
                parts = None;
            }
            self.reader.resume(); // Whatever time that took was ours.
        }
        Ok(())
    }
}

type Last = (mpsc::Sender<Part>, Part);

impl Table {
    /// Hands a reply to whoever waits for it; gives the last part of a get, which has to be waited with.
    fn take(&mut self, id: u32, reply: Reply) -> Result<Option<Last>, Failure> {
        let is_final =
            !matches!(reply, Reply::Entries(_) | Reply::Eof | Reply::Answer(Answer::File(_)));
        if let (Reply::Error(error), 0) = (&reply, id) {
            return Err(Failure::of_server(error.code, &error.message));
        }
        if !is_final {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.progress(reply)?;
            }
            return Ok(None);
        }
        let Some(slot) = self.slots.remove(&id) else { return Ok(None) };
        match (slot.waits, reply) {
            (Waits::Answer(answer), Reply::Answer(found)) => drop(answer.send(Ok(found))),
            (Waits::Listing(backlog), Reply::Answer(_)) => backlog.end(Ok(())),
            (Waits::Content(parts, _, meter), Reply::Trailer(Trailer { bytes, sha256 })) => {
                meter.say("verifying");
                return Ok(Some((parts, Part::End(Seal { bytes, digest: sha256 }, None))));
            }
            (waits, Reply::Error(error)) => {
                waits.fail(Failure::of_server(error.code, &error.message));
            }
            (waits, Reply::Abort(_)) => {
                waits.fail(Failure::of_server(ErrorCode::Internal, "the server gave up"));
            }
            // `ClientState` lets nothing else through.
            (waits, _) => waits.fail(strange("the server's answer is not to what was asked")),
        }
        Ok(None)
    }
}

impl Slot {
    fn progress(&mut self, reply: Reply) -> Result<(), Failure> {
        match (&self.waits, reply) {
            (Waits::Listing(_), Reply::Entries(entries)) if entries.entries.is_empty() => {
                return Err(strange("the server sends a listing without entries"));
            }
            (Waits::Listing(backlog), Reply::Entries(entries)) => backlog.push(&entries.entries),
            (Waits::File(_, meter), Reply::Answer(Answer::File(info))) => {
                let (sender, receiver) = parts();
                let why = Reason::default();
                meter.length(info.bytes);
                let content = Waits::Content(sender, why.clone(), meter.clone());
                if let Waits::File(begun, _) = std::mem::replace(&mut self.waits, content) {
                    let _ = begun.send(Ok(Begun { info, parts: receiver, why }));
                }
            }
            _ => {} // EOF: the trailer follows.
        }
        Ok(())
    }
}

fn strange(what: &str) -> Failure {
    Failure::new(Exit::Protocol, what)
}
