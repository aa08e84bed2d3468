//! Completion at the prompt: commands, names here, and names there.

use std::sync::Arc;
use std::time::Duration;

use rustyline::Context;
use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use tokio::runtime::Handle;

use super::{local, words};
use crate::client::job::Job;
use crate::client::remote;
use crate::proto::EntryType;
use crate::types::RelPath;

/// How long a listing may take before completion gives up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Names that are offered at the most.
const OFFERED_MAX: usize = 1000;

const COMMANDS: [&str; 17] = [
    "bye", "cd", "get", "help", "lcd", "lls", "lpwd", "ls", "mkdir", "mv", "put", "pwd", "quit",
    "rm", "stat", "verify", "exit",
];

/// What the line editor asks.
pub(super) struct Helper {
    job: Arc<Job>,
    runtime: Handle,
}

/// Whose names a word may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Side {
    Command,
    Here,
    There,
    Both,
    Nobody,
}

impl Helper {
    pub(super) fn new(job: Arc<Job>, runtime: Handle) -> Self {
        Self { job, runtime }
    }

    fn offers(&self, side: Side, word: &str) -> Vec<String> {
        let mut found = match side {
            Side::Command => COMMANDS.iter().map(|name| format!("{name} ")).collect(),
            Side::Here => here(word),
            Side::There => self.there(word),
            Side::Both => [self.there(word), here(word)].concat(),
            Side::Nobody => Vec::new(),
        };
        found.retain(|name| name.starts_with(word));
        found.sort();
        found.dedup();
        found.truncate(OFFERED_MAX);
        found
    }

    /// Names on the server in the directory that a word is about.
    fn there(&self, word: &str) -> Vec<String> {
        let directory = word.rfind('/').map_or("", |slash| &word[..=slash]);
        let listed = async {
            let (server, place) = self.job.remote(directory.as_ref()).ok()?;
            let path: Option<RelPath> = place.rel_path().ok()?;
            let listing = remote::list(&self.job, &server, path.as_ref());
            tokio::time::timeout(PATIENCE, listing).await.ok()?.ok()
        };
        let entries = self.runtime.block_on(listed).unwrap_or_default();
        let named = entries.into_iter().filter_map(|entry| {
            let name = plain(&entry.name.0)?;
            let end = if entry.kind == EntryType::Directory { "/" } else { "" };
            Some(format!("{directory}{name}{end}"))
        });
        named.collect()
    }
}

/// Names here in the directory that a word is about.
fn here(word: &str) -> Vec<String> {
    let directory = word.rfind('/').map_or("", |slash| &word[..=slash]);
    let path = if directory.is_empty() { ".".into() } else { local(directory) };
    let names = crate::client::local::names(&path).unwrap_or_default();
    names.iter().filter_map(|name| plain(name)).map(|name| format!("{directory}{name}")).collect()
}

/// A name that can be typed and shown.
pub(in crate::client) fn plain(name: &[u8]) -> Option<String> {
    let path = RelPath::parse(name.strip_suffix(b"/").unwrap_or(name)).ok()?;
    path.check_creatable().ok()?;
    String::from_utf8(name.to_vec()).ok()
}

/// Where the word at the end of a line begins, the word itself, and those before it.
pub(in crate::client) fn at_the_end(line: &str) -> (usize, String, Vec<String>) {
    let mut start = 0;
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in line.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, c) if c.is_whitespace() => start = at + c.len_utf8(),
            _ => {}
        }
    }
    let before = words::split(&line[..start]).unwrap_or_default();
    let raw = &line[start..];
    // A quote that is still open is closed for the asking.
    let word = ["", "'", "\""].iter().find_map(|end| words::split(&format!("{raw}{end}")).ok());
    (start, word.and_then(|mut words| words.pop()).unwrap_or_default(), before)
}

/// Whose names can stand at the end of these words.
fn side(before: &[String], word: &str) -> Side {
    let Some(command) = before.first() else { return Side::Command };
    if word.starts_with('-') {
        return Side::Nobody;
    }
    let operands = before[1..].iter().filter(|word| !word.starts_with('-')).count();
    match (command.as_str(), operands) {
        ("lcd" | "lls", _) | ("put" | "verify", 0) => Side::Here,
        ("put", _) | ("get", 1..) => Side::Both,
        ("verify", 1) | ("get" | "ls" | "cd" | "rm" | "mv" | "mkdir" | "stat", _) => Side::There,
        ("help", 0) => Side::Command,
        _ => Side::Nobody,
    }
}

impl Completer for Helper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, word, before) = at_the_end(&line[..pos]);
        let side = side(&before, &word);
        let pairs = self.offers(side, &word).into_iter().map(|name| {
            let last = name.trim_end_matches('/').rfind('/').map_or(0, |slash| slash + 1);
            let display = name[last..].to_owned();
            let replacement = if side == Side::Command { name } else { words::quote(&name) };
            Pair { display, replacement }
        });
        Ok((start, pairs.collect()))
    }
}

impl Hinter for Helper {
    type Hint = String;
}

impl Highlighter for Helper {}
impl Validator for Helper {}
impl rustyline::Helper for Helper {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_completed_from_the_side_that_it_names() {
        for (line, start, word, expected) in [
            ("", 0, "", Side::Command),
            ("ge", 0, "ge", Side::Command),
            ("get ", 4, "", Side::There),
            ("get -r ph", 7, "ph", Side::There),
            ("get a lo", 6, "lo", Side::Both),
            ("put lo", 4, "lo", Side::Here),
            ("put a re", 6, "re", Side::Both),
            ("lcd x", 4, "x", Side::Here),
            ("rm a b", 5, "b", Side::There),
            ("rm a\\ b", 3, "a b", Side::There),
            ("rm 'a b", 3, "a b", Side::There),
            ("ls -", 3, "-", Side::Nobody),
            ("bye ", 4, "", Side::Nobody),
        ] {
            let found = at_the_end(line);
            assert_eq!((found.0, found.1.as_str()), (start, word), "{line}");
            assert_eq!(side(&found.2, &found.1), expected, "{line}");
        }
    }
}
