//! Changes of names: remove, make and rename, each durable before it is told.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::sys::stat::fstat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::commit::{Parents, existing_file};
use super::flush::Flush;
use super::ledger::Delta;
use super::look::Look;
use super::made::{Made, Place, identity};
use super::resolve::{component, open_directory};
use super::retain::{check_age, check_movable};
use super::tree::Tree;
use super::{FsError, Kind};
use crate::types::{ErrorCode, FileName, RelPath};

/// The terms of a rename.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Moving {
    /// Whether a regular file that has the new name may be replaced.
    pub replace: bool,
    /// What was stored less than this ago keeps its name, and so does any directory.
    pub retain: Option<Duration>,
    /// A file that was stored less than this ago is not replaced.
    pub retain_target: Option<Duration>,
}

impl Tree {
    /// Removes the name of anything but a directory; a link's own name, never what it points to.
    ///
    /// # Errors
    /// As unlink(2); `WrongType` for a directory; `Denied` for a mount point, and for what was stored less than
    /// `retain` ago; `UnknownOutcome` when the name is gone and its directory could not be flushed.
    pub fn remove(&self, path: &RelPath, retain: Option<Duration>) -> Result<(), FsError> {
        let parent = self.ledger.in_turn(&[path], false, || {
            let fail = FsError::at("remove the name");
            let (parent, name) = self.parent_of(path, "remove the name")?;
            let look = Look::within(&parent, &name).map_err(&fail)?;
            if look.stat.kind == Kind::Directory {
                let doing =
                    "remove the name: it is a directory, which rmdir removes when it is empty";
                return Err(FsError::new(ErrorCode::WrongType, doing, None));
            }
            check_age(&look, retain, "remove the name")?;
            unlinkat(&parent, component(&name), UnlinkatFlags::NoRemoveDir).map_err(fail)?;
            self.ledger.enter(&[(path.clone(), -Delta::file(look.stat.bytes))]);
            Ok(parent)
        })?;
        self.flush_after(&parent)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As rmdir(2); `Denied` for a mount point; `UnknownOutcome` as for [`Tree::remove`].
    pub fn remove_directory(&self, path: &RelPath) -> Result<(), FsError> {
        let parent = self.ledger.in_turn(&[path], false, || {
            let (parent, name) = self.parent_of(path, "remove the directory")?;
            unlinkat(&parent, component(&name), UnlinkatFlags::RemoveDir)
                // Of a directory: something is mounted there.
                .map_err(|error| if error == Errno::EBUSY { Errno::EXDEV } else { error })
                .map_err(FsError::at("remove the directory"))?;
            self.ledger.enter(&[(path.clone(), -Delta::file(0))]);
            Ok(parent)
        })?;
        self.flush_after(&parent)
    }

    /// Makes a directory, durably, and gives how many were made: with [`Parents::Make`] those above it
    /// too, and none if it is there.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn make_directory(&self, path: &RelPath, parents: Parents) -> Result<usize, FsError> {
        let mut made = Made::default();
        let outcome = self.ledger.in_turn(&[path], false, || {
            let outcome = match parents {
                Parents::MustExist => self
                    .open_parent(path.split_last().0.as_ref(), &mut made)
                    .map_err(FsError::at("make the directory"))
                    .and_then(|parent| self.make_one(&parent, path, &mut made)),
                making => self.make_parents(Some(path), making, &mut made).map(drop),
            };
            let outcome = outcome.and_then(|()| self.ledger.admit(&made.change(), None));
            if outcome.is_err() {
                made.undo(self);
            }
            self.ledger.enter(&made.change());
            outcome
        });
        let flushed = made.flush(self); // After a failure, of what others have met.
        outcome?;
        if flushed.is_err() {
            // Without a turn it stays.
            let _ = self.ledger.in_turn(&[path], false, || {
                let before = made.change();
                made.undo(self);
                let gone = before.into_iter().map(|(path, delta)| (path, -delta));
                self.ledger.enter(&gone.collect::<Vec<_>>());
                self.ledger.enter(&made.change());
                Ok(())
            });
        }
        flushed.map(|()| made.count())
    }

    /// Gives a file, a directory or a link another name. Only a regular file is ever replaced, and only
    /// by what is no directory. Gives whether one was.
    ///
    /// *Source*: renameat2(2); `docs/architecture.md`, "Durability".
    ///
    /// # Errors
    /// As rename(2); `Denied` where what is there is kept, or a mount point; `Busy` where a file that may be replaced came
    /// there meanwhile; `UnknownOutcome` when the new name is in place and could not be flushed.
    pub fn rename(&self, from: &RelPath, to: &RelPath, terms: Moving) -> Result<bool, FsError> {
        if to.is_below(from) {
            let doing = "rename: a directory cannot be moved into itself";
            return Err(FsError::new(ErrorCode::BadName, doing, None));
        }
        let mut above = Made::default();
        let moved = self
            .ledger
            .in_turn(&[from, to], true, || self.rename_in_turn(from, to, terms, &mut above))?;
        let Some(Moved { source, target, place, replaced, across }) = moved else {
            return Ok(false);
        };
        // The new name first: a crash in between leaves both names, never none.
        self.flush_after(&target)?;
        above.flush(self).map_err(FsError::after_the_rename)?;
        if let Some(place) = &place {
            self.unflushed.remove(place);
        }
        if across {
            self.flush_after(&source)?;
        }
        Ok(replaced)
    }

