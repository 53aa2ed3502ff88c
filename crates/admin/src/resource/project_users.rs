//! Members of projects.
//!
//! Whoever is removed loses the use of their keys in the project at once; being added again does not bring the keys
//! back, unless it is asked for with `reactivate_keys`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::id::kind;
use tollgate_core::page::{self, Page};
use tollgate_core::{Error, Permission, Predefined, ProjectId, Resource, Result, RoleRef, Timestamp, UserId};
use tollgate_store::{Entity, FromRow, Row, Sql, params};

use crate::access::{self, Grant};
use crate::arguments::{Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::roles::{self, Role};
use crate::resource::{Deleted, projects, users};

pub(crate) fn operations() -> Operations {
    use Permission::{ProjectUsersRead, ProjectUsersWrite};
    const ALL: &str = "/v1/organization/projects/{project_id}/users";
    const ONE: &str = "/v1/organization/projects/{project_id}/users/{user_id}";
    Operations::new()
        .get(ALL, "list-project-users", Needs(ProjectUsersRead), list)
        .post(ALL, "create-project-user", Needs(ProjectUsersWrite), Event::UserAdded, create)
        .get(ONE, "retrieve-project-user", Needs(ProjectUsersRead), retrieve)
        .post(ONE, "modify-project-user", Needs(ProjectUsersWrite), Event::UserUpdated, update)
        .delete(ONE, "delete-project-user", Needs(ProjectUsersWrite), Event::UserDeleted, delete)
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ProjectUser {
    object: &'static str,
    pub(crate) id: UserId,
    name: String,
    email: String,
    role: String,
    added_at: Timestamp,
}

impl FromRow for ProjectUser {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            object: "organization.project.user",
            id: row.get("id")?,
            name: row.get("name")?,
            email: row.get("email")?,
            role: row.get("role")?,
            added_at: row.get("added_at")?,
        })
    }
}

