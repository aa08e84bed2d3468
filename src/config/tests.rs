use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use crate::types::{
    Durability, KeyAlgorithm, Pattern, Principal, PublicKey, Quota, RelPath, Reserve, Right,
    Rights, Rule,
};

use super::raw::{RawFile, RawKey, RawLimits, RawPath, RawUser};
use super::settings::{BANDWIDTH, PATHS_MAX, RETAIN};
use super::*;

type TestResult = Result<(), Box<dyn std::error::Error>>;

const SHIPPED: &str = include_str!("../../etc/ftd.toml");

/// A file in which everything else is well, for tests of one value.
const HEAD: &str = "root = \"/srv/ftd\"\nlisten = [\"[::]:7373\"]\n";
const ALICE: &str = "[[user]]\nname = \"alice\"\nkeys = [\"k1\"]\nallow = [\"get\"]\n";

/// Stands in for `identity`: a key line is any text but `bad`, and its first word is the key.
fn key(line: &str) -> Result<PublicKey, String> {
    match line.split(' ').next() {
        Some("bad" | "ssh-bad") => Err("this is no key\nat all".to_owned()),
        word => Ok(PublicKey {
            algorithm: KeyAlgorithm::Ed25519,
            point: if word == Some("ssh-ed25519") { line } else { word.unwrap_or_default() }.into(),
        }),
    }
}

fn key_line(key: &PublicKey) -> String {
    String::from_utf8_lossy(&key.point).into_owned()
}

fn account(name: &str) -> Result<u32, String> {
    match name {
        "alice" => Ok(1000),
        "bob" => Ok(1001),
        "nobody" => Ok(65_534),
        _ => name.parse().map_err(|_| format!("there is no account {name}")),
    }
}

fn read(text: &str) -> Result<Settings, ConfigErrors> {
    read_with(text, &[])
}

fn read_with(text: &str, included: &[(&str, &str)]) -> Result<Settings, ConfigErrors> {
    let named =
        |(name, text): &(&str, &str)| Text { name: (*name).to_owned(), text: (*text).to_owned() };
    let included: Vec<_> = included.iter().map(named).collect();
    let resolvers = Resolvers { key: &key, account: &account, keys_file: &keys_file };
    parse(&named(&("ftd.toml", text)), &included, &resolvers)
}

/// Files with keys, by their names.
fn keys_file(path: &Path) -> Result<String, String> {
    match path.to_str() {
        Some("/etc/ftd.keys/alice") => Ok(String::new()),
        Some("/keys/good") => Ok("# ours\nssh-k7\n\nfrom=\"::1\" ssh-k8 x\n".to_owned()),
        Some("/keys/bad") => {
            Ok("ssh-k7\nno-pty ssh-k8\nssh-bad\n\nssh-k1 again\nexpiry-time=\"soon\" ssh-k9"
                .to_owned())
        }
        _ => Err(format!("read {}: no such file", path.display())),
    }
}

fn told(text: &str) -> String {
    match read(text) {
        Ok(settings) => format!("accepted as {settings:?}"),
        Err(errors) => errors.to_string(),
    }
}

fn user(name: &str, home: Option<&str>, key: Option<&str>, uids: &[u32]) -> User {
    User {
        principal: Principal {
            name: name.to_owned(),
            home: home.and_then(|home| RelPath::parse(home.as_bytes()).ok()),
            rights: Rights::from_iter([Right::Get]),
            retain: Duration::ZERO,
            rules: Vec::new(),
        },
        keys: key.map(|key| open_key(key, Admission::default())).into_iter().collect(),
        admission: Admission::default(),
        bandwidth: None,
        uids: uids.to_vec(),
        quota: Quota::default(),
        max_file_size: None,
    }
}

fn open_key(key: &str, admission: Admission) -> Key {
    let public = PublicKey { algorithm: KeyAlgorithm::Ed25519, point: key.into() };
    Key { public, admission }
}

fn smallest() -> Settings {
    Settings {
        root: PathBuf::from("/srv/ftd"),
        listen: vec![Listen::Tcp(([0; 8], 7373).into())],
        host_key: PathBuf::from("/var/lib/ftd/host_key"),
        durability: Durability::Full,
        sandbox: SandboxMode::Require,
        umask: 0o022,
        reserve: Reserve::default(),
        limits: Limits::default(),
        users: vec![user("alice", Some("alice"), Some("k1"), &[])],
    }
}

#[test]
fn what_is_left_out_has_its_default() -> TestResult {
    assert_eq!(read(&format!("{HEAD}{ALICE}"))?, smallest());
    Ok(())
}

#[test]
fn every_key_arrives_where_it_belongs() -> TestResult {
    let text = r#"
root = "/srv//ftd/./"
listen = ["127.0.0.1:0", "unix:/run/ftd/ftd.sock"]
host-key = "/etc/ftd/key"
durability = "none"
sandbox = "best-effort"
umask = "0077"
reserve = "5 %"
[limits]
max-file-size = "10GB"
connections = 10
strangers = 5
penalties = false
penalty-exempt = ["10.0.0.0/8"]
requests-per-connection = 1
compressed-connections = 0
buffer-memory = 8388608
file-workers = 256
handshake-timeout = "1s"
idle-timeout = "1day"
stall-timeout = "90s"
resume-expiry = "1h"
drain-timeout = "0s"
[[user]]
name = "a.b_c-9"
keys = [" k1 comment "]
home = "."
allow = ["get"]
[[user]]
name = "bob"
unix = ["bob", "7"]
home = "deep/er"
allow = ["get"]
quota = "1GiB"
quota-files = 0
max-file-size = 4096
"#;
    let expected = Settings {
        root: PathBuf::from("/srv/ftd"),
        listen: vec![
            Listen::Tcp(([127, 0, 0, 1], 0).into()),
            Listen::Unix(PathBuf::from("/run/ftd/ftd.sock")),
        ],
        host_key: PathBuf::from("/etc/ftd/key"),
        durability: Durability::None,
        sandbox: SandboxMode::BestEffort,
        umask: 0o077,
        reserve: Reserve::Percent(5),
        limits: Limits {
            max_file_size: 10_000_000_000,
            connections: 10,
            connections_per_user: 10, // The default follows where fewer are allowed in all.
            connections_per_source: 10,
            strangers: 5,
            strangers_per_source: 5,
            penalties: false,
            penalty_exempt: vec!["10.0.0.0/8".parse()?],
            requests_per_connection: 1,
            compressed_connections: 0,
            buffer_memory: 8 << 20,
            file_workers: 256,
            handshake_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_hours(24),
            stall_timeout: Duration::from_secs(90),
            resume_expiry: Duration::from_hours(1),
            drain_timeout: Duration::ZERO,
        },
        users: vec![
            user("a.b_c-9", None, Some("k1"), &[]),
            User {
                quota: Quota { bytes: Some(1 << 30), names: Some(0) },
                max_file_size: Some(4096),
                ..user("bob", Some("deep/er"), None, &[1001, 7])
            },
        ],
    };
    let settings = read(text)?;
    assert_eq!(settings, expected);
    assert_eq!(settings.root.as_os_str(), "/srv/ftd", "spelled plainly, not only equal");
    Ok(())
}

