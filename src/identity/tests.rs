//! Goal: a key is the same key in every form, nothing else passes for one, and a handshake proves both
//! sides before anything is sent. Method: keys that ssh-keygen made, handshakes in memory, arbitrary bytes.
#![expect(clippy::disallowed_methods, reason = "tests set key files up")]

mod appended;
mod files;
mod signing;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConnection};

use super::agent::{parse_identities, parse_signature};
use super::public::parse_blob;
use super::*;
use crate::types::{KeyAlgorithm, PublicKey};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Made by ssh-keygen, with the fingerprint that it prints.
const KNOWN: [(&str, &str); 1] = [(
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS alice@laptop",
    "ssh-ed25519",
)];

fn keygen(
    directory: &Path,
    kind: &str,
    bits: &str,
    passphrase: &str,
) -> Result<std::path::PathBuf, Box<dyn std::error::Error>> {
    let path = directory.join(format!("{kind}{bits}{}", passphrase.len()));
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-b", bits, "-N", passphrase, "-C", "a comment", "-f"])
        .arg(&path)
        .output()
        .map_err(|error| {
            format!("run ssh-keygen (Debian: apt-get install openssh-client): {error}")
        })?;
    if made.status.success() { Ok(path) } else { Err(String::from_utf8_lossy(&made.stderr).into()) }
}

