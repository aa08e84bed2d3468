//! Events for programs: one JSON object to a line. `docs/json.md` is the contract.

use std::time::SystemTime;

use serde::Serialize;

use super::{Action, Done, Item};
use crate::client::exit::{Exit, Failure};
use crate::client::json_line;
use crate::proto::WirePath;
use crate::types::{RelPath, Sha256Digest};

/// One event. Members that say nothing are left out.
#[derive(Serialize)]
pub(super) struct Event {
    #[serde(rename = "event")]
    kind: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    file: Option<FileOf>,
    #[serde(flatten)]
    what: What,
}

#[derive(Serialize)]
struct FileOf {
    verb: &'static str,
    path: WirePath,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<WirePath>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What {
    Start {
        bytes: Option<u64>,
    },
    Progress {
        bytes: u64,
        total: Option<u64>,
    },
    Phase {
        phase: &'static str,
    },
    Done {
        bytes: u64,
        sha256: Sha256Digest,
        mtime_ns: i64,
        replaced: bool,
        resumed: u64,
        confirmed: bool,
        time: String,
    },
    Skipped {
        reason: String,
    },
    Would {
        would: String,
    },
    Changed {
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<WirePath>,
    },
    Verified {
        same: bool,
        reason: Option<String>,
    },
    Error {
        code: &'static str,
        exit: u8,
        message: String,
        hint: Option<String>,
    },
    Summary {
        done: u64,
        skipped: u64,
        failed: u64,
        bytes: u64,
        moved: u64,
        wire: u64,
        seconds: f64,
        exit: u8,
    },
}

impl Event {
    fn new(kind: &'static str, item: Option<&Item>, what: What) -> Self {
        let file = item.map(|item| FileOf {
            verb: match item.action {
                Action::Put => "put",
                Action::Get => "get",
                Action::Verify => "verify",
                Action::Rm => "rm",
                Action::Mv => "mv",
                Action::Mkdir => "mkdir",
            },
            path: WirePath(item.path.clone()),
            local: Some(item.local.clone()).filter(|local| !local.is_empty()).map(WirePath),
        });
        Self { kind, file, what }
    }

    pub(super) fn start(item: &Item, bytes: Option<u64>) -> Self {
        Self::new("start", Some(item), What::Start { bytes })
    }

    pub(super) fn progress(item: &Item, bytes: u64, total: Option<u64>) -> Self {
        Self::new("progress", Some(item), What::Progress { bytes, total })
    }

    pub(super) fn phase(item: &Item, phase: &'static str) -> Self {
        Self::new("phase", Some(item), What::Phase { phase })
    }

    pub(super) fn done(item: &Item, done: &Done) -> Self {
        let Done { bytes, sha256, mtime_ns, replaced, resumed, confirmed } = *done;
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let what = What::Done { bytes, sha256, mtime_ns, replaced, resumed, confirmed, time };
        Self::new("done", Some(item), what)
    }

    pub(super) fn skipped(item: &Item, reason: &str) -> Self {
        Self::new("skipped", Some(item), What::Skipped { reason: reason.to_owned() })
    }

    pub(super) fn would(item: &Item, what: &str) -> Self {
        Self::new("would", Some(item), What::Would { would: what.to_owned() })
    }

    pub(super) fn changed(item: &Item, to: Option<&RelPath>) -> Self {
        let kind = match item.action {
            Action::Mkdir => "made",
            Action::Mv => "moved",
            _ => "removed",
        };
        let to = to.map(|path| WirePath(path.raw_bytes().to_vec()));
        Self::new(kind, Some(item), What::Changed { to })
    }

    pub(super) fn verified(item: &Item, different: Option<&str>) -> Self {
        let reason = different.map(str::to_owned);
        Self::new("verified", Some(item), What::Verified { same: reason.is_none(), reason })
    }

    pub(super) fn error(item: Option<&Item>, failure: &Failure) -> Self {
        let what = What::Error {
            code: failure.word(),
            exit: failure.exit as u8,
            message: failure.message.clone(),
            hint: failure.hint.clone(),
        };
        Self::new("error", item, what)
    }

    pub(super) fn summary(counts: [u64; 6], seconds: f64, exit: Exit) -> Self {
        let [done, skipped, failed, bytes, moved, wire] = counts;
        let exit = exit as u8;
        let what = What::Summary { done, skipped, failed, bytes, moved, wire, seconds, exit };
        Self::new("summary", None, what)
    }

    /// The event as its line.
    pub(super) fn line(&self) -> String {
        json_line(self)
    }
}
