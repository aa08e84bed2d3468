//! Goal: strangers lock nobody out (B4, B5, B6; ). Method: real sockets from
//! other loopback addresses, many of them, while a user logs in from his own.
#![allow(clippy::disallowed_methods, reason = "tests look at the daemon from outside")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use support::raw::{CANCEL, DATA, EOF, Raw, TRAILER, frame, put as raw_put, trailer};
use support::tls::{config, connect_from, handshake};
use support::{ALL_RIGHTS, Daemon, PATIENCE, Setup, TestResult, make_key, noise, race, wait_until};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// The start of a handshake that never goes on.
const HALF_A_HELLO: &[u8] = &[22, 3, 1, 1, 0, 1, 0, 0];

/// Holds sockets open from some sources, silent or in the middle of a hello, and opens each again as
/// soon as it is closed; until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    opened: Arc<AtomicUsize>,
}

impl Flood {
    fn start(daemon: &Daemon, sockets: usize, source: fn(usize) -> [u8; 4]) -> Fallible<Self> {
        let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let address = daemon.address.clone();
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&opened));
        let run = move || {
            let open = |number: usize| -> Option<TcpStream> {
                let mut stream = connect_from(source(number), &address).ok()?;
                if number.is_multiple_of(2) {
                    stream.write_all(HALF_A_HELLO).ok()?;
                }
                stream.set_nonblocking(true).ok()?;
                counted.fetch_add(1, Ordering::SeqCst);
                Some(stream)
            };
            let mut held: Vec<Option<TcpStream>> = (0..sockets).map(open).collect();
            while !stopped.load(Ordering::SeqCst) {
                for (number, slot) in held.iter_mut().enumerate() {
                    let is_open = slot.as_mut().is_some_and(|stream| {
                        let read = stream.read(&mut [0; 64]);
                        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
                    });
                    if !is_open {
                        *slot = open(number);
                    }
                }
            }
        };
        let threads = vec![std::thread::spawn(run)];
        let flood = Self { stop, threads, opened };
        let deadline = Instant::now() + PATIENCE;
        while flood.opened.load(Ordering::SeqCst) < sockets {
            if Instant::now() > deadline {
                return Err("the flood did not come up".into());
            }
            support::pause();
        }
        Ok(flood)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// How many of so many logins succeed, and the slowest.
fn logins(daemon: &Daemon, count: usize) -> Fallible<(usize, Duration)> {
    logins_within(PATIENCE, daemon, count)
}

/// The same, of which each has so long.
fn logins_within(patience: Duration, daemon: &Daemon, count: usize) -> Fallible<(usize, Duration)> {
    let (mut good, mut slowest) = (0, Duration::ZERO);
    for _ in 0..count {
        let began = Instant::now();
        let ran = daemon.ftc_tls().run(["ls"])?;
        let took = began.elapsed();
        slowest = slowest.max(took);
        good += usize::from(ran.code == Some(0) && took < patience);
    }
    Ok((good, slowest))
}

/// What a whole handshake with this key is answered with; nothing if it is not.
fn said(daemon: &Daemon, key: &Arc<rustls::ClientConfig>, source: [u8; 4]) -> String {
    let frame = connect_from(source, &daemon.address)
        .and_then(|tcp| handshake(key, tcp, b""))
        .and_then(|mut tls| support::raw::receive_from(&mut tls));
    frame.ok().flatten().map(|frame| frame.code()).unwrap_or_default()
}

fn quiet() -> Fallible<Setup> {
    Setup::with(ALL_RIGHTS, "[limits]\nhandshake-timeout = \"5s\"\npenalties = false")
}

/// B4: one address that holds 500 sockets and opens them again at will.
#[test]
fn a_flood_from_one_address_locks_nobody_out() -> TestResult {
    let daemon = quiet()?.start()?;
    let flood = Flood::start(&daemon, 500, |_| [127, 0, 0, 2])?;
    let (good, slowest) = logins(&daemon, 20)?;
    let opened = flood.opened.load(Ordering::SeqCst);
    println!("assurance: B4 everyday: {good} of 20 logins beside 500 sockets of one address");
    assert_eq!(good, 20, "slowest {slowest:?}, {opened} opened");
    assert!(opened > 600, "the flood was one: {opened}");
    Ok(())
}

