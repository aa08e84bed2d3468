//! The command line of `ftc`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::FalseyValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use super::exit::{Exit, tell};

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

const PATTERNS: &str = "\
Names on the server may be patterns, in quotes: * ? [a-z]; ftc(1) says what they match.";

/// Options that every verb takes, before it or behind it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every verb")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
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
        value_parser = port,
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

    /// Trust exactly the server with this fingerprint, and remember it in place of another
    #[arg(long, global = true, env = "FTC_FINGERPRINT", value_name = "SHA256:…")]
    pub fingerprint: Option<String>,

    /// Say nothing but errors
    #[arg(short, long, global = true, env = "FTC_QUIET", value_parser = FalseyValueParser::new())]
    pub quiet: bool,

    /// Say what is being done
    #[arg(short, long, global = true, env = "FTC_VERBOSE", value_parser = FalseyValueParser::new())]
    pub verbose: bool,

    /// Tell programs: one JSON object to a line; …/share/doc/ftc/json.md has the schema
    #[arg(long, global = true, env = "FTC_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,

    /// How long to go on trying after a connection is lost
    #[arg(
        long,
        global = true,
        env = "FTC_RETRY",
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "1min"
    )]
    pub retry: Duration,
}

impl Cli {
    /// The command line and its variables. Ends the program if they make no sense, and blames a variable for what
    /// the variable says.
    pub fn read() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            if let Some(told) = told_of_variable(&error) {
                tell(format_args!("{}", told.trim_end()));
                std::process::exit(i32::from(Exit::Usage as u8));
            }
            error.exit()
        })
    }
}

/// What clap says of a wrong value, if that came from a variable: clap names the flag all the same.
fn told_of_variable(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let long = argument.strip_prefix("--")?.split([' ', '=']).next()?;
    let variable = format!("FTC_{}", long.to_uppercase().replace('-', "_"));
    let told = error.render().to_string();
    // What is as wrong without the variable is the command line's own.
    let again = without(Cli::command(), &variable).try_get_matches_from(std::env::args_os());
    let is_own = again.is_err_and(|error| error.render().to_string() == told);
    (!is_own).then(|| told.replacen(&format!("for '{argument}'"), &format!("in {variable}"), 1))
}

/// A command that does not look at a variable.
fn without(command: clap::Command, variable: &str) -> clap::Command {
    let command = command.mut_args(|argument| match argument.get_env() {
        Some(name) if name == variable => argument.env(None::<&'static str>),
        _ => argument,
    });
    command.mut_subcommands(|verb| without(verb, variable))
}

fn port(text: &str) -> Result<u16, &'static str> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or("a port is a number from 1 to 65535")
}

fn size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse().map_err(|_| "a size is a number and a unit, like 10MiB")
}

impl Global {
    /// Whether the key was named on the command line, and not by its variable.
    pub fn has_identity_option(&self) -> bool {
        let variable = std::env::var_os("FTC_IDENTITY").map(PathBuf::from);
        self.identity.is_some() && self.identity != variable
    }
}

/// How files are copied.
#[derive(Clone, Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Copying {
    /// Whole directories
    #[arg(short, long, env = "FTC_RECURSIVE", value_parser = FalseyValueParser::new())]
    pub recursive: bool,

    /// Keep mode and time of modification
    #[arg(short, long, env = "FTC_PRESERVE", value_parser = FalseyValueParser::new())]
    pub preserve: bool,

    /// Skip files that are there with the same content; it is compared by SHA-256
    #[arg(short, long, env = "FTC_UPDATE", value_parser = FalseyValueParser::new())]
    pub update: bool,

    /// Only say what would be done, as the server judges it
    #[arg(short = 'n', long, env = "FTC_DRY_RUN", value_parser = FalseyValueParser::new())]
    pub dry_run: bool,

    /// Refuse to replace a file
    #[arg(long, env = "FTC_NO_CLOBBER", value_parser = FalseyValueParser::new())]
    pub no_clobber: bool,

    /// Begin anew what was interrupted before, and keep nothing of what is interrupted now
    #[arg(long, env = "FTC_NO_RESUME", value_parser = FalseyValueParser::new())]
    pub no_resume: bool,

    /// Compress content on its way, for slow lines; what is compressed already goes as it is
    #[arg(short = 'z', long, env = "FTC_COMPRESS", value_parser = FalseyValueParser::new())]
    pub compress: bool,

    /// Bytes in a second at the most, like 10MiB
    #[arg(long, env = "FTC_BWLIMIT", value_name = "BYTES", value_parser = size)]
    pub bwlimit: Option<ByteSize>,

    /// Connections to work on at once
    #[arg(
        short,
        long,
        env = "FTC_JOBS",
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..=16)
    )]
    pub jobs: u8,

    /// Append what was copied, with digest and time, to this file
    #[arg(long, env = "FTC_RECEIPT", value_name = "FILE")]
    pub receipt: Option<PathBuf>,
}

