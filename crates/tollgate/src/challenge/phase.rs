//! The phases, one after another on one key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tollgate_core::Money;

use super::books::{Gateway, Provider};
use super::caller::{Caller, Outcome, Target, Timed};
use super::page::{Agents, Page, Race, Storm};
use crate::api::session::Failure;

/// Streams that end early: half of them the client leaves, half the provider cuts, each a little later than the one
/// before.
pub(crate) async fn cut_streams(
    target: &Arc<Target>,
    provider: &Provider,
    page: &mut Page,
    count: u16,
) -> Result<(), Failure> {
    const OUTPUT: u64 = 40;
    /// About what the whole answer is long.
    const BYTES: usize = 12_000;
    let body = target.body(OUTPUT, true).to_string();
    let half = usize::from(count / 2);
    let step = (BYTES / half.max(1)).max(1);
    provider.script(&json!({"output_tokens": "max", "chunk_ms": 1})).await?;
    for number in 0..half {
        Caller::new(target).leave_after(&body, 1 + number * step).await;
    }
    for number in 0..usize::from(count) - half {
        let script = json!({"output_tokens": "max", "fault": "cut", "after_bytes": number * step});
        provider.script(&script).await?;
        Caller::new(target).call(&body).await;
    }
    page.streams = count;
    Ok(())
}

/// Agents beside each other: each request may cost 8 % of what is left and costs next to nothing. All that is in flight
/// could cost more than there is; none of it does. Whoever is refused here is refused for nothing.
pub(crate) async fn agents(
    target: &Arc<Target>,
    provider: &Provider,
    page: &mut Page,
    left: Money,
) -> Result<(), Failure> {
    const EACH: u32 = 10;
    const AGENTS_MAX: u64 = 500;
    const OUTPUT_MAX: u64 = 16_000;
    let share = Money(left.nanos() / 100 * 8);
    let output = provider.output_worth(share).clamp(1, OUTPUT_MAX);
    let bound = provider.cost(0, output);
    let agents = u64::try_from(left.nanos() / bound.nanos().max(1) * 8 / 5).unwrap_or(2).clamp(2, AGENTS_MAX);
    provider.script(&json!({"output_tokens": 4, "latency_ms": 30})).await?;
    let body: Arc<str> = target.body(output, false).to_string().into();
    let mut running = JoinSet::new();
    for _ in 0..agents {
        let (mut caller, body) = (Caller::new(target), Arc::clone(&body));
        running.spawn(async move {
            let mut counts = Agents::default();
            for _ in 0..EACH {
                match caller.call(&body).await {
                    Outcome::Served => counts.served += 1,
                    Outcome::Refused => counts.refused += 1,
                    Outcome::KeyRefused => counts.key_refused += 1,
                    Outcome::Failed => counts.failed += 1,
                }
            }
            counts
        });
    }
    let mut all = Agents { count: agents, bound, ..Agents::default() };
    while let Some(Ok(counts)) = running.join_next().await {
        all.served += counts.served;
        all.refused += counts.refused;
        all.key_refused += counts.key_refused;
        all.failed += counts.failed;
    }
    if all.key_refused > 0 {
        return Err("The gateway does not accept the key.".to_owned().into());
    }
    page.agents = all;
    Ok(())
}

/// As many at once as asked for, each costing all it may, together three times what is left.
pub(crate) async fn storm(
    target: &Arc<Target>,
    provider: &Provider,
    page: &mut Page,
    left: Money,
    requests: u32,
    concurrency: u16,
) -> Result<(), Failure> {
    const TIMES: i64 = 3;
    const OUTPUT: std::ops::RangeInclusive<u64> = 1..=16_000;
    let before = provider.total().await?;
    let left = left.saturating_sub(before.billed);
    let each = Money(left.nanos() / i64::from(requests) * TIMES);
    let output = provider.output_worth(each);
    if !OUTPUT.contains(&output) {
        return Err(format!(
            "A storm of {requests} requests does not suit what is left, ${left}: each would be of {output} tokens. \
             Change --requests or the key's limit."
        )
        .into());
    }
    provider.script(&json!({"output_tokens": "max", "latency_ms": 5})).await?;
    let body: Arc<str> = target.body(output, false).to_string().into();
    let (next, mut running) = (Arc::new(AtomicU32::new(0)), JoinSet::new());
    for _ in 0..concurrency {
        let (mut caller, body, next) = (Caller::new(target), Arc::clone(&body), Arc::clone(&next));
        running.spawn(async move {
            let mut counts = Storm::default();
            while next.fetch_add(1, Ordering::Relaxed) < requests {
                match caller.call(&body).await {
                    Outcome::Served => counts.served += 1,
                    Outcome::Refused | Outcome::KeyRefused => counts.refused += 1,
                    Outcome::Failed => counts.failed += 1,
                }
            }
            counts
        });
    }
    let mut storm = Storm { requests, concurrency, left, ..Storm::default() };
    while let Some(Ok(counts)) = running.join_next().await {
        storm.served += counts.served;
        storm.refused += counts.refused;
        storm.failed += counts.failed;
    }
    let after = provider.total().await?;
    storm.billed = after.billed.saturating_sub(before.billed);
    let billed_requests = after.requests - before.requests;
    storm.bound = Money(storm.billed.nanos() / i64::try_from(billed_requests.max(1)).unwrap_or(1));
    page.storm = storm;
    Ok(())
}

/// The key is revoked while it is in use.
pub(crate) async fn race(
    target: &Arc<Target>,
    provider: &Provider,
    page: &mut Page,
    gateway: &Gateway,
    watched_max: Duration,
) -> Result<(), Failure> {
    const CALLERS: usize = 16;
    /// So long after the last call that was accepted, the key is dead.
    const QUIET: Duration = Duration::from_secs(3);
    if !gateway.can_revoke() {
        return Ok(());
    }
    provider.script(&json!({"output_tokens": 1})).await?;
    let body: Arc<str> = target.body(1, false).to_string().into();
    let is_over = Arc::new(AtomicBool::new(false));
    let (told, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let mut running = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut caller, body, told) = (Caller::new(target), Arc::clone(&body), told.clone());
        let is_over = Arc::clone(&is_over);
        running.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let outcome = caller.call(&body).await;
                if told.send(Timed { began, outcome }).is_err() {
                    return;
                }
            }
        });
    }
    drop(told);
    // Everybody is at work before the key is revoked.
    let mut before = 0;
    while before < 5 * CALLERS {
        match calls.recv().await {
            Some(Timed { outcome: Outcome::KeyRefused, .. }) => {
                return Err("The gateway does not accept the key.".to_owned().into());
            }
            Some(_) => before += 1,
            None => break,
        }
    }
    gateway.revoke().await?;
    let revoked = Instant::now();
    let mut race = Race::default();
    let mut last_accepted = revoked;
    while let Some(call) = calls.recv().await {
        if call.began > revoked {
            race.calls += 1;
            if matches!(call.outcome, Outcome::Served | Outcome::Refused) {
                race.accepted += 1;
                last_accepted = last_accepted.max(call.began);
            }
        }
        let is_quiet = call.began.saturating_duration_since(last_accepted) > QUIET;
        if is_quiet || revoked.elapsed() > watched_max {
            break;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    drop(calls);
    while running.join_next().await.is_some() {}
    race.lived = last_accepted - revoked;
    page.race = Some(race);
    Ok(())
}
