//! Settings as a file again, for `ftd check --dump`.

use std::fmt::{Display, Write as _};

use crate::types::{Durability, PublicKey, Reserve, Right};

use super::admission::{Admission, show_moment};
use super::quantity::Quantity;
use super::settings::{BANDWIDTH, Bound, Limits, RETAIN, Settings, User};

impl Settings {
    /// The settings as a whole `ftd.toml`, nothing left to defaults; it parses back to equal ones.
    ///
    /// `key_line` prints a key as one line. Accounts come out as decimal uids.
    pub fn to_toml(&self, key_line: &dyn Fn(&PublicKey) -> String) -> String {
        let mut out = String::new();
        let durability = match self.durability {
            Durability::Full => "full",
            Durability::None => "none",
        };
        line(&mut out, "root", string(self.root.display()));
        line(&mut out, "listen", list(&self.listen));
        line(&mut out, "host-key", string(self.host_key.display()));
        line(&mut out, "durability", string(durability));
        line(&mut out, "sandbox", string(self.sandbox.name()));
        line(&mut out, "umask", string(format_args!("{:03o}", self.umask)));
        let reserve = match self.reserve {
            Reserve::Bytes(bytes) => bytes.show(),
            Reserve::Percent(percent) => format!("{percent}%"),
        };
        line(&mut out, "reserve", string(reserve));
        out.push_str("\n[limits]\n");
        let limits = &self.limits;
        size(&mut out, &Limits::MAX_FILE_SIZE, limits.max_file_size);
        count(&mut out, &Limits::CONNECTIONS, limits.connections);
        count(&mut out, &Limits::CONNECTIONS_PER_USER, limits.connections_per_user);
        count(&mut out, &Limits::CONNECTIONS_PER_SOURCE, limits.connections_per_source);
        count(&mut out, &Limits::STRANGERS, limits.strangers);
        count(&mut out, &Limits::STRANGERS_PER_SOURCE, limits.strangers_per_source);
        line(&mut out, "penalties", limits.penalties);
        line(&mut out, "penalty-exempt", list(&limits.penalty_exempt));
        count(&mut out, &Limits::REQUESTS_PER_CONNECTION, limits.requests_per_connection);
        count(&mut out, &Limits::COMPRESSED_CONNECTIONS, limits.compressed_connections);
        size(&mut out, &Limits::BUFFER_MEMORY, limits.buffer_memory);
        count(&mut out, &Limits::FILE_WORKERS, limits.file_workers);
        size(&mut out, &Limits::HANDSHAKE_TIMEOUT, limits.handshake_timeout);
        size(&mut out, &Limits::IDLE_TIMEOUT, limits.idle_timeout);
        size(&mut out, &Limits::STALL_TIMEOUT, limits.stall_timeout);
        size(&mut out, &Limits::RESUME_EXPIRY, limits.resume_expiry);
        size(&mut out, &Limits::DRAIN_TIMEOUT, limits.drain_timeout);
        for User { principal, admission, keys, bandwidth, uids, quota, max_file_size } in
            &self.users
        {
            let (plain, bound): (Vec<_>, Vec<_>) =
                keys.iter().partition(|key| key.admission == Admission::default());
            out.push_str("\n[[user]]\n");
            line(&mut out, "name", string(&principal.name));
            line(&mut out, "keys", list(plain.iter().map(|key| key_line(&key.public))));
            line(&mut out, "unix", list(uids));
            conditions(&mut out, admission);
            let home = principal.home.as_ref().map_or(&b"."[..], |home| home.raw_bytes());
            line(&mut out, "home", string(String::from_utf8_lossy(home)));
            line(&mut out, "allow", list(principal.rights.iter().map(Right::name)));
            size(&mut out, &RETAIN, principal.retain);
            match bandwidth {
                None => line(&mut out, BANDWIDTH.key, string("unlimited")),
                Some(rate) => size(&mut out, &BANDWIDTH, *rate),
            }
            for (key, size) in [("quota", quota.bytes), ("max-file-size", *max_file_size)] {
                if let Some(size) = size {
                    line(&mut out, key, string(size.show()));
                }
            }
            if let Some(names) = quota.names {
                line(&mut out, "quota-files", names);
            }
            for key in bound {
                out.push_str("\n[[user.key]]\n");
                line(&mut out, "line", string(key_line(&key.public)));
                conditions(&mut out, &key.admission);
            }
            for rule in &principal.rules {
                out.push_str("\n[[user.path]]\n");
                line(&mut out, "match", string(String::from_utf8_lossy(rule.pattern.raw_bytes())));
                line(&mut out, "allow", list(rule.rights.iter().map(Right::name)));
                if let Some(retain) = rule.retain {
                    size(&mut out, &RETAIN, retain);
                }
            }
        }
        out
    }
}

fn conditions(out: &mut String, admission: &Admission) {
    let expires = admission.expires.map_or_else(|| "never".to_owned(), show_moment);
    line(out, "from", list(&admission.from));
    line(out, "expires", string(expires));
    line(out, "enabled", admission.enabled);
}

fn line(out: &mut String, key: &str, value: impl Display) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{key} = {value}");
}

fn size<T: Quantity>(out: &mut String, bound: &Bound<T>, value: T) {
    line(out, bound.key, string(value.show()));
}

fn count(out: &mut String, bound: &Bound<usize>, value: usize) {
    line(out, bound.key, value.show());
}

fn string(text: impl Display) -> toml::Value {
    toml::Value::String(text.to_string())
}

fn list(items: impl IntoIterator<Item: Display>) -> toml::Value {
    toml::Value::Array(items.into_iter().map(string).collect())
}
