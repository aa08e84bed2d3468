//! `ftc shell`: a prompt, a file of lines, or lines that come through a pipe.

mod complete;
mod words;

pub(super) use complete::{at_the_end, plain};

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser as _;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use tokio::runtime::Handle;

use super::cli::{Cli, Verb};
use super::exit::{Exit, Failure};
use super::job::Job;
use super::operand::Remote;
use super::report::Report;
use super::settings::state_directory;
use super::{carry_out, print, remote, style};
use crate::proto::EntryType;
use crate::types::{ErrorCode, Escaped, RelPath};
use complete::Helper;

/// The prompt.
const PROMPT: &str = ">> ";
/// Lines that are remembered.
const HISTORY_MAX: usize = 1000;
/// Bytes of the longest line of a script.
const LINE_BYTES_MAX: u64 = 64 * 1024;

const HELP: &str = "\
  ls [-lR] [PATTERN…]        what is there            lls [PATH]   what is here
  cd [DIRECTORY]             go there                 lcd [PATH]   go here
  pwd                        where there              lpwd         where here
  get [-rpu] REMOTE… [LOCAL] fetch                    stat NAME…   describe
  put [-rpu] LOCAL [REMOTE]  store                    verify LOCAL REMOTE
  rm [-r] NAME…              remove                   mkdir [-p] NAME…
  mv NAME… TO                rename or move           bye          leave
Words may be quoted; `help VERB` tells all its flags. In a script, `-` in front ignores a failure.
";

/// A shell: where it stands, and how it goes on.
pub struct Shell {
    job: Arc<Job>,
}

/// What a line came to.
enum Turn {
    On,
    Leave,
}

/// Runs the shell, and gives the program's exit code.
pub async fn shell(job: Arc<Job>, host: Option<OsString>, batch: Option<PathBuf>) -> Exit {
    let outcome = async {
        if let Some(host) = host {
            let port = job.settings.global.port;
            let is_local = host.as_bytes().starts_with(b"unix:");
            let named = if is_local { None } else { Remote::recognise(&host, port)? };
            if let Some(Remote { server: Some(server), path }) = named {
                job.move_to(Some(server), path);
            } else {
                let server = super::operand::Server::parse(&host.to_string_lossy(), port)?;
                job.move_to(Some(server), Vec::new());
            }
        }
        let shell = Shell { job: Arc::clone(&job) };
        match batch {
            Some(path) => shell.script(super::local::script(&path)?).await,
            None if std::io::stdin().is_terminal() => shell.prompt().await,
            None => shell.script(std::io::stdin()).await,
        }
    };
    let exit = match outcome.await {
        Ok(exit) => exit,
        Err(failure) => {
            job.report.failed(None, &failure, true);
            failure.exit
        }
    };
    job.hang_up().await;
    exit
}

