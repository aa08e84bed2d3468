//! Goal: the prompt is one that people like, and a script stops where something went wrong.
//! Method: scripts through pipes and files; for the prompt a real pseudo-terminal (Python's), which waits
//! for text and never for time.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::ffi::OsStr;

use support::terminal::{self, Output};
use support::{Daemon, TestResult, noise};

/// Runs `ftc` on a terminal, over the Unix socket.
fn on_terminal(daemon: &Daemon, words: &[&str], script: &[(&str, &str)]) -> Output {
    let server = daemon.unix_server();
    terminal::on_terminal(daemon, &[("FTC_SERVER", OsStr::new(&server))], words, script)
}

#[test]
fn a_script_does_what_a_prompt_does() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::create_dir(daemon.path("here"))?;
    std::fs::write(daemon.path("here/a file"), "content")?;
    let script = "# a comment\n\nmkdir -p deep/er\ncd deep/er\npwd\nlcd here\nput 'a file'\nls\n\
        mv \"a file\" ../moved\ncd ..\nls\nget moved back\nstat moved\ncd\npwd\n-rm none\n\
        rm -r deep\nlls\nbye\nrm never\n";
    let ran = daemon.ftc_unix().input(script).run(["shell"])?;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let out = String::from_utf8(ran.out)?;
    assert!(out.starts_with("/deep/er\na file\ner/\nmoved\npath    deep/moved\n"), "{out}");
    assert!(out.ends_with("/\na file\nback\n"), "{out}");
    assert_eq!(std::fs::read(daemon.path("here/back"))?, b"content");
    assert!(!daemon.stored("deep").exists());
    Ok(())
}

#[test]
fn a_script_stops_at_the_first_failure_and_says_which() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::write(daemon.path("batch"), "mkdir one\nrm none\nmkdir two\n")?;
    let ran = daemon.ftc_unix().run(["shell", "-b", "batch"])?;
    assert_eq!(ran.code, Some(6), "{}", ran.err);
    assert!(ran.err.contains("line 2 failed: rm none\nhint: "), "{}", ran.err);
    assert!(daemon.stored("one").exists() && !daemon.stored("two").exists());
    std::fs::write(daemon.path("batch"), "-rm none\nmkdir two\n")?;
    daemon.ftc_unix().ok(["shell", "-b", "batch"])?;
    assert!(daemon.stored("two").exists());
    for (line, code) in [("frobnicate\n", 2), ("put -\n", 2), ("ls 'x\n", 2), ("cd none\n", 6)] {
        let ran = daemon.ftc_unix().input(line).run(["shell"])?;
        assert_eq!(ran.code, Some(code), "{line}: {}", ran.err);
    }
    // The daemon on the same machine can be named too.
    let server = daemon.unix_server();
    let ran = daemon.ftc().input("mkdir three\n").run(["shell", &server])?;
    assert!(ran.code == Some(0) && daemon.stored("three").exists(), "{}", ran.err);
    let missing = daemon.ftc_unix().run(["shell", "-b", "none"])?;
    assert_eq!(missing.code, Some(6), "{}", missing.err);
    Ok(())
}

#[test]
fn the_prompt_completes_commands_and_names_here_and_there() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::write(daemon.path("local-name"), "x")?;
    daemon.ftc_unix().input("x").ok(["put", "-", ":remote dir/some-name"])?;
    let (code, text) = on_terminal(
        &daemon,
        &["shell"],
        &[
            (">> ", "mkd\t"),
            ("mkdir ", "x\r"),
            (">> ", "put loc\t"),
            ("local-name", "\r"),
            ("stored local-name", ""),
            (">> ", "cd rem\t"),
            ("remote\\ dir/", "\r"),
            (">> ", "stat so\t"),
            ("some-name", "\r"),
            ("path    remote dir/some-name", ""),
            (">> ", "bye\r"),
        ],
    )?;
    assert_eq!(code, Some(0), "{text}");
    assert!(daemon.stored("x").is_dir());
    // The next time the lines of before are there.
    let script = [(">> ", "\x1b[A\x1b[A"), ("stat some-name", "\x03"), (">> ", "\x04")];
    let (code, text) = on_terminal(&daemon, &["shell"], &script)?;
    assert_eq!(code, Some(0), "{text}");
    Ok(())
}

