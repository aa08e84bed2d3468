//! Goal: many at once, and much at once, do each what they would alone (C-07, C-08, C-10, R-11). Method: many
//! connections in one test, a large directory, cancels at every point of a put.
#![allow(clippy::disallowed_methods, reason = "tests look at the daemon from outside")]

mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;
use support::raw::{ANSWER, CANCEL, DATA, ENTRIES, EOF, Raw, TRAILER, frame, trailer};
use support::{ALL_RIGHTS, Daemon, PATIENCE, Setup, TestResult, make_key};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// How often a listing names each name.
fn names(raw: &mut Raw, id: u32, path: &str) -> Fallible<BTreeMap<String, usize>> {
    raw.request(id, &json!({"verb": "list", "path": path}))?;
    let mut names = BTreeMap::new();
    loop {
        let frame = raw.expect()?;
        if frame.kind != ENTRIES {
            return if frame.kind == ANSWER { Ok(names) } else { Err(frame.code().into()) };
        }
        for entry in frame.json()["entries"].as_array().cloned().unwrap_or_default() {
            *names.entry(entry["name"].as_str().unwrap_or("?").to_owned()).or_default() += 1;
        }
    }
}

/// C-08: a reload takes one user away in the middle of everybody's transfers; the others' all end well.
#[test]
fn a_reload_in_the_middle_of_fifty_transfers_ends_only_those_that_must() -> TestResult {
    let setup = Setup::new()?;
    make_key(&setup.path("bob"), "ed25519", "")?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    let key = std::fs::read_to_string(setup.path("bob.pub"))?;
    let bob =
        format!("[[user]]\nname = \"bob\"\nkeys = [{:?}]\nallow = {ALL_RIGHTS}\n", key.trim());
    setup.write_config(&format!("{text}{bob}"))?;
    let daemon = setup.start()?;
    let mut staying = Vec::new();
    for number in 0..40 {
        let mut raw = Raw::greeted(&daemon)?;
        raw.request(1, &json!({"verb": "put", "path": format!("f{number}")}))?;
        raw.send(DATA, 1, &[7; 1000])?;
        staying.push(raw);
    }
    let mut leaving = Vec::new();
    for number in 0..10 {
        let ftc = daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("bob")).stdin_pipe();
        let mut child = ftc.spawn(["put", "-", &format!(":b{number}")])?;
        let mut pipe = child.stdin.take().ok_or("no stdin")?;
        std::io::Write::write_all(&mut pipe, &vec![1; 100_000])?;
        leaving.push((child, pipe));
    }
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_dir(daemon.path("root/.ftd-stage"))?.count() < 50 {
        assert!(Instant::now() < deadline, "all are on their way");
        std::thread::yield_now();
    }
    std::fs::write(daemon.path("ftd.toml"), &text)?;
    let began = Instant::now();
    daemon.signal(Signal::SIGHUP)?;
    daemon.wait_for_log_times("no longer known", 10)?;
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    for (mut child, pipe) in leaving {
        drop(pipe);
        assert_ne!(child.wait()?.code(), Some(0));
    }
    for mut raw in staying {
        raw.send(EOF, 1, b"")?;
        raw.send(TRAILER, 1, &trailer(&[7; 1000]))?;
        assert_eq!(raw.expect()?.code(), "frame 8");
    }
    assert_eq!(std::fs::read_dir(daemon.path("root/alice"))?.count(), 40);
    assert_eq!(std::fs::read_dir(daemon.path("root/bob"))?.count(), 0);
    daemon.assert_nothing_staged()
}

/// C-10: a name that stays is listed exactly once, whatever is renamed beside it.
#[test]
fn a_listing_beside_renames_names_what_stays_exactly_once() -> TestResult {
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    std::fs::create_dir(daemon.stored("d"))?;
    for number in 0..300 {
        std::fs::write(daemon.stored(&format!("d/stays{number:03}")), "x")?;
    }
    std::fs::write(daemon.stored("d/moves0"), "x")?;
    let mut mover = Raw::greeted(&daemon)?;
    let moving = std::thread::spawn(move || -> Result<(), String> {
        for number in 0..1000_u32 {
            let (from, to) = (format!("d/moves{number}"), format!("d/moves{}", number + 1));
            let request = json!({"verb": "rename", "path": from, "to": to});
            let code = mover.code_of(number + 1, &request).map_err(|error| error.to_string())?;
            if code != "frame 8" {
                return Err(code);
            }
        }
        Ok(())
    });
    let mut id = 0;
    while !moving.is_finished() || id < 3 {
        id += 1;
        let seen = names(&mut raw, id, "d")?;
        let stays: Vec<_> = seen.iter().filter(|(name, _)| name.starts_with("stays")).collect();
        assert_eq!(stays.len(), 300);
        assert!(stays.iter().all(|(_, times)| **times == 1), "{stays:?}");
    }
    moving.join().map_err(|_| "the mover panicked")??;
    Ok(())
}

