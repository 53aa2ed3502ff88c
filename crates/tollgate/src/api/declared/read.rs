//! Reading what there is, as far as it is needed.

use std::collections::HashMap;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Map, Value, json};

use tollgate_core::Clock;

use super::file::ordered;
use super::thing::{Fields, Kind, Name, Things};
use crate::api::client::{CallError, encoded};
use crate::api::session::{Failure, PROJECTS, Session};

/// So many are asked at a time.
const AT_ONCE: usize = 8;
const ALL: usize = 1_000_000;

/// What there is, and the ids of it.
pub(super) struct State {
    pub(super) things: Things,
    pub(super) ids: HashMap<Name, String>,
    pub(super) is_openai: bool,
    /// The one that stays, where the server says which it is.
    pub(super) default_project: Option<Name>,
}

/// What was found: a name, what it is, its id.
type Found = (Name, Fields, Option<String>);

struct Reader<'a> {
    session: &'a Session,
    /// What is needed; all of it where nothing is said.
    wished: Option<&'a Things>,
    is_openai: bool,
}

/// Reads all that is wished, or all; of projects those alone, if some are named.
pub(super) async fn read(
    session: &Session,
    wished: Option<&Things>,
    projects: Option<&[String]>,
) -> Result<State, Failure> {
    let reader = Reader { session, wished, is_openai: session.client.is_openai() };
    let mut state = State {
        things: Things::default(),
        ids: HashMap::new(),
        is_openai: reader.is_openai,
        default_project: None,
    };
    let (roles, users, groups, all) = tokio::try_join!(
        reader.list("/organization/roles", &[]),
        reader.list("/organization/users", &[]),
        reader.list("/organization/groups", &[]),
        reader.list(PROJECTS, &[]),
    )?;
    let emails: HashMap<String, String> =
        users.iter().map(|user| (text(user, "id"), text(user, "email").to_lowercase())).collect();
    state.add_people(&roles, &users, &groups)?;
    let meant: Vec<&Value> = all
        .iter()
        .filter(|project| {
            projects.is_none_or(|names| names.is_empty() || names.contains(&text(project, "name")))
        })
        .collect();
    if let Some(missing) =
        projects.into_iter().flatten().find(|name| !all.iter().any(|one| text(one, "name") == **name))
    {
        return Err(format!("There is no project `{missing}`.").into());
    }
    for project in &meant {
        let mut own = Fields::default();
        for name in ["labels", "request_labels"] {
            if project[name].is_object() {
                own.fields.insert(name.to_owned(), project[name].clone());
            }
        }
        let name = Name::new(Kind::Project, [text(project, "name")]);
        let name = state.add((name, own, Some(text(project, "id"))))?;
        if project["is_default"] == Value::Bool(true) {
            state.default_project = Some(name);
        }
    }
    state.extend(reader.organization().await?)?;
    let of_users =
        users.iter().filter(|user| reader.needs(Kind::UserRole, &[&text(user, "email").to_lowercase()]));
    state.extend(reader.each(of_users.map(|user| reader.roles_of(user)).collect()).await?)?;
    let of_groups = groups.iter().map(|group| reader.of_group(group, &emails)).collect();
    state.extend(reader.each(of_groups).await?)?;
    // Those that nothing is said of are only known to be there.
    let read = meant.into_iter().filter(|project| {
        wished
            .is_none_or(|wished| wished.all.contains_key(&Name::new(Kind::Project, [text(project, "name")])))
    });
    state.extend(reader.each(read.map(|project| reader.of_project(project, &emails)).collect()).await?)?;
    let names: HashMap<String, String> = state
        .ids
        .iter()
        .filter(|(name, _)| name.kind == Kind::Project)
        .map(|(name, id)| (id.clone(), name.last().to_owned()))
        .collect();
    state.extend(reader.event_alerts(&names).await?)?;
    Ok(state)
}

