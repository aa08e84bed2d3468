//! A small vocabulary for tests through the front door: real binaries, real sockets, own directories.
#![allow(dead_code, reason = "each test file uses its own part of the vocabulary")]
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

pub mod evil;
pub mod proxy;
pub mod raw;
pub mod terminal;
pub mod tls;

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tempfile::TempDir;

pub type TestResult = Result<(), Box<dyn std::error::Error>>;

/// How long anything may take that ought to happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Every right there is.
pub const ALL_RIGHTS: &str = r#"["get", "list", "create", "replace", "remove", "rename", "mkdir"]"#;

/// A daemon of its own, with one user, alice, by key and by account; killed when dropped.
pub struct Daemon {
    pub dir: TempDir,
    child: Child,
    log: Arc<Log>,
    /// The TCP address it chose.
    pub address: String,
}

/// What the daemon says, as it says it.
#[derive(Default)]
struct Log {
    text: Mutex<String>,
    changed: Condvar,
}

/// A directory with a root, keys and a configuration, not yet served.
pub struct Setup {
    pub dir: TempDir,
}

impl Setup {
    pub fn new() -> Result<Self, Box<dyn std::error::Error>> {
        Self::with(ALL_RIGHTS, "")
    }

    /// `extra` stands before `[[user]]`, so it may hold top-level keys and `[limits]`.
    pub fn with(rights: &str, extra: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let setup = Self { dir: tempfile::Builder::new().prefix("ftd-test-").tempdir()? };
        std::fs::create_dir(setup.path("root"))?;
        make_key(&setup.path("key"), "ed25519", "")?;
        setup.configure(rights, extra)?;
        Ok(setup)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn configure(&self, rights: &str, extra: &str) -> TestResult {
        let key = std::fs::read_to_string(self.path("key.pub"))?;
        let uid = nix::unistd::geteuid();
        let dir = self.dir.path().display();
        let text = format!(
            "root = \"{dir}/root\"\nlisten = [\"127.0.0.1:0\", \"unix:{dir}/sock\"]\nhost-key = \"{dir}/host_key\"\n\
             {extra}\n[[user]]\nname = \"alice\"\nkeys = [\"{}\"]\nunix = [\"{uid}\"]\nallow = {rights}\n",
            key.trim()
        );
        self.write_config(&text)
    }

    pub fn write_config(&self, text: &str) -> TestResult {
        std::fs::write(self.path("ftd.toml"), text)?;
        std::fs::set_permissions(self.path("ftd.toml"), std::fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    /// One more user, with a key of the same name and these lines.
    pub fn add_user(&self, name: &str, lines: &str) -> TestResult {
        make_key(&self.path(name), "ed25519", "")?;
        let key = std::fs::read_to_string(self.path(&format!("{name}.pub")))?;
        let mut text = std::fs::read_to_string(self.path("ftd.toml"))?;
        text += &format!(
            "\n[[user]]\nname = {name:?}\nkeys = [{:?}]\nallow = {ALL_RIGHTS}\n{lines}\n",
            key.trim()
        );
        self.write_config(&text)
    }

    pub fn ftd(&self, words: &[&str]) -> Result<Output, Box<dyn std::error::Error>> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftd"));
        command.args(words).arg("--config").arg(self.path("ftd.toml")).stdin(Stdio::null());
        Ok(command.output()?)
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub fn start(self) -> Result<Daemon, Box<dyn std::error::Error>> {
        self.start_with(&[])
    }

    pub fn start_with(self, env: &[(&str, &OsStr)]) -> Result<Daemon, Box<dyn std::error::Error>> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftd"));
        command.stdin(Stdio::null());
        self.start_command(command, env)
    }

    /// Starts the daemon with two sockets as the service manager would hand them over.
    pub fn start_with_sockets(
        self,
        first: OwnedFd,
        second: OwnedFd,
        env: &[(&str, &OsStr)],
    ) -> Result<Daemon, Box<dyn std::error::Error>> {
        let pass = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; \
                    LISTEN_FDS=2 LISTEN_PID=$$ exec \"$0\" \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", pass, env!("CARGO_BIN_EXE_ftd")]).stdin(first).stdout(second);
        self.start_command(command, env)
    }

    /// Starts the daemon under strace, which writes to `trace` here.
    pub fn start_traced(self, words: &[&str]) -> Result<Daemon, Box<dyn std::error::Error>> {
        let mut command = self.traced(words);
        command.stdin(Stdio::null());
        self.start_command(command, &[])
    }

    /// `ftd` under strace, to be completed.
    pub fn traced(&self, words: &[&str]) -> Command {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-o"])
            .arg(self.path("trace"))
            .args(words)
            .arg(env!("CARGO_BIN_EXE_ftd"));
        command
    }

