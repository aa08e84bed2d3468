//! The verbs: each asks the gate, runs as a task of its own, and leaves one line in the log.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::journal::kind;
use super::outgoing::{Final, failed};
use super::running::{Accepted, LastWord, Running, Watched};
use super::session::Session;
use super::users::{Peer, User};
use super::{changes, get, guard, quota, resume};
use crate::access::{Action, Grant, decide, hidden_in};
use crate::fsroot::{FsError, Kind, Parents};
use crate::proto::{ErrorMessage, PutRequest, Request, WirePath};
use crate::transfer::{Incoming, Outbox, Part, Seal, Store, TransferError, files_on, list};
use crate::types::{ErrorCode, Escaped, NameError, RelPath};

/// How long a login may wait for a count before it goes on without a home.
const HOME_WAIT: Duration = Duration::from_secs(5);

/// Why a request is refused before any work: the code and the text for the client.
pub(super) type Refusal = (ErrorCode, String);

/// Makes the user's home, which is nobody else's task. A failure is the log's; the first request
/// will meet it again.
pub(super) async fn make_home<S: Store>(store: &Arc<S>, user: &User) {
    let (Some(home), store) = (user.principal.home.clone(), Arc::clone(store)) else { return };
    let looked = (Arc::clone(&store), home.clone());
    let there = user.workers.run(move || looked.0.stat(Some(&looked.1))).await;
    if matches!(there, Ok(Ok(stat)) if stat.kind == Kind::Directory) {
        return; // As nearly always; to make it may mean to wait for a count.
    }
    if let Err(error) = quota::counted(&*store, &[&home], HOME_WAIT).await {
        return tracing::warn!(user = user.principal.name, "the home is not made yet: {error}");
    }
    let files = user.workers.puts().clone();
    let work = move || {
        let _held = files.visit(files_on(&home));
        store.make_directory(&home, Parents::Make)
    };
    let made = user.workers.run(work).await;
    if let Err(error) = made.and_then(|made| made.map_err(TransferError::from)) {
        tracing::error!(user = user.principal.name, "cannot make the home directory: {error}");
    }
}

/// Decides over a put: where it goes and on which terms.
///
/// # Errors
/// The refusal, which does not depend on what is stored.
pub(super) fn admit_put<S: Store>(
    store: &S,
    user: &User,
    put: &PutRequest,
    bytes_max: u64,
) -> Result<(Incoming, Grant), Refusal> {
    let path = parse(&put.path)?;
    let grant = allow(user, Action::Put { path: &path, replace: put.replace })?;
    path.check_creatable().map_err(bad_name)?;
    if put.mode.is_some_and(|mode| mode > 0o777) {
        return Err((ErrorCode::Protocol, "the mode has bits outside 0777".to_owned()));
    }
    let target = path.below(user.principal.home.as_ref());
    let keep = resume::keep(store, user, &target, put)?;
    let incoming = Incoming {
        target,
        announced: put.bytes,
        bytes_max,
        overwrite: grant.overwrite,
        retain: grant.retain,
        parents: parents(user, &grant),
        mode: put.mode,
        mtime_ns: put.mtime_ns,
        keep,
    };
    Ok((incoming, grant))
}

/// Starts a put whose parts come through `queue`.
pub(super) fn start_put<S: Store>(
    session: &Arc<Session<S>>,
    user: Arc<User>,
    id: u32,
    (incoming, grant): (Incoming, Grant),
    queue: mpsc::Receiver<Part>,
) {
    let session = Arc::clone(session);
    tokio::spawn(async move {
        let job = Job::new(&session, &user, id, "put", Instant::now());
        let target = incoming.target.clone();
        let outcome = guard::alone(pin!(async {
            job.counted(&[&target]).await?;
            let committed = session.inbox.receive(incoming, queue, &user.workers).await?;
            let seal = committed.seal();
            Ok((Final::Stored(committed), Some(seal)))
        }))
        .await;
        let outcome = outcome.unwrap_or(Err(TransferError::Panicked));
        job.end(&target, None, &grant, outcome).await;
    });
}

