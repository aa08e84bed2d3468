//! The second stage: legal values only.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use toml::Spanned;

use super::error::{ConfigErrors, Judge};
use super::limits::Limits;
use super::raw::{RawFile, RawUser, read};
use crate::types::limits::HOME_BYTES_MAX;
use crate::types::{Durability, Principal, PublicKey, RelPath, Right, Rights};

/// Where the host key is kept unless the file says otherwise.
pub(super) const HOST_KEY: &str = "/var/lib/ftd/host_key";
/// The permission bits that new files do not get unless the file says otherwise.
const UMASK: u32 = 0o022;
/// Bytes in the path of a Unix socket (unix(7), `sun_path`, with its final NUL).
const SOCKET_BYTES_MAX: usize = 107;
/// Addresses to listen on.
const LISTEN_MAX: usize = 16;
/// Bytes in a user's name.
const NAME_BYTES_MAX: usize = 64;

/// What the configuration cannot judge by itself.
pub struct Resolvers<'a> {
    /// Reads one key line; the error is a sentence for a person.
    pub key: &'a dyn Fn(&str) -> Result<PublicKey, String>,
    /// Gives the uid of a local account, by name or decimal uid.
    pub account: &'a dyn Fn(&str) -> Result<u32, String>,
}

/// A configuration that can be served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The directory whose content is served; absolute.
    pub root: PathBuf,
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// The server's private key; absolute.
    pub host_key: PathBuf,
    /// When a stored file counts as safe.
    pub durability: Durability,
    /// Whether the daemon may serve with less of a sandbox than it knows.
    pub sandbox: SandboxMode,
    /// Permission bits that new files and directories do not get.
    pub umask: u32,
    /// The limits in force.
    pub limits: Limits,
    /// Who may come in.
    pub users: Vec<User>,
}

/// One address to listen on.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Listen {
    /// TLS over TCP.
    Tcp(SocketAddr),
    /// A Unix socket; absolute.
    Unix(PathBuf),
}

/// What happens where the kernel offers less of a sandbox than the daemon knows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SandboxMode {
    /// It does not start.
    #[default]
    Require,
    /// It starts and says what is missing.
    BestEffort,
}

/// One user, and how to recognise it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    /// Name, home and rights.
    pub principal: Principal,
    /// The keys that are this user.
    pub keys: Vec<PublicKey>,
    /// The local accounts that are this user on a Unix socket.
    pub uids: Vec<u32>,
}

/// Judges the text of a configuration; `file` is what it is called in messages.
///
/// # Errors
/// Everything that is wrong with it, each with its line and key.
pub fn parse(file: &str, text: &str, resolvers: &Resolvers<'_>) -> Result<Settings, ConfigErrors> {
    let mut judge = Judge::new(file, text);
    let settings = read(text, &mut judge).and_then(|raw| check(&raw, resolvers, &mut judge));
    match settings {
        Some(settings) if judge.is_content() => Ok(settings),
        _ => Err(judge.into_errors()),
    }
}

