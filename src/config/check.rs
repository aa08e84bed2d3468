//! From what the file says to what it may say: every rule, and the sentence for whoever breaks it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use toml::de::{DeTable, DeValue, Error as TomlError};

use crate::types::limits::HOME_BYTES_MAX;
use crate::types::{Durability, NameError, Principal, PublicKey, RelPath, Right, Rights};

use super::error::{ConfigErrors, Problems, shown};
use super::quantity::{Misread, Quantity};
use super::raw::{RawFile, RawLimits, RawUser, Value};
use super::settings::{
    Bound, LISTEN_MAX, Limits, Listen, SandboxMode, Settings, UNIX_PATH_BYTES_MAX, User,
};

/// Bytes in a file, at most: some twenty thousand users. Whoever reads one stops there.
pub const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes in the name of a user.
const USER_NAME_BYTES_MAX: usize = 64;

/// Bytes in a path of the machine itself. Source: `PATH_MAX`, which counts the final NUL.
const MACHINE_PATH_BYTES_MAX: usize = 4095;

/// What a file can say but this module cannot judge by itself.
pub struct Resolvers<'a> {
    /// Reads one key line; the error is a sentence for a human.
    pub key: &'a dyn Fn(&str) -> Result<PublicKey, String>,
    /// Finds the uid of a local account, given by name or as a decimal uid; the error likewise.
    pub account: &'a dyn Fn(&str) -> Result<u32, String>,
}

/// Reads a whole configuration; `file` is only what messages call it.
///
/// # Errors
/// Everything that is wrong, by line. A text that is not TOML is judged as TOML alone.
///
/// # Example
///
/// ```
/// use ftd::config::{Resolvers, parse};
///
/// let resolvers = Resolvers {
///     key: &|_line| Err("no key is known here".to_owned()),
///     account: &|name| name.parse().map_err(|_| "there is no such account".to_owned()),
/// };
/// let text = r#"
///     root = "/srv/ftd"
///     listen = ["[::]:7373"]
///     [[user]]
///     name = "alice"
///     unix = ["1000"]
///     allow = ["get", "lst"]
/// "#;
/// let told = parse("/etc/ftd.toml", text, &resolvers).map_err(|errors| errors.to_string());
/// assert!(told.is_err_and(|told| told.starts_with("/etc/ftd.toml:7: user.alice.allow[2]: unknown")));
/// ```
pub fn parse(file: &str, text: &str, resolvers: &Resolvers<'_>) -> Result<Settings, ConfigErrors> {
    let mut problems = Problems::new(file, text);
    if text.len() > FILE_BYTES_MAX {
        let message = format!(
            "the file has {} bytes, at most {} are possible",
            text.len(),
            (FILE_BYTES_MAX as u64).show()
        );
        problems.add(0, "", message);
        return Err(problems.into_errors());
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        syntax(text, errors, &mut problems);
        return Err(problems.into_errors());
    }
    let raw = RawFile::read("", table.get_ref(), &mut problems);
    let mut check = Check { problems, resolvers, text };
    let settings = check.file(&raw);
    match settings {
        Some(settings) if check.problems.is_empty() => Ok(settings),
        _ => Err(check.problems.into_errors()),
    }
}

/// Turns the parser's errors into ours: one per line, as those after the first are mostly its echo.
fn syntax(text: &str, mut errors: Vec<TomlError>, problems: &mut Problems<'_>) {
    let end = text.trim_end().len(); // What is missing at the end is missing in its last line.
    let at = |error: &TomlError| error.span().map_or(0, |span| span.start.min(end));
    errors.sort_by_key(at);
    errors.dedup_by_key(|error| problems.line(at(error)));
    // Only the first few are shown, and finding out the key of each means reading up to it.
    for (index, error) in errors.iter().enumerate() {
        let at = at(error);
        let shown = index < ConfigErrors::SHOWN_MAX;
        let key = if shown { key_at(text, at).unwrap_or_default() } else { String::new() };
        let message = error.message().trim_end_matches(", expected nothing");
        problems.add(at, key, message);
    }
}

