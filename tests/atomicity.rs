//! Goal: under a name there is always one complete content, whoever dies or races meanwhile.
//! Method: real processes killed at many points while readers watch the file from outside and through
//! the daemon; every content carries its own proof.
#![allow(clippy::disallowed_methods, reason = "tests watch the served files from outside")]

mod support;

use std::collections::HashSet;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use support::raw::{ANSWER, DATA, EOF, Raw, TRAILER, put};
use support::{Daemon, Setup, TestResult, noise, sha256};

/// A content that proves itself: its own digest in front.
fn proven(bytes: usize, seed: u64) -> Vec<u8> {
    let body = noise(bytes, seed);
    [sha256(&body).into_bytes(), body].concat()
}

fn is_whole(content: &[u8]) -> bool {
    content.len() >= 64 && sha256(&content[64..]).as_bytes() == &content[..64]
}

/// B2: the client is killed at many points of an overwrite while a reader polls the target; `FTD_KILLS`
/// says how often.
#[test]
fn a_killed_client_leaves_the_old_file_or_the_new_one() -> TestResult {
    let daemon = Daemon::start()?;
    let kills = std::env::var("FTD_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(40);
    let old = proven(3 << 20, 1);
    daemon.ftc_unix().input(old.clone()).ok(["put", "-", ":f"])?;
    let stop = AtomicBool::new(false);
    let (reads, torn) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| -> TestResult {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(content) = std::fs::read(daemon.stored("f")) {
                    reads.fetch_add(1, Ordering::Relaxed);
                    torn.fetch_add(usize::from(!is_whole(&content)), Ordering::Relaxed);
                }
            }
        });
        let outcome = kill_many(&daemon, kills);
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    let reads = reads.load(Ordering::Relaxed);
    assert!(reads > 20);
    assert_eq!(torn.load(Ordering::Relaxed), 0, "torn reads");
    println!("assurance: B2 killed clients: 0 torn in {kills} kills and {reads} reads beside them");
    daemon.assert_nothing_staged()
}

/// The client gets part of its input and is killed; the part grows from nothing to everything.
fn kill_many(daemon: &Daemon, kills: usize) -> TestResult {
    let new = proven(4 << 20, 2);
    for round in 0..=kills {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ftc"));
        command
            .args(["-q", "put", "-", ":f"])
            .env_clear()
            .env("HOME", daemon.dir.path())
            .env(
                "FTC_SERVER",
                if round % 2 == 0 { daemon.unix_server() } else { daemon.address.clone() },
            )
            .env("FTC_ACCEPT_NEW", "1")
            .env("FTC_IDENTITY", daemon.path("key"))
            .env("FTC_KNOWN_HOSTS", daemon.path("known_hosts"))
            .stdin(Stdio::piped());
        let mut client = command.spawn()?;
        let mut pipe = client.stdin.take().ok_or("no stdin")?;
        pipe.write_all(&new[..new.len() * round / kills])?;
        if round == kills {
            drop(pipe);
            assert!(client.wait()?.success());
        } else {
            client.kill()?;
            client.wait()?;
        }
    }
    assert_eq!(std::fs::read(daemon.stored("f"))?, new);
    Ok(())
}

/// The daemon is killed in the middle of many puts: what was acknowledged is there and whole.
#[test]
fn a_killed_daemon_has_what_it_acknowledged() -> TestResult {
    let mut daemon = Daemon::start()?;
    for round in 0..10 {
        let mut raw = Raw::greeted(&daemon)?;
        let mut acknowledged = Vec::new();
        for id in 1..=60_u32 {
            let name = format!("r{round}/f{id}");
            raw.bytes(&put(id, &json!(name), &proven(id as usize * 700, u64::from(id))))?;
        }
        for _ in 0..=round * 5 {
            let frame = raw.expect()?;
            assert_eq!(frame.kind, ANSWER, "{}", frame.json());
            acknowledged.push(format!("r{round}/f{}", frame.id));
        }
        daemon.signal(nix::sys::signal::Signal::SIGKILL)?;
        daemon.wait()?;
        for name in acknowledged {
            assert!(is_whole(&std::fs::read(daemon.stored(&name))?), "{name}");
        }
        for entry in std::fs::read_dir(daemon.stored(&format!("r{round}")))? {
            assert!(is_whole(&std::fs::read(entry?.path())?), "a torn file is visible");
        }
        let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
        daemon = Setup { dir }.start()?;
        daemon.assert_nothing_staged()?;
    }
    Ok(())
}

