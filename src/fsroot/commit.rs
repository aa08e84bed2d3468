//! The commit: from bytes that nobody can see to a name that survives a power cut.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, PosixFadviseAdvice, RenameFlags, posix_fadvise, renameat2};
use nix::libc::off_t;
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, futimens};
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::unistd::ftruncate;

use super::flush::Flush;
use super::ledger::{COUNT_PATIENCE, Change, Delta, Hold, Ledger};
use super::look::Look;
use super::made::{Flushes, Identity, Made, identity};
use super::resolve::{component, open_directory};
use super::retain::check_age;
use super::staging::Staging;
use super::tree::{StagingPlace, Tree};
use super::{FsError, Kind, Stat, attribute};
use crate::types::{Durability, ErrorCode, FileName, RelPath, Sha256Digest};

/// What a commit does when parent directories are missing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Parents {
    /// It fails with `NotFound`.
    MustExist,
    /// It makes them, durably.
    Make,
    /// The same, but only those whose path has at least so many components.
    MakeFrom(usize),
}

/// The terms of a commit.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Whether a regular file of that name may be replaced.
    pub replace: bool,
    /// Whether there must be one.
    pub must_replace: bool,
    /// A file that was stored less than this ago is not replaced.
    pub retain: Option<Duration>,
    /// What to do about missing parent directories.
    pub parents: Parents,
    /// Permission bits before the umask; 0666 without.
    pub mode: Option<u32>,
    /// Time of modification, nanoseconds since 1970; the present without.
    pub mtime_ns: Option<i64>,
    /// SHA-256 of the content, which the caller has verified.
    pub digest: Sha256Digest,
    /// Bytes of content, which the caller has verified.
    pub bytes: u64,
}

/// What a commit did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Published {
    /// Whether another file made room.
    pub replaced: bool,
    /// The file as it is stored.
    pub stat: Stat,
}

/// Flushes that are waited for at once: as many as a disk's journal joins.
const FLUSHES_MAX: usize = 16;

/// The kernel's unit of writing.
const PAGE: off_t = 4096;

/// The outcome of a file that got none, and no name: only a panic leads there.
const UNFINISHED: FsError = FsError::internal("commit the file: an internal error");

/// Does one step, whose panic fails what the step is for and nothing else.
fn alone<T>(step: impl FnOnce() -> Result<T, FsError>) -> Result<T, FsError> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or(Err(UNFINISHED))
}

/// Where tests have a step of a file's panic: that file's name ends with the step's.
fn trip(step: &str, target: &RelPath) {
    let is_due = cfg!(test) && target.raw_bytes().ends_with(step.as_bytes());
    assert!(!is_due, "a panic, as the test wants it");
}

/// A file that is whole and is to get a name.
#[derive(Debug)]
pub struct Order<S> {
    /// The file, which nobody can see yet.
    pub staging: S,
    /// Its name.
    pub target: RelPath,
    /// On which terms it gets it.
    pub publish: Publish,
}

/// A file of which all is written, in the kernel's memory.
struct Finished {
    order: Order<Staging>,
    stat: Stat,
    /// Whether it has no other name than the one in the staging directory.
    is_alone: bool,
}

/// A file whose content survives a power cut, and whose name is to follow. Only [`flush_all`] makes one.
struct Flushed(Finished);

/// Files that are to get their names in one directory, by their places in the batch.
struct Group {
    files: Vec<(usize, Flushed)>,
}

/// Files that have their names in a directory, which is to be flushed.
struct Named {
    tree: Tree,
    directory: OwnedFd,
    identity: Identity,
    made: Made,
    files: Vec<(usize, Published)>,
}

impl Staging {
    /// Makes the file durable under its name: bytes, then name, then directory. A crash leaves the
    /// old file or the new one, whole.
    ///
    /// *Source*: fsync(2), renameat2(2); `docs/architecture.md`, "Durability".
    ///
    /// # Errors
    /// The old file is as it was, save for `UnknownOutcome`: the name is in place, and whether it
    /// survives a power cut is not known.
    pub fn commit(self, target: &RelPath, publish: &Publish) -> Result<Published, FsError> {
        let order = Order { staging: self, target: target.clone(), publish: publish.clone() };
        Self::commit_all(vec![order]).pop().unwrap_or(Err(UNFINISHED))
    }

