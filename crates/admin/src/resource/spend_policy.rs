//! What a project wants done with a request that does not fit its limits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::id::kind;
use tollgate_core::patch::Patch;
use tollgate_core::{Error, Permission, ProjectId, Result};
use tollgate_replica::SpendPolicy as Policy;
use tollgate_store::{Entity, Row, params};

use crate::arguments::PathId;
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::projects;

pub(crate) fn operations() -> Operations {
    use Permission::{SpendLimitsRead, SpendLimitsWrite};
    const PATH: &str = "/tollgate/v1/projects/{project_id}/spend_policy";
    Operations::new().get(PATH, "retrieve-project-spend-policy", Needs(SpendLimitsRead), retrieve).post(
        PATH,
        "modify-project-spend-policy",
        Needs(SpendLimitsWrite),
        Event::ProjectUpdated,
        update,
    )
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct SpendPolicy {
    object: &'static str,
    project_id: ProjectId,
    /// `refuse`, or `clamp`: less output, if that fits.
    when_exceeded: &'static str,
    /// No choice is clamped to less.
    min_output_tokens: u64,
    /// How long a request may wait for money that requests in flight hold.
    wait_ms: u64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneProject {
    project_id: PathId<kind::Project>,
}

async fn retrieve(cx: &mut Cx, input: OneProject) -> Result<SpendPolicy> {
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    show(cx, project).await
}

async fn show(cx: &mut Cx, project: ProjectId) -> Result<SpendPolicy> {
    let row: Row = cx
        .tx
        .one(
            "SELECT when_exceeded, clamp_output_min, budget_wait_ms FROM project WHERE id = $1",
            &params![project],
        )
        .await?;
    let policy = tollgate_replica::read_spend_policy(&row)?;
    let floor: Option<u64> = row.get("clamp_output_min")?;
    Ok(SpendPolicy {
        object: "tollgate.spend_policy",
        project_id: project,
        when_exceeded: if policy.clamp_to.is_some() { "clamp" } else { "refuse" },
        min_output_tokens: floor.unwrap_or(Policy::CLAMP_TO_USUAL),
        wait_ms: policy.wait_millis,
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdatePolicy {
    project_id: PathId<kind::Project>,
    #[serde(default)]
    when_exceeded: Patch<String>,
    #[serde(default)]
    min_output_tokens: Patch<i64>,
    #[serde(default)]
    wait_ms: Patch<i64>,
}

/// Fields left out stay; null goes back to the usual.
async fn update(cx: &mut Cx, input: UpdatePolicy) -> Result<SpendPolicy> {
    if let Patch::Value(word) = &input.when_exceeded
        && !matches!(word.as_str(), "refuse" | "clamp")
    {
        let message = format!("Invalid 'when_exceeded': expected 'refuse' or 'clamp', but got '{word}'.");
        return Err(Error::invalid("when_exceeded", message));
    }
    within("min_output_tokens", &input.min_output_tokens, 1, 1_000_000)?;
    within("wait_ms", &input.wait_ms, 0, 30_000)?;
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    if let (false, value) = (input.when_exceeded.is_absent(), input.when_exceeded.value()) {
        cx.tx
            .execute("UPDATE project SET when_exceeded = $1 WHERE id = $2", &params![value, project])
            .await?;
    }
    if let (false, value) = (input.min_output_tokens.is_absent(), input.min_output_tokens.value()) {
        cx.tx
            .execute("UPDATE project SET clamp_output_min = $1 WHERE id = $2", &params![value, project])
            .await?;
    }
    if let (false, value) = (input.wait_ms.is_absent(), input.wait_ms.value()) {
        cx.tx
            .execute("UPDATE project SET budget_wait_ms = $1 WHERE id = $2", &params![value, project])
            .await?;
    }
    cx.changed(Entity::Project, project).await?;
    let policy = show(cx, project).await?;
    let payload = json!({"id": project, "changes_requested": {"spend_policy": policy}});
    cx.record(Event::ProjectUpdated, project, Some(project), payload);
    Ok(policy)
}

fn within(param: &'static str, patch: &Patch<i64>, min: i64, max: i64) -> Result<()> {
    match patch {
        Patch::Value(value) if !(min..=max).contains(value) => {
            let message =
                format!("Invalid '{param}': expected a value from {min} to {max}, but got {value}.");
            let code = if *value < min { "integer_below_min_value" } else { "integer_above_max_value" };
            Err(Error::invalid(param, message).code(code))
        }
        _ => Ok(()),
    }
}
