//! Makes the manual pages and completions of ftd and ftc, into the directory that is named.
//!
//! What they say of flags and verbs comes from the definitions that `--help` comes from, and what
//! `ftd.toml(5)` says of keys from `etc/ftd.toml`; the rest stands beside this file, in `*.roff`.
#![allow(clippy::disallowed_methods, reason = "a tool that writes what it was asked to write")]

use std::io;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

#[allow(dead_code, reason = "the tests call files() alone")]
fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1);
    let directory = directory.ok_or_else(|| io::Error::other("usage: manual DIRECTORY"))?;
    std::fs::create_dir_all(&directory)?;
    for (name, content) in files()? {
        std::fs::write(Path::new(&directory).join(name), content)?;
    }
    Ok(())
}

/// Every page and completion, by the name of its file.
pub fn files() -> io::Result<Vec<(String, Vec<u8>)>> {
    let (ftd, ftc) = (ftd::daemon::cli::Cli::command(), ftd::client::cli::Cli::command());
    let mut files = vec![
        ("ftd.8".to_owned(), page(&ftd, "8", include_str!("ftd.8.roff"))?),
        ("ftc.1".to_owned(), page(&ftc, "1", include_str!("ftc.1.roff"))?),
        ("ftd.toml.5".to_owned(), keys(include_str!("../../etc/ftd.toml")).into_bytes()),
    ];
    for (name, mut command) in [("ftd", typed("ftd", &ftd)), ("ftc", typed("ftc", &ftc))] {
        for (shell, file) in [
            (Shell::Bash, format!("{name}.bash")),
            (Shell::Zsh, format!("_{name}")),
            (Shell::Fish, format!("{name}.fish")),
        ] {
            let mut content = Vec::new();
            clap_complete::generate(shell, &mut command, name, &mut content);
            if name == "ftc" {
                content = with_remote_names(shell, &String::from_utf8_lossy(&content)).into_bytes();
            }
            files.push((file, content));
        }
    }
    Ok(files)
}

/// A command without the verbs that nobody types.
fn typed(name: &'static str, command: &Command) -> Command {
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments().cloned())
        .subcommands(verbs.cloned())
}

/// ftc's completions, which ask `ftc complete` for names on the server where these can stand.
fn with_remote_names(shell: Shell, made: &str) -> String {
    match shell {
        Shell::Bash => {
            // The last to be registered is the one that is called.
            format!("{made}\n{}", include_str!("remote.bash"))
        }
        Shell::Zsh => {
            let begin = "_ftc() {\n";
            let keep = "    local ftc_line=\"${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX\"\n";
            let lines = made.lines().map(|line| {
                let is_operand = ["'*::operands", "'::remote"].iter().any(|o| line.starts_with(o));
                if is_operand {
                    line.replace(":_default'", ":_ftc_names'")
                } else {
                    line.to_owned()
                }
            });
            let made = lines.collect::<Vec<_>>().join("\n") + "\n";
            let names = include_str!("remote.zsh");
            made.replacen(begin, &format!("{names}\n{begin}{keep}"), 1)
        }
        Shell::Fish => format!("{made}\n{}", include_str!("remote.fish")),
        _ => made.to_owned(),
    }
}

/// One page for a command and all its verbs, and then `rest`.
fn page(command: &Command, section: &str, rest: &str) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let main = Man::new(command.clone())
        .section(section)
        .source(concat!("ftd ", env!("CARGO_PKG_VERSION")))
        .manual("ftd");
    main.render_title(&mut out)?;
    main.render_name_section(&mut out)?;
    main.render_synopsis_section(&mut out)?;
    main.render_description_section(&mut out)?;
    main.render_options_section(&mut out)?;
    out.extend_from_slice(b".SH VERBS\n");
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let mut verb = verb.clone().disable_help_flag(true);
        let usage = verb.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ");
        out.extend_from_slice(format!(".SS {} {}\n", command.get_name(), escape(usage)).as_bytes());
        let about = verb.get_long_about().or(verb.get_about()).map(ToString::to_string);
        out.extend_from_slice(escape(&about.unwrap_or_default()).as_bytes());
        out.push(b'\n');
        let mut options = Vec::new();
        Man::new(verb).render_options_section(&mut options)?;
        out.extend_from_slice(
            String::from_utf8_lossy(&options).replace(".SH OPTIONS\n", "").as_bytes(),
        );
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

