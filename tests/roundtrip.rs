//! Goal: what is put comes back byte for byte, by its exact name, over both transports.
//! Method: real daemon, real client, one row per size, name or content that has broken somebody.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

use support::{Daemon, Setup, TestResult, noise, sha256};

/// Bytes of a buffer of the data path: around it the ways of small and large files part.
const BUFFER: usize = 512 * 1024;

#[test]
fn every_size_comes_back_over_both_transports() -> TestResult {
    let daemon = Daemon::start()?;
    for bytes in [
        0,
        1,
        4095,
        4096,
        65_537,
        BUFFER - 1,
        BUFFER,
        BUFFER + 1,
        (1 << 20) - 1,
        1 << 20,
        (1 << 20) + 1,
        9_000_001,
    ] {
        let content = noise(bytes, bytes as u64 + 1);
        std::fs::write(daemon.path("file"), &content)?;
        for (ftc, other, name) in
            [(daemon.ftc_unix(), daemon.ftc_tls(), "u"), (daemon.ftc_tls(), daemon.ftc_unix(), "t")]
        {
            let name = format!("{name}{bytes}");
            let ran = ftc.ok(["put", "file", &format!(":{name}")])?;
            assert!(ran.err.contains(&sha256(&content)), "{}", ran.err);
            assert_eq!(std::fs::read(daemon.stored(&name))?, content, "{name}");
            other.ok(["get", &format!(":{name}"), "back"])?;
            assert_eq!(std::fs::read(daemon.path("back"))?, content, "{name}");
        }
    }
    daemon.assert_nothing_staged()
}

/// Past every 32-bit limit.
const BYTES: u64 = 5 << 30;

#[test]
fn five_gibibytes_come_back() -> TestResult {
    let daemon = Daemon::start()?;
    let file = std::fs::File::create(daemon.path("sparse"))?;
    file.set_len(BYTES)?;
    file.write_all_at(b"end", BYTES - 3)?;
    let put = daemon.ftc_unix().ok(["put", "sparse"])?;
    let digest = put.err.split("sha256 ").nth(1).map(str::trim).ok_or("no digest")?.to_owned();
    assert_eq!(std::fs::metadata(daemon.stored("sparse"))?.len(), BYTES);
    // The digest that is kept with the file serves as the trailer: the client hashed and compared it.
    let mut get = daemon.ftc_tls().spawn(["get", ":sparse", "-"])?;
    let mut out = get.stdout.take().ok_or("no stdout")?;
    assert_eq!(std::io::copy(&mut out, &mut std::io::sink())?, BYTES);
    assert!(get.wait()?.success());
    let stat = daemon.ftc_unix().ok(["stat", ":sparse"])?;
    assert!(String::from_utf8(stat.out)?.contains(&digest));
    Ok(())
}

#[test]
fn names_are_bytes_and_come_back_as_they_are() -> TestResult {
    let daemon = Daemon::start()?;
    let long = "n".repeat(255);
    let decomposed = "u\u{0308}nicode";
    for name in [
        "with space",
        " leading",
        "trailing ",
        "emoji 📦🚀",
        "größe",
        "ünicode",
        decomposed,
        "CASE",
        "case",
        "-dash",
        "--help",
        "quote'\"",
        "back\\slash",
        "%2e%2e%2f",
        "..\\x",
        "...",
        "a:b",
        "*?[glob]",
        "$HOME",
        "EOF",
        &long,
    ] {
        let content = name.repeat(3).into_bytes();
        let path = format!(":{name}");
        daemon.ftc_unix().input(content.clone()).ok(["put", "--", "-", &path])?;
        assert_eq!(std::fs::read(daemon.stored(name))?, content, "{name}");
        assert_eq!(daemon.ftc_unix().ok(["get", "--", &path, "-"])?.out, content, "{name}");
        let listing = String::from_utf8(daemon.ftc_unix().ok(["ls"])?.out)?;
        assert!(
            listing.lines().any(|line| line == name.replace('\\', "\\\\")),
            "{name}: {listing}"
        );
    }
    Ok(())
}

#[test]
fn names_that_cannot_be_are_refused_and_say_why() -> TestResult {
    let daemon = Daemon::start()?;
    let too_long = "n".repeat(256);
    for (name, why) in [
        ("line\nbreak", "control"),
        ("esc\x1b[31m", "control"),
        ("bidi\u{202e}txt", "text-direction"),
        (too_long.as_str(), "255"),
        ("../up", ".."),
        (".ftd-mine", "reserved"),
    ] {
        let ran = daemon.ftc_unix().input("x").run(["put", "-", &format!(":{name}")])?;
        assert_eq!(ran.code, Some(2), "{}", ran.err);
        assert!(ran.err.contains(why) && !ran.err.contains('\x1b'), "{}", ran.err);
    }
    assert_eq!(std::fs::read_dir(daemon.path("root/alice"))?.count(), 0);
    Ok(())
}

