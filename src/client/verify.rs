//! `ftc verify`: the same content here and there, by digest, without moving it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::engine::wire;
use super::exit::{Exit, Failure};
use super::held::Held;
use super::job::Job;
use super::local::walk::{Found, Leaf, walk};
use super::local::{Input, Named, Witness, is_directory, open_failure};
use super::operand::{Remote, Server};
use super::remote::{child, list, stat};
use super::report::{Action, Item};
use super::upload::digest;
use crate::proto::{Answer, EntryType, Request};
use crate::transfer::{Seal, Workers};
use crate::types::{ErrorCode, Escaped, RelPath};

/// Files that are compared at once.
const AT_ONCE: usize = 64;
/// Files that are hashed here at once.
const READERS: usize = 2;

struct Verify {
    job: Arc<Job>,
    server: Server,
    reread: bool,
    workers: Workers,
}

/// What came of one file.
enum Verdict {
    Same,
    Different(&'static str),
}

/// `ftc verify [-r] LOCAL [REMOTE]`
///
/// # Errors
/// The operands make no sense; what happens to single files is counted in the job.
pub async fn verify(
    job: &Arc<Job>,
    local: OsString,
    remote: &OsString,
    recursive: bool,
    reread: bool,
) -> Result<(), Failure> {
    let port = job.settings.global.port;
    let (server, remote) = match Remote::recognise(remote, port)? {
        Some(remote) => {
            let remote = job.placed(remote);
            (job.server_of(&remote)?, remote)
        }
        None => job.remote(remote)?,
    };
    let workers = Workers::new(READERS);
    let verify = Arc::new(Verify { job: Arc::clone(job), server, reread, workers });
    if is_directory(Path::new(&local)) {
        if !recursive {
            return Err(Failure::new(
                Exit::Other,
                format!("{} is a directory", Escaped(local.as_bytes())),
            )
            .hint("compare all that is in it with: ftc verify -r"));
        }
        return verify.tree(&local, &remote).await;
    }
    let Named::File(input) = Named::open(Path::new(&local))? else { return Ok(()) };
    let name = Path::new(&local).file_name().map(|name| name.as_bytes().to_vec());
    let mut path = remote.target(name.as_deref())?;
    if let Some(name) = &name
        && stat(job, &verify.server, Some(&path))
            .await
            .is_ok_and(|info| info.kind == EntryType::Directory)
    {
        path = child(Some(&path), name)?;
    }
    let outcome = verify.compare(&path, Ok(input)).await;
    verify.tell(local.as_bytes(), path.raw_bytes(), outcome);
    Ok(())
}

impl Verify {
    /// Compares one file; a server that has none has a different one.
    async fn compare(
        &self,
        path: &RelPath,
        input: Result<Input, Failure>,
    ) -> Result<Verdict, Failure> {
        let input = input?;
        let request = Request::Digest { path: wire(path), reread: self.reread };
        let there = self.job.ask(&self.server, &request);
        let there = match there.await {
            Ok(Answer::Digest(info)) => Seal { bytes: info.bytes, digest: info.sha256 },
            Ok(_) => {
                return Err(Failure::new(
                    Exit::Protocol,
                    "the server's answer is not to what was asked",
                ));
            }
            Err(failure) => match failure.code {
                Some(ErrorCode::NotFound) => return Ok(Verdict::Different("not on the server")),
                Some(ErrorCode::WrongType) => {
                    return Ok(Verdict::Different("no regular file on the server"));
                }
                Some(ErrorCode::Corrupt) => {
                    return Ok(Verdict::Different(
                        "the server's copy is no longer what was stored",
                    ));
                }
                _ => return Err(failure),
            },
        };
        if input.witness().is_some_and(|witness| witness.bytes != there.bytes) {
            return Ok(Verdict::Different("another size"));
        }
        let here = self.workers.run(move || input).await?;
        Ok(if digest(here).await? == there {
            Verdict::Same
        } else {
            Verdict::Different("other content")
        })
    }

    /// Says what came of it as `sha256sum -c` would.
    fn tell(&self, name: &[u8], path: &[u8], outcome: Result<Verdict, Failure>) {
        let item = Item { action: Action::Verify, path: path.to_vec(), local: name.to_vec() };
        match outcome {
            Ok(Verdict::Same) => {
                self.job.report.verified(&item, None);
                self.job.succeeded();
            }
            Ok(Verdict::Different(why)) => {
                self.job.report.verified(&item, Some(why));
                self.job.count(Exit::Integrity);
            }
            Err(failure) => {
                let failure = failure.doing(format!("verify {}", Escaped(name)));
                self.job.note(Some(&item), Err(failure));
            }
        }
    }