impl State {
    /// Says under which name.
    fn add(&mut self, (mut name, said, id): Found) -> Result<Name, Failure> {
        // Several may be called alike, and of a webhook's address only the server is shown: they are numbered.
        if self.things.all.contains_key(&name) {
            let first = name.last().to_owned();
            let mut number = 1;
            while self.things.all.contains_key(&name) {
                number += 1;
                name.path.pop();
                name.path.push(format!("{first} ({number})"));
            }
        }
        if let Some(id) = id {
            self.ids.insert(name.clone(), id);
        }
        let added = self.things.add(name.clone(), said);
        added.map_err(|message| Failure::Usage(format!("On the server: {message}"))).map(|()| name)
    }

    fn add_people(&mut self, roles: &[Value], users: &[Value], groups: &[Value]) -> Result<(), Failure> {
        for role in roles {
            let name = text(role, "name");
            self.ids.insert(Name::new(Kind::Role, [&name]), text(role, "id"));
            if role["predefined_role"] == Value::Bool(true) {
                continue;
            }
            let own =
                [("description", role["description"].clone()), ("permissions", sorted(&role["permissions"]))];
            self.add((Name::new(Kind::Role, [&name]), compared(own), None))?;
        }
        for user in users {
            let name = Name::new(Kind::User, [text(user, "email").to_lowercase()]);
            self.add((name, compared([("role", user["role"].clone())]), Some(text(user, "id"))))?;
        }
        for group in groups {
            self.add((
                Name::new(Kind::Group, [text(group, "name")]),
                Fields::default(),
                Some(text(group, "id")),
            ))?;
        }
        Ok(())
    }

    fn extend(&mut self, found: Vec<Found>) -> Result<(), Failure> {
        found.into_iter().try_for_each(|one| self.add(one).map(|_| ()))
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or("").to_owned()
}

fn sorted(list: &Value) -> Value {
    let mut texts: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    texts.sort_unstable();
    json!(texts)
}

fn compared<const N: usize>(pairs: [(&str, Value); N]) -> Fields {
    let fields: Map<String, Value> =
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Fields { fields, ..Fields::default() }
}

impl Reader<'_> {
    /// Whether something of this kind is said at such a place, or all is wanted.
    fn needs(&self, kind: Kind, place: &[&str]) -> bool {
        if self.is_openai && !kind.is_at_openai() {
            return false;
        }
        let is_there = |name: &Name| {
            name.kind == kind
                && name.path.len() >= place.len()
                && place.iter().zip(&name.path).all(|(a, b)| *a == b.as_str())
        };
        self.wished.is_none_or(|wished| wished.all.keys().chain(&wished.whole).any(is_there))
    }

    async fn list(&self, path: &str, query: &[(&str, String)]) -> Result<Vec<Value>, CallError> {
        Ok(self.session.client.list(path, query, ALL).await?.0)
    }

    async fn get(&self, path: &str) -> Result<Value, CallError> {
        self.session.client.get(path, &[]).await
    }

    async fn each<F>(&self, reading: Vec<F>) -> Result<Vec<Found>, CallError>
    where
        F: Future<Output = Result<Vec<Found>, CallError>>,
    {
        let all: Vec<Vec<Found>> = stream::iter(reading).buffered(AT_ONCE).try_collect().await?;
        Ok(all.into_iter().flatten().collect())
    }

