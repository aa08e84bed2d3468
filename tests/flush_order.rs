//! Goal: before "stored", or any answer that promises a change, is sent, the file was flushed after its last change, got its name after that,
//! and its directory and every new one above were flushed after they changed (catalogue S-11, L1; bar B1).
//! Method: the system calls, from strace, and the frames in them. A flush counts for what had ended when it began. A
//! tree without durability, and a daemon that leaves out one flush (`make power-test`), must turn the check red.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::ffi::OsStr;
use std::process::Stdio;

use serde_json::json;
use support::raw::{ANSWER, REQUEST, Raw, frame, put};
use support::{ALL_RIGHTS, PATIENCE, Setup, TestResult, noise};

/// One system call as strace writes it with all strings in hexadecimal.
struct Call {
    thread: String,
    name: String,
    text: String,
}

/// A call begins, or has ended.
#[derive(Clone, Copy)]
enum Moment {
    Begin(usize),
    End(usize),
}

/// The calls, and in which order they began and ended.
fn calls(trace: &str) -> (Vec<Call>, Vec<Moment>) {
    let mut begun: HashMap<&str, usize> = HashMap::new();
    let (mut calls, mut moments) = (Vec::<Call>::new(), Vec::new());
    for line in trace.lines() {
        let Some((pid, rest)) = line.trim_start().split_once(char::is_whitespace) else { continue };
        let rest = rest.trim_start();
        if let Some((_, end)) = rest.split_once(" resumed>").filter(|_| rest.starts_with("<...")) {
            let Some(index) = begun.remove(pid) else { continue };
            calls[index].text.push_str(end);
            moments.push(Moment::End(index));
        } else if let Some((name, _)) = rest.split_once('(') {
            let (thread, name, index) = (pid.to_owned(), name.to_owned(), calls.len());
            moments.push(Moment::Begin(index));
            if let Some(start) = rest.strip_suffix("<unfinished ...>") {
                begun.insert(pid, index);
                calls.push(Call { thread, name, text: start.to_owned() });
            } else {
                calls.push(Call { thread, name, text: rest.to_owned() });
                moments.push(Moment::End(index));
            }
        }
    }
    (calls, moments)
}

impl Call {
    /// The bytes behind `\x2f\x74…`.
    fn decoded(text: &str) -> Vec<u8> {
        text.split("\\x")
            .skip(1)
            .filter_map(|digits| u8::from_str_radix(digits.get(..2)?, 16).ok())
            .collect()
    }

    /// What stands between each pair of these signs.
    fn parts(&self, open: char, close: char) -> Vec<Vec<u8>> {
        let rests = self.text.split(open).skip(1).step_by(1 + usize::from(open == close));
        rests.filter_map(|rest| Some(Self::decoded(rest.split(close).next()?))).collect()
    }

    /// The files behind its descriptors.
    fn files(&self) -> Vec<String> {
        let files = self.parts('<', '>');
        files.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    }

    /// The names that it speaks of, each in its directory.
    fn names(&self) -> Vec<String> {
        let names = self.parts('"', '"');
        let both = self.files().into_iter().zip(names);
        both.map(|(directory, name)| format!("{directory}/{}", String::from_utf8_lossy(&name)))
            .collect()
    }

    fn result(&self) -> Option<usize> {
        self.text.rsplit_once(" = ")?.1.split(' ').next()?.parse().ok()
    }
}

/// Something that is not on the disk yet.
#[derive(Clone, PartialEq)]
enum Dirty {
    /// The staged file itself.
    Content(String),
    /// A name that was given or taken; of one that was moved away, also the name that it has now, and by whom.
    Name { name: String, moved: Option<(String, String)> },
}

impl Dirty {
    /// Whether a flush of this file or directory is the one that it needs.
    fn is_flushed_by(&self, flushed: &str) -> bool {
        match self {
            Self::Content(file) => file == flushed,
            Self::Name { name, .. } => directory_of(name) == flushed,
        }
    }
}

fn directory_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// What each request promises by its answer: names, below the home, that are as they were asked to be.
type Promises = HashMap<u32, Vec<String>>;

