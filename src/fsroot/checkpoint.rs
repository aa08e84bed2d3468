//! Checkpoints: what of an upload is safe, written beside it, so that a cut loses little.
//!
//! *Shape*: the extended attribute `user.ftd.upload` of the staging file holds the text
//! `1 OFFSET STATE USER TARGET`: version, bytes that are on disk, the state of the hash over them in
//! hexadecimal digits, for whom it is kept, and where it is to go (raw to the end). The data is flushed
//! before the attribute is written: so it never claims more than there is.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, ftruncate, unlinkat};
use xattr::FileExt as _;

use super::FsError;
use super::flush::Flush;
use super::ledger::Hold;
use super::resolve::open_below;
use super::staging::Staging;
use super::tree::Tree;
use super::uploads::{Owner, Unavailable, Upload, UploadId};
use crate::types::{Durability, ErrorCode, RelPath};

const NAME: &str = "user.ftd.upload";

/// Bytes after which what is written so far starts on its way to the disk, so that little is left for
/// the flush at the end, and little is lost by a cut.
const FLUSH_STEP: u64 = 64 * 1024 * 1024;
/// The same as a time; only for what is kept when it is cut.
const FLUSH_TIME: Duration = Duration::from_secs(10);
/// The least size announced for which an upload is kept: for less nobody asks.
pub(super) const ANNOUNCED_LEAST: u64 = FLUSH_STEP;
/// The least that is worth keeping.
const KEPT_LEAST: u64 = 1024 * 1024;
/// Bytes in the path of what is kept: attributes of a file must fit into 4 KiB on ext4.
const TARGET_BYTES_MAX: usize = 2_000;

/// What a file that can be continued has besides.
#[derive(Debug)]
pub(super) struct Keeping {
    pub(super) id: UploadId,
    pub(super) owner: Owner,
    /// Whether there is a checkpoint, or will be as soon as the flush before it is done.
    is_marked: bool,
}

/// The flushes that run beside the writing.
#[derive(Debug)]
pub(super) struct Early {
    /// Up to where a flush was started, and when.
    bytes: u64,
    since: Instant,
    running: Option<JoinHandle<nix::Result<()>>>,
}

impl Early {
    pub(super) fn at(bytes: u64) -> Self {
        Self { bytes, since: Instant::now(), running: None }
    }

    /// Waits for the flush. Its failure is the transfer's: the kernel tells it once, so that the flush
    /// at the end would know nothing of it.
    pub(super) fn join(&mut self) -> nix::Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        running.join().unwrap_or(Err(Errno::EIO))
    }
}

/// An upload that was cut, and is now continued: the file, and the state of its hash.
pub type Resumed = (Staging, Vec<u8>);

/// What is kept of an upload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kept {
    /// Its name.
    pub id: UploadId,
    /// Bytes that are on disk.
    pub offset: u64,
    /// The state of the hash over them.
    pub state: Vec<u8>,
}

/// An attribute, read.
pub(super) struct Checkpoint {
    pub(super) offset: u64,
    pub(super) state: Vec<u8>,
    pub(super) owner: Owner,
}

impl Checkpoint {
    fn write(file: &File, offset: u64, state: &[u8], owner: &Owner) -> std::io::Result<()> {
        use std::fmt::Write as _;
        let mut text = format!("1 {offset} ");
        for byte in state {
            let _ = write!(text, "{byte:02x}"); // A string takes everything.
        }
        let mut text = format!("{text} {} ", owner.user).into_bytes();
        text.extend_from_slice(owner.target.raw_bytes());
        file.set_xattr(NAME, &text)
    }

    fn read(file: &File) -> Option<Self> {
        Self::parse(&file.get_xattr(NAME).ok()??)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut words = text.splitn(5, |byte| *byte == b' ');
        let mut word = || words.next().and_then(|word| std::str::from_utf8(word).ok());
        if word()? != "1" {
            return None;
        }
        let offset = word()?.parse().ok()?;
        let digits = word()?;
        let state = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
            .collect::<Option<_>>()?;
        let user = word()?.to_owned();
        let target = RelPath::parse_joined(words.next()?).ok()?;
        Some(Self { offset, state, owner: Owner { user, target } })
    }
}

