//! What is somebody's own: their keys and what these spend, their projects, their password and sessions.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::secret::Secret;
use tollgate_core::{Error, Result, SessionId};

use super::{EXPIRIES, GRACES, PERMISSIONS, new_key, plain, read_scopes, table};
use crate::answer::Answer;
use crate::fields::Fields;
use crate::layout::{Question, action, pager, token};
use crate::show;
use crate::visit::{Visit, is_for_form, path};

pub(crate) async fn show(visit: &Visit<'_>) -> Result<Answer> {
    let keys = visit.call("list-own-api-keys", visit.page_of(25)).await?;
    let projects = visit.call("list-own-projects", Given::default()).await?;
    let session = visit.session()?;
    let made = visit.query.text("made");
    let rows: Vec<Markup> = show::items(&keys).iter().map(|key| row(visit, key, made)).collect();
    let sessions = visit.admin.sessions_of(session.user).await?;
    let body = html! {
        p { (session.name) " · " (session.email) " · " (session.organization_name) }
        section aria-labelledby="own-keys" {
            div.bar-of-actions {
                h2 id="own-keys" { "Your keys" }
                a.button.primary href="/me/keys/new" data-create { "Create a key" }
            }
            (table("Your keys", &["Name", "Key", "Project", "Spent this month", "Last used", "Expires", ""], &rows, &html! {
                p { "You have no key yet. A key lets a program call models as you, and what it spends is counted as yours." }
            }))
            (pager(visit, &keys))
        }
        section aria-labelledby="own-projects" {
            h2 id="own-projects" { "Your projects" }
            (own_projects(show::items(&projects)))
        }
        section aria-labelledby="own-sessions" {
            h2 id="own-sessions" { "Where you are signed in" }
            (table("Sessions", &["Since", "Last seen", "From", "By", ""], &sessions.iter().map(|one| html! {
                tr {
                    td { (show::time(Some(one.created_at.0))) }
                    td { (show::ago(Some(one.last_seen_at.0), visit.now())) }
                    td { (one.ip_address.as_deref().unwrap_or("")) " " span.hint { (one.user_agent.as_deref().unwrap_or("")) } }
                    td { (one.method) }
                    td {
                        @if one.id == session.id { "this one" }
                        @else { (action(visit, &path(&["me", "sessions", &one.id.to_string(), "end"]), "End", "")) }
                    }
                }
            }).collect::<Vec<_>>(), &plain("")))
            p {
                a href="/me/password" { "Change your password" }
                @if let Some(provider) = visit.admin.identity_provider() {
                    " · " a href="/oidc?next=/me" { "Sign in by " (provider) " from now on" }
                }
            }
        }
    };
    Ok(Answer::page("You and your keys", body))
}

fn own_projects(projects: &[Value]) -> Markup {
    html! {
        @if projects.is_empty() { p { "You are in no project by yourself or by a group." } }
        @else {
            ul { @for project in projects {
                li { a href=(path(&["projects", show::text(project, "id")])) { (show::text(project, "name")) } }
            } }
        }
    }
}

fn row(visit: &Visit<'_>, key: &Value, made: &str) -> Markup {
    let id = show::text(key, "id");
    html! {
        tr.made[id == made] id=(id) {
            th scope="row" { (show::text(key, "name")) (states(key)) }
            td { code { (show::text(key, "redacted_value")) } (previous(visit, key, &path(&["me", "keys", id, "end-previous"]))) }
            td { (show::text(key, "project_name")) }
            td { (show::amount(show::money(&key["spent"]))) }
            td { (show::ago(show::number(key, "last_used_at"), visit.now())) }
            td { (show::expiry(show::number(key, "expires_at"), visit.now())) }
            td {
                a href=(path(&["me", "keys", id, "rotate"])) { "Rotate" } " "
                a.bad href=(path(&["me", "keys", id, "revoke"])) { "Revoke" }
            }
        }
    }
}

