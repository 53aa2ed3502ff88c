//! The way to an upstream. What asks a model goes through [`send`], which takes a hold; what only asks for something that was
//! made and paid for goes through [`fetch`].

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tollgate_core::error::Kind;
use tollgate_core::time::Stopwatch;
use tollgate_core::upstream::{ANTHROPIC_VERSION, Settings, is_anthropic, is_openai};
use tollgate_core::{Address, AttemptId, Error};
use tollgate_ledger::{Dispatched, Hold};
use tollgate_replica::Upstream;
use tollgate_wire::{ClientConnection, ClientExchange, DialError, Exchange, Headers, ResponseError};

use crate::Gateway;
use crate::admit::Asked;
use crate::figures::NO_STATUS;
use crate::health::{Outcome, Turn};
use crate::pool::Pool;
use crate::{edit, relay};

/// A request that reached the upstream, its answer as far as it has come, and the hold that its end resolves.
pub(crate) struct Sent {
    pub(crate) answer: ClientExchange,
    pub(crate) hold: Dispatched,
    pub(crate) upstream: Arc<Upstream>,
    /// Since it was asked.
    pub(crate) asked: Stopwatch,
}

impl Sent {
    /// Whether the upstream did nothing, for a reason of its own: its credential, its quota, its limit, its load.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.answer.head.status, 401..=403 | 429 | 529)
    }
}

/// Why nothing came back.
pub(crate) enum Unsent {
    /// A connection that was kept open died before it gave a byte: most likely it was closed as we wrote to it. What was
    /// sent may have arrived all the same, and is on the books; to try once more on a new connection is right.
    Died(Error),
    /// No connection could be made: nothing was sent.
    Unreached(Error),
    Failed(Error),
}

/// Sends a request and waits for the head of the answer.
pub(crate) async fn send(
    gateway: &Gateway,
    pool: &Pool,
    hold: Hold,
    asked: &Asked<'_>,
    id: AttemptId,
    exchange: &mut Exchange,
    turn: &mut Turn,
) -> Result<Sent, Unsent> {
    let Asked { upstream, call, model, .. } = *asked;
    let since = Stopwatch::start();
    let no_answer = || {
        let labels = (upstream.id, Arc::clone(&model.id), NO_STATUS);
        gateway.figures.upstreams.observe(labels, since.elapsed());
    };
    let reused = pool.take(upstream);
    let is_reused = reused.is_some();
    // Where nothing is sent the hold is voided as it is dropped.
    let connection = if let Some(connection) = reused {
        connection
    } else {
        let made = dial(gateway, asked, turn).await.inspect_err(|_| no_answer())?;
        pool.offer(upstream, &made);
        made
    };
    // Under a limit the upstream is told of the output that is paid for, and so is a limit of the operator's.
    let granted = hold.granted();
    let is_bounded = granted.remaining.is_some() || granted.is_clamped;
    let limit = granted.request.size.output_each.filter(|_| is_bounded || model.facts.is_max_output_own);
    let usual_tier = usual_tier(&upstream.address).filter(|_| is_bounded);
    let edits = call.edits(asked.body, upstream, limit, usual_tier, granted.request.size.searches);
    let edits = edits.map_err(Unsent::Failed)?;
    let body = edit::apply(asked.body, &edits);
    let head = head(asked, id, body.len(), &exchange.head.headers);
    let hold = hold.dispatch();
    let sending = Stopwatch::start();
    let cancels = relay::cancels(upstream, call);
    match answered(gateway, upstream, connection, (&head, &body), exchange, cancels).await {
        Answered::Head(answer) => {
            let retry_after =
                answer.head.headers.get("retry-after").and_then(|text| text.trim().parse().ok());
            turn.note(Outcome::Answered { status: answer.head.status, retry_after }, &model.id);
            Ok(Sent { answer, hold, upstream: Arc::clone(upstream), asked: since })
        }
        // It may have arrived and may be billed: the hold is settled as it is dropped.
        Answered::Failed(error) if is_reused && is_of_death(&error, sending) => {
            Err(Unsent::Died(failed(Kind::UpstreamFailed, "upstream_failed", upstream).source(error)))
        }
        Answered::Failed(error) => {
            turn.note(Outcome::Failed, &model.id);
            pool.forget(upstream);
            no_answer();
            Err(Unsent::Failed(failed(Kind::UpstreamFailed, "upstream_failed", upstream).source(error)))
        }
        Answered::TooLate => {
            turn.note(Outcome::Failed, &model.id);
            pool.forget(upstream);
            no_answer();
            Err(Unsent::Failed(failed(Kind::UpstreamTimeout, "upstream_timeout", upstream)))
        }
        Answered::ClientGone => {
            hold.cancel(call.is_shown());
            Err(Unsent::Failed(client_gone()))
        }
    }
}

