//! The digest of a file that stays where it is.

use std::sync::{Arc, Weak};

use sha2::{Digest as _, Sha256};

use super::staged::digest_of;
use super::{Seal, Share, Source, TransferError, Workers};
use crate::types::limits::BUFFER_BYTES;

/// Buffers that are read before the file thread is given to somebody else.
const SLICE: usize = 64;

/// Gives a file's digest, and whether its content was read for it: where the digest is kept it is only
/// read with `reread`, and then the two must agree.
///
/// # Errors
/// `Decayed` when they do not; `Changed` when the file did not stay what it was; the store's.
pub async fn digest<F: Source>(
    source: F,
    reread: bool,
    share: &Share,
    workers: &Workers,
) -> Result<(Seal, bool), TransferError> {
    let stat = source.stat().cloned();
    let kept = stat.as_ref().and_then(|stat| stat.digest);
    if let (Some(digest), Some(stat), false) = (kept, &stat, reread) {
        return Ok((Seal { bytes: stat.bytes, digest }, false));
    }
    let state = (source, Sha256::new(), 0_u64);
    let (source, hasher, bytes) = read_until(state, u64::MAX, share, workers).await?;
    let unchanged = workers.run(move || source.unchanged()).await??;
    if !unchanged || stat.is_some_and(|stat| stat.bytes != bytes) {
        return Err(TransferError::Changed);
    }
    let computed = digest_of(hasher);
    match kept {
        Some(kept) if kept != computed => Err(TransferError::Decayed { computed, kept }),
        _ => Ok((Seal { bytes, digest: computed }, true)),
    }
}

/// Hashes what comes before `offset`.
///
/// # Errors
/// `Changed` when the file ends before; the store's.
pub(super) async fn hash_before<F: Source>(
    source: F,
    hasher: Sha256,
    offset: u64,
    share: &Share,
    workers: &Workers,
) -> Result<(F, Sha256), TransferError> {
    let state = (source, hasher, 0);
    let (source, hasher, bytes) = read_until(state, offset, share, workers).await?;
    if bytes == offset { Ok((source, hasher)) } else { Err(TransferError::Changed) }
}

type State<F> = (F, Sha256, u64);

/// Reads up to `end`, or the end of the file; no further when it is dropped meanwhile.
async fn read_until<F: Source>(
    mut state: State<F>,
    end: u64,
    share: &Share,
    workers: &Workers,
) -> Result<State<F>, TransferError> {
    let alive = Arc::new(());
    loop {
        let wanted = Arc::downgrade(&alive);
        let buffer = share.acquire(BUFFER_BYTES as u64).await;
        let (rest, ended) = workers.run(move || slice(state, end, buffer, &wanted)).await??;
        state = rest;
        if ended {
            return Ok(state);
        }
    }
}

/// Reads on for a while; gives whether the end was reached.
fn slice<F: Source>(
    state: State<F>,
    end: u64,
    mut buffer: super::Buffer,
    wanted: &Weak<()>,
) -> Result<(State<F>, bool), TransferError> {
    let (mut source, mut hasher, mut offset) = state;
    for _ in 0..SLICE {
        if wanted.strong_count() == 0 {
            return Err(TransferError::Aborted);
        }
        let room = buffer.room();
        let most = room.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        let read = source.read_at(&mut room[..most], offset)?;
        hasher.update(&room[..read]);
        offset += read as u64;
        if read < most || offset == end {
            return Ok(((source, hasher, offset), true));
        }
    }
    Ok(((source, hasher, offset), false))
}