/// Which directories may be made on the way: the gate counts from the home, the tree from the root.
fn parents(user: &User, grant: &Grant) -> Parents {
    match grant.parents_from {
        // All of them; then the home, too, should it be gone.
        0 | 1 => Parents::Make,
        from => {
            let home = user.principal.home.as_ref().map_or(0, RelPath::depth);
            Parents::MakeFrom(from.saturating_add(home))
        }
    }
}

/// Starts any verb but a put; gives what cancels it, where that is possible: a change of names is
/// carried out, and its answer says so.
pub(super) fn start<S: Store>(
    session: &Arc<Session<S>>,
    user: Arc<User>,
    id: u32,
    request: Request,
) -> Option<Running> {
    let only_reads = matches!(
        request,
        Request::Get { .. }
            | Request::List { .. }
            | Request::Stat { .. }
            | Request::Digest { .. }
            | Request::Resume { .. }
            | Request::Check { .. }
    );
    let mut accepted = Accepted::new(Arc::clone(session), user, id, request);
    let last_word = LastWord::default();
    let own_word = last_word.clone();
    let task = tokio::spawn(async move {
        accepted.begins();
        let job = || accepted.job();
        let session = &accepted.session;
        let outcome = guard::alone(pin!(async {
            match &accepted.request {
                Request::Get { path, offset, version } => {
                    get::get(job(), &own_word, path, *offset, version.as_deref()).await
                }
                Request::List { path } => list_directory(job(), path.as_ref()).await,
                Request::Stat { path } => stat(job(), path.as_ref()).await,
                Request::Remove { path } => changes::remove(job(), path).await,
                Request::Rmdir { path } => changes::rmdir(job(), path).await,
                Request::Mkdir { path, parents } => changes::mkdir(job(), path, *parents).await,
                Request::Rename { path, to, replace } => {
                    changes::rename(job(), path, to, *replace).await
                }
                Request::Digest { path, reread } => {
                    changes::tell_digest(job(), path, *reread).await
                }
                Request::Resume { path } => resume::tell(job(), path).await,
                Request::Check { path, bytes, replace } => {
                    resume::tell_check(job(), path.clone(), *bytes, *replace).await
                }
                // The session deals with these.
                Request::Put(_) | Request::Compress { .. } | Request::Unknown => Ok(()),
            }
        }))
        .await;
        let last = match outcome {
            Some(Ok(())) => return,
            Some(Err((code, message))) => Final::Error(ErrorMessage::new(code, message)),
            None => {
                let error = TransferError::Panicked;
                accepted.log(&error);
                failed(&error)
            }
        };
        let _ = session.answers.send((id, last)).await;
    });
    only_reads.then(|| Running::new(&task, last_word))
}

/// A request on its way: who asks for what, and since when.
pub(super) struct Job<'a, S: Store> {
    pub(super) session: &'a Session<S>,
    pub(super) user: &'a User,
    pub(super) id: u32,
    verb: &'static str,
    started: Instant,
}

impl<'a, S: Store> Job<'a, S> {
    pub(super) fn new(
        session: &'a Session<S>,
        user: &'a User,
        id: u32,
        verb: &'static str,
        started: Instant,
    ) -> Self {
        Self { session, user, id, verb, started }
    }

    /// Parses and decides: what every verb does before any system call. Gives the path below the root.
    ///
    /// # Errors
    /// The refusal, which has been logged.
    pub(super) fn admit(
        &self,
        path: &WirePath,
        action: impl FnOnce(&RelPath) -> Action<'_>,
    ) -> Result<(RelPath, Grant), Refusal> {
        self.logged((Some(path), None), || {
            let parsed = parse(path)?;
            let grant = allow(self.user, action(&parsed))?;
            Ok((self.at_home(&parsed), grant))
        })
    }