fn states(key: &Value) -> Markup {
    html! {
        @if show::number(key, "frozen_at").is_some() { " " span.badge.warn { "frozen" } }
        @if !show::flag(key, "is_active") { " " span.badge.warn { "no access" } }
    }
}

/// The secret before, while it goes on, and a button that ends it.
pub(crate) fn previous(visit: &Visit<'_>, key: &Value, end: &str) -> Markup {
    let previous = &key["previous_secret"];
    html! {
        @if previous.is_object() {
            p.hint {
                "Before: " code { (show::text(previous, "redacted_value")) } ", last used "
                (show::ago(show::number(previous, "last_used_at"), visit.now())) ", ends "
                (show::expiry(show::number(previous, "expires_at"), visit.now())) " "
                (action(visit, end, "End it now", ""))
            }
        }
    }
}

pub(crate) async fn new_key(visit: &Visit<'_>) -> Result<Answer> {
    new_key_form(visit, None).await
}

async fn new_key_form(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let projects = visit.call("list-own-projects", Given::default()).await?;
    let mut options: Vec<(&str, &str)> = show::items(&projects)
        .iter()
        .filter(|project| show::texts(&project["permissions"]).contains(&"api.model.request"))
        .map(|project| (show::text(project, "id"), show::text(project, "name")))
        .collect();
    // An owner of the organization may use all of them.
    let all = match visit.if_allowed("list-projects", Given::default().query("limit", "100")).await? {
        Some(all) => all,
        None => Value::Null,
    };
    for project in show::items(&all) {
        let one = (show::text(project, "id"), show::text(project, "name"));
        if !options.contains(&one) {
            options.push(one);
        }
    }
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        @if options.is_empty() { p { "You are in no project whose models you may use. Ask its owner." } }
        @else {
            form method="post" action="/me/keys/new" {
                (token(visit))
                (fields.alert())
                (fields.required("name", "Name", "What or who uses it, such as laptop.", ""))
                (fields.choice("project_id", "Project", "It pays for what the key spends.", &options, visit.query.text("project")))
                (fields.choice("permissions", "Permissions", "", &PERMISSIONS, "all"))
                (fields.choice("expires", "Expires in", "", &EXPIRIES, "7776000"))
                div.buttons { button.primary { "Create the key" } a.button href="/me" { "Cancel" } }
            }
        }
    };
    Ok(Answer::page("Create a key of yours", body).because(error))
}

