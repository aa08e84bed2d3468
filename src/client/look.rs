//! `ls` and `stat`: what is there.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::sync::Arc;

use serde::Serialize;
use tokio::task::JoinSet;

use super::engine::wire;
use super::exit::{Exit, Failure};
use super::held::Held;
use super::job::Job;
use super::operand::Server;
use super::remote::{Named, child, expand, stat as stat_one};
use super::{json_line, print, print_raw};
use crate::proto::{Answer, Entry, EntryType, Request, StatInfo, WirePath};
use crate::types::{ErrorCode, Escaped, RelPath, Sha256Digest};

/// Entries that are sorted before they are printed; a directory that holds more is printed as it comes.
const SORTED_MAX: usize = 100_000;
/// Bytes that are printed at once, or a little more.
const PRINTED_MAX: usize = 64 * 1024;
/// Digests that are asked for at once.
const AT_ONCE: usize = 128;

/// What is printed of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Also type, mode, size and time.
    pub long: bool,
    /// Also what is below.
    pub recursive: bool,
    /// Digests, as sha256sum prints them.
    pub sha256: bool,
}

/// An entry as a JSON object.
#[derive(Serialize)]
struct Row<'a> {
    path: WirePath,
    #[serde(rename = "type")]
    kind: EntryType,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    mode: u32,
    mtime_ns: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<&'a Sha256Digest>,
}

/// `ftc ls [-lR] [--sha256] [REMOTE…]`
pub async fn ls(job: &Arc<Job>, operands: Vec<OsString>, look: Look) {
    let operands = if operands.is_empty() { vec![":".into()] } else { operands };
    let several = operands.len() > 1;
    let is_terminal = std::io::stdout().is_terminal();
    for operand in operands {
        let expanded = async {
            let (server, remote) = job.remote(&operand)?;
            Ok((expand(job, &server, &remote).await?, server))
        };
        let (names, server) = match expanded.await {
            Ok(expanded) => expanded,
            Err(failure) => {
                job.note(None, Err(failure));
                continue;
            }
        };
        let several = several || names.len() > 1;
        for named in names {
            let lister = Lister { job: Arc::clone(job), server: server.clone(), look, is_terminal };
            let shown = named.path.as_ref().map_or_else(|| ".".to_owned(), RelPath::to_string);
            let outcome = lister.operand(&named, several).await;
            job.note(
                None,
                outcome.map_err(|failure| {
                    let failure = failure.doing(format!("list {shown}"));
                    job.settings.recognise_server(&operand, failure)
                }),
            );
        }
    }
}

struct Lister {
    job: Arc<Job>,
    server: Server,
    look: Look,
    is_terminal: bool,
}

impl Lister {
    async fn operand(&self, named: &Named, several: bool) -> Result<(), Failure> {
        if named.kind.is_none_or(|kind| kind == EntryType::Directory) {
            match self.directory(named.path.as_ref(), several || self.look.recursive).await {
                // It is a file: then that is all there is.
                Err(failure) if failure.code == Some(ErrorCode::WrongType) => {}
                outcome => return outcome,
            }
        }
        let Some(path) = &named.path else { return Ok(()) };
        let StatInfo { kind, bytes, mode, mtime_ns, sha256 } =
            stat_one(&self.job, &self.server, Some(path)).await?;
        let name = WirePath(path.raw_bytes().to_vec());
        let sha256 = match (sha256, self.look.sha256 && kind == EntryType::File) {
            (None, true) => Some(digest(&self.job, &self.server, path).await?),
            (known, _) => known.filter(|_| self.look.sha256),
        };
        let entry = Entry { name, kind, bytes, mode, mtime_ns };
        print_raw(&self.line(None, &entry, sha256.as_ref()));
        Ok(())
    }

