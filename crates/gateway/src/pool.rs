//! What a worker keeps between requests: idle connections to upstreams, and a beat.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use tokio::time::Instant;
use tollgate_core::UpstreamId;
use tollgate_core::upstream::HttpVersion;
use tollgate_replica::Upstream;
use tollgate_wire::ClientConnection;

use crate::beat::Beat;

#[derive(Default)]
pub struct Pool {
    /// Connections by the upstream they were made for. One that has moved, or trusts others now, has none.
    idle: Mutex<HashMap<UpstreamId, Vec<Idle>>>,
    pub(crate) beat: Beat,
}

struct Idle {
    connection: ClientConnection,
    made_for: Arc<Upstream>,
    since: Instant,
}

impl Idle {
    fn suits(&mut self, upstream: &Arc<Upstream>) -> bool {
        let old = &self.made_for;
        let leads_there = Arc::ptr_eq(old, upstream)
            || old.address.origin() == upstream.address.origin()
                && old.settings.ca_certificates == upstream.settings.ca_certificates
                && old.settings.http_version == upstream.settings.http_version;
        leads_there && self.since.elapsed() < self.idle_time_max() && !self.connection.is_stale()
    }

    fn idle_time_max(&self) -> Duration {
        match self.made_for.settings.http_version {
            Some(HttpVersion::Http2) => IDLE_TIME_MAX_H2,
            _ => IDLE_TIME_MAX,
        }
    }
}

const IDLE_MAX: usize = 512;
/// Some servers close a silent connection after five seconds; what they close as we write to it costs a second attempt.
const IDLE_TIME_MAX: Duration = Duration::from_secs(4);
/// Over HTTP/2 a connection that ends says so before.
const IDLE_TIME_MAX_H2: Duration = Duration::from_mins(1);
/// So often the connections that nobody took are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

impl Pool {
    fn idle(&self) -> MutexGuard<'_, HashMap<UpstreamId, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last, for it is the least likely to have been closed.
    pub(crate) fn take(&self, upstream: &Arc<Upstream>) -> Option<ClientConnection> {
        if upstream.settings.http_version == Some(HttpVersion::Http2) {
            return self.take_shared(upstream);
        }
        let mut all = self.idle();
        let of_upstream = all.get_mut(&upstream.id)?;
        loop {
            let mut idle = of_upstream.pop()?;
            if idle.suits(upstream) {
                return Some(idle.connection);
            }
        }
    }

    /// One that carries many requests at once, and has room for another.
    fn take_shared(&self, upstream: &Arc<Upstream>) -> Option<ClientConnection> {
        let mut all = self.idle();
        let of_upstream = all.get_mut(&upstream.id)?;
        of_upstream.retain_mut(|idle| idle.suits(upstream));
        let idle = of_upstream.iter_mut().find(|idle| idle.connection.has_room())?;
        idle.since = Instant::now();
        idle.connection.share()
    }

    /// Lets others use a new connection as well, if it carries many requests at once.
    pub(crate) fn offer(&self, upstream: &Arc<Upstream>, connection: &ClientConnection) {
        if let Some(connection) = connection.share() {
            let idle = Idle { connection, made_for: Arc::clone(upstream), since: Instant::now() };
            self.idle().entry(upstream.id).or_default().push(idle);
        }
    }

    /// Forgets the connections to an upstream: one of them had died.
    pub(crate) fn forget(&self, upstream: &Upstream) {
        self.idle().remove(&upstream.id);
    }

    pub(crate) fn put(&self, upstream: &Arc<Upstream>, connection: ClientConnection) {
        // One that carries many requests at once is here already.
        if connection.share().is_some() {
            return;
        }
        let mut all = self.idle();
        let of_upstream = all.entry(upstream.id).or_default();
        if of_upstream.len() >= IDLE_MAX {
            of_upstream.remove(0);
        }
        of_upstream.push(Idle { connection, made_for: Arc::clone(upstream), since: Instant::now() });
    }

    /// Does what has to be done between requests. Never returns; drop it to stop.
    pub async fn tend(&self) {
        tokio::join!(self.sweep(), self.beat.run());
    }

    /// Closes what has been idle for too long.
    async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.idle().retain(|_, idle| {
                idle.retain(|one| one.since.elapsed() < one.idle_time_max());
                !idle.is_empty()
            });
        }
    }
}
