//! Goal: a daemon starts on a configuration that it can keep its promise on, or says where it is
//! wrong and changes nothing (catalogue G). Method: the real binary, `check` and `serve` side by side.
#![allow(clippy::disallowed_methods, reason = "tests set files up from outside")]

#[path = "config/folding.rs"]
mod folding;
mod support;

use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink,
};
use std::process::Command;

use nix::sys::signal::Signal;
use support::{ALL_RIGHTS, Daemon, Setup, TestResult};

/// G-01, G-05, G-09, G-10: the verdict of `check` and of `serve` is the same: exit 78, file, line, key.
#[test]
fn what_is_wrong_is_told_by_file_line_and_key() -> TestResult {
    let setup = Setup::new()?;
    let good = std::fs::read_to_string(setup.path("ftd.toml"))?;
    let rows = [
        ("", "root"),
        ("lisen = []\n", ":1: lisen: "),
        ("root = 7\n", ":1: root: "),
        (&good.replace("root = ", "rot = "), ":1: rot: "),
        (
            &good.replace("[[user]]", "[limits]\nconnections = 0\n[[user]]"),
            ":6: limits.connections: ",
        ),
        (
            &good.replace("[[user]]", "[limits]\nidle-timeout = \"soon\"\n[[user]]"),
            ":6: limits.idle-timeout: ",
        ),
        (
            &good.replace("[[user]]", "[limits]\nmax-file-size = -1\n[[user]]"),
            ":6: limits.max-file-size: ",
        ),
        (&good.replace("name = \"alice\"", "name = \"alice\"\nquota = \"5Gib!\""), ":7: "),
        (&good.replace("ssh-ed25519 AAAA", "ssh-ed25519 AAAB"), ":7: user.alice.keys"),
        (&good.replace("\"get\", \"list\"", "\"fetch\""), "user.alice.allow"),
        (&good.replace("unix = [", "home = \"../up\"\nunix = ["), "user.alice.home"),
        (
            &format!(
                "{good}\n{}",
                good.split("[[user]]")
                    .nth(1)
                    .map(|user| format!("[[user]]{user}"))
                    .unwrap_or_default()
            ),
            "user",
        ),
        ("root = \"/tmp\nlisten", ":1: "),
    ];
    for (text, expected) in rows {
        setup.write_config(text)?;
        let check = setup.ftd(&["check"])?;
        let serve = setup.ftd(&["serve"])?;
        let told = String::from_utf8(check.stderr)?;
        assert_eq!(
            (check.status.code(), serve.status.code()),
            (Some(78), Some(78)),
            "{text}\n{told}"
        );
        assert!(told.contains(expected) && told.contains("ftd.toml:"), "{text}\n{told}");
        assert_eq!(told, String::from_utf8(serve.stderr)?, "{text}");
    }
    assert!(
        !setup.path("host_key").exists() && !setup.path("root/.ftd-stage").exists(),
        "no side effect"
    );
    Ok(())
}

/// G-09: a start that looks up an account by name, where the sandbox will not let a reload do so, says that at once.
#[test]
fn what_no_reload_will_take_is_told_by_a_check_and_a_start() -> TestResult {
    let setup = Setup::new()?;
    let good = std::fs::read_to_string(setup.path("ftd.toml"))?;
    assert!(setup.ftd(&["check"])?.stderr.is_empty());
    setup.write_config(&good.replace("unix = [", "unix = [\"daemon\", "))?;
    let check = setup.ftd(&["check"])?;
    let told = String::from_utf8(check.stderr)?;
    assert!(check.status.success() && told.contains("warning: "), "{told}");
    assert!(told.contains("each reload will refuse it") && told.contains("its number"), "{told}");
    let daemon = setup.start()?;
    let log = daemon.log();
    assert!(log.contains("WARN") && log.contains("each reload will refuse it"), "{log}");
    daemon.signal(Signal::SIGHUP)?;
    daemon.wait_for_log("reload refused")?;
    Ok(())
}

