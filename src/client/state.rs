//! How far an upload got, as far as this side knows: so that nothing is hashed twice when it goes on.
//!
//! *Shape*: a JSON file for each upload below `ftc/uploads` in the user's state directory, named after
//! the server and the path. It holds the state of SHA-256 at some offsets, the last ones, and counts only
//! while the local file is what it was. Losing it costs time and nothing else.
#![expect(
    clippy::disallowed_methods,
    reason = "the client's own files, in the user's state directory"
)]

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::digest::common::hazmat::SerializableState as _;
use sha2::{Digest as _, Sha256};

use super::local::Witness;
use super::operand::Server;
use super::settings::{make_private, state_directory};
use crate::proto::Trailer;
use crate::types::{RelPath, Sha256Digest};

/// Bytes between two points.
pub const STEP: u64 = 64 * 1024 * 1024;
/// Points that are kept: the server's may be that many steps behind.
const POINTS_MAX: usize = 32;
/// How long a file is kept that nobody goes on with.
const KEPT: Duration = Duration::from_hours(24 * 30);
/// The version of the files.
const VERSION: u32 = 1;

/// What is known about one upload.
pub struct Progress {
    file: Option<PathBuf>,
    record: Record,
}

#[derive(Deserialize, Serialize)]
struct Record {
    version: u32,
    witness: Witness,
    points: Vec<Point>,
    /// Everything was sent, this, and no answer had come yet.
    sealed: Option<Trailer>,
}

#[derive(Deserialize, Serialize)]
struct Point {
    offset: u64,
    state: Vec<u8>,
}

impl Progress {
    /// What is known about an upload of this file to this place; nothing if it is another file by now.
    pub fn load(server: &Server, path: &RelPath, witness: &Witness) -> Self {
        let file = state_directory().map(|directory| {
            let name = [server.name().as_bytes(), b"\0", path.raw_bytes()].concat();
            let name = Sha256Digest(Sha256::digest(name).into()).to_string();
            directory.join("uploads").join(&name[..32])
        });
        let record = file.as_ref().and_then(|file| {
            let record: Record = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
            (record.version == VERSION && record.witness == *witness).then_some(record)
        });
        let fresh =
            || Record { version: VERSION, witness: *witness, points: Vec::new(), sealed: None };
        Self { file, record: record.unwrap_or_else(fresh) }
    }

    /// What was sent to its end, if that is how far it got.
    pub fn sealed(&self) -> Option<Trailer> {
        self.record.sealed
    }

    /// The last point that is not past `most`.
    pub fn before(&self, most: u64) -> (u64, Sha256) {
        let best = self.record.points.iter().filter(|point| point.offset <= most);
        let best = best.max_by_key(|point| point.offset).and_then(|point| {
            let state = point.state.as_slice().try_into().ok()?;
            Some((point.offset, Sha256::deserialize(&state).ok()?))
        });
        best.unwrap_or_default()
    }

    /// Remembers a point.
    pub fn add(&mut self, offset: u64, hasher: &Sha256) {
        let state = hasher.serialize().to_vec();
        self.record.points.retain(|point| point.offset < offset);
        self.record.points.push(Point { offset, state });
        if self.record.points.len() > POINTS_MAX {
            self.record.points.remove(0);
        }
        self.save();
    }

    /// Remembers that everything is sent.
    pub fn seal(&mut self, sealed: Trailer) {
        self.record.sealed = Some(sealed);
        self.save();
    }

    /// Forgets everything: it is done, or begins anew.
    pub fn clear(&mut self) {
        (self.record.points, self.record.sealed) = (Vec::new(), None);
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file); // It may never have been written.
        }
    }

    /// Writes the file anew. If it cannot be written, resuming costs a second hashing.
    fn save(&self) {
        let Some(file) = &self.file else { return };
        make_private(file);
        forget_old(file);
        let new = file.with_extension(format!("{}.new", std::process::id()));
        if let Ok(text) = serde_json::to_vec(&self.record)
            && std::fs::write(&new, text).is_ok()
        {
            let _ = std::fs::rename(&new, file);
        }
    }
}

/// Removes what nobody has touched for a month.
fn forget_old(file: &std::path::Path) {
    let old = |entry: &std::fs::DirEntry| {
        let modified = entry.metadata().and_then(|meta| meta.modified()).ok();
        modified.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > KEPT)
    };
    let entries = file.parent().and_then(|directory| std::fs::read_dir(directory).ok());
    for entry in entries.into_iter().flatten().flatten().filter(old) {
        let _ = std::fs::remove_file(entry.path()); // Another process may have been first.
    }
}
