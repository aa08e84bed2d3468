//! Goal: an upload that is cut goes on where it was safe, for its owner alone, and what comes of it is the
//! whole content or nothing (catalogue C-05, C-06, C-09, X-05, X-10, X-11, R-08, R-16).
//! Method: real daemon, raw frames, real sizes; cut by closing, by killing, by stopping.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;
#[path = "resume/uploads.rs"]
mod uploads;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::raw::{ABORT, ANSWER, CANCEL, DATA, EOF, Raw, TRAILER, trailer};
use support::{ALL_RIGHTS, Daemon, Setup, TestResult, sha256};
use uploads::{
    Fallible, MIB, begin, content, cut, go_on, kept, plant, put, staged, wait_for_checkpoint,
    wait_for_staged,
};

/// A get: its announcement, its content, and its end.
type Got = (Value, Vec<u8>, Value);

/// What arrived before the connection was lost is not sent again.
#[test]
fn a_lost_connection_costs_nothing_that_has_arrived() -> TestResult {
    let daemon = Daemon::start()?;
    let all = content(70 * MIB, 1);
    for (round, cut) in [MIB, 5 * MIB + 77, 64 * MIB, 69 * MIB + 1].into_iter().enumerate() {
        let path = format!("dir{round}/f");
        self::cut(&daemon, &put(&path, all.len()), &all[..cut])?;
        let (offset, code) = go_on(&daemon, &path, &all)?;
        assert_eq!(code, "ok");
        // The last buffer, which was not full, may be lost with the connection.
        assert!(offset <= cut && cut - offset < MIB, "cut at {cut}, safe up to {offset}");
        assert!(std::fs::read(daemon.stored(&path))? == all, "the content after a cut at {cut}");
        assert_eq!(xattr::get(daemon.stored(&path), "user.ftd.upload")?, None);
        assert_eq!(kept(&daemon, &path)?, Err("NOT_FOUND".to_owned()), "nothing is left to resume");
    }
    daemon.assert_nothing_staged()
}

/// X-01, X-10: the daemon is killed; the last checkpoint holds, and what is resumed is read by nobody.
#[test]
fn a_killed_daemon_loses_one_checkpoint_at_most() -> TestResult {
    let mut daemon = Daemon::start()?;
    let all = content(200 * MIB, 2);
    let mut raw = Raw::greeted(&daemon)?;
    begin(&mut raw, 1, &put("f", all.len()), &all[..190 * MIB])?;
    wait_for_checkpoint(&daemon, 64 << 20)?;
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait()?;
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
    let setup = Setup { dir };
    let daemon = setup.start_traced(&["-e", "trace=pread64,read,readv,preadv", "-y"])?;
    let (offset, code) = go_on(&daemon, "f", &all)?;
    assert_eq!(code, "ok");
    assert!(offset >= 64 * MIB, "safe up to {offset}");
    assert!(std::fs::read(daemon.stored("f"))? == all);
    let trace = std::fs::read_to_string(daemon.path("trace"))?;
    let reads: Vec<_> = trace.lines().filter(|line| line.contains(".ftd-stage/keep-")).collect();
    assert!(reads.is_empty(), "what was safe is not read again: {reads:?}");
    daemon.assert_nothing_staged()
}

/// A stop in the middle of an upload keeps it, also when the drain is cut short.
#[test]
fn a_stopped_daemon_keeps_what_was_safe() -> TestResult {
    let mut daemon = Setup::with(ALL_RIGHTS, "[limits]\ndrain-timeout = \"1s\"")?.start()?;
    let all = content(150 * MIB, 3);
    let mut raw = Raw::greeted(&daemon)?;
    begin(&mut raw, 1, &put("f", all.len()), &all[..140 * MIB])?;
    wait_for_checkpoint(&daemon, 64 << 20)?;
    daemon.signal(Signal::SIGTERM)?;
    daemon.wait()?;
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
    let daemon = Setup { dir }.start()?;
    let (offset, code) = go_on(&daemon, "f", &all)?;
    assert_eq!((code.as_str(), offset >= 64 * MIB), ("ok", true), "safe up to {offset}");
    assert!(std::fs::read(daemon.stored("f"))? == all);
    Ok(())
}

