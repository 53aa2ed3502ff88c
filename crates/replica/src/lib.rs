//! A node's in-memory copy of all that authorizes a request: keys, projects, people, upstreams, models.
//!
//! It is a replica, not a cache: it holds everything, so an unknown key costs no query, and its only writer is the
//! applier, which reads the change log in order. A request takes one [`Snapshot`] and can bring nothing back into it.
//! A change is announced to its caller only after [`Replica::reach`] has seen it applied.

mod activity;
mod apply;
mod credential;
mod last_use;
mod rows;
mod sharded;
mod snapshot;

pub use activity::{KEPT_SECONDS as ACTIVITY_KEPT_SECONDS, LONGEST as LONGEST_TIME, Outcome};
pub use apply::Replica;
pub use credential::Refused;
pub use rows::{read_limits, read_price, read_projects, read_spend_policy};
pub use snapshot::{
    Key, KeyCounts, Model, Organization, Project, Snapshot, SpendPolicy, Upstream, User, key_expiry_header,
};
