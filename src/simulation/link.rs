//! A connection in memory: bytes take their time, come in pieces, stall, and are lost with it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::sim::{Planted, Sim};
use super::tap::Tap;
use crate::wire::Stream;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What a connection is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nature {
    /// The least time that bytes take, and what may come on top.
    pub(crate) latency: Duration,
    pub(crate) jitter: Duration,
    /// Bytes that may be on their way in one direction.
    pub(crate) window: usize,
    /// Bytes that travel together at the most.
    pub(crate) piece: usize,
    /// Whether closing an end with bytes unread resets the other, as TCP does.
    pub(crate) resets: bool,
}

impl Nature {
    /// One that disturbs nobody.
    pub(crate) fn plain() -> Self {
        let (latency, jitter) = (Duration::from_millis(1), Duration::ZERO);
        Self { latency, jitter, window: 1 << 20, piece: 65_536, resets: false }
    }

    pub(crate) fn of(sim: &Sim) -> Self {
        sim.rng(|rng| {
            let sizes =
                [(2048, 100), (8192, 700), (65_536, 1460), (65_536, 65_536), (1 << 20, 65_536)];
            let (window, piece) = *rng.pick(&sizes);
            Self {
                latency: Duration::from_micros(rng.below(40_000)),
                jitter: Duration::from_micros(rng.below(10_000)),
                window,
                piece,
                resets: rng.chance(500),
            }
        })
    }
}

/// What both ends share.
pub(crate) struct Wire {
    sim: Sim,
    nature: Nature,
    /// By the side that writes.
    pipes: [Pipe; 2],
    /// The connection is dead, and both sides know.
    dead: Option<io::ErrorKind>,
    tap: Tap,
}

#[derive(Default)]
struct Pipe {
    /// Pieces on their way and when they are there; an empty one is the end.
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    last_due: Option<Instant>,
    stalled: bool,
    /// Nobody reads any more.
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// One end of a connection.
pub(crate) struct End {
    wire: Shared,
    side: Side,
}

/// A connection, for whoever disturbs it.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Wire>>);

/// Makes a connection: the client's end, the server's, and a handle to disturb it with.
pub(crate) fn link(sim: &Sim, nature: Nature) -> (End, End, Shared) {
    let wire = Wire {
        sim: sim.clone(),
        nature,
        pipes: [Pipe::default(), Pipe::default()],
        dead: None,
        tap: Tap::default(),
    };
    let shared = Shared(Arc::new(Mutex::new(wire)));
    let end = |side| End { wire: shared.clone(), side };
    (end(Side::Client), end(Side::Server), shared.clone())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both ends fail from now on, and what is on its way is lost.
    pub(crate) fn kill(&self, why: io::ErrorKind) {
        let mut wire = self.lock();
        if wire.dead.is_none() {
            wire.dead = Some(why);
            wire.pipes.iter_mut().for_each(Pipe::wake);
        }
    }

    /// What one side sends does not arrive, until it is let through again.
    pub(crate) fn stall(&self, from: Side, stalled: bool) {
        let mut wire = self.lock();
        let pipe = &mut wire.pipes[from as usize];
        pipe.stalled = stalled;
        pipe.wake();
    }

    /// Something in between ends what one side sends.
    pub(crate) fn finish(&self, from: Side) {
        let mut wire = self.lock();
        let pipe = &mut wire.pipes[from as usize];
        pipe.push_end(Instant::now());
        pipe.wake();
    }

    /// Whether nobody disturbs it and both ends are there.
    pub(crate) fn is_alive(&self) -> bool {
        let wire = self.lock();
        let is_whole = |pipe: &Pipe| !pipe.stalled && !pipe.unread;
        wire.dead.is_none() && wire.pipes.iter().all(is_whole)
    }

    /// Requests without a final frame, and how many there were.
    pub(crate) fn requests(&self) -> (Vec<u32>, usize) {
        let wire = self.lock();
        (wire.tap.open(), wire.tap.count())
    }
}

impl Pipe {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }

    fn push(&mut self, due: Instant, piece: Vec<u8>) {
        // What was sent first is there first.
        let due = self.last_due.map_or(due, |last| last.max(due));
        self.last_due = Some(due);
        self.bytes += piece.len();
        self.pieces.push_back((due, piece));
    }

    fn push_end(&mut self, due: Instant) {
        self.push(due, Vec::new());
    }
}

