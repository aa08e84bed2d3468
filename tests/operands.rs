//! Goal: what is typed means what the manual says, and what cannot be meant is refused before anything is sent,
//! in words about the user's own side.
//! Method: real daemon, real client; the words of each refusal, and what is there afterwards.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use support::{Daemon, TestResult};

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
