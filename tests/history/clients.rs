//! Clients of every kind, who write down what they did, what they were told, and when.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

use serde_json::{Value, json};

use crate::check::{Deed, Event, NAMES};
use crate::support::raw::{
    ABORT, ANSWER, DATA, EOF, ERROR, Frame, HELLO, REQUEST, Raw, TRAILER, frame, receive_from,
    trailer,
};
use crate::support::{PATIENCE, noise, sha256};

/// What a client may not go on after: the message says what the daemon did wrong.
pub type Fault = String;

const MIB: u32 = 1 << 20;

/// Contents, each of which tells by itself which it is: no two have one length.
pub struct Contents {
    pool: Vec<u8>,
    next: AtomicU32,
}

impl Contents {
    pub fn new() -> Self {
        Self { pool: noise(8 << 20, 11), next: AtomicU32::new(1) }
    }

    /// The number of a content that nobody has put.
    fn fresh(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Every twentieth has several MiB.
    fn length(number: u32) -> u32 {
        if number.is_multiple_of(20) { (2 + number / 20 % 3) * MIB + number } else { 64 + number }
    }

    pub fn of(&self, number: u32) -> Vec<u8> {
        let from = number as usize * 64 % MIB as usize;
        let mut content = self.pool[from..from + Self::length(number) as usize].to_vec();
        content[..4].copy_from_slice(&number.to_be_bytes());
        content
    }

    /// Which content this is, if it is one, whole.
    pub fn number(&self, content: &[u8]) -> Option<u32> {
        let number = u32::from_be_bytes(content.get(..4)?.try_into().ok()?);
        let is_known = number < self.next.load(Ordering::Relaxed);
        (is_known && self.of(number) == content).then_some(number)
    }

    fn number_of_length(length: u64) -> u32 {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        if length < MIB { length.saturating_sub(64) } else { length % MIB }
    }
}

/// What a client of this kind does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    Writer,
    Reader,
    Mover,
    Remover,
    /// The program, behind a network that cuts its connections.
    Program,
}

/// How a daemon could lie; no real one is to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lie {
    /// It acknowledges puts that it does not store.
    Lost,
    /// It says "stored" where a name was taken.
    Forged,
}

/// What all clients of one life of a daemon share.
pub struct Scene<'a> {
    pub contents: &'a Contents,
    pub socket: PathBuf,
    pub start: Instant,
    /// Reads of a complete version so far.
    pub whole: &'a AtomicUsize,
    /// Whether the daemon has ended.
    pub gone: &'a AtomicBool,
}

impl Scene<'_> {
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Pairs of names.
pub const PAIRS: usize = 3;

/// A name: of which pair, and which of the two.
#[derive(Clone, Copy)]
pub struct Name {
    pub pair: usize,
    pub of: usize,
}

pub fn path(name: Name) -> String {
    format!("name{}-{}", name.pair, name.of)
}

/// How a request ended.
enum End {
    Told(Frame),
    /// The connection was lost, by whomever.
    Lost,
}

/// One client and its notes.
pub struct Client<'a> {
    scene: &'a Scene<'a>,
    role: Role,
    raw: Option<Raw>,
    id: u32,
    random: u64,
    pub lie: Option<Lie>,
    /// Of each pair.
    pub events: [Vec<Event>; PAIRS],
}

impl<'a> Client<'a> {
    pub fn new(scene: &'a Scene<'a>, role: Role, seed: u64) -> Self {
        Self {
            scene,
            role,
            raw: None,
            id: 0,
            random: seed | 1,
            lie: None,
            events: Default::default(),
        }
    }

    /// Works until the daemon is gone, and tells of each operation.
    pub fn work(&mut self, done: &Sender<()>) -> Result<(), Fault> {
        // A proxy takes connections whether or not the daemon is there.
        let is_program = self.role == Role::Program;
        while if is_program { !self.scene.gone.load(Ordering::Relaxed) } else { self.connect()? } {
            match self.role {
                Role::Writer => self.put()?,
                Role::Reader => self.read()?,
                Role::Mover => self.rename()?,
                Role::Remover => self.remove()?,
                Role::Program => self.program()?,
            }
            let _ = done.send(()); // Whoever counts them may have counted enough.
        }
        Ok(())
    }

