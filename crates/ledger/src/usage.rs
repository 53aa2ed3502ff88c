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
    Owner,
    Model,
}

impl Dimension {
    pub const ALL: [Self; 4] = [Self::Project, Self::Key, Self::Owner, Self::Model];

    const fn column(self) -> &'static str {
        match self {
            Self::Project => "project_id",
            Self::Key => "api_key_id",
            Self::Owner => "owner_id",
            Self::Model => "model",
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
    pub organization: OrganizationId,
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
    dimensions: [Option<String>; 4],
    pub requests: u64,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub cache_write_tokens: u64,
    pub output_tokens: u64,
    pub input_cost: Money,
    pub cached_input_cost: Money,
    pub cache_write_cost: Money,
    pub output_cost: Money,
}

impl Sums {
    pub fn dimension(&self, dimension: Dimension) -> Option<&str> {
        self.dimensions[dimension.position()].as_deref()
    }

    pub fn cost(&self) -> Money {
        self.input_cost + self.cached_input_cost + self.cache_write_cost + self.output_cost
    }

    pub fn uncached_input_tokens(&self) -> u64 {
        self.input_tokens.saturating_sub(self.cached_input_tokens).saturating_sub(self.cache_write_tokens)
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
            ],
            requests: row.get("requests")?,
            input_tokens: row.get("input_tokens")?,
            cached_input_tokens: row.get("cached_input_tokens")?,
            cache_write_tokens: row.get("cache_write_tokens")?,
            output_tokens: row.get("output_tokens")?,
            input_cost: row.get("input_cost")?,
            cached_input_cost: row.get("cached_input_cost")?,
            cache_write_cost: row.get("cache_write_cost")?,
            output_cost: row.get("output_cost")?,
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

const SUMS: &str = ", CAST(SUM(input_tokens) AS BIGINT) AS input_tokens,
    CAST(SUM(cached_input_tokens) AS BIGINT) AS cached_input_tokens,
    CAST(SUM(cache_write_tokens) AS BIGINT) AS cache_write_tokens,
    CAST(SUM(output_tokens) AS BIGINT) AS output_tokens,
    CAST(SUM(input_cost) AS BIGINT) AS input_cost,
    CAST(SUM(cached_input_cost) AS BIGINT) AS cached_input_cost,
    CAST(SUM(cache_write_cost) AS BIGINT) AS cache_write_cost,
    CAST(SUM(output_cost) AS BIGINT) AS output_cost";

/// The groups of all buckets, in order of time and then of their dimensions. Buckets without usage have none.
pub async fn sums(tx: &mut Tx, query: &Query) -> Result<Vec<Sums>> {
    let is_rollup = query.width != Width::Minute;
    let mut sql =
        Sql::from("SELECT ").push(if is_rollup { "bucket_start" } else { "(created_at / 60) * 60" });
    sql = sql.push(" AS bucket");
    for dimension in Dimension::ALL {
        let grouped = query.group_by.contains(&dimension);
        sql = sql.push(if grouped { ", " } else { ", NULL AS " }).push(dimension.column());
    }
    sql = sql.push(if is_rollup {
        ", CAST(SUM(requests) AS BIGINT) AS requests"
    } else {
        ", COUNT(*) AS requests"
    });
    sql = sql.push(SUMS).push(if is_rollup {
        " FROM usage_rollup WHERE width = $1 AND organization_id = $2 AND bucket_start >= $3 AND bucket_start < $4"
    } else {
        // Ids begin with the time, so the primary key serves as the index.
        " FROM attempt WHERE $1 = 60 AND organization_id = $2 AND id >= $3 AND id < $4 AND state = 'settled'"
    });
    let mut values: Vec<Value> = params![query.width.seconds(), query.organization].to_vec();
    for edge in [query.start, query.end] {
        let id = tollgate_core::AttemptId::first_at(edge);
        values.push(if is_rollup { edge.to_value() } else { id.to_value() });
    }
    if let Some(endpoint) = query.endpoint {
        values.push(endpoint.as_str().to_value());
        sql = sql.push(" AND endpoint = ").push_param(values.len());
    }
    for (dimension, allowed) in &query.filters {
        sql = sql
            .push(" AND ")
            .push(dimension.column())
            .push(" IN ")
            .push_list(values.len() + 1, allowed.len());
        values.extend(allowed.iter().map(ToValue::to_value));
    }
    sql = sql.push(" GROUP BY bucket");
    for dimension in &query.group_by {
        sql = sql.push(", ").push(dimension.column());
    }
    sql = sql.push(" ORDER BY bucket");
    for dimension in &query.group_by {
        sql = sql.push(", ").push(dimension.column());
    }
    tx.all(sql, &values).await
}
