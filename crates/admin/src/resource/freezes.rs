//! Freezing: what a key, a user, a project or a whole organization authorizes is refused from the next request on, and is
//! there again when it is thawed. For a suspicion, where revoking would be too much.
//!
//! A frozen organization can still be administered, or nobody could thaw it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::id::{Id, Identified, kind};
use tollgate_core::{Error, KeyId, Permission, Principal, ProjectId, Result, Scopes, Timestamp, UserId};
use tollgate_store::{Entity, Row, Sql, params};

use crate::access;
use crate::arguments::PathId;
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::{projects, users};

pub(crate) fn operations() -> Operations {
    use Event::{ApiKeyUpdated, OrganizationUpdated, ProjectUpdated, UserUpdated};
    use Permission::{AdminApiKeysWrite, OrganizationWrite, ProjectApiKeysWrite, ProjectsWrite, UsersWrite};
    const KEY: [&str; 2] = [
        "/tollgate/v1/projects/{project_id}/api_keys/{api_key_id}/freeze",
        "/tollgate/v1/projects/{project_id}/api_keys/{api_key_id}/unfreeze",
    ];
    const ADMIN_KEY: [&str; 2] =
        ["/tollgate/v1/admin_api_keys/{key_id}/freeze", "/tollgate/v1/admin_api_keys/{key_id}/unfreeze"];
    const USER: [&str; 2] = ["/tollgate/v1/users/{user_id}/freeze", "/tollgate/v1/users/{user_id}/unfreeze"];
    const PROJECT: [&str; 2] =
        ["/tollgate/v1/projects/{project_id}/freeze", "/tollgate/v1/projects/{project_id}/unfreeze"];
    const ORGANIZATION: [&str; 2] =
        ["/tollgate/v1/organization/freeze", "/tollgate/v1/organization/unfreeze"];
    Operations::new()
        .post(KEY[0], "freeze-project-api-key", Needs(ProjectApiKeysWrite), ApiKeyUpdated, key::<true>)
        .post(KEY[1], "unfreeze-project-api-key", Needs(ProjectApiKeysWrite), ApiKeyUpdated, key::<false>)
        .post(
            ADMIN_KEY[0],
            "freeze-admin-api-key",
            Needs(AdminApiKeysWrite),
            ApiKeyUpdated,
            admin_key::<true>,
        )
        .post(
            ADMIN_KEY[1],
            "unfreeze-admin-api-key",
            Needs(AdminApiKeysWrite),
            ApiKeyUpdated,
            admin_key::<false>,
        )
        .post(USER[0], "freeze-user", Needs(UsersWrite), UserUpdated, user::<true>)
        .post(USER[1], "unfreeze-user", Needs(UsersWrite), UserUpdated, user::<false>)
        .post(PROJECT[0], "freeze-project", Needs(ProjectsWrite), ProjectUpdated, project::<true>)
        .post(PROJECT[1], "unfreeze-project", Needs(ProjectsWrite), ProjectUpdated, project::<false>)
        .post(
            ORGANIZATION[0],
            "freeze-organization",
            Needs(OrganizationWrite),
            OrganizationUpdated,
            organization::<true>,
        )
        .post(
            ORGANIZATION[1],
            "unfreeze-organization",
            Needs(OrganizationWrite),
            OrganizationUpdated,
            organization::<false>,
        )
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Freeze {
    object: &'static str,
    id: String,
    frozen: bool,
    frozen_at: Option<Timestamp>,
}

/// Something that can be frozen: the entity that the replica reads again, the event, and the project it belongs to.
struct Subject<K> {
    id: Id<K>,
    entity: Entity,
    event: Event,
    project: Option<ProjectId>,
}

/// Stores whether it is frozen, with a statement of the form `UPDATE ... SET frozen_at = $1 WHERE ...$2 ... $3`, where `$2` is its id
/// and `$3` the organization. Freezing what is frozen changes nothing.
async fn store<K: Identified>(
    cx: &mut Cx,
    subject: Subject<K>,
    before: Option<Timestamp>,
    is_frozen: bool,
    sql: &'static str,
) -> Result<Freeze> {
    let Subject { id, entity, event, project } = subject;
    let frozen_at = if is_frozen { before.or(Some(cx.now)) } else { None };
    if before.is_some() == is_frozen {
        cx.unchanged();
    } else {
        cx.tx.execute(Sql::from(sql), &params![frozen_at, id, cx.organization()]).await?;
        cx.changed(entity, id).await?;
        cx.record(event, id, project, json!({"id": id, "changes_requested": {"frozen": is_frozen}}));
    }
    Ok(Freeze { object: "tollgate.freeze", id: id.to_string(), frozen: is_frozen, frozen_at })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneKey {
    project_id: PathId<kind::Project>,
    api_key_id: PathId<kind::Key>,
}

async fn key<const IS_FROZEN: bool>(cx: &mut Cx, input: OneKey) -> Result<Freeze> {
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    let sql = "SELECT frozen_at, user_id, service_account_id FROM api_key
        WHERE id = $1 AND organization_id = $2 AND project_id = $3 AND revoked_at IS NULL";
    let id = input.api_key_id.id()?;
    let row: Option<Row> = cx.tx.optional(sql, &params![id, cx.organization(), project]).await?;
    freeze_key::<IS_FROZEN>(cx, id, row, Some(project)).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneAdminKey {
    key_id: PathId<kind::Key>,
}

async fn admin_key<const IS_FROZEN: bool>(cx: &mut Cx, input: OneAdminKey) -> Result<Freeze> {
    let sql = "SELECT frozen_at, user_id, service_account_id, scopes FROM api_key
        WHERE id = $1 AND organization_id = $2 AND project_id IS NULL AND revoked_at IS NULL";
    let id = input.key_id.id()?;
    if cx.actor.key().is_ok_and(|own| own == id) {
        let message = "This is the key that you ask with. Freeze it with another.";
        return Err(Error::invalid("key_id", message).code("own_key"));
    }
    let row: Option<Row> = cx.tx.optional(sql, &params![id, cx.organization()]).await?;
    if let Some(row) = &row {
        match row.get("user_id")? {
            None => {
                access::refuse_machine_beyond_own(cx, Scopes::from_stored(&row.get::<String>("scopes")?))
                    .await?;
            }
            user => refuse_of_stronger(cx, user).await?,
        }
    }
    freeze_key::<IS_FROZEN>(cx, id, row, None).await
}

/// Ending the admin keys of the stronger would disarm them.
pub(crate) async fn refuse_of_stronger(cx: &mut Cx, owner: Option<UserId>) -> Result<()> {
    let Some(owner) = owner.filter(|owner| Principal::User(*owner) != cx.actor.owner) else { return Ok(()) };
    let organization = cx.organization();
    let grants = access::grants_everywhere(&mut cx.tx, organization, owner).await?;
    access::refuse_taking_beyond_own(cx, &grants).await
}

async fn freeze_key<const IS_FROZEN: bool>(
    cx: &mut Cx,
    id: KeyId,
    row: Option<Row>,
    project: Option<ProjectId>,
) -> Result<Freeze> {
    let row = row.ok_or_else(|| Error::not_found("API key"))?;
    let subject = Subject { id, entity: Entity::ApiKey, event: Event::ApiKeyUpdated, project };
    let sql = "UPDATE api_key SET frozen_at = $1 WHERE id = $2 AND organization_id = $3";
    store(cx, subject, row.get("frozen_at")?, IS_FROZEN, sql).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneUser {
    user_id: PathId<kind::User>,
}

/// All keys of the user in this organization, admin keys included.
async fn user<const IS_FROZEN: bool>(cx: &mut Cx, input: OneUser) -> Result<Freeze> {
    let user = users::find(cx, input.user_id.id()?).await?;
    if cx.actor.owner == Principal::User(user.id) {
        let message = "This is you. Have another owner do it.";
        return Err(Error::invalid("user_id", message).code("own_user"));
    }
    let organization = cx.organization();
    let grants = access::grants_everywhere(&mut cx.tx, organization, user.id).await?;
    access::refuse_taking_beyond_own(cx, &grants).await?;
    let subject = Subject { id: user.id, entity: Entity::User, event: Event::UserUpdated, project: None };
    let sql = "UPDATE organization_user SET frozen_at = $1 WHERE user_id = $2 AND organization_id = $3";
    let freeze = store(cx, subject, user.frozen_at, IS_FROZEN, sql).await?;
    access::keep_an_owner(cx, "user_id").await?;
    Ok(freeze)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneProject {
    project_id: PathId<kind::Project>,
}

async fn project<const IS_FROZEN: bool>(cx: &mut Cx, input: OneProject) -> Result<Freeze> {
    let project = projects::live(cx, input.project_id.id()?).await?;
    let subject = Subject {
        id: project.id,
        entity: Entity::Project,
        event: Event::ProjectUpdated,
        project: Some(project.id),
    };
    let sql = "UPDATE project SET frozen_at = $1 WHERE id = $2 AND organization_id = $3";
    store(cx, subject, project.frozen_at, IS_FROZEN, sql).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// All keys of projects of the organization.
async fn organization<const IS_FROZEN: bool>(cx: &mut Cx, _: Nothing) -> Result<Freeze> {
    let id = cx.organization();
    let row: Row = cx.tx.one("SELECT frozen_at FROM organization WHERE id = $1", &params![id]).await?;
    let subject =
        Subject { id, entity: Entity::Organization, event: Event::OrganizationUpdated, project: None };
    let sql = "UPDATE organization SET frozen_at = $1 WHERE id = $2 AND id = $3";
    store(cx, subject, row.at(0)?, IS_FROZEN, sql).await
}