impl Wire {
    /// Whether a side can know that nobody reads what it sends.
    fn is_left(&self, side: Side) -> bool {
        self.pipes[side as usize].unread && !self.pipes[side.other() as usize].stalled
    }

    fn due(&self) -> Instant {
        let most = u64::try_from(self.nature.jitter.as_micros()).unwrap_or(0);
        let extra = self.sim.rng(|rng| rng.below(most + 1));
        Instant::now() + self.nature.latency + Duration::from_micros(extra)
    }

    /// Puts bytes on their way, in pieces.
    fn send(&mut self, from: Side, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let most = self.nature.piece.min(bytes.len());
            let (piece, rest) = bytes.split_at(self.sim.rng(|rng| rng.size(1 + most / 2, most)));
            let due = self.due();
            self.pipes[from as usize].push(due, piece.to_vec());
            bytes = rest;
        }
        self.pipes[from as usize].wake();
    }
}

impl Stream for End {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire.lock();
        let is_dead = wire.dead.is_some();
        let pipe = &mut wire.pipes[self.side.other() as usize];
        pipe.reader = Some(context.waker().clone());
        if is_dead {
            return Poll::Ready(Ok(()));
        }
        match pipe.pieces.front() {
            Some((due, _)) if !pipe.stalled => {
                let timer = pipe.timer.insert(Box::pin(sleep_until(*due)));
                timer.as_mut().poll(context).map(Ok)
            }
            _ => Poll::Pending,
        }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire.lock();
        let (fails, window) = (wire.dead.is_some() || wire.is_left(self.side), wire.nature.window);
        let pipe = &mut wire.pipes[self.side as usize];
        pipe.writer = Some(context.waker().clone());
        if fails || pipe.bytes < window { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.wire.lock();
        if let Some(kind) = wire.dead {
            return Err(kind.into());
        }
        let now = Instant::now();
        let pipe = &mut wire.pipes[self.side.other() as usize];
        let mut filled = 0;
        while filled < buffer.len()
            && !pipe.stalled
            && let Some((due, piece)) = pipe.pieces.front_mut()
            && *due <= now
        {
            if piece.is_empty() {
                if filled == 0 {
                    return Ok(0); // The end; it stays.
                }
                break;
            }
            let count = piece.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&piece[..count]);
            filled += count;
            pipe.bytes -= count;
            piece.drain(..count);
            if piece.is_empty() {
                pipe.pieces.pop_front();
            }
        }
        if filled == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        if self.side == Side::Server {
            let sim = wire.sim.clone();
            wire.tap.came(&sim, &buffer[..filled]);
        }
        Ok(filled)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut wire = self.wire.lock();
        if let Some(kind) = wire.dead {
            return Err(kind.into());
        }
        if wire.is_left(self.side) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let waiting = wire.pipes[self.side as usize].bytes;
        let room = wire.nature.window.saturating_sub(waiting).min(bytes.len());
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let sent = &bytes[..room];
        if self.side == Side::Client {
            wire.send(self.side, sent);
            return Ok(room);
        }
        let sim = wire.sim.clone();
        let frames = wire.tap.went(&sim, sent);
        if !sim.planted(Planted::AnswerLost) && !sim.planted(Planted::AnswerTwice) {
            wire.send(self.side, sent);
            return Ok(room);
        }
        for (frame, is_final) in frames {
            let is_hit = is_final && sim.rng(|rng| rng.chance(100));
            if is_hit && sim.planted(Planted::AnswerTwice) {
                wire.send(self.side, &frame);
            }
            if !is_hit || sim.planted(Planted::AnswerTwice) {
                wire.send(self.side, &frame);
            }
        }
        Ok(room)
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "End({:?})", self.side)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut wire = self.wire.lock();
        let due = wire.due();
        let resets = wire.nature.resets;
        let incoming = &mut wire.pipes[self.side.other() as usize];
        incoming.unread = true;
        incoming.timer = None;
        incoming.wake();
        let (is_unread, came) = (incoming.bytes > 0, incoming.stalled);
        let outgoing = &mut wire.pipes[self.side as usize];
        outgoing.push_end(due);
        outgoing.wake();
        // A reset gets through only where anything does, and may overtake the last word.
        if is_unread && resets && !came && !outgoing.stalled && wire.dead.is_none() {
            wire.dead = Some(io::ErrorKind::ConnectionReset);
            wire.pipes.iter_mut().for_each(Pipe::wake);
        }
    }
}
