//! Roles of the organization and of its projects: the predefined ones, and those that people make.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::id::kind;
use tollgate_core::page::{self, NextPage};
use tollgate_core::patch::Patch;
use tollgate_core::permission::{Permission, Permissions};
use tollgate_core::role::{Predefined, Resource, RoleRef};
use tollgate_core::{Error, Result, RoleId, Timestamp};
use tollgate_store::{Entity, FromRow, Row, Sql, params};

use crate::access::{self, Grant};
use crate::arguments::{self, Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::{Deleted, projects};

pub(crate) fn operations() -> Operations {
    use Permission::{RolesRead, RolesWrite};
    const ALL: &str = "/v1/organization/roles";
    const ONE: &str = "/v1/organization/roles/{role_id}";
    const ALL_OF_PROJECT: &str = "/v1/projects/{project_id}/roles";
    const ONE_OF_PROJECT: &str = "/v1/projects/{project_id}/roles/{role_id}";
    Operations::new()
        .get(ALL, "list-roles", Needs(RolesRead), list::<false>)
        .post(ALL, "create-role", Needs(RolesWrite), Event::RoleCreated, create::<false>)
        .get(ONE, "retrieve-role", Needs(RolesRead), retrieve::<false>)
        .post(ONE, "update-role", Needs(RolesWrite), Event::RoleUpdated, update::<false>)
        .delete(ONE, "delete-role", Needs(RolesWrite), Event::RoleDeleted, delete::<false>)
        .get(ALL_OF_PROJECT, "list-project-roles", Needs(RolesRead), list::<true>)
        .post(ALL_OF_PROJECT, "create-project-role", Needs(RolesWrite), Event::RoleCreated, create::<true>)
        .get(ONE_OF_PROJECT, "retrieve-project-role", Needs(RolesRead), retrieve::<true>)
        .post(ONE_OF_PROJECT, "update-project-role", Needs(RolesWrite), Event::RoleUpdated, update::<true>)
        .delete(ONE_OF_PROJECT, "delete-project-role", Needs(RolesWrite), Event::RoleDeleted, delete::<true>)
}

/// Custom roles of one resource: they are listed together.
const ROLES_MAX: i64 = 1_000;
const DESCRIPTION_MAX: usize = 1_000;

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[expect(clippy::struct_field_names, reason = "OpenAI's names")]
pub(crate) struct Role {
    object: &'static str,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) permissions: Vec<String>,
    pub(crate) predefined_role: bool,
    pub(crate) resource_type: &'static str,
    #[serde(skip)]
    pub(crate) role: RoleRef,
    /// Of a role that somebody has made.
    #[serde(skip)]
    pub(crate) made: Option<Made>,
}

/// When a role was made and changed, and by whom.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) created_at: Timestamp,
    pub(crate) created_by: Option<String>,
    pub(crate) updated_at: Timestamp,
}

impl Role {
    pub(crate) fn predefined(role: Predefined, resource: Resource) -> Self {
        Self {
            object: "role",
            id: role.id_at(resource),
            name: role.name().to_owned(),
            description: Some(role.description().to_owned()),
            permissions: role.permissions().to_list(),
            predefined_role: true,
            resource_type: resource.type_name(),
            role: RoleRef::Predefined(role),
            made: None,
        }
    }

    /// Under the id that it was asked for by, for clients compare them.
    pub(crate) fn named(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }

    pub(crate) fn grant(&self, resource: Resource) -> Grant {
        let permissions = match self.role {
            RoleRef::Predefined(role) => role.permissions(),
            RoleRef::Custom(_) => Permissions::from_stored(&self.permissions.join(" ")),
        };
        Grant { resource, role: self.role, permissions }
    }
}

impl FromRow for Role {
    fn from_row(row: &Row) -> Result<Self> {
        let id: RoleId = row.get("id")?;
        let (resource, permissions): (String, String) = (row.get("resource_id")?, row.get("permissions")?);
        let resource = Resource::parse(&resource).ok_or_else(|| Error::internal("a role of nothing"))?;
        Ok(Self {
            object: "role",
            id: id.to_string(),
            name: row.get("name")?,
            description: row.get("description")?,
            permissions: permissions.split_whitespace().map(str::to_owned).collect(),
            predefined_role: false,
            resource_type: resource.type_name(),
            role: RoleRef::Custom(id),
            made: Some(Made {
                created_at: row.get("created_at")?,
                created_by: row.get("created_by")?,
                updated_at: row.get("updated_at")?,
            }),
        })
    }
}

/// The project is the path's to name, for the permission that was asked for is that of the path.
fn refuse_stranger(is_of_project: bool, names_project: bool) -> Result<()> {
    if is_of_project == names_project {
        return Ok(());
    }
    let message = "Unknown parameter: 'project_id'.";
    Err(Error::bad_request(message).code("unknown_parameter").param("project_id"))
}

