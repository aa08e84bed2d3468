//! The file as it is spelled: which keys there are, and where their values stand.
//!
//! Values keep their type and place until `check` asks for them. A derived deserializer would stop
//! at the first unknown key or wrong type; here both are collected with all the rest.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Problems, shown};

/// A value and where it stands.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// Declares one section of the file: its fields are all the keys that exist in it.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $key:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Default)]
        pub(super) struct $name<'t, 'i> { $(pub $field: Option<&'t Value<'i>>,)+ }

        impl<'t, 'i> $name<'t, 'i> {
            /// Every key of the section, in the order of the shipped file.
            pub const KEYS: &'static [&'static str] = &[$($key,)+];

            /// Sorts the values of `table` by key; a key that is not known is a problem.
            /// `place` is what stands before the key in messages: empty, or with its final dot.
            pub fn read(place: &str, table: &'t DeTable<'i>, problems: &mut Problems) -> Self {
                let mut section = Self::default();
                for (key, value) in table {
                    match key.get_ref().as_ref() {
                        $($key => section.$field = Some(value),)+
                        unknown => problems.add(
                            key.span().start,
                            format!("{place}{}", shown(unknown)),
                            unknown_key(unknown, Self::KEYS),
                        ),
                    }
                }
                section
            }
        }
    };
}

section! {
    /// What stands before the first section header.
    RawFile {
        root = "root",
        listen = "listen",
        host_key = "host-key",
        durability = "durability",
        sandbox = "sandbox",
        umask = "umask",
        reserve = "reserve",
        limits = "limits",
        user = "user",
    }
}

section! {
    /// `[limits]`.
    RawLimits {
        max_file_size = "max-file-size",
        connections = "connections",
        connections_per_user = "connections-per-user",
        connections_per_source = "connections-per-source",
        strangers = "strangers",
        strangers_per_source = "strangers-per-source",
        penalties = "penalties",
        penalty_exempt = "penalty-exempt",
        requests_per_connection = "requests-per-connection",
        compressed_connections = "compressed-connections",
        buffer_memory = "buffer-memory",
        file_workers = "file-workers",
        handshake_timeout = "handshake-timeout",
        idle_timeout = "idle-timeout",
        stall_timeout = "stall-timeout",
        resume_expiry = "resume-expiry",
        drain_timeout = "drain-timeout",
    }
}

section! {
    /// One `[[user]]`.
    RawUser {
        name = "name",
        keys = "keys",
        keys_file = "keys-file",
        unix = "unix",
        from = "from",
        expires = "expires",
        enabled = "enabled",
        home = "home",
        allow = "allow",
        retain = "retain",
        bandwidth = "bandwidth",
        quota = "quota",
        quota_files = "quota-files",
        max_file_size = "max-file-size",
        key = "key",
        path = "path",
    }
}

section! {
    /// One `[[user.key]]`.
    RawKey {
        line = "line",
        from = "from",
        expires = "expires",
        enabled = "enabled",
    }
}

section! {
    /// What stands before the first section of a file in the include directory.
    RawIncluded {
        user = "user",
    }
}

section! {
    /// One `[[user.path]]`.
    RawPath {
        pattern = "match",
        allow = "allow",
        retain = "retain",
    }
}

/// What to say about a key that is not one of `known`.
fn unknown_key(key: &str, known: &[&str]) -> String {
    if known == RawIncluded::KEYS {
        return "unknown key; in the include directory a file has [[user]] sections only"
            .to_owned();
    }
    let possible = known.join(", ");
    if let Some(near) = closest(key, known) {
        return format!("unknown key; did you mean `{near}`? possible here are {possible}");
    }
    let elsewhere = [
        (RawFile::KEYS, "stands before the first [section] of the file"),
        (RawLimits::KEYS, "belongs in [limits]"),
        (RawUser::KEYS, "belongs in a [[user]]"),
        (RawKey::KEYS, "belongs in a [[user.key]]"),
        (RawPath::KEYS, "belongs in a [[user.path]]"),
    ];
    match elsewhere.iter().find(|(keys, _)| keys.contains(&key)) {
        Some((_, place)) => format!("unknown key here; it {place}; possible here are {possible}"),
        None => format!("unknown key; possible here are {possible}"),
    }
}

/// The known key that `key` most likely wanted to be: at most a third of it is spelled otherwise.
fn closest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    const KEY_BYTES_MAX: usize = 40; // Longer than any key and its slips; bounds the work.
    if key.len() > KEY_BYTES_MAX {
        return None;
    }
    let key = key.to_ascii_lowercase().replace('_', "-");
    known
        .iter()
        .map(|known| (edits(key.as_bytes(), known.as_bytes()), *known))
        .filter(|(edits, known)| edits * 3 <= known.len())
        .min()
        .map(|(_, known)| known)
}

/// How many bytes must be added, removed or changed to make `a` into `b` (Levenshtein).
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = corner + usize::from(from != to);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
