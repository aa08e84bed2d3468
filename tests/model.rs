//! Goal: over 10,000 random requests of five users with rules, a quota and retention, the daemon does what
//! a small model in memory does. Method: a real daemon and raw frames; the account of this
//! process becomes one user after the other by reloads; after each turn disk and model are compared.
#![allow(clippy::disallowed_methods, reason = "the model is compared with the disk from outside")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as Disk;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::raw::{ANSWER, DATA, ENTRIES, ERROR, Raw, TRAILER, put};
use support::{Daemon, Setup, TestResult, noise};

const REQUESTS: usize = 10_000;
/// Requests of one user before the next.
const TURN: usize = 200;
/// Bytes that may lie below `b`.
const QUOTA: usize = 20_000;
const ALL: &str = "get list create replace remove rename mkdir";

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;
type Path = Vec<&'static str>;

struct User {
    name: &'static str,
    home: &'static [&'static str],
    allow: &'static str,
    /// Where, what is allowed there, and whether it is kept.
    rules: &'static [(&'static str, &'static str, bool)],
    more: &'static str,
}

const USERS: [User; 5] = [
    User { name: "everything", home: &[], allow: ALL, rules: &[], more: "" },
    User {
        name: "corner",
        home: &["a"],
        allow: ALL,
        rules: &[("b", "get list create", false), ("b/*", "get list create remove", false)],
        more: "",
    },
    User {
        name: "blind",
        home: &["a"],
        allow: "create get mkdir remove",
        rules: &[("c", ALL, false), ("c/*", "create replace rename", false)],
        more: "",
    },
    User {
        name: "bound",
        home: &["b"],
        allow: ALL,
        rules: &[("*/a", "list", false), ("a/*", "list create get mkdir", false)],
        more: "quota = 20000",
    },
    User {
        name: "keeper",
        home: &[],
        allow: "get list",
        rules: &[("c", ALL, false), ("c/a", "", false), ("c/b", ALL, true), ("a", ALL, true)],
        more: "",
    },
];

/// What holds at a path, below the user's home: the rules with the most components, and all of them.
fn held(user: &User, path: &[&str]) -> (BTreeSet<&'static str>, bool) {
    let covers = |pattern: &str| {
        let parts: Vec<_> = pattern.split('/').collect();
        parts.len() <= path.len()
            && parts.iter().zip(path).all(|(own, name)| *own == "*" || own == name)
    };
    let deep = |pattern: &str| pattern.split('/').count();
    let covering: Vec<_> = user.rules.iter().filter(|rule| covers(rule.0)).collect();
    let most = covering.iter().map(|rule| deep(rule.0)).max();
    let mut rights: BTreeSet<_> =
        if most.is_some() { ALL } else { user.allow }.split(' ').collect();
    for rule in covering.iter().filter(|rule| Some(deep(rule.0)) == most) {
        let own: BTreeSet<_> = rule.1.split(' ').collect();
        rights = rights.intersection(&own).copied().collect();
    }
    // No rule here says that nothing is kept below one that keeps.
    (rights, covering.iter().any(|rule| rule.2))
}

