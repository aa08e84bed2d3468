//! The verbs that are one request and one answer: they change names, or tell a digest.

use super::outgoing::Final;
use super::verbs::{Job, Refusal};
use crate::access::{Action, Overwrite};
use crate::fsroot::{Moving, Parents};
use crate::proto::{DigestInfo, WirePath};
use crate::transfer::{Seal, Source as _, Store, digest, files_on};

pub(super) async fn remove<S: Store>(job: Job<'_, S>, path: &WirePath) -> Result<(), Refusal> {
    let (target, grant) = job.admit(path, |path| Action::Remove { path })?;
    let gone = target.clone();
    let outcome = job.change(&[&target], move |store| store.remove(&gone, grant.retain)).await;
    job.end(&target, None, &grant, outcome.map(|()| (Final::Removed, None))).await;
    Ok(())
}

pub(super) async fn rmdir<S: Store>(job: Job<'_, S>, path: &WirePath) -> Result<(), Refusal> {
    let (target, grant) = job.admit(path, |path| Action::Rmdir { path })?;
    let gone = target.clone();
    let outcome = job.change(&[&target], move |store| store.remove_directory(&gone)).await;
    job.end(&target, None, &grant, outcome.map(|()| (Final::Removed, None))).await;
    Ok(())
}

pub(super) async fn mkdir<S: Store>(
    job: Job<'_, S>,
    path: &WirePath,
    with_parents: bool,
) -> Result<(), Refusal> {
    let (target, grant) = job.admit_new(path, |path| Action::Mkdir { path })?;
    let parents = if with_parents { job.parents(&grant) } else { Parents::MustExist };
    let made = target.clone();
    let files = job.user.workers.puts().clone();
    let change = move |store: &S| {
        let _held = files.visit(files_on(&made));
        store.make_directory(&made, parents)
    };
    let outcome = job.change(&[&target], change).await;
    job.end(&target, None, &grant, outcome.map(|count| (Final::Made(count as u64), None))).await;
    Ok(())
}

pub(super) async fn rename<S: Store>(
    job: Job<'_, S>,
    from: &WirePath,
    to: &WirePath,
    replace: bool,
) -> Result<(), Refusal> {
    let (from, to, grant) = job.admit_rename(from, to, replace)?;
    let terms = Moving {
        replace: grant.overwrite == Overwrite::Allowed,
        retain: grant.retain,
        retain_target: grant.retain_target,
    };
    let (old, new) = (from.clone(), to.clone());
    let files = job.user.workers.puts().clone();
    let rename = move |store: &S| {
        let _held = files.visit(files_on(&old).saturating_add(files_on(&new)));
        store.rename(&old, &new, terms)
    };
    let outcome = job.change(&[&from, &to], rename).await;
    let outcome = outcome.map(|replaced| (Final::Renamed { replaced }, None));
    job.end(&from, Some(&to), &grant, outcome).await;
    Ok(())
}

pub(super) async fn tell_digest<S: Store>(
    job: Job<'_, S>,
    path: &WirePath,
    reread: bool,
) -> Result<(), Refusal> {
    let (target, grant) = job.admit(path, |path| Action::Digest { path })?;
    let wanted = target.clone();
    let watched = job.watch(&target);
    let outcome = async {
        let _held = job.user.workers.hold_reads(1).await?;
        let source = job.on_disk(move |store| store.open(&wanted)).await?;
        let mtime_ns = source.stat().map_or(0, |stat| stat.mtime_ns);
        let (seal, reread) = digest(source, reread, &job.user.share, &job.user.workers).await?;
        let Seal { bytes, digest: sha256 } = seal;
        Ok((Final::Digest(DigestInfo { bytes, sha256, mtime_ns, reread }), Some(seal)))
    };
    let outcome = outcome.await;
    watched.ended();
    job.end(&target, None, &grant, outcome).await;
    Ok(())
}
