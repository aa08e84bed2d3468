//! Goal: nothing leads out of the tree, a commit is all or nothing, and a digest never vouches for other
//! content. Method: a real directory with what is hostile planted in it.

pub(super) mod commit;

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tempfile::TempDir;

use super::*;
use crate::types::{Durability, ErrorCode, Quota, RelPath, Reserve};

const WEEK: std::time::Duration = std::time::Duration::from_hours(7 * 24);

pub(super) type TestResult = Result<(), Box<dyn std::error::Error>>;

/// A tree in a directory of its own, and a secret beside it.
pub(super) struct Place {
    dir: TempDir,
    pub(super) tree: Tree,
}

fn options(staging: StagingPlace) -> Options {
    Options { staging, umask: 0o022, durability: Durability::Full }
}

impl Place {
    pub(super) fn new() -> Result<Self, Box<dyn std::error::Error>> {
        Self::with(options(StagingPlace::Directory))
    }

    pub(super) fn without_flushes() -> Result<Self, Box<dyn std::error::Error>> {
        let durability = Durability::None;
        Self::with(Options { durability, ..options(StagingPlace::Directory) })
    }

    fn with(options: Options) -> Result<Self, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("root"))?;
        std::fs::create_dir(dir.path().join("outside"))?;
        std::fs::write(dir.path().join("outside/secret"), "secret")?;
        let tree = Tree::open(&dir.path().join("root"), options)?;
        Ok(Self { dir, tree })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    pub(super) fn put(
        &self,
        name: &str,
        content: &[u8],
        replace: bool,
    ) -> Result<Published, Box<dyn std::error::Error>> {
        let mut staging = self.tree.stage(&rel(name)?)?;
        staging.reserve(content.len() as u64)?;
        staging.write_all(content)?;
        Ok(staging.commit(&rel(name)?, &publish(content, replace))?)
    }

    /// The code of a put that must fail.
    fn put_code(
        &self,
        name: &str,
        replace: bool,
    ) -> Result<Option<ErrorCode>, Box<dyn std::error::Error>> {
        let failed = self.put(name, b"new", replace).err();
        let code =
            failed.and_then(|error| error.downcast::<FsError>().ok()).map(|error| error.code());
        assert_eq!(
            std::fs::read_dir(self.path(".ftd-stage"))?.count(),
            0,
            "nothing staged is left"
        );
        Ok(code)
    }
}

pub(super) fn rel(name: &str) -> Result<RelPath, crate::types::NameError> {
    RelPath::parse(name.as_bytes())
}

pub(super) fn publish(content: &[u8], replace: bool) -> Publish {
    use sha2::Digest as _;
    let digest = Sha256Digest(sha2::Sha256::digest(content).into());
    let bytes = content.len() as u64;
    Publish {
        must_replace: false,
        replace,
        retain: None,
        parents: Parents::Make,
        mode: None,
        mtime_ns: None,
        digest,
        bytes,
    }
}

#[test]
fn a_commit_makes_what_is_missing_and_keeps_the_digest() -> TestResult {
    let place = Place::new()?;
    let published = place.put("a/b/c", b"content", false)?;
    assert!(!published.replaced);
    let file = place.tree.open_file(&rel("a/b/c")?)?;
    assert_eq!(file.stat().digest, Some(publish(b"content", false).digest));
    assert_eq!((file.stat().bytes, file.stat().mode, file.unchanged()?), (7, 0o644, true));
    assert_eq!(place.put_code("a/b/c", false)?, Some(ErrorCode::Exists));
    assert!(place.put("a/b/c", b"newer", true)?.replaced);
    assert_eq!(std::fs::read(place.path("a/b/c"))?, b"newer");
    // Whoever read it goes on with the version that was opened.
    let mut old = [0; 16];
    assert_eq!(
        (file.read_at(&mut old, 0)?, &old[..7], file.unchanged()?),
        (7, &b"content"[..], true)
    );
    // A local change is new content.
    std::fs::write(place.path("a/b/c"), "local")?;
    assert_eq!(place.tree.stat(Some(&rel("a/b/c")?))?.digest, None);
    Ok(())
}

