//! Goal: a quota holds to the byte and the name, whoever stores, overwrites, moves, removes, is cut or
//! races; and what a recount finds is what the daemon knew (A-11, S-02, X-09).
//! Method: real daemon, raw frames; what the daemon knows is asked with `check`, whose refusal tells it.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::raw::{ANSWER, CANCEL, DATA, EOF, Raw, TRAILER, put, trailer};
use support::{ALL_RIGHTS, Daemon, PATIENCE, Setup, TestResult, noise, wait_until};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// A configuration in which alice, by account, has these lines, and `more` follows.
fn configure(setup: &Setup, top: &str, alice: &str, more: &str) -> TestResult {
    let (uid, dir) = (nix::unistd::geteuid(), setup.dir.path().display().to_string());
    setup.write_config(&format!(
        "root = \"{dir}/root\"\nlisten = [\"127.0.0.1:0\", \"unix:{dir}/sock\"]\nhost-key = \"{dir}/host_key\"\n\
         {top}\n[[user]]\nname = \"alice\"\nunix = [\"{uid}\"]\nallow = {ALL_RIGHTS}\n{alice}\n{more}\n"
    ))
}

/// Another user, whom nobody can be.
fn other(name: &str, lines: &str) -> String {
    let uid = name.bytes().map(u32::from).sum::<u32>() + 100_000;
    format!("[[user]]\nname = \"{name}\"\nunix = [\"{uid}\"]\nallow = {ALL_RIGHTS}\n{lines}\n")
}

fn with(alice: &str) -> Fallible<Daemon> {
    let setup = Setup::new()?;
    configure(&setup, "", alice, "")?;
    setup.start()
}

struct Asker {
    raw: Raw,
    id: u32,
}

impl Asker {
    fn new(daemon: &Daemon) -> Fallible<Self> {
        Ok(Self { raw: Raw::greeted(daemon)?, id: 0 })
    }

    fn ask(&mut self, request: &Value) -> Fallible<(String, Value)> {
        self.id += 1;
        self.raw.request(self.id, request)?;
        self.result()
    }

    /// `ok` or the code, and the answer.
    fn result(&mut self) -> Fallible<(String, Value)> {
        let frame = self.raw.expect()?;
        let code = if frame.kind == ANSWER { "ok".to_owned() } else { frame.code() };
        Ok((code, frame.json()))
    }

    fn code(&mut self, request: &Value) -> Fallible<String> {
        Ok(self.ask(request)?.0)
    }

    /// A whole put, whose size is announced or not.
    fn put(&mut self, path: &str, content: &[u8], is_announced: bool) -> Fallible<String> {
        self.id += 1;
        let mut request = json!({"verb": "put", "path": path});
        if is_announced {
            request["bytes"] = json!(content.len());
        }
        self.raw.request(self.id, &request)?;
        let frames = put(self.id, &json!(path), content);
        let skip = 12 + json!({"verb": "put", "path": path}).to_string().len();
        self.raw.bytes(&frames[skip..])?;
        Ok(self.result()?.0)
    }

    /// The bytes that the daemon takes for used, by a check that cannot succeed.
    fn used(&mut self, path: &str) -> Fallible<u64> {
        let (code, told) =
            self.ask(&json!({"verb": "check", "path": path, "bytes": 1_u64 << 39}))?;
        assert_eq!(code, "QUOTA", "{told}");
        let message = told["message"].as_str().unwrap_or_default().to_owned();
        let used = message.split("bytes: ").nth(1).and_then(|rest| rest.split(' ').next());
        Ok(used.ok_or(message.clone())?.parse()?)
    }
}

fn rename(path: &str, to: &str, replace: bool) -> Value {
    json!({"verb": "rename", "path": path, "to": to, "replace": replace})
}

