//! Requests and what became of their money. What was said in them is nowhere here.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::Result;

use super::{plain, project_called, table};
use crate::answer::Answer;
use crate::layout::pager;
use crate::show;
use crate::visit::{Visit, path};

pub(crate) async fn list(visit: &Visit<'_>) -> Result<Answer> {
    let mut given = visit.page_of(50);
    for name in ["state", "usage_source", "api_key_id"] {
        if let Some(value) = visit.query.typed(name) {
            given = given.query(name, value);
        }
    }
    if let Some(text) = visit.query.typed("project_id") {
        given = given.query("project_id", project_called(visit, "project_id", text).await?);
    }
    let answer = visit.call("list-requests", given).await?;
    let select = |name: &str, label: &str, options: &[(&str, &str)]| {
        html! { label { (label) " " select name=(name) {
            @for (value, called) in options { option value=(value) selected[visit.query.text(name) == *value] { (called) } }
        } } }
    };
    let body = html! {
        form.controls method="get" action="/requests" {
            (select("state", "State", &[("", "any"), ("held", "under way"), ("settled", "settled"), ("voided", "voided")]))
            (select("usage_source", "Usage from", &[("", "anywhere"), ("upstream", "the provider"), ("observed", "what was seen"), ("bound", "the bound")]))
            label { "Project " input name="project_id" value=(visit.query.text("project_id")); }
            label { "Key " input name="api_key_id" value=(visit.query.text("api_key_id")); }
            button { "Show" }
        }
        div id="requests" data-live=(if visit.query.typed("after").is_some() { "0" } else { "5" }) { (listed(visit, &answer).await?) }
        (pager(visit, &answer))
    };
    Ok(Answer::page("Requests", body))
}

/// Requests as a table, the newest first.
pub(crate) async fn listed(visit: &Visit<'_>, answer: &Value) -> Result<Markup> {
    let upstreams = visit.if_allowed("list-upstreams", Given::default().query("limit", "100")).await?;
    let called = |id: &str| {
        let all = upstreams.iter().flat_map(show::items);
        let found = all.into_iter().find(|upstream| show::text(upstream, "id") == id);
        found.map_or_else(|| id.to_owned(), |upstream| show::text(upstream, "name").to_owned())
    };
    let rows: Vec<Markup> = show::items(answer)
        .iter()
        .map(|request| {
            let id = show::text(request, "id");
            html! {
                tr {
                    td { (show::ago(show::number(request, "created_at"), visit.now())) }
                    th scope="row" { a href=(path(&["requests", id])) { (show::text(request, "model")) } }
                    td { (state(request)) }
                    td.number { (show::count(&request["input_tokens"])) }
                    td.number { (show::count(&request["output_tokens"])) }
                    td.number { (show::amount(show::money(&request["cost"]))) }
                    td { (called(show::text(request, "upstream"))) }
                }
            }
        })
        .collect();
    Ok(table(
        "Requests",
        &["When", "Model", "State", "Input", "Output", "Cost", "Upstream"],
        &rows,
        &html! {
            p { "No request yet." }
        },
    ))
}

fn state(request: &Value) -> Markup {
    let state = show::text(request, "state");
    let from = request["usage_source"].as_str();
    html! {
        @match state {
            "held" => span.badge { "under way" },
            _ => (state),
        }
        @if let Some(from) = from.filter(|from| *from != "upstream") { " " span.badge.warn title="where its usage came from" { (from) } }
        @for flag in show::texts(&request["flags"]) { " " span.badge.warn { (flag) } }
    }
}

pub(crate) async fn show(visit: &Visit<'_>) -> Result<Answer> {
    let id = visit.name();
    let request = visit.call("retrieve-request", Given::default().path("request_id", id)).await?;
    let changes = visit.call("list-adjustments", Given::default().path("request_id", id)).await?;
    let rows: Vec<Markup> = request
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| *name != "object")
        .map(|(name, value)| html! { tr { th scope="row" { (name.replace('_', " ")) } td { (plainly(name, value)) } } })
        .collect();
    let changes: Vec<Markup> = show::items(&changes)
        .iter()
        .map(|change| {
            html! {
                tr {
                    th scope="row" { (show::text(change, "kind")) }
                    td { (show::time(show::number(change, "created_at"))) }
                    td.number { (show::amount(show::money(&change["cost"]))) }
                    td { (show::text(change, "reason")) }
                }
            }
        })
        .collect();
    let body = html! {
        (table("The request", &["", ""], &rows, &plain("")))
        h2 { "Corrections and refunds" }
        (table("Corrections and refunds", &["", "When", "By", "Why"], &changes, &plain("There are none.")))
    };
    Ok(Answer::page(format!("Request {id}"), body))
}

fn plainly(name: &str, value: &Value) -> Markup {
    html! {
        @match value {
            Value::Null => span.none { "–" },
            Value::Number(at) if name.ends_with("_at") => (show::time(at.as_i64())),
            Value::String(id) if name == "project_id" => { a href=(path(&["projects", id])) { (id) } },
            Value::String(text) => (text),
            Value::Array(list) => (list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")),
            Value::Object(_) => code { (value.to_string()) },
            other => (other.to_string()),
        }
    }
}
