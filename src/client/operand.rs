//! Operands: which server, which path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::exit::{Exit, Failure};
use crate::types::{Escaped, RelPath};

/// Where a server is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Server {
    /// TLS over TCP.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// A path on a server. Without a server it is on the default one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remote {
    /// Where, if the operand says so.
    pub server: Option<Server>,
    /// What: bytes as the user typed them; empty is the home, a `/` at the end a directory.
    pub path: Vec<u8>,
}

impl Server {
    /// Reads `HOST`, `HOST:PORT`, `[V6]:PORT`, `ftd://HOST[:PORT]` or `unix:/PATH`.
    ///
    /// # Errors
    /// A usage failure that says what is possible.
    pub fn parse(text: &str, port: u16) -> Result<Self, Failure> {
        let wrong = || {
            Failure::new(Exit::Usage, format!("{text:?} names no server"))
                .hint("a server is HOST, HOST:PORT, ftd://HOST[:PORT] or unix:/PATH")
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(wrong()) };
        }
        let address = text.strip_prefix("ftd://").map_or(text, |rest| rest.trim_end_matches('/'));
        let (host, given) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => {
                (host, rest.strip_prefix(':').or((!rest.is_empty()).then_some("")))
            }
            None => match address.split_once(':') {
                // More than one colon without brackets is an IPv6 address.
                Some((_, rest)) if rest.contains(':') => (address, None),
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let port = given.map_or(Ok(port), |given| given.parse().map_err(|_| wrong()))?;
        if host.is_empty() || host.contains('/') {
            return Err(wrong());
        }
        Ok(Self::Tcp { host: host.to_owned(), port })
    }