    /// What is the organization's own.
    async fn organization(&self) -> Result<Vec<Found>, CallError> {
        let nothing: [&str; 0] = [];
        let mut found = Vec::new();
        if self.needs(Kind::KeyPolicy, &[]) {
            let policy = self.get("/tollgate/v1/organization/key_policy").await?;
            let own = ["default_expires_in_seconds", "max_expires_in_seconds", "key_owners"]
                .map(|name| (name, policy[name].clone()));
            found.push((Name::new(Kind::KeyPolicy, nothing), compared(own), None));
        }
        if self.needs(Kind::Retention, &[]) {
            let retention = self.get("/tollgate/v1/organization/retention").await?;
            let own = [("requests_days", retention["requests_days"].clone())];
            found.push((Name::new(Kind::Retention, nothing), compared(own), None));
        }
        if self.needs(Kind::DefaultLimits, &[]) {
            let defaults = self.get("/tollgate/v1/organization/default_spend_limits").await?;
            let own = ["projects", "api_keys"]
                .map(|name| (name, ordered(defaults[name].as_array().cloned().unwrap_or_default())));
            found.push((Name::new(Kind::DefaultLimits, nothing), compared(own), None));
        }
        if self.needs(Kind::Limit, &[]) {
            found.extend(self.limits(Kind::Limit, &[], "/organization", "/tollgate/v1/organization").await?);
        }
        if self.needs(Kind::SpendAlert, &[]) {
            found.extend(self.alerts(Kind::SpendAlert, &[], "/organization").await?);
        }
        Ok(found)
    }

    async fn limits(
        &self,
        kind: Kind,
        of: &[&str],
        theirs: &str,
        ours: &str,
    ) -> Result<Vec<Found>, CallError> {
        let all = if self.is_openai {
            match self.get(&format!("{theirs}/spend_limit")).await {
                Ok(limit) => vec![limit],
                Err(CallError::Refused { status: 404, .. }) => Vec::new(),
                Err(error) => return Err(error),
            }
        } else {
            // At most one for each interval: they are no pages.
            let all = self.get(&format!("{ours}/spend_limits")).await?;
            all["data"].as_array().cloned().unwrap_or_default()
        };
        let one = |limit: &Value| {
            let path: Vec<String> =
                of.iter().map(|part| (*part).to_owned()).chain([text(limit, "interval")]).collect();
            // OpenAI's are in UTC, and hold.
            let usual = |name: &str, usual: &str| limit[name].as_str().unwrap_or(usual).to_owned();
            let own = compared([
                ("threshold_amount", limit["threshold_amount"].clone()),
                ("time_zone", json!(usual("time_zone", "UTC"))),
                ("mode", json!(usual("mode", "enforce"))),
            ]);
            (Name::new(kind, path), own, limit["id"].as_str().map(str::to_owned))
        };
        Ok(all.iter().map(one).collect())
    }

    async fn alerts(&self, kind: Kind, of: &[&str], base: &str) -> Result<Vec<Found>, CallError> {
        let all = self.list(&format!("{base}/spend_alerts"), &[]).await?;
        let one = |alert: &Value| {
            let cents = alert["threshold_amount"].as_i64().unwrap_or(0);
            let (channel, called) = channel(&alert["notification_channel"]);
            let called = format!("{}.{:02}usd by {called}", cents / 100, cents % 100);
            let path: Vec<String> = of.iter().map(|part| (*part).to_owned()).chain([called]).collect();
            let at_first = json!({"threshold_amount": cents, "notification_channel": channel});
            let said =
                Fields { at_first: at_first.as_object().cloned().unwrap_or_default(), ..Fields::default() };
            (Name::new(kind, path), said, Some(text(alert, "id")))
        };
        Ok(all.iter().map(one).collect())
    }

    async fn event_alerts(&self, projects: &HashMap<String, String>) -> Result<Vec<Found>, CallError> {
        if !self.needs(Kind::EventAlert, &[]) {
            return Ok(Vec::new());
        }
        let all = self.list("/tollgate/v1/event_alerts", &[]).await?;
        let one = |alert: &Value| {
            let events = sorted(&alert["events"]);
            let (channel, called) = channel(&alert["notification_channel"]);
            let joined = events
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            let project = alert["project_id"]
                .as_str()
                .map(|id| projects.get(id).cloned().unwrap_or_else(|| id.to_owned()));
            let mut path = vec![joined, called];
            path.extend(project.clone());
            let mut at_first = json!({"events": &events, "notification_channel": channel});
            if let Some(project) = project {
                at_first["project"] = json!(project);
            }
            // Of what rests alone.
            let is_of_rest =
                events.as_array().is_some_and(|events| events.contains(&json!("api_key.unused")));
            if is_of_rest && alert["unused_after_days"].is_i64() {
                at_first["unused_after_days"] = alert["unused_after_days"].clone();
            }
            let said =
                Fields { at_first: at_first.as_object().cloned().unwrap_or_default(), ..Fields::default() };
            (Name::new(Kind::EventAlert, path), said, Some(text(alert, "id")))
        };
        Ok(all.iter().map(one).collect())
    }

