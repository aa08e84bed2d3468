//! Goal: whatever befalls network, disk, clock and machines, what was acknowledged is stored, what is stored
//! was sent whole, every request ends once, all of them end, and nothing is left (catalogue C, F, L, X).
//! Method: worlds that a seed decides (see `world`, `actor`, `tap`); faults planted in doubles of the parts
//! around the programs show that each law can be seen broken. A seed that finds something is printed, and
//! kept in `seeds.txt`, whose seeds run first from then on.
#![allow(clippy::disallowed_methods, reason = "tests read and keep seeds")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::link::{Nature, link};
use super::sim::{Outcome, Planted, Sim};
use super::world::run;
use crate::client::simulated::{Meter, line};
use crate::proto::{Header, Kind, PutRequest, Request, WirePath};
use crate::transfer::Part;
use crate::wire::{Socket, Stream as _};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Worlds on every run of the tests.
const FEW: u64 = 40;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

/// The seeds that once found something.
fn kept() -> BTreeSet<u64> {
    let lines = include_str!("seeds.txt").lines();
    lines.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

fn keep(seed: u64, breach: &str) -> TestResult {
    if kept().contains(&seed) {
        return Ok(());
    }
    let path = top().join("src/simulation/seeds.txt");
    let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
    Ok(writeln!(file, "{seed} {}", breach.lines().next().unwrap_or_default())?)
}

/// One world; a panic in it is a breach like any other.
fn outcome(seed: u64, planted: Planted) -> Outcome {
    catch_unwind(|| run(seed, planted, false)).unwrap_or_else(|_| Outcome {
        breaches: vec!["a panic, which is told above".to_owned()],
        trace: 0,
        events: 0,
        faults: 0,
        elapsed: Duration::ZERO,
    })
}

/// Lets worlds run on all processors, and tells what they came to.
fn worlds(count: u64) -> TestResult {
    let seeds: Vec<u64> = kept().into_iter().chain(0..count).collect();
    let (next, all) = (Mutex::new(seeds.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = next.lock().ok().and_then(|mut next| next.next()) {
                    let outcome = outcome(*seed, Planted::Nothing);
                    if let Ok(mut all) = all.lock() {
                        all.push((*seed, outcome));
                    }
                }
            });
        }
    });
    let all = all.into_inner().map_err(|_| "a panic")?;
    let sum = |part: fn(&Outcome) -> u64| all.iter().map(|(_, outcome)| part(outcome)).sum::<u64>();
    let hours = sum(|outcome| outcome.elapsed.as_secs()) / 3600;
    let found: Vec<_> = all.iter().filter(|(_, outcome)| !outcome.breaches.is_empty()).collect();
    println!(
        "assurance: simulation: {} seeds, {} events, {hours} h of virtual time, {} faults, {} finds",
        all.len(),
        sum(|outcome| outcome.events),
        sum(|outcome| outcome.faults),
        found.len()
    );
    for (seed, outcome) in &found {
        println!("seed {seed}:");
        outcome.breaches.iter().take(5).for_each(|breach| println!("  {breach}"));
        println!("  see all of it with: FTD_SEED={seed} make sim-test");
        keep(*seed, &outcome.breaches[0])?;
    }
    assert!(found.is_empty(), "{} seeds of {} found something", found.len(), all.len());
    Ok(())
}

/// Some worlds, on every run: C-07, C-08, C-11 (the clock that counts), F-06, L-05, L-06, R-09, S-01, S-04, X-02,
/// X-04, X-06, X-07.
#[test]
fn worlds_keep_every_law() -> TestResult {
    worlds(FEW)
}

#[test]
#[ignore = "minutes; run with make sim-test, FTD_SEEDS says how many, FTD_SEED tells all about one"]
fn many_worlds_keep_every_law() -> TestResult {
    let Some(seed) = number("FTD_SEED") else { return worlds(number("FTD_SEEDS").unwrap_or(1000)) };
    let outcome = run(seed, Planted::Nothing, true);
    assert!(outcome.breaches.is_empty(), "{:#?}", outcome.breaches);
    Ok(())
}

#[test]
fn the_same_seed_is_the_same_world() {
    let mut traces = BTreeSet::new();
    for seed in 0..8 {
        let (first, second) = (outcome(seed, Planted::Nothing), outcome(seed, Planted::Nothing));
        assert_eq!(first, second, "seed {seed}");
        traces.insert(first.trace);
    }
    assert_eq!(traces.len(), 8, "and another seed is another one");
}

/// A planted fault is found by the first worlds.
fn is_found(planted: Planted, by: &str) {
    for seed in 0..1000 {
        let outcome = outcome(seed, planted);
        if let Some(breach) = outcome.breaches.iter().find(|breach| breach.contains(by)) {
            return println!(
                "assurance: simulation: {planted:?} is found by seed {seed}: {breach}"
            );
        }
    }
    panic!("{planted:?} is not found");
}

#[test]
fn a_store_that_forgets_is_found() {
    is_found(Planted::StoreForgets, "is not stored");
}