// Goal of the next five: every mistake is told with its line, its key and what would be right.
// Method: one row per mistake, against the whole text that an administrator reads.

const NO_USER: &str = "user: there is no user, so nobody could come in; add at the end of \
        the file the line [[user]] and below it name = \"alice\", \
        keys = [\"ssh-ed25519 AAAA… alice@laptop\"] (the line in her ~/.ssh/id_ed25519.pub) and \
        allow = [\"get\", \"list\"], each on its own line";
const NO_ROOT: &str =
    "ftd.toml:1: root: missing; name the directory to serve, such as root = \"/srv/ftd\"";
const NO_LISTEN: &str =
    "ftd.toml:1: listen: missing; name at least one place, such as listen = [\"[::]:7373\"]";
const TOP: &str =
    "possible here are root, listen, host-key, durability, sandbox, umask, reserve, limits, user";
const RESERVE: &str =
    "a part of the file system such as \"5%\" (at most 99%), or a size such as \"10GiB\"";
const IN_LIMITS: &str = "possible here are max-file-size, connections, connections-per-user, \
        connections-per-source, strangers, strangers-per-source, penalties, penalty-exempt, \
        requests-per-connection, compressed-connections, buffer-memory, file-workers, handshake-timeout, idle-timeout, \
        stall-timeout, resume-expiry, drain-timeout";
const IN_USER: &str = "possible here are name, keys, keys-file, unix, from, expires, enabled, home, allow, retain, bandwidth, quota, quota-files, max-file-size, key, path";
const IN_KEY: &str = "possible here are line, from, expires, enabled";
const IN_PATH: &str = "possible here are match, allow, retain";
const RIGHTS: &str = "get, list, create, replace, remove, rename, mkdir";
const NAME: &str = "1 to 64 lower-case letters, digits, dots, dashes or underscores, starting \
        with a letter or digit";

#[test]
fn mistakes_in_the_file_are_told_by_line_and_key() {
    // Whole files.
    for (text, expected) in [
        ("", format!("{NO_ROOT}\n{NO_LISTEN}\nftd.toml:1: {NO_USER}")),
        ("# nothing\n\n\n", format!("{NO_ROOT}\n{NO_LISTEN}\nftd.toml:1: {NO_USER}")),
        (HEAD, format!("ftd.toml:2: {NO_USER}")),
        (&format!("{HEAD}user = []\n"), format!("ftd.toml:3: {NO_USER}")),
        (&format!("listen = [\"[::]:1\"]\n{ALICE}"), NO_ROOT.to_owned()),
        (&format!("root = \"/srv\"\n{ALICE}"), NO_LISTEN.to_owned()),
        (
            &format!("user = 1\n{HEAD}"),
            "ftd.toml:1: user: must be [[user]] sections, with double brackets, not 1".to_owned(),
        ),
        (
            &format!("{HEAD}[user]\nname = \"alice\"\n"),
            "ftd.toml:3: user: must be [[user]] sections, with double brackets, not a section"
                .to_owned(),
        ),
        (
            &format!("{HEAD}user = [3]\n"),
            "ftd.toml:3: user[1]: must be [[user]] sections, with double brackets, not 3"
                .to_owned(),
        ),
        // One mistake hides no other, wherever it stands.
        (
            &format!(
                "umask = 1\n{HEAD}{ALICE}[limits]\nfile-workers = 0\nconnections = 0\nx = 1\n"
            ),
            format!(
                "ftd.toml:1: umask: must be three octal digits in quotes, such as \"022\", not 1\n\
                 ftd.toml:9: limits.file-workers: must be between 1 and 256, not 0\n\
                 ftd.toml:10: limits.connections: must be between 1 and 65536, not 0\n\
                 ftd.toml:11: limits.x: unknown key; {IN_LIMITS}"
            ),
        ),
        // Not TOML.
        (
            "root = \"/a\"\nroot = \"/b\"\n[limits]\nidle-timeout = \"1s\"\nidle-timeout = \"2s\"\n",
            "ftd.toml:2: root: duplicate key\nftd.toml:5: limits.idle-timeout: duplicate key"
                .to_owned(),
        ),
        (
            &format!("{HEAD}{ALICE}{ALICE}unix = []\nunix = []\n[limits]\n[limits]\n"),
            "ftd.toml:12: user[2].unix: duplicate key\nftd.toml:14: limits: duplicate key"
                .to_owned(),
        ),
        (
            "umask = 022\nroot = /srv\nlisten = [",
            "ftd.toml:1: umask: unexpected leading zero\n\
             ftd.toml:2: root: string values must be quoted, expected literal string\n\
             ftd.toml:3: listen: unclosed array, expected `]`"
                .to_owned(),
        ),
        ("root = [\n\"a\"\n\n", "ftd.toml:2: unclosed array, expected `]`".to_owned()),
    ] {
        assert_eq!(told(text), expected, "{text}");
    }
}

