//! Attempts as people read them.

use serde::Serialize;
use tollgate_core::{
    AttemptId, KeyId, Money, OrganizationId, Principal, ProjectId, Result, Timestamp, UpstreamId,
};
use tollgate_store::{FromRow, Row, Sql, ToValue, Tx, Value, params};

use crate::attempt::State;

/// One attempt, as `/tollgate/v1/requests` shows it. Money is in decimal US dollars of nine places.
#[derive(Debug, Serialize)]
pub struct Request {
    pub id: AttemptId,
    pub object: &'static str,
    pub attempt_of: Option<AttemptId>,
    pub state: String,
    pub usage_source: Option<String>,
    pub recovered: bool,
    /// Whether its model had a price. An unpriced request costs nothing here, which says nothing of the provider.
    pub priced: bool,
    pub project_id: ProjectId,
    pub api_key_id: KeyId,
    /// The user or service account that owns the key.
    pub user_id: Principal,
    pub endpoint: String,
    pub model: String,
    pub upstream: UpstreamId,
    pub bound: Money,
    /// Null while it is held, as are the tokens.
    pub cost: Option<Money>,
    pub input_tokens: Option<u64>,
    pub cached_input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    pub created_at: Timestamp,
    pub resolved_at: Option<Timestamp>,
}

impl FromRow for Request {
    fn from_row(row: &Row) -> Result<Self> {
        let state: String = row.get("state")?;
        let is_resolved = state != State::Held.as_str();
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
            project_id: row.get("project_id")?,
            api_key_id: row.get("api_key_id")?,
            user_id: row.get("owner_id")?,
            endpoint: row.get("endpoint")?,
            model: row.get("model")?,
            upstream: row.get("upstream_id")?,
            bound: row.get("bound")?,
            cost: if is_resolved { Some(row.get("cost")?) } else { None },
            input_tokens: tokens("input_tokens")?,
            cached_input_tokens: tokens("cached_input_tokens")?,
            output_tokens: tokens("output_tokens")?,
            created_at: row.get("created_at")?,
            resolved_at: row.get("resolved_at")?,
            state,
        })
    }
}

/// Which attempts to list, newest first.
#[derive(Debug, Default)]
pub struct Filter {
    pub after: Option<AttemptId>,
    pub project: Option<ProjectId>,
    pub key: Option<KeyId>,
    pub state: Option<State>,
}

pub async fn list(
    tx: &mut Tx,
    organization: OrganizationId,
    filter: &Filter,
    limit: usize,
) -> Result<Vec<Request>> {
    let mut sql = Sql::from("SELECT * FROM attempt WHERE organization_id = $1");
    let mut values: Vec<Value> = params![organization].to_vec();
    let mut narrow = |sql: Sql, condition: &'static str, value: Value| {
        values.push(value);
        sql.push(condition).push_param(values.len())
    };
    if let Some(after) = filter.after {
        sql = narrow(sql, " AND id < ", after.to_value());
    }
    if let Some(project) = filter.project {
        sql = narrow(sql, " AND project_id = ", project.to_value());
    }
    if let Some(key) = filter.key {
        sql = narrow(sql, " AND api_key_id = ", key.to_value());
    }
    if let Some(state) = filter.state {
        sql = narrow(sql, " AND state = ", state.as_str().to_value());
    }
    sql = narrow(sql, " ORDER BY id DESC LIMIT ", limit.to_value());
    tx.all(sql, &values).await
}

pub async fn find(tx: &mut Tx, organization: OrganizationId, id: AttemptId) -> Result<Option<Request>> {
    tx.optional("SELECT * FROM attempt WHERE id = $1 AND organization_id = $2", &params![id, organization])
        .await
}
