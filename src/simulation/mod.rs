//! Floor 5: both programs in one process, under a network, a disk and a clock that fail on purpose.
//!
//! The sessions, the limits and the transfers are the daemon's own, the connections, retries and files those
//! of the client. One thread runs everything in virtual time, and whatever is left to chance a seed
//! decides: the same seed is the same world. What is stood in for is below them: [`link`] for sockets,
//! [`store`] for the tree on disk, tasks for file threads.
//!
//! What makes it possible in the programs: `wire::Stream`, `transfer::Workers::simulated`, a dialer in the client's
//! `Job`, and `daemon::simulated` and `client::simulated`, which open the doors of both. `select!` is biased and maps
//! are ordered where their order can be seen.
//!
//! `actor` tells what a client holds the server to, `tap` what somebody sees who reads along, `world` what
//! must be left at the end: nothing.

#![cfg_attr(not(test), allow(dead_code, reason = "the fuzzer needs a part of it"))]

mod disk;
mod link;
mod rng;
mod session;
mod sim;
mod store;
mod tap;

#[cfg(test)]
mod actor;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub use session::eat;
