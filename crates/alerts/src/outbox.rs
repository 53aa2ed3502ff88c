//! What is to be told: written with what it tells, sent from there, tried again where that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use tollgate_core::secret::Keyring;
use tollgate_core::{Clock, Error, EventAlertId, NotificationId, ProjectId, Result, SpendAlertId, Timestamp};
use tollgate_store::{FromRow, Row, Sql, Tx, params};

use crate::channel::{Checked, Kind, NotificationChannel, Target};
use crate::email::Mail;
use crate::words::{self, Words};
use crate::{Alerts, PAUSE, webhook};

/// Seconds until the next attempt after each that failed; after the last it is given up, a day later.
const PAUSES: [i64; 9] = [10, 60, 300, 900, 3_600, 7_200, 14_400, 28_800, 28_800];
/// Longer than a mail server or a webhook has for its answer, whatever they do.
const ATTEMPT_MAX: Duration = Duration::from_mins(1);
/// When one is tried again whose attempt ended with its process.
const CLAIM_SECONDS: i64 = 90;
/// Sent at the same time, in all and of one organization: whose receivers do not answer delays nobody else.
const AT_ONCE: usize = 64;
const AT_ONCE_EACH: usize = 4;

/// The `error` of what its owner has ended.
pub const TAKEN_BACK: &str = "the alert was deleted, or is told elsewhere now";

/// Why an attempt failed, in words that tell nothing of what is inside of our network. What else is known is in the log.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) told: String,
    pub(crate) logged: String,
    /// Whether trying again is of no use.
    pub(crate) is_final: bool,
}

impl Failure {
    pub(crate) fn new(told: impl Into<String>, logged: &(impl ToString + ?Sized)) -> Self {
        Self { told: told.into(), logged: logged.to_string(), is_final: false }
    }
}

/// Something that is to be told over the channel of an alert.
pub(crate) struct New {
    pub(crate) alert: String,
    pub(crate) event: &'static str,
    pub(crate) payload: Value,
    pub(crate) now: Timestamp,
}

/// Of an e-mail one for each recipient, for a server may take it for some of them.
pub(crate) async fn put(tx: &mut Tx, clock: &Clock, new: New) -> Result<()> {
    let New { alert, event, payload, now } = new;
    let sql = "SELECT channel FROM spend_alert WHERE id = $1";
    let channel: Row = tx.one(sql, &params![alert]).await?;
    let channel = NotificationChannel::from_stored(&channel.at::<String>(0)?)?;
    for channel in channel.one_by_one() {
        let id: NotificationId = clock.next_id();
        tx.execute(
            "INSERT INTO notification (id, organization_id, project_id, spend_alert_id, event, channel, secret, payload,
                attempts, next_attempt_at, delivered_at, error, created_at)
             SELECT $1, a.organization_id, a.project_id, a.id, $3, $4, a.secret, $5, 0, $6, NULL, NULL, $6
             FROM spend_alert a WHERE a.id = $2",
            &params![id, alert, event, channel.to_stored()?, payload.to_string(), now],
        )
        .await?;
    }
    Ok(())
}

/// A notification as it is shown.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Notification {
    pub object: &'static str,
    pub id: NotificationId,
    pub event: String,
    /// The alert that it is of: one of the two.
    pub spend_alert_id: Option<SpendAlertId>,
    pub event_alert_id: Option<EventAlertId>,
    pub project_id: Option<ProjectId>,
    /// Of an e-mail with one recipient.
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

/// The word for where a notification stands.
pub fn status(delivered_at: Option<Timestamp>, next_attempt_at: Option<Timestamp>) -> &'static str {
    match (delivered_at, next_attempt_at) {
        (Some(_), _) => "delivered",
        (None, Some(_)) => "pending",
        (None, None) => "failed",
    }
}

