//! Goal: when any step of a commit fails, nothing is acknowledged, the old file stays, nothing staged is
//! left, and the daemon goes on; a kernel that cannot confine is refused (catalogue S, B7, G-06).
//! Method: strace makes the k-th call of one kind fail, for every k until none does.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use serde_json::json;
use support::raw::{ANSWER, DATA, EOF, Raw, TRAILER, puts, trailer};
use support::{Daemon, Setup, TestResult, noise};

/// A daemon in whose tree `f` is already there, and whose k-th `call` fails with `error`. `None` when
/// the start itself met the fault, which it must say.
fn with_fault(
    call: &str,
    error: &str,
    k: usize,
) -> Result<Option<Daemon>, Box<dyn std::error::Error>> {
    // strace counts the calls of each thread, so that there is one thread for file work.
    let setup = Setup::with(support::ALL_RIGHTS, "[limits]\nfile-workers = 1")?;
    std::fs::create_dir(setup.path("root/alice"))?;
    std::fs::write(setup.path("root/alice/f"), "old")?;
    setup.ftd(&["fingerprint"])?; // So that making the host key is not what meets the fault.
    let inject = format!("inject={call}:error={error}:when={k}");
    match setup.start_traced(&["-e", &format!("trace={call}"), "-e", &inject]) {
        Ok(daemon) => Ok(Some(daemon)),
        Err(told) if told.to_string().contains("ftd: ") => Ok(None),
        Err(other) => Err(other),
    }
}

fn was_injected(daemon: &Daemon) -> Result<bool, std::io::Error> {
    Ok(std::fs::read_to_string(daemon.path("trace"))?.contains("(INJECTED)"))
}

/// S-01, S-03, S-04, S-13, B7: each call that a put makes fails once.
#[test]
fn a_put_survives_the_failure_of_every_step() -> TestResult {
    let new = noise(3 << 20, 4);
    for (call, errors) in [
        ("pwrite64", &["ENOSPC", "EIO", "EDQUOT"][..]),
        ("fallocate", &["ENOSPC", "EDQUOT"]),
        ("fsync", &["EIO", "ENOSPC"]),
        ("renameat,renameat2", &["EIO", "ENOSPC"]),
        ("fsetxattr", &["ENOSPC"]),
        ("fchmod", &["EPERM"]),
        ("ftruncate", &["EIO"]),
        ("openat2", &["EMFILE"]),
    ] {
        for error in errors {
            let mut survived = 0;
            for k in 1..60 {
                let Some(daemon) = with_fault(call, error, k)? else { continue };
                std::fs::write(daemon.path("new"), &new)?;
                // The start makes some of these calls too: a put before this one takes the thread of the
                // files past their number.
                daemon.ftc_unix().input("warm").run(["-q", "put", "-", ":warm"])?;
                let ran = daemon.ftc_unix().run(["-q", "put", "new", ":f"])?;
                let stored = std::fs::read(daemon.stored("f"))?;
                let case = format!("{call} {error} at {k}: {}", ran.err);
                let injected = was_injected(&daemon)?;
                match ran.code {
                    Some(0) => assert_eq!(stored, new, "{case}"),
                    _ if ran.err.contains("UNKNOWN_OUTCOME") => {
                        assert!(stored == new || stored == b"old", "{case}");
                    }
                    _ => {
                        assert!(injected, "{case}");
                        assert_eq!(stored, b"old", "{case}");
                    }
                }
                if !injected {
                    break; // The put makes fewer calls than that.
                }
                daemon.assert_nothing_staged()?;
                daemon
                    .ftc_unix()
                    .ok(["-q", "put", "new", ":f"])
                    .map_err(|told| format!("{case}\nand then {told}"))?;
                assert_eq!(std::fs::read(daemon.stored("f"))?, new, "{case}");
                survived += usize::from(ran.code != Some(0));
            }
            assert!(survived > 0 || call == "ftruncate", "{call} {error} was never met by a put");
        }
    }
    Ok(())
}