/// A hard link leads out of every tree: its content is read, and nothing is written through it.
#[test]
fn a_link_to_a_file_outside_is_read_and_never_written_through() -> TestResult {
    let place = Place::new()?;
    let secret = place.path("../outside/secret");
    for name in ["a", "b", "c"] {
        std::fs::hard_link(&secret, place.path(name))?;
    }
    assert_eq!(place.tree.open_file(&rel("a")?)?.stat().bytes, 6);
    place.put("a", b"new", true)?;
    place.tree.remove(&rel("b")?, None)?;
    let replacing = Moving { replace: true, ..Moving::default() };
    assert!(place.tree.rename(&rel("c")?, &rel("a")?, replacing)?);
    assert_eq!(std::fs::read_to_string(&secret)?, "secret");
    assert_eq!(std::fs::read_to_string(place.path("a"))?, "secret", "it is the link, moved");
    Ok(())
}

#[test]
fn a_commit_that_fails_leaves_no_trace() -> TestResult {
    let place = Place::new()?;
    std::fs::create_dir(place.path("dir"))?;
    std::fs::write(place.path("file"), "old")?;
    symlink("../outside", place.path("link"))?;
    symlink("../outside/secret", place.path("to-secret"))?;
    symlink("nowhere", place.path("dangling"))?;
    nix::unistd::mkfifo(&place.path("pipe"), nix::sys::stat::Mode::S_IRWXU)?;
    for (name, replace, code, why) in [
        ("dir", true, ErrorCode::WrongType, "a directory is never replaced"),
        ("dir", false, ErrorCode::Exists, "nor without consent"),
        ("to-secret", true, ErrorCode::WrongType, "nor a link"),
        ("dangling", true, ErrorCode::WrongType, "nor one that leads nowhere"),
        ("pipe", true, ErrorCode::WrongType, "nor a pipe"),
        ("link/new", true, ErrorCode::WrongType, "a link is no directory"),
        ("file/new", true, ErrorCode::WrongType, "a file is no directory"),
        ("made/for/file/../x", true, ErrorCode::BadName, "no such path can be spelled"),
    ] {
        match rel(name) {
            Ok(_) => assert_eq!(place.put_code(name, replace)?, Some(code), "{name}: {why}"),
            Err(_) => assert_eq!(code, ErrorCode::BadName, "{name}: {why}"),
        }
    }
    // Directories that were made on the way are taken back: `x` stands where a directory is wanted.
    let mut staging = place.tree.stage(&rel("staged")?)?;
    staging.write_all(b"short")?;
    let wrong_size = Publish { bytes: 99, ..publish(b"short", true) };
    assert_eq!(
        staging.commit(&rel("made/deep/f")?, &wrong_size).map_err(|error| error.code()),
        Err(ErrorCode::Io)
    );
    assert!(!place.path("made").exists());
    assert_eq!(std::fs::read(place.path("file"))?, b"old");
    assert_eq!(std::fs::read_dir(place.dir.path().join("outside"))?.count(), 1);
    Ok(())
}

#[test]
fn modes_obey_the_umask_and_never_carry_set_id() -> TestResult {
    let place = Place::new()?;
    // A mode that takes the owner's own rights away must not stop us on the way (tried as no root).
    for (mode, expected) in [
        (None, 0o644),
        (Some(0o777), 0o755),
        (Some(0o6777), 0o755),
        (Some(0o600), 0o600),
        (Some(0o444), 0o444),
        (Some(0), 0),
    ] {
        let mut staging = place.tree.stage(&rel("staged")?)?;
        staging.write_all(b"x")?;
        staging.commit(&rel("f")?, &Publish { mode, ..publish(b"x", true) })?;
        assert_eq!(
            std::fs::metadata(place.path("f"))?.permissions().mode() & 0o7777,
            expected,
            "{mode:?}"
        );
    }
    Ok(())
}

