//! Goal: what `--json` prints is what `docs/json.md` says, and stays so.
//! Method: every event once, its members compared with the document's table.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{Daemon, TestResult, noise, sha256};

type Events = Result<Vec<Value>, Box<dyn std::error::Error>>;

fn events(text: &[u8]) -> Events {
    let lines = std::str::from_utf8(text)?.lines();
    Ok(lines.map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn of<'a>(events: &'a [Value], kind: &str) -> Result<&'a Value, String> {
    let found = events.iter().find(|event| event["event"] == kind);
    found.ok_or_else(|| format!("no {kind} in {events:?}"))
}

/// The members that the document gives an event, those of *file* included.
fn documented(kind: &str) -> Result<BTreeSet<String>, String> {
    let document = include_str!("../docs/json.md");
    let row = document
        .lines()
        .find(|line| line.starts_with(&format!("| `{kind}` |")))
        .ok_or_else(|| format!("docs/json.md does not know {kind}"))?;
    let cell = row.split('|').nth(3).unwrap_or_default();
    let mut members: BTreeSet<String> = ["event".to_owned()].into();
    if cell.contains("*file*") {
        members.extend(["verb", "path", "local"].map(str::to_owned));
    }
    if cell.contains("*name*") {
        members.extend(["verb", "path"].map(str::to_owned));
    }
    // Of the words that explain, and not of those that are members.
    let values = [
        "verifying",
        "committing",
        "store",
        "replace",
        "fetch",
        "make the directory",
        "remove",
        "rm",
    ];
    let words = cell.split('`').skip(1).step_by(2).filter(|word| !values.contains(word));
    members.extend(words.map(str::to_owned));
    Ok(members)
}

fn check(event: &Value) -> TestResult {
    let kind = event["event"].as_str().ok_or("an event without a name")?;
    let members: BTreeSet<String> = event.as_object().ok_or("no object")?.keys().cloned().collect();
    let mut expected = documented(kind)?;
    if kind == "error" && event.get("path").is_none() {
        expected.retain(|member| !["verb", "path", "local"].contains(&member.as_str()));
    }
    if event["verb"].as_str().is_some_and(|verb| ["rm", "mv", "mkdir"].contains(&verb)) {
        expected.remove("local");
    }
    assert_eq!(members, expected, "{event}");
    Ok(())
}

#[test]
fn every_event_has_the_members_that_the_document_gives_it() -> TestResult {
    let daemon = Daemon::start()?;
    let content = noise(9_000_000, 3);
    std::fs::write(daemon.path("f"), &content)?;
    // Slow enough for progress to be told.
    let put =
        daemon.ftc_unix().ok(["put", "--json", "--bwlimit", "5MiB", "--receipt", "r", "f"])?;
    let put = events(&put.out)?;
    for kind in ["start", "progress", "phase", "done", "summary"] {
        check(of(&put, kind)?)?;
    }
    let done = of(&put, "done")?;
    assert_eq!((&done["path"], &done["bytes"]), (&"f".into(), &content.len().into()));
    assert_eq!(done["sha256"], sha256(&content).as_str());
    assert_eq!(of(&put, "summary")?["moved"], content.len());
    let receipt = events(&std::fs::read(daemon.path("r"))?)?;
    assert_eq!(receipt, std::slice::from_ref(done));
    let skipped = events(&daemon.ftc_unix().ok(["put", "--json", "-u", "f"])?.out)?;
    check(of(&skipped, "skipped")?)?;
    let would = events(&daemon.ftc_unix().ok(["put", "--json", "-n", "f"])?.out)?;
    check(of(&would, "would")?)?;
    assert_eq!(of(&would, "would")?["would"], "replace");
    let verified = daemon.ftc_unix().ok(["verify", "--json", "f", ":f"])?;
    let verified = events(&verified.out)?;
    check(of(&verified, "verified")?)?;
    assert_eq!(of(&verified, "verified")?["same"], true);
    let failed = daemon.ftc_unix().run(["get", "--json", ":none"])?;
    let told = events(&failed.out)?;
    let error = of(&told, "error")?;
    check(error)?;
    assert_eq!((&error["code"], &error["exit"]), (&"NOT_FOUND".into(), &6.into()));
    assert_eq!(of(&told, "summary")?["exit"], 6);
    let usage = events(&daemon.ftc_unix().run(["put", "--json", "f", "f", ":x"])?.out)?;
    check(of(&usage, "error")?)?;
    Ok(())
}

