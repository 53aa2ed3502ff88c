//! The data plane: one request, from its key to its cost.
//!
//! [`serve()`] is the whole path, read from top to bottom. What it may do is decided on a snapshot of the replica; what it
//! may cost is held by the ledger before `upstream` opens anything, for a dispatch takes the hold by value. Apart from
//! the ledger's batch no request here reads the database.

mod admit;
mod blocks;
mod body;
mod call;
mod caller;
mod choice;
mod dispatch;
mod edit;
mod fields;
mod growth;
mod health;
mod messages;
mod models;
mod observe;
mod output_limit;
mod parameters;
mod permit;
mod pool;
mod refusal;
mod relay;
mod route;
mod serve;
mod sse;
mod tokenizer;
mod upstream;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tollgate_core::Clock;
use tollgate_ledger::Ledger;
use tollgate_replica::Replica;
use tollgate_wire::Dialer;

use health::Watch;
pub use pool::Pool;
pub use route::is_of_gateway;
pub use serve::serve;

/// What the operator can set.
#[derive(Clone, Debug)]
pub struct Options {
    pub body_bytes_max: usize,
    /// From the request to the head of the answer.
    pub answer_time_max: Duration,
    /// Between two pieces of an answer.
    pub stall_time_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            body_bytes_max: 10 * 1024 * 1024,
            answer_time_max: Duration::from_mins(10),
            stall_time_max: Duration::from_mins(5),
        }
    }
}

/// Answers whose client has gone and which are read on for their usage.
const DRAINS_MAX: usize = 256;
/// Requests whose tokens are counted at a time.
const COUNTING_MAX: usize = 2;

/// What all workers of a node share.
pub struct Gateway {
    pub replica: Arc<Replica>,
    pub ledger: Ledger,
    pub clock: Clock,
    pub dialer: Dialer,
    pub options: Options,
    watch: Watch,
    drains: Semaphore,
    counting: Semaphore,
}

impl Gateway {
    pub fn new(
        replica: Arc<Replica>,
        ledger: Ledger,
        clock: Clock,
        dialer: Dialer,
        options: Options,
    ) -> Self {
        let (drains, counting) = (Semaphore::new(DRAINS_MAX), Semaphore::new(COUNTING_MAX));
        Self { replica, ledger, clock, dialer, options, watch: Watch::default(), drains, counting }
    }
}
