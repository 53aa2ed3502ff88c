//! Roles of the organization.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::{Error, Permission, Result};

use super::{plain, table};
use crate::answer::Answer;
use crate::fields::Fields;
use crate::layout::{Question, pager, token};
use crate::show;
use crate::visit::{Visit, is_for_form, path};

pub(crate) async fn list(visit: &Visit<'_>) -> Result<Answer> {
    let answer = visit.call("list-roles", visit.page_of(50)).await?;
    let may_write = visit.may(Permission::RolesWrite);
    let rows: Vec<Markup> = show::items(&answer)
        .iter()
        .map(|role| {
            let permissions = show::texts(&role["permissions"]);
            html! {
                tr {
                    th scope="row" { (show::text(role, "name")) br; span.hint { (role["description"].as_str().unwrap_or("")) } }
                    td { details { summary { (permissions.len()) @if permissions.len() == 1 { " permission" } @else { " permissions" } } ul { @for one in &permissions { li { code { (one) } } } } } }
                    td { @if may_write && !show::flag(role, "predefined_role") {
                        a.bad href=(path(&["roles", show::text(role, "id"), "delete"])) { "Delete" }
                    } }
                }
            }
        })
        .collect();
    let body = html! {
        @if may_write { p { a.button.primary href="/roles/new" data-create { "New role" } } }
        (table("Roles", &["Name", "Permissions", ""], &rows, &plain("There is none.")))
        (pager(visit, &answer))
    };
    Ok(Answer::page("Roles of the organization", body))
}

pub(crate) async fn new(visit: &Visit<'_>) -> Result<Answer> {
    visit.needs(Permission::RolesWrite)?;
    form(visit, None).await
}

async fn form(visit: &Visit<'_>, error: Option<&Error>) -> Result<Answer> {
    let permissions = visit.call("list-permissions", Given::default()).await?;
    let options: Vec<(&str, &str)> = show::items(&permissions)
        .iter()
        .filter(|permission| show::flag(permission, "organization_roles"))
        .map(|permission| (show::text(permission, "id"), show::text(permission, "id")))
        .collect();
    let fields = Fields::new(&visit.form, error);
    let body = html! {
        form method="post" action="/roles/new" {
            (token(visit)) (fields.alert())
            (fields.required("role_name", "Name", "", ""))
            (fields.text("description", "What it is for", "", ""))
            (fields.several("permissions", "Permissions", "You can give only what you have.", &options, &[]))
            div.buttons { button.primary { "Create the role" } a.button href="/roles" { "Cancel" } }
        }
    };
    Ok(Answer::page("New role", body).because(error))
}

pub(crate) async fn create(visit: &Visit<'_>) -> Result<Answer> {
    let permissions: Vec<&str> = visit.form.all("permissions").collect();
    let mut given =
        Given::default().body("role_name", visit.form.text("role_name")).body("permissions", permissions);
    if let Some(description) = visit.form.typed("description") {
        given = given.body("description", description);
    }
    match visit.call("create-role", given).await {
        Ok(_) => Ok(Answer::see("/roles")),
        Err(error) if is_for_form(&error) => form(visit, Some(&error)).await,
        Err(error) => Err(error),
    }
}

async fn named(visit: &Visit<'_>) -> Result<(Given, Value)> {
    let given = Given::default().path("role_id", visit.name());
    let role = visit.call("retrieve-role", given.clone()).await?;
    Ok((given, role))
}

fn deletion(role: &Value) -> Question<'_> {
    Question {
        title: format!("Delete {}", show::text(role, "name")),
        told: plain("Whoever has it loses what it allows."),
        name: Some(show::text(role, "name")),
        button: "Delete the role",
        back: "/roles".to_owned(),
    }
}

pub(crate) async fn ask_delete(visit: &Visit<'_>) -> Result<Answer> {
    let (_, role) = named(visit).await?;
    Ok(deletion(&role).ask(visit, None))
}

pub(crate) async fn delete(visit: &Visit<'_>) -> Result<Answer> {
    let (given, role) = named(visit).await?;
    let question = deletion(&role);
    if let Err(error) = question.is_confirmed(visit) {
        return Ok(question.ask(visit, Some(&error)));
    }
    match visit.call("delete-role", given).await {
        Ok(_) => Ok(Answer::see("/roles")),
        Err(error) if is_for_form(&error) => Ok(question.ask(visit, Some(&error))),
        Err(error) => Err(error),
    }
}
