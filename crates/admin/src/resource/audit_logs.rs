//! The audit log, newest first, in OpenAI's shape: the payload stands under a key that is named like the event.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};
use tollgate_core::page::{self, Page};
use tollgate_core::{AuditLogId, Error, Permission, Result, Timestamp};
use tollgate_store::{FromRow, Row, Sql, ToValue, Value as SqlValue, params};

use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;

pub(crate) fn operations() -> Operations {
    Operations::new().get(
        "/v1/organization/audit_logs",
        "list-audit-logs",
        Needs(Permission::AuditLogsRead),
        list,
    )
}

#[derive(Debug)]
pub(crate) struct AuditLog {
    id: AuditLogId,
    event_type: String,
    effective_at: Timestamp,
    actor: Value,
    project: Option<Value>,
    payload: Value,
}

impl Serialize for AuditLog {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("object", "organization.audit_log")?;
        map.serialize_entry("type", &self.event_type)?;
        map.serialize_entry("effective_at", &self.effective_at)?;
        map.serialize_entry("actor", &self.actor)?;
        if let Some(project) = &self.project {
            map.serialize_entry("project", project)?;
        }
        map.serialize_entry(&self.event_type, &self.payload)?;
        map.end()
    }
}

impl JsonSchema for AuditLog {
    fn schema_name() -> Cow<'static, str> {
        "AuditLog".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (id, time) = (generator.subschema_for::<AuditLogId>(), generator.subschema_for::<Timestamp>());
        let types: Vec<&str> = Event::all().collect();
        let mut properties = json!({
            "id": id,
            "object": {"type": "string", "const": "organization.audit_log"},
            "type": {"type": "string", "enum": types},
            "effective_at": time,
            "actor": {"type": "object"},
            "project": {"type": "object", "properties": {"id": {"type": "string"}, "name": {"type": "string"}}},
        });
        for event in &types {
            properties[*event] = json!({"type": "object"});
        }
        json_schema!({
            "type": "object",
            "description": "The payload stands under the name of the event.",
            "properties": properties,
            "required": ["id", "object", "type", "effective_at", "actor"],
        })
    }
}

impl FromRow for AuditLog {
    fn from_row(row: &Row) -> Result<Self> {
        let json = |column: &str| -> Result<Value> {
            serde_json::from_str(&row.get::<String>(column)?)
                .map_err(|error| Error::internal("a stored audit event is not JSON").source(error))
        };
        let project: Option<String> = row.get("project_id")?;
        let project_name: Option<String> = row.get("project_name")?;
        Ok(Self {
            id: row.get("id")?,
            event_type: row.get("event_type")?,
            effective_at: row.get("effective_at")?,
            actor: json("actor")?,
            project: project.map(|id| json!({"id": id, "name": project_name.unwrap_or_default()})),
            payload: json("payload")?,
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListAuditLogs {
    after: Option<String>,
    before: Option<String>,
    limit: Option<i64>,
    #[serde(default)]
    event_types: Vec<String>,
    #[serde(default)]
    actor_ids: Vec<String>,
    #[serde(default)]
    actor_emails: Vec<String>,
    #[serde(default)]
    project_ids: Vec<String>,
    #[serde(default)]
    resource_ids: Vec<String>,
    effective_at: Option<Range>,
    #[serde(default)]
    tenant_only: bool,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Range {
    gt: Option<i64>,
    gte: Option<i64>,
    lt: Option<i64>,
    lte: Option<i64>,
}

/// Conditions that are put together from what the query gives.
struct Conditions {
    sql: Sql,
    values: Vec<SqlValue>,
}

impl Conditions {
    fn add(&mut self, condition: &'static str, value: SqlValue) {
        self.values.push(value);
        self.sql =
            std::mem::replace(&mut self.sql, Sql::from("")).push(condition).push_param(self.values.len());
    }

    fn close(&mut self) {
        self.sql = std::mem::replace(&mut self.sql, Sql::from("")).push(")");
    }

    fn add_list(&mut self, condition: &'static str, list: &[String]) {
        if list.is_empty() {
            return;
        }
        let sql = std::mem::replace(&mut self.sql, Sql::from("")).push(condition);
        self.sql = sql.push_list(&mut self.values, list.iter().map(ToValue::to_value));
    }
}

async fn list(cx: &mut Cx, input: ListAuditLogs) -> Result<Page<AuditLog>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<AuditLogId> = page::cursor("after", input.after.as_deref())?;
    let before: Option<AuditLogId> = page::cursor("before", input.before.as_deref())?;
    if after.is_some() && before.is_some() {
        return Err(Error::invalid("before", "Give at most one of 'after' and 'before'."));
    }
    let mut conditions = Conditions {
        sql: Sql::from("SELECT * FROM audit_log WHERE organization_id = $1"),
        values: params![cx.organization()].to_vec(),
    };
    let range = input.effective_at.unwrap_or_default();
    let edges = [
        (" AND effective_at > ", range.gt),
        (" AND effective_at >= ", range.gte),
        (" AND effective_at < ", range.lt),
        (" AND effective_at <= ", range.lte),
    ];
    for (condition, edge) in edges {
        if let Some(edge) = edge {
            conditions.add(condition, edge.to_value());
        }
    }
    conditions.add_list(" AND event_type IN ", &input.event_types);
    // Who acted is a user, a service account, or the key itself.
    if !input.actor_ids.is_empty() {
        conditions.add_list(" AND (actor_id IN ", &input.actor_ids);
        conditions.add_list(" OR actor_key_id IN ", &input.actor_ids);
        conditions.close();
    }
    conditions.add_list(" AND actor_email IN ", &input.actor_emails);
    conditions.add_list(" AND project_id IN ", &input.project_ids);
    conditions.add_list(" AND resource_id IN ", &input.resource_ids);
    if input.tenant_only {
        // Events of a tenant above organizations; there is none here.
        conditions.add(" AND 1 = ", 0i64.to_value());
    }
    if let Some(after) = after {
        conditions.add(" AND id < ", after.to_value());
    }
    if let Some(before) = before {
        conditions.add(" AND id > ", before.to_value());
    }
    let order = if before.is_some() { " ORDER BY id ASC LIMIT " } else { " ORDER BY id DESC LIMIT " };
    conditions.add(order, (limit + 1).to_value());
    let mut rows: Vec<AuditLog> = cx.tx.all(conditions.sql, &conditions.values).await?;
    if before.is_some() {
        // The nearest before the cursor were asked for; they are shown in the list's own order.
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        rows.reverse();
        return Ok(Page::with_more(rows, has_more, |event| event.id.to_string()));
    }
    Ok(Page::new(rows, limit, |event| event.id.to_string()))
}
