//! Goal: a stop, a second stop and a kill lose nothing that was acknowledged and leave nothing half, with
//! fifty transfers under way; whoever comes back sends no more again than he must (B9, X-02, X-03, X-06).
//! Method: real daemon and clients; flushes that take long, so that commits are under way for certain.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::process::Child;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;
use support::proxy::Proxy;
use support::raw::{ANSWER, DATA, Raw, put};
use support::{ALL_RIGHTS, Daemon, PATIENCE, Setup, TestResult, noise, wait_until};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Transfers under way, and puts whose commit is.
const TRANSFERS: usize = 50;
const COMMITS: usize = 10;

/// A count from the environment.
fn count_of(name: &str, without: usize) -> usize {
    std::env::var(name).ok().and_then(|count| count.parse().ok()).unwrap_or(without)
}

fn content(number: usize) -> Vec<u8> {
    noise(20_000 + number, number as u64 + 1)
}

fn name(number: usize) -> String {
    format!("t/{number}")
}

/// Fifty puts of which half is sent, and ten that wait for their flush.
fn under_way() -> Fallible<(Daemon, Vec<Raw>)> {
    let slow = ["-e", "trace=fsync", "-e", "inject=fsync:delay_enter=300000"];
    let daemon = Setup::new()?.start_traced(&slow)?;
    let mut peers = Vec::new();
    for number in 0..TRANSFERS + COMMITS {
        let mut raw = Raw::greeted(&daemon)?;
        let whole = put(1, &json!(name(number)), &content(number));
        raw.bytes(&whole[..10_000])?;
        peers.push(raw);
    }
    wait_until("all are under way", || Ok(daemon.staged()? == TRANSFERS + COMMITS))?;
    for (number, raw) in peers.iter_mut().enumerate().skip(TRANSFERS) {
        raw.bytes(&put(1, &json!(name(number)), &content(number))[10_000..])?;
    }
    Ok((daemon, peers))
}

/// X-02, B9: a stop lets fifty transfers and ten commits finish, and takes nobody new.
#[test]
fn a_stop_under_fifty_transfers_loses_none() -> TestResult {
    let (mut daemon, mut peers) = under_way()?;
    let mut idle = Raw::greeted(&daemon)?;
    idle.code_of(1, &json!({"verb": "stat"}))?;
    daemon.signal(Signal::SIGTERM)?;
    daemon.wait_for_log("draining")?;
    idle.expect_closed("SHUTDOWN")?;
    let is_closed = || Ok(std::net::TcpStream::connect(&daemon.address).is_err());
    wait_until("the listener is closed", is_closed)?;
    for (number, raw) in peers.iter_mut().enumerate().take(TRANSFERS) {
        raw.bytes(&put(1, &json!(name(number)), &content(number))[10_000..])?;
    }
    for (number, raw) in peers.iter_mut().enumerate() {
        let frame = raw.expect()?;
        assert_eq!(frame.kind, ANSWER, "{number}: {}", frame.json());
        raw.expect_closed("SHUTDOWN")?;
    }
    assert_eq!(daemon.wait()?, Some(0));
    for number in 0..peers.len() {
        assert!(std::fs::read(daemon.stored(&name(number)))? == content(number), "{number}");
    }
    daemon.assert_nothing_staged()?;
    println!("assurance: B9 stop: {} of {} transfers finished", peers.len(), peers.len());
    Ok(())
}

/// X-03, B9: a second stop ends at once, and so does a kill: what was acknowledged is there, all else is
/// whole or not there, and the next start sweeps what was staged.
#[test]
fn an_end_at_once_under_fifty_transfers_loses_nothing_acknowledged() -> TestResult {
    let (mut acknowledged, mut ends) = (0, 0);
    for round in 0..count_of("FTD_ENDS", 4) {
        let (mut daemon, mut peers) = under_way()?;
        // The first commits are through, and others are not.
        let first = peers[TRANSFERS].expect()?;
        assert_eq!(first.kind, ANSWER, "{}", first.json());
        if round % 2 == 0 {
            daemon.signal(Signal::SIGKILL)?;
        } else {
            daemon.signal(Signal::SIGTERM)?;
            daemon.wait_for_log("draining")?;
            daemon.signal(Signal::SIGTERM)?;
        }
        daemon.wait()?;
        let mut stored = vec![TRANSFERS];
        for (number, raw) in peers.iter_mut().enumerate() {
            while let Ok(Some(frame)) = raw.receive() {
                stored.extend((frame.kind == ANSWER).then_some(number));
            }
        }
        let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
        let daemon = Setup { dir }.start()?;
        for number in 0..peers.len() {
            match std::fs::read(daemon.stored(&name(number))) {
                Ok(found) => assert!(found == content(number), "{number} is torn"),
                Err(_) => assert!(!stored.contains(&number), "{number} was acknowledged"),
            }
        }
        daemon.assert_nothing_staged()?;
        (acknowledged, ends) = (acknowledged + stored.len(), ends + 1);
    }
    println!(
        "assurance: B9 end at once: 0 of {acknowledged} acknowledged files lost in {ends} ends"
    );
    Ok(())
}

