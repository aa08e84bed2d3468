//! Goal: a stop loses nothing that was acknowledged and cuts nobody who can finish in time.
//! Method: real daemon, real signals, a notify socket of the test's own in place of systemd's.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use support::raw::{ANSWER, CANCEL, DATA, EOF, Raw, TRAILER, frame, put, trailer};
use support::{ALL_RIGHTS, Daemon, PATIENCE, Setup, TestResult, wait_until};

/// what runs may finish, what is idle is sent away, what is new is refused.
#[test]
fn a_stop_lets_running_transfers_finish() -> TestResult {
    let mut daemon = Daemon::start()?;
    let mut idle = Raw::greeted(&daemon)?;
    idle.code_of(1, &json!({"verb": "stat"}))?;
    let mut busy = Raw::greeted(&daemon)?;
    busy.request(1, &json!({"verb": "put", "path": "slow"}))?;
    busy.send(DATA, 1, b"first half, ")?;
    busy.request(2, &json!({"verb": "stat"}))?;
    assert_eq!(busy.expect()?.kind, ANSWER);
    daemon.signal(Signal::SIGTERM)?;
    daemon.wait_for_log("draining")?;
    idle.expect_closed("SHUTDOWN")?;
    busy.request(3, &json!({"verb": "stat", "path": "late"}))?;
    assert_eq!(busy.expect()?.code(), "SHUTDOWN");
    daemon.wait_for_log("path=\"alice/late\" result=\"SHUTDOWN\"")?;
    let is_closed = || Ok(std::net::TcpStream::connect(&daemon.address).is_err());
    wait_until("the listener is closed", is_closed)?;
    busy.send(DATA, 1, b"second half")?;
    busy.send(EOF, 1, b"")?;
    busy.send(TRAILER, 1, &trailer(b"first half, second half"))?;
    assert_eq!(busy.expect()?.kind, ANSWER);
    busy.expect_closed("SHUTDOWN")?;
    assert_eq!(daemon.wait()?, Some(0));
    assert_eq!(std::fs::read(daemon.stored("slow"))?, b"first half, second half");
    Ok(())
}

/// the drain has an end, by time and by a second signal; nothing half shows, and whoever is cut off is told
/// why, wherever his transfer stands; who takes no word is not waited for.
#[test]
fn a_drain_ends_by_time_or_by_a_second_signal() -> TestResult {
    for (drain, twice) in [("1s", false), ("1h", true)] {
        let limits = format!("[limits]\ndrain-timeout = \"{drain}\"");
        let mut daemon = Setup::with(ALL_RIGHTS, &limits)?.start()?;
        let mut busy = Raw::greeted(&daemon)?;
        busy.request(1, &json!({"verb": "put", "path": "never"}))?;
        busy.send(DATA, 1, b"half")?;
        busy.request(2, &json!({"verb": "stat"}))?;
        busy.expect()?;
        let mut within = Raw::greeted(&daemon)?;
        within.request(1, &json!({"verb": "put", "path": "never"}))?;
        within.bytes(&frame(DATA, 1, b"cut in its middle")[..20])?;
        // No socket holds that much.
        std::fs::File::create(daemon.stored("large"))?.set_len(64 << 20)?;
        let mut deaf = Raw::greeted(&daemon)?;
        deaf.request(1, &json!({"verb": "get", "path": "large"}))?;
        let ftc = daemon.ftc_tls().stdin_pipe().stderr(Stdio::piped()).env("FTC_RETRY", "0s");
        let mut ftc = ftc.spawn(["put", "-", ":never"])?;
        let mut stdin = ftc.stdin.take().ok_or("no stdin")?;
        stdin.write_all(&vec![0; 1 << 20])?;
        wait_until("three uploads", || Ok(daemon.staged()? == 3))?;
        daemon.signal(Signal::SIGTERM)?;
        daemon.wait_for_log("draining")?;
        if twice {
            daemon.signal(Signal::SIGTERM)?;
        }
        busy.expect_closed("SHUTDOWN")?;
        within.expect_closed("SHUTDOWN")?;
        let since = Instant::now();
        assert_eq!(daemon.wait()?, Some(0));
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        assert!(!daemon.stored("never").exists());
        let told = ftc.wait_with_output()?;
        let text = String::from_utf8_lossy(&told.stderr);
        assert!(text.contains("the server is stopping; try again later"), "{text}");
        assert_eq!(told.status.code(), Some(3), "{text}");
    }
    Ok(())
}

