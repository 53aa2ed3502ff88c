//! What is to be told: written with what it tells, sent from there, tried again where that fails.

use futures_util::future::join_all;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use tollgate_core::secret::Keyring;
use tollgate_core::{Error, Money, NotificationId, ProjectId, Result, SpendAlertId, Timestamp};
use tollgate_store::{FromRow, Row, Tx, params};

use crate::channel::{Kind, NotificationChannel, Target};
use crate::email::Mail;
use crate::{Alerts, webhook};

/// Seconds until the next attempt after each that failed; after the last it is given up, a day later.
const PAUSES: [i64; 9] = [10, 60, 300, 900, 3_600, 7_200, 14_400, 28_800, 28_800];
/// Sent at the same time.
const AT_ONCE: usize = 20;
const ERROR_MAX: usize = 500;

/// Something that is to be told over the channel of an alert.
pub(crate) struct New {
    pub(crate) id: NotificationId,
    pub(crate) alert: SpendAlertId,
    pub(crate) event: &'static str,
    pub(crate) payload: Value,
    pub(crate) now: Timestamp,
}

pub(crate) async fn put(tx: &mut Tx, new: New) -> Result<()> {
    let New { id, alert, event, payload, now } = new;
    tx.execute(
        "INSERT INTO notification (id, organization_id, project_id, spend_alert_id, event, channel, secret, payload, attempts,
            next_attempt_at, delivered_at, error, created_at)
         SELECT $1, a.organization_id, a.project_id, a.id, $3, a.channel, a.secret, $4, 0, $5, NULL, NULL, $5
         FROM spend_alert a WHERE a.id = $2",
        &params![id, alert, event, payload.to_string(), now],
    )
    .await?;
    Ok(())
}

/// A notification as it is shown.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Notification {
    pub object: &'static str,
    pub id: NotificationId,
    pub event: String,
    pub spend_alert_id: SpendAlertId,
    pub project_id: Option<ProjectId>,
    pub notification_channel: NotificationChannel,
    /// `pending`, `delivered` or `failed`: given up.
    pub status: &'static str,
    pub attempts: u64,
    /// Why the last attempt failed.
    pub error: Option<String>,
    pub created_at: Timestamp,
    pub next_attempt_at: Option<Timestamp>,
    pub delivered_at: Option<Timestamp>,
}

impl FromRow for Notification {
    fn from_row(row: &Row) -> Result<Self> {
        let next_attempt_at: Option<Timestamp> = row.get("next_attempt_at")?;
        let delivered_at: Option<Timestamp> = row.get("delivered_at")?;
        let status = match (delivered_at, next_attempt_at) {
            (Some(_), _) => "delivered",
            (None, Some(_)) => "pending",
            (None, None) => "failed",
        };
        Ok(Self {
            object: "tollgate.notification",
            id: row.get("id")?,
            event: row.get("event")?,
            spend_alert_id: row.get("spend_alert_id")?,
            project_id: row.get("project_id")?,
            notification_channel: NotificationChannel::from_stored(&row.get::<String>("channel")?)?,
            status,
            attempts: row.get("attempts")?,
            error: row.get("error")?,
            created_at: row.get("created_at")?,
            next_attempt_at,
            delivered_at,
        })
    }
}

/// One that is due, with all that is needed to send it.
struct Due {
    id: NotificationId,
    alert: SpendAlertId,
    event: String,
    channel: NotificationChannel,
    secret: Option<Vec<u8>>,
    payload: Value,
    attempts: usize,
    created_at: Timestamp,
}

impl FromRow for Due {
    fn from_row(row: &Row) -> Result<Self> {
        let payload: String = row.get("payload")?;
        Ok(Self {
            id: row.get("id")?,
            alert: row.get("spend_alert_id")?,
            event: row.get("event")?,
            channel: NotificationChannel::from_stored(&row.get::<String>("channel")?)?,
            secret: row.get("secret")?,
            payload: serde_json::from_str(&payload)
                .map_err(|error| Error::internal("a stored notification cannot be read").source(error))?,
            attempts: row.get("attempts")?,
            created_at: row.get("created_at")?,
        })
    }
}

