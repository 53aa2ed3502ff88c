//! A client of the administration API.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate_core::Address;
use tollgate_core::secret::Secret;
use tollgate_wire::Dialer;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
const ANSWER_TIME_MAX: Duration = Duration::from_mins(1);
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a call has no result.
#[derive(Debug)]
pub enum CallError {
    /// The server refused, in its envelope.
    Refused { status: u16, error: Value, request_id: Option<String> },
    /// There was no answer that could be understood.
    Network(String),
    /// It was only to be shown, and was.
    NotSent,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { status, error, request_id } => {
                let message = error["message"].as_str().unwrap_or("The server refused without a message.");
                write!(f, "{message} (status {status}")?;
                if let Some(param) = error["param"].as_str() {
                    write!(f, ", param {param}")?;
                }
                if let Some(id) = request_id {
                    write!(f, ", request {id}")?;
                }
                f.write_str(")")
            }
            Self::Network(message) => f.write_str(message),
            Self::NotSent => f.write_str("Nothing was sent."),
        }
    }
}

/// Where the API is, and the key that opens it.
pub struct Client {
    address: Address,
    key: Secret,
    dialer: Dialer,
    answer_time_max: Duration,
    /// Whether changes are only shown.
    is_dry: bool,
}

impl Client {
    /// `address` ends in `/v1`.
    pub fn new(address: Address, key: Secret) -> Self {
        let dialer = Dialer::new(tollgate_wire::client_config(), CONNECT_TIME_MAX);
        Self { address, key, dialer, answer_time_max: ANSWER_TIME_MAX, is_dry: false }
    }

    /// The same that waits so long for an answer, and only shows changes where it is `dry`.
    #[must_use]
    pub fn with(mut self, answer_time_max: Option<Duration>, is_dry: bool) -> Self {
        self.answer_time_max = answer_time_max.unwrap_or(ANSWER_TIME_MAX);
        self.is_dry = is_dry;
        self
    }

    pub fn is_dry(&self) -> bool {
        self.is_dry
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The same server by another key.
    pub(crate) fn by(&self, key: Secret) -> Self {
        let Self { address, dialer, answer_time_max, is_dry, .. } = self;
        let (address, dialer) = (address.clone(), dialer.clone());
        Self { address, key, dialer, answer_time_max: *answer_time_max, is_dry: *is_dry }
    }

    /// Whether this is OpenAI itself, which lacks our extensions.
    pub fn is_openai(&self) -> bool {
        self.address.host == "api.openai.com"
    }

    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, CallError> {
        self.call("GET", &with_query(path, query), None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        self.call("POST", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Result<Value, CallError> {
        self.call("DELETE", path, None).await
    }

    pub async fn delete_with(&self, path: &str, query: &[(&str, String)]) -> Result<Value, CallError> {
        self.call("DELETE", &with_query(path, query), None).await
    }

    /// All items of a list, page by page, at most `limit`; and whether there are more.
    pub async fn list(
        &self,
        path: &str,
        query: &[(&str, String)],
        limit: usize,
    ) -> Result<(Vec<Value>, bool), CallError> {
        const PAGE_MAX: usize = 100;
        let mut items: Vec<Value> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let wanted = (limit - items.len()).min(PAGE_MAX);
            let mut query = query.to_vec();
            query.push(("limit", wanted.to_string()));
            query.extend(after.take().map(|after| ("after", after)));
            let page = self.get(path, &query).await?;
            let has_more = page["has_more"].as_bool().unwrap_or(false);
            items.extend(page["data"].as_array().cloned().unwrap_or_default());
            // Two ways of OpenAI's to say where the next page begins.
            after = page["next"].as_str().or_else(|| page["last_id"].as_str()).map(str::to_owned);
            if !has_more || items.len() >= limit || after.is_none() {
                return Ok((items, has_more));
            }
        }
    }

    /// `path` is below `/v1`, or begins with `/tollgate` and stands beside it.
    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, CallError> {
        if self.is_dry && method != "GET" {
            show_unsent(method, path, body);
            return Err(CallError::NotSent);
        }
        tokio::time::timeout(self.answer_time_max, self.exchange(method, path, body))
            .await
            .unwrap_or_else(|_| Err(CallError::Network("The server did not answer in time.".to_owned())))
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, CallError> {
        let network = |what: &str| CallError::Network(format!("{}: {what}", self.address));
        let base = if path.starts_with("/tollgate/") {
            self.address.path.strip_suffix("/v1").unwrap_or(&self.address.path)
        } else {
            &self.address.path
        };
        let body = body.map(Value::to_string).unwrap_or_default();
        let content = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let head = format!(
            "{method} {base}{path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\naccept: application/json\r\n\
             user-agent: tollgate/{}\r\n{content}content-length: {}\r\n\r\n",
            self.address.authority(),
            self.key.reveal(),
            env!("CARGO_PKG_VERSION"),
            body.len(),
        );
        let connection =
            self.dialer.dial(&self.address).await.map_err(|error| network(&error.to_string()))?;
        let sent = connection.send(head.as_bytes(), body.as_bytes()).await;
        let mut exchange = sent.map_err(|error| network(&error.to_string()))?;
        let mut answer = Vec::new();
        while exchange.read(&mut answer).await.map_err(|error| network(&error.to_string()))? {
            if answer.len() > ANSWER_BYTES_MAX {
                return Err(network("the answer is too long"));
            }
        }
        let status = exchange.head.status;
        let answer: Value = serde_json::from_slice(&answer).map_err(|_| {
            network(&format!("the answer with status {status} is not JSON; is this the API's base URL?"))
        })?;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let request_id = exchange.head.headers.get("x-request-id").map(str::to_owned);
        if status == 404 && !self.address.path.ends_with("/v1") {
            let message = answer["error"]["message"].as_str().unwrap_or_default();
            let error = json!({"message": format!("{message} A base URL usually ends in /v1; this one is {}.", self.address)});
            return Err(CallError::Refused { status, error, request_id });
        }
        Err(CallError::Refused { status, error: answer["error"].clone(), request_id })
    }
}

fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let separator = match (query.is_empty(), path.contains('?')) {
        (true, _) => "",
        (false, false) => "?",
        (false, true) => "&",
    };
    format!("{path}{separator}{}", query.join("&"))
}

/// Shows a change that is not made. A secret in it is not for the screen.
#[expect(clippy::print_stdout, reason = "it is what was asked for")]
fn show_unsent(method: &str, path: &str, body: Option<&Value>) {
    let base = if path.starts_with("/tollgate/") { "" } else { "/v1" };
    println!("{method} {base}{path}");
    if let Some(Value::Object(body)) = body {
        let mut shown = body.clone();
        for name in ["api_key", "headers", "value", "password"] {
            if let Some(value) = shown.get_mut(name) {
                *value = Value::from("(a secret)");
            }
        }
        println!("{}", serde_json::to_string_pretty(&shown).unwrap_or_default());
    }
}

pub(crate) use tollgate_wire::percent_encoded as encoded;
