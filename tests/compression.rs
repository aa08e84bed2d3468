//! Goal: content that travels compressed arrives byte for byte, a text tree in a third of the bytes, and
//! nothing that a peer packs costs more than what it would cost plain.
//! Method: the real client through a proxy that counts and cuts; raw frames against the real daemon; a server
//! of a few lines against the real client.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use ftd::proto::Packer;
use serde_json::{Value, json};
use support::proxy::Proxy;
use support::raw::{
    ANSWER, CANCEL, DATA, EOF, ERROR, Frame, HELLO, PACKED, REQUEST, Raw, TRAILER, frame,
    receive_from, trailer,
};
use support::{ALL_RIGHTS, Daemon, PATIENCE, Setup, TestResult, noise, sha256};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Bytes of content in a packed frame.
const PACKED_MAX: usize = 128 << 10;

/// A source file for every name in `from` and below, and what is in it.
fn files(from: &Path) -> Fallible<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut rest = vec![from.to_owned()];
    while let Some(directory) = rest.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                rest.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(from)?.to_string_lossy().into_owned();
                found.insert(name, std::fs::read(entry.path())?);
            }
        }
    }
    Ok(found)
}

fn lay_out(at: &Path, tree: &BTreeMap<String, Vec<u8>>) -> TestResult {
    for (name, content) in tree {
        let path = at.join(name);
        std::fs::create_dir_all(path.parent().ok_or("no parent")?)?;
        std::fs::write(path, content)?;
    }
    Ok(())
}

/// Content that can be halved: noise and zeros by turns.
fn half_noise(bytes: usize) -> Vec<u8> {
    let noise = noise(bytes / 2, 11);
    let turns = noise.chunks(32 << 10);
    turns.flat_map(|turn| [turn.to_vec(), vec![0; turn.len()]]).flatten().collect()
}

fn summary(out: &[u8]) -> Fallible<Value> {
    let last = std::str::from_utf8(out)?.lines().last().ok_or("nothing told")?;
    Ok(serde_json::from_str(last)?)
}

/// Puts and gets a tree, gives the bytes to and from the daemon, and compares.
fn there_and_back(
    daemon: &Daemon,
    tree: &BTreeMap<String, Vec<u8>>,
    options: &[&str],
) -> Fallible<(u64, u64)> {
    let name = format!("tree{}", options.len());
    lay_out(&daemon.path(&name), tree)?;
    let proxy = Proxy::start(daemon.path(&format!("{name}.sock")), &daemon.path("sock"), &[])?;
    let ftc = || daemon.ftc().env("FTC_SERVER", proxy.server());
    ftc().ok([&["put", "-r", &name], options].concat())?;
    let up = proxy.bytes().0;
    std::fs::create_dir(daemon.path(&format!("{name}.in")))?;
    let (remote, here) = (format!(":{name}"), format!("{name}.in/"));
    ftc().ok([&["get", "-r", &remote, &here], options].concat())?;
    assert!(&files(&daemon.stored(&name))? == tree, "what is stored");
    assert!(&files(&daemon.path(&format!("{name}.in/{name}")))? == tree, "what came back");
    Ok((up, proxy.bytes().1))
}

#[test]
fn a_text_tree_takes_a_third_of_the_bytes_each_way() -> TestResult {
    let daemon = Daemon::start()?;
    let mut tree = BTreeMap::new();
    for part in ["src", "docs", "tests"] {
        for (name, content) in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(part))? {
            tree.insert(format!("{part}/{name}"), content);
        }
    }
    let plain = there_and_back(&daemon, &tree, &[])?;
    let packed = there_and_back(&daemon, &tree, &["-z"])?;
    println!("assurance: compression put: {} bytes as {}", plain.0, packed.0);
    println!("assurance: compression get: {} bytes as {}", plain.1, packed.1);
    assert!(packed.0 * 3 <= plain.0 && packed.1 * 3 <= plain.1, "{plain:?} {packed:?}");
    Ok(())
}

