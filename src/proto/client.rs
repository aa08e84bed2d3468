//! The client's view of a connection: which answer may come next.

use std::collections::BTreeMap;

use super::{
    Abort, Answer, Entries, ErrorMessage, Header, Kind, ProtocolError, Request, Trailer, parse,
};
use crate::types::RelPath;

/// What the server may still send for each request, without any I/O. A server that sends what was
/// not asked for is as broken as a client that does.
#[derive(Debug, Default)]
pub struct ClientState {
    last_id: u32,
    open: BTreeMap<u32, Open>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Open {
    Put,
    Stat,
    List,
    Remove,
    Mkdir,
    Rename,
    Digest,
    Resume,
    Check,
    Compress,
    /// A get, and where its content begins.
    Get {
        offset: u64,
    },
    /// A get that was announced: the bytes that are still to come.
    Content {
        left: u64,
    },
    /// A get whose content is complete.
    Ended,
}

/// What a complete control frame of a server means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// The outcome, or for a get its announcement.
    Answer(Answer),
    /// Some entries of a listing.
    Entries(Entries),
    /// A get's content is complete.
    Eof,
    /// A get's last word.
    Trailer(Trailer),
    /// The server gave the request up.
    Abort(Abort),
    /// The request, or with id 0 the connection, failed.
    Error(ErrorMessage),
}

impl ClientState {
    /// Takes the next id for a request that is about to be sent.
    ///
    /// # Panics
    /// Never before four thousand million requests on one connection.
    pub fn begin(&mut self, request: &Request) -> u32 {
        self.last_id =
            self.last_id.checked_add(1).expect("a connection ends long before its ids do");
        let open = match request {
            Request::Put(_) => Open::Put,
            Request::Get { offset, .. } => Open::Get { offset: *offset },
            Request::Resume { .. } => Open::Resume,
            Request::Check { .. } => Open::Check,
            Request::Compress { .. } => Open::Compress,
            Request::List { .. } => Open::List,
            Request::Stat { .. } | Request::Unknown => Open::Stat,
            Request::Remove { .. } | Request::Rmdir { .. } => Open::Remove,
            Request::Mkdir { .. } => Open::Mkdir,
            Request::Rename { .. } => Open::Rename,
            Request::Digest { .. } => Open::Digest,
        };
        self.open.insert(self.last_id, open);
        self.last_id
    }

    /// Whether every request has had its final frame.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Judges the header of a frame from the server; `true` when content follows.
    ///
    /// # Errors
    /// Final for the connection.
    pub fn header(&mut self, header: &Header) -> Result<bool, ProtocolError> {
        let Header { kind, id, payload_bytes } = *header;
        let refuse = |rule| Err(ProtocolError::OutOfOrder { kind, id, rule });
        if (kind, id) == (Kind::Error, 0) {
            return Ok(false);
        }
        let Some(open) = self.open.get_mut(&id) else {
            return refuse("nothing was asked under this id");
        };
        match (kind, &mut *open) {
            (Kind::Answer, Open::Content { .. } | Open::Ended) => refuse("announced before"),
            (Kind::Error | Kind::Abort | Kind::Answer, _)
            | (Kind::Entries, Open::List)
            | (Kind::Eof, Open::Content { left: 0 })
            | (Kind::Trailer, Open::Ended) => Ok(false),
            (Kind::Data, Open::Content { left }) => {
                match left.checked_sub(u64::from(payload_bytes)) {
                    Some(rest) => {
                        *left = rest;
                        Ok(true)
                    }
                    None => refuse("more content than announced"),
                }
            }
            _ => refuse("not what was asked for"),
        }
    }

