//! Refusals of an upstream, as the client is told of them.
//!
//! What concerns the client's request passes as it came. What concerns the installation (its credential, its quota, its
//! limits, its provider's failures) is told in words of ours, for the provider's own name the account and its owner.

use serde_json::{Value, json};
use tollgate_core::error::Kind;
use tollgate_core::secret::Secret;
use tollgate_core::upstream::{OnClientGone, OutputLimitField, Settings};
use tollgate_core::{Address, AttemptId, Error, UpstreamId};
use tollgate_replica::Upstream;

/// The error to answer instead of what the upstream said; `None` where its answer may pass.
pub(crate) fn told(
    upstream: &Upstream,
    status: u16,
    retry_after: Option<String>,
    body: &[u8],
) -> Option<Error> {
    if (200..300).contains(&status) {
        return None;
    }
    let envelope: Option<Value> =
        serde_json::from_slice(body).ok().filter(|body: &Value| body["error"].is_object());
    let said = |name: &str| envelope.as_ref().and_then(|body| body["error"][name].as_str()).unwrap_or("");
    let is_spent = status == 402 || [said("code"), said("type")].iter().any(|word| SPENT.contains(word));
    let name = &upstream.name;
    let (kind, code, message) = match status {
        401 | 403 => (
            Kind::UpstreamFailed,
            "upstream_authentication_failed",
            format!("The upstream `{name}` refused Tollgate's credential. An operator has to renew it."),
        ),
        402 | 429 if is_spent => (
            Kind::Unavailable,
            "upstream_quota_exhausted",
            format!("The account at the upstream `{name}` has no money left. An operator has to see to it."),
        ),
        429 => (
            Kind::UpstreamLimited,
            "upstream_rate_limited",
            format!("The upstream `{name}` takes no more requests for the moment. Please try again."),
        ),
        400..500 if envelope.is_some() => return None,
        503 | 529 => (
            Kind::Unavailable,
            "upstream_unavailable",
            format!("The upstream `{name}` is overloaded. Please try again."),
        ),
        504 => (
            Kind::UpstreamTimeout,
            "upstream_timeout",
            format!("The upstream `{name}` did not answer in time."),
        ),
        _ => (Kind::UpstreamFailed, "upstream_failed", format!("The upstream `{name}` failed to answer.")),
    };
    // The code alone goes to the log: some providers repeat parts of the credential, or of the request, in the message.
    let mut error =
        Error::new(kind, message).code(code).source(format!("status {status}, code {}", said("code")));
    if is_spent {
        error = error.header("x-should-retry", "false");
    } else if let Some(seconds) = retry_after {
        error = error.header("retry-after", seconds);
    }
    Some(error)
}

/// An error as Anthropic's clients read it. Code and parameter are told besides, as OpenAI's clients are told them.
pub(crate) fn native_envelope(error: &Error, id: AttemptId) -> Value {
    let kind = match error.status() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "request_id": id,
        "error": {"type": kind, "message": error.message, "code": error.code, "param": error.param}})
}

/// One for what needs any.
pub(crate) fn any_upstream() -> Upstream {
    let address =
        Address { is_tls: true, host: "provider.example".to_owned(), port: 443, path: "/v1".to_owned() };
    Upstream {
        id: UpstreamId::from_bits(1),
        name: "provider".to_owned(),
        output_limit_field: OutputLimitField::usual(&address),
        on_client_gone: OnClientGone::Drain,
        header_fields: Secret::new(""),
        native_fields: Secret::new(""),
        settings: Settings::default(),
        address,
    }
}

/// How providers say that an account has nothing left to spend.
const SPENT: [&str; 6] = [
    "insufficient_quota",
    "billing_hard_limit_reached",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) use super::any_upstream as upstream;

    #[test]
    fn what_concerns_the_request_passes_and_what_concerns_the_account_does_not() {
        let body = |code: &str| format!(r#"{{"error":{{"message":"org-OPERATOR sk-x","code":"{code}"}}}}"#);
        let told = |status, body: &str| told(&upstream(), status, Some("7".into()), body.as_bytes());
        for status in [400, 404, 413, 422] {
            assert!(told(status, &body("x")).is_none(), "{status}");
        }
        for (status, body, expected, code) in [
            (400, "<html>".to_owned(), 502, "upstream_failed"),
            (401, body("x"), 502, "upstream_authentication_failed"),
            (402, body("x"), 503, "upstream_quota_exhausted"),
            (429, body("insufficient_quota"), 503, "upstream_quota_exhausted"),
            (429, body("rate_limit_exceeded"), 429, "upstream_rate_limited"),
            (500, body("x"), 502, "upstream_failed"),
            (503, "<html>".to_owned(), 503, "upstream_unavailable"),
            (504, String::new(), 504, "upstream_timeout"),
        ] {
            let error = told(status, &body).unwrap();
            assert_eq!((error.status(), error.code), (expected, Some(code)), "{status} {body}");
            assert!(!error.message.contains("OPERATOR"));
            let header = error.headers.first().map(|(name, _)| *name);
            let spent = code == "upstream_quota_exhausted";
            assert_eq!(header, Some(if spent { "x-should-retry" } else { "retry-after" }));
        }
    }
}
