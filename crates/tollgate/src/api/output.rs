//! How results are shown: a table to people, tab-separated text to a pipe, JSON or ids to programs.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};

use crate::api::client::CallError;
use crate::api::table::Column;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; tab-separated when it does not go to a terminal
    Table,
    Json,
    /// An object of JSON a line
    Jsonl,
    Yaml,
    /// The columns of the table
    Csv,
    /// Only the ids, one a line
    Id,
}

impl Format {
    /// Whether a program reads it, which then wants errors as an object too.
    pub fn is_for_programs(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl | Self::Yaml)
    }
}

/// What is left of a row where only some of its fields are wanted; a dot goes into an object.
pub(crate) fn narrowed(row: &Value, fields: &[String]) -> Value {
    let pick = |field: &String| {
        let value = field.split('.').try_fold(row, |value, part| value.get(part));
        (field.clone(), value.cloned().unwrap_or(Value::Null))
    };
    Value::Object(fields.iter().map(pick).collect())
}

/// Shows a list, or one thing as a list of one.
pub(crate) fn show(format: Format, columns: &'static [Column], value: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let rows: Vec<Value> = match value {
        Value::Array(rows) => rows.clone(),
        one => vec![one.clone()],
    };
    match format {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(value).unwrap_or_default()),
        Format::Jsonl => rows.iter().try_for_each(|row| writeln!(out, "{row}")),
        Format::Yaml => {
            let text =
                serde_saphyr::to_string(value).map_err(|error| std::io::Error::other(error.to_string()))?;
            write!(out, "{text}")
        }
        Format::Csv => {
            let mut sheet = csv::Writer::from_writer(out);
            sheet.write_record(columns.iter().map(|column| column.heading))?;
            for row in &rows {
                sheet.write_record(columns.iter().map(|column| guarded(column.cell(row))))?;
            }
            sheet.flush()
        }
        Format::Id => {
            rows.iter().filter_map(|row| row["id"].as_str()).try_for_each(|id| writeln!(out, "{id}"))
        }
        Format::Table if out.is_terminal() => writeln!(out, "{}", table(columns, &rows)),
        Format::Table => {
            let headings: Vec<&str> = columns.iter().map(|column| column.heading).collect();
            writeln!(out, "{}", headings.join("\t"))?;
            rows.iter().try_for_each(|row| {
                let cells: Vec<String> = columns.iter().map(|column| column.cell(row)).collect();
                writeln!(out, "{}", cells.join("\t"))
            })
        }
    }
}

/// A spreadsheet takes a text that begins like a formula for one, and people choose names.
fn guarded(cell: String) -> String {
    if cell.len() > 1 && cell.starts_with(['=', '+', '-', '@']) { format!("'{cell}") } else { cell }
}

/// Columns that nothing stands in are left out for people; in a pipe every column keeps its place.
fn table(columns: &'static [Column], rows: &[Value]) -> Table {
    let used: Vec<&Column> =
        columns.iter().filter(|column| rows.is_empty() || column.is_used(rows)).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(used.iter().map(|column| column.heading));
    for row in rows {
        table.add_row(used.iter().map(|column| column.cell(row)));
    }
    table
}

/// Says what the server answered and returns the exit code for it.
pub fn failed(format: Format, error: &CallError) -> u8 {
    if matches!(error, CallError::NotSent) {
        return 0;
    }
    complain(format, error);
    exit_code(error)
}

/// Says what went wrong, on stderr; to programs as one JSON object.
#[expect(clippy::print_stderr, reason = "errors of a command go there")]
fn complain(format: Format, error: &CallError) {
    if !format.is_for_programs() {
        eprintln!("error: {error}");
        return;
    }
    let object = match error {
        CallError::Refused { error, request_id, .. } => json!({"error": error, "request_id": request_id}),
        CallError::NotSent => return,
        CallError::Network(message) => {
            json!({"error": {"message": message, "type": "network", "code": null, "param": null}, "request_id": null})
        }
    };
    eprintln!("{object}");
}

/// Says what cannot be asked for, in the same way.
pub fn complain_of_usage(format: Format, message: &str) {
    complain_of(format, "usage", message);
}

/// Says why something at the machine itself failed, in the same way.
pub fn complain_of_failure(format: Format, message: &str) {
    complain_of(format, "local", message);
}

#[expect(clippy::print_stderr, reason = "errors of a command go there")]
fn complain_of(format: Format, kind: &str, message: &str) {
    if format.is_for_programs() {
        let error = json!({"message": message, "type": kind, "code": null, "param": null});
        eprintln!("{}", json!({"error": error, "request_id": null}));
    } else {
        eprintln!("error: {message}");
    }
}

/// Prints a result in words. A reader who has seen enough ends the program as it ends others; a result that cannot be written is
/// an error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            std::process::exit(i32::from(crate::BROKEN_PIPE))
        }
        Err(error) => {
            hint(&format!("error: The result cannot be written: {error}."));
            std::process::exit(1)
        }
    }
}

/// Says something besides the result.
#[expect(clippy::print_stderr, reason = "what is not the result goes there")]
pub(crate) fn hint(text: &str) {
    eprintln!("{text}");
}

/// The exit code for an error, as documented.
fn exit_code(error: &CallError) -> u8 {
    match error {
        CallError::NotSent => 0,
        CallError::Network(_) | CallError::Refused { status: 500.., .. } => 7,
        CallError::Refused { status: 404, .. } => 3,
        CallError::Refused { status: 401 | 403, .. } => 4,
        CallError::Refused { status: 409 | 412, .. } => 5,
        CallError::Refused { status: 400, error, .. }
            if ["already_exists", "default_project", "api_key_expired"]
                .contains(&error["code"].as_str().unwrap_or("")) =>
        {
            5
        }
        CallError::Refused { status: 429, .. } => 6,
        CallError::Refused { .. } => 1,
    }
}
