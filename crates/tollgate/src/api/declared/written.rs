//! The file of what there is.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::file::texts;
use super::read::State;
use super::shape::{
    Channel, DefaultLimits, EventAlert, Group, Key, KeyPolicy, Limit, Member, Organization, Project,
    ProjectGroup, Retention, Role, ServiceAccount, SpendAlert, SpendPolicy, User, VERSION,
};
use super::text::Text;
use super::thing::{Kind, Name, Thing};

/// All that there is, in the shape of a file.
pub(super) fn organization(state: &State) -> Organization {
    let there = There { state };
    let ours = |kind: Kind| (!state.is_openai).then(|| there.all(kind, &[]));
    Organization {
        tollgate: VERSION,
        key_policy: there.single(Kind::KeyPolicy, &[]).map(|own| KeyPolicy {
            default_expires: Some(time(&own["default_expires_in_seconds"]).into()),
            max_expires: Some(time(&own["max_expires_in_seconds"]).into()),
            key_owners: Some(text(own, "key_owners").into()),
        }),
        retention: there
            .single(Kind::Retention, &[])
            .map(|own| Retention { requests_days: own["requests_days"].as_i64() }),
        default_spend_limits: there.single(Kind::DefaultLimits, &[]).map(|own| {
            let all = |name: &str| own[name].as_array().into_iter().flatten().map(Limit::of).collect();
            DefaultLimits { projects: all("projects"), api_keys: all("api_keys") }
        }),
        spend_limits: Some(there.limits(Kind::Limit, &[])),
        spend_alerts: Some(there.alerts(Kind::SpendAlert, &[])),
        event_alerts: ours(Kind::EventAlert)
            .map(|all| all.into_iter().map(|(_, alert)| event_alert(alert)).collect()),
        roles: Some(there.each(Kind::Role, &[], |name, own| Role {
            name: name.into(),
            description: own.get("description").and_then(Value::as_str).map(str::to_owned),
            permissions: texts(&own["permissions"]),
        })),
        users: Some(there.each(Kind::User, &[], |email, own| User {
            role: text(own, "role"),
            roles: Some(there.names(Kind::UserRole, &email)).filter(|roles| !roles.is_empty()),
            email: email.into(),
        })),
        groups: Some(there.each(Kind::Group, &[], |name, _| Group {
            users: Some(there.names(Kind::GroupUser, &name)),
            roles: Some(there.names(Kind::GroupRole, &name)).filter(|roles| !roles.is_empty()),
            name: name.into(),
        })),
        projects: Some(there.each(Kind::Project, &[], |name, own| there.project(name, own))),
    }
}

struct There<'a> {
    state: &'a State,
}

