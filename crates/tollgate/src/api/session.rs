//! What the commands over the API share: a client, and the way results and errors are shown.

use serde_json::Value;

use crate::api::arguments::Many;
use crate::api::client::{CallError, Client};
use crate::api::filter::Filter;
use crate::api::output::{self, Format};
use crate::api::table::Column;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    Call(CallError),
    /// What was asked for makes no sense, or a file cannot be used.
    Usage(String),
    /// Whoever read the result has seen enough, as `head` does.
    NobodyReads,
}

impl Failure {
    /// With what it happened to, and where that stands, before its message.
    pub(crate) fn at(self, place: &str, what: &str) -> Self {
        let told = |message: &str| {
            if message.starts_with(what) {
                format!("{place}{message}")
            } else {
                format!("{place}{what}: {message}")
            }
        };
        match self {
            Self::Usage(message) => Self::Usage(told(&message)),
            Self::Call(CallError::Network(message)) => Self::Call(CallError::Network(told(&message))),
            Self::Call(CallError::Refused { status, mut error, request_id }) => {
                error["message"] = told(error["message"].as_str().unwrap_or("")).into();
                Self::Call(CallError::Refused { status, error, request_id })
            }
            failure => failure,
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Usage(message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::NobodyReads;
        }
        Self::Usage(error.to_string())
    }
}

pub type Done = Result<(), Failure>;

/// The way results are shown.
pub struct View {
    pub format: Format,
    /// The only fields that are wanted of what is shown as JSON.
    pub fields: Option<Vec<String>>,
    /// What is wanted of what is shown.
    pub filter: Option<Filter>,
}

impl View {
    /// Whether only some of what is shown is wanted.
    pub(crate) fn is_chosen(&self) -> bool {
        self.fields.is_some() || self.filter.is_some()
    }

    /// Refuses what an output cannot be that is written line by line as it is read.
    pub(crate) fn check_lines(&self, command: &str) -> Done {
        match self.format {
            Format::Yaml | Format::Id => {
                Err(format!("`{command}` writes lines of JSON, or where it can CSV.").into())
            }
            _ => Ok(()),
        }
    }

    /// Shows one of many, as a line of JSON.
    pub(crate) fn show_line(&self, value: &Value) -> Done {
        let narrowed = self.fields.as_ref().map(|fields| output::narrowed(value, fields));
        let value = narrowed.as_ref().unwrap_or(value);
        match &self.filter {
            Some(filter) => filter.write(value),
            None => Ok(output::show(Format::Jsonl, &[], value)?),
        }
    }

    /// Whether what is shown is a table, or whatever else people read.
    pub(crate) fn is_for_people(&self) -> bool {
        self.format == Format::Table && !self.is_chosen()
    }

    /// Refuses to make a secret that this would not show, which is shown once. `place` is where it stands in the answer, and
    /// `or` what else could be given.
    pub fn check_shows(&self, place: &str, or: &str) -> Done {
        let place = format!("{}/", place.trim_start_matches('/'));
        let shows = |field: &String| place.starts_with(&(field.replace('.', "/") + "/"));
        let field = place.trim_end_matches('/').rsplit('/').next().unwrap_or("");
        let hides = match (&self.fields, &self.filter) {
            (_, Some(filter)) if !filter.could_show(field) => true,
            (Some(fields), _) => !fields.iter().any(shows),
            (None, Some(_)) => false,
            (None, None) => matches!(self.format, Format::Id | Format::Csv),
        };
        if hides {
            let message = format!(
                "This output has no place for the secret, which is shown once: give {or}another -o, or the secret's field to --json \
                 or --jq: {}.",
                place.trim_end_matches('/').replace('/', ".")
            );
            return Err(message.into());
        }
        Ok(())
    }

