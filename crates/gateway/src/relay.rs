//! The way back: the answer's bytes to the client, its usage to the ledger.
//!
//! Accounting does not depend on the client. If it goes away, the answer is read on for its usage, within limits; and
//! however this task ends, the hold it carries is resolved by its type.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;
use tollgate_core::error::Kind;
use tollgate_core::{Error, Money, Result};
use tollgate_ledger::{Dispatched, Hold};
use tollgate_wire::{ChunkFrame, ClientExchange, Exchange, Reply};

use crate::Gateway;
use crate::call::Call;
use crate::observe::Observer;
use crate::upstream::{Pool, Sent};
use crate::usage;

/// The most of an answer that is kept to be looked at as a whole. Longer ones are passed on as they come.
const WHOLE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long an answer is read on for its usage after the client has gone.
const DRAIN_TIME_MAX: Duration = Duration::from_mins(2);

/// Of the answer's head what passes to the client. Names of hops, cookies and the provider's own limits do not.
const PASSED: [&str; 3] = ["content-type", "retry-after", "retry-after-ms"];

/// What the client is told besides the answer.
pub(crate) struct Told {
    remaining: Option<Money>,
    is_priced: bool,
}

impl Told {
    pub(crate) fn before_dispatch(hold: &Hold) -> Self {
        Self { remaining: hold.remaining(), is_priced: hold.attempt().is_priced() }
    }

    fn headers(&self, answer: &ClientExchange) -> Vec<(&'static str, String)> {
        let passed = PASSED
            .iter()
            .filter_map(|name| answer.head.headers.get(name).map(|value| (*name, value.to_owned())));
        let mut headers: Vec<_> = passed.collect();
        if let Some(remaining) = self.remaining {
            headers.push(("x-tollgate-budget-remaining", remaining.to_string()));
        }
        if !self.is_priced {
            headers.push(("x-tollgate-unpriced", "true".to_owned()));
        }
        headers
    }
}

pub(crate) async fn relay(
    gateway: &Gateway,
    pool: &Pool,
    exchange: &mut Exchange,
    sent: Sent,
    call: &Call,
    told: Told,
) -> Result<()> {
    if let Some(coding) = foreign_coding(&sent.answer) {
        let message = "The upstream compressed its answer, though it was asked not to.";
        return Err(Error::new(Kind::UpstreamFailed, message).code("upstream_failed").source(coding));
    }
    match sent.answer.head.status {
        200..=299 if is_events(&sent.answer) => stream(gateway, pool, exchange, sent, call, told).await,
        200..=299 | 400 | 402 | 404..=499 | 500..=599 => whole(gateway, pool, exchange, sent, told).await,
        // The credential is the operator's, so its refusal is no matter of the client's.
        401 | 403 => refused_credential(gateway, sent).await,
        status => Err(Error::new(Kind::UpstreamFailed, "The upstream gave an answer that is not passed on.")
            .code("upstream_failed")
            .source(format!("status {status}"))),
    }
}

/// A coding of the answer in which its usage could not be read.
fn foreign_coding(answer: &ClientExchange) -> Option<String> {
    let coding = answer.head.headers.get("content-encoding")?.trim();
    (!coding.is_empty() && !coding.eq_ignore_ascii_case("identity")).then(|| coding.to_owned())
}

