//! What was told to whom, and whether it arrived.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tollgate_alerts::outbox::{self, Notification};
use tollgate_core::id::kind;
use tollgate_core::page::{self, Page};
use tollgate_core::{Error, NotificationId, Permission, Result};
use tollgate_store::{Sql, params};

use crate::arguments::{Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;

pub(crate) fn operations() -> Operations {
    use Permission::{SpendLimitsRead, SpendLimitsWrite};
    const ALL: &str = "/tollgate/v1/notifications";
    const ONE: &str = "/tollgate/v1/notifications/{notification_id}";
    const RETRY: &str = "/tollgate/v1/notifications/{notification_id}/retry";
    Operations::new()
        .get(ALL, "list-notifications", Needs(SpendLimitsRead), list)
        .get(ONE, "retrieve-notification", Needs(SpendLimitsRead), retrieve)
        .post(RETRY, "retry-notification", Needs(SpendLimitsWrite), Event::OrganizationUpdated, retry)
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    Pending,
    Delivered,
    Failed,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct List {
    after: Option<String>,
    limit: Option<i64>,
    order: Option<Order>,
    status: Option<Status>,
}

/// Newest first, unless it is asked for otherwise.
async fn list(cx: &mut Cx, input: List) -> Result<Page<Notification>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<NotificationId> = page::cursor("after", input.after.as_deref())?;
    let order = input.order.unwrap_or(Order::Desc);
    let sql = Sql::from("SELECT * FROM notification WHERE organization_id = $1").push(match input.status {
        None => "",
        Some(Status::Pending) => " AND next_attempt_at IS NOT NULL",
        Some(Status::Delivered) => " AND delivered_at IS NOT NULL",
        Some(Status::Failed) => " AND delivered_at IS NULL AND next_attempt_at IS NULL",
    });
    let sql = sql.push(match order {
        Order::Asc => " AND id > $2 ORDER BY id ASC LIMIT $3",
        Order::Desc => " AND id < $2 ORDER BY id DESC LIMIT $3",
    });
    let rows = cx.tx.all(sql, &params![cx.organization(), order.beyond(after), limit + 1]).await?;
    Ok(Page::new(rows, limit, |notification: &Notification| notification.id.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct One {
    notification_id: PathId<kind::Notification>,
}

async fn retrieve(cx: &mut Cx, input: One) -> Result<Notification> {
    find(cx, input.notification_id.id()?).await
}

async fn find(cx: &mut Cx, id: NotificationId) -> Result<Notification> {
    let sql = "SELECT * FROM notification WHERE organization_id = $1 AND id = $2";
    let found = cx.tx.optional(sql, &params![cx.organization(), id]).await?;
    found.ok_or_else(|| Error::not_found("notification"))
}

async fn retry(cx: &mut Cx, input: One) -> Result<Notification> {
    let id = find(cx, input.notification_id.id()?).await?.id;
    if !outbox::again(&mut cx.tx, id, cx.now).await? {
        let message = "The alert of this notification was deleted, or is told by e-mail now.";
        return Err(Error::bad_request(message).code("alert_gone"));
    }
    let organization = cx.organization();
    let payload =
        json!({"id": organization, "changes_requested": {"notification": {"id": id, "retried": true}}});
    cx.record(Event::OrganizationUpdated, organization, None, payload);
    find(cx, id).await
}
