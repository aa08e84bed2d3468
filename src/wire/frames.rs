//! Frames on a connection: one reader, one writer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::packed::Packed;
use super::{Connection, Progress, Socket, WireError};
use crate::proto::{Header, Kind, Packer, ProtocolError, unpacked_bytes};
use crate::types::limits::{CONTROL_BYTES_MAX, PACKED_BYTES_MAX, PACKED_PREFIX};

/// Bytes that may wait in the writer before they are sent.
const BATCH_BYTES: usize = 256 * 1024;
/// Bytes that are read at once to be dropped.
const DRAIN_BYTES: usize = 16 * 1024;
/// Bytes of a PACKED frame before its compressed content.
const PACKED_HEADER: usize = Header::BYTES + PACKED_PREFIX as usize;
/// Bytes that are unpacked before others get their turn.
const TURN_BYTES: usize = 512 * 1024;
/// How long a control frame may take from its first byte to its last.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(30);

/// Splits a connection into its two directions. Both belong to one task.
pub fn split(connection: Connection, stall: Duration) -> (FrameReader, FrameWriter) {
    let connection = Arc::new(connection);
    let reader = FrameReader {
        connection: Arc::clone(&connection),
        raw: [0; PACKED_HEADER],
        raw_bytes: 0,
        due: Instant::now(),
        control: Vec::new(),
        stall: Progress::new(stall),
        packed: None,
        turn: 0,
        content_bytes: 0,
    };
    let writer = FrameWriter {
        connection,
        stall,
        packer: None,
        turn: 0,
        frame: Vec::new(),
        content_bytes: 0,
        receipts: VecDeque::new(),
    };
    (reader, writer)
}

/// The incoming direction.
pub struct FrameReader {
    connection: Arc<Connection>,
    /// The header that is arriving, and how much of it has.
    raw: [u8; PACKED_HEADER],
    raw_bytes: usize,
    /// When what is arriving must be complete.
    due: Instant,
    control: Vec<u8>,
    stall: Progress,
    packed: Option<Box<Packed>>,
    /// Bytes that were unpacked since others had their turn.
    turn: usize,
    /// Bytes of content that have come, as they were sent, since that was asked for.
    content_bytes: usize,
}

/// What came of waiting for a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// A frame begins.
    Frame(Header),
    /// The peer said goodbye between two frames.
    Farewell,
    /// The time is up and no frame has begun, or not yet all of its header is here.
    Nothing,
}

impl FrameReader {
    /// Waits for the next frame's header, until `until` at the longest. Safe to cancel.
    ///
    /// # Errors
    /// All are final for the connection.
    pub async fn header(&mut self, until: Instant) -> Result<Next, WireError> {
        loop {
            let wanted = self.header_bytes()?;
            if self.raw_bytes >= wanted {
                break;
            }
            let (limit, is_late) = match self.raw_bytes {
                0 => (until, false),
                _ => (until.min(self.due), self.due <= until),
            };
            let read =
                timeout_at(limit, self.connection.read(&mut self.raw[self.raw_bytes..wanted]))
                    .await;
            match read {
                Err(_) if is_late => return Err(WireError::Timeout("receive a frame")),
                Err(_) => return Ok(Next::Nothing),
                Ok(read) => match read? {
                    0 if self.raw_bytes == 0 => return Ok(Next::Farewell),
                    0 => return Err(WireError::Cut),
                    read => {
                        if self.raw_bytes == 0 {
                            self.due = Instant::now() + CONTROL_TIMEOUT;
                        }
                        self.raw_bytes += read;
                    }
                },
            }
        }
        self.raw_bytes = 0;
        let (raw, prefix) = self.halves();
        let header = Header::decode(raw).map_err(ProtocolError::from)?;
        let (Kind::Packed, Some(packed)) = (header.kind, &mut self.packed) else {
            return Ok(Next::Frame(header));
        };
        let bytes = unpacked_bytes(prefix)?;
        packed.begin((header.payload_bytes - PACKED_PREFIX) as usize, bytes);
        Ok(Next::Frame(Header { kind: Kind::Data, payload_bytes: bytes, ..header }))
    }

