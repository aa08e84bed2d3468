//! One file on its way to a server: in one go if it is small, in a stream if it is not, and again when
//! the connection is lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::engine::{Chunk, Line, wire};
use super::exit::{Exit, Failure};
use super::job::Job;
use super::local::{Input, batch};
use super::operand::Server;
use super::report::{Done, Meter};
use super::state::{Progress, STEP};
use crate::proto::{Answer, PutRequest, Request, Stored, Trailer};
use crate::transfer::{Seal, Share};
use crate::types::limits::BUFFER_BYTES;
use crate::types::{ErrorCode, RelPath, Sha256Digest};

/// Where a file goes, and over which of the connections.
#[derive(Clone)]
pub struct Route {
    /// The run.
    pub job: Arc<Job>,
    /// The server.
    pub server: Server,
    /// The connection's number.
    pub lane: usize,
    /// The name there.
    pub path: RelPath,
}

impl Route {
    pub(super) async fn line(&self) -> Result<Line, Failure> {
        self.job.line(&self.server, self.lane).await
    }

    /// Whether exactly this is what stands there: after an answer was lost.
    pub(super) async fn is_there(&self, seal: Seal) -> Option<Done> {
        let request = Request::Stat { path: Some(wire(&self.path)) };
        match self.line().await.ok()?.ask(&request).await.ok()? {
            Answer::Stat(stat)
                if (stat.bytes, stat.sha256) == (Some(seal.bytes), Some(seal.digest)) =>
            {
                Some(Done {
                    bytes: seal.bytes,
                    sha256: seal.digest,
                    mtime_ns: stat.mtime_ns,
                    replaced: false,
                    resumed: 0,
                    confirmed: true,
                })
            }
            _ => None,
        }
    }
}

/// Stores a small file whose content is all here.
///
/// # Errors
/// Nothing new is stored; the server's word why, or the connection's end.
pub async fn whole(
    route: &Route,
    request: PutRequest,
    content: Chunk,
    seal: Seal,
    meter: &Meter,
) -> Result<Done, Failure> {
    let mut patience = route.job.patience();
    let mut is_again = false;
    loop {
        if is_again && let Some(done) = route.is_there(seal).await {
            return Ok(done);
        }
        let outcome = match route.line().await {
            Ok(line) => line.put_whole(request.clone(), content.clone(), seal, meter.clone()).await,
            Err(failure) => Err(failure),
        };
        if !route.job.again(&route.server, route.lane, &mut patience, &outcome).await {
            return stored(&outcome?, seal, 0);
        }
        meter.restart();
        is_again = true;
    }
}

/// What the server says it has must be what was sent.
pub(super) fn stored(answer: &Answer, seal: Seal, resumed: u64) -> Result<Done, Failure> {
    match answer {
        Answer::Stored(stored) => {
            let Stored { bytes, sha256, mtime_ns, replaced } = *stored;
            if (bytes, sha256) != (seal.bytes, seal.digest) {
                let text = format!(
                    "the server says that it stored {bytes} bytes with SHA-256 {sha256}, and that is not what was sent"
                );
                return Err(Failure::new(Exit::Integrity, text));
            }
            Ok(Done { bytes, sha256, mtime_ns, replaced, resumed, confirmed: false })
        }
        _ => Err(Failure::new(Exit::Protocol, "the server's answer is not to what was asked")),
    }
}

/// A stream of content, from where it starts.
pub struct Stream {
    /// What is read.
    pub input: Input,
    /// Whether the end of the input is a good end: a command's exit, say.
    pub end: Option<Box<dyn FnOnce() -> Result<(), Failure> + Send>>,
}

/// Where the content of an attempt begins.
#[derive(Default)]
pub(super) struct Start {
    /// The first byte.
    pub offset: u64,
    /// The hash over what comes before.
    pub hasher: Sha256,
    /// Where it is told how far the hash has got, for another attempt.
    pub progress: Option<Arc<Mutex<Progress>>>,
}

