//! One connection, whatever carries it: TLS through rustls' unbuffered interface, or plain frames.
//!
//! Own buffers, large where it pays: one `recv` of half a megabyte instead of one per record of
//! 16 KiB. This file is the only one that knows rustls' unbuffered types.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, ReadTraffic,
    UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, ServerConfig};
use tokio::time::timeout_at;

use super::{Progress, Socket, WireError};
use crate::identity::ALPN;

/// Bytes of the receive buffer of a quiet connection: more than a usual hello.
const INCOMING_LEAST: usize = 4 * 1024;
/// Bytes of the receive buffer during the handshake, at the most. A hello has two thousand; what rustls
/// would join, and keep for every stranger, is 64 KiB.
const INCOMING_HANDSHAKE: usize = 32 * 1024;
/// Bytes of the receive buffer of a busy connection.
const INCOMING_MOST: usize = 512 * 1024;
/// Looks for bytes in one turn, of up to a quarter of a megabyte each.
const TURN_LOOKS: u32 = 64;
/// Bytes that a TLS 1.3 record adds to at most 16 KiB of content: header, type, tag.
const RECORD_OVERHEAD: usize = 5 + 1 + 16;
const RECORD_CONTENT: usize = 16 * 1024;
/// Bytes of an alert in a record.
const ALERT_BYTES: usize = 2;

/// A connected peer, before the connection is split into its two directions.
pub struct Connection {
    pub(super) socket: Socket,
    pub(super) state: Mutex<State>,
}

/// What both directions share; locked for the time of one system call or one record, never across
/// an await.
pub(super) struct State {
    tls: Option<Side>,
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    /// Decrypted bytes that found no room in the reader's buffer.
    plain: Vec<u8>,
    plain_start: usize,
    /// Bytes for the socket: `outgoing[..outgoing_end]`.
    outgoing: Vec<u8>,
    outgoing_end: usize,
    /// The peer said goodbye; on a Unix socket, it closed.
    farewell: bool,
    /// Looks for bytes since others had their turn.
    looks: u32,
}

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// What one look at the records came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Something was done; look again.
    Again,
    /// The handshake needs more bytes from the peer.
    Blocked,
    /// The handshake is over, all records that are complete have been read, and what was to be sent
    /// is in `outgoing`.
    Established,
}

/// What is to be sent once the handshake is over.
#[derive(Clone, Copy)]
enum Output<'a> {
    Nothing,
    Parts(&'a [&'a [u8]]),
    /// The peer is told that nothing follows.
    Farewell,
}

/// The part of [`State`] that a step fills.
struct Buffers<'a> {
    plain: &'a mut Vec<u8>,
    outgoing: &'a mut Vec<u8>,
    outgoing_end: &'a mut usize,
    farewell: &'a mut bool,
}

impl Connection {
    /// A peer on a Unix socket, or on a simulated stream: frames as they are.
    pub fn plain(socket: Socket) -> Self {
        Self { socket, state: Mutex::new(State::new(None)) }
    }

    /// Takes a TLS client's handshake to its end.
    ///
    /// # Errors
    /// The peer's fault or the network's; there is no deadline here, the caller sets one.
    pub async fn accept(socket: Socket, config: Arc<ServerConfig>) -> Result<Self, WireError> {
        let side = Side::Server(Box::new(UnbufferedServerConnection::new(config)?));
        Self::handshake(socket, side).await
    }

    /// Opens a TLS connection as the client.
    ///
    /// # Errors
    /// As [`Connection::accept`].
    pub async fn connect(socket: Socket, config: Arc<ClientConfig>) -> Result<Self, WireError> {
        // Keys are pinned, names prove nothing: every server is asked for by the same one.
        let name = ServerName::try_from("ftd").expect("a constant that is a DNS name");
        let side = Side::Client(Box::new(UnbufferedClientConnection::new(config, name)?));
        Self::handshake(socket, side).await
    }

