//! What became of requests beside their money: how many were answered, refused and failed, how long they took, and of a key
//! which programs use it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::id::kind;
use tollgate_core::metrics::Histogram;
use tollgate_core::{Error, KeyId, Permission, ProjectId, Result, Timestamp};
use tollgate_replica::{ACTIVITY_KEPT_SECONDS, LONGEST_TIME};
use tollgate_store::{FromRow, Row, params};

use crate::arguments::PathId;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::{api_keys, projects};

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

pub(crate) fn operations() -> Operations {
    Operations::new()
        .get("/tollgate/v1/activity", "retrieve-activity", Needs(Permission::UsageRead), of_organization)
        .after_writing_activity()
        .reading_long()
        .get(
            "/tollgate/v1/projects/{project_id}/api_keys/{api_key_id}/activity",
            "retrieve-api-key-activity",
            Needs(Permission::ProjectApiKeysRead),
            of_key,
        )
        .after_writing_activity()
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Activity {
    object: &'static str,
    /// A whole hour; of a key a whole day of UTC.
    start_time: Timestamp,
    end_time: Timestamp,
    /// With keys of the organization, of every kind; also those that cost nothing, such as lists of models.
    num_requests: i64,
    num_answered: i64,
    /// Those whose client went away before the end.
    num_abandoned: i64,
    /// Those that Tollgate did not let through: over a limit, frozen, not allowed, wrong.
    num_refused: i64,
    /// Those that the provider or Tollgate could not answer.
    num_failed: i64,
    /// By the code of their errors, the most frequent first.
    refused: Vec<Reason>,
    /// The same; an error that is the provider's own word is `upstream_` and its status, an answer that it cut `upstream_cut`.
    failed: Vec<Reason>,
    /// Half of what was answered took no longer, in milliseconds; null of a key, and where nothing was.
    duration_p50_ms: Option<u64>,
    /// Nineteen of twenty took no longer.
    duration_p95_ms: Option<u64>,
    /// Of an organization: the keys that were refused most since the day of UTC on which it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_api_keys: Option<Vec<RefusedKey>>,
    /// Of a key: what the programs that use it call themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<Vec<Client>>,
}

#[derive(Serialize, JsonSchema)]
struct Reason {
    code: String,
    num_requests: i64,
    last_at: Timestamp,
}

#[derive(Serialize, JsonSchema)]
struct Client {
    /// `none` if it does not say, `others` for those beyond sixteen on a day.
    user_agent: String,
    num_requests: i64,
    last_at: Timestamp,
}

#[derive(Serialize, JsonSchema)]
struct RefusedKey {
    api_key_id: KeyId,
    name: String,
    project_id: ProjectId,
    num_refused: i64,
    last_at: Timestamp,
}

impl FromRow for RefusedKey {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            api_key_id: row.get("id")?,
            name: row.get("name")?,
            project_id: row.get("project_id")?,
            num_refused: row.get("requests")?,
            last_at: row.get("last_at")?,
        })
    }
}

struct Sum {
    kind: String,
    name: String,
    requests: i64,
    last_at: Timestamp,
}

impl FromRow for Sum {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self { kind: row.at(0)?, name: row.at(1)?, requests: row.at(2)?, last_at: row.at(3)? })
    }
}

/// The sums of a place since a time; the most first. Sums of counts are counts on every database.
async fn sums(cx: &mut Cx, key: &str, start: Timestamp) -> Result<Vec<Sum>> {
    let sql = "SELECT kind, name, CAST(SUM(requests) AS BIGINT) AS sum, MAX(last_at) FROM activity
        WHERE organization_id = $1 AND api_key_id = $2 AND start_time >= $3
        GROUP BY kind, name ORDER BY sum DESC, name";
    cx.tx.all(sql, &params![cx.organization(), key, start]).await
}

