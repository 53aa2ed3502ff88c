//! Which upstream of a model is asked.

use std::sync::Arc;
use std::time::Duration;

use tollgate_core::error::Kind;
use tollgate_core::{Error, Result, UpstreamId};
use tollgate_replica::{Model, Upstream};

use crate::Gateway;
use crate::health::{Condition, Health};
use crate::permit;

/// The upstream to ask, of those that were not `tried` yet: those that are well before those that rest, those with a free
/// place before those without, then by priority, then by weight. `draw` decides among equals.
pub(crate) fn choose(
    gateway: &Gateway,
    model: &Model,
    tried: &[UpstreamId],
    draw: u64,
) -> Result<(Arc<Upstream>, Arc<Health>)> {
    let mut down_for = None;
    let mut best: Option<(Rank, u64)> = None;
    let ranked: Vec<Option<(Rank, Arc<Health>)>> = model
        .upstreams
        .iter()
        .map(|upstream| {
            if tried.contains(&upstream.id) {
                return None;
            }
            let health = gateway.watch.of(upstream);
            let is_resting = match health.condition() {
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
    let Some((top, weights)) = best else { return Err(nobody(model, tried, down_for)) };
    let mut at = draw % weights.max(1);
    for (upstream, ranked) in model.upstreams.iter().zip(ranked) {
        let Some((_, health)) = ranked.filter(|(rank, _)| *rank == top) else { continue };
        let weight = u64::from(upstream.settings.weight);
        if at < weight {
            return Ok((Arc::clone(upstream), health));
        }
        at -= weight;
    }
    Err(nobody(model, tried, down_for))
}

/// Less goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_resting: bool,
    is_full: bool,
    priority: u32,
}

fn nobody(model: &Model, tried: &[UpstreamId], down_for: Option<Duration>) -> Error {
    let left = model.upstreams.iter().find(|upstream| !tried.contains(&upstream.id));
    let (Some(rest), Some(upstream)) = (down_for, left) else { return permit::no_such_model(&model.id) };
    let message =
        format!("The upstream `{}` could not be reached and is left alone for a moment.", upstream.name);
    Error::new(Kind::Unavailable, message)
        .code("upstream_unavailable")
        .header("retry-after", (rest.as_secs() + 1).to_string())
}