    /// The same for several files, each of which succeeds or fails by itself, also by a panic, in their order; what they share
    /// is done once: the way to a directory, and its flush. All of them are flushed before the first
    /// gets its name, so that the file system's journal takes them at once.
    ///
    /// *Returns* one outcome for each file, in the order of `orders`.
    pub fn commit_all(orders: Vec<Order<Self>>) -> Vec<Result<Published, FsError>> {
        let mut outcomes = vec![Err(UNFINISHED); orders.len()];
        let mut finished = Vec::with_capacity(orders.len());
        let mut patience = COUNT_PATIENCE;
        for (place, order) in orders.into_iter().enumerate() {
            // Before anything is struck out: what is refused here can be gone on with.
            let ledger = &order.staging.tree.ledger;
            if let Err(error) = ledger.await_count(&order.target, patience) {
                order.staging.leave();
                (outcomes[place], patience) = (Err(error), Duration::ZERO);
                continue;
            }
            match alone(|| Finished::new(order)) {
                Ok(file) => finished.push((place, file)),
                Err(error) => outcomes[place] = Err(error),
            }
        }
        if finished.len() > 1 {
            for (_, file) in &finished {
                file.start_flush();
            }
        }
        let mut groups: Vec<Group> = Vec::new();
        for (place, file) in flush_files(finished) {
            match file {
                Ok(file) => Group::add(&mut groups, place, file),
                Err(error) => outcomes[place] = Err(error),
            }
        }
        // Every name is there before the first directory is flushed: so one flush does for all.
        let place = |group: Group| alone(|| Ok(group.place(&mut outcomes))).ok().flatten();
        let named: Vec<_> = groups.into_iter().filter_map(place).collect();
        let mut flushes = flush_directories(&named);
        for Named { tree, identity, made, files, .. } in named {
            let outcome = flushes
                .of(identity)
                .unwrap_or(Err(UNFINISHED))
                .and_then(|()| made.flush_with(&tree, &mut flushes))
                .map_err(FsError::after_the_rename);
            for (place, published) in files {
                outcomes[place] = outcome.map(|()| published);
            }
        }
        outcomes
    }

    /// Everything that belongs to the file itself, save its flush; gives what it is, and whether it has one
    /// name.
    fn finish_content(&mut self, publish: &Publish) -> Result<(Stat, bool), FsError> {
        if self.allocated > self.written {
            let length = off_t::try_from(self.written).unwrap_or(off_t::MAX);
            ftruncate(&self.file, length).map_err(FsError::at("give back unused space"))?;
        }
        if let Some(mtime_ns) = publish.mtime_ns {
            let mtime = TimeSpec::nanoseconds(mtime_ns);
            futimens(&self.file, &TimeSpec::UTIME_OMIT, &mtime)
                .map_err(FsError::at("set the file's time"))?;
        }
        let raw = fstat(&self.file).map_err(FsError::at("look at the staged file"))?;
        let mut stat = Stat::of(&raw);
        if stat.bytes != publish.bytes || stat.bytes != self.written {
            return Err(FsError::new(
                ErrorCode::Io,
                "check the staged file: its size is not what was written",
                None,
            ));
        }
        match attribute::write(&self.file, publish.digest, stat.bytes, stat.mtime_ns) {
            // A client's file system may not keep attributes; the daemon's was tried at its start.
            Err(Errno::EOPNOTSUPP) if self.tree.options.staging == StagingPlace::Beside => {}
            written => written.map_err(FsError::at("keep the file's digest"))?,
        }
        // It may be about to write a checkpoint.
        self.early.join().map_err(FsError::at("flush the staged file"))?;
        self.forget_checkpoints().map_err(FsError::at("strike out the checkpoint"))?;
        // Last: a mode without the right to write would refuse us the attributes.
        let mode = publish.mode.unwrap_or(0o666) & 0o777 & !self.tree.options.umask;
        fchmod(&self.file, Mode::from_bits_truncate(mode))
            .map_err(FsError::at("set the file's mode"))?;
        (stat.mode, stat.digest) = (mode, Some(publish.digest));
        Ok((stat, raw.st_nlink == 1))
    }

