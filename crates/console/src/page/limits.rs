//! Spend limits, wherever they are: of the organization, a project, a key.

use maud::{Markup, html};
use serde_json::{Value, json};
use tollgate_admin::Given;
use tollgate_core::{Error, Permission, Result};

use super::project::Project;
use super::{keys, plain, read_cents};
use crate::answer::Answer;
use crate::chart;
use crate::fields::Fields;
use crate::layout::{Question, token};
use crate::show;
use crate::visit::{Visit, is_for_form, path};

pub(crate) const INTERVALS: [(&str, &str); 3] = [("month", "month"), ("week", "week"), ("day", "day")];
const MODES: [(&str, &str); 2] =
    [("enforce", "Refuse what does not fit"), ("observe", "Only watch what it would refuse")];

/// Whose limits they are: the name of its operations, and what their paths name.
struct Place<'a> {
    operations: &'static str,
    given: Given,
    /// Where its forms go.
    forms: &'a str,
}

pub(crate) async fn of_organization(visit: &Visit<'_>) -> Result<Answer> {
    organization(visit, None).await
}

async fn organization(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let place = Place { operations: "organization", given: Given::default(), forms: "/limits" };
    // The page has two forms, and an error is of the one that has its field.
    let is_of_new = error.is_some_and(|error| matches!(error.param.as_deref(), Some(param) if param.starts_with("projects") || param.starts_with("api_keys")));
    let of_limit = error.filter(|_| !is_of_new);
    let limits = section(visit, &place, visit.may(Permission::SpendLimitsWrite), of_limit).await?;
    let defaults = visit.call("retrieve-default-spend-limits", Given::default()).await?;
    let body = html! {
        p { "What all projects of the organization may spend together." }
        (limits)
        (of_new(visit, &defaults, error.filter(|_| is_of_new)))
    };
    Ok(Answer::page("Limits of the organization", body).because(error))
}