/// Whether a kept connection was dead as it was written to, so that nothing came of what was sent; or a server has said
/// so itself. One that breaks later may have been working on it.
fn is_of_death(error: &ResponseError, sending: Stopwatch) -> bool {
    const AT_ONCE: Duration = Duration::from_secs(1);
    match error {
        ResponseError::NotTaken(_) => true,
        ResponseError::NoAnswer(_) => sending.elapsed() < AT_ONCE,
        _ => false,
    }
}

async fn dial(gateway: &Gateway, asked: &Asked<'_>, turn: &mut Turn) -> Result<ClientConnection, Unsent> {
    let Asked { upstream, model, .. } = *asked;
    let dialer = turn.dialer(&gateway.dialer, upstream);
    let dialer = dialer.map_err(|why| Unsent::Failed(unusable(why)))?;
    match dialer.dial(&upstream.address).await {
        Ok(connection) => {
            turn.note_reached();
            Ok(connection)
        }
        Err(error) => {
            turn.note(Outcome::Unreached, &model.id);
            Err(Unsent::Unreached(dial_failed(upstream, error)))
        }
    }
}

enum Answered {
    Head(ClientExchange),
    Failed(ResponseError),
    TooLate,
    ClientGone,
}

async fn answered(
    gateway: &Gateway,
    upstream: &Upstream,
    connection: ClientConnection,
    (head, body): (&str, &[u8]),
    exchange: &mut Exchange,
    cancels: bool,
) -> Answered {
    let time_max = Settings::seconds(upstream.settings.answer_timeout, gateway.options.answer_time_max);
    let sending = timeout(time_max, connection.send(head.as_bytes(), body));
    let outcome = if cancels {
        tokio::select! {
            outcome = sending => outcome,
            () = exchange.gone() => return Answered::ClientGone,
        }
    } else {
        sending.await
    };
    match outcome {
        Ok(Ok(answer)) => Answered::Head(answer),
        Ok(Err(error)) => Answered::Failed(error),
        Err(_) => Answered::TooLate,
    }
}

/// Asks an upstream about a response that it keeps, and waits for the head of the answer. `target` follows the base of its
/// API. There is no body and no model in it, so it costs nothing; it is safe to ask twice.
pub(crate) async fn fetch(
    gateway: &Gateway,
    pool: &Pool,
    upstream: &Arc<Upstream>,
    method: &str,
    target: &str,
    id: AttemptId,
) -> Result<ClientExchange, Error> {
    let address = &upstream.address;
    let length = if method == "GET" { "" } else { "content-length: 0\r\n" };
    let head = format!(
        "{method} {}{target} HTTP/1.1\r\nhost: {}\r\naccept: application/json, text/event-stream\r\n{length}\
         accept-encoding: identity\r\nuser-agent: tollgate/{}\r\nx-request-id: {id}\r\n{}\r\n",
        address.path,
        address.authority(),
        env!("CARGO_PKG_VERSION"),
        upstream.header_fields.reveal(),
    );
    let time_max = Settings::seconds(upstream.settings.answer_timeout, gateway.options.answer_time_max);
    let dialer = gateway.watch.of(upstream).dialer(&gateway.dialer, upstream);
    let dialer = dialer.map_err(unusable)?;
    loop {
        let reused = pool.take(upstream);
        let is_reused = reused.is_some();
        let connection = match reused {
            Some(connection) => connection,
            None => dialer.dial(address).await.map_err(|error| dial_failed(upstream, error))?,
        };
        match timeout(time_max, connection.send(head.as_bytes(), b"")).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(ResponseError::NoAnswer(_) | ResponseError::NotTaken(_))) if is_reused => {
                pool.forget(upstream);
            }
            Ok(Err(error)) => {
                return Err(failed(Kind::UpstreamFailed, "upstream_failed", upstream).source(error));
            }
            Err(_) => return Err(failed(Kind::UpstreamTimeout, "upstream_timeout", upstream)),
        }
    }
}

