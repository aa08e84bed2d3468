//! `ftc get`: files and trees into a directory that nothing leads out of, or to standard output.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::cli::Copying;
use super::download::{Landing, fetch, fetch_on};
use super::exit::{Exit, Failure};
use super::held::Held;
use super::job::{Job, Outcome};
use super::local::{Destination, Partial, Spool, Stdout, creatable, is_directory};
use super::operand::{Remote, Server};
use super::remote::{Named, child, expand, list, stat};
use super::report::{Action, Item};
use super::state::STEP;
use super::upload::{Route, remote_seal};
use crate::access::Overwrite;
use crate::fsroot::{Kind, Parents};
use crate::proto::{Entry, EntryType};
use crate::transfer::{Inbox, Pool, Sink, Store as _, Workers, digest};
use crate::types::limits::BUFFER_BYTES;
use crate::types::{Durability, ErrorCode, Escaped, RelPath};

/// File threads: as many commits as a disk's journal joins.
const WORKERS: usize = 16;
/// Files that are under way at once.
const FILES_MAX: usize = 160;
/// Of them large ones, for each connection.
const LARGE_MAX: usize = 8;
/// Large files that may wait for their turn.
const WAITING_MAX: usize = 4096;
/// Directories that are listed at once, and that may lie ready.
const LISTINGS_MAX: usize = 4;

/// A get, as far as it is the same for all its files.
struct Get {
    job: Arc<Job>,
    server: Server,
    how: Copying,
    durability: Durability,
    workers: Workers,
}

/// `ftc get REMOTE… [LOCAL]`
///
/// # Errors
/// The operands make no sense; what happens to single files is counted in the job.
pub async fn get(
    job: &Arc<Job>,
    operands: Vec<OsString>,
    how: Copying,
    spool: bool,
    durability: Durability,
) -> Result<(), Failure> {
    let mut remotes = operands;
    let port = job.settings.global.port;
    let local = match remotes.last() {
        Some(last) if remotes.len() > 1 && Remote::recognise(last, port)?.is_none() => {
            remotes.pop()
        }
        _ => None,
    };
    let local = local.unwrap_or_else(|| ".".into());
    let several = remotes.len() > 1;
    let mut sources = Vec::new();
    for remote in &remotes {
        let found = async {
            let (server, remote) = job.remote(remote)?;
            let names = expand(job, &server, &remote).await?;
            Ok(names.into_iter().map(move |named| (server.clone(), named)))
        };
        match found.await {
            Ok(names) => sources.extend(names),
            Err(failure) => job.note(None, Err(failure)),
        }
    }
    let several = several || sources.len() > 1;
    if several || how.recursive {
        job.report.many();
    }
    if several && local == "-" {
        return Err(Failure::new(Exit::Usage, "standard output takes one file"));
    }
    if several && !is_directory(Path::new(&local)) {
        return Err(Failure::new(Exit::Usage, "several files need a directory to go to")
            .hint(format!("make it with: mkdir {}", Escaped(local.as_bytes()))));
    }
    let workers = Workers::new(WORKERS);
    let mut counting = JoinSet::new(); // Which ends with this get.
    if (several || how.recursive) && job.report.wants_totals() {
        counting.spawn(count(Arc::clone(job), sources.clone()));
    }
    for (server, named) in sources {
        let (how, workers) = (how.clone(), workers.clone());
        let get = Arc::new(Get { job: Arc::clone(job), server, how, durability, workers });
        let outcome = get.operand(named, &local, spool).await;
        if let Err(failure) = outcome {
            job.note(None, Err(failure));
        }
    }
    Ok(())
}

/// Finds out how much the files are that were named; what is in directories is found when they are listed.
async fn count(job: Arc<Job>, sources: Vec<(Server, Named)>) {
    for (server, named) in sources {
        if named.path.is_none() || named.kind == Some(EntryType::Directory) {
            continue;
        }
        // Who may not look may still fetch: then it counts, and its size does not.
        match stat(&job, &server, named.path.as_ref()).await {
            Ok(info) if info.kind != EntryType::File => {}
            info => job.report.found(1, info.map_or(0, |info| info.bytes.unwrap_or(0))),
        }
    }
}

/// A file to be fetched.
struct Wanted {
    remote: RelPath,
    local: RelPath,
    lane: usize,
    /// Its size, if a listing told it.
    bytes: Option<u64>,
}

