//! Small files, read many at a time into one buffer, on a file thread.

use std::io;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use super::walk::Leaf;
use super::{Input, Witness, open_failure};
use crate::client::engine::Chunk;
use crate::client::exit::{Exit, Failure};
use crate::transfer::{Buffer, Seal, Share};
use crate::types::Sha256Digest;
use crate::types::limits::BUFFER_BYTES;

/// Files that are read in one go.
pub const BATCH_FILES: usize = 64;

/// A file that has been looked at.
pub enum Ready<T> {
    /// All of it is here, hashed.
    Small(T, Witness, Chunk, Seal),
    /// It is too large for that; open.
    Large(T, Input),
    /// It is no regular file any more.
    Skipped(T),
    /// It cannot be read.
    Failed(T, Failure),
}

/// Opens each file, reads it if it is small, and hands it on as soon as its buffer is complete: what is
/// held back would keep memory from those who need it to go on.
pub fn read<T>(
    files: Vec<(T, Leaf)>,
    share: &Share,
    runtime: &Handle,
    mut take: impl FnMut(Ready<T>) -> bool,
) {
    let mut pack = Pack { share, runtime, buffer: None, waiting: Vec::new() };
    for (what, leaf) in files {
        let goes_on = match look(&leaf) {
            Err(failure) => take(Ready::Failed(what, failure)),
            Ok(None) => take(Ready::Skipped(what)),
            Ok(Some(input)) => match input.witness().copied() {
                Some(witness) if witness.bytes <= BUFFER_BYTES as u64 => {
                    match pack.add(what, &input, witness, &mut take) {
                        Ok(goes_on) => goes_on,
                        Err((what, failure)) => take(Ready::Failed(what, failure)),
                    }
                }
                _ => take(Ready::Large(what, input)),
            },
        };
        if !goes_on {
            return;
        }
    }
    pack.seal(&mut take);
}

fn look(leaf: &Leaf) -> Result<Option<Input>, Failure> {
    let fail = |error: io::Error| open_failure(&leaf.path, &error);
    let file = match leaf.open() {
        Ok(file) => file,
        // A link, or a socket, in the place of a file.
        Err(nix::errno::Errno::ELOOP | nix::errno::Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(fail(error.into())),
    };
    let meta = file.metadata().map_err(fail)?;
    Ok(meta.is_file().then(|| Input::File { file: Arc::new(file), witness: Witness::of(&meta) }))
}

/// A buffer that is being filled with whole files.
struct Pack<'a, T> {
    share: &'a Share,
    runtime: &'a Handle,
    buffer: Option<Buffer>,
    waiting: Vec<(T, Witness, std::ops::Range<usize>, Seal)>,
}

impl<T> Pack<'_, T> {
    fn add(
        &mut self,
        what: T,
        input: &Input,
        witness: Witness,
        take: &mut impl FnMut(Ready<T>) -> bool,
    ) -> Result<bool, (T, Failure)> {
        let bytes = usize::try_from(witness.bytes).unwrap_or(usize::MAX);
        let is_full = self.buffer.as_mut().is_some_and(|buffer| buffer.room().len() < bytes);
        if is_full && !self.seal(take) {
            return Ok(false);
        }
        let buffer = self
            .buffer
            .get_or_insert_with(|| self.runtime.block_on(self.share.acquire(BUFFER_BYTES as u64)));
        let start = buffer.content().len();
        let room = &mut buffer.room()[..bytes];
        match input.read(room, 0).and_then(|read| Ok(read == bytes && input.unchanged()?)) {
            Ok(true) => {}
            Ok(false) => return Err((what, changed())),
            Err(error) => {
                return Err((what, Failure::new(Exit::Other, error.to_string()).doing("read")));
            }
        }
        let digest = Sha256Digest(Sha256::digest(&*room).into());
        buffer.advance(bytes);
        let seal = Seal { bytes: witness.bytes, digest };
        self.waiting.push((what, witness, start..start + bytes, seal));
        Ok(true)
    }

    fn seal(&mut self, take: &mut impl FnMut(Ready<T>) -> bool) -> bool {
        let Some(buffer) = self.buffer.take().map(Arc::new) else { return true };
        self.waiting.drain(..).all(|(what, witness, range, seal)| {
            take(Ready::Small(what, witness, Chunk::new(&buffer, range), seal))
        })
    }
}

/// What is said of a file that did not stay what it was.
pub fn changed() -> Failure {
    let mut failure =
        Failure::new(Exit::Other, "the file changed while it was being read; nothing was stored");
    failure.code = Some(crate::types::ErrorCode::Changed);
    failure.hint("put it again when nobody writes to it")
}
