//! Traces for an OpenTelemetry collector: a span for each model request and one for its way to the upstream, as OTLP over
//! HTTP in JSON. Nothing of a request's content is in them.
//!
//! The format is small and stable, and posting it is all there is to do: the exporters there are would double the number
//! of crates. Requests never wait for the collector; what it does not take in time is dropped and counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tollgate_core::secret::{Secret, hex, random_bytes};
use tollgate_core::{Address, Error, Result};
use tollgate_gateway::Served;
use tollgate_wire::{ClientConnection, Dialer};

const SEND_EVERY: Duration = Duration::from_secs(1);
const SEND_TIME_MAX: Duration = Duration::from_secs(10);
/// Spans in a post, and spans that wait.
const BATCH_MAX: usize = 512;
const WAITING_MAX: usize = 16_384;
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Where traces go.
#[derive(Clone, Debug)]
pub struct OtlpOptions {
    /// The collector's base, below which `/v1/traces` is.
    pub endpoint: Address,
    /// Fields of the head of each post, each with the end of its line.
    pub header_fields: Arc<Secret>,
}

impl OtlpOptions {
    /// `headers` as OpenTelemetry's environment has them: `name=value`, with commas between them.
    pub(crate) fn read(endpoint: &str, headers: Option<&str>) -> Result<Self> {
        let endpoint = Address::parse(endpoint).map_err(|why| {
            Error::bad_request(format!("--otlp-endpoint `{endpoint}` cannot be used: {why}."))
        })?;
        let mut fields = String::new();
        for pair in headers.unwrap_or_default().split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let is_plain = |text: &str| {
                !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
            };
            match pair.split_once('=') {
                Some((name, value)) if is_plain(name) && !name.contains([' ', ':']) && is_plain(value) => {
                    fields.extend([name, ": ", value, "\r\n"]);
                }
                _ => {
                    return Err(Error::bad_request(
                        "TOLLGATE_OTLP_HEADERS is not `name=value`, with commas between them.",
                    ));
                }
            }
        }
        Ok(Self { endpoint, header_fields: Arc::new(Secret::new(fields)) })
    }
}

/// Where a request stands in a trace: the caller's, or a new one.
pub(crate) struct Trace {
    id: [u8; 16],
    parent: Option<[u8; 8]>,
    /// Of the request, and of its way to the upstream.
    spans: [[u8; 8]; 2],
    is_sampled: bool,
}

impl Trace {
    /// By the caller's `traceparent`, if it is one.
    pub(crate) fn of(traceparent: Option<&str>) -> Self {
        let spans = [random_bytes(), random_bytes()];
        match traceparent.and_then(read_traceparent) {
            Some((id, parent, is_sampled)) => Self { id, parent: Some(parent), spans, is_sampled },
            None => Self { id: random_bytes(), parent: None, spans, is_sampled: true },
        }
    }

    /// What the upstream is told.
    pub(crate) fn to_upstream(&self) -> String {
        format!("00-{}-{}-0{}", hex(&self.id), hex(&self.spans[1]), u8::from(self.is_sampled))
    }
}

/// `00-<trace>-<span>-<flags>` in lower-case hexadecimal, neither id zero.
fn read_traceparent(text: &str) -> Option<([u8; 16], [u8; 8], bool)> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version == "ff"
        || version.len() != 2
        || (version == "00" && parts.next().is_some())
        || flags.len() != 2
    {
        return None;
    }
    let id: [u8; 16] = unhex(trace)?.try_into().ok()?;
    let span: [u8; 8] = unhex(span)?.try_into().ok()?;
    let flags = unhex(flags)?;
    (id != [0; 16] && span != [0; 8]).then_some((id, span, flags[0] & 1 == 1))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let pairs = text.as_bytes().chunks(2);
    let read = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if is_hex && text.len().is_multiple_of(2) { pairs.map(read).collect() } else { None }
}

