//! A store in memory that fails at random: the second one of its trait that a whole daemon runs on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::disk::{self, Disk, Version, digest_of};
use super::sim::{Planted, Sim};
use crate::fsroot::{
    Entry, FsError, Kept, Kind, Moving, Owner, Parents, Publish, Published, Stat, UploadId, Usage,
};
use crate::transfer::{Sink, Source, Staging, Store};
use crate::types::{ErrorCode, Quota, RelPath, Reserve};

/// Failures in a thousand calls.
const FAILS: u64 = 8;
/// Panics in a thousand calls.
const PANICS: u64 = 1;
/// Bytes after which what was written is safe.
const CHECKPOINT: usize = 40_000;

/// A daemon's view of the disk, until it dies; or a client's own disk.
#[derive(Clone)]
pub(crate) struct Shelf {
    pub(crate) disk: Arc<Mutex<Disk>>,
    pub(crate) sim: Sim,
    /// Which daemon this is; a client's own disk has none.
    pub(crate) number: u64,
    /// Cleared when the machine dies: what the dead still do has no effect.
    pub(crate) alive: Arc<AtomicBool>,
    /// Files that are open here, on their way in or out.
    pub(crate) open: Arc<AtomicUsize>,
}

fn fail<T>(code: ErrorCode, doing: &'static str) -> Result<T, FsError> {
    Err(FsError::new(code, doing, None))
}

impl Shelf {
    pub(crate) fn new(sim: &Sim, disk: &Arc<Mutex<Disk>>, number: u64) -> Self {
        Self {
            disk: Arc::clone(disk),
            sim: sim.clone(),
            number,
            alive: Arc::new(AtomicBool::new(true)),
            open: Arc::default(),
        }
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    /// Fails now and then, and always once the machine is dead.
    fn trip(&self, doing: &'static str) -> Result<(), FsError> {
        if !self.is_alive() {
            return fail(ErrorCode::Io, "the machine is dead");
        }
        if self.number > 0 && self.sim.misfortune(PANICS) {
            self.sim.fault(format_args!("panic: {doing}"));
            // Without the hook, which would print it.
            std::panic::resume_unwind(Box::new("simulated"));
        }
        if self.sim.misfortune(FAILS) {
            let codes = [ErrorCode::Io, ErrorCode::NoSpace, ErrorCode::Quota, ErrorCode::ReadOnly];
            let code = self.sim.rng(|rng| *rng.pick(&codes));
            self.sim.fault(format_args!("{code}: {doing}"));
            return fail(code, doing);
        }
        Ok(())
    }

    fn staged(&self, upload: Option<u128>, content: Vec<u8>) -> Staged {
        self.open.fetch_add(1, Ordering::SeqCst);
        Staged { shelf: self.clone(), content, upload, safe: 0 }
    }

    /// Changes a name; now and then nobody knows whether that survives a crash.
    fn change(&self, name: &[u8], version: Option<Version>) -> Result<(), FsError> {
        if self.sim.misfortune(FAILS) {
            self.sim.fault(format_args!("the directory is not flushed"));
            self.disk().set_doubtfully(name, version);
            return fail(ErrorCode::UnknownOutcome, "flush the directory");
        }
        self.disk().set(name, version);
        Ok(())
    }
}

fn top(path: Option<&RelPath>) -> &[u8] {
    path.map(RelPath::raw_bytes).unwrap_or_default()
}

impl Sink for Shelf {
    type Staging = Staged;

    fn stage(&self, _target: &RelPath) -> Result<Staged, FsError> {
        self.trip("stage")?;
        Ok(self.staged(None, Vec::new()))
    }

    fn stage_for(&self, owner: &Owner, _bytes: Option<u64>) -> Result<Staged, FsError> {
        self.trip("stage, to be kept")?;
        let id = self.sim.rng(|rng| u128::from(rng.next()));
        let (user, target) = (owner.user.clone(), owner.target.raw_bytes().to_vec());
        let busy = Some(self.number);
        let kept = disk::Kept { user, target, content: Vec::new(), state: Vec::new(), busy };
        self.disk().kept.insert(id, kept);
        Ok(self.staged(Some(id), Vec::new()))
    }

    fn resume(
        &self,
        owner: &Owner,
        id: UploadId,
        offset: u64,
    ) -> Result<(Staged, Vec<u8>), FsError> {
        self.trip("resume")?;
        let id = u128::from_str_radix(&id.to_string(), 16).unwrap_or_default();
        let mut disk = self.disk();
        let is_own =
            |kept: &disk::Kept| kept.user == owner.user && kept.target == owner.target.raw_bytes();
        let Some(kept) = disk.kept.get_mut(&id).filter(|kept| is_own(kept)) else {
            return fail(ErrorCode::NotFound, "resume");
        };
        if kept.busy == Some(self.number) {
            return fail(ErrorCode::Busy, "resume");
        }
        if kept.content.len() as u64 != offset {
            return fail(ErrorCode::Changed, "resume");
        }
        kept.busy = Some(self.number);
        let (content, state) = (kept.content.clone(), kept.state.clone());
        drop(disk);
        Ok((self.staged(Some(id), content), state))
    }