/// What is not as it must be.
fn violations(trace: &str, home: &str, promises: &Promises) -> Vec<String> {
    let (calls, moments) = calls(trace);
    let (mut dirty, mut found) = (Vec::<(usize, Dirty)>::new(), Vec::new());
    let mut answered = HashSet::new();
    let mut streams: HashMap<String, Vec<u8>> = HashMap::new();
    let mut starts: HashMap<usize, usize> = HashMap::new();
    for (time, moment) in moments.into_iter().enumerate() {
        let (Moment::Begin(index) | Moment::End(index)) = moment;
        let (call, begins) = (&calls[index], matches!(moment, Moment::Begin(_)));
        if begins {
            starts.insert(index, time);
        }
        match call.name.as_str() {
            // Of an answer counts that it begins.
            "sendto" => {
                let stream = streams.entry(call.files().swap_remove(0)).or_default();
                let mut sent = call.parts('"', '"').swap_remove(0);
                if begins {
                    let all = [stream.as_slice(), &sent].concat();
                    for id in answers(&all).into_iter().filter(|id| promises.contains_key(id)) {
                        if answered.insert(id) {
                            let names = promises[&id].iter().map(|name| format!("{home}/{name}"));
                            found.extend(
                                names.flat_map(|name| lost(&dirty, &name)).map(|name| {
                                    format!("answer {id} came before a flush of {name}")
                                }),
                            );
                        }
                    }
                } else {
                    assert!(!call.text.contains("\"..."), "strace cut an answer: {}", call.text);
                    sent.truncate(call.result().unwrap_or(0));
                    stream.extend(sent);
                }
            }
            "renameat" | "renameat2" if begins => {
                let staged = call.names().swap_remove(0);
                let probes = staged.ends_with("/.ftd-probe");
                if !probes && dirty.iter().any(|(_, one)| *one == Dirty::Content(staged.clone())) {
                    found.push(format!("renamed before it was flushed: {staged}"));
                }
            }
            _ if begins || call.result().is_none() => {}
            "fsync" | "syncfs" => {
                let (began, flushed) = (starts[&index], call.files().swap_remove(0));
                let is_clean = |one: &Dirty| call.name == "syncfs" || one.is_flushed_by(&flushed);
                let (clean, left): (Vec<_>, Vec<_>) =
                    dirty.into_iter().partition(|(since, one)| *since < began && is_clean(one));
                // The new name first: of a crash in between there are two names, never none. (What others
                // flush meanwhile is theirs; file systems move a name in one step.)
                for (_, one) in clean {
                    if let Dirty::Name { name, moved: Some((to, thread)) } = one
                        && thread == call.thread
                        && !lost(&left, &to).is_empty()
                    {
                        found.push(format!("the loss of {name} was flushed before {to}"));
                    }
                }
                dirty = left;
            }
            "renameat" | "renameat2" => {
                let names = call.names();
                let (from, to) = (names[0].clone(), names[1].clone());
                dirty.push((time, Dirty::Name { name: to.clone(), moved: None }));
                if !from.contains("/.ftd-stage/") {
                    dirty.push((
                        time,
                        Dirty::Name { name: from, moved: Some((to, call.thread.clone())) },
                    ));
                }
            }
            "mkdirat" | "unlinkat" => {
                let name = call.names().swap_remove(0);
                dirty.push((time, Dirty::Name { name, moved: None }));
            }
            // Content, length, time, mode and attributes of a file.
            _ => dirty.push((time, Dirty::Content(call.files().swap_remove(0)))),
        }
    }
    let missing: Vec<_> = promises.keys().filter(|id| !answered.contains(*id)).collect();
    assert!(missing.is_empty(), "the trace has no answers to {missing:?}");
    found
}

/// The names on the way to this one, and itself, that a power cut could still undo.
fn lost(dirty: &[(usize, Dirty)], wanted: &str) -> Vec<String> {
    let names = dirty.iter().filter_map(|(_, one)| match one {
        Dirty::Name { name, .. } => Some(name.clone()),
        Dirty::Content(_) => None,
    });
    names.filter(|name| wanted == name || wanted.starts_with(&format!("{name}/"))).collect()
}

/// The requests that are answered in a stream of frames.
fn answers(mut stream: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    while let [kind, _, _, _, i0, i1, i2, i3, n0, n1, n2, n3, rest @ ..] = stream {
        if *kind == ANSWER {
            ids.push(u32::from_be_bytes([*i0, *i1, *i2, *i3]));
        }
        let length = u32::from_be_bytes([*n0, *n1, *n2, *n3]) as usize;
        stream = rest.get(length..).unwrap_or_default();
    }
    ids
}

