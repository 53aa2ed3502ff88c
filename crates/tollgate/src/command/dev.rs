//! `tollgate dev`: a newcomer's first minute. A server in a temporary directory, something to call, a key, a small cap,
//! and the commands to try all of it.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tollgate_core::secret::Secret;
use tollgate_core::{Address, Clock, Error, Result};

use crate::api::client::Client;
use crate::command::serve::StopSignals;
use crate::command::simulate;
use crate::config::ServeOptions;
use crate::node::Node;

#[derive(Args, Debug)]
pub struct DevOptions {
    /// What answers
    #[arg(long, value_enum, default_value = "simulator")]
    pub upstream: Kind,
    /// Address to listen on; a free port if this one is taken
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where Ollama is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:11434/v1")]
    pub ollama_url: String,
    /// OpenAI's API key, from the environment alone: there is no flag for a secret
    #[arg(skip)]
    pub openai_key: Option<Secret>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The built-in simulated provider: no network, no cost
    Simulator,
    /// OpenAI, with the key in OPENAI_API_KEY
    Openai,
    /// Ollama on this machine
    Ollama,
}

/// What was seeded, as far as the commands name it.
struct Seeded {
    project: String,
    key_id: String,
    key: String,
    model: String,
    /// Of the models the one that reaches the cap soonest.
    dear_model: String,
}

pub async fn dev(options: DevOptions) -> Result<()> {
    let stop = StopSignals::listen()?;
    let home = tempfile::Builder::new()
        .prefix("tollgate-dev-")
        .tempdir()
        .map_err(|error| Error::bad_request(format!("A temporary directory cannot be made: {error}.")))?;
    let (base_url, credential) = upstream(&options)?;
    let bootstrap = home.path().join("bootstrap.json");
    let given = |listen| ServeOptions {
        data: Some(home.path().join("data")),
        listen: Some(listen),
        bootstrap_file: Some(bootstrap.clone()),
        ..ServeOptions::default()
    };
    let clock = Clock::system();
    let node = match Node::start(&given(options.listen).config()?, clock.clone()).await {
        Ok(node) => node,
        // The usual port is often taken, and a first minute should not begin with an error.
        Err(_) if options.listen.port() != 0 && !bootstrap.exists() => {
            Node::start(&given(SocketAddr::new(options.listen.ip(), 0)).config()?, clock).await?
        }
        Err(error) => return Err(error),
    };
    let text = std::fs::read_to_string(&bootstrap).map_err(|error| Error::internal(error.to_string()))?;
    let made: Value = serde_json::from_str(&text).map_err(|error| Error::internal(error.to_string()))?;
    let admin_key = made["admin_api_key"].as_str().unwrap_or_default().to_owned();
    let seeded = seed(&node.url, &admin_key, options.upstream, &base_url, credential.as_ref()).await?;
    say(&instructions(&node.url, &admin_key, options.upstream, &seeded));
    stop.wait().await;
    node.stop().await;
    Ok(())
}