#[test]
fn whatever_a_tree_holds_arrives_as_it_is() -> TestResult {
    let daemon = Daemon::start()?;
    let text = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs"))?;
    let text: Vec<u8> = text.into_values().flatten().collect();
    let large: Vec<u8> = text.iter().copied().cycle().take(3 << 20).collect();
    let mut tree = BTreeMap::new();
    for (number, bytes) in
        [0, 1, 63, 64, 4095, PACKED_MAX - 1, PACKED_MAX, PACKED_MAX + 1, 600_000].iter().enumerate()
    {
        tree.insert(format!("text/{number}"), large[..*bytes].to_vec());
        tree.insert(format!("noise/{number}"), noise(*bytes, number as u64 + 1));
    }
    tree.insert("zeros".to_owned(), vec![0; 5 << 20]);
    tree.insert("mixed".to_owned(), [&large[..], &noise(3 << 20, 7), &large, &[0; 9]].concat());
    let (up, down) = there_and_back(&daemon, &tree, &["-z"])?;
    let noisy: usize =
        tree.iter().filter(|(name, _)| name.starts_with("noise")).map(|(_, c)| c.len()).sum();
    let noisy = (noisy + (3 << 20)) as u64;
    let most = noisy + (1 << 20);
    assert!((noisy..most).contains(&up) && (noisy..most).contains(&down), "{up} {down} {most}");
    Ok(())
}

/// Noise passes through as it is: no byte more than without compression, but for the asking.
#[test]
fn what_cannot_be_compressed_costs_no_more_than_plain() -> TestResult {
    let daemon = Daemon::start()?;
    let content = noise(8 << 20, 5);
    std::fs::write(daemon.path("video"), &content)?;
    let mut sent = Vec::new();
    for (name, options) in [("plain", &[][..]), ("packed", &["-z"])] {
        let proxy = Proxy::start(daemon.path(name), &daemon.path("sock"), &[])?;
        let ftc = daemon.ftc().env("FTC_SERVER", proxy.server());
        let ran = ftc.ok([&["put", "--json", "video"], options].concat())?;
        let told = summary(&ran.out)?;
        assert_eq!((&told["moved"], &told["wire"]), (&json!(content.len()), &json!(content.len())));
        sent.push(proxy.bytes().0);
    }
    assert!(sent[1] <= sent[0] + 2048, "{sent:?}");
    Ok(())
}

/// Offsets, lengths and digests are of the content, whatever it is on the line.
#[test]
fn what_was_cut_goes_on_compressed() -> TestResult {
    let daemon = Daemon::start()?;
    let content = half_noise(104 << 20);
    std::fs::write(daemon.path("large"), &content)?;
    std::fs::create_dir(daemon.path("in"))?;
    for (words, name) in [(&["put", "large"][..], "up"), (&["get", ":large", "in/"], "down")] {
        let cuts = [45 << 20];
        let proxy = Proxy::start(daemon.path(name), &daemon.path("sock"), &cuts)?;
        let ftc = daemon.ftc().env("FTC_SERVER", proxy.server()).env("FTC_RETRY", "1min");
        let ran = ftc.env("FTC_COMPRESS", "1").ok([words, &["--json"]].concat())?;
        let out = String::from_utf8(ran.out)?;
        let done = out.lines().find(|line| line.contains("\"done\"")).ok_or("not done")?;
        let done: Value = serde_json::from_str(done)?;
        assert_eq!(done["sha256"], sha256(&content).as_str());
        assert!(done["resumed"].as_u64() >= Some(64 << 20), "{done}");
        assert_eq!(proxy.connections(), 2, "{name}");
    }
    assert!(std::fs::read(daemon.path("in/large"))? == content);
    daemon.assert_nothing_staged()
}

const COMPRESS: &str = r#"{"verb":"compress","method":"zstd"}"#;

/// A connection on which compression was allowed, as its request 1.
fn compressed(daemon: &Daemon) -> Fallible<Raw> {
    let mut raw = Raw::greeted(daemon)?;
    raw.send(REQUEST, 1, COMPRESS.as_bytes())?;
    let answer = raw.expect()?;
    assert_eq!((answer.kind, answer.id, answer.json()), (ANSWER, 1, json!({"compress": {}})));
    Ok(raw)
}

/// The payload of a PACKED frame, the first of its stream unless the packer has made others.
fn packed(packer: &mut Packer, content: &[u8]) -> Fallible<Vec<u8>> {
    let mut payload = Vec::new();
    assert!(packer.pack(content, &mut payload)?, "it can be packed");
    Ok(payload)
}

