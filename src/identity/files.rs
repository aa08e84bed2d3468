//! Key files: the host key of a server, the private keys of a user.
#![expect(clippy::disallowed_methods, reason = "key files are named by their owner, not by a peer")]

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::geteuid;
use thiserror::Error;
use zeroize::Zeroizing;

use super::{KeyError, PrivateKey, parse_public_line};

/// Bytes of the largest key file that is read.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// Why there is no host key.
#[derive(Debug, Error)]
pub enum HostKeyError {
    /// It cannot be read or written.
    #[error("host key {path}: {doing}: {source}{}", hint(source))]
    Io {
        /// The file.
        path: String,
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else could have read or written it.
    #[error("host key {path}: {what}")]
    Unsafe {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        what: &'static str,
    },
    /// It is no key.
    #[error("host key {path}: {source}")]
    Unusable {
        /// The file.
        path: String,
        /// Why.
        source: KeyError,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make its directory, and give it to ftd's account",
        io::ErrorKind::PermissionDenied => "; its directory must be ftd's account's own",
        _ => "",
    }
}

impl HostKeyError {
    /// Whether there just is none yet.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    fn io<'a>(path: &'a Path, doing: &'static str) -> impl Fn(io::Error) -> Self + 'a {
        move |source| Self::Io { path: path.display().to_string(), doing, source }
    }
}

/// Reads a server's private key.
///
/// # Errors
/// It is missing, damaged, or readable by others: a key that others can read proves nothing.
pub fn load_host_key(path: &Path) -> Result<PrivateKey, HostKeyError> {
    let refuse = |what| Err(HostKeyError::Unsafe { path: path.display().to_string(), what });
    let mut options = File::options();
    options.read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK);
    let file = match options.open(path) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
            return refuse("it is a symbolic link; name the file itself");
        }
        opened => opened.map_err(HostKeyError::io(path, "open"))?,
    };
    let stat = file.metadata().map_err(HostKeyError::io(path, "look at"))?;
    if !stat.is_file() {
        return refuse("it is not a regular file");
    }
    if ![0, geteuid().as_raw()].contains(&stat.uid()) {
        return refuse("it belongs to another account; give it to ftd's with chown");
    }
    if stat.mode() & 0o077 != 0 {
        return refuse(
            "others may read or write it; run chmod 600 on it, and if others did read it, make a new one",
        );
    }
    read_host_key(path, file)
}

/// Reads a server's private key that the service manager hands over as a credential.
///
/// Who may read it is not looked at: its directory shows it to this service alone, and the manager
/// uses access lists, which look like a mode for others. Source: systemd.exec(5), `LoadCredential=`.
///
/// # Errors
/// It is missing or damaged.
pub fn load_credential_key(path: &Path) -> Result<PrivateKey, HostKeyError> {
    read_host_key(path, File::open(path).map_err(HostKeyError::io(path, "open"))?)
}

fn read_host_key(path: &Path, file: File) -> Result<PrivateKey, HostKeyError> {
    let mut pem = Zeroizing::new(String::new());
    file.take(KEY_BYTES_MAX).read_to_string(&mut pem).map_err(HostKeyError::io(path, "read"))?;
    PrivateKey::parse_openssh(&pem, None)
        .map_err(|source| HostKeyError::Unusable { path: path.display().to_string(), source })
}

/// Reads a server's private key, or makes one; gives whether it was made.
///
/// The key is written and flushed under another name first, so that neither a power cut nor a second
/// process ever sees half of it.
///
/// # Errors
/// As [`load_host_key`]; or it cannot be written.
pub fn load_or_create_host_key(path: &Path) -> Result<(PrivateKey, bool), HostKeyError> {
    match load_host_key(path) {
        Err(error) if error.is_missing() => {}
        loaded => return loaded.map(|key| (key, false)),
    }
    let unusable = |source| HostKeyError::Unusable { path: path.display().to_string(), source };
    let key = PrivateKey::generate().map_err(unusable)?;
    let pem = key.to_openssh().map_err(unusable)?;
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_| unusable(KeyError::Private("no random bytes".to_owned())))?;
    let draft =
        PathBuf::from(format!("{}.new-{:016x}", path.display(), u64::from_be_bytes(random)));
    let written =
        write_new(&draft, pem.as_bytes()).map_err(HostKeyError::io(path, "write a new one"));
    // link(2) replaces nothing: of two processes one wins, and both use its key.
    let linked = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        linked => linked.map(|()| true).map_err(HostKeyError::io(path, "put the new one in place")),
    });
    let _ = fs::remove_file(&draft); // Whatever came of it, the draft has done its duty.
    let is_ours = linked?;
    let directory =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(HostKeyError::io(path, "flush"))?;
    Ok((load_host_key(path)?, is_ours))
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Reads a user's private key file as text.
///
/// # Errors
/// It cannot be read; or others may read it, which ssh refuses too.
pub fn read_key_file(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let name = path.display().to_string();
    let refuse = |what: String| Err(KeyError::File { path: name.clone(), what });
    let read = || -> io::Result<(fs::Metadata, Zeroizing<String>)> {
        let file = File::options().read(true).custom_flags(O_NONBLOCK).open(path)?;
        let stat = file.metadata()?;
        let mut text = Zeroizing::new(String::new());
        if stat.is_file() {
            file.take(KEY_BYTES_MAX).read_to_string(&mut text)?;
        }
        Ok((stat, text))
    };
    match read() {
        Err(error) => refuse(format!("read the private key: {}", crate::types::said(&error))),
        Ok((stat, _)) if !stat.is_file() => refuse("it is not a regular file".to_owned()),
        Ok((_, text)) if parse_public_line(&text).is_ok() => {
            refuse("this is a public key; name the private one, the file without .pub".to_owned())
        }
        Ok((stat, _)) if stat.uid() == geteuid().as_raw() && stat.mode() & 0o077 != 0 => {
            refuse(format!(
                "its mode {:04o} lets others read the private key; run: chmod 600 {name}",
                stat.mode() & 0o777
            ))
        }
        Ok((_, text)) => Ok(text),
    }
}
