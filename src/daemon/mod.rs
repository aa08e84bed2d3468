//! Floor 4: the daemon.

mod changes;
pub mod cli;
mod lifecycle;
mod listener;
mod logging;
mod outgoing;
mod quota;
mod resume;
pub mod sandbox;
mod server;
mod session;
mod settings;
mod start;
mod users;
mod verbs;

use std::process::ExitCode;

use clap::Parser as _;

/// Runs `ftd` and gives its exit code: 0 fine, 1 failed, 2 usage, 78 configuration.
pub fn main() -> ExitCode {
    start::run(cli::Cli::parse())
}