fn prefixed(bytes: usize, packed: &[u8]) -> Fallible<Vec<u8>> {
    Ok([&u32::try_from(bytes)?.to_be_bytes()[..], packed].concat())
}

/// Goal: whatever is packed, no more comes out than a frame may hold, and what is wrong ends the connection
/// and nothing else (F-01, F-04). Method: one row per breach, and what is exactly at the limit.
#[test]
fn frames_that_unpack_to_something_else_end_the_connection() -> TestResult {
    let daemon = Daemon::start()?;
    let zeros = vec![0; PACKED_MAX];
    let good = packed(&mut Packer::new()?, &zeros)?;
    let mut flipped = good.clone();
    flipped[4] ^= 0xFF;
    let two = {
        let mut packer = Packer::new()?;
        let (one, other) = (packed(&mut packer, &zeros)?, packed(&mut packer, &zeros)?);
        prefixed(PACKED_MAX, &[&one[4..], &other[4..]].concat())?
    };
    let rows = [
        (flipped, "damaged"),
        (good[..good.len() - 1].to_vec(), "cut"),
        (prefixed(PACKED_MAX - 1, &good[4..])?, "a byte more than announced"),
        (two, "twice as much as a frame may hold"),
        (prefixed(PACKED_MAX, &zstd::bulk::compress(&vec![0; 1 << 28], 1)?)?, "a bomb"),
        (prefixed(PACKED_MAX + 1, &good[4..])?, "more announced than a frame may hold"),
        (prefixed(0, &good[4..])?, "nothing announced"),
        (good[..4].to_vec(), "nothing packed"),
        (vec![0; (129 << 10) + 1], "a payload one byte too long"),
    ];
    let put = json!({"verb": "put", "path": "f", "bytes": PACKED_MAX});
    for (payload, why) in rows {
        let mut raw = compressed(&daemon)?;
        raw.request(2, &put)?;
        let _ = raw.send(PACKED, 2, &payload); // The server may have seen enough before the end.
        raw.expect_closed("PROTOCOL").map_err(|error| format!("{why}: {error}"))?;
    }
    let mut raw = compressed(&daemon)?;
    raw.request(2, &json!({"verb": "put", "path": "f", "bytes": PACKED_MAX - 1}))?;
    raw.send(PACKED, 2, &good)?;
    raw.expect_closed("PROTOCOL")?; // More than the put announced.
    let mut raw = Raw::greeted(&daemon)?;
    raw.request(1, &put)?;
    raw.send(PACKED, 1, &good)?;
    raw.expect_closed("PROTOCOL")?; // Nobody asked for compression.

    let mut raw = compressed(&daemon)?;
    raw.request(2, &put)?;
    for piece in frame(PACKED, 2, &good).chunks(1) {
        raw.bytes(piece)?;
    }
    raw.send(EOF, 2, b"")?;
    raw.send(TRAILER, 2, &trailer(&zeros))?;
    assert_eq!(raw.expect()?.json()["stored"]["bytes"], PACKED_MAX);
    assert_eq!(std::fs::read(daemon.stored("f"))?, zeros);
    drop(raw);
    daemon.assert_nothing_staged()
}

/// One stream goes through all requests of a connection, also through those that were refused or cancelled.
#[test]
fn what_is_dropped_goes_through_the_stream_too() -> TestResult {
    let daemon = Daemon::start()?;
    let mut packer = Packer::new()?;
    let content = noise(2000, 3).iter().map(|byte| b'a' + byte % 20).collect::<Vec<u8>>();
    let (first, second) = (packed(&mut packer, &content)?, packed(&mut packer, &content)?);
    assert!(second.len() < first.len() / 10, "the second means nothing without the first");
    for path in ["a/../b", "cancelled"] {
        let mut raw = compressed(&daemon)?;
        raw.request(2, &json!({"verb": "put", "path": path}))?;
        raw.send(PACKED, 2, &first)?;
        raw.send(CANCEL, 2, b"")?;
        let refused = raw.expect()?;
        assert_eq!(refused.id, 2, "{refused:?}");
        raw.request(3, &json!({"verb": "put", "path": "f"}))?;
        raw.send(DATA, 3, b"plain, ")?;
        raw.send(PACKED, 3, &second)?;
        raw.send(EOF, 3, b"")?;
        let whole = [b"plain, ", &content[..]].concat();
        raw.send(TRAILER, 3, &trailer(&whole))?;
        let stored = raw.expect()?;
        assert_eq!((stored.kind, stored.id), (ANSWER, 3), "{stored:?}");
        assert_eq!(std::fs::read(daemon.stored("f"))?, whole);
    }
    Ok(())
}

