//! The JSON inside control frames.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::{ErrorCode, Sha256Digest};

/// The versions that this build speaks.
pub const VERSION: VersionRange = VersionRange { min: 1, max: 1 };

/// Bytes of text in an error message.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Versions from `min` to `max`, both included.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct VersionRange {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl VersionRange {
    /// The newest version that both sides speak.
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

/// The first frame of a connection: what the server is and whom it takes the client for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServerHello {
    /// Always `ftd`.
    pub protocol: String,
    /// What the server speaks.
    pub versions: VersionRange,
    /// Program and version, for people.
    pub server: String,
    /// The user's name in the server's configuration.
    pub user: String,
    /// The user's rights, as words.
    pub rights: Vec<String>,
    /// The limits of this connection.
    pub limits: HelloLimits,
}

/// The server's limits, as HELLO tells them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HelloLimits {
    /// Bytes in a control frame's payload.
    pub control_bytes: u32,
    /// Bytes in a data frame's payload.
    pub data_bytes: u32,
    /// Requests without their final frame.
    pub requests: u32,
    /// Puts without their TRAILER.
    pub uploads: u32,
    /// Bytes of the largest file.
    pub file_bytes: u64,
}

/// The client's first frame.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ClientHello {
    /// The version that the client chose.
    pub version: u32,
    /// Program and version, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// A path or name on the wire: bytes, spelled as a string or as `{"base64": …}`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WirePath(pub Vec<u8>);

#[derive(Deserialize)]
#[serde(untagged)]
enum PathSpelling {
    Text(String),
    Base64 { base64: String },
}

impl Serialize for WirePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Raw {
            base64: String,
        }
        match std::str::from_utf8(&self.0) {
            Ok(text) => text.serialize(serializer),
            Err(_) => Raw { base64: STANDARD.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for WirePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match PathSpelling::deserialize(deserializer)? {
            PathSpelling::Text(text) => Ok(Self(text.into_bytes())),
            PathSpelling::Base64 { base64 } => STANDARD
                .decode(base64)
                .map(Self)
                .map_err(|_| D::Error::custom("bad base64 in a path")),
        }
    }
}

/// What ends a transfer: how much was sent, and its digest.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Trailer {
    /// Bytes of content.
    pub bytes: u64,
    /// SHA-256 of the content.
    pub sha256: Sha256Digest,
}

/// Why a sender stopped.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Abort {
    /// For people.
    #[serde(default)]
    pub reason: String,
}

/// The outcome of a request, or for a get its announcement.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A put is whole, verified, in place and durable.
    Stored(Stored),
    /// A get begins.
    File(FileInfo),
    /// A list is complete.
    Listed(Listed),
    /// A stat's finding.
    Stat(StatInfo),
    /// A name is gone, durably.
    Removed(Empty),
    /// A directory is there, durably.
    Made(Made),
    /// A name was changed, durably.
    Renamed(Renamed),
    /// A file's digest.
    Digest(DigestInfo),
    /// What is kept of a put that was cut.
    Resume(ResumeInfo),
    /// A put would be taken.
    Check(CheckInfo),
    /// Content may come compressed from now on.
    Compress(Empty),
}

/// What is kept of an upload.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ResumeInfo {
    /// What the server calls it.
    pub upload: String,
    /// How many bytes of it are safe.
    pub offset: u64,
    /// SHA-256 of these bytes.
    pub sha256: Sha256Digest,
}

/// What a put would meet.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CheckInfo {
    /// Whether there is a file that it would replace.
    pub exists: bool,
}

/// Nothing more to say.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Empty {}

/// What a mkdir did.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Made {
    /// How many directories were made.
    pub directories: u64,
}

/// What a rename did.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Renamed {
    /// Whether a file of that name was replaced.
    pub replaced: bool,
}

/// A digest's finding.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DigestInfo {
    /// Bytes of content.
    pub bytes: u64,
    /// SHA-256 of the content.
    pub sha256: Sha256Digest,
    /// Time of modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Whether the content was read for this answer; otherwise it is the digest that is kept.
    pub reread: bool,
}

/// What was stored.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Stored {
    /// Bytes of content.
    pub bytes: u64,
    /// SHA-256 of the content.
    pub sha256: Sha256Digest,
    /// Time of modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Whether a file of that name was replaced.
    pub replaced: bool,
}

