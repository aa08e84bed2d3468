//! The daemon's life: signals, reloads, the drain, and what systemd is told of them.

use std::convert::Infallible;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, interval_at, timeout};

use super::journal::kind;
use super::listener::{self, Bound, Gate};
use super::server::{Live, Phase, Server};
use super::settings::{self, ConfigFile};
use super::start::aside;
use super::users::Users;
use super::watchdog::Watchdog;
use super::{notify, quota};
use crate::config::{Settings, restart_needed};
use crate::fsroot::FailedFlushes;
use crate::transfer::{Pool, Store, Workers};
use crate::types::Escaped;

/// How often uploads are looked for that nobody went on with.
const EXPIRY_EVERY: Duration = Duration::from_mins(10);

/// How often flushes are looked for that have failed.
const HEALTH_EVERY: Duration = Duration::from_secs(5);

/// How long those who are cut off at the end of the drain may take to hear why.
const LAST_WORD: Duration = Duration::from_secs(2);

/// The signals that end the daemon.
struct Stop {
    stop: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            stop: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn stopped(&mut self) {
        tokio::select! {
            _ = self.stop.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits until all have ended, for `limit` or until the next signal; gives whether they have.
    async fn wait_for(&mut self, all: &mut mpsc::Receiver<Infallible>, limit: Duration) -> bool {
        tokio::select! {
            ended = timeout(limit, all.recv()) => ended.is_ok(),
            () = self.stopped() => false,
        }
    }
}

/// Serves until SIGTERM or SIGINT, then drains. A second signal ends the drain, and a third one everything. So
/// many `files` may be open for requests that wait.
pub(super) async fn run<S: Store>(
    store: Arc<S>,
    bound: Vec<Bound>,
    tls: Arc<rustls::ServerConfig>,
    file: ConfigFile,
    settings: Settings,
    files: usize,
    sandbox: String,
) -> io::Result<()> {
    let mut signals = Stop::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Caught, so that under a limit on the size of files a write fails and the daemon lives.
    let _too_large = signal(SignalKind::from_raw(nix::libc::SIGXFSZ))?;
    let limits = settings.limits.clone();
    let pool = Pool::new(limits.buffer_memory);
    let workers = Workers::new(limits.file_workers).with_files(files);
    quota::enforce(&store, &settings);
    let users = Users::new(&settings, &pool, &workers, None);
    let (live, live_seen) = watch::channel(Arc::new(Live { settings, users }));
    let (phase, phase_seen) = watch::channel(Phase::Serving);
    let (busy, mut all_done) = mpsc::channel(1);
    let (sweeper, mut expiry) =
        (Arc::clone(&store), interval_at(Instant::now() + EXPIRY_EVERY, EXPIRY_EVERY));
    let mut health = interval(HEALTH_EVERY);
    let compressed = super::door::Count::default();
    let server = Server { store, live: live_seen, phase: phase_seen, busy, compressed };
    let gate = Gate::new(tls);

    let mut watchdog = Watchdog::new(workers.clone());
    let mut listeners = JoinSet::new();
    for bound in bound {
        tracing::info!(address = bound.address(), "listening");
        listeners.spawn(listener::serve(bound, gate.clone(), server.clone(), watchdog.pulse()));
    }
    drop(server);
    tokio::spawn(watchdog.run());
    let (mut said, mut known) = (String::new(), FailedFlushes::default());
    let status = |said: &str, failed: FailedFlushes| {
        let settings = &live.borrow().settings;
        let users = settings.users.len();
        let plural = if users == 1 { "" } else { "s" };
        let health = degraded(failed, settings).map(|told| told + "; ").unwrap_or_default();
        notify::shortened(format!("serving {users} user{plural}; {health}{sandbox}{said}"))
    };
    notify::tell(&[NotifyState::Ready, NotifyState::Status(&status(&said, known))]);
    tracing::info!(name: kind::READY, "ready");

    loop {
        tokio::select! {
            () = signals.stopped() => break,
            Some(()) = hangup.recv() => {
                if let Ok(now) = NotifyState::monotonic_usec_now() {
                    notify::tell(&[NotifyState::Reloading, now]);
                }
                said = told(reload(&file, &sweeper, &live, &pool, &workers));
                let failed = sweeper.failed_flushes();
                notify::tell(&[NotifyState::Ready, NotifyState::Status(&status(&said, failed))]);
            }
            _ = health.tick() => {
                let failed = sweeper.failed_flushes();
                if failed != known {
                    known = failed;
                    if let Some(told) = degraded(failed, &live.borrow().settings) {
                        tracing::error!(name: kind::FAULT, "{told}; look at the disk, and at what was stored since");
                    }
                    notify::tell(&[NotifyState::Status(&status(&said, failed))]);
                }
            }
            _ = expiry.tick() => {
                let (store, age) = (Arc::clone(&sweeper), live.borrow().settings.limits.resume_expiry);
                aside("ftd-sweep", move || {
                    let expired = store.expire(age);
                    if expired > 0 {
                        tracing::info!(expired, "removed uploads that nobody went on with");
                    }
                    quota::count(&*store); // If any could not be, before; it may wait for the disk.
                });
            }
            Some(ended) = listeners.join_next() => {
                // An accept loop ends by itself only when it could not start.
                ended.map_err(io::Error::other)??;
            }
        }
    }

    notify::tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    let drain_timeout = live.borrow().settings.limits.drain_timeout;
    phase.send_replace(Phase::Draining);
    tracing::info!("draining");
    while listeners.join_next().await.is_some() {}
    if !signals.wait_for(&mut all_done, drain_timeout).await {
        tracing::warn!(name: kind::CUT, "stopping with transfers unfinished: nothing of them is stored");
        drop(live); // Which sends all sessions away.
        signals.wait_for(&mut all_done, LAST_WORD).await;
    }
    tracing::info!(name: kind::STOPPED, "stopped");
    Ok(())
}

/// Logs what came of a reload, and gives the words for it in the status.
fn told(reload: Result<usize, String>) -> String {
    match reload {
        Ok(users) => {
            tracing::info!(name: kind::RELOADED, users, "configuration reloaded");
            "; last reload taken".to_owned()
        }
        Err(why) => {
            tracing::error!(
                name: kind::RELOAD_REFUSED,
                "reload refused, the configuration before it stays in force: {why}"
            );
            format!("; last reload refused: {}", why.replace('\n', "; "))
        }
    }
}

/// What is said of a disk once a flush has failed: for good, because nobody knows what it has lost.
fn degraded(failed: FailedFlushes, settings: &Settings) -> Option<String> {
    let root = settings.root.as_os_str().as_bytes();
    (failed.count > 0).then(|| format!("DEGRADED: {failed} on {}", Escaped(root)))
}

/// Puts a new configuration in force, whole, or none of it. Waits for nothing that runs: signals are heard.
fn reload<S: Store>(
    file: &ConfigFile,
    store: &Arc<S>,
    live: &watch::Sender<Arc<Live>>,
    pool: &Arc<Pool>,
    workers: &Workers,
) -> Result<usize, String> {
    let before = Arc::clone(&live.borrow());
    let settings = settings::load(file).map_err(|error| error.to_string())?.settings;
    let fixed = restart_needed(&before.settings, &settings);
    if !fixed.is_empty() {
        return Err(format!("a change of {} needs a restart", fixed.join(", ")));
    }
    quota::enforce(store, &settings);
    let users = Users::new(&settings, pool, workers, Some(&before.users));
    let count = settings.users.len();
    live.send_replace(Arc::new(Live { settings, users }));
    Ok(count)
}
