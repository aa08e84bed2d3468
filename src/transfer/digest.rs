//! The digest of a file that stays where it is.

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
    let mut state = (source, Sha256::new(), 0_u64);
    loop {
        let buffer = share.acquire(BUFFER_BYTES as u64).await;
        let (rest, ended) = workers.run(move || slice(state, buffer)).await??;
        state = rest;
        if ended {
            break;
        }
    }
    let (source, hasher, bytes) = state;
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

type State<F> = (F, Sha256, u64);

/// Reads on for a while; gives whether the end was reached.
fn slice<F: Source>(
    state: State<F>,
    mut buffer: super::Buffer,
) -> Result<(State<F>, bool), TransferError> {
    let (mut source, mut hasher, mut offset) = state;
    for _ in 0..SLICE {
        let room = buffer.room();
        let read = source.read_at(room, offset)?;
        hasher.update(&room[..read]);
        offset += read as u64;
        if read < room.len() {
            return Ok(((source, hasher, offset), true));
        }
    }
    Ok(((source, hasher, offset), false))
}
