//! The verbs: each asks the gate, runs as a task of its own, and leaves one line in the log.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::outgoing::{Final, failed};
use super::session::Session;
use super::users::User;
use crate::access::{Action, Grant, decide};
use crate::fsroot::Parents;
use crate::proto::{ErrorMessage, PutRequest, Request, WirePath};
use crate::transfer::{
    Incoming, Outbox, Part, Seal, Source as _, Store, TransferError, list, receive, send,
};
use crate::types::{ErrorCode, Escaped, NameError, RelPath};

/// Why a request is refused before any work: the code and the text for the client.
type Refusal = (ErrorCode, String);

/// Makes the user's home, which is nobody else's task. A failure is the log's; the first request
/// will meet it again.
pub(super) async fn make_home<S: Store>(store: &Arc<S>, user: &User) {
    let (Some(home), store) = (user.principal.home.clone(), Arc::clone(store)) else { return };
    let made = user.workers.run(move || store.ensure_directory(&home)).await;
    if let Err(error) = made.and_then(|made| made.map_err(TransferError::from)) {
        tracing::error!(user = user.principal.name, "cannot make the home directory: {error}");
    }
}

/// Decides over a put: where it goes and on which terms.
///
/// # Errors
/// The refusal, which does not depend on what is stored.
pub(super) fn admit_put(
    user: &User,
    put: &PutRequest,
    bytes_max: u64,
) -> Result<Incoming, Refusal> {
    let path = parse(&put.path)?;
    let grant = allow(user, Action::Put { replace: put.replace })?;
    path.check_creatable().map_err(bad_name)?;
    if put.mode.is_some_and(|mode| mode > 0o777) {
        return Err((ErrorCode::Protocol, "the mode has bits outside 0777".to_owned()));
    }
    Ok(Incoming {
        target: path.below(user.principal.home.as_ref()),
        announced: put.bytes,
        bytes_max,
        overwrite: grant.overwrite,
        parents: if grant.parents { Parents::Make } else { Parents::MustExist },
        mode: put.mode,
        mtime_ns: put.mtime_ns,
    })
}

/// Starts a put whose parts come through `queue`.
pub(super) fn start_put<S: Store>(
    session: &Arc<Session<S>>,
    user: Arc<User>,
    id: u32,
    incoming: Incoming,
    queue: mpsc::Receiver<Part>,
) {
    let (session, started) = (Arc::clone(session), Instant::now());
    let path = incoming.target.clone();
    tokio::spawn(async move {
        let _busy = session.server.busy.clone();
        let outcome =
            receive(Arc::clone(&session.server.store), incoming, queue, &user.workers).await;
        let seal = outcome.as_ref().map(crate::transfer::Committed::seal);
        log(&session, &user, "put", Some(&path), started, seal);
        let last = match outcome {
            Ok(committed) => Final::Stored(committed),
            Err(error) => failed(&error),
        };
        // A connection that is gone meanwhile does not undo what is stored.
        let _ = session.answers.send((id, last)).await;
    });
}

/// Starts a verb that only reads.
pub(super) fn start<S: Store>(
    session: &Arc<Session<S>>,
    user: Arc<User>,
    id: u32,
    request: Request,
) -> AbortHandle {
    let session = Arc::clone(session);
    let task = tokio::spawn(async move {
        let _busy = session.server.busy.clone();
        let outcome = match request {
            Request::Get { path } => get(&session, &user, id, &path).await,
            Request::List { path } => list_directory(&session, &user, id, path.as_ref()).await,
            Request::Stat { path } => stat(&session, &user, id, path.as_ref()).await,
            Request::Put(_) | Request::Unknown => Ok(()), // The session deals with these.
        };
        if let Err((code, message)) = outcome {
            let _ =
                session.answers.send((id, Final::Error(ErrorMessage::new(code, message)))).await;
        }
    });
    task.abort_handle()
}

async fn get<S: Store>(
    session: &Session<S>,
    user: &User,
    id: u32,
    path: &WirePath,
) -> Result<(), Refusal> {
    let started = Instant::now();
    let target = admit(session, user, "get", Action::Get, Some(path))?;
    let Some(target) = target else { return Err(bad_name(NameError::Empty)) };
    let outbox = Outbox { id, parts: session.parts.clone() };
    let outcome = async {
        let (store, wanted) = (Arc::clone(&session.server.store), target.clone());
        let source = user.workers.run(move || store.open(&wanted)).await??;
        if let Some(stat) = source.stat() {
            outbox.send(Part::Begin(stat.clone())).await?;
        }
        send(source, outbox.clone(), user.share.clone(), &user.workers).await
    };
    let outcome = outcome.await;
    log(session, user, "get", Some(&target), started, outcome.as_ref().copied());
    let end = outcome.map_or_else(Part::Failed, Part::End);
    let _ = outbox.send(end).await; // A connection that is gone needs no end.
    Ok(())
}