#[test]
fn mistakes_in_a_value_are_told_by_line_and_key() {
    // One line too many, after the head (2 lines) and before alice: line 3.
    for (line, expected) in [
        ("lisen = []", format!("lisen: unknown key; did you mean `listen`? {TOP}")),
        ("host_key = \"/k\"", format!("host_key: unknown key; did you mean `host-key`? {TOP}")),
        ("retention = \"5%\"", format!("retention: unknown key; {TOP}")),
        ("reserve = \"100%\"", format!("reserve: must be {RESERVE}, not \"100%\"")),
        ("reserve = \"%\"", format!("reserve: must be {RESERVE}, not \"%\"")),
        ("reserve = \"-1%\"", format!("reserve: must be {RESERVE}, not \"-1%\"")),
        ("reserve = \"8EiB\"", format!("reserve: must be {RESERVE}, not \"8EiB\"")),
        ("reserve = []", format!("reserve: must be {RESERVE}, not a list")),
        ("\"a\\nb\" = 1", format!("a\\nb: unknown key; {TOP}")),
        ("idle-timeout = \"1s\"", format!("idle-timeout: unknown key here; it belongs in [limits]; {TOP}")),
        ("host-key = 1", "host-key: must be a path in quotes, not 1".to_owned()),
        ("host-key = \"k\"", "host-key: must be an absolute path, not \"k\"".to_owned()),
        ("host-key = \"/k/../l\"", "host-key: must not contain \"..\"".to_owned()),
        ("host-key = \"/k\\n\"", "host-key: must not contain control characters".to_owned()),
        ("host-key = \"/k/\"", "host-key: must be the path of a file, not \"/k/\"".to_owned()),
        (
            "host-key = \"/srv/./ftd/key\"",
            "host-key: /srv/ftd/key is below root, where users could fetch it".to_owned(),
        ),
        ("durability = \"Full\"", "durability: must be \"full\" or \"none\", not \"Full\"".to_owned()),
        ("durability = true", "durability: must be \"full\" or \"none\", not true".to_owned()),
        ("sandbox = \"off\"", "sandbox: must be \"require\" or \"best-effort\", not \"off\"".to_owned()),
        ("umask = 18", "umask: must be three octal digits in quotes, such as \"022\", not 18".to_owned()),
        ("umask = \"+22\"", "umask: must be three octal digits in quotes, such as \"022\", not \"+22\"".to_owned()),
        ("umask = \"1000\"", "umask: must be three octal digits in quotes, such as \"022\", not \"1000\"".to_owned()),
        ("umask = \"\"", "umask: must be three octal digits in quotes, such as \"022\", not \"\"".to_owned()),
        ("limits = 1", "limits: must be a section headed [limits], not 1".to_owned()),
        ("limits.quota = 1", format!("limits.quota: unknown key here; it belongs in a [[user]]; {IN_LIMITS}")),
        ("limits.conections = 1", format!("limits.conections: unknown key; did you mean `connections`? {IN_LIMITS}")),
        ("limits.connections = \"9\"", "limits.connections: must be a whole number such as 1024, not \"9\"".to_owned()),
        ("limits.connections = 1.5", "limits.connections: must be a whole number such as 1024, not 1.5".to_owned()),
        ("limits.connections = -5", "limits.connections: must be between 1 and 65536, not -5".to_owned()),
        ("limits.connections = 0x1_0001", "limits.connections: must be between 1 and 65536, not 0x1_0001".to_owned()),
        ("limits.connections = 99999999999999999999", "limits.connections: must be between 1 and 65536, not 99999999999999999999".to_owned()),
        ("limits.connections-per-user = 1025", "limits.connections-per-user: must be at most limits.connections, which is 1024, not 1025".to_owned()),
        ("limits.connections-per-source = 1025", "limits.connections-per-source: must be at most limits.connections, which is 1024, not 1025".to_owned()),
        ("limits.strangers-per-source = 257", "limits.strangers-per-source: must be at most limits.strangers, which is 256, not 257".to_owned()),
        ("limits.penalties = \"no\"", "limits.penalties: must be true or false, not \"no\"".to_owned()),
        ("limits.penalty-exempt = [\"all\"]", "limits.penalty-exempt[1]: must be an address or a network such as \"10.0.0.0/8\", without bits beyond the prefix, not \"all\"".to_owned()),
        ("limits.max-file-size = \"big\"", "limits.max-file-size: must be a size such as \"64MiB\", or a number of bytes, not \"big\"".to_owned()),
        ("limits.max-file-size = \"8EiB\"", "limits.max-file-size: must be between 1 and 8EiB less one byte, not \"8EiB\"".to_owned()),
        ("limits.max-file-size = \"-1GiB\"", "limits.max-file-size: must be between 1 and 8EiB less one byte, not \"-1GiB\"".to_owned()),
        ("limits.buffer-memory = []", "limits.buffer-memory: must be a size such as \"64MiB\", or a number of bytes, not a list".to_owned()),
        ("limits.buffer-memory = \"1MiB\"", "limits.buffer-memory: must be between 8MiB and 16GiB, not \"1MiB\"".to_owned()),
        ("limits.idle-timeout = 60", "limits.idle-timeout: must be a time with its unit, such as \"30s\", \"5min\" or \"1h\", not 60".to_owned()),
        ("limits.idle-timeout = \"60\"", "limits.idle-timeout: must be a time with its unit, such as \"30s\", \"5min\" or \"1h\", not \"60\"".to_owned()),
        ("limits.idle-timeout = \"-5min\"", "limits.idle-timeout: must be between 1s and 1day, not \"-5min\"".to_owned()),
        ("limits.idle-timeout = \"2days\"", "limits.idle-timeout: must be between 1s and 1day, not \"2days\"".to_owned()),
    ] {
        let text = format!("{HEAD}{line}\n{ALICE}");
        assert_eq!(told(&text), format!("ftd.toml:3: {expected}"), "{line}");
    }
}

#[test]
fn mistakes_in_a_place_are_told_by_line_and_key() {
    // The same for what may stand in `root` (line 1) and `listen` (line 2).
    for (value, expected) in [
        ("3", "must be a path in quotes, not 3".to_owned()),
        ("\"srv\"", "must be an absolute path, not \"srv\"".to_owned()),
        ("\"\"", "must be an absolute path, not \"\"".to_owned()),
        ("\"/\"", "must not be \"/\", which would serve the whole machine".to_owned()),
        ("\"//./\"", "must not be \"/\", which would serve the whole machine".to_owned()),
        ("\"/srv/../etc\"", "must not contain \"..\"".to_owned()),
        ("\"/srv\\u0000\"", "must not contain control characters".to_owned()),
    ] {
        let text = format!("root = {value}\nlisten = [\"[::]:7373\"]\n{ALICE}");
        assert_eq!(told(&text), format!("ftd.toml:1: root: {expected}"));
    }
    let place = |text: &str| {
        format!(
            "[1]: must be \"ADDRESS:PORT\" such as \"[::]:7373\", or \"unix:/PATH\", not \"{text}\""
        )
    };
    let host = |host: &str| {
        format!(
            "[1]: \"{host}\" is a host name; write an address, such as \"127.0.0.1:7373\", \
             \"0.0.0.0:7373\" or \"[::]:7373\""
        )
    };
    for (value, expected) in [
        ("\"[::]:7373\"", ": must be a list such as [\"[::]:7373\"], not \"[::]:7373\"".to_owned()),
        ("[]", ": must name 1 to 16 places, not 0".to_owned()),
        ("[7373]", "[1]: must be a string in quotes, not 7373".to_owned()),
        ("[\"7373\"]", place("7373")),
        ("[\":7373\"]", place(":7373")),
        ("[\"127.0.0.1:65536\"]", place("127.0.0.1:65536")),
        ("[\"localhost:7373\"]", host("localhost")),
        ("[\"files.example.org:7373\"]", host("files.example.org")),
        ("[\"127.0.0.1\"]", "[1]: the port is missing; write \"127.0.0.1:7373\"".to_owned()),
        (
            "[\"::1\"]",
            "[1]: an IPv6 address is written in brackets, with a port: \"[::1]:7373\"".to_owned(),
        ),
        ("[\"/run/s\"]", "[1]: a Unix socket is written \"unix:/run/s\"".to_owned()),
        ("[\"unix:run/s\"]", "[1]: must be an absolute path, not \"unix:run/s\"".to_owned()),
        ("[\"unix:@s\"]", "[1]: must be an absolute path, not \"unix:@s\"".to_owned()),
        ("[\"unix:/run/\"]", "[1]: must be the path of a socket, not \"unix:/run/\"".to_owned()),
        (
            "[\"unix:/srv/ftd/s\"]",
            "[1]: is below root, where users could rename or remove it".to_owned(),
        ),
        ("[\"[::]:1\", \"[::0]:1\"]", "[2]: stands in the list twice".to_owned()),
        ("[\"unix:/a\", \"unix:/./a\"]", "[2]: stands in the list twice".to_owned()),
    ] {
        let text = format!("root = \"/srv/ftd\"\nlisten = {value}\n{ALICE}");
        assert_eq!(told(&text), format!("ftd.toml:2: listen{expected}"));
    }
}

