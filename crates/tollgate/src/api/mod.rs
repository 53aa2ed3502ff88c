//! The command line over the API of any server that speaks OpenAI's.

mod amount;
pub mod arguments;
pub mod client;
pub mod commands;
mod output;
mod secret_input;
mod table;

pub use output::Format;
pub use secret_input::read as read_secret;
