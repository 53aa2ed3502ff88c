//! `organization`, `project`, `service-account`.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::api::amount;
use crate::api::arguments::{InProject, OrganizationCommand, ProjectCommand, ServiceAccountCommand};
use crate::api::client::encoded;
use crate::api::secret_input::Out;
use crate::api::session::{Done, Failure, PROJECTS, Session};
use crate::api::table::{self, Column};

impl Session {
    pub async fn organization(&self, command: OrganizationCommand) -> Done {
        const ALL: &str = "/tollgate/v1/organizations";
        self.needs_tollgate("see or make organizations")?;
        let one = |id: &str| format!("{ALL}/{}", encoded(id));
        let columns = table::ORGANIZATIONS;
        match command {
            OrganizationCommand::List { many } => self.list(columns, ALL, &[], &many).await,
            OrganizationCommand::Get { id } => self.show(columns, &self.client.get(&one(&id), &[]).await?),
            OrganizationCommand::Create { name, owner_email, out } => {
                let out = self.place_for_secret(out.as_deref(), "/admin_api_key")?;
                let body = json!({"name": name, "owner_email": owner_email});
                let made = self.client.post(ALL, &body).await?;
                if made["admin_api_key"].is_null() {
                    self.show(columns, &made)?;
                    self.say("The owner has an account already, and makes an admin key of their own.");
                    return Ok(());
                }
                self.show_secret(columns, &made, &made["admin_api_key"], out)
            }
            OrganizationCommand::Freeze => {
                self.confirm("organization freeze", "Every model request is refused until it is unfrozen.")?;
                self.frozen("organization", true).await
            }
            OrganizationCommand::Unfreeze => self.frozen("organization", false).await,
            OrganizationCommand::Update { id, name } => {
                self.show(columns, &self.client.post(&one(&id), &json!({"name": name})).await?)
            }
        }
    }

    pub async fn project(&self, mut command: ProjectCommand) -> Done {
        if matches!(command, ProjectCommand::Freeze { .. } | ProjectCommand::Unfreeze { .. }) {
            self.needs_tollgate("freeze anything")?;
        }
        if let Some(id) = command.named() {
            *id = self.project_id(id).await?;
        }
        let one = |id: &str| format!("{PROJECTS}/{}", encoded(id));
        match command {
            ProjectCommand::List { many, archived } => {
                let query = [("include_archived", archived.to_string())];
                self.list(table::PROJECTS, PROJECTS, &query, &many).await
            }
            ProjectCommand::Get { id } => self.show(table::PROJECTS, &self.client.get(&one(&id), &[]).await?),
            ProjectCommand::Create { name, labels, request_labels } => {
                let body = self.project_body(Some(name), &labels, &request_labels)?;
                self.show(table::PROJECTS, &self.client.post(PROJECTS, &body).await?)
            }
            ProjectCommand::Update { id, name, labels, request_labels } => {
                let labels = self.with_known(&one(&id), labels).await?;
                let body = self.project_body(name, &labels, &request_labels)?;
                self.show(table::PROJECTS, &self.client.post(&one(&id), &body).await?)
            }
            ProjectCommand::Freeze { id } => self.frozen(&format!("projects/{}", encoded(&id)), true).await,
            ProjectCommand::Unfreeze { id } => {
                self.frozen(&format!("projects/{}", encoded(&id)), false).await
            }
            ProjectCommand::Archive { id } => {
                self.confirm(
                    &format!("project archive {id}"),
                    "Its keys end for good, and it cannot be taken back.",
                )?;
                let path = format!("{}/archive", one(&id));
                self.show(table::PROJECTS, &self.client.post(&path, &json!({})).await?)
            }
        }
    }

    fn project_body(
        &self,
        name: Option<String>,
        labels: &[String],
        request_labels: &[String],
    ) -> Result<Value, Failure> {
        let mut body = Map::new();
        body.extend(name.map(|name| ("name".to_owned(), json!(name))));
        self.add_labels(&mut body, labels)?;
        let allowed = pairs(request_labels)?.map(|pairs| {
            let values =
                |values: &str| values.split(',').map(str::trim).map(str::to_owned).collect::<Vec<_>>();
            pairs.into_iter().map(|(name, text)| (name, json!(values(&text)))).collect::<Map<_, _>>()
        });
        if let Some(allowed) = allowed {
            self.needs_tollgate("have labels")?;
            body.insert("request_labels".to_owned(), Value::Object(allowed));
        }
        Ok(Value::Object(body))
    }

