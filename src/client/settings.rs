//! Where the client finds what the command line does not say: its own file, and the usual places.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::cli::{Durability, Global};
use super::exit::{Exit, Failure};
use super::operand::{Remote, Server};
use crate::types::ErrorCode;

/// The daemon's socket on the same machine.
const LOCAL_SOCKET: &str = "/run/ftd/ftd.sock";

/// `ftc/config.toml` in the user's configuration directory.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    server: Option<String>,
    identity: Option<PathBuf>,
    known_hosts: Option<PathBuf>,
    durability: Option<Durability>,
    /// Names of the user's own for servers.
    #[serde(default)]
    servers: BTreeMap<String, String>,
}

/// What is in force for this run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The options of the command line and their variables.
    pub global: Global,
    /// The default server, if any is named.
    pub server: Option<String>,
    /// The private key to log in with, if one is named.
    pub identity: Option<PathBuf>,
    /// Who named it, as a hint says so.
    pub identity_from: Option<String>,
    /// The file of servers that are trusted.
    pub known_hosts: PathBuf,
    /// When a file that was fetched counts as stored, if that is said.
    pub durability: Option<Durability>,
    /// Names of the user's own for servers.
    pub servers: BTreeMap<String, String>,
    /// Nobody is to be asked or told anything, and one key is tried: somebody is only typing.
    pub unasked: bool,
}

impl Settings {
    /// Puts command line, environment and file together, in this order of weight.
    ///
    /// # Errors
    /// The file makes no sense, or one that was named is missing.
    pub fn load(global: &Global) -> Result<Self, Failure> {
        let directory = configuration_directory();
        let path = global
            .config
            .clone()
            .map(at_home)
            .or_else(|| directory.as_ref().map(|directory| directory.join("config.toml")));
        let file = match &path {
            Some(path) => read(path, global.config.is_some())?,
            None => File::default(),
        };
        let known_hosts = global
            .known_hosts
            .clone()
            .or(file.known_hosts)
            .map(at_home)
            .or_else(|| Some(directory?.join("known_hosts")));
        let Some(known_hosts) = known_hosts else {
            return Err(Failure::new(
                Exit::Usage,
                "there is no home directory to keep known hosts in",
            )
            .hint("name a file with --known-hosts, or set HOME"));
        };
        let identity_from = match (&global.identity, &file.identity, &path) {
            (Some(_), _, _) if global.has_identity_option() => Some("--identity".to_owned()),
            (Some(_), _, _) => Some("FTC_IDENTITY".to_owned()),
            (None, Some(_), Some(path)) => Some(format!("identity in {}", path.display())),
            _ => None,
        };
        Ok(Self {
            global: global.clone(),
            server: global.server.clone().or(file.server),
            identity: global.identity.clone().or(file.identity).map(at_home),
            identity_from,
            known_hosts,
            durability: file.durability,
            servers: file.servers,
            unasked: false,
        })
    }

    /// The server that an operand means.
    ///
    /// # Errors
    /// It means the default one, and there is none.
    pub fn server_of(&self, remote: &Remote) -> Result<Server, Failure> {
        if let Some(server) = &remote.server {
            return self.named(server.clone());
        }
        match &self.server {
            Some(server) => self.named(Server::parse(server, self.global.port)?),
            None if is_there(Path::new(LOCAL_SOCKET)) => Ok(Server::Unix(LOCAL_SOCKET.into())),
            None => Err(Failure::new(Exit::Usage, "no server is named, and none runs on this machine").hint(
                "name one as HOST:PATH, with --server HOST, in FTC_SERVER, or as server = \"HOST\" in \
                 ~/.config/ftc/config.toml",
            )),
        }
    }
}

impl Settings {
    /// Adds to a path that is not there that it is a name for a server, if it is and the colon was forgotten.
    pub fn recognise_server(&self, operand: &OsStr, failure: Failure) -> Failure {
        match operand.to_str().filter(|name| self.servers.contains_key(*name)) {
            Some(name) if failure.code == Some(ErrorCode::NotFound) => {
                failure.hint(format!("{name}: is the server, and {name} a path on the default one"))
            }
            _ => failure,
        }
    }

    /// The server that the user calls so, if it is one of his own names.
    fn named(&self, server: Server) -> Result<Server, Failure> {
        match &server {
            Server::Tcp { host, port } => match self.servers.get(host) {
                Some(address) => Server::parse(address, *port),
                None => Ok(server),
            },
            Server::Unix(_) => Ok(server),
        }
    }
}

/// The user's home directory; the XDG Base Directory Specification says what is below it.
pub fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// A path as the user's shell would have it: `~/` is his home also where no shell has seen it.
fn at_home(path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), home()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

fn configuration_directory() -> Option<PathBuf> {
    let named =
        std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| home().map(|home| home.join(".config"))).map(|directory| directory.join("ftc"))
}

/// Where the client keeps what is not configuration: history, and how far transfers got.
pub fn state_directory() -> Option<PathBuf> {
    let named =
        std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| home().map(|home| home.join(".local/state"))).map(|state| state.join("ftc"))
}

/// Makes the directory of a file of the client's own, for the user alone.
pub fn make_private(file: &Path) {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(directory) = file.parent() {
        // If it cannot be made, the file cannot be written, and that is told.
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    }
}

#[expect(clippy::disallowed_methods, reason = "the user's own configuration")]
fn read(path: &Path, is_named: bool) -> Result<File, Failure> {
    let name = path.display();
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => {
            return Ok(File::default());
        }
        read => read.map_err(|error| Failure::new(Exit::Usage, format!("read {name}: {error}")))?,
    };
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        Failure::new(Exit::Usage, format!("{name}:{line}: {}", error.message()))
    })
}

#[expect(clippy::disallowed_methods, reason = "only whether to try it; the connection decides")]
fn is_there(path: &Path) -> bool {
    path.exists()
}