    /// How much of the frame that is arriving has to be here before it can be judged.
    fn header_bytes(&self) -> Result<usize, WireError> {
        if self.raw_bytes < Header::BYTES || self.packed.is_none() {
            return Ok(Header::BYTES);
        }
        let header = Header::decode(self.halves().0).map_err(ProtocolError::from)?;
        Ok(if header.kind == Kind::Packed { PACKED_HEADER } else { Header::BYTES })
    }

    /// The header, and what stands behind it in a PACKED frame.
    fn halves(&self) -> (&[u8; Header::BYTES], [u8; PACKED_PREFIX as usize]) {
        let (raw, prefix) = self.raw.split_first_chunk().expect("it begins with a header");
        (raw, *prefix.first_chunk().expect("the prefix follows"))
    }

    /// From now on content may come compressed; it is given as plain DATA.
    ///
    /// # Errors
    /// There is no memory.
    pub fn unpack(&mut self) -> Result<(), WireError> {
        if self.packed.is_none() {
            self.packed = Some(Box::new(Packed::new()?));
        }
        Ok(())
    }

    /// How many bytes of content have come since this was asked last, as they were sent: compressed, if
    /// they were.
    pub fn content_bytes(&mut self) -> usize {
        std::mem::take(&mut self.content_bytes)
    }

    /// When the peer will have moved too little, unless it moves more.
    pub fn stall_deadline(&self) -> Instant {
        self.stall.deadline()
    }

    /// The payload of a control frame.
    ///
    /// # Errors
    /// All are final for the connection.
    pub async fn control(&mut self, header: &Header) -> Result<&[u8], WireError> {
        // `Header::decode` let nothing longer through; this keeps it true for every caller.
        let bytes = header.payload_bytes.min(CONTROL_BYTES_MAX) as usize;
        let mut payload = std::mem::take(&mut self.control);
        payload.resize(bytes, 0);
        self.fill(&mut payload).await?;
        self.control = payload;
        Ok(&self.control)
    }

    /// Some bytes of a data frame, at least one; the caller counts what is left of the frame.
    ///
    /// `until` bounds the wait: `None` says that it passed and nothing was lost.
    ///
    /// # Errors
    /// Final for the connection, above all when the peer is slower than the protocol allows.
    pub async fn content(
        &mut self,
        dest: &mut [u8],
        until: Option<Instant>,
    ) -> Result<Option<usize>, WireError> {
        if let Some(packed) = self.packed.as_mut().filter(|packed| packed.is_due()) {
            while let Some(room) = packed.room() {
                let arrived = arrive(&self.connection, &mut self.stall, room, until).await?;
                let Some(arrived) = arrived else { return Ok(None) };
                self.content_bytes += arrived;
                packed.arrived(arrived);
            }
            let (taken, unpacked) = packed.take(dest)?;
            // What takes no time on the line, and much on the disk, is progress too.
            self.stall.moved(unpacked);
            self.turn += unpacked;
            if self.turn >= TURN_BYTES {
                self.turn = 0;
                tokio::task::yield_now().await;
            }
            return Ok(Some(taken));
        }
        let read = arrive(&self.connection, &mut self.stall, dest, until).await?;
        self.content_bytes += read.unwrap_or(0);
        Ok(read)
    }

    /// Starts the minimum-progress rule afresh: something is due from now on, or the time before was
    /// spent on our side.
    pub fn resume(&mut self) {
        self.stall.restart();
    }

    /// Leaves a wait that was ours out of account, and no more: a peer that causes many short ones wins
    /// nothing by them.
    pub fn excuse(&mut self, waited: Duration) {
        self.stall.delay(waited);
    }

    /// Gives memory back that only a busy connection needs.
    pub fn shrink(&mut self) {
        self.connection.shrink();
        self.control = Vec::new();
        if let Some(packed) = &mut self.packed {
            packed.shrink();
        }
    }

