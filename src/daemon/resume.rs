//! Going on with a put that was cut, and asking what a put would be told.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::outgoing::Final;
use super::users::User;
use super::verbs::{Job, Refusal};
use crate::access::Action;
use crate::fsroot::{Owner, UploadId};
use crate::proto::{CheckInfo, PutRequest, ResumeInfo, WirePath};
use crate::transfer::{Keep, Store, check, digest_at};
use crate::types::{ErrorCode, RelPath};

/// How long an upload may still be written by a connection that is about to end.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// How often it is asked for meanwhile.
const BUSY_STEP: Duration = Duration::from_millis(50);

/// Whose a put is, whether anything of it is kept when it is cut, and what it continues: nothing of a put that
/// does without, of a user for whom `store` keeps nothing.
///
/// # Errors
/// `NotFound` for an upload that cannot be one of ours.
pub(super) fn keep<S: Store>(
    store: &S,
    user: &User,
    target: &RelPath,
    put: &PutRequest,
) -> Result<Option<Keep>, Refusal> {
    let unknown = || (ErrorCode::NotFound, "resume the upload: nothing of it is kept".to_owned());
    let resume = match &put.resume {
        None => None,
        Some(at) => Some((at.upload.parse::<UploadId>().map_err(|_| unknown())?, at.offset)),
    };
    let resumable = put.resumable || resume.is_some();
    if !resumable && !store.keeps(&user.principal.name) {
        return Ok(None);
    }
    Ok(Some(Keep { owner: owner(user, target), resumable, resume }))
}

fn owner(user: &User, target: &RelPath) -> Owner {
    Owner { user: user.principal.name.clone(), target: target.clone() }
}

/// Tells what is kept of a put.
pub(super) async fn tell<S: Store>(job: Job<'_, S>, path: &WirePath) -> Result<(), Refusal> {
    let (target, _) = job.admit_new(path, |path| Action::Put { path, replace: true })?;
    let owner = owner(job.user, &target);
    let outcome = async {
        let deadline = Instant::now() + BUSY_WAIT;
        let kept = loop {
            let asked = owner.clone();
            match job.on_disk(move |store| store.kept(&asked)).await {
                // A connection that was cut may still be at its last checkpoint.
                Err(error) if error.code() == ErrorCode::Busy && Instant::now() < deadline => {
                    sleep(BUSY_STEP).await;
                }
                kept => break kept?,
            }
        };
        let sha256 = digest_at(&kept.state)?;
        let info = ResumeInfo { upload: kept.id.to_string(), offset: kept.offset, sha256 };
        Ok(Final::Resume(info))
    };
    // What is kept is the asker's own: that there is nothing tells nothing of others.
    job.end_look(Some(&target), outcome.await).await;
    Ok(())
}

/// Tells what a put would meet.
pub(super) async fn tell_check<S: Store>(
    job: Job<'_, S>,
    path: WirePath,
    bytes: Option<u64>,
    replace: bool,
) -> Result<(), Refusal> {
    let put = PutRequest {
        path,
        bytes,
        mode: None,
        mtime_ns: None,
        replace,
        resumable: false,
        resume: None,
    };
    let (incoming, grant) = job.admit_put(&put)?;
    let target = incoming.target.clone();
    let store = Arc::clone(&job.session.server.store);
    let outcome = async {
        job.counted(&[&target]).await?;
        job.user.workers.run(move || check(&*store, &incoming)).await?
    };
    let outcome = outcome.await;
    let outcome = outcome.map(|exists| (Final::Check(CheckInfo { exists }), None));
    job.end(&target, None, &grant, outcome).await;
    Ok(())
}