impl Staging {
    /// Gets what was written on its way to the disk, beside the writing, when it is time; `state` gives
    /// the state of the hash over all that was written.
    ///
    /// # Errors
    /// As fdatasync(2), for the flush before.
    pub fn settle(&mut self, state: impl FnOnce() -> Vec<u8>) -> Result<(), FsError> {
        let due = self.written - self.early.bytes;
        let keeps = self.keeping.is_some();
        if due < FLUSH_STEP && !(keeps && due > 0 && self.early.since.elapsed() >= FLUSH_TIME) {
            return Ok(());
        }
        if self.early.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return Ok(());
        }
        self.early.join().map_err(FsError::at("flush the staged file"))?;
        let full = self.tree.options.durability == Durability::Full;
        if !full && !keeps {
            return Ok(());
        }
        // Without a thread there is just more to do at the end.
        let file = Arc::clone(&self.file);
        let offset = self.written;
        let mut is_first = false;
        if let Some(keeping) = &mut self.keeping {
            is_first = !keeping.is_marked;
            keeping.is_marked = true;
        }
        let mark = self.keeping.as_ref().map(|keeping| (keeping.owner.clone(), state()));
        let (directory, health) = (Arc::clone(&self.tree.stage), Arc::clone(&self.tree.health));
        let flush = move || {
            if full {
                Flush::Checkpoint.of(&health, &file)?;
            }
            if let Some((owner, state)) = mark {
                // An attribute that cannot be kept is a checkpoint less, and no fault of the file.
                let _ = Checkpoint::write(&file, offset, &state, &owner);
                if full && is_first {
                    health.heed(nix::unistd::fsync(&directory))?;
                }
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("ftd-flush".to_owned());
        self.early.running = thread.spawn(flush).ok();
        (self.early.bytes, self.early.since) = (offset, Instant::now());
        Ok(())
    }

    /// Keeps the file for its owner, with all that was written: its transfer was cut. What is not worth
    /// it, or cannot be made safe, is removed.
    pub fn keep(mut self, state: &[u8]) {
        let Some(keeping) = &self.keeping else { return };
        let owner = keeping.owner.clone();
        if self.written < KEPT_LEAST {
            return;
        }
        let full = self.tree.options.durability == Durability::Full;
        let length = nix::libc::off_t::try_from(self.written).unwrap_or(nix::libc::off_t::MAX);
        let health = &self.tree.health;
        let safe = self.early.join().is_ok()
            && ftruncate(&self.file, length).is_ok()
            && (!full || Flush::Checkpoint.of(health, &self.file).is_ok())
            && Checkpoint::write(&self.file, self.written, state, &owner).is_ok()
            && (!full || health.heed(nix::unistd::fsync(&self.tree.stage)).is_ok());
        if safe {
            self.release();
        }
    }

    /// Keeps the file for its owner as the last checkpoint has it, without a further look at the disk.
    pub fn leave(mut self) {
        if self.keeping.as_ref().is_some_and(|keeping| keeping.is_marked) {
            self.release();
        }
    }

    /// Gives the file back to the table of uploads, so that dropping it does not remove it.
    fn release(&mut self) {
        let Some(keeping) = self.keeping.take() else { return };
        self.is_published = true;
        let hold = self.hold.take();
        if let Some(hold) = &hold {
            hold.force(self.written);
            hold.promise(0);
        }
        let uploads = &self.tree.uploads;
        self.tree.remove_kept(&uploads.release(keeping.id, uploads.now(), hold));
    }

    /// What is to be done about checkpoints before the file is published.
    pub(super) fn forget_checkpoints(&self) -> nix::Result<()> {
        if !self.keeping.as_ref().is_some_and(|keeping| keeping.is_marked) {
            return Ok(());
        }
        match self.file.remove_xattr(NAME) {
            Err(error) if error.raw_os_error() != Some(nix::libc::ENODATA) => {
                Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
            }
            _ => Ok(()),
        }
    }

    /// What is to be done about kept uploads when the file is published.
    pub(super) fn forget_kept(&mut self) {
        if let Some(keeping) = self.keeping.take() {
            self.tree.remove_kept(&self.tree.uploads.stored(keeping.id, &keeping.owner));
        }
    }
}

impl Tree {
    /// Starts a file that is kept for its owner when its transfer is cut; unless it is to be so small
    /// that nobody would ask.
    ///
    /// # Errors
    /// As open(2).
    pub fn stage_for(&self, owner: &Owner, announced: Option<u64>) -> Result<Staging, FsError> {
        let is_small = announced.is_some_and(|bytes| bytes < ANNOUNCED_LEAST);
        if is_small || owner.target.raw_bytes().len() > TARGET_BYTES_MAX {
            return Staging::create(self, &owner.target, None);
        }
        self.stage_as(UploadId(super::staging::random_number()?), owner)
    }