    /// Drops what the peer still sends until it closes, until `limit` is over or for `bytes_max`.
    ///
    /// TCP that is closed with bytes unread is reset, and a reset may overtake our last word.
    pub async fn drain(&mut self, limit: Duration, bytes_max: usize) {
        if matches!(self.connection.socket(), Socket::Unix(_)) {
            return;
        }
        let (mut nowhere, mut left) = (vec![0; DRAIN_BYTES], bytes_max);
        let drained = async {
            while let Ok(read @ 1..) = self.connection.read(&mut nowhere).await
                && left > 0
            {
                left = left.saturating_sub(read);
            }
        };
        let _ = tokio::time::timeout(limit, drained).await;
    }

    async fn fill(&mut self, dest: &mut [u8]) -> Result<(), WireError> {
        let mut filled = 0;
        while filled < dest.len() {
            let read = timeout_at(self.due, self.connection.read(&mut dest[filled..])).await;
            match read.map_err(|_| WireError::Timeout("receive a control frame"))?? {
                0 => return Err(WireError::Cut),
                read => filled += read,
            }
        }
        Ok(())
    }
}

/// Some bytes of content as they come, at least one; `None` when `until` passes first.
async fn arrive(
    connection: &Connection,
    stall: &mut Progress,
    dest: &mut [u8],
    until: Option<Instant>,
) -> Result<Option<usize>, WireError> {
    let deadline = stall.deadline().min(until.unwrap_or_else(|| stall.deadline()));
    let Ok(read) = timeout_at(deadline, connection.read(dest)).await else {
        return match until {
            Some(until) if until < stall.deadline() => Ok(None),
            _ => Err(WireError::Timeout("receive content")),
        };
    };
    let read = read?;
    stall.moved(read);
    if read == 0 { Err(WireError::Cut) } else { Ok(Some(read)) }
}

/// The outgoing direction. Frames collect until [`FrameWriter::flush`] or until they are many.
pub struct FrameWriter {
    connection: Arc<Connection>,
    stall: Duration,
    packer: Option<Packer>,
    /// Bytes that were packed, as they were, since others had their turn.
    turn: usize,
    /// The PACKED frame that is being made.
    frame: Vec<u8>,
    /// Bytes of content that were queued, as they are sent, since that was asked for.
    content_bytes: usize,
    /// Who waits until so much of what is queued is sent.
    receipts: VecDeque<(usize, oneshot::Sender<()>)>,
}

impl FrameWriter {
    /// Queues a control frame.
    ///
    /// # Errors
    /// Final for the connection.
    ///
    /// # Panics
    /// Never for the messages of `proto`, which all fit a control frame.
    pub fn control(
        &mut self,
        kind: Kind,
        id: u32,
        message: &impl Serialize,
    ) -> Result<(), WireError> {
        let payload = serde_json::to_vec(message).expect("messages are plain data");
        self.raw_control(kind, id, &payload)
    }

    /// Queues a control frame whose payload is already JSON.
    ///
    /// # Errors
    /// Final for the connection.
    pub fn raw_control(&mut self, kind: Kind, id: u32, payload: &[u8]) -> Result<(), WireError> {
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        debug_assert!(payload_bytes <= CONTROL_BYTES_MAX, "{kind} frame of {payload_bytes} bytes");
        let mut frame = Header { kind, id, payload_bytes }.encode().to_vec();
        frame.extend_from_slice(payload);
        self.connection.lock().push(&[&frame])
    }

    /// Queues a frame without payload.
    ///
    /// # Errors
    /// Final for the connection.
    pub fn empty(&mut self, kind: Kind, id: u32) -> Result<(), WireError> {
        self.connection.lock().push(&[&Header { kind, id, payload_bytes: 0 }.encode()])
    }