/// The service manager hears of the start, of reloads and of the stop.
#[test]
fn the_service_manager_is_told() -> TestResult {
    let setup = Setup::new()?;
    let path = setup.path("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let heard = || -> Result<String, Box<dyn std::error::Error>> {
        let mut buffer = [0; 4096];
        let bytes = support::uninterrupted(|| socket.recv(&mut buffer))?;
        Ok(String::from_utf8_lossy(&buffer[..bytes]).into_owned())
    };
    let mut daemon = setup.start_with(&[("NOTIFY_SOCKET", path.as_os_str())])?;
    let mut ready = heard()?;
    while ready.contains("FDSTORE=1") {
        ready = heard()?; // The sockets come first, so that none is lost in a start that fails.
    }
    assert!(
        ready.contains("READY=1") && ready.contains("STATUS=serving") && ready.contains("Landlock"),
        "{ready}"
    );
    daemon.signal(Signal::SIGHUP)?;
    let reloading = heard()?;
    assert!(
        reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="),
        "{reloading}"
    );
    assert!(heard()?.contains("READY=1"));
    let good = std::fs::read_to_string(daemon.path("ftd.toml"))?;
    std::fs::write(daemon.path("ftd.toml"), "nonsense = 1")?;
    daemon.signal(Signal::SIGHUP)?;
    heard()?;
    let refused = heard()?;
    assert!(
        refused.contains("READY=1")
            && refused.contains("last reload refused")
            && refused.contains("nonsense"),
        "{refused}"
    );
    let odd: Vec<String> = (0..25).map(|number| format!("odd{number} = \"\u{fc}\"\n")).collect();
    // systemd ignores what has more than 4,096 bytes, and would wait for READY for ever.
    std::fs::write(daemon.path("ftd.toml"), good.replace("allow =", &(odd.concat() + "allow =")))?;
    daemon.signal(Signal::SIGHUP)?;
    heard()?;
    let long = heard()?;
    assert!(long.contains("READY=1") && long.contains("last reload refused"), "{long}");
    assert!(long.len() < 4096, "{}", long.len());
    daemon.signal(Signal::SIGTERM)?;
    assert!(heard()?.contains("STOPPING=1"));
    assert_eq!(daemon.wait()?, Some(0));
    Ok(())
}

/// S-04, B7: that flushes have failed is told to the service manager soon, and with every status from then on.
#[test]
fn failed_flushes_are_told_to_the_service_manager() -> TestResult {
    let setup = Setup::new()?;
    let (home, notify) = (setup.path("root/alice"), setup.path("notify"));
    std::fs::create_dir(&home)?;
    let home = home.to_str().ok_or("no UTF-8")?;
    let socket = UnixDatagram::bind(&notify)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut command =
        setup.traced(&["-P", home, "-e", "trace=fsync", "-e", "inject=fsync:error=EIO"]);
    command.stdin(std::process::Stdio::null());
    let daemon = setup.start_command(command, &[("NOTIFY_SOCKET", notify.as_os_str())])?;
    let status = |of: &str| -> Result<String, Box<dyn std::error::Error>> {
        loop {
            let mut buffer = [0; 4096];
            let bytes = support::uninterrupted(|| socket.recv(&mut buffer))?;
            let told = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
            if told.contains("STATUS=") && told.contains(of) {
                return Ok(told);
            }
        }
    };
    assert!(!status("serving")?.contains("DEGRADED"));
    let mut raw = Raw::greeted(&daemon)?;
    for id in 1..3 {
        let made = json!({"verb": "mkdir", "path": format!("d{id}")});
        assert_eq!(raw.code_of(id, &made)?, "IO");
    }
    let root = daemon.path("root").display().to_string();
    let told = status("2 failed flushes")?;
    for part in ["STATUS=serving 1 user; DEGRADED: ", &root, "i/o error", "Z"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    daemon.wait_for_log("2 failed flushes")?;
    daemon.signal(Signal::SIGHUP)?;
    let told = status("last reload taken")?;
    assert!(told.contains("DEGRADED: 2 failed flushes"), "{told}");
    Ok(())
}

/// F-03, R-07, R-08: who is too slow is closed, and others are served meanwhile.
#[test]
fn slow_peers_are_closed_and_hold_nobody_up() -> TestResult {
    let limits = "[limits]\nstall-timeout = \"3s\"\nidle-timeout = \"3s\"";
    let daemon = Setup::with(ALL_RIGHTS, limits)?.start()?;
    let idle = Raw::greeted(&daemon)?;
    let mut stalled = Raw::greeted(&daemon)?;
    stalled.request(1, &json!({"verb": "put", "path": "stalled"}))?;
    stalled.send(DATA, 1, b"and then nothing")?;
    let mut trickle = Raw::greeted(&daemon)?;
    trickle.request(1, &json!({"verb": "put", "path": "trickle"}))?;
    let mut half = Raw::greeted(&daemon)?;
    half.request(1, &json!({"verb": "put", "path": "half"}))?;
    half.bytes(&[DATA, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, b'x'])?;
    let began = Instant::now();
    // A byte now and then is no progress.
    while began.elapsed() < PATIENCE && trickle.send(DATA, 1, b"x").is_ok() {
        daemon.ftc_unix().input("others").ok(["put", "-", ":others"])?;
    }
    for (mut peer, name) in
        [(idle, "idle"), (stalled, "stalled"), (trickle, "trickle"), (half, "half")]
    {
        peer.0.set_read_timeout(Some(Duration::from_secs(30)))?;
        loop {
            match peer.receive() {
                Ok(Some(frame)) if frame.id == 0 => {
                    assert_eq!(frame.code(), "TIMEOUT", "{name}");
                    break;
                }
                Ok(Some(_)) => {}
                other => return Err(format!("{name} was not told: {other:?}").into()),
            }
        }
    }
    daemon.assert_nothing_staged()
}

/// an upload that has stalled is closed, whatever else its connection moves: what it was promised must not
/// be kept from others.
#[test]
fn an_upload_that_stalls_is_not_hidden_by_what_moves_beside_it() -> TestResult {
    let daemon = Setup::with(ALL_RIGHTS, "[limits]\nstall-timeout = \"1s\"")?.start()?;
    for beside in ["puts that are given up", "puts that are stored", "a trickle", "questions"] {
        let mut raw = Raw::greeted(&daemon)?;
        let began = Instant::now();
        raw.request(1, &json!({"verb": "put", "path": "stalled", "bytes": 1 << 20}))?;
        raw.send(DATA, 1, b"and then nothing")?;
        if beside == "a trickle" {
            raw.request(2, &json!({"verb": "put", "path": "trickle"}))?;
        }
        let mut last = 2;
        let closed = 'beside: loop {
            last += 2;
            let stat = json!({"verb": "stat"});
            let sent = match beside {
                "puts that are given up" => raw
                    .request(last, &json!({"verb": "put", "path": "tiny"}))
                    .and_then(|()| raw.send(DATA, last, b"tiny"))
                    .and_then(|()| raw.send(CANCEL, last, b"")),
                "puts that are stored" => raw.bytes(&put(last, &json!("tiny"), b"tiny")),
                "a trickle" => raw.send(DATA, 2, b"x"),
                _ => Ok(()),
            };
            // In step with the answers.
            let sent = sent.and_then(|()| raw.request(last + 1, &stat));
            let mut answered = false;
            while !answered {
                match raw.receive()? {
                    Some(frame) if frame.id == 0 => break 'beside frame.code(),
                    Some(frame) => answered = frame.id == last + 1,
                    None => break 'beside format!("{sent:?}"),
                }
            }
            assert!(began.elapsed() < Duration::from_secs(10), "hidden by {beside}");
        };
        assert_eq!(closed, "TIMEOUT", "{beside}");
    }
    daemon.assert_nothing_staged()
}

