//! What is done at the machine itself.

pub mod dev;
pub mod maintenance;
pub mod place;
pub mod serve;
pub mod setup;
pub mod simulate;
