//! Goal: a user is as fast as allowed, over all connections and both ways, and waiting for that is no
//! stall. Method: what moves takes at least its time, whatever the machine does besides.
#![allow(clippy::disallowed_methods, reason = "tests write the configuration from outside")]

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{ALL_RIGHTS, Setup, TestResult, noise};

#[test]
fn a_user_is_no_faster_than_allowed_and_no_stall_is_seen_in_it() -> TestResult {
    // A transfer that moved less than 64 KiB in three seconds would be ended.
    let setup = Setup::with(ALL_RIGHTS, "[limits]\nstall-timeout = \"3s\"")?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.write_config(&format!("{text}bandwidth = \"64KiB\"\n"))?;
    let daemon = setup.start()?;
    let content = noise(256 << 10, 3);
    std::fs::write(daemon.path("file"), &content)?;
    // What a quiet time saves is a quarter of a second.
    let began = Instant::now();
    daemon.ftc_unix().ok(["put", "file", ":"])?;
    assert!(began.elapsed() > Duration::from_millis(3400), "put: {:?}", began.elapsed());
    let began = Instant::now();
    let both = [daemon.ftc_unix(), daemon.ftc_tls()].map(|ftc| {
        let content = content.clone();
        move || -> Result<(), String> {
            let got = ftc.ok(["get", ":file", "-"]).map_err(|error| error.to_string())?;
            if got.out == content { Ok(()) } else { Err("other content".to_owned()) }
        }
    });
    std::thread::scope(|scope| {
        let threads = both.map(|get| scope.spawn(get));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Err("panic".to_owned())))
            .collect::<Result<Vec<()>, _>>()
    })?;
    // The last buffer of each goes out before it is paid for.
    assert!(began.elapsed() > Duration::from_millis(3400), "gets: {:?}", began.elapsed());

    let text = std::fs::read_to_string(daemon.path("ftd.toml"))?;
    std::fs::write(daemon.path("ftd.toml"), text.replace("\"64KiB\"", "\"unlimited\""))?;
    daemon.signal(Signal::SIGHUP)?;
    daemon.wait_for_log("configuration reloaded")?;
    let big = noise(32 << 20, 4);
    std::fs::write(daemon.path("big"), &big)?;
    let began = Instant::now();
    daemon.ftc_unix().ok(["put", "big", ":"])?;
    assert!(began.elapsed() < Duration::from_mins(1), "at the old pace: 512 s");
    Ok(())
}
