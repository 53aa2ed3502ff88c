//! What was used and spent: a chart, the table it is drawn from, and just these figures as a file.

use std::fmt::Write as _;

use maud::{Markup, html};
use serde_json::{Value, json};
use tollgate_admin::Given;
use tollgate_core::{Error, Money, Period, Result, Timestamp};

use super::found::{ids_of, typed};
use super::{plain, table};
use crate::answer::Answer;
use crate::chart::{self, Bar};
use crate::show;
use crate::visit::Visit;

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
const DAYS_MAX: i64 = 400;
/// More rows are for the file.
const ROWS_MAX: usize = 100;

const WHAT: [(&str, &str); 3] = [("spend", "Spend"), ("tokens", "Tokens"), ("requests", "Requests")];
const BY: [(&str, &str); 7] = [
    ("project", "Project"),
    ("api_key", "Key"),
    ("user", "Owner"),
    ("model", "Model"),
    ("upstream", "Upstream"),
    ("service_tier", "Service tier"),
    ("endpoint", "Endpoint"),
];
const RANGES: [(&str, &str); 4] =
    [("24h", "24 hours"), ("7d", "7 days"), ("30d", "30 days"), ("month", "This month, in UTC")];
/// What it can be narrowed to, and the list in which names are looked up.
const FILTERS: [(&str, &str, Option<&str>); 4] = [
    ("project_ids", "Project", Some("list-projects")),
    ("api_key_ids", "Key", Some("list-organization-api-keys")),
    ("user_ids", "Owner", Some("list-users")),
    ("models", "Model", None),
];

/// What one thing that is grouped by has used.
pub(crate) struct Total {
    id: String,
    pub(crate) called: String,
    requests: i64,
    input: i64,
    cached: i64,
    output: i64,
    cost: Money,
}

pub(crate) const TOTAL_HEADINGS: [&str; 6] =
    ["", "Requests", "Input tokens", "Of these cached", "Output tokens", "Spent"];

impl Total {
    pub(crate) fn row(&self) -> Markup {
        let count = |count: i64| show::thousands(u64::try_from(count).unwrap_or(0));
        html! {
            tr {
                th scope="row" { (self.called) @if self.called != self.id && !self.id.is_empty() { br; (show::id(&self.id)) } }
                td.number { (count(self.requests)) }
                td.number { (count(self.input)) }
                td.number { (count(self.cached)) }
                td.number { (count(self.output)) }
                td.number { (show::amount(self.cost)) }
            }
        }
    }

    fn cells(&self) -> [String; 7] {
        [
            self.id.clone(),
            self.called.clone(),
            self.requests.to_string(),
            self.input.to_string(),
            self.cached.to_string(),
            self.output.to_string(),
            self.cost.to_string(),
        ]
    }

    fn height(&self, what: &str) -> i64 {
        match what {
            "tokens" => self.input + self.output,
            "requests" => self.requests,
            _ => self.cost.nanos(),
        }
    }
}

fn results(bucket: &Value) -> &[Value] {
    bucket["results"].as_array().map_or(&[], Vec::as_slice)
}

/// All of a time by what it was grouped by, the most expensive first.
pub(crate) fn totals(answer: &Value, by: &str) -> Vec<Total> {
    let mut totals: Vec<Total> = Vec::new();
    let mut places = std::collections::HashMap::new();
    let field = |by: &str| match by {
        "project" | "api_key" | "user" | "upstream" => format!("{by}_id"),
        _ => by.to_owned(),
    };
    for result in show::items(answer).iter().flat_map(results) {
        let id = result[field(by)].as_str().unwrap_or("").to_owned();
        let called = result[format!("{by}_name")].as_str().unwrap_or(&id).to_owned();
        let called = if called.is_empty() { "–".to_owned() } else { called };
        let place = *places.entry(id.clone()).or_insert_with(|| {
            totals.push(Total { id, called, requests: 0, input: 0, cached: 0, output: 0, cost: Money::ZERO });
            totals.len() - 1
        });
        let total = &mut totals[place];
        let count = |name: &str| show::number(result, name).unwrap_or(0);
        total.requests += count("num_requests");
        total.input += count("input_tokens");
        total.cached += count("cached_input_tokens");
        total.output += count("output_tokens");
        total.cost += show::money(&result["cost"]);
    }
    totals.sort_by_key(|total| std::cmp::Reverse((total.cost, total.requests)));
    totals
}

/// What the page is asked for.
struct Asked<'a> {
    what: &'a str,
    by: &'a str,
    range: &'a str,
    since: Timestamp,
    until: Timestamp,
    width: &'static str,
    filters: Vec<(&'static str, String)>,
}