#[test]
fn mistakes_in_a_user_are_told_by_line_and_key() {
    // A second user, whose section starts at line 7.
    for (lines, expected) in [
        ("", vec![
            "7: user[2].name: missing; every user has a name".to_owned(),
            "7: user[2].keys: at least one key is needed, keys = [\"ssh-ed25519 AAAA…\"], or one local account, unix = [\"alice\"]".to_owned(),
            format!("7: user[2].allow: missing; list what the user may do: {RIGHTS}"),
        ]),
        ("name = \"bob\"\nkeys = []\nunix = []\nallow = []", vec![
            "7: user.bob.keys: at least one key is needed, keys = [\"ssh-ed25519 AAAA…\"], or one local account, unix = [\"alice\"]".to_owned(),
            format!("11: user.bob.allow: is empty; list what the user may do: {RIGHTS}"),
        ]),
        ("name = \"Bob\"\nkeys = [\"k2\"]\nallow = [\"get\"]", vec![format!("8: user[2].name: must be {NAME}, not \"Bob\"")]),
        ("name = \".bob\"\nkeys = [\"k2\"]\nallow = [\"get\"]", vec![format!("8: user[2].name: must be {NAME}, not \".bob\"")]),
        ("name = 7\nkeys = [\"k2\"]\nallow = [\"get\"]", vec![format!("8: user[2].name: must be {NAME}, not 7")]),
        ("name = \"alice\"\nkeys = [\"k2\"]\nallow = [\"get\"]", vec!["8: user.alice.name: the name is taken already, at line 4".to_owned()]),
        // Good lines around a bad one do not save it; the same key is the same under any comment.
        ("name = \"bob\"\nkeys = [\n  \"k2\",\n  \"bad\",\n  \"k3\",\n  \"k2 again\",\n  \"k1 x\",\n  \"k4\\nk5\",\n  9]\nallow = [\"get\"]", vec![
            "11: user.bob.keys[2]: this is no key\\nat all".to_owned(),
            "13: user.bob.keys[4]: the same key is listed already, for user.bob at line 10".to_owned(),
            "14: user.bob.keys[5]: the same key is listed already, for user.alice at line 5".to_owned(),
            "15: user.bob.keys[6]: a key is one line; give each its own quotes".to_owned(),
            "16: user.bob.keys[7]: must be a string in quotes, not 9".to_owned(),
        ]),
        ("name = \"bob\"\nkeys = \"k2\"\nallow = \"get\"", vec![
            "9: user.bob.keys: must be a list of key lines such as [\"ssh-ed25519 AAAA… alice@laptop\"], not \"k2\"".to_owned(),
            "10: user.bob.allow: must be a list such as [\"get\", \"list\"], not \"get\"".to_owned(),
        ]),
        ("name = \"bob\"\nunix = [\"bob\", \"eve\", \"1001\", \"nobody\"]\nallow = [\"get\"]", vec![
            "9: user.bob.unix[2]: there is no account eve".to_owned(),
            "9: user.bob.unix[3]: uid 1001 is listed already, for user.bob at line 9".to_owned(),
            "9: user.bob.unix[4]: uid 65534 stands for every account that the kernel cannot name, so it proves nothing".to_owned(),
        ]),
        ("name = \"bob\"\nunix = [\"bob\"]\nallow = [\"get\", \"put\", \"get\"]", vec![
            "10: user.bob.allow[2]: unknown right; the rights are get list create replace remove rename mkdir".to_owned(),
            "10: user.bob.allow[3]: \"get\" stands in the list twice".to_owned(),
        ]),
        ("name = \"bob\"\nunix = [\"bob\"]\nallow = [\"get\"]\nquota = -1\nquota-files = \"many\"\nmax-file-size = 0", vec![
            "11: user.bob.quota: must be between 0 and 8EiB less one byte, not -1".to_owned(),
            "12: user.bob.quota-files: must be a whole number such as 1024, not \"many\"".to_owned(),
            "13: user.bob.max-file-size: must be between 1 and 8EiB less one byte, not 0".to_owned(),
        ]),
        // What a later version may know: ignoring a restriction would be a hole.
        ("name = \"bob\"\nunix = [\"bob\"]\nallow = [\"get\"]\ngroup = \"staff\"\nfrom = []\nexpires = \"soon\"\nbandwidth = \"63KiB\"\nenabled = 1", vec![
            format!("11: user.bob.group: unknown key; {IN_USER}"),
            "12: user.bob.from: is empty, so that nobody could come in; leave it out for everywhere".to_owned(),
            "13: user.bob.expires: must be a date such as 2027-01-31, a time such as 2027-01-31T18:00:00+01:00, or \"never\", not \"soon\"".to_owned(),
            "14: user.bob.bandwidth: must be between 64KiB and 1TiB, not \"63KiB\"".to_owned(),
            "15: user.bob.enabled: must be true or false, not 1".to_owned(),
        ]),
        ("name = \"bob\"\nkeyz = [\"k2\"]\nunix = [\"bob\"]\nallow = [\"get\"]\nroot = \"/\"", vec![
            format!("9: user.bob.keyz: unknown key; did you mean `key`? {IN_USER}"),
            format!("12: user.bob.root: unknown key here; it stands before the first [section] of the file; {IN_USER}"),
        ]),
    ] {
        let expected: Vec<_> = expected.iter().map(|line| format!("ftd.toml:{line}")).collect();
        assert_eq!(told(&format!("{HEAD}{ALICE}[[user]]\n{lines}\n")), expected.join("\n"));
    }
}

