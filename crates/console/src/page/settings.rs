//! Settings of the organization.

use maud::html;
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::{Error, Permission, Result};

use super::plain;
use crate::answer::Answer;
use crate::fields::Fields;
use crate::layout::{Question, action, token};
use crate::show;
use crate::visit::{Visit, is_for_form};

const DAY: i64 = 86_400;

pub(crate) async fn show(visit: &Visit<'_>) -> Result<Answer> {
    page(visit, None).await
}

async fn page(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let policy = visit.call("retrieve-key-policy", Given::default()).await?;
    let retention = visit.call("retrieve-retention", Given::default()).await?;
    let organization = visit.call("retrieve-own-organization", Given::default()).await?;
    let frozen_at = show::number(&organization, "frozen_at");
    let session = visit.session()?;
    let may_write = visit.may(Permission::OrganizationWrite);
    let fields = Fields::new(&visit.form, error);
    let time = |name: &str| policy[name].as_i64().map(written).unwrap_or_default();
    let body = html! {
        p { (session.organization_name) " " (show::id(&session.organization.to_string())) }
        (fields.alert())
        section {
            h2 { "New keys" }
            form method="post" action="/settings/key-policy" {
                (token(visit))
                (fields.text("default_expires_in_seconds", "How long a key lives of which nothing else is said", "Such as 90d or 12h; empty for ever.", &time("default_expires_in_seconds")))
                (fields.text("max_expires_in_seconds", "How long a key lives at most", "Such as 90d or 12h; empty for no limit.", &time("max_expires_in_seconds")))
                (fields.choice("key_owners", "Keys of projects are", "", &[("any", "anybody's"), ("service_accounts", "service accounts' alone")], show::text(&policy, "key_owners")))
                @if may_write { div.buttons { button { "Save" } } }
            }
        }
        section {
            h2 { "Requests" }
            form method="post" action="/settings/retention" {
                (token(visit))
                (fields.of_kind("number", "requests_days", "Days that single requests are kept", "35 or more; empty for ever. What was used and spent stays.",
                    &retention["requests_days"].as_i64().map(|days| days.to_string()).unwrap_or_default()))
                @if may_write { div.buttons { button { "Save" } } }
            }
        }
        @if may_write {
            section {
                h2 { "Stop everything" }
                @if frozen_at.is_some() {
                    p.danger-note { "The organization is frozen since " (show::time(frozen_at)) ": every model request is refused." }
                    (action(visit, "/settings/unfreeze", "Unfreeze", "primary"))
                } @else {
                    p { "Freezing refuses every model request of the organization from the next one on. Administration goes on, and it can be taken back." }
                    a.button.danger href="/settings/freeze" { "Freeze…" }
                }
            }
        }
        section {
            h2 { "This installation" }
            dl.facts {
                dt { "Version" } dd { (env!("CARGO_PKG_VERSION")) }
                dt { "For programs" } dd { a href="/openapi.json" { "the administration as an OpenAPI document" } }
                @if visit.is_operator() {
                    dt { "Figures" } dd { code { "/metrics" } ", for Prometheus, with an operator's admin key" }
                    dt { "Backups" } dd { code { "tollgate backup FILE --data DIR" } ", also while it serves" }
                    dt { "Is all well" } dd { code { "tollgate doctor" } " and " code { "tollgate fsck" } }
                }
            }
        }
    };
    Ok(Answer::page("Settings", body).because(error))
}

/// A time in the largest unit that it is whole in.
fn written(seconds: i64) -> String {
    let unit = UNITS.iter().find(|(_, unit)| seconds % unit == 0);
    unit.map_or_else(|| format!("{seconds}s"), |(letter, unit)| format!("{}{letter}", seconds / unit))
}

const UNITS: [(char, i64); 4] = [('d', DAY), ('h', 3_600), ('m', 60), ('s', 1)];

fn seconds(visit: &Visit<'_>, name: &str) -> Result<Value> {
    let Some(text) = visit.form.typed(name) else { return Ok(Value::Null) };
    let wrong = || Error::invalid(name, format!("'{text}' is not a time such as 90d, 12h, 30m or 45s."));
    let (letter, unit) = UNITS.iter().find(|(letter, _)| text.ends_with(*letter)).ok_or_else(wrong)?;
    let number: i64 = text.trim_end_matches(*letter).trim().parse().map_err(|_| wrong())?;
    number.checked_mul(*unit).map(Value::from).ok_or_else(wrong)
}

async fn saved(visit: &Visit<'_>, result: Result<Value>) -> Result<Answer> {
    match result {
        Ok(_) => Ok(Answer::see("/settings")),
        Err(error) if is_for_form(&error) => page(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn change_key_policy(visit: &Visit<'_>) -> Result<Answer> {
    let changed = async {
        let given = Given::default()
            .body("default_expires_in_seconds", seconds(visit, "default_expires_in_seconds")?)
            .body("max_expires_in_seconds", seconds(visit, "max_expires_in_seconds")?)
            .body("key_owners", visit.form.text("key_owners"));
        visit.call("modify-key-policy", given).await
    };
    saved(visit, changed.await).await
}

pub(crate) async fn change_retention(visit: &Visit<'_>) -> Result<Answer> {
    let changed = async {
        let days = visit.form.number("requests_days")?;
        visit.call("modify-retention", Given::default().body("requests_days", days)).await
    };
    saved(visit, changed.await).await
}

fn freezing<'a>(visit: &'a Visit<'_>) -> Result<Question<'a>> {
    Ok(Question {
        title: "Freeze the organization".to_owned(),
        told: plain("Every model request of every key is refused until it is unfrozen."),
        name: Some(&visit.session()?.organization_name),
        button: "Freeze it",
        back: "/settings".to_owned(),
    })
}

pub(crate) async fn ask_freeze(visit: &Visit<'_>) -> Result<Answer> {
    visit.needs(Permission::OrganizationWrite)?;
    Ok(freezing(visit)?.ask(visit, None))
}

pub(crate) async fn freeze(visit: &Visit<'_>) -> Result<Answer> {
    let question = freezing(visit)?;
    if let Err(error) = question.is_confirmed(visit) {
        return Ok(question.ask(visit, Some(&error)));
    }
    visit.call("freeze-organization", Given::default()).await?;
    Ok(Answer::see("/settings"))
}

pub(crate) async fn unfreeze(visit: &Visit<'_>) -> Result<Answer> {
    visit.call("unfreeze-organization", Given::default()).await?;
    Ok(Answer::see("/settings"))
}
