//! `[[user.path]]`: what holds at some paths instead.

use std::collections::HashMap;
use std::time::Duration;

use toml::de::DeTable;

use super::Check;
use crate::config::raw::{RawPath, Value};
use crate::config::settings::{BANDWIDTH, PATHS_MAX, RETAIN};
use crate::types::{Pattern, Right, Rights, Rule};

impl Check<'_> {
    /// The rules of one user; an error has been recorded where one is left out.
    pub(super) fn user_paths(&mut self, label: &str, value: Option<&Value<'_>>) -> Vec<Rule> {
        const FORM: &str = "[[user.path]] sections, with double brackets";
        let key = format!("{label}.path");
        let Some(value) = value else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.must_be(&key, value, FORM);
            return Vec::new();
        };
        if array.len() > PATHS_MAX {
            self.must_be(&key, value, &format!("at most {PATHS_MAX} sections"));
        }
        let mut met = HashMap::new();
        let mut rules = Vec::with_capacity(array.len().min(PATHS_MAX));
        for (index, value) in array.iter().enumerate().take(PATHS_MAX) {
            let key = format!("{key}[{}]", index + 1);
            match value.get_ref().as_table() {
                Some(table) => {
                    rules.extend(self.user_path(&key, value.span().start, table, &mut met));
                }
                None => self.must_be(&key, value, FORM),
            }
        }
        rules
    }

    fn user_path(
        &mut self,
        label: &str,
        at: usize,
        table: &DeTable<'_>,
        met: &mut HashMap<String, usize>,
    ) -> Option<Rule> {
        let raw = RawPath::read(&format!("{label}."), table, &mut self.problems);
        let pattern = self.pattern(&format!("{label}.match"), at, raw.pattern, met);
        let rights = self.rights(label, at, raw.allow, true);
        let retain = match raw.retain {
            None => Some(None),
            value => self.quantity(label, value, &RETAIN).map(Some),
        };
        Some(Rule { pattern: pattern?, rights: rights?, retain: retain? })
    }

    fn pattern(
        &mut self,
        key: &str,
        at: usize,
        value: Option<&Value<'_>>,
        met: &mut HashMap<String, usize>,
    ) -> Option<Pattern> {
        let Some(value) = value else {
            let message = "missing; name a path below the home, such as match = \"inbox\"";
            self.problems.add(at, key, message);
            return None;
        };
        let text = self.string(key, value, "a path below the home in quotes")?;
        let at = value.span().start;
        if let Some(first) = met.insert(text.to_owned(), at) {
            let message =
                format!("the same path has rules already, at line {}", self.problems.line(first));
            self.problems.add(at, key, message);
            return None;
        }
        if text.split('/').any(|part| part != "*" && part.contains('*')) {
            let message = "\"*\" stands for one whole component; parts of a name cannot be matched";
            self.problems.add(at, key, message);
            return None;
        }
        match Pattern::parse(text) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                self.problems.add(at, key, error.to_string());
                None
            }
        }
    }

    /// How long what is stored is kept.
    pub(super) fn retain(&mut self, label: &str, value: Option<&Value<'_>>) -> Option<Duration> {
        self.quantity(label, value, &RETAIN)
    }

    /// Bytes in a second, if there is a limit; an error has been recorded.
    pub(super) fn bandwidth(
        &mut self,
        label: &str,
        value: Option<&Value<'_>>,
    ) -> Result<Option<u64>, ()> {
        match value {
            None => Ok(None),
            Some(value) if value.get_ref().as_str() == Some("unlimited") => Ok(None),
            value => self.quantity(label, value, &BANDWIDTH).map(Some).ok_or(()),
        }
    }

    /// A list of rights, which may be left empty where `may_be_empty` says so.
    pub(super) fn rights(
        &mut self,
        label: &str,
        at: usize,
        value: Option<&Value<'_>>,
        may_be_empty: bool,
    ) -> Option<Rights> {
        let key = format!("{label}.allow");
        let words = Right::ALL.map(Right::name).join(", ");
        let Some(value) = value else {
            self.problems.add(at, key, format!("missing; list what the user may do: {words}"));
            return None;
        };
        let elements = self.strings(&key, value, "a list such as [\"get\", \"list\"]");
        if value.get_ref().as_array()?.is_empty() && !may_be_empty {
            let message = format!("is empty; list what the user may do: {words}");
            self.problems.add(value.span().start, key, message);
            return None;
        }
        let mut rights: Vec<Right> = Vec::with_capacity(elements.len());
        for (key, element, text) in elements {
            let at = element.span().start;
            match text.parse::<Right>() {
                Ok(right) if rights.contains(&right) => {
                    self.problems.add(at, key, format!("\"{text}\" stands in the list twice"));
                }
                Ok(right) => rights.push(right),
                Err(error) => self.problems.add(at, key, error.to_string()),
            }
        }
        Some(rights.into_iter().collect())
    }
}
