//! Goal: a key that is remembered is found again, and nothing else changes that was remembered.
//! Method: files as editors leave them.

use std::io::Write as _;

use tempfile::NamedTempFile;

use super::*;

/// A file of known hosts in its own directory, and what it holds afterwards.
fn remembered(
    before: &str,
    act: impl FnOnce(&Path) -> Result<(), KnownHostsError>,
) -> Result<String, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let mut file = NamedTempFile::new_in(dir.path())?;
    file.write_all(before.as_bytes())?;
    act(file.path())?;
    assert_eq!(dir.path().read_dir()?.count(), 1, "nothing else is left");
    // It may be another file by now.
    let after = crate::identity::known_hosts::text(file.path())?;
    Ok(after)
}

#[test]
fn a_line_is_appended_to_a_file_without_a_newline_at_its_end() -> TestResult {
    let keys = [PrivateKey::generate()?, PrivateKey::generate()?];
    let [one, two] = keys.each_ref().map(|key| public_line(key.public()));
    for (before, after) in [
        (String::new(), format!("h:2 {two}\n")),
        ("# mine".to_owned(), format!("# mine\nh:2 {two}\n")),
        (format!("h:1 {one} a comment"), format!("h:1 {one} a comment\nh:2 {two}\n")),
        (format!("h:1 {one}\n"), format!("h:1 {one}\nh:2 {two}\n")),
    ] {
        let found = remembered(&before, |path| KnownHosts::append(path, "h:2", keys[1].public()))?;
        assert_eq!(found, after, "{before:?}");
        let known = KnownHosts::parse(&found, "x")?;
        assert_eq!(known.lookup("h:2"), [keys[1].public().clone()], "{before:?}");
    }
    Ok(())
}

/// a key that the user vouches for takes the place of those that he does not.
#[test]
fn a_key_takes_the_place_of_the_hosts_others() -> TestResult {
    let keys = [PrivateKey::generate()?, PrivateKey::generate()?, PrivateKey::generate()?];
    let [one, two, new] = keys.each_ref().map(|key| public_line(key.public()));
    let before = format!("# mine\n\n  H:1 {one}\nh:11 {two} theirs\nh:1\t{two} old\nother:1 {one}");
    let after = format!("# mine\n\nh:11 {two} theirs\nother:1 {one}\nh:1 {new}\n");
    let found = remembered(&before, |path| KnownHosts::replace(path, "h:1", keys[2].public()))?;
    assert_eq!(found, after);
    assert_eq!(KnownHosts::parse(&found, "x")?.lookup("h:1"), [keys[2].public().clone()]);
    Ok(())
}

/// What is left out would turn a known host into a new one.
#[test]
fn a_file_is_read_whole_or_not_at_all() -> TestResult {
    let mut file = NamedTempFile::new()?;
    file.write_all(&vec![b'#'; 16 << 20])?;
    assert!(KnownHosts::load(file.path()).is_ok());
    file.write_all(b"#")?;
    let error =
        KnownHosts::load(file.path()).map_or_else(|error| error.to_string(), |_| String::new());
    assert!(error.contains("larger than 16777216 bytes"), "{error}");
    Ok(())
}
