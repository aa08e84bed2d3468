//! A connection on which requests are made.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connect::hello_deadline;
use super::exit::{Exit, Failure};
use super::progress::Bar;
use crate::proto::{
    Abort, Answer, ClientHello, ClientState, ErrorMessage, FileInfo, Header, Kind, PutRequest,
    Reply, Request, ServerHello, StatInfo, Stored, Trailer, VERSION, WirePath,
};
use crate::transfer::{
    Buffer, Committed, Incoming, Outbox, PARTS_MAX, Part, Pool, Seal, Share, Sink, Source,
    TransferError, Workers, receive, send,
};
use crate::types::limits::BUFFER_BYTES;
use crate::types::{ErrorCode, RelPath};
use crate::wire::{FrameReader, FrameWriter, Next, WireError};

/// How long the server may take for an answer that needs no content.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);
/// How long the server may take to make a file durable.
const COMMIT_TIMEOUT: Duration = Duration::from_mins(10);
/// How long an upload may take until the server answers; its own progress is watched while sending.
const UPLOAD_TIMEOUT: Duration = Duration::from_hours(24 * 365 * 100);
/// File threads of one client.
const WORKERS: usize = 4;
/// How long to look for the reason when the server closed in the middle of an upload.
const LAST_WORD: Duration = Duration::from_secs(1);

/// An open connection.
pub struct Session {
    reader: FrameReader,
    writer: FrameWriter,
    state: ClientState,
    share: Share,
    workers: Workers,
    /// What the server said first.
    pub hello: ServerHello,
}

impl Session {
    /// Waits for the server's word on who we are, and answers it.
    ///
    /// # Errors
    /// The server does not know us, or speaks another version.
    pub(super) async fn open(
        mut reader: FrameReader,
        mut writer: FrameWriter,
    ) -> Result<Self, Failure> {
        let header = match reader.header(hello_deadline()).await? {
            Next::Frame(header) => header,
            Next::Farewell => return Err(WireError::Cut.into()),
            Next::Nothing => return Err(WireError::Timeout("wait for the server's hello").into()),
        };
        let wrong =
            |what: &str| Failure::new(Exit::Protocol, what.to_owned()).hint("is this an ftd?");
        let hello: ServerHello = match (header.kind, header.id) {
            (Kind::Hello, 0) => serde_json::from_slice(reader.control(&header).await?)
                .map_err(|error| wrong(&format!("the server's hello makes no sense: {error}")))?,
            (Kind::Error, 0) => {
                let error: ErrorMessage = serde_json::from_slice(reader.control(&header).await?)
                    .map_err(|_| wrong("the server's first words make no sense"))?;
                return Err(Failure::of_server(error.code, &error.message));
            }
            _ => return Err(wrong("the server did not say hello")),
        };
        let Some(version) = VERSION.common(hello.versions) else {
            let (min, max) = (hello.versions.min, hello.versions.max);
            return Err(Failure::new(
                Exit::Protocol,
                format!("the server speaks versions {min} to {max}, and we none of them"),
            )
            .hint("update the older side"));
        };
        let client = Some(concat!("ftc/", env!("CARGO_PKG_VERSION")).to_owned());
        writer.control(Kind::Hello, 0, &ClientHello { version, client })?;
        let share = Pool::new(0).share();
        Ok(Self {
            reader,
            writer,
            state: ClientState::default(),
            share,
            workers: Workers::new(WORKERS),
            hello,
        })
    }

    fn begin(&mut self, request: &Request) -> Result<u32, Failure> {
        let id = self.state.begin(request);
        self.writer.control(Kind::Request, id, request)?;
        Ok(id)
    }

