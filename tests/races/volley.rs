//! Many requests at once, one for each slot, and the judge of what came of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Fallible;
use crate::field::{CANARY, Field, SLOTS, Scene, foreign};
use crate::support::raw::{ANSWER, DATA, ENTRIES, EOF, ERROR, REQUEST, Raw, TRAILER, frame, put};
use crate::support::sha256;

/// An operation that resolves paths. (`resume` does not: it asks a table of what is kept.)
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Op {
    Get,
    Put,
    Remove,
    MoveSource,
    MoveTarget,
    Mkdir,
    List,
    Rmdir,
    Stat,
    Digest,
    Check,
}

impl Op {
    /// In the order of a round: what one needs another has left.
    pub const ALL: [Self; 11] = [
        Self::Put,
        Self::Get,
        Self::Stat,
        Self::Digest,
        Self::Check,
        Self::List,
        Self::MoveSource,
        Self::MoveTarget,
        Self::Mkdir,
        Self::Rmdir,
        Self::Remove,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Remove => "rm",
            Self::MoveSource => "mv source",
            Self::MoveTarget => "mv target",
            Self::Mkdir => "mkdir",
            Self::List => "ls",
            Self::Rmdir => "rmdir",
            Self::Stat => "stat",
            Self::Digest => "digest",
            Self::Check => "check",
        }
    }

    /// All that may come of it in a scene, besides success.
    fn refusals(self, scene: Scene) -> Vec<&'static str> {
        let mut codes = match scene {
            // A link stands on the way, or the name is that of a link, a pipe or a directory.
            Scene::Link | Scene::OtherHome | Scene::Middle | Scene::Leaf => vec!["WRONG_TYPE"],
            Scene::Pair => vec![],
            // What holds a directory that has left the root is refused by the sandbox.
            Scene::Gone => vec!["DENIED"],
        };
        match self {
            // What is held is no longer what the path names.
            Self::Put if scene != Scene::Leaf => codes.push("CHANGED"),
            // A directory is moved away or replaces nothing; a name that was free is taken.
            Self::MoveSource | Self::MoveTarget if scene == Scene::Leaf => {
                codes.extend(["EXISTS", "NOT_FOUND", "BUSY"]);
            }
            // The attacker's files have no digest; their time of change moves with their name.
            Self::Get | Self::Digest if scene == Scene::Leaf => {
                codes.extend(["NOT_FOUND", "CHANGED"]);
            }
            Self::Get | Self::Digest | Self::Stat | Self::MoveSource | Self::Remove => {
                codes.push("NOT_FOUND");
            }
            // One that an earlier round made, and could not remove.
            Self::Mkdir => {
                codes.push("EXISTS");
                if matches!(scene, Scene::Pair | Scene::Gone) {
                    codes.push("NOT_FOUND"); // The path no longer leads to what was made.
                }
            }
            Self::Rmdir => codes.push("NOT_FOUND"),
            _ => {}
        }
        codes
    }
}

/// What came of one request.
#[derive(Debug, Default)]
struct Outcome {
    /// `ok`, or the code of the error.
    code: String,
    answer: Value,
    content: Vec<u8>,
    names: Vec<String>,
}

/// Of each operation, how often what came of it.
pub type Counts = BTreeMap<Op, BTreeMap<String, usize>>;

/// What the judge does not let pass.
#[derive(Debug)]
pub enum Verdict {
    /// Something came from outside, or got there.
    Escape(String),
    /// Something that is none of the outcomes that there may be.
    Other(String),
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Escape(what) => write!(f, "an escape: {what}"),
            Self::Other(what) => write!(f, "no outcome that there may be: {what}"),
        }
    }
}

/// What a slot holds: in the directories of its scene, under its calm name, and of directories there.
type Holdings = (Vec<String>, Option<String>, usize);

/// One connection, and what is expected of it.
pub struct Caller<'a> {
    pub field: &'a Field,
    pub peer: Raw,
    pub counts: Counts,
    id: u32,
    round: usize,
}

impl<'a> Caller<'a> {
    pub fn new(field: &'a Field, peer: Raw) -> Self {
        Self { field, peer, counts: Counts::new(), id: 0, round: 0 }
    }

