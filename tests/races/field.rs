//! The ground of the races: directories that change places with links, with each other, and with what
//! lies outside, and whatever must never be touched.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use tempfile::TempDir;

use crate::Fallible;
use crate::support::exchange;

/// Names that every scene has, inside and outside.
const NAMES: usize = 10;
/// Requests of one volley: each name of each scene.
pub const SLOTS: usize = NAMES * SCENES.len();
/// How long the attacker rests: on two cores a swap without any rest starves who is attacked.
const REST: Duration = Duration::from_micros(60);

/// What is swapped with what.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Scene {
    /// A directory with a link that leads out of the root: both walls stand in the way.
    Link,
    /// A directory with a link to another user's home, which the sandbox allows: the first wall alone.
    OtherHome,
    /// A directory higher up with a link that leads out.
    Middle,
    /// A directory with another one, both inside.
    Pair,
    /// A directory with one outside the root: the second wall alone.
    Gone,
    /// A file with a link that leads out, a pipe, a directory, another file.
    Leaf,
}

const SCENES: [Scene; 6] =
    [Scene::Link, Scene::OtherHome, Scene::Middle, Scene::Pair, Scene::Gone, Scene::Leaf];

impl Scene {
    pub fn of(slot: usize) -> Self {
        SCENES[slot % SCENES.len()]
    }

    /// The path of the directory in which requests of this scene act, below the home.
    pub fn path(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::OtherHome => "other",
            Self::Middle => "deep/mid",
            Self::Pair => "pair",
            Self::Gone => "gone",
            Self::Leaf => "leaf",
        }
    }
}

/// What a name outside holds; longer than anything that is put.
pub fn foreign() -> Vec<u8> {
    b"outside ".repeat(100)
}

/// A name that is there outside alone.
pub const CANARY: &str = "canary";

/// Device and inode, size, and the times that every change moves.
type Trace = (u64, u64, u64, (i64, i64), (i64, i64));

/// The names in a directory with their inodes, and its time of modification.
type Names = (BTreeMap<OsString, u64>, (i64, i64));

pub struct Field {
    home: PathBuf,
    park: PathBuf,
    /// On the root's file system, and outside whatever the daemon may look at.
    around: TempDir,
    /// The directories of each scene, wherever they are called what.
    held: BTreeMap<Scene, Vec<File>>,
    untouched: BTreeMap<PathBuf, Trace>,
    /// What has been swapped how often.
    pub swaps: AtomicUsize,
    /// What the attacker saw change in a directory while it was outside.
    escape: Mutex<Option<String>>,
}

impl Field {
    /// Plants everything in the home, which lies below the root.
    pub fn new(root: &Path, home: &Path) -> Fallible<Self> {
        let around = tempfile::Builder::new().prefix("ftd-outside-").tempdir()?;
        let park = root.join("park");
        fs::create_dir(&park)?;
        let sentinels =
            [around.path().join("far"), around.path().join("deep/mid"), root.join("bob")];
        for directory in &sentinels {
            fs::create_dir_all(directory)?;
            fs::write(directory.join(CANARY), foreign())?;
            for slot in 0..SLOTS {
                fs::write(directory.join(format!("s{slot}")), foreign())?;
                fs::create_dir(directory.join(format!("d{slot}")))?;
            }
        }
        for path in ["link", "other", "deep/mid", "pair", "gone", "leaf", "calm"] {
            fs::create_dir_all(home.join(path))?;
        }
        symlink(&sentinels[0], park.join("link"))?;
        symlink(&sentinels[2], park.join("other"))?;
        symlink(around.path().join("deep"), park.join("deep"))?;
        fs::create_dir(park.join("pair"))?;
        fs::create_dir(around.path().join("gone"))?;
        let open = |path: PathBuf| File::open(path);
        let held = BTreeMap::from([
            (Scene::Link, vec![open(home.join("link"))?]),
            (Scene::OtherHome, vec![open(home.join("other"))?]),
            (Scene::Middle, vec![open(home.join("deep/mid"))?]),
            (Scene::Pair, vec![open(home.join("pair"))?, open(park.join("pair"))?]),
            (Scene::Gone, vec![open(home.join("gone"))?, open(around.path().join("gone"))?]),
            (Scene::Leaf, vec![open(home.join("leaf"))?]),
        ]);
        let mut untouched = BTreeMap::new();
        for directory in &sentinels {
            trace(directory, &mut untouched)?;
        }
        Ok(Self {
            home: home.to_owned(),
            park,
            around,
            held,
            untouched,
            swaps: AtomicUsize::new(0),
            escape: Mutex::new(None),
        })
    }