    /// The name in messages and in the file of known hosts.
    pub fn name(&self) -> String {
        match self {
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

impl Remote {
    /// Reads an operand that is remote if it looks so: it has a colon before any slash.
    ///
    /// # Errors
    /// The server's part is wrong.
    pub fn recognise(operand: &OsStr, port: u16) -> Result<Option<Self>, Failure> {
        let raw = operand.as_bytes();
        if let Some(rest) = raw.strip_prefix(b"ftd://") {
            let slash = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let server = Server::parse(&String::from_utf8_lossy(&rest[..slash]), port)?;
            let path = rest.get(slash + 1..).unwrap_or_default().to_vec();
            return Ok(Some(Self { server: Some(server), path }));
        }
        let before_slash = raw.split(|byte| *byte == b'/').next().unwrap_or_default();
        let colon = match (
            before_slash.starts_with(b"["),
            before_slash.iter().position(|byte| *byte == b']'),
        ) {
            (true, Some(close)) => {
                (before_slash.get(close + 1) == Some(&b':')).then_some(close + 1)
            }
            _ => before_slash.iter().position(|byte| *byte == b':'),
        };
        let Some(colon) = colon else { return Ok(None) };
        let (host, path) = (&raw[..colon], raw[colon + 1..].to_vec());
        let server = match host {
            b"" => None,
            host if has_port(&path) => return Err(port_failure(host, &path)),
            host => Some(Server::parse(&String::from_utf8_lossy(host), port)?),
        };
        Ok(Some(Self { server, path }))
    }

    /// Reads an operand that must be remote; without a colon it is a path on the default server.
    ///
    /// # Errors
    /// The server's part is wrong.
    pub fn parse(operand: &OsStr, port: u16) -> Result<Self, Failure> {
        let plain = || Self { server: None, path: operand.as_bytes().to_vec() };
        Ok(Self::recognise(operand, port)?.unwrap_or_else(plain))
    }

    /// The path to ask for: `None` is the home. A slash at the end is a matter of our own.
    ///
    /// # Errors
    /// The path breaks a rule that the server would refuse it for.
    pub fn rel_path(&self) -> Result<Option<RelPath>, Failure> {
        let path = self.path.strip_suffix(b"/").unwrap_or(&self.path);
        if path.is_empty() && self.path.len() <= 1 || path == b"." {
            return Ok(None);
        }
        checked(path).map(Some)
    }

    /// The path to put a file under that is called `name` here.
    ///
    /// # Errors
    /// As [`Remote::rel_path`]; or there is no name for it.
    pub fn target(&self, name: Option<&[u8]>) -> Result<RelPath, Failure> {
        if !(self.path.is_empty() || self.path.ends_with(b"/")) {
            return checked(&self.path);
        }
        let Some(name) = name else {
            return Err(Failure::new(Exit::Usage, "standard input has no name")
                .hint("say what to call it: ftc put - :NAME"));
        };
        let directory = if self.path == b"./" { b"" } else { self.path.as_slice() };
        checked(&[directory, name].concat())
    }
}

/// Whether what stands behind `HOST:` looks like a port and a path. A path may begin so too, but whoever types
/// it has seldom such a file in mind.
fn has_port(path: &[u8]) -> bool {
    let digits = path.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && path.get(digits) == Some(&b':')
}

/// Says how both are written that `HOST:DIGITS:…` may mean.
fn port_failure(host: &[u8], path: &[u8]) -> Failure {
    let mut parts = path.splitn(2, |byte| *byte == b':').map(Escaped);
    let (port, rest) = (parts.next().unwrap_or(Escaped(b"")), parts.next().unwrap_or(Escaped(b"")));
    let (host, path) = (Escaped(host), Escaped(path));
    Failure::new(Exit::Usage, format!("{host}:{path}: there is no port in HOST:PATH")).hint(format!(
        "with a port it is ftd://{host}:{port}/{rest}, and the path {path} is ftd://{host}/{path}"
    ))
}

fn checked(path: &[u8]) -> Result<RelPath, Failure> {
    RelPath::parse(path).map_err(|error| Failure::of_name(error).doing(Escaped(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    fn tcp(host: &str, port: u16) -> Server {
        Server::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn operands_are_remote_by_a_colon_before_any_slash() -> TestResult {
        for (operand, expected) in [
            ("report.pdf", None),
            ("./a:b", None),
            ("dir/a:b", None),
            (":a/b", Some((None, "a/b"))),
            (":", Some((None, ""))),
            ("host:", Some((Some(tcp("host", 7373)), ""))),
            ("host:a/b:c", Some((Some(tcp("host", 7373)), "a/b:c"))),
            ("[::1]:x", Some((Some(tcp("::1", 7373)), "x"))),
            ("ftd://host/a", Some((Some(tcp("host", 7373)), "a"))),
            ("ftd://host:99/a/", Some((Some(tcp("host", 99)), "a/"))),
            ("ftd://[::1]:99", Some((Some(tcp("::1", 99)), ""))),
            (":99:a", Some((None, "99:a"))),
            ("host:99", Some((Some(tcp("host", 7373)), "99"))),
            ("host:99a:b", Some((Some(tcp("host", 7373)), "99a:b"))),
            ("ftd://host/99:a", Some((Some(tcp("host", 7373)), "99:a"))),
        ] {
            let found =
                Remote::recognise(OsStr::new(operand), 7373).map_err(|failure| failure.message)?;
            let expected =
                expected.map(|(server, path)| Remote { server, path: path.as_bytes().to_vec() });
            assert_eq!(found, expected, "{operand}");
        }
        Ok(())
    }

    #[test]
    fn a_port_in_an_operand_is_an_error() {
        for (operand, hint) in [
            ("host:99:", "ftd://host:99/, and the path 99: is ftd://host/99:"),
            ("[::1]:99:a/b", "ftd://[::1]:99/a/b, and the path 99:a/b is ftd://[::1]/99:a/b"),
        ] {
            let failure = Remote::recognise(OsStr::new(operand), 7373).err();
            let found = failure.and_then(|failure| failure.hint).unwrap_or_default();
            assert!(found.ends_with(hint), "{operand}: {found}");
        }
    }

    #[test]
    fn a_server_is_named_in_four_ways() {
        for (text, expected) in [
            ("host", Some(tcp("host", 1))),
            ("host:99", Some(tcp("host", 99))),
            ("::1", Some(tcp("::1", 1))),
            ("[::1]:99", Some(tcp("::1", 99))),
            ("ftd://host/", Some(tcp("host", 1))),
            ("unix:/run/x", Some(Server::Unix("/run/x".into()))),
            ("unix:x", None),
            ("host:port", None),
            ("", None),
        ] {
            assert_eq!(Server::parse(text, 1).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_target_is_a_name_or_a_directory_for_one() {
        for (path, name, expected) in [
            ("", Some("f"), Some("f")),
            ("d/", Some("f"), Some("d/f")),
            ("./", Some("f"), Some("f")),
            ("d/g", Some("f"), Some("d/g")),
            ("", None, None),
            ("../x", Some("f"), None),
        ] {
            let remote = Remote { server: None, path: path.as_bytes().to_vec() };
            let target = remote.target(name.map(str::as_bytes)).ok();
            assert_eq!(
                target.as_ref().map(RelPath::raw_bytes),
                expected.map(str::as_bytes),
                "{path}"
            );
        }
    }
}
