//! Keys of projects: all of them, one of them, and the life of one.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::{Error, Period, Permission, Result};

use super::me::{previous, rotation};
use super::project::Project;
use super::{
    EXPIRIES, PERMISSIONS, activity, limits, new_key, plain, read_labels, read_scopes, requests, table,
};
use crate::answer::Answer;
use crate::fields::Fields;
use crate::layout::{Question, action, pager, token};
use crate::show;
use crate::visit::{Visit, is_for_form, path};

const DAY: i64 = 86_400;

pub(crate) async fn of_organization(visit: &Visit<'_>) -> Result<Answer> {
    let now = visit.now();
    let mut given = visit.page_of(50);
    if let Some(name) = visit.query.typed("q") {
        given = given.query("name", name);
    }
    given = match visit.query.text("show") {
        "ending" => given.query("expires_before", (now.0 + 14 * DAY).to_string()),
        "unused" => given.query("unused_since", (now.0 - 90 * DAY).to_string()),
        "endless" => given.query("expires", "false"),
        "unlimited" => given.query("has_spend_limit", "false"),
        "frozen" => given.query("status", "frozen"),
        "inactive" => given.query("status", "inactive"),
        "expired" => given.query("status", "expired"),
        "revoked" => given.query("status", "revoked"),
        _ => given,
    };
    let answer = visit.call("list-organization-api-keys", given).await?;
    let rows: Vec<Markup> = show::items(&answer).iter().map(|key| row_of_organization(visit, key)).collect();
    let shown = [
        ("", "All that work"),
        ("ending", "Ending within 14 days"),
        ("unused", "Unused for 90 days"),
        ("endless", "Without an end"),
        ("unlimited", "Under no limit"),
        ("frozen", "Frozen"),
        ("inactive", "Owner without access"),
        ("expired", "Expired"),
        ("revoked", "Revoked"),
    ];
    let chosen = visit.query.text("show");
    let body = html! {
        form.search method="get" action="/keys" role="search" {
            label.hidden for="q" { "Search by name" }
            input id="q" name="q" type="search" value=(visit.query.text("q")) placeholder="Search by name" data-search;
            label.hidden for="show" { "Which" }
            select id="show" name="show" {
                @for (value, called) in shown { option value=(value) selected[value == chosen] { (called) } }
            }
            button { "Show" }
        }
        (table("Keys", &["Name", "Key", "Project", "Last used", "Expires", "Under a limit"], &rows, &plain("There is no such key.")))
        (pager(visit, &answer))
        p.hint { "Keys are made in their projects, or under " a href="/me" { "You and your keys" } "." }
    };
    Ok(Answer::page("All keys", body))
}

fn row_of_organization(visit: &Visit<'_>, key: &Value) -> Markup {
    let (id, project) = (show::text(key, "id"), show::text(key, "project_id"));
    // Of one that is gone there is what is on record.
    let place = match show::number(key, "revoked_at") {
        None => Some(path(&["projects", project, "keys", id])),
        Some(_) => visit.may(Permission::AuditLogsRead).then(|| format!("/audit?resource={id}")),
    };
    html! {
        tr {
            th scope="row" {
                @match place {
                    Some(place) => a href=(place) { (show::text(key, "name")) },
                    None => (show::text(key, "name")),
                }
            }
            td { code { (show::text(key, "redacted_value")) } }
            td { a href=(path(&["projects", project])) { (show::text(key, "project_name")) } }
            td { (show::ago(show::number(key, "last_used_at"), visit.now())) }
            td { (show::expiry(show::number(key, "expires_at"), visit.now())) }
            td { @if show::flag(key, "has_spend_limit") { "yes" } @else { span.badge.warn { "none" } } }
        }
    }
}

