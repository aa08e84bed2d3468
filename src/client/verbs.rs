//! What each verb does, operand by operand.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use indicatif::HumanBytes;

use super::connect::connect;
use super::exit::{Exit, Failure, report, tell};
use super::local::{Destination, Input, Stdout};
use super::operand::{Remote, Server};
use super::progress::Bar;
use super::session::Session;
use super::settings::Settings;
use crate::access::Overwrite;
use crate::fsroot::Parents;
use crate::proto::{Entry, EntryType, FileInfo, PutRequest, WirePath};
use crate::transfer::Incoming;
use crate::types::{Escaped, RelPath};

/// Entries that are sorted before they are printed; a directory that holds more is printed as it comes.
const SORTED_MAX: usize = 100_000;

/// What `put` and `get` are told besides their operands.
#[derive(Clone, Copy, Debug)]
pub struct Copying {
    /// Keep mode and time of modification.
    pub preserve: bool,
    /// Refuse to replace a file.
    pub no_clobber: bool,
}

/// Runs a verb's operands one after the other and keeps count of what failed.
pub struct Job {
    settings: Settings,
    sessions: HashMap<String, Session>,
    failed: Vec<Exit>,
    done: usize,
}

impl Job {
    /// Nothing done yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, sessions: HashMap::new(), failed: Vec::new(), done: 0 }
    }

    /// How the program ends: the one failure's code, or that some of many failed.
    fn exit(&self) -> Exit {
        match self.failed.as_slice() {
            [] => Exit::Ok,
            [first, rest @ ..] if self.done == 0 && rest.iter().all(|exit| exit == first) => *first,
            _ => Exit::Partial,
        }
    }

    fn note(&mut self, outcome: Result<(), Failure>) {
        match outcome {
            Ok(()) => self.done += 1,
            Err(failure) => {
                report(&failure);
                self.failed.push(failure.exit);
            }
        }
    }

    /// Says goodbye to all servers and gives the exit code.
    pub async fn finish(mut self) -> Exit {
        let exit = self.exit();
        for (_, session) in self.sessions.drain() {
            session.close().await;
        }
        exit
    }

    /// Runs one request on a server's connection, made when it is first needed. One that was lost, or
    /// on which something is still to be read, is not used again.
    async fn on<T>(
        &mut self,
        server: &Server,
        run: impl AsyncFnOnce(&mut Session, &Settings) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let name = server.name();
        let mut session = if let Some(session) = self.sessions.remove(&name) {
            session
        } else {
            let session = connect(server, &self.settings).await?;
            if self.settings.global.verbose {
                let (user, server) = (&session.hello.user, &session.hello.server);
                let (user, server) = (Escaped(user.as_bytes()), Escaped(server.as_bytes()));
                tell(format_args!("ftc: logged in to {name} ({server}) as {user}"));
            }
            session
        };
        let outcome = run(&mut session, &self.settings).await;
        match &outcome {
            Err(failure) if matches!(failure.exit, Exit::Connect | Exit::Protocol | Exit::Auth) => {
            }
            _ if session.is_idle() => drop(self.sessions.insert(name, session)),
            _ => {}
        }
        outcome
    }

    /// `ftc put LOCAL… [REMOTE]`
    pub async fn put(&mut self, operands: Vec<OsString>, how: Copying) -> Result<(), Failure> {
        let port = self.settings.global.port;
        let mut locals = operands;
        let target = match locals.last() {
            Some(last) if locals.len() > 1 => Remote::recognise(last, port)?,
            _ => None,
        };
        if target.is_some() {
            locals.pop();
        }
        let target = target.unwrap_or(Remote { server: None, path: Vec::new() });
        if locals.len() > 1 && !(target.path.is_empty() || target.path.ends_with(b"/")) {
            return Err(Failure::new(Exit::Usage, "several files need a directory to go to")
                .hint("end the last operand with '/'"));
        }
        let server = self.settings.server_of(&target)?;
        for local in locals {
            let outcome = self.put_one(&server, &local, &target, how).await;
            self.note(outcome);
        }
        Ok(())
    }

    async fn put_one(
        &mut self,
        server: &Server,
        local: &OsString,
        target: &Remote,
        how: Copying,
    ) -> Result<(), Failure> {
        let is_stream = local == "-";
        let input = if is_stream { Input::Stream } else { Input::open(Path::new(local))? };
        let name = Path::new(local).file_name().map(|name| name.as_bytes().to_vec());
        let path = target.target(name.as_deref().filter(|_| !is_stream))?;
        let known = input.known().cloned();
        let request = PutRequest {
            path: WirePath(path.raw_bytes().to_vec()),
            bytes: known.as_ref().map(|stat| stat.bytes),
            mode: known.as_ref().filter(|_| how.preserve).map(|stat| stat.mode),
            mtime_ns: known.as_ref().filter(|_| how.preserve).map(|stat| stat.mtime_ns),
            replace: !how.no_clobber,
            resumable: false,
            resume: None,
        };
        let shown = path.to_string();
        self.on(server, async move |session, settings| {
            let bar = Bar::new(shown.clone(), request.bytes, settings.global.quiet);
            let stored = session.put(request, input, &bar).await;
            bar.clear();
            let stored = stored.map_err(|failure| failure.doing(format!("put {shown}")))?;
            if !settings.global.quiet {
                let what = if stored.replaced { "stored, replacing" } else { "stored" };
                tell(format_args!(
                    "{what} {shown}  {}  sha256 {}",
                    HumanBytes(stored.bytes),
                    stored.sha256
                ));
            }
            Ok(())
        })
        .await
    }

    /// `ftc get REMOTE… [LOCAL]`
    pub async fn get(&mut self, operands: Vec<OsString>, how: Copying) -> Result<(), Failure> {
        let mut remotes = operands;
        let local =
            if remotes.len() > 1 { remotes.pop() } else { None }.unwrap_or_else(|| ".".into());
        let several = remotes.len() > 1;
        for remote in remotes {
            let outcome = self.get_one(&remote, &local, several, how).await;
            self.note(outcome);
        }
        Ok(())
    }

    async fn get_one(
        &mut self,
        remote: &OsString,
        local: &OsString,
        several: bool,
        how: Copying,
    ) -> Result<(), Failure> {
        let remote = Remote::parse(remote, self.settings.global.port)?;
        let server = self.settings.server_of(&remote)?;
        let Some(path) = remote.rel_path()? else {
            return Err(Failure::new(Exit::Usage, "your home is a directory")
                .hint("name a file in it; see: ftc ls"));
        };
        let shown = path.to_string();
        let doing = format!("get {shown}");
        if local == "-" {
            return self
                .on(&server, async move |session, _| {
                    let bar = Bar::new(shown, None, true);
                    let target = path.clone();
                    let taken = session
                        .get(&path, Arc::new(Stdout), |info| incoming(target, info, how), &bar)
                        .await;
                    taken.map(drop).map_err(|failure| failure.doing(doing))
                })
                .await;
        }
        let directory = if several && !local.as_bytes().ends_with(b"/") {
            slashed(local)
        } else {
            local.clone()
        };
        let destination = Destination::new(Path::new(&directory), remote.name())?;
        self.on(&server, async move |session, settings| {
            let bar = Bar::new(shown, None, settings.global.quiet);
            let name = destination.name.clone();
            let taken =
                session.get(&path, destination.tree, |info| incoming(name, info, how), &bar).await;
            bar.clear();
            let seal = taken.map_err(|failure| failure.doing(doing))?.seal();
            if !settings.global.quiet {
                tell(format_args!(
                    "got {}  {}  sha256 {}",
                    destination.shown,
                    HumanBytes(seal.bytes),
                    seal.digest
                ));
            }
            Ok(())
        })
        .await
    }

    /// `ftc ls [-l] [REMOTE…]`
    pub async fn ls(&mut self, operands: Vec<OsString>, long: bool) -> Result<(), Failure> {
        let operands = if operands.is_empty() { vec![":".into()] } else { operands };
        let several = operands.len() > 1;
        for operand in operands {
            let outcome = self.ls_one(&operand, long, several).await;
            self.note(outcome);
        }
        Ok(())
    }

    async fn ls_one(
        &mut self,
        operand: &OsString,
        long: bool,
        several: bool,
    ) -> Result<(), Failure> {
        let remote = Remote::parse(operand, self.settings.global.port)?;
        let server = self.settings.server_of(&remote)?;
        let path = remote.rel_path()?;
        let shown = Escaped(operand.as_bytes()).to_string();
        self.on(&server, async move |session, _| {
            if several {
                print(&format!("{shown}:\n"))?;
            }
            let mut waiting = Vec::new();
            let listed = session
                .list(path.as_ref(), |entries| {
                    waiting.extend(entries);
                    if waiting.len() > SORTED_MAX {
                        print_entries(&mut waiting, long)
                    } else {
                        Ok(())
                    }
                })
                .await;
            waiting.sort_by(|one, other| one.name.0.cmp(&other.name.0));
            print_entries(&mut waiting, long)?;
            listed.map_err(|failure| failure.doing(format!("list {shown}")))
        })
        .await
    }

    /// `ftc stat REMOTE…`
    pub async fn stat(&mut self, operands: Vec<OsString>) -> Result<(), Failure> {
        for operand in operands {
            let outcome = self.stat_one(&operand).await;
            self.note(outcome);
        }
        Ok(())
    }

    async fn stat_one(&mut self, operand: &OsString) -> Result<(), Failure> {
        let remote = Remote::parse(operand, self.settings.global.port)?;
        let server = self.settings.server_of(&remote)?;
        let path = remote.rel_path()?;
        let shown = path.as_ref().map_or_else(|| ".".to_owned(), RelPath::to_string);
        self.on(&server, async move |session, _| {
            let info = session
                .stat(path.as_ref())
                .await
                .map_err(|failure| failure.doing(format!("stat {shown}")))?;
            let mut text = format!("path    {shown}\ntype    {}\n", word(info.kind));
            if let Some(bytes) = info.bytes {
                text += &format!("bytes   {bytes}\n");
            }
            text += &format!("mode    {:04o}\nmtime   {}\n", info.mode, time(info.mtime_ns));
            if let Some(digest) = info.sha256 {
                text += &format!("sha256  {digest}\n");
            }
            print(&text)
        })
        .await
    }
}

