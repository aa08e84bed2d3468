//! The configuration file: one of the two places outside `fsroot` that open a path.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};
use thiserror::Error;

use crate::config::{ConfigErrors, Resolvers, Settings, parse};
use crate::identity::parse_public_line;

/// Bytes of the largest configuration that is read.
const CONFIG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The file and what it was called on the command line.
#[derive(Clone, Debug)]
pub(super) struct ConfigFile(pub(super) PathBuf);

/// Why there is no configuration.
#[derive(Debug, Error)]
pub(super) enum SettingsError {
    #[error("read {path}: {source}; name another file with --config")]
    Read { path: String, source: io::Error },
    #[error("{path}: {what}")]
    Unsafe { path: String, what: String },
    #[error(transparent)]
    Wrong(#[from] ConfigErrors),
}

impl ConfigFile {
    /// The directory that a reload must be able to read.
    pub(super) fn directory(&self) -> &Path {
        match self.0.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        }
    }
}

/// Reads and judges the configuration.
pub(super) fn load(file: &ConfigFile) -> Result<Settings, SettingsError> {
    let text = read(&file.0)?;
    let key =
        |line: &str| parse_public_line(line).map(|(key, _)| key).map_err(|error| error.to_string());
    Ok(parse(&file.0.display().to_string(), &text, &Resolvers { key: &key, account: &account })?)
}

fn account(name: &str) -> Result<u32, String> {
    if let Ok(uid) = name.parse() {
        return Ok(uid);
    }
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!(
            "no local account is called {name:?}; its number would do as well (and must, in a reload of a \
             configuration outside /etc)"
        )),
        Err(error) => Err(format!("look up the account {name:?}: {}", error.desc())),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the administrator's file, named on the command line"
)]
fn read(path: &Path) -> Result<String, SettingsError> {
    let name = path.display().to_string();
    let fail = |source| SettingsError::Read { path: name.clone(), source };
    let refuse = |what: &str| SettingsError::Unsafe { path: name.clone(), what: what.to_owned() };
    let nonblock = nix::libc::O_NONBLOCK; // A pipe in its place must not hang a start.
    let file = File::options().read(true).custom_flags(nonblock).open(path).map_err(fail)?;
    let stat = file.metadata().map_err(fail)?;
    if !stat.is_file() {
        return Err(refuse("not a regular file"));
    }
    if stat.mode() & 0o022 != 0 {
        return Err(refuse(
            "others may write it, and so decide who may log in; run: chmod go-w on it",
        ));
    }
    if ![0, geteuid().as_raw()].contains(&stat.uid()) {
        return Err(refuse("it belongs to somebody else than root or the daemon's own account"));
    }
    if stat.len() > CONFIG_BYTES_MAX {
        return Err(refuse("larger than 16 MiB"));
    }
    let mut text = String::new();
    file.take(CONFIG_BYTES_MAX).read_to_string(&mut text).map_err(fail)?;
    Ok(text)
}
