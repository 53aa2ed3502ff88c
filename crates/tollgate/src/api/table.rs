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
    /// Whether a limit is refusing.
    Reached,
    /// Decimal dollars as a number.
    Dollars,
    /// Empty, it stands for all.
    Scopes,
    List,
    /// An object of texts.
    Labels,
    /// A user by their address, a service account by its name.
    Owner,
}

const fn labels(heading: &'static str, pointer: &'static str) -> Column {
    Column { heading, pointer, shape: Shape::Labels }
}

const fn plain(heading: &'static str, pointer: &'static str) -> Column {
    Column { heading, pointer, shape: Shape::Plain }
}

const fn time(heading: &'static str, pointer: &'static str) -> Column {
    Column { heading, pointer, shape: Shape::Time }
}

const fn scopes(heading: &'static str, pointer: &'static str) -> Column {
    Column { heading, pointer, shape: Shape::Scopes }
}

const fn list(heading: &'static str, pointer: &'static str) -> Column {
    Column { heading, pointer, shape: Shape::List }
}

pub(crate) const PROJECTS: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    plain("STATUS", "/status"),
    time("CREATED", "/created_at"),
    labels("LABELS", "/labels"),
    time("FROZEN", "/frozen_at"),
];

pub(crate) const KEYS: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    plain("KEY", "/redacted_value"),
    Column { heading: "OWNER", pointer: "/owner", shape: Shape::Owner },
    scopes("SCOPES", "/scopes"),
    plain("ACCESS", "/owner_project_access"),
    time("FROZEN", "/frozen_at"),
    time("LAST USED", "/last_used_at"),
    time("EXPIRES", "/expires_at"),
    labels("LABELS", "/labels"),
];

pub(crate) const ORGANIZATIONS: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    time("CREATED", "/created_at"),
    time("FROZEN", "/frozen_at"),
];

pub(crate) const AUDIT: &[Column] = &[
    plain("ID", "/id"),
    time("AT", "/effective_at"),
    plain("TYPE", "/type"),
    plain("ACTOR", "/actor_name"),
    plain("ABOUT", "/about"),
    plain("WHAT", "/changed"),
    plain("PROJECT", "/project/name"),
];

pub(crate) const RATE_LIMITS: &[Column] = &[
    plain("ID", "/id"),
    plain("MODEL", "/model"),
    plain("REQUESTS/MIN", "/max_requests_per_1_minute"),
    plain("TOKENS/MIN", "/max_tokens_per_1_minute"),
    plain("REQUESTS/DAY", "/max_requests_per_1_day"),
    plain("IMAGES/MIN", "/max_images_per_1_minute"),
];

pub(crate) const MODEL_PERMISSIONS: &[Column] = &[plain("MODE", "/mode"), list("MODELS", "/model_ids")];

pub(crate) const SERVICE_ACCOUNTS: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    plain("ROLE", "/role"),
    time("CREATED", "/created_at"),
    labels("LABELS", "/labels"),
];

pub(crate) const KEYS_OF_ORGANIZATION: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    plain("KEY", "/redacted_value"),
    plain("PROJECT", "/project_id"),
    plain("PROJECT NAME", "/project_name"),
    plain("OWNER", "/user_id"),
    time("LAST USED", "/last_used_at"),
];

pub(crate) const ADMIN_KEYS: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    plain("KEY", "/redacted_value"),
    plain("OWNER", "/owner/name"),
    scopes("SCOPES", "/scopes"),
    list("PROJECTS", "/project_ids"),
    time("FROZEN", "/frozen_at"),
    time("LAST USED", "/last_used_at"),
    time("EXPIRES", "/expires_at"),
];

pub(crate) const ME: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    plain("KIND", "/kind"),
    plain("KEY", "/redacted_value"),
    plain("PROJECT", "/project_name"),
    plain("OWNER", "/owner/user/email"),
    scopes("SCOPES", "/scopes"),
    time("EXPIRES", "/expires_at"),
    plain("SPENT", "/spent"),
    plain("HELD", "/held"),
    plain("REMAINING", "/remaining"),
];

pub(crate) const PROFILES: &[Column] =
    &[plain("NAME", "/name"), plain("IN USE", "/in_use"), plain("URL", "/url"), plain("KEY", "/has_key")];

pub(crate) const USERS: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    plain("EMAIL", "/email"),
    plain("ROLE", "/role"),
    time("ADDED", "/added_at"),
    time("FROZEN", "/frozen_at"),
];

