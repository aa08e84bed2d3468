//! What is proved about a tree before anything is served from it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, open, renameat2};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::sys::statfs::{
    AFS_SUPER_MAGIC, CODA_SUPER_MAGIC, FsType, NCP_SUPER_MAGIC, NFS_SUPER_MAGIC, PROC_SUPER_MAGIC,
    SMB_SUPER_MAGIC, fstatfs,
};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, geteuid, unlinkat};
use thiserror::Error;
use xattr::FileExt as _;

use super::StagingPlace;
use super::resolve::{DIRECTORY, open_below};

/// The daemon's staging directory, at the top of its tree.
const STAGE: &str = ".ftd-stage";

/// File systems that nix has no name for: SMB 2 and later, Ceph, sysfs.
const CIFS_SUPER_MAGIC: i64 = 0xFF53_4D42;
const SMB2_SUPER_MAGIC: i64 = 0xFE53_4D42;
const CEPH_SUPER_MAGIC: i64 = 0x00C3_6400;
const SYSFS_MAGIC: i64 = 0x6265_6572;

/// Why a directory cannot be served.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It cannot be opened.
    #[error("{path}: {}{}", cause.desc().to_lowercase(), hint(*cause))]
    Open {
        /// The directory.
        path: String,
        /// What the kernel said.
        cause: Errno,
    },
    /// The kernel cannot confine.
    #[error(
        "{path}: openat2 does not work ({}): it needs Linux 5.6, and in a systemd unit RestrictSUIDSGID= or \
         DynamicUser= take it away: set RestrictSUIDSGID=no and a static user", cause.desc().to_lowercase()
    )]
    NoOpenat2 {
        /// The directory.
        path: String,
        /// What the kernel said.
        cause: Errno,
    },
    /// It is not what ftd can keep its promise on.
    #[error("{path}: {what}")]
    Unfit {
        /// The directory.
        path: String,
        /// What is wrong, and what to do.
        what: &'static str,
    },
}

fn hint(cause: Errno) -> &'static str {
    match cause {
        Errno::ENOENT => "; make it, and give it to ftd's account",
        Errno::ENOTDIR | Errno::ELOOP => "; it must be a directory itself, not a link to one",
        Errno::EACCES => "; ftd's account must be able to enter it",
        _ => "",
    }
}

/// Opens the top directory and checks all that can be checked without a write.
pub(super) fn open_top(path: &Path, place: StagingPlace) -> Result<OwnedFd, OpenError> {
    let name = path.display().to_string();
    let unfit = |what| OpenError::Unfit { path: name.clone(), what };
    if path == Path::new("/") && place == StagingPlace::Directory {
        return Err(unfit("the whole file system is no root; name a directory of its own"));
    }
    let top = open(path, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())
        .map_err(|cause| OpenError::Open { path: name.clone(), cause })?;
    prove_confinement(&top, &name)?;
    let kernel = |cause| OpenError::Open { path: name.clone(), cause };
    let writable = AccessFlags::W_OK | AccessFlags::X_OK;
    if fstatvfs(&top).map_err(kernel)?.flags().contains(FsFlags::ST_RDONLY) {
        return Err(unfit("it is mounted read-only"));
    }
    faccessat(&top, ".", writable, nix::fcntl::AtFlags::AT_EACCESS).map_err(|_| {
        unfit("ftd's account may not write there; give it the directory with: chown")
    })?;
    if place == StagingPlace::Directory
        && is_remote(fstatfs(&top).map_err(kernel)?.filesystem_type())
    {
        return Err(unfit(
            "network and kernel file systems cannot keep ftd's promise; use a local disk",
        ));
    }
    Ok(top)
}

/// Lets the kernel refuse what it must refuse, so that a kernel that does not is found out here.
fn prove_confinement(top: &OwnedFd, name: &str) -> Result<(), OpenError> {
    let path = || name.to_owned();
    let look = |below: &[u8]| open_below(top, below, OFlag::O_PATH, Mode::empty());
    match look(b".") {
        Ok(_) => {}
        Err(cause @ (Errno::ENOSYS | Errno::EPERM | Errno::E2BIG | Errno::EINVAL)) => {
            return Err(OpenError::NoOpenat2 { path: path(), cause });
        }
        Err(cause) => return Err(OpenError::Open { path: path(), cause }),
    }
    for outside in [&b".."[..], b"/", b"/proc/self/root"] {
        if look(outside).is_ok() {
            let what = "openat2 let a path out of the tree; this kernel cannot be trusted with it";
            return Err(OpenError::Unfit { path: path(), what });
        }
    }
    Ok(())
}