    /// The same for a name that is to be made.
    ///
    /// # Errors
    /// As [`Job::admit`].
    pub(super) fn admit_new(
        &self,
        path: &WirePath,
        action: impl FnOnce(&RelPath) -> Action<'_>,
    ) -> Result<(RelPath, Grant), Refusal> {
        self.logged((Some(path), None), || {
            let parsed = parse(path)?;
            let grant = allow(self.user, action(&parsed))?;
            parsed.check_creatable().map_err(bad_name)?;
            Ok((self.at_home(&parsed), grant))
        })
    }

    /// Decides over a put that is only asked about.
    ///
    /// # Errors
    /// As [`Job::admit`].
    pub(super) fn admit_put(&self, put: &PutRequest) -> Result<(Incoming, Grant), Refusal> {
        let bytes_max = self.user.bytes_max(&self.session.server.live.borrow().settings.limits);
        self.logged((Some(&put.path), None), || {
            admit_put(&*self.session.server.store, self.user, put, bytes_max)
        })
    }

    /// The same for the two names of a rename.
    ///
    /// # Errors
    /// As [`Job::admit`].
    pub(super) fn admit_rename(
        &self,
        from: &WirePath,
        to: &WirePath,
        replace: bool,
    ) -> Result<(RelPath, RelPath, Grant), Refusal> {
        self.logged((Some(from), Some(to)), || {
            let (from, to) = (parse(from)?, parse(to)?);
            let grant = allow(self.user, Action::Rename { from: &from, to: &to, replace })?;
            to.check_creatable().map_err(bad_name)?;
            Ok((self.at_home(&from), self.at_home(&to), grant))
        })
    }

    /// The same for a path that may be left out, which is the home.
    fn admit_or_home(
        &self,
        path: Option<&WirePath>,
        action: impl FnOnce(Option<&RelPath>) -> Action<'_>,
    ) -> Result<Option<RelPath>, Refusal> {
        let Some(path) = path else {
            self.logged((None, None), || allow(self.user, action(None)))?;
            return Ok(self.user.principal.home.clone());
        };
        self.admit(path, |path| action(Some(path))).map(|(path, _)| Some(path))
    }

    /// Decides, and leaves a line if that is a refusal.
    ///
    /// # Errors
    /// The refusal, which has been logged.
    pub(super) fn logged<T>(
        &self,
        (path, to): (Option<&WirePath>, Option<&WirePath>),
        decide: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        decide().inspect_err(|(code, reason)| {
            log_refusal(self.session, self.user, self.verb, (path, to), (*code, reason));
        })
    }

    /// Leaves the line in the log of a request that is given up while it works: nobody else would.
    pub(super) fn watch<'j>(&'j self, path: &'j RelPath) -> Watched<'j, 'a, S> {
        Watched::new(self, path)
    }

    pub(super) fn at_home(&self, path: &RelPath) -> RelPath {
        path.below(self.user.principal.home.as_ref())
    }

    /// Which directories this request may make on its way.
    pub(super) fn parents(&self, grant: &Grant) -> Parents {
        parents(self.user, grant)
    }

    /// Runs a store's call on a file thread.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        call: impl FnOnce(&S) -> Result<T, FsError> + Send + 'static,
    ) -> Result<T, TransferError> {
        let store = Arc::clone(&self.session.server.store);
        Ok(self.user.workers.run(move || call(&store)).await??)
    }

    /// Waits until quotas can be judged at these paths.
    ///
    /// # Errors
    /// `Busy` when that takes as long as a transfer may stall.
    pub(super) async fn counted(&self, paths: &[&RelPath]) -> Result<(), TransferError> {
        let patience = self.session.server.live.borrow().settings.limits.stall_timeout;
        Ok(quota::counted(&*self.session.server.store, paths, patience).await?)
    }

    /// Runs a store's call that changes names, on a file thread, when quotas can be judged.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        paths: &[&RelPath],
        call: impl FnOnce(&S) -> Result<T, FsError> + Send + 'static,
    ) -> Result<T, TransferError> {
        self.counted(paths).await?;
        self.on_disk(call).await
    }

    /// Leaves the line in the log and sends the answer. A connection that is gone meanwhile does not
    /// undo what is done.
    pub(super) async fn end(
        &self,
        path: &RelPath,
        to: Option<&RelPath>,
        grant: &Grant,
        outcome: Result<(Final, Option<Seal>), TransferError>,
    ) {
        log(self, Some(path), to, outcome.as_ref().map(|(_, seal)| *seal));
        let last = outcome.map_or_else(|error| failed(&told(error, grant)), |(last, _)| last);
        let _ = self.session.answers.send((self.id, last)).await;
    }

    /// The same for what only looks, which leaves a line only where looking failed.
    pub(super) async fn end_look(
        &self,
        path: Option<&RelPath>,
        outcome: Result<Final, TransferError>,
    ) {
        log_look(self, path, outcome.as_ref().err());
        let last = outcome.unwrap_or_else(|error| failed(&error));
        let _ = self.session.answers.send((self.id, last)).await;
    }
}