    fn below(&mut self, most: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u32::try_from(self.random >> 33).unwrap_or(0) % most
    }

    fn name(&mut self) -> Name {
        let number = self.below(u32::try_from(PAIRS * NAMES).unwrap_or(1)) as usize;
        Name { pair: number / NAMES, of: number % NAMES }
    }

    /// Whether there is a connection; none can be had when the daemon is gone or going.
    fn connect(&mut self) -> Result<bool, Fault> {
        if self.raw.is_some() {
            return Ok(true);
        }
        let Ok(stream) = std::os::unix::net::UnixStream::connect(&self.scene.socket) else {
            return Ok(false);
        };
        let patience = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        patience.map_err(|error| error.to_string())?;
        let mut raw = Raw(stream);
        match raw.receive() {
            Ok(Some(hello)) if hello.kind == HELLO => {}
            Ok(_) => return Ok(false),
            Err(error) => return lost(error.as_ref()).map(|_| false),
        }
        if raw.send(HELLO, 0, br#"{"version":1}"#).is_err() {
            return Ok(false);
        }
        (self.raw, self.id) = (Some(raw), 0);
        Ok(true)
    }

    fn note(&mut self, name: Name, call: u64, end: Option<u64>, deed: Deed) {
        self.events[name.pair].push(Event { call, end, deed });
    }

    /// Sends, and gives up the connection if that cannot be done or if `cuts`.
    fn send(&mut self, bytes: &[u8], cuts: bool) -> bool {
        let sent = self.raw.as_mut().is_some_and(|raw| raw.bytes(bytes).is_ok());
        if !sent || cuts {
            self.raw = None;
        }
        sent && !cuts
    }

    /// The next frame of the request that is under way.
    fn told(&mut self) -> Result<End, Fault> {
        let Some(raw) = &mut self.raw else { return Ok(End::Lost) };
        let received = match receive_from(&mut raw.0) {
            Ok(Some(frame)) if frame.id == self.id => return Ok(End::Told(frame)),
            // The connection as a whole is at its end.
            Ok(Some(frame)) if (frame.id, frame.kind) == (0, ERROR) => Ok(End::Lost),
            Ok(Some(frame)) => Err(format!("nobody asked for {frame:?}")),
            Ok(None) => Ok(End::Lost),
            Err(error) => lost(error.as_ref()),
        };
        self.raw = None;
        received
    }

    /// Sends one request of a change and notes what came of it.
    fn change(
        &mut self,
        request: &Value,
        name: Name,
        deed: Deed,
        taken: Deed,
    ) -> Result<(), Fault> {
        let cuts = self.below(20) == 0;
        self.id += 1;
        let call = self.scene.now();
        self.send(&frame(REQUEST, self.id, request.to_string().as_bytes()), cuts);
        let end = self.told()?;
        let seen = match &end {
            End::Told(frame) if frame.kind == ANSWER => Some(deed),
            End::Told(frame) if frame.code() == "NOT_FOUND" => {
                Some(Deed::Is { name: name.of, content: None })
            }
            End::Told(frame) if frame.code() == "EXISTS" && request["replace"] == false => {
                Some(taken)
            }
            End::Told(frame) if frame.code() == "BUSY" => return Ok(()), // It has not happened.
            End::Told(frame) if is_open(frame) => None,
            End::Told(frame) => return Err(format!("{request}: {}", frame.json())),
            End::Lost => None,
        };
        let now = self.scene.now();
        match seen {
            Some(deed) => self.note(name, call, Some(now), deed),
            None => self.note(name, call, None, deed),
        }
        Ok(())
    }

    fn rename(&mut self) -> Result<(), Fault> {
        let (name, replaces) = (self.name(), self.below(2) == 0);
        let (from, to) = (name.of, 1 - name.of);
        let other = path(Name { of: to, ..name });
        let request =
            json!({"verb": "rename", "path": path(name), "to": other, "replace": replaces});
        let deed = Deed::Rename { from, to, replaces };
        self.change(&request, name, deed, Deed::BothTaken { from, to })
    }

