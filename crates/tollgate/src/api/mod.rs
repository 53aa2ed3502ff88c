//! The command line over the API of any server that speaks OpenAI's.

mod amount;
pub mod arguments;
pub mod client;
pub mod commands;
mod output;
mod secret_input;
mod table;

pub use output::{Format, complain_of_usage};
pub use secret_input::{Out, read as read_secret};