pub(crate) const PROJECT_USERS: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    plain("EMAIL", "/email"),
    plain("ROLE", "/role"),
    time("ADDED", "/added_at"),
];

pub(crate) const INVITES: &[Column] = &[
    plain("ID", "/id"),
    plain("EMAIL", "/email"),
    plain("ROLE", "/role"),
    plain("STATUS", "/status"),
    time("EXPIRES", "/expires_at"),
];

pub(crate) const GROUPS: &[Column] =
    &[plain("ID", "/id"), plain("NAME", "/name"), time("CREATED", "/created_at")];

pub(crate) const GROUP_USERS: &[Column] =
    &[plain("ID", "/id"), plain("NAME", "/name"), plain("EMAIL", "/email"), time("ADDED", "/added_at")];

pub(crate) const ROLES: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    plain("PREDEFINED", "/predefined_role"),
    plain("DESCRIPTION", "/description"),
    list("PERMISSIONS", "/permissions"),
];

pub(crate) const SPEND_ALERTS: &[Column] = &[
    plain("ID", "/id"),
    Column { heading: "USD", pointer: "/threshold_amount", shape: Shape::Cents },
    plain("INTERVAL", "/interval"),
    plain("BY", "/notification_channel/type"),
    list("TO", "/notification_channel/recipients"),
    plain("URL", "/notification_channel/url"),
    plain("LAST", "/last_notification/status"),
];

pub(crate) const EVENT_ALERTS: &[Column] = &[
    plain("ID", "/id"),
    list("EVENTS", "/events"),
    plain("PROJECT", "/project_id"),
    plain("BY", "/notification_channel/type"),
    list("TO", "/notification_channel/recipients"),
    plain("URL", "/notification_channel/url"),
    plain("LAST", "/last_notification/status"),
];

pub(crate) const NOTIFICATIONS: &[Column] = &[
    plain("ID", "/id"),
    time("AT", "/created_at"),
    plain("EVENT", "/event"),
    plain("STATUS", "/status"),
    plain("ATTEMPTS", "/attempts"),
    time("DELIVERED", "/delivered_at"),
    plain("ERROR", "/error"),
];

pub(crate) const RETENTION: &[Column] =
    &[plain("REQUESTS DAYS", "/requests_days"), time("REQUESTS FROM", "/requests_from")];

pub(crate) const KEY_POLICY: &[Column] = &[
    plain("DEFAULT EXPIRES SECONDS", "/default_expires_in_seconds"),
    plain("MAX EXPIRES SECONDS", "/max_expires_in_seconds"),
    plain("KEY OWNERS", "/key_owners"),
];

const LIMIT_USD: Column = Column { heading: "LIMIT USD", pointer: "/threshold_amount", shape: Shape::Cents };

pub(crate) const SPEND_LIMITS: &[Column] = &[
    LIMIT_USD,
    plain("INTERVAL", "/interval"),
    Column { heading: "REACHED", pointer: "/enforcement/status", shape: Shape::Reached },
    plain("SPENT", "/spent"),
    plain("HELD", "/held"),
    plain("REMAINING", "/remaining"),
    time("UNTIL", "/period_end"),
    plain("ZONE", "/time_zone"),
    plain("MODE", "/mode"),
    plain("WOULD REFUSE", "/would_have_refused"),
    plain("SCOPE", "/scope"),
    plain("SCOPE ID", "/scope_id"),
    plain("ID", "/id"),
];

pub(crate) const DEFAULT_LIMITS: &[Column] = &[
    plain("FOR NEW", "/for"),
    LIMIT_USD,
    plain("INTERVAL", "/interval"),
    plain("ZONE", "/time_zone"),
    plain("MODE", "/mode"),
];

pub(crate) const SPEND_POLICY: &[Column] = &[
    plain("PROJECT", "/project_id"),
    plain("WHEN EXCEEDED", "/when_exceeded"),
    plain("MIN OUTPUT", "/min_output_tokens"),
    plain("WAIT MS", "/wait_ms"),
];

pub(crate) const TRIAL: &[Column] = &[
    time("FROM", "/period_start"),
    time("UNTIL", "/period_end"),
    plain("SPENT", "/spent"),
    plain("REFUSED", "/refused_requests"),
    plain("REFUSED USD", "/refused_cost"),
    time("FIRST REFUSED", "/first_refused_at"),
];

