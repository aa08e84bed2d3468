//! `ftc put`: files, trees, standard input and what commands print, all through one pump.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::cli::Copying;
use super::command::Command;
use super::engine::wire;
use super::exit::{Exit, Failure};
use super::gather::{Place, Work, base_name, is_contents, join, walk_all};
use super::job::{Job, Outcome};
use super::local::batch::{BATCH_FILES, Ready, read};
use super::local::walk::{Found, Leaf, walk};
use super::local::{Input, Named, Witness, open_failure};
use super::operand::{Remote, Server};
use super::report::{Action, Item};
use super::resume::resumable;
use super::upload::{Route, Stream, digest, remote_seal, stream, whole};
use crate::proto::{Answer, EntryType, PutRequest, Request};
use crate::transfer::{Pool, Seal, Workers};
use crate::types::{ErrorCode, Escaped, RelPath};

/// File threads that read small files.
const READERS: usize = 3;
/// Batches that a walk is ahead.
const BATCHES_MAX: usize = 4;
/// Files that are under way at once.
const FILES_MAX: usize = 1024;
/// Large files that may be open and wait for their turn.
const WAITING_MAX: usize = 64;
/// Large files that are under way at once, for each connection.
const LARGE_MAX: usize = 8;
/// Memory for small files that were read and are not stored yet.
const SMALL_BYTES: u64 = 2 * 16 * 1024 * 1024;

/// A put, as far as it is the same for all its files.
pub struct Put {
    job: Arc<Job>,
    server: Server,
    how: Copying,
}

/// `ftc put LOCAL… [REMOTE]`
///
/// # Errors
/// The operands make no sense; what happens to single files is counted in the job.
pub async fn put(
    job: &Arc<Job>,
    operands: Vec<OsString>,
    how: Copying,
    from_cmd: Option<String>,
) -> Result<(), Failure> {
    let port = job.settings.global.port;
    let mut locals = operands;
    let target = match locals.last() {
        Some(last) if locals.len() > 1 || from_cmd.is_some() => Remote::recognise(last, port)?,
        _ => None,
    };
    if target.is_some() {
        locals.pop();
    } else if locals.len() > 1 && from_cmd.is_none() {
        check_last(&locals)?;
    }
    let target = target.unwrap_or(Remote { server: None, path: Vec::new() });
    let target = job.placed(target);
    let server = job.server_of(&target)?;
    let put = Arc::new(Put { job: Arc::clone(job), server, how });
    if let Some(command) = from_cmd {
        if !locals.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                "--from-cmd takes only a place to store, with a colon",
            )
            .hint("as in: ftc put --from-cmd 'pg_dump app' :app.sql"));
        }
        return put.command(&command, &target).await;
    }
    if locals.len() == 1 && !put.how.recursive {
        return put.single(&locals[0], target).await;
    }
    put.many(locals, target).await
}

impl Put {
    fn request(&self, path: &RelPath, witness: Option<&Witness>) -> PutRequest {
        let kept = witness.filter(|_| self.how.preserve);
        PutRequest {
            path: wire(path),
            bytes: witness.map(|witness| witness.bytes),
            mode: kept.map(|witness| witness.mode),
            mtime_ns: kept.map(|witness| witness.mtime_ns),
            replace: !self.how.no_clobber,
            resumable: false,
            resume: None,
        }
    }

    fn route(&self, path: RelPath, lane: usize) -> Route {
        let lane = lane % usize::from(self.how.jobs).max(1);
        Route { job: Arc::clone(&self.job), server: self.server.clone(), lane, path }
    }

    /// Runs a command and stores what it prints, if it ends well.
    async fn command(&self, command: &str, target: &Remote) -> Result<(), Failure> {
        let path = target.target(None)?;
        if self.how.dry_run {
            self.would_stream(path).await;
            return Ok(());
        }
        let mut command = Command::start(command)?;
        let stream = Stream { input: command.output()?, end: Some(Box::new(|| command.wait())) };
        self.stream(path, b"-".to_vec(), stream).await;
        Ok(())
    }

    /// Stores a stream under a name.
    async fn stream(&self, path: RelPath, local: Vec<u8>, input: Stream) {
        let item = Item { action: Action::Put, path: path.raw_bytes().to_vec(), local };
        let request = self.request(&path, None);
        let meter = self.job.report.start(item.clone(), None);
        let outcome = stream(&self.route(path, 0), request, input, &meter).await;
        let outcome = outcome.map(|done| self.job.report.done(&meter, &done));
        meter.clear();
        self.job.note(Some(&item), outcome.map_err(|failure| doing(failure, &item)));
    }

