//! Attempts as people read them.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use tollgate_core::labels::Labels;
use tollgate_core::price::PriceVersion;
use tollgate_core::{
    AttemptId, KeyId, Money, OrganizationId, Principal, ProjectId, Result, Timestamp, UpstreamId,
};
use tollgate_store::{FromRow, Row, Sql, ToValue, Tx, Value, params};

use crate::attempt::{State, UsageSource};
use crate::recovery::read_owner;
use crate::rollup::COST;

/// One attempt, as `/tollgate/v1/requests` shows it. Money is in decimal US dollars of nine places.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Request {
    pub id: AttemptId,
    pub object: &'static str,
    pub attempt_of: Option<AttemptId>,
    pub state: String,
    pub usage_source: Option<String>,
    pub recovered: bool,
    /// Whether its model had a price. An unpriced request costs nothing here, which says nothing of the provider.
    pub priced: bool,
    /// Which prices it was charged at, such as `price_12` or `embedded-2026-11-26`; null for none, and for what was recorded
    /// before prices had versions.
    pub price_version: Option<String>,
    /// The labels of its project, key and whoever owns that, and its own, as they were when it was admitted.
    pub labels: Labels,
    pub project_id: ProjectId,
    pub api_key_id: KeyId,
    /// The user or service account that owns the key.
    pub user_id: Principal,
    pub endpoint: String,
    pub model: String,
    pub upstream: UpstreamId,
    /// Null if nothing bounded it.
    pub bound: Option<Money>,
    /// With its adjustments; null while it is held, as are the tokens.
    pub cost: Option<Money>,
    pub input_tokens: Option<i64>,
    pub cached_input_tokens: Option<u64>,
    pub output_tokens: Option<i64>,
    pub reasoning_tokens: Option<u64>,
    /// Of the output, what was made after the client had gone.
    pub drained_output_tokens: Option<u64>,
    /// Searches of the web that the provider ran.
    pub web_search_calls: Option<u64>,
    /// The output of a choice that it was clamped to.
    pub max_output_clamped: Option<u64>,
    /// What is odd about its usage, and then the usage as the upstream reported it.
    pub flags: Vec<String>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub reported_usage: Option<Box<RawValue>>,
    /// By how much corrections and refunds have changed its cost.
    pub adjusted: Money,
    pub created_at: Timestamp,
    pub resolved_at: Option<Timestamp>,
}

impl FromRow for Request {
    fn from_row(row: &Row) -> Result<Self> {
        let state: String = row.get("state")?;
        let is_resolved = state != State::Held.as_str();
        let flags: Option<String> = row.get("flags")?;
        let reported: Option<String> = row.get("reported_usage")?;
        let adjusted: Money = row.get("adjusted")?;
        let cost = row.get::<Money>("cost")? + adjusted;
        let count = |tokens: i64| is_resolved.then_some(tokens);
        let tokens = |column: &str| -> Result<Option<u64>> {
            Ok(if is_resolved { Some(row.get(column)?) } else { None })
        };
        Ok(Self {
            id: row.get("id")?,
            object: "tollgate.request",
            attempt_of: row.get("attempt_of")?,
            usage_source: row.get("usage_source")?,
            recovered: row.get("is_recovered")?,
            priced: row.get("is_priced")?,
            price_version: row
                .get::<Option<i64>>("price_version")?
                .filter(|version| *version != 0)
                .map(|version| PriceVersion(version).to_string()),
            labels: match row.get::<Option<String>>("labels")? {
                Some(labels) => Labels::from_stored(&labels)?,
                None => Labels::default(),
            },
            project_id: row.get("project_id")?,
            api_key_id: row.get("api_key_id")?,
            user_id: read_owner(row)?,
            endpoint: row.get("endpoint")?,
            model: row.get("model")?,
            upstream: row.get("upstream_id")?,
            bound: row.get("bound")?,
            cost: is_resolved.then_some(cost),
            input_tokens: count(row.get::<i64>("input_tokens")? + row.get::<i64>("adjusted_input")?),
            cached_input_tokens: tokens("cached_input_tokens")?,
            output_tokens: count(row.get::<i64>("output_tokens")? + row.get::<i64>("adjusted_output")?),
            reasoning_tokens: tokens("reasoning_tokens")?,
            drained_output_tokens: tokens("drained_output_tokens")?,
            web_search_calls: tokens("web_search_calls")?,
            max_output_clamped: row.get("clamped_to")?,
            flags: flags.unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
            reported_usage: reported.and_then(|text| RawValue::from_string(text).ok()),
            adjusted,
            created_at: row.get("created_at")?,
            resolved_at: row.get("resolved_at")?,
            state,
        })
    }
}