/// B7, S-04, S-05: whichever flush fails, "stored" is not said.
#[test]
fn a_failed_flush_is_never_acknowledged() -> TestResult {
    let mut refused = Vec::new();
    for k in 1..20 {
        let Some(daemon) = with_fault("fsync", "EIO", k)? else { continue };
        std::fs::write(daemon.path("new"), "new")?;
        let ran = daemon.ftc_unix().run(["put", "new", ":a/b/c"])?;
        if !was_injected(&daemon)? {
            assert_eq!(ran.code, Some(0), "{}", ran.err);
            break;
        }
        assert_ne!(ran.code, Some(0), "fsync {k} failed: {}", ran.err);
        assert!(!ran.err.contains("stored"), "{}", ran.err);
        refused.push(ran.err);
    }
    assert!(
        refused.len() >= 4,
        "file, directory, and two new directories are flushed: {refused:?}"
    );
    assert!(
        refused[0].contains("(IO)")
            && refused[1..].iter().all(|told| told.contains("UNKNOWN_OUTCOME")),
        "{refused:?}"
    );
    Ok(())
}

/// B7, S-04: a flush beside the writing that fails is not forgotten by the commit, although its own flush
/// succeeds; and nothing is kept to be continued that is not safe.
#[test]
fn a_flush_beside_the_writing_that_fails_is_never_acknowledged() -> TestResult {
    const STEP: usize = 64 << 20; // Bytes between two flushes.
    let content = noise(STEP + (3 << 20), 5);
    for error in ["EIO", "ENOSPC"] {
        for is_resumable in [false, true] {
            let daemon = with_fault("fdatasync", error, 1)?.ok_or("the start flushes no data")?;
            let mut raw = Raw::greeted(&daemon)?;
            let request = json!({"verb": "put", "path": "f", "bytes": content.len(),
                "resumable": is_resumable});
            raw.request(1, &request)?;
            for chunk in content.chunks(1 << 20) {
                raw.send(DATA, 1, chunk)?;
            }
            raw.send(EOF, 1, b"")?;
            raw.send(TRAILER, 1, &trailer(&content))?;
            let code = raw.expect()?.code();
            let case = format!("{error}, resumable: {is_resumable}");
            assert_eq!(code, if error == "EIO" { "IO" } else { "NO_SPACE" }, "{case}");
            assert!(was_injected(&daemon)?, "{case}");
            assert_eq!(std::fs::read(daemon.stored("f"))?, b"old", "{case}");
            daemon.assert_nothing_staged()?;
            let asked = json!({"verb": "resume", "path": "f"});
            assert_eq!(raw.code_of(2, &asked)?, "NOT_FOUND", "{case}");
        }
    }
    Ok(())
}

/// S-01, S-04, B7: each call that a change of names makes fails once: it is done, or nothing is, or nobody
/// knows and the answer says so.
#[test]
fn a_change_survives_the_failure_of_every_step() -> TestResult {
    let verbs = [
        (json!({"verb": "remove", "path": "f"}), &["unlinkat", "fsync"][..]),
        (json!({"verb": "rmdir", "path": "d"}), &["unlinkat", "fsync"]),
        (
            json!({"verb": "mkdir", "path": "n/e/w", "parents": true}),
            &["mkdirat", "fsync", "openat2"],
        ),
        (
            json!({"verb": "rename", "path": "f", "to": "d/g", "replace": true}),
            &["renameat,renameat2", "fsync"],
        ),
    ];
    let state = |daemon: &Daemon| -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let mut found = Vec::new();
        for name in ["f", "d", "d/g", "n", "n/e", "n/e/w"] {
            found.extend(daemon.stored(name).exists().then(|| name.to_owned()));
        }
        Ok(found)
    };
    for (request, calls) in &verbs {
        for call in *calls {
            let error = if *call == "openat2" { "EMFILE" } else { "EIO" };
            let mut survived = 0;
            for k in 1..40 {
                let Some(daemon) = with_fault(call, error, k)? else { continue };
                std::fs::create_dir(daemon.stored("d"))?;
                if request["verb"] == "rename" {
                    std::fs::write(daemon.stored("d/g"), "replaced")?;
                }
                let before = state(&daemon)?;
                // As above: a put takes the thread of the files past what the start met.
                daemon.ftc_unix().input("warm").run(["-q", "put", "-", ":warm"])?;
                let mut raw = Raw::greeted(&daemon)?;
                let code = raw.code_of(1, request)?;
                let (after, case) = (state(&daemon)?, format!("{request} {call} at {k}: {code}"));
                match code.as_str() {
                    "frame 8" => assert_ne!(before, after, "{case}"),
                    "UNKNOWN_OUTCOME" => {}
                    "IO" | "BUSY" => assert_eq!(before, after, "{case}"),
                    _ => return Err(case.into()),
                }
                if !was_injected(&daemon)? {
                    break; // The change makes fewer calls than that.
                }
                survived += usize::from(code != "frame 8");
                if after == before {
                    assert_eq!(raw.code_of(2, request)?, "frame 8", "{case}, and then");
                }
            }
            assert!(survived > 0, "{call} was never met by {request}");
        }
    }
    Ok(())
}

