//! Groups: people who have the roles of their group besides their own.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::{Error, Permission, Result};

use super::{plain, table};
use crate::answer::Answer;
use crate::fields::Fields;
use crate::layout::{Question, action, pager, token};
use crate::show;
use crate::visit::{Visit, is_for_form, path};

pub(crate) async fn list(visit: &Visit<'_>) -> Result<Answer> {
    page(visit, None).await
}

async fn page(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let answer = visit.call("list-groups", visit.page_of(50)).await?;
    let rows: Vec<Markup> = show::items(&answer)
        .iter()
        .map(|group| {
            html! {
                tr {
                    th scope="row" { a href=(path(&["groups", show::text(group, "id")])) { (show::text(group, "name")) } }
                    td { (show::time(show::number(group, "created_at"))) }
                }
            }
        })
        .collect();
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        (table("Groups", &["Name", "Made"], &rows, &plain("There is no group. Roles that many have are given to a group once.")))
        (pager(visit, &answer))
        @if visit.may(Permission::GroupsWrite) {
            section {
                h2 { "New group" }
                form method="post" action="/groups" {
                    (token(visit)) (fields.alert())
                    (fields.required("name", "Name", "", ""))
                    div.buttons { button.primary { "Create it" } }
                }
            }
        }
    };
    Ok(Answer::page("Groups", body).because(error))
}

pub(crate) async fn create(visit: &Visit<'_>) -> Result<Answer> {
    match visit.call("create-group", Given::default().body("name", visit.form.text("name"))).await {
        Ok(group) => Ok(Answer::see(path(&["groups", show::text(&group, "id")]))),
        Err(error) if is_for_form(&error) => page(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

fn named(visit: &Visit<'_>) -> Given {
    Given::default().path("group_id", visit.name())
}

pub(crate) async fn show(visit: &Visit<'_>) -> Result<Answer> {
    one(visit, None).await
}

async fn one(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let group = visit.call("retrieve-group", named(visit)).await?;
    let users = visit.all("list-group-users", named(visit)).await?;
    let roles = visit.if_allowed("list-group-role-assignments", named(visit)).await?;
    let all_roles = visit.if_allowed("list-roles", Given::default().query("limit", "100")).await?;
    let id = show::text(&group, "id");
    let (may_write, may_give) = (visit.may(Permission::GroupsWrite), visit.may(Permission::RolesWrite));
    let rows: Vec<Markup> = users
        .iter()
        .map(|user| {
            html! {
                tr {
                    th scope="row" { (user["name"].as_str().unwrap_or("")) br; span.hint { (user["email"].as_str().unwrap_or("")) } }
                    td { @if may_write { (action(visit, &path(&["groups", id, "users", show::text(user, "id"), "remove"]), "Remove", "quiet")) } }
                }
            }
        })
        .collect();
    let options: Vec<(&str, &str)> = all_roles
        .iter()
        .flat_map(show::items)
        .map(|role| (show::text(role, "id"), show::text(role, "name")))
        .collect();
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        p { (show::id(id)) }
        (fields.alert())
        (table("Users", &["Name", ""], &rows, &plain("Nobody is in it.")))
        @if may_write {
            form method="post" action=(path(&["groups", id, "users"])) {
                (token(visit))
                (fields.of_kind("email", "email", "Add by e-mail address", "Of a member of the organization.", ""))
                div.buttons { button { "Add" } }
            }
        }
        section {
            h2 { "Roles in the organization" }
            ul { @for role in roles.iter().flat_map(show::items) {
                li { (show::text(role, "name")) " "
                    @if may_give { (action(visit, &path(&["groups", id, "roles", show::text(role, "id"), "remove"]), "Take it", "quiet")) } }
            } }
            @if may_give && !options.is_empty() {
                form method="post" action=(path(&["groups", id, "roles"])) {
                    (token(visit))
                    (fields.choice("role_id", "Give a role", "", &options, ""))
                    div.buttons { button { "Give it" } }
                }
            }
        }
        @if may_write { p { a.button.danger href=(path(&["groups", id, "delete"])) { "Delete the group…" } } }
    };
    Ok(Answer::page(show::text(&group, "name").to_owned(), body).because(error))
}

async fn changed(visit: &Visit<'_>, operation: &str, given: Given) -> Result<Answer> {
    match visit.call(operation, given).await {
        Ok(_) => Ok(Answer::see(path(&["groups", visit.name()]))),
        Err(error) if is_for_form(&error) => one(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

/// The member of an address.
async fn user_of(visit: &Visit<'_>, email: &str) -> Result<String> {
    let unknown = || Error::invalid("email", "There is no member of this address.");
    if email.is_empty() {
        return Err(unknown());
    }
    let found = visit.call("list-users", Given::default().query("emails", email)).await?;
    let found: Option<&Value> = show::items(&found).first();
    found.map(|user| show::text(user, "id").to_owned()).ok_or_else(unknown)
}

pub(crate) async fn add_user(visit: &Visit<'_>) -> Result<Answer> {
    match user_of(visit, visit.form.text("email")).await {
        Ok(user) => changed(visit, "add-group-user", named(visit).body("user_id", user)).await,
        Err(error) if is_for_form(&error) => one(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn remove_user(visit: &Visit<'_>) -> Result<Answer> {
    changed(visit, "remove-group-user", named(visit).path("user_id", visit.nth(1))).await
}

pub(crate) async fn assign_role(visit: &Visit<'_>) -> Result<Answer> {
    changed(visit, "assign-group-role", named(visit).body("role_id", visit.form.text("role_id"))).await
}

pub(crate) async fn unassign_role(visit: &Visit<'_>) -> Result<Answer> {
    changed(visit, "unassign-group-role", named(visit).path("role_id", visit.nth(1))).await
}

fn deletion(group: &Value) -> Question<'_> {
    Question {
        title: format!("Delete {}", show::text(group, "name")),
        told: plain(
            "Its users lose the roles that it has, and their keys stop where they have no access without them.",
        ),
        name: Some(show::text(group, "name")),
        button: "Delete the group",
        back: path(&["groups", show::text(group, "id")]),
    }
}

pub(crate) async fn ask_delete(visit: &Visit<'_>) -> Result<Answer> {
    let group = visit.call("retrieve-group", named(visit)).await?;
    Ok(deletion(&group).ask(visit, None))
}

pub(crate) async fn delete(visit: &Visit<'_>) -> Result<Answer> {
    let group = visit.call("retrieve-group", named(visit)).await?;
    let question = deletion(&group);
    if let Err(error) = question.is_confirmed(visit) {
        return Ok(question.ask(visit, Some(&error)));
    }
    match visit.call("delete-group", named(visit)).await {
        Ok(_) => Ok(Answer::see("/groups")),
        Err(error) if is_for_form(&error) => Ok(question.ask(visit, Some(&error))),
        Err(error) => Err(error),
    }
}
