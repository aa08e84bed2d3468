//! What a session says: answers and parts become frames.

use serde::Serialize;

use super::session::Session;
use crate::fsroot::{Entry, Kind as FileKind, Stat};
use crate::proto::{
    Abort, Answer, CheckInfo, DigestInfo, Empty, EntryType, ErrorMessage, FileInfo, Kind, Listed,
    Made, Renamed, ResumeInfo, StatInfo, Stored, Trailer, WirePath,
};
use crate::transfer::{Committed, Part, Receipt, Seal, Store, TransferError, Whole};
use crate::types::Escaped;
use crate::types::limits::CONTROL_BYTES_MAX;
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

/// Queues the final frame of a request.
pub(super) fn answer<S: Store>(
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
pub(super) async fn part<S: Store>(
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
