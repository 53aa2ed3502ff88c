//! One project: what it spends, who is in it, and what it is called.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::{Error, Period, Permission, Result};

use super::{new_key, plain, read_labels, table};
use crate::answer::Answer;
use crate::chart;
use crate::fields::Fields;
use crate::layout::{Question, action, pager, tabs, token};
use crate::show;
use crate::visit::{Visit, is_for_form, path};

/// A project as its pages have it at their top.
pub(crate) struct Project {
    pub(crate) id: String,
    pub(crate) value: Value,
}

impl Project {
    pub(crate) async fn of(visit: &Visit<'_>) -> Result<Self> {
        let id = visit.name().to_owned();
        let value = visit.call("retrieve-project", Given::default().path("project_id", &*id)).await?;
        Ok(Self { id, value })
    }

    pub(crate) fn name(&self) -> &str {
        show::text(&self.value, "name")
    }

    pub(crate) fn given(&self) -> Given {
        Given::default().path("project_id", &*self.id)
    }

    pub(crate) fn at(&self, more: &[&str]) -> String {
        let mut parts = vec!["projects", self.id.as_str()];
        parts.extend(more);
        path(&parts)
    }

    fn is_archived(&self) -> bool {
        show::number(&self.value, "archived_at").is_some()
    }

    /// The tabs that somebody can do something with.
    pub(crate) fn head(&self, visit: &Visit<'_>) -> Markup {
        use Permission::{
            ProjectApiKeysRead, ProjectUsersRead, ProjectsWrite, ServiceAccountsRead, SpendLimitsRead,
        };
        let mut all = vec![(self.at(&[]), "Overview")];
        let mut if_may = |permission, part, called| {
            if visit.may_at(permission, &self.id) {
                all.push((self.at(&[part]), called));
            }
        };
        if_may(ProjectApiKeysRead, "keys", "Keys");
        if_may(ServiceAccountsRead, "service-accounts", "Service accounts");
        if_may(ProjectUsersRead, "members", "Members");
        if_may(SpendLimitsRead, "limits", "Limits");
        if_may(ProjectsWrite, "settings", "Settings");
        html! {
            p { (show::id(&self.id))
                @if self.is_archived() { " " span.badge { "archived" } }
                @if show::number(&self.value, "frozen_at").is_some() { " " span.badge.warn { "frozen" } }
                " " (show::labels(&self.value["labels"]))
            }
            (tabs(visit, "Project", &all))
        }
    }
}

pub(crate) async fn show(visit: &Visit<'_>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    let now = visit.now();
    let month = Period::month_of(now);
    let usage = if visit.may_at(Permission::UsageRead, &project.id) && visit.may(Permission::UsageRead) {
        let given = Given::default()
            .query("start_time", month.start.0.to_string())
            .query("bucket_width", "1d")
            .query("limit", "31")
            .query("project_ids", &*project.id);
        Some(visit.call("usage-all", given).await?)
    } else {
        None
    };
    let limits = visit.if_allowed("list-project-spend-limits", project.given()).await?;
    let has_requests = usage.as_ref().is_some_and(|usage| {
        show::items(usage)
            .iter()
            .any(|bucket| bucket["results"].as_array().is_some_and(|all| !all.is_empty()))
    });
    let body = html! {
        (project.head(visit))
        section id="budgets" data-live="5" {
            h2 { "Limits" }
            @for limit in limits.iter().flat_map(show::items) { (chart::budget(limit, now)) }
            @if limits.as_ref().is_some_and(|limits| show::items(limits).is_empty()) {
                p { "No limit is the project's own. " a href=(project.at(&["limits"])) { "Limits" } }
            }
        }
        @if let Some(usage) = &usage {
            (days(usage))
            p {
                a href=(format!("/usage?range=month&by=api_key&project_ids={}", project.id)) { "Usage and costs of the project" } ", as "
                a href=(format!("/usage/export?range=month&by=api_key&format=csv&project_ids={}", project.id)) { "CSV" }
            }
        }
        @if !has_requests {
            section {
                h2 { "Send the first request" }
                p { "With a key of the project in its place:" }
                (new_key::snippets(visit, "", false))
            }
        }
    };
    Ok(Answer::page(project.name().to_owned(), body))
}

