//! The audit log.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::{Error, Result, Timestamp};

use super::{plain, table};
use crate::answer::Answer;
use crate::layout::pager;
use crate::show;
use crate::visit::Visit;

pub(crate) const HEADINGS: [&str; 5] = ["When", "What", "Who", "From", "About"];
/// So many events are in a file; for all there is `tollgate audit export`.
const EXPORTED_MAX: usize = 5_000;

fn filters(visit: &Visit<'_>, mut given: Given) -> Result<Given> {
    let names = [
        ("type", "event_types"),
        ("actor", "actor_emails"),
        ("project", "project_ids"),
        ("resource", "resource_ids"),
    ];
    for (name, parameter) in names {
        for value in visit.query.text(name).split([',', ' ']).filter(|value| !value.is_empty()) {
            given = given.query(parameter, value);
        }
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
    let asked = async { visit.call("list-audit-logs", filters(visit, visit.page_of(50))?).await };
    let (answer, error) = match asked.await {
        Ok(answer) => (answer, None),
        Err(error) if error.param.is_some() => (Value::Null, Some(error)),
        Err(error) => return Err(error),
    };
    let rows: Vec<Markup> = show::items(&answer).iter().map(row).collect();
    let field = |name: &str, label: &str, kind: &str| {
        html! { label { (label) " " input type=(kind) name=(name) value=(visit.query.text(name)); } }
    };
    let body = html! {
        form.controls method="get" action="/audit" role="search" {
            @if let Some(error) = &error { div.alert role="alert" { (error.message) } }
            (field("type", "Event", "text")) (field("actor", "By (e-mail)", "text")) (field("project", "Project id", "text"))
            (field("resource", "About (id)", "text")) (field("since", "From", "date")) (field("until", "To", "date"))
            button { "Show" }
        }
        (table("Events", &HEADINGS, &rows, &plain("Nothing that fits is on record.")))
        (pager(visit, &answer))
        p { a href=(format!("/audit/export?{}", visit.query.with("after", None))) { "These as lines of JSON" } }
        p.hint { "Each event seals the one before it. " code { "tollgate audit verify" } " proves that none was changed or taken out." }
    };
    Ok(Answer::page("Audit log", body).because(error.as_ref()))
}

/// One event, with all of it to be opened.
pub(crate) fn row(event: &Value) -> Markup {
    let kind = show::text(event, "type");
    let about = &event[kind];
    html! {
        tr id=(show::text(event, "id")) {
            td { a href=(format!("#{}", show::text(event, "id"))) { (show::time(show::number(event, "effective_at"))) } }
            th scope="row" {
                details { summary { (kind) } pre tabindex="0" { code { (serde_json::to_string_pretty(event).unwrap_or_default()) } } }
            }
            td { (who(&event["actor"])) }
            td { (event["actor"]["ip_address"].as_str().unwrap_or("")) }
            td { (about["id"].as_str().unwrap_or("")) }
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
    let mut lines = String::new();
    let mut count = 0;
    let mut after: Option<String> = None;
    while count < EXPORTED_MAX {
        let mut given = filters(visit, Given::default().query("limit", "100"))?;
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