impl Shell {
    /// Carries out lines until one fails.
    async fn script(&self, from: impl Read + Send + 'static) -> Result<Exit, Failure> {
        let mut lines = BufReader::new(from);
        let mut number = 0;
        loop {
            let (rest, line) = tokio::task::spawn_blocking(move || {
                let mut line = Vec::new();
                let read = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
                (lines, read.map(|_| line))
            })
            .await
            .map_err(|_| Failure::new(Exit::Other, "the thread that reads the script has died"))?;
            lines = rest;
            let line = line
                .map_err(|error| Failure::new(Exit::Other, format!("read the script: {error}")))?;
            if line.is_empty() {
                return Ok(Exit::Ok);
            }
            number += 1;
            let line = OsString::from_vec(line);
            let text = line.to_string_lossy();
            let text = text.trim();
            let (ignore, text) = match text.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, text),
            };
            match self.line(text).await {
                (_, Turn::Leave) => return Ok(Exit::Ok),
                (Exit::Ok, Turn::On) => {}
                (_, Turn::On) if ignore => {}
                (exit, Turn::On) => {
                    return Err(Failure::new(exit, format!("line {number} failed: {text}"))
                        .hint("a line that may fail has a - in front"));
                }
            }
        }
    }

    /// Asks for lines until the user leaves.
    async fn prompt(&self) -> Result<Exit, Failure> {
        let fail =
            |error: ReadlineError| Failure::new(Exit::Other, format!("the terminal: {error}"));
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .max_history_size(HISTORY_MAX)
            .map_err(fail)?
            .auto_add_history(true)
            .build();
        let mut editor: Editor<Helper, FileHistory> = Editor::with_config(config).map_err(fail)?;
        editor.set_helper(Some(Helper::new(Arc::clone(&self.job), Handle::current())));
        let history = state_directory().map(|directory| directory.join("shell_history"));
        if let Some(history) = &history {
            let _ = editor.load_history(history); // There is none at the first time.
        }
        // The first connection now, so that a wrong name or key is told before the first line.
        let server = self.job.default_server()?;
        tokio::select! {
            biased; // Signals are heard before anything is asked.
            () = super::interrupted() => {
                super::exit::tell(format_args!("ftc: interrupted"));
                return Ok(Exit::Interrupted);
            }
            line = self.job.steady_line(&server, 0) => drop(line?),
        }
        loop {
            let (rest, line) = tokio::task::spawn_blocking(move || {
                let line = editor.readline(PROMPT);
                (editor, line)
            })
            .await
            .map_err(|_| Failure::new(Exit::Other, "the line editor has died"))?;
            editor = rest;
            let turn = match line {
                Ok(line) => self.line(line.trim()).await.1,
                Err(ReadlineError::Interrupted) => Turn::On,
                Err(ReadlineError::Eof) => Turn::Leave,
                Err(error) => return Err(fail(error)),
            };
            if let Turn::Leave = turn {
                break;
            }
        }
        if let Some(history) = &history {
            super::settings::make_private(history);
            let _ = editor.save_history(history); // A history that is lost is no failure.
        }
        Ok(Exit::Ok)
    }

    /// One line. Ctrl-C ends what it does, and not the shell.
    async fn line(&self, text: &str) -> (Exit, Turn) {
        let words = match words::split(text) {
            Ok(words) => words,
            Err(what) => {
                self.tell(&Failure::new(Exit::Usage, what));
                return (Exit::Usage, Turn::On);
            }
        };
        let Some(first) = words.first() else { return (Exit::Ok, Turn::On) };
        if first.starts_with('#') {
            return (Exit::Ok, Turn::On);
        }
        if matches!(first.as_str(), "bye" | "exit" | "quit") {
            return (Exit::Ok, Turn::Leave);
        }
        let exit = tokio::select! {
            biased;
            () = super::interrupted() => {
                // What was under way counts as cut, so that it can be resumed.
                self.job.drop_lines();
                tokio::task::yield_now().await; // It ends, and its bars, before the prompt comes.
                super::exit::tell(format_args!("ftc: interrupted"));
                Exit::Interrupted
            }
            exit = self.run(&words) => exit,
        };
        (exit, Turn::On)
    }

    fn tell(&self, failure: &Failure) {
        self.job.report.failed(None, failure, true);
    }

    async fn run(&self, words: &[String]) -> Exit {
        let (name, rest) = (words[0].as_str(), &words[1..]);
        let outcome = match name {
            "help" | "?" if rest.is_empty() => {
                print(HELP);
                Ok(())
            }
            "help" => return self.verb(&[rest[0].clone(), "--help".to_owned()]).await,
            "cd" => self.cd(rest).await,
            "pwd" => {
                print(&format!("/{}\n", Escaped(&self.job.place())));
                Ok(())
            }
            "lcd" => lcd(rest),
            "lpwd" => std::env::current_dir()
                .map(|path| print(&format!("{}\n", Escaped(path.as_os_str().as_bytes()))))
                .map_err(|error| Failure::new(Exit::Other, error.to_string())),
            "lls" => lls(rest),
            _ => return self.verb(words).await,
        };
        match outcome {
            Ok(()) => Exit::Ok,
            Err(failure) => {
                self.tell(&failure);
                failure.exit
            }
        }
    }

    async fn cd(&self, words: &[String]) -> Result<(), Failure> {
        let target = match words {
            [] => "/",
            [target] => target.as_str(),
            _ => return Err(Failure::new(Exit::Usage, "cd takes one directory")),
        };
        let (server, there) = self.job.remote(target.as_ref())?;
        let path = there.rel_path()?;
        let info = remote::stat(&self.job, &server, path.as_ref()).await;
        // A user without the right to list may still go there blindly.
        match info {
            Ok(info) if info.kind != EntryType::Directory => {
                return Err(Failure::new(
                    Exit::Other,
                    format!("cd {}: not a directory", Escaped(target.as_bytes())),
                ));
            }
            Err(failure) if failure.code != Some(ErrorCode::Denied) => {
                return Err(failure.doing(format!("cd {}", Escaped(target.as_bytes()))));
            }
            _ => {}
        }
        let path = path.map_or_else(Vec::new, |path: RelPath| path.raw_bytes().to_vec());
        self.job.move_to(there.server, path);
        Ok(())
    }

    /// A verb of the command line, with all its flags.
    async fn verb(&self, words: &[String]) -> Exit {
        let own = std::iter::once("ftc".to_owned()).chain(words.iter().cloned());
        let cli = match Cli::try_parse_from(own) {
            Ok(cli) => cli,
            Err(error) => {
                let is_help = !error.use_stderr();
                let _ = error.print(); // To a terminal that is gone.
                return if is_help { Exit::Ok } else { Exit::Usage };
            }
        };
        let mut verb = cli.verb;
        match &mut verb {
            Verb::Shell { .. } => {
                self.tell(&Failure::new(Exit::Usage, "this is a shell already"));
                return Exit::Usage;
            }
            Verb::Put { operands, from_cmd, .. } => remote_last(operands, from_cmd.is_some()),
            _ => {}
        }
        if let Verb::Put { operands, .. } = &verb
            && operands.iter().any(|operand| operand == "-")
        {
            self.tell(&Failure::new(Exit::Usage, "standard input belongs to the shell"));
            return Exit::Usage;
        }
        let mut global = self.job.settings.global.clone();
        (global.quiet, global.verbose) =
            (global.quiet || cli.global.quiet, global.verbose || cli.global.verbose);
        global.json |= cli.global.json;
        let how = verb.copying();
        let report = Report::new(style(&global, &verb), how.and_then(|how| how.receipt.as_deref()));
        let report = match report {
            Ok(report) => report,
            Err(failure) => {
                self.tell(&failure);
                return failure.exit;
            }
        };
        let _curtain = Curtain(report.clone());
        let job = Arc::new(self.job.again_with(global, report, how));
        if let Err(failure) = carry_out(&job, verb).await {
            job.note(None, Err(failure));
        }
        let exit = job.exit();
        job.sum_up(exit);
        exit
    }
}

