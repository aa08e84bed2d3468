//! Goal: what happens at the same time leaves what one order of it would have left (C-05, C-07, C-08, C-10).
//! Method: real daemon, raw frames, many points in time and many connections.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::raw::{
    ABORT, ANSWER, CANCEL, DATA, ENTRIES, EOF, REQUEST, Raw, TRAILER, frame, put, trailer,
};
use support::{Daemon, Setup, TestResult, noise, race, wait_until};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// The bytes that the daemon takes for used, by a check that cannot succeed.
fn used(raw: &mut Raw, id: u32) -> Fallible<u64> {
    raw.request(id, &json!({"verb": "check", "path": "x", "bytes": 1_u64 << 39}))?;
    let told = raw.expect()?.json();
    let message = told["message"].as_str().unwrap_or_default().to_owned();
    let used = message.split("bytes: ").nth(1).and_then(|rest| rest.split(' ').next());
    Ok(used.ok_or(message.clone())?.parse()?)
}

/// C-07: a put is cancelled at every point, before its end and all through its commit: it was
/// acknowledged and is there, or it was not and the old file is; and the quota knows which.
#[test]
fn a_cancel_at_any_point_of_a_commit_is_before_it_or_after_it() -> TestResult {
    const BYTES: usize = 20_000;
    const POINTS: u32 = 240;
    let setup = Setup::new()?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.write_config(&format!("{text}quota = \"1MiB\"\n"))?;
    let daemon = setup.start()?;
    let mut raw = Raw::greeted(&daemon)?;
    // The commit takes about as long as the slowest of a few whole puts.
    let mut longest = Duration::ZERO;
    for id in 1..=5 {
        let began = Instant::now();
        raw.bytes(&put(id, &json!("f"), &noise(BYTES, u64::from(id))))?;
        assert_eq!(raw.expect()?.kind, ANSWER);
        longest = longest.max(began.elapsed());
    }
    let mut old = noise(BYTES, 5);
    let (mut stored, mut cancelled) = (0, 0);
    for point in 0..POINTS {
        let id = 2 * point + 10;
        let new = noise(BYTES + point as usize, u64::from(id));
        // With its size announced it is committed in a batch.
        let bytes = (point % 2 == 0).then_some(new.len());
        let request = json!({"verb": "put", "path": "f", "bytes": bytes}).to_string();
        let mut frames = vec![frame(REQUEST, id, request.as_bytes())];
        frames.extend(new.chunks(1_000).map(|chunk| frame(DATA, id, chunk)));
        frames.push(frame(EOF, id, b""));
        frames.push(frame(TRAILER, id, &trailer(&new)));
        // First after each of the frames, then ever later in the commit.
        let sent = frames.len().min(point as usize + 1);
        let is_whole = sent == frames.len();
        raw.bytes(&frames[..sent].concat())?;
        let cancel = Instant::now() + longest * point / POINTS;
        while is_whole && Instant::now() < cancel {
            std::hint::spin_loop();
        }
        raw.send(CANCEL, id, b"")?;
        match raw.expect()?.kind {
            ANSWER if is_whole => (old, stored) = (new, stored + 1),
            ABORT => cancelled += 1,
            kind => return Err(format!("frame {kind} at point {point}").into()),
        }
        assert!(std::fs::read(daemon.stored("f"))? == old, "at point {point}");
        assert_eq!(used(&mut raw, id + 1)?, old.len() as u64, "at point {point}");
        assert_eq!(daemon.staged()?, 0, "at point {point}");
    }
    println!("{stored} stored, {cancelled} cancelled, a put takes {longest:?}");
    assert!(stored > 0 && cancelled > 20, "{stored} stored, {cancelled} cancelled");
    Ok(())
}

/// C-08: a key is removed and the configuration read again while 50 transfers run: they go on.
#[test]
fn a_reload_that_removes_a_key_lets_fifty_transfers_go_on() -> TestResult {
    const TRANSFERS: u32 = 50;
    let setup = Setup::new()?;
    let without = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.add_user("bob", "")?;
    let daemon = setup.start()?;
    let content = noise(200_000, 3);
    let (first, second) = content.split_at(70_000);
    let mut running = Vec::new();
    for number in 0..TRANSFERS {
        let mut raw = Raw::greeted(&daemon)?;
        raw.request(1, &json!({"verb": "put", "path": format!("f{number}")}))?;
        raw.send(DATA, 1, first)?;
        running.push(raw);
    }
    let bob = daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("bob"));
    let mut bob = bob.stdin_pipe().spawn(["put", "-", ":never"])?;
    let mut pipe = bob.stdin.take().ok_or("no stdin")?;
    std::io::Write::write_all(&mut pipe, &content)?;
    wait_until("all are running", || Ok(daemon.staged()? > TRANSFERS as usize))?;
    std::fs::write(daemon.path("ftd.toml"), without)?;
    daemon.signal(Signal::SIGHUP)?;
    daemon.wait_for_log("no longer known")?;
    // And again, as often as somebody may do it.
    for times in 2..5 {
        daemon.signal(Signal::SIGHUP)?;
        daemon.wait_for_log_times("configuration reloaded", times)?;
    }
    for raw in &mut running {
        raw.send(DATA, 1, second)?;
        raw.send(EOF, 1, b"")?;
        raw.send(TRAILER, 1, &trailer(&content))?;
    }
    for (number, raw) in running.iter_mut().enumerate() {
        assert_eq!(raw.expect()?.kind, ANSWER, "transfer {number}");
        assert!(std::fs::read(daemon.stored(&format!("f{number}")))? == content, "{number}");
    }
    drop(pipe);
    assert_ne!(bob.wait()?.code(), Some(0));
    assert!(!daemon.path("root/bob/never").exists());
    daemon.assert_nothing_staged()
}