    /// Swaps one thing after another for as long as `is_running` says so.
    pub fn attack(&self, is_running: impl Fn() -> bool) {
        let mut state = 0x9E37_79B9_u64;
        let mut outside = None;
        while is_running() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let choice = usize::try_from(state >> 40).unwrap_or(0);
            let swap = |name: &str| exchange(&self.home.join(name), &self.park.join(name));
            match Scene::of(choice) {
                Scene::Link => swap("link"),
                Scene::OtherHome => swap("other"),
                Scene::Middle => swap("deep"),
                Scene::Pair => swap("pair"),
                Scene::Gone => outside = self.swap_with_outside(outside.as_ref()),
                Scene::Leaf => self.swap_leaf(choice / SCENES.len()),
            }
            self.swaps.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(REST);
        }
    }

    /// The directory that is outside comes in and the other goes out; what was outside must be as it
    /// was when it went. The kernel asks the sandbox and changes a directory under one lock of it, which a
    /// move of that directory takes too, so that nothing can come in between.
    fn swap_with_outside(&self, before: Option<&Names>) -> Option<Names> {
        let out = self.around.path().join("gone");
        let after = names(&out).ok();
        if before.is_some() && before != after.as_ref() {
            let text = format!("a directory outside changed: {before:?}, then {after:?}");
            self.tell(text);
        }
        exchange(&self.home.join("gone"), &out);
        names(&out).ok()
    }

    fn tell(&self, text: String) {
        if let Ok(mut escape) = self.escape.lock() {
            escape.get_or_insert(text);
        }
    }

    /// A name becomes a link that leads out, a pipe, a directory or another file.
    fn swap_leaf(&self, choice: usize) {
        let slots: Vec<_> = (0..SLOTS).filter(|slot| Scene::of(*slot) == Scene::Leaf).collect();
        let name = format!("s{}", slots[choice % slots.len()]);
        let (leaf, other) = (self.home.join("leaf").join(&name), self.park.join("leaf"));
        let planted = match choice / slots.len() % 6 {
            0 | 1 => symlink(self.around.path().join("far").join(&name), &other),
            2 => nix::unistd::mkfifo(&other, nix::sys::stat::Mode::S_IRWXU).map_err(Into::into),
            3 => fs::create_dir(&other),
            _ => fs::write(&other, "inside, by the attacker"),
        };
        if planted.is_ok() {
            exchange(&leaf, &other);
            let flags = nix::fcntl::RenameFlags::RENAME_NOREPLACE;
            let here = nix::fcntl::AT_FDCWD;
            if !leaf.is_symlink() && !leaf.exists() {
                // It was removed or moved away; if it is there again the next line takes the other.
                let _ = nix::fcntl::renameat2(here, &other, here, &leaf, flags);
            }
        }
        clear(&other);
    }

    /// What the attacker saw, and what is outside: all as it was.
    pub fn check_outside(&self) -> Result<(), String> {
        if let Some(escape) = self.escape.lock().map_err(|_| "poisoned")?.take() {
            return Err(escape);
        }
        let mut found = BTreeMap::new();
        for directory in
            [self.around.path().join("far"), self.around.path().join("deep/mid"), self.bob()]
        {
            trace(&directory, &mut found).map_err(|error| error.to_string())?;
        }
        if found == self.untouched {
            return Ok(());
        }
        let changed = found.iter().filter(|(path, trace)| self.untouched.get(*path) != Some(trace));
        let gone = self.untouched.keys().filter(|path| !found.contains_key(*path));
        let changed: Vec<_> = changed.map(|(path, _)| path).chain(gone).collect();
        Err(format!("changed outside: {changed:?}"))
    }

    fn bob(&self) -> PathBuf {
        self.park.with_file_name("bob")
    }

    /// The contents outside, which a change of the clock could hide.
    pub fn check_contents_outside(&self) -> Fallible<()> {
        for path in self.untouched.keys().filter(|path| path.is_file()) {
            if fs::read(path)? != foreign() {
                return Err(format!("{} has another content", path.display()).into());
            }
        }
        Ok(())
    }

    /// What a slot's name holds in the directories of its scene, and under its calm name.
    pub fn holdings(&self, slot: usize) -> Fallible<(Vec<String>, Option<String>)> {
        let name = format!("s{slot}");
        let mut held = Vec::new();
        for directory in self.held.get(&Scene::of(slot)).into_iter().flatten() {
            held.extend(content(&inside(directory, &name))?);
        }
        held.sort();
        Ok((held, content(&self.calm(slot))?))
    }

    /// In how many of the directories of its scene a slot has a directory of this name.
    pub fn directories(&self, slot: usize, name: &str) -> usize {
        let held = self.held.get(&Scene::of(slot)).into_iter().flatten();
        held.filter(|directory| inside(directory, name).is_dir()).count()
    }

    /// Puts something where requests can find it: in one directory of the scene, or under the calm name.
    pub fn provide(&self, slot: usize, is_calm: bool, content: &str) -> Fallible<()> {
        let held =
            self.held.get(&Scene::of(slot)).and_then(|held| held.first()).ok_or("no scene")?;
        let path = if is_calm { self.calm(slot) } else { inside(held, &format!("s{slot}")) };
        let staged = self.park.join(format!("new{slot}"));
        fs::write(&staged, content)?;
        // A rename, because what stands there by now may be a link.
        if fs::rename(&staged, &path).is_err() {
            fs::remove_file(&staged)?;
        }
        Ok(())
    }

    /// Whatever stands under a calm name goes: after a leaf was moved there it may be anything.
    pub fn clear_calm(&self, slot: usize) {
        clear(&self.calm(slot));
    }

    fn calm(&self, slot: usize) -> PathBuf {
        self.home.join("calm").join(format!("s{slot}"))
    }
}

