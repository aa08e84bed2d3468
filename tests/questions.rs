//! Goal: what `ftc` asks stays to be read until it is answered, and whoever does not want to answer leaves at once.
//! Method: a real pseudo-terminal (Python's), a daemon that is not known yet, a key with a passphrase.
#![allow(clippy::disallowed_methods, reason = "tests set keys and files up from outside")]

mod support;

use std::ffi::OsStr;

use support::terminal::{self, Output};
use support::{Daemon, Setup, TestResult, make_key};

type Script<'a> = &'a [(&'a str, &'a str, f32)];

/// The end of the question about a server's key.
const TRUST: &str = "(yes/no)? ";
/// Seconds in which a bar would have been drawn.
const A_WHILE: f32 = 0.7;

/// Runs `ftc` on a terminal, over TLS.
fn on_terminal(daemon: &Daemon, key: &str, words: &[&str], script: Script<'_>) -> Output {
    let (key, known_hosts) = (daemon.path(key), daemon.path("known_hosts"));
    let variables = [
        ("FTC_IDENTITY", key.as_os_str()),
        ("FTC_KNOWN_HOSTS", known_hosts.as_os_str()),
        ("FTC_SERVER", OsStr::new(&daemon.address)),
    ];
    terminal::on_terminal(daemon, &variables, words, script)
}

/// A daemon that knows alice also by a key that is locked.
fn daemon() -> Result<Daemon, Box<dyn std::error::Error>> {
    let setup = Setup::new()?;
    make_key(&setup.path("locked"), "ed25519", "open sesame")?;
    let key = std::fs::read_to_string(setup.path("locked.pub"))?;
    let config = std::fs::read_to_string(setup.path("ftd.toml"))?;
    let both = config.replacen("keys = [", &format!("keys = [\"{}\", ", key.trim()), 1);
    setup.write_config(&both)?;
    let daemon = setup.start()?;
    std::fs::write(daemon.path("file"), "content")?;
    std::fs::create_dir(daemon.path("tree"))?;
    std::fs::write(daemon.path("tree/a"), "a")?;
    Ok(daemon)
}

#[test]
fn no_progress_is_drawn_over_a_question() -> TestResult {
    let daemon = daemon()?;
    daemon.ftc_unix().input("x").ok(["put", "-", ":there"])?;
    for words in [&["put", "file"][..], &["get", ":there"], &["put", "-r", "tree"]] {
        // The passphrase comes first: it is needed before the server shows its key.
        let script = [
            ("Passphrase of ", "", 0.0),
            (": ", "open sesame\r", A_WHILE),
            (TRUST, "yes\r", A_WHILE),
        ];
        let (code, text) = on_terminal(&daemon, "locked", words, &script)?;
        assert_eq!(code, Some(0), "{words:?}: {text}");
        let (before, _) = text.split_once(TRUST).ok_or("no question")?;
        assert!(!before.contains('%') && !before.contains(" B "), "{words:?}: {text:?}");
        assert!(!text.contains("sesame"), "{text}");
        std::fs::remove_file(daemon.path("known_hosts"))?;
    }
    Ok(())
}

#[test]
fn a_question_can_be_left_with_control_c_and_by_sigterm() -> TestResult {
    let daemon = daemon()?;
    for words in [&["ls"][..], &["put", "file"], &["get", ":file"], &["put", "-r", "tree"]] {
        for (key, question) in [("key", TRUST), ("locked", "Passphrase of ")] {
            for typed in ["\x03", "SIGTERM"] {
                // Half an answer was typed already.
                let script = [(question, "ye", 0.0), ("", typed, 0.0)];
                let (code, text) = on_terminal(&daemon, key, words, &script)?;
                let what = format!("{words:?} {question} {typed:?}: {text}");
                assert_eq!(code, Some(11), "{what}");
                assert!(text.contains("\r\u{1b}[Kftc: interrupted"), "{what}");
                assert!(!text.contains("nobody"), "{what}");
            }
        }
    }
    assert!(!daemon.path("known_hosts").exists());
    Ok(())
}

/// A shell that is asked for at its first connection, and one that is asked for by a line.
#[test]
fn a_shell_is_left_in_order_too() -> TestResult {
    let daemon = daemon()?;
    for (key, question) in [("key", TRUST), ("locked", "Passphrase of ")] {
        let script = [(question, "\x03", 0.0)];
        let (code, text) = on_terminal(&daemon, key, &["shell"], &script)?;
        assert_eq!(code, Some(11), "{text}");
    }
    Ok(())
}

#[test]
fn a_question_is_answered_on_the_terminal() -> TestResult {
    let daemon = daemon()?;
    let (code, text) = on_terminal(&daemon, "key", &["ls"], &[(TRUST, "no\r", 0.0)])?;
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("not trusted"), "{text}");
    let (code, text) = on_terminal(&daemon, "key", &["ls"], &[(TRUST, "\x04", 0.0)])?;
    assert_eq!(code, Some(4), "{text}");
    let (code, text) = on_terminal(&daemon, "locked", &["ls"], &[("Passphrase of ", "\x04", 0.0)])?;
    assert_eq!(code, Some(4), "{text}");
    let (code, text) = on_terminal(&daemon, "key", &["ls"], &[(TRUST, "yes\r", 0.0)])?;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = on_terminal(&daemon, "key", &["ls"], &[])?;
    assert_eq!((code, text.contains(TRUST)), (Some(0), false), "{text}");
    Ok(())
}
