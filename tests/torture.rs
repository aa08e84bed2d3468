//! Goal: whatever call fails, and wherever the process dies, in any operation that changes something:
//! nothing that was acknowledged is lost, nothing is half there, nothing staged is left, the sums of quotas
//! are what a count finds, and everybody is served on (X-01, X-08, S-01, S-03, S-04, S-06, S-13, S-14, S-16, B2, B7, B9).
//! Method: strace makes the k-th call of one kind fail, or kills at it, for each kind that a run without
//! faults made, and each k of its. `FTD_TORTURE=N` repeats all of it N times.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

#[path = "torture/operations.rs"]
mod operations;
mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use operations::{
    Ended, Fallible, Node, Nodes, OPERATIONS, Operation, Step, judge, nodes, prepare,
};
use serde_json::{Value, json};
use support::raw::{
    ANSWER, DATA, EOF, ERROR, HELLO, Raw, TRAILER, frame, put, receive_from, trailer,
};
use support::tls::{config, connect_from, handshake};
use support::{ALL_RIGHTS, Daemon, Setup, TestResult, sha256, wait_until};

/// What fails, and how: the calls by which a tree is read and changed.
const FAULTS: &[(&str, &[&str])] = &[
    ("pwrite64", &["EIO", "ENOSPC", "EDQUOT", "EROFS", "EINTR"]),
    ("pwritev2", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("fallocate", &["EIO", "ENOSPC", "EDQUOT", "EINTR", "EOPNOTSUPP"]),
    ("ftruncate", &["EIO"]),
    ("fsetxattr", &["EIO", "ENOSPC", "EDQUOT"]),
    ("fremovexattr", &["EIO"]),
    ("fchmod", &["EIO", "EPERM"]),
    ("utimensat", &["EIO"]),
    ("fsync", FLUSH),
    ("fdatasync", FLUSH),
    ("syncfs", FLUSH),
    ("renameat", NAME),
    ("renameat2", NAME),
    ("linkat", NAME),
    ("mkdirat", NAME),
    ("unlinkat", &["EIO", "EROFS", "EPERM"]),
    ("openat2", &["EIO", "ENOSPC", "EMFILE", "EINTR"]),
    ("newfstatat", &["EIO"]),
    ("statx", &["EIO"]),
    ("fstat", &["EIO"]),
    ("fgetxattr", &["EIO"]),
    ("pread64", &["EIO"]),
];
const FLUSH: &[&str] = &["EIO", "ENOSPC", "EDQUOT"];
const NAME: &[&str] = &["EIO", "ENOSPC", "EDQUOT", "EROFS", "EPERM"];
const FLUSHES: &[&str] = &["fsync", "fdatasync", "syncfs"];
/// Where else to die: between what is done and the word about it.
const ANSWERS: &[&str] = &["sendto", "sendmsg", "writev"];

/// One fault in one run.
struct Case {
    operation: &'static Operation,
    call: &'static str,
    /// The error; `None` kills.
    error: Option<&'static str>,
    k: usize,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = self.error.unwrap_or("KILL");
        write!(f, "{}: {} {what} at {}", self.operation.name, self.call, self.k)
    }
}

/// What all cases came to.
#[derive(Default)]
struct Tally {
    failed: AtomicUsize,
    flushes_failed: AtomicUsize,
    killed: AtomicUsize,
    acknowledged: AtomicUsize,
    missed: AtomicUsize,
}

/// A setup in which strace counts well: it counts the calls of each thread, so that there is one for files.
fn setup() -> Fallible<Setup> {
    let setup = Setup::with(ALL_RIGHTS, "[limits]\nfile-workers = 1")?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.write_config(&(text + "quota = \"1GiB\"\nquota-files = 40\n"))?;
    setup.add_user("bob", "")?;
    prepare(&setup.path("root/alice"))?;
    setup.ftd(&["fingerprint"])?; // So that making the host key is not what meets the fault.
    Ok(setup)
}

