//! One file on its way from a server, into a place where it appears only whole and verified.

use std::sync::Arc;

use super::engine::{Download, wire};
use super::exit::Failure;
use super::report::{Done, Meter};
use super::upload::Route;
use crate::access::Overwrite;
use crate::fsroot::Parents;
use crate::proto::{FileInfo, Request};
use crate::transfer::{Committed, Incoming, Sink, TransferError, Workers, receive};
use crate::types::RelPath;

/// Where a file goes on this side.
pub struct Landing<S> {
    /// The place.
    pub store: Arc<S>,
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
    fn incoming(&self, info: &FileInfo) -> Incoming {
        Incoming {
            target: self.target.clone(),
            announced: Some(info.bytes),
            bytes_max: u64::MAX,
            overwrite: self.overwrite,
            retain: None,
            keep: None,
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
        let outcome = attempt(route, landing, workers, meter).await;
        let retry = landing.repeatable
            && route.job.again(&route.server, route.lane, &mut patience, &outcome).await;
        if !retry {
            let committed = outcome?;
            let seal = committed.seal();
            return Ok(Done {
                bytes: seal.bytes,
                sha256: seal.digest,
                mtime_ns: committed.mtime_ns(),
                replaced: committed.replaced(),
                resumed: 0,
                confirmed: false,
            });
        }
        meter.restart();
    }
}

async fn attempt<S: Sink>(
    route: &Route,
    landing: &Landing<S>,
    workers: &Workers,
    meter: &Meter,
) -> Result<Committed, Failure> {
    let line = route.job.line(&route.server, route.lane).await?;
    let request = Request::Get { path: wire(&route.path), offset: 0, version: None };
    let Download { info, parts, why, stop } = line.get(&request, meter).await?;
    let incoming = landing.incoming(&info);
    match receive(Arc::clone(&landing.store), incoming, parts, workers).await {
        Ok(committed) => Ok(committed),
        Err(TransferError::Aborted) => Err(why.take().unwrap_or_else(super::engine::cut)),
        Err(error) => {
            stop.now().await;
            let failure = Failure::from(error.clone()).doing("store the file here");
            Err(match error {
                TransferError::Digest { .. } | TransferError::Length { .. } => failure.hint(
                    "what the server has is not what was stored there, or was changed on its way",
                ),
                TransferError::Store(_)
                    if failure.code == Some(crate::types::ErrorCode::Exists) =>
                {
                    failure.hint("the name is taken here; leave --no-clobber away to replace it")
                }
                _ => failure,
            })
        }
    }
}
