//! What the documents claim about the code is looked up in the code.
#![allow(clippy::disallowed_methods, reason = "tests read the sources")]

use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The file of a test named as `file::test` or `module::test`, and the function, if one is named.
fn source_of(name: &str) -> Option<(PathBuf, Option<&str>)> {
    let candidates = |words: &[&str]| {
        let module = words.join("/");
        [format!("src/{module}.rs"), format!("src/{module}/mod.rs"), format!("tests/{module}.rs")]
            .map(|path| repository().join(path))
    };
    let words: Vec<&str> = name.split("::").collect();
    if words.len() == 1 {
        return candidates(&words)
            .into_iter()
            .rfind(|path| path.is_file())
            .map(|file| (file, None));
    }
    if let Some(file) = candidates(&words).into_iter().find(|path| path.is_file()) {
        return Some((file, None));
    }
    let (function, module) = words.split_last()?;
    let mut files = candidates(module).into_iter().filter(|path| path.is_file());
    let holds = |path: &PathBuf| {
        fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("fn {function}(")))
    };
    let file = files.find(holds)?;
    Some((file, Some(function)))
}

/// Looks a test up, and gives the text of the file that holds it.
fn text_of_test(name: &str) -> String {
    let (file, function) = source_of(name).unwrap_or_else(|| panic!("{name}: no such file"));
    let source = fs::read_to_string(&file).expect("readable");
    match function {
        Some(function) => assert!(
            source.contains(&format!("#[test]\nfn {function}("))
                || source.contains(&format!("#[test]\n    fn {function}("))
                || source.contains(&format!("\"]\nfn {function}(")) // #[ignore = "…"] between.
                || source.contains(&format!("async fn {function}(")),
            "{name}: {} has no such test",
            file.display()
        ),
        None => assert!(
            source.contains("#[test]")
                || source.contains("#[tokio::test]")
                || source.contains("mod tests;"),
            "{name}: {} has no tests",
            file.display()
        ),
    }
    source
}

/// The tests that the last column of a table's row names.
fn held_by(line: &str) -> impl Iterator<Item = &str> {
    let column = line.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
    quoted(column).filter(|name| !name.contains([' ', '/']))
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let text = read("docs/threat-model.md");
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let seen = rows.flat_map(held_by).map(text_of_test).count();
    let both = text + &read("docs/cases.md");
    let python = both.split('`').filter_map(|name| name.strip_prefix("tests/power/"));
    for (file, function) in python.filter_map(|name| name.split_once("::")) {
        let source = read(format!("tests/power/{file}"));
        assert!(source.contains(&format!("def {function}(")), "{file} has no {function}");
    }
    assert!(seen > 30, "only {seen} names were found: has the table changed its form?");
}

/// B11: no case is forgotten, and whoever reads a test sees which case it holds.
#[test]
fn every_case_is_listed_once_and_its_tests_say_so() {
    let kinds = [
        ('P', 20),
        ('F', 16),
        ('A', 14),
        ('R', 16),
        ('S', 16),
        ('C', 11),
        ('X', 11),
        ('G', 10),
        ('L', 13),
    ];
    let cases =
        kinds.iter().flat_map(|(kind, count)| (1..=*count).map(move |n| format!("{kind}-{n:02}")));
    let cases: Vec<String> = cases.chain((1..=12).map(|n| format!("B{n}"))).collect();
    let text = read("docs/cases.md");
    let id_of = |line: &str| line.strip_prefix("| ")?.split(" | ").next().map(str::to_owned);
    let is_case = |line: &&str| id_of(line).is_some_and(|id| cases.contains(&id));
    let rows: Vec<_> = text.lines().filter(is_case).collect();
    for case in &cases {
        let of: Vec<_> = rows.iter().filter(|row| id_of(row).as_ref() == Some(case)).collect();
        assert_eq!(of.len(), 1, "{case} must have one row");
        let names: Vec<_> = held_by(of[0]).collect();
        assert!(
            !names.is_empty() || of[0].contains("| no test: "),
            "{case}: no test, and no reason"
        );
        for name in names {
            let source = text_of_test(name);
            // Tests inside of `src/` stand beside what they test, which says enough.
            let is_inside = !repository()
                .join(format!("tests/{}.rs", name.split("::").next().unwrap_or_default()))
                .is_file();
            let says = source
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                .any(|word| word == case);
            assert!(is_inside || says, "{case}: no comment in the file of {name} says so");
        }
    }
}

#[test]
fn every_make_target_that_a_document_names_exists() {
    let makefile = read("Makefile");
    let documents =
        ["architecture", "performance", "power-cut", "threat-model", "cases", "admin", "assurance"]
            .map(|name| format!("docs/{name}.md"));
    for document in documents.iter().map(String::as_str).chain(["README.md", "CONTRIBUTING.md"]) {
        for command in quoted(&read(document)).filter_map(|words| words.strip_prefix("make ")) {
            let target = command.split_whitespace().next().unwrap_or_default();
            assert!(makefile.contains(&format!("\n{target}:")), "{document}: no target {target}");
        }
    }
}