/// What holds at every path at or below one, as far as names differ here.
fn below(user: &User, path: &[&'static str]) -> Vec<(BTreeSet<&'static str>, bool)> {
    let mut paths = vec![path.to_vec()];
    let mut at = 0;
    while at < paths.len() {
        let parent = paths[at].clone();
        if parent.len() < 5 {
            paths.extend(["a", "b", "c", "z"].map(|name| [&parent[..], &[name]].concat()));
        }
        at += 1;
    }
    paths.iter().map(|path| held(user, path)).collect()
}

/// What is stored: `None` is a directory. The top is always there.
#[derive(Default)]
struct Tree(BTreeMap<Path, Option<Vec<u8>>>);

enum Node {
    Missing,
    Directory,
    File(usize),
}

impl Tree {
    fn node(&self, path: &[&'static str]) -> Node {
        match self.0.get(path) {
            _ if path.is_empty() => Node::Directory,
            None => Node::Missing,
            Some(None) => Node::Directory,
            Some(Some(content)) => Node::File(content.len()),
        }
    }

    fn children(&self, path: &[&'static str]) -> Vec<&'static str> {
        let is_child = |other: &&Path| other.len() == path.len() + 1 && other.starts_with(path);
        self.0.keys().filter(is_child).filter_map(|path| path.last().copied()).collect()
    }

    fn bytes_below(&self, path: &[&'static str]) -> usize {
        let inside = self.0.iter().filter(|(other, _)| other.starts_with(path));
        inside.filter_map(|(_, content)| content.as_ref()).map(Vec::len).sum()
    }

    /// The depth of the first directory that is missing on the way to a path; `Err` where a file is in
    /// the way.
    fn first_missing(&self, path: &[&'static str]) -> Result<Option<usize>, ()> {
        for depth in 1..path.len() {
            match self.node(&path[..depth]) {
                Node::Directory => {}
                Node::Missing => return Ok(Some(depth)),
                Node::File(_) => return Err(()),
            }
        }
        Ok(None)
    }
}

/// What must come of a request.
#[derive(Debug, Eq, PartialEq)]
enum Expect {
    Done,
    Denied,
    Failed,
    /// The daemon may count what is on its way twice.
    Either,
}

use Expect::{Denied, Done, Either, Failed};

/// One request, by paths below the user's home.
#[derive(Debug)]
enum Ask {
    Put(Path, Vec<u8>, bool),
    Get(Path),
    Stat(Path),
    List(Path),
    Remove(Path),
    Rmdir(Path),
    Mkdir(Path, bool),
    Rename(Path, Path, bool),
}

fn at_home(user: &User, path: &Path) -> Path {
    [user.home, &path[..]].concat()
}

/// Whether the directories from a depth on, counted from the root, may be made on the way to a path.
fn may_make(user: &User, path: &Path, missing: usize) -> bool {
    let first = missing.saturating_sub(user.home.len()).max(1);
    (first..path.len()).all(|depth| held(user, &path[..depth]).0.contains("mkdir"))
}

fn room(tree: &Tree, target: &Path, more: usize, less: usize) -> Expect {
    let used = tree.bytes_below(&["b"]);
    match target.first() {
        Some(&"b") if used + more - less > QUOTA => Failed,
        Some(&"b") if used + more > QUOTA => Either,
        _ => Done,
    }
}

fn expect(tree: &Tree, user: &User, ask: &Ask) -> Expect {
    let full = |path: &Path| at_home(user, path);
    let has = |path: &Path, right| held(user, path).0.contains(right);
    match ask {
        Ask::Put(path, content, replace) => {
            let (creates, replaces) = (has(path, "create"), *replace && has(path, "replace"));
            if !creates && !replaces {
                return Denied;
            }
            match tree.first_missing(&full(path)) {
                Err(()) => return Failed,
                Ok(Some(depth)) if !may_make(user, path, depth) => return Failed,
                Ok(_) => {}
            }
            match tree.node(&full(path)) {
                Node::Directory => Failed,
                Node::Missing if !creates => Failed,
                Node::Missing => room(tree, &full(path), content.len(), 0),
                Node::File(_) if !replaces || held(user, path).1 => Failed,
                Node::File(old) => room(tree, &full(path), content.len(), old),
            }
        }
        Ask::Get(path)
        | Ask::Stat(path)
        | Ask::List(path)
        | Ask::Remove(path)
        | Ask::Rmdir(path) => {
            let right = match ask {
                Ask::Get(_) => "get",
                Ask::Stat(_) | Ask::List(_) => "list",
                _ => "remove",
            };
            if !has(path, right) {
                return Denied;
            }
            let is_empty = tree.children(&full(path)).is_empty();
            let done = match (ask, tree.node(&full(path))) {
                (Ask::Get(_), Node::File(_)) | (Ask::List(_), Node::Directory) => true,
                (Ask::Stat(_), node) => !matches!(node, Node::Missing),
                (Ask::Remove(_), Node::File(_)) => !held(user, path).1,
                (Ask::Rmdir(_), Node::Directory) => is_empty,
                _ => false,
            };
            if done { Done } else { Failed }
        }
        Ask::Mkdir(path, parents) => {
            if !has(path, "mkdir") {
                return Denied;
            }
            let way = match tree.first_missing(&full(path)) {
                Err(()) => false,
                Ok(Some(depth)) => *parents && may_make(user, path, depth),
                Ok(None) => true,
            };
            let done = match tree.node(&full(path)) {
                Node::Missing => way,
                Node::Directory => *parents,
                Node::File(_) => false,
            };
            if done { Done } else { Failed }
        }
        Ask::Rename(from, to, replace) => {
            let (old, new) = (below(user, from), below(user, to));
            let all = |at: &[(BTreeSet<&str>, bool)], right| {
                at.iter().all(|(held, _)| held.contains(right))
            };
            let any = |at: &[(BTreeSet<&str>, bool)], right| {
                at.iter().any(|(held, _)| held.contains(right))
            };
            let may_go = all(&old, "rename") || all(&old, "remove");
            let reads =
                ["get", "list"].into_iter().all(|right| all(&old, right) || !any(&new, right));
            if !may_go || !all(&new, "create") || !reads {
                return Denied;
            }
            let (source, target) = (full(from), full(to));
            let way =
                tree.first_missing(&source) == Ok(None) && tree.first_missing(&target) == Ok(None);
            let kept = |at: &[(BTreeSet<&str>, bool)]| at.iter().any(|(_, kept)| *kept);
            let moved = match tree.node(&source) {
                Node::Missing => return Failed,
                _ if !way || kept(&old) || target.starts_with(&source) => return Failed,
                Node::Directory => None,
                Node::File(_) => Some(()),
            };
            let bytes = tree.bytes_below(&source);
            let inside = source.first() == Some(&"b");
            let more = if inside { 0 } else { bytes };
            match tree.node(&target) {
                Node::Directory => Failed,
                Node::Missing => room(tree, &target, more, 0),
                Node::File(_)
                    if moved.is_none() || !replace || !all(&new, "replace") || kept(&new) =>
                {
                    Failed
                }
                Node::File(size) => room(tree, &target, more, if inside { 0 } else { size }),
            }
        }
    }
}

/// Does to the model what was done.
fn apply(tree: &mut Tree, user: &User, ask: Ask) {
    let mut make = |path: &[&'static str]| {
        for depth in 1..=path.len() {
            tree.0.entry(path[..depth].to_vec()).or_insert(None);
        }
    };
    match ask {
        Ask::Put(path, content, _) => {
            let path = at_home(user, &path);
            make(&path[..path.len() - 1]);
            tree.0.insert(path, Some(content));
        }
        Ask::Mkdir(path, _) => make(&at_home(user, &path)),
        Ask::Remove(path) | Ask::Rmdir(path) => {
            tree.0.remove(&at_home(user, &path));
        }
        Ask::Rename(from, to, _) => {
            let (from, to) = (at_home(user, &from), at_home(user, &to));
            let moved: Vec<Path> =
                tree.0.keys().filter(|path| path.starts_with(&from)).cloned().collect();
            for path in moved {
                if let Some(node) = tree.0.remove(&path) {
                    tree.0.insert([&to[..], &path[from.len()..]].concat(), node);
                }
            }
        }
        Ask::Get(_) | Ask::Stat(_) | Ask::List(_) => {}
    }
}

/// Sends a request; gives the code, or `ok`, and what came with it.
fn send(raw: &mut Raw, id: u32, ask: &Ask) -> Fallible<(String, Vec<u8>, Vec<String>)> {
    let text = |path: &Path| path.join("/");
    let request = match ask {
        Ask::Put(path, content, true) => {
            raw.bytes(&put(id, &json!(text(path)), content))?;
            Value::Null
        }
        Ask::Put(path, content, false) => {
            let whole = put(id, &json!(text(path)), content);
            let head = json!({"verb": "put", "path": text(path), "replace": false});
            let first = u32::from_be_bytes([whole[8], whole[9], whole[10], whole[11]]) as usize;
            raw.request(id, &head)?;
            raw.bytes(&whole[12 + first..])?;
            Value::Null
        }
        Ask::Get(path) => json!({"verb": "get", "path": text(path)}),
        Ask::Stat(path) => json!({"verb": "stat", "path": text(path)}),
        Ask::List(path) => json!({"verb": "list", "path": text(path)}),
        Ask::Remove(path) => json!({"verb": "remove", "path": text(path)}),
        Ask::Rmdir(path) => json!({"verb": "rmdir", "path": text(path)}),
        Ask::Mkdir(path, parents) => {
            json!({"verb": "mkdir", "path": text(path), "parents": parents})
        }
        Ask::Rename(from, to, replace) => {
            json!({"verb": "rename", "path": text(from), "to": text(to), "replace": replace})
        }
    };
    if !request.is_null() {
        raw.request(id, &request)?;
    }
    let (mut content, mut names) = (Vec::new(), Vec::new());
    loop {
        let frame = raw.expect()?;
        match frame.kind {
            ERROR => return Ok((frame.code(), content, names)),
            DATA => content.extend(frame.payload),
            ENTRIES => {
                let entries = frame.json()["entries"].as_array().cloned().unwrap_or_default();
                names.extend(
                    entries.iter().filter_map(|entry| Some(entry["name"].as_str()?.to_owned())),
                );
            }
            ANSWER if matches!(ask, Ask::Get(_)) => {} // A get ends with its trailer.
            ANSWER | TRAILER => return Ok(("ok".to_owned(), content, names)),
            _ => {}
        }
    }
}

/// What lies on the disk below the root, as the model has it.
fn on_disk(
    root: &Disk,
    at: &[String],
    into: &mut BTreeMap<Vec<String>, Option<Vec<u8>>>,
) -> TestResult {
    for entry in std::fs::read_dir(root.join(at.join("/")))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(".ftd-") {
            continue;
        }
        let path = [at, &[name]].concat();
        let file = root.join(path.join("/"));
        if file.is_dir() {
            into.insert(path.clone(), None);
            on_disk(root, &path, into)?;
        } else {
            into.insert(path, Some(std::fs::read(file)?));
        }
    }
    Ok(())
}

/// The configuration in which this process is one of the users.
fn configuration(dir: &Disk, me: usize) -> String {
    let list = |words: &str| {
        let words: Vec<_> = words.split(' ').filter(|word| !word.is_empty()).collect();
        format!("{words:?}")
    };
    let mut text = format!(
        "root = \"{0}/root\"\nlisten = [\"127.0.0.1:0\", \"unix:{0}/sock\"]\nhost-key = \"{0}/host_key\"\n\
         durability = \"none\"\n",
        dir.display()
    );
    for (index, user) in USERS.iter().enumerate() {
        let own = nix::unistd::geteuid().as_raw();
        let uid = if index == me { own } else { 2_000_000 + u32::try_from(index).unwrap_or(0) };
        let home = if user.home.is_empty() { ".".to_owned() } else { user.home.join("/") };
        let (name, allow, more) = (user.name, list(user.allow), user.more);
        text += &format!(
            "[[user]]\nname = \"{name}\"\nunix = [\"{uid}\"]\nhome = \"{home}\"\nallow = {allow}\n{more}\n"
        );
        for (pattern, allow, kept) in user.rules {
            let retain = if *kept { "retain = \"1h\"\n" } else { "" };
            text +=
                &format!("[[user.path]]\nmatch = \"{pattern}\"\nallow = {}\n{retain}", list(allow));
        }
    }
    text
}

struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most as u64).unwrap_or(0)
    }

    fn path(&mut self) -> Path {
        let depth = [1, 1, 2, 2, 3, 3, 4][self.below(7)];
        (0..depth).map(|_| ["a", "b", "c"][self.below(3)]).collect()
    }

    fn ask(&mut self) -> Ask {
        let path = self.path();
        let flag = self.below(2) == 0;
        match self.below(16) {
            0..=4 => {
                let (bytes, seed) = (1 + self.below(3000), self.below(1 << 30) as u64);
                Ask::Put(path, noise(bytes, seed), flag)
            }
            5 => Ask::Get(path),
            6 => Ask::Stat(path),
            7 => Ask::List(path),
            8 | 9 => Ask::Remove(path),
            10 => Ask::Rmdir(path),
            11 | 12 => Ask::Mkdir(path, flag),
            _ => loop {
                let to = self.path();
                if to != path {
                    return Ask::Rename(path, to, flag);
                }
            },
        }
    }
}

#[test]
fn ten_thousand_requests_of_five_users_do_what_the_model_does() -> TestResult {
    let setup = Setup::new()?;
    let dir = setup.dir.path().to_owned();
    setup.write_config(&configuration(&dir, 0))?;
    let daemon: Daemon = setup.start()?;
    let mut tree = Tree::default();
    let mut random = Random(0x5EED_F00D_1234_5678);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for turn in 0..REQUESTS / TURN {
        let me = turn % USERS.len();
        let user = &USERS[me];
        std::fs::write(daemon.path("ftd.toml"), configuration(&dir, me))?;
        daemon.signal(Signal::SIGHUP)?;
        daemon.wait_for_log_times("configuration reloaded", turn + 1)?;
        let mut raw = Raw::greeted(&daemon)?;
        if !user.home.is_empty() {
            tree.0.entry(user.home.to_vec()).or_insert(None); // It is made at the login.
        }
        for number in 0..TURN {
            let ask = random.ask();
            let expected = expect(&tree, user, &ask);
            let (code, content, mut names) = send(&mut raw, u32::try_from(number + 1)?, &ask)?;
            let what = || {
                let asked: String = format!("{ask:?}").chars().take(100).collect();
                format!("{} in turn {turn}: {asked} is {code}", user.name)
            };
            match expected {
                Done => assert_eq!(code, "ok", "{}", what()),
                Denied => assert_eq!(code, "DENIED", "{}", what()),
                Failed => assert_ne!(code, "ok", "{}", what()),
                Either => assert!(["ok", "QUOTA"].contains(&code.as_str()), "{}", what()),
            }
            let paths: &[&Path] = match &ask {
                Ask::Rename(from, to, _) => &[from, to],
                Ask::Put(path, ..)
                | Ask::Mkdir(path, _)
                | Ask::Get(path)
                | Ask::Stat(path)
                | Ask::List(path)
                | Ask::Remove(path)
                | Ask::Rmdir(path) => &[path],
            };
            if paths.iter().any(|path| !held(user, path).0.contains("list")) {
                let tells = ["NOT_FOUND", "WRONG_TYPE", "NOT_EMPTY"].contains(&code.as_str());
                assert!(!tells, "it tells what may not be listed: {}", what());
            }
            let outcome = if code == "ok" { "ok" } else { "not" };
            *counts.entry(outcome).or_default() += 1;
            *counts.entry(if expected == Denied { "denied" } else { "allowed" }).or_default() += 1;
            if code == "QUOTA" {
                *counts.entry("quota").or_default() += 1;
            }
            if code != "ok" {
                continue;
            }
            match &ask {
                Ask::Get(path) => {
                    assert_eq!(
                        tree.0.get(&at_home(user, path)),
                        Some(&Some(content)),
                        "{}",
                        what()
                    );
                }
                Ask::List(path) => {
                    names.sort();
                    let shown = |name: &&str| {
                        held(user, &[&path[..], &[*name]].concat()).0.contains("list")
                    };
                    let expected: Vec<_> =
                        tree.children(&at_home(user, path)).into_iter().filter(shown).collect();
                    assert_eq!(names, expected, "{}", what());
                }
                _ => {}
            }
            apply(&mut tree, user, ask);
        }
        let mut found = BTreeMap::new();
        on_disk(&daemon.path("root"), &[], &mut found)?;
        let text = |path: &Path| path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let known: BTreeMap<_, _> =
            tree.0.iter().map(|(path, node)| (text(path), node.clone())).collect();
        assert!(found == known, "disk and model differ after turn {turn} of {}", user.name);
        assert!(tree.bytes_below(&["b"]) <= QUOTA, "the quota holds");
    }
    // All of it was tried, and often enough.
    for (kind, least) in [("ok", 1500), ("not", 2000), ("denied", 1000), ("quota", 20)] {
        let count = counts.get(kind).copied().unwrap_or(0);
        assert!(count >= least, "{kind}: {count} of {counts:?}");
    }
    daemon.assert_nothing_staged()
}