#[test]
fn mistakes_in_the_conditions_of_a_key_are_told_by_line_and_key() {
    // The section of a key starts at line 7, as the user has six.
    for (lines, expected) in [
        ("[[user.key]]", "7: user.alice.key[1].line: missing; it is the key, such as line = \"ssh-ed25519 AAAA… alice@laptop\"".to_owned()),
        ("[[user.key]]\nline = \"bad\"", "8: user.alice.key[1].line: this is no key\\nat all".to_owned()),
        ("[[user.key]]\nline = \"k1 x\"", "8: user.alice.key[1].line: the same key is listed already, for user.alice at line 5".to_owned()),
        ("[[user.key]]\nline = \"k2\"\nfrom = [\"10.0.0.1/8\"]", "9: user.alice.key[1].from[1]: must be an address or a network such as \"10.0.0.0/8\", without bits beyond the prefix, not \"10.0.0.1/8\"".to_owned()),
        ("[[user.key]]\nline = \"k2\"\nallow = []", format!("9: user.alice.key[1].allow: unknown key here; it belongs in a [[user]]; {IN_KEY}")),
        ("key = [\"k2\"]", "7: user.alice.key[1]: must be [[user.key]] sections, with double brackets, not \"k2\"".to_owned()),
        ("keys-file = \"keys\"", "7: user.alice.keys-file: must be an absolute path, not \"keys\"".to_owned()),
        ("keys-file = \"/srv/ftd/x/keys\"", "7: user.alice.keys-file: is below root, where users could change who may come in".to_owned()),
        ("keys-file = \"/keys/none\"", "7: user.alice.keys-file: read /keys/none: no such file".to_owned()),
    ] {
        let text = format!("{HEAD}{ALICE}{lines}\n");
        assert_eq!(told(&text), format!("ftd.toml:{expected}"), "{lines}");
    }
    // G-09: good lines around bad ones do not save the file, and each is told by its own file and line.
    assert_eq!(
        told(&format!("{HEAD}{ALICE}keys-file = \"/keys/bad\"\n").replace("\"k1\"", "\"ssh-k1\"")),
        "/keys/bad:2: user.alice.keys-file: the option \"no-pty\" is not understood, and might restrict; \
         from=\"…\" and expiry-time=\"…\" are\n\
         /keys/bad:3: user.alice.keys-file: this is no key\\nat all\n\
         /keys/bad:5: user.alice.keys-file: the same key is listed already, for user.alice at ftd.toml:5\n\
         /keys/bad:6: user.alice.keys-file: expiry-time: \"soon\" is no time of the form \
         YYYYMMDD[HHMM[SS]][Z]"
    );
}

#[test]
fn keys_come_from_three_places_and_carry_their_conditions() -> TestResult {
    let text = format!(
        "{HEAD}{ALICE}from = [\"10.0.0.0/8\", \"::1\"]\nexpires = 2027-01-31\nenabled = false\n\
         keys-file = \"/keys/good\"\n[[user.key]]\nline = \"k2\"\nexpires = \"2027-01-31T01:00:00+01:00\"\n"
    );
    let settings = read(&text)?;
    let [alice] = settings.users.as_slice() else { return Err("one user is expected".into()) };
    let end = Some(std::time::UNIX_EPOCH + Duration::from_hours(500_376));
    let from = |nets: &[&str]| nets.iter().filter_map(|net| net.parse().ok()).collect();
    assert_eq!(
        alice.admission,
        Admission { from: from(&["10.0.0.0/8", "::1/128"]), expires: end, enabled: false }
    );
    assert_eq!(
        alice.keys,
        [
            open_key("k1", Admission::default()),
            open_key("ssh-k7", Admission::default()),
            open_key("k2", Admission { expires: end, ..Admission::default() }),
            open_key("ssh-k8", Admission { from: from(&["::1/128"]), ..Admission::default() }),
        ]
    );
    Ok(())
}

#[test]
fn included_files_bring_users_and_nothing_else() -> TestResult {
    const BOB: &str = "[[user]]\nname = \"bob\"\nkeys = [\"k2\"]\nallow = [\"get\"]\n";
    let names = |settings: &Settings| {
        settings.users.iter().map(|user| user.principal.name.clone()).collect::<Vec<_>>()
    };
    let main = format!("{HEAD}{ALICE}");
    assert_eq!(
        names(&read_with(&main, &[("d/b.toml", BOB), ("d/empty.toml", "# nobody")])?),
        ["alice", "bob"]
    );
    assert_eq!(names(&read_with(HEAD, &[("d/b.toml", BOB)])?), ["bob"], "they may all be there");
    for (file, expected) in [
        (
            "root = \"/x\"",
            "d/b.toml:1: root: unknown key; in the include directory a file has [[user]] sections only",
        ),
        (
            "\n[limits]\nconnections = 1",
            "d/b.toml:2: limits: unknown key; in the include directory a file has [[user]] sections only",
        ),
        ("user = 3", "d/b.toml:1: user: must be [[user]] sections, with double brackets, not 3"),
        ("# x\nuser = [", "d/b.toml:2: user: unclosed array, expected `]`"),
        (
            &BOB.replace("bob", "alice"),
            "d/b.toml:2: user.alice.name: the name is taken already, at ftd.toml:4",
        ),
        (
            &BOB.replace("k2", "k1"),
            "d/b.toml:3: user.bob.keys[1]: the same key is listed already, for user.alice at ftd.toml:5",
        ),
        (
            &BOB.replace("get", "put"),
            "d/b.toml:4: user.bob.allow[1]: unknown right; the rights are get list create replace remove rename mkdir",
        ),
    ] {
        let told = read_with(&main, &[("d/b.toml", file)]).map_err(|errors| errors.to_string());
        assert_eq!(told.map(|_| ()), Err(expected.to_owned()), "{file}");
    }
    Ok(())
}