/// Which attempts to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub after: Option<AttemptId>,
    pub project: Option<ProjectId>,
    pub key: Option<KeyId>,
    pub state: Option<State>,
    pub source: Option<UsageSource>,
    /// Only those that were settled because their process had gone, or only the others.
    pub is_recovered: Option<bool>,
    /// Only those with something odd about their usage, or only the others.
    pub is_flagged: Option<bool>,
}

fn select() -> Sql {
    columns().push(" FROM attempt a JOIN api_key k ON k.number = a.key_number WHERE k.organization_id = $1")
}

/// The same by the attempts in their order: a cross join is looked up from its left side.
fn select_in_order() -> Sql {
    columns()
        .push(" FROM attempt a CROSS JOIN api_key k WHERE k.number = a.key_number AND k.organization_id = $1")
}

fn columns() -> Sql {
    Sql::from(
        "SELECT a.*, k.id AS api_key_id, k.project_id, k.user_id, k.service_account_id,
            CAST(COALESCE((SELECT SUM(j.cost) FROM adjustment j WHERE j.attempt_id = a.id), 0) AS BIGINT) AS adjusted,
            CAST(COALESCE((SELECT SUM(j.input_tokens) FROM adjustment j WHERE j.attempt_id = a.id), 0) AS BIGINT)
                AS adjusted_input,
            CAST(COALESCE((SELECT SUM(j.output_tokens) FROM adjustment j WHERE j.attempt_id = a.id), 0) AS BIGINT)
                AS adjusted_output,
            (SELECT s.labels FROM label_set s WHERE s.number = a.label_set AND a.label_set <> 0) AS labels, ",
    )
    .push(COST)
    .push(" AS cost")
}

pub async fn list(
    tx: &mut Tx,
    organization: OrganizationId,
    filter: &Filter,
    limit: usize,
) -> Result<Vec<Request>> {
    match filter.key {
        Some(key) => of_keys(tx, organization, filter, limit, &[key]).await,
        None => match filter.project {
            // A project's attempts are those of its keys, each of which has them in order.
            Some(project) => {
                let keys = keys_of(tx, organization, project).await?;
                of_keys(tx, organization, filter, limit, &keys).await
            }
            None => of_organization(tx, organization, filter, limit).await,
        },
    }
}

/// Attempts are in their order for all organizations together.
async fn of_organization(
    tx: &mut Tx,
    organization: OrganizationId,
    filter: &Filter,
    limit: usize,
) -> Result<Vec<Request>> {
    /// So many of all are looked at before anything else: where requests come and go, there is a page among them.
    const NEWEST: i64 = 5_000;
    /// An organization of so few is looked at by itself.
    const FEW: i64 = 20_000;
    if filter.state == Some(State::Held) {
        // They have an index of their own, and are few.
        return page(tx, organization, filter, limit, &Way::InOrder(None)).await;
    }
    let edge = "SELECT id FROM attempt WHERE id < $1 ORDER BY id DESC LIMIT 1 OFFSET $2";
    let after = filter.after.map_or_else(|| String::from(AFTER_ALL), |after| after.to_string());
    let edge: Option<Row> = tx.optional(edge, &params![after, NEWEST]).await?;
    let edge: Option<AttemptId> = edge.map(|row| row.at(0)).transpose()?;
    let newest = page(tx, organization, filter, limit, &Way::InOrder(edge)).await?;
    if newest.len() >= limit || edge.is_none() {
        return Ok(newest);
    }
    let count = "SELECT COUNT(*) FROM (SELECT a.id FROM api_key k JOIN attempt a ON a.key_number = k.number
        WHERE k.organization_id = $1 LIMIT $2) few";
    let count: Row = tx.one(count, &params![organization, FEW]).await?;
    let way = if count.at::<i64>(0)? < FEW { Way::Plain } else { Way::InOrder(None) };
    page(tx, organization, filter, limit, &way).await
}

