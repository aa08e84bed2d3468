//! Goal: a key file is used only if nobody else can have had a hand in it, and a refusal says what to
//! do. Method: files of every kind and mode, most of them wrong in one way.
#![expect(clippy::disallowed_methods, reason = "tests set key files up")]

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::super::*;
use super::{KNOWN, TestResult};

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn told<T, E: std::fmt::Display>(outcome: Result<T, E>) -> String {
    outcome.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn a_host_key_that_others_can_reach_is_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let pem = PrivateKey::generate()?.to_openssh()?;
    write(&at("good"), &pem, 0o600)?;
    assert!(load_host_key(&at("good")).is_ok());
    write(&at("strict"), &pem, 0o400)?;
    assert!(load_host_key(&at("strict")).is_ok());
    symlink("good", at("link"))?;
    mkfifo(&at("pipe"), Mode::S_IRWXU)?;
    for mode in [0o640, 0o620, 0o610, 0o604, 0o602, 0o601] {
        write(&at(&format!("mode {mode:o}")), &pem, mode)?;
        assert!(told(load_host_key(&at(&format!("mode {mode:o}")))).contains("chmod 600"));
    }
    write(&at("damaged"), &pem[..pem.len() / 2], 0o600)?;
    write(&at("empty"), "", 0o600)?;
    for (name, why) in [
        ("link", "name the file itself"),
        ("pipe", "not a regular file"),
        ("damaged", "no OpenSSH private key"),
        ("empty", "no OpenSSH private key"),
        ("missing", "open: No such file or directory"),
        ("no/directory", "make its directory"),
        ("good/below", "Not a directory"),
    ] {
        let told = told(load_host_key(&at(name)));
        assert!(told.starts_with("host key /") && told.contains(why), "{name}: {told}");
    }
    assert!(told(load_host_key(dir.path())).contains("not a regular file"));
    Ok(())
}

/// Only root can give a file away, and only root's own files and ours are taken.
#[test]
fn a_host_key_of_another_account_is_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("key");
    write(&path, &PrivateKey::generate()?.to_openssh()?, 0o600)?;
    if nix::unistd::geteuid().is_root() {
        nix::unistd::chown(&path, Some(12_345.into()), None)?;
        assert!(told(load_host_key(&path)).contains("another account"));
    } else {
        assert!(load_host_key(&path).is_ok());
    }
    Ok(())
}

#[test]
fn only_a_missing_host_key_is_missing() {
    let error = |kind: ErrorKind| HostKeyError::Io {
        path: "/k".to_owned(),
        doing: "open",
        source: kind.into(),
    };
    assert!(error(ErrorKind::NotFound).is_missing());
    let denied = error(ErrorKind::PermissionDenied);
    assert!(!denied.is_missing() && denied.to_string().contains("account's own"), "{denied}");
    let broken = error(ErrorKind::Other).to_string();
    assert!(!broken.contains(';'), "no advice is better than a wrong one: {broken}");
    assert!(!HostKeyError::Unsafe { path: "/k".to_owned(), what: "x" }.is_missing());
}

/// The service manager's access lists look like a mode for its group.
#[test]
fn a_credential_may_have_any_mode() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("key");
    let key = PrivateKey::generate()?;
    write(&path, &key.to_openssh()?, 0o440)?;
    assert_eq!(load_credential_key(&path)?.public(), key.public());
    write(&path, "nonsense", 0o440)?;
    assert!(told(load_credential_key(&path)).contains("no OpenSSH private key"));
    assert!(load_credential_key(&dir.path().join("none")).is_err_and(|error| error.is_missing()));
    Ok(())
}

#[test]
fn a_new_host_key_is_ours_alone_and_is_kept() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("key");
    let (made, is_new) = load_or_create_host_key(&path)?;
    let (kept, is_new_again) = load_or_create_host_key(&path)?;
    assert!(is_new && !is_new_again && made.public() == kept.public());
    let stat = fs::metadata(&path)?;
    assert_eq!((stat.mode() & 0o7777, stat.nlink()), (0o600, 1), "no draft shares it");
    // A key that cannot be used is told of, and never replaced by a new one.
    write(&path, "nonsense", 0o600)?;
    assert!(load_or_create_host_key(&path).is_err() && fs::read_to_string(&path)? == "nonsense");
    let nowhere = told(load_or_create_host_key(&dir.path().join("no/key")));
    assert!(nowhere.contains("write a new one") && nowhere.contains("make its directory"));
    assert_eq!(fs::read_dir(dir.path())?.count(), 1);
    Ok(())
}

