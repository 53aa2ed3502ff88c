//! Commands that are one operation each, as a table: what each is called, what is said to it, what is shown of its answer.

mod every;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Map, Value, json};

use crate::api::amount;
use crate::api::arguments::Many;
use crate::api::client::encoded;
use crate::api::operation::Row;
use crate::api::secret_input::Out;
use crate::api::session::{Done, Failure, Session};
use crate::api::table::Column;
use every::NOUNS;

/// What a word on the command line is to the operation.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// May be given more than once.
    Texts,
    Number,
    /// A whole number of days, or `forever`.
    DaysOrForever,
    /// A time such as 90d or never, in seconds.
    Seconds,
    /// The same, of what may be taken away by `none`.
    SecondsOrNone,
    /// US dollars such as 12.50, in cents.
    Cents,
    /// Projects that somebody becomes a member of.
    InvitedTo,
    /// Where it is told: by mail, by webhook, to Slack.
    Email,
    Webhook,
    Slack,
}

struct Said {
    /// The operation's name for it.
    parameter: &'static str,
    /// The flag; empty for a word that stands by itself.
    flag: &'static str,
    kind: Kind,
    is_required: bool,
    help: &'static str,
}

pub(crate) struct Verb {
    name: &'static str,
    about: &'static str,
    operation: &'static str,
    said: &'static [Said],
    columns: &'static [Column],
    /// Whether it is a list, of which all pages are wanted.
    is_list: bool,
    /// Where the answer has a secret that is shown this once.
    secret: &'static str,
    /// What is lost, where something is.
    loses: &'static str,
}

pub(crate) struct Noun {
    pub(crate) name: &'static str,
    alias: &'static str,
    about: &'static str,
    verbs: &'static [Verb],
}

const fn word(parameter: &'static str, help: &'static str) -> Said {
    Said { parameter, flag: "", kind: Kind::Text, is_required: true, help }
}

const fn flag(parameter: &'static str, flag: &'static str, kind: Kind, help: &'static str) -> Said {
    Said { parameter, flag, kind, is_required: false, help }
}

const fn needed(parameter: &'static str, flag: &'static str, kind: Kind, help: &'static str) -> Said {
    Said { parameter, flag, kind, is_required: true, help }
}

const fn verb(
    name: &'static str,
    operation: &'static str,
    said: &'static [Said],
    columns: &'static [Column],
    about: &'static str,
) -> Verb {
    Verb { name, about, operation, said, columns, is_list: false, secret: "", loses: "" }
}

const fn list(
    operation: &'static str,
    said: &'static [Said],
    columns: &'static [Column],
    about: &'static str,
) -> Verb {
    Verb { is_list: true, ..verb("list", operation, said, columns, about) }
}

impl Verb {
    const fn with_secret(self, secret: &'static str) -> Self {
        Self { secret, ..self }
    }

    const fn losing(self, loses: &'static str) -> Self {
        Self { loses, ..self }
    }
}

/// Adds the table to what can be said.
pub fn added_to(command: Command) -> Command {
    NOUNS.iter().fold(command, |command, noun| {
        let mut sub =
            Command::new(noun.name).about(noun.about).subcommand_required(true).arg_required_else_help(true);
        if !noun.alias.is_empty() {
            sub = sub.alias(noun.alias);
        }
        command.subcommand(noun.verbs.iter().fold(sub, |sub, verb| sub.subcommand(verb.command())))
    })
}

/// The verb that was said, if it is one of the table's, and what was said to it.
pub fn find(matches: &ArgMatches) -> Option<(&'static str, &'static str, &ArgMatches)> {
    let (name, matches) = matches.subcommand()?;
    let noun = NOUNS.iter().find(|noun| noun.name == name)?;
    let (name, matches) = matches.subcommand()?;
    let verb = noun.verbs.iter().find(|verb| verb.name == name)?;
    Some((noun.name, verb.name, matches))
}

impl Verb {
    fn command(&self) -> Command {
        let command = Command::new(self.name).about(self.about);
        let mut command = self.said.iter().fold(command, |command, said| command.arg(said.arg()));
        if self.is_list {
            let limit = Arg::new("limit").long("limit").value_name("COUNT").help("At most so many");
            command = command.arg(limit.value_parser(value_parser!(usize)).default_value("1000"));
        }
        if !self.secret.is_empty() {
            let out = Arg::new("out").long("out").value_name("FILE");
            command = command
                .arg(out.help("Write the secret to this file (0600, must not exist) instead of stdout"));
        }
        command
    }
}

