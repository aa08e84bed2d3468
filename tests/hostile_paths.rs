//! Goal: no path that a client can spell, and nothing that a local process can plant, leads out of
//! the tree or blocks a worker (catalogue P).
//! Method: real daemon, raw frames, one row per case; the connection must serve the next request.
#![allow(clippy::disallowed_methods, reason = "tests plant what is hostile from outside")]

mod support;

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::time::Instant;

use serde_json::{Value, json};
use support::raw::{ANSWER, DATA, ENTRIES, EOF, REQUEST, Raw, TRAILER, put, trailer};
use support::{Daemon, PATIENCE, TestResult, exchange, race};

/// Sends a put with a little content and gives the code of its answer.
fn put_code(raw: &mut Raw, id: u32, path: &Value) -> Result<String, Box<dyn std::error::Error>> {
    raw.bytes(&put(id, path, b"hostile"))?;
    Ok(raw.expect()?.code())
}

fn base64(bytes: &[u8]) -> Value {
    use base64::Engine as _;
    json!({"base64": base64::engine::general_purpose::STANDARD.encode(bytes)})
}

/// P-01, P-02, P-03, P-04, P-05, P-09, P-14: refused by spelling, for every verb.
#[test]
fn hostile_spellings_are_refused_for_every_verb() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::create_dir_all(daemon.stored("a"))?;
    let before = std::fs::read_dir(daemon.stored("."))?.count();
    let mut raw = Raw::greeted(&daemon)?;
    let mut id = 0;
    let too_deep = vec!["d"; 65].join("/");
    let too_long = "x".repeat(256);
    let too_wide = format!("{}/y", vec!["z".repeat(249); 16].join("/"));
    assert_eq!(too_wide.len(), 4001);
    for path in [
        "..",
        "a/../b",
        "a/..",
        ".",
        "./a",
        "/",
        "//",
        "/etc/passwd",
        "a//b",
        "a/",
        "",
        "a\0b",
        ".ftd-stage/x",
        ".ftd-x",
        "a/.ftd-x",
        "../../../../etc/passwd",
        &too_deep,
        &too_long,
        &too_wide,
    ] {
        for verb in ["get", "list", "stat"] {
            id += 1;
            let code = raw.code_of(id, &json!({"verb": verb, "path": path}))?;
            assert_eq!(code, "BAD_NAME", "{verb} {path:?}");
        }
        id += 1;
        assert_eq!(put_code(&mut raw, id, &json!(path))?, "BAD_NAME", "put {path:?}");
    }
    for path in
        ["new\nline", "cr\r", "esc\x1b", "del\x7f", "c1\u{85}", "bidi\u{202e}", "sep\u{2028}"]
    {
        id += 1;
        assert_eq!(put_code(&mut raw, id, &json!(path))?, "BAD_NAME", "put {path:?}");
    }
    for bytes in [&b"\xff\xfe"[..], b"\xc0\xaf", b"ok/\xed\xa0\x80"] {
        id += 1;
        assert_eq!(put_code(&mut raw, id, &base64(bytes))?, "BAD_NAME");
    }
    assert_eq!(std::fs::read_dir(daemon.stored("."))?.count(), before, "nothing was made");
    daemon.assert_nothing_staged()?;
    // Of a flood of refusals the log shows a few a second; in a daemon of its own it shows this one.
    let daemon = Daemon::start()?;
    assert_eq!(put_code(&mut Raw::greeted(&daemon)?, 1, &json!("esc\x1b"))?, "BAD_NAME");
    let log = daemon.wait_for_log("esc")?;
    assert!(!log.contains('\x1b') && log.contains("\\u{1b}"), "the log is escaped");
    Ok(())
}

/// P-04, P-06, P-16: odd names that exist stay reachable by their exact bytes, and nothing is decoded.
#[test]
fn names_that_exist_are_reached_by_their_exact_bytes() -> TestResult {
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.code_of(1, &json!({"verb": "stat"}))?;
    let odd: [&[u8]; 6] =
        [b"\xff\xfe", b"new\nline", b"%2e%2e%2f", b"..\\x", "ü".as_bytes(), "u\u{308}".as_bytes()];
    for (index, name) in (0_u8..).zip(odd) {
        std::fs::write(daemon.stored(".").join(std::ffi::OsStr::from_bytes(name)), [index])?;
    }
    for (index, name) in (0_u8..).zip(odd) {
        raw.request(10 + u32::from(index), &json!({"verb": "get", "path": base64(name)}))?;
        let frames = [raw.expect()?, raw.expect()?, raw.expect()?, raw.expect()?];
        assert_eq!(frames.each_ref().map(|frame| frame.kind), [ANSWER, DATA, EOF, TRAILER]);
        assert_eq!(frames[1].payload, [index]);
    }
    raw.request(99, &json!({"verb": "list"}))?;
    let listed = raw.expect()?;
    assert_eq!(
        (listed.kind, listed.json()["entries"].as_array().map(Vec::len)),
        (ENTRIES, Some(6))
    );
    Ok(())
}

