//! Goal: who is listed comes in from where, until when and if he may, and is told no more than a stranger
//! otherwise (catalogue A-06, G-03, G-09). Method: real keys and files, real reloads behind the sandbox.
#![allow(clippy::disallowed_methods, reason = "tests set keys and files up from outside")]

mod support;

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use support::raw::Raw;
use support::{Daemon, Setup, TestResult, make_key};

fn public(path: &Path) -> Result<String, std::io::Error> {
    Ok(std::fs::read_to_string(path.with_extension("pub"))?.trim().to_owned())
}

/// Writes a file that only its owner may write.
fn write(path: &Path, text: &str) -> TestResult {
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?;
    Ok(())
}

fn append(setup: &Setup, text: &str) -> TestResult {
    let before = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.write_config(&format!("{before}{text}"))
}

/// A user whose only key is `key-NAME`, with more lines.
fn user(dir: &Path, name: &str, lines: &str) -> Result<String, Box<dyn std::error::Error>> {
    let key = dir.join(format!("key-{name}"));
    if !key.exists() {
        make_key(&key, "ed25519", "")?;
    }
    let key = public(&key)?;
    Ok(format!("[[user]]\nname = {name:?}\nkeys = [{key:?}]\nallow = [\"list\"]\n{lines}\n"))
}

/// What `ftc ls` says over TLS with a key: its exit code and its words.
fn come(daemon: &Daemon, key: &str) -> Result<(Option<i32>, String), Box<dyn std::error::Error>> {
    let ran = daemon.ftc_tls().env("FTC_IDENTITY", daemon.path(key)).run(["ls"])?;
    Ok((ran.code, ran.err))
}

fn reload(daemon: &Daemon, times: usize) -> TestResult {
    daemon.signal(Signal::SIGHUP)?;
    daemon.wait_for_log_times("configuration reloaded", times).map(drop)
}

/// every reason gives the answer that a stranger gets; only the log tells them apart.
#[test]
fn who_may_not_come_in_is_told_no_more_than_a_stranger() -> TestResult {
    let setup = Setup::new()?;
    let dir = setup.dir.path();
    let rows = [
        ("later", "expires = 9999-12-31", None),
        ("far", "from = [\"192.0.2.0/24\", \"::1\"]", Some("it may not come from this address")),
        ("gone", "expires = 2020-01-01", Some("it has expired")),
        ("off", "enabled = false", Some("it is not enabled")),
        ("near", "from = [\"127.0.0.0/8\"]", None),
    ];
    let mut text = String::new();
    for (name, lines, _) in rows {
        text += &user(dir, name, lines)?;
    }
    for (name, line) in [("far2", "from = [\"192.0.2.0/24\"]"), ("gone2", "expires = 2020-01-01")] {
        make_key(&dir.join(format!("key-{name}")), "ed25519", "")?;
        let key = public(&dir.join(format!("key-{name}")))?;
        text += &format!("[[user.key]]\nline = {key:?}\n{line}\n");
    }
    append(&setup, &text)?;
    make_key(&setup.path("key-stranger"), "ed25519", "")?;
    let daemon = setup.start()?;

    let blank = |words: &str| {
        // The fingerprint and the key line are the peer's own.
        let parts: Vec<_> = words.split("SHA256:").collect();
        let start = parts.first().copied().unwrap_or_default().to_owned();
        let rest = parts.get(1).and_then(|rest| rest.split_once(' ')).map(|(_, rest)| rest);
        start + rest.and_then(|rest| rest.split("ssh-ed25519").next()).unwrap_or_default()
    };
    let (code, stranger) = come(&daemon, "key-stranger")?;
    assert_eq!(code, Some(4));
    for (name, _, why) in rows {
        let (code, words) = come(&daemon, &format!("key-{name}"))?;
        let Some(why) = why else {
            assert_eq!(code, Some(0), "{name}: {words}");
            continue;
        };
        assert_eq!((code, blank(&words)), (Some(4), blank(&stranger)), "{name}");
        daemon.wait_for_log(&format!("refused: the user {name}: {why}"))?;
    }
    for (name, why) in [("far2", "it may not come from this address"), ("gone2", "it has expired")]
    {
        let (code, words) = come(&daemon, &format!("key-{name}"))?;
        assert_eq!((code, blank(&words)), (Some(4), blank(&stranger)), "{name}");
        daemon.wait_for_log(&format!("refused: this key of near: {why}"))?;
    }
    Ok(())
}