/// Ctrl-C ends a transfer, and leaves shell and connection usable.
#[test]
fn control_c_ends_the_transfer_and_keeps_the_shell() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::write(daemon.path("large"), noise(20_000_000, 4))?;
    let (code, text) = on_terminal(
        &daemon,
        &["shell"],
        &[
            (">> ", "put --bwlimit 1MiB large\r"),
            ("MiB/s", "\x03"),
            ("ftc: interrupted", ""),
            (">> ", "-q put --bwlimit 8MiB large after/\r"),
            (">> ", "mkdir after\r"),
            (">> ", "bye\r"),
        ],
    )?;
    assert_eq!(code, Some(0), "{text}");
    assert!(daemon.stored("after/large").exists() && !daemon.stored("large").exists());
    // Nothing of it goes on behind the prompt, and no bar is drawn over it.
    let after = text.rsplit("ftc: interrupted").next().unwrap_or_default();
    assert!(!after.contains("MiB/s"), "{text}");
    Ok(())
}

/// On a terminal there are bars: of the file with rate and time left, and of the job with its count.
#[test]
fn bars_tell_of_the_file_and_of_the_job() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::create_dir(daemon.path("tree"))?;
    for name in ["one", "two"] {
        std::fs::write(daemon.path("tree").join(name), noise(6_000_000, 4))?;
    }
    let (code, text) =
        on_terminal(&daemon, &["put", "--bwlimit", "6MiB", "tree/one"], &[("MiB/s", "")])?;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains('%') && text.contains("stored one"), "{text}");
    let (code, text) = on_terminal(&daemon, &["put", "--bwlimit", "6MiB", "-r", "tree"], &[])?;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 of 2 files") && text.contains("2 done, "), "{text}");
    let quiet = on_terminal(&daemon, &["-q", "put", "tree/one"], &[])?;
    assert_eq!(quiet, (Some(0), String::new()));
    Ok(())
}

/// Files that the user named count in the total as the files of a tree do, from the beginning.
#[test]
fn the_total_counts_files_that_were_named() -> TestResult {
    let daemon = Daemon::start()?;
    for name in ["one", "two"] {
        std::fs::write(daemon.path(name), noise(6_000_000, 4))?;
    }
    std::fs::create_dir(daemon.path("back"))?;
    for words in [&["put", "one", "two", ":in/"][..], &["get", ":in/one", ":in/two", "back"]] {
        let slow = [&words[..1], &["--bwlimit", "6MiB"][..], &words[1..]].concat();
        let (code, text) = on_terminal(&daemon, &slow, &[])?;
        assert_eq!(code, Some(0), "{words:?}: {text}");
        assert!(text.contains("1 of 2 files"), "{words:?}: {text}");
        assert!(!text.contains("1 of 1 files"), "{words:?}: {text}");
        // All of it is 12 MB.
        let early = text.split(" files ").skip(1).find(|rest| {
            let mut words = rest.split_whitespace();
            words.next() == Some("100%") && words.next() != Some("11.44")
        });
        assert_eq!(early, None, "{words:?}: {text}");
    }
    Ok(())
}

/// What an earlier run had left does not count as fast.
#[test]
fn the_rate_is_that_of_what_moved_in_this_run() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::write(daemon.path("large"), noise(120 << 20, 4))?;
    std::fs::create_dir(daemon.path("back"))?;
    let cut = |words: &[&str], directory: &str| -> TestResult {
        let mut child = daemon.ftc_unix().spawn(words)?;
        support::wait_until("80 MiB are there", || {
            let files = std::fs::read_dir(daemon.path(directory))?.flatten();
            Ok(files.filter_map(|file| file.metadata().ok()).any(|meta| meta.len() >= 80 << 20))
        })?;
        child.kill()?;
        child.wait()?;
        Ok(())
    };
    for (words, directory) in [
        (&["put", "large"][..], "root/.ftd-stage"),
        (&["get", ":large", "back/"], "back"),
        (&["put", "-r", "large", ":again"], "root/.ftd-stage"),
    ] {
        let slow = [words, &["--bwlimit", "100MiB"][..]].concat();
        cut(&slow, directory)?;
        let slow = [words, &["--bwlimit", "10MiB"][..]].concat();
        let (code, text) = on_terminal(&daemon, &slow, &[])?;
        assert_eq!(code, Some(0), "{words:?}: {text}");
        assert!(text.contains("resumed at") || text.contains("1 of 1 files"), "{text}");
        assert!(!text.contains("GiB/s"), "{words:?}: {text}");
        let shown: Vec<&str> = text.split_whitespace().collect();
        let rates = shown.windows(2).filter(|pair| pair[1] == "MiB/s");
        let most = rates.filter_map(|pair| pair[0].parse().ok()).fold(0.0, f64::max);
        assert!(most > 0.0 && most < 40.0, "{words:?}: {most} MiB/s: {text}");
        // How far it is counts what was there.
        let percent = shown.iter().filter_map(|word| word.strip_suffix('%')?.parse().ok());
        assert!(percent.filter(|far| (50..90).contains(far)).count() > 2, "{text}");
    }
    Ok(())
}
