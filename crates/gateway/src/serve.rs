//! The path of a request, top to bottom.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tollgate_core::price::TokenUsage;
use tollgate_core::time::Stopwatch;
use tollgate_core::{AttemptId, Error, Kind, Permission, Result};
use tollgate_replica::{Key, Outcome, Upstream, key_expiry_header};
use tollgate_wire::Exchange;

use crate::call::Call;
use crate::caller::{self, Caller};
use crate::dispatch::{Request, dispatch};
use crate::pool::Pool;
use crate::relay::Relayed;
use crate::route::{self, Route};
use crate::{BODY_PIECE, Gateway, kept, models, permit, refusal, relay, stored, upstream};

/// A request whose body took longer than this, or which waited longer for money or an upstream, is authenticated again
/// before it is sent on.
pub(crate) const RECHECK_AFTER_MILLIS: u128 = 1_000;

/// What is known of a request when it was served, as much as it came to.
#[derive(Default)]
pub struct Served {
    /// Its path, as the API spells it.
    pub route: Option<&'static str>,
    /// That was proved, also if it opens nothing.
    pub key: Option<Arc<Key>>,
    /// What became of it; `None` before it came to anything.
    pub outcome: Option<Outcome>,
    pub model: Option<Arc<str>>,
    pub upstream: Option<Arc<Upstream>>,
    /// As the upstream reported it.
    pub usage: Option<TokenUsage>,
    /// Since the upstream was asked.
    pub upstream_time: Duration,
}

/// Serves one request of the data plane. `id` is the request's, shown to the client and sent to the upstream; `trace` is what
/// the upstream is told in place of the client's `traceparent`.
pub async fn serve(
    gateway: &Arc<Gateway>,
    pool: &Pool,
    exchange: &mut Exchange,
    id: AttemptId,
    trace: Option<&str>,
) -> Served {
    let is_native = route::is_native(exchange.head.path());
    if is_native {
        exchange.set_header("request-id", id.to_string());
    }
    let mut served = Served::default();
    let error = match path(gateway, pool, exchange, (id, trace), &mut served).await {
        Ok(is_cut) => {
            served.outcome = Some(ended(exchange, is_cut));
            return served;
        }
        Err(error) => error,
    };
    let code = gateway.figures.note_refusal(&error);
    served.outcome = Some(match error.kind {
        _ if code == upstream::CLIENT_GONE => Outcome::Abandoned,
        Kind::UpstreamLimited
        | Kind::UpstreamFailed
        | Kind::UpstreamTimeout
        | Kind::Unavailable
        | Kind::Internal => Outcome::Failed(code),
        _ => Outcome::Refused(code),
    });
    if is_native {
        let body = refusal::native_envelope(&error, id).to_string();
        exchange.fail_with(&error, body.into_bytes()).await;
    } else {
        exchange.fail(&error).await;
    }
    served
}

/// What became of a request that was given an answer, whole or not.
fn ended(exchange: &Exchange, is_cut: bool) -> Outcome {
    match exchange.status() {
        Some(status) if status >= 400 => Outcome::Upstream(status),
        _ if is_cut => Outcome::Failed("upstream_cut"),
        _ if exchange.is_complete() => Outcome::Answered,
        _ => Outcome::Abandoned,
    }
}

/// Says whether the upstream cut its answer.
async fn path(
    gateway: &Arc<Gateway>,
    pool: &Pool,
    exchange: &mut Exchange,
    (id, trace): (AttemptId, Option<&str>),
    served: &mut Served,
) -> Result<bool> {
    let route = Route::of(&exchange.head)?;
    served.route = Some(route.name());
    gateway.replica.check_fresh()?;
    let caller = caller::authenticate(gateway, exchange, route.needs(), &mut served.key)?;
    if let Some((name, value)) = key_expiry_header(caller.key.expires_at, gateway.clock.now()) {
        exchange.set_header(name, value);
    }
    exchange.set_header("openai-organization", caller.key.organization.text());
    let is_native = exchange.head.headers.get("anthropic-version").is_some();
    let (endpoint, deployment) = match route {
        Route::Models => {
            exchange.respond(&models::list(gateway, is_native)).await;
            return Ok(false);
        }
        Route::Model(name) => {
            let reply = models::one(gateway, &name, is_native)?;
            exchange.respond(&reply).await;
            return Ok(false);
        }
        Route::Stored(action, response) => {
            let _under_way = gateway.figures.begin(gateway.options.under_way_max).ok_or_else(overloaded)?;
            stored::serve(gateway, pool, exchange, &caller, action, &response, id).await?;
            return Ok(false);
        }
        Route::Call(endpoint, deployment) => (endpoint, deployment),
    };
    let _under_way = gateway.figures.begin(gateway.options.under_way_max).ok_or_else(overloaded)?;
    let mut room = room_for_body(gateway, exchange)?;
    let reading = Stopwatch::start();
    let bytes_max = gateway.options.body_bytes_max;
    let body = exchange.read_body(bytes_max).await.map_err(|error| error.into_error(bytes_max))?;
    let has_read = Stopwatch::start();
    // One that did not say how long it is has room for the longest.
    let needed = body.len().div_ceil(BODY_PIECE);
    drop(room.split(room.num_permits().saturating_sub(needed)));
    let mut call = Call::read(endpoint, &body, deployment.as_deref())?;
    if endpoint.is_native() {
        call = call.with_betas(exchange.head.headers.get("anthropic-beta"));
    }
    let caller = recheck(gateway, exchange, caller, reading)?;
    let model = permit::model(gateway, &call.model)?;
    served.model = Some(Arc::clone(&model.id));
    let kept_at =
        kept::place_of_all(&gateway.db, caller.project, call.previous.as_deref(), &call.named).await?;
    let (caller, call) = (&caller, &call);
    let request = Request { caller, call, body: &body, model: &model, kept_at, id, trace, has_read };
    // The turn lasts as long as the answer: it is a place at the upstream.
    let (sent, told, _turn) = dispatch(gateway, pool, exchange, &request).await?;
    let (upstream, since) = (Arc::clone(&sent.upstream), sent.asked);
    served.upstream = Some(Arc::clone(&upstream));
    let relayed = relay::relay(gateway, pool, exchange, sent, &request.at(&upstream), told).await;
    served.upstream_time = since.elapsed();
    let Relayed { usage, is_cut } = relayed?;
    served.usage = usage;
    Ok(is_cut)
}

/// Takes room for a body before any of it is read. One that does not say how long it is may be as long as any.
fn room_for_body<'g>(gateway: &'g Gateway, exchange: &Exchange) -> Result<SemaphorePermit<'g>> {
    let bytes_max = gateway.options.body_bytes_max;
    let announced = exchange.announced_length().and_then(|length| usize::try_from(length).ok());
    let pieces = announced.unwrap_or(bytes_max).min(bytes_max).div_ceil(BODY_PIECE);
    let pieces = u32::try_from(pieces).unwrap_or(u32::MAX);
    gateway.bodies.try_acquire_many(pieces).map_err(|_| overloaded())
}

fn overloaded() -> Error {
    let message = "The server has as much under way as it takes. Please try again.";
    Error::unavailable("overloaded", message).header("retry-after", "1")
}

fn recheck(gateway: &Gateway, exchange: &Exchange, caller: Caller, reading: Stopwatch) -> Result<Caller> {
    if reading.elapsed().as_millis() < RECHECK_AFTER_MILLIS {
        return Ok(caller);
    }
    caller::authenticate(gateway, exchange, Permission::ModelRequest, &mut None)
}
