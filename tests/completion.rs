//! Goal: the shells complete names on a server, and pressing the key asks nobody, tells nothing and trusts
//! nobody.
//! Method: the verb that the completions call, against real daemons; then the generated completions in real
//! shells, of which bash alone has to be there.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

#[path = "../docs/man/generate.rs"]
mod generate;

use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use support::{Daemon, Ftc, PATIENCE, Setup, TestResult, make_key};

type Text = Result<String, Box<dyn std::error::Error>>;

/// A daemon with names that are hard to type, and the completions beside it.
fn daemon() -> Result<Daemon, Box<dyn std::error::Error>> {
    let daemon = Daemon::start()?;
    for name in [":my dir/one file", ":reports/may:june", ":remark", ":it's"] {
        daemon.ftc_unix().input("x").ok(["put", "-", name])?;
    }
    for (name, content) in generate::files()? {
        std::fs::write(daemon.path(&name), content)?;
    }
    Ok(daemon)
}

/// What the verb says; it never fails, and never says more.
fn offered(ftc: Ftc, words: &[&str]) -> Text {
    let ran = ftc.ok([&["complete", "--"], words].concat())?;
    assert_eq!(ran.err, "", "{words:?}");
    Ok(String::from_utf8(ran.out)?)
}

#[test]
fn a_word_becomes_names_where_a_name_on_the_server_can_stand() -> TestResult {
    let daemon = daemon()?;
    for odd in [&b"re\x1b[31m"[..], b"re\nmove", b"re\xff"] {
        std::fs::write(daemon.stored("").join(std::ffi::OsStr::from_bytes(odd)), "x")?;
    }
    std::fs::write(daemon.stored("").join("re:colon"), "x")?;
    let all = ":it's\n:my dir/\n:re:colon\n:remark\n:reports/\n";
    let server = daemon.unix_server();
    for (line, expected, why) in [
        ("ftc ls :", all, "all that can be typed, and nothing with control characters"),
        ("ftc get :rem", ":remark\n", "what begins so"),
        ("ftc get rem", "remark\n", "the first operand of get is always there"),
        ("ftc get :x rem", "", "the last may be here"),
        ("ftc get :x :rem", ":remark\n", "unless it has a colon"),
        ("ftc rm re", "remark\nreports/\n", "re:colon without a colon in front is a host"),
        ("ftc mv -n a re", "", "no option of mv"),
        ("ftc mv a :re", ":re:colon\n:remark\n:reports/\n", "every operand of mv"),
        ("ftc mkdir -p reports/", "reports/may:june\n", "below a directory"),
        ("ftc stat :reports/may:", ":reports/may:june\n", "a colon in a name"),
        ("ftc put x :rem", ":remark\n", "the last operand of put"),
        ("ftc put :rem", "", "the first is a file here"),
        ("ftc put --from-cmd date :rem", ":remark\n", "unless it comes from a command"),
        ("ftc verify x rem", "remark\n", "the other side"),
        ("ftc verify rem", "", "this side"),
        ("ftc ls ':my dir/o", ":my dir/one file\n", "a quote that is open"),
        ("ftc ls :my\\ dir/o", ":my dir/one file\n", "a space that is escaped"),
        ("A=b /usr/bin/ftc ls :rem", ":remark\n", "what the shell has before"),
        ("ftc get --receipt :rem", "", "a value is no operand"),
        ("ftc ls -", "", "an option"),
        ("ftc shell :", "", "a host"),
        ("ftc ls :none/", "", "no such directory"),
        ("ftc ls :../", "", "no path"),
        ("ftc ls :remark/", "", "no directory"),
        ("ftc ls ftd://hos", "", "no host yet"),
        ("ftc nonsense :", "", "no verb"),
        ("ls :", "", "no ftc"),
        ("", "", "nothing"),
    ] {
        let found = offered(daemon.ftc_unix(), &[line])?;
        let mut found: Vec<&str> = found.lines().collect();
        found.sort_unstable();
        assert_eq!(found, expected.lines().collect::<Vec<_>>(), "{line}: {why}");
    }
    let named = format!("ftc --server {server} ls :rem");
    assert_eq!(offered(daemon.ftc(), &[&named])?, ":remark\n", "the line's own options count");
    let end = offered(daemon.ftc_unix(), &["ftc stat :reports/may:j", "j"])?;
    assert_eq!(end, "june\n", "without what the shell keeps");
    Ok(())
}