impl Alerts {
    /// Sends what is due, and notes what became of it.
    pub(crate) async fn deliver(&self) -> Result<()> {
        loop {
            let now = self.clock.now();
            let rows: Vec<Row> = self
                .db
                .read(move |tx| {
                    Box::pin(async move {
                        let sql = "SELECT * FROM notification WHERE next_attempt_at <= $1 ORDER BY next_attempt_at LIMIT $2";
                        tx.all(sql, &params![now, AT_ONCE]).await
                    })
                })
                .await?;
            if rows.is_empty() {
                return Ok(());
            }
            let ends = join_all(rows.iter().map(|row| self.attempt(row))).await;
            let ends = ends.into_iter().collect::<Result<Vec<_>>>()?;
            self.db.write(move |tx| Box::pin(async move { note(tx, ends).await })).await?;
        }
    }

    /// Sends one; what cannot be read is given up, and keeps nothing else from being sent.
    async fn attempt(&self, row: &Row) -> Result<End> {
        let due = match Due::from_row(row) {
            Ok(due) => due,
            Err(error) => {
                let id = row.get("id")?;
                tracing::error!(notification = %id, %error, "a notification cannot be read and is given up");
                let error = Some("it cannot be read".to_owned());
                return Ok(End { id, attempts: 1, next_attempt_at: None, delivered_at: None, error });
            }
        };
        let result = self.hand_over(&due).await;
        Ok(end(&due, result, self.clock.now()))
    }

    async fn hand_over(&self, due: &Due) -> Result<(), String> {
        match due.channel.kind {
            Kind::Email => {
                let mailer = self.mailer.as_ref().ok_or("no mail server is set up: start with --smtp-url")?;
                mailer.send(&mail(due)).await
            }
            Kind::Webhook | Kind::Slack => {
                let target = target(&self.keyring, due).map_err(|error| error.message)?;
                let body = if due.channel.kind == Kind::Slack {
                    json!({"text": text(due)})
                } else {
                    json!({"object": "event", "id": due.id, "type": due.event, "created_at": due.created_at, "data": due.payload})
                };
                webhook::post(&self.dialer, &target, due.id, self.clock.now(), &body.to_string()).await
            }
        }
    }
}

fn target(keyring: &Keyring, due: &Due) -> Result<Target> {
    let sealed = due.secret.as_deref().ok_or_else(|| Error::internal("a webhook has no address"))?;
    Target::open(keyring, due.alert, sealed)
}

/// How many have not arrived yet: those that were not tried, and those that have failed.
pub async fn waiting(tx: &mut Tx) -> Result<[u64; 2]> {
    let row: Row = tx
        .one("SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN attempts > 0 THEN 1 ELSE 0 END), 0) AS BIGINT) FROM notification WHERE next_attempt_at IS NOT NULL", &[])
        .await?;
    let (all, failing): (u64, u64) = (row.at(0)?, row.at(1)?);
    Ok([all - failing, failing])
}

/// What became of an attempt.
struct End {
    id: NotificationId,
    attempts: usize,
    next_attempt_at: Option<Timestamp>,
    delivered_at: Option<Timestamp>,
    error: Option<String>,
}

fn end(due: &Due, result: Result<(), String>, now: Timestamp) -> End {
    let attempts = due.attempts + 1;
    let (id, alert) = (due.id, due.alert);
    match result {
        Ok(()) => {
            tracing::info!(notification = %id, %alert, attempts, "a notification was delivered");
            End { id, attempts, next_attempt_at: None, delivered_at: Some(now), error: None }
        }
        Err(why) => {
            let next_attempt_at = PAUSES.get(due.attempts).map(|pause| now.plus_seconds(*pause));
            if next_attempt_at.is_some() {
                tracing::warn!(notification = %id, %alert, attempts, why, "a notification was not delivered; trying again");
            } else {
                tracing::error!(notification = %id, %alert, attempts, why, "a notification was not delivered and is given up");
            }
            let error = Some(why.chars().take(ERROR_MAX).collect());
            End { id, attempts, next_attempt_at, delivered_at: None, error }
        }
    }
}

