//! The file: how it is read, what it says, thing by thing, and how it is written.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use tollgate_core::{Address, Zone};

use super::shape::{Channel, EventAlert, Key, Limit, Organization, Project, Secret, SpendAlert, VERSION};
use super::text::{Text, Wrong};
use super::thing::{Fields, Kind, Name, Things};
use crate::api::amount;

/// What a file is called where something is said of it.
pub(super) fn called(file: &Path) -> String {
    if file == Path::new("-") { "stdin".to_owned() } else { file.display().to_string() }
}

pub(super) fn read(file: &Path) -> Result<Organization, String> {
    let name = called(file);
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|error| format!("Cannot read {name}: {error}."))?;
    let organization: Organization = serde_saphyr::from_str(&text).map_err(|error| {
        let message = error.to_string();
        let place = error.location().map(|at| format!(":{}:{}", at.line(), at.column())).unwrap_or_default();
        let message = message.lines().next().unwrap_or_default();
        let message = message
            .split_once(": ")
            .filter(|(before, _)| before.starts_with("error"))
            .map_or(message, |(_, rest)| rest);
        let message = message
            .strip_prefix("line ")
            .and_then(|rest| rest.split_once(": "))
            .map_or(message, |(_, rest)| rest);
        // What follows is for programmers.
        let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(message);
        format!("{name}{place}: {message}")
    })?;
    if organization.tollgate != VERSION {
        return Err(format!(
            "{name}: `tollgate: {}` is a format that this version does not know; it knows {VERSION}.",
            organization.tollgate
        ));
    }
    Ok(organization)
}

pub(super) fn written(organization: &Organization) -> Result<String, String> {
    serde_saphyr::to_string(organization).map_err(|error| format!("The file cannot be written: {error}."))
}

