//! What a transfer needs of a place that keeps files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::fsroot::{
    Entry, FailedFlushes, FsError, Kept, Listing, Moving, OpenFile, Order, Owner, Parents, Publish,
    Published, Staging as StagingFile, Stat, Tree, UploadId, Usage,
};
use crate::types::{ErrorCode, Quota, RelPath, Reserve};

/// A place that takes files by name: a store, or something like standard output.
///
/// All calls block. No descriptor, file or absolute path crosses this trait.
pub trait Sink: Send + Sync + 'static {
    /// A file on its way in.
    type Staging: Staging;

    /// Starts a file that nobody can see and that is to go to `target`.
    fn stage(&self, target: &RelPath) -> Result<Self::Staging, FsError>;
    /// The same, of a file that [`Staging::keep`] keeps; a place that keeps nothing needs no more.
    fn stage_for(&self, owner: &Owner, _bytes: Option<u64>) -> Result<Self::Staging, FsError> {
        self.stage(&owner.target)
    }
    /// Takes up a file that was kept; gives the state of its hash too.
    fn resume(
        &self,
        _owner: &Owner,
        _id: UploadId,
        _offset: u64,
    ) -> Result<(Self::Staging, Vec<u8>), FsError> {
        Err(FsError::new(ErrorCode::NotFound, "resume: nothing is kept here", None))
    }
    /// Whether anything is kept for this user, or may be soon.
    fn keeps(&self, _user: &str) -> bool {
        false
    }
    /// Removes what is kept for this owner, in whose place something is stored.
    fn forget_kept(&self, _owner: &Owner) {}
    /// Describes a name; `None` is the top.
    fn stat(&self, path: Option<&RelPath>) -> Result<Stat, FsError>;
    /// Refuses early what the commit would: a name whose file was stored less than `retain` ago.
    fn check_replaceable(&self, _path: &RelPath, _retain: Option<Duration>) -> Result<(), FsError> {
        Ok(())
    }
}

/// A place that keeps files by name: the confined tree, and in the tests one that fails on demand.
pub trait Store: Sink {
    /// A file on its way out.
    type Source: Source;
    /// A directory being read.
    type Listing: Iterator<Item = Result<Entry, FsError>> + Send + 'static;

    /// What is kept of an upload that was cut.
    fn kept(&self, owner: &Owner) -> Result<Kept, FsError>;
    /// Removes what of uploads nobody has continued for so long; gives how many they were.
    fn expire(&self, age: Duration) -> usize;
    /// Puts quotas in force, each for a home and all below it, and leaves a part of the disk alone.
    fn configure(&self, homes: &[(Option<RelPath>, Quota)], reserve: Reserve);
    /// Counts what is new among the homes; it may take long.
    fn count(&self) -> Vec<(Option<RelPath>, Result<Usage, FsError>)>;
    /// Whether a change at this path need not wait for a count.
    fn is_counted(&self, path: &RelPath) -> bool;
    /// Whether a file of so many bytes would find room.
    fn check_room(&self, target: &RelPath, bytes: u64) -> Result<(), FsError>;
    /// The flushes that have failed since the start; a place without a disk has none.
    fn failed_flushes(&self) -> FailedFlushes {
        FailedFlushes::default()
    }
    /// Opens a stored file.
    fn open(&self, path: &RelPath) -> Result<Self::Source, FsError>;
    /// Makes a directory; gives how many were made.
    fn make_directory(&self, path: &RelPath, parents: Parents) -> Result<usize, FsError>;
    /// Removes the name of what is no directory and was not stored less than `retain` ago.
    fn remove(&self, path: &RelPath, retain: Option<Duration>) -> Result<(), FsError>;
    /// Removes an empty directory.
    fn remove_directory(&self, path: &RelPath) -> Result<(), FsError>;
    /// Changes a name; gives whether a file was replaced.
    fn rename(&self, from: &RelPath, to: &RelPath, terms: Moving) -> Result<bool, FsError>;
    /// Reads a directory; `None` is the top.
    fn list(&self, path: Option<&RelPath>) -> Result<Self::Listing, FsError>;
}

/// A file that is being received. Dropping it leaves nothing behind.
pub trait Staging: Send + 'static {
    /// Makes sure of room for so many bytes in all.
    fn reserve(&mut self, bytes: u64) -> Result<(), FsError>;
    /// Appends.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), FsError>;
    /// Makes what was written safe when it is time, with the state of its hash where that is kept.
    fn settle(&mut self, _state: impl FnOnce() -> Vec<u8>) -> Result<(), FsError> {
        Ok(())
    }
    /// Keeps the file for its owner, as it is.
    fn keep(self, _state: &[u8])
    where
        Self: Sized,
    {
    }
    /// Keeps the file for its owner as it was when it was last safe.
    fn leave(self)
    where
        Self: Sized,
    {
    }
    /// Makes the file durable under its name: whole, or not at all.
    fn commit(self, target: &RelPath, publish: &Publish) -> Result<Published, FsError>;
    /// The same for several files, each by itself; gives their outcomes in the same order.
    fn commit_all(orders: Vec<Order<Self>>) -> Vec<Result<Published, FsError>>
    where
        Self: Sized,
    {
        let commit = |order: Order<Self>| {
            let commit = move || order.staging.commit(&order.target, &order.publish);
            catch_unwind(AssertUnwindSafe(commit)).unwrap_or(Err(FsError::unknown_after_a_panic()))
        };
        orders.into_iter().map(commit).collect()
    }
}

