//! The secrets of a key. Rotation gives it another one; the one before may go on for a while, so that whoever uses the key can
//! go over to it. Id, owner, scopes, limits, spend and usage stay: they are the key's.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use tollgate_core::key::{KeyKind, Locator, NewKey};
use tollgate_core::secret::ShownOnce;
use tollgate_core::{Error, KeyId, ProjectId, Result, Timestamp};
use tollgate_store::{Entity, Row, params};

use crate::audit::Event;
use crate::gate::Cx;
use crate::resource::new_key;

/// 30 days: whoever needs longer needs another key.
const GRACE_SECONDS_MAX: i64 = 30 * 86_400;

/// The columns and joins by which a query over keys finds their secrets; read by [`Secrets::read`].
pub(crate) const COLUMNS: &str = "s.locator, s.created_at AS secret_created_at, old.locator AS old_locator,
        old.redacted_value AS old_redacted_value, old.replaced_at AS old_replaced_at, old.expires_at AS old_expires_at,
        old.last_used_at AS old_last_used_at,
        EXISTS (SELECT 1 FROM api_key_secret was WHERE was.api_key_id = k.id AND was.replaced_at IS NOT NULL)
            AS is_rotated, ";
/// Revoking wipes the verifiers, and so does the next rotation: there is one of an earlier secret at most.
pub(crate) const JOINS: &str = " JOIN api_key_secret s ON s.api_key_id = k.id AND s.replaced_at IS NULL
        LEFT JOIN api_key_secret old ON old.api_key_id = k.id AND old.replaced_at IS NOT NULL
            AND old.verifier IS NOT NULL ";

/// The secret that a key had before, while it still opens what the key does.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct PreviousSecret {
    redacted_value: String,
    replaced_at: Timestamp,
    expires_at: Timestamp,
    last_used_at: Option<Timestamp>,
    #[serde(skip)]
    locator: Locator,
}

/// What a key's row says of its secrets.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    locator: Locator,
    pub(crate) rotated_at: Option<Timestamp>,
    previous: Option<PreviousSecret>,
}

impl Secrets {
    pub(crate) fn read(row: &Row) -> Result<Self> {
        let made: Timestamp = row.get("secret_created_at")?;
        let previous = match row.get::<Option<Locator>>("old_locator")? {
            None => None,
            Some(locator) => Some(PreviousSecret {
                redacted_value: row.get("old_redacted_value")?,
                replaced_at: row.get("old_replaced_at")?,
                expires_at: row.get("old_expires_at")?,
                last_used_at: row.get("old_last_used_at")?,
                locator,
            }),
        };
        let rotated_at = row.get::<bool>("is_rotated")?.then_some(made);
        Ok(Self { locator: row.get("locator")?, rotated_at, previous })
    }

    /// The one before, if it can still be used; with its last use as this node has seen it, which is written only now and
    /// then.
    pub(crate) fn previous(&self, cx: &Cx) -> Option<PreviousSecret> {
        let mut previous = self.previous.clone().filter(|secret| secret.expires_at > cx.now)?;
        previous.last_used_at = previous.last_used_at.max(cx.desk.replica.last_used_at(&previous.locator));
        Some(previous)
    }

    /// When any of them was last used, as this node has seen it.
    pub(crate) fn last_used_at(&self, cx: &Cx) -> Option<Timestamp> {
        let old = self.previous.as_ref().and_then(|old| cx.desk.replica.last_used_at(&old.locator));
        cx.desk.replica.last_used_at(&self.locator).max(old)
    }
}

/// Reads how long the secret before is to go on; not at all if nothing is said.
pub(crate) fn grace(seconds: Option<i64>) -> Result<i64> {
    let seconds = seconds.unwrap_or(0);
    if (0..=GRACE_SECONDS_MAX).contains(&seconds) {
        return Ok(seconds);
    }
    let message = format!(
        "Invalid 'grace_seconds': expected a value from 0 to {GRACE_SECONDS_MAX}, but got {seconds}."
    );
    let code = if seconds < 0 { "integer_below_min_value" } else { "integer_above_max_value" };
    Err(Error::invalid("grace_seconds", message).code(code))
}

/// Gives a key another secret. Two are valid at most: one that was in its grace ends here.
pub(crate) async fn rotate(
    cx: &mut Cx,
    key: KeyId,
    kind: KeyKind,
    project: Option<ProjectId>,
    grace_seconds: i64,
) -> Result<ShownOnce> {
    wipe_previous(cx, key).await?;
    let new = NewKey::generate(kind);
    cx.tx
        .execute(
            "UPDATE api_key_secret SET replaced_at = $1, expires_at = $2,
                redacted_value = (SELECT redacted_value FROM api_key WHERE id = $3)
             WHERE api_key_id = $3 AND replaced_at IS NULL",
            &params![cx.now, Timestamp(cx.now.0 + grace_seconds), key],
        )
        .await?;
    if grace_seconds == 0 {
        wipe_previous(cx, key).await?;
    }
    new_key::insert_secret(&mut cx.tx, &cx.desk.keyring, key, &new, cx.now).await?;
    let sql = "UPDATE api_key SET redacted_value = $1 WHERE id = $2";
    cx.tx.execute(sql, &params![new.redacted, key]).await?;
    cx.changed(Entity::ApiKey, key).await?;
    let changes = json!({"secret": "rotated", "grace_seconds": grace_seconds});
    cx.record(Event::ApiKeyUpdated, key, project, json!({"id": key, "changes_requested": changes}));
    Ok(ShownOnce(new.text))
}

/// Ends the grace of the secret before.
pub(crate) async fn end_previous(cx: &mut Cx, key: KeyId, project: Option<ProjectId>) -> Result<()> {
    wipe_previous(cx, key).await?;
    cx.changed(Entity::ApiKey, key).await?;
    let changes = json!({"secret": "previous_ended"});
    cx.record(Event::ApiKeyUpdated, key, project, json!({"id": key, "changes_requested": changes}));
    Ok(())
}

async fn wipe_previous(cx: &mut Cx, key: KeyId) -> Result<()> {
    let sql = "UPDATE api_key_secret SET verifier = NULL WHERE api_key_id = $1 AND replaced_at IS NOT NULL";
    cx.tx.execute(sql, &params![key]).await?;
    Ok(())
}

/// There is no secret before that could be ended.
pub(crate) fn no_previous() -> Error {
    Error::not_found("previous secret")
}