    /// Compares every file of a tree here, and names what is on the server only.
    async fn tree(self: &Arc<Self>, local: &OsString, remote: &Remote) -> Result<(), Failure> {
        let shown = |path: &[u8]| {
            let path = std::ffi::OsStr::from_bytes(path);
            Path::new(local).join(path).as_os_str().as_bytes().to_vec()
        };
        let base = remote.rel_path()?;
        let top = local.clone();
        let (sender, mut found) = mpsc::channel(AT_ONCE);
        let walking = tokio::task::spawn_blocking(move || {
            walk(Path::new(&top), |found| sender.blocking_send(found).is_ok())
        });
        let mut comparing = JoinSet::new();
        while let Some(found) = found.recv().await {
            match found {
                Found::File(leaf) => {
                    let (verify, base) = (Arc::clone(self), base.clone());
                    comparing.spawn(async move {
                        match whole_path(base.as_ref(), &leaf.path) {
                            Ok(path) => {
                                let outcome = verify.compare(&path, open(&leaf)).await;
                                (leaf.path, path.raw_bytes().to_vec(), outcome)
                            }
                            Err(failure) => (leaf.path.clone(), leaf.path, Err(failure)),
                        }
                    });
                }
                Found::Empty(_) => {}
                Found::Skipped(path, why) => {
                    let there = whole_path(base.as_ref(), &path);
                    let there =
                        there.map_or_else(|_| path.clone(), |there| there.raw_bytes().to_vec());
                    let item = Item { action: Action::Verify, path: there, local: shown(&path) };
                    self.job.report.skipped(&item, 0, why);
                    self.job.count(Exit::Partial);
                }
                Found::Failed(path, error) => {
                    self.job.note(None, Err(open_failure(&shown(&path), &error.into())));
                }
            }
            if comparing.len() >= AT_ONCE
                && let Some(Ok((path, there, outcome))) = comparing.join_next().await
            {
                self.tell(&shown(&path), &there, outcome);
            }
        }
        while let Some(Ok((path, there, outcome))) = comparing.join_next().await {
            self.tell(&shown(&path), &there, outcome);
        }
        if let Ok(Err(error)) = walking.await {
            return Err(open_failure(local.as_bytes(), &error.into()));
        }
        self.others(Path::new(local), base).await;
        Ok(())
    }

    /// Files that are on the server and not here.
    async fn others(&self, local: &Path, base: Option<RelPath>) {
        let mut pending = vec![(base, local.to_owned())];
        let mut held = Held::default();
        while let Some((directory, here)) = pending.pop() {
            held.release(here.as_os_str().as_bytes());
            let entries = match list(&self.job, &self.server, directory.as_ref()).await {
                Ok(entries) => entries,
                Err(failure) => {
                    self.job.note(None, Err(failure.doing("verify: list")));
                    continue;
                }
            };
            for entry in entries {
                let path = match child(directory.as_ref(), &entry.name.0) {
                    Ok(path) => path,
                    Err(failure) => {
                        self.job.note(None, Err(failure));
                        continue;
                    }
                };
                let own = here.join(std::ffi::OsStr::from_bytes(&entry.name.0));
                match entry.kind {
                    EntryType::Directory => {
                        if let Err(failure) = held.keep(own.as_os_str().as_bytes()) {
                            return self.job.note(None, Err(failure.doing("verify: list")));
                        }
                        pending.push((Some(path), own));
                    }
                    EntryType::File if Named::open(&own).is_err() => {
                        let verdict = Verdict::Different("only on the server");
                        self.tell(own.as_os_str().as_bytes(), path.raw_bytes(), Ok(verdict));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn open(leaf: &Leaf) -> Result<Input, Failure> {
    let fail = |error: std::io::Error| open_failure(&leaf.path, &error);
    let file = leaf.open().map_err(|error| fail(error.into()))?;
    let witness = Witness::of(&file.metadata().map_err(fail)?);
    Ok(Input::File { file: Arc::new(file), witness })
}

fn whole_path(base: Option<&RelPath>, below: &[u8]) -> Result<RelPath, Failure> {
    Ok(RelPath::parse(below).map_err(Failure::of_name)?.below(base))
}
