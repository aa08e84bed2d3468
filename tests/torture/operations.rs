//! The operations that are tortured: what each asks for, and what it does to the tree.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::noise;
use crate::support::raw::{DATA, EOF, REQUEST, TRAILER, frame, trailer};
use crate::support::sha256;

pub type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// What is under a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Node {
    Directory,
    /// Its bytes and their digest.
    File(u64, String),
}

/// A tree as it looks from outside, by path.
pub type Nodes = BTreeMap<String, Node>;

pub fn nodes(top: &Path) -> Fallible<Nodes> {
    fn walk(top: &Path, below: &str, found: &mut Nodes) -> Fallible<()> {
        for entry in std::fs::read_dir(top.join(below))? {
            let entry = entry?;
            let path = format!("{below}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                found.insert(path.clone(), Node::Directory);
                walk(top, &format!("{path}/"), found)?;
            } else {
                found.insert(path, file(&std::fs::read(entry.path())?));
            }
        }
        Ok(())
    }
    let mut found = Nodes::new();
    walk(top, "", &mut found)?;
    Ok(found)
}

fn file(content: &[u8]) -> Node {
    Node::File(content.len() as u64, sha256(content))
}

/// One request and what it does, which is done as a whole or not at all.
pub struct Step {
    pub request: Value,
    /// What is put.
    pub content: Option<Vec<u8>>,
    pub gone: Vec<&'static str>,
    pub made: Vec<(String, Node)>,
    /// Directories that are made for it, and may stay when it is cut.
    pub on_the_way: Vec<&'static str>,
}

