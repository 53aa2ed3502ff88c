//! Groups in projects: their users are members there, with the roles of the group.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::id::kind;
use tollgate_core::page::{self, NextPage};
use tollgate_core::role::Resource;
use tollgate_core::{Error, GroupId, Permission, ProjectId, Result, Timestamp};
use tollgate_store::{Entity, FromRow, Row, Sql, params};

use crate::access;
use crate::arguments::{Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::{groups, projects, role_assignments};

pub(crate) fn operations() -> Operations {
    use Permission::{GroupsRead, GroupsWrite};
    const ALL: &str = "/v1/organization/projects/{project_id}/groups";
    const ONE: &str = "/v1/organization/projects/{project_id}/groups/{group_id}";
    Operations::new()
        .get(ALL, "list-project-groups", Needs(GroupsRead), list)
        .post(ALL, "add-project-group", Needs(GroupsWrite), Event::ProjectUpdated, create)
        .get(ONE, "retrieve-project-group", Needs(GroupsRead), retrieve)
        .delete(ONE, "remove-project-group", Needs(GroupsWrite), Event::ProjectUpdated, delete)
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ProjectGroup {
    object: &'static str,
    project_id: ProjectId,
    pub(crate) group_id: GroupId,
    group_name: String,
    group_type: &'static str,
    created_at: Timestamp,
}

impl FromRow for ProjectGroup {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            object: "project.group",
            project_id: row.get("project_id")?,
            group_id: row.get("group_id")?,
            group_name: row.get("name")?,
            group_type: "group",
            created_at: row.get("added_at")?,
        })
    }
}

const GROUPS: &str = "SELECT m.project_id, m.group_id, m.added_at, g.name
    FROM project_group m JOIN user_group g ON g.id = m.group_id WHERE m.project_id = $1";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListProjectGroups {
    project_id: PathId<kind::Project>,
    after: Option<String>,
    limit: Option<i64>,
    #[serde(default)]
    order: Order,
}

async fn list(cx: &mut Cx, input: ListProjectGroups) -> Result<NextPage<ProjectGroup>> {
    let limit = page::limit(input.limit, 20, 0, 100)?;
    let after: Option<GroupId> = page::cursor("after", input.after.as_deref())?;
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    let sql = Sql::from(GROUPS).push(match input.order {
        Order::Asc => " AND m.group_id > $2 ORDER BY m.group_id ASC LIMIT $3",
        Order::Desc => " AND m.group_id < $2 ORDER BY m.group_id DESC LIMIT $3",
    });
    let rows = cx.tx.all(sql, &params![project, input.order.beyond(after), limit + 1]).await?;
    Ok(NextPage::new(rows, limit, |group: &ProjectGroup| group.group_id.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddProjectGroup {
    project_id: PathId<kind::Project>,
    group_id: String,
    /// The id of a role of the project.
    role: String,
}

/// Added again with another role, the group has both.
async fn create(cx: &mut Cx, input: AddProjectGroup) -> Result<ProjectGroup> {
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let group = match GroupId::parse(&input.group_id) {
        Some(id) => groups::find(cx, id).await,
        None => Err(Error::not_found("group")),
    };
    let group = group.map_err(|error| {
        if error.is_not_found() { Error::invalid("group_id", "There is no such group.") } else { error }
    })?;
    let resource = Resource::Project(project);
    let role = role_assignments::chosen(cx, resource, &input.role).await.map_err(|error| {
        if error.param.as_deref() == Some("role_id") { error.param("role") } else { error }
    })?;
    let added = cx
        .tx
        .execute(
            "INSERT INTO project_group (project_id, group_id, added_at) VALUES ($1, $2, $3)
             ON CONFLICT (project_id, group_id) DO NOTHING",
            &params![project, group.id, cx.now],
        )
        .await?;
    if added > 0 {
        cx.changed(Entity::Group, group.id).await?;
        let payload = json!({"id": project, "changes_requested": {"group_added": group.id}});
        cx.record(Event::ProjectUpdated, project, Some(project), payload);
    } else {
        cx.unchanged();
    }
    role_assignments::give_group(cx, resource, group.id, &role).await?;
    find(cx, project, group.id).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneProjectGroup {
    project_id: PathId<kind::Project>,
    group_id: PathId<kind::Group>,
    group_type: Option<String>,
}

async fn retrieve(cx: &mut Cx, input: OneProjectGroup) -> Result<ProjectGroup> {
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    let group = find(cx, project, input.group_id.id()?).await?;
    match input.group_type.as_deref() {
        None | Some("group") => Ok(group),
        Some("tenant_group") => Err(Error::not_found("group")),
        Some(_) => {
            Err(Error::invalid("group_type", "Invalid 'group_type': expected 'group' or 'tenant_group'."))
        }
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Removed {
    object: &'static str,
    deleted: bool,
}

async fn delete(cx: &mut Cx, input: OneProjectGroup) -> Result<Removed> {
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let group = find(cx, project, input.group_id.id()?).await?.group_id;
    let organization = cx.organization();
    let mut grants = access::grants_to(&mut cx.tx, organization, &group.to_string()).await?;
    grants.retain(|grant| grant.resource == Resource::Project(project));
    access::refuse_taking_beyond_own(cx, &grants).await?;
    cx.tx
        .execute(
            "DELETE FROM project_group WHERE project_id = $1 AND group_id = $2",
            &params![project, group],
        )
        .await?;
    access::unassign_all(cx, Resource::Project(project), &group.to_string()).await?;
    cx.changed(Entity::Group, group).await?;
    let users = groups::users_of(cx, group).await?;
    access::lapse_all(cx, &users).await?;
    let payload = json!({"id": project, "changes_requested": {"group_removed": group}});
    cx.record(Event::ProjectUpdated, project, Some(project), payload);
    Ok(Removed { object: "project.group.deleted", deleted: true })
}

pub(crate) async fn find(cx: &mut Cx, project: ProjectId, group: GroupId) -> Result<ProjectGroup> {
    let sql = Sql::from(GROUPS).push(" AND m.group_id = $2");
    let found = cx.tx.optional(sql, &params![project, group]).await?;
    found.ok_or_else(|| Error::not_found("group"))
}
