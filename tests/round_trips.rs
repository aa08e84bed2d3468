//! Goal: distance costs a transfer as few round trips as its protocol can do with, and no more by accident.
//! Method: a proxy between the real client and the real daemon that holds back what the daemon says until the client
//! has sent what it can send without it. A client that waits for one word more never ends.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use support::{Daemon, PATIENCE, Setup, TestResult, make_key, noise};

/// Bytes that a client sends beside content without being told anything: the end of its handshake, HELLO, a request.
const BESIDE: u64 = 3000;

/// How long a flight is on its way: the client goes on with whatever it does meanwhile.
const FLIGHT: Duration = Duration::from_millis(200);

/// A line on which the daemon's words arrive one flight at a time.
#[derive(Default)]
struct Line {
    /// Bytes of the client since the daemon's first word.
    sent: Mutex<u64>,
    changed: Condvar,
}

impl Line {
    fn wait_for(&self, bytes: u64) -> bool {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(sent, PATIENCE, |sent| *sent < bytes);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn sent(&self) -> u64 {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries one connection. The daemon's first flight passes, the end of its handshake; each of `flights` is what the
/// client must have sent, content alone, before the next one does. Gives whether the client got that far.
fn carry(listener: &TcpListener, daemon: &str, flights: &[u64]) -> Result<bool, std::io::Error> {
    let (client, _) = listener.accept()?;
    let server = TcpStream::connect(daemon)?;
    let line = Arc::new(Line::default());
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let (counted, heard) = (Arc::clone(&line), Arc::new(Mutex::new(false)));
    let is_heard = Arc::clone(&heard);
    let up = std::thread::spawn(move || {
        let mut room = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut room) {
            if *is_heard.lock().unwrap_or_else(PoisonError::into_inner) {
                *counted.sent.lock().unwrap_or_else(PoisonError::into_inner) += read as u64;
                counted.changed.notify_all();
            }
            if to.write_all(&room[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write); // The daemon may have gone first.
    });
    let (mut from, mut to) = (server, client);
    let (mut flights, mut passed) = (flights.iter(), 64); // 64: a record that TLS sends for the looks of it.
    let mut room = vec![0; 64 * 1024];
    let mut is_swift = true;
    while let Ok(read @ 1..) = from.read(&mut room) {
        if line.sent() > passed
            && let Some(bytes) = flights.next()
        {
            is_swift = line.wait_for(*bytes);
            std::thread::sleep(FLIGHT);
            passed = bytes + BESIDE;
        }
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = true;
        if !is_swift || to.write_all(&room[..read]).is_err() {
            break;
        }
    }
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both)); // Either may have gone first.
    let _ = up.join();
    Ok(is_swift)
}

/// Runs `ftc` over such a line, to a daemon that it knows already.
fn over(
    daemon: &Daemon,
    words: &[&str],
    flights: &[u64],
) -> Result<(bool, Option<i32>), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let place = listener.local_addr()?.to_string();
    daemon.ftc_tls().ok(["ls"])?;
    let known = std::fs::read_to_string(daemon.path("known_hosts"))?;
    let known = known.replace(&daemon.address, &place);
    std::fs::write(daemon.path("known_far"), known)?;
    let client = daemon
        .ftc_tls()
        .env("FTC_SERVER", &place)
        .env("FTC_KNOWN_HOSTS", daemon.path("known_far"))
        .env("FTC_RETRY", "0s");
    let (address, flights) = (daemon.address.clone(), flights.to_vec());
    let carrying = std::thread::spawn(move || carry(&listener, &address, &flights));
    let ran = client.run(words)?;
    let is_swift = carrying.join().map_err(|_| "the line broke")??;
    Ok((is_swift, ran.code))
}

fn text(path: &Path) -> Result<&str, &'static str> {
    path.to_str().ok_or("a path that is no text")
}

/// After the connection of TCP: one round trip for the handshake of TLS, and one in which a whole file goes out and is
/// stored. Its content leaves before the server's HELLO arrives.
#[test]
fn a_small_file_of_a_fresh_client_takes_two_round_trips() -> TestResult {
    let daemon = Daemon::start()?;
    let content = noise(64 * 1024, 1);
    std::fs::write(daemon.path("small"), &content)?;
    let path = daemon.path("small");
    let ran = over(&daemon, &["put", text(&path)?, ":small"], &[content.len() as u64])?;
    assert_eq!(ran, (true, Some(0)));
    assert_eq!(std::fs::read(daemon.stored("small"))?, content);
    Ok(())
}

/// One round trip more for a tree, whose other files wait to hear how many the server takes at once.
#[test]
fn a_tree_of_a_hundred_files_takes_three_round_trips() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::create_dir(daemon.path("tree"))?;
    for number in 0..100 {
        std::fs::write(daemon.path("tree").join(format!("f{number}")), noise(4096, number))?;
    }
    let path = format!("{}/", text(&daemon.path("tree"))?);
    let ran = over(&daemon, &["put", "-r", &path, ":tree/"], &[4096, 100 * 4096])?;
    assert_eq!(ran, (true, Some(0)));
    assert_eq!(std::fs::read_dir(daemon.stored("tree"))?.count(), 100);
    Ok(())
}

/// Before HELLO a client counts on one request and one upload alone, the least that a server may take.
#[test]
fn a_server_that_takes_one_request_at_a_time_is_not_asked_for_two() -> TestResult {
    let rights = support::ALL_RIGHTS;
    let daemon = Setup::with(rights, "[limits]\nrequests-per-connection = 1")?.start()?;
    daemon.ftc_tls().ok(["ls"])?; // The server is known from here on.
    std::fs::create_dir(daemon.path("tree"))?;
    for number in 0..20 {
        std::fs::write(daemon.path("tree").join(format!("f{number}")), noise(4096, number))?;
    }
    let path = format!("{}/", text(&daemon.path("tree"))?);
    daemon.ftc_tls().ok(["put", "-r", &path, ":tree/"])?;
    assert_eq!(std::fs::read_dir(daemon.stored("tree"))?.count(), 20);
    Ok(())
}

/// A-01: what a client with an unknown key sends without waiting is not looked at, and it learns the reason, once,
/// however much it has sent.
#[test]
fn a_refused_client_that_did_not_wait_learns_why() -> TestResult {
    let daemon = Daemon::start()?;
    daemon.ftc_tls().ok(["ls"])?;
    make_key(&daemon.path("stranger"), "ed25519", "")?;
    std::fs::create_dir(daemon.path("tree"))?;
    for number in 0..20 {
        std::fs::write(daemon.path("tree").join(format!("f{number}")), noise(60_000, number))?;
    }
    std::fs::write(daemon.path("large"), noise(3_000_000, 1))?;
    for words in [
        ["put", "-r", &format!("{}/", text(&daemon.path("tree"))?), ":tree/"].as_slice(),
        &["put", text(&daemon.path("large"))?, ":large"],
        &["get", ":x", text(&daemon.path("back"))?],
        &["ls"],
    ] {
        let ran = daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("stranger")).run(words)?;
        assert_eq!(ran.code, Some(4), "{words:?}: {}", ran.err);
        assert_eq!(ran.err.matches("is not known here").count(), 1, "{words:?}: {}", ran.err);
        assert_eq!(
            ran.err.matches("ask the administrator to add this line").count(),
            1,
            "{}",
            ran.err
        );
    }
    assert!(!daemon.stored("tree").exists() && !daemon.stored("large").exists());
    Ok(())
}