    fn stat(&self, path: Option<&RelPath>) -> Result<Stat, FsError> {
        self.trip("stat")?;
        let disk = self.disk();
        if let Some(version) = disk.files.get(top(path)) {
            return Ok(version.stat());
        }
        if path.is_none() || disk.directories.contains(top(path)) {
            let kind = Kind::Directory;
            return Ok(Stat { kind, bytes: 0, mtime_ns: 0, mode: 0o755, digest: None });
        }
        fail(ErrorCode::NotFound, "stat")
    }
}

impl Store for Shelf {
    type Source = Opened;
    type Listing = std::vec::IntoIter<Result<Entry, FsError>>;

    fn kept(&self, owner: &Owner) -> Result<Kept, FsError> {
        self.trip("look for what is kept")?;
        let disk = self.disk();
        let mine = disk
            .kept
            .iter()
            .filter(|(_, kept)| kept.user == owner.user && kept.target == owner.target.raw_bytes());
        // The one that has got furthest.
        let Some((id, kept)) = mine.max_by_key(|(_, kept)| kept.content.len()) else {
            return fail(ErrorCode::NotFound, "look for what is kept");
        };
        if kept.busy == Some(self.number) {
            return fail(ErrorCode::Busy, "look for what is kept");
        }
        if kept.content.is_empty() {
            return fail(ErrorCode::NotFound, "look for what is kept");
        }
        let Ok(id) = format!("{id:032x}").parse() else {
            return fail(ErrorCode::Internal, "name an upload");
        };
        Ok(Kept { id, offset: kept.content.len() as u64, state: kept.state.clone() })
    }

    fn expire(&self, _age: Duration) -> usize {
        0
    }

    fn configure(&self, _homes: &[(Option<RelPath>, Quota)], _reserve: Reserve) {}

    fn count(&self) -> Vec<(Option<RelPath>, Result<Usage, FsError>)> {
        Vec::new()
    }

    fn is_counted(&self, path: &RelPath) -> bool {
        // Asked by the request's task itself, not on a file thread.
        assert!(!cfg!(test) || path.raw_bytes() != b"panics", "a panic, as the test wants it");
        true
    }

    fn check_room(&self, _target: &RelPath, _bytes: u64) -> Result<(), FsError> {
        self.trip("look for room")
    }

    fn open(&self, path: &RelPath) -> Result<Opened, FsError> {
        self.trip("open")?;
        let disk = self.disk();
        let Some(version) = disk.files.get(path.raw_bytes()).cloned() else {
            let is_directory = disk.directories.contains(path.raw_bytes());
            let code = if is_directory { ErrorCode::WrongType } else { ErrorCode::NotFound };
            return fail(code, "open");
        };
        drop(disk);
        self.open.fetch_add(1, Ordering::SeqCst);
        let decays = version.is_sealed && self.sim.misfortune(60);
        if decays {
            self.sim.fault(format_args!("what is read of {path} has decayed"));
        }
        Ok(Opened { shelf: self.clone(), stat: version.stat(), version, decays })
    }

    fn make_directory(&self, path: &RelPath, parents: Parents) -> Result<usize, FsError> {
        self.trip("make a directory")?;
        let mut disk = self.disk();
        if disk.files.contains_key(path.raw_bytes()) {
            return fail(ErrorCode::Exists, "make a directory");
        }
        let made = usize::from(disk.directories.insert(path.raw_bytes().to_vec()));
        if made == 0 && parents == Parents::MustExist {
            return fail(ErrorCode::Exists, "make a directory");
        }
        Ok(made)
    }

    fn remove(&self, path: &RelPath, _retain: Option<Duration>) -> Result<(), FsError> {
        self.trip("remove")?;
        if !self.disk().files.contains_key(path.raw_bytes()) {
            return fail(ErrorCode::NotFound, "remove");
        }
        self.change(path.raw_bytes(), None)
    }

    fn remove_directory(&self, path: &RelPath) -> Result<(), FsError> {
        self.trip("remove a directory")?;
        if self.disk().directories.remove(path.raw_bytes()) {
            Ok(())
        } else {
            fail(ErrorCode::NotFound, "remove a directory")
        }
    }

    fn rename(&self, from: &RelPath, to: &RelPath, terms: Moving) -> Result<bool, FsError> {
        self.trip("rename")?;
        let (old, new) = (from.raw_bytes(), to.raw_bytes());
        let mut disk = self.disk();
        let Some(version) = disk.files.get(old).cloned() else {
            return fail(ErrorCode::NotFound, "rename");
        };
        let replaced = disk.files.contains_key(new);
        if disk.directories.contains(new) || replaced && !terms.replace {
            return fail(ErrorCode::Exists, "rename");
        }
        if old == new {
            return Ok(true);
        }
        disk.set(old, None);
        drop(disk);
        self.change(new, Some(version)).map(|()| replaced)
    }