/// B7: of files that are committed together each stands or falls by itself: what fails for one refuses that
/// one, a directory whose flush fails leaves the outcome of its files open, and no flush is repeated.
#[test]
fn of_a_batch_only_what_failed_is_refused() -> TestResult {
    let directories = ["a", "b"];
    let files: Vec<_> = (0..30_usize)
        .map(|number| (format!("{}/f{number}", directories[number % 2]), noise(500, number as u64)))
        .collect();
    let (mut refused, mut unknown) = (0, 0);
    for (call, error, when, code) in [
        ("fsync", "EIO", &[1, 2, 3, 4, 5, 6][..], "IO"), // Of each of the threads that flush.
        ("pwrite64", "ENOSPC", &[3, 17], "NO_SPACE"),
        ("renameat,renameat2", "EIO", &[5, 18], "IO"),
        ("fsetxattr", "ENOSPC", &[6], "NO_SPACE"),
        ("fadvise64", "EIO", &[7], "none"),
    ] {
        for k in when {
            let Some(daemon) = with_fault(call, error, *k)? else { continue };
            for name in directories {
                std::fs::create_dir(daemon.stored(name))?;
            }
            let mut raw = Raw::greeted(&daemon)?;
            raw.bytes(&puts(&files))?;
            let mut failed = Vec::new();
            for _ in &files {
                let answer = raw.expect()?;
                let (name, content) = &files[answer.id as usize - 1];
                let case = format!("{call} {error} at {k}, {name}: {}", answer.code());
                let stored = std::fs::read(daemon.stored(name)).ok();
                match answer.code().as_str() {
                    "UNKNOWN_OUTCOME" => {
                        assert_eq!(stored.as_ref(), Some(content), "{case}");
                        unknown += 1;
                    }
                    _ if answer.kind == ANSWER => {
                        assert_eq!(stored.as_ref(), Some(content), "{case}");
                    }
                    told => {
                        assert!(told == code && stored.is_none(), "{case}");
                        failed.push(name);
                    }
                }
            }
            // Some flushes that failed were of directories.
            let trace = std::fs::read_to_string(daemon.path("trace"))?;
            let injected = trace.lines().filter(|line| line.contains("(INJECTED)")).count();
            assert!(failed.len() <= injected, "{call} {error} at {k}: {failed:?}");
            assert!(call == "fsync" || injected <= 1, "{call} {error} at {k}: {trace}");
            refused += failed.len();
            daemon.assert_nothing_staged()?;
        }
    }
    println!("{refused} refused, {unknown} unknown");
    assert!(refused >= 6 && unknown >= 2, "{refused} refused, {unknown} unknown");
    Ok(())
}

