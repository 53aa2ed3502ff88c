//! Responses: the newer way to ask a model. Nothing is kept of them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::answer::{Answer, json_answer, paced};
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
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
}

enum Output {
    Text(Vec<String>),
    Call { name: String, arguments: String },
}

impl Response {
    pub(crate) fn new(request: &Value, script: &Script, now: i64, number: u64) -> Result<Self, &'static str> {
        let model = request["model"].as_str().ok_or("you must provide a model parameter")?;
        let input_tokens = input_tokens(request)?;
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
            "background": false, "error": null, "incomplete_details": null, "instructions": request["instructions"],
            "max_output_tokens": request["max_output_tokens"], "metadata": {}, "model": model, "output": [],
            "parallel_tool_calls": true, "previous_response_id": null, "reasoning": {"effort": null, "summary": null},
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
            input_tokens,
            output_tokens,
        })
    }

    pub(crate) fn answer(self, script: Script, books: Arc<Books>, number: u64) -> Answer {
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
                json!({"type": "message", "id": "msg_simulated", "status": status, "role": "assistant", "content": parts})
            }
            Output::Call { name, arguments } => {
                json!({"type": "function_call", "id": "fc_simulated", "status": status,
                "call_id": "call_simulated", "name": name, "arguments": if is_done { arguments } else { "" }})
            }
        }
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
                    let mut event = json!({"type": kind, "item_id": "msg_simulated", "output_index": 0, "content_index": 0});
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
                let item = json!({"item_id": "fc_simulated", "output_index": 0});
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