    fn list(&self, path: Option<&RelPath>) -> Result<Self::Listing, FsError> {
        self.trip("list")?;
        if path.is_some() {
            return Ok(Vec::new().into_iter());
        }
        let disk = self.disk();
        let file = |(name, version): (&Vec<u8>, &Version)| {
            let Stat { kind, bytes, mtime_ns, mode, .. } = version.stat();
            Ok(Entry { name: name.clone(), kind, bytes, mtime_ns, mode })
        };
        Ok(disk.files.iter().map(file).collect::<Vec<_>>().into_iter())
    }
}

/// A file on its way in.
pub(crate) struct Staged {
    shelf: Shelf,
    content: Vec<u8>,
    upload: Option<u128>,
    safe: usize,
}

impl Staged {
    /// Gives the upload up to whoever continues it, with what is safe of it.
    fn release(&mut self, state: Option<&[u8]>) {
        let Some(id) = self.upload.take().filter(|_| self.shelf.is_alive()) else { return };
        let mut disk = self.shelf.disk();
        if let Some(kept) = disk.kept.get_mut(&id) {
            kept.busy = None;
            if let Some(state) = state {
                (kept.content, kept.state) = (std::mem::take(&mut self.content), state.to_vec());
            }
            if kept.content.is_empty() {
                disk.kept.remove(&id);
            }
        }
    }
}

impl Staging for Staged {
    fn reserve(&mut self, _bytes: u64) -> Result<(), FsError> {
        self.shelf.trip("reserve")
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        self.shelf.trip("write")?;
        self.content.extend_from_slice(bytes);
        Ok(())
    }

    fn settle(&mut self, state: impl FnOnce() -> Vec<u8>) -> Result<(), FsError> {
        let Some(id) = self.upload else { return Ok(()) };
        if self.content.len() < self.safe + CHECKPOINT {
            return Ok(());
        }
        self.shelf.trip("settle")?;
        self.safe = self.content.len();
        if let Some(kept) = self.shelf.disk().kept.get_mut(&id) {
            (kept.content, kept.state) = (self.content.clone(), state());
        }
        Ok(())
    }

    fn keep(mut self, state: &[u8]) {
        self.release(Some(state));
    }

    fn leave(mut self) {
        self.release(None);
    }

    fn commit(mut self, target: &RelPath, publish: &Publish) -> Result<Published, FsError> {
        let (place, name) = (self.shelf.clone(), target.raw_bytes());
        place.trip("commit")?;
        let mut content = std::mem::take(&mut self.content);
        if place.sim.planted(Planted::StoreTears) && content.len() > 1000 {
            content.truncate(content.len() - 1);
        }
        let digest = digest_of(&content);
        let mut disk = place.disk();
        if place.number > 0 && !disk.is_meant(name, digest) {
            place.sim.breach(format_args!("{target} is stored as {digest}, which nobody sent"));
        }
        if digest != publish.digest || content.len() as u64 != publish.bytes {
            place.sim.breach(format_args!("{target} is stored under a digest that is not its own"));
        }
        if disk.directories.contains(name) {
            return fail(ErrorCode::WrongType, "commit");
        }
        let replaced = disk.files.contains_key(name);
        if replaced && !publish.replace {
            return fail(ErrorCode::Exists, "commit");
        }
        disk.numbers += 1;
        let number = disk.numbers;
        let mtime_ns = publish.mtime_ns.unwrap_or(0);
        // What a local program has touched has no digest that counts.
        let is_sealed = place.number == 0 || place.sim.rng(|rng| rng.chance(800));
        let version = Version { content: Arc::new(content), digest, mtime_ns, number, is_sealed };
        let stat = version.stat();
        if let Some(id) = self.upload.take() {
            disk.kept.remove(&id);
        }
        drop(disk);
        if !place.sim.planted(Planted::StoreForgets) {
            place.change(name, Some(version))?;
        }
        place.sim.note(format_args!("stored {target} {digest} by {}", place.number));
        Ok(Published { replaced, stat })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.shelf.sim.planted(Planted::StagingKept) && self.content.len() > 100_000 {
            return;
        }
        self.shelf.open.fetch_sub(1, Ordering::SeqCst);
        if let Some(id) = self.upload.take().filter(|_| self.shelf.is_alive()) {
            self.shelf.disk().kept.remove(&id);
        }
    }
}

/// A file on its way out.
pub(crate) struct Opened {
    shelf: Shelf,
    stat: Stat,
    version: Version,
    decays: bool,
}

impl Source for Opened {
    fn stat(&self) -> Option<&Stat> {
        Some(&self.stat)
    }

    fn version(&self) -> String {
        self.version.number.to_string()
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, FsError> {
        self.shelf.trip("read")?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.version.content.get(offset..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        if self.decays && count > 0 {
            buffer[count / 2] ^= 1;
        }
        if self.shelf.sim.misfortune(FAILS / 2) {
            self.shelf.sim.fault(format_args!("a file is shorter than it was"));
            return Ok(count / 2);
        }
        Ok(count)
    }

    fn unchanged(&self) -> Result<bool, FsError> {
        self.shelf.trip("look again")?;
        Ok(true)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.shelf.open.fetch_sub(1, Ordering::SeqCst);
    }
}
