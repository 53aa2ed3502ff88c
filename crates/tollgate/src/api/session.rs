//! What the commands over the API share: a client, and the way results and errors are shown.

use serde_json::Value;

use crate::api::arguments::Many;
use crate::api::client::{CallError, Client};
use crate::api::output::{self, Format};
use crate::api::table::Column;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    Call(CallError),
    /// What was asked for makes no sense, or a file cannot be used.
    Usage(String),
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
        Self::Usage(error.to_string())
    }
}

pub(crate) type Done = Result<(), Failure>;

/// A client with the way its results are shown.
pub struct Session {
    pub client: Client,
    pub format: Format,
    pub is_quiet: bool,
}

pub(crate) const PROJECTS: &str = "/organization/projects";

impl Session {
    pub(crate) fn show(&self, columns: &'static [Column], value: &Value) -> Done {
        Ok(output::show(self.format, columns, value)?)
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
        if self.format == Format::Json {
            return Ok(output::show(self.format, &[], &answer)?);
        }
        self.say("Done.");
        Ok(())
    }

    /// What OpenAI does not have is said before anything is sent.
    pub(crate) fn needs_tollgate(&self, what: &str) -> Done {
        if self.client.is_openai() {
            return Err(format!("OpenAI's API has no way to {what}. Tollgate's has.").into());
        }
        Ok(())
    }
}
