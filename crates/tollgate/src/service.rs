//! One worker's answer to every request: which of the two planes it belongs to, and the few paths that are neither's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tollgate_admin::Admin;
use tollgate_console::Console;
use tollgate_core::{AttemptId, Clock, not_served};
use tollgate_gateway::{Gateway, Pool, Served};
use tollgate_store::Db;
use tollgate_wire::{Exchange, Reply, Service};

use crate::access_log::{AccessLog, Line};
use crate::metrics::Metrics;
use crate::otel::{Exporter, Seen, Trace};

pub(crate) struct Worker {
    pub(crate) admin: Arc<Admin>,
    pub(crate) console: Arc<Console>,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) pool: Pool,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: Option<Arc<AccessLog>>,
    pub(crate) exporter: Option<Arc<Exporter>>,
    /// Off before the node is complete and while it drains.
    pub(crate) is_ready: Arc<AtomicBool>,
    pub(crate) db: Db,
}

/// What OpenAI calls the version of its API.
const API_VERSION: &str = "2020-10-01";
/// The status of a request whose client went away before its answer began.
const CLIENT_GONE: u16 = 499;
/// What a path is called that is none of ours.
const NO_ROUTE: &str = "other";

impl Service for Worker {
    fn refused(&self, status: u16) -> Vec<(&'static str, String)> {
        let id: AttemptId = self.clock.next_id();
        self.metrics.requests.note("malformed", "other", status, std::time::Duration::ZERO);
        vec![
            ("x-request-id", id.to_string()),
            ("openai-version", API_VERSION.to_owned()),
            ("openai-processing-ms", "0".to_owned()),
        ]
    }

    async fn call(&self, exchange: &mut Exchange) {
        let id: AttemptId = self.clock.next_id();
        let request_id = id.text();
        exchange.set_header("x-request-id", request_id.clone());
        exchange.set_header("openai-version", API_VERSION.to_owned());
        exchange.set_timing_header("openai-processing-ms");
        let path = exchange.head.path();
        let is_admin = ["/v1/organization/", "/v1/projects/", "/tollgate/v1/"]
            .iter()
            .any(|plane| path.starts_with(plane));
        let tracer = self.exporter.as_ref().filter(|_| !is_admin && tollgate_gateway::is_of_gateway(path));
        let trace = tracer.map(|_| Trace::of(exchange.head.headers.get("traceparent")));
        let served = if is_admin {
            Served { route: self.admin.serve(exchange).await, ..Served::default() }
        } else if tollgate_gateway::is_of_gateway(path) {
            let told = trace.as_ref().map(Trace::to_upstream);
            tollgate_gateway::serve(&self.gateway, &self.pool, exchange, id, told.as_deref()).await
        } else {
            Served { route: self.neither(exchange).await, ..Served::default() }
        };
        self.note(exchange, &request_id, &served);
        if let (Some(exporter), Some(trace)) = (tracer, trace) {
            let seen = Seen {
                request_id: &request_id,
                method: exchange.head.method(),
                route: served.route.unwrap_or(NO_ROUTE),
                status: exchange.status().unwrap_or(CLIENT_GONE),
                ended_at: self.clock.now_millis(),
                time: exchange.elapsed(),
                served: &served,
            };
            exporter.note(&trace, &seen);
        }
    }
}