    /// The labels that something has with those that are said; an empty value takes one away.
    pub(crate) async fn with_known(&self, path: &str, said: Vec<String>) -> Result<Vec<String>, Failure> {
        let Some(said) = pairs(&said)?.filter(|said| !said.is_empty()) else { return Ok(said) };
        let known = self.client.get(path, &[]).await?;
        let mut labels = known["labels"].as_object().cloned().unwrap_or_default();
        for (name, value) in said {
            if value.is_empty() {
                labels.remove(&name);
            } else {
                labels.insert(name, json!(value));
            }
        }
        let text = |(name, value): (String, Value)| format!("{name}={}", value.as_str().unwrap_or_default());
        let labels: Vec<String> = labels.into_iter().map(text).collect();
        Ok(if labels.is_empty() { vec!["none".to_owned()] } else { labels })
    }

    /// Adds what is said of labels to a body, if anything is.
    pub(crate) fn add_labels(&self, body: &mut Map<String, Value>, labels: &[String]) -> Done {
        if let Some(labels) = pairs(labels)? {
            self.needs_tollgate("have labels")?;
            let labels: Map<String, Value> =
                labels.into_iter().map(|(name, value)| (name, json!(value))).collect();
            body.insert("labels".to_owned(), Value::Object(labels));
        }
        Ok(())
    }

    /// Freezes something, or takes that back.
    pub(crate) async fn frozen(&self, what: &str, is_frozen: bool) -> Done {
        self.needs_tollgate("freeze anything")?;
        let verb = if is_frozen { "freeze" } else { "unfreeze" };
        let answer = self.client.post(&format!("/tollgate/v1/{what}/{verb}"), &json!({})).await?;
        self.done(&answer)
    }

    /// Where a secret that is shown this once goes; `place` is where it stands in the answer. What would not show it is refused
    /// before there is one.
    pub(crate) fn place_for_secret(&self, out: Option<&Path>, place: &str) -> Result<Option<Out>, Failure> {
        if out.is_none() && !self.client.is_dry() {
            self.view.check_shows(place, "--out FILE, ")?;
        }
        if self.client.is_dry() {
            return Ok(None);
        }
        Ok(out.map(Out::create).transpose()?)
    }

    /// Shows something new with its secret: alone on stdout when nothing else is wanted, or in a file.
    pub(crate) fn show_secret(
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
            for holder in ["/value", "/api_key/value", "/admin_api_key", "/accept_url", "/signing_secret"] {
                if let Some(value) = shown.pointer_mut(holder) {
                    *value = Value::Null;
                }
            }
            self.say(&format!("The secret is in {}.", path.display()));
            return self.show(columns, &shown);
        }
        if self.view.format.is_for_programs() || self.view.is_chosen() {
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

    pub async fn service_account(&self, mut command: ServiceAccountCommand) -> Done {
        let (project, account) = command.named();
        *project = self.project_id(project).await?;
        if let Some(account) = account {
            *account = self.account_id(project, account).await?;
        }
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
            ServiceAccountCommand::Create { name, project, no_key, expires, labels, out } => {
                let expires = amount::seconds(&expires)?;
                let out =
                    if no_key { None } else { self.place_for_secret(out.as_deref(), "/api_key/value")? };
                let mut body = Map::new();
                body.insert("name".to_owned(), json!(name));
                body.insert("create_service_account_only".to_owned(), json!(no_key));
                body.extend(expires.map(|seconds| ("expires_in_seconds".to_owned(), json!(seconds))));
                self.add_labels(&mut body, &labels)?;
                let body = Value::Object(body);
                let made = self.client.post(&all(&project), &body).await?;
                if no_key {
                    return self.show(columns, &made);
                }
                self.show_secret(columns, &made, &made["api_key"]["value"], out)
            }
            ServiceAccountCommand::Update { id, project, name, role, labels } => {
                let mut body = Map::new();
                let labels = self.with_known(&one(&project, &id), labels).await?;
                self.add_labels(&mut body, &labels)?;
                body.extend(name.map(|name| ("name".to_owned(), json!(name))));
                body.extend(role.map(|role| ("role".to_owned(), json!(role))));
                self.show(columns, &self.client.post(&one(&project, &id), &Value::Object(body)).await?)
            }
            ServiceAccountCommand::Delete { id, project } => {
                self.confirm(&format!("service-account delete {id}"), "All its keys end for good.")?;
                self.deleted(&one(&project, &id)).await
            }
        }
    }
}

/// Names with their values; `None` if nothing is said, and nothing for `none`.
fn pairs(said: &[String]) -> Result<Option<Vec<(String, String)>>, Failure> {
    match said {
        [] => Ok(None),
        [none] if none == "none" => Ok(Some(Vec::new())),
        said => {
            let pair = |text: &String| {
                let (name, value) =
                    text.split_once('=').ok_or_else(|| format!("`{text}` is not like NAME=VALUE."))?;
                Ok((name.to_owned(), value.to_owned()))
            };
            said.iter().map(pair).collect::<Result<_, Failure>>().map(Some)
        }
    }
}
