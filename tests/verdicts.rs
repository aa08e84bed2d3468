//! Goal: users and limits that contradict each other, places to listen that are not there, and an account
//! that needs its walls are told at once, and `check` says what `serve` would (G-04, G-05, G-07, G-08, G-10).
//! Method: the real binary; each row changes one thing in a good configuration.
#![allow(clippy::disallowed_methods, reason = "tests set files up from outside")]

mod support;

use std::process::{Command, Output};

use support::{ALL_RIGHTS, Daemon, Setup, TestResult, make_key};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Both verdicts must be this one, and leave nothing behind.
fn refused(setup: &Setup, what: &str, code: i32, why: &str) -> TestResult {
    for verb in ["check", "serve"] {
        let ran = setup.ftd(&[verb])?;
        let told = String::from_utf8(ran.stderr)?;
        assert_eq!(ran.status.code(), Some(code), "{verb}, {what}: {told}");
        assert!(told.contains(why), "{verb}, {what}: {told}");
        assert!(!setup.path("root/.ftd-stage").exists(), "{verb}, {what}: a side effect");
        assert!(!setup.path("host_key").exists(), "{verb}, {what}: a side effect");
        assert!(!setup.path("sock").exists(), "{verb}, {what}: a side effect");
    }
    Ok(())
}

/// G-04, G-10: users who contradict each other, or reach for what is not below the root.
#[test]
fn users_that_contradict_or_reach_outside_are_refused() -> TestResult {
    let setup = Setup::new()?;
    make_key(&setup.path("bob"), "ed25519", "")?;
    let good = std::fs::read_to_string(setup.path("ftd.toml"))?;
    let key = |name: &str| -> Fallible<String> {
        Ok(std::fs::read_to_string(setup.path(&format!("{name}.pub")))?.trim().to_owned())
    };
    let (alice, bob) = (key("key")?, key("bob")?);
    let user = |key: &str, lines: &str| {
        format!("{good}[[user]]\nname = \"bob\"\nkeys = [\"{key}\"]\n{lines}\n")
    };
    let allow = "allow = [\"get\"]";
    let path = |path: &str| format!("{allow}\n[[user.path]]\nmatch = \"{path}\"\nallow = []");
    let root = setup.path("root").display().to_string();
    for (what, text, why) in [
        ("one key for two users", user(&alice, allow), "the same key is listed already"),
        ("a user without rights", user(&bob, ""), "user.bob.allow: missing"),
        ("a user with no right", user(&bob, "allow = []"), "user.bob.allow: is empty"),
        ("a rule that climbs", user(&bob, &path("a/../b")), "never followed"),
        ("a rule that climbs at once", user(&bob, &path("..")), "never followed"),
        ("a rule outside the root", user(&bob, &path("/etc")), "relative to your home"),
        ("a rule for what is reserved", user(&bob, &path(".ftd-stage")), "reserved"),
        ("a home that climbs", user(&bob, &format!("home = \"../up\"\n{allow}")), "never followed"),
        ("a home outside", user(&bob, &format!("home = \"/etc\"\n{allow}")), "below root"),
        (
            "a host key that users could fetch",
            good.replace(&format!("{}/host_key", setup.dir.path().display()), &format!("{root}/k")),
            "below root",
        ),
        (
            "a socket that users could rename",
            good.replace(&format!("{}/sock", setup.dir.path().display()), &format!("{root}/s")),
            "below root",
        ),
    ] {
        assert_ne!(text, good, "{what}");
        setup.write_config(&text)?;
        refused(&setup, what, 78, why)?;
    }
    Ok(())
}

/// G-04: what may overlap, as designed: two users with one home, and a home in a home.
#[test]
fn homes_may_be_shared_and_lie_in_each_other() -> TestResult {
    let setup = Setup::new()?;
    setup.add_user("bob", "home = \"alice/inner\"\nquota = \"1MiB\"")?;
    setup.add_user("carol", "home = \"alice\"")?;
    let daemon = setup.start()?;
    let ftc = |key: &str| daemon.ftc_tls().env("FTC_IDENTITY", daemon.path(key));
    ftc("bob").input("from bob").ok(["put", "-", ":f"])?;
    ftc("carol").input("from carol").ok(["put", "-", ":g"])?;
    assert_eq!(daemon.ftc_unix().ok(["get", ":inner/f", "-"])?.out, b"from bob");
    assert_eq!(daemon.ftc_unix().ok(["get", ":g", "-"])?.out, b"from carol");
    let refused = ftc("bob").input(vec![0; 2 << 20]).run(["put", "-", ":large"])?;
    assert!(refused.err.contains("(QUOTA)"), "{}", refused.err);
    ftc("carol").input(vec![0; 2 << 20]).ok(["put", "-", ":large"])?;
    // Whoever writes there is counted, whoever has the quota.
    let refused = ftc("carol").input(vec![0; 2 << 20]).run(["put", "-", ":inner/large"])?;
    assert!(refused.err.contains("(QUOTA)"), "{}", refused.err);
    Ok(())
}

