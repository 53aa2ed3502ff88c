//! Members of the organization, and those who are invited.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::{Error, Permission, Result};

use super::{plain, project_called, table};
use crate::answer::Answer;
use crate::fields::Fields;
use crate::layout::{Question, action, copy, pager, token};
use crate::show;
use crate::visit::{Visit, is_for_form, path};

const ROLES: [(&str, &str); 2] =
    [("reader", "reader: what their projects say"), ("owner", "owner: everything in the organization")];

pub(crate) async fn list(visit: &Visit<'_>) -> Result<Answer> {
    page(visit, None, None).await
}

/// With what was just sent, whose link is shown this once.
async fn page(visit: &Visit<'_>, sent: Option<&Value>, error: Option<&Error>) -> Result<Answer> {
    let mut given = visit.page_of(50);
    if let Some(name) = visit.query.typed("q") {
        given = given.query("name", name);
    }
    // Who only invites has a link to pass on, and sees no list.
    let answer = match sent {
        Some(_) => visit.if_allowed("list-users", given).await?.unwrap_or_default(),
        None => visit.call("list-users", given).await?,
    };
    let invites = if visit.may(Permission::InvitesRead) {
        visit.all("list-invites", Given::default()).await?
    } else {
        Vec::new()
    };
    let rows: Vec<Markup> = show::items(&answer)
        .iter()
        .map(|user| {
            html! {
                tr {
                    th scope="row" { a href=(path(&["people", show::text(user, "id")])) { (show::text(user, "name")) } br; span.hint { (show::text(user, "email")) } }
                    td { (show::text(user, "role")) @if show::number(user, "frozen_at").is_some() { " " span.badge.warn { "frozen" } } }
                    td { (show::time(show::number(user, "added_at"))) }
                }
            }
        })
        .collect();
    let body = html! {
        form.search method="get" action="/people" role="search" {
            label.hidden for="q" { "Search by name or address" }
            input id="q" name="q" type="search" value=(visit.query.text("q")) placeholder="Search by name or address" data-search;
            button { "Search" }
        }
        (table("People", &["Name", "Role", "Since"], &rows, &plain("Nobody is called so.")))
        (pager(visit, &answer))
        @if visit.may(Permission::InvitesRead) { (invited(visit, &invites, sent)) }
        @if visit.may(Permission::InvitesWrite) { (invitation(visit, error)) }
    };
    Ok(Answer::page("People", body).because(error))
}

fn invited(visit: &Visit<'_>, invites: &[Value], sent: Option<&Value>) -> Markup {
    let may_write = visit.may(Permission::InvitesWrite);
    let pending = invites.iter().filter(|invite| show::text(invite, "status") != "accepted");
    let rows: Vec<Markup> = pending
        .map(|invite| {
            let id = show::text(invite, "id");
            html! {
                tr {
                    th scope="row" { (show::text(invite, "email")) }
                    td { (show::text(invite, "role")) }
                    td { (show::text(invite, "status")) }
                    td { (show::expiry(show::number(invite, "expires_at"), visit.now())) }
                    td { @if may_write {
                        (action(visit, &path(&["people", "invites", id, "resend"]), "New link", "quiet"))
                        (action(visit, &path(&["people", "invites", id, "delete"]), "Withdraw", "quiet"))
                    } }
                }
            }
        })
        .collect();
    html! {
        section {
            h2 { "Invites" }
            @if let Some(sent) = sent {
                @let url = show::text(sent, "accept_url");
                div.secret role="status" {
                    p { "Give this link to " strong { (show::text(sent, "email")) } ". It is shown this once, and works once, for a week." }
                    code data-secret { (url) }
                    div.buttons { (copy(url)) }
                }
            }
            (table("Invites", &["Address", "Role", "State", "Ends", ""], &rows, &plain("Nobody is invited.")))
        }
    }
}

fn invitation(visit: &Visit<'_>, error: Option<&Error>) -> Markup {
    let fields = Fields::new(&visit.form, error);
    html! {
        section {
            h2 { "Invite somebody" }
            form method="post" action="/people/invite" {
                (token(visit)) (fields.alert())
                (fields.of_kind("email", "email", "E-mail address", "", ""))
                (fields.choice("role", "Role", "", &ROLES, "reader"))
                (fields.area("projects", "Into these projects, as members", "Their names or ids, with commas between them.", ""))
                div.buttons { button.primary { "Make the link" } }
            }
        }
    }
}