/// A name in a directory that is held, whatever that is called by now.
fn inside(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

fn clear(path: &Path) {
    // It is a directory or something else, and may be neither by now.
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir(path);
}

/// The content of a regular file; `None` for anything else.
fn content(path: &Path) -> Fallible<Option<String>> {
    let opened = File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
    let Ok(mut file) = opened else { return Ok(None) };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(Some(text))
}

fn names(path: &Path) -> std::io::Result<Names> {
    let entries = fs::read_dir(path)?.map(|entry| {
        let entry = entry?;
        Ok((entry.file_name(), std::os::unix::fs::DirEntryExt::ino(&entry)))
    });
    let names = entries.collect::<std::io::Result<_>>()?;
    let stat = fs::symlink_metadata(path)?;
    Ok((names, (stat.mtime(), stat.mtime_nsec())))
}

fn trace(path: &Path, into: &mut BTreeMap<PathBuf, Trace>) -> std::io::Result<()> {
    let stat = fs::symlink_metadata(path)?;
    let (modified, changed) =
        ((stat.mtime(), stat.mtime_nsec()), (stat.ctime(), stat.ctime_nsec()));
    into.insert(path.to_owned(), (stat.dev(), stat.ino(), stat.size(), modified, changed));
    if stat.is_dir() {
        for entry in fs::read_dir(path)? {
            trace(&entry?.path(), into)?;
        }
    }
    Ok(())
}