/// An id that comes after every attempt's.
const AFTER_ALL: &str = "req_~";

/// How a page is read.
enum Way {
    /// As the database thinks best.
    Plain,
    OfKey(KeyId),
    /// From the newest on, down to one if there is one.
    InOrder(Option<AttemptId>),
}

async fn keys_of(tx: &mut Tx, organization: OrganizationId, project: ProjectId) -> Result<Vec<KeyId>> {
    let rows: Vec<Row> = tx
        .all(
            "SELECT id FROM api_key WHERE project_id = $1 AND organization_id = $2",
            &params![project, organization],
        )
        .await?;
    rows.iter().map(|row| row.at(0)).collect()
}

/// The newest attempts of some keys: the newest of each, and of those the newest.
async fn of_keys(
    tx: &mut Tx,
    organization: OrganizationId,
    filter: &Filter,
    limit: usize,
    keys: &[KeyId],
) -> Result<Vec<Request>> {
    let mut newest: Vec<Request> = Vec::new();
    for key in keys {
        newest.extend(page(tx, organization, filter, limit, &Way::OfKey(*key)).await?);
        newest.sort_by_key(|request| std::cmp::Reverse(request.id));
        newest.truncate(limit);
    }
    Ok(newest)
}

async fn page(
    tx: &mut Tx,
    organization: OrganizationId,
    filter: &Filter,
    limit: usize,
    way: &Way,
) -> Result<Vec<Request>> {
    let mut sql = if matches!(way, Way::InOrder(_)) { select_in_order() } else { select() };
    let mut values: Vec<Value> = params![organization].to_vec();
    let mut narrow = |sql: Sql, condition: &'static str, value: Value| {
        values.push(value);
        sql.push(condition).push_param(values.len())
    };
    if let Some(after) = filter.after {
        sql = narrow(sql, " AND a.id < ", after.to_value());
    }
    if let Way::InOrder(Some(edge)) = way {
        sql = narrow(sql, " AND a.id >= ", edge.to_value());
    }
    if let Way::OfKey(key) = way {
        sql = narrow(sql, " AND a.key_number = (SELECT number FROM api_key WHERE id = ", key.to_value())
            .push(")");
    }
    if let Some(project) = filter.project {
        sql = narrow(sql, " AND k.project_id = ", project.to_value());
    }
    if filter.state == Some(State::Held) {
        // Written out, for the index of those that are.
        sql = sql.push(" AND a.state = 'held'");
    } else if let Some(state) = filter.state {
        sql = narrow(sql, " AND a.state = ", state.as_str().to_value());
    }
    if let Some(source) = filter.source {
        sql = narrow(sql, " AND a.usage_source = ", source.as_str().to_value());
    }
    if let Some(is_recovered) = filter.is_recovered {
        sql = narrow(sql, " AND a.is_recovered = ", is_recovered.to_value());
    }
    if let Some(is_flagged) = filter.is_flagged {
        sql = sql.push(if is_flagged { " AND a.flags IS NOT NULL" } else { " AND a.flags IS NULL" });
    }
    sql = narrow(sql, " ORDER BY a.id DESC LIMIT ", limit.to_value());
    tx.all(sql, &values).await
}

pub async fn find(tx: &mut Tx, organization: OrganizationId, id: AttemptId) -> Result<Option<Request>> {
    tx.optional(select().push(" AND a.id = $2"), &params![organization, id]).await
}