    pub(crate) fn show(&self, columns: &'static [Column], value: &Value) -> Done {
        if let Some(fields) = &self.fields {
            let value = match value {
                Value::Array(rows) => rows.iter().map(|row| output::narrowed(row, fields)).collect(),
                one => output::narrowed(one, fields),
            };
            return match &self.filter {
                Some(filter) => filter.write(&value),
                None => Ok(output::show(Format::Json, columns, &value)?),
            };
        }
        if let Some(filter) = &self.filter {
            return filter.write(value);
        }
        Ok(output::show(self.format, columns, value)?)
    }
}

/// A client with the way its results are shown.
pub struct Session {
    pub client: Client,
    pub view: View,
    pub is_quiet: bool,
    /// Whether what is lost need not be asked for.
    pub is_sure: bool,
    pub is_coloured: bool,
}

pub(crate) const PROJECTS: &str = "/organization/projects";

impl Session {
    pub(crate) fn show(&self, columns: &'static [Column], value: &Value) -> Done {
        self.view.show(columns, value)
    }

    /// Shows an answer that no table is made for: as JSON, unless it is wanted otherwise.
    pub(crate) fn show_raw(&self, value: &Value) -> Done {
        if let Some(filter) = &self.view.filter {
            return filter.write(value);
        }
        let format = match self.view.format {
            Format::Table | Format::Csv => Format::Json,
            format => format,
        };
        let items = value["data"].as_array().filter(|_| format != Format::Json && value["object"] == "list");
        let value = items.map_or_else(|| value.clone(), |items| Value::Array(items.clone()));
        if let Some(fields) = &self.view.fields {
            let rows = value["data"].as_array();
            let shown = rows.map_or_else(
                || output::narrowed(&value, fields),
                |rows| rows.iter().map(|row| output::narrowed(row, fields)).collect(),
            );
            return Ok(output::show(Format::Json, &[], &shown)?);
        }
        Ok(output::show(format, &[], &value)?)
    }

    /// Says that something was done, and shows the answer to programs.
    pub(crate) fn done(&self, answer: &Value) -> Done {
        if self.view.format.is_for_programs() || self.view.is_chosen() {
            return self.show(&[], answer);
        }
        self.say("Done.");
        Ok(())
    }

    /// Asks a person before something is lost. A program is not asked: it has said what it wants.
    pub(crate) fn confirm(&self, what: &str, loses: &str) -> Done {
        use std::io::{BufRead, IsTerminal, Write};
        let is_person = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if !is_person
            && !self.is_sure
            && !self.client.is_dry()
            && std::io::stderr().is_terminal()
            && std::io::stdout().is_terminal()
        {
            // Somebody watches who cannot be asked, for something else is on stdin.
            return Err(format!(
                "{what}: {loses} It cannot be asked about with something else on stdin: say --yes."
            )
            .into());
        }
        if self.is_sure || self.client.is_dry() || !is_person {
            return Ok(());
        }
        write!(std::io::stderr(), "{what}: {loses} Go on? [y/N] ")?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err("Nothing was done.".to_owned().into()),
        }
    }

    pub(crate) fn say(&self, text: &str) {
        if !self.is_quiet {
            output::hint(text);
        }
    }

    pub(crate) async fn list(
        &self,
        columns: &'static [Column],
        path: &str,
        query: &[(&str, String)],
        many: &Many,
    ) -> Done {
        let (items, has_more) = self.client.list(path, query, many.limit).await?;
        if has_more {
            self.say(&format!("There are more than {}; see --limit.", items.len()));
        }
        self.show(columns, &Value::Array(items))
    }

    pub(crate) async fn deleted(&self, path: &str) -> Done {
        let answer = self.client.delete(path).await?;
        self.done(&answer)
    }

    /// What OpenAI does not have is said before anything is sent.
    pub(crate) fn needs_tollgate(&self, what: &str) -> Done {
        if self.client.is_openai() {
            return Err(format!("OpenAI's API has no way to {what}. Tollgate's has.").into());
        }
        Ok(())
    }
}