/// S-07: a file that cannot be read to its end is never shown at the other.
#[test]
fn a_get_that_fails_half_way_leaves_nothing() -> TestResult {
    let setup = Setup::with(support::ALL_RIGHTS, "[limits]\nfile-workers = 1")?;
    std::fs::create_dir(setup.path("root/alice"))?;
    // Long enough that some thread gets to its fourth read, whichever they are: strace counts each.
    std::fs::write(setup.path("root/alice/f"), noise(16 << 20, 8))?;
    let daemon =
        setup.start_traced(&["-e", "trace=pread64", "-e", "inject=pread64:error=EIO:when=4"])?;
    let ran = daemon.ftc_unix().run(["get", ":f", "back"])?;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("(IO)") && !daemon.path("back").exists(), "{}", ran.err);
    let left = std::fs::read_dir(daemon.dir.path())?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains(".part"));
    assert_eq!(left.count(), 0);
    daemon.ftc_unix().ok(["ls"])?; // Which reads no file: another thread's fourth may be due.
    Ok(())
}

/// Runs `ftc` under strace, which does something at the k-th call of one kind: the exit code, what was
/// told, and whether there was such a call.
fn traced_client(
    daemon: &Daemon,
    (call, what, k): (&str, &str, usize),
    words: &[&str],
) -> Result<(Option<i32>, String, bool), Box<dyn std::error::Error>> {
    let output = std::process::Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(daemon.path("client-trace"))
        .args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{what}:when={k}")])
        .arg(env!("CARGO_BIN_EXE_ftc"))
        .args(words)
        .env_clear()
        .env("HOME", daemon.dir.path())
        .env("FTC_SERVER", daemon.unix_server())
        .env("FTC_RETRY", "0s")
        .current_dir(daemon.dir.path())
        .output()?;
    let trace = std::fs::read_to_string(daemon.path("client-trace"))?;
    let was_met = trace.contains("(INJECTED)") || trace.contains("--- SIGINT");
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), was_met))
}

fn left_here(daemon: &Daemon) -> std::io::Result<usize> {
    let names = std::fs::read_dir(daemon.dir.path())?.flatten();
    Ok(names.filter(|entry| entry.file_name().to_string_lossy().contains(".part")).count())
}

/// L-09: a disk here that is full, fails, or takes no changes, at each step of a get.
#[test]
fn a_get_survives_the_failure_of_every_step_here() -> TestResult {
    let daemon = Daemon::start()?;
    let new = noise(3 << 20, 4);
    std::fs::write(daemon.path("new"), &new)?;
    daemon.ftc_unix().ok(["put", "new", ":f"])?;
    for (call, error, code) in [
        ("pwrite64", "ENOSPC", 8),
        ("pwrite64", "EIO", 1),
        ("pwrite64", "EROFS", 1),
        ("fsync", "EIO", 1),
        ("renameat,renameat2", "ENOSPC", 8),
        ("renameat,renameat2", "EROFS", 1),
    ] {
        let mut met = 0;
        for k in 1..20 {
            std::fs::write(daemon.path("back"), "old")?;
            let words = ["get", ":f", "back"];
            let fault = format!("error={error}");
            let (ended, err, was_met) = traced_client(&daemon, (call, &fault, k), &words)?;
            let back = std::fs::read(daemon.path("back"))?;
            let case = format!("{call} {error} at {k}: {ended:?} {err}");
            if !was_met {
                assert!(ended == Some(0) && back == new, "{case}");
                break;
            }
            met += 1;
            // What fails only after the rename has brought the new file; nothing else is between.
            assert!(ended == Some(code) || back == new, "{case}");
            assert!(ended != Some(0) || back == new, "{case}");
            assert!(back == b"old" || back == new, "{case}");
            assert_eq!(left_here(&daemon)?, 0, "{case}");
        }
        assert!(met > 0, "{call} was never met");
    }
    Ok(())
}

