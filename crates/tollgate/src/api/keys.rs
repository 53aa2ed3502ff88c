//! `key`: the life of a project's keys.

use std::path::Path;

use serde_json::{Map, Value, json};
use tollgate_core::Interval;
use tollgate_core::key::PresentedKey;

use crate::api::arguments::{InProject, KeyCommand};
use crate::api::client::{CallError, encoded};
use crate::api::secret_input::read as read_secret;
use crate::api::session::{Done, Failure, PROJECTS, Session};
use crate::api::{amount, named, table};

impl Session {
    pub async fn key(&self, mut command: KeyCommand) -> Done {
        if let Some(what) = lacks(&command) {
            self.needs_tollgate(what)?;
        }
        if let KeyCommand::Create { expires, cap, .. } = &command {
            // What is wrong in itself is said before anything is asked.
            amount::seconds(expires)?;
            cap.as_deref().map(amount::limit).transpose()?;
        }
        if let Some((project, key)) = command.named() {
            *project = self.project_id(project).await?;
            if let Some(key) = key {
                *key = self.key_id(project, key).await?;
            }
        }
        match command {
            KeyCommand::List { project, many, all: is_all } => {
                let query: &[_] = if is_all { &[("owner_project_access", "any".to_owned())] } else { &[] };
                self.list(table::KEYS, &all(&project), query, &many).await
            }
            KeyCommand::Get { id, project } => {
                self.show(table::KEYS, &self.client.get(&one(&project, &id), &[]).await?)
            }
            command @ KeyCommand::Create { .. } => self.create_key(command).await,
            command @ KeyCommand::Update { .. } => self.update_key(command).await,
            KeyCommand::Rotate { id, project, grace, out } => {
                if grace.is_none() {
                    self.confirm(
                        &format!("key rotate {id}"),
                        "Without --grace the secret of now ends at once.",
                    )?;
                }
                let out = self.place_for_secret(out.as_deref(), "/value")?;
                let seconds = grace.as_deref().map(amount::seconds).transpose()?.flatten().unwrap_or(0);
                let path = format!("{}/rotate", one(&project, &id));
                let made = self.client.post(&path, &json!({"grace_seconds": seconds})).await?;
                self.show_secret(table::KEYS, &made, &made["value"], out)
            }
            KeyCommand::EndPrevious { id, project } => self.show(
                table::KEYS,
                &self.client.delete(&format!("{}/previous_secret", one(&project, &id))).await?,
            ),
            KeyCommand::Freeze { id, project } => self.frozen(&frozen_key(&project, &id), true).await,
            KeyCommand::Unfreeze { id, project } => self.frozen(&frozen_key(&project, &id), false).await,
            KeyCommand::Check { file } => self.check_key(&file).await,
            KeyCommand::Revoke { id, project: _ } if id == "-" => self.revoke_by_secret().await,
            KeyCommand::Revoke { id, project } => {
                let project = project.ok_or("Name the project: --project ID. By its secret a key is revoked without: `tollgate key revoke -`.".to_owned())?;
                let project = InProject { project: self.project_id(&project).await? };
                let said = id;
                let id = self.key_id(&project.project, &said).await?;
                self.confirm(
                    &format!("key revoke {said}"),
                    "It is refused from the next request on, for good.",
                )?;
                self.deleted(&one(&project, &id)).await
            }
        }
    }