    fn remove(&mut self) -> Result<(), Fault> {
        let name = self.name();
        let request = json!({"verb": "remove", "path": path(name)});
        self.change(&request, name, Deed::Remove { name: name.of }, Deed::Taken { name: name.of })
    }

    fn put(&mut self) -> Result<(), Fault> {
        let (name, creates) = (self.name(), self.below(3) == 0);
        let number = self.scene.contents.fresh();
        let content = self.scene.contents.of(number);
        self.id += 1;
        let request = json!({"verb": "put", "path": path(name), "replace": !creates}).to_string();
        let mut frames = frame(REQUEST, self.id, request.as_bytes());
        for piece in content.chunks(MIB as usize) {
            frames.extend(frame(DATA, self.id, piece));
        }
        let cuts = self.below(40) == 0;
        if cuts {
            frames.truncate(self.below(u32::try_from(frames.len()).unwrap_or(1)) as usize);
        }
        let deed = Deed::Put { name: name.of, content: number, creates };
        let asked = self.scene.now();
        if self.lie == Some(Lie::Lost) {
            let instead = json!({"verb": "stat"}).to_string();
            self.send(&frame(REQUEST, self.id, instead.as_bytes()), false);
            if let End::Told(_) = self.told()? {
                self.note(name, asked, Some(self.scene.now()), deed);
            }
            return Ok(());
        }
        if !self.send(&frames, cuts) {
            return Ok(()); // Its end was not sent, so that it is never stored.
        }
        let ends = [frame(EOF, self.id, b""), frame(TRAILER, self.id, &trailer(&content))].concat();
        let (call, cuts) = (self.scene.now(), self.below(20) == 0);
        self.send(&ends, cuts);
        let end = self.told()?;
        let now = self.scene.now();
        match &end {
            End::Told(frame) if frame.kind == ANSWER => self.note(name, call, Some(now), deed),
            End::Told(frame) if frame.code() == "EXISTS" && creates => {
                let is_forged = self.lie == Some(Lie::Forged);
                let deed = if is_forged { deed } else { Deed::Taken { name: name.of } };
                self.note(name, asked, Some(now), deed);
            }
            End::Told(frame) if is_open(frame) => self.note(name, call, None, deed),
            End::Told(frame) => return Err(format!("{request}: {}", frame.json())),
            End::Lost => self.note(name, call, None, deed),
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), Fault> {
        if self.below(3) == 0 { self.stat() } else { self.get() }
    }

    fn stat(&mut self) -> Result<(), Fault> {
        let name = self.name();
        self.id += 1;
        let request = json!({"verb": "stat", "path": path(name)}).to_string();
        let call = self.scene.now();
        self.send(&frame(REQUEST, self.id, request.as_bytes()), false);
        let End::Told(frame) = self.told()? else { return Ok(()) };
        let now = self.scene.now();
        let stat = &frame.json()["stat"];
        if frame.kind == ANSWER {
            let number = Contents::number_of_length(stat["bytes"].as_u64().unwrap_or(0));
            if let Some(digest) = stat["sha256"].as_str()
                && digest != sha256(&self.scene.contents.of(number))
            {
                return Err(format!("{request}: the digest is not that of the length: {stat}"));
            }
            self.note(name, call, Some(now), Deed::Is { name: name.of, content: Some(number) });
        } else if frame.code() == "NOT_FOUND" {
            self.note(name, call, Some(now), Deed::Is { name: name.of, content: None });
        } else if !is_open(&frame) {
            return Err(format!("{request}: {}", frame.json()));
        }
        Ok(())
    }

    /// What is announced was there between the request and the announcement; its content comes after.
    fn get(&mut self) -> Result<(), Fault> {
        let (name, gives_up) = (self.name(), self.below(40) == 0);
        self.id += 1;
        let request = json!({"verb": "get", "path": path(name)}).to_string();
        let call = self.scene.now();
        self.send(&frame(REQUEST, self.id, request.as_bytes()), false);
        let mut content = Vec::new();
        let mut announced = None;
        loop {
            let End::Told(frame) = self.told()? else { return Ok(()) };
            match frame.kind {
                ANSWER => announced = Some(self.scene.now()),
                DATA if gives_up => {
                    self.raw = None;
                    return Ok(());
                }
                DATA => content.extend(&frame.payload),
                EOF => {}
                TRAILER => {
                    let number = self.scene.contents.number(&content).ok_or_else(|| {
                        format!("torn: {} bytes of {request} are no content", content.len())
                    })?;
                    if frame.json()["sha256"] != sha256(&content) {
                        return Err(format!("{request}: another digest: {}", frame.json()));
                    }
                    self.scene.whole.fetch_add(1, Ordering::Relaxed);
                    self.note(
                        name,
                        call,
                        announced,
                        Deed::Is { name: name.of, content: Some(number) },
                    );
                    return Ok(());
                }
                _ if frame.code() == "NOT_FOUND" => {
                    let now = self.scene.now();
                    self.note(name, call, Some(now), Deed::Is { name: name.of, content: None });
                    return Ok(());
                }
                _ if is_open(&frame) => return Ok(()),
                _ => return Err(format!("{request}: {}", frame.json())),
            }
        }
    }

    /// One run of the program.
    fn program(&mut self) -> Result<(), Fault> {
        let (name, puts) = (self.name(), self.below(2) == 0);
        let remote = format!(":{}", path(name));
        let (number, call) = (self.scene.contents.fresh(), self.scene.now());
        let content = if puts { self.scene.contents.of(number) } else { Vec::new() };
        let words = if puts { ["put", "-", &remote] } else { ["get", &remote, "-"] };
        let (code, out, err) =
            run_program(&self.scene.socket, &words, content).map_err(|error| error.to_string())?;
        let end = Some(self.scene.now());
        let put = Deed::Put { name: name.of, content: number, creates: false };
        match (code, puts) {
            (Some(0), true) => self.note(name, call, end, put),
            (Some(0), false) => {
                let number = self.scene.contents.number(&out);
                let number = number.ok_or_else(|| format!("torn: {} bytes of a get", out.len()))?;
                self.scene.whole.fetch_add(1, Ordering::Relaxed);
                self.note(name, call, end, Deed::Is { name: name.of, content: Some(number) });
            }
            (Some(6), false) => {
                self.note(name, call, end, Deed::Is { name: name.of, content: None });
            }
            // No connection, or one that was cut.
            (Some(1 | 3), true) => self.note(name, call, None, put),
            (Some(1 | 3), false) => {}
            _ => return Err(format!("ftc {words:?}: exit {code:?}: {err}")),
        }
        Ok(())
    }
}

fn run_program(
    socket: &Path,
    words: &[&str],
    input: Vec<u8>,
) -> std::io::Result<(Option<i32>, Vec<u8>, String)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ftc"))
        .env_clear()
        .env("HOME", socket.parent().unwrap_or(socket))
        .env("FTC_SERVER", format!("unix:{}", socket.display()))
        .env("FTC_RETRY", "0s")
        .arg("-q")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may stop reading, which its exit code tells.
        std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    }
    let output = child.wait_with_output()?;
    Ok((output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Whether an end says nothing about what was done.
fn is_open(frame: &Frame) -> bool {
    frame.kind == ABORT
        || frame.kind == ERROR && ["SHUTDOWN", "UNKNOWN_OUTCOME"].contains(&frame.code().as_str())
}

/// A connection that is cut is what is to be expected; one that says nothing any more is not.
fn lost(error: &(dyn std::error::Error + 'static)) -> Result<End, Fault> {
    let hangs = error.downcast_ref::<std::io::Error>().is_some_and(|error| {
        matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
    });
    if hangs { Err(format!("no answer within {PATIENCE:?}")) } else { Ok(End::Lost) }
}