#[test]
fn mistakes_in_a_path_rule_are_told_by_line_and_key() {
    // The section of a rule starts at line 7, as the user has six.
    const MATCH: &str = "user.alice.path[1].match: ";
    let allow = "allow = []";
    for (lines, expected) in [
        (allow.to_owned(), vec![format!("7: {MATCH}missing; name a path below the home, such as match = \"inbox\"")]),
        (format!("match = 3\n{allow}"), vec![format!("8: {MATCH}must be a path below the home in quotes, not 3")]),
        (format!("match = \"\"\n{allow}"), vec![format!("8: {MATCH}the path is empty")]),
        (format!("match = \"/a\"\n{allow}"), vec![format!("8: {MATCH}the path starts with '/'; paths are relative to your home")]),
        (format!("match = \"a/../b\"\n{allow}"), vec![format!("8: {MATCH}component 2 is '.' or '..', which is never followed")]),
        (format!("match = \"a/\"\n{allow}"), vec![format!("8: {MATCH}the path ends with '/'")]),
        (format!("match = \"a/*.txt\"\n{allow}"), vec![format!("8: {MATCH}\"*\" stands for one whole component; parts of a name cannot be matched")]),
        (format!("match = \"a/**\"\n{allow}"), vec![format!("8: {MATCH}\"*\" stands for one whole component; parts of a name cannot be matched")]),
        ("match = \"a\"".to_owned(), vec![format!("7: user.alice.path[1].allow: missing; list what the user may do: {RIGHTS}")]),
        (format!("match = \"a\"\nretain = 30\n{allow}"), vec!["9: user.alice.path[1].retain: must be a time with its unit, such as \"30s\", \"5min\" or \"1h\", not 30".to_owned()]),
        (format!("match = \"a\"\nhome = \"x\"\n{allow}"), vec![format!("9: user.alice.path[1].home: unknown key here; it belongs in a [[user]]; {IN_PATH}")]),
        (
            format!("match = \"a\"\n{allow}\n[[user.path]]\nmatch = \"a\"\n{allow}"),
            vec!["11: user.alice.path[2].match: the same path has rules already, at line 8".to_owned()],
        ),
    ] {
        let expected: Vec<_> = expected.iter().map(|line| format!("ftd.toml:{line}")).collect();
        let text = format!("{HEAD}{ALICE}[[user.path]]\n{lines}\n");
        assert_eq!(told(&text), expected.join("\n"), "{lines}");
    }
    let text = format!("{HEAD}{ALICE}[user.path]\nmatch = \"a\"\n");
    let form = "must be [[user.path]] sections, with double brackets, not a section";
    assert_eq!(told(&text), format!("ftd.toml:7: user.alice.path: {form}"));
    for (count, fits) in [(PATHS_MAX, true), (PATHS_MAX + 1, false)] {
        let rule = |n| format!("[[user.path]]\nmatch = \"d{n}\"\nallow = []\n");
        let rules = (0..count).map(rule).collect::<Vec<_>>().concat();
        assert_eq!(read(&format!("{HEAD}{ALICE}{rules}")).is_ok(), fits, "{count} rules");
    }
}

#[test]
fn mistakes_in_a_home_are_told_by_line_and_key() {
    for (home, expected) in [
        ("3", "must be a path below root in quotes, or \".\", not 3"),
        ("\"\"", "must not be empty; root itself is \".\""),
        ("\"/srv\"", "must not start with '/'; it lies below root, and root itself is \".\""),
        ("\"a/\"", "the path ends with '/'"),
        ("\"a/../b\"", "component 2 is '.' or '..', which is never followed"),
        ("\".ftd-stage\"", "component 1 starts with '.ftd-', which is reserved"),
        (
            "\"a\\tb\"",
            "component 1 contains a control or text-direction character, which a new name may not",
        ),
    ] {
        let text = format!("{HEAD}{ALICE}home = {home}\n");
        assert_eq!(told(&text), format!("ftd.toml:7: user.alice.home: {expected}"));
    }
}

/// Goal: each limit takes its bounds and nothing past them.
/// Method: each bound, and the next value outside it, as the file spells them.
#[test]
fn limits_hold_at_the_bound_and_refuse_one_past_it() {
    let size = |bound: Bound<u64>| {
        [bound.min, bound.max, bound.min - 1, bound.max + 1].map(|v| (bound.key, v.to_string()))
    };
    let count = |bound: Bound<usize>| {
        [bound.min, bound.max, bound.min - 1, bound.max + 1].map(|v| (bound.key, v.to_string()))
    };
    let time = |bound: Bound<Duration>| {
        let nano = Duration::from_nanos(1);
        let below = bound.min.checked_sub(nano).map_or("-1ns".to_owned(), quantity::Quantity::show);
        [
            quantity::Quantity::show(bound.min),
            quantity::Quantity::show(bound.max),
            below,
            quantity::Quantity::show(bound.max + nano),
        ]
        .map(|v| (bound.key, format!("\"{v}\"")))
    };
    for rows in [
        size(Limits::MAX_FILE_SIZE),
        count(Limits::CONNECTIONS),
        count(Limits::CONNECTIONS_PER_USER),
        count(Limits::CONNECTIONS_PER_SOURCE),
        count(Limits::STRANGERS),
        count(Limits::STRANGERS_PER_SOURCE),
        count(Limits::REQUESTS_PER_CONNECTION),
        size(Limits::BUFFER_MEMORY),
        count(Limits::FILE_WORKERS),
        time(Limits::HANDSHAKE_TIMEOUT),
        time(Limits::IDLE_TIMEOUT),
        time(Limits::STALL_TIMEOUT),
        time(Limits::DRAIN_TIMEOUT),
    ] {
        for (index, (key, value)) in rows.iter().enumerate() {
            let room = match *key {
                "connections" => "",
                "strangers-per-source" => "strangers = 4096\n",
                _ => "connections = 65536\n",
            };
            let text = format!("{HEAD}{ALICE}[limits]\n{room}{key} = {value}\n");
            match (index < 2, read(&text)) {
                (true, Ok(_)) => {}
                (false, Err(errors)) => {
                    assert!(errors.to_string().contains("must be between"), "{errors}");
                }
                (_, other) => panic!("{key} = {value}: {other:?}"),
            }
        }
    }
    let accepted = |text: &str| read(text).is_ok();
    for (bytes, fits) in [(90, true), (91, false)] {
        let home = "h".repeat(bytes);
        assert_eq!(accepted(&format!("{HEAD}{ALICE}home = \"{home}\"")), fits, "home {bytes}");
    }
    for (bytes, fits) in [(64, true), (65, false)] {
        let text = format!("{HEAD}{ALICE}").replace("alice", &"n".repeat(bytes));
        assert_eq!(accepted(&text), fits, "name {bytes}");
    }
    for (bytes, fits) in [(107, true), (108, false)] {
        let path = format!("/{}", "s".repeat(bytes - 1));
        let text = format!("root = \"/srv/ftd\"\nlisten = [\"unix:{path}\"]\n{ALICE}");
        assert_eq!(accepted(&text), fits, "socket {bytes}");
    }
    for (bytes, fits) in [(4095, true), (4096, false)] {
        let path = format!("/{}", "r".repeat(bytes - 1));
        let text = format!("{HEAD}{ALICE}").replace("/srv/ftd", &path);
        assert_eq!(accepted(&text), fits, "root {bytes}");
    }
    for (places, fits) in [(16, true), (17, false)] {
        let list: Vec<_> = (1..=places).map(|port| format!("\"[::]:{port}\"")).collect();
        let text = format!("root = \"/srv/ftd\"\nlisten = [{}]\n{ALICE}", list.join(","));
        assert_eq!(accepted(&text), fits, "{places} places");
    }
    for (bytes, fits) in [(FILE_BYTES_MAX, true), (FILE_BYTES_MAX + 1, false)] {
        let text = format!("{HEAD}{ALICE}#");
        let text = format!("{text}{}", "x".repeat(bytes - text.len()));
        assert_eq!(accepted(&text), fits, "{bytes} bytes");
    }
}

