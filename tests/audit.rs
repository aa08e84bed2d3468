//! Goal: the log has one line for whatever changed something or was refused, with who, what, where and
//! why, and nobody can fill or forge it (R-14). Method: every verb, over both transports, and a flood.
#![allow(clippy::disallowed_methods, reason = "tests write the configuration from outside")]

mod support;

use std::net::Shutdown;

use serde_json::json;
use support::raw::{ABORT, CANCEL, REQUEST, Raw, TRAILER, frame, put};
use support::{Daemon, Setup, TestResult, sha256, wait_until};

/// The lines of the log that have all of these.
fn lines<'l>(log: &'l str, parts: &[&str]) -> Vec<&'l str> {
    log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).collect()
}

#[test]
fn whatever_changes_something_or_is_refused_leaves_one_line() -> TestResult {
    let setup = Setup::new()?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup
        .write_config(&format!("{text}[[user.path]]\nmatch = \"corner\"\nallow = [\"list\"]\n"))?;
    let daemon = setup.start()?;
    let uid = format!("identity=\"uid {}\"", nix::unistd::geteuid());
    let uid = uid.as_str();
    let mut raw = Raw::greeted(&daemon)?;
    raw.bytes(&put(1, &json!("f"), b"content"))?;
    raw.expect()?;
    let requests = [
        json!({"verb": "mkdir", "path": "d"}),
        json!({"verb": "rename", "path": "f", "to": "d/g"}),
        json!({"verb": "remove", "path": "d/g"}),
        json!({"verb": "rmdir", "path": "d"}),
        json!({"verb": "remove", "path": "corner/x"}),
        json!({"verb": "rename", "path": "f", "to": "corner/\u{1b}[31m\nx"}),
        json!({"verb": "get", "path": "../up"}),
        json!({"verb": "remove", "path": "missing"}),
    ];
    for (id, request) in (2..).zip(&requests) {
        raw.code_of(id, request)?;
    }
    daemon.ftc_tls().input("x").ok(["put", "-", ":by-key"])?;
    let log = daemon.wait_for_log("alice/by-key")?;
    let digest = sha256(b"content");
    let rows: &[&[&str]] = &[
        &[uid, "verb=\"put\"", "path=\"alice/f\"", "bytes=7", &digest, "result=\"ok\""],
        &[uid, "verb=\"mkdir\"", "path=\"alice/d\"", "result=\"ok\""],
        &[uid, "verb=\"rename\"", "path=\"alice/f\"", "to=\"alice/d/g\"", "result=\"ok\""],
        &[uid, "verb=\"remove\"", "path=\"alice/d/g\"", "result=\"ok\""],
        &[uid, "verb=\"rmdir\"", "path=\"alice/d\"", "result=\"ok\""],
        &[
            "verb=\"remove\"",
            "path=\"alice/corner/x\"",
            "result=\"DENIED\"",
            "reason=",
            "right \\\"remove\\\"",
        ],
        &[
            "verb=\"rename\"",
            "path=\"alice/f\"",
            "[31m",
            "result=\"DENIED\"",
            "right \\\"create\\\"",
        ],
        &["verb=\"get\"", "path=\"alice/../up\"", "result=\"BAD_NAME\"", "never followed"],
        &["verb=\"remove\"", "path=\"alice/missing\"", "result=\"NOT_FOUND\"", "reason="],
        &[
            "identity=\"SHA256:",
            "peer=\"127.0.0.1:",
            "verb=\"put\"",
            "alice/by-key",
            "user=\"alice\"",
        ],
    ];
    for row in rows {
        assert_eq!(lines(&log, row).len(), 1, "{row:?}\n{log}");
    }
    assert!(!log.contains('\u{1b}'), "nothing acts on a terminal");
    Ok(())
}

/// What was only on its way out when its connection was lost is not "ok", and what its client has read is.
#[test]
fn a_get_is_done_when_it_was_sent() -> TestResult {
    const GETS: u32 = 10;
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    let small = vec![7; 64 * 1024];
    std::fs::create_dir_all(daemon.stored(""))?;
    std::fs::write(daemon.stored("small"), &small)?;
    for id in 1..=GETS {
        raw.request(id, &json!({"verb": "get", "path": "small"}))?;
    }
    // Its answer passes content by, and all of the others were taken before it.
    raw.request(GETS + 1, &json!({"verb": "stat"}))?;
    let mut read = 0;
    loop {
        let frame = raw.expect()?;
        read += usize::from(frame.kind == TRAILER);
        if frame.id > GETS {
            break;
        }
    }
    drop(raw);
    let held = std::fs::read_to_string("/proc/sys/net/core/wmem_default")?;
    let held = held.trim().parse::<usize>()?.div_ceil(small.len());
    let log = daemon.wait_for_log_times("verb=\"get\"", GETS as usize)?;
    let sent = lines(&log, &["path=\"alice/small\"", "result=\"ok\""]).len();
    assert!(
        (read..=read + held).contains(&sent),
        "{read} read, {held} held, {sent} said to be sent\n{log}"
    );
    let given_up = lines(&log, &["path=\"alice/small\"", "result=\"aborted\""]).len();
    assert_eq!(sent + given_up, GETS as usize, "{log}");
    Ok(())
}

