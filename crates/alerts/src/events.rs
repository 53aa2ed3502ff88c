//! What happens beside spending: limits that are reached, keys that expire or rest, upstreams that cannot be used.
//!
//! Each is told once for each alert: what has a name of its own is noted by it; of keys it is noted up to when
//! they were looked at, and what lies between two looks is told together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate_core::time::Stopwatch;
use tollgate_core::{Clock, KeyId, Money, OrganizationId, ProjectId, Result, Timestamp, UpstreamId};
use tollgate_store::{Db, FromRow, Reading, Row, Sql, ToValue, Tx, params};

use crate::outbox::{self, New};

/// All there are.
pub const EVENTS: [&str; 4] = ["spend_limit.reached", "api_key.expiring", "api_key.unused", "upstream.down"];
/// Days before a key expires on which that is told.
const EXPIRY_DAYS: [i64; 3] = [14, 3, 0];
const DAY: i64 = 86_400;
/// Keys are looked at this often: they are told of together, and not one by one.
const KEYS_EVERY: Duration = Duration::from_mins(10);
/// So many are named in one notification.
const NAMED_MAX: usize = 50;
/// What was told of is not forgotten before no period can hold it any more.
const KEPT_SECONDS: i64 = 100 * DAY;
/// An outage that follows another that was told as closely as this is told only if it lasts.
const QUIET_SECONDS: i64 = 900;

/// An upstream as this node has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamState {
    pub id: UpstreamId,
    pub name: String,
    /// `None` if nothing has shown it.
    pub is_down: Option<bool>,
}

/// Says how upstreams are.
pub type Upstreams = Arc<dyn Fn() -> Vec<UpstreamState> + Send + Sync>;

/// An alert of events.
#[derive(Clone, Debug)]
struct Alert {
    id: String,
    organization: OrganizationId,
    project: Option<ProjectId>,
    events: Vec<String>,
    unused_after_days: i64,
    looked_at: Option<Timestamp>,
}

impl FromRow for Alert {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            organization: row.get("organization_id")?,
            project: row.get("project_id")?,
            events: row.get::<String>("events")?.split_whitespace().map(str::to_owned).collect(),
            unused_after_days: row.get::<Option<i64>>("unused_after_days")?.unwrap_or(UNUSED_AFTER_DAYS),
            looked_at: row.get("looked_at")?,
        })
    }
}

/// Unless an alert says otherwise.
pub const UNUSED_AFTER_DAYS: i64 = 90;

impl Alert {
    fn tells(&self, event: &str) -> bool {
        self.events.iter().any(|told| told == event)
    }
}

/// Looks at all that is told of.
pub(crate) struct Watch {
    pub(crate) upstreams: Upstreams,
    keys: Option<Stopwatch>,
    /// As they were when they were looked at last, for only what changes is written down; and when an outage that was not
    /// told is to be looked at again.
    seen: BTreeMap<UpstreamId, (bool, Option<Timestamp>)>,
}

impl Watch {
    pub(crate) fn new(upstreams: Upstreams) -> Self {
        Self { upstreams, keys: None, seen: BTreeMap::new() }
    }

    pub(crate) async fn look(&mut self, db: &Db, clock: &Clock) -> Result<()> {
        let alerts: Vec<Alert> = db
            .read(|tx| {
                Box::pin(async move {
                    let sql = "SELECT a.* FROM spend_alert a LEFT JOIN project p ON p.id = a.project_id
                        WHERE a.events IS NOT NULL AND p.archived_at IS NULL ORDER BY a.id";
                    tx.all(sql, &[]).await
                })
            })
            .await?;
        self.upstreams(db, clock, &alerts).await?;
        if alerts.is_empty() {
            return Ok(());
        }
        for alert in alerts.iter().filter(|alert| alert.tells("spend_limit.reached")) {
            limits(db, clock, alert).await?;
        }
        let is_due = self.keys.as_ref().is_none_or(|since| since.elapsed() >= KEYS_EVERY);
        // One that was made just now does not wait.
        for alert in alerts.iter().filter(|alert| is_due || alert.looked_at.is_none()) {
            keys(db, clock, alert).await?;
        }
        if is_due {
            self.keys = Some(Stopwatch::start());
            let old = clock.now().plus_seconds(-KEPT_SECONDS);
            db.write(move |tx| {
                Box::pin(async move {
                    tx.execute("DELETE FROM event_told WHERE told_at < $1", &params![old]).await
                })
            })
            .await?;
        }
        Ok(())
    }

