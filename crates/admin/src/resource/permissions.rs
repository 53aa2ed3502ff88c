//! The permission strings there are, and which kinds of keys can carry them as scopes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::key::KeyKind;
use tollgate_core::{Permission, Result};

use crate::gate::Cx;
use crate::operation::Access::AnyKey;
use crate::operation::Operations;

pub(crate) fn operations() -> Operations {
    Operations::new().get("/tollgate/v1/permissions", "list-permissions", AnyKey, list)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Permissions {
    object: &'static str,
    data: Vec<PermissionString>,
}

#[derive(Serialize, JsonSchema)]
struct PermissionString {
    object: &'static str,
    id: &'static str,
    project_keys: bool,
    admin_keys: bool,
    /// Whether roles can give it.
    organization_roles: bool,
    project_roles: bool,
}

async fn list(_: &mut Cx, _: Nothing) -> Result<Permissions> {
    let data = Permission::ALL
        .iter()
        .map(|permission| PermissionString {
            object: "tollgate.permission",
            id: permission.as_str(),
            project_keys: permission.is_scope_of(KeyKind::Project),
            admin_keys: permission.is_scope_of(KeyKind::Admin),
            organization_roles: permission.is_of_role(false),
            project_roles: permission.is_of_role(true),
        })
        .collect();
    Ok(Permissions { object: "list", data })
}
