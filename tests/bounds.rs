//! Goal: what one user leaves waiting, or leaves behind, takes nothing that others need (R-05, R-06, R-09, X-02).
//! Method: real daemon with few descriptors; what it holds is read from `/proc`.
#![allow(clippy::disallowed_methods, reason = "tests look at the daemon from outside")]

mod support;

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use support::raw::{DATA, EOF, Raw, TRAILER, puts, receive_from, trailer};
use support::{ALL_RIGHTS, Daemon, PATIENCE, Setup, TestResult, noise, wait_until};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Descriptors of the daemon under test; at the default limits it asks for 2,180.
const DESCRIPTORS: usize = 2260;

/// How many of the daemon's descriptors are of this name.
fn holds(daemon: &Daemon, name: &str) -> Fallible<usize> {
    Ok(daemon.descriptors()?.iter().filter(|path| path.ends_with(name)).count())
}

fn with_few_descriptors(setup: Setup) -> Fallible<Daemon> {
    let mut command = Command::new("prlimit"); // Of util-linux.
    command.arg(format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}")).arg(env!("CARGO_BIN_EXE_ftd"));
    command.stdin(Stdio::null());
    setup.start_command(command, &[])
}

/// R-05, R-06: a user who asks for a thousand listings, files and digests and reads none of the answers has a few
/// open at a time; others log in, list and store, and so does he; what waits is answered in its turn.
#[test]
fn requests_that_nobody_reads_leave_descriptors_to_others() -> TestResult {
    let setup = Setup::new()?;
    setup.add_user("bob", "")?;
    let daemon = with_few_descriptors(setup)?;
    let mut running = Raw::greeted(&daemon)?;
    std::fs::create_dir_all(daemon.stored("many"))?;
    for number in 0..600 {
        File::create(daemon.stored("many").join(format!("entry-{number}")))?;
    }
    File::create(daemon.stored("large"))?.set_len(64 << 20)?;
    let content = noise(2 << 20, 1);
    let (first, second) = content.split_at(1 << 20);
    running.request(1, &json!({"verb": "put", "path": "running", "bytes": content.len()}))?;
    running.send(DATA, 1, first)?;
    wait_until("the put runs", || Ok(daemon.staged()? == 1))?;

    let list = json!({"verb": "list", "path": "many"});
    let get = json!({"verb": "get", "path": "large"});
    let mut flood = Vec::new();
    for request in [&list, &list, &list, &get] {
        let mut raw = Raw::greeted(&daemon)?;
        for id in 1..=250 {
            raw.request(id, request)?;
        }
        flood.push(raw);
    }
    wait_until(
        "some are parked",
        || Ok(holds(&daemon, "many")? + holds(&daemon, "large")? >= 140),
    )?;
    let bob = || daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("bob"));
    let (mut most, mut slowest) = (0, Duration::ZERO);
    for number in 0..10 {
        let began = Instant::now();
        bob().ok(["ls"])?;
        slowest = slowest.max(began.elapsed());
        bob().input("bob's").ok(["put", "-", &format!(":bobs-{number}")])?;
        daemon.ftc_tls().input("alice's").ok(["put", "-", &format!(":alices-{number}")])?;
        most = most.max(daemon.descriptors()?.len());
    }
    assert!(slowest < PATIENCE, "{slowest:?}");
    running.send(DATA, 1, second)?;
    running.send(EOF, 1, b"")?;
    running.send(TRAILER, 1, &trailer(&content))?;
    assert_eq!(running.expect()?.code(), "frame 8", "the put that ran is stored");
    assert!(std::fs::read(daemon.stored("running"))? == content);
    let spare = DESCRIPTORS - 1024 - 256;
    assert!(most < spare, "{most} are open, and connections may need all but {spare}");
    println!(
        "assurance: R-05 parked: 1,000 requests that nobody reads hold {most} of {DESCRIPTORS} descriptors, \
         connections included; others' slowest login and listing took {slowest:.0?}"
    );

    // Whoever reads gets all of it.
    let mut patient = flood.swap_remove(0);
    drop(flood);
    let mut ended = 0;
    while ended < 250 {
        ended += usize::from(patient.expect()?.code() == "frame 8");
    }
    wait_until("all are closed", || Ok(holds(&daemon, "many")? == 0))?;
    wait_until("all are closed", || Ok(holds(&daemon, "large")? == 0))
}

