//! Goal: only who is listed comes in, only the right server is talked to, and each refusal says what
//! to do. Method: real ssh-keygen keys, a real ssh-agent, a real terminal where one is asked for.
#![allow(clippy::disallowed_methods, reason = "tests set keys and files up from outside")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use support::{ALL_RIGHTS, Daemon, Setup, TestResult, make_key};

fn public(path: &Path) -> Result<String, std::io::Error> {
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    Ok(std::fs::read_to_string(PathBuf::from(public))?.trim().to_owned())
}

fn add_user(setup: &Setup, name: &str, key: &Path) -> TestResult {
    let mut text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    text += &format!(
        "\n[[user]]\nname = {name:?}\nkeys = [{:?}]\nallow = {ALL_RIGHTS}\n",
        public(key)?
    );
    setup.write_config(&text)
}

/// An agent of the test's own, ended when dropped.
struct Agent(std::process::Child, PathBuf);

impl Agent {
    fn start(socket: PathBuf) -> Result<Self, Box<dyn std::error::Error>> {
        let child = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| {
                format!("run ssh-agent (Debian: apt-get install openssh-client): {error}")
            })?;
        let agent = Self(child, socket);
        while std::os::unix::net::UnixStream::connect(&agent.1).is_err() {
            support::pause();
        }
        Ok(agent)
    }

    fn run(&self, words: &[&std::ffi::OsStr]) -> TestResult {
        let output = Command::new("ssh-add").args(words).env("SSH_AUTH_SOCK", &self.1).output()?;
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into())
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_kind_of_key_logs_in_by_file_and_by_agent() -> TestResult {
    let setup = Setup::new()?;
    let kinds = ["ed25519", "p256", "p384"];
    for kind in kinds {
        make_key(&setup.path(&format!("k-{kind}")), kind, "")?;
        add_user(&setup, kind, &setup.path(&format!("k-{kind}")))?;
    }
    let daemon = setup.start()?;
    let agent = Agent::start(daemon.path("agent"))?;
    for kind in kinds {
        let key = daemon.path(&format!("k-{kind}"));
        let ran = daemon.ftc_tls().env("FTC_IDENTITY", &key).ok(["-v", "ls"])?;
        assert!(ran.err.contains(&format!("as {kind}")), "{}", ran.err);
        agent.run(&["-D".as_ref()])?;
        agent.run(&["-q".as_ref(), key.as_os_str()])?;
        let by_agent = daemon.ftc_tls().env_remove("FTC_IDENTITY").env("SSH_AUTH_SOCK", &agent.1);
        let ran = by_agent.ok(["-v", "ls"])?;
        assert!(
            ran.err.contains("agent") && ran.err.contains(&format!("as {kind}")),
            "{}",
            ran.err
        );
    }
    // Several keys: those that are not known are passed over.
    make_key(&daemon.path("stranger"), "ed25519", "")?;
    agent.run(&["-D".as_ref()])?;
    agent.run(&["-q".as_ref(), daemon.path("stranger").as_os_str()])?;
    agent.run(&["-q".as_ref(), daemon.path("k-p256").as_os_str()])?;
    let ran = daemon
        .ftc_tls()
        .env_remove("FTC_IDENTITY")
        .env("SSH_AUTH_SOCK", &agent.1)
        .ok(["-v", "ls"])?;
    assert!(ran.err.contains("as p256"), "{}", ran.err);
    Ok(())
}

/// A-01: one constant answer.
#[test]
fn an_unknown_key_learns_its_fingerprint_and_nothing_else() -> TestResult {
    let daemon = Daemon::start()?;
    make_key(&daemon.path("stranger"), "ed25519", "")?;
    let ran = daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("stranger")).run(["ls"])?;
    assert_eq!(ran.code, Some(4), "{}", ran.err);
    assert!(ran.err.contains("AUTH") && ran.err.contains("SHA256:"), "{}", ran.err);
    let line = public(&daemon.path("stranger"))?;
    let line = line.rsplit_once(' ').map_or(line.as_str(), |(line, _comment)| line);
    assert!(
        ran.err.contains(&format!(
            "hint: ask the administrator to add this line to your keys in ftd.toml: {line}"
        )),
        "{}",
        ran.err
    );
    assert!(!daemon.path("known_hosts").exists(), "a server that refused us is not remembered");
    daemon.wait_for_log("refused: not known")?;
    Ok(())
}