    /// Stores the content of `source`.
    ///
    /// # Errors
    /// Nothing new is stored; the server's word why, or our own.
    pub async fn put<F: Source>(
        &mut self,
        request: PutRequest,
        source: F,
        bar: &Bar,
    ) -> Result<Stored, Failure> {
        let id = self.begin(&Request::Put(request))?;
        let (parts, mut queue) = mpsc::channel(PARTS_MAX);
        let (share, workers) = (self.share.clone(), self.workers.clone());
        let outbox = Outbox { id, parts };
        let reading = tokio::spawn(async move { send(source, outbox, share, &workers).await });
        let answered = AtomicBool::new(false);
        let (writer, reader, state) = (&mut self.writer, &mut self.reader, &mut self.state);
        let sending = async {
            while let Some((_, part)) = queue.recv().await {
                if answered.load(Ordering::Relaxed) {
                    break;
                }
                if let Part::Data(buffer) = part {
                    writer.content(id, buffer.content())?;
                    writer.flush().await?;
                    bar.advance(buffer.content().len());
                }
            }
            drop(queue);
            let local = match reading.await {
                _ if answered.load(Ordering::Relaxed) => {
                    writer.empty(Kind::Cancel, id)?;
                    Ok(())
                }
                Ok(Ok(Seal { bytes, digest })) => {
                    writer.empty(Kind::Eof, id)?;
                    writer.control(Kind::Trailer, id, &Trailer { bytes, sha256: digest })?;
                    bar.say("committing");
                    Ok(())
                }
                failed => {
                    let error = failed
                        .unwrap_or(Err(TransferError::Panicked))
                        .err()
                        .unwrap_or(TransferError::Panicked);
                    writer.control(Kind::Abort, id, &Abort { reason: error.to_string() })?;
                    Err(error)
                }
            };
            writer.flush().await?;
            Ok::<_, WireError>(local)
        };
        let answering = async {
            let answer = stored(reader, state, id, UPLOAD_TIMEOUT).await;
            answered.store(true, Ordering::Relaxed);
            answer
        };
        let mut answering = std::pin::pin!(answering);
        let mut sending = std::pin::pin!(sending);
        let (sent, early) = tokio::select! {
            biased;
            answer = &mut answering => (sending.await, Some(answer)),
            sent = &mut sending => (sent, None),
        };
        let answer = if let Some(answer) = early {
            answer
        } else {
            let patience = if sent.is_ok() { COMMIT_TIMEOUT } else { LAST_WORD };
            tokio::time::timeout(patience, answering)
                .await
                .unwrap_or_else(|_| Err(WireError::Timeout("wait for the server to commit").into()))
        };
        match (sent, answer) {
            (Ok(Err(local)), _) => Err(Failure::from(local).doing("read the local file")),
            (Err(wire), Err(answer)) if answer.exit == Exit::Connect => Err(wire.into()),
            (_, answer) => answer,
        }
    }

    /// Fetches a file into `store`, where it appears only when it is whole and verified.
    ///
    /// # Errors
    /// Nothing new is there; the server's word why, or our own.
    pub async fn get<S: Sink>(
        &mut self,
        path: &RelPath,
        store: std::sync::Arc<S>,
        incoming: impl FnOnce(&FileInfo) -> Incoming,
        bar: &Bar,
    ) -> Result<Committed, Failure> {
        let path = WirePath(path.raw_bytes().to_vec());
        let id = self.begin(&Request::Get { path, offset: 0, version: None })?;
        self.writer.flush().await?;
        let info = match reply(&mut self.reader, &mut self.state, id, ANSWER_TIMEOUT).await? {
            Reply::Answer(Answer::File(info)) => info,
            other => return Err(unexpected(&other)),
        };
        bar.length(info.bytes);
        let (parts, queue) = mpsc::channel(PARTS_MAX);
        let (workers, incoming) = (self.workers.clone(), incoming(&info));
        let writing = tokio::spawn(async move { receive(store, incoming, queue, &workers).await });
        let outcome = self.content(info.bytes, &parts, bar).await;
        if outcome.is_ok() {
            bar.say("verifying");
        }
        drop(parts);
        let written = writing.await.unwrap_or(Err(TransferError::Panicked));
        match (outcome, written) {
            (Err(failure), Err(TransferError::Aborted)) => Err(failure),
            (_, Err(error)) => {
                let failure = Failure::from(error.clone()).doing("store the file here");
                Err(match error {
                    TransferError::Digest { .. } => {
                        failure.hint("what the server has is not what was stored there, or was changed on its way")
                    }
                    _ => failure,
                })
            }
            (_, Ok(committed)) => Ok(committed),
        }
    }

