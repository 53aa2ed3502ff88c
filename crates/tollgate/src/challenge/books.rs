//! Both sides' books: what the simulated provider billed, and what the gateway recorded.

use serde_json::{Value, json};
use tollgate_core::price::{Price, Rates, Request, Size, TokenUsage};
use tollgate_core::secret::Secret;
use tollgate_core::{Address, Clock, Money};

use crate::api::client::{CallError, Client, encoded};
use crate::api::session::Failure;

/// The simulated provider.
pub(crate) struct Provider {
    client: Client,
    rates: Rates,
}

/// What it was asked for and would bill.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Total {
    pub(crate) requests: u64,
    pub(crate) billed: Money,
}

impl Provider {
    pub(crate) fn new(client: Client, rates: Rates) -> Self {
        Self { client, rates }
    }

    pub(crate) async fn reset(&self) -> Result<(), Failure> {
        let answer = self.client.post("/_simulate/reset", &json!({})).await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("--simulator is not `tollgate simulate`: {error}").into()),
        }
    }

    pub(crate) async fn script(&self, script: &Value) -> Result<(), Failure> {
        self.client.post("/_simulate/config", script).await?;
        Ok(())
    }

    pub(crate) async fn total(&self) -> Result<Total, Failure> {
        let listed = self.client.get("/_simulate/requests", &[]).await?;
        let mut total = Total::default();
        for entry in listed["data"].as_array().into_iter().flatten() {
            let tokens = |field: &str| entry[field].as_u64().unwrap_or(0);
            let cost = self.cost(tokens("billed_input"), tokens("billed_output"));
            if cost > Money::ZERO {
                total.requests += 1;
                total.billed += cost;
            }
        }
        Ok(total)
    }

    pub(crate) fn cost(&self, input: u64, output: u64) -> Money {
        let request = Request {
            price: Some(Price { rates: self.rates, ..Price::FREE }),
            size: Size::without_output(None),
            ceiling: None,
        };
        request.cost(TokenUsage { input, output, ..TokenUsage::default() }).total()
    }

    /// How much output costs so much, about.
    pub(crate) fn output_worth(&self, amount: Money) -> u64 {
        let each = self.rates.output.map_or(1, |price| price.times(1).nanos().max(1));
        u64::try_from(amount.nanos() / each).unwrap_or(0)
    }
}

/// What a gateway says it recorded for the key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recorded {
    /// `None` where it does not say.
    pub(crate) requests: Option<u64>,
    pub(crate) spent: Option<Money>,
}

/// The gateway's side of the books and the end of the key, over OpenAI's administration API or by commands.
pub(crate) struct Gateway {
    admin: Option<Client>,
    key: Option<KeyPlace>,
    revoke_command: Option<String>,
    spent_command: Option<String>,
    began: i64,
}

struct KeyPlace {
    id: String,
    project: String,
}

impl Gateway {
    pub(crate) async fn find(
        address: &Address,
        key: &Secret,
        admin_key: Option<Secret>,
        revoke_command: Option<String>,
        spent_command: Option<String>,
    ) -> Result<Self, Failure> {
        let admin = admin_key.map(|admin_key| Client::new(address.clone(), admin_key));
        let place = match &admin {
            Some(admin) => find_key(address, admin, key).await?,
            None => None,
        };
        if admin.is_some() && place.is_none() && revoke_command.is_none() {
            return Err("The gateway's admin API does not list the key; see --revoke-command."
                .to_owned()
                .into());
        }
        let now = Clock::system().now().0;
        let began = now - now.rem_euclid(86_400);
        Ok(Self { admin, key: place, revoke_command, spent_command, began })
    }

    /// What the key's project may still spend this month.
    pub(crate) async fn left(&self) -> Result<Option<Money>, Failure> {
        let (Some(admin), Some(key)) = (&self.admin, &self.key) else { return Ok(None) };
        let path = format!("/organization/projects/{}/spend_limit", encoded(&key.project));
        let limit = match admin.get(&path, &[]).await {
            Ok(limit) => limit,
            Err(CallError::Refused { status: 404, .. }) => return Ok(None),
            Err(other) => return Err(other.into()),
        };
        let limit_amount = limit["threshold_amount"].as_i64().and_then(Money::from_cents).unwrap_or_default();
        let spent = limit["spent"].as_str().and_then(Money::parse).unwrap_or_default();
        Ok(Some(limit_amount.saturating_sub(spent)))
    }

