//! Requests whose client may leave: they end with it, and tell the log.

use tokio::task::{AbortHandle, JoinHandle};

use super::verbs::{Job, log};
use crate::transfer::{Store, TransferError};
use crate::types::RelPath;

/// A request that only reads; it ends when this is dropped.
pub(super) struct Running(AbortHandle);

impl Running {
    pub(super) fn new(task: &JoinHandle<()>) -> Self {
        Self(task.abort_handle())
    }

    pub(super) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A request that leaves its line in the log also when it is given up while it works.
pub(super) struct Watched<'j, 'a, S: Store> {
    job: Option<&'j Job<'a, S>>,
    path: &'j RelPath,
}

impl<'j, 'a, S: Store> Watched<'j, 'a, S> {
    pub(super) fn new(job: &'j Job<'a, S>, path: &'j RelPath) -> Self {
        Self { job: Some(job), path }
    }

    /// The request has come to an end, of which it leaves a line itself.
    pub(super) fn ended(mut self) {
        self.job = None;
    }
}

impl<S: Store> Drop for Watched<'_, '_, S> {
    fn drop(&mut self) {
        if let Some(job) = self.job {
            log(job, Some(self.path), None, Err(&TransferError::Aborted));
        }
    }
}
