//! Goal: whatever a local process swaps under the daemon's hands, nothing leads out of the root, nothing
//! inside is lost, and every request has its end (B3, P-17 to P-19).
//! Method: real daemon, volleys of raw requests, an attacker who swaps directories and files thousands of
//! times a second; after each volley a judge compares what was told with what is there, inside and outside.
//! Two walls are tried each by itself and together: `openat2`, and the sandbox. The same attacker and the
//! same judge find the escapes of a server that looks first and opens later.
#![allow(clippy::disallowed_methods, reason = "tests plant what is hostile from outside")]

#[path = "races/field.rs"]
mod field;
#[path = "races/naive.rs"]
mod naive;
mod support;
#[path = "races/volley.rs"]
mod volley;

use std::ffi::OsStr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;

use field::{Field, SLOTS, Scene};
use serde_json::json;
use support::raw::{HELLO, Raw};
use support::{PATIENCE, Setup, TestResult};
use volley::{Caller, Op, Verdict};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Calls of each operation, without `FTD_RACES`.
const CALLS: usize = 50_000;

/// Runs `body` beside the attacker, who ends with it, also when an assertion ends it.
fn under_attack<T>(field: &Field, body: impl FnOnce() -> Fallible<T>) -> Fallible<T> {
    support::beside(|goes_on| field.attack(goes_on), body)
}

/// Rounds of all operations, until each was called so often.
fn race(caller: &mut Caller<'_>, calls: usize) -> TestResult {
    for _ in 0..calls.div_ceil(SLOTS) {
        for op in Op::ALL {
            caller.volley(op)?.map_err(|verdict| verdict.to_string())?;
        }
    }
    caller.field.check_contents_outside()
}

fn race_against_a_daemon(calls: usize) -> TestResult {
    // The lines of the audit alone would be gigabytes.
    let daemon =
        Setup::new()?.start_with(&[("FTD_LOG", OsStr::new("info,ftd::daemon::verbs=warn"))])?;
    Raw::greeted(&daemon)?.code_of(1, &json!({"verb": "stat"}))?; // So that the home is there.
    let field = Field::new(&daemon.path("root"), &daemon.stored(""))?;
    let mut caller = Caller::new(&field, Raw::greeted(&daemon)?);
    under_attack(&field, || race(&mut caller, calls))?;
    daemon.assert_nothing_staged()?;
    for (op, counts) in &caller.counts {
        let calls: usize = counts.values().sum();
        let each: Vec<_> = counts.iter().map(|(code, count)| format!("{code} {count}")).collect();
        let name = op.name();
        println!("assurance: B3 {name}: 0 escapes in {calls} racing calls ({})", each.join(", "));
        assert!(counts.len() > 1, "{op:?} met nothing that was swapped: {counts:?}");
    }
    let swaps = field.swaps.load(Ordering::Relaxed);
    println!("assurance: B3 attacker: {swaps} swaps meanwhile");
    Ok(())
}

/// B3 in small, in every run.
#[test]
fn a_few_races_lead_nowhere() -> TestResult {
    race_against_a_daemon(1_000)
}

/// B3, P-17, P-18, P-19.
#[test]
#[ignore = "minutes; run with: make race-test"]
fn no_race_leads_out_of_the_root() -> TestResult {
    let calls = std::env::var("FTD_RACES").ok().map_or(Ok(CALLS), |calls| calls.parse())?;
    race_against_a_daemon(calls)
}

/// The attacker and the judge are worth something: both together find the hole in each operation of a
/// server that has one.
#[test]
fn a_server_that_looks_first_and_opens_later_is_found_out() -> TestResult {
    const VOLLEYS: usize = 5_000;
    for op in Op::ALL {
        let dir = tempfile::Builder::new().prefix("ftd-naive-").tempdir()?;
        let (root, home) = (dir.path().join("root"), dir.path().join("root/alice"));
        std::fs::create_dir_all(&home)?;
        let field = Field::new(&root, &home)?;
        let listener = UnixListener::bind(dir.path().join("sock"))?;
        let server = std::thread::spawn(move || naive::serve(&listener, &home).is_ok());
        let stream = UnixStream::connect(dir.path().join("sock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut peer = Raw(stream);
        assert_eq!(peer.expect()?.kind, HELLO);
        let mut caller = Caller::new(&field, peer);
        let found = under_attack(&field, || {
            for volley in 1..=VOLLEYS {
                // What is outside at the moment is not ours to change either.
                for slot in (0..SLOTS).filter(|slot| Scene::of(*slot) != Scene::Gone) {
                    field.provide(slot, false, "inside")?;
                }
                match caller.volley(op)? {
                    Err(Verdict::Escape(what)) => return Ok(Some((volley, what))),
                    // It is no daemon; what it says besides is not at issue.
                    Err(Verdict::Other(_)) | Ok(()) => {}
                }
            }
            Ok(None)
        })?;
        let (volley, what) = found.ok_or_else(|| format!("{op:?}: no escape was found"))?;
        println!("{}: an escape within {} calls: {what}", op.name(), volley * SLOTS);
        drop(caller);
        server.join().map_err(|_| "panicked")?;
    }
    Ok(())
}