impl Worker {
    /// What became of a request, for the figures and the log.
    fn note(&self, exchange: &Exchange, request_id: &str, served: &Served) {
        let route = served.route.unwrap_or(NO_ROUTE);
        let (method, time) = (exchange.head.method(), exchange.elapsed());
        let status = exchange.status().unwrap_or(CLIENT_GONE);
        self.metrics.requests.note(route, method, status, time);
        if let (Some(key), Some(outcome)) = (&served.key, served.outcome) {
            let agent = exchange.head.headers.get("user-agent").unwrap_or("");
            self.gateway.replica.note_outcome(key, agent, outcome, time);
        }
        let Some(log) = &self.access_log else { return };
        let key = served.key.as_ref();
        log.write(&Line {
            time: self.clock.now().to_string(),
            request_id,
            client: self.admin.client_address(exchange),
            method,
            route,
            status,
            complete: exchange.is_complete(),
            milliseconds: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            bytes_sent: exchange.bytes_sent(),
            organization_id: key.map(|key| key.organization.to_string()),
            project_id: key.and_then(|key| key.project).map(|project| project.to_string()),
            api_key_id: key.map(|key| key.id.to_string()),
            model: served.model.as_deref(),
            upstream: served.upstream.as_ref().map(|upstream| upstream.name.as_str()),
        });
    }

    async fn neither(&self, exchange: &mut Exchange) -> Option<&'static str> {
        let is_ready = self.is_ready.load(Ordering::Relaxed) && self.db.is_available();
        match (exchange.head.method(), exchange.head.path()) {
            // Whether the process lives; nothing that could restart it for the sake of something else.
            ("GET" | "HEAD", "/healthz") => {
                respond(exchange, 200, "ok").await;
                Some("/healthz")
            }
            ("GET" | "HEAD", "/readyz") => {
                if is_ready && self.gateway.replica.check_fresh().is_ok() {
                    respond(exchange, 200, "ready").await;
                } else {
                    respond(exchange, 503, "not ready").await;
                }
                Some("/readyz")
            }
            ("GET" | "HEAD", "/metrics") => {
                match self.admin.check_operator(exchange) {
                    Ok(()) => show_metrics(&self.metrics, exchange).await,
                    Err(error) => exchange.fail(&error).await,
                }
                Some("/metrics")
            }
            (_, path) if tollgate_console::is_of_console(path) => self.console.serve(exchange).await,
            // What anybody can read in the repository.
            ("GET" | "HEAD", "/openapi.json") => {
                exchange.respond(&Reply::json(200, openapi().to_vec())).await;
                Some("/openapi.json")
            }
            // Whoever looks for a page is told by one.
            _ if exchange.head.headers.get("accept").is_some_and(|accept| accept.contains("text/html")) => {
                self.console.serve(exchange).await
            }
            (method, path) => {
                let error = not_served::unknown_url(method, path);
                exchange.fail(&error).await;
                None
            }
        }
    }
}

/// The document of the administration's API, made when it is first asked for.
fn openapi() -> &'static [u8] {
    static DOCUMENT: OnceLock<Vec<u8>> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let document = tollgate_admin::openapi::document(&tollgate_admin::operations());
        document.to_string().into_bytes()
    })
}

/// Serves the figures and nothing else, to whoever asks.
pub(crate) struct OpenMetrics(pub(crate) Arc<Metrics>);

impl Service for OpenMetrics {
    fn refused(&self, _: u16) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    async fn call(&self, exchange: &mut Exchange) {
        match (exchange.head.method(), exchange.head.path()) {
            ("GET" | "HEAD", "/metrics") => show_metrics(&self.0, exchange).await,
            (method, path) => {
                let error = not_served::unknown_url(method, path);
                exchange.fail(&error).await;
            }
        }
    }
}

async fn show_metrics(metrics: &Arc<Metrics>, exchange: &mut Exchange) {
    match metrics.show().await {
        Ok(reply) => exchange.respond(&reply).await,
        Err(error) => exchange.fail(&error).await,
    }
}

async fn respond(exchange: &mut Exchange, status: u16, word: &str) {
    exchange.respond(&Reply::json(status, format!("{{\"status\":\"{word}\"}}").into_bytes())).await;
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_page_is_a_path_of_the_gateways() {
        for route in tollgate_console::ROUTES {
            let path = route.path.replace("{}", "x");
            assert!(!tollgate_gateway::is_of_gateway(&path), "{path}");
        }
    }
}
