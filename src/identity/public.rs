//! Public keys: as OpenSSH writes them, as TLS carries them, as people compare them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::KeyError;
use crate::types::{Escaped, KeyAlgorithm, PublicKey};

/// Bytes of the longest line that is looked at.
const LINE_BYTES_MAX: usize = 16 * 1024;

const ALGORITHMS: [KeyAlgorithm; 3] =
    [KeyAlgorithm::Ed25519, KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384];

/// The fixed front of a key in TLS (RFC 8410 section 4, RFC 5480 section 2): all but the point itself.
fn spki_prefix(algorithm: KeyAlgorithm) -> &'static [u8] {
    match algorithm {
        KeyAlgorithm::Ed25519 => b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00",
        KeyAlgorithm::EcdsaP256 => {
            b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"
        }
        KeyAlgorithm::EcdsaP384 => {
            b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00"
        }
    }
}

fn is_point(algorithm: KeyAlgorithm, point: &[u8]) -> bool {
    match algorithm {
        KeyAlgorithm::Ed25519 => point.len() == 32,
        KeyAlgorithm::EcdsaP256 => point.len() == 65 && point[0] == 4,
        KeyAlgorithm::EcdsaP384 => point.len() == 97 && point[0] == 4,
    }
}

/// The curve's name inside an ECDSA key (RFC 5656 section 3.1).
fn curve(algorithm: KeyAlgorithm) -> Option<&'static [u8]> {
    match algorithm {
        KeyAlgorithm::Ed25519 => None,
        KeyAlgorithm::EcdsaP256 => Some(b"nistp256"),
        KeyAlgorithm::EcdsaP384 => Some(b"nistp384"),
    }
}

/// Reads one line as `ssh-keygen` prints it: algorithm, base64, and perhaps a comment.
///
/// # Errors
/// What the line is instead, and what to do.
pub fn parse_public_line(line: &str) -> Result<(PublicKey, Option<String>), KeyError> {
    let wrong = |what: &str| Err(KeyError::Line(what.to_owned()));
    let line = line.trim();
    if line.len() > LINE_BYTES_MAX || line.contains(['\n', '\r']) {
        return wrong("a key is one line of at most 16 KiB, as ssh-keygen prints it");
    }
    if line.contains("PRIVATE KEY") {
        return wrong(
            "this is a private key, which belongs nowhere but with its owner; paste the line of the .pub file",
        );
    }
    let mut words = line.splitn(3, [' ', '\t']);
    let (name, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let comment =
        words.next().map(str::trim).filter(|comment| !comment.is_empty()).map(str::to_owned);
    let Some(algorithm) = ALGORITHMS.into_iter().find(|algorithm| algorithm.name() == name) else {
        return Err(not_ours(name));
    };
    let Ok(blob) = STANDARD.decode(blob) else {
        return wrong(
            "the second word is not whole base64; copy the line of the .pub file completely",
        );
    };
    let Some(key) = parse_blob(&blob) else {
        return wrong("the key is damaged; copy the line of the .pub file completely");
    };
    if key.algorithm != algorithm {
        return wrong("the first word names another kind of key than the one that follows");
    }
    Ok((key, comment))
}

fn not_ours(name: &str) -> KeyError {
    let kind = match name {
        "ssh-rsa" => "RSA",
        "ssh-dss" => "DSA",
        "ecdsa-sha2-nistp521" => "ECDSA P-521",
        name if name.starts_with("sk-") => "FIDO (sk-)",
        name if name.contains("-cert-v") => "certificate",
        _ => {
            let shown: String = name.chars().take(40).collect();
            return KeyError::Line(format!(
                "\"{}\" starts no key line; write the line of a .pub file, like \"ssh-ed25519 AAAA… name\", \
                 without options in front",
                Escaped(shown.as_bytes())
            ));
        }
    };
    KeyError::Unsupported { kind: kind.to_owned() }
}

/// Splits one length-prefixed string off the front (RFC 4251 section 5).
pub(super) fn split_string(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// Appends one length-prefixed string.
pub(super) fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text);
}

/// Reads a key in the form in which SSH and its agents carry it; `None` for any other kind.
pub(super) fn parse_blob(blob: &[u8]) -> Option<PublicKey> {
    let (name, mut rest) = split_string(blob)?;
    let algorithm = ALGORITHMS.into_iter().find(|algorithm| algorithm.name().as_bytes() == name)?;
    if let Some(expected) = curve(algorithm) {
        let (found, after) = split_string(rest)?;
        if found != expected {
            return None;
        }
        rest = after;
    }
    let (point, rest) = split_string(rest)?;
    (rest.is_empty() && is_point(algorithm, point))
        .then(|| PublicKey { algorithm, point: point.to_vec() })
}

/// The key in the form in which SSH and its agents carry it.
pub(super) fn blob(key: &PublicKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + key.point.len());
    push_string(&mut out, key.algorithm.name().as_bytes());
    if let Some(curve) = curve(key.algorithm) {
        push_string(&mut out, curve);
    }
    push_string(&mut out, &key.point);
    out
}

/// The key as one line without a comment; the inverse of [`parse_public_line`].
pub fn public_line(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm.name(), STANDARD.encode(blob(key)))
}

/// The key's fingerprint as `ssh-keygen -l` prints it: `SHA256:` and unpadded base64.
pub fn fingerprint(key: &PublicKey) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(blob(key))))
}

/// The key as TLS carries it: a `SubjectPublicKeyInfo` in DER.
///
/// *Source*: RFC 7250 section 3.
pub fn spki_der(key: &PublicKey) -> Vec<u8> {
    [spki_prefix(key.algorithm), &key.point].concat()
}

/// Reads a key as TLS carries it; strict, because every key has exactly one such form.
pub fn public_from_spki(der: &[u8]) -> Option<PublicKey> {
    ALGORITHMS.into_iter().find_map(|algorithm| {
        let point = der.strip_prefix(spki_prefix(algorithm))?;
        is_point(algorithm, point).then(|| PublicKey { algorithm, point: point.to_vec() })
    })
}