/// G-01, G-02, G-03: files and directories that cannot be trusted.
#[test]
fn roots_and_files_that_cannot_be_trusted_are_refused() -> TestResult {
    type Spoil = fn(&Setup) -> TestResult;
    let rows: [(&str, Spoil, &str); 9] = [
        ("no root", |s| Ok(std::fs::remove_dir(s.path("root"))?), "make it"),
        (
            "a file for a root",
            |s| {
                std::fs::remove_dir(s.path("root"))?;
                Ok(std::fs::write(s.path("root"), "")?)
            },
            "must be a directory",
        ),
        (
            "a link for a root",
            |s| {
                std::fs::rename(s.path("root"), s.path("real"))?;
                Ok(symlink(s.path("real"), s.path("root"))?)
            },
            "not a link",
        ),
        (
            "the whole file system",
            |s| {
                let text = std::fs::read_to_string(s.path("ftd.toml"))?;
                let root = format!("root = \"{}/root\"", s.dir.path().display());
                s.write_config(&text.replace(&root, "root = \"/\""))
            },
            ":1: root: ",
        ),
        ("no configuration", |s| Ok(std::fs::remove_file(s.path("ftd.toml"))?), "--config"),
        (
            "a configuration that others may write",
            |s| {
                Ok(std::fs::set_permissions(
                    s.path("ftd.toml"),
                    std::fs::Permissions::from_mode(0o666),
                )?)
            },
            "chmod go-w",
        ),
        (
            "a configuration that the group may write",
            |s| {
                Ok(std::fs::set_permissions(
                    s.path("ftd.toml"),
                    std::fs::Permissions::from_mode(0o664),
                )?)
            },
            "chmod go-w",
        ),
        (
            "a host key that others may read",
            |s| {
                support::make_key(&s.path("host_key"), "ed25519", "")?;
                Ok(std::fs::set_permissions(
                    s.path("host_key"),
                    std::fs::Permissions::from_mode(0o644),
                )?)
            },
            "chmod 600",
        ),
        (
            "a host key that is a link",
            |s| {
                support::make_key(&s.path("elsewhere"), "ed25519", "")?;
                Ok(symlink(s.path("elsewhere"), s.path("host_key"))?)
            },
            "symbolic link",
        ),
    ];
    for (what, spoil, expected) in rows {
        let setup = Setup::new()?;
        spoil(&setup)?;
        for verb in ["check", "serve"] {
            let ran = setup.ftd(&[verb])?;
            let told = String::from_utf8(ran.stderr)?;
            assert_eq!(ran.status.code(), Some(78), "{verb} with {what}: {told}");
            assert!(told.contains(expected), "{verb} with {what}: {told}");
        }
    }
    Ok(())
}

/// G-02: a root that takes names for one that differ in case. Needs root, to mount one.
#[test]
fn a_root_that_folds_case_is_refused() -> TestResult {
    let setup = Setup::new()?;
    let root = setup.path("root");
    let _folding = match folding::Folding::mount(&root, ".ftd-stage") {
        Ok(folding) => folding,
        Err(error) => {
            eprintln!("not tried, because this account may not mount: {error}");
            return Ok(());
        }
    };
    // A check alone makes no staging directory to try it with; it knows once a start has made one.
    for verb in ["serve", "check"] {
        let ran = setup.ftd(&[verb])?;
        let told = String::from_utf8(ran.stderr)?;
        assert_eq!(ran.status.code(), Some(78), "{verb}: {told}");
        assert!(told.contains("folds no case"), "{verb}: {told}");
    }
    Ok(())
}

/// S-10, G-10: a staging directory that is not ours alone.
#[test]
fn a_staging_directory_that_is_not_ours_is_refused() -> TestResult {
    type Spoil = fn(&Setup) -> TestResult;
    let rows: [(Spoil, &str); 3] = [
        (|s| Ok(symlink("/tmp", s.path("root/.ftd-stage"))?), "not a link"),
        (|s| Ok(std::fs::write(s.path("root/.ftd-stage"), "")?), "must be a directory"),
        (
            |s| {
                std::fs::create_dir(s.path("root/.ftd-stage"))?;
                Ok(std::fs::set_permissions(
                    s.path("root/.ftd-stage"),
                    std::fs::Permissions::from_mode(0o755),
                )?)
            },
            "0700",
        ),
    ];
    for (spoil, expected) in rows {
        let setup = Setup::new()?;
        spoil(&setup)?;
        for verb in ["check", "serve"] {
            let ran = setup.ftd(&[verb])?;
            let told = String::from_utf8(ran.stderr)?;
            assert_eq!(ran.status.code(), Some(78), "{verb}: {told}");
            assert!(told.contains(expected), "{verb}: {told}");
        }
    }
    Ok(())
}

/// G-10: root that checks an installation, or asks for its fingerprint, asks for the account that serves.
#[test]
fn root_checks_for_the_account_that_owns_the_tree() -> TestResult {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not tried, because this account may not give files away");
        return Ok(());
    }
    let setup = Setup::new()?;
    let account = Some(54_321);
    for path in [setup.dir.path(), &setup.path("root")] {
        chown(path, account, account)?;
    }
    assert_eq!(setup.ftd(&["fingerprint"])?.status.code(), Some(0));
    let key = std::fs::metadata(setup.path("host_key"))?;
    assert_eq!(key.uid(), 54_321, "the key that was made is its own");
    std::fs::DirBuilder::new().mode(0o700).create(setup.path("root/.ftd-stage"))?;
    chown(setup.path("root/.ftd-stage"), account, account)?;
    let ran = setup.ftd(&["check"])?;
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    // And what it may not do is seen, although root may do everything.
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    std::fs::create_dir(setup.path("ours"))?;
    setup.write_config(&text.replace("/host_key", "/ours/host_key"))?;
    let ran = setup.ftd(&["check"])?;
    assert_eq!(ran.status.code(), Some(78), "{}", String::from_utf8_lossy(&ran.stderr));
    setup.write_config(&text)?;
    std::fs::set_permissions(setup.path("root"), std::fs::Permissions::from_mode(0o555))?;
    let ran = setup.ftd(&["check"])?;
    assert_eq!(ran.status.code(), Some(78), "{}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// G-07: a taken port or socket is said, and leads to no loop.
#[test]
fn a_taken_address_is_told() -> TestResult {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let setup = Setup::new()?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.write_config(&text.replace("127.0.0.1:0", &taken.local_addr()?.to_string()))?;
    let ran = setup.ftd(&["serve"])?;
    let told = String::from_utf8(ran.stderr)?;
    assert_eq!(ran.status.code(), Some(1), "{told}");
    assert!(told.contains("already in use") || told.contains("in use"), "{told}");

    let daemon = Daemon::start()?;
    let second = Command::new(env!("CARGO_BIN_EXE_ftd"))
        .args(["serve", "--config"])
        .arg(daemon.path("ftd.toml"))
        .output()?;
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8(second.stderr)?.contains("another process serves it"));
    daemon.ftc_unix().ok(["ls"])?;
    Ok(())
}

