//! What a put is about: operands and the trees below them, found in one walk.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::exit::{Exit, Failure};
use super::local::batch::BATCH_FILES;
use super::local::walk::{Found, Leaf, walk};
use super::local::{Named, open_failure};
use crate::types::Escaped;

/// Where one file comes from and goes to.
#[derive(Clone)]
pub struct Place {
    /// Here, raw.
    pub local: Vec<u8>,
    /// There, raw.
    pub remote: Vec<u8>,
}

/// What a walk hands to the pump.
pub enum Work {
    /// Files, to be read.
    Batch(Vec<(Place, Leaf)>),
    /// A directory in which nothing is.
    Empty(Place),
    /// Something that is not copied, and why.
    Skipped(Place, &'static str),
    /// Something that cannot be read.
    Failed(Place, Failure),
}

/// A name below a directory; the home is an empty path.
pub fn join(base: &[u8], name: &[u8]) -> Vec<u8> {
    match (base, name) {
        (b"", _) => name.to_vec(),
        (_, b"") => base.to_vec(),
        _ => [base, b"/", name].concat(),
    }
}

/// `dir/` means what is in it.
pub fn is_contents(local: &OsString) -> bool {
    local.as_bytes().ends_with(b"/") || matches!(local.as_bytes(), b"." | b"./")
}

/// What an operand is called; `..` and the like are called what they stand for.
///
/// # Errors
/// It is not there.
#[expect(clippy::disallowed_methods, reason = "the user's own directory, named by the user")]
pub fn base_name(local: &OsString) -> Result<Vec<u8>, Failure> {
    let path = PathBuf::from(local);
    let named = |path: &Path| path.file_name().map(|name| name.as_bytes().to_vec());
    if let Some(name) = named(&path) {
        return Ok(name);
    }
    let real = path.canonicalize().map_err(|error| open_failure(local.as_bytes(), &error))?;
    Ok(named(&real).unwrap_or_default())
}

/// Walks every operand; stops early when nobody takes what it finds.
pub fn walk_all(roots: &[(OsString, Vec<u8>)], recursive: bool, sender: &mpsc::Sender<Work>) {
    for (local, remote) in roots {
        let top = local.as_bytes();
        let place = |below: &[u8]| Place {
            local: if top.ends_with(b"/") { [top, below].concat() } else { join(top, below) },
            remote: join(remote, below),
        };
        let send = |work| sender.blocking_send(work).is_ok();
        let fail = |failure| send(Work::Failed(place(b""), failure));
        let goes_on = match Named::open(Path::new(local)) {
            Err(failure) => fail(failure),
            Ok(Named::File(_)) => match Leaf::named(Path::new(local)) {
                Ok(leaf) => send(Work::Batch(vec![(place(b""), leaf)])),
                Err(error) => fail(open_failure(top, &error.into())),
            },
            Ok(Named::Directory) if !recursive => fail(
                Failure::new(Exit::Other, format!("{} is a directory", Escaped(top)))
                    .hint("put it and all that is in it with -r"),
            ),
            Ok(Named::Directory) => walk_tree(Path::new(local), &place, &send, &fail),
        };
        if !goes_on {
            return;
        }
    }
}

fn walk_tree(
    top: &Path,
    place: &impl Fn(&[u8]) -> Place,
    send: &impl Fn(Work) -> bool,
    fail: &impl Fn(Failure) -> bool,
) -> bool {
    let mut batch = Vec::new();
    let mut goes_on = true;
    let walked = walk(top, |found| {
        goes_on = match found {
            Found::File(leaf) => {
                batch.push((place(&leaf.path), leaf));
                batch.len() < BATCH_FILES || send(Work::Batch(std::mem::take(&mut batch)))
            }
            Found::Empty(path) => send(Work::Empty(place(&path))),
            Found::Skipped(path, why) => send(Work::Skipped(place(&path), why)),
            Found::Failed(path, error) => {
                let place = place(&path);
                let failure = open_failure(&place.local, &error.into());
                send(Work::Failed(place, failure))
            }
        };
        goes_on
    });
    goes_on = goes_on && (batch.is_empty() || send(Work::Batch(batch)));
    match walked {
        Ok(()) => goes_on,
        Err(error) => fail(open_failure(top.as_os_str().as_bytes(), &error.into())),
    }
}
