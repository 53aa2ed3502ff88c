//! Usage and costs by bucket of time, from the rollups; buckets of a minute from the attempts themselves.
//!
//! What is asked of projects or the organization is read from their own sums, so that it costs the same however many keys and
//! requests there are.

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
    ServiceTier,
    /// Which kind of request, as [`Endpoint`] has them.
    Endpoint,
}

impl Dimension {
    pub const ALL: [Self; 7] = [
        Self::Project,
        Self::Key,
        Self::Owner,
        Self::Model,
        Self::Upstream,
        Self::ServiceTier,
        Self::Endpoint,
    ];

    /// What its column is called in an answer.
    const fn name(self) -> &'static str {
        match self {
            Self::Project => "project_id",
            Self::Key => "api_key_id",
            Self::Owner => "owner_id",
            Self::Model => "model",
            Self::Upstream => "upstream_id",
            Self::ServiceTier => "service_tier",
            Self::Endpoint => "endpoint",
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
    dimensions: [Option<String>; 7],
    pub requests: u64,
    pub clamped_requests: u64,
    pub input_tokens: i64,
    pub cached_input_tokens: i64,
    pub cache_write_tokens: i64,
    /// Of the cache-write tokens, those that are kept for an hour.
    pub cache_write_1h_tokens: i64,
    /// Of the input that was neither, what was heard.
    pub audio_input_tokens: i64,
    pub output_tokens: i64,
    /// Of the output, what was spoken.
    pub audio_output_tokens: i64,
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
        let dimension = |dimension: Dimension| row.get::<Option<String>>(dimension.name());
        Ok(Self {
            bucket_start: row.get("bucket")?,
            dimensions: [
                dimension(Dimension::Project)?,
                dimension(Dimension::Key)?,
                dimension(Dimension::Owner)?,
                dimension(Dimension::Model)?,
                dimension(Dimension::Upstream)?,
                dimension(Dimension::ServiceTier)?,
                dimension(Dimension::Endpoint)?,
            ],
            requests: row.get("requests")?,
            clamped_requests: row.get("clamped_requests")?,
            input_tokens: row.get("input_tokens")?,
            cached_input_tokens: row.get("cached_input_tokens")?,
            cache_write_tokens: row.get("cache_write_tokens")?,
            cache_write_1h_tokens: row.get("cache_write_1h_tokens")?,
            audio_input_tokens: row.get("audio_input_tokens")?,
            output_tokens: row.get("output_tokens")?,
            audio_output_tokens: row.get("audio_output_tokens")?,
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
        self.cache_write_1h_tokens += other.cache_write_1h_tokens;
        self.audio_input_tokens += other.audio_input_tokens;
        self.audio_output_tokens += other.audio_output_tokens;
        self.output_tokens += other.output_tokens;
        self.input_cost += other.input_cost;
        self.cached_input_cost += other.cached_input_cost;
        self.cache_write_cost += other.cache_write_cost;
        self.output_cost += other.output_cost;
    }
}

/// Where sums are read from, the smallest there is for a question.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Of projects and organizations.
    Totals,
    /// Of keys: of those that are asked about.
    OfKeys,
    /// Of all keys, by time: most rest, and are not looked at.
    OfAllKeys,
    Attempts,
}

impl Source {
    fn of(query: &Query) -> Self {
        let filtered = || query.filters.iter().map(|(dimension, _)| *dimension);
        let is_of_keys = |dimension| matches!(dimension, Dimension::Key | Dimension::Owner);
        if query.width == Width::Minute {
            Self::Attempts
        } else if query.organization.is_some()
            && !query.group_by.iter().copied().chain(filtered()).any(is_of_keys)
        {
            Self::Totals
        } else if filtered().any(|dimension| is_of_keys(dimension) || dimension == Dimension::Project) {
            Self::OfKeys
        } else {
            Self::OfAllKeys
        }
    }

    const fn bucket(self) -> &'static str {
        match self {
            Self::Attempts => "(r.created_at / 60) * 60",
            Self::Totals | Self::OfKeys | Self::OfAllKeys => "r.bucket_start",
        }
    }