#[test]
fn nobody_is_asked_and_nobody_new_is_trusted() -> TestResult {
    let daemon = daemon()?;
    let line = format!("ftc ls {}:rem", "known");
    let config = format!("[servers]\nknown = \"{}\"\n", daemon.address);
    std::fs::write(daemon.path("config.toml"), config)?;
    let tls = || daemon.ftc_tls().env("FTC_CONFIG", daemon.path("config.toml"));
    assert_eq!(offered(tls(), &[&line])?, "", "not even with FTC_ACCEPT_NEW");
    assert!(!daemon.path("known_hosts").exists());
    tls().ok(["ls"])?;
    assert_eq!(offered(tls(), &[&line])?, "known:remark\n");
    // On a terminal there would be somebody to ask.
    make_key(&daemon.path("locked"), "ed25519", "secret")?;
    for (what, name, value) in [
        ("a passphrase", "FTC_IDENTITY", daemon.path("locked")),
        ("a host", "FTC_KNOWN_HOSTS", daemon.path("nobody")),
    ] {
        let mut command = terminal(&daemon, env!("CARGO_BIN_EXE_ftc"), &["complete", &line], &[])?;
        command
            .env("FTC_CONFIG", daemon.path("config.toml"))
            .env("FTC_IDENTITY", daemon.path("key"));
        command.env("FTC_KNOWN_HOSTS", daemon.path("known_hosts")).env(name, value);
        assert_eq!(ran(command)?, "", "{what}");
    }
    Ok(())
}

/// A key that is refused counts against its source, so one is all that a key press may cost.
#[test]
fn one_key_is_tried() -> TestResult {
    let daemon = daemon()?;
    daemon.ftc_tls().ok(["ls"])?;
    std::fs::create_dir(daemon.path(".ssh"))?;
    make_key(&daemon.path(".ssh/id_ed25519"), "ed25519", "")?;
    make_key(&daemon.path(".ssh/id_ecdsa"), "p256", "")?;
    let tls = || daemon.ftc_tls().env_remove("FTC_IDENTITY");
    assert_eq!(offered(tls(), &["ftc ls :"])?, "");
    let refused = daemon.wait_for_log("refused")?.matches("refused").count();
    // Another run, of which it is known that it tries both.
    assert_eq!(tls().run(["ls"])?.code, Some(4));
    let both = daemon.wait_for_log_times("refused", 3 * refused)?;
    assert_eq!(both.matches("refused").count(), 3 * refused, "{both}");
    Ok(())
}

#[test]
fn a_server_that_says_nothing_keeps_nobody_waiting() -> TestResult {
    let setup = Setup::new()?.start()?;
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let server = silent.local_addr()?.to_string();
    let begun = Instant::now();
    assert_eq!(offered(setup.ftc_tls().env("FTC_SERVER", &server), &["ftc ls :"])?, "");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    drop(silent);
    assert_eq!(offered(setup.ftc_tls().env("FTC_SERVER", &server), &["ftc ls :"])?, "");
    Ok(())
}

/// A command on a terminal, which waits for each text and types what belongs to it.
fn terminal(
    daemon: &Daemon,
    program: &str,
    words: &[&str],
    script: &[(&str, &str)],
) -> Result<Command, Box<dyn std::error::Error>> {
    let programs = Path::new(env!("CARGO_BIN_EXE_ftc")).parent().ok_or("no directory")?;
    let usual = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/terminal.py"))
        .arg(serde_json::to_string(script)?)
        .arg(program)
        .args(words)
        .env_clear()
        .env("PATH", format!("{}:{usual}", programs.display()))
        .env("HOME", daemon.dir.path())
        .env("FTC_SERVER", daemon.unix_server())
        .env("FTC_RETRY", "0s")
        .current_dir(daemon.dir.path());
    Ok(command)
}

fn ran(mut command: Command) -> Text {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    if output.status.success() && err.is_empty() {
        Ok(text)
    } else {
        Err(format!("{err}{text}").into())
    }
}

