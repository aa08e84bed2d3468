//! Goal: a signature is made by the key that is named, in the form that TLS wants, or there is a clear
//! error. Method: an agent of the test's own that says what it is told to, and a real ssh-agent.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::sign::{Signer as _, SigningKey as _};
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::super::agent::{parse_identities, parse_signature, sign};
use super::super::public::{blob, push_string, split_string};
use super::super::*;
use super::{TestResult, connect, keygen};
use crate::types::{KeyAlgorithm, PublicKey};

const KINDS: [(&str, &str, SignatureScheme, SignatureAlgorithm); 3] = [
    ("ed25519", "256", SignatureScheme::ED25519, SignatureAlgorithm::ED25519),
    ("ecdsa", "256", SignatureScheme::ECDSA_NISTP256_SHA256, SignatureAlgorithm::ECDSA),
    ("ecdsa", "384", SignatureScheme::ECDSA_NISTP384_SHA384, SignatureAlgorithm::ECDSA),
];

fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        push_string(&mut out, part);
    }
    out
}

/// Asks for a signature of an agent that answers with `raw`; gives its request, and what came of it.
fn told_by(raw: &[u8], key: &PublicKey) -> (Vec<u8>, Result<Vec<u8>, AgentError>) {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("agent");
    let listener = UnixListener::bind(&socket).expect("a socket");
    std::thread::scope(|scope| {
        let agent = scope.spawn(move || -> std::io::Result<Vec<u8>> {
            let (mut stream, _) = listener.accept()?;
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request)?;
            stream.write_all(raw)?;
            Ok(request)
        });
        let outcome = sign(&socket, key, b"message");
        let _ = UnixStream::connect(&socket); // Should nobody have come: the agent waits for somebody.
        (agent.join().expect("the agent ends").unwrap_or_default(), outcome)
    })
}

#[test]
fn an_agent_is_asked_in_its_own_words_and_its_nonsense_is_told() -> TestResult {
    let key = PrivateKey::generate()?.public().clone();
    let framed = |reply: &[u8]| strings(&[reply]);
    let name: &[u8] = b"ssh-ed25519";
    let good = [&[14][..], &strings(&[&strings(&[name, &[7; 64]])])].concat();
    let (request, outcome) = told_by(&framed(&good), &key);
    assert_eq!(outcome.as_deref(), Ok(&[7; 64][..]));
    let expected = [&[13][..], &strings(&[&blob(&key), b"message"]), &[0; 4]].concat();
    assert_eq!(request, expected, "draft-ietf-sshm-ssh-agent section 3.6");
    for (reply, error) in [
        (framed(&[5]), AgentError::Refused),
        (framed(&[]), AgentError::Broken),
        (framed(&[14]), AgentError::Broken),
        (framed(&[&good[..], &[0]].concat()), AgentError::Broken),
        ((256_u32 * 1024 + 1).to_be_bytes().to_vec(), AgentError::Broken),
    ] {
        assert_eq!(told_by(&reply, &key).1, Err(error));
    }
    // Almost the longest reply that is taken.
    let long = [&[14][..], &strings(&[&strings(&[name, &vec![7; 255 * 1024]])])].concat();
    assert_eq!(told_by(&framed(&long), &key).1.map(|signature| signature.len()), Ok(255 * 1024));
    for cut in [&framed(&good)[..10], &[0, 0][..]] {
        assert!(matches!(told_by(cut, &key).1, Err(AgentError::Gone { .. })));
    }
    Ok(())
}

#[test]
fn keys_of_an_agent_are_read_to_the_last() -> TestResult {
    let (one, two) = (PrivateKey::generate()?, PrivateKey::generate()?);
    let listed = |keys: &[(&[u8], &[u8])], count: u32| {
        let body: Vec<_> = keys.iter().flat_map(|(key, name)| strings(&[key, name])).collect();
        parse_identities(&[&[12][..], &count.to_be_bytes(), &body].concat())
    };
    let (first, second) = (blob(one.public()), blob(two.public()));
    let rsa = strings(&[b"ssh-rsa", &[1, 0, 1], &[0; 128]]);
    let keys: [(&[u8], &[u8]); 3] = [(&first, b"a"), (&rsa, b"old"), (&second, b"\xff")];
    let read = listed(&keys, 3).ok_or("refused")?;
    let expected = [(one.public().clone(), "a"), (two.public().clone(), "\u{fffd}")];
    assert!(
        read.iter()
            .map(|(key, name)| (key, name.as_str()))
            .eq(expected.iter().map(|(key, name)| (key, *name)))
    );
    assert_eq!(listed(&[], 0), Some(Vec::new()));
    assert_eq!(listed(&keys, 4), None, "one that was promised is missing");
    assert_eq!(parse_identities(&[5]), None);
    Ok(())
}

