//! Goal: who is not listed learns nothing, changes nothing and holds little memory (B5, B10; A-01, A-02, A-05, F-12).
//! Method: TLS clients of the test's own, so that what they sign and when they speak is the test's choice.
#![allow(clippy::disallowed_methods, reason = "tests look at the daemon from outside")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ftd::identity::{PrivateKey, Signer, client_config, read_key_file, spki_der};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, SignatureScheme, StreamOwned};
use serde_json::json;
use support::raw::{ERROR, HELLO, REQUEST, frame};
use support::{ALL_RIGHTS, Daemon, PATIENCE, Setup, TestResult, make_key};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;
type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts any server and signs with the key in a file.
fn config(key: &Path) -> Fallible<ClientConfig> {
    let signer = Signer::from_private(PrivateKey::parse_openssh(&read_key_file(key)?, None)?);
    Ok((*client_config(&signer, Arc::new(|_| true))?).clone())
}

/// Shakes hands and sends `early` with the last of it, before the server can have said anything.
fn come(daemon: &Daemon, config: &ClientConfig, early: &[u8]) -> Fallible<Tls> {
    let stream = TcpStream::connect(&daemon.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let host = ServerName::from(stream.peer_addr()?.ip());
    let mut tls = StreamOwned::new(ClientConnection::new(Arc::new(config.clone()), host)?, stream);
    tls.conn.writer().write_all(early)?; // rustls keeps it until the handshake allows it.
    Ok(tls)
}

/// All that the server says until it is done with this client; an error where that is not an orderly end.
fn told(tls: &mut Tls) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    tls.read_to_end(&mut all).map(|_| all)
}

