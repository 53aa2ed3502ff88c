//! The organizations of an installation, for whoever operates it. Nothing of one is seen from another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::id::kind;
use tollgate_core::page::{self, Page};
use tollgate_core::secret::ShownOnce;
use tollgate_core::{Error, OrganizationId, Permission, ProjectId, Result, Timestamp, UserId};
use tollgate_store::{Entity, FromRow, Row, params};

use crate::arguments::{self, Order, PathId};
use crate::audit::{self, Author, Event, Recorded};
use crate::gate::Cx;
use crate::host::{self, Founding};
use crate::operation::Access::{Needs, Operator};
use crate::operation::Operations;
use crate::resource::users;

pub(crate) fn operations() -> Operations {
    const ALL: &str = "/tollgate/v1/organizations";
    const ONE: &str = "/tollgate/v1/organizations/{organization_id}";
    Operations::new()
        .get(ALL, "list-organizations", Operator, list)
        .post(ALL, "create-organization", Operator, Event::OrganizationUpdated, create)
        .get(ONE, "retrieve-organization", Operator, retrieve)
        .post(ONE, "modify-organization", Operator, Event::OrganizationUpdated, update)
        .get(
            "/tollgate/v1/organization",
            "retrieve-own-organization",
            Needs(Permission::OrganizationRead),
            retrieve_own,
        )
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Organization {
    object: &'static str,
    id: OrganizationId,
    name: String,
    created_at: Timestamp,
    frozen_at: Option<Timestamp>,
}

impl FromRow for Organization {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            object: "tollgate.organization",
            id: row.get("id")?,
            name: row.get("name")?,
            created_at: row.get("created_at")?,
            frozen_at: row.get("frozen_at")?,
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListOrganizations {
    after: Option<String>,
    limit: Option<i64>,
}

async fn list(cx: &mut Cx, input: ListOrganizations) -> Result<Page<Organization>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<OrganizationId> = page::cursor("after", input.after.as_deref())?;
    let sql = "SELECT * FROM organization WHERE id > $1 ORDER BY id LIMIT $2";
    let rows = cx.tx.all(sql, &params![Order::Asc.beyond(after), limit + 1]).await?;
    Ok(Page::new(rows, limit, |organization: &Organization| organization.id.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateOrganization {
    name: String,
    owner_email: String,
}

/// A new organization with what its owner begins with: a default project and an admin key, which is shown this once.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CreatedOrganization {
    #[serde(flatten)]
    organization: Organization,
    project_id: ProjectId,
    user_id: UserId,
    /// Null for somebody else who has an account already: a key would open all that is theirs.
    admin_api_key: Option<ShownOnce>,
}

/// Somebody who is known by the address from another organization is the same person.
async fn create(cx: &mut Cx, input: CreateOrganization) -> Result<CreatedOrganization> {
    let name = arguments::name("name", &input.name)?;
    users::read_email(&input.owner_email).map_err(|error| error.param("owner_email"))?;
    let founding = Founding {
        name: &name,
        owner_email: &input.owner_email,
        owner_name: &input.owner_email,
        is_operator: false,
        founder: Some((cx.actor.user()?, cx.actor.scopes, cx.actor.expires_at)),
    };
    let with = (&cx.desk.clock, &*cx.desk.keyring);
    let founded = host::found(&mut cx.tx, with, &founding, &Author::Operator).await?;
    let id = founded.organization;
    cx.record(
        Event::OrganizationUpdated,
        id,
        None,
        json!({"id": id, "changes_requested": {"name": name, "created": true, "owner_id": founded.user}}),
    );
    Ok(CreatedOrganization {
        organization: find(cx, id).await?,
        project_id: founded.project,
        user_id: founded.user,
        admin_api_key: founded.admin_key.map(ShownOnce),
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneOrganization {
    organization_id: PathId<kind::Organization>,
}

async fn retrieve(cx: &mut Cx, input: OneOrganization) -> Result<Organization> {
    find(cx, input.organization_id.id()?).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// That of whoever asks.
async fn retrieve_own(cx: &mut Cx, _: Nothing) -> Result<Organization> {
    let id = cx.organization();
    find(cx, id).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateOrganization {
    organization_id: PathId<kind::Organization>,
    name: String,
}

async fn update(cx: &mut Cx, input: UpdateOrganization) -> Result<Organization> {
    let name = arguments::name("name", &input.name)?;
    let id = find(cx, input.organization_id.id()?).await?.id;
    cx.tx.execute("UPDATE organization SET name = $1 WHERE id = $2", &params![name, id]).await?;
    cx.changed(Entity::Organization, id).await?;
    let payload = json!({"id": id, "changes_requested": {"name": name}});
    if id != cx.organization() {
        // Its own log tells it as well.
        let resource_id = id.to_string();
        let event = Event::OrganizationUpdated;
        let recorded = Recorded { event, resource_id, project: None, payload: payload.clone() };
        let with = (&cx.desk.clock, &*cx.desk.keyring);
        audit::write(&mut cx.tx, with, id, &Author::Operator, &recorded).await?;
    }
    cx.record(Event::OrganizationUpdated, id, None, payload);
    find(cx, id).await
}

async fn find(cx: &mut Cx, id: OrganizationId) -> Result<Organization> {
    let found = cx.tx.optional("SELECT * FROM organization WHERE id = $1", &params![id]).await?;
    found.ok_or_else(|| Error::not_found("organization"))
}
