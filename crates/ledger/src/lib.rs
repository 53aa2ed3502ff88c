//! Money in motion: a request is bounded and held before it is sent, and settled or voided after.
//!
//! The row of an attempt is its hold, its usage event and its ledger entry at once. A budget is nothing but the sums
//! over the attempts of its scope and period, kept in the same transaction: what [`fsck`] checks. Only the pure machine
//! of [`tollgate_core::budget`] grants, inside that transaction.

mod attempt;
mod batch;
pub mod fsck;
mod hold;
mod ledger;
pub mod recovery;
pub mod requests;
mod rollup;
pub mod spend_limit;
pub mod usage;

#[cfg(test)]
mod tests;

pub use attempt::{Attempt, Endpoint, Outcome, State, UsageSource};
pub use hold::{Dispatched, Hold};
pub use ledger::{Ledger, Options};