    async fn create_key(&self, command: KeyCommand) -> Done {
        let KeyCommand::Create { name, project, owner, cap, scopes, expires, labels, out } = command else {
            return Ok(());
        };
        let owner = self.owner_of_key(&project.project, &owner).await?;
        let mut body = key_body(&name, &owner, &scopes, &expires)?;
        self.add_labels(&mut body, &labels)?;
        let body = Value::Object(body);
        let cap = cap.as_deref().map(amount::limit).transpose()?;
        let out = self.place_for_secret(out.as_deref(), "/value")?;
        let made = self.client.post(&all(&project), &body).await;
        if let (Err(CallError::NotSent), Some((cents, interval))) = (&made, cap) {
            let body = json!({"threshold_amount": cents, "interval": interval.as_str(), "mode": "enforce"});
            self.client.post("/tollgate/v1/api_keys/{api_key_id}/spend_limits", &body).await?;
        }
        let made = made?;
        let id = made["id"].as_str().unwrap_or("");
        if let Some((cents, interval)) = cap
            && let Err(failure) = self.cap_key(id, cents, interval).await
        {
            // A key that was to be held by a limit is not given out without it.
            self.client.delete(&one(&project, id)).await?;
            return Err(failure);
        }
        self.show_secret(table::KEYS, &made, &made["value"], out)
    }

    async fn update_key(&self, command: KeyCommand) -> Done {
        let KeyCommand::Update { id, project, name, scopes, all_scopes, expires, labels } = command else {
            return Ok(());
        };
        let mut body = Map::new();
        body.extend(name.map(|name| ("name".to_owned(), json!(name))));
        let labels = self.with_known(&one(&project, &id), labels).await?;
        self.add_labels(&mut body, &labels)?;
        if all_scopes || !scopes.is_empty() {
            body.insert("scopes".to_owned(), json!(scopes));
        }
        if let Some(expires) = expires {
            let seconds =
                amount::seconds(&expires)?.ok_or("An expiry can be moved but not removed.".to_owned())?;
            body.insert("expires_in_seconds".to_owned(), json!(seconds));
        }
        self.show(table::KEYS, &self.client.post(&one(&project, &id), &Value::Object(body)).await?)
    }

    /// Whose a new key is to be: a user by their address, or a service account by its name after `sa:`.
    async fn owner_of_key(&self, project: &str, said: &str) -> Result<String, Failure> {
        match said.strip_prefix("sa:") {
            _ if said == "me" => Ok(said.to_owned()),
            Some(account) => self.account_id(project, account).await,
            None if said.starts_with("svc_acct_") => Ok(said.to_owned()),
            None => self.id_of(&named::USER, said).await,
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
        if self.view.format.is_for_programs() {
            return self.show(&[], &answer);
        }
        self.say(&format!(
            "Revoked {} ({}).",
            known["name"].as_str().unwrap_or(""),
            known["id"].as_str().unwrap_or("")
        ));
        Ok(())
    }
}

fn all(project: &InProject) -> String {
    format!("{PROJECTS}/{}/api_keys", encoded(&project.project))
}

fn one(project: &InProject, id: &str) -> String {
    format!("{}/{}", all(project), encoded(id))
}

/// What of a command OpenAI has no way to, which is said before anything is sent.
fn lacks(command: &KeyCommand) -> Option<&'static str> {
    match command {
        KeyCommand::Create { .. } => {
            Some("create a project key by request; it creates keys of service accounts")
        }
        KeyCommand::Update { .. } => Some("change a key"),
        KeyCommand::Rotate { .. } | KeyCommand::EndPrevious { .. } => Some("rotate a key"),
        KeyCommand::Freeze { .. } | KeyCommand::Unfreeze { .. } => Some("freeze anything"),
        KeyCommand::List { .. }
        | KeyCommand::Get { .. }
        | KeyCommand::Check { .. }
        | KeyCommand::Revoke { .. } => None,
    }
}

fn frozen_key(project: &InProject, id: &str) -> String {
    format!("projects/{}/api_keys/{}", encoded(&project.project), encoded(id))
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
    let owner_field = if owner.starts_with("svc_acct_") { "service_account_id" } else { "user_id" };
    if owner != "me" {
        body.insert(owner_field.to_owned(), json!(owner));
    }
    if let Some(seconds) = amount::seconds(expires)? {
        body.insert("expires_in_seconds".to_owned(), json!(seconds));
    }
    Ok(body)
}