#[test]
fn a_key_is_the_same_in_every_form() -> TestResult {
    let dir = tempfile::tempdir()?;
    for (kind, bits) in [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384")] {
        for passphrase in ["", "secret"] {
            let path = keygen(dir.path(), kind, bits, passphrase)?;
            let line = std::fs::read_to_string(path.with_extension("pub"))?;
            let (key, comment) = parse_public_line(&line)?;
            assert_eq!(comment.as_deref(), Some("a comment"));
            assert_eq!(parse_public_line(&public_line(&key))?, (key.clone(), None));
            assert_eq!(public_from_spki(&spki_der(&key)), Some(key.clone()));
            let shown = Command::new("ssh-keygen").arg("-lf").arg(&path).output()?;
            let shown = String::from_utf8(shown.stdout)?;
            assert_eq!(shown.split(' ').nth(1), Some(fingerprint(&key).as_str()));
            let pem = read_key_file(&path)?;
            if passphrase.is_empty() {
                assert_eq!(PrivateKey::parse_openssh(&pem, None)?.public(), &key);
            } else {
                assert!(matches!(PrivateKey::parse_openssh(&pem, None), Err(KeyError::Encrypted)));
                assert!(matches!(
                    PrivateKey::parse_openssh(&pem, Some("wrong")),
                    Err(KeyError::WrongPassphrase)
                ));
                assert_eq!(PrivateKey::parse_openssh(&pem, Some(passphrase))?.public(), &key);
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_no_key_of_ours_says_what_it_is() -> TestResult {
    let (line, name) = KNOWN[0];
    let (key, _) = parse_public_line(line)?;
    assert_eq!(key.algorithm.name(), name);
    let blob = line.split(' ').nth(1).ok_or("no blob")?;
    for (line, why) in [
        (format!("ecdsa-sha2-nistp256 {blob}"), "another kind of key"),
        (format!("ssh-ed25519 {}", &blob[..blob.len() - 4]), "damaged"),
        (format!("ssh-ed25519 {}", &blob[..blob.len() - 3]), "base64"),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ x".to_owned(), "RSA keys are not supported"),
        ("ssh-dss AAAA x".to_owned(), "DSA"),
        ("ecdsa-sha2-nistp521 AAAA x".to_owned(), "P-521"),
        ("sk-ssh-ed25519@openssh.com AAAA x".to_owned(), "FIDO"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA x".to_owned(), "certificate"),
        (format!("restrict,pty {line}"), "without options"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----".to_owned(), "private key"),
        ("ssh-ed25519 AAAA… alice@laptop".to_owned(), "base64"),
        (String::new(), "starts no key line"),
        (format!("{line}\n{line}"), "one line"),
    ] {
        let told =
            parse_public_line(&line).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(told.contains(why), "{line}: {told}");
    }
    Ok(())
}

/// One byte more or less, or another mark in front, is no key; nor is a line without end.
#[test]
fn a_point_has_its_length_and_its_mark() -> TestResult {
    let point = |mark: u8, length: usize| [&[mark][..], &vec![7; length - 1]].concat();
    for (algorithm, mark, length) in [
        (KeyAlgorithm::Ed25519, 4, 32),
        (KeyAlgorithm::EcdsaP256, 4, 65),
        (KeyAlgorithm::EcdsaP384, 4, 97),
    ] {
        let good = PublicKey { algorithm, point: point(mark, length) };
        assert_eq!(public_from_spki(&spki_der(&good)), Some(good.clone()));
        let blob = super::public::blob(&good);
        assert_eq!(parse_blob(&[&blob[..], &[0]].concat()), None);
        assert_eq!(parse_blob(&blob), Some(good));
        for point in [point(mark, length - 1), point(mark, length + 1), point(3, length)] {
            let bad = PublicKey { algorithm, point };
            if algorithm == KeyAlgorithm::Ed25519 && bad.point.len() == length {
                continue; // It has no mark.
            }
            assert_eq!(public_from_spki(&spki_der(&bad)), None);
            assert_eq!(parse_blob(&super::public::blob(&bad)), None);
        }
    }
    let line = KNOWN[0].0.split(" alice").next().ok_or("no line")?;
    let long = |bytes: usize| format!("{line} {}", "c".repeat(bytes - line.len() - 1));
    assert!(parse_public_line(&long(16 * 1024)).is_ok());
    assert!(parse_public_line(&long(16 * 1024 + 1)).is_err());
    Ok(())
}

#[test]
fn host_keys_are_made_once_and_only_for_us() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("host_key");
    assert!(load_host_key(&path).is_err_and(|error| error.is_missing()));
    // Many at once: one key comes of it.
    let keys: Vec<_> = std::thread::scope(|scope| {
        let makers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| load_or_create_host_key(&path))).collect();
        makers.into_iter().filter_map(|maker| maker.join().ok()).collect::<Result<_, _>>()
    })?;
    assert!(keys.iter().all(|(key, _)| key.public() == keys[0].0.public()));
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 1, "no draft is left");
    Ok(())
}

#[test]
fn known_hosts_remember_per_port_and_refuse_what_makes_no_sense() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("deep/known_hosts");
    let (one, two) = (PrivateKey::generate()?, PrivateKey::generate()?);
    assert!(KnownHosts::load(&path)?.lookup("h:1").is_empty());
    KnownHosts::append(&path, "H:1", one.public())?;
    KnownHosts::append(&path, "h:1", two.public())?;
    let known = KnownHosts::load(&path)?;
    assert_eq!(known.lookup("h:1"), [one.public().clone(), two.public().clone()]);
    assert!(known.lookup("h:2").is_empty() && known.lookup("other:1").is_empty());
    std::fs::write(&path, "# a comment\n\nh:1 nonsense\n")?;
    assert!(
        KnownHosts::load(&path).is_err_and(|error| error.to_string().contains("known_hosts:3: "))
    );
    Ok(())
}

/// Passes bytes between the two until both are content or one is not.
fn handshake(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), rustls::Error> {
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client
                .write_tls(&mut wire)
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server
                .read_tls(&mut rest)
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server
                .write_tls(&mut wire)
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client
                .read_tls(&mut rest)
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            client.process_new_packets()?;
        }
    }
    Ok(())
}

fn connect(
    config: Arc<ClientConfig>,
    host_key: PrivateKey,
) -> Result<Option<PublicKey>, Box<dyn std::error::Error>> {
    let mut client = ClientConnection::new(config, ServerName::try_from("ftd")?)?;
    let mut server = ServerConnection::new(server_config(host_key)?)?;
    handshake(&mut client, &mut server)?;
    if server.alpn_protocol() != Some(ALPN) {
        return Err("another protocol".into()); // rustls leaves a client without any to its caller.
    }
    Ok(peer_key(server.peer_certificates()))
}