#[test]
fn times_are_kept_to_the_nanosecond_also_before_1970() -> TestResult {
    let place = Place::new()?;
    for mtime_ns in [0, 1, -1, 1_700_000_000_123_456_789, -86_400_000_000_001] {
        let mut staging = place.tree.stage(&rel("staged")?)?;
        staging.write_all(b"x")?;
        let published = staging
            .commit(&rel("f")?, &Publish { mtime_ns: Some(mtime_ns), ..publish(b"x", true) })?;
        assert_eq!(published.stat.mtime_ns, mtime_ns);
        let stat = place.tree.stat(Some(&rel("f")?))?;
        assert_eq!((stat.mtime_ns, stat.digest.is_some()), (mtime_ns, true));
    }
    Ok(())
}

#[test]
fn a_listing_hides_what_is_ours_and_names_what_is_odd() -> TestResult {
    let place = Place::new()?;
    std::fs::write(place.path("file"), "12345")?;
    std::fs::create_dir(place.path("dir"))?;
    symlink("file", place.path("link"))?;
    std::fs::write(place.path(".ftd-hidden"), "")?;
    let mut entries = place.tree.list(None)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    let seen: Vec<_> =
        entries.iter().map(|entry| (entry.name.as_slice(), entry.kind, entry.bytes)).collect();
    assert_eq!(
        seen,
        [(&b"dir"[..], Kind::Directory, 0), (b"file", Kind::File, 5), (b"link", Kind::Other, 0),]
    );
    for name in ["file", "link", "link/x"] {
        assert_eq!(
            place.tree.list(Some(&rel(name)?)).err().map(|error| error.code()),
            Some(ErrorCode::WrongType)
        );
    }
    Ok(())
}

#[test]
fn a_file_that_changes_while_it_is_read_is_noticed() -> TestResult {
    type Change = fn(&std::path::Path) -> std::io::Result<()>;
    let place = Place::new()?;
    let changes: [(Change, bool, &str); 4] = [
        (|path| std::fs::write(path, "other content"), false, "overwritten in place"),
        (|path| std::fs::File::options().write(true).open(path)?.set_len(2), false, "cut short"),
        (|path| std::fs::remove_file(path), true, "removed: the reader has its version"),
        (|_| Ok(()), true, "left alone"),
    ];
    for (change, unchanged, why) in changes {
        std::fs::write(place.path("f"), "content")?;
        let file = place.tree.open_file(&rel("f")?)?;
        change(&place.path("f"))?;
        assert_eq!(file.unchanged()?, unchanged, "{why}");
    }
    Ok(())
}

#[test]
fn stale_staging_is_swept_and_two_owners_are_refused() -> TestResult {
    let place = Place::new()?;
    for name in 0..100 {
        std::fs::write(place.path(&format!(".ftd-stage/{name}")), "stale")?;
    }
    let again = Tree::open(&place.dir.path().join("root"), options(StagingPlace::Directory));
    assert!(again.is_err_and(|error| error.to_string().contains("another ftd")));
    let sweep = || place.tree.recover(WEEK).map(|stale| place.tree.sweep(&stale));
    assert_eq!((sweep()?, sweep()?), (100, 0));
    Ok(())
}

#[test]
fn space_that_is_not_there_is_refused_before_the_first_byte() -> TestResult {
    let place = Place::new()?;
    let mut staging = place.tree.stage(&rel("staged")?)?;
    let refused = staging.reserve(u64::MAX / 2).map_err(|error| error.code());
    assert_eq!(refused, Err(ErrorCode::NoSpace));
    drop(staging);
    assert_eq!(std::fs::read_dir(place.path(".ftd-stage"))?.count(), 0);
    Ok(())
}