/// Takes the bars away, however a line ends.
struct Curtain(Report);

impl Drop for Curtain {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// At a prompt `put HERE THERE` needs no colon; of more names the last is a place if it ends with a slash.
fn remote_last(operands: &mut [OsString], is_command: bool) {
    let count = operands.len();
    let Some(last) = operands.last_mut() else { return };
    let is_marked =
        last.as_bytes().split(|byte| *byte == b'/').next().is_some_and(|part| part.contains(&b':'));
    let is_place = is_command || count == 2 || (count > 2 && last.as_bytes().ends_with(b"/"));
    if !is_marked && is_place {
        let mut marked = OsString::from(":");
        marked.push(&*last);
        *last = marked;
    }
}

fn lcd(words: &[String]) -> Result<(), Failure> {
    let target = match words {
        [] => super::settings::home().unwrap_or_else(|| "/".into()),
        [target] => local(target),
        _ => return Err(Failure::new(Exit::Usage, "lcd takes one directory")),
    };
    std::env::set_current_dir(&target)
        .map_err(|error| super::local::open_failure(target.as_os_str().as_bytes(), &error))
}

/// A local name as a shell spells it: `~` is the user's home.
pub(super) fn local(word: &str) -> PathBuf {
    match (word.strip_prefix('~'), super::settings::home()) {
        (Some(""), Some(home)) => home,
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(&rest[1..]),
        _ => PathBuf::from(word),
    }
}

fn lls(words: &[String]) -> Result<(), Failure> {
    let words = if words.is_empty() { vec![".".to_owned()] } else { words.to_vec() };
    for word in words {
        let path = local(&word);
        let fail =
            |error: std::io::Error| super::local::open_failure(path.as_os_str().as_bytes(), &error);
        let mut names = super::local::names(&path).map_err(fail)?;
        names.sort();
        for name in names {
            print(&format!("{}\n", Escaped(&name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_word_is_a_place_as_at_an_sftp_prompt() {
        for (words, command, expected) in [
            (&["a"][..], false, "a"),
            (&["a", "b"], false, ":b"),
            (&["a", "host:b"], false, "host:b"),
            (&["a", "./b:c"], false, ":./b:c"),
            (&["a", "b", "c"], false, "c"),
            (&["a", "b", "c/"], false, ":c/"),
            (&["a"], true, ":a"),
        ] {
            let mut operands: Vec<OsString> = words.iter().map(OsString::from).collect();
            remote_last(&mut operands, command);
            assert_eq!(
                operands.last().map(OsString::as_os_str),
                Some(expected.as_ref()),
                "{words:?}"
            );
        }
    }
}
