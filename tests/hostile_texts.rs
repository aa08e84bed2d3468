//! Goal: whatever a hostile server says, and wherever it says it, nothing of it acts on the terminal or
//! fills it (L-02). Method: every verb of the real client against a server whose every string is hostile:
//! in its greeting, in errors, names, words, digests, and in JSON that no version has.
#![allow(clippy::disallowed_methods, reason = "tests set up what the client sends")]

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::evil::{GREETING, against, on_terminal, play};
use support::raw::{ABORT, ANSWER, DATA, ENTRIES, EOF, ERROR, HELLO, REQUEST, TRAILER};
use support::raw::{frame, trailer};
use support::{TestResult, sha256};

/// Clears the screen, sets a title, goes back, turns the direction, and speaks C1.
const EVIL: &str = "\u{1b}[2J\u{1b}]0;pwn\u{7}\r\u{202e}\u{9b}31m\u{7f}\u{2028}";

/// What the verbs are made to print at most, whatever is said to them.
const PRINTED_MAX: usize = 16 * 1024;

fn long() -> String {
    EVIL.to_owned() + &"x".repeat(14_000)
}

fn answer(id: u32, json: &Value) -> Vec<u8> {
    frame(ANSWER, id, json.to_string().as_bytes())
}

/// A server of one kind; `None` answers as one that works, with hostile names.
type Script = fn(u8, u32, &Value) -> Option<Vec<u8>>;

const SCRIPTS: [(&str, Script); 11] = [
    ("names", |_, _, _| None),
    ("an error", |kind, id, _| {
        let error = json!({"code": "DENIED", "message": long()}).to_string();
        (kind == REQUEST).then(|| frame(ERROR, id, error.as_bytes()))
    }),
    ("an error of the connection", |kind, _, _| {
        let error = json!({"code": EVIL, "message": long()}).to_string();
        (kind == REQUEST).then(|| frame(ERROR, 0, error.as_bytes()))
    }),
    ("the end of a get", |kind, id, json| {
        let abort = json!({"reason": long()}).to_string();
        (kind == REQUEST && json["verb"] == "get").then(|| frame(ABORT, id, abort.as_bytes()))
    }),
    ("an answer of no version", |kind, id, _| {
        (kind == REQUEST).then(|| answer(id, &json!({ long(): {} })))
    }),
    ("a type of no version", |kind, id, json| {
        let stat = json!({"stat": {"type": long(), "bytes": 3, "mode": 420, "mtime_ns": 0}});
        (kind == REQUEST && json["verb"] == "stat").then(|| answer(id, &stat))
    }),
    ("an entry of no version", |kind, id, json| {
        let entry = json!({"name": "a", "type": long(), "mode": 420, "mtime_ns": 0});
        let entries = json!({"entries": [entry]}).to_string();
        (kind == REQUEST && json["verb"] == "list").then(|| frame(ENTRIES, id, entries.as_bytes()))
    }),
    ("texts for numbers", |kind, id, _| {
        let stat = json!({"stat": {"type": "file", "bytes": long(), "mode": EVIL, "mtime_ns": 0}});
        (kind == REQUEST).then(|| answer(id, &stat))
    }),
    ("digests that are none", |kind, id, json| {
        let digest = json!({"bytes": 3, "sha256": long(), "mtime_ns": 0, "reread": false});
        match (kind, json["verb"].as_str()) {
            (REQUEST, Some("digest")) => Some(answer(id, &json!({ "digest": digest }))),
            (TRAILER, _) => Some(answer(id, &json!({ "stored": digest }))),
            (REQUEST, Some("get")) => {
                let file =
                    json!({"file": {"bytes": 3, "mode": 420, "mtime_ns": 0, "version": EVIL}});
                let end = [frame(DATA, id, b"yes"), frame(EOF, id, b"")].concat();
                let end = [end, frame(TRAILER, id, digest.to_string().as_bytes())].concat();
                Some([answer(id, &file), end].concat())
            }
            _ => None,
        }
    }),
    ("no JSON", |kind, id, _| (kind == REQUEST).then(|| frame(ANSWER, id, long().as_bytes()))),
    ("a second greeting", |kind, _, _| {
        (kind == REQUEST).then(|| frame(HELLO, 0, long().as_bytes()))
    }),
];

