//! What there is to know at a glance: what is spent, what is under way, what needs somebody.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::{Money, Period, Permission, Result, Timestamp};

use super::new_key;
use crate::answer::Answer;
use crate::chart;
use crate::show;
use crate::visit::{Visit, path};

const DAY: i64 = 86_400;
/// Keys that end within two weeks, and those unused for a quarter of a year, need somebody.
const ENDS_SOON: i64 = 14 * DAY;
const UNUSED: i64 = 90 * DAY;
const TOP: usize = 5;

pub(crate) async fn show(visit: &Visit<'_>) -> Result<Answer> {
    if !visit.may(Permission::UsageRead) {
        return own(visit).await;
    }
    let now = visit.now();
    let month = Period::month_of(now);
    let today = now.floor_to(DAY);
    let of_month = usage(visit, month.start, "1d", None).await?;
    let of_day = usage(visit, Timestamp(now.floor_to(3_600).0 - 23 * 3_600), "1h", None).await?;
    let limits = visit.if_allowed("list-organization-spend-limits", Given::default()).await?;
    let since_midnight = of_month.iter().filter(|bucket| show::number(bucket, "start_time") >= Some(today.0));
    let since_midnight: Vec<Value> = since_midnight.cloned().collect();
    let (requests, clamped) = (sum(&of_day, "num_requests"), sum(&of_day, "num_clamped_requests"));
    let body = html! {
        div.tiles id="figures" data-live="5" {
            (tile("This month", &show::amount(chart::cost(&of_month))))
            (tile("Today, in UTC", &show::amount(chart::cost(&since_midnight))))
            (tile("Requests in 24 hours", &html! { (show::thousands(requests)) }))
            (tile("Of these with less output than asked", &html! { (show::thousands(clamped)) }))
            p.asof { "As of " (show::time(Some(now.0))) }
        }
        @if let Some(limits) = &limits {
            section aria-labelledby="budget" id="budgets" data-live="5" {
                h2 id="budget" { "Limits of the organization" }
                @for limit in show::items(limits) { (chart::budget(limit, now)) }
                @if show::items(limits).is_empty() {
                    p { "There is none: nothing stops what all projects spend together. " a href="/limits" { "Set one" } }
                }
            }
        }
        (days(&of_month))
        div.columns {
            (top(visit, "Projects that spend most", "project", month.start).await?)
            (top(visit, "Keys that spend most", "api_key", month.start).await?)
        }
        (attention(visit).await?)
        @if requests == 0 { (first_request(visit)) }
    };
    Ok(Answer::page("Overview", body))
}

fn tile(called: &str, value: &Markup) -> Markup {
    html! { div.tile { p.hint { (called) } p.figure { (value) } } }
}

/// The buckets of what was used since a time.
async fn usage(visit: &Visit<'_>, since: Timestamp, width: &str, by: Option<&str>) -> Result<Vec<Value>> {
    let mut given = Given::default()
        .query("start_time", since.0.to_string())
        .query("bucket_width", width)
        .query("limit", "31");
    if let Some(by) = by {
        given = given.query("group_by", by);
    }
    let answer = visit.call("usage-all", given).await?;
    Ok(answer["data"].as_array().cloned().unwrap_or_default())
}

fn results(bucket: &Value) -> &[Value] {
    bucket["results"].as_array().map_or(&[], Vec::as_slice)
}

fn sum(buckets: &[Value], name: &str) -> u64 {
    buckets.iter().flat_map(results).filter_map(|result| result[name].as_u64()).sum()
}

fn days(buckets: &[Value]) -> Markup {
    html! {
        section aria-labelledby="days" {
            div.bar-of-actions { h2 id="days" { "Spent by day" } span { a href="/usage/export?range=month&format=csv" { "CSV" } " " a href="/usage?range=month" { "More" } } }
            (chart::days("What was spent on each day of this month", buckets))
        }
    }
}