/// P-05: the largest that is allowed works.
#[test]
fn the_longest_and_deepest_paths_work() -> TestResult {
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    let wide = format!("{}/{}", vec!["z".repeat(249); 15].join("/"), "y".repeat(250));
    assert_eq!(wide.len(), 4000);
    for (id, path) in [(1, "n".repeat(255)), (2, vec!["d"; 64].join("/")), (3, wide)] {
        assert_eq!(put_code(&mut raw, id, &json!(path))?, "frame 8", "{} bytes", path.len());
        assert_eq!(raw.code_of(id + 10, &json!({"verb": "stat", "path": path}))?, "frame 8");
        raw = Raw::greeted(&daemon)?;
    }
    Ok(())
}

/// P-07, P-08, P-12, P-13, P-14: links, pipes, sockets, devices and directories where files are meant.
#[test]
fn planted_files_are_neither_followed_nor_waited_for() -> TestResult {
    let daemon = Daemon::start()?;
    Raw::greeted(&daemon)?.code_of(1, &json!({"verb": "stat"}))?;
    std::fs::create_dir_all(daemon.path("outside/dir"))?;
    std::fs::write(daemon.path("outside/secret"), "secret")?;
    std::fs::create_dir(daemon.stored("dir"))?;
    std::fs::write(daemon.stored("file"), "file")?;
    symlink(daemon.path("outside/secret"), daemon.stored("to-secret"))?;
    symlink("/etc/passwd", daemon.stored("to-passwd"))?;
    symlink("nowhere", daemon.stored("dangling"))?;
    symlink("self", daemon.stored("self"))?;
    symlink("file", daemon.stored("to-file"))?;
    symlink(daemon.path("outside"), daemon.stored("to-outside"))?;
    symlink("dir", daemon.stored("to-dir"))?;
    nix::unistd::mkfifo(&daemon.stored("pipe"), nix::sys::stat::Mode::S_IRWXU)?;
    let _socket = std::os::unix::net::UnixListener::bind(daemon.stored("socket"))?;
    let mut raw = Raw::greeted(&daemon)?;
    let mut id = 0;
    let mut next = || {
        id += 1;
        id
    };
    let started = Instant::now();
    for path in ["to-secret", "to-passwd", "dangling", "self", "to-file", "pipe", "socket", "dir"] {
        assert_eq!(
            raw.code_of(next(), &json!({"verb": "get", "path": path}))?,
            "WRONG_TYPE",
            "get {path}"
        );
        assert_eq!(put_code(&mut raw, next(), &json!(path))?, "WRONG_TYPE", "put {path}");
    }
    for path in [
        "to-outside/secret",
        "to-outside/new",
        "to-dir/x",
        "dangling/x",
        "self/x",
        "file/x",
        "pipe/x",
    ] {
        for verb in ["get", "stat", "list"] {
            let code = raw.code_of(next(), &json!({"verb": verb, "path": path}))?;
            assert_eq!(code, "WRONG_TYPE", "{verb} {path}");
        }
        assert_eq!(put_code(&mut raw, next(), &json!(path))?, "WRONG_TYPE", "put {path}");
    }
    for path in ["to-outside", "to-dir", "file", "pipe"] {
        assert_eq!(
            raw.code_of(next(), &json!({"verb": "list", "path": path}))?,
            "WRONG_TYPE",
            "list {path}"
        );
    }
    assert!(started.elapsed() < PATIENCE, "nothing blocks");
    raw.request(next(), &json!({"verb": "list"}))?;
    let entries = raw.expect()?.json();
    let kind_of = |name: &str| {
        let entries = entries["entries"].as_array().into_iter().flatten();
        entries
            .filter(|entry| entry["name"] == name)
            .map(|entry| entry["type"].to_string())
            .collect::<String>()
    };
    for (name, kind) in [
        ("to-secret", "other"),
        ("pipe", "other"),
        ("socket", "other"),
        ("dir", "directory"),
        ("file", "file"),
    ] {
        assert_eq!(kind_of(name), format!("{kind:?}"), "{name}");
    }
    assert_eq!(std::fs::read_to_string(daemon.path("outside/secret"))?, "secret");
    assert_eq!(std::fs::read_dir(daemon.path("outside"))?.count(), 2, "nothing was made outside");
    daemon.assert_nothing_staged()
}