/// who sends uploads that are open one after another, on a slow line, has not stalled with any of them.
#[test]
fn an_upload_that_waits_for_others_on_a_slow_line_is_left_alone() -> TestResult {
    let daemon = Setup::with(ALL_RIGHTS, "[limits]\nstall-timeout = \"1s\"")?.start()?;
    let mut raw = Raw::greeted(&daemon)?;
    let content = vec![b'x'; 256 << 10];
    for id in 1..5 {
        raw.request(id, &json!({"verb": "put", "path": format!("f{id}"), "bytes": content.len()}))?;
    }
    for id in 1..5 {
        for piece in content.chunks(32 << 10) {
            raw.send(DATA, id, piece)?;
            std::thread::sleep(Duration::from_millis(150)); // The line.
        }
        raw.send(EOF, id, b"")?;
        raw.send(TRAILER, id, &trailer(&content))?;
    }
    for _ in 1..5 {
        assert_eq!(raw.expect()?.kind, ANSWER);
    }
    daemon.assert_nothing_staged()
}

/// time in which the server does not read, because its disk is slow, counts against nobody.
#[test]
fn an_upload_that_the_server_does_not_read_is_left_alone() -> TestResult {
    let setup = Setup::with(ALL_RIGHTS, "[limits]\nstall-timeout = \"1s\"")?;
    let slow = ["-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_enter=1500000"];
    let daemon = setup.start_traced(&slow)?;
    let mut raw = Raw::greeted(&daemon)?;
    let (large, small) = (vec![b'x'; 4 << 20], b"small");
    for (id, bytes) in [(1, large.len()), (2, small.len())] {
        raw.request(id, &json!({"verb": "put", "path": format!("f{id}"), "bytes": bytes}))?;
    }
    for (id, content) in [(1, &large[..]), (2, &small[..])] {
        for piece in content.chunks(1 << 20) {
            raw.send(DATA, id, piece)?;
        }
        raw.send(EOF, id, b"")?;
        raw.send(TRAILER, id, &trailer(content))?;
    }
    for _ in 1..3 {
        assert_eq!(raw.expect()?.kind, ANSWER);
    }
    daemon.assert_nothing_staged()
}

/// One structured line for each transfer.
#[test]
fn a_transfer_leaves_one_line() -> TestResult {
    let daemon = Daemon::start()?;
    daemon.ftc_tls().input("hi\n").ok(["put", "-", ":x"])?;
    daemon.ftc_tls().run(["get", ":missing"])?;
    let log = daemon.wait_for_log("NOT_FOUND")?;
    let line =
        log.lines().find(|line| line.contains("verb=\"put\"")).ok_or("no line for the put")?;
    for field in [
        "user=\"alice\"",
        "peer=\"127.0.0.1:",
        "path=\"alice/x\"",
        "bytes=3",
        "result=\"ok\"",
        "duration_ms=",
        "sha256=98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4",
    ] {
        assert!(line.contains(field), "{field}: {line}");
    }
    Ok(())
}