/// How an attempt ended.
pub(super) enum Ended {
    /// The server's word.
    Answered(Result<Answer, Failure>),
    /// Everything was sent, this; and the server's word.
    Sealed(Seal, Result<Answer, Failure>),
    /// It went wrong on our side.
    Local(Failure),
}

/// Stores a stream, or a file that is too large to be read at once.
///
/// # Errors
/// Nothing new is stored; the server's word why, the connection's end, or our own.
pub async fn stream(
    route: &Route,
    request: PutRequest,
    mut stream: Stream,
    meter: &Meter,
) -> Result<Done, Failure> {
    let is_file = stream.input.witness().is_some();
    let mut patience = route.job.patience();
    loop {
        let attempt = match route.line().await {
            Ok(line) => attempt(&line, request.clone(), &mut stream, Start::default(), meter).await,
            Err(failure) => Ended::Answered(Err(failure)),
        };
        let (outcome, seal) = match attempt {
            Ended::Local(failure) => return Err(failure),
            Ended::Answered(outcome) => (outcome, None),
            Ended::Sealed(seal, outcome) => (outcome, Some(seal)),
        };
        let retry = (is_file || seal.is_some())
            && route.job.again(&route.server, route.lane, &mut patience, &outcome).await;
        match (retry, seal) {
            (false, Some(seal)) => return stored(&outcome?, seal, 0),
            (false, None) => {
                return Err(outcome.err().unwrap_or_else(|| {
                    Failure::new(Exit::Protocol, "the server answered before the content ended")
                }));
            }
            (true, Some(seal)) => {
                if let Some(done) = route.is_there(seal).await {
                    return Ok(done);
                }
                if !is_file {
                    return outcome.and_then(|answer| stored(&answer, seal, 0));
                }
            }
            (true, None) => {}
        }
        meter.restart();
    }
}

/// Sends a stream once.
pub(super) async fn attempt(
    line: &Line,
    request: PutRequest,
    stream: &mut Stream,
    start: Start,
    meter: &Meter,
) -> Ended {
    let mut upload = match line.put(request).await {
        Ok(upload) => upload,
        Err(failure) => return Ended::Answered(Err(failure)),
    };
    let (sender, mut chunks) = mpsc::channel(1); // Two more wait for the writer.
    let (share, runtime) = (line.share().clone(), Handle::current());
    let (input, progress) = (stream.input.clone(), start.progress.clone());
    let reading = tokio::task::spawn_blocking(move || {
        read(&input, start, &Reading { share, runtime, sender })
    });
    loop {
        tokio::select! {
            biased;
            answer = upload.early() => {
                drop(chunks);
                if !answer.as_ref().is_err_and(Failure::is_lost) {
                    upload.refused().await;
                }
                return Ended::Answered(answer);
            }
            chunk = chunks.recv() => match chunk {
                None => break,
                Some(chunk) => if let Err(failure) = upload.data(chunk, meter.clone()).await {
                    return Ended::Answered(Err(failure));
                },
            },
        }
    }
    let read = match reading.await {
        Ok(read) => read,
        Err(_) => Err(Failure::new(Exit::Other, "the thread that reads the file has died")),
    };
    let ended = match (read, stream.end.take()) {
        (Ok(seal), Some(end)) => {
            tokio::task::spawn_blocking(end).await.unwrap_or(Ok(())).map(|()| seal)
        }
        (read, _) => read,
    };
    match ended {
        Ok(seal) => {
            if let Some(progress) = progress {
                lock(&progress).seal(Trailer { bytes: seal.bytes, sha256: seal.digest });
            }
            Ended::Sealed(seal, upload.finish(seal, meter.clone()).await)
        }
        Err(failure) => {
            upload.abort(failure.message.clone()).await;
            Ended::Local(failure)
        }
    }
}

/// What a reading thread needs.
struct Reading {
    share: Share,
    runtime: Handle,
    sender: mpsc::Sender<Chunk>,
}

