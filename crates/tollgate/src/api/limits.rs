//! `spend-limit`: limits of an organization, a project, a user and a key, what new ones begin with, and what a project
//! does when one is reached.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tollgate_core::{Clock, Interval};

use crate::api::amount;
use crate::api::arguments::{InProject, Many};
use crate::api::client::{CallError, encoded};
use crate::api::named;
use crate::api::output::Format;
use crate::api::session::{Done, Failure, PROJECTS, Session};
use crate::api::table;

const OURS: &str = "/tollgate/v1";
const DEFAULTS: &str = "/tollgate/v1/organization/default_spend_limits";

#[derive(Subcommand, Debug)]
pub enum SpendLimitCommand {
    /// All limits of one scope
    List {
        #[command(flatten)]
        scope: ScopeOptions,
    },
    /// Show the limits of a scope
    Get {
        #[command(flatten)]
        scope: ScopeOptions,
        #[command(flatten)]
        interval: IntervalOptions,
    },
    /// Set a limit, or change its amount: such as 50usd, 50usd/month, 2usd/day
    Set {
        #[arg(allow_hyphen_values = true)]
        amount: String,
        #[command(flatten)]
        scope: ScopeOptions,
        #[command(flatten)]
        terms: Terms,
    },
    /// Remove
    Clear {
        #[command(flatten)]
        scope: ScopeOptions,
        #[command(flatten)]
        interval: IntervalOptions,
    },
    /// What a limit would have stopped: replays the books and changes nothing
    Try {
        amount: String,
        #[command(flatten)]
        scope: ScopeOptions,
        /// IANA time zone in which its periods begin
        #[arg(long, value_name = "ZONE", default_value = "UTC")]
        time_zone: String,
        /// How far back, such as 30d
        #[arg(long, default_value = "30d", value_name = "TIME")]
        since: String,
        /// List at most so many of the requests
        #[arg(long, value_name = "COUNT", default_value_t = 20)]
        limit: usize,
    },
    /// Keys that no limit holds
    Unlimited {
        #[command(flatten)]
        many: Many,
    },
    /// Limits that new projects and new keys begin with
    #[command(subcommand)]
    Default(DefaultCommand),
    /// What a project does with a request that does not fit
    #[command(subcommand)]
    Policy(PolicyCommand),
}

#[derive(Args, Debug)]
#[group(multiple = false)]
pub struct ScopeOptions {
    /// Of the whole organization
    #[arg(long)]
    organization: bool,
    /// Of a project, by its name or id [env: TOLLGATE_PROJECT]
    #[arg(short, long, value_name = "PROJECT")]
    project: Option<String>,
    /// Of a user, over all their projects, by their address or id
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Of one key
    #[arg(long, value_name = "ID")]
    api_key_id: Option<String>,
}

#[derive(Args, Debug)]
pub struct IntervalOptions {
    #[arg(long, value_parser = ["month", "week", "day"], default_value = "month")]
    interval: String,
}

#[derive(Args, Debug)]
pub struct Terms {
    /// IANA time zone in which its periods begin [default: UTC, or that of the limit there is]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Count what it would refuse, and refuse nothing
    #[arg(long, group = "mode")]
    observe: bool,
    /// Refuse [default, unless the limit there is only observes]
    #[arg(long, group = "mode")]
    enforce: bool,
}

#[derive(Subcommand, Debug)]
pub enum DefaultCommand {
    Get,
    /// Replace what new ones begin with; nothing given removes it
    Set {
        #[arg(long = "for", value_parser = ["projects", "api_keys"], value_name = "WHAT")]
        what: String,
        /// Such as 50usd/month 5usd/day
        amounts: Vec<String>,
        #[command(flatten)]
        terms: Terms,
    },
}

#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    Get {
        #[command(flatten)]
        project: InProject,
    },
    Set {
        #[command(flatten)]
        project: InProject,
        /// Refuse it, or lower its output to what fits
        #[arg(long, value_parser = ["refuse", "clamp"])]
        when_exceeded: Option<String>,
        /// Never lower it below so many tokens
        #[arg(long, value_name = "TOKENS")]
        min_output_tokens: Option<i64>,
        /// How long it may wait for what requests in flight hold
        #[arg(long, value_name = "MILLISECONDS")]
        wait_ms: Option<i64>,
    },
}

impl Terms {
    /// `None` for what the limit there is says, or else the usual.
    fn mode(&self) -> Option<&'static str> {
        match (self.observe, self.enforce) {
            (true, _) => Some("observe"),
            (_, true) => Some("enforce"),
            _ => None,
        }
    }
}