/// What was seen of a request, for its spans.
pub(crate) struct Seen<'s> {
    pub(crate) request_id: &'s str,
    pub(crate) method: &'s str,
    pub(crate) route: &'s str,
    pub(crate) status: u16,
    /// Milliseconds since 1970.
    pub(crate) ended_at: i64,
    pub(crate) time: Duration,
    pub(crate) served: &'s Served,
}

/// Takes spans; a task of its own posts them.
pub(crate) struct Exporter {
    options: OtlpOptions,
    dialer: Dialer,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    spans: Vec<Value>,
    dropped: u64,
}

impl Exporter {
    pub(crate) fn new(options: OtlpOptions, dialer: Dialer) -> Self {
        Self { options, dialer, waiting: Mutex::default() }
    }

    pub(crate) fn note(&self, trace: &Trace, seen: &Seen<'_>) {
        if !trace.is_sampled {
            return;
        }
        let spans = spans(trace, seen);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.spans.len() + spans.len() > WAITING_MAX {
            waiting.dropped += spans.len() as u64;
        } else {
            waiting.spans.extend(spans);
        }
    }

    /// Posts what waits, for as long as it runs.
    pub(crate) async fn run(&self) {
        let mut connection = None;
        loop {
            tokio::time::sleep(SEND_EVERY).await;
            self.send_all(&mut connection).await;
        }
    }

    /// Posts all that waits.
    pub(crate) async fn send_all(&self, connection: &mut Option<ClientConnection>) {
        loop {
            let (batch, dropped) = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let rest = waiting.spans.len().min(BATCH_MAX);
                let batch: Vec<Value> = waiting.spans.drain(..rest).collect();
                (batch, std::mem::take(&mut waiting.dropped))
            };
            if dropped > 0 {
                tracing::warn!(
                    spans = dropped,
                    "traces were dropped: the collector does not take them in time"
                );
            }
            if batch.is_empty() {
                return;
            }
            let count = batch.len();
            let sent = tokio::time::timeout(SEND_TIME_MAX, self.post(batch, connection)).await;
            if let Err(why) = sent.unwrap_or_else(|_| Err("it took too long".to_owned())) {
                *connection = None;
                tracing::warn!(spans = count, why, "traces could not be sent to the collector");
                return;
            }
        }
    }

    async fn post(
        &self,
        spans: Vec<Value>,
        kept: &mut Option<ClientConnection>,
    ) -> std::result::Result<(), String> {
        let body = json!({"resourceSpans": [{
            "resource": {"attributes": [text("service.name", "tollgate"), text("service.version", env!("CARGO_PKG_VERSION"))]},
            "scopeSpans": [{"scope": {"name": "tollgate"}, "spans": spans}],
        }]})
        .to_string();
        let OtlpOptions { endpoint, header_fields } = &self.options;
        let head = format!(
            "POST {}/v1/traces HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}\r\n",
            endpoint.path,
            endpoint.authority(),
            body.len(),
            header_fields.reveal()
        );
        let mut old = kept.take();
        let connection = match old.take_if(|old| !old.is_stale()) {
            Some(connection) => connection,
            None => self.dialer.dial(endpoint).await.map_err(|error| error.to_string())?,
        };
        let mut answer =
            connection.send(head.as_bytes(), body.as_bytes()).await.map_err(|error| error.to_string())?;
        let status = answer.head.status;
        let mut said = Vec::new();
        while answer.read(&mut said).await.map_err(|error| error.to_string())? {
            if said.len() > ANSWER_BYTES_MAX {
                return Err("its answer is too long".to_owned());
            }
        }
        *kept = answer.into_connection();
        if (200..300).contains(&status) { Ok(()) } else { Err(format!("it answered with status {status}")) }
    }
}

