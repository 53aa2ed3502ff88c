//! The way back: the answer's bytes to the client, its usage to the ledger.
//!
//! Accounting does not depend on the client. If it goes away, the answer is read on for its usage, within limits; and
//! however this task ends, the hold it carries is resolved by its type.

mod stream;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tollgate_core::error::Kind;
use tollgate_core::price::TokenUsage;
use tollgate_core::time::Stopwatch;
use tollgate_core::upstream::{OnClientGone, Settings};
use tollgate_core::{Error, Money, ProjectId, Result, UpstreamId};
use tollgate_ledger::{Dispatched, Hold};
use tollgate_replica::Upstream;
use tollgate_wire::{ClientExchange, Exchange, Reply};

use crate::Gateway;
use crate::admit::{self, Asked};
use crate::call::Call;
use crate::dispatch::Request;
use crate::kept::{self, Made};
use crate::observe;
use crate::pool::Pool;
use crate::upstream::{self, Sent};
use crate::{background, refusal, usage};

/// The most of an answer that is kept to be looked at as a whole. Longer ones are passed on as they come.
const WHOLE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Of the answer's head what passes to the client. Names of hops, cookies and the provider's own limits do not.
const PASSED: [&str; 3] = ["content-type", "retry-after", "retry-after-ms"];

/// What was passed on.
#[derive(Default)]
pub(crate) struct Relayed {
    pub(crate) usage: Option<TokenUsage>,
    /// Whether the upstream stopped before its end while the client still read.
    pub(crate) is_cut: bool,
}

/// What the client is told besides the answer.
pub(crate) struct Told {
    remaining: Option<Money>,
    clamped_to: Option<u64>,
    is_priced: bool,
    attempts: u32,
    removed_tool: Option<String>,
    has_read: Stopwatch,
}

impl Told {
    pub(crate) fn before_dispatch(hold: &Hold, request: &Request<'_>, attempts: u32) -> Self {
        let granted = hold.granted();
        Self {
            remaining: granted.remaining,
            clamped_to: granted.request.size.output_each.filter(|_| granted.is_clamped),
            is_priced: granted.request.is_priced(),
            attempts,
            removed_tool: request
                .call
                .removed_search(granted.request.size.searches)
                .map(|search| search.kind.clone()),
            has_read: request.has_read,
        }
    }

    /// Notes what was not the upstream's time, as the answer begins.
    fn note_overhead(&self, gateway: &Gateway, of_upstream: Duration) {
        let overhead = self.has_read.elapsed().saturating_sub(of_upstream);
        gateway.figures.overhead.observe((), overhead);
    }

    fn headers(&self, answer: &ClientExchange) -> Vec<(&'static str, String)> {
        let mut headers = passed_headers(answer);
        if let Some(remaining) = self.remaining {
            headers.push(("x-tollgate-budget-remaining", remaining.to_string()));
        }
        if let Some(tokens) = self.clamped_to {
            headers.push(("x-tollgate-max-output-clamped", tokens.to_string()));
        }
        if !self.is_priced {
            headers.push(("x-tollgate-unpriced", "true".to_owned()));
        }
        if let Some(tool) = &self.removed_tool {
            headers.push(("x-tollgate-tools-removed", tool.clone()));
        }
        if self.attempts > 1 {
            headers.push(("x-tollgate-attempts", self.attempts.to_string()));
        }
        headers
    }
}

/// Of an answer's head what the client gets to see.
pub(crate) fn passed_headers(answer: &ClientExchange) -> Vec<(&'static str, String)> {
    let value = |name: &&'static str| answer.head.headers.get(name).map(|value| (*name, value.to_owned()));
    PASSED.iter().filter_map(value).collect()
}