    fn rename(
        &self,
        parent: &OwnedFd,
        name: &FileName<'_>,
        replace: bool,
        is_alone: bool,
    ) -> Result<(), FsError> {
        let fail = FsError::at("publish the staged file");
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        let stage = &self.tree.stage;
        renameat2(stage, self.name.as_os_str(), parent, component(name), flags).map_err(
            |error| match error {
                Errno::EEXIST => FsError::new(
                    ErrorCode::Exists,
                    "publish the staged file: the name is taken",
                    None,
                ),
                error => fail(error),
            },
        )?;
        if is_alone {
            return Ok(());
        }
        // Two names of one inode: the kernel does nothing and says it did. A look that fails says nothing
        // against what the kernel said.
        if fstatat(stage, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
            let doing = "publish the staged file: it is still staged";
            return Err(FsError::new(ErrorCode::Io, doing, None));
        }
        Ok(())
    }
}

impl Finished {
    fn new(mut order: Order<Staging>) -> Result<Self, FsError> {
        trip("panics-finished", &order.target);
        let (stat, is_alone) = order.staging.finish_content(&order.publish)?;
        Ok(Self { order, stat, is_alone })
    }

    fn is_flushed(&self) -> bool {
        self.order.staging.tree.options.durability == Durability::Full
    }

    /// Gets the content on its way to the disk without waiting for it, so that the first of many flushes
    /// takes them all along. What comes of it is told by the flush.
    ///
    /// *Source*: `posix_fadvise(2)`, which begins with writing what is dirty.
    fn start_flush(&self) {
        if let bytes @ 1..=PAGE = off_t::try_from(self.stat.bytes).unwrap_or(off_t::MAX)
            && self.is_flushed()
        {
            // Not to the last byte: a whole page the kernel would try to drop from its memory, too.
            let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            let _ = posix_fadvise(&self.order.staging.file, 0, (bytes - 1).max(1), advice);
        }
    }

    fn flush(&self) -> Result<(), FsError> {
        trip("panics-flushed", &self.order.target);
        let Staging { tree, file, .. } = &self.order.staging;
        tree.flush(Flush::File, file).map_err(FsError::at("flush the staged file"))
    }
}

type Numbered<T> = (usize, T);

/// Flushes each, several at once if that takes time: flushes that come to the file system's journal
/// together are taken along by one commit, and the disk is asked once.
///
/// *Returns* what came of each, in their order.
fn flush_each<T: Sync>(
    items: &[T],
    takes_time: bool,
    flush: impl Fn(&T) -> Result<(), FsError> + Copy + Send,
) -> Vec<Result<(), FsError>> {
    let flush_one = move |item: &T| alone(|| flush(item));
    let flush_some = move |items: &[T]| -> Vec<_> { items.iter().map(flush_one).collect() };
    let threads = if takes_time { FLUSHES_MAX } else { 1 };
    let share = items.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let (own, others) = items.split_at(share.min(items.len()));
        let helper = |chunk| {
            let spawned = thread::Builder::new().spawn_scoped(scope, move || flush_some(chunk));
            (chunk, spawned)
        };
        let helpers: Vec<_> = others.chunks(share).map(helper).collect();
        let mut flushed = flush_some(own);
        for (chunk, helper) in helpers {
            // Without a thread more it takes a little longer.
            let chunk = match helper {
                Ok(helper) => helper.join().unwrap_or(vec![Err(UNFINISHED); chunk.len()]),
                Err(_) => flush_some(chunk),
            };
            flushed.extend(chunk);
        }
        flushed
    })
}

