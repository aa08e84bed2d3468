//! The order that the promise rests on, kept by the compiler.
//!
//! [`Staged`] takes bytes, [`Staged::verify`] is the only source of [`Verified`], and
//! [`Verified::commit_all`] the only source of [`Committed`], without which no answer says "stored".

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use sha2::digest::common::hazmat::{SerializableState as _, SerializedState};
use sha2::{Digest, Sha256};

use super::{Staging, TransferError};
use crate::fsroot::{FsError, Order, Publish, Published};
use crate::types::{ErrorCode, RelPath, Sha256Digest};

/// What ends a transfer: length and digest of its content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seal {
    /// Bytes of content.
    pub bytes: u64,
    /// SHA-256 of the content.
    pub digest: Sha256Digest,
}

/// A file on its way in: nobody can see it.
#[derive(Debug)]
pub struct Staged<S> {
    staging: S,
    hasher: Sha256,
    bytes: u64,
    bytes_max: u64,
}

/// A file whose content is exactly what the sender sent.
#[derive(Debug)]
pub struct Verified<S> {
    staging: S,
    seal: Seal,
}

/// A file that is whole, verified, in place and durable. Only [`Verified::commit_all`] makes one.
#[derive(Debug)]
pub struct Committed {
    seal: Seal,
    mtime_ns: i64,
    replaced: bool,
}

impl<S: Staging> Staged<S> {
    /// Starts with nothing written.
    pub fn new(staging: S, bytes_max: u64) -> Self {
        Self { staging, hasher: Sha256::new(), bytes: 0, bytes_max }
    }

    /// Appends content.
    ///
    /// # Errors
    /// The store's, or `TooLarge` before a byte past the limit is written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > self.bytes_max {
            return Err(TransferError::TooLarge { limit: self.bytes_max });
        }
        self.hasher.update(bytes);
        self.staging.write_all(bytes)?;
        Ok(self.staging.settle(|| self.hasher.serialize().to_vec())?)
    }

    /// Goes on with what was kept: `bytes` of content, and the state of the hash over them.
    ///
    /// # Errors
    /// `NotFound` when the state is none that this build can read; the staged file is gone.
    pub fn resumed(
        staging: S,
        state: &[u8],
        bytes: u64,
        bytes_max: u64,
    ) -> Result<Self, TransferError> {
        let hasher = restored(state)?;
        Ok(Self { staging, hasher, bytes, bytes_max })
    }

    /// Keeps what was written: the transfer was cut.
    pub fn keep(self) {
        self.staging.keep(&self.hasher.serialize());
    }

    /// Keeps what was safe already: there is no time for more.
    pub fn leave(self) {
        self.staging.leave();
    }

    /// Makes sure of room for so many bytes in all.
    ///
    /// # Errors
    /// The store's.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), TransferError> {
        Ok(self.staging.reserve(bytes)?)
    }

    /// Compares what was written with what the sender says it sent.
    ///
    /// # Errors
    /// `Length` or `Digest`; the staged file is gone.
    pub fn verify(self, announced: Seal) -> Result<Verified<S>, TransferError> {
        if self.bytes != announced.bytes {
            return Err(TransferError::Length { received: self.bytes, announced: announced.bytes });
        }
        let computed = digest_of(self.hasher);
        if computed != announced.digest {
            return Err(TransferError::Digest { computed, announced: announced.digest });
        }
        Ok(Verified { staging: self.staging, seal: announced })
    }
}

impl<S: Staging> Verified<S> {
    /// Makes the file durable under its name.
    ///
    /// # Errors
    /// The store's; `UnknownOutcome` when the name is in place and its directory could not be flushed.
    pub fn commit(self, target: &RelPath, terms: &Terms) -> Result<Committed, TransferError> {
        let mut outcomes = Self::commit_all(vec![(self, target.clone(), terms.clone())]);
        outcomes.pop().unwrap_or(Err(TransferError::Panicked))
    }

    /// The same for several files, each by itself; gives their outcomes in the same order.
    pub fn commit_all(files: Vec<(Self, RelPath, Terms)>) -> Vec<Result<Committed, TransferError>> {
        let (mut seals, mut orders) = (Vec::new(), Vec::new());
        for (Self { staging, seal }, target, terms) in files {
            let publish = Publish {
                replace: terms.replace,
                must_replace: terms.must_replace,
                retain: terms.retain,
                parents: terms.parents,
                mode: terms.mode,
                mtime_ns: terms.mtime_ns,
                digest: seal.digest,
                bytes: seal.bytes,
            };
            seals.push(seal);
            orders.push(Order { staging, target, publish });
        }
        // Each stands or falls by itself; should all of them fall by a panic, nobody knows which have their names.
        let nobody_knows = || vec![Err(FsError::unknown_after_a_panic()); seals.len()];
        let commit = AssertUnwindSafe(|| S::commit_all(orders));
        let outcomes = catch_unwind(commit).unwrap_or_else(|_| nobody_knows());
        let outcomes = seals.into_iter().zip(outcomes);
        let told = outcomes.map(|(seal, published)| {
            let Published { replaced, stat } = published?;
            Ok(Committed { seal, mtime_ns: stat.mtime_ns, replaced })
        });
        told.collect()
    }
}

impl Committed {
    /// Length and digest of what is stored.
    pub fn seal(&self) -> Seal {
        self.seal
    }

    /// Its time of modification, nanoseconds since 1970.
    pub fn mtime_ns(&self) -> i64 {
        self.mtime_ns
    }

    /// Whether it took the place of another file.
    pub fn replaced(&self) -> bool {
        self.replaced
    }
}

/// The hash that a checkpoint has kept.
fn restored(state: &[u8]) -> Result<Sha256, TransferError> {
    SerializedState::<Sha256>::try_from(state)
        .ok()
        .and_then(|state| Sha256::deserialize(&state).ok())
        .ok_or_else(|| {
            let doing = "resume the upload: its checkpoint is of another version";
            FsError::new(ErrorCode::NotFound, doing, None).into()
        })
}

/// The digest of the bytes before a checkpoint.
///
/// # Errors
/// `NotFound` when the state is none that this build can read.
pub fn digest_at(state: &[u8]) -> Result<Sha256Digest, TransferError> {
    restored(state).map(digest_of)
}

pub(super) fn digest_of(hasher: Sha256) -> Sha256Digest {
    Sha256Digest(hasher.finalize().into())
}

/// What a commit may do, and what the file is to look like.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Whether a file of that name may be replaced.
    pub replace: bool,
    /// Whether there must be one.
    pub must_replace: bool,
    /// A file that was stored less than this ago is not replaced.
    pub retain: Option<Duration>,
    /// What to do about missing parent directories.
    pub parents: crate::fsroot::Parents,
    /// Permission bits, before the umask.
    pub mode: Option<u32>,
    /// Time of modification, nanoseconds since 1970.
    pub mtime_ns: Option<i64>,
}

#[cfg(test)]
mod tests;