pub(crate) const STOPPED: &[Column] = &[
    plain("REQUEST", "/request_id"),
    time("AT", "/created_at"),
    plain("KEY", "/api_key_id"),
    plain("MODEL", "/model"),
    plain("BOUND", "/bound"),
    plain("COST", "/cost"),
];

pub(crate) const REQUESTS: &[Column] = &[
    plain("ID", "/id"),
    time("AT", "/created_at"),
    plain("STATE", "/state"),
    plain("KEY", "/api_key_id"),
    plain("MODEL", "/model"),
    plain("BOUND", "/bound"),
    plain("COST", "/cost"),
    plain("BY", "/usage_source"),
    plain("INPUT", "/input_tokens"),
    plain("OUTPUT", "/output_tokens"),
    plain("RECOVERED", "/recovered"),
    list("FLAGS", "/flags"),
    plain("ADJUSTED", "/adjusted"),
];

pub(crate) const ADJUSTMENTS: &[Column] = &[
    plain("ID", "/id"),
    plain("REQUEST", "/request_id"),
    plain("KIND", "/kind"),
    plain("USD", "/cost"),
    plain("BY", "/created_by"),
    time("AT", "/created_at"),
    plain("REASON", "/reason"),
];

pub(crate) const FSCK: &[Column] = &[
    plain("BALANCED", "/is_balanced"),
    plain("REQUESTS", "/attempts"),
    plain("OPEN HOLDS", "/open_holds"),
    plain("BUDGETS", "/budgets"),
    plain("SETTLED USD", "/settled"),
];

pub(crate) const FINDINGS: &[Column] = &[
    plain("STATUS", "/status"),
    plain("CHECK", "/check"),
    plain("SUBJECT", "/subject"),
    plain("FINDING", "/finding"),
];

pub(crate) const DRIFT: &[Column] = &[
    time("DAY", "/start_time"),
    plain("MODEL", "/model"),
    plain("BOOKS", "/ours"),
    plain("PROVIDER", "/theirs"),
    plain("DRIFT", "/drift"),
    plain("PERCENT", "/drift_percent"),
];

pub(crate) const UPSTREAMS: &[Column] = &[
    plain("ID", "/id"),
    plain("NAME", "/name"),
    plain("BASE URL", "/base_url"),
    plain("API KEY", "/has_api_key"),
    plain("OUTPUT LIMIT", "/output_limit_field"),
    plain("CLIENT GONE", "/on_client_gone"),
    plain("PRIORITY", "/priority"),
    plain("WEIGHT", "/weight"),
    list("MODELS", "/models"),
];

pub(crate) const UPSTREAM_TESTS: &[Column] = &[
    plain("OK", "/ok"),
    plain("STATUS", "/status"),
    plain("CONNECT MS", "/connect_ms"),
    plain("ANSWER MS", "/answer_ms"),
    list("NOT OFFERED", "/missing_models"),
    list("MODELS", "/models"),
    plain("ERROR", "/error"),
];

pub(crate) const MODELS: &[Column] = &[
    plain("MODEL", "/id"),
    plain("INPUT", "/input_price"),
    plain("CACHED", "/cached_input_price"),
    plain("OUTPUT", "/output_price"),
    plain("CONTEXT", "/context_tokens"),
    plain("MAX OUTPUT", "/max_output_tokens"),
    plain("IMAGE", "/image_tokens"),
    plain("REASONING", "/reasoning_price"),
    plain("REQUEST", "/request_price"),
    plain("SEARCH", "/web_search_price"),
    plain("CEILING", "/request_cost_max"),
    plain("VERSION", "/price_version"),
    plain("EXCEEDED", "/bound_violations/count"),
    list("UPSTREAMS", "/upstreams"),
];

pub(crate) const PRICES: &[Column] = &[
    plain("ID", "/id"),
    plain("MODEL", "/model"),
    time("FROM", "/effective_from"),
    time("UNTIL", "/effective_until"),
    plain("IN FORCE", "/in_force"),
    plain("INPUT", "/prices/input_price"),
    plain("CACHED", "/prices/cached_input_price"),
    plain("OUTPUT", "/prices/output_price"),
    plain("REASONING", "/prices/reasoning_price"),
    plain("REQUEST", "/prices/request_price"),
    plain("SEARCH", "/prices/web_search_price"),
    plain("BY", "/created_by"),
];

pub(crate) const PRICE_CHANGES: &[Column] = &[
    plain("MODEL", "/model"),
    time("FROM", "/effective_from"),
    time("UNTIL", "/effective_until"),
    plain("PRICE", "/price"),
    plain("BEFORE", "/before"),
    plain("AFTER", "/after"),
];