    /// The roles of somebody beside the one that a member has.
    async fn roles_of(&self, user: &Value) -> Result<Vec<Found>, CallError> {
        let email = text(user, "email").to_lowercase();
        let roles =
            self.list(&format!("/organization/users/{}/roles", encoded(&text(user, "id"))), &[]).await?;
        let own = roles.iter().filter(|role| role["predefined_role"] != Value::Bool(true) && is_own(role));
        Ok(own
            .map(|role| {
                (
                    Name::new(Kind::UserRole, [&email, &text(role, "name")]),
                    Fields::default(),
                    Some(text(role, "id")),
                )
            })
            .collect())
    }

    async fn of_group(
        &self,
        group: &Value,
        emails: &HashMap<String, String>,
    ) -> Result<Vec<Found>, CallError> {
        let (name, id) = (text(group, "name"), encoded(&text(group, "id")));
        let mut found = Vec::new();
        if self.needs(Kind::GroupUser, &[&name]) {
            for user in self.list(&format!("/organization/groups/{id}/users"), &[]).await? {
                let email = emails
                    .get(&text(&user, "id"))
                    .cloned()
                    .unwrap_or_else(|| text(&user, "email").to_lowercase());
                found.push((
                    Name::new(Kind::GroupUser, [&name, &email]),
                    Fields::default(),
                    Some(text(&user, "id")),
                ));
            }
        }
        if self.needs(Kind::GroupRole, &[&name]) {
            for role in self.list(&format!("/organization/groups/{id}/roles"), &[]).await? {
                found.push((
                    Name::new(Kind::GroupRole, [&name, &text(&role, "name")]),
                    Fields::default(),
                    Some(text(&role, "id")),
                ));
            }
        }
        Ok(found)
    }

