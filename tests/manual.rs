//! Goal: what is documented of the command lines and of the configuration is what there is, in both
//! directions. Method: `--help` of the real programs beside the pages and completions, which are made
//! anew from the definitions here.

use std::collections::BTreeSet;
use std::process::Command;

#[path = "../docs/man/generate.rs"]
mod generate;

type TestResult = Result<(), Box<dyn std::error::Error>>;
type Flags = BTreeSet<String>;

fn file(name: &str) -> Result<String, Box<dyn std::error::Error>> {
    let files = generate::files()?;
    let found = files.into_iter().find(|(file, _)| file == name).ok_or(name)?;
    Ok(String::from_utf8(found.1)?)
}

/// The long flags in a text, `--help` and `--version` included.
fn flags(text: &str) -> Flags {
    text.split("--")
        .skip(1)
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')
                .collect::<String>()
        })
        .filter(|flag| flag.len() > 1)
        .collect()
}

/// What `program --help` and `program VERB --help` list, and the verbs.
fn help(program: &str) -> Result<(Flags, BTreeSet<String>), Box<dyn std::error::Error>> {
    let show = |words: &[&str]| -> Result<String, Box<dyn std::error::Error>> {
        Ok(String::from_utf8(Command::new(program).args(words).arg("--help").output()?.stdout)?)
    };
    // Only what opens a line is a flag of the program; prose may name others.
    let listed = |text: &str| -> Flags {
        let opens = text.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        let names = opens.map(|line| line.split("  ").next().unwrap_or_default());
        flags(&names.collect::<Vec<_>>().join("\n"))
    };
    let main = show(&[])?;
    let verbs = main.split("Commands:\n").nth(1).ok_or("no verbs")?;
    let verbs = verbs.split("\n\n").next().unwrap_or_default().lines();
    let verbs: BTreeSet<String> = verbs
        .filter(|line| line.starts_with("  ") && !line.starts_with("    "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    let mut all = listed(&main);
    for verb in verbs.iter().filter(|verb| *verb != "help") {
        all.extend(listed(&show(&[verb])?));
    }
    Ok((all, verbs))
}

#[test]
fn help_manual_and_completions_name_the_same_flags_and_verbs() -> TestResult {
    for (name, page, program) in
        [("ftd", "ftd.8", env!("CARGO_BIN_EXE_ftd")), ("ftc", "ftc.1", env!("CARGO_BIN_EXE_ftc"))]
    {
        let (expected, verbs) = help(program)?;
        assert!(expected.len() > 3 && verbs.len() > 3, "{name}: {expected:?} {verbs:?}");
        let text = file(page)?.replace("\\-", "-");
        let options = text.split(".SH").filter(|s| {
            let heading = s.trim_start_matches([' ', '"']);
            heading.starts_with("OPTIONS") || heading.starts_with("VERBS")
        });
        let bold: Vec<&str> =
            options.flat_map(str::lines).filter(|line| line.starts_with("\\fB")).collect();
        assert_eq!(flags(&bold.join("\n")), expected, "{page}");
        for verb in verbs.iter().filter(|verb| *verb != "help") {
            assert!(text.contains(&format!("\n.SS {name} {verb}")), "{page} has no verb {verb}");
        }
        let bash = file(&format!("{name}.bash"))?;
        let words: String = bash.lines().filter(|line| line.contains("opts=\"")).collect();
        assert_eq!(flags(&words), expected, "{name}.bash");
        let zsh = file(&format!("_{name}"))?;
        let specs = zsh.lines().map(str::trim_start).filter(|line| line.starts_with('\''));
        let specs = specs.map(|line| line.split(['[', '=']).next().unwrap_or_default());
        let specs = specs.collect::<Vec<_>>().join("\n");
        assert_eq!(flags(&specs), expected, "_{name}");
        let fish = file(&format!("{name}.fish"))?;
        let longs: Flags = fish
            .lines()
            .filter(|line| line.starts_with("complete "))
            .flat_map(|line| line.split(" -l ").skip(1))
            .filter_map(|rest| rest.split_whitespace().next())
            .map(str::to_owned)
            .collect();
        assert_eq!(longs, expected, "{name}.fish");
    }
    Ok(())
}

/// Goal: whoever has only the manual and `--help` learns what a pattern is.
#[test]
fn patterns_are_in_the_manual_and_in_the_help_of_the_verbs_that_take_them() -> TestResult {
    let page = file("ftc.1")?;
    let section = page.split(".SH PATTERNS\n").nth(1).ok_or("no section")?;
    let section = section.split(".SH ").next().unwrap_or_default();
    for word in ["*", "?", "[a\\-z]", "[!a\\-z]", "backslash", "dot"] {
        assert!(section.contains(word), "{word}: {section}");
    }
    for (verb, takes) in [
        ("get", true),
        ("ls", true),
        ("stat", true),
        ("rm", true),
        ("mv", true),
        ("put", false),
        ("mkdir", false),
    ] {
        let help = Command::new(env!("CARGO_BIN_EXE_ftc")).args([verb, "--help"]).output()?.stdout;
        assert_eq!(String::from_utf8(help)?.contains("patterns"), takes, "{verb}");
    }
    Ok(())
}

/// Goal: a document that ftc names is there where it is installed.
#[test]
fn documents_that_ftc_names_are_installed_with_it() -> TestResult {
    let makefile = include_str!("../Makefile");
    let package = include_str!("../packaging/debian/ftc.install");
    let page = file("ftc.1")?.replace("\\-", "-");
    let named: Vec<&str> = page
        .split_whitespace()
        .filter(|word| word.contains(".md"))
        .map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()))
        .collect();
    assert!(named.contains(&"share/doc/ftc/json.md"), "{named:?}");
    for name in named {
        assert!(makefile.contains(&format!("$(PREFIX)/{name}\n")), "{name}");
    }
    assert!(package.lines().any(|line| line == "usr/share/doc/ftc"), "{package}");
    Ok(())
}

/// Every key of the shipped file, which another test compares with the code, has its place in the page.
#[test]
fn the_manual_describes_every_key() -> TestResult {
    let page = file("ftd.toml.5")?.replace("\\-", "-");
    let mut seen = 0;
    for line in include_str!("../etc/ftd.toml").lines() {
        let Some((key, value)) = line.trim_start_matches('#').trim_start().split_once(" = ") else {
            continue;
        };
        if key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
            assert!(page.contains(&format!("\\fB{key}\\fR")), "{key} has no entry");
            assert!(page.contains(&value.replace('\\', "\\e")), "{key} does not show {value}");
            let entry = page.split(&format!("\\fB{key}\\fR")).nth(1).unwrap_or_default();
            let entry = entry.split(".TP").next().unwrap_or_default().trim_start();
            if ["connections-per-user", "strangers-per-source", "penalty-exempt"].contains(&key) {
                assert!(!entry.starts_with("Default"), "{key} only has its default: {entry}");
            }
            seen += 1;
        }
    }
    assert!(seen > 15, "only {seen} keys were found");
    Ok(())
}