pub(crate) async fn of_project(visit: &Visit<'_>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    let mut given = visit.page_of(50).query("owner_project_access", "any");
    given.path = project.given().path;
    let answer = visit.call("list-project-api-keys", given).await?;
    let now = visit.now();
    let made = visit.query.text("made");
    let rows: Vec<Markup> = show::items(&answer)
        .iter()
        .map(|key| {
            let id = show::text(key, "id");
            html! {
                tr.made[id == made] id=(id) {
                    th scope="row" { a href=(project.at(&["keys", id])) { (show::text(key, "name")) } (states(key)) }
                    td { code { (show::text(key, "redacted_value")) } }
                    td { (owner(key)) }
                    td { (scopes(key)) }
                    td { (show::time(show::number(key, "created_at"))) }
                    td { (show::ago(show::number(key, "last_used_at"), now)) }
                    td { (show::expiry(show::number(key, "expires_at"), now)) }
                }
            }
        })
        .collect();
    let body = html! {
        (project.head(visit))
        @if visit.may_at(Permission::ProjectApiKeysWrite, &project.id) {
            p { a.button.primary href=(project.at(&["keys", "new"])) data-create { "Create a key" } }
        }
        (table("Keys", &["Name", "Key", "Owner", "Permissions", "Made", "Last used", "Expires"], &rows, &html! {
            p { "The project has no key. A key is what a program calls models with." }
        }))
        (pager(visit, &answer))
    };
    Ok(Answer::page(format!("{}: keys", project.name()), body))
}

fn states(key: &Value) -> Markup {
    html! {
        @if show::number(key, "frozen_at").is_some() { " " span.badge.warn { "frozen" } }
        @if show::text(key, "owner_project_access") == "inactive" { " " span.badge.warn { "no access" } }
        @if key["previous_secret"].is_object() { " " span.badge { "rotating" } }
    }
}

fn owner(key: &Value) -> &str {
    let owner = &key["owner"];
    match owner["type"].as_str() {
        Some("user") => show::text(&owner["user"], "email"),
        _ => show::text(&owner["service_account"], "name"),
    }
}

fn scopes(key: &Value) -> String {
    match show::texts(&key["scopes"]).as_slice() {
        [] => "all".to_owned(),
        scopes => scopes.join(", "),
    }
}

pub(crate) async fn new(visit: &Visit<'_>) -> Result<Answer> {
    if !visit.may_at(Permission::ProjectApiKeysWrite, visit.name()) {
        // Whether there is such a project is for those to know who may see it.
        Project::of(visit).await?;
        return Err(Error::forbidden(Permission::ProjectApiKeysWrite.as_str()));
    }
    form(visit, None).await
}

async fn form(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    let accounts =
        visit.if_allowed("list-project-service-accounts", project.given().query("limit", "100")).await?;
    let members = visit.if_allowed("list-project-users", project.given().query("limit", "100")).await?;
    let mut owners = vec![(String::new(), "You".to_owned())];
    for account in accounts.iter().flat_map(show::items) {
        owners.push((
            show::text(account, "id").to_owned(),
            format!("Service account {}", show::text(account, "name")),
        ));
    }
    for member in members.iter().flat_map(show::items) {
        owners.push((show::text(member, "id").to_owned(), show::text(member, "email").to_owned()));
    }
    let owners: Vec<(&str, &str)> = owners.iter().map(|(id, name)| (id.as_str(), name.as_str())).collect();
    // What is asked for is checked by the operation under the name it has there.
    let owner_error =
        error.filter(|error| matches!(error.param.as_deref(), Some("user_id" | "service_account_id")));
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        (project.head(visit))
        form method="post" action=(project.at(&["keys", "new"])) {
            (token(visit)) (fields.alert())
            (fields.required("name", "Name", "What or who uses it.", ""))
            (fields.choice("owner", "Owned by", "Its owner is accountable for it, and it stops with its owner.", &owners, visit.query.text("service_account_id")))
            @if let Some(error) = owner_error { p.wrong { (error.message) } }
            (fields.choice("permissions", "Permissions", "", &PERMISSIONS, "all"))
            (fields.several("more", "Besides", "", &[("usage", "read usage and costs of the project")], &[]))
            (fields.choice("expires", "Expires in", "", &EXPIRIES, "7776000"))
            @if visit.may_at(Permission::SpendLimitsWrite, &project.id) {
                (fields.text("cap", "Limit in dollars", "What it may spend at most; empty for no limit of its own.", ""))
                (fields.choice("cap_interval", "In each", "", &limits::INTERVALS, "month"))
            }
            (fields.text("labels", "Labels", "As team=search, tier=gold.", ""))
            div.buttons { button.primary { "Create the key" } a.button href=(project.at(&["keys"])) { "Cancel" } }
        }
    };
    Ok(Answer::page(format!("{}: create a key", project.name()), body).because(error))
}

