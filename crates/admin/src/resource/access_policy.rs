//! From where a project's keys can be used.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::id::kind;
use tollgate_core::patch::Patch;
use tollgate_core::{Error, Permission, ProjectId, Result};
use tollgate_store::{Entity, Row, params};

use crate::arguments::PathId;
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::projects;

pub(crate) fn operations() -> Operations {
    use Permission::{ProjectsRead, ProjectsWrite};
    const PATH: &str = "/tollgate/v1/projects/{project_id}/access_policy";
    Operations::new().get(PATH, "retrieve-project-access-policy", Needs(ProjectsRead), retrieve).post(
        PATH,
        "modify-project-access-policy",
        Needs(ProjectsWrite),
        Event::ProjectUpdated,
        update,
    )
}

const WORDS: [&str; 2] = ["refuse", "allow"];

#[derive(Serialize, JsonSchema)]
pub(crate) struct AccessPolicy {
    object: &'static str,
    project_id: ProjectId,
    /// `refuse` or `allow`: what is done with a request that has a browser's `Origin` and a long-lived key.
    browser_requests: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneProject {
    project_id: PathId<kind::Project>,
}

async fn retrieve(cx: &mut Cx, input: OneProject) -> Result<AccessPolicy> {
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    show(cx, project).await
}

async fn show(cx: &mut Cx, project: ProjectId) -> Result<AccessPolicy> {
    let row: Row = cx.tx.one("SELECT browser_requests FROM project WHERE id = $1", &params![project]).await?;
    let word: Option<String> = row.get("browser_requests")?;
    Ok(AccessPolicy {
        object: "tollgate.access_policy",
        project_id: project,
        browser_requests: word.unwrap_or_else(|| WORDS[0].to_owned()),
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdatePolicy {
    project_id: PathId<kind::Project>,
    #[serde(default)]
    browser_requests: Patch<String>,
}

/// Fields left out stay; null goes back to the usual.
async fn update(cx: &mut Cx, input: UpdatePolicy) -> Result<AccessPolicy> {
    if let Patch::Value(word) = &input.browser_requests
        && !WORDS.contains(&word.as_str())
    {
        let message = format!("Invalid 'browser_requests': expected 'refuse' or 'allow', but got '{word}'.");
        return Err(Error::invalid("browser_requests", message));
    }
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    if let (false, value) = (input.browser_requests.is_absent(), input.browser_requests.value()) {
        cx.tx
            .execute("UPDATE project SET browser_requests = $1 WHERE id = $2", &params![value, project])
            .await?;
    }
    cx.changed(Entity::Project, project).await?;
    let policy = show(cx, project).await?;
    let payload = json!({"id": project, "changes_requested": {"access_policy": policy}});
    cx.record(Event::ProjectUpdated, project, Some(project), payload);
    Ok(policy)
}
