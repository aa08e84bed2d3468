//! Directories that were made and are not durable yet.
//!
//! A file is durable under its name when every directory above it is. Whoever makes a directory flushes
//! the one that it is in; whoever meets it before that flush is done must not rely on it, and flushes
//! too. So what is made is written down here before it exists, and struck out when it is flushed.
//!
//! A request that fails takes back what it made, but nothing that others have met: they may have been told
//! that it is there.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::FsError;
use super::commit::Parents;
use super::flush::Flush;
use super::ledger::{Change, Delta};
use super::resolve::{component, open_directory};
use super::tree::Tree;
use crate::types::{Durability, FileName, RelPath};

/// Which directory something is, whatever it is called: device and inode.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(directory: &FileStat) -> Identity {
    (directory.st_dev, directory.st_ino)
}

/// A name in a directory, whatever that directory is called.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Place {
    directory: Identity,
    name: Vec<u8>,
}

impl Place {
    pub(super) fn new(directory: &FileStat, name: &FileName<'_>) -> Self {
        Self { directory: identity(directory), name: name.raw_bytes().to_vec() }
    }
}

/// The names of directories that somebody is making. Its lock is held over no call of the kernel: one that
/// hangs holds up whoever comes to the very place that it is about, and nobody else.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    register: Mutex<Register>,
    /// Something that was being taken back is gone, or stays.
    decided: Condvar,
}

#[derive(Debug, Default)]
struct Register {
    names: HashMap<Place, Making>,
    /// How many were taken back, ever. Whoever looks for directories and marks those that he met looks again
    /// when it has changed meanwhile: what he opened may be gone.
    taken_back: u64,
    /// How many look again. Nothing is taken back then, so that they come to an end.
    insisting: usize,
}

#[derive(Debug, Default)]
struct Making {
    /// How many are making it.
    makers: usize,
    /// Whether anybody came to it who has not made it.
    is_met: bool,
    /// Whether its only maker is taking it back.
    is_going: bool,
}

/// Keeps everything from being taken back; see [`Register::insisting`].
pub(super) struct Insists<'a>(&'a Unflushed);

impl Drop for Insists<'_> {
    fn drop(&mut self) {
        self.0.register().insisting -= 1;
    }
}

impl Unflushed {
    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The register, once nobody is taking back what is at a place.
    fn decided(&self, place: &Place) -> MutexGuard<'_, Register> {
        let is_going = |register: &mut Register| {
            register.names.get(place).is_some_and(|making| making.is_going)
        };
        self.decided.wait_while(self.register(), is_going).unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a name down; to be done before the directory gets it.
    pub(super) fn add(&self, place: &Place) {
        let mut register = self.decided(place);
        let making = register.names.entry(place.clone()).or_default();
        making.is_met |= making.makers > 0;
        making.makers += 1;
    }

    /// Strikes a name out, once. Whether others are making it, who know that it is not theirs alone.
    pub(super) fn remove(&self, place: &Place) -> bool {
        let mut register = self.register();
        let Some(making) = register.names.get_mut(place) else { return false };
        making.makers -= 1;
        let are_others = making.makers > 0;
        if !are_others {
            register.names.remove(place);
        }
        are_others
    }

    /// Whether somebody is making it; that one knows from now on that it is not his alone.
    fn meet(&self, place: &Place) -> bool {
        self.decided(place).names.get_mut(place).map(|making| making.is_met = true).is_some()
    }

    /// Takes back what only its maker knows of; `unlink` does it. Whether it is gone, and struck out.
    pub(super) fn take_back(
        &self,
        place: &Place,
        unlink: impl FnOnce() -> nix::Result<()>,
    ) -> bool {
        {
            let mut register = self.register();
            let may_go = register.insisting == 0;
            match register.names.get_mut(place) {
                Some(making) if may_go && !making.is_met => making.is_going = true,
                _ => return false,
            }
        }
        let is_gone = unlink().is_ok();
        let mut register = self.register();
        if is_gone {
            register.names.remove(place);
            register.taken_back += 1;
        } else if let Some(making) = register.names.get_mut(place) {
            making.is_going = false;
        }
        self.decided.notify_all();
        is_gone
    }

