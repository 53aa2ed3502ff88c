//! What was told to whom, and whether it arrived.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tollgate_alerts::channel::Kind;
use tollgate_alerts::outbox::Notification;
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

/// Sends it at once, to the address that its alert has now. Of an e-mail the recipients are those that it had.
async fn retry(cx: &mut Cx, input: One) -> Result<Notification> {
    let before = find(cx, input.notification_id.id()?).await?;
    let id = before.id;
    let channel = if before.notification_channel.kind == Kind::Email {
        "channel"
    } else {
        "(SELECT a.channel FROM spend_alert a WHERE a.id = notification.spend_alert_id)"
    };
    let sql = Sql::from("UPDATE notification SET next_attempt_at = $2, attempts = 0, delivered_at = NULL, error = NULL, channel = ")
        .push(channel)
        .push(
            ", secret = (SELECT a.secret FROM spend_alert a WHERE a.id = notification.spend_alert_id)
             WHERE id = $1 AND EXISTS (SELECT 1 FROM spend_alert a WHERE a.id = notification.spend_alert_id)",
        );
    let again = cx.tx.execute(sql, &params![id, cx.now]).await?;
    if again == 0 {
        let message = "The alert that this notification was of has been deleted.";
        return Err(Error::bad_request(message).code("alert_deleted"));
    }
    let organization = cx.organization();
    let payload =
        json!({"id": organization, "changes_requested": {"notification": {"id": id, "retried": true}}});
    cx.record(Event::OrganizationUpdated, organization, None, payload);
    find(cx, id).await
}
