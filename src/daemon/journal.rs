//! The journal's own protocol: every line with its fields, and a message id for each kind of event.
//!
//! Source: systemd's `docs/JOURNAL_NATIVE_PROTOCOL.md`; systemd.journal-fields(7).

use std::fmt;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Where journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// How long a line waits for a journal that does not read. Lines behind it do not wait at all until
/// one gets through again: the log must never hold up a transfer for long.
const PATIENCE: Duration = Duration::from_millis(200);

/// The kinds of event that have a message id, by the name that their log line carries.
pub(super) mod kind {
    pub(crate) const READY: &str = "ready";
    pub(crate) const STOPPED: &str = "stopped";
    pub(crate) const CUT: &str = "stopped-with-transfers-unfinished";
    pub(crate) const RELOADED: &str = "reloaded";
    pub(crate) const RELOAD_REFUSED: &str = "reload-refused";
    pub(crate) const HOST_KEY: &str = "host-key-made";
    pub(crate) const DONE: &str = "done";
    pub(crate) const GIVEN_UP: &str = "given-up";
    pub(crate) const FAILED: &str = "failed";
    pub(crate) const FAULT: &str = "fault";
    pub(crate) const DENIED: &str = "refused";
    pub(crate) const UNKNOWN_PEER: &str = "unknown-peer";
    pub(crate) const TURNED_AWAY: &str = "connection-refused";
    pub(crate) const CLOSED: &str = "closed";
    pub(crate) const HUNG: &str = "hung";
}

/// The message id of each kind. Scripts and the catalogue (`systemd/ftd.catalog`) depend on them: an
/// id never changes, and one that is no longer used is never used again.
const MESSAGE_IDS: [(&str, &str); 15] = [
    (kind::READY, "a56b8610692242ca88a217c9e044ec4e"),
    (kind::STOPPED, "f5714debbffe4f6cb48fe4c2468da258"),
    (kind::CUT, "2b453eb8ef514e56b65c41288b391bc9"),
    (kind::RELOADED, "40213314b26a456ea1a00713b13878cf"),
    (kind::RELOAD_REFUSED, "5acf7fb992674c4ca5d0f6e7d93cce39"),
    (kind::HOST_KEY, "9b737b9eb6a14e80959d8e8362553bd4"),
    (kind::DONE, "3b062e7bfd6f41ac8711353786493f00"),
    (kind::GIVEN_UP, "5d90da2005d34b6aaf2f9c75951ba30d"),
    (kind::FAILED, "d30673584c444b218ed99cec9a392dcf"),
    (kind::FAULT, "e8ed3e7190b04d6aae7c70b24a0419b8"),
    (kind::DENIED, "e6838aa79df745bab259544f12b8df04"),
    (kind::UNKNOWN_PEER, "0bd5a67ba81f4632ad914ec0322284f7"),
    (kind::TURNED_AWAY, "bcfbc773b82f4c1080f1805493c8ba29"),
    (kind::CLOSED, "c1cee8a118f54fe19c08cea24a59e496"),
    (kind::HUNG, "60812ef05e0f41eda024619cd6e8643b"),
];

/// Writes log lines to the journal.
pub(super) struct Journal {
    path: PathBuf,
    /// Waits, for at most [`PATIENCE`].
    patient: UnixDatagram,
    /// Does not wait.
    hasty: UnixDatagram,
    /// Lines that the journal did not take since it last took one.
    lost: AtomicU64,
}

impl Journal {
    /// A journal that listens at `path`, which is tried at once.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let (patient, hasty) = (UnixDatagram::unbound()?, UnixDatagram::unbound()?);
        patient.set_write_timeout(Some(PATIENCE))?;
        hasty.set_nonblocking(true)?;
        // Not connected for good: a journal that was restarted is found again by its path.
        UnixDatagram::unbound()?.connect(path)?;
        Ok(Self { path: path.to_owned(), patient, hasty, lost: AtomicU64::new(0) })
    }

    fn send(&self, mut entry: Vec<u8>) {
        let lost = self.lost.load(Ordering::Relaxed);
        let socket = if lost == 0 { &self.patient } else { &self.hasty };
        if lost > 0 {
            put(&mut entry, "FTD_LOST", lost.to_string().as_bytes());
        }
        if socket.send_to(&entry, &self.path).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed); // There is nobody else to tell.
        } else if lost > 0 {
            // Where two threads get here at once, one leaves the count to be told again.
            let _ = self.lost.compare_exchange(lost, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut entry = Vec::with_capacity(512);
        put(&mut entry, "PRIORITY", priority(*metadata.level()));
        put(&mut entry, "SYSLOG_IDENTIFIER", b"ftd");
        if let Some((_, id)) = MESSAGE_IDS.iter().find(|(kind, _)| *kind == metadata.name()) {
            put(&mut entry, "MESSAGE_ID", id.as_bytes());
        }
        let mut fields = Fields { entry: &mut entry, message: String::new(), facts: String::new() };
        event.record(&mut fields);
        // A plain `journalctl` shows nothing but the message, so that it has to tell the facts as well.
        let message = fields.message + &fields.facts;
        put(&mut entry, "MESSAGE", message.as_bytes());
        self.send(entry);
    }
}

