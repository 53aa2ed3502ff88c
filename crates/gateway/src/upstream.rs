//! The way to an upstream: the only function that opens a provider connection, and it takes a hold.

use std::fmt::Write as _;
use std::sync::Arc;

use tokio::time::timeout;
use tollgate_core::error::Kind;
use tollgate_core::upstream::{OnClientGone, is_openai};
use tollgate_core::{AttemptId, Error};
use tollgate_ledger::{Dispatched, Hold};
use tollgate_replica::Upstream;
use tollgate_wire::{ClientConnection, ClientExchange, DialError, Exchange, Headers, ResponseError};

use crate::Gateway;
use crate::admit::Asked;
use crate::call::Call;
use crate::edit;
use crate::pool::Pool;

/// A request that reached the upstream, its answer as far as it has come, and the hold that its end resolves.
pub(crate) struct Sent {
    pub(crate) answer: ClientExchange,
    pub(crate) hold: Dispatched,
    pub(crate) origin: String,
    pub(crate) upstream: Arc<Upstream>,
}

/// Why nothing came back.
pub(crate) enum Unsent {
    /// A connection that was kept open died before it gave a byte: most likely it was closed as we wrote to it. What was
    /// sent may have arrived all the same, and is on the books; to try once more on a new connection is right.
    Died(Error),
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
) -> Result<Sent, Unsent> {
    let Asked { upstream, call, model, .. } = *asked;
    let origin = upstream.address.origin();
    let reused = pool.take(&origin);
    let is_reused = reused.is_some();
    let connection = match reused {
        Some(connection) => connection,
        // Nothing was sent: the hold is voided as it is dropped.
        None => gateway
            .dialer
            .dial(&upstream.address)
            .await
            .map_err(|error| Unsent::Failed(dial_failed(upstream, error)))?,
    };
    // Under a limit the upstream is told of the output that is paid for, and so is a limit of the operator's.
    let granted = hold.granted();
    let is_bounded = granted.remaining.is_some() || granted.is_clamped;
    let limit = granted.request.size.output_each.filter(|_| is_bounded || model.facts.is_max_output_own);
    let edits = call.edits(
        asked.body,
        upstream.output_limit_field,
        limit,
        is_bounded && is_openai(&upstream.address),
    );
    let body = edit::apply(asked.body, &edits);
    let head = head(upstream, call, id, body.len(), &exchange.head.headers);
    let hold = hold.dispatch();
    match answered(gateway, upstream, connection, &head, &body, exchange).await {
        Answered::Head(answer) => Ok(Sent { answer, hold, origin, upstream: Arc::clone(upstream) }),
        // It may have arrived and may be billed: the hold is settled as it is dropped.
        Answered::Failed(error @ ResponseError::NoAnswer(_)) if is_reused => {
            Err(Unsent::Died(failed(Kind::UpstreamFailed, "upstream_failed", upstream).source(error)))
        }
        Answered::Failed(error) => {
            Err(Unsent::Failed(failed(Kind::UpstreamFailed, "upstream_failed", upstream).source(error)))
        }
        Answered::TooLate => Err(Unsent::Failed(failed(Kind::UpstreamTimeout, "upstream_timeout", upstream))),
        Answered::ClientGone => {
            hold.cancel(call.is_shown());
            Err(Unsent::Failed(client_gone()))
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
    head: &str,
    body: &[u8],
    exchange: &mut Exchange,
) -> Answered {
    let sending = timeout(gateway.options.answer_time_max, connection.send(head.as_bytes(), body));
    let outcome = if upstream.on_client_gone == OnClientGone::Cancel {
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

/// The head that is sent: built anew, from a short list of what may pass.
fn head(upstream: &Upstream, call: &Call, id: AttemptId, length: usize, client: &Headers) -> String {
    const PASSED: [&str; 4] = ["openai-beta", "x-client-request-id", "traceparent", "tracestate"];
    let mut head = String::with_capacity(512);
    let path = call.endpoint.path();
    let _ = write!(head, "POST {}{path} HTTP/1.1\r\n", upstream.address.path);
    let _ = write!(head, "host: {}\r\ncontent-length: {length}\r\n", upstream.address.authority());
    head.push_str("content-type: application/json\r\naccept-encoding: identity\r\n");
    head.push_str(if call.is_stream {
        "accept: text/event-stream\r\n"
    } else {
        "accept: application/json\r\n"
    });
    let _ = write!(head, "user-agent: tollgate/{}\r\nx-request-id: {id}\r\n", env!("CARGO_PKG_VERSION"));
    if let Some(credential) = &upstream.credential {
        head.push_str(&upstream.authentication.field(credential));
    }
    for name in PASSED {
        if let Some(value) =
            client.get(name).filter(|value| value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '))
        {
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    head.push_str("\r\n");
    head
}

pub(crate) fn client_gone() -> Error {
    Error::bad_request("The client has gone.")
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