    pub fn start_command(
        self,
        mut command: Command,
        env: &[(&str, &OsStr)],
    ) -> Result<Daemon, Box<dyn std::error::Error>> {
        command
            .arg("serve")
            .arg("--config")
            .arg(self.path("ftd.toml"))
            .envs(env.iter().copied())
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped());
        if env.is_empty() {
            command.env_remove("NOTIFY_SOCKET");
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .spawn()
            .map_err(|error| format!("run {program} (strace: apt-get install strace): {error}"))?;
        let stderr = child.stderr.take().ok_or("no stderr")?;
        let log = Arc::new(Log::default());
        let sink = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Ok(mut text) = sink.text.lock() {
                    text.push_str(&line);
                    text.push('\n');
                }
                sink.changed.notify_all();
            }
            if let Ok(mut text) = sink.text.lock() {
                text.push_str("[end of log]\n");
            }
            sink.changed.notify_all();
        });
        let mut daemon = Daemon { dir: self.dir, child, log, address: String::new() };
        let text = daemon.wait_for_log(" ready\n")?;
        let mut addresses = text.split("address=\"").filter_map(|rest| rest.split('"').next());
        let tcp = addresses.find(|address| address.starts_with("127."));
        daemon.address.push_str(tcp.ok_or("no address in the log")?);
        Ok(daemon)
    }
}

impl Daemon {
    pub fn start() -> Result<Self, Box<dyn std::error::Error>> {
        Setup::new()?.start()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path in alice's home, from outside.
    pub fn stored(&self, name: &str) -> PathBuf {
        self.path("root/alice").join(name)
    }

    /// The daemon's process, which may be a child of strace.
    pub fn pid(&self) -> nix::unistd::Pid {
        let own = self.child.id();
        let children =
            std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let pid = children.split_whitespace().next().and_then(|child| child.parse().ok());
        nix::unistd::Pid::from_raw(pid.unwrap_or_else(|| i32::try_from(own).unwrap_or(0)))
    }

    /// The process that was started: the daemon, or strace.
    pub fn child_id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) -> TestResult {
        Ok(nix::sys::signal::kill(self.pid(), signal)?)
    }

    pub fn log(&self) -> String {
        self.log.text.lock().map(|text| text.clone()).unwrap_or_default()
    }

    /// Waits until the log contains `what` and gives all of it.
    pub fn wait_for_log(&self, what: &str) -> Result<String, Box<dyn std::error::Error>> {
        self.wait_for_log_times(what, 1)
    }

    pub fn wait_for_log_times(
        &self,
        what: &str,
        times: usize,
    ) -> Result<String, Box<dyn std::error::Error>> {
        let text = self.log.text.lock().map_err(|_| "log poisoned")?;
        let missing = |text: &mut String| {
            text.matches(what).count() < times && !text.contains("[end of log]")
        };
        let (text, _) = self
            .log
            .changed
            .wait_timeout_while(text, PATIENCE, missing)
            .map_err(|_| "log poisoned")?;
        if text.matches(what).count() < times {
            return Err(format!("the log does not say {what:?} {times} times:\n{text}").into());
        }
        Ok(text.clone())
    }

    /// Waits for the daemon's end and gives its exit code.
    pub fn wait(&mut self) -> Result<Option<i32>, Box<dyn std::error::Error>> {
        Ok(self.child.wait()?.code())
    }

    pub fn unix_server(&self) -> String {
        format!("unix:{}", self.path("sock").display())
    }

    /// `ftc` over the Unix socket.
    pub fn ftc_unix(&self) -> Ftc {
        self.ftc().env("FTC_SERVER", self.unix_server())
    }

    /// `ftc` over TLS, as alice, trusting this daemon.
    pub fn ftc_tls(&self) -> Ftc {
        self.ftc().env("FTC_SERVER", &self.address).env("FTC_ACCEPT_NEW", "1")
    }