#[test]
fn an_end_that_passes_ends_the_session() -> TestResult {
    let daemon = Daemon::start()?;
    let mut session = Raw::greeted(&daemon)?;
    assert_eq!(session.code_of(1, &serde_json::json!({"verb": "list"}))?, "frame 8");
    // Only once he is in, however long that takes.
    let end = SystemTime::now() + Duration::from_secs(3);
    let end = humantime::format_rfc3339_seconds(end).to_string();
    let text = std::fs::read_to_string(daemon.path("ftd.toml"))?;
    write(&daemon.path("ftd.toml"), &format!("{text}expires = {end}\n"))?;
    reload(&daemon, 1)?;
    let began = Instant::now();
    session.expect_closed("AUTH")?;
    assert!(began.elapsed() < Duration::from_secs(3 + 5));
    daemon.wait_for_log("ended: the user alice: it has expired")?;
    assert_eq!(daemon.ftc_unix().run(["ls"])?.code, Some(4));
    Ok(())
}

/// G-09, G-03: keys from a file, and what becomes of them at a reload.
#[test]
fn a_file_with_keys_is_read_again_at_a_reload_and_taken_whole_or_not_at_all() -> TestResult {
    let setup = Setup::new()?;
    for name in ["one", "two", "bound"] {
        make_key(&setup.path(name), "ed25519", "")?;
    }
    std::fs::create_dir(setup.path("keys"))?;
    let (file, outside) = (setup.path("keys/bob"), tempfile::tempdir()?);
    let bound = format!("from=\"192.0.2.1\" {}", public(&setup.path("bound"))?);
    write(&file, &format!("# bob's\n{}\n{bound}\n", public(&setup.path("one"))?))?;
    let bob = format!("[[user]]\nname = \"bob\"\nkeys-file = {file:?}\nallow = [\"list\"]\n");
    append(&setup, &bob)?;
    let daemon = setup.start()?;
    assert_eq!(come(&daemon, "one")?.0, Some(0));
    assert_eq!(come(&daemon, "two")?.0, Some(4));
    assert_eq!(come(&daemon, "bound")?.0, Some(4));

    // As a tool would: a new file takes the place of the old one.
    write(&daemon.path("keys/new"), &format!("{}\n", public(&daemon.path("two"))?))?;
    std::fs::rename(daemon.path("keys/new"), &file)?;
    reload(&daemon, 1)?;
    assert_eq!(come(&daemon, "one")?.0, Some(4));
    assert_eq!(come(&daemon, "two")?.0, Some(0));

    let good = std::fs::read_to_string(&file)?;
    let refusals = [
        (
            format!("{good}no-pty {}\n", public(&daemon.path("one"))?),
            0o644,
            ":2: user.bob.keys-file: the option \"no-pty\"",
        ),
        (format!("{good}ssh-rsa AAAA\n"), 0o644, ":2: user.bob.keys-file: "),
        (good.clone(), 0o664, "others may write it"),
        (good.clone(), 0o646, "others may write it"),
    ];
    for (text, mode, why) in refusals {
        std::fs::write(&file, text)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode))?;
        daemon.signal(Signal::SIGHUP)?;
        daemon.wait_for_log(why)?;
        assert_eq!(come(&daemon, "two")?.0, Some(0), "nothing changed after: {why}");
    }
    std::fs::remove_file(&file)?;
    symlink(daemon.path("two.pub"), &file)?;
    daemon.signal(Signal::SIGHUP)?;
    daemon.wait_for_log("a symbolic link, which is not followed here")?;
    // Out of the sandbox's reach, and said so.
    write(&outside.path().join("bob"), &good)?;
    let text = std::fs::read_to_string(daemon.path("ftd.toml"))?;
    let moved = text.replace(&format!("{file:?}"), &format!("{:?}", outside.path().join("bob")));
    std::fs::write(daemon.path("ftd.toml"), moved)?;
    daemon.signal(Signal::SIGHUP)?;
    daemon
        .wait_for_log("when ftd started, so that its sandbox keeps it from there; restart ftd")?;
    assert_eq!(come(&daemon, "two")?.0, Some(0));
    Ok(())
}