pub(crate) async fn relay(
    gateway: &Arc<Gateway>,
    pool: &Pool,
    exchange: &mut Exchange,
    sent: Sent,
    asked: &Asked<'_>,
    told: Told,
) -> Result<Relayed> {
    if let Some(coding) = foreign_coding(&sent.answer) {
        let message = "The upstream compressed its answer, though it was asked not to.";
        return Err(Error::new(Kind::UpstreamFailed, message).code("upstream_failed").source(coding));
    }
    match sent.answer.head.status {
        200..=299 if is_events(&sent.answer) => {
            stream::stream(gateway, pool, exchange, sent, asked, told).await
        }
        200..=299 | 400..=599 => {
            let usage = whole(gateway, pool, exchange, sent, asked, told).await?;
            Ok(Relayed { usage, is_cut: false })
        }
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

pub(crate) fn is_events(answer: &ClientExchange) -> bool {
    let kind = answer.head.headers.get("content-type").unwrap_or("");
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Whether the upstream stops when the connection is closed. What it makes in the background it makes without one.
pub(crate) fn cancels(upstream: &Upstream, call: &Call) -> bool {
    upstream.on_client_gone == OnClientGone::Cancel && !call.is_background
}

/// Writes down whose a response is and its items, before its id is told. If that fails the answer is still the client's; the id then
/// opens nothing.
async fn record(gateway: &Gateway, project: ProjectId, upstream: UpstreamId, made: &Made) {
    let recorded = kept::record(&gateway.db, project, made, upstream, gateway.clock.now()).await;
    if let Err(error) = recorded {
        tracing::error!(%error, response = made.id, "whose a stored response is could not be written down");
    }
}

/// Notes how long an upstream took, to the end of its answer; says so.
fn note_end(
    gateway: &Gateway,
    upstream: &Upstream,
    model: &Arc<str>,
    status: u16,
    since: Stopwatch,
) -> Duration {
    let time = since.elapsed();
    gateway.figures.upstreams.observe((upstream.id, Arc::clone(model), status), time);
    time
}

impl Sent {
    fn note_end(&self, gateway: &Gateway, model: &Arc<str>) -> Duration {
        note_end(gateway, &self.upstream, model, self.answer.head.status, self.asked)
    }
}

/// An answer in one piece.
async fn whole(
    gateway: &Arc<Gateway>,
    pool: &Pool,
    exchange: &mut Exchange,
    mut sent: Sent,
    asked: &Asked<'_>,
    told: Told,
) -> Result<Option<TokenUsage>> {
    let status = sent.answer.head.status;
    let stall_time_max = stall_time_max(gateway, &sent.upstream);
    let read = if cancels(&sent.upstream, asked.call) {
        tokio::select! {
            read = read_whole(stall_time_max, &mut sent.answer) => read,
            () = exchange.gone() => {
                let Sent { answer, mut hold, .. } = sent;
                drop(answer); // which stops the upstream
                count_input(gateway, asked, &mut hold).await;
                hold.cancel(asked.call.is_shown());
                return Err(upstream::client_gone());
            }
        }
    } else {
        read_whole(stall_time_max, &mut sent.answer).await
    };
    if read.is_err() {
        count_input(gateway, asked, &mut sent.hold).await;
    }
    let body = read?;
    let of_upstream = sent.note_end(gateway, &asked.model.id);
    let headers = told.headers(&sent.answer);
    let retry_after = sent.answer.head.headers.get("retry-after").map(str::to_owned);
    let Sent { answer, mut hold, upstream, .. } = sent;
    if let Some(connection) = answer.into_connection() {
        pool.put(&upstream, connection);
    }
    hold.on_disk().await;
    told.note_overhead(gateway, of_upstream);
    if !asked.call.endpoint.reports_usage() {
        // What only counts has taken nothing.
        let input = if asked.call.endpoint.is_free() { 0 } else { asked.call.input_estimate() };
        hold.observe(TokenUsage { input, ..TokenUsage::default() });
    }
    let is_kept = asked.call.is_kept && (200..300).contains(&status);
    let made = if is_kept { Made::read(&body) } else { None };
    if let Some(made) = &made {
        record(gateway, asked.caller.project, upstream.id, made).await;
    }
    let usage = match made {
        Some(made) if made.is_underway() => {
            background::follow(gateway, &upstream, made.id, hold);
            None
        }
        _ => settle_whole(hold, asked.call, status, &body),
    };
    if let Some(error) = refusal::told(&upstream, status, retry_after, &body) {
        return Err(error);
    }
    exchange.respond(&Reply { status, headers, body }).await;
    Ok(usage)
}

/// Ends a hold by an answer in one piece; says what the upstream reported. A refusal without usage was not billed, nor was
/// a 529, with which a server says that it is overloaded; whatever else gives no usage may have been.
fn settle_whole(hold: Dispatched, call: &Call, status: u16, body: &[u8]) -> Option<TokenUsage> {
    let reported = usage::read(call.endpoint, body).reported;
    if reported.usage.is_none() && matches!(status, 400..500 | 529) {
        hold.void();
        return None;
    }
    let has_text = || call.makes_output() && observe::text_bytes(call.endpoint, body).is_some();
    let reported = usage::unless_seen(reported, has_text);
    let usage = reported.usage;
    hold.settle(reported);
    usage
}

pub(crate) fn stall_time_max(gateway: &Gateway, upstream: &Upstream) -> Duration {
    Settings::seconds(upstream.settings.stall_timeout, gateway.options.stall_time_max)
}

/// Reads a refusal to its end, for another upstream is asked instead; says what the client would have been told.
pub(crate) async fn pass_over(gateway: &Gateway, pool: &Pool, mut sent: Sent, asked: &Asked<'_>) -> Error {
    let status = sent.answer.head.status;
    let read = read_whole(stall_time_max(gateway, &sent.upstream), &mut sent.answer).await;
    let Ok(body) = read else { return cut("The answer of the upstream was cut short.") };
    sent.note_end(gateway, &asked.model.id);
    let retry_after = sent.answer.head.headers.get("retry-after").map(str::to_owned);
    let Sent { answer, hold, upstream, .. } = sent;
    if let Some(connection) = answer.into_connection() {
        pool.put(&upstream, connection);
    }
    settle_whole(hold, asked.call, status, &body);
    refusal::told(&upstream, status, retry_after, &body)
        .unwrap_or_else(|| upstream::failed(Kind::UpstreamFailed, "upstream_failed", &upstream))
}

pub(crate) async fn read_whole(stall_time_max: Duration, answer: &mut ClientExchange) -> Result<Vec<u8>> {
    let mut body = Vec::with_capacity(
        answer.announced_length().and_then(|l| usize::try_from(l).ok()).unwrap_or(0).min(WHOLE_BYTES_MAX),
    );
    loop {
        match timeout(stall_time_max, answer.read(&mut body)).await {
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

/// Where the usage will not be known, what can be known of it is better than its bytes.
async fn count_input(gateway: &Gateway, asked: &Asked<'_>, hold: &mut Dispatched) {
    // Of a search nobody here knows what it found.
    if hold.request().is_some_and(|request| request.size.searches != Some(0)) {
        return;
    }
    if let Some(tokens) = admit::count_input(gateway, asked).await {
        hold.count_input(tokens);
    }
}