    /// Up to where the parameters of the span stand: its width, beginning and end.
    const fn from(self) -> &'static str {
        match self {
            Self::Totals => {
                " FROM usage_total r WHERE r.width = $1 AND r.bucket_start >= $2 AND r.bucket_start < $3"
            }
            // CROSS JOIN keeps the order: the keys first.
            Self::OfKeys => {
                " FROM api_key k CROSS JOIN usage_rollup r
                  WHERE r.key_number = k.number AND r.width = $1 AND r.bucket_start >= $2 AND r.bucket_start < $3"
            }
            // Here time first.
            Self::OfAllKeys => {
                " FROM usage_rollup r CROSS JOIN api_key k
                  WHERE k.number = r.key_number AND r.width = $1 AND r.bucket_start >= $2 AND r.bucket_start < $3"
            }
            // Ids begin with the time, so the primary key serves as the index.
            Self::Attempts => {
                " FROM attempt r JOIN api_key k ON k.number = r.key_number
                  WHERE $1 = 60 AND r.id >= $2 AND r.id < $3 AND r.state = 'settled'"
            }
        }
    }

    /// The column of a dimension: `k` is the key, `r` what is summed up.
    const fn column(self, dimension: Dimension) -> &'static str {
        match (dimension, self) {
            (Dimension::Project, Self::Totals) => "r.project_id",
            (Dimension::Project, _) => "k.project_id",
            (Dimension::Key, _) => "k.id",
            (Dimension::Owner, _) => "COALESCE(k.user_id, k.service_account_id)",
            (Dimension::Model, _) => "r.model",
            (Dimension::Upstream, _) => "r.upstream_id",
            (Dimension::ServiceTier, _) => "r.service_tier",
            (Dimension::Endpoint, _) => "r.endpoint",
        }
    }
}

const SUMS: &str = ", CAST(SUM(r.cached_input_tokens) AS BIGINT) AS cached_input_tokens,
    CAST(SUM(r.cache_write_tokens) AS BIGINT) AS cache_write_tokens,
    CAST(SUM(r.cache_write_1h_tokens) AS BIGINT) AS cache_write_1h_tokens,
    CAST(SUM(r.audio_input_tokens) AS BIGINT) AS audio_input_tokens,
    CAST(SUM(r.audio_output_tokens) AS BIGINT) AS audio_output_tokens,
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
    let (sql, values) = statement("SELECT ", query);
    tx.all(sql, &values).await
}

fn statement(select: &'static str, query: &Query) -> (Sql, Vec<Value>) {
    let source = Source::of(query);
    let mut sql = Sql::from(select).push(source.bucket()).push(" AS bucket");
    for dimension in Dimension::ALL {
        let grouped = query.group_by.contains(&dimension);
        sql = sql.push(", ").push(if grouped { source.column(dimension) } else { "NULL" });
        sql = sql.push(" AS ").push(dimension.name());
    }
    sql = sql.push(if source == Source::Attempts { OF_ATTEMPTS } else { OF_ROLLUPS }).push(SUMS);
    sql = sql.push(source.from());
    let mut values: Vec<Value> = params![query.width.seconds()].to_vec();
    for edge in [query.start, query.end] {
        let id = tollgate_core::AttemptId::first_at(edge);
        values.push(if source == Source::Attempts { id.to_value() } else { edge.to_value() });
    }
    if let Some(organization) = query.organization {
        values.push(organization.to_value());
        let whose = if source == Source::Totals { "r" } else { "k" };
        sql = sql.push(" AND ").push(whose).push(".organization_id = ").push_param(values.len());
    }
    let names_projects = query.filters.iter().any(|(dimension, _)| *dimension == Dimension::Project);
    if source == Source::Totals && !names_projects {
        let by_project = query.group_by.contains(&Dimension::Project);
        sql = sql.push(if by_project { " AND r.project_id <> ''" } else { " AND r.project_id = ''" });
    }
    if let Some(endpoint) = query.endpoint {
        values.push(endpoint.as_str().to_value());
        sql = sql.push(" AND r.endpoint = ").push_param(values.len());
    }
    for (dimension, allowed) in &query.filters {
        sql = sql.push(" AND ").push(source.column(*dimension)).push(" IN ");
        // Nothing is called by an empty id, which in the totals stands for all projects.
        let named = allowed.iter().map(|value| if value.is_empty() { "-" } else { value });
        sql = sql.push_list(&mut values, named.map(ToValue::to_value));
    }
    sql = sql.push(" GROUP BY 1");
    for dimension in &query.group_by {
        sql = sql.push(", ").push(source.column(*dimension));
    }
    sql = sql.push(" ORDER BY 1");
    for dimension in &query.group_by {
        sql = sql.push(", ").push(source.column(*dimension));
    }
    (sql, values)
}

