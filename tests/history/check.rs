//! Whether there is an order of operations that explains a history: each took effect at one moment between
//! its call and its end. Renames couple names, so that the state is that of a pair of names together; other
//! pairs have histories of their own.
//!
//! The search is Wing and Gong's with Lowe's memory: it takes effects one by one, goes back where it is
//! stuck, and never searches twice from the same set of effects and the same state.

use std::collections::{HashMap, HashSet};
use std::fmt;

/// Names that renames couple.
pub const NAMES: usize = 2;

/// What each name holds: the number of a content, or nothing.
pub type State = [Option<u32>; NAMES];

/// What an operation did, or saw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Deed {
    /// A get, a stat, or a refusal: the name held this.
    Is {
        name: usize,
        content: Option<u32>,
    },
    /// A refusal: the name was taken.
    Taken {
        name: usize,
    },
    /// The same of a rename, whose old name was there.
    BothTaken {
        from: usize,
        to: usize,
    },
    /// A put; one that only creates needs a name that is free.
    Put {
        name: usize,
        content: u32,
        creates: bool,
    },
    Remove {
        name: usize,
    },
    /// A rename; without consent the new name must be free.
    Rename {
        from: usize,
        to: usize,
        replaces: bool,
    },
}

impl Deed {
    /// The state after it; `None` when it could not have happened in this one.
    fn apply(self, state: &State) -> Option<State> {
        let mut after = *state;
        let happens = match self {
            Self::Is { name, content } => state[name] == content,
            Self::Taken { name } => state[name].is_some(),
            Self::BothTaken { from, to } => state[from].is_some() && state[to].is_some(),
            Self::Put { name, content, creates } => {
                after[name] = Some(content);
                !creates || state[name].is_none()
            }
            Self::Remove { name } => {
                after[name] = None;
                state[name].is_some()
            }
            Self::Rename { from, to, replaces } => {
                after[from] = None;
                after[to] = state[from];
                state[from].is_some() && (replaces || state[to].is_none())
            }
        };
        happens.then_some(after)
    }

    /// The content that was seen.
    fn seen(self) -> Option<u32> {
        if let Self::Is { content, .. } = self { content } else { None }
    }

    fn only_sees(self) -> bool {
        matches!(self, Self::Is { .. } | Self::Taken { .. } | Self::BothTaken { .. })
    }
}

/// One operation. Times are of one clock that never goes back.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub call: u64,
    /// `None`: nobody knows whether it happened; if so, at any time after its call.
    pub end: Option<u64>,
    pub deed: Deed,
}

/// Why a history is not accepted.
#[derive(Debug)]
pub enum Trouble {
    /// There is no such order. The operations among which the search that came farthest was stuck.
    NoOrder(Vec<Event>),
    /// The search was given up.
    Undecided(Vec<Event>),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecided(_) => write!(f, "the search for an order was given up")?,
            Self::NoOrder(_) => write!(f, "no order explains it")?,
        }
        let (Self::Undecided(stuck) | Self::NoOrder(stuck)) = self;
        write!(f, "; who came farthest was stuck among")?;
        stuck.iter().try_for_each(|event| write!(f, "\n  {event:?}"))
    }
}

/// Effects that are tried before the search is given up.
const STEPS_MAX: usize = 100_000;

/// Finds an order from `initial` on.
pub fn check(initial: State, history: &[Event]) -> Result<(), Trouble> {
    let (initial, history) = prepared(initial, history);
    Search::new(&history).run(initial)
}

