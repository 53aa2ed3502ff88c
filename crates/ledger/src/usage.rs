//! Usage and costs by bucket of time, from the rollups; buckets of a minute from the attempts themselves.

use tollgate_core::{Money, OrganizationId, Result, Timestamp};
use tollgate_store::{FromRow, Row, Sql, ToValue, Tx, Value, params};

use crate::attempt::Endpoint;
use crate::rollup::{DAY, HOUR};

/// A dimension that results can be grouped by and filtered on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    Project,
    Key,
    /// The user or service account that owns the key.
    Owner,
    Model,
    Upstream,
}

impl Dimension {
    pub const ALL: [Self; 5] = [Self::Project, Self::Key, Self::Owner, Self::Model, Self::Upstream];

    const fn column(self) -> &'static str {
        match self {
            Self::Project => "project_id",
            Self::Key => "api_key_id",
            Self::Owner => "owner_id",
            Self::Model => "model",
            Self::Upstream => "upstream_id",
        }
    }

    /// Where it is read from: `k` is the key, `r` the rollup or the attempt.
    const fn source(self) -> &'static str {
        match self {
            Self::Project => "k.project_id",
            Self::Key => "k.id",
            Self::Owner => "COALESCE(k.user_id, k.service_account_id)",
            Self::Model => "r.model",
            Self::Upstream => "r.upstream_id",
        }
    }

    const fn position(self) -> usize {
        self as usize
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Minute,
    Hour,
    Day,
}

impl Width {
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => HOUR,
            Self::Day => DAY,
        }
    }
}

/// What to sum. `start` and `end` are aligned to the width; the end is not included.
#[derive(Clone, Debug)]
pub struct Query {
    /// `None` for the whole installation.
    pub organization: Option<OrganizationId>,
    /// `None` for all, as costs are.
    pub endpoint: Option<Endpoint>,
    pub width: Width,
    pub start: Timestamp,
    pub end: Timestamp,
    pub group_by: Vec<Dimension>,
    /// A dimension and the values that count; foreign and absent ids match nothing.
    pub filters: Vec<(Dimension, Vec<String>)>,
}

impl Query {
    /// The same, grouped by one dimension more.
    #[must_use]
    pub fn with(mut self, dimension: Dimension) -> Self {
        if !self.group_by.contains(&dimension) {
            self.group_by.push(dimension);
        }
        self
    }
}

/// The sums of one group in one bucket.
#[derive(Clone, Debug)]
pub struct Sums {
    pub bucket_start: Timestamp,
    /// By [`Dimension`]; `None` where it is not grouped by.
    dimensions: [Option<String>; 5],
    pub requests: u64,
    pub clamped_requests: u64,
    pub input_tokens: i64,
    pub cached_input_tokens: i64,
    pub cache_write_tokens: i64,
    pub output_tokens: i64,
    pub drained_output_tokens: i64,
    pub input_cost: Money,
    pub cached_input_cost: Money,
    pub cache_write_cost: Money,
    pub output_cost: Money,
    pub drained_output_cost: Money,
    /// By corrections and refunds: what has no tokens of its own.
    pub adjusted_cost: Money,
}

impl Sums {
    pub fn dimension(&self, dimension: Dimension) -> Option<&str> {
        self.dimensions[dimension.position()].as_deref()
    }

    pub fn cost(&self) -> Money {
        self.input_cost
            + self.cached_input_cost
            + self.cache_write_cost
            + self.output_cost
            + self.drained_output_cost
            + self.adjusted_cost
    }

    pub fn uncached_input_tokens(&self) -> i64 {
        self.input_tokens - self.cached_input_tokens - self.cache_write_tokens
    }
}

impl FromRow for Sums {
    fn from_row(row: &Row) -> Result<Self> {
        let dimension = |dimension: Dimension| row.get::<Option<String>>(dimension.column());
        Ok(Self {
            bucket_start: row.get("bucket")?,
            dimensions: [
                dimension(Dimension::Project)?,
                dimension(Dimension::Key)?,
                dimension(Dimension::Owner)?,
                dimension(Dimension::Model)?,
                dimension(Dimension::Upstream)?,
            ],
            requests: row.get("requests")?,
            clamped_requests: row.get("clamped_requests")?,
            input_tokens: row.get("input_tokens")?,
            cached_input_tokens: row.get("cached_input_tokens")?,
            cache_write_tokens: row.get("cache_write_tokens")?,
            output_tokens: row.get("output_tokens")?,
            drained_output_tokens: row.get("drained_output_tokens")?,
            input_cost: row.get("input_cost")?,
            cached_input_cost: row.get("cached_input_cost")?,
            cache_write_cost: row.get("cache_write_cost")?,
            output_cost: row.get("output_cost")?,
            drained_output_cost: row.get("drained_output_cost")?,
            adjusted_cost: row.get("adjusted_cost")?,
        })
    }
}

