//! Goal: one user's load, or his disappearance, costs the others nothing and is over in time (R-07, R-09,
//! R-10, R-11, R-13, C-08). Method: real daemon; what it holds is read from `/proc`; a network of the test's own.
#![allow(clippy::disallowed_methods, reason = "tests look at the daemon from outside")]

mod support;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use support::raw::{
    ABORT, ANSWER, CANCEL, DATA, ENTRIES, EOF, ERROR, REQUEST, Raw, TRAILER, frame, put, trailer,
};
use support::{ALL_RIGHTS, Daemon, PATIENCE, Setup, TestResult, noise, wait_until};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// The slowest of some logins and listings of bob's, all of which succeed.
fn slowest_of_bob(daemon: &Daemon, count: usize) -> Fallible<Duration> {
    let mut slowest = Duration::ZERO;
    for _ in 0..count {
        let began = Instant::now();
        daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("bob")).ok(["ls"])?;
        slowest = slowest.max(began.elapsed());
    }
    Ok(slowest)
}

/// How many of the daemon's descriptors are of this name.
fn holds(daemon: &Daemon, name: &str) -> Fallible<usize> {
    Ok(daemon.descriptors()?.iter().filter(|path| path.ends_with(name)).count())
}

/// R-07: who asks for a file and does not read is closed, and the file with him.
#[test]
fn a_get_that_nobody_reads_ends() -> TestResult {
    let daemon = Setup::with(ALL_RIGHTS, "[limits]\nstall-timeout = \"1s\"")?.start()?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.code_of(1, &json!({"verb": "stat"}))?;
    File::create(daemon.stored("big"))?.set_len(64 << 20)?;
    raw.request(2, &json!({"verb": "get", "path": "big"}))?;
    wait_until("the get runs", || Ok(holds(&daemon, "big")? == 1))?;
    wait_until("the get is over", || Ok(holds(&daemon, "big")? == 0))?;
    daemon.ftc_unix().ok(["ls"])?;
    let got = support::read_all(&raw.0).len();
    assert!(got < 64 << 20, "{got} bytes went to somebody who did not read");
    println!(
        "assurance: R-07 get: a reader that stopped was closed, {} KiB of 64 MiB sent",
        got >> 10
    );
    Ok(())
}

/// A daemon in a network of its own, which has only a loopback, and can lose it.
fn in_own_network(setup: Setup) -> Fallible<Option<Daemon>> {
    let own = ["--net", "--map-root-user"];
    let own = if nix::unistd::geteuid().is_root() { &own[..1] } else { &own[..] };
    let can = Command::new("unshare").args(own).args(["ip", "link", "set", "lo", "up"]).output();
    if !can.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: needs unshare, ip and the right to a network of one's own: {can:?}");
        return Ok(None);
    }
    let mut command = Command::new("unshare");
    command.args(own).args(["sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_ftd")).stdin(Stdio::null());
    setup.start_command(command, &[]).map(Some)
}

/// `program` in the daemon's network.
fn beside(daemon: &Daemon, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &daemon.pid().to_string(), "--net"]);
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--preserve-credentials"]);
    }
    command.args(["--", program]);
    command
}

