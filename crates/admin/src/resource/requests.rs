//! What was asked of upstreams: one entry per attempt, newest first.

use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_core::id::kind;
use tollgate_core::page::{self, Page};
use tollgate_core::{AttemptId, Error, KeyId, Permission, ProjectId, Result};
use tollgate_ledger::requests::{self, Filter, Request};
use tollgate_ledger::{State, UsageSource};

use crate::arguments::PathId;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;

pub(crate) fn operations() -> Operations {
    use Permission::UsageRead;
    Operations::new()
        .get("/tollgate/v1/requests", "list-requests", Needs(UsageRead), list)
        .after_settling()
        .reading_long()
        .get("/tollgate/v1/requests/{request_id}", "retrieve-request", Needs(UsageRead), retrieve)
        .after_settling()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListRequests {
    after: Option<String>,
    limit: Option<i64>,
    project_id: Option<String>,
    api_key_id: Option<String>,
    state: Option<String>,
    usage_source: Option<String>,
    /// Settled because the process that sent it had gone.
    recovered: Option<bool>,
    /// With something odd about its usage.
    flagged: Option<bool>,
}

async fn list(cx: &mut Cx, input: ListRequests) -> Result<Page<Request>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<AttemptId> = page::cursor("after", input.after.as_deref())?;
    let state = input.state.as_deref().map(read_state).transpose()?;
    let source = input.usage_source.as_deref().map(read_source).transpose()?;
    // An id that cannot be one is as absent as one of another organization: nothing is found for it.
    let project = input.project_id.as_deref().map(ProjectId::parse);
    let key = input.api_key_id.as_deref().map(KeyId::parse);
    if project == Some(None) || key == Some(None) {
        return Ok(Page::new(Vec::new(), limit, |request: &Request| request.id.to_string()));
    }
    let filter = Filter {
        after,
        project: project.flatten(),
        key: key.flatten(),
        state,
        source,
        is_recovered: input.recovered,
        is_flagged: input.flagged,
    };
    let rows = requests::list(&mut cx.tx, cx.actor.organization, &filter, limit + 1).await?;
    Ok(Page::new(rows, limit, |request| request.id.to_string()))
}

fn read_state(word: &str) -> Result<State> {
    State::parse(word).ok_or_else(|| {
        Error::invalid(
            "state",
            format!("Invalid 'state': expected 'held', 'settled' or 'voided', but got '{word}'."),
        )
    })
}

fn read_source(word: &str) -> Result<UsageSource> {
    UsageSource::parse(word).ok_or_else(|| {
        let message =
            format!("Invalid 'usage_source': expected 'upstream', 'observed' or 'bound', but got '{word}'.");
        Error::invalid("usage_source", message)
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneRequest {
    request_id: PathId<kind::Attempt>,
}

async fn retrieve(cx: &mut Cx, input: OneRequest) -> Result<Request> {
    let found = requests::find(&mut cx.tx, cx.actor.organization, input.request_id.id()?).await?;
    found.ok_or_else(|| Error::not_found("request"))
}
