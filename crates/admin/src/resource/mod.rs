//! One file per resource: its table, what it looks like on the wire, its operations with their SQL.

mod access_policy;
mod activity;
mod adjustments;
mod admin_api_keys;
mod api_keys;
mod audit_logs;
mod books;
mod costs;
mod event_alerts;
mod freezes;
mod groups;
pub(crate) mod invites;
mod key_policy;
mod keys_of_organization;
mod labels;
mod me;
mod model_prices;
mod models;
mod new_key;
mod notifications;
mod organizations;
mod own;
mod permissions;
mod project_groups;
mod project_users;
mod projects;
mod requests;
mod retention;
pub(crate) mod role_assignments;
mod roles;
mod search;
mod secrets;
mod service_accounts;
mod spend_alerts;
mod spend_defaults;
mod spend_limit;
mod spend_limits;
mod spend_policy;
mod upstreams;
mod usage;
mod used_limits;
pub(crate) mod users;

use schemars::JsonSchema;
use serde::Serialize;

pub(crate) use new_key::NewKeyRow;
pub(crate) use users::read_email;

use crate::operation::Operations;

pub(crate) fn operations() -> Operations {
    Operations::new()
        .and(projects::operations())
        .and(project_users::operations())
        .and(api_keys::operations())
        .and(service_accounts::operations())
        .and(spend_limit::operations())
        .and(spend_limits::operations())
        .and(used_limits::operations())
        .and(spend_defaults::operations())
        .and(spend_alerts::operations())
        .and(event_alerts::operations())
        .and(notifications::operations())
        .and(spend_policy::operations())
        .and(access_policy::operations())
        .and(keys_of_organization::operations())
        .and(users::operations())
        .and(invites::operations())
        .and(groups::operations())
        .and(freezes::operations())
        .and(key_policy::operations())
        .and(retention::operations())
        .and(roles::operations())
        .and(role_assignments::operations())
        .and(project_groups::operations())
        .and(admin_api_keys::operations())
        .and(audit_logs::operations())
        .and(usage::operations())
        .and(costs::operations())
        .and(activity::operations())
        .and(organizations::operations())
        .and(me::operations())
        .and(own::operations())
        .and(permissions::operations())
        .and(requests::operations())
        .and(adjustments::operations())
        .and(books::operations())
        .and(upstreams::operations())
        .and(models::operations())
        .and(model_prices::operations())
}

/// The answer to a deletion.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Deleted{I}")]
#[expect(clippy::struct_field_names, reason = "OpenAI's names")]
pub(crate) struct Deleted<I> {
    object: &'static str,
    id: I,
    deleted: bool,
}

impl<I> Deleted<I> {
    pub(crate) fn new(object: &'static str, id: I) -> Self {
        Self { object, id, deleted: true }
    }
}
