//! A server that looks first and opens later, as ftd must not: it shows that the judge sees an escape.
//! Every name on the way is looked at, links are refused, and then the path is used.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::libc::O_NONBLOCK;
use serde_json::{Value, json};

use crate::Fallible;
use crate::support::raw::{
    ANSWER, DATA, ENTRIES, EOF, ERROR, HELLO, REQUEST, TRAILER, frame, receive_from, trailer,
};
use crate::support::sha256;

/// Serves one connection with what lies below `home`, until it is closed.
pub fn serve(listener: &UnixListener, home: &Path) -> Fallible<()> {
    let (mut stream, _) = listener.accept()?;
    stream.write_all(&frame(HELLO, 0, b"{}"))?;
    let (mut request, mut content) = (Value::Null, Vec::new());
    while let Some(received) = receive_from(&mut stream)? {
        match received.kind {
            REQUEST => {
                (request, content) = (received.json(), Vec::new());
                if request["verb"] != "put" {
                    answer(&mut stream, received.id, carry_out(home, &request, &content))?;
                }
            }
            DATA => content.extend(&received.payload),
            TRAILER => answer(&mut stream, received.id, carry_out(home, &request, &content))?,
            _ => {}
        }
    }
    Ok(())
}

/// What a request gives: content, names or an answer.
enum Given {
    Content(Vec<u8>),
    Names(Vec<String>),
    Answer(Value),
}

fn answer(stream: &mut UnixStream, id: u32, given: io::Result<Given>) -> io::Result<()> {
    let frames = match given {
        Ok(Given::Content(content)) => [
            frame(ANSWER, id, br#"{"file":{}}"#),
            frame(DATA, id, &content),
            frame(EOF, id, b""),
            frame(TRAILER, id, &trailer(&content)),
        ]
        .concat(),
        Ok(Given::Names(names)) => {
            let entries: Vec<_> = names.into_iter().map(|name| json!({"name": name})).collect();
            let entries = json!({"entries": entries}).to_string();
            [frame(ENTRIES, id, entries.as_bytes()), frame(ANSWER, id, br#"{"listed":{}}"#)]
                .concat()
        }
        Ok(Given::Answer(value)) => frame(ANSWER, id, value.to_string().as_bytes()),
        Err(error) => {
            let code = match error.kind() {
                io::ErrorKind::NotFound => "NOT_FOUND",
                io::ErrorKind::AlreadyExists => "EXISTS",
                _ => "WRONG_TYPE",
            };
            frame(ERROR, id, json!({"code": code}).to_string().as_bytes())
        }
    };
    stream.write_all(&frames)
}

/// The check: every name that is there is looked at, and none may be a link.
fn look(home: &Path, path: &Value) -> io::Result<PathBuf> {
    let mut way = home.to_owned();
    for name in path.as_str().unwrap_or_default().split('/') {
        way.push(name);
        match fs::symlink_metadata(&way) {
            Ok(stat) if stat.is_symlink() => return Err(io::Error::other("a link")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(way)
}

/// A pipe that stands there by now would be waited for, and a hang is another fault than an escape.
fn options() -> fs::OpenOptions {
    let mut options = fs::File::options();
    options.custom_flags(O_NONBLOCK);
    options
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    options().read(true).open(path)?.read_to_end(&mut content)?;
    Ok(content)
}

/// The use, which is later.
fn carry_out(home: &Path, request: &Value, content: &[u8]) -> io::Result<Given> {
    let path = look(home, &request["path"])?;
    // As the scheduler may at any time; it makes fewer calls enough.
    std::thread::yield_now();
    let value = match request["verb"].as_str().unwrap_or_default() {
        "get" => return read(&path).map(Given::Content),
        "list" => {
            let names = fs::read_dir(path)?.flatten();
            let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
            return Ok(Given::Names(names.collect()));
        }
        "put" => {
            let replaced = path.exists();
            options().write(true).create(true).truncate(true).open(path)?.write_all(content)?;
            json!({"stored": {"replaced": replaced}})
        }
        "remove" => fs::remove_file(path).map(|()| json!({"removed": {}}))?,
        "rmdir" => fs::remove_dir(path).map(|()| json!({"removed": {}}))?,
        "mkdir" => fs::create_dir(path).map(|()| json!({"made": {"directories": 1}}))?,
        "rename" => {
            let to = look(home, &request["to"])?;
            let replaced = to.exists();
            fs::rename(path, to)?;
            json!({"renamed": {"replaced": replaced}})
        }
        "stat" => {
            let stat = fs::metadata(path)?;
            let kind = if stat.is_file() { "file" } else { "other" };
            json!({"stat": {"type": kind, "bytes": stat.len()}})
        }
        "digest" => json!({"digest": {"sha256": sha256(&read(&path)?)}}),
        "check" => json!({"check": {"exists": path.exists()}}),
        _ => return Err(io::Error::other("no such verb")),
    };
    Ok(Given::Answer(value))
}