/// exactly at the quota, one over; overwrites are credited; removing frees; nothing is left behind.
#[test]
fn a_quota_of_bytes_holds_to_the_byte() -> TestResult {
    let daemon = with("quota = 1000")?;
    let mut ask = Asker::new(&daemon)?;
    for is_announced in [true, false] {
        assert_eq!(ask.put("over", &noise(1001, 1), is_announced)?, "QUOTA");
        assert_eq!(ask.put("dir/f", &noise(1000, 1), is_announced)?, "ok");
        assert_eq!(ask.put("more", b"x", is_announced)?, "QUOTA");
        assert_eq!(ask.put("empty", b"", is_announced)?, "ok", "no byte is no byte too many");
        // An overwrite counts as the difference.
        assert_eq!(ask.put("dir/f", &noise(1001, 2), is_announced)?, "QUOTA");
        assert_eq!(ask.put("dir/f", &noise(1000, 2), is_announced)?, "ok");
        assert_eq!(ask.put("dir/f", &noise(400, 3), is_announced)?, "ok", "by a smaller one");
        assert_eq!(ask.used("new")?, 400);
        assert_eq!(ask.put("more", &noise(601, 1), is_announced)?, "QUOTA");
        assert_eq!(ask.put("more", &noise(600, 1), is_announced)?, "ok");
        assert_eq!(ask.code(&rename("more", "dir/f", true))?, "ok");
        assert_eq!(ask.used("new")?, 600, "what a rename replaces is gone");
        for path in ["dir/f", "empty"] {
            assert_eq!(ask.code(&json!({"verb": "remove", "path": path}))?, "ok");
        }
        assert_eq!(ask.code(&json!({"verb": "rmdir", "path": "dir"}))?, "ok");
        assert_eq!(ask.used("new")?, 0);
    }
    assert!(std::fs::read_dir(daemon.stored("."))?.next().is_none());
    daemon.assert_nothing_staged()
}

#[test]
fn a_quota_of_files_counts_every_name() -> TestResult {
    let daemon = with("quota-files = 4")?;
    let mut ask = Asker::new(&daemon)?;
    assert_eq!(ask.put("a/b/f", b"x", true)?, "ok");
    assert_eq!(ask.code(&json!({"verb": "mkdir", "path": "c/d", "parents": true}))?, "QUOTA");
    assert!(!daemon.stored("c").exists(), "nothing of it was made");
    assert_eq!(ask.put("c/f", b"x", true)?, "QUOTA", "a directory and a file are two");
    assert!(!daemon.stored("c").exists());
    assert_eq!(ask.code(&json!({"verb": "mkdir", "path": "c"}))?, "ok");
    for (request, code) in [
        (json!({"verb": "mkdir", "path": "e"}), "QUOTA"),
        (json!({"verb": "mkdir", "path": "c", "parents": true}), "ok"),
        (json!({"verb": "check", "path": "new"}), "QUOTA"),
        (json!({"verb": "check", "path": "a/b/f"}), "ok"),
        (rename("a", "c/a", false), "ok"),
        (json!({"verb": "rmdir", "path": "c/a/b"}), "NOT_EMPTY"),
        (json!({"verb": "remove", "path": "c/a/b/f"}), "ok"),
        (json!({"verb": "mkdir", "path": "e"}), "ok"),
        (json!({"verb": "mkdir", "path": "g"}), "QUOTA"),
    ] {
        assert_eq!(ask.code(&request)?, code, "{request}");
    }
    assert_eq!(ask.put("new", b"", true)?, "QUOTA");
    assert_eq!(ask.code(&json!({"verb": "rmdir", "path": "e"}))?, "ok");
    assert_eq!(ask.put("new", b"", true)?, "ok");
    assert_eq!(ask.put("new", b"other", false)?, "ok", "an overwrite adds no name");
    daemon.assert_nothing_staged()
}