/// C-01: of many puts to one new name without overwriting exactly one is stored.
#[test]
fn one_of_many_creators_wins() -> TestResult {
    let daemon = Daemon::start()?;
    for round in 0..20 {
        let name = format!("new{round}");
        let outcomes = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..6_u64)
                .map(|writer| {
                    let (daemon, name) = (&daemon, &name);
                    scope.spawn(move || -> Result<(u64, String), String> {
                        let put_one = || -> Result<String, Box<dyn std::error::Error>> {
                            let mut raw = Raw::greeted(daemon)?;
                            let content = proven(50_000, writer + 1);
                            raw.request(
                                1,
                                &json!({"verb": "put", "path": name, "replace": false}),
                            )?;
                            let rest = put(1, &json!(name), &content);
                            let skip = 12 + json!({"verb": "put", "path": name}).to_string().len();
                            raw.bytes(&rest[skip..])?;
                            Ok(raw.expect()?.code())
                        };
                        put_one().map(|code| (writer, code)).map_err(|error| error.to_string())
                    })
                })
                .collect();
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap_or(Err("panicked".to_owned())))
                .collect::<Result<Vec<_>, _>>()
        })?;
        let winners: Vec<_> = outcomes.iter().filter(|(_, code)| code == "frame 8").collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert!(
            outcomes.iter().all(|(_, code)| code == "frame 8" || code == "EXISTS"),
            "{outcomes:?}"
        );
        assert_eq!(std::fs::read(daemon.stored(&name))?, proven(50_000, winners[0].0 + 1));
    }
    daemon.assert_nothing_staged()
}

/// C-02: while two writers replace a file, each of many gets at once is one complete version of theirs.
#[test]
fn readers_see_complete_versions_only() -> TestResult {
    const GETS: usize = 20;
    let daemon = Daemon::start()?;
    let versions: Vec<Vec<u8>> = (1..=8)
        .zip(1_usize..)
        .map(|(seed, count)| proven(200_000 + count * 10_000, seed))
        .collect();
    let known: HashSet<&[u8]> = versions.iter().map(Vec::as_slice).collect();
    Raw::greeted(&daemon)?.bytes(&put(1, &json!("f"), &versions[0]))?;
    while !daemon.stored("f").exists() {
        support::pause();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> TestResult {
        for half in versions.chunks(4) {
            let (daemon, stop) = (&daemon, &stop);
            scope.spawn(move || {
                let Ok(mut raw) = Raw::greeted(daemon) else { return };
                for id in 1_u32.. {
                    let version = &half[id as usize % half.len()];
                    let stored =
                        raw.bytes(&put(id, &json!("f"), version)).and_then(|()| raw.expect());
                    if stop.load(Ordering::Relaxed) || stored.is_err() {
                        return;
                    }
                }
            });
        }
        let read_many = || -> TestResult {
            let mut seen = HashSet::new();
            for _ in 0..10 {
                let mut readers =
                    (0..GETS).map(|_| Raw::greeted(&daemon)).collect::<Result<Vec<_>, _>>()?;
                for reader in &mut readers {
                    reader.request(1, &json!({"verb": "get", "path": "f"}))?;
                }
                for reader in &mut readers {
                    let content = content_of(reader)?;
                    assert!(known.contains(&*content), "a mixture of {} bytes", content.len());
                    seen.insert(content.len());
                }
            }
            assert!(seen.len() > 1, "the writers wrote");
            Ok(())
        };
        let outcome = read_many();
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

/// What a get gives, to its end.
fn content_of(raw: &mut Raw) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut content = Vec::new();
    loop {
        let frame = raw.expect()?;
        match frame.kind {
            ANSWER | EOF => {}
            DATA => content.extend(frame.payload),
            TRAILER => return Ok(content),
            _ => return Err(frame.code().into()),
        }
    }
}

/// C-03: a get goes on with the file that it opened when somebody renames or removes that meanwhile.
#[test]
fn a_get_finishes_what_it_opened_whatever_becomes_of_the_name() -> TestResult {
    let daemon = Daemon::start()?;
    let content = noise(24 << 20, 9);
    for (change, why) in [
        (json!({"verb": "rename", "path": "f", "to": "g"}), "renamed"),
        (json!({"verb": "remove", "path": "f"}), "removed"),
    ] {
        let mut changer = Raw::greeted(&daemon)?;
        changer.bytes(&put(1, &json!("f"), &content))?;
        assert_eq!(changer.expect()?.kind, ANSWER);
        let mut reader = Raw::greeted(&daemon)?;
        reader.request(1, &json!({"verb": "get", "path": "f"}))?;
        assert_eq!(reader.expect()?.kind, ANSWER); // It is open; the rest does not fit the socket.
        changer.request(2, &change)?;
        assert_eq!(changer.expect()?.kind, ANSWER, "{why}");
        let mut got = Vec::new();
        let end = loop {
            let frame = reader.expect()?;
            if frame.kind != DATA {
                break frame;
            }
            got.extend(frame.payload);
        };
        assert_eq!(end.kind, EOF, "{why}: {}", end.json());
        assert_eq!(reader.expect()?.kind, TRAILER, "{why}");
        assert!(got == content, "{why}: another content");
    }
    Ok(())
}
