//! Goal: a directory that somebody was told of stays, whatever becomes of the request that made it, and
//! nothing is left in the register of what is not durable yet. Method: a request that makes directories and
//! fails, with every way for others to come between, by hand and by chance.

use std::sync::{Barrier, mpsc};
use std::time::Duration;

use super::made::Made;
use super::tests::{Place, TestResult, publish, rel};
use super::*;

/// What others do to `a/b`, which is being made and will be taken back, and what is there then.
#[test]
fn what_others_were_told_of_is_not_taken_back() -> TestResult {
    type Others = fn(&Place) -> TestResult;
    let rows: [(&str, Others, &[&str], &[&str]); 7] = [
        ("nobody comes", |_| Ok(()), &[], &["a"]),
        ("a mkdir is told that it is there", |place| made(place, "a/b"), &["a/b"], &["a/b/c"]),
        ("a mkdir of what is above", |place| made(place, "a"), &["a"], &["a/b"]),
        ("a directory in it", |place| one(place, "a/b/own"), &["a/b/own"], &["a/b/c"]),
        (
            "a file in it, which is gone again",
            |place| {
                place.put("a/b/f", b"content", false)?;
                Ok(place.tree.remove(&rel("a/b/f")?, None)?)
            },
            &["a/b"],
            &["a/b/c"],
        ),
        (
            "it moves, and another one gets its name",
            |place| {
                std::fs::remove_dir(place.path("a/b/c"))?;
                place.tree.rename(&rel("a/b")?, &rel("moved")?, Moving::default())?;
                one(place, "a/b")
            },
            &["a/b", "moved"],
            &[],
        ),
        (
            "it is removed, and another one gets its name",
            |place| {
                place.tree.remove_directory(&rel("a/b/c")?)?;
                place.tree.remove_directory(&rel("a/b")?)?;
                made(place, "a/b/c")
            },
            &["a/b/c"],
            &[],
        ),
    ];
    for place in [Place::new, Place::without_flushes] {
        for (row, others, there, gone) in rows {
            let place = place()?;
            let mut making = Made::default();
            place.tree.make_parents(Some(&rel("a/b/c")?), Parents::Make, &mut making)?;
            others(&place).map_err(|error| format!("{row}: {error}"))?;
            making.undo(&place.tree);
            making.flush(&place.tree)?;
            for path in there {
                assert!(place.path(path).is_dir(), "{row}: {path} is gone");
            }
            for path in gone {
                assert!(!place.path(path).exists(), "{row}: {path} is there");
            }
            assert!(place.tree.unflushed.is_empty(), "{row}: {:?}", place.tree.unflushed);
        }
    }
    Ok(())
}

fn made(place: &Place, path: &str) -> TestResult {
    place.tree.make_directory(&rel(path)?, Parents::Make)?;
    Ok(())
}

fn one(place: &Place, path: &str) -> TestResult {
    place.tree.make_directory(&rel(path)?, Parents::MustExist)?;
    Ok(())
}

/// P-20: puts that fail when their directories are made, against requests that need the same directories.
#[test]
fn puts_that_fail_take_nothing_back_that_others_have() -> TestResult {
    const ROUNDS: usize = 1_000;
    let place = Place::without_flushes()?;
    let barrier = Barrier::new(4);
    // Nobody may fail between two barriers, where the others would wait for ever: so all is looked at behind.
    let rounds = |request: &dyn Fn(usize) -> TestResult| -> Vec<bool> {
        let round = |round| {
            barrier.wait();
            let was_done = request(round).is_ok();
            barrier.wait();
            was_done
        };
        (0..ROUNDS).map(round).collect()
    };
    // Refused behind the making of its directories: there is nothing to replace.
    let refused = |round| -> TestResult {
        let target = rel(&format!("{round}/b/c/refused"))?;
        let mut staging = place.tree.stage(&target)?;
        staging.write_all(b"content")?;
        let terms = Publish { must_replace: true, ..publish(b"content", true) };
        staging.commit(&target, &terms)?;
        Ok(())
    };
    let (told, stored) = std::thread::scope(|scope| {
        let refusals = [scope.spawn(|| rounds(&refused)), scope.spawn(|| rounds(&refused))];
        let maker = scope.spawn(|| rounds(&|round| made(&place, &format!("{round}/b/c"))));
        let put = |round| place.put(&format!("{round}/b/file"), b"content", false).map(drop);
        let stored = rounds(&put);
        let refused = refusals.into_iter().flat_map(|thread| thread.join().unwrap_or(vec![true]));
        assert_eq!(refused.filter(|done| *done).count(), 0, "puts that were to be refused");
        (maker.join().unwrap_or_default(), stored)
    });
    let lost = |told: &[bool], name: &str| {
        let path = |round: usize| place.path(&format!("{round}/{name}"));
        told.iter().enumerate().filter(|(round, told)| **told && !path(*round).exists()).count()
    };
    assert_eq!(lost(&told, "b/c"), 0, "directories that somebody was told of are gone");
    assert_eq!(lost(&stored, "b/file"), 0, "files are gone");
    assert!(told.len() == ROUNDS && told.iter().any(|told| *told));
    assert!(place.tree.unflushed.is_empty(), "{:?}", place.tree.unflushed);
    Ok(())
}