/// A file may contain anything, also what the protocol is made of.
#[test]
fn content_is_never_taken_for_protocol() -> TestResult {
    use support::raw::{ABORT, EOF, TRAILER, frame, put, trailer};
    let daemon = Daemon::start()?;
    let mut content = b"EOF\nEOF".to_vec();
    content.extend(put(1, &"x".into(), b"inner"));
    content.extend(frame(EOF, 1, b""));
    content.extend(frame(TRAILER, 1, &trailer(b"")));
    content.extend(frame(ABORT, 1, b"{}"));
    content.extend(b"ready\nput x\n");
    for ftc in [daemon.ftc_unix(), daemon.ftc_tls()] {
        ftc.input(content.clone()).ok(["put", "-", ":frames"])?;
        assert_eq!(std::fs::read(daemon.stored("frames"))?, content);
    }
    assert_eq!(daemon.ftc_tls().ok(["get", ":frames", "-"])?.out, content);
    Ok(())
}

#[test]
fn a_pipe_of_unknown_size_is_stored_whole() -> TestResult {
    let daemon = Daemon::start()?;
    let content = noise(5_000_000, 7);
    daemon.ftc_tls().input(content.clone()).ok(["put", "-", ":dump.sql"])?;
    assert_eq!(std::fs::read(daemon.stored("dump.sql"))?, content);
    let nameless = daemon.ftc_tls().input("x").run(["put", "-"])?;
    assert_eq!(nameless.code, Some(2));
    assert!(nameless.err.contains("hint: say what to call it"), "{}", nameless.err);
    Ok(())
}

#[test]
fn operands_mean_what_scp_users_expect() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::create_dir(daemon.path("d"))?;
    std::fs::write(daemon.path("d/one"), "1")?;
    std::fs::write(daemon.path("two"), "2")?;
    daemon.ftc_unix().ok(["put", "d/one"])?;
    daemon.ftc_unix().ok(["put", "d/one", "two", ":sub/dir/"])?;
    daemon.ftc_unix().ok(["put", "two", ":sub/renamed"])?;
    for (name, content) in
        [("one", "1"), ("sub/dir/one", "1"), ("sub/dir/two", "2"), ("sub/renamed", "2")]
    {
        assert_eq!(std::fs::read_to_string(daemon.stored(name))?, content, "{name}");
    }
    std::fs::create_dir(daemon.path("in"))?;
    daemon.ftc_unix().ok(["get", ":sub/dir/one"])?;
    daemon.ftc_unix().ok(["get", "sub/dir/one", ":sub/dir/two", "in"])?;
    for (name, content) in [("one", "1"), ("in/one", "1"), ("in/two", "2")] {
        assert_eq!(std::fs::read_to_string(daemon.path(name))?, content, "{name}");
    }
    daemon.ftc_unix().ok(["put", "two", ":sub"])?;
    assert_eq!(
        std::fs::read_to_string(daemon.stored("sub/two"))?,
        "2",
        "into a directory that is there"
    );
    let below_file = daemon.ftc_unix().run(["put", "two", ":one/two"])?;
    assert_eq!(below_file.code, Some(1));
    assert!(
        below_file.err.contains("WRONG_TYPE") && below_file.err.contains("hint: "),
        "{}",
        below_file.err
    );
    Ok(())
}

#[test]
fn no_clobber_keeps_what_is_there_on_both_sides() -> TestResult {
    let daemon = Daemon::start()?;
    daemon.ftc_unix().input("old").ok(["put", "-", ":f"])?;
    let put = daemon.ftc_unix().input("new").run(["put", "--no-clobber", "-", ":f"])?;
    assert_eq!(
        (put.code, std::fs::read_to_string(daemon.stored("f"))?),
        (Some(7), "old".to_owned()),
        "{}",
        put.err
    );
    std::fs::write(daemon.path("f"), "mine")?;
    let get = daemon.ftc_unix().run(["get", "--no-clobber", ":f", "f"])?;
    assert_eq!(
        (get.code, std::fs::read_to_string(daemon.path("f"))?),
        (Some(7), "mine".to_owned()),
        "{}",
        get.err
    );
    let put = daemon.ftc_unix().input("new").ok(["put", "-", ":f"])?;
    assert!(put.err.contains("replacing"), "{}", put.err);
    assert_eq!(std::fs::read_to_string(daemon.stored("f"))?, "new");
    daemon.ftc_unix().ok(["get", ":f", "f"])?;
    assert_eq!(std::fs::read_to_string(daemon.path("f"))?, "new");
    assert!(
        std::fs::read_dir(daemon.dir.path())?
            .flatten()
            .all(|entry| { !entry.file_name().to_string_lossy().starts_with(".ftd-") })
    );
    Ok(())
}

