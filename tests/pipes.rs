//! Goal: a pipe never passes for whole what is not, in either direction.
//! Method: producers that fail, consumers that leave, content that was damaged.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use support::{Daemon, TestResult, noise, sha256};

/// A command's output is stored if the command ends with 0, and only then.
#[test]
fn a_command_that_fails_stores_nothing() -> TestResult {
    let daemon = Daemon::start()?;
    daemon.ftc_tls().input("old").ok(["put", "-", ":dump.sql"])?;
    for (command, told) in [
        ("printf half; exit 3", "exit status: 3"),
        ("printf half; kill -9 $$", "signal: 9"),
        ("no-such-command-here", "exit status: 127"),
    ] {
        let ran = daemon.ftc_tls().run(["put", "--from-cmd", command, ":dump.sql"])?;
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        assert!(ran.err.contains(told) && ran.err.contains("hint: "), "{}", ran.err);
        assert_eq!(std::fs::read(daemon.stored("dump.sql"))?, b"old");
    }
    daemon.ftc_tls().ok(["put", "--from-cmd", "printf whole", ":dump.sql"])?;
    assert_eq!(std::fs::read(daemon.stored("dump.sql"))?, b"whole");
    let nameless = daemon.ftc_tls().run(["put", "--from-cmd", "true"])?;
    assert_eq!(nameless.code, Some(2), "{}", nameless.err);
    daemon.assert_nothing_staged()
}

/// `-n` reads no pipe, runs no command, and moves and changes nothing.
#[test]
fn a_dry_run_leaves_pipes_alone() -> TestResult {
    let daemon = Daemon::start()?;
    daemon.ftc_unix().input("old").ok(["put", "-", ":old"])?;
    for (words, code, told) in [
        (&["put", "-n", "-", ":new"][..], 0, "would store new\n"),
        (&["put", "-n", "--from-cmd", "touch ran; echo new", ":old"], 0, "would replace old\n"),
        (&["put", "-n", "--no-clobber", "-", ":old"], 7, ""),
        (&["get", "-n", ":old", "-"], 0, "would fetch -\n"),
        (&["get", "-n", "--spool", ":none", "-"], 6, ""),
    ] {
        let ran = daemon.ftc_unix().input("new").run(words)?;
        assert_eq!(
            (ran.code, String::from_utf8(ran.out)?.as_str()),
            (Some(code), told),
            "{words:?}"
        );
    }
    assert!(!daemon.path("ran").exists(), "the command was run");
    assert!(!daemon.stored("new").exists());
    assert_eq!(std::fs::read(daemon.stored("old"))?, b"old");
    Ok(())
}

/// A refused command's put ends at once, and the command with it.
#[test]
fn a_refusal_ends_the_command() -> TestResult {
    let daemon = support::Setup::with(r#"["get", "list"]"#, "")?.start()?;
    let ran = daemon.ftc_unix().run(["put", "--from-cmd", "exec cat /dev/zero", ":x"])?;
    assert_eq!(ran.code, Some(5), "{}", ran.err);
    Ok(())
}

/// What a slow producer has written by now is on its way; it need not fill a buffer first.
#[test]
fn a_slow_pipe_is_sent_as_it_comes() -> TestResult {
    let daemon = Daemon::start()?;
    let mut client = daemon.ftc_unix().stdin_pipe().spawn(["put", "-", ":slow"])?;
    let mut stdin = client.stdin.take().ok_or("no stdin")?;
    stdin.write_all(b"first")?;
    let staged = daemon.path("root/.ftd-stage");
    let deadline = std::time::Instant::now() + support::PATIENCE;
    loop {
        let mut files = std::fs::read_dir(&staged)?.flatten();
        if files.any(|file| std::fs::read(file.path()).is_ok_and(|content| content == b"first")) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "nothing arrived");
        support::pause();
    }
    stdin.write_all(b" second")?;
    drop(stdin);
    assert!(client.wait()?.success());
    assert_eq!(std::fs::read(daemon.stored("slow"))?, b"first second");
    Ok(())
}

/// Standard output gets the bytes as they come, and the exit code says whether they were good. With a
/// spool not one byte of what is not good comes out.
#[test]
fn a_get_to_a_pipe_tells_whether_it_was_whole() -> TestResult {
    let daemon = Daemon::start()?;
    let content = noise(3_000_000, 5);
    daemon.ftc_unix().input(content.clone()).ok(["put", "-", ":f"])?;
    for words in [&["get", ":f", "-"][..], &["get", "--spool", ":f", "-"]] {
        let ran = daemon.ftc_tls().ok(words)?;
        assert_eq!(sha256(&ran.out), sha256(&content), "{words:?}");
    }
    let path = daemon.stored("f");
    let modified = std::fs::metadata(&path)?.modified()?;
    let file = std::fs::File::options().write(true).open(&path)?;
    file.write_all_at(&[content[1_000_000] ^ 1], 1_000_000)?;
    file.set_modified(modified)?;
    let ran = daemon.ftc_tls().run(["get", ":f", "-"])?;
    assert_eq!((ran.code, ran.out.len()), (Some(9), content.len()), "{}", ran.err);
    let ran = daemon.ftc_tls().run(["get", "--spool", ":f", "-"])?;
    assert_eq!((ran.code, ran.out.len()), (Some(9), 0), "{}", ran.err);
    Ok(())
}

/// A reader that has seen enough is no failure.
#[test]
fn a_closed_pipe_ends_quietly() -> TestResult {
    let daemon = Daemon::start()?;
    daemon.ftc_unix().input(noise(3_000_000, 6)).ok(["put", "-", ":f"])?;
    for words in [&["-q", "get", ":f", "-"][..], &["-q", "get", "--spool", ":f", "-"]] {
        let mut client = daemon.ftc_unix().spawn(words)?;
        drop(client.stdout.take());
        assert_eq!(client.wait()?.code(), Some(0), "{words:?}");
    }
    Ok(())
}

/// `ls --sha256` is what `sha256sum -c` reads, whatever the names.
#[test]
fn digests_of_a_listing_are_checked_by_sha256sum() -> TestResult {
    let daemon = Daemon::start()?;
    let tree = daemon.path("tree");
    std::fs::create_dir_all(tree.join("sub dir"))?;
    for name in ["plain", "back\\slash", "sub dir/größe", "*star"] {
        std::fs::write(tree.join(name), name)?;
    }
    daemon.ftc_unix().ok(["put", "-r", "tree", ":"])?;
    let sums = daemon.ftc_unix().ok(["ls", "-R", "--sha256", ":tree"])?.out;
    assert_eq!(String::from_utf8(sums.clone())?.lines().count(), 4);
    std::fs::write(daemon.path("sums"), &sums)?;
    let checked = std::process::Command::new("sha256sum")
        .args(["-c", "--strict", "--quiet", "sums"])
        .current_dir(daemon.dir.path())
        .output()?;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    std::fs::write(tree.join("plain"), "changed")?;
    let ran = daemon.ftc_unix().run(["verify", "-r", "tree", ":tree"])?;
    assert_eq!(ran.code, Some(10), "{}", ran.err);
    let told = String::from_utf8(ran.out)?;
    assert!(told.contains("tree/plain: FAILED (another size)\n"), "{told}");
    assert_eq!(told.matches(": OK\n").count(), 3, "{told}");
    let one = daemon.ftc_unix().run(["verify", "tree/plain", ":tree/plain"])?;
    assert_eq!(one.code, Some(9), "{}", one.err);
    Ok(())
}
