//! API keys of a project: OpenAI's four operations, and the one people ask it for: creating a key by POST.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::budget::Scope;
use tollgate_core::id::{Principal, kind};
use tollgate_core::key::KeyKind;
use tollgate_core::labels::{Labels, LabelsSaid};
use tollgate_core::page::{self, Page};
use tollgate_core::patch::Patch;
use tollgate_core::secret::ShownOnce;
use tollgate_core::{
    Error, KeyId, Permission, ProjectId, Result, Scopes, ServiceAccountId, Timestamp, UserId,
};
use tollgate_store::{Entity, FromRow, Row, Sql, params};

use crate::access;
use crate::arguments::{self, Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::secrets::{self, PreviousSecret, Secrets};
use crate::resource::{Deleted, NewKeyRow, key_policy, labels, projects, service_accounts, spend_defaults};

pub(crate) fn operations() -> Operations {
    use Permission::{ProjectApiKeysRead, ProjectApiKeysWrite};
    const ALL: &str = "/v1/organization/projects/{project_id}/api_keys";
    const ONE: &str = "/v1/organization/projects/{project_id}/api_keys/{api_key_id}";
    Operations::new()
        .get(ALL, "list-project-api-keys", Needs(ProjectApiKeysRead), list)
        .post(ALL, "create-project-api-key", Needs(ProjectApiKeysWrite), Event::ApiKeyCreated, create)
        .get(ONE, "retrieve-project-api-key", Needs(ProjectApiKeysRead), retrieve)
        .post(ONE, "modify-project-api-key", Needs(ProjectApiKeysWrite), Event::ApiKeyUpdated, update)
        .delete(ONE, "delete-project-api-key", Needs(ProjectApiKeysWrite), Event::ApiKeyDeleted, delete)
        .post(
            "/v1/organization/projects/{project_id}/api_keys/{api_key_id}/rotate",
            "rotate-project-api-key",
            Needs(ProjectApiKeysWrite),
            Event::ApiKeyUpdated,
            rotate,
        )
        .delete(
            "/v1/organization/projects/{project_id}/api_keys/{api_key_id}/previous_secret",
            "delete-project-api-key-previous-secret",
            Needs(ProjectApiKeysWrite),
            Event::ApiKeyUpdated,
            end_previous_secret,
        )
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ApiKey {
    object: &'static str,
    pub(crate) id: KeyId,
    name: String,
    redacted_value: String,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    owner: Owner,
    owner_project_access: &'static str,
    /// Extension: OpenAI takes scopes and never shows them.
    scopes: Scopes,
    /// Extension.
    frozen_at: Option<Timestamp>,
    /// Extension: its own, which go before those of its project and of the service account that owns it.
    labels: Labels,
    /// Extension: when its secret was last replaced by another.
    rotated_at: Option<Timestamp>,
    /// Extension: the secret it had before, while that can still be used.
    previous_secret: Option<PreviousSecret>,
    #[serde(skip)]
    secrets: Secrets,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Owner {
    User { user: OwnerUser },
    ServiceAccount { service_account: OwnerServiceAccount },
}

#[derive(Debug, Serialize, JsonSchema)]
struct OwnerUser {
    object: &'static str,
    id: UserId,
    name: String,
    email: String,
    role: String,
    created_at: Timestamp,
}

#[derive(Debug, Serialize, JsonSchema)]
struct OwnerServiceAccount {
    object: &'static str,
    id: ServiceAccountId,
    name: String,
    role: String,
    created_at: Timestamp,
}

/// Keys with their owners and the locator of their secret. An owner of the organization owns in every project. COALESCE hides from
/// PostgreSQL that it is one project all over, or it reads all members of it, thinking that they are few.
const KEYS: &str = "SELECT k.*, ";
const OWNERS: &str = "u.name AS user_name, u.email AS user_email, u.created_at AS user_created_at,
        CASE WHEN p.user_id IS NOT NULL THEN ";
const OR_OF_ORGANIZATION: &str = " WHEN EXISTS (SELECT 1 FROM group_user gm
                JOIN project_group pg ON pg.group_id = gm.group_id
                WHERE gm.user_id = k.user_id AND pg.project_id = k.project_id) THEN 'member'
            WHEN o.user_id IS NOT NULL THEN ";
const OF_PROJECT: &str = " ELSE 'none' END AS user_role,
        a.name AS account_name, a.role AS account_role, a.created_at AS account_created_at
    FROM api_key k";
const OF_OWNERS: &str = "LEFT JOIN app_user u ON u.id = k.user_id
        LEFT JOIN project_user p ON p.project_id = COALESCE(k.project_id, '') AND p.user_id = k.user_id
        LEFT JOIN organization_user o ON o.organization_id = k.organization_id AND o.user_id = k.user_id
        LEFT JOIN service_account a ON a.id = k.service_account_id
    WHERE k.project_id = $1 AND k.revoked_at IS NULL";

fn keys() -> Sql {
    let sql = Sql::from(KEYS).push(secrets::COLUMNS).push(OWNERS).push(access::PROJECT_ROLE);
    let sql = sql.push(OR_OF_ORGANIZATION).push(access::ORGANIZATION_ROLE).push(OF_PROJECT);
    sql.push(secrets::JOINS).push(OF_OWNERS)
}

impl FromRow for ApiKey {
    fn from_row(row: &Row) -> Result<Self> {
        let owner = match row.get::<Option<UserId>>("user_id")? {
            Some(id) => Owner::User {
                user: OwnerUser {
                    object: "organization.project.user",
                    id,
                    name: row.get("user_name")?,
                    email: row.get("user_email")?,
                    role: row.get("user_role")?,
                    created_at: row.get("user_created_at")?,
                },
            },
            None => Owner::ServiceAccount {
                service_account: OwnerServiceAccount {
                    object: "organization.project.service_account",
                    id: row.get("service_account_id")?,
                    name: row.get("account_name")?,
                    role: row.get("account_role")?,
                    created_at: row.get("account_created_at")?,
                },
            },
        };
        let secrets = Secrets::read(row)?;
        Ok(Self {
            object: "organization.project.api_key",
            id: row.get("id")?,
            name: row.get("name")?,
            redacted_value: row.get("redacted_value")?,
            created_at: row.get("created_at")?,
            last_used_at: row.get("last_used_at")?,
            expires_at: row.get("expires_at")?,
            owner,
            owner_project_access: if row.get("is_active")? { "active" } else { "inactive" },
            scopes: Scopes::from_stored(&row.get::<String>("scopes")?),
            frozen_at: row.get("frozen_at")?,
            labels: labels::read(row)?,
            rotated_at: secrets.rotated_at,
            previous_secret: None,
            secrets,
        })
    }
}

impl ApiKey {
    /// With its last use as this node has seen it, which is written only now and then.
    fn seen_by(mut self, cx: &Cx) -> Self {
        self.last_used_at = self.last_used_at.max(self.secrets.last_used_at(cx));
        self.previous_secret = self.secrets.previous(cx);
        self
    }

    fn kind(&self) -> KeyKind {
        match self.owner {
            Owner::User { .. } => KeyKind::Project,
            Owner::ServiceAccount { .. } => KeyKind::ServiceAccount,
        }
    }

    fn refuse_expired(&self, cx: &Cx, done: &str) -> Result<()> {
        if self.expires_at.is_none_or(|at| at > cx.now) {
            return Ok(());
        }
        let message = format!("The key has expired. An expired key cannot be {done}; create another.");
        Err(Error::bad_request(message).code("api_key_expired"))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListKeys {
    project_id: PathId<kind::Project>,
    after: Option<String>,
    limit: Option<i64>,
    owner_project_access: Option<Access>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Access {
    Active,
    Inactive,
    Any,
}

/// By default only keys whose owner has access to the project, as OpenAI does.
async fn list(cx: &mut Cx, input: ListKeys) -> Result<Page<ApiKey>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<KeyId> = page::cursor("after", input.after.as_deref())?;
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    let sql = keys().push(" AND k.id > $2").push(match input.owner_project_access {
        None | Some(Access::Active) => " AND k.is_active = $3",
        Some(Access::Inactive) => " AND k.is_active <> $3",
        Some(Access::Any) => " AND $3",
    });
    let rows = cx
        .tx
        .all(
            sql.push(" ORDER BY k.id LIMIT $4"),
            &params![project, Order::Asc.beyond(after), true, limit + 1],
        )
        .await?;
    let rows = rows.into_iter().map(|key: ApiKey| key.seen_by(cx)).collect();
    Ok(Page::new(rows, limit, |key: &ApiKey| key.id.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateKey {
    pub(crate) project_id: PathId<kind::Project>,
    pub(crate) name: String,
    pub(crate) user_id: Option<String>,
    pub(crate) service_account_id: Option<String>,
    #[serde(default)]
    pub(crate) scopes: Vec<String>,
    pub(crate) expires_in_seconds: Option<i64>,
    #[serde(default)]
    pub(crate) labels: Patch<LabelsSaid>,
}

/// A new key with its secret, which is never shown again.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CreatedKey {
    #[serde(flatten)]
    key: ApiKey,
    value: ShownOnce,
}

pub(crate) async fn create(cx: &mut Cx, input: CreateKey) -> Result<CreatedKey> {
    let name = arguments::name("name", &input.name)?;
    let labels = labels::checked(&input.labels)?.unwrap_or_default();
    let expires_at = key_policy::expiry(cx, input.expires_in_seconds).await?;
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let owner = owner(cx, project, input.user_id.as_deref(), input.service_account_id.as_deref()).await?;
    key_policy::check_owner(cx, owner).await?;
    let kind = match owner {
        Principal::User(_) => KeyKind::Project,
        Principal::ServiceAccount(_) => KeyKind::ServiceAccount,
    };
    let scopes = granted_scopes(cx, &input.scopes, kind)?;
    let new = NewKeyRow {
        kind,
        organization: cx.organization(),
        project: Some(project),
        owner,
        name,
        scopes,
        restricted_to: None,
        expires_at,
        created_by: Some(cx.actor.owner),
        labels,
    };
    let (id, value) = insert(cx, &new).await?;
    Ok(CreatedKey { key: find(cx, project, id).await?, value })
}

/// Stores a key of a project and records who made it for whom.
pub(crate) async fn insert(cx: &mut Cx, new: &NewKeyRow) -> Result<(KeyId, ShownOnce)> {
    let (id, value) = new.insert(&mut cx.tx, &cx.desk.clock, &cx.desk.keyring).await?;
    let mut data = json!({
        "scopes": new.scopes, "name": new.name, "owner_id": new.owner, "created_by": new.created_by,
        "expires_at": new.expires_at, "restricted_to": new.restricted_to,
    });
    labels::tell(&mut data, "labels", Some(&new.labels).filter(|labels| !labels.is_empty()));
    cx.record(Event::ApiKeyCreated, id, new.project, json!({"id": id, "data": data}));
    // An admin key calls no model.
    if new.project.is_some() {
        spend_defaults::apply(cx, Scope::Key(id)).await?;
    }
    Ok((id, value))
}

/// Scopes of a new key. Nobody can give what they do not hold.
pub(crate) fn granted_scopes(cx: &Cx, wished: &[String], kind: KeyKind) -> Result<Scopes> {
    let scopes = Scopes::parse(wished, kind)?;
    refuse_scopes_beyond_own(cx, scopes)?;
    Ok(scopes)
}

fn refuse_scopes_beyond_own(cx: &Cx, scopes: Scopes) -> Result<()> {
    let own = cx.actor.permissions;
    let beyond = |permission: &&Permission| scopes.allows(**permission) && !own.allows(**permission);
    let modelling = [Permission::ModelRequest, Permission::ModelRead];
    if let Some(permission) = modelling.iter().find(beyond) {
        return Err(Error::forbidden(permission.as_str()));
    }
    let usage = Permission::UsageRead;
    if scopes.names(usage) && !(own.allows(usage) && cx.actor.scopes.allows(usage)) {
        return Err(Error::forbidden(usage.as_str()));
    }
    Ok(())
}

/// Whose key it is to be: a member of the project or an owner of the organization, or a service account of the project.
async fn owner(
    cx: &mut Cx,
    project: ProjectId,
    user: Option<&str>,
    account: Option<&str>,
) -> Result<Principal> {
    match (user, account) {
        (Some(_), Some(_)) => {
            let message = "A key has one owner: give at most one of 'user_id' and 'service_account_id'.";
            Err(Error::invalid("service_account_id", message))
        }
        (None, Some(account)) => {
            let unknown =
                || Error::invalid("service_account_id", "There is no such service account in the project.");
            let id = ServiceAccountId::parse(account).ok_or_else(unknown)?;
            match service_accounts::find(cx, project, id).await {
                Ok(_) => Ok(Principal::ServiceAccount(id)),
                Err(error) if error.is_not_found() => Err(unknown()),
                Err(error) => Err(error),
            }
        }
        (user, None) => {
            let user = match user {
                Some(user) => UserId::parse(user),
                None if cx.actor.owner.user().is_none() => {
                    let message = "A service account asks: name whose key it is to be by 'user_id' or 'service_account_id'.";
                    return Err(Error::invalid("user_id", message));
                }
                None => Some(cx.actor.user()?),
            };
            let has_access = match user {
                Some(user) => access::has_access(cx, project, user).await?,
                None => false,
            };
            user.filter(|_| has_access).map(Principal::User).ok_or_else(|| {
                Error::invalid(
                    "user_id",
                    "The user must be a member of the project or an owner of the organization.",
                )
            })
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneKey {
    pub(crate) project_id: PathId<kind::Project>,
    pub(crate) api_key_id: PathId<kind::Key>,
}

async fn retrieve(cx: &mut Cx, input: OneKey) -> Result<ApiKey> {
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    find(cx, project, input.api_key_id.id()?).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateKey {
    project_id: PathId<kind::Project>,
    api_key_id: PathId<kind::Key>,
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    expires_in_seconds: Option<i64>,
    /// All of its own, in place of those that were set.
    #[serde(default)]
    labels: Patch<LabelsSaid>,
}

/// A field that may be left out and must not be null.
fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// All fields are stored together. Repeating it counts the time to live anew.
async fn update(cx: &mut Cx, input: UpdateKey) -> Result<ApiKey> {
    let labels = labels::checked(&input.labels)?;
    let name = input.name.as_deref().map(|name| arguments::name("name", name)).transpose()?;
    if name.is_none() && input.scopes.is_none() && input.expires_in_seconds.is_none() && labels.is_none() {
        let message = "Give at least one of 'name', 'scopes', 'expires_in_seconds' and 'labels'.";
        return Err(Error::bad_request(message).code("missing_required_parameter").param("name"));
    }
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let key = find(cx, project, input.api_key_id.id()?).await?;
    key.refuse_expired(cx, "updated")?;
    let scopes = match &input.scopes {
        Some(wished) => granted_scopes(cx, wished, key.kind())?,
        None => key.scopes,
    };
    let expires_at = match input.expires_in_seconds {
        Some(seconds) => key_policy::moved_expiry(cx, seconds, key.created_at).await?,
        None => key.expires_at,
    };
    cx.tx
        .execute(
            "UPDATE api_key SET name = $1, scopes = $2, expires_at = $3, labels = $4 WHERE id = $5",
            &params![
                name.as_ref().unwrap_or(&key.name),
                scopes.to_stored(),
                expires_at,
                labels::to_stored(labels.as_ref().unwrap_or(&key.labels)),
                key.id
            ],
        )
        .await?;
    cx.changed(Entity::ApiKey, key.id).await?;
    let mut changes = json!({});
    if let Some(name) = &name {
        changes["name"] = json!(name);
    }
    if input.scopes.is_some() {
        changes["scopes"] = json!(scopes);
    }
    if let Some(seconds) = input.expires_in_seconds {
        changes["expires_in_seconds"] = json!(seconds);
    }
    labels::tell(&mut changes, "labels", labels.as_ref());
    let payload = json!({"id": key.id, "changes_requested": changes});
    cx.record(Event::ApiKeyUpdated, key.id, Some(project), payload);
    find(cx, project, key.id).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateKey {
    pub(crate) project_id: PathId<kind::Project>,
    pub(crate) api_key_id: PathId<kind::Key>,
    /// For so long the secret before can be used as well; at most 30 days.
    pub(crate) grace_seconds: Option<i64>,
}

/// Whoever rotates a key gets to know a secret of it: they need every scope of it, as if they made it.
pub(crate) async fn rotate(cx: &mut Cx, input: RotateKey) -> Result<CreatedKey> {
    let grace = secrets::grace(input.grace_seconds)?;
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let key = find(cx, project, input.api_key_id.id()?).await?;
    key.refuse_expired(cx, "rotated")?;
    refuse_scopes_beyond_own(cx, key.scopes)?;
    let value = secrets::rotate(cx, key.id, key.kind(), Some(project), grace).await?;
    Ok(CreatedKey { key: find(cx, project, key.id).await?, value })
}

pub(crate) async fn end_previous_secret(cx: &mut Cx, input: OneKey) -> Result<ApiKey> {
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    let key = find(cx, project, input.api_key_id.id()?).await?;
    key.previous_secret.ok_or_else(secrets::no_previous)?;
    secrets::end_previous(cx, key.id, Some(project)).await?;
    find(cx, project, key.id).await
}

async fn delete(cx: &mut Cx, input: OneKey) -> Result<Deleted<KeyId>> {
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    let key = find(cx, project, input.api_key_id.id()?).await?.id;
    revoke(cx, key, Some(project)).await?;
    Ok(Deleted::new("organization.project.api_key.deleted", key))
}

/// Ends a key for good: its verifiers are wiped, so nothing can bring it back.
pub(crate) async fn revoke(cx: &mut Cx, key: KeyId, project: Option<ProjectId>) -> Result<()> {
    cx.tx.execute("UPDATE api_key SET revoked_at = $1 WHERE id = $2", &params![cx.now, key]).await?;
    cx.tx.execute("UPDATE api_key_secret SET verifier = NULL WHERE api_key_id = $1", &params![key]).await?;
    cx.changed(Entity::ApiKey, key).await?;
    cx.record(Event::ApiKeyDeleted, key, project, json!({"id": key}));
    Ok(())
}

pub(crate) async fn find(cx: &mut Cx, project: ProjectId, id: KeyId) -> Result<ApiKey> {
    let found: Option<ApiKey> = cx.tx.optional(keys().push(" AND k.id = $2"), &params![project, id]).await?;
    found.map(|key| key.seen_by(cx)).ok_or_else(|| Error::not_found("API key"))
}
