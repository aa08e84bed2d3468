//! The map of the building: what `ftd` and `ftc` are made of, floor by floor.
//!
//! A module uses only floors below it, and never a neighbour on its own floor;
//! `tests/architecture.rs` holds it to that. `docs/architecture.md` tells the reasons.

// Floor 0: the words everything else is written in.
pub mod types;

// Floor 1: decisions without I/O.
pub mod access;
pub mod config;
pub mod identity;
pub mod proto;

// Floor 2: the two places where bytes leave the process.
pub mod fsroot;
pub mod wire;

// Floor 3: whole transfers.
pub mod transfer;

// Floor 4: the two programs.
pub mod client;
pub mod daemon;

// Floor 5, in tests and fuzzers alone: both programs in one process, under a network that fails on purpose.
#[cfg(any(test, fuzzing))]
pub mod simulation;
