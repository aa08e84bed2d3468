//! From what the file says to what it may say: every rule, and the sentence for whoever breaks it.

mod keys;
mod limits;
mod paths;
mod quota;
mod users;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use toml::de::{DeTable, DeValue, Error as TomlError};

use crate::types::{Durability, PublicKey};

use super::error::{ConfigErrors, Problems, shown};
use super::quantity::{Misread, Quantity};
use super::raw::{RawFile, RawIncluded, Value};
use super::settings::{Bound, LISTEN_MAX, Listen, SandboxMode, Settings, UNIX_PATH_BYTES_MAX};

/// Bytes in a file, at most: some twenty thousand users. Whoever reads one stops there.
pub const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes in a path of the machine itself. Source: `PATH_MAX`, which counts the final NUL.
const MACHINE_PATH_BYTES_MAX: usize = 4095;

/// What a file can say but this module cannot judge by itself.
pub struct Resolvers<'a> {
    /// Reads one key line; the error is a sentence for a human.
    pub key: &'a dyn Fn(&str) -> Result<PublicKey, String>,
    /// Finds the uid of a local account, given by name or as a decimal uid; the error likewise.
    pub account: &'a dyn Fn(&str) -> Result<u32, String>,
    /// Reads the text of a file with keys; the error likewise.
    pub keys_file: &'a dyn Fn(&Path) -> Result<String, String>,
}

/// A file and its text.
#[derive(Clone, Debug)]
pub struct Text {
    /// What messages call the file.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// Reads a whole configuration: the file itself, and those of its include directory, in which only
/// users stand.
///
/// # Errors
/// Everything that is wrong, by file and line. A text that is not TOML is judged as TOML alone.
///
/// # Example
///
/// ```
/// use ftd::config::{Resolvers, Text, parse};
///
/// let resolvers = Resolvers {
///     key: &|_line| Err("no key is known here".to_owned()),
///     account: &|name| name.parse().map_err(|_| "there is no such account".to_owned()),
///     keys_file: &|_path| Err("no file is read here".to_owned()),
/// };
/// let text = r#"
///     root = "/srv/ftd"
///     listen = ["[::]:7373"]
///     [[user]]
///     name = "alice"
///     unix = ["1000"]
///     allow = ["get", "lst"]
/// "#;
/// let file = Text { name: "/etc/ftd.toml".to_owned(), text: text.to_owned() };
/// let told = parse(&file, &[], &resolvers).map_err(|errors| errors.to_string());
/// assert!(told.is_err_and(|told| told.starts_with("/etc/ftd.toml:7: user.alice.allow[2]: unknown")));
/// ```
pub fn parse(
    main: &Text,
    included: &[Text],
    resolvers: &Resolvers<'_>,
) -> Result<Settings, ConfigErrors> {
    let mut problems = Problems::default();
    let mut tables = Vec::with_capacity(1 + included.len());
    for Text { name, text } in std::iter::once(main).chain(included) {
        problems.enter(name, text);
        if text.len() > FILE_BYTES_MAX {
            let message = format!(
                "the file has {} bytes, at most {} are possible",
                text.len(),
                (FILE_BYTES_MAX as u64).show()
            );
            problems.add(0, "", message);
            continue;
        }
        let (table, errors) = DeTable::parse_recoverable(text);
        syntax(text, errors, &mut problems);
        tables.push(table);
    }
    if !problems.is_empty() {
        return Err(problems.into_errors());
    }
    let Some((table, included)) = tables.split_first() else {
        return Err(problems.into_errors()); // There always is the file itself.
    };
    problems.leave(0);
    let raw = RawFile::read("", table.get_ref(), &mut problems);
    let mut users = vec![(0, raw.user)];
    for (index, table) in included.iter().enumerate() {
        problems.leave(index + 1);
        let raw = RawIncluded::read("", table.get_ref(), &mut problems);
        users.push((index + 1, raw.user));
    }
    problems.leave(0);
    let mut check = Check { problems, resolvers, text: &main.text, root: None };
    let settings = check.file(&raw, &users);
    match settings {
        Some(settings) if check.problems.is_empty() => Ok(settings),
        _ => Err(check.problems.into_errors()),
    }
}

/// Turns the parser's errors into ours: one per line, as those after the first are mostly its echo.
fn syntax(text: &str, mut errors: Vec<TomlError>, problems: &mut Problems) {
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
    problems: Problems,
    resolvers: &'a Resolvers<'a>,
    /// Of the file itself.
    text: &'a str,
    /// Once it is known.
    root: Option<PathBuf>,
}

/// Each method records what it finds and gives `None` only if it recorded something.
impl Check<'_> {
    fn file(
        &mut self,
        raw: &RawFile<'_, '_>,
        users: &[(usize, Option<&Value<'_>>)],
    ) -> Option<Settings> {
        let root = self.root(raw.root);
        self.root.clone_from(&root);
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
        let reserve = self.reserve(raw.reserve);
        let limits = self.limits(raw.limits);
        let users = self.users(users);
        Some(Settings {
            root: root?,
            listen: listen?,
            host_key: host_key?,
            durability: durability?,
            sandbox: sandbox?,
            umask: umask?,
            reserve: reserve?,
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

    /// A quantity within its bounds, which may be left out.
    fn quantity<T: Quantity>(
        &mut self,
        section: &str,
        value: Option<&Value<'_>>,
        bound: &Bound<T>,
    ) -> Option<T> {
        let Some(value) = value else {
            return Some(bound.default);
        };
        let key = format!("{section}.{}", bound.key);
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
}

fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.bytes().any(|byte| byte.is_ascii_alphabetic())
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}