fn shown(cx: &Cx, start: Timestamp, sums: &[Sum]) -> Activity {
    let count = |kind: &str| sums.iter().filter(|sum| sum.kind == kind).map(|sum| sum.requests).sum();
    let reasons = |kind: &str| {
        let of_kind = sums.iter().filter(|sum| sum.kind == kind);
        of_kind
            .map(|sum| Reason { code: sum.name.clone(), num_requests: sum.requests, last_at: sum.last_at })
            .collect()
    };
    let mut times = Histogram::default();
    for sum in sums.iter().filter(|sum| sum.kind == "time") {
        let bound = if sum.name == LONGEST_TIME { None } else { sum.name.parse().ok() };
        times.add_to(bound, u64::try_from(sum.requests).unwrap_or(0));
    }
    let percentile = |percent| {
        let time = times.percentile(percent)?;
        u64::try_from(time.as_micros().div_ceil(1_000)).ok()
    };
    let (num_answered, num_abandoned): (i64, i64) = (count("answered"), count("abandoned"));
    let (num_refused, num_failed): (i64, i64) = (count("refused"), count("failed"));
    Activity {
        object: "tollgate.activity",
        start_time: start,
        end_time: cx.now,
        num_requests: num_answered + num_abandoned + num_refused + num_failed,
        num_answered,
        num_abandoned,
        num_refused,
        num_failed,
        refused: reasons("refused"),
        failed: reasons("failed"),
        duration_p50_ms: percentile(50),
        duration_p95_ms: percentile(95),
        refused_api_keys: None,
        clients: None,
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfOrganization {
    /// Unix seconds; a day ago unless given, a week ago at most. Taken to the hour.
    start_time: Option<i64>,
}

async fn of_organization(cx: &mut Cx, input: OfOrganization) -> Result<Activity> {
    let start = match input.start_time {
        None => Timestamp((cx.now.0 - DAY + HOUR).max(0)).floor_to(HOUR),
        Some(at) => read_start(cx, at)?.floor_to(HOUR),
    };
    let sums = sums(cx, "", start).await?;
    let mut activity = shown(cx, start, &sums);
    if activity.num_refused > 0 {
        let sql = "SELECT k.id, k.name, k.project_id, CAST(SUM(a.requests) AS BIGINT) AS requests, MAX(a.last_at) AS last_at
            FROM activity a JOIN api_key k ON k.id = a.api_key_id
            WHERE a.organization_id = $1 AND a.start_time >= $2 AND a.kind = 'refused' AND a.api_key_id <> ''
                AND k.project_id IS NOT NULL AND k.revoked_at IS NULL AND a.last_at >= $3
            GROUP BY k.id, k.name, k.project_id ORDER BY requests DESC, k.id LIMIT 5";
        let rows = cx.tx.all(sql, &params![cx.organization(), start.floor_to(DAY), start]).await?;
        activity.refused_api_keys = Some(rows);
    } else {
        activity.refused_api_keys = Some(Vec::new());
    }
    Ok(activity)
}

fn read_start(cx: &Cx, at: i64) -> Result<Timestamp> {
    if !(cx.now.0 - ACTIVITY_KEPT_SECONDS + DAY..=cx.now.0).contains(&at) {
        let message = "Invalid 'start_time': expected a time within the last week, in Unix seconds.";
        return Err(Error::invalid("start_time", message));
    }
    Ok(Timestamp(at))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfKey {
    project_id: PathId<kind::Project>,
    api_key_id: PathId<kind::Key>,
    /// Unix seconds; a week ago unless given, and at most. Taken to the day.
    start_time: Option<i64>,
}

async fn of_key(cx: &mut Cx, input: OfKey) -> Result<Activity> {
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    let key = api_keys::find(cx, project, input.api_key_id.id()?).await?.id;
    let start = match input.start_time {
        None => Timestamp(cx.now.0 - 7 * DAY),
        Some(at) => read_start(cx, at)?,
    };
    let start = start.floor_to(DAY);
    let sums = sums(cx, &key.to_string(), start).await?;
    let clients = sums.iter().filter(|sum| sum.kind == "client");
    let clients = clients.map(|sum| Client {
        user_agent: sum.name.clone(),
        num_requests: sum.requests,
        last_at: sum.last_at,
    });
    Ok(Activity { clients: Some(clients.collect()), ..shown(cx, start, &sums) })
}