fn flush_files(files: Vec<Numbered<Finished>>) -> Vec<Numbered<Result<Flushed, FsError>>> {
    let takes_time = files.iter().any(|(_, file)| file.is_flushed());
    let flushed = flush_each(&files, takes_time, |(_, file)| file.flush());
    let proved =
        |((place, file), flushed): (_, Result<(), _>)| (place, flushed.map(|()| Flushed(file)));
    files.into_iter().zip(flushed).map(proved).collect()
}

/// Flushes the directories in which files got their names, each once.
fn flush_directories(named: &[Named]) -> Flushes {
    let mut directories: Vec<&Named> = Vec::new();
    for named in named {
        if directories.iter().all(|other| other.identity != named.identity) {
            directories.push(named);
        }
    }
    let takes_time =
        directories.iter().any(|named| named.tree.options.durability == Durability::Full);
    let flushed = flush_each(&directories, takes_time, |named| {
        named
            .tree
            .flush(Flush::Directory, &named.directory)
            .map_err(FsError::at("flush the directory"))
    });
    directories.iter().map(|named| named.identity).zip(flushed).collect()
}

impl Group {
    fn add(groups: &mut Vec<Self>, place: usize, file: Flushed) {
        let key =
            |file: &Flushed| (file.0.order.target.split_last().0, file.0.order.publish.parents);
        let wanted = key(&file);
        match groups.iter_mut().find(|group| key(&group.files[0].1) == wanted) {
            Some(group) => group.files.push((place, file)),
            None => groups.push(Self { files: vec![(place, file)] }),
        }
    }

    /// Gives the files their names; what fails is written into `outcomes`.
    fn place(self, outcomes: &mut [Result<Published, FsError>]) -> Option<Named> {
        let numbers: Vec<_> = self.files.iter().map(|(place, _)| *place).collect();
        let first = &self.files.first()?.1.0.order;
        let (tree, target) = (first.staging.tree.clone(), first.target.clone());
        let parents = first.publish.parents;
        // The homes above one of them are above them all.
        let in_turn = tree.ledger.in_turn(&[&target], false, || {
            let (mut made, mut placed, mut files) = (Made::default(), Vec::new(), Vec::new());
            let parent = target.split_last().0;
            let opened = alone(|| {
                let opened = tree.open_target(parent.as_ref(), parents, &mut made)?;
                trip("panics-opened", &target);
                Ok(opened)
            });
            let mut change = made.change();
            for (place, mut file) in self.files {
                let outcome = opened
                    .as_ref()
                    .map_err(|error| *error)
                    .and_then(|(directory, _)| alone(|| file.place(directory, &mut change)));
                let is_named = file.0.order.staging.is_published;
                // Until its directory is flushed nobody knows.
                let unknown =
                    |error: FsError| if is_named { error.after_the_rename() } else { error };
                outcomes[place] =
                    Err(unknown(outcome.as_ref().err().copied().unwrap_or(UNFINISHED)));
                files.extend(outcome.ok().map(|published| (place, published)));
                placed.extend(is_named.then_some(file.0.order.staging));
            }
            if files.is_empty() {
                made.undo(&tree);
                if !change.is_empty() {
                    tree.ledger.enter(&made.change()); // Not entered yet.
                }
            }
            Ok((placed, opened, made, files))
        });
        let (mut placed, opened, made, files) = match in_turn {
            Ok(placed) => placed,
            Err(error) => {
                for number in numbers {
                    outcomes[number] = Err(error);
                }
                return None;
            }
        };
        placed.iter_mut().for_each(Staging::let_go);
        if files.is_empty() {
            // What is left of the way was met by others. A failure leaves it written down.
            let _ = made.flush(&tree);
            return None;
        }
        let (directory, identity) = opened.ok()?;
        Some(Named { tree, directory, identity, made, files })
    }
}

