//! `upstream`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::api::arguments::Many;
use crate::api::client::encoded;
use crate::api::named;
use crate::api::secret_input;
use crate::api::session::{Failure, Session};
use crate::api::table;

#[derive(Subcommand, Debug)]
pub enum UpstreamCommand {
    /// Show the upstreams
    List {
        #[command(flatten)]
        many: Many,
    },
    /// Show an upstream
    Get { id: String },
    /// Connect a provider
    Add {
        name: String,
        #[arg(long)]
        base_url: String,
        #[command(flatten)]
        settings: Box<UpstreamSettings>,
    },
    /// Change an upstream
    Update {
        id: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        base_url: Option<String>,
        #[command(flatten)]
        settings: Box<UpstreamSettings>,
    },
    /// Ask it for its models, with its address, key, headers and trust as they are set; exit 1 if that fails
    Test { id: String },
    /// Disconnect
    #[command(alias = "delete")]
    Rm { id: String },
}

#[derive(Args, Debug)]
pub struct UpstreamSettings {
    /// File with the provider's key, or - for stdin
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Models it serves; its own list if none is given
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// How it reads its key [default: what suits its address]
    #[arg(long, value_parser = ["bearer", "x-api-key", "api-key"], value_name = "HOW")]
    authentication: Option<String>,
    /// The field in which it reads the most output [default: what suits its address]
    #[arg(long, value_parser = ["max_tokens", "max_completion_tokens"], value_name = "FIELD")]
    output_limit_field: Option<String>,
    /// What becomes of an answer whose client has gone [default: what suits the server, as its list of models tells]
    #[arg(long, value_parser = ["cancel", "drain"], value_name = "WHAT")]
    on_client_gone: Option<String>,
    /// The version of HTTP that it is spoken to in [default: 1.1]
    #[arg(long, value_parser = ["1.1", "2"], value_name = "VERSION")]
    http_version: Option<String>,
    /// A parameter of its own that is let through under a hard limit: it leaves the cost of a request as it is. `none` for
    /// none
    #[arg(long = "allow-parameter", value_name = "NAME")]
    allowed_parameters: Vec<String>,
    /// Of the upstreams of a model those with the least number are asked, others only while none of those can be
    /// [default: 0]
    #[arg(long, value_name = "NUMBER")]
    priority: Option<i64>,
    /// How often it is asked beside others of its priority [default: 1]
    #[arg(long, value_name = "NUMBER")]
    weight: Option<i64>,
    /// The most requests under way at it, per node; `none` for no limit
    #[arg(long, value_name = "COUNT")]
    concurrency_max: Option<String>,
    /// Seconds to connect; `none` for the usual 10
    #[arg(long, value_name = "SECONDS")]
    connect_timeout: Option<String>,
    /// Seconds to begin an answer; `none` for the server's --upstream-timeout-seconds
    #[arg(long, value_name = "SECONDS")]
    answer_timeout: Option<String>,
    /// Seconds between two pieces of an answer; `none` for the server's --upstream-timeout-seconds
    #[arg(long, value_name = "SECONDS")]
    stall_timeout: Option<String>,
    /// A model that it calls otherwise than clients do, such as gpt-4o=my-deployment; `none` for none
    #[arg(long = "map-model", value_name = "MODEL=NAME")]
    model_mapping: Vec<String>,
    /// File with extra headers, each a line `Name: value`, or - for stdin; an empty one takes them away
    #[arg(long, value_name = "FILE")]
    headers_file: Option<PathBuf>,
    /// File with the certificate authorities to trust in place of the system's, as PEM; an empty one goes back to those
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl Session {
    /// Whether all is well with it, where that was asked.
    pub async fn upstream(&self, mut command: UpstreamCommand) -> Result<bool, Failure> {
        const ALL: &str = "/tollgate/v1/upstreams";
        self.needs_tollgate("manage upstreams")?;
        if let UpstreamCommand::Get { id }
        | UpstreamCommand::Update { id, .. }
        | UpstreamCommand::Test { id }
        | UpstreamCommand::Rm { id } = &mut command
        {
            *id = self.id_of(&named::UPSTREAM, id).await?;
        }
        let one = |id: &str| format!("{ALL}/{}", encoded(id));
        match command {
            UpstreamCommand::List { many } => self.list(table::UPSTREAMS, ALL, &[], &many).await?,
            UpstreamCommand::Get { id } => {
                self.show(table::UPSTREAMS, &self.client.get(&one(&id), &[]).await?)?;
            }
            UpstreamCommand::Add { name, base_url, settings } => {
                let body = upstream_body(Some(name), Some(base_url), *settings)?;
                self.show(table::UPSTREAMS, &self.client.post(ALL, &body).await?)?;
            }
            UpstreamCommand::Update { id, name, base_url, settings } => {
                let body = upstream_body(name, base_url, *settings)?;
                self.show(table::UPSTREAMS, &self.client.post(&one(&id), &body).await?)?;
            }
            UpstreamCommand::Test { id } => {
                let found = self.client.get(&format!("{}/test", one(&id)), &[]).await?;
                self.show(table::UPSTREAM_TESTS, &found)?;
                let has_all = found["missing_models"].as_array().is_none_or(Vec::is_empty);
                return Ok(found["ok"] == true && has_all);
            }
            UpstreamCommand::Rm { id } => {
                self.confirm(
                    &format!("upstream rm {id}"),
                    "Its credential is gone, and its models if no other has them.",
                )?;
                self.deleted(&one(&id)).await?;
            }
        }
        Ok(true)
    }
}

fn upstream_body(
    name: Option<String>,
    base_url: Option<String>,
    settings: UpstreamSettings,
) -> Result<Value, Failure> {
    let mut body = Map::new();
    let texts = [
        ("name", name),
        ("base_url", base_url),
        ("authentication", settings.authentication),
        ("output_limit_field", settings.output_limit_field),
        ("on_client_gone", settings.on_client_gone),
        ("http_version", settings.http_version),
    ];
    for (field, text) in texts {
        body.extend(text.map(|text| (field.to_owned(), json!(text))));
    }
    if let Some(file) = settings.api_key_file {
        body.insert("api_key".to_owned(), json!(secret_input::read(&file)?.reveal()));
    }
    if !settings.allowed_parameters.is_empty() {
        let names: Vec<&String> = settings.allowed_parameters.iter().filter(|name| *name != "none").collect();
        body.insert("allowed_parameters".to_owned(), json!(names));
    }
    if !settings.models.is_empty() {
        body.insert("models".to_owned(), json!(settings.models));
    }
    let numbers = [("priority", settings.priority), ("weight", settings.weight)];
    body.extend(numbers.into_iter().filter_map(|(name, number)| Some((name.to_owned(), json!(number?)))));
    let limits = [
        ("concurrency_max", settings.concurrency_max),
        ("connect_timeout", settings.connect_timeout),
        ("answer_timeout", settings.answer_timeout),
        ("stall_timeout", settings.stall_timeout),
    ];
    for (name, text) in limits {
        let value = text.as_deref().map(number_or_none).transpose()?;
        body.extend(value.map(|value| (name.to_owned(), value)));
    }
    if !settings.model_mapping.is_empty() {
        body.insert("model_mapping".to_owned(), Value::Object(mapping(&settings.model_mapping)?));
    }
    if let Some(file) = settings.headers_file {
        body.insert("headers".to_owned(), Value::Object(headers(secret_input::read_any(&file)?.reveal())?));
    }
    if let Some(file) = settings.ca_file {
        let pem = std::fs::read_to_string(&file)
            .map_err(|error| format!("Cannot read {}: {error}.", file.display()))?;
        body.insert(
            "ca_certificates".to_owned(),
            if pem.trim().is_empty() { Value::Null } else { json!(pem) },
        );
    }
    Ok(Value::Object(body))
}

fn number_or_none(text: &str) -> Result<Value, Failure> {
    if text == "none" {
        return Ok(Value::Null);
    }
    let number = text.parse::<i64>();
    number.map(|number| json!(number)).map_err(|_| format!("`{text}` is neither a number nor `none`.").into())
}

fn mapping(pairs: &[String]) -> Result<Map<String, Value>, Failure> {
    let given = pairs.iter().filter(|pair| *pair != "none");
    let read = given.map(|pair| match pair.split_once('=') {
        Some((ours, theirs)) => Ok((ours.to_owned(), json!(theirs))),
        None => Err(format!("`{pair}` is not a model and its name, such as gpt-4o=my-deployment.").into()),
    });
    read.collect()
}

fn headers(lines: &str) -> Result<Map<String, Value>, Failure> {
    let given = lines.lines().filter(|line| !line.trim().is_empty());
    let read = given.map(|line| match line.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), json!(value.trim()))),
        // The line may be a secret.
        None => Err("A line of the file with headers is not `Name: value`.".to_owned().into()),
    });
    read.collect()
}
