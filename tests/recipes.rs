//! Goal: what `docs/recipes.md` promises holds. Method: each recipe's configuration is taken from the
//! document, a real daemon is started with it, and every verb tries to get past it.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::raw::{ENTRIES, ERROR, Frame, Raw, put};
use support::{Daemon, Ftc, PATIENCE, Setup, TestResult, make_key};

const DOCUMENT: &str = include_str!("../docs/recipes.md");

/// The recipes that have a test here; the document has these and no others.
const RECIPES: [&str; 6] = [
    "Drop box",
    "Append-only backup",
    "Read-only mirror",
    "A private home for each user",
    "A shared folder with private corners",
    "Retention",
];

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// The configuration of a recipe, with keys that were made for it. `me` is this account, so that
/// [`Raw`] speaks as that user; the others come in by `key-NAME`.
fn configure(setup: &Setup, recipe: &str, me: &str) -> TestResult {
    let section = DOCUMENT.split(&format!("\n## {recipe}\n")).nth(1).ok_or("no such recipe")?;
    let block = section.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let dir = setup.dir.path().display();
    let uid = nix::unistd::geteuid();
    let mut text = format!(
        "root = \"{dir}/root\"\nlisten = [\"127.0.0.1:0\", \"unix:{dir}/sock\"]\nhost-key = \"{dir}/host_key\"\n"
    );
    let mut name = "";
    for line in block.ok_or("the recipe has no configuration")?.lines() {
        if let Some(("name", value)) = line.split_once('=').map(|(key, value)| (key.trim(), value))
        {
            name = value.trim().trim_matches('"');
            make_key(&setup.path(&format!("key-{name}")), "ed25519", "")?;
        }
        if line.starts_with("keys") {
            let key = std::fs::read_to_string(setup.path(&format!("key-{name}.pub")))?;
            text += &format!("keys = [{:?}]\n", key.trim());
            if name == me {
                text += &format!("unix = [\"{uid}\"]\n");
            }
        } else {
            text += &format!("{line}\n");
        }
    }
    setup.write_config(&text)
}

fn start(recipe: &str, me: &str) -> Fallible<Daemon> {
    let setup = Setup::new()?;
    configure(&setup, recipe, me)?;
    setup.start()
}

fn other(daemon: &Daemon, name: &str) -> Ftc {
    daemon.ftc_tls().env("FTC_IDENTITY", daemon.path(&format!("key-{name}")))
}

/// One user's connection, with ids that go up by themselves.
struct User(Raw, u32);

impl User {
    fn come(daemon: &Daemon) -> Fallible<Self> {
        Ok(Self(Raw::greeted(daemon)?, 0))
    }

    /// Sends a request and gives the first frame of its answer, what follows read and dropped.
    fn ask(&mut self, request: &Value) -> Fallible<Frame> {
        self.1 += 1;
        self.0.request(self.1, request)?;
        let first = self.0.expect()?;
        let mut last = first.clone();
        let streams = request["verb"] == "get" || request["verb"] == "list";
        while streams && !matches!(last.kind, ERROR | support::raw::TRAILER) {
            if last.kind == support::raw::ANSWER && request["verb"] == "list" {
                break;
            }
            last = self.0.expect()?;
        }
        Ok(first)
    }

    fn code(&mut self, request: &Value) -> Fallible<String> {
        Ok(self.ask(request)?.code())
    }

    fn put(&mut self, path: &str, content: &[u8]) -> Fallible<String> {
        self.1 += 1;
        self.0.bytes(&put(self.1, &json!(path), content))?;
        Ok(self.0.expect()?.code())
    }

