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

/// Everything that is wrong, file by file and in the order of lines; one line of text each.
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

/// The problems met so far, by their place in the texts.
#[derive(Default)]
pub(super) struct Problems {
    /// The files in the order in which they were met.
    files: Vec<File>,
    /// The one that is being read.
    current: usize,
    found: Vec<(Place, String, String)>,
}

struct File {
    name: String,
    text: String,
    line_starts: Vec<usize>,
}

/// A byte of one of the files.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Place {
    file: usize,
    at: usize,
}

impl Place {
    /// Which file it is in.
    pub fn file(self) -> usize {
        self.file
    }
}

impl Problems {
    /// Goes on in another file, and gives which one it was before.
    pub fn enter(&mut self, name: &str, text: &str) -> usize {
        let line_starts = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        self.files.push(File { name: name.to_owned(), text: text.to_owned(), line_starts });
        std::mem::replace(&mut self.current, self.files.len() - 1)
    }

    /// Goes back to the file that [`Problems::enter`] gave.
    pub fn leave(&mut self, before: usize) {
        self.current = before;
    }

    /// A byte of the file that is being read.
    pub fn place(&self, at: usize) -> Place {
        Place { file: self.current, at }
    }

    pub fn add(&mut self, at: usize, key: impl Into<String>, message: impl Into<String>) {
        self.found.push((self.place(at), key.into(), message.into()));
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The line, from 1, of a byte of the file that is being read.
    pub fn line(&self, at: usize) -> usize {
        self.line_of(self.place(at))
    }

    fn line_of(&self, place: Place) -> usize {
        let starts = self.files.get(place.file).map_or(&[][..], |file| &file.line_starts);
        1 + starts.partition_point(|start| *start <= place.at)
    }

    /// Where something stands, as seen from the file that is being read.
    pub fn describe(&self, place: Place) -> String {
        let line = self.line_of(place);
        match self.files.get(place.file) {
            Some(file) if place.file != self.current => format!("{}:{line}", file.name),
            _ => format!("line {line}"),
        }
    }

    /// A piece of the file that is being read, as it is spelled there, fit for a message.
    pub fn source(&self, span: std::ops::Range<usize>) -> String {
        let text = self.files.get(self.current).map_or("", |file| file.text.as_str());
        shown(text.get(span).unwrap_or_default())
    }

    pub fn into_errors(mut self) -> ConfigErrors {
        self.found.sort_by_key(|(place, ..)| *place);
        let omitted = self.found.len().saturating_sub(ConfigErrors::SHOWN_MAX);
        let found = std::mem::take(&mut self.found);
        let errors = found
            .into_iter()
            .take(ConfigErrors::SHOWN_MAX)
            .map(|(place, key, message)| ConfigError {
                file: self.files.get(place.file).map_or_else(String::new, |file| file.name.clone()),
                line: self.line_of(place),
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
