//! The way to an upstream: the only function that opens a provider connection, and it takes a hold.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tollgate_core::error::Kind;
use tollgate_core::{AttemptId, Error, Result};
use tollgate_ledger::{Dispatched, Hold};
use tollgate_replica::Upstream;
use tollgate_wire::{ClientConnection, ClientExchange, DialError, Headers};

use crate::Gateway;
use crate::call::Call;

/// A worker's idle connections, by the origin they lead to.
#[derive(Default)]
pub struct Pool(Mutex<HashMap<String, Vec<Idle>>>);

struct Idle {
    connection: ClientConnection,
    since: Instant,
}

const IDLE_MAX: usize = 128;
/// Shorter than what servers commonly keep a silent connection, so that they rarely close one under a request.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

impl Pool {
    fn idle(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Idle>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last, for it is the least likely to have been closed.
    fn take(&self, origin: &str) -> Option<ClientConnection> {
        loop {
            let mut idle = self.idle().get_mut(origin)?.pop()?;
            if idle.since.elapsed() < IDLE_TIME_MAX && !idle.connection.is_stale() {
                return Some(idle.connection);
            }
        }
    }

    pub(crate) fn put(&self, origin: String, connection: ClientConnection) {
        let mut all = self.idle();
        let of_origin = all.entry(origin).or_default();
        if of_origin.len() >= IDLE_MAX {
            of_origin.remove(0);
        }
        of_origin.push(Idle { connection, since: Instant::now() });
    }
}

/// What is sent, and where.
pub(crate) struct Request<'r> {
    pub(crate) upstream: &'r Arc<Upstream>,
    pub(crate) call: &'r Call,
    pub(crate) body: &'r [u8],
    pub(crate) id: AttemptId,
}

/// A request that reached the upstream, its answer as far as it has come, and the hold that its end resolves.
pub(crate) struct Sent {
    pub(crate) answer: ClientExchange,
    pub(crate) hold: Dispatched,
    pub(crate) origin: String,
}

/// Sends a request and waits for the head of the answer.
pub(crate) async fn send(
    gateway: &Gateway,
    pool: &Pool,
    hold: Hold,
    request: Request<'_>,
    client: &Headers,
) -> Result<Sent> {
    let Request { upstream, call, body, id } = request;
    let origin = upstream.address.origin();
    let connection = match pool.take(&origin) {
        Some(connection) => connection,
        // Nothing was sent: the hold is voided as it is dropped.
        None => gateway.dialer.dial(&upstream.address).await.map_err(|error| dial_failed(upstream, error))?,
    };
    let body = call.edited(body);
    let head = head(upstream, call, id, body.len(), client);
    let hold = hold.dispatch();
    match timeout(gateway.options.answer_time_max, connection.send(head.as_bytes(), &body)).await {
        Ok(Ok(answer)) => Ok(Sent { answer, hold, origin }),
        // It may have arrived and may be billed: the hold is settled as it is dropped.
        Ok(Err(error)) => Err(failed(Kind::UpstreamFailed, "upstream_failed", upstream).source(error)),
        Err(_) => Err(failed(Kind::UpstreamTimeout, "upstream_timeout", upstream)),
    }
}

/// The head that is sent: built anew, from a short list of what may pass.
fn head(upstream: &Upstream, call: &Call, id: AttemptId, length: usize, client: &Headers) -> String {
    const PASSED: [&str; 2] = ["openai-beta", "x-client-request-id"];
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
        let _ = write!(head, "authorization: Bearer {}\r\n", credential.reveal());
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