    async fn handshake(socket: Socket, side: Side) -> Result<Self, WireError> {
        let connection = Self { socket, state: Mutex::new(State::new(Some(side))) };
        loop {
            let step = connection.lock().step(&mut [], Output::Nothing);
            match step {
                Ok((Step::Again, _)) => {}
                Ok((Step::Established, _)) => {
                    connection.flush(None, |_| ()).await?;
                    // rustls lets a peer pass that names no protocol at all.
                    return if connection.speaks_ours() {
                        Ok(connection)
                    } else {
                        Err(rustls::Error::NoApplicationProtocol.into())
                    };
                }
                Ok((Step::Blocked, _)) => {
                    connection.flush(None, |_| ()).await?;
                    connection
                        .socket
                        .readable()
                        .await
                        .map_err(WireError::io("read from the peer"))?;
                    connection.lock().fill(&connection.socket, INCOMING_HANDSHAKE)?;
                }
                Err(error) => {
                    // The alert that rustls queued tells the peer why; whether it still reads is its affair.
                    let _ = connection.flush(None, |_| ()).await;
                    return Err(error);
                }
            }
        }
    }

    fn speaks_ours(&self) -> bool {
        let state = self.lock();
        let protocol = match &state.tls {
            None => return true,
            Some(Side::Server(side)) => side.alpn_protocol(),
            Some(Side::Client(side)) => side.alpn_protocol(),
        };
        protocol == Some(ALPN)
    }

    /// The certificates of the handshake: with raw public keys, one key.
    pub fn with_peer_certificates<T>(
        &self,
        read: impl FnOnce(Option<&[CertificateDer<'_>]>) -> T,
    ) -> T {
        match &self.lock().tls {
            None => read(None),
            Some(Side::Server(side)) => read(side.peer_certificates()),
            Some(Side::Client(side)) => read(side.peer_certificates()),
        }
    }

    /// The socket below, for what is asked of the kernel about the peer.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held ends this connection's task, the only one that uses it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what is in `outgoing`, which leaves the lock for that time; `stall` is the window of the
    /// minimum-progress rule. Tells each time how much of it the kernel has.
    pub(super) async fn flush(
        &self,
        stall: Option<Duration>,
        mut tell: impl FnMut(usize),
    ) -> Result<(), WireError> {
        let (buffer, end) = self.lock().take_outgoing();
        let mut progress = stall.map(Progress::new);
        let mut sent = 0;
        while sent < end {
            let write = self.socket.write_some(&buffer[sent..end]);
            let written = match &progress {
                None => write.await,
                Some(progress) => timeout_at(progress.deadline(), write)
                    .await
                    .map_err(|_| WireError::Timeout("send to a peer that does not read"))?,
            };
            let written = written.map_err(WireError::io("write to the peer"))?;
            sent += written;
            tell(sent);
            if let Some(progress) = &mut progress {
                progress.moved(written);
            }
        }
        self.lock().give_back(buffer);
        Ok(())
    }

    /// Reads decrypted bytes, at least one unless the peer said goodbye. Safe to cancel.
    ///
    /// A peer that is faster than we are never lets us wait: others, and the other direction, have their turn all
    /// the same. (Tokio's budget would not do, because those share it who are polled side by side.)
    pub(super) async fn read(&self, dest: &mut [u8]) -> Result<usize, WireError> {
        loop {
            if self.lock().is_turn_over() {
                tokio::task::yield_now().await;
            }
            {
                let mut state = self.lock();
                let read = state.pull(dest, &self.socket)?;
                if read > 0 || state.farewell {
                    return Ok(read);
                }
                if state.fill(&self.socket, INCOMING_MOST)? {
                    continue;
                }
            }
            self.socket.readable().await.map_err(WireError::io("read from the peer"))?;
        }
    }

    /// Gives memory back that only a busy connection needs.
    pub(super) fn shrink(&self) {
        self.lock().shrink();
    }
}

impl State {
    fn new(tls: Option<Side>) -> Self {
        Self {
            tls,
            incoming: vec![0; INCOMING_LEAST],
            start: 0,
            end: 0,
            plain: Vec::new(),
            plain_start: 0,
            outgoing: Vec::new(),
            outgoing_end: 0,
            farewell: false,
            looks: 0,
        }
    }

    /// Counts a look.
    fn is_turn_over(&mut self) -> bool {
        self.looks = (self.looks + 1) % TURN_LOOKS;
        self.looks == 0
    }

    pub(super) fn outgoing_bytes(&self) -> usize {
        self.outgoing_end
    }

    fn take_outgoing(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.outgoing), std::mem::take(&mut self.outgoing_end))
    }

    /// Keeps the buffer that was sent, unless another one came into use meanwhile.
    fn give_back(&mut self, buffer: Vec<u8>) {
        if self.outgoing.is_empty() {
            self.outgoing = buffer;
        }
    }

