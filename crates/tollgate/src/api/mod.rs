//! The command line over the API of any server that speaks OpenAI's.

mod amount;
pub mod arguments;
mod audit;
pub mod client;
mod commands;
pub mod declared;
pub mod doctor;
pub mod filter;
mod keys;
pub mod ledger;
pub mod limits;
pub mod models;
mod named;
pub mod nouns;
mod openai;
pub mod operation;
mod output;
pub mod profile;
pub mod reconcile;
mod secret_input;
pub mod session;
pub(crate) mod table;
pub mod upstreams;
mod usage;

pub(crate) use output::hint;
pub use output::{Format, complain_of_failure, complain_of_usage, failed, print};
pub use secret_input::{Out, read as read_secret};