/// Directories that must be there, because their maker may not make them, are met as well.
#[test]
fn what_must_be_there_is_not_taken_back_either() -> TestResult {
    let place = Place::without_flushes()?;
    let (mut making, mut below) = (Made::default(), Made::default());
    place.tree.make_parents(Some(&rel("a")?), Parents::Make, &mut making)?;
    place.tree.make_parents(Some(&rel("a/b/c")?), Parents::MakeFrom(2), &mut below)?;
    below.undo(&place.tree);
    making.undo(&place.tree);
    assert!(place.path("a").is_dir() && !place.path("a/b").exists());
    Ok(())
}

/// R-13 in small: taking back that a disk holds up holds up whoever comes to that place, who is told what became
/// of it, and nobody else.
#[test]
fn taking_back_that_hangs_holds_up_who_comes_to_that_place_alone() -> TestResult {
    for goes in [true, false] {
        let place = Place::without_flushes()?;
        let mut making = Made::default();
        place.tree.make_parents(Some(&rel("a/b")?), Parents::Make, &mut making)?;
        let (above, name) = (nix::sys::stat::stat(&place.path("a"))?, rel("b")?);
        let hangs = made::Place::new(&above, &name.split_last().1);
        let (started, starts) = mpsc::channel();
        let (go_on, held) = mpsc::channel::<()>();
        std::thread::scope(|scope| -> TestResult {
            let (go_on, place) = (go_on, &place); // Let go of also where this fails.
            let taking = scope.spawn(move || {
                place.tree.unflushed.take_back(&hangs, || {
                    let _ = started.send(());
                    let _ = held.recv();
                    if goes {
                        nix::unistd::unlinkat(
                            nix::fcntl::AT_FDCWD,
                            &place.path("a/b"),
                            nix::unistd::UnlinkatFlags::RemoveDir,
                        )
                    } else {
                        Err(nix::errno::Errno::EIO)
                    }
                })
            });
            starts.recv()?;
            let (told, tells) = mpsc::channel();
            for path in ["beside/x", "a/x", "a/b", "a/b/c"] {
                let told = told.clone();
                scope.spawn(move || {
                    let _ = told.send((path, made(place, path).is_ok()));
                });
            }
            let patience = Duration::from_secs(10);
            let mut free = [tells.recv_timeout(patience)?, tells.recv_timeout(patience)?];
            free.sort_unstable();
            assert_eq!(free, [("a/x", true), ("beside/x", true)]);
            let early = tells.recv_timeout(Duration::from_millis(20));
            assert!(early.is_err(), "{early:?} was told of what may go");
            go_on.send(())?;
            assert_eq!(taking.join().map_err(|_| "panicked")?, goes);
            let mut held = [tells.recv_timeout(patience)?, tells.recv_timeout(patience)?];
            held.sort_unstable();
            assert_eq!(held, [("a/b", true), ("a/b/c", true)]);
            Ok(())
        })?;
        assert!(place.path("a/b/c").is_dir());
    }
    Ok(())
}

/// R-13 in small: a look that a disk holds up keeps directories from being taken back, and nobody else from
/// anything.
#[test]
fn who_takes_back_waits_for_no_look_that_hangs() -> TestResult {
    let place = Place::without_flushes()?;
    let mut making = Made::default();
    place.tree.make_parents(Some(&rel("a/b")?), Parents::Make, &mut making)?;
    let hangs = place.tree.unflushed.insist();
    making.undo(&place.tree);
    made(&place, "a/b/c")?;
    drop(hangs);
    assert_eq!(making.count(), 2, "what was made stays");
    making.flush(&place.tree)?;
    assert!(place.path("a/b/c").is_dir());
    Ok(())
}