#[test]
fn many_problems_are_counted_and_twenty_are_told() {
    let lines: Vec<_> = (0..25).map(|n| format!("unknown-{n} = 1")).collect();
    let told = told(&format!("{HEAD}{}\n{ALICE}", lines.join("\n")));
    assert_eq!(told.lines().count(), 21);
    assert!(told.starts_with("ftd.toml:3: unknown-0: unknown key"), "{told}");
    assert!(told.ends_with("\n… and 5 more"), "{told}");
}

/// The shipped file, with those commented lines in force that `wanted` picks by their section and
/// key; the example user counts as section `user`.
fn shipped(wanted: impl Fn(&str, &str) -> bool) -> String {
    let mut section = String::new();
    let mut out = String::new();
    for line in SHIPPED.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let key = bare.split_once(" = ").map(|(key, _)| key);
        if bare.starts_with('[') {
            section = bare.trim_matches(['[', ']']).to_owned();
        }
        let is_key =
            key.is_some_and(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        let take = (is_key || bare.starts_with('[')) && wanted(&section, key.unwrap_or_default());
        out.push_str(if take { bare } else { line });
        out.push('\n');
    }
    out
}

#[test]
fn the_shipped_file_needs_only_a_user() -> TestResult {
    assert!(told(SHIPPED).contains(": user: there is no user"), "{}", told(SHIPPED));
    assert_eq!(told(SHIPPED).lines().count(), 1);

    let settings = read(&shipped(|section, _| section.starts_with("user")))?;
    let [alice] = settings.users.as_slice() else {
        return Err("one example user is expected".into());
    };
    assert_eq!(alice.principal.name, "alice");
    assert_eq!(alice.principal.home, Some(RelPath::parse(b"alice")?), "the default, written out");
    assert_eq!(alice.uids, [1000]);
    assert_eq!(alice.principal.retain, RETAIN.default);
    assert_eq!(alice.principal.rules.len(), 1, "one example rule is expected");
    Ok(())
}

#[test]
fn the_shipped_file_tells_the_true_defaults() -> TestResult {
    let commented = read(&shipped(|section, _| section.starts_with("user")))?;
    let in_force = read(&shipped(|_, _| true))?;
    assert_eq!(in_force, commented);
    let defaults = smallest();
    let expected = Settings {
        listen: vec![
            Listen::Tcp(([0; 8], 7373).into()),
            Listen::Unix(PathBuf::from("/run/ftd/ftd.sock")),
        ],
        users: in_force.users.clone(),
        ..defaults
    };
    assert_eq!(in_force, expected);
    Ok(())
}

/// Goal: the file and the code know the same keys, in both directions.
/// Method: the set of `section.key` in the file, commented or not, against the tables in `raw`.
#[test]
fn the_shipped_file_shows_every_key_and_no_other() {
    let found = std::cell::RefCell::new(BTreeSet::new());
    shipped(|section, key| {
        if !key.is_empty() {
            found.borrow_mut().insert(format!("{section}.{key}"));
        }
        false
    });
    let known: BTreeSet<String> = [
        ("", RawFile::KEYS),
        ("limits", RawLimits::KEYS),
        ("user", RawUser::KEYS),
        ("user.key", RawKey::KEYS),
        ("user.path", RawPath::KEYS),
    ]
    .into_iter()
    .flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")))
    .filter(|key| ![".limits", ".user", "user.key", "user.path"].contains(&key.as_str())) // These are the sections themselves.
    .collect();
    assert_eq!(found.into_inner(), known);
}

#[test]
fn a_reload_names_what_it_cannot_take() {
    type Change = fn(&mut Settings);
    let rows: [(Change, &[&str]); 13] = [
        (|_| {}, &[]),
        (|s| s.root = "/other".into(), &["root"]),
        (|s| s.listen.push(Listen::Unix("/s".into())), &["listen"]),
        (|s| s.host_key = "/k".into(), &["host-key"]),
        (|s| s.sandbox = SandboxMode::BestEffort, &["sandbox"]),
        (|s| s.umask = 0, &["umask"]),
        (|s| s.limits.connections = 1, &["limits.connections"]),
        (|s| s.limits.buffer_memory = 1, &["limits.buffer-memory"]),
        (|s| s.limits.file_workers = 1, &["limits.file-workers"]),
        (|s| s.durability = Durability::None, &["durability"]),
        (|s| s.limits.strangers = 1, &["limits.strangers"]),
        (|s| s.users.clear(), &[]),
        (
            |s| {
                s.limits = Limits {
                    connections: s.limits.connections,
                    buffer_memory: s.limits.buffer_memory,
                    file_workers: s.limits.file_workers,
                    strangers: s.limits.strangers,
                    connections_per_user: 1,
                    connections_per_source: 1,
                    strangers_per_source: 1,
                    penalties: false,
                    penalty_exempt: vec![ipnet::Ipv4Net::default().into()],
                    max_file_size: 1,
                    requests_per_connection: 1,
                    compressed_connections: 0,
                    handshake_timeout: Duration::ZERO,
                    idle_timeout: Duration::ZERO,
                    stall_timeout: Duration::ZERO,
                    resume_expiry: Duration::from_hours(1),
                    drain_timeout: Duration::ZERO,
                }
            },
            &[],
        ),
    ];
    for (change, expected) in rows {
        let mut new = smallest();
        change(&mut new);
        assert_eq!(restart_needed(&smallest(), &new), expected);
    }
}

fn any_time(bound: Bound<Duration>) -> impl Strategy<Value = Duration> {
    let (min, max) = (bound.min.as_secs(), bound.max.as_secs() - 1);
    (min..=max, prop_oneof![Just(0), 0..1_000_000_000_u32]).prop_map(|(s, n)| Duration::new(s, n))
}

