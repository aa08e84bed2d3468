//! The digest that is kept with the file.
//!
//! *Shape*: the extended attribute `user.ftd.sha256` holds the text `1 DIGEST BYTES MTIME`: version,
//! 64 hexadecimal digits, size in bytes, time of modification in nanoseconds since 1970. It counts
//! only while size and time are what the file has: a file that was changed locally is new content.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use xattr::FileExt as _;

use super::Stat;
use crate::types::Sha256Digest;

const NAME: &str = "user.ftd.sha256";

/// Writes the digest of a file that has just been verified.
pub(super) fn write(
    file: &File,
    digest: Sha256Digest,
    bytes: u64,
    mtime_ns: i64,
) -> nix::Result<()> {
    let text = format!("1 {digest} {bytes} {mtime_ns}");
    file.set_xattr(NAME, text.as_bytes()).map_err(|error| errno(&error))
}

/// Reads the digest, if there is one and it still speaks of this content.
pub(super) fn read(file: &File, stat: &Stat) -> Option<Sha256Digest> {
    let text = file.get_xattr(NAME).ok()??;
    parse(std::str::from_utf8(&text).ok()?, stat)
}

fn parse(text: &str, stat: &Stat) -> Option<Sha256Digest> {
    let mut words = text.split(' ');
    let (version, digest) = (words.next()?, words.next()?.parse().ok()?);
    let (bytes, mtime_ns): (u64, i64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let is_ours = version == "1" && words.next().is_none();
    (is_ours && (bytes, mtime_ns) == (stat.bytes, stat.mtime_ns)).then_some(digest)
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
        let digest = "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4";
        for (text, counts, why) in [
            (format!("1 {digest} 3 -5"), true, "as written"),
            (format!("1 {digest} 4 -5"), false, "another size"),
            (format!("1 {digest} 3 -4"), false, "another time"),
            (format!("2 {digest} 3 -5"), false, "a later version"),
            (format!("1 {digest} 3 -5 x"), false, "something behind it"),
            (format!("1 {} 3 -5", &digest[1..]), false, "half a digest"),
            (String::new(), false, "nothing"),
        ] {
            assert_eq!(parse(&text, &stat).is_some(), counts, "{why}");
        }
    }
}
