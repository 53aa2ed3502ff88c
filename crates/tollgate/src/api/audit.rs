//! `audit list`, `tail` and `export`.

use std::time::Duration;

use serde_json::{Value, json};
use tollgate_admin::Event;
use tollgate_core::Clock;

use crate::api::amount;
use crate::api::output::Format;
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
                    self.client.list(PATH, &self.events_meant(&options.meant).await?, options.limit).await?;
                if has_more {
                    self.say(&format!("There are more than {}; see --limit.", events.len()));
                }
                self.show_events(events)
            }
            AuditCommand::Tail(options) => self.tail(&options.meant, options.limit).await,
            AuditCommand::Export(options) => self.export_events(&options.meant).await,
        }
    }

    async fn events_meant(&self, meant: &AuditFilter) -> Result<Query, Failure> {
        let mut query: Query = Vec::new();
        let is_unknown = |kind: &&String| Event::all().all(|known| known != kind.as_str());
        if let Some(kind) = meant.types.iter().find(is_unknown).filter(|_| !self.client.is_openai()) {
            return Err(format!("There is no event `{kind}`. One is api_key.created.").into());
        }
        query.extend(meant.types.iter().map(|kind| ("event_types[]", kind.clone())));
        // An address is known by the log also of somebody who is gone. Both together would have to be true at once.
        let by_address = meant.actors.iter().filter(|who| who.contains('@')).count();
        if by_address > 0 && by_address < meant.actors.len() {
            let message = "Name --actor by addresses or by ids, not some by these and some by those.";
            return Err(message.to_owned().into());
        }
        let actor = |who: &String| {
            if by_address > 0 { ("actor_emails[]", who.to_lowercase()) } else { ("actor_ids[]", who.clone()) }
        };
        query.extend(meant.actors.iter().map(actor));
        for project in &meant.projects {
            query.push(("project_ids[]", self.project_narrowed_to(project).await?));
        }
        query.extend(meant.resources.iter().map(|id| ("resource_ids[]", id.clone())));
        let now = Clock::system().now();
        let at = |text: &Option<String>| {
            text.as_deref().map(|text| amount::moment_or_seconds(text, now)).transpose()
        };
        let (since, until) = (at(&meant.since)?, at(&meant.until)?);
        if since.zip(until).is_some_and(|(since, until)| until <= since) {
            return Err("--until is before --since.".to_owned().into());
        }
        query.extend(since.map(|at| ("effective_at[gte]", at.0.to_string())));
        query.extend(until.map(|at| ("effective_at[lt]", at.0.to_string())));
        Ok(query)
    }

    fn show_events(&self, events: Vec<Value>) -> Done {
        if self.view.format.is_for_programs() {
            return self.show(table::AUDIT, &Value::Array(events));
        }
        self.show(table::AUDIT, &Value::Array(events.into_iter().map(with_actor).collect()))
    }

    fn check_json_lines(&self, command: &str) -> Done {
        if self.view.format == Format::Csv {
            return Err(format!("`{command}` writes lines of JSON.").into());
        }
        self.view.check_lines(command)
    }

    /// The last events, and then each as it comes, until it is stopped.
    async fn tail(&self, meant: &AuditFilter, count: usize) -> Done {
        self.check_json_lines("audit tail")?;
        let mut query = self.events_meant(meant).await?;
        let (mut events, _) = self.client.list(PATH, &query, count.max(1)).await?;
        let mut newest = events.first().and_then(id_of);
        events.truncate(count);
        loop {
            events.reverse();
            events.iter().try_for_each(|event| self.view.show_line(event))?;
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
        self.check_json_lines("audit export")?;
        // Lists begin at the newest.
        let (mut events, _) = self.client.list(PATH, &self.events_meant(meant).await?, usize::MAX).await?;
        events.reverse();
        events.iter().try_for_each(|event| self.view.show_line(event))
    }
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
    let payload = event["type"].as_str().map(|kind| event[kind].clone()).unwrap_or_default();
    let told = [
        "/data/name",
        "/data/email",
        "/changes_requested/name",
        "/email",
        "/role_name",
        "/data/group_name",
        "/id",
    ];
    event["about"] =
        json!(told.iter().filter_map(|place| payload.pointer(place)?.as_str()).find(|name| !name.is_empty()));
    let changes = payload["changes_requested"].as_object();
    event["changed"] = json!(
        changes.map(|changes| changes.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default()
    );
    event
}