    /// What would come of a stream; it is not read, and no command is run for it.
    async fn would_stream(&self, path: RelPath) {
        let item =
            Item { action: Action::Put, path: path.raw_bytes().to_vec(), local: b"-".to_vec() };
        let outcome = self.would(&self.route(path, 0), &item, None).await;
        self.note(outcome.map_err(|failure| (item, failure)));
    }

    /// One file, or standard input.
    async fn single(self: &Arc<Self>, local: &OsString, mut target: Remote) -> Result<(), Failure> {
        if local == "-" {
            let path = target.target(None)?;
            if self.how.dry_run {
                self.would_stream(path).await;
                return Ok(());
            }
            let input = Stream { input: Input::stdin()?, end: None };
            self.stream(path, b"-".to_vec(), input).await;
            return Ok(());
        }
        if let Named::Directory = Named::open(Path::new(local))? {
            return Err(Failure::new(
                Exit::Other,
                format!("{} is a directory", Escaped(local.as_bytes())),
            )
            .hint("put it and all that is in it with: ftc put -r"));
        }
        let name = base_name(local)?;
        let mut outcome = self.named(local, target.target(Some(&name))?).await;
        // As cp does: into a directory that is there.
        if let Err((_, failure)) = &outcome
            && failure.code == Some(ErrorCode::WrongType)
            && self.is_directory(&target).await
        {
            target.path.push(b'/');
            outcome = self.named(local, target.target(Some(&name))?).await;
        }
        self.note(outcome);
        Ok(())
    }

    /// A file that the user named: in one go if it is small.
    async fn named(&self, local: &OsString, path: RelPath) -> Outcome {
        let remote = path.raw_bytes().to_vec();
        let place = Place { local: local.as_bytes().to_vec(), remote };
        let leaf = match Leaf::named(Path::new(local)) {
            Ok(leaf) => leaf,
            Err(error) => return Err((item(&place), open_failure(&place.local, &error.into()))),
        };
        let (share, runtime) = (Pool::new(0).share(), Handle::current());
        let named = item(&place);
        let files = vec![(place, leaf)];
        let reading = tokio::task::spawn_blocking(move || {
            let mut found = None;
            read(files, &share, &runtime, |ready| found.replace(ready).is_none());
            found
        });
        match reading.await {
            Ok(Some(ready)) => self.ready(ready, 0).await,
            _ => Err((named, Failure::new(Exit::Other, "the thread that reads the file has died"))),
        }
    }

    fn note(&self, outcome: Outcome) {
        match outcome {
            Ok(()) => self.job.succeeded(),
            Err((item, failure)) => self.job.note(Some(&item), Err(doing(failure, &item))),
        }
    }

    async fn is_directory(&self, target: &Remote) -> bool {
        let Ok(path) = target.rel_path() else { return false };
        let request = Request::Stat { path: path.as_ref().map(wire) };
        matches!(self.job.ask(&self.server, &request).await,
            Ok(Answer::Stat(stat)) if stat.kind == EntryType::Directory)
    }

    /// Several operands, or whole trees.
    async fn many(self: &Arc<Self>, locals: Vec<OsString>, target: Remote) -> Result<(), Failure> {
        let to_directory = target.path.is_empty() || target.path.ends_with(b"/");
        let into = to_directory || self.is_directory(&target).await;
        if locals.len() > 1 && !into {
            return Err(Failure::new(Exit::Usage, "several files need a directory to go to")
                .hint("end the last operand with '/'"));
        }
        if locals.iter().any(|local| local == "-") {
            return Err(Failure::new(Exit::Usage, "standard input goes alone")
                .hint("as in: ftc put - :NAME"));
        }
        let base = match target.rel_path()? {
            None => Vec::new(),
            Some(path) => path.raw_bytes().to_vec(),
        };
        // Before anything is read: a server that is out of reach is told at once.
        self.job.steady_line(&self.server, 0).await?;
        self.job.report.many();
        let mut roots = Vec::new();
        for local in locals {
            let place = match base_name(&local) {
                _ if is_contents(&local) => base.clone(),
                Ok(name) if into => join(&base, &name),
                Ok(_) => base.clone(),
                Err(failure) => return Err(failure),
            };
            roots.push((local, place));
        }
        self.pump(roots).await;
        Ok(())
    }