    pub(crate) async fn recorded(&self) -> Result<Recorded, Failure> {
        if let Some(command) = &self.spent_command {
            let said = shell(command).await?;
            let spent = Money::parse(said.trim())
                .ok_or_else(|| format!("--spent-command printed `{}`, which is no amount.", said.trim()))?;
            return Ok(Recorded { requests: None, spent: Some(spent) });
        }
        let (Some(admin), Some(key)) = (&self.admin, &self.key) else { return Ok(Recorded::default()) };
        let query = [
            ("start_time", self.began.to_string()),
            ("bucket_width", "1d".to_owned()),
            ("api_key_ids", key.id.clone()),
        ];
        let usage = admin.get("/organization/usage/completions", &query).await?;
        let requests = results(&usage).filter_map(|result| result["num_model_requests"].as_u64()).sum();
        let costs = admin.get("/organization/costs", &query).await?;
        let dollars = |result: &Value| result["amount"]["value"].as_f64().map(|value| format!("{value:.9}"));
        let spent = results(&costs).filter_map(dollars).filter_map(|text| Money::parse(&text)).sum();
        Ok(Recorded { requests: Some(requests), spent: Some(spent) })
    }

    pub(crate) fn can_revoke(&self) -> bool {
        self.revoke_command.is_some() || self.key.is_some()
    }

    /// Returns when the gateway says that the key is gone.
    pub(crate) async fn revoke(&self) -> Result<(), Failure> {
        if let Some(command) = &self.revoke_command {
            shell(command).await?;
            return Ok(());
        }
        if let (Some(admin), Some(key)) = (&self.admin, &self.key) {
            let (project, id) = (encoded(&key.project), encoded(&key.id));
            admin.delete(&format!("/organization/projects/{project}/api_keys/{id}")).await?;
        }
        Ok(())
    }
}

fn results(answer: &Value) -> impl Iterator<Item = &Value> {
    let buckets = answer["data"].as_array().into_iter().flatten();
    buckets.flat_map(|bucket| bucket["results"].as_array().into_iter().flatten())
}

/// Tollgate says what a key is to whoever holds it; elsewhere it is looked for by its last letters.
async fn find_key(address: &Address, admin: &Client, key: &Secret) -> Result<Option<KeyPlace>, Failure> {
    let itself = Client::new(address.clone(), Secret::new(key.reveal()));
    if let Ok(me) = itself.get("/tollgate/v1/me", &[]).await
        && let (Some(id), Some(project)) = (me["id"].as_str(), me["project_id"].as_str())
    {
        return Ok(Some(KeyPlace { id: id.to_owned(), project: project.to_owned() }));
    }
    let text = key.reveal();
    let last = text.char_indices().rev().nth(3).map_or(text, |(at, _)| &text[at..]);
    let mut found = None;
    let (projects, _) = match admin.list("/organization/projects", &[], usize::MAX).await {
        Err(CallError::Refused { status: 404 | 405, .. }) => return Ok(None),
        listed => listed?,
    };
    for project in projects.iter().filter_map(|project| project["id"].as_str()) {
        let path = format!("/organization/projects/{}/api_keys", encoded(project));
        let (keys, _) = admin.list(&path, &[], usize::MAX).await?;
        for key in
            keys.iter().filter(|key| key["redacted_value"].as_str().is_some_and(|text| text.ends_with(last)))
        {
            if found.is_some() {
                return Err("Several keys end like this one; see --revoke-command.".to_owned().into());
            }
            let id = key["id"].as_str().unwrap_or_default().to_owned();
            found = Some(KeyPlace { id, project: project.to_owned() });
        }
    }
    Ok(found)
}

async fn shell(command: &str) -> Result<String, Failure> {
    let owned = command.to_owned();
    let run = move || std::process::Command::new("sh").arg("-c").arg(owned).output();
    let failed = |why: String| Failure::Usage(format!("`{command}` failed: {why}"));
    let done = tokio::task::spawn_blocking(run).await.map_err(|error| failed(error.to_string()))?;
    let done = done.map_err(|error| failed(error.to_string()))?;
    if !done.status.success() {
        return Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
