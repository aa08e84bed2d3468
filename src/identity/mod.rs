//! Floor 1: who somebody is: SSH keys, used as TLS 1.3 raw public keys.
//!
//! A user is an SSH public key. It signs the TLS handshake, from its file or through an agent; what is
//! signed starts with 64 spaces and a TLS context string, so it can never be taken for an SSH login.
//! Source: RFC 7250, RFC 8446 section 4.4.3, RFC 4253 section 6.6.

mod agent;
mod files;
mod known_hosts;
mod private;
mod public;
mod signer;
#[cfg(test)]
mod tests;
mod tls;

pub use agent::{AgentError, agent_keys};
pub use files::{
    HostKeyError, load_credential_key, load_host_key, load_or_create_host_key, read_key_file,
};
pub use known_hosts::{KnownHosts, KnownHostsError};
pub use private::PrivateKey;
pub use public::{fingerprint, parse_public_line, public_from_spki, public_line, spki_der};
pub use signer::Signer;
pub use tls::{client_config, peer_key, server_config};

use thiserror::Error;

/// The protocol's name in the TLS handshake.
pub(crate) const ALPN: &[u8] = b"ftd/1";

/// Why a key cannot be used.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum KeyError {
    /// The line is no public key.
    #[error("{0}")]
    Line(String),
    /// A kind of key that TLS 1.3 or ftd has no use for.
    #[error("{kind} keys are not supported; make one with: ssh-keygen -t ed25519")]
    Unsupported {
        /// What it is.
        kind: String,
    },
    /// A private key that needs its passphrase.
    #[error("the private key is encrypted and needs its passphrase")]
    Encrypted,
    /// A private key with a passphrase that is not its own.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// A private key that cannot be read as one.
    #[error("this is no OpenSSH private key ({0}); ssh-keygen -p -f FILE rewrites older formats")]
    Private(String),
    /// A key file that cannot be read, or must not be.
    #[error("{path}: {what}")]
    File {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// TLS cannot be set up with it.
    #[error("set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}
