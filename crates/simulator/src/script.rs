//! What the simulated provider is told to do: per request in `metadata.simulate` (JSON as a text), or for all that
//! follow by `POST /_simulate/config`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Each field left out keeps what the configuration says, and there the usual.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Script {
    /// Before the head of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_ms: Option<u64>,
    /// Between the events of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chunk_ms: Option<u64>,
    /// How many tokens to generate, or `"max"` for as many as the request allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output_tokens: Option<OutputTokens>,
    /// The text to answer with, instead of a generated one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// Answer with a call of the request's first tool; its arguments as a JSON text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_arguments: Option<String>,
    /// `stall`, `cut` (both after `after_bytes` of the body), `drop` (no answer at all), or `status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<Fault>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after_bytes: Option<usize>,
    /// For the fault `status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after: Option<u64>,
    /// `"none"` to say nothing of usage, or the usage object to show instead of the true one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Value>,
    /// Of the input, so many tokens are reported as read from the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cached_tokens: Option<u64>,
    /// And so many as written to it, of which so many for an hour. Of messages only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_write_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_write_1h_tokens: Option<u64>,
    /// The only field in which it reads the most output, as older servers do; it overlooks any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output_limit_field: Option<String>,
    /// Whether it stops when its client hangs up, and bills what it made until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stops_when_client_gone: Option<bool>,
    /// Whether each event of a stream shows the usage so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage_in_every_event: Option<bool>,
    /// How long a response in the background is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) background_ms: Option<u64>,
    /// The tier it says it served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service_tier: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum OutputTokens {
    Count(u64),
    Max(Max),
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Max {
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fault {
    Stall,
    Cut,
    Drop,
    Status,
}

impl Script {
    /// This script where it says something, else `other`.
    pub(crate) fn or(self, other: &Self) -> Self {
        let other = other.clone();
        Self {
            latency_ms: self.latency_ms.or(other.latency_ms),
            chunk_ms: self.chunk_ms.or(other.chunk_ms),
            output_tokens: self.output_tokens.or(other.output_tokens),
            text: self.text.or(other.text),
            tool_arguments: self.tool_arguments.or(other.tool_arguments),
            fault: self.fault.or(other.fault),
            after_bytes: self.after_bytes.or(other.after_bytes),
            status: self.status.or(other.status),
            retry_after: self.retry_after.or(other.retry_after),
            usage: self.usage.or(other.usage),
            cached_tokens: self.cached_tokens.or(other.cached_tokens),
            cache_write_tokens: self.cache_write_tokens.or(other.cache_write_tokens),
            cache_write_1h_tokens: self.cache_write_1h_tokens.or(other.cache_write_1h_tokens),
            output_limit_field: self.output_limit_field.or(other.output_limit_field),
            stops_when_client_gone: self.stops_when_client_gone.or(other.stops_when_client_gone),
            usage_in_every_event: self.usage_in_every_event.or(other.usage_in_every_event),
            background_ms: self.background_ms.or(other.background_ms),
            service_tier: self.service_tier.or(other.service_tier),
        }
    }

    /// How many tokens are made of at most `limit`, where `usual` are if it does not say; and whether the limit ends them.
    pub(crate) fn output_within(&self, limit: u64, usual: u64) -> (u64, bool) {
        let wanted = match self.output_tokens {
            None => usual,
            Some(OutputTokens::Count(tokens)) => tokens,
            Some(OutputTokens::Max(_)) => limit,
        };
        (wanted.min(limit), wanted >= limit)
    }

    pub(crate) fn latency(&self) -> Duration {
        Duration::from_millis(self.latency_ms.unwrap_or(0))
    }

    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(self.chunk_ms.unwrap_or(0))
    }

    /// The usage to show for what was really used; `None` to show none.
    pub(crate) fn shown_usage(&self, usage: Value) -> Option<Value> {
        match &self.usage {
            None => Some(usage),
            Some(Value::String(word)) if word == "none" => None,
            Some(other) => Some(other.clone()),
        }
    }
}
