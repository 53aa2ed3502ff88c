//! `/metrics`: the figures of this node in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::time::Duration;

use tollgate_alerts::outbox;
use tollgate_core::budget::{Budget, Mode, Scope};
use tollgate_core::metrics::{Family, Histogram};
use tollgate_core::{Clock, Error, Money, Result};
use tollgate_gateway::{Gateway, NO_STATUS};
use tollgate_ledger::spend_limit;
use tollgate_replica::KeyCounts;
use tollgate_store::{Db, Reading};
use tollgate_wire::Reply;

/// Budgets that are shown; beyond it a scrape would cost more than it tells.
const BUDGETS_MAX: usize = 10_000;

/// What is counted of every request, whichever plane it is of.
#[derive(Default)]
pub(crate) struct Requests {
    by_route: Family<(&'static str, &'static str, u16), u64>,
    durations: Family<&'static str, Histogram>,
}

impl Requests {
    pub(crate) fn note(&self, route: &'static str, method: &str, status: u16, time: Duration) {
        self.by_route.count((route, known_method(method), status));
        self.durations.observe(route, time);
    }
}

/// Anybody can make up methods; each would be a line for ever.
fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS"];
    KNOWN.iter().find(|known| **known == method).copied().unwrap_or("other")
}

/// What there is to show.
pub(crate) struct Metrics {
    pub(crate) requests: Requests,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) db: Db,
    pub(crate) clock: Clock,
}

impl Metrics {
    pub(crate) async fn show(&self) -> Result<Reply> {
        let now = self.clock.now();
        let (budgets, notifications) = self
            .db
            .read_for(Reading::Long, move |tx| {
                Box::pin(async move {
                    Ok((spend_limit::present(tx, now, BUDGETS_MAX).await?, outbox::waiting(tx).await?))
                })
            })
            .await?;
        let mut page = Page::default();
        self.show_requests(&mut page);
        self.show_gateway(&mut page);
        self.show_money(&mut page, &budgets);
        page.family("notifications_pending", "gauge", "Notifications that have not arrived yet.");
        for (state, count) in ["new", "failing"].iter().zip(notifications) {
            page.line("notifications_pending", &[("state", state)], count);
        }
        let (gateway, now) = (Arc::clone(&self.gateway), self.clock.now());
        // It looks at every key, and no request should wait for it.
        let counting = tokio::task::spawn_blocking(move || gateway.replica.snapshot().count_keys(now));
        let keys =
            counting.await.map_err(|error| Error::internal("the keys could not be counted").source(error))?;
        show_keys(&mut page, &keys);
        let content_type = "text/plain; version=0.0.4; charset=utf-8".to_owned();
        Ok(Reply { status: 200, headers: vec![("content-type", content_type)], body: page.0.into_bytes() })
    }

    fn show_requests(&self, page: &mut Page) {
        page.family("http_requests_total", "counter", "Requests by path, method and status.");
        for ((route, method, code), count) in self.requests.by_route.read() {
            page.line(
                "http_requests_total",
                &[("route", &route), ("method", &method), ("code", &code)],
                count,
            );
        }
        page.family(
            "http_request_duration_seconds",
            "histogram",
            "From the head of a request to the end of its answer.",
        );
        for (route, histogram) in self.requests.durations.read() {
            page.histogram("http_request_duration_seconds", &[("route", &route)], &histogram);
        }
    }

    fn show_gateway(&self, page: &mut Page) {
        let figures = &self.gateway.figures;
        page.family("requests_in_flight", "gauge", "Requests of the data plane that are under way.");
        page.line("requests_in_flight", &[], figures.under_way());
        page.family(
            "gateway_overhead_seconds",
            "histogram",
            "What a request took apart from its client and its upstream.",
        );
        page.histogram("gateway_overhead_seconds", &[], &of_all(&figures.overhead));
        page.family(
            "time_to_first_chunk_seconds",
            "histogram",
            "From the request to the first piece of a streamed answer.",
        );
        page.histogram("time_to_first_chunk_seconds", &[], &of_all(&figures.first_chunk));
        page.family("upstream_request_duration_seconds", "histogram",
            "From the request to the end of the answer, by upstream, model and status; `none` where no answer came.");
        let snapshot = self.gateway.replica.snapshot();
        for ((upstream, model, status), histogram) in figures.upstreams.read() {
            let name = snapshot
                .upstream(upstream)
                .map_or_else(|| upstream.to_string(), |upstream| upstream.name.clone());
            let code = if status == NO_STATUS { "none".to_owned() } else { status.to_string() };
            page.histogram(
                "upstream_request_duration_seconds",
                &[("upstream", &name), ("model", &model), ("code", &code)],
                &histogram,
            );
        }
        page.family(
            "upstream_up",
            "gauge",
            "Whether an upstream is asked: 0 while it rests or cannot be reached.",
        );
        let mut upstreams = self.gateway.upstreams_up();
        upstreams.sort();
        for (name, is_up) in upstreams {
            page.line("upstream_up", &[("upstream", &name)], u8::from(is_up));
        }
        page.family(
            "requests_refused_total",
            "counter",
            "Requests of the data plane that ended in an error of Tollgate's, by its code.",
        );
        for (reason, count) in figures.refused.read() {
            page.line("requests_refused_total", &[("reason", &reason)], count);
        }
        page.family("auth_failures_total", "counter", "Of these, those whose key opened nothing.");
        for (reason, count) in figures.auth_failures.read() {
            page.line("auth_failures_total", &[("reason", &reason)], count);
        }
    }

