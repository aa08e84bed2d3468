//! Goal: the gate says what `docs/rights.md` says. Method: every set of rights against every verb; a
//! second, slow model against random rules and paths; the document's own tables.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::types::{NameError, Pattern, Principal, RelPath, Right, Rights, Rule};

type TestResult = Result<(), Box<dyn std::error::Error>>;

const DOCUMENT: &str = include_str!("../../docs/rights.md");

fn alice(rights: Rights, rules: Vec<Rule>) -> Principal {
    Principal { name: "alice".to_owned(), home: None, rights, retain: Duration::ZERO, rules }
}

fn rel(path: &str) -> Result<RelPath, NameError> {
    RelPath::parse(path.as_bytes())
}

fn rights(words: &str) -> Rights {
    words.split_whitespace().filter_map(|word| word.parse::<Right>().ok()).collect()
}

fn rule(pattern: &str, allow: &str) -> Result<Rule, NameError> {
    Ok(Rule { pattern: Pattern::parse(pattern)?, rights: rights(allow), retain: None })
}

#[test]
fn a_verb_is_granted_by_its_own_rights_and_by_no_others() -> TestResult {
    let (path, to) = (&rel("x")?, &rel("y")?);
    for set in 0..1_u32 << Right::ALL.len() {
        let rights: Rights =
            Right::ALL.into_iter().filter(|right| set & (1 << *right as u32) != 0).collect();
        let principal = alice(rights, Vec::new());
        let granted = |action| decide(&principal, action).map(|grant| grant.overwrite).ok();
        let has = |right| rights.has(right);
        let never = |is_granted: bool| is_granted.then_some(Overwrite::Never);
        assert_eq!(granted(Action::Get { path }), never(has(Right::Get)));
        assert_eq!(granted(Action::Digest { path }), never(has(Right::Get)));
        assert_eq!(granted(Action::List { path: None }), never(has(Right::List)));
        assert_eq!(granted(Action::Stat { path: Some(path) }), never(has(Right::List)));
        assert_eq!(granted(Action::Remove { path }), never(has(Right::Remove)));
        assert_eq!(granted(Action::Rmdir { path }), never(has(Right::Remove)));
        assert_eq!(granted(Action::Mkdir { path }), never(has(Right::Mkdir)));
        let put = |replace| granted(Action::Put { path, replace });
        assert_eq!(put(false), never(has(Right::Create)));
        let expected = match (has(Right::Create), has(Right::Replace)) {
            (true, true) => Some(Overwrite::Allowed),
            (true, false) => Some(Overwrite::Never),
            (false, true) => Some(Overwrite::Only),
            (false, false) => None,
        };
        assert_eq!(put(true), expected);
        let rename = |replace| granted(Action::Rename { from: path, to, replace });
        let may = (has(Right::Rename) || has(Right::Remove)) && has(Right::Create);
        assert_eq!(rename(false), never(may));
        let over = if has(Right::Replace) { Overwrite::Allowed } else { Overwrite::Never };
        assert_eq!(rename(true), may.then_some(over));
    }
    Ok(())
}

