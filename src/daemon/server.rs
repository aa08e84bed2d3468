//! What all connections share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::door::Count;
use super::users::Users;
use crate::config::Settings;
use crate::transfer::Store;

/// Whether the daemon takes new work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// It does.
    Serving,
    /// It finishes what runs.
    Draining,
}

/// The configuration in force; a reload puts a new one in its place.
pub(super) struct Live {
    pub(super) settings: Settings,
    pub(super) users: Users,
}

/// What a session needs; cheap to clone.
pub(super) struct Server<S: Store> {
    pub(super) store: Arc<S>,
    pub(super) live: watch::Receiver<Arc<Live>>,
    pub(super) phase: watch::Receiver<Phase>,
    /// Held by everything that must end before the daemon does; nothing is ever sent.
    pub(super) busy: mpsc::Sender<std::convert::Infallible>,
    /// Connections that compress.
    pub(super) compressed: Count,
}

impl<S: Store> Clone for Server<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            live: self.live.clone(),
            phase: self.phase.clone(),
            busy: self.busy.clone(),
            compressed: self.compressed.clone(),
        }
    }
}

/// How long a farewell may take.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);