/// A file that is being sent.
pub trait Source: Send + 'static {
    /// What it was when it was opened; `None` for a stream whose end is not known.
    fn stat(&self) -> Option<&Stat>;
    /// What tells this content from any other that its name has had; empty where nobody asks.
    fn version(&self) -> String {
        String::new()
    }
    /// Fills `buffer` as far as possible; less than asked for is the end.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, FsError>;
    /// Whether it still is what it was when it was opened.
    fn unchanged(&self) -> Result<bool, FsError>;
}

impl Sink for Tree {
    type Staging = StagingFile;

    fn stage(&self, target: &RelPath) -> Result<StagingFile, FsError> {
        Tree::stage(self, target)
    }

    fn stage_for(&self, owner: &Owner, bytes: Option<u64>) -> Result<StagingFile, FsError> {
        Tree::stage_for(self, owner, bytes)
    }

    fn resume(
        &self,
        owner: &Owner,
        id: UploadId,
        offset: u64,
    ) -> Result<(StagingFile, Vec<u8>), FsError> {
        Tree::resume(self, owner, id, offset)
    }

    fn keeps(&self, user: &str) -> bool {
        Tree::keeps(self, user)
    }

    fn forget_kept(&self, owner: &Owner) {
        Tree::forget_kept(self, owner);
    }

    fn stat(&self, path: Option<&RelPath>) -> Result<Stat, FsError> {
        Tree::stat(self, path)
    }

    fn check_replaceable(&self, path: &RelPath, retain: Option<Duration>) -> Result<(), FsError> {
        Tree::check_replaceable(self, path, retain)
    }
}

impl Store for Tree {
    type Source = OpenFile;
    type Listing = Listing;

    fn kept(&self, owner: &Owner) -> Result<Kept, FsError> {
        Tree::kept(self, owner)
    }

    fn configure(&self, homes: &[(Option<RelPath>, Quota)], reserve: Reserve) {
        Tree::configure(self, homes, reserve);
    }

    fn count(&self) -> Vec<(Option<RelPath>, Result<Usage, FsError>)> {
        Tree::count(self)
    }

    fn is_counted(&self, path: &RelPath) -> bool {
        Tree::is_counted(self, path)
    }

    fn check_room(&self, target: &RelPath, bytes: u64) -> Result<(), FsError> {
        Tree::check_room(self, target, bytes)
    }

    fn failed_flushes(&self) -> FailedFlushes {
        Tree::failed_flushes(self)
    }

    fn expire(&self, age: Duration) -> usize {
        Tree::expire(self, age)
    }

    fn open(&self, path: &RelPath) -> Result<OpenFile, FsError> {
        self.open_file(path)
    }

    fn make_directory(&self, path: &RelPath, parents: Parents) -> Result<usize, FsError> {
        Tree::make_directory(self, path, parents)
    }

    fn remove(&self, path: &RelPath, retain: Option<Duration>) -> Result<(), FsError> {
        Tree::remove(self, path, retain)
    }

    fn remove_directory(&self, path: &RelPath) -> Result<(), FsError> {
        Tree::remove_directory(self, path)
    }

    fn rename(&self, from: &RelPath, to: &RelPath, terms: Moving) -> Result<bool, FsError> {
        Tree::rename(self, from, to, terms)
    }

    fn list(&self, path: Option<&RelPath>) -> Result<Listing, FsError> {
        Tree::list(self, path)
    }
}

impl Staging for StagingFile {
    fn reserve(&mut self, bytes: u64) -> Result<(), FsError> {
        StagingFile::reserve(self, bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        StagingFile::write_all(self, bytes)
    }

    fn settle(&mut self, state: impl FnOnce() -> Vec<u8>) -> Result<(), FsError> {
        StagingFile::settle(self, state)
    }

    fn keep(self, state: &[u8]) {
        StagingFile::keep(self, state);
    }

    fn leave(self) {
        StagingFile::leave(self);
    }

    fn commit(self, target: &RelPath, publish: &Publish) -> Result<Published, FsError> {
        StagingFile::commit(self, target, publish)
    }

    fn commit_all(orders: Vec<Order<Self>>) -> Vec<Result<Published, FsError>> {
        StagingFile::commit_all(orders)
    }
}

impl Source for OpenFile {
    fn stat(&self) -> Option<&Stat> {
        Some(OpenFile::stat(self))
    }

    fn version(&self) -> String {
        OpenFile::version(self)
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, FsError> {
        OpenFile::read_at(self, buffer, offset)
    }

    fn unchanged(&self) -> Result<bool, FsError> {
        OpenFile::unchanged(self)
    }
}