#[cfg(test)]
mod tests {
    use tollgate_core::{Clock, ProjectId};
    use tollgate_store::{Home, MIGRATIONS, Options};

    use super::Dimension::{Key, Model, Owner, Project};
    use super::*;

    /// Plans of the embedded database, which has no statistics: with them or without, what is asked of few looks at few.
    #[tokio::test]
    async fn each_question_begins_where_there_is_least() {
        let home = tempfile::tempdir().unwrap();
        let place = Home::for_tests(home.path());
        let Some(directory) = place.database_directory() else { return };
        let clock = Clock::manual(Timestamp(1_780_000_000));
        place.create().unwrap();
        let db = place.open(Options { create: true, read_only: false }).unwrap();
        db.migrate(Some(directory), MIGRATIONS, &clock).await.unwrap();
        let one =
            |dimension| (dimension, vec![clock.next_id::<tollgate_core::id::kind::Project>().to_string()]);
        let two = |dimension| {
            (dimension, vec![ProjectId::from_bits(1).to_string(), ProjectId::from_bits(2).to_string()])
        };
        for (group_by, filters, plan) in [
            (
                vec![],
                vec![],
                "SEARCH r USING PRIMARY KEY (organization_id=? AND project_id=? AND width=? AND bucket_start>?",
            ),
            (
                vec![Model],
                vec![],
                "SEARCH r USING PRIMARY KEY (organization_id=? AND project_id=? AND width=? AND bucket_start>?",
            ),
            (
                vec![],
                vec![one(Project)],
                "SEARCH r USING PRIMARY KEY (organization_id=? AND project_id=? AND width=? AND bucket_start>?",
            ),
            (
                vec![Project],
                vec![two(Project), one(Project)],
                "SEARCH r USING PRIMARY KEY (organization_id=? AND project_id=? AND width=? AND bucket_start>?",
            ),
            (
                vec![Project],
                vec![],
                "SEARCH r USING INDEX usage_total_by_time (organization_id=? AND width=? AND bucket_start>?",
            ),
            (vec![Key], vec![], "SEARCH r USING INDEX usage_rollup_by_time (width=? AND bucket_start>?"),
            (
                vec![],
                vec![one(Key)],
                "SEARCH k USING INDEX api_key_in_organization (organization_id=? AND id=?",
            ),
            (vec![Key], vec![one(Project)], "SEARCH k USING INDEX api_key_by_project (project_id=?)"),
            (
                vec![Owner],
                vec![one(Key), one(Project)],
                "SEARCH k USING INDEX api_key_in_organization (organization_id=? AND id=?",
            ),
        ] {
            let query = Query {
                organization: Some(clock.next_id()),
                endpoint: None,
                width: Width::Day,
                start: Timestamp(0),
                end: Timestamp(DAY * 30),
                group_by,
                filters,
            };
            let (sql, values) = statement("EXPLAIN QUERY PLAN SELECT ", &query);
            let rows: Vec<Row> =
                db.read(move |tx| Box::pin(async move { tx.all(sql, &values).await })).await.unwrap();
            let first: String = rows[0].get("detail").unwrap();
            assert!(first.starts_with(plan), "{query:?}: {first}");
        }
    }
}