/// The same with more to go by. A content that was seen was put before the end of whoever saw it, also
/// where that put's end is not known. Contents that nobody saw are one content: nobody can tell them apart.
fn prepared(initial: State, history: &[Event]) -> (State, Vec<Event>) {
    let mut seen: HashMap<u32, u64> = HashMap::new();
    for event in history {
        if let (Some(content), Some(end)) = (event.deed.seen(), event.end) {
            seen.entry(content).and_modify(|first| *first = end.min(*first)).or_insert(end);
        }
    }
    let mut history = history.to_vec();
    for event in &mut history {
        if let Deed::Put { content, .. } = &mut event.deed {
            if let Some(first) = seen.get(content) {
                event.end = Some(event.end.map_or(*first, |end| end.min(*first)));
            } else {
                *content = UNSEEN;
            }
        }
    }
    let known = |content| if seen.contains_key(&content) { content } else { UNSEEN };
    (initial.map(|content| content.map(known)), history)
}

/// Any content that nobody saw; no content has this number.
const UNSEEN: u32 = 0;

struct Search<'a> {
    /// By their calls.
    events: Vec<&'a Event>,
    /// Those that must have happened, by their ends.
    ends: Vec<usize>,
    taken: Vec<bool>,
    /// Of each content, how many who saw it have not been taken.
    unseen: HashMap<u32, usize>,
    known: HashSet<(Vec<u64>, State)>,
}

/// An effect that was taken.
struct Step {
    event: usize,
    before: State,
    /// Whether another one in its place is worth a try.
    is_choice: bool,
}

impl<'a> Search<'a> {
    fn new(history: &'a [Event]) -> Self {
        let mut events: Vec<_> = history.iter().collect();
        events.sort_by_key(|event| event.call);
        let mut ends: Vec<_> =
            (0..events.len()).filter(|event| events[*event].end.is_some()).collect();
        ends.sort_by_key(|event| events[*event].end);
        let mut unseen = HashMap::new();
        for content in events.iter().filter_map(|event| event.deed.seen()) {
            *unseen.entry(content).or_default() += 1;
        }
        let taken = vec![false; events.len()];
        Self { events, ends, taken, unseen, known: HashSet::new() }
    }

    fn run(mut self, initial: State) -> Result<(), Trouble> {
        let (mut state, mut steps): (State, Vec<Step>) = (initial, Vec::new());
        let (mut farthest, mut stuck_at) = (0, Vec::new());
        // What is tried next: the first choice, or the one after that which led nowhere.
        let mut after: Option<usize> = None;
        for _ in 0..STEPS_MAX {
            let Some(first_end) = self.first_end() else { return Ok(()) };
            let open = self.open(first_end);
            if after.is_none() && steps.len() >= farthest {
                farthest = steps.len();
                stuck_at = open.iter().map(|event| *self.events[*event]).collect();
            }
            let next = match after.take() {
                // Whoever only sees, and sees what is there, has its moment here as well as later.
                None => open
                    .iter()
                    .find(|event| self.sees(**event, &state))
                    .map(|event| (*event, false))
                    .or_else(|| self.choice(&open, None, &state).map(|event| (event, true))),
                Some(last) => self.choice(&open, Some(last), &state).map(|event| (event, true)),
            };
            if let Some((event, is_choice)) = next {
                steps.push(Step { event, before: state, is_choice });
                state = self.events[event].deed.apply(&state).unwrap_or(state);
                self.take(event, true);
                continue;
            }
            loop {
                let Some(step) = steps.pop() else { return Err(Trouble::NoOrder(stuck_at)) };
                self.take(step.event, false);
                state = step.before;
                if step.is_choice {
                    after = Some(step.event);
                    break;
                }
            }
        }
        Err(Trouble::Undecided(stuck_at))
    }

    fn take(&mut self, event: usize, is_taken: bool) {
        self.taken[event] = is_taken;
        if let Some(count) =
            self.events[event].deed.seen().and_then(|seen| self.unseen.get_mut(&seen))
        {
            if is_taken { *count -= 1 } else { *count += 1 }
        }
    }

    /// Whether a content is gone that somebody has yet to see: it would never come back.
    fn loses(&self, before: &State, after: &State) -> bool {
        let mut gone = before.iter().flatten().filter(|content| !after.contains(&Some(**content)));
        gone.any(|content| self.unseen.get(content).is_some_and(|count| *count > 0))
    }