/// R-09: a peer that vanishes without a word, in a put and in a get, is given up in time, and what it held is
/// given back.
#[test]
fn a_peer_that_vanishes_is_given_up() -> TestResult {
    let setup = Setup::with(ALL_RIGHTS, "[limits]\nstall-timeout = \"6s\"")?;
    setup.add_user("bob", "")?;
    let Some(daemon) = in_own_network(setup)? else { return Ok(()) };
    daemon.ftc_unix().ok(["ls"])?;
    let idle = daemon.descriptors()?.len();
    File::create(daemon.stored("big"))?.set_len(256 << 20)?;
    let ftc = |words: &[&str]| {
        beside(&daemon, env!("CARGO_BIN_EXE_ftc"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", daemon.dir.path())
            .env("FTC_IDENTITY", daemon.path("key"))
            .env("FTC_KNOWN_HOSTS", daemon.path("known_hosts"))
            .env("FTC_SERVER", &daemon.address)
            .env("FTC_ACCEPT_NEW", "1")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
    };
    let mut put = ftc(&["put", "-", ":gone"])?;
    let mut pipe = put.stdin.take().ok_or("no stdin")?;
    pipe.write_all(&noise(3 << 20, 1))?;
    let mut get = ftc(&["get", ":big", "-"])?;
    get.stdout.as_mut().ok_or("no stdout")?.read_exact(&mut [0; 1000])?;
    wait_until("both run", || Ok(daemon.staged()? == 1 && holds(&daemon, "big")? == 1))?;

    let cut = beside(&daemon, "ip").args(["link", "set", "lo", "down"]).output()?;
    assert!(cut.status.success(), "{cut:?}");
    let began = Instant::now();
    for mut peer in [put, get] {
        peer.kill()?;
        peer.wait()?;
    }
    wait_until("both are given up", || Ok(daemon.descriptors()?.len() <= idle))?;
    println!("assurance: R-09 vanished: a put and a get given up after {:.1?}", began.elapsed());
    daemon.assert_nothing_staged()?;
    assert!(!daemon.stored("gone").exists());
    daemon.ftc_unix().input("others").ok(["put", "-", ":others"])?;
    Ok(())
}

/// R-10: a user who stores tiny files without end comes to his quota, and others hardly notice.
#[test]
fn tiny_files_without_end_meet_the_quota_and_hold_nobody_up() -> TestResult {
    const ALLOWED: usize = 600;
    const IN_FLIGHT: u32 = 64;
    let setup = Setup::new()?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.write_config(&format!("{text}quota-files = {ALLOWED}\n"))?;
    setup.add_user("bob", "")?;
    let daemon = setup.start()?;
    daemon.ftc_unix().ok(["ls"])?;
    let (stored, refused, slowest) = std::thread::scope(|scope| {
        let bob = scope.spawn(|| slowest_of_bob(&daemon, 10).map_err(|told| told.to_string()));
        let mut raw = Raw::greeted(&daemon)?;
        let (mut sent, mut stored, mut refused) = (0, 0, 0);
        while refused < 50 || !bob.is_finished() || stored + refused < sent {
            let is_enough = refused >= 50 && bob.is_finished();
            while sent < stored + refused + IN_FLIGHT && !is_enough {
                sent += 1;
                raw.bytes(&put(sent, &json!(format!("f{sent}")), b"x"))?;
            }
            match raw.expect()?.code().as_str() {
                "frame 8" => stored += 1,
                "QUOTA" => refused += 1,
                code => return Err(code.into()),
            }
        }
        let slowest = bob.join().map_err(|_| "bob panicked")??;
        Ok::<_, Box<dyn std::error::Error>>((stored, refused, slowest))
    })?;
    println!("{stored} stored, {refused} refused, the slowest of bob's logins took {slowest:?}");
    assert_eq!(std::fs::read_dir(daemon.stored("."))?.count(), stored as usize);
    assert_eq!(stored as usize, ALLOWED, "{refused} refused");
    assert!(slowest < PATIENCE, "{slowest:?}");
    daemon.assert_nothing_staged()
}

/// R-11: a directory of 200,000 entries is streamed in a few buffers, and a cancel ends that at once.
#[test]
fn a_huge_directory_is_listed_in_little_memory_and_can_be_cancelled() -> TestResult {
    const ENTRIES_MADE: usize = 200_000;
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.code_of(1, &json!({"verb": "list"}))?;
    let huge = daemon.stored("huge");
    std::fs::create_dir(&huge)?;
    // Names of one file each where that is cheaper: a file system has a limit to those, of 65,000 or so.
    let mut original = huge.join("entry-0");
    File::create(&original)?;
    for number in 1..ENTRIES_MADE {
        let name = huge.join(format!("entry-{number}"));
        if number % 30_000 == 0 || std::fs::hard_link(&original, &name).is_err() {
            File::create(&name)?;
            original = name;
        }
    }
    let idle = daemon.descriptors()?.len();
    std::fs::write(format!("/proc/{}/clear_refs", daemon.pid()), "5")?; // The peak begins here.
    let before = daemon.memory("VmRSS")?;

    // Half-way, and the peer has not read: nothing piles up.
    raw.request(2, &json!({"verb": "list", "path": "huge"}))?;
    assert_eq!(raw.expect()?.kind, ENTRIES);
    assert!(daemon.descriptors()?.len() > idle, "it is being read");
    raw.send(CANCEL, 2, b"")?;
    let mut more = 0;
    let end = loop {
        let frame = raw.expect()?;
        if frame.kind != ENTRIES {
            break frame;
        }
        more += frame.json()["entries"].as_array().map_or(0, Vec::len);
    };
    assert_eq!(end.kind, ABORT, "{}", end.json());
    assert!(more < ENTRIES_MADE / 2, "{more} entries came after the cancel");
    wait_until("the directory is closed", || Ok(daemon.descriptors()?.len() <= idle))?;

    raw.request(3, &json!({"verb": "list", "path": "huge"}))?;
    let mut count = 0;
    let end = loop {
        let frame = raw.expect()?;
        if frame.kind != ENTRIES {
            break frame;
        }
        count += frame.json()["entries"].as_array().map_or(0, Vec::len);
    };
    assert_eq!((end.kind, count), (ANSWER, ENTRIES_MADE));
    assert_eq!(end.json(), json!({"listed": {"entries": ENTRIES_MADE}}));
    let grown = daemon.memory("VmHWM")?.saturating_sub(before);
    println!("assurance: B5 listing: {grown} KiB for {count} entries; {more} come after a cancel");
    assert!(grown < 4096, "{grown} KiB for a listing");
    Ok(())
}

/// R-13: one user's fifty puts wait for a slow disk, and another's logins and listings do not.
#[test]
fn a_slow_disk_under_one_user_holds_no_other_up() -> TestResult {
    const PUTS: usize = 50;
    let setup = Setup::new()?;
    setup.add_user("bob", "")?;
    let slow = ["-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_enter=2000000"];
    let daemon = setup.start_traced(&slow)?;
    slowest_of_bob(&daemon, 1)?;
    let content = noise(2 << 20, 9);
    // Before the first put: his own logins wait for his disk, too.
    let peers = (0..PUTS).map(|_| Raw::greeted(&daemon)).collect::<Fallible<Vec<_>>>()?;
    std::thread::scope(|scope| -> TestResult {
        for (number, mut raw) in peers.into_iter().enumerate() {
            let whole = put(1, &json!(format!("f{number}")), &content);
            scope.spawn(move || raw.bytes(&whole).is_ok());
        }
        let look = || -> TestResult {
            wait_until("puts wait for the disk", || Ok(daemon.staged()? > 5))?;
            let slowest = slowest_of_bob(&daemon, 8)?;
            println!("assurance: R-13 slow disk: others' slowest login and listing {slowest:.1?}");
            assert!(daemon.staged()? > 0, "the disk is still what they wait for");
            assert!(slowest < PATIENCE, "{slowest:?}");
            Ok(())
        };
        let seen = look();
        daemon.signal(Signal::SIGKILL)?; // Or all would be waited for.
        seen
    })
}

/// Ends the daemon of which strace, its parent, is gone.
struct Orphan(nix::unistd::Pid);

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, Signal::SIGKILL);
    }
}

