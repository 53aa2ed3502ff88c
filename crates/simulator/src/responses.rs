//! Responses: the newer way to ask a model.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::header::HeaderValue;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::answer::{Answer, Broken, error_answer, json_answer, paced};
use crate::books::Books;
use crate::script::{Fault, Script};
use crate::text;

const OUTPUT_USUAL: u64 = 24;

pub(crate) struct Response {
    /// The answer before anything is made.
    beginning: Value,
    /// What is made: a text by its pieces, or the arguments of a call.
    output: Output,
    is_incomplete: bool,
    usage: Option<Value>,
    is_stream: bool,
    /// How long it is made in the background, if it is.
    background: Option<Duration>,
    is_kept: bool,
    input: Value,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
}

enum Output {
    Text(Vec<String>),
    Call { name: String, arguments: String },
}

impl Response {
    /// `before` is what was said in the response that it goes on from, in tokens.
    pub(crate) fn new(
        request: &Value,
        script: &Script,
        now: i64,
        number: u64,
        before: u64,
    ) -> Result<Self, &'static str> {
        let model = request["model"].as_str().ok_or("you must provide a model parameter")?;
        let input_tokens = before + input_tokens(request)?;
        let limit = request["max_output_tokens"].as_u64().unwrap_or(crate::chat::OUTPUT_MAX);
        let (tokens, is_cut) = script.output_within(limit, OUTPUT_USUAL);
        let wants_call = script.tool_arguments.is_some() || request["tool_choice"] == "required";
        let output = match request["tools"][0]["name"].as_str().filter(|_| wants_call) {
            Some(name) => Output::Call {
                name: name.to_owned(),
                arguments: script.tool_arguments.clone().unwrap_or_else(|| "{}".to_owned()),
            },
            None => Output::Text(text::pieces(tokens).map(str::to_owned).collect()),
        };
        let output_tokens = match &output {
            Output::Text(pieces) => text::count(&pieces.concat()),
            Output::Call { name, arguments } => text::count(name) + text::count(arguments),
        };
        let cached = script.cached_tokens.unwrap_or(0);
        let usage = json!({"input_tokens": input_tokens, "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": output_tokens, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input_tokens + output_tokens});
        let beginning = json!({
            "id": format!("resp_sim{number}"), "object": "response", "created_at": now, "status": "in_progress",
            "background": request["background"] == true, "error": null, "incomplete_details": null, "instructions": request["instructions"],
            "max_output_tokens": request["max_output_tokens"], "metadata": {}, "model": model, "output": [],
            "parallel_tool_calls": true, "previous_response_id": request["previous_response_id"], "reasoning": {"effort": null, "summary": null},
            "service_tier": script.service_tier.clone().unwrap_or_else(|| "default".to_owned()),
            "store": request["store"] != false, "temperature": 1, "text": {"format": {"type": "text"}},
            "tool_choice": "auto", "tools": [], "top_p": 1, "truncation": "disabled", "usage": null, "user": null,
        });
        Ok(Self {
            beginning,
            is_incomplete: matches!(output, Output::Text(_)) && is_cut,
            output,
            usage: script.shown_usage(usage),
            is_stream: request["stream"] == true,
            background: (request["background"] == true)
                .then(|| Duration::from_millis(script.background_ms.unwrap_or(0))),
            is_kept: request["store"] != false,
            input: request["input"].clone(),
            input_tokens,
            output_tokens,
        })
    }

    pub(crate) fn answer(self, script: Script, books: Arc<Books>, kept: &Shelf, number: u64) -> Answer {
        if self.is_kept {
            kept.keep(&self);
        }
        if let Some(time) = self.background.filter(|_| !self.is_stream) {
            // Billed when it is done, whoever asks.
            let mut queued = self.beginning.clone();
            queued["status"] = json!("queued");
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                books.finish(number);
            });
            return json_answer(200, &queued);
        }
        if self.is_stream {
            return paced(
                self.events().into_iter(),
                "text/event-stream; charset=utf-8",
                script,
                books,
                number,
            );
        }
        let body = self.end();
        if matches!(script.fault, Some(Fault::Cut | Fault::Stall)) {
            return paced(std::iter::once(body.to_string()), "application/json", script, books, number);
        }
        books.finish(number);
        json_answer(200, &body)
    }

    fn end(&self) -> Value {
        let mut body = self.beginning.clone();
        body["status"] = json!(if self.is_incomplete { "incomplete" } else { "completed" });
        if self.is_incomplete {
            body["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        body["output"] = json!([self.item(true)]);
        body["usage"] = self.usage.clone().unwrap_or_default();
        body
    }

    fn item(&self, is_done: bool) -> Value {
        let status = if is_done { "completed" } else { "in_progress" };
        match &self.output {
            Output::Text(pieces) => {
                let parts = if is_done { vec![part(&pieces.concat())] } else { Vec::new() };
                json!({"type": "message", "id": self.item_id(), "status": status, "role": "assistant", "content": parts})
            }
            Output::Call { name, arguments } => {
                json!({"type": "function_call", "id": self.item_id(), "status": status,
                "call_id": "call_simulated", "name": name, "arguments": if is_done { arguments } else { "" }})
            }
        }
    }

    /// The id of what is made, which is named after the response.
    fn item_id(&self) -> String {
        let kind = match self.output {
            Output::Text(_) => "msg",
            Output::Call { .. } => "fc",
        };
        format!("{kind}_{}", self.beginning["id"].as_str().unwrap_or_default())
    }

    fn events(&self) -> Vec<String> {
        let mut events = vec![
            json!({"type": "response.created", "response": self.beginning}),
            json!({"type": "response.in_progress", "response": self.beginning}),
            json!({"type": "response.output_item.added", "output_index": 0, "item": self.item(false)}),
        ];
        match &self.output {
            Output::Text(pieces) => {
                let of_part = |kind: &str, more: Value| {
                    let mut event = json!({"type": kind, "item_id": self.item_id(), "output_index": 0, "content_index": 0});
                    if let (Some(event), Value::Object(more)) = (event.as_object_mut(), more) {
                        event.extend(more);
                    }
                    event
                };
                let whole = pieces.concat();
                events.push(of_part("response.content_part.added", json!({"part": part("")})));
                let delta = |piece: &String| {
                    of_part("response.output_text.delta", json!({"delta": piece, "logprobs": []}))
                };
                events.extend(pieces.iter().map(delta));
                events.push(of_part("response.output_text.done", json!({"text": whole, "logprobs": []})));
                events.push(of_part("response.content_part.done", json!({"part": part(&whole)})));
            }
            Output::Call { name, arguments } => {
                let item = json!({"item_id": self.item_id(), "output_index": 0});
                for (kind, field, more) in [
                    ("response.function_call_arguments.delta", "delta", None),
                    ("response.function_call_arguments.done", "arguments", Some(name)),
                ] {
                    let mut event = item.clone();
                    event["type"] = json!(kind);
                    event[field] = json!(arguments);
                    if let Some(name) = more {
                        event["name"] = json!(name);
                    }
                    events.push(event);
                }
            }
        }
        events.push(json!({"type": "response.output_item.done", "output_index": 0, "item": self.item(true)}));
        let last = if self.is_incomplete { "response.incomplete" } else { "response.completed" };
        events.push(json!({"type": last, "response": self.end()}));
        let numbered = events.into_iter().enumerate().map(|(number, mut event)| {
            event["sequence_number"] = json!(number);
            format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
        });
        numbered.collect()
    }
}

/// What a request names and nobody keeps.
pub(crate) enum Absent {
    Previous,
    Item(String),
}

impl Absent {
    pub(crate) fn answer(&self) -> Answer {
        match self {
            Self::Previous => {
                error_answer(400, "Previous response not found.", Some("previous_response_not_found"))
            }
            Self::Item(id) => error_answer(404, &format!("Item with id '{id}' not found."), None),
        }
    }
}

/// The responses that are kept, for whoever names them.
#[derive(Default)]
pub(crate) struct Shelf(Mutex<HashMap<String, Kept>>);

struct Kept {
    beginning: Value,
    end: Value,
    events: Vec<String>,
    input: Value,
    /// Of the input and of the output.
    tokens: (u64, u64),
    done_at: Instant,
    is_cancelled: bool,
}

impl Kept {
    fn shown(&self) -> Value {
        if self.is_cancelled || Instant::now() < self.done_at {
            let mut shown = self.beginning.clone();
            shown["status"] = json!(if self.is_cancelled { "cancelled" } else { "in_progress" });
            shown
        } else {
            self.end.clone()
        }
    }
}

impl Shelf {
    fn kept(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, response: &Response) {
        let id = response.beginning["id"].as_str().unwrap_or_default().to_owned();
        let kept = Kept {
            beginning: response.beginning.clone(),
            end: response.end(),
            events: response.events(),
            input: response.input.clone(),
            tokens: (response.input_tokens, response.output_tokens),
            done_at: Instant::now() + response.background.unwrap_or_default(),
            is_cancelled: false,
        };
        self.kept().insert(id, kept);
    }

    /// The tokens of what a request goes on from and of the items that it only names; the error says what is not kept.
    pub(crate) fn before(&self, request: &Value) -> Result<u64, Absent> {
        let kept = self.kept();
        let said = match request["previous_response_id"].as_str().map(|id| kept.get(id)) {
            None => 0,
            Some(Some(kept)) => kept.tokens.0 + kept.tokens.1,
            Some(None) => {
                return Err(Absent::Previous);
            }
        };
        let named = request["input"].as_array().into_iter().flatten();
        let named = named.filter(|item| item["type"] == "item_reference").map(|item| {
            let id = item["id"].as_str().unwrap_or_default();
            // An item is named after its response: `in_`, `msg_` or `fc_`, and the response's id.
            let (kind, response) = id.split_once('_').unwrap_or_default();
            let kept =
                kept.get(response).map(|kept| if kind == "in" { kept.tokens.0 } else { kept.tokens.1 });
            kept.ok_or_else(|| Absent::Item(id.to_owned()))
        });
        named.sum::<Result<u64, Absent>>().map(|named| said + named)
    }

    /// Answers a request about one that is kept; `rest` follows `/v1/responses/` in its path.
    pub(crate) fn serve(&self, method: &Method, rest: &str, query: &str) -> Answer {
        let (id, action) = rest.split_once('/').unwrap_or((rest, ""));
        let mut all = self.kept();
        let Some(kept) = all.get_mut(id) else {
            return error_answer(404, &format!("Response with id '{id}' not found."), None);
        };
        match (method.as_str(), action) {
            ("GET", "") if query.contains("stream=true") => {
                let mut answer = json_answer(200, &Value::Null);
                *answer.body_mut() =
                    Full::new(Bytes::from(kept.events.concat())).map_err(Broken::from).boxed();
                answer.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
                answer
            }
            ("GET", "") => json_answer(200, &kept.shown()),
            ("DELETE", "") => {
                all.remove(id);
                json_answer(200, &json!({"id": id, "object": "response", "deleted": true}))
            }
            ("POST", "cancel") => {
                if kept.beginning["background"] != true {
                    return error_answer(400, "Only responses in the background can be cancelled.", None);
                }
                kept.is_cancelled |= Instant::now() < kept.done_at;
                json_answer(200, &kept.shown())
            }
            ("GET", "input_items") => {
                let of_input = format!("in_{id}");
                let item = json!({"id": of_input, "type": "message", "role": "user", "status": "completed",
                    "content": [{"type": "input_text", "text": kept.input.as_str().unwrap_or("")}]});
                json_answer(
                    200,
                    &json!({"object": "list", "data": [item], "first_id": of_input, "last_id": of_input,
                    "has_more": false}),
                )
            }
            _ => error_answer(404, "Invalid URL", None),
        }
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// As chat completions count: three tokens an item, and the texts.
fn input_tokens(request: &Value) -> Result<u64, &'static str> {
    let of_texts = |value: &Value| match value {
        Value::String(text) => text::count(text),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).map(text::count).sum(),
        _ => 0,
    };
    let items: u64 = match &request["input"] {
        Value::String(text) => 3 + text::count(text),
        Value::Array(items) => {
            let of_item = |item: &Value| {
                let call = ["name", "arguments"].iter().filter_map(|field| item[field].as_str());
                3 + of_texts(&item["content"])
                    + of_texts(&item["output"])
                    + call.map(text::count).sum::<u64>()
            };
            items.iter().map(of_item).sum()
        }
        _ => return Err("input must be a text or an array"),
    };
    let tools = request["tools"].as_array().map_or(0, |_| text::count(&request["tools"].to_string()));
    Ok(3 + items + of_texts(&request["instructions"]) + tools)
}
