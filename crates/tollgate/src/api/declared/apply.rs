//! Bringing it about, step by step. Each step is one call; whatever was done stays done, and running it again goes on from
//! there. Between making a key and handing its secret on there is a moment in which the program may be killed: a journal beside
//! the file names the keys that are in it, and the next run gives them another secret.

use std::collections::{BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use super::plan::{Plan, Step};
use super::read::State;
use super::secret_file;
use super::thing::{Fields, Kind, Name};
use crate::api::client::{CallError, encoded};
use crate::api::secret_input::{Out, read as read_secret};
use crate::api::session::{Done, Failure, PROJECTS, Session};

pub(super) struct Apply<'a> {
    session: &'a Session,
    ids: HashMap<Name, String>,
    is_openai: bool,
    /// The organization's.
    file: PathBuf,
    journal: Option<PathBuf>,
}

/// The keys of a server whose secrets may not have got to where they belong.
pub(super) fn pending(file: &Path, server: &str) -> Result<BTreeSet<Name>, String> {
    let path = PathBuf::from(format!("{}.pending", file.display()));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(format!("Cannot read {}: {error}.", path.display())),
    };
    // A line that was being written when the program was killed names nothing, and one of another server nothing here.
    let read = |line: &str| serde_json::from_str::<(String, String, String)>(line).ok();
    let here = text.lines().filter_map(read).filter(|(of, ..)| of == server);
    Ok(here.map(|(_, project, key)| Name::new(Kind::Key, [project, key])).collect())
}

impl<'a> Apply<'a> {
    pub(super) fn new(session: &'a Session, state: State, file: &Path) -> Self {
        // What is on stdin has no place for a journal.
        let journal = (file != Path::new("-")).then(|| PathBuf::from(format!("{}.pending", file.display())));
        Self { session, ids: state.ids, is_openai: state.is_openai, file: file.to_owned(), journal }
    }

    pub(super) async fn run(mut self, mut plan: Plan) -> Done {
        let steps = std::mem::take(&mut plan.steps);
        let count = steps.len();
        let shows_progress = std::io::stderr().is_terminal() && !self.session.is_quiet;
        for (done, step) in steps.into_iter().enumerate() {
            if shows_progress {
                write!(std::io::stderr(), "\r\x1b[K{}/{count}", done + 1)?;
            }
            let name = match &step {
                Step::Create(name, _)
                | Step::Change(name, _)
                | Step::Deliver(name, _)
                | Step::Remove(name) => name.clone(),
            };
            let result = match step {
                Step::Create(name, said) => self.create(name, said).await,
                Step::Change(name, changes) => self.change(&name, changes).await,
                Step::Deliver(name, said) => self.deliver(&name, &said).await,
                Step::Remove(name) => self.remove(&name).await,
            };
            if let Err(failure) = result {
                if shows_progress {
                    writeln!(std::io::stderr())?;
                }
                self.session.say(&format!(
                    "Stopped after {done} of {count}. What was done stays; run it again to go on."
                ));
                return Err(failure.at(&plan.place_of(&name), &name.to_string()));
            }
        }
        if shows_progress {
            write!(std::io::stderr(), "\r\x1b[K")?;
        }
        self.session.say(&format!("{count} done."));
        Ok(())
    }

    fn id(&self, name: &Name) -> Result<String, Failure> {
        let found = self.ids.get(name);
        found
            .map(|id| encoded(id))
            .ok_or_else(|| Failure::Usage(format!("There is no {name}, which the file names.")))
    }

    fn raw_id(&self, name: &Name) -> Result<String, Failure> {
        self.ids
            .get(name)
            .cloned()
            .ok_or_else(|| Failure::Usage(format!("There is no {name}, which the file names.")))
    }

    /// The path of the project that a thing is in, at OpenAI's place and at ours.
    fn project(&self, name: &Name) -> Result<(String, String), Failure> {
        let id = self.id(&name.of(Kind::Project, 1))?;
        Ok((format!("{PROJECTS}/{id}"), format!("/tollgate/v1/projects/{id}")))
    }

