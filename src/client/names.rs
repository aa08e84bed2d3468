//! `rm`, `mv` and `mkdir`: changes of names, many of them on their way at once.

use std::ffi::OsString;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::engine::wire;
use super::exit::{Exit, Failure};
use super::held::Held;
use super::job::Job;
use super::operand::{Remote, Server};
use super::remote::{child, expand, list, stat};
use super::report::{Action, Item};
use crate::proto::{EntryType, Request};
use crate::types::{ErrorCode, RelPath};

/// Requests that are under way at once.
const AT_ONCE: usize = 128;

/// `ftc mkdir [-p] REMOTE…`
pub async fn mkdir(job: &Arc<Job>, operands: Vec<OsString>, parents: bool) {
    for operand in operands {
        let mut item = None;
        let outcome = async {
            let (server, remote) = job.remote(&operand)?;
            let Some(path) = remote.rel_path()? else {
                return if parents {
                    Ok(())
                } else {
                    Err(Failure::new(Exit::Exists, "your home is there"))
                };
            };
            let request = Request::Mkdir { path: wire(&path), parents };
            let item = item.insert(Item::there(Action::Mkdir, &path));
            let made = job.ask(&server, &request).await;
            made.map_err(|failure| {
                let failure = failure.doing(format!("mkdir {path}"));
                match failure.code {
                    Some(ErrorCode::Exists) => {
                        failure.hint("be content with a directory that is there: ftc mkdir -p")
                    }
                    Some(ErrorCode::NotFound) => {
                        failure.hint("make those above it too with: ftc mkdir -p")
                    }
                    _ => failure,
                }
            })?;
            job.report.changed(item, None);
            Ok(())
        };
        let outcome = outcome.await;
        job.note(item.as_ref(), outcome);
    }
}

/// `ftc mv REMOTE… REMOTE`
///
/// # Errors
/// The operands make no sense together.
pub async fn mv(
    job: &Arc<Job>,
    mut operands: Vec<OsString>,
    no_clobber: bool,
) -> Result<(), Failure> {
    let Some(last) = operands.pop() else { return Ok(()) };
    let (server, target) = job.remote(&last)?;
    let mut sources = Vec::new();
    for operand in &operands {
        let (other, remote) = job.remote(operand)?;
        if other != server {
            return Err(Failure::new(
                Exit::Usage,
                "a file cannot be moved from one server to another",
            )
            .hint("get it, put it there, and remove it here"));
        }
        for named in expand(job, &server, &remote).await? {
            sources.push(named.some("move")?.clone());
        }
    }
    let path = target.rel_path()?;
    let is_directory = path.is_none() || target.path.ends_with(b"/");
    let into = is_directory
        || stat(job, &server, path.as_ref())
            .await
            .is_ok_and(|info| info.kind == EntryType::Directory);
    if sources.len() > 1 && !into {
        return Err(Failure::new(Exit::Usage, "several files need a directory to go to")
            .hint("make it with: ftc mkdir"));
    }
    for source in sources {
        let to = match &path {
            Some(path) if !into => path.clone(),
            directory => child(directory.as_ref(), source.split_last().1.raw_bytes())?,
        };
        let request = Request::Rename { path: wire(&source), to: wire(&to), replace: !no_clobber };
        let item = Item::there(Action::Mv, &source);
        let outcome = job.ask(&server, &request).await.map(drop);
        if outcome.is_ok() {
            job.report.changed(&item, Some(&to));
        }
        let outcome = outcome.map_err(|failure| failure.doing(format!("mv {source} to {to}")));
        job.note(Some(&item), outcome);
    }
    Ok(())
}

/// `ftc rm [-r] REMOTE…`
pub async fn rm(job: &Arc<Job>, operands: Vec<OsString>, recursive: bool, dry_run: bool) {
    let removal = Removal { job: Arc::clone(job), recursive, dry_run };
    for operand in operands {
        let found = async {
            let (server, remote) = job.remote(&operand)?;
            Ok((expand(job, &server, &remote).await?, server, remote))
        };
        match found.await {
            Err(failure) => job.note(None, Err(failure)),
            Ok((names, server, remote)) => {
                for named in names {
                    removal.operand(&server, &remote, named.path, named.kind).await;
                }
            }
        }
    }
}

struct Removal {
    job: Arc<Job>,
    recursive: bool,
    dry_run: bool,
}