/// The mark that the table of verbs has for one right: found out by taking rights away.
fn mark(action: Action<'_>, right: Right) -> &'static str {
    let without = |gone: &[Right]| {
        let rights = Right::ALL.into_iter().filter(|right| !gone.contains(right)).collect();
        decide(&alice(rights, Vec::new()), action).map(|grant| Grant { unlisted: None, ..grant })
    };
    let is_one_of_two = || {
        Right::ALL.into_iter().any(|other| {
            other != right && without(&[other]).is_ok() && without(&[right, other]).is_err()
        })
    };
    match without(&[right]) {
        Err(_) => "●",
        Ok(_) if is_one_of_two() => "○",
        Ok(grant) if Ok(grant) != without(&[]) => "+",
        Ok(_) => "",
    }
}

#[test]
fn the_documented_table_of_verbs_is_what_the_gate_does() -> TestResult {
    let (path, to) = (&rel("a/b")?, &rel("c/d")?);
    let actions = [
        ("get", Action::Get { path }),
        ("digest", Action::Digest { path }),
        ("list", Action::List { path: Some(path) }),
        ("stat", Action::Stat { path: Some(path) }),
        ("put", Action::Put { path, replace: true }),
        ("remove", Action::Remove { path }),
        ("rmdir", Action::Rmdir { path }),
        ("mkdir", Action::Mkdir { path }),
        ("rename", Action::Rename { from: path, to, replace: true }),
    ];
    for (verb, action) in actions {
        let cells: Vec<_> = Right::ALL.into_iter().map(|right| mark(action, right)).collect();
        let row = format!("| {verb} | {} |", cells.join(" | "));
        assert!(DOCUMENT.lines().any(|line| line == row), "docs/rights.md lacks: {row}");
    }
    assert!(DOCUMENT.contains(&format!("| verb | {} |", Right::ALL.map(Right::name).join(" | "))));
    Ok(())
}

/// the example of the document, path by path.
#[test]
fn the_documented_example_of_paths_is_what_the_gate_does() -> TestResult {
    let all = Right::ALL.map(Right::name).join(" ");
    let principal = alice(
        rights(&all),
        vec![rule("archive", "get list create mkdir")?, rule("archive/*/secret", "")?],
    );
    let rows: Vec<_> = DOCUMENT
        .lines()
        .skip_while(|line| !line.starts_with("| path |"))
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "))
        .collect();
    assert_eq!(rows.len(), 7);
    for (path, expected) in rows {
        let holds = probe(&principal, &rel(path)?);
        assert_eq!(holds, rights(expected), "{path}");
    }
    Ok(())
}

/// What holds at a path, as the verbs that need one right show it.
fn probe(principal: &Principal, path: &RelPath) -> Rights {
    let to = &RelPath::parse(b"elsewhere").expect("it is a legal path");
    let may = |action| decide(principal, action).ok();
    let put = may(Action::Put { path, replace: true }).map(|grant| grant.overwrite);
    let renames = may(Action::Rename { from: path, to, replace: false });
    let removes = may(Action::Remove { path }).is_some();
    Right::ALL
        .into_iter()
        .filter(|right| match right {
            Right::Get => may(Action::Get { path }).is_some(),
            Right::List => may(Action::List { path: Some(path) }).is_some(),
            Right::Create => matches!(put, Some(Overwrite::Never | Overwrite::Allowed)),
            Right::Replace => matches!(put, Some(Overwrite::Only | Overwrite::Allowed)),
            Right::Remove => removes,
            Right::Rename => renames.is_some(),
            Right::Mkdir => may(Action::Mkdir { path }).is_some(),
        })
        .collect()
}

#[test]
fn directories_on_the_way_are_made_where_each_may_be() -> TestResult {
    let principal = alice(
        rights("create mkdir"),
        vec![rule("a", "create")?, rule("a/b/c", "create mkdir")?, rule("a/b/c/d/e", "create")?],
    );
    // Above `a/b` nothing may be made; `a/b/c` and `a/b/c/d` may; `a/b/c/d/e` not.
    for (path, from) in [
        ("f", 1),
        ("x/f", 1),
        ("x/y/f", 1),
        ("a/f", 2),
        ("a/b/f", 3),
        ("a/b/c/f", 3),
        ("a/b/c/d/f", 3),
        ("a/b/c/d/e/f", 6),
    ] {
        let path = rel(path)?;
        let grant = decide(&principal, Action::Put { path: &path, replace: true })?;
        assert_eq!(grant.parents_from, from, "{path}");
    }
    Ok(())
}

/// a rename is neither a way out of a rule nor a way to read.
#[test]
fn a_rename_needs_what_holds_below_both_names_and_gains_no_reading() -> TestResult {
    let all = Right::ALL.map(Right::name).join(" ");
    let principal = alice(
        rights(&all),
        vec![
            rule("team/keep", "get list")?,
            rule("drop", "create remove")?,
            rule("deep/*/*", "get list create remove")?,
            rule("half/way", "create get remove")?,
        ],
    );
    for (from, to, needed) in [
        ("a", "b", None),
        ("team", "b", Some(Right::Rename)), // Something below must stay.
        ("teamx", "b", None),
        ("team/other", "b", None),
        ("team/keep/x", "b", Some(Right::Rename)),
        ("a", "team/keep/x", Some(Right::Create)),
        ("a", "team", Some(Right::Create)), // What lands in `team/keep` would be created there.
        ("a", "drop/x", None),
        ("drop/x", "a", Some(Right::Get)),
        ("drop/x", "drop/y", None),
        ("half/way", "a", Some(Right::List)),
        ("deep", "a", None),
        ("half", "a", Some(Right::List)),
    ] {
        let (from, to) = (&rel(from)?, &rel(to)?);
        let refused = decide(&principal, Action::Rename { from, to, replace: false }).err();
        assert_eq!(refused.map(|refused| refused.needed), needed, "{from} -> {to}");
    }
    Ok(())
}

#[test]
fn without_list_every_grant_says_what_to_answer_instead_of_missing() -> TestResult {
    let (path, to) = (&rel("x")?, &rel("y")?);
    let blind = alice(rights("get create replace remove rename mkdir"), Vec::new());
    for (action, needed) in [
        (Action::Get { path }, Right::Get),
        (Action::Digest { path }, Right::Get),
        (Action::Put { path, replace: true }, Right::Create),
        (Action::Remove { path }, Right::Remove),
        (Action::Rmdir { path }, Right::Remove),
        (Action::Mkdir { path }, Right::Mkdir),
        (Action::Rename { from: path, to, replace: true }, Right::Rename),
    ] {
        let unlisted = decide(&blind, action)?.unlisted;
        assert_eq!(unlisted, Some(Refused { needed, is_blind: true }), "{action:?}");
        // The very text of a refusal at the gate.
        let refused = decide(&alice(Rights::default(), Vec::new()), action).err();
        assert_eq!(unlisted, refused, "{action:?}");
        let told = refused.map(|refused| refused.to_string()).unwrap_or_default();
        assert!(
            told.contains(needed.name()) && told.ends_with("without the right \"list\""),
            "{told}"
        );
    }
    Ok(())
}

// The model: paths are slices of words, nothing is shared with the code above.

fn words(path: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(path).split('/').map(str::to_owned).collect()
}

fn model_matches(pattern: &[String], path: &[String]) -> bool {
    pattern.len() <= path.len()
        && (0..pattern.len()).all(|at| pattern[at] == "*" || pattern[at] == path[at])
}

/// What holds at a path, and for how long it is kept.
fn model_at(principal: &Principal, path: &[String]) -> (Vec<Right>, Duration) {
    let rules_of = |length: usize| {
        principal.rules.iter().filter(move |rule| {
            let pattern = words(rule.pattern.raw_bytes());
            pattern.len() == length && model_matches(&pattern, path)
        })
    };
    let retain = |length: usize| {
        let mut longest = principal.retain;
        for length in 1..=length {
            let times: Vec<_> = rules_of(length).map(|rule| rule.retain).collect();
            let above = longest;
            if let Some(time) = times.into_iter().map(|time| time.unwrap_or(above)).max() {
                longest = time;
            }
        }
        longest
    };
    let time = retain(path.len());
    for length in (1..=path.len()).rev() {
        if rules_of(length).count() > 0 {
            let all = |right: &Right| rules_of(length).all(|rule| rule.rights.has(*right));
            return (Right::ALL.into_iter().filter(all).collect(), time);
        }
    }
    (principal.rights.iter().collect(), time)
}

/// Every path at or below one, over all names that a rule can tell apart.
fn model_subtree(path: &[String], depth: usize) -> Vec<Vec<String>> {
    let mut all = vec![path.to_vec()];
    let mut at = 0;
    while at < all.len() {
        let parent = all[at].clone();
        if parent.len() < depth {
            for name in ["a", "b", "z"] {
                all.push(parent.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
        at += 1;
    }
    all
}

fn any_rights() -> impl Strategy<Value = Rights> {
    any::<u8>().prop_map(|set| {
        Right::ALL.into_iter().filter(|right| set & (1 << *right as u32) != 0).collect()
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let pattern = prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("*")], 1..4);
    (pattern, any_rights(), prop::option::of(0..4_u64)).prop_filter_map(
        "patterns parse",
        |(pattern, rights, retain)| {
            let pattern = Pattern::parse(&pattern.join("/")).ok()?;
            Some(Rule { pattern, rights, retain: retain.map(Duration::from_secs) })
        },
    )
}

fn any_principal() -> impl Strategy<Value = Principal> {
    (any_rights(), 0..4_u64, prop::collection::vec(any_rule(), 0..6)).prop_map(
        |(rights, retain, rules)| Principal {
            retain: Duration::from_secs(retain),
            ..alice(rights, rules)
        },
    )
}

fn any_path() -> impl Strategy<Value = RelPath> {
    prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("z")], 1..4)
        .prop_filter_map("paths parse", |path| rel(&path.join("/")).ok())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// single paths.
    #[test]
    fn the_gate_agrees_with_the_model_at_every_path(
        principal in any_principal(),
        path in any_path(),
    ) {
        let (held, retain) = model_at(&principal, &words(path.raw_bytes()));
        let has = |right| held.contains(&right);
        let granted = |action| decide(&principal, action).is_ok();
        let path = &path;
        prop_assert_eq!(granted(Action::Get { path }), has(Right::Get));
        prop_assert_eq!(granted(Action::Digest { path }), has(Right::Get));
        prop_assert_eq!(granted(Action::List { path: Some(path) }), has(Right::List));
        prop_assert_eq!(granted(Action::Stat { path: Some(path) }), has(Right::List));
        prop_assert_eq!(granted(Action::Rmdir { path }), has(Right::Remove));
        prop_assert_eq!(granted(Action::Mkdir { path }), has(Right::Mkdir));
        let remove = decide(&principal, Action::Remove { path });
        prop_assert_eq!(remove.is_ok(), has(Right::Remove));
        if let Ok(grant) = remove {
            prop_assert_eq!(grant.retain.unwrap_or_default(), retain);
            prop_assert_eq!(grant.unlisted.is_none(), has(Right::List));
        }
        let put = decide(&principal, Action::Put { path, replace: true });
        prop_assert_eq!(put.is_ok(), has(Right::Create) || has(Right::Replace));
        if let Ok(grant) = put {
            // Whatever is missing, it is missing from some depth on.
            let path = words(path.raw_bytes());
            for missing in 1..path.len() {
                let may = (missing..path.len())
                    .all(|depth| model_at(&principal, &path[..depth]).0.contains(&Right::Mkdir));
                prop_assert_eq!(grant.parents_from <= missing, may);
            }
            prop_assert_eq!(grant.retain.unwrap_or_default(), retain);
        }
    }

    #[test]
    fn a_listing_shows_what_may_be_listed(
        principal in any_principal(),
        directory in prop::option::of(any_path()),
    ) {
        if decide(&principal, Action::List { path: directory.as_ref() }).is_ok() {
            let hidden = hidden_in(&principal, directory.as_ref());
            for name in ["a", "b", "z"] {
                let mut path = directory.as_ref().map_or(Vec::new(), |path| words(path.raw_bytes()));
                path.push(name.to_owned());
                let listed = model_at(&principal, &path).0.contains(&Right::List);
                prop_assert_eq!(hidden.hides(name.as_bytes()), !listed, "{}", name);
            }
        }
    }

    /// what is granted is right for every path that could be moved along; and where no two rules
    /// meet, nothing else is refused.
    #[test]
    fn a_rename_agrees_with_the_model_over_the_whole_subtree(
        principal in any_principal(),
        from in any_path(),
        to in any_path(),
        replace in any::<bool>(),
    ) {
        let held = |path: &RelPath| {
            let all = model_subtree(&words(path.raw_bytes()), 5);
            all.iter().map(|path| model_at(&principal, path)).collect::<Vec<_>>()
        };
        let (old, new) = (held(&from), held(&to));
        let all = |at: &[(Vec<Right>, Duration)], right| at.iter().all(|(held, _)| held.contains(&right));
        let any = |at: &[(Vec<Right>, Duration)], right| at.iter().any(|(held, _)| held.contains(&right));
        let may = (all(&old, Right::Rename) || all(&old, Right::Remove))
            && all(&new, Right::Create)
            && [Right::Get, Right::List].into_iter().all(|right| all(&old, right) || !any(&new, right));
        let decided = decide(&principal, Action::Rename { from: &from, to: &to, replace });
        let meet = principal.rules.iter().enumerate().any(|(at, one)| {
            principal.rules[at + 1..].iter().any(|other| one.pattern.depth() == other.pattern.depth())
        });
        match decided {
            Ok(grant) => {
                prop_assert!(may);
                let longest = |at: &[(Vec<Right>, Duration)]| at.iter().map(|(_, time)| *time).max();
                prop_assert_eq!(grant.retain.unwrap_or_default(), longest(&old).unwrap_or_default());
                prop_assert_eq!(grant.retain_target.unwrap_or_default(), longest(&new).unwrap_or_default());
                let replaces = replace && all(&new, Right::Replace);
                prop_assert_eq!(grant.overwrite == Overwrite::Allowed, replaces);
            }
            Err(_) => prop_assert!(!may || meet),
        }
    }
}
