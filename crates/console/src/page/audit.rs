//! The audit log.

use std::collections::{BTreeSet, HashMap};

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::{Event, Given};
use tollgate_core::{Error, Result, Timestamp};

use super::found::{found, ids_of, is_id, typed};
use super::{plain, table};
use crate::answer::Answer;
use crate::layout::pager;
use crate::show;
use crate::visit::{Visit, path};

pub(crate) const HEADINGS: [&str; 5] = ["When", "What", "Who", "From", "About"];
/// So many events are in a file; for all there is `tollgate audit export`.
const EXPORTED_MAX: usize = 5_000;

/// What is looked for, by the names that people know; ids are taken as they are.
async fn filters(visit: &Visit<'_>, mut given: Given) -> Result<Given> {
    for text in typed(visit, "type")? {
        let meant: Vec<&str> = Event::all().filter(|event| event.contains(&text.to_lowercase())).collect();
        if meant.is_empty() {
            return Err(Error::invalid("type", format!("No event is called anything like '{text}'.")));
        }
        given = meant.into_iter().fold(given, |given, event| given.query("event_types", event));
    }
    let actors = typed(visit, "actor")?;
    if actors.iter().any(|text| is_id(text)) {
        if !actors.iter().all(|text| is_id(text)) {
            let message =
                "Name them by their addresses or by their ids, not some by these and some by those.";
            return Err(Error::invalid("actor", message));
        }
        given = actors.iter().fold(given, |given, id| given.query("actor_ids", *id));
    } else {
        for text in actors {
            // A whole address is meant as it is: whoever it was may be gone.
            let emails = if text.contains('@') {
                vec![text.to_lowercase()]
            } else {
                found(visit, "actor", "list-users", text, "email").await?
            };
            if emails.is_empty() {
                return Err(Error::invalid("actor", format!("Nobody's name or address has '{text}' in it.")));
            }
            given = emails.into_iter().fold(given, |given, email| given.query("actor_emails", email));
        }
    }
    for text in typed(visit, "project")? {
        let ids = ids_of(visit, "project", "list-projects", text).await?;
        given = ids.into_iter().fold(given, |given, id| given.query("project_ids", id));
    }
    for text in typed(visit, "resource")? {
        let mut ids = Vec::new();
        if is_id(text) {
            ids.push(text.to_owned());
        } else {
            for list in
                ["list-organization-api-keys", "list-projects", "list-users", "list-groups", "list-roles"]
            {
                ids.extend(found(visit, "resource", list, text, "id").await?);
            }
        }
        if ids.is_empty() {
            return Err(Error::invalid("resource", format!("Nothing is called anything like '{text}'.")));
        }
        given = ids.into_iter().fold(given, |given, id| given.query("resource_ids", id));
    }
    for (name, bound) in [("since", "gte"), ("until", "lt")] {
        if let Some(text) = visit.query.typed(name) {
            let wrong = || Error::invalid(name, format!("'{text}' is not a day, such as 2026-11-26."));
            let day = Timestamp::of_day(text).ok_or_else(wrong)?;
            let at = if name == "until" { day.0 + 86_400 } else { day.0 };
            given = given.query(&format!("effective_at[{bound}]"), at.to_string());
        }
    }
    Ok(given)
}

pub(crate) async fn list(visit: &Visit<'_>) -> Result<Answer> {
    let asked = async { visit.call("list-audit-logs", filters(visit, visit.page_of(50)).await?).await };
    let (answer, error) = match asked.await {
        Ok(answer) => (answer, None),
        Err(error) if error.param.is_some() => (Value::Null, Some(error)),
        Err(error) => return Err(error),
    };
    let rows = rows(visit, show::items(&answer)).await?;
    let field = |name: &str, label: &str, kind: &str| {
        html! { label { (label) " " input type=(kind) name=(name) value=(visit.query.text(name)); } }
    };
    let body = html! {
        p.hint { "Events by a part of their names, such as api_key; people, projects and things by a part of theirs, or by their ids." }
        @if let Some(error) = &error { div.alert role="alert" { (error.message) } }
        form.controls method="get" action="/audit" role="search" {
            label { "Event " input name="type" list="events" value=(visit.query.text("type")) data-search; }
            datalist id="events" { @for event in Event::all() { option value=(event) {} } }
            (field("actor", "By", "text")) (field("project", "Project", "text"))
            (field("resource", "About", "text")) (field("since", "From", "date")) (field("until", "To", "date"))
            button { "Show" }
        }
        (table("Events", &HEADINGS, &rows, &plain("Nothing that fits is on record.")))
        (pager(visit, &answer))
        p { a href=(format!("/audit/export?{}", visit.query.with("after", None))) { "These as lines of JSON" } }
        p.hint { "Each event seals the one before it. " code { "tollgate audit verify" } " proves that none was changed or taken out." }
    };
    Ok(Answer::page("Audit log", body).because(error.as_ref()))
}

/// Keys by their ids: what each is called, and whether it can be looked at.
type Keys = HashMap<String, (String, bool)>;

