//! The digest that is kept with the file.
//!
//! *Shape*: the extended attribute `user.ftd.sha256` holds 49 bytes: the version, 2; the 32 bytes of the
//! digest; the size in bytes, and the time of modification in nanoseconds since 1970, as signed number,
//! 8 bytes each, big-endian. So short, because ext4 has room for little more in the inode itself, and
//! would take a block of its own for what is longer. It counts only while size and time are what the
//! file has: a file that was changed locally is new content.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use xattr::FileExt as _;

use super::Stat;
use crate::types::Sha256Digest;

const NAME: &str = "user.ftd.sha256";
const VERSION: u8 = 2;
const BYTES: usize = 1 + 32 + 8 + 8;

/// Writes the digest of a file that has just been verified.
pub(super) fn write(
    file: &File,
    digest: Sha256Digest,
    bytes: u64,
    mtime_ns: i64,
) -> nix::Result<()> {
    file.set_xattr(NAME, &encode(digest, bytes, mtime_ns)).map_err(|error| errno(&error))
}

/// Reads the digest, if there is one and it still speaks of this content.
pub(super) fn read(file: &File, stat: &Stat) -> Option<Sha256Digest> {
    decode(&file.get_xattr(NAME).ok()??, stat)
}

fn encode(digest: Sha256Digest, bytes: u64, mtime_ns: i64) -> [u8; BYTES] {
    let mut value = [VERSION; BYTES];
    value[1..33].copy_from_slice(&digest.0);
    value[33..41].copy_from_slice(&bytes.to_be_bytes());
    value[41..].copy_from_slice(&mtime_ns.to_be_bytes());
    value
}

fn decode(value: &[u8], stat: &Stat) -> Option<Sha256Digest> {
    let digest = Sha256Digest(value.get(1..33)?.try_into().ok()?);
    (value == encode(digest, stat.bytes, stat.mtime_ns)).then_some(digest)
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsroot::Kind;

    #[test]
    fn a_digest_counts_only_for_the_content_it_was_made_of() {
        let stat = Stat { kind: Kind::File, bytes: 3, mtime_ns: -5, mode: 0o644, digest: None };
        let digest = Sha256Digest([0xa7; 32]);
        let written = encode(digest, 3, -5);
        for (value, counts, why) in [
            (&written[..], true, "as written"),
            (&encode(digest, 4, -5), false, "another size"),
            (&encode(digest, 3, -4), false, "another time"),
            (&[&[3], &written[1..]].concat(), false, "a later version"),
            (&[&written[..], b"x"].concat(), false, "something behind it"),
            (&written[..48], false, "cut"),
            (&written[..20], false, "half a digest"),
            (&[], false, "nothing"),
        ] {
            assert_eq!(decode(value, &stat) == Some(digest), counts, "{why}");
        }
    }
}
