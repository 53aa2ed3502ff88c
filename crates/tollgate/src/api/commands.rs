//! `project`, `key`, `service-account`, `spend-limit`, `upstream`, `model`, `cost`, `usage`.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use tollgate_core::time::Clock;

use crate::api::amount;
use crate::api::arguments::{
    CostBy, CostCommand, InProject, KeyCommand, Many, ModelCommand, Period, ProjectCommand,
    ServiceAccountCommand, SpendLimitCommand, UpstreamCommand, UsageBy, UsageCommand,
};
use crate::api::client::{CallError, Client, encoded};
use crate::api::output::{self, Format};
use crate::api::secret_input::{self, Out};
use crate::api::table::{self, Column};

/// Why a command failed.
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

type Done = Result<(), Failure>;

/// A client with the way its results are shown.
pub struct Session {
    pub client: Client,
    pub format: Format,
    pub is_quiet: bool,
}

const PROJECTS: &str = "/organization/projects";

impl Session {
    fn show(&self, columns: &'static [Column], value: &Value) -> Done {
        Ok(output::show(self.format, columns, value)?)
    }

    fn say(&self, text: &str) {
        if !self.is_quiet {
            output::hint(text);
        }
    }

    async fn list(
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

    async fn deleted(&self, path: &str) -> Done {
        let answer = self.client.delete(path).await?;
        if self.format == Format::Json {
            return Ok(output::show(self.format, &[], &answer)?);
        }
        self.say("Done.");
        Ok(())
    }

    /// What OpenAI does not have is said before anything is sent.
    fn needs_tollgate(&self, what: &str) -> Done {
        if self.client.is_openai() {
            return Err(format!("OpenAI's API has no way to {what}. Tollgate's has.").into());
        }
        Ok(())
    }

    /// Says what the server answered and returns the exit code for it.
    pub fn failed(&self, error: &CallError) -> u8 {
        output::complain(self.format, error);
        output::exit_code(error)
    }

    pub async fn project(&self, command: ProjectCommand) -> Done {
        let one = |id: &str| format!("{PROJECTS}/{}", encoded(id));
        match command {
            ProjectCommand::List { many, archived } => {
                let query = [("include_archived", archived.to_string())];
                self.list(table::PROJECTS, PROJECTS, &query, &many).await
            }
            ProjectCommand::Get { id } => self.show(table::PROJECTS, &self.client.get(&one(&id), &[]).await?),
            ProjectCommand::Create { name } => {
                self.show(table::PROJECTS, &self.client.post(PROJECTS, &json!({"name": name})).await?)
            }
            ProjectCommand::Update { id, name } => {
                self.show(table::PROJECTS, &self.client.post(&one(&id), &json!({"name": name})).await?)
            }
            ProjectCommand::Archive { id } => {
                let path = format!("{}/archive", one(&id));
                self.show(table::PROJECTS, &self.client.post(&path, &json!({})).await?)
            }
        }
    }

    pub async fn key(&self, command: KeyCommand) -> Done {
        let all = |project: &InProject| format!("{PROJECTS}/{}/api_keys", encoded(&project.project));
        let one = |project: &InProject, id: &str| format!("{}/{}", all(project), encoded(id));
        match command {
            KeyCommand::List { project, many, all: is_all } => {
                let query: &[_] = if is_all { &[("owner_project_access", "any".to_owned())] } else { &[] };
                self.list(table::KEYS, &all(&project), query, &many).await
            }
            KeyCommand::Get { id, project } => {
                self.show(table::KEYS, &self.client.get(&one(&project, &id), &[]).await?)
            }
            KeyCommand::Create { name, project, owner, scopes, expires, out } => {
                self.needs_tollgate("create a project key by request; it creates keys of service accounts")?;
                let body = key_body(&name, &owner, &scopes, &expires)?;
                let out = out.as_deref().map(Out::create).transpose()?;
                let made = self.client.post(&all(&project), &body).await?;
                self.show_secret(table::KEYS, &made, &made["value"], out)
            }
            KeyCommand::Update { id, project, scopes, all_scopes, expires } => {
                let mut body = Map::new();
                if all_scopes || !scopes.is_empty() {
                    body.insert("scopes".to_owned(), json!(scopes));
                }
                if let Some(expires) = expires {
                    let seconds = amount::seconds(&expires)?
                        .ok_or("An expiry can be moved but not removed.".to_owned())?;
                    body.insert("expires_in_seconds".to_owned(), json!(seconds));
                }
                self.show(table::KEYS, &self.client.post(&one(&project, &id), &Value::Object(body)).await?)
            }
            KeyCommand::Revoke { id, project } => self.deleted(&one(&project, &id)).await,
        }
    }

    /// Shows something new with its secret: alone on stdout when nothing else is wanted, or in a file.
    fn show_secret(
        &self,
        columns: &'static [Column],
        made: &Value,
        secret: &Value,
        out: Option<Out>,
    ) -> Done {
        let secret = secret.as_str().unwrap_or_default();
        if let Some(out) = out {
            let path = out.write(secret)?;
            let mut shown = made.clone();
            for holder in ["/value", "/api_key/value"] {
                if let Some(value) = shown.pointer_mut(holder) {
                    *value = Value::Null;
                }
            }
            self.say(&format!("The secret is in {}.", path.display()));
            return self.show(columns, &shown);
        }
        if self.format == Format::Json {
            return self.show(columns, made);
        }
        if self.is_quiet {
            return Ok(writeln!(std::io::stdout(), "{secret}")?);
        }
        self.show(columns, made)?;
        writeln!(std::io::stdout(), "\n{secret}")?;
        self.say("This secret is not shown again.");
        Ok(())
    }

    pub async fn service_account(&self, command: ServiceAccountCommand) -> Done {
        let all = |project: &InProject| format!("{PROJECTS}/{}/service_accounts", encoded(&project.project));
        let one = |project: &InProject, id: &str| format!("{}/{}", all(project), encoded(id));
        let columns = table::SERVICE_ACCOUNTS;
        match command {
            ServiceAccountCommand::List { project, many } => {
                self.list(columns, &all(&project), &[], &many).await
            }
            ServiceAccountCommand::Get { id, project } => {
                self.show(columns, &self.client.get(&one(&project, &id), &[]).await?)
            }
            ServiceAccountCommand::Create { name, project, no_key, out } => {
                let out = out.as_deref().map(Out::create).transpose()?;
                let body = json!({"name": name, "create_service_account_only": no_key});
                let made = self.client.post(&all(&project), &body).await?;
                if no_key {
                    return self.show(columns, &made);
                }
                self.show_secret(columns, &made, &made["api_key"]["value"], out)
            }
            ServiceAccountCommand::Update { id, project, name, role } => {
                let mut body = Map::new();
                body.extend(name.map(|name| ("name".to_owned(), json!(name))));
                body.extend(role.map(|role| ("role".to_owned(), json!(role))));
                self.show(columns, &self.client.post(&one(&project, &id), &Value::Object(body)).await?)
            }
            ServiceAccountCommand::Delete { id, project } => self.deleted(&one(&project, &id)).await,
        }
    }

    pub async fn spend_limit(&self, command: SpendLimitCommand) -> Done {
        let path = |project: &InProject| format!("{PROJECTS}/{}/spend_limit", encoded(&project.project));
        match command {
            SpendLimitCommand::Get { project } => {
                self.show(table::SPEND_LIMIT, &self.client.get(&path(&project), &[]).await?)
            }
            SpendLimitCommand::Set { amount, project } => {
                let cents = amount::cents(&amount)?;
                let body = json!({"threshold_amount": cents, "currency": "USD", "interval": "month"});
                self.show(table::SPEND_LIMIT, &self.client.post(&path(&project), &body).await?)
            }
            SpendLimitCommand::Clear { project } => self.deleted(&path(&project)).await,
        }
    }

    pub async fn upstream(&self, command: UpstreamCommand) -> Done {
        const ALL: &str = "/tollgate/v1/upstreams";
        self.needs_tollgate("manage upstreams")?;
        let one = |id: &str| format!("{ALL}/{}", encoded(id));
        match command {
            UpstreamCommand::List { many } => self.list(table::UPSTREAMS, ALL, &[], &many).await,
            UpstreamCommand::Get { id } => {
                self.show(table::UPSTREAMS, &self.client.get(&one(&id), &[]).await?)
            }
            UpstreamCommand::Add { name, base_url, api_key_file, models } => {
                let body = upstream_body(Some(name), Some(base_url), api_key_file, &models)?;
                self.show(table::UPSTREAMS, &self.client.post(ALL, &body).await?)
            }
            UpstreamCommand::Update { id, name, base_url, api_key_file, models } => {
                let body = upstream_body(name, base_url, api_key_file, &models)?;
                self.show(table::UPSTREAMS, &self.client.post(&one(&id), &body).await?)
            }
            UpstreamCommand::Rm { id } => self.deleted(&one(&id)).await,
        }
    }

    pub async fn model(&self, command: ModelCommand) -> Done {
        const ALL: &str = "/tollgate/v1/models";
        self.needs_tollgate("read or set prices")?;
        let one = |model: &str| format!("{ALL}/{}", encoded(model));
        match command {
            ModelCommand::List => {
                let all = self.client.get(ALL, &[]).await?;
                self.show(table::MODELS, &all["data"])
            }
            ModelCommand::Get { model } => {
                self.show(table::MODELS, &self.client.get(&one(&model), &[]).await?)
            }
            ModelCommand::Set { model, input, cached_input, output_price, context, max_output } => {
                let price = |text: String| if text == "none" { Value::Null } else { Value::String(text) };
                let tokens = |text: Option<String>| -> Result<Option<Value>, Failure> {
                    let wrong = |text: &str| format!("`{text}` is neither a number of tokens nor `none`.");
                    text.map(|text| match text.as_str() {
                        "none" => Ok(Value::Null),
                        _ => text.parse::<i64>().map(|tokens| json!(tokens)).map_err(|_| wrong(&text).into()),
                    })
                    .transpose()
                };
                let mut body = Map::new();
                body.extend(input.map(|text| ("input_price".to_owned(), price(text))));
                body.extend(cached_input.map(|text| ("cached_input_price".to_owned(), price(text))));
                body.extend(output_price.map(|text| ("output_price".to_owned(), price(text))));
                body.extend(tokens(context)?.map(|tokens| ("context_tokens".to_owned(), tokens)));
                body.extend(tokens(max_output)?.map(|tokens| ("max_output_tokens".to_owned(), tokens)));
                self.show(table::MODELS, &self.client.post(&one(&model), &Value::Object(body)).await?)
            }
            ModelCommand::Reset { model } => self.deleted(&one(&model)).await,
        }
    }

    pub async fn cost(&self, command: CostCommand) -> Done {
        let mut query = command.period.query()?;
        for by in &command.by {
            let name = match by {
                CostBy::Project => "project_id",
                CostBy::Key => "api_key_id",
                CostBy::User => "user_id",
                CostBy::LineItem => "line_item",
            };
            query.push(("group_by", name.to_owned()));
        }
        self.buckets(table::COSTS, "/organization/costs", query).await
    }

    pub async fn usage(&self, command: UsageCommand) -> Done {
        let mut query = command.period.query()?;
        query.push(("bucket_width", command.bucket));
        for by in &command.by {
            let name = match by {
                UsageBy::Project => "project_id",
                UsageBy::Key => "api_key_id",
                UsageBy::User => "user_id",
                UsageBy::Model => "model",
            };
            query.push(("group_by", name.to_owned()));
        }
        self.buckets(table::USAGE, &format!("/organization/usage/{}", command.endpoint), query).await
    }

    /// All pages of buckets, a row for each result with the time of its bucket.
    async fn buckets(
        &self,
        columns: &'static [Column],
        path: &str,
        query: Vec<(&'static str, String)>,
    ) -> Done {
        let mut rows = Vec::new();
        let mut page: Option<String> = None;
        loop {
            let mut query = query.clone();
            query.extend(page.take().map(|page| ("page", page)));
            let answer = self.client.get(path, &query).await?;
            for bucket in answer["data"].as_array().into_iter().flatten() {
                for result in bucket["results"].as_array().into_iter().flatten() {
                    let mut row = result.clone();
                    row["start_time"] = bucket["start_time"].clone();
                    row["end_time"] = bucket["end_time"].clone();
                    rows.push(row);
                }
            }
            page = answer["next_page"].as_str().map(str::to_owned);
            if page.is_none() {
                return self.show(columns, &Value::Array(rows));
            }
        }
    }
}

impl Period {
    fn query(&self) -> Result<Vec<(&'static str, String)>, Failure> {
        let seconds = amount::seconds(&self.since)?.ok_or("`never` is no span of time.".to_owned())?;
        let now = Clock::system().now();
        let mut query = vec![("start_time", now.plus_seconds(-seconds).0.max(0).to_string())];
        query.extend(self.narrow.projects.iter().map(|id| ("project_ids", id.clone())));
        query.extend(self.narrow.keys.iter().map(|id| ("api_key_ids", id.clone())));
        query.extend(self.narrow.users.iter().map(|id| ("user_ids", id.clone())));
        Ok(query)
    }
}

fn key_body(name: &str, owner: &str, scopes: &[String], expires: &str) -> Result<Value, Failure> {
    let mut body = json!({"name": name, "scopes": scopes});
    let owner_field = if owner.starts_with("svc_acct_") { "service_account_id" } else { "user_id" };
    if owner != "me" {
        body[owner_field] = json!(owner);
    }
    if let Some(seconds) = amount::seconds(expires)? {
        body["expires_in_seconds"] = json!(seconds);
    }
    Ok(body)
}

fn upstream_body(
    name: Option<String>,
    base_url: Option<String>,
    api_key_file: Option<PathBuf>,
    models: &[String],
) -> Result<Value, Failure> {
    let mut body = Map::new();
    body.extend(name.map(|name| ("name".to_owned(), json!(name))));
    body.extend(base_url.map(|url| ("base_url".to_owned(), json!(url))));
    if let Some(file) = api_key_file {
        body.insert("api_key".to_owned(), json!(secret_input::read(&file)?.reveal()));
    }
    if !models.is_empty() {
        body.insert("models".to_owned(), json!(models));
    }
    Ok(Value::Object(body))
}
