//! What is a person's own: the projects they are in, and their keys there. It needs no permission in the administration: who may
//! use a project's models may have keys for that, as far as the organization's key policy allows keys of people.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::budget::Scope;
use tollgate_core::id::kind;
use tollgate_core::labels::LabelsSaid;
use tollgate_core::page::{self, Page};
use tollgate_core::patch::Patch;
use tollgate_core::{Error, KeyId, Money, Period, Permission, ProjectId, Result, Scopes, Timestamp};
use tollgate_ledger::spend_limit;
use tollgate_store::{FromRow, Row, Sql, params};

use crate::arguments::{Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Oneself;
use crate::operation::Operations;
use crate::resource::api_keys::{self, ApiKey, CreateKey, CreatedKey, OneKey, RotateKey};
use crate::resource::secrets::{self, PreviousSecret, Secrets};
use crate::resource::{Deleted, key_policy, projects};

pub(crate) fn operations() -> Operations {
    const ALL: &str = "/tollgate/v1/me/api_keys";
    const ONE: &str = "/tollgate/v1/me/api_keys/{api_key_id}";
    Operations::new()
        .get("/tollgate/v1/me/projects", "list-own-projects", Oneself, projects_of_own)
        .get(ALL, "list-own-api-keys", Oneself, list)
        .after_settling()
        .get(ONE, "retrieve-own-api-key", Oneself, retrieve)
        .after_settling()
        .post(ALL, "create-own-api-key", Oneself, Event::ApiKeyCreated, create)
        .delete(ONE, "delete-own-api-key", Oneself, Event::ApiKeyDeleted, delete)
        .post(
            "/tollgate/v1/me/api_keys/{api_key_id}/rotate",
            "rotate-own-api-key",
            Oneself,
            Event::ApiKeyUpdated,
            rotate,
        )
        .delete(
            "/tollgate/v1/me/api_keys/{api_key_id}/previous_secret",
            "delete-own-api-key-previous-secret",
            Oneself,
            Event::ApiKeyUpdated,
            end_previous_secret,
        )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// A project, and what whoever asks may do there.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OwnProject {
    object: &'static str,
    id: ProjectId,
    name: String,
    permissions: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct OwnProjects {
    object: &'static str,
    data: Vec<OwnProject>,
}

async fn projects_of_own(cx: &mut Cx, _: Nothing) -> Result<OwnProjects> {
    let (user, organization) = (cx.actor.user()?, cx.organization());
    let snapshot = cx.desk.replica.snapshot();
    let mut data: Vec<OwnProject> = snapshot
        .projects_of(user, organization)
        .into_iter()
        .filter_map(|id| {
            let permissions = snapshot.permissions(user, organization, Some(id)).to_list();
            let name = snapshot.project(id)?.name.clone();
            Some(OwnProject { object: "tollgate.own_project", id, name, permissions })
        })
        .collect();
    data.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(OwnProjects { object: "list", data })
}

/// A key of one's own, with what it has spent this month in UTC.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OwnKey {
    object: &'static str,
    id: KeyId,
    name: String,
    redacted_value: String,
    project_id: ProjectId,
    project_name: String,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    frozen_at: Option<Timestamp>,
    /// Off while its owner has no access to the project.
    is_active: bool,
    scopes: Scopes,
    rotated_at: Option<Timestamp>,
    previous_secret: Option<PreviousSecret>,
    spent: Money,
    held: Money,
    #[serde(skip)]
    secrets: Secrets,
}

impl FromRow for OwnKey {
    fn from_row(row: &Row) -> Result<Self> {
        let secrets = Secrets::read(row)?;
        Ok(Self {
            object: "tollgate.own_api_key",
            id: row.get("id")?,
            name: row.get("name")?,
            redacted_value: row.get("redacted_value")?,
            project_id: row.get("project_id")?,
            project_name: row.get("project_name")?,
            created_at: row.get("created_at")?,
            expires_at: row.get("expires_at")?,
            last_used_at: row.get("last_used_at")?,
            frozen_at: row.get("frozen_at")?,
            is_active: row.get("is_active")?,
            scopes: Scopes::from_stored(&row.get::<String>("scopes")?),
            rotated_at: secrets.rotated_at,
            previous_secret: None,
            spent: Money::ZERO,
            held: Money::ZERO,
            secrets,
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListOwnKeys {
    after: Option<String>,
    limit: Option<i64>,
}

async fn list(cx: &mut Cx, input: ListOwnKeys) -> Result<Page<OwnKey>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<KeyId> = page::cursor("after", input.after.as_deref())?;
    let sql = own_keys().push(" AND k.id > $3 ORDER BY k.id LIMIT $4");
    let values = params![cx.actor.user()?, cx.organization(), Order::Asc.beyond(after), limit + 1];
    let mut keys: Vec<OwnKey> = cx.tx.all(sql, &values).await?;
    for key in &mut keys {
        key.complete(cx).await?;
    }
    Ok(Page::new(keys, limit, |key: &OwnKey| key.id.to_string()))
}

/// Those of the user `$1` in the organization `$2`.
fn own_keys() -> Sql {
    Sql::from("SELECT k.*, ")
        .push(secrets::COLUMNS)
        .push("p.name AS project_name FROM api_key k JOIN project p ON p.id = k.project_id")
        .push(secrets::JOINS)
        .push(
            "WHERE k.user_id = $1 AND k.organization_id = $2 AND k.revoked_at IS NULL AND p.archived_at IS NULL",
        )
}

impl OwnKey {
    /// Adds what its row does not have.
    async fn complete(&mut self, cx: &mut Cx) -> Result<()> {
        let month = Period::month_of(cx.now);
        self.last_used_at = self.last_used_at.max(self.secrets.last_used_at(cx));
        self.previous_secret = self.secrets.previous(cx);
        self.spent = spend_limit::settled(&mut cx.tx, Scope::Key(self.id), month).await?;
        (self.held, _) = spend_limit::in_flight(&mut cx.tx, Scope::Key(self.id), month).await?;
        Ok(())
    }
}

async fn retrieve(cx: &mut Cx, input: OneOwnKey) -> Result<OwnKey> {
    let values = params![cx.actor.user()?, cx.organization(), input.api_key_id.id()?];
    let found: Option<OwnKey> = cx.tx.optional(own_keys().push(" AND k.id = $3"), &values).await?;
    let mut key = found.ok_or_else(|| Error::not_found("API key"))?;
    key.complete(cx).await?;
    Ok(key)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateOwnKey {
    project_id: String,
    name: String,
    #[serde(default)]
    scopes: Vec<String>,
    expires_in_seconds: Option<i64>,
    #[serde(default)]
    labels: Patch<LabelsSaid>,
}

async fn create(cx: &mut Cx, input: CreateOwnKey) -> Result<CreatedKey> {
    let unknown = || Error::invalid("project_id", "There is no such project, or you cannot use its models.");
    let project = ProjectId::parse(&input.project_id).ok_or_else(unknown)?;
    match projects::find(cx, project).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => return Err(unknown()),
        Err(error) => return Err(error),
    }
    act_at(cx, project).await?;
    if !cx.actor.permissions.allows(Permission::ModelRequest) {
        return Err(unknown());
    }
    let user_id = Some(cx.actor.user()?.to_string());
    let input = CreateKey {
        project_id: PathId::of(project),
        name: input.name,
        user_id,
        service_account_id: None,
        scopes: input.scopes,
        expires_in_seconds: input.expires_in_seconds,
        labels: input.labels,
    };
    api_keys::create(cx, input).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneOwnKey {
    api_key_id: PathId<kind::Key>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateOwnKey {
    api_key_id: PathId<kind::Key>,
    /// For so long the secret before can be used as well; at most 30 days.
    grace_seconds: Option<i64>,
}

async fn rotate(cx: &mut Cx, input: RotateOwnKey) -> Result<CreatedKey> {
    let (key, project) = own(cx, &input.api_key_id).await?;
    act_at(cx, project).await?;
    // A policy against people's keys is one against their new secrets.
    let owner = cx.actor.owner;
    key_policy::check_owner(cx, owner).await?;
    let input = RotateKey {
        project_id: PathId::of(project),
        api_key_id: PathId::of(key),
        grace_seconds: input.grace_seconds,
    };
    api_keys::rotate(cx, input).await
}

async fn end_previous_secret(cx: &mut Cx, input: OneOwnKey) -> Result<ApiKey> {
    let (key, project) = own(cx, &input.api_key_id).await?;
    let input = OneKey { project_id: PathId::of(project), api_key_id: PathId::of(key) };
    api_keys::end_previous_secret(cx, input).await
}

async fn delete(cx: &mut Cx, input: OneOwnKey) -> Result<Deleted<KeyId>> {
    let (key, project) = own(cx, &input.api_key_id).await?;
    api_keys::revoke(cx, key, Some(project)).await?;
    Ok(Deleted::new("organization.project.api_key.deleted", key))
}

/// The key and its project, if it is a key of whoever asks.
async fn own(cx: &mut Cx, id: &PathId<kind::Key>) -> Result<(KeyId, ProjectId)> {
    let sql = "SELECT id, project_id FROM api_key
        WHERE id = $1 AND user_id = $2 AND organization_id = $3 AND project_id IS NOT NULL AND revoked_at IS NULL";
    let values = params![id.id()?, cx.actor.user()?, cx.organization()];
    let row: Option<Row> = cx.tx.optional(sql, &values).await?;
    let row = row.ok_or_else(|| Error::not_found("API key"))?;
    Ok((row.at(0)?, row.at(1)?))
}

/// What is done is about a project that no path names: what whoever asks may do is what they may do there.
async fn act_at(cx: &mut Cx, project: ProjectId) -> Result<()> {
    let actor = cx.actor.clone();
    cx.actor.permissions = actor.permissions_at(&mut cx.tx, Some(project)).await?;
    cx.actor.at = Some(project);
    Ok(())
}
