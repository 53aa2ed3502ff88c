//! The path of a request, top to bottom.

use std::sync::Arc;

use tollgate_core::time::Stopwatch;
use tollgate_core::{AttemptId, Permission, Result};
use tollgate_wire::Exchange;

use crate::call::Call;
use crate::caller::{self, Caller};
use crate::dispatch::{Request, dispatch};
use crate::pool::Pool;
use crate::route::{self, Route};
use crate::{Gateway, models, permit, refusal, relay};

/// A request whose body took longer than this, or which waited longer for money or an upstream, is authenticated again
/// before it is sent on.
pub(crate) const RECHECK_AFTER_MILLIS: u128 = 1_000;

/// Serves one request of the data plane. `id` is the request's, shown to the client and sent to the upstream.
pub async fn serve(gateway: &Gateway, pool: &Pool, exchange: &mut Exchange, id: AttemptId) {
    let is_native = route::is_native(exchange.head.path());
    if is_native {
        exchange.set_header("request-id", id.to_string());
    }
    match path(gateway, pool, exchange, id).await {
        Ok(()) => {}
        Err(error) if is_native => {
            let body = refusal::native_envelope(&error, id).to_string();
            exchange.fail_with(&error, body.into_bytes()).await;
        }
        Err(error) => exchange.fail(&error).await,
    }
}

async fn path(gateway: &Gateway, pool: &Pool, exchange: &mut Exchange, id: AttemptId) -> Result<()> {
    let route = Route::of(&exchange.head)?;
    gateway.replica.check_fresh()?;
    let caller = caller::authenticate(gateway, exchange, route.needs())?;
    exchange.set_header("openai-organization", caller.key.organization.to_string());
    let (endpoint, deployment) = match route {
        Route::Models => {
            let reply = models::list(gateway, exchange.head.headers.get("anthropic-version").is_some());
            exchange.respond(&reply).await;
            return Ok(());
        }
        Route::Model(name) => {
            let is_native = exchange.head.headers.get("anthropic-version").is_some();
            let reply = models::one(gateway, &name, is_native)?;
            exchange.respond(&reply).await;
            return Ok(());
        }
        Route::Call(endpoint, deployment) => (endpoint, deployment),
    };
    let reading = Stopwatch::start();
    let bytes_max = gateway.options.body_bytes_max;
    let body = exchange.read_body(bytes_max).await.map_err(|error| error.into_error(bytes_max))?;
    let mut call = Call::read(endpoint, &body, deployment.as_deref())?;
    if endpoint.is_native() {
        call = call.with_betas(exchange.head.headers.get("anthropic-beta"));
    }
    let caller = recheck(gateway, exchange, caller, reading)?;
    let model = permit::model(gateway, &call.model)?;
    let request = Request { caller: &caller, call: &call, body: &body, model: &model, id };
    // The turn lasts as long as the answer: it is a place at the upstream.
    let (sent, told, _turn) = dispatch(gateway, pool, exchange, &request).await?;
    let upstream = Arc::clone(&sent.upstream);
    relay::relay(gateway, pool, exchange, sent, &request.at(&upstream), told).await
}

fn recheck(gateway: &Gateway, exchange: &Exchange, caller: Caller, reading: Stopwatch) -> Result<Caller> {
    if reading.elapsed().as_millis() < RECHECK_AFTER_MILLIS {
        return Ok(caller);
    }
    caller::authenticate(gateway, exchange, Permission::ModelRequest)
}
