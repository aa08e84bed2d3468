//! Goal: what is typed means what the manual says, and what cannot be meant is refused before anything is sent,
//! in words about the user's own side.
//! Method: real daemon, real client; the words of each refusal, and what is there afterwards.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Output};

use support::{ALL_RIGHTS, Daemon, Setup, TestResult};

/// A daemon with these files of alice's.
fn daemon_with(names: &[&str]) -> Result<Daemon, Box<dyn std::error::Error>> {
    let daemon = Daemon::start()?;
    std::fs::create_dir_all(daemon.path("root/alice"))?;
    for name in names {
        std::fs::write(daemon.stored(name), name)?;
    }
    Ok(daemon)
}

#[test]
fn a_last_operand_of_get_with_a_colon_is_fetched_too() -> TestResult {
    let daemon = daemon_with(&["a.txt", "c.txt"])?;
    daemon.ftc_unix().ok(["get", ":a.txt", ":c.txt"])?;
    assert_eq!(std::fs::read(daemon.path("a.txt"))?, b"a.txt");
    assert_eq!(std::fs::read(daemon.path("c.txt"))?, b"c.txt");
    assert!(!daemon.path(":c.txt").exists(), "made from the spelling of a remote name");
    let host = daemon.address.rsplit_once(':').ok_or("no port")?;
    let both = [format!("{}:a.txt", host.0), format!("{}:none", host.0)];
    let ran = daemon.ftc_tls().env("FTC_PORT", host.1).run(["get", &both[0], &both[1]])?;
    assert_eq!(ran.code, Some(10), "{}", ran.err);
    assert!(ran.err.contains("get none: ") && ran.err.contains("NOT_FOUND"), "{}", ran.err);
    assert!(!daemon.path(&both[1]).exists(), "made from the spelling of a remote name");
    // As everywhere, a local name with a colon is one behind a slash.
    daemon.ftc_unix().ok(["get", ":a.txt", "./a:b"])?;
    assert_eq!(std::fs::read(daemon.path("a:b"))?, b"a.txt");
    Ok(())
}

/// Runs `ftc` as somebody whom the modes of files bind, which root is not.
fn as_mere_user(daemon: &Daemon, words: &[&str]) -> Result<Output, Box<dyn std::error::Error>> {
    let mut command = if nix::unistd::geteuid().is_root() {
        for name in ["key", "known_hosts"] {
            chown(daemon.path(name), Some(65534), Some(65534))?;
        }
        std::fs::set_permissions(daemon.path(""), std::fs::Permissions::from_mode(0o711))?;
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(env!("CARGO_BIN_EXE_ftc"));
        command
    } else {
        Command::new(env!("CARGO_BIN_EXE_ftc"))
    };
    let command = command
        .env_remove("XDG_CONFIG_HOME")
        .env("HOME", daemon.path(""))
        .env("FTC_SERVER", &daemon.address)
        .env("FTC_IDENTITY", daemon.path("key"))
        .env("FTC_KNOWN_HOSTS", daemon.path("known_hosts"))
        .current_dir(daemon.path(""));
    Ok(command.args(words).output()?)
}

#[test]
fn a_place_here_that_takes_no_file_is_told_to_the_user_as_his_own() -> TestResult {
    let daemon = daemon_with(&["b.txt"])?;
    daemon.ftc_tls().ok(["ls"])?; // The server is known from now on.
    for (name, mode) in [("readable", 0o555), ("closed", 0o000)] {
        std::fs::create_dir(daemon.path(name))?;
        std::fs::set_permissions(daemon.path(name), std::fs::Permissions::from_mode(mode))?;
    }
    std::fs::write(daemon.path("file"), "")?;
    for (place, code, why, hint) in [
        ("readable/", 5, "readable/: you may not write there", "ls -ld readable/"),
        ("readable/new", 5, "readable: you may not write there", "ls -ld readable"),
        ("closed/x/", 5, "closed/x/: permission denied", "namei -l closed/x/"),
        ("absent/x/", 6, "absent/x/: no such file or directory", "mkdir -p absent/x/"),
        ("file/x", 1, "file: not a directory", "name a directory"),
        ("/dev/null", 1, "/dev/null: it is not a regular file", "- > /dev/null"),
    ] {
        let ran = as_mere_user(&daemon, &["get", ":b.txt", place])?;
        let told = String::from_utf8(ran.stderr)?;
        assert_eq!(ran.status.code(), Some(code), "{place}: {told}");
        assert!(told.contains(why), "{place}: {told}");
        let advice = told.split("hint: ").nth(1).unwrap_or_default();
        assert!(advice.contains(hint), "{place}: {told}");
        assert!(!told.contains("ftd") && !told.contains("account"), "{place}: {told}");
    }
    std::fs::set_permissions(daemon.path("closed"), std::fs::Permissions::from_mode(0o700))?;
    assert!(Path::new("/dev/null").metadata()?.len() == 0 && !Path::new("/dev/null").is_file());
    Ok(())
}

