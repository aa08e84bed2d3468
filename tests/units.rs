//! Goal: the shipped units are as closed as the documents say, and systemd understands all of them.
//! Method: systemd's own judgement, offline; what really happens in them is for `make system-test`.
#![allow(clippy::disallowed_methods, reason = "tests set files up from outside")]

use std::path::{Path, PathBuf};
use std::process::Command;

mod support;

use support::{Setup, TestResult};

/// The exposure that `systemd-analyze security` may find, in tenths, with sockets from `ftd.socket`.
const EXPOSURE_MAX: u32 = 6;
/// The same where ftd opens its ports itself.
const EXPOSURE_OWN_PORT_MAX: u32 = 14;

fn systemd(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

/// `systemd-analyze`, unless there is none.
fn analyze(words: &[&str]) -> Result<Option<(bool, String)>, Box<dyn std::error::Error>> {
    match Command::new("systemd-analyze").args(words).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!(
                "skipped: there is no systemd-analyze here (Debian: apt-get install systemd)"
            );
            Ok(None)
        }
        ran => {
            let ran = ran?;
            let told = [ran.stdout, ran.stderr].concat();
            Ok(Some((ran.status.success(), String::from_utf8_lossy(&told).into_owned())))
        }
    }
}

#[test]
fn the_unit_is_as_closed_as_is_promised() -> TestResult {
    let directory = tempfile::tempdir()?;
    let unit = directory.path().join("ftd.service");
    std::fs::copy(systemd("ftd.service"), &unit)?;
    let unit = unit.to_str().ok_or("not text")?;
    for (own_port, threshold, ok) in [
        (false, EXPOSURE_MAX, true),
        (true, EXPOSURE_OWN_PORT_MAX, true),
        (true, EXPOSURE_MAX, false), // The threshold is one that can be missed.
    ] {
        if own_port {
            let drop_in = directory.path().join("ftd.service.d");
            std::fs::create_dir_all(&drop_in)?;
            std::fs::copy(systemd("own-port.conf"), drop_in.join("own-port.conf"))?;
        }
        let limit = format!("--threshold={threshold}");
        let Some((passed, told)) = analyze(&["security", "--offline=true", &limit, unit])? else {
            return Ok(());
        };
        assert_eq!(passed, ok, "own port {own_port}, threshold {threshold}:\n{told}");
    }
    Ok(())
}

/// The units, and those that `ftd units` makes of a configuration.
#[test]
fn systemd_understands_the_units() -> TestResult {
    let setup = Setup::new()?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    setup.write_config(
        &text.replace("127.0.0.1:0", "[::]:7373\", \"192.0.2.1:7374\", \"unix:/run/other socket"),
    )?;
    let made = String::from_utf8(setup.ftd(&["units"])?.stdout)?;
    let mut sections = made.split("# /run/systemd/system/").skip(1);
    let socket = sections.next().and_then(|section| section.strip_prefix("ftd.socket\n"));
    let access = sections.next().and_then(|s| s.strip_prefix("ftd.service.d/10-root.conf\n"));
    let (socket, access) = (socket.ok_or(made.clone())?, access.ok_or(made.clone())?);
    assert!(socket.contains("ListenStream=/run/other socket\n"), "{socket}");
    assert!(access.contains(&format!("{}\"\n", setup.path("root").display())), "{access}");
    let directory = setup.path("units");
    std::fs::create_dir_all(directory.join("ftd.service.d"))?;
    std::fs::write(directory.join("ftd.socket"), socket)?;
    std::fs::write(directory.join("ftd.service.d/10-root.conf"), access)?;
    for unit in ["ftd.service", "ftd-setup.service"] {
        // The program that is to be found is this build's.
        let text = std::fs::read_to_string(systemd(unit))?;
        let text = text.replace("=/usr/bin/ftd ", &format!("={} ", env!("CARGO_BIN_EXE_ftd")));
        let text = text.replace("=-/usr/bin/ftd ", &format!("=-{} ", env!("CARGO_BIN_EXE_ftd")));
        std::fs::write(directory.join(unit), text)?;
    }
    let paths = ["ftd.service", "ftd-setup.service", "ftd.socket"].map(|name| directory.join(name));
    let paths: Vec<&str> = paths.iter().filter_map(|path| path.to_str()).collect();
    let words = [&["verify", "--man=no", "--recursive-errors=no"], paths.as_slice()].concat();
    let Some((passed, told)) = analyze(&words)? else { return Ok(()) };
    let ours: Vec<_> = told.lines().filter(|line| line.contains("ftd")).collect();
    assert!(passed && ours.is_empty(), "{told}");
    Ok(())
}

/// One account, one place for each file: what the package installs is what `make install` installs.
#[test]
fn the_package_takes_its_files_from_make_install() -> TestResult {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules = std::fs::read_to_string(top.join("packaging/debian/rules"))?;
    assert!(rules.contains("$(MAKE) install DESTDIR="));
    let changelog = std::fs::read_to_string(top.join("packaging/debian/changelog"))?;
    let version = concat!("ftd (", env!("CARGO_PKG_VERSION"), ")");
    assert!(changelog.starts_with(version), "packaging/debian/changelog begins with {version}");
    Ok(())
}
