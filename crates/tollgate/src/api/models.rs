//! `model` and `model price`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tollgate_core::Timestamp;
use tollgate_core::price_book::Figures;
use tollgate_core::time::Clock;

use crate::api::amount;
use crate::api::client::encoded;
use crate::api::session::{Done, Failure, Session};
use crate::api::table;

#[derive(Subcommand, Debug)]
pub enum ModelCommand {
    /// Show the models
    List,
    /// Show a model
    Get { model: String },
    /// Set prices (US dollars per million tokens) from now on, and limits; `none` goes back to the embedded figure
    Set {
        model: String,
        #[command(flatten)]
        prices: Box<Prices>,
        #[command(flatten)]
        limits: Limits,
    },
    /// Go back to all embedded figures
    Reset { model: String },
    /// Prices with dates: list, set ahead of time, import
    #[command(subcommand)]
    Price(PriceCommand),
}

#[derive(Subcommand, Debug)]
pub enum PriceCommand {
    /// Versions of a model's prices, or of all that were set
    List { model: Option<String> },
    /// Set all prices of a model from a time on: what is not given is as the embedded data has it, or none. Shows what changes
    Set {
        model: String,
        #[command(flatten)]
        prices: Box<Prices>,
        /// When they begin: a day of UTC such as 2027-01-01, a time such as 2027-01-01T09:30:00Z, or in 12h or 30d;
        /// now if not given
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// When they end and what was before holds again
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
    /// Take a version out whose time has not come, or end one that is in force
    Delete { model: String, price: String },
    /// Set all prices of a file, or none: JSON, JSON lines or CSV; `-` is stdin
    Import { file: PathBuf },
    /// Show what importing a file would change; exit 1 if it is anything
    Diff { file: PathBuf },
    /// Write what is in force and planned, as `import` reads it
    Export,
}

/// Prices, as they are called everywhere.
#[derive(Args, Debug)]
pub struct Prices {
    #[arg(long, value_name = "USD")]
    input: Option<String>,
    #[arg(long, value_name = "USD")]
    cached_input: Option<String>,
    #[arg(long, value_name = "USD")]
    cache_write: Option<String>,
    /// To keep input in the cache for an hour
    #[arg(long, value_name = "USD")]
    cache_write_1h: Option<String>,
    #[arg(long, value_name = "USD")]
    output_price: Option<String>,
    /// Output that is reasoning, where it costs something else
    #[arg(long, value_name = "USD")]
    reasoning: Option<String>,
    /// What is heard and spoken
    #[arg(long, value_name = "USD")]
    audio_input: Option<String>,
    #[arg(long, value_name = "USD")]
    audio_output: Option<String>,
    /// What is seen and drawn
    #[arg(long, value_name = "USD")]
    image_input: Option<String>,
    #[arg(long, value_name = "USD")]
    image_output: Option<String>,
    /// Each request beside its tokens, in US dollars
    #[arg(long, value_name = "USD")]
    request_price: Option<String>,
    /// Each search of the web that the provider runs, in US dollars
    #[arg(long, value_name = "USD")]
    web_search: Option<String>,
    /// With more input than this the whole request costs what follows
    #[arg(long, value_name = "TOKENS")]
    long_above: Option<String>,
    #[arg(long, value_name = "USD")]
    long_input: Option<String>,
    #[arg(long, value_name = "USD")]
    long_cached_input: Option<String>,
    #[arg(long, value_name = "USD")]
    long_cache_write: Option<String>,
    #[arg(long, value_name = "USD")]
    long_cache_write_1h: Option<String>,
    #[arg(long, value_name = "USD")]
    long_output: Option<String>,
    /// What other service tiers cost, as a multiple of the usual price
    #[arg(long, value_name = "FACTOR")]
    flex_factor: Option<String>,
    #[arg(long, value_name = "FACTOR")]
    priority_factor: Option<String>,
    #[arg(long, value_name = "FACTOR")]
    batch_factor: Option<String>,
}

/// How much a model takes and makes.
#[derive(Args, Debug)]
pub struct Limits {
    #[arg(long, value_name = "TOKENS")]
    context: Option<String>,
    #[arg(long, value_name = "TOKENS")]
    max_output: Option<String>,
    /// The most tokens that one image counts as
    #[arg(long, value_name = "TOKENS")]
    image_tokens: Option<String>,
    /// What no request costs more than, in US dollars
    #[arg(long, value_name = "USD")]
    request_cost_max: Option<String>,
    /// Forget that answers exceeded their bounds, so that bounds are what they were
    #[arg(long)]
    forget_violations: bool,
}

impl Prices {
    /// By the names of the API.
    fn into_map(self) -> Result<Map<String, Value>, Failure> {
        let amounts = [
            ("input_price", self.input),
            ("cached_input_price", self.cached_input),
            ("cache_write_price", self.cache_write),
            ("cache_write_1h_price", self.cache_write_1h),
            ("output_price", self.output_price),
            ("reasoning_price", self.reasoning),
            ("audio_input_price", self.audio_input),
            ("audio_output_price", self.audio_output),
            ("image_input_price", self.image_input),
            ("image_output_price", self.image_output),
            ("request_price", self.request_price),
            ("web_search_price", self.web_search),
            ("long_input_price", self.long_input),
            ("long_cached_input_price", self.long_cached_input),
            ("long_cache_write_price", self.long_cache_write),
            ("long_cache_write_1h_price", self.long_cache_write_1h),
            ("long_output_price", self.long_output),
            ("flex_price_factor", self.flex_factor),
            ("priority_price_factor", self.priority_factor),
            ("batch_price_factor", self.batch_factor),
        ];
        let mut map = Map::new();
        for (name, text) in amounts {
            map.extend(text.map(|text| (name.to_owned(), money_or_none(text))));
        }
        if let Some(above) = self.long_above {
            map.insert("long_context_above".to_owned(), tokens_or_none(&above)?);
        }
        Ok(map)
    }
}

impl Limits {
    fn into_map(self) -> Result<Map<String, Value>, Failure> {
        let mut map = Map::new();
        map.extend(self.forget_violations.then(|| ("bound_violations".to_owned(), Value::Null)));
        map.extend(self.request_cost_max.map(|text| ("request_cost_max".to_owned(), money_or_none(text))));
        let tokens = [
            ("context_tokens", self.context),
            ("max_output_tokens", self.max_output),
            ("image_tokens", self.image_tokens),
        ];
        for (name, text) in tokens {
            let value = text.as_deref().map(tokens_or_none).transpose()?;
            map.extend(value.map(|value| (name.to_owned(), value)));
        }
        Ok(map)
    }
}

const ALL: &str = "/tollgate/v1/models";
const PRICES: &str = "/tollgate/v1/prices";

fn one(model: &str) -> String {
    format!("{ALL}/{}", encoded(model))
}

impl Session {
    /// Whether nothing differs, where that was asked.
    pub async fn model(&self, command: ModelCommand) -> Result<bool, Failure> {
        self.needs_tollgate("read or set prices")?;
        match command {
            ModelCommand::List => {
                let all = self.client.get(ALL, &[]).await?;
                self.show(table::MODELS, &all["data"])?;
            }
            ModelCommand::Get { model } => {
                self.show(table::MODELS, &self.client.get(&one(&model), &[]).await?)?;
            }
            ModelCommand::Set { model, prices, limits } => {
                let mut body = prices.into_map()?;
                body.extend(limits.into_map()?);
                self.show(table::MODELS, &self.client.post(&one(&model), &Value::Object(body)).await?)?;
            }
            ModelCommand::Reset { model } => self.deleted(&one(&model)).await?,
            ModelCommand::Price(command) => return self.price(command).await,
        }
        Ok(true)
    }

