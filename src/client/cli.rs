//! The command line of `ftc`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand};

/// Put files on an ftd server and get them back. When it says "stored", the file is whole, its
/// SHA-256 was checked, and it is on the server's disk under its name.
#[derive(Debug, Parser)]
#[command(name = "ftc", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// Options that every verb takes
    #[command(flatten)]
    pub global: Global,

    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

const AFTER_HELP: &str = "\
Remote operands are HOST:PATH, :PATH (on the default server) or ftd://HOST[:PORT]/PATH. Paths are \
relative to your home there.

Exit codes: 0 ok, 1 other, 2 usage or configuration, 3 cannot connect or timed out, 4 authentication or \
host key, 5 not allowed, 6 not found, 7 exists, 8 no space, quota or size limit, 9 integrity mismatch, \
10 some of many failed, 11 interrupted, 12 protocol or version.";

/// Options that every verb takes, before it or behind it.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The default server: HOST, HOST:PORT, <ftd://HOST>[:PORT] or <unix:/PATH>
    #[arg(long, global = true, env = "FTC_SERVER", value_name = "SERVER")]
    pub server: Option<String>,

    /// The port of a server that is named without one
    #[arg(
        short = 'P',
        long,
        global = true,
        env = "FTC_PORT",
        value_name = "PORT",
        default_value_t = 7373
    )]
    pub port: u16,

    /// The private key to log in with; without it the agent's keys and ~/.ssh/id_* are tried
    #[arg(short, long, global = true, env = "FTC_IDENTITY", value_name = "FILE")]
    pub identity: Option<PathBuf>,

    /// The file of servers that are trusted
    #[arg(long, global = true, env = "FTC_KNOWN_HOSTS", value_name = "FILE")]
    pub known_hosts: Option<PathBuf>,

    /// The configuration file
    #[arg(long, global = true, env = "FTC_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Trust a server that is not known yet, and remember it
    #[arg(long, global = true, env = "FTC_ACCEPT_NEW", value_parser = FalseyValueParser::new())]
    pub accept_new: bool,

    /// Trust exactly the server with this fingerprint, and remember it
    #[arg(long, global = true, env = "FTC_FINGERPRINT", value_name = "SHA256:…")]
    pub fingerprint: Option<String>,

    /// Say nothing but errors
    #[arg(short, long, global = true, env = "FTC_QUIET", value_parser = FalseyValueParser::new())]
    pub quiet: bool,

    /// Say what is being done
    #[arg(short, long, global = true, env = "FTC_VERBOSE", value_parser = FalseyValueParser::new())]
    pub verbose: bool,
}

/// The verbs of `ftc`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Store files on a server
    Put {
        /// Keep mode and time of modification
        #[arg(short, long, env = "FTC_PRESERVE", value_parser = FalseyValueParser::new())]
        preserve: bool,

        /// Refuse to replace a file
        #[arg(long, env = "FTC_NO_CLOBBER", value_parser = FalseyValueParser::new())]
        no_clobber: bool,

        /// Files, or - for standard input; a last operand with a colon is where to
        #[arg(required = true, value_name = "LOCAL… [REMOTE]")]
        operands: Vec<OsString>,
    },
    /// Fetch files from a server
    Get {
        /// Keep mode and time of modification
        #[arg(short, long, env = "FTC_PRESERVE", value_parser = FalseyValueParser::new())]
        preserve: bool,

        /// Refuse to replace a file
        #[arg(long, env = "FTC_NO_CLOBBER", value_parser = FalseyValueParser::new())]
        no_clobber: bool,

        /// What to fetch, and last where to: a name, a directory, or - for standard output
        #[arg(required = true, value_name = "REMOTE… [LOCAL]")]
        operands: Vec<OsString>,
    },
    /// List directories
    Ls {
        /// Also type, mode, size and time
        #[arg(short, long, env = "FTC_LONG", value_parser = FalseyValueParser::new())]
        long: bool,

        /// Directories; your home without any
        #[arg(value_name = "REMOTE")]
        operands: Vec<OsString>,
    },
    /// Describe files or directories
    Stat {
        /// What to describe
        #[arg(required = true, value_name = "REMOTE")]
        operands: Vec<OsString>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Goal: a script can set every long flag by its variable.
    #[test]
    fn every_long_flag_has_a_variable() {
        let command = Cli::command();
        let commands = std::iter::once(&command).chain(command.get_subcommands());
        for argument in commands.flat_map(clap::Command::get_arguments) {
            let Some(long) = argument.get_long().filter(|long| !["help", "version"].contains(long))
            else {
                continue;
            };
            let variable = format!("FTC_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
        }
    }
}