/// A put of 512 MiB, which gives its rate in MiB a second.
fn big_put(daemon: &Daemon) -> Fallible<impl Fn() -> Fallible<f64> + '_> {
    const MIB: u16 = 512;
    std::fs::write(daemon.path("big"), noise(usize::from(MIB) << 20, 6))?;
    Ok(|| {
        let began = Instant::now();
        daemon.ftc_tls().ok(["put", "big", ":"])?;
        Ok(f64::from(MIB) / began.elapsed().as_secs_f64())
    })
}

/// B4 to the letter: 2,000 sockets, 200 logins of which 99 in 100 take a second at most, and a transfer beside
/// them.
#[ignore = "needs a quiet machine; run with: make flood-test FLOODS=--include-ignored"]
#[test]
fn two_thousand_sockets_of_one_address_cost_others_little() -> TestResult {
    let daemon = quiet()?.start()?;
    let put = big_put(&daemon)?;
    put()?;
    let alone = put()?;
    let _flood = Flood::start(&daemon, 2_000, |_| [127, 0, 0, 2])?;
    let (good, slowest) = logins_within(Duration::from_secs(1), &daemon, 200)?;
    let beside = put()?;
    println!(
        "assurance: B4 flood: {good} of 200 logins within 1 s beside 2,000 sockets of one address, the slowest \
         {slowest:.0?}; a transfer keeps {:.0} % of {alone:.0} MiB/s",
        100.0 * beside / alone
    );
    assert!(good >= 198, "{good} of 200 logins within a second, slowest {slowest:?}");
    assert!(beside >= 0.8 * alone, "{alone:.0} MiB/s alone, {beside:.0} beside");
    Ok(())
}

/// the same from 200 addresses.
#[test]
fn a_flood_from_many_addresses_leaves_nine_of_ten_logins() -> TestResult {
    let daemon = quiet()?.start()?;
    let source = |number: usize| [127, 0, 1, u8::try_from(number % 200).unwrap_or(0) + 1];
    let _flood = Flood::start(&daemon, 500, source)?;
    let (good, slowest) = logins(&daemon, 20)?;
    println!("assurance: B4 R-02: {good} of 20 logins beside 500 sockets of 200 addresses");
    assert!(good >= 18, "{good} of 20, slowest {slowest:?}");
    Ok(())
}

/// a flood that goes on is not even listened to.
#[test]
fn a_flood_that_goes_on_is_kept_out() -> TestResult {
    let daemon = Daemon::start()?;
    let _flood = Flood::start(&daemon, 300, |_| [127, 0, 0, 2])?;
    daemon.wait_for_log("penalised for")?;
    let (good, slowest) = logins(&daemon, 5)?;
    assert_eq!(good, 5, "slowest {slowest:?}");
    Ok(())
}

/// full handshakes as fast as they go, with a key that is not known.
#[test]
fn handshakes_without_end_hold_up_neither_logins_nor_a_transfer() -> TestResult {
    let daemon = quiet()?.start()?;
    make_key(&daemon.path("stranger"), "ed25519", "")?;
    let stranger = config(&daemon.path("stranger"))?;
    let content = noise(32 << 20, 6);
    std::fs::write(daemon.path("big"), &content)?;
    let refused = AtomicUsize::new(0);
    let shake = || {
        let is_refusal = said(&daemon, &stranger, [127, 0, 0, 2]) == "AUTH";
        refused.fetch_add(usize::from(is_refusal), Ordering::SeqCst);
    };
    let flood = || {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20).for_each(|_| shake()));
            }
        });
    };
    race(flood, || {
        wait_until("the flood runs", || Ok(refused.load(Ordering::SeqCst) > 50))?;
        let (began, before) = (Instant::now(), refused.load(Ordering::SeqCst));
        let (good, slowest) = logins(&daemon, 10)?;
        assert_eq!(good, 10, "slowest {slowest:?}");
        daemon.ftc_tls().ok(["put", "big", ":"])?;
        wait_until("the flood was one", || {
            daemon.ftc_tls().ok(["ls"])?;
            Ok(refused.load(Ordering::SeqCst) > 200)
        })?;
        let during = refused.load(Ordering::SeqCst);
        let rate = f64::from(u32::try_from(during - before)?) / began.elapsed().as_secs_f64();
        println!(
            "assurance: B4 R-04: {good} of 10 logins and a transfer beside {during} handshakes, \
             {rate:.0} a second"
        );
        Ok(())
    })?;
    assert!(std::fs::read(daemon.stored("big"))? == content);
    Ok(())
}