fn is_remote(kind: FsType) -> bool {
    let named = [
        NFS_SUPER_MAGIC,
        SMB_SUPER_MAGIC,
        AFS_SUPER_MAGIC,
        CODA_SUPER_MAGIC,
        NCP_SUPER_MAGIC,
        PROC_SUPER_MAGIC,
    ];
    let numbered = [CIFS_SUPER_MAGIC, SMB2_SUPER_MAGIC, CEPH_SUPER_MAGIC, SYSFS_MAGIC];
    named.contains(&kind) || numbered.contains(&kind.0)
}

/// Opens the staging directory, makes it if it is missing, and tries in it what a commit will need.
pub(super) fn open_staging(
    top: &OwnedFd,
    path: &Path,
    place: StagingPlace,
) -> Result<OwnedFd, OpenError> {
    let name = path.display().to_string();
    let kernel = |cause| OpenError::Open { path: name.clone(), cause };
    if place == StagingPlace::Beside {
        return top.try_clone().map_err(|_| kernel(Errno::EMFILE));
    }
    match mkdirat(top, STAGE, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(cause) => return Err(kernel(cause)),
    }
    let stage = find_staging(top, &name)?.ok_or_else(|| kernel(Errno::ENOENT))?;
    let unfit = |what| OpenError::Unfit { path: format!("{name}/{STAGE}"), what };
    try_out(&stage).map_err(|(what, cause)| match cause {
        Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS => unfit(what),
        cause => OpenError::Open { path: format!("{name}/{STAGE}"), cause },
    })?;
    // One daemon to a root: the sweep at a start would take the files of another. The lock lives as
    // long as the descriptor.
    let stage = File::from(stage);
    stage.try_lock().map_err(|_| unfit("another ftd serves this root"))?;
    Ok(stage.into())
}

/// The staging directory, if there is one, as far as looking can tell that it is ours alone.
pub(super) fn find_staging(top: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, OpenError> {
    const FOREIGN: &str = "it belongs to another account; remove it and start again";
    let kernel = |cause| OpenError::Open { path: name.to_owned(), cause };
    let unfit = |what| OpenError::Unfit { path: format!("{name}/{STAGE}"), what };
    let stage = match open_below(top, STAGE.as_bytes(), DIRECTORY, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ELOOP | Errno::ENOTDIR) => {
            return Err(unfit("it must be a directory and not a link; remove it"));
        }
        Err(Errno::EXDEV) => {
            return Err(unfit("it must lie on the root's own file system; unmount it"));
        }
        Err(Errno::EACCES) => return Err(unfit(FOREIGN)),
        opened => opened.map_err(kernel)?,
    };
    let (above, stat) = (fstat(top).map_err(kernel)?, fstat(&stage).map_err(kernel)?);
    if above.st_dev != stat.st_dev {
        return Err(unfit("it must lie on the root's own file system"));
    }
    if stat.st_uid != geteuid().as_raw() {
        return Err(unfit(FOREIGN));
    }
    if stat.st_mode & 0o7777 != 0o700 {
        return Err(unfit("its mode must be 0700; run: chmod 700 on it"));
    }
    Ok(Some(stage))
}

/// Tries what a commit needs of the file system: attributes, and a rename that replaces nothing.
fn try_out(stage: &OwnedFd) -> Result<(), (&'static str, Errno)> {
    const PROBE: &str = ".ftd-probe";
    const PROBED: &str = ".ftd-probed";
    for name in [PROBE, PROBED] {
        let _ = unlinkat(stage, name, UnlinkatFlags::NoRemoveDir); // Left by a start that was killed.
    }
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
    let file = open_below(stage, PROBE.as_bytes(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|cause| ("it cannot be written", cause))?;
    let errno = |error: io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let tried = File::from(file)
        .set_xattr("user.ftd.probe", b"1")
        .map_err(|error| {
            ("its file system keeps no user attributes, which hold the digests", errno(error))
        })
        .and_then(|()| {
            renameat2(stage, PROBE, stage, PROBED, RenameFlags::RENAME_NOREPLACE)
                .map_err(|cause| ("its file system cannot rename without replacing", cause))
        });
    for name in [PROBE, PROBED] {
        let _ = unlinkat(stage, name, UnlinkatFlags::NoRemoveDir); // One of the two is there.
    }
    tried
}