pub(crate) async fn invite(visit: &Visit<'_>) -> Result<Answer> {
    let sent = async {
        let mut projects: Vec<Value> = Vec::new();
        let typed = visit.form.text("projects").split([',', '\n']).map(str::trim);
        for text in typed.filter(|text| !text.is_empty()) {
            let id = project_called(visit, "projects", text).await?;
            projects.push(serde_json::json!({"id": id, "role": "member"}));
        }
        let given = Given::default()
            .body("email", visit.form.text("email"))
            .body("role", visit.form.text("role"))
            .body("projects", projects);
        visit.call("inviteUser", given).await
    };
    match sent.await {
        Ok(sent) => page(visit, Some(&sent), None).await,
        Err(error) if is_for_form(&error) => page(visit, None, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn resend_invite(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default().path("invite_id", visit.name());
    match visit.call("resend-invite", given).await {
        Ok(sent) => page(visit, Some(&sent), None).await,
        Err(error) if is_for_form(&error) => page(visit, None, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn delete_invite(visit: &Visit<'_>) -> Result<Answer> {
    visit.call("delete-invite", Given::default().path("invite_id", visit.name())).await?;
    Ok(Answer::see("/people"))
}

async fn named(visit: &Visit<'_>) -> Result<(Given, Value)> {
    let given = Given::default().path("user_id", visit.name());
    let user = visit.call("retrieve-user", given.clone()).await?;
    Ok((given, user))
}

pub(crate) async fn show(visit: &Visit<'_>) -> Result<Answer> {
    one(visit, None).await
}

async fn one(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let (given, user) = named(visit).await?;
    let id = show::text(&user, "id");
    let roles = visit.if_allowed("list-user-role-assignments", given).await?;
    let keys = Given::default().query("user_id", id).query("limit", "50");
    let keys = visit.if_allowed("list-organization-api-keys", keys).await?;
    let is_frozen = show::number(&user, "frozen_at").is_some();
    let may_write = visit.may(Permission::UsersWrite);
    let role = show::text(&user, "role");
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        p { (show::text(&user, "email")) " " (show::id(id)) @if is_frozen { " " span.badge.warn { "frozen" } } }
        (fields.alert())
        @if may_write {
            form method="post" action=(path(&["people", id, "role"])) {
                (token(visit))
                (fields.choice("role", "Role in the organization", "", &ROLES, role))
                div.buttons { button { "Change it" } }
            }
        } @else { p { "Role: " (role) } }
        @if let Some(roles) = &roles {
            section {
                h2 { "Roles in the organization" }
                ul { @for role in show::items(roles) { li { (show::text(role, "name")) " " span.hint { (role["description"].as_str().unwrap_or("")) } } } }
            }
        }
        @if let Some(keys) = &keys {
            section {
                h2 { "Keys" }
                (table("Keys", &["Name", "Project", "Last used", "Expires"], &show::items(keys).iter().map(|key| {
                    let project = show::text(key, "project_id");
                    html! {
                        tr {
                            th scope="row" { a href=(path(&["projects", project, "keys", show::text(key, "id")])) { (show::text(key, "name")) } }
                            td { (show::text(key, "project_name")) }
                            td { (show::ago(show::number(key, "last_used_at"), visit.now())) }
                            td { (show::expiry(show::number(key, "expires_at"), visit.now())) }
                        }
                    }
                }).collect::<Vec<_>>(), &plain("They have no key that works.")))
            }
        }
        @if may_write {
            section {
                h2 { "Stop them" }
                p { "Freezing refuses all they do here, and can be taken back. Removing ends their keys for good." }
                @if is_frozen { (action(visit, &path(&["people", id, "unfreeze"]), "Unfreeze", "")) }
                @else { (action(visit, &path(&["people", id, "freeze"]), "Freeze", "danger")) }
                " " a.button.danger href=(path(&["people", id, "remove"])) { "Remove…" }
            }
        }
    };
    Ok(Answer::page(show::text(&user, "name").to_owned(), body).because(error))
}

async fn changed(visit: &Visit<'_>, operation: &str, given: Given) -> Result<Answer> {
    match visit.call(operation, given.path("user_id", visit.name())).await {
        Ok(_) => Ok(Answer::see(path(&["people", visit.name()]))),
        Err(error) if is_for_form(&error) => one(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn change_role(visit: &Visit<'_>) -> Result<Answer> {
    changed(visit, "modify-user", Given::default().body("role", visit.form.text("role"))).await
}

pub(crate) async fn freeze(visit: &Visit<'_>) -> Result<Answer> {
    changed(visit, "freeze-user", Given::default()).await
}

pub(crate) async fn unfreeze(visit: &Visit<'_>) -> Result<Answer> {
    changed(visit, "unfreeze-user", Given::default()).await
}

fn removal(user: &Value) -> Question<'_> {
    Question {
        title: format!("Remove {}", show::text(user, "email")),
        told: plain(
            "All their keys in the organization, admin keys too, are refused from the next request on, for good.",
        ),
        name: Some(show::text(user, "email")),
        button: "Remove them",
        back: path(&["people", show::text(user, "id")]),
    }
}

pub(crate) async fn ask_remove(visit: &Visit<'_>) -> Result<Answer> {
    let (_, user) = named(visit).await?;
    Ok(removal(&user).ask(visit, None))
}

pub(crate) async fn remove(visit: &Visit<'_>) -> Result<Answer> {
    let (given, user) = named(visit).await?;
    let question = removal(&user);
    if let Err(error) = question.is_confirmed(visit) {
        return Ok(question.ask(visit, Some(&error)));
    }
    let ended = match visit.call("delete-user", given).await {
        Ok(ended) => ended,
        Err(error) if is_for_form(&error) => return Ok(question.ask(visit, Some(&error))),
        Err(error) => return Err(error),
    };
    let list = |called: &str, name: &str| {
        let ids = show::texts(&ended[name]);
        html! { @if !ids.is_empty() { h2 { (called) } ul { @for id in ids { li { (show::id(id)) } } } } }
    };
    let body = html! {
        p { strong { (show::text(&user, "email")) } " is no member any more." }
        (list("Keys that ended", "revoked_api_key_ids"))
        (list("Keys of others that they made, and so have seen", "made_api_key_ids"))
        p { a href="/people" { "People" } }
    };
    Ok(Answer::page("Removed", body))
}
