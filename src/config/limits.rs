//! `[limits]`: each with its default, its bounds and its unit, in one table.

use std::time::Duration;

use bytesize::ByteSize;
use toml::{Spanned, Value};

use super::error::Judge;
use super::raw::RawLimits;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;

/// The limits in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of the largest file.
    pub max_file_size: u64,
    /// Connections in all.
    pub connections: usize,
    /// Connections of one user.
    pub connections_per_user: usize,
    /// Requests of one connection that have not been answered.
    pub requests_per_connection: usize,
    /// Bytes of file content in flight, all connections together.
    pub buffer_memory: u64,
    /// Threads that read and write files.
    pub file_workers: usize,
    /// Time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// Time without a request after which a connection is closed.
    pub idle_timeout: Duration,
    /// Time in which a transfer must move 64 KiB.
    pub stall_timeout: Duration,
    /// Time that running transfers get when the daemon stops.
    pub drain_timeout: Duration,
}

/// One limit: its key, default, least and most, in bytes, things or seconds.
struct Rule(&'static str, u64, u64, u64);

const MAX_FILE_SIZE: Rule = Rule("max-file-size", TIB, 1, i64::MAX as u64);
const CONNECTIONS: Rule = Rule("connections", 1024, 1, 65_536);
const CONNECTIONS_PER_USER: Rule = Rule("connections-per-user", 64, 1, 65_536);
const REQUESTS_PER_CONNECTION: Rule = Rule("requests-per-connection", 256, 1, 4096);
const BUFFER_MEMORY: Rule = Rule("buffer-memory", 64 * MIB, 8 * MIB, 16 * GIB);
const FILE_WORKERS: Rule = Rule("file-workers", 16, 1, 256);
const HANDSHAKE_TIMEOUT: Rule = Rule("handshake-timeout", 10, 1, 300);
const IDLE_TIMEOUT: Rule = Rule("idle-timeout", 300, 1, 86_400);
const STALL_TIMEOUT: Rule = Rule("stall-timeout", 60, 1, 3600);
const DRAIN_TIMEOUT: Rule = Rule("drain-timeout", 60, 0, 3600);

impl Default for Limits {
    fn default() -> Self {
        let mut judge = Judge::new("", "");
        Self::check(&RawLimits::default(), &mut judge)
    }
}

impl Limits {
    /// Judges what the file says; a value that is not legal is noted and its default taken.
    pub(super) fn check(raw: &RawLimits, judge: &mut Judge<'_>) -> Self {
        let limits = Self {
            max_file_size: judge_one(judge, &MAX_FILE_SIZE, raw.max_file_size.as_ref(), BYTES),
            connections: count_of(judge, &CONNECTIONS, raw.connections.as_ref()),
            connections_per_user: count_of(
                judge,
                &CONNECTIONS_PER_USER,
                raw.connections_per_user.as_ref(),
            ),
            requests_per_connection: count_of(
                judge,
                &REQUESTS_PER_CONNECTION,
                raw.requests_per_connection.as_ref(),
            ),
            buffer_memory: judge_one(judge, &BUFFER_MEMORY, raw.buffer_memory.as_ref(), BYTES),
            file_workers: count_of(judge, &FILE_WORKERS, raw.file_workers.as_ref()),
            handshake_timeout: time_of(judge, &HANDSHAKE_TIMEOUT, raw.handshake_timeout.as_ref()),
            idle_timeout: time_of(judge, &IDLE_TIMEOUT, raw.idle_timeout.as_ref()),
            stall_timeout: time_of(judge, &STALL_TIMEOUT, raw.stall_timeout.as_ref()),
            drain_timeout: time_of(judge, &DRAIN_TIMEOUT, raw.drain_timeout.as_ref()),
        };
        if let Some(given) = &raw.connections_per_user
            && limits.connections_per_user > limits.connections
        {
            let message = format!("more than limits.connections, which is {}", limits.connections);
            judge.add(given.span(), "limits.connections-per-user", message);
        }
        limits
    }

    /// Every limit as the file spells it: key and value.
    pub(super) fn spelled(&self) -> Vec<(&'static str, String)> {
        let size = |bytes| format!("\"{}\"", spell_size(bytes));
        let time = |time: Duration| format!("\"{}\"", spell_time(time.as_secs()));
        vec![
            (MAX_FILE_SIZE.0, size(self.max_file_size)),
            (CONNECTIONS.0, self.connections.to_string()),
            (CONNECTIONS_PER_USER.0, self.connections_per_user.to_string()),
            (REQUESTS_PER_CONNECTION.0, self.requests_per_connection.to_string()),
            (BUFFER_MEMORY.0, size(self.buffer_memory)),
            (FILE_WORKERS.0, self.file_workers.to_string()),
            (HANDSHAKE_TIMEOUT.0, time(self.handshake_timeout)),
            (IDLE_TIMEOUT.0, time(self.idle_timeout)),
            (STALL_TIMEOUT.0, time(self.stall_timeout)),
            (DRAIN_TIMEOUT.0, time(self.drain_timeout)),
        ]
    }
}

/// How a kind of value is read, and how it is spelled in a message.
type Reading = (fn(&Value) -> Result<u64, String>, fn(u64) -> String);

fn judge_one(
    judge: &mut Judge<'_>,
    rule: &Rule,
    given: Option<&Spanned<Value>>,
    reading: Reading,
) -> u64 {
    let Rule(key, default, least, most) = *rule;
    let (read, spell) = reading;
    let Some(given) = given else { return default };
    let value = read(given.as_ref()).and_then(|value| match value {
        value if value < least => Err(format!("must be at least {}", spell(least))),
        value if value > most => Err(format!("must be at most {}", spell(most))),
        value => Ok(value),
    });
    judge.take(given.span(), format!("limits.{key}"), value).unwrap_or(default)
}

fn count_of(judge: &mut Judge<'_>, rule: &Rule, given: Option<&Spanned<Value>>) -> usize {
    usize::try_from(judge_one(judge, rule, given, COUNT)).unwrap_or(usize::MAX)
}

fn time_of(judge: &mut Judge<'_>, rule: &Rule, given: Option<&Spanned<Value>>) -> Duration {
    Duration::from_secs(judge_one(judge, rule, given, SECONDS))
}

const COUNT: Reading = (
    |value| {
        let number = value.as_integer().ok_or_else(|| "must be a whole number".to_owned())?;
        u64::try_from(number).map_err(|_| "must not be negative".to_owned())
    },
    |value| value.to_string(),
);

const BYTES: Reading = (
    |value| match value {
        Value::Integer(number) => {
            u64::try_from(*number).map_err(|_| "must not be negative".to_owned())
        }
        Value::String(text) => text
            .parse::<ByteSize>()
            .map(|size| size.as_u64())
            .map_err(|_| format!("{text:?} is no size; write it like \"10GiB\" or \"500MB\"")),
        _ => Err("must be a size like \"10GiB\"".to_owned()),
    },
    spell_size,
);

const SECONDS: Reading = (
    |value| match value {
        Value::String(text) => match humantime::parse_duration(text) {
            Ok(time) if time.subsec_nanos() == 0 => Ok(time.as_secs()),
            Ok(_) => Err("must be a whole number of seconds".to_owned()),
            Err(_) => Err(format!("{text:?} is no time; write it like \"30s\" or \"5min\"")),
        },
        _ => Err("must be a time like \"30s\", in quotes".to_owned()),
    },
    spell_time,
);

fn spell_size(size: u64) -> String {
    let units = [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
    let fits = units.into_iter().find(|(unit, _)| size >= *unit && size.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{size}B"), |(unit, name)| format!("{}{name}", size / unit))
}

fn spell_time(secs: u64) -> String {
    match secs {
        0 => "0s".to_owned(),
        secs if secs.is_multiple_of(3600) => format!("{}h", secs / 3600),
        secs if secs.is_multiple_of(60) => format!("{}min", secs / 60),
        secs => format!("{secs}s"),
    }
}
