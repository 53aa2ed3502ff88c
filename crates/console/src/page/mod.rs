//! One file for what belongs together on pages.

#![expect(clippy::unused_async, reason = "the table of routes has handlers of one shape")]

pub(crate) mod activity;
pub(crate) mod admin_keys;
pub(crate) mod alerts;
pub(crate) mod audit;
pub(crate) mod found;
pub(crate) mod groups;
pub(crate) mod keys;
pub(crate) mod limits;
pub(crate) mod me;
pub(crate) mod models;
pub(crate) mod new_key;
pub(crate) mod overview;
pub(crate) mod palette;
pub(crate) mod people;
pub(crate) mod project;
pub(crate) mod projects;
pub(crate) mod requests;
pub(crate) mod roles;
pub(crate) mod settings;
pub(crate) mod sign_in;
pub(crate) mod upstreams;
pub(crate) mod usage;

use maud::{Markup, html};
use serde_json::{Map, Value};
use tollgate_admin::Given;
use tollgate_core::{Error, Result};

use crate::show;
use crate::visit::Visit;

/// The id of the project that is called so, or whose id it is.
pub(crate) async fn project_called(visit: &Visit<'_>, param: &str, text: &str) -> Result<String> {
    if tollgate_core::ProjectId::parse(text).is_some() {
        return Ok(text.to_owned());
    }
    let mut given = Given::default().query("name", text).query("limit", "100");
    given = given.query("include_archived", "true");
    let named = visit.if_allowed("list-projects", given).await?;
    let named: Vec<&Value> = named
        .iter()
        .flat_map(show::items)
        .filter(|project| show::text(project, "name").eq_ignore_ascii_case(text))
        .collect();
    match named.as_slice() {
        [project] => Ok(show::text(project, "id").to_owned()),
        [] => Err(Error::invalid(param, format!("No project is called '{text}'."))),
        _ => Err(Error::invalid(param, format!("Several projects are called '{text}': give the id of one."))),
    }
}

/// Labels as they are typed: `team=search, tier=gold`.
pub(crate) fn read_labels(typed: Option<&str>) -> Result<Map<String, Value>> {
    let mut labels = Map::new();
    for pair in typed.unwrap_or("").split([',', '\n']).map(str::trim).filter(|pair| !pair.is_empty()) {
        let wrong = || Error::invalid("labels", format!("'{pair}' is not a name, = and a value."));
        let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
        if labels.insert(name.trim().to_owned(), value.trim().into()).is_some() {
            return Err(Error::invalid("labels", format!("'{}' is named twice.", name.trim())));
        }
    }
    Ok(labels)
}

/// Cents of dollars as they are typed: `50`, `$12.50`.
pub(crate) fn read_cents(param: &'static str, typed: &str) -> Result<i64> {
    // A comma is a point to some and nothing to others: what it could make a hundred times of is refused.
    let text = typed.trim().trim_start_matches('$');
    let wrong = |why: &str| Error::invalid(param, format!("'{typed}' {why}."));
    let money = tollgate_core::Money::parse(text)
        .ok_or_else(|| wrong("is no amount of dollars such as 50 or 12.50"))?;
    if money <= tollgate_core::Money::ZERO {
        return Err(wrong("is not more than nothing"));
    }
    if money.nanos() % 10_000_000 != 0 {
        return Err(wrong("has parts of cents; limits are whole cents"));
    }
    Ok(money.cents())
}

/// How long something lasts, as the fields of this name say it.
pub(crate) const EXPIRIES: [(&str, &str); 7] = [
    ("7776000", "90 days"),
    ("2592000", "30 days"),
    ("604800", "7 days"),
    ("86400", "1 day"),
    ("15552000", "180 days"),
    ("31536000", "365 days"),
    ("never", "Never"),
];

/// How long the secret before goes on.
pub(crate) const GRACES: [(&str, &str); 4] =
    [("0", "It ends now"), ("3600", "1 hour"), ("86400", "24 hours"), ("604800", "7 days")];

/// The scopes that a key of a project can have, in three words.
pub(crate) const PERMISSIONS: [(&str, &str); 3] = [
    ("all", "All: whatever its owner may do with models"),
    ("request", "Restricted: call models, nothing else"),
    ("read", "Read only: list models, call none"),
];

/// What these words mean as scopes.
pub(crate) fn read_scopes(typed: &str, usage: bool) -> Vec<&'static str> {
    let mut scopes = match typed {
        "request" => vec!["api.model.request"],
        "read" => vec!["api.model.read"],
        _ => Vec::new(),
    };
    if usage {
        if scopes.is_empty() {
            scopes.extend(["api.model.request", "api.model.read"]);
        }
        scopes.push("api.usage.read");
    }
    scopes
}

/// Headings of columns in which numbers stand below each other.
const NUMBERS: [&str; 13] = [
    "Requests",
    "Input tokens",
    "Of these cached",
    "Output tokens",
    "Spent",
    "Input",
    "Output",
    "Cost",
    "Cached input",
    "Cache writes",
    "Context",
    "Spend",
    "Tokens",
];

/// A table, or what to do while there is nothing in it.
pub(crate) fn table(caption: &str, headings: &[&str], rows: &[Markup], empty: &Markup) -> Markup {
    html! {
        @if rows.is_empty() { div.empty { (empty) } }
        @else {
            div.scroll tabindex="0" role="region" aria-label=(caption) {
                table {
                    caption.hidden { (caption) }
                    thead { tr { @for heading in headings { th scope="col" class=[NUMBERS.contains(heading).then_some("number")] { (heading) } } } }
                    tbody { @for row in rows { (row) } }
                }
            }
        }
    }
}

pub(crate) fn plain(text: &str) -> Markup {
    html! { p { (text) } }
}
