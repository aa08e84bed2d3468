//! From the command line to a daemon that serves: everything that must happen in order.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{AccessFlags, Gid, Uid, faccessat, geteuid, setgroups, setresgid, setresuid};

use super::cli::{Cli, Command};
use super::journal::kind;
use super::settings::{self, ConfigFile, Loaded};
use super::units::Units;
use super::{lifecycle, logging, sandbox, sockets};
use crate::config::{SandboxMode, Settings};
use crate::fsroot::{Options, StagingPlace, Stale, Tree};
use crate::identity::{
    PrivateKey, fingerprint, load_credential_key, load_host_key, load_or_create_host_key,
    public_line, server_config,
};
use crate::transfer::Files;

/// Something in the way of a start; the text is complete.
struct Failure {
    code: u8,
    text: String,
}

/// The configuration is wrong (sysexits.h, `EX_CONFIG`).
const EX_CONFIG: u8 = 78;

/// Descriptors that the daemon needs besides those of its connections.
const DESCRIPTORS_SPARE: u64 = 64;
/// Descriptors for requests that wait for their peers: at least, so that one user has enough for the uploads of
/// a client with sixteen connections; and at most however many there are, because each costs memory, too.
const FILES_LEAST: u64 = 512;
const FILES_MOST: u64 = 4096;

impl Failure {
    fn config(error: impl std::fmt::Display) -> Self {
        Self { code: EX_CONFIG, text: error.to_string() }
    }

    fn other(error: impl std::fmt::Display) -> Self {
        Self { code: 1, text: error.to_string() }
    }
}

/// Does what the command line says.
pub(super) fn run(cli: Cli) -> ExitCode {
    let file = ConfigFile::new(cli.config);
    let outcome = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(&file),
        Command::Check { dump } => check(&file, dump),
        Command::Fingerprint => show_fingerprint(&file),
        Command::Units { apply } => show_units(&file, apply),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.text.lines() {
                eprintln!("ftd: {line}");
            }
            ExitCode::from(failure.code)
        }
    }
}

/// The verdict of a start, the sandbox's included, without its side effects. Whether an address is free
/// is left out: the daemon that a check is for may be the one that has it.
fn check(file: &ConfigFile, dump: bool) -> Result<(), Failure> {
    let Loaded { settings, key_directories } = settings::load(file).map_err(Failure::config)?;
    become_owner(&settings.root)?;
    let top =
        Tree::check(&settings.root).map_err(|error| Failure::config(format!("root {error}")))?;
    if credential_key()?.is_none() {
        match load_host_key(&settings.host_key) {
            Err(error) if !error.is_missing() => return Err(Failure::config(error)),
            Err(_) => check_key_place(&settings.host_key)?,
            Ok(_) => {}
        }
    }
    descriptors(&settings)?;
    // Put up for good, in a process that ends right away.
    confine(&settings, file, &key_directories, top.as_fd())?;
    if let Some(told) = no_reload(&file.confined(key_directories)) {
        eprintln!("ftd: warning: {told}");
    }
    if dump {
        print(&settings.to_toml(&public_line))
    } else {
        let users = settings.users.len();
        let plural = if users == 1 { "" } else { "s" };
        print(&format!("{file}: good; {users} user{plural}\n"))
    }
}

/// Why no reload would take what a start has taken: what it looks up may be behind the sandbox by then.
fn no_reload(file: &ConfigFile) -> Option<String> {
    let error = settings::load(file).err()?;
    Some(format!("a start takes this configuration, and each reload will refuse it: {error}"))
}

/// Root asks for the account that will serve, which is the one that has the tree: what it may not do a
/// start could not do either, and a host key that is made must be its own.
fn become_owner(root: &Path) -> Result<(), Failure> {
    let Some((user, group)) = Tree::owner(root) else { return Ok(()) }; // What is wrong comes next.
    if !geteuid().is_root() || user == 0 {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    setgroups(&[])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(user, user, user))
        .map_err(|error| Failure::other(format!("become the owner of {}: {error}", root.display())))
}

/// The host key is still to be made: that must be possible, if its directory is there. The service
/// manager may be the one that makes the directory.
fn check_key_place(key: &Path) -> Result<(), Failure> {
    let directory = key.parent().filter(|directory| !directory.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let needed = AccessFlags::W_OK | AccessFlags::X_OK;
    match faccessat(AT_FDCWD, directory, needed, AtFlags::AT_EACCESS) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(Failure::config(format!(
            "host key {}: cannot be made there: {}",
            key.display(),
            error.desc().to_lowercase()
        ))),
    }
}

fn show_fingerprint(file: &ConfigFile) -> Result<(), Failure> {
    let settings = settings::load(file).map_err(Failure::config)?.settings;
    become_owner(&settings.root)?;
    let (key, _) = host_key(&settings)?;
    print(&format!("{}\n{}\n", public_line(key.public()), fingerprint(key.public())))
}

/// The host key, made if there is none; and whether it was made.
fn host_key(settings: &Settings) -> Result<(PrivateKey, bool), Failure> {
    match credential_key()? {
        Some(key) => Ok((key, false)),
        None => load_or_create_host_key(&settings.host_key).map_err(Failure::config),
    }
}

/// The credential `host-key`, if the unit has one; the configuration's `host-key` counts for nothing then.
///
/// Source: systemd.exec(5), `LoadCredential=`.
fn credential_key() -> Result<Option<PrivateKey>, Failure> {
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
    match load_credential_key(&PathBuf::from(directory).join("host-key")) {
        Err(error) if error.is_missing() => Ok(None),
        loaded => loaded.map(Some).map_err(Failure::config),
    }
}

