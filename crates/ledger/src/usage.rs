//! Usage and costs by bucket of time, from the rollups; buckets of a minute from the attempts themselves.
//!
//! What is asked of projects or the organization is read from their own sums, so that it costs the same however many keys and
//! requests there are.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use tollgate_core::labels::Labels;
use tollgate_core::{OrganizationId, Result, Timestamp};
use tollgate_store::{FromRow, Row, Sql, ToValue, Tx, Value, params};

use crate::attempt::Endpoint;
use crate::rollup::{DAY, HOUR};
pub use crate::sums::Sums;

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
    /// The number of a set of labels, as a text.
    LabelSet,
}

impl Dimension {
    pub const ALL: [Self; 8] = [
        Self::Project,
        Self::Key,
        Self::Owner,
        Self::Model,
        Self::Upstream,
        Self::ServiceTier,
        Self::Endpoint,
        Self::LabelSet,
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
            Self::LabelSet => "label_set",
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
    /// Names of labels to group by. They need [`Dimension::LabelSet`].
    pub labels: Vec<String>,
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
pub struct Group {
    pub bucket_start: Timestamp,
    /// By [`Dimension`]; `None` where it is not grouped by.
    dimensions: [Option<String>; 8],
    /// The values of the labels that it is grouped by, in their order; `None` for what does not carry one.
    pub labels: Vec<Option<String>>,
    pub sums: Sums,
}

impl Group {
    pub fn dimension(&self, dimension: Dimension) -> Option<&str> {
        self.dimensions[dimension.position()].as_deref()
    }
}

impl FromRow for Group {
    fn from_row(row: &Row) -> Result<Self> {
        let mut dimensions = [const { None }; 8];
        for dimension in Dimension::ALL {
            dimensions[dimension.position()] = row.get(dimension.name())?;
        }
        Ok(Self { bucket_start: row.get("bucket")?, dimensions, labels: Vec::new(), sums: Sums::read(row)? })
    }
}

/// The same groups with what `narrow` leaves of their sums.
pub fn narrowed(groups: Vec<Group>, narrow: impl Fn(&Group) -> Sums) -> Vec<Group> {
    groups.into_iter().map(|group| Group { sums: narrow(&group), ..group }).collect()
}

/// Adds up over a dimension what `narrow` leaves of each sum. The order of the other dimensions stays.
pub fn merge(groups: Vec<Group>, over: Dimension, narrow: impl Fn(&Group) -> Sums) -> Vec<Group> {
    let mut merged: Vec<Group> = Vec::new();
    let mut places: HashMap<_, usize> = HashMap::new();
    for mut group in groups {
        group.sums = narrow(&group);
        group.dimensions[over.position()] = None;
        let of = (group.bucket_start, group.dimensions.clone(), group.labels.clone());
        match places.entry(of) {
            Entry::Occupied(place) => merged[*place.get()].sums += group.sums,
            Entry::Vacant(place) => {
                place.insert(merged.len());
                merged.push(group);
            }
        }
    }
    merged
}

/// Tells groups apart by labels, which sets of labels were grouped by for.
async fn by_labels(tx: &mut Tx, mut groups: Vec<Group>, names: &[String]) -> Result<Vec<Group>> {
    const AT_ONCE: usize = 500;
    let numbers: BTreeSet<i64> = groups
        .iter()
        .filter_map(|group| group.dimension(Dimension::LabelSet)?.parse().ok())
        .filter(|number| *number != 0)
        .collect();
    let mut sets: HashMap<String, Labels> = HashMap::new();
    for some in numbers.into_iter().collect::<Vec<_>>().chunks(AT_ONCE) {
        let mut values = Vec::new();
        let sql = Sql::from("SELECT number, labels FROM label_set WHERE number IN ")
            .push_list(&mut values, some.iter().map(ToValue::to_value));
        for row in tx.all::<Row>(sql, &values).await? {
            let labels: String = row.at(1)?;
            sets.insert(row.at::<i64>(0)?.to_string(), Labels::from_stored(&labels)?);
        }
    }
    for group in &mut groups {
        let set = group.dimension(Dimension::LabelSet).and_then(|set| sets.get(set));
        let value = |name: &String| set.and_then(|set| set.get(name)).map(str::to_owned);
        group.labels = names.iter().map(value).collect();
    }
    let mut merged = merge(groups, Dimension::LabelSet, |group| group.sums);
    merged.sort_by(|one, other| {
        let order = |group: &Group| (group.bucket_start, group.dimensions.clone(), group.labels.clone());
        order(one).cmp(&order(other))
    });
    Ok(merged)
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
            Self::Attempts => "(a.created_at / 60) * 60",
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
                " FROM attempt a JOIN api_key k ON k.number = a.key_number LEFT JOIN (
                    SELECT attempt_id, SUM(cost) AS cost, SUM(input_tokens) AS input_tokens,
                        SUM(output_tokens) AS output_tokens
                    FROM adjustment WHERE attempt_id >= $2 AND attempt_id < $3 GROUP BY attempt_id
                  ) j ON j.attempt_id = a.id
                  WHERE $1 = 60 AND a.id >= $2 AND a.id < $3 AND a.state = 'settled'"
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
            (Dimension::Model, Self::Attempts) => "a.model",
            (Dimension::Model, _) => "r.model",
            (Dimension::Upstream, Self::Attempts) => "a.upstream_id",
            (Dimension::Upstream, _) => "r.upstream_id",
            (Dimension::ServiceTier, Self::Attempts) => "a.service_tier",
            (Dimension::ServiceTier, _) => "r.service_tier",
            (Dimension::Endpoint, Self::Attempts) => "a.endpoint",
            (Dimension::Endpoint, _) => "r.endpoint",
            (Dimension::LabelSet, Self::Attempts) => "CAST(a.label_set AS TEXT)",
            (Dimension::LabelSet, _) => "CAST(r.label_set AS TEXT)",
        }
    }
}

/// The groups of all buckets, in order of time and then of their dimensions. Buckets without usage have none.
pub async fn sums(tx: &mut Tx, query: &Query) -> Result<Vec<Group>> {
    let (sql, values) = statement("SELECT ", query);
    let groups = tx.all(sql, &values).await?;
    if query.labels.is_empty() { Ok(groups) } else { by_labels(tx, groups, &query.labels).await }
}

fn statement(select: &'static str, query: &Query) -> (Sql, Vec<Value>) {
    let source = Source::of(query);
    let mut sql = Sql::from(select).push(source.bucket()).push(" AS bucket");
    for dimension in Dimension::ALL {
        let grouped = query.group_by.contains(&dimension);
        sql = sql.push(", ").push(if grouped { source.column(dimension) } else { "NULL" });
        sql = sql.push(" AS ").push(dimension.name());
    }
    sql = sql.push(if source == Source::Attempts { Sums::OF_ATTEMPTS } else { Sums::OF_SUMS });
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
        // The sums of organizations know no labels.
        let by_project =
            [Dimension::Project, Dimension::LabelSet].iter().any(|by| query.group_by.contains(by));
        sql = sql.push(if by_project { " AND r.project_id <> ''" } else { " AND r.project_id = ''" });
    }
    if let Some(endpoint) = query.endpoint {
        values.push(endpoint.as_str().to_value());
        sql = sql.push(" AND ").push(source.column(Dimension::Endpoint)).push(" = ").push_param(values.len());
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
                labels: Vec::new(),
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