/// Goal: memory is bounded: so many connections, half of them for one user, and others go on without (B5).
#[test]
fn connections_past_the_limit_go_on_without() -> TestResult {
    let limit =
        |most| Setup::with(ALL_RIGHTS, &format!("[limits]\ncompressed-connections = {most}"));
    let daemon = limit(3)?.start()?;
    let text = vec![b'x'; 1 << 20];
    std::fs::write(daemon.path("text"), &text)?;
    let mut first = compressed(&daemon)?;
    assert_eq!(first.code_of(2, &serde_json::from_str(COMPRESS)?)?, "frame 8", "again is no harm");
    let second = compressed(&daemon)?;
    let mut third = Raw::greeted(&daemon)?;
    assert_eq!(third.code_of(1, &serde_json::from_str(COMPRESS)?)?, "LIMIT");
    let other = json!({"verb": "compress", "method": "lz4"});
    assert_eq!(third.code_of(2, &other)?, "PROTOCOL");
    assert_eq!(third.code_of(3, &json!({"verb": "stat"}))?, "frame 8", "the connection goes on");
    let wire = |ran: &support::Ran| {
        Ok::<_, Box<dyn std::error::Error>>(summary(&ran.out)?["wire"].as_u64())
    };
    let ran = daemon.ftc_unix().ok(["put", "-zv", "--json", "text"])?;
    assert!(ran.err.contains("goes uncompressed: as many"), "{ran:?}");
    assert_eq!(wire(&ran)?, Some(1 << 20));
    drop(second);
    support::wait_until("the place is free again", || {
        let ran = daemon.ftc_unix().ok(["put", "-z", "--json", "text"])?;
        Ok(wire(&ran)? < Some(1 << 15))
    })?;
    let daemon = limit(0)?.start()?;
    let mut raw = Raw::greeted(&daemon)?;
    assert_eq!(raw.code_of(1, &serde_json::from_str(COMPRESS)?)?, "LIMIT");
    Ok(())
}

/// Goal: what a compressed connection costs is what the configuration says (B5).
/// Method: as many as one user gets, each with both of its streams full, against as many plain ones.
#[test]
fn a_compressed_connection_costs_no_more_than_it_says() -> TestResult {
    const CONNECTIONS: usize = 16;
    let mut costs = Vec::new();
    for compresses in [false, true] {
        let daemon = Daemon::start()?;
        let content = half_noise(3 << 19); // More than the streams remember.
        let before = daemon.memory("VmRSS")?;
        let mut kept = Vec::new();
        for number in 0..CONNECTIONS {
            let mut raw = if compresses { compressed(&daemon)? } else { Raw::greeted(&daemon)? };
            let mut packer = Packer::new()?;
            raw.request(2, &json!({"verb": "put", "path": format!("{number}")}))?;
            for part in content.chunks(PACKED_MAX) {
                if compresses {
                    raw.send(PACKED, 2, &packed(&mut packer, part)?)?;
                } else {
                    raw.send(DATA, 2, part)?;
                }
            }
            raw.send(EOF, 2, b"")?;
            raw.send(TRAILER, 2, &trailer(&content))?;
            assert_eq!(raw.expect()?.kind, ANSWER);
            raw.request(3, &json!({"verb": "get", "path": format!("{number}")}))?;
            while raw.expect()?.kind != TRAILER {}
            kept.push(raw);
        }
        costs.push(daemon.memory("VmRSS")?.saturating_sub(before));
    }
    let each = costs[1].saturating_sub(costs[0]) / CONNECTIONS as u64;
    println!("assurance: compression memory: {each} KiB for each connection");
    assert!(each <= 6 << 10, "{costs:?} KiB");
    Ok(())
}