fn show_units(file: &ConfigFile, apply: bool) -> Result<(), Failure> {
    let settings = settings::load(file).map_err(Failure::config)?.settings;
    let units = Units::new(&settings, file.path());
    if apply { units.apply().map_err(Failure::other) } else { print(&units.show()) }
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::other)
}

/// Serves until a signal. The order matters: what needs paths, ports and accounts comes before the
/// sandbox, and the sandbox before the first thread.
fn serve(file: &ConfigFile) -> Result<(), Failure> {
    let Loaded { settings, key_directories } = settings::load(file).map_err(Failure::config)?;
    logging::start();
    umask(Mode::from_bits_truncate(settings.umask));
    let files = descriptors(&settings)?;
    let (host_key, created) = host_key(&settings)?;
    if created {
        tracing::info!(name: kind::HOST_KEY, path = %settings.host_key.display(), "made a host key");
    }
    tracing::info!(fingerprint = fingerprint(host_key.public()), "host key");
    let tls = server_config(host_key).map_err(Failure::other)?;
    let bound = sockets::open(&settings.listen).map_err(Failure::other)?;
    let (tree, stale) = open_tree(&settings)?;
    let report = confine(&settings, file, &key_directories, tree.descriptor())?;
    let file = file.confined(key_directories);
    if let Some(told) = no_reload(&file) {
        tracing::warn!("{told}");
    }

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("ftd")
        // Exactly one for each permit to do file work; a job waits for its thread and starts no other.
        .max_blocking_threads(settings.limits.file_workers)
        .build()
        .map_err(Failure::other)?;
    if settings.sandbox == SandboxMode::Require {
        // The threads of the runtime must be behind the wall too.
        let tested = runtime.block_on(runtime.spawn_blocking(sandbox::self_test));
        tested.map_err(Failure::other)?.map_err(Failure::other)?;
    }
    let tree = Arc::new(tree);
    let sweeper = Arc::clone(&tree);
    // On a thread of its own: however much there is, those for file work are free.
    aside("ftd-sweep", move || {
        let swept = sweeper.sweep(&stale);
        if swept > 0 {
            tracing::info!(swept, "removed what unfinished transfers had left");
        }
    });
    let served = lifecycle::run(tree, bound, tls, file, settings, files, report);
    let served = runtime.block_on(served);
    // Whoever was not done within the drain time is cut off; what can be continued is kept, and the rest
    // goes with the next start.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    served.map_err(Failure::other)
}

/// Runs what may take long, and what nobody waits for, on a thread of its own.
pub(super) fn aside(name: &str, job: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(job) {
        tracing::error!("cannot start the thread {name}: {error}");
    }
}

/// Opens the tree; what is stale in it is removed when the daemon serves already.
fn open_tree(settings: &Settings) -> Result<(Tree, Stale), Failure> {
    let options = Options {
        staging: StagingPlace::Directory,
        umask: settings.umask,
        durability: settings.durability,
    };
    let tree = Tree::open(&settings.root, options)
        .map_err(|error| Failure::config(format!("root {error}")))?;
    if let Some(caution) = tree.caution() {
        tracing::warn!("root {}: {caution}", settings.root.display());
    }
    let stale = tree.recover(settings.limits.resume_expiry).map_err(Failure::other)?;
    Ok((tree, stale))
}

fn confine(
    settings: &Settings,
    file: &ConfigFile,
    key_directories: &BTreeSet<PathBuf>,
    top: BorrowedFd<'_>,
) -> Result<String, Failure> {
    let require = settings.sandbox == SandboxMode::Require;
    let plan = sandbox::Plan {
        root: top,
        readable: std::iter::once(file.directory())
            .chain(key_directories.iter().map(PathBuf::as_path))
            .collect(),
        require,
    };
    let report = sandbox::apply(&plan).map_err(Failure::other)?;
    match (require, sandbox::self_test()) {
        (_, Ok(())) => tracing::info!("sandbox: {report}"),
        (true, Err(error)) => return Err(Failure::other(error)),
        (false, Err(error)) if geteuid().is_root() => {
            let text = format!("as root, ftd serves only inside its sandbox: {error}");
            return Err(Failure::other(text));
        }
        (false, Err(error)) => tracing::warn!("sandbox: {report}; {error}"),
    }
    if geteuid().is_root() {
        tracing::warn!(
            "running as root; give ftd an account of its own, as the packaged unit does"
        );
    }
    Ok(report.to_string())
}

/// Raises the limit on descriptors as far as allowed and says so when the configuration asks for more; gives
/// how many of them requests may hold that wait for their peers.
fn descriptors(settings: &Settings) -> Result<usize, Failure> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Failure::other)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(Failure::other)?;
    let needed = settings.limits.connections as u64
        + settings.limits.strangers as u64
        + u64::from(Files::OF_A_THREAD) * settings.limits.file_workers as u64
        + u64::from(Files::OF_ONE_VISIT)
        + DESCRIPTORS_SPARE
        + FILES_LEAST;
    if hard < needed {
        return Err(Failure::config(format!(
            "limits.connections, limits.strangers and limits.file-workers need {needed} open files, and the limit is {hard}; \
             raise it (LimitNOFILE= in the unit, ulimit -n in a shell) or lower them"
        )));
    }
    let files = (hard - needed + FILES_LEAST).min(FILES_MOST);
    Ok(usize::try_from(files).unwrap_or(usize::MAX))
}