fn incoming(target: RelPath, info: &FileInfo, how: Copying) -> Incoming {
    Incoming {
        target,
        announced: Some(info.bytes),
        bytes_max: u64::MAX,
        overwrite: if how.no_clobber { Overwrite::Never } else { Overwrite::Allowed },
        retain: None,
        parents: Parents::MustExist,
        mode: how.preserve.then_some(info.mode),
        mtime_ns: how.preserve.then_some(info.mtime_ns),
        keep: None,
    }
}

fn slashed(local: &OsString) -> OsString {
    let mut directory = local.clone();
    directory.push("/");
    directory
}

fn word(kind: EntryType) -> &'static str {
    match kind {
        EntryType::File => "file",
        EntryType::Directory => "directory",
        EntryType::Other => "other",
    }
}

/// A time as people and `date -d` read it, in UTC.
fn time(mtime_ns: i64) -> String {
    let (secs, nanos) = (mtime_ns.div_euclid(1_000_000_000), mtime_ns.rem_euclid(1_000_000_000));
    match u64::try_from(secs) {
        Ok(secs) => {
            let since = std::time::Duration::new(secs, u32::try_from(nanos).unwrap_or(0));
            humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
        }
        Err(_) => format!("{secs} s"), // Before 1970.
    }
}

fn print_entries(entries: &mut Vec<Entry>, long: bool) -> Result<(), Failure> {
    let mut text = String::new();
    for entry in entries.drain(..) {
        // A server's word is no path of ours: it is only ever printed, escaped.
        let name = Escaped(&entry.name.0);
        let slash = if entry.kind == EntryType::Directory { "/" } else { "" };
        if long {
            let letter = match entry.kind {
                EntryType::File => '-',
                EntryType::Directory => 'd',
                EntryType::Other => '?',
            };
            let bytes = entry.bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
            let (mode, time) = (entry.mode, time(entry.mtime_ns));
            text += &format!("{letter} {mode:04o} {bytes:>14} {time} {name}{slash}\n");
        } else {
            text += &format!("{name}{slash}\n");
        }
    }
    print(&text)
}

/// Prints data. A reader that has gone, like `head`, is no failure and ends the program quietly.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        outcome => outcome.map_err(|error| {
            Failure::new(Exit::Other, format!("write to standard output: {error}"))
        }),
    }
}
