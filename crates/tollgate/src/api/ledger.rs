//! `ledger` and `fsck` over the API: what was asked of upstreams and what it cost, and its corrections.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use crate::api::arguments::Many;
use crate::api::client::encoded;
use crate::api::session::{Done, Failure, Session};
use crate::api::table;

const REQUESTS: &str = "/tollgate/v1/requests";

#[derive(Subcommand, Debug)]
pub enum LedgerCommand {
    /// Requests, newest first
    List {
        #[command(flatten)]
        many: Many,
        /// Settled at their bound because the process that sent them had gone
        #[arg(long)]
        recovered: bool,
        /// With something odd about their usage
        #[arg(long)]
        flagged: bool,
        #[arg(long, value_parser = ["held", "settled", "voided"])]
        state: Option<String>,
        /// By where their usage is known from: the upstream said so, it was seen, or it is the most it could be
        #[arg(long, value_parser = ["upstream", "observed", "bound"])]
        usage_source: Option<String>,
        #[arg(short, long, value_name = "PROJECT")]
        project: Option<String>,
        #[arg(long, value_name = "ID")]
        api_key_id: Option<String>,
    },
    /// Show a request
    Get { id: String },
    /// Corrections and refunds of a request
    Adjustments { id: String },
    /// Say what a request really cost; a further row in the books, and an event in the audit log
    Correct {
        id: String,
        /// In US dollars
        #[arg(long, value_name = "USD")]
        cost: String,
        #[arg(long, value_name = "TOKENS")]
        input_tokens: Option<i64>,
        #[arg(long, value_name = "TOKENS")]
        output_tokens: Option<i64>,
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Give back some of what a request cost
    Refund {
        id: String,
        /// In US dollars
        #[arg(value_name = "USD")]
        amount: String,
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

impl Session {
    pub async fn ledger(&self, command: LedgerCommand) -> Done {
        self.needs_tollgate("look into its books")?;
        let one = |id: &str, what: &str| format!("{REQUESTS}/{}{what}", encoded(id));
        match command {
            LedgerCommand::List { many, recovered, flagged, state, usage_source, project, api_key_id } => {
                let mut query = Vec::new();
                query.extend(recovered.then(|| ("recovered", "true".to_owned())));
                query.extend(flagged.then(|| ("flagged", "true".to_owned())));
                query.extend(state.map(|state| ("state", state)));
                query.extend(usage_source.map(|source| ("usage_source", source)));
                if let Some(project) = project {
                    query.push(("project_id", self.project_id(&project).await?));
                }
                query.extend(api_key_id.map(|id| ("api_key_id", id)));
                self.list(table::REQUESTS, REQUESTS, &query, &many).await
            }
            LedgerCommand::Get { id } => {
                self.show(table::REQUESTS, &self.client.get(&one(&id, ""), &[]).await?)
            }
            LedgerCommand::Adjustments { id } => {
                let all = self.client.get(&one(&id, "/adjustments"), &[]).await?;
                self.show(table::ADJUSTMENTS, &all["data"])
            }
            LedgerCommand::Correct { id, cost, input_tokens, output_tokens, reason } => {
                let mut body = Map::new();
                body.insert("cost".to_owned(), json!(plain(&cost)));
                body.insert("reason".to_owned(), json!(reason));
                body.extend(input_tokens.map(|tokens| ("input_tokens".to_owned(), json!(tokens))));
                body.extend(output_tokens.map(|tokens| ("output_tokens".to_owned(), json!(tokens))));
                let made = self.client.post(&one(&id, "/corrections"), &Value::Object(body)).await?;
                self.show(table::ADJUSTMENTS, &made)
            }
            LedgerCommand::Refund { id, amount, reason } => {
                let body = json!({"amount": plain(&amount), "reason": reason});
                self.show(table::ADJUSTMENTS, &self.client.post(&one(&id, "/refunds"), &body).await?)
            }
        }
    }

    /// Whether the books of a running server balance; says what does not.
    pub async fn fsck(&self) -> Result<bool, Failure> {
        self.needs_tollgate("check its books")?;
        let report = self.client.get("/tollgate/v1/fsck", &[]).await?;
        if self.view.format.is_for_programs() {
            self.show(&[], &report)?;
        } else {
            self.show(table::FSCK, &report)?;
            for fault in report["faults"].as_array().into_iter().flatten() {
                self.say(fault.as_str().unwrap_or_default());
            }
        }
        Ok(report["is_balanced"] == true)
    }
}

/// Dollars as the API reads them.
fn plain(amount: &str) -> String {
    let amount = amount.trim().trim_start_matches('$');
    amount.strip_suffix("usd").unwrap_or(amount).trim().to_owned()
}