fn days(usage: &Value) -> Markup {
    html! {
        section {
            h2 { "Spent by day" }
            (chart::days("What the project spent on each day of this month", show::items(usage)))
        }
    }
}

pub(crate) async fn service_accounts(visit: &Visit<'_>) -> Result<Answer> {
    accounts_page(visit, None).await
}

async fn accounts_page(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    let mut given = visit.page_of(20);
    given.path = project.given().path;
    let answer = visit.call("list-project-service-accounts", given).await?;
    let may_write = visit.may_at(Permission::ServiceAccountsWrite, &project.id);
    let rows: Vec<Markup> = show::items(&answer)
        .iter()
        .map(|account| {
            let id = show::text(account, "id");
            html! {
                tr {
                    th scope="row" { (show::text(account, "name")) br; (show::id(id)) }
                    td { (show::text(account, "role")) @if show::text(account, "role") == "none" { " " span.badge.warn { "its keys can do nothing" } } }
                    td { (show::time(show::number(account, "created_at"))) }
                    td { (show::labels(&account["labels"])) }
                    td { @if may_write {
                        a href=(format!("{}?service_account_id={id}", project.at(&["keys", "new"]))) { "Create a key" } " "
                        a.bad href=(project.at(&["service-accounts", id, "delete"])) { "Delete" }
                    } }
                }
            }
        })
        .collect();
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        (project.head(visit))
        (table("Service accounts", &["Name", "Role", "Made", "Labels", ""], &rows, &html! {
            p { "A service account owns keys that are no person's: they go on when people go." }
        }))
        (pager(visit, &answer))
        @if may_write {
            section {
                h2 { "New service account" }
                form method="post" action=(visit.path) {
                    (token(visit)) (fields.alert())
                    (fields.required("name", "Name", "Such as the program that uses it.", ""))
                    (fields.choice("role", "Role", "", &ROLES, "member"))
                    (fields.text("labels", "Labels", "As team=search, tier=gold.", ""))
                    div.buttons { button.primary { "Create it" } }
                }
            }
        }
    };
    Ok(Answer::page(format!("{}: service accounts", project.name()), body).because(error))
}

pub(crate) async fn create_service_account(visit: &Visit<'_>) -> Result<Answer> {
    let made = async {
        let labels = read_labels(visit.form.typed("labels"))?;
        // Its keys are made where all keys are.
        let given = Given::default()
            .path("project_id", visit.name())
            .body("name", visit.form.text("name"))
            .body("create_service_account_only", true)
            .body("labels", labels);
        let made = visit.call("create-project-service-account", given).await?;
        // Made by itself it has no role, and its keys could do nothing.
        let given = Given::default()
            .path("project_id", visit.name())
            .path("service_account_id", show::text(&made, "id"))
            .body("role", visit.form.text("role"));
        visit.call("modify-project-service-account", given).await
    };
    match made.await {
        Ok(_) => Ok(Answer::see(visit.path.clone())),
        Err(error) if is_for_form(&error) => accounts_page(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

async fn deletion(visit: &Visit<'_>, project: &Project) -> Result<(String, Given)> {
    let given = project.given().path("service_account_id", visit.nth(1));
    let account = visit.call("retrieve-project-service-account", given.clone()).await?;
    Ok((show::text(&account, "name").to_owned(), given))
}

fn delete_account<'a>(project: &Project, name: &'a str) -> Question<'a> {
    Question {
        title: format!("Delete {name}"),
        told: plain("All its keys are refused from the next request on, for good."),
        name: Some(name),
        button: "Delete the service account",
        back: project.at(&["service-accounts"]),
    }
}

pub(crate) async fn ask_delete_service_account(visit: &Visit<'_>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    let (name, _) = deletion(visit, &project).await?;
    Ok(delete_account(&project, &name).ask(visit, None))
}

pub(crate) async fn delete_service_account(visit: &Visit<'_>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    let (name, given) = deletion(visit, &project).await?;
    let question = delete_account(&project, &name);
    if let Err(error) = question.is_confirmed(visit) {
        return Ok(question.ask(visit, Some(&error)));
    }
    visit.call("delete-project-service-account", given).await?;
    Ok(Answer::see(project.at(&["service-accounts"])))
}

const ROLES: [(&str, &str); 2] =
    [("member", "member: uses the models"), ("owner", "owner: looks after the project")];

pub(crate) async fn members(visit: &Visit<'_>) -> Result<Answer> {
    members_page(visit, None).await
}

async fn members_page(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    let mut given = visit.page_of(50);
    given.path = project.given().path;
    let answer = visit.call("list-project-users", given).await?;
    let groups = visit.if_allowed("list-project-groups", project.given()).await?;
    let may_write = visit.may_at(Permission::ProjectUsersWrite, &project.id);
    let rows: Vec<Markup> =
        show::items(&answer).iter().map(|member| member_row(visit, &project, member, may_write)).collect();
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        (project.head(visit))
        (table("Members", &["Name", "Role", "Since", ""], &rows, &plain("Nobody is in the project by themselves.")))
        (pager(visit, &answer))
        @if let Some(groups) = groups.as_ref().filter(|groups| !show::items(groups).is_empty()) {
            section {
                h2 { "Groups" }
                ul { @for group in show::items(groups) {
                    li { a href=(path(&["groups", show::text(group, "group_id")])) { (show::text(group, "group_name")) } }
                } }
            }
        }
        @if may_write {
            section {
                h2 { "Add a member" }
                form method="post" action=(project.at(&["members"])) {
                    (token(visit)) (fields.alert())
                    (fields.of_kind("email", "email", "E-mail address", "Of a member of the organization.", ""))
                    (fields.choice("role", "Role", "", &ROLES, "member"))
                    div.buttons { button.primary { "Add" } }
                }
            }
        }
    };
    Ok(Answer::page(format!("{}: members", project.name()), body).because(error))
}