/// two puts of which each fits and both do not; what is announced is held from the first moment.
#[test]
fn of_two_puts_that_do_not_fit_together_one_is_refused() -> TestResult {
    let daemon = with("quota = \"10MiB\"")?;
    let (mut first, mut second) = (Asker::new(&daemon)?, Asker::new(&daemon)?);
    let content = noise(6 << 20, 1);
    let announce = |asker: &mut Asker, path: &str| -> TestResult {
        asker.id += 1;
        let request = json!({"verb": "put", "path": path, "bytes": content.len()});
        asker.raw.request(asker.id, &request)
    };
    announce(&mut first, "a")?;
    while first_held(&daemon)? != content.len() as u64 {
        support::pause();
    }
    announce(&mut second, "b")?;
    assert_eq!(second.result()?.0, "QUOTA", "before the first byte");
    second.raw.send(CANCEL, second.id, b"")?;
    // Given up, it is free again.
    first.raw.send(CANCEL, first.id, b"")?;
    first.raw.expect()?;
    assert_eq!(second.used("x")?, 0);
    // Without an announcement the bytes themselves decide, and one of the two gets through.
    let outcomes = std::thread::scope(|scope| {
        let writers: Vec<_> = ["a", "b"]
            .map(|path| {
                let (daemon, content) = (&daemon, &content);
                scope.spawn(move || -> Result<String, String> {
                    Asker::new(daemon)
                        .and_then(|mut asker| {
                            let outcome = asker.put(path, content, false);
                            // Refused in the middle, it may find the connection closed on it.
                            outcome.or_else(|_| Ok("QUOTA".to_owned()))
                        })
                        .map_err(|error| error.to_string())
                })
            })
            .into_iter()
            .collect();
        let join = |writer: std::thread::ScopedJoinHandle<'_, _>| {
            writer.join().unwrap_or_else(|_| Err("panicked".to_owned()))
        };
        writers.into_iter().map(join).collect::<Result<Vec<_>, _>>()
    })?;
    let stored = outcomes.iter().filter(|code| *code == "ok").count();
    assert!(stored <= 1, "{outcomes:?}");
    assert_eq!(second.used("x")?, (stored * content.len()) as u64);
    daemon.assert_nothing_staged()
}

fn first_held(daemon: &Daemon) -> Fallible<u64> {
    Asker::new(daemon)?.used("x")
}

/// a rename from one home into another moves what it counts, files and whole directories; where
/// homes lie in each other each counts.
#[test]
fn what_moves_between_homes_is_counted_where_it_is() -> TestResult {
    let setup = Setup::new()?;
    let more = other("bob", "home = \"team/bob\"\nquota = 1000\nquota-files = 10")
        + &other("carol", "home = \"team/carol\"\nquota = 5000");
    configure(&setup, "", "home = \"team\"\nquota = 3000", &more)?;
    let daemon = setup.start()?;
    let mut ask = Asker::new(&daemon)?;
    for path in ["bob", "carol", "own/deep"] {
        assert_eq!(ask.code(&json!({"verb": "mkdir", "path": path, "parents": true}))?, "ok");
    }
    assert_eq!(ask.put("bob/f", &noise(600, 1), true)?, "ok");
    assert_eq!(ask.put("bob/g", &noise(401, 1), true)?, "QUOTA", "bob's quota binds alice too");
    assert_eq!(ask.put("own/deep/f", &noise(500, 2), true)?, "ok");
    assert_eq!(ask.put("own/g", &noise(100, 2), true)?, "ok");
    assert_eq!((ask.used("x")?, ask.used("bob/x")?), (1200, 1200), "the outer one is told first");
    assert_eq!(ask.code(&rename("own", "bob/own", false))?, "QUOTA");
    assert_eq!(ask.code(&rename("own/deep/f", "bob/own", false))?, "QUOTA");
    assert_eq!(ask.code(&rename("own/g", "bob/g", false))?, "ok");
    assert_eq!(
        ask.code(&rename("own/deep/f", "bob/f", true))?,
        "ok",
        "credited with what it replaces"
    );
    assert_eq!(ask.used("x")?, 600);
    // bob has 600 in two files; 400 more fit.
    assert_eq!(ask.put("bob/h", &noise(401, 1), true)?, "QUOTA");
    assert_eq!(ask.code(&rename("bob/f", "carol/f", false))?, "ok");
    assert_eq!(ask.put("bob/h", &noise(900, 1), true)?, "ok", "what left bob is free there");
    assert_eq!(ask.put("bob/i", b"x", true)?, "QUOTA");
    // Names: bob may have ten.
    for number in 0..8 {
        assert_eq!(ask.put(&format!("own/deep/{number}"), b"", true)?, "ok");
    }
    assert_eq!(ask.code(&rename("own/deep", "bob/deep", false))?, "QUOTA", "nine names and two");
    assert_eq!(ask.code(&json!({"verb": "remove", "path": "own/deep/7"}))?, "ok");
    assert_eq!(ask.code(&rename("own/deep", "bob/deep", false))?, "ok");
    assert_eq!(ask.put("bob/j", b"", true)?, "QUOTA");
    // A whole home moves: it is empty where it was, and counted again where it comes back.
    assert_eq!(ask.code(&rename("bob", "elsewhere", false))?, "ok");
    assert_eq!(ask.code(&json!({"verb": "mkdir", "path": "bob"}))?, "ok");
    assert_eq!(ask.put("bob/f", &noise(1000, 1), true)?, "ok");
    assert_eq!(ask.put("bob/g", b"x", true)?, "QUOTA");
    assert_eq!(ask.code(&json!({"verb": "remove", "path": "bob/f"}))?, "ok");
    assert_eq!(ask.code(&json!({"verb": "rmdir", "path": "bob"}))?, "ok");
    assert_eq!(ask.code(&rename("elsewhere", "bob", false))?, "ok");
    assert_eq!(ask.put("bob/k", b"", true)?, "QUOTA", "its ten names are back");
    recounts_the_same(daemon, &[("x", "team")])
}

