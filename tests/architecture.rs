//! Goal: the house keeps its plan. Method: the sources are read as text; the reader itself is tested on
//! small texts that break each rule.
#![allow(clippy::disallowed_methods, reason = "tests read the sources")]

use std::path::{Path, PathBuf};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// The floors of `src/lib.rs`.
const FLOORS: [(&str, usize); 11] = [
    ("types", 0),
    ("access", 1),
    ("config", 1),
    ("identity", 1),
    ("proto", 1),
    ("fsroot", 2),
    ("wire", 2),
    ("transfer", 3),
    ("client", 4),
    ("daemon", 4),
    ("simulation", 5),
];

/// Lines in a source file.
const LINES_MAX: usize = 600;

/// The files outside `fsroot` that may open a path, each for a reason that stands in it.
const OPENERS: [&str; 18] = [
    "src/client/ask.rs",
    "src/client/connect.rs",
    "src/client/local/mod.rs",
    "src/client/local/stdout.rs",
    "src/client/local/walk.rs",
    "src/client/report/mod.rs",
    "src/client/settings.rs",
    "src/client/state.rs",
    "src/daemon/listener.rs",
    "src/daemon/sandbox.rs",
    "src/daemon/settings.rs",
    "src/daemon/units.rs",
    "src/identity/files.rs",
    "src/identity/known_hosts.rs",
    "src/identity/tests.rs",
    "src/identity/tests/files.rs",
    "src/simulation/tests.rs",
    "src/transfer/staged/tests.rs",
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// Code without comments: what follows `//` on a line is prose.
fn code(text: &str) -> String {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// What is wrong with one file.
fn faults(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code = code(text);
    let module = path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
    if let Some(own) = floor(module) {
        for rest in code.split("crate::").skip(1) {
            let used: String =
                rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            match floor(&used) {
                Some(other) if used != module && other >= own => {
                    found.push(format!(
                        "{path}: {module} (floor {own}) uses {used} (floor {other})"
                    ));
                }
                _ => {}
            }
        }
        if ["types", "proto", "access", "config"].contains(&module) && code.contains("tokio::") {
            found.push(format!("{path}: {module} knows of tokio"));
        }
        // Where they meet is written down: everywhere else one of the two is a mistake.
        if module == "transfer" && code.contains("proto::") {
            found.push(format!("{path}: transfers know of the protocol"));
        }
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{path}: {lines} lines, at most {LINES_MAX}"));
    }
    if code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == "unsafe") {
        found.push(format!("{path}: unsafe"));
    }
    let opens = [
        "std::fs::",
        "fs::File",
        "tokio::fs",
        "openat",
        "File::options",
        "File::open",
        "renameat",
        "unlinkat",
    ];
    let reads_json = ["src/proto/mod.rs", "src/proto/message.rs", "src/client/state.rs"]
        .contains(&path)
        || module == "simulation";
    if !reads_json && code.contains("serde_json::from_") {
        found.push(format!("{path}: reads JSON itself, whose errors repeat what a peer says"));
    }
    let may_open = path.starts_with("src/fsroot/") || OPENERS.contains(&path);
    for call in opens.iter().filter(|call| !may_open && code.contains(**call)) {
        found.push(format!("{path}: {call} outside fsroot"));
    }
    if code.contains("Answer::Stored(Stored {")
        && !["src/daemon/outgoing.rs", "src/proto/message.rs"].contains(&path)
    {
        found.push(format!(
            "{path}: says \"stored\", which only daemon/outgoing.rs may, of a Committed"
        ));
    }
    found
}

fn sources(directory: &Path, into: &mut Vec<PathBuf>) -> TestResult {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

#[test]
fn the_sources_keep_the_plan() -> TestResult {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&top.join("src"), &mut files)?;
    assert!(files.len() > 40, "the sources were found");
    let mut found = Vec::new();
    for file in files {
        let path = file.strip_prefix(top)?.to_string_lossy().into_owned();
        found.extend(faults(&path, &std::fs::read_to_string(&file)?));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

#[test]
fn the_plan_is_one_that_can_be_broken() {
    let long = "x\n".repeat(LINES_MAX + 1);
    for (path, text, ok) in [
        ("src/proto/frame.rs", "use crate::types::Right;", true),
        ("src/proto/frame.rs", "use crate::config::Settings;", false),
        ("src/proto/frame.rs", "use crate::proto::Kind;", true),
        ("src/fsroot/tree.rs", "let x = crate::wire::Socket;", false),
        ("src/types/path.rs", "use crate::daemon::main;", false),
        ("src/transfer/send.rs", "use crate::proto::Frame;", false),
        ("src/client/mod.rs", "use crate::daemon::cli;", false),
        ("src/daemon/mod.rs", "use crate::client::cli;", false),
        ("src/wire/tls.rs", "// unsafe is a word in prose", true),
        ("src/wire/tls.rs", "unsafe { x }", false),
        ("src/wire/tls.rs", &long, false),
        ("src/transfer/send.rs", "std::fs::read(path)", false),
        ("src/fsroot/tree.rs", "openat2(a, b, c)", true),
        ("src/client/engine/mod.rs", "serde_json::from_slice(payload)", false),
        ("src/daemon/verbs.rs", "Answer::Stored(Stored { bytes })", false),
    ] {
        assert_eq!(faults(path, text).is_empty(), ok, "{path}: {text}");
    }
}
