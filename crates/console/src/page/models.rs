//! Models and what they cost.

use maud::{Markup, html};
use serde_json::{Map, Value, json};
use tollgate_admin::Given;
use tollgate_core::{Error, Result, Timestamp};

use super::{plain, table};
use crate::answer::Answer;
use crate::fields::Fields;
use crate::layout::{action, token};
use crate::show;
use crate::visit::{Visit, is_for_form, path};

const PRICES: [(&str, &str); 4] = [
    ("input_price", "Input"),
    ("cached_input_price", "Cached input"),
    ("cache_write_price", "Cache writes"),
    ("output_price", "Output"),
];

fn price(value: &Value) -> Markup {
    html! { @if let Some(price) = value.as_str() { "$" (price) } @else { span.none { "–" } } }
}

pub(crate) async fn list(visit: &Visit<'_>) -> Result<Answer> {
    let answer = visit.call("list-tollgate-models", Given::default()).await?;
    let wanted = visit.query.text("q").to_lowercase();
    let rows: Vec<Markup> = show::items(&answer)
        .iter()
        .filter(|model| show::text(model, "id").to_lowercase().contains(&wanted))
        .map(|model| {
            let id = show::text(model, "id");
            let is_priced = model["input_price"].is_string() || model["output_price"].is_string();
            html! {
                tr {
                    th scope="row" { a href=(path(&["prices", id])) { (id) } @if !is_priced { " " span.badge.bad { "no price" } } }
                    @for (name, _) in PRICES { td.number { (price(&model[name])) } }
                    td.number { (model["context_tokens"].as_i64().map(|count| show::thousands(count.unsigned_abs())).unwrap_or_default()) }
                    td { (show::texts(&model["upstreams"]).join(", ")) }
                    td { (show::text(model, "price_version")) }
                }
            }
        })
        .collect();
    let body = html! {
        form.search method="get" action="/prices" role="search" {
            label.hidden for="q" { "Search by name" }
            input id="q" name="q" type="search" value=(visit.query.text("q")) placeholder="Search by name" data-search;
            button { "Search" }
        }
        p.hint { "Prices are in dollars for a million tokens. A model without a price is refused where a hard limit applies." }
        (table("Models", &["Model", "Input", "Cached input", "Cache writes", "Output", "Context", "Upstreams", "Version"], &rows,
            &plain("No upstream serves such a model.")))
    };
    Ok(Answer::page("Models and prices", body))
}

pub(crate) async fn show(visit: &Visit<'_>) -> Result<Answer> {
    one(visit, None).await
}

/// What is known of a model: of one that nothing is known of, that it is there; and of one that is not, nothing, to an operator who
/// may say something of it.
async fn known(visit: &Visit<'_>, named: Given) -> Result<Value> {
    match visit.call("retrieve-tollgate-model", named).await {
        Err(error) if error.is_not_found() => {
            let all = visit.call("list-tollgate-models", Given::default()).await?;
            let found =
                show::items(&all).iter().find(|model| show::text(model, "id") == visit.name()).cloned();
            match found {
                Some(model) => Ok(model),
                None if visit.is_operator() => Ok(json!({"id": visit.name()})),
                None => Err(error),
            }
        }
        answer => answer,
    }
}

