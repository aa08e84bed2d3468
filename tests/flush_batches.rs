//! Goal: in a batch of small files the order of flushes holds for each of them, and a directory is flushed once for many (B1, S-11).
//! Method: the order of system calls, from strace, while the first flush takes its time, so that the others wait for one batch.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::collections::{HashMap, HashSet};

use support::raw::{ANSWER, Raw, puts};
use support::{ALL_RIGHTS, Setup, TestResult, sha256};

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

/// Files of a batch, which are told apart by their content.
fn many() -> Vec<(String, Vec<u8>)> {
    let directories = ["there", "new", "new/below"];
    let name = |number: usize| format!("{}/f{number}", directories[number % 3]);
    (0..60).map(|number| (name(number), format!("content-{number:03}").into_bytes())).collect()
}

/// The trace of puts that come all at once, while the first flush takes its time.
fn trace_of_many(durability: &str) -> Result<String, Box<dyn std::error::Error>> {
    let extra = format!("durability = \"{durability}\"\n[limits]\nfile-workers = 1");
    let setup = Setup::with(ALL_RIGHTS, &extra)?;
    std::fs::create_dir_all(setup.path("root/alice/there"))?;
    let daemon = setup.start_traced(&[
        "-y",
        "-s",
        "60000",
        "-e",
        "trace=pwrite64,fsync,renameat,renameat2,mkdirat,sendto",
        "-e",
        "inject=fsync:delay_enter=300000:when=1",
    ])?;
    let files = many();
    let mut raw = Raw::greeted(&daemon)?;
    raw.bytes(&puts(&files))?;
    for _ in &files {
        assert_eq!(raw.expect()?.kind, ANSWER);
    }
    for (name, content) in &files {
        assert!(std::fs::read(daemon.stored(name))? == *content, "{name}");
    }
    Ok(std::fs::read_to_string(daemon.path("trace"))?)
}

/// What is wrong with the order of each file by itself, whatever happens to others beside it.
fn violations_of_many(trace: &str) -> Vec<String> {
    let digests: HashMap<String, String> = many()
        .into_iter()
        .map(|(_, content)| (String::from_utf8_lossy(&content).into_owned(), sha256(&content)))
        .collect();
    let (mut found, mut answered) = (Vec::new(), 0);
    // Digests of staged files; files and directories with something that is not flushed; and for each
    // digest the directories that have to be flushed before its answer.
    let mut staged = HashMap::<String, String>::new();
    let mut dirty = HashSet::<String>::new();
    let mut made = HashMap::<String, String>::new();
    let mut due = HashMap::<String, HashSet<String>>::new();
    for Call { name, text } in calls(trace) {
        let named = paths(&text);
        let quoted: Vec<_> = text.split('"').skip(1).step_by(2).collect();
        match name.as_str() {
            "pwrite64" => {
                staged.extend(
                    digests.get(quoted[0]).map(|digest| (named[0].to_owned(), digest.clone())),
                );
                dirty.insert(named[0].to_owned());
            }
            "fsync" if text.contains("= 0") => {
                dirty.remove(named[0]);
                made.retain(|_, parent| parent != named[0]);
                for due in due.values_mut() {
                    due.retain(|path| path != named[0]);
                }
            }
            "mkdirat" if text.contains("= 0") => {
                made.insert(format!("{}/{}", named[0], quoted[0]), named[0].to_owned());
            }
            "renameat" | "renameat2" if text.contains("= 0") && text.contains(".ftd-stage") => {
                let file = format!("{}/{}", named[0], quoted[0]);
                let Some(digest) = staged.get(&file) else { continue };
                if dirty.contains(&file) {
                    found.push(format!("{digest} was renamed before it was flushed"));
                }
                let within =
                    |path: &str| named[1] == path || named[1].starts_with(&format!("{path}/"));
                let above = made.iter().filter(|(path, _)| within(path));
                let due = due.entry(digest.clone()).or_default();
                due.extend(above.map(|(_, parent)| parent.clone()));
                due.insert(named[1].to_owned());
            }
            "sendto" => {
                for digest in digests.values().filter(|digest| text.contains(*digest)) {
                    answered += 1;
                    let due = due.get(digest).into_iter().flatten();
                    found.extend(due.map(|path| format!("{digest} before a flush of {path}")));
                }
            }
            _ => {}
        }
    }
    assert_eq!(answered, digests.len(), "the trace has all answers:\n{trace}");
    found
}

/// Goal: in a batch the order holds for each file, and a directory is flushed once for many.
/// Method: as above, file by file; and the same trace with any one of the flushes left out is found wrong.
#[test]
fn in_a_batch_no_answer_comes_before_its_flushes() -> TestResult {
    let trace = trace_of_many("full")?;
    let found = violations_of_many(&trace);
    assert!(found.is_empty(), "{}", found.join("\n"));
    // One directory of the three is made on the way, and so is one above it.
    let is_flush = |line: &str, of: &str| line.contains("fsync(") && line.contains(of);
    let first = trace.lines().position(|line| line.contains("content-")).ok_or("no write")?;
    let (mut files, mut directories) = (0, 0);
    for (number, line) in trace.lines().enumerate().skip(first) {
        let is_file = is_flush(line, "/.ftd-stage/");
        if !is_file && !is_flush(line, "/root/alice") {
            continue;
        }
        (files, directories) = (files + usize::from(is_file), directories + usize::from(!is_file));
        let without = trace.lines().enumerate().filter(|(other, _)| *other != number);
        let without: Vec<_> = without.map(|(_, line)| line).collect();
        assert!(!violations_of_many(&without.join("\n")).is_empty(), "not missed: {line}\n{trace}");
    }
    assert_eq!(files, many().len());
    assert!(directories < files / 2, "{directories} flushes of directories for {files} files");
    let found = violations_of_many(&trace_of_many("none")?);
    assert!(found.len() > 2 * files, "{found:?}");
    Ok(())
}