    async fn upstreams(&mut self, db: &Db, clock: &Clock, alerts: &[Alert]) -> Result<()> {
        for state in (self.upstreams)() {
            let Some(is_down) = state.is_down else { continue };
            let (id, now) = (state.id, clock.now());
            if let Some((before, again_at)) = self.seen.get(&id).copied()
                && before == is_down
                && again_at.is_none_or(|at| now < at)
            {
                continue;
            }
            let listeners: Vec<Alert> =
                alerts.iter().filter(|alert| alert.tells("upstream.down")).cloned().collect();
            let clock = clock.clone();
            let again_at = db
                .write(move |tx| Box::pin(async move { note(tx, &clock, &state, is_down, &listeners).await }))
                .await?;
            self.seen.insert(id, (is_down, again_at));
        }
        Ok(())
    }
}

/// Notes how an upstream is, and tells of it; says when to look again at an outage that is not told yet.
async fn note(
    tx: &mut Tx,
    clock: &Clock,
    upstream: &UpstreamState,
    is_down: bool,
    listeners: &[Alert],
) -> Result<Option<Timestamp>> {
    let now = clock.now();
    let (event, again_at) =
        if is_down { began(tx, upstream, now).await? } else { (ended(tx, upstream, now).await?, None) };
    if let Some((event, data)) = event {
        for alert in listeners {
            if is_of_operator(tx, alert).await? {
                put(tx, clock, alert, event, data.clone(), now).await?;
            }
        }
    }
    Ok(again_at)
}

/// Whether whoever made an alert is an operator still.
async fn is_of_operator(tx: &mut Tx, alert: &Alert) -> Result<bool> {
    let sql = "SELECT 1 FROM spend_alert a JOIN app_user u ON u.id = a.created_by WHERE a.id = $1 AND u.is_operator = $2";
    Ok(tx.optional::<Row>(sql, &params![alert.id.clone(), true]).await?.is_some())
}

