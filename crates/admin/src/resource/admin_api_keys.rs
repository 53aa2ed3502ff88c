//! Admin API keys: they open the administration of an organization, and never a model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::id::{Principal, kind};
use tollgate_core::key::KeyKind;
use tollgate_core::page::{self, Page};
use tollgate_core::secret::ShownOnce;
use tollgate_core::{Error, KeyId, Permission, ProjectId, Result, Scopes, ServiceAccountId, Timestamp};
use tollgate_replica::read_projects;
use tollgate_store::{FromRow, Row, Sql, params};

use crate::access;
use crate::arguments::{self, Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::secrets::{self, PreviousSecret, Secrets};
use crate::resource::{Deleted, NewKeyRow, api_keys, freezes, key_policy, projects};

pub(crate) fn operations() -> Operations {
    use Permission::{AdminApiKeysRead, AdminApiKeysWrite};
    const ALL: &str = "/v1/organization/admin_api_keys";
    const ONE: &str = "/v1/organization/admin_api_keys/{key_id}";
    Operations::new()
        .get(ALL, "admin-api-keys-list", Needs(AdminApiKeysRead), list)
        .post(ALL, "admin-api-keys-create", Needs(AdminApiKeysWrite), Event::ApiKeyCreated, create)
        .get(ONE, "admin-api-keys-get", Needs(AdminApiKeysRead), retrieve)
        .delete(ONE, "admin-api-keys-delete", Needs(AdminApiKeysWrite), Event::ApiKeyDeleted, delete)
        .post(
            "/v1/organization/admin_api_keys/{key_id}/rotate",
            "admin-api-keys-rotate",
            Needs(AdminApiKeysWrite),
            Event::ApiKeyUpdated,
            rotate,
        )
        .delete(
            "/v1/organization/admin_api_keys/{key_id}/previous_secret",
            "admin-api-keys-delete-previous-secret",
            Needs(AdminApiKeysWrite),
            Event::ApiKeyUpdated,
            end_previous_secret,
        )
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
    /// Extension: the projects that it is restricted to; null for none.
    project_ids: Option<Vec<ProjectId>>,
    /// Extension.
    frozen_at: Option<Timestamp>,
    /// Extension: when its secret was last replaced by another.
    rotated_at: Option<Timestamp>,
    /// Extension: the secret it had before, while that can still be used.
    previous_secret: Option<PreviousSecret>,
    #[serde(skip)]
    secrets: Secrets,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AdminKeyOwner")]
struct Owner {
    #[serde(rename = "type")]
    kind: &'static str,
    object: &'static str,
    /// A user's, or as an extension a service account's.
    id: Principal,
    name: String,
    created_at: Timestamp,
    role: Option<String>,
}

const KEYS: &str = "SELECT k.*, ";
const OWNERS: &str = "COALESCE(u.name, a.name) AS owner_name,
        COALESCE(u.created_at, a.created_at) AS owner_created_at, a.role AS account_role,
        CASE WHEN o.user_id IS NOT NULL THEN ";
const OF_ORGANIZATION: &str = " END AS user_role
    FROM api_key k";
const OF_OWNERS: &str = "LEFT JOIN app_user u ON u.id = k.user_id
        LEFT JOIN service_account a ON a.id = k.service_account_id
        LEFT JOIN organization_user o ON o.organization_id = k.organization_id AND o.user_id = k.user_id
    WHERE k.organization_id = $1 AND k.project_id IS NULL AND k.revoked_at IS NULL";

fn keys() -> Sql {
    let sql = Sql::from(KEYS).push(secrets::COLUMNS).push(OWNERS).push(access::ORGANIZATION_ROLE);
    sql.push(OF_ORGANIZATION).push(secrets::JOINS).push(OF_OWNERS)
}

impl FromRow for AdminKey {
    fn from_row(row: &Row) -> Result<Self> {
        let owner = match (row.get("user_id")?, row.get("service_account_id")?) {
            (Some(user), _) => Owner {
                kind: "user",
                object: "organization.user",
                id: Principal::User(user),
                name: row.get("owner_name")?,
                created_at: row.get("owner_created_at")?,
                role: row.get("user_role")?,
            },
            (None, Some(account)) => Owner {
                kind: "service_account",
                object: "organization.service_account",
                id: Principal::ServiceAccount(account),
                name: row.get("owner_name")?,
                created_at: row.get("owner_created_at")?,
                role: row.get("account_role")?,
            },
            (None, None) => return Err(Error::internal("an admin key without an owner")),
        };
        let restricted_to: Option<String> = row.get("restricted_to")?;
        let secrets = Secrets::read(row)?;
        Ok(Self {
            object: "organization.admin_api_key",
            id: row.get("id")?,
            name: row.get("name")?,
            redacted_value: row.get("redacted_value")?,
            created_at: row.get("created_at")?,
            last_used_at: row.get("last_used_at")?,
            expires_at: row.get("expires_at")?,
            owner,
            scopes: Scopes::from_stored(&row.get::<String>("scopes")?),
            project_ids: restricted_to.map(|text| read_projects(&text).to_vec()),
            frozen_at: row.get("frozen_at")?,
            rotated_at: secrets.rotated_at,
            previous_secret: None,
            secrets,
        })
    }
}

impl AdminKey {
    fn seen_by(mut self, cx: &Cx) -> Self {
        self.last_used_at = self.last_used_at.max(self.secrets.last_used_at(cx));
        self.previous_secret = self.secrets.previous(cx);
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
    /// Extension: the service account that owns it, instead of who asks. What it may is what the scopes say, which are
    /// needed then.
    service_account_id: Option<String>,
    /// Extension: the projects it is restricted to. It can do what is about one of them by its path, and nothing else.
    project_ids: Option<Vec<String>>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct CreatedAdminKey {
    #[serde(flatten)]
    key: AdminKey,
    value: ShownOnce,
}

/// The new key has the owner of the one that makes it, or a service account; at most its scopes; and does not outlive it.
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
    let owner = match &input.service_account_id {
        Some(account) => machine(cx, account, input.scopes.is_some(), scopes).await?,
        None => cx.actor.owner,
    };
    let is_operators =
        input.scopes.is_some() && !scopes.is_unrestricted() && scopes.allows(Permission::Operator);
    if is_operators && input.project_ids.is_some() {
        let message =
            "A key that is restricted to projects operates nothing: leave the scope out, or 'project_ids'.";
        return Err(Error::unsupported("scopes", message));
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
        owner,
        name,
        scopes,
        restricted_to: restricted_to(cx, input.project_ids.as_deref()).await?,
        expires_at,
        created_by: Some(cx.actor.owner),
        labels: tollgate_core::labels::Labels::default(),
    };
    let (id, value) = api_keys::insert(cx, &new).await?;
    Ok(CreatedAdminKey { key: find(cx, id).await?, value })
}

/// The service account that is to own a key, which may all that the maker may and the scopes say, and no more.
async fn machine(cx: &mut Cx, account: &str, are_given: bool, scopes: Scopes) -> Result<Principal> {
    let unknown =
        || Error::invalid("service_account_id", "There is no such service account in the organization.");
    let id = ServiceAccountId::parse(account).ok_or_else(unknown)?;
    let sql = "SELECT a.id FROM service_account a JOIN project p ON p.id = a.project_id
        WHERE a.id = $1 AND p.organization_id = $2 AND a.deleted_at IS NULL AND p.archived_at IS NULL";
    let found: Option<Row> = cx.tx.optional(sql, &params![id, cx.organization()]).await?;
    found.ok_or_else(unknown)?;
    if cx.actor.owner.user().is_none() && cx.actor.owner != Principal::ServiceAccount(id) {
        // It would outlive the account that made it.
        let message = "A service account makes admin keys of its own only.";
        return Err(Error::new(tollgate_core::Kind::Forbidden, message).param("service_account_id"));
    }
    if !are_given || scopes.is_unrestricted() {
        let message =
            "A service account has no role in the organization: say by 'scopes' what its key may do.";
        return Err(Error::invalid("scopes", message).code("missing_required_parameter"));
    }
    if scopes.allows(Permission::Operator) {
        let message = "Operators are people: this scope would give a service account nothing.";
        return Err(Error::unsupported("scopes", message));
    }
    access::refuse_machine_beyond_own(cx, scopes).await?;
    Ok(Principal::ServiceAccount(id))
}

/// More are for an unrestricted key.
const PROJECTS_MAX: usize = 100;

async fn restricted_to(cx: &mut Cx, wished: Option<&[String]>) -> Result<Option<Vec<ProjectId>>> {
    let Some(wished) = wished else { return Ok(None) };
    if wished.is_empty() || wished.len() > PROJECTS_MAX {
        let message =
            format!("Invalid 'project_ids': expected 1 to {PROJECTS_MAX} projects; leave it out for all.");
        return Err(Error::invalid("project_ids", message));
    }
    let mut projects = Vec::with_capacity(wished.len());
    for (position, text) in wished.iter().enumerate() {
        let unknown = || {
            Error::invalid(
                format!("project_ids[{position}]"),
                "There is no such project in the organization.",
            )
        };
        let id = ProjectId::parse(text).ok_or_else(unknown)?;
        match projects::find(cx, id).await {
            Ok(project) => projects.push(project.id),
            Err(error) if error.is_not_found() => return Err(unknown()),
            Err(error) => return Err(error),
        }
    }
    projects.sort_unstable();
    projects.dedup();
    Ok(Some(projects))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneAdminKey {
    key_id: PathId<kind::Key>,
}

async fn retrieve(cx: &mut Cx, input: OneAdminKey) -> Result<AdminKey> {
    find(cx, input.key_id.id()?).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateAdminKey {
    key_id: PathId<kind::Key>,
    /// For so long the secret before can be used as well; at most 30 days.
    grace_seconds: Option<i64>,
}

/// Whoever rotates an admin key gets to know a secret of it, and so must be able to make it: it is their own, or that of a
/// machine that may no more than they; it has at most their scopes, and does not outlive the key that rotates it.
async fn rotate(cx: &mut Cx, input: RotateAdminKey) -> Result<CreatedAdminKey> {
    let grace = secrets::grace(input.grace_seconds)?;
    let key = find(cx, input.key_id.id()?).await?;
    if key.expires_at.is_some_and(|at| at <= cx.now) {
        let message = "The key has expired. An expired key cannot be rotated; create another.";
        return Err(Error::bad_request(message).code("api_key_expired"));
    }
    let forbidden = |message: &str| Err(Error::new(tollgate_core::Kind::Forbidden, message));
    match key.owner.id {
        owner if owner == cx.actor.owner => {}
        Principal::User(_) => {
            return forbidden("An admin key acts for its owner, and only its owner can rotate it.");
        }
        Principal::ServiceAccount(_) if cx.actor.owner.user().is_none() => {
            return forbidden("A service account rotates admin keys of its own only.");
        }
        Principal::ServiceAccount(_) => access::refuse_machine_beyond_own(cx, key.scopes).await?,
    }
    if !key.scopes.within(cx.actor.scopes) {
        return forbidden("A key can rotate only keys whose scopes it has itself.");
    }
    // By the secret that was made last a key ends with itself; by the one before it, sooner: what has an end already must not
    // get another that has none.
    if cx.actor.expires_at.is_some_and(|own| key.expires_at.is_none_or(|at| at > own)) {
        return forbidden("A key, or a secret of it, cannot rotate one that outlives it.");
    }
    let value = secrets::rotate(cx, key.id, KeyKind::Admin, None, grace).await?;
    Ok(CreatedAdminKey { key: find(cx, key.id).await?, value })
}

async fn end_previous_secret(cx: &mut Cx, input: OneAdminKey) -> Result<AdminKey> {
    let key = find(cx, input.key_id.id()?).await?;
    key.previous_secret.as_ref().ok_or_else(secrets::no_previous)?;
    refuse_ending(cx, &key).await?;
    secrets::end_previous(cx, key.id, None).await?;
    find(cx, key.id).await
}

/// Nobody ends a key of somebody who may more than they.
async fn refuse_ending(cx: &mut Cx, key: &AdminKey) -> Result<()> {
    match key.owner.id {
        Principal::User(user) => freezes::refuse_of_stronger(cx, Some(user)).await?,
        owner @ Principal::ServiceAccount(_) if owner != cx.actor.owner => {
            access::refuse_machine_beyond_own(cx, key.scopes).await?;
        }
        Principal::ServiceAccount(_) => {}
    }
    Ok(())
}

async fn delete(cx: &mut Cx, input: OneAdminKey) -> Result<Deleted<KeyId>> {
    let key = find(cx, input.key_id.id()?).await?;
    refuse_ending(cx, &key).await?;
    let key = key.id;
    api_keys::revoke(cx, key, None).await?;
    Ok(Deleted::new("organization.admin_api_key.deleted", key))
}

async fn find(cx: &mut Cx, id: KeyId) -> Result<AdminKey> {
    let sql = keys().push(" AND k.id = $2");
    let found: Option<AdminKey> = cx.tx.optional(sql, &params![cx.organization(), id]).await?;
    found.map(|key| key.seen_by(cx)).ok_or_else(|| Error::not_found("API key"))
}