    /// One directory, and with -R those below, each sorted by name.
    async fn directory(&self, top: Option<&RelPath>, heading: bool) -> Result<(), Failure> {
        let mut pending = vec![top.cloned()];
        let mut held = Held::default();
        let mut first = true;
        while let Some(path) = pending.pop() {
            held.release(path.as_ref().map_or(b"", RelPath::raw_bytes));
            let plain = !self.job.settings.global.json && !self.look.sha256;
            let heading = if heading && plain {
                let shown = path.as_ref().map_or_else(|| ".".to_owned(), RelPath::to_string);
                let gap = if first { "" } else { "\n" };
                format!("{gap}{shown}:\n")
            } else {
                String::new()
            };
            let listed = self.entries(path.as_ref(), &heading, &mut pending, &mut held).await;
            listed.or_else(|failure| {
                if first || held.is_full() {
                    return Err(failure);
                }
                let shown = path.as_ref().map_or_else(|| ".".to_owned(), RelPath::to_string);
                self.job.note(None, Err(failure.doing(format!("list {shown}"))));
                Ok(())
            })?;
            first = false;
        }
        Ok(())
    }

    async fn entries(
        &self,
        path: Option<&RelPath>,
        heading: &str,
        pending: &mut Vec<Option<RelPath>>,
        held: &mut Held,
    ) -> Result<(), Failure> {
        let mut listing = self.job.steady_line(&self.server, 0).await?.list(path).await?;
        let mut waiting = Vec::new();
        let mut below = Vec::new();
        let mut heading = Some(heading);
        loop {
            let batch = listing.next().await?;
            // A heading that turns out to be none's is worse than one that comes late.
            if let Some(heading) = heading.take() {
                print(heading);
            }
            let is_last = batch.is_none();
            let batch = batch.unwrap_or_default();
            if self.look.recursive {
                for entry in batch.iter().filter(|entry| entry.kind == EntryType::Directory) {
                    match child(path, &entry.name.0) {
                        Ok(directory) => {
                            held.keep(directory.raw_bytes())?;
                            below.push(Some(directory));
                        }
                        Err(failure) => self.job.note(None, Err(failure)),
                    }
                }
            }
            waiting.extend(batch);
            if is_last || waiting.len() > SORTED_MAX {
                waiting.sort_by(|one, other| one.name.0.cmp(&other.name.0));
                self.print(path, std::mem::take(&mut waiting)).await?;
            }
            if is_last {
                break;
            }
        }
        // The last pushed comes first.
        below.sort_by(|one, other| {
            let raw = |path: &Option<RelPath>| path.as_ref().map(|path| path.raw_bytes().to_vec());
            raw(other).cmp(&raw(one))
        });
        pending.extend(below);
        Ok(())
    }

    async fn print(&self, directory: Option<&RelPath>, entries: Vec<Entry>) -> Result<(), Failure> {
        let mut text = Vec::new();
        if !self.look.sha256 {
            for entry in entries {
                text.extend(self.line(directory, &entry, None));
                if text.len() >= PRINTED_MAX {
                    print_raw(&std::mem::take(&mut text));
                }
            }
            print_raw(&text);
            return Ok(());
        }
        for entries in entries.chunks(AT_ONCE) {
            let mut asking = JoinSet::new();
            for (index, entry) in entries.iter().enumerate() {
                if entry.kind == EntryType::File {
                    let (job, server) = (Arc::clone(&self.job), self.server.clone());
                    let path = child(directory, &entry.name.0);
                    asking.spawn(async move {
                        match path {
                            Ok(path) => {
                                let found = digest(&job, &server, &path).await;
                                (
                                    index,
                                    found.map_err(|failure| {
                                        failure.doing(format!("digest of {path}"))
                                    }),
                                )
                            }
                            Err(failure) => (index, Err(failure)),
                        }
                    });
                }
            }
            let mut digests = vec![None; entries.len()];
            while let Some(Ok((index, outcome))) = asking.join_next().await {
                match outcome {
                    Ok(digest) => digests[index] = Some(digest),
                    Err(failure) => self.job.note(None, Err(failure)),
                }
            }
            for (entry, digest) in entries.iter().zip(&digests) {
                if self.job.settings.global.json || digest.is_some() {
                    print_raw(&self.line(directory, entry, digest.as_ref()));
                }
            }
        }
        Ok(())
    }

