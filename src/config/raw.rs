//! The file as it is spelled. Every value knows its place, so that a problem can cite its line.

use serde::Deserialize;
use toml::{Spanned, Value};

use super::error::Judge;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawFile {
    pub(super) root: Option<Spanned<String>>,
    pub(super) listen: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) host_key: Option<Spanned<String>>,
    pub(super) durability: Option<Spanned<String>>,
    pub(super) sandbox: Option<Spanned<String>>,
    pub(super) umask: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) limits: RawLimits,
    #[serde(default)]
    pub(super) user: Vec<Spanned<RawUser>>,
}

/// Numbers, sizes and times: whether one is what its key asks for is judged by hand.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawLimits {
    pub(super) max_file_size: Option<Spanned<Value>>,
    pub(super) connections: Option<Spanned<Value>>,
    pub(super) connections_per_user: Option<Spanned<Value>>,
    pub(super) requests_per_connection: Option<Spanned<Value>>,
    pub(super) buffer_memory: Option<Spanned<Value>>,
    pub(super) file_workers: Option<Spanned<Value>>,
    pub(super) handshake_timeout: Option<Spanned<Value>>,
    pub(super) idle_timeout: Option<Spanned<Value>>,
    pub(super) stall_timeout: Option<Spanned<Value>>,
    pub(super) drain_timeout: Option<Spanned<Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawUser {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) keys: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) unix: Vec<Spanned<String>>,
    pub(super) home: Option<Spanned<String>>,
    pub(super) allow: Option<Spanned<Vec<Spanned<String>>>>,
}

/// Reads the text; what is no TOML, or has a key that is not known, is a problem with its line.
pub(super) fn read(text: &str, judge: &mut Judge<'_>) -> Option<RawFile> {
    match toml::from_str(text) {
        Ok(raw) => Some(raw),
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            let (key, message) = explain(text, span.start, error.message());
            judge.add(span, key, message);
            None
        }
    }
}

/// Puts the parser's words into ours: the dotted key in front, and a guess at what was meant.
fn explain(text: &str, at: usize, message: &str) -> (String, String) {
    let section = section_at(text, at);
    let dotted =
        |key: &str| if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let unknown = quoted.next().unwrap_or_default();
        let known = quoted.collect::<Vec<_>>();
        let near = known.iter().find(|known| distance(known, unknown) <= 2);
        let guess = near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        return (
            dotted(unknown),
            format!("unknown key; {guess}possible here: {}", known.join(", ")),
        );
    }
    if message.starts_with("missing field") {
        return (dotted(quoted.next().unwrap_or_default()), "is missing".to_owned());
    }
    let line =
        text.get(..at).and_then(|before| text.get(before.rfind('\n').map_or(0, |at| at + 1)..));
    let line = line.and_then(|rest| rest.lines().next()).unwrap_or_default();
    match line.split_once('=') {
        Some((key, _)) if !line.trim_start().starts_with('#') => {
            (dotted(key.trim()), message.replace('\n', " "))
        }
        _ => (section, message.replace('\n', " ")),
    }
}

/// The table that a place in the text belongs to: `limits`, `user[2]`, or nothing at the top.
fn section_at(text: &str, at: usize) -> String {
    let end =
        text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |newline| at + newline);
    let mut section = String::new();
    let mut users = 0;
    for line in text.get(..end).unwrap_or(text).lines().map(str::trim) {
        if line.starts_with("[[user]]") {
            users += 1;
            section = format!("user[{users}]");
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next())
            && !name.starts_with('[') && !name.contains('"') {
                name.clone_into(&mut section);
            }
    }
    section
}

/// Edits between two words (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other = other.as_bytes();
    let mut row = (0..=other.len()).collect::<Vec<_>>();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let cost = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
