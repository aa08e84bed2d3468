//! The servers that a user trusts: whole key lines, pinned per `host:port`.
#![expect(clippy::disallowed_methods, reason = "the user's own file, named by the user")]

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use thiserror::Error;

use super::{KeyError, parse_public_line, public_line};
use crate::types::PublicKey;

/// Bytes of the largest file that is read.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The file's content. Several lines for one host are several keys that are good.
///
/// *Shape*: `HOST:PORT ALGORITHM BASE64 [COMMENT]`; `#` starts a comment line.
#[derive(Clone, Debug, Default)]
pub struct KnownHosts(Vec<(String, PublicKey)>);

/// Why the file cannot be used. It is never skipped: that would turn a known host into a new one.
#[derive(Debug, Error)]
pub enum KnownHostsError {
    /// It cannot be read or written.
    #[error("known hosts {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A line makes no sense.
    #[error("known hosts {path}:{line}: {source}")]
    Line {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// Why.
        source: KeyError,
    },
}

impl KnownHosts {
    /// Reads the file; one that is missing knows nobody.
    ///
    /// # Errors
    /// The file or the line that is wrong.
    pub fn load(path: &Path) -> Result<Self, KnownHostsError> {
        let text = match text(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(|source| in_file(path, source))?,
        };
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads the text of a file, which is called `path` in errors.
    ///
    /// # Errors
    /// The line that is wrong.
    pub fn parse(text: &str, path: &str) -> Result<Self, KnownHostsError> {
        let mut known = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (host, key) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            let (key, _) = parse_public_line(key).map_err(|source| KnownHostsError::Line {
                path: path.to_owned(),
                line: index + 1,
                source,
            })?;
            known.push((host.to_ascii_lowercase(), key));
        }
        Ok(Self(known))
    }

    /// The keys that are good for `host`, which includes the port; none for a host that is new.
    pub fn lookup(&self, host: &str) -> Vec<PublicKey> {
        let host = host.to_ascii_lowercase();
        self.0.iter().filter(|(known, _)| *known == host).map(|(_, key)| key.clone()).collect()
    }

    /// Remembers a key, durably; the directory is made if need be. One write, so that two processes
    /// never mix their lines.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(path: &Path, host: &str, key: &PublicKey) -> Result<(), KnownHostsError> {
        let write = || -> io::Result<()> {
            if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            }
            let mut file =
                File::options().read(true).append(true).create(true).mode(0o600).open(path)?;
            let line = own_line(host, key);
            // An editor may have left the last line without its end.
            let gap = if ends_a_line(&file)? { "" } else { "\n" };
            file.write_all(format!("{gap}{line}").as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| in_file(path, source))
    }

    /// Remembers a key in place of all others of its host, durably and whole or not at all. Every other
    /// line stays. What another process appends at the same moment may be lost; then it is asked again.
    ///
    /// # Errors
    /// The file cannot be read, or not be written.
    pub fn replace(path: &Path, host: &str, key: &PublicKey) -> Result<(), KnownHostsError> {
        let replace = || -> io::Result<()> {
            let path = path.canonicalize()?; // Of a link, the file that it leads to.
            let is_other = |line: &&str| {
                let known = line.trim().split([' ', '\t']).next().unwrap_or_default();
                !known.eq_ignore_ascii_case(host)
            };
            let before = text(&path)?;
            let mut after: String =
                before.lines().filter(is_other).flat_map(|line| [line, "\n"]).collect();
            after += &own_line(host, key);
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(format!(".{}.new", std::process::id()));
            let new = path.with_file_name(name);
            let write = || {
                let mode = path.metadata()?.mode() & 0o777;
                let mut file =
                    File::options().write(true).create_new(true).mode(mode).open(&new)?;
                file.write_all(after.as_bytes())?;
                file.sync_all()?;
                std::fs::rename(&new, &path)
            };
            write().inspect_err(|_| drop(std::fs::remove_file(&new)))?;
            path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
        };
        replace().map_err(|source| in_file(path, source))
    }
}

/// The text of a file, whole: what is left out would turn a known host into a new one.
pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn own_line(host: &str, key: &PublicKey) -> String {
    format!("{} {}\n", host.to_ascii_lowercase(), public_line(key))
}

/// Whether what is appended begins a line of its own.
fn ends_a_line(file: &File) -> io::Result<bool> {
    let Some(last) = file.metadata()?.len().checked_sub(1) else { return Ok(true) };
    let mut byte = [b'\n'];
    file.read_at(&mut byte, last)?;
    Ok(byte == [b'\n'])
}

fn in_file(path: &Path, source: io::Error) -> KnownHostsError {
    KnownHostsError::Io { path: path.display().to_string(), source }
}
