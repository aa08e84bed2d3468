//! Goal: whatever cuts a transfer, the client goes on where it was safe and moves nothing else again.
//! Method: the real client through a proxy that cuts and counts; killed clients, killed daemons.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::path::Path;
use std::process::Child;
use std::time::Instant;

use serde_json::Value;
use support::proxy::Proxy;
use support::{Daemon, PATIENCE, Setup, TestResult, noise, sha256, wait_for_checkpoint};

/// Bytes between two checkpoints.
const STEP: u64 = 64 << 20;
/// Bytes of frames, answers and greetings that a connection may cost beside content.
const TALK: u64 = 1 << 20;

/// Content whose every mebibyte is another one.
fn content(bytes: usize, seed: u64) -> Vec<u8> {
    let block = noise(1 << 20, seed);
    let mut out = Vec::with_capacity(bytes + block.len());
    for number in 0_u64.. {
        if out.len() >= bytes {
            break;
        }
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&block[8..]);
    }
    out.truncate(bytes);
    out
}

fn done(out: &[u8]) -> Result<Value, Box<dyn std::error::Error>> {
    for line in std::str::from_utf8(out)?.lines() {
        let event: Value = serde_json::from_str(line)?;
        if event["event"] == "done" {
            return Ok(event);
        }
    }
    Err("no done event".into())
}

/// Waits until some file below `directory` has so many bytes.
fn wait_for_bytes(directory: &Path, bytes: u64) -> TestResult {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let files = std::fs::read_dir(directory)?.flatten();
        let large = files.filter_map(|file| file.metadata().ok()).any(|meta| meta.len() >= bytes);
        if large {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("nothing in {} got to {bytes} bytes", directory.display()).into());
        }
        support::pause();
    }
}

fn kill(mut child: Child) -> TestResult {
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Cuts a put and a get at these offsets, counted from each connection's own start.
fn survives(bytes: usize, cuts: &[u64]) -> TestResult {
    let daemon = Daemon::start()?;
    let content = content(bytes, 1);
    std::fs::write(daemon.path("large"), &content)?;
    std::fs::create_dir(daemon.path("in"))?;
    let extra = (cuts.len() as u64 + 1) * TALK + cuts.len() as u64 * STEP;
    for (words, name) in [(&["put", "large"][..], "up"), (&["get", ":large", "in/"], "down")] {
        let proxy = Proxy::start(daemon.path(name), &daemon.path("sock"), cuts)?;
        let ftc = daemon.ftc().env("FTC_SERVER", proxy.server()).env("FTC_RETRY", "1min");
        let ran = ftc.ok([words, &["--json"]].concat())?;
        assert_eq!(done(&ran.out)?["sha256"], sha256(&content).as_str());
        assert_eq!(proxy.connections(), cuts.len() + 1, "{name}");
        let (up, down) = proxy.bytes();
        let moved = if name == "up" { up } else { down };
        assert!(moved <= bytes as u64 + extra, "{name}: {moved} bytes for {bytes} and {cuts:?}");
    }
    assert_eq!(sha256(&std::fs::read(daemon.stored("large"))?), sha256(&content));
    assert_eq!(sha256(&std::fs::read(daemon.path("in/large"))?), sha256(&content));
    assert_eq!(std::fs::read_dir(daemon.path("in"))?.count(), 1, "no partial file is left");
    assert_eq!(std::fs::read_dir(daemon.path(".local/state/ftc/uploads"))?.count(), 0);
    daemon.assert_nothing_staged()
}

#[test]
fn a_lost_connection_moves_at_most_one_checkpoint_again() -> TestResult {
    survives(300 << 20, &[70 << 20, 1000, 90 << 20, 66 << 20])
}

#[test]
#[ignore = "a gibibyte and twenty cuts each way: a minute or two; run with: make long-test"]
fn twenty_cuts_of_a_gibibyte_move_at_most_twenty_checkpoints_again() -> TestResult {
    let cuts: Vec<u64> = (0..20_u64).map(|n| (65 << 20) + (n * 7_919_993) % (20 << 20)).collect();
    survives(2 << 30, &cuts)
}

/// A client that was killed goes on with the same command, and so does the next after another address.
#[test]
fn a_killed_client_goes_on_with_the_same_command() -> TestResult {
    let daemon = Daemon::start()?;
    let content = content(200 << 20, 2);
    std::fs::write(daemon.path("large"), &content)?;
    let child = daemon.ftc_unix().spawn(["put", "--bwlimit", "200MiB", "large"])?;
    wait_for_bytes(&daemon.path("root/.ftd-stage"), 80 << 20)?;
    kill(child)?;
    let ran = daemon.ftc_unix().env("FTC_RETRY", "20s").ok(["put", "--json", "large"])?;
    let told = done(&ran.out)?;
    assert!(told["resumed"].as_u64() >= Some(16 << 20), "{told}");
    assert_eq!(told["sha256"], sha256(&content).as_str());
    std::fs::create_dir(daemon.path("in"))?;
    let child = daemon.ftc_unix().spawn(["get", "--bwlimit", "100MiB", ":large", "in/"])?;
    wait_for_checkpoint(&daemon.path("in"), STEP)?;
    kill(child)?;
    let ran = daemon.ftc_unix().ok(["get", "--json", ":large", "in/"])?;
    let told = done(&ran.out)?;
    assert!(told["resumed"].as_u64() >= Some(STEP), "{told}");
    assert_eq!(sha256(&std::fs::read(daemon.path("in/large"))?), sha256(&content));
    Ok(())
}

/// An interruption says with which line to go on, and does not show the file.
#[test]
fn an_interrupted_client_prints_the_line_that_resumes() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::write(daemon.path("large file"), content(100 << 20, 3))?;
    let child = daemon.ftc_unix().spawn(["put", "--bwlimit", "60MiB", "large file", ":l"])?;
    wait_for_bytes(&daemon.path("root/.ftd-stage"), STEP + (4 << 20))?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id())?),
        nix::sys::signal::Signal::SIGINT,
    )?;
    let output = child.wait_with_output()?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(11), "{told}");
    assert!(told.contains("put --bwlimit 60MiB 'large file' :l\n"), "{told}");
    assert!(!daemon.stored("l").exists());
    // It is a line for a shell.
    let line = told.lines().last().unwrap_or_default();
    let again = std::process::Command::new("sh")
        .args(["-c", &format!("{line} --json")])
        .env_clear()
        .env("HOME", daemon.dir.path())
        .env("FTC_SERVER", daemon.unix_server())
        .current_dir(daemon.dir.path())
        .output()?;
    assert!(done(&again.stdout)?["resumed"].as_u64() >= Some(STEP), "{again:?}");
    // Standard input cannot be had a second time.
    let mut child = daemon.ftc_unix().stdin_pipe().spawn(["put", "-", ":x"])?;
    let _open = child.stdin.take();
    wait_for_bytes(&daemon.path("root/.ftd-stage"), 0)?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id())?),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    let output = child.wait_with_output()?;
    assert_eq!(output.status.code(), Some(11));
    assert!(!String::from_utf8(output.stderr)?.contains("goes on"));
    Ok(())
}