    /// The first end of what must have happened and has not been taken.
    fn first_end(&self) -> Option<u64> {
        self.ends
            .iter()
            .find(|event| !self.taken[**event])
            .and_then(|event| self.events[*event].end)
    }

    /// What may come next: all that was called before the first end. Certain ones come first.
    fn open(&self, first_end: u64) -> Vec<usize> {
        let called =
            (0..self.events.len()).take_while(|event| self.events[*event].call <= first_end);
        let mut open: Vec<_> = called.filter(|event| !self.taken[*event]).collect();
        open.sort_by_key(|event| self.events[*event].end.unwrap_or(u64::MAX));
        open
    }

    fn sees(&self, event: usize, state: &State) -> bool {
        let deed = self.events[event].deed;
        deed.only_sees() && deed.apply(state).is_some()
    }

    /// The first effect after `last` that may happen here and leads to what is not known yet.
    fn choice(&mut self, open: &[usize], last: Option<usize>, state: &State) -> Option<usize> {
        let from = last.and_then(|last| open.iter().position(|event| *event == last));
        for (index, event) in open.iter().enumerate().skip(from.map_or(0, |from| from + 1)) {
            let deed = self.events[*event].deed;
            // Of equal ones the first to end comes first: if there is an order, there is such an order.
            let is_equal = |other: &usize| self.events[*other].deed == deed;
            if deed.only_sees() || open[..index].iter().any(is_equal) {
                continue;
            }
            let Some(after) = deed.apply(state) else { continue };
            self.taken[*event] = true;
            let is_worth_it = !self.loses(state, &after) && self.known.insert((self.set(), after));
            self.taken[*event] = false;
            if is_worth_it {
                return Some(*event);
            }
        }
        None
    }

    /// What has been taken, packed.
    fn set(&self) -> Vec<u64> {
        let pack = |word: u64, is_taken: &bool| word << 1 | u64::from(*is_taken);
        self.taken.chunks(64).map(|chunk| chunk.iter().fold(0, pack)).collect()
    }
}

/// The judge is judged: histories of which everybody can see what they are.
mod tests {
    use super::*;

    const EMPTY: State = [None; NAMES];

    fn event(call: u64, end: u64, deed: Deed) -> Event {
        Event { call, end: Some(end), deed }
    }

    fn unknown(call: u64, deed: Deed) -> Event {
        Event { call, end: None, deed }
    }

    fn put(content: u32) -> Deed {
        Deed::Put { name: 0, content, creates: false }
    }

    fn create(content: u32) -> Deed {
        Deed::Put { name: 0, content, creates: true }
    }

    fn is(name: usize, content: impl Into<Option<u32>>) -> Deed {
        Deed::Is { name, content: content.into() }
    }

    fn rename(from: usize, to: usize) -> Deed {
        Deed::Rename { from, to, replaces: true }
    }

    const REMOVE: Deed = Deed::Remove { name: 0 };

    #[test]
    fn what_one_order_explains_is_accepted() {
        let histories = [
            vec![],
            vec![event(1, 2, put(1)), event(3, 4, is(0, 1))],
            // Both puts at once: either may be the last.
            vec![event(1, 9, put(1)), event(1, 9, put(2)), event(10, 11, is(0, 1))],
            vec![event(1, 9, put(1)), event(1, 9, put(2)), event(10, 11, is(0, 2))],
            // Readers see the new and, earlier, the old one.
            vec![event(1, 9, put(1)), event(2, 4, is(0, None)), event(5, 6, is(0, 1))],
            // What nobody knows of has happened, late, or has not.
            vec![unknown(1, put(1)), event(2, 3, is(0, None)), event(8, 9, is(0, 1))],
            vec![unknown(1, put(1)), event(8, 9, is(0, None))],
            // It was put and removed before anybody saw it.
            vec![unknown(1, put(1)), event(5, 6, REMOVE), event(8, 9, is(0, None))],
            vec![event(1, 9, create(1)), event(1, 9, Deed::Taken { name: 0 })],
            vec![event(1, 5, create(1)), event(6, 7, REMOVE), event(8, 9, create(2))],
            // A rename to and fro.
            vec![
                event(1, 2, put(1)),
                event(3, 9, rename(0, 1)),
                event(3, 9, rename(1, 0)),
                event(10, 11, is(0, 1)),
                event(12, 13, is(1, None)),
            ],
        ];
        for history in histories {
            assert!(check(EMPTY, &history).is_ok(), "{history:?}");
        }
    }

