//! `[limits]`: how much of everything.

use super::Check;
use crate::config::raw::{RawLimits, Value};
use crate::config::settings::{Bound, Limits};

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
        let all = ("connections", connections);
        let per_user = self.part_of(raw.connections_per_user, &Limits::CONNECTIONS_PER_USER, all);
        let per_source =
            self.part_of(raw.connections_per_source, &Limits::CONNECTIONS_PER_SOURCE, all);
        let strangers = self.quantity("limits", raw.strangers, &Limits::STRANGERS);
        let of_source = self.part_of(
            raw.strangers_per_source,
            &Limits::STRANGERS_PER_SOURCE,
            ("strangers", strangers),
        );
        let penalties = raw.penalties.map_or(Some(true), |v| self.boolean("limits.penalties", v));
        let exempt = match raw.penalty_exempt {
            Some(list) if list.get_ref().as_array().is_none_or(|list| !list.is_empty()) => {
                self.networks("limits.penalty-exempt", list)
            }
            _ => Some(Vec::new()),
        };
        let requests =
            self.quantity("limits", raw.requests_per_connection, &Limits::REQUESTS_PER_CONNECTION);
        let compressed =
            self.quantity("limits", raw.compressed_connections, &Limits::COMPRESSED_CONNECTIONS);
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
            connections_per_source: per_source?,
            strangers: strangers?,
            strangers_per_source: of_source?,
            penalties: penalties?,
            penalty_exempt: exempt?,
            requests_per_connection: requests?,
            compressed_connections: compressed?,
            buffer_memory: buffer_memory?,
            file_workers: file_workers?,
            handshake_timeout: handshake?,
            idle_timeout: idle?,
            stall_timeout: stall?,
            resume_expiry: resume_expiry?,
            drain_timeout: drain?,
        })
    }

    /// More for one than for all is a slip; the default adapts instead.
    fn part_of(
        &mut self,
        value: Option<&Value<'_>>,
        bound: &Bound<usize>,
        (all_key, all): (&str, Option<usize>),
    ) -> Option<usize> {
        let part = self.quantity("limits", value, bound)?;
        match (value, all) {
            (Some(value), Some(all)) if part > all => {
                let what = format!("at most limits.{all_key}, which is {all}");
                self.must_be(&format!("limits.{}", bound.key), value, &what);
                None
            }
            (None, Some(all)) => Some(part.min(all)),
            _ => Some(part),
        }
    }
}
