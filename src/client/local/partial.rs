//! A place for one download that can be continued.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::client::operand::Server;
use crate::fsroot::{FsError, Kept, Owner, Staging, Stat, Tree, UploadId};
use crate::transfer::Sink;
use crate::types::{RelPath, Sha256Digest};

/// Bytes of the longest version that is kept.
const VERSION_BYTES_MAX: usize = 256;

/// The user's directory, for one file of one server: what of it was fetched before is found again.
pub struct Partial {
    tree: Arc<Tree>,
    id: UploadId,
    remote: RelPath,
}

impl Partial {
    /// For this file of this server. The same file for another name here is the same partial file.
    pub fn new(tree: &Arc<Tree>, server: &Server, remote: &RelPath) -> Option<Self> {
        let name = [server.name().as_bytes(), b"\0", remote.raw_bytes()].concat();
        let name = Sha256Digest(Sha256::digest(name).into()).to_string();
        let id = name.get(..32)?.parse().ok()?;
        Some(Self { tree: Arc::clone(tree), id, remote: remote.clone() })
    }

    /// What was fetched before: which version, how far, and for whom it is kept.
    pub fn find(&self) -> Option<(Owner, Kept)> {
        self.tree.find_partial(self.id).filter(|(owner, _)| owner.target == self.remote)
    }

    /// Forgets what was fetched before, which is of another version; gives whether it is gone.
    pub fn forget(&self) -> bool {
        self.tree.forget_partial(self.id)
    }

    /// For whom this version is to be kept; `None` if the server's word for it cannot be kept.
    pub fn owner(&self, version: &str) -> Option<Owner> {
        let is_plain = version.bytes().all(|byte| byte.is_ascii_graphic());
        let fits = !version.is_empty() && version.len() <= VERSION_BYTES_MAX;
        (is_plain && fits).then(|| Owner { user: version.to_owned(), target: self.remote.clone() })
    }
}

impl Sink for Partial {
    type Staging = Staging;

    fn stage(&self, target: &RelPath) -> Result<Staging, FsError> {
        self.tree.stage(target)
    }

    fn stage_for(&self, owner: &Owner, bytes: Option<u64>) -> Result<Staging, FsError> {
        self.tree.stage_partial(self.id, owner, bytes)
    }

    fn resume(
        &self,
        owner: &Owner,
        id: UploadId,
        offset: u64,
    ) -> Result<(Staging, Vec<u8>), FsError> {
        Tree::resume(&self.tree, owner, id, offset)
    }

    fn stat(&self, path: Option<&RelPath>) -> Result<Stat, FsError> {
        Tree::stat(&self.tree, path)
    }
}
