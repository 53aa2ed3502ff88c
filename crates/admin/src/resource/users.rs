//! Members of the organization.
//!
//! Removing one ends all their keys for good, and the answer lists them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate_core::id::kind;
use tollgate_core::page::{self, Page};
use tollgate_core::patch::Patch;
use tollgate_core::permission::OrganizationRole;
use tollgate_core::{Error, KeyId, Permission, Result, Timestamp, UserId};
use tollgate_store::{Entity, FromRow, Row, Sql, ToValue, params};

use crate::arguments::{self, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::api_keys;

pub(crate) fn operations() -> Operations {
    use Permission::{UsersRead, UsersWrite};
    const ONE: &str = "/v1/organization/users/{user_id}";
    Operations::new()
        .get("/v1/organization/users", "list-users", Needs(UsersRead), list)
        .get(ONE, "retrieve-user", Needs(UsersRead), retrieve)
        .post(ONE, "modify-user", Needs(UsersWrite), Event::UserUpdated, update)
        .delete(ONE, "delete-user", Needs(UsersWrite), Event::UserDeleted, delete)
        .post("/tollgate/v1/users", "create-user", Needs(UsersWrite), Event::UserAdded, create)
}

#[derive(Debug, Serialize)]
pub(crate) struct User {
    object: &'static str,
    pub(crate) id: UserId,
    name: String,
    email: String,
    role: String,
    added_at: Timestamp,
    developer_persona: Option<String>,
    technical_level: Option<String>,
}

impl FromRow for User {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            object: "organization.user",
            id: row.get("id")?,
            name: row.get("name")?,
            email: row.get("email")?,
            role: row.get("role")?,
            added_at: row.get("added_at")?,
            developer_persona: row.get("developer_persona")?,
            technical_level: row.get("technical_level")?,
        })
    }
}

const MEMBERS: &str =
    "SELECT u.id, u.name, u.email, o.role, o.added_at, o.developer_persona, o.technical_level
    FROM organization_user o JOIN app_user u ON u.id = o.user_id WHERE o.organization_id = $1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListUsers {
    after: Option<String>,
    limit: Option<i64>,
    #[serde(default)]
    emails: Vec<String>,
}

