//! Goal: what rustls may ask of us beside a handshake lets nobody in that a handshake would not. Method:
//! each of its questions asked directly, with signatures that are right but for one thing.

use rustls::internal::msgs::codec::{Codec as _, Reader};

use super::*;
use crate::types::KeyAlgorithm;

type TestResult = Result<(), Box<dyn std::error::Error>>;

const MESSAGE: &[u8] = b"a transcript";

/// RFC 8446 section 4.2.3: the scheme, and the signature with its length.
fn signed(scheme: SignatureScheme, signature: &[u8]) -> Option<DigitallySignedStruct> {
    let length = u16::try_from(signature.len()).ok()?.to_be_bytes();
    let raw = [&u16::from(scheme).to_be_bytes()[..], &length, signature].concat();
    DigitallySignedStruct::read(&mut Reader::init(&raw)).ok()
}

/// Both sides' verifiers, as one list of answers each.
fn asked(
    server: &PinnedKey,
    client: &AnyWellSignedKey,
    raw: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> ([bool; 2], [bool; 2]) {
    (
        [
            ServerCertVerifier::verify_tls13_signature(server, MESSAGE, raw, signed).is_ok(),
            ClientCertVerifier::verify_tls13_signature(client, MESSAGE, raw, signed).is_ok(),
        ],
        [
            ServerCertVerifier::verify_tls12_signature(server, MESSAGE, raw, signed).is_ok(),
            ClientCertVerifier::verify_tls12_signature(client, MESSAGE, raw, signed).is_ok(),
        ],
    )
}

#[test]
fn a_signature_is_good_for_its_key_its_scheme_and_tls_1_3() -> TestResult {
    let key = PrivateKey::generate()?;
    let raw = CertificateDer::from(spki(&key));
    let server = PinnedKey { provider: provider(), check: Arc::new(|_| true) };
    let client = AnyWellSignedKey(provider());
    let signature = key.sign(MESSAGE)?;
    let good = signed(SignatureScheme::ED25519, &signature).ok_or("no signature")?;
    assert_eq!(asked(&server, &client, &raw, &good), ([true; 2], [false; 2]));
    let others = CertificateDer::from(spki(&PrivateKey::generate()?));
    assert_eq!(asked(&server, &client, &others, &good), ([false; 2], [false; 2]));
    for scheme in [
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PKCS1_SHA1,
        SignatureScheme::ED448,
    ] {
        let wrong = signed(scheme, &signature).ok_or("no signature")?;
        assert_eq!(asked(&server, &client, &raw, &wrong), ([false; 2], [false; 2]), "{scheme:?}");
    }
    for end in [0, 63] {
        let short = signed(SignatureScheme::ED25519, &signature[..end]).ok_or("no signature")?;
        assert_eq!(asked(&server, &client, &raw, &short), ([false; 2], [false; 2]));
    }
    Ok(())
}

fn spki(key: &PrivateKey) -> Vec<u8> {
    super::super::spki_der(key.public())
}

#[test]
fn a_scheme_that_is_none_of_ours_is_not_even_looked_at() -> TestResult {
    let key = PrivateKey::generate()?;
    let raw = CertificateDer::from(spki(&key));
    let rsa = signed(SignatureScheme::RSA_PSS_SHA256, &[0; 256]).ok_or("no signature")?;
    let told = check_signature(&provider(), MESSAGE, &raw, &rsa).err();
    assert_eq!(told, Some(PeerIncompatible::NoSignatureSchemesInCommon.into()));
    Ok(())
}

/// What is shown must be exactly one of our keys: no certificate, and nothing beside it.
#[test]
fn a_peer_shows_one_raw_key_and_nothing_else() -> TestResult {
    let key = PrivateKey::generate()?;
    let (raw, now) = (CertificateDer::from(spki(&key)), UnixTime::now());
    let client = AnyWellSignedKey(provider());
    let is_let_in = |raw: &CertificateDer<'_>, beside: &[CertificateDer<'_>]| {
        client.verify_client_cert(raw, beside, now).is_ok()
    };
    assert!(is_let_in(&raw, &[]) && !is_let_in(&raw, std::slice::from_ref(&raw)));
    assert!(!is_let_in(&CertificateDer::from(&b"0\x03\x02\x01\x01"[..]), &[]));
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let pinned = PinnedKey {
        provider: provider(),
        check: Arc::new(move |key: &PublicKey| {
            note.lock().is_ok_and(|mut seen| {
                seen.push(key.clone());
                seen.len() < 2
            })
        }),
    };
    let is_trusted = |raw: &CertificateDer<'_>| {
        let name = ServerName::try_from("ftd").map_err(|error| error.to_string())?;
        pinned
            .verify_server_cert(raw, &[], &name, &[], now)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert!(is_trusted(&CertificateDer::from(&b"no key"[..])).is_err(), "and nobody is asked");
    assert!(is_trusted(&raw).is_ok());
    assert!(is_trusted(&raw).is_err_and(|told| told.contains("UnknownIssuer")));
    assert_eq!(*seen.lock().map_err(|_| "poisoned")?, [key.public().clone(), key.public().clone()]);
    assert_eq!(peer_key(Some(std::slice::from_ref(&raw))), Some(key.public().clone()));
    assert_eq!(peer_key(Some(&[raw.clone(), raw])), None);
    assert_eq!((peer_key(Some(&[])), peer_key(None)), (None, None));
    Ok(())
}

#[test]
fn both_sides_offer_our_three_schemes_and_raw_keys_only() -> TestResult {
    let pinned = PinnedKey { provider: provider(), check: Arc::new(|_| false) };
    let client = AnyWellSignedKey(provider());
    assert_eq!(ServerCertVerifier::supported_verify_schemes(&pinned), SCHEMES);
    assert_eq!(ClientCertVerifier::supported_verify_schemes(&client), SCHEMES);
    assert!(ServerCertVerifier::requires_raw_public_keys(&pinned));
    assert!(ClientCertVerifier::requires_raw_public_keys(&client));
    assert!(client.root_hint_subjects().is_empty(), "there are no authorities to name");
    assert!(client.client_auth_mandatory() && client.offer_client_auth());
    assert_eq!(format!("{pinned:?}"), "PinnedKey", "the judge is code, and prints as nothing");
    let server = server_config(PrivateKey::generate()?)?;
    assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
    assert!(!server.session_storage.can_cache(), "no session is resumed");
    assert_eq!(server.alpn_protocols, [ALPN]);
    let signer = Signer::from_private(PrivateKey::generate()?);
    let client = client_config(&signer, Arc::new(|_| true))?;
    assert!(!client.enable_sni && client.alpn_protocols == [ALPN]);
    assert_eq!(signer.public().algorithm, KeyAlgorithm::Ed25519);
    Ok(())
}
