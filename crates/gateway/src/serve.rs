//! The path of a request, top to bottom.

use tollgate_core::time::Stopwatch;
use tollgate_core::{AttemptId, Permission, Result};
use tollgate_ledger::Attempt;
use tollgate_wire::Exchange;

use crate::call::Call;
use crate::caller::{self, Caller};
use crate::route::Route;
use crate::upstream::{self, Pool};
use crate::{Gateway, models, permit, relay};

/// A request whose body took longer than this is authenticated again before it is sent on.
const RECHECK_AFTER_MILLIS: u128 = 1_000;

/// Serves one request of the data plane. `id` is the request's, shown to the client and sent to the upstream.
pub async fn serve(gateway: &Gateway, pool: &Pool, exchange: &mut Exchange, id: AttemptId) {
    if let Err(error) = path(gateway, pool, exchange, id).await {
        exchange.fail(&error).await;
    }
}

async fn path(gateway: &Gateway, pool: &Pool, exchange: &mut Exchange, id: AttemptId) -> Result<()> {
    let route = Route::of(&exchange.head)?;
    gateway.replica.check_fresh()?;
    let caller = caller::authenticate(gateway, exchange)?;
    exchange.set_header("openai-organization", caller.key.organization.to_string());
    let endpoint = match route {
        Route::Models => {
            permit::scope(&caller, Permission::ModelRead)?;
            exchange.respond(&models::list(gateway)).await;
            return Ok(());
        }
        Route::Model(name) => {
            permit::scope(&caller, Permission::ModelRead)?;
            let reply = models::one(gateway, &name)?;
            exchange.respond(&reply).await;
            return Ok(());
        }
        Route::Call(endpoint) => endpoint,
    };
    permit::scope(&caller, Permission::ModelRequest)?;
    let reading = Stopwatch::start();
    let bytes_max = gateway.options.body_bytes_max;
    let body = exchange.read_body(bytes_max).await.map_err(|error| error.into_error(bytes_max))?;
    let call = Call::read(endpoint, &body)?;
    let caller = recheck(gateway, exchange, caller, reading)?;
    let model = permit::model(gateway, &call.model)?;
    let upstream = model.upstreams.first().ok_or_else(|| permit::no_such_model(&call.model))?;
    let hold = gateway.ledger.hold(attempt(id, &caller, &call, &model, upstream.id)).await?;
    let told = relay::Told::before_dispatch(&hold);
    let request = upstream::Request { upstream, call: &call, body: &body, id };
    let sent = upstream::send(gateway, pool, hold, request, &exchange.head.headers).await?;
    relay::relay(gateway, pool, exchange, sent, &call, told).await
}

fn recheck(gateway: &Gateway, exchange: &Exchange, caller: Caller, reading: Stopwatch) -> Result<Caller> {
    if reading.elapsed().as_millis() < RECHECK_AFTER_MILLIS {
        return Ok(caller);
    }
    caller::authenticate(gateway, exchange)
}

fn attempt(
    id: AttemptId,
    caller: &Caller,
    call: &Call,
    model: &tollgate_replica::Model,
    upstream: tollgate_core::UpstreamId,
) -> Attempt {
    Attempt {
        id,
        attempt_of: None,
        organization: caller.key.organization,
        project: caller.project,
        key: caller.key.id,
        owner: caller.key.owner,
        endpoint: call.endpoint.usage(),
        model: call.model.clone(),
        upstream,
        price: model.facts.price,
        input_max: call.input_max(&model.facts),
        output_max: call.output_max(&model.facts),
        input_estimate: call.input_estimate(),
    }
}
