//! OpenAI's spend alerts of an organization and of a project: who is told when so much was spent in a month of UTC. Nothing is
//! stopped by one. Webhooks and Slack are extensions, and so is what shows whether the last notification arrived.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate_alerts::channel::NotificationChannel;
use tollgate_alerts::outbox;
use tollgate_core::id::kind;
use tollgate_core::page::{self, Page};
use tollgate_core::secret::{Secret, ShownOnce};
use tollgate_core::{Error, Permission, ProjectId, Result, SpendAlertId, Timestamp};
use tollgate_store::{FromRow, Row, Sql, Value as Bound, params};

use crate::arguments::{Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::spend_limits::read_currency;
use crate::resource::{Deleted, projects};

/// Of the organization, and of each project.
pub(crate) const ALERTS_MAX: i64 = 100;

pub(crate) fn operations() -> Operations {
    use Permission::{SpendLimitsRead, SpendLimitsWrite};
    const ALL: &str = "/v1/organization/spend_alerts";
    const ONE: &str = "/v1/organization/spend_alerts/{alert_id}";
    const OF_PROJECT: &str = "/v1/organization/projects/{project_id}/spend_alerts";
    const ONE_OF_PROJECT: &str = "/v1/organization/projects/{project_id}/spend_alerts/{alert_id}";
    const READ: crate::operation::Access = Needs(SpendLimitsRead);
    const WRITE: crate::operation::Access = Needs(SpendLimitsWrite);
    let (organization, project) = (Event::OrganizationUpdated, Event::ProjectUpdated);
    Operations::new()
        .get(ALL, "list-organization-spend-alerts", READ, list)
        .post(ALL, "create-organization-spend-alert", WRITE, organization, create)
        .get(ONE, "retrieve-organization-spend-alert", READ, retrieve)
        .post(ONE, "modify-organization-spend-alert", WRITE, organization, update)
        .delete(ONE, "delete-organization-spend-alert", WRITE, organization, delete)
        .get(OF_PROJECT, "list-project-spend-alerts", READ, list_of_project)
        .post(OF_PROJECT, "create-project-spend-alert", WRITE, project, create_of_project)
        .get(ONE_OF_PROJECT, "retrieve-project-spend-alert", READ, retrieve_of_project)
        .post(ONE_OF_PROJECT, "modify-project-spend-alert", WRITE, project, update_of_project)
        .delete(ONE_OF_PROJECT, "delete-project-spend-alert", WRITE, project, delete_of_project)
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct SpendAlert {
    object: &'static str,
    id: SpendAlertId,
    /// In cents.
    threshold_amount: i64,
    currency: &'static str,
    interval: &'static str,
    notification_channel: NotificationChannel,
    // Extensions.
    created_at: Timestamp,
    /// What became of the last notification, of several recipients one whom it has not reached if there is one; null before the first.
    last_notification: Option<LastNotification>,
    /// What signs a webhook's posts: in the answer that made it, this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_secret: Option<ShownOnce>,
    #[serde(skip)]
    secret: Option<Vec<u8>>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct LastNotification {
    id: String,
    /// `pending`, `delivered` or `failed`.
    status: &'static str,
    error: Option<String>,
    created_at: Timestamp,
}

impl LastNotification {
    /// Of a row of [`SELECT`].
    pub(crate) fn read(row: &Row) -> Result<Option<Self>> {
        Ok(match row.get("notification_id")? {
            Some(id) => Some(Self {
                id,
                status: outbox::status(row.get("delivered_at")?, row.get("next_attempt_at")?),
                error: row.get("error")?,
                created_at: row.get("notified_at")?,
            }),
            None => None,
        })
    }
}

impl FromRow for SpendAlert {
    fn from_row(row: &Row) -> Result<Self> {
        let project: Option<ProjectId> = row.get("project_id")?;
        Ok(Self {
            object: if project.is_some() { "project.spend_alert" } else { "organization.spend_alert" },
            id: row.get("id")?,
            threshold_amount: row.get("threshold_amount")?,
            currency: "USD",
            interval: "month",
            notification_channel: NotificationChannel::from_stored(&row.get::<String>("channel")?)?,
            created_at: row.get("created_at")?,
            last_notification: LastNotification::read(row)?,
            signing_secret: None,
            secret: row.get("secret")?,
        })
    }
}

/// Alerts with what became of their last notification.
pub(crate) const SELECT: &str =
    "SELECT a.*, n.id AS notification_id, n.delivered_at, n.next_attempt_at, n.error,
        n.created_at AS notified_at
    FROM spend_alert a
        LEFT JOIN notification n ON n.id = (SELECT m.id FROM notification m WHERE m.spend_alert_id = a.id
            ORDER BY m.created_at DESC, CASE WHEN m.delivered_at IS NULL THEN 0 ELSE 1 END, m.id LIMIT 1)
    WHERE ";

/// Whose alerts: a project's, or the organization's own. `$1` is its id.
fn of(cx: &Cx, project: Option<ProjectId>) -> (&'static str, Bound) {
    let [organization, project_id] = params![cx.organization(), project];
    match project {
        Some(_) => ("a.project_id = $1 AND a.events IS NULL", project_id),
        None => ("a.organization_id = $1 AND a.project_id IS NULL AND a.events IS NULL", organization),
    }
}

async fn find(cx: &mut Cx, project: Option<ProjectId>, id: SpendAlertId) -> Result<SpendAlert> {
    let (whose, owner) = of(cx, project);
    let sql = Sql::from(SELECT).push(whose).push(" AND a.id = $2");
    let found = cx.tx.optional(sql, &params![owner, id]).await?;
    found.ok_or_else(|| Error::not_found("spend alert"))
}

/// The same operations twice: of the organization, and of a project in the path.
macro_rules! of_both {
    ($(#[$doc:meta])* $input:ident, $input_of_project:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $input { $($field: $type,)* }

        #[derive(Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $input_of_project { project_id: PathId<kind::Project>, $($field: $type,)* }

        impl $input_of_project {
            fn split(self) -> (PathId<kind::Project>, $input) {
                (self.project_id, $input { $($field: self.$field,)* })
            }
        }
    };
}

of_both! {
    List, ListOfProject { after: Option<String>, before: Option<String>, limit: Option<i64>, order: Option<Order> }
}
of_both! {
    Create, CreateOfProject {
        threshold_amount: i64, currency: String, interval: String, notification_channel: NotificationChannel,
    }
}
of_both! { One, OneOfProject { alert_id: PathId<kind::SpendAlert> } }
of_both! {
    /// OpenAI replaces the whole.
    Update, UpdateOfProject {
        alert_id: PathId<kind::SpendAlert>, threshold_amount: i64, currency: String, interval: String,
        notification_channel: NotificationChannel,
    }
}

async fn list(cx: &mut Cx, input: List) -> Result<Page<SpendAlert>> {
    page_of(cx, None, input).await
}

async fn list_of_project(cx: &mut Cx, input: ListOfProject) -> Result<Page<SpendAlert>> {
    let (project, input) = input.split();
    let project = projects::find(cx, project.id()?).await?.id;
    page_of(cx, Some(project), input).await
}

/// After an id, or the last before one.
async fn page_of(cx: &mut Cx, project: Option<ProjectId>, input: List) -> Result<Page<SpendAlert>> {
    let limit = page::limit(input.limit, 20, 0, 100)?;
    let after: Option<SpendAlertId> = page::cursor("after", input.after.as_deref())?;
    let before: Option<SpendAlertId> = page::cursor("before", input.before.as_deref())?;
    if after.is_some() && before.is_some() {
        return Err(Error::invalid("before", "Give at most one of 'after' and 'before'."));
    }
    let order = input.order.unwrap_or_default();
    let is_backwards = before.is_some();
    let is_up = (order == Order::Asc) != is_backwards;
    let edge = if is_up { Order::Asc.beyond(after.or(before)) } else { Order::Desc.beyond(after.or(before)) };
    let (whose, owner) = of(cx, project);
    let sql = Sql::from(SELECT).push(whose).push(if is_up {
        " AND a.id > $2 ORDER BY a.id ASC LIMIT $3"
    } else {
        " AND a.id < $2 ORDER BY a.id DESC LIMIT $3"
    });
    let mut rows: Vec<SpendAlert> = cx.tx.all(sql, &params![owner, edge, limit + 1]).await?;
    let has_more = rows.len() > limit && limit > 0;
    rows.truncate(limit);
    if is_backwards {
        rows.reverse();
    }
    Ok(Page::with_more(rows, has_more, |alert| alert.id.to_string()))
}

async fn create(cx: &mut Cx, input: Create) -> Result<SpendAlert> {
    make(cx, None, input).await
}

async fn create_of_project(cx: &mut Cx, input: CreateOfProject) -> Result<SpendAlert> {
    let (project, input) = input.split();
    let project = projects::live(cx, project.id()?).await?.id;
    make(cx, Some(project), input).await
}

async fn make(cx: &mut Cx, project: Option<ProjectId>, input: Create) -> Result<SpendAlert> {
    let threshold = threshold(input.threshold_amount, &input.currency, &input.interval)?;
    let (whose, owner) = of(cx, project);
    let sql = Sql::from("SELECT COUNT(*) FROM spend_alert a WHERE ").push(whose);
    let there: Row = cx.tx.one(sql, &[owner]).await?;
    if there.at::<i64>(0)? >= ALERTS_MAX {
        let message = format!("There are {ALERTS_MAX} spend alerts here already. Delete one first.");
        return Err(Error::bad_request(message).code("too_many_spend_alerts"));
    }
    let id: SpendAlertId = cx.id();
    let channel = input.notification_channel.check(&cx.desk.keyring, &id.to_string(), None)?;
    cx.tx
        .execute(
            "INSERT INTO spend_alert (id, organization_id, project_id, threshold_amount, channel, secret, created_at,
                changed_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
            &params![id, cx.organization(), project, threshold, channel.shown, channel.secret, cx.now],
        )
        .await?;
    tell(
        cx,
        project,
        &json!({"id": id, "threshold_amount": threshold, "notification_channel": shown(&channel.shown)}),
    );
    let made = find(cx, project, id).await?;
    Ok(with_secret(made, channel.signing_secret))
}

fn with_secret(alert: SpendAlert, secret: Option<String>) -> SpendAlert {
    SpendAlert { signing_secret: secret.map(|secret| ShownOnce(Secret::new(secret))), ..alert }
}

pub(crate) fn shown(channel: &str) -> Value {
    serde_json::from_str(channel).unwrap_or(Value::Null)
}

fn threshold(amount: i64, currency: &str, interval: &str) -> Result<i64> {
    read_currency(currency)?;
    if interval != "month" {
        let message = format!("Invalid 'interval': expected 'month', but got '{interval}'.");
        return Err(Error::invalid("interval", message));
    }
    let most = tollgate_core::Money::MAX.cents();
    if !(0..=most).contains(&amount) {
        let message = format!(
            "Invalid 'threshold_amount': expected an amount in cents from 0 to {most}, but got {amount}."
        );
        return Err(Error::invalid("threshold_amount", message));
    }
    Ok(amount)
}

/// Notes what was done with an alert in the audit log, which has no event of its own for it.
fn tell(cx: &mut Cx, project: Option<ProjectId>, what: &Value) {
    let (event, id) = match project {
        Some(project) => (Event::ProjectUpdated, project.to_string()),
        None => (Event::OrganizationUpdated, cx.organization().to_string()),
    };
    let payload = json!({"id": id, "changes_requested": {"spend_alert": what}});
    cx.record(event, id, project, payload);
}

async fn retrieve(cx: &mut Cx, input: One) -> Result<SpendAlert> {
    find(cx, None, input.alert_id.id()?).await
}

async fn retrieve_of_project(cx: &mut Cx, input: OneOfProject) -> Result<SpendAlert> {
    let (project, input) = input.split();
    let project = projects::find(cx, project.id()?).await?.id;
    find(cx, Some(project), input.alert_id.id()?).await
}

async fn update(cx: &mut Cx, input: Update) -> Result<SpendAlert> {
    replace(cx, None, input).await
}

async fn update_of_project(cx: &mut Cx, input: UpdateOfProject) -> Result<SpendAlert> {
    let (project, input) = input.split();
    let project = projects::live(cx, project.id()?).await?.id;
    replace(cx, Some(project), input).await
}

async fn replace(cx: &mut Cx, project: Option<ProjectId>, input: Update) -> Result<SpendAlert> {
    let before = find(cx, project, input.alert_id.id()?).await?;
    let threshold = threshold(input.threshold_amount, &input.currency, &input.interval)?;
    let known = (&before.notification_channel, before.secret.as_deref());
    let channel = input.notification_channel.check(&cx.desk.keyring, &before.id.to_string(), Some(known))?;
    cx.tx
        .execute(
            "UPDATE spend_alert SET threshold_amount = $1, channel = $2, secret = $3, changed_at = $4 WHERE id = $5",
            &params![threshold, channel.shown, channel.secret, cx.now, before.id],
        )
        .await?;
    outbox::redirect(&mut cx.tx, &before.id.to_string(), &channel).await?;
    let told = json!({"id": before.id, "threshold_amount": threshold, "notification_channel": shown(&channel.shown)});
    tell(cx, project, &told);
    let alert = find(cx, project, before.id).await?;
    Ok(with_secret(alert, channel.signing_secret))
}

async fn delete(cx: &mut Cx, input: One) -> Result<Deleted<SpendAlertId>> {
    remove(cx, None, &input.alert_id, "organization.spend_alert.deleted").await
}

/// Of an archived project too, so that what is still on its way can be stopped.
async fn delete_of_project(cx: &mut Cx, input: OneOfProject) -> Result<Deleted<SpendAlertId>> {
    let (project, input) = input.split();
    let project = projects::find(cx, project.id()?).await?.id;
    remove(cx, Some(project), &input.alert_id, "project.spend_alert.deleted").await
}

/// What was not delivered yet is not sent any more.
async fn remove(
    cx: &mut Cx,
    project: Option<ProjectId>,
    id: &PathId<kind::SpendAlert>,
    object: &'static str,
) -> Result<Deleted<SpendAlertId>> {
    let id = find(cx, project, id.id()?).await?.id;
    for sql in [
        "DELETE FROM spend_alert WHERE id = $1",
        "DELETE FROM spend_alert_crossing WHERE spend_alert_id = $1",
    ] {
        cx.tx.execute(sql, &params![id]).await?;
    }
    outbox::take_back(&mut cx.tx, &id.to_string()).await?;
    tell(cx, project, &json!({"id": id, "deleted": true}));
    Ok(Deleted::new(object, id))
}