/// R-04 to the letter: 5,000 tries of one source a second, as a daemon meets them that penalises. The flood runs
/// here, too, so that without penalties it is the machine that is measured.
#[ignore = "needs a quiet machine; run with: make flood-test FLOODS=--include-ignored"]
#[test]
fn five_thousand_tries_a_second_cost_a_transfer_little() -> TestResult {
    const RATE: f64 = 5_000.0;
    let daemon = Daemon::start()?;
    make_key(&daemon.path("stranger"), "ed25519", "")?;
    let stranger = config(&daemon.path("stranger"))?;
    let put = big_put(&daemon)?;
    put()?;
    let alone = put()?;
    let (tries, began) = (AtomicUsize::new(0), Instant::now());
    let flood = || {
        let due = began.elapsed().as_secs_f64() * RATE;
        while f64::from(u32::try_from(tries.load(Ordering::SeqCst)).unwrap_or(u32::MAX)) < due {
            said(&daemon, &stranger, [127, 0, 0, 2]);
            tries.fetch_add(1, Ordering::SeqCst);
        }
        std::thread::yield_now();
    };
    race(flood, || {
        daemon.wait_for_log("penalised for")?;
        let (good, slowest) = logins(&daemon, 20)?;
        let beside = put()?;
        let tries = f64::from(u32::try_from(tries.load(Ordering::SeqCst))?);
        let rate = tries / began.elapsed().as_secs_f64();
        println!(
            "assurance: B4 R-04 flood: {good} of 20 logins beside {rate:.0} tries a second, the slowest \
             {slowest:.0?}; a transfer keeps {:.0} % of {alone:.0} MiB/s",
            100.0 * beside / alone
        );
        assert_eq!(good, 20, "slowest {slowest:?}");
        assert!(beside >= 0.8 * alone, "{alone:.0} MiB/s alone, {beside:.0} beside");
        Ok(())
    })
}

/// B5, F-12: strangers cannot make the daemon hold 64 KiB each: a hello has at most 32 KiB.
#[test]
fn strangers_cost_no_more_than_64_kib_each() -> TestResult {
    const STRANGERS: usize = 500;
    let limits = "[limits]\npenalties = false\nhandshake-timeout = \"60s\"\nstrangers = 500\n\
                  strangers-per-source = 500";
    let daemon = Setup::with(ALL_RIGHTS, limits)?.start()?;
    daemon.ftc_unix().ok(["ls"])?;
    let (before, idle) = (daemon.memory("VmRSS")?, daemon.descriptors()?.len());
    // The connection of a moment ago may still have had its descriptors when they were counted.
    let all_in = idle + STRANGERS - 4;
    // Two records of one hello that is never complete, and just not longer than what is waited for.
    let record = |part: &[u8]| -> Vec<u8> {
        let [high, low] = u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&[22, 3, 1, high, low][..], part].concat()
    };
    let mut hello = vec![1, 0, 0x7d, 0];
    hello.resize(31_000, 0);
    let long: Vec<u8> = hello.chunks(16_000).flat_map(record).collect();
    let mut crowd = Vec::new();
    for number in 0..STRANGERS {
        let mut stream = connect_from([127, 0, 0, 2], &daemon.address)?;
        // The last one is long.
        match number % 5 {
            0 => {}
            1 => stream.write_all(HALF_A_HELLO)?,
            _ => stream.write_all(&long)?,
        }
        crowd.push(stream);
    }
    wait_until("all are in", || Ok(daemon.descriptors()?.len() >= all_in))?;
    daemon.ftc_unix().ok(["ls"])?;
    let grown = daemon.memory("VmRSS")?.saturating_sub(before);
    let each = grown / STRANGERS as u64;
    println!("assurance: B5 strangers: {each} KiB for each of {STRANGERS}; the bar is 64 KiB");
    assert!(grown <= 64 * STRANGERS as u64, "{grown} KiB for {STRANGERS} strangers");
    assert!(daemon.descriptors()?.len() >= all_in, "they are still there");
    // F-12: whoever goes on beyond that is cut off.
    let last = crowd.last_mut().ok_or("nobody")?;
    last.write_all(&record(&[0; 8_000]))?;
    daemon.wait_for_log("connection refused: ").map(drop)
}

