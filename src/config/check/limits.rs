//! `[limits]`: how much of everything.

use super::Check;
use crate::config::raw::{RawLimits, Value};
use crate::config::settings::Limits;

impl Check<'_> {
    pub(super) fn limits(&mut self, value: Option<&Value<'_>>) -> Option<Limits> {
        let raw = match value.map(|value| (value, value.get_ref().as_table())) {
            None => RawLimits::default(),
            Some((_, Some(table))) => RawLimits::read("limits.", table, &mut self.problems),
            Some((value, None)) => {
                self.must_be("limits", value, "a section headed [limits]");
                return None;
            }
        };
        let connections = self.quantity("limits", raw.connections, &Limits::CONNECTIONS);
        // Each is looked at before any `?` leaves, so that all problems are told at once.
        let per_user = self.connections_per_user(&raw, connections);
        let requests =
            self.quantity("limits", raw.requests_per_connection, &Limits::REQUESTS_PER_CONNECTION);
        let max_file_size = self.quantity("limits", raw.max_file_size, &Limits::MAX_FILE_SIZE);
        let buffer_memory = self.quantity("limits", raw.buffer_memory, &Limits::BUFFER_MEMORY);
        let file_workers = self.quantity("limits", raw.file_workers, &Limits::FILE_WORKERS);
        let handshake = self.quantity("limits", raw.handshake_timeout, &Limits::HANDSHAKE_TIMEOUT);
        let idle = self.quantity("limits", raw.idle_timeout, &Limits::IDLE_TIMEOUT);
        let stall = self.quantity("limits", raw.stall_timeout, &Limits::STALL_TIMEOUT);
        let resume_expiry = self.quantity("limits", raw.resume_expiry, &Limits::RESUME_EXPIRY);
        let drain = self.quantity("limits", raw.drain_timeout, &Limits::DRAIN_TIMEOUT);
        Some(Limits {
            max_file_size: max_file_size?,
            connections: connections?,
            connections_per_user: per_user?,
            requests_per_connection: requests?,
            buffer_memory: buffer_memory?,
            file_workers: file_workers?,
            handshake_timeout: handshake?,
            idle_timeout: idle?,
            stall_timeout: stall?,
            resume_expiry: resume_expiry?,
            drain_timeout: drain?,
        })
    }

    /// More connections for one user than for all is a slip; the default adapts instead.
    fn connections_per_user(
        &mut self,
        raw: &RawLimits<'_, '_>,
        connections: Option<usize>,
    ) -> Option<usize> {
        let bound = &Limits::CONNECTIONS_PER_USER;
        let per_user = self.quantity("limits", raw.connections_per_user, bound)?;
        match (raw.connections_per_user, connections) {
            (Some(value), Some(all)) if per_user > all => {
                let what = format!("at most limits.connections, which is {all}");
                self.must_be("limits.connections-per-user", value, &what);
                None
            }
            (None, Some(all)) => Some(per_user.min(all)),
            _ => Some(per_user),
        }
    }
}