impl There<'_> {
    /// All of a kind that belong to something.
    fn all(&self, kind: Kind, of: &[&str]) -> Vec<(&Name, &Thing)> {
        let belongs = |name: &Name| {
            name.kind == kind && name.path.iter().map(String::as_str).take(of.len()).eq(of.iter().copied())
        };
        self.state.things.iter().filter(|(name, _)| belongs(name)).collect()
    }

    fn each<T>(&self, kind: Kind, of: &[&str], shape: impl Fn(String, &Map<String, Value>) -> T) -> Vec<T> {
        let all = self.all(kind, of).into_iter();
        all.map(|(name, thing)| shape(name.last().to_owned(), &thing.said.fields)).collect()
    }

    fn single(&self, kind: Kind, of: &[&str]) -> Option<&Map<String, Value>> {
        self.all(kind, of).first().map(|(_, thing)| &thing.said.fields)
    }

    fn names(&self, kind: Kind, of: &str) -> Vec<Text> {
        self.each(kind, &[of], |name, _| name.into())
    }

    fn limits(&self, kind: Kind, of: &[&str]) -> Vec<Limit> {
        self.each(kind, of, |interval, own| {
            let mut value = own.clone();
            value.insert("interval".to_owned(), json!(interval));
            Limit::of(&Value::Object(value))
        })
    }

    fn alerts(&self, kind: Kind, of: &[&str]) -> Vec<SpendAlert> {
        let alert = |(_, thing): (&Name, &Thing)| {
            let said = &thing.said.at_first;
            let cents = said["threshold_amount"].as_i64().unwrap_or(0);
            let Channel { email, webhook, slack } = Channel::of(&said["notification_channel"]);
            SpendAlert {
                amount: format!("{}.{:02}usd", cents / 100, cents % 100).into(),
                email,
                webhook,
                slack,
                secret: None,
            }
        };
        self.all(kind, of).into_iter().map(alert).collect()
    }

    fn project(&self, name: String, own: &Map<String, Value>) -> Project {
        let of = [name.as_str()];
        let request_labels =
            own.get("request_labels").and_then(Value::as_object).filter(|all| !all.is_empty());
        Project {
            labels: labels(own),
            request_labels: request_labels
                .map(|all| all.iter().map(|(name, values)| (name.clone(), texts(values))).collect()),
            spend_limits: Some(self.limits(Kind::ProjectLimit, &of)),
            spend_policy: self.single(Kind::SpendPolicy, &of).map(|own| SpendPolicy {
                when_exceeded: text(own, "when_exceeded"),
                min_output_tokens: own.get("min_output_tokens").and_then(Value::as_i64),
                wait_ms: own.get("wait_ms").and_then(Value::as_i64),
            }),
            browser_requests: self.single(Kind::AccessPolicy, &of).map(|own| text(own, "browser_requests")),
            spend_alerts: Some(self.alerts(Kind::ProjectAlert, &of)),
            users: Some(self.each(Kind::ProjectUser, &of, |email, own| Member {
                email: email.into(),
                role: text(own, "role"),
            })),
            groups: Some(self.each(Kind::ProjectGroup, &of, |name, own| ProjectGroup {
                name: name.into(),
                role: text(own, "role"),
            })),
            service_accounts: Some(self.each(Kind::ServiceAccount, &of, |name, own| ServiceAccount {
                name: name.into(),
                role: own.get("role").and_then(Value::as_str).map(str::to_owned),
                labels: labels(own),
            })),
            // OpenAI makes none by request.
            keys: (!self.state.is_openai)
                .then(|| self.each(Kind::Key, &of, |key, own| self.key(&name, key, own))),
            name: name.into(),
        }
    }

    fn key(&self, project: &str, name: String, own: &Map<String, Value>) -> Key {
        let limits = self.limits(Kind::KeyLimit, &[project, &name]);
        Key {
            name: name.into(),
            owner: text(own, "owner"),
            scopes: own.get("scopes").map(texts).filter(|scopes| !scopes.is_empty()),
            labels: labels(own),
            expires: None,
            spend_limits: Some(limits).filter(|limits| !limits.is_empty()),
            secret: None,
        }
    }
}

fn event_alert(alert: &Thing) -> EventAlert {
    let said = &alert.said.at_first;
    let Channel { email, webhook, slack } = Channel::of(&said["notification_channel"]);
    EventAlert {
        events: texts(&said["events"]).into_iter().map(Text::from).collect(),
        project: said.get("project").and_then(Value::as_str).map(str::to_owned),
        unused_after_days: said.get("unused_after_days").and_then(Value::as_i64),
        email,
        webhook,
        slack,
        secret: None,
    }
}

fn text(own: &Map<String, Value>, name: &str) -> String {
    own.get(name).and_then(Value::as_str).unwrap_or("").to_owned()
}

fn labels(own: &Map<String, Value>) -> Option<BTreeMap<String, String>> {
    let all = own.get("labels")?.as_object()?;
    let labels: BTreeMap<String, String> =
        all.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or("").to_owned())).collect();
    Some(labels).filter(|labels| !labels.is_empty())
}

/// Seconds as a time such as 90d; null is never.
/// Seconds as the file has them.
pub(super) fn time(seconds: &Value) -> String {
    match seconds.as_i64() {
        Some(seconds) if seconds % 86_400 == 0 => format!("{}d", seconds / 86_400),
        Some(seconds) => format!("{seconds}s"),
        None => "never".to_owned(),
    }
}
