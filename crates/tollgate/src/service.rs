//! One worker's answer to every request: which of the two planes it belongs to, and the few paths that are neither's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tollgate_admin::Admin;
use tollgate_core::{AttemptId, Clock, not_served};
use tollgate_gateway::{Gateway, Pool};
use tollgate_wire::{Exchange, Reply, Service};

pub(crate) struct Worker {
    pub(crate) admin: Arc<Admin>,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) pool: Pool,
    pub(crate) clock: Clock,
    /// Off before the node is complete and while it drains.
    pub(crate) is_ready: Arc<AtomicBool>,
}

/// What OpenAI calls the version of its API.
const API_VERSION: &str = "2020-10-01";

impl Service for Worker {
    fn headers_of_refusal(&self) -> Vec<(&'static str, String)> {
        let id: AttemptId = self.clock.next_id();
        vec![
            ("x-request-id", id.to_string()),
            ("openai-version", API_VERSION.to_owned()),
            ("openai-processing-ms", "0".to_owned()),
        ]
    }

    async fn call(&self, exchange: &mut Exchange) {
        let id: AttemptId = self.clock.next_id();
        exchange.set_header("x-request-id", id.to_string());
        exchange.set_header("openai-version", API_VERSION.to_owned());
        exchange.set_timing_header("openai-processing-ms");
        let path = exchange.head.path();
        let is_admin = ["/v1/organization/", "/v1/projects/", "/tollgate/v1/"]
            .iter()
            .any(|plane| path.starts_with(plane));
        if is_admin {
            self.admin.serve(exchange).await;
        } else if tollgate_gateway::is_of_gateway(path) {
            tollgate_gateway::serve(&self.gateway, &self.pool, exchange, id).await;
        } else {
            self.neither(exchange).await;
        }
    }
}

impl Worker {
    async fn neither(&self, exchange: &mut Exchange) {
        let is_ready = self.is_ready.load(Ordering::Relaxed);
        match (exchange.head.method(), exchange.head.path()) {
            // Whether the process lives; nothing that could restart it for the sake of something else.
            ("GET" | "HEAD", "/healthz") => respond(exchange, 200, "ok").await,
            ("GET" | "HEAD", "/readyz") if is_ready && self.gateway.replica.check_fresh().is_ok() => {
                respond(exchange, 200, "ready").await;
            }
            ("GET" | "HEAD", "/readyz") => respond(exchange, 503, "not ready").await,
            (method, path) => {
                let error = not_served::unknown_url(method, path);
                exchange.fail(&error).await;
            }
        }
    }
}

async fn respond(exchange: &mut Exchange, status: u16, word: &str) {
    exchange.respond(&Reply::json(status, format!("{{\"status\":\"{word}\"}}").into_bytes())).await;
}
