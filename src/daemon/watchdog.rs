//! Whether the daemon still lives, as the service manager's watchdog asks it.
//!
//! A timer alone would go on ticking in a daemon that serves nobody. So each beat is earned: every
//! accept loop answers from the task in which it accepts, and a file thread does a piece of no work.
//! Source: `sd_notify(3)`, `WATCHDOG=1`; systemd.service(5), `WatchdogSec=`.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::journal::kind;
use super::notify;
use crate::transfer::Workers;

/// What an accept loop needs to prove that it lives.
pub(super) struct Pulse(mpsc::Receiver<oneshot::Sender<()>>);

impl Pulse {
    /// Answers for ever. To be polled by the task that is to be proved alive, beside its work.
    pub(super) async fn answer(mut self) -> Infallible {
        while let Some(call) = self.0.recv().await {
            let _ = call.send(()); // Who asked may have lost patience.
        }
        pending().await
    }
}

/// Asks all that must live.
pub(super) struct Watchdog {
    loops: Vec<mpsc::Sender<oneshot::Sender<()>>>,
    workers: Workers,
}

impl Watchdog {
    pub(super) fn new(workers: Workers) -> Self {
        Self { loops: Vec::new(), workers }
    }

    /// Has one more accept loop asked. One that ended in good order, for the drain, counts no more.
    pub(super) fn pulse(&mut self) -> Pulse {
        let (ask, asked) = mpsc::channel(1);
        self.loops.push(ask);
        Pulse(asked)
    }

    /// Beats for ever, if the service manager wants it.
    pub(super) async fn run(self) {
        let Some(limit) = sd_notify::watchdog_enabled() else { return };
        // A third to wait and a third for the answers leave a third for a busy machine.
        let third = limit / 3;
        loop {
            sleep(third).await;
            match self.who_hangs(third).await {
                None => notify::tell(&[NotifyState::Watchdog]),
                Some(what) => tracing::error!(
                    name: kind::HUNG,
                    "no sign of life within {third:?} from {what}; the service manager will act on it"
                ),
            }
        }
    }

    /// Who does not answer within `patience`, if anybody.
    async fn who_hangs(&self, patience: Duration) -> Option<&'static str> {
        let loops = async {
            for accept_loop in &self.loops {
                let (call, answer) = oneshot::channel();
                if accept_loop.send(call).await.is_ok() {
                    let _ = answer.await; // It ended meanwhile, for the drain.
                }
            }
        };
        if timeout(patience, loops).await.is_err() {
            return Some("an accept loop");
        }
        let files = timeout(patience, self.workers.run(|| ())).await;
        files.is_err().then_some("the file threads")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as blocking;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    /// Goal: a beat proves that files can be worked on. Method: the only thread is held, and let go.
    #[tokio::test(flavor = "multi_thread")]
    async fn file_threads_that_hang_are_noticed() {
        let workers = Workers::new(1);
        let watchdog = Watchdog::new(workers.clone());
        assert_eq!(watchdog.who_hangs(LONG).await, None);
        let (release, held) = blocking::channel::<()>();
        let (started, starts) = oneshot::channel();
        let job = tokio::spawn(async move {
            workers
                .run(move || {
                    let _ = started.send(());
                    let _ = held.recv();
                })
                .await
        });
        assert!(starts.await.is_ok());
        assert_eq!(watchdog.who_hangs(SHORT).await, Some("the file threads"));
        drop(release);
        assert!(job.await.is_ok());
        assert_eq!(watchdog.who_hangs(LONG).await, None);
    }

    /// Goal: a beat proves that connections are accepted. Method: a loop that never gets back to its
    /// answers, one that does, and one that has ended.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_accept_loop_that_hangs_is_noticed() {
        let mut watchdog = Watchdog::new(Workers::new(1));
        tokio::spawn(watchdog.pulse().answer());
        assert_eq!(watchdog.who_hangs(LONG).await, None);
        drop(watchdog.pulse());
        assert_eq!(watchdog.who_hangs(LONG).await, None);
        let stuck = watchdog.pulse();
        assert_eq!(watchdog.who_hangs(SHORT).await, Some("an accept loop"));
        drop(stuck);
        assert_eq!(watchdog.who_hangs(LONG).await, None);
    }
}