pub(crate) const PLAN: &[Column] = &[
    plain("ACTION", "/action"),
    plain("KIND", "/kind"),
    plain("TITLE", "/title"),
    plain("LINE", "/line"),
    plain("TEXT", "/text"),
];

pub(crate) const SETUP: &[Column] = &[
    plain("ORGANIZATION", "/organization_id"),
    plain("PROJECT", "/project_id"),
    plain("USER", "/user_id"),
    plain("E-MAIL", "/owner_email"),
    plain("KEY FILE", "/admin_key_file"),
    plain("URL", "/setup_url"),
];

pub(crate) const COSTS: &[Column] = &[
    time("FROM", "/start_time"),
    plain("PROJECT", "/project_id"),
    plain("KEY", "/api_key_id"),
    plain("USER", "/user_id"),
    plain("LINE ITEM", "/line_item"),
    plain("MODEL", "/model"),
    plain("UPSTREAM", "/upstream_id"),
    labels("LABELS", "/labels"),
    Column { heading: "USD", pointer: "/amount/value", shape: Shape::Dollars },
];

pub(crate) const USAGE: &[Column] = &[
    time("FROM", "/start_time"),
    plain("PROJECT", "/project_id"),
    plain("KEY", "/api_key_id"),
    plain("USER", "/user_id"),
    plain("MODEL", "/model"),
    plain("TIER", "/service_tier"),
    labels("LABELS", "/labels"),
    plain("REQUESTS", "/num_model_requests"),
    plain("INPUT", "/input_tokens"),
    plain("CACHED", "/input_cached_tokens"),
    plain("OUTPUT", "/output_tokens"),
];

impl Column {
    /// Whether any of the rows has something to show here.
    pub(crate) fn is_used(&self, rows: &[Value]) -> bool {
        let says =
            |value: &Value| !is_nothing(value) || (matches!(self.shape, Shape::Scopes) && value.is_array());
        rows.iter().any(|row| row.pointer(self.pointer).is_some_and(says))
    }

    pub(crate) fn cell(&self, row: &Value) -> String {
        let value = row.pointer(self.pointer).unwrap_or(&Value::Null);
        match (self.shape, value) {
            (_, value) if is_nothing(value) && !matches!(self.shape, Shape::Scopes) => "-".to_owned(),
            (_, Value::Null) => "-".to_owned(),
            (Shape::Time, Value::Number(at)) => {
                at.as_i64().map_or_else(|| at.to_string(), |at| Timestamp(at).to_string())
            }
            (Shape::Cents, Value::Number(cents)) => {
                let cents = cents.as_i64().unwrap_or(0);
                format!("{}.{:02}", cents / 100, cents % 100)
            }
            (Shape::Reached, Value::String(status)) => {
                if status == "enforcing" {
                    "yes".to_owned()
                } else {
                    "no".to_owned()
                }
            }
            (Shape::Dollars, Value::Number(dollars)) => {
                let text = format!("{:.9}", dollars.as_f64().unwrap_or_default());
                let (whole, places) = text.split_once('.').unwrap_or((&text, ""));
                // Cents always, and what is below them where there is something.
                format!("{whole}.{:0<2}", places.trim_end_matches('0'))
            }
            (Shape::Scopes, Value::Array(items)) if items.is_empty() => "all".to_owned(),
            (Shape::List | Shape::Scopes, Value::Array(items)) => {
                items.iter().map(|item| item.as_str().unwrap_or("?")).collect::<Vec<_>>().join(", ")
            }
            (Shape::Labels, Value::Object(labels)) => {
                let label =
                    |(name, value): (&String, &Value)| format!("{name}={}", value.as_str().unwrap_or(""));
                labels.iter().map(label).collect::<Vec<_>>().join(" ")
            }
            (Shape::Owner, owner) if owner.is_object() => {
                let places = ["/user/email", "/service_account/name", "/user/name", "/type"];
                let named = places.iter().find_map(|place| owner.pointer(place)?.as_str());
                named.unwrap_or("-").to_owned()
            }
            (_, Value::String(text)) => {
                text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
            }
            (_, other) => other.to_string(),
        }
    }
}

/// What leaves a column without use if no row has more.
fn is_nothing(value: &Value) -> bool {
    value.is_null()
        || value.as_str() == Some("")
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
}
