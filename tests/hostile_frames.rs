//! Goal: whatever bytes a peer sends, it gets a typed error or a closed connection, nothing shows,
//! nothing is left, and others are served (catalogue F).
//! Method: real daemon, raw bytes; after every case another connection puts and gets a file.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use serde_json::json;
use support::raw::{
    ABORT, ANSWER, CANCEL, DATA, ENTRIES, EOF, ERROR, HELLO, REQUEST, Raw, TRAILER, frame, put,
    trailer,
};
use support::{Daemon, PATIENCE, Setup, TestResult, noise};

/// Another user's work goes on.
fn others_are_served(daemon: &Daemon) -> TestResult {
    let mut raw = Raw::greeted(daemon)?;
    raw.bytes(&put(1, &json!("probe"), b"probe"))?;
    assert_eq!(raw.expect()?.kind, ANSWER);
    raw.request(2, &json!({"verb": "get", "path": "probe"}))?;
    raw.expect()?;
    assert_eq!(raw.expect()?.payload, b"probe");
    Ok(())
}

fn header(kind: u8, flags: u8, id: u32, length: u32) -> Vec<u8> {
    let mut out = vec![kind, flags, 0, 0];
    out.extend(id.to_be_bytes());
    out.extend(length.to_be_bytes());
    out
}

