//! Operations by their ids, from the same table that the server answers by: any of them can be called.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};
use tollgate_admin::{Method, Operation};

use crate::api::nouns::part;
use crate::api::openai;
use crate::api::secret_input::read_any;
use crate::api::session::{Done, Failure, Session};

/// What is needed of a row to call it.
pub(crate) struct Row {
    pub(crate) id: String,
    method: Method,
    path: String,
}

impl Row {
    pub(crate) fn of(id: &str) -> Result<Self, Failure> {
        let operations = tollgate_admin::operations();
        let found = operations.iter().find(|operation| operation.id == id);
        if let Some((id, method, path)) = openai::OPERATIONS.iter().find(|(known, ..)| *known == id) {
            return Ok(Self { id: (*id).to_owned(), method: *method, path: (*path).to_owned() });
        }
        let unknown = || {
            let all = operations.iter().map(|one| one.id);
            let all = all.chain(openai::OPERATIONS.iter().map(|(known, ..)| *known));
            let near: Vec<&str> = all.filter(|known| known.contains(id)).collect();
            let hint = match near.as_slice() {
                [] => "`tollgate operations` lists them.".to_owned(),
                near => format!("There are {}.", near.join(", ")),
            };
            Failure::Usage(format!("There is no operation `{id}`. {hint}"))
        };
        found.map(Self::from_row).ok_or_else(unknown)
    }

    fn from_row(operation: &Operation) -> Self {
        Self { id: operation.id.to_owned(), method: operation.method, path: operation.path.to_owned() }
    }

    /// Whether it is an operation of ours, which OpenAI does not have.
    fn is_ours(&self) -> bool {
        const EXTENSIONS: [&str; 4] = [
            "create-project-api-key",
            "modify-project-api-key",
            "rotate-project-api-key",
            "admin-api-keys-rotate",
        ];
        self.path.starts_with("/tollgate/")
            || EXTENSIONS.contains(&self.id.as_str())
            || self.id.ends_with("-previous-secret")
    }

    /// The path with what it names, as the client takes it, and the rest as a query.
    pub(crate) fn split(
        &self,
        given: Map<String, Value>,
    ) -> Result<(String, Vec<(String, String)>), Failure> {
        let (path, rest) = self.path_of(given)?;
        let mut query = Vec::new();
        for (name, value) in rest {
            match value {
                Value::Array(all) => query.extend(all.iter().map(|one| (name.clone(), plain(one)))),
                Value::Null => {}
                one => query.push((name, plain(&one))),
            }
        }
        Ok((path, query))
    }

    fn path_of(&self, mut given: Map<String, Value>) -> Result<(String, Map<String, Value>), Failure> {
        let mut path = String::new();
        for piece in self.path.split('/').skip(1) {
            path.push('/');
            match piece.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) => {
                    let missing =
                        || Failure::Usage(format!("{} needs {name}: give it by -f {name}=...", self.id));
                    path += &part(&given.remove(name).ok_or_else(missing)?);
                }
                None => path += piece,
            }
        }
        Ok((path.strip_prefix("/v1").map(str::to_owned).unwrap_or(path), given))
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[derive(Args, Debug)]
pub struct ApiCommand {
    /// Id of an operation, such as list-projects (`tollgate operations` has all), or a method: GET, POST or DELETE
    #[arg(value_name = "OPERATION|METHOD")]
    operation: String,
    /// With a method: the path, such as /v1/organization/projects
    path: Option<String>,
    /// A parameter of its path, query or body. What is JSON other than a text is taken as it is
    #[arg(short = 'f', long = "field", value_name = "NAME=VALUE")]
    fields: Vec<String>,
    /// File with the body as JSON, or - for stdin
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

impl Session {
    /// Calls an operation with all that it is given.
    pub(crate) async fn perform(&self, row: &Row, given: Map<String, Value>) -> Result<Value, Failure> {
        if row.method == Method::Post {
            let (path, body) = row.path_of(given)?;
            return Ok(self.client.post(&path, &Value::Object(body)).await?);
        }
        let (path, query) = row.split(given)?;
        let query: Vec<(&str, String)> =
            query.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        if row.method == Method::Delete {
            return Ok(self.client.delete_with(&path, &query).await?);
        }
        Ok(self.client.get(&path, &query).await?)
    }

    /// What OpenAI does not have is said before anything is sent.
    pub(crate) fn needs_operation(&self, row: &Row) -> Done {
        if row.is_ours() { self.needs_tollgate(&format!("do `{}`", row.id)) } else { Ok(()) }
    }