/// A get flushes what it fetches, unless the user does without: on the line, or in the configuration.
#[test]
fn a_get_flushes_unless_it_is_told_not_to() -> TestResult {
    let daemon = Daemon::start()?;
    daemon.ftc_unix().input("new").ok(["put", "-", ":f"])?;
    std::fs::write(daemon.path("none.toml"), "durability = \"none\"\n")?;
    for (words, flushes) in [
        (&["get", ":f", "back"][..], true),
        (&["get", "--durability", "none", ":f", "back"], false),
        (&["get", "--config", "none.toml", ":f", "back"], false),
        (&["get", "--config", "none.toml", "--durability", "full", ":f", "back"], true),
    ] {
        let (ended, err, was_met) = traced_client(&daemon, ("fsync", "error=EIO", 1), words)?;
        assert_eq!((ended == Some(0), was_met), (!flushes, flushes), "{words:?}: {ended:?} {err}");
    }
    assert_eq!(std::fs::read(daemon.path("back"))?, b"new");
    Ok(())
}

/// L-11: Ctrl-C at any step of a put or a get leaves the old file or the new one, and the same again
/// brings the new one.
#[test]
fn an_interruption_at_any_step_shows_nothing_half() -> TestResult {
    let daemon = Daemon::start()?;
    let new = noise(3 << 20, 4);
    std::fs::write(daemon.path("new"), &new)?;
    daemon.ftc_unix().ok(["put", "new", ":f"])?;
    let (back, up) = (daemon.path("back"), daemon.stored("up"));
    for (call, words, target) in [
        ("pwrite64", &["get", ":f", "back"][..], &back),
        ("fsync,renameat", &["get", ":f", "back"], &back),
        ("sendto,sendmsg,writev,recvfrom", &["get", ":f", "back"], &back),
        ("sendto,sendmsg,writev,recvfrom", &["put", "new", ":up"], &up),
        ("pread64", &["put", "new", ":up"], &up),
    ] {
        let mut met = 0;
        for k in 1..14 {
            std::fs::write(target, "old")?;
            let (ended, err, was_met) = traced_client(&daemon, (call, "signal=SIGINT", k), words)?;
            let case = format!("{words:?} {call} at {k}: {ended:?} {err}");
            let found = std::fs::read(target)?;
            if !was_met {
                break;
            }
            met += 1;
            // The signal may come when all is done, or before anything is begun.
            assert!(matches!(ended, Some(0 | 11) | None), "{case}");
            assert!(ended != Some(0) || found == new, "{case}");
            assert!(found == b"old" || found == new, "{case}");
            assert_eq!(left_here(&daemon)?, 0, "{case}");
            daemon.ftc_unix().env("FTC_RETRY", "20s").ok(words)?;
            assert!(std::fs::read(target)? == new, "{case}");
            assert_eq!(left_here(&daemon)?, 0, "{case}");
        }
        assert!(met > 0, "{call} was never met by {words:?}");
    }
    daemon.assert_nothing_staged()
}

/// G-06, G-10: no openat2, no Landlock, no seccomp: a clear refusal, and with best-effort a start that says so.
#[test]
fn a_kernel_that_cannot_confine_is_refused() -> TestResult {
    for (call, error, code, why) in [
        ("openat2", "ENOSYS", 78, "RestrictSUIDSGID"),
        ("openat2", "EPERM", 78, "RestrictSUIDSGID"),
        ("landlock_create_ruleset", "ENOSYS", 1, "Landlock"),
        ("landlock_create_ruleset", "EOPNOTSUPP", 1, "Landlock"),
        ("seccomp", "EINVAL", 1, "seccomp"),
    ] {
        for verb in ["check", "serve"] {
            let setup = Setup::new()?;
            let inject = format!("inject={call}:error={error}");
            let output = setup
                .traced(&["-e", &format!("trace={call}"), "-e", &inject])
                .args([verb, "--config"])
                .arg(setup.path("ftd.toml"))
                .output()?;
            let told = String::from_utf8(output.stderr)?;
            assert_eq!(output.status.code(), Some(code), "{verb}, {call}: {told}");
            assert!(told.contains(why), "{verb}, {call}: {told}");
        }
    }
    Ok(())
}
