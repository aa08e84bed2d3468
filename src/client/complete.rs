//! What the completions of bash, zsh and fish ask: names on the server that a word may become.
//!
//! Somebody is only typing: nothing is asked, nothing is told but names, and nothing is trusted that was not.

use std::ffi::{OsStr, OsString};
use std::sync::mpsc;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _};

use super::cli::{Cli, Verb};
use super::exit::Failure;
use super::job::Job;
use super::operand::Remote;
use super::report::{Report, Style};
use super::settings::Settings;
use super::shell::{at_the_end, plain};
use crate::proto::EntryType;

/// How long a shell waits at the most, whatever hangs: the network, a name service, an agent.
const PATIENCE: Duration = Duration::from_secs(2);
/// Names that are offered at the most. Some of more would make a shell believe that it knows how all begin.
const OFFERED_MAX: usize = 10_000;

/// What the word at the end of a line may become, one to a line, directories with a slash; nothing where
/// no name on a server can stand, or when anything fails. Without what stands before `end`, if that is given.
pub fn complete(line: &str, end: Option<&str>) -> String {
    let (tell, told) = mpsc::channel();
    let whole = line.to_owned();
    std::thread::spawn(move || {
        let _ = tell.send(names(&whole)); // Too late is nobody's loss.
    });
    let names = told.recv_timeout(PATIENCE).ok().flatten().unwrap_or_default();
    let kept = end.and_then(|end| line.strip_suffix(end)).map(|head| at_the_end(head).1);
    let kept = kept.unwrap_or_default();
    names.iter().filter_map(|name| name.strip_prefix(&kept)).flat_map(|name| [name, "\n"]).collect()
}

fn names(line: &str) -> Option<Vec<String>> {
    let (_, word, before) = at_the_end(line);
    // What stands before the program's name, like a variable, is for the shell.
    let program =
        before.iter().position(|word| OsStr::new(word) == "ftc" || word.ends_with("/ftc"))?;
    let words = before[program..].iter().chain([&word]);
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(words).ok()?;
    let cli = Cli::from_arg_matches(&matches).ok()?;
    let mut settings = Settings::load(&cli.global).ok()?;
    settings.unasked = true;
    settings.global.accept_new = false;
    settings.global.verbose = false;
    if word.starts_with('-') || !may_be_remote(&cli.verb, &word, settings.global.port) {
        return None;
    }
    let job = Job::new(settings, Report::new(Style::default(), None).ok()?, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let found = listed(&job, &word).await.ok();
        job.hang_up().await;
        found
    })
}

/// Whether a name on a server can stand where this word does.
fn may_be_remote(verb: &Verb, word: &str, port: u16) -> bool {
    let is_last = |operands: &[OsString]| operands.last().is_some_and(|last| last == word);
    let has_colon = matches!(Remote::recognise(word.as_ref(), port), Ok(Some(_)));
    match verb {
        Verb::Put { operands, from_cmd, .. } => {
            has_colon && is_last(operands) && (operands.len() > 1 || from_cmd.is_some())
        }
        Verb::Get { operands, .. } => is_last(operands) && (has_colon || operands.len() == 1),
        Verb::Ls { operands, .. }
        | Verb::Stat { operands }
        | Verb::Rm { operands, .. }
        | Verb::Mv { operands, .. }
        | Verb::Mkdir { operands, .. } => is_last(operands),
        Verb::Verify { remote, .. } => remote == word,
        Verb::Shell { .. } | Verb::Complete { .. } => false,
    }
}

/// The names in the word's directory that begin as its end does, each as it is typed in full.
async fn listed(job: &Job, word: &str) -> Result<Vec<String>, Failure> {
    let (server, remote) = job.remote(word.as_ref())?;
    let typed = remote.path.len()
        - remote.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (before, begun) = word.split_at(word.len() - typed);
    // A host that is not typed to its end is none: `ftd://ho`.
    if before.strip_prefix("ftd://").is_some_and(|rest| !rest.contains('/')) {
        return Ok(Vec::new());
    }
    let (_, directory) = job.remote(before.as_ref())?;
    let mut listing = job.line(&server, 0).await?.list(directory.rel_path()?.as_ref()).await?;
    let mut names = Vec::new();
    while let Some(entries) = listing.next().await? {
        for entry in entries {
            let is_wanted = |name: &String| name.starts_with(begun) && !name.contains('/');
            let Some(name) = plain(&entry.name.0).filter(is_wanted) else { continue };
            let end = if entry.kind == EntryType::Directory { "/" } else { "" };
            let whole = format!("{before}{name}{end}");
            // Without a colon in front, some names would mean something else.
            let path = [directory.path.as_slice(), name.as_bytes(), end.as_bytes()].concat();
            let is_meant = job.remote(whole.as_ref()).is_ok_and(|(there, remote)| {
                there == server && remote.path == path && remote.rel_path().is_ok()
            });
            if is_meant && !whole.starts_with('-') {
                names.push(whole);
            }
        }
        if names.len() > OFFERED_MAX {
            return Ok(Vec::new());
        }
    }
    Ok(names)
}