#[test]
fn a_port_in_an_operand_is_refused_and_the_url_is_shown() -> TestResult {
    let daemon = daemon_with(&["45679:x"])?;
    let host = daemon.address.rsplit_once(':').ok_or("no port")?;
    std::fs::write(daemon.path("a.txt"), "a")?;
    for words in [
        &["put", "a.txt", "127.0.0.1:45679:"][..],
        &["put", "a.txt", "127.0.0.1:45679:x"],
        &["get", "127.0.0.1:45679:x"],
        &["ls", "127.0.0.1:45679:"],
        &["verify", "a.txt", "127.0.0.1:45679:x"],
    ] {
        let ran = daemon.ftc_tls().env("FTC_PORT", host.1).run(words)?;
        assert_eq!(ran.code, Some(2), "{words:?}: {}", ran.err);
        assert!(ran.err.contains("ftd://127.0.0.1:45679/"), "{words:?}: {}", ran.err);
        assert!(ran.err.contains("ftd://127.0.0.1/45679:"), "{words:?}: {}", ran.err);
    }
    assert_eq!(std::fs::read_dir(daemon.path("root/alice"))?.count(), 1, "something was stored");
    // Both that the hint shows, and the default server.
    daemon.ftc_tls().env("FTC_PORT", host.1).ok(["get", "ftd://127.0.0.1/45679:x", "one"])?;
    daemon.ftc_unix().ok(["get", &format!("ftd://{}/45679:x", daemon.address), "two"])?;
    daemon.ftc_unix().ok(["get", ":45679:x", "three"])?;
    for name in ["one", "two", "three"] {
        assert_eq!(std::fs::read(daemon.path(name))?, b"45679:x", "{name}");
    }
    Ok(())
}

#[test]
fn a_forgotten_colon_is_noticed_before_anything_is_sent() -> TestResult {
    let daemon = daemon_with(&[])?;
    std::fs::write(daemon.path("a.txt"), "a")?;
    std::fs::create_dir(daemon.path("tree"))?;
    for words in [
        &["put", "a.txt", "foo/bar"][..],
        &["put", "a.txt", "a.txt", "foo/"],
        &["put", "-r", "tree", "foo/bar"],
        &["put", "-n", "a.txt", "foo/bar"],
    ] {
        let ran = daemon.ftc_unix().run(words)?;
        let last = words.last().ok_or("no operand")?;
        assert_eq!(ran.code, Some(2), "{words:?}: {}", ran.err);
        assert!(ran.err.contains(&format!("{last}: no such file or directory")), "{}", ran.err);
        assert!(ran.err.contains(&format!("hint: a place on the server has a colon: :{last}")));
        assert_eq!(std::fs::read_dir(daemon.path("root/alice"))?.count(), 0, "{words:?}");
    }
    Ok(())
}

#[test]
fn a_server_without_its_colon_is_recognised() -> TestResult {
    let daemon = Setup::with(ALL_RIGHTS, "")?.start()?;
    let config = format!("[servers]\nwork = {:?}\n", daemon.address);
    std::fs::write(daemon.path("config.toml"), config)?;
    let ftc = || daemon.ftc_unix().env("FTC_CONFIG", daemon.path("config.toml"));
    for verb in ["ls", "stat"] {
        let ran = ftc().run([verb, "work"])?;
        assert_eq!(ran.code, Some(6), "{}", ran.err);
        assert!(ran.err.contains("hint: work: is the server"), "{verb}: {}", ran.err);
        let ran = ftc().run([verb, "other"])?;
        assert!(!ran.err.contains("is the server"), "{verb}: {}", ran.err);
    }
    Ok(())
}