/// R-13: writes that hang, until they are let go: one user's hold up nobody else, and the daemon's beats go
/// on. Two users' take all threads; then the watchdog says so and beats no more, so that the service manager
/// acts; and when the disk is back, everything is finished.
#[test]
fn a_disk_that_hangs_under_one_user_holds_no_other_up_and_under_all_is_told() -> TestResult {
    const PUTS: u32 = 20;
    let setup = Setup::new()?;
    setup.add_user("bob", "")?;
    setup.add_user("carol", "")?;
    let heard = UnixDatagram::bind(setup.path("notify"))?;
    let path = setup.path("notify");
    let mut command =
        setup.traced(&["-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_enter=600000000"]);
    command.stdin(Stdio::null());
    let env = [("NOTIFY_SOCKET", path.as_os_str()), ("WATCHDOG_USEC", "3000000".as_ref())];
    let daemon = setup.start_command(command, &env)?;
    let _orphan = Orphan(daemon.pid());
    let beats = |count: usize| -> TestResult {
        heard.set_nonblocking(true)?;
        let mut room = [0; 4096];
        while heard.recv(&mut room).is_ok() {} // Those of before.
        heard.set_nonblocking(false)?;
        heard.set_read_timeout(Some(PATIENCE))?;
        let mut beats = 0;
        while beats < count {
            let bytes = support::uninterrupted(|| heard.recv(&mut room))?;
            beats += usize::from(room[..bytes].starts_with(b"WATCHDOG=1"));
        }
        Ok(())
    };
    slowest_of_bob(&daemon, 1)?;
    std::fs::write(daemon.path("root/bob/f"), "bob's")?;
    let puts = |who: &str| -> Vec<u8> {
        (1..=PUTS).flat_map(|id| put(id, &json!(format!("{who}{id}")), b"at last")).collect()
    };
    let mut alice = Raw::greeted(&daemon)?;
    alice.bytes(&puts("a"))?;
    wait_until("alice's puts hang", || Ok(daemon.staged()? >= 12))?;
    let slowest = slowest_of_bob(&daemon, 8)?;
    let bob = || daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("bob"));
    assert_eq!(bob().ok(["get", ":f", "-"])?.out, b"bob's");
    beats(2)?;

    let key = support::tls::config(&daemon.path("carol"))?;
    let tcp = support::tls::connect_from([127, 0, 0, 1], &daemon.address)?;
    let mut carol = support::tls::handshake(&key, tcp, b"")?;
    support::raw::receive_from(&mut carol)?;
    let hello = support::raw::frame(support::raw::HELLO, 0, br#"{"version":1}"#);
    carol.write_all(&[hello, puts("c")].concat())?;
    daemon.wait_for_log("no sign of life within 1s from the file threads")?;

    let strace = nix::unistd::Pid::from_raw(i32::try_from(daemon.child_id())?);
    nix::sys::signal::kill(strace, Signal::SIGKILL)?;
    for _ in 0..PUTS {
        assert_eq!(alice.expect()?.kind, ANSWER);
        let answer = support::raw::receive_from(&mut carol)?.ok_or("carol is cut off")?;
        assert_eq!(answer.kind, ANSWER, "{}", answer.json());
    }
    beats(1)?;
    println!(
        "assurance: R-13 hung disk: others' slowest login and listing {slowest:.1?} while {PUTS} writes \
         of one user hang; the watchdog tells when all threads do"
    );
    daemon.assert_nothing_staged()
}