#[test]
fn mode_and_time_are_kept_when_asked_and_set_id_never() -> TestResult {
    let daemon = Daemon::start()?;
    let file = daemon.path("script");
    std::fs::write(&file, "#!/bin/sh\n")?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4777))?;
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    std::fs::File::options().write(true).open(&file)?.set_modified(long_ago)?;
    daemon.ftc_tls().ok(["put", "-p", "script", ":kept"])?;
    daemon.ftc_tls().ok(["put", "script", ":plain"])?;
    let kept = std::fs::metadata(daemon.stored("kept"))?;
    assert_eq!(
        (kept.mode() & 0o7777, kept.modified()?),
        (0o755, long_ago),
        "the umask of the server holds"
    );
    let plain = std::fs::metadata(daemon.stored("plain"))?;
    assert_eq!(plain.mode() & 0o7777, 0o644);
    assert!(plain.modified()? > long_ago);
    daemon.ftc_tls().ok(["get", "-p", ":kept", "back"])?;
    assert_eq!(std::fs::metadata(daemon.path("back"))?.modified()?, long_ago);
    Ok(())
}

/// The digest that is kept with a file proves what comes out, and never vouches for other content.
#[test]
fn decay_is_noticed_and_local_changes_are_new_content() -> TestResult {
    let daemon = Daemon::start()?;
    let content = noise(2_000_000, 3);
    daemon.ftc_unix().input(content.clone()).ok(["put", "-", ":f"])?;
    // Decay: a byte flips and neither size nor time tells.
    let file = std::fs::File::options().write(true).open(daemon.stored("f"))?;
    let before = file.metadata()?.modified()?;
    file.write_all_at(&[!content[1_000_000]], 1_000_000)?;
    file.set_modified(before)?;
    let get = daemon.ftc_tls().run(["get", ":f", "decayed"])?;
    assert_eq!(get.code, Some(9), "{}", get.err);
    assert!(!daemon.path("decayed").exists(), "nothing may show under the name");
    assert_eq!(daemon.ftc_tls().run(["get", ":f", "-"])?.code, Some(9));
    // A local process writes a new version: that is what is there now.
    std::fs::write(daemon.stored("f"), "a new version")?;
    assert_eq!(daemon.ftc_tls().ok(["get", ":f", "-"])?.out, b"a new version");
    assert!(!String::from_utf8(daemon.ftc_tls().ok(["stat", ":f"])?.out)?.contains("sha256"));
    Ok(())
}

/// What cannot be told changes nothing about what was done.
#[test]
fn a_stderr_that_takes_nothing_is_no_failure() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::write(daemon.path("f"), "content")?;
    for (words, code) in
        [(["-v", "put", "f"], 0), (["get", ":f", "g"], 0), (["get", ":none", "h"], 6)]
    {
        let full = std::fs::File::options().write(true).open("/dev/full")?;
        let status = daemon.ftc_unix().stderr(full).spawn(words)?.wait()?;
        assert_eq!(status.code(), Some(code), "{words:?}");
    }
    Ok(())
}

/// A file that cannot be stored here leaves the connection good for the next one.
#[test]
fn a_get_that_fails_here_spoils_no_other() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::create_dir(daemon.path("here"))?;
    for name in ["one", "two"] {
        std::fs::write(daemon.path(name), noise(3 << 20, 8))?;
        daemon.ftc_unix().ok(["put", name])?;
    }
    std::fs::write(daemon.path("here/one"), "mine")?;
    let ran = daemon.ftc_unix().run(["get", "--no-clobber", ":one", ":two", "here/"])?;
    assert_eq!(ran.code, Some(10), "{ran:?}");
    assert_eq!(std::fs::read(daemon.path("here/one"))?, b"mine");
    assert_eq!(std::fs::read(daemon.path("here/two"))?, noise(3 << 20, 8));
    Ok(())
}

/// A put from a pipe that says nothing yet is under way, and a refusal does not wait for the pipe.
#[test]
fn a_refusal_does_not_wait_for_a_silent_pipe() -> TestResult {
    let daemon = Setup::with(r#"["get", "list"]"#, "")?.start()?;
    let mut client = daemon.ftc_unix().stdin_pipe().spawn(["put", "-", ":refused"])?;
    let _silent = client.stdin.take().ok_or("no stdin")?;
    let status = client.wait()?;
    assert_eq!(status.code(), Some(5));
    Ok(())
}