    async fn of_project(
        &self,
        project: &Value,
        emails: &HashMap<String, String>,
    ) -> Result<Vec<Found>, CallError> {
        let (name, id) = (text(project, "name"), encoded(&text(project, "id")));
        let (theirs, ours) = (format!("{PROJECTS}/{id}"), format!("/tollgate/v1/projects/{id}"));
        let needs = |kind: Kind| self.needs(kind, &[&name]);
        let mut found = Vec::new();
        if needs(Kind::ProjectLimit) {
            found.extend(self.limits(Kind::ProjectLimit, &[&name], &theirs, &ours).await?);
        }
        if needs(Kind::ProjectAlert) {
            found.extend(self.alerts(Kind::ProjectAlert, &[&name], &theirs).await?);
        }
        if needs(Kind::SpendPolicy) {
            let policy = self.get(&format!("{ours}/spend_policy")).await?;
            let own =
                ["when_exceeded", "min_output_tokens", "wait_ms"].map(|name| (name, policy[name].clone()));
            found.push((Name::new(Kind::SpendPolicy, [&name]), compared(own), None));
        }
        if needs(Kind::AccessPolicy) {
            let policy = self.get(&format!("{ours}/access_policy")).await?;
            found.push((
                Name::new(Kind::AccessPolicy, [&name]),
                compared([("browser_requests", policy["browser_requests"].clone())]),
                None,
            ));
        }
        if needs(Kind::ProjectUser) {
            for user in self.list(&format!("{theirs}/users"), &[]).await? {
                let email = emails
                    .get(&text(&user, "id"))
                    .cloned()
                    .unwrap_or_else(|| text(&user, "email").to_lowercase());
                let own = compared([("role", user["role"].clone())]);
                found.push((Name::new(Kind::ProjectUser, [&name, &email]), own, Some(text(&user, "id"))));
            }
        }
        if needs(Kind::ProjectGroup) {
            for group in self.list(&format!("{theirs}/groups"), &[]).await? {
                let group_id = text(&group, "group_id");
                let roles =
                    self.list(&format!("/projects/{id}/groups/{}/roles", encoded(&group_id)), &[]).await?;
                let role = roles.iter().map(|role| text(role, "name")).min().unwrap_or_default();
                let own = compared([("role", json!(role))]);
                found.push((
                    Name::new(Kind::ProjectGroup, [&name, &text(&group, "group_name")]),
                    own,
                    Some(group_id),
                ));
            }
        }
        let mut accounts = HashMap::new();
        if needs(Kind::ServiceAccount) || needs(Kind::Key) {
            for account in self.list(&format!("{theirs}/service_accounts"), &[]).await? {
                let (called, account_id) = (text(&account, "name"), text(&account, "id"));
                let mut own = compared([("role", account["role"].clone())]);
                if account["labels"].is_object() {
                    own.fields.insert("labels".to_owned(), account["labels"].clone());
                }
                found.push((
                    Name::new(Kind::ServiceAccount, [&name, &called]),
                    own,
                    Some(account_id.clone()),
                ));
                accounts.insert(account_id, called);
            }
        }
        if needs(Kind::Key) {
            found.extend(self.keys(&name, &theirs, emails).await?);
        }
        Ok(found)
    }

    async fn keys(
        &self,
        project: &str,
        base: &str,
        emails: &HashMap<String, String>,
    ) -> Result<Vec<Found>, CallError> {
        let all =
            self.list(&format!("{base}/api_keys"), &[("owner_project_access", "any".to_owned())]).await?;
        let mut found = Vec::new();
        let now = Clock::system().now().0;
        for key in all {
            let (name, id, owner) = (text(&key, "name"), text(&key, "id"), &key["owner"]);
            let owner = match owner["user"]["id"].as_str() {
                Some(user) => {
                    emails.get(user).cloned().unwrap_or_else(|| text(&owner["user"], "email").to_lowercase())
                }
                None => format!("service account {}", text(&owner["service_account"], "name")),
            };
            let own = compared([
                ("owner", json!(owner)),
                ("scopes", sorted(&key["scopes"])),
                ("labels", key["labels"].clone()),
            ]);
            let mut own = own;
            if key["expires_at"].as_i64().is_some_and(|at| at <= now) {
                own.at_first.insert("expired".to_owned(), json!(true));
            }
            found.push((Name::new(Kind::Key, [project, &name]), own, Some(id.clone())));
            if self.needs(Kind::KeyLimit, &[project, &name]) {
                let ours = format!("/tollgate/v1/api_keys/{}", encoded(&id));
                found.extend(self.limits(Kind::KeyLimit, &[project, &name], "", &ours).await?);
            }
        }
        Ok(found)
    }
}

/// Whether a role is somebody's own, and not one of a group's of theirs.
fn is_own(role: &Value) -> bool {
    role["assignment_sources"].as_array().is_none_or(|sources| {
        sources.is_empty() || sources.iter().any(|source| source["principal_type"] == "user")
    })
}

/// A channel as the file's is, and what it is called.
fn channel(value: &Value) -> (Value, String) {
    if let Some(kind @ ("webhook" | "slack")) = value["type"].as_str() {
        let url = text(value, "url");
        return (json!({"type": kind, "url": url}), format!("{kind} {url}"));
    }
    let recipients = sorted(&value["recipients"]);
    let called =
        recipients.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    (json!({"type": "email", "recipients": recipients}), format!("email {called}"))
}