    fn shrink(&mut self) {
        if self.start == self.end && self.incoming.len() > INCOMING_LEAST {
            (self.incoming, self.start, self.end) = (vec![0; INCOMING_LEAST], 0, 0);
        }
        if self.plain_start == self.plain.len() {
            (self.plain, self.plain_start) = (Vec::new(), 0);
        }
        if self.outgoing_end == 0 {
            self.outgoing = Vec::new();
        }
    }

    /// Moves bytes from the socket into `incoming`, which grows up to `most`; `false` when there are
    /// none yet.
    fn fill(&mut self, socket: &Socket, most: usize) -> Result<bool, WireError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.incoming.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.incoming.len() {
            if self.end >= most {
                return Err(
                    rustls::Error::InvalidMessage(rustls::InvalidMessage::MessageTooLarge).into()
                );
            }
            self.incoming.resize((self.end * 4).min(most), 0);
        }
        match socket.try_read(&mut self.incoming[self.end..]) {
            Ok(0) => {
                if self.tls.is_some() {
                    return Err(WireError::Cut); // TLS says goodbye first.
                }
                self.farewell = true;
                Ok(true)
            }
            Ok(read) => {
                self.end += read;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(WireError::io("read from the peer")(error)),
        }
    }

    /// Gives bytes that are there: decrypted ones, or on a Unix socket what the kernel has.
    fn pull(&mut self, dest: &mut [u8], socket: &Socket) -> Result<usize, WireError> {
        if self.tls.is_none() {
            return self.pull_plain(dest, socket);
        }
        let mut filled = self.take_plain(dest);
        while filled < dest.len() {
            let (step, read) = self.step(&mut dest[filled..], Output::Nothing)?;
            filled += read;
            if step != Step::Again {
                break;
            }
        }
        Ok(filled)
    }

    fn pull_plain(&mut self, dest: &mut [u8], socket: &Socket) -> Result<usize, WireError> {
        if self.start == self.end && dest.len() >= self.incoming.len() && !self.farewell {
            // Content goes straight to where it is wanted.
            return match socket.try_read(dest) {
                Ok(0) => {
                    self.farewell = true;
                    Ok(0)
                }
                Ok(read) => Ok(read),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    Ok(0)
                }
                Err(error) => Err(WireError::io("read from the peer")(error)),
            };
        }
        let count = dest.len().min(self.end - self.start);
        dest[..count].copy_from_slice(&self.incoming[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }

    fn take_plain(&mut self, dest: &mut [u8]) -> usize {
        let count = dest.len().min(self.plain.len() - self.plain_start);
        dest[..count].copy_from_slice(&self.plain[self.plain_start..self.plain_start + count]);
        self.plain_start += count;
        if self.plain_start == self.plain.len() {
            self.plain.clear();
            self.plain_start = 0;
        }
        count
    }

    /// Puts `parts` behind what is to be sent, encrypted if there is TLS.
    pub(super) fn push(&mut self, parts: &[&[u8]]) -> Result<(), WireError> {
        if self.tls.is_none() {
            for part in parts {
                room(&mut self.outgoing, self.outgoing_end, part.len())[..part.len()]
                    .copy_from_slice(part);
                self.outgoing_end += part.len();
            }
            return Ok(());
        }
        self.say(Output::Parts(parts))
    }

    /// Says goodbye, so that the peer can tell an end from a cut.
    pub(super) fn push_farewell(&mut self) -> Result<(), WireError> {
        self.say(Output::Farewell)
    }

    fn say(&mut self, output: Output<'_>) -> Result<(), WireError> {
        loop {
            match self.step(&mut [], output)?.0 {
                Step::Again => {}
                Step::Established => return Ok(()),
                Step::Blocked => return Err(WireError::Cut),
            }
        }
    }

    /// Looks at the records once: decrypts what is complete into `dest` and, past its end, `plain`;
    /// encrypts `output` when the handshake is over. Gives how much of `dest` was filled.
    fn step(&mut self, dest: &mut [u8], output: Output<'_>) -> Result<(Step, usize), WireError> {
        let Self { tls, incoming, start, end, plain, outgoing, outgoing_end, farewell, .. } = self;
        let Some(side) = tls else { return Ok((Step::Established, 0)) };
        let mut buffers = Buffers { plain, outgoing, outgoing_end, farewell };
        // rustls keeps offsets into what it was shown: it must always be shown all that is there.
        let mut look = |dest: &mut [u8], output| {
            let records = &mut incoming[*start..*end];
            let (discard, outcome) = match side {
                Side::Server(side) => {
                    step_of(side.process_tls_records(records), dest, output, &mut buffers)
                }
                Side::Client(side) => {
                    step_of(side.process_tls_records(records), dest, output, &mut buffers)
                }
            };
            *start += discard;
            outcome
        };
        let outcome = look(dest, output);
        if outcome.is_err() {
            // What rustls has queued now is the alert that tells the peer why.
            let _ = look(&mut [], Output::Nothing);
        }
        outcome
    }
}

fn step_of<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    dest: &mut [u8],
    output: Output<'_>,
    buffers: &mut Buffers<'_>,
) -> (usize, Result<(Step, usize), WireError>) {
    let mut discard = status.discard;
    let mut read = 0;
    let step = match status.state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::ReadTraffic(records)) => {
            take_records(records, dest, buffers.plain, &mut discard).map(|filled| {
                read = filled;
                Step::Again
            })
        }
        Ok(ConnectionState::EncodeTlsData(record)) => encode(record, buffers).map(|()| Step::Again),
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            // The bytes stand in `outgoing`, which is flushed before anything is waited for.
            sent.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::PeerClosed) => {
            *buffers.farewell = true;
            Ok(Step::Again)
        }
        Ok(ConnectionState::WriteTraffic(traffic)) => {
            encrypt(traffic, output, buffers).map(|()| Step::Established)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        // Closed on both sides, or a state that our configuration rules out (early data).
        Ok(_) if !matches!(output, Output::Parts(_)) => Ok(Step::Established),
        Ok(_) => Err(WireError::Cut),
    };
    (discard, step.map(|step| (step, read)))
}

