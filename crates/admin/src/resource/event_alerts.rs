//! Alerts of what happens beside spending: limits that are reached, keys that expire or rest, upstreams that cannot be used.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate_alerts::channel::NotificationChannel;
use tollgate_alerts::events::{EVENTS, UNUSED_AFTER_DAYS};
use tollgate_alerts::outbox;
use tollgate_core::id::kind;
use tollgate_core::page::{self, Page};
use tollgate_core::secret::{Secret, ShownOnce};
use tollgate_core::{Error, EventAlertId, Permission, ProjectId, Result, Timestamp};
use tollgate_store::{FromRow, Row, Sql, params};

use crate::arguments::{Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::spend_alerts::{self, ALERTS_MAX, LastNotification};
use crate::resource::{Deleted, projects};

pub(crate) fn operations() -> Operations {
    use Permission::{SpendLimitsRead, SpendLimitsWrite};
    const ALL: &str = "/tollgate/v1/event_alerts";
    const ONE: &str = "/tollgate/v1/event_alerts/{event_alert_id}";
    let (read, write) = (Needs(SpendLimitsRead), Needs(SpendLimitsWrite));
    Operations::new()
        .get(ALL, "list-event-alerts", read, list)
        .post(ALL, "create-event-alert", write, Event::OrganizationUpdated, create)
        .get(ONE, "retrieve-event-alert", read, retrieve)
        .post(ONE, "modify-event-alert", write, Event::OrganizationUpdated, replace)
        .delete(ONE, "delete-event-alert", write, Event::OrganizationUpdated, delete)
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct EventAlert {
    object: &'static str,
    id: EventAlertId,
    /// `spend_limit.reached`, `api_key.expiring`, `api_key.unused`, `upstream.down`.
    events: Vec<String>,
    /// Of whose limits and keys it tells; null for the whole organization.
    project_id: Option<ProjectId>,
    unused_after_days: i64,
    notification_channel: NotificationChannel,
    created_at: Timestamp,
    /// What became of the last notification; null before the first.
    last_notification: Option<LastNotification>,
    /// What signs a webhook's posts: in the answer that made it, this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_secret: Option<ShownOnce>,
    #[serde(skip)]
    secret: Option<Vec<u8>>,
}

impl FromRow for EventAlert {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            object: "tollgate.event_alert",
            id: row.get("id")?,
            events: row.get::<String>("events")?.split_whitespace().map(str::to_owned).collect(),
            project_id: row.get("project_id")?,
            unused_after_days: row.get::<Option<i64>>("unused_after_days")?.unwrap_or(UNUSED_AFTER_DAYS),
            notification_channel: NotificationChannel::from_stored(&row.get::<String>("channel")?)?,
            created_at: row.get("created_at")?,
            last_notification: LastNotification::read(row)?,
            signing_secret: None,
            secret: row.get("secret")?,
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct List {
    after: Option<String>,
    limit: Option<i64>,
    order: Option<Order>,
}

async fn list(cx: &mut Cx, input: List) -> Result<Page<EventAlert>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<EventAlertId> = page::cursor("after", input.after.as_deref())?;
    let order = input.order.unwrap_or_default();
    let sql = Sql::from(spend_alerts::SELECT).push(match order {
        Order::Asc => {
            "a.organization_id = $1 AND a.events IS NOT NULL AND a.id > $2 ORDER BY a.id ASC LIMIT $3"
        }
        Order::Desc => {
            "a.organization_id = $1 AND a.events IS NOT NULL AND a.id < $2 ORDER BY a.id DESC LIMIT $3"
        }
    });
    let rows = cx.tx.all(sql, &params![cx.organization(), order.beyond(after), limit + 1]).await?;
    Ok(Page::new(rows, limit, |alert: &EventAlert| alert.id.to_string()))
}

async fn find(cx: &mut Cx, id: EventAlertId) -> Result<EventAlert> {
    let sql =
        Sql::from(spend_alerts::SELECT).push("a.organization_id = $1 AND a.events IS NOT NULL AND a.id = $2");
    let found = cx.tx.optional(sql, &params![cx.organization(), id]).await?;
    found.ok_or_else(|| Error::not_found("event alert"))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateEventAlert {
    events: Vec<String>,
    /// Only of its limits and keys.
    project_id: Option<String>,
    /// After so many days without use a key is told of: 90 unless it says otherwise.
    unused_after_days: Option<i64>,
    notification_channel: NotificationChannel,
}

async fn create(cx: &mut Cx, input: CreateEventAlert) -> Result<EventAlert> {
    let project = match input.project_id.as_deref() {
        None => None,
        Some(id) => {
            let unknown = || Error::invalid("project_id", "There is no such project.");
            let id = ProjectId::parse(id).ok_or_else(unknown)?;
            match projects::live(cx, id).await {
                Ok(project) => Some(project.id),
                Err(error) if error.is_not_found() => return Err(unknown()),
                Err(error) => return Err(error),
            }
        }
    };
    let events = events(cx, &input.events, project)?;
    let days = days(input.unused_after_days, &events)?;
    let sql = "SELECT COUNT(*) FROM spend_alert WHERE organization_id = $1 AND events IS NOT NULL";
    let there: Row = cx.tx.one(sql, &params![cx.organization()]).await?;
    if there.at::<i64>(0)? >= ALERTS_MAX {
        let message = format!("There are {ALERTS_MAX} event alerts here already. Delete one first.");
        return Err(Error::bad_request(message).code("too_many_event_alerts"));
    }
    let id: EventAlertId = cx.id();
    let channel = input.notification_channel.check(&cx.desk.keyring, &id.to_string(), None)?;
    cx.tx
        .execute(
            "INSERT INTO spend_alert (id, organization_id, project_id, threshold_amount, channel, secret, created_at,
                changed_at, events, unused_after_days, created_by)
             VALUES ($1, $2, $3, 0, $4, $5, $6, $6, $7, $8, $9)",
            &params![
                id,
                cx.organization(),
                project,
                channel.shown,
                channel.secret,
                cx.now,
                events.join(" "),
                days,
                cx.actor.owner
            ],
        )
        .await?;
    tell(
        cx,
        &json!({"id": id, "events": events, "project_id": project,
        "notification_channel": spend_alerts::shown(&channel.shown)}),
    );
    let made = find(cx, id).await?;
    Ok(with_secret(made, channel.signing_secret))
}

fn with_secret(alert: EventAlert, secret: Option<String>) -> EventAlert {
    EventAlert { signing_secret: secret.map(|secret| ShownOnce(Secret::new(secret))), ..alert }
}

/// In the order in which they are listed, each once.
fn events(cx: &Cx, asked: &[String], project: Option<ProjectId>) -> Result<Vec<&'static str>> {
    let all = EVENTS.join("', '");
    if let Some(unknown) = asked.iter().find(|event| !EVENTS.contains(&event.as_str())) {
        let unknown: String = unknown.chars().take(40).collect();
        let message = format!("Invalid 'events': expected some of '{all}', but got '{unknown}'.");
        return Err(Error::invalid("events", message));
    }
    if asked.is_empty() {
        return Err(Error::invalid("events", format!("Invalid 'events': expected some of '{all}'.")));
    }
    if asked.iter().any(|event| event == "upstream.down") {
        if project.is_some() {
            let message = "Invalid 'events': an upstream is nobody's in particular; leave 'project_id' out.";
            return Err(Error::invalid("events", message));
        }
        if !cx.actor.acts_as_operator() {
            let message = "Only operators are told how upstreams are.";
            return Err(Error::new(tollgate_core::Kind::Forbidden, message)
                .code("operator_required")
                .param("events"));
        }
    }
    // Nobody has keys named to them whom they are not shown.
    let reading = Permission::ProjectApiKeysRead;
    if asked.iter().any(|event| event.starts_with("api_key.")) && !cx.actor.may(reading) {
        return Err(Error::forbidden(reading.as_str()));
    }
    Ok(EVENTS.into_iter().filter(|event| asked.iter().any(|asked| asked == event)).collect())
}

fn days(asked: Option<i64>, events: &[&'static str]) -> Result<i64> {
    const MAX: i64 = 3_650;
    let param = "unused_after_days";
    if asked.is_some() && !events.contains(&"api_key.unused") {
        let message = format!("Invalid '{param}': it is of 'api_key.unused', which is not among 'events'.");
        return Err(Error::invalid(param, message));
    }
    let days = asked.unwrap_or(UNUSED_AFTER_DAYS);
    if !(1..=MAX).contains(&days) {
        let message = format!("Invalid '{param}': expected a value from 1 to {MAX}, but got {days}.");
        return Err(Error::invalid(param, message));
    }
    Ok(days)
}

/// Notes what was done in the audit log, which has no event of its own for it.
fn tell(cx: &mut Cx, what: &Value) {
    let organization = cx.organization();
    let payload = json!({"id": organization, "changes_requested": {"event_alert": what}});
    cx.record(Event::OrganizationUpdated, organization, None, payload);
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneEventAlert {
    event_alert_id: PathId<kind::EventAlert>,
}

async fn retrieve(cx: &mut Cx, input: OneEventAlert) -> Result<EventAlert> {
    find(cx, input.event_alert_id.id()?).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplaceEventAlert {
    event_alert_id: PathId<kind::EventAlert>,
    events: Vec<String>,
    unused_after_days: Option<i64>,
    notification_channel: NotificationChannel,
}

/// As with spend alerts the whole is replaced, but for whose it is.
async fn replace(cx: &mut Cx, input: ReplaceEventAlert) -> Result<EventAlert> {
    let before = find(cx, input.event_alert_id.id()?).await?;
    let events = events(cx, &input.events, before.project_id)?;
    let days = days(input.unused_after_days, &events)?;
    let known = (&before.notification_channel, before.secret.as_deref());
    let id = before.id.to_string();
    let channel = input.notification_channel.check(&cx.desk.keyring, &id, Some(known))?;
    // What it has not told of before is looked at from the beginning.
    let is_new = events.iter().any(|event| !before.events.iter().any(|known| known == event))
        || days != before.unused_after_days;
    let looked_at = if is_new { "NULL" } else { "looked_at" };
    cx.tx
        .execute(
            Sql::from(
                "UPDATE spend_alert SET events = $1, unused_after_days = $2, channel = $3, secret = $4,
                changed_at = $5, created_by = $7, looked_at = ",
            )
            .push(looked_at)
            .push(" WHERE id = $6"),
            &params![
                events.join(" "),
                days,
                channel.shown,
                channel.secret,
                cx.now,
                before.id,
                cx.actor.owner
            ],
        )
        .await?;
    outbox::redirect(&mut cx.tx, &id, &channel).await?;
    tell(
        cx,
        &json!({"id": id, "events": events, "notification_channel": spend_alerts::shown(&channel.shown)}),
    );
    let alert = find(cx, before.id).await?;
    Ok(with_secret(alert, channel.signing_secret))
}

/// What was not delivered yet is not sent any more.
async fn delete(cx: &mut Cx, input: OneEventAlert) -> Result<Deleted<EventAlertId>> {
    let id = find(cx, input.event_alert_id.id()?).await?.id;
    for sql in ["DELETE FROM spend_alert WHERE id = $1", "DELETE FROM event_told WHERE alert_id = $1"] {
        cx.tx.execute(sql, &params![id]).await?;
    }
    outbox::take_back(&mut cx.tx, &id.to_string()).await?;
    tell(cx, &json!({"id": id, "deleted": true}));
    Ok(Deleted::new("tollgate.event_alert.deleted", id))
}
