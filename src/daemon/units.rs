//! What follows from the configuration for systemd: the sockets of `listen`, and access to `root`.
//!
//! In its unit the daemon has no network and may write nothing but what it serves, so both must be known
//! to systemd before it starts. `ftd-setup.service` runs `ftd units --apply` before each start; so
//! `/etc/ftd.toml` stays the one place where an administrator says what is to be.
//! Source: systemd.socket(5), systemd.exec(5), systemd.syntax(7).

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::config::{Listen, Settings};

/// Units that last until the next boot; those in `/etc` have precedence over them.
const DIRECTORY: &str = "/run/systemd/system";
const SOCKET: &str = "ftd.socket";
/// Sorted before any drop-in of an administrator, who has the last word.
const ROOT: &str = "ftd.service.d/10-root.conf";

/// The root that `ftd.service` itself gives access to.
const ROOT_DEFAULT: &str = "/srv/ftd";
/// Where `ftd.service` shows an empty directory (`ProtectHome=`, `PrivateTmp=`).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// The files below [`DIRECTORY`]: their content, or `None` for one that must not be there.
pub(super) struct Units([(&'static str, Option<String>); 2]);

impl Units {
    /// The units for `settings`, which were read from `file`.
    pub(super) fn new(settings: &Settings, file: &Path) -> Self {
        let head = format!(
            "# Made from {} by ftd-setup.service at each start of ftd; do not edit.\n",
            file.display()
        );
        let with_head = |body: String| format!("{head}\n{body}");
        Self([
            (SOCKET, socket(&settings.listen).map(with_head)),
            (ROOT, access(&settings.root).map(with_head)),
        ])
    }

    /// All files as text, each with its name.
    pub(super) fn show(&self) -> String {
        let files = self.0.iter().filter_map(|(name, content)| Some((name, content.as_ref()?)));
        files
            .map(|(name, content)| format!("# {DIRECTORY}/{name}\n{content}"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Puts the files where systemd finds them and, if any changed, has systemd take them over.
    pub(super) fn apply(&self) -> io::Result<()> {
        let mut changed = Vec::new();
        for (name, content) in &self.0 {
            if replace(&Path::new(DIRECTORY).join(name), content.as_deref())? {
                changed.push(*name);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        println!("took over: {}", changed.join(", "));
        systemctl(&["daemon-reload"])?;
        if changed.contains(&SOCKET) {
            // Not waited for: the job comes after this one and before ftd's own start.
            let verb = if self.0[0].1.is_some() { "restart" } else { "stop" };
            systemctl(&["--no-block", verb, SOCKET])?;
        }
        Ok(())
    }
}

/// `ftd.socket`, if systemd can open any of the places. What it cannot, ftd tries itself.
fn socket(places: &[Listen]) -> Option<String> {
    let places: Vec<String> = places.iter().filter_map(place).collect();
    if places.is_empty() {
        return None;
    }
    // Pulled in by ftd.service alone, and so after the network has its addresses: one that the machine
    // does not have is told and not waited for.
    Some(format!(
        "[Unit]\n\
         Description=Sockets of the file-transfer daemon\n\
         Documentation=man:ftd(8) man:ftd.toml(5)\n\
         DefaultDependencies=no\n\
         After=sysinit.target network-online.target\n\
         Wants=network-online.target\n\
         Before=shutdown.target\n\
         Conflicts=shutdown.target\n\
         \n\
         [Socket]\n\
         {}\n\
         # Everybody may knock: the kernel says who it is, and the configuration who may come in.\n\
         SocketMode=0666\n\
         DirectoryMode=0755\n\
         RemoveOnStop=yes\n",
        places.join("\n")
    ))
}

/// One place as a unit spells it. A port that the kernel chooses, and an address that is bound to an
/// interface, have no such spelling.
fn place(place: &Listen) -> Option<String> {
    match place {
        Listen::Tcp(address) if address.port() == 0 => None,
        Listen::Tcp(address) => {
            let address = address.to_string();
            (!address.contains('%')).then(|| format!("ListenStream={address}"))
        }
        Listen::Unix(path) => plain(path).map(|path| format!("ListenStream={path}")),
    }
}

/// The drop-in that lets ftd write below `root`, if the unit itself does not.
fn access(root: &Path) -> Option<String> {
    if root == Path::new(ROOT_DEFAULT) {
        return None;
    }
    let path = plain(root)?;
    let home = if HIDDEN[..3].iter().any(|hidden| root.starts_with(hidden)) {
        "ProtectHome=tmpfs\n"
    } else {
        ""
    };
    let way = if HIDDEN.iter().any(|hidden| root.starts_with(hidden)) {
        format!("{home}BindPaths=\"-{path}\"\n")
    } else {
        format!("ReadWritePaths=\"-{path}\"\n")
    };
    Some(format!("[Service]\nReadWritePaths=\n{way}"))
}

/// A path that stands for itself in a unit: no quote, escape, specifier or separator, no space at the end.
fn plain(path: &Path) -> Option<&str> {
    let path = path.to_str()?;
    let special = |c: char| c.is_control() || ['"', '\'', '\\', '%', ':'].contains(&c);
    if path.contains(special) || path.ends_with(char::is_whitespace) {
        eprintln!("ftd: {path:?} cannot be written in a unit; see \"units\" in ftd(8)");
        return None;
    }
    Some(path)
}

/// Makes a file hold `content`, or not be there; gives whether it did not before.
#[expect(clippy::disallowed_methods, reason = "systemd's directory, before anything is served")]
fn replace(path: &Path, content: Option<&str>) -> io::Result<bool> {
    let before = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read?),
    };
    if before.as_deref() == content {
        return Ok(false);
    }
    let Some(content) = content else {
        return std::fs::remove_file(path).map(|()| true);
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // systemd must never see half of it.
    let draft = PathBuf::from(format!("{}.new", path.display()));
    let mut file = std::fs::File::create(&draft)?;
    file.write_all(content.as_bytes())?;
    std::fs::rename(&draft, path).map(|()| true)
}

fn systemctl(words: &[&str]) -> io::Result<()> {
    let status = Command::new("systemctl").args(words).status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("systemctl {}: {status}", words.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(places: &[&str]) -> Vec<Listen> {
        let place = |place: &&str| match place.strip_prefix("unix:") {
            Some(path) => Listen::Unix(path.into()),
            None => Listen::Tcp(place.parse().expect("an address")),
        };
        places.iter().map(place).collect()
    }

    #[test]
    fn each_place_becomes_a_socket_of_the_unit() {
        let all = places(&["[::]:7373", "192.0.2.1:80", "unix:/run/ftd/ftd.sock"]);
        let unit = socket(&all).expect("a unit");
        let listens: Vec<_> = unit.lines().filter(|line| line.starts_with("Listen")).collect();
        assert_eq!(
            listens,
            [
                "ListenStream=[::]:7373",
                "ListenStream=192.0.2.1:80",
                "ListenStream=/run/ftd/ftd.sock"
            ]
        );
        assert!(socket(&places(&["127.0.0.1:0", "[fe80::1%2]:7373"])).is_none());
    }

    /// Goal: no path in the configuration writes a line of its own into a unit that root loads.
    #[test]
    fn a_path_that_means_something_to_systemd_is_left_out() {
        for path in ["/a\nb", "/a%n", "/a\"b", "/a\\", "/a'b", "/a:b", "/a "] {
            assert_eq!(access(Path::new(path)), None, "{path}");
            assert_eq!(place(&Listen::Unix(path.into())), None, "{path}");
        }
        let access = |root: &str| access(Path::new(root)).unwrap_or_default();
        assert_eq!(access("/srv/ftd"), "");
        assert_eq!(
            access("/data/a b"),
            "[Service]\nReadWritePaths=\nReadWritePaths=\"-/data/a b\"\n"
        );
        assert_eq!(
            access("/home/ftd"),
            "[Service]\nReadWritePaths=\nProtectHome=tmpfs\nBindPaths=\"-/home/ftd\"\n"
        );
        assert_eq!(access("/var/tmp/x"), "[Service]\nReadWritePaths=\nBindPaths=\"-/var/tmp/x\"\n");
    }
}