fn member_row(visit: &Visit<'_>, project: &Project, member: &Value, may_write: bool) -> Markup {
    let (id, role) = (show::text(member, "id"), show::text(member, "role"));
    html! {
        tr {
            th scope="row" { (show::text(member, "name")) br; span.hint { (show::text(member, "email")) } }
            td {
                @if may_write {
                    form.inline method="post" action=(project.at(&["members", id, "role"])) {
                        (token(visit))
                        label.hidden for=(format!("role-{id}")) { "Role of " (show::text(member, "email")) }
                        select id=(format!("role-{id}")) name="role" {
                            @for (value, called) in ROLES { option value=(value) selected[value == role] { (called) } }
                            @if !ROLES.iter().any(|(value, _)| *value == role) { option value=(role) selected { (role) } }
                        }
                        button.quiet { "Change" }
                    }
                } @else { (role) }
            }
            td { (show::time(show::number(member, "added_at"))) }
            td { @if may_write { a.bad href=(project.at(&["members", id, "remove"])) { "Remove" } } }
        }
    }
}

pub(crate) async fn add_member(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default()
        .path("project_id", visit.name())
        .body("email", visit.form.text("email"))
        .body("role", visit.form.text("role"));
    match visit.call("create-project-user", given).await {
        Ok(_) => Ok(Answer::see(visit.path.clone())),
        Err(error) if is_for_form(&error) => members_page(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn change_role(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default()
        .path("project_id", visit.name())
        .path("user_id", visit.nth(1))
        .body("role", visit.form.text("role"));
    match visit.call("modify-project-user", given).await {
        Ok(_) => Ok(Answer::see(path(&["projects", visit.name(), "members"]))),
        Err(error) if is_for_form(&error) => members_page(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

async fn removal(visit: &Visit<'_>, project: &Project) -> Result<(String, Given)> {
    let given = project.given().path("user_id", visit.nth(1));
    let member = visit.call("retrieve-project-user", given.clone()).await?;
    Ok((show::text(&member, "email").to_owned(), given))
}

fn remove<'a>(project: &Project, email: &'a str) -> Question<'a> {
    Question {
        title: format!("Remove {email} from {}", project.name()),
        told: plain(
            "Their keys in the project are refused from the next request on, unless a group or the organization gives them access.",
        ),
        name: None,
        button: "Remove them",
        back: project.at(&["members"]),
    }
}

pub(crate) async fn ask_remove_member(visit: &Visit<'_>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    let (email, _) = removal(visit, &project).await?;
    Ok(remove(&project, &email).ask(visit, None))
}

pub(crate) async fn remove_member(visit: &Visit<'_>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    let (email, given) = removal(visit, &project).await?;
    match visit.call("delete-project-user", given).await {
        Ok(_) => Ok(Answer::see(project.at(&["members"]))),
        Err(error) if is_for_form(&error) => Ok(remove(&project, &email).ask(visit, Some(&error))),
        Err(error) => Err(error),
    }
}

pub(crate) async fn settings(visit: &Visit<'_>) -> Result<Answer> {
    settings_page(visit, None).await
}

async fn settings_page(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    let policy = visit.call("retrieve-project-access-policy", project.given()).await?;
    let labels = show::typed_labels(&project.value["labels"]);
    let fields = Fields::new(&visit.form, error);
    let is_frozen = show::number(&project.value, "frozen_at").is_some();
    let body = html! {
        (project.head(visit))
        form method="post" action=(project.at(&["settings"])) {
            (token(visit)) (fields.alert())
            (fields.required("name", "Name", "", project.name()))
            (fields.text("labels", "Labels", "As team=search, tier=gold: costs are told apart by them.", &labels))
            (fields.choice("browser_requests", "Requests from browsers", "A key that is in a page is known to whoever opens it.",
                &[("refuse", "Refused"), ("allow", "Allowed")], show::text(&policy, "browser_requests")))
            div.buttons { button.primary { "Save" } }
        }
        section {
            h2 { "Stop it" }
            @if is_frozen {
                p { "Frozen: all its keys are refused until it is unfrozen." }
                (action(visit, &project.at(&["unfreeze"]), "Unfreeze", ""))
            } @else {
                p { "Freezing refuses all its keys from the next request on, and can be taken back. Archiving cannot." }
                (action(visit, &project.at(&["freeze"]), "Freeze", "danger"))
            }
            " " a.button.danger href=(project.at(&["archive"])) { "Archive…" }
        }
    };
    Ok(Answer::page(format!("{}: settings", project.name()), body).because(error))
}

pub(crate) async fn change_settings(visit: &Visit<'_>) -> Result<Answer> {
    let changed = async {
        let project = Project::of(visit).await?;
        let labels = read_labels(visit.form.typed("labels"))?;
        let mut given = project.given().body("labels", labels);
        // That of the default project is its own for good.
        if visit.form.text("name") != project.name() {
            given = given.body("name", visit.form.text("name"));
        }
        visit.call("modify-project", given).await?;
        let browsers = visit.form.text("browser_requests");
        visit.call("modify-project-access-policy", project.given().body("browser_requests", browsers)).await
    };
    match changed.await {
        Ok(_) => Ok(Answer::see(visit.path.clone())),
        Err(error) if is_for_form(&error) => settings_page(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn freeze(visit: &Visit<'_>) -> Result<Answer> {
    frozen(visit, "freeze-project").await
}

pub(crate) async fn unfreeze(visit: &Visit<'_>) -> Result<Answer> {
    frozen(visit, "unfreeze-project").await
}

async fn frozen(visit: &Visit<'_>, operation: &str) -> Result<Answer> {
    visit.call(operation, Given::default().path("project_id", visit.name())).await?;
    Ok(Answer::see(path(&["projects", visit.name(), "settings"])))
}

fn archival(project: &Project) -> Question<'_> {
    Question {
        title: format!("Archive {}", project.name()),
        told: plain(
            "All its keys are refused from the next request on. It cannot be taken back; what it has spent stays on record.",
        ),
        name: Some(project.name()),
        button: "Archive the project",
        back: project.at(&["settings"]),
    }
}

pub(crate) async fn ask_archive(visit: &Visit<'_>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    Ok(archival(&project).ask(visit, None))
}

pub(crate) async fn archive(visit: &Visit<'_>) -> Result<Answer> {
    let project = Project::of(visit).await?;
    let question = archival(&project);
    if let Err(error) = question.is_confirmed(visit) {
        return Ok(question.ask(visit, Some(&error)));
    }
    match visit.call("archive-project", project.given()).await {
        Ok(_) => Ok(Answer::see("/projects")),
        Err(error) if is_for_form(&error) => Ok(question.ask(visit, Some(&error))),
        Err(error) => Err(error),
    }
}