/// A directory that a local process moves out of the root takes no upload with it: the second wall.
#[test]
fn a_directory_moved_out_takes_no_upload_along() -> TestResult {
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    assert_eq!(put_code(&mut raw, 1, &json!("moved/first"))?, "frame 8");
    raw.request(2, &json!({"verb": "put", "path": "moved/second"}))?;
    raw.send(DATA, 2, b"content")?;
    std::fs::rename(daemon.stored("moved"), daemon.path("moved-out"))?;
    raw.send(EOF, 2, b"")?;
    raw.send(TRAILER, 2, &trailer(b"content"))?;
    let code = raw.expect()?.code();
    assert_eq!(std::fs::read_dir(daemon.path("moved-out"))?.count(), 1);
    // Its parent is gone; with the right to make directories it may be made anew, inside.
    assert!(code != "frame 8" || daemon.stored("moved/second").exists(), "{code}");
    Ok(())
}

/// P-10, P-11, P-12: mount points are not crossed, whatever is mounted, and devices are not opened.
/// Needs root for mounts of its own.
#[test]
fn mount_points_are_not_crossed() -> TestResult {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let daemon = Daemon::start()?;
    Raw::greeted(&daemon)?.code_of(1, &json!({"verb": "stat"}))?;
    std::fs::create_dir(daemon.path("root/bound"))?;
    std::fs::write(daemon.path("root/bound/f"), "x")?;
    let none: Option<&str> = None;
    let bound = daemon.path("root/bound");
    let bound_file = bound.join("f");
    let mounts: [(&str, Option<&std::path::Path>, Option<&str>, MsFlags); 4] = [
        ("tmpfs", None, Some("tmpfs"), MsFlags::empty()),
        ("same", Some(&bound), None, MsFlags::MS_BIND),
        ("proc", Some(std::path::Path::new("/proc")), None, MsFlags::MS_BIND),
        ("file", Some(&bound_file), None, MsFlags::MS_BIND),
    ];
    std::fs::write(daemon.stored("plain"), "plain")?;
    for (name, from, kind, flags) in mounts {
        let point = daemon.stored(name);
        let is_file = name == "file";
        if is_file {
            std::fs::write(&point, "below")?;
        } else {
            std::fs::create_dir(&point)?;
        }
        if let Err(error) = mount(from, &point, kind, flags, none) {
            eprintln!("not tried, because this account may not mount: {error}");
            return Ok(());
        }
        let check = || -> TestResult {
            let mut raw = Raw::greeted(&daemon)?;
            let mut id = 0;
            let mut next = || {
                id += 1;
                id
            };
            for path in ["f", "self/root/etc/passwd", "self/exe", "new"] {
                let inside = json!(format!("{name}/{path}"));
                for verb in ["get", "stat", "digest", "list", "remove", "rmdir", "mkdir"] {
                    let request = json!({"verb": verb, "path": inside});
                    let code = raw.code_of(next(), &request)?;
                    assert_eq!(code, "DENIED", "{request}");
                }
                assert_eq!(put_code(&mut raw, next(), &inside)?, "DENIED", "put {inside}");
                for (from, to) in [(&inside, &json!("plain2")), (&json!("plain"), &inside)] {
                    let request = json!({"verb": "rename", "path": from, "to": to});
                    assert_eq!(raw.code_of(next(), &request)?, "DENIED", "{request}");
                }
            }
            // The mount point itself.
            for request in [
                json!({"verb": "get", "path": name}),
                json!({"verb": "stat", "path": name}),
                json!({"verb": "digest", "path": name}),
                json!({"verb": "list", "path": name}),
                json!({"verb": "remove", "path": name}),
                json!({"verb": "check", "path": name, "bytes": 7}),
                json!({"verb": "rename", "path": name, "to": "elsewhere"}),
                json!({"verb": "rename", "path": "plain", "to": name, "replace": true}),
            ] {
                assert_eq!(raw.code_of(next(), &request)?, "DENIED", "{request}");
            }
            let code = raw.code_of(next(), &json!({"verb": "rmdir", "path": name}))?;
            assert_eq!(code, if is_file { "WRONG_TYPE" } else { "DENIED" }, "rmdir {name}");
            assert_eq!(put_code(&mut raw, next(), &json!(name))?, "DENIED", "put over {name}");
            raw.send(REQUEST, next(), br#"{"verb":"list"}"#)?;
            let listed = raw.expect()?.json();
            let entries = listed["entries"].as_array().into_iter().flatten();
            let kinds: Vec<_> = entries.filter(|entry| entry["name"] == name).collect();
            assert!(kinds.len() == 1 && kinds[0]["type"] == "other", "{name}: {listed}");
            Ok(())
        };
        let outcome = check();
        umount2(&point, MntFlags::MNT_DETACH)?;
        outcome?;
        if is_file {
            assert_eq!(std::fs::read_to_string(&point)?, "below");
            std::fs::remove_file(&point)?;
        } else {
            std::fs::remove_dir(&point)?;
        }
    }
    assert_eq!(std::fs::read_to_string(&bound_file)?, "x");
    assert_eq!(std::fs::read_to_string(daemon.stored("plain"))?, "plain");
    // /dev/zero would never end, and /dev/full could be written to.
    for (name, minor) in [("zero", 5), ("full", 7)] {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&daemon.stored(name), SFlag::S_IFCHR, mode, makedev(1, minor))?;
        let mut raw = Raw::greeted(&daemon)?;
        assert_eq!(raw.code_of(1, &json!({"verb": "get", "path": name}))?, "WRONG_TYPE");
        assert_eq!(put_code(&mut raw, 2, &json!(name))?, "WRONG_TYPE");
    }
    daemon.assert_nothing_staged()
}