async fn top(visit: &Visit<'_>, called: &str, what: &str, since: Timestamp) -> Result<Markup> {
    let buckets = usage(visit, since, "1d", Some(&format!("{what}_id"))).await?;
    let mut sums: Vec<(String, String, Money)> = Vec::new();
    for result in buckets.iter().flat_map(results) {
        let id = show::text(result, &format!("{what}_id")).to_owned();
        let cost = show::money(&result["cost"]);
        match sums.iter_mut().find(|(known, ..)| *known == id) {
            Some((.., sum)) => *sum += cost,
            None => sums.push((id, show::text(result, &format!("{what}_name")).to_owned(), cost)),
        }
    }
    sums.sort_by_key(|(.., cost)| std::cmp::Reverse(*cost));
    let query = |id: &str| format!("/usage?{what}_ids={id}");
    Ok(html! {
        section {
            h2 { (called) }
            @if sums.is_empty() { p.hint { "Nothing was spent this month." } }
            @else {
                ol.top {
                    @for (id, name, cost) in sums.iter().take(TOP) {
                        li {
                            a href=(if what == "project" { path(&["projects", id]) } else { query(id) }) { (name) }
                            " " (show::amount(*cost))
                        }
                    }
                }
            }
        }
    })
}

/// Keys that end soon or rest, for whoever looks after them.
async fn attention(visit: &Visit<'_>) -> Result<Markup> {
    let now = visit.now();
    let few = || Given::default().query("limit", TOP.to_string());
    let ending = few().query("expires_before", (now.0 + ENDS_SOON).to_string());
    let Some(ending) = visit.if_allowed("list-organization-api-keys", ending).await? else {
        return Ok(html! {});
    };
    let unused = few().query("unused_since", (now.0 - UNUSED).to_string());
    let unused = visit.call("list-organization-api-keys", unused).await?;
    let key = |key: &Value, told: Markup| {
        let (id, project) = (show::text(key, "id"), show::text(key, "project_id"));
        html! { li { a href=(path(&["projects", project, "keys", id])) { (show::text(key, "name")) } " " (told) } }
    };
    Ok(html! {
        section aria-labelledby="attention" {
            h2 id="attention" { "Needs attention" }
            @if show::items(&ending).is_empty() && show::items(&unused).is_empty() {
                p { "No key ends within two weeks, and none has rested for a quarter of a year." }
            }
            ul {
                @for one in show::items(&ending) {
                    (key(one, html! { "ends " (show::expiry(show::number(one, "expires_at"), now)) }))
                }
                @for one in show::items(&unused) {
                    (key(one, html! { "last used " (show::ago(show::number(one, "last_used_at"), now)) }))
                }
            }
            @if ending["has_more"].as_bool() == Some(true) { p { a href="/keys?show=ending" { "All that end soon" } } }
            @if unused["has_more"].as_bool() == Some(true) { p { a href="/keys?show=unused" { "All that rest" } } }
        }
    })
}

fn first_request(visit: &Visit<'_>) -> Markup {
    html! {
        section aria-labelledby="first" {
            h2 id="first" { "Send a request" }
            p { "No request in the last 24 hours. " a href="/me/keys/new" { "Create a key" } ", put it where it says so, and send one:" }
            (new_key::snippets(visit, "", false))
        }
    }
}

/// Of somebody who sees only what is their own.
async fn own(visit: &Visit<'_>) -> Result<Answer> {
    let keys = visit.all("list-own-api-keys", Given::default()).await?;
    let (spent, held): (Money, Money) = (
        keys.iter().map(|key| show::money(&key["spent"])).sum(),
        keys.iter().map(|key| show::money(&key["held"])).sum(),
    );
    let body = html! {
        div.tiles id="figures" data-live="5" {
            (tile("Your keys have spent this month", &show::amount(spent)))
            (tile("Held for requests under way", &show::amount(held)))
            (tile("Your keys", &html! { (keys.len()) }))
            p.asof { "As of " (show::time(Some(visit.now().0))) }
        }
        p { a.button.primary href="/me/keys/new" data-create { "Create a key" } " " a.button href="/me" { "Your keys" } }
        @if keys.is_empty() { (new_key::snippets(visit, "", false)) }
    };
    Ok(Answer::page("Overview", body))
}