/// The key that is given on the line of a byte, with its section, as far as a text that is not TOML
/// lets one tell.
fn key_at(text: &str, at: usize) -> Option<String> {
    let bare = |key: &str| {
        let key = key.trim();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        (!key.is_empty() && key.bytes().all(plain)).then(|| key.to_owned())
    };
    let header = |line: &str| {
        let line = line.split('#').next().unwrap_or_default().trim();
        let inner = line.strip_prefix('[')?.strip_suffix(']')?;
        bare(inner.strip_prefix('[').and_then(|i| i.strip_suffix(']')).unwrap_or(inner))
    };
    let mut section = String::new();
    let mut users = 0;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let is_last = at < start + line.len() || start + line.len() == text.len();
        if let Some(name) = header(line) {
            users += usize::from(name == "user");
            section = if name == "user" { format!("user[{users}]") } else { name };
            if is_last {
                return Some(section);
            }
        } else if is_last {
            let key = bare(line.split_once('=')?.0)?;
            return Some(if section.is_empty() { key } else { format!("{section}.{key}") });
        }
        start += line.len();
    }
    None
}

/// A file under examination.
struct Check<'a> {
    problems: Problems<'a>,
    resolvers: &'a Resolvers<'a>,
    text: &'a str,
}

/// Where each thing that must be unique was first met: its place, and the user's label.
#[derive(Default)]
struct Met {
    names: HashMap<String, usize>,
    keys: HashMap<PublicKey, (usize, String)>,
    uids: HashMap<u32, (usize, String)>,
}