fn is_events(answer: &ClientExchange) -> bool {
    let kind = answer.head.headers.get("content-type").unwrap_or("");
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// An answer in one piece.
async fn whole(
    gateway: &Gateway,
    pool: &Pool,
    exchange: &mut Exchange,
    mut sent: Sent,
    told: Told,
) -> Result<()> {
    let status = sent.answer.head.status;
    let body = read_whole(gateway, &mut sent.answer).await?;
    let headers = told.headers(&sent.answer);
    let Sent { answer, hold, origin } = sent;
    if let Some(connection) = answer.into_connection() {
        pool.put(origin, connection);
    }
    settle_whole(hold, status, &body);
    exchange.respond(&Reply { status, headers, body }).await;
    Ok(())
}

/// A refusal without usage was not billed; whatever else gives no usage may have been.
fn settle_whole(hold: Dispatched, status: u16, body: &[u8]) {
    match usage::read(body).usage {
        Some(usage) => hold.settle(usage),
        None if (400..500).contains(&status) => hold.void(),
        None => drop(hold),
    }
}

async fn read_whole(gateway: &Gateway, answer: &mut ClientExchange) -> Result<Vec<u8>> {
    let mut body = Vec::with_capacity(
        answer.announced_length().and_then(|l| usize::try_from(l).ok()).unwrap_or(0).min(WHOLE_BYTES_MAX),
    );
    loop {
        match timeout(gateway.options.stall_time_max, answer.read(&mut body)).await {
            Ok(Ok(true)) if body.len() <= WHOLE_BYTES_MAX => {}
            Ok(Ok(false)) => return Ok(body),
            Ok(Ok(true)) => return Err(cut("The answer of the upstream is too large.")),
            Ok(Err(error)) => return Err(cut("The answer of the upstream was cut short.").source(error)),
            Err(_) => {
                return Err(Error::new(
                    Kind::UpstreamTimeout,
                    "The upstream stopped in the middle of its answer.",
                )
                .code("upstream_timeout"));
            }
        }
    }
}

fn cut(message: &str) -> Error {
    Error::new(Kind::UpstreamFailed, message).code("upstream_failed")
}

async fn refused_credential(gateway: &Gateway, mut sent: Sent) -> Result<()> {
    let status = sent.answer.head.status;
    let body = read_whole(gateway, &mut sent.answer).await.unwrap_or_default();
    sent.hold.void();
    // The type alone goes to the log: some providers repeat parts of the credential in the message.
    let kind = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|body| body["error"]["code"].as_str().map(str::to_owned));
    Err(Error::new(
        Kind::UpstreamFailed,
        "The upstream refused Tollgate's credential. An operator has to renew it.",
    )
    .code("upstream_authentication_failed")
    .source(format!("status {status}, code {}", kind.unwrap_or_default())))
}

/// An answer as it comes, event by event.
async fn stream(
    gateway: &Gateway,
    pool: &Pool,
    exchange: &mut Exchange,
    sent: Sent,
    call: &Call,
    told: Told,
) -> Result<()> {
    let status = sent.answer.head.status;
    let headers = told.headers(&sent.answer);
    let Sent { mut answer, mut hold, origin } = sent;
    let mut observer = Observer::new(call.usage_edit.is_some());
    let mut frame = ChunkFrame::default();
    let mut client = Client { is_there: exchange.start(status, &headers).await.is_ok() };
    let is_whole = loop {
        if !client.is_there {
            let drained = drain(gateway, &mut answer, &mut hold, &mut observer).await;
            break drained;
        }
        observer.begin(&mut frame);
        match timeout(gateway.options.stall_time_max, answer.read(frame.buffer())).await {
            Ok(Ok(true)) => observer.watch(&mut frame, &mut hold),
            Ok(Ok(false)) => break true,
            Ok(Err(_)) | Err(_) => break false,
        }
        client.send(exchange, &mut frame).await;
    };
    if is_whole {
        observer.rest(&mut frame);
        client.send(exchange, &mut frame).await;
        if let Some(connection) = answer.into_connection() {
            pool.put(origin, connection);
        }
    }
    // The ledger has its word before the client sees the end.
    match observer.usage {
        Some(usage) => hold.settle(usage),
        None => drop(hold),
    }
    if is_whole && client.is_there {
        exchange.finish().await;
    }
    Ok(())
}

/// Whether somebody still reads.
struct Client {
    is_there: bool,
}

impl Client {
    async fn send(&mut self, exchange: &mut Exchange, frame: &mut ChunkFrame) {
        if self.is_there && !frame.payload().is_empty() {
            self.is_there = exchange.send(frame).await.is_ok();
        }
    }
}

/// Reads on for the usage that comes at the end; says whether the end came.
async fn drain(
    gateway: &Gateway,
    answer: &mut ClientExchange,
    hold: &mut Dispatched,
    observer: &mut Observer,
) -> bool {
    let Ok(_permit) = gateway.drains.try_acquire() else { return false };
    let reading = async {
        let mut frame = ChunkFrame::default();
        loop {
            observer.begin(&mut frame);
            match answer.read(frame.buffer()).await {
                Ok(true) => observer.watch(&mut frame, hold),
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
    };
    timeout(DRAIN_TIME_MAX, reading).await.unwrap_or(false)
}
