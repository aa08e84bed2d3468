//! What is wrong with a configuration, by file, line and key.

use std::fmt;
use std::ops::Range;

use thiserror::Error;

/// Problems that are told at once, at the most.
const ERRORS_MAX: usize = 20;

/// One problem; prints as `ftd.toml:12: limits.connections: must be at least 1`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// The file as the administrator named it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The dotted key; empty for the file as a whole.
    pub key: String,
    /// What is wrong, and what is possible.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, key, message } = self;
        match key.as_str() {
            "" => write!(f, "{file}:{line}: {message}"),
            key => write!(f, "{file}:{line}: {key}: {message}"),
        }
    }
}

/// All problems that were found, in the order of the file; one a line.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().take(ERRORS_MAX).enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{error}")?;
        }
        match self.0.len().saturating_sub(ERRORS_MAX) {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

/// Collects problems while a file is being judged.
pub(super) struct Judge<'a> {
    file: &'a str,
    text: &'a str,
    errors: Vec<ConfigError>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, errors: Vec::new() }
    }

    /// Notes a problem at a place in the text.
    pub(super) fn add(
        &mut self,
        span: Range<usize>,
        key: impl Into<String>,
        message: impl Into<String>,
    ) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = 1 + before.matches('\n').count();
        let error = ConfigError {
            file: self.file.to_owned(),
            line,
            key: key.into(),
            message: message.into(),
        };
        self.errors.push(error);
    }

    /// Notes a problem unless there is none.
    pub(super) fn take<T>(
        &mut self,
        span: Range<usize>,
        key: impl Into<String>,
        outcome: Result<T, String>,
    ) -> Option<T> {
        outcome.map_err(|message| self.add(span, key, message)).ok()
    }

    pub(super) fn is_content(&self) -> bool {
        self.errors.is_empty()
    }

    pub(super) fn into_errors(mut self) -> ConfigErrors {
        self.errors.sort_by_key(|error| error.line);
        ConfigErrors(self.errors)
    }
}