    /// The names in a directory, sorted.
    fn names(&mut self, request: &Value) -> Fallible<Vec<String>> {
        let frame = self.ask(request)?;
        if frame.kind == ERROR {
            return Err(frame.code().into());
        }
        if frame.kind != ENTRIES {
            return Ok(Vec::new());
        }
        let entries = frame.json()["entries"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<_> =
            entries.iter().map(|entry| entry["name"].as_str().unwrap_or("?").to_owned()).collect();
        names.sort();
        Ok(names)
    }
}

const DONE: &str = "frame 8";

#[test]
fn every_recipe_is_tried_here() {
    let found: Vec<_> = DOCUMENT.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(found, RECIPES);
}

/// Verbs on one path that need more than `create`.
fn verbs(path: &str) -> Vec<Value> {
    vec![
        json!({"verb": "get", "path": path}),
        json!({"verb": "digest", "path": path}),
        json!({"verb": "list", "path": path}),
        json!({"verb": "stat", "path": path}),
        json!({"verb": "remove", "path": path}),
        json!({"verb": "rmdir", "path": path}),
        json!({"verb": "mkdir", "path": path}),
        json!({"verb": "rename", "path": path, "to": "elsewhere"}),
        json!({"verb": "rename", "path": "elsewhere", "to": path, "replace": true}),
    ]
}

/// A-07.
#[test]
fn a_drop_box_takes_and_shows_nothing() -> TestResult {
    let daemon = start("Drop box", "courier")?;
    let mut courier = User::come(&daemon)?;
    // An upload that is cut off is not in the way of the next.
    let mut cut = User::come(&daemon)?;
    cut.0.bytes(&put(1, &json!("parcel"), &support::noise(100_000, 7))[..50_000])?;
    drop(cut);
    daemon.assert_nothing_staged()?;
    assert_eq!(courier.put("parcel", b"first")?, DONE);
    assert_eq!(courier.put("parcel", b"second")?, "EXISTS");
    assert_eq!(courier.put("sub/parcel", b"x")?, "DENIED", "no directory is made");
    assert_eq!(courier.code(&json!({"verb": "list"}))?, "DENIED");
    for (there, missing) in verbs("parcel").iter().zip(verbs("nothing")) {
        let (there, missing) = (courier.ask(there)?, courier.ask(&missing)?);
        assert_eq!(there.code(), "DENIED");
        assert_eq!(there.payload, missing.payload, "to the byte");
    }
    assert_eq!(std::fs::read(daemon.path("root/inbox/parcel"))?, b"first");
    assert_eq!(std::fs::read_dir(daemon.path("root/inbox"))?.count(), 1);
    Ok(())
}

/// A-07, A-09: with the key of a machine that was taken over, nothing stored can be harmed.
#[test]
fn an_append_only_backup_cannot_be_harmed_with_its_own_key() -> TestResult {
    let daemon = start("Append-only backup", "backup-db1")?;
    let mut machine = User::come(&daemon)?;
    assert_eq!(machine.put("2026/11/db.sql", b"precious")?, DONE);
    assert_eq!(machine.put("2026/11/other", b"old")?, DONE);
    for attack in [
        json!({"verb": "remove", "path": "2026/11/db.sql"}),
        json!({"verb": "rmdir", "path": "2026/11"}),
        json!({"verb": "rename", "path": "2026/11/db.sql", "to": "gone"}),
        json!({"verb": "rename", "path": "2026", "to": "gone"}),
        json!({"verb": "rename", "path": "2026/11/other", "to": "2026/11/db.sql", "replace": true}),
    ] {
        assert_eq!(machine.code(&attack)?, "DENIED", "{attack}");
    }
    assert_eq!(machine.put("2026/11/db.sql", b"encrypted")?, "EXISTS");
    assert_eq!(machine.put("2026/11/db.sql", b"")?, "EXISTS", "nor emptied");
    assert_eq!(machine.put("2026/11", b"")?, "EXISTS", "nor a directory hidden by a file");
    assert_eq!(machine.code(&json!({"verb": "mkdir", "path": "2026/11/db.sql"}))?, "EXISTS");
    let stored = daemon.path("root/backups/db1/2026/11/db.sql");
    assert_eq!(std::fs::read(stored)?, b"precious");
    // And it can be restored.
    assert_eq!(machine.names(&json!({"verb": "list", "path": "2026/11"}))?, ["db.sql", "other"]);
    assert_eq!(machine.code(&json!({"verb": "get", "path": "2026/11/db.sql"}))?, DONE);
    Ok(())
}

#[test]
fn a_read_only_mirror_only_reads() -> TestResult {
    let setup = Setup::new()?;
    configure(&setup, "Read-only mirror", "mirror")?;
    std::fs::create_dir(setup.path("root/public"))?;
    std::fs::write(setup.path("root/public/file"), "content")?;
    let daemon = setup.start()?;
    let mut mirror = User::come(&daemon)?;
    assert_eq!(mirror.names(&json!({"verb": "list"}))?, ["file"]);
    for (verb, code) in [("get", DONE), ("digest", DONE), ("stat", DONE), ("remove", "DENIED")] {
        assert_eq!(mirror.code(&json!({"verb": verb, "path": "file"}))?, code, "{verb}");
    }
    assert_eq!(mirror.code(&json!({"verb": "get", "path": "missing"}))?, "NOT_FOUND");
    assert_eq!(mirror.put("file", b"x")?, "DENIED");
    assert_eq!(mirror.put("new", b"x")?, "DENIED");
    for attack in &verbs("file")[4..] {
        assert_eq!(mirror.code(attack)?, "DENIED", "{attack}");
    }
    assert_eq!(std::fs::read(daemon.path("root/public/file"))?, b"content");
    Ok(())
}

#[test]
fn private_homes_do_not_meet() -> TestResult {
    let daemon = start("A private home for each user", "alice")?;
    let mut alice = User::come(&daemon)?;
    assert_eq!(alice.put("diary", b"alice's")?, DONE);
    other(&daemon, "bob").input("bob's").ok(["put", "-", ":diary"])?;
    assert_eq!(other(&daemon, "bob").ok(["get", ":diary", "-"])?.out, b"bob's");
    for path in ["../bob/diary", "/bob/diary", "bob/../../bob/diary"] {
        for request in verbs(path) {
            assert_eq!(alice.code(&request)?, "BAD_NAME", "{request}");
        }
    }
    assert_eq!(alice.names(&json!({"verb": "list"}))?, ["diary"]);
    assert_eq!(alice.code(&json!({"verb": "get", "path": "bob/diary"}))?, "NOT_FOUND");
    assert_eq!(std::fs::read(daemon.path("root/alice/diary"))?, b"alice's");
    Ok(())
}

/// A-09, A-14.
#[test]
fn a_private_corner_of_a_shared_folder_stays_private() -> TestResult {
    let setup = Setup::new()?;
    configure(&setup, "A shared folder with private corners", "alice")?;
    std::fs::create_dir_all(setup.path("root/team/private"))?;
    let daemon = setup.start()?;
    let mut alice = User::come(&daemon)?;
    other(&daemon, "bob").input("minutes").ok(["put", "-", ":minutes"])?;
    other(&daemon, "bob").input("secret").ok(["put", "-", ":private/bob/secret"])?;
    assert_eq!(alice.put("private/alice/own", b"own")?, DONE);
    assert_eq!(alice.names(&json!({"verb": "list"}))?, ["minutes"], "no corner shows");
    assert_eq!(alice.names(&json!({"verb": "list", "path": "private/alice"}))?, ["own"]);
    for (there, missing) in verbs("private/bob/secret").iter().zip(verbs("private/bob/nothing")) {
        let (there, missing) = (alice.ask(there)?, alice.ask(&missing)?);
        assert_eq!(there.code(), "DENIED");
        assert_eq!(there.payload, missing.payload, "to the byte");
    }
    assert_eq!(alice.put("private/bob/planted", b"x")?, "DENIED");
    for (from, to) in [
        ("private", "public"),
        ("private/bob", "public"),
        ("private/bob/secret", "copy"),
        ("minutes", "private/bob/minutes"),
        ("private/alice", "private/bob/alice"),
    ] {
        let attack = json!({"verb": "rename", "path": from, "to": to, "replace": true});
        assert_eq!(alice.code(&attack)?, "DENIED", "{attack}");
    }
    let both_ways = [("minutes", "private/alice/minutes"), ("private/alice/minutes", "minutes")];
    for (from, to) in both_ways {
        assert_eq!(alice.code(&json!({"verb": "rename", "path": from, "to": to}))?, DONE);
    }
    assert_eq!(other(&daemon, "bob").ok(["get", ":private/bob/secret", "-"])?.out, b"secret");
    assert_eq!(other(&daemon, "bob").run(["get", ":private/alice/own", "-"])?.code, Some(5));
    Ok(())
}

#[test]
fn what_is_retained_goes_when_it_is_old_enough_and_not_before() -> TestResult {
    let daemon = start("Retention", "clerk")?;
    let mut clerk = User::come(&daemon)?;
    for path in ["note", "archive/letter", "archive/2026/bill"] {
        assert_eq!(clerk.put(path, b"first")?, DONE, "{path}");
    }
    let attacks = [
        json!({"verb": "remove", "path": "archive/letter"}),
        json!({"verb": "rename", "path": "archive/letter", "to": "letter"}),
        json!({"verb": "rename", "path": "archive/letter", "to": "archive/2026/bill", "replace": true}),
        json!({"verb": "rename", "path": "note", "to": "archive/letter", "replace": true}),
        json!({"verb": "rename", "path": "archive", "to": "rubbish"}),
        json!({"verb": "rename", "path": "archive/2026", "to": "rubbish"}),
    ];
    for attack in &attacks {
        let answer = clerk.ask(attack)?;
        assert_eq!(answer.code(), "DENIED", "{attack}");
        assert!(answer.json()["message"].as_str().is_some_and(|text| text.contains("kept")));
    }
    assert_eq!(clerk.put("archive/letter", b"second")?, "DENIED");
    assert_eq!(clerk.put("archive/letter", b"")?, "DENIED");
    assert_eq!(std::fs::read(daemon.path("root/clerk/archive/letter"))?, b"first");
    // Elsewhere nothing is kept.
    assert_eq!(clerk.put("note", b"second")?, DONE);
    assert_eq!(clerk.code(&json!({"verb": "rename", "path": "note", "to": "note2"}))?, DONE);

    let text = std::fs::read_to_string(daemon.path("ftd.toml"))?;
    std::fs::write(daemon.path("ftd.toml"), text.replace("30days", "3s"))?;
    daemon.signal(Signal::SIGHUP)?;
    daemon.wait_for_log("configuration reloaded")?;
    let deadline = std::time::Instant::now() + PATIENCE;
    while clerk.put("archive/letter", b"third")? != DONE {
        assert!(std::time::Instant::now() < deadline, "what is old enough may be replaced");
    }
    assert_eq!(clerk.code(&attacks[0])?, "DENIED", "it is new again");
    while clerk.code(&attacks[0])? != DONE {
        assert!(std::time::Instant::now() < deadline, "what is old enough may be removed");
    }
    assert_eq!(
        clerk.code(&attacks[4])?,
        "DENIED",
        "a directory stays for as long as anything is kept"
    );
    Ok(())
}