    /// Where limits of a kind are.
    fn limits(&self, name: &Name) -> Result<(String, String), Failure> {
        Ok(match name.kind {
            Kind::Limit => ("/organization".to_owned(), "/tollgate/v1/organization".to_owned()),
            Kind::KeyLimit => {
                (String::new(), format!("/tollgate/v1/api_keys/{}", self.id(&name.of(Kind::Key, 2))?))
            }
            _ => self.project(name)?,
        })
    }

    async fn post(&self, path: &str, body: &Map<String, Value>) -> Result<Value, CallError> {
        self.session.client.post(path, &Value::Object(body.clone())).await
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each kind, which is how each is made")]
    async fn create(&mut self, name: Name, said: Fields) -> Done {
        let mut body = said.fields.clone();
        body.extend(said.at_first.clone());
        body.remove("secret");
        // What a webhook is signed with is shown once, and so needs a place before there is one.
        let delivery = match said.at_first.get("notification_channel") {
            Some(channel) => {
                if channel["url"].as_str().is_some_and(|url| url.ends_with("/...")) {
                    let message =
                        format!("{name}: of its address only the server is known. Write the whole of it.");
                    return Err(Failure::Usage(message));
                }
                (channel["type"] == "webhook").then(|| self.delivery(&name, &said)).transpose()?
            }
            None => None,
        };
        let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        let made = match name.kind {
            Kind::KeyPolicy
            | Kind::Retention
            | Kind::DefaultLimits
            | Kind::SpendPolicy
            | Kind::AccessPolicy => {
                // They are there always, and so is a project's once it is made.
                let changes = body.into_iter().map(|(field, value)| (field, Value::Null, value)).collect();
                return self.change(&name, changes).await;
            }
            Kind::Role => {
                body.insert("role_name".to_owned(), json!(name.last()));
                if body["description"].is_null() {
                    body.remove("description");
                }
                self.post("/organization/roles", &body).await?
            }
            Kind::User if self.is_openai => {
                let invited = json!({"email": name.last(), "role": text("role"), "projects": []});
                self.session.client.post("/organization/invites", &invited).await?;
                self.session.say(&format!(
                    "{name}: invited; what the file gives them can be done once they have accepted"
                ));
                return Ok(());
            }
            Kind::User => {
                self.session
                    .client
                    .post("/tollgate/v1/users", &json!({"email": name.last(), "role": text("role")}))
                    .await?
            }
            Kind::UserRole => {
                let user = self.id(&name.of(Kind::User, 1))?;
                let role = self.raw_id(&Name::new(Kind::Role, [name.last()]))?;
                self.session
                    .client
                    .post(&format!("/organization/users/{user}/roles"), &json!({"role_id": role}))
                    .await?;
                return Ok(());
            }
            Kind::Group => {
                self.session.client.post("/organization/groups", &json!({"name": name.last()})).await?
            }
            Kind::GroupUser => {
                let group = self.id(&name.of(Kind::Group, 1))?;
                let user = self.raw_id(&Name::new(Kind::User, [name.last()]))?;
                self.session
                    .client
                    .post(&format!("/organization/groups/{group}/users"), &json!({"user_id": user}))
                    .await?;
                return Ok(());
            }
            Kind::GroupRole => {
                let group = self.id(&name.of(Kind::Group, 1))?;
                let role = self.raw_id(&Name::new(Kind::Role, [name.last()]))?;
                self.session
                    .client
                    .post(&format!("/organization/groups/{group}/roles"), &json!({"role_id": role}))
                    .await?;
                return Ok(());
            }
            Kind::Limit | Kind::ProjectLimit | Kind::KeyLimit => return self.set_limit(&name, body).await,
            Kind::SpendAlert => self.post("/organization/spend_alerts", &body).await?,
            Kind::ProjectAlert => {
                self.post(&format!("{}/spend_alerts", self.project(&name)?.0), &body).await?
            }
            Kind::EventAlert => {
                if let Some(project) = body.remove("project") {
                    let id = self.raw_id(&Name::new(Kind::Project, [project.as_str().unwrap_or("")]))?;
                    body.insert("project_id".to_owned(), json!(id));
                }
                self.post("/tollgate/v1/event_alerts", &body).await?
            }
            Kind::Project => {
                body.insert("name".to_owned(), json!(name.last()));
                self.without_ours(&mut body);
                self.post(PROJECTS, &body).await?
            }
            Kind::ProjectUser => {
                let user = self.raw_id(&Name::new(Kind::User, [name.last()]))?;
                let member = json!({"user_id": user, "role": text("role")});
                self.session.client.post(&format!("{}/users", self.project(&name)?.0), &member).await?
            }
            Kind::ProjectGroup => {
                let group = self.raw_id(&Name::new(Kind::Group, [name.last()]))?;
                let role = self.project_role(&name, &text("role")).await?;
                self.session
                    .client
                    .post(
                        &format!("{}/groups", self.project(&name)?.0),
                        &json!({"group_id": group, "role": role}),
                    )
                    .await?;
                self.ids.insert(name, group);
                return Ok(());
            }
            Kind::ServiceAccount => {
                body.insert("name".to_owned(), json!(name.last()));
                let role = body.remove("role");
                self.without_ours(&mut body);
                let path = format!("{}/service_accounts", self.project(&name)?.0);
                if self.is_openai {
                    // OpenAI makes a key with it, which nobody asked for: it is not kept.
                    self.session
                        .say(&format!("{name}: OpenAI makes a key with it, whose secret is not kept"));
                } else {
                    body.insert("create_service_account_only".to_owned(), json!(true));
                }
                let made = self.post(&path, &body).await?;
                if let (Some(role), Some(id)) =
                    (role.filter(|role| made["role"] != *role && role != "none"), made["id"].as_str())
                {
                    self.session
                        .client
                        .post(&format!("{path}/{}", encoded(id)), &json!({"role": role}))
                        .await?;
                }
                made
            }
            Kind::Key => return self.create_key(name, &said).await,
        };
        if let (Some(delivery), true) = (delivery, made["signing_secret"].is_string()) {
            self.hand_on(&name, delivery, &made["signing_secret"])?;
        }
        if let Some(id) = made["id"].as_str() {
            self.ids.insert(name, id.to_owned());
        }
        Ok(())
    }

    fn without_ours(&self, body: &mut Map<String, Value>) {
        if self.is_openai {
            for name in ["labels", "request_labels", "create_service_account_only"] {
                body.remove(name);
            }
        }
    }

    /// The id of a role of a project by its name.
    async fn project_role(&self, name: &Name, role: &str) -> Result<String, Failure> {
        let project = self.id(&name.of(Kind::Project, 1))?;
        let (roles, _) = self.session.client.list(&format!("/projects/{project}/roles"), &[], 1_000).await?;
        let found = roles.iter().find(|known| known["name"] == role).and_then(|known| known["id"].as_str());
        found
            .map(str::to_owned)
            .ok_or_else(|| Failure::Usage(format!("{name}: there is no role `{role}` in the project.")))
    }

    /// OpenAI's one limit is set whether it is there or not; ours are one for each interval.
    async fn set_limit(&mut self, name: &Name, mut body: Map<String, Value>) -> Done {
        let (theirs, ours) = self.limits(name)?;
        body.insert("currency".to_owned(), json!("USD"));
        if self.is_openai {
            body.retain(|field, _| ["threshold_amount", "currency"].contains(&field.as_str()));
            body.insert("interval".to_owned(), json!(name.last()));
            self.post(&format!("{theirs}/spend_limit"), &body).await?;
            return Ok(());
        }
        if let Some(id) = self.ids.get(name) {
            self.post(&format!("{ours}/spend_limits/{}", encoded(id)), &body).await?;
            return Ok(());
        }
        body.insert("interval".to_owned(), json!(name.last()));
        // What is new may have got one from the organization's defaults.
        let known = self.session.client.get(&format!("{ours}/spend_limits"), &[]).await?;
        let known = known["data"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|limit| limit["interval"] == name.last())
            .and_then(|limit| limit["id"].as_str());
        match known {
            Some(id) => {
                body.remove("interval");
                self.post(&format!("{ours}/spend_limits/{}", encoded(id)), &body).await?;
            }
            None => {
                self.post(&format!("{ours}/spend_limits"), &body).await?;
            }
        }
        Ok(())
    }

    async fn create_key(&mut self, name: Name, said: &Fields) -> Done {
        let mut body = Map::new();
        body.insert("name".to_owned(), json!(name.last()));
        for field in ["scopes", "labels"] {
            if let Some(value) = said.fields.get(field) {
                body.insert(field.to_owned(), value.clone());
            }
        }
        if let Some(seconds) = said.at_first.get("expires_in_seconds").filter(|seconds| !seconds.is_null()) {
            body.insert("expires_in_seconds".to_owned(), seconds.clone());
        }
        let owner = said.fields.get("owner").and_then(Value::as_str).unwrap_or("");
        if let Some(account) = owner.strip_prefix("service account ") {
            let account =
                self.raw_id(&Name::new(Kind::ServiceAccount, [name.path[0].as_str(), account.trim()]))?;
            body.insert("service_account_id".to_owned(), json!(account));
        } else {
            let user = self.raw_id(&Name::new(Kind::User, [owner.to_lowercase()]))?;
            body.insert("user_id".to_owned(), json!(user));
        }
        let path = format!("{}/api_keys", self.project(&name)?.0);
        let delivery = self.delivery(&name, said)?;
        self.note(&name)?;
        let made = match self.post(&path, &body).await {
            Ok(made) => made,
            // There is no key, and so no secret on its way.
            Err(error @ CallError::Refused { status: 400..500, .. }) => {
                self.delivered(&name)?;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(id) = made["id"].as_str() {
            self.ids.insert(name.clone(), id.to_owned());
        }
        self.hand_on(&name, delivery, &made["value"])
    }

    /// Gives a key another secret, and hands that on.
    async fn deliver(&mut self, name: &Name, said: &Fields) -> Done {
        if self.has_arrived(name, said).await? {
            return self.delivered(name);
        }
        let delivery = self.delivery(name, said)?;
        let path = format!("{}/api_keys/{}/rotate", self.project(name)?.0, self.id(name)?);
        let made = self.session.client.post(&path, &json!({})).await?;
        self.hand_on(name, delivery, &made["value"])
    }

    /// Whether the file for a key's secret has it: the program was killed after it was written.
    async fn has_arrived(&self, name: &Name, said: &Fields) -> Result<bool, Failure> {
        let Some(path) = secret_file(&self.file, said) else { return Ok(false) };
        let Ok(secret) = read_secret(&path) else { return Ok(false) };
        match self.session.client.by(secret).get("/tollgate/v1/me", &[]).await {
            Ok(key) => Ok(key["id"].as_str() == Some(&self.raw_id(name)?)),
            Err(CallError::Refused { status: 401, .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the secret of a key goes; a file is made before the key is, so that there is no key whose secret could not be kept.
    fn delivery(&self, name: &Name, said: &Fields) -> Result<Delivery, Failure> {
        let secret = said.at_first.get("secret").cloned().unwrap_or(Value::Null);
        if let Some(path) = secret_file(&self.file, said) {
            // One that is empty is left from a run that was killed.
            if std::fs::metadata(&path).is_ok_and(|there| there.len() == 0) {
                std::fs::remove_file(&path)?;
            }
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder)?;
            }
            return Ok(Delivery::File(Out::create(&path).map_err(|why| format!("{name}: {why}"))?));
        }
        if let Some(command) = secret["command"].as_array() {
            return Ok(Delivery::Command(
                command.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            ));
        }
        Err(Failure::Usage(format!(
            "{name} is to be made, and the file does not say where its secret goes: `secret: {{file: PATH}}` or `secret: {{command: [...]}}`."
        )))
    }

    /// Notes in the journal that the secret of a key is on its way, before there is one.
    fn note(&self, name: &Name) -> Done {
        let Some(journal) = &self.journal else { return Ok(()) };
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(journal)?;
        writeln!(file, "{}", self.line(name))?;
        file.sync_all()?;
        Ok(())
    }

    fn hand_on(&self, name: &Name, delivery: Delivery, secret: &Value) -> Done {
        let secret = secret.as_str().unwrap_or("");
        match delivery {
            Delivery::File(out) => {
                let path = out.write(secret)?;
                self.session.say(&format!("{name}: its secret is in {}", path.display()));
            }
            Delivery::Command(command) => {
                let (program, words) =
                    command.split_first().ok_or("The command for a secret is empty.".to_owned())?;
                let failed = |why: &dyn std::fmt::Display| {
                    Failure::Usage(format!(
                        "{name}: the program for its secret failed: {why}. Of a key, run it again: it gets another secret then."
                    ))
                };
                let started =
                    Command::new(program).args(words).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
                let mut child = started.map_err(|error| failed(&error))?;
                if let Some(mut stdin) = child.stdin.take() {
                    writeln!(stdin, "{secret}").map_err(|error| failed(&error))?;
                }
                let status = child.wait().map_err(|error| failed(&error))?;
                if !status.success() {
                    return Err(failed(&status));
                }
            }
        }
        if name.kind == Kind::Key { self.delivered(name) } else { Ok(()) }
    }

    /// The line of the journal that names a key.
    fn line(&self, name: &Name) -> String {
        json!([self.session.client.address().origin(), name.path[0], name.path[1]]).to_string()
    }

    /// Takes a key out of the journal.
    fn delivered(&self, name: &Name) -> Done {
        let Some(journal) = &self.journal else { return Ok(()) };
        let text = std::fs::read_to_string(journal).unwrap_or_default();
        let own = self.line(name);
        let rest: Vec<&str> = text.lines().filter(|line| *line != own).collect();
        if rest.is_empty() {
            if journal.exists() {
                std::fs::remove_file(journal)?;
            }
            return Ok(());
        }
        // Whole or not at all: a name that is lost is a secret that nobody gets.
        let new = journal.with_extension("pending.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all((rest.join("\n") + "\n").as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, journal)?;
        Ok(())
    }

    async fn change(&mut self, name: &Name, changes: Vec<(String, Value, Value)>) -> Done {
        let body: Map<String, Value> = changes.into_iter().map(|(field, _, value)| (field, value)).collect();
        match name.kind {
            Kind::KeyPolicy => self.post("/tollgate/v1/organization/key_policy", &body).await?,
            Kind::Retention => self.post("/tollgate/v1/organization/retention", &body).await?,
            Kind::DefaultLimits => self.post("/tollgate/v1/organization/default_spend_limits", &body).await?,
            Kind::SpendPolicy => self.post(&format!("{}/spend_policy", self.project(name)?.1), &body).await?,
            Kind::AccessPolicy => {
                self.post(&format!("{}/access_policy", self.project(name)?.1), &body).await?
            }
            Kind::Role => self.post(&format!("/organization/roles/{}", self.id(name)?), &body).await?,
            Kind::User => self.post(&format!("/organization/users/{}", self.id(name)?), &body).await?,
            Kind::Project => self.post(&format!("{PROJECTS}/{}", self.id(name)?), &body).await?,
            Kind::ProjectUser => {
                self.post(&format!("{}/users/{}", self.project(name)?.0, self.id(name)?), &body).await?
            }
            Kind::ServiceAccount => {
                self.post(&format!("{}/service_accounts/{}", self.project(name)?.0, self.id(name)?), &body)
                    .await?
            }
            Kind::Key => {
                self.post(&format!("{}/api_keys/{}", self.project(name)?.0, self.id(name)?), &body).await?
            }
            Kind::Limit | Kind::ProjectLimit | Kind::KeyLimit => return self.set_limit(name, body).await,
            Kind::ProjectGroup => {
                let role = body.get("role").and_then(Value::as_str).unwrap_or("").to_owned();
                let role = self.project_role(name, &role).await?;
                let project = self.id(&name.of(Kind::Project, 1))?;
                let path = format!("/projects/{project}/groups/{}/roles", self.id(name)?);
                let (before, _) = self.session.client.list(&path, &[], 100).await?;
                self.session.client.post(&path, &json!({"role_id": role})).await?;
                for old in before.iter().filter_map(|role| role["id"].as_str()).filter(|old| *old != role) {
                    self.session.client.delete(&format!("{path}/{}", encoded(old))).await?;
                }
                Value::Null
            }
            // They have nothing that could be changed.
            Kind::UserRole
            | Kind::Group
            | Kind::GroupUser
            | Kind::GroupRole
            | Kind::SpendAlert
            | Kind::EventAlert
            | Kind::ProjectAlert => Value::Null,
        };
        Ok(())
    }

    async fn remove(&mut self, name: &Name) -> Done {
        let path = match name.kind {
            Kind::KeyPolicy
            | Kind::Retention
            | Kind::DefaultLimits
            | Kind::SpendPolicy
            | Kind::AccessPolicy => return Ok(()),
            Kind::Role => format!("/organization/roles/{}", self.id(name)?),
            Kind::User => format!("/organization/users/{}", self.id(name)?),
            Kind::UserRole => {
                format!("/organization/users/{}/roles/{}", self.id(&name.of(Kind::User, 1))?, self.id(name)?)
            }
            Kind::Group => format!("/organization/groups/{}", self.id(name)?),
            Kind::GroupUser => format!(
                "/organization/groups/{}/users/{}",
                self.id(&name.of(Kind::Group, 1))?,
                self.id(name)?
            ),
            Kind::GroupRole => format!(
                "/organization/groups/{}/roles/{}",
                self.id(&name.of(Kind::Group, 1))?,
                self.id(name)?
            ),
            Kind::Limit | Kind::ProjectLimit | Kind::KeyLimit => {
                let (theirs, ours) = self.limits(name)?;
                if self.is_openai {
                    format!("{theirs}/spend_limit")
                } else {
                    format!("{ours}/spend_limits/{}", self.id(name)?)
                }
            }
            Kind::SpendAlert => format!("/organization/spend_alerts/{}", self.id(name)?),
            Kind::EventAlert => format!("/tollgate/v1/event_alerts/{}", self.id(name)?),
            Kind::ProjectAlert => format!("{}/spend_alerts/{}", self.project(name)?.0, self.id(name)?),
            Kind::ProjectUser => format!("{}/users/{}", self.project(name)?.0, self.id(name)?),
            Kind::ProjectGroup => format!("{}/groups/{}", self.project(name)?.0, self.id(name)?),
            Kind::ServiceAccount => format!("{}/service_accounts/{}", self.project(name)?.0, self.id(name)?),
            Kind::Key => format!("{}/api_keys/{}", self.project(name)?.0, self.id(name)?),
            Kind::Project => {
                // Its history stays, and so it is archived.
                let path = format!("{PROJECTS}/{}/archive", self.id(name)?);
                match self.session.client.post(&path, &json!({})).await {
                    Err(CallError::Refused { error, .. }) if error["code"] == "default_project" => {
                        self.session.say(&format!("{name} is the default project, and stays"));
                    }
                    answer => {
                        answer?;
                    }
                }
                return Ok(());
            }
        };
        match self.session.client.delete(&path).await {
            // It went with what it belonged to.
            Err(CallError::Refused { status: 404, .. }) => Ok(()),
            answer => Ok(answer.map(|_| ())?),
        }
    }
}

enum Delivery {
    File(Out),
    Command(Vec<String>),
}