    /// Walks, reads, sends and counts, all at once, with bounded memory.
    async fn pump(self: &Arc<Self>, roots: Vec<(OsString, Vec<u8>)>) {
        if self.job.report.wants_totals() {
            let (report, roots) = (self.job.report.clone(), roots.clone());
            tokio::task::spawn_blocking(move || {
                for (local, _) in roots {
                    let local = Path::new(&local);
                    if let Ok(Named::File(_)) = Named::open(local) {
                        report.found(1, Leaf::named(local).map_or(0, |leaf| leaf.bytes()));
                        continue;
                    }
                    let _ = walk(local, |found| {
                        if let Found::File(leaf) = found {
                            report.found(1, leaf.bytes());
                        }
                        true
                    });
                }
            });
        }
        let (sender, mut work) = mpsc::channel(BATCHES_MAX);
        let recursive = self.how.recursive;
        let walking = tokio::task::spawn_blocking(move || walk_all(&roots, recursive, &sender));
        let share = Pool::new(SMALL_BYTES).share();
        let workers = Workers::new(READERS);
        let (mut reading, mut sending) = (JoinSet::new(), JoinSet::new());
        let (reader, mut ready) = mpsc::channel(BATCH_FILES);
        let (mut ended, mut large, mut lane) = (false, 0, 0);
        // Large files wait here, so that small ones can pass them.
        let mut waiting = VecDeque::new();
        let large_max = LARGE_MAX * usize::from(self.how.jobs);
        loop {
            if !ended && self.job.is_gone(&self.server) {
                (ended, work) = (true, mpsc::channel(1).1); // The walk ends with its receiver.
                waiting.clear();
            }
            while large < large_max
                && let Some(ready) = waiting.pop_front()
            {
                (large, lane) = (large + 1, lane + 1);
                let put = Arc::clone(self);
                sending.spawn(async move { (put.ready(ready, lane).await, true) });
            }
            let has_room = sending.len() < FILES_MAX && waiting.len() < WAITING_MAX;
            tokio::select! {
                biased;
                Some(joined) = sending.join_next() => {
                    if let Ok((outcome, was_large)) = joined {
                        large -= usize::from(was_large);
                        self.note(outcome);
                    }
                }
                Some(ready) = ready.recv(), if has_room => {
                    if matches!(ready, Ready::Large(..)) {
                        waiting.push_back(ready);
                    } else {
                        lane += 1;
                        let put = Arc::clone(self);
                        sending.spawn(async move { (put.ready(ready, lane).await, false) });
                    }
                }
                Some(_) = reading.join_next() => {}
                next = work.recv(), if has_room && !ended && reading.len() < READERS => match next {
                    None => ended = true,
                    Some(Work::Batch(files)) => {
                        let (share, workers, out) = (share.clone(), workers.clone(), reader.clone());
                        let runtime = Handle::current();
                        reading.spawn(async move {
                            let send = move |ready| out.blocking_send(ready).is_ok();
                            workers.run(move || read(files, &share, &runtime, send)).await
                        });
                    }
                    Some(Work::Empty(place)) => {
                        let put = Arc::clone(self);
                        sending.spawn(async move { (put.empty(place).await, false) });
                    }
                    Some(Work::Skipped(place, why)) => {
                        self.job.report.skipped(&item(&place), 0, why);
                        self.job.count(Exit::Partial);
                    }
                    Some(Work::Failed(place, failure)) => self.note(Err((item(&place), failure))),
                },
            }
            let is_idle = reading.is_empty() && sending.is_empty() && ready.is_empty();
            if ended && is_idle && waiting.is_empty() {
                break;
            }
        }
        let _ = walking.await;
    }

