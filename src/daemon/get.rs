//! A file on its way out.

use tokio::sync::oneshot;

use super::running::LastWord;
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
    last_word: &LastWord,
    path: &WirePath,
    offset: u64,
    version: Option<&str>,
) -> Result<(), Refusal> {
    if offset > 0 && version.is_none() {
        let told = "an offset means something only with the version that it is of";
        return job.logged((Some(path), None), || Err((ErrorCode::Protocol, told.to_owned())));
    }
    let (target, grant) = job.admit(path, |path| Action::Get { path })?;
    let mut watched = job.watch(&target);
    let outbox = Outbox { id: job.id, parts: job.session.parts.clone() };
    let share = job.user.share.clone();
    let (receipt, sent) = oneshot::channel();
    // First a place, so that what a peer does not read holds little memory.
    let mut place = job.session.wholes.reserve().await.ok();
    let outcome = async {
        let taken = if version.is_none() {
            job.session.shelf.take(target.clone(), share, &job.user.workers).await?
        } else {
            Taken::Crowded
        };
        let (source, _held) = match taken {
            Taken::Whole(whole) => {
                let seal = whole.seal;
                if job.user.bandwidth.is_none() {
                    return Ok((seal, Part::Whole(whole, receipt)));
                }
                // Its end waits until its content is paid for.
                let Whole { stat, version, content, .. } = *whole;
                outbox.send(Part::Begin(stat, version)).await?;
                if let Some(content) = content {
                    outbox.send(Part::Data(content)).await?;
                }
                return Ok((seal, Part::End(seal, Some(receipt))));
            }
            // What is streamed waits in the other channel.
            Taken::Open(source, held) => {
                place = None;
                (source, held)
            }
            Taken::Crowded => {
                place = None;
                let held = job.user.workers.hold_reads(1).await?;
                let wanted = target.clone();
                (job.on_disk(move |store| store.open(&wanted)).await?, held)
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
        let seal = send_from(source, offset, outbox.clone(), share, workers).await?;
        Ok((seal, Part::End(seal, Some(receipt))))
    };
    let (seal, end) = match outcome.await {
        Ok(end) => end,
        Err(error) => {
            watched.ended();
            log(&job, Some(&target), None, Err(&error));
            let _ = outbox.send(Part::Failed(told(error, &grant))).await;
            return Ok(());
        }
    };
    if !last_word.take() {
        return Ok(()); // It was cancelled.
    }
    watched.ends_with(seal, sent);
    // A connection that is gone needs no end.
    match (end, place) {
        (end @ Part::Whole(..), Some(place)) => {
            place.send((job.id, end));
        }
        (end, _) => drop(outbox.send(end).await),
    }
    watched.sent(outbox.parts.closed()).await;
    Ok(())
}