pub(super) fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads to the end, hashing, and hands on what it reads.
fn read(input: &Input, start: Start, reading: &Reading) -> Result<Seal, Failure> {
    let Start { mut offset, mut hasher, progress } = start;
    let mut told = offset;
    let fail = |error: std::io::Error| {
        Failure::new(Exit::Other, error.to_string()).doing("read what is to be sent")
    };
    let total = input.witness().map(|witness| witness.bytes);
    loop {
        let due = total.map_or(u64::MAX, |total| total.saturating_sub(offset));
        if due == 0 {
            break;
        }
        let mut buffer =
            reading.runtime.block_on(reading.share.acquire(due.min(BUFFER_BYTES as u64)));
        let room = buffer.room();
        let most = room.len().min(usize::try_from(due).unwrap_or(usize::MAX));
        let read = input.read(&mut room[..most], offset).map_err(fail)?;
        if read == 0 {
            break;
        }
        buffer.advance(read);
        hasher.update(buffer.content());
        offset += read as u64;
        if let Some(progress) = progress.as_ref().filter(|_| offset - told >= STEP) {
            lock(progress).add(offset, &hasher);
            told = offset;
        }
        if reading.sender.blocking_send(Chunk::new(&Arc::new(buffer), 0..read)).is_err() {
            break; // Nobody wants it any more.
        }
    }
    if total.is_some_and(|total| total != offset && !reading.sender.is_closed())
        || !input.unchanged().map_err(fail)?
    {
        return Err(batch::changed());
    }
    Ok(Seal { bytes: offset, digest: Sha256Digest(hasher.finalize().into()) })
}

/// The digest of a whole file, read on a file thread.
///
/// # Errors
/// It cannot be read, or changes meanwhile.
pub async fn digest(input: Input) -> Result<Seal, Failure> {
    let hash = move || {
        let fail = |error: std::io::Error| {
            Failure::new(Exit::Other, error.to_string()).doing("read the file")
        };
        let (mut hasher, mut offset) = (Sha256::new(), 0_u64);
        let mut room = vec![0; BUFFER_BYTES];
        loop {
            match input.read(&mut room, offset).map_err(fail)? {
                0 => break,
                read => {
                    hasher.update(&room[..read]);
                    offset += read as u64;
                }
            }
        }
        if !input.unchanged().map_err(fail)? {
            return Err(batch::changed());
        }
        Ok(Seal { bytes: offset, digest: Sha256Digest(hasher.finalize().into()) })
    };
    tokio::task::spawn_blocking(hash)
        .await
        .unwrap_or_else(|_| Err(Failure::new(Exit::Other, "the thread that reads has died")))
}

/// What a server has under a name, as far as `-u` wants to know: size and digest of a file.
///
/// # Errors
/// The server's word, save that there is nothing, or the connection's end.
pub async fn remote_seal(route: &Route, bytes: Option<u64>) -> Result<Option<Seal>, Failure> {
    let stat = Request::Stat { path: Some(wire(&route.path)) };
    let stat = match route.job.ask(&route.server, &stat).await {
        Ok(Answer::Stat(stat)) => stat,
        Err(failure) if failure.code == Some(ErrorCode::NotFound) => return Ok(None),
        Err(failure) => return Err(failure),
        Ok(_) => return Ok(None),
    };
    let Some(size) = stat.bytes.filter(|size| bytes.is_none_or(|bytes| bytes == *size)) else {
        return Ok(None);
    };
    if let Some(digest) = stat.sha256 {
        return Ok(Some(Seal { bytes: size, digest }));
    }
    let digest = Request::Digest { path: wire(&route.path), reread: false };
    match route.job.ask(&route.server, &digest).await? {
        Answer::Digest(info) => Ok(Some(Seal { bytes: info.bytes, digest: info.sha256 })),
        _ => Ok(None),
    }
}