fn upstream(options: &DevOptions) -> Result<(String, Option<Secret>)> {
    match options.upstream {
        Kind::Simulator => {
            let (address, _) = simulate::start(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            Ok((tollgate_simulator::Simulator::base_url(address), None))
        }
        Kind::Ollama => Ok((options.ollama_url.clone(), None)),
        Kind::Openai => {
            let key = options.openai_key.clone().ok_or_else(|| {
                Error::bad_request("Put your OpenAI key into the environment: export OPENAI_API_KEY=sk-...")
            })?;
            Ok(("https://api.openai.com/v1".to_owned(), Some(key)))
        }
    }
}

/// Fills the organization through its own API, as its owner would.
async fn seed(
    url: &str,
    admin_key: &str,
    kind: Kind,
    base_url: &str,
    credential: Option<&Secret>,
) -> Result<Seeded> {
    let address = Address::parse(&format!("{url}/v1")).map_err(Error::internal)?;
    let client = Client::new(address, Secret::new(admin_key));
    let failed = |error: crate::api::client::CallError| Error::bad_request(error.to_string());
    let mut body = json!({"name": format!("{kind:?}").to_lowercase(), "base_url": base_url});
    if let Some(credential) = credential {
        body["api_key"] = json!(credential.reveal());
    }
    let upstream = client.post("/tollgate/v1/upstreams", &body).await.map_err(failed)?;
    let models: Vec<&str> =
        upstream["models"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let prefer = |wanted: &str| models.iter().find(|model| **model == wanted).or(models.first()).copied();
    let dear_model = prefer("gpt-4o").unwrap_or_default().to_owned();
    let model = prefer("gpt-4o-mini");
    let model =
        model.ok_or_else(|| Error::bad_request(format!("{base_url} lists no models. Pull one first.")))?;
    if kind == Kind::Ollama {
        // Local models have no price. One is set so that the cap has something to count.
        let price = json!({"input_price": "1", "output_price": "10", "max_output_tokens": 4096, "context_tokens": 8192});
        for model in &models {
            let path = format!("/tollgate/v1/models/{}", crate::api::client::encoded(model));
            client.post(&path, &price).await.map_err(failed)?;
        }
    }
    let project = client.post("/organization/projects", &json!({"name": "Demo"})).await.map_err(failed)?;
    let project = project["id"].as_str().unwrap_or_default().to_owned();
    let path = format!("/organization/projects/{project}");
    let limit = json!({"threshold_amount": 5, "currency": "USD", "interval": "month"});
    client.post(&format!("{path}/spend_limit"), &limit).await.map_err(failed)?;
    let key = client.post(&format!("{path}/api_keys"), &json!({"name": "Demo key"})).await.map_err(failed)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Seeded {
        project,
        key_id: text(&key["id"]),
        key: text(&key["value"]),
        model: model.to_owned(),
        dear_model,
    })
}

fn instructions(url: &str, admin_key: &str, kind: Kind, seeded: &Seeded) -> String {
    let Seeded { project, key_id, key, model, dear_model } = seeded;
    let metadata = match kind {
        // The simulated provider is told to answer at full length, which is what spends the money.
        Kind::Simulator => r#","metadata":{"simulate":"{\"output_tokens\":\"max\"}"}"#,
        Kind::Openai | Kind::Ollama => "",
    };
    format!(
        r#"Tollgate is at {url} with a project, a key, and a cap of $0.05. All of it is gone when you press Ctrl-C.

  export OPENAI_BASE_URL={url}/v1
  export OPENAI_API_KEY={key}
  export OPENAI_ADMIN_KEY={admin_key}
  export TOLLGATE_URL={url}/v1

1. Call a model:

  curl -s {url}/v1/chat/completions -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
    -d '{{"model":"{model}","messages":[{{"role":"user","content":"Hello"}}]}}'

   or from Python (pip install openai), which reads the variables above:

  python3 -c 'from openai import OpenAI; print(OpenAI().chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}]).choices[0].message.content)'

2. Reach the cap: the calls go through until the next one could exceed $0.05, and not one further.

  for i in $(seq 10); do curl -s {url}/v1/chat/completions -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
    -d '{{"model":"{dear_model}","max_completion_tokens":1000,"messages":[{{"role":"user","content":"Tell me everything"}}]{metadata}}}' | cut -c1-400; echo; done

   and see what it cost:

  curl -s {url}/v1/organization/projects/{project}/spend_limit -H "Authorization: Bearer $OPENAI_ADMIN_KEY"

3. Revoke the key, and use it again: the next call is refused.

  curl -s -X DELETE {url}/v1/organization/projects/{project}/api_keys/{key_id} -H "Authorization: Bearer $OPENAI_ADMIN_KEY"
  curl -s {url}/v1/models -H "Authorization: Bearer $OPENAI_API_KEY"
"#
    )
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn say(text: &str) {
    println!("{text}");
}