#[test]
fn a_store_that_tears_is_found() {
    is_found(Planted::StoreTears, "which nobody sent");
}

#[test]
fn an_answer_that_is_lost_is_found() {
    is_found(Planted::AnswerLost, "deadline");
}

#[test]
fn an_answer_that_comes_twice_is_found() {
    is_found(Planted::AnswerTwice, "nothing was asked under this id");
}

#[test]
fn a_client_that_trusts_is_found() {
    is_found(Planted::ClientTrusts, "which it never was");
}

#[test]
fn a_buffer_that_is_kept_is_found() {
    is_found(Planted::BufferKept, "holds buffers");
}

#[test]
fn staging_that_is_left_is_found() {
    is_found(Planted::StagingKept, "are still open");
}

/// F-03: a frame may come slowly, byte by byte, until its deadline.
#[tokio::test(start_paused = true)]
async fn a_frame_may_be_slow_until_its_deadline() -> TestResult {
    for (pause, fits) in [(Duration::from_millis(100), true), (Duration::from_secs(1), false)] {
        let request = frame(Kind::Request, 1, format!("{:<50}", r#"{"verb":"stat"}"#).as_bytes());
        let hello = frame(Kind::Hello, 0, br#"{"version":1}"#);
        let said = super::session::trickle(&[hello, request].concat(), pause).await?;
        let kinds: Vec<_> = said.iter().map(|(header, _)| (header.kind, header.id)).collect();
        let last = if fits { (Kind::Answer, 1) } else { (Kind::Error, 0) };
        assert_eq!(kinds, [(Kind::Hello, 0), last], "{pause:?}");
        let text = said.last().map(|(_, frame)| String::from_utf8_lossy(frame).into_owned());
        assert_eq!(text.unwrap_or_default().contains("TIMEOUT"), !fits);
    }
    Ok(())
}

/// X-03: a session that the daemon does not wait for any more says so and ends; it does not go round and round.
#[tokio::test(start_paused = true)]
async fn a_session_whose_daemon_is_gone_ends() -> TestResult {
    let hello = frame(Kind::Hello, 0, br#"{"version":1}"#);
    let put = frame(Kind::Request, 1, br#"{"verb":"put","path":"x"}"#);
    let said = super::session::told_at_the_end(&[hello, put].concat()).await?;
    let said: Vec<_> = said.iter().map(|(header, _)| (header.kind, header.id)).collect();
    assert_eq!(said, [(Kind::Hello, 0), (Kind::Error, 0)]);
    Ok(())
}

/// X-04: a request whose task panics ends with INTERNAL and is over, so that its connection goes on and is idle
/// some day. A connection whose task panics is told so, too.
#[tokio::test(start_paused = true)]
async fn a_panic_in_a_request_is_its_answer_and_one_in_a_connection_its_end() -> TestResult {
    let told = |said: &[(Header, Vec<u8>)]| -> Vec<_> {
        let code = |frame: &[u8]| {
            let text = String::from_utf8_lossy(frame).into_owned();
            ["INTERNAL", "TIMEOUT"].into_iter().find(|code| text.contains(code))
        };
        said.iter().map(|(header, frame)| (header.kind, header.id, code(frame))).collect()
    };
    let internal = |id| (Kind::Error, id, Some("INTERNAL"));
    let hello = frame(Kind::Hello, 0, br#"{"version":1}"#);
    for request in [
        r#"{"verb":"mkdir","path":"panics"}"#,
        r#"{"verb":"check","path":"panics"}"#,
        r#"{"verb":"put","path":"panics"}"#,
    ] {
        let request = frame(Kind::Request, 1, request.as_bytes());
        let next = frame(Kind::Request, 2, br#"{"verb":"mkdir","path":"d"}"#);
        let bytes = [hello.clone(), request, next].concat();
        let said = super::session::told_after(&bytes, Duration::from_secs(1)).await?;
        let mut said = told(&said);
        said.sort_by_key(|(_, id, _)| *id);
        assert_eq!(said, [(Kind::Hello, 0, None), internal(1), (Kind::Answer, 2, None)]);
    }
    let request = frame(Kind::Request, 1, br#"{"verb":"mkdir","path":"panics"}"#);
    let bytes = [hello, request].concat();
    let said = super::session::told_after(&bytes, Duration::from_hours(2)).await?;
    let end = (Kind::Error, 0, Some("TIMEOUT"));
    assert_eq!(told(&said), [(Kind::Hello, 0, None), internal(1), end], "it is idle");
    let bytes = frame(Kind::Hello, 0, br#"{"version":1,"client":"panics"}"#);
    let said = super::session::told_after(&bytes, Duration::from_secs(1)).await?;
    assert_eq!(told(&said), [(Kind::Hello, 0, None), internal(0)]);
    Ok(())
}

/// What was logged, for a test to read.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// X-04, R-14: a request that panics leaves one line, which says what it was about.
#[tokio::test(start_paused = true)]
async fn a_request_that_panics_leaves_one_line_with_its_path() -> TestResult {
    let lines = Lines::default();
    let writer = lines.clone();
    let journal = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false);
    let _journal = tracing::subscriber::set_default(journal.finish());
    let hello = frame(Kind::Hello, 0, br#"{"version":1}"#);
    let request = frame(Kind::Request, 1, br#"{"verb":"mkdir","path":"panics"}"#);
    super::session::told_after(&[hello, request].concat(), Duration::from_secs(1)).await?;
    let written = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let written = String::from_utf8_lossy(&written).into_owned();
    let told: Vec<_> = written.lines().filter(|line| line.contains("verb=")).collect();
    assert_eq!(told.len(), 1, "{written}");
    for part in ["verb=\"mkdir\"", "path=\"panics\"", "result=\"INTERNAL\""] {
        assert!(told[0].contains(part), "{part}: {written}");
    }
    Ok(())
}

/// F-02, F-16: a whole session, cut at every byte and with every byte changed once.
#[test]
fn every_session_keeps_the_law_of_the_fuzzer_cut_and_mutated() -> TestResult {
    let mut count = 0;
    for entry in std::fs::read_dir(top().join("fuzz/seeds/whole_session"))? {
        let seed = std::fs::read(entry?.path())?;
        for how in 0..8 {
            super::eat(&[&[how], &seed[1..]].concat());
        }
        for at in 1..seed.len() {
            super::eat(&seed[..at]);
            let mut mutated = seed.clone();
            mutated[at] ^= 1 << (at % 8);
            super::eat(&mutated);
        }
        count += 1;
    }
    assert!(count > 0, "there are no seeds");
    Ok(())
}

fn frame(kind: Kind, id: u32, payload: &[u8]) -> Vec<u8> {
    let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    [&Header { kind, id, payload_bytes }.encode()[..], payload].concat()
}

/// A server's first words.
const HELLO: &[u8] = br#"{"protocol":"ftd","versions":{"min":1,"max":1},"server":"s","user":"u","rights":[],"limits":{"control_bytes":16384,"data_bytes":1048576,"requests":4,"uploads":1,"file_bytes":1}}"#;

/// Goal: time in which nothing was due is not held against the content that comes after it.
#[tokio::test(start_paused = true)]
async fn a_get_after_a_quiet_time_has_all_of_its_own() -> TestResult {
    const FILE: &[u8] = br#"{"file":{"bytes":3,"mode":420,"mtime_ns":0}}"#;
    const TRAILER: &[u8] = br#"{"bytes":3,"sha256":"98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4"}"#;
    let sim = Sim::new(0, Planted::Nothing, false);
    for pause in [Duration::from_millis(10), Duration::from_secs(20)] {
        let (ours, theirs, _) = link(&sim, Nature::plain());
        theirs.try_write(&frame(Kind::Hello, 0, HELLO))?;
        let line = line(Socket::Other(Box::new(ours))).await.map_err(|failure| failure.message)?;
        tokio::time::sleep(Duration::from_secs(601)).await;
        let server = tokio::spawn(async move {
            let content = frame(Kind::Data, 1, b"hi\n");
            let end = [frame(Kind::Eof, 1, b""), frame(Kind::Trailer, 1, TRAILER)].concat();
            let begin = [&frame(Kind::Answer, 1, FILE), &content[..13]].concat();
            for part in [&begin, &content[13..], &end] {
                tokio::time::sleep(pause).await;
                theirs.try_write(part)?;
            }
            tokio::time::sleep(pause).await;
            Ok::<_, std::io::Error>(theirs)
        });
        let request = Request::Get { path: WirePath(b"f".to_vec()), offset: 0, version: None };
        let got = line.get(&request, &Meter::default()).await;
        let mut download = got.map_err(|failure| failure.message)?;
        let mut ended = false;
        while let Some(part) = download.parts.recv().await {
            ended = matches!(part, Part::End(..));
        }
        assert!(ended, "{:?}", download.why.take());
        server.await??;
    }
    Ok(())
}

/// Goal: a put that was given up is not waited for, and lets nobody else wait, longer than any answer.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up_after_an_abort_too() -> TestResult {
    let sim = Sim::new(0, Planted::Nothing, false);
    let (ours, theirs, _) = link(&sim, Nature::plain());
    theirs.try_write(&frame(Kind::Hello, 0, HELLO))?;
    let line = line(Socket::Other(Box::new(ours))).await.map_err(|failure| failure.message)?;
    let path = WirePath(b"f".to_vec());
    let (bytes, mode, mtime_ns, replace, resumable, resume) = (None, None, None, true, false, None);
    let put = PutRequest { path, bytes, mode, mtime_ns, replace, resumable, resume };
    let upload = line.put(put).await.map_err(|failure| failure.message)?;
    upload.abort("the file changed".to_owned()).await;
    let asked = line.ask(&Request::Stat { path: None });
    let asked = tokio::time::timeout(Duration::from_hours(1), asked).await?;
    assert!(asked.is_err_and(|failure| failure.is_lost()));
    Ok(())
}
