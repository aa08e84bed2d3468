//! The keys of a user: in the file itself, with conditions of their own, or in a file beside it.

use std::time::SystemTime;

use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

use super::users::{Met, shown_sentence};
use super::{Check, Value};
use crate::config::admission::{Admission, moment, network};
use crate::config::authorized_keys::read_line;
use crate::config::raw::{RawKey, RawUser};
use crate::config::settings::Key;

impl Check<'_> {
    /// All keys of a user, those without conditions first.
    pub(super) fn user_keys(
        &mut self,
        label: &str,
        raw: &RawUser<'_, '_>,
        met: &mut Met,
    ) -> Vec<Key> {
        label.clone_into(&mut met.owner);
        let mut keys = self.plain_keys(&format!("{label}.keys"), raw.keys, met);
        keys.extend(self.key_sections(&format!("{label}.key"), raw.key, met));
        keys.extend(self.keys_file(&format!("{label}.keys-file"), raw.keys_file, met));
        keys.sort_by_key(|key| key.admission != Admission::default());
        keys
    }

    fn plain_keys(&mut self, key: &str, value: Option<&Value<'_>>, met: &mut Met) -> Vec<Key> {
        let Some(value) = value else {
            return Vec::new();
        };
        let what = "a list of key lines such as [\"ssh-ed25519 AAAA… alice@laptop\"]";
        let elements = self.strings(key, value, what);
        elements
            .into_iter()
            .filter_map(|(key, element, text)| {
                self.key_line(&key, element.span().start, text, Admission::default(), met)
            })
            .collect()
    }

    /// One line, which may be nobody else's key.
    fn key_line(
        &mut self,
        key: &str,
        at: usize,
        text: &str,
        admission: Admission,
        met: &mut Met,
    ) -> Option<Key> {
        let read = match text.trim() {
            lines if lines.contains(['\n', '\r']) => {
                Err("a key is one line; give each its own quotes".to_owned())
            }
            line => (self.resolvers.key)(line),
        };
        let public = match read {
            Ok(public) => public,
            Err(message) => {
                self.problems.add(at, key, shown_sentence(&message));
                return None;
            }
        };
        if let Some((first, owner)) = met.keys.get(&public) {
            let place = self.problems.describe(*first);
            let message = format!("the same key is listed already, for {owner} at {place}");
            self.problems.add(at, key, message);
            return None;
        }
        met.keys.insert(public.clone(), (self.problems.place(at), met.owner.clone()));
        Some(Key { public, admission })
    }

    fn key_sections(&mut self, key: &str, value: Option<&Value<'_>>, met: &mut Met) -> Vec<Key> {
        const FORM: &str = "[[user.key]] sections, with double brackets";
        let Some(value) = value else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.must_be(key, value, FORM);
            return Vec::new();
        };
        let mut keys = Vec::with_capacity(array.len());
        for (index, value) in array.iter().enumerate() {
            let label = format!("{key}[{}]", index + 1);
            match value.get_ref().as_table() {
                Some(table) => keys.extend(self.key_section(&label, value, table, met)),
                None => self.must_be(&label, value, FORM),
            }
        }
        keys
    }

    fn key_section(
        &mut self,
        label: &str,
        section: &Value<'_>,
        table: &DeTable<'_>,
        met: &mut Met,
    ) -> Option<Key> {
        let raw = RawKey::read(&format!("{label}."), table, &mut self.problems);
        let admission = self.admission(label, raw.from, raw.expires, raw.enabled);
        let key = format!("{label}.line");
        let Some(value) = raw.line else {
            let message =
                "missing; it is the key, such as line = \"ssh-ed25519 AAAA… alice@laptop\"";
            self.problems.add(section.span().start, key, message);
            return None;
        };
        let text = self.string(&key, value, "a key line in quotes")?;
        self.key_line(&key, value.span().start, text, admission?, met)
    }

    /// The keys of a file beside the configuration; what is wrong is told by its own lines.
    fn keys_file(&mut self, key: &str, value: Option<&Value<'_>>, met: &mut Met) -> Vec<Key> {
        let Some(value) = value else {
            return Vec::new();
        };
        let Some(text) = self.string(key, value, "a path in quotes") else {
            return Vec::new();
        };
        let Some(path) = self.machine_path(key, value, text) else {
            return Vec::new();
        };
        if self.root.as_ref().is_some_and(|root| path.starts_with(root)) {
            let message = "is below root, where users could change who may come in";
            self.problems.add(value.span().start, key, message);
            return Vec::new();
        }
        let content = match (self.resolvers.keys_file)(&path) {
            Ok(content) => content,
            Err(message) => {
                self.problems.add(value.span().start, key, shown_sentence(&message));
                return Vec::new();
            }
        };
        let before = self.problems.enter(&path.to_string_lossy(), &content);
        let mut keys = Vec::new();
        let mut at = 0;
        for line in content.split_inclusive('\n') {
            match read_line(line) {
                Ok(None) => {}
                Ok(Some(line)) => {
                    keys.extend(self.key_line(key, at, line.key, line.admission, met));
                }
                Err(message) => self.problems.add(at, key, shown_sentence(&message)),
            }
            at += line.len();
        }
        self.problems.leave(before);
        keys
    }

    /// `from`, `expires` and `enabled` of a user or a key.
    pub(super) fn admission(
        &mut self,
        label: &str,
        from: Option<&Value<'_>>,
        expires: Option<&Value<'_>>,
        enabled: Option<&Value<'_>>,
    ) -> Option<Admission> {
        let open = Admission::default();
        let from = match from {
            None => Some(open.from),
            Some(value) => self.networks(&format!("{label}.from"), value),
        };
        let expires =
            expires.map_or(Ok(None), |value| self.expires(&format!("{label}.expires"), value));
        let enabled = enabled
            .map_or(Some(open.enabled), |value| self.boolean(&format!("{label}.enabled"), value));
        Some(Admission { from: from?, expires: expires.ok()?, enabled: enabled? })
    }

    /// A list of networks, at least one.
    pub(super) fn networks(&mut self, key: &str, value: &Value<'_>) -> Option<Vec<IpNet>> {
        let elements = self.strings(key, value, "a list such as [\"10.0.0.0/8\", \"::1\"]");
        let written = value.get_ref().as_array()?.len();
        if written == 0 {
            let message = "is empty, so that nobody could come in; leave it out for everywhere";
            self.problems.add(value.span().start, key, message);
            return None;
        }
        let mut nets = Vec::with_capacity(written);
        for (key, element, text) in elements {
            match network(text) {
                Some(net) => nets.push(net),
                None => self.must_be(
                    &key,
                    element,
                    "an address or a network such as \"10.0.0.0/8\", without bits beyond the prefix",
                ),
            }
        }
        (nets.len() == written).then_some(nets)
    }

    /// When it ends, if it does; an error has been recorded.
    fn expires(&mut self, key: &str, value: &Value<'_>) -> Result<Option<SystemTime>, ()> {
        let text = match value.get_ref() {
            DeValue::String(text) if text == "never" => return Ok(None),
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Datetime(time) => Some(time.to_string()),
            _ => None,
        };
        if let Some(end) = text.and_then(|text| moment(&text)) {
            return Ok(Some(end));
        }
        let what =
            "a date such as 2027-01-31, a time such as 2027-01-31T18:00:00+01:00, or \"never\"";
        self.must_be(key, value, what);
        Err(())
    }

    pub(super) fn boolean(&mut self, key: &str, value: &Value<'_>) -> Option<bool> {
        let read = value.get_ref().as_bool();
        if read.is_none() {
            self.must_be(key, value, "true or false");
        }
        read
    }
}
