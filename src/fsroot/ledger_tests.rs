//! Goal: the ledger is what a count finds, whoever races, and never over a quota.
//! Method: threads that put, overwrite, make, remove and move at random in homes that lie in each other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::tests::{Place, TestResult, publish, rel};
use super::*;
use crate::types::{ErrorCode, Quota, RelPath, Reserve};

fn moving(replace: bool) -> Moving {
    Moving { replace, ..Moving::default() }
}

fn home(name: &str) -> Result<Option<RelPath>, crate::types::NameError> {
    if name == "." { Ok(None) } else { rel(name).map(Some) }
}

/// One thread's random numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn path(&mut self) -> Result<RelPath, crate::types::NameError> {
        const HOMES: [&str; 5] = ["a", "a/in", "b", "c", "a/in/deep"];
        const NAMES: [&str; 4] = ["x", "y", "d/x", "d/e/y"];
        let (home, name) = (self.roll(5), self.roll(4));
        rel(&format!(
            "{}/{}",
            HOMES[usize::try_from(home).unwrap_or(0)],
            NAMES[usize::try_from(name).unwrap_or(0)]
        ))
    }
}

fn act(place: &Place, dice: &mut Dice) -> TestResult {
    let tree = &place.tree;
    let outcome = match dice.roll(8) {
        0..=2 => {
            let content = vec![7; usize::try_from(dice.roll(3_000))?];
            let (path, replace) = (dice.path()?, dice.roll(2) == 0);
            let mut staging = tree.stage(&path)?;
            let reserved =
                if dice.roll(2) == 0 { staging.reserve(content.len() as u64) } else { Ok(()) };
            reserved
                .and_then(|()| staging.write_all(&content))
                .and_then(|()| staging.commit(&path, &publish(&content, replace)).map(drop))
        }
        3 => tree.remove(&dice.path()?, None),
        4 => tree.make_directory(&dice.path()?, Parents::Make).map(drop),
        5 => tree.remove_directory(&dice.path()?),
        6 => tree.rename(&dice.path()?, &dice.path()?, moving(dice.roll(2) == 0)).map(drop),
        _ => {
            // Whole directories, and sometimes a home.
            let directories =
                ["a/d", "a/in/d", "b/d", "c/d", "a/in", "b/in", "c/moved", "a/in/deep"];
            let pick = |at: u64| directories[usize::try_from(at).unwrap_or(0)];
            tree.rename(&rel(pick(dice.roll(8)))?, &rel(pick(dice.roll(8)))?, moving(false))
                .map(drop)
        }
    };
    match outcome.map_err(|error| error.code()) {
        Ok(())
        | Err(
            ErrorCode::Quota
            | ErrorCode::NotFound
            | ErrorCode::Exists
            | ErrorCode::WrongType
            | ErrorCode::NotEmpty
            | ErrorCode::BadName
            | ErrorCode::Changed,
        ) => Ok(()),
        Err(code) => Err(code.to_string().into()),
    }
}