impl FromRow for Notification {
    fn from_row(row: &Row) -> Result<Self> {
        let next_attempt_at: Option<Timestamp> = row.get("next_attempt_at")?;
        let delivered_at: Option<Timestamp> = row.get("delivered_at")?;
        let alert: String = row.get("spend_alert_id")?;
        Ok(Self {
            object: "tollgate.notification",
            id: row.get("id")?,
            event: row.get("event")?,
            spend_alert_id: SpendAlertId::parse(&alert),
            event_alert_id: EventAlertId::parse(&alert),
            project_id: row.get("project_id")?,
            notification_channel: NotificationChannel::from_stored(&row.get::<String>("channel")?)?,
            status: status(delivered_at, next_attempt_at),
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
    alert: String,
    event: String,
    channel: NotificationChannel,
    secret: Option<Vec<u8>>,
    payload: Value,
    attempts: usize,
    next_attempt_at: Timestamp,
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
            next_attempt_at: row.get("next_attempt_at")?,
            created_at: row.get("created_at")?,
        })
    }
}

/// What is due, of each organization what is due longest.
const DUE: &str = "SELECT n.* FROM notification n JOIN (
        SELECT id, ROW_NUMBER() OVER (PARTITION BY organization_id ORDER BY next_attempt_at, id) AS place
        FROM notification WHERE next_attempt_at <= $1) q ON q.id = n.id
    WHERE q.place <= $2 ORDER BY n.next_attempt_at LIMIT $3";

