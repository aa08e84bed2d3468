//! The server's view of a connection: which frame may come next.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Abort, ClientHello, Header, Kind, ProtocolError, PutRequest, Request, Trailer, VERSION,
    VersionRange, parse,
};

/// Puts that may be without their TRAILER at once, refused ones included.
pub const UPLOADS_MAX: usize = 8;

/// Refused puts whose stream may be without its end at once; past it the connection is closed,
/// because each one costs memory.
const STREAMS_MAX: usize = 1024;

/// The order of frames as the server enforces it, without any I/O.
///
/// Source: `docs/protocol.md`, "Opening" and "Requests".
#[derive(Debug)]
pub struct ServerState {
    greeted: bool,
    last_id: u32,
    requests_max: usize,
    /// Requests without their final frame.
    running: BTreeSet<u32>,
    /// Puts whose stream is not complete, by id.
    uploads: BTreeMap<u32, Upload>,
}

#[derive(Debug)]
struct Upload {
    announced: Option<u64>,
    received: u64,
    eof: bool,
    refused: bool,
}

/// What is to be done with the payload whose header was just read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expect {
    /// Collect it and hand it to [`ServerState::control`].
    Control,
    /// Content of an upload that is going on.
    Content,
    /// Content of an upload that was refused: drop it.
    Dropped,
}

/// What a complete control frame means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The client said who it is and chose a version.
    Hello(ClientHello),
    /// A request to carry out, which is no put.
    Request(Request),
    /// A put begins.
    Put(PutRequest),
    /// One request too many: to be refused with `LIMIT`.
    TooMany,
    /// A put's content is complete.
    Eof,
    /// A put's stream is complete: `None` when it was refused before.
    Trailer(Option<Trailer>),
    /// The client gives the request up; `false` when nothing is left to end.
    Cancelled(bool),
}

impl ServerState {
    /// The state right after the server's HELLO was queued.
    pub fn new(requests_max: usize) -> Self {
        Self {
            greeted: false,
            last_id: 0,
            requests_max,
            running: BTreeSet::new(),
            uploads: BTreeMap::new(),
        }
    }