/// A server that does what it is asked to, in a tree whose names are hostile as far as they can be.
fn works(kind: u8, id: u32, json: &Value) -> Vec<u8> {
    let path = json["path"].as_str().unwrap_or_default();
    let entry = |name: &str, kind: &str| {
        let name = format!("{name}{EVIL}");
        json!({"name": name, "type": kind, "bytes": 3, "mode": 420, "mtime_ns": 0})
    };
    let digest = sha256(b"yes");
    let stored = json!({"bytes": 3, "sha256": digest, "mtime_ns": 0, "replaced": true});
    match (kind, json["verb"].as_str()) {
        (REQUEST, Some("list")) => {
            let mut all = vec![entry("f", "file"), entry("o", "other")];
            if path.is_empty() || path == "d" {
                all.push(entry("d", "directory"));
            }
            let entries = json!({ "entries": all }).to_string();
            let listed = json!({"listed": {"entries": all.len()}});
            [frame(ENTRIES, id, entries.as_bytes()), answer(id, &listed)].concat()
        }
        (REQUEST, Some("stat")) => {
            let kind = if path.is_empty() || path.starts_with('d') { "directory" } else { "file" };
            answer(id, &json!({"stat": {"type": kind, "bytes": 3, "mode": 420, "mtime_ns": 0}}))
        }
        (REQUEST, Some("get")) => {
            let file = json!({"file": {"bytes": 3, "mode": 420, "mtime_ns": 0, "version": EVIL}});
            let end = [frame(EOF, id, b""), frame(TRAILER, id, &trailer(b"yes"))].concat();
            [answer(id, &file), frame(DATA, id, b"yes"), end].concat()
        }
        (REQUEST, Some("remove" | "rmdir")) => answer(id, &json!({"removed": {}})),
        (REQUEST, Some("mkdir")) => answer(id, &json!({"made": {"directories": 1}})),
        (REQUEST, Some("rename")) => answer(id, &json!({"renamed": {"replaced": true}})),
        (REQUEST, Some("check")) => answer(id, &json!({"check": {"exists": true}})),
        (REQUEST, Some("digest")) => {
            let info = json!({"bytes": 3, "sha256": digest, "mtime_ns": 0, "reread": false});
            answer(id, &json!({ "digest": info }))
        }
        (TRAILER, _) => answer(id, &json!({ "stored": stored })),
        (REQUEST, verb) if verb != Some("put") => {
            let error = json!({"code": "PROTOCOL", "message": EVIL}).to_string();
            frame(ERROR, id, error.as_bytes())
        }
        _ => Vec::new(),
    }
}

const VERBS: [&[&str]; 27] = [
    &["ls", ":"],
    &["ls", "-l", ":"],
    &["ls", "-R", ":"],
    &["ls", ":*"],
    &["ls", "-R", "--json", ":"],
    &["ls", "--sha256", "--json", ":"],
    &["stat", ":f"],
    &["stat", ":*"],
    &["stat", "--json", ":*"],
    &["get", ":f", "got"],
    &["get", ":*", "."],
    &["get", "-z", ":f", "got"],
    &["get", "-r", ":", "tree"],
    &["get", "-r", "--json", ":", "tree"],
    &["get", "-rn", ":", "tree"],
    &["put", "here"],
    &["put", "-n", "here"],
    &["put", "--json", "here"],
    &["put", "-r", "tree", ":d"],
    &["rm", ":f"],
    &["rm", "-r", ":d"],
    &["rm", "-rn", "--json", ":d"],
    &["mv", ":f", ":g"],
    &["mkdir", "-p", ":g"],
    &["verify", "here"],
    &["verify", "-r", "tree", ":"],
    &["shell", "--batch", "lines"],
];

/// What of a text would act on a terminal.
fn acts(text: &str) -> Vec<char> {
    let acts = |c: &char| {
        (c.is_control() && *c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2028}')
    };
    text.chars().filter(acts).collect()
}