/// HELLO and a request that would leave a mark.
fn early(directory: &str) -> Vec<u8> {
    let mut bytes = frame(HELLO, 0, br#"{"version":1}"#);
    let request = json!({"verb": "mkdir", "path": directory}).to_string();
    bytes.extend(frame(REQUEST, 1, request.as_bytes()));
    bytes
}

/// Which key a client offers, and which one signs.
#[derive(Debug)]
struct Offers(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Offers {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

fn quiet() -> Fallible<Daemon> {
    let daemon = Setup::with(ALL_RIGHTS, "[limits]\npenalties = false")?.start()?;
    make_key(&daemon.path("stranger"), "ed25519", "")?;
    Ok(daemon)
}

/// A-01, A-02: no key, somebody else's key, a key that is not listed: not one request of theirs is read,
/// whether it is good or garbage. Whoever is listed may speak before HELLO has reached him.
#[test]
fn nothing_of_a_stranger_is_parsed() -> TestResult {
    let daemon = quiet()?;
    let (listed, stranger) = (config(&daemon.path("key"))?, config(&daemon.path("stranger"))?);
    let public = PrivateKey::parse_openssh(&read_key_file(&daemon.path("key"))?, None)?;
    let own = stranger.client_auth_cert_resolver.resolve(&[], &[SignatureScheme::ED25519]);
    let own = own.ok_or("no key")?;
    let stolen = CertificateDer::from(spki_der(public.public()));
    let forged = CertifiedKey::new(vec![stolen], Arc::clone(&own.key));
    for (what, offers) in [("none", None), ("forged", Some(Arc::new(forged)))] {
        let mut client = listed.clone();
        client.client_auth_cert_resolver = Arc::new(Offers(offers));
        let answer = told(&mut come(&daemon, &client, &early(what))?);
        assert!(answer.is_err_and(|error| error.to_string().contains("alert")), "{what}");
    }
    let mut answers = Vec::new();
    for early in [early("unlisted"), b"\xff".repeat(4096), Vec::new()] {
        answers.push(told(&mut come(&daemon, &stranger, &early)?)?);
    }
    assert_eq!(answers[0][0], ERROR);
    let words = String::from_utf8_lossy(&answers[0]).into_owned();
    assert!(words.contains("\"AUTH\"") && words.contains("SHA256:"), "{words}");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    // The same bytes from somebody who is listed do leave their mark.
    let mut alice = come(&daemon, &listed, &early("listed"))?;
    let mut first = [0; 1];
    alice.read_exact(&mut first)?;
    assert_eq!(first, [HELLO]);
    let deadline = Instant::now() + PATIENCE;
    while !daemon.stored("listed").exists() {
        assert!(Instant::now() < deadline, "a request that comes early is served");
        std::thread::yield_now();
    }
    let found = std::fs::read_dir(daemon.path("root/alice"))?.count();
    assert_eq!(found, 1, "nothing but alice's own");
    Ok(())
}

/// A-05: what was recorded of a session is worth nothing.
#[test]
fn a_recorded_session_has_no_effect_when_it_is_replayed() -> TestResult {
    let daemon = quiet()?;
    let proxy = TcpListener::bind("127.0.0.1:0")?;
    let (near, far) = (proxy.local_addr()?.to_string(), daemon.address.clone());
    let recorder = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let (mut client, _) = proxy.accept()?;
        let mut server = TcpStream::connect(far)?;
        let (mut back, mut to) = (server.try_clone()?, client.try_clone()?);
        let answers = std::thread::spawn(move || std::io::copy(&mut back, &mut to));
        let (mut all, mut room) = (Vec::new(), [0; 16 * 1024]);
        while let Ok(read @ 1..) = client.read(&mut room) {
            all.extend_from_slice(&room[..read]);
            server.write_all(&room[..read])?;
        }
        server.shutdown(std::net::Shutdown::Both)?;
        let _ = answers.join(); // It ends with the socket.
        Ok(all)
    });
    let put = daemon.ftc().env("FTC_SERVER", near).env("FTC_ACCEPT_NEW", "1").input("once");
    put.ok(["put", "-", ":f"])?;
    let recorded = recorder.join().map_err(|_| "the recorder panicked")??;
    assert!(recorded.len() > 500 && daemon.stored("f").exists());
    std::fs::remove_file(daemon.stored("f"))?;

    let mut replay = TcpStream::connect(&daemon.address)?;
    replay.set_read_timeout(Some(PATIENCE))?;
    replay.write_all(&recorded)?;
    let _ = replay.read_to_end(&mut Vec::new()); // A flight of the server's, an alert, the end.
    daemon.wait_for_log("connection refused: ")?;
    assert!(!daemon.stored("f").exists());
    Ok(())
}

/// B10: whoever may not come in gets the same bytes in the same time as somebody who is not known. With
/// FTD_TEST_TRIES=10000 it is as sure as the bar asks for.
#[test]
fn listed_and_unlisted_keys_cannot_be_told_apart() -> TestResult {
    let tries = std::env::var("FTD_TEST_TRIES").ok().and_then(|tries| tries.parse().ok());
    let tries: u32 = tries.unwrap_or(400);
    let daemon = quiet()?;
    let text = std::fs::read_to_string(daemon.path("ftd.toml"))?;
    let mut barred = Vec::new();
    for (name, line) in
        [("off", "enabled = false"), ("gone", "expires = 2020-01-01"), ("far", "from = [\"::1\"]")]
    {
        make_key(&daemon.path(name), "ed25519", "")?;
        let key = std::fs::read_to_string(daemon.path(&format!("{name}.pub")))?;
        barred.push(format!(
            "[[user]]\nname = \"{name}\"\nkeys = [\"{}\"]\nallow = [\"list\"]\n{line}\n",
            key.trim()
        ));
    }
    std::fs::write(daemon.path("ftd.toml"), text + &barred.concat())?;
    daemon.signal(nix::sys::signal::Signal::SIGHUP)?;
    daemon.wait_for_log("configuration reloaded")?;

    let clients = ["stranger", "off", "gone", "far"].map(|name| config(&daemon.path(name)));
    let mut times = vec![Vec::new(); clients.len()];
    let mut answers = Vec::new();
    for _ in 0..tries {
        for (client, times) in clients.iter().zip(&mut times) {
            let mut tls = come(&daemon, client.as_ref().map_err(ToString::to_string)?, b"")?;
            while tls.conn.is_handshaking() {
                tls.conn.complete_io(&mut tls.sock)?;
            }
            let began = Instant::now();
            let answer = told(&mut tls)?;
            times.push(began.elapsed().as_secs_f64());
            answers.push(without_fingerprint(&answer)?);
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "the same but for the fingerprint");
    for (name, listed) in ["off", "gone", "far"].iter().zip(&times[1..]) {
        let t = welch(&times[0], listed);
        assert!(t.abs() < 4.5, "{name}: t = {t:.2} over {tries} tries");
    }
    Ok(())
}

/// An answer whose only part that may differ is blanked.
fn without_fingerprint(answer: &[u8]) -> Fallible<String> {
    let text = String::from_utf8_lossy(answer).into_owned();
    let (before, rest) = text.split_once("SHA256:").ok_or("no fingerprint")?;
    Ok(format!("{before}{}", rest.get(43..).unwrap_or_default()))
}

/// Welch's t of two samples, each without its slowest twentieth: those are the machine's, not ours.
fn welch(one: &[f64], other: &[f64]) -> f64 {
    let moments = |sample: &[f64]| {
        let mut sample = sample.to_vec();
        sample.sort_by(f64::total_cmp);
        sample.truncate(sample.len() - sample.len() / 20);
        let count = f64::from(u32::try_from(sample.len()).unwrap_or(u32::MAX));
        let mean = sample.iter().sum::<f64>() / count;
        let spread = sample.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, spread / count)
    };
    let ((mean, error), (other_mean, other_error)) = (moments(one), moments(other));
    (mean - other_mean) / (error + other_error).sqrt()
}

/// B5: 2,000 strangers, each with as much of a hello as rustls will keep, hold at most 64 KiB each.
#[test]
fn two_thousand_strangers_hold_little_memory() -> TestResult {
    const STRANGERS: usize = 2000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < 2 * STRANGERS as u64 {
        println!("skipped: it needs {} open files, and {hard} is the limit", 2 * STRANGERS);
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let limits = format!(
        "[limits]\npenalties = false\nconnections = 64\nhandshake-timeout = \"60s\"\n\
         strangers = {STRANGERS}\nstrangers-per-source = {STRANGERS}"
    );
    let daemon = Setup::with(ALL_RIGHTS, &limits)?.start()?;
    let resident = || -> Fallible<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).ok_or("no size")?.parse::<u64>()? * 1024)
    };
    // A hello of 32,000 bytes that never ends, in whole records: just what is not too long yet.
    let mut hello = vec![1, 0, 0x7d, 0];
    hello.resize(31_000, 0);
    let record = |part: &[u8]| -> Vec<u8> {
        let [high, low] = u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&[22, 3, 1, high, low][..], part].concat()
    };
    let half: Vec<u8> = hello.chunks(16_000).flat_map(record).collect();
    daemon.ftc_tls().ok(["ls"])?;
    let before = resident()?;
    let mut held = Vec::new();
    for _ in 0..STRANGERS {
        let mut stream = TcpStream::connect(&daemon.address)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&half)?;
        held.push(stream);
    }
    // A login that is served after them tells that the others were looked at.
    daemon.ftc_tls().ok(["ls"])?;
    let grown = resident()?.saturating_sub(before);
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))?.count();
    assert!(open > STRANGERS - 10, "they are all still there: {open}");
    assert!(grown <= STRANGERS as u64 * 64 * 1024, "{} KiB each", grown / 1024 / STRANGERS as u64);
    // F-12: and what goes on beyond that is cut off.
    let last = held.last_mut().ok_or("nobody")?;
    last.write_all(&record(&[0; 8_000]))?;
    last.set_read_timeout(Some(PATIENCE))?;
    let _ = last.read_to_end(&mut Vec::new()); // An alert, or a reset.
    daemon.wait_for_log("connection refused: ")?;
    Ok(())
}
