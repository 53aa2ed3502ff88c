//! Admin keys: they open the administration, and no model. Kept apart, for they are dangerous.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::{Error, Permission, Result};

use super::me::{previous, revocation, rotation};
use super::{EXPIRIES, new_key, plain, table};
use crate::answer::Answer;
use crate::fields::Fields;
use crate::layout::{pager, token};
use crate::show;
use crate::visit::{Visit, is_for_form, path};

pub(crate) async fn list(visit: &Visit<'_>) -> Result<Answer> {
    let answer = visit.call("admin-api-keys-list", visit.page_of(50)).await?;
    let now = visit.now();
    let may_write = visit.may(Permission::AdminApiKeysWrite);
    let rows: Vec<Markup> = show::items(&answer)
        .iter()
        .map(|key| {
            let id = show::text(key, "id");
            html! {
                tr.made[id == visit.query.text("made")] id=(id) {
                    th scope="row" { (show::text(key, "name")) @if show::number(key, "frozen_at").is_some() { " " span.badge.warn { "frozen" } } }
                    td { code { (show::text(key, "redacted_value")) } (previous(visit, key, &path(&["admin-keys", id, "end-previous"]))) }
                    td { (show::text(&key["owner"], "name")) }
                    td { (scopes(key)) @if key["project_ids"].is_array() { " in " (show::texts(&key["project_ids"]).len()) " projects" } }
                    td { (show::ago(show::number(key, "last_used_at"), now)) }
                    td { (show::expiry(show::number(key, "expires_at"), now)) }
                    td { @if may_write {
                        a href=(path(&["admin-keys", id, "rotate"])) { "Rotate" } " "
                        a.bad href=(path(&["admin-keys", id, "revoke"])) { "Revoke" }
                    } }
                }
            }
        })
        .collect();
    let body = html! {
        p.danger-note { "An admin key can do what its owner may in the whole organization. Give it scopes, and an end." }
        @if may_write { p { a.button.primary href="/admin-keys/new" data-create { "Create an admin key" } } }
        (table("Admin keys", &["Name", "Key", "Owner", "Scopes", "Last used", "Expires", ""], &rows, &plain("There is none.")))
        (pager(visit, &answer))
    };
    Ok(Answer::page("Admin keys", body))
}

fn scopes(key: &Value) -> String {
    match show::texts(&key["scopes"]).as_slice() {
        [] => "all".to_owned(),
        scopes => scopes.join(", "),
    }
}

pub(crate) async fn new(visit: &Visit<'_>) -> Result<Answer> {
    visit.needs(Permission::AdminApiKeysWrite)?;
    form(visit, None).await
}

async fn form(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let permissions = visit.call("list-permissions", Given::default()).await?;
    let scopes: Vec<(&str, &str)> = show::items(&permissions)
        .iter()
        .filter(|permission| show::flag(permission, "admin_keys"))
        .map(|permission| (show::text(permission, "id"), show::text(permission, "id")))
        .collect();
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        form method="post" action="/admin-keys/new" {
            (token(visit)) (fields.alert())
            (fields.required("name", "Name", "Such as the program that uses it.", ""))
            (fields.choice("expires", "Expires in", "", &EXPIRIES, "7776000"))
            (fields.several("scopes", "Scopes", "None is all that you may.", &scopes, &["api.management.read"]))
            (fields.area("project_ids", "Only in these projects", "Their ids, with spaces between them; empty for all.", ""))
            div.buttons { button.primary { "Create the admin key" } a.button href="/admin-keys" { "Cancel" } }
        }
    };
    Ok(Answer::page("Create an admin key", body).because(error))
}

pub(crate) async fn create(visit: &Visit<'_>) -> Result<Answer> {
    let made = async {
        let scopes: Vec<&str> = visit.form.all("scopes").collect();
        let mut given = Given::default().body("name", visit.form.text("name")).body("scopes", scopes);
        if visit.form.text("expires") != "never" {
            given = given.body("expires_in_seconds", visit.form.number("expires")?);
        }
        let projects: Vec<&str> = visit.form.text("project_ids").split_whitespace().collect();
        if !projects.is_empty() {
            given = given.body("project_ids", projects);
        }
        visit.call("admin-api-keys-create", given).await
    };
    match made.await {
        Ok(key) => Ok(new_key::secret(visit, "The new admin key", &key, "/admin-keys", true)),
        Err(error) if is_for_form(&error) => form(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

async fn named(visit: &Visit<'_>) -> Result<Value> {
    visit.call("admin-api-keys-get", Given::default().path("key_id", visit.name())).await
}

pub(crate) async fn ask_rotate(visit: &Visit<'_>) -> Result<Answer> {
    Ok(rotation(visit, &named(visit).await?, "/admin-keys", None))
}

pub(crate) async fn rotate(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default().path("key_id", visit.name());
    let given = given.body("grace_seconds", visit.form.number("grace_seconds")?);
    match visit.call("admin-api-keys-rotate", given).await {
        Ok(key) => Ok(new_key::secret(visit, "The new secret", &key, "/admin-keys", true)),
        Err(error) if is_for_form(&error) => {
            Ok(rotation(visit, &named(visit).await?, "/admin-keys", Some(&error)))
        }
        Err(error) => Err(error),
    }
}

pub(crate) async fn end_previous(visit: &Visit<'_>) -> Result<Answer> {
    let given = Given::default().path("key_id", visit.name());
    visit.call("admin-api-keys-delete-previous-secret", given).await?;
    Ok(Answer::see("/admin-keys"))
}

pub(crate) async fn ask_revoke(visit: &Visit<'_>) -> Result<Answer> {
    Ok(revocation(visit, &named(visit).await?, "/admin-keys").ask(visit, None))
}

pub(crate) async fn revoke(visit: &Visit<'_>) -> Result<Answer> {
    let key = named(visit).await?;
    let question = revocation(visit, &key, "/admin-keys");
    if let Err(error) = question.is_confirmed(visit) {
        return Ok(question.ask(visit, Some(&error)));
    }
    visit.call("admin-api-keys-delete", Given::default().path("key_id", visit.name())).await?;
    Ok(Answer::see("/admin-keys"))
}