    /// Calls one operation for each slot at once, and judges.
    pub fn volley(&mut self, op: Op) -> Fallible<Result<(), Verdict>> {
        self.round += 1;
        let mut before = Vec::new();
        for slot in 0..SLOTS {
            if Scene::of(slot) == Scene::Leaf && op == Op::MoveSource {
                self.field.clear_calm(slot);
            }
            if op == Op::MoveTarget && self.field.holdings(slot)?.1.is_none() {
                self.field.provide(slot, true, "inside, calm")?;
            }
            before.push(self.holdings(op, slot)?);
        }
        let first = self.id + 1;
        let mut frames = Vec::new();
        for slot in 0..SLOTS {
            self.id += 1;
            frames.extend(self.request(op, slot));
        }
        self.peer.bytes(&frames)?;
        let outcomes = self.collect(op, first)?;
        for ((slot, outcome), before) in outcomes.iter().enumerate().zip(&before) {
            *self.counts.entry(op).or_default().entry(outcome.code.clone()).or_default() += 1;
            let after = self.holdings(op, slot)?;
            if let Err(verdict) = self.judge(op, slot, outcome, (before, &after)) {
                return Ok(Err(verdict));
            }
        }
        Ok(self.field.check_outside().map_err(|what| Verdict::Escape(format!("{op:?}: {what}"))))
    }

    fn holdings(&self, op: Op, slot: usize) -> Fallible<Holdings> {
        let (held, calm) = self.field.holdings(slot)?;
        let made = if matches!(op, Op::Mkdir | Op::Rmdir) {
            self.field.directories(slot, &format!("m{slot}"))
        } else {
            0
        };
        Ok((held, calm, made))
    }

    /// What a put of this round brings.
    fn content(&self, slot: usize) -> String {
        format!("inside, put {} of slot {slot}", self.round)
    }

    /// Every other removal of a directory asks for one that is outside alone.
    fn directory(&self, op: Op, slot: usize) -> String {
        let is_foreign = op == Op::Rmdir && (self.round + slot).is_multiple_of(2);
        format!("{}/{}{slot}", Scene::of(slot).path(), if is_foreign { "d" } else { "m" })
    }

    fn request(&self, op: Op, slot: usize) -> Vec<u8> {
        let way = Scene::of(slot).path();
        let (path, calm) = (format!("{way}/s{slot}"), format!("calm/s{slot}"));
        let canary = format!("{way}/{CANARY}");
        let request = match op {
            Op::Put => return put(self.id, &json!(path), self.content(slot).as_bytes()),
            Op::Get => json!({"verb": "get", "path": path}),
            Op::Remove => json!({"verb": "remove", "path": path}),
            Op::MoveSource => json!({"verb": "rename", "path": path, "to": calm, "replace": true}),
            Op::MoveTarget => json!({"verb": "rename", "path": calm, "to": path, "replace": true}),
            Op::Mkdir => {
                let parents = (self.round + slot).is_multiple_of(3);
                json!({"verb": "mkdir", "path": self.directory(op, slot), "parents": parents})
            }
            Op::List => json!({"verb": "list", "path": way}),
            Op::Rmdir => json!({"verb": "rmdir", "path": self.directory(op, slot)}),
            // What is outside alone, and what is on both sides, in turn.
            Op::Stat if self.round.is_multiple_of(2) => json!({"verb": "stat", "path": canary}),
            Op::Stat => json!({"verb": "stat", "path": path}),
            Op::Digest => json!({"verb": "digest", "path": path, "reread": slot.is_multiple_of(4)}),
            Op::Check => json!({"verb": "check", "path": canary, "bytes": 1}),
        };
        frame(REQUEST, self.id, request.to_string().as_bytes())
    }

    /// Reads until every request has had its final frame. One that never comes is an error after a while.
    fn collect(&mut self, op: Op, first: u32) -> Fallible<Vec<Outcome>> {
        let mut outcomes: Vec<Outcome> = (0..SLOTS).map(|_| Outcome::default()).collect();
        let mut open = SLOTS;
        while open > 0 {
            let frame = self.peer.expect()?;
            let slot = frame.id.checked_sub(first).ok_or_else(|| format!("{frame:?}"))? as usize;
            let outcome = outcomes.get_mut(slot).ok_or_else(|| format!("{frame:?}"))?;
            match frame.kind {
                DATA => outcome.content.extend(&frame.payload),
                EOF => {}
                ENTRIES => {
                    let json = frame.json();
                    let entries = json["entries"].as_array().into_iter().flatten();
                    let names = entries.filter_map(|entry| entry["name"].as_str());
                    outcome.names.extend(names.map(str::to_owned));
                }
                ANSWER if op == Op::Get && outcome.answer.is_null() => {
                    outcome.answer = frame.json();
                }
                ANSWER | TRAILER | ERROR if outcome.code.is_empty() => {
                    let is_error = frame.kind == ERROR;
                    outcome.code = if is_error { frame.code() } else { "ok".to_owned() };
                    if frame.kind != TRAILER {
                        outcome.answer = frame.json();
                    }
                    open -= 1;
                }
                _ => return Err(format!("{op:?}: {frame:?}").into()),
            }
        }
        Ok(outcomes)
    }

