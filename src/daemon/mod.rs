//! Floor 4: the daemon.

mod bandwidth;
mod changes;
pub mod cli;
mod compress;
mod content;
mod door;
mod get;
mod guard;
mod incoming;
mod journal;
mod lifecycle;
mod listener;
mod logging;
mod notify;
mod outgoing;
mod patience;
mod penalties;
mod quota;
mod resume;
mod running;
pub mod sandbox;
mod server;
mod session;
mod settings;
#[cfg(any(test, fuzzing))]
pub(crate) mod simulated;
mod sockets;
mod start;
mod strangers;
mod units;
mod users;
mod verbs;
mod watchdog;

use std::process::ExitCode;

use clap::Parser as _;

/// Runs `ftd` and gives its exit code: 0 fine, 1 failed, 2 usage, 78 configuration.
pub fn main() -> ExitCode {
    start::run(cli::Cli::parse())
}
