//! What must hold for any bytes: one function for each entry point that reads what a peer or a file says.
//!
//! The fuzzers call these without end, `tests/fuzz_laws.rs` with seeds and with random bytes on every run.

use ftd::config::{Resolvers, Text, parse as parse_config};
use ftd::identity::{
    KnownHosts, fingerprint, parse_public_line, public_from_spki, public_line, spki_der,
};
use ftd::proto::{
    Answer, ClientState, Entries, ErrorMessage, Expect, Header, Kind, Packer, Request, ServerHello,
    ServerState, Unpacker, WirePath, unpacked_bytes,
};
use ftd::types::{Escaped, RelPath};

/// What must hold for any bytes; it panics where it does not.
type Law = fn(&[u8]);

/// Every law under the name of its fuzzer.
pub const ALL: &[(&str, Law)] = &[
    ("header", header),
    ("server_session", server_session),
    ("client_session", client_session),
    ("packed", packed),
    ("messages", messages),
    ("path", path),
    ("config", config),
    ("key_line", key_line),
    ("keys_file", keys_file),
    ("known_hosts", known_hosts),
    ("spki", spki),
];

/// A header that decodes encodes to the same bytes, and its payload is within the limit of its kind.
pub fn header(data: &[u8]) {
    if let Some(raw) = data.first_chunk::<{ Header::BYTES }>()
        && let Ok(header) = Header::decode(raw)
    {
        assert_eq!(header.encode(), *raw);
        assert!(header.payload_bytes <= ftd::types::limits::DATA_BYTES_MAX);
    }
}

/// Splits a stream into frames until it ends or breaks a rule; `each` says whether to go on.
fn frames(data: &[u8], mut each: impl FnMut(&Header, &[u8]) -> bool) {
    let mut rest = data;
    while let Some((raw, after)) = rest.split_first_chunk::<{ Header::BYTES }>() {
        let Ok(header) = Header::decode(raw) else { return };
        let Some((payload, after)) = after.split_at_checked(header.payload_bytes as usize) else {
            return;
        };
        if !each(&header, payload) {
            return;
        }
        rest = after;
    }
}

/// Any stream of a client: no panic; requests that run stay below the limit; a finished one is not
/// running; when all are finished and all streams have ended the session is idle.
pub fn server_session(data: &[u8]) {
    const REQUESTS_MAX: usize = 4;
    let mut state = ServerState::new(REQUESTS_MAX);
    let mut ids = std::collections::BTreeSet::new();
    frames(data, |header, payload| {
        ids.insert(header.id);
        let Ok(expect) = state.header(header) else { return false };
        if expect == Expect::Control && state.control(header, payload).is_err() {
            return false;
        }
        // Every third request ends at once, as refusals do.
        if header.id % 3 == 0 && state.is_running(header.id) {
            state.finished(header.id);
            assert!(!state.is_running(header.id));
        }
        true
    });
    let running: Vec<u32> = ids.into_iter().filter(|id| state.is_running(*id)).collect();
    assert!(running.len() <= REQUESTS_MAX);
    for id in running {
        state.finished(id);
    }
    assert!(state.is_idle() || state.awaits_content());
}

/// Any stream of a server, for one request of each verb: no panic, nothing past a final frame.
pub fn client_session(data: &[u8]) {
    let mut state = ClientState::default();
    let path = || WirePath(b"x".to_vec());
    for request in [
        Request::Get { path: path(), offset: 0, version: None },
        Request::List { path: None },
        Request::Stat { path: Some(path()) },
        Request::Remove { path: path() },
    ] {
        state.begin(&request);
    }
    frames(data, |header, payload| match state.header(header) {
        Ok(true) => true,
        Ok(false) => state.control(header, payload).is_ok(),
        Err(_) => false,
    });
}

/// Any stream of PACKED frames: no panic, no frame yields more or less than it says, none too much. And
/// any content that is packed unpacks to itself.
pub fn packed(data: &[u8]) {
    let (Ok(mut receiver), Ok(mut sender)) = (Unpacker::new(), Packer::new()) else { return };
    let (mut content, mut payload) = (Vec::new(), Vec::new());
    let mut unpack = |receiver: &mut Unpacker, payload: &[u8]| {
        let (prefix, piece) = payload.split_first_chunk()?;
        let bytes = unpacked_bytes(*prefix).ok()?;
        let outcome = receiver.unpack(piece, bytes, &mut content);
        assert!(content.len() <= bytes as usize && bytes <= ftd::types::limits::PACKED_BYTES_MAX);
        outcome.ok()?;
        assert_eq!(content.len(), bytes as usize);
        Some(content.clone())
    };
    frames(data, |header, payload| {
        header.kind == Kind::Packed && unpack(&mut receiver, payload).is_some()
    });
    if sender.pack(data, &mut payload).is_ok_and(|is_packed| is_packed)
        && let Ok(mut receiver) = Unpacker::new()
    {
        assert_eq!(unpack(&mut receiver, &payload).as_deref(), Some(data));
    }
}

