//! Floor 4: the client.
//!
//! `job.rs` is a run: settings, connections, counts. `engine/` carries many requests on one connection;
//! `connect.rs` makes it, and `ask.rs` asks the user for it. `gather.rs`, `put.rs` and `get.rs` walk, read and send
//! with bounded memory, and use `upload.rs`, `resume.rs` and `download.rs` for one file each. `names.rs`, `look.rs` and
//! `verify.rs` are the verbs that move no content; `remote.rs` turns operands into names, and `held.rs` bounds how many
//! are kept. `local/` is the user's own side, and `report/` all that is told. `shell/` is the prompt, and `complete.rs`
//! answers those of other shells.

mod ask;
pub mod cli;
mod command;
mod complete;
mod connect;
mod download;
mod engine;
mod exit;
mod gather;
mod get;
mod held;
mod job;
mod local;
mod look;
mod names;
mod operand;
mod put;
mod remote;
mod report;
mod resume;
mod settings;
mod shell;
#[cfg(test)]
pub(crate) mod simulated;
mod state;
mod upload;
mod verify;

pub use exit::Exit;

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::types::{Escaped, is_acting};
use cli::{Cli, Copying, Global, Verb};
use exit::{Failure, tell};
use job::Job;
use look::Look;
use report::{Report, Stream, Style};
use settings::Settings;

/// What is said of an interrupted run that cannot be resumed.
const NOTHING: &str = "interrupted; the file at hand was not confirmed";
/// How long the removal of what was staged may take at the end.
const LAST_WORKS: Duration = Duration::from_secs(2);

/// Runs `ftc` and gives its exit code; `ftc --help` lists them.
pub fn main() -> ExitCode {
    let cli = Cli::read();
    if let Verb::Complete { line, end } = &cli.verb {
        print(&complete::complete(line, end.as_deref()));
        return ExitCode::SUCCESS;
    }
    // One thread drives the connections; more only where there are more of them.
    let threads = cli.verb.copying().map_or(1, |how| usize::from(how.jobs));
    let mut builder = if threads > 1 {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = match builder.worker_threads(threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            exit::report(&Failure::new(Exit::Other, format!("start: {error}")));
            return ExitCode::from(Exit::Other as u8);
        }
    };
    let exit = runtime.block_on(run(cli));
    runtime.shutdown_timeout(LAST_WORKS);
    ExitCode::from(exit as u8)
}

async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn run(cli: Cli) -> Exit {
    let job = match Settings::load(&cli.global).and_then(|settings| job(settings, &cli.verb)) {
        Ok(job) => Arc::new(job),
        Err(failure) => {
            exit::report(&failure);
            return failure.exit;
        }
    };
    if let Verb::Shell { batch, host } = cli.verb {
        return shell::shell(job, host, batch).await; // Which has its own idea of an interruption.
    }
    let resumes = cli.verb.resumes();
    let work = async {
        if let Err(failure) = carry_out(&job, cli.verb).await {
            job.note(None, Err(failure));
        }
        job.finish().await
    };
    tokio::select! {
        biased; // Signals are heard before anything is begun.
        () = interrupted() => {
            // Else the file threads would wait for content, and be gone before they tidy up.
            job.drop_lines();
            tokio::task::yield_now().await;
            let line = resumes.then(again);
            if job.report.has_events() {
                let failure = Failure::new(Exit::Interrupted, "interrupted");
                job.note(None, Err(match line {
                    Some(line) => failure.hint(format!("this goes on where it stopped: {line}")),
                    None => failure,
                }));
                job.sum_up(Exit::Interrupted);
                return Exit::Interrupted;
            }
            if io::stderr().is_terminal() {
                let _ = io::stderr().write_all(b"\r\x1b[K"); // Over what is left of a bar.
            }
            match line {
                Some(line) => {
                    tell(format_args!("ftc: interrupted; this goes on where it stopped:\n  {line}"));
                }
                None => tell(format_args!("ftc: {NOTHING}")),
            }
            Exit::Interrupted
        }
        exit = work => exit,
    }
}

