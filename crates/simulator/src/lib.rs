//! A provider that is not there: it answers completions, responses, embeddings, moderations and models as OpenAI does, bills by a real
//! tokenizer, plays latency and faults from a script, and keeps books of its own.
//!
//! It is the witness against which the gateway is tested, so it shares none of the gateway's code: another HTTP
//! implementation, its own idea of usage, its own list of requests.

mod answer;
mod books;
mod chat;
mod completions;
mod embeddings;
mod messages;
mod moderations;
mod responses;
mod script;
mod server;
mod text;

pub use server::{MODELS, Simulator};