/// Adds up over models what `narrow` leaves of each sum. The order of the other dimensions stays.
pub fn merge_models(sums: Vec<Sums>, narrow: impl Fn(&Sums) -> Sums) -> Vec<Sums> {
    let mut merged: Vec<Sums> = Vec::new();
    for sums in sums {
        let mut sums = narrow(&sums);
        sums.dimensions[Dimension::Model.position()] = None;
        match merged
            .iter_mut()
            .find(|m| m.bucket_start == sums.bucket_start && m.dimensions == sums.dimensions)
        {
            Some(known) => known.add(&sums),
            None => merged.push(sums),
        }
    }
    merged
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.clamped_requests += other.clamped_requests;
        self.drained_output_tokens += other.drained_output_tokens;
        self.drained_output_cost += other.drained_output_cost;
        self.adjusted_cost += other.adjusted_cost;
        self.input_tokens += other.input_tokens;
        self.cached_input_tokens += other.cached_input_tokens;
        self.cache_write_tokens += other.cache_write_tokens;
        self.output_tokens += other.output_tokens;
        self.input_cost += other.input_cost;
        self.cached_input_cost += other.cached_input_cost;
        self.cache_write_cost += other.cache_write_cost;
        self.output_cost += other.output_cost;
    }
}

const SUMS: &str = ", CAST(SUM(r.cached_input_tokens) AS BIGINT) AS cached_input_tokens,
    CAST(SUM(r.cache_write_tokens) AS BIGINT) AS cache_write_tokens,
    CAST(SUM(r.drained_output_tokens) AS BIGINT) AS drained_output_tokens,
    CAST(SUM(r.input_cost) AS BIGINT) AS input_cost,
    CAST(SUM(r.cached_input_cost) AS BIGINT) AS cached_input_cost,
    CAST(SUM(r.cache_write_cost) AS BIGINT) AS cache_write_cost,
    CAST(SUM(r.output_cost) AS BIGINT) AS output_cost,
    CAST(SUM(r.drained_output_cost) AS BIGINT) AS drained_output_cost";

const OF_ROLLUPS: &str = ", CAST(SUM(r.requests) AS BIGINT) AS requests,
    CAST(SUM(r.clamped_requests) AS BIGINT) AS clamped_requests, CAST(SUM(r.adjusted_cost) AS BIGINT) AS adjusted_cost,
    CAST(SUM(r.input_tokens) AS BIGINT) AS input_tokens, CAST(SUM(r.output_tokens) AS BIGINT) AS output_tokens";

/// Of the attempts themselves, with their adjustments.
const OF_ATTEMPTS: &str = ", COUNT(*) AS requests, COUNT(r.clamped_to) AS clamped_requests,
    CAST(SUM(COALESCE((SELECT SUM(j.cost) FROM adjustment j WHERE j.attempt_id = r.id), 0)) AS BIGINT) AS adjusted_cost,
    CAST(SUM(r.input_tokens + COALESCE((SELECT SUM(j.input_tokens) FROM adjustment j WHERE j.attempt_id = r.id), 0))
        AS BIGINT) AS input_tokens,
    CAST(SUM(r.output_tokens + COALESCE((SELECT SUM(j.output_tokens) FROM adjustment j WHERE j.attempt_id = r.id), 0))
        AS BIGINT) AS output_tokens";

/// The groups of all buckets, in order of time and then of their dimensions. Buckets without usage have none.
pub async fn sums(tx: &mut Tx, query: &Query) -> Result<Vec<Sums>> {
    let is_rollup = query.width != Width::Minute;
    let mut sql =
        Sql::from("SELECT ").push(if is_rollup { "r.bucket_start" } else { "(r.created_at / 60) * 60" });
    sql = sql.push(" AS bucket");
    for dimension in Dimension::ALL {
        let grouped = query.group_by.contains(&dimension);
        sql = sql.push(", ").push(if grouped { dimension.source() } else { "NULL" });
        sql = sql.push(" AS ").push(dimension.column());
    }
    sql = sql.push(if is_rollup { OF_ROLLUPS } else { OF_ATTEMPTS }).push(SUMS);
    sql = sql.push(if is_rollup {
        " FROM api_key k JOIN usage_rollup r ON r.key_number = k.number
         WHERE r.width = $1 AND r.bucket_start >= $2 AND r.bucket_start < $3"
    } else {
        // Ids begin with the time, so the primary key serves as the index.
        " FROM attempt r JOIN api_key k ON k.number = r.key_number
         WHERE $1 = 60 AND r.id >= $2 AND r.id < $3 AND r.state = 'settled'"
    });
    let mut values: Vec<Value> = params![query.width.seconds()].to_vec();
    for edge in [query.start, query.end] {
        let id = tollgate_core::AttemptId::first_at(edge);
        values.push(if is_rollup { edge.to_value() } else { id.to_value() });
    }
    if let Some(organization) = query.organization {
        values.push(organization.to_value());
        sql = sql.push(" AND k.organization_id = ").push_param(values.len());
    }
    if let Some(endpoint) = query.endpoint {
        values.push(endpoint.as_str().to_value());
        sql = sql.push(" AND r.endpoint = ").push_param(values.len());
    }
    for (dimension, allowed) in &query.filters {
        sql = sql.push(" AND ").push(dimension.source()).push(" IN ");
        sql = sql.push_list(&mut values, allowed.iter().map(ToValue::to_value));
    }
    sql = sql.push(" GROUP BY 1");
    for dimension in &query.group_by {
        sql = sql.push(", ").push(dimension.source());
    }
    sql = sql.push(" ORDER BY 1");
    for dimension in &query.group_by {
        sql = sql.push(", ").push(dimension.source());
    }
    tx.all(sql, &values).await
}
