//! Goal: remove, rmdir, mkdir, rename and digest do what the document says, and no name, link or race
//! makes them do anything else (catalogue P, C, A-07, A-09).
//! Method: real daemon, raw frames; the connection must serve the next request.
#![allow(clippy::disallowed_methods, reason = "tests plant what is hostile from outside")]

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use support::raw::{ANSWER, CANCEL, DATA, EOF, Raw, TRAILER, put, trailer};
use support::{Daemon, Setup, TestResult, noise, sha256};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// One connection that numbers its requests.
struct Asker {
    raw: Raw,
    id: u32,
}

impl Asker {
    fn new(daemon: &Daemon) -> Fallible<Self> {
        let mut asker = Self { raw: Raw::greeted(daemon)?, id: 0 };
        asker.code(&json!({"verb": "stat"}))?; // So that the home is there.
        Ok(asker)
    }

    /// The whole answer.
    fn answer(&mut self, request: &Value) -> Fallible<Value> {
        self.id += 1;
        self.raw.request(self.id, request)?;
        Ok(self.raw.expect()?.json())
    }

    /// `ok`, or the code of the error.
    fn code(&mut self, request: &Value) -> Fallible<String> {
        let answer = self.answer(request)?;
        Ok(answer["code"].as_str().unwrap_or("ok").to_owned())
    }

    fn put(&mut self, path: &str, content: &[u8]) -> Fallible<String> {
        self.id += 1;
        self.raw.bytes(&put(self.id, &json!(path), content))?;
        let frame = self.raw.expect()?;
        Ok(if frame.kind == ANSWER { "ok".to_owned() } else { frame.code() })
    }
}

fn remove(path: &str) -> Value {
    json!({"verb": "remove", "path": path})
}

fn rmdir(path: &str) -> Value {
    json!({"verb": "rmdir", "path": path})
}

fn mkdir(path: &str, parents: bool) -> Value {
    json!({"verb": "mkdir", "path": path, "parents": parents})
}

fn rename(path: &str, to: &str, replace: bool) -> Value {
    json!({"verb": "rename", "path": path, "to": to, "replace": replace})
}

fn digest(path: &str, reread: bool) -> Value {
    json!({"verb": "digest", "path": path, "reread": reread})
}

