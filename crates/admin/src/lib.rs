//! The control plane: OpenAI's administration API, and what it lacks.
//!
//! Each operation is one row in the table of its resource's file and one plain function. Routing, permission, audit and
//! the OpenAPI document read the row, so none of them can be forgotten. Every change passes the gate of
//! `gate`: actor, permission, transaction, run, audit event and change log, commit, and then the wait until it is in
//! force.

mod acceptance;
mod access;
mod actor;
mod arguments;
mod audit;
pub mod chain;
mod gate;
pub mod host;
mod http;
pub mod openapi;
mod operation;
mod password;
mod query;
mod resource;
mod session;
mod token;

pub use acceptance::{Acceptance, Accepted, Invited};
pub use actor::{Actor, Credential, Origin};
pub use audit::Event;
pub use gate::{Admin, Parts, UpstreamsDown};
pub use http::TrustedProxies;
pub use operation::{Access, Method, Operation, Operations};
pub use session::{Given, ListedSession, Meaning, OidcOptions, OpenedSession, Pending, Proof, Session};

/// The table of all operations.
pub fn operations() -> Operations {
    resource::operations()
}