/// Whoever tried in vain for as long as it may is told that the same command goes on.
#[test]
fn a_server_that_stays_away_leaves_what_goes_on() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::write(daemon.path("large"), content(100 << 20, 3))?;
    daemon.ftc_unix().ok(["put", "large", ":there"])?;
    std::fs::create_dir(daemon.path("in"))?;
    let stage = daemon.path("root/.ftd-stage");
    let put = ["put", "--bwlimit", "60MiB", "large", ":l"];
    let get = ["get", "--bwlimit", "60MiB", ":there", "in/"];
    let putting = daemon.ftc_unix().env("FTC_RETRY", "1s").spawn(put)?;
    let getting = daemon.ftc_unix().env("FTC_RETRY", "1s").spawn(get)?;
    wait_for_bytes(&stage, STEP + (4 << 20))?;
    wait_for_bytes(&daemon.path("in"), STEP + (4 << 20))?;
    daemon.signal(nix::sys::signal::Signal::SIGKILL)?;
    for child in [putting, getting] {
        let output = child.wait_with_output()?;
        let told = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(3), "{told}");
        assert!(told.contains("hint: the same command goes on where it stopped"), "{told}");
    }
    // Nothing of these was ever under way.
    for words in [put, get] {
        let ran = daemon.ftc_unix().run(words)?;
        assert!(ran.code == Some(3) && !ran.err.contains("goes on"), "{}", ran.err);
    }
    Ok(())
}

