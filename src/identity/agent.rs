//! The SSH agent: which keys it has, and signatures from it.
//!
//! Source: draft-ietf-sshm-ssh-agent, sections 3.2 and 3.6.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;

use super::public::{blob, parse_blob, push_string, split_string};
use crate::types::{KeyAlgorithm, PublicKey};

/// Bytes of the longest reply that is taken.
const REPLY_BYTES_MAX: usize = 256 * 1024;
/// How long the agent may think: its user may have to confirm.
const TIMEOUT: Duration = Duration::from_mins(1);

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Why the agent was of no help.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum AgentError {
    /// Nobody answers at its socket.
    #[error("talk to the SSH agent at {path}: {cause}")]
    Gone {
        /// Its socket.
        path: String,
        /// What the kernel said.
        cause: String,
    },
    /// It will not sign with this key.
    #[error("the SSH agent refused to sign: the key was removed, or the request was not confirmed")]
    Refused,
    /// It does not speak the agent protocol.
    #[error("the SSH agent sent a reply that makes no sense")]
    Broken,
}

/// The keys that the agent at `socket` has, with their comments; kinds that we cannot use are left out.
///
/// # Errors
/// The agent is gone or broken.
pub fn agent_keys(socket: &Path) -> Result<Vec<(PublicKey, String)>, AgentError> {
    let reply = ask(socket, &[REQUEST_IDENTITIES])?;
    parse_identities(&reply).ok_or(AgentError::Broken)
}

pub(super) fn parse_identities(reply: &[u8]) -> Option<Vec<(PublicKey, String)>> {
    let rest = reply.strip_prefix(&[IDENTITIES_ANSWER])?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut keys = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (key, after) = split_string(rest)?;
        let (comment, after) = split_string(after)?;
        rest = after;
        if let Some(key) = parse_blob(key) {
            keys.push((key, String::from_utf8_lossy(comment).into_owned()));
        }
    }
    Some(keys)
}

/// Has the agent sign `message` with `key`, in the form that TLS wants.
pub(super) fn sign(socket: &Path, key: &PublicKey, message: &[u8]) -> Result<Vec<u8>, AgentError> {
    let mut request = vec![SIGN_REQUEST];
    push_string(&mut request, &blob(key));
    push_string(&mut request, message);
    request.extend_from_slice(&0_u32.to_be_bytes()); // Flags: they matter for RSA only.
    let reply = ask(socket, &request)?;
    match reply.first() {
        Some(&SIGN_RESPONSE) => parse_signature(&reply, key.algorithm).ok_or(AgentError::Broken),
        Some(_) => Err(AgentError::Refused),
        None => Err(AgentError::Broken),
    }
}

pub(super) fn parse_signature(reply: &[u8], algorithm: KeyAlgorithm) -> Option<Vec<u8>> {
    let rest = reply.strip_prefix(&[SIGN_RESPONSE])?;
    let (signature, rest) = split_string(rest)?;
    let (name, body) = split_string(signature)?;
    let (body, after) = split_string(body)?;
    if !rest.is_empty() || !after.is_empty() || name != algorithm.name().as_bytes() {
        return None;
    }
    if algorithm == KeyAlgorithm::Ed25519 {
        return Some(body.to_vec());
    }
    // RFC 5656 section 3.1.2: two mpints, which are DER integers but for their tag and length.
    let (r, body) = split_string(body)?;
    let (s, body) = split_string(body)?;
    (body.is_empty()).then_some(())?;
    let integers = [der(2, r)?, der(2, s)?].concat();
    der(0x30, &integers)
}

/// One DER element with a length of one byte, which is enough for every signature of our curves.
fn der(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let length = u8::try_from(content.len()).ok().filter(|length| (1..128).contains(length))?;
    Some([&[tag, length], content].concat())
}

fn ask(socket: &Path, request: &[u8]) -> Result<Vec<u8>, AgentError> {
    let exchange = || -> io::Result<Option<Vec<u8>>> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut framed = Vec::with_capacity(request.len() + 4);
        push_string(&mut framed, request);
        stream.write_all(&framed)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > REPLY_BYTES_MAX {
            return Ok(None);
        }
        let mut reply = vec![0; length];
        stream.read_exact(&mut reply)?;
        Ok(Some(reply))
    };
    exchange()
        .map_err(|error| AgentError::Gone {
            path: socket.display().to_string(),
            cause: crate::types::said(&error),
        })?
        .ok_or(AgentError::Broken)
}