/// The start makes the same calls, on another thread: with this the thread for files is past their number,
/// so that no fault of the operation's is one of the start's.
fn warm_up(daemon: &Daemon) -> TestResult {
    let (mut raw, mut id) = (Raw::greeted(daemon)?, 0);
    let mut ask = |bytes: &dyn Fn(u32) -> Vec<u8>| -> TestResult {
        id += 1;
        raw.bytes(&bytes(id))?;
        raw.expect().map(drop)
    };
    for _ in 0..3 {
        ask(&|id| put(id, &json!("warm/up"), b"warm"))?;
        for request in [
            json!({"verb": "rename", "path": "warm/up", "to": "warm/er"}),
            json!({"verb": "remove", "path": "warm/er"}),
            json!({"verb": "rmdir", "path": "warm"}),
        ] {
            ask(&|id| frame(support::raw::REQUEST, id, request.to_string().as_bytes()))?;
        }
    }
    for _ in 0..30 {
        ask(&|id| frame(support::raw::REQUEST, id, br#"{"verb":"stat","path":"d/x"}"#))?;
    }
    Ok(())
}

/// Reads the answers to `count` requests from `first` on.
fn answers(raw: &mut Raw, first: u32, count: usize) -> Vec<Ended> {
    let mut ends = vec![Ended::Cut; count];
    let mut missing = count;
    while missing > 0 {
        let Ok(Some(frame)) = raw.receive() else { break };
        let Some(end) = ends.get_mut(frame.id.wrapping_sub(first) as usize) else { break };
        *end = match frame.kind {
            ANSWER => Ended::Acknowledged,
            ERROR => Ended::Refused(frame.code()),
            _ => continue,
        };
        missing -= 1;
    }
    ends
}

/// Asks for everything at once, and gives how each ended.
fn ask(raw: &mut Raw, steps: &[Step]) -> Vec<Ended> {
    let all: Vec<u8> = steps.iter().zip(1..).flat_map(|(step, id)| step.frames(id)).collect();
    // A daemon that dies takes the connection with it, which the answers tell.
    let _ = raw.bytes(&all);
    answers(raw, 1, steps.len())
}

/// Puts the first half, loses the connection, and goes on with what was kept, or from the start.
fn ask_in_two(daemon: &Daemon, raw: &mut Raw, step: &Step) -> Ended {
    let content = step.content.clone().unwrap_or_default();
    let half = || -> Fallible<Option<Ended>> {
        let mut first = Raw::greeted(daemon)?;
        first.request(1, &step.request)?;
        for chunk in content[..content.len() / 2].chunks(1 << 20) {
            first.send(DATA, 1, chunk)?;
        }
        // Whoever is told of this has been told of an error before it.
        first.request(2, &json!({"verb": "stat"}))?;
        loop {
            let frame = first.expect()?;
            if frame.kind == ERROR && frame.id == 1 {
                return Ok(Some(Ended::Refused(frame.code())));
            }
            if frame.id == 2 {
                return Ok(None);
            }
        }
    };
    match half() {
        Ok(None) => resume(raw, step, &content).unwrap_or(Ended::Cut),
        Ok(Some(ended)) => ended,
        Err(_) => Ended::Cut,
    }
}

/// Goes on with what is kept of a put, or puts from the start if nothing is.
fn resume(raw: &mut Raw, step: &Step, content: &[u8]) -> Fallible<Ended> {
    raw.request(501, &json!({"verb": "resume", "path": step.request["path"]}))?;
    let told = raw.expect()?;
    let mut request = step.request.clone();
    let mut offset = 0;
    if told.kind == ANSWER {
        let kept = &told.json()["resume"];
        offset = usize::try_from(kept["offset"].as_u64().ok_or("no offset")?)?;
        assert_eq!(kept["sha256"], sha256(&content[..offset]), "of the first {offset} bytes");
        request["resume"] = json!({"upload": kept["upload"], "offset": offset});
        request["bytes"] = json!(content.len());
    }
    raw.request(502, &request)?;
    for chunk in content[offset..].chunks(1 << 20) {
        raw.send(DATA, 502, chunk)?;
    }
    raw.send(EOF, 502, b"")?;
    raw.send(TRAILER, 502, &trailer(content))?;
    Ok(answers(raw, 502, 1).remove(0))
}

fn run_operation(
    daemon: &Daemon,
    raw: &mut Raw,
    operation: &Operation,
    steps: &[Step],
) -> Vec<Ended> {
    if operation.is_cut { vec![ask_in_two(daemon, raw, &steps[0])] } else { ask(raw, steps) }
}

/// How many calls of each kind each thread has made so far.
fn calls(daemon: &Daemon) -> Fallible<BTreeMap<(String, String), usize>> {
    let mut count = BTreeMap::new();
    for line in std::fs::read_to_string(daemon.path("trace"))?.lines() {
        let mut words = line.splitn(2, ' ');
        let (thread, rest) = (words.next().unwrap_or(""), words.next().unwrap_or("").trim_start());
        if let Some((call, _)) = rest.split_once('(') {
            *count.entry((thread.to_owned(), call.to_owned())).or_default() += 1;
        }
    }
    Ok(count)
}

/// The faults that can meet an operation, from a run without any.
fn cases_of(operation: &'static Operation) -> Fallible<Vec<Case>> {
    let names = FAULTS.iter().map(|(call, _)| *call).chain(ANSWERS.iter().copied());
    let trace = names.map(|name| format!("?{name}")).collect::<Vec<_>>().join(",");
    let daemon = setup()?.start_traced(&["-e", &format!("trace={trace}")])?;
    warm_up(&daemon)?;
    let mut raw = Raw::greeted(&daemon)?;
    let before = calls(&daemon)?;
    let ends = run_operation(&daemon, &mut raw, operation, &(operation.steps)());
    assert!(ends.iter().all(|end| *end == Ended::Acknowledged), "{}: {ends:?}", operation.name);
    drop(raw);
    let after = calls(&daemon)?;
    let mut cases = Vec::new();
    let all = FAULTS.iter().copied().chain(ANSWERS.iter().map(|call| (*call, &[][..])));
    for (call, errors) in all {
        let mut ks = std::collections::BTreeSet::new();
        for ((thread, name), count) in &after {
            if name == call {
                let key = (thread.clone(), name.clone());
                ks.extend(before.get(&key).copied().unwrap_or(0) + 1..=*count);
            }
        }
        for k in ks {
            let killed = std::iter::once(None);
            for error in errors.iter().copied().map(Some).chain(killed) {
                cases.push(Case { operation, call, error, k });
            }
        }
    }
    Ok(cases)
}

/// The code that an error of the kernel's comes out as.
fn code_of(error: &str) -> &'static str {
    match error {
        "ENOSPC" => "NO_SPACE",
        "EDQUOT" => "QUOTA",
        "EMFILE" => "BUSY",
        "EPERM" => "DENIED",
        "EROFS" => "READ_ONLY",
        "EIO" => "IO",
        _ => "none: it is tried again, or done without",
    }
}

fn try_case(case: &Case, tally: &Tally) -> TestResult {
    let what = case.error.map_or("signal=KILL".to_owned(), |error| format!("error={error}"));
    let inject = format!("inject={}:{what}:when={}", case.call, case.k);
    let started = setup()?.start_traced(&["-e", &format!("trace={}", case.call), "-e", &inject]);
    let mut daemon = match started {
        Ok(daemon) => daemon,
        Err(told) if told.to_string().contains("[end of log]") => {
            tally.missed.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        Err(other) => return Err(other),
    };
    let is_warm = warm_up(&daemon).is_ok();
    let Ok(mut raw) = Raw::greeted(&daemon) else {
        tally.missed.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    };
    let home = daemon.path("root/alice");
    let before = nodes(&home)?;
    let steps = (case.operation.steps)();
    let ends = if is_warm {
        run_operation(&daemon, &mut raw, case.operation, &steps)
    } else {
        vec![Ended::Cut; steps.len()]
    };
    let acknowledged = ends.iter().filter(|end| **end == Ended::Acknowledged).count();
    tally.acknowledged.fetch_add(acknowledged, Ordering::Relaxed);
    let trace = std::fs::read_to_string(daemon.path("trace"))?;
    if case.error.is_none() {
        if !ends.contains(&Ended::Cut) {
            tally.missed.fetch_add(1, Ordering::Relaxed);
            return Ok(judge(&before, &nodes(&home)?, &steps, &ends)?);
        }
        tally.killed.fetch_add(1, Ordering::Relaxed);
        daemon.wait()?;
        judge(&before, &nodes(&home)?, &steps, &ends)?;
        let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
        let daemon = Setup { dir }.start()?;
        let after = nodes(&daemon.path("root/alice"))?;
        judge(&before, &after, &steps, &ends)?;
        return goes_on(&daemon, case, &before, &steps);
    }
    if !trace.contains("(INJECTED)") {
        tally.missed.fetch_add(1, Ordering::Relaxed);
        return Ok(judge(&before, &nodes(&home)?, &steps, &ends)?);
    }
    tally.failed.fetch_add(1, Ordering::Relaxed);
    judge(&before, &nodes(&home)?, &steps, &ends)?;
    let code = code_of(case.error.unwrap_or_default());
    for end in &ends {
        match end {
            Ended::Cut => return Err("the connection was cut".into()),
            // An upload whose checkpoint cannot be read cannot be continued: the client begins anew.
            Ended::Refused(told) if told == "NOT_FOUND" && case.call == "fgetxattr" => {}
            Ended::Refused(told) if told != code && told != "UNKNOWN_OUTCOME" => {
                return Err(format!("the answer is {told}").into());
            }
            _ => {}
        }
    }
    if FLUSHES.contains(&case.call) {
        tally.flushes_failed.fetch_add(1, Ordering::Relaxed);
        // What was cut is only kept if it is safe; it may be sent again.
        if !case.operation.is_cut && acknowledged == steps.len() {
            return Err("a flush failed, and all is acknowledged".into());
        }
    }
    check_sums(&daemon, &mut raw)?;
    drop(raw);
    goes_on(&daemon, case, &before, &steps)
}

/// What the daemon takes for used is what is there. A quota tells by what it refuses.
fn check_sums(daemon: &Daemon, raw: &mut Raw) -> TestResult {
    let found = nodes(&daemon.path("root/alice"))?;
    let size = |node: &Node| if let Node::File(bytes, _) = node { *bytes } else { 0 };
    let (mut bytes, mut names) = (found.values().map(size).sum::<u64>(), found.len() as u64);
    // What is kept of an upload counts, too.
    for entry in std::fs::read_dir(daemon.path("root/.ftd-stage"))? {
        (bytes, names) = (bytes + entry?.metadata()?.len(), names + 1);
    }
    let mut told = |id: u32, request: Value, sum: &str| -> Fallible<u64> {
        raw.request(id, &request)?;
        let frame = raw.expect()?;
        let message = frame.json()["message"].as_str().unwrap_or_default().to_owned();
        let used =
            message.split(&format!("{sum}: ")).nth(1).and_then(|rest| rest.split(' ').next());
        Ok(used.ok_or(format!("{} {message}", frame.code()))?.parse()?)
    };
    let request = json!({"verb": "check", "path": "no", "bytes": 1_u64 << 39});
    let known = told(901, request, "bytes")?;
    if known != bytes {
        return Err(format!("{known} bytes are known of, and {bytes} are there").into());
    }
    let deep = ["q"; 60].join("/");
    let known = told(902, json!({"verb": "mkdir", "path": deep, "parents": true}), "files")?;
    if known != names {
        return Err(format!("{known} names are known of, and there are {names}").into());
    }
    Ok(())
}

/// Nothing staged is left, save what can be continued, which is; the same can be asked for again; and bob
/// is served.
fn goes_on(daemon: &Daemon, case: &Case, before: &Nodes, steps: &[Step]) -> TestResult {
    let home = daemon.path("root/alice");
    let mut raw = Raw::greeted(daemon)?;
    if case.operation.is_cut {
        let content = steps[0].content.clone().unwrap_or_default();
        let ended = resume(&mut raw, &steps[0], &content)?;
        if ended != Ended::Acknowledged {
            return Err(format!("and then {ended:?}").into());
        }
    } else {
        let done: Nodes = nodes(&home)?;
        for (step, id) in steps.iter().zip(1..) {
            let is_again =
                step.gone.iter().all(|path| before.contains_key(*path) == done.contains_key(*path));
            if is_again {
                raw.bytes(&step.frames(id))?;
                let frame = raw.expect()?;
                if frame.kind != ANSWER {
                    return Err(format!("and then {}", frame.json()).into());
                }
            }
        }
    }
    judge(before, &nodes(&home)?, steps, &vec![Ended::Acknowledged; steps.len()])?;
    wait_until("nothing is staged", || Ok(daemon.staged()? == 0))?;
    check_sums(daemon, &mut raw)?;
    serve_bob(daemon)
}

/// Another user, over TLS: a put, and what it stored.
fn serve_bob(daemon: &Daemon) -> TestResult {
    let key = config(&daemon.path("bob"))?;
    let mut tls = handshake(&key, connect_from([127, 0, 0, 1], &daemon.address)?, b"")?;
    receive_from(&mut tls)?.ok_or("bob gets no HELLO")?;
    let said = [frame(HELLO, 0, br#"{"version":1}"#), put(1, &json!("probe"), b"bob's")].concat();
    std::io::Write::write_all(&mut tls, &said)?;
    let answer = receive_from(&mut tls)?.ok_or("bob is cut off")?;
    if answer.kind != ANSWER || std::fs::read(daemon.path("root/bob/probe"))? != b"bob's" {
        return Err(format!("bob is told {}", answer.json()).into());
    }
    Ok(())
}

/// Tries them all, and says what came of it.
fn torture(cases: &[Case], rounds: usize) -> TestResult {
    let (next, tally, wrong) = (AtomicUsize::new(0), Tally::default(), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= rounds * cases.len() {
                        return;
                    }
                    let case = &cases[number % cases.len()];
                    if let Err(told) = try_case(case, &tally)
                        && let Ok(mut wrong) = wrong.lock()
                    {
                        wrong.push(format!("{case}: {told}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner()?;
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    let (failed, killed) = (count(&tally.failed), count(&tally.killed));
    let flushes = count(&tally.flushes_failed);
    println!(
        "assurance: torture: {failed} calls failed and {killed} kills in {} operations, none wrong",
        OPERATIONS.len()
    );
    println!("assurance: B7 torture: {flushes} flushes failed, 0 acknowledged");
    println!(
        "assurance: B9 torture: {killed} kills inside of an operation, 0 of {} acknowledgements lost",
        count(&tally.acknowledged)
    );
    // What threads there are decides who meets a fault, so that some meet none.
    let missed = count(&tally.missed);
    assert!(missed * 4 < rounds * cases.len(), "{missed} of {} faults were not met", cases.len());
    Ok(())
}

/// S-01, S-03, S-04, S-06, S-13, S-14, S-16, X-01, X-08, B7, B9.
#[ignore = "takes minutes: make torture"]
#[test]
fn every_call_fails_once_and_kills_once_in_every_operation() -> TestResult {
    let number = |name| std::env::var(name).ok().and_then(|rounds| rounds.parse().ok());
    let mut cases = Vec::new();
    for operation in OPERATIONS {
        cases.extend(cases_of(operation)?);
    }
    torture(&cases, number("FTD_TORTURE").unwrap_or(1))
}

/// The same for every day: a part of all faults, and each look that fails around a rename.
#[test]
fn a_part_of_all_faults_is_met_without_loss() -> TestResult {
    let mut cases = Vec::new();
    for operation in OPERATIONS {
        let all = cases_of(operation)?;
        let mut number = 0;
        cases.extend(all.into_iter().filter(|case| {
            number += 1;
            let renames = ["overwrite", "rename over"].contains(&operation.name);
            number % 20 == 0
                || (renames && ["newfstatat", "statx"].contains(&case.call) && case.error.is_some())
        }));
    }
    torture(&cases, 1)
}
