//! Service accounts: owners of keys that are nobody's in person.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::id::{Principal, kind};
use tollgate_core::key::KeyKind;
use tollgate_core::labels::{Labels, LabelsSaid};
use tollgate_core::page::{self, Page};
use tollgate_core::patch::Patch;
use tollgate_core::secret::ShownOnce;
use tollgate_core::{Error, KeyId, Permission, ProjectId, Result, Scopes, ServiceAccountId, Timestamp};
use tollgate_store::{Entity, FromRow, Row, params};

use crate::access;
use crate::arguments::{self, Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::{Deleted, NewKeyRow, api_keys, key_policy, labels, projects};

pub(crate) fn operations() -> Operations {
    use Permission::{ServiceAccountsRead, ServiceAccountsWrite};
    const ALL: &str = "/v1/organization/projects/{project_id}/service_accounts";
    const ONE: &str = "/v1/organization/projects/{project_id}/service_accounts/{service_account_id}";
    const KEYS: &str =
        "/v1/organization/projects/{project_id}/service_accounts/{service_account_id}/api_keys";
    Operations::new()
        .get(ALL, "list-project-service-accounts", Needs(ServiceAccountsRead), list)
        .post(
            ALL,
            "create-project-service-account",
            Needs(ServiceAccountsWrite),
            Event::ServiceAccountCreated,
            create,
        )
        .get(ONE, "retrieve-project-service-account", Needs(ServiceAccountsRead), retrieve)
        .post(
            ONE,
            "modify-project-service-account",
            Needs(ServiceAccountsWrite),
            Event::ServiceAccountUpdated,
            update,
        )
        .delete(
            ONE,
            "delete-project-service-account",
            Needs(ServiceAccountsWrite),
            Event::ServiceAccountDeleted,
            delete,
        )
        .post(
            KEYS,
            "create-project-service-account-api-key",
            Needs(Permission::ProjectApiKeysWrite),
            Event::ApiKeyCreated,
            create_key,
        )
}

/// What a key is called whose maker gives it no name, as on OpenAI's wire.
const KEY_NAME: &str = "Secret Key";

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ServiceAccount {
    object: &'static str,
    id: ServiceAccountId,
    name: String,
    role: String,
    created_at: Timestamp,
    /// Extension: of all that is done with its keys. They go before those of the project.
    labels: Labels,
}

impl FromRow for ServiceAccount {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            object: "organization.project.service_account",
            id: row.get("id")?,
            name: row.get("name")?,
            role: row.get("role")?,
            created_at: row.get("created_at")?,
            labels: labels::read(row)?,
        })
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct ServiceAccountKey {
    object: &'static str,
    id: KeyId,
    name: String,
    value: ShownOnce,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    scopes: Scopes,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListAccounts {
    project_id: PathId<kind::Project>,
    after: Option<String>,
    limit: Option<i64>,
}

async fn list(cx: &mut Cx, input: ListAccounts) -> Result<Page<ServiceAccount>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<ServiceAccountId> = page::cursor("after", input.after.as_deref())?;
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let rows = cx
        .tx
        .all(
            "SELECT * FROM service_account
             WHERE project_id = $1 AND deleted_at IS NULL AND id > $2 ORDER BY id LIMIT $3",
            &params![project, Order::Asc.beyond(after), limit + 1],
        )
        .await?;
    Ok(Page::new(rows, limit, |account: &ServiceAccount| account.id.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateAccount {
    project_id: PathId<kind::Project>,
    name: String,
    create_service_account_only: Option<bool>,
    expires_in_seconds: Option<i64>,
    #[serde(default)]
    labels: Patch<LabelsSaid>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct CreatedAccount {
    #[serde(flatten)]
    account: ServiceAccount,
    api_key: Option<ServiceAccountKey>,
}

/// With a key and the role `member`, or, if only the account is wished, with neither.
async fn create(cx: &mut Cx, input: CreateAccount) -> Result<CreatedAccount> {
    let name = arguments::name("name", &input.name)?;
    let labels = labels::checked(&input.labels)?.unwrap_or_default();
    let is_alone = input.create_service_account_only.unwrap_or(false);
    if is_alone && input.expires_in_seconds.is_some() {
        let message = "'expires_in_seconds' is for the key, and 'create_service_account_only' asks for none.";
        return Err(Error::invalid("expires_in_seconds", message));
    }
    let expires_at = if is_alone { None } else { key_policy::expiry(cx, input.expires_in_seconds).await? };
    if !is_alone {
        // Its key may do what a member may.
        api_keys::granted_scopes(cx, &[], KeyKind::ServiceAccount)?;
    }
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let id: ServiceAccountId = cx.id();
    let role = if is_alone { "none" } else { "member" };
    cx.tx
        .execute(
            "INSERT INTO service_account (id, project_id, name, role, created_at, labels)
             VALUES ($1, $2, $3, $4, $5, $6)",
            &params![id, project, name, role, cx.now, labels::to_stored(&labels)],
        )
        .await?;
    let mut data = json!({"role": role, "name": name});
    if !labels.is_empty() {
        labels::tell(&mut data, "labels", Some(&labels));
        cx.changed(Entity::Project, project).await?;
    }
    cx.record(Event::ServiceAccountCreated, id, Some(project), json!({"id": id, "data": data}));
    let api_key = if is_alone {
        None
    } else {
        Some(new_key(cx, project, id, KEY_NAME.to_owned(), Scopes::UNRESTRICTED, expires_at).await?)
    };
    Ok(CreatedAccount { account: find(cx, project, id).await?, api_key })
}

async fn new_key(
    cx: &mut Cx,
    project: ProjectId,
    account: ServiceAccountId,
    name: String,
    scopes: Scopes,
    expires_at: Option<Timestamp>,
) -> Result<ServiceAccountKey> {
    let new = NewKeyRow {
        kind: KeyKind::ServiceAccount,
        organization: cx.organization(),
        project: Some(project),
        owner: Principal::ServiceAccount(account),
        name,
        scopes,
        restricted_to: None,
        expires_at,
        created_by: Some(cx.actor.owner),
        labels: Labels::default(),
    };
    let (id, value) = api_keys::insert(cx, &new).await?;
    Ok(ServiceAccountKey {
        object: "organization.project.service_account.api_key",
        id,
        name: new.name,
        value,
        created_at: cx.now,
        expires_at,
        scopes,
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneAccount {
    project_id: PathId<kind::Project>,
    service_account_id: PathId<kind::ServiceAccount>,
}

async fn retrieve(cx: &mut Cx, input: OneAccount) -> Result<ServiceAccount> {
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    find(cx, project, input.service_account_id.id()?).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateAccount {
    project_id: PathId<kind::Project>,
    service_account_id: PathId<kind::ServiceAccount>,
    name: Option<String>,
    role: Option<String>,
    /// All of its own, in place of those that were set.
    #[serde(default)]
    labels: Patch<LabelsSaid>,
}

async fn update(cx: &mut Cx, input: UpdateAccount) -> Result<ServiceAccount> {
    let name = input.name.as_deref().map(|name| arguments::name("name", name)).transpose()?;
    if let Some(role) = input.role.as_deref().filter(|role| !matches!(*role, "member" | "owner")) {
        let message = format!("Invalid 'role': expected 'member' or 'owner', but got '{role}'.");
        return Err(Error::invalid("role", message));
    }
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let account = find(cx, project, input.service_account_id.id()?).await?;
    let labels = labels::checked(&input.labels)?;
    if name.is_none() && input.role.is_none() && labels.is_none() {
        cx.unchanged();
        return Ok(account);
    }
    cx.tx
        .execute(
            "UPDATE service_account SET name = COALESCE($1, name), role = COALESCE($2, role), labels = $3 WHERE id = $4",
            &params![
                name,
                input.role,
                labels::to_stored(labels.as_ref().unwrap_or(&account.labels)),
                account.id
            ],
        )
        .await?;
    if input.role.is_some() {
        api_keys::granted_scopes(cx, &[], KeyKind::ServiceAccount)?;
    }
    // What its keys may do follows from its role.
    for (key, ..) in keys(cx, account.id).await? {
        cx.changed(Entity::ApiKey, key).await?;
    }
    let mut changes = json!({"role": input.role, "name": name});
    if let Some(labels) = &labels {
        labels::tell(&mut changes, "labels", Some(labels));
        cx.changed(Entity::Project, project).await?;
    }
    let payload = json!({"id": account.id, "changes_requested": changes});
    cx.record(Event::ServiceAccountUpdated, account.id, Some(project), payload);
    find(cx, project, account.id).await
}

/// Ends its keys with it.
async fn delete(cx: &mut Cx, input: OneAccount) -> Result<Deleted<ServiceAccountId>> {
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let account = find(cx, project, input.service_account_id.id()?).await?.id;
    end_keys(cx, account).await?;
    cx.tx
        .execute("UPDATE service_account SET deleted_at = $1 WHERE id = $2", &params![cx.now, account])
        .await?;
    cx.record(Event::ServiceAccountDeleted, account, Some(project), json!({"id": account}));
    Ok(Deleted::new("organization.project.service_account.deleted", account))
}

async fn end_keys(cx: &mut Cx, account: ServiceAccountId) -> Result<()> {
    for (key, project, scopes) in keys(cx, account).await? {
        if project.is_none() {
            access::refuse_machine_beyond_own(cx, scopes).await?;
        }
        api_keys::revoke(cx, key, project).await?;
    }
    Ok(())
}

/// Ends the admin keys of the service accounts of a project, which is archived: its other keys end with itself.
pub(crate) async fn end_admin_keys(cx: &mut Cx, project: ProjectId) -> Result<()> {
    let sql = "SELECT k.id, k.scopes FROM service_account a JOIN api_key k ON k.service_account_id = a.id
        WHERE a.project_id = $1 AND k.project_id IS NULL AND k.revoked_at IS NULL";
    let rows: Vec<Row> = cx.tx.all(sql, &params![project]).await?;
    for row in rows {
        access::refuse_machine_beyond_own(cx, Scopes::from_stored(&row.at::<String>(1)?)).await?;
        api_keys::revoke(cx, row.at(0)?, None).await?;
    }
    Ok(())
}

async fn keys(cx: &mut Cx, account: ServiceAccountId) -> Result<Vec<(KeyId, Option<ProjectId>, Scopes)>> {
    let rows: Vec<Row> = cx
        .tx
        .all(
            "SELECT id, project_id, scopes FROM api_key WHERE service_account_id = $1 AND revoked_at IS NULL",
            &params![account],
        )
        .await?;
    rows.iter().map(|row| Ok((row.at(0)?, row.at(1)?, Scopes::from_stored(&row.at::<String>(2)?)))).collect()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateAccountKey {
    project_id: PathId<kind::Project>,
    service_account_id: PathId<kind::ServiceAccount>,
    name: Option<String>,
    #[serde(default)]
    scopes: Option<Vec<String>>,
    expires_in_seconds: Option<i64>,
}

async fn create_key(cx: &mut Cx, input: CreateAccountKey) -> Result<ServiceAccountKey> {
    let name = arguments::name("name", input.name.as_deref().unwrap_or(KEY_NAME))?;
    let expires_at = key_policy::expiry(cx, input.expires_in_seconds).await?;
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let account = find(cx, project, input.service_account_id.id()?).await?.id;
    let wished = input.scopes.unwrap_or_default();
    let scopes = api_keys::granted_scopes(cx, &wished, KeyKind::ServiceAccount)?;
    new_key(cx, project, account, name, scopes, expires_at).await
}

/// The account, if it is one of the project and was not deleted.
pub(crate) async fn find(cx: &mut Cx, project: ProjectId, id: ServiceAccountId) -> Result<ServiceAccount> {
    let found = cx
        .tx
        .optional(
            "SELECT * FROM service_account WHERE id = $1 AND project_id = $2 AND deleted_at IS NULL",
            &params![id, project],
        )
        .await?;
    found.ok_or_else(|| Error::not_found("service account"))
}