    fn judge(
        &self,
        op: Op,
        slot: usize,
        outcome: &Outcome,
        (before, after): (&Holdings, &Holdings),
    ) -> Result<(), Verdict> {
        let scene = Scene::of(slot);
        let say =
            || format!("{op:?} in {scene:?}: {outcome:?}; before {before:?}, after {after:?}");
        let escape = |happened: bool| {
            if happened { Err(Verdict::Escape(say())) } else { Ok(()) }
        };
        let is_ok = outcome.code == "ok";
        // What must not be seen.
        escape(!b"inside".starts_with(&outcome.content[..outcome.content.len().min(6)]))?;
        escape(outcome.names.iter().any(|name| name == CANARY || name.starts_with('d')))?;
        match op {
            Op::Stat if is_ok => {
                let is_file = outcome.answer["stat"]["type"] == "file";
                let bytes = outcome.answer["stat"]["bytes"].as_u64().unwrap_or(0);
                escape(is_file && bytes >= foreign().len() as u64)?;
            }
            Op::Digest if is_ok => {
                escape(outcome.answer["digest"]["sha256"] == sha256(&foreign()))?;
            }
            Op::Check if is_ok => escape(outcome.answer["check"]["exists"] == true)?,
            Op::Rmdir => escape(is_ok && self.directory(op, slot).contains("/d"))?,
            _ => {}
        }
        if !is_ok && !op.refusals(scene).contains(&outcome.code.as_str()) {
            return Err(Verdict::Other(say()));
        }
        // What is inside stays inside: nothing is lost or doubled that is not told. Of leaves that the
        // attacker takes away himself nothing of the kind can be said.
        if scene == Scene::Leaf {
            return Ok(());
        }
        let expected = self.expected(op, slot, outcome, before);
        let is_expected = expected.iter().any(|expected| expected == after);
        escape(!is_expected)?;
        if op == Op::Get && is_ok {
            let seen = String::from_utf8_lossy(&outcome.content).into_owned();
            escape(!before.0.contains(&seen))?;
        }
        Ok(())
    }

    /// All that a slot may hold after this outcome.
    fn expected(&self, op: Op, slot: usize, outcome: &Outcome, before: &Holdings) -> Vec<Holdings> {
        let (held, calm, made) = before;
        let without = |index: usize| {
            let mut rest = held.clone();
            rest.remove(index);
            rest
        };
        let with = |mut held: Vec<String>, one: &str| {
            held.push(one.to_owned());
            held.sort();
            held
        };
        if outcome.code != "ok" {
            let mut same = vec![before.clone()];
            if op == Op::Mkdir && Scene::of(slot) == Scene::Gone {
                // It was made, and could not be taken back because its parent had left the root by then.
                same.push((held.clone(), calm.clone(), made + 1));
            }
            return same;
        }
        let replaced = match op {
            Op::Put => outcome.answer["stored"]["replaced"] == true,
            _ => outcome.answer["renamed"]["replaced"] == true,
        };
        let each = 0..held.len();
        match op {
            Op::Put | Op::MoveTarget => {
                let (new, calm) = match op {
                    Op::Put => (self.content(slot), calm.clone()),
                    _ => (calm.clone().unwrap_or_default(), None),
                };
                let rests = if replaced { each.map(without).collect() } else { vec![held.clone()] };
                rests.into_iter().map(|rest| (with(rest, &new), calm.clone(), *made)).collect()
            }
            Op::MoveSource if replaced != calm.is_some() => vec![],
            Op::MoveSource => {
                each.map(|index| (without(index), Some(held[index].clone()), *made)).collect()
            }
            Op::Remove => each.map(|index| (without(index), calm.clone(), *made)).collect(),
            Op::Mkdir => {
                let more = outcome.answer["made"]["directories"] == 1;
                vec![(held.clone(), calm.clone(), made + usize::from(more))]
            }
            Op::Rmdir => vec![(held.clone(), calm.clone(), made.saturating_sub(1))],
            Op::Get | Op::List | Op::Stat | Op::Digest | Op::Check => vec![before.clone()],
        }
    }
}