/// L-10: a file that changes while it is sent is never stored with parts of both, whatever its size.
#[test]
fn what_changes_while_it_is_sent_is_not_stored() -> TestResult {
    use std::os::unix::fs::FileExt as _;
    let daemon = Daemon::start()?;
    std::fs::write(daemon.path("large"), content(40 << 20, 4))?;
    for words in
        [&["put", "--bwlimit", "40MiB", "large"][..], &["put", "-r", "--bwlimit", "40MiB", "large"]]
    {
        let child = daemon.ftc_unix().spawn(words)?;
        wait_for_bytes(&daemon.path("root/.ftd-stage"), 4 << 20)?;
        // The size stays, and what was sent already changes.
        std::fs::File::options().write(true).open(daemon.path("large"))?.write_all_at(b"new", 0)?;
        let output = child.wait_with_output()?;
        let told = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(1), "{words:?}: {told}");
        assert!(told.contains("changed") && told.contains("hint: "), "{words:?}: {told}");
        assert!(!daemon.stored("large").exists());
    }
    daemon.ftc_unix().ok(["put", "large"])?;
    assert_eq!(std::fs::read(daemon.stored("large"))?, std::fs::read(daemon.path("large"))?);
    daemon.assert_nothing_staged()
}

/// A file that changed meanwhile is not glued to what was there.
#[test]
fn what_changed_meanwhile_begins_anew() -> TestResult {
    let daemon = Daemon::start()?;
    let (old, new) = (content(100 << 20, 4), content(90 << 20, 5));
    std::fs::write(daemon.path("large"), &old)?;
    let child = daemon.ftc_unix().spawn(["put", "--bwlimit", "100MiB", "large"])?;
    wait_for_bytes(&daemon.path("root/.ftd-stage"), 30 << 20)?;
    kill(child)?;
    std::fs::write(daemon.path("large"), &new)?;
    let ran = daemon.ftc_unix().env("FTC_RETRY", "20s").ok(["put", "--json", "large"])?;
    let told = done(&ran.out)?;
    assert_eq!((&told["resumed"], &told["sha256"]), (&0.into(), &sha256(&new).as_str().into()));
    std::fs::create_dir(daemon.path("in"))?;
    let child = daemon.ftc_unix().spawn(["get", "--bwlimit", "50MiB", ":large", "in/"])?;
    wait_for_bytes(&daemon.path("in"), 80 << 20)?;
    kill(child)?;
    std::fs::write(daemon.path("large"), &old)?;
    daemon.ftc_unix().ok(["put", "large"])?;
    let told = done(&daemon.ftc_unix().ok(["get", "--json", ":large", "in/"])?.out)?;
    assert_eq!((&told["resumed"], &told["sha256"]), (&0.into(), &sha256(&old).as_str().into()));
    assert_eq!(std::fs::read_dir(daemon.path("in"))?.count(), 1);
    Ok(())
}

#[test]
fn no_resume_begins_anew_and_keeps_nothing() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::write(daemon.path("large"), content(100 << 20, 6))?;
    let child = daemon.ftc_unix().spawn(["put", "--no-resume", "--bwlimit", "100MiB", "large"])?;
    wait_for_bytes(&daemon.path("root/.ftd-stage"), 30 << 20)?;
    kill(child)?;
    daemon.assert_nothing_staged()?;
    let told = done(&daemon.ftc_unix().ok(["put", "--json", "large"])?.out)?;
    assert_eq!(told["resumed"], 0);
    Ok(())
}

/// X-07: only the answer got lost: the file is there, is found to be, and is not stored again, whether or
/// not it may be replaced.
#[test]
fn a_lost_answer_is_recognised_as_done() -> TestResult {
    let daemon = Daemon::start()?;
    let small = content(30_000, 7);
    std::fs::write(daemon.path("small"), &small)?;
    // The proxy lets all of the put through, and nothing of its answer.
    let greeting = {
        let proxy = Proxy::start(daemon.path("probe"), &daemon.path("sock"), &[])?;
        daemon.ftc().env("FTC_SERVER", proxy.server()).ok(["put", "small", ":probe"])?;
        proxy.bytes()
    };
    let before_answer = greeting.0 + greeting.1 - 100;
    for (name, words) in
        [("probe2", &["put", "--json"][..]), ("probe3", &["put", "--json", "--no-clobber"])]
    {
        let path = daemon.path(&format!("lossy-{name}"));
        let proxy = Proxy::start(path, &daemon.path("sock"), &[before_answer])?;
        let target = format!(":{name}");
        let ran = daemon
            .ftc()
            .env("FTC_SERVER", proxy.server())
            .env("FTC_RETRY", "20s")
            .ok(words.iter().copied().chain(["small", &target]))?;
        let told = done(&ran.out)?;
        assert_eq!((&told["confirmed"], proxy.connections()), (&true.into(), 2), "{told}");
        assert_eq!(std::fs::read(daemon.stored(name))?, small);
        let log = daemon.wait_for_log(&format!("path=\"alice/{name}\""))?;
        let stores = log.lines().filter(|line| line.contains("\"put\"") && line.contains(name));
        assert_eq!(stores.count(), 1, "{log}");
    }
    Ok(())
}