/// R-13, C-08: a reload beside a change that hangs. Others come in, list and make names as ever, also whom that
/// reload gives a quota; a stop is heard; and what hung is finished when the disk is back. Method: whatever touches
/// one directory of alice's hangs; one of her changes counts it, on its way to a home in hers.
#[test]
fn a_reload_beside_a_change_that_hangs_holds_nobody_up() -> TestResult {
    let gone = json!({"verb": "remove", "path": "d/f"});
    let new = json!({"verb": "mkdir", "path": "d/new"});
    for (call, request, full) in [
        ("unlinkat", &gone, false),
        ("fsync", &gone, false),
        ("mkdirat", &new, false),
        // It is refused, and taken back.
        ("unlinkat", &new, true),
        ("renameat2", &json!({"verb": "rename", "path": "d/f", "to": "d/g"}), false),
        ("getdents64", &json!({"verb": "rename", "path": "d", "to": "in/d"}), false),
    ] {
        let quota = if full { "\nquota-files = 3" } else { "" };
        let setup = Setup::with(&format!("{ALL_RIGHTS}{quota}"), "")?;
        setup.add_user("bob", "")?;
        setup.add_user("carol", "home = \"alice/in\"\nquota = \"1MiB\"")?;
        std::fs::create_dir_all(setup.path("root/alice/in"))?;
        std::fs::create_dir(setup.path("root/alice/d"))?;
        std::fs::write(setup.path("root/alice/d/f"), "f")?;
        let (place, trace) = (setup.path("root/alice/d"), format!("trace={call}"));
        let inject = format!("inject={call}:delay_enter=600000000");
        let place = place.to_str().ok_or("no UTF-8")?;
        let daemon = setup.start_traced(&["-P", place, "-e", &trace, "-e", &inject])?;
        let _orphan = Orphan(daemon.pid());
        slowest_of_bob(&daemon, 1)?;
        let mut alice = Raw::greeted(&daemon)?;
        alice.request(1, request)?;
        let hangs = || Ok(std::fs::read_to_string(daemon.path("trace"))?.contains(call));
        wait_until("alice's change hangs", hangs)?;

        let text = std::fs::read_to_string(daemon.path("ftd.toml"))?;
        let text = text.replace("name = \"bob\"", "name = \"bob\"\nquota = \"1MiB\"");
        std::fs::write(daemon.path("ftd.toml"), text)?;
        daemon.signal(Signal::SIGHUP)?;
        daemon.wait_for_log("configuration reloaded").map_err(|told| format!("{call}: {told}"))?;
        let began = Instant::now();
        daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("bob")).ok(["mkdir", ":d"])?;
        let slowest = slowest_of_bob(&daemon, 3)?.max(began.elapsed());
        assert!(slowest < PATIENCE, "{call}: {slowest:?}");
        daemon.signal(Signal::SIGTERM)?;
        daemon.wait_for_log("draining")?;
        println!("assurance: R-13 reload: others' slowest {slowest:.1?} beside {call} that hangs");

        let strace = nix::unistd::Pid::from_raw(i32::try_from(daemon.child_id())?);
        nix::sys::signal::kill(strace, Signal::SIGKILL)?;
        assert_eq!(alice.expect()?.kind, if full { ERROR } else { ANSWER }, "{call}");
    }
    Ok(())
}

