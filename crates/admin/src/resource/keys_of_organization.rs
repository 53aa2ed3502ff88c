//! All project keys of an organization, and which of them no hard limit holds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::page::{self, Page};
use tollgate_core::{Error, KeyId, Permission, Principal, ProjectId, Result, ServiceAccountId, Timestamp};
use tollgate_store::{FromRow, Row, Sql, ToValue, Value, params};

use crate::arguments::Order;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::search::{Searched, and_has};

pub(crate) fn operations() -> Operations {
    Operations::new()
        .get(
            "/tollgate/v1/api_keys",
            "list-organization-api-keys",
            Needs(Permission::ProjectApiKeysRead),
            list,
        )
        .reading_long()
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Key {
    object: &'static str,
    id: KeyId,
    name: String,
    redacted_value: String,
    project_id: ProjectId,
    project_name: String,
    /// The user or service account that owns it.
    user_id: Principal,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    #[serde(skip)]
    rests_since: Timestamp,
    /// Whether some limit that enforces counts what it spends: its own, its owner's, its project's or the organization's.
    has_spend_limit: bool,
}

impl FromRow for Key {
    fn from_row(row: &Row) -> Result<Self> {
        let owner = match (row.get("user_id")?, row.get("service_account_id")?) {
            (Some(user), _) => Principal::User(user),
            (None, Some(account)) => Principal::ServiceAccount(account),
            (None, None) => return Err(Error::internal("an API key without an owner")),
        };
        Ok(Self {
            object: "tollgate.api_key",
            id: row.get("id")?,
            name: row.get("name")?,
            redacted_value: row.get("redacted_value")?,
            project_id: row.get("project_id")?,
            project_name: row.get("project_name")?,
            user_id: owner,
            created_at: row.get("created_at")?,
            expires_at: row.get("expires_at")?,
            last_used_at: row.get("last_used_at")?,
            revoked_at: row.get("revoked_at")?,
            rests_since: row.get("rests_since")?,
            has_spend_limit: row.get("has_spend_limit")?,
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListKeys {
    after: Option<String>,
    limit: Option<i64>,
    has_spend_limit: Option<bool>,
    /// Only these.
    #[serde(default)]
    ids: Vec<String>,
    /// What is in their names, in capitals or not.
    name: Option<String>,
    project_id: Option<String>,
    /// The user or service account that owns them.
    user_id: Option<String>,
    #[serde(default)]
    status: Status,
    /// Whether they have an end at all.
    expires: Option<bool>,
    /// Those that end before this unix time, and those that end first come first. `last_id` is then no id, and goes on after it.
    expires_before: Option<i64>,
    /// Those that were made before this unix time and not used since; those that have rested longest come first, by days.
    unused_since: Option<i64>,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// They can be used.
    #[default]
    Active,
    /// Their owner has no access to the project.
    Inactive,
    Frozen,
    Expired,
    /// They were ended for good.
    Revoked,
    /// All that ever were, also those of archived projects.
    Any,
}

const LIMITED: &str = "EXISTS (SELECT 1 FROM spend_limit l
        WHERE l.organization_id = k.organization_id AND l.mode = 'enforce' AND (
            l.scope = 'organization' OR (l.scope = 'project' AND l.scope_id = k.project_id)
            OR (l.scope = 'user' AND l.scope_id = k.user_id) OR (l.scope = 'api_key' AND l.scope_id = k.id)))";

/// What a list is ordered by.
#[derive(Clone, Copy)]
enum By {
    Made,
    End,
    Rest,
}

impl By {
    /// The condition of what comes after a place, its value being `$6` and its key `$2`, and the order.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Made => (" AND k.id > $2 AND $6 = 0", " ORDER BY k.id LIMIT $5"),
            Self::End => (" AND (k.expires_at, k.id) > ($6, $2)", " ORDER BY k.expires_at, k.id LIMIT $5"),
            Self::Rest => (" AND (k.rests_since, k.id) > ($6, $2)", " ORDER BY k.rests_since, k.id LIMIT $5"),
        }
    }

    /// Where a page ends: what the list is ordered by may change meanwhile, and so stands in it.
    fn place(self, key: &Key) -> String {
        match self {
            Self::Made => key.id.to_string(),
            Self::End => format!("{}.{}", key.expires_at.map_or(0, |at| at.0), key.id),
            Self::Rest => format!("{}.{}", key.rests_since.0, key.id),
        }
    }

    /// The value and the key of a place.
    fn read(self, after: Option<&str>) -> Result<(i64, Option<KeyId>)> {
        let Some(text) = after.filter(|_| !matches!(self, Self::Made)) else {
            return Ok((0, page::cursor("after", after)?));
        };
        let wrong = || {
            Error::invalid("after", format!("Invalid 'after': '{text}' is not the `last_id` of such a list."))
        };
        let (value, key) = text.split_once('.').ok_or_else(wrong)?;
        Ok((value.parse().map_err(|_| wrong())?, Some(KeyId::parse(key).ok_or_else(wrong)?)))
    }
}

/// Keys of what is not archived, in the order they were made unless they are looked for by a time.
async fn list(cx: &mut Cx, input: ListKeys) -> Result<Page<Key>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let by = match (input.expires_before, input.unused_since) {
        (Some(_), _) => By::End,
        (None, Some(_)) => By::Rest,
        (None, None) => By::Made,
    };
    let (beyond, order) = by.words();
    let (value, after) = by.read(input.after.as_deref())?;
    let mut sql = Sql::from("SELECT k.*, p.name AS project_name, ").push(LIMITED).push(
        " AS has_spend_limit FROM api_key k JOIN project p ON p.id = k.project_id
         WHERE k.organization_id = $1",
    );
    sql = sql.push(beyond).push(match input.status {
        Status::Any => "",
        Status::Revoked => " AND k.revoked_at IS NOT NULL",
        _ => " AND k.revoked_at IS NULL AND p.archived_at IS NULL",
    });
    let mut values =
        params![cx.organization(), Order::Asc.beyond(after), true, cx.now, limit + 1, value].to_vec();
    sql = sql.push(match input.status {
        Status::Active => {
            " AND k.is_active = $3 AND k.frozen_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $4)"
        }
        Status::Inactive => " AND k.is_active <> $3 AND (k.expires_at IS NULL OR k.expires_at > $4)",
        Status::Frozen => {
            " AND k.frozen_at IS NOT NULL AND $3 AND (k.expires_at IS NULL OR k.expires_at > $4)"
        }
        Status::Expired => " AND $3 AND k.expires_at <= $4",
        Status::Revoked | Status::Any => " AND $3 AND k.created_at <= $4",
    });
    sql = match input.expires {
        None => sql,
        Some(true) => sql.push(" AND k.expires_at IS NOT NULL"),
        Some(false) => sql.push(" AND k.expires_at IS NULL"),
    };
    sql = match input.has_spend_limit {
        None => sql,
        Some(true) => sql.push(" AND ").push(LIMITED),
        Some(false) => sql.push(" AND NOT ").push(LIMITED),
    };
    let mut and = |sql: Sql, condition: &'static str, value: Option<Value>, end: &'static str| match value {
        Some(value) => {
            values.push(value);
            sql.push(condition).push_param(values.len()).push(end)
        }
        None => sql,
    };
    sql = and(sql, " AND k.project_id = ", input.project_id.map(|id| id.to_value()), "");
    let is_account = input.user_id.as_deref().is_some_and(|id| ServiceAccountId::parse(id).is_some());
    let owner = if is_account { " AND k.service_account_id = " } else { " AND k.user_id = " };
    sql = and(sql, owner, input.user_id.map(|id| id.to_value()), "");
    sql = and(sql, " AND k.expires_at < ", input.expires_before.map(|at| at.to_value()), "");
    // Nothing is used before it is made.
    let unused = input.unused_since.map(|at| at.to_value());
    sql = and(sql, " AND k.rests_since <= ", unused.clone(), "");
    sql = and(sql, " AND COALESCE(k.last_used_at, k.created_at) < ", unused, "");
    if !input.ids.is_empty() {
        sql = sql.push(" AND k.id IN ").push_list(&mut values, input.ids.iter().map(ToValue::to_value));
    }
    if let Some(name) = &input.name {
        sql = and_has(sql, &mut values, &Searched { lower: "LOWER(k.name)", plain: "k.name" }, name);
    }
    let rows = cx.tx.all(sql.push(order), &values).await?;
    Ok(Page::new(rows, limit, |key: &Key| by.place(key)))
}
