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
    let activity = visit.call("retrieve-activity", Given::default()).await?;
    let since_midnight = of_month.iter().filter(|bucket| show::number(bucket, "start_time") >= Some(today.0));
    let since_midnight: Vec<Value> = since_midnight.cloned().collect();
    let (requests, clamped) = (show::count(&activity["num_requests"]), sum(&of_day, "num_clamped_requests"));
    let is_silent = activity["num_requests"].as_i64() == Some(0);
    let body = html! {
        div.tiles id="figures" data-live="5" {
            (tile("This month", &show::amount(chart::cost(&of_month))))
            (tile("Today, in UTC", &show::amount(chart::cost(&since_midnight))))
            (tile("Requests in 24 hours", &html! { (requests) }))
            (tile("Of these refused", &html! { (show::count(&activity["num_refused"])) }))
            (tile("Of these failed", &html! { (show::count(&activity["num_failed"])) }))
            @if clamped > 0 { (tile("Of these with less output than asked", &html! { (show::thousands(clamped)) })) }
            @if let Some(time) = show::number(&activity, "duration_p95_ms") {
                (tile("19 of 20 answered within", &html! { (show::duration(time)) }))
            }
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
        (attention(visit, &activity).await?)
        @if is_silent { (first_request(visit)) }
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

/// Whatever somebody who looks after it has to look at, as far as this person may see it.
async fn attention(visit: &Visit<'_>, activity: &Value) -> Result<Markup> {
    let now = visit.now();
    let mut all: Vec<Markup> = Vec::new();
    let mut more: Vec<Markup> = Vec::new();
    // What was looked at, for that alone can be said to be well.
    let mut fine = Vec::new();
    fine.extend((activity["num_refused"] == 0).then_some("no key was refused in the last 24 hours"));
    let organization = visit.if_allowed("retrieve-own-organization", Given::default()).await?;
    if organization.is_some_and(|own| show::number(&own, "frozen_at").is_some()) {
        all.push(html! { li { "The organization is frozen: every model request is refused. " a href="/settings" { "Settings" } } });
    }
    let upstreams = visit.if_allowed("list-upstreams", Given::default().query("limit", "100")).await?;
    fine.extend(upstreams.is_some().then_some("no upstream is down"));
    for upstream in upstreams.iter().flat_map(show::items).filter(|one| show::text(one, "health") == "down") {
        let id = show::text(upstream, "id");
        all.push(html! { li { "Upstream " a href=(path(&["upstreams", id])) { (show::text(upstream, "name")) } " is down" } });
    }
    let nearly = Given::default().query("limit", TOP.to_string());
    let nearly = visit.if_allowed("list-used-spend-limits", nearly).await?;
    fine.extend(nearly.is_some().then_some("no limit is nearly used up"));
    all.extend(nearly.iter().flat_map(show::items).map(nearly_used));
    let refused = activity["refused_api_keys"].as_array();
    all.extend(refused.into_iter().flatten().map(|key| {
        let requests = show::count(&key["num_refused"]);
        let times = if requests == "1" { "time" } else { "times" };
        let last = show::ago(show::number(key, "last_at"), now);
        html! { li { (to_key(visit, key, "api_key_id")) " was refused " (requests) " " (times) ", last " (last) } }
    }));
    let few = || Given::default().query("limit", TOP.to_string());
    let ending = few().query("expires_before", (now.0 + ENDS_SOON).to_string());
    if let Some(ending) = visit.if_allowed("list-organization-api-keys", ending).await? {
        fine.push("no key ends within two weeks");
        all.extend(show::items(&ending).iter().map(|key| {
            html! { li { (to_key(visit, key, "id")) " ends " (show::expiry(show::number(key, "expires_at"), now)) } }
        }));
        if ending["has_more"].as_bool() == Some(true) {
            more.push(html! { p { a href="/keys?show=ending" { "All that end soon" } } });
        }
        let unused = few().query("unused_since", (now.0 - UNUSED).to_string());
        let unused = visit.call("list-organization-api-keys", unused).await?;
        fine.push("none has rested for a quarter of a year");
        all.extend(show::items(&unused).iter().map(|key| {
            html! { li { (to_key(visit, key, "id")) " was last used " (show::ago(show::number(key, "last_used_at"), now)) } }
        }));
        if unused["has_more"].as_bool() == Some(true) {
            more.push(html! { p { a href="/keys?show=unused" { "All that rest" } } });
        }
    }
    Ok(html! {
        section aria-labelledby="attention" id="needs" data-live="10" {
            h2 id="attention" { "Needs attention" }
            @if all.is_empty() { p { "Nothing" @if !fine.is_empty() { ": " (fine.join(", ")) } "." } }
            @else { ul { @for one in &all { (one) } } }
            @for one in &more { (one) }
        }
    })
}

/// A key by its name, which leads to it where somebody may look at it.
fn to_key(visit: &Visit<'_>, key: &Value, id: &str) -> Markup {
    let (id, project) = (show::text(key, id), show::text(key, "project_id"));
    html! {
        @if visit.may_at(Permission::ProjectApiKeysRead, project) {
            a href=(path(&["projects", project, "keys", id])) { (show::text(key, "name")) }
        } @else { strong { (show::text(key, "name")) } }
    }
}

/// One limit of which much is used, and where it is changed.
fn nearly_used(limit: &Value) -> Markup {
    let (scope, id) = (show::text(limit, "scope"), show::text(limit, "scope_id"));
    let project = show::text(limit, "project_id");
    let (what, place) = match scope {
        "organization" => ("the organization ", "/limits".to_owned()),
        "project" => ("project ", path(&["projects", id, "limits"])),
        "user" => ("", path(&["people", id])),
        _ => ("key ", path(&["projects", project, "keys", id])),
    };
    let cap = Money::from_cents(show::number(limit, "threshold_amount").unwrap_or(0)).unwrap_or(Money::ZERO);
    let is_refusing = show::number(limit, "refused_at").is_some() && show::text(limit, "mode") == "enforce";
    html! {
        li {
            "The limit of " (what) a href=(place) { (show::text(limit, "scope_name")) } " by the " (show::text(limit, "interval")) ": "
            (show::count(&limit["used_percent"])) " % of " (show::amount(cap)) " used"
            @if is_refusing { ", " strong { "and requests are refused" } }
        }
    }
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
    // Of more there is no sum that is worth its time.
    let first = visit.call("list-own-api-keys", Given::default().query("limit", "100")).await?;
    let keys = show::items(&first);
    let are_all = first["has_more"].as_bool() != Some(true);
    let (spent, held): (Money, Money) = (
        keys.iter().map(|key| show::money(&key["spent"])).sum(),
        keys.iter().map(|key| show::money(&key["held"])).sum(),
    );
    let body = html! {
        div.tiles id="figures" data-live="5" {
            (tile(if are_all { "Your keys have spent this month" } else { "Your first 100 keys have spent this month" }, &show::amount(spent)))
            (tile("Held for requests under way", &show::amount(held)))
            (tile("Your keys", &html! { (keys.len()) @if !are_all { " and more" } }))
            p.asof { "As of " (show::time(Some(visit.now().0))) }
        }
        p { a.button.primary href="/me/keys/new" data-create { "Create a key" } " " a.button href="/me" { "Your keys" } }
        @if keys.is_empty() { (new_key::snippets(visit, "", false)) }
    };
    Ok(Answer::page("Overview", body))
}
