//! What rustls asks for a signature: a key file's key, or the agent.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::agent::{self, AgentError};
use super::{PrivateKey, spki_der};
use crate::types::{KeyAlgorithm, PublicKey};

/// A key that can sign a TLS handshake. Cheap to clone.
#[derive(Clone)]
pub struct Signer(Arc<Inner>);

struct Inner {
    public: PublicKey,
    source: Source,
    /// rustls passes on no error of ours, so that it is kept here.
    last_error: Mutex<Option<AgentError>>,
}

enum Source {
    File(PrivateKey),
    Agent(PathBuf),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer of {:?}", self.0.public)
    }
}

impl Signer {
    /// Signs with a private key of our own.
    pub fn from_private(key: PrivateKey) -> Self {
        Self::new(key.public().clone(), Source::File(key))
    }

    /// Has the agent at `socket` sign.
    pub fn from_agent(socket: PathBuf, key: PublicKey) -> Self {
        Self::new(key, Source::Agent(socket))
    }

    fn new(public: PublicKey, source: Source) -> Self {
        Self(Arc::new(Inner { public, source, last_error: Mutex::new(None) }))
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.0.public
    }

    /// Why the agent did not sign, if that is why a handshake failed.
    pub fn last_error(&self) -> Option<AgentError> {
        self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn scheme_of_key(&self) -> SignatureScheme {
        match self.0.public.algorithm {
            KeyAlgorithm::Ed25519 => SignatureScheme::ED25519,
            KeyAlgorithm::EcdsaP256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            KeyAlgorithm::EcdsaP384 => SignatureScheme::ECDSA_NISTP384_SHA384,
        }
    }

    /// The key in the shape in which rustls wants it: the "certificate" is the raw key.
    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        let raw = CertificateDer::from(spki_der(&self.0.public));
        Arc::new(CertifiedKey::new(vec![raw], Arc::new(self.clone())))
    }
}

impl SigningKey for Signer {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered
            .contains(&self.scheme_of_key())
            .then(|| Box::new(self.clone()) as Box<dyn rustls::sign::Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(spki_der(&self.0.public).into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.public.algorithm {
            KeyAlgorithm::Ed25519 => SignatureAlgorithm::ED25519,
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => SignatureAlgorithm::ECDSA,
        }
    }
}

impl rustls::sign::Signer for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        match &self.0.source {
            Source::File(key) => key.sign(message),
            Source::Agent(socket) => {
                agent::sign(socket, &self.0.public, message).map_err(|error| {
                    let text = error.to_string();
                    *self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    rustls::Error::General(text)
                })
            }
        }
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme_of_key()
    }
}
