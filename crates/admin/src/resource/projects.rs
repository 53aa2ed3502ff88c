//! Projects: what owns keys, limits and spend. They are created and archived, never deleted.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate_core::budget::Scope;
use tollgate_core::id::kind;
use tollgate_core::labels::{Labels, LabelsSaid, RequestLabels};
use tollgate_core::page::{self, Page};
use tollgate_core::patch::Patch;
use tollgate_core::{Error, Permission, ProjectId, Result, Timestamp};
use tollgate_store::{Entity, FromRow, Row, Sql, params};

use crate::arguments::{self, Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::search::{Searched, and_has};
use crate::resource::{labels, service_accounts, spend_defaults};

pub(crate) fn operations() -> Operations {
    use Permission::{ProjectsRead, ProjectsWrite};
    const ALL: &str = "/v1/organization/projects";
    const ONE: &str = "/v1/organization/projects/{project_id}";
    Operations::new()
        .get(ALL, "list-projects", Needs(ProjectsRead), list)
        .post(ALL, "create-project", Needs(ProjectsWrite), Event::ProjectCreated, create)
        .get(ONE, "retrieve-project", Needs(ProjectsRead), retrieve)
        .post(ONE, "modify-project", Needs(ProjectsWrite), Event::ProjectUpdated, update)
        .post(
            "/v1/organization/projects/{project_id}/archive",
            "archive-project",
            Needs(ProjectsWrite),
            Event::ProjectArchived,
            archive,
        )
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Project {
    pub(crate) id: ProjectId,
    object: &'static str,
    pub(crate) name: String,
    created_at: Timestamp,
    pub(crate) archived_at: Option<Timestamp>,
    status: &'static str,
    residency: Option<&'static str>,
    external_key_id: Option<&'static str>,
    /// Extension.
    pub(crate) frozen_at: Option<Timestamp>,
    /// Extension: of all that is done with its keys.
    labels: Labels,
    /// Extension: which labels a request may add, each with the values it may have.
    request_labels: RequestLabels,
    /// Extension: the first of its organization, which stays.
    is_default: bool,
}

impl FromRow for Project {
    fn from_row(row: &Row) -> Result<Self> {
        let archived_at: Option<Timestamp> = row.get("archived_at")?;
        Ok(Self {
            id: row.get("id")?,
            object: "organization.project",
            name: row.get("name")?,
            created_at: row.get("created_at")?,
            status: if archived_at.is_some() { "archived" } else { "active" },
            archived_at,
            residency: None,
            external_key_id: None,
            frozen_at: row.get("frozen_at")?,
            labels: labels::read(row)?,
            request_labels: row
                .get::<Option<String>>("request_labels")?
                .map(|stored| RequestLabels::from_stored(&stored))
                .transpose()?
                .unwrap_or_default(),
            is_default: row.get("is_default")?,
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneProject {
    project_id: PathId<kind::Project>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListProjects {
    after: Option<String>,
    limit: Option<i64>,
    #[serde(default)]
    include_archived: bool,
    /// Extension: what is in their names, in capitals or not.
    name: Option<String>,
}

/// In the order they were made.
async fn list(cx: &mut Cx, input: ListProjects) -> Result<Page<Project>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<ProjectId> = page::cursor("after", input.after.as_deref())?;
    let mut sql = Sql::from("SELECT * FROM project WHERE organization_id = $1 AND id > $2");
    if !input.include_archived {
        sql = sql.push(" AND archived_at IS NULL");
    }
    let mut values = params![cx.organization(), Order::Asc.beyond(after), limit + 1].to_vec();
    if let Some(name) = &input.name {
        sql = and_has(sql, &mut values, &Searched { lower: "LOWER(name)", plain: "name" }, name);
    }
    let rows = cx.tx.all(sql.push(" ORDER BY id LIMIT $3"), &values).await?;
    Ok(Page::new(rows, limit, |project: &Project| project.id.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateProject {
    name: String,
    #[serde(default)]
    external_key_id: Option<Value>,
    #[serde(default)]
    geography: Option<Value>,
    #[serde(default)]
    residency: Option<Value>,
    #[serde(default)]
    labels: Patch<LabelsSaid>,
    #[serde(default)]
    request_labels: Patch<BTreeMap<String, Vec<String>>>,
}

async fn create(cx: &mut Cx, input: CreateProject) -> Result<Project> {
    let name = arguments::name("name", &input.name)?;
    refuse_unenforced("external_key_id", input.external_key_id.as_ref())?;
    refuse_unenforced("geography", input.geography.as_ref())?;
    refuse_unenforced("residency", input.residency.as_ref())?;
    let labels = labels::checked(&input.labels)?;
    let request_labels = request_labels(&input.request_labels)?;
    let id: ProjectId = cx.id();
    cx.tx
        .execute(
            "INSERT INTO project (id, organization_id, name, is_default, created_at, labels, request_labels)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            &params![
                id,
                cx.organization(),
                name,
                false,
                cx.now,
                labels.as_ref().and_then(labels::to_stored),
                request_labels.as_ref().filter(|labels| !labels.is_empty()).map(RequestLabels::to_stored),
            ],
        )
        .await?;
    cx.changed(Entity::Project, id).await?;
    let mut data = json!({"name": name, "title": name});
    labels::tell(&mut data, "labels", labels.as_ref());
    labels::tell(&mut data, "request_labels", request_labels.as_ref());
    cx.record(Event::ProjectCreated, id, Some(id), json!({"id": id, "data": data}));
    spend_defaults::apply(cx, Scope::Project(id)).await?;
    find(cx, id).await
}

/// Where data is kept and with which key it is encrypted is the provider's; a value would be a promise nobody keeps.
fn refuse_unenforced(param: &'static str, value: Option<&Value>) -> Result<()> {
    match value {
        None => Ok(()),
        Some(_) => Err(Error::unsupported(
            param,
            format!("'{param}' cannot be enforced here. Leave it out or set it to null."),
        )),
    }
}

async fn retrieve(cx: &mut Cx, input: OneProject) -> Result<Project> {
    find(cx, input.project_id.id()?).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateProject {
    project_id: PathId<kind::Project>,
    #[serde(default)]
    name: Patch<String>,
    #[serde(default)]
    external_key_id: Option<Value>,
    #[serde(default)]
    geography: Option<Value>,
    /// All of them, in place of those that were set.
    #[serde(default)]
    labels: Patch<LabelsSaid>,
    #[serde(default)]
    request_labels: Patch<BTreeMap<String, Vec<String>>>,
}

async fn update(cx: &mut Cx, input: UpdateProject) -> Result<Project> {
    refuse_unenforced("external_key_id", input.external_key_id.as_ref())?;
    refuse_unenforced("geography", input.geography.as_ref())?;
    let (labels, request_labels) = (labels::checked(&input.labels)?, request_labels(&input.request_labels)?);
    let project = live(cx, input.project_id.id()?).await?;
    let name = input.name.value().map(|name| arguments::name("name", &name)).transpose()?;
    if project.is_default && (name.is_some() || labels.is_none() && request_labels.is_none()) {
        let message = "The default project cannot be renamed.";
        return Err(Error::bad_request(message).code("default_project"));
    }
    let mut changes = json!({});
    if let Some(name) = &name {
        cx.tx.execute("UPDATE project SET name = $1 WHERE id = $2", &params![name, project.id]).await?;
        changes = json!({"title": name, "name": name});
    }
    if let Some(labels) = &labels {
        let stored = labels::to_stored(labels);
        cx.tx.execute("UPDATE project SET labels = $1 WHERE id = $2", &params![stored, project.id]).await?;
    }
    if let Some(labels) = &request_labels {
        let stored = Some(labels).filter(|labels| !labels.is_empty()).map(RequestLabels::to_stored);
        let sql = "UPDATE project SET request_labels = $1 WHERE id = $2";
        cx.tx.execute(sql, &params![stored, project.id]).await?;
    }
    labels::tell(&mut changes, "labels", labels.as_ref());
    labels::tell(&mut changes, "request_labels", request_labels.as_ref());
    if changes == json!({}) {
        cx.unchanged();
        return Ok(project);
    }
    cx.changed(Entity::Project, project.id).await?;
    let payload = json!({"id": project.id, "changes_requested": changes});
    cx.record(Event::ProjectUpdated, project.id, Some(project.id), payload);
    find(cx, project.id).await
}

/// `None` if nothing is said of them.
fn request_labels(said: &Patch<BTreeMap<String, Vec<String>>>) -> Result<Option<RequestLabels>> {
    match said {
        Patch::Absent => Ok(None),
        Patch::Null => Ok(Some(RequestLabels::default())),
        Patch::Value(said) => RequestLabels::checked(said, "request_labels").map(Some),
    }
}

/// Archiving is final: the keys stop at once, the history stays. Repeating it changes nothing.
async fn archive(cx: &mut Cx, input: OneProject) -> Result<Project> {
    let project = find(cx, input.project_id.id()?).await?;
    if project.is_default {
        return Err(Error::bad_request("The default project cannot be archived.").code("default_project"));
    }
    if project.archived_at.is_some() {
        cx.unchanged();
        return Ok(project);
    }
    service_accounts::end_admin_keys(cx, project.id).await?;
    cx.tx.execute("UPDATE project SET archived_at = $1 WHERE id = $2", &params![cx.now, project.id]).await?;
    cx.changed(Entity::Project, project.id).await?;
    cx.record(Event::ProjectArchived, project.id, Some(project.id), json!({"id": project.id}));
    find(cx, project.id).await
}

/// The project, if it belongs to the caller's organization.
pub(crate) async fn find(cx: &mut Cx, id: ProjectId) -> Result<Project> {
    let found = cx
        .tx
        .optional(
            "SELECT * FROM project WHERE id = $1 AND organization_id = $2",
            &params![id, cx.organization()],
        )
        .await?;
    found.ok_or_else(|| Error::not_found("project"))
}

/// The project that is there from the beginning.
pub(crate) async fn default(cx: &mut Cx) -> Result<ProjectId> {
    let sql = "SELECT id FROM project WHERE organization_id = $1 AND is_default = $2 ORDER BY id LIMIT 1";
    let row: Option<Row> = cx.tx.optional(sql, &params![cx.organization(), true]).await?;
    row.ok_or_else(|| Error::internal("an organization without a default project"))?.at(0)
}

/// The project, if it can still be changed.
pub(crate) async fn live(cx: &mut Cx, id: ProjectId) -> Result<Project> {
    let project = find(cx, id).await?;
    if project.archived_at.is_some() {
        let message = "The project has been archived: it can neither be used nor changed any more.";
        return Err(Error::bad_request(message).code("project_archived"));
    }
    Ok(project)
}
