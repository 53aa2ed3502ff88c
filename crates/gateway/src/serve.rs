//! The path of a request, top to bottom.

use std::time::Duration;

use tollgate_core::time::Stopwatch;
use tollgate_core::{AttemptId, Permission, Result};
use tollgate_ledger::Hold;
use tollgate_wire::Exchange;

use crate::admit::{self, Asked};
use crate::call::Call;
use crate::caller::{self, Caller};
use crate::pool::Pool;
use crate::relay::Told;
use crate::route::Route;
use crate::upstream::{self, Sent, Unsent};
use crate::{Gateway, models, permit, relay};

/// A request whose body took longer than this, or which waited longer for money, is authenticated again before it is sent
/// on.
const RECHECK_AFTER_MILLIS: u128 = 1_000;
/// Whoever does not get a hold within this is listened to while they wait: they may go away.
const LISTEN_AFTER: Duration = Duration::from_millis(20);

/// Serves one request of the data plane. `id` is the request's, shown to the client and sent to the upstream.
pub async fn serve(gateway: &Gateway, pool: &Pool, exchange: &mut Exchange, id: AttemptId) {
    if let Err(error) = path(gateway, pool, exchange, id).await {
        exchange.fail(&error).await;
    }
}

async fn path(gateway: &Gateway, pool: &Pool, exchange: &mut Exchange, id: AttemptId) -> Result<()> {
    let route = Route::of(&exchange.head)?;
    gateway.replica.check_fresh()?;
    let caller = caller::authenticate(gateway, exchange, route.needs())?;
    exchange.set_header("openai-organization", caller.key.organization.to_string());
    let (endpoint, deployment) = match route {
        Route::Models => {
            exchange.respond(&models::list(gateway)).await;
            return Ok(());
        }
        Route::Model(name) => {
            let reply = models::one(gateway, &name)?;
            exchange.respond(&reply).await;
            return Ok(());
        }
        Route::Call(endpoint, deployment) => (endpoint, deployment),
    };
    let reading = Stopwatch::start();
    let bytes_max = gateway.options.body_bytes_max;
    let body = exchange.read_body(bytes_max).await.map_err(|error| error.into_error(bytes_max))?;
    let call = Call::read(endpoint, &body, deployment.as_deref())?;
    let caller = recheck(gateway, exchange, caller, reading)?;
    let model = permit::model(gateway, &call.model)?;
    let upstream = model.upstreams.first().ok_or_else(|| permit::no_such_model(&call.model))?;
    let asked = Asked { caller: &caller, call: &call, body: &body, model: &model, upstream };
    let (sent, told) = dispatch(gateway, pool, exchange, &asked, id).await?;
    relay::relay(gateway, pool, exchange, sent, &asked, told).await
}

fn recheck(gateway: &Gateway, exchange: &Exchange, caller: Caller, reading: Stopwatch) -> Result<Caller> {
    if reading.elapsed().as_millis() < RECHECK_AFTER_MILLIS {
        return Ok(caller);
    }
    caller::authenticate(gateway, exchange, Permission::ModelRequest)
}

/// Takes a hold and sends the request with it; once more, as an attempt of its own, if a connection that was kept open
/// turns out to be dead.
async fn dispatch(
    gateway: &Gateway,
    pool: &Pool,
    exchange: &mut Exchange,
    asked: &Asked<'_>,
    id: AttemptId,
) -> Result<(Sent, Told)> {
    let hold = take_hold(gateway, exchange, asked, id, None).await?;
    let told = Told::before_dispatch(&hold, 1);
    match upstream::send(gateway, pool, hold, asked, id, exchange).await {
        Ok(sent) => return Ok((sent, told)),
        Err(Unsent::Failed(error)) => return Err(error),
        Err(Unsent::Died(error)) => tracing::info!(request_id = %id, %error, "sending it once more"),
    }
    // The others to the same upstream are as old, and may be as dead.
    pool.forget(&asked.upstream.address.origin());
    let again: AttemptId = gateway.clock.next_id();
    let hold = take_hold(gateway, exchange, asked, again, Some(id)).await?;
    let told = Told::before_dispatch(&hold, 2);
    match upstream::send(gateway, pool, hold, asked, again, exchange).await {
        Ok(sent) => Ok((sent, told)),
        Err(Unsent::Died(error) | Unsent::Failed(error)) => Err(error),
    }
}

/// Takes a hold, unless the client goes away while it waits, or its key ends.
async fn take_hold(
    gateway: &Gateway,
    exchange: &mut Exchange,
    asked: &Asked<'_>,
    id: AttemptId,
    attempt_of: Option<AttemptId>,
) -> Result<Hold> {
    let waiting = Stopwatch::start();
    let hold = tokio::select! {
        biased;
        hold = admit::hold(gateway, asked, id, attempt_of) => hold?,
        () = gone(exchange) => {
            // Whoever stood behind it moves up.
            gateway.ledger.reconsider();
            return Err(upstream::client_gone());
        }
    };
    if waiting.elapsed().as_millis() >= RECHECK_AFTER_MILLIS {
        caller::authenticate(gateway, exchange, Permission::ModelRequest)?;
    }
    Ok(hold)
}

async fn gone(exchange: &mut Exchange) {
    tokio::time::sleep(LISTEN_AFTER).await;
    exchange.gone().await;
}