#[test]
fn changes_of_names_are_events() -> TestResult {
    let daemon = Daemon::start()?;
    let run = |words: &[&str]| events(&daemon.ftc_unix().run([&["--json"], words].concat())?.out);
    daemon.ftc_unix().input("x").ok(["put", "-", ":tree/a/f"])?;
    for (words, kind, name, done) in [
        (&["mkdir", "-p", ":d/e"][..], "made", ("mkdir", "d/e"), 1),
        (&["mv", ":tree", ":d/"], "moved", ("mv", "tree"), 1),
        (&["rm", "-n", ":d/tree/a/f"], "would", ("rm", "d/tree/a/f"), 1),
        (&["rm", ":d/none"], "error", ("rm", "d/none"), 0),
        (&["rm", ":d"], "error", ("rm", "d"), 0),
        (&["mkdir", ":d"], "error", ("mkdir", "d"), 0),
        (&["mv", ":none", ":d/"], "error", ("mv", "none"), 0),
        (&["rm", "-rn", ":d"], "would", ("rm", "d/tree/a/f"), 5),
        (&["rm", "-r", ":d"], "removed", ("rm", "d/tree/a/f"), 5),
    ] {
        let told = run(words)?;
        let event = of(&told, kind)?;
        check(event)?;
        let found = (event["verb"].as_str(), event["path"].as_str());
        assert_eq!(found, (Some(name.0), Some(name.1)), "{words:?}");
        if kind == "moved" {
            assert_eq!(event["to"], "d/tree");
        }
        let summary = of(&told, "summary")?;
        check(summary)?;
        assert_eq!((&summary["done"], told.len()), (&done.into(), done.max(1) + 1), "{told:?}");
    }
    assert!(!daemon.stored("d").exists());
    Ok(())
}

/// Standard output that carries a file carries nothing else.
#[test]
fn events_and_content_never_mix() -> TestResult {
    let daemon = Daemon::start()?;
    daemon.ftc_unix().input("content").ok(["put", "-", ":f"])?;
    let ran = daemon.ftc_unix().ok(["get", "--json", ":f", "-"])?;
    assert_eq!(ran.out, b"content");
    check(of(&events(ran.err.as_bytes())?, "done")?)
}

#[test]
fn names_of_any_bytes_and_listings_are_json() -> TestResult {
    use std::os::unix::ffi::OsStrExt as _;
    let daemon = Daemon::start()?;
    daemon.ftc_unix().input("x").ok(["put", "-", ":d/quote\"back\\slash"])?;
    let odd = std::ffi::OsStr::from_bytes(b"\xff\n");
    std::fs::write(daemon.stored("d").join(odd), "y")?;
    let listed = events(&daemon.ftc_unix().ok(["ls", "--json", ":d"])?.out)?;
    let mut paths: Vec<_> = listed.iter().map(|row| row["path"].to_string()).collect();
    paths.sort();
    assert_eq!(paths, [r#""d/quote\"back\\slash""#, r#"{"base64":"ZC//Cg=="}"#]);
    let stat = events(&daemon.ftc_unix().ok(["stat", "--json", ":d"])?.out)?;
    assert_eq!((&stat[0]["type"], &stat[0]["path"]), (&"directory".into(), &"d".into()));
    let sums = events(&daemon.ftc_unix().ok(["ls", "--json", "--sha256", ":d"])?.out)?;
    assert!(sums.iter().any(|row| row["sha256"] == sha256(b"x").as_str()), "{sums:?}");
    Ok(())
}

/// Whoever reads events is told of an interruption by events, and the last line is what it always is.
#[test]
fn an_interruption_is_an_event_and_the_summary_is_last() -> TestResult {
    use std::io::{BufRead as _, BufReader};
    let daemon = Daemon::start()?;
    std::fs::write(daemon.path("f"), noise(9_000_000, 3))?;
    daemon.ftc_unix().ok(["put", "f", ":there"])?;
    for (signal, words) in [
        (nix::sys::signal::Signal::SIGINT, &["put", "--json", "--bwlimit", "1MiB", "f"][..]),
        (nix::sys::signal::Signal::SIGTERM, &["get", "--json", "--bwlimit", "1MiB", ":there", "g"]),
        (
            nix::sys::signal::Signal::SIGINT,
            &["put", "--json", "-j4", "--bwlimit", "1MiB", "f", "r", ":in/"],
        ),
    ] {
        std::fs::write(daemon.path("r"), noise(3_000_000, 5))?;
        let mut child = daemon.ftc_unix().spawn(words)?;
        let mut out = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut told = String::new();
        while !told.contains("\"progress\"") {
            assert_ne!(out.read_line(&mut told)?, 0, "{told}");
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id())?), signal)?;
        std::io::Read::read_to_string(&mut out, &mut told)?;
        let output = child.wait_with_output()?;
        assert_eq!(output.status.code(), Some(11), "{told}");
        assert_eq!(String::from_utf8(output.stderr)?, "", "texts for people are left out");
        let told = events(told.as_bytes())?;
        let [.., error, summary] = told.as_slice() else { return Err("no events".into()) };
        check(error)?;
        check(summary)?;
        assert_eq!(error["event"], "error", "{told:?}");
        assert_eq!((&error["code"], &error["exit"]), (&"INTERRUPTED".into(), &11.into()));
        assert!(
            error["hint"].as_str().is_some_and(|hint| hint.contains("goes on where it stopped: "))
        );
        assert!(error.get("path").is_none());
        assert_eq!((&summary["event"], &summary["exit"]), (&"summary".into(), &11.into()));
        assert_eq!(summary["done"], 0);
    }
    Ok(())
}
