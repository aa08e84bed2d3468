//! Goal: what a local hand does to files and to the staging directory while they are used is noticed where it
//! can be, and never told as good; nor does what it builds break anything (R-12, S-08 to S-10, S-14, S-15).
//! Method: real daemon, raw frames; the test is the local hand, between two frames.
#![allow(clippy::disallowed_methods, reason = "tests change the served files from outside")]

mod support;

use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use support::raw::{ANSWER, DATA, EOF, ERROR, Raw, TRAILER, put, trailer};
use support::{Daemon, Setup, TestResult, noise, wait_until};

/// S-08, S-09: a file that shrinks, grows, or is overwritten in place while it is sent ends in CHANGED: no
/// byte that was not there is sent for it, and no trailer.
#[test]
fn a_file_that_changes_while_it_is_sent_gets_no_trailer() -> TestResult {
    const BYTES: u64 = 24 << 20;
    type Change = fn(&Path) -> std::io::Result<()>;
    let rows: [(&str, Change); 4] = [
        ("shrinks", |path| std::fs::File::options().write(true).open(path)?.set_len(16 << 20)),
        ("is emptied", |path| std::fs::write(path, "")),
        ("grows", |path| {
            let file = std::fs::File::options().write(true).open(path)?;
            file.write_all_at(b"more", BYTES)
        }),
        ("is overwritten", |path| {
            let file = std::fs::File::options().write(true).open(path)?;
            file.write_all_at(b"other", BYTES - 100)
        }),
    ];
    let daemon = Daemon::start()?;
    let content = noise(usize::try_from(BYTES)?, 5);
    for (what, change) in rows {
        let mut raw = Raw::greeted(&daemon)?;
        raw.bytes(&put(1, &json!("f"), &content))?;
        assert_eq!(raw.expect()?.kind, ANSWER);
        // Not yet read: the rest does not fit the socket, and waits for us.
        raw.request(2, &json!({"verb": "get", "path": "f"}))?;
        assert_eq!(raw.expect()?.kind, ANSWER);
        change(&daemon.stored("f"))?;
        let mut got = Vec::new();
        let end = loop {
            let frame = raw.expect()?;
            match frame.kind {
                DATA => got.extend(frame.payload),
                EOF => return Err(format!("it {what}: the content is told to be complete").into()),
                _ => break frame,
            }
        };
        assert_eq!((end.kind, end.code().as_str()), (ERROR, "CHANGED"), "it {what}");
        let same = got.iter().zip(&content).filter(|(one, other)| one == other).count();
        assert!(
            got.len() <= content.len() && got.len() - same <= 5,
            "it {what}: bytes are made up"
        );
        // Kept: the connection goes on.
        assert_eq!(raw.code_of(3, &json!({"verb": "stat", "path": "f"}))?, "frame 8", "{what}");
    }
    Ok(())
}

/// The staged file, when it has so many bytes.
fn staged_file(daemon: &Daemon, bytes: u64) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mut found = PathBuf::new();
    wait_until("all is staged", || {
        for entry in std::fs::read_dir(daemon.path("root/.ftd-stage"))? {
            found = entry?.path();
        }
        Ok(std::fs::metadata(&found).is_ok_and(|meta| meta.len() == bytes))
    })?;
    Ok(found)
}