/// A client's downloads: staged beside, nothing left, the directory's other files untouched.
#[test]
fn a_tree_for_downloads_stages_beside() -> TestResult {
    let dir = tempfile::tempdir()?;
    let tree = Tree::open(dir.path(), options(StagingPlace::Beside))?;
    let mut staging = tree.stage(&rel("staged")?)?;
    staging.write_all(b"part")?;
    let names = || {
        std::fs::read_dir(dir.path())
            .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>())
    };
    assert!(names()?[0].to_string_lossy().starts_with(".ftd-"));
    staging.commit(&rel("whole")?, &publish(b"part", true))?;
    assert_eq!(names()?, ["whole"]);
    drop(tree.stage(&rel("staged")?)?);
    assert_eq!(names()?, ["whole"]);
    Ok(())
}

/// Ends the other side of a race, also when an assertion ends this one.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// B3 in small: a directory swaps with a link that leads out while every operation runs.
#[test]
fn no_race_leads_out() -> TestResult {
    let place = Place::new()?;
    let (inside, link) = (place.path("swap"), place.dir.path().join("link"));
    std::fs::create_dir(&inside)?;
    std::fs::write(inside.join("secret"), "inside")?;
    symlink(place.dir.path().join("outside"), &link)?;
    let stop = AtomicBool::new(false);
    let (file, new) = (rel("swap/secret")?, rel("swap/new/dir")?);
    let directory = rel("swap")?;
    std::thread::scope(|scope| -> TestResult {
        scope.spawn(|| {
            // Exchanged, so that the name is never free and nobody can make a third thing there.
            while !stop.load(Ordering::Relaxed) {
                let flags = RenameFlags::RENAME_EXCHANGE;
                let _ = renameat2(AT_FDCWD, &inside, AT_FDCWD, &link, flags);
            }
        });
        let race = || -> TestResult {
            let _stop = StopOnDrop(&stop);
            let mut opened = 0;
            for round in 0..10_000 {
                let mut content = [0; 16];
                if let Ok(found) = place.tree.open_file(&file) {
                    opened += 1;
                    assert_eq!(
                        (found.read_at(&mut content, 0)?, &content[..6]),
                        (6, &b"inside"[..]),
                        "round {round}"
                    );
                }
                if let Ok(listing) = place.tree.list(Some(&directory)) {
                    assert!(
                        listing.flatten().all(|entry| entry.bytes == 6 || entry.kind != Kind::File)
                    );
                }
                if let Ok(stat) = place.tree.stat(Some(&file)) {
                    assert_eq!(stat.kind, Kind::File);
                }
                let _ = place.tree.make_directory(&new, Parents::Make); // Inside, or not at all.
                if round % 10 == 0 {
                    let _ = place.put("swap/put", b"inside", true);
                }
            }
            assert!(opened > 0, "the race was run");
            Ok(())
        };
        race()
    })?;
    assert_eq!(
        std::fs::read_dir(place.dir.path().join("outside"))?.count(),
        1,
        "something escaped"
    );
    assert_eq!(std::fs::read_dir(place.path(".ftd-stage"))?.count(), 0);
    Ok(())
}

/// C-04: two renames that cross, each over what is there: one file is replaced, and the other stays.
#[test]
fn renames_that_cross_and_replace_keep_one_file() -> TestResult {
    const ROUNDS: usize = 2_000;
    let place = Place::without_flushes()?;
    let (a, b) = (rel("a")?, rel("b")?);
    let terms = Moving { replace: true, ..Moving::default() };
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| -> TestResult {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                barrier.wait();
                let _ = place.tree.rename(&b, &a, terms); // It may have come too late.
                barrier.wait();
            }
        });
        let mut left = Vec::new();
        for _ in 0..ROUNDS {
            std::fs::write(place.path("a"), "a")?;
            std::fs::write(place.path("b"), "b")?;
            barrier.wait();
            let _ = place.tree.rename(&a, &b, terms);
            barrier.wait();
            left.push(
                [place.path("a"), place.path("b")].iter().filter(|path| path.exists()).count(),
            );
        }
        assert_eq!(left.iter().filter(|left| **left != 1).count(), 0, "rounds that lost a file");
        Ok(())
    })
}

