//! Responses that are made in the background: nobody is connected, so the upstream is asked until they have come to an
//! end, and then the hold is settled with what they used.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tollgate_ledger::{Dispatched, Reported};
use tollgate_replica::Upstream;

use crate::pool::Pool;
use crate::route::Endpoint;
use crate::{Gateway, relay, upstream, usage};

/// Between two questions: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// No provider works longer on one response.
const TIME_MAX: Duration = Duration::from_hours(24);
const STALL_TIME_MAX: Duration = Duration::from_mins(1);

#[derive(Deserialize)]
struct Progress {
    status: Option<String>,
}

/// Settles `hold` once the response has ended. If the process ends before, the hold is settled as one of whose usage
/// nothing is known.
pub(crate) fn follow(gateway: &Arc<Gateway>, upstream: &Arc<Upstream>, response: String, hold: Dispatched) {
    let (gateway, upstream) = (Arc::clone(gateway), Arc::clone(upstream));
    tokio::spawn(async move {
        let asking = ask_until_it_ended(&gateway, &upstream, &response);
        let reported = tokio::time::timeout(TIME_MAX, asking).await.ok().flatten();
        match reported {
            Some(reported) => hold.settle(reported),
            None => drop(hold),
        }
    });
}

/// What it used; `None` if that cannot be known any more.
async fn ask_until_it_ended(gateway: &Gateway, upstream: &Arc<Upstream>, response: &str) -> Option<Reported> {
    let pool = Pool::default();
    let (mut pause, pause_max) = PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(pause_max);
        let target = format!("/responses/{response}");
        let id = gateway.clock.next_id();
        let Ok(mut answer) = upstream::fetch(gateway, &pool, upstream, "GET", &target, id).await else {
            continue;
        };
        let status = answer.head.status;
        let Ok(body) = relay::read_whole(STALL_TIME_MAX, &mut answer).await else { continue };
        if let Some(connection) = answer.into_connection() {
            pool.put(upstream, connection);
        }
        match status {
            200 => {}
            // It was deleted.
            404 | 410 => return None,
            _ => continue,
        }
        let Ok(progress) = serde_json::from_slice::<Progress>(&body) else { continue };
        if !matches!(progress.status.as_deref(), Some("queued" | "in_progress")) {
            return Some(usage::read(Endpoint::Responses, &body).reported);
        }
    }
}