    /// Starts a file that is kept under this id.
    pub(super) fn stage_as(&self, id: UploadId, owner: &Owner) -> Result<Staging, FsError> {
        let keeping = Keeping { id, owner: owner.clone(), is_marked: false };
        let staging = Staging::create(self, &owner.target, Some(keeping))?;
        // Known from the start, so that whoever comes back is told to wait for the end of the first try.
        let (owner, since) = (owner.clone(), self.uploads.now());
        self.uploads.enter(id, Upload { owner, since, busy: true, hold: None });
        Ok(staging)
    }

    /// What is kept of this owner's upload.
    ///
    /// # Errors
    /// `NotFound`, also for what is somebody else's; `Busy` while a transfer writes it.
    pub fn kept(&self, owner: &Owner) -> Result<Kept, FsError> {
        let id = self.uploads.find(owner).map_err(unavailable)?;
        let (_, checkpoint) = self.open_kept(id)?;
        Ok(Kept { id, offset: checkpoint.offset, state: checkpoint.state })
    }

    /// Takes an upload up where its checkpoint is; what came after it is dropped.
    ///
    /// # Errors
    /// As [`Tree::kept`]; `Changed` when the checkpoint is not at `offset`.
    pub fn resume(&self, owner: &Owner, id: UploadId, offset: u64) -> Result<Resumed, FsError> {
        let hold = self.uploads.claim(id, owner).map_err(unavailable)?;
        let opened = self.open_kept(id).and_then(|(file, checkpoint)| {
            if checkpoint.offset != offset || checkpoint.owner != *owner {
                let doing = "resume the upload: it is not safe up to that offset; ask again";
                return Err(FsError::new(ErrorCode::Changed, doing, None));
            }
            self.lock_partial(&file)?;
            let length = nix::libc::off_t::try_from(offset).unwrap_or(nix::libc::off_t::MAX);
            ftruncate(&file, length).map_err(FsError::at("resume the upload"))?;
            Ok((file, checkpoint.state))
        });
        match opened {
            Ok((file, state)) => {
                let keeping = Keeping { id, owner: owner.clone(), is_marked: true };
                let hold = hold.unwrap_or_else(|| Hold::new(&self.ledger, &owner.target, None));
                let name = id.file_name(self.options.staging).into();
                Ok((Staging::of(self, file, name, Some(keeping), hold, offset), state))
            }
            Err(error) => {
                self.remove_kept(&self.uploads.release(id, self.uploads.now(), hold));
                Err(error)
            }
        }
    }

    pub(super) fn open_kept(&self, id: UploadId) -> Result<(File, Checkpoint), FsError> {
        let name = id.file_name(self.options.staging);
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW;
        let file = open_below(&self.stage, name.as_bytes(), flags, Mode::empty());
        let file = File::from(file.map_err(FsError::at("open the upload"))?);
        let length = fstat(&file).map_err(FsError::at("open the upload"))?.st_size;
        match Checkpoint::read(&file) {
            Some(checkpoint) if i64::try_from(checkpoint.offset).is_ok_and(|at| at <= length) => {
                Ok((file, checkpoint))
            }
            // Cut before its first checkpoint, or damaged: nothing of it can be trusted.
            _ => Err(unavailable(Unavailable::Missing)),
        }
    }