/// P-19: a directory on the way that changes places with another one, both inside, is no mount point, also
/// where the way is gone step by step because directories on it may not be flushed.
#[test]
fn a_directory_that_moves_inside_is_no_mount_point() -> TestResult {
    let place = Place::new()?;
    let (here, there) = (place.path("a/swap"), place.path("b/swap"));
    std::fs::create_dir_all(&here)?;
    std::fs::create_dir_all(&there)?;
    let path = rel("a/swap/file")?;
    let (parent, name) = path.split_last();
    let top = nix::sys::stat::fstat(place.tree.descriptor())?;
    place.tree.unflushed.add(&made::Place::new(&top, &name)); // Somebody makes something somewhere.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = RenameFlags::RENAME_EXCHANGE;
                let _ = renameat2(AT_FDCWD, &here, AT_FDCWD, &there, flags);
            }
        });
        let _stop = StopOnDrop(&stop);
        for round in 0..100_000 {
            let opened = place.tree.open_parent(parent.as_ref(), &mut made::Made::default());
            assert!(opened.is_ok(), "round {round}: {opened:?}");
        }
    });
    Ok(())
}

/// of files that are committed together a panic, at whichever step, fails its own, and says that it may have
/// its name where it may; the others are stored, the sums are exact, and nothing staged is left.
#[test]
fn a_panic_in_a_batch_fails_its_own_file() -> TestResult {
    for step in ["panics-finished", "panics-flushed", "panics-placed"] {
        let place = counted()?;
        let mut orders = Vec::new();
        for name in ["d/a", &format!("d/{step}"), "d/z"] {
            let (target, publish) = (rel(name)?, publish(b"abc", false));
            let mut staging = place.tree.stage(&target)?;
            staging.write_all(b"abc")?;
            orders.push(Order { staging, target, publish });
        }
        let outcomes = Staging::commit_all(orders);
        let codes: Vec<_> =
            outcomes.iter().map(|told| told.as_ref().err().map(FsError::code)).collect();
        let is_named = step == "panics-placed";
        let code = if is_named { ErrorCode::UnknownOutcome } else { ErrorCode::Internal };
        assert_eq!(codes, [None, Some(code), None], "{step}");
        for (name, is_there) in [("d/a", true), (&format!("d/{step}"), is_named), ("d/z", true)] {
            assert_eq!(place.path(name).exists(), is_there, "{name}");
        }
        assert_nothing_is_left(&place).map_err(|error| format!("{step}: {error}"))?;
    }
    Ok(())
}

/// the same where the directory is made, which is taken back.
#[test]
fn a_panic_on_the_way_to_a_file_leaves_nothing_of_it() -> TestResult {
    let place = counted()?;
    let failed = place.put("d/e/panics-opened", b"abc", false).map_err(|error| error.to_string());
    assert!(failed.is_err_and(|told| told.contains("internal error")));
    assert!(!place.path("d").exists());
    assert_nothing_is_left(&place)
}

/// A tree with a quota.
fn counted() -> Result<Place, Box<dyn std::error::Error>> {
    let (place, quota) = (Place::new()?, Quota { bytes: Some(100), names: Some(100) });
    place.tree.configure(&[(None, quota)], Reserve::default());
    place.tree.count();
    Ok(place)
}

/// The sums are what a recount finds, and nobody is taken to be at work.
fn assert_nothing_is_left(place: &Place) -> TestResult {
    assert_eq!(std::fs::read_dir(place.path(".ftd-stage"))?.count(), 0);
    assert_eq!(place.tree.usage(None), Some(place.tree.count_below(None)?));
    assert!(place.tree.unflushed.is_empty(), "{:?}", place.tree.unflushed);
    Ok(())
}
