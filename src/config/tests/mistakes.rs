//! Goal of the next five: every mistake is told with its line, its key and what would be right.
//! Method: one row per mistake, against the whole text that an administrator reads.

use super::*;

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
            "10: user.bob.allow[2]: unknown right \"put\"; the rights are get list create replace remove rename mkdir".to_owned(),
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
            "d/b.toml:4: user.bob.allow[1]: unknown right \"put\"; the rights are get list create replace remove rename mkdir",
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