/// The project that a path names, or the organization.
pub(crate) async fn resource(cx: &mut Cx, project: Option<&PathId<kind::Project>>) -> Result<Resource> {
    match project {
        Some(project) => Ok(Resource::Project(projects::find(cx, project.id()?).await?.id)),
        None => Ok(Resource::Organization(cx.organization())),
    }
}

/// The same, if it can still be changed.
pub(crate) async fn live_resource(cx: &mut Cx, project: Option<&PathId<kind::Project>>) -> Result<Resource> {
    match project {
        Some(project) => Ok(Resource::Project(projects::live(cx, project.id()?).await?.id)),
        None => Ok(Resource::Organization(cx.organization())),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListRoles {
    project_id: Option<PathId<kind::Project>>,
    after: Option<String>,
    limit: Option<i64>,
    #[serde(default)]
    order: Order,
}

/// The predefined ones first.
async fn list<const IS_OF_PROJECT: bool>(cx: &mut Cx, input: ListRoles) -> Result<NextPage<Role>> {
    refuse_stranger(IS_OF_PROJECT, input.project_id.is_some())?;
    let limit = page::limit(input.limit, 1000, 0, 1000)?;
    let resource = resource(cx, input.project_id.as_ref()).await?;
    let mut roles: Vec<Role> =
        Predefined::at(resource).map(|role| Role::predefined(role, resource)).collect();
    let made: Vec<Role> = cx
        .tx
        .all("SELECT * FROM role WHERE resource_id = $1 ORDER BY id", &params![resource.to_string()])
        .await?;
    roles.extend(made);
    page_of(roles, input.order, input.after.as_deref(), limit, |role| &role.id)
}

/// A page of what is few enough to be read whole.
pub(crate) fn page_of<T>(
    mut all: Vec<T>,
    order: Order,
    after: Option<&str>,
    limit: usize,
    id_of: impl Fn(&T) -> &str,
) -> Result<NextPage<T>> {
    if order == Order::Desc {
        all.reverse();
    }
    let start = match after.filter(|after| !after.is_empty()) {
        None => 0,
        Some(after) => {
            let position = all.iter().position(|one| id_of(one) == after);
            let unknown =
                || Error::invalid("after", "Invalid 'after': expected the 'next' of an earlier page.");
            position.ok_or_else(unknown)? + 1
        }
    };
    let rows = all.split_off(start);
    Ok(NextPage::new(rows, limit, |one| id_of(one).to_owned()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateRole {
    project_id: Option<PathId<kind::Project>>,
    role_name: String,
    permissions: Vec<String>,
    description: Option<String>,
}

async fn create<const IS_OF_PROJECT: bool>(cx: &mut Cx, input: CreateRole) -> Result<Role> {
    refuse_stranger(IS_OF_PROJECT, input.project_id.is_some())?;
    let name = arguments::name("role_name", &input.role_name)?;
    let description = read_description(input.description)?;
    let resource = live_resource(cx, input.project_id.as_ref()).await?;
    let permissions = Permissions::parse("permissions", &input.permissions, resource.is_project())?;
    refuse_taken(cx, resource, &name, None).await?;
    let id: RoleId = cx.id();
    let role = RoleRef::Custom(id);
    access::refuse_beyond_own(cx, &[Grant { resource, role, permissions: permissions.expanded() }]).await?;
    let count: Row =
        cx.tx.one("SELECT COUNT(*) FROM role WHERE resource_id = $1", &params![resource.to_string()]).await?;
    if count.at::<i64>(0)? >= ROLES_MAX {
        let message = format!("There are {ROLES_MAX} roles already. Delete one that is not used.");
        return Err(Error::bad_request(message).code("too_many_roles"));
    }
    cx.tx
        .execute(
            "INSERT INTO role (id, organization_id, resource_id, name, description, permissions, created_at,
                created_by, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $7)",
            &params![
                id,
                cx.organization(),
                resource.to_string(),
                name,
                description,
                permissions.to_stored(),
                cx.now,
                cx.actor.owner
            ],
        )
        .await?;
    cx.changed(Entity::Role, id).await?;
    let payload = json!({"id": id, "role_name": name, "permissions": permissions.to_list(),
        "resource_type": resource.type_name(), "resource_id": resource.to_string()});
    cx.record(Event::RoleCreated, id, resource.project(), payload);
    find(cx, resource, &id.to_string()).await
}

fn read_description(description: Option<String>) -> Result<Option<String>> {
    let text = description.filter(|text| !text.is_empty());
    text.map(|text| arguments::text("description", &text, DESCRIPTION_MAX)).transpose()
}

async fn refuse_taken(cx: &mut Cx, resource: Resource, name: &str, but: Option<RoleId>) -> Result<()> {
    // No id is empty.
    let but = but.map(|id| id.to_string()).unwrap_or_default();
    let taken: Option<Row> = cx
        .tx
        .optional(
            "SELECT id FROM role WHERE resource_id = $1 AND name = $2 AND id <> $3",
            &params![resource.to_string(), name, but],
        )
        .await?;
    if taken.is_none() && !Predefined::at(resource).any(|role| role.name() == name) {
        return Ok(());
    }
    Err(Error::invalid("role_name", format!("There is a role '{name}' already.")).code("already_exists"))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneRole {
    project_id: Option<PathId<kind::Project>>,
    role_id: String,
}

async fn retrieve<const IS_OF_PROJECT: bool>(cx: &mut Cx, input: OneRole) -> Result<Role> {
    refuse_stranger(IS_OF_PROJECT, input.project_id.is_some())?;
    let resource = resource(cx, input.project_id.as_ref()).await?;
    find(cx, resource, &input.role_id).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateRole {
    project_id: Option<PathId<kind::Project>>,
    role_id: String,
    role_name: Option<String>,
    permissions: Option<Vec<String>>,
    #[serde(default)]
    description: Patch<String>,
}

async fn update<const IS_OF_PROJECT: bool>(cx: &mut Cx, input: UpdateRole) -> Result<Role> {
    refuse_stranger(IS_OF_PROJECT, input.project_id.is_some())?;
    let resource = live_resource(cx, input.project_id.as_ref()).await?;
    let before = find(cx, resource, &input.role_id).await?;
    let RoleRef::Custom(id) = before.role else { return Err(predefined("changed")) };
    let name = match input.role_name.as_deref() {
        Some(name) => arguments::name("role_name", name)?,
        None => before.name.clone(),
    };
    refuse_taken(cx, resource, &name, Some(id)).await?;
    let description = match input.description {
        Patch::Absent => before.description.clone(),
        Patch::Null => None,
        Patch::Value(text) => read_description(Some(text))?,
    };
    let old = Permissions::from_stored_as_given(&before.permissions.join(" "));
    let new = match &input.permissions {
        Some(wished) => Permissions::parse("permissions", wished, resource.is_project())?,
        None => old,
    };
    if new != old {
        let grant = |permissions: Permissions| Grant {
            resource,
            role: before.role,
            permissions: permissions.expanded(),
        };
        access::refuse_beyond_own(cx, &[grant(old), grant(new)]).await?;
    }
    if (&name, &description, new) == (&before.name, &before.description, old) {
        cx.unchanged();
        return Ok(before);
    }
    cx.tx
        .execute(
            "UPDATE role SET name = $1, description = $2, permissions = $3, updated_at = $4 WHERE id = $5",
            &params![name, description, new.to_stored(), cx.now, id],
        )
        .await?;
    cx.changed(Entity::Role, id).await?;
    let (old, new) = (old.to_list(), new.to_list());
    let but = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|one| !those.contains(one)).cloned().collect()
    };
    let payload = json!({"id": id, "changes_requested": {"role_name": name, "description": description,
        "permissions_added": but(&new, &old), "permissions_removed": but(&old, &new),
        "resource_type": resource.type_name(), "resource_id": resource.to_string()}});
    cx.record(Event::RoleUpdated, id, resource.project(), payload);
    find(cx, resource, &input.role_id).await
}

fn predefined(what: &str) -> Error {
    Error::invalid("role_id", format!("A predefined role cannot be {what}.")).code("predefined_role")
}

async fn delete<const IS_OF_PROJECT: bool>(cx: &mut Cx, input: OneRole) -> Result<Deleted<String>> {
    refuse_stranger(IS_OF_PROJECT, input.project_id.is_some())?;
    let resource = live_resource(cx, input.project_id.as_ref()).await?;
    let role = find(cx, resource, &input.role_id).await?;
    let RoleRef::Custom(id) = role.role else { return Err(predefined("deleted")) };
    let used: Row =
        cx.tx.one("SELECT COUNT(*) FROM role_assignment WHERE role_id = $1", &params![id]).await?;
    match used.at::<i64>(0)? {
        0 => {}
        count => {
            let message = format!("The role is given to {count} users and groups. Take it from them first.");
            return Err(Error::bad_request(message).code("role_in_use").param("role_id"));
        }
    }
    cx.tx.execute("DELETE FROM role WHERE id = $1", &params![id]).await?;
    cx.changed(Entity::Role, id).await?;
    cx.record(Event::RoleDeleted, id, resource.project(), json!({"id": id}));
    Ok(Deleted::new("role.deleted", id.to_string()))
}

/// The role of a resource that is named by an id, in whichever spelling.
pub(crate) async fn find(cx: &mut Cx, resource: Resource, id: &str) -> Result<Role> {
    let absent = || Error::not_found("role");
    match RoleRef::parse(id, resource).ok_or_else(absent)? {
        RoleRef::Predefined(role) => Ok(Role::predefined(role, resource).named(id)),
        RoleRef::Custom(role) => {
            let sql = Sql::from("SELECT * FROM role WHERE id = $1 AND resource_id = $2");
            cx.tx.optional(sql, &params![role, resource.to_string()]).await?.ok_or_else(absent)
        }
    }
}
