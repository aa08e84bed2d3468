//! Goal: before "stored", or any answer that promises a change, is sent, the file was flushed after its last write, renamed after that, and its
//! directory and every new one were flushed after the rename.
//! Method: the order of system calls, from strace; a tree without durability must turn the check red.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::collections::{HashMap, HashSet};

use serde_json::json;
use support::raw::{ANSWER, Raw, put, puts};
use support::{ALL_RIGHTS, PATIENCE, Setup, TestResult, noise, sha256};

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

/// What stands in the answers that promise something.
const ANSWERS: [&str; 4] = ["stored", "removed", "made", "renamed"];

/// What is wrong with the order before each of them.
fn violations(trace: &str) -> Vec<String> {
    let (mut unflushed, mut found) = (Vec::<String>::new(), Vec::new());
    let mut answers = 0;
    let mut order: Option<(String, String)> = None;
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
                if let Some((target, source)) = &order
                    && source == named[0]
                    && unflushed.contains(target)
                {
                    found.push(format!("{source} was flushed before {target}"));
                }
            }
            "unlinkat" if text.contains("= 0") && !named[0].contains(".ftd-stage") => {
                unflushed.push(named[0].to_owned());
            }
            "renameat" | "renameat2"
                if text.contains("= 0") && named.len() >= 2 && !named[0].contains(".ftd-stage") =>
            {
                // The new name first: of a crash in between there are two names, never none.
                unflushed.push(named[1].to_owned());
                if named[0] != named[1] {
                    unflushed.push(named[0].to_owned());
                    order = Some((named[1].to_owned(), named[0].to_owned()));
                }
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
            "sendto" if ANSWERS.iter().any(|word| text.contains(word)) => {
                answers += 1;
                found.extend(
                    unflushed.iter().map(|path| format!("an answer before a flush of {path}")),
                );
            }
            _ => {}
        }
    }
    assert!(answers >= 11, "the trace has the answers:\n{trace}");
    found
}

fn trace_of(durability: &str) -> Result<String, Box<dyn std::error::Error>> {
    let setup = Setup::with(ALL_RIGHTS, &format!("durability = \"{durability}\""))?;
    let daemon = setup.start_traced(&[
        "-y",
        "-s",
        "300",
        "-e",
        "trace=pwrite64,fsync,fdatasync,renameat,renameat2,mkdirat,unlinkat,sendto",
    ])?;
    std::fs::write(daemon.path("small"), "small")?;
    std::fs::write(daemon.path("large"), noise(70 << 20, 6))?;
    daemon.ftc_unix().ok(["put", "small", ":new/deep/er/f"])?;
    daemon.ftc_unix().ok(["put", "large", ":new/deep/er/f"])?;
    daemon.ftc_unix().ok(["put", "small", ":top"])?;
    let mut raw = Raw::greeted(&daemon)?;
    for (id, request) in [
        (1, json!({"verb": "mkdir", "path": "made/on/the/way", "parents": true})),
        (2, json!({"verb": "mkdir", "path": "made/one"})),
        (3, json!({"verb": "rename", "path": "top", "to": "made/one/f"})),
        (
            4,
            json!({"verb": "rename", "path": "made/one/f", "to": "new/deep/er/f", "replace": true}),
        ),
        (5, json!({"verb": "rename", "path": "new/deep", "to": "deep"})),
        (6, json!({"verb": "rename", "path": "deep/er/f", "to": "deep/er/g"})),
        (7, json!({"verb": "remove", "path": "deep/er/g"})),
        (8, json!({"verb": "rmdir", "path": "made/one"})),
    ] {
        assert_eq!(raw.code_of(id, &request)?, "frame 8", "{request}");
    }
    Ok(std::fs::read_to_string(daemon.path("trace"))?)
}

#[test]
fn no_answer_comes_before_its_flushes() -> TestResult {
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

/// A file in a directory that another request has made, and is still flushing, waits for a flush of that
/// directory's name too. Method: the flush of the home is slow, so that the mkdir hangs in it; the put
/// comes meanwhile, and must flush the home itself before "stored".
#[test]
fn a_put_into_a_directory_that_is_not_flushed_yet_flushes_it_too() -> TestResult {
    for put_comes_in in ["shared", "shared/of/two", "renamed"] {
        let setup = Setup::new()?;
        let home = setup.path("root/alice");
        std::fs::create_dir_all(home.join("before"))?;
        let home_path = home.to_string_lossy().into_owned();
        let slow = "inject=fsync:delay_enter=1500000";
        let daemon = setup.start_traced(&["-P", &home_path, "-e", "trace=fsync", "-e", slow])?;
        let flushes = || {
            std::fs::read_to_string(daemon.path("trace")).map(|trace| {
                trace
                    .lines()
                    .filter(|line| line.contains("fsync(") || line.contains("fsync resumed"))
                    .count()
            })
        };
        let (mut maker, mut putter) = (Raw::greeted(&daemon)?, Raw::greeted(&daemon)?);
        maker.request(
            1,
            &if put_comes_in == "renamed" {
                json!({"verb": "rename", "path": "before", "to": put_comes_in})
            } else {
                json!({"verb": "mkdir", "path": put_comes_in, "parents": true})
            },
        )?;
        let deadline = std::time::Instant::now() + PATIENCE;
        while !home.join(put_comes_in).exists() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        putter.bytes(&put(1, &json!(format!("{put_comes_in}/f")), b"content"))?;
        assert_eq!(putter.expect()?.code(), "frame 8");
        assert_eq!(maker.expect()?.code(), "frame 8");
        assert!(flushes()? >= 2, "{put_comes_in}: only the mkdir flushed the home");
        // Once it is flushed nobody does so again.
        let before = flushes()?;
        putter.bytes(&put(2, &json!(format!("{put_comes_in}/g")), b"content"))?;
        assert_eq!(putter.expect()?.code(), "frame 8");
        assert_eq!(flushes()?, before, "{put_comes_in}");
    }
    Ok(())
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