    fn taken_back(&self) -> u64 {
        self.register().taken_back
    }

    /// For whoever looks again.
    pub(super) fn insist(&self) -> Insists<'_> {
        self.register().insisting += 1;
        Insists(self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.register().names.is_empty()
    }
}

/// The directories that were flushed for names that were all made before: each is flushed once, and what
/// came of it holds for all of them.
#[derive(Default)]
pub(super) struct Flushes(HashMap<Identity, Result<(), FsError>>);

impl FromIterator<(Identity, Result<(), FsError>)> for Flushes {
    fn from_iter<T: IntoIterator<Item = (Identity, Result<(), FsError>)>>(flushed: T) -> Self {
        Self(flushed.into_iter().collect())
    }
}

impl Flushes {
    /// What came of a directory's flush, if there was one.
    pub(super) fn of(&self, directory: Identity) -> Option<Result<(), FsError>> {
        self.0.get(&directory).copied()
    }

    /// Flushes a directory in which another one was made, unless it was flushed.
    fn flush(
        &mut self,
        tree: &Tree,
        directory: Identity,
        descriptor: &OwnedFd,
    ) -> Result<(), FsError> {
        let flush =
            || tree.flush(Flush::Ancestor, descriptor).map_err(FsError::at("flush the directory"));
        *self.0.entry(directory).or_insert_with(flush)
    }
}

/// One directory on the way to a name that is not durable there yet.
struct Step {
    parent: OwnedFd,
    place: Place,
    /// Its path from the root, if it was made here; otherwise somebody else is making it.
    own: Option<RelPath>,
}

/// The directories on the way to a name that must be flushed before it counts, outermost first.
#[derive(Default)]
pub(super) struct Made {
    steps: Vec<Step>,
}

impl Made {
    /// How many were made here.
    pub(super) fn count(&self) -> usize {
        self.steps.iter().filter(|step| step.own.is_some()).count()
    }

    /// Makes the names durable, innermost first.
    pub(super) fn flush(&self, tree: &Tree) -> Result<(), FsError> {
        self.flush_with(tree, &mut Flushes::default())
    }

    /// The same, beside others.
    pub(super) fn flush_with(&self, tree: &Tree, flushes: &mut Flushes) -> Result<(), FsError> {
        for step in self.steps.iter().rev() {
            flushes.flush(tree, step.place.directory, &step.parent)?;
        }
        // A name whose flush failed stays written down: nobody knows, so that everybody asks again.
        for step in self.steps.iter().filter(|step| step.own.is_some()) {
            tree.unflushed.remove(&step.place);
        }
        Ok(())
    }

    /// What was made here, for the ledger.
    pub(super) fn change(&self) -> Change {
        let own = self.steps.iter().filter_map(|step| step.own.clone());
        own.map(|path| (path, Delta { bytes: 0, names: 1 })).collect()
    }

    /// Removes what was made here again, as far as nobody has met it, and unless somebody looks again; what
    /// stays is what was made then, and is to be flushed.
    pub(super) fn undo(&mut self, tree: &Tree) {
        self.steps.retain(|step| step.own.is_some());
        while let Some(Step { parent, place, .. }) = self.steps.last() {
            let unlink = || unlinkat(parent, place.name.as_slice(), UnlinkatFlags::RemoveDir);
            if !tree.unflushed.take_back(place, unlink) {
                return; // One that stays keeps those above it.
            }
            self.steps.pop();
        }
    }
}

impl Tree {
    /// Opens a directory that must be there; `made` remembers what others are making on the way.
    pub(super) fn open_parent(
        &self,
        path: Option<&RelPath>,
        made: &mut Made,
    ) -> nix::Result<OwnedFd> {
        let (known, mut insists) = (made.steps.len(), None);
        loop {
            let taken_back = self.unflushed.taken_back();
            let opened = self.open_and_meet(path, made);
            if self.unflushed.taken_back() == taken_back {
                return opened;
            }
            made.steps.truncate(known);
            insists.get_or_insert_with(|| self.unflushed.insist());
        }
    }

