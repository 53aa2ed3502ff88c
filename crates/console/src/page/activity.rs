//! Which programs use a key, and what of theirs was refused or failed.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::Result;

use super::{plain, table};
use crate::show;
use crate::visit::Visit;

/// What became of a key's requests in the last 7 days, and who sent them.
pub(crate) async fn of_key(visit: &Visit<'_>, project: &str, id: &str) -> Result<Value> {
    let given = Given::default().path("project_id", project).path("api_key_id", id);
    visit.call("retrieve-api-key-activity", given).await
}

/// Which programs use it, and what of theirs was refused or failed.
pub(crate) async fn section(visit: &Visit<'_>, project: &str, id: &str) -> Result<Markup> {
    let activity = of_key(visit, project, id).await?;
    let row = |reason: &Value, what: &str| {
        html! {
            tr {
                th scope="row" { code { (show::text(reason, "code")) } }
                td { (what) }
                td.number { (show::count(&reason["num_requests"])) }
                td { (show::ago(show::number(reason, "last_at"), visit.now())) }
            }
        }
    };
    let of = |name: &str| activity[name].as_array().cloned().unwrap_or_default();
    let mut rows: Vec<Markup> = of("refused").iter().map(|reason| row(reason, "refused")).collect();
    rows.extend(of("failed").iter().map(|reason| row(reason, "failed")));
    Ok(html! {
        section id="activity" data-live="10" {
            h2 { "Who uses it" }
            (table("Programs that use it", &["Program", "Requests", "Last"], &clients(visit, &activity), &plain("Nobody in the last 7 days.")))
            h2 { "What was refused or failed" }
            (table("What was refused or failed", &["Error", "It was", "Requests", "Last"], &rows, &plain("Nothing in the last 7 days.")))
        }
    })
}

pub(crate) fn clients(visit: &Visit<'_>, activity: &Value) -> Vec<Markup> {
    let clients = activity["clients"].as_array().into_iter().flatten();
    let row = |client: &Value| {
        html! {
            tr {
                th scope="row" {
                    @match show::text(client, "user_agent") {
                        "none" => span.none { "does not say" },
                        agent => (agent),
                    }
                }
                td.number { (show::count(&client["num_requests"])) }
                td { (show::ago(show::number(client, "last_at"), visit.now())) }
            }
        }
    };
    clients.map(row).collect()
}