/// R-08: whoever stalls is closed, and what came is kept.
#[test]
fn a_stalled_upload_is_closed_and_kept() -> TestResult {
    let daemon = Setup::with(ALL_RIGHTS, "[limits]\nstall-timeout = \"1s\"")?.start()?;
    let all = content(70 * MIB, 4);
    let mut raw = Raw::greeted(&daemon)?;
    begin(&mut raw, 1, &put("f", all.len()), &all[..3 * MIB])?;
    raw.expect_closed("TIMEOUT")?;
    assert_eq!(go_on(&daemon, "f", &all)?, (3 * MIB, "ok".to_owned()));
    Ok(())
}

/// What is given up on purpose, refused, too small, or not asked to be kept, is not kept.
#[test]
fn only_a_cut_of_what_is_resumable_keeps_anything() -> TestResult {
    let daemon = Daemon::start()?;
    let all = content(70 * MIB, 5);
    let part = &all[..4 * MIB];
    let mut raw = Raw::greeted(&daemon)?;
    for (id, end) in [(1, ABORT), (2, CANCEL)] {
        begin(&mut raw, id, &put("f", all.len()), part)?;
        raw.send(end, id, if end == ABORT { b"{}" } else { b"" })?;
        assert_eq!(raw.expect()?.kind, ABORT);
    }
    begin(&mut raw, 3, &json!({"verb": "put", "path": "f", "resumable": true}), part)?;
    raw.send(EOF, 3, b"")?;
    let mut wrong = trailer(part);
    let at = wrong.len() - 3;
    wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
    raw.send(TRAILER, 3, &wrong)?;
    assert_eq!(raw.expect()?.code(), "BAD_DIGEST");
    for (id, request, part) in [
        (4, json!({"verb": "put", "path": "f", "bytes": all.len()}), part),
        (5, put("f", 64 * MIB - 1), part),
        (6, put("f", all.len()), &part[..MIB - 1]),
    ] {
        begin(&mut raw, id, &request, part)?;
    }
    drop(raw);
    daemon.assert_nothing_staged()?;
    assert_eq!(kept(&daemon, "f")?, Err("NOT_FOUND".to_owned()));
    Ok(())
}

/// C-05: while one connection writes an upload nobody else gets it; a wrong offset or name gets nothing.
#[test]
fn an_upload_has_one_writer() -> TestResult {
    let daemon = Daemon::start()?;
    let all = content(70 * MIB, 6);
    let (upload, offset) = cut(&daemon, &put("f", all.len()), &all[..8 * MIB])?;
    let resume = |path: &str, upload: &str, offset: usize| {
        json!({"verb": "put", "path": path, "bytes": all.len(),
            "resume": {"upload": upload, "offset": offset}})
    };
    let mut other = Raw::greeted(&daemon)?;
    for (id, path, upload, offset, code) in [
        (1, "f", &*upload, offset - 1, "CHANGED"),
        (2, "f", &upload, offset + 1, "CHANGED"),
        (3, "g", &upload, offset, "NOT_FOUND"),
        (4, "f", "0123456789abcdef0123456789abcdef", offset, "NOT_FOUND"),
        (5, "f", "../../../../etc/passwd", offset, "NOT_FOUND"),
        (6, "f", "", offset, "NOT_FOUND"),
    ] {
        other.request(id, &resume(path, upload, offset))?;
        assert_eq!(other.expect()?.code(), code, "{path} {upload} {offset}");
        other.send(CANCEL, id, b"")?;
    }
    let mut first = Raw::greeted(&daemon)?;
    begin(&mut first, 1, &resume("f", &upload, offset), &all[offset..20 * MIB])?;
    while std::fs::metadata(daemon.path("root/.ftd-stage").join(format!("keep-{upload}")))?.len()
        < 10 << 20
    {
        support::pause();
    }
    other.request(7, &resume("f", &upload, offset))?;
    assert_eq!(other.expect()?.code(), "BUSY");
    assert_eq!(other.code_of(8, &json!({"verb": "resume", "path": "f"}))?, "BUSY");
    drop(first);
    let (offset, code) = go_on(&daemon, "f", &all)?;
    assert_eq!(code, "ok");
    assert!(offset > 18 * MIB, "both parts were kept: {offset}");
    assert!(std::fs::read(daemon.stored("f"))? == all);
    daemon.assert_nothing_staged()
}

