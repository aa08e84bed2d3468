//! The command line of `ftd`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// File-transfer daemon: what it says is stored is whole, verified, durable and confined.
#[derive(Debug, Parser)]
#[command(name = "ftd", version, max_term_width = 100)]
pub struct Cli {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/ftd.toml")]
    pub config: PathBuf,

    /// What to do; without it, serve
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The verbs of `ftd`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Subcommand)]
pub enum Command {
    /// Serve files until SIGTERM (the default)
    Serve,
    /// Judge the configuration, the root and the host key, and change nothing
    Check {
        /// Print the settings in force, defaults included
        #[arg(long)]
        dump: bool,
    },
    /// Print the host key and its fingerprint, making the key if there is none
    Fingerprint,
    /// Print the units that follow from the configuration: ftd.socket, and access to the root
    Units {
        /// Put them in /run/systemd/system and have systemd take over what changed, as root
        #[arg(long)]
        apply: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