/// Many clients of one address crowd each other out before the server knows them: that is tried again, and a
/// server that does nothing else is given up soon.
#[test]
fn who_is_cut_before_hello_comes_again_a_few_times() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::write(daemon.path("small"), "content")?;
    std::fs::write(daemon.path("more"), "content")?;
    for (name, words) in [
        ("up", &["put", "small"][..]),
        ("down", &["get", ":small", "got"]),
        ("two", &["put", "small", "more", ":x/"]),
        ("list", &["ls"]),
    ] {
        let proxy = Proxy::start(daemon.path(name), &daemon.path("sock"), &[0, 10, 0])?;
        daemon.ftc().env("FTC_SERVER", proxy.server()).env("FTC_RETRY", "1min").ok(words)?;
        assert_eq!(proxy.connections(), 4, "{name}");
    }
    let proxy = Proxy::start(daemon.path("never"), &daemon.path("sock"), &[0; 50])?;
    let ran = daemon
        .ftc()
        .env("FTC_SERVER", proxy.server())
        .env("FTC_RETRY", "1min")
        .run(["stat", ":small"])?;
    assert_eq!((ran.code, proxy.connections()), (Some(3), 7), "{}", ran.err);
    assert!(ran.err.contains("the connection was cut"), "{}", ran.err);
    let proxy = Proxy::start(daemon.path("once"), &daemon.path("sock"), &[0; 50])?;
    let ran = daemon
        .ftc()
        .env("FTC_SERVER", proxy.server())
        .env("FTC_RETRY", "0s")
        .run(["stat", ":small"])?;
    assert_eq!((ran.code, proxy.connections()), (Some(3), 1), "{}", ran.err);
    Ok(())
}

/// A daemon that is killed in the middle comes back, and the same run of the client goes on.
#[test]
fn a_restarted_daemon_is_waited_for() -> TestResult {
    let setup = Setup::new()?;
    let (root, config) = (setup.path("root"), setup.path("ftd.toml"));
    let mut daemon = setup.start()?;
    let content = content(200 << 20, 8);
    std::fs::write(daemon.path("large"), &content)?;
    let child = daemon.ftc_unix().env("FTC_RETRY", "1min").spawn([
        "put",
        "--json",
        "--bwlimit",
        "80MiB",
        "large",
    ])?;
    wait_for_checkpoint(&root.join(".ftd-stage"), STEP)?;
    daemon.signal(nix::sys::signal::Signal::SIGKILL)?;
    daemon.wait()?;
    let mut again = std::process::Command::new(env!("CARGO_BIN_EXE_ftd"))
        .arg("serve")
        .arg("--config")
        .arg(config)
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let output = child.wait_with_output()?;
    kill_daemon(&mut again)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = done(&output.stdout)?;
    assert!(told["resumed"].as_u64() >= Some(STEP), "{told}");
    assert_eq!(told["sha256"], sha256(&content).as_str());
    Ok(())
}

/// A daemon that does not come back ends a whole tree when patience ends, once and not for each file.
#[test]
fn a_daemon_that_stays_away_ends_a_tree_and_is_told_of_once() -> TestResult {
    let mut daemon = Daemon::start()?;
    std::fs::create_dir(daemon.path("tree"))?;
    for name in 0..600 {
        std::fs::write(daemon.path("tree").join(format!("{name:03}")), noise(20_000, name))?;
    }
    let how = ["put", "-r", "--bwlimit", "4MiB", "tree"];
    let child = daemon.ftc_unix().env("FTC_RETRY", "500ms").spawn(how)?;
    let begun = Instant::now();
    let arrived = || std::fs::read_dir(daemon.stored("tree")).map_or(0, Iterator::count);
    while arrived() < 20 && begun.elapsed() < PATIENCE {
        support::pause();
    }
    daemon.signal(nix::sys::signal::Signal::SIGKILL)?;
    daemon.wait()?;
    let output = child.wait_with_output()?;
    let err = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(10), "{err}");
    assert_eq!(err.lines().filter(|line| line.starts_with("ftc: ")).count(), 1, "{err}");
    Ok(())
}

fn kill_daemon(daemon: &mut Child) -> TestResult {
    daemon.kill()?;
    daemon.wait()?;
    Ok(())
}