/// C-06: another user who shares the home, and knows the upload's name, learns and gets nothing.
#[test]
fn an_upload_is_its_owners_alone() -> TestResult {
    let setup = Setup::new()?;
    let key = std::fs::read_to_string(setup.path("key.pub"))?;
    let (uid, dir) = (nix::unistd::geteuid(), setup.dir.path().display().to_string());
    let with = |alice: &str, bob: &str| {
        format!(
            "root = \"{dir}/root\"\nlisten = [\"127.0.0.1:0\", \"unix:{dir}/sock\"]\nhost-key = \"{dir}/host_key\"\n\
             [[user]]\nname = \"alice\"\nhome = \"alice\"\n{alice}\nallow = {ALL_RIGHTS}\n\
             [[user]]\nname = \"bob\"\nhome = \"alice\"\n{bob}\nallow = {ALL_RIGHTS}\n"
        )
    };
    let (by_unix, by_key) = (format!("unix = [\"{uid}\"]"), format!("keys = [\"{}\"]", key.trim()));
    setup.write_config(&with(&by_unix, &by_key))?;
    let daemon = setup.start()?;
    let all = content(70 * MIB, 7);
    let (upload, offset) = cut(&daemon, &put("f", all.len()), &all[..8 * MIB])?;
    // The same account is bob from now on.
    std::fs::write(daemon.path("ftd.toml"), with(&by_key, &by_unix))?;
    daemon.signal(Signal::SIGHUP)?;
    daemon.wait_for_log("configuration reloaded")?;
    assert_eq!(kept(&daemon, "f")?, Err("NOT_FOUND".to_owned()));
    assert_eq!(kept(&daemon, "none")?, Err("NOT_FOUND".to_owned()));
    let mut bob = Raw::greeted(&daemon)?;
    let request = json!({"verb": "put", "path": "f", "bytes": all.len(),
        "resume": {"upload": upload, "offset": offset}});
    assert_eq!(bob.code_of(1, &request)?, "NOT_FOUND");
    assert_eq!(staged(&daemon)?, 1, "alice's upload is untouched");
    Ok(())
}