fn fields(pairs: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Map<String, Value> {
    pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn said(pairs: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Fields {
    Fields { fields: fields(pairs), ..Fields::default() }
}

/// In an order of their own, for they are compared.
fn sorted<S: AsRef<str>>(texts: &[S]) -> Value {
    let mut texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
    texts.sort_unstable();
    texts.dedup();
    json!(texts)
}

/// A time such as 90d in seconds; null for never.
fn seconds(field: &str, text: &Text) -> Result<Value, Wrong> {
    let seconds = amount::seconds(text).map_err(|message| Wrong::at(text.line, field, message))?;
    Ok(seconds.map_or(Value::Null, |seconds| json!(seconds)))
}

impl Limit {
    /// Its interval, and what is compared of it.
    fn read(&self) -> Result<(String, Fields), Wrong> {
        let wrong = |message| Wrong::at(self.amount.line, "limit", message);
        let (cents, interval) = amount::limit(&self.amount).map_err(wrong)?;
        one_of(self.amount.line, "mode", &self.mode, &["enforce", "observe"])?;
        if Zone::parse(&self.time_zone).is_none() {
            let told = format!("`{}` is no time zone such as Europe/Berlin.", self.time_zone);
            return Err(Wrong::at(self.amount.line, "time_zone", told));
        }
        let fields = [
            ("threshold_amount", Some(json!(cents))),
            ("time_zone", Some(json!(self.time_zone))),
            ("mode", Some(json!(self.mode))),
        ];
        Ok((interval.as_str().to_owned(), said(fields)))
    }

    fn body(&self) -> Result<Value, Wrong> {
        let (interval, said) = self.read()?;
        let mut body = said.fields;
        body.insert("interval".to_owned(), json!(interval));
        body.insert("currency".to_owned(), json!("USD"));
        Ok(Value::Object(body))
    }

    pub(super) fn of(value: &Value) -> Self {
        let cents = value["threshold_amount"].as_i64().unwrap_or(0);
        let text = |name: &str| value[name].as_str().unwrap_or("").to_owned();
        Self {
            amount: format!("{}.{:02}usd/{}", cents / 100, cents % 100, text("interval")).into(),
            time_zone: text("time_zone"),
            mode: text("mode"),
        }
    }
}

impl Secret {
    /// Where it goes, as a step has it. The line is of what it belongs to.
    fn read(said: Option<&Self>, line: u64) -> Result<Option<Value>, Wrong> {
        match said {
            Some(Self { file: Some(file), command: None }) => Ok(Some(json!({"file": file}))),
            Some(Self { file: None, command: Some(command) }) if !command.is_empty() => {
                Ok(Some(json!({"command": command})))
            }
            None => Ok(None),
            Some(_) => Err(Wrong::at(line, "secret", "It is either a file or a command.")),
        }
    }
}

impl SpendAlert {
    fn channel(&self) -> Channel {
        Channel { email: self.email.clone(), webhook: self.webhook.clone(), slack: self.slack.clone() }
    }
}

impl EventAlert {
    fn channel(&self) -> Channel {
        Channel { email: self.email.clone(), webhook: self.webhook.clone(), slack: self.slack.clone() }
    }
}

impl Channel {
    /// As the API has it, and a name for it.
    fn read(&self, line: u64, whose: &str) -> Result<(Value, String), Wrong> {
        match (&self.email, &self.webhook, &self.slack) {
            (Some(addresses), None, None) => {
                let recipients = sorted(addresses);
                Ok((
                    json!({"type": "email", "recipients": recipients}),
                    format!("email {}", texts(&recipients).join(", ")),
                ))
            }
            (None, Some(url), None) => {
                Ok((json!({"type": "webhook", "url": url}), format!("webhook {}", shown(url))))
            }
            (None, None, Some(url)) => {
                Ok((json!({"type": "slack", "url": url}), format!("slack {}", shown(url))))
            }
            _ => Err(Wrong::at(line, whose, "Say one of email, webhook and slack.")),
        }
    }

    pub(super) fn of(value: &Value) -> Self {
        let url = || value["url"].as_str().map(str::to_owned);
        match value["type"].as_str() {
            Some("webhook") => Self { webhook: url(), ..Self::default() },
            Some("slack") => Self { slack: url(), ..Self::default() },
            _ => Self { email: Some(texts(&value["recipients"])), ..Self::default() },
        }
    }
}

/// What the server shows of an address, whose path may be a secret; that is also what an export has.
fn shown(url: &str) -> String {
    if url.ends_with("/...") {
        return url.to_owned();
    }
    let (address, _) = url.split_once('?').unwrap_or((url, ""));
    Address::parse(address).map_or_else(|_| url.to_owned(), |address| format!("{}/...", address.origin()))
}

pub(super) fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Organization {
    /// What the file says, thing by thing.
    pub(super) fn things(&self) -> Result<Things, Wrong> {
        let mut things = Things::default();
        let nothing: [&str; 0] = [];
        if let Some(policy) = &self.key_policy {
            if let Some(owners) = &policy.key_owners {
                one_of(owners.line, "key_owners", owners, &["any", "service_accounts"])?;
            }
            let expiry =
                |field: &str, text: &Option<Text>| text.as_ref().map(|text| seconds(field, text)).transpose();
            let fields = [
                ("default_expires_in_seconds", expiry("default_expires", &policy.default_expires)?),
                ("max_expires_in_seconds", expiry("max_expires", &policy.max_expires)?),
                ("key_owners", policy.key_owners.as_ref().map(|owners| json!(&**owners))),
            ];
            add(&mut things, 0, Name::new(Kind::KeyPolicy, nothing), said(fields))?;
        }
        if let Some(retention) = &self.retention {
            add(
                &mut things,
                0,
                Name::new(Kind::Retention, nothing),
                said([("requests_days", Some(json!(retention.requests_days)))]),
            )?;
        }
        if let Some(defaults) = &self.default_spend_limits {
            let all =
                |limits: &[Limit]| limits.iter().map(Limit::body).collect::<Result<Vec<_>, _>>().map(ordered);
            let fields =
                [("projects", Some(all(&defaults.projects)?)), ("api_keys", Some(all(&defaults.api_keys)?))];
            add(&mut things, 0, Name::new(Kind::DefaultLimits, nothing), said(fields))?;
        }
        limits(&mut things, Kind::Limit, &[], self.spend_limits.as_deref())?;
        alerts(&mut things, Kind::SpendAlert, &[], self.spend_alerts.as_deref())?;
        if let Some(alerts) = &self.event_alerts {
            things.whole.insert(Name::new(Kind::EventAlert, nothing));
            for alert in alerts {
                let line = alert.events.first().map_or(0, |event| event.line);
                for event in &alert.events {
                    one_of(event.line, "events", event, &tollgate_alerts::events::EVENTS)?;
                }
                let (channel, called) = alert.channel().read(line, "event_alerts")?;
                let events = sorted(&alert.events);
                let mut name = vec![texts(&events).join(", "), called];
                name.extend(alert.project.clone());
                let at_first = fields([
                    ("events", Some(events)),
                    ("notification_channel", Some(channel)),
                    ("project", alert.project.as_ref().map(|project| json!(project))),
                    ("unused_after_days", alert.unused_after_days.map(|days| json!(days))),
                    ("secret", Secret::read(alert.secret.as_ref(), line)?),
                ]);
                let said = Fields { at_first, ..Fields::default() };
                add(&mut things, line, Name::new(Kind::EventAlert, name), said)?;
            }
        }
        self.people(&mut things)?;
        if let Some(projects) = &self.projects {
            things.whole.insert(Name::new(Kind::Project, nothing));
            for project in projects {
                project.add(&mut things)?;
            }
        }
        Ok(things)
    }

    fn people(&self, things: &mut Things) -> Result<(), Wrong> {
        let nothing: [&str; 0] = [];
        if let Some(roles) = &self.roles {
            things.whole.insert(Name::new(Kind::Role, nothing));
            for role in roles {
                let fields = [
                    ("description", Some(json!(role.description))),
                    ("permissions", Some(sorted(&role.permissions))),
                ];
                add(things, role.name.line, Name::new(Kind::Role, [&*role.name]), said(fields))?;
            }
        }
        if let Some(users) = &self.users {
            things.whole.insert(Name::new(Kind::User, nothing));
            for user in users {
                let email = user.email.trim().to_lowercase();
                one_of(user.email.line, "role", &user.role, &["owner", "reader"])?;
                let role = said([("role", Some(json!(user.role)))]);
                add(things, user.email.line, Name::new(Kind::User, [&email]), role)?;
                related(things, Kind::UserRole, &email, user.roles.as_deref(), str::to_owned)?;
            }
        }
        if let Some(groups) = &self.groups {
            things.whole.insert(Name::new(Kind::Group, nothing));
            for group in groups {
                add(things, group.name.line, Name::new(Kind::Group, [&*group.name]), Fields::default())?;
                let address = |email: &str| email.trim().to_lowercase();
                related(things, Kind::GroupUser, &group.name, group.users.as_deref(), address)?;
                related(things, Kind::GroupRole, &group.name, group.roles.as_deref(), str::to_owned)?;
            }
        }
        Ok(())
    }
}

/// That a word is one of those that there are.
fn one_of(line: u64, field: &str, word: &str, words: &[&str]) -> Result<(), Wrong> {
    if words.contains(&word) {
        return Ok(());
    }
    Err(Wrong::at(line, field, format!("`{word}` is none of {}.", words.join(", "))))
}

fn add(things: &mut Things, line: u64, name: Name, said: Fields) -> Result<(), Wrong> {
    if line > 0 {
        things.lines.insert(name.clone(), line);
    }
    let whose = name.kind.name();
    things.add(name, said).map_err(|message| Wrong::at(line, whose, message))
}

/// What belongs to something by its name alone.
fn related(
    things: &mut Things,
    kind: Kind,
    to: &str,
    names: Option<&[Text]>,
    called: impl Fn(&str) -> String,
) -> Result<(), Wrong> {
    let Some(names) = names else { return Ok(()) };
    things.whole.insert(Name::new(kind, [to]));
    names.iter().try_for_each(|name| {
        add(things, name.line, Name::new(kind, [to.to_owned(), called(name)]), Fields::default())
    })
}

fn limits(things: &mut Things, kind: Kind, of: &[&str], limits: Option<&[Limit]>) -> Result<(), Wrong> {
    let Some(limits) = limits else { return Ok(()) };
    things.whole.insert(Name::new(kind, of.to_vec()));
    for limit in limits {
        let (interval, said) = limit.read()?;
        let path: Vec<&str> = of.iter().copied().chain([interval.as_str()]).collect();
        add(things, limit.amount.line, Name::new(kind, path), said)?;
    }
    Ok(())
}

fn alerts(things: &mut Things, kind: Kind, of: &[&str], alerts: Option<&[SpendAlert]>) -> Result<(), Wrong> {
    let Some(alerts) = alerts else { return Ok(()) };
    things.whole.insert(Name::new(kind, of.to_vec()));
    for alert in alerts {
        let line = alert.amount.line;
        let cents = amount::cents(&alert.amount).map_err(|message| Wrong::at(line, "amount", message))?;
        let (channel, called) = alert.channel().read(line, "spend_alerts")?;
        let called = format!("{}.{:02}usd by {called}", cents / 100, cents % 100);
        let path: Vec<&str> = of.iter().copied().chain([called.as_str()]).collect();
        let at_first = fields([
            ("threshold_amount", Some(json!(cents))),
            ("currency", Some(json!("USD"))),
            ("interval", Some(json!("month"))),
            ("notification_channel", Some(channel)),
            ("secret", Secret::read(alert.secret.as_ref(), line)?),
        ]);
        add(things, line, Name::new(kind, path), Fields { at_first, ..Fields::default() })?;
    }
    Ok(())
}

/// Limits of defaults in an order of their own.
pub(super) fn ordered(mut limits: Vec<Value>) -> Value {
    limits.sort_by_key(|limit| limit["interval"].as_str().unwrap_or("").to_owned());
    Value::Array(limits)
}

impl Project {
    fn add(&self, things: &mut Things) -> Result<(), Wrong> {
        let (name, line) = (&*self.name, self.name.line);
        let own = [
            ("labels", self.labels.as_ref().map(|labels| json!(labels))),
            (
                "request_labels",
                self.request_labels.as_ref().map(|labels| {
                    json!(
                        labels
                            .iter()
                            .map(|(name, values)| (name, sorted(values)))
                            .collect::<BTreeMap<_, _>>()
                    )
                }),
            ),
        ];
        add(things, line, Name::new(Kind::Project, [name]), said(own))?;
        limits(things, Kind::ProjectLimit, &[name], self.spend_limits.as_deref())?;
        alerts(things, Kind::ProjectAlert, &[name], self.spend_alerts.as_deref())?;
        if let Some(policy) = &self.spend_policy {
            one_of(line, "when_exceeded", &policy.when_exceeded, &["refuse", "clamp"])?;
            let fields = [
                ("when_exceeded", Some(json!(policy.when_exceeded))),
                ("min_output_tokens", policy.min_output_tokens.map(|least| json!(least))),
                ("wait_ms", policy.wait_ms.map(|wait| json!(wait))),
            ];
            add(things, line, Name::new(Kind::SpendPolicy, [name]), said(fields))?;
        }
        if let Some(browsers) = &self.browser_requests {
            one_of(line, "browser_requests", browsers, &["refuse", "allow"])?;
            let own = said([("browser_requests", Some(json!(browsers)))]);
            add(things, line, Name::new(Kind::AccessPolicy, [name]), own)?;
        }
        if let Some(users) = &self.users {
            things.whole.insert(Name::new(Kind::ProjectUser, [name]));
            for user in users {
                let email = user.email.trim().to_lowercase();
                one_of(user.email.line, "role", &user.role, &["owner", "member", "viewer"])?;
                let role = said([("role", Some(json!(user.role)))]);
                add(things, user.email.line, Name::new(Kind::ProjectUser, [name, &email]), role)?;
            }
        }
        if let Some(groups) = &self.groups {
            things.whole.insert(Name::new(Kind::ProjectGroup, [name]));
            for group in groups {
                let role = said([("role", Some(json!(group.role)))]);
                add(things, group.name.line, Name::new(Kind::ProjectGroup, [name, &*group.name]), role)?;
            }
        }
        if let Some(accounts) = &self.service_accounts {
            things.whole.insert(Name::new(Kind::ServiceAccount, [name]));
            for account in accounts {
                let own = [
                    ("role", account.role.as_ref().map(|role| json!(role))),
                    ("labels", account.labels.as_ref().map(|labels| json!(labels))),
                ];
                let named = Name::new(Kind::ServiceAccount, [name, &*account.name]);
                add(things, account.name.line, named, said(own))?;
            }
        }
        if let Some(keys) = &self.keys {
            things.whole.insert(Name::new(Kind::Key, [name]));
            for key in keys {
                key.add(name, things)?;
            }
        }
        Ok(())
    }
}

impl Key {
    fn add(&self, project: &str, things: &mut Things) -> Result<(), Wrong> {
        let line = self.name.line;
        let own = fields([
            ("owner", Some(json!(self.owner.trim()))),
            ("scopes", self.scopes.as_deref().map(sorted)),
            ("labels", self.labels.as_ref().map(|labels| json!(labels))),
        ]);
        let secret = Secret::read(self.secret.as_ref(), line)?;
        let expires = self.expires.as_ref().map(|expires| seconds("expires", expires)).transpose()?;
        let at_first = fields([("expires_in_seconds", expires), ("secret", secret)]);
        let said = Fields { fields: own, at_first };
        add(things, line, Name::new(Kind::Key, [project, &*self.name]), said)?;
        limits(things, Kind::KeyLimit, &[project, &self.name], self.spend_limits.as_deref())
    }
}