/// a listing of any length is streamed, and a cancel frees the connection at once. With
/// `FTD_TEST_ENTRIES=200000` it is as long as the catalogue's.
#[test]
fn a_large_directory_is_listed_in_little_memory_and_can_be_cancelled() -> TestResult {
    let files = std::env::var("FTD_TEST_ENTRIES").ok().and_then(|files| files.parse().ok());
    let files: usize = files.unwrap_or(50_000);
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    std::fs::create_dir(daemon.stored("d"))?;
    for number in 0..files {
        std::fs::File::create(daemon.stored(&format!("d/{number}")))?;
    }
    let resident = || -> Fallible<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).ok_or("no size")?.parse()?)
    };
    raw.code_of(1, &json!({"verb": "stat"}))?;
    let before = resident()?;
    assert_eq!(names(&mut raw, 2, "d")?.len(), files);
    let grown = resident()?.saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");

    raw.request(3, &json!({"verb": "list", "path": "d"}))?;
    raw.expect()?;
    raw.send(CANCEL, 3, b"")?;
    raw.request(4, &json!({"verb": "stat"}))?;
    let mut after = 0;
    loop {
        let frame = raw.expect()?;
        if frame.id == 4 {
            break;
        }
        after += usize::from(frame.kind == ENTRIES);
    }
    assert!(after < 500, "{after} more frames of entries came after the cancel");
    Ok(())
}

/// C-07: wherever a put is cancelled, it is stored and told so, or it is as if it had never been.
#[test]
fn a_put_that_is_cancelled_anywhere_is_whole_or_absent() -> TestResult {
    let setup = Setup::new()?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.write_config(&format!("{text}quota = \"1MiB\"\n"))?;
    let daemon = setup.start()?;
    let content = [9; 2000];
    let request = json!({"verb": "put", "path": "f", "replace": true}).to_string();
    let frames = |id| {
        [
            frame(support::raw::REQUEST, id, request.as_bytes()),
            frame(DATA, id, &content[..1000]),
            frame(DATA, id, &content[1000..]),
            frame(EOF, id, b""),
            frame(TRAILER, id, &trailer(&content)),
        ]
    };
    let mut raw = Raw::greeted(&daemon)?;
    let (mut stored, mut id) = (0, 0);
    for round in 0..200 {
        raw.code_of(id + 1, &json!({"verb": "remove", "path": "f"}))?; // If it is there.
        id += 2;
        let sent = 1 + round % 5;
        let mut bytes = frames(id)[..sent].concat();
        if sent == 5 {
            // The commit has begun by the time the cancel comes, or has not, or is over.
            raw.bytes(&bytes)?;
            (0..round * 20).for_each(|_| std::thread::yield_now());
            bytes.clear();
        }
        bytes.extend(frame(CANCEL, id, b""));
        raw.bytes(&bytes)?;
        let answer = raw.expect()?;
        assert_eq!(answer.id, id);
        let is_stored = answer.kind == ANSWER;
        stored += usize::from(is_stored);
        let there = std::fs::read(daemon.stored("f")).ok();
        assert_eq!(there, is_stored.then(|| content.to_vec()), "round {round}: {answer:?}");
    }
    assert!(stored > 0, "some were too late");
    // And the quota is what it was: all of it.
    raw.code_of(id + 1, &json!({"verb": "remove", "path": "f"}))?;
    for (id, bytes, told) in [(id + 2, 1 << 20, "frame 8"), (id + 3, 1, "QUOTA")] {
        raw.bytes(&support::raw::put(id, &json!(format!("g{id}")), &vec![1; bytes]))?;
        assert_eq!(raw.expect()?.code(), told);
    }
    daemon.assert_nothing_staged()
}