/// G-05, G-10: limits of nothing, of less than nothing, of far too much, and more than the account may open.
#[test]
fn limits_that_cannot_be_kept_are_refused() -> TestResult {
    let setup = Setup::new()?;
    for (key, values) in [
        ("connections", &["0", "-1", "65537", "9223372036854775807"][..]),
        ("connections-per-user", &["0", "-1", "65537"]),
        ("strangers", &["0", "-1", "9223372036854775807"]),
        ("requests-per-connection", &["0", "-1", "4097"]),
        ("file-workers", &["0", "-1", "100000"]),
        ("buffer-memory", &["0", "-1", "\"7MiB\"", "\"17GiB\""]),
        ("max-file-size", &["0", "-1"]),
        ("stall-timeout", &["\"0s\"", "\"-1s\"", "\"1000000h\""]),
        ("drain-timeout", &["\"-1s\"", "\"1000000h\""]),
    ] {
        for value in values {
            setup.configure(ALL_RIGHTS, &format!("[limits]\n{key} = {value}"))?;
            refused(&setup, &format!("{key} = {value}"), 78, &format!(":5: limits.{key}: "))?;
        }
    }
    setup.configure(ALL_RIGHTS, "[limits]\nconnections = 5000")?;
    for verb in ["check", "serve"] {
        let ran: Output = Command::new("sh")
            .args(["-c", "ulimit -n 1000 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_ftd"), verb])
            .arg("--config")
            .arg(setup.path("ftd.toml"))
            .output()?;
        let told = String::from_utf8(ran.stderr)?;
        assert_eq!(ran.status.code(), Some(78), "{verb}: {told}");
        assert!(told.contains("the limit is 1000") && told.contains("LimitNOFILE="), "{told}");
        assert!(!setup.path("host_key").exists(), "{verb}: a side effect");
    }
    Ok(())
}

/// G-07: an address that is not (or no longer) this machine's, a family that is not there, and a directory
/// for the socket that is missing end the start with one line that names them.
#[test]
fn a_place_to_listen_that_is_not_there_is_told() -> TestResult {
    let gone = "unix:/nonexistent-for-ftd/sock";
    for address in ["192.0.2.1:0", "[2001:db8::1]:0", gone] {
        let setup = Setup::new()?;
        let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
        setup.write_config(&text.replace("127.0.0.1:0", address))?;
        let ran = setup.ftd(&["serve"])?;
        let told = String::from_utf8(ran.stderr)?;
        assert_eq!(ran.status.code(), Some(1), "{address}: {told}");
        let last = told.lines().last().unwrap_or_default();
        let place = address.trim_start_matches("unix:").trim_end_matches(":0");
        assert!(last.starts_with("ftd: ") && last.contains(place), "{address}: {told}");
        assert!(!setup.path("root/.ftd-stage").exists(), "{address}: a side effect");
    }
    Ok(())
}

/// G-08: the walls stand, and are found to hold on the first thread and on one of the runtime's, before the
/// first connection is taken.
#[test]
fn the_sandbox_is_proved_before_the_first_accept() -> TestResult {
    let setup = Setup::new()?;
    let calls = "trace=landlock_restrict_self,seccomp,socket,accept4";
    let daemon: Daemon = setup.start_traced(&["-e", calls])?;
    daemon.ftc_unix().ok(["ls"])?;
    let trace = std::fs::read_to_string(daemon.path("trace"))?;
    let at = |what: &str| trace.lines().position(|line| line.contains(what)).ok_or(what.to_owned());
    let refused: Vec<_> = trace
        .lines()
        .enumerate()
        .filter(|(_, line)| line.contains("AF_NETLINK") && line.contains("= -1"))
        .map(|(number, line)| (number, line.split(' ').next().unwrap_or_default().to_owned()))
        .collect();
    assert!(refused.len() >= 2, "{trace}");
    assert_ne!(refused[0].1, refused[1].1, "on two threads: {trace}");
    let walls = [at("landlock_restrict_self(")?, at("seccomp(SECCOMP_SET_MODE_FILTER")?];
    assert!(walls.iter().all(|wall| *wall < refused[0].0), "{trace}");
    assert!(refused[1].0 < at("accept4(")?, "{trace}");
    Ok(())
}

/// G-08, G-06: as root, best effort is not enough; as any other account it is, and the log says what is
/// missing.
#[test]
fn root_serves_only_behind_all_walls() -> TestResult {
    let missing = [
        ("landlock_create_ruleset", "EOPNOTSUPP", "no Landlock"),
        ("seccomp", "EINVAL", "no seccomp"),
    ];
    for (call, error, said) in missing {
        let inject = format!("inject={call}:error={error}");
        let words = ["-e".to_owned(), format!("trace={call}"), "-e".to_owned(), inject];
        let words = words.each_ref().map(String::as_str);
        let setup = Setup::with(ALL_RIGHTS, "sandbox = \"best-effort\"")?;
        if nix::unistd::geteuid().is_root() {
            for verb in ["check", "serve"] {
                let output = setup
                    .traced(&words)
                    .args([verb, "--config"])
                    .arg(setup.path("ftd.toml"))
                    .output()?;
                let told = String::from_utf8(output.stderr)?;
                assert_eq!(output.status.code(), Some(1), "{verb}, {call}: {told}");
                assert!(told.contains("as root, ftd serves only inside its sandbox"), "{told}");
            }
        } else {
            let daemon = setup.start_traced(&words)?;
            daemon.ftc_unix().ok(["ls"])?;
            assert!(daemon.log().contains(said), "{}", daemon.log());
        }
    }
    let daemon = Daemon::start()?;
    if nix::unistd::geteuid().is_root() {
        daemon.wait_for_log("running as root; give ftd an account of its own")?;
    }
    Ok(())
}