async fn note(tx: &mut Tx, ends: Vec<End>) -> Result<()> {
    let sets = ends
        .into_iter()
        .map(|end| params![end.attempts, end.next_attempt_at, end.delivered_at, end.error, end.id]);
    tx.execute_each(
        "UPDATE notification SET attempts = $1, next_attempt_at = $2, delivered_at = $3, error = $4 WHERE id = $5",
        sets,
    )
    .await?;
    Ok(())
}

/// One sentence for people.
fn text(due: &Due) -> String {
    let word = |name: &str| due.payload[name].as_str().unwrap_or_default().to_owned();
    let whose = match due.payload["project_name"].as_str() {
        Some(project) => format!("The project {project} of {}", word("organization_name")),
        None => format!("The organization {}", word("organization_name")),
    };
    let dollars = |money: Option<Money>| money.map(Money::dollars).unwrap_or_default();
    let spent = dollars(Money::parse(&word("spent")));
    let threshold = dollars(due.payload["threshold_amount"].as_i64().and_then(Money::from_cents));
    let since = due.payload["period_start"].as_i64().map(|at| Timestamp(at).to_string()).unwrap_or_default();
    format!(
        "{whose} has spent {spent} since {}, and {threshold} is what you wanted to be told at.",
        &since[..since.len().min(10)]
    )
}

fn mail(due: &Due) -> Mail {
    let whose = due.payload["project_name"].as_str().or(due.payload["organization_name"].as_str());
    let prefix = due.channel.subject_prefix.as_deref().map(|prefix| format!("{prefix} ")).unwrap_or_default();
    let threshold = due.payload["threshold_amount"].as_i64().and_then(Money::from_cents);
    let threshold = threshold.map(Money::dollars).unwrap_or_default();
    Mail {
        id: due.id.to_string(),
        recipients: due.channel.recipients.clone().unwrap_or_default(),
        subject: format!("{prefix}{} has spent {threshold} this month", whose.unwrap_or_default()),
        text: format!(
            "{}\n\nNothing is stopped by this: it is an alert, and not a limit.\n\nAlert {}, notification {}.\n",
            text(due),
            due.alert,
            due.id
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_for_a_day_and_then_given_up() {
        let channel =
            NotificationChannel { kind: Kind::Slack, recipients: None, subject_prefix: None, url: None };
        let mut due = Due {
            id: NotificationId::from_bits(1),
            alert: SpendAlertId::from_bits(2),
            event: "spend_alert.reached".to_owned(),
            channel,
            secret: None,
            payload: Value::Null,
            attempts: 0,
            created_at: Timestamp(0),
        };
        let mut now = Timestamp(0);
        for attempt in 1..=PAUSES.len() {
            let end = end(&due, Err("x".repeat(2 * ERROR_MAX)), now);
            assert_eq!((end.attempts, end.error.unwrap().len()), (attempt, ERROR_MAX));
            now = end.next_attempt_at.unwrap();
            due.attempts = end.attempts;
        }
        assert!((20..30).contains(&(now.0 / 3_600)), "{now}");
        let last = end(&due, Err("at last".to_owned()), now);
        assert_eq!((last.next_attempt_at, last.delivered_at, last.attempts), (None, None, PAUSES.len() + 1));
        let arrived = end(&due, Ok(()), now);
        assert_eq!((arrived.next_attempt_at, arrived.delivered_at, arrived.error), (None, Some(now), None));
    }
}
