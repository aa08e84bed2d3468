//! Uploads that can be continued: whose they are, and who writes them at the moment.
//!
//! The staging file of each is called `keep-` and its id, and says in an attribute (`checkpoint.rs`)
//! what it is. This table is made of those attributes at a start, and never outlives the process.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::Hold;
use super::tree::StagingPlace;
use crate::types::RelPath;

/// Uploads that are kept for one user; of more the oldest go.
pub(super) const KEPT_MAX: usize = 64;

/// What the names of such staging files begin with.
const PREFIX: &str = "keep-";

/// The name of one upload: nobody can guess it.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct UploadId(pub(super) u128);

impl UploadId {
    /// What its staging file is called.
    pub(super) fn file_name(self, place: StagingPlace) -> String {
        match place {
            StagingPlace::Directory => format!("{PREFIX}{self}"),
            StagingPlace::Beside => format!(".ftd-{self}.part"),
        }
    }

    pub(super) fn of_file_name(name: &[u8]) -> Option<Self> {
        std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?.parse().ok()
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The word is no upload's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NoUploadId;

impl FromStr for UploadId {
    type Err = NoUploadId;

    fn from_str(word: &str) -> Result<Self, NoUploadId> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if word.len() != 32 || !word.bytes().all(is_digit) {
            return Err(NoUploadId);
        }
        u128::from_str_radix(word, 16).map(Self).map_err(|_| NoUploadId)
    }
}

/// For whom an upload is kept: nobody else can ask for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// The user's name.
    pub user: String,
    /// Where the file is to go, below the root.
    pub target: RelPath,
}

/// Why an upload cannot be had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unavailable {
    Missing,
    Busy,
}

/// Nanoseconds since the table was made, by a clock that nobody sets; less than 0 for what is older.
pub(super) type Moment = i64;

/// One upload.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) owner: Owner,
    /// When it was last written.
    pub(super) since: Moment,
    /// Whether a transfer writes it.
    pub(super) busy: bool,
    /// What it takes of quotas while nobody writes it.
    pub(super) hold: Option<Hold>,
}

/// All uploads that can be continued, or will be when they are cut.
#[derive(Debug)]
pub(super) struct Uploads {
    table: Mutex<Table>,
    made: Instant,
}

#[derive(Debug, Default)]
struct Table {
    all: HashMap<UploadId, Upload>,
    /// Those of each user who has some: a few, among which one is looked for.
    of_users: HashMap<String, Vec<UploadId>>,
}

impl Table {
    fn insert(&mut self, id: UploadId, upload: Upload) {
        self.remove(id);
        self.of_users.entry(upload.owner.user.clone()).or_default().push(id);
        self.all.insert(id, upload);
    }

    fn remove(&mut self, id: UploadId) {
        let Some(upload) = self.all.remove(&id) else { return };
        if let Some(own) = self.of_users.get_mut(&upload.owner.user) {
            own.retain(|other| *other != id);
            if own.is_empty() {
                self.of_users.remove(&upload.owner.user);
            }
        }
    }

    fn of_user(&self, user: &str) -> impl Iterator<Item = (UploadId, &Upload)> {
        let own = self.of_users.get(user).into_iter().flatten();
        own.filter_map(|id| Some((*id, self.all.get(id)?)))
    }

    fn of_owner(&self, owner: &Owner) -> impl Iterator<Item = (UploadId, &Upload)> {
        self.of_user(&owner.user).filter(|(_, upload)| upload.owner.target == owner.target)
    }

    /// Takes all kept uploads of an owner but one out.
    fn take_others(&mut self, id: Option<UploadId>, owner: &Owner) -> Vec<UploadId> {
        let others = self.of_owner(owner);
        let others = others.filter(|(other, upload)| Some(*other) != id && !upload.busy);
        let others: Vec<_> = others.map(|(other, _)| other).collect();
        for other in &others {
            self.remove(*other);
        }
        others
    }
}