impl Get {
    async fn operand(
        self: &Arc<Self>,
        named: Named,
        local: &OsString,
        spool: bool,
    ) -> Result<(), Failure> {
        let is_tree = self.how.recursive
            && match (&named.path, named.kind) {
                (None, _) => true,
                (Some(_), Some(kind)) => kind == EntryType::Directory,
                // Who may not look may still fetch: then it is taken for a file.
                (path, None) => stat(&self.job, &self.server, path.as_ref())
                    .await
                    .is_ok_and(|info| info.kind == EntryType::Directory),
            };
        if is_tree && local == "-" {
            return Err(Failure::new(Exit::Usage, "standard output takes no directory"));
        }
        if is_tree {
            return self.tree(&named, Path::new(local)).await;
        }
        let path = named.some("fetch")?.clone();
        if local == "-" {
            self.note(self.stdout(path, spool).await);
            return Ok(());
        }
        let destination =
            Destination::of(Path::new(local), path.split_last().1.raw_bytes(), self.durability)?;
        let Some(target) = destination.name.clone() else { return Ok(()) };
        let wanted = Wanted { remote: path, local: target, lane: 0, bytes: None };
        self.note(self.file(wanted, &destination).await);
        Ok(())
    }

    fn note(&self, outcome: Outcome) {
        match outcome {
            Ok(()) => self.job.succeeded(),
            Err((item, failure)) => {
                let failure = failure.doing(format!("get {}", Escaped(&item.path)));
                let failure = match failure.code {
                    Some(ErrorCode::WrongType) if failure.hint.is_none() && !self.how.recursive => {
                        failure.hint("fetch a directory and all that is in it with: ftc get -r")
                    }
                    _ => failure,
                };
                self.job.note(Some(&item), Err(failure));
            }
        }
    }

    fn route(&self, path: RelPath, lane: usize) -> Route {
        let lane = lane % usize::from(self.how.jobs).max(1);
        Route { job: Arc::clone(&self.job), server: self.server.clone(), lane, path }
    }

    fn landing<S: Sink>(&self, inbox: Arc<Inbox<S>>, target: RelPath) -> Landing<S> {
        let overwrite = if self.how.no_clobber { Overwrite::Never } else { Overwrite::Allowed };
        let preserve = self.how.preserve;
        Landing { inbox, target, preserve, overwrite, repeatable: true }
    }

    /// To standard output: while it comes, or with a spool when all of it was verified.
    async fn stdout(&self, path: RelPath, spool: bool) -> Outcome {
        let raw = path.raw_bytes().to_vec();
        let item = Item { action: Action::Get, path: raw, local: b"-".to_vec() };
        if self.how.dry_run {
            let outcome = self.would(&self.route(path, 0), &item, "fetch").await;
            return outcome.map_err(|failure| (item, failure));
        }
        let meter = self.job.report.start(item.clone(), None);
        let route = self.route(path.clone(), 0);
        let outcome = if spool {
            let landing = self.landing(Inbox::new(Arc::new(Spool)), path);
            fetch(&route, &landing, &self.workers, &meter).await
        } else {
            let landing =
                Landing { repeatable: false, ..self.landing(Inbox::new(Arc::new(Stdout)), path) };
            fetch(&route, &landing, &self.workers, &meter).await
        };
        self.job.end(item, &meter, outcome)
    }