/// What a get is going to send.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FileInfo {
    /// Bytes of content, those before the offset included.
    pub bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// Time of modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// What tells this content from any other that the name has had; means something to the server only.
    #[serde(default)]
    pub version: String,
}

/// How a list ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Listed {
    /// How many entries were sent.
    pub entries: u64,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else: a link, a device, a socket, a mount point.
    Other,
}

/// A stat's finding.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StatInfo {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EntryType,
    /// Bytes of content; files only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Permission bits.
    pub mode: u32,
    /// Time of modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// SHA-256 of the content, when it is known without reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Digest>,
}

/// Some entries of a directory.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entries {
    /// In the directory's own order.
    pub entries: Vec<Entry>,
}

/// One entry of a directory.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// The last component of its path.
    pub name: WirePath,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EntryType,
    /// Bytes of content; files only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Permission bits.
    pub mode: u32,
    /// Time of modification, nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// Why a request, or with id 0 the connection, failed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ErrorMessage {
    /// The typed reason.
    pub code: ErrorCode,
    /// One line for people.
    pub message: String,
}

impl ErrorMessage {
    /// An error whose text is cut to what the specification allows.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        }
        Self { code, message }
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    /// A code of a later version reads as `INTERNAL`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = Cow::<str>::deserialize(deserializer)?;
        Ok(word.parse().unwrap_or(Self::Internal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{PutRequest, Request};

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    /// Goal: the text on the wire is what `docs/protocol.md` shows.
    #[test]
    fn messages_are_spelled_as_the_document_spells_them() -> TestResult {
        let digest = "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4";
        let put: Request = serde_json::from_str(r#"{"verb":"put","path":"x","later":[1]}"#)?;
        let expected = PutRequest {
            path: WirePath(b"x".to_vec()),
            bytes: None,
            mode: None,
            mtime_ns: None,
            replace: true,
            resumable: false,
            resume: None,
        };
        assert_eq!(put, Request::Put(expected));
        let trailer = Trailer { bytes: 3, sha256: digest.parse()? };
        assert_eq!(
            serde_json::to_string(&trailer)?,
            format!(r#"{{"bytes":3,"sha256":"{digest}"}}"#)
        );
        let stored = Answer::Stored(Stored {
            bytes: 3,
            sha256: digest.parse()?,
            mtime_ns: -1,
            replaced: false,
        });
        let text = format!(
            r#"{{"stored":{{"bytes":3,"sha256":"{digest}","mtime_ns":-1,"replaced":false}}}}"#
        );
        assert_eq!(serde_json::to_string(&stored)?, text);
        assert_eq!(serde_json::from_str::<Answer>(&text)?, stored);
        assert_eq!(
            serde_json::from_str::<Request>(r#"{"verb":"frobnicate","x":1}"#)?,
            Request::Unknown
        );
        assert_eq!(
            serde_json::from_str::<Request>(r#"{"verb":"list"}"#)?,
            Request::List { path: None }
        );
        let stat: StatInfo = serde_json::from_str(r#"{"type":"file","mode":420,"mtime_ns":0}"#)?;
        assert_eq!((stat.bytes, stat.sha256), (None, None));
        Ok(())
    }

    #[test]
    fn a_path_travels_byte_for_byte() -> TestResult {
        for raw in
            [&b"plain"[..], "größe 📦".as_bytes(), b"\xFF\xFE", b"quote\"back\\slash", b"a\nb"]
        {
            let path = WirePath(raw.to_vec());
            let text = serde_json::to_string(&path)?;
            assert_eq!(serde_json::from_str::<WirePath>(&text)?, path, "{text}");
        }
        assert_eq!(
            serde_json::from_str::<WirePath>(r#"{"base64":"eA=="}"#)?,
            WirePath(b"x".to_vec())
        );
        assert!(serde_json::from_str::<WirePath>(r#"{"base64":"*"}"#).is_err());
        Ok(())
    }

    #[test]
    fn an_unknown_error_code_reads_as_internal() -> TestResult {
        let error: ErrorMessage = serde_json::from_str(r#"{"code":"LATER","message":"m"}"#)?;
        assert_eq!(error.code, ErrorCode::Internal);
        assert_eq!(ErrorMessage::new(ErrorCode::Io, "ü".repeat(600)).message.len(), 1024);
        Ok(())
    }

    #[test]
    fn versions_meet_at_the_newest_in_common() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(1, 3).common(range(2, 9)), Some(3));
        assert_eq!(range(1, 1).common(range(2, 9)), None);
    }
}