    /// One entry as its line.
    fn line(
        &self,
        directory: Option<&RelPath>,
        entry: &Entry,
        sha256: Option<&Sha256Digest>,
    ) -> Vec<u8> {
        let Entry { name, kind, bytes, mode, mtime_ns } = entry;
        // A server's word is no path of ours: it is only ever printed.
        let whole = || match directory {
            Some(directory) => [directory.raw_bytes(), b"/", &name.0].concat(),
            None => name.0.clone(),
        };
        if self.job.settings.global.json {
            let path = WirePath(whole());
            let row =
                Row { path, kind: *kind, bytes: *bytes, mode: *mode, mtime_ns: *mtime_ns, sha256 };
            return json_line(&row).into_bytes();
        }
        if let Some(digest) = sha256 {
            return sum_line(digest, &whole(), self.is_terminal);
        }
        let slash = if *kind == EntryType::Directory { "/" } else { "" };
        let name = Escaped(&name.0);
        if !self.look.long {
            return format!("{name}{slash}\n").into_bytes();
        }
        let letter = match kind {
            EntryType::File => '-',
            EntryType::Directory => 'd',
            EntryType::Other => '?',
        };
        let bytes = bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        format!("{letter} {mode:04o} {bytes:>14} {} {name}{slash}\n", time(*mtime_ns)).into_bytes()
    }
}

/// A line as `sha256sum -c` reads it: a backslash in front says that the name is escaped. A file or a pipe
/// gets every other byte as it is, for by its bytes the file is looked for; on a terminal none of them acts.
///
/// *Source*: GNU coreutils, "md5sum invocation".
fn sum_line(digest: &Sha256Digest, name: &[u8], is_terminal: bool) -> Vec<u8> {
    let mut shown = Vec::with_capacity(name.len());
    if is_terminal {
        shown.extend(Escaped(name).to_string().bytes());
    } else {
        for byte in name {
            match byte {
                b'\\' => shown.extend(b"\\\\"),
                b'\n' => shown.extend(b"\\n"),
                b'\r' => shown.extend(b"\\r"),
                byte => shown.push(*byte),
            }
        }
    }
    let mark: &[u8] = if shown == name { b"" } else { b"\\" };
    [mark, digest.to_string().as_bytes(), b"  ", &shown, b"\n"].concat()
}

/// A file's digest: the one that is kept, or one that the server computes.
///
/// # Errors
/// The server's word, or the connection's end.
pub async fn digest(job: &Job, server: &Server, path: &RelPath) -> Result<Sha256Digest, Failure> {
    let request = Request::Digest { path: wire(path), reread: false };
    match job.ask(server, &request).await? {
        Answer::Digest(info) => Ok(info.sha256),
        _ => Err(Failure::new(Exit::Protocol, "the server's answer is not to what was asked")),
    }
}

/// `ftc stat REMOTE…`
pub async fn stat(job: &Arc<Job>, operands: Vec<OsString>) {
    for operand in operands {
        let outcome = async {
            let (server, remote) = job.remote(&operand)?;
            for named in expand(job, &server, &remote).await? {
                let path = named.path.as_ref();
                let shown = path.map_or_else(|| ".".to_owned(), RelPath::to_string);
                let info = stat_one(job, &server, path).await.map_err(|failure| {
                    let failure = failure.doing(format!("stat {shown}"));
                    job.settings.recognise_server(&operand, failure)
                })?;
                print(&described(job, path, &shown, &info));
            }
            Ok(())
        };
        job.note(None, outcome.await);
    }
}

fn described(job: &Job, path: Option<&RelPath>, shown: &str, info: &StatInfo) -> String {
    let StatInfo { kind, bytes, mode, mtime_ns, sha256 } = info;
    if job.settings.global.json {
        let path = WirePath(path.map_or_else(|| b".".to_vec(), |path| path.raw_bytes().to_vec()));
        let sha256 = sha256.as_ref();
        let row =
            Row { path, kind: *kind, bytes: *bytes, mode: *mode, mtime_ns: *mtime_ns, sha256 };
        return json_line(&row);
    }
    let kind = match kind {
        EntryType::File => "file",
        EntryType::Directory => "directory",
        EntryType::Other => "other",
    };
    let mut text = format!("path    {shown}\ntype    {kind}\n");
    if let Some(bytes) = bytes {
        text += &format!("bytes   {bytes}\n");
    }
    text += &format!("mode    {mode:04o}\nmtime   {}\n", time(*mtime_ns));
    if let Some(digest) = sha256 {
        text += &format!("sha256  {digest}\n");
    }
    text
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