/// R-05, R-06: two users who ask for all that they can and read nothing stop no listing, get or digest of a third,
/// and no large put of his either.
#[test]
fn two_users_do_not_take_the_place_of_a_third() -> TestResult {
    let setup = Setup::new()?;
    for user in ["bob", "carol"] {
        setup.add_user(user, "")?;
    }
    let daemon = with_few_descriptors(setup)?;
    let large = noise(3 << 20, 4);
    for user in ["alice", "bob", "carol"] {
        let home = daemon.stored("").with_file_name(user);
        std::fs::create_dir_all(&home)?;
        File::create(home.join("large"))?.set_len(64 << 20)?;
    }
    let mut flood = Vec::new();
    let config = std::fs::read_to_string(daemon.path("ftd.toml"))?;
    let unix = config.lines().find(|line| line.starts_with("unix")).ok_or("no account")?;
    for user in ["alice", "bob"] {
        // The account is one user's after the other; what is under way stays whose it was.
        let own = format!("name = {user:?}\n");
        let text = config.replace(&format!("{unix}\n"), "");
        let text = text.replace(&own, &format!("{own}{unix}\n"));
        std::fs::write(daemon.path("ftd.toml"), text)?;
        daemon.signal(Signal::SIGHUP)?;
        daemon.wait_for_log_times("configuration reloaded", flood.len() / 20 + 1)?;
        let mut raw = Raw::greeted(&daemon)?;
        for id in 1..=200 {
            raw.request(id, &json!({"verb": "get", "path": "large"}))?;
        }
        flood.push(raw);
        for number in 0..20 {
            let mut raw = Raw::greeted(&daemon)?;
            for id in 1..=8 {
                raw.request(id, &json!({"verb": "put", "path": format!("stalled-{number}-{id}")}))?;
                raw.send(DATA, id, b"and then nothing")?;
            }
            flood.push(raw);
        }
    }
    wait_until("they hold what they can", || {
        Ok(holds(&daemon, "large")? >= 128 && daemon.staged()? >= 128)
    })?;
    let began = Instant::now();
    let carol = || daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("carol"));
    std::fs::write(daemon.path("content"), &large)?;
    carol().ok(["ls"])?;
    carol().ok(["ls", "--sha256", ":large"])?;
    carol().ok(["put", daemon.path("content").to_str().ok_or("a path")?, ":mine"])?;
    carol().ok(["get", ":mine", daemon.path("back").to_str().ok_or("a path")?])?;
    assert!(std::fs::read(daemon.path("back"))? == large);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    Ok(())
}

/// R-05: a user who lists, fetches and puts trees from three clients at once has nothing refused with few descriptors,
/// while another one holds what he can.
#[test]
fn honest_users_who_do_much_at_once_are_served() -> TestResult {
    let setup = Setup::new()?;
    setup.add_user("bob", "")?;
    let daemon = with_few_descriptors(setup)?;
    let content = noise(70_000, 7);
    for user in ["alice", "bob"] {
        let home = daemon.stored("").with_file_name(user);
        for number in 0..400_u32 {
            let directory = home.join(format!("tree/{}", number / 20));
            std::fs::create_dir_all(&directory)?;
            let bytes = if number % 2 == 0 { 10 } else { 70_000 };
            std::fs::write(directory.join(number.to_string()), &content[..bytes])?;
        }
    }
    File::create(daemon.stored("large"))?.set_len(64 << 20)?;
    let mut hoards = Raw::greeted(&daemon)?;
    for id in 1..=200 {
        hoards.request(id, &json!({"verb": "get", "path": "large"}))?;
    }
    wait_until("it holds what it can", || Ok(holds(&daemon, "large")? >= 100))?;
    let work = |number: usize| -> Result<(), String> {
        let told = |error: Box<dyn std::error::Error>| error.to_string();
        let bob = || daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("bob"));
        let to = daemon.path(&format!("to-{number}"));
        std::fs::create_dir(&to).map_err(|error| error.to_string())?;
        let to = to.to_str().ok_or("a path")?;
        bob().ok(["ls", "-R", ":tree"]).map_err(told)?;
        bob().ok(["get", "-r", "-j", "4", ":tree", to]).map_err(told)?;
        bob().ok(["put", "-r", "-j", "4", to, &format!(":back-{number}")]).map_err(told)?;
        Ok(())
    };
    let work = &work;
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..3).map(|number| scope.spawn(move || work(number))).collect();
        all.into_iter().try_for_each(|one| one.join().unwrap_or(Err("panicked".to_owned())))
    })?;
    drop(hoards);
    daemon.ftc_tls().ok([
        "get",
        "-r",
        "-j",
        "16",
        ":tree",
        daemon.path("own").to_str().ok_or("a path")?,
    ])?;
    Ok(())
}

