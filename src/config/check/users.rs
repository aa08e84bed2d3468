//! `[[user]]`: who may come in, each name, key and account once.

use std::collections::HashMap;

use toml::de::{DeTable, DeValue};

use super::Check;
use crate::config::error::Place;
use crate::config::raw::{RawUser, Value};
use crate::config::settings::User;
use crate::types::limits::HOME_BYTES_MAX;
use crate::types::{NameError, Principal, PublicKey, RelPath};

/// Bytes in the name of a user.
const USER_NAME_BYTES_MAX: usize = 64;

/// Where each thing that must be unique was first met: its place, and the user's label.
#[derive(Default)]
pub(super) struct Met {
    names: HashMap<String, Place>,
    /// The user who is being read.
    pub(super) owner: String,
    pub(super) keys: HashMap<PublicKey, (Place, String)>,
    uids: HashMap<u32, (Place, String)>,
}

impl Check<'_> {
    /// The users of all files; `lists` has what each says, and which file it is.
    pub(super) fn users(&mut self, lists: &[(usize, Option<&Value<'_>>)]) -> Option<Vec<User>> {
        const FORM: &str = "[[user]] sections, with double brackets";
        let main = self.problems.place(0);
        let mut met = Met::default();
        let mut users = Vec::new();
        let mut is_empty = true;
        for (file, value) in lists {
            let Some(value) = value else { continue };
            self.problems.leave(*file);
            let Some(array) = value.get_ref().as_array() else {
                is_empty = false;
                self.must_be("user", value, FORM);
                continue;
            };
            is_empty &= array.is_empty();
            users.reserve(array.len());
            for (index, value) in array.iter().enumerate() {
                let number = index + 1;
                match value.get_ref() {
                    DeValue::Table(table) => {
                        users.extend(self.user(number, value.span().start, table, &mut met));
                    }
                    _ => self.must_be(&format!("user[{number}]"), value, FORM),
                }
            }
        }
        self.problems.leave(main.file());
        if is_empty {
            let first = lists.first().and_then(|(_, value)| *value);
            let at = first.map_or(self.text.trim_end().len(), |value| value.span().start);
            let message = "there is no user, so nobody could come in; add at the end of the \
                 file the line [[user]] and below it name = \"alice\", \
                 keys = [\"ssh-ed25519 AAAA… alice@laptop\"] (the line in her \
                 ~/.ssh/id_ed25519.pub) and allow = [\"get\", \"list\"], each on its own line";
            self.problems.add(at, "user", message);
            return None;
        }
        Some(users)
    }

    fn user(
        &mut self,
        number: usize,
        at: usize,
        table: &DeTable<'_>,
        met: &mut Met,
    ) -> Option<User> {
        let named = table.get("name").and_then(|value| value.get_ref().as_str());
        let named = named.filter(|name| is_user_name(name));
        let label = named.map_or_else(|| format!("user[{number}]"), |name| format!("user.{name}"));
        let raw = RawUser::read(&format!("{label}."), table, &mut self.problems);

        let name = self.user_name(&label, at, raw.name, met);
        let keys = self.user_keys(&label, &raw, met);
        let uids = self.user_uids(&label, raw.unix, met);
        let list_is_empty = |value: Option<&Value<'_>>| {
            value.is_none_or(|value| value.get_ref().as_array().is_some_and(|list| list.is_empty()))
        };
        let none = [raw.keys, raw.unix].into_iter().all(list_is_empty);
        if none && raw.key.is_none() && raw.keys_file.is_none() {
            let message = "at least one key is needed, keys = [\"ssh-ed25519 AAAA…\"], or one \
                           local account, unix = [\"alice\"]";
            self.problems.add(at, format!("{label}.keys"), message);
        }
        let admission = self.admission(&label, raw.from, raw.expires, raw.enabled);
        let home = self.user_home(&label, raw.home, named);
        let rules = self.user_paths(&label, raw.path);
        let rights = self.rights(&label, at, raw.allow, !rules.is_empty());
        let retain = self.retain(&label, raw.retain);
        let bandwidth = self.bandwidth(&label, raw.bandwidth);
        let quota = self.user_quota(&label, &raw);
        let max_file_size = self.user_file_size(&label, &raw);
        let principal =
            Principal { name: name?, home: home.ok()?, rights: rights?, retain: retain?, rules };
        Some(User {
            principal,
            admission: admission?,
            keys,
            bandwidth: bandwidth.ok()?,
            uids,
            quota: quota?,
            max_file_size: max_file_size.ok()?,
        })
    }

    fn user_name(
        &mut self,
        label: &str,
        at: usize,
        value: Option<&Value<'_>>,
        met: &mut Met,
    ) -> Option<String> {
        let key = format!("{label}.name");
        let Some(value) = value else {
            self.problems.add(at, key, "missing; every user has a name");
            return None;
        };
        let what = format!(
            "1 to {USER_NAME_BYTES_MAX} lower-case letters, digits, dots, dashes or underscores, \
             starting with a letter or digit"
        );
        let name = self.string(&key, value, &what)?;
        if !is_user_name(name) {
            self.must_be(&key, value, &what);
            return None;
        }
        let at = value.span().start;
        if let Some(first) = met.names.get(name) {
            let message =
                format!("the name is taken already, at {}", self.problems.describe(*first));
            self.problems.add(at, key, message);
            return None;
        }
        met.names.insert(name.to_owned(), self.problems.place(at));
        Some(name.to_owned())
    }

    fn user_uids(&mut self, label: &str, value: Option<&Value<'_>>, met: &mut Met) -> Vec<u32> {
        let Some(value) = value else {
            return Vec::new();
        };
        let mut uids = Vec::new();
        let what = "a list of local accounts such as [\"alice\"]";
        for (key, element, text) in self.strings(&format!("{label}.unix"), value, what) {
            let at = element.span().start;
            let uid = match (self.resolvers.account)(text) {
                Ok(uid) => uid,
                Err(message) => {
                    self.problems.add(at, key, shown_sentence(&message));
                    continue;
                }
            };
            if is_nobody(uid) {
                let message = format!(
                    "uid {uid} stands for every account that the kernel cannot name, so it proves \
                     nothing"
                );
                self.problems.add(at, key, message);
                continue;
            }
            if let Some((first, owner)) = met.uids.get(&uid) {
                let place = self.problems.describe(*first);
                let message = format!("uid {uid} is listed already, for {owner} at {place}");
                self.problems.add(at, key, message);
                continue;
            }
            met.uids.insert(uid, (self.problems.place(at), label.to_owned()));
            uids.push(uid);
        }
        uids
    }

    /// The home, in which `None` is the root itself; an error has been recorded.
    fn user_home(
        &mut self,
        label: &str,
        value: Option<&Value<'_>>,
        name: Option<&str>,
    ) -> Result<Option<RelPath>, ()> {
        let key = format!("{label}.home");
        let Some(value) = value else {
            // A legal name is a legal home; without one, the missing name is the problem.
            return RelPath::parse(name.unwrap_or_default().as_bytes()).map(Some).map_err(|_| ());
        };
        let text = self.string(&key, value, "a path below root in quotes, or \".\"").ok_or(())?;
        if text == "." {
            return Ok(None);
        }
        let parsed =
            RelPath::parse(text.as_bytes()).and_then(|home| home.check_creatable().map(|()| home));
        let message = match parsed {
            Ok(home) if home.raw_bytes().len() <= HOME_BYTES_MAX => return Ok(Some(home)),
            Ok(_) => {
                format!("has {} bytes, at most {HOME_BYTES_MAX} are possible", text.len())
            }
            Err(NameError::Empty) => "must not be empty; root itself is \".\"".to_owned(),
            Err(NameError::Absolute) => {
                "must not start with '/'; it lies below root, and root itself is \".\"".to_owned()
            }
            Err(error) => error.to_string(),
        };
        self.problems.add(value.span().start, key, message);
        Err(())
    }
}

/// A sentence that came from outside this module, kept to one line.
pub(super) fn shown_sentence(sentence: &str) -> String {
    crate::types::Escaped(sentence.as_bytes()).to_string()
}

fn is_user_name(name: &str) -> bool {
    let first = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let more = |byte: u8| first(&byte) || matches!(byte, b'.' | b'_' | b'-');
    name.len() <= USER_NAME_BYTES_MAX
        && name.as_bytes().first().is_some_and(first)
        && name.bytes().all(more)
}

/// Whether the kernel reports this uid for peers of another user namespace, or means "none" by it.
///
/// *Source*: `user_namespaces(7)`, "Unmapped user and group IDs"; `/proc/sys/kernel/overflowuid`.
fn is_nobody(uid: u32) -> bool {
    uid == 65_534 || uid == u32::MAX
}
