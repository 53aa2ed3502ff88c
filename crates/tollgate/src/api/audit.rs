//! `audit list`, `tail` and `export`.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::session::{Done, Failure, Session};
use crate::api::table;
use crate::command::maintenance::{AuditCommand, AuditFilter};

const PATH: &str = "/organization/audit_logs";
/// Events of one page.
const PAGE: usize = 100;
/// How often `tail` asks.
const PAUSE: Duration = Duration::from_secs(1);

type Query = Vec<(&'static str, String)>;

impl Session {
    pub async fn audit(&self, command: AuditCommand) -> Done {
        match command {
            // These two look into a data directory.
            AuditCommand::Verify(_) | AuditCommand::Checkpoint(_) => Ok(()),
            AuditCommand::List(options) => {
                let (events, has_more) =
                    self.client.list(PATH, &query(&options.meant), options.limit).await?;
                if has_more {
                    self.say(&format!("There are more than {}; see --limit.", events.len()));
                }
                self.show_events(events)
            }
            AuditCommand::Tail(options) => self.tail(&options.meant, options.limit).await,
            AuditCommand::Export(options) => self.export_events(&options.meant).await,
        }
    }

    fn show_events(&self, events: Vec<Value>) -> Done {
        if self.format.is_for_programs() {
            return self.show(table::AUDIT, &Value::Array(events));
        }
        self.show(table::AUDIT, &Value::Array(events.into_iter().map(with_actor).collect()))
    }

    /// The last events, and then each as it comes, until it is stopped.
    async fn tail(&self, meant: &AuditFilter, count: usize) -> Done {
        let mut query = query(meant);
        let (mut events, _) = self.client.list(PATH, &query, count.max(1)).await?;
        let mut newest = events.first().and_then(id_of);
        events.truncate(count);
        loop {
            events.reverse();
            write_lines(&events)?;
            tokio::time::sleep(PAUSE).await;
            query.retain(|(name, _)| *name != "before");
            query.extend(newest.clone().map(|id| ("before", id)));
            query.push(("limit", PAGE.to_string()));
            let page = self.client.get(PATH, &query).await?;
            query.retain(|(name, _)| *name != "limit");
            events = page["data"].as_array().cloned().unwrap_or_default();
            newest = events.first().and_then(id_of).or(newest);
        }
    }

    async fn export_events(&self, meant: &AuditFilter) -> Done {
        // Lists begin at the newest.
        let (mut events, _) = self.client.list(PATH, &query(meant), usize::MAX).await?;
        events.reverse();
        write_lines(&events)
    }
}

fn query(meant: &AuditFilter) -> Query {
    let list = |name: &'static str, values: &[String]| -> Query {
        values.iter().map(|value| (name, value.clone())).collect()
    };
    let mut query = list("event_types[]", &meant.types);
    query.extend(list("actor_ids[]", &meant.actors));
    query.extend(list("project_ids[]", &meant.projects));
    query.extend(list("resource_ids[]", &meant.resources));
    query.extend(meant.since.map(|since| ("effective_at[gte]", since.to_string())));
    query
}

fn id_of(event: &Value) -> Option<String> {
    event["id"].as_str().map(str::to_owned)
}

/// With the one word for who acted that a table has room for.
fn with_actor(mut event: Value) -> Value {
    let actor = &event["actor"];
    let places = ["/api_key/user/email", "/session/user/email", "/api_key/service_account/id", "/api_key/id"];
    let name = places.iter().filter_map(|place| actor.pointer(place)?.as_str()).find(|name| !name.is_empty());
    event["actor_name"] = json!(name.unwrap_or("the host"));
    event
}

fn write_lines(events: &[Value]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for event in events {
        writeln!(out, "{event}")?;
    }
    Ok(out.flush()?)
}