/// R-05: uploads that wait for their content have a bound, too; one more is told so, and what is small and whole
/// goes on.
#[test]
fn uploads_that_stall_leave_descriptors_to_others() -> TestResult {
    let setup = Setup::new()?;
    setup.add_user("bob", "")?;
    let daemon = with_few_descriptors(setup)?;
    let mut flood = Vec::new();
    for number in 0..40 {
        let mut raw = Raw::greeted(&daemon)?;
        for id in 1..=8 {
            raw.request(id, &json!({"verb": "put", "path": format!("stalled-{number}-{id}")}))?;
            raw.send(DATA, id, b"and then nothing")?;
        }
        flood.push(raw);
    }
    let refused = flood.last_mut().ok_or("none")?.expect()?;
    assert_eq!(refused.code(), "BUSY");
    assert!(refused.json()["message"].to_string().contains("uploads are under way"));
    let open = daemon.staged()?;
    assert!((100..160).contains(&open), "{open} of 320 are open");
    daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("bob")).input("x").ok(["put", "-", ":x"])?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.bytes(&puts(&[("small".to_owned(), b"small".to_vec())]))?;
    assert_eq!(raw.expect()?.code(), "frame 8");
    drop(flood);
    wait_until("all are gone", || Ok(daemon.staged()? == 0))
}

/// R-05, R-09, X-02: who leaves in the middle leaves no work behind: files are closed, the processor rests, and a
/// stop has nobody to wait for.
#[test]
fn who_leaves_leaves_no_work_behind() -> TestResult {
    let mut daemon = Setup::with(ALL_RIGHTS, "[limits]\ndrain-timeout = \"1h\"")?.start()?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.code_of(1, &json!({"verb": "stat"}))?;
    File::create(daemon.stored("huge"))?.set_len(1 << 40)?;
    for id in 2..42 {
        raw.request(id, &json!({"verb": "digest", "path": "huge", "reread": true}))?;
    }
    wait_until("they are worked on", || Ok(holds(&daemon, "huge")? == 40))?;
    let began = Instant::now();
    drop(raw);
    wait_until("the files are closed", || Ok(holds(&daemon, "huge")? == 0))?;
    let closed = began.elapsed();
    daemon.wait_for_log("digest given up")?;
    let spent = || -> Fallible<u64> {
        let mut stat = String::new();
        File::open(format!("/proc/{}/stat", daemon.pid()))?.read_to_string(&mut stat)?;
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let before = spent()?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(500) {
        support::pause();
    }
    let ticks = spent()? - before;
    assert!(ticks < 10, "{ticks} of 50 ticks of a processor");
    let began = Instant::now();
    daemon.signal(Signal::SIGTERM)?;
    assert_eq!(daemon.wait()?, Some(0));
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    println!(
        "assurance: R-09 left: 40 digests of a terabyte end {closed:.1?} after their client, a stop \
         {:.1?} after its signal",
        began.elapsed()
    );
    Ok(())
}

/// A peer that is slower than its server, which so has to wait for it to the end.
struct Slow<'s>(&'s mut UnixStream);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(Duration::from_millis(1));
        let most = buffer.len().min(64 * 1024);
        self.0.read(&mut buffer[..most])
    }
}

/// B5: what a connection took to send a file goes back once that is sent, also when its end had to wait for a reader.
#[test]
fn connections_that_had_a_file_and_are_idle_are_small() -> TestResult {
    const CONNECTIONS: usize = 60;
    const BYTES: usize = (1 << 20) + 200 * 1024; // Its end goes out with its last part.
    let daemon = Daemon::start()?;
    std::fs::create_dir_all(daemon.stored(""))?;
    std::fs::write(daemon.stored("f"), noise(BYTES, 7))?;
    let connect = |_| Raw::greeted(&daemon);
    let mut all = (0..CONNECTIONS).map(connect).collect::<Fallible<Vec<_>>>()?;
    // The pool, the shelf and the allocator keep what one of them needs.
    let fetch = |raw: &mut Raw, id| -> TestResult {
        raw.request(id, &json!({"verb": "get", "path": "f"}))?;
        while receive_from(&mut Slow(&mut raw.0))?.ok_or("closed")?.kind != TRAILER {}
        Ok(())
    };
    for raw in &mut all[..4] {
        fetch(raw, 1)?;
    }
    let before = daemon.memory("VmRSS")?;
    for raw in &mut all {
        fetch(raw, 2)?;
    }
    let kept =
        || Ok::<_, Box<dyn std::error::Error>>(daemon.memory("VmRSS")?.saturating_sub(before));
    let most = CONNECTIONS as u64 * 64; // KiB; half a megabyte is what one takes at work.
    wait_until("the memory is given back", || Ok(kept()? < most))?;
    println!("assurance: B5 after a file: {} KiB more for {CONNECTIONS} connections", kept()?);
    Ok(())
}
