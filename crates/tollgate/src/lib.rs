//! The server and the command line of Tollgate.
//!
//! [`node::Node`] puts the crates together into a running server; [`command`] holds what the command line does with it,
//! and with the API of any server that speaks OpenAI's. There are no rules of the product here.

mod access_log;
pub mod api;
pub mod challenge;
pub mod cli;
pub mod command;
pub mod config;
mod first_start;
mod handover;
mod listener;
mod metrics;
pub mod node;
mod otel;
mod secrets_file;
mod service;

/// The exit code of a program that wrote to where nobody reads, as a shell has it.
pub const BROKEN_PIPE: u8 = 141;
