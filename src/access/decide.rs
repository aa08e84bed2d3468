//! The decision itself.

use std::time::Duration;

use super::{Action, Grant, Hidden, Overwrite, Refused};
use crate::types::{Principal, RelPath, Right, Rights};

/// What holds at one place.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// What may be done there for certain.
    rights: Rights,
    /// What may be done there or somewhere below.
    possible: Rights,
    retain: Duration,
}

impl Terms {
    /// What holds at `path` itself: the rules with the most components that cover it, and of several
    /// only what all of them give; the longest time holds.
    fn at(principal: &Principal, path: Option<&RelPath>) -> Self {
        let (mut rights, mut retain) = (principal.rights, principal.retain);
        let covering = |depth| {
            let covers = path.map(move |path| {
                let rules = principal.rules.iter();
                rules.filter(move |rule| rule.pattern.depth() == depth && rule.pattern.covers(path))
            });
            covers.into_iter().flatten()
        };
        for depth in 1..=path.map_or(0, RelPath::depth) {
            if let Some(of_all) = covering(depth).map(|rule| rule.rights).reduce(|a, b| a & b) {
                rights = of_all;
                let above = retain;
                let longest = covering(depth).map(|rule| rule.retain.unwrap_or(above)).max();
                retain = longest.unwrap_or(above);
            }
        }
        Self { rights, possible: rights, retain }
    }

    /// What holds at `path` and everywhere below it: a directory that is moved takes all of it along.
    fn throughout(principal: &Principal, path: &RelPath) -> Self {
        let below = |rule: &&crate::types::Rule| rule.pattern.reaches_below(Some(path));
        principal.rules.iter().filter(below).fold(Self::at(principal, Some(path)), |terms, rule| {
            Self {
                rights: terms.rights & rule.rights,
                possible: terms.possible | rule.rights,
                retain: terms.retain.max(rule.retain.unwrap_or_default()),
            }
        })
    }

    fn refused(self, needed: Right) -> Refused {
        Refused { needed, is_blind: !self.rights.has(Right::List) }
    }

    fn needs(self, right: Right) -> Result<(), Refused> {
        if self.rights.has(right) { Ok(()) } else { Err(self.refused(right)) }
    }

    fn retain(self) -> Option<Duration> {
        (!self.retain.is_zero()).then_some(self.retain)
    }
}

/// Decides whether `principal` may do `action`.
///
/// # Errors
/// The right that is missing.
pub fn decide(principal: &Principal, action: Action<'_>) -> Result<Grant, Refused> {
    match action {
        Action::Put { path, replace } => {
            let terms = Terms::at(principal, Some(path));
            let replace = replace && terms.rights.has(Right::Replace);
            let overwrite = match (terms.rights.has(Right::Create), replace) {
                (true, true) => Overwrite::Allowed,
                (true, false) => Overwrite::Never,
                (false, true) => Overwrite::Only,
                (false, false) => return Err(terms.refused(Right::Create)),
            };
            let grant = granted(terms, Right::Create);
            Ok(Grant { overwrite, parents_from: parents_from(principal, path), ..grant })
        }
        Action::Get { path } | Action::Digest { path } => single(principal, Some(path), Right::Get),
        Action::List { path } | Action::Stat { path } => single(principal, path, Right::List),
        Action::Remove { path } | Action::Rmdir { path } => {
            single(principal, Some(path), Right::Remove)
        }
        Action::Mkdir { path } => {
            let grant = single(principal, Some(path), Right::Mkdir)?;
            Ok(Grant { parents_from: parents_from(principal, path), ..grant })
        }
        Action::Rename { from, to, replace } => rename(principal, from, to, replace),
    }
}

/// A verb that needs one right at one path.
fn single(principal: &Principal, path: Option<&RelPath>, right: Right) -> Result<Grant, Refused> {
    let terms = Terms::at(principal, path);
    terms.needs(right)?;
    Ok(granted(terms, right))
}

fn granted(terms: Terms, right: Right) -> Grant {
    Grant {
        overwrite: Overwrite::Never,
        parents_from: usize::MAX,
        retain: terms.retain(),
        retain_target: None,
        unlisted: unlisted(terms, right),
    }
}

fn unlisted(terms: Terms, needed: Right) -> Option<Refused> {
    Some(terms.refused(needed)).filter(|refused| refused.is_blind)
}

fn rename(
    principal: &Principal,
    from: &RelPath,
    to: &RelPath,
    replace: bool,
) -> Result<Grant, Refused> {
    let source = Terms::throughout(principal, from);
    let target = Terms::throughout(principal, to);
    source.needs(Right::Rename).or_else(|no| source.needs(Right::Remove).map_err(|_| no))?;
    target.needs(Right::Create)?;
    // Else a move would be a way to read what may not be read where it is.
    for right in [Right::Get, Right::List] {
        if target.possible.has(right) {
            source.needs(right)?;
        }
    }
    let replace = replace && target.rights.has(Right::Replace);
    let overwrite = if replace { Overwrite::Allowed } else { Overwrite::Never };
    let (old, new) = (Terms::at(principal, Some(from)), Terms::at(principal, Some(to)));
    Ok(Grant {
        overwrite,
        parents_from: usize::MAX,
        retain: source.retain(),
        retain_target: target.retain(),
        unlisted: unlisted(old, Right::Rename).or(unlisted(new, Right::Rename)),
    })
}

/// Directories are missing from some depth on, so that what counts is from where on the right to make
/// them holds without a gap.
fn parents_from(principal: &Principal, path: &RelPath) -> usize {
    let may_make = |parent: &RelPath| Terms::at(principal, Some(parent)).rights.has(Right::Mkdir);
    path.depth() - path.ancestors().rev().take_while(may_make).count()
}

/// What a listing of `directory` leaves out. A name in it is governed by the rules that have one
/// component more than the directory, and else by what holds for the directory itself.
pub fn hidden_in(principal: &Principal, directory: Option<&RelPath>) -> Hidden {
    let depth = directory.map_or(0, RelPath::depth) + 1;
    let hiding = principal.rules.iter().filter(|rule| {
        let pattern = &rule.pattern;
        !rule.rights.has(Right::List)
            && pattern.depth() == depth
            && pattern.reaches_below(directory)
    });
    Hidden(hiding.map(|rule| rule.pattern.clone()).collect())
}
