//! Responses that are made in the background: nobody is connected, so the upstream is asked until they have come to an
//! end, and then the hold is settled with what they used.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tollgate_core::UpstreamId;
use tollgate_ledger::{Dispatched, Reported};
use tollgate_replica::Upstream;

use crate::pool::Pool;
use crate::route::Endpoint;
use crate::{Gateway, relay, upstream, usage};

/// Between two questions: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// No provider works longer on one response.
const TIME_MAX: Duration = Duration::from_hours(24);
/// Refusals of the credential in a row until nothing more is expected.
const REFUSALS_MAX: u32 = 20;
const STALL_TIME_MAX: Duration = Duration::from_mins(1);

#[derive(Deserialize)]
struct Progress {
    status: Option<String>,
}

/// Settles `hold` once the response has ended. If the process ends before, the hold is settled as one of whose usage
/// nothing is known.
pub(crate) fn follow(gateway: &Arc<Gateway>, upstream: &Arc<Upstream>, response: String, hold: Dispatched) {
    let (gateway, upstream) = (Arc::clone(gateway), upstream.id);
    tokio::spawn(async move {
        // With so many under way nobody asks for this one; it is settled as one of whose usage nothing is known.
        let Ok(_permit) = gateway.followed.try_acquire() else { return };
        let asking = ask_until_it_ended(&gateway, upstream, &response);
        let reported = tokio::time::timeout(TIME_MAX, asking).await.ok().flatten();
        match reported {
            Some(reported) => hold.settle(reported),
            None => drop(hold),
        }
    });
}

/// What it used; `None` if that cannot be known any more.
async fn ask_until_it_ended(gateway: &Gateway, upstream: UpstreamId, response: &str) -> Option<Reported> {
    let pool = Pool::default();
    let (mut pause, pause_max) = PAUSE;
    let mut refusals = 0;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(pause_max);
        // As it is now: its credential may be another.
        let upstream = &gateway.replica.snapshot().upstream(upstream).cloned()?;
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
            200 => refusals = 0,
            401 | 403 if refusals < REFUSALS_MAX => {
                refusals += 1;
                continue;
            }
            // It was deleted, or cannot be had any more.
            401 | 403 | 404 | 410 => return None,
            _ => continue,
        }
        let Ok(progress) = serde_json::from_slice::<Progress>(&body) else { continue };
        if !matches!(progress.status.as_deref(), Some("queued" | "in_progress")) {
            return Some(usage::read(Endpoint::Responses, &body).reported);
        }
    }
}