/// The names in a directory, sorted.
fn names(path: &Path) -> Fallible<Vec<String>> {
    let entries = std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name()));
    let mut names: Vec<_> = entries
        .map(|name: std::io::Result<_>| name.map(|name| name.to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()?;
    names.sort();
    Ok(names)
}

#[test]
fn each_verb_answers_as_the_document_says() -> TestResult {
    let daemon = Daemon::start()?;
    let mut ask = Asker::new(&daemon)?;
    assert_eq!(ask.answer(&mkdir("a/b/c", true))?, json!({"made": {"directories": 3}}));
    assert_eq!(ask.answer(&mkdir("a/b/c", true))?, json!({"made": {"directories": 0}}));
    assert_eq!(ask.answer(&mkdir("a/d", false))?, json!({"made": {"directories": 1}}));
    assert_eq!(ask.code(&mkdir("a/d", false))?, "EXISTS");
    assert_eq!(ask.code(&mkdir("x/y", false))?, "NOT_FOUND");
    let content = noise(700_000, 3);
    assert_eq!(ask.put("a/f", &content)?, "ok");
    assert_eq!(ask.put("a/g", b"other")?, "ok");
    assert_eq!(ask.code(&mkdir("a/f", true))?, "WRONG_TYPE");
    assert_eq!(ask.code(&mkdir("a/f/x", true))?, "WRONG_TYPE");

    let kept = ask.answer(&digest("a/f", false))?["digest"].clone();
    assert_eq!((&kept["sha256"], &kept["bytes"]), (&json!(sha256(&content)), &json!(700_000)));
    assert_eq!(kept["reread"], false);
    assert_eq!(ask.answer(&digest("a/f", true))?["digest"]["reread"], true);
    assert_eq!(ask.code(&digest("a/none", false))?, "NOT_FOUND");

    assert_eq!(
        ask.answer(&rename("a/f", "a/d/f", false))?,
        json!({"renamed": {"replaced": false}})
    );
    assert_eq!(ask.code(&rename("a/d/f", "a/g", false))?, "EXISTS");
    assert_eq!(ask.answer(&rename("a/d/f", "a/g", true))?, json!({"renamed": {"replaced": true}}));
    assert_eq!(std::fs::read(daemon.stored("a/g"))?, content);
    // The digest goes with the file.
    assert_eq!(ask.answer(&digest("a/g", false))?["digest"], kept);
    assert_eq!(ask.answer(&rename("a", "moved", false))?, json!({"renamed": {"replaced": false}}));
    assert_eq!(ask.code(&rename("moved", "no/such/place", true))?, "NOT_FOUND");
    assert_eq!(ask.code(&rename("a", "b", true))?, "NOT_FOUND");

    assert_eq!(ask.answer(&remove("moved/g"))?, json!({"removed": {}}));
    assert_eq!(ask.code(&remove("moved/g"))?, "NOT_FOUND");
    assert_eq!(ask.code(&rmdir("moved"))?, "NOT_EMPTY");
    for directory in ["moved/b/c", "moved/b", "moved/d", "moved"] {
        assert_eq!(ask.answer(&rmdir(directory))?, json!({"removed": {}}), "{directory}");
    }
    assert!(names(&daemon.stored("."))?.is_empty());
    daemon.assert_nothing_staged()
}

/// A digest that is kept is compared with the content when that is asked for.
#[test]
fn decay_is_found_by_reading_again() -> TestResult {
    use std::os::unix::fs::FileExt as _;
    let daemon = Daemon::start()?;
    let mut ask = Asker::new(&daemon)?;
    assert_eq!(ask.put("f", b"content")?, "ok");
    let path = daemon.stored("f");
    let (file, times) = (std::fs::File::options().write(true).open(&path)?, path.metadata()?);
    file.write_all_at(b"k", 0)?;
    file.set_modified(times.modified()?)?;
    assert_eq!(ask.code(&digest("f", false))?, "ok");
    assert_eq!(ask.code(&digest("f", true))?, "CORRUPT");
    // What was written by somebody else is new content, and is read.
    std::fs::write(&path, "new content")?;
    let found = ask.answer(&digest("f", false))?["digest"].clone();
    assert_eq!(
        (&found["reread"], &found["sha256"]),
        (&json!(true), &json!(sha256(b"new content")))
    );
    Ok(())
}

/// P-01, P-02, P-03, P-05, P-09, P-14, P-15 (the root has no name that could be asked for).
#[test]
fn hostile_spellings_are_refused_for_every_change() -> TestResult {
    let daemon = Daemon::start()?;
    let mut ask = Asker::new(&daemon)?;
    assert_eq!(ask.put("file", b"x")?, "ok");
    assert_eq!(ask.code(&mkdir("dir", false))?, "ok");
    let (too_deep, too_long) = (vec!["d"; 65].join("/"), "x".repeat(256));
    let hostile = [
        "",
        ".",
        "..",
        "/",
        "a/..",
        "dir/../file",
        "/etc",
        "dir//x",
        "dir/",
        "file/",
        "a\0b",
        ".ftd-stage",
        ".ftd-stage/x",
        ".ftd-x",
        "dir/.ftd-x",
        "../../x",
        &too_deep,
        &too_long,
    ];
    for path in hostile {
        for request in [
            remove(path),
            rmdir(path),
            mkdir(path, false),
            mkdir(path, true),
            rename(path, "new", false),
            rename("file", path, true),
            rename("dir", path, false),
            digest(path, true),
        ] {
            assert_eq!(ask.code(&request)?, "BAD_NAME", "{request}");
        }
    }
    for path in ["new\nline", "esc\x1b", "bidi\u{202e}", "sep\u{2028}", "c1\u{85}"] {
        assert_eq!(ask.code(&mkdir(path, true))?, "BAD_NAME", "{path:?}");
        assert_eq!(ask.code(&rename("file", path, true))?, "BAD_NAME", "{path:?}");
    }
    // P-04: what is there already can be renamed to something sound, and removed, by its exact bytes.
    std::fs::write(daemon.stored("new\nline"), "odd")?;
    std::fs::write(daemon.stored("esc\x1b"), "odd")?;
    assert_eq!(ask.code(&rename("new\nline", "sound", false))?, "ok");
    assert_eq!(ask.code(&remove("esc\x1b"))?, "ok");
    assert_eq!(names(&daemon.stored("."))?, ["dir", "file", "sound"]);
    Ok(())
}

/// P-07, P-08, P-12, P-13: a link is changed itself and never followed; a type that is not meant is refused.
#[test]
fn links_are_changed_themselves_and_never_followed() -> TestResult {
    let daemon = Daemon::start()?;
    let mut ask = Asker::new(&daemon)?;
    std::fs::create_dir_all(daemon.path("outside/dir"))?;
    std::fs::write(daemon.path("outside/secret"), "secret")?;
    std::fs::create_dir(daemon.stored("dir"))?;
    std::fs::write(daemon.stored("dir/held"), "held")?;
    std::fs::write(daemon.stored("file"), "file")?;
    let plant = || -> TestResult {
        for (target, name) in [
            (daemon.path("outside/secret"), "to-secret"),
            (daemon.path("outside/dir"), "to-outside"),
            ("dir".into(), "to-dir"),
            ("nowhere".into(), "dangling"),
            ("self".into(), "self"),
        ] {
            let _ = std::fs::remove_file(daemon.stored(name));
            symlink(target, daemon.stored(name))?;
        }
        Ok(())
    };
    plant()?;
    nix::unistd::mkfifo(&daemon.stored("pipe"), nix::sys::stat::Mode::S_IRWXU)?;
    for link in ["to-secret", "to-outside", "to-dir", "dangling", "self"] {
        assert_eq!(ask.code(&digest(link, true))?, "WRONG_TYPE", "{link}");
        assert_eq!(ask.code(&rmdir(link))?, "WRONG_TYPE", "{link}");
        assert_eq!(ask.code(&mkdir(link, false))?, "EXISTS", "{link}");
        assert_eq!(ask.code(&mkdir(link, true))?, "WRONG_TYPE", "{link}");
        assert_eq!(ask.code(&rename("file", link, true))?, "WRONG_TYPE", "{link}");
        assert_eq!(ask.code(&rename("file", link, false))?, "EXISTS", "{link}");
        assert_eq!(ask.code(&rename("dir", link, true))?, "EXISTS", "{link}");
        // In the middle of a path.
        let (below, deeper) = (format!("{link}/x"), format!("{link}/x/y"));
        for request in [
            remove(&below),
            rmdir(&below),
            mkdir(&below, false),
            mkdir(&deeper, true),
            rename(&below, "new", true),
            rename("file", &below, true),
            digest(&below, false),
        ] {
            assert_eq!(ask.code(&request)?, "WRONG_TYPE", "{request}");
        }
        // The link itself may move, and go.
        assert_eq!(ask.code(&rename(link, "moved-link", false))?, "ok", "{link}");
        assert!(daemon.stored("moved-link").is_symlink() && !daemon.stored(link).is_symlink());
        assert_eq!(ask.code(&remove("moved-link"))?, "ok", "{link}");
    }
    plant()?;
    assert_eq!(ask.code(&digest("pipe", true))?, "WRONG_TYPE");
    assert_eq!(ask.code(&rename("pipe", "pipe2", false))?, "ok");
    assert_eq!(ask.code(&remove("pipe2"))?, "ok");
    assert_eq!(ask.code(&remove("dir"))?, "WRONG_TYPE");
    assert_eq!(ask.code(&rmdir("file"))?, "WRONG_TYPE");
    assert_eq!(ask.code(&rmdir("dir"))?, "NOT_EMPTY");
    assert_eq!(ask.code(&digest("dir", false))?, "WRONG_TYPE");
    assert_eq!(ask.code(&remove("file/x"))?, "WRONG_TYPE");
    assert_eq!(names(&daemon.path("outside"))?, ["dir", "secret"]);
    assert!(names(&daemon.path("outside/dir"))?.is_empty());
    assert_eq!(std::fs::read_to_string(daemon.path("outside/secret"))?, "secret");
    assert_eq!(std::fs::read_to_string(daemon.stored("dir/held"))?, "held");
    Ok(())
}

/// P-15: a directory moves neither into itself nor over anything.
#[test]
fn a_directory_is_never_replaced_and_never_moved_into_itself() -> TestResult {
    let daemon = Daemon::start()?;
    let mut ask = Asker::new(&daemon)?;
    for directory in ["d/child", "empty", "full/x"] {
        assert_eq!(ask.code(&mkdir(directory, true))?, "ok");
    }
    assert_eq!(ask.put("file", b"file")?, "ok");
    for replace in [false, true] {
        assert_eq!(ask.code(&rename("d", "d/inside", replace))?, "BAD_NAME");
        assert_eq!(ask.code(&rename("d", "d/child/inside", replace))?, "BAD_NAME");
        for target in ["empty", "full", "file", "d"] {
            assert_eq!(ask.code(&rename("d", target, replace))?, "EXISTS", "{target}");
        }
        assert_eq!(ask.code(&rename("d/child", "d", replace))?, "EXISTS");
    }
    for target in ["empty", "full"] {
        assert_eq!(ask.code(&rename("file", target, true))?, "WRONG_TYPE", "{target}");
    }
    // Names that only begin alike are others.
    assert_eq!(ask.code(&rename("d", "dd", false))?, "ok");
    assert_eq!(names(&daemon.stored("."))?, ["dd", "empty", "file", "full"]);
    // A file onto itself stays.
    assert_eq!(ask.code(&rename("file", "file", true))?, "ok");
    assert_eq!(std::fs::read_to_string(daemon.stored("file"))?, "file");
    // Two names of one file: afterwards there is the new one.
    std::fs::hard_link(daemon.stored("file"), daemon.stored("twin"))?;
    assert_eq!(ask.code(&rename("file", "twin", true))?, "ok");
    assert_eq!(names(&daemon.stored("."))?, ["dd", "empty", "full", "twin"]);
    Ok(())
}

/// A-07, A-09: without the right each change is refused, with one answer for what is there and what is not.
#[test]
fn changes_need_their_rights_and_tell_nothing() -> TestResult {
    for (rights, allowed) in [
        (r#"["get", "list"]"#, &["digest"][..]),
        (r#"["create", "list"]"#, &[]),
        (r#"["create", "mkdir", "list"]"#, &["mkdir"]),
        (r#"["remove", "list"]"#, &["remove", "rmdir"]),
        (r#"["create", "rename", "list"]"#, &["rename"]),
        (r#"["replace", "rename"]"#, &[]),
    ] {
        let setup = Setup::with(rights, "")?;
        std::fs::create_dir_all(setup.path("root/alice/dir"))?;
        std::fs::write(setup.path("root/alice/file"), "file")?;
        std::fs::write(setup.path("root/alice/file2"), "file2")?;
        let daemon = setup.start()?;
        let mut ask = Asker::new(&daemon)?;
        for (verb, requests) in [
            ("digest", [digest("file", true), digest("none", true)]),
            ("mkdir", [mkdir("dir", true), mkdir("none/x", false)]),
            ("rename", [rename("none", "x", false), rename("file", "file2", true)]),
            ("remove", [remove("file"), remove("none")]),
            ("rmdir", [rmdir("dir"), rmdir("none")]),
        ] {
            let answers = [ask.answer(&requests[0])?, ask.answer(&requests[1])?];
            let denied = answers.iter().filter(|answer| answer["code"] == "DENIED").count();
            if allowed.contains(&verb) {
                assert_eq!(denied, 0, "{rights} {verb}: {answers:?}");
            } else {
                assert_eq!(denied, 2, "{rights} {verb}: {answers:?}");
                assert_eq!(answers[0], answers[1], "{rights} {verb}");
            }
        }
        // Renaming over a file needs the right to replace, whatever the client wishes.
        assert_eq!(std::fs::read_to_string(daemon.stored("file2"))?, "file2", "{rights}");
    }
    Ok(())
}

/// A change of names is carried out and told, whatever is cancelled.
#[test]
fn a_change_is_not_cancelled() -> TestResult {
    let daemon = Daemon::start()?;
    let mut ask = Asker::new(&daemon)?;
    for id in 1..=200 {
        let path = format!("d{id}/e/f");
        ask.id += 1;
        let mut frames = support::raw::frame(2, ask.id, mkdir(&path, true).to_string().as_bytes());
        frames.extend(support::raw::frame(CANCEL, ask.id, b""));
        ask.raw.bytes(&frames)?;
        assert_eq!(ask.raw.expect()?.json(), json!({"made": {"directories": 3}}));
        assert!(daemon.stored(&path).is_dir());
    }
    Ok(())
}

/// P-20: a put with 64 directories to make while another removes them: stored whole, or a plain refusal.
#[test]
fn directories_that_are_removed_meanwhile_make_no_half_put() -> TestResult {
    let daemon = Daemon::start()?;
    Asker::new(&daemon)?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let chain: Vec<String> = (1..=63).map(|depth| vec!["d"; depth].join("/")).collect();
    std::thread::scope(|scope| -> TestResult {
        scope.spawn(|| {
            let Ok(mut remover) = Raw::greeted(&daemon) else { return };
            let mut ids = 1..;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // A client as well, innermost first, all of a chain under way at once.
                let each = chain.iter().rev().zip(ids.by_ref());
                let frames = each.flat_map(|(path, id)| {
                    support::raw::frame(2, id, rmdir(path).to_string().as_bytes())
                });
                let frames: Vec<u8> = frames.collect();
                let told = remover
                    .bytes(&frames)
                    .and_then(|()| chain.iter().try_for_each(|_| remover.expect().map(drop)));
                if told.is_err() {
                    return;
                }
            }
        });
        let race = || -> TestResult {
            let mut ask = Asker::new(&daemon)?;
            let leaf = format!("{}/leaf", chain[62]);
            let (mut stored, mut refused) = (0, 0);
            for round in 0..10_000 {
                match ask.put(&leaf, b"whole")?.as_str() {
                    "ok" => {
                        assert_eq!(std::fs::read(daemon.stored(&leaf))?, b"whole");
                        std::fs::remove_file(daemon.stored(&leaf))?;
                        stored += 1;
                    }
                    "NOT_FOUND" | "CHANGED" => refused += 1,
                    code => return Err(code.into()),
                }
                if round > 100 && stored > 5 && refused > 5 {
                    return Ok(());
                }
            }
            Err(format!("{stored} stored, {refused} refused: it was no race").into())
        };
        let outcome = race();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome
    })?;
    daemon.assert_nothing_staged()
}

/// C-03: a file is removed while it is read and while it is written: any order, and nothing half.
#[test]
fn a_remove_beside_a_get_or_a_put_is_before_or_after() -> TestResult {
    let daemon = Daemon::start()?;
    let (mut ask, mut other) = (Asker::new(&daemon)?, Asker::new(&daemon)?);
    let content = noise(40 << 20, 5);
    assert_eq!(ask.put("f", &content)?, "ok");
    // The reader stops reading with most of it on the server; its version stays.
    ask.id += 1;
    ask.raw.request(ask.id, &json!({"verb": "get", "path": "f"}))?;
    assert_eq!(ask.raw.expect()?.kind, ANSWER);
    assert_eq!(other.code(&remove("f"))?, "ok");
    assert!(!daemon.stored("f").exists());
    let mut got = Vec::new();
    let last = loop {
        let frame = ask.raw.expect()?;
        match frame.kind {
            DATA => got.extend(frame.payload),
            EOF => {}
            _ => break frame,
        }
    };
    assert_eq!((last.kind, last.json()["sha256"].as_str()), (TRAILER, Some(&*sha256(&content))));
    assert_eq!(got, content);
    // Half-way through a put there is nothing to remove; afterwards there is.
    ask.id += 1;
    ask.raw.request(ask.id, &json!({"verb": "put", "path": "f"}))?;
    ask.raw.send(DATA, ask.id, b"content")?;
    assert_eq!(other.code(&remove("f"))?, "NOT_FOUND");
    ask.raw.send(EOF, ask.id, b"")?;
    ask.raw.send(TRAILER, ask.id, &trailer(b"content"))?;
    assert_eq!(ask.raw.expect()?.kind, ANSWER);
    assert_eq!(other.code(&remove("f"))?, "ok");
    assert!(names(&daemon.stored("."))?.is_empty());
    Ok(())
}

/// C-04: two clients rename two files to and fro, 10,000 times each; no file is lost and none appears.
#[test]
fn renames_that_cross_lose_nothing() -> TestResult {
    const ROUNDS: usize = 5_000;
    // Flushes are not at issue here.
    let daemon = Setup::with(support::ALL_RIGHTS, "durability = \"none\"")?.start()?;
    let mut ask = Asker::new(&daemon)?;
    for (name, content) in [("a", b"content a"), ("b", b"content b")] {
        assert_eq!(ask.put(name, content)?, "ok");
    }
    std::thread::scope(|scope| -> TestResult {
        // Each goes over a name of its own, so that a file has one of three names at any time.
        let clients: Vec<_> = [["a", "x", "b"], ["b", "y", "a"]]
            .into_iter()
            .map(|[from, over, to]| {
                let daemon = &daemon;
                scope.spawn(move || -> Result<usize, String> {
                    let mut ask = Asker::new(daemon).map_err(|error| error.to_string())?;
                    let mut done = 0;
                    for _ in 0..ROUNDS {
                        for (from, to) in [(from, over), (over, to)] {
                            let code = ask.code(&rename(from, to, false));
                            match code.map_err(|error| error.to_string())?.as_str() {
                                "ok" => done += 1,
                                "NOT_FOUND" | "EXISTS" => {}
                                code => return Err(code.to_owned()),
                            }
                        }
                    }
                    Ok(done)
                })
            })
            .collect();
        for client in clients {
            let done = client.join().map_err(|_| "panicked")??;
            assert!(done > 10, "only {done} renames were carried out");
        }
        Ok(())
    })?;
    let left = names(&daemon.stored("."))?;
    let mut contents: Vec<_> = left
        .iter()
        .map(|name| std::fs::read_to_string(daemon.stored(name)))
        .collect::<Result<_, _>>()?;
    contents.sort();
    assert_eq!(contents, ["content a", "content b"], "under {left:?}");
    Ok(())
}