/// Two daemons on one root would sweep each other's staging.
#[test]
fn one_root_is_served_once() -> TestResult {
    let daemon = Daemon::start()?;
    let text = std::fs::read_to_string(daemon.path("ftd.toml"))?;
    std::fs::write(daemon.path("second.toml"), text.replace("/sock\"", "/second\""))?;
    let second = Command::new(env!("CARGO_BIN_EXE_ftd"))
        .args(["serve", "--config"])
        .arg(daemon.path("second.toml"))
        .output()?;
    let told = String::from_utf8(second.stderr)?;
    assert_eq!(second.status.code(), Some(78), "{told}");
    assert!(told.contains("another ftd serves this root"), "{told}");
    Ok(())
}

/// What was left by a process that was killed is no obstacle: socket and staging.
#[test]
fn a_start_cleans_up_after_a_kill() -> TestResult {
    let mut daemon = Daemon::start()?;
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait()?;
    for name in 0..50 {
        std::fs::write(daemon.path(&format!("root/.ftd-stage/{name:032x}")), "stale")?;
    }
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
    let daemon = Setup { dir }.start()?;
    daemon.wait_for_log("swept=50")?; // It serves already meanwhile.
    daemon.assert_nothing_staged()?;
    daemon.ftc_unix().ok(["ls"])?;
    Ok(())
}

/// A reload takes a whole configuration or none of it.
#[test]
fn a_reload_takes_all_or_nothing() -> TestResult {
    let daemon = Daemon::start()?;
    let good = std::fs::read_to_string(daemon.path("ftd.toml"))?;
    for (text, why) in [
        (good.replace("[[user]]", "[limits]\nconections = 1\n[[user]]"), "conections"),
        (good.replace("/root\"", "/other\""), "root needs a restart"),
        (String::new(), "listen"),
    ] {
        std::fs::write(daemon.path("ftd.toml"), &text)?;
        let before = daemon.log().matches("reload refused").count();
        daemon.signal(Signal::SIGHUP)?;
        let log = daemon.wait_for_log_times("reload refused", before + 1)?;
        assert!(log.contains(why), "{log}");
        daemon.ftc_unix().ok(["ls"])?;
    }
    std::fs::write(daemon.path("ftd.toml"), good.replace(ALL_RIGHTS, "[\"list\"]"))?;
    daemon.signal(Signal::SIGHUP)?;
    daemon.wait_for_log("configuration reloaded")?;
    assert_eq!(daemon.ftc_unix().input("x").run(["put", "-", ":x"])?.code, Some(5));
    Ok(())
}

#[test]
fn check_dumps_settings_that_say_the_same() -> TestResult {
    let setup = Setup::new()?;
    let dumped = setup.ftd(&["check", "--dump"])?;
    assert_eq!(dumped.status.code(), Some(0), "{}", String::from_utf8_lossy(&dumped.stderr));
    let text = String::from_utf8(dumped.stdout)?;
    assert!(text.contains("idle-timeout = "), "{text}");
    setup.write_config(&text)?;
    assert_eq!(String::from_utf8(setup.ftd(&["check", "--dump"])?.stdout)?, text);
    assert!(!setup.path("host_key").exists());
    Ok(())
}

#[test]
fn fingerprint_makes_the_key_once_and_agrees_with_ssh_keygen() -> TestResult {
    let setup = Setup::new()?;
    let first = String::from_utf8(setup.ftd(&["fingerprint"])?.stdout)?;
    assert_eq!(first, String::from_utf8(setup.ftd(&["fingerprint"])?.stdout)?);
    assert_eq!(std::fs::metadata(setup.path("host_key"))?.permissions().mode() & 0o777, 0o600);
    std::fs::write(setup.path("host_key.pub"), first.lines().next().unwrap_or_default())?;
    let shown = Command::new("ssh-keygen").arg("-lf").arg(setup.path("host_key.pub")).output()?;
    let fingerprint = first.lines().nth(1).ok_or("no fingerprint")?;
    assert!(String::from_utf8(shown.stdout)?.contains(fingerprint));
    let private = Command::new("ssh-keygen").arg("-yf").arg(setup.path("host_key")).output()?;
    assert!(
        String::from_utf8(private.stdout)?.starts_with(first.lines().next().unwrap_or("?")),
        "ssh-keygen reads the key"
    );
    Ok(())
}