/// The two spans of a request; one, if it came to no upstream.
fn spans(trace: &Trace, seen: &Seen<'_>) -> Vec<Value> {
    let Seen { served, time, .. } = seen;
    let end = i128::from(seen.ended_at) * 1_000_000;
    let nanos = |at: i128| at.to_string();
    let start = end - i128::try_from(time.as_nanos()).unwrap_or(0);
    let mut attributes = vec![
        text("http.request.method", seen.method),
        text("http.route", seen.route),
        number("http.response.status_code", u64::from(seen.status)),
        text("tollgate.request_id", seen.request_id),
    ];
    if let Some(key) = &served.key {
        attributes.push(text("tollgate.organization_id", &key.organization.to_string()));
        attributes.extend(key.project.map(|project| text("tollgate.project_id", &project.to_string())));
        attributes.push(text("tollgate.api_key_id", &key.id.to_string()));
    }
    let is_error = seen.status >= 500;
    let mut server = json!({
        "traceId": hex(&trace.id), "spanId": hex(&trace.spans[0]), "name": format!("{} {}", seen.method, seen.route),
        "kind": 2, "startTimeUnixNano": nanos(start), "endTimeUnixNano": nanos(end), "attributes": attributes,
        "status": {"code": if is_error { 2 } else { 0 }},
    });
    if let Some(parent) = trace.parent {
        server["parentSpanId"] = json!(hex(&parent));
    }
    let (Some(model), Some(upstream)) = (&served.model, &served.upstream) else { return vec![server] };
    let operation = match seen.route {
        "/v1/embeddings" => "embeddings",
        "/v1/completions" => "text_completion",
        _ => "chat",
    };
    let mut attributes = vec![
        text("gen_ai.operation.name", operation),
        text("gen_ai.request.model", model),
        text("server.address", &upstream.address.host),
        number("server.port", u64::from(upstream.address.port)),
        text("tollgate.upstream", &upstream.name),
    ];
    if let Some(usage) = served.usage {
        attributes.push(number("gen_ai.usage.input_tokens", usage.input));
        attributes.push(number("gen_ai.usage.output_tokens", usage.output));
    }
    let begun = end - i128::try_from(served.upstream_time.as_nanos()).unwrap_or(0);
    let client = json!({
        "traceId": hex(&trace.id), "spanId": hex(&trace.spans[1]), "parentSpanId": hex(&trace.spans[0]),
        "name": format!("{operation} {model}"), "kind": 3, "startTimeUnixNano": nanos(begun.max(start)),
        "endTimeUnixNano": nanos(end), "attributes": attributes, "status": {"code": if is_error { 2 } else { 0 }},
    });
    vec![server, client]
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// OTLP writes 64-bit integers as texts.
fn number(key: &str, value: u64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_gone_on_from_if_it_is_one() {
        let own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = Trace::of(Some(own));
        assert!(trace.is_sampled && trace.parent.is_some());
        let told = trace.to_upstream();
        assert!(
            told.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && told.ends_with("-01") && told != own
        );
        assert!(!Trace::of(Some(&own.replace("-01", "-00"))).is_sampled);
        for bad in [
            "",
            "x",
            "00-0-0-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01",
        ] {
            assert!(Trace::of(Some(bad)).parent.is_none(), "{bad}");
        }
    }

    #[test]
    fn headers_of_posts_are_read_as_opentelemetry_writes_them() {
        let read = |headers| OtlpOptions::read("http://127.0.0.1:4318", Some(headers));
        let fields =
            read("api-key=secret, x-team = a b").map(|options| options.header_fields.reveal().to_owned());
        assert!(fields.is_err(), "a name has no space");
        assert_eq!(
            read("api-key=secret,x=a=b").unwrap().header_fields.reveal(),
            "api-key: secret\r\nx: a=b\r\n"
        );
        assert!(read("api-key").is_err() && read("a=b\r\nc: d").is_err());
        assert!(OtlpOptions::read("127.0.0.1:4318", None).is_err());
    }
}
