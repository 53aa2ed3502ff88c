//! Groups of users, who have the roles of their groups besides their own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::id::kind;
use tollgate_core::page::{self, NextPage};
use tollgate_core::{Error, GroupId, Permission, Result, Timestamp, UserId};
use tollgate_store::{Entity, FromRow, Row, Sql, params};

use crate::access::{self, Grant};
use crate::arguments::{self, Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::{Deleted, users};

pub(crate) fn operations() -> Operations {
    use Permission::{GroupsRead, GroupsWrite};
    const ALL: &str = "/v1/organization/groups";
    const ONE: &str = "/v1/organization/groups/{group_id}";
    const USERS: &str = "/v1/organization/groups/{group_id}/users";
    const USER: &str = "/v1/organization/groups/{group_id}/users/{user_id}";
    Operations::new()
        .get(ALL, "list-groups", Needs(GroupsRead), list)
        .post(ALL, "create-group", Needs(GroupsWrite), Event::GroupCreated, create)
        .get(ONE, "retrieve-group", Needs(GroupsRead), retrieve)
        .post(ONE, "update-group", Needs(GroupsWrite), Event::GroupUpdated, update)
        .delete(ONE, "delete-group", Needs(GroupsWrite), Event::GroupDeleted, delete)
        .get(USERS, "list-group-users", Needs(GroupsRead), list_users)
        .post(USERS, "add-group-user", Needs(GroupsWrite), Event::GroupUpdated, add_user)
        .get(USER, "retrieve-group-user", Needs(GroupsRead), retrieve_user)
        .delete(USER, "remove-group-user", Needs(GroupsWrite), Event::GroupUpdated, remove_user)
}

#[derive(Debug, Serialize, JsonSchema)]
#[expect(clippy::struct_field_names, reason = "OpenAI's names")]
pub(crate) struct Group {
    object: &'static str,
    pub(crate) id: GroupId,
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
    group_type: &'static str,
    is_scim_managed: bool,
}

impl FromRow for Group {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            object: "group",
            id: row.get("id")?,
            name: row.get("name")?,
            created_at: row.get("created_at")?,
            group_type: "group",
            is_scim_managed: false,
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListGroups {
    after: Option<String>,
    limit: Option<i64>,
    #[serde(default)]
    order: Order,
}

async fn list(cx: &mut Cx, input: ListGroups) -> Result<NextPage<Group>> {
    let limit = page::limit(input.limit, 100, 0, 1000)?;
    let after: Option<GroupId> = page::cursor("after", input.after.as_deref())?;
    let sql = Sql::from("SELECT * FROM user_group WHERE organization_id = $1").push(match input.order {
        Order::Asc => " AND id > $2 ORDER BY id ASC LIMIT $3",
        Order::Desc => " AND id < $2 ORDER BY id DESC LIMIT $3",
    });
    let rows = cx.tx.all(sql, &params![cx.organization(), input.order.beyond(after), limit + 1]).await?;
    Ok(NextPage::new(rows, limit, |group: &Group| group.id.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateGroup {
    name: String,
}

async fn create(cx: &mut Cx, input: CreateGroup) -> Result<Group> {
    let name = arguments::name("name", &input.name)?;
    refuse_taken(cx, &name, None).await?;
    let id: GroupId = cx.id();
    cx.tx
        .execute(
            "INSERT INTO user_group (id, organization_id, name, created_at) VALUES ($1, $2, $3, $4)",
            &params![id, cx.organization(), name, cx.now],
        )
        .await?;
    cx.changed(Entity::Group, id).await?;
    cx.record(Event::GroupCreated, id, None, json!({"id": id, "data": {"group_name": name}}));
    find(cx, id).await
}

/// Two groups of one name could not be told apart where people choose one.
async fn refuse_taken(cx: &mut Cx, name: &str, but: Option<GroupId>) -> Result<()> {
    // No id is empty.
    let but = but.map(|id| id.to_string()).unwrap_or_default();
    let taken: Option<Row> = cx
        .tx
        .optional(
            "SELECT id FROM user_group WHERE organization_id = $1 AND name = $2 AND id <> $3",
            &params![cx.organization(), name, but],
        )
        .await?;
    match taken {
        None => Ok(()),
        Some(_) => {
            Err(Error::invalid("name", "There is a group of this name already.").code("already_exists"))
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneGroup {
    group_id: PathId<kind::Group>,
}

async fn retrieve(cx: &mut Cx, input: OneGroup) -> Result<Group> {
    find(cx, input.group_id.id()?).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateGroup {
    group_id: PathId<kind::Group>,
    name: String,
}

async fn update(cx: &mut Cx, input: UpdateGroup) -> Result<Group> {
    let name = arguments::name("name", &input.name)?;
    let group = find(cx, input.group_id.id()?).await?;
    refuse_taken(cx, &name, Some(group.id)).await?;
    cx.tx.execute("UPDATE user_group SET name = $1 WHERE id = $2", &params![name, group.id]).await?;
    let payload = json!({"id": group.id, "changes_requested": {"group_name": name}});
    cx.record(Event::GroupUpdated, group.id, None, payload);
    find(cx, group.id).await
}

/// With it end the roles that its users have through it.
async fn delete(cx: &mut Cx, input: OneGroup) -> Result<Deleted<GroupId>> {
    let group = find(cx, input.group_id.id()?).await?.id;
    let grants = grants_to(cx, group).await?;
    access::refuse_taking_beyond_own(cx, &grants).await?;
    let members = users_of(cx, group).await?;
    for sql in [
        "DELETE FROM role_assignment WHERE principal_id = $1",
        "DELETE FROM project_group WHERE group_id = $1",
        "DELETE FROM group_user WHERE group_id = $1",
        "DELETE FROM user_group WHERE id = $1",
    ] {
        cx.tx.execute(sql, &params![group]).await?;
    }
    access::keep_an_owner(cx, "group_id").await?;
    cx.changed(Entity::Group, group).await?;
    access::lapse_all(cx, &members).await?;
    cx.record(Event::GroupDeleted, group, None, json!({"id": group}));
    Ok(Deleted::new("group.deleted", group))
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GroupUser {
    object: &'static str,
    id: UserId,
    name: String,
    email: String,
    is_service_account: bool,
    picture: Option<String>,
    user_type: &'static str,
    /// Extension.
    added_at: Timestamp,
}

impl FromRow for GroupUser {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            object: "organization.user",
            id: row.get("id")?,
            name: row.get("name")?,
            email: row.get("email")?,
            is_service_account: false,
            picture: None,
            user_type: "user",
            added_at: row.get("added_at")?,
        })
    }
}

const USERS: &str =
    "SELECT u.id, u.name, u.email, m.added_at FROM group_user m JOIN app_user u ON u.id = m.user_id
    WHERE m.group_id = $1";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListGroupUsers {
    group_id: PathId<kind::Group>,
    after: Option<String>,
    limit: Option<i64>,
    order: Option<Order>,
}

/// The newest first, as OpenAI has it.
async fn list_users(cx: &mut Cx, input: ListGroupUsers) -> Result<NextPage<GroupUser>> {
    let limit = page::limit(input.limit, 100, 0, 1000)?;
    let after: Option<UserId> = page::cursor("after", input.after.as_deref())?;
    let group = find(cx, input.group_id.id()?).await?.id;
    let order = input.order.unwrap_or(Order::Desc);
    let sql = Sql::from(USERS).push(match order {
        Order::Asc => " AND m.user_id > $2 ORDER BY m.user_id ASC LIMIT $3",
        Order::Desc => " AND m.user_id < $2 ORDER BY m.user_id DESC LIMIT $3",
    });
    let rows = cx.tx.all(sql, &params![group, order.beyond(after), limit + 1]).await?;
    Ok(NextPage::new(rows, limit, |user: &GroupUser| user.id.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddGroupUser {
    group_id: PathId<kind::Group>,
    user_id: String,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct AddedGroupUser {
    object: &'static str,
    group_id: GroupId,
    user_id: UserId,
}

/// Adding a member a second time changes nothing.
async fn add_user(cx: &mut Cx, input: AddGroupUser) -> Result<AddedGroupUser> {
    let group = find(cx, input.group_id.id()?).await?.id;
    let user = users::named(cx, "user_id", &input.user_id).await?;
    let grants = grants_to(cx, group).await?;
    access::refuse_beyond_own(cx, &grants).await?;
    let added = cx
        .tx
        .execute(
            "INSERT INTO group_user (group_id, user_id, added_at) VALUES ($1, $2, $3)
             ON CONFLICT (group_id, user_id) DO NOTHING",
            &params![group, user, cx.now],
        )
        .await?;
    if added == 0 {
        cx.unchanged();
    } else {
        cx.changed(Entity::User, user).await?;
        let payload = json!({"id": group, "changes_requested": {"user_added": user}});
        cx.record(Event::GroupUpdated, group, None, payload);
    }
    Ok(AddedGroupUser { object: "group.user", group_id: group, user_id: user })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneGroupUser {
    group_id: PathId<kind::Group>,
    user_id: PathId<kind::User>,
}

async fn retrieve_user(cx: &mut Cx, input: OneGroupUser) -> Result<GroupUser> {
    let group = find(cx, input.group_id.id()?).await?.id;
    find_user(cx, group, input.user_id.id()?).await
}

async fn find_user(cx: &mut Cx, group: GroupId, user: UserId) -> Result<GroupUser> {
    let sql = Sql::from(USERS).push(" AND m.user_id = $2");
    let found = cx.tx.optional(sql, &params![group, user]).await?;
    found.ok_or_else(|| Error::not_found("user"))
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct RemovedGroupUser {
    object: &'static str,
    deleted: bool,
}

async fn remove_user(cx: &mut Cx, input: OneGroupUser) -> Result<RemovedGroupUser> {
    let group = find(cx, input.group_id.id()?).await?.id;
    let user = find_user(cx, group, input.user_id.id()?).await?.id;
    let grants = grants_to(cx, group).await?;
    access::refuse_taking_beyond_own(cx, &grants).await?;
    cx.tx
        .execute("DELETE FROM group_user WHERE group_id = $1 AND user_id = $2", &params![group, user])
        .await?;
    access::keep_an_owner(cx, "user_id").await?;
    cx.changed(Entity::User, user).await?;
    access::lapse(cx, user).await?;
    let payload = json!({"id": group, "changes_requested": {"user_removed": user}});
    cx.record(Event::GroupUpdated, group, None, payload);
    Ok(RemovedGroupUser { object: "group.user.deleted", deleted: true })
}

/// The group, if it belongs to the caller's organization.
pub(crate) async fn find(cx: &mut Cx, id: GroupId) -> Result<Group> {
    let found = cx
        .tx
        .optional(
            "SELECT * FROM user_group WHERE id = $1 AND organization_id = $2",
            &params![id, cx.organization()],
        )
        .await?;
    found.ok_or_else(|| Error::not_found("group"))
}

pub(crate) async fn users_of(cx: &mut Cx, group: GroupId) -> Result<Vec<UserId>> {
    let rows: Vec<Row> =
        cx.tx.all("SELECT user_id FROM group_user WHERE group_id = $1", &params![group]).await?;
    rows.iter().map(|row| row.at(0)).collect()
}

/// Who is in a group has what it has.
async fn grants_to(cx: &mut Cx, group: GroupId) -> Result<Vec<Grant>> {
    let organization = cx.organization();
    access::grants_to(&mut cx.tx, organization, &group.to_string()).await
}