/// RFC 5656 section 3.1.2 in, DER out.
#[test]
fn signatures_of_an_agent_become_those_of_tls() {
    let reply =
        |name: &[u8], body: &[u8]| [&[14][..], &strings(&[&strings(&[name, body])])].concat();
    let p256: &[u8] = b"ecdsa-sha2-nistp256";
    let made = |r: &[u8], s: &[u8]| {
        parse_signature(&reply(p256, &strings(&[r, s])), KeyAlgorithm::EcdsaP256)
    };
    assert_eq!(made(&[1, 2], &[3]), Some(vec![0x30, 7, 2, 2, 1, 2, 2, 1, 3]));
    assert_eq!(made(&[], &[3]), None, "an integer has a byte");
    assert_eq!(made(&[1; 61], &[1; 62]).map(|der| der.len()), Some(129));
    assert_eq!(made(&[1; 62], &[1; 62]), None, "no curve of ours has one as long");
    let body = strings(&[&[1], &[2]]);
    let more = [&body[..], &[0]].concat();
    assert_eq!(parse_signature(&reply(p256, &more), KeyAlgorithm::EcdsaP256), None);
    assert_eq!(parse_signature(&reply(p256, &body), KeyAlgorithm::EcdsaP384), None);
    assert_eq!(parse_signature(&reply(b"ssh-ed25519", &body), KeyAlgorithm::EcdsaP256), None);
    let inside = [&[14][..], &strings(&[&[&strings(&[p256, &body])[..], &[0]].concat()])].concat();
    assert_eq!(parse_signature(&inside, KeyAlgorithm::EcdsaP256), None);
}

#[test]
fn lengths_in_front_are_believed_only_as_far_as_there_is_something() {
    assert_eq!(split_string(&[0, 0, 0, 2, 7, 8, 9]), Some((&[7, 8][..], &[9][..])));
    assert_eq!(split_string(&[0, 0, 0, 0]), Some((&[][..], &[][..])));
    assert_eq!(split_string(&[0, 0, 0, 2, 7]), None);
    assert_eq!(split_string(&[0, 0, 1]), None);
    assert_eq!(split_string(&[0xff; 8]), None);
}

/// A real agent, ended when dropped.
struct Agent(Child, PathBuf);

impl Agent {
    fn start(socket: PathBuf) -> Result<Self, Box<dyn std::error::Error>> {
        let words = ["-D".as_ref(), "-a".as_ref(), socket.as_os_str()];
        let child = Command::new("ssh-agent").args(words).stdout(Stdio::null()).spawn();
        let agent = Self(child.map_err(|error| format!("run ssh-agent: {error}"))?, socket);
        while UnixStream::connect(&agent.1).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(1)); // Nothing tells of it.
        }
        Ok(agent)
    }

    fn add(&self, key: &Path) -> TestResult {
        let output = Command::new("ssh-add").arg(key).env("SSH_AUTH_SOCK", &self.1).output()?;
        output.status.success().then_some(()).ok_or("ssh-add failed")?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_kind_of_key_signs_by_file_and_by_agent() -> TestResult {
    let dir = tempfile::tempdir()?;
    let agent = Agent::start(dir.path().join("agent"))?;
    assert_eq!(agent_keys(&agent.1)?, []);
    for (kind, bits, scheme, algorithm) in KINDS {
        let path = keygen(dir.path(), kind, bits, "")?;
        agent.add(&path)?;
        let key = PrivateKey::parse_openssh(&read_key_file(&path)?, None)?;
        let public = key.public().clone();
        assert!(agent_keys(&agent.1)?.contains(&(public.clone(), "a comment".to_owned())));
        for signer in
            [Signer::from_private(key), Signer::from_agent(agent.1.clone(), public.clone())]
        {
            let told = SignerTold { scheme, algorithm, spki: spki_der(&public) };
            assert_eq!(SignerTold::of(&signer), Some(told), "{kind} {bits}");
            // rustls checks what was signed, ten times because integers of ECDSA vary in length.
            for _ in 0..10 {
                let config = client_config(&signer, Arc::new(|_| true))?;
                assert_eq!(connect(config, PrivateKey::generate()?)?, Some(public.clone()));
            }
        }
    }
    assert_eq!(agent_keys(&agent.1)?.len(), 3);
    let stranger = PrivateKey::generate()?.public().clone();
    assert_eq!(sign(&agent.1, &stranger, b"message"), Err(AgentError::Refused));
    Ok(())
}

/// What a signer says of itself to rustls.
#[derive(Debug, PartialEq)]
struct SignerTold {
    scheme: SignatureScheme,
    algorithm: SignatureAlgorithm,
    spki: Vec<u8>,
}

impl SignerTold {
    fn of(signer: &Signer) -> Option<Self> {
        let others: Vec<_> =
            KINDS.iter().map(|kind| kind.2).filter(|scheme| *scheme != signer.scheme()).collect();
        assert!(signer.choose_scheme(&others).is_none() && signer.choose_scheme(&[]).is_none());
        let chosen = signer.choose_scheme(&[others[0], signer.scheme()])?;
        Some(Self {
            scheme: chosen.scheme(),
            algorithm: signer.algorithm(),
            spki: signer.public_key()?.as_ref().to_vec(),
        })
    }
}

/// Only keys that we made are written out, and none that makes no sense is read.
#[test]
fn private_keys_are_written_only_if_they_are_ours() -> TestResult {
    let dir = tempfile::tempdir()?;
    let key = PrivateKey::generate()?;
    let again = PrivateKey::parse_openssh(&key.to_openssh()?, None)?;
    assert_eq!(again.public(), key.public());
    let path = keygen(dir.path(), "ecdsa", "256", "")?;
    let ecdsa = PrivateKey::parse_openssh(&read_key_file(&path)?, None)?;
    assert!(matches!(ecdsa.to_openssh(), Err(KeyError::Unsupported { .. })));
    for (kind, bits) in [("rsa", "2048"), ("ecdsa", "521")] {
        let pem = read_key_file(&keygen(dir.path(), kind, bits, "")?)?;
        assert!(PrivateKey::parse_openssh(&pem, None).is_err(), "{kind}");
    }
    Ok(())
}