    /// Passes a get's content on, and its end. Ends early, without an error, when nobody takes it.
    async fn content(
        &mut self,
        bytes: u64,
        parts: &mpsc::Sender<Part>,
        bar: &Bar,
    ) -> Result<(), Failure> {
        let mut filling: Option<Buffer> = None;
        let mut due = bytes;
        self.reader.resume();
        loop {
            let until = self.reader.stall_deadline();
            let header = next(&mut self.reader, until).await?;
            if !self.state.header(&header).map_err(WireError::from)? {
                match control(&mut self.reader, &mut self.state, &header).await? {
                    Reply::Eof => {
                        if let Some(buffer) = filling.take() {
                            let _ = parts.send(Part::Data(buffer)).await; // The outcome tells why.
                        }
                    }
                    Reply::Trailer(Trailer { bytes, sha256 }) => {
                        let _ = parts.send(Part::End(Seal { bytes, digest: sha256 })).await;
                        return Ok(());
                    }
                    other => return Err(unexpected(&other)),
                }
                continue;
            }
            let mut left = header.payload_bytes as usize;
            while left > 0 {
                let mut buffer = match filling.take() {
                    Some(buffer) => buffer,
                    None => self.share.acquire(due.min(BUFFER_BYTES as u64)).await,
                };
                let room = buffer.room();
                let most = left.min(room.len());
                let read = self.reader.content(&mut room[..most], None).await?.unwrap_or(0);
                buffer.advance(read);
                bar.advance(read);
                left -= read;
                due = due.saturating_sub(read as u64);
                if buffer.is_full() {
                    if parts.send(Part::Data(buffer)).await.is_err() {
                        return Ok(());
                    }
                    self.reader.resume(); // Whatever time that took was ours.
                } else {
                    filling = Some(buffer);
                }
            }
        }
    }

    /// Describes a path; `None` is the home.
    ///
    /// # Errors
    /// The server's word.
    pub async fn stat(&mut self, path: Option<&RelPath>) -> Result<StatInfo, Failure> {
        let path = path.map(|path| WirePath(path.raw_bytes().to_vec()));
        let id = self.begin(&Request::Stat { path })?;
        self.writer.flush().await?;
        match reply(&mut self.reader, &mut self.state, id, ANSWER_TIMEOUT).await? {
            Reply::Answer(Answer::Stat(info)) => Ok(info),
            other => Err(unexpected(&other)),
        }
    }

    /// Lists a directory, handing on entries as they come; `None` is the home.
    ///
    /// # Errors
    /// The server's word.
    pub async fn list(
        &mut self,
        path: Option<&RelPath>,
        mut each: impl FnMut(Vec<crate::proto::Entry>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let path = path.map(|path| WirePath(path.raw_bytes().to_vec()));
        let id = self.begin(&Request::List { path })?;
        self.writer.flush().await?;
        loop {
            match reply(&mut self.reader, &mut self.state, id, ANSWER_TIMEOUT).await? {
                Reply::Entries(entries) => each(entries.entries)?,
                Reply::Answer(Answer::Listed(_)) => return Ok(()),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        self.writer.close(LAST_WORD).await;
    }
}

async fn next(reader: &mut FrameReader, until: Instant) -> Result<Header, Failure> {
    match reader.header(until).await? {
        Next::Frame(header) => Ok(header),
        Next::Farewell => Err(WireError::Cut.into()),
        Next::Nothing => Err(WireError::Timeout("wait for the server").into()),
    }
}

async fn control(
    reader: &mut FrameReader,
    state: &mut ClientState,
    header: &Header,
) -> Result<Reply, Failure> {
    let payload = reader.control(header).await?;
    Ok(state.control(header, payload).map_err(WireError::from)?)
}

/// The next reply to `id`. What the connection has to say comes out as a failure.
async fn reply(
    reader: &mut FrameReader,
    state: &mut ClientState,
    id: u32,
    patience: Duration,
) -> Result<Reply, Failure> {
    let until = Instant::now() + patience;
    loop {
        let header = next(reader, until).await?;
        if state.header(&header).map_err(WireError::from)? {
            return Err(Failure::new(
                Exit::Protocol,
                "the server sends content that nobody asked for",
            ));
        }
        match control(reader, state, &header).await? {
            Reply::Error(error) => return Err(Failure::of_server(error.code, &error.message)),
            reply if header.id == id => return Ok(reply),
            _ => {} // The end of a request before this one.
        }
    }
}

async fn stored(
    reader: &mut FrameReader,
    state: &mut ClientState,
    id: u32,
    patience: Duration,
) -> Result<Stored, Failure> {
    match reply(reader, state, id, patience).await? {
        Reply::Answer(Answer::Stored(stored)) => Ok(stored),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(reply: &Reply) -> Failure {
    match reply {
        Reply::Error(error) => Failure::of_server(error.code, &error.message),
        Reply::Abort(_) => Failure::of_server(ErrorCode::Internal, "the server gave up"),
        _ => Failure::new(Exit::Protocol, "the server's answer is not to what was asked"),
    }
}
