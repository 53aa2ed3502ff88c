//! What the palette finds beside the pages: projects, keys and people by their names.

use maud::html;
use tollgate_admin::Given;
use tollgate_core::Result;

use crate::answer::Answer;
use crate::show;
use crate::visit::{Visit, path};

const EACH_MAX: &str = "5";

pub(crate) async fn find(visit: &Visit<'_>) -> Result<Answer> {
    let Some(text) = visit.query.typed("q") else { return Ok(Answer::Fragment(html! {})) };
    let named = || Given::default().query("name", text).query("limit", EACH_MAX);
    let (projects, keys, people) = futures_util::future::try_join3(
        visit.if_allowed("list-projects", named()),
        visit.if_allowed("list-organization-api-keys", named()),
        visit.if_allowed("list-users", named()),
    )
    .await?;
    Ok(Answer::Fragment(html! {
        @for project in projects.iter().flat_map(show::items) {
            li role="option" id=(format!("place-{}", show::text(project, "id"))) data-path=(path(&["projects", show::text(project, "id")])) {
                (show::text(project, "name")) span.hint { "project" }
            }
        }
        @for key in keys.iter().flat_map(show::items) {
            li role="option" id=(format!("place-{}", show::text(key, "id")))
                data-path=(path(&["projects", show::text(key, "project_id"), "keys", show::text(key, "id")])) {
                (show::text(key, "name")) span.hint { "key of " (show::text(key, "project_name")) }
            }
        }
        @for person in people.iter().flat_map(show::items) {
            li role="option" id=(format!("place-{}", show::text(person, "id"))) data-path=(path(&["people", show::text(person, "id")])) {
                (show::text(person, "email")) span.hint { "person" }
            }
        }
    }))
}
