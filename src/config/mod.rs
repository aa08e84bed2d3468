//! Floor 1: the text of `ftd.toml` in, [`Settings`] out; no file, account or key is looked at here.
//!
//! Three stages with names: `raw` mirrors the file and knows every key, `check` turns what it holds
//! into legal values, [`Settings`] can hold nothing else. What needs another module (key lines) or
//! the machine (account names) is handed in as [`Resolvers`]. Everything wrong is collected, so an
//! administrator mends a file in one round; a key that is not known is refused, because a
//! restriction that is silently ignored is a hole.

mod admission;
mod authorized_keys;
mod check;
mod error;
mod print;
mod quantity;
mod raw;
mod settings;

#[cfg(test)]
mod tests;

pub use admission::{Admission, Barred};
pub use check::{FILE_BYTES_MAX, Resolvers, Text, parse};
pub use error::{ConfigError, ConfigErrors};
pub use settings::{
    Bound, Key, LISTEN_MAX, Limits, Listen, SandboxMode, Settings, UNIX_PATH_BYTES_MAX, User,
    restart_needed,
};