impl Said {
    /// Its name among what was said: two may be one parameter.
    const fn id(&self) -> &'static str {
        if self.flag.is_empty() { self.parameter } else { self.flag }
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.id()).help(self.help).required(self.is_required);
        let arg = match self.kind {
            Kind::Texts | Kind::InvitedTo | Kind::Email => arg.action(ArgAction::Append),
            Kind::Number => arg.value_parser(value_parser!(i64)),
            _ => arg,
        };
        let value = match self.kind {
            Kind::Text | Kind::Texts => "TEXT",
            Kind::Number => "COUNT",
            Kind::DaysOrForever => "DAYS",
            Kind::Seconds | Kind::SecondsOrNone => "TIME",
            Kind::Cents => "USD",
            Kind::InvitedTo => "ID",
            Kind::Email => "ADDRESS",
            Kind::Webhook | Kind::Slack => "URL",
        };
        match self.flag {
            "" => arg.value_name(self.parameter),
            "project" if self.is_required => {
                arg.long("project").short('p').env("TOLLGATE_PROJECT").value_name("ID")
            }
            flag => arg.long(flag).value_name(value),
        }
    }

    /// Puts what was said into what the operation takes.
    fn add(&self, matches: &ArgMatches, given: &mut Map<String, Value>) -> Done {
        let one = || matches.get_one::<String>(self.id());
        let many = || matches.get_many::<String>(self.id()).map(|all| all.cloned().collect::<Vec<_>>());
        let value = match self.kind {
            Kind::Text => one().map(|text| json!(text)),
            Kind::Texts => many().map(|all| json!(all)),
            Kind::Number => matches.get_one::<i64>(self.id()).map(|number| json!(number)),
            Kind::DaysOrForever => match one().map(String::as_str) {
                Some("forever") => Some(Value::Null),
                Some(days) => Some(json!(
                    days.trim_end_matches('d')
                        .parse::<i64>()
                        .map_err(|_| { format!("`{days}` is neither a number of days nor `forever`.") })?
                )),
                None => None,
            },
            Kind::Seconds => match one() {
                Some(text) => amount::seconds(text)?.map(|seconds| json!(seconds)),
                None => None,
            },
            Kind::SecondsOrNone => match one().map(String::as_str) {
                Some("none" | "never") => Some(Value::Null),
                Some(text) => amount::seconds(text)?.map(|seconds| json!(seconds)),
                None => None,
            },
            Kind::Cents => one().map(|text| amount::cents(text).map(|cents| json!(cents))).transpose()?,
            Kind::InvitedTo => {
                many().map(|all| all.iter().map(|id| json!({"id": id, "role": "member"})).collect())
            }
            Kind::Email => many().map(|all| json!({"type": "email", "recipients": all})),
            Kind::Webhook => one().map(|url| json!({"type": "webhook", "url": url})),
            Kind::Slack => one().map(|url| json!({"type": "slack", "url": url})),
        };
        if let Some(value) = value
            && given.insert(self.parameter.to_owned(), value).is_some()
        {
            return Err(format!("{} is said twice.", self.parameter.replace('_', " ")).into());
        }
        Ok(())
    }
}

impl Session {
    /// Does what one row of the table says.
    pub async fn noun(&self, noun: &str, verb: &str, matches: &ArgMatches) -> Done {
        let found = NOUNS.iter().find(|known| known.name == noun);
        let found = found.and_then(|noun| noun.verbs.iter().find(|known| known.name == verb));
        let verb = found.ok_or_else(|| Failure::Usage(format!("There is no `{noun} {verb}`.")))?;
        let row = Row::of(verb.operation)?;
        let mut given = Map::new();
        for said in verb.said {
            said.add(matches, &mut given)?;
        }
        self.needs_operation(&row)?;
        self.with_ids(&mut given).await?;
        if noun.ends_with("spend-alert") && verb.name == "create" {
            given.insert("currency".to_owned(), json!("USD"));
            given.insert("interval".to_owned(), json!("month"));
        }
        if verb.name == "create"
            && verb.said.iter().any(|said| matches!(said.kind, Kind::Email))
            && !given.contains_key("notification_channel")
        {
            return Err("Say who is told: --email, --webhook or --slack.".to_owned().into());
        }
        if noun == "invite" && !given.contains_key("projects") && verb.name == "create" {
            given.insert("projects".to_owned(), json!([]));
        }
        if !verb.loses.is_empty() {
            // What is meant is the first word that was said.
            let first =
                verb.said.first().and_then(|said| matches.try_get_one::<String>(said.id()).ok().flatten());
            let first = first.map(|first| format!(" {first}")).unwrap_or_default();
            self.confirm(&format!("{noun} {}{first}", verb.name), verb.loses)?;
        }
        let out = if verb.secret.is_empty() {
            None
        } else {
            let path = matches.get_one::<String>("out").map(std::path::Path::new);
            // Of alerts only webhooks are signed, and nothing is lost of the others.
            let is_sure = !noun.ends_with("alert") || given["notification_channel"]["type"] == "webhook";
            if is_sure {
                self.place_for_secret(path, verb.secret)?
            } else {
                path.map(Out::create).transpose()?
            }
        };
        if verb.is_list {
            let limit = matches.get_one::<usize>("limit").copied().unwrap_or(1000);
            let (path, query) = row.split(given)?;
            let query: Vec<(&str, String)> =
                query.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            return self.list(verb.columns, &path, &query, &Many { limit }).await;
        }
        let answer = self.perform(&row, given).await?;
        let secret = answer.pointer(verb.secret).filter(|_| !verb.secret.is_empty());
        match secret.filter(|secret| secret.is_string()) {
            Some(secret) => self.show_secret(verb.columns, &answer, &secret.clone(), out),
            None if verb.columns.is_empty() => self.done(&answer),
            None => self.show(verb.columns, &answer),
        }
    }
}

/// A part of a path.
pub(crate) fn part(value: &Value) -> String {
    match value {
        Value::String(text) => encoded(text),
        other => encoded(&other.to_string()),
    }
}