/// Starts the daemon again and compares what it counts with what it knew.
fn recounts_the_same(mut daemon: Daemon, homes: &[(&str, &str)]) -> TestResult {
    let mut before = Vec::new();
    for (path, home) in homes {
        before.push(((*home).to_owned(), Asker::new(&daemon)?.used(path)?));
    }
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait()?;
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
    let daemon = Setup { dir }.start()?;
    for (home, bytes) in before {
        let log = daemon.wait_for_log(&format!("counted home=\"{home}\""))?;
        assert!(
            log.contains(&format!("counted home=\"{home}\" bytes={bytes} ")),
            "{bytes}:\n{log}"
        );
    }
    Ok(())
}

/// A put's size is decided again at its commit: what was credited may be gone by then.
#[test]
fn a_commit_decides_again() -> TestResult {
    let daemon = with("quota = 1000")?;
    let (mut ask, mut slow) = (Asker::new(&daemon)?, Asker::new(&daemon)?);
    assert_eq!(ask.put("f", &noise(900, 1), true)?, "ok");
    // Over 900 bytes, so that it takes 100 more.
    let content = noise(1000, 2);
    slow.id += 1;
    slow.raw.request(slow.id, &json!({"verb": "put", "path": "f"}))?;
    slow.raw.send(DATA, slow.id, &content)?;
    while ask.used("x")? != 1000 {
        support::pause();
    }
    assert_eq!(ask.code(&rename("f", "g", false))?, "ok");
    slow.raw.send(EOF, slow.id, b"")?;
    slow.raw.send(TRAILER, slow.id, &trailer(&content))?;
    assert_eq!(slow.result()?.0, "QUOTA");
    assert!(!daemon.stored("f").exists());
    assert_eq!(ask.used("x")?, 900);
    daemon.assert_nothing_staged()
}

