//! The shape of the file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::text::Text;

/// The first of its kind.
pub(super) const VERSION: u32 = 1;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Organization {
    /// Of this format.
    pub(super) tollgate: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key_policy: Option<KeyPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retention: Option<Retention>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) default_spend_limits: Option<DefaultLimits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spend_limits: Option<Vec<Limit>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spend_alerts: Option<Vec<SpendAlert>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) event_alerts: Option<Vec<EventAlert>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) roles: Option<Vec<Role>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) users: Option<Vec<User>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) groups: Option<Vec<Group>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) projects: Option<Vec<Project>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyPolicy {
    /// A time such as 90d, or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) default_expires: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_expires: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key_owners: Option<Text>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retention {
    /// Null for ever.
    pub(super) requests_days: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DefaultLimits {
    #[serde(default)]
    pub(super) projects: Vec<Limit>,
    #[serde(default)]
    pub(super) api_keys: Vec<Limit>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    /// US dollars and an interval, such as 50usd/month.
    #[serde(rename = "limit")]
    pub(super) amount: Text,
    #[serde(default = "utc", skip_serializing_if = "is_utc")]
    pub(super) time_zone: String,
    #[serde(default = "enforce", skip_serializing_if = "is_enforce")]
    pub(super) mode: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn is_utc(zone: &str) -> bool {
    zone == "UTC"
}

fn enforce() -> String {
    "enforce".to_owned()
}

fn is_enforce(mode: &str) -> bool {
    mode == "enforce"
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpendAlert {
    /// US dollars in a month, such as 40usd.
    pub(super) amount: Text,
    /// One of these three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) email: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) webhook: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slack: Option<String>,
    /// Where the secret that a webhook is signed with goes when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Secret>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventAlert {
    pub(super) events: Vec<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) project: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unused_after_days: Option<i64>,
    /// One of these three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) email: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) webhook: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slack: Option<String>,
    /// Where the secret that a webhook is signed with goes when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Secret>,
}

/// Where something is told.
#[derive(Default)]
pub(super) struct Channel {
    pub(super) email: Option<Vec<String>>,
    pub(super) webhook: Option<String>,
    pub(super) slack: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Role {
    pub(super) name: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    pub(super) permissions: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub(super) email: Text,
    pub(super) role: String,
    /// Roles of the organization beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) roles: Option<Vec<Text>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) name: Text,
    /// By their addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) users: Option<Vec<Text>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) roles: Option<Vec<Text>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Project {
    pub(super) name: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) labels: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request_labels: Option<BTreeMap<String, Vec<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spend_limits: Option<Vec<Limit>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spend_policy: Option<SpendPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) browser_requests: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spend_alerts: Option<Vec<SpendAlert>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) users: Option<Vec<Member>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) groups: Option<Vec<ProjectGroup>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) service_accounts: Option<Vec<ServiceAccount>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) keys: Option<Vec<Key>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpendPolicy {
    pub(super) when_exceeded: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) min_output_tokens: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wait_ms: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    pub(super) email: Text,
    pub(super) role: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectGroup {
    pub(super) name: Text,
    pub(super) role: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceAccount {
    pub(super) name: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub(super) name: Text,
    /// The address of a user, or `service account NAME`.
    pub(super) owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scopes: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// When it is made: a time such as 90d, or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spend_limits: Option<Vec<Limit>>,
    /// Where its secret goes when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Secret>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Secret {
    /// A file that only its owner can read, which must not be there; beside the file of the organization unless its path is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<String>,
    /// A program and its words, which gets the secret on stdin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) command: Option<Vec<String>>,
}