/// A server that turns us away is asked once and told of once, not for each file of a tree: else the
/// user would be flooded, and the server keep out who knocks so often.
#[test]
fn a_server_that_turns_us_away_is_asked_and_told_of_once() -> TestResult {
    let daemon = Daemon::start()?;
    make_key(&daemon.path("stranger"), "ed25519", "")?;
    std::fs::create_dir(daemon.path("tree"))?;
    for name in 0..50 {
        std::fs::write(daemon.path("tree").join(name.to_string()), "x")?;
    }
    std::fs::File::create(daemon.path("large"))?.set_len(80 << 20)?; // One that could go on.
    let lines: [&[&str]; 7] = [
        &["put", "-r", "tree"],
        &["put", "large"],
        &["put", "-z", "large"],
        &["get", "-r", ":tree", ":other", "tree"],
        &["verify", "-r", "tree"],
        &["rm", ":a", ":b", ":c"],
        &["stat", ":a", ":b", ":c"],
    ];
    for words in lines {
        let ran = daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("stranger")).run(words)?;
        assert_eq!(ran.code, Some(4), "{words:?}: {}", ran.err);
        let told = ran.err.lines().filter(|line| line.starts_with("ftc: ")).count();
        let hints = ran.err.lines().filter(|line| line.starts_with("hint: ")).count();
        assert_eq!((told, hints), (1, 1), "{words:?}: {}", ran.err);
    }
    assert!(daemon.log().matches("refused: not known").count() <= lines.len(), "{}", daemon.log());
    Ok(())
}

#[test]
fn no_key_at_all_says_how_to_make_one() -> TestResult {
    let daemon = Daemon::start()?;
    let ran = daemon.ftc_tls().env_remove("FTC_IDENTITY").run(["ls"])?;
    assert_eq!(ran.code, Some(4));
    assert!(ran.err.contains("ssh-keygen -t ed25519"), "{}", ran.err);
    // A-13: an agent that is gone is named, when it might have had the key.
    let gone = daemon.ftc_tls().env_remove("FTC_IDENTITY").env("SSH_AUTH_SOCK", "/gone/agent");
    let ran = gone.run(["ls"])?;
    assert_eq!(ran.code, Some(4));
    assert!(ran.err.contains("/gone/agent"), "{}", ran.err);
    Ok(())
}

/// A-13: an agent that lists a key and will not sign with it is named, and no other key stands in for it.
#[test]
fn an_agent_that_refuses_to_sign_is_named() -> TestResult {
    let daemon = Daemon::start()?;
    let agent = Agent::start(daemon.path("agent"))?;
    // To be confirmed, and there is nobody who could: no terminal, no program that asks.
    agent.run(&["-q".as_ref(), "-c".as_ref(), daemon.path("key").as_os_str()])?;
    let ran =
        daemon.ftc_tls().env_remove("FTC_IDENTITY").env("SSH_AUTH_SOCK", &agent.1).run(["ls"])?;
    assert_eq!(ran.code, Some(4), "{}", ran.err);
    assert!(ran.err.contains("the SSH agent refused to sign"), "{}", ran.err);
    Ok(())
}

/// L-12: a private key that others can read is refused, and no secret is said, however much else is.
#[test]
fn keys_that_cannot_be_used_each_say_why() -> TestResult {
    let daemon = Daemon::start()?;
    std::fs::write(daemon.path("noise"), "not a key")?;
    make_key(&daemon.path("rsa"), "rsa", "")?;
    std::fs::copy(daemon.path("key"), daemon.path("open"))?;
    std::fs::set_permissions(daemon.path("noise"), std::fs::Permissions::from_mode(0o600))?;
    std::fs::set_permissions(daemon.path("open"), std::fs::Permissions::from_mode(0o644))?;
    for (name, why) in [
        ("missing", "no such file"),
        ("noise", "no OpenSSH private key"),
        ("open", "chmod 600"),
        ("key.pub", "this is a public key"),
        ("rsa", "not supported; make one with: ssh-keygen -t ed25519"),
    ] {
        let ran = daemon.ftc_tls().env("FTC_IDENTITY", daemon.path(name)).run(["ls"])?;
        assert_eq!(ran.code, Some(4), "{name}: {}", ran.err);
        assert!(ran.err.contains(why), "{name}: {}", ran.err);
        let key = std::fs::read_to_string(daemon.path("key"))?;
        let said_all = daemon.ftc_tls().env("FTC_IDENTITY", daemon.path(name)).run(["-v", "ls"])?;
        let secret = |line: &str| line.len() > 20 && said_all.err.contains(line);
        assert!(!key.lines().any(secret), "{}", said_all.err);
    }
    Ok(())
}

