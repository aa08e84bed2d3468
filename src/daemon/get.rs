//! A file on its way out.

use super::verbs::{Job, Refusal, log, told};
use crate::access::Action;
use crate::proto::WirePath;
use crate::transfer::{Outbox, Part, Source as _, Store, Taken, TransferError, Whole, send_from};
use crate::types::ErrorCode;

/// Sends a file, from `offset` on if that is of the version that is there.
///
/// # Errors
/// The refusal, which has been logged.
pub(super) async fn get<S: Store>(
    job: Job<'_, S>,
    path: &WirePath,
    offset: u64,
    version: Option<&str>,
) -> Result<(), Refusal> {
    if offset > 0 && version.is_none() {
        let told = "an offset means something only with the version that it is of";
        return job.logged((Some(path), None), || Err((ErrorCode::Protocol, told.to_owned())));
    }
    let (target, grant) = job.admit(path, |path| Action::Get { path })?;
    let outbox = Outbox { id: job.id, parts: job.session.parts.clone() };
    let share = job.user.share.clone();
    // First a place, so that what a peer does not read holds little memory.
    let mut place = job.session.wholes.reserve().await.ok();
    let outcome = async {
        let taken = if version.is_none() {
            job.session.shelf.take(target.clone(), share, &job.user.workers).await?
        } else {
            let wanted = target.clone();
            Taken::Open(job.on_disk(move |store| store.open(&wanted)).await?)
        };
        let source = match taken {
            Taken::Whole(whole) => {
                if job.user.bandwidth.is_none() {
                    return Ok(Part::Whole(whole));
                }
                // Its end waits until its content is paid for.
                let Whole { stat, version, content, seal } = *whole;
                outbox.send(Part::Begin(stat, version)).await?;
                if let Some(content) = content {
                    outbox.send(Part::Data(content)).await?;
                }
                return Ok(Part::End(seal));
            }
            Taken::Open(source) => {
                place = None; // What is streamed waits in the other channel.
                source
            }
        };
        let is_other = version.is_some_and(|version| version != source.version());
        if is_other || source.stat().is_some_and(|stat| stat.bytes < offset) {
            return Err(TransferError::Changed);
        }
        if let Some(stat) = source.stat() {
            outbox.send(Part::Begin(stat.clone(), source.version())).await?;
        }
        let (share, workers) = (job.user.share.clone(), &job.user.workers);
        send_from(source, offset, outbox.clone(), share, workers).await.map(Part::End)
    };
    let outcome = outcome.await;
    let seal = |part: &Part| match part {
        Part::Whole(whole) => Some(whole.seal),
        Part::End(seal) => Some(*seal),
        _ => None,
    };
    log(&job, Some(&target), None, outcome.as_ref().map(seal));
    let end = outcome.unwrap_or_else(|error| Part::Failed(told(error, &grant)));
    // A connection that is gone needs no end.
    match (end, place) {
        (end @ Part::Whole(_), Some(place)) => {
            place.send((job.id, end));
        }
        (end, _) => drop(outbox.send(end).await),
    }
    Ok(())
}