    async fn file(&self, wanted: Wanted, destination: &Destination) -> Outcome {
        let Wanted { remote, local, lane, bytes } = wanted;
        let is_worth_it = bytes.is_none_or(|bytes| bytes >= STEP);
        let item = Item {
            action: Action::Get,
            path: remote.raw_bytes().to_vec(),
            local: destination.shown(&local),
        };
        let route = self.route(remote, lane);
        match self.before(&route, &item, &local, destination).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(failure) => return Err((item, failure)),
        }
        let meter = self.job.report.start(item.clone(), None);
        let partial = Partial::new(&destination.tree, &self.server, &route.path);
        let partial = partial.filter(|_| !self.how.no_resume && is_worth_it);
        let outcome = if let Some(partial) = partial {
            let landing = self.landing(Inbox::new(Arc::new(partial)), local);
            fetch_on(&route, &landing, &self.workers, &meter).await
        } else {
            let landing = self.landing(Arc::clone(&destination.inbox), local);
            fetch(&route, &landing, &self.workers, &meter).await
        };
        self.job.end(item, &meter, outcome)
    }

    /// What `-u` and `-n` say beforehand: `true` when nothing is to be fetched.
    async fn before(
        &self,
        route: &Route,
        item: &Item,
        local: &RelPath,
        destination: &Destination,
    ) -> Result<bool, Failure> {
        if !(self.how.update || self.how.dry_run) {
            return Ok(false);
        }
        let (tree, name) = (Arc::clone(&destination.tree), local.clone());
        let here = self.workers.run(move || tree.stat(Some(&name))).await?;
        let is_file = here.as_ref().is_ok_and(|stat| stat.kind == Kind::File);
        let bytes = here.as_ref().map_or(0, |stat| stat.bytes);
        if self.how.update
            && is_file
            && let Some(there) = remote_seal(route, Some(bytes)).await?
        {
            let (tree, name) = (Arc::clone(&destination.tree), local.clone());
            let source = self.workers.run(move || tree.open(&name)).await?;
            let source = source.map_err(crate::transfer::TransferError::from)?;
            let share = Pool::new(0).share();
            // The kept digest does not count: only what is read here and now.
            let own = digest(source, true, &share, &self.workers).await;
            if own.is_ok_and(|(seal, _)| seal == there) {
                self.job.report.skipped(item, bytes, "it is here with the same content");
                return Ok(true);
            }
        }
        if self.how.dry_run {
            if self.how.no_clobber && here.is_ok() {
                let mut failure = Failure::new(Exit::Exists, "the name is taken here");
                failure.code = Some(ErrorCode::Exists);
                return Err(failure);
            }
            self.would(route, item, if here.is_ok() { "replace" } else { "fetch" }).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Tells what a get would do, if there is a file.
    async fn would(&self, route: &Route, item: &Item, what: &str) -> Result<(), Failure> {
        let there = stat(&self.job, &self.server, Some(&route.path)).await?;
        if there.kind != EntryType::File {
            return Err(Failure::of_server(ErrorCode::WrongType, "it is not a regular file"));
        }
        self.job.report.would(item, what);
        Ok(())
    }

    /// A whole directory: `dir/` into the place itself, `dir` as cp does.
    async fn tree(self: &Arc<Self>, named: &Named, local: &Path) -> Result<(), Failure> {
        let name = named.path.as_ref().map(|path| path.split_last().1.raw_bytes().to_vec());
        let name = name.filter(|_| !named.contents);
        let is_there = is_directory(local);
        let slash = local.as_os_str().as_bytes().ends_with(b"/");
        let destination = if is_there {
            Destination::new(local, name.as_deref(), self.durability)?
        } else {
            let own = local.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
            let own = match name {
                Some(name) if slash => [own.as_slice(), b"/", &name].concat(),
                _ => own,
            };
            Destination::new(local.parent().unwrap_or(Path::new("")), Some(&own), self.durability)?
        };
        self.pump(named.path.clone(), &destination).await;
        Ok(())
    }

    /// Lists, fetches and counts, all at once, with bounded memory.
    async fn pump(self: &Arc<Self>, top: Option<RelPath>, destination: &Destination) {
        let mut pending = vec![(top, destination.name.clone())];
        let mut held = Held::default();
        let mut ready: VecDeque<Directory> = VecDeque::new();
        let (mut listing, mut fetching) = (JoinSet::new(), JoinSet::new());
        let (mut large, mut lane) = (0, 0);
        // Large files wait here, so that small ones can pass them.
        let mut waiting: VecDeque<Wanted> = VecDeque::new();
        let large_max = LARGE_MAX * usize::from(self.how.jobs);
        loop {
            if self.job.is_gone(&self.server) || held.is_full() {
                pending.clear();
                ready.clear();
                waiting.clear();
            }
            while listing.len() + ready.len() < LISTINGS_MAX
                && let Some((remote, local)) = pending.pop()
            {
                held.release(remote.as_ref().map_or(b"", RelPath::raw_bytes));
                let (get, destination) = (Arc::clone(self), destination.clone());
                listing.spawn(async move { get.list(remote, local, &destination).await });
            }
            while large < large_max
                && let Some(wanted) = waiting.pop_front()
            {
                large += 1;
                let (get, destination) = (Arc::clone(self), destination.clone());
                fetching.spawn(async move { (get.file(wanted, &destination).await, true) });
            }
            while fetching.len() < FILES_MAX
                && waiting.len() < WAITING_MAX
                && !held.is_full()
                && let Some(directory) = ready.front_mut()
            {
                let Some(entry) = directory.entries.next() else {
                    ready.pop_front();
                    continue;
                };
                lane += 1;
                match self.entry(directory, &entry, lane, &mut pending, &mut held) {
                    Some((wanted, true)) => waiting.push_back(wanted),
                    Some((wanted, false)) => {
                        let (get, destination) = (Arc::clone(self), destination.clone());
                        fetching
                            .spawn(async move { (get.file(wanted, &destination).await, false) });
                    }
                    None => {}
                }
            }
            tokio::select! {
                biased;
                Some(joined) = fetching.join_next() => {
                    if let Ok((outcome, was_large)) = joined {
                        large -= usize::from(was_large);
                        self.note(outcome);
                    }
                }
                Some(Ok(listed)) = listing.join_next() => match listed {
                    Ok(directory) => {
                        let files = directory.entries.as_slice().iter();
                        let files = files.filter(|entry| entry.kind == EntryType::File);
                        let (count, bytes) = files.fold((0, 0_u64), |(count, sum), entry| {
                            (count + 1, sum.saturating_add(entry.bytes.unwrap_or(0)))
                        });
                        self.job.report.found(count, bytes);
                        ready.push_back(directory);
                    }
                    Err(failure) => self.job.note(None, Err(failure)),
                },
                else => {}
            }
            let is_idle = listing.is_empty() && fetching.is_empty() && waiting.is_empty();
            if is_idle && pending.is_empty() && ready.is_empty() {
                return;
            }
        }
    }

    /// What to do about an entry: a file is fetched, a directory looked into later.
    fn entry(
        &self,
        directory: &Directory,
        entry: &Entry,
        lane: usize,
        pending: &mut Vec<(Option<RelPath>, Option<RelPath>)>,
        held: &mut Held,
    ) -> Option<(Wanted, bool)> {
        let names = child(directory.remote.as_ref(), &entry.name.0).and_then(|remote| {
            let local = child(directory.local.as_ref(), &entry.name.0)?;
            creatable(local.raw_bytes()).map(|local| (remote, local))
        });
        let (remote, local) = match names {
            Ok(names) => names,
            Err(failure) => {
                self.job.note(None, Err(failure));
                return None;
            }
        };
        match entry.kind {
            EntryType::File => {
                let is_large = entry.bytes.unwrap_or(0) > BUFFER_BYTES as u64;
                Some((Wanted { remote, local, lane, bytes: entry.bytes }, is_large))
            }
            EntryType::Directory => {
                if let Err(failure) = held.keep(remote.raw_bytes()) {
                    self.job.note(None, Err(failure.doing(format!("get {remote}"))));
                    return None;
                }
                pending.push((Some(remote), Some(local)));
                None
            }
            EntryType::Other => {
                let item = Item {
                    action: Action::Get,
                    path: remote.raw_bytes().to_vec(),
                    local: local.raw_bytes().to_vec(),
                };
                self.job.report.skipped(&item, 0, "neither file nor directory");
                self.job.count(Exit::Partial);
                None
            }
        }
    }

    /// Reads a directory whole, and makes it here.
    async fn list(
        &self,
        remote: Option<RelPath>,
        local: Option<RelPath>,
        destination: &Destination,
    ) -> Result<Directory, Failure> {
        let shown = remote.as_ref().map_or_else(|| ".".to_owned(), RelPath::to_string);
        let doing = |failure: Failure| failure.doing(format!("get {shown}"));
        let mut entries = list(&self.job, &self.server, remote.as_ref()).await.map_err(doing)?;
        if let (Some(local), false) = (&local, self.how.dry_run) {
            let (tree, name) = (Arc::clone(&destination.tree), local.clone());
            let made = self.workers.run(move || tree.make_directory(&name, Parents::Make));
            made.await
                .and_then(|made| made.map_err(Into::into))
                .map_err(|error| doing(Failure::from(error).doing("make the directory here")))?;
        }
        // A name that is listed twice would be written twice.
        entries.sort_by(|one, other| one.name.0.cmp(&other.name.0));
        let listed = entries.len();
        entries.dedup_by(|one, other| one.name.0 == other.name.0);
        if entries.len() < listed {
            let text = format!("the server lists {} names twice", listed - entries.len());
            self.job.note(None, Err(doing(Failure::new(Exit::Protocol, text))));
        }
        Ok(Directory { remote, local, entries: entries.into_iter() })
    }
}

/// A directory that was listed, and what of it is still to be looked at.
struct Directory {
    remote: Option<RelPath>,
    local: Option<RelPath>,
    entries: std::vec::IntoIter<Entry>,
}