    async fn ready(&self, ready: Ready<Place>, lane: usize) -> Outcome {
        let (place, result) = match ready {
            Ready::Failed(place, failure) => (place, Err(failure)),
            Ready::Skipped(place) => {
                self.job.report.skipped(&item(&place), 0, "not a regular file");
                self.job.count(Exit::Partial);
                return Ok(());
            }
            Ready::Large(place, input) => {
                return match parse(&place.remote) {
                    Ok(path) => self.file(place.local, path, input, lane).await,
                    Err(failure) => Err((item(&place), failure)),
                };
            }
            Ready::Small(place, witness, content, seal) => {
                let path = parse(&place.remote);
                (place, path.map(|path| (path, witness, content, seal)))
            }
        };
        let (path, witness, content, seal) = result.map_err(|failure| (item(&place), failure))?;
        let item = item(&place);
        let route = self.route(path, lane);
        match self.before(&route, &item, &witness, Some(seal)).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(failure) => return Err((item, failure)),
        }
        let meter = self.job.report.start(item.clone(), Some(seal.bytes));
        let request = self.request(&route.path, Some(&witness));
        match whole(&route, request, content, seal, &meter).await {
            Ok(done) => {
                self.job.report.done(&meter, &done);
                Ok(())
            }
            Err(failure) => Err((item, failure)),
        }
    }

    /// A file that was opened, whatever its size.
    async fn file(&self, local: Vec<u8>, path: RelPath, input: Input, lane: usize) -> Outcome {
        let item = Item { action: Action::Put, path: path.raw_bytes().to_vec(), local };
        let route = self.route(path, lane);
        let Some(witness) = input.witness().copied() else { return Ok(()) };
        match self.file_before(&route, &item, &witness, &input).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(failure) => return Err((item, failure)),
        }
        let meter = self.job.report.start(item.clone(), Some(witness.bytes));
        let request = self.request(&route.path, Some(&witness));
        let input = Stream { input, end: None };
        let outcome = if self.how.no_resume {
            stream(&route, request, input, &meter).await
        } else {
            resumable(&route, request, input, &meter).await
        };
        self.job.end(item, &meter, outcome)
    }

    async fn file_before(
        &self,
        route: &Route,
        item: &Item,
        witness: &Witness,
        input: &Input,
    ) -> Result<bool, Failure> {
        let mut seal = None;
        if self.how.update && remote_seal(route, Some(witness.bytes)).await?.is_some() {
            seal = Some(digest(input.clone()).await?);
        }
        self.before(route, item, witness, seal).await
    }

    /// What `-u` and `-n` say beforehand: `true` when nothing is to be sent.
    async fn before(
        &self,
        route: &Route,
        item: &Item,
        witness: &Witness,
        seal: Option<Seal>,
    ) -> Result<bool, Failure> {
        if self.how.update
            && let Some(seal) = seal
            && remote_seal(route, Some(seal.bytes)).await? == Some(seal)
        {
            self.job.report.skipped(item, witness.bytes, "it is there with the same content");
            return Ok(true);
        }
        if self.how.dry_run {
            self.would(route, item, Some(witness.bytes)).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Tells what a put would do, as the server judges it.
    async fn would(&self, route: &Route, item: &Item, bytes: Option<u64>) -> Result<(), Failure> {
        let exists = self.check(route, bytes).await?;
        self.job.report.would(item, if exists { "replace" } else { "store" });
        Ok(())
    }

    /// The server's verdict on a put that is not made: whether a file would be replaced.
    async fn check(&self, route: &Route, bytes: Option<u64>) -> Result<bool, Failure> {
        let request =
            Request::Check { path: wire(&route.path), bytes, replace: !self.how.no_clobber };
        match self.job.ask(&self.server, &request).await {
            Ok(Answer::Check(found)) => Ok(found.exists),
            Ok(_) => {
                Err(Failure::new(Exit::Protocol, "the server's answer is not to what was asked"))
            }
            Err(failure) if failure.code == Some(ErrorCode::Protocol) => Err(failure
                .doing("the server is too old to judge a put that is not made")
                .hint("leave -n away, or look yourself with: ftc stat")),
            Err(failure) => Err(failure),
        }
    }

    async fn empty(&self, place: Place) -> Outcome {
        let item = item(&place);
        let path = match parse(&place.remote) {
            Ok(path) => path,
            Err(_) if place.remote.is_empty() => return Ok(()), // The home is there.
            Err(failure) => return Err((item, failure)),
        };
        if self.how.dry_run {
            self.job.report.would(&item, "make the directory");
            return Ok(());
        }
        let request = Request::Mkdir { path: wire(&path), parents: true };
        self.job.ask(&self.server, &request).await.map(drop).map_err(|failure| (item, failure))
    }
}

/// Sees to it that the last of several files is there: if it is not, it may be a place without its colon.
#[expect(
    clippy::disallowed_methods,
    reason = "the user's own file; whether it opens is told later"
)]
fn check_last(locals: &[OsString]) -> Result<(), Failure> {
    let Some(last) = locals.last().filter(|last| *last != "-") else { return Ok(()) };
    match Path::new(last).symlink_metadata() {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let failure = open_failure(last.as_bytes(), &error);
            let hint = format!("a place on the server has a colon: :{}", Escaped(last.as_bytes()));
            Err(Failure { exit: Exit::Usage, ..failure.hint(hint) })
        }
        _ => Ok(()),
    }
}

fn doing(failure: Failure, item: &Item) -> Failure {
    failure.doing(format!("put {}", Escaped(&item.path)))
}

fn item(place: &Place) -> Item {
    Item { action: Action::Put, path: place.remote.clone(), local: place.local.clone() }
}

fn parse(path: &[u8]) -> Result<RelPath, Failure> {
    RelPath::parse(path).map_err(Failure::of_name)
}
