//! The second wall: Landlock and seccomp, applied in `main` before the first thread exists.
//!
//! It stands in the process itself and so also without systemd. It is the only wall that catches a
//! directory which a local process moves out of the root while an upload holds it open.
//! Source: landlock(7), seccomp(2); `docs/architecture.md`, "Confinement".

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::Command;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, Scope, make_bitflags,
};
use nix::libc::{self, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};
use thiserror::Error;

/// What the daemon still needs when the wall stands.
pub struct Plan<'a> {
    /// The served tree: everything but executing and making special files.
    pub root: BorrowedFd<'a>,
    /// Where the configuration and files with keys are, read-only, so that a reload can read them.
    pub readable: Vec<&'a Path>,
    /// Whether a part that is missing ends the start.
    pub require: bool,
}

/// What stands; prints as one line for the status and the log.
#[derive(Clone, Debug)]
pub struct Report {
    /// The Landlock version in force, if any.
    pub landlock: Option<i32>,
    /// System calls that are still allowed; `None` when there is no filter.
    pub system_calls: Option<usize>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.landlock {
            Some(version) => write!(f, "Landlock ABI {version}, ")?,
            None => write!(f, "no Landlock, ")?,
        }
        match self.system_calls {
            Some(count) => write!(f, "seccomp {count} calls"),
            None => write!(f, "no seccomp"),
        }
    }
}

/// Why the wall does not stand.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// The kernel has no Landlock, or too old a one.
    #[error(
        "sandbox: Landlock {0}; it needs Linux 5.19 with landlock in its list of LSMs, and in a systemd unit \
         SystemCallFilter= must name landlock_create_ruleset, landlock_add_rule and landlock_restrict_self; \
         sandbox = \"best-effort\" starts without it"
    )]
    Landlock(String),
    /// The kernel takes no filter.
    #[error("sandbox: seccomp: {0}; sandbox = \"best-effort\" starts without it")]
    Seccomp(String),
    /// Something that must fail did not.
    #[error("sandbox self-test: {0} is still possible")]
    Open(&'static str),
}

/// Puts the wall up. It cannot be taken down again.
///
/// # Errors
/// With `require`, the first part that is missing.
pub fn apply(plan: &Plan<'_>) -> Result<Report, SandboxError> {
    let landlock = optional(plan.require, restrict_files(plan))?;
    let system_calls = optional(plan.require, restrict_calls())?;
    Ok(Report { landlock, system_calls })
}

fn optional<T>(require: bool, outcome: Result<T, SandboxError>) -> Result<Option<T>, SandboxError> {
    match outcome {
        Err(error) if !require => {
            tracing::warn!("{error}");
            Ok(None)
        }
        outcome => outcome.map(Some),
    }
}

fn restrict_files(plan: &Plan<'_>) -> Result<i32, SandboxError> {
    let fail =
        |error: &dyn fmt::Display| SandboxError::Landlock(format!("cannot be set up: {error}"));
    // Refer is not one right among many: without it every rename into another directory fails.
    let root = make_bitflags!(AccessFs::{
        ReadFile
            | ReadDir
            | WriteFile
            | Truncate
            | MakeReg
            | MakeDir
            | RemoveFile
            | RemoveDir
            | Refer
            // To rename what a local process has made is to make it, for Landlock. seccomp allows no
            // call that could really do so.
            | MakeSym
            | MakeFifo
            | MakeSock
    });
    let config = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    // A notify socket in the abstract name space has to stay in reach.
    let abstract_notify = std::env::var_os("NOTIFY_SOCKET")
        .is_some_and(|path| path.as_encoded_bytes().starts_with(b"@"));
    let scope = if abstract_notify { Scope::Signal.into() } else { Scope::from_all(ABI::V6) };
    let build = || -> Result<_, landlock::RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ABI::V5))?
            // No rule allows any port: what listens was bound before, and nothing connects.
            .handle_access(AccessNet::from_all(ABI::V4))?
            .scope(scope)?
            .create()?
            .add_rule(PathBeneath::new(plan.root, root))?;
        for directory in plan.readable.iter().filter_map(|path| PathFd::new(path).ok()) {
            rules = rules.add_rule(PathBeneath::new(directory, config))?;
        }
        rules.restrict_self()
    };
    match build().map_err(|error| fail(&error))?.landlock {
        LandlockStatus::Available { effective_abi, .. } if effective_abi >= ABI::V2 => {
            Ok(effective_abi as i32)
        }
        LandlockStatus::Available { .. } => {
            Err(SandboxError::Landlock("is too old (ABI 1)".to_owned()))
        }
        LandlockStatus::NotEnabled => Err(SandboxError::Landlock("is not enabled".to_owned())),
        LandlockStatus::NotImplemented => {
            Err(SandboxError::Landlock("is not in this kernel".to_owned()))
        }
    }
}