#[test]
fn a_get_that_is_cancelled_is_given_up() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::create_dir_all(daemon.stored(""))?;
    // No socket holds that much.
    std::fs::File::create(daemon.stored("large"))?.set_len(64 << 20)?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.request(1, &json!({"verb": "get", "path": "large"}))?;
    raw.expect()?;
    raw.send(CANCEL, 1, b"")?;
    while raw.expect()?.kind != ABORT {}
    let log = daemon.wait_for_log("alice/large")?;
    assert_eq!(lines(&log, &["path=\"alice/large\"", "result=\"aborted\""]).len(), 1, "{log}");
    Ok(())
}

/// R-14: every get that was taken leaves a line or is counted, also those that had not begun when their client left.
#[test]
fn a_get_that_never_began_is_given_up() -> TestResult {
    const ROUNDS: usize = 50;
    const GETS: u32 = 10;
    let daemon = Daemon::start()?;
    std::fs::create_dir_all(daemon.stored(""))?;
    std::fs::write(daemon.stored("small"), b"small")?;
    let gets: Vec<u8> =
        (1..=GETS).flat_map(|id| frame(REQUEST, id, br#"{"verb":"get","path":"small"}"#)).collect();
    for _ in 0..ROUNDS {
        let mut raw = Raw::greeted(&daemon)?;
        raw.bytes(&gets)?;
        raw.0.shutdown(Shutdown::Write)?;
        std::io::copy(&mut raw.0, &mut std::io::sink())?; // Nothing but our leaving ends them.
    }
    daemon.signal(nix::sys::signal::Signal::SIGTERM)?;
    let log = daemon.wait_for_log("[end of log]")?;
    let told = lines(&log, &["verb=\"get\"", "path=\"alice/small\""]).len();
    assert_eq!(told + suppressed(&log), ROUNDS * GETS as usize, "{told} told\n{log}");
    Ok(())
}

/// R-14: a get whose last byte its client has read is "ok", even if that leaves at once.
#[test]
fn a_get_that_was_received_whole_is_done() -> TestResult {
    const ROUNDS: u32 = 200;
    const GETS: u32 = 24;
    let daemon = Daemon::start()?;
    std::fs::create_dir_all(daemon.stored(""))?;
    std::fs::write(daemon.stored("small"), b"small")?;
    let peer = || -> Result<(), String> {
        for round in 0..ROUNDS {
            let gets = if round % 2 == 0 { 1 } else { GETS };
            let mut raw = Raw::greeted(&daemon).map_err(|error| error.to_string())?;
            for id in 1..=gets {
                let get = json!({"verb": "get", "path": "small"});
                raw.request(id, &get).map_err(|error| error.to_string())?;
            }
            let mut whole = 0;
            while whole < gets {
                let frame = raw.expect().map_err(|error| error.to_string())?;
                whole += u32::from(frame.kind == TRAILER);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let peers = [scope.spawn(peer), scope.spawn(peer), scope.spawn(peer)];
        peers.into_iter().try_for_each(|peer| peer.join().unwrap_or(Err("panicked".to_owned())))
    })?;
    let gets = usize::try_from(3 * ROUNDS / 2 * (GETS + 1))?;
    let log = daemon.wait_for_log_times("verb=\"get\"", gets)?;
    assert_eq!(lines(&log, &["verb=\"get\"", "result=\"ok\""]).len(), gets);
    assert_eq!(lines(&log, &["result=\"aborted\""]), [""; 0]);
    Ok(())
}

/// What no verb was looked at for is refused in the open, too.
#[test]
fn what_a_limit_or_the_protocol_refuses_leaves_a_line() -> TestResult {
    let limits = "[limits]\nconnections-per-user = 1\nrequests-per-connection = 1";
    let daemon = Setup::with("[\"create\", \"get\"]", limits)?.start()?;
    let mut raw = Raw::greeted(&daemon)?;
    let mut second = Raw::silent(&daemon)?;
    second.expect_closed("LIMIT")?;
    assert_eq!(raw.code_of(1, &json!({"verb": "get", "path": "f", "offset": 1}))?, "PROTOCOL");
    assert_eq!(raw.code_of(2, &json!({"verb": "frobnicate"}))?, "PROTOCOL");
    raw.request(3, &json!({"verb": "put", "path": "f"}))?;
    assert_eq!(raw.code_of(4, &json!({"verb": "get", "path": "f"}))?, "LIMIT");
    let log = daemon.wait_for_log("in flight")?;
    for row in [
        ["connect refused", "result=\"LIMIT\"", "connections of this user"],
        ["get refused", "result=\"PROTOCOL\"", "path=\"alice/f\""],
        ["request refused", "result=\"PROTOCOL\"", "does not know the verb"],
        ["request refused", "result=\"LIMIT\"", "in flight"],
    ] {
        let found = lines(&log, &row);
        assert_eq!(found.len(), 1, "{row:?}\n{log}");
        assert!(found[0].contains("user=\"alice\"") && found[0].contains("identity=\"uid "));
    }
    Ok(())
}

/// S-04, R-14: what the disk fails leaves a line whatever the verb, and a flood of that is counted; what is just
/// not there leaves none where somebody only looked. Method: a directory that can be opened and not read.
#[test]
fn a_listing_and_a_look_that_the_disk_fails_leave_a_line() -> TestResult {
    const FLOOD: u32 = 200;
    let setup = Setup::new()?;
    let place = setup.path("root/alice/d");
    std::fs::create_dir_all(&place)?;
    let place = place.to_str().ok_or("no UTF-8")?;
    let inject = "inject=getdents64,newfstatat,statx:error=EIO";
    let daemon = setup.start_traced(&[
        "-P",
        place,
        "-e",
        "trace=getdents64,newfstatat,statx",
        "-e",
        inject,
    ])?;
    let mut raw = Raw::greeted(&daemon)?;
    assert_eq!(raw.code_of(1, &json!({"verb": "stat", "path": "missing"}))?, "NOT_FOUND");
    assert_eq!(raw.code_of(2, &json!({"verb": "stat", "path": "d/f"}))?, "IO");
    // All at once, so that some are one too many for their second.
    let lists = (3..3 + FLOOD).flat_map(|id| frame(REQUEST, id, br#"{"verb":"list","path":"d"}"#));
    raw.bytes(&lists.collect::<Vec<u8>>())?;
    for _ in 0..FLOOD {
        assert_eq!(raw.expect()?.code(), "IO");
    }
    drop(raw);
    let row = ["ERROR", "verb=\"list\"", "path=\"alice/d\"", "result=\"IO\"", "i/o error"];
    let log = wait_until_told(&daemon, &row, FLOOD as usize)?;
    let written = lines(&log, &row).len();
    assert!(written > 0 && suppressed(&log) > 0, "{written} lines: {log}");
    let row = ["ERROR", "verb=\"stat\"", "path=\"alice/d/f\"", "result=\"IO\"", "reason=\"look at"];
    assert_eq!(lines(&log, &row).len(), 1, "{log}");
    assert!(lines(&log, &["missing"]).is_empty(), "{log}");
    Ok(())
}

/// How many lines were left out, by what the log says.
fn suppressed(log: &str) -> usize {
    let told = log.split("suppressed=").skip(1);
    told.filter_map(|rest| rest.split([' ', '\n']).next()?.parse::<usize>().ok()).sum()
}

/// The log in which so many lines are written or counted. A session's end tells only what no later line has told.
fn wait_until_told(
    daemon: &Daemon,
    row: &[&str],
    all: usize,
) -> Result<String, Box<dyn std::error::Error>> {
    let told = |log: &str| lines(log, row).len() + suppressed(log);
    wait_until("every one is written or counted", || Ok(told(&daemon.log()) == all))
        .map_err(|why| format!("{why}: {} of {all}:\n{}", told(&daemon.log()), daemon.log()))?;
    Ok(daemon.log())
}

/// R-14; `FTD_REFUSALS` says how many.
#[test]
fn a_flood_of_refusals_is_counted_and_not_written() -> TestResult {
    let many = std::env::var("FTD_REFUSALS").ok().and_then(|count| count.parse().ok());
    let requests: usize = many.unwrap_or(20_000);
    let daemon = Setup::with("[\"list\"]", "")?.start()?;
    let mut raw = Raw::greeted(&daemon)?;
    let mut asked = 0;
    while asked < requests {
        for _ in 0..200 {
            asked += 1;
            raw.request(u32::try_from(asked)?, &json!({"verb": "get", "path": "x"}))?;
        }
        for _ in 0..200 {
            assert_eq!(raw.expect()?.code(), "DENIED");
        }
    }
    drop(raw);
    let log = wait_until_told(&daemon, &["get refused"], requests)?;
    let written = lines(&log, &["get refused"]).len();
    println!("assurance: R-14 log: {requests} refusals make {written} lines, the rest is counted");
    assert!(written < requests / 10, "{written} lines");
    Ok(())
}