#[test]
fn a_tilde_is_the_home_wherever_a_path_is_named() -> TestResult {
    let daemon = daemon_with(&[])?;
    std::fs::create_dir(daemon.path("dir"))?;
    let config = |text: &str| std::fs::write(daemon.path("dir/config.toml"), text);
    let ftc = || {
        let known = daemon.path("dir/config.toml");
        daemon.ftc_tls().env_remove("FTC_IDENTITY").env("FTC_CONFIG", known)
    };
    config("identity = \"~/key\"")?;
    ftc().ok(["ls"])?;
    config("known-hosts = \"~/dir/known\"")?;
    ftc().env("FTC_IDENTITY", "~/key").env_remove("FTC_KNOWN_HOSTS").ok(["ls"])?;
    assert!(daemon.path("dir/known").exists());
    ftc().env_remove("FTC_CONFIG").ok(["--config=~/dir/config.toml", "--identity=~/key", "ls"])?;
    assert!(!daemon.path("~").exists());
    // Who named a key that is not there is told where he did.
    config("identity = \"~/none\"")?;
    let file = format!("identity in {}", daemon.path("dir/config.toml").display());
    let none = daemon.path("none").display().to_string();
    for (ftc, words, from) in [
        (ftc(), &["ls"][..], file.as_str()),
        (ftc().env("FTC_IDENTITY", "~/none"), &["ls"], "FTC_IDENTITY"),
        (ftc(), &["--identity=~/none", "ls"], "--identity"),
    ] {
        let ran = ftc.run(words)?;
        assert_eq!(ran.code, Some(4), "{from}: {}", ran.err);
        assert!(ran.err.contains(&none), "{from}: {}", ran.err);
        assert!(ran.err.contains(&format!("hint: {from} names it")), "{from}: {}", ran.err);
    }
    Ok(())
}

#[test]
fn a_value_that_is_none_is_blamed_on_whoever_gave_it() -> TestResult {
    let daemon = daemon_with(&[])?;
    let size = "a size is a number and a unit, like 10MiB";
    let port = "a port is a number from 1 to 65535";
    for (variable, words, message) in [
        (("FTC_PORT", ""), &["ls"][..], format!("invalid value '' in FTC_PORT: {port}")),
        (("FTC_PORT", "0"), &["ls"], format!("invalid value '0' in FTC_PORT: {port}")),
        (("FTC_PORT", "7373"), &["-P", "y", "ls"], format!("'y' for '--port <PORT>': {port}")),
        (("FTC_BWLIMIT", "5x"), &["get", ":a"], format!("'5x' in FTC_BWLIMIT: {size}")),
        (("FTC_JOBS", "2"), &["get", "--bwlimit", "5x", ":a"], format!("BYTES>': {size}")),
        (("FTC_JOBS", "99"), &["get", ":a"], "'99' in FTC_JOBS: 99 is not in".to_owned()),
        (("FTC_DURABILITY", "x"), &["get", ":a"], "in FTC_DURABILITY\n".to_owned()),
    ] {
        let ran = daemon.ftc_unix().env(variable.0, variable.1).run(words)?;
        assert_eq!(ran.code, Some(2), "{variable:?}: {}", ran.err);
        assert!(ran.err.contains(&message), "{variable:?} {words:?}: {}", ran.err);
        assert!(!ran.err.contains("SI unit"), "{}", ran.err);
    }
    Ok(())
}

#[test]
fn the_advice_to_trust_a_server_names_the_key_that_was_named() -> TestResult {
    let daemon = daemon_with(&[])?;
    std::fs::copy(daemon.path("key"), daemon.path("my key"))?;
    let host = &daemon.address;
    for (word, shown) in [("key", "-i key "), ("my key", "-i 'my key' ")] {
        let ftc = daemon.ftc_tls().env_remove("FTC_IDENTITY").env_remove("FTC_ACCEPT_NEW");
        let ran = ftc.run(["-i", word, "ls"])?;
        assert_eq!(ran.code, Some(4), "{}", ran.err);
        assert!(ran.err.contains(&format!(" {shown}ls ftd://{host}/")), "{}", ran.err);
    }
    // What is set elsewhere is so again next time.
    let ran = daemon.ftc_tls().env_remove("FTC_ACCEPT_NEW").run(["ls"])?;
    assert!(!ran.err.contains(" -i "), "{}", ran.err);
    Ok(())
}

#[test]
fn a_full_quota_says_that_interrupted_uploads_count() -> TestResult {
    let daemon = {
        let setup = Setup::new()?;
        setup.add_user("bob", "quota = \"1MiB\"")?;
        setup.start()?
    };
    let ftc = daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("bob"));
    let ran = ftc.input(vec![0; 2 << 20]).run(["put", "-", ":large"])?;
    assert_eq!(ran.code, Some(8), "{}", ran.err);
    assert!(ran.err.contains("interrupted uploads count until"), "{}", ran.err);
    Ok(())
}
