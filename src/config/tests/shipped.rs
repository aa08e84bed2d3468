//! The file that is installed, against the code.

use super::*;

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