/// Every system call that the daemon makes once it serves, by what it is for.
const CALLS: &[(&str, &[c_long])] = &[
    (
        "memory",
        &[
            libc::SYS_brk,
            libc::SYS_mmap,
            libc::SYS_munmap,
            libc::SYS_mprotect,
            libc::SYS_mremap,
            libc::SYS_madvise,
        ],
    ),
    (
        "threads and time",
        &[
            libc::SYS_futex,
            libc::SYS_set_robust_list,
            libc::SYS_rseq,
            libc::SYS_sched_yield,
            libc::SYS_sched_getaffinity,
            libc::SYS_gettid,
            libc::SYS_getpid,
            libc::SYS_exit,
            libc::SYS_exit_group,
            libc::SYS_nanosleep,
            libc::SYS_clock_nanosleep,
            libc::SYS_clock_gettime,
            libc::SYS_clock_getres,
            libc::SYS_gettimeofday,
            libc::SYS_restart_syscall,
            libc::SYS_prctl,
            libc::SYS_membarrier,
            libc::SYS_getcpu,
        ],
    ),
    (
        "signals",
        &[
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_sigaltstack,
            libc::SYS_tgkill,
        ],
    ),
    (
        "facts about ourselves",
        &[
            libc::SYS_getuid,
            libc::SYS_geteuid,
            libc::SYS_getgid,
            libc::SYS_getegid,
            libc::SYS_uname,
            libc::SYS_sysinfo,
            libc::SYS_prlimit64,
            libc::SYS_getrandom,
        ],
    ),
    (
        "events and pipes",
        &[
            libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl,
            libc::SYS_epoll_pwait,
            libc::SYS_ppoll,
            libc::SYS_eventfd2,
            libc::SYS_pipe2,
            libc::SYS_close,
            libc::SYS_dup,
            libc::SYS_dup3,
            libc::SYS_fcntl,
            libc::SYS_ioctl,
        ],
    ),
    (
        "connections, the journal, the service manager",
        &[
            libc::SYS_accept4,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_socketpair,
            libc::SYS_recvfrom,
            libc::SYS_recvmsg,
            libc::SYS_sendto,
            libc::SYS_sendmsg,
            libc::SYS_shutdown,
            libc::SYS_getsockname,
            libc::SYS_getpeername,
            libc::SYS_getsockopt,
            libc::SYS_setsockopt,
            libc::SYS_memfd_create,
        ],
    ),
    (
        "reading and writing",
        &[
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_readv,
            libc::SYS_writev,
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            libc::SYS_preadv,
            libc::SYS_pwritev,
            libc::SYS_lseek,
            libc::SYS_fadvise64,
        ],
    ),
    (
        "files by descriptor",
        &[
            libc::SYS_fstat,
            libc::SYS_fstatfs,
            libc::SYS_getdents64,
            libc::SYS_ftruncate,
            libc::SYS_fallocate,
            libc::SYS_fchmod,
            libc::SYS_fsetxattr,
            libc::SYS_fgetxattr,
            libc::SYS_fremovexattr,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_syncfs,
            libc::SYS_sync_file_range,
            libc::SYS_flock,
        ],
    ),
    // openat is there for the configuration and for what the C library reads of accounts.
    (
        "names, always below a descriptor",
        &[
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_mkdirat,
            libc::SYS_unlinkat,
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_utimensat,
            libc::SYS_faccessat,
            libc::SYS_faccessat2,
            libc::SYS_readlinkat,
        ],
    ),
    ("the same under the names of older libraries", OLDER_CALLS),
];

#[cfg(target_arch = "x86_64")]
const OLDER_CALLS: &[c_long] =
    &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_stat, libc::SYS_lstat, libc::SYS_readlink];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CALLS: &[c_long] = &[];

fn restrict_calls() -> Result<usize, SandboxError> {
    let fail = |error: &dyn fmt::Display| SandboxError::Seccomp(error.to_string());
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(|error| fail(&error))?;
    let filter = |rules, otherwise, matched| -> Result<BpfProgram, seccompiler::BackendError> {
        SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()
    };
    let rules = rules().map_err(|error| fail(&error))?;
    let count = rules.len();
    let errno = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    let allow_list =
        filter(rules, errno(libc::EPERM), SeccompAction::Allow).map_err(|error| fail(&error))?;
    // The flags of clone3 lie behind a pointer, out of a filter's sight: the C library takes ENOSYS for
    // an old kernel and calls clone.
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let no_clone3 = filter(no_clone3, SeccompAction::Allow, errno(libc::ENOSYS))
        .map_err(|error| fail(&error))?;
    for program in [&no_clone3, &allow_list] {
        apply_filter(program).map_err(|error| fail(&error))?;
    }
    Ok(count)
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().flat_map(|(_, calls)| *calls).map(|call| (*call, Vec::new())).collect();
    // Threads, never processes.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let is_thread = SeccompCondition::new(0, Len::Qword, Op::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread])?]);
    // The network and Unix sockets, never packets or kernel interfaces.
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    let families = families.into_iter().map(|family| {
        let is_family =
            SeccompCondition::new(0, Len::Dword, Op::Eq, u64::from(family.unsigned_abs()))?;
        SeccompRule::new(vec![is_family])
    });
    rules.insert(libc::SYS_socket, families.collect::<Result<_, _>>()?);
    // For the second of the two filters to answer.
    rules.insert(libc::SYS_clone3, Vec::new());
    Ok(rules)
}

/// Tries what the wall must prevent. To be called on every kind of thread that serves.
///
/// # Errors
/// What is still possible.
#[expect(clippy::disallowed_methods, reason = "these opens must fail")]
pub fn self_test() -> Result<(), SandboxError> {
    let refused = |error: Option<io::Error>| {
        error.is_some_and(|error| matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)))
    };
    let checks: [(&str, bool); 4] = [
        ("reading the file system's top directory", refused(std::fs::read_dir("/").err())),
        ("reading /usr/share", refused(std::fs::File::open("/usr/share").err())),
        (
            "running a program",
            refused(Command::new("/proc/self/exe").arg("--version").spawn().err()),
        ),
        ("opening a raw socket", refused(raw_socket().err())),
    ];
    match checks.into_iter().find(|(_, refused)| !refused) {
        Some((what, _)) => Err(SandboxError::Open(what)),
        None => Ok(()),
    }
}

fn raw_socket() -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .map(drop)
        .map_err(io::Error::from)
}