    /// Whether the client has said HELLO.
    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether nothing is in flight, so that the connection counts as idle.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.uploads.is_empty()
    }

    /// Whether content of some put is still to come.
    pub fn awaits_content(&self) -> bool {
        !self.uploads.is_empty()
    }

    /// Whether a request has not had its final frame.
    pub fn is_running(&self, id: u32) -> bool {
        self.running.contains(&id)
    }

    /// Judges a header by the frames before it.
    ///
    /// # Errors
    /// Final for the connection.
    pub fn header(&mut self, header: &Header) -> Result<Expect, ProtocolError> {
        let Header { kind, id, payload_bytes } = *header;
        let refuse = |rule| Err(ProtocolError::OutOfOrder { kind, id, rule });
        if !self.greeted {
            return if (kind, id) == (Kind::Hello, 0) {
                Ok(Expect::Control)
            } else {
                refuse("a connection opens with HELLO on id 0")
            };
        }
        match kind {
            Kind::Hello => refuse("HELLO was said before"),
            Kind::Answer | Kind::Entries | Kind::Error => refuse("only a server sends this"),
            Kind::Packed => refuse("compression was not asked for"),
            Kind::Request if id <= self.last_id => refuse("ids grow with every request"),
            Kind::Cancel if id == 0 || id > self.last_id => refuse("no such request"),
            Kind::Request | Kind::Cancel => Ok(Expect::Control),
            Kind::Data | Kind::Eof | Kind::Trailer | Kind::Abort => {
                let Some(upload) = self.uploads.get_mut(&id) else {
                    return refuse("no put is open under this id");
                };
                match kind {
                    Kind::Data if upload.eof => refuse("content after EOF"),
                    Kind::Data => {
                        upload.received = upload.received.saturating_add(payload_bytes.into());
                        if upload.announced.is_some_and(|announced| upload.received > announced) {
                            return refuse("more content than announced");
                        }
                        Ok(if upload.refused { Expect::Dropped } else { Expect::Content })
                    }
                    Kind::Eof if upload.eof => refuse("a second EOF"),
                    Kind::Trailer if !upload.eof => refuse("a trailer before EOF"),
                    _ => Ok(Expect::Control),
                }
            }
        }
    }

    /// Reads a control frame whose header was let through.
    ///
    /// # Errors
    /// Final for the connection.
    pub fn control(&mut self, header: &Header, payload: &[u8]) -> Result<Event, ProtocolError> {
        let Header { kind, id, .. } = *header;
        match kind {
            Kind::Hello => {
                let hello: ClientHello = parse(kind, payload)?;
                let offered = hello.version;
                VERSION
                    .common(VersionRange { min: offered, max: offered })
                    .ok_or(ProtocolError::Version { offered })?;
                self.greeted = true;
                Ok(Event::Hello(hello))
            }
            Kind::Request => self.request(id, parse(kind, payload)?),
            Kind::Eof => {
                if let Some(upload) = self.uploads.get_mut(&id) {
                    upload.eof = true;
                }
                Ok(Event::Eof)
            }
            Kind::Trailer => {
                let trailer: Trailer = parse(kind, payload)?;
                let upload = self.uploads.remove(&id);
                let refused = upload.as_ref().is_none_or(|upload| upload.refused);
                if !refused && upload.is_some_and(|upload| upload.received != trailer.bytes) {
                    let rule = "the trailer's length is not what was sent";
                    return Err(ProtocolError::OutOfOrder { kind, id, rule });
                }
                Ok(Event::Trailer((!refused).then_some(trailer)))
            }
            Kind::Abort => {
                let _: Abort = parse(kind, payload)?;
                Ok(self.give_up(id))
            }
            Kind::Cancel => Ok(self.give_up(id)),
            Kind::Data | Kind::Packed | Kind::Answer | Kind::Entries | Kind::Error => {
                Err(ProtocolError::OutOfOrder { kind, id, rule: "not a control frame of a client" })
            }
        }
    }

    fn request(&mut self, id: u32, request: Request) -> Result<Event, ProtocolError> {
        self.last_id = id;
        let Request::Put(put) = request else {
            return Ok(if self.admit(id, true) { Event::Request(request) } else { Event::TooMany });
        };
        if self.uploads.len() >= STREAMS_MAX {
            let rule = "too many refused puts are without their end";
            return Err(ProtocolError::OutOfOrder { kind: Kind::Request, id, rule });
        }
        let open = self.uploads.values().filter(|upload| !upload.refused).count();
        let refused = !self.admit(id, open < UPLOADS_MAX);
        // Lengths are of the whole content: what is continued counts what was there.
        let received = put.resume.as_ref().map_or(0, |resume| resume.offset);
        let announced = put.bytes;
        self.uploads.insert(id, Upload { announced, received, eof: false, refused });
        Ok(if refused { Event::TooMany } else { Event::Put(put) })
    }

    fn admit(&mut self, id: u32, has_room: bool) -> bool {
        let admitted = has_room && self.running.len() < self.requests_max;
        if admitted {
            self.running.insert(id);
        }
        admitted
    }

    fn give_up(&mut self, id: u32) -> Event {
        self.uploads.remove(&id);
        Event::Cancelled(self.running.contains(&id))
    }

    /// Notes that the final frame of a request was queued. What still comes of its stream is dropped.
    pub fn finished(&mut self, id: u32) {
        self.running.remove(&id);
        if let Some(upload) = self.uploads.get_mut(&id) {
            upload.refused = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    fn header(kind: Kind, id: u32, payload: &[u8]) -> Header {
        Header { kind, id, payload_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX) }
    }

    /// Feeds one frame as the session does.
    fn feed(
        state: &mut ServerState,
        kind: Kind,
        id: u32,
        payload: &[u8],
    ) -> Result<Option<Event>, ProtocolError> {
        let header = header(kind, id, payload);
        match state.header(&header)? {
            Expect::Control => state.control(&header, payload).map(Some),
            Expect::Content | Expect::Dropped => Ok(None),
        }
    }

    fn greeted() -> Result<ServerState, ProtocolError> {
        let mut state = ServerState::new(2);
        feed(&mut state, Kind::Hello, 0, br#"{"version":1}"#)?;
        Ok(state)
    }

    const PUT: &[u8] = br#"{"verb":"put","path":"x","bytes":3}"#;
    const RESUMED: &[u8] =
        br#"{"verb":"put","path":"x","bytes":3,"resume":{"upload":"0","offset":2}}"#;
    const TRAILER: &[u8] = br#"{"bytes":3,"sha256":"98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4"}"#;

    #[test]
    fn a_put_goes_through_its_steps_and_leaves_nothing() -> TestResult {
        let mut state = greeted()?;
        assert!(matches!(feed(&mut state, Kind::Request, 1, PUT)?, Some(Event::Put(_))));
        assert_eq!(state.header(&header(Kind::Data, 1, b"hi\n"))?, Expect::Content);
        assert_eq!(feed(&mut state, Kind::Eof, 1, b"")?, Some(Event::Eof));
        assert!(matches!(
            feed(&mut state, Kind::Trailer, 1, TRAILER)?,
            Some(Event::Trailer(Some(_)))
        ));
        assert!(!state.is_idle());
        state.finished(1);
        assert!(state.is_idle());
        Ok(())
    }

    #[test]
    fn a_refused_put_is_dropped_until_its_end() -> TestResult {
        for end in [Kind::Cancel, Kind::Abort, Kind::Trailer] {
            let mut state = greeted()?;
            feed(&mut state, Kind::Request, 1, PUT)?;
            state.finished(1);
            assert_eq!(state.header(&header(Kind::Data, 1, b"hi\n"))?, Expect::Dropped);
            let event = match end {
                Kind::Cancel => feed(&mut state, end, 1, b"")?,
                Kind::Abort => feed(&mut state, end, 1, b"{}")?,
                _ => {
                    feed(&mut state, Kind::Eof, 1, b"")?;
                    feed(&mut state, end, 1, TRAILER)?
                }
            };
            assert!(matches!(event, Some(Event::Cancelled(false) | Event::Trailer(None))));
            assert!(state.is_idle());
        }
        Ok(())
    }

    /// Goal: a right frame in a wrong place ends the connection. Method: one row per breach (F-05 to F-07).
    #[test]
    fn frames_out_of_order_are_refused() -> TestResult {
        type Frames = &'static [(Kind, u32, &'static [u8])];
        let get: &[u8] = br#"{"verb":"get","path":"x"}"#;
        let rows: &[(Frames, &str)] = &[
            (&[(Kind::Hello, 0, br#"{"version":1}"#)], "HELLO twice"),
            (&[(Kind::Data, 1, b"x")], "content without a put"),
            (&[(Kind::Eof, 1, b"")], "EOF without a put"),
            (&[(Kind::Request, 0, PUT)], "a request on id 0"),
            (&[(Kind::Request, 1, PUT), (Kind::Request, 1, PUT)], "an id again"),
            (&[(Kind::Request, 2, PUT), (Kind::Request, 1, PUT)], "an id that shrinks"),
            (&[(Kind::Request, 1, PUT), (Kind::Data, 1, b"four")], "more than announced"),
            (&[(Kind::Request, 1, PUT), (Kind::Trailer, 1, TRAILER)], "trailer before EOF"),
            (
                &[
                    (Kind::Request, 1, PUT),
                    (Kind::Data, 1, b"hi"),
                    (Kind::Eof, 1, b""),
                    (Kind::Trailer, 1, TRAILER),
                ],
                "less than the trailer says",
            ),
            (&[(Kind::Request, 1, PUT), (Kind::Eof, 1, b""), (Kind::Eof, 1, b"")], "EOF twice"),
            (
                &[(Kind::Request, 1, PUT), (Kind::Eof, 1, b""), (Kind::Data, 1, b"x")],
                "content after EOF",
            ),
            (&[(Kind::Request, 1, RESUMED), (Kind::Data, 1, b"xx")], "more, with what was there"),
            (
                &[(Kind::Request, 1, RESUMED), (Kind::Eof, 1, b""), (Kind::Trailer, 1, TRAILER)],
                "less, with what was there",
            ),
            (&[(Kind::Cancel, 1, b"")], "cancel of the future"),
            (&[(Kind::Answer, 1, b"{}")], "a server's frame"),
            (&[(Kind::Error, 0, b"{}")], "a server's frame"),
            (&[(Kind::Request, 1, b"{}")], "no verb"),
            (&[(Kind::Request, 1, b"[1")], "no JSON"),
        ];
        assert_ne!(get, PUT);
        for (frames, why) in rows {
            let mut state = greeted()?;
            let outcome = frames.iter().try_for_each(|(kind, id, payload)| {
                feed(&mut state, *kind, *id, payload).map(|_| ())
            });
            assert!(outcome.is_err(), "{why}");
        }
        let mut silent = ServerState::new(2);
        assert!(feed(&mut silent, Kind::Request, 1, get).is_err(), "a request before HELLO");
        assert!(
            feed(&mut silent, Kind::Hello, 0, br#"{"version":2}"#).is_err(),
            "a version not spoken"
        );
        Ok(())
    }

    #[test]
    fn requests_past_the_limit_are_refused_and_the_connection_goes_on() -> TestResult {
        let mut state = greeted()?;
        let get = br#"{"verb":"get","path":"x"}"#;
        assert!(matches!(feed(&mut state, Kind::Request, 1, get)?, Some(Event::Request(_))));
        assert!(matches!(feed(&mut state, Kind::Request, 2, get)?, Some(Event::Request(_))));
        assert_eq!(feed(&mut state, Kind::Request, 3, get)?, Some(Event::TooMany));
        assert_eq!(feed(&mut state, Kind::Request, 4, PUT)?, Some(Event::TooMany));
        assert_eq!(state.header(&header(Kind::Data, 4, b"hi\n"))?, Expect::Dropped);
        state.finished(1);
        assert!(matches!(feed(&mut state, Kind::Request, 5, get)?, Some(Event::Request(_))));
        Ok(())
    }
}