/// A message that is read is read again from what is written of it, and is the same.
pub fn messages(data: &[u8]) {
    fn same<T: serde::de::DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug>(
        data: &[u8],
    ) {
        if let Ok(message) = serde_json::from_slice::<T>(data)
            && let Ok(text) = serde_json::to_vec(&message)
            && let Ok(again) = serde_json::from_slice::<T>(&text)
        {
            assert_eq!(message, again);
        }
    }
    same::<Request>(data);
    same::<Answer>(data);
    same::<Entries>(data);
    same::<ServerHello>(data);
    same::<ErrorMessage>(data);
}

/// A path that parses is relative, climbs nowhere, fits the kernel, and prints harmlessly.
pub fn path(data: &[u8]) {
    let shown = Escaped(data).to_string();
    assert!(!shown.chars().any(char::is_control));
    if let Ok(path) = RelPath::parse(data) {
        assert_eq!(path.raw_bytes(), data);
        assert!(data.len() <= ftd::types::limits::PATH_BYTES_MAX && !data.contains(&0));
        for name in path.components() {
            let name = name.raw_bytes();
            assert!(!name.is_empty() && name != b"." && name != b"..");
            assert!(name.len() <= 255 && !name.starts_with(b".ftd-"));
        }
    }
}

/// Any text is judged, every complaint is one harmless line, and what is legal prints and parses back.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let key =
        |line: &str| parse_public_line(line).map(|(key, _)| key).map_err(|error| error.to_string());
    let account = |name: &str| name.parse().map_err(|_| "no such account".to_owned());
    let keys_file = |_: &std::path::Path| Err("no file is read here".to_owned());
    let resolvers = Resolvers { key: &key, account: &account, keys_file: &keys_file };
    let read = |text: &str| {
        let file = Text { name: "f".to_owned(), text: text.to_owned() };
        parse_config(&file, &[], &resolvers)
    };
    match read(text) {
        Ok(settings) => {
            let printed = settings.to_toml(&public_line);
            assert_eq!(read(&printed).as_ref(), Ok(&settings), "{printed}");
        }
        Err(errors) => {
            assert!(!errors.errors().is_empty());
            for error in errors.errors() {
                assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
            }
        }
    }
}

/// A key line that is read is the same key when it is written and read again.
pub fn key_line(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok((key, _)) = parse_public_line(text) {
        let again = parse_public_line(&public_line(&key)).map(|(key, _)| key);
        assert_eq!(again.as_ref(), Ok(&key));
        assert!(fingerprint(&key).starts_with("SHA256:"));
    }
}

/// A file of a user's keys is taken whole, with every line that is no comment, or refused with the line.
pub fn keys_file(data: &[u8]) {
    const CONFIG: &str = r#"
root = "/srv/ftd"
listen = ["[::]:7373"]
[[user]]
name = "u"
keys-file = "/keys"
allow = ["get"]
"#;
    let Ok(text) = std::str::from_utf8(data) else { return };
    let key =
        |line: &str| parse_public_line(line).map(|(key, _)| key).map_err(|error| error.to_string());
    let account = |_: &str| Err("no such account".to_owned());
    let file = |_: &std::path::Path| Ok(text.to_owned());
    let resolvers = Resolvers { key: &key, account: &account, keys_file: &file };
    let config = Text { name: "f".to_owned(), text: CONFIG.to_owned() };
    match parse_config(&config, &[], &resolvers) {
        Ok(settings) => {
            let lines = text.lines().map(str::trim);
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).count();
            assert_eq!(settings.users[0].keys.len(), lines);
        }
        Err(errors) => {
            for error in errors.errors() {
                assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
            }
        }
    }
}

/// A file of known hosts is read whole or refused, and a host that has a key is known again by its line.
pub fn known_hosts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(known) = KnownHosts::parse(text, "f") else { return };
    for line in text.lines().map(str::trim) {
        let Some((host, _)) = line.split_once([' ', '\t']) else { continue };
        for key in known.lookup(host) {
            let again = KnownHosts::parse(&format!("{host} {}", public_line(&key)), "f");
            assert!(line.starts_with('#') || again.is_ok_and(|again| again.lookup(host) == [key]));
        }
    }
}

/// A key from a handshake is one spelling and no other.
pub fn spki(data: &[u8]) {
    if let Some(key) = public_from_spki(data) {
        assert_eq!(spki_der(&key), data);
    }
}
