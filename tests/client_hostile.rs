//! Goal: no server can make the trees and verbs of `ftc` leave the directory, replace in silence, glue
//! what does not fit, or take a lie for "stored" (catalogue L).
//! Method: the real client against a server of a few lines that answers each request as it likes.
#![allow(clippy::disallowed_methods, reason = "tests look at what the client left behind")]

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use support::evil::against;
use support::raw::{ANSWER, DATA, ENTRIES, EOF, ERROR, REQUEST, TRAILER, frame, trailer};
use support::{TestResult, sha256};

fn answer(id: u32, json: &Value) -> Vec<u8> {
    frame(ANSWER, id, json.to_string().as_bytes())
}

fn error(id: u32, code: &str) -> Vec<u8> {
    frame(ERROR, id, json!({"code": code, "message": "no"}).to_string().as_bytes())
}

fn listing(id: u32, entries: &[(&str, &str)]) -> Vec<u8> {
    let entries = entries.iter().map(
        |(name, kind)| json!({"name": name, "type": kind, "bytes": 3, "mode": 420, "mtime_ns": 0}),
    );
    let entries: Vec<_> = entries.collect();
    let count = entries.len();
    let body = json!({ "entries": entries }).to_string();
    let end = answer(id, &json!({"listed": {"entries": count}}));
    [frame(ENTRIES, id, body.as_bytes()), end].concat()
}

fn file(id: u32, content: &[u8], end: &[u8]) -> Vec<u8> {
    let info =
        json!({"file": {"bytes": content.len(), "mode": 420, "mtime_ns": 0, "version": "v"}});
    [answer(id, &info), frame(DATA, id, content), frame(EOF, id, b""), frame(TRAILER, id, end)]
        .concat()
}

fn names(directory: &Path) -> Result<Vec<String>, std::io::Error> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// L-05, L-08: of a tree only what is whole appears, and a name that is listed twice is fetched once.
#[test]
fn a_tree_takes_only_what_is_whole_and_once() -> TestResult {
    let dir = tempfile::tempdir()?;
    std::fs::create_dir(dir.path().join("in"))?;
    let ran = against(dir.path(), &["get", "-r", ":", "in"], |kind, id, request| {
        match (kind, request["verb"].as_str(), request["path"].as_str()) {
            (REQUEST, Some("list"), _) => listing(
                id,
                &[
                    ("good", "file"),
                    ("twice", "file"),
                    ("twice", "file"),
                    ("bad", "file"),
                    ("link", "other"),
                ],
            ),
            (REQUEST, Some("get"), Some("bad")) => file(id, b"bad", &trailer(b"not")),
            (REQUEST, Some("get"), _) => file(id, b"yes", &trailer(b"yes")),
            _ => Vec::new(),
        }
    })?;
    assert_eq!(ran.code, Some(10), "{}", ran.err);
    assert!(ran.err.contains("lists 1 names twice"), "{}", ran.err);
    assert_eq!(names(&dir.path().join("in"))?, ["good", "twice"]);
    Ok(())
}

/// L-01: names that no directory can hold end the listing; names that must not be made here are counted.
#[test]
fn a_tree_makes_no_name_that_could_not_be_one() -> TestResult {
    for (name, made) in [
        ("../out", 0),
        ("/etc/out", 0),
        ("a/b", 0),
        ("..", 0),
        ("", 0),
        (".ftd-x", 0),
        ("esc\u{1b}[2J", 1),
        ("new\nline", 1),
        ("bidi\u{202e}", 1),
    ] {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("in"))?;
        let ran =
            against(dir.path(), &["get", "-r", ":", "in"], move |kind, id, request| {
                match (kind, request["verb"].as_str()) {
                    (REQUEST, Some("list")) => listing(id, &[("good", "file"), (name, "file")]),
                    (REQUEST, Some("get")) => file(id, b"yes", &trailer(b"yes")),
                    _ => Vec::new(),
                }
            })?;
        assert!(ran.code != Some(0), "{name:?}: {}", ran.err);
        assert!(!ran.err.contains(['\u{1b}', '\u{202e}']), "{name:?}: {}", ran.err);
        assert_eq!(names(&dir.path().join("in"))?.len(), made, "{name:?}");
        assert_eq!(names(dir.path())?, [".evil", "in"], "{name:?}");
    }
    Ok(())
}