impl Default for Uploads {
    fn default() -> Self {
        Self { table: Mutex::default(), made: Instant::now() }
    }
}

impl Uploads {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This moment.
    pub(super) fn now(&self) -> Moment {
        nanoseconds(self.made.elapsed())
    }

    /// The moment so long ago.
    pub(super) fn ago(&self, age: Duration) -> Moment {
        self.now().saturating_sub(nanoseconds(age))
    }

    /// Takes up what a transfer writes, or what a start has found.
    pub(super) fn enter(&self, id: UploadId, upload: Upload) {
        self.table().insert(id, upload);
    }

    /// Whether a user has any, kept or being written.
    pub(super) fn has(&self, user: &str) -> bool {
        self.table().of_users.contains_key(user)
    }

    /// The upload of this owner, if nobody writes one.
    pub(super) fn find(&self, owner: &Owner) -> Result<UploadId, Unavailable> {
        let table = self.table();
        if table.of_owner(owner).any(|(_, upload)| upload.busy) {
            return Err(Unavailable::Busy);
        }
        let last = table.of_owner(owner).max_by_key(|(_, upload)| upload.since);
        last.map(|(id, _)| id).ok_or(Unavailable::Missing)
    }

    /// Takes an upload for writing: one transfer has it, or none.
    pub(super) fn claim(&self, id: UploadId, owner: &Owner) -> Result<Option<Hold>, Unavailable> {
        let mut table = self.table();
        let upload = table.all.get_mut(&id).filter(|upload| upload.owner == *owner);
        let upload = upload.ok_or(Unavailable::Missing)?;
        if upload.busy {
            return Err(Unavailable::Busy);
        }
        upload.busy = true;
        Ok(upload.hold.take())
    }

    /// Gives an upload back, to be continued later. What must make room for it is given, and is no
    /// longer known: others of the same owner, and the oldest of a user who has too many.
    pub(super) fn release(&self, id: UploadId, now: Moment, hold: Option<Hold>) -> Vec<UploadId> {
        let mut table = self.table();
        let Some(upload) = table.all.get_mut(&id) else { return Vec::new() };
        (upload.busy, upload.since, upload.hold) = (false, now, hold);
        let owner = upload.owner.clone();
        let mut gone = table.take_others(Some(id), &owner);
        let own = table.of_user(&owner.user).filter(|(_, upload)| !upload.busy);
        let mut own: Vec<_> = own.map(|(id, upload)| (upload.since, id)).collect();
        own.sort_by_key(|(since, _)| *since);
        let surplus = own.len().saturating_sub(KEPT_MAX);
        for (_, id) in own.into_iter().take(surplus) {
            table.remove(id);
            gone.push(id);
        }
        gone
    }

    /// Forgets an upload that is stored; what else was kept for its owner is given, and forgotten too.
    pub(super) fn stored(&self, id: UploadId, owner: &Owner) -> Vec<UploadId> {
        let mut table = self.table();
        table.remove(id);
        table.take_others(Some(id), owner)
    }

    /// Forgets and gives what is kept for an owner, because something else is stored in its place.
    pub(super) fn replace(&self, owner: &Owner) -> Vec<UploadId> {
        self.table().take_others(None, owner)
    }

    /// Forgets an upload that is removed.
    pub(super) fn forget(&self, id: UploadId) {
        self.table().remove(id);
    }

    /// Forgets and gives what nobody has written since `before`.
    pub(super) fn expire(&self, before: Moment) -> Vec<UploadId> {
        let mut table = self.table();
        let is_old = |upload: &Upload| !upload.busy && upload.since < before;
        let old = table.all.iter().filter(|(_, upload)| is_old(upload));
        let gone: Vec<_> = old.map(|(id, _)| *id).collect();
        for id in &gone {
            table.remove(*id);
        }
        gone
    }
}