/// Source: syslog(3).
fn priority(level: Level) -> &'static [u8] {
    match level {
        Level::ERROR => b"3",
        Level::WARN => b"4",
        Level::INFO => b"6",
        Level::DEBUG | Level::TRACE => b"7",
    }
}

/// Appends one field, always in the form with a length: no value can then look like another field.
fn put(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

/// Takes the fields of an event over: `message` is set aside, all others become `FTD_…`.
struct Fields<'e> {
    entry: &'e mut Vec<u8>,
    message: String,
    /// The other fields, as text.
    facts: String,
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            return value.clone_into(&mut self.message);
        }
        let letter = |byte: u8| match byte.to_ascii_uppercase() {
            byte @ (b'A'..=b'Z' | b'0'..=b'9') => char::from(byte),
            _ => '_',
        };
        let name: String = "FTD_".chars().chain(field.name().bytes().map(letter)).collect();
        put(self.entry, &name, value.as_bytes());
        let plain = |c: char| c.is_ascii_graphic() && c != '"';
        self.facts += &if !value.is_empty() && value.chars().all(plain) {
            format!(" {}={value}", field.name())
        } else {
            format!(" {}={value:?}", field.name())
        };
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    /// The fields of one datagram, in their order.
    fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
            let (name, rest) = (&entry[..end], &entry[end + 1..]);
            let (length, rest) = rest.split_first_chunk::<8>().expect("a length");
            let length = usize::try_from(u64::from_le_bytes(*length)).expect("small");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            fields.push((text(name), text(&rest[..length])));
            assert_eq!(rest[length], b'\n');
            entry = &rest[length + 1..];
        }
        fields
    }

    /// Goal: scripts find every field under its name, and no value can forge another field.
    #[test]
    fn a_line_arrives_with_its_fields_and_its_message_id() -> TestResult {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("journal");
        let socket = UnixDatagram::bind(&path)?;
        let journal = tracing_subscriber::registry().with(Journal::at(&path)?);
        tracing::subscriber::with_default(journal, || {
            let bytes: Option<u64> = None;
            let peer = "x\nPRIORITY=0";
            tracing::info!(name: kind::DONE, peer, verb = "put", bytes, duration_ms = 7_u64, "put done");
            tracing::error!("plain");
        });
        let mut buffer = [0; 4096];
        let bytes = socket.recv(&mut buffer)?;
        let expected = [
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "ftd"),
            ("MESSAGE_ID", "3b062e7bfd6f41ac8711353786493f00"),
            ("FTD_PEER", "x\nPRIORITY=0"),
            ("FTD_VERB", "put"),
            ("FTD_DURATION_MS", "7"),
            ("MESSAGE", r#"put done peer="x\nPRIORITY=0" verb=put duration_ms=7"#),
        ];
        assert_eq!(fields(&buffer[..bytes]), expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        let bytes = socket.recv(&mut buffer)?;
        assert!(!fields(&buffer[..bytes]).iter().any(|(name, _)| name == "MESSAGE_ID"));
        Ok(())
    }

    /// Goal: a journal that does not read costs one wait and lines, which are counted, and nothing else.
    #[test]
    fn a_journal_that_does_not_read_holds_nobody_up() -> TestResult {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("journal");
        let socket = UnixDatagram::bind(&path)?;
        let journal = tracing_subscriber::registry().with(Journal::at(&path)?);
        let start = std::time::Instant::now();
        tracing::subscriber::with_default(journal, || {
            for _ in 0..10_000 {
                tracing::info!("line");
            }
            assert!(start.elapsed() < 20 * PATIENCE, "{:?}", start.elapsed());
            socket.set_nonblocking(true)?;
            let mut buffer = [0; 4096];
            let mut taken = 0;
            while socket.recv(&mut buffer).is_ok() {
                taken += 1;
            }
            tracing::info!("after");
            let bytes = socket.recv(&mut buffer)?;
            let lost = ("FTD_LOST".to_owned(), (10_000 - taken).to_string());
            assert!(fields(&buffer[..bytes]).contains(&lost), "{taken}");
            tracing::info!("later");
            let bytes = socket.recv(&mut buffer)?;
            assert!(!fields(&buffer[..bytes]).iter().any(|(name, _)| name == "FTD_LOST"));
            Ok(())
        })
    }

    /// Goal: `journalctl -x` explains every kind of event, and `docs/journal.md` lists them all.
    #[test]
    fn every_message_id_is_in_the_catalogue_and_in_the_documents() {
        let catalogue = include_str!("../../systemd/ftd.catalog");
        let document = include_str!("../../docs/journal.md");
        let entries: Vec<&str> =
            catalogue.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
        let ids: Vec<&str> = MESSAGE_IDS.iter().map(|(_, id)| *id).collect();
        assert_eq!(entries, ids, "the catalogue has each id once, in the order of the table");
        for (kind, id) in MESSAGE_IDS {
            assert!(document.contains(&format!("| `{id}` | {kind} |")), "docs/journal.md: {kind}");
        }
    }
}