/// C-05: of two connections that go on with one upload at once one has it, and the other is told so.
#[test]
fn one_of_two_goes_on_with_an_upload() -> TestResult {
    const ROUNDS: usize = 20;
    let daemon = Daemon::start()?;
    let bytes = 70 << 20;
    let mut busy = 0;
    for round in 0..ROUNDS {
        let mut raw = Raw::greeted(&daemon)?;
        let request = json!({"verb": "put", "path": "f", "bytes": bytes, "resumable": true});
        raw.request(1, &request)?;
        raw.send(DATA, 1, &noise(1 << 20, 1))?;
        raw.send(DATA, 1, &noise(1 << 20, 2))?;
        drop(raw);
        let mut kept = Value::Null;
        wait_until("it is kept", || {
            let mut raw = Raw::greeted(&daemon)?;
            raw.request(1, &json!({"verb": "resume", "path": "f"}))?;
            kept = raw.expect()?.json()["resume"].clone();
            Ok(kept.is_object())
        })?;
        let resume = json!({"upload": kept["upload"], "offset": kept["offset"]});
        let request = json!({"verb": "put", "path": "f", "bytes": bytes, "resume": resume});
        // Whoever has it gives it up for good, so that the other's end says whether he had it too.
        let frames = [
            frame(REQUEST, 1, request.to_string().as_bytes()),
            frame(ABORT, 1, br#"{"reason":"no more"}"#),
        ]
        .concat();
        let mut both = [Raw::greeted(&daemon)?, Raw::greeted(&daemon)?];
        for raw in &mut both {
            raw.bytes(&frames)?;
        }
        let mut ends = both.iter_mut().map(Raw::expect).collect::<Fallible<Vec<_>>>()?;
        ends.sort_by_key(|end| end.kind);
        assert_eq!(ends[0].kind, ABORT, "round {round}: {ends:?}");
        let code = ends[1].code();
        assert!(["BUSY", "NOT_FOUND"].contains(&code.as_str()), "round {round}: {code}");
        busy += usize::from(code == "BUSY");
    }
    println!("{busy} of {ROUNDS} met the other at work");
    daemon.assert_nothing_staged()
}

/// All names of the home, as one listing has them.
fn listed(raw: &mut Raw, id: u32) -> Fallible<HashMap<String, usize>> {
    let mut names = HashMap::new();
    raw.request(id, &json!({"verb": "list"}))?;
    loop {
        let frame = raw.expect()?;
        match (frame.kind, frame.json()["entries"].as_array()) {
            (ENTRIES, Some(entries)) => {
                for name in entries.iter().filter_map(|entry| entry["name"].as_str()) {
                    *names.entry(name.to_owned()).or_default() += 1;
                }
            }
            (ANSWER, _) => return Ok(names),
            _ => return Err(frame.code().into()),
        }
    }
}

/// C-10: whatever is renamed beside it meanwhile, a file that stays is listed, once.
#[test]
fn a_listing_beside_renames_has_each_stable_file_once() -> TestResult {
    const STABLE: usize = 500;
    const RENAMES: usize = 1_000;
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.code_of(1, &json!({"verb": "stat"}))?; // So that the home is there.
    for number in 0..STABLE {
        std::fs::write(daemon.stored(&format!("stable-{number}")), "")?;
    }
    for number in 0..20 {
        std::fs::write(daemon.stored(&format!("moving-{number}-0")), "")?;
    }
    let mut mover = Raw::greeted(&daemon)?;
    let renames = AtomicUsize::new(0);
    let mover = std::sync::Mutex::new(&mut mover);
    let rename = || {
        let Ok(mut mover) = mover.lock() else { return };
        let (number, round) =
            (renames.load(Ordering::SeqCst) % 20, renames.load(Ordering::SeqCst) / 20);
        let request: Value = json!({
            "verb": "rename",
            "path": format!("moving-{number}-{round}"),
            "to": format!("moving-{number}-{}", round + 1),
        });
        let id = u32::try_from(renames.load(Ordering::SeqCst) + 1).unwrap_or(u32::MAX);
        if mover.code_of(id, &request).is_ok_and(|code| code == "frame 8") {
            renames.fetch_add(1, Ordering::SeqCst);
        }
    };
    let mut listings = 0;
    race(rename, || {
        while renames.load(Ordering::SeqCst) < RENAMES || listings < 5 {
            listings += 1;
            let names = listed(&mut raw, listings + 1)?;
            for number in 0..STABLE {
                let times = names.get(&format!("stable-{number}")).copied().unwrap_or(0);
                assert_eq!(times, 1, "stable-{number}, in listing {listings}");
            }
            assert_eq!(names.keys().filter(|name| name.starts_with(".ftd-")).count(), 0);
        }
        Ok(())
    })?;
    assert_eq!(listed(&mut raw, listings + 2)?.len(), STABLE + 20);
    println!("{listings} listings beside {} renames", renames.load(Ordering::SeqCst));
    Ok(())
}
