//! Goal: before "stored" is sent, the file was flushed after its last write, renamed after that, and its
//! directory and every new one were flushed after the rename.
//! Method: the order of system calls, from strace; a tree without durability must turn the check red.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::collections::HashMap;

use support::raw::{ANSWER, Raw, put};
use support::{ALL_RIGHTS, Setup, TestResult, noise};

/// One finished call: name, arguments, result.
struct Call {
    name: String,
    text: String,
}

/// The calls in the order in which they finished; what was cut in two by another thread is joined.
fn calls(trace: &str) -> Vec<Call> {
    let mut begun: HashMap<&str, String> = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((pid, rest)) = line.trim_start().split_once(char::is_whitespace) else { continue };
        let rest = rest.trim_start();
        let text = if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            if start.starts_with("sendto") {
                start.to_owned() // What counts of an answer is that it begins.
            } else {
                begun.insert(pid, start.to_owned());
                continue;
            }
        } else if let Some((_, end)) =
            rest.split_once(" resumed>").filter(|_| rest.starts_with("<..."))
        {
            match begun.remove(pid) {
                Some(start) => start + end,
                None => continue,
            }
        } else {
            rest.to_owned()
        };
        if let Some((name, _)) = text.split_once('(') {
            calls.push(Call { name: name.to_owned(), text: text.clone() });
        }
    }
    calls
}

/// The paths that strace names behind descriptors, `3</path>`.
fn paths(text: &str) -> Vec<&str> {
    text.split('<').skip(1).filter_map(|rest| rest.split('>').next()).collect()
}

/// What is wrong with the order before each "stored".
fn violations(trace: &str) -> Vec<String> {
    let (mut unflushed, mut found) = (Vec::<String>::new(), Vec::new());
    let mut answers = 0;
    for Call { name, text } in calls(trace) {
        let named = paths(&text);
        match name.as_str() {
            "pwrite64" => unflushed.push(named[0].to_owned()),
            "fsync" | "fdatasync"
                if text.contains("= 0")
                    && !(name == "fdatasync"
                        && unflushed.iter().filter(|path| *path == named[0]).count() > 1) =>
            {
                unflushed.retain(|path| path != named[0]);
            }
            "renameat" | "renameat2"
                if text.contains("= 0") && named.len() >= 2 && !text.contains(".ftd-probe") =>
            {
                if let Some(path) = unflushed.iter().find(|path| path.contains("/.ftd-stage/")) {
                    found.push(format!("renamed before it was flushed: {path}"));
                }
                unflushed.push(named[1].to_owned());
            }
            "mkdirat" if text.contains("= 0") && !text.contains(".ftd-stage") => {
                unflushed.push(named[0].to_owned());
            }
            "sendto" if text.contains("stored") => {
                answers += 1;
                found.extend(
                    unflushed.iter().map(|path| format!("\"stored\" before a flush of {path}")),
                );
            }
            _ => {}
        }
    }
    assert!(answers >= 3, "the trace has the answers:\n{trace}");
    found
}

fn trace_of(durability: &str) -> Result<String, Box<dyn std::error::Error>> {
    let setup = Setup::with(ALL_RIGHTS, &format!("durability = \"{durability}\""))?;
    let daemon = setup.start_traced(&[
        "-y",
        "-s",
        "300",
        "-e",
        "trace=pwrite64,fsync,fdatasync,renameat,renameat2,mkdirat,sendto",
    ])?;
    std::fs::write(daemon.path("small"), "small")?;
    std::fs::write(daemon.path("large"), noise(70 << 20, 6))?;
    daemon.ftc_unix().ok(["put", "small", ":new/deep/er/f"])?;
    daemon.ftc_unix().ok(["put", "large", ":new/deep/er/f"])?;
    daemon.ftc_unix().ok(["put", "small", ":top"])?;
    Ok(std::fs::read_to_string(daemon.path("trace"))?)
}

#[test]
fn stored_is_said_after_every_flush() -> TestResult {
    let found = violations(&trace_of("full")?);
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

#[test]
fn the_check_sees_a_flush_that_is_missing() -> TestResult {
    let found = violations(&trace_of("none")?);
    assert!(found.iter().any(|what| what.contains("renamed before")), "{found:?}");
    assert!(found.iter().any(|what| what.contains("alice/new/deep/er")), "{found:?}");
    assert!(found.iter().any(|what| what.ends_with("/root/alice")), "{found:?}");
    Ok(())
}

/// Two puts into one new directory: neither is "stored" before the name of the directory is durable,
/// whichever of them made it. Every flush takes a while, so that the two meet.
#[test]
fn a_directory_that_another_put_is_making_is_flushed_too() -> TestResult {
    let daemon = Setup::new()?.start_traced(&[
        "-y",
        "-s",
        "300",
        "-e",
        "trace=fsync,mkdirat,sendto",
        "-e",
        "inject=fsync:delay_exit=20000",
    ])?;
    let mut raw = Raw::greeted(&daemon)?;
    for round in 0..10_u32 {
        let path = |name: &str| serde_json::json!(format!("new{round}/deep/{name}"));
        let both = [put(round * 2 + 1, &path("a"), b""), put(round * 2 + 2, &path("b"), b"")];
        raw.bytes(&both.concat())?;
        for _ in both {
            assert_eq!(raw.expect()?.kind, ANSWER);
        }
    }
    let trace = std::fs::read_to_string(daemon.path("trace"))?;
    let (mut unflushed, mut answers) = (Vec::<String>::new(), 0);
    for Call { name, text } in calls(&trace) {
        match name.as_str() {
            "mkdirat" if text.contains("= 0") && text.contains("/alice") => {
                unflushed.push(paths(&text)[0].to_owned());
            }
            "fsync" if text.contains("= 0") => unflushed.retain(|path| path != paths(&text)[0]),
            "sendto" if text.contains("stored") => {
                answers += 1;
                assert!(unflushed.is_empty(), "\"stored\" before a flush of {unflushed:?}");
            }
            _ => {}
        }
    }
    assert!(answers >= 10, "the trace has the answers:\n{trace}");
    Ok(())
}
