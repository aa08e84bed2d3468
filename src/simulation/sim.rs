//! What all parts of one simulated world share: its seed's numbers, its log, and what it has found.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::rng::Rng;

/// Things that happen in one world at the most.
const EVENTS_MAX: u64 = 5_000_000;

/// A fault that is planted to see whether it is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Planted {
    /// None.
    Nothing,
    /// The store says that it has a file, and does not keep it.
    StoreForgets,
    /// The store keeps a file without its end.
    StoreTears,
    /// One final frame of the server never leaves.
    AnswerLost,
    /// One final frame of the server leaves twice.
    AnswerTwice,
    /// The client takes what comes without comparing its digest.
    ClientTrusts,
    /// A buffer is never given back.
    BufferKept,
    /// What is staged is never removed.
    StagingKept,
}

/// A handle on one world; cheap to clone.
#[derive(Clone)]
pub(crate) struct Sim(Arc<Inner>);

struct Inner {
    planted: Planted,
    start: Instant,
    rng: Mutex<Rng>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    verbose: bool,
    trace: u64,
    events: u64,
    faults: u64,
    is_rough: bool,
    is_hostile: bool,
    breaches: Vec<String>,
}

/// What came of a world.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Outcome {
    /// What of the laws was broken, with the time.
    pub(crate) breaches: Vec<String>,
    /// A hash over all that happened.
    pub(crate) trace: u64,
    /// Things that happened.
    pub(crate) events: u64,
    /// Of them, faults of network, store and machine.
    pub(crate) faults: u64,
    /// Time that passed inside.
    pub(crate) elapsed: Duration,
}

impl Sim {
    pub(crate) fn new(seed: u64, planted: Planted, verbose: bool) -> Self {
        let state = State { verbose, trace: 0xcbf2_9ce4_8422_2325, ..State::default() };
        Self(Arc::new(Inner {
            planted,
            start: Instant::now(),
            rng: Mutex::new(Rng::new(seed)),
            state: Mutex::new(state),
        }))
    }

    pub(crate) fn planted(&self, what: Planted) -> bool {
        self.0.planted == what
    }

    pub(crate) fn rng<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.0.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether faults may happen at this time.
    pub(crate) fn is_rough(&self) -> bool {
        self.state().is_rough
    }

    pub(crate) fn set_rough(&self, is_rough: bool) {
        self.state().is_rough = is_rough;
    }

    /// From now on there is somebody who breaks the protocol, and may be told so.
    pub(crate) fn set_hostile(&self) {
        self.state().is_hostile = true;
    }

    pub(crate) fn is_hostile(&self) -> bool {
        self.state().is_hostile
    }

    /// `true` so many times in a thousand, while faults may happen.
    pub(crate) fn misfortune(&self, per_mille: u64) -> bool {
        self.is_rough() && self.rng(|rng| rng.chance(per_mille))
    }

    /// Something happened.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>12} {what}", self.0.start.elapsed().as_micros());
        let mut state = self.state();
        state.events += 1;
        assert!(state.events < EVENTS_MAX, "the world goes round in circles");
        for byte in line.as_bytes() {
            // *Source*: FNV-1a, 64 bits.
            state.trace = (state.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if state.verbose {
            println!("{line}");
        }
    }

    /// Something was made to go wrong.
    pub(crate) fn fault(&self, what: fmt::Arguments<'_>) {
        self.state().faults += 1;
        self.note(format_args!("! {what}"));
    }

    /// A law was broken.
    pub(crate) fn breach(&self, what: fmt::Arguments<'_>) {
        self.note(format_args!("BREACH {what}"));
        let line = format!("at {:?}: {what}", self.0.start.elapsed());
        self.state().breaches.push(line);
    }

    pub(crate) fn outcome(&self) -> Outcome {
        let state = self.state();
        Outcome {
            breaches: state.breaches.clone(),
            trace: state.trace,
            events: state.events,
            faults: state.faults,
            elapsed: self.0.start.elapsed(),
        }
    }
}
