//! What the organization is told of: amounts that are reached, keys that end or rest, upstreams that fail.

use maud::{Markup, html};
use serde_json::{Value, json};
use tollgate_admin::Given;
use tollgate_core::{Error, Permission, Result};

use super::{plain, read_cents, table};
use crate::answer::Answer;
use crate::fields::Fields;
use crate::form::Form;
use crate::layout::{action, token};
use crate::show;
use crate::visit::{Visit, is_for_form, path};

const CHANNELS: [(&str, &str); 3] = [("email", "E-mail"), ("webhook", "Signed webhook"), ("slack", "Slack")];
const EVENTS: [(&str, &str); 4] = [
    ("spend_limit.reached", "a limit is reached"),
    ("api_key.expiring", "a key ends within 14 days"),
    ("api_key.unused", "a key rests"),
    ("upstream.down", "an upstream is down"),
];

pub(crate) async fn list(visit: &Visit<'_>) -> Result<Answer> {
    page(visit, None, None).await
}

/// `made` has a secret to sign with, which is shown this once.
async fn page(visit: &Visit<'_>, made: Option<&Value>, error: Option<(&str, &Error)>) -> Result<Answer> {
    let spend = visit.all("list-organization-spend-alerts", Given::default()).await?;
    let events = visit.if_allowed("list-event-alerts", Given::default().query("limit", "100")).await?;
    let told = Given::default().query("limit", "50").query("order", "desc");
    let told = visit.if_allowed("list-notifications", told).await?;
    let may_write = visit.may(Permission::SpendLimitsWrite);
    let nothing = Form::default();
    let of = |which: &str| {
        let is_sent = error.is_some_and(|(known, _)| known == which);
        let error = error.filter(|(known, _)| *known == which).map(|(_, error)| error);
        Fields::new(if is_sent { &visit.form } else { &nothing }, error)
    };
    let body = html! {
        @if let Some(secret) = made.and_then(|made| made["signing_secret"].as_str()) {
            div.secret role="status" {
                p { "What webhooks are signed with. " strong { "You will not see it again." } }
                code data-secret { (secret) }
                div.buttons { (crate::layout::copy(secret)) }
            }
        }
        section {
            h2 { "Amounts" }
            (table("Amounts", &["Amount", "In each", "Told to", "Last told", ""], &spend.iter().map(|alert| spend_row(visit, alert, may_write)).collect::<Vec<_>>(),
                &plain("Nobody is told when an amount is reached.")))
            @if may_write { (spend_form(visit, &of("spend"))) }
        }
        section {
            h2 { "Events" }
            (table("Events", &["When", "Told to", "Last told", ""], &events.iter().flat_map(show::items).map(|alert| event_row(visit, alert, may_write)).collect::<Vec<_>>(),
                &plain("Nobody is told of events.")))
            @if may_write { (event_form(visit, &of("events"))) }
        }
        @if let Some(told) = &told {
            section {
                h2 { "What was told" }
                (table("Notifications", &["Made", "Of", "To", "State", ""], &show::items(told).iter().map(|one| told_row(visit, one, may_write)).collect::<Vec<_>>(),
                    &plain("Nothing yet.")))
            }
        }
    };
    Ok(Answer::page("Alerts", body).because(error.map(|(_, error)| error)))
}

fn channel(channel: &Value) -> Markup {
    html! {
        (show::text(channel, "type")) " "
        @if let Some(url) = channel["url"].as_str() { code { (url) } }
        @else { (show::texts(&channel["recipients"]).join(", ")) }
    }
}

fn last(alert: &Value, visit: &Visit<'_>) -> Markup {
    let last = &alert["last_notification"];
    html! {
        @if last.is_object() {
            (show::ago(show::number(last, "created_at"), visit.now())) ", " (show::text(last, "status"))
            @if let Some(error) = last["error"].as_str() { br; span.wrong { (error) } }
        } @else { span.none { "never" } }
    }
}

fn spend_row(visit: &Visit<'_>, alert: &Value, may_write: bool) -> Markup {
    let cents = show::number(alert, "threshold_amount").unwrap_or(0);
    html! {
        tr {
            th scope="row" { "$" (cents / 100) "." (format!("{:02}", cents % 100)) }
            td { (show::text(alert, "interval")) }
            td { (channel(&alert["notification_channel"])) }
            td { (last(alert, visit)) }
            td { @if may_write { (action(visit, &path(&["alerts", "spend", show::text(alert, "id"), "delete"]), "Remove", "quiet")) } }
        }
    }
}

