//! Floor 4: the client.

pub mod cli;
mod connect;
mod exit;
mod local;
mod operand;
mod progress;
mod session;
mod settings;
mod verbs;

pub use exit::Exit;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use cli::{Cli, Verb};
use exit::{Failure, report, tell};
use settings::Settings;
use verbs::{Copying, Job};

/// How long the removal of what was staged may take at the end.
const LAST_WORKS: Duration = Duration::from_secs(2);

/// Runs `ftc` and gives its exit code; `ftc --help` lists them.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            report(&Failure::new(Exit::Other, format!("start: {error}")));
            return ExitCode::from(Exit::Other as u8);
        }
    };
    let exit = runtime.block_on(async {
        tokio::select! {
            exit = run(cli) => exit,
            () = interrupted() => {
                tell(format_args!("ftc: interrupted; the file at hand was not confirmed"));
                Exit::Interrupted
            }
        }
    });
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
    let settings = match Settings::load(&cli.global) {
        Ok(settings) => settings,
        Err(failure) => {
            report(&failure);
            return failure.exit;
        }
    };
    let mut job = Job::new(settings);
    let outcome = match cli.verb {
        Verb::Put { preserve, no_clobber, operands } => {
            job.put(operands, Copying { preserve, no_clobber }).await
        }
        Verb::Get { preserve, no_clobber, operands } => {
            job.get(operands, Copying { preserve, no_clobber }).await
        }
        Verb::Ls { long, operands } => job.ls(operands, long).await,
        Verb::Stat { operands } => job.stat(operands).await,
    };
    if let Err(failure) = outcome {
        report(&failure);
        return failure.exit;
    }
    job.finish().await
}
