//! Money in motion: a request is bounded and held before it is sent, and settled or voided after.
//!
//! The row of an attempt is its hold, its usage event and its ledger entry at once. A budget is nothing but the sums
//! over the attempts of its scope and period, kept in the same transaction: what [`fsck`] checks. Only the pure machine
//! of [`tollgate_core::budget`] grants, inside that transaction.

pub mod adjustment;
mod attempt;
mod batch;
pub mod fsck;
mod hold;
mod ledger;
mod pace;
mod post;
mod queue;
pub mod recovery;
mod refusal;
pub mod replay;
pub mod requests;
pub mod retention;
mod rollup;
mod shelf;
pub mod spend_limit;
mod sums;
mod totals;
mod underway;
pub mod usage;

#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;

pub use attempt::{Attempt, Endpoint, Flags, Reported, State, UsageSource};
pub use hold::{Dispatched, Hold};
pub use ledger::{Durability, Ledger, Options};
pub use post::postman;
pub use queue::Refused;
pub use totals::{Total, Totals};
