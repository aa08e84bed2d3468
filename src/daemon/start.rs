//! From the command line to a daemon that serves: everything that must happen in order.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

use super::cli::{Cli, Command};
use super::listener::Bound;
use super::settings::{self, ConfigFile};
use super::{lifecycle, logging, sandbox};
use crate::config::{SandboxMode, Settings};
use crate::fsroot::{Options, StagingPlace, Stale, Tree};
use crate::identity::{
    fingerprint, load_host_key, load_or_create_host_key, public_line, server_config,
};

/// Something in the way of a start; the text is complete.
struct Failure {
    code: u8,
    text: String,
}

/// The configuration is wrong (sysexits.h, `EX_CONFIG`).
const EX_CONFIG: u8 = 78;

/// Descriptors that the daemon needs besides those of its connections.
const DESCRIPTORS_SPARE: u64 = 64;

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
    let file = ConfigFile(cli.config);
    let outcome = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(&file),
        Command::Check { dump } => check(&file, dump),
        Command::Fingerprint => show_fingerprint(&file),
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

/// The verdict of a start, without its side effects. Whether an address is free is left out: the
/// daemon that a check is for may be the one that has it.
fn check(file: &ConfigFile, dump: bool) -> Result<(), Failure> {
    let settings = settings::load(file).map_err(Failure::config)?;
    Tree::check(&settings.root).map_err(|error| Failure::config(format!("root {error}")))?;
    match load_host_key(&settings.host_key) {
        Err(error) if !error.is_missing() => return Err(Failure::config(error)),
        _ => {}
    }
    descriptors(&settings)?;
    if dump {
        print(&settings.to_toml(&public_line))
    } else {
        let users = settings.users.len();
        let plural = if users == 1 { "" } else { "s" };
        print(&format!("{}: good; {users} user{plural}\n", file.0.display()))
    }
}

fn show_fingerprint(file: &ConfigFile) -> Result<(), Failure> {
    let settings = settings::load(file).map_err(Failure::config)?;
    let (key, _) = load_or_create_host_key(&settings.host_key).map_err(Failure::config)?;
    print(&format!("{}\n{}\n", public_line(key.public()), fingerprint(key.public())))
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::other)
}

/// Serves until a signal. The order matters: what needs paths, ports and accounts comes before the
/// sandbox, and the sandbox before the first thread.
fn serve(file: &ConfigFile) -> Result<(), Failure> {
    let settings = settings::load(file).map_err(Failure::config)?;
    logging::start();
    umask(Mode::from_bits_truncate(settings.umask));
    descriptors(&settings)?;
    let (host_key, created) =
        load_or_create_host_key(&settings.host_key).map_err(Failure::config)?;
    if created {
        tracing::info!(path = %settings.host_key.display(), "made a host key");
    }
    tracing::info!(fingerprint = fingerprint(host_key.public()), "host key");
    let tls = server_config(host_key).map_err(Failure::other)?;
    let bound: Vec<_> = settings
        .listen
        .iter()
        .map(Bound::bind)
        .collect::<Result<_, _>>()
        .map_err(Failure::other)?;
    let (tree, stale) = open_tree(&settings)?;
    let report = confine(&settings, file, &tree)?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("ftd")
        // For file work alone; what takes long besides has threads of its own.
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
    aside("ftd-sweep", move || {
        let swept = sweeper.sweep(&stale);
        if swept > 0 {
            tracing::info!(swept, "removed what unfinished transfers had left");
        }
    });
    let served = lifecycle::run(tree, bound, tls, file.clone(), settings, report);
    let served = runtime.block_on(served);
    // Whoever was not done within the drain time is cut off; what can be continued is kept, and the rest goes with the next start.
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
    let stale = tree.recover(settings.limits.resume_expiry).map_err(Failure::other)?;
    Ok((tree, stale))
}

fn confine(settings: &Settings, file: &ConfigFile, tree: &Tree) -> Result<String, Failure> {
    let require = settings.sandbox == SandboxMode::Require;
    let plan = sandbox::Plan {
        root: tree.descriptor(),
        config_directory: Some(file.directory()),
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

/// Raises the limit on descriptors as far as allowed and says so when the configuration asks for more.
fn descriptors(settings: &Settings) -> Result<(), Failure> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Failure::other)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(Failure::other)?;
    let needed = settings.limits.connections as u64
        + 4 * settings.limits.file_workers as u64
        + DESCRIPTORS_SPARE;
    if hard < needed {
        return Err(Failure::config(format!(
            "limits.connections and limits.file-workers need {needed} open files, and the limit is {hard}; \
             raise it (LimitNOFILE= in the unit, ulimit -n in a shell) or lower them"
        )));
    }
    Ok(())
}