/// a thousand wrong keys cost their source its welcome, and nobody else's.
#[test]
fn wrong_keys_keep_their_own_source_out_and_no_other() -> TestResult {
    const TRIES: usize = 1_000;
    let daemon = Daemon::start()?;
    make_key(&daemon.path("stranger"), "ed25519", "")?;
    let (stranger, right) = (config(&daemon.path("stranger"))?, config(&daemon.path("key"))?);
    let (source, elsewhere) = ([127, 0, 0, 2], [127, 0, 0, 3]);
    let refused = (0..TRIES).filter(|_| said(&daemon, &stranger, source) == "AUTH").count();
    // An agent with seven keys is no attack; what is forgiven with time makes room for a few more.
    println!("assurance: A-12: {refused} of {TRIES} wrong keys of one source were looked at");
    assert!((8..50).contains(&refused), "{refused} were looked at");
    assert_eq!(
        said(&daemon, &right, source),
        "",
        "the source is not listened to, whatever its key"
    );
    assert_eq!(said(&daemon, &right, elsewhere), "frame 1", "others are");
    Raw::connect(&daemon)?; // And nobody is penalised on the Unix socket.
    let log = daemon.wait_for_log("penalised for")?;
    let left = log.split("penalised for ").nth(1).and_then(|rest| rest.split(' ').next());
    assert!(left.ok_or("no time")?.parse::<u64>()? <= 600, "{log}");
    // Ten lines a second may be written.
    assert!(log.lines().count() < TRIES / 2, "{} lines", log.lines().count());
    Ok(())
}

/// connections past the limits are told so, and others go on.
#[test]
fn connections_past_a_limit_are_refused_with_its_name() -> TestResult {
    let setup = Setup::with(ALL_RIGHTS, "[limits]\nconnections = 4\nconnections-per-user = 2")?;
    let daemon = setup.start()?;
    let mut first = Raw::greeted(&daemon)?;
    let second = Raw::greeted(&daemon)?;
    Raw::silent(&daemon)?.expect_closed("LIMIT")?;
    assert_eq!(first.code_of(1, &serde_json::json!({"verb": "stat"}))?, "frame 8");
    drop(second);
    let deadline = Instant::now() + PATIENCE;
    while Raw::connect(&daemon).is_err() {
        assert!(Instant::now() < deadline, "a place that is given back can be had");
    }
    // A reload changes the limit for whoever comes next.
    let text = std::fs::read_to_string(daemon.path("ftd.toml"))?;
    std::fs::write(daemon.path("ftd.toml"), text.replace("per-user = 2", "per-source = 1"))?;
    daemon.signal(nix::sys::signal::Signal::SIGHUP)?;
    daemon.wait_for_log("configuration reloaded")?;
    let _more = (Raw::connect(&daemon)?, Raw::connect(&daemon)?);
    Ok(())
}

/// R-06, B6: without descriptors the daemon neither spins nor stops: what runs goes on and is stored, and
/// logins succeed again at once.
#[test]
fn a_daemon_without_descriptors_waits_and_recovers() -> TestResult {
    without_descriptors(PATIENCE)
}

/// B6 to the letter: at once is within a second.
#[ignore = "needs a quiet machine; run with: make flood-test FLOODS=--include-ignored"]
#[test]
fn a_daemon_without_descriptors_recovers_within_a_second() -> TestResult {
    without_descriptors(Duration::from_secs(1))
}