/// Asks for everything that changes something, one after the other and then all at once; gives what is
/// wrong, and how many answers there were.
fn violations_with(
    durability: &str,
    env: &[(&str, &OsStr)],
) -> Result<(Vec<String>, usize), Box<dyn Error>> {
    let setup = Setup::with(ALL_RIGHTS, &format!("durability = \"{durability}\""))?;
    let mut strace = setup.traced(&[
        "-y",
        "-xx",
        "-s",
        "16384",
        "-e",
        "trace=pwrite64,ftruncate,utimensat,fsetxattr,fchmod,fsync,syncfs,renameat,renameat2,mkdirat,unlinkat,sendto",
    ]);
    strace.stdin(Stdio::null());
    let daemon = setup.start_command(strace, env)?;
    let mut promises = Promises::new();
    let mut id = 0;
    let mut next = |names: &[&str]| {
        id += 1;
        promises.insert(id, names.iter().map(|name| (*name).to_owned()).collect());
        id
    };

    let mut raw = Raw::greeted(&daemon)?;
    let large = noise(70 << 20, 6);
    for (path, content) in [
        ("new/deep/er/f", &b"small"[..]),
        ("new/deep/er/f", &large),
        ("new/deep/er/f", b"over it"),
        ("top", b"small"),
    ] {
        raw.bytes(&put(next(&[path]), &json!(path), content))?;
        assert_eq!(raw.expect()?.code(), "frame 8", "{path}");
    }
    for (names, request) in [
        (
            &["made/on/the/way"][..],
            json!({"verb": "mkdir", "path": "made/on/the/way", "parents": true}),
        ),
        (&["made/one"], json!({"verb": "mkdir", "path": "made/one"})),
        (&["top", "made/one/f"], json!({"verb": "rename", "path": "top", "to": "made/one/f"})),
        (
            &["made/one/f", "new/deep/er/f"],
            json!({"verb": "rename", "path": "made/one/f", "to": "new/deep/er/f", "replace": true}),
        ),
        (&["new/deep", "deep"], json!({"verb": "rename", "path": "new/deep", "to": "deep"})),
        (
            &["deep/er/f", "deep/er/g"],
            json!({"verb": "rename", "path": "deep/er/f", "to": "deep/er/g"}),
        ),
        (&["deep/er/g"], json!({"verb": "remove", "path": "deep/er/g"})),
        (&["made/one"], json!({"verb": "rmdir", "path": "made/one"})),
    ] {
        assert_eq!(raw.code_of(next(names), &request)?, "frame 8", "{request}");
    }

    // All at once, over two connections: puts that share directories, old and new, and changes beside them.
    for k in 0..8 {
        for old in ["over", "from", "gone"] {
            let path = format!("{old}/{k}");
            raw.bytes(&put(next(&[&path]), &json!(path), b"old"))?;
        }
    }
    for _ in 0..24 {
        assert_eq!(raw.expect()?.code(), "frame 8");
    }
    let mut other = Raw::greeted(&daemon)?;
    for k in 0..8 {
        let (new, over) = (format!("many/{}/{k}", k % 3), format!("over/{k}"));
        let (from, to, gone) = (format!("from/{k}"), format!("over/to-{k}"), format!("gone/{k}"));
        let made = format!("many/{}/made/{k}", k % 3);
        let mut batch = put(next(&[&new]), &json!(new), format!("new {k}").as_bytes());
        batch.extend(put(next(&[&over]), &json!(over), &vec![b'x'; 10_000 * k]));
        for (names, request) in [
            (&[&*from, &to][..], json!({"verb": "rename", "path": from, "to": to})),
            (&[&gone], json!({"verb": "remove", "path": gone})),
            (&[&made], json!({"verb": "mkdir", "path": made, "parents": true})),
        ] {
            batch.extend(frame(REQUEST, next(names), request.to_string().as_bytes()));
        }
        if k % 2 == 0 { &mut raw } else { &mut other }.bytes(&batch)?;
    }
    for _ in 0..20 {
        assert_eq!(raw.expect()?.code(), "frame 8");
        assert_eq!(other.expect()?.code(), "frame 8");
    }
    let (trace, home) = (std::fs::read_to_string(daemon.path("trace"))?, daemon.path("root/alice"));
    let found = violations(&trace, &home.to_string_lossy(), &promises);
    Ok((found, promises.len()))
}

/// S-11, S-12, X-08.
#[test]
fn no_answer_comes_before_its_flushes() -> TestResult {
    let (found, answers) = violations_with("full", &[])?;
    println!(
        "assurance: B1 L1 order of flushes: {} violations before {answers} answers",
        found.len()
    );
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

#[test]
fn the_check_sees_a_flush_that_is_missing() -> TestResult {
    let (found, _) = violations_with("none", &[])?;
    assert!(found.iter().any(|what| what.contains("renamed before")), "{found:?}");
    assert!(found.iter().any(|what| what.ends_with("alice/new/deep/er/f")), "{found:?}");
    assert!(found.iter().any(|what| what.ends_with("/root/alice")), "{found:?}");
    Ok(())
}

/// One flush that is left out is seen, and nothing else is.
#[cfg(feature = "leave-out-flush")]
#[test]
fn the_check_sees_each_flush_that_is_left_out() -> TestResult {
    for flush in ["file", "directory", "ancestor"] {
        let left_out = [("FTD_LEAVE_OUT", OsStr::new(flush))];
        let (found, answers) = violations_with("full", &left_out)?;
        println!(
            "L1 without the flush of the {flush}: {} violations before {answers} answers",
            found.len()
        );
        assert!(!found.is_empty(), "nobody missed the flush of the {flush}");
        for what in found {
            assert_eq!(
                flush == "file",
                what.starts_with("renamed before it was flushed"),
                "{flush}: {what}"
            );
        }
    }
    Ok(())
}

/// The switch that leaves out a flush is in no daemon that is built without asking for it.
#[cfg(not(feature = "leave-out-flush"))]
#[test]
fn no_ordinary_daemon_can_leave_out_a_flush() -> TestResult {
    let program = std::fs::read(env!("CARGO_BIN_EXE_ftd"))?;
    let switch = b"FTD_LEAVE_OUT";
    assert!(!program.windows(switch.len()).any(|bytes| bytes == switch));
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
        let slow = "inject=fsync:delay_enter=4000000";
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
            support::pause();
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
