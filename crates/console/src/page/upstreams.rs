//! Provider connections. Their credentials go in and never come out.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::{Error, Permission, Result};

use super::{plain, table};
use crate::answer::Answer;
use crate::fields::Fields;
use crate::layout::{Question, pager, token};
use crate::show;
use crate::visit::{Visit, is_for_form, path};

pub(crate) async fn list(visit: &Visit<'_>) -> Result<Answer> {
    let answer = visit.call("list-upstreams", visit.page_of(50)).await?;
    let rows: Vec<Markup> = show::items(&answer)
        .iter()
        .map(|upstream| {
            let id = show::text(upstream, "id");
            html! {
                tr.made[id == visit.query.text("made")] {
                    th scope="row" { a href=(path(&["upstreams", id])) { (show::text(upstream, "name")) } }
                    td { (health(upstream)) }
                    td { (upstream["base_url"].as_str().unwrap_or("")) }
                    td { @match upstream["has_api_key"].as_bool() { Some(true) => "stored", Some(false) => span.none { "none" }, None => "" } }
                    td.number { (show::texts(&upstream["models"]).len()) }
                    td { @if visit.is_operator() { a href=(path(&["upstreams", id, "test"])) { "Test" } } }
                }
            }
        })
        .collect();
    let body = html! {
        @if visit.is_operator() { p { a.button.primary href="/upstreams/new" data-create { "Connect a provider" } } }
        (table("Upstreams", &["Name", "Health", "Address", "Credential", "Models", ""], &rows, &html! {
            p { "No provider is connected, so no model can be called." }
        }))
        (pager(visit, &answer))
    };
    Ok(Answer::page("Upstreams", body))
}

fn health(upstream: &Value) -> Markup {
    html! {
        @match show::text(upstream, "health") {
            "up" => span.badge.good { "up" },
            "down" => span.badge.bad { "down" },
            _ => span.none { "not asked yet" },
        }
    }
}

pub(crate) async fn new(visit: &Visit<'_>) -> Result<Answer> {
    if !visit.is_operator() {
        return Err(Error::forbidden(Permission::Operator.as_str()));
    }
    Ok(new_form(visit, None))
}

fn new_form(visit: &Visit<'_>, error: Option<&Error>) -> Answer {
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        form method="post" action="/upstreams/new" {
            (token(visit)) (fields.alert())
            (fields.required("name", "Name", "", ""))
            (fields.of_kind("url", "base_url", "Base URL", "Of its API, such as https://api.openai.com/v1.", ""))
            (fields.secret("api_key", "Its API key", "Stored encrypted, and never shown.", "off"))
            (fields.area("models", "Models", "With spaces between them; empty to read the provider's own list.", ""))
            div.buttons { button.primary { "Connect" } a.button href="/upstreams" { "Cancel" } }
        }
    };
    Answer::page("Connect a provider", body).because(error)
}

/// What the forms of an upstream say.
fn asked(visit: &Visit<'_>, mut given: Given) -> Given {
    for name in ["name", "base_url"] {
        given = given.body(name, visit.form.text(name));
    }
    if let Some(key) = visit.form.typed("api_key") {
        given = given.body("api_key", key);
    }
    let models: Vec<&str> =
        visit.form.text("models").split([' ', ',', '\n', '\r']).filter(|one| !one.is_empty()).collect();
    if models.is_empty() { given } else { given.body("models", models) }
}

pub(crate) async fn create(visit: &Visit<'_>) -> Result<Answer> {
    match visit.call("create-upstream", asked(visit, Given::default())).await {
        Ok(upstream) => Ok(Answer::see(path(&["upstreams", show::text(&upstream, "id")]))),
        Err(error) if visit_again(&error) => Ok(new_form(visit, Some(&error))),
        Err(error) => Err(error),
    }
}

/// That a provider cannot be reached belongs under the form as well.
fn visit_again(error: &Error) -> bool {
    is_for_form(error) || matches!(error.status(), 502 | 504)
}

async fn named(visit: &Visit<'_>) -> Result<(Given, Value)> {
    let given = Given::default().path("upstream_id", visit.name());
    let upstream = visit.call("retrieve-upstream", given.clone()).await?;
    Ok((given, upstream))
}

