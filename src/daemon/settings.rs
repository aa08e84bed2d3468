//! The configuration file: one of the two places outside `fsroot` that open a path.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::unistd::{User, geteuid};
use thiserror::Error;

use crate::config::{ConfigErrors, Resolvers, Settings, Text, parse};
use crate::identity::parse_public_line;

/// Bytes of the largest configuration that is read.
const CONFIG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The file as it was called on the command line.
#[derive(Clone, Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
    /// Once the sandbox stands: the directories with key files that can still be read.
    readable: Option<BTreeSet<PathBuf>>,
}

/// A configuration and where its parts came from.
pub(super) struct Loaded {
    pub(super) settings: Settings,
    /// The directories of the files with keys.
    pub(super) key_directories: BTreeSet<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub(super) enum SettingsError {
    #[error("read {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("{0}; name another file with --config")]
    NoFile(Box<SettingsError>),
    #[error("{path}: {what}")]
    Unsafe { path: String, what: String },
    #[error(transparent)]
    Wrong(#[from] ConfigErrors),
}

impl ConfigFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, readable: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The same behind a sandbox that leaves these directories readable.
    pub(super) fn confined(&self, readable: BTreeSet<PathBuf>) -> Self {
        Self { readable: Some(readable), ..self.clone() }
    }

    /// The directory that a reload must be able to read.
    pub(super) fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        }
    }

    /// The include directory: `/etc/ftd.d` for `/etc/ftd.toml`.
    fn include_directory(&self) -> PathBuf {
        self.path.with_extension("d")
    }

    /// Reads a file with keys.
    fn keys(&self, path: &Path) -> Result<String, String> {
        let directory = path.parent().unwrap_or(path);
        let is_readable = |readable: &BTreeSet<PathBuf>| {
            directory.starts_with(self.directory())
                || readable.iter().any(|known| directory.starts_with(known))
        };
        if self.readable.as_ref().is_some_and(|readable| !is_readable(readable)) {
            return Err(format!(
                "no file with keys was in {} when ftd started, so that its sandbox keeps it from there; \
                 restart ftd",
                directory.display()
            ));
        }
        read(path, Link::Refused).map_err(|error| error.to_string())
    }
}

impl std::fmt::Display for ConfigFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.display().fmt(f)
    }
}

/// Reads and judges the configuration.
pub(super) fn load(file: &ConfigFile) -> Result<Loaded, SettingsError> {
    let named = |path: &Path, text| Text { name: path.display().to_string(), text };
    let text = read(&file.path, Link::Followed).map_err(|error| match error {
        error @ SettingsError::Read { .. } => SettingsError::NoFile(Box::new(error)),
        error => error,
    })?;
    let main = named(&file.path, text);
    let mut included = Vec::new();
    let mut bytes = 0;
    for path in include_files(&file.include_directory())? {
        let text = read(&path, Link::Refused)?;
        bytes += text.len() as u64;
        if bytes > CONFIG_BYTES_MAX {
            return Err(refuse(&path, "with this file the include directory has more than 16 MiB"));
        }
        included.push(named(&path, text));
    }
    let key =
        |line: &str| parse_public_line(line).map(|(key, _)| key).map_err(|error| error.to_string());
    let key_directories = RefCell::new(BTreeSet::new());
    let keys_file = |path: &Path| {
        key_directories.borrow_mut().extend(path.parent().map(Path::to_path_buf));
        file.keys(path)
    };
    let resolvers = Resolvers { key: &key, account: &account, keys_file: &keys_file };
    let settings = parse(&main, &included, &resolvers)?;
    Ok(Loaded { settings, key_directories: key_directories.take() })
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
        Err(error) => Err(format!(
            "look up the account {name:?}: {}; its number would do as well (and must, in a reload of a \
             configuration outside /etc)",
            error.desc()
        )),
    }
}

/// Whether a symbolic link may stand in the place of a file.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Link {
    /// The administrator named the file.
    Followed,
    /// The file was found, or decides who may come in.
    Refused,
}

fn refuse(path: &Path, what: &str) -> SettingsError {
    SettingsError::Unsafe { path: path.display().to_string(), what: what.to_owned() }
}

fn open(path: &Path, flags: i32) -> Result<File, SettingsError> {
    let fail = |source: io::Error| match source.raw_os_error() {
        Some(nix::libc::ELOOP) => refuse(path, "a symbolic link, which is not followed here"),
        _ => SettingsError::Read { path: path.display().to_string(), source },
    };
    open_raw(path, flags).map_err(fail)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the administrator's files: named on the command line, beside that file, or in it"
)]
fn open_raw(path: &Path, flags: i32) -> io::Result<File> {
    File::options().read(true).custom_flags(flags).open(path)
}

/// Who may write a file or directory decides who may come in.
fn check_writers(path: &Path, stat: &std::fs::Metadata) -> Result<(), SettingsError> {
    if stat.mode() & 0o022 != 0 {
        let what = "others may write it, and so decide who may log in; run: chmod go-w on it";
        return Err(refuse(path, what));
    }
    if ![0, geteuid().as_raw()].contains(&stat.uid()) {
        let what = "it belongs to somebody else than root or the daemon's own account";
        return Err(refuse(path, what));
    }
    Ok(())
}

/// The files of the include directory in the order of their names; none if there is no directory.
fn include_files(directory: &Path) -> Result<Vec<PathBuf>, SettingsError> {
    let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
    let opened = match open(directory, flags) {
        Err(SettingsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        opened => opened?,
    };
    let fail = |source| SettingsError::Read { path: directory.display().to_string(), source };
    check_writers(directory, &opened.metadata().map_err(fail)?)?;
    let entries = Dir::from_fd(opened.into()).map_err(|error| fail(error.into()))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| fail(error.into()))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let is_hidden = name.as_bytes().starts_with(b".");
        if !is_hidden && Path::new(name).extension().is_some_and(|end| end == "toml") {
            files.push(directory.join(name));
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path, link: Link) -> Result<String, SettingsError> {
    let fail = |source| SettingsError::Read { path: path.display().to_string(), source };
    let nofollow = if link == Link::Refused { nix::libc::O_NOFOLLOW } else { 0 };
    // A pipe in its place must not hang a start.
    let file = open(path, nix::libc::O_NONBLOCK | nofollow)?;
    let stat = file.metadata().map_err(fail)?;
    if !stat.is_file() {
        return Err(refuse(path, "not a regular file"));
    }
    check_writers(path, &stat)?;
    if stat.len() > CONFIG_BYTES_MAX {
        return Err(refuse(path, "larger than 16 MiB"));
    }
    let mut text = String::new();
    file.take(CONFIG_BYTES_MAX).read_to_string(&mut text).map_err(fail)?;
    Ok(text)
}
