//! Goal: what `ftc` prints and how it ends is an interface; here it is, verb by verb.
//! Method: whole output compared, with only digests of content computed; every exit code once.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use support::{Daemon, Setup, TestResult, make_key, noise, sha256};

/// Runs each command and compares exit code, standard output and standard error.
fn transcript(daemon: &Daemon, lines: &[(&str, i32, &str, &str)]) -> TestResult {
    for (line, code, out, err) in lines {
        let ran = daemon.ftc_unix().run(line.split(' '))?;
        let told = (ran.code, String::from_utf8(ran.out)?, ran.err);
        assert_eq!(told, (Some(*code), (*out).to_owned(), (*err).to_owned()), "{line}");
    }
    Ok(())
}

#[test]
fn every_verb_says_what_it_did() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::create_dir(daemon.path("d"))?;
    std::fs::write(daemon.path("d/a"), "alpha")?;
    std::fs::write(daemon.path("b"), "beta")?;
    let (alpha, beta) = (sha256(b"alpha"), sha256(b"beta"));
    let dated = std::fs::File::options().write(true).open(daemon.path("d/a"))?;
    dated.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000))?;
    dated.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
    std::fs::write(daemon.path("script"), "cd x\npwd\n-rm none\nls\nmkdir /x\nls\n")?;
    transcript(
        &daemon,
        &[
            ("put b", 0, "", &format!("stored b  4 B  sha256 {beta}\n")),
            ("put b", 0, "", &format!("stored, replacing b  4 B  sha256 {beta}\n")),
            ("put -u b", 0, "", "skipped b: it is there with the same content\n"),
            ("put -n b :c", 0, "would store c\n", ""),
            ("-q put d/a :x/a", 0, "", ""),
            ("-q put -p d/a :x/a", 0, "", ""),
            (
                "stat :x/a",
                0,
                &format!(
                    "path    x/a\ntype    file\nbytes   5\nmode    0640\n\
                     mtime   2023-11-14T22:13:20Z\nsha256  {alpha}\n"
                ),
                "",
            ),
            ("ls -l :x", 0, "- 0640              5 2023-11-14T22:13:20Z a\n", ""),
            (
                "shell -b script",
                7,
                "/x\na\n",
                "ftc: rm x/none: remove the name: no such file or directory (NOT_FOUND)\n\
                 hint: see what is there with: ftc ls\n\
                 ftc: mkdir x: make the directory: file exists (EXISTS)\n\
                 hint: be content with a directory that is there: ftc mkdir -p\n\
                 ftc: line 5 failed: mkdir /x\n\
                 hint: a line that may fail has a - in front\n",
            ),
            (
                "mkdir :no/thing",
                6,
                "",
                "ftc: mkdir no/thing: make the directory: no such file or directory (NOT_FOUND)\n\
                 hint: make those above it too with: ftc mkdir -p\n",
            ),
            (
                "put b :../b",
                2,
                "",
                "ftc: ../b: component 1 is '.' or '..', which is never followed (BAD_NAME)\n\
                 hint: choose another name\n",
            ),
            (
                "put none",
                6,
                "",
                "ftc: open none: no such file or directory\nhint: see what is here with: ls\n",
            ),
            (
                "get :b /dev/full",
                1,
                "",
                "ftc: get b: store the file here: replace what stands under this name: it is not a \
                 regular file\nhint: only files are replaced here; into anything else: ftc get … - > FILE\n",
            ),
            (
                "put b --receipt /dev/full",
                1,
                "",
                &format!(
                    "ftc: write the receipt: no space left on device\n\
                     hint: the files themselves are as it says here\n\
                     stored, replacing b  4 B  sha256 {beta}\n"
                ),
            ),
            ("get :b -", 0, "beta", &format!("got -  4 B  sha256 {beta}\n")),
            ("get :b c", 0, "", &format!("got ./c  4 B  sha256 {beta}\n")),
            ("ls", 0, "b\nx/\n", ""),
            ("ls -R", 0, ".:\nb\nx/\n\nx:\na\n", ""),
            ("ls -R --sha256", 0, &format!("{beta}  b\n{alpha}  x/a\n"), ""),
            ("ls :x :b", 0, "x:\na\nb\n", ""),
            ("mkdir -p :m/n", 0, "", ""),
            ("mv :b :m/n", 0, "", ""),
            ("verify d/a :x/a", 0, "d/a: OK\n", ""),
            ("verify b :x/a", 9, "b: FAILED (another size)\n", ""),
            ("verify -r d :x", 0, "d/a: OK\n", ""),
            ("rm -n -r :m", 0, "would remove m/n/b\nwould remove m/n\nwould remove m\n", ""),
            ("rm :x/a", 0, "", ""),
            (
                "rm :x",
                1,
                "",
                "ftc: rm x: it is a directory\nhint: remove it and all that is in it with: ftc rm -r\n",
            ),
            ("rm -r :x :m", 0, "", ""),
            ("ls", 0, "", ""),
        ],
    )
}

#[test]
fn every_exit_code_has_its_reason() -> TestResult {
    let daemon = Setup::with(
        r#"["get", "list", "create", "replace", "rename", "mkdir"]"#,
        "[limits]\nmax-file-size = \"1KiB\"\n",
    )?
    .start()?;
    make_key(&daemon.path("other"), "ed25519", "")?;
    std::fs::write(daemon.path("f"), "content")?;
    std::fs::write(daemon.path("large"), noise(2000, 1))?;
    let other = daemon.path("other").display().to_string();
    for (words, code, text) in [
        (&["put", "f"][..], 0, "stored f"),
        (&["get", ":f", "none/"], 6, "none"),
        (&["put", "f", ":f/below"], 1, "WRONG_TYPE"),
        (&["frobnicate"], 2, "frobnicate"),
        (&["ls", "--server", "127.0.0.1:1"], 3, "refused"),
        (&["ls", "-i", other.as_str()], 4, "ask the administrator to add this line"),
        (&["rm", ":f"], 5, "DENIED"),
        (&["get", ":none"], 6, "NOT_FOUND"),
        (&["put", "--no-clobber", "f"], 7, "EXISTS"),
        (&["put", "large"], 8, "TOO_LARGE"),
        (&["verify", "large", ":f"], 9, ""),
        (&["get", ":f", ":none", "."], 10, "NOT_FOUND"),
    ] {
        let ran = daemon.ftc_tls().run(words)?;
        assert_eq!(ran.code, Some(code), "{words:?}: {}", ran.err);
        assert!(ran.err.contains(text), "{words:?}: {}", ran.err);
        let has_remedy = matches!(code, 0 | 2 | 9) || ran.err.contains("hint: ");
        assert!(has_remedy, "{words:?}: {}", ran.err);
    }
    Ok(())
}

/// A name of the user's own for a server.
#[test]
fn servers_have_the_names_that_the_user_gives_them() -> TestResult {
    let daemon = Daemon::start()?;
    let config = daemon.path("config.toml");
    std::fs::write(
        &config,
        format!("server = \"work\"\n[servers]\nwork = \"{}\"\n", daemon.address),
    )?;
    std::fs::write(daemon.path("f"), "content")?;
    for words in [&["put", "f", "work:one"][..], &["put", "f", ":two"], &["put", "f"]] {
        daemon.ftc().env("FTC_CONFIG", &config).env("FTC_ACCEPT_NEW", "1").ok(words)?;
    }
    assert!(daemon.stored("one").exists() && daemon.stored("two").exists());
    Ok(())
}
