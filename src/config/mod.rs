//! Floor 1: the configuration, text in and [`Settings`] out.
//!
//! It reads no file and asks nobody: key lines and account names are judged by the [`Resolvers`] that
//! the caller brings. Two stages: `raw` mirrors the file, [`Settings`] holds only legal values.

mod dump;
mod error;
mod limits;
mod raw;
mod settings;
#[cfg(test)]
mod tests;

pub use error::{ConfigError, ConfigErrors};
pub use limits::Limits;
pub use settings::{Listen, Resolvers, SandboxMode, Settings, User, parse, restart_needed};
