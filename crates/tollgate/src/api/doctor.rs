//! `doctor`: what an installation should be told before it costs money.

use serde_json::{Value, json};
use tollgate_alerts::outbox::TAKEN_BACK;
use tollgate_core::Clock;

use crate::api::client::CallError;
use crate::api::session::{Failure, Session};
use crate::api::table;

/// Every key is named: a list with holes would be no list.
const ALL: usize = usize::MAX;

#[derive(Default)]
struct Findings(Vec<Value>);

impl Findings {
    fn add(&mut self, check: &str, status: &str, subject: &str, finding: &str) {
        self.0.push(json!({"check": check, "status": status, "subject": subject, "finding": finding}));
    }

    fn ok(&mut self, check: &str, finding: &str) {
        self.add(check, "ok", "", finding);
    }

    /// What may not be seen with this key is no finding, and no silence.
    fn skipped(&mut self, check: &str, error: CallError) -> Result<(), Failure> {
        match error {
            CallError::Refused { status: 401 | 403, .. } => {
                self.add(check, "skipped", "", "This admin key may not see it.");
                Ok(())
            }
            other => Err(other.into()),
        }
    }
}

impl Session {
    /// Looks at everything over the API. `false` if something is wrong; what only deserves a look does not count.
    pub async fn doctor(&self) -> Result<bool, Failure> {
        self.needs_tollgate("examine itself")?;
        let mut findings = Findings::default();
        self.check_books(&mut findings).await?;
        self.check_keys(&mut findings).await?;
        self.check_models(&mut findings).await?;
        self.check_notifications(&mut findings).await?;
        self.check_requests(&mut findings).await?;
        let is_well = findings.0.iter().all(|finding| finding["status"] != "problem");
        self.show(table::FINDINGS, &Value::Array(findings.0))?;
        Ok(is_well)
    }

    async fn check_books(&self, findings: &mut Findings) -> Result<(), Failure> {
        let report = match self.client.get("/tollgate/v1/fsck", &[]).await {
            Ok(report) => report,
            Err(error) => return findings.skipped("books", error),
        };
        if report["is_balanced"] == true {
            findings.ok("books", &format!("{} requests, balanced.", report["attempts"]));
        }
        for fault in report["faults"].as_array().into_iter().flatten() {
            findings.add("books", "problem", "", fault.as_str().unwrap_or_default());
        }
        Ok(())
    }

    async fn check_keys(&self, findings: &mut Findings) -> Result<(), Failure> {
        let query = [("has_spend_limit", "false".to_owned())];
        let keys = match self.client.list("/tollgate/v1/api_keys", &query, ALL).await {
            Ok((keys, _)) => keys,
            Err(error) => return findings.skipped("keys", error),
        };
        if keys.is_empty() {
            findings.ok("keys", "A limit holds every key.");
        }
        for key in keys {
            let finding = format!(
                "No limit holds {} ({}) of project {}.",
                key["redacted_value"].as_str().unwrap_or_default(),
                key["name"].as_str().unwrap_or_default(),
                key["project_name"].as_str().unwrap_or_default(),
            );
            findings.add("keys", "warning", key["id"].as_str().unwrap_or_default(), &finding);
        }
        Ok(())
    }

    async fn check_models(&self, findings: &mut Findings) -> Result<(), Failure> {
        let models = match self.client.get("/tollgate/v1/models", &[]).await {
            Ok(models) => models,
            Err(error) => return findings.skipped("models", error),
        };
        let before = findings.0.len();
        let served = models["data"].as_array().into_iter().flatten();
        for model in
            served.filter(|model| model["upstreams"].as_array().is_some_and(|names| !names.is_empty()))
        {
            let name = model["id"].as_str().unwrap_or_default();
            let mut warn = |finding: &str| findings.add("models", "warning", name, finding);
            let bounds = ["max_output_tokens", "context_tokens", "request_cost_max"];
            let is_bounded = bounds.iter().any(|bound| !model[bound].is_null());
            if model["input_price"].is_null() {
                warn("No price: it costs nothing on the books, and is refused where a limit holds.");
            } else if !model["output_price"].is_null() && !is_bounded {
                warn("No most output is known: where a limit holds, requests must say their own.");
            }
            if let Some(count) = model.pointer("/bound_violations/count").and_then(Value::as_i64) {
                let excess = model.pointer("/bound_violations/excess").and_then(Value::as_str).unwrap_or("0");
                warn(&format!(
                    "{count} answers exceeded their bounds, by ${excess}; its bounds were raised: model set {name} \
                     --forget-violations takes that back."
                ));
            }
        }
        if findings.0.len() == before {
            findings.ok("models", "All that are served have a price and a bound.");
        }
        Ok(())
    }

    async fn check_notifications(&self, findings: &mut Findings) -> Result<(), Failure> {
        const LOOKED_AT_MAX: usize = 100;
        for status in ["pending", "failed"] {
            let query = [("status", status.to_owned())];
            let found = match self.client.list("/tollgate/v1/notifications", &query, LOOKED_AT_MAX).await {
                Ok((found, _)) => found,
                Err(error) => return findings.skipped("notifications", error),
            };
            for one in found.iter().filter(|one| !one["error"].is_null() && one["error"] != TAKEN_BACK) {
                let finding = format!(
                    "A notification of the alert {} has not arrived: {}.",
                    one["spend_alert_id"].as_str().or(one["event_alert_id"].as_str()).unwrap_or_default(),
                    one["error"].as_str().unwrap_or_default()
                );
                findings.add("notifications", "warning", one["id"].as_str().unwrap_or_default(), &finding);
            }
        }
        Ok(())
    }

    async fn check_requests(&self, findings: &mut Findings) -> Result<(), Failure> {
        const DAYS: i64 = 7;
        const LOOKED_AT_MAX: usize = 1_000;
        let since = Clock::system().now().plus_seconds(-DAYS * 86_400).0;
        for (what, value, name, finding) in [
            (
                "recovered",
                "true",
                "recovered",
                "were charged at their bound because the process that sent them had gone",
            ),
            ("flagged", "true", "flagged", "have something odd about their usage"),
            (
                "usage_source",
                "bound",
                "usage-source bound",
                "were charged at their bound because their upstream failed, or did not say what it used",
            ),
        ] {
            let query = [(what, value.to_owned())];
            let found = match self.client.list("/tollgate/v1/requests", &query, LOOKED_AT_MAX).await {
                Ok((found, _)) => found,
                Err(error) => return findings.skipped("requests", error),
            };
            let count = found.iter().filter(|request| request["created_at"].as_i64() >= Some(since)).count();
            if count > 0 {
                let more = if count == LOOKED_AT_MAX { "or more " } else { "" };
                let text = format!("{count} {more}of the last {DAYS} days {finding}: ledger list --{name}");
                findings.add("requests", "warning", "", &text);
            } else {
                findings.ok("requests", &format!("None of the last {DAYS} days {finding}."));
            }
        }
        Ok(())
    }
}