/// What is planted where a tree or a file is to land: links, whole and broken, a pipe, a socket, a device.
fn plant(directory: &Path) -> TestResult {
    symlink("../outside", directory.join("sub"))?;
    symlink("../outside/target", directory.join("link"))?;
    symlink("nowhere", directory.join("broken"))?;
    mkfifo(&directory.join("pipe"), Mode::S_IRWXU)?;
    std::os::unix::net::UnixListener::bind(directory.join("socket"))?;
    // Only root makes one.
    let _ = mknod(&directory.join("device"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3));
    std::fs::create_dir(directory.join("a directory"))?;
    Ok(())
}

/// What stands in a directory, by name, and of what kind it is.
fn kinds(directory: &Path) -> Result<Vec<(String, std::fs::FileType)>, std::io::Error> {
    let names = names(directory)?;
    let kind = |name: String| {
        let kind = std::fs::symlink_metadata(directory.join(&name))?.file_type();
        Ok((name, kind))
    };
    names.into_iter().map(kind).collect()
}

/// L-03: what stands in the way here is neither followed, nor opened, nor replaced unless it is a file; and a
/// directory that changes places with a link meanwhile leads nowhere.
#[test]
fn a_tree_follows_no_link_that_is_planted_here() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (into, real) = (dir.path().join("in"), dir.path().join("in/real"));
    std::fs::create_dir_all(&real)?;
    std::fs::create_dir(dir.path().join("outside"))?;
    plant(&into)?;
    let before = kinds(&into)?;
    let ran = against(dir.path(), &["get", "-r", ":", "in"], move |kind, id, request| {
        match (kind, request["verb"].as_str(), request["path"].as_str()) {
            (REQUEST, Some("list"), None) => {
                let file = |name| (name, "file");
                let files = ["link", "broken", "pipe", "socket", "device", "a directory", "good"];
                let directories = [("sub", "directory"), ("real", "directory")];
                listing(id, &[&directories[..], &files.map(file)].concat())
            }
            (REQUEST, Some("list"), _) => listing(id, &[("x", "file")]),
            (REQUEST, Some("get"), path) => {
                if path == Some("real/x") {
                    let _ = std::fs::rename(&real, real.with_file_name("moved"));
                    let _ = symlink("../outside", &real);
                }
                file(id, b"yes", &trailer(b"yes"))
            }
            _ => Vec::new(),
        }
    })?;
    assert_eq!(ran.code, Some(10), "{}", ran.err);
    assert_eq!(names(&dir.path().join("outside"))?, Vec::<String>::new());
    assert!(into.join("real").is_symlink(), "the swap was made");
    assert_eq!(std::fs::read(into.join("good"))?, b"yes");
    for (name, kind) in before {
        let now = std::fs::symlink_metadata(into.join(&name))?.file_type();
        assert!(now == kind || name == "real", "{name} was {kind:?} and is {now:?}");
    }
    Ok(())
}

/// L-03: the same for a single file, also where it is the user who names what is no file.
#[test]
fn a_file_replaces_nothing_that_is_none() -> TestResult {
    let dir = tempfile::tempdir()?;
    let into = dir.path().join("in");
    std::fs::create_dir_all(&into)?;
    std::fs::create_dir(dir.path().join("outside"))?;
    plant(&into)?;
    for (name, kind) in kinds(&into)? {
        let words = ["get", ":x", &format!("in/{name}")];
        let ran = against(dir.path(), &words, |kind, id, request| {
            if kind == REQUEST && request["verb"] == "get" {
                file(id, b"yes", &trailer(b"yes"))
            } else {
                Vec::new()
            }
        })?;
        // Into a directory goes what is fetched, and a link to one was named by the user himself.
        let is_directory = ["a directory", "sub"].contains(&name.as_str());
        assert_eq!(ran.code, Some(i32::from(!is_directory)), "{name}: {}", ran.err);
        assert!(is_directory || ran.err.contains("only files are replaced here"), "{}", ran.err);
        let now = std::fs::symlink_metadata(into.join(&name))?.file_type();
        assert_eq!(now, kind, "{name}");
    }
    assert_eq!(names(&dir.path().join("outside"))?, ["x"], "by the link that was named");
    Ok(())
}