/// S-15: a bit that flips after the write and before the commit is not seen by the put, whose digest is of
/// what came. It is seen by whoever reads: a get ends with another digest than its trailer's, and a digest
/// that is read anew says CORRUPT.
#[test]
fn a_bit_that_flips_before_the_commit_is_seen_by_whoever_reads() -> TestResult {
    let daemon = Daemon::start()?;
    let content = noise(300_000, 6);
    let mut raw = Raw::greeted(&daemon)?;
    raw.request(1, &json!({"verb": "put", "path": "f"}))?;
    raw.send(DATA, 1, &content)?;
    let staged = staged_file(&daemon, content.len() as u64)?;
    let file = std::fs::File::options().write(true).open(staged)?;
    file.write_all_at(&[content[1000] ^ 1], 1000)?;
    raw.send(EOF, 1, b"")?;
    raw.send(TRAILER, 1, &trailer(&content))?;
    assert_eq!(raw.expect()?.kind, ANSWER, "the put does not know");
    assert_eq!(raw.code_of(2, &json!({"verb": "digest", "path": "f", "reread": true}))?, "CORRUPT");
    let got = daemon.ftc_unix().run(["get", ":f", "back"])?;
    assert_eq!(got.code, Some(9), "{}", got.err);
    assert!(!daemon.path("back").exists(), "what is not good is not shown");
    std::fs::write(daemon.path("f"), &content)?;
    let verified = daemon.ftc_unix().run(["verify", "--reread", "f", ":f"])?;
    assert_eq!(verified.code, Some(9), "{}", verified.err);
    Ok(())
}

/// S-10: a staging directory that is taken away, closed, or replaced while the daemon runs: puts are told of
/// an error of the storage, all else goes on, and a start puts it right or says what is wrong.
#[test]
fn a_staging_directory_that_vanishes_while_serving_is_an_error_of_the_storage() -> TestResult {
    type Spoil = fn(&Path, &Path) -> std::io::Result<()>;
    let rows: [(&str, Spoil, bool); 4] = [
        ("removed", |stage, _| std::fs::remove_dir_all(stage), true),
        ("moved out of the root", |stage, out| std::fs::rename(stage, out.join("stage")), true),
        (
            "replaced by a link",
            |stage, out| {
                std::fs::remove_dir_all(stage)?;
                symlink(out, stage)
            },
            false,
        ),
        (
            "replaced by a file",
            |stage, _| {
                std::fs::remove_dir_all(stage)?;
                std::fs::write(stage, "")
            },
            false,
        ),
    ];
    for (what, spoil, starts_again) in rows {
        let mut daemon = Daemon::start()?;
        daemon.ftc_unix().input("old").ok(["put", "-", ":f"])?;
        spoil(&daemon.path("root/.ftd-stage"), daemon.dir.path())?;
        let mut raw = Raw::greeted(&daemon)?;
        raw.bytes(&put(1, &json!("f"), b"new"))?;
        assert_eq!(raw.expect()?.code(), "IO", "{what}");
        assert_eq!(raw.code_of(2, &json!({"verb": "rename", "path": "f", "to": "g"}))?, "frame 8");
        assert_eq!(std::fs::read(daemon.stored("g"))?, b"old", "{what}");
        daemon.signal(nix::sys::signal::Signal::SIGTERM)?;
        drop(raw);
        assert_eq!(daemon.wait()?, Some(0), "{what}");
        let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
        let setup = Setup { dir };
        if starts_again {
            setup.start()?.ftc_unix().input("new").ok(["put", "-", ":f"])?;
        } else {
            assert_eq!(setup.ftd(&["serve"])?.status.code(), Some(78), "{what}");
        }
    }
    Ok(())
}

/// S-10: one of another account, or on another file system, is refused.
#[test]
fn a_foreign_staging_directory_is_refused() -> TestResult {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root, to give a directory away and to mount");
        return Ok(());
    }
    let make = |setup: &Setup| -> std::io::Result<PathBuf> {
        let stage = setup.path("root/.ftd-stage");
        std::fs::create_dir(&stage)?;
        std::fs::set_permissions(&stage, std::fs::Permissions::from_mode(0o700))?;
        Ok(stage)
    };
    let setup = Setup::new()?;
    std::os::unix::fs::chown(make(&setup)?, Some(54_321), Some(54_321))?;
    for verb in ["check", "serve"] {
        let ran = setup.ftd(&[verb])?;
        let told = String::from_utf8(ran.stderr)?;
        assert_eq!(ran.status.code(), Some(78), "{verb}: {told}");
        assert!(told.contains("belongs to another account"), "{verb}: {told}");
    }
    let setup = Setup::new()?;
    let stage = make(&setup)?;
    for (mount, verb) in [
        ("mount -t tmpfs -o mode=700 none", "check"),
        ("mount -t tmpfs -o mode=700 none", "serve"),
        ("mount --bind \"$0\"", "serve"), // The same file system, and yet a mount.
    ] {
        let script = format!("{mount} \"$0\" && exec \"$@\"");
        let ran = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .arg(&stage)
            .args([env!("CARGO_BIN_EXE_ftd"), verb, "--config"])
            .arg(setup.path("ftd.toml"))
            .output()?;
        let told = String::from_utf8(ran.stderr)?;
        assert_eq!(ran.status.code(), Some(78), "{verb}, {mount}: {told}");
        assert!(told.contains("root's own file system"), "{verb}, {mount}: {told}");
    }
    Ok(())
}