#[test]
fn every_kind_of_key_proves_itself_in_a_handshake() -> TestResult {
    let dir = tempfile::tempdir()?;
    for (kind, bits) in [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384")] {
        let pem = read_key_file(&keygen(dir.path(), kind, bits, "")?)?;
        let signer = Signer::from_private(PrivateKey::parse_openssh(&pem, None)?);
        let host_key = PrivateKey::generate()?;
        let host = host_key.public().clone();
        let config = client_config(&signer, Arc::new(move |key| *key == host))?;
        assert_eq!(connect(config, host_key)?.as_ref(), Some(signer.public()), "{kind} {bits}");
    }
    Ok(())
}

/// a server that is not the pinned one gets no signature.
#[test]
fn a_wrong_server_stops_the_client_before_it_signs() -> TestResult {
    // An agent that nobody answers for: asking it would leave an error behind.
    let key = PrivateKey::generate()?.public().clone();
    let signer = Signer::from_agent("/nonexistent/agent".into(), key);
    let seen = Arc::new(AtomicBool::new(false));
    let judge = {
        let seen = Arc::clone(&seen);
        move |_: &PublicKey| {
            seen.store(true, Ordering::Relaxed);
            false
        }
    };
    let config = client_config(&signer, Arc::new(judge))?;
    assert!(connect(config, PrivateKey::generate()?).is_err());
    assert!(seen.load(Ordering::Relaxed) && signer.last_error().is_none());
    let config = client_config(&signer, Arc::new(|_| true))?;
    assert!(connect(config, PrivateKey::generate()?).is_err());
    assert!(matches!(signer.last_error(), Some(AgentError::Gone { .. })), "now it was asked");
    Ok(())
}

/// A key without its private half gets nowhere, nor does a client without a key or with another ALPN.
#[test]
fn who_cannot_prove_a_key_is_not_let_in() -> TestResult {
    use rustls::client::AlwaysResolvesClientRawPublicKeys;
    let (mine, stolen) = (PrivateKey::generate()?, PrivateKey::generate()?.public().clone());
    let honest = Signer::from_private(mine);
    let liar = rustls::sign::CertifiedKey::new(
        vec![spki_der(&stolen).into()],
        Arc::new(honest.clone()) as Arc<dyn rustls::sign::SigningKey>,
    );
    let mut config = ClientConfig::clone(&*client_config(&honest, Arc::new(|_| true))?);
    config.client_auth_cert_resolver =
        Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::new(liar)));
    assert!(connect(Arc::new(config), PrivateKey::generate()?).is_err(), "a stolen public key");
    for alpn in [vec![], vec![b"h2".to_vec()]] {
        let mut config = ClientConfig::clone(&*client_config(&honest, Arc::new(|_| true))?);
        config.alpn_protocols = alpn;
        let outcome = connect(Arc::new(config), PrivateKey::generate()?);
        assert!(outcome.is_err(), "another protocol");
    }
    Ok(())
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_blob(&bytes);
        let _ = public_from_spki(&bytes);
        let _ = parse_identities(&bytes);
        for algorithm in [KeyAlgorithm::Ed25519, KeyAlgorithm::EcdsaP256] {
            let _ = parse_signature(&bytes, algorithm);
        }
        let _ = parse_public_line(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn an_agent_may_claim_anything(kind in 10_u8..16, count in any::<u32>(), rest in proptest::collection::vec(any::<u8>(), 0..64)) {
        let reply = [&[kind][..], &count.to_be_bytes(), &rest].concat();
        let _ = parse_identities(&reply);
        let _ = parse_signature(&reply, KeyAlgorithm::EcdsaP384);
    }
}

/// L-12: whatever is printed of a key is its public half.
#[test]
fn nothing_secret_is_printed_of_a_key() -> TestResult {
    let key = PrivateKey::generate()?;
    let public = format!("{:?}", key.public());
    assert_eq!(format!("{key:?}"), format!("PrivateKey of {public}"));
    let signer = Signer::from_private(key);
    assert_eq!(format!("{signer:?}"), format!("Signer of {public}"));
    Ok(())
}
