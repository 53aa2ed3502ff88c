//! Members of the organization.
//!
//! Removing one ends all their keys for good, and the answer lists them.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::id::kind;
use tollgate_core::page::{self, Page};
use tollgate_core::patch::Patch;
use tollgate_core::{
    Error, KeyId, Permission, Predefined, Resource, Result, RoleRef, ServiceAccountId, Timestamp, UserId,
};
use tollgate_store::{Entity, FromRow, Row, Sql, ToValue, params};

use crate::access::{self, Grant};
use crate::arguments::{self, Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::roles::Role;
use crate::resource::search::{Searched, and_has};
use crate::resource::{api_keys, invites, role_assignments};

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

#[derive(Debug, Serialize, JsonSchema)]
#[expect(clippy::struct_field_names, reason = "OpenAI's name")]
pub(crate) struct User {
    object: &'static str,
    pub(crate) id: UserId,
    name: String,
    email: String,
    role: String,
    added_at: Timestamp,
    developer_persona: Option<String>,
    technical_level: Option<String>,
    /// Members are people: a service account is its project's, and directories do not manage anybody here.
    is_service_account: bool,
    is_scim_managed: bool,
    user: Person,
    /// Extension.
    pub(crate) frozen_at: Option<Timestamp>,
}

/// The same as OpenAI nests it.
#[derive(Debug, Serialize, JsonSchema)]
struct Person {
    object: &'static str,
    id: UserId,
    name: String,
    email: String,
}

impl FromRow for User {
    fn from_row(row: &Row) -> Result<Self> {
        let (id, name, email): (UserId, String, String) =
            (row.get("id")?, row.get("name")?, row.get("email")?);
        Ok(Self {
            object: "organization.user",
            id,
            name: name.clone(),
            email: email.clone(),
            is_service_account: false,
            is_scim_managed: false,
            user: Person { object: "user", id, name, email },
            role: row.get("role")?,
            added_at: row.get("added_at")?,
            developer_persona: row.get("developer_persona")?,
            technical_level: row.get("technical_level")?,
            frozen_at: row.get("frozen_at")?,
        })
    }
}

const MEMBERS: &str =
    "SELECT u.id, u.name, u.email, o.added_at, o.developer_persona, o.technical_level, o.frozen_at, ";
const OF_ORGANIZATION: &str = " AS role
    FROM organization_user o JOIN app_user u ON u.id = o.user_id WHERE o.organization_id = $1";

fn members() -> Sql {
    Sql::from(MEMBERS).push(access::ORGANIZATION_ROLE).push(OF_ORGANIZATION)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListUsers {
    after: Option<String>,
    limit: Option<i64>,
    #[serde(default)]
    emails: Vec<String>,
    /// Extension: what is in their names or addresses, in capitals or not.
    name: Option<String>,
}

async fn list(cx: &mut Cx, input: ListUsers) -> Result<Page<User>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<UserId> = page::cursor("after", input.after.as_deref())?;
    let mut sql = members().push(" AND o.user_id > $2");
    let mut values = params![cx.organization(), Order::Asc.beyond(after), limit + 1].to_vec();
    if !input.emails.is_empty() {
        let emails = input.emails.iter().map(|email| email.trim().to_lowercase().to_value());
        sql = sql.push(" AND u.email IN ").push_list(&mut values, emails);
    }
    if let Some(name) = &input.name {
        const NAMES: Searched =
            Searched { lower: "LOWER(u.name || ' ' || u.email)", plain: "(u.name || ' ' || u.email)" };
        sql = and_has(sql, &mut values, &NAMES, name);
    }
    let rows = cx.tx.all(sql.push(" ORDER BY o.user_id LIMIT $3"), &values).await?;
    Ok(Page::new(rows, limit, |user: &User| user.id.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneUser {
    user_id: PathId<kind::User>,
}

async fn retrieve(cx: &mut Cx, input: OneUser) -> Result<User> {
    find(cx, input.user_id.id()?).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateUser {
    user_id: PathId<kind::User>,
    role: Option<String>,
    /// A role of the organization. A predefined one takes the place of the one before; any other is one more.
    role_id: Option<String>,
    #[serde(default)]
    developer_persona: Patch<String>,
    #[serde(default)]
    technical_level: Patch<String>,
}

async fn update(cx: &mut Cx, input: UpdateUser) -> Result<User> {
    let organization = cx.organization();
    let resource = Resource::Organization(organization);
    let role = match (&input.role, &input.role_id) {
        (Some(_), Some(_)) => {
            let message = "Give at most one of 'role' and 'role_id'.";
            return Err(Error::invalid("role_id", message));
        }
        (Some(role), None) => Some(Role::predefined(read_role(role)?, resource)),
        (None, Some(id)) => Some(role_assignments::chosen(cx, resource, id).await?),
        (None, None) => None,
    };
    let user = find(cx, input.user_id.id()?).await?;
    let is_label_changed = !input.developer_persona.is_absent() || !input.technical_level.is_absent();
    if role.is_none() && !is_label_changed {
        cx.unchanged();
        return Ok(user);
    }
    if let Some(role) = &role {
        let mut grants = access::grants_to(&mut cx.tx, organization, &user.id.to_string()).await?;
        // What it takes the place of is taken.
        grants.retain(|grant| grant.resource == resource && matches!(grant.role, RoleRef::Predefined(_)));
        access::refuse_taking_beyond_own(cx, &grants).await?;
        access::refuse_beyond_own(cx, &[role.grant(resource)]).await?;
        match role.role {
            RoleRef::Predefined(predefined) => {
                access::set_predefined(cx, resource, user.id, predefined).await?;
                access::keep_an_owner(cx, if input.role.is_some() { "role" } else { "role_id" }).await?;
                access::lapse(cx, user.id).await?;
            }
            RoleRef::Custom(_) => {
                access::assign(cx, resource, &user.id.to_string(), role.role).await?;
            }
        }
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
            "UPDATE organization_user SET developer_persona = $1, technical_level = $2
             WHERE organization_id = $3 AND user_id = $4",
            &params![persona, level, cx.organization(), user.id],
        )
        .await?;
    cx.changed(Entity::User, user.id).await?;
    let payload = json!({"id": user.id, "changes_requested": {"role": role.map(|role| role.name)}});
    cx.record(Event::UserUpdated, user.id, None, payload);
    find(cx, user.id).await
}

/// The answer to a removal, with the keys it ended.
#[derive(Serialize, JsonSchema)]
pub(crate) struct UserDeleted {
    object: &'static str,
    id: UserId,
    deleted: bool,
    revoked_api_key_ids: Vec<KeyId>,
    /// Accounts of which they have made keys that go on: whoever made a key has seen it.
    service_account_ids: Vec<ServiceAccountId>,
    /// The same keys, and those that they have made for other people.
    made_api_key_ids: Vec<KeyId>,
}

/// Keys that somebody has made and does not own, and the service accounts that own some of them.
async fn made_by(cx: &mut Cx, user: UserId) -> Result<(Vec<ServiceAccountId>, Vec<KeyId>)> {
    let rows: Vec<Row> = cx
        .tx
        .all(
            "SELECT id, service_account_id FROM api_key
             WHERE created_by = $1 AND organization_id = $2 AND (user_id IS NULL OR user_id <> $1) AND revoked_at IS NULL
             ORDER BY id",
            &params![user, cx.organization()],
        )
        .await?;
    let (mut accounts, mut keys) = (BTreeSet::new(), Vec::with_capacity(rows.len()));
    for row in rows {
        keys.push(row.at(0)?);
        accounts.extend(row.at::<Option<ServiceAccountId>>(1)?);
    }
    Ok((accounts.into_iter().collect(), keys))
}

async fn delete(cx: &mut Cx, input: OneUser) -> Result<UserDeleted> {
    let user = find(cx, input.user_id.id()?).await?;
    let organization = cx.organization();
    let grants = access::grants_everywhere(&mut cx.tx, organization, user.id).await?;
    access::refuse_taking_beyond_own(cx, &grants).await?;
    invites::withdraw(cx, &user.email).await?;
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
    let (service_account_ids, made_api_key_ids) = made_by(cx, user.id).await?;
    cx.tx
        .execute(
            "DELETE FROM project_user WHERE user_id = $1
                AND project_id IN (SELECT id FROM project WHERE organization_id = $2)",
            &params![user.id, cx.organization()],
        )
        .await?;
    for sql in [
        "DELETE FROM group_user WHERE user_id = $2 AND group_id IN (SELECT id FROM user_group WHERE organization_id = $1)",
        "DELETE FROM role_assignment WHERE principal_id = $2 AND organization_id = $1",
        "DELETE FROM organization_user WHERE organization_id = $1 AND user_id = $2",
    ] {
        cx.tx.execute(sql, &params![cx.organization(), user.id]).await?;
    }
    access::keep_an_owner(cx, "user_id").await?;
    cx.changed(Entity::User, user.id).await?;
    cx.record(
        Event::UserDeleted,
        user.id,
        None,
        json!({"id": user.id, "revoked_api_key_ids": revoked_api_key_ids,
            "service_account_ids": service_account_ids, "made_api_key_ids": made_api_key_ids}),
    );
    Ok(UserDeleted {
        object: "organization.user.deleted",
        id: user.id,
        deleted: true,
        revoked_api_key_ids,
        service_account_ids,
        made_api_key_ids,
    })
}

#[derive(Deserialize, JsonSchema)]
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
    if by_email(cx, &email).await?.is_some() {
        let message = "There is a member of the organization with this address already.";
        return Err(Error::invalid("email", message).code("already_exists"));
    }
    let known: Option<Row> =
        cx.tx.optional("SELECT id FROM app_user WHERE email = $1", &params![email]).await?;
    let id: UserId = if let Some(row) = known { row.at(0)? } else { new_person(cx, &email, &name).await? };
    cx.tx
        .execute(
            "INSERT INTO organization_user (organization_id, user_id, added_at) VALUES ($1, $2, $3)",
            &params![cx.organization(), id, cx.now],
        )
        .await?;
    let resource = Resource::Organization(cx.organization());
    access::refuse_beyond_own(cx, &[Grant::of(resource, role)]).await?;
    access::set_predefined(cx, resource, id, role).await?;
    invites::withdraw(cx, &email).await?;
    cx.changed(Entity::User, id).await?;
    cx.record(Event::UserAdded, id, None, json!({"id": id, "data": {"role": role.name(), "email": email}}));
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

pub(crate) fn read_role(role: &str) -> Result<Predefined> {
    match role {
        "owner" => Ok(Predefined::OrganizationOwner),
        "reader" => Ok(Predefined::OrganizationReader),
        _ => Err(Error::invalid(
            "role",
            format!("Invalid 'role': expected 'owner' or 'reader', but got '{role}'."),
        )),
    }
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
    let sql = members().push(" AND o.user_id = $2");
    let found = cx.tx.optional(sql, &params![cx.organization(), id]).await?;
    found.ok_or_else(|| Error::not_found("user"))
}

/// The member with an address, if there is one.
pub(crate) async fn by_email(cx: &mut Cx, email: &str) -> Result<Option<User>> {
    let sql = members().push(" AND u.email = $2");
    cx.tx.optional(sql, &params![cx.organization(), email.trim().to_lowercase()]).await
}

/// The member that a body names by an id.
pub(crate) async fn named(cx: &mut Cx, param: &'static str, id: &str) -> Result<UserId> {
    let found = match UserId::parse(id) {
        Some(id) => find(cx, id).await,
        None => Err(Error::not_found("user")),
    };
    match found {
        Ok(user) => Ok(user.id),
        Err(error) if error.is_not_found() => Err(no_such_member(param)),
        Err(error) => Err(error),
    }
}

pub(crate) fn no_such_member(param: &'static str) -> Error {
    let message = "There is no such member of the organization. Users are added to the organization first.";
    Error::invalid(param, message)
}