/// What is kept to be continued counts, after a restart too, and not twice once it goes on.
#[test]
fn kept_uploads_count() -> TestResult {
    const MIB: usize = 1 << 20;
    let mut daemon = with("quota = \"100MiB\"")?;
    let content = noise(80 * MIB, 5);
    let mut raw = Raw::greeted(&daemon)?;
    let request = json!({"verb": "put", "path": "f", "bytes": content.len(), "resumable": true});
    raw.request(1, &request)?;
    for piece in content[..70 * MIB].chunks(MIB) {
        raw.send(DATA, 1, piece)?;
    }
    assert_eq!(first_held(&daemon)?, content.len() as u64, "the announcement counts meanwhile");
    drop(raw);
    let mut resumed = json!(null);
    for start in 0..2 {
        let mut ask = Asker::new(&daemon)?;
        // The answer comes when the connection that was cut is done; but the server does not wait for ever.
        let mut kept = json!(null);
        wait_until("something is kept", || {
            let (code, answer) = ask.ask(&json!({"verb": "resume", "path": "f"}))?;
            kept = answer;
            assert!(["ok", "BUSY"].contains(&code.as_str()), "start {start}: {code}");
            Ok(code == "ok")
        })?;
        resumed = kept["resume"].clone();
        // The last buffer, which was not full, may be lost with the connection.
        let offset = resumed["offset"].as_u64().ok_or("no offset")?;
        assert!((69 << 20..=70 << 20).contains(&offset), "start {start}: {offset}");
        assert_eq!(ask.used("x")?, offset, "start {start}");
        assert_eq!(ask.put("g", &content[..32 * MIB], true)?, "QUOTA", "start {start}");
        if start == 0 {
            daemon.signal(Signal::SIGKILL)?;
            daemon.wait()?;
            let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
            daemon = Setup { dir }.start()?;
        }
    }
    let mut raw = Raw::greeted(&daemon)?;
    let offset = usize::try_from(resumed["offset"].as_u64().ok_or("no offset")?)?;
    raw.request(
        1,
        &json!({"verb": "put", "path": "f", "bytes": content.len(), "resume": resumed}),
    )?;
    for piece in content[offset..].chunks(MIB) {
        raw.send(DATA, 1, piece)?;
    }
    raw.send(EOF, 1, b"")?;
    raw.send(TRAILER, 1, &trailer(&content))?;
    assert_eq!(raw.expect()?.kind, ANSWER);
    assert_eq!(first_held(&daemon)?, 80 << 20);
    recounts_the_same(daemon, &[("x", "alice")])
}

/// A reload takes quotas away, lowers them, and brings new ones for what is there already.
#[test]
fn a_reload_changes_quotas() -> TestResult {
    let daemon = with("")?;
    let mut ask = Asker::new(&daemon)?;
    assert_eq!(ask.put("dir/f", &noise(5000, 1), true)?, "ok");
    let mut reloads = 0;
    let mut reload = |alice: &str| -> TestResult {
        let (uid, dir) = (nix::unistd::geteuid(), daemon.dir.path().display().to_string());
        std::fs::write(
            daemon.path("ftd.toml"),
            format!(
                "root = \"{dir}/root\"\nlisten = [\"127.0.0.1:0\", \"unix:{dir}/sock\"]\nhost-key = \"{dir}/host_key\"\n\
             [[user]]\nname = \"alice\"\nunix = [\"{uid}\"]\nallow = {ALL_RIGHTS}\n{alice}\n"
            ),
        )?;
        daemon.signal(Signal::SIGHUP)?;
        reloads += 1;
        daemon.wait_for_log_times("configuration reloaded", reloads)?;
        Ok(())
    };
    reload("quota = 6000")?;
    assert_eq!(ask.used("x")?, 5000, "what was there is counted");
    assert_eq!(ask.put("g", &noise(1000, 1), true)?, "ok");
    assert_eq!(ask.put("h", b"x", true)?, "QUOTA");
    reload("quota = 2000\nmax-file-size = 500")?;
    assert_eq!(ask.put("g", &noise(500, 1), true)?, "ok", "over the quota, less is always allowed");
    assert_eq!(ask.put("g", &noise(501, 1), true)?, "TOO_LARGE");
    assert_eq!(ask.put("g", &noise(501, 1), false)?, "TOO_LARGE");
    assert_eq!(ask.put("h", b"x", true)?, "QUOTA");
    assert_eq!(ask.code(&json!({"verb": "remove", "path": "dir/f"}))?, "ok");
    assert_eq!(ask.put("h", b"x", true)?, "ok");
    reload("")?;
    assert_eq!(ask.put("big", &noise(50_000, 1), true)?, "ok");
    daemon.assert_nothing_staged()
}

