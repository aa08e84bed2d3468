//! A public key, as a value that can be compared and looked up.

use std::fmt;

/// The kinds of key that ftd knows, as OpenSSH names them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum KeyAlgorithm {
    /// `ssh-ed25519` (RFC 8709).
    Ed25519,
    /// `ecdsa-sha2-nistp256` (RFC 5656).
    EcdsaP256,
    /// `ecdsa-sha2-nistp384` (RFC 5656).
    EcdsaP384,
}

impl KeyAlgorithm {
    /// The name in a key line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
        }
    }
}

/// A public key without its comment; equal keys are equal values.
///
/// *Shape*: `point` is the raw key: 32 bytes for Ed25519, the uncompressed SEC1 point (65 or 97
/// bytes) for ECDSA. Only the `identity` module makes one, from a line or from a handshake.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct PublicKey {
    /// Which kind of key.
    pub algorithm: KeyAlgorithm,
    /// The raw key.
    pub point: Vec<u8>,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.algorithm.name())?;
        self.point.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