impl Removal {
    async fn operand(
        &self,
        server: &Server,
        remote: &Remote,
        path: Option<RelPath>,
        kind: Option<EntryType>,
    ) {
        let Some(path) = path else {
            // All that is in the home, but only if it was spelled out, `:.`: whoever writes `:$DIR/` may have
            // forgotten to set DIR.
            if self.recursive && remote.path.contains(&b'.') {
                self.tree(server, None).await;
            } else {
                self.job.note(
                    None,
                    Err(Failure::new(Exit::Usage, "your home cannot be removed")
                        .hint("what is in it goes with: ftc rm -r :.")),
                );
            }
            return;
        };
        if kind == Some(EntryType::Directory) {
            if self.recursive {
                self.tree(server, Some(path)).await;
            } else {
                self.note(&path, Err(is_directory(&path)));
            }
            return;
        }
        match self.file(server, &path).await {
            Err(failure) if failure.code == Some(ErrorCode::WrongType) && self.recursive => {
                self.tree(server, Some(path)).await;
            }
            Err(failure) if failure.code == Some(ErrorCode::WrongType) => {
                self.note(&path, Err(is_directory(&path)));
            }
            outcome => self.note(&path, outcome.map_err(|failure| doing(failure, &path))),
        }
    }

    fn note(&self, path: &RelPath, outcome: Result<(), Failure>) {
        self.job.note(Some(&Item::there(Action::Rm, path)), outcome);
    }

    async fn file(&self, server: &Server, path: &RelPath) -> Result<(), Failure> {
        if self.dry_run {
            let found = stat(&self.job, server, Some(path)).await?;
            if found.kind == EntryType::Directory {
                return Err(Failure::of_server(ErrorCode::WrongType, "it is a directory"));
            }
            self.job.report.would(&Item::there(Action::Rm, path), "remove");
            return Ok(());
        }
        self.job.ask(server, &Request::Remove { path: wire(path) }).await?;
        self.job.report.changed(&Item::there(Action::Rm, path), None);
        Ok(())
    }

    /// Removes the files first, all over the tree, and then the directories, the deepest first.
    async fn tree(&self, server: &Server, top: Option<RelPath>) {
        let mut levels: Vec<Vec<RelPath>> = Vec::new();
        let mut pending = vec![(top.clone(), 0)];
        let mut held = Held::default(); // Of `pending` and `levels`.
        let mut removing = JoinSet::new();
        while let Some((directory, depth)) = pending.pop() {
            let entries = match list(&self.job, server, directory.as_ref()).await {
                Ok(entries) => entries,
                Err(failure) => {
                    let name =
                        directory.as_ref().map_or_else(|| ".".to_owned(), RelPath::to_string);
                    let item = directory.as_ref().map(|path| Item::there(Action::Rm, path));
                    self.job.note(item.as_ref(), Err(failure.doing(format!("list {name}"))));
                    continue;
                }
            };
            if let Some(directory) = &directory {
                levels.resize_with(levels.len().max(depth + 1), Vec::new);
                levels[depth].push(directory.clone());
            }
            for entry in entries {
                let path = match child(directory.as_ref(), &entry.name.0) {
                    Ok(path) => path,
                    Err(failure) => {
                        self.job.note(None, Err(failure));
                        continue;
                    }
                };
                if entry.kind == EntryType::Directory {
                    if let Err(failure) = held.keep(path.raw_bytes()) {
                        self.note(&path, Err(doing(failure, &path)));
                        self.drain(&mut removing, 0).await;
                        return;
                    }
                    pending.push((Some(path), depth + 1));
                } else {
                    self.spawn(&mut removing, server, Request::Remove { path: wire(&path) }, path)
                        .await;
                }
            }
        }
        self.drain(&mut removing, 0).await;
        for level in levels.into_iter().rev() {
            for path in level {
                self.spawn(&mut removing, server, Request::Rmdir { path: wire(&path) }, path).await;
            }
            self.drain(&mut removing, 0).await;
        }
    }

    async fn spawn(
        &self,
        removing: &mut JoinSet<(RelPath, Result<(), Failure>)>,
        server: &Server,
        request: Request,
        path: RelPath,
    ) {
        if self.dry_run {
            self.job.report.would(&Item::there(Action::Rm, &path), "remove");
            self.job.succeeded();
            return;
        }
        let (job, server) = (Arc::clone(&self.job), server.clone());
        removing.spawn(async move {
            let removed = job.ask(&server, &request).await.map(drop);
            (path, removed)
        });
        self.drain(removing, AT_ONCE).await;
    }

    /// Waits until no more than `most` are under way.
    async fn drain(&self, removing: &mut JoinSet<(RelPath, Result<(), Failure>)>, most: usize) {
        while removing.len() > most {
            match removing.join_next().await {
                Some(Ok((path, outcome))) => {
                    if outcome.is_ok() {
                        self.job.report.changed(&Item::there(Action::Rm, &path), None);
                    }
                    self.note(&path, outcome.map_err(|failure| doing(failure, &path)));
                }
                _ => return,
            }
        }
    }
}

fn doing(failure: Failure, path: &RelPath) -> Failure {
    failure.doing(format!("rm {path}"))
}

fn is_directory(path: &RelPath) -> Failure {
    let mut failure = Failure::new(Exit::Other, format!("rm {path}: it is a directory"));
    failure.code = Some(ErrorCode::WrongType);
    failure.hint("remove it and all that is in it with: ftc rm -r")
}