/// The keys whose change a reload cannot take: what they stand for was opened before the sandbox
/// closed, or sized at the start.
pub fn restart_needed(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let (before, after) = (&old.limits, &new.limits);
    let changes = [
        ("root", old.root != new.root),
        ("listen", old.listen != new.listen),
        ("host-key", old.host_key != new.host_key),
        ("durability", old.durability != new.durability),
        ("sandbox", old.sandbox != new.sandbox),
        ("umask", old.umask != new.umask),
        ("limits.connections", before.connections != after.connections),
        ("limits.connections-per-user", before.connections_per_user != after.connections_per_user),
        ("limits.buffer-memory", before.buffer_memory != after.buffer_memory),
        ("limits.file-workers", before.file_workers != after.file_workers),
        ("limits.drain-timeout", before.drain_timeout != after.drain_timeout),
    ];
    changes.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

fn check(raw: &RawFile, resolvers: &Resolvers<'_>, judge: &mut Judge<'_>) -> Option<Settings> {
    let root = if let Some(root) = &raw.root { judge.take(root.span(), "root", check_root(root.as_ref())) } else {
        judge.add(
            0..0,
            "root",
            "is missing; name the directory to serve, like root = \"/srv/ftd\"",
        );
        None
    };
    let listen = check_listen(raw, judge);
    let host_key = match &raw.host_key {
        Some(path) => judge.take(path.span(), "host-key", check_absolute(path.as_ref())),
        None => Some(HOST_KEY.into()),
    };
    let durability = word(
        judge,
        "durability",
        raw.durability.as_ref(),
        &[("full", Durability::Full), ("none", Durability::None)],
    );
    let sandbox = word(
        judge,
        "sandbox",
        raw.sandbox.as_ref(),
        &[("require", SandboxMode::Require), ("best-effort", SandboxMode::BestEffort)],
    );
    let umask = raw.umask.as_ref().map_or(Some(UMASK), |given| {
        let umask = u32::from_str_radix(given.as_ref(), 8).ok().filter(|umask| *umask <= 0o777);
        let umask =
            umask.ok_or_else(|| "must be three octal digits in quotes, like \"022\"".to_owned());
        judge.take(given.span(), "umask", umask)
    });
    let limits = Limits::check(&raw.limits, judge);
    let users = check_users(&raw.user, resolvers, judge);
    Some(Settings {
        root: root?,
        listen: listen?,
        host_key: host_key?,
        durability,
        sandbox,
        umask: umask?,
        limits,
        users,
    })
}

fn check_absolute(path: &str) -> Result<PathBuf, String> {
    let path = Path::new(path);
    if !path.is_absolute() {
        return Err("must be an absolute path".to_owned());
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("must not contain '..'".to_owned());
    }
    Ok(path.to_owned())
}

fn check_root(path: &str) -> Result<PathBuf, String> {
    let path = check_absolute(path)?;
    if path == Path::new("/") {
        return Err("must not be the whole file system; name a directory of its own".to_owned());
    }
    Ok(path)
}

fn check_listen(raw: &RawFile, judge: &mut Judge<'_>) -> Option<Vec<Listen>> {
    let Some(given) = &raw.listen else {
        judge.add(0..0, "listen", "is missing; name an address, like listen = [\"[::]:7373\"]");
        return None;
    };
    let entries = given.as_ref();
    if !(1..=LISTEN_MAX).contains(&entries.len()) {
        judge.add(given.span(), "listen", format!("must name 1 to {LISTEN_MAX} addresses"));
    }
    let mut seen = Unique::default();
    for entry in entries {
        if let Some(listen) = judge.take(entry.span(), "listen", check_address(entry.as_ref())) {
            seen.insert(listen, entry.span(), "listen", judge, |_| {
                "this address stands there twice".to_owned()
            });
        }
    }
    Some(seen.into_values())
}

fn check_address(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = check_absolute(path)?;
        if path.as_os_str().len() > SOCKET_BYTES_MAX {
            return Err(format!("a socket's path has at most {SOCKET_BYTES_MAX} bytes"));
        }
        return Ok(Listen::Unix(path));
    }
    text.parse().map(Listen::Tcp).map_err(|_| {
        format!("{text:?} is no address; write ADDRESS:PORT like \"[::]:7373\" or \"192.0.2.1:7373\", no host name, \
                 or \"unix:/PATH\"")
    })
}

fn word<T: Copy + Default>(
    judge: &mut Judge<'_>,
    key: &str,
    given: Option<&Spanned<String>>,
    words: &[(&str, T)],
) -> T {
    let Some(given) = given else { return T::default() };
    let found = words.iter().find(|(word, _)| word == given.as_ref()).map(|(_, value)| *value);
    let found = found.ok_or_else(|| {
        let words = words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>();
        format!("must be {}", words.join(" or "))
    });
    judge.take(given.span(), key, found).unwrap_or_default()
}

/// Values of which each may stand once, with the place of each for the message.
struct Unique<T>(Vec<T>, HashMap<T, String>);

impl<T> Default for Unique<T> {
    fn default() -> Self {
        Self(Vec::new(), HashMap::new())
    }
}

impl<T: Clone + Eq + Hash> Unique<T> {
    fn insert(
        &mut self,
        value: T,
        span: Range<usize>,
        key: &str,
        judge: &mut Judge<'_>,
        message: impl Fn(&str) -> String,
    ) {
        if let Some(owner) = self.1.get(&value) { judge.add(span, key, message(owner)) } else {
            let owner = key.split('.').nth(1).unwrap_or_default().to_owned();
            self.1.insert(value.clone(), owner);
            self.0.push(value);
        }
    }