/// While a home is being counted a change below it waits, and nothing else does.
#[test]
fn a_change_waits_for_the_count_and_nothing_else_does() -> TestResult {
    let setup = Setup::with(ALL_RIGHTS, "[limits]\nfile-workers = 2")?;
    configure(&setup, "[limits]\nfile-workers = 2", "quota = 1000", "")?;
    std::fs::create_dir_all(setup.path("root/alice/a/b/c/d"))?;
    std::fs::write(setup.path("root/alice/a/b/c/d/f"), noise(999, 1))?;
    let slow = "inject=getdents64:delay_enter=1000000";
    let daemon = setup.start_traced(&["-e", "trace=getdents64", "-e", slow])?;
    // More changes than file threads.
    let mut waiting = Vec::new();
    for number in 0..4 {
        let mut ask = Asker::new(&daemon)?;
        ask.id = 1;
        ask.raw.bytes(&put(1, &json!(format!("f{number}")), b"x"))?;
        waiting.push(ask);
    }
    let mut ask = Asker::new(&daemon)?;
    assert_eq!(ask.code(&json!({"verb": "stat", "path": "a/b"}))?, "ok");
    assert!(!daemon.log().contains("counted home"), "it was answered before the count was done");
    let codes: Vec<_> =
        waiting.iter_mut().map(|ask| Ok(ask.result()?.0)).collect::<Fallible<_>>()?;
    daemon.wait_for_log("counted home=\"alice\" bytes=999 files=5")?;
    assert_eq!(codes.iter().filter(|code| *code == "ok").count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| *code == "QUOTA").count(), 3, "{codes:?}");
    Ok(())
}

/// S-02: what the reserve, and what others were promised, leave free is all there is.
#[test]
fn the_reserve_and_promises_are_left_alone() -> TestResult {
    let setup = Setup::new()?;
    let space = nix::sys::statvfs::statvfs(&setup.path("root"))?;
    let free = space.blocks_available() * space.fragment_size();
    configure(&setup, "reserve = \"99%\"", "", "")?;
    let daemon = setup.start()?;
    let mut ask = Asker::new(&daemon)?;
    for is_announced in [true, false] {
        assert_eq!(ask.put("f", b"x", is_announced)?, "NO_SPACE");
    }
    assert_eq!(ask.code(&json!({"verb": "check", "path": "f", "bytes": 1}))?, "NO_SPACE");
    daemon.assert_nothing_staged()?;

    let daemon = Daemon::start()?;
    let (mut first, mut second) = (Asker::new(&daemon)?, Asker::new(&daemon)?);
    let most = json!({"verb": "put", "path": "f", "bytes": free / 10 * 6});
    first.id = 1;
    first.raw.request(1, &most)?;
    let check = json!({"verb": "check", "path": "g", "bytes": free / 10 * 6});
    let deadline = std::time::Instant::now() + PATIENCE;
    while second.code(&check)? != "NO_SPACE" {
        assert!(std::time::Instant::now() < deadline, "the promise to the first is not kept");
    }
    second.id += 1;
    second.raw.request(second.id, &json!({"verb": "put", "path": "g", "bytes": free / 10 * 6}))?;
    assert_eq!(second.result()?.0, "NO_SPACE", "before the first byte");
    second.raw.send(CANCEL, second.id, b"")?;
    first.raw.send(CANCEL, 1, b"")?;
    first.raw.expect()?;
    assert_eq!(second.code(&check)?, "ok");
    daemon.assert_nothing_staged()
}

/// The largest file of a user is told in HELLO and binds.
#[test]
fn the_largest_file_of_a_user_is_told_and_binds() -> TestResult {
    let daemon = with("max-file-size = 1000")?;
    let mut raw = Raw::silent(&daemon)?;
    assert_eq!(raw.expect()?.json()["limits"]["file_bytes"], 1000);
    let mut ask = Asker::new(&daemon)?;
    for is_announced in [true, false] {
        assert_eq!(ask.put("f", &noise(1001, 1), is_announced)?, "TOO_LARGE");
        assert_eq!(ask.put("f", &noise(1000, 1), is_announced)?, "ok");
    }
    assert_eq!(ask.code(&json!({"verb": "check", "path": "f", "bytes": 1001}))?, "TOO_LARGE");
    Ok(())
}
