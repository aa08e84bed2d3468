//! What a client asks for: the JSON inside REQUEST frames.

use serde::{Deserialize, Serialize};

use super::WirePath;

/// One request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Store what follows.
    Put(PutRequest),
    /// Send a file.
    Get {
        /// Which file.
        path: WirePath,
        /// Where to begin.
        #[serde(default, skip_serializing_if = "is_zero")]
        offset: u64,
        /// What the file must still be: [`FileInfo::version`](super::FileInfo::version) of an earlier get.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// Learn what is kept of a put that was cut.
    Resume {
        /// The name that was to be stored under.
        path: WirePath,
    },
    /// Learn what a put would be told, without one.
    Check {
        /// The name to store under.
        path: WirePath,
        /// The size, when it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
        /// Whether a file of that name may be replaced.
        #[serde(default = "yes")]
        replace: bool,
    },
    /// Name what a directory holds.
    List {
        /// Which directory; the home without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<WirePath>,
    },
    /// Describe one name.
    Stat {
        /// Which name; the home without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<WirePath>,
    },
    /// Delete what is no directory.
    Remove {
        /// Which name.
        path: WirePath,
    },
    /// Delete an empty directory.
    Rmdir {
        /// Which directory.
        path: WirePath,
    },
    /// Make a directory.
    Mkdir {
        /// Its name.
        path: WirePath,
        /// Whether to make those above it too, and to be content with one that is there.
        #[serde(default)]
        parents: bool,
    },
    /// Give a file or directory another name.
    Rename {
        /// Its name before.
        path: WirePath,
        /// Its name after.
        to: WirePath,
        /// Whether a file of that name may be replaced.
        #[serde(default)]
        replace: bool,
    },
    /// Learn a file's digest.
    Digest {
        /// Which file.
        path: WirePath,
        /// Whether to read the content even where the digest is kept, and to compare the two.
        #[serde(default)]
        reread: bool,
    },
    /// Allow compressed content on this connection from the answer on.
    Compress {
        /// How: `zstd`.
        method: String,
    },
    /// A verb of a later version.
    #[serde(other)]
    Unknown,
}

impl Request {
    /// What it is called.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Get { .. } => "get",
            Self::Resume { .. } => "resume",
            Self::Check { .. } => "check",
            Self::List { .. } => "list",
            Self::Stat { .. } => "stat",
            Self::Remove { .. } => "remove",
            Self::Rmdir { .. } => "rmdir",
            Self::Mkdir { .. } => "mkdir",
            Self::Rename { .. } => "rename",
            Self::Digest { .. } => "digest",
            Self::Compress { .. } => "compress",
            Self::Unknown => "request",
        }
    }

    /// What it is about, and the new name where there is one.
    pub fn paths(&self) -> (Option<&WirePath>, Option<&WirePath>) {
        match self {
            Self::Put(PutRequest { path, .. })
            | Self::Get { path, .. }
            | Self::Resume { path }
            | Self::Check { path, .. }
            | Self::Remove { path }
            | Self::Rmdir { path }
            | Self::Mkdir { path, .. }
            | Self::Digest { path, .. } => (Some(path), None),
            Self::List { path } | Self::Stat { path } => (path.as_ref(), None),
            Self::Rename { path, to, .. } => (Some(path), Some(to)),
            Self::Compress { .. } | Self::Unknown => (None, None),
        }
    }
}

/// What a put announces.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PutRequest {
    /// The name to store under.
    pub path: WirePath,
    /// The size, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Permission bits, before the server's umask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Time of modification, nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime_ns: Option<i64>,
    /// Whether a file of that name may be replaced.
    #[serde(default = "yes")]
    pub replace: bool,
    /// Whether what has arrived is to be kept when the stream is cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumable: bool,
    /// The upload that this one goes on with; it is resumable too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<ResumeAt>,
}

/// Which upload is continued, and where.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ResumeAt {
    /// What the server calls it.
    pub upload: String,
    /// The byte at which the content begins: the offset that the server told.
    pub offset: u64,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(offset: &u64) -> bool {
    *offset == 0
}