/// A passphrase is asked for on the terminal; without one the agent is named as the way.
#[test]
fn a_passphrase_is_asked_for_on_a_terminal() -> TestResult {
    let setup = Setup::new()?;
    make_key(&setup.path("locked"), "ed25519", "open sesame")?;
    add_user(&setup, "locked", &setup.path("locked"))?;
    let daemon = setup.start()?;
    let blind = daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("locked"));
    let agent = Agent::start(daemon.path("agent"))?;
    let talk = |passphrase: &str, server: &str| -> Result<_, Box<dyn std::error::Error>> {
        let mut talk = Command::new("python3");
        talk.arg("-c")
            .arg(TERMINAL)
            .arg(passphrase)
            .arg(env!("CARGO_BIN_EXE_ftc"))
            .args(["-v", "ls"]);
        talk.env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", daemon.dir.path())
            .env("FTC_IDENTITY", daemon.path("locked"))
            .env("FTC_KNOWN_HOSTS", daemon.path("known_hosts"))
            .env("FTC_SERVER", server)
            .env("FTC_ACCEPT_NEW", "1");
        Ok(talk.output().map_err(|error| format!("run python3, which this test needs: {error}"))?)
    };
    // A server that cuts, which is tried again: one question is enough.
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let server = listener.local_addr()?.to_string();
    let cuts = std::thread::spawn(move || listener.incoming().take(7).map(drop).count());
    let output = talk("open sesame", &server)?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert_eq!(text.matches("Passphrase of").count(), 1, "{text}");
    assert_eq!(cuts.join().map_err(|_| "panicked")?, 7);
    for (passphrase, code) in [("open sesame", 0), ("sesame open", 4)] {
        let output = talk(passphrase, &daemon.address)?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains("Passphrase of") && !text.contains(passphrase), "{text}");
        assert_eq!(text.contains("as locked"), code == 0, "{text}");
        assert_eq!(text.contains("passphrase is wrong"), code != 0, "{text}");
        let asked = if code == 0 { 1 } else { 3 };
        assert_eq!(text.matches("Passphrase of").count(), asked, "{text}");
    }
    // The agent has the key: nobody is asked.
    let script = daemon.path("askpass");
    std::fs::write(&script, "#!/bin/sh\necho open sesame\n")?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700))?;
    let added = Command::new("ssh-add")
        .arg(daemon.path("locked"))
        .env("SSH_AUTH_SOCK", &agent.1)
        .env("SSH_ASKPASS", &script)
        .env("SSH_ASKPASS_REQUIRE", "force")
        .output()?;
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    blind.env("SSH_AUTH_SOCK", &agent.1).ok(["ls"])?;
    Ok(())
}

/// Runs a program on a terminal of its own, answers the passphrase prompt, prints all that it showed.
const TERMINAL: &str = r#"
import os, pty, sys, termios, time
passphrase, command = sys.argv[1], sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    os.execv(command[0], command)
shown, answered = b"", 0
while True:
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        break
    if not piece:
        break
    shown += piece
    if shown.count(b"Passphrase of") > answered and shown.rstrip().endswith(b":"):
        while termios.tcgetattr(terminal)[3] & termios.ECHO:
            time.sleep(0.001)
        os.write(terminal, passphrase.encode() + b"\n")
        answered += 1
print(shown.decode(errors="replace"))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