impl ScopeOptions {
    /// Without any of the flags it is the project of the environment.
    #[expect(clippy::disallowed_methods, reason = "clap cannot read it only where no other scope is given")]
    fn or_environment(mut self) -> Result<Self, Failure> {
        if !self.organization && self.project.is_none() && self.user.is_none() && self.api_key_id.is_none() {
            self.project = std::env::var("TOLLGATE_PROJECT").ok().filter(|id| !id.is_empty());
            if self.project.is_none() {
                let message =
                    "Say whose limit: --organization, --project ID, --user ID or --api-key-id ID.".to_owned();
                return Err(message.into());
            }
        }
        Ok(self)
    }

    /// Where all limits of the scope are.
    fn ours(&self) -> String {
        let scope = match self {
            Self { project: Some(id), .. } => format!("projects/{}", encoded(id)),
            Self { user: Some(id), .. } => format!("users/{}", encoded(id)),
            Self { api_key_id: Some(id), .. } => format!("api_keys/{}", encoded(id)),
            _ => "organization".to_owned(),
        };
        format!("{OURS}/{scope}/spend_limits")
    }

    /// Where OpenAI's limit of the scope is: that of the month in UTC.
    fn openai(&self) -> Option<String> {
        match &self.project {
            Some(project) => Some(format!("{PROJECTS}/{}/spend_limit", encoded(project))),
            None => self.organization.then(|| "/organization/spend_limit".to_owned()),
        }
    }
}

impl Session {
    pub async fn spend_limit(&self, command: SpendLimitCommand) -> Done {
        match command {
            SpendLimitCommand::List { scope } => {
                self.needs_tollgate("list limits")?;
                let all = self.client.get(&self.scope(scope).await?.ours(), &[]).await?;
                self.show(table::SPEND_LIMITS, &all["data"])
            }
            SpendLimitCommand::Get { scope, interval } => {
                let path = self.one_limit(&self.scope(scope).await?, &interval.interval).await?;
                self.show(table::SPEND_LIMITS, &self.client.get(&path, &[]).await?)
            }
            SpendLimitCommand::Set { amount, scope, terms } => {
                amount::limit(&amount)?;
                self.set_limit(&amount, &self.scope(scope).await?, &terms).await
            }
            SpendLimitCommand::Clear { scope, interval } => {
                let path = self.one_limit(&self.scope(scope).await?, &interval.interval).await?;
                self.confirm(
                    &format!("spend-limit clear --interval {}", interval.interval),
                    "It stops nothing from the next request on.",
                )?;
                self.deleted(&path).await
            }
            SpendLimitCommand::Try { amount, scope, time_zone, since, limit } => {
                self.needs_tollgate("try a limit")?;
                let (cents, interval) = amount::limit(&amount)?;
                let seconds = amount::seconds(&since)?.ok_or("`never` is no span of time.".to_owned())?;
                let query = [
                    ("threshold_amount", cents.to_string()),
                    ("interval", interval.as_str().to_owned()),
                    ("time_zone", time_zone),
                    ("since", Clock::system().now().plus_seconds(-seconds).0.to_string()),
                    ("limit", limit.to_string()),
                ];
                let path = format!("{}/try", self.scope(scope).await?.ours());
                self.show_trial(&self.client.get(&path, &query).await?)
            }
            SpendLimitCommand::Unlimited { many } => {
                self.needs_tollgate("list keys without a limit")?;
                let query = [("has_spend_limit", "false".to_owned())];
                self.list(table::KEYS_OF_ORGANIZATION, &format!("{OURS}/api_keys"), &query, &many).await
            }
            SpendLimitCommand::Default(command) => self.default_limits(command).await,
            SpendLimitCommand::Policy(command) => self.spend_policy(command).await,
        }
    }

    /// Whose limit is meant, by their ids.
    async fn scope(&self, said: ScopeOptions) -> Result<ScopeOptions, Failure> {
        let mut scope = said.or_environment()?;
        if let Some(project) = &mut scope.project {
            *project = self.project_id(project).await?;
        }
        if let Some(user) = &mut scope.user {
            *user = self.id_of(&named::USER, user).await?;
        }
        Ok(scope)
    }

    /// The path of the limit of a scope and interval. OpenAI's own is at a place of its own; the others have ids.
    async fn one_limit(&self, scope: &ScopeOptions, interval: &str) -> Result<String, Failure> {
        if let (Some(path), "month", true) = (scope.openai(), interval, self.client.is_openai()) {
            return Ok(path);
        }
        self.needs_tollgate("limit spend by anything but an organization's or a project's month")?;
        if let Some(id) = self.find_limit(scope, interval).await? {
            return Ok(format!("{}/{}", scope.ours(), encoded(&id)));
        }
        let message =
            format!("There is no spend limit by the {interval}: see spend-limit list, and --interval.");
        let error = json!({"message": message});
        Err(CallError::Refused { status: 404, error, request_id: None }.into())
    }

    async fn find_limit(&self, scope: &ScopeOptions, interval: &str) -> Result<Option<String>, Failure> {
        let all = self.client.get(&scope.ours(), &[]).await?;
        let mut all = all["data"].as_array().into_iter().flatten();
        let found = all.find(|limit| limit["interval"] == interval);
        Ok(found.and_then(|limit| limit["id"].as_str()).map(str::to_owned))
    }

