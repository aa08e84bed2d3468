//! A peer that sends whatever a test likes, byte by byte, over the Unix socket.

use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use super::{Daemon, PATIENCE, sha256, uninterrupted};

pub const HELLO: u8 = 1;
pub const REQUEST: u8 = 2;
pub const DATA: u8 = 3;
pub const EOF: u8 = 4;
pub const TRAILER: u8 = 5;
pub const ABORT: u8 = 6;
pub const CANCEL: u8 = 7;
pub const ANSWER: u8 = 8;
pub const ENTRIES: u8 = 9;
pub const ERROR: u8 = 10;
pub const PACKED: u8 = 11;

pub struct Raw(pub UnixStream);

#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub kind: u8,
    pub id: u32,
    pub payload: Vec<u8>,
}

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

pub fn frame(kind: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, 0];
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(payload);
    out
}

pub fn trailer(content: &[u8]) -> Vec<u8> {
    format!("{{\"bytes\":{},\"sha256\":\"{}\"}}", content.len(), sha256(content)).into_bytes()
}

/// A whole put as a client sends it.
pub fn put(id: u32, path: &Value, content: &[u8]) -> Vec<u8> {
    let mut out =
        frame(REQUEST, id, serde_json::json!({"verb": "put", "path": path}).to_string().as_bytes());
    for chunk in content.chunks(1 << 20) {
        out.extend(frame(DATA, id, chunk));
    }
    out.extend(frame(EOF, id, b""));
    out.extend(frame(TRAILER, id, &trailer(content)));
    out
}

/// Whole puts of small files with their sizes announced, as a client sends a tree: all at once.
pub fn puts(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (id, (path, content)) in (1..).zip(files) {
        let request = serde_json::json!({"verb": "put", "path": path, "bytes": content.len()});
        out.extend(frame(REQUEST, id, request.to_string().as_bytes()));
        out.extend(frame(DATA, id, content));
        out.extend(frame(EOF, id, b""));
        out.extend(frame(TRAILER, id, &trailer(content)));
    }
    out
}

/// The next frame; `None` when the server has closed.
pub fn receive_from(from: &mut impl Read) -> Fallible<Option<Frame>> {
    let mut header = [0; 12];
    let mut filled = 0;
    while filled < header.len() {
        match uninterrupted(|| from.read(&mut header[filled..])) {
            Ok(0) => return if filled == 0 { Ok(None) } else { Err("cut in a header".into()) },
            Ok(read) => filled += read,
            // Closed with bytes of ours unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let [kind, 0, 0, 0, i0, i1, i2, i3, n0, n1, n2, n3] = header else {
        return Err("reserved bits are set".into());
    };
    let mut payload = vec![0; u32::from_be_bytes([n0, n1, n2, n3]) as usize];
    from.read_exact(&mut payload)?;
    Ok(Some(Frame { kind, id: u32::from_be_bytes([i0, i1, i2, i3]), payload }))
}

impl Frame {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or(Value::Null)
    }

    /// The code of an error frame, or the kind of frame that it is instead.
    pub fn code(&self) -> String {
        match self.kind {
            ERROR => self.json()["code"].as_str().unwrap_or("?").to_owned(),
            kind => format!("frame {kind}"),
        }
    }
}

impl Raw {
    /// Connects, and reads the server's HELLO.
    pub fn connect(daemon: &Daemon) -> Fallible<Self> {
        let mut raw = Self::silent(daemon)?;
        let hello = raw.receive()?.ok_or("closed before HELLO")?;
        if (hello.kind, hello.id) != (HELLO, 0) {
            return Err(format!("not HELLO: {hello:?}").into());
        }
        Ok(raw)
    }

    /// Connects and says HELLO.
    pub fn greeted(daemon: &Daemon) -> Fallible<Self> {
        let mut raw = Self::connect(daemon)?;
        raw.send(HELLO, 0, br#"{"version":1}"#)?;
        Ok(raw)
    }

    pub fn silent(daemon: &Daemon) -> Fallible<Self> {
        let stream = UnixStream::connect(daemon.path("sock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Fallible<()> {
        Ok(self.0.write_all(bytes)?)
    }

    pub fn send(&mut self, kind: u8, id: u32, payload: &[u8]) -> Fallible<()> {
        self.bytes(&frame(kind, id, payload))
    }

    pub fn request(&mut self, id: u32, request: &Value) -> Fallible<()> {
        self.send(REQUEST, id, request.to_string().as_bytes())
    }

    /// The next frame; `None` when the server has closed.
    pub fn receive(&mut self) -> Fallible<Option<Frame>> {
        receive_from(&mut self.0)
    }

    /// The next frame, which must be there.
    pub fn expect(&mut self) -> Fallible<Frame> {
        self.receive()?.ok_or_else(|| "the server closed".into())
    }

    /// Sends a request and gives the code of its answer; the connection must be usable afterwards.
    pub fn code_of(&mut self, id: u32, request: &Value) -> Fallible<String> {
        self.request(id, request)?;
        Ok(self.expect()?.code())
    }

    /// Expects ERROR `code` on id 0 and the end of the connection.
    pub fn expect_closed(&mut self, code: &str) -> Fallible<()> {
        let frame = self.expect()?;
        if (frame.id, frame.code().as_str()) != (0, code) {
            return Err(format!("not closed with {code}: {frame:?} {}", frame.json()).into());
        }
        match self.receive()? {
            None => Ok(()),
            Some(frame) => Err(format!("not closed after {code}: {frame:?}").into()),
        }
    }
}
