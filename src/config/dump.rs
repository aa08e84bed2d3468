//! The settings in force, as a file that says the same.

use std::fmt::Write as _;

use super::settings::{Listen, SandboxMode, Settings};
use crate::types::{Durability, PublicKey, RelPath};

impl Settings {
    /// A configuration file with every key written out; `key_line` prints a key.
    pub fn to_toml(&self, key_line: &dyn Fn(&PublicKey) -> String) -> String {
        let mut out = String::new();
        let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        let listen = self.listen.iter().map(|listen| match listen {
            Listen::Tcp(address) => quote(&address.to_string()),
            Listen::Unix(path) => quote(&format!("unix:{}", path.display())),
        });
        let durability = match self.durability {
            Durability::Full => "full",
            Durability::None => "none",
        };
        let sandbox = match self.sandbox {
            SandboxMode::Require => "require",
            SandboxMode::BestEffort => "best-effort",
        };
        let mut line = |key: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{key} = {value}");
        };
        line("root", quote(&self.root.to_string_lossy()));
        line("listen", list(listen.collect()));
        line("host-key", quote(&self.host_key.to_string_lossy()));
        line("durability", quote(durability));
        line("sandbox", quote(sandbox));
        line("umask", quote(&format!("{:03o}", self.umask)));
        out.push_str("\n[limits]\n");
        for (key, value) in self.limits.spelled() {
            let _ = writeln!(out, "{key} = {value}");
        }
        for user in &self.users {
            let home = user.principal.home.as_ref().map_or(&b"."[..], RelPath::raw_bytes);
            let rights = user.principal.rights.iter().map(|right| quote(right.name()));
            let keys = user.keys.iter().map(|key| quote(&key_line(key)));
            let uids = user.uids.iter().map(|uid| quote(&uid.to_string()));
            let _ = write!(
                out,
                "\n[[user]]\nname = {}\nkeys = {}\nunix = {}\nhome = {}\nallow = {}\n",
                quote(&user.principal.name),
                list(keys.collect()),
                list(uids.collect()),
                quote(&String::from_utf8_lossy(home)),
                list(rights.collect()),
            );
        }
        out
    }
}