#[test]
fn users_may_stand_in_a_directory_beside_the_file() -> TestResult {
    let setup = Setup::new()?;
    let include = setup.path("ftd.d");
    std::fs::create_dir(&include)?;
    std::fs::set_permissions(&include, std::fs::Permissions::from_mode(0o755))?;
    write(&include.join("bob.toml"), &user(setup.dir.path(), "bob", "")?)?;
    write(&include.join("README"), "not read")?;
    write(&include.join(".hidden.toml"), "not read")?;
    let checked = setup.ftd(&["check"])?;
    assert!(String::from_utf8_lossy(&checked.stdout).contains("2 users"), "{checked:?}");
    let daemon = setup.start()?;
    assert_eq!(come(&daemon, "key-bob")?.0, Some(0));
    assert_eq!(come(&daemon, "key")?.0, Some(0));

    write(&include.join("carol.toml"), &user(daemon.dir.path(), "carol", "")?)?;
    std::fs::remove_file(include.join("bob.toml"))?;
    reload(&daemon, 1)?;
    assert_eq!(come(&daemon, "key-bob")?.0, Some(4));
    assert_eq!(come(&daemon, "key-carol")?.0, Some(0));

    let bad = include.join("x.toml");
    let told = || -> Result<String, Box<dyn std::error::Error>> {
        let mut ftd = std::process::Command::new(env!("CARGO_BIN_EXE_ftd"));
        let ran = ftd.args(["check", "--config"]).arg(daemon.path("ftd.toml")).output()?;
        assert_eq!(ran.status.code(), Some(78));
        Ok(String::from_utf8(ran.stderr)?)
    };
    for (text, mode, why) in [
        ("[limits]\n", 0o644, "x.toml:1: limits: unknown key; in the include directory"),
        (
            "\n[[user]]\nnam = 1\n",
            0o644,
            "x.toml:3: user[1].nam: unknown key; did you mean `name`?",
        ),
        ("", 0o666, "x.toml: others may write it"),
        ("", 0o664, "x.toml: others may write it"),
    ] {
        std::fs::write(&bad, text)?;
        std::fs::set_permissions(&bad, std::fs::Permissions::from_mode(mode))?;
        let told = told()?;
        assert!(told.contains(why), "{told}");
        daemon.signal(Signal::SIGHUP)?;
        daemon.wait_for_log(why)?;
        assert_eq!(come(&daemon, "key-carol")?.0, Some(0), "nothing changed");
    }
    std::fs::remove_file(&bad)?;
    symlink(daemon.path("key.pub"), &bad)?;
    assert!(told()?.contains("x.toml: a symbolic link"));
    std::fs::remove_file(&bad)?;
    std::fs::set_permissions(&include, std::fs::Permissions::from_mode(0o777))?;
    assert!(told()?.contains("ftd.d: others may write it"));
    std::fs::rename(&include, daemon.path("elsewhere"))?;
    symlink(daemon.path("elsewhere"), &include)?;
    assert!(told()?.contains("ftd.d"));
    Ok(())
}