    /// The change itself; `None` when there is nothing to change.
    fn rename_in_turn(
        &self,
        from: &RelPath,
        to: &RelPath,
        terms: Moving,
        above: &mut Made,
    ) -> Result<Option<Moved>, FsError> {
        let doing = "rename";
        let fail = FsError::at(doing);
        let (source, old) = self.parent_of(from, doing)?;
        let (target_path, new) = to.split_last();
        let target = self.open_parent(target_path.as_ref(), above).map_err(&fail)?;
        let moved = Look::within(&source, &old).map_err(&fail)?;
        let is_directory = moved.stat.kind == Kind::Directory;
        check_movable(&moved, terms.retain, doing)?;
        let replaced = if terms.replace && !is_directory {
            existing_file(&target, &new, terms.retain_target)?
        } else {
            None
        };
        if replaced.is_some() && from == to {
            // Onto itself: the kernel does nothing, and there are no two names of which one must go.
            return Ok(None);
        }
        let homes: Vec<_> =
            [from, to].into_iter().flat_map(|path| self.ledger.homes_within(path)).collect();
        let weight = if !is_directory {
            Delta::file(moved.stat.bytes)
        } else if homes.is_empty() && !self.ledger.parts(from, to) {
            Delta::default() // It stays below the same homes, whatever is in it.
        } else {
            Delta::of(self.count_below(Some(from))?) + Delta::file(0)
        };
        let gone = replaced.map_or_else(Delta::default, Delta::file);
        let change = [(from.clone(), -weight), (to.clone(), weight - gone)];
        self.ledger.admit(&change, None)?;
        // What is put into a directory under its new name counts only once that is flushed.
        let parent = fstat(&target).map_err(&fail)?;
        let across = identity(&fstat(&source).map_err(&fail)?) != identity(&parent);
        let place = is_directory.then(|| Place::new(&parent, &new));
        if let Some(place) = &place {
            self.unflushed.add(place);
        }
        // Two names of one inode: the kernel does nothing and says it did. Looked at before: afterwards the
        // same inode under the old name may as well be one that another rename has brought back.
        let is_still = |parent, name| {
            Look::within(parent, name).is_ok_and(|there| there.identity == moved.identity)
        };
        let are_twins = replaced.is_some() && moved.links > 1 && is_still(&target, &new);
        let flags =
            if replaced.is_some() { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        renameat2(&source, component(&old), &target, component(&new), flags).map_err(|error| {
            if let Some(place) = &place {
                self.unflushed.remove(place);
            }
            match error {
                Errno::EEXIST if terms.replace && !is_directory => {
                    let doing = "rename: the new name was taken meanwhile; try again";
                    FsError::new(ErrorCode::Busy, doing, None)
                }
                Errno::EEXIST => {
                    FsError::new(ErrorCode::Exists, "rename: the new name is taken", None)
                }
                error => fail(error),
            }
        })?;
        self.ledger.enter(&change);
        for home in homes {
            // What cannot be counted now is counted when the daemon next looks.
            self.ledger.found(&home, self.count_below(Some(&home)).ok());
        }
        if are_twins && is_still(&source, &old) && is_still(&target, &new) {
            unlinkat(&source, component(&old), UnlinkatFlags::NoRemoveDir)
                .map_err(&fail)
                .map_err(FsError::after_the_rename)?;
        }
        Ok(Some(Moved { source, target, place, replaced: replaced.is_some(), across }))
    }

    fn parent_of<'a>(
        &self,
        path: &'a RelPath,
        doing: &'static str,
    ) -> Result<(OwnedFd, FileName<'a>), FsError> {
        let (parent, name) = path.split_last();
        let parent = open_directory(&self.top, parent.as_ref()).map_err(FsError::at(doing))?;
        Ok((parent, name))
    }

    /// Flushes a directory in which a name was changed already.
    fn flush_after(&self, directory: &OwnedFd) -> Result<(), FsError> {
        self.flush(Flush::Directory, directory)
            .map_err(FsError::at("flush the directory"))
            .map_err(FsError::after_the_rename)
    }
}

/// A name that was changed, and is to be flushed.
struct Moved {
    source: OwnedFd,
    target: OwnedFd,
    /// Of a directory: where it is now.
    place: Option<Place>,
    replaced: bool,
    /// Whether it is in another directory than it was.
    across: bool,
}