/// A shell, if it is here.
fn found(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH")?;
    let mut all = std::env::split_paths(&path).map(|directory| directory.join(name));
    let shell = all.find(|path| path.exists());
    if shell.is_none() {
        eprintln!("left out: {name} is not installed");
    }
    shell.map(|path| path.display().to_string())
}

#[test]
fn bash_completes_names_on_the_server() -> TestResult {
    let daemon = daemon()?;
    std::fs::write(daemon.path("lonely"), "x")?;
    let bash = found("bash").ok_or("there is no bash")?;
    let script = [
        ("", "PS1='>''> '; . ./ftc.bash\r"),
        (">> ", "ftc stat :my\t"),
        ("my\\ dir/", "\t"),
        ("one\\ file ", "\r"),
        ("path    my dir/one file", ""),
        (">> ", "ftc stat ':my\t"),
        ("my dir/", "\t"),
        ("one\\ file ", "\r"),
        ("path    my dir/one file", ""),
        (">> ", "ftc stat :reports/may:\t"),
        ("june ", "\r"),
        ("path    reports/may:june", ""),
        (">> ", "ftc stat :it\t"),
        ("it\\'s ", "\r"),
        ("path    it's", ""),
        (">> ", "ftc ls rep\t"),
        ("reports/", "\r"),
        ("may:june", ""),
        (">> ", "ftc put lon\t"),
        ("lonely ", ":rep\t"),
        ("reports/", "\r"),
        ("stored reports/lonely", ""),
        (">> ", "ftc ls none:lon\t; echo no''thing\r"),
        ("; echo no", ""),
        ("\nnothing", ""),
        (">> ", "ftc stat --js\t"),
        ("--json ", "it\t"),
        ("it\\'s ", "\r"),
        ("\"path\":\"it's\"", ""),
        (">> ", "exit\r"),
    ];
    ran(terminal(&daemon, &bash, &["--norc", "--noprofile", "-i"], &script)?)?;
    assert_eq!(std::fs::read(daemon.stored("reports/lonely"))?, b"x");
    Ok(())
}

#[test]
fn zsh_completes_names_on_the_server() -> TestResult {
    let daemon = daemon()?;
    std::fs::write(daemon.path("lonely"), "x")?;
    let Some(zsh) = found("zsh") else { return Ok(()) };
    let script = [
        (
            "",
            "PS1='>''> '; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; echo rea''dy\r",
        ),
        ("\nready", ""),
        (">> ", "ftc stat :my\t"),
        ("my\\ dir/", "\t"),
        ("one\\ file", "\r"),
        ("path    my dir/one file", ""),
        (">> ", "ftc stat ':my\t"),
        ("my dir/", "\t"),
        ("one file", "\r"),
        ("path    my dir/one file", ""),
        (">> ", "ftc -v stat :reports/may:\t"),
        ("june", "\r"),
        ("path    reports/may:june", ""),
        (">> ", "ftc put lon\t"),
        ("lonely", ":rep\t"),
        ("reports/", "\r"),
        ("stored reports/lonely", ""),
        (">> ", "exit\r"),
    ];
    ran(terminal(&daemon, &zsh, &["-f", "-i"], &script)?).map(drop)
}

#[test]
fn fish_completes_names_on_the_server() -> TestResult {
    let daemon = daemon()?;
    std::fs::write(daemon.path("lonely"), "x")?;
    let Some(fish) = found("fish") else { return Ok(()) };
    for (line, expected) in [
        ("ftc stat :my", ":my dir/\n"),
        ("ftc stat :my\\ dir/", ":my dir/one file\n"),
        ("ftc stat \":my dir/o", ":my dir/one file\n"),
        ("ftc -v stat :reports/may:", ":reports/may:june\n"),
        ("ftc put lon", "lonely\n"),
        ("ftc put lonely :rep", ":reports/\n"),
        ("ftc put lonely none:lon", ""),
    ] {
        let ask = ["--no-config", "-c", "source ./ftc.fish; complete -C $argv[1]", line];
        let text = ran(terminal(&daemon, &fish, &ask, &[])?)?.replace("\r\n", "\n");
        assert_eq!(text, expected, "{line}");
    }
    Ok(())
}
