//! `cost`, `usage`, `usage export`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{IsTerminal, Write};

use serde_json::Value;
use tollgate_core::time::Clock;
use tollgate_core::{Money, Timestamp};

use crate::api::amount;
use crate::api::arguments::{
    CostBy, CostCommand, ExportBy, ExportCommand, ExportFormat, Period, UsageAction, UsageBy, UsageCommand,
};
use crate::api::session::{Done, Failure, Session};
use crate::api::table::{self, Column};

type Query = Vec<(&'static str, String)>;

impl Session {
    pub async fn cost(&self, command: CostCommand) -> Done {
        let mut query = self.period(command.period).await?;
        query.push(("bucket_width", command.bucket));
        for by in &command.by {
            let name = match by {
                CostBy::Project => "project_id",
                CostBy::Key => "api_key_id",
                CostBy::User => "user_id",
                CostBy::LineItem => "line_item",
                CostBy::Model => "model",
                CostBy::Upstream => "upstream_id",
            };
            query.push(("group_by", name.to_owned()));
        }
        query.extend(command.labels.iter().map(|name| ("group_by", format!("label:{name}"))));
        if !command.total {
            return self.buckets(table::COSTS, "/organization/costs", query).await;
        }
        // As many buckets on a page as there can be.
        query.push(("limit", "180".to_owned()));
        let mut totals: BTreeMap<String, Value> = BTreeMap::new();
        let add = |row| {
            add_cost(&mut totals, row);
            Ok(())
        };
        self.each_result("/organization/costs", query, add).await?;
        self.show_named(table::COSTS, totals.into_values().collect()).await
    }

    pub async fn usage(&self, command: UsageCommand) -> Done {
        if let Some(UsageAction::Export(export)) = command.action {
            return self.export_usage(export).await;
        }
        let command = command.question;
        let mut query = self.period(command.period).await?;
        query.push(("bucket_width", command.bucket));
        for by in &command.by {
            let name = match by {
                UsageBy::Project => "project_id",
                UsageBy::Key => "api_key_id",
                UsageBy::User => "user_id",
                UsageBy::Model => "model",
                UsageBy::Tier => "service_tier",
            };
            query.push(("group_by", name.to_owned()));
        }
        query.extend(command.labels.iter().map(|name| ("group_by", format!("label:{name}"))));
        self.buckets(table::USAGE, &format!("/organization/usage/{}", command.endpoint), query).await
    }

    /// A period as a query, with ids in place of names. What nothing is called is told, for it would look like nothing spent.
    async fn period(&self, mut period: Period) -> Result<Query, Failure> {
        for project in &mut period.narrow.projects {
            *project = self.project_narrowed_to(project).await?;
        }
        for key in &mut period.narrow.keys {
            *key = self.key_id_anywhere(key).await?;
        }
        let narrow = &mut period.narrow;
        for owner in &mut narrow.users {
            *owner = self.owner_id(owner, &narrow.projects).await?;
        }
        period.query()
    }

    /// All pages of buckets, a row for each result with the time of its bucket.
    async fn buckets(&self, columns: &'static [Column], path: &str, query: Query) -> Done {
        let mut rows = Vec::new();
        let collect = |row| {
            rows.push(row);
            Ok(())
        };
        self.each_result(path, query, collect).await?;
        self.show_named(columns, rows).await
    }

    /// Shows rows, to people at a terminal with names in the place of ids.
    async fn show_named(&self, columns: &'static [Column], mut rows: Vec<Value>) -> Done {
        if self.view.is_for_people() && std::io::stdout().is_terminal() {
            self.with_names(&mut rows).await;
        }
        self.show(columns, &Value::Array(rows))
    }

    /// The results of all buckets, page by page, each with the time of its bucket.
    pub(crate) async fn each_result(
        &self,
        path: &str,
        query: Query,
        mut each: impl FnMut(Value) -> Done,
    ) -> Done {
        let mut page: Option<String> = None;
        loop {
            let mut query = query.clone();
            query.extend(page.take().map(|page| ("page", page)));
            let mut answer = self.client.get(path, &query).await?;
            for bucket in answer["data"].as_array_mut().into_iter().flatten() {
                let (start, end) = (bucket["start_time"].clone(), bucket["end_time"].clone());
                for result in bucket["results"].as_array_mut().into_iter().flatten() {
                    let mut row = result.take();
                    row["start_time"] = start.clone();
                    row["end_time"] = end.clone();
                    each(row)?;
                }
            }
            page = answer["next_page"].as_str().map(str::to_owned);
            if page.is_none() {
                return Ok(());
            }
        }
    }

    /// Everything that was used, row by row as it is read.
    async fn export_usage(&self, command: ExportCommand) -> Done {
        self.needs_tollgate("export usage")?;
        self.view.check_lines("usage export")?;
        // What asks for JSON gets it, line by line.
        let wants_json = self.view.format.is_for_programs() || self.view.is_chosen();
        let to = if wants_json { ExportFormat::Jsonl } else { command.to };
        let mut query = self.period(command.period).await?;
        // As many buckets on a page as there can be.
        query.push(("limit", if command.bucket == "1h" { "168" } else { "31" }.to_owned()));
        query.push(("bucket_width", command.bucket));
        query.extend(command.by.iter().map(|by| ("group_by", by.name().to_owned())));
        query.extend(command.labels.iter().map(|name| ("group_by", format!("label:{name}"))));
        let out = std::io::BufWriter::new(std::io::stdout().lock());
        match to {
            ExportFormat::Jsonl => {
                drop(out);
                self.each_result("/tollgate/v1/usage", query, |row| self.view.show_line(&row)).await
            }
            ExportFormat::Csv => {
                let mut sheet = csv::Writer::from_writer(out);
                let names = EXPORTED.iter().map(|name| (*name).to_owned());
                let labels = command.labels.iter().map(|name| format!("label:{name}"));
                write_row(&mut sheet, names.chain(labels))?;
                let write = |row: Value| {
                    let cells = EXPORTED.iter().map(|name| csv_cell(name, &row[name]));
                    let labels =
                        command.labels.iter().map(|name| csv_cell("label", &row["labels"][name.as_str()]));
                    write_row(&mut sheet, cells.chain(labels))
                };
                self.each_result("/tollgate/v1/usage", query, write).await?;
                Ok(sheet.flush()?)
            }
        }
    }
}

fn write_row(sheet: &mut csv::Writer<impl Write>, cells: impl Iterator<Item = String>) -> Done {
    Ok(sheet.write_record(cells.map(String::into_bytes)).map_err(std::io::Error::from)?)
}

/// Adds a row of costs to what is of the same groups. Amounts are numbers of nine places, so that they add up exactly.
fn add_cost(totals: &mut BTreeMap<String, Value>, row: Value) {
    const OF_TIME: [&str; 4] = ["amount", "quantity", "start_time", "end_time"];
    let mut groups = row.clone();
    for name in OF_TIME {
        groups[name] = Value::Null;
    }
    let amount = |row: &Value| {
        let dollars = row["amount"]["value"].as_f64().unwrap_or_default();
        Money::parse(&format!("{dollars:.9}")).unwrap_or_default()
    };
    match totals.entry(groups.to_string()) {
        Entry::Vacant(place) => _ = place.insert(row),
        Entry::Occupied(mut known) => {
            let known = known.get_mut();
            let sum = amount(known) + amount(&row);
            known["amount"]["value"] = serde_json::from_str(&sum.short()).unwrap_or_default();
            if let (Some(one), Some(other)) = (known["quantity"].as_i64(), row["quantity"].as_i64()) {
                known["quantity"] = (one + other).into();
            }
            known["end_time"] = row["end_time"].clone();
        }
    }
}

/// The columns of an export.
const EXPORTED: [&str; 34] = [
    "start_time",
    "end_time",
    "project_id",
    "project_name",
    "user_id",
    "user_name",
    "api_key_id",
    "api_key_name",
    "model",
    "upstream_id",
    "service_tier",
    "endpoint",
    "num_requests",
    "num_clamped_requests",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "audio_input_tokens",
    "image_input_tokens",
    "output_tokens",
    "audio_output_tokens",
    "image_output_tokens",
    "drained_output_tokens",
    "web_search_calls",
    "input_cost",
    "cached_input_cost",
    "cache_write_cost",
    "output_cost",
    "drained_output_cost",
    "request_cost",
    "tool_cost",
    "adjusted_cost",
    "cost",
];

/// A value as it stands in a sheet. A spreadsheet takes a text that begins like a formula for one, and people choose names: such a
/// text gets an apostrophe in front.
fn csv_cell(column: &str, value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::Number(at) if column.ends_with("_time") => {
            at.as_i64().map_or_else(|| at.to_string(), |at| Timestamp(at).to_string())
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    if is_formula { format!("'{text}") } else { text }
}

impl ExportBy {
    const fn name(self) -> &'static str {
        match self {
            Self::Project => "project_id",
            Self::Key => "api_key_id",
            Self::User => "user_id",
            Self::Model => "model",
            Self::Upstream => "upstream_id",
            Self::Tier => "service_tier",
            Self::Endpoint => "endpoint",
        }
    }
}

impl Period {
    fn query(&self) -> Result<Query, Failure> {
        let now = Clock::system().now();
        let since = amount::moment(&self.since, now)?;
        let mut query = vec![("start_time", since.0.to_string())];
        if let Some(until) = &self.until {
            let end = amount::moment(until, now)?;
            if end <= since {
                return Err(format!("--until {until} is before --since {}.", self.since).into());
            }
            query.push(("end_time", end.0.max(1).to_string()));
        }
        query.extend(self.narrow.projects.iter().map(|id| ("project_ids", id.clone())));
        query.extend(self.narrow.keys.iter().map(|id| ("api_key_ids", id.clone())));
        query.extend(self.narrow.users.iter().map(|id| ("user_ids", id.clone())));
        Ok(query)
    }
}