    /// Reads a control frame whose header was let through.
    ///
    /// # Errors
    /// Final for the connection.
    pub fn control(&mut self, header: &Header, payload: &[u8]) -> Result<Reply, ProtocolError> {
        let Header { kind, id, .. } = *header;
        let reply = match kind {
            Kind::Answer => Reply::Answer(parse(kind, payload)?),
            Kind::Entries => {
                let entries: Entries = parse(kind, payload)?;
                check_entries(&entries).map_err(|rule| ProtocolError::OutOfOrder {
                    kind,
                    id,
                    rule,
                })?;
                Reply::Entries(entries)
            }
            Kind::Eof => Reply::Eof,
            Kind::Trailer => Reply::Trailer(parse(kind, payload)?),
            Kind::Abort => Reply::Abort(parse(kind, payload)?),
            Kind::Error => Reply::Error(parse(kind, payload)?),
            _ => {
                return Err(ProtocolError::OutOfOrder {
                    kind,
                    id,
                    rule: "only a client sends this",
                });
            }
        };
        let next = match (&reply, self.open.get(&id)) {
            (Reply::Answer(Answer::File(file)), Some(Open::Get { offset })) => {
                let Some(left) = file.bytes.checked_sub(*offset) else {
                    let rule = "the file ends before the offset";
                    return Err(ProtocolError::OutOfOrder { kind, id, rule });
                };
                Some(Open::Content { left })
            }
            (Reply::Answer(Answer::Stored(_)), Some(Open::Put))
            | (Reply::Answer(Answer::Stat(_)), Some(Open::Stat))
            | (Reply::Answer(Answer::Listed(_)), Some(Open::List))
            | (Reply::Answer(Answer::Removed(_)), Some(Open::Remove))
            | (Reply::Answer(Answer::Made(_)), Some(Open::Mkdir))
            | (Reply::Answer(Answer::Renamed(_)), Some(Open::Rename))
            | (Reply::Answer(Answer::Digest(_)), Some(Open::Digest))
            | (Reply::Answer(Answer::Resume(_)), Some(Open::Resume))
            | (Reply::Answer(Answer::Check(_)), Some(Open::Check))
            | (Reply::Answer(Answer::Compress(_)), Some(Open::Compress))
            | (Reply::Trailer(_) | Reply::Abort(_) | Reply::Error(_), _) => None,
            (Reply::Entries(_), Some(open)) => Some(*open),
            (Reply::Eof, _) => Some(Open::Ended),
            (Reply::Answer(_) | Reply::Entries(_), _) => {
                return Err(ProtocolError::OutOfOrder { kind, id, rule: "not what was asked for" });
            }
        };
        match next {
            Some(next) => self.open.insert(id, next),
            None => self.open.remove(&id),
        };
        Ok(reply)
    }
}

/// What a listing may hold: names of one component, and something in every frame, so that a server
/// can neither lead a client astray nor keep it waiting with nothing.
fn check_entries(entries: &Entries) -> Result<(), &'static str> {
    if entries.entries.is_empty() {
        return Err("entries that are none");
    }
    let is_name = |name: &[u8]| {
        RelPath::parse(name)
            .is_ok_and(|path| path.raw_bytes() == name && path.components().count() == 1)
    };
    if entries.entries.iter().all(|entry| is_name(&entry.name.0)) {
        Ok(())
    } else {
        Err("an entry whose name no directory can hold")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::WirePath;

    fn feed(
        state: &mut ClientState,
        kind: Kind,
        id: u32,
        payload: &[u8],
    ) -> Result<(), ProtocolError> {
        let header =
            Header { kind, id, payload_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX) };
        if !state.header(&header)? {
            state.control(&header, payload)?;
        }
        Ok(())
    }

    /// Goal: a hostile server cannot feed a client what it did not ask for (L-04, L-07).
    #[test]
    fn only_what_was_asked_for_is_taken() {
        const FILE: &[u8] = br#"{"file":{"bytes":3,"mode":420,"mtime_ns":0}}"#;
        const TRAILER: &[u8] =
            br#"{"bytes":3,"sha256":"98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4"}"#;
        type Frames = &'static [(Kind, u32, &'static [u8])];
        let rows: &[(Frames, bool, &str)] = &[
            (
                &[
                    (Kind::Answer, 1, FILE),
                    (Kind::Data, 1, b"hi\n"),
                    (Kind::Eof, 1, b""),
                    (Kind::Trailer, 1, TRAILER),
                ],
                true,
                "a whole get",
            ),
            (
                &[(Kind::Answer, 1, FILE), (Kind::Error, 1, br#"{"code":"IO","message":"m"}"#)],
                true,
                "a get that fails",
            ),
            (
                &[(Kind::Error, 0, br#"{"code":"SHUTDOWN","message":"m"}"#)],
                true,
                "the connection fails",
            ),
            (&[(Kind::Data, 1, b"x")], false, "content unannounced"),
            (&[(Kind::Answer, 1, FILE), (Kind::Data, 1, b"four")], false, "more than announced"),
            (
                &[(Kind::Answer, 1, FILE), (Kind::Data, 1, b"hi"), (Kind::Eof, 1, b"")],
                false,
                "less than announced",
            ),
            (&[(Kind::Answer, 1, FILE), (Kind::Answer, 1, FILE)], false, "announced twice"),
            (&[(Kind::Answer, 2, FILE)], false, "another id"),
            (&[(Kind::Answer, 1, br#"{"listed":{"entries":0}}"#)], false, "another verb's answer"),
            (&[(Kind::Entries, 1, br#"{"entries":[]}"#)], false, "another verb's entries"),
            (
                &[(Kind::Answer, 1, FILE), (Kind::Trailer, 1, TRAILER)],
                false,
                "a trailer before EOF",
            ),
            (&[(Kind::Request, 1, b"{}")], false, "a client's frame"),
        ];
        for (frames, ok, why) in rows {
            let mut state = ClientState::default();
            let path = WirePath(b"x".to_vec());
            assert_eq!(state.begin(&Request::Get { path, offset: 0, version: None }), 1);
            let outcome = frames
                .iter()
                .try_for_each(|(kind, id, payload)| feed(&mut state, *kind, *id, payload));
            assert_eq!(outcome.is_ok(), *ok, "{why}: {outcome:?}");
        }
    }
}
