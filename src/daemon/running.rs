//! Requests whose client may leave: they end with it, and tell the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

use super::session::Session;
use super::users::User;
use super::verbs::{Job, log, parse};
use crate::proto::{Request, WirePath};
use crate::transfer::{Seal, Store, TransferError};
use crate::types::RelPath;

/// A request that was taken. One that would leave its line when it is given up while it works leaves it, too,
/// when it is given up before it has begun.
pub(super) struct Accepted<S: Store> {
    pub(super) session: Arc<Session<S>>,
    user: Arc<User>,
    id: u32,
    pub(super) request: Request,
    started: Instant,
    is_begun: bool,
}

impl<S: Store> Accepted<S> {
    pub(super) fn new(
        session: Arc<Session<S>>,
        user: Arc<User>,
        id: u32,
        request: Request,
    ) -> Self {
        Self { session, user, id, request, started: Instant::now(), is_begun: false }
    }

    /// It sees to its line itself from now on.
    pub(super) fn begins(&mut self) {
        self.is_begun = true;
    }

    pub(super) fn job(&self) -> Job<'_, S> {
        Job::new(&self.session, &self.user, self.id, self.request.verb(), self.started)
    }

    /// Leaves its line, of a failure that it did not live to tell.
    pub(super) fn log(&self, error: &TransferError) {
        let job = self.job();
        let (path, to) = self.request.paths();
        let shown = |path: &WirePath| Some(job.at_home(&parse(path).ok()?));
        let (path, to) = (path.and_then(shown), to.and_then(shown));
        log(&job, path.as_ref(), to.as_ref(), Err(error));
    }
}

impl<S: Store> Drop for Accepted<S> {
    fn drop(&mut self) {
        let is_watched = matches!(self.request, Request::Get { .. } | Request::Digest { .. });
        if !self.is_begun && is_watched {
            self.log(&TransferError::Aborted);
        }
    }
}

/// Who has the last word of a request: the request itself, or whoever cancels it. The first to ask has it.
#[derive(Clone, Debug, Default)]
pub(super) struct LastWord(Arc<AtomicBool>);

impl LastWord {
    /// Whether it is the asker's.
    pub(super) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// A request that only reads; it ends when this is dropped.
pub(super) struct Running {
    task: AbortHandle,
    last_word: LastWord,
}

impl Running {
    pub(super) fn new(task: &JoinHandle<()>, last_word: LastWord) -> Self {
        Self { task: task.abort_handle(), last_word }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends it, unless its end is on its way already: then it waits to hear whether that was sent.
    pub(super) fn cancel(&self) {
        if self.last_word.take() {
            self.task.abort();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request that leaves its line in the log also when it is given up while it works.
pub(super) struct Watched<'j, 'a, S: Store> {
    job: Option<&'j Job<'a, S>>,
    path: &'j RelPath,
    /// What was sent if the receipt says so.
    sent: Option<(Seal, oneshot::Receiver<()>)>,
}

impl<'j, 'a, S: Store> Watched<'j, 'a, S> {
    pub(super) fn new(job: &'j Job<'a, S>, path: &'j RelPath) -> Self {
        Self { job: Some(job), path, sent: None }
    }

    /// The request has come to an end, of which it leaves a line itself.
    pub(super) fn ended(mut self) {
        self.job = None;
    }

    /// The request is at its end, which counts when it was sent; this is where that is told.
    pub(super) fn ends_with(&mut self, seal: Seal, receipt: oneshot::Receiver<()>) {
        self.sent = Some((seal, receipt));
    }

    /// Waits until its end was sent, or cannot be any more, and leaves the line.
    pub(super) async fn sent(mut self, gone: impl Future<Output = ()>) {
        let outcome = match &mut self.sent {
            Some((seal, receipt)) => {
                let is_sent = tokio::select! {
                    biased; // What was sent stays so when the connection ends,
                    sent = &mut *receipt => sent.is_ok(),
                    () = gone => receipt.try_recv().is_ok(), // also if both came between these two looks.
                };
                is_sent.then_some(*seal)
            }
            None => None,
        };
        if let Some(job) = self.job.take() {
            log(job, Some(self.path), None, outcome.map(Some).ok_or(&TransferError::Aborted));
        }
    }
}

impl<S: Store> Drop for Watched<'_, '_, S> {
    fn drop(&mut self) {
        // Whoever catches a panic tells it.
        let Some(job) = self.job.filter(|_| !thread::panicking()) else { return };
        // The connection may have ended after the last byte was sent and before this was woken.
        let sent =
            self.sent.as_mut().and_then(|(seal, receipt)| receipt.try_recv().ok().and(Some(*seal)));
        let outcome = sent.map(Some).ok_or(&TransferError::Aborted);
        log(job, Some(self.path), None, outcome);
    }
}
