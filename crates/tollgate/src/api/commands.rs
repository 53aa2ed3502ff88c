//! `organization`, `project`, `key`, `service-account`.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};
use tollgate_core::Interval;
use tollgate_core::key::PresentedKey;

use crate::api::amount;
use crate::api::arguments::{
    InProject, KeyCommand, OrganizationCommand, ProjectCommand, ServiceAccountCommand,
};
use crate::api::client::encoded;
use crate::api::secret_input::{Out, read as read_secret};
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
                let out = out.as_deref().map(Out::create).transpose()?;
                let body = json!({"name": name, "owner_email": owner_email});
                let made = self.client.post(ALL, &body).await?;
                if made["admin_api_key"].is_null() {
                    self.show(columns, &made)?;
                    self.say("The owner has an account already, and makes an admin key of their own.");
                    return Ok(());
                }
                self.show_secret(columns, &made, &made["admin_api_key"], out)
            }
            OrganizationCommand::Freeze => self.frozen("organization", true).await,
            OrganizationCommand::Unfreeze => self.frozen("organization", false).await,
            OrganizationCommand::Update { id, name } => {
                self.show(columns, &self.client.post(&one(&id), &json!({"name": name})).await?)
            }
        }
    }

    pub async fn project(&self, command: ProjectCommand) -> Done {
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
                self.confirm("project archive", "Its keys end for good, and it cannot be taken back.")?;
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
    async fn with_known(&self, path: &str, said: Vec<String>) -> Result<Vec<String>, Failure> {
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
    fn add_labels(&self, body: &mut Map<String, Value>, labels: &[String]) -> Done {
        if let Some(labels) = pairs(labels)? {
            self.needs_tollgate("have labels")?;
            let labels: Map<String, Value> =
                labels.into_iter().map(|(name, value)| (name, json!(value))).collect();
            body.insert("labels".to_owned(), Value::Object(labels));
        }
        Ok(())
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
            KeyCommand::Create { name, project, owner, cap, scopes, expires, labels, out } => {
                self.needs_tollgate("create a project key by request; it creates keys of service accounts")?;
                let mut body = key_body(&name, &owner, &scopes, &expires)?;
                self.add_labels(&mut body, &labels)?;
                let body = Value::Object(body);
                let cap = cap.as_deref().map(amount::limit).transpose()?;
                let out = out.as_deref().map(Out::create).transpose()?;
                let made = self.client.post(&all(&project), &body).await?;
                if let Some((cents, interval)) = cap {
                    let capped = self.cap_key(made["id"].as_str().unwrap_or(""), cents, interval).await;
                    if let Err(failure) = capped {
                        // A key that was to be held by a limit is not given out without it.
                        self.client.delete(&one(&project, made["id"].as_str().unwrap_or(""))).await?;
                        return Err(failure);
                    }
                }
                self.show_secret(table::KEYS, &made, &made["value"], out)
            }
            KeyCommand::Update { id, project, scopes, all_scopes, expires, labels } => {
                let mut body = Map::new();
                let labels = self.with_known(&one(&project, &id), labels).await?;
                self.add_labels(&mut body, &labels)?;
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
            KeyCommand::Rotate { id, project, grace, out } => {
                self.needs_tollgate("rotate a key")?;
                let out = out.as_deref().map(Out::create).transpose()?;
                let seconds = grace.as_deref().map(amount::seconds).transpose()?.flatten().unwrap_or(0);
                let path = format!("{}/rotate", one(&project, &id));
                let made = self.client.post(&path, &json!({"grace_seconds": seconds})).await?;
                self.show_secret(table::KEYS, &made, &made["value"], out)
            }
            KeyCommand::EndPrevious { id, project } => {
                self.needs_tollgate("rotate a key")?;
                self.show(
                    table::KEYS,
                    &self.client.delete(&format!("{}/previous_secret", one(&project, &id))).await?,
                )
            }
            KeyCommand::Freeze { id, project } => self.frozen(&frozen_key(&project, &id), true).await,
            KeyCommand::Unfreeze { id, project } => self.frozen(&frozen_key(&project, &id), false).await,
            KeyCommand::Check { file } => self.check_key(&file).await,
            KeyCommand::Revoke { id, project: _ } if id == "-" => self.revoke_by_secret().await,
            KeyCommand::Revoke { id, project } => {
                let project = project.ok_or("Name the project: --project ID. By its secret a key is revoked without: `tollgate key revoke -`.".to_owned())?;
                self.confirm("key revoke", "It is refused from the next request on, for good.")?;
                self.deleted(&one(&InProject { project }, &id)).await
            }
        }
    }

    /// Sets what a new key may spend, in place of what the organization's defaults have given it for the interval.
    async fn cap_key(&self, key: &str, cents: i64, interval: Interval) -> Done {
        let base = format!("/tollgate/v1/api_keys/{}/spend_limits", encoded(key));
        let known = self.client.get(&base, &[]).await?;
        let known = known["data"].as_array().into_iter().flatten();
        let mut known = known.filter(|limit| limit["interval"] == interval.as_str());
        // A cap is to hold, also where what is given by default only observes.
        let mut body = json!({"threshold_amount": cents, "mode": "enforce"});
        let path = if let Some(id) = known.next().and_then(|limit| limit["id"].as_str()) {
            format!("{base}/{}", encoded(id))
        } else {
            body["interval"] = interval.as_str().into();
            base
        };
        self.client.post(&path, &body).await?;
        Ok(())
    }

    /// Freezes something, or takes that back.
    async fn frozen(&self, what: &str, is_frozen: bool) -> Done {
        self.needs_tollgate("freeze anything")?;
        let verb = if is_frozen { "freeze" } else { "unfreeze" };
        let answer = self.client.post(&format!("/tollgate/v1/{what}/{verb}"), &json!({})).await?;
        self.done(&answer)
    }

    /// What the key of a secret on stdin or in a file is: whether it could be a key at all is known here, the rest the server
    /// knows. No admin key is needed: the secret proves itself.
    async fn check_key(&self, file: &Path) -> Done {
        let secret = read_secret(file)?;
        if PresentedKey::parse(secret.reveal()).is_none() && !self.client.is_openai() {
            return Err("This is no key of Tollgate's: its form or its check sum is wrong."
                .to_owned()
                .into());
        }
        self.needs_tollgate("tell what a key is")?;
        let known = self.client.by(secret).get("/tollgate/v1/me", &[]).await?;
        self.show(table::ME, &known)
    }

    /// Revokes the key whose secret is on stdin: whoever holds a leaked key may kill it.
    async fn revoke_by_secret(&self) -> Done {
        self.needs_tollgate("revoke a key by its secret")?;
        let secret = read_secret(Path::new("-"))?;
        let client = self.client.by(secret);
        let known = client.get("/tollgate/v1/me", &[]).await?;
        let answer = client.delete("/tollgate/v1/me").await?;
        if self.format.is_for_programs() {
            return self.show(&[], &answer);
        }
        self.say(&format!(
            "Revoked {} ({}).",
            known["name"].as_str().unwrap_or(""),
            known["id"].as_str().unwrap_or("")
        ));
        Ok(())
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
        if self.format.is_for_programs() || self.fields.is_some() {
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
            ServiceAccountCommand::Create { name, project, no_key, labels, out } => {
                let out = out.as_deref().map(Out::create).transpose()?;
                let mut body = Map::new();
                body.insert("name".to_owned(), json!(name));
                body.insert("create_service_account_only".to_owned(), json!(no_key));
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
                self.confirm("service-account delete", "All its keys end for good.")?;
                self.deleted(&one(&project, &id)).await
            }
        }
    }
}

fn frozen_key(project: &InProject, id: &str) -> String {
    format!("projects/{}/api_keys/{}", encoded(&project.project), encoded(id))
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

fn key_body(
    name: &str,
    owner: &str,
    scopes: &[String],
    expires: &str,
) -> Result<Map<String, Value>, Failure> {
    let mut body = Map::new();
    body.insert("name".to_owned(), json!(name));
    body.insert("scopes".to_owned(), json!(scopes));
    let owner = owner.strip_prefix("sa:").unwrap_or(owner);
    let owner_field = if owner.starts_with("svc_acct_") { "service_account_id" } else { "user_id" };
    if owner != "me" {
        body.insert(owner_field.to_owned(), json!(owner));
    }
    if let Some(seconds) = amount::seconds(expires)? {
        body.insert("expires_in_seconds".to_owned(), json!(seconds));
    }
    Ok(body)
}
