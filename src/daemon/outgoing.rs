//! What a session says: answers and parts become frames.

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::content::Content;
use super::server::FAREWELL;
use super::session::Session;
use super::users::User;
use crate::config::Limits;
use crate::fsroot::{Entry, Kind as FileKind, Stat};
use crate::proto::{
    Abort, Answer, CheckInfo, DigestInfo, Empty, EntryType, ErrorMessage, FileInfo, HelloLimits,
    Kind, Listed, Made, Renamed, ResumeInfo, ServerHello, StatInfo, Stored, Trailer, UPLOADS_MAX,
    VERSION, WirePath,
};
use crate::transfer::{Committed, Part, Receipt, Seal, Store, TransferError, Whole};
use crate::types::limits::{CONTROL_BYTES_MAX, DATA_BYTES_MAX};
use crate::types::{Escaped, Right};
use crate::wire::{FrameWriter, WireError};

/// What ends a request in one frame.
#[derive(Debug)]
pub(super) enum Final {
    /// A put that is whole, verified, in place and durable.
    Stored(Committed),
    /// A stat's finding.
    Stat(Stat),
    /// A name is gone.
    Removed,
    /// So many directories were made.
    Made(u64),
    /// A name was changed.
    Renamed {
        /// Whether a file made room.
        replaced: bool,
    },
    /// A file's digest.
    Digest(DigestInfo),
    /// What is kept of an upload.
    Resume(ResumeInfo),
    /// A put would be taken.
    Check(CheckInfo),
    /// Content may come and go compressed.
    Compress,
    /// A failure.
    Error(ErrorMessage),
    /// The refusal of one request too many, which never counted as running.
    NotAdmitted(ErrorMessage),
    /// The request was given up.
    Aborted,
    /// Not a request's end but the connection's, with its last word.
    Close(Option<ErrorMessage>),
}

/// The outgoing direction: answers and parts as they come, many to a system call.
pub(super) async fn send<S: Store>(
    session: &Session<S>,
    writer: &mut FrameWriter,
    answers: &mut mpsc::Receiver<(u32, Final)>,
    content: &mut Content,
) -> Result<(), WireError> {
    writer.flush().await?;
    // Until then the user's bandwidth is used up, and only answers go out.
    let mut paid_at = Instant::now();
    loop {
        let is_paced = paid_at > Instant::now();
        // The session holds a sender of each, so that neither channel closes.
        let mut next = tokio::select! {
            biased;
            Some((id, answer)) = answers.recv() => Ok((id, answer)),
            Some((id, part)) = content.recv(), if !is_paced => Err((id, part)),
            () = sleep_until(paid_at), if is_paced => continue,
        };
        loop {
            match next {
                Ok((_, Final::Close(message))) => {
                    writer.flush().await?;
                    farewell(writer, message).await;
                    return Ok(());
                }
                Ok((id, last)) => answer(session, writer, id, last)?,
                Err((id, sent)) => part(session, writer, id, sent).await?,
            }
            let sent = writer.content_bytes();
            if sent > 0
                && let Some(bandwidth) = session.user().and_then(|user| user.bandwidth.clone())
            {
                paid_at = Instant::now() + bandwidth.charge(sent);
            }
            let is_full = writer.is_full() || paid_at > Instant::now();
            next = match (is_full, answers.try_recv()) {
                (_, Ok(answer)) => Ok(answer),
                (false, Err(_)) => match content.try_recv() {
                    Some(part) => Err(part),
                    None => break,
                },
                (true, Err(_)) => break,
            };
        }
        writer.flush().await?;
        if session.state().is_idle() {
            writer.shrink(); // The reader, which fell idle before this was sent, could not.
        }
    }
}

/// Says a last word, if there is one, and goodbye.
pub(super) async fn farewell(writer: &mut FrameWriter, message: Option<ErrorMessage>) {
    if let Some(message) = message {
        let _ = writer.control(Kind::Error, 0, &message);
    }
    writer.close(FAREWELL).await;
}

/// The server's first word.
pub(super) fn hello(user: &User, limits: &Limits) -> ServerHello {
    ServerHello {
        protocol: "ftd".to_owned(),
        versions: VERSION,
        server: concat!("ftd/", env!("CARGO_PKG_VERSION")).to_owned(),
        user: user.principal.name.clone(),
        rights: user.principal.rights.iter().map(Right::name).map(str::to_owned).collect(),
        limits: HelloLimits {
            control_bytes: CONTROL_BYTES_MAX,
            data_bytes: DATA_BYTES_MAX,
            requests: u32::try_from(limits.requests_per_connection).unwrap_or(u32::MAX),
            uploads: u32::try_from(UPLOADS_MAX).unwrap_or(u32::MAX),
            file_bytes: user.bytes_max(limits),
        },
    }
}