async fn list_directory<S: Store>(job: Job<'_, S>, path: Option<&WirePath>) -> Result<(), Refusal> {
    let target = job.admit_or_home(path, |path| Action::List { path })?;
    let directory = path.map(parse).transpose()?;
    let hidden = hidden_in(&job.user.principal, directory.as_ref());
    let outbox = Outbox { id: job.id, parts: job.session.parts.clone() };
    let store = Arc::clone(&job.session.server.store);
    let listed = list(store, target.clone(), &hidden, &outbox, &job.user.workers).await;
    log_look(&job, target.as_ref(), listed.as_ref().err());
    let _ = outbox.send(listed.map_or_else(Part::Failed, Part::Listed)).await;
    Ok(())
}

async fn stat<S: Store>(job: Job<'_, S>, path: Option<&WirePath>) -> Result<(), Refusal> {
    let target = job.admit_or_home(path, |path| Action::Stat { path })?;
    let wanted = target.clone();
    let found = job.on_disk(move |store| store.stat(wanted.as_ref())).await;
    job.end_look(target.as_ref(), found.map(Final::Stat)).await;
    Ok(())
}

/// What the client is told of a failure. Whoever may not list cannot tell what is missing from what is
/// forbidden; the log knows.
pub(super) fn told(error: TransferError, grant: &Grant) -> TransferError {
    match (grant.unlisted, error.code()) {
        (
            Some(refused),
            ErrorCode::NotFound | ErrorCode::WrongType | ErrorCode::Denied | ErrorCode::NotEmpty,
        ) => TransferError::Refused(refused),
        _ => error,
    }
}

pub(super) fn parse(path: &WirePath) -> Result<RelPath, Refusal> {
    RelPath::parse(&path.0).map_err(bad_name)
}

fn allow(user: &User, action: Action<'_>) -> Result<Grant, Refusal> {
    decide(&user.principal, action).map_err(|refused| (ErrorCode::Denied, refused.to_string()))
}

fn bad_name(error: NameError) -> Refusal {
    (ErrorCode::BadName, error.to_string())
}

/// One line for a request that was refused at the gate. As for all refusals, a user who makes a flood of
/// them gets a few lines and a count.
pub(super) fn log_refusal<S: Store>(
    session: &Session<S>,
    user: &User,
    verb: &'static str,
    (path, to): (Option<&WirePath>, Option<&WirePath>),
    (code, reason): (ErrorCode, &str),
) {
    let Some(suppressed) = user.refusals.admit() else { return };
    let shown = |path: &WirePath| {
        let home = user.principal.home.as_ref().map(|home| format!("{home}/")).unwrap_or_default();
        home + &Escaped(&path.0).to_string()
    };
    tracing::info!(
        name: kind::DENIED,
        user = user.principal.name,
        identity = session.peer.to_string(),
        peer = session.address,
        verb,
        path = path.map(shown).unwrap_or_default(),
        to = to.map(shown),
        result = code.name(),
        reason,
        suppressed,
        "{verb} refused",
    );
}