    /// Whether a user has uploads that are kept, or will be when they are cut. It costs no look at the disk.
    pub fn keeps(&self, user: &str) -> bool {
        self.uploads.has(user)
    }

    /// Removes what is kept of an owner's uploads: another file is stored in their place. That there is
    /// none costs no look at the disk.
    pub fn forget_kept(&self, owner: &Owner) {
        self.remove_kept(&self.uploads.replace(owner));
    }

    /// Removes files that the table of uploads has given up.
    pub(super) fn remove_kept(&self, gone: &[UploadId]) {
        for id in gone {
            // What cannot be removed now is swept at the next start.
            let _ = unlinkat(
                &self.stage,
                id.file_name(self.options.staging).as_str(),
                UnlinkatFlags::NoRemoveDir,
            );
        }
    }

    /// Removes uploads that nobody has continued for so long; gives how many they were.
    pub fn expire(&self, age: Duration) -> usize {
        let gone = self.uploads.expire(self.uploads.ago(age));
        self.remove_kept(&gone);
        gone.len()
    }

    /// Looks through the staging directory, as the first thing after a start: enters uploads that can be
    /// continued, and gives the names of all the rest, which [`Tree::sweep`] removes.
    ///
    /// # Errors
    /// The staging directory cannot be read.
    pub fn recover(&self, age: Duration) -> Result<Stale, FsError> {
        let fail = FsError::at("look through the staging directory");
        let again = open_below(&self.stage, b".", super::resolve::DIRECTORY, Mode::empty())
            .map_err(&fail)?;
        let mut stale = Vec::new();
        for entry in nix::dir::Dir::from_fd(again).map_err(&fail)? {
            let entry = entry.map_err(&fail)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let found = UploadId::of_file_name(name)
                .and_then(|id| self.open_kept(id).ok().map(|found| (id, found)));
            match found {
                Some((id, (file, Checkpoint { owner, .. }))) => {
                    let stat = file.metadata();
                    let modified = stat.as_ref().ok().and_then(|stat| stat.modified().ok());
                    let modified = modified.unwrap_or(SystemTime::UNIX_EPOCH);
                    // What is of the future by a clock that was set back is of this moment.
                    let since = self.uploads.ago(modified.elapsed().unwrap_or_default());
                    let hold = Hold::new(&self.ledger, &owner.target, None);
                    hold.force(stat.map_or(0, |stat| stat.len()));
                    self.uploads.enter(id, Upload { owner, since, busy: true, hold: None });
                    // Each makes room as if it had been cut just now.
                    let gone = self.uploads.release(id, since, Some(hold));
                    stale.extend(gone.iter().map(|id| id.file_name(self.options.staging).into()));
                }
                None => stale.push(std::ffi::OsStr::from_bytes(name).to_owned()),
            }
        }
        stale.extend(
            self.uploads
                .expire(self.uploads.ago(age))
                .iter()
                .map(|id| id.file_name(self.options.staging).into()),
        );
        Ok(Stale(stale))
    }

    /// Removes what [`Tree::recover`] has found stale; gives how many files they were.
    pub fn sweep(&self, stale: &Stale) -> usize {
        let remove = |name: &std::ffi::OsString| {
            unlinkat(&self.stage, name.as_os_str(), UnlinkatFlags::NoRemoveDir).is_ok()
        };
        stale.0.iter().filter(|name| remove(name)).count()
    }
}

/// Files that unfinished transfers of an earlier process have left.
#[derive(Debug)]
pub struct Stale(Vec<std::ffi::OsString>);

pub(super) fn unavailable(why: Unavailable) -> FsError {
    match why {
        Unavailable::Missing => {
            FsError::new(ErrorCode::NotFound, "resume the upload: nothing of it is kept", None)
        }
        Unavailable::Busy => FsError::new(
            ErrorCode::Busy,
            "resume the upload: another connection still writes it",
            None,
        ),
    }
}