pub(crate) async fn create_key(visit: &Visit<'_>) -> Result<Answer> {
    let made = async {
        let mut given = Given::default()
            .body("project_id", visit.form.text("project_id"))
            .body("name", visit.form.text("name"))
            .body("scopes", read_scopes(visit.form.text("permissions"), false));
        if visit.form.text("expires") != "never" {
            given = given.body("expires_in_seconds", visit.form.number("expires")?);
        }
        visit.call("create-own-api-key", given).await
    };
    match made.await {
        Ok(key) => Ok(new_key::secret(visit, "Your new key", &key, "/me", false)),
        Err(error) if is_for_form(&error) => new_key_form(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

async fn own_key(visit: &Visit<'_>) -> Result<Value> {
    visit.call("retrieve-own-api-key", Given::default().path("api_key_id", visit.name())).await
}

pub(crate) async fn ask_rotate(visit: &Visit<'_>) -> Result<Answer> {
    let key = own_key(visit).await?;
    Ok(rotation(visit, &key, "/me", None))
}

/// The page that asks how long the secret before is to go on.
pub(crate) fn rotation(visit: &Visit<'_>, key: &Value, back: &str, error: Option<&Error>) -> Answer {
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        p {
            "The key stays: its id, permissions, limits, spend and usage. It gets another secret. Last used "
            (show::ago(show::number(key, "last_used_at"), visit.now())) "."
        }
        @if key["previous_secret"].is_object() {
            p.warn { "A secret from an earlier rotation is still in use until "
                (show::time(show::number(&key["previous_secret"], "expires_at"))) ". It ends with this one." }
        }
        form method="post" action=(visit.path) {
            (token(visit))
            (fields.alert())
            (fields.choice("grace_seconds", "How long the secret of now goes on", "", &GRACES, "86400"))
            div.buttons { button.primary { "Rotate" } a.button href=(back) { "Cancel" } }
        }
    };
    Answer::page(format!("Rotate {}", show::text(key, "name")), body).because(error)
}

pub(crate) async fn rotate(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default().path("api_key_id", visit.name());
    let grace = visit.form.number("grace_seconds")?;
    match visit.call("rotate-own-api-key", given.body("grace_seconds", grace)).await {
        Ok(key) => Ok(new_key::secret(visit, "The new secret", &key, "/me", false)),
        Err(error) if is_for_form(&error) => Ok(rotation(visit, &own_key(visit).await?, "/me", Some(&error))),
        Err(error) => Err(error),
    }
}

pub(crate) async fn end_previous(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default().path("api_key_id", visit.name());
    visit.call("delete-own-api-key-previous-secret", given).await?;
    Ok(Answer::see("/me"))
}

/// Asks again before a key ends. `back` is where it stands.
pub(super) fn revocation<'a>(visit: &Visit<'_>, key: &'a Value, back: &str) -> Question<'a> {
    Question {
        title: format!("Revoke {}", show::text(key, "name")),
        told: html! {
            p { "It is refused from the next request on, for good. Last used "
                (show::ago(show::number(key, "last_used_at"), visit.now())) "." }
        },
        name: Some(show::text(key, "name")),
        button: "Revoke the key",
        back: back.to_owned(),
    }
}

pub(crate) async fn ask_revoke(visit: &Visit<'_>) -> Result<Answer> {
    let key = own_key(visit).await?;
    Ok(revocation(visit, &key, "/me").ask(visit, None))
}

pub(crate) async fn revoke(visit: &Visit<'_>) -> Result<Answer> {
    let key = own_key(visit).await?;
    let question = revocation(visit, &key, "/me");
    if let Err(error) = question.is_confirmed(visit) {
        return Ok(question.ask(visit, Some(&error)));
    }
    visit.call("delete-own-api-key", Given::default().path("api_key_id", visit.name())).await?;
    Ok(Answer::see("/me"))
}

pub(crate) async fn show_password(visit: &Visit<'_>) -> Result<Answer> {
    Ok(password(visit, None))
}

fn password(visit: &Visit<'_>, error: Option<&Error>) -> Answer {
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        form method="post" action="/me/password" {
            (token(visit))
            (fields.alert())
            (fields.secret("current_password", "Password of now", "", "current-password"))
            (fields.secret("new_password", "New password", "12 characters or more. All your other sessions end.", "new-password"))
            div.buttons { button.primary { "Change it" } a.button href="/me" { "Cancel" } }
        }
    };
    Answer::page("Change your password", body).because(error)
}

pub(crate) async fn change_password(visit: &Visit<'_>) -> Result<Answer> {
    let secret = |name: &str| Secret::new(visit.form.get(name).unwrap_or(""));
    let (current, new) = (secret("current_password"), secret("new_password"));
    match visit.admin.change_password(visit.session()?, current, new, visit.origin.clone()).await {
        Ok(()) => Ok(Answer::see("/me")),
        Err(error) if is_for_form(&error) => Ok(password(visit, Some(&error))),
        Err(error) => Err(error),
    }
}

pub(crate) async fn end_session(visit: &Visit<'_>) -> Result<Answer> {
    let id = SessionId::parse(visit.name()).ok_or_else(|| Error::not_found("session"))?;
    visit.admin.end_session(visit.session()?, id, visit.origin.clone()).await?;
    Ok(Answer::see("/me"))
}
