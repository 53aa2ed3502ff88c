//! What a key is and may, for whoever holds it; and its end, for whoever holds a leaked key may kill it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate_core::budget::{Payer, Scope};
use tollgate_core::key::KeyKind;
use tollgate_core::{Error, KeyId, Money, OrganizationId, Period, ProjectId, Result, Scopes, Timestamp};
use tollgate_ledger::spend_limit;
use tollgate_store::{Row, params};

use crate::actor::Credential;
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::AnyKey;
use crate::operation::Operations;
use crate::resource::{Deleted, api_keys};

pub(crate) fn operations() -> Operations {
    const ME: &str = "/tollgate/v1/me";
    Operations::new().get(ME, "retrieve-me", AnyKey, retrieve).after_settling().delete(
        ME,
        "delete-me",
        AnyKey,
        Event::ApiKeyDeleted,
        delete,
    )
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Me {
    object: &'static str,
    id: KeyId,
    name: String,
    kind: &'static str,
    redacted_value: String,
    organization_id: OrganizationId,
    project_id: Option<ProjectId>,
    project_name: Option<String>,
    owner: Value,
    is_operator: bool,
    scopes: Scopes,
    /// The projects that an admin key is restricted to; null for none.
    project_ids: Option<Vec<ProjectId>>,
    /// The models it may call; null for an admin key, which may call none.
    models: Option<Vec<String>>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    /// This month in UTC: what this key has spent, and what its requests in flight may yet cost.
    spent: Money,
    held: Money,
    /// What is left of the tightest hard limit above the key; null without one.
    remaining: Option<Money>,
    /// This month: requests whose output was clamped to what fitted.
    clamped_requests: u64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

async fn retrieve(cx: &mut Cx, _: Nothing) -> Result<Me> {
    let Credential::Key(key, locator) = cx.actor.credential else { return Err(Error::not_found("API key")) };
    let row: Row = cx
        .tx
        .optional(
            // The secret that is asked with may be one that another has taken the place of.
            "SELECT k.name, COALESCE(s.redacted_value, k.redacted_value) AS redacted_value, k.created_at, p.name AS project_name
             FROM api_key k JOIN api_key_secret s ON s.api_key_id = k.id LEFT JOIN project p ON p.id = k.project_id
             WHERE k.id = $1 AND s.locator = $2 AND k.revoked_at IS NULL",
            &params![key, locator],
        )
        .await?
        .ok_or_else(|| Error::not_found("API key"))?;
    let (spent, held, clamped_requests) = spent(cx).await?;
    let remaining = remaining(cx).await?;
    Ok(Me {
        object: "tollgate.me",
        id: cx.actor.key()?,
        name: row.get("name")?,
        kind: cx.actor.kind.as_str(),
        redacted_value: row.get("redacted_value")?,
        organization_id: cx.organization(),
        project_id: cx.actor.project,
        project_name: row.get("project_name")?,
        owner: cx.actor.wire()["api_key"].clone(),
        is_operator: cx.actor.acts_as_operator(),
        scopes: cx.actor.scopes,
        project_ids: cx.actor.restricted_to.as_ref().map(|projects| projects.to_vec()),
        models: models(cx),
        created_at: row.get("created_at")?,
        expires_at: cx.actor.expires_at,
        spent,
        held,
        remaining,
        clamped_requests,
    })
}

fn models(cx: &Cx) -> Option<Vec<String>> {
    if cx.actor.kind == KeyKind::Admin {
        return None;
    }
    if !cx.actor.calls_models {
        return Some(Vec::new());
    }
    let mut models: Vec<String> =
        cx.desk.replica.snapshot().models().map(|model| model.id.to_string()).collect();
    models.sort();
    Some(models)
}

/// What the key has spent and holds this month in UTC, and how many of its requests were clamped.
async fn spent(cx: &mut Cx) -> Result<(Money, Money, u64)> {
    let (month, key) = (Period::month_of(cx.now), Scope::Key(cx.actor.key()?));
    let settled = spend_limit::settled(&mut cx.tx, key, month).await?;
    let (held, _) = spend_limit::in_flight(&mut cx.tx, key, month).await?;
    let row: Row = cx
        .tx
        .one(
            "SELECT CAST(COALESCE(SUM(clamped_requests), 0) AS BIGINT) FROM usage_rollup
             WHERE key_number = (SELECT number FROM api_key WHERE id = $1) AND width = 86400
                AND bucket_start >= $2 AND bucket_start < $3",
            &params![cx.actor.key()?, month.start, month.end],
        )
        .await?;
    Ok((settled, held, row.at(0)?))
}

/// What is left of the tightest limit that enforces and counts what the key spends.
async fn remaining(cx: &mut Cx) -> Result<Option<Money>> {
    let Some(project) = cx.actor.project else { return Ok(None) };
    let payer =
        Payer { organization: cx.organization(), project, user: cx.actor.owner.user(), key: cx.actor.key()? };
    let mut tightest: Option<Money> = None;
    for scope in payer.scopes() {
        for limit in spend_limit::of_scope(&mut cx.tx, scope).await? {
            let budget = spend_limit::current(&mut cx.tx, limit, cx.now).await?;
            if budget.is_enforced() {
                tightest = Some(tightest.map_or(budget.remaining(), |least| least.min(budget.remaining())));
            }
        }
    }
    Ok(tightest)
}

async fn delete(cx: &mut Cx, _: Nothing) -> Result<Deleted<KeyId>> {
    let key = cx.actor.key()?;
    api_keys::revoke(cx, key, cx.actor.project).await?;
    Ok(Deleted::new("tollgate.me.deleted", key))
}
