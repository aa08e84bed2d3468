//! Private keys: OpenSSH's file format in, signatures out.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
};
use ssh_key::private::{EcdsaKeypair, Ed25519Keypair, Ed25519PrivateKey, KeypairData};
use zeroize::Zeroizing;

use super::KeyError;
use crate::types::{KeyAlgorithm, PublicKey};

/// A private key that can sign. It prints as its public half only.
pub struct PrivateKey {
    public: PublicKey,
    pair: Pair,
}

enum Pair {
    Ed25519 { pair: Ed25519KeyPair, seed: Zeroizing<[u8; 32]> },
    Ecdsa(EcdsaKeyPair),
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey of {:?}", self.public)
    }
}

impl PrivateKey {
    /// Reads a private key in OpenSSH's own format.
    ///
    /// # Errors
    /// `Encrypted` when it needs a passphrase and none is given, `WrongPassphrase` when it is another.
    pub fn parse_openssh(pem: &str, passphrase: Option<&str>) -> Result<Self, KeyError> {
        let unreadable = |error: ssh_key::Error| KeyError::Private(error.to_string());
        let mut key = ssh_key::PrivateKey::from_openssh(pem).map_err(unreadable)?;
        if key.is_encrypted() {
            let passphrase = passphrase.ok_or(KeyError::Encrypted)?;
            key = key.decrypt(passphrase).map_err(|_| KeyError::WrongPassphrase)?;
        }
        match key.key_data() {
            KeypairData::Ed25519(pair) => Self::from_seed(pair.private.to_bytes()),
            KeypairData::Ecdsa(EcdsaKeypair::NistP256 { public, private }) => {
                Self::from_ecdsa(KeyAlgorithm::EcdsaP256, public.as_bytes(), private.as_slice())
            }
            KeypairData::Ecdsa(EcdsaKeypair::NistP384 { public, private }) => {
                Self::from_ecdsa(KeyAlgorithm::EcdsaP384, public.as_bytes(), private.as_slice())
            }
            _ => {
                let kind = key.algorithm().to_string();
                Err(KeyError::Unsupported { kind })
            }
        }
    }

    /// A new Ed25519 key.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(seed.as_mut())
            .map_err(|_| KeyError::Private("no random bytes".to_owned()))?;
        Self::from_seed(*seed)
    }

    fn from_seed(seed: [u8; 32]) -> Result<Self, KeyError> {
        use aws_lc_rs::signature::KeyPair as _;
        let seed = Zeroizing::new(seed);
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref())
            .map_err(|error| KeyError::Private(error.to_string()))?;
        let point = pair.public_key().as_ref().to_vec();
        let public = PublicKey { algorithm: KeyAlgorithm::Ed25519, point };
        Ok(Self { public, pair: Pair::Ed25519 { pair, seed } })
    }

    fn from_ecdsa(algorithm: KeyAlgorithm, point: &[u8], scalar: &[u8]) -> Result<Self, KeyError> {
        let signing = match algorithm {
            KeyAlgorithm::EcdsaP384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::Ed25519 => &ECDSA_P256_SHA256_ASN1_SIGNING,
        };
        let pair = EcdsaKeyPair::from_private_key_and_public_key(signing, scalar, point)
            .map_err(|error| KeyError::Private(error.to_string()))?;
        Ok(Self { public: PublicKey { algorithm, point: point.to_vec() }, pair: Pair::Ecdsa(pair) })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The key in OpenSSH's own format, not encrypted; only for keys that we made.
    ///
    /// # Errors
    /// The key is not an Ed25519 key.
    pub fn to_openssh(&self) -> Result<Zeroizing<String>, KeyError> {
        let Pair::Ed25519 { seed, .. } = &self.pair else {
            return Err(KeyError::Unsupported { kind: self.public.algorithm.name().to_owned() });
        };
        let pair = Ed25519Keypair::from(Ed25519PrivateKey::from_bytes(seed));
        ssh_key::PrivateKey::new(KeypairData::Ed25519(pair), "ftd host key")
            .and_then(|key| key.to_openssh(ssh_key::LineEnding::LF))
            .map_err(|error| KeyError::Private(error.to_string()))
    }

    /// Signs as TLS wants it: raw for Ed25519, DER for ECDSA.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        match &self.pair {
            Pair::Ed25519 { pair, .. } => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::Ecdsa(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| rustls::Error::General("signing failed".to_owned())),
        }
    }
}