fn without_descriptors(patience: Duration) -> TestResult {
    let setup =
        Setup::with(ALL_RIGHTS, "[limits]\npenalties = false\nhandshake-timeout = \"60s\"")?;
    let daemon = setup.start_traced(&["-e", "trace=accept4"])?;
    // Those that found somebody, or no descriptor. A call that another thread interrupts has two lines.
    let accepts = || -> Fallible<usize> {
        let trace = std::fs::read_to_string(daemon.path("trace"))?;
        let ended = |line: &&str| !line.contains("EAGAIN") && !line.contains("unfinished");
        Ok(trace.lines().filter(|line| line.contains("accept4")).filter(ended).count())
    };
    let mut session = Raw::greeted(&daemon)?;
    let content = noise(2 << 20, 6);
    let (first, second) = content.split_at(1 << 20);
    let mut running = Raw::greeted(&daemon)?;
    let put = serde_json::json!({"verb": "put", "path": "running", "bytes": content.len()});
    running.request(1, &put)?;
    running.send(DATA, 1, first)?;
    wait_until("the put runs", || Ok(daemon.staged()? == 1))?;
    let pid = daemon.pid().to_string();
    let used = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    // Fewer than the budget that was checked at the start: a few for newcomers, and those that are kept back.
    let limit = format!("--nofile={0}:{0}", used + 28);
    let set = std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(set.is_ok_and(|status| status.success()), "prlimit, of util-linux, is needed");
    let spent = || -> Fallible<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let mut crowd = Vec::new();
    for _ in 0..12 {
        crowd.push(connect_from([127, 0, 0, 2], &daemon.address)?);
    }
    daemon.wait_for_log_times("accept: ", 2)?;
    // Those for whom there is no descriptor are told so by the end of their connection.
    let last = crowd.last_mut().ok_or("nobody")?;
    last.set_read_timeout(Some(PATIENCE))?;
    assert!(matches!(last.read(&mut [0; 1]), Ok(0) | Err(_)));
    let (before, accepted, began) = (spent()?, accepts()?, Instant::now());
    while began.elapsed() < Duration::from_secs(1) {
        crowd.push(connect_from([127, 0, 0, 2], &daemon.address)?);
        // Who is in is answered at once; files need descriptors, too.
        let id = u32::try_from(crowd.len())?;
        assert_eq!(session.code_of(2 * id, &serde_json::json!({"verb": "stat"}))?, "frame 8");
        session.bytes(&raw_put(2 * id + 1, &serde_json::json!("small"), b"small"))?;
        assert_eq!(session.expect()?.code(), "frame 8");
    }
    let accepted = accepts()? - accepted;
    // The bar is 20 a second; a busy machine only makes them fewer.
    let most = 20.0 * (began.elapsed().as_secs_f64() + 0.1);
    assert!(accepted >= 1 && f64::from(u32::try_from(accepted)?) <= most, "{accepted} accepts");
    running.send(DATA, 1, second)?;
    running.send(EOF, 1, b"")?;
    running.send(TRAILER, 1, &trailer(&content))?;
    assert_eq!(running.expect()?.code(), "frame 8", "the put that ran is stored");
    assert!(std::fs::read(daemon.stored("running"))? == content);
    drop(crowd);
    let spent = spent()? - before;
    assert!(spent < 90, "of 100 ticks of a processor: {spent}");
    let began = Instant::now();
    while daemon.ftc_tls().run(["ls"])?.code != Some(0) {
        assert!(began.elapsed() < patience, "logins succeed again");
    }
    let after = began.elapsed();
    assert!(after < patience, "a login succeeds after {after:?}");
    println!(
        "assurance: B6 descriptors: {accepted} accepts in vain a second and {spent} % of a processor; a \
         put goes on and is stored; logins {after:.1?} after"
    );
    Ok(())
}

/// Kills the daemon, however the test ends.
struct Killed<'d>(&'d Daemon);

impl Drop for Killed<'_> {
    fn drop(&mut self) {
        let _ = self.0.signal(nix::sys::signal::Signal::SIGKILL);
    }
}

/// A user's own connections that never let the server wait, two for each processor: others are served, and who
/// may no longer be here is not.
#[test]
fn a_connection_that_always_has_more_takes_its_turn() -> TestResult {
    let setup = Setup::new()?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    let daemon = setup.start()?;
    let cancels = frame(CANCEL, 1, b"").repeat(10_000);
    let refused = frame(DATA, 1, &vec![7; 1 << 20]);
    let pairs = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let _guard = Killed(&daemon); // The floods end when it does, if not before.
        for flood in [&cancels, &refused].repeat(pairs) {
            let mut raw = Raw::greeted(&daemon)?;
            raw.code_of(1, &json!({"verb": "put", "path": "../no"}))?;
            scope.spawn(move || while raw.bytes(flood).is_ok() {});
        }
        for _ in 0..10 {
            daemon.ftc_unix().ok(["ls"])?;
            daemon.ftc_tls().ok(["ls"])?;
        }
        std::fs::write(daemon.path("ftd.toml"), text + "expires = 2020-01-01\n")?;
        daemon.signal(nix::sys::signal::Signal::SIGHUP)?;
        daemon.wait_for_log_times("ended: ", 2 * pairs)?;
        Ok(())
    })
}
