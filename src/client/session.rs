//! A connection on which requests are made.

use std::time::Duration;

use tokio::sync::{Notify, mpsc};
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
        if source.stat().is_none() {
            self.writer.flush().await?; // A pipe may be slow; a refusal need not wait for it.
        }
        let (parts, mut queue) = mpsc::channel(PARTS_MAX);
        let (share, workers) = (self.share.clone(), self.workers.clone());
        let outbox = Outbox { id, parts };
        let reading = tokio::spawn(async move { send(source, outbox, share, &workers).await });
        let answered = Notify::new();
        let (writer, reader, state) = (&mut self.writer, &mut self.reader, &mut self.state);
        let sending = async {
            let mut answered = std::pin::pin!(answered.notified());
            let read = loop {
                let part = tokio::select! {
                    biased;
                    // The source may be a pipe that says nothing for hours: it is not waited for.
                    () = &mut answered => break None,
                    part = queue.recv() => part,
                };
                match part {
                    Some((_, Part::Data(buffer))) => {
                        writer.content(id, buffer.content())?;
                        writer.flush().await?;
                        bar.advance(buffer.content().len());
                    }
                    Some(_) => {}
                    None => break Some(reading.await),
                }
            };
            drop(queue);
            let local = match read {
                None => {
                    writer.empty(Kind::Cancel, id)?;
                    Ok(())
                }
                Some(Ok(Ok(Seal { bytes, digest }))) => {
                    writer.empty(Kind::Eof, id)?;
                    writer.control(Kind::Trailer, id, &Trailer { bytes, sha256: digest })?;
                    bar.say("committing");
                    Ok(())
                }
                Some(failed) => {
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
            answered.notify_one();
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
        if outcome.is_ok() && !self.is_idle() {
            self.give_up(id).await;
        }
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
            let header = tokio::select! {
                header = next(&mut self.reader, until) => header?,
                () = parts.closed() => return Ok(()), // It cannot be stored; why, the outcome tells.
            };
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

    /// Whether the connection can take the next request: nothing of one before is still to come.
    pub fn is_idle(&self) -> bool {
        self.state.is_idle()
    }

    /// Cancels a request whose answer we cannot use, and reads what is on its way. If that does not end
    /// soon the connection is left as it is, not idle, and nobody uses it again.
    async fn give_up(&mut self, id: u32) {
        let ending = async {
            self.writer.empty(Kind::Cancel, id)?;
            self.writer.flush().await?;
            let mut nowhere = vec![0; BUFFER_BYTES];
            while !self.state.is_idle() {
                let header = next(&mut self.reader, Instant::now() + LAST_WORD).await?;
                if !self.state.header(&header).map_err(WireError::from)? {
                    control(&mut self.reader, &mut self.state, &header).await?;
                    continue;
                }
                let mut left = header.payload_bytes as usize;
                while left > 0 {
                    let most = left.min(BUFFER_BYTES);
                    left -= self.reader.content(&mut nowhere[..most], None).await?.unwrap_or(0);
                }
            }
            Ok::<_, Failure>(())
        };
        let _ = tokio::time::timeout(LAST_WORD, ending).await;
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::super::connect::STALL;
    use super::*;
    use crate::client::local::{Input, Stdout};
    use crate::wire::{Connection, Socket, split};

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    const GREETING: &[u8] = br#"{"protocol":"ftd","versions":{"min":1,"max":1},"server":"s","user":"u","rights":[],"limits":{"control_bytes":16384,"data_bytes":1048576,"requests":256,"uploads":8,"file_bytes":1}}"#;

    fn frame(kind: Kind, id: u32, payload: &[u8]) -> Vec<u8> {
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        [&Header { kind, id, payload_bytes }.encode()[..], payload].concat()
    }

    /// A session with a server that says `script`, and from then on one byte a minute of a frame that
    /// never ends.
    async fn against(script: Vec<u8>, trickles: bool) -> Result<Session, Failure> {
        let (ours, mut theirs) =
            UnixStream::pair().map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
        tokio::spawn(async move {
            let _ = theirs.write_all(&script).await;
            let endless = frame(Kind::Error, 0, &[b' '; 10_000]);
            for byte in endless {
                tokio::time::sleep(Duration::from_mins(1)).await;
                if trickles && theirs.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        });
        let (reader, writer) = split(Connection::plain(Socket::Unix(ours)), STALL);
        Session::open(reader, writer).await
    }

    fn told(failure: Failure) -> String {
        failure.message
    }

    /// Goal: how long a client waits is its own affair, whatever a server says or does not say (L-06).
    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_given_up() -> TestResult {
        const FILE: &[u8] = br#"{"file":{"bytes":3,"mode":420,"mtime_ns":0}}"#;
        let hour = Duration::from_hours(1);
        let path = RelPath::parse(b"f")?;
        for trickles in [false, true] {
            let started = Instant::now();
            let open = against(Vec::new(), trickles).await;
            assert!(open.is_err_and(|failure| failure.exit == Exit::Connect));
            for half in [Vec::new(), frame(Kind::Answer, 1, FILE)] {
                let script = [frame(Kind::Hello, 0, GREETING), half].concat();
                let mut session = against(script.clone(), trickles).await.map_err(told)?;
                let stat = session.stat(None).await;
                assert!(stat.is_err_and(|f| matches!(f.exit, Exit::Connect | Exit::Protocol)));
                let mut session = against(script.clone(), trickles).await.map_err(told)?;
                let listed = session.list(None, |_| Ok(())).await;
                assert!(listed.is_err_and(|f| matches!(f.exit, Exit::Connect | Exit::Protocol)));
                let mut session = against(script.clone(), trickles).await.map_err(told)?;
                let incoming = |info: &FileInfo| Incoming {
                    target: path.clone(),
                    announced: Some(info.bytes),
                    bytes_max: u64::MAX,
                    overwrite: crate::access::Overwrite::Never,
                    retain: None,
                    parents: crate::fsroot::Parents::MustExist,
                    mode: None,
                    mtime_ns: None,
                    keep: None,
                };
                let bar = Bar::new(String::new(), None, true);
                let got = session.get(&path, std::sync::Arc::new(Stdout), incoming, &bar).await;
                assert!(got.is_err_and(|f| f.exit == Exit::Connect));
            }
            let mut session =
                against(frame(Kind::Hello, 0, GREETING), trickles).await.map_err(told)?;
            let request = PutRequest {
                path: WirePath(b"f".to_vec()),
                bytes: None,
                mode: None,
                mtime_ns: None,
                replace: true,
                resumable: false,
                resume: None,
            };
            let input = Input::open(std::path::Path::new("Cargo.toml")).map_err(told)?;
            let bar = Bar::new(String::new(), None, true);
            let put = session.put(request, input, &bar).await;
            assert!(put.is_err_and(|failure| failure.exit == Exit::Connect));
            assert!(started.elapsed() < hour, "{:?}", started.elapsed());
        }
        Ok(())
    }
}
