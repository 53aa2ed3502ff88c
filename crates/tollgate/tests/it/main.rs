//! A whole server in this process, with a clock that the tests turn.

#![expect(clippy::unwrap_used, reason = "a test says by panicking what it did not expect")]

mod time;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tollgate::api::client::{CallError, Client};
use tollgate::config::ServeOptions;
use tollgate::node::Node;
use tollgate_core::secret::Secret;
use tollgate_core::{Address, Clock, Timestamp};
use tollgate_ledger::fsck;
use tollgate_simulator::Simulator;
use tollgate_store::{DataDir, Options};

/// A server with the simulated provider's models, and its owner's client.
struct Fixture {
    home: tempfile::TempDir,
    node: Node,
    clock: Clock,
    admin: Client,
    project: String,
}

impl Fixture {
    async fn start(at: Timestamp) -> Self {
        let home = tempfile::tempdir().unwrap();
        let clock = Clock::manual(at);
        let bootstrap = home.path().join("bootstrap.json");
        let options = ServeOptions {
            data: Some(home.path().join("data")),
            listen: Some("127.0.0.1:0".parse().unwrap()),
            bootstrap_file: Some(bootstrap.clone()),
            workers: Some(1),
            ..ServeOptions::default()
        };
        let node = Node::start(&options.config().unwrap(), clock.clone()).await.unwrap();
        let made: Value = serde_json::from_str(&std::fs::read_to_string(&bootstrap).unwrap()).unwrap();
        let admin = client(&node, made["admin_api_key"].as_str().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = Simulator::base_url(listener.local_addr().unwrap());
        let simulator = Simulator::new(clock.clone());
        tokio::spawn(async move { simulator.serve(listener).await });
        admin
            .post("/tollgate/v1/upstreams", &json!({"name": "simulator", "base_url": base_url}))
            .await
            .unwrap();
        let project = made["project_id"].as_str().unwrap().to_owned();
        Self { home, node, clock, admin, project }
    }

    fn path(&self, rest: &str) -> String {
        format!("/organization/projects/{}{rest}", self.project)
    }

    /// A new key of the default project: its id and a client that uses it.
    async fn key(&self, more: Value) -> (String, Client) {
        let mut body = json!({"name": "key"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = self.admin.post(&self.path("/api_keys"), &body).await.unwrap();
        (made["id"].as_str().unwrap().to_owned(), client(&self.node, made["value"].as_str().unwrap()))
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Every test ends here.
    async fn finish(self) {
        self.node.stop().await;
        let report = check(&self.home.path().join("data")).await;
        assert!(report.is_balanced(), "{report}");
    }
}

async fn check(data: &Path) -> fsck::Report {
    let db = DataDir::new(data).open(Options { create: false, read_only: true }).unwrap();
    fsck::check(&db).await.unwrap()
}

fn client(node: &Node, key: &str) -> Client {
    Client::new(Address::parse(&format!("{}/v1", node.url)).unwrap(), Secret::new(key))
}

/// A chat completion that spends a cent.
async fn spend_a_cent(client: &Client) -> Result<Value, CallError> {
    let body = json!({
        "model": "gpt-4o",
        "max_completion_tokens": 1000,
        "messages": [{"role": "user", "content": "x"}],
        "metadata": {"simulate": "{\"output_tokens\":\"max\"}"},
    });
    client.post("/chat/completions", &body).await
}

/// Status and code of a refusal.
fn refusal<T: std::fmt::Debug>(result: Result<T, CallError>) -> (u16, String) {
    match result.unwrap_err() {
        CallError::Refused { status, error, .. } => (status, error["code"].as_str().unwrap_or("").to_owned()),
        other => panic!("{other}"),
    }
}
