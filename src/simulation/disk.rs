//! What a simulated machine's disk holds, and all that it has held: the truth that answers are held to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::fsroot::{Kind, Stat};
use crate::types::Sha256Digest;

/// A name, as bytes below the root.
pub(crate) type Name = Vec<u8>;

/// One content that a name has had.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) content: Arc<Vec<u8>>,
    pub(crate) digest: Sha256Digest,
    pub(crate) mtime_ns: i64,
    /// Tells this version from all others.
    pub(crate) number: u64,
    /// Whether its digest is kept with it, so that decay is noticed.
    pub(crate) is_sealed: bool,
}

/// An upload that is being written, or was cut.
pub(crate) struct Kept {
    pub(crate) user: String,
    pub(crate) target: Name,
    /// What survives a crash, and the state of the hash over it.
    pub(crate) content: Vec<u8>,
    pub(crate) state: Vec<u8>,
    /// The daemon whose transfer writes it, by number.
    pub(crate) busy: Option<u64>,
}

/// The disk; it survives crashes.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<Name, Version>,
    pub(crate) directories: BTreeSet<Name>,
    pub(crate) kept: BTreeMap<u128, Kept>,
    /// Since when each name has had which content.
    history: BTreeMap<Name, Vec<(Instant, Option<Sha256Digest>)>>,
    /// Changes whose directory could not be flushed: what a crash may undo.
    doubtful: BTreeMap<Name, Option<Version>>,
    /// What clients want to store, and under which name.
    meant: BTreeSet<(Name, [u8; 32])>,
    /// What may be stored under any name, because a trailer names it.
    named: BTreeSet<[u8; 32]>,
    pub(crate) numbers: u64,
}

pub(crate) fn digest_of(content: &[u8]) -> Sha256Digest {
    Sha256Digest(Sha256::digest(content).into())
}

impl Version {
    pub(crate) fn stat(&self) -> Stat {
        Stat {
            kind: Kind::File,
            bytes: self.content.len() as u64,
            mtime_ns: self.mtime_ns,
            mode: 0o644,
            digest: self.is_sealed.then_some(self.digest),
        }
    }
}

impl Disk {
    /// A client is about to put this.
    pub(crate) fn mean(&mut self, name: &[u8], digest: Sha256Digest) {
        self.meant.insert((name.to_vec(), digest.0));
    }

    /// A trailer names this.
    pub(crate) fn name(&mut self, digest: Sha256Digest) {
        self.named.insert(digest.0);
    }

    /// Whether some client wants this stored under this name.
    pub(crate) fn is_meant(&self, name: &[u8], digest: Sha256Digest) -> bool {
        self.named.contains(&digest.0) || self.meant.contains(&(name.to_vec(), digest.0))
    }

    /// Changes what a name stands for.
    pub(crate) fn set(&mut self, name: &[u8], version: Option<Version>) {
        let digest = version.as_ref().map(|version| version.digest);
        self.history.entry(name.to_vec()).or_default().push((Instant::now(), digest));
        self.doubtful.remove(name);
        match version {
            Some(version) => self.files.insert(name.to_vec(), version),
            None => self.files.remove(name),
        };
    }

    /// The same, without knowing whether it survives a crash.
    pub(crate) fn set_doubtfully(&mut self, name: &[u8], version: Option<Version>) {
        let before = self.files.get(name).cloned();
        self.set(name, version);
        self.doubtful.insert(name.to_vec(), before);
    }

    /// The machine loses power: of what is doubtful, `undoes` says what is lost.
    pub(crate) fn crash(&mut self, mut undoes: impl FnMut() -> bool) {
        for (name, before) in std::mem::take(&mut self.doubtful) {
            if undoes() {
                self.set(&name, before);
            }
        }
        for kept in self.kept.values_mut() {
            kept.busy = None;
        }
        self.kept.retain(|_, kept| !kept.content.is_empty());
    }

    /// What a name stood for between two times, at any of them.
    pub(crate) fn between(
        &self,
        name: &[u8],
        from: Instant,
        to: Instant,
    ) -> BTreeSet<Option<[u8; 32]>> {
        let mut seen = BTreeSet::new();
        let mut before = None;
        for (at, digest) in self.history.get(name).into_iter().flatten() {
            let digest = digest.map(|digest| digest.0);
            if *at <= from {
                before = digest;
            }
            if (from..=to).contains(at) {
                seen.insert(digest);
            }
        }
        seen.insert(before);
        seen
    }

    /// Whether a name came to stand for this between two times.
    pub(crate) fn became(
        &self,
        name: &[u8],
        digest: Option<Sha256Digest>,
        from: Instant,
        to: Instant,
    ) -> bool {
        let mut changes = self.history.get(name).into_iter().flatten();
        changes.any(|(at, found)| (from..=to).contains(at) && *found == digest)
    }
}