fn of_new(visit: &Visit<'_>, defaults: &Value, error: Option<&Error>) -> Markup {
    let written = |list: &Value| {
        let all = list.as_array().map_or(&[][..], Vec::as_slice);
        let one = |limit: &Value| {
            let cents = show::number(limit, "threshold_amount").unwrap_or(0);
            let mut text = format!("{}.{:02}/{}", cents / 100, cents % 100, show::text(limit, "interval"));
            for (field, usual) in [("mode", "enforce"), ("time_zone", "UTC")] {
                if show::text(limit, field) != usual {
                    text = format!("{text} {}", show::text(limit, field));
                }
            }
            text
        };
        all.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let fields = Fields::new(&visit.form, error);
    let hint = "As 50/month, 5/day observe, 20/week Europe/Berlin; empty for none.";
    html! {
        section {
            h2 { "Limits that new ones begin with" }
            @if visit.may(Permission::SpendLimitsWrite) {
                form method="post" action="/limits/defaults" {
                    (token(visit)) (fields.alert())
                    (fields.text("projects", "New projects", hint, &written(&defaults["projects"])))
                    (fields.text("api_keys", "New keys", hint, &written(&defaults["api_keys"])))
                    div.buttons { button { "Save" } }
                }
            } @else {
                p { "New projects: " (written(&defaults["projects"])) "; new keys: " (written(&defaults["api_keys"])) }
            }
        }
    }
}

pub(crate) async fn change_defaults(visit: &Visit<'_>) -> Result<Answer> {
    let changed = async {
        let given = Given::default()
            .body("projects", read_defaults(visit, "projects")?)
            .body("api_keys", read_defaults(visit, "api_keys")?);
        visit.call("modify-default-spend-limits", given).await
    };
    match changed.await {
        Ok(_) => Ok(Answer::see("/limits")),
        Err(error) if is_for_form(&error) => organization(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

fn read_defaults(visit: &Visit<'_>, name: &'static str) -> Result<Vec<Value>> {
    let all = visit.form.text(name).split(',').map(str::trim).filter(|one| !one.is_empty());
    let read = |one: &str| {
        let mut words = one.split_whitespace();
        let limit = words.next().unwrap_or("");
        let (amount, interval) = limit.split_once('/').unwrap_or((limit, "month"));
        let cents = read_cents(name, amount)?;
        let mut body = json!({"threshold_amount": cents, "interval": interval, "currency": "USD"});
        for word in words {
            let field = if MODES.iter().any(|(mode, _)| *mode == word) { "mode" } else { "time_zone" };
            body[field] = word.into();
        }
        Ok(body)
    };
    all.map(read).collect()
}

pub(crate) async fn of_project(visit: &Visit<'_>) -> Result<Answer> {
    project_page(visit, None).await
}

async fn project_page(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    let forms = project.at(&["limits"]);
    let may_write = visit.may_at(Permission::SpendLimitsWrite, &project.id);
    let place = Place { operations: "project", given: project.given(), forms: &forms };
    let limits = section(visit, &place, may_write, error).await?;
    let policy = visit.call("retrieve-project-spend-policy", project.given()).await?;
    let body = html! {
        (project.head(visit))
        (limits)
        (policy_section(visit, &project, &policy, may_write, error))
    };
    Ok(Answer::page(format!("{}: limits", project.name()), body).because(error))
}

fn policy_section(
    visit: &Visit<'_>,
    project: &Project,
    policy: &Value,
    may_write: bool,
    error: Option<&Error>,
) -> Markup {
    let fields = Fields::new(&visit.form, error);
    let wait = show::number(policy, "wait_ms").unwrap_or(0).to_string();
    let least = policy["min_output_tokens"].as_i64().map(|least| least.to_string()).unwrap_or_default();
    html! {
        section {
            h2 { "A request that does not fit" }
            @if may_write {
                form method="post" action=(project.at(&["policy"])) {
                    (token(visit))
                    (fields.choice("when_exceeded", "If it does not fit", "", &[("refuse", "is refused"), ("clamp", "gets less output, as much as fits")], show::text(policy, "when_exceeded")))
                    (fields.text("min_output_tokens", "But no less output than", "Tokens; of clamping alone.", &least))
                    (fields.text("wait_ms", "It waits for what others give back", "Milliseconds at most.", &wait))
                    div.buttons { button { "Save" } }
                }
            } @else {
                p { "It is " (show::text(policy, "when_exceeded")) ", after waiting " (wait) " ms." }
            }
        }
    }
}

pub(crate) async fn change_policy(visit: &Visit<'_>) -> Result<Answer> {
    let changed = async {
        let mut given = Given::default()
            .path("project_id", visit.name())
            .body("when_exceeded", visit.form.text("when_exceeded"))
            .body("wait_ms", visit.form.number("wait_ms")?);
        if visit.form.text("when_exceeded") == "clamp" {
            given = given.body("min_output_tokens", visit.form.number("min_output_tokens")?);
        }
        visit.call("modify-project-spend-policy", given).await
    };
    match changed.await {
        Ok(_) => Ok(Answer::see(path(&["projects", visit.name(), "limits"]))),
        Err(error) if is_for_form(&error) => project_page(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn section_of_key(
    visit: &Visit<'_>,
    project: &str,
    key: &str,
    error: Option<&Error>,
) -> Result<Markup> {
    if !visit.may(Permission::SpendLimitsRead) {
        return Ok(html! {});
    }
    let forms = path(&["projects", project, "keys", key, "limits"]);
    let place =
        Place { operations: "api-key", given: Given::default().path("api_key_id", key), forms: &forms };
    section(visit, &place, visit.may(Permission::SpendLimitsWrite), error).await
}

async fn section(
    visit: &Visit<'_>,
    place: &Place<'_>,
    may_write: bool,
    error: Option<&Error>,
) -> Result<Markup> {
    let limits = visit.call(&format!("list-{}-spend-limits", place.operations), place.given.clone()).await?;
    let all = show::items(&limits);
    let fields = Fields::new(&visit.form, error);
    Ok(html! {
        section id="limits" {
            h2 { "Limits" }
            div id="budgets" data-live="5" {
                @for limit in all {
                    div.limit {
                        p {
                            strong { "By the " (show::text(limit, "interval")) }
                            @if show::text(limit, "time_zone") != "UTC" { " in " (show::text(limit, "time_zone")) }
                            @if show::text(limit, "mode") == "observe" { " " span.badge { "only watches" } ", would have refused " (show::count(&limit["would_have_refused"])) }
                            @if show::text(&limit["enforcement"], "status") != "inactive" && show::text(limit, "mode") == "enforce" { " " span.badge.bad { "reached" } }
                        }
                        (chart::budget(limit, visit.now()))
                        @if may_write {
                            form.inline method="post" action=(format!("{}/{}", place.forms, show::text(limit, "id"))) {
                                (token(visit))
                                @let id = format!("amount-{}", show::text(limit, "id"));
                                label.hidden for=(id) { "Dollars by the " (show::text(limit, "interval")) }
                                input id=(id) name="amount" size="8" value=(cents(show::number(limit, "threshold_amount").unwrap_or(0)));
                                label.hidden for=(format!("mode-{id}")) { "When it is reached" }
                                select id=(format!("mode-{id}")) name="mode" {
                                    @for (mode, called) in MODES { option value=(mode) selected[mode == show::text(limit, "mode")] { (called) } }
                                }
                                button.quiet { "Change" }
                            }
                            " "
                            a.bad href=(format!("{}/{}/delete", place.forms, show::text(limit, "id"))) { "Remove the limit" }
                        }
                    }
                }
                @if all.is_empty() { p { "There is none here." } }
            }
            @if may_write && all.len() < INTERVALS.len() {
                details open[error.is_some()] {
                    summary { "Set a limit" }
                    form method="post" action=(place.forms) {
                        (token(visit)) (fields.alert())
                        (fields.required("threshold_amount", "Dollars", "", ""))
                        (fields.choice("interval", "In each", "", &INTERVALS, "month"))
                        (fields.text("time_zone", "Time zone", "In which days, weeks and months begin.", "UTC"))
                        (fields.choice("mode", "When it is reached", "", &MODES, "enforce"))
                        div.buttons { button { "Set the limit" } }
                    }
                }
            }
        }
    })
}

/// Asks again before a limit is gone. Its path is that of the limit.
pub(crate) async fn ask_delete(visit: &Visit<'_>) -> Result<Answer> {
    let (operations, given) = match visit.names.as_slice() {
        [_] => ("organization", Given::default()),
        [project, _] => ("project", Given::default().path("project_id", project.clone())),
        _ => ("api-key", Given::default().path("api_key_id", visit.nth(1))),
    };
    let id = visit.names.last().cloned().unwrap_or_default();
    visit.call(&format!("retrieve-one-{operations}-spend-limit"), given.path("spend_limit_id", id)).await?;
    let is_allowed = match operations {
        "project" => visit.may_at(Permission::SpendLimitsWrite, visit.name()),
        _ => visit.may(Permission::SpendLimitsWrite),
    };
    if !is_allowed {
        return Err(Error::forbidden(Permission::SpendLimitsWrite.as_str()));
    }
    let limits = visit.path.rsplitn(3, '/').last().unwrap_or("/");
    let back = if visit.names.len() == 3 { limits.trim_end_matches("/limits") } else { limits };
    let question = Question {
        title: "Remove a limit".to_owned(),
        told: plain("It stops nothing from the next request on. What was spent stays on record."),
        name: None,
        button: "Remove the limit",
        back: back.to_owned(),
    };
    Ok(question.ask(visit, None))
}

/// Cents as dollars are typed.
fn cents(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

async fn changed(visit: &Visit<'_>, operations: &str, given: Given) -> Result<Value> {
    let cents = read_cents("threshold_amount", visit.form.text("amount"))?;
    let given = given.body("threshold_amount", cents).body("mode", visit.form.text("mode"));
    visit.call(&format!("modify-one-{operations}-spend-limit"), given).await
}

pub(crate) async fn change_of_organization(visit: &Visit<'_>) -> Result<Answer> {
    match changed(visit, "organization", Given::default().path("spend_limit_id", visit.name())).await {
        Ok(_) => Ok(Answer::see("/limits")),
        Err(error) if is_for_form(&error) => organization(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn change_of_project(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default().path("project_id", visit.name()).path("spend_limit_id", visit.nth(1));
    match changed(visit, "project", given).await {
        Ok(_) => Ok(Answer::see(path(&["projects", visit.name(), "limits"]))),
        Err(error) if is_for_form(&error) => project_page(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn change_of_key(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default().path("api_key_id", visit.nth(1)).path("spend_limit_id", visit.nth(2));
    match changed(visit, "api-key", given).await {
        Ok(_) => Ok(Answer::see(path(&["projects", visit.name(), "keys", visit.nth(1)]))),
        Err(error) if is_for_form(&error) => keys::page(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

fn asked(visit: &Visit<'_>, given: Given) -> Result<Given> {
    let zone = visit.form.typed("time_zone").unwrap_or("UTC");
    Ok(given
        .body("threshold_amount", read_cents("threshold_amount", visit.form.text("threshold_amount"))?)
        .body("interval", visit.form.text("interval"))
        .body("time_zone", zone)
        .body("mode", visit.form.text("mode")))
}

async fn created(visit: &Visit<'_>, operations: &str, given: Given) -> Result<Value> {
    visit.call(&format!("create-{operations}-spend-limit"), asked(visit, given)?).await
}

pub(crate) async fn create_of_organization(visit: &Visit<'_>) -> Result<Answer> {
    match created(visit, "organization", Given::default()).await {
        Ok(_) => Ok(Answer::see("/limits")),
        Err(error) if is_for_form(&error) => organization(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn create_of_project(visit: &Visit<'_>) -> Result<Answer> {
    match created(visit, "project", Given::default().path("project_id", visit.name())).await {
        Ok(_) => Ok(Answer::see(visit.path.clone())),
        Err(error) if is_for_form(&error) => project_page(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn create_of_key(visit: &Visit<'_>) -> Result<Answer> {
    match created(visit, "api-key", Given::default().path("api_key_id", visit.nth(1))).await {
        Ok(_) => Ok(Answer::see(path(&["projects", visit.name(), "keys", visit.nth(1)]))),
        Err(error) if is_for_form(&error) => keys::page(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

/// Sets what a new key may spend: in place of what the organization's defaults have given it for the interval, if they have.
pub(crate) async fn set_of_key(visit: &Visit<'_>, key: &str, given: Given) -> Result<()> {
    let known = visit.call("list-api-key-spend-limits", Given::default().path("api_key_id", key)).await?;
    let interval = given.body["interval"].clone();
    match show::items(&known).iter().find(|limit| limit["interval"] == interval) {
        Some(limit) => {
            let mut given = given.path("spend_limit_id", show::text(limit, "id"));
            given.body.remove("interval");
            visit.call("modify-one-api-key-spend-limit", given).await?;
        }
        None => {
            visit.call("create-api-key-spend-limit", given).await?;
        }
    }
    Ok(())
}

pub(crate) async fn delete_of_organization(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default().path("spend_limit_id", visit.name());
    visit.call("delete-one-organization-spend-limit", given).await?;
    Ok(Answer::see("/limits"))
}

pub(crate) async fn delete_of_project(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default().path("project_id", visit.name()).path("spend_limit_id", visit.nth(1));
    visit.call("delete-one-project-spend-limit", given).await?;
    Ok(Answer::see(path(&["projects", visit.name(), "limits"])))
}

pub(crate) async fn delete_of_key(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default().path("api_key_id", visit.nth(1)).path("spend_limit_id", visit.nth(2));
    visit.call("delete-one-api-key-spend-limit", given).await?;
    Ok(Answer::see(path(&["projects", visit.name(), "keys", visit.nth(1)])))
}