/// L-07: a tree without a bottom ends where paths end.
#[test]
fn a_tree_without_a_bottom_ends() -> TestResult {
    let dir = tempfile::tempdir()?;
    std::fs::create_dir(dir.path().join("in"))?;
    for words in [&["get", "-r", ":", "in"][..], &["ls", "-R", ":"], &["rm", "-r", ":."]] {
        let ran = against(dir.path(), words, |kind, id, request| {
            match (kind, request["verb"].as_str()) {
                (REQUEST, Some("list")) => listing(id, &[("d", "directory")]),
                (REQUEST, Some("rmdir")) => answer(id, &json!({"removed": {}})),
                _ => Vec::new(),
            }
        })?;
        assert!(ran.code != Some(0) && ran.err.contains("64"), "{words:?}: {}", ran.err);
    }
    Ok(())
}

/// What a server says it has stored must be what was sent.
#[test]
fn a_lie_about_what_was_stored_is_noticed() -> TestResult {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("f"), "content")?;
    for (bytes, digest) in [(7, sha256(b"other")), (6, sha256(b"content"))] {
        let ran = against(dir.path(), &["put", "f"], move |kind, id, _| match kind {
            TRAILER => answer(
                id,
                &json!({"stored": {"bytes": bytes, "sha256": digest, "mtime_ns": 0, "replaced": false}}),
            ),
            _ => Vec::new(),
        })?;
        assert_eq!(ran.code, Some(9), "{}", ran.err);
        assert!(!ran.err.contains("stored f"), "{}", ran.err);
    }
    Ok(())
}

/// What a server claims to have kept is compared before anything is put behind it.
#[test]
fn a_lie_about_what_was_kept_begins_anew() -> TestResult {
    const BYTES: usize = 65 << 20;
    let dir = tempfile::tempdir()?;
    let content = vec![7; BYTES];
    let digest = sha256(&content);
    std::fs::write(dir.path().join("large"), &content)?;
    for (offset, claimed) in [
        (1_000_000_u64, "0".repeat(64)),
        (u64::MAX, "0".repeat(64)),
        (BYTES as u64 + 1, digest.clone()),
    ] {
        let sent = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (seen, digest) = (std::sync::Arc::clone(&sent), digest.clone());
        let ran = against(dir.path(), &["put", "large"], move |kind, id, json| {
            match (kind, json["verb"].as_str()) {
                (REQUEST, Some("resume")) => answer(
                    id,
                    &json!({"resume": {"upload": "0".repeat(32), "offset": offset, "sha256": claimed}}),
                ),
                (REQUEST, Some("put")) => {
                    if let Ok(mut seen) = seen.lock() {
                        seen.push(json.clone());
                    }
                    Vec::new()
                }
                (TRAILER, _) => answer(
                    id,
                    &json!({"stored": {"bytes": BYTES, "sha256": digest, "mtime_ns": 0, "replaced": false}}),
                ),
                _ => Vec::new(),
            }
        })?;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let sent = sent.lock().map_err(|_| "poisoned")?;
        assert!(sent.len() == 1 && sent[0].get("resume").is_none(), "{sent:?}");
    }
    Ok(())
}

/// A server that knows neither check nor resume is told apart from one that refuses.
#[test]
fn a_server_of_before_can_still_be_put_to() -> TestResult {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("f"), "content")?;
    let ran = against(dir.path(), &["put", "-n", "f"], |kind, id, _| match kind {
        REQUEST => error(id, "PROTOCOL"),
        _ => Vec::new(),
    })?;
    assert_eq!(ran.code, Some(12), "{}", ran.err);
    assert!(ran.err.contains("too old") && ran.err.contains("hint: leave -n away"), "{}", ran.err);
    Ok(())
}
