//! The data plane: one request, from its key to its cost.
//!
//! [`serve()`] is the whole path, read from top to bottom. What it may do is decided on a snapshot of the replica; what it
//! may cost is held by the ledger before `upstream` opens anything, for a dispatch takes the hold by value. Apart from
//! the ledger's batch no request here reads the database.

mod admit;
mod background;
mod beat;
mod blocks;
mod body;
mod call;
mod caller;
mod choice;
mod dispatch;
mod edit;
mod fields;
mod figures;
#[doc(hidden)]
pub mod fuzz;
mod growth;
mod health;
mod kept;
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
mod stored;
mod tokenizer;
mod tools;
mod upstream;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tollgate_core::{Clock, UpstreamId};
use tollgate_ledger::Ledger;
use tollgate_replica::Replica;
use tollgate_store::Db;
use tollgate_wire::Dialer;

pub use figures::{Figures, NO_STATUS};
pub use pool::Pool;
pub use route::is_of_gateway;
pub use serve::{Served, serve};

use health::Watch;

/// What the operator can set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Requests under way at a time; more are refused before their bodies are read.
    pub under_way_max: usize,
    pub body_bytes_max: usize,
    /// Of all bodies that are under way together.
    pub bodies_bytes_max: usize,
    /// From the request to the head of the answer.
    pub answer_time_max: Duration,
    /// Between two pieces of an answer.
    pub stall_time_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            under_way_max: 10_000,
            body_bytes_max: 10 * 1024 * 1024,
            bodies_bytes_max: 512 * 1024 * 1024,
            answer_time_max: Duration::from_mins(10),
            stall_time_max: Duration::from_mins(5),
        }
    }
}

/// Answers whose client has gone and which are read on for their usage.
const DRAINS_MAX: usize = 256;
/// Responses in the background whose end is waited for, at a time.
const FOLLOWED_MAX: usize = 4_000;
/// Bodies take up room by so many bytes.
const BODY_PIECE: usize = 4 * 1024;
/// Requests whose tokens are counted at a time.
const COUNTING_MAX: usize = 2;

/// What all workers of a node share.
pub struct Gateway {
    pub replica: Arc<Replica>,
    /// Whose stored responses are. Nothing else of a request is looked up there.
    db: Db,
    pub ledger: Ledger,
    pub clock: Clock,
    pub dialer: Dialer,
    pub options: Options,
    pub figures: Figures,
    watch: Watch,
    /// Room for bodies, in pieces of [`BODY_PIECE`].
    bodies: Semaphore,
    drains: Semaphore,
    /// Responses in the background whose end is waited for.
    followed: Semaphore,
    counting: Semaphore,
}

impl Gateway {
    /// Upstreams by name, and whether each can be asked as far as this node has seen.
    pub fn upstreams_up(&self) -> Vec<(String, bool)> {
        let snapshot = self.replica.snapshot();
        let upstreams = snapshot.upstreams();
        upstreams.map(|upstream| (upstream.name.clone(), self.watch.of(upstream).is_up())).collect()
    }

    /// Upstreams with their names, and whether each cannot be used; `None` if nothing has shown it.
    pub fn upstreams_down(&self) -> Vec<(UpstreamId, String, Option<bool>)> {
        let snapshot = self.replica.snapshot();
        let upstreams = snapshot.upstreams();
        upstreams.map(|one| (one.id, one.name.clone(), self.watch.of(one).is_down())).collect()
    }

    /// Whether one cannot be used; `None` if nothing has shown it, or there is none.
    pub fn is_upstream_down(&self, id: UpstreamId) -> Option<bool> {
        let snapshot = self.replica.snapshot();
        snapshot.upstream(id).and_then(|upstream| self.watch.of(upstream).is_down())
    }

    pub fn new(
        replica: Arc<Replica>,
        db: Db,
        ledger: Ledger,
        clock: Clock,
        dialer: Dialer,
        options: Options,
    ) -> Self {
        let bodies = Semaphore::new(options.bodies_bytes_max / BODY_PIECE);
        let (drains, counting) = (Semaphore::new(DRAINS_MAX), Semaphore::new(COUNTING_MAX));
        Self {
            replica,
            db,
            ledger,
            clock,
            dialer,
            options,
            figures: Figures::default(),
            watch: Watch::default(),
            bodies,
            drains,
            followed: Semaphore::new(FOLLOWED_MAX),
            counting,
        }
    }
}