    async fn set_limit(&self, amount: &str, scope: &ScopeOptions, terms: &Terms) -> Done {
        let (cents, interval) = amount::limit(amount)?;
        let mut body = json!({"threshold_amount": cents, "currency": "USD", "interval": interval.as_str()});
        let is_usual = terms.mode().is_none() && terms.time_zone.is_none();
        if let (Some(path), Interval::Month, true, true) =
            (scope.openai(), interval, is_usual, self.client.is_openai())
        {
            return self.show(table::SPEND_LIMITS, &self.client.post(&path, &body).await?);
        }
        self.needs_tollgate("limit spend by anything but an organization's or a project's month")?;
        if let Some(zone) = &terms.time_zone {
            body["time_zone"] = json!(zone);
        }
        if let Some(mode) = terms.mode() {
            body["mode"] = json!(mode);
        }
        let mut path = scope.ours();
        if let Some(id) = self.find_limit(scope, interval.as_str()).await? {
            path = format!("{path}/{}", encoded(&id));
            body.as_object_mut().map(|fields| fields.remove("interval"));
        }
        self.show(table::SPEND_LIMITS, &self.client.post(&path, &body).await?)
    }

    /// People see the periods, and then the requests that would have been refused.
    fn show_trial(&self, trial: &Value) -> Done {
        match self.view.format {
            Format::Json | Format::Jsonl | Format::Yaml => return self.show(&[], trial),
            Format::Id => {
                let rows = trial["data"].as_array().into_iter().flatten();
                let ids: Vec<Value> = rows.map(|row| json!({"id": row["request_id"]})).collect();
                return self.show(&[], &Value::Array(ids));
            }
            Format::Table | Format::Csv => {}
        }
        self.show(table::TRIAL, &trial["periods"])?;
        if trial["data"].as_array().is_some_and(|rows| !rows.is_empty()) {
            self.say("");
            self.show(table::STOPPED, &trial["data"])?;
        }
        let text = |field: &str| trial[field].as_str().unwrap_or("0").to_owned();
        self.say(&format!(
            "\nIt would have refused {} of {} requests, ${} of ${}.",
            trial["refused_requests"],
            trial["requests"],
            text("refused_cost"),
            text("cost"),
        ));
        if trial["has_more"] == true {
            self.say("Not all of them are listed; see --limit.");
        }
        Ok(())
    }

    async fn default_limits(&self, command: DefaultCommand) -> Done {
        self.needs_tollgate("set default limits")?;
        let defaults = match command {
            DefaultCommand::Get => self.client.get(DEFAULTS, &[]).await?,
            DefaultCommand::Set { what, amounts, terms } => {
                let mut limits = Vec::with_capacity(amounts.len());
                for amount in &amounts {
                    let (cents, interval) = amount::limit(amount)?;
                    limits.push(json!({
                        "threshold_amount": cents, "currency": "USD", "interval": interval.as_str(),
                        "time_zone": terms.time_zone.as_deref().unwrap_or("UTC"),
                        "mode": terms.mode().unwrap_or("enforce"),
                    }));
                }
                self.client.post(DEFAULTS, &json!({what: limits})).await?
            }
        };
        if self.view.format.is_for_programs() {
            return self.show(&[], &defaults);
        }
        let mut rows = Vec::new();
        for what in ["projects", "api_keys"] {
            for limit in defaults[what].as_array().into_iter().flatten() {
                let mut row = limit.clone();
                row["for"] = json!(what);
                rows.push(row);
            }
        }
        self.show(table::DEFAULT_LIMITS, &Value::Array(rows))
    }

    async fn spend_policy(&self, mut command: PolicyCommand) -> Done {
        self.needs_tollgate("choose what happens at a limit")?;
        let (PolicyCommand::Get { project } | PolicyCommand::Set { project, .. }) = &mut command;
        project.project = self.project_id(&project.project).await?;
        let path =
            |project: &InProject| format!("{OURS}/projects/{}/spend_policy", encoded(&project.project));
        let policy = match command {
            PolicyCommand::Get { project } => self.client.get(&path(&project), &[]).await?,
            PolicyCommand::Set { project, when_exceeded, min_output_tokens, wait_ms } => {
                let mut body = Map::new();
                body.extend(when_exceeded.map(|word| ("when_exceeded".to_owned(), json!(word))));
                body.extend(min_output_tokens.map(|tokens| ("min_output_tokens".to_owned(), json!(tokens))));
                body.extend(wait_ms.map(|wait| ("wait_ms".to_owned(), json!(wait))));
                self.client.post(&path(&project), &Value::Object(body)).await?
            }
        };
        self.show(table::SPEND_POLICY, &policy)
    }
}