    fn show_money(&self, page: &mut Page, budgets: &[Budget]) {
        let totals: BTreeMap<_, _> = self.gateway.ledger.totals().read().collect();
        page.family("tokens_total", "counter", "Tokens that were charged since the start.");
        for ((project, model), total) in &totals {
            let kinds = [
                ("input", total.input),
                ("cached_input", total.cached_input),
                ("cache_write", total.cache_write),
                ("output", total.output),
            ];
            for (kind, tokens) in kinds {
                page.line("tokens_total", &[("project", project), ("model", model), ("type", &kind)], tokens);
            }
        }
        page.family("cost_usd_total", "counter", "US dollars that were charged since the start.");
        for ((project, model), total) in &totals {
            page.line("cost_usd_total", &[("project", project), ("model", model)], total.cost);
        }
        let figures: [(&str, &str, Figure); 3] = [
            ("budget_limit_usd", "The spend limits of projects and organizations.", |budget| {
                budget.limit.amount
            }),
            ("budget_spent_usd", "What was spent of them in their present period.", |budget| budget.settled),
            ("budget_reserved_usd", "What requests in flight hold of them.", |budget| budget.held),
        ];
        for (name, help, figure) in figures {
            page.family(name, "gauge", help);
            for budget in budgets {
                let interval = budget.limit.interval.as_str();
                let mode = if budget.limit.mode == Mode::Enforce { "enforce" } else { "observe" };
                let (kind, id) = spend_limit::columns(budget.limit.scope);
                debug_assert!(matches!(budget.limit.scope, Scope::Organization(_) | Scope::Project(_)));
                page.line(name, &[(kind, &id), ("interval", &interval), ("mode", &mode)], figure(budget));
            }
        }
        page.family(
            "ledger_lag_seconds",
            "gauge",
            "How long what waits longest to be written to the books has waited.",
        );
        page.line("ledger_lag_seconds", &[], Seconds(self.gateway.ledger.lag()));
    }
}

fn show_keys(page: &mut Page, keys: &KeyCounts) {
    page.family("keys", "gauge", "API keys that were not revoked.");
    for (status, count) in [("active", keys.active), ("inactive", keys.inactive), ("expired", keys.expired)] {
        page.line("keys", &[("status", &status)], count);
    }
    page.family(
        "key_expiry_days_min",
        "gauge",
        "Whole days until the first active key that expires does; absent if none expires.",
    );
    if let Some(seconds) = keys.first_expiry_in {
        page.line("key_expiry_days_min", &[], seconds / 86_400);
    }
    page.family("build_info", "gauge", "Which version this is.");
    page.line("build_info", &[("version", &env!("CARGO_PKG_VERSION"))], 1);
}

fn of_all(family: &Family<(), Histogram>) -> Histogram {
    family.read().remove(&()).unwrap_or_default()
}

/// A time, in seconds as a decimal.
struct Seconds(Duration);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}

type Figure = fn(&Budget) -> Money;

#[derive(Default)]
struct Page(String);

type Labels<'l> = [(&'l str, &'l dyn Display)];

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP tollgate_{name} {help}\n# TYPE tollgate_{name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &Labels<'_>, value: impl Display) {
        let _ = write!(self.0, "tollgate_{name}");
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(&text.to_string()));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn histogram(&mut self, name: &str, labels: &Labels<'_>, histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        let mut count = 0;
        for (bound, cumulative) in histogram.cumulative() {
            count = cumulative;
            let bound = bound.map_or_else(
                || "+Inf".to_owned(),
                |micros| Seconds(Duration::from_micros(micros)).to_string(),
            );
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.line(&bucket, &labels, cumulative);
        }
        self.line(&format!("{name}_sum"), labels, Seconds(histogram.sum()));
        self.line(&format!("{name}_count"), labels, count);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_can_be_any_text() {
        let mut page = Page::default();
        page.line("x", &[("model", &"a\"b\\c\nd"), ("code", &200)], 1);
        assert_eq!(page.0, "tollgate_x{model=\"a\\\"b\\\\c\\nd\",code=\"200\"} 1\n");
    }
}