    fn into_values(self) -> Vec<T> {
        self.0
    }
}

fn check_users(
    raw: &[Spanned<RawUser>],
    resolvers: &Resolvers<'_>,
    judge: &mut Judge<'_>,
) -> Vec<User> {
    if raw.is_empty() {
        let message =
            "there is no user, so nobody could log in; add [[user]] with name, keys and allow";
        judge.add(0..0, "user", message);
    }
    let (mut names, mut keys, mut uids) = (Unique::default(), Unique::default(), Unique::default());
    let mut users = Vec::new();
    for entry in raw {
        let user = entry.as_ref();
        let name = user.name.as_ref();
        let at = |key: &str| format!("user.{name}.{key}");
        if let Err(message) = check_name(name) {
            judge.add(user.name.span(), "user.name", message);
            continue;
        }
        names.insert(name.clone(), user.name.span(), &at("name"), judge, |_| {
            "two users have this name".to_owned()
        });
        if user.keys.is_empty() && user.unix.is_empty() {
            judge.add(
                entry.span(),
                at("keys"),
                "without a key or a unix account nobody can be this user",
            );
        }
        let taken = |owner: &str| format!("already belongs to the user {owner:?}");
        let mut own = (Vec::new(), Vec::new());
        for line in &user.keys {
            if let Some(key) = judge.take(line.span(), at("keys"), (resolvers.key)(line.as_ref())) {
                keys.insert(key.clone(), line.span(), &at("keys"), judge, taken);
                own.0.push(key);
            }
        }
        for account in &user.unix {
            if let Some(uid) =
                judge.take(account.span(), at("unix"), (resolvers.account)(account.as_ref()))
            {
                uids.insert(uid, account.span(), &at("unix"), judge, taken);
                own.1.push(uid);
            }
        }
        let home = match &user.home {
            Some(home) => judge.take(home.span(), at("home"), check_home(home.as_ref())).flatten(),
            None => check_home(name).ok().flatten(),
        };
        let rights = if let Some(allow) = &user.allow { check_rights(allow, &at("allow"), judge) } else {
            judge.add(
                entry.span(),
                at("allow"),
                "is missing; say what the user may do, like allow = [\"get\", \"list\"]",
            );
            Rights::default()
        };
        let principal = Principal { name: name.clone(), home, rights };
        users.push(User { principal, keys: own.0, uids: own.1 });
    }
    users
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let starts_well = name.bytes().next().is_some_and(plain);
    if starts_well
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(|byte| plain(byte) || b"._-".contains(&byte))
    {
        return Ok(());
    }
    Err(format!(
        "{name:?} must start with a-z or 0-9, go on with those, '.', '_' or '-', and have at most \
         {NAME_BYTES_MAX} characters"
    ))
}

fn check_home(home: &str) -> Result<Option<RelPath>, String> {
    if home == "." {
        return Ok(None);
    }
    if home.len() > HOME_BYTES_MAX {
        return Err(format!("must have at most {HOME_BYTES_MAX} bytes"));
    }
    let path = RelPath::parse(home.as_bytes())
        .map_err(|error| format!("must be a path below the root: {error}"))?;
    path.check_creatable().map_err(|error| error.to_string())?;
    Ok(Some(path))
}

fn check_rights(given: &Spanned<Vec<Spanned<String>>>, key: &str, judge: &mut Judge<'_>) -> Rights {
    if given.as_ref().is_empty() {
        judge.add(given.span(), key, "is empty; remove the user instead");
    }
    let mut rights = Vec::new();
    for word in given.as_ref() {
        let right =
            word.as_ref().parse::<Right>().map_err(|error| format!("{:?}: {error}", word.as_ref()));
        if let Some(right) = judge.take(word.span(), key, right) {
            if rights.contains(&right) {
                judge.add(word.span(), key, format!("{:?} stands there twice", word.as_ref()));
            }
            rights.push(right);
        }
    }
    rights.into_iter().collect()
}
