//! Goal: the document is enough to write a client from, in a language that shares no code with us.
//! Method: `tests/python/ftd_client.py` knows `docs/protocol.md` and nothing else.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::process::Command;

use support::{Daemon, TestResult, noise};

fn python(daemon: &Daemon, words: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/ftd_client.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(daemon.path("sock"))
        .args(words)
        .current_dir(daemon.dir.path())
        .output()
        .map_err(|error| format!("run python3, which this test needs: {error}"))?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(told) } else { Err(told.into()) }
}

#[test]
fn a_client_in_python_passes_its_own_test() -> TestResult {
    let daemon = Daemon::start()?;
    let told = python(&daemon, &["selftest"])?;
    assert_eq!(told.lines().filter(|line| line.starts_with("ok ")).count(), 10, "{told}");
    daemon.assert_nothing_staged()
}

#[test]
fn what_one_client_puts_the_other_gets() -> TestResult {
    let daemon = Daemon::start()?;
    let content = noise(3_000_000, 12);
    std::fs::write(daemon.path("file"), &content)?;
    python(&daemon, &["put", "file", "from-python"])?;
    assert_eq!(daemon.ftc_tls().ok(["get", ":from-python", "-"])?.out, content);
    daemon.ftc_tls().ok(["put", "file", ":from-ftc"])?;
    python(&daemon, &["get", "from-ftc", "back"])?;
    assert_eq!(std::fs::read(daemon.path("back"))?, content);
    assert!(python(&daemon, &["list"])?.contains("from-ftc"));
    Ok(())
}

/// The example at the end of the document works as it stands.
#[test]
fn the_example_of_the_document_is_right_byte_for_byte() -> TestResult {
    use support::raw::{ANSWER, Raw};
    let document = include_str!("../docs/protocol.md");
    let example = document.split("Example, byte for byte").nth(1).ok_or("no example")?;
    let mut bytes = Vec::new();
    for line in example.lines().filter(|line| line.starts_with("    0")) {
        let (header, payload) = line.trim().split_at(2 + 1 + 2 + 1 + 4 + 1 + 8 + 1 + 8);
        let digits: String = header.split_whitespace().collect();
        for pair in digits.as_bytes().chunks_exact(2) {
            bytes.push(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
        }
        bytes.extend(payload.trim_start().replace("\\n", "\n").into_bytes());
    }
    let daemon = Daemon::start()?;
    let mut raw = Raw::connect(&daemon)?;
    raw.bytes(&bytes)?;
    assert_eq!(raw.expect()?.kind, ANSWER);
    assert_eq!(std::fs::read(daemon.stored("x"))?, b"hi\n");
    Ok(())
}