pub(crate) async fn create(visit: &Visit<'_>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    match made(visit, &project).await {
        Ok(key) => {
            let back = project.at(&["keys"]);
            Ok(new_key::secret(visit, &format!("{}: the new key", project.name()), &key, &back, false))
        }
        Err(error) if is_for_form(&error) => form(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

async fn made(visit: &Visit<'_>, project: &Project) -> Result<Value> {
    // What can be wrong is looked at before there is a key whose secret would be lost.
    let cap = visit.form.typed("cap").map(|cap| super::read_cents("cap", cap)).transpose()?;
    let usage = visit.form.all("more").any(|more| more == "usage");
    let mut given = project
        .given()
        .body("name", visit.form.text("name"))
        .body("scopes", read_scopes(visit.form.text("permissions"), usage))
        .body("labels", read_labels(visit.form.typed("labels"))?);
    let owner = visit.form.text("owner");
    if owner.starts_with("svc_acct_") {
        given = given.body("service_account_id", owner);
    } else if !owner.is_empty() {
        given = given.body("user_id", owner);
    }
    if visit.form.text("expires") != "never" {
        given = given.body("expires_in_seconds", visit.form.number("expires")?);
    }
    let key = visit.call("create-project-api-key", given).await?;
    if let Some(cents) = cap {
        let limit = Given::default()
            .path("api_key_id", show::text(&key, "id"))
            .body("threshold_amount", cents)
            .body("interval", visit.form.text("cap_interval"))
            .body("mode", "enforce");
        // A default of the organization's may be there already, which may only observe, and is what is changed then.
        if let Err(error) = limits::set_of_key(visit, show::text(&key, "id"), limit).await {
            // A key that was to be held by a limit is not given out without it.
            let given = project.given().path("api_key_id", show::text(&key, "id"));
            visit.call("delete-project-api-key", given).await?;
            return Err(error);
        }
    }
    Ok(key)
}

/// The project and the key that the path names.
async fn named(visit: &Visit<'_>) -> Result<(Project, Value)> {
    let project = Project::of(visit).await?;
    let given = project.given().path("api_key_id", visit.nth(1));
    let key = visit.call("retrieve-project-api-key", given).await?;
    Ok((project, key))
}

pub(crate) async fn show(visit: &Visit<'_>) -> Result<Answer> {
    page(visit, None).await
}

pub(crate) async fn page(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let (project, key) = named(visit).await?;
    let (id, now) = (show::text(&key, "id"), visit.now());
    let may_write = visit.may_at(Permission::ProjectApiKeysWrite, &project.id);
    let at = |part: &str| project.at(&["keys", id, part]);
    let is_frozen = show::number(&key, "frozen_at").is_some();
    let body = html! {
        (project.head(visit))
        dl.facts id="facts" data-live="5" {
            dt { "Key" } dd { code { (show::text(&key, "redacted_value")) } (previous(visit, &key, &at("end-previous"))) }
            dt { "Id" } dd { (show::id(id)) }
            dt { "State" } dd { @if is_frozen { span.badge.warn { "frozen" } } @else { (show::text(&key, "owner_project_access")) } }
            dt { "Owner" } dd { (owner(&key)) }
            dt { "Permissions" } dd { (scopes(&key)) }
            dt { "Made" } dd { (show::time(show::number(&key, "created_at"))) }
            @if let Some(at) = show::number(&key, "rotated_at") { dt { "Rotated" } dd { (show::time(Some(at))) } }
            dt { "Last used" } dd { (show::ago(show::number(&key, "last_used_at"), now)) }
            dt { "Expires" } dd { (show::expiry(show::number(&key, "expires_at"), now)) }
            dt { "Labels" } dd { (show::labels(&key["labels"])) }
        }
        @if may_write {
            div.buttons {
                a.button href=(at("edit")) { "Edit" }
                a.button href=(at("rotate")) { "Rotate" }
                @if is_frozen { (action(visit, &at("unfreeze"), "Unfreeze", "")) } @else { (action(visit, &at("freeze"), "Freeze", "")) }
                a.button.danger href=(at("revoke")) { "Revoke" }
            }
        }
        (limits::section_of_key(visit, &project.id, id, error).await?)
        (activity::section(visit, &project.id, id).await?)
        @if visit.may(Permission::UsageRead) { (usage(visit, id).await?) }
        @if visit.may(Permission::AuditLogsRead) { (history(visit, id).await?) }
    };
    Ok(Answer::page(show::text(&key, "name").to_owned(), body).because(error))
}

/// By model this month, and the last requests.
async fn usage(visit: &Visit<'_>, id: &str) -> Result<Markup> {
    let month = Period::month_of(visit.now());
    let given = Given::default()
        .query("start_time", month.start.0.to_string())
        .query("bucket_width", "1d")
        .query("limit", "31")
        .query("group_by", "model")
        .query("api_key_ids", id);
    let answer = visit.call("usage-all", given).await?;
    let rows = super::usage::totals(&answer, "model");
    let rows: Vec<Markup> = rows.iter().map(super::usage::Total::row).collect();
    let last =
        visit.call("list-requests", Given::default().query("api_key_id", id).query("limit", "20")).await?;
    let last = requests::listed(visit, &last).await?;
    Ok(html! {
        section id="usage" data-live="5" {
            h2 { "This month, by model" }
            (table("By model", &super::usage::TOTAL_HEADINGS, &rows, &plain("Nothing this month.")))
            h2 { "Last requests" }
            (last)
        }
    })
}

async fn history(visit: &Visit<'_>, id: &str) -> Result<Markup> {
    let given = Given::default().query("resource_ids", id).query("limit", "20");
    let answer = visit.call("list-audit-logs", given).await?;
    let rows = super::audit::rows(visit, show::items(&answer)).await?;
    Ok(html! {
        section { h2 { "History" } (table("History", &super::audit::HEADINGS, &rows, &plain("Nothing is on record."))) }
    })
}

pub(crate) async fn edit(visit: &Visit<'_>) -> Result<Answer> {
    edit_form(visit, None).await
}

async fn edit_form(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let (project, key) = named(visit).await?;
    let now = format!("As they are: {}", scopes(&key));
    let mut permissions = vec![("", now.as_str())];
    permissions.extend(PERMISSIONS);
    let mut expiries = vec![("", "As it is")];
    expiries.extend(EXPIRIES.into_iter().filter(|(value, _)| *value != "never"));
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        (project.head(visit))
        form method="post" action=(visit.path) {
            (token(visit)) (fields.alert())
            (fields.required("name", "Name", "What or who uses it.", show::text(&key, "name")))
            (fields.choice("permissions", "Permissions", "", &permissions, ""))
            (fields.several("more", "Besides, where they change", "", &[("usage", "read usage and costs of the project")], &[]))
            (fields.choice("expires", "Expires in, from now on", "", &expiries, ""))
            (fields.text("labels", "Labels", "As team=search, tier=gold.", &show::typed_labels(&key["labels"])))
            div.buttons { button.primary { "Save" } a.button href=(project.at(&["keys", visit.nth(1)])) { "Cancel" } }
        }
    };
    Ok(Answer::page(format!("Edit {}", show::text(&key, "name")), body).because(error))
}

pub(crate) async fn update(visit: &Visit<'_>) -> Result<Answer> {
    let changed = async {
        let usage = visit.form.all("more").any(|more| more == "usage");
        let mut given = Given::default()
            .path("project_id", visit.name())
            .path("api_key_id", visit.nth(1))
            .body("name", visit.form.text("name"))
            .body("labels", read_labels(visit.form.typed("labels"))?);
        if let Some(permissions) = visit.form.typed("permissions") {
            given = given.body("scopes", read_scopes(permissions, usage));
        }
        if let Some(seconds) = visit.form.number("expires")? {
            given = given.body("expires_in_seconds", seconds);
        }
        visit.call("modify-project-api-key", given).await
    };
    match changed.await {
        Ok(_) => Ok(Answer::see(path(&["projects", visit.name(), "keys", visit.nth(1)]))),
        Err(error) if is_for_form(&error) => edit_form(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn ask_rotate(visit: &Visit<'_>) -> Result<Answer> {
    let (project, key) = named(visit).await?;
    Ok(rotation(visit, &key, &project.at(&["keys", visit.nth(1)]), None))
}

pub(crate) async fn rotate(visit: &Visit<'_>) -> Result<Answer> {
    let (project, key) = named(visit).await?;
    let back = project.at(&["keys", visit.nth(1)]);
    let given = project.given().path("api_key_id", visit.nth(1));
    let given = given.body("grace_seconds", visit.form.number("grace_seconds")?);
    match visit.call("rotate-project-api-key", given).await {
        Ok(key) => Ok(new_key::secret(visit, "The new secret", &key, &back, false)),
        Err(error) if is_for_form(&error) => Ok(rotation(visit, &key, &back, Some(&error))),
        Err(error) => Err(error),
    }
}

pub(crate) async fn end_previous(visit: &Visit<'_>) -> Result<Answer> {
    done(visit, "delete-project-api-key-previous-secret").await
}

pub(crate) async fn freeze(visit: &Visit<'_>) -> Result<Answer> {
    done(visit, "freeze-project-api-key").await
}

pub(crate) async fn unfreeze(visit: &Visit<'_>) -> Result<Answer> {
    done(visit, "unfreeze-project-api-key").await
}

async fn done(visit: &Visit<'_>, operation: &str) -> Result<Answer> {
    let given = Given::default().path("project_id", visit.name()).path("api_key_id", visit.nth(1));
    visit.call(operation, given).await?;
    Ok(Answer::see(path(&["projects", visit.name(), "keys", visit.nth(1)])))
}

/// What it will hit is said before it is done.
async fn revocation<'a>(visit: &Visit<'_>, project: &Project, key: &'a Value) -> Result<Question<'a>> {
    let id = show::text(key, "id");
    let day = Given::default()
        .query("start_time", (visit.now().0 - DAY).to_string())
        .query("bucket_width", "1h")
        .query("limit", "25")
        .query("api_key_ids", id);
    let usage = visit.if_allowed("usage-all", day).await?;
    let open = Given::default().query("api_key_id", id).query("state", "held").query("limit", "100");
    let open = visit.if_allowed("list-requests", open).await?;
    let clients = activity::clients(visit, &activity::of_key(visit, &project.id, id).await?);
    let requests: u64 = usage
        .iter()
        .flat_map(show::items)
        .filter_map(|bucket| bucket["results"].as_array())
        .flatten()
        .filter_map(|result| result["num_requests"].as_u64())
        .sum();
    let told = html! {
        p { "It is refused from the next request on, for good." }
        ul {
            li { "Owned by " (owner(key)) "." }
            li { "Last used " (show::ago(show::number(key, "last_used_at"), visit.now())) "." }
            @if usage.is_some() { li { (show::thousands(requests)) " requests in the last 24 hours that were let through." } }
            @if let Some(open) = open.as_ref().map(|open| show::items(open).len()).filter(|open| *open > 0) {
                li { (open) " requests are under way: they end by themselves." }
            }
        }
        @if !clients.is_empty() {
            h2 { "Programs that used it in the last 7 days" }
            (table("Programs that used it", &["Program", "Requests", "Last"], &clients, &plain("")))
        }
    };
    Ok(Question {
        title: format!("Revoke {}", show::text(key, "name")),
        told,
        name: Some(show::text(key, "name")),
        button: "Revoke the key",
        back: project.at(&["keys", id]),
    })
}

pub(crate) async fn ask_revoke(visit: &Visit<'_>) -> Result<Answer> {
    let (project, key) = named(visit).await?;
    Ok(revocation(visit, &project, &key).await?.ask(visit, None))
}

pub(crate) async fn revoke(visit: &Visit<'_>) -> Result<Answer> {
    let (project, key) = named(visit).await?;
    let question = revocation(visit, &project, &key).await?;
    if let Err(error) = question.is_confirmed(visit) {
        return Ok(question.ask(visit, Some(&error)));
    }
    let given = project.given().path("api_key_id", visit.nth(1));
    visit.call("delete-project-api-key", given).await?;
    Ok(Answer::see(project.at(&["keys"])))
}
