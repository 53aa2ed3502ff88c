//! From a model to an upstream that takes the request, over as many attempts as are safe.
//!
//! Another upstream is asked only where it is certain that the first did nothing: it could not be reached, or it refused
//! for a reason of its own (its limit, its credential, its quota). A failure in the middle may have cost money, so it is
//! the client's to repeat. Every attempt has an id and a hold of its own.

use std::sync::Arc;
use std::time::Duration;

use tollgate_core::error::Kind;
use tollgate_core::time::Stopwatch;
use tollgate_core::{AttemptId, Error, Permission, Result, UpstreamId};
use tollgate_ledger::Hold;
use tollgate_replica::{Model, Upstream};
use tollgate_wire::Exchange;

use crate::Gateway;
use crate::admit::{self, Asked};
use crate::call::Call;
use crate::caller::{self, Caller};
use crate::choice::choose;
use crate::health::{Health, Turn};
use crate::pool::Pool;
use crate::relay::{self, Told};
use crate::serve::RECHECK_AFTER_MILLIS;
use crate::upstream::{self, Sent, Unsent};

/// The most upstreams that are asked for one request.
const UPSTREAMS_MAX: usize = 4;
/// How long a request waits for a place at an upstream whose places are all taken.
const PLACE_TIME_MAX: Duration = Duration::from_secs(30);

/// A request that is to be sent, wherever to.
pub(crate) struct Request<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) call: &'a Call,
    pub(crate) body: &'a [u8],
    pub(crate) model: &'a Model,
    /// The only upstream that can be asked: it keeps what the request goes on from.
    pub(crate) kept_at: Option<UpstreamId>,
    /// Its own id, which is that of its first attempt.
    pub(crate) id: AttemptId,
    /// Its place in a trace, for the upstream.
    pub(crate) trace: Option<&'a str>,
    /// Since its body was there.
    pub(crate) has_read: Stopwatch,
}

impl<'a> Request<'a> {
    pub(crate) fn at(&self, upstream: &'a Arc<Upstream>) -> Asked<'a> {
        let Request { caller, call, body, model, trace, .. } = *self;
        Asked { caller, call, body, model, trace, upstream }
    }
}

/// Sends a request to the first upstream that takes it; says what it was sent to, and what the client is told of it.
pub(crate) async fn dispatch(
    gateway: &Gateway,
    pool: &Pool,
    exchange: &mut Exchange,
    request: &Request<'_>,
) -> Result<(Sent, Told, Turn)> {
    let mut sender = Sender { gateway, pool, exchange, attempts: 0, proved: Stopwatch::start() };
    let mut tried: Vec<UpstreamId> = Vec::new();
    let mut last: Option<Error> = None;
    loop {
        let chosen = choose(gateway, request, &tried);
        let (upstream, health) = match (chosen, last) {
            (Ok(chosen), _) => chosen,
            // What one has said says more than that there is no other.
            (Err(_), Some(error)) | (Err(error), None) => return Err(error),
        };
        tried.push(upstream.id);
        let is_last = request.kept_at.is_some()
            || tried.len() >= UPSTREAMS_MAX
            || tried.len() >= request.model.upstreams.len();
        let asked = request.at(&upstream);
        let error = match ask(&mut sender, request, &asked, &health).await {
            Ok((sent, ..)) if !is_last && sent.is_refusal() => {
                relay::pass_over(gateway, pool, sent, &asked).await
            }
            Ok(sent) => return Ok(sent),
            Err(Unsent::Unreached(error)) if !is_last => error,
            Err(Unsent::Unreached(error) | Unsent::Died(error) | Unsent::Failed(error)) => return Err(error),
        };
        tracing::info!(request_id = %request.id, upstream = upstream.name, %error, "another upstream is asked");
        last = Some(error);
    }
}

/// Takes a hold and sends the request with it; once more, as an attempt of its own, if a connection that was kept open
/// turns out to be dead.
async fn ask(
    sender: &mut Sender<'_>,
    request: &Request<'_>,
    asked: &Asked<'_>,
    health: &Arc<Health>,
) -> Result<(Sent, Told, Turn), Unsent> {
    let mut has_died = false;
    loop {
        sender.attempts += 1;
        let (id, attempt_of) = match sender.attempts {
            1 => (request.id, None),
            _ => (sender.gateway.clock.next_id(), Some(request.id)),
        };
        let hold = sender.take_hold(asked, id, attempt_of).await.map_err(Unsent::Failed)?;
        // Not before: whoever waits for money of their own must not take a place from others meanwhile.
        let mut turn = sender.turn(Arc::clone(health), asked.upstream).await.map_err(Unsent::Failed)?;
        sender.prove()?;
        let told = Told::before_dispatch(&hold, request, sender.attempts);
        match upstream::send(sender.gateway, sender.pool, hold, asked, id, sender.exchange, &mut turn).await {
            Ok(sent) => return Ok((sent, told, turn)),
            Err(Unsent::Died(error)) if !has_died => {
                tracing::info!(request_id = %id, %error, "sending it once more");
                has_died = true;
                // The others to the same upstream are as old, and may be as dead.
                sender.pool.forget(asked.upstream);
            }
            Err(unsent) => return Err(unsent),
        }
    }
}

/// What a request is sent with, over all its attempts.
struct Sender<'s> {
    gateway: &'s Gateway,
    pool: &'s Pool,
    exchange: &'s mut Exchange,
    attempts: u32,
    /// Since the caller was proved.
    proved: Stopwatch,
}

impl Sender<'_> {
    /// A place at an upstream, unless the client goes away while it waits for it.
    async fn turn(&mut self, health: Arc<Health>, upstream: &Upstream) -> Result<Turn> {
        let turn = tokio::select! {
            biased;
            turn = health.turn(upstream, PLACE_TIME_MAX) => turn,
            () = gone(self.exchange, self.pool) => return Err(upstream::client_gone()),
        };
        turn.ok_or_else(|| {
            let name = &upstream.name;
            let message = format!("The upstream `{name}` has as many requests under way as it may have.");
            Error::new(Kind::Unavailable, message).code("upstream_busy").header("retry-after", "1")
        })
    }

    /// Takes a hold, unless the client goes away while it waits.
    async fn take_hold(
        &mut self,
        asked: &Asked<'_>,
        id: AttemptId,
        attempt_of: Option<AttemptId>,
    ) -> Result<Hold> {
        let hold = tokio::select! {
            biased;
            hold = admit::hold(self.gateway, asked, id, attempt_of) => hold?,
            () = gone(self.exchange, self.pool) => {
                // Whoever stood behind it moves up.
                self.gateway.ledger.reconsider();
                return Err(upstream::client_gone());
            }
        };
        Ok(hold)
    }

    /// Proves the caller again if it is long since.
    fn prove(&mut self) -> Result<(), Unsent> {
        if self.proved.elapsed().as_millis() >= RECHECK_AFTER_MILLIS {
            caller::authenticate(self.gateway, self.exchange, Permission::ModelRequest, &mut None)
                .map_err(Unsent::Failed)?;
            self.proved = Stopwatch::start();
        }
        Ok(())
    }
}

/// Whoever does not get a hold within a moment is listened to while they wait: they may go away.
async fn gone(exchange: &mut Exchange, pool: &Pool) {
    pool.beat.moment().await;
    exchange.gone().await;
}