/// A-03, A-04: another server than the one that is pinned is told nothing.
#[test]
fn a_server_is_trusted_once_and_then_pinned() -> TestResult {
    let daemon = Daemon::start()?;
    let shown = String::from_utf8(Setup::ftd_of(&daemon, &["fingerprint"])?.stdout)?;
    let fingerprint = shown.lines().nth(1).ok_or("no fingerprint")?.to_owned();
    let plain = || daemon.ftc().env("FTC_SERVER", &daemon.address);

    let unknown = plain().run(["ls"])?;
    assert_eq!(unknown.code, Some(4));
    let hint = format!("--fingerprint {fingerprint}");
    assert!(unknown.err.contains("not known") && unknown.err.contains(&hint), "{}", unknown.err);
    assert!(!daemon.path("known_hosts").exists());
    daemon.wait_for_log("the client does not trust our host key, or not yet")?;

    let wrong = plain().run([
        "--fingerprint",
        "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "ls",
    ])?;
    assert_eq!(wrong.code, Some(4), "{}", wrong.err);
    assert!(!daemon.path("known_hosts").exists());

    plain().ok(["--fingerprint", &fingerprint, "ls"])?;
    plain().ok(["ls"])?;
    assert_eq!(std::fs::read_to_string(daemon.path("known_hosts"))?.lines().count(), 1);

    // Another key is pinned: a hard stop before anything is sent, also with --accept-new.
    make_key(&daemon.path("other"), "ed25519", "")?;
    std::fs::write(
        daemon.path("known_hosts"),
        format!("{} {}\n", daemon.address, public(&daemon.path("other"))?),
    )?;
    for words in [&["ls"][..], &["--accept-new", "ls"]] {
        let changed = plain().run(words)?;
        assert_eq!(changed.code, Some(4));
        assert!(changed.err.contains("HAS CHANGED"), "{}", changed.err);
        assert_eq!(changed.err.matches("SHA256:").count(), 2, "both fingerprints: {}", changed.err);
    }
    // Whoever vouches for the new key no longer trusts the old one.
    let vouched = plain().ok(["--fingerprint", &fingerprint, "ls"])?;
    assert!(vouched.err.contains("no longer") && vouched.err.contains(&fingerprint), "{vouched:?}");
    let known = std::fs::read_to_string(daemon.path("known_hosts"))?;
    assert!(!known.contains(&public(&daemon.path("other"))?) && known.lines().count() == 1);
    assert_eq!(plain().ok(["ls"])?.err, "");
    std::fs::write(daemon.path("known_hosts"), "broken line\n")?;
    let broken = plain().run(["ls"])?;
    assert_eq!(broken.code, Some(2));
    assert!(broken.err.contains("known_hosts:1"), "{}", broken.err);
    Ok(())
}

/// A removed key ends its sessions at once, also in the middle of a transfer; others go on.
#[test]
fn a_removed_key_is_out_after_a_reload() -> TestResult {
    let setup = Setup::new()?;
    make_key(&setup.path("bob"), "ed25519", "")?;
    add_user(&setup, "bob", &setup.path("bob"))?;
    let daemon = setup.start()?;
    let bob = || daemon.ftc_tls().env("FTC_IDENTITY", daemon.path("bob"));
    bob().ok(["ls"])?;
    let mut upload = {
        let mut words = Command::new(env!("CARGO_BIN_EXE_ftc"));
        words
            .args(["put", "-", ":slow"])
            .env_clear()
            .env("HOME", daemon.dir.path())
            .env("FTC_IDENTITY", daemon.path("bob"))
            .env("FTC_KNOWN_HOSTS", daemon.path("known_hosts"))
            .env("FTC_SERVER", &daemon.address)
            .env("FTC_ACCEPT_NEW", "1")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        words.spawn()?
    };
    let mut pipe = upload.stdin.take().ok_or("no stdin")?;
    std::io::Write::write_all(&mut pipe, &vec![1; 3 << 20])?;
    while std::fs::read_dir(daemon.path("root/.ftd-stage"))?.count() == 0 {
        support::pause();
    }
    let text = std::fs::read_to_string(daemon.path("ftd.toml"))?;
    let without = text.split("\n[[user]]\nname = \"bob\"").next().unwrap_or_default();
    std::fs::write(daemon.path("ftd.toml"), without)?;
    let started = std::time::Instant::now();
    daemon.signal(Signal::SIGHUP)?;
    daemon.wait_for_log("configuration reloaded")?;
    daemon.wait_for_log("no longer known")?;
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
    daemon.assert_nothing_staged()?;
    drop(pipe);
    assert_ne!(upload.wait()?.code(), Some(0));
    assert_eq!(bob().run(["ls"])?.code, Some(4));
    daemon.ftc_tls().ok(["ls"])?;
    assert!(!daemon.path("root/bob/slow").exists());
    Ok(())
}

#[test]
fn an_account_that_is_not_listed_is_refused_on_the_unix_socket() -> TestResult {
    let setup = Setup::new()?;
    let text = std::fs::read_to_string(setup.path("ftd.toml"))?;
    let uid = nix::unistd::geteuid().as_raw();
    setup.write_config(&text.replace(&format!("unix = [\"{uid}\"]"), "unix = [\"4242\"]"))?;
    let daemon = setup.start()?;
    let ran = daemon.ftc_unix().run(["ls"])?;
    assert_eq!(ran.code, Some(4));
    assert!(ran.err.contains(&format!("uid {uid}")), "{}", ran.err);
    Ok(())
}

impl Setup {
    fn ftd_of(
        daemon: &Daemon,
        words: &[&str],
    ) -> Result<std::process::Output, Box<dyn std::error::Error>> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftd"));
        Ok(command.args(words).arg("--config").arg(daemon.path("ftd.toml")).output()?)
    }
}