    async fn price(&self, command: PriceCommand) -> Result<bool, Failure> {
        let of_model = |model: &str| format!("{}/prices", one(model));
        match command {
            PriceCommand::List { model } => {
                let path = model.as_deref().map_or_else(|| PRICES.to_owned(), of_model);
                let all = self.client.get(&path, &[]).await?;
                self.show(table::PRICES, &all["data"])?;
            }
            PriceCommand::Set { model, prices, from, until } => {
                let now = Clock::system().now();
                let mut entry = json!({"model": model, "prices": prices.into_map()?});
                for (name, text) in [("effective_from", from), ("effective_until", until)] {
                    if let Some(text) = text {
                        entry[name] = json!(amount::moment_ahead(&text, now)?);
                    }
                }
                // As a list of one, for that says what differs from what would be.
                let done = self.client.post(PRICES, &json!({"prices": [entry]})).await?;
                self.show_changes(&done)?;
            }
            PriceCommand::Delete { model, price } => {
                self.deleted(&format!("{}/{}", of_model(&model), encoded(&price))).await?;
            }
            PriceCommand::Import { file } => {
                let body = json!({"prices": read_prices(&file)?});
                let done = self.client.post(PRICES, &body).await?;
                self.show_changes(&done)?;
            }
            PriceCommand::Diff { file } => {
                let body = json!({"prices": read_prices(&file)?, "dry_run": true});
                let done = self.client.post(PRICES, &body).await?;
                self.show_changes(&done)?;
                return Ok(done["created"] == 0);
            }
            PriceCommand::Export => {
                let now = Clock::system().now().0;
                let all = self.client.get(PRICES, &[]).await?;
                let holds =
                    |price: &&Value| price["effective_until"].as_i64().is_none_or(|until| until > now);
                let prices: Vec<Value> =
                    all["data"].as_array().into_iter().flatten().filter(holds).map(exported).collect();
                writeln!(std::io::stdout(), "{:#}", json!({"prices": prices}))?;
            }
        }
        Ok(true)
    }

