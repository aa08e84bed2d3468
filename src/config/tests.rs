mod limits;
mod mistakes;
mod shipped;

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