impl Step {
    fn put(path: &str, content: Vec<u8>, on_the_way: &[&'static str]) -> Self {
        let request = json!({"verb": "put", "path": path, "bytes": content.len(), "mode": 0o640,
            "mtime_ns": 1_700_000_000_000_000_000_i64});
        let made = vec![(path.to_owned(), file(&content))];
        let on_the_way = on_the_way.to_vec();
        Self { request, content: Some(content), gone: Vec::new(), made, on_the_way }
    }

    fn change(
        request: Value,
        gone: &[&'static str],
        made: &[(&str, Node)],
        on_the_way: &[&'static str],
    ) -> Self {
        let made = made.iter().map(|(path, node)| ((*path).to_owned(), node.clone())).collect();
        let (gone, on_the_way) = (gone.to_vec(), on_the_way.to_vec());
        Self { request, content: None, gone, made, on_the_way }
    }

    /// The whole request as a client sends it.
    pub fn frames(&self, id: u32) -> Vec<u8> {
        let mut out = frame(REQUEST, id, self.request.to_string().as_bytes());
        if let Some(content) = &self.content {
            for chunk in content.chunks(1 << 20) {
                out.extend(frame(DATA, id, chunk));
            }
            out.extend(frame(EOF, id, b""));
            out.extend(frame(TRAILER, id, &trailer(content)));
        }
        out
    }

    fn is_new(&self, after: &Nodes) -> bool {
        self.made.iter().all(|(path, node)| after.get(path) == Some(node))
            && self.gone.iter().all(|path| !after.contains_key(*path))
    }

    fn is_old(&self, before: &Nodes, after: &Nodes) -> bool {
        let made = self.made.iter().map(|(path, _)| path.as_str());
        made.chain(self.gone.iter().copied()).all(|path| before.get(path) == after.get(path))
    }
}

/// How a step ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ended {
    Acknowledged,
    /// Refused, with this code.
    Refused(String),
    /// The connection was cut before the answer.
    Cut,
}

/// Holds what is there against what was asked for and what was said.
pub fn judge(before: &Nodes, after: &Nodes, steps: &[Step], ends: &[Ended]) -> Result<(), String> {
    for (step, ended) in steps.iter().zip(ends) {
        let (is_new, is_old) = (step.is_new(after), step.is_old(before, after));
        let fits = match ended {
            Ended::Acknowledged => is_new,
            Ended::Refused(code) if code != "UNKNOWN_OUTCOME" => is_old,
            Ended::Refused(_) | Ended::Cut => is_new || is_old,
        };
        if !fits {
            let there = if is_new {
                "new"
            } else if is_old {
                "old"
            } else {
                "neither"
            };
            return Err(format!("{} {ended:?}, and what is there is {there}", step.request));
        }
    }
    let all_refused =
        ends.iter().all(|end| matches!(end, Ended::Refused(code) if code != "UNKNOWN_OUTCOME"));
    for path in after.keys().filter(|path| !before.contains_key(*path)) {
        let is_made = |step: &Step| step.made.iter().any(|(made, _)| made == path);
        let is_on_the_way = |step: &Step| step.on_the_way.contains(&path.as_str());
        let may_be = |step: &Step| is_made(step) || (!all_refused && is_on_the_way(step));
        if !steps.iter().any(may_be) {
            return Err(format!("{path} appeared, after {ends:?}"));
        }
    }
    for (path, node) in before {
        let is_changed = |step: &Step| {
            step.gone.contains(&path.as_str()) || step.made.iter().any(|(made, _)| made == path)
        };
        if after.get(path) != Some(node) && !steps.iter().any(is_changed) {
            return Err(format!("{path} was changed to {:?}", after.get(path)));
        }
    }
    Ok(())
}

/// What is tortured.
pub struct Operation {
    pub name: &'static str,
    pub steps: fn() -> Vec<Step>,
    /// Whether its put is cut in the middle and taken up again.
    pub is_cut: bool,
}

/// What is there before each operation.
pub fn prepare(home: &Path) -> std::io::Result<()> {
    for directory in ["d", "e"] {
        std::fs::create_dir_all(home.join(directory))?;
    }
    std::fs::write(home.join("f"), "the old f")?;
    std::fs::write(home.join("g"), "g, which is replaced")?;
    std::fs::write(home.join("d/x"), "in a directory")
}

pub const OPERATIONS: &[Operation] = &[
    Operation {
        name: "put new",
        steps: || vec![Step::put("a/b/c", noise(3_000, 1), &["a", "a/b"])],
        is_cut: false,
    },
    Operation {
        name: "put large",
        steps: || vec![Step::put("large", noise(3 << 20, 2), &[])],
        is_cut: false,
    },
    Operation {
        name: "overwrite",
        steps: || vec![Step::put("f", noise(1 << 20, 3), &[])],
        is_cut: false,
    },
    Operation {
        name: "put many",
        steps: || {
            let one = |number: u64| Step::put(&format!("m/f{number}"), noise(500, number), &["m"]);
            (10..16).map(one).collect()
        },
        is_cut: false,
    },
    Operation {
        name: "resume",
        steps: || {
            let mut step = Step::put("r", noise(5 << 20, 4), &[]);
            step.request = json!({"verb": "put", "path": "r", "resumable": true});
            vec![step]
        },
        is_cut: true,
    },
    Operation {
        name: "rename over",
        steps: || {
            let request = json!({"verb": "rename", "path": "f", "to": "g", "replace": true});
            vec![Step::change(request, &["f"], &[("g", file(b"the old f"))], &[])]
        },
        is_cut: false,
    },
    Operation {
        name: "rename directory",
        steps: || {
            let request = json!({"verb": "rename", "path": "d", "to": "e/h"});
            let made = [("e/h", Node::Directory), ("e/h/x", file(b"in a directory"))];
            vec![Step::change(request, &["d", "d/x"], &made, &[])]
        },
        is_cut: false,
    },
    Operation {
        name: "remove",
        steps: || vec![Step::change(json!({"verb": "remove", "path": "f"}), &["f"], &[], &[])],
        is_cut: false,
    },
    Operation {
        name: "rmdir",
        steps: || vec![Step::change(json!({"verb": "rmdir", "path": "e"}), &["e"], &[], &[])],
        is_cut: false,
    },
    Operation {
        name: "mkdir",
        steps: || {
            let request = json!({"verb": "mkdir", "path": "n/e/w", "parents": true});
            vec![Step::change(request, &[], &[("n/e/w", Node::Directory)], &["n", "n/e"])]
        },
        is_cut: false,
    },
];