/// What was stored was usable when it was stored.
fn unusable(why: String) -> Error {
    Error::internal("an upstream's settings cannot be used").source(why)
}

/// The tier whose price is known, at providers that would otherwise serve in what the account is set to.
pub(crate) fn usual_tier(address: &Address) -> Option<&'static str> {
    if is_openai(address) {
        Some("default")
    } else if is_anthropic(address) {
        Some("standard_only")
    } else {
        None
    }
}

/// The head that is sent: built anew, from a short list of what may pass.
fn head(asked: &Asked<'_>, id: AttemptId, length: usize, client: &Headers) -> String {
    const PASSED: [&str; 4] = ["openai-beta", "x-client-request-id", "traceparent", "tracestate"];
    const NATIVE_PASSED: [&str; 4] = ["anthropic-version", "anthropic-beta", "traceparent", "tracestate"];
    let Asked { upstream, call, trace, .. } = *asked;
    let mut head = String::with_capacity(512);
    let is_native = call.endpoint.is_native();
    let path = call.endpoint.path();
    head.extend(["POST ", &upstream.address.path, path, " HTTP/1.1\r\nhost: "]);
    upstream.address.push_authority(&mut head);
    let _ = write!(head, "\r\ncontent-length: {length}\r\n");
    head.push_str("content-type: application/json\r\naccept-encoding: identity\r\n");
    head.push_str(if call.is_stream {
        "accept: text/event-stream\r\n"
    } else {
        "accept: application/json\r\n"
    });
    head.push_str(concat!("user-agent: tollgate/", env!("CARGO_PKG_VERSION"), "\r\nx-request-id: "));
    head.extend([&id.text(), "\r\n"]);
    head.push_str(if is_native { &upstream.native_fields } else { &upstream.header_fields }.reveal());
    for name in if is_native { NATIVE_PASSED } else { PASSED } {
        // What the operator has set goes before what a client says.
        if upstream.settings.header_names.iter().any(|set| set == name) {
            continue;
        }
        let is_plain = |value: &&str| value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        let given = trace.filter(|_| name == "traceparent").or_else(|| client.get(name));
        match given.filter(is_plain) {
            Some(value) => head.extend([name, ": ", value, "\r\n"]),
            None if name == "anthropic-version" => head.extend([name, ": ", ANTHROPIC_VERSION, "\r\n"]),
            None => {}
        }
    }
    head.push_str("\r\n");
    head
}

/// The code of what nobody gets to see.
pub(crate) const CLIENT_GONE: &str = "client_gone";

pub(crate) fn client_gone() -> Error {
    Error::bad_request("The client has gone.").code(CLIENT_GONE)
}

fn dial_failed(upstream: &Upstream, error: DialError) -> Error {
    let refused = match &error {
        DialError::TimedOut => failed(Kind::UpstreamTimeout, "upstream_unreachable", upstream),
        _ => failed(Kind::UpstreamFailed, "upstream_unreachable", upstream),
    };
    refused.source(error)
}

pub(crate) fn failed(kind: Kind, code: &'static str, upstream: &Upstream) -> Error {
    let what = match code {
        "upstream_unreachable" => "cannot be reached. Nothing was sent",
        "upstream_timeout" => "did not answer in time",
        _ => "failed to answer",
    };
    Error::new(kind, format!("The upstream `{}` {what}.", upstream.name)).code(code)
}
