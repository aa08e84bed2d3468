//! Goal: a stop, a second stop and a kill lose nothing that was acknowledged and leave nothing half, with
//! fifty transfers under way; whoever comes back sends no more again than he must (B9, X-02, X-03, X-06).
//! Method: real daemon and clients; flushes that take long, so that commits are under way for certain.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

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

/// a kill under many clients, who all come back: each file is stored, once.
#[test]
fn many_clients_come_back_after_a_kill_and_store_once() -> TestResult {
    let (clients, begun) = (count_of("FTD_CLIENTS", 24), Instant::now());
    let limits = format!(
        "[limits]\nconnections = {0}\nconnections-per-user = {0}\nconnections-per-source = {0}",
        2 * clients + 8
    );
    let delay_us = (24_000_000 / clients).clamp(200_000, 2_000_000);
    let slow = format!("inject=fsync:delay_enter={delay_us}");
    let slow = ["-e", "trace=fsync", "-e", &slow];
    let mut daemon = Setup::with(ALL_RIGHTS, &limits)?.start_traced(&slow)?;
    std::fs::write(daemon.path("file"), content(0))?;
    let running: Vec<_> = (0..clients)
        .map(|number| {
            let target = format!(":c/{number}");
            let ftc = daemon.ftc_unix().env("FTC_RETRY", "2min");
            ftc.spawn(["-q", "put", "file", &target])
        })
        .collect::<Result<_, _>>()?;
    // Only who was connected comes back; so each must have begun.
    let stored = |daemon: &Daemon| std::fs::read_dir(daemon.stored("c")).map_or(0, Iterator::count);
    while stored(&daemon) + daemon.staged()? < clients {
        assert!(begun.elapsed() < PATIENCE * 30, "the clients do not begin");
        std::thread::yield_now();
    }
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait()?;
    let before = daemon.wait_for_log("[end of log]")?;
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
    let daemon = Setup { dir }.start()?;
    for (number, child) in running.into_iter().enumerate() {
        let output = child.wait_with_output()?;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "client {number}: {err}");
        assert!(std::fs::read(daemon.stored(&format!("c/{number}")))? == content(0), "{number}");
    }
    let after = daemon.log();
    let stores = |log: &str| -> Vec<usize> {
        let is_store = |line: &&str| line.contains("verb=\"put\"") && line.contains("\"ok\"");
        let lines: Vec<_> = log.lines().filter(is_store).collect();
        let of = |number: usize| format!("path=\"alice/c/{number}\"");
        let count = |path: String| lines.iter().filter(|line| line.contains(&path)).count();
        (0..clients).map(of).map(count).collect()
    };
    let (before, after) = (stores(&before), stores(&after));
    let twice: Vec<_> = (0..clients)
        .filter(|&number| after[number] > 1 || (before[number] > 0 && after[number] > 0))
        .collect();
    assert!(twice.is_empty(), "stored twice: {twice:?}");
    let again = after.iter().sum::<usize>();
    println!(
        "assurance: X-06 restart: {clients} clients came back after a kill, {again} of them stored \
         afterwards, none twice"
    );
    daemon.assert_nothing_staged()
}
