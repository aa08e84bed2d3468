//! `ftc` on a real pseudo-terminal (Python's).

use std::ffi::OsStr;
use std::process::Command;

use serde::Serialize;

use super::Daemon;

/// The exit code, and all that was on the terminal.
pub type Output = Result<(Option<i32>, String), Box<dyn std::error::Error>>;

/// Runs `ftc`: waits for each text of the script, and types what belongs to it; a third part of a row is for how many
/// seconds nothing may have come before.
pub fn on_terminal(
    daemon: &Daemon,
    variables: &[(&str, &OsStr)],
    words: &[&str],
    script: &(impl Serialize + ?Sized),
) -> Output {
    let output = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/terminal.py"))
        .arg(serde_json::to_string(script)?)
        .arg(env!("CARGO_BIN_EXE_ftc"))
        .args(words)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", daemon.dir.path())
        .env("FTC_RETRY", "0s")
        .envs(variables.iter().copied())
        .current_dir(daemon.dir.path())
        .output()
        .map_err(|error| format!("run python3, which this test needs: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    if err.is_empty() {
        Ok((output.status.code(), text))
    } else {
        Err(format!("{err}{text}").into())
    }
}
