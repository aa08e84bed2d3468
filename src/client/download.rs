//! One file on its way from a server, into a place where it appears only whole and verified.

use std::sync::Arc;

use super::engine::{Download, cut, wire};
use super::exit::Failure;
use super::local::Partial;
use super::report::{Done, Meter};
use super::upload::Route;
use crate::access::Overwrite;
use crate::fsroot::{Kept, Owner, Parents};
use crate::proto::{FileInfo, Request};
use crate::transfer::{Committed, Inbox, Incoming, Keep, Sink, TransferError, Workers};
use crate::types::{ErrorCode, RelPath};

/// Where a file goes on this side.
pub struct Landing<S: Sink> {
    /// The place.
    pub inbox: Arc<Inbox<S>>,
    /// The name in it.
    pub target: RelPath,
    /// Keep mode and time of modification.
    pub preserve: bool,
    /// What may happen to a name that is taken.
    pub overwrite: Overwrite,
    /// Whether a second attempt may begin anew: not where the first has already been seen.
    pub repeatable: bool,
}

impl<S: Sink> Landing<S> {
    fn incoming(&self, info: &FileInfo, keep: Option<Keep>) -> Incoming {
        Incoming {
            target: self.target.clone(),
            announced: Some(info.bytes),
            bytes_max: u64::MAX,
            overwrite: self.overwrite,
            retain: None,
            keep,
            parents: Parents::Make,
            mode: self.preserve.then_some(info.mode),
            mtime_ns: self.preserve.then_some(info.mtime_ns),
        }
    }
}

/// Fetches a file, again if the connection is lost.
///
/// # Errors
/// Nothing new is there; the server's word why, the connection's end, or our own.
pub async fn fetch<S: Sink>(
    route: &Route,
    landing: &Landing<S>,
    workers: &Workers,
    meter: &Meter,
) -> Result<Done, Failure> {
    let mut patience = route.job.patience();
    loop {
        let outcome = attempt(route, landing, None, None, workers, meter).await;
        let retry = landing.repeatable
            && route.job.again(&route.server, route.lane, &mut patience, &outcome).await;
        if !retry {
            return outcome.map(|committed| done(&committed, 0));
        }
        meter.restart();
    }
}

/// The same, and what was fetched before is not fetched again: in an earlier attempt, or by an earlier
/// process.
///
/// # Errors
/// As [`fetch`].
pub async fn fetch_on(
    route: &Route,
    landing: &Landing<Partial>,
    workers: &Workers,
    meter: &Meter,
) -> Result<Done, Failure> {
    let mut patience = route.job.patience();
    let (mut reached, mut is_under_way) = (0, false);
    loop {
        let store = Arc::clone(landing.inbox.store());
        let found = workers.run(move || store.find()).await?;
        let offset = found.as_ref().map_or(0, |(_, kept)| kept.offset);
        if offset > reached {
            patience.progressed();
            reached = offset;
        }
        let resumes = found.is_some();
        meter.restart();
        meter.passed(offset);
        let keeper = Some(&**landing.inbox.store());
        let outcome = attempt(route, landing, keeper, found, workers, meter).await;
        is_under_way |= meter.has_moved();
        let code = outcome.as_ref().err().and_then(|failure| failure.code);
        // It is another file by now, or the part that was there is not what it was.
        if resumes && matches!(code, Some(ErrorCode::Changed | ErrorCode::BadDigest)) {
            let store = Arc::clone(landing.inbox.store());
            if workers.run(move || store.forget()).await? {
                reached = 0;
                continue;
            }
        }
        if !route.job.again(&route.server, route.lane, &mut patience, &outcome).await {
            let outcome = outcome.map(|committed| done(&committed, offset));
            return outcome.map_err(|lost| if is_under_way { lost.goes_on() } else { lost });
        }
    }
}

fn done(committed: &Committed, resumed: u64) -> Done {
    let seal = committed.seal();
    Done {
        bytes: seal.bytes,
        sha256: seal.digest,
        mtime_ns: committed.mtime_ns(),
        replaced: committed.replaced(),
        resumed,
        confirmed: false,
    }
}

async fn attempt<S: Sink>(
    route: &Route,
    landing: &Landing<S>,
    keeper: Option<&Partial>,
    found: Option<(Owner, Kept)>,
    workers: &Workers,
    meter: &Meter,
) -> Result<Committed, Failure> {
    let line = route.job.line(&route.server, route.lane).await?;
    let (offset, version) = match &found {
        Some((owner, kept)) => (kept.offset, Some(owner.user.clone())),
        None => (0, None),
    };
    let request = Request::Get { path: wire(&route.path), offset, version };
    let Download { info, parts, why, stop } = line.get(&request, meter).await?;
    let keep = match found {
        Some((owner, kept)) => {
            Some(Keep { owner, resumable: true, resume: Some((kept.id, kept.offset)) })
        }
        None => keeper.and_then(|keeper| keeper.owner(&info.version)).map(|owner| Keep {
            owner,
            resumable: true,
            resume: None,
        }),
    };
    let incoming = landing.incoming(&info, keep);
    match landing.inbox.receive(incoming, parts, workers).await {
        Ok(committed) => Ok(committed),
        Err(TransferError::Aborted) => Err(why.take().unwrap_or_else(cut)),
        Err(error) => {
            stop.now().await;
            let failure = Failure::from(error.clone()).doing("store the file here");
            Err(match error {
                TransferError::Digest { .. } | TransferError::Length { .. } => failure.hint(
                    "what the server has is not what was stored there, or was changed on its way",
                ),
                TransferError::Store(_) if failure.code == Some(ErrorCode::Exists) => {
                    failure.hint("the name is taken here; leave --no-clobber away to replace it")
                }
                TransferError::Store(_) if failure.code == Some(ErrorCode::NoSpace) => {
                    failure.hint("make room here, and run the same again")
                }
                TransferError::Store(_) if failure.code == Some(ErrorCode::WrongType) => failure
                    .hint("only files are replaced here; into anything else: ftc get … - > FILE"),
                _ => failure,
            })
        }
    }
}
