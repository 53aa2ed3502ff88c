//! Who has which role: users and groups, at the organization and at its projects.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tollgate_core::id::kind;
use tollgate_core::page::{self, NextPage};
use tollgate_core::role::{Predefined, Resource, RoleRef};
use tollgate_core::{Error, GroupId, Permission, Result, Timestamp, UserId};
use tollgate_store::{Entity, Row, params};

use crate::access;
use crate::arguments::{Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::roles::{self, Role};
use crate::resource::{groups, project_groups, project_users, users};

pub(crate) fn operations() -> Operations {
    use Event::{RoleAssignmentCreated, RoleAssignmentDeleted};
    use Permission::{ProjectUsersRead, ProjectUsersWrite, RolesRead, RolesWrite, UsersRead, UsersWrite};
    const OF_USER: &str = "/v1/organization/users/{user_id}/roles";
    const ONE_OF_USER: &str = "/v1/organization/users/{user_id}/roles/{role_id}";
    const OF_GROUP: &str = "/v1/organization/groups/{group_id}/roles";
    const ONE_OF_GROUP: &str = "/v1/organization/groups/{group_id}/roles/{role_id}";
    const OF_PROJECT_USER: &str = "/v1/projects/{project_id}/users/{user_id}/roles";
    const ONE_OF_PROJECT_USER: &str = "/v1/projects/{project_id}/users/{user_id}/roles/{role_id}";
    const OF_PROJECT_GROUP: &str = "/v1/projects/{project_id}/groups/{group_id}/roles";
    const ONE_OF_PROJECT_GROUP: &str = "/v1/projects/{project_id}/groups/{group_id}/roles/{role_id}";
    Operations::new()
        .get(OF_USER, "list-user-role-assignments", Needs(UsersRead), list::<USER>)
        .post(OF_USER, "assign-user-role", Needs(UsersWrite), RoleAssignmentCreated, assign::<USER>)
        .get(ONE_OF_USER, "retrieve-user-role", Needs(UsersRead), retrieve::<USER>)
        .delete(ONE_OF_USER, "unassign-user-role", Needs(UsersWrite), RoleAssignmentDeleted, unassign::<USER>)
        .get(OF_GROUP, "list-group-role-assignments", Needs(RolesRead), list::<GROUP>)
        .post(OF_GROUP, "assign-group-role", Needs(RolesWrite), RoleAssignmentCreated, assign::<GROUP>)
        .get(ONE_OF_GROUP, "retrieve-group-role", Needs(RolesRead), retrieve::<GROUP>)
        .delete(
            ONE_OF_GROUP,
            "unassign-group-role",
            Needs(RolesWrite),
            RoleAssignmentDeleted,
            unassign::<GROUP>,
        )
        .get(
            OF_PROJECT_USER,
            "list-project-user-role-assignments",
            Needs(ProjectUsersRead),
            list::<PROJECT_USER>,
        )
        .post(
            OF_PROJECT_USER,
            "assign-project-user-role",
            Needs(ProjectUsersWrite),
            RoleAssignmentCreated,
            assign::<PROJECT_USER>,
        )
        .get(
            ONE_OF_PROJECT_USER,
            "retrieve-project-user-role",
            Needs(ProjectUsersRead),
            retrieve::<PROJECT_USER>,
        )
        .delete(
            ONE_OF_PROJECT_USER,
            "unassign-project-user-role",
            Needs(ProjectUsersWrite),
            RoleAssignmentDeleted,
            unassign::<PROJECT_USER>,
        )
        .get(OF_PROJECT_GROUP, "list-project-group-role-assignments", Needs(RolesRead), list::<PROJECT_GROUP>)
        .post(
            OF_PROJECT_GROUP,
            "assign-project-group-role",
            Needs(RolesWrite),
            RoleAssignmentCreated,
            assign::<PROJECT_GROUP>,
        )
        .get(ONE_OF_PROJECT_GROUP, "retrieve-project-group-role", Needs(RolesRead), retrieve::<PROJECT_GROUP>)
        .delete(
            ONE_OF_PROJECT_GROUP,
            "unassign-project-group-role",
            Needs(RolesWrite),
            RoleAssignmentDeleted,
            unassign::<PROJECT_GROUP>,
        )
}

/// What the path of an operation names: a user or a group, and whether at a project. Its input may name nothing else, for
/// its permission is that of the path.
const USER: u8 = 0;
const GROUP: u8 = 1;
const PROJECT_USER: u8 = 2;
const PROJECT_GROUP: u8 = 3;

/// Refuses what the path does not name.
fn refuse_strangers<const OF: u8>(project: bool, user: bool, group: bool) -> Result<()> {
    let is_at_project = matches!(OF, PROJECT_USER | PROJECT_GROUP);
    let is_user = matches!(OF, USER | PROJECT_USER);
    let strangers = [
        ("project_id", project && !is_at_project),
        ("user_id", user && !is_user),
        ("group_id", group && is_user),
    ];
    match strangers.iter().find(|(_, is_stranger)| *is_stranger) {
        None => Ok(()),
        Some((name, _)) => {
            let message = format!("Unknown parameter: '{name}'.");
            Err(Error::bad_request(message).code("unknown_parameter").param(*name))
        }
    }
}

/// Whose roles are asked about.
#[derive(Clone, Copy)]
enum Holder {
    User(UserId),
    Group(GroupId),
}

impl Holder {
    fn id(self) -> String {
        match self {
            Self::User(id) => id.to_string(),
            Self::Group(id) => id.to_string(),
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Group(_) => "group",
        }
    }
}

/// A role with where somebody has it from.
#[derive(Serialize, JsonSchema)]
pub(crate) struct HeldRole {
    #[serde(flatten)]
    role: Role,
    created_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
    created_by: Option<String>,
    created_by_user_obj: Option<Value>,
    metadata: Map<String, Value>,
    assignment_sources: Vec<Source>,
}

/// The user itself, or a group of theirs.
#[derive(Clone, Serialize, JsonSchema)]
struct Source {
    principal_type: &'static str,
    principal_id: String,
}

impl HeldRole {
    fn new(role: Role, sources: Vec<Source>) -> Self {
        let made = role.made.clone();
        Self {
            created_at: made.as_ref().map(|made| made.created_at),
            updated_at: made.as_ref().map(|made| made.updated_at),
            created_by: made.and_then(|made| made.created_by),
            created_by_user_obj: None,
            metadata: Map::new(),
            assignment_sources: sources,
            role,
        }
    }
}

/// The holder that a path names, at what it names. In a project only its members have roles.
async fn holder(
    cx: &mut Cx,
    resource: Resource,
    user: Option<&PathId<kind::User>>,
    group: Option<&PathId<kind::Group>>,
) -> Result<Holder> {
    match (user, group, resource) {
        (Some(user), _, Resource::Organization(_)) => Ok(Holder::User(users::find(cx, user.id()?).await?.id)),
        (Some(user), _, Resource::Project(project)) => {
            Ok(Holder::User(project_users::find(cx, project, user.id()?).await?.id))
        }
        (None, Some(group), Resource::Organization(_)) => {
            Ok(Holder::Group(groups::find(cx, group.id()?).await?.id))
        }
        (None, Some(group), Resource::Project(project)) => {
            Ok(Holder::Group(project_groups::find(cx, project, group.id()?).await?.group_id))
        }
        (None, None, _) => Err(Error::internal("an assignment of a role to nobody")),
    }
}

/// The roles that a holder has at a resource, as stored, each with where from.
async fn held(cx: &mut Cx, resource: Resource, holder: Holder) -> Result<Vec<(String, Vec<Source>)>> {
    let rows: Vec<Row> = cx
        .tx
        .all(
            "SELECT role_id, principal_id FROM role_assignment WHERE principal_id = $1 AND resource_id = $2
             UNION ALL
             SELECT a.role_id, a.principal_id FROM group_user m CROSS JOIN role_assignment a
             WHERE m.user_id = $1 AND a.principal_id = m.group_id AND a.resource_id = $2
             ORDER BY 1, 2",
            &params![holder.id(), resource.to_string()],
        )
        .await?;
    let mut held: Vec<(String, Vec<Source>)> = Vec::new();
    for row in rows {
        let (role, principal_id): (String, String) = (row.at(0)?, row.at(1)?);
        let principal_type = if principal_id == holder.id() { holder.kind() } else { "group" };
        let source = Source { principal_type, principal_id };
        match held.last_mut() {
            Some((last, sources)) if *last == role => sources.push(source),
            _ => held.push((role, vec![source])),
        }
    }
    Ok(held)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListHeld {
    project_id: Option<PathId<kind::Project>>,
    user_id: Option<PathId<kind::User>>,
    group_id: Option<PathId<kind::Group>>,
    after: Option<String>,
    limit: Option<i64>,
    #[serde(default)]
    order: Order,
}

async fn list<const OF: u8>(cx: &mut Cx, input: ListHeld) -> Result<NextPage<HeldRole>> {
    let limit = page::limit(input.limit, 1000, 0, 1000)?;
    refuse_strangers::<OF>(input.project_id.is_some(), input.user_id.is_some(), input.group_id.is_some())?;
    let resource = roles::resource(cx, input.project_id.as_ref()).await?;
    let holder = holder(cx, resource, input.user_id.as_ref(), input.group_id.as_ref()).await?;
    let mut all = Vec::new();
    for (role, sources) in held(cx, resource, holder).await? {
        let role = match RoleRef::from_stored(&role) {
            Some(RoleRef::Predefined(role)) => Role::predefined(role, resource),
            _ => roles::find(cx, resource, &role).await?,
        };
        all.push(HeldRole::new(role, sources));
    }
    roles::page_of(all, input.order, input.after.as_deref(), limit, |held| &held.role.id)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "OpenAI's names")]
pub(crate) struct AssignRole {
    project_id: Option<PathId<kind::Project>>,
    user_id: Option<PathId<kind::User>>,
    group_id: Option<PathId<kind::Group>>,
    role_id: String,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Assigned {
    object: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<users::User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<Value>,
    role: Role,
}

/// Giving a role a second time changes nothing.
async fn assign<const OF: u8>(cx: &mut Cx, input: AssignRole) -> Result<Assigned> {
    refuse_strangers::<OF>(input.project_id.is_some(), input.user_id.is_some(), input.group_id.is_some())?;
    let resource = roles::live_resource(cx, input.project_id.as_ref()).await?;
    let holder = holder(cx, resource, input.user_id.as_ref(), input.group_id.as_ref()).await?;
    let role = chosen(cx, resource, &input.role_id).await?;
    give(cx, resource, holder, &role).await?;
    match holder {
        Holder::User(user) => {
            Ok(Assigned { object: "user.role", user: Some(users::find(cx, user).await?), group: None, role })
        }
        Holder::Group(group) => {
            let group = groups::find(cx, group).await?;
            let group = json!({"object": "group", "id": group.id, "name": group.name,
                "created_at": group.created_at, "scim_managed": false});
            Ok(Assigned { object: "group.role", user: None, group: Some(group), role })
        }
    }
}

/// The role that a body names. One that is not there is a mistake of the body's.
pub(crate) async fn chosen(cx: &mut Cx, resource: Resource, id: &str) -> Result<Role> {
    match roles::find(cx, resource, id).await {
        Err(error) if error.is_not_found() => {
            let what = if resource.is_project() { "project" } else { "organization" };
            Err(Error::invalid("role_id", format!("There is no such role of the {what}.")))
        }
        found => found,
    }
}

async fn give(cx: &mut Cx, resource: Resource, holder: Holder, role: &Role) -> Result<()> {
    access::refuse_beyond_own(cx, &[role.grant(resource)]).await?;
    if access::assign(cx, resource, &holder.id(), role.role).await? {
        changed(cx, holder).await?;
        record(cx, Event::RoleAssignmentCreated, resource, holder, role.role);
    } else {
        cx.unchanged();
    }
    Ok(())
}

/// Gives a group a role at a project.
pub(crate) async fn give_group(cx: &mut Cx, resource: Resource, group: GroupId, role: &Role) -> Result<()> {
    give(cx, resource, Holder::Group(group), role).await
}

async fn changed(cx: &mut Cx, holder: Holder) -> Result<()> {
    match holder {
        Holder::User(user) => cx.changed(Entity::User, user).await,
        Holder::Group(group) => cx.changed(Entity::Group, group).await,
    }
}

/// Notes that a user was given a role, or lost it.
pub(crate) fn record_user(cx: &mut Cx, event: Event, resource: Resource, user: UserId, role: RoleRef) {
    record(cx, event, resource, Holder::User(user), role);
}

fn record(cx: &mut Cx, event: Event, resource: Resource, holder: Holder, role: RoleRef) {
    let id = format!("role_assignment_{}_{}", role.to_stored(), holder.id());
    let payload = json!({"id": id, "principal_id": holder.id(), "principal_type": holder.kind(),
        "resource_id": resource.to_string(), "resource_type": resource.type_name()});
    cx.record(event, id, resource.project(), payload);
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "OpenAI's names")]
pub(crate) struct OneHeld {
    project_id: Option<PathId<kind::Project>>,
    user_id: Option<PathId<kind::User>>,
    group_id: Option<PathId<kind::Group>>,
    role_id: String,
}

async fn retrieve<const OF: u8>(cx: &mut Cx, input: OneHeld) -> Result<HeldRole> {
    refuse_strangers::<OF>(input.project_id.is_some(), input.user_id.is_some(), input.group_id.is_some())?;
    let resource = roles::resource(cx, input.project_id.as_ref()).await?;
    let holder = holder(cx, resource, input.user_id.as_ref(), input.group_id.as_ref()).await?;
    let role = roles::find(cx, resource, &input.role_id).await?;
    let held = held(cx, resource, holder).await?;
    let found = held.into_iter().find(|(id, _)| *id == role.role.to_stored());
    let (_, sources) = found.ok_or_else(|| Error::not_found("role"))?;
    Ok(HeldRole::new(role, sources))
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Unassigned {
    object: &'static str,
    deleted: bool,
}

async fn unassign<const OF: u8>(cx: &mut Cx, input: OneHeld) -> Result<Unassigned> {
    refuse_strangers::<OF>(input.project_id.is_some(), input.user_id.is_some(), input.group_id.is_some())?;
    let resource = roles::live_resource(cx, input.project_id.as_ref()).await?;
    let holder = holder(cx, resource, input.user_id.as_ref(), input.group_id.as_ref()).await?;
    let role = roles::find(cx, resource, &input.role_id).await?;
    access::refuse_taking_beyond_own(cx, &[role.grant(resource)]).await?;
    let role = role.role;
    if !access::unassign(cx, resource, &holder.id(), role).await? {
        return Err(Error::not_found("role"));
    }
    changed(cx, holder).await?;
    if role == RoleRef::Predefined(Predefined::OrganizationOwner) {
        access::keep_an_owner(cx, "role_id").await?;
        match holder {
            Holder::User(user) => access::lapse(cx, user).await?,
            Holder::Group(group) => {
                let users = groups::users_of(cx, group).await?;
                access::lapse_all(cx, &users).await?;
            }
        }
    }
    record(cx, Event::RoleAssignmentDeleted, resource, holder, role);
    let object = match holder {
        Holder::User(_) => "user.role.deleted",
        Holder::Group(_) => "group.role.deleted",
    };
    Ok(Unassigned { object, deleted: true })
}
