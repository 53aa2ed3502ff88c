//! Admin API keys: they open the administration of an organization, and never a model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::id::{Principal, kind};
use tollgate_core::key::{KeyKind, Locator};
use tollgate_core::page::{self, Page};
use tollgate_core::secret::ShownOnce;
use tollgate_core::{Error, KeyId, Permission, Result, Scopes, Timestamp, UserId};
use tollgate_store::{FromRow, Row, Sql, params};

use crate::access;
use crate::arguments::{self, Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::{Deleted, NewKeyRow, api_keys, freezes, key_policy};

pub(crate) fn operations() -> Operations {
    use Permission::{AdminApiKeysRead, AdminApiKeysWrite};
    const ALL: &str = "/v1/organization/admin_api_keys";
    const ONE: &str = "/v1/organization/admin_api_keys/{key_id}";
    Operations::new()
        .get(ALL, "admin-api-keys-list", Needs(AdminApiKeysRead), list)
        .post(ALL, "admin-api-keys-create", Needs(AdminApiKeysWrite), Event::ApiKeyCreated, create)
        .get(ONE, "admin-api-keys-get", Needs(AdminApiKeysRead), retrieve)
        .delete(ONE, "admin-api-keys-delete", Needs(AdminApiKeysWrite), Event::ApiKeyDeleted, delete)
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AdminKey {
    object: &'static str,
    id: KeyId,
    name: String,
    redacted_value: String,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    owner: Owner,
    /// Extension.
    scopes: Scopes,
    /// Extension.
    frozen_at: Option<Timestamp>,
    #[serde(skip)]
    locator: Locator,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AdminKeyOwner")]
struct Owner {
    #[serde(rename = "type")]
    kind: &'static str,
    object: &'static str,
    id: UserId,
    name: String,
    created_at: Timestamp,
    role: Option<String>,
}

const KEYS: &str = "SELECT k.*, s.locator, u.name AS user_name, u.created_at AS user_created_at,
        CASE WHEN o.user_id IS NOT NULL THEN ";
const OF_ORGANIZATION: &str = " END AS user_role
    FROM api_key k
        JOIN api_key_secret s ON s.api_key_id = k.id
        JOIN app_user u ON u.id = k.user_id
        LEFT JOIN organization_user o ON o.organization_id = k.organization_id AND o.user_id = k.user_id
    WHERE k.organization_id = $1 AND k.project_id IS NULL AND k.revoked_at IS NULL";

fn keys() -> Sql {
    Sql::from(KEYS).push(access::ORGANIZATION_ROLE).push(OF_ORGANIZATION)
}

impl FromRow for AdminKey {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            object: "organization.admin_api_key",
            id: row.get("id")?,
            name: row.get("name")?,
            redacted_value: row.get("redacted_value")?,
            created_at: row.get("created_at")?,
            last_used_at: row.get("last_used_at")?,
            expires_at: row.get("expires_at")?,
            owner: Owner {
                kind: "user",
                object: "organization.user",
                id: row.get("user_id")?,
                name: row.get("user_name")?,
                created_at: row.get("user_created_at")?,
                role: row.get("user_role")?,
            },
            scopes: Scopes::from_stored(&row.get::<String>("scopes")?),
            frozen_at: row.get("frozen_at")?,
            locator: row.get("locator")?,
        })
    }
}

impl AdminKey {
    fn seen_by(mut self, cx: &Cx) -> Self {
        self.last_used_at = self.last_used_at.max(cx.desk.replica.last_used_at(&self.locator));
        self
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListAdminKeys {
    after: Option<String>,
    limit: Option<i64>,
    #[serde(default)]
    order: Order,
}

async fn list(cx: &mut Cx, input: ListAdminKeys) -> Result<Page<AdminKey>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<KeyId> = page::cursor("after", input.after.as_deref())?;
    let sql = keys().push(match input.order {
        Order::Asc => " AND k.id > $2 ORDER BY k.id ASC LIMIT $3",
        Order::Desc => " AND k.id < $2 ORDER BY k.id DESC LIMIT $3",
    });
    let rows: Vec<AdminKey> =
        cx.tx.all(sql, &params![cx.organization(), input.order.beyond(after), limit + 1]).await?;
    let rows = rows.into_iter().map(|key| key.seen_by(cx)).collect();
    Ok(Page::new(rows, limit, |key: &AdminKey| key.id.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateAdminKey {
    name: String,
    expires_in_seconds: Option<i64>,
    /// Extension: what the key is restricted to. Left out, it can do what the key can that makes it.
    scopes: Option<Vec<String>>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct CreatedAdminKey {
    #[serde(flatten)]
    key: AdminKey,
    value: ShownOnce,
}

/// The new key has the owner of the one that makes it, at most its scopes, and does not outlive it.
async fn create(cx: &mut Cx, input: CreateAdminKey) -> Result<CreatedAdminKey> {
    let name = arguments::name("name", &input.name)?;
    let scopes = match &input.scopes {
        Some(wished) => Scopes::parse(wished, KeyKind::Admin)?,
        None => cx.actor.scopes,
    };
    if !scopes.within(cx.actor.scopes) {
        let message = "A key can give only scopes that it has itself.";
        return Err(Error::new(tollgate_core::Kind::Forbidden, message).param("scopes"));
    }
    let wished = key_policy::expiry(cx, input.expires_in_seconds).await?;
    let expires_at = match (wished, cx.actor.expires_at) {
        // Nobody asked for the organization's default.
        (Some(usual), Some(own)) if input.expires_in_seconds.is_none() => Some(usual.min(own)),
        (Some(wished), Some(own)) if wished > own => {
            let message = format!("A key cannot outlive the one that makes it, which expires at {own}.");
            return Err(Error::invalid("expires_in_seconds", message));
        }
        (wished, own) => wished.or(own),
    };
    let new = NewKeyRow {
        kind: KeyKind::Admin,
        organization: cx.organization(),
        project: None,
        owner: Principal::User(cx.actor.user()?),
        name,
        scopes,
        expires_at,
        created_by: Some(cx.actor.owner),
    };
    let (id, value) = api_keys::insert(cx, &new).await?;
    Ok(CreatedAdminKey { key: find(cx, id).await?, value })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneAdminKey {
    key_id: PathId<kind::Key>,
}

async fn retrieve(cx: &mut Cx, input: OneAdminKey) -> Result<AdminKey> {
    find(cx, input.key_id.id()?).await
}

async fn delete(cx: &mut Cx, input: OneAdminKey) -> Result<Deleted<KeyId>> {
    let key = find(cx, input.key_id.id()?).await?;
    freezes::refuse_of_stronger(cx, Some(key.owner.id)).await?;
    let key = key.id;
    api_keys::revoke(cx, key, None).await?;
    Ok(Deleted::new("organization.admin_api_key.deleted", key))
}

async fn find(cx: &mut Cx, id: KeyId) -> Result<AdminKey> {
    let sql = keys().push(" AND k.id = $2");
    let found: Option<AdminKey> = cx.tx.optional(sql, &params![cx.organization(), id]).await?;
    found.map(|key| key.seen_by(cx)).ok_or_else(|| Error::not_found("API key"))
}
