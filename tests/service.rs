//! Goal: the daemon lives with a service manager as its unit promises: sockets, watchdog, credentials.
//! Method: real daemon, with sockets and a notify socket of the test's own in place of systemd's.
#![allow(clippy::disallowed_methods, reason = "tests set files up from outside")]

mod support;

use std::ffi::OsStr;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;

use nix::sys::signal::Signal;
use support::{PATIENCE, Setup, TestResult, make_key};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A place to be told things, as systemd's.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &std::path::Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Waits for a message with `what` in it.
    fn hears(&self, what: &str) -> Result<String> {
        let mut heard = String::new();
        loop {
            let mut buffer = [0; 4096];
            let bytes = support::uninterrupted(|| self.0.recv(&mut buffer))
                .map_err(|error| format!("{what}: {error} after {heard}"))?;
            let message = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
            if message.contains(what) {
                return Ok(message);
            }
            heard += &message;
        }
    }
}

/// A configuration that names the very sockets that are handed over.
fn with_sockets(setup: &Setup) -> Result<(TcpListener, UnixListener)> {
    let tcp = TcpListener::bind("127.0.0.1:0")?;
    let unix = UnixListener::bind(setup.path("sock"))?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.write_config(&text.replace("127.0.0.1:0", &tcp.local_addr()?.to_string()))?;
    Ok((tcp, unix))
}

/// The manager keeps the sockets: who comes between two daemons waits, and is served by the second.
#[test]
fn a_restart_refuses_nobody() -> TestResult {
    let setup = Setup::new()?;
    let (tcp, unix) = with_sockets(&setup)?;
    let mut daemon =
        setup.start_with_sockets(tcp.try_clone()?.into(), unix.try_clone()?.into(), &[])?;
    daemon.ftc_unix().input("one").ok(["put", "-", ":one"])?;
    daemon.ftc_tls().ok(["ls"])?;
    daemon.signal(Signal::SIGTERM)?;
    assert_eq!(daemon.wait()?, Some(0));
    let _waits = TcpStream::connect(tcp.local_addr()?)?;
    let mut waits = UnixStream::connect(daemon.path("sock"))?;
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
    let daemon = Setup { dir }.start_with_sockets(tcp.into(), unix.into(), &[])?;
    waits.set_read_timeout(Some(PATIENCE))?;
    assert!(waits.read(&mut [0; 64])? > 0, "the server speaks first, to whoever waited too");
    assert_eq!(daemon.ftc_tls().ok(["get", ":one", "-"])?.out, b"one");
    Ok(())
}

/// A socket that nobody asked for is closed, whoever handed it over; one that is missing is opened, and a
/// copy left with the manager.
#[test]
fn listen_decides_and_what_was_opened_anew_is_kept() -> TestResult {
    let setup = Setup::new()?;
    let manager = Manager::at(&setup.path("notify"))?;
    let other = TcpListener::bind("127.0.0.1:0")?;
    let address = other.local_addr()?;
    let nothing = std::fs::File::open("/dev/null")?;
    let notify = setup.path("notify");
    let env = [
        ("NOTIFY_SOCKET", notify.as_os_str()),
        ("LISTEN_FDNAMES", OsStr::new("kept-other:strange")),
    ];
    let name = format!("FDNAME=kept-unix_{}", setup.path("sock").display());
    let daemon = setup.start_with_sockets(other.into(), nothing.into(), &env)?;
    let kept = manager.hears("FDSTORE=1")?;
    assert!(kept.contains(&name), "{kept}");
    assert!(manager.hears("FDSTOREREMOVE=1")?.contains("FDNAME=kept-other"));
    assert!(TcpStream::connect(address).is_err(), "it is closed");
    assert!(daemon.wait_for_log("cannot use a descriptor")?.contains("strange"));
    daemon.ftc_unix().ok(["ls"])?;
    Ok(())
}

/// Goal: the watchdog is fed, by a daemon that lives. That one which hangs is not, see `daemon::watchdog`.
#[test]
fn a_daemon_that_lives_feeds_the_watchdog_until_its_end() -> TestResult {
    let setup = Setup::new()?;
    let manager = Manager::at(&setup.path("notify"))?;
    let notify = setup.path("notify");
    let env = [("NOTIFY_SOCKET", notify.as_os_str()), ("WATCHDOG_USEC", OsStr::new("300000"))];
    let mut daemon = setup.start_with(&env)?;
    manager.hears("READY=1")?;
    for _ in 0..5 {
        manager.hears("WATCHDOG=1")?;
    }
    daemon.signal(Signal::SIGTERM)?;
    manager.hears("STOPPING=1")?;
    assert_eq!(daemon.wait()?, Some(0));
    Ok(())
}

/// A credential is the host key, whatever its mode looks like; without one the file is.
#[test]
fn a_credential_takes_the_place_of_the_host_key() -> TestResult {
    let setup = Setup::new()?;
    let credentials = setup.path("credentials");
    std::fs::create_dir(&credentials)?;
    let fingerprint = || -> Result<String> {
        let ran = Command::new(env!("CARGO_BIN_EXE_ftd"))
            .args(["fingerprint", "--config"])
            .arg(setup.path("ftd.toml"))
            .env("CREDENTIALS_DIRECTORY", &credentials)
            .output()?;
        assert!(ran.status.success(), "{ran:?}");
        Ok(String::from_utf8(ran.stdout)?)
    };
    let own = fingerprint()?;
    make_key(&credentials.join("host-key"), "ed25519", "")?;
    std::fs::set_permissions(credentials.join("host-key"), std::fs::Permissions::from_mode(0o440))?;
    let public = std::fs::read_to_string(credentials.join("host-key.pub"))?;
    let given = fingerprint()?;
    assert_ne!(own, given);
    assert_eq!(given.split_whitespace().nth(1), public.split_whitespace().nth(1));
    Ok(())
}