/// When a file that was fetched counts as stored here.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// It is on disk, under its name
    Full,
    /// It is whole, verified and under its name; a power cut may take it
    None,
}

impl From<Durability> for crate::types::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Full => Self::Full,
            Durability::None => Self::None,
        }
    }
}

/// The verbs of `ftc`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Store files on a server
    Put {
        /// How
        #[command(flatten)]
        how: Copying,

        /// Send what this command prints; it is stored only if the command ends with 0
        #[arg(long, env = "FTC_FROM_CMD", value_name = "COMMAND")]
        from_cmd: Option<String>,

        /// Files, or - for standard input; a last operand with a colon is where to
        #[arg(required = true, value_name = "LOCAL… [REMOTE]")]
        operands: Vec<OsString>,
    },
    /// Fetch files from a server
    #[command(after_help = PATTERNS)]
    Get {
        /// How
        #[command(flatten)]
        how: Copying,

        /// With - as target: verify the whole file before the first byte is written
        #[arg(long, env = "FTC_SPOOL", value_parser = FalseyValueParser::new())]
        spool: bool,

        /// What holds when a file is here: with full, the default, that it survives a power cut; with
        /// none its content is verified all the same, and the disk takes its time
        #[arg(long, env = "FTC_DURABILITY", value_name = "WORD")]
        durability: Option<Durability>,

        /// What to fetch, and last where to: a name, a directory, or - for standard output; with a colon
        /// it is one more to fetch
        #[arg(required = true, value_name = "REMOTE… [LOCAL]")]
        operands: Vec<OsString>,
    },
    /// List directories
    #[command(after_help = PATTERNS)]
    Ls {
        /// Also type, mode, size and time
        #[arg(short, long, env = "FTC_LONG", value_parser = FalseyValueParser::new())]
        long: bool,

        /// Also what is in the directories below
        #[arg(short = 'R', long, env = "FTC_RECURSIVE", value_parser = FalseyValueParser::new())]
        recursive: bool,

        /// Digests of files, as sha256sum prints and checks them
        #[arg(long, env = "FTC_SHA256", value_parser = FalseyValueParser::new())]
        sha256: bool,

        /// Directories; your home without any
        #[arg(value_name = "REMOTE")]
        operands: Vec<OsString>,
    },
    /// Describe files or directories
    #[command(after_help = PATTERNS)]
    Stat {
        /// What to describe
        #[arg(required = true, value_name = "REMOTE")]
        operands: Vec<OsString>,
    },
    /// Remove files
    #[command(after_help = PATTERNS)]
    Rm {
        /// Also directories, and all that is in them
        #[arg(short, long, env = "FTC_RECURSIVE", value_parser = FalseyValueParser::new())]
        recursive: bool,

        /// Only say what would be removed
        #[arg(short = 'n', long, env = "FTC_DRY_RUN", value_parser = FalseyValueParser::new())]
        dry_run: bool,

        /// What to remove
        #[arg(required = true, value_name = "REMOTE")]
        operands: Vec<OsString>,
    },
    /// Rename files and directories, or move them into a directory
    #[command(after_help = PATTERNS)]
    Mv {
        /// Refuse to replace a file
        #[arg(long, env = "FTC_NO_CLOBBER", value_parser = FalseyValueParser::new())]
        no_clobber: bool,

        /// What to move, and last where to
        #[arg(required = true, num_args = 2.., value_name = "REMOTE… REMOTE")]
        operands: Vec<OsString>,
    },
    /// Make directories
    Mkdir {
        /// Also those above, and be content with one that is there
        #[arg(short, long, env = "FTC_PARENTS", value_parser = FalseyValueParser::new())]
        parents: bool,

        /// What to make
        #[arg(required = true, value_name = "REMOTE")]
        operands: Vec<OsString>,
    },
    /// Compare local files with those on a server, by digest and without moving them
    Verify {
        /// Whole directories
        #[arg(short, long, env = "FTC_RECURSIVE", value_parser = FalseyValueParser::new())]
        recursive: bool,

        /// Have the server read its files again, instead of believing the digests that it kept
        #[arg(long, env = "FTC_REREAD", value_parser = FalseyValueParser::new())]
        reread: bool,

        /// Here
        #[arg(value_name = "LOCAL")]
        local: OsString,

        /// There; your home without it
        #[arg(value_name = "REMOTE", default_value = ":")]
        remote: OsString,
    },
    /// Work at a prompt
    Shell {
        /// Carry out the lines of this file, and stop at the first that fails
        #[arg(short, long, env = "FTC_BATCH", value_name = "FILE")]
        batch: Option<PathBuf>,

        /// Where to; the default server without it
        #[arg(value_name = "HOST")]
        host: Option<OsString>,
    },
    /// Say what the word at the end of a line may become, for the completions of shells
    #[command(hide = true)]
    Complete {
        /// The command line as far as it is typed
        #[arg(allow_hyphen_values = true)]
        line: String,

        /// Its end that the shell will replace, if that is not the whole word
        #[arg(allow_hyphen_values = true)]
        end: Option<String>,
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