/// As little memory for content as there can be: of one user eight buffers.
const LITTLE: &str = "[limits]\nbuffer-memory = \"8MiB\"";

/// B5: uploads that wait for memory hold none that others wait for. Method: two connections that together
/// want more than there is, one byte for each of many uploads, and want it in turns.
#[test]
fn uploads_that_wait_for_memory_hold_none() -> TestResult {
    let daemon = Setup::with(ALL_RIGHTS, LITTLE)?.start()?;
    let mut clients = [Raw::greeted(&daemon)?, Raw::greeted(&daemon)?];
    for round in 0..3 {
        let ids = round * 9 + 1..round * 9 + 9;
        for (who, client) in clients.iter_mut().enumerate() {
            for id in ids.clone() {
                client.request(id, &json!({"verb": "put", "path": format!("{who}-{id}")}))?;
            }
        }
        let data = |ids: std::ops::Range<u32>| -> Vec<u8> {
            ids.flat_map(|id| frame(DATA, id, b"x")).collect()
        };
        for client in &mut clients {
            client.bytes(&data(ids.start..ids.start + 4))?;
        }
        for client in &mut clients {
            // Its answer says that what came before is in its buffers.
            assert_eq!(client.code_of(ids.end, &json!({"verb": "stat"}))?, "frame 8");
        }
        for client in &mut clients {
            client.bytes(&data(ids.start + 4..ids.end))?;
        }
        for client in &mut clients {
            for id in ids.clone() {
                client
                    .bytes(&[frame(EOF, id, b""), frame(TRAILER, id, &trailer(b"x"))].concat())?;
            }
        }
        for client in &mut clients {
            for _ in ids.clone() {
                assert_eq!(client.expect()?.kind, ANSWER);
            }
        }
    }
    daemon.assert_nothing_staged()
}

/// B5: gets that go on with small files hold no memory while they wait for more. Method: as many as take all
/// of it, of files without a kept digest, which nobody reads at first.
#[test]
fn gets_that_wait_for_memory_hold_none() -> TestResult {
    let daemon = Setup::with(ALL_RIGHTS, LITTLE)?.start()?;
    let mut raw = Raw::greeted(&daemon)?;
    let content = noise(64 << 10, 5);
    let mut requests = Vec::new();
    for number in 0..64_u32 {
        let path = format!("f{number}");
        std::fs::write(daemon.stored(&path), &content)?;
        raw.request(number + 1, &json!({"verb": "get", "path": path}))?;
        let version = raw.expect()?.json()["file"]["version"].clone();
        while raw.expect()?.kind != TRAILER {}
        let again = json!({"verb": "get", "path": path, "offset": 1, "version": version});
        requests.extend(frame(REQUEST, number + 100, again.to_string().as_bytes()));
    }
    raw.bytes(&requests)?;
    let mut ended = 0;
    while ended < 64 {
        let frame = raw.expect()?;
        assert_ne!(frame.kind, ERROR, "{}", frame.code());
        ended += usize::from(frame.kind == TRAILER);
    }
    Ok(())
}