/// What it is narrowed to. Names become ids.
async fn filters(visit: &Visit<'_>) -> Result<Vec<(&'static str, String)>> {
    let mut filters = Vec::new();
    for (name, _, list) in FILTERS {
        for text in typed(visit, name)? {
            let meant = match list {
                Some(list) => ids_of(visit, name, list, text).await?,
                None => vec![text.to_owned()],
            };
            filters.extend(meant.into_iter().map(|value| (name, value)));
        }
    }
    Ok(filters)
}

impl<'a> Asked<'a> {
    async fn read(visit: &'a Visit<'_>) -> Result<Self> {
        let now = visit.now();
        let one_of = |name: &str, known: &[(&'static str, &str)], usual: &'static str| {
            let asked = visit.query.typed(name);
            known.iter().find(|(value, _)| Some(*value) == asked).map_or(usual, |(value, _)| *value)
        };
        let (what, by) = (one_of("what", &WHAT, "spend"), one_of("by", &BY, "project"));
        let day = |name: &'static str| {
            let read = |text: &str| {
                let wrong = || Error::invalid(name, format!("'{text}' is not a day, such as 2026-11-26."));
                Timestamp::of_day(text).ok_or_else(wrong)
            };
            visit.query.typed(name).map(read).transpose()
        };
        let filters = filters(visit).await?;
        let midnight = now.floor_to(DAY).0 + DAY;
        if let Some(since) = day("since")? {
            let until = day("until")?.map_or(midnight, |until| until.0 + DAY);
            if until <= since.0 {
                return Err(Error::invalid("until", "It ends before it begins."));
            }
            if until - since.0 > DAYS_MAX * DAY {
                return Err(Error::invalid(
                    "since",
                    format!("At most {DAYS_MAX} days can be shown at once."),
                ));
            }
            return Ok(Self {
                what,
                by,
                range: "custom",
                since,
                until: Timestamp(until),
                width: "1d",
                filters,
            });
        }
        let range = one_of("range", &RANGES, "30d");
        let (since, width) = match range {
            "24h" => (now.floor_to(HOUR).0 - 23 * HOUR, "1h"),
            "7d" => (midnight - 7 * DAY, "1d"),
            "month" => (Period::month_of(now).start.0, "1d"),
            _ => (midnight - 30 * DAY, "1d"),
        };
        let until = if width == "1h" { now.floor_to(HOUR).0 + HOUR } else { midnight };
        Ok(Self { what, by, range, since: Timestamp(since), until: Timestamp(until), width, filters })
    }

    /// All of it, page by page.
    async fn ask(&self, visit: &Visit<'_>, by: Option<&str>) -> Result<Value> {
        let mut given = Given::default()
            .query("start_time", self.since.0.to_string())
            .query("end_time", self.until.0.to_string())
            .query("bucket_width", self.width)
            .query("limit", if self.width == "1h" { "168" } else { "31" });
        if let Some(by) = by {
            let by = if ["project", "api_key", "user", "upstream"].contains(&by) {
                format!("{by}_id")
            } else {
                by.to_owned()
            };
            given = given.query("group_by", by);
        }
        for (name, value) in &self.filters {
            given = given.query(name, value.as_str());
        }
        let mut buckets = Vec::new();
        let mut page: Option<String> = None;
        loop {
            let asked = match &page {
                Some(page) => given.clone().query("page", page.clone()),
                None => given.clone(),
            };
            let answer = visit.call("usage-all", asked).await?;
            buckets.extend(show::items(&answer).iter().cloned());
            page = answer["next_page"].as_str().map(str::to_owned);
            if page.is_none() {
                return Ok(json!({ "data": buckets }));
            }
        }
    }
}

pub(crate) async fn show(visit: &Visit<'_>) -> Result<Answer> {
    let asked = match Asked::read(visit).await {
        Ok(asked) => asked,
        Err(error) => {
            return Ok(
                Answer::page("Usage and costs", controls(visit, None, Some(&error))).because(Some(&error))
            );
        }
    };
    let by_time = asked.ask(visit, None).await?;
    let grouped = asked.ask(visit, Some(asked.by)).await?;
    let totals = totals(&grouped, asked.by);
    let whole: Money = totals.iter().map(|total| total.cost).sum();
    let bars = bars(&asked, &by_time);
    let called = BY.iter().find(|(value, _)| *value == asked.by).map_or("", |(_, called)| *called);
    let rows: Vec<Markup> = totals.iter().take(ROWS_MAX).map(Total::row).collect();
    let mut headings = TOTAL_HEADINGS;
    headings[0] = called;
    let time_rows: Vec<Markup> = bars
        .iter()
        .map(|bar| html! { tr { th scope="row" { (bar.of) } td.number { (bar.told) } } })
        .collect();
    let what = WHAT.iter().find(|(value, _)| *value == asked.what).map_or("", |(_, called)| *called);
    let export = |format: &str| format!("/usage/export?{}", visit.query.with("format", Some(format)));
    let body = html! {
        (controls(visit, Some(&asked), None))
        section id="figures" data-live="15" {
            p.figure { (show::amount(whole)) " " span.hint { "spent" } }
            (chart::bars(&format!("{what} over time"), &bars))
            details { summary { "Over time, as a table" } (table("Over time", &["When", what], &time_rows, &plain("Nothing."))) }
            (table(&format!("By {called}"), &headings, &rows, &plain("Nothing was used in this time.")))
            @if totals.len() > ROWS_MAX { p.hint { "The " (ROWS_MAX) " that spent most, of " (totals.len()) ". All are in the file." } }
            p.asof { "As of " (show::time(Some(visit.now().0))) ", from " (show::time(Some(asked.since.0))) " to " (show::time(Some(asked.until.0))) }
        }
        p { "This table as a file: " a href=(export("csv")) { "CSV" } " " a href=(export("json")) { "JSON" } }
    };
    Ok(Answer::page("Usage and costs", body))
}

fn bars(asked: &Asked<'_>, by_time: &Value) -> Vec<Bar> {
    let bar = |bucket: &Value| {
        let start = show::number(bucket, "start_time").unwrap_or(0);
        let of = Timestamp(start).to_string();
        let of =
            if asked.width == "1h" { of.get(..16).unwrap_or("").replace('T', " ") } else { show::day(start) };
        let one = totals(&json!({ "data": [bucket] }), "model");
        let height: i64 = one.iter().map(|total| total.height(asked.what)).sum();
        let cost: Money = one.iter().map(|total| total.cost).sum();
        let told = match asked.what {
            "spend" => show::dollars(cost),
            _ => show::thousands(u64::try_from(height).unwrap_or(0)),
        };
        Bar { of, height, told }
    };
    show::items(by_time).iter().map(bar).collect()
}

fn controls(visit: &Visit<'_>, asked: Option<&Asked<'_>>, error: Option<&Error>) -> Markup {
    let chosen = |name: &str, value: &str| match asked {
        Some(asked) => match name {
            "what" => asked.what == value,
            "by" => asked.by == value,
            _ => asked.range == value,
        },
        None => visit.query.text(name) == value,
    };
    let select = |name: &str, label: &str, options: &[(&str, &str)]| {
        html! {
            label { (label) " " select name=(name) {
                @for (value, called) in options { option value=(value) selected[chosen(name, value)] { (called) } }
            } }
        }
    };
    html! {
        p.hint { "Projects, keys and people by their names or a part of these, or by their ids; service accounts by their ids." }
        @if let Some(error) = error { div.alert role="alert" { (error.message) } }
        form.controls method="get" action="/usage" {
            (select("what", "Show", &WHAT))
            (select("by", "by", &BY))
            (select("range", "of", &RANGES))
            label { "or from " input type="date" name="since" value=(visit.query.text("since")); }
            label { "to " input type="date" name="until" value=(visit.query.text("until")); }
            @for (name, called, _) in FILTERS {
                label.filter { (called) " " input name=(name) value=(visit.query.all(name).collect::<Vec<_>>().join(", ")); }
            }
            button { "Show" }
            @if FILTERS.iter().any(|(name, ..)| visit.query.typed(name).is_some()) { a href="/usage" { "All" } }
        }
    }
}

pub(crate) async fn export(visit: &Visit<'_>) -> Result<Answer> {
    let asked = Asked::read(visit).await?;
    let totals = totals(&asked.ask(visit, Some(asked.by)).await?, asked.by);
    let names = ["id", "name", "requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost"];
    let file = format!("usage-by-{}-{}", asked.by, show::day(visit.now().0));
    if visit.query.text("format") == "json" {
        let all: Vec<Value> = totals
            .iter()
            .map(|total| {
                json!({"id": total.id, "name": total.called, "requests": total.requests, "input_tokens": total.input,
                    "cached_input_tokens": total.cached, "output_tokens": total.output, "cost": total.cost.to_string()})
            })
            .collect();
        let body = json!({"by": asked.by, "start_time": asked.since.0, "end_time": asked.until.0,
            "as_of": visit.now().0, "data": all});
        return Ok(Answer::File {
            name: format!("{file}.json"),
            kind: "application/json",
            body: body.to_string().into_bytes(),
        });
    }
    let mut sheet = names.join(",") + "\n";
    for total in &totals {
        let cells: Vec<String> = total.cells().iter().map(|cell| csv(cell)).collect();
        let _ = writeln!(sheet, "{}", cells.join(","));
    }
    Ok(Answer::File {
        name: format!("{file}.csv"),
        kind: "text/csv; charset=utf-8",
        body: sheet.into_bytes(),
    })
}

/// A cell of a sheet. A spreadsheet takes a text that begins like a formula for one, and people choose names.
fn csv(text: &str) -> String {
    let text =
        if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_no_formula_and_stays_one_cell() {
        assert_eq!(csv("=1+1"), "'=1+1");
        assert_eq!(csv("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(csv("0.5"), "0.5");
    }
}