/// Queues the final frame of a request.
fn answer<S: Store>(
    session: &Session<S>,
    writer: &mut FrameWriter,
    id: u32,
    last: Final,
) -> Result<(), WireError> {
    if !session.state().is_running(id) && !matches!(last, Final::NotAdmitted(_)) {
        return Ok(()); // It was cancelled, and that was its final frame.
    }
    session.finished(id);
    let answer = match last {
        Final::Stored(committed) => stored(&committed),
        Final::Stat(stat) => Answer::Stat(described(&stat)),
        Final::Removed => Answer::Removed(Empty {}),
        Final::Made(directories) => Answer::Made(Made { directories }),
        Final::Renamed { replaced } => Answer::Renamed(Renamed { replaced }),
        Final::Digest(info) => Answer::Digest(info),
        Final::Resume(info) => Answer::Resume(info),
        Final::Check(info) => Answer::Check(info),
        Final::Compress => {
            writer.control(Kind::Answer, id, &Answer::Compress(Empty {}))?;
            return writer.pack();
        }
        Final::Error(message) | Final::NotAdmitted(message) => {
            return writer.control(Kind::Error, id, &message);
        }
        Final::Aborted | Final::Close(_) => {
            return writer.control(Kind::Abort, id, &Abort { reason: "cancelled".to_owned() });
        }
    };
    writer.control(Kind::Answer, id, &answer)
}

/// Queues one part of what is streamed. What comes after the final frame is dropped.
async fn part<S: Store>(
    session: &Session<S>,
    writer: &mut FrameWriter,
    id: u32,
    part: Part,
) -> Result<(), WireError> {
    if !session.state().is_running(id) {
        return Ok(());
    }
    match part {
        Part::Begin(stat, version) => begin(writer, id, &stat, version),
        Part::Whole(whole, receipt) => {
            let Whole { stat, version, content, seal } = *whole;
            begin(writer, id, &stat, version)?;
            if let Some(content) = content {
                writer.content(id, content.content()).await?;
            }
            end(session, writer, id, seal, Some(receipt))
        }
        Part::Data(buffer) => writer.content(id, buffer.content()).await,
        Part::Entries(entries) => self::entries(writer, id, entries),
        Part::Listed(entries) => {
            session.finished(id);
            writer.control(Kind::Answer, id, &Answer::Listed(Listed { entries }))
        }
        Part::End(seal, receipt) => end(session, writer, id, seal, receipt),
        Part::Failed(error) => answer(session, writer, id, failed(&error)),
    }
}

fn begin(writer: &mut FrameWriter, id: u32, stat: &Stat, version: String) -> Result<(), WireError> {
    let Stat { bytes, mode, mtime_ns, .. } = *stat;
    writer.control(Kind::Answer, id, &Answer::File(FileInfo { bytes, mode, mtime_ns, version }))
}

fn end<S: Store>(
    session: &Session<S>,
    writer: &mut FrameWriter,
    id: u32,
    seal: Seal,
    receipt: Option<Receipt>,
) -> Result<(), WireError> {
    session.finished(id);
    writer.empty(Kind::Eof, id)?;
    writer.control(Kind::Trailer, id, &Trailer { bytes: seal.bytes, sha256: seal.digest })?;
    if let Some(receipt) = receipt {
        writer.tell_when_sent(receipt);
    }
    Ok(())
}

/// The only place that says "stored": it takes a [`Committed`], and nothing else makes one.
fn stored(committed: &Committed) -> Answer {
    let seal = committed.seal();
    Answer::Stored(Stored {
        bytes: seal.bytes,
        sha256: seal.digest,
        mtime_ns: committed.mtime_ns(),
        replaced: committed.replaced(),
    })
}

/// How a failed transfer is told.
pub(super) fn failed(error: &TransferError) -> Final {
    match error {
        TransferError::Aborted => Final::Aborted,
        error => Final::Error(ErrorMessage::new(error.code(), error.to_string())),
    }
}

fn entry_type(kind: FileKind) -> EntryType {
    match kind {
        FileKind::File => EntryType::File,
        FileKind::Directory => EntryType::Directory,
        FileKind::Other => EntryType::Other,
    }
}

fn described(stat: &Stat) -> StatInfo {
    StatInfo {
        kind: entry_type(stat.kind),
        bytes: (stat.kind == FileKind::File).then_some(stat.bytes),
        mode: stat.mode,
        mtime_ns: stat.mtime_ns,
        sha256: stat.digest,
    }
}

/// Packs entries into as few frames as the frame limit allows.
fn entries(writer: &mut FrameWriter, id: u32, entries: Vec<Entry>) -> Result<(), WireError> {
    const OPEN: &[u8] = br#"{"entries":["#;
    const CLOSE: &[u8] = b"]}";
    let mut payload = OPEN.to_vec();
    for entry in entries {
        let entry = crate::proto::Entry {
            kind: entry_type(entry.kind),
            bytes: (entry.kind == FileKind::File).then_some(entry.bytes),
            mode: entry.mode,
            mtime_ns: entry.mtime_ns,
            name: WirePath(entry.name),
        };
        let mut text = Vec::with_capacity(128);
        if entry.serialize(&mut serde_json::Serializer::new(&mut text)).is_err() {
            tracing::error!(name = %Escaped(&entry.name.0), "cannot spell a directory entry");
            continue;
        }
        if payload.len() + 1 + text.len() + CLOSE.len() > CONTROL_BYTES_MAX as usize {
            payload.extend_from_slice(CLOSE);
            writer.raw_control(Kind::Entries, id, &payload)?;
            payload.truncate(OPEN.len());
        }
        if payload.len() > OPEN.len() {
            payload.push(b',');
        }
        payload.extend_from_slice(&text);
    }
    if payload.len() == OPEN.len() {
        return Ok(());
    }
    payload.extend_from_slice(CLOSE);
    writer.raw_control(Kind::Entries, id, &payload)
}