/// F-01, F-04, F-05, F-06, F-07, F-15: each ends the connection with PROTOCOL.
#[test]
fn broken_frames_end_the_connection_and_nothing_else() -> TestResult {
    let daemon = Daemon::start()?;
    let open = frame(REQUEST, 1, br#"{"verb":"put","path":"half","bytes":10}"#);
    let with_open = |rest: &[&[u8]]| [&[open.as_slice()], rest].concat().concat();
    let nine = frame(DATA, 1, &[0; 9]);
    let rows: Vec<(Vec<u8>, &str)> = vec![
        (header(DATA, 0, 1, 0), "empty data"),
        (header(DATA, 0, 1, (1 << 20) + 1), "data one byte too long"),
        (header(DATA, 0, 1, u32::MAX), "the longest length"),
        (header(REQUEST, 0, 1, 16 * 1024 + 1), "control one byte too long"),
        (header(REQUEST, 0, 1, 0), "empty control"),
        (header(EOF, 0, 1, 1), "EOF with a payload"),
        (header(0, 0, 1, 1), "kind 0"),
        (header(11, 0, 1, 4), "packed data without any"),
        (header(11, 0, 1, (129 << 10) + 1), "packed data one byte too long"),
        (header(12, 0, 1, 1), "an unknown kind"),
        (header(255, 0, 1, 1), "the last kind"),
        (header(REQUEST, 1, 1, 5), "a flag"),
        (header(REQUEST, 128, 1, 5), "another flag"),
        (frame(HELLO, 0, br#"{"version":1}"#), "HELLO again"),
        (frame(ANSWER, 1, b"{}"), "a server's frame"),
        (frame(ENTRIES, 1, b"{}"), "a server's frame"),
        (frame(ERROR, 1, b"{}"), "a server's frame"),
        (frame(DATA, 1, b"x"), "content without a put"),
        (frame(EOF, 7, b""), "EOF for an unknown id"),
        (frame(TRAILER, 7, &trailer(b"")), "a trailer for an unknown id"),
        (frame(ABORT, 7, b"{}"), "an abort for an unknown id"),
        (frame(CANCEL, 7, b""), "a cancel of the future"),
        (frame(REQUEST, 0, br#"{"verb":"stat"}"#), "a request on id 0"),
        (
            [frame(REQUEST, 5, br#"{"verb":"zap"}"#), frame(REQUEST, 5, br#"{"verb":"zap"}"#)]
                .concat(),
            "an id again",
        ),
        (frame(REQUEST, 1, b"not json"), "no JSON"),
        (frame(REQUEST, 1, b"{}"), "no verb"),
        (frame(REQUEST, 1, br#"{"verb":"get"}"#), "no path"),
        (frame(REQUEST, 1, br#"{"verb":"get","path":7}"#), "a path that is a number"),
        (frame(REQUEST, 1, br#"{"verb":"get","path":{"base64":"*"}}"#), "base64 that is none"),
        (frame(REQUEST, 1, br#"{"verb":"put","path":"x","bytes":-1}"#), "a negative size"),
        (
            frame(REQUEST, 1, br#"{"verb":"put","path":"x","bytes":18446744073709551616}"#),
            "a size past 64 bits",
        ),
        (frame(REQUEST, 1, b"\xff\xfe"), "no UTF-8"),
        (
            frame(REQUEST, 1, &[b"[".repeat(10_000), b"]".repeat(100)].concat()),
            "nesting without end",
        ),
        (with_open(&[&frame(DATA, 1, &[0; 11])]), "more than announced"),
        (
            with_open(&[&nine, &frame(EOF, 1, b""), &frame(TRAILER, 1, &trailer(&[0; 10]))]),
            "less than announced",
        ),
        (with_open(&[&nine, &frame(TRAILER, 1, &trailer(&[0; 9]))]), "a trailer before EOF"),
        (with_open(&[&frame(EOF, 1, b""), &frame(EOF, 1, b"")]), "EOF twice"),
        (with_open(&[&frame(EOF, 1, b""), &nine]), "content after EOF"),
        (
            with_open(&[
                &nine,
                &frame(EOF, 1, b""),
                &frame(TRAILER, 1, br#"{"bytes":9,"sha256":"12"}"#),
            ]),
            "half a digest",
        ),
    ];
    for (bytes, why) in rows {
        let mut raw = Raw::greeted(&daemon)?;
        raw.bytes(&bytes)?;
        // What was in flight may have its own end before that.
        loop {
            let frame = raw.expect().map_err(|error| format!("{why}: {error}"))?;
            if frame.id == 0 {
                assert_eq!(frame.code(), "PROTOCOL", "{why}");
                break;
            }
        }
        assert_eq!(raw.receive()?, None, "{why}");
        assert!(!daemon.stored("half").exists(), "{why}");
    }
    others_are_served(&daemon)?;
    daemon.assert_nothing_staged()
}

/// F-02: a session cut at every byte leaves nothing.
#[test]
fn a_session_cut_at_any_byte_leaves_nothing() -> TestResult {
    let daemon = Daemon::start()?;
    let session =
        [frame(HELLO, 0, br#"{"version":1}"#), put(1, &json!("cut"), b"some content")].concat();
    for length in 0..session.len() {
        let mut raw = Raw::connect(&daemon)?;
        raw.bytes(&session[..length])?;
        raw.0.shutdown(Shutdown::Write)?;
        while let Some(frame) = raw.receive().unwrap_or(None) {
            assert_ne!(frame.kind, ANSWER, "cut at {length}");
        }
    }
    assert!(!daemon.stored("cut").exists());
    daemon.assert_nothing_staged()?;
    others_are_served(&daemon)
}

/// F-03: frames may arrive byte by byte, and in one piece.
#[test]
fn frames_may_be_split_and_joined_anywhere() -> TestResult {
    let daemon = Daemon::start()?;
    let content = noise(3000, 1);
    let session =
        [frame(HELLO, 0, br#"{"version":1}"#), put(1, &json!("split"), &content)].concat();
    let mut raw = Raw::connect(&daemon)?;
    for byte in &session {
        raw.bytes(std::slice::from_ref(byte))?;
    }
    assert_eq!(raw.expect()?.kind, ANSWER);
    let mut joined = frame(HELLO, 0, br#"{"version":1}"#);
    for id in 1..=100 {
        joined.extend(put(id, &json!(format!("many/{id}")), &content[..id as usize]));
    }
    let mut raw = Raw::connect(&daemon)?;
    raw.bytes(&joined)?;
    let mut ids = (0..100)
        .map(|_| raw.expect().map(|frame| (frame.kind, frame.id)))
        .collect::<Result<Vec<_>, _>>()?;
    ids.sort_unstable();
    assert_eq!(ids, (1..=100).map(|id| (ANSWER, id)).collect::<Vec<_>>());
    assert_eq!(std::fs::read_dir(daemon.stored("many"))?.count(), 100);
    Ok(())
}

/// F-08, F-09 and what else refuses a put: the old file stays, the connection goes on.
#[test]
fn refused_puts_change_nothing_and_the_connection_goes_on() -> TestResult {
    let daemon = Setup::with(support::ALL_RIGHTS, "[limits]\nmax-file-size = \"1MiB\"")?.start()?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.bytes(&put(1, &json!("f"), b"old"))?;
    assert_eq!(raw.expect()?.kind, ANSWER);

    let wrong = format!(r#"{{"bytes":3,"sha256":"{}"}}"#, "0".repeat(64));
    raw.request(2, &json!({"verb": "put", "path": "f"}))?;
    raw.send(DATA, 2, b"new")?;
    raw.send(EOF, 2, b"")?;
    raw.send(TRAILER, 2, wrong.as_bytes())?;
    assert_eq!(raw.expect()?.code(), "BAD_DIGEST");

    raw.request(3, &json!({"verb": "put", "path": "f"}))?;
    raw.send(DATA, 3, b"new")?;
    raw.send(ABORT, 3, br#"{"reason":"changed my mind"}"#)?;
    assert_eq!(raw.expect()?.kind, ABORT);

    for (id, bytes) in [(4, json!(u64::MAX)), (5, json!(1_u64 << 63)), (6, json!((1 << 20) + 1))] {
        assert_eq!(
            raw.code_of(id, &json!({"verb": "put", "path": "f", "bytes": bytes}))?,
            "TOO_LARGE"
        );
        raw.send(CANCEL, id, b"")?;
    }
    // Too large without saying so: refused when it is, and the rest is dropped.
    raw.request(7, &json!({"verb": "put", "path": "f"}))?;
    for _ in 0..3 {
        raw.send(DATA, 7, &vec![7; 1 << 20])?;
    }
    assert_eq!(raw.expect()?.code(), "TOO_LARGE");
    raw.send(DATA, 7, &vec![7; 1 << 20])?;
    raw.send(EOF, 7, b"")?;
    raw.send(TRAILER, 7, &trailer(&vec![7; 4 << 20]))?;

    raw.request(8, &json!({"verb": "put", "path": "f", "replace": false}))?;
    assert_eq!(raw.expect()?.code(), "EXISTS");
    raw.send(CANCEL, 8, b"")?;

    assert_eq!(raw.code_of(9, &json!({"verb": "frobnicate"}))?, "PROTOCOL");
    assert_eq!(std::fs::read(daemon.stored("f"))?, b"old");
    raw.bytes(&put(10, &json!("f"), b"newer"))?;
    assert_eq!(raw.expect()?.kind, ANSWER);
    assert_eq!(std::fs::read(daemon.stored("f"))?, b"newer");
    daemon.assert_nothing_staged()
}

/// F-06: more requests than HELLO allows are refused, and the connection goes on.
#[test]
fn requests_past_the_limit_are_refused() -> TestResult {
    let daemon =
        Setup::with(support::ALL_RIGHTS, "[limits]\nrequests-per-connection = 4")?.start()?;
    let mut raw = Raw::greeted(&daemon)?;
    for id in 1..=6 {
        raw.request(id, &json!({"verb": "put", "path": format!("f{id}")}))?;
        raw.send(DATA, id, b"x")?;
    }
    for id in 5..=6 {
        let frame = raw.expect()?;
        assert_eq!((frame.id, frame.code().as_str()), (id, "LIMIT"));
        raw.send(CANCEL, id, b"")?;
    }
    for id in 1..=4 {
        raw.send(EOF, id, b"")?;
        raw.send(TRAILER, id, &trailer(b"x"))?;
    }
    for _ in 1..=4 {
        assert_eq!(raw.expect()?.kind, ANSWER);
    }
    assert_eq!(raw.code_of(7, &json!({"verb": "stat"}))?, "frame 8");
    Ok(())
}

/// Cancelling at any point ends the request once, and the connection goes on.
#[test]
fn cancel_ends_a_request_once() -> TestResult {
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.bytes(&put(1, &json!("big"), &noise(8 << 20, 5)))?;
    assert_eq!(raw.expect()?.kind, ANSWER);
    for id in 2..40 {
        raw.request(id, &json!({"verb": "get", "path": "big"}))?;
        for _ in 0..id % 7 {
            raw.expect()?;
        }
        raw.send(CANCEL, id, b"")?;
        loop {
            let frame = raw.expect()?;
            assert_eq!(frame.id, id);
            if [ABORT, TRAILER].contains(&frame.kind) {
                break;
            }
        }
    }
    raw.request(50, &json!({"verb": "put", "path": "cancelled"}))?;
    raw.send(DATA, 50, b"half")?;
    raw.send(CANCEL, 50, b"")?;
    assert_eq!(raw.expect()?.kind, ABORT);
    raw.send(CANCEL, 50, b"")?; // Nothing is left to cancel: it means nothing.
    assert_eq!(raw.code_of(51, &json!({"verb": "stat", "path": "cancelled"}))?, "NOT_FOUND");
    daemon.assert_nothing_staged()
}

/// F-01, F-06: what is exactly at a limit works: the longest control frame, the longest data frame, the
/// last id; after that id there is none.
#[test]
fn what_is_at_a_limit_works() -> TestResult {
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    let mut request = br#"{"verb":"stat"}"#.to_vec();
    request.resize(16 * 1024, b' ');
    raw.send(REQUEST, 1, &request)?;
    assert_eq!(raw.expect()?.kind, ANSWER);
    raw.bytes(&put(2, &json!("mib"), &noise(1 << 20, 2)))?;
    assert_eq!(raw.expect()?.kind, ANSWER);
    assert_eq!(raw.code_of(u32::MAX, &json!({"verb": "stat"}))?, "frame 8");
    raw.request(3, &json!({"verb": "stat"}))?;
    raw.expect_closed("PROTOCOL")
}

/// A session's last word is said however many answers are waiting, and after all of them.
#[test]
fn the_last_word_follows_all_answers_that_wait() -> TestResult {
    let daemon = Daemon::start()?;
    for requests in (1..=160).step_by(3) {
        let mut bytes = frame(HELLO, 0, br#"{"version":1}"#);
        for id in 1..=requests {
            bytes.extend(frame(REQUEST, id, br#"{"verb":"zap"}"#));
        }
        bytes.extend(header(255, 0, 1, 1));
        let mut raw = Raw::connect(&daemon)?;
        raw.bytes(&bytes)?;
        for id in 1..=requests {
            assert_eq!(raw.expect()?.id, id, "of {requests}");
        }
        raw.expect_closed("PROTOCOL").map_err(|error| format!("{requests} requests: {error}"))?;
    }
    Ok(())
}

/// A request that is cancelled while it is refused has one final frame, not two.
#[test]
fn a_cancel_and_a_refusal_at_once_are_one_end() -> TestResult {
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    let batch = 200;
    for round in 0..30 {
        let mut bytes = Vec::new();
        for id in round * batch + 1..=(round + 1) * batch {
            bytes.extend(frame(REQUEST, id, br#"{"verb":"get","path":".."}"#));
            bytes.extend(frame(CANCEL, id, b""));
        }
        raw.bytes(&bytes)?;
        let mut ends = (0..batch)
            .map(|_| raw.expect().map(|frame| frame.id))
            .collect::<Result<Vec<_>, _>>()?;
        ends.sort_unstable();
        assert_eq!(ends, (round * batch + 1..=(round + 1) * batch).collect::<Vec<_>>());
    }
    assert_eq!(raw.code_of(1_000_000, &json!({"verb": "stat"}))?, "frame 8");
    Ok(())
}

/// A get that is cancelled stops reading: the one file thread is free for the next request.
#[test]
fn a_cancelled_get_gives_its_thread_back() -> TestResult {
    let daemon = Setup::with(support::ALL_RIGHTS, "[limits]\nfile-workers = 1")?.start()?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.code_of(1, &json!({"verb": "stat"}))?;
    let huge = std::fs::File::create(daemon.stored("huge"))?;
    huge.set_len(1 << 42)?; // Hours of zeros.
    raw.request(2, &json!({"verb": "get", "path": "huge"}))?;
    assert_eq!(raw.expect()?.kind, ANSWER);
    raw.send(CANCEL, 2, b"")?;
    while raw.expect()?.kind != ABORT {}
    assert_eq!(raw.code_of(3, &json!({"verb": "stat"}))?, "frame 8");
    Ok(())
}

/// A client that is let in and does not say HELLO is not waited for as long as one that idles.
#[test]
fn a_client_that_does_not_greet_is_sent_away() -> TestResult {
    let daemon =
        Setup::with(support::ALL_RIGHTS, "[limits]\nhandshake-timeout = \"1s\"")?.start()?;
    let mut raw = Raw::connect(&daemon)?;
    raw.expect_closed("TIMEOUT")?;
    // Byte by byte is no greeting either.
    let mut raw = Raw::connect(&daemon)?;
    raw.bytes(&frame(HELLO, 0, br#"{"version":1}"#)[..5])?;
    raw.expect_closed("TIMEOUT")
}

/// F-14: a peer that asks and never reads is not read from any more, and the daemon stays small.
#[test]
fn a_peer_that_does_not_read_is_not_read_from() -> TestResult {
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.0.set_write_timeout(Some(std::time::Duration::from_secs(2)))?;
    let before = resident_kib(&daemon)?;
    let mut sent = 0;
    for id in 1..=200_000 {
        let request = frame(REQUEST, id, br#"{"verb":"stat"}"#);
        if raw.0.write_all(&request).is_err() {
            break;
        }
        sent = id;
    }
    assert!(sent < 200_000, "the server reads on although nobody reads its answers");
    assert!(resident_kib(&daemon)? < before + 16 * 1024, "memory grew");
    others_are_served(&daemon)
}

fn resident_kib(daemon: &Daemon) -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

/// A TLS client's first record: its version, whether it names TLS 1.3 too, and so many extensions more.
fn client_hello(version: u8, speaks_1_3: bool, more: u16) -> Vec<u8> {
    let sized = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        [&length.to_be_bytes(), bytes].concat()
    };
    let mut extensions = Vec::new();
    if speaks_1_3 {
        extensions.extend([0, 43, 0, 3, 2, 3, 4]);
    }
    for kind in 0x4000..0x4000 + more {
        extensions.extend(kind.to_be_bytes());
        extensions.extend([0, 0]);
    }
    let suites = sized(&[0x13, 0x01, 0xc0, 0x2f, 0x00, 0x2f]);
    let body = [&[3, version][..], &[7; 32], &[0], &suites, &[1, 0], &sized(&extensions)].concat();
    let handshake = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, version.min(1)][..], &sized(&handshake)].concat()
}

/// F-10, F-11, F-12, F-13: what is no TLS 1.3 client of ours gets an alert or a closed connection.
#[test]
fn strangers_on_the_tls_port_are_dropped() -> TestResult {
    let daemon = Setup::with(
        support::ALL_RIGHTS,
        "[limits]\nhandshake-timeout = \"5s\"\npenalties = false",
    )?
    .start()?;
    let mut hello = vec![22, 3, 1, 0xff, 0xff];
    hello.resize(66_000, 0x01);
    let records = [22_u8, 3, 1, 0, 1, 1].repeat(5000);
    let mut strangers = Vec::new();
    for (bytes, why) in [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "SSH"),
        (frame(HELLO, 0, br#"{"version":1}"#), "our frames without TLS"),
        (noise(4096, 9), "noise"),
        (hello, "a hello of 64 KiB"),
        (records, "many tiny records"),
        ([22, 3, 1, 0, 0].repeat(1000), "empty records"),
        ([21, 3, 3, 0, 2, 1, 90].repeat(2000), "warnings without end"),
        (client_hello(3, false, 0), "TLS 1.2"),
        (client_hello(2, false, 0), "TLS 1.1"),
        (client_hello(0, false, 0), "SSL 3"),
        (client_hello(3, true, 1000), "a thousand extensions"),
        (client_hello(3, true, 4000).repeat(4), "a hello that goes on"),
        (Vec::new(), "silence"),
        (vec![22, 3], "half a record header"),
    ] {
        let mut stream = TcpStream::connect(&daemon.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let _ = stream.write_all(&bytes); // It may be closed before it has taken all.
        strangers.push((stream, why));
    }
    // They are waited for together, so that each may have the time that an honest client needs.
    for (mut stream, why) in strangers {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.len() < 100 && !answer.windows(5).any(|window| window == b"\"ftd\""),
            "{why}: {answer:?}"
        );
    }
    others_are_served(&daemon)?;
    daemon.ftc_tls().ok(["ls"])?;
    Ok(())
}