prop_compose! {
    fn any_limits()(
        max_file_size in Limits::MAX_FILE_SIZE.min..=Limits::MAX_FILE_SIZE.max,
        connections in 64..=Limits::CONNECTIONS.max,
        connections_per_user in 1..=64_usize,
        connections_per_source in 1..=64_usize,
        strangers in 16..=Limits::STRANGERS.max,
        strangers_per_source in 1..=16_usize,
        penalties in any::<bool>(),
        requests_per_connection in 1..=Limits::REQUESTS_PER_CONNECTION.max,
        compressed_connections in 0..=Limits::COMPRESSED_CONNECTIONS.max,
        buffer_memory in Limits::BUFFER_MEMORY.min..=Limits::BUFFER_MEMORY.max,
        file_workers in 1..=Limits::FILE_WORKERS.max,
        handshake_timeout in any_time(Limits::HANDSHAKE_TIMEOUT),
        idle_timeout in any_time(Limits::IDLE_TIMEOUT),
        stall_timeout in any_time(Limits::STALL_TIMEOUT),
        resume_expiry in any_time(Limits::RESUME_EXPIRY),
        drain_timeout in any_time(Limits::DRAIN_TIMEOUT),
    ) -> Limits {
        Limits {
            penalty_exempt: ["10.0.0.0/8", "::1/128"]
                .iter()
                .filter_map(|net| net.parse().ok())
                .skip(connections_per_source % 3)
                .collect(),
            max_file_size, connections, connections_per_user, connections_per_source, strangers,
            strangers_per_source, penalties, requests_per_connection, compressed_connections,
            buffer_memory, file_workers, handshake_timeout, idle_timeout, stall_timeout,
            resume_expiry,
            drain_timeout,
        }
    }
}

prop_compose! {
    fn any_settings()(
        limits in any_limits(),
        root in "/[^/\\p{C}.]{1,20}/[\"'\\\\#é a]{1,5}",
        socket in "/run/[a-z\"\\\\]{1,40}",
        address in any::<std::net::SocketAddr>(),
        umask in 0..=0o777_u32,
        best_effort in any::<bool>(),
        reserve in prop_oneof![
            (0..=99_u8).prop_map(Reserve::Percent),
            (0..=Limits::MAX_FILE_SIZE.max).prop_map(Reserve::Bytes),
        ],
        sizes in any::<[Option<u32>; 3]>(),
        scratch in any::<bool>(),
        homes in prop::collection::vec(prop::option::of("[a-z\"'\\\\ é]{1,40}"), 1..5),
        rights in prop::sample::subsequence(Right::ALL.to_vec(), 1..=7),
        retain in any_time(RETAIN),
        bandwidth in prop::option::of(BANDWIDTH.min..=BANDWIDTH.max),
        expires in prop::option::of(0..200_000_000_000_u64),
        patterns in prop::collection::btree_set("(\\*|[a-z\"'\\\\ é]{1,9})(/[a-z]{1,5})?", 0..4),
    ) -> Settings {
        let users = homes.iter().enumerate().map(|(n, home)| {
            let number = u32::try_from(n).unwrap_or_default();
            let mut user = user(&format!("u{n}"), home.as_deref(), Some(&format!("k\"{n}")), &[number]);
            user.principal.rights = rights.iter().copied().collect();
            user.principal.retain = retain;
            user.admission.expires = expires.map(|end| std::time::UNIX_EPOCH + Duration::from_secs(end));
            user.admission.enabled = !best_effort;
            user.bandwidth = bandwidth;
            if homes.len() > 2 {
                user.admission.from = vec![ipnet::IpNet::from(address.ip())];
                user.keys.push(open_key(&format!("k{n}bound"), user.admission.clone()));
            }
            user.principal.rules = patterns
                .iter()
                .filter_map(|pattern| Pattern::parse(pattern).ok())
                .enumerate()
                .map(|(n, pattern)| Rule {
                    pattern,
                    rights: rights.iter().copied().skip(n).collect(),
                    retain: (n % 2 == 0).then_some(retain),
                })
                .collect();
            user.quota = Quota { bytes: sizes[0].map(u64::from), names: sizes[1].map(u64::from) };
            user.max_file_size = sizes[2].map(|size| u64::from(size) + 1);
            user
        });
        let address = match address {
            std::net::SocketAddr::V6(v6) => std::net::SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
            v4 @ std::net::SocketAddr::V4(_) => v4,
        };
        Settings {
            root: root.into(),
            listen: vec![Listen::Unix(socket.into()), Listen::Tcp(address)],
            host_key: PathBuf::from("/var/lib/ftd/host_key"),
            durability: if scratch { Durability::None } else { Durability::Full },
            sandbox: if best_effort { SandboxMode::BestEffort } else { SandboxMode::Require },
            umask,
            reserve,
            limits,
            users: users.collect(),
        }
    }
}

proptest! {
    /// Goal: the dump is a file that means the same.
    #[test]
    fn what_is_dumped_reads_back_as_the_same(settings in any_settings()) {
        let text = settings.to_toml(&key_line);
        prop_assert_eq!(read(&text).map_err(|errors| TestCaseError::fail(format!("{errors}\n{text}")))?, settings);
    }

    /// Goal: no text makes the parser panic, and every refusal says something, line by line.
    #[test]
    fn no_text_brings_the_parser_down(text in prop_oneof![
        any::<String>(),
        "[\\[\\]{}=.,\"'#\n\t a-c0-9_+:-]{0,200}",
        prop::collection::vec(prop_oneof![
            Just("[[user]]"), Just("[limits]"), Just("[user]"), Just("name"), Just("keys"),
            Just("root"), Just("listen"), Just("umask"), Just("idle-timeout"), Just("connections"),
            Just(" = "), Just("\n"), Just("["), Just("]"), Just("{"), Just("}"), Just(","),
            Just("\"\""), Just("\"a\""), Just("\"/\""), Just("\"unix:\""), Just("-1"), Just("1e9"),
            Just("'é'"), Just("."), Just("true"), Just("\"-99999999999999999999days\""),
        ], 0..60).prop_map(|words| words.concat()),
    ]) {
        if let Err(errors) = read(&text) {
            prop_assert!(!errors.errors().is_empty());
            let lines = text.lines().count().max(1);
            prop_assert!(errors.errors().iter().all(|error| (1..=lines).contains(&error.line)), "{}", errors);
            prop_assert!(errors.to_string().lines().count() <= ConfigErrors::SHOWN_MAX + 1);
        }
    }

    /// Goal: quantities survive their own text, with no text of theirs bringing the reader down.
    #[test]
    fn no_quantity_brings_the_reader_down(value in "-?[0-9.]{0,30} ?[a-zA-Z]{0,5}") {
        for bound in ["max-file-size", "idle-timeout", "connections"] {
            let _ = read(&format!("{HEAD}{ALICE}[limits]\n{bound} = \"{value}\"\n"));
        }
    }
}
