//! What a running daemon is told: legal values only.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::admission::Admission;
use crate::types::{Durability, Principal, PublicKey, Quota, Reserve};

/// Places to listen at, at most.
pub const LISTEN_MAX: usize = 16;

/// Bytes in the path of a Unix socket, at most.
///
/// *Source*: unix(7), `sun_path` has 108 bytes of which one is the final NUL.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// Everything that `/etc/ftd.toml` says, with defaults filled in; made by `parse` alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The directory that is served: absolute, not `/`, without `.` and `..`.
    pub root: PathBuf,
    /// Where to listen: 1 to [`LISTEN_MAX`], no two alike.
    pub listen: Vec<Listen>,
    /// The file with the server's own key: absolute, not below `root`.
    pub host_key: PathBuf,
    /// When a stored file counts as safe.
    pub durability: Durability,
    /// What to do where the kernel offers less than the whole sandbox.
    pub sandbox: SandboxMode,
    /// Bits that are taken from the mode 0666 of a new file and 0777 of a directory; 0 to 0o777.
    pub umask: u32,
    /// How much of the root's file system is left alone.
    pub reserve: Reserve,
    /// How much of everything.
    pub limits: Limits,
    /// Who may come in: at least one; names, keys and accounts are each unique.
    pub users: Vec<User>,
}

impl Settings {
    /// The host key where the file names none.
    pub const HOST_KEY_DEFAULT: &'static str = "/var/lib/ftd/host_key";
    /// The umask where the file names none.
    pub const UMASK_DEFAULT: u32 = 0o022;
}

/// A place to listen at; prints as the file spells it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Listen {
    /// TLS over TCP; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A Unix stream socket: absolute, at most [`UNIX_PATH_BYTES_MAX`] bytes.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What to do where the kernel offers less than the whole sandbox.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SandboxMode {
    /// Refuse to start.
    #[default]
    Require,
    /// Start with what there is, and say so.
    BestEffort,
}

impl SandboxMode {
    /// The word for it in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::BestEffort => "best-effort",
        }
    }
}

/// One row of the table of limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound<T> {
    /// The key in `[limits]`.
    pub key: &'static str,
    /// The value where the file names none.
    pub default: T,
    /// The smallest legal value.
    pub min: T,
    /// The largest legal value.
    pub max: T,
}

/// How much of everything; each value lies within the [`Bound`] of its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes in one file.
    pub max_file_size: u64,
    /// Connections, all users together.
    pub connections: usize,
    /// Connections of one user; at most `connections`.
    pub connections_per_user: usize,
    /// Connections from one address; at most `connections`.
    pub connections_per_source: usize,
    /// Connections that have not yet proved who they are.
    pub strangers: usize,
    /// The same from one address; at most `strangers`.
    pub strangers_per_source: usize,
    /// Whether addresses that fail again and again are kept out for a while.
    pub penalties: bool,
    /// Networks that never are.
    pub penalty_exempt: Vec<IpNet>,
    /// Requests of one connection whose answer is outstanding.
    pub requests_per_connection: usize,
    /// Connections whose content may be compressed; zero allows none.
    pub compressed_connections: usize,
    /// Bytes of memory for file data in flight, all connections together.
    pub buffer_memory: u64,
    /// Threads that wait for the disk.
    pub file_workers: usize,
    /// From the accepted connection to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// How long a connection may ask for nothing.
    pub idle_timeout: Duration,
    /// The time in which a transfer must move 64 KiB.
    pub stall_timeout: Duration,
    /// How long an upload that was cut is kept.
    pub resume_expiry: Duration,
    /// How long a stop waits for running transfers; zero cuts them at once.
    pub drain_timeout: Duration,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = KIB << 10;
const GIB: u64 = MIB << 10;
const TIB: u64 = GIB << 10;