    /// A row for each price that changes.
    fn show_changes(&self, done: &Value) -> Done {
        if self.view.format.is_for_programs() {
            return self.show(table::PRICE_CHANGES, done);
        }
        let mut rows = Vec::new();
        for change in done["data"].as_array().into_iter().flatten() {
            let mut row = change.clone();
            for (name, values) in change["changes"].as_object().into_iter().flatten() {
                row["price"] = json!(name);
                row["before"] = values["from"].clone();
                row["after"] = values["to"].clone();
                rows.push(row.clone());
            }
        }
        self.show(table::PRICE_CHANGES, &Value::Array(rows))?;
        let verb = if done["dry_run"] == true { "would be set" } else { "set" };
        self.say(&format!("Versions {verb}: {}. So already: {}.", done["created"], done["unchanged"]));
        Ok(())
    }
}

/// A version as an import has it.
fn exported(price: &Value) -> Value {
    let said = price["prices"].as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let said: Map<String, Value> = said.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut entry = json!({"model": price["model"], "prices": said});
    // What has begun begins anew where it is imported.
    if price["in_force"] != true {
        entry["effective_from"] = price["effective_from"].clone();
    }
    if !price["effective_until"].is_null() {
        entry["effective_until"] = price["effective_until"].clone();
    }
    entry
}

/// The entries of a file, by what it looks like: an object with `prices`, a list, an object on each line, or CSV.
fn read_prices(file: &Path) -> Result<Vec<Value>, Failure> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let name = file.display();
    let now = Clock::system().now();
    let entries = match text.trim_start_matches('\u{feff}').trim_start().chars().next() {
        Some('[') => serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))?,
        Some('{') => match serde_json::from_str::<Value>(&text) {
            Ok(mut whole) if whole["prices"].is_array() => match whole["prices"].take() {
                Value::Array(entries) => entries,
                _ => Vec::new(),
            },
            Ok(entry) => vec![entry],
            Err(_) => json_lines(&text).map_err(|error| format!("{name}: {error}"))?,
        },
        _ => from_csv(&text).map_err(|error| format!("{name}: {error}"))?,
    };
    let dated = entries.into_iter().enumerate().map(|(at, entry)| {
        with_times(entry, now).map_err(|error| Failure::from(format!("{name}: entry {}: {error}", at + 1)))
    });
    dated.collect()
}

fn json_lines(text: &str) -> Result<Vec<Value>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| serde_json::from_str(line).map_err(|error| format!("line {}: {error}", at + 1)))
        .collect()
}

/// A header with `model`, `effective_from`, `effective_until` and names of prices; an empty cell is left out.
fn from_csv(text: &str) -> Result<Vec<Value>, String> {
    let text = text.trim_start_matches('\u{feff}');
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| error.to_string())?.clone();
    let is_known = |name: &str| {
        ["model", "effective_from", "effective_until"].contains(&name) || Figures::NAMES.contains(&name)
    };
    if header.len() == 1 && header.iter().any(|name| name.contains(';')) {
        return Err("line 1: the columns are separated by semicolons; commas are needed".to_owned());
    }
    if let Some(twice) = header.iter().find(|name| header.iter().filter(|other| other == name).count() > 1) {
        return Err(format!("line 1: there are two columns `{twice}`"));
    }
    if let Some(unknown) = header.iter().find(|name| !is_known(name)) {
        return Err(format!("line 1: `{unknown}` is not the name of a price"));
    }
    if !header.iter().any(|name| name == "model") {
        return Err("line 1: there is no column `model`".to_owned());
    }
    let mut entries = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|error| error.to_string())?;
        let line = row.position().map_or(0, csv::Position::line);
        let mut entry = json!({"prices": {}});
        for (name, cell) in header.iter().zip(row.iter()).filter(|(_, cell)| !cell.is_empty()) {
            match name {
                "model" | "effective_from" | "effective_until" => entry[name] = json!(cell),
                "long_context_above" => {
                    let tokens = cell.parse::<u64>();
                    let wrong = |_| format!("line {line}: `{name}`: `{cell}` is not a number of tokens");
                    entry["prices"][name] = json!(tokens.map_err(wrong)?);
                }
                _ => entry["prices"][name] = json!(cell),
            }
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Times are written as days or moments too.
fn with_times(mut entry: Value, now: Timestamp) -> Result<Value, String> {
    for name in ["effective_from", "effective_until"] {
        if let Some(text) = entry[name].as_str().map(str::to_owned) {
            let moment = amount::moment_ahead(&text, now).map_err(|error| format!("`{name}`: {error}"))?;
            entry[name] = json!(moment);
        } else if entry[name].is_null()
            && let Some(object) = entry.as_object_mut()
        {
            object.remove(name);
        }
    }
    Ok(entry)
}

/// `none` takes an operator's figure back.
fn money_or_none(text: String) -> Value {
    if text == "none" { Value::Null } else { Value::String(text) }
}

fn tokens_or_none(text: &str) -> Result<Value, Failure> {
    if text == "none" {
        return Ok(Value::Null);
    }
    let tokens = text.parse::<i64>();
    tokens
        .map(|tokens| json!(tokens))
        .map_err(|_| format!("`{text}` is neither a number of tokens nor `none`.").into())
}