/// B9, X-10: after a kill the client sends again what was not safe, and of what was safe next to nothing.
#[test]
fn what_is_safe_is_not_sent_again_after_a_kill() -> TestResult {
    const BYTES: u64 = 160 << 20;
    let setup = Setup::new()?;
    let mut daemon = setup.start()?;
    let block = noise(1 << 20, 3);
    std::fs::write(daemon.path("large"), block.repeat(usize::try_from(BYTES >> 20)?))?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.request(1, &json!({"verb": "put", "path": "large", "bytes": BYTES, "resumable": true}))?;
    for _ in 0..100 {
        raw.send(DATA, 1, &block)?;
    }
    let stage = daemon.path("root/.ftd-stage");
    // Text, of which the second word is the offset; `docs/architecture.md`, "Durability".
    let safe = || -> Fallible<u64> {
        for entry in std::fs::read_dir(&stage)? {
            let mark = xattr::get(entry?.path(), "user.ftd.upload")?.unwrap_or_default();
            if let Some(offset) = String::from_utf8_lossy(&mark).split(' ').nth(1) {
                return Ok(offset.parse()?);
            }
        }
        Ok(0)
    };
    wait_until("something is safe", || Ok(safe()? > 0))?;
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait()?;
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
    let safe_bytes = {
        let stage = dir.path().join("root/.ftd-stage");
        let entry = std::fs::read_dir(stage)?.next().ok_or("nothing is kept")??;
        let mark = xattr::get(entry.path(), "user.ftd.upload")?.ok_or("no checkpoint")?;
        let mark = String::from_utf8_lossy(&mark).into_owned();
        mark.split(' ').nth(1).ok_or("no offset")?.parse::<u64>()?
    };
    let daemon = Setup { dir }.start()?;
    let proxy = Proxy::start(daemon.path("counted"), &daemon.path("sock"), &[])?;
    daemon.ftc().env("FTC_SERVER", proxy.server()).ok(["put", "large", ":"])?;
    let again = proxy.bytes().0.saturating_sub(BYTES - safe_bytes);
    assert!(again <= 8 << 20, "{again} bytes were sent that were safe, of {safe_bytes}");
    let stored = std::fs::read(daemon.stored("large"))?;
    assert!(stored == std::fs::read(daemon.path("large"))?, "another content");
    println!(
        "assurance: B9 resume: {again} bytes (frames and greetings included) sent again of the \
         {} MiB that were safe; the bar is 8 MiB",
        safe_bytes >> 20
    );
    Ok(())
}

/// Clients, ended when dropped.
struct Clients(Vec<Child>);

impl Drop for Clients {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill(); // It may have ended.
            let _ = child.wait();
        }
    }
}

/// a kill under many clients, none of whom is done, and who all come back: each file is stored, once.
/// `FTD_CLIENTS` says how many; all hang in their commits, so that there are no more than one user may have
/// threads.
#[test]
fn many_clients_come_back_after_a_kill_and_store_once() -> TestResult {
    const THREADS: usize = 256;
    let (clients, begun) = (count_of("FTD_CLIENTS", 24).min(THREADS * 3 / 4), Instant::now());
    let limits = format!(
        "[limits]\nfile-workers = {THREADS}\nconnections = {0}\nconnections-per-user = {0}\n\
         connections-per-source = {0}",
        2 * clients + 8
    );
    let setup = Setup::with(ALL_RIGHTS, &limits)?;
    std::fs::create_dir(setup.path("root/alice"))?;
    std::fs::write(setup.path("file"), content(0))?;
    setup.ftd(&["fingerprint"])?; // So that making the host key does not hang.
    let hang = ["-e", "trace=fsync", "-e", "inject=fsync:delay_enter=600000000"];
    let mut daemon = setup.start_traced(&hang)?;
    let mut running = Clients(Vec::new());
    for number in 0..clients {
        let ftc = daemon.ftc_unix().env("FTC_RETRY", "5min");
        running.0.push(ftc.spawn(["-q", "put", "file", &format!(":c/{number}")])?);
    }
    // Only who was connected comes back.
    while daemon.staged()? < clients {
        assert!(begun.elapsed() < PATIENCE * 30, "the clients do not begin");
        support::pause();
    }
    // The daemon, and then strace, which would wait for the end of its delays.
    let strace = nix::unistd::Pid::from_raw(i32::try_from(daemon.child_id())?);
    daemon.signal(Signal::SIGKILL)?;
    let gone = std::path::PathBuf::from(format!("/proc/{}", daemon.pid()));
    nix::sys::signal::kill(strace, Signal::SIGKILL)?;
    daemon.wait()?;
    wait_until("the daemon is gone", || Ok(!gone.exists()))?;
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
    let daemon = Setup { dir }.start()?;
    for (number, child) in running.0.iter_mut().enumerate() {
        let code = child.wait()?.code();
        let err = child.stderr.take().map(support::read_all).unwrap_or_default();
        assert_eq!(code, Some(0), "client {number}: {}", String::from_utf8_lossy(&err));
        assert!(std::fs::read(daemon.stored(&format!("c/{number}")))? == content(0), "{number}");
    }
    let log = daemon.wait_for_log_times("verb=\"put\"", clients)?;
    let puts: Vec<_> = log.lines().filter(|line| line.contains("verb=\"put\"")).collect();
    for number in 0..clients {
        let path = format!("path=\"alice/c/{number}\"");
        let times = puts.iter().filter(|line| line.contains(&path)).count();
        assert_eq!(times, 1, "{path}: {puts:#?}");
    }
    println!(
        "assurance: X-06 restart: {clients} clients in the middle of a put came back after a kill, and \
         each stored once"
    );
    daemon.assert_nothing_staged()
}
