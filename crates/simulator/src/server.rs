//! The simulated provider's server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tollgate_core::Clock;

use crate::answer::{Answer, Broken, error_answer, json_answer};
use crate::books::{Books, Entry};
use crate::chat::Completion;
use crate::script::{Fault, Script};
use crate::{completions, embeddings, messages, moderations, responses};

/// The models it lists. It answers for any other as well.
pub const MODELS: [&str; 9] = [
    "gpt-4o-mini",
    "gpt-4o",
    "gpt-4.1-mini",
    "o3-mini",
    "gpt-3.5-turbo-instruct",
    "claude-sonnet-5",
    "text-embedding-3-small",
    "omni-moderation-latest",
    "simulated-unpriced",
];

const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A simulated provider. Clones share books and configuration.
#[derive(Clone)]
pub struct Simulator(Arc<Inner>);

struct Inner {
    books: Arc<Books>,
    kept: responses::Shelf,
    script: Mutex<Script>,
    clock: Clock,
}

impl Simulator {
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            books: Arc::default(),
            kept: responses::Shelf::default(),
            script: Mutex::default(),
            clock,
        }))
    }

    /// Serves until the task is dropped.
    pub async fn serve(&self, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let simulator = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let simulator = simulator.clone();
                    async move { simulator.respond(request).await }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service);
                // A script that breaks off, and a client that leaves, end a connection with an error.
                let _ = connection.await;
            });
        }
    }

    /// The base URL for a listener's address.
    pub fn base_url(address: SocketAddr) -> String {
        format!("http://{address}/v1")
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Answer, Broken> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let request_id =
            head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or("").to_owned();
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else { return Err(Broken) };
        let body = body.to_bytes();
        match (&head.method, path.as_str()) {
            (&Method::GET, "/v1/models") => Ok(self.models()),
            (
                &Method::POST,
                "/v1/chat/completions"
                | "/v1/responses"
                | "/v1/completions"
                | "/v1/embeddings"
                | "/v1/moderations"
                | "/v1/messages"
                | "/v1/messages/count_tokens",
            ) => match serde_json::from_slice(&body) {
                Ok(body) => self.call(&path, &body, request_id).await,
                Err(_) => Ok(error_answer(400, "We could not parse the JSON body of your request.", None)),
            },
            (method, kept) if kept.starts_with("/v1/responses/") => {
                let query = head.uri.query().unwrap_or("");
                Ok(self.0.kept.serve(method, kept.trim_start_matches("/v1/responses/"), query))
            }
            (&Method::GET, "/_simulate/requests") => {
                Ok(json_answer(200, &json!({"data": self.0.books.list()})))
            }
            (&Method::POST, "/_simulate/reset") => {
                self.0.books.clear();
                *self.script() = Script::default();
                Ok(json_answer(200, &json!({"reset": true})))
            }
            (&Method::POST, "/_simulate/config") => Ok(self.configure(&body)),
            (method, path) => Ok(error_answer(404, &format!("Invalid URL ({method} {path})"), None)),
        }
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.0.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn configure(&self, body: &[u8]) -> Answer {
        match serde_json::from_slice::<Script>(body) {
            Ok(script) => {
                let shown = json!(script);
                *self.script() = script;
                json_answer(200, &shown)
            }
            Err(error) => error_answer(400, &format!("the script cannot be read: {error}"), None),
        }
    }

    fn models(&self) -> Answer {
        let created = self.0.clock.now().0;
        let data: Vec<Value> = MODELS
            .iter()
            .map(|id| json!({"id": id, "object": "model", "created": created, "owned_by": "simulator"}))
            .collect();
        json_answer(200, &json!({"object": "list", "data": data}))
    }

    async fn call(&self, path: &str, request: &Value, request_id: String) -> Result<Answer, Broken> {
        let script = match request_script(request) {
            Ok(script) => script.or(&self.script()),
            Err(message) => return Ok(error_answer(400, &message, None)),
        };
        let books = &self.0.books;
        let number = books.open(Entry {
            request_id,
            model: request["model"].as_str().unwrap_or("").to_owned(),
            started_at: self.0.clock.now().0,
            finished: false,
            billed_input: 0,
            billed_output: 0,
        });
        match script.fault {
            Some(Fault::Drop) => return Err(Broken),
            Some(Fault::Status) => {
                tokio::time::sleep(script.latency()).await;
                books.finish(number);
                return Ok(status_answer(&script));
            }
            _ => {}
        }
        match path {
            "/v1/embeddings" => return Ok(self.embeddings(request, script, number).await),
            "/v1/responses" => return Ok(self.response(request, script, number).await),
            "/v1/messages" => return Ok(self.message(request, script, number).await),
            "/v1/messages/count_tokens" => {
                tokio::time::sleep(script.latency()).await;
                books.finish(number);
                let counted = messages::input_tokens(request);
                return Ok(counted.map_or_else(
                    |message| messages::error(400, message),
                    |tokens| json_answer(200, &json!({"input_tokens": tokens})),
                ));
            }
            "/v1/completions" => return Ok(self.completion(request, script, number).await),
            "/v1/moderations" => {
                tokio::time::sleep(script.latency()).await;
                books.finish(number);
                let moderated = moderations::moderate(request, number);
                return Ok(moderated.map_or_else(
                    |message| error_answer(400, message, None),
                    |body| json_answer(200, &body),
                ));
            }
            _ => {}
        }
        let completion = match Completion::new(request, &script, self.0.clock.now().0, number) {
            Ok(completion) => completion,
            Err(refusal) => {
                books.finish(number);
                return Ok(*refusal);
            }
        };
        books.bill(number, completion.input_tokens, completion.output_tokens);
        tokio::time::sleep(script.latency()).await;
        Ok(completion.answer(script, Arc::clone(books), number))
    }

    async fn completion(&self, request: &Value, script: Script, number: u64) -> Answer {
        let completion = match completions::Completion::new(request, &script, self.0.clock.now().0, number) {
            Ok(completion) => completion,
            Err(message) => {
                self.0.books.finish(number);
                return error_answer(400, message, None);
            }
        };
        self.0.books.bill(number, completion.input_tokens, completion.output_tokens);
        tokio::time::sleep(script.latency()).await;
        completion.answer(script, Arc::clone(&self.0.books), number)
    }

    async fn message(&self, request: &Value, script: Script, number: u64) -> Answer {
        let message = match messages::Message::new(request, &script, number) {
            Ok(message) => message,
            Err(why) => {
                self.0.books.finish(number);
                return messages::error(400, why);
            }
        };
        self.0.books.bill(number, message.input_tokens, message.output_tokens);
        tokio::time::sleep(script.latency()).await;
        message.answer(script, Arc::clone(&self.0.books), number)
    }

    async fn response(&self, request: &Value, script: Script, number: u64) -> Answer {
        let before = match self.0.kept.before(request) {
            Ok(before) => before,
            Err(absent) => {
                self.0.books.finish(number);
                return absent.answer();
            }
        };
        let made = responses::Response::new(request, &script, self.0.clock.now().0, number, before);
        let response = match made {
            Ok(response) => response,
            Err(message) => {
                self.0.books.finish(number);
                return error_answer(400, message, None);
            }
        };
        self.0.books.bill(number, response.input_tokens, response.output_tokens);
        tokio::time::sleep(script.latency()).await;
        response.answer(script, Arc::clone(&self.0.books), &self.0.kept, number)
    }

    async fn embeddings(&self, request: &Value, script: Script, number: u64) -> Answer {
        let embedded = embeddings::embed(request, &script);
        if let Ok((_, tokens)) = &embedded {
            self.0.books.bill(number, *tokens, 0);
        }
        tokio::time::sleep(script.latency()).await;
        self.0.books.finish(number);
        match embedded {
            Ok((body, _)) => json_answer(200, &body),
            Err(message) => error_answer(400, message, None),
        }
    }
}

/// The script a request brings along in its metadata.
fn request_script(request: &Value) -> Result<Script, String> {
    match request["metadata"]["simulate"].as_str() {
        None => Ok(Script::default()),
        Some(text) => {
            serde_json::from_str(text).map_err(|error| format!("metadata.simulate cannot be read: {error}"))
        }
    }
}

fn status_answer(script: &Script) -> Answer {
    let status = script.status.unwrap_or(500);
    let code = if status == 429 { Some("rate_limit_exceeded") } else { None };
    let mut answer = error_answer(status, "The script says so.", code);
    if let Some(value) = script.retry_after.and_then(|seconds| seconds.to_string().parse().ok()) {
        answer.headers_mut().insert("retry-after", value);
    }
    answer
}