fn take_records<Data>(
    mut records: ReadTraffic<'_, '_, Data>,
    dest: &mut [u8],
    plain: &mut Vec<u8>,
    discard: &mut usize,
) -> Result<usize, WireError> {
    let mut filled = 0;
    while let Some(record) = records.next_record() {
        let record = record?;
        *discard += record.discard;
        let fits = record.payload.len().min(dest.len() - filled);
        dest[filled..filled + fits].copy_from_slice(&record.payload[..fits]);
        plain.extend_from_slice(&record.payload[fits..]);
        filled += fits;
    }
    Ok(filled)
}

fn encode<Data>(
    mut record: EncodeTlsData<'_, Data>,
    buffers: &mut Buffers<'_>,
) -> Result<(), WireError> {
    let mut needed = 0;
    loop {
        match record.encode(room(buffers.outgoing, *buffers.outgoing_end, needed)) {
            Ok(written) => {
                *buffers.outgoing_end += written;
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                needed = required_size;
            }
            Err(EncodeError::AlreadyEncoded) => return Ok(()),
        }
    }
}

fn encrypt<Data>(
    mut traffic: WriteTraffic<'_, Data>,
    output: Output<'_>,
    buffers: &mut Buffers<'_>,
) -> Result<(), WireError> {
    let parts = match output {
        Output::Nothing => return Ok(()),
        Output::Parts(parts) => parts,
        Output::Farewell => {
            let room = room(buffers.outgoing, *buffers.outgoing_end, RECORD_OVERHEAD + ALERT_BYTES);
            *buffers.outgoing_end += traffic.queue_close_notify(room).unwrap_or(0);
            return Ok(());
        }
    };
    for part in parts {
        let records = part.len().div_ceil(RECORD_CONTENT);
        let mut needed = part.len() + records * RECORD_OVERHEAD;
        loop {
            match traffic.encrypt(part, room(buffers.outgoing, *buffers.outgoing_end, needed)) {
                Ok(written) => {
                    *buffers.outgoing_end += written;
                    break;
                }
                Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size }))
                    if required_size > needed =>
                {
                    needed = required_size;
                }
                Err(_) => return Err(WireError::Tls(rustls::Error::EncryptError)),
            }
        }
    }
    Ok(())
}

/// The unused end of `buffer`, at least `needed` bytes of it.
fn room(buffer: &mut Vec<u8>, used: usize, needed: usize) -> &mut [u8] {
    if buffer.len() < used + needed {
        buffer.resize(used + needed, 0);
    }
    &mut buffer[used..]
}
