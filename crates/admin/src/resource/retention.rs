//! How long an organization's requests are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::patch::Patch;
use tollgate_core::{Error, Permission, Result, Timestamp};
use tollgate_ledger::retention::{DAYS_MAX, DAYS_MIN};
use tollgate_store::{Row, params};

use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;

pub(crate) fn operations() -> Operations {
    use Permission::{OrganizationRead, OrganizationWrite};
    const PATH: &str = "/tollgate/v1/organization/retention";
    Operations::new().get(PATH, "retrieve-retention", Needs(OrganizationRead), retrieve).post(
        PATH,
        "modify-retention",
        Needs(OrganizationWrite),
        Event::OrganizationUpdated,
        update,
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Retention {
    object: &'static str,
    /// Requests that are older are deleted; null keeps them. What they were and cost in sum is kept.
    requests_days: Option<i64>,
    /// All that were admitted before have been deleted; null if none has.
    requests_from: Option<Timestamp>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

async fn retrieve(cx: &mut Cx, _: Nothing) -> Result<Retention> {
    let sql = "SELECT requests_days, requests_from FROM organization WHERE id = $1";
    let row: Row = cx.tx.one(sql, &params![cx.organization()]).await?;
    Ok(Retention {
        object: "tollgate.retention",
        requests_days: row.at(0)?,
        requests_from: Some(row.at::<Timestamp>(1)?).filter(|from| from.0 > 0),
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Update {
    #[serde(default)]
    requests_days: Patch<i64>,
}

async fn update(cx: &mut Cx, input: Update) -> Result<Retention> {
    let days = match input.requests_days {
        Patch::Absent => {
            cx.unchanged();
            return retrieve(cx, Nothing {}).await;
        }
        Patch::Null => None,
        Patch::Value(days) if (DAYS_MIN..=DAYS_MAX).contains(&days) => Some(days),
        Patch::Value(days) => {
            let message = format!(
                "Invalid 'requests_days': expected a value from {DAYS_MIN} to {DAYS_MAX}, or null to keep them all, but got \
                 {days}. What a limit counts has to be there as long as its longest period lasts."
            );
            return Err(Error::invalid("requests_days", message));
        }
    };
    let organization = cx.organization();
    cx.tx
        .execute("UPDATE organization SET requests_days = $1 WHERE id = $2", &params![days, organization])
        .await?;
    let payload = json!({"id": organization, "changes_requested": {"requests_days": days}});
    cx.record(Event::OrganizationUpdated, organization, None, payload);
    retrieve(cx, Nothing {}).await
}
