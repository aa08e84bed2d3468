//! Goal: a key that may not come in has nothing parsed, learns one constant answer, and a recorded or
//! relayed session is worth nothing (A-01, A-02, A-04, A-05, B10).
//! Method: a TLS client of the test's own, which says what it likes and when.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::signal::Signal;
use rustls::ClientConfig;
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde_json::json;
use support::raw::{HELLO, REQUEST, frame, put, receive_from};
use support::tls::{config, connect_from, handshake};
use support::{ALL_RIGHTS, Daemon, PATIENCE, Setup, TestResult, make_key, read_all};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const HERE: [u8; 4] = [127, 0, 0, 1];

fn quiet() -> Fallible<Setup> {
    Setup::with(ALL_RIGHTS, "[limits]\npenalties = false")
}

/// All that the server says in answer to these bytes, to its end.
fn answer_to(daemon: &Daemon, config: &Arc<ClientConfig>, early: &[u8]) -> Fallible<Vec<u8>> {
    let tls = handshake(config, connect_from(HERE, &daemon.address)?, early)?;
    Ok(read_all(tls))
}

/// A client without any key.
#[derive(Debug)]
struct NoKey;

impl ResolvesClientCert for NoKey {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A-01: no key, or alice's with a signature of somebody else: an alert, and nothing is parsed.
#[test]
fn without_a_proof_of_a_key_nothing_is_said() -> TestResult {
    let daemon = quiet()?.start()?;
    let line = std::fs::read_to_string(daemon.path("key.pub"))?;
    let (alice, _) = ftd::identity::parse_public_line(line.trim())?;
    let generated = aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8(
        &aws_lc_rs::rand::SystemRandom::new(),
    )?;
    let signs = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(
        generated.as_ref(),
    ))?;
    let claimed = CertificateDer::from(ftd::identity::spki_der(&alice));
    let forged =
        AlwaysResolvesClientRawPublicKeys::new(Arc::new(CertifiedKey::new(vec![claimed], signs)));
    let early = [frame(HELLO, 0, br#"{"version":1}"#), put(1, &json!("f"), b"content")].concat();
    for resolver in [Arc::new(forged) as Arc<dyn ResolvesClientCert>, Arc::new(NoKey)] {
        let mut config = (*config(&daemon.path("key"))?).clone();
        config.client_auth_cert_resolver = resolver;
        let tcp = connect_from(HERE, &daemon.address)?;
        let mut tls = handshake(&Arc::new(config), tcp, &early)?;
        let met = tls.read(&mut [0; 64]);
        assert!(met.as_ref().is_err_and(|error| error.to_string().contains("alert")), "{met:?}");
    }
    daemon.wait_for_log_times("refused: ", 2)?;
    assert!(!daemon.log().contains("verb="), "{}", daemon.log());
    assert!(!daemon.path("root/alice").exists());
    Ok(())
}

/// A-02: what comes before HELLO is taken up after it, and of a key that is not known never looked at.
#[test]
fn what_is_sent_before_hello_waits_for_the_judgement() -> TestResult {
    let daemon = quiet()?.start()?;
    let stat = frame(REQUEST, 1, br#"{"verb":"stat"}"#);
    let early = [frame(HELLO, 0, br#"{"version":1}"#), stat].concat();
    let known = config(&daemon.path("key"))?;
    let mut tls = handshake(&known, connect_from(HERE, &daemon.address)?, &early)?;
    let kinds = [receive_from(&mut tls)?, receive_from(&mut tls)?];
    let kinds = kinds.map(|frame| frame.map_or(0, |frame| frame.kind));
    assert_eq!(kinds, [HELLO, support::raw::ANSWER]);

    make_key(&daemon.path("stranger"), "ed25519", "")?;
    let stranger = config(&daemon.path("stranger"))?;
    let silent = answer_to(&daemon, &stranger, b"")?;
    let refusal = receive_from(&mut &silent[..])?.ok_or("nothing was said")?;
    assert_eq!((refusal.code().as_str(), refusal.id), ("AUTH", 0));
    assert_eq!(silent.len(), 12 + refusal.payload.len(), "and nothing else");
    let requests = [early, put(1, &json!("f"), b"content")].concat();
    // A known key would be told PROTOCOL for the second.
    for early in [&requests[..], &[0xff; 4096]] {
        assert!(answer_to(&daemon, &stranger, early)? == silent, "another answer");
    }
    daemon.wait_for_log_times("refused: not known", 3)?;
    assert!(!daemon.log().contains("PROTOCOL"), "{}", daemon.log());
    assert!(!daemon.stored("f").exists());
    Ok(())
}

/// A-04: one in the middle gets no proof of the user's key, and can show the server only his own.
#[test]
fn one_in_the_middle_has_nothing_but_his_own_key() -> TestResult {
    let (real, middle) = (quiet()?.start()?, quiet()?.start()?);
    // The client believes that the middle is the real server, and the middle would take its key.
    let mut shown = std::process::Command::new(env!("CARGO_BIN_EXE_ftd"));
    let shown = shown.args(["fingerprint", "--config"]).arg(real.path("ftd.toml")).output()?.stdout;
    let shown = String::from_utf8(shown)?;
    let host_key = shown.lines().next().ok_or("no host key")?;
    std::fs::write(middle.path("known_hosts"), format!("{} {host_key}\n", middle.address))?;
    let ran = middle.ftc().env("FTC_SERVER", &middle.address).run(["ls"])?;
    assert_eq!(ran.code, Some(4), "{}", ran.err);
    assert!(ran.err.contains("HAS CHANGED"), "{}", ran.err);
    let log = middle.wait_for_log("refused: ")?;
    let line = std::fs::read_to_string(middle.path("key.pub"))?;
    let (alice, _) = ftd::identity::parse_public_line(line.trim())?;
    assert!(!log.contains(&ftd::identity::fingerprint(&alice)), "{log}");
    // What he sends on is his own handshake.
    make_key(&middle.path("own"), "ed25519", "")?;
    let told = answer_to(&real, &config(&middle.path("own"))?, b"")?;
    assert_eq!(receive_from(&mut &told[..])?.map(|frame| frame.code()), Some("AUTH".to_owned()));
    Ok(())
}

/// A-05: the bytes of a session, sent again, are no session.
#[test]
fn a_recorded_session_is_worth_nothing() -> TestResult {
    let daemon = quiet()?.start()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (tap, target) = (listener.local_addr()?.to_string(), daemon.address.clone());
    let recorder = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let (client, _) = listener.accept()?;
        let server = TcpStream::connect(target)?;
        let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
        let down = std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to); // Whoever ends first.
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
        let (mut said, mut room, mut client, mut server) = (Vec::new(), [0; 4096], client, server);
        while let Ok(read @ 1..) = client.read(&mut room) {
            said.extend(&room[..read]);
            server.write_all(&room[..read])?;
        }
        let _ = server.shutdown(std::net::Shutdown::Both);
        let _ = down.join();
        Ok(said)
    });
    let ftc = daemon.ftc().env("FTC_SERVER", &tap).env("FTC_ACCEPT_NEW", "1");
    ftc.input("content").ok(["put", "-", ":f"])?;
    let said = recorder.join().map_err(|_| "the recorder panicked")??;
    assert!(said.len() > 500, "{} bytes were recorded", said.len());
    std::fs::remove_file(daemon.stored("f"))?;
    let before = daemon.wait_for_log("verb=\"put\"")?.matches("verb=\"put\"").count();
    let mut again = connect_from(HERE, &daemon.address)?;
    again.set_read_timeout(Some(PATIENCE))?;
    again.write_all(&said)?;
    let mut room = Vec::new();
    let end = again.read_to_end(&mut room);
    let is_end =
        end.as_ref().map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |_| true);
    assert!(is_end, "it is closed: {end:?}");
    daemon.wait_for_log("refused: ")?;
    assert_eq!(daemon.log().matches("verb=\"put\"").count(), before);
    assert!(!daemon.stored("f").exists());
    Ok(())
}

/// B10: whether a key is listed and barred, or not listed, changes no byte of the answer.
#[test]
fn a_barred_key_and_an_unknown_one_get_the_same_bytes() -> TestResult {
    let setup = quiet()?;
    let unlisted = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.add_user("bob", "enabled = false")?;
    let barred = std::fs::read_to_string(setup.path("ftd.toml"))?;
    let daemon = setup.start()?;
    let bob = config(&daemon.path("bob"))?;
    let said = |early: &[u8]| answer_to(&daemon, &bob, early);
    let disabled = said(b"")?;
    daemon.wait_for_log("it is not enabled")?;
    let texts = [
        barred.replace("enabled = false", "expires = 2020-01-01"),
        barred.replace("enabled = false", "from = [\"192.0.2.0/24\"]"),
        unlisted,
    ];
    for (reloads, text) in texts.iter().enumerate() {
        std::fs::write(daemon.path("ftd.toml"), text)?;
        daemon.signal(Signal::SIGHUP)?;
        daemon.wait_for_log_times("configuration reloaded", reloads + 1)?;
        assert!(said(b"")? == disabled, "another answer, at {text}");
    }
    daemon.wait_for_log("refused: not known")?;
    Ok(())
}

/// B10: nor does it change the time that the answer takes.
#[ignore = "needs a quiet machine; run with: make flood-test FLOODS=--include-ignored"]
#[test]
fn a_barred_key_and_an_unknown_one_take_the_same_time() -> TestResult {
    let tries = std::env::var("FTD_TRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(4_000);
    let setup = quiet()?;
    setup.add_user("bob", "enabled = false")?;
    make_key(&setup.path("stranger"), "ed25519", "")?;
    let daemon = setup.start()?;
    let keys = [config(&daemon.path("bob"))?, config(&daemon.path("stranger"))?];
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..2 * tries {
        // ABBA, so that neither always comes second.
        let which = (number / 2 + number) % 2;
        let tcp = connect_from(HERE, &daemon.address)?;
        let mut tls = handshake(&keys[which], tcp, b"")?;
        let began = Instant::now();
        tls.read_exact(&mut [0; 12])?;
        times[which].push(began.elapsed().as_secs_f64() * 1e6);
    }
    let welch = |keep: f64| {
        let mut all = times.concat();
        all.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small counts"
        )]
        let figures = |times: &Vec<f64>| {
            let most = all[((all.len() as f64 * keep) as usize).min(all.len() - 1)];
            let kept: Vec<_> = times.iter().copied().filter(|&time| time <= most).collect();
            let count = kept.len() as f64;
            let mean = kept.iter().sum::<f64>() / count;
            let variance =
                kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
            (mean, variance / count)
        };
        let [one, other] = [figures(&times[0]), figures(&times[1])];
        ((one.0 - other.0) / (one.1 + other.1).sqrt(), one.0, other.0)
    };
    for keep in [1.0, 0.9, 0.5] {
        let (t, barred, unknown) = welch(keep);
        println!(
            "assurance: B10 a barred key and an unknown one: Welch's t = {t:.2} over {tries} tries each, \
             {barred:.1} and {unknown:.1} us (the fastest {:.0} %)",
            keep * 100.0
        );
        assert!(t.abs() < 4.5, "t = {t:.2} of the fastest {keep}");
    }
    Ok(())
}