/// Events as rows. A key is told by the name it has now, as far as somebody may see it.
pub(crate) async fn rows(visit: &Visit<'_>, events: &[Value]) -> Result<Vec<Markup>> {
    let ids = events.iter().filter_map(|event| event[show::text(event, "type")]["id"].as_str());
    let ids: BTreeSet<&str> = ids.filter(|id| id.starts_with("key_")).collect();
    let keys = if ids.is_empty() { None } else { keys(visit, ids).await };
    Ok(events.iter().map(|event| row(event, keys.as_ref())).collect())
}

/// What the keys are called; `None` where that cannot be had, which is no reason to show no events.
async fn keys(visit: &Visit<'_>, ids: BTreeSet<&str>) -> Option<Keys> {
    let given = Given::default().query("status", "any").query("limit", "100");
    let given = ids.into_iter().fold(given, |given, id| given.query("ids", id));
    let known = visit.call("list-organization-api-keys", given).await.ok()?;
    let called = show::items(&known).iter().map(|key| {
        let is_there = show::number(key, "revoked_at").is_none();
        (show::text(key, "id").to_owned(), (show::text(key, "name").to_owned(), is_there))
    });
    Some(called.collect())
}

/// One event, with all of it to be opened.
fn row(event: &Value, keys: Option<&Keys>) -> Markup {
    let kind = show::text(event, "type");
    let about = &event[kind];
    html! {
        tr id=(show::text(event, "id")) {
            td { a href=(format!("#{}", show::text(event, "id"))) { (show::time(show::number(event, "effective_at"))) } }
            th scope="row" {
                details { summary { (kind) @if let Some(what) = changed(about) { " " span.hint { (what) } } } pre tabindex="0" { code { (serde_json::to_string_pretty(event).unwrap_or_default()) } } }
            }
            td { (who(&event["actor"])) }
            td { (event["actor"]["ip_address"].as_str().unwrap_or("")) }
            td { (subject(event, about, keys)) }
        }
    }
}

/// What was changed, in the words of the API.
fn changed(about: &Value) -> Option<String> {
    let changes = about["changes_requested"].as_object()?;
    let names: Vec<String> = changes.keys().map(|name| name.replace('_', " ")).collect();
    Some(names.join(", "))
}

/// What an event is about, by the name it was told with, and where it is looked at.
fn subject(event: &Value, about: &Value, keys: Option<&Keys>) -> Markup {
    let id = about["id"].as_str().unwrap_or("");
    let project = event["project"]["id"].as_str();
    let told = [
        "/data/name",
        "/data/email",
        "/data/title",
        "/data/role_name",
        "/changes_requested/name",
        "/email",
        "/name",
        "/role_name",
        "/data/group_name",
        "/changes_requested/role_name",
        "/changes_requested/group_name",
    ];
    let name = told.iter().filter_map(|place| about.pointer(place)?.as_str()).find(|name| !name.is_empty());
    let key = keys.and_then(|keys| keys.get(id));
    let place = match (id.split_once('_').map(|(kind, _)| kind), project) {
        // One that is gone has no page.
        (Some("key"), Some(project)) if keys.is_none() || key.is_some_and(|(_, is_there)| *is_there) => {
            Some(path(&["projects", project, "keys", id]))
        }
        (Some("proj"), _) => Some(path(&["projects", id])),
        (Some("group"), _) => Some(path(&["groups", id])),
        _ if id.starts_with("user-") => Some(path(&["people", id])),
        _ => None,
    };
    let project_name = event["project"]["name"].as_str().filter(|name| !name.is_empty());
    let own = project_name.filter(|_| project == Some(id));
    let called = key.map(|(name, _)| name.as_str()).or(name).or(own).unwrap_or(id);
    html! {
        @match place {
            Some(place) => a href=(place) title=(id) { (called) },
            None => span title=(id) { (called) },
        }
        @if let Some(project) = project_name.filter(|name| *name != called) {
            br; span.hint { "in " (project) }
        }
    }
}

fn who(actor: &Value) -> String {
    let key = &actor["api_key"];
    let candidates = [
        &actor["session"]["user"]["email"],
        &key["user"]["email"],
        &key["service_account"]["id"],
        &key["id"],
    ];
    let named = candidates.into_iter().filter_map(Value::as_str).find(|name| !name.is_empty());
    let named = named.map(str::to_owned);
    named.unwrap_or_else(|| {
        if actor["host"].is_boolean() { "the host".to_owned() } else { "an operator".to_owned() }
    })
}

pub(crate) async fn export(visit: &Visit<'_>) -> Result<Answer> {
    let meant = filters(visit, Given::default().query("limit", "100")).await?;
    let mut lines = String::new();
    let mut count = 0;
    let mut after: Option<String> = None;
    while count < EXPORTED_MAX {
        let mut given = meant.clone();
        if let Some(after) = &after {
            given = given.query("after", after.clone());
        }
        let answer = visit.call("list-audit-logs", given).await?;
        for event in show::items(&answer) {
            lines.push_str(&event.to_string());
            lines.push('\n');
            count += 1;
        }
        after = answer["last_id"].as_str().map(str::to_owned);
        if answer["has_more"].as_bool() != Some(true) || after.is_none() {
            break;
        }
    }
    let name = format!("audit-{}.jsonl", show::day(visit.now().0));
    Ok(Answer::File { name, kind: "application/x-ndjson", body: lines.into_bytes() })
}
