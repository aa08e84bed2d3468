//! Uploads that go on where they were cut: after a lost connection, or with the same command later.

use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};

use super::engine::wire;
use super::exit::{Exit, Failure};
use super::job::Patience;
use super::local::Input;
use super::report::{Done, Meter};
use super::state::{Progress, STEP};
use super::upload::{Ended, Route, Start, Stream, attempt, lock, stored, stream};
use crate::proto::{Answer, PutRequest, Request, ResumeAt, ResumeInfo};
use crate::transfer::Seal;
use crate::types::limits::BUFFER_BYTES;
use crate::types::{ErrorCode, Sha256Digest};

/// Stores a file so that what has arrived is not sent again, whatever cuts it. Small ones are not worth
/// the question where to begin.
///
/// # Errors
/// Nothing new is stored; the server's word why, the connection's end, or our own.
pub async fn resumable(
    route: &Route,
    mut request: PutRequest,
    mut content: Stream,
    meter: &Meter,
) -> Result<Done, Failure> {
    let Some(witness) = content.input.witness().copied().filter(|known| known.bytes >= STEP) else {
        return stream(route, request, content, meter).await;
    };
    request.resumable = true;
    let progress = Progress::load(&route.server, &route.path, &witness);
    let mut sealed = progress.sealed().map(|end| Seal { bytes: end.bytes, digest: end.sha256 });
    let progress = Arc::new(Mutex::new(progress));
    let mut patience = route.job.patience();
    let (mut reached, mut is_under_way) = (0, false);
    loop {
        // Everything was sent before, and only the answer is missing.
        if let Some(seal) = sealed
            && let Some(done) = route.is_there(seal).await
        {
            lock(&progress).clear();
            return Ok(done);
        }
        let ended = match begin(route, &content.input, &progress, &mut patience).await {
            Err(failure) => Ended::Answered(Err(failure)),
            Ok((start, resume)) => {
                if start.offset > reached {
                    patience.progressed();
                    reached = start.offset;
                }
                meter.restart();
                meter.passed(start.offset);
                request.resume = resume;
                match route.line().await {
                    Ok(line) => attempt(&line, request.clone(), &mut content, start, meter).await,
                    Err(failure) => Ended::Answered(Err(failure)),
                }
            }
        };
        is_under_way |= meter.has_moved();
        let outcome = match ended {
            Ended::Local(failure) => return Err(failure),
            Ended::Answered(outcome) => outcome,
            Ended::Sealed(seal, outcome) => {
                sealed = Some(seal);
                outcome
            }
        };
        // What was kept is gone, or is no longer what it was: once more, from the start.
        let is_stale = request.resume.is_some()
            && matches!(&outcome, Err(failure) if matches!(failure.code,
                Some(ErrorCode::NotFound | ErrorCode::Changed | ErrorCode::BadDigest)));
        if is_stale {
            lock(&progress).clear();
            (request.resume, sealed) = (None, None);
            continue;
        }
        if route.job.again(&route.server, route.lane, &mut patience, &outcome).await {
            continue;
        }
        if !outcome.as_ref().is_err_and(Failure::is_lost) {
            lock(&progress).clear();
        }
        let outcome = outcome.map_err(|lost| if is_under_way { lost.goes_on() } else { lost });
        let seal = sealed.unwrap_or(Seal { bytes: 0, digest: Sha256Digest([0; 32]) });
        return stored(&outcome?, seal, request.resume.map_or(0, |resume| resume.offset));
    }
}

/// Where to begin: behind what the server has kept, if it is the beginning of what we have.
async fn begin(
    route: &Route,
    input: &Input,
    progress: &Arc<Mutex<Progress>>,
    patience: &mut Patience,
) -> Result<(Start, Option<ResumeAt>), Failure> {
    let fresh = || Start { progress: Some(Arc::clone(progress)), ..Start::default() };
    let request = Request::Resume { path: wire(&route.path) };
    let kept = loop {
        match route.line().await?.ask(&request).await {
            Ok(Answer::Resume(kept)) => break kept,
            Ok(_) => {
                return Err(Failure::new(
                    Exit::Protocol,
                    "the server's answer is not to what was asked",
                ));
            }
            // The connection is gone, or was never wanted.
            Err(failure)
                if failure.is_lost()
                    || matches!(failure.code, Some(ErrorCode::Auth | ErrorCode::Limit)) =>
            {
                return Err(failure);
            }
            // An old connection of ours that is not known to be dead yet, or another client.
            Err(failure) if failure.code == Some(ErrorCode::Busy) => {
                if !patience.wait().await {
                    return Err(failure.doing("another connection writes this file"));
                }
            }
            // Nothing is kept, or the server cannot keep anything; a put says whatever else is wrong.
            Err(_) => return Ok((fresh(), None)),
        }
    };
    let ResumeInfo { upload, offset, sha256 } = kept;
    if input.witness().is_none_or(|witness| offset > witness.bytes) {
        return Ok((fresh(), None));
    }
    let (from, hasher) = lock(progress).before(offset);
    let own = input.clone();
    let before = tokio::task::spawn_blocking(move || hash_on(&own, from, offset, hasher)).await;
    match before.ok().and_then(Result::ok) {
        Some(hasher) if Sha256Digest(hasher.clone().finalize().into()) == sha256 => {
            let start = Start { offset, hasher, progress: Some(Arc::clone(progress)) };
            Ok((start, Some(ResumeAt { upload, offset })))
        }
        _ => Ok((fresh(), None)),
    }
}

/// Goes on hashing what lies between two offsets.
fn hash_on(input: &Input, from: u64, to: u64, mut hasher: Sha256) -> std::io::Result<Sha256> {
    let mut room = vec![0; BUFFER_BYTES];
    let mut offset = from;
    while offset < to {
        let most = room.len().min(usize::try_from(to - offset).unwrap_or(usize::MAX));
        let read = input.read(&mut room[..most], offset)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&room[..read]);
        offset += read as u64;
    }
    Ok(hasher)
}