/// A user's bandwidth is of what is on the line: plain, this would take eight minutes.
#[test]
fn bandwidth_counts_what_is_on_the_line() -> TestResult {
    let setup = Setup::new()?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.write_config(&format!("{text}bandwidth = \"128KiB\"\n"))?;
    let daemon = setup.start()?;
    std::fs::write(daemon.path("zeros"), vec![0; 64 << 20])?;
    let began = Instant::now();
    daemon.ftc_unix().ok(["put", "-z", "--bwlimit", "128KiB", "zeros"])?;
    daemon.ftc_unix().ok(["get", "-z", "--bwlimit", "128KiB", ":zeros", "back"])?;
    assert!(began.elapsed() < Duration::from_mins(2), "{:?}", began.elapsed());
    Ok(())
}

const GREETING: &[u8] = br#"{"protocol":"ftd","versions":{"min":1,"max":1},"server":"s","user":"u","rights":["get"],"limits":{"control_bytes":16384,"data_bytes":1048576,"requests":256,"uploads":8,"file_bytes":1}}"#;

/// What `ftc get -z` of `f` comes to, against a server that answers the requests it gets in turn with these.
fn get_from(answers: &[Vec<Frame>]) -> Fallible<(Option<i32>, Vec<u8>, String)> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("sock");
    let listener = UnixListener::bind(&socket)?;
    let client = std::process::Command::new(env!("CARGO_BIN_EXE_ftc"))
        .env_clear()
        .env("HOME", directory.path())
        .env("FTC_SERVER", format!("unix:{}", socket.display()))
        .env("FTC_RETRY", "0s")
        .args(["get", "-zv", ":f", "-"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&frame(HELLO, 0, GREETING))?;
    let mut answers = answers.iter();
    while let Some(asked) = receive_from(&mut stream)? {
        if asked.kind == REQUEST {
            for Frame { kind, payload, .. } in answers.next().into_iter().flatten() {
                // A client that has seen enough is gone.
                let _ = stream.write_all(&frame(*kind, asked.id, payload));
            }
        }
    }
    let output = client.wait_with_output()?;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), output.stdout, err))
}

/// Goal: a server that does not compress is served plainly, and one that lies is left (L-04, L-07).
#[test]
fn a_client_asks_and_believes_nothing() -> TestResult {
    let of = |kind, payload: &[u8]| Frame { kind, id: 0, payload: payload.to_vec() };
    let content = vec![b'x'; 1000];
    let info = of(ANSWER, br#"{"file":{"bytes":1000,"mode":420,"mtime_ns":0}}"#);
    let end = || [of(EOF, b""), of(TRAILER, &trailer(&content))];
    let plain = [&[info.clone(), of(DATA, &content)][..], &end()].concat();
    let good = packed(&mut Packer::new()?, &content)?;
    let small = [&[info.clone(), of(PACKED, &good)][..], &end()].concat();
    let agreed = vec![of(ANSWER, br#"{"compress":{}}"#)];
    let unknown =
        vec![of(ERROR, br#"{"code":"PROTOCOL","message":"this server does not know the verb"}"#)];
    let (code, out, err) = get_from(&[unknown.clone(), plain.clone()])?;
    assert_eq!((code, out == content), (Some(0), true), "an older server: {err}");
    assert!(err.contains("goes uncompressed: ") && err.contains("does not know the verb"), "{err}");
    for frames in [&plain, &small] {
        let (code, out, err) = get_from(&[agreed.clone(), frames.clone()])?;
        assert_eq!((code, out == content), (Some(0), true), "{err}");
    }
    let bomb = prefixed(1000, &zstd::bulk::compress(&vec![0; 1 << 28], 1)?)?;
    for (compress, frames, why) in [
        (&unknown, small, "packed without being asked"),
        (&agreed, vec![info.clone(), of(PACKED, &bomb)], "a bomb"),
        (&agreed, vec![info.clone(), of(PACKED, &prefixed(1001, &good[4..])?)], "another length"),
        (&agreed, vec![info.clone(), of(PACKED, &prefixed(1000, b"nonsense")?)], "damaged"),
    ] {
        let (code, out, err) = get_from(&[compress.clone(), frames])?;
        assert_eq!((code, out.len()), (Some(12), 0), "{why}: {err}");
    }
    Ok(())
}
