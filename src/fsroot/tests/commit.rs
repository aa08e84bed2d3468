//! Goal: bytes, then names, then directories are flushed, each file's outcome is its own, and nothing
//! is said of a file that is not so. Method: batches whose flushes are written down, some files spoiled.

use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use nix::sys::stat::FileStat;

use super::super::flush::Flush;
use super::*;

/// What was flushed by the tests of this process, in order.
static FLUSHED: Mutex<Vec<(Flush, u64, u64)>> = Mutex::new(Vec::new());

/// Told of each flush.
pub(in crate::fsroot) fn flushed(flush: Flush, stat: &FileStat) {
    let mut log = FLUSHED.lock().unwrap_or_else(PoisonError::into_inner);
    log.push((flush, stat.st_dev, stat.st_ino));
}

/// Which of these were flushed since the log had `from` lines, in order.
fn flushes_of(from: usize, inodes: &[(u64, u64)]) -> Vec<(Flush, usize)> {
    let log = FLUSHED.lock().unwrap_or_else(PoisonError::into_inner);
    let place = |dev, ino| inodes.iter().position(|inode| *inode == (dev, ino));
    log[from..].iter().filter_map(|(flush, dev, ino)| Some((*flush, place(*dev, *ino)?))).collect()
}

fn log_length() -> usize {
    FLUSHED.lock().unwrap_or_else(PoisonError::into_inner).len()
}

fn inode(stat: &std::fs::Metadata) -> (u64, u64) {
    (stat.dev(), stat.ino())
}

fn order(
    place: &Place,
    name: &str,
    content: &[u8],
    change: impl Fn(Publish) -> Publish,
) -> Result<Order<Staging>, Box<dyn std::error::Error>> {
    let mut staging = place.tree.stage(&rel(name)?)?;
    staging.write_all(content)?;
    Ok(Order { staging, target: rel(name)?, publish: change(publish(content, false)) })
}

const NAMES: [&str; 4] = ["one", "deep/two", "three", "deep/four"];

#[test]
fn bytes_are_flushed_before_names_and_each_directory_once() -> TestResult {
    let place = Place::new()?;
    let orders = NAMES.map(|name| order(&place, name, name.as_bytes(), |publish| publish));
    let orders = orders.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut inodes = Vec::new();
    for order in &orders {
        inodes.push(inode(&order.staging.file.metadata()?));
    }
    let from = log_length();
    let outcomes = Staging::commit_all(orders);
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_ok_and(|file| !file.replaced)));
    for name in NAMES {
        assert_eq!(std::fs::read_to_string(place.path(name))?, name);
    }
    for directory in ["deep", "."] {
        inodes.push(inode(&std::fs::metadata(place.path(directory))?));
    }
    let mut flushes = flushes_of(from, &inodes);
    flushes[..4].sort_by_key(|(_, place)| *place);
    flushes[4..].sort_by_key(|(_, place)| *place);
    let files = (0..4).map(|place| (Flush::File, place));
    // The root holds two names and the new directory: one flush does for all of it.
    let directories = [(Flush::Directory, 4), (Flush::Directory, 5)];
    assert_eq!(flushes, files.chain(directories).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn one_file_below_new_directories_flushes_all_of_the_way() -> TestResult {
    let place = Place::new()?;
    let from = log_length();
    place.put("a/b/f", b"content", false)?;
    let mut inodes = Vec::new();
    for name in ["a/b/f", "a/b", "a", "."] {
        inodes.push(inode(&std::fs::metadata(place.path(name))?));
    }
    let expected =
        [(Flush::File, 0), (Flush::Directory, 1), (Flush::Ancestor, 2), (Flush::Ancestor, 3)];
    assert_eq!(flushes_of(from, &inodes), expected);
    Ok(())
}

#[test]
fn who_wants_no_flushes_gets_none() -> TestResult {
    let place = Place::without_flushes()?;
    let from = log_length();
    place.put("a/f", b"content", false)?;
    let inodes = [
        inode(&std::fs::metadata(place.path("a/f"))?),
        inode(&std::fs::metadata(place.path("a"))?),
        inode(&std::fs::metadata(place.path("."))?),
    ];
    assert_eq!(flushes_of(from, &inodes), []);
    Ok(())
}

/// What fails in a batch fails alone, in its own place, and takes back what only it needed.
#[test]
fn each_file_of_a_batch_has_its_own_outcome() -> TestResult {
    let place = Place::new()?;
    place.put("there", b"old", false)?;
    place.put("replaced", b"old", false)?;
    let orders = vec![
        order(&place, "first", b"1", |publish| publish)?,
        order(&place, "there", b"new", |publish| publish)?,
        order(&place, "short", b"5 byt", |publish| Publish { bytes: 6, ..publish })?,
        order(&place, "made/for/nothing", b"x", |p| Publish {
            must_replace: true,
            replace: true,
            ..p
        })?,
        order(&place, "replaced", b"new", |publish| Publish { replace: true, ..publish })?,
        order(&place, "there/below", b"x", |publish| publish)?,
        order(&place, "last", b"7", |publish| publish)?,
    ];
    let outcomes = Staging::commit_all(orders);
    let told: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok(published) => Ok(published.replaced),
            Err(error) => Err(error.code()),
        })
        .collect();
    assert_eq!(
        told,
        [
            Ok(false),
            Err(ErrorCode::Exists),
            Err(ErrorCode::Io),
            Err(ErrorCode::Denied),
            Ok(true),
            Err(ErrorCode::WrongType),
            Ok(false)
        ]
    );
    for (name, content) in [("first", "1"), ("there", "old"), ("replaced", "new"), ("last", "7")] {
        assert_eq!(std::fs::read_to_string(place.path(name))?, content);
    }
    assert!(!place.path("made").exists() && !place.path("short").exists());
    assert_eq!(std::fs::read_dir(place.path(".ftd-stage"))?.count(), 0);
    assert!(Staging::commit_all(vec![]).is_empty());
    Ok(())
}