    /// `ftc` with nothing of the caller's environment, save where a measurement of coverage is written.
    pub fn ftc(&self) -> Ftc {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftc"));
        command
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "LLVM_PROFILE_FILE"))
            .env("HOME", self.dir.path())
            .env("FTC_IDENTITY", self.path("key"))
            .env("FTC_KNOWN_HOSTS", self.path("known_hosts"))
            .env("FTC_RETRY", "0s")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ftc { command, input: None }
    }

    /// A figure of `/proc/PID/status`, in KiB.
    pub fn memory(&self, what: &str) -> Result<u64, Box<dyn std::error::Error>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
        let figure = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(figure.ok_or_else(|| format!("no {what}"))?.parse()?)
    }

    /// What its descriptors are.
    pub fn descriptors(&self) -> Result<Vec<PathBuf>, Box<dyn std::error::Error>> {
        let all = std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?;
        // One may be closed meanwhile.
        Ok(all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect())
    }

    /// How many files are staged.
    pub fn staged(&self) -> Result<usize, Box<dyn std::error::Error>> {
        Ok(std::fs::read_dir(self.path("root/.ftd-stage"))?.count())
    }

    /// Nothing staged is left.
    pub fn assert_nothing_staged(&self) -> TestResult {
        // What a request leaves is removed before its answer is sent, save where the peer was cut off.
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let staged = self.staged()?;
            if staged == 0 {
                return Ok(());
            }
            if std::time::Instant::now() > deadline {
                return Err(format!("{staged} staged files are left").into());
            }
            pause();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Of the daemon first: strace would leave it behind.
        let _ = self.signal(nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One run of `ftc`, to be completed.
pub struct Ftc {
    command: Command,
    input: Option<Vec<u8>>,
}

/// What came of it.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ftc {
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub fn stderr(mut self, to: impl Into<Stdio>) -> Self {
        self.command.stderr(to);
        self
    }

    pub fn stdin_pipe(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    pub fn spawn<S: AsRef<OsStr>>(
        mut self,
        words: impl IntoIterator<Item = S>,
    ) -> Result<Child, Box<dyn std::error::Error>> {
        Ok(self.command.args(words).spawn()?)
    }

    pub fn run<S: AsRef<OsStr>>(
        mut self,
        words: impl IntoIterator<Item = S>,
    ) -> Result<Ran, Box<dyn std::error::Error>> {
        let input = self.input.take();
        if input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let mut child = self.command.args(words).spawn()?;
        if let Some(input) = input {
            let mut stdin = child.stdin.take().ok_or("no stdin")?;
            std::thread::spawn(move || {
                let _ = stdin.write_all(&input); // The client may stop reading, which its exit code tells.
            });
        }
        let output = child.wait_with_output()?;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Ran { code: output.status.code(), out: output.stdout, err })
    }

    /// Runs and expects success.
    pub fn ok<S: AsRef<OsStr>>(
        self,
        words: impl IntoIterator<Item = S>,
    ) -> Result<Ran, Box<dyn std::error::Error>> {
        let ran = self.run(words)?;
        if ran.code == Some(0) { Ok(ran) } else { Err(format!("ftc failed: {ran:?}").into()) }
    }
}

/// Waits until `is_so`.
pub fn wait_until(
    what: &str,
    mut is_so: impl FnMut() -> Result<bool, Box<dyn std::error::Error>>,
) -> TestResult {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_so()? {
        if std::time::Instant::now() > deadline {
            return Err(format!("not within {PATIENCE:?}: {what}").into());
        }
        pause();
    }
    Ok(())
}

/// Between two looks at what nobody tells of: who only spins takes a processor from those whom he waits for.
pub fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

/// Calls again where a signal came between, which a socket with a timeout tells: signal(7). The end of a child may
/// be one, also of another test's in this process.
pub fn uninterrupted<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Waits until the checkpoint of a file in `directory` covers so much; the cut comes after it.
pub fn wait_for_checkpoint(directory: &Path, bytes: u64) -> TestResult {
    wait_until("a checkpoint", || {
        for entry in std::fs::read_dir(directory)? {
            let mark = xattr::get(entry?.path(), "user.ftd.upload").unwrap_or_default();
            let mark = String::from_utf8_lossy(&mark.unwrap_or_default()).into_owned();
            let offset = mark.split(' ').nth(1).and_then(|offset| offset.parse().ok());
            if offset.is_some_and(|offset: u64| offset >= bytes) {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// Runs `swap` again and again beside `body`, which ends both, also when an assertion ends it.
pub fn race(swap: impl Fn() + Send, body: impl FnOnce() -> TestResult) -> TestResult {
    beside(
        move |goes_on| {
            while goes_on() {
                swap();
            }
        },
        body,
    )
}

/// Runs `act` beside `body`, for as long as it is told to go on: until `body` ends, also by an assertion.
pub fn beside<T>(
    act: impl FnOnce(&dyn Fn() -> bool) + Send,
    body: impl FnOnce() -> Result<T, Box<dyn std::error::Error>>,
) -> Result<T, Box<dyn std::error::Error>> {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = || !stopped.load(Ordering::Relaxed);
        scope.spawn(move || act(&running));
        let _stop = Stop(&stopped);
        body()
    })
}

/// Two names change places, so that neither is ever free.
pub fn exchange(one: &Path, other: &Path) {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    // What is not there at the moment is exchanged the next time.
    let _ = renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE);
}

/// Makes a key pair with ssh-keygen, which these tests need.
pub fn make_key(path: &Path, kind: &str, passphrase: &str) -> TestResult {
    let (kind, bits) = match kind {
        "p256" => ("ecdsa", "256"),
        "p384" => ("ecdsa", "384"),
        "rsa" => ("rsa", "2048"),
        kind => (kind, "256"),
    };
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-b", bits, "-N", passphrase, "-C", "test", "-f"])
        .arg(path)
        .output()
        .map_err(|error| {
            format!("run ssh-keygen (Debian: apt-get install openssh-client): {error}")
        })?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into())
    }
}

/// Bytes that do not repeat soon, the same for the same seed.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    ftd::types::Sha256Digest(sha2::Sha256::digest(bytes).into()).to_string()
}

pub fn read_all(mut from: impl std::io::Read) -> Vec<u8> {
    let mut out = Vec::new();
    let _ = from.read_to_end(&mut out);
    out
}