fn event_row(visit: &Visit<'_>, alert: &Value, may_write: bool) -> Markup {
    html! {
        tr {
            th scope="row" { (show::texts(&alert["events"]).join(", ")) }
            td { (channel(&alert["notification_channel"])) }
            td { (last(alert, visit)) }
            td { @if may_write { (action(visit, &path(&["alerts", "events", show::text(alert, "id"), "delete"]), "Remove", "quiet")) } }
        }
    }
}

fn told_row(visit: &Visit<'_>, one: &Value, may_write: bool) -> Markup {
    let state = show::text(one, "status");
    html! {
        tr {
            td { (show::time(show::number(one, "created_at"))) }
            th scope="row" { (one["event"].as_str().unwrap_or("amount reached")) }
            td { (channel(&one["notification_channel"])) }
            td { (state) @if let Some(error) = one["error"].as_str() { br; span.wrong { (error) } } }
            td { @if may_write && state == "failed" { (action(visit, &path(&["alerts", "notifications", show::text(one, "id"), "retry"]), "Try again", "quiet")) } }
        }
    }
}

fn channel_fields(fields: &Fields<'_>) -> Markup {
    html! {
        (fields.choice("channel", "By", "", &CHANNELS, "email"))
        (fields.text("recipients", "To", "Addresses, with commas between them, or the URL of a webhook.", ""))
    }
}

fn spend_form(visit: &Visit<'_>, fields: &Fields<'_>) -> Markup {
    html! {
        details open[fields.has_error()] {
            summary { "Tell somebody when an amount is reached" }
            form method="post" action="/alerts/spend" {
                (token(visit)) (fields.alert())
                (fields.required("threshold_amount", "Dollars in a month", "", ""))
                (channel_fields(fields))
                div.buttons { button { "Add" } }
            }
        }
    }
}

fn event_form(visit: &Visit<'_>, fields: &Fields<'_>) -> Markup {
    html! {
        details open[fields.has_error()] {
            summary { "Tell somebody of events" }
            form method="post" action="/alerts/events" {
                (token(visit)) (fields.alert())
                (fields.several("events", "When", "", &EVENTS, &["spend_limit.reached"]))
                (channel_fields(fields))
                div.buttons { button { "Add" } }
            }
        }
    }
}

fn read_channel(visit: &Visit<'_>) -> Value {
    let to = visit.form.text("recipients");
    match visit.form.text("channel") {
        "email" => {
            let all: Vec<&str> = to.split([',', ' ']).filter(|one| !one.is_empty()).collect();
            json!({"type": "email", "recipients": all})
        }
        kind => json!({"type": kind, "url": to}),
    }
}

/// The field of the form that an error of the channel is about.
fn under_its_field(mut error: Error) -> Error {
    if error.param.as_deref().is_some_and(|param| param.starts_with("notification_channel")) {
        error.param = Some("recipients".to_owned());
    }
    error
}

pub(crate) async fn create_spend(visit: &Visit<'_>) -> Result<Answer> {
    let made = async {
        let given = Given::default()
            .body("threshold_amount", read_cents("threshold_amount", visit.form.text("threshold_amount"))?)
            .body("currency", "USD")
            .body("interval", "month")
            .body("notification_channel", read_channel(visit));
        visit.call("create-organization-spend-alert", given).await
    };
    made_or_told(visit, made.await, "spend").await
}

pub(crate) async fn create_event(visit: &Visit<'_>) -> Result<Answer> {
    let events: Vec<&str> = visit.form.all("events").collect();
    let given = Given::default().body("events", events).body("notification_channel", read_channel(visit));
    made_or_told(visit, visit.call("create-event-alert", given).await, "events").await
}

async fn made_or_told(visit: &Visit<'_>, made: Result<Value>, which: &str) -> Result<Answer> {
    match made {
        Ok(made) if made["signing_secret"].is_string() => page(visit, Some(&made), None).await,
        Ok(_) => Ok(Answer::see("/alerts")),
        Err(error) if is_for_form(&error) => {
            let error = under_its_field(error);
            page(visit, None, Some((which, &error))).await
        }
        Err(error) => Err(error),
    }
}

pub(crate) async fn delete_spend(visit: &Visit<'_>) -> Result<Answer> {
    visit.call("delete-organization-spend-alert", Given::default().path("alert_id", visit.name())).await?;
    Ok(Answer::see("/alerts"))
}

pub(crate) async fn delete_event(visit: &Visit<'_>) -> Result<Answer> {
    visit.call("delete-event-alert", Given::default().path("event_alert_id", visit.name())).await?;
    Ok(Answer::see("/alerts"))
}

pub(crate) async fn retry(visit: &Visit<'_>) -> Result<Answer> {
    visit.call("retry-notification", Given::default().path("notification_id", visit.name())).await?;
    Ok(Answer::see("/alerts"))
}