/// S-14: a write of which the kernel takes a part, and then no more, ends the put and nothing else. (That
/// interrupted writes are repeated the torture of every call shows.)
#[test]
fn a_write_that_is_cut_short_for_good_leaves_the_old_file() -> TestResult {
    let daemon = Daemon::start()?;
    daemon.ftc_unix().input("old").ok(["put", "-", ":f"])?;
    let limit = format!("--fsize={0}:{0}", (1 << 20) + 1234);
    let set = Command::new("prlimit").args(["--pid", &daemon.pid().to_string(), &limit]).status();
    assert!(set.is_ok_and(|status| status.success()), "prlimit, of util-linux, is needed");
    let mut raw = Raw::greeted(&daemon)?;
    raw.bytes(&put(1, &json!("f"), &noise(3 << 20, 7)))?;
    assert_eq!(raw.expect()?.code(), "TOO_LARGE");
    assert_eq!(std::fs::read(daemon.stored("f"))?, b"old");
    daemon.assert_nothing_staged()?;
    raw.bytes(&put(2, &json!("f"), &noise(1 << 20, 7)))?;
    assert_eq!(raw.expect()?.kind, ANSWER, "what fits is stored");
    assert!(std::fs::read(daemon.stored("f"))? == noise(1 << 20, 7));
    Ok(())
}

/// R-12: of a tree of a thousand levels that was made outside, what a path can name is served, and the rest
/// is refused by its spelling; a count at the start comes to its bottom.
#[test]
fn a_tree_of_a_thousand_levels_is_served_as_far_as_paths_reach() -> TestResult {
    let setup = Setup::new()?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.write_config(&(text + "quota-files = 2000\n"))?;
    let deep = ["d"; 1000].join("/");
    let make = "cd \"$0\" && for level in $(seq 1000); do mkdir d && cd -P d || exit 1; done";
    std::fs::create_dir(setup.path("root/alice"))?;
    let status = Command::new("sh").args(["-c", make]).arg(setup.path("root/alice")).status()?;
    assert!(status.success());
    let daemon = setup.start()?;
    let mut raw = Raw::greeted(&daemon)?;
    let level = |count: usize| &deep[..2 * count - 1];
    let list = |count: usize| json!({"verb": "list", "path": level(count)});
    raw.request(1, &list(64))?;
    while raw.expect()?.kind != ANSWER {}
    assert_eq!(raw.code_of(2, &list(65))?, "BAD_NAME");
    assert_eq!(raw.code_of(3, &json!({"verb": "rmdir", "path": level(64)}))?, "NOT_EMPTY");
    assert_eq!(raw.code_of(4, &json!({"verb": "get", "path": level(1000)}))?, "BAD_NAME");
    let check = json!({"verb": "rename", "path": level(1), "to": "e"});
    assert_eq!(raw.code_of(5, &check)?, "frame 8", "a rename moves it whole");
    let removed = daemon.ftc_unix().run(["get", "-r", ":e", "."])?;
    assert_ne!(removed.code, Some(0), "a tree that cannot be had whole is told");
    assert!(removed.err.contains("64") || removed.err.contains("deep"), "{}", removed.err);
    Ok(())
}