    #[test]
    fn what_no_order_explains_is_found() {
        let histories = [
            ("a stale read", vec![event(1, 2, put(1)), event(3, 4, put(2)), event(5, 6, is(0, 1))]),
            ("a lost update", vec![event(1, 2, put(1)), event(3, 4, is(0, None))]),
            (
                "a removal that came back",
                vec![event(1, 2, put(1)), event(3, 4, REMOVE), event(5, 6, is(0, 1))],
            ),
            ("a content that nobody put, as a torn one is", vec![event(1, 2, is(0, 7))]),
            (
                "two readers who disagree about the order",
                vec![
                    event(1, 90, put(1)),
                    event(1, 90, put(2)),
                    event(10, 11, is(0, 1)),
                    event(12, 13, is(0, 2)),
                    event(14, 15, is(0, 1)),
                ],
            ),
            ("two who created", vec![event(1, 9, create(1)), event(1, 9, create(2))]),
            ("taken by nobody", vec![event(1, 2, Deed::Taken { name: 0 })]),
            (
                "two who removed one",
                vec![event(1, 2, put(1)), event(3, 9, REMOVE), event(3, 9, REMOVE)],
            ),
            (
                "what nobody knows of, before it was called",
                vec![event(1, 2, is(0, 1)), unknown(3, put(1))],
            ),
            (
                "a file lost between two renames",
                vec![
                    event(1, 2, put(1)),
                    event(3, 9, rename(0, 1)),
                    event(3, 9, rename(1, 0)),
                    event(10, 11, is(0, None)),
                    event(12, 13, is(1, None)),
                ],
            ),
            (
                "a file under two names",
                vec![
                    event(1, 2, put(1)),
                    event(3, 4, rename(0, 1)),
                    event(5, 6, is(1, 1)),
                    event(7, 8, is(0, 1)),
                ],
            ),
        ];
        for (what, history) in histories {
            let found = check(EMPTY, &history);
            assert!(matches!(found, Err(Trouble::NoOrder(_))), "{what}: {found:?}");
        }
    }

    /// As wide as the real ones, or wider: a dozen at any time.
    #[test]
    fn a_wide_history_is_decided() {
        let mut state = 7_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let (mut tree, mut history) = (EMPTY, Vec::new());
        for moment in 1..=600_u32 {
            let name = usize::try_from(next(2)).unwrap_or(0);
            let deed = match next(10) {
                0..4 => Deed::Put { name, content: moment, creates: false },
                4 if tree[name].is_some() => Deed::Remove { name },
                5 if tree[name].is_some() => rename(name, (name + 1) % NAMES),
                _ => is(name, tree[name]),
            };
            tree = deed.apply(&tree).unwrap_or(tree);
            let moment = u64::from(moment) * 10;
            history.push(event(moment.saturating_sub(next(120)), moment + next(120), deed));
        }
        assert!(check(EMPTY, &history).is_ok());
        // And the end of it, were it another.
        let wrong = is(0, if tree[0] == Some(1) { None } else { Some(1) });
        history.push(event(9_000, 9_001, wrong));
        assert!(check(EMPTY, &history).is_err());
    }
}
