//! What is wrong in a file, and where.

use std::fmt;

use crate::types::Escaped;

/// One thing that is wrong, printed as `/etc/ftd.toml:12: user.alice.home: message`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// The file, as the caller of `parse` named it.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The key with its sections; empty where the file as a whole is meant. Elements of a list and
    /// users without a name are counted from 1: `user[2].keys[1]`.
    pub key: String,
    /// What is wrong, for a human.
    pub message: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong in a file, in the order of its lines; one line of text each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    omitted: usize,
}

impl ConfigErrors {
    /// How many are kept; the rest is counted.
    pub const SHOWN_MAX: usize = 20;

    /// The first [`Self::SHOWN_MAX`] problems.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// How many more there are.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        match self.omitted {
            0 => Ok(()),
            omitted => write!(f, "\n… and {omitted} more"),
        }
    }
}

/// The problems met so far, by their place in the text.
pub(super) struct Problems<'a> {
    file: &'a str,
    text: &'a str,
    line_starts: Vec<usize>,
    found: Vec<(usize, String, String)>,
}

impl<'a> Problems<'a> {
    pub fn new(file: &'a str, text: &'a str) -> Self {
        let line_starts = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        Self { file, text, line_starts, found: Vec::new() }
    }

    pub fn add(&mut self, at: usize, key: impl Into<String>, message: impl Into<String>) {
        self.found.push((at, key.into(), message.into()));
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The line, from 1, of a byte of the text.
    pub fn line(&self, at: usize) -> usize {
        1 + self.line_starts.partition_point(|start| *start <= at)
    }

    /// A piece of the file as it is spelled there, fit for a message.
    pub fn source(&self, span: std::ops::Range<usize>) -> String {
        shown(self.text.get(span).unwrap_or_default())
    }

    pub fn into_errors(mut self) -> ConfigErrors {
        self.found.sort_by_key(|(at, ..)| *at);
        let omitted = self.found.len().saturating_sub(ConfigErrors::SHOWN_MAX);
        let found = std::mem::take(&mut self.found);
        let errors = found
            .into_iter()
            .take(ConfigErrors::SHOWN_MAX)
            .map(|(at, key, message)| ConfigError {
                file: self.file.to_owned(),
                line: self.line(at),
                key,
                message,
            })
            .collect();
        ConfigErrors { errors, omitted }
    }
}

/// Text from the file, escaped and cut, so that every message stays one line.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    match text.char_indices().nth(CHARS_MAX) {
        None => Escaped(text.as_bytes()).to_string(),
        Some((end, _)) => format!("{}…", Escaped(&text.as_bytes()[..end])),
    }
}