async fn list_directory<S: Store>(
    session: &Session<S>,
    user: &User,
    id: u32,
    path: Option<&WirePath>,
) -> Result<(), Refusal> {
    let target = admit(session, user, "list", Action::List, path)?;
    let outbox = Outbox { id, parts: session.parts.clone() };
    let listed = list(Arc::clone(&session.server.store), target, &outbox, &user.workers).await;
    let _ = outbox.send(listed.map_or_else(Part::Failed, Part::Listed)).await;
    Ok(())
}

async fn stat<S: Store>(
    session: &Session<S>,
    user: &User,
    id: u32,
    path: Option<&WirePath>,
) -> Result<(), Refusal> {
    let target = admit(session, user, "stat", Action::Stat, path)?;
    let store = Arc::clone(&session.server.store);
    let found = user.workers.run(move || store.stat(target.as_ref())).await;
    let last = match found.and_then(|found| found.map_err(TransferError::from)) {
        Ok(stat) => Final::Stat(stat),
        Err(error) => failed(&error),
    };
    let _ = session.answers.send((id, last)).await;
    Ok(())
}

/// Parses and decides: what every verb does before any system call. Gives the path below the root.
fn admit<S: Store>(
    session: &Session<S>,
    user: &User,
    verb: &'static str,
    action: Action,
    path: Option<&WirePath>,
) -> Result<Option<RelPath>, Refusal> {
    let home = user.principal.home.as_ref();
    let admitted = path
        .map(parse)
        .transpose()
        .and_then(|path| allow(user, action).map(|_| path))
        .map(|path| path.map_or_else(|| home.cloned(), |path| Some(path.below(home))));
    if let Err((code, _)) = &admitted {
        log_refusal(session, user, verb, path, *code);
    }
    admitted
}

fn parse(path: &WirePath) -> Result<RelPath, Refusal> {
    RelPath::parse(&path.0).map_err(bad_name)
}

fn allow(user: &User, action: Action) -> Result<Grant, Refusal> {
    decide(&user.principal, action).map_err(|refused| (ErrorCode::Denied, refused.to_string()))
}

fn bad_name(error: NameError) -> Refusal {
    (ErrorCode::BadName, error.to_string())
}

/// One line for a request that was refused at the gate.
pub(super) fn log_refusal<S: Store>(
    session: &Session<S>,
    user: &User,
    verb: &'static str,
    path: Option<&WirePath>,
    code: ErrorCode,
) {
    let path = path.map(|path| Escaped(&path.0).to_string()).unwrap_or_default();
    tracing::info!(
        user = user.principal.name,
        peer = session.address,
        verb,
        path,
        result = %code,
        "refused",
    );
}

/// One line for a transfer that ended, well or not.
fn log<S: Store>(
    session: &Session<S>,
    user: &User,
    verb: &'static str,
    path: Option<&RelPath>,
    started: Instant,
    outcome: Result<Seal, &TransferError>,
) {
    let path = path.map(ToString::to_string).unwrap_or_default();
    let (user, peer) = (user.principal.name.as_str(), session.address.as_str());
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Ok(Seal { bytes, digest }) => {
            tracing::info!(user, peer, verb, path, bytes, sha256 = %digest, result = "ok", duration_ms, "{verb} done");
        }
        Err(TransferError::Aborted) => {
            tracing::info!(
                user,
                peer,
                verb,
                path,
                result = "aborted",
                duration_ms,
                "{verb} given up"
            );
        }
        Err(error)
            if matches!(
                error.code(),
                ErrorCode::Io | ErrorCode::UnknownOutcome | ErrorCode::Internal
            ) =>
        {
            tracing::error!(user, peer, verb, path, result = %error.code(), duration_ms, "{verb} failed: {error}");
        }
        Err(error) => {
            tracing::info!(user, peer, verb, path, result = %error.code(), duration_ms, "{verb} failed: {error}");
        }
    }
}