/// Each method records what it finds and gives `None` only if it recorded something.
impl Check<'_> {
    fn file(&mut self, raw: &RawFile<'_, '_>) -> Option<Settings> {
        let root = self.root(raw.root);
        let host_key = match raw.host_key {
            None => Some(PathBuf::from(Settings::HOST_KEY_DEFAULT)),
            Some(value) => self.host_key(value),
        };
        let listen = self.listen(raw.listen);
        if let Some(root) = &root {
            self.not_served(root, host_key.as_deref(), listen.as_deref(), raw);
        }
        let durability = raw.durability.map_or(Some(Durability::default()), |value| {
            self.word(
                "durability",
                value,
                &[("full", Durability::Full), ("none", Durability::None)],
            )
        });
        let sandbox = raw.sandbox.map_or(Some(SandboxMode::default()), |value| {
            let modes = [SandboxMode::Require, SandboxMode::BestEffort];
            self.word("sandbox", value, &modes.map(|mode| (mode.name(), mode)))
        });
        let umask = raw.umask.map_or(Some(Settings::UMASK_DEFAULT), |value| self.umask(value));
        let limits = self.limits(raw.limits);
        let users = self.users(raw.user);
        Some(Settings {
            root: root?,
            listen: listen?,
            host_key: host_key?,
            durability: durability?,
            sandbox: sandbox?,
            umask: umask?,
            limits: limits?,
            users: users?,
        })
    }

    /// Says that a value should have been something else, and how it is spelled.
    fn must_be(&mut self, key: &str, value: &Value<'_>, what: &str) {
        let source = self.problems.source(value.span());
        let message = match value.get_ref() {
            DeValue::Array(_) => format!("must be {what}, not a list"),
            DeValue::Table(_) => format!("must be {what}, not a section"),
            _ => format!("must be {what}, not {source}"),
        };
        self.problems.add(value.span().start, key, message);
    }

    fn string<'v>(&mut self, key: &str, value: &'v Value<'_>, what: &str) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.must_be(key, value, what);
        }
        text
    }

    /// The elements of a list of strings, each with its label; what is no string is recorded.
    fn strings<'v, 'i>(
        &mut self,
        key: &str,
        value: &'v Value<'i>,
        what: &str,
    ) -> Vec<(String, &'v Value<'i>, &'v str)> {
        let Some(array) = value.get_ref().as_array() else {
            self.must_be(key, value, what);
            return Vec::new();
        };
        let mut strings = Vec::with_capacity(array.len());
        for (index, element) in array.iter().enumerate() {
            let label = format!("{key}[{}]", index + 1);
            if let Some(text) = self.string(&label, element, "a string in quotes") {
                strings.push((label, element, text));
            }
        }
        strings
    }

    fn word<T: Copy>(&mut self, key: &str, value: &Value<'_>, words: &[(&str, T)]) -> Option<T> {
        let quoted: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let what = quoted.join(" or ");
        let text = self.string(key, value, &what)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            self.must_be(key, value, &what);
        }
        found
    }

    fn quantity<T: Quantity>(&mut self, value: Option<&Value<'_>>, bound: &Bound<T>) -> Option<T> {
        let Some(value) = value else {
            return Some(bound.default);
        };
        let key = format!("limits.{}", bound.key);
        match T::read(value.get_ref()) {
            Ok(quantity) if quantity >= bound.min && quantity <= bound.max => Some(quantity),
            Ok(_) | Err(Misread::Range) => {
                let (min, max) = (bound.min.show_bound(), bound.max.show_bound());
                self.must_be(&key, value, &format!("between {min} and {max}"));
                None
            }
            Err(Misread::Form) => {
                self.must_be(&key, value, T::FORM);
                None
            }
        }
    }

    /// A path of the machine itself, without `.`, double or trailing slashes.
    fn machine_path(&mut self, key: &str, value: &Value<'_>, text: &str) -> Option<PathBuf> {
        let path = Path::new(text);
        let message = if !path.is_absolute() {
            format!("must be an absolute path, not {}", self.problems.source(value.span()))
        } else if path.components().any(|part| part == Component::ParentDir) {
            "must not contain \"..\"".to_owned()
        } else if text.chars().any(char::is_control) {
            "must not contain control characters".to_owned()
        } else if text.len() > MACHINE_PATH_BYTES_MAX {
            format!("has {} bytes, at most {MACHINE_PATH_BYTES_MAX} are possible", text.len())
        } else {
            return Some(path.components().collect());
        };
        self.problems.add(value.span().start, key, message);
        None
    }

    fn root(&mut self, value: Option<&Value<'_>>) -> Option<PathBuf> {
        let Some(value) = value else {
            let message = "missing; name the directory to serve, such as root = \"/srv/ftd\"";
            self.problems.add(0, "root", message);
            return None;
        };
        let text = self.string("root", value, "a path in quotes")?;
        let root = self.machine_path("root", value, text)?;
        if root.parent().is_none() {
            let message = "must not be \"/\", which would serve the whole machine";
            self.problems.add(value.span().start, "root", message);
            return None;
        }
        Some(root)
    }

    fn host_key(&mut self, value: &Value<'_>) -> Option<PathBuf> {
        let text = self.string("host-key", value, "a path in quotes")?;
        let path = self.machine_path("host-key", value, text)?;
        if text.ends_with('/') {
            self.must_be("host-key", value, "the path of a file");
            return None;
        }
        Some(path)
    }

    /// Refuses what belongs to the server itself inside the tree that its users see.
    fn not_served(
        &mut self,
        root: &Path,
        host_key: Option<&Path>,
        listen: Option<&[Listen]>,
        raw: &RawFile<'_, '_>,
    ) {
        if let Some(host_key) = host_key.filter(|path| path.starts_with(root)) {
            let at = raw.host_key.or(raw.root).map_or(0, |value| value.span().start);
            let message = format!(
                "{} is below root, where users could fetch it",
                shown(&host_key.to_string_lossy())
            );
            self.problems.add(at, "host-key", message);
        }
        let sockets = listen.unwrap_or_default().iter().enumerate();
        for (index, place) in sockets {
            if matches!(place, Listen::Unix(path) if path.starts_with(root)) {
                let element = raw.listen.and_then(|value| value.get_ref().as_array()?.get(index));
                let at = element.map_or(0, |element| element.span().start);
                let message = "is below root, where users could rename or remove it";
                self.problems.add(at, format!("listen[{}]", index + 1), message);
            }
        }
    }

    fn listen(&mut self, value: Option<&Value<'_>>) -> Option<Vec<Listen>> {
        let Some(value) = value else {
            let message = "missing; name at least one place, such as listen = [\"[::]:7373\"]";
            self.problems.add(0, "listen", message);
            return None;
        };
        let elements = self.strings("listen", value, "a list such as [\"[::]:7373\"]");
        let written = value.get_ref().as_array()?.len();
        if written == 0 || written > LISTEN_MAX {
            let message = format!("must name 1 to {LISTEN_MAX} places, not {written}");
            self.problems.add(value.span().start, "listen", message);
            return None;
        }
        let mut places: Vec<Listen> = Vec::with_capacity(elements.len());
        for (label, element, text) in elements {
            let Some(place) = self.listen_place(&label, element, text) else {
                continue;
            };
            if places.contains(&place) {
                self.problems.add(element.span().start, label, "stands in the list twice");
            } else {
                places.push(place);
            }
        }
        // With one missing, the rest is of use only while numbers still match the file.
        (places.len() == written).then_some(places)
    }

    fn listen_place(&mut self, label: &str, value: &Value<'_>, text: &str) -> Option<Listen> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = self.machine_path(label, value, path)?;
            let bytes = path.as_os_str().len();
            if text.ends_with('/') {
                self.must_be(label, value, "the path of a socket");
                return None;
            }
            if bytes > UNIX_PATH_BYTES_MAX {
                let message = format!(
                    "the path of the socket has {bytes} bytes, at most {UNIX_PATH_BYTES_MAX} are \
                     possible"
                );
                self.problems.add(value.span().start, label, message);
                return None;
            }
            return Some(Listen::Unix(path));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Listen::Tcp(address));
        }
        let message = match text.rsplit_once(':') {
            _ if text.starts_with('/') => {
                format!("a Unix socket is written \"unix:{}\"", shown(text))
            }
            _ if text.parse::<Ipv6Addr>().is_ok() => {
                format!("an IPv6 address is written in brackets, with a port: \"[{text}]:7373\"")
            }
            _ if text.parse::<IpAddr>().is_ok() => {
                format!("the port is missing; write \"{text}:7373\"")
            }
            Some((host, port)) if is_host_name(host) && port.parse::<u16>().is_ok() => format!(
                "\"{host}\" is a host name; write an address, such as \"127.0.0.1:{port}\", \
                 \"0.0.0.0:{port}\" or \"[::]:{port}\""
            ),
            _ => format!(
                "must be \"ADDRESS:PORT\" such as \"[::]:7373\", or \"unix:/PATH\", not \"{}\"",
                shown(text)
            ),
        };
        self.problems.add(value.span().start, label, message);
        None
    }

    fn umask(&mut self, value: &Value<'_>) -> Option<u32> {
        let what = "three octal digits in quotes, such as \"022\"";
        let text = self.string("umask", value, what)?;
        let octal =
            (1..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        match u32::from_str_radix(text, 8) {
            Ok(umask) if octal && umask <= 0o777 => Some(umask),
            _ => {
                self.must_be("umask", value, what);
                None
            }
        }
    }

    fn limits(&mut self, value: Option<&Value<'_>>) -> Option<Limits> {
        let raw = match value.map(|value| (value, value.get_ref().as_table())) {
            None => RawLimits::default(),
            Some((_, Some(table))) => RawLimits::read("limits.", table, &mut self.problems),
            Some((value, None)) => {
                self.must_be("limits", value, "a section headed [limits]");
                return None;
            }
        };
        let connections = self.quantity(raw.connections, &Limits::CONNECTIONS);
        // Each is looked at before any `?` leaves, so that all problems are told at once.
        let per_user = self.connections_per_user(&raw, connections);
        let requests = self.quantity(raw.requests_per_connection, &Limits::REQUESTS_PER_CONNECTION);
        let max_file_size = self.quantity(raw.max_file_size, &Limits::MAX_FILE_SIZE);
        let buffer_memory = self.quantity(raw.buffer_memory, &Limits::BUFFER_MEMORY);
        let file_workers = self.quantity(raw.file_workers, &Limits::FILE_WORKERS);
        let handshake = self.quantity(raw.handshake_timeout, &Limits::HANDSHAKE_TIMEOUT);
        let idle = self.quantity(raw.idle_timeout, &Limits::IDLE_TIMEOUT);
        let stall = self.quantity(raw.stall_timeout, &Limits::STALL_TIMEOUT);
        let drain = self.quantity(raw.drain_timeout, &Limits::DRAIN_TIMEOUT);
        Some(Limits {
            max_file_size: max_file_size?,
            connections: connections?,
            connections_per_user: per_user?,
            requests_per_connection: requests?,
            buffer_memory: buffer_memory?,
            file_workers: file_workers?,
            handshake_timeout: handshake?,
            idle_timeout: idle?,
            stall_timeout: stall?,
            drain_timeout: drain?,
        })
    }

    /// More connections for one user than for all is a slip; the default adapts instead.
    fn connections_per_user(
        &mut self,
        raw: &RawLimits<'_, '_>,
        connections: Option<usize>,
    ) -> Option<usize> {
        let bound = &Limits::CONNECTIONS_PER_USER;
        let per_user = self.quantity(raw.connections_per_user, bound)?;
        match (raw.connections_per_user, connections) {
            (Some(value), Some(all)) if per_user > all => {
                let what = format!("at most limits.connections, which is {all}");
                self.must_be("limits.connections-per-user", value, &what);
                None
            }
            (None, Some(all)) => Some(per_user.min(all)),
            _ => Some(per_user),
        }
    }

    fn users(&mut self, value: Option<&Value<'_>>) -> Option<Vec<User>> {
        const FORM: &str = "[[user]] sections, with double brackets";
        let array = match value.map(|value| (value, value.get_ref())) {
            Some((_, DeValue::Array(array))) if !array.is_empty() => array,
            Some((value, found)) if !found.is_array() => {
                self.must_be("user", value, FORM);
                return None;
            }
            _ => {
                let at = value.map_or(self.text.trim_end().len(), |value| value.span().start);
                let message = "there is no user, so nobody could come in; add at the end of the \
                     file the line [[user]] and below it name = \"alice\", \
                     keys = [\"ssh-ed25519 AAAA… alice@laptop\"] (the line in her \
                     ~/.ssh/id_ed25519.pub) and allow = [\"get\", \"list\"], each on its own line";
                self.problems.add(at, "user", message);
                return None;
            }
        };
        let mut met = Met::default();
        let mut users = Vec::with_capacity(array.len());
        for (index, value) in array.iter().enumerate() {
            let number = index + 1;
            match value.get_ref() {
                DeValue::Table(table) => {
                    users.extend(self.user(number, value.span().start, table, &mut met));
                }
                _ => self.must_be(&format!("user[{number}]"), value, FORM),
            }
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
        let keys = self.user_keys(&label, raw.keys, met);
        let uids = self.user_uids(&label, raw.unix, met);
        let list_is_empty = |value: Option<&Value<'_>>| {
            value.is_none_or(|value| value.get_ref().as_array().is_some_and(|list| list.is_empty()))
        };
        if list_is_empty(raw.keys) && list_is_empty(raw.unix) {
            let message = "at least one key is needed, keys = [\"ssh-ed25519 AAAA…\"], or one \
                           local account, unix = [\"alice\"]";
            self.problems.add(at, format!("{label}.keys"), message);
        }
        let home = self.user_home(&label, raw.home, named);
        let rights = self.user_rights(&label, at, raw.allow);
        let principal = Principal { name: name?, home: home.ok()?, rights: rights? };
        Some(User { principal, keys, uids })
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
                format!("the name is taken already, at line {}", self.problems.line(*first));
            self.problems.add(at, key, message);
            return None;
        }
        met.names.insert(name.to_owned(), at);
        Some(name.to_owned())
    }

    fn user_keys(
        &mut self,
        label: &str,
        value: Option<&Value<'_>>,
        met: &mut Met,
    ) -> Vec<PublicKey> {
        let Some(value) = value else {
            return Vec::new();
        };
        let mut keys = Vec::new();
        let what = "a list of key lines such as [\"ssh-ed25519 AAAA… alice@laptop\"]";
        for (key, element, text) in self.strings(&format!("{label}.keys"), value, what) {
            let at = element.span().start;
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
                    continue;
                }
            };
            if let Some((first, owner)) = met.keys.get(&public) {
                let line = self.problems.line(*first);
                let message = format!("the same key is listed already, for {owner} at line {line}");
                self.problems.add(at, key, message);
                continue;
            }
            met.keys.insert(public.clone(), (at, label.to_owned()));
            keys.push(public);
        }
        keys
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
                let line = self.problems.line(*first);
                let message = format!("uid {uid} is listed already, for {owner} at line {line}");
                self.problems.add(at, key, message);
                continue;
            }
            met.uids.insert(uid, (at, label.to_owned()));
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

    fn user_rights(&mut self, label: &str, at: usize, value: Option<&Value<'_>>) -> Option<Rights> {
        let key = format!("{label}.allow");
        let words = Right::ALL.map(Right::name).join(", ");
        let Some(value) = value else {
            self.problems.add(at, key, format!("missing; list what the user may do: {words}"));
            return None;
        };
        let elements = self.strings(&key, value, "a list such as [\"get\", \"list\"]");
        if value.get_ref().as_array()?.is_empty() {
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

/// A sentence that came from outside this module, kept to one line.
fn shown_sentence(sentence: &str) -> String {
    crate::types::Escaped(sentence.as_bytes()).to_string()
}

fn is_user_name(name: &str) -> bool {
    let first = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let more = |byte: u8| first(&byte) || matches!(byte, b'.' | b'_' | b'-');
    name.len() <= USER_NAME_BYTES_MAX
        && name.as_bytes().first().is_some_and(first)
        && name.bytes().all(more)
}

fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.bytes().any(|byte| byte.is_ascii_alphabetic())
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

/// Whether the kernel reports this uid for peers of another user namespace, or means "none" by it.
///
/// *Source*: `user_namespaces(7)`, "Unmapped user and group IDs"; `/proc/sys/kernel/overflowuid`.
fn is_nobody(uid: u32) -> bool {
    uid == 65_534 || uid == u32::MAX
}
