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
use super::look::Look;
use super::resolve::{DIRECTORY, open_below};

/// The daemon's staging directory, at the top of its tree.
const STAGE: &str = ".ftd-stage";

/// The same for whoever does not tell capitals from small letters.
const STAGE_IN_CAPITALS: &str = ".FTD-STAGE";

/// File systems that nix has no name for: SMB 2 and later, Ceph, 9p, Lustre, the kernel's own AFS, shared
/// folders of `VirtualBox`, sysfs; and FUSE, behind which may be anything.
const CIFS_SUPER_MAGIC: i64 = 0xFF53_4D42;
const SMB2_SUPER_MAGIC: i64 = 0xFE53_4D42;
const CEPH_SUPER_MAGIC: i64 = 0x00C3_6400;
const V9FS_MAGIC: i64 = 0x0102_1997;
const LUSTRE_SUPER_MAGIC: i64 = 0x0BD0_0BD0;
const AFS_FS_MAGIC: i64 = 0x6B41_4653;
const VBOXSF_SUPER_MAGIC: i64 = 0x786F_4256;
const SYSFS_MAGIC: i64 = 0x6265_6572;
const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;

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
    let disk = Disk::of(fstatfs(&top).map_err(kernel)?.filesystem_type());
    if place == StagingPlace::Directory && disk == Disk::Elsewhere {
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

/// Where what is flushed ends up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Disk {
    /// On a disk of this machine, or in its memory, as far as the kernel knows.
    Here,
    /// On another machine, or nowhere.
    Elsewhere,
    /// A process serves the file system, and it alone knows.
    Unknown,
}

impl Disk {
    pub(super) fn of(kind: FsType) -> Self {
        let named = [
            NFS_SUPER_MAGIC,
            SMB_SUPER_MAGIC,
            AFS_SUPER_MAGIC,
            CODA_SUPER_MAGIC,
            NCP_SUPER_MAGIC,
            PROC_SUPER_MAGIC,
        ];
        let numbered = [
            CIFS_SUPER_MAGIC,
            SMB2_SUPER_MAGIC,
            CEPH_SUPER_MAGIC,
            V9FS_MAGIC,
            LUSTRE_SUPER_MAGIC,
            AFS_FS_MAGIC,
            VBOXSF_SUPER_MAGIC,
            SYSFS_MAGIC,
        ];
        if named.contains(&kind) || numbered.contains(&kind.0) {
            Self::Elsewhere
        } else if kind.0 == FUSE_SUPER_MAGIC {
            Self::Unknown
        } else {
            Self::Here
        }
    }
}

/// Whether two names of a directory are one, as they are where case is folded.
fn are_one(directory: &OwnedFd, one: &str, other: &str) -> bool {
    let identity = |name: &str| {
        let look = Look::at(directory, name).ok().filter(|look| !look.is_mount_point);
        look.map(|look| look.identity)
    };
    identity(one).is_some_and(|found| identity(other) == Some(found))
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
    if are_one(top, STAGE, STAGE_IN_CAPITALS) {
        let what = "names that differ in case are one there, so that rules for paths could be got round; \
                    use a directory that folds no case (ext4, f2fs, tmpfs: without chattr +F)";
        return Err(OpenError::Unfit { path: name.to_owned(), what });
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    /// G-02: numbers as statfs(2) and the kernel's magic.h have them.
    #[test]
    fn a_disk_that_is_not_here_is_told_by_its_file_system() {
        for (kind, disk, name) in [
            (0x6969, Disk::Elsewhere, "NFS"),
            (0x517B, Disk::Elsewhere, "SMB"),
            (0xFF53_4D42, Disk::Elsewhere, "CIFS"),
            (0xFE53_4D42, Disk::Elsewhere, "SMB 2"),
            (0x00C3_6400, Disk::Elsewhere, "Ceph"),
            (0x0102_1997, Disk::Elsewhere, "9p"),
            (0x0BD0_0BD0, Disk::Elsewhere, "Lustre"),
            (0x5346_414F, Disk::Elsewhere, "OpenAFS"),
            (0x6B41_4653, Disk::Elsewhere, "AFS"),
            (0x7375_7245, Disk::Elsewhere, "Coda"),
            (0x786F_4256, Disk::Elsewhere, "shared folders of VirtualBox"),
            (0x9FA0, Disk::Elsewhere, "procfs"),
            (0x6265_6572, Disk::Elsewhere, "sysfs"),
            (0x6573_5546, Disk::Unknown, "FUSE"),
            (0xEF53, Disk::Here, "ext4"),
            (0x5846_5342, Disk::Here, "XFS"),
            (0x9123_683E, Disk::Here, "Btrfs"),
            (0x2FC1_2FC1, Disk::Here, "ZFS"),
            (0xF2F5_2010, Disk::Here, "F2FS"),
            (0x0102_1994, Disk::Here, "tmpfs"),
            (0x794C_7630, Disk::Here, "overlayfs"),
        ] {
            assert_eq!(Disk::of(FsType(kind)), disk, "{name}");
        }
    }

    /// G-02 in small: a directory that folds case gives one file under both names, as a second link does.
    #[test]
    fn names_are_one_when_they_lead_to_one_file() -> TestResult {
        let directory = tempfile::tempdir()?;
        let top: OwnedFd = File::open(directory.path())?.into();
        std::fs::write(directory.path().join("a"), "")?;
        assert!(!are_one(&top, "a", "A"), "the other is missing");
        assert!(!are_one(&top, "B", "b"), "both are missing");
        std::fs::write(directory.path().join("A"), "")?;
        assert!(!are_one(&top, "a", "A"), "two files");
        std::fs::remove_file(directory.path().join("A"))?;
        std::fs::hard_link(directory.path().join("a"), directory.path().join("A"))?;
        assert!(are_one(&top, "a", "A"));
        Ok(())
    }
}
