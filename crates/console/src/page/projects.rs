//! All projects, and making one.

use std::collections::HashMap;

use futures_util::future::try_join_all;
use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::{Error, Money, Period, Permission, Result};

use super::{read_labels, table};
use crate::answer::Answer;
use crate::chart;
use crate::fields::Fields;
use crate::layout::{pager, token};
use crate::show;
use crate::visit::{Visit, is_for_form, path};

pub(crate) async fn list(visit: &Visit<'_>) -> Result<Answer> {
    let mut given = visit.page_of(20);
    if let Some(name) = visit.query.typed("q") {
        given = given.query("name", name);
    }
    if visit.query.has("archived") {
        given = given.query("include_archived", "true");
    }
    // Who may not see all sees their own.
    let (answer, is_all) = match visit.if_allowed("list-projects", given).await? {
        Some(answer) => (answer, true),
        None => (visit.call("list-own-projects", Given::default()).await?, false),
    };
    let projects = show::items(&answer);
    let costs = if is_all { costs(visit, projects).await? } else { HashMap::new() };
    // Together, for each waits until the books are up to date.
    let rows = try_join_all(projects.iter().map(|project| row(visit, project, &costs))).await?;
    let body = html! {
        div.bar-of-actions {
            form.search method="get" action="/projects" role="search" {
                label.hidden for="q" { "Search by name" }
                input id="q" name="q" type="search" value=(visit.query.text("q")) placeholder="Search by name" data-search;
                label.check { input type="checkbox" name="archived" value="1" checked[visit.query.has("archived")]; " archived too" }
                button { "Search" }
            }
            @if visit.may(Permission::ProjectsWrite) {
                a.button.primary href="/projects/new" data-create { "New project" }
            }
        }
        (table("Projects", &["Name", "Status", "Spent this month", "Limit", "Labels"], &rows, &html! {
            @if visit.query.has("q") { p { "No project is called so." } }
            @else { p { "A project holds keys, members and limits: one for each team, customer or course." } }
        }))
        (pager(visit, &answer))
    };
    Ok(Answer::page("Projects", body))
}

async fn costs(visit: &Visit<'_>, projects: &[Value]) -> Result<HashMap<String, Money>> {
    let mut costs = HashMap::new();
    if projects.is_empty() || !visit.may(Permission::UsageRead) {
        return Ok(costs);
    }
    let month = Period::month_of(visit.now());
    let mut given = Given::default()
        .query("start_time", month.start.0.to_string())
        .query("bucket_width", "1d")
        .query("limit", "31")
        .query("group_by", "project_id");
    for project in projects {
        given = given.query("project_ids", show::text(project, "id"));
    }
    let answer = visit.call("usage-all", given).await?;
    let buckets = show::items(&answer).iter();
    for result in buckets.filter_map(|bucket| bucket["results"].as_array()).flatten() {
        *costs.entry(show::text(result, "project_id").to_owned()).or_insert(Money::ZERO) +=
            show::money(&result["cost"]);
    }
    Ok(costs)
}

async fn row(visit: &Visit<'_>, project: &Value, costs: &HashMap<String, Money>) -> Result<Markup> {
    let id = show::text(project, "id");
    let limits = if visit.may_at(Permission::SpendLimitsRead, id) {
        let given = Given::default().path("project_id", id);
        visit.if_allowed("list-project-spend-limits", given).await?
    } else {
        None
    };
    let sees_costs = visit.may(Permission::UsageRead);
    let tightest = limits.as_ref().and_then(|limits| show::items(limits).first());
    Ok(html! {
        tr.made[id == visit.query.text("made")] {
            th scope="row" { a href=(path(&["projects", id])) { (show::text(project, "name")) } br; (show::id(id)) }
            td {
                @match project["status"].as_str() {
                    Some("archived") => span.badge { "archived" },
                    _ if project["frozen_at"].is_i64() => span.badge.warn { "frozen" },
                    _ => "active",
                }
            }
            td.number { @if sees_costs { (show::amount(costs.get(id).copied().unwrap_or(Money::ZERO))) } @else { span.none title="not shown to you" { "–" } } }
            td.wide { @if let Some(limit) = tightest { (chart::budget(limit, visit.now())) } @else if limits.is_some() { span.none { "none" } } @else { span.none title="not shown to you" { "–" } } }
            td { (show::labels(&project["labels"])) }
        }
    })
}

pub(crate) async fn new(visit: &Visit<'_>) -> Result<Answer> {
    visit.needs(Permission::ProjectsWrite)?;
    Ok(form(visit, None))
}

fn form(visit: &Visit<'_>, error: Option<&Error>) -> Answer {
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        form method="post" action="/projects/new" {
            (token(visit))
            (fields.alert())
            (fields.required("name", "Name", "", ""))
            (fields.text("labels", "Labels", "As team=search, tier=gold: costs are told apart by them.", ""))
            div.buttons { button.primary { "Create the project" } a.button href="/projects" { "Cancel" } }
        }
    };
    Answer::page("New project", body).because(error)
}

pub(crate) async fn create(visit: &Visit<'_>) -> Result<Answer> {
    let made = async {
        let labels = read_labels(visit.form.typed("labels"))?;
        let given = Given::default().body("name", visit.form.text("name")).body("labels", labels);
        visit.call("create-project", given).await
    };
    match made.await {
        Ok(project) => Ok(Answer::see(path(&["projects", show::text(&project, "id")]))),
        Err(error) if is_for_form(&error) => Ok(form(visit, Some(&error))),
        Err(error) => Err(error),
    }
}