/// Somebody else writes to a staging file, or names it: both are noticed.
#[test]
fn a_staged_file_that_others_touched_is_not_published() -> TestResult {
    let place = Place::new()?;
    let spoiled = order(&place, "f", b"5 byt", |publish| Publish { bytes: 7, ..publish })?;
    spoiled.staging.file.set_len(7)?; // As long as was announced, not as long as was written.
    let outcome = Staging::commit_all(vec![spoiled]).pop();
    assert!(matches!(outcome, Some(Err(error)) if error.code() == ErrorCode::Io));
    assert!(!place.path("f").exists());

    let linked = order(&place, "g", b"x", |publish| Publish { replace: true, ..publish })?;
    std::fs::hard_link(place.path(".ftd-stage").join(&linked.staging.name), place.path("g"))?;
    let outcome = Staging::commit_all(vec![linked]).pop();
    assert!(
        matches!(outcome, Some(Err(error)) if error.to_string().contains("still staged")),
        "the kernel renames nothing onto itself and says it did"
    );
    Ok(())
}

/// A new version is younger than the rule that protects what was stored allows.
#[test]
fn what_was_just_stored_is_not_replaced_where_a_rule_says_so() -> TestResult {
    let place = Place::new()?;
    place.put("f", b"old", false)?;
    let retained = |retain| {
        let order =
            order(&place, "f", b"new", |p| Publish { replace: true, retain: Some(retain), ..p })?;
        TestOutcome::Ok(Staging::commit_all(vec![order]).pop().ok_or("no outcome")?)
    };
    let refused = retained(WEEK)?.err().ok_or("replaced")?;
    assert_eq!(std::fs::read(place.path("f"))?, b"old", "{refused}");
    assert!(retained(std::time::Duration::ZERO)?.is_ok_and(|published| published.replaced));
    assert_eq!(std::fs::read(place.path("f"))?, b"new");
    Ok(())
}

/// A stored file is no upload any more that somebody could go on with.
#[test]
fn what_is_stored_is_not_kept_besides() -> TestResult {
    let place = Place::new()?;
    let owner = Owner { user: "alice".to_owned(), target: rel("f")? };
    let mut staging = place.tree.stage_for(&owner, Some(1 << 30))?;
    staging.write_all(b"content")?;
    let code = || place.tree.kept(&owner).err().map(|error| error.code());
    assert_eq!(code(), Some(ErrorCode::Busy), "it is on its way");
    staging.commit(&rel("f")?, &publish(b"content", false))?;
    assert_eq!(code(), Some(ErrorCode::NotFound));
    Ok(())
}

type TestOutcome<T> = Result<T, Box<dyn std::error::Error>>;