    /// From now on content goes out compressed, where that makes it smaller.
    ///
    /// # Errors
    /// There is no memory.
    pub fn pack(&mut self) -> Result<(), WireError> {
        if self.packer.is_none() {
            self.packer = Some(Packer::new().map_err(WireError::io("begin to compress content"))?);
        }
        Ok(())
    }

    /// How many bytes of content were queued since this was asked last, as they are sent: compressed, if
    /// they are.
    pub fn content_bytes(&mut self) -> usize {
        std::mem::take(&mut self.content_bytes)
    }

    /// Queues content; nothing for no bytes. At most one data frame's worth.
    ///
    /// # Errors
    /// Final for the connection.
    pub async fn content(&mut self, id: u32, bytes: &[u8]) -> Result<(), WireError> {
        if self.packer.is_none() {
            return self.data(id, bytes);
        }
        for slice in bytes.chunks(PACKED_BYTES_MAX as usize) {
            // Counted as it is, not as it is sent: small files that pack well would never fill the connection.
            if self.turn + slice.len() > PACKED_BYTES_MAX as usize {
                self.turn = 0;
                tokio::task::yield_now().await; // Others share this thread.
            }
            self.turn += slice.len();
            if !self.packed(id, slice)? {
                self.data(id, slice)?;
            }
        }
        Ok(())
    }

    /// Queues content as a PACKED frame; `false` when it had better go as it is.
    fn packed(&mut self, id: u32, bytes: &[u8]) -> Result<bool, WireError> {
        let Some(packer) = &mut self.packer else { return Ok(false) };
        self.frame.clear();
        self.frame.resize(Header::BYTES, 0);
        if !packer.pack(bytes, &mut self.frame).map_err(WireError::io("compress content"))? {
            return Ok(false);
        }
        let payload = self.frame.len() - Header::BYTES;
        let payload_bytes = u32::try_from(payload).unwrap_or(u32::MAX);
        let header = Header { kind: Kind::Packed, id, payload_bytes }.encode();
        self.frame[..Header::BYTES].copy_from_slice(&header);
        self.content_bytes += payload;
        self.connection.lock().push(&[&self.frame])?;
        Ok(true)
    }

    fn data(&mut self, id: u32, bytes: &[u8]) -> Result<(), WireError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.content_bytes += bytes.len();
        let payload_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let header = Header { kind: Kind::Data, id, payload_bytes }.encode();
        // The header goes into a record of its own, so that content stays aligned on both sides.
        self.connection.lock().push(&[&header, bytes])
    }

    /// Whether so much is queued that it should be flushed before more is.
    pub fn is_full(&self) -> bool {
        self.connection.lock().outgoing_bytes() >= BATCH_BYTES
    }

    /// Lets somebody know when all that is queued by now is sent: in the kernel's hands, that is. If that never
    /// comes, `receipt` is dropped with the writer.
    pub fn tell_when_sent(&mut self, receipt: oneshot::Sender<()>) {
        self.receipts.push_back((self.connection.lock().outgoing_bytes(), receipt));
    }

    /// Sends what is queued. Not to be cancelled unless the connection is given up.
    ///
    /// # Errors
    /// Final for the connection, above all when the peer takes less than the protocol asks for.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        // At once and not at the end, which may never come: what a peer has read was sent.
        let receipts = &mut self.receipts;
        let tell = |sent| {
            while receipts.front().is_some_and(|(end, _)| *end <= sent) {
                let told = receipts.pop_front();
                let _ = told.map(|(_, receipt)| receipt.send(()));
            }
        };
        self.connection.flush(Some(self.stall), tell).await
    }

    /// Gives memory back that only a busy connection needs.
    pub fn shrink(&mut self) {
        self.connection.shrink();
        self.frame = Vec::new();
    }

    /// Says goodbye and sends what is queued, within `limit`.
    pub async fn close(&mut self, limit: Duration) {
        if self.connection.lock().push_farewell().is_err() {
            return;
        }
        // A peer that no longer reads has no use for a farewell.
        let _ = tokio::time::timeout(limit, self.flush()).await;
    }
}

#[cfg(test)]
mod tests;