    fn open_and_meet(&self, path: Option<&RelPath>, made: &mut Made) -> nix::Result<OwnedFd> {
        let directory = open_directory(&self.top, path)?;
        // After the opening: what was there by then is written down, or flushed.
        if !self.unflushed.is_empty() {
            self.meet(path, made)?;
        }
        Ok(directory)
    }

    /// Goes the way to a directory step by step, each from the top: below a directory that is held, one
    /// that moves elsewhere meanwhile would be refused as a mount point is.
    fn meet(&self, path: Option<&RelPath>, made: &mut Made) -> nix::Result<()> {
        let mut directory = open_directory(&self.top, None)?;
        let mut way: Option<RelPath> = None;
        for name in path.iter().flat_map(|path| path.components()) {
            way = Some(name.below(way.as_ref()));
            let next = open_directory(&self.top, way.as_ref())?;
            self.meet_at(std::mem::replace(&mut directory, next), &name, made)?;
        }
        Ok(())
    }

    /// The same for one directory, which was opened.
    fn meet_at(&self, parent: OwnedFd, name: &FileName<'_>, made: &mut Made) -> nix::Result<()> {
        let place = Place::new(&fstat(&parent)?, name);
        if self.unflushed.meet(&place) {
            made.steps.push(Step { parent, place, own: None });
        }
        Ok(())
    }

    /// Opens a directory and makes what is missing on the way, as far as `parents` allows; `made`
    /// remembers what was made.
    pub(super) fn make_parents(
        &self,
        path: Option<&RelPath>,
        parents: Parents,
        made: &mut Made,
    ) -> Result<OwnedFd, FsError> {
        let fail = FsError::at("make the directory");
        match self.open_parent(path, made) {
            Err(Errno::ENOENT) => {}
            opened => return opened.map_err(FsError::at("open the directory")),
        }
        made.steps.clear(); // Nothing in it is ours.
        let least = match parents {
            Parents::MustExist => usize::MAX,
            Parents::Make => 0,
            Parents::MakeFrom(least) => least,
        };
        let mut directory = open_directory(&self.top, None).map_err(&fail)?;
        let mut way: Option<RelPath> = None;
        for (index, name) in path.iter().flat_map(|path| path.components()).enumerate() {
            let here = name.below(way.as_ref());
            if index + 1 >= least {
                self.make_step(&directory, &here, &name, made)
                    .or_else(|error| if error == Errno::EEXIST { Ok(()) } else { Err(error) })
                    .map_err(&fail)?;
            }
            let next = open_directory(&self.top, Some(&here)).map_err(&fail)?;
            let parent = std::mem::replace(&mut directory, next);
            if index + 1 < least {
                self.meet_at(parent, &name, made).map_err(&fail)?;
            }
            way = Some(here);
        }
        Ok(directory)
    }

    /// Makes one directory, which must not be there; `made` remembers it.
    pub(super) fn make_one(
        &self,
        parent: &OwnedFd,
        path: &RelPath,
        made: &mut Made,
    ) -> Result<(), FsError> {
        self.make_step(parent, path, &path.split_last().1, made)
            .map_err(FsError::at("make the directory"))
    }

    fn make_step(
        &self,
        parent: &OwnedFd,
        path: &RelPath,
        name: &FileName<'_>,
        made: &mut Made,
    ) -> nix::Result<()> {
        let place = Place::new(&fstat(parent)?, name);
        let parent = parent.try_clone().map_err(|_| Errno::EMFILE)?;
        self.unflushed.add(&place);
        let outcome = mkdirat(
            &parent,
            component(name),
            Mode::from_bits_truncate(0o777 & !self.options.umask),
        );
        let own = outcome.is_ok().then(|| path.clone());
        if own.is_some() || self.unflushed.remove(&place) {
            made.steps.push(Step { parent, place, own });
        }
        outcome
    }

    /// Flushes a file or a directory, unless this tree does without.
    pub(super) fn flush(&self, flush: Flush, what: impl AsFd) -> nix::Result<()> {
        match self.options.durability {
            Durability::Full => flush.of(&self.health, what),
            Durability::None => Ok(()),
        }
    }
}
