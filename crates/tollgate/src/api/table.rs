//! What of each resource is shown to people.

use serde_json::Value;
use tollgate_core::Timestamp;

/// A column: its heading and where its value is, as a JSON pointer.
pub(crate) struct Column {
    pub(crate) heading: &'static str,
    pointer: &'static str,
    shape: Shape,
}

#[derive(Clone, Copy)]
enum Shape {
    Plain,
    Time,
    Cents,
    List,
}

const fn plain(heading: &'static str, pointer: &'static str) -> Column {
    Column { heading, pointer, shape: Shape::Plain }
}

const fn time(heading: &'static str, pointer: &'static str) -> Column {
    Column { heading, pointer, shape: Shape::Time }
}

const fn list(heading: &'static str, pointer: &'static str) -> Column {
    Column { heading, pointer, shape: Shape::List }
}

pub(crate) const PROJECTS: &[Column] =
    &[plain("ID", "/id"), plain("NAME", "/name"), plain("STATUS", "/status"), time("CREATED", "/created_at")];

pub(crate) const KEYS: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    plain("KEY", "/redacted_value"),
    plain("OWNER", "/owner/type"),
    list("SCOPES", "/scopes"),
    plain("ACCESS", "/owner_project_access"),
    time("LAST USED", "/last_used_at"),
    time("EXPIRES", "/expires_at"),
];

pub(crate) const SERVICE_ACCOUNTS: &[Column] =
    &[plain("ID", "/id"), plain("NAME", "/name"), plain("ROLE", "/role"), time("CREATED", "/created_at")];

pub(crate) const SPEND_LIMIT: &[Column] = &[
    Column { heading: "LIMIT USD", pointer: "/threshold_amount", shape: Shape::Cents },
    plain("INTERVAL", "/interval"),
    plain("STATUS", "/enforcement/status"),
    plain("SPENT", "/spent"),
    plain("HELD", "/held"),
    plain("REMAINING", "/remaining"),
    time("UNTIL", "/period_end"),
];

pub(crate) const UPSTREAMS: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    plain("BASE URL", "/base_url"),
    plain("API KEY", "/has_api_key"),
    list("MODELS", "/models"),
];

pub(crate) const MODELS: &[Column] = &[
    plain("MODEL", "/id"),
    plain("INPUT", "/input_price"),
    plain("CACHED", "/cached_input_price"),
    plain("OUTPUT", "/output_price"),
    plain("CONTEXT", "/context_tokens"),
    plain("MAX OUTPUT", "/max_output_tokens"),
    list("UPSTREAMS", "/upstreams"),
];

pub(crate) const COSTS: &[Column] = &[
    time("DAY", "/start_time"),
    plain("PROJECT", "/project_id"),
    plain("KEY", "/api_key_id"),
    plain("USER", "/user_id"),
    plain("LINE ITEM", "/line_item"),
    plain("USD", "/amount/value"),
];

pub(crate) const USAGE: &[Column] = &[
    time("FROM", "/start_time"),
    plain("PROJECT", "/project_id"),
    plain("KEY", "/api_key_id"),
    plain("USER", "/user_id"),
    plain("MODEL", "/model"),
    plain("REQUESTS", "/num_model_requests"),
    plain("INPUT", "/input_tokens"),
    plain("CACHED", "/input_cached_tokens"),
    plain("OUTPUT", "/output_tokens"),
];

impl Column {
    /// Whether any of the rows has something to show here.
    pub(crate) fn is_used(&self, rows: &[Value]) -> bool {
        rows.iter().any(|row| row.pointer(self.pointer).is_some_and(|value| !value.is_null()))
    }

    pub(crate) fn cell(&self, row: &Value) -> String {
        let value = row.pointer(self.pointer).unwrap_or(&Value::Null);
        match (self.shape, value) {
            (_, Value::Null) => "-".to_owned(),
            (Shape::Time, Value::Number(at)) => {
                at.as_i64().map_or_else(|| at.to_string(), |at| Timestamp(at).to_string())
            }
            (Shape::Cents, Value::Number(cents)) => {
                let cents = cents.as_i64().unwrap_or(0);
                format!("{}.{:02}", cents / 100, cents % 100)
            }
            (Shape::List, Value::Array(items)) if items.is_empty() => "all".to_owned(),
            (Shape::List, Value::Array(items)) => {
                items.iter().map(|item| item.as_str().unwrap_or("?")).collect::<Vec<_>>().join(", ")
            }
            (_, Value::String(text)) => {
                text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
            }
            (_, other) => other.to_string(),
        }
    }
}