/// The table of limits. Minima keep the daemon able to work at all, maxima keep a slip of the hand
/// from taking the machine down.
impl Limits {
    /// Largest file: the maximum is the largest offset that `off_t` holds, 8 EiB less one byte.
    pub const MAX_FILE_SIZE: Bound<u64> =
        Bound { key: "max-file-size", default: TIB, min: 1, max: i64::MAX as u64 };
    /// All connections: each costs a descriptor.
    pub const CONNECTIONS: Bound<usize> =
        Bound { key: "connections", default: 1024, min: 1, max: 65_536 };
    /// Connections of one user: the default is `connections`, where that is lower.
    pub const CONNECTIONS_PER_USER: Bound<usize> =
        Bound { key: "connections-per-user", default: 64, min: 1, max: 65_536 };
    /// Connections from one address: the default is `connections`, where that is lower.
    pub const CONNECTIONS_PER_SOURCE: Bound<usize> =
        Bound { key: "connections-per-source", default: 256, min: 1, max: 65_536 };
    /// Strangers: each costs a descriptor and some memory, and when all places are taken the
    /// greediest source is looked for among them.
    pub const STRANGERS: Bound<usize> = Bound { key: "strangers", default: 256, min: 1, max: 4096 };
    /// Strangers from one address: the default is `strangers`, where that is lower.
    pub const STRANGERS_PER_SOURCE: Bound<usize> =
        Bound { key: "strangers-per-source", default: 16, min: 1, max: 4096 };
    /// Outstanding requests: each costs an entry in a table and an answer in a queue.
    pub const REQUESTS_PER_CONNECTION: Bound<usize> =
        Bound { key: "requests-per-connection", default: 256, min: 1, max: 4096 };
    /// Connections that compress: each costs up to 6 MiB for what its two streams remember.
    pub const COMPRESSED_CONNECTIONS: Bound<usize> =
        Bound { key: "compressed-connections", default: 32, min: 0, max: 4096 };
    /// Buffer memory: the minimum is sixteen buffers, enough for a few transfers to take turns.
    pub const BUFFER_MEMORY: Bound<u64> =
        Bound { key: "buffer-memory", default: 64 * MIB, min: 8 * MIB, max: 16 * GIB };
    /// File threads.
    pub const FILE_WORKERS: Bound<usize> =
        Bound { key: "file-workers", default: 16, min: 1, max: 256 };
    /// Handshake.
    pub const HANDSHAKE_TIMEOUT: Bound<Duration> =
        Bound { key: "handshake-timeout", default: secs(10), min: secs(1), max: secs(300) };
    /// Idle connection.
    pub const IDLE_TIMEOUT: Bound<Duration> =
        Bound { key: "idle-timeout", default: secs(300), min: secs(1), max: secs(86_400) };
    /// Stalled transfer.
    pub const STALL_TIMEOUT: Bound<Duration> =
        Bound { key: "stall-timeout", default: secs(60), min: secs(1), max: secs(3_600) };
    /// Uploads that were cut.
    pub const RESUME_EXPIRY: Bound<Duration> = Bound {
        key: "resume-expiry",
        default: secs(7 * 86_400),
        min: secs(60),
        max: secs(365 * 86_400),
    };
    /// Drain.
    pub const DRAIN_TIMEOUT: Bound<Duration> =
        Bound { key: "drain-timeout", default: secs(60), min: secs(0), max: secs(3_600) };
}

/// How long what is stored is kept from a user's own hands.
pub const RETAIN: Bound<Duration> =
    Bound { key: "retain", default: secs(0), min: secs(0), max: secs(100 * 366 * 86_400) };

/// Bytes in a second of one user; without one there is no limit. Slower than the minimum a transfer
/// would look stalled to its peer.
pub const BANDWIDTH: Bound<u64> = Bound { key: "bandwidth", default: TIB, min: 64 * KIB, max: TIB };

/// Rules for paths that one user can have: each request looks at all of them.
pub const PATHS_MAX: usize = 256;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_file_size: Self::MAX_FILE_SIZE.default,
            connections: Self::CONNECTIONS.default,
            connections_per_user: Self::CONNECTIONS_PER_USER.default,
            connections_per_source: Self::CONNECTIONS_PER_SOURCE.default,
            strangers: Self::STRANGERS.default,
            strangers_per_source: Self::STRANGERS_PER_SOURCE.default,
            penalties: true,
            penalty_exempt: Vec::new(),
            requests_per_connection: Self::REQUESTS_PER_CONNECTION.default,
            compressed_connections: Self::COMPRESSED_CONNECTIONS.default,
            buffer_memory: Self::BUFFER_MEMORY.default,
            file_workers: Self::FILE_WORKERS.default,
            handshake_timeout: Self::HANDSHAKE_TIMEOUT.default,
            idle_timeout: Self::IDLE_TIMEOUT.default,
            stall_timeout: Self::STALL_TIMEOUT.default,
            resume_expiry: Self::RESUME_EXPIRY.default,
            drain_timeout: Self::DRAIN_TIMEOUT.default,
        }
    }
}

/// One `[[user]]`, and how the user proves to be it.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// Name, home and rights.
    pub principal: Principal,
    /// From where, until when and whether the user may come in, by whatever proof.
    pub admission: Admission,
    /// Keys of which each lets the user in.
    pub keys: Vec<Key>,
    /// Bytes in a second, both directions and all connections together; `None` is no limit.
    pub bandwidth: Option<u64>,
    /// Local accounts that are this user on the Unix socket.
    pub uids: Vec<u32>,
    /// What may lie below the home, whoever stored it.
    pub quota: Quota,
    /// Bytes in one file of this user; at most `limits.max_file_size` counts.
    pub max_file_size: Option<u64>,
}

/// A key, and the conditions under which it lets its user in.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// The key itself.
    pub public: PublicKey,
    /// Its own conditions; the user's hold as well.
    pub admission: Admission,
}

/// The keys whose change only a restart can take, in the order of the file; empty if a reload does.
///
/// A reload takes `durability`, `[[user]]`, and those limits that are asked for anew each time they
/// apply. What is opened, given up or sized at the start stays as it was: the tree and the sandbox
/// around it, the sockets, the host key, the umask, the budget of descriptors that follows from
/// `connections`, the pool of buffers and the file threads.
pub fn restart_needed(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let (old_limits, new_limits) = (&old.limits, &new.limits);
    [
        ("root", old.root != new.root),
        ("listen", old.listen != new.listen),
        ("host-key", old.host_key != new.host_key),
        ("durability", old.durability != new.durability),
        ("sandbox", old.sandbox != new.sandbox),
        ("umask", old.umask != new.umask),
        ("limits.connections", old_limits.connections != new_limits.connections),
        ("limits.strangers", old_limits.strangers != new_limits.strangers),
        ("limits.buffer-memory", old_limits.buffer_memory != new_limits.buffer_memory),
        ("limits.file-workers", old_limits.file_workers != new_limits.file_workers),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}