async fn list(cx: &mut Cx, input: ListUsers) -> Result<Page<User>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<UserId> = page::cursor("after", input.after.as_deref())?;
    let mut sql = Sql::from(MEMBERS).push(" AND ($2 IS NULL OR o.user_id > $2)");
    let mut values = params![cx.organization(), after, limit + 1].to_vec();
    if !input.emails.is_empty() {
        let emails = input.emails.iter().map(|email| email.trim().to_lowercase().to_value());
        sql = sql.push(" AND u.email IN ").push_list(&mut values, emails);
    }
    let rows = cx.tx.all(sql.push(" ORDER BY o.user_id LIMIT $3"), &values).await?;
    Ok(Page::new(rows, limit, |user: &User| user.id.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneUser {
    user_id: PathId<kind::User>,
}

async fn retrieve(cx: &mut Cx, input: OneUser) -> Result<User> {
    find(cx, input.user_id.id()?).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateUser {
    user_id: PathId<kind::User>,
    role: Option<String>,
    #[serde(default)]
    role_id: Option<Value>,
    #[serde(default)]
    developer_persona: Patch<String>,
    #[serde(default)]
    technical_level: Patch<String>,
}

async fn update(cx: &mut Cx, input: UpdateUser) -> Result<User> {
    if input.role_id.is_some() {
        return Err(Error::unsupported("role_id", "Roles by id are not served yet. Use 'role'."));
    }
    let role = input.role.as_deref().map(read_role).transpose()?;
    let user = find(cx, input.user_id.id()?).await?;
    let is_label_changed = !input.developer_persona.is_absent() || !input.technical_level.is_absent();
    if role.is_none() && !is_label_changed {
        cx.unchanged();
        return Ok(user);
    }
    let new_role = role.map_or(user.role.clone(), |role| role.as_str().to_owned());
    if user.role == OrganizationRole::Owner.as_str() && new_role != user.role {
        keep_an_owner(cx, "role").await?;
        loses_access(cx, user.id).await?;
    }
    let label = |patch: Patch<String>, before: &Option<String>| match patch {
        Patch::Absent => before.clone(),
        Patch::Null => None,
        Patch::Value(value) => Some(value),
    };
    let persona = label(input.developer_persona, &user.developer_persona);
    let level = label(input.technical_level, &user.technical_level);
    for (param, text) in [("developer_persona", &persona), ("technical_level", &level)] {
        text.as_deref().map(|text| arguments::text(param, text, 255)).transpose()?;
    }
    cx.tx
        .execute(
            "UPDATE organization_user SET role = $1, developer_persona = $2, technical_level = $3
             WHERE organization_id = $4 AND user_id = $5",
            &params![new_role, persona, level, cx.organization(), user.id],
        )
        .await?;
    cx.changed(Entity::User, user.id).await?;
    let payload = json!({"id": user.id, "changes_requested": {"role": role.map(OrganizationRole::as_str)}});
    cx.record(Event::UserUpdated, user.id, None, payload);
    find(cx, user.id).await
}

/// An owner who becomes a reader keeps access only to the projects they are a member of. Keys elsewhere stop.
async fn loses_access(cx: &mut Cx, user: UserId) -> Result<()> {
    let keys: Vec<Row> = cx
        .tx
        .all(
            "UPDATE api_key SET is_active = $3
             WHERE user_id = $1 AND organization_id = $2 AND project_id IS NOT NULL AND revoked_at IS NULL
                AND is_active = $4
                AND project_id NOT IN (SELECT project_id FROM project_user WHERE user_id = $1)
             RETURNING id",
            &params![user, cx.organization(), false, true],
        )
        .await?;
    for key in keys {
        cx.changed_named(Entity::ApiKey, &key.at::<String>(0)?).await?;
    }
    Ok(())
}

/// An organization without an owner could never be administered again.
async fn keep_an_owner(cx: &mut Cx, param: &'static str) -> Result<()> {
    let row: Row = cx
        .tx
        .one(
            "SELECT COUNT(*) AS owners FROM organization_user WHERE organization_id = $1 AND role = 'owner'",
            &params![cx.organization()],
        )
        .await?;
    if row.get::<i64>("owners")? > 1 {
        return Ok(());
    }
    Err(Error::invalid(
        param,
        "This is the last owner of the organization. Make another user an owner first.",
    )
    .code("last_owner"))
}

/// The answer to a removal, with the keys it ended.
#[derive(Serialize)]
pub(crate) struct UserDeleted {
    object: &'static str,
    id: UserId,
    deleted: bool,
    revoked_api_key_ids: Vec<KeyId>,
}

async fn delete(cx: &mut Cx, input: OneUser) -> Result<UserDeleted> {
    let user = find(cx, input.user_id.id()?).await?;
    if user.role == OrganizationRole::Owner.as_str() {
        keep_an_owner(cx, "user_id").await?;
    }
    let keys: Vec<Row> = cx
        .tx
        .all(
            "SELECT id, project_id FROM api_key WHERE user_id = $1 AND organization_id = $2 AND revoked_at IS NULL
             ORDER BY id",
            &params![user.id, cx.organization()],
        )
        .await?;
    let mut revoked_api_key_ids = Vec::with_capacity(keys.len());
    for key in keys {
        let (id, project) = (key.at(0)?, key.at(1)?);
        api_keys::revoke(cx, id, project).await?;
        revoked_api_key_ids.push(id);
    }
    cx.tx
        .execute(
            "DELETE FROM project_user WHERE user_id = $1
                AND project_id IN (SELECT id FROM project WHERE organization_id = $2)",
            &params![user.id, cx.organization()],
        )
        .await?;
    cx.tx
        .execute(
            "DELETE FROM organization_user WHERE organization_id = $1 AND user_id = $2",
            &params![cx.organization(), user.id],
        )
        .await?;
    cx.changed(Entity::User, user.id).await?;
    cx.record(
        Event::UserDeleted,
        user.id,
        None,
        json!({"id": user.id, "revoked_api_key_ids": revoked_api_key_ids}),
    );
    Ok(UserDeleted { object: "organization.user.deleted", id: user.id, deleted: true, revoked_api_key_ids })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateUser {
    email: String,
    name: Option<String>,
    role: String,
}

/// Adds a member without an invite. A person who is known by the address from another organization is the same person.
async fn create(cx: &mut Cx, input: CreateUser) -> Result<User> {
    let email = read_email(&input.email)?;
    let role = read_role(&input.role)?;
    let name = match input.name.as_deref() {
        Some(name) => arguments::name("name", name)?,
        None => email.clone(),
    };
    let known: Option<Row> =
        cx.tx.optional("SELECT id FROM app_user WHERE email = $1", &params![email]).await?;
    let id: UserId = if let Some(row) = known { row.at(0)? } else { new_person(cx, &email, &name).await? };
    if find(cx, id).await.is_ok() {
        let message = "There is a member of the organization with this address already.";
        return Err(Error::invalid("email", message).code("already_exists"));
    }
    cx.tx
        .execute(
            "INSERT INTO organization_user (organization_id, user_id, role, added_at) VALUES ($1, $2, $3, $4)",
            &params![cx.organization(), id, role.as_str(), cx.now],
        )
        .await?;
    cx.changed(Entity::User, id).await?;
    cx.record(Event::UserAdded, id, None, json!({"id": id, "data": {"role": role.as_str(), "email": email}}));
    find(cx, id).await
}

async fn new_person(cx: &mut Cx, email: &str, name: &str) -> Result<UserId> {
    let id: UserId = cx.id();
    cx.tx
        .execute(
            "INSERT INTO app_user (id, email, name, is_operator, created_at) VALUES ($1, $2, $3, $4, $5)",
            &params![id, email, name, false, cx.now],
        )
        .await?;
    Ok(id)
}

fn read_role(role: &str) -> Result<OrganizationRole> {
    OrganizationRole::parse(role).ok_or_else(|| {
        Error::invalid("role", format!("Invalid 'role': expected 'owner' or 'reader', but got '{role}'."))
    })
}

/// Lower-cased, so that one person is not two. Whether it can be written to is found out by writing to it.
pub(crate) fn read_email(email: &str) -> Result<String> {
    let email = arguments::text("email", email.trim(), 254)?.to_lowercase();
    let is_plausible = email.split_once('@').is_some_and(|(user, host)| {
        !user.is_empty() && !host.is_empty() && !host.contains('@') && !email.contains(char::is_whitespace)
    });
    if is_plausible {
        Ok(email)
    } else {
        Err(Error::invalid("email", "Invalid 'email': it is not an e-mail address."))
    }
}

/// The user, if a member of the caller's organization.
pub(crate) async fn find(cx: &mut Cx, id: UserId) -> Result<User> {
    let sql = Sql::from(MEMBERS).push(" AND o.user_id = $2");
    let found = cx.tx.optional(sql, &params![cx.organization(), id]).await?;
    found.ok_or_else(|| Error::not_found("user"))
}

pub(crate) async fn find_by_email(cx: &mut Cx, email: &str) -> Result<User> {
    let sql = Sql::from(MEMBERS).push(" AND u.email = $2");
    let found = cx.tx.optional(sql, &params![cx.organization(), email.trim().to_lowercase()]).await?;
    found.ok_or_else(|| Error::not_found("user"))
}