/// bytes and names of every home are exact after any race, and within the quota at any time.
#[test]
fn sums_are_exact_after_any_race() -> TestResult {
    let place = Place::without_flushes()?;
    let quota = |bytes, names| Quota { bytes: Some(bytes), names: Some(names) };
    let homes = [
        (home(".")?, quota(40_000, 60)),
        (home("a")?, quota(20_000, 30)),
        (home("a/in")?, quota(9_000, 12)),
        (home("b")?, quota(9_000, 9)),
        (home("c")?, Quota { bytes: Some(12_000), names: None }),
    ];
    for directory in ["a/in/deep", "b", "c"] {
        std::fs::create_dir_all(place.path(directory))?;
    }
    place.tree.configure(&homes, Reserve::default());
    assert!(!place.tree.is_counted(&rel("b/x")?));
    assert_eq!(place.tree.count().len(), homes.len());
    let (stop, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| -> TestResult {
        scope.spawn(|| {
            // Homes that move as a whole may be over their quota afterwards; the root never moves.
            while !stop.load(Ordering::Relaxed) {
                if let Some(usage) = place.tree.usage(None)
                    && (usage.bytes > 40_000 || usage.names > 60)
                {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let workers: Vec<_> = (1..=4_u64)
            .map(|seed| {
                let place = &place;
                scope.spawn(move || -> Result<(), String> {
                    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                    for _ in 0..1_500 {
                        act(place, &mut dice).map_err(|error| error.to_string())?;
                    }
                    Ok(())
                })
            })
            .collect();
        let outcomes: Vec<_> =
            workers.into_iter().map(|worker| worker.join().map_err(|_| "panicked")).collect();
        stop.store(true, Ordering::Relaxed);
        for outcome in outcomes {
            outcome??;
        }
        Ok(())
    })?;
    assert_eq!(refused.load(Ordering::Relaxed), 0, "over the quota of the root");
    for (home, _) in &homes {
        let counted = place.tree.count_below(home.as_ref())?;
        assert_eq!(place.tree.usage(home.as_ref()), Some(counted), "{home:?}");
    }
    assert!(place.tree.usage(None).is_some_and(|usage| usage.names > 5), "something was done");
    Ok(())
}

/// R-13, C-08: homes that a reload brings in wait for no change that hangs, nor does anybody elsewhere; the first
/// count of the home that it is in does, and is exact.
#[test]
fn what_a_reload_brings_in_waits_for_nothing_but_its_own_count() -> TestResult {
    let place = Place::without_flushes()?;
    std::fs::create_dir(place.path("b"))?;
    let ledger = &place.tree.ledger;
    let quota = Quota { bytes: Some(10), names: Some(10) };
    let (a, b, moved) = (home("a")?, home("b")?, rel("a/in")?);
    let (started, starts) = std::sync::mpsc::channel();
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| -> TestResult {
        let go_on = go_on; // Let go of also where this fails.
        let (place, change) = (&place, [(rel("a/x")?, ledger::Delta::file(3))]);
        let hanging = scope.spawn(move || {
            let path = &change[0].0;
            place.tree.ledger.in_turn(&[path], true, || {
                let _ = started.send(());
                let _ = held.recv(); // The disk hangs, and the name is there already.
                std::fs::create_dir_all(place.path("a")).expect("a directory");
                std::fs::write(place.path("a/x"), "abc").expect("a file");
                place.tree.ledger.enter(&change);
                Ok(())
            })
        });
        starts.recv()?;
        let homes = [(a.clone(), quota), (b.clone(), quota)];
        place.tree.configure(&homes, Reserve::default());
        let usage = ledger.count(b.as_ref(), || place.tree.count_below(b.as_ref()))?;
        assert_eq!(usage, Some(Usage::default()), "nobody waits elsewhere");
        place.tree.make_directory(&rel("b/d")?, Parents::MustExist)?;
        assert_eq!(place.tree.usage(b.as_ref()), Some(Usage { bytes: 0, names: 1 }));
        ledger.found(&moved, Some(Usage::default()));
        let counting = scope.spawn(|| place.tree.count());
        // It goes and comes again meanwhile, and is not taken for what was counted before.
        place.tree.configure(&[(b.clone(), quota)], Reserve::default());
        place.tree.configure(&homes, Reserve::default());
        assert!(!place.tree.is_counted(&rel("a/y")?) && place.tree.is_counted(&rel("b/y")?));
        go_on.send(())?;
        hanging.join().map_err(|_| "panicked")??;
        counting.join().map_err(|_| "panicked")?;
        Ok(())
    })?;
    place.tree.count(); // Whichever of the two homes of that name was met.
    assert_eq!(place.tree.usage(a.as_ref()), Some(Usage { bytes: 3, names: 1 }));
    Ok(())
}

/// a put under way when a reload brings its home in is judged at its commit, also while a change that hangs
/// keeps the home from being counted: for that it waits a while, and then it is refused.
#[test]
fn a_commit_waits_for_the_count_of_a_home_that_came_meanwhile() -> TestResult {
    for (ends, room, stored) in [(true, 10, true), (true, 9, false), (false, 10, false)] {
        let place = Place::without_flushes()?;
        std::fs::create_dir(place.path("a"))?;
        let (started, starts) = std::sync::mpsc::channel();
        let (go_on, held) = std::sync::mpsc::channel::<()>();
        let outcome = std::thread::scope(|scope| -> Result<_, Box<dyn std::error::Error>> {
            let go_on = go_on; // Let go of also where this fails.
            let (place, path) = (&place, rel("a/hangs")?);
            scope.spawn(move || {
                place.tree.ledger.in_turn(&[&path], false, || {
                    let _ = started.send(());
                    let _ = held.recv();
                    Ok::<_, FsError>(())
                })
            });
            starts.recv()?;
            let mut staging = place.tree.stage(&rel("a/f")?)?;
            staging.write_all(&[7; 10])?;
            let quota = Quota { bytes: Some(room), names: None };
            place.tree.configure(&[(home("a")?, quota)], Reserve::default());
            let counting = scope.spawn(|| place.tree.count().len());
            let commit = move || {
                let target = rel("a/f").map_err(|error| error.to_string())?;
                let outcome = staging.commit(&target, &publish(&[7; 10], false));
                outcome.map(drop).map_err(|error| error.code().to_string())
            };
            let commit = scope.spawn(commit);
            if ends {
                std::thread::sleep(std::time::Duration::from_millis(20)); // It may wait.
                go_on.send(())?;
            }
            let outcome = commit.join().map_err(|_| "panicked")?;
            drop(go_on);
            assert_eq!(counting.join().map_err(|_| "panicked")?, 1);
            Ok(outcome)
        })?;
        let code = if ends { ErrorCode::Quota } else { ErrorCode::Busy };
        let expected = if stored { Ok(()) } else { Err(code.to_string()) };
        assert_eq!(outcome, expected, "{ends}, {room}");
        let usage = Usage { bytes: if stored { 10 } else { 0 }, names: stored.into() };
        assert_eq!(place.tree.usage(home("a")?.as_ref()), Some(usage), "{ends}, {room}");
    }
    Ok(())
}

/// What is refused because its home is not counted yet is kept, as it was when it was last safe.
#[test]
fn an_upload_that_a_reload_refuses_can_be_gone_on_with() -> TestResult {
    let place = Place::new()?;
    std::fs::create_dir(place.path("a"))?;
    let owner = Owner { user: "alice".to_owned(), target: rel("a/f")? };
    let content = vec![7; 70 << 20];
    let mut staging = place.tree.stage_for(&owner, Some(1 << 30))?;
    staging.write_all(&content)?;
    staging.settle(|| vec![1, 2, 3])?;
    let quota = Quota { bytes: Some(1 << 30), names: None };
    place.tree.configure(&[(home("a")?, quota)], Reserve::default());
    let refused = staging.commit(&rel("a/f")?, &publish(&content, false));
    assert_eq!(refused.map_err(|error| error.code()).err(), Some(ErrorCode::Busy));
    let kept = place.tree.kept(&owner)?;
    assert_eq!((kept.offset, kept.state), (content.len() as u64, vec![1, 2, 3]));
    Ok(())
}

/// a tree that is deeper than any path can say is counted, without recursion.
#[test]
fn a_tree_of_a_thousand_levels_is_counted() -> TestResult {
    let place = Place::new()?;
    let mut directory = nix::fcntl::open(
        place.path(".").as_path(),
        resolve::DIRECTORY,
        nix::sys::stat::Mode::empty(),
    )?;
    for level in 0..1_000 {
        let name = format!("a-long-name-for-level-{level}");
        nix::sys::stat::mkdirat(&directory, name.as_str(), nix::sys::stat::Mode::S_IRWXU)?;
        directory = resolve::open_below(
            &directory,
            name.as_bytes(),
            resolve::DIRECTORY,
            nix::sys::stat::Mode::empty(),
        )?;
    }
    std::fs::write(place.path("beside"), "12345")?;
    let usage = place.tree.count_below(None)?;
    assert_eq!(usage, Usage { bytes: 5, names: 1_001 });
    assert_eq!(place.tree.count_below(Some(&rel("not/there")?))?, Usage::default());
    Ok(())
}