pub(crate) async fn show(visit: &Visit<'_>) -> Result<Answer> {
    one(visit, None).await
}

async fn one(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let (_, upstream) = named(visit).await?;
    let id = show::text(&upstream, "id");
    let models = show::texts(&upstream["models"]);
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        p { (show::id(id)) }
        @if visit.is_operator() {
            form method="post" action=(path(&["upstreams", id])) {
                (token(visit)) (fields.alert())
                (fields.required("name", "Name", "", show::text(&upstream, "name")))
                (fields.of_kind("url", "base_url", "Base URL", "Another server needs its key again.", upstream["base_url"].as_str().unwrap_or("")))
                (fields.secret("api_key", "Another API key", if upstream["has_api_key"] == Value::Bool(true) { "One is stored. Empty to leave it." } else { "None is stored." }, "off"))
                (fields.area("models", "Models", "With spaces between them.", &models.join(" ")))
                div.buttons {
                    button.primary { "Save" }
                    a.button href=(path(&["upstreams", id, "test"])) { "Test" }
                    a.button.danger href=(path(&["upstreams", id, "delete"])) { "Delete…" }
                }
            }
        } @else {
            ul { @for model in &models { li { (model) } } }
        }
    };
    Ok(Answer::page(show::text(&upstream, "name").to_owned(), body).because(error))
}

pub(crate) async fn update(visit: &Visit<'_>) -> Result<Answer> {
    let given = asked(visit, Given::default().path("upstream_id", visit.name()));
    match visit.call("modify-upstream", given).await {
        Ok(_) => Ok(Answer::see(visit.path.clone())),
        Err(error) if visit_again(&error) => one(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn test(visit: &Visit<'_>) -> Result<Answer> {
    let (given, upstream) = named(visit).await?;
    let seen = visit.call("test-upstream", given).await?;
    let millis =
        |name: &str| seen[name].as_i64().map_or_else(|| "–".to_owned(), |millis| format!("{millis} ms"));
    let body = html! {
        p {
            @if show::flag(&seen, "ok") { span.badge.good { "answers" } } @else { span.badge.bad { "does not answer" } }
            @if let Some(error) = seen["error"].as_str() { " " (error) }
        }
        dl.facts {
            dt { "Status" } dd { (seen["status"].as_i64().map(|status| status.to_string()).unwrap_or_default()) }
            dt { "Connected in" } dd { (millis("connect_ms")) }
            dt { "Answered in" } dd { (millis("answer_ms")) }
            dt { "Models it lists" } dd { (seen["models"].as_array().map_or(0, Vec::len)) }
            dt { "Served here, and not listed" } dd { (show::texts(&seen["missing_models"]).join(", ")) }
        }
        p { a.button href=(visit.path) { "Again" } " " a href=(path(&["upstreams", visit.name()])) { "Back" } }
    };
    Ok(Answer::page(format!("Test of {}", show::text(&upstream, "name")), body))
}

fn deletion(upstream: &Value) -> Question<'_> {
    Question {
        title: format!("Delete {}", show::text(upstream, "name")),
        told: plain("Models that only it serves cannot be called any more. Requests under way end."),
        name: Some(show::text(upstream, "name")),
        button: "Delete the upstream",
        back: path(&["upstreams", show::text(upstream, "id")]),
    }
}

pub(crate) async fn ask_delete(visit: &Visit<'_>) -> Result<Answer> {
    let (_, upstream) = named(visit).await?;
    Ok(deletion(&upstream).ask(visit, None))
}

pub(crate) async fn delete(visit: &Visit<'_>) -> Result<Answer> {
    let (given, upstream) = named(visit).await?;
    let question = deletion(&upstream);
    if let Err(error) = question.is_confirmed(visit) {
        return Ok(question.ask(visit, Some(&error)));
    }
    match visit.call("delete-upstream", given).await {
        Ok(_) => Ok(Answer::see("/upstreams")),
        Err(error) if is_for_form(&error) => Ok(question.ask(visit, Some(&error))),
        Err(error) => Err(error),
    }
}