/// Text as roff takes it: no line of it is a request, a dash is a dash.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = text.lines().map(|line| {
        if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// `ftd.toml(5)`, from the commented file that is shipped.
///
/// Prose stands before the keys that it is about; a commented key shows its default; a list of the form
/// `#   key   what it is` describes a section whose keys have no line of their own; what follows a
/// commented section header is an example.
fn keys(text: &str) -> String {
    let mut out = format!(
        ".TH ftd.toml 5 \"\" \"ftd {}\" \"ftd\"\n.SH NAME\nftd.toml \\- configuration of ftd, the file\\-transfer \
         daemon\n.SH SYNOPSIS\n/etc/ftd.toml\n.SH DESCRIPTION\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut first_key = true;
    for paragraph in text.split("\n\n") {
        let lines: Vec<&str> = paragraph.lines().collect();
        let mut prose: Vec<&str> = Vec::new();
        let mut named = false; // Whether a key of this paragraph was shown.
        let mut rest = lines.iter().peekable();
        while let Some(line) = rest.next() {
            let bare = line.strip_prefix('#').map(|line| line.strip_prefix(' ').unwrap_or(line));
            if bare.is_some_and(|bare| bare.starts_with('[')) {
                out += "An example:\n.PP\n.EX\n";
                out += &escape(bare.unwrap_or_default());
                for line in rest.by_ref() {
                    out += "\n";
                    out += &escape(line.trim_start_matches('#').trim_start_matches(' '));
                }
                out += "\n.EE\n";
            } else if let Some(header) = line.strip_prefix('[') {
                out += &flow(&prose);
                prose.clear();
                out += &format!(".SH SECTION [{}\n", escape(header));
            } else if let Some((key, value)) = assignment(bare.unwrap_or(line)) {
                if first_key {
                    out += ".SH KEYS BEFORE THE FIRST SECTION\n";
                    first_key = false;
                }
                out += &format!(".TP\n\\fB{}\\fR\n", escape(key));
                out += &flow(&prose);
                let what = if bare.is_some() { "Default" } else { "As shipped" };
                // The value itself is a sentence's end, and so not followed by a full stop.
                out += &format!("{what}: {}\n", escape(value));
                prose.clear();
                named = true;
            } else if let Some(bare) = bare {
                prose.push(bare);
            }
        }
        if !named && !prose.is_empty() {
            if prose[0].starts_with("One [[user]]") {
                out += ".SH SECTIONS [[user]]\n";
            }
            out += &listed(&prose);
        }
    }
    out + include_str!("ftd.toml.5.roff")
}

/// `key = value`, if a line is one.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(" = ")?;
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    is_key.then_some((key, value))
}

fn flow(prose: &[&str]) -> String {
    if prose.is_empty() { String::new() } else { format!("{}\n", emphasised(&prose.join("\n"))) }
}

/// Text with its `quoted` words in bold.
fn emphasised(text: &str) -> String {
    let escaped = escape(text);
    let parts = escaped.split('`').enumerate();
    parts
        .map(|(i, part)| if i % 2 == 1 { format!("\\fB{part}\\fR") } else { part.to_owned() })
        .collect()
}

/// Prose with a list in it: two spaces before each key, more before the lines that go on.
fn listed(prose: &[&str]) -> String {
    let mut out = String::from(".PP\n");
    let mut in_list = false;
    for line in prose {
        let inner = line.trim_start();
        let indented = line.len() - inner.len();
        match inner.split_once(' ') {
            Some((key, what)) if indented == 2 => {
                out += &format!(".TP\n\\fB{}\\fR\n", escape(key));
                out += &format!("{}\n", emphasised(what.trim_start()));
                in_list = true;
            }
            _ => {
                if in_list && indented == 0 {
                    out += ".PP\n";
                    in_list = false;
                }
                out += &format!("{}\n", emphasised(inner));
            }
        }
    }
    out
}
