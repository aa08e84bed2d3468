//! Uploads that are cut: how they begin, what is kept of them, and how they go on.

use serde_json::{Value, json};

use crate::support::raw::{ANSWER, DATA, EOF, Raw, TRAILER, trailer};
use crate::support::{self, Daemon, PATIENCE, Setup, TestResult, noise, sha256};

pub type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

pub const MIB: usize = 1 << 20;

/// A content that is cheap to make and the same nowhere: noise, over and over, counted.
pub fn content(bytes: usize, seed: u64) -> Vec<u8> {
    let mut block = noise(MIB, seed);
    let mut out = Vec::with_capacity(bytes + MIB);
    let mut count = 0_u64;
    while out.len() < bytes {
        block[..8].copy_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&block);
        count += 1;
    }
    out.truncate(bytes);
    out
}

/// Begins a put and sends the content from `from` up to `to`, and not its end.
pub fn begin(raw: &mut Raw, id: u32, request: &Value, part: &[u8]) -> TestResult {
    raw.request(id, request)?;
    for piece in part.chunks(MIB) {
        raw.send(DATA, id, piece)?;
    }
    Ok(())
}

/// A put that is kept when it is cut.
pub fn put(path: &str, bytes: usize) -> Value {
    json!({"verb": "put", "path": path, "bytes": bytes, "resumable": true})
}

/// Asks what is kept: the upload and its offset, or the code of the error.
pub fn kept(daemon: &Daemon, path: &str) -> Fallible<Result<(String, usize, String), String>> {
    let (mut raw, deadline) = (Raw::greeted(daemon)?, std::time::Instant::now() + PATIENCE);
    let mut id = 0;
    let frame = loop {
        id += 1;
        raw.request(id, &json!({"verb": "resume", "path": path}))?;
        let frame = raw.expect()?;
        // The server itself waits for the flush of what was cut, and not for ever.
        if frame.code() != "BUSY" || std::time::Instant::now() > deadline {
            break frame;
        }
    };
    if frame.kind != ANSWER {
        return Ok(Err(frame.code()));
    }
    let found = frame.json()["resume"].clone();
    let word = |key: &str| found[key].as_str().map(str::to_owned).ok_or("no such member");
    let offset = usize::try_from(found["offset"].as_u64().ok_or("no offset")?)?;
    Ok(Ok((word("upload")?, offset, word("sha256")?)))
}

/// Begins a put, closes the connection in it, and waits for what is kept.
pub fn cut(daemon: &Daemon, request: &Value, part: &[u8]) -> Fallible<(String, usize)> {
    let mut raw = Raw::greeted(daemon)?;
    begin(&mut raw, 1, request, part)?;
    drop(raw);
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        // Right after the cut the server may not have read as far as the request.
        match kept(daemon, request["path"].as_str().unwrap_or_default())? {
            Ok((upload, offset, _)) if offset <= part.len() && part.len() - offset < MIB => {
                return Ok((upload, offset));
            }
            found if std::time::Instant::now() > deadline => {
                return Err(format!("{found:?}").into());
            }
            _ => {}
        }
    }
}

/// Goes on with what is kept, to its end; gives the offset and the code of the answer.
pub fn go_on(daemon: &Daemon, path: &str, content: &[u8]) -> Fallible<(usize, String)> {
    let (upload, offset, digest) = kept(daemon, path)?.map_err(|code| format!("kept: {code}"))?;
    assert_eq!(digest, sha256(&content[..offset]), "the digest of the first {offset} bytes");
    let mut raw = Raw::greeted(daemon)?;
    let request = json!({"verb": "put", "path": path, "bytes": content.len(),
        "resume": {"upload": upload, "offset": offset}});
    begin(&mut raw, 1, &request, &content[offset..])?;
    raw.send(EOF, 1, b"")?;
    raw.send(TRAILER, 1, &trailer(content))?;
    let frame = raw.expect()?;
    let code = if frame.kind == ANSWER { "ok".to_owned() } else { frame.code() };
    Ok((offset, code))
}

/// How many files are staged.
pub fn staged(daemon: &Daemon) -> Fallible<usize> {
    Ok(std::fs::read_dir(daemon.path("root/.ftd-stage"))?.count())
}

/// Waits until so many files are staged: what a connection leaves goes after it.
pub fn wait_for_staged(daemon: &Daemon, count: usize) -> TestResult {
    let deadline = std::time::Instant::now() + PATIENCE;
    while staged(daemon)? != count {
        if std::time::Instant::now() > deadline {
            return Err(format!("{} staged files instead of {count}", staged(daemon)?).into());
        }
        support::pause();
    }
    Ok(())
}

/// Waits until a checkpoint covers so much.
pub fn wait_for_checkpoint(daemon: &Daemon, bytes: u64) -> TestResult {
    support::wait_for_checkpoint(&daemon.path("root/.ftd-stage"), bytes)
}

/// A staging file as a daemon leaves it, of so many bytes, with what its attribute says.
pub fn plant(setup: &Setup, number: u128, bytes: u64, mark: Option<&str>) -> TestResult {
    let path = setup.path(&format!("root/.ftd-stage/keep-{number:032x}"));
    std::fs::File::create(&path)?.set_len(bytes)?;
    if let Some(mark) = mark {
        xattr::set(&path, "user.ftd.upload", mark.as_bytes())?;
    }
    Ok(())
}