impl Alerts {
    /// Sends what is due, and notes what became of it. Never returns; drop it to stop.
    pub(crate) async fn send(&self) {
        let mut flying = FuturesUnordered::new();
        let mut whose: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        loop {
            match self.due().await {
                Ok(rows) => {
                    for row in rows {
                        let (id, organization) = (text(&row, "id"), text(&row, "organization_id"));
                        let own = whose.get(&organization);
                        let is_room = own.is_none_or(|own| own.len() < AT_ONCE_EACH && !own.contains(&id));
                        if is_room && flying.len() < AT_ONCE {
                            whose.entry(organization.clone()).or_default().insert(id.clone());
                            flying.push(async move { (organization, id, self.attempt(&row).await) });
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "what is to be told could not be read; trying again");
                }
            }
            tokio::select! {
                Some((organization, id, noted)) = flying.next(), if !flying.is_empty() => {
                    if let Err(error) = noted {
                        // It is sent again.
                        tracing::error!(%error, notification = id, "what became of a notification could not be noted");
                        tokio::time::sleep(PAUSE).await;
                    }
                    if let Some(own) = whose.get_mut(&organization) {
                        own.remove(&id);
                        if own.is_empty() {
                            whose.remove(&organization);
                        }
                    }
                }
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn due(&self) -> Result<Vec<Row>> {
        let now = self.clock.now();
        let due = params![now, 2 * AT_ONCE_EACH, 2 * AT_ONCE];
        self.db.read(move |tx| Box::pin(async move { tx.all(DUE, &due).await })).await
    }

    /// Sends one, and notes what became of it. What cannot be read is given up, and keeps nothing else from being sent. That it is
    /// tried is noted first: while nothing can be written, as on a full disk, nothing is sent again and again.
    async fn attempt(&self, row: &Row) -> Result<()> {
        let end = match Due::from_row(row) {
            Ok(mut due) => {
                let (id, before) = (due.id, due.next_attempt_at);
                due.next_attempt_at = self.clock.now().plus_seconds(CLAIM_SECONDS);
                let claimed = due.next_attempt_at;
                let is_ours = self
                    .db
                    .write(move |tx| Box::pin(async move { claim(tx, id, before, claimed).await }))
                    .await?;
                if !is_ours {
                    return Ok(());
                }
                let handing = tokio::time::timeout(ATTEMPT_MAX, self.hand_over(&due));
                let late = || Err(Failure::new("it did not answer in time", "no answer in time"));
                end(&due, handing.await.unwrap_or_else(|_| late()), self.clock.now())
            }
            Err(error) => {
                let id = row.get("id")?;
                tracing::error!(notification = %id, %error, "a notification cannot be read and is given up");
                let read = (row.get("attempts")?, row.get("next_attempt_at")?);
                let error = Some("it cannot be read".to_owned());
                End { id, read, next_attempt_at: None, delivered_at: None, error }
            }
        };
        self.db.write(move |tx| Box::pin(async move { note(tx, end).await })).await
    }

    async fn hand_over(&self, due: &Due) -> Result<(), Failure> {
        match due.channel.kind {
            Kind::Email => {
                let none = "no mail server is set up: start with --smtp-url";
                let mailer = self.mailer.as_ref().ok_or_else(|| Failure::new(none, none))?;
                mailer.send(&mail(due)).await
            }
            Kind::Webhook | Kind::Slack => {
                let target = target(&self.keyring, due)
                    .map_err(|error| Failure::new("its address cannot be read", &error))?;
                let body = if due.channel.kind == Kind::Slack {
                    json!({"text": message(due)})
                } else {
                    json!({"object": "event", "id": due.id, "type": due.event, "created_at": due.created_at, "data": due.payload})
                };
                webhook::post(&self.dialer, &target, due.id, self.clock.now(), &body.to_string()).await
            }
        }
    }
}

fn text(row: &Row, column: &str) -> String {
    row.get(column).unwrap_or_default()
}

fn target(keyring: &Keyring, due: &Due) -> Result<Target> {
    let sealed = due.secret.as_deref().ok_or_else(|| Error::internal("a webhook has no address"))?;
    Target::open(keyring, &due.alert, sealed)
}

/// What became of an attempt.
struct End {
    id: NotificationId,
    /// How it stood when it was read: attempts, and when the next was due.
    read: (usize, Timestamp),
    next_attempt_at: Option<Timestamp>,
    delivered_at: Option<Timestamp>,
    error: Option<String>,
}

fn end(due: &Due, result: Result<(), Failure>, now: Timestamp) -> End {
    let (id, alert, attempts) = (due.id, &due.alert, due.attempts + 1);
    let read = (due.attempts, due.next_attempt_at);
    match result {
        Ok(()) => {
            tracing::info!(notification = %id, %alert, attempts, "a notification was delivered");
            End { id, read, next_attempt_at: None, delivered_at: Some(now), error: None }
        }
        Err(Failure { told, logged, is_final }) => {
            let pause = PAUSES.get(due.attempts).filter(|_| !is_final);
            let next_attempt_at = pause.map(|pause| now.plus_seconds(*pause));
            if next_attempt_at.is_some() {
                tracing::warn!(notification = %id, %alert, attempts, why = logged, "a notification was not delivered; trying again");
            } else {
                tracing::error!(notification = %id, %alert, attempts, why = logged, "a notification was not delivered and is given up");
            }
            End { id, read, next_attempt_at, delivered_at: None, error: Some(told) }
        }
    }
}

/// Says until when an attempt takes at most; unless it was taken back meanwhile.
async fn claim(tx: &mut Tx, id: NotificationId, before: Timestamp, until: Timestamp) -> Result<bool> {
    let sql = "UPDATE notification SET next_attempt_at = $1 WHERE id = $2 AND next_attempt_at = $3";
    Ok(tx.execute(sql, &params![until, id, before]).await? > 0)
}

/// Unless somebody has decided otherwise meanwhile: it is to be sent anew, or not any more. What has arrived has arrived all the
/// same, if it was only taken back.
async fn note(tx: &mut Tx, end: End) -> Result<()> {
    let End { id, read: (attempts, due_at), next_attempt_at, delivered_at, error } = end;
    tx.execute(
        "UPDATE notification SET attempts = $1, next_attempt_at = $2, delivered_at = $3, error = $4
         WHERE id = $5 AND ((attempts = $6 AND next_attempt_at = $7)
            OR (next_attempt_at IS NULL AND CAST($3 AS BIGINT) IS NOT NULL))",
        &params![attempts + 1, next_attempt_at, delivered_at, error, id, attempts, due_at],
    )
    .await?;
    Ok(())
}

/// Sends nothing more of an alert that is gone.
pub async fn take_back(tx: &mut Tx, alert: &str) -> Result<()> {
    take_back_where(tx, alert, "").await
}

/// What waits for an address goes to where the alert goes now. Mail waits for the server, and its recipients stay.
pub async fn redirect(tx: &mut Tx, alert: &str, channel: &Checked) -> Result<()> {
    if channel.secret.is_none() {
        return take_back_where(tx, alert, " AND secret IS NOT NULL").await;
    }
    tx.execute(
        "UPDATE notification SET channel = $2, secret = $3
         WHERE spend_alert_id = $1 AND next_attempt_at IS NOT NULL AND secret IS NOT NULL",
        &params![alert, channel.shown, channel.secret],
    )
    .await?;
    Ok(())
}

async fn take_back_where(tx: &mut Tx, alert: &str, and: &'static str) -> Result<()> {
    let sql = Sql::from(
        "UPDATE notification SET next_attempt_at = NULL, error = $2
         WHERE spend_alert_id = $1 AND next_attempt_at IS NOT NULL",
    );
    tx.execute(sql.push(and), &params![alert, TAKEN_BACK]).await?;
    Ok(())
}

/// Sends one at once, however often it was tried: an e-mail to whom it was for, anything else to where its alert goes now. Says
/// whether it can be: not if the alert is gone, or has become one by e-mail.
pub async fn again(tx: &mut Tx, id: NotificationId, now: Timestamp) -> Result<bool> {
    let sent = tx
        .execute(
            "UPDATE notification SET next_attempt_at = $2, attempts = 0, delivered_at = NULL, error = NULL,
                channel = CASE WHEN secret IS NULL THEN channel
                    ELSE (SELECT a.channel FROM spend_alert a WHERE a.id = notification.spend_alert_id) END,
                secret = CASE WHEN secret IS NULL THEN NULL
                    ELSE (SELECT a.secret FROM spend_alert a WHERE a.id = notification.spend_alert_id) END
             WHERE id = $1 AND EXISTS (SELECT 1 FROM spend_alert a WHERE a.id = notification.spend_alert_id
                AND (notification.secret IS NULL OR a.secret IS NOT NULL))",
            &params![id, now],
        )
        .await?;
    Ok(sent > 0)
}

/// How many have not arrived yet: those that were not tried, and those that have failed.
pub async fn waiting(tx: &mut Tx) -> Result<[u64; 2]> {
    let row: Row = tx
        .one(
            "SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN attempts > 0 THEN 1 ELSE 0 END), 0) AS BIGINT)
             FROM notification WHERE next_attempt_at IS NOT NULL",
            &[],
        )
        .await?;
    let (all, failing): (u64, u64) = (row.at(0)?, row.at(1)?);
    Ok([all - failing, failing])
}

fn mail(due: &Due) -> Mail {
    let Words { subject, sentence, lines, after } = words::of(&due.event, &due.payload);
    let prefix = due.channel.subject_prefix.as_deref().map(|prefix| format!("{prefix} ")).unwrap_or_default();
    let list = if lines.is_empty() { String::new() } else { format!("\n\n{}", lines.join("\n")) };
    Mail {
        id: due.id.to_string(),
        recipient: due.channel.recipients.iter().flatten().next().cloned().unwrap_or_default(),
        subject: format!("{prefix}{subject}"),
        text: format!("{sentence}{list}\n\n{after}\n\nAlert {}, notification {}.\n", due.alert, due.id),
    }
}

/// For Slack and what is compatible with it.
fn message(due: &Due) -> String {
    let Words { sentence, lines, .. } = words::of(&due.event, &due.payload);
    let mut text = sentence;
    for line in lines {
        text.push('\n');
        text.push_str(&line);
    }
    // Names are what people chose: none of them calls a channel, or is a link.
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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
            alert: "spend_alert_2".to_owned(),
            event: "spend_alert.reached".to_owned(),
            channel,
            secret: None,
            payload: Value::Null,
            attempts: 0,
            next_attempt_at: Timestamp(0),
            created_at: Timestamp(0),
        };
        let failure = |is_final| Err(Failure { is_final, ..Failure::new("no", "no") });
        let mut now = Timestamp(0);
        for attempt in 0..PAUSES.len() {
            let end = end(&due, failure(false), now);
            assert_eq!(end.read, (attempt, due.next_attempt_at));
            now = end.next_attempt_at.unwrap();
            (due.attempts, due.next_attempt_at) = (attempt + 1, now);
        }
        assert!((20..30).contains(&(now.0 / 3_600)), "{now}");
        let last = end(&due, failure(false), now);
        assert_eq!((last.next_attempt_at, last.delivered_at), (None, None));
        let hopeless = end(&Due { attempts: 0, ..due }, failure(true), now);
        assert_eq!((hopeless.next_attempt_at, hopeless.error.as_deref()), (None, Some("no")));
    }
}