/// Writes down that a file has its name, also when what follows panics.
struct Settles<'a> {
    ledger: &'a Ledger,
    hold: Option<&'a Hold>,
    /// The file, and what was made on the way and not entered yet.
    whole: Change,
    /// The latter.
    change: &'a mut Change,
    /// Whether it has its name.
    is_due: bool,
}

impl Drop for Settles<'_> {
    fn drop(&mut self) {
        if self.is_due {
            self.ledger.settle(&self.whole, self.hold);
            self.change.clear();
        }
    }
}

impl Flushed {
    /// Gives the file its name. `change` is what was made on the way and not entered yet.
    fn place(&mut self, parent: &OwnedFd, change: &mut Change) -> Result<Published, FsError> {
        let Finished { order: Order { staging, target, publish }, stat, is_alone } = &mut self.0;
        let name = target.split_last().1;
        let replaced =
            if publish.replace { existing_file(parent, &name, publish.retain)? } else { None };
        if publish.must_replace && replaced.is_none() {
            let doing =
                "replace the file: it was removed meanwhile, and files may not be created here";
            return Err(FsError::new(ErrorCode::Denied, doing, None));
        }
        let gone = replaced.map_or_else(Delta::default, Delta::file);
        let mut whole = change.clone();
        whole.push((target.clone(), Delta::file(staging.written) - gone));
        let (ledger, hold) = (&staging.tree.ledger, staging.hold.as_ref());
        ledger.admit(&whole, hold)?;
        let mut settles = Settles { ledger, hold, whole, change, is_due: false };
        staging.rename(parent, &name, publish.replace, *is_alone)?;
        settles.is_due = true;
        staging.is_published = true;
        trip("panics-placed", target);
        Ok(Published { replaced: replaced.is_some(), stat: stat.clone() })
    }
}

impl Staging {
    /// The file is no longer ours.
    fn let_go(&mut self) {
        self.hold = None;
        self.forget_kept();
    }
}

impl Tree {
    /// Opens the directory in which files are to get their names, and tells which it is.
    fn open_target(
        &self,
        path: Option<&RelPath>,
        parents: Parents,
        made: &mut Made,
    ) -> Result<(OwnedFd, Identity), FsError> {
        let parent = match parents {
            Parents::MustExist => {
                self.open_parent(path, made).map_err(FsError::at("open the directory"))?
            }
            making => self.make_parents(path, making, made)?,
        };
        let identity = self.check_parent(&parent, path)?;
        Ok((parent, identity))
    }

    /// The directory that is held must still be the one that the path names: a directory that was
    /// moved away meanwhile is not where the user wanted the file.
    fn check_parent(&self, parent: &OwnedFd, path: Option<&RelPath>) -> Result<Identity, FsError> {
        let fail = FsError::at("look at the directory again");
        let again = match open_directory(&self.top, path) {
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV) => None,
            opened => Some(opened.map_err(&fail)?),
        };
        let held = identity(&fstat(parent).map_err(&fail)?);
        let same = match again {
            None => false,
            Some(again) => identity(&fstat(&again).map_err(&fail)?) == held,
        };
        if same {
            Ok(held)
        } else {
            Err(FsError::new(
                ErrorCode::Changed,
                "publish the file: its directory was moved meanwhile",
                None,
            ))
        }
    }
}

/// How many bytes the regular file under the name has, if there is one; anything else is not replaced,
/// nor is a mount point, nor a file that was stored less than `retain` ago.
pub(super) fn existing_file(
    parent: &OwnedFd,
    name: &FileName<'_>,
    retain: Option<Duration>,
) -> Result<Option<u64>, FsError> {
    let fail = FsError::at("look at the name");
    match Look::at(parent, component(name)) {
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(fail(error)),
        Ok(look) if look.is_mount_point => Err(fail(Errno::EXDEV)),
        Ok(look) if look.stat.kind == Kind::File => {
            check_age(&look, retain, "replace the file").map(|()| Some(look.stat.bytes))
        }
        Ok(_) => {
            let doing = "replace what stands under this name: it is not a regular file";
            Err(FsError::new(ErrorCode::WrongType, doing, None))
        }
    }
}