async fn one(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let named = Given::default().path("model", visit.name());
    let model = known(visit, named.clone()).await?;
    // Of what has no price there is no list of them.
    let versions = match visit.if_allowed("list-model-prices", named).await {
        Err(error) if error.is_not_found() => None,
        versions => versions?,
    };
    let id = show::text(&model, "id");
    let figures: Vec<Markup> = model
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| !value.is_null() && !["id", "object"].contains(&name.as_str()))
        .map(|(name, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
                other => other.to_string(),
            };
            html! { tr { th scope="row" { (name.replace('_', " ")) } td { (text) } } }
        })
        .collect();
    let rows: Vec<Markup> =
        versions.iter().flat_map(show::items).map(|version| row(visit, id, version)).collect();
    let fields = Fields::new(&visit.form, error);
    let text = |name: &str| model[name].as_str().unwrap_or("").to_owned();
    let number = |name: &str| model[name].as_i64().map(|number| number.to_string()).unwrap_or_default();
    let body = html! {
        (fields.alert())
        (table("What is known of it", &["", ""], &figures, &plain("")))
        section {
            h2 { "Versions of its price" }
            (table("Versions", &["Version", "From", "Until", "Prices", ""], &rows, &plain("There is none.")))
        }
        @if visit.is_operator() {
            section {
                h2 { "Set a price" }
                form method="post" action=(path(&["prices", id, "prices"])) {
                    (token(visit))
                    @for (name, called) in PRICES {
                        (fields.text(name, called, "Dollars for a million tokens; empty for what is known of the model.", &text(name)))
                    }
                    (fields.of_kind("date", "effective_from", "From", "Empty for now.", ""))
                    (fields.of_kind("date", "effective_until", "Until", "Empty for ever.", ""))
                    div.buttons { button { "Set the price" } }
                }
                h2 { "Set its limits" }
                form method="post" action=(path(&["prices", id, "limits"])) {
                    (token(visit))
                    (fields.of_kind("number", "max_output_tokens", "Output at most", "Tokens.", &number("max_output_tokens")))
                    (fields.of_kind("number", "context_tokens", "Context", "Tokens.", &number("context_tokens")))
                    div.buttons { button { "Save" } }
                }
            }
        }
    };
    Ok(Answer::page(id.to_owned(), body).because(error))
}

fn row(visit: &Visit<'_>, model: &str, version: &Value) -> Markup {
    let id = show::text(version, "id");
    let from = show::number(version, "effective_from");
    let prices: Vec<String> = version["prices"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some(format!("{} {}", name.replace('_', " "), value.as_str()?)))
        .collect();
    html! {
        tr {
            th scope="row" { (id) @if show::flag(version, "in_force") { " " span.badge { "in force" } } }
            td { (show::time(from)) }
            td { (show::time(show::number(version, "effective_until"))) }
            td { (prices.join(", ")) }
            td { @if visit.is_operator() && from.is_some_and(|from| from > visit.now().0) {
                (action(visit, &path(&["prices", model, "prices", id, "delete"]), "Withdraw", "quiet"))
            } }
        }
    }
}

async fn changed(visit: &Visit<'_>, result: Result<Value>) -> Result<Answer> {
    match result {
        Ok(_) => Ok(Answer::see(path(&["prices", visit.name()]))),
        Err(mut error) if is_for_form(&error) => {
            // The fields have the names of the prices themselves.
            error.param = error.param.map(|param| param.trim_start_matches("prices.").to_owned());
            one(visit, Some(&error)).await
        }
        Err(error) => Err(error),
    }
}

pub(crate) async fn set_price(visit: &Visit<'_>) -> Result<Answer> {
    let set = async {
        let mut prices = Map::new();
        for (name, _) in PRICES {
            if let Some(price) = visit.form.typed(name) {
                prices.insert(name.to_owned(), price.trim_start_matches('$').into());
            }
        }
        let mut given = Given::default().path("model", visit.name()).body("prices", prices);
        for name in ["effective_from", "effective_until"] {
            if let Some(text) = visit.form.typed(name) {
                let wrong = || Error::invalid(name, format!("'{text}' is not a day, such as 2026-11-26."));
                given = given.body(name, Timestamp::of_day(text).ok_or_else(wrong)?.0);
            }
        }
        visit.call("create-model-price", given).await
    };
    changed(visit, set.await).await
}

pub(crate) async fn delete_price(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default().path("model", visit.name()).path("price", visit.nth(1));
    changed(visit, visit.call("delete-model-price", given).await).await
}

pub(crate) async fn set_limits(visit: &Visit<'_>) -> Result<Answer> {
    let set = async {
        let given = Given::default()
            .path("model", visit.name())
            .body("max_output_tokens", visit.form.number("max_output_tokens")?)
            .body("context_tokens", visit.form.number("context_tokens")?);
        visit.call("modify-tollgate-model", given).await
    };
    changed(visit, set.await).await
}
