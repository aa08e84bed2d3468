//! A server of a few lines that answers each frame as a test wants it, over a Unix socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Ran;
use super::raw::{HELLO, REQUEST, frame};

pub const GREETING: &[u8] = br#"{"protocol":"ftd","versions":{"min":1,"max":1},"server":"evil","user":"u","rights":["get","list","create","replace"],"limits":{"control_bytes":16384,"data_bytes":1048576,"requests":256,"uploads":8,"file_bytes":18446744073709551615}}"#;

/// Bytes of content that a server reads before it lets go of a client.
type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Runs `ftc` in `directory` against a server that answers each frame (kind, id, payload) with what
/// `answer` makes of it. One connection.
pub fn against(
    directory: &Path,
    words: &[&str],
    answer: impl FnMut(u8, u32, &Value) -> Vec<u8> + Send + 'static,
) -> Result<Ran, Box<dyn std::error::Error>> {
    let mut ftc = Command::new(env!("CARGO_BIN_EXE_ftc"));
    ftc.args(words);
    play(directory, ftc, GREETING.to_vec(), answer)
}

/// The same on a terminal, Python's: all that `ftc` prints is in `out`.
pub fn on_terminal(
    directory: &Path,
    words: &[&str],
    answer: impl FnMut(u8, u32, &Value) -> Vec<u8> + Send + 'static,
) -> Result<Ran, Box<dyn std::error::Error>> {
    let spawn = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut python = Command::new("/usr/bin/env");
    python.args(["python3", "-c", spawn, env!("CARGO_BIN_EXE_ftc")]).args(words);
    play(directory, python, GREETING.to_vec(), answer)
}

/// Runs a command that is `ftc`, against a server that greets it so and answers so.
pub fn play(
    directory: &Path,
    mut ftc: Command,
    greeting: Vec<u8>,
    answer: impl FnMut(u8, u32, &Value) -> Vec<u8> + Send + 'static,
) -> Result<Ran, Box<dyn std::error::Error>> {
    let socket: PathBuf = directory.join(".evil");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)?;
    let server = std::thread::spawn(move || serve(&listener, &greeting, answer));
    let output = ftc
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", directory)
        .env("FTC_SERVER", format!("unix:{}", socket.display()))
        .env("FTC_RETRY", "0s")
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()?;
    // The client ends first; a server that it never called waits for ever, and is left to the process.
    if server.is_finished() {
        let _ = server.join();
    }
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Ran { code: output.status.code(), out: output.stdout, err })
}

fn serve(
    listener: &UnixListener,
    greeting: &[u8],
    mut answer: impl FnMut(u8, u32, &Value) -> Vec<u8>,
) -> Fallible<()> {
    let (mut stream, _) = listener.accept()?;
    stream.write_all(&frame(HELLO, 0, greeting))?;
    loop {
        let mut header = [0; 12];
        stream.read_exact(&mut header)?;
        let number = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let mut payload = vec![0; number(8) as usize];
        stream.read_exact(&mut payload)?;
        let json = if header[0] == REQUEST || header[0] == super::raw::TRAILER {
            serde_json::from_slice(&payload)?
        } else {
            Value::Null
        };
        if header[0] != HELLO {
            stream.write_all(&answer(header[0], number(4), &json))?;
        }
    }
}
