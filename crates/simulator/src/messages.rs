//! Anthropic's messages.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::answer::{Answer, json_answer, paced};
use crate::books::Books;
use crate::script::{Fault, Script};
use crate::text;

const OUTPUT_USUAL: u64 = 24;

pub(crate) struct Message {
    id: String,
    model: String,
    /// A text by its pieces, or the arguments of a call.
    content: Content,
    stop_reason: &'static str,
    usage: Option<Value>,
    is_stream: bool,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
}

enum Content {
    Text(Vec<String>),
    Call { name: String, arguments: String },
}

impl Message {
    pub(crate) fn new(request: &Value, script: &Script, number: u64) -> Result<Self, &'static str> {
        let model = request["model"].as_str().ok_or("model: Field required")?;
        let limit = request["max_tokens"].as_u64().ok_or("max_tokens: Field required")?;
        let input_tokens = input_tokens(request)?;
        let (tokens, is_cut) = script.output_within(limit, OUTPUT_USUAL);
        let wants_call = script.tool_arguments.is_some() || request["tool_choice"]["type"] == "any";
        let content = match request["tools"][0]["name"].as_str().filter(|_| wants_call) {
            Some(name) => Content::Call {
                name: name.to_owned(),
                arguments: script.tool_arguments.clone().unwrap_or_else(|| "{}".to_owned()),
            },
            None => Content::Text(match &script.text {
                Some(text) => vec![text.clone()],
                None => text::pieces(tokens).map(str::to_owned).collect(),
            }),
        };
        let (output_tokens, stop_reason) = match &content {
            Content::Text(pieces) => {
                (text::count(&pieces.concat()), if is_cut { "max_tokens" } else { "end_turn" })
            }
            Content::Call { name, arguments } => (text::count(name) + text::count(arguments), "tool_use"),
        };
        let (cached, written) = (script.cached_tokens.unwrap_or(0), script.cache_write_tokens.unwrap_or(0));
        let kept_1h = script.cache_write_1h_tokens.unwrap_or(0);
        let usage = json!({
            "input_tokens": input_tokens.saturating_sub(cached + written),
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": written,
            "cache_creation": {"ephemeral_5m_input_tokens": written.saturating_sub(kept_1h), "ephemeral_1h_input_tokens": kept_1h},
            "output_tokens": output_tokens,
            "service_tier": script.service_tier.clone().unwrap_or_else(|| "standard".to_owned()),
        });
        Ok(Self {
            id: format!("msg_sim{number}"),
            model: model.to_owned(),
            content,
            stop_reason,
            usage: script.shown_usage(usage),
            is_stream: request["stream"] == true,
            input_tokens,
            output_tokens,
        })
    }

    pub(crate) fn answer(self, script: Script, books: Arc<Books>, number: u64) -> Answer {
        if self.is_stream {
            let events = self.events().into_iter();
            return paced(events, "text/event-stream; charset=utf-8", script, books, number);
        }
        let block = match &self.content {
            Content::Text(pieces) => json!({"type": "text", "text": pieces.concat()}),
            Content::Call { name, arguments } => {
                json!({"type": "tool_use", "id": "toolu_simulated", "name": name,
                "input": serde_json::from_str(arguments).unwrap_or(json!({}))})
            }
        };
        let mut body = self.beginning();
        body["content"] = json!([block]);
        body["stop_reason"] = json!(self.stop_reason);
        body["usage"] = self.usage.clone().unwrap_or_default();
        if matches!(script.fault, Some(Fault::Cut | Fault::Stall)) {
            return paced(std::iter::once(body.to_string()), "application/json", script, books, number);
        }
        books.finish(number);
        json_answer(200, &body)
    }

    fn beginning(&self) -> Value {
        json!({"id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null})
    }

    /// The input is reported as it begins, the output as it ends.
    fn events(&self) -> Vec<String> {
        let mut beginning = self.beginning();
        let mut end = json!({"type": "message_delta", "delta": {"stop_reason": self.stop_reason, "stop_sequence": null}});
        if let Some(usage) = &self.usage {
            beginning["usage"] = usage.clone();
            beginning["usage"]["output_tokens"] = json!(1);
            end["usage"] = json!({"output_tokens": usage["output_tokens"]});
        }
        let mut events = vec![json!({"type": "message_start", "message": beginning})];
        let delta = |delta: Value| json!({"type": "content_block_delta", "index": 0, "delta": delta});
        let start = |block: Value| json!({"type": "content_block_start", "index": 0, "content_block": block});
        match &self.content {
            Content::Text(pieces) => {
                events.push(start(json!({"type": "text", "text": ""})));
                events.push(json!({"type": "ping"}));
                events.extend(pieces.iter().map(|piece| delta(json!({"type": "text_delta", "text": piece}))));
            }
            Content::Call { name, arguments } => {
                let block = json!({"type": "tool_use", "id": "toolu_simulated", "name": name, "input": {}});
                events.push(start(block));
                events.push(delta(json!({"type": "input_json_delta", "partial_json": arguments})));
            }
        }
        events.push(json!({"type": "content_block_stop", "index": 0}));
        events.push(end);
        events.push(json!({"type": "message_stop"}));
        let named = |event: Value| {
            format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
        };
        events.into_iter().map(named).collect()
    }
}

/// Three tokens a message, and the texts.
pub(crate) fn input_tokens(request: &Value) -> Result<u64, &'static str> {
    let messages = request["messages"].as_array().ok_or("messages: Field required")?;
    let texts: u64 = messages.iter().map(|message| 3 + of_texts(&message["content"])).sum();
    let tools = request["tools"].as_array().map_or(0, |_| text::count(&request["tools"].to_string()));
    Ok(3 + texts + of_texts(&request["system"]) + tools)
}

fn of_texts(content: &Value) -> u64 {
    match content {
        Value::String(text) => text::count(text),
        Value::Array(blocks) => blocks
            .iter()
            .map(|block| block["text"].as_str().map_or_else(|| of_texts(&block["content"]), text::count))
            .sum(),
        _ => 0,
    }
}

pub(crate) fn error(status: u16, message: &str) -> Answer {
    let kind = match status {
        429 => "rate_limit_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    json_answer(status, &json!({"type": "error", "error": {"type": kind, "message": message}}))
}