/// Notes that an upstream cannot be used: what is to be told, if it is, and when to look again if it is not yet.
async fn began(
    tx: &mut Tx,
    upstream: &UpstreamState,
    now: Timestamp,
) -> Result<(Option<(&'static str, Value)>, Option<Timestamp>)> {
    let sql = "SELECT since, ended_at, is_told, told_at FROM upstream_outage WHERE upstream_id = $1";
    let known: Option<Row> = tx.optional(sql, &params![upstream.id]).await?;
    let (mut since, mut last_told) = (now, None);
    if let Some(row) = known {
        last_told = row.at(3)?;
        // A node that starts anew finds it as it was.
        if row.at::<Option<Timestamp>>(1)?.is_none() {
            since = row.at(0)?;
            if row.at(2)? {
                return Ok((None, None));
            }
        }
    }
    let quiet_until =
        last_told.map(|at: Timestamp| at.plus_seconds(QUIET_SECONDS)).filter(|until| *until > now);
    let is_told = quiet_until.is_none();
    tx.execute(
        "INSERT INTO upstream_outage (upstream_id, since, ended_at, is_told, told_at) VALUES ($1, $2, NULL, $3, $4)
         ON CONFLICT (upstream_id) DO UPDATE SET since = excluded.since, ended_at = NULL, is_told = excluded.is_told,
            told_at = excluded.told_at",
        &params![upstream.id, since, is_told, if is_told { Some(now) } else { last_told }],
    )
    .await?;
    let data = json!({"upstream_id": upstream.id, "name": upstream.name, "since": since});
    Ok((is_told.then_some(("upstream.down", data)), quiet_until))
}

async fn ended(
    tx: &mut Tx,
    upstream: &UpstreamState,
    now: Timestamp,
) -> Result<Option<(&'static str, Value)>> {
    let sql = "SELECT since, is_told FROM upstream_outage WHERE upstream_id = $1 AND ended_at IS NULL";
    let Some(row) = tx.optional::<Row>(sql, &params![upstream.id]).await? else { return Ok(None) };
    let (since, is_told): (Timestamp, bool) = (row.at(0)?, row.at(1)?);
    tx.execute("UPDATE upstream_outage SET ended_at = $1 WHERE upstream_id = $2", &params![now, upstream.id])
        .await?;
    let data =
        json!({"upstream_id": upstream.id, "name": upstream.name, "since": since, "recovered_at": now});
    Ok(is_told.then_some(("upstream.recovered", data)))
}

/// Hard limits that refuse because the money is spent: those of the alert's organization, or of its project and the keys of
/// that. One request that is too large for what is left does not mean that much, so most of the money has to be spent.
async fn limits(db: &Db, clock: &Clock, alert: &Alert) -> Result<()> {
    const REACHED: &str = "SELECT l.id, l.scope, l.scope_id, l.period, l.amount, l.updated_at, b.period_start, b.period_end, b.settled,
            COALESCE(o.name, p.name, u.email, k.name) AS scope_name
        FROM budget b JOIN spend_limit l ON l.id = b.spend_limit_id
            LEFT JOIN organization o ON l.scope = 'organization' AND o.id = l.scope_id
            LEFT JOIN project p ON l.scope = 'project' AND p.id = l.scope_id
            LEFT JOIN app_user u ON l.scope = 'user' AND u.id = l.scope_id
            LEFT JOIN api_key k ON l.scope = 'api_key' AND k.id = l.scope_id
        WHERE b.refused_at IS NOT NULL AND b.period_end > $1 AND l.mode = 'enforce' AND l.organization_id = $2
            AND NOT EXISTS (SELECT 1 FROM event_told t WHERE t.alert_id = $3
                AND t.subject = l.id || ' ' || CAST(b.period_start AS TEXT) || ' ' || CAST(l.updated_at AS TEXT))
            AND b.settled >= l.amount - l.amount / 4";
    let (now, organization, project) = (clock.now(), alert.organization, alert.project);
    let id = alert.id.clone();
    let rows: Vec<Row> = db
        .read(move |tx| {
            Box::pin(async move {
                match project {
                    None => tx.all(REACHED, &params![now, organization, id]).await,
                    Some(project) => {
                        let sql = Sql::from(REACHED).push(" AND (p.id = $4 OR k.project_id = $4)");
                        tx.all(sql, &params![now, organization, id, project]).await
                    }
                }
            })
        })
        .await?;
    for row in rows {
        let (limit, amount): (String, Money) = (row.get("id")?, row.get("amount")?);
        let (start, end): (Timestamp, Timestamp) = (row.get("period_start")?, row.get("period_end")?);
        let data = json!({
            "spend_limit_id": limit,
            "organization_id": organization,
            "scope": row.get::<String>("scope")?,
            "scope_id": row.get::<String>("scope_id")?,
            "scope_name": row.get::<Option<String>>("scope_name")?,
            "interval": row.get::<String>("period")?,
            "amount": amount,
            "spent": row.get::<Money>("settled")?,
            "period_start": start,
            "period_end": end,
        });
        // Changed and reached again, it is told again. The question above asks for the same text.
        let subject = format!("{limit} {} {}", start.0, row.get::<i64>("updated_at")?);
        let (alert, clock) = (alert.clone(), clock.clone());
        db.write(move |tx| {
            Box::pin(async move {
                if told(tx, &alert, &subject, now).await? {
                    put(tx, &clock, &alert, "spend_limit.reached", data, now).await?;
                }
                Ok(())
            })
        })
        .await?;
    }
    Ok(())
}

/// Notes that something is told, if it was not yet.
async fn told(tx: &mut Tx, alert: &Alert, subject: &str, now: Timestamp) -> Result<bool> {
    let noted = tx
        .execute(
            "INSERT INTO event_told (alert_id, subject, told_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            &params![alert.id.clone(), subject.to_owned(), now],
        )
        .await?;
    Ok(noted > 0)
}

/// Unless the alert is gone by now.
async fn put(
    tx: &mut Tx,
    clock: &Clock,
    alert: &Alert,
    event: &'static str,
    data: Value,
    now: Timestamp,
) -> Result<()> {
    let sql =
        "SELECT o.name FROM spend_alert a JOIN organization o ON o.id = a.organization_id WHERE a.id = $1";
    let Some(row) = tx.optional::<Row>(sql, &params![alert.id.clone()]).await? else { return Ok(()) };
    let mut payload = data;
    payload["event_alert_id"] = json!(alert.id);
    payload["organization_name"] = json!(row.at::<String>(0)?);
    outbox::put(tx, clock, New { alert: alert.id.clone(), event, payload, now }).await
}

/// Keys as they are told of: how many, and the first of them.
struct Told {
    count: u64,
    keys: Vec<Key>,
}

struct Key(Value);

impl FromRow for Key {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self(json!({
            "id": row.get::<KeyId>("id")?,
            "name": row.get::<String>("name")?,
            "project_id": row.get::<Option<ProjectId>>("project_id")?,
            "project_name": row.get::<Option<String>>("project_name")?,
            "owner_id": row.get::<Option<String>>("owner_id")?,
            "created_at": row.get::<Timestamp>("created_at")?,
            "expires_at": row.get::<Option<Timestamp>>("expires_at")?,
            "last_used_at": row.get::<Option<Timestamp>>("last_used_at")?,
        })))
    }
}

