//! A worker's idle connections to upstreams.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tollgate_wire::ClientConnection;

/// Connections by the origin they lead to.
#[derive(Default)]
pub struct Pool(Mutex<HashMap<String, Vec<Idle>>>);

struct Idle {
    connection: ClientConnection,
    since: Instant,
}

const IDLE_MAX: usize = 128;
/// Some servers close a silent connection after five seconds; what they close as we write to it costs a second attempt.
const IDLE_TIME_MAX: Duration = Duration::from_secs(4);

impl Pool {
    fn idle(&self) -> MutexGuard<'_, HashMap<String, Vec<Idle>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last, for it is the least likely to have been closed.
    pub(crate) fn take(&self, origin: &str) -> Option<ClientConnection> {
        loop {
            let mut idle = self.idle().get_mut(origin)?.pop()?;
            if idle.since.elapsed() < IDLE_TIME_MAX && !idle.connection.is_stale() {
                return Some(idle.connection);
            }
        }
    }

    /// Forgets the connections to an origin: one of them had died.
    pub(crate) fn forget(&self, origin: &str) {
        self.idle().remove(origin);
    }

    pub(crate) fn put(&self, origin: String, connection: ClientConnection) {
        let mut all = self.idle();
        let of_origin = all.entry(origin).or_default();
        if of_origin.len() >= IDLE_MAX {
            of_origin.remove(0);
        }
        of_origin.push(Idle { connection, since: Instant::now() });
    }
}
