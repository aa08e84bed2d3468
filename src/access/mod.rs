//! Floor 1: the one gate that every request passes.
//!
//! The decision looks at the user's rules and the spelling of the path, never at the disk: so a
//! refusal is the same whether or not the path exists. Source: `docs/rights.md`.

mod decide;
mod model;
#[cfg(test)]
mod tests;

pub use decide::{decide, hidden_in};
pub use model::{Action, Grant, Hidden, Overwrite, Refused};