/// What a run needs, as its verb wants it told.
fn job(settings: Settings, verb: &Verb) -> Result<Job, Failure> {
    let how = verb.copying();
    let style = style(&settings.global, verb);
    let report = Report::new(style, how.and_then(|how| how.receipt.as_deref()))?;
    Ok(Job::new(settings, report, how))
}

fn style(global: &Global, verb: &Verb) -> Style {
    let events = match verb {
        Verb::Get { operands, .. } if operands.last().is_some_and(|last| last == "-") => {
            Stream::Err
        }
        _ => Stream::Out,
    };
    let has_events = !matches!(verb, Verb::Ls { .. } | Verb::Stat { .. } | Verb::Shell { .. });
    Style {
        quiet: global.quiet,
        verbose: global.verbose,
        events: (global.json && has_events).then_some(events),
    }
}

/// The line that goes on where this run was interrupted: the same one.
fn again() -> String {
    let words = std::env::args_os().map(|word| shell_word(&word));
    words.collect::<Vec<_>>().join(" ")
}

/// A word as a shell takes it.
fn shell_word(word: &OsStr) -> String {
    let text = Escaped(word.as_bytes()).to_string();
    let is_plain = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&byte));
    if is_plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

impl Verb {
    /// Whether the same command goes on where it was interrupted.
    fn resumes(&self) -> bool {
        match self {
            Self::Put { how, from_cmd, operands } => {
                !how.no_resume && from_cmd.is_none() && !operands.iter().any(|word| word == "-")
            }
            Self::Get { how, operands, .. } => {
                !how.no_resume && operands.last().is_none_or(|word| word != "-")
            }
            _ => false,
        }
    }

    /// How files are copied, if that is what it does.
    fn copying(&self) -> Option<&Copying> {
        match self {
            Self::Put { how, .. } | Self::Get { how, .. } => Some(how),
            _ => None,
        }
    }
}

/// Does what one verb asks for.
async fn carry_out(job: &Arc<Job>, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Put { how, from_cmd, operands } => put::put(job, operands, how, from_cmd).await?,
        Verb::Get { how, spool, durability, operands } => {
            let durability = durability.or(job.settings.durability);
            let durability = durability.map(Into::into).unwrap_or_default();
            get::get(job, operands, how, spool, durability).await?;
        }
        Verb::Ls { long, recursive, sha256, operands } => {
            look::ls(job, operands, Look { long, recursive, sha256 }).await;
        }
        Verb::Stat { operands } => look::stat(job, operands).await,
        Verb::Rm { recursive, dry_run, operands } => {
            names::rm(job, operands, recursive, dry_run).await;
        }
        Verb::Mv { no_clobber, operands } => names::mv(job, operands, no_clobber).await?,
        Verb::Mkdir { parents, operands } => names::mkdir(job, operands, parents).await,
        Verb::Verify { recursive, reread, local, remote } => {
            verify::verify(job, local, &remote, recursive, reread).await?;
        }
        Verb::Shell { .. } | Verb::Complete { .. } => {} // Not inside itself; not a run.
    }
    Ok(())
}

/// A value as one line of JSON, in which nothing acts on a terminal: such a character can only stand in a
/// string, where its number means the same.
fn json_line(value: &impl serde::Serialize) -> String {
    let Ok(text) = serde_json::to_string(value) else { return String::new() };
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if is_acting(c) {
            line += &format!("\\u{:04x}", u32::from(c));
        } else {
            line.push(c);
        }
    }
    line + "\n"
}

/// Prints data. A reader that has gone, like `head`, is no failure and ends the program quietly.
fn print(text: &str) {
    print_raw(text.as_bytes());
}

/// The same for what may hold names that are no text.
fn print_raw(bytes: &[u8]) {
    match io::stdout().lock().write_all(bytes) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            let text = format!("write to standard output: {}", exit::said(&error));
            exit::report(&Failure::new(Exit::Other, text));
            std::process::exit(i32::from(Exit::Other as u8));
        }
    }
}
