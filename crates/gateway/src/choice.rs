//! Which upstream of a model is asked.

use std::sync::Arc;
use std::time::Duration;

use tollgate_core::error::Kind;
use tollgate_core::{Error, Result, UpstreamId};
use tollgate_replica::Upstream;

use crate::Gateway;
use crate::dispatch::Request;
use crate::health::{Condition, Health};
use crate::{kept, permit};

/// The upstream to ask, of those that were not `tried` yet: those that are well before those that rest, those with a free
/// place before those without, then by priority, then by weight. The request's id decides among equals.
pub(crate) fn choose(
    gateway: &Gateway,
    request: &Request<'_>,
    tried: &[UpstreamId],
) -> Result<(Arc<Upstream>, Arc<Health>)> {
    let (model, draw) = (request.model, request.id.random());
    let mut down_for = None;
    let mut best: Option<(Rank, u64)> = None;
    let ranked: Vec<Option<(Rank, Arc<Health>)>> = model
        .upstreams
        .iter()
        .map(|upstream| {
            if tried.contains(&upstream.id) || request.kept_at.is_some_and(|id| id != upstream.id) {
                return None;
            }
            let health = gateway.watch.of(upstream);
            let is_resting = match health.condition(&model.id) {
                Condition::Well => false,
                Condition::Resting => true,
                Condition::Down(rest) => {
                    down_for = down_for.into_iter().chain([rest]).min();
                    return None;
                }
            };
            let rank = Rank {
                is_resting,
                is_full: !health.has_place(upstream),
                priority: upstream.settings.priority,
            };
            let weight = u64::from(upstream.settings.weight);
            best = match best {
                Some((top, sum)) if top == rank => Some((top, sum + weight)),
                Some((top, sum)) if top < rank => Some((top, sum)),
                _ => Some((rank, weight)),
            };
            Some((rank, health))
        })
        .collect();
    let Some((top, weights)) = best else { return Err(nobody(request, tried, down_for)) };
    let mut at = draw % weights.max(1);
    for (upstream, ranked) in model.upstreams.iter().zip(ranked) {
        let Some((_, health)) = ranked.filter(|(rank, _)| *rank == top) else { continue };
        let weight = u64::from(upstream.settings.weight);
        if at < weight {
            return Ok((Arc::clone(upstream), health));
        }
        at -= weight;
    }
    Err(nobody(request, tried, down_for))
}

/// Less goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_resting: bool,
    is_full: bool,
    priority: u32,
}

fn nobody(request: &Request<'_>, tried: &[UpstreamId], down_for: Option<Duration>) -> Error {
    let model = request.model;
    // Where it is kept nobody serves the model any more.
    match (&request.call.previous, request.call.named.first()) {
        (Some(previous), _) if down_for.is_none() => return kept::previous_absent(previous),
        (None, Some(item)) if down_for.is_none() => return kept::item_absent(item),
        _ => {}
    }
    let left = model.upstreams.iter().find(|upstream| !tried.contains(&upstream.id));
    let (Some(rest), Some(upstream)) = (down_for, left) else { return permit::no_such_model(&model.id) };
    let message =
        format!("The upstream `{}` could not be reached and is left alone for a moment.", upstream.name);
    Error::new(Kind::Unavailable, message)
        .code("upstream_unavailable")
        .header("retry-after", (rest.as_secs() + 1).to_string())
}