/// The right to put is the right to resume, and it is asked for both times.
#[test]
fn who_may_not_put_may_not_resume() -> TestResult {
    let daemon = Setup::with(r#"["get", "list"]"#, "")?.start()?;
    for path in ["f", "none"] {
        assert_eq!(kept(&daemon, path)?, Err("DENIED".to_owned()));
    }
    let mut raw = Raw::greeted(&daemon)?;
    for (id, path) in [(1, "../f"), (2, ".ftd-stage/x"), (3, "a//b")] {
        assert_eq!(raw.code_of(id, &json!({"verb": "resume", "path": path}))?, "BAD_NAME");
    }
    Ok(())
}

/// The staging directory before the daemon's first start.
fn stage_by_hand(setup: &Setup) -> Result<PathBuf, std::io::Error> {
    let stage = setup.path("root/.ftd-stage");
    std::fs::create_dir(&stage)?;
    std::fs::set_permissions(&stage, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(stage)
}

/// X-05, X-11, R-16: of thousands of old staging files those that can be continued are kept, 64 of a user,
/// and all the rest goes while the daemon serves already.
#[test]
fn a_start_keeps_what_can_be_continued_and_sweeps_the_rest() -> TestResult {
    let setup = Setup::new()?;
    let stage = stage_by_hand(&setup)?;
    let hash = "00".repeat(105);
    let mark = |offset: u64, target: &str| format!("1 {offset} {hash} alice alice/{target}");
    for number in 0..10_000 {
        match number % 5 {
            0 => std::fs::write(stage.join(format!("{number:032x}")), "unfinished")?,
            1 => plant(&setup, number, 100, None)?,
            2 => plant(&setup, number, 100, Some(&mark(101, "short")))?,
            3 => plant(&setup, number, 100, Some(&format!("2{}", &mark(100, "later")[1..])))?,
            _ => plant(&setup, number, 100, Some("1 100 zz alice ../../etc/passwd"))?,
        }
    }
    let day = Duration::from_hours(24);
    for number in 20_000..20_100_u128 {
        plant(&setup, number, 100, Some(&mark(100, &format!("f{number}"))))?;
        let age = day / 20 * u32::try_from(number - 20_000)?;
        let file =
            std::fs::File::options().write(true).open(stage.join(format!("keep-{number:032x}")))?;
        file.set_modified(SystemTime::now() - age)?;
    }
    let started = std::time::Instant::now();
    let daemon = setup.start()?;
    let ready = started.elapsed();
    println!("assurance: X-05: ready {ready:.1?} after a start with 10,100 old files");
    daemon.ftc_unix().ok(["ls"])?;
    wait_for_staged(&daemon, 64)?;
    let log = daemon.wait_for_log("swept=10036")?;
    assert!(log.find(" ready") < log.find("swept="), "nobody waits for the sweep: {log}");
    for number in [20_000, 20_063] {
        // They are alice's, and of a state that is none: found, and refused without a panic.
        assert_eq!(kept(&daemon, &format!("f{number}"))?, Err("NOT_FOUND".to_owned()));
        assert!(
            stage.exists() || daemon.path(&format!("root/.ftd-stage/keep-{number:032x}")).exists()
        );
    }
    assert!(!daemon.path(&format!("root/.ftd-stage/keep-{:032x}", 20_064)).exists());
    Ok(())
}

/// What nobody goes on with expires.
#[test]
fn an_upload_expires() -> TestResult {
    let mut daemon = Daemon::start()?;
    let all = content(70 * MIB, 8);
    for path in ["old", "young"] {
        cut(&daemon, &put(path, all.len()), &all[..2 * MIB])?;
    }
    daemon.signal(Signal::SIGTERM)?;
    daemon.wait()?;
    for entry in std::fs::read_dir(daemon.path("root/.ftd-stage"))? {
        let path = entry?.path();
        let mark = xattr::get(&path, "user.ftd.upload")?.unwrap_or_default();
        if mark.ends_with(b"/old") {
            let week = Duration::from_mins(7 * 24 * 60 + 1);
            let file = std::fs::File::options().write(true).open(&path)?;
            file.set_modified(SystemTime::now() - week)?;
        }
    }
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
    let daemon = Setup { dir }.start()?;
    assert_eq!(kept(&daemon, "old")?, Err("NOT_FOUND".to_owned()));
    assert_eq!(go_on(&daemon, "young", &all)?, (2 * MIB, "ok".to_owned()));
    daemon.assert_nothing_staged()
}

/// A put from the start, when it is kept or stored, takes the place of what was kept before.
#[test]
fn the_youngest_of_a_path_is_kept() -> TestResult {
    let daemon = Daemon::start()?;
    let (first, second) = (content(70 * MIB, 9), content(70 * MIB, 10));
    for (all, bytes) in [(&first, 9 * MIB), (&second, 2 * MIB)] {
        cut(&daemon, &put("f", all.len()), &all[..bytes])?;
        wait_for_staged(&daemon, 1)?;
    }
    assert_eq!(go_on(&daemon, "f", &second)?, (2 * MIB, "ok".to_owned()));
    cut(&daemon, &put("f", first.len()), &first[..3 * MIB])?;
    let mut raw = Raw::greeted(&daemon)?;
    begin(&mut raw, 1, &put("f", first.len()), &first)?;
    raw.send(EOF, 1, b"")?;
    raw.send(TRAILER, 1, &trailer(&first))?;
    assert_eq!(raw.expect()?.kind, ANSWER);
    assert_eq!(kept(&daemon, "f")?, Err("NOT_FOUND".to_owned()));
    daemon.assert_nothing_staged()
}

/// A put of any size and kind, once it is stored, takes the place of what was kept, in the quota too; one
/// that fails takes nothing's.
#[test]
fn whatever_is_stored_takes_the_place_of_what_was_kept() -> TestResult {
    let setup = Setup::new()?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.write_config(&(text + "quota = \"80MiB\"\n"))?;
    let daemon = setup.start()?;
    let all = content(70 * MIB, 11);
    for (request, why) in [
        (json!({"verb": "put", "path": "f", "bytes": 5}), "announced"),
        (json!({"verb": "put", "path": "f"}), "of unknown size"),
        (put("f", 5), "too small to be kept itself"),
    ] {
        cut(&daemon, &put("f", all.len()), &all[..9 * MIB])?;
        let mut raw = Raw::greeted(&daemon)?;
        let room = json!({"verb": "check", "path": "g", "bytes": 80 * MIB - 5});
        for (id, said, code) in [(1, &b"other"[..], "BAD_DIGEST"), (2, b"small", "frame 8")] {
            assert_eq!(raw.code_of(10 * id, &room)?, "QUOTA", "{why}: what is kept counts");
            begin(&mut raw, 10 * id + 1, &request, b"small")?;
            raw.send(EOF, 10 * id + 1, b"")?;
            raw.send(TRAILER, 10 * id + 1, &trailer(said))?;
            assert_eq!(raw.expect()?.code(), code, "{why}");
        }
        assert_eq!(kept(&daemon, "f")?, Err("NOT_FOUND".to_owned()), "{why}");
        assert_eq!(raw.code_of(30, &room)?, "frame 8", "{why}: nothing is kept that would count");
        daemon.assert_nothing_staged()?;
    }
    Ok(())
}

/// The deepest path below a home is deeper than any that a client may spell: what is kept of it goes on all
/// the same, after a start too.
#[test]
fn an_upload_to_the_deepest_path_goes_on() -> TestResult {
    let mut daemon = Daemon::start()?;
    let path = vec!["d"; 64].join("/");
    let all = content(70 * MIB, 12);
    cut(&daemon, &put(&path, all.len()), &all[..2 * MIB])?;
    daemon.signal(Signal::SIGTERM)?;
    daemon.wait()?;
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
    let daemon = Setup { dir }.start()?;
    assert_eq!(go_on(&daemon, &path, &all)?, (2 * MIB, "ok".to_owned()));
    daemon.assert_nothing_staged()
}

/// C-11: what an earlier process has left is told old from young by the wall clock, which may have been set
/// back since: what is cut now is younger all the same, and stays.
#[test]
fn what_was_left_in_the_future_displaces_nothing() -> TestResult {
    let setup = Setup::new()?;
    let stage = stage_by_hand(&setup)?;
    for number in 0..64 {
        let mark = format!("1 100 {} alice alice/f{number}", "00".repeat(105));
        plant(&setup, number, 100, Some(&mark))?;
        let path = stage.join(format!("keep-{number:032x}"));
        let file = std::fs::File::options().write(true).open(path)?;
        file.set_modified(SystemTime::now() + Duration::from_hours(24))?;
    }
    let daemon = setup.start()?;
    let all = content(70 * MIB, 13);
    cut(&daemon, &put("new", all.len()), &all[..2 * MIB])?;
    wait_for_staged(&daemon, 64)?;
    assert_eq!(go_on(&daemon, "new", &all)?, (2 * MIB, "ok".to_owned()));
    Ok(())
}

/// A get goes on where it was cut, of the same version only.
#[test]
fn a_get_goes_on_with_the_version_that_it_began() -> TestResult {
    let daemon = Daemon::start()?;
    let mut raw = Raw::greeted(&daemon)?;
    raw.code_of(1, &json!({"verb": "stat"}))?;
    let all = content(5 * MIB, 11);
    raw.bytes(&support::raw::put(2, &json!("kept"), &all))?;
    raw.expect()?;
    std::fs::write(daemon.stored("local"), &all)?; // Without a digest: the part before is hashed too.
    let mut id = 2;
    let mut get = |request: &Value| -> Fallible<Result<Got, String>> {
        id += 1;
        raw.request(id, request)?;
        let first = raw.expect()?;
        if first.kind != ANSWER {
            return Ok(Err(first.code()));
        }
        let mut got = Vec::new();
        loop {
            let frame = raw.expect()?;
            match frame.kind {
                DATA => got.extend(frame.payload),
                EOF => {}
                _ => return Ok(Ok((first.json()["file"].clone(), got, frame.json()))),
            }
        }
    };
    for name in ["kept", "local"] {
        let whole = get(&json!({"verb": "get", "path": name}))??;
        let version = whole.0["version"].as_str().ok_or("no version")?.to_owned();
        assert!(version.len() <= 128);
        for offset in [0, 1, 512 * 1024, 3 * MIB + 3, 5 * MIB - 1, 5 * MIB] {
            let request =
                json!({"verb": "get", "path": name, "offset": offset, "version": version});
            let (file, got, end) = get(&request)??;
            assert_eq!(
                (file["bytes"].as_u64(), &file["version"]),
                (Some(5 << 20), &json!(version))
            );
            assert!(got == all[offset..], "{name} from {offset}");
            assert_eq!(end, json!({"bytes": 5 << 20, "sha256": sha256(&all)}), "of the whole");
        }
        for (offset, version, code) in [
            (json!(5 * MIB + 1), json!(version), "CHANGED"),
            (json!(1), json!("another"), "CHANGED"),
            (json!(0), json!(""), "CHANGED"),
            (json!(1), Value::Null, "PROTOCOL"),
            (json!(u64::MAX), json!(version), "CHANGED"),
        ] {
            let mut request = json!({"verb": "get", "path": name, "offset": offset});
            if !version.is_null() {
                request["version"] = version;
            }
            assert_eq!(get(&request)?.err().as_deref(), Some(code), "{request}");
        }
        std::fs::write(daemon.stored(name), &all)?;
        let request = json!({"verb": "get", "path": name, "offset": 1, "version": version});
        assert_eq!(
            get(&request)?.err().as_deref(),
            Some("CHANGED"),
            "the same bytes, written anew"
        );
    }
    Ok(())
}

/// `check` says what the put would say, and changes nothing.
#[test]
fn a_check_says_what_the_put_would_say() -> TestResult {
    for (rights, rows) in [
        (
            ALL_RIGHTS,
            &[
                (json!({"path": "new"}), "false"),
                (json!({"path": "new/dir/f"}), "false"),
                (json!({"path": "file"}), "true"),
                (json!({"path": "file", "replace": false}), "EXISTS"),
                (json!({"path": "dir"}), "WRONG_TYPE"),
                (json!({"path": "file/x"}), "WRONG_TYPE"),
                (json!({"path": "../x"}), "BAD_NAME"),
                (json!({"path": "new\nline"}), "BAD_NAME"),
                (json!({"path": "new", "bytes": 10_485_760}), "false"),
                (json!({"path": "new", "bytes": 10_485_761}), "TOO_LARGE"),
            ][..],
        ),
        (
            r#"["create", "list"]"#,
            &[
                (json!({"path": "new"}), "false"),
                (json!({"path": "new/dir/f"}), "NOT_FOUND"),
                (json!({"path": "dir/f"}), "false"),
                (json!({"path": "file"}), "EXISTS"),
            ],
        ),
        (
            r#"["replace"]"#,
            &[(json!({"path": "new"}), "DENIED"), (json!({"path": "file"}), "true")],
        ),
        (r#"["get"]"#, &[(json!({"path": "new"}), "DENIED"), (json!({"path": "file"}), "DENIED")]),
    ] {
        let setup = Setup::with(rights, "[limits]\nmax-file-size = \"10MiB\"")?;
        std::fs::create_dir_all(setup.path("root/alice/dir"))?;
        std::fs::write(setup.path("root/alice/file"), "file")?;
        let daemon = setup.start()?;
        let mut raw = Raw::greeted(&daemon)?;
        for (row, (request, expected)) in rows.iter().enumerate() {
            let id = u32::try_from(row)? * 2 + 1;
            let mut check = request.clone();
            check["verb"] = json!("check");
            raw.request(id, &check)?;
            let frame = raw.expect()?;
            let told = match frame.json()["check"]["exists"].as_bool() {
                Some(exists) => exists.to_string(),
                None => frame.code(),
            };
            assert_eq!(told, *expected, "{rights} {request}");
            assert!(!daemon.stored("new").exists());
            if frame.kind != ANSWER {
                // The put itself says the same.
                check["verb"] = json!("put");
                raw.request(id + 1, &check)?;
                raw.send(EOF, id + 1, b"")?;
                raw.send(TRAILER, id + 1, &trailer(b""))?;
                let mut end = raw.expect()?;
                if check["bytes"].is_null() || end.id == id + 1 {
                    assert_eq!(end.code(), *expected, "put {request}");
                } else {
                    end = raw.expect()?;
                    assert_eq!(end.code(), *expected, "put {request}");
                }
            }
        }
    }
    Ok(())
}