fn nanoseconds(duration: Duration) -> Moment {
    Moment::try_from(duration.as_nanos()).unwrap_or(Moment::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    fn owner(user: &str, target: &str) -> Result<Owner, crate::types::NameError> {
        Ok(Owner { user: user.to_owned(), target: RelPath::parse(target.as_bytes())? })
    }

    /// C-05, C-06, C-09 in small: one transfer has an upload, its owner alone finds it, and what is
    /// being written is never swept.
    #[test]
    fn an_upload_has_one_owner_and_one_writer() -> TestResult {
        let (table, now) = (Uploads::default(), 7);
        let (alice, bob) = (owner("alice", "f")?, owner("bob", "f")?);
        let id = UploadId(7);
        table.enter(id, Upload { owner: alice.clone(), since: now, busy: true, hold: None });
        assert_eq!(table.find(&alice), Err(Unavailable::Busy));
        assert!(table.has("alice") && !table.has("bob"));
        assert!(table.expire(now + 9).is_empty());
        assert!(table.release(id, now, None).is_empty());
        assert_eq!((table.find(&alice), table.find(&bob)), (Ok(id), Err(Unavailable::Missing)));
        assert_eq!(table.claim(id, &bob).err(), Some(Unavailable::Missing));
        assert_eq!(table.claim(id, &owner("alice", "g")?).err(), Some(Unavailable::Missing));
        assert!(table.claim(id, &alice).is_ok());
        assert_eq!(table.claim(id, &alice).err(), Some(Unavailable::Busy));
        table.release(id, now, None);
        assert_eq!(table.expire(now + 9), [id]);
        assert_eq!(table.find(&alice), Err(Unavailable::Missing));
        assert!(!table.has("alice"), "nothing is left of whoever has none");
        Ok(())
    }

    /// R-16 in small: of one user the youngest are kept, and one for each path.
    #[test]
    fn the_oldest_make_room() -> TestResult {
        let (table, start) = (Uploads::default(), 7);
        let mut gone = Vec::new();
        for number in 0..100_u32 {
            let (id, since) = (UploadId(number.into()), start + Moment::from(number));
            let owner = owner("alice", &format!("f{number}"))?;
            table.enter(id, Upload { owner, since, busy: true, hold: None });
            gone.extend(table.release(id, since, None));
        }
        assert_eq!(gone, (0..36).map(UploadId).collect::<Vec<_>>());
        let again = UploadId(1000);
        table.enter(
            again,
            Upload { owner: owner("alice", "f99")?, since: start, busy: true, hold: None },
        );
        assert_eq!(table.release(again, start, None), [UploadId(99)]);
        Ok(())
    }

    /// C-11 in small: age is told by a clock that nobody sets, and reaches back behind the start.
    #[test]
    fn age_is_counted_from_the_start_in_both_directions() -> TestResult {
        let table = Uploads::default();
        let hour = Duration::from_hours(1);
        let (old, young) = (table.ago(2 * hour), table.now());
        assert!(old < 0 && old < young && young <= table.now());
        assert!(table.ago(Duration::MAX) < old, "the longest is no overflow");
        for (id, since) in [(UploadId(1), old), (UploadId(2), young)] {
            let owner = owner("alice", &format!("{id}"))?;
            table.enter(id, Upload { owner, since, busy: false, hold: None });
        }
        assert_eq!(table.expire(table.ago(3 * hour)), []);
        assert_eq!(table.expire(table.ago(hour)), [UploadId(1)]);
        Ok(())
    }

    #[test]
    fn an_upload_is_spelled_in_one_way() {
        let word = format!("{}", UploadId(0xab));
        assert_eq!(word.parse(), Ok(UploadId(0xab)));
        for wrong in ["", "ab", &word[1..], &word.to_uppercase(), &format!("+{}", &word[1..])] {
            assert_eq!(wrong.parse::<UploadId>(), Err(NoUploadId), "{wrong}");
        }
        assert_eq!(
            UploadId::of_file_name(UploadId(3).file_name(StagingPlace::Directory).as_bytes()),
            Some(UploadId(3))
        );
    }
}