fn members() -> Sql {
    Sql::from("SELECT u.id, u.name, u.email, p.added_at, ")
        .push(access::PROJECT_ROLE)
        .push(" AS role FROM project_user p JOIN app_user u ON u.id = p.user_id WHERE p.project_id = $1")
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListProjectUsers {
    project_id: PathId<kind::Project>,
    after: Option<String>,
    limit: Option<i64>,
}

async fn list(cx: &mut Cx, input: ListProjectUsers) -> Result<Page<ProjectUser>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<UserId> = page::cursor("after", input.after.as_deref())?;
    let project = projects::live(cx, input.project_id.id()?).await?;
    let rows = cx
        .tx
        .all(
            members().push(" AND p.user_id > $2 ORDER BY p.user_id LIMIT $3"),
            &params![project.id, Order::Asc.beyond(after), limit + 1],
        )
        .await?;
    Ok(Page::new(rows, limit, |user: &ProjectUser| user.id.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateProjectUser {
    project_id: PathId<kind::Project>,
    role: String,
    user_id: Option<String>,
    email: Option<String>,
    /// Extension: turns the keys on again that were turned off when the user was removed.
    #[serde(default)]
    reactivate_keys: bool,
}

async fn create(cx: &mut Cx, input: CreateProjectUser) -> Result<ProjectUser> {
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let role = read_role(cx, project, &input.role).await?;
    let user = chosen(cx, input.user_id.as_deref(), input.email.as_deref()).await?;
    let held = held(cx, project, user).await?;
    match find(cx, project, user).await {
        // Every role was taken from them.
        Ok(_) if held.is_empty() => {
            give(cx, project, user, &role).await?;
            cx.changed(Entity::User, user).await?;
            let payload = json!({"id": user, "data": {"role": role.name}});
            cx.record(Event::UserAdded, user, Some(project), payload);
        }
        Ok(member) if !held.iter().any(|grant| grant.role == role.role) => {
            let message = format!(
                "The user is a member of the project already, as {}. Update it instead.",
                member.role
            );
            return Err(Error::invalid("role", message).code("already_exists"));
        }
        // Asked for twice, as clients do when an answer is lost.
        Ok(_) => cx.unchanged(),
        Err(error) if error.is_not_found() => add(cx, project, user, &role).await?,
        Err(error) => return Err(error),
    }
    if input.reactivate_keys {
        reactivate(cx, project, user).await?;
    }
    find(cx, project, user).await
}

async fn add(cx: &mut Cx, project: ProjectId, user: UserId, role: &Role) -> Result<()> {
    cx.tx
        .execute(
            "INSERT INTO project_user (project_id, user_id, added_at) VALUES ($1, $2, $3)",
            &params![project, user, cx.now],
        )
        .await?;
    give(cx, project, user, role).await?;
    cx.changed(Entity::User, user).await?;
    cx.record(Event::UserAdded, user, Some(project), json!({"id": user, "data": {"role": role.name}}));
    Ok(())
}

/// A predefined role takes the place of the one before; any other is one more.
async fn give(cx: &mut Cx, project: ProjectId, user: UserId, role: &Role) -> Result<()> {
    let resource = Resource::Project(project);
    let mut grants = held(cx, project, user).await?;
    // What it takes the place of is taken.
    grants.retain(|grant| matches!(grant.role, RoleRef::Predefined(_)));
    access::refuse_taking_beyond_own(cx, &grants).await?;
    access::refuse_beyond_own(cx, &[role.grant(resource)]).await?;
    match role.role {
        RoleRef::Predefined(role) => access::set_predefined(cx, resource, user, role).await,
        RoleRef::Custom(_) => {
            access::assign(cx, resource, &user.to_string(), role.role).await?;
            Ok(())
        }
    }
}

/// The roles of the project that a member was given in person.
async fn held(cx: &mut Cx, project: ProjectId, user: UserId) -> Result<Vec<Grant>> {
    let organization = cx.organization();
    let mut grants = access::grants_to(&mut cx.tx, organization, &user.to_string()).await?;
    grants.retain(|grant| grant.resource == Resource::Project(project));
    Ok(grants)
}

/// The member of the organization that is meant.
async fn chosen(cx: &mut Cx, id: Option<&str>, email: Option<&str>) -> Result<UserId> {
    match (id, email) {
        (Some(id), None) => users::named(cx, "user_id", id).await,
        (None, Some(email)) => {
            let found = users::by_email(cx, email).await?;
            found.map(|user| user.id).ok_or_else(|| users::no_such_member("email"))
        }
        _ => {
            let message = "Name the user by either 'user_id' or 'email'.";
            Err(Error::bad_request(message).code("missing_required_parameter").param("user_id"))
        }
    }
}

/// The word for a predefined role, or the id of any role of the project.
async fn read_role(cx: &mut Cx, project: ProjectId, role: &str) -> Result<Role> {
    let resource = Resource::Project(project);
    match role {
        "owner" => return Ok(Role::predefined(Predefined::ProjectOwner, resource)),
        "member" => return Ok(Role::predefined(Predefined::ProjectMember, resource)),
        // OpenAI's word takes the first two only.
        "viewer" => return Ok(Role::predefined(Predefined::ProjectViewer, resource)),
        _ => {}
    }
    roles::find(cx, resource, role).await.map_err(|error| {
        let shown: String = role.chars().take(100).collect();
        let message = format!(
            "Invalid 'role': expected 'owner', 'member', 'viewer' or the id of a role of the project, but got '{shown}'."
        );
        if error.is_not_found() { Error::invalid("role", message) } else { error }
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneProjectUser {
    project_id: PathId<kind::Project>,
    user_id: PathId<kind::User>,
}

async fn retrieve(cx: &mut Cx, input: OneProjectUser) -> Result<ProjectUser> {
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    find(cx, project, input.user_id.id()?).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateProjectUser {
    project_id: PathId<kind::Project>,
    user_id: PathId<kind::User>,
    role: Option<String>,
}

async fn update(cx: &mut Cx, input: UpdateProjectUser) -> Result<ProjectUser> {
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let member = find(cx, project, input.user_id.id()?).await?;
    let Some(role) = input.role else {
        cx.unchanged();
        return Ok(member);
    };
    let role = read_role(cx, project, &role).await?;
    give(cx, project, member.id, &role).await?;
    cx.changed(Entity::User, member.id).await?;
    let payload = json!({"id": member.id, "changes_requested": {"role": role.name}});
    cx.record(Event::UserUpdated, member.id, Some(project), payload);
    find(cx, project, member.id).await
}

async fn delete(cx: &mut Cx, input: OneProjectUser) -> Result<Deleted<UserId>> {
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let user = find(cx, project, input.user_id.id()?).await?.id;
    let grants = held(cx, project, user).await?;
    access::refuse_taking_beyond_own(cx, &grants).await?;
    cx.tx
        .execute("DELETE FROM project_user WHERE project_id = $1 AND user_id = $2", &params![project, user])
        .await?;
    access::unassign_all(cx, Resource::Project(project), &user.to_string()).await?;
    access::lapse(cx, user).await?;
    cx.changed(Entity::User, user).await?;
    cx.record(Event::UserDeleted, user, Some(project), json!({"id": user}));
    Ok(Deleted::new("organization.project.user.deleted", user))
}

/// Turns the user's keys in the project on again. A revoked key is not among them: it never comes back.
async fn reactivate(cx: &mut Cx, project: ProjectId, user: UserId) -> Result<()> {
    let keys: Vec<Row> = cx
        .tx
        .all(
            "UPDATE api_key SET is_active = $3
             WHERE project_id = $1 AND user_id = $2 AND revoked_at IS NULL AND is_active = $4 RETURNING id",
            &params![project, user, true, false],
        )
        .await?;
    for key in keys {
        let id: String = key.at(0)?;
        cx.changed_named(Entity::ApiKey, &id).await?;
        cx.record(
            Event::ApiKeyUpdated,
            &id,
            Some(project),
            json!({"id": id, "changes_requested": {"owner_project_access": "active"}}),
        );
    }
    Ok(())
}

pub(crate) async fn find(cx: &mut Cx, project: ProjectId, user: UserId) -> Result<ProjectUser> {
    let found = cx.tx.optional(members().push(" AND p.user_id = $2"), &params![project, user]).await?;
    found.ok_or_else(|| Error::not_found("user"))
}