#[test]
fn no_verb_prints_what_acts_on_a_terminal() -> TestResult {
    let greetings = [
        ("as ever", String::from_utf8(GREETING.to_vec())?),
        ("hostile", {
            let mut hello: Value = serde_json::from_slice(GREETING)?;
            (hello["server"], hello["user"]) = (json!(long()[..7000]), json!(long()[..7000]));
            (hello["protocol"], hello["rights"]) = (json!(EVIL), json!([EVIL]));
            hello.to_string()
        }),
        ("of no version", json!({ "protocol": "ftd", "versions": long() }).to_string()),
        ("no JSON", long()),
    ];
    let mut shown = 0;
    for (greeted, greeting) in &greetings {
        let is_word = *greeted == "as ever";
        // After another greeting one script says it all.
        for (said, script) in SCRIPTS.iter().take(if is_word { SCRIPTS.len() } else { 1 }) {
            for words in VERBS {
                let dir = tempfile::tempdir()?;
                std::fs::create_dir(dir.path().join("tree"))?;
                std::fs::write(dir.path().join("here"), "yes")?;
                std::fs::write(dir.path().join("tree/f"), "yes")?;
                std::fs::write(dir.path().join("lines"), "-ls\n-stat f\n-rm -r d\nls -R\n")?;
                let mut ftc = Command::new(env!("CARGO_BIN_EXE_ftc"));
                ftc.args(words).arg("-v");
                let script = *script;
                let ran = play(dir.path(), ftc, greeting.clone().into(), move |kind, id, json| {
                    script(kind, id, json).unwrap_or_else(|| works(kind, id, json))
                })?;
                let why = format!("{words:?}, greeted {greeted}, {said}");
                let out = String::from_utf8(ran.out)?;
                assert_eq!(acts(&ran.err), [], "{why}: stderr {:?}", ran.err);
                assert_eq!(acts(&out), [], "{why}: stdout {out:?}");
                let printed = out.len() + ran.err.len();
                assert!(printed < PRINTED_MAX, "{why}: {printed} bytes");
                let is_shown = |text: &String| text.contains("u{1b}") || text.contains("u001b");
                shown += usize::from(is_shown(&out) || is_shown(&ran.err));
            }
        }
    }
    assert!(shown > 150, "only {shown} runs had anything to escape");
    Ok(())
}

/// L-02: digests are for `sha256sum -c`, which wants names as they are, unless they go to a terminal.
#[test]
fn digests_are_for_sha256sum_and_safe_on_a_terminal() -> TestResult {
    let dir = tempfile::tempdir()?;
    let digest = sha256(b"yes");
    let names = |kind, id, json: &Value| match (kind, json["verb"].as_str()) {
        (REQUEST, Some("list")) => {
            let name = |name: Value| json!({"name": name, "type": "file", "bytes": 3, "mode": 420, "mtime_ns": 0});
            // The last is no UTF-8: `raw` and a byte of 0xff.
            let all = [json!("plain"), json!(EVIL), json!("a\nb"), json!({"base64": "cmF3/w=="})];
            let entries = json!({"entries": all.map(name)}).to_string();
            [frame(ENTRIES, id, entries.as_bytes()), answer(id, &json!({"listed": {"entries": 4}}))]
                .concat()
        }
        _ => works(kind, id, json),
    };
    let ran = on_terminal(dir.path(), &["ls", "--sha256", ":"], names)?;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let out = String::from_utf8(ran.out)?.replace("\r\n", "\n");
    assert_eq!(acts(&out), [], "{out:?}");
    assert!(out.contains(&format!("{digest}  plain\n")), "{out}");
    assert!(out.contains(&format!("\\{digest}  a\\nb\n")), "{out}");

    let ran = against(dir.path(), &["ls", "--sha256", ":"], names)?;
    std::fs::write(dir.path().join("sums"), &ran.out)?;
    for name in [b"plain".as_slice(), EVIL.as_bytes(), b"a\nb", b"raw\xff"] {
        let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
        std::fs::write(dir.path().join(name), "yes")?;
    }
    let checked =
        Command::new("sha256sum").args(["-c", "sums"]).current_dir(dir.path()).output()?;
    assert!(checked.status.success(), "{checked:?}");
    Ok(())
}