/// Two daemons that start at once: the second finds the place taken, and takes the first one's key.
#[test]
fn who_comes_second_takes_the_key_that_is_there() -> TestResult {
    for _ in 0..20 {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("key");
        let made: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| load_or_create_host_key(&path))).collect();
            makers.into_iter().filter_map(|maker| maker.join().ok()).collect::<Result<_, _>>()
        })?;
        let makers = made.iter().filter(|(_, is_new)| *is_new).count();
        assert_eq!((made.len(), makers), (8, 1), "exactly one of them made it");
    }
    Ok(())
}

#[test]
fn a_users_key_file_says_what_is_wrong_with_it() -> TestResult {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let pem = PrivateKey::generate()?.to_openssh()?;
    write(&at("good"), &pem, 0o600)?;
    assert_eq!(*read_key_file(&at("good"))?, *pem);
    symlink("good", at("link"))?;
    assert_eq!(*read_key_file(&at("link"))?, *pem, "one's own links are one's own affair");
    for mode in [0o640, 0o604, 0o666, 0o610, 0o601] {
        write(&at("open"), &pem, mode)?;
        let told = told(read_key_file(&at("open")));
        assert!(told.contains(&format!("its mode {mode:04o} lets others")), "{told}");
        assert!(told.contains("run: chmod 600 /"), "{told}");
    }
    write(&at("public"), KNOWN[0].0, 0o644)?;
    mkfifo(&at("pipe"), Mode::S_IRWXU)?;
    for (name, why) in [
        ("public", "the file without .pub"),
        ("pipe", "not a regular file"),
        ("missing", "read the private key: no such file"),
    ] {
        let told = told(read_key_file(&at(name)));
        assert!(told.contains(name) && told.contains(why), "{name}: {told}");
    }
    Ok(())
}

/// A file that never ends is not read for ever; a long one that makes sense is.
#[test]
fn key_files_are_read_up_to_their_limit() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("key");
    let long = "#".repeat(60 * 1024);
    write(&path, &long, 0o600)?;
    assert_eq!(read_key_file(&path)?.len(), 60 * 1024);
    write(&path, &long.repeat(3), 0o600)?;
    assert_eq!(read_key_file(&path)?.len(), 64 * 1024);
    Ok(())
}

#[test]
fn known_hosts_are_read_whole_and_never_skipped() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("private/known_hosts");
    let keys = [PrivateKey::generate()?, PrivateKey::generate()?];
    KnownHosts::append(&path, "[::1]:4222", keys[0].public())?;
    assert_eq!(fs::metadata(&path)?.mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().ok_or("no parent")?)?.mode() & 0o777, 0o700);
    // Comments and blank lines count as lines; a tab separates, and so does a space.
    let lines = format!(
        "# mine\n\n  \nA.example:1\t{}\na.EXAMPLE:1 {} a comment\n",
        public_line(keys[0].public()),
        public_line(keys[1].public())
    );
    fs::write(&path, &lines)?;
    let both: Vec<_> = keys.iter().map(|key| key.public().clone()).collect();
    assert_eq!(KnownHosts::load(&path)?.lookup("a.example:1"), both);
    for (more, line) in [("b:1\n", 6), ("b:1 ssh-rsa AAAA\n", 6), ("#\nb:1 ssh-ed25519 A\n", 7)] {
        fs::write(&path, format!("{lines}{more}"))?;
        let told = told(KnownHosts::load(&path));
        assert!(told.contains(&format!("known_hosts:{line}: ")), "{told}");
    }
    // What cannot be read is no empty file.
    for place in [dir.path().to_owned(), dir.path().join("private/known_hosts/below")] {
        let told = told(KnownHosts::load(&place));
        assert!(told.starts_with("known hosts /"), "{told}");
        assert!(told.contains("irectory"), "{told}");
        assert!(KnownHosts::append(&place, "h:1", keys[0].public()).is_err());
    }
    fs::write(&path, [0xff, 0xfe])?;
    assert!(KnownHosts::load(&path).is_err());
    Ok(())
}

/// A list of many servers is no reason to know none of them.
#[test]
fn a_long_list_of_known_hosts_is_read_to_its_end() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("known_hosts");
    let key = PrivateKey::generate()?;
    let mut text = "# a long comment\n".repeat(20_000);
    text += &format!("last:1 {}\n", public_line(key.public()));
    fs::write(&path, text)?;
    assert_eq!(KnownHosts::load(&path)?.lookup("last:1"), [key.public().clone()]);
    Ok(())
}

#[test]
fn known_hosts_keep_their_mode_when_a_key_is_replaced() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("known_hosts");
    let key = PrivateKey::generate()?;
    for mode in [0o600, 0o640, 0o400] {
        let _ = fs::remove_file(&path);
        write(&path, "# mine\n", mode)?;
        KnownHosts::replace(&path, "h:1", key.public())?;
        assert_eq!(fs::metadata(&path)?.mode() & 0o7777, mode);
    }
    Ok(())
}