const COUNT: &str = "SELECT COUNT(*)";
const KEYS: &str = "SELECT k.id, k.name, k.project_id, p.name AS project_name,
    COALESCE(k.user_id, k.service_account_id) AS owner_id, k.created_at, k.expires_at, k.last_used_at";
const FROM: &str = " FROM api_key k LEFT JOIN project p ON p.id = k.project_id
    WHERE k.organization_id = $1 AND k.revoked_at IS NULL AND p.archived_at IS NULL";

/// Keys about which something has come true since they were looked at last.
async fn keys(db: &Db, clock: &Clock, alert: &Alert) -> Result<()> {
    let now = clock.now();
    let asked = alert.clone();
    let found = db
        .read_for(Reading::Long, move |tx| {
            Box::pin(async move {
                let mut found = Vec::new();
                if asked.tells("api_key.expiring") {
                    for days in EXPIRY_DAYS {
                        let keys = expiring(tx, &asked, days, now).await?;
                        found.push(("api_key.expiring", days, keys));
                    }
                }
                if asked.tells("api_key.unused") {
                    let keys = unused(tx, &asked, now).await?;
                    found.push(("api_key.unused", asked.unused_after_days, keys));
                }
                Ok(found)
            })
        })
        .await?;
    let (alert, clock) = (alert.clone(), clock.clone());
    db.write(move |tx| {
        Box::pin(async move {
            // Whoever was first has told of them. NULL is not equal to itself.
            let sql = "UPDATE spend_alert SET looked_at = $1
                WHERE id = $2 AND COALESCE(looked_at, 0) = $3 AND events = $4";
            let before = alert.looked_at.map_or(0, |at| at.0);
            let values = params![now, alert.id.clone(), before, alert.events.join(" ")];
            if tx.execute(sql, &values).await? == 0 {
                return Ok(());
            }
            for (event, days, told) in found.into_iter().filter(|(_, _, told)| told.count > 0) {
                let named: Vec<Value> = told.keys.into_iter().map(|Key(data)| data).collect();
                let data = json!({
                    "organization_id": alert.organization, "project_id": alert.project, "days": days,
                    "count": told.count, "keys": named,
                });
                put(tx, &clock, &alert, event, data, now).await?;
            }
            Ok(())
        })
    })
    .await
}

/// Those that came within so many days of their end since the last look, and had longer when they were made. At the first
/// look those that are within the longest time.
async fn expiring(tx: &mut Tx, alert: &Alert, days: i64, now: Timestamp) -> Result<Told> {
    let seconds = days * DAY;
    let above = match alert.looked_at {
        Some(before) => before.plus_seconds(seconds),
        None if days == EXPIRY_DAYS[0] => now,
        None => return Ok(Told { count: 0, keys: Vec::new() }),
    };
    // What lives for hours is made anew before anybody could read of it. Whoever asks now has not been told of any.
    let shortest = EXPIRY_DAYS[1] * DAY;
    let lifetime = if alert.looked_at.is_none() { shortest } else { seconds.max(shortest) };
    let which = " AND k.expires_at > $2 AND k.expires_at <= $3 AND k.expires_at - k.created_at >= $4";
    told_of(tx, alert, which, above, now.plus_seconds(seconds), lifetime).await
}

/// Those that came to have rested for so long since the last look; at the first all that have.
async fn unused(tx: &mut Tx, alert: &Alert, now: Timestamp) -> Result<Told> {
    let seconds = alert.unused_after_days * DAY;
    let above = alert.looked_at.map_or(Timestamp(0), |before| before.plus_seconds(-seconds));
    let which =
        " AND COALESCE(k.last_used_at, k.created_at) > $2 AND COALESCE(k.last_used_at, k.created_at) <= $3
        AND (k.expires_at IS NULL OR k.expires_at > $4)";
    told_of(tx, alert, which, above, now.plus_seconds(-seconds), now.0).await
}

async fn told_of(
    tx: &mut Tx,
    alert: &Alert,
    which: &'static str,
    above: Timestamp,
    up_to: Timestamp,
    last: i64,
) -> Result<Told> {
    let mut values = params![alert.organization, above, up_to, last].to_vec();
    values.extend(alert.project.map(|project| project.to_value()));
    let of_project = if alert.project.is_some() { " AND k.project_id = $5" } else { "" };
    let sql = |select: &'static str| Sql::from(select).push(FROM).push(which).push(of_project);
    let row: Row = tx.one(sql(COUNT), &values).await?;
    let place = values.len() + 1;
    values.push(NAMED_MAX.to_value());
    let keys = tx.all(sql(KEYS).push(" ORDER BY k.id LIMIT ").push_param(place), &values).await?;
    Ok(Told { count: row.at(0)?, keys })
}