    /// `tollgate api`.
    pub async fn api(&self, command: ApiCommand) -> Done {
        let mut given = match &command.input {
            Some(file) => {
                let text = read_any(file)?;
                let body: Value = serde_json::from_str(text.reveal())
                    .map_err(|error| format!("{} is not JSON: {error}.", file.display()))?;
                match body {
                    Value::Object(body) => body,
                    _ => return Err(format!("{} is not an object of JSON.", file.display()).into()),
                }
            }
            None => Map::new(),
        };
        for field in &command.fields {
            let (name, text) =
                field.split_once('=').ok_or_else(|| format!("`{field}` is not like NAME=VALUE."))?;
            given.insert(name.to_owned(), field_value(text));
        }
        let method = match command.operation.to_ascii_uppercase().as_str() {
            "GET" => Some(Method::Get),
            "POST" => Some(Method::Post),
            "DELETE" => Some(Method::Delete),
            _ => None,
        };
        let row = match (method, command.path) {
            (Some(method), Some(path)) => {
                let path = if path.starts_with('/') { path } else { format!("/{path}") };
                Row { id: format!("{} {path}", method.as_str()), method, path }
            }
            (Some(_), None) => return Err("Give the path after the method.".to_owned().into()),
            (None, None) => Row::of(&command.operation)?,
            (None, Some(_)) => {
                return Err(
                    format!("`{}` is no method; an operation's id stands alone.", command.operation).into()
                );
            }
        };
        self.needs_operation(&row)?;
        if let Some(place) = secret_of(&row, &given).filter(|_| !self.client.is_dry()) {
            self.view.check_shows(place, "")?;
        }
        let answer = self.perform(&row, given).await?;
        self.show_raw(&answer)
    }
}

/// Where the answer of an operation has a secret that is shown this once, if it has one.
fn secret_of(row: &Row, given: &Map<String, Value>) -> Option<&'static str> {
    if row.method != Method::Post {
        return None;
    }
    let mut parts = row.path.trim_end_matches('/').rsplit('/');
    let last = parts.next()?;
    // An alert that is changed to a webhook is signed from then on.
    let is_alert = [Some(last), parts.next()].iter().flatten().any(|part| part.ends_with("_alerts"));
    match last {
        "api_keys" | "apikeys" | "admin_api_keys" | "rotate" => Some("/value"),
        "service_accounts" if given.get("create_service_account_only") != Some(&Value::Bool(true)) => {
            Some("/api_key/value")
        }
        "invites" | "resend" => Some("/accept_url"),
        "organizations" => Some("/admin_api_key"),
        _ if is_alert && given.get("notification_channel")?["type"] == "webhook" => Some("/signing_secret"),
        _ => None,
    }
}

/// A text, unless it is JSON of another kind.
fn field_value(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(
            value @ (Value::Number(_) | Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_)),
        ) => value,
        Ok(Value::String(text)) => Value::String(text),
        Err(_) => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_is_a_text_unless_it_is_json() {
        assert_eq!(field_value("5"), json!(5));
        assert_eq!(field_value("\"5\""), json!("5"));
        assert_eq!(field_value("laptop"), json!("laptop"));
        assert_eq!(field_value("[\"a\"]"), json!(["a"]));
    }

    #[test]
    fn every_row_of_the_table_is_an_operation_with_what_its_path_names() {
        let row = Row::of("retrieve-project-api-key").ok().unwrap();
        let given = json!({"project_id": "proj_1", "api_key_id": "a/b", "x": [1, "y"]});
        let (path, query) = row.split(given.as_object().unwrap().clone()).ok().unwrap();
        assert_eq!(path, "/organization/projects/proj_1/api_keys/a%2Fb");
        assert_eq!(query, [("x".to_owned(), "1".to_owned()), ("x".to_owned(), "y".to_owned())]);
        // What only OpenAI has is called by its id as well, and stands nowhere twice.
        let row = Row::of("list-project-rate-limits").ok().unwrap();
        assert_eq!(row.path, "/v1/organization/projects/{project_id}/rate_limits");
        let ours = tollgate_admin::operations();
        for (id, _, path) in openai::OPERATIONS {
            assert!(ours.iter().all(|one| one.id != *id && one.path != *path), "{id}");
        }
        let row = Row::of("retrieve-project-api-key").ok().unwrap();
        assert!(row.split(Map::new()).is_err() && Row::of("nonsense").is_err());
    }
}
