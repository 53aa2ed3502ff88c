//! What an organization asks of new keys: how long they live, and whose they may be.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::patch::Patch;
use tollgate_core::{Error, Permission, Principal, Result, Timestamp};
use tollgate_store::{Entity, Row, params};

use crate::arguments;
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;

pub(crate) fn operations() -> Operations {
    use Permission::{OrganizationRead, OrganizationWrite};
    const PATH: &str = "/tollgate/v1/organization/key_policy";
    Operations::new().get(PATH, "retrieve-key-policy", Needs(OrganizationRead), retrieve).post(
        PATH,
        "modify-key-policy",
        Needs(OrganizationWrite),
        Event::OrganizationUpdated,
        update,
    )
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Owners {
    /// Users and service accounts.
    #[default]
    Any,
    ServiceAccounts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct KeyPolicy {
    object: &'static str,
    /// Of a key that is made without a word of its expiry; null for never.
    default_expires_in_seconds: Option<i64>,
    /// No new key lives longer; null without a limit.
    max_expires_in_seconds: Option<i64>,
    /// Whose new project keys may be.
    key_owners: Owners,
}

async fn read(cx: &mut Cx) -> Result<KeyPolicy> {
    let sql = "SELECT key_seconds_usual, key_seconds_max, key_owners FROM organization WHERE id = $1";
    let row: Row = cx.tx.one(sql, &params![cx.organization()]).await?;
    let owners: Option<String> = row.get("key_owners")?;
    Ok(KeyPolicy {
        object: "tollgate.key_policy",
        default_expires_in_seconds: row.get("key_seconds_usual")?,
        max_expires_in_seconds: row.get("key_seconds_max")?,
        // A word that this version does not know is stricter than any it knows.
        key_owners: match owners.as_deref() {
            None | Some("any") => Owners::Any,
            Some(_) => Owners::ServiceAccounts,
        },
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

async fn retrieve(cx: &mut Cx, _: Nothing) -> Result<KeyPolicy> {
    read(cx).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Update {
    #[serde(default)]
    default_expires_in_seconds: Patch<i64>,
    #[serde(default)]
    max_expires_in_seconds: Patch<i64>,
    key_owners: Option<Owners>,
}

/// What is not given stays as it is. Keys that are there stay as they are.
async fn update(cx: &mut Cx, input: Update) -> Result<KeyPolicy> {
    let before = read(cx).await?;
    let seconds = |param: &'static str, patch: Patch<i64>, before: Option<i64>| match patch {
        Patch::Absent => Ok(before),
        Patch::Null => Ok(None),
        Patch::Value(seconds) => arguments::seconds(param, seconds).map(Some),
    };
    let after = KeyPolicy {
        default_expires_in_seconds: seconds(
            "default_expires_in_seconds",
            input.default_expires_in_seconds,
            before.default_expires_in_seconds,
        )?,
        max_expires_in_seconds: seconds(
            "max_expires_in_seconds",
            input.max_expires_in_seconds,
            before.max_expires_in_seconds,
        )?,
        key_owners: input.key_owners.unwrap_or(before.key_owners),
        ..before
    };
    if let (Some(usual), Some(max)) = (after.default_expires_in_seconds, after.max_expires_in_seconds)
        && usual > max
    {
        let message = format!("The default, {usual} seconds, is longer than the maximum of {max}.");
        return Err(Error::invalid("default_expires_in_seconds", message));
    }
    if after == before {
        cx.unchanged();
        return Ok(after);
    }
    let owners = match after.key_owners {
        Owners::Any => None,
        Owners::ServiceAccounts => Some("service_accounts"),
    };
    cx.tx
        .execute(
            "UPDATE organization SET key_seconds_usual = $1, key_seconds_max = $2, key_owners = $3 WHERE id = $4",
            &params![after.default_expires_in_seconds, after.max_expires_in_seconds, owners, cx.organization()],
        )
        .await?;
    let organization = cx.organization();
    cx.changed(Entity::Organization, organization).await?;
    let payload = json!({"id": organization, "changes_requested": {
        "default_expires_in_seconds": after.default_expires_in_seconds,
        "max_expires_in_seconds": after.max_expires_in_seconds, "key_owners": after.key_owners}});
    cx.record(Event::OrganizationUpdated, organization, None, payload);
    Ok(after)
}

/// When a new key expires: as is wished, within what the organization allows.
pub(crate) async fn expiry(cx: &mut Cx, wished: Option<i64>) -> Result<Option<Timestamp>> {
    let policy = read(cx).await?;
    let wished = wished.map(arguments::expires_in).transpose()?;
    let Some(seconds) = wished.or(policy.default_expires_in_seconds) else {
        return match policy.max_expires_in_seconds {
            None => Ok(None),
            Some(max) => {
                let message =
                    format!("Say when the key expires: the organization allows at most {max} seconds.");
                Err(Error::invalid("expires_in_seconds", message).code("missing_required_parameter"))
            }
        };
    };
    if let Some(max) = policy.max_expires_in_seconds.filter(|max| seconds > *max) {
        let message = format!(
            "Invalid 'expires_in_seconds': the organization allows at most {max}, but got {seconds}."
        );
        return Err(Error::invalid("expires_in_seconds", message).code("integer_above_max_value"));
    }
    Ok(Some(cx.now.plus_seconds(seconds)))
}

/// When a key of that age expires instead: no key lives longer in all than the organization allows.
pub(crate) async fn moved_expiry(
    cx: &mut Cx,
    seconds: i64,
    created_at: Timestamp,
) -> Result<Option<Timestamp>> {
    let expires_at = expiry(cx, Some(seconds)).await?;
    let max = read(cx).await?.max_expires_in_seconds;
    let last = max.map(|max| created_at.plus_seconds(max));
    if let (Some(at), Some(last)) = (expires_at, last)
        && at > last
    {
        let message =
            format!("The key was made at {created_at}; the organization lets it live until {last} at most.");
        return Err(Error::invalid("expires_in_seconds", message).code("integer_above_max_value"));
    }
    Ok(expires_at)
}

/// Refuses a project key whose owner is none that the organization allows.
pub(crate) async fn check_owner(cx: &mut Cx, owner: Principal) -> Result<()> {
    let policy = read(cx).await?;
    if policy.key_owners == Owners::Any || matches!(owner, Principal::ServiceAccount(_)) {
        return Ok(());
    }
    let message = "The organization allows keys of service accounts only. Name one in 'service_account_id'.";
    Err(Error::invalid("user_id", message).code("service_accounts_only"))
}