/// P-18: the leaf of a path becomes a file, a link that leads out and a pipe in turn: a get gives the
/// file, whole, or says that it is none, and waits for nothing.
#[test]
fn a_swapped_leaf_is_the_file_or_nothing() -> TestResult {
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.code_of(1, &json!({"verb": "stat"}))?;
    std::fs::write(daemon.path("secret"), "outside")?;
    let (leaf, link, pipe) =
        (daemon.stored("leaf"), daemon.path("root/link"), daemon.path("root/pipe"));
    std::fs::write(&leaf, "inside")?;
    symlink(daemon.path("secret"), &link)?;
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU)?;
    let swap = || {
        exchange(&leaf, &link);
        exchange(&leaf, &pipe);
    };
    race(swap, || {
        let mut whole = 0;
        let deadline = Instant::now() + PATIENCE;
        for id in 2.. {
            if id > 3000 && (whole > 0 || Instant::now() > deadline) {
                break;
            }
            raw.request(id, &json!({"verb": "get", "path": "leaf"}))?;
            let first = raw.expect()?;
            if first.kind == ANSWER {
                assert_eq!(raw.expect()?.payload, b"inside");
                assert_eq!((raw.expect()?.kind, raw.expect()?.kind), (EOF, TRAILER));
                whole += 1;
            } else {
                // CHANGED: a change of its name moved its time of change, and no digest vouches for it.
                let code = first.code();
                assert!(["WRONG_TYPE", "NOT_FOUND", "CHANGED"].contains(&code.as_str()), "{code}");
            }
        }
        assert!(whole > 0, "the race was never won by the file");
        Ok(())
    })
}

/// P-19, P-20: the directories of a put are removed and replaced while it runs: it is stored where its
/// path leads, or it fails and nothing of it is there.
#[test]
fn a_put_whose_directories_vanish_is_whole_or_not_at_all() -> TestResult {
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.code_of(1, &json!({"verb": "stat"}))?;
    let deep = vec!["d"; 63].join("/");
    let (there, gone) = (daemon.stored("d"), daemon.path("root/gone"));
    let swap = || {
        if std::fs::rename(&there, &gone).is_ok() {
            let _ = std::fs::create_dir(&there);
            let _ = std::fs::remove_dir_all(&gone);
        }
    };
    race(swap, || {
        for id in 2..150 {
            let path = if id % 2 == 0 { format!("{deep}/f") } else { "d/f".to_owned() };
            let code = put_code(&mut raw, id, &json!(path))?;
            assert!(
                ["frame 8", "NOT_FOUND", "CHANGED"].contains(&code.as_str()),
                "{path:?}: {code}"
            );
        }
        Ok(())
    })?;
    daemon.assert_nothing_staged()?;
    assert_eq!(put_code(&mut raw, 1000, &json!(format!("{deep}/f")))?, "frame 8");
    assert_eq!(std::fs::read(daemon.stored(&format!("{deep}/f")))?, b"hostile");
    Ok(())
}