/// One line for a connection that is one too many of a user who may come in.
pub(super) fn log_turned_away(user: &User, peer: &Peer, address: &str, reason: &str) {
    let Some(suppressed) = user.refusals.admit() else { return };
    tracing::info!(
        name: kind::DENIED,
        user = user.principal.name,
        identity = peer.to_string(),
        peer = address,
        verb = "connect",
        result = ErrorCode::Limit.name(),
        reason,
        suppressed,
        "connect refused",
    );
}

/// One line for a look that failed. None for one that found something, nor for one that found nothing there.
fn log_look<S: Store>(job: &Job<'_, S>, path: Option<&RelPath>, failed: Option<&TransferError>) {
    if let Some(error) = failed
        && !matches!(error, TransferError::Aborted)
        && !matches!(error.code(), ErrorCode::NotFound | ErrorCode::WrongType)
    {
        log(job, path, None, Err(error));
    }
}

/// One line for a request that was carried out, well or not.
pub(super) fn log<S: Store>(
    job: &Job<'_, S>,
    path: Option<&RelPath>,
    to: Option<&RelPath>,
    outcome: Result<Option<Seal>, &TransferError>,
) {
    let shown = |path: Option<&RelPath>| path.map(ToString::to_string).unwrap_or_default();
    let (path, to, verb) = (shown(path), to.map(ToString::to_string), job.verb);
    let (user, peer) = (job.user.principal.name.as_str(), job.session.address.as_str());
    let identity = job.session.peer.to_string();
    let duration_ms = u64::try_from(job.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (result, reason) = match outcome {
        Ok(seal) => {
            let bytes = seal.map(|seal| seal.bytes);
            let sha256 = seal.map(|seal| tracing::field::display(seal.digest));
            tracing::info!(
                name: kind::DONE,
                user,
                identity,
                peer,
                verb,
                path,
                to,
                bytes,
                sha256,
                result = "ok",
                duration_ms,
                "{verb} done"
            );
            return;
        }
        Err(TransferError::Aborted) => ("aborted", "given up".to_owned()),
        Err(error) => (error.code().name(), error.to_string()),
    };
    let is_ours = outcome.is_err_and(|error| {
        let code = error.code();
        let ours =
            [ErrorCode::Io, ErrorCode::UnknownOutcome, ErrorCode::Internal, ErrorCode::Corrupt];
        !matches!(error, TransferError::Aborted) && ours.contains(&code)
    });
    // Each kind by itself, so that no flood of the one hides the other.
    let limiter = if is_ours { &job.user.faults } else { &job.user.refusals };
    let Some(suppressed) = limiter.admit() else { return };
    if is_ours {
        tracing::error!(
            name: kind::FAULT,
            user,
            identity,
            peer,
            verb,
            path,
            to,
            result,
            reason,
            suppressed,
            duration_ms,
            "{verb} failed: {reason}"
        );
    } else if result == "aborted" {
        tracing::info!(
            name: kind::GIVEN_UP,
            user,
            identity,
            peer,
            verb,
            path,
            to,
            result,
            reason,
            suppressed,
            duration_ms,
            "{verb} given up"
        );
    } else {
        tracing::info!(
            name: kind::FAILED,
            user,
            identity,
            peer,
            verb,
            path,
            to,
            result,
            reason,
            suppressed,
            duration_ms,
            "{verb} failed: {reason}"
        );
    }
}

/// Tells what was left out of the log and no later line has told, when a session ends.
pub(super) fn log_suppressed<S: Store>(session: &Session<S>, user: &User) {
    let suppressed = user.refusals.settle() + user.faults.settle();
    if suppressed > 0 {
        let (name, peer) = (user.principal.name.as_str(), session.address.as_str());
        tracing::info!(name: kind::DENIED, user = name, peer, suppressed, "more requests were refused or failed");
    }
}
