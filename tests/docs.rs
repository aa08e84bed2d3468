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

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let text = read("docs/threat-model.md");
    let held_by = text
        .lines()
        .filter(|line| line.starts_with("| "))
        .filter_map(|line| line.trim_end_matches(" |").rsplit(" | ").next());
    let mut seen = 0;
    for name in held_by.flat_map(quoted).filter(|name| !name.contains([' ', '/'])) {
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
        seen += 1;
    }
    let python = text.split('`').filter_map(|name| name.strip_prefix("tests/power/"));
    for (file, function) in python.filter_map(|name| name.split_once("::")) {
        let source = read(format!("tests/power/{file}"));
        assert!(source.contains(&format!("def {function}(")), "{file} has no {function}");
    }
    assert!(seen > 30, "only {seen} names were found: has the table changed its form?");
}

#[test]
fn every_make_target_that_a_document_names_exists() {
    let makefile = read("Makefile");
    for document in ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/performance.md"]
    {
        for command in quoted(&read(document)).filter_map(|words| words.strip_prefix("make ")) {
            let target = command.split_whitespace().next().unwrap_or_default();
            assert!(makefile.contains(&format!("\n{target}:")), "{document}: no target {target}");
        }
    }
}
