//! Chat completions.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::answer::{Answer, error_answer, json_answer, paced};
use crate::books::Books;
use crate::script::{Fault, Script};
use crate::text;

/// What a model can take and make; enough of the truth for bounds to hold.
pub(crate) const OUTPUT_MAX: u64 = 16_384;
const OUTPUT_USUAL: u64 = 24;

/// One choice of the answer.
#[derive(Clone)]
struct Choice {
    pieces: Vec<String>,
    tool: Option<(String, String)>,
    finish_reason: &'static str,
}

pub(crate) struct Completion {
    id: String,
    model: String,
    created: i64,
    choices: Vec<Choice>,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    usage: Option<Value>,
    /// Whether a stream ends with its usage.
    shows_usage: bool,
    /// Whether each event has it as far as it has come.
    shows_usage_always: bool,
    service_tier: String,
    pub(crate) is_stream: bool,
}

impl Completion {
    /// Generates the answer to a request.
    pub(crate) fn new(request: &Value, script: &Script, now: i64, number: u64) -> Result<Self, Box<Answer>> {
        let refuse = |message: &str| Box::new(error_answer(400, message, None));
        let model = request["model"].as_str().ok_or_else(|| refuse("you must provide a model parameter"))?;
        let messages = request["messages"].as_array().ok_or_else(|| refuse("messages must be an array"))?;
        let limit = match &script.output_limit_field {
            Some(field) => request[field].as_u64(),
            None => request["max_completion_tokens"].as_u64().or_else(|| request["max_tokens"].as_u64()),
        };
        if limit.is_some_and(|limit| limit > OUTPUT_MAX) {
            return Err(refuse(&format!(
                "max_tokens is too large: this model supports at most {OUTPUT_MAX}"
            )));
        }
        let choice = choice(request, script, limit.unwrap_or(OUTPUT_MAX));
        let count = request["n"].as_u64().unwrap_or(1).clamp(1, 128);
        let input_tokens = input_tokens(request, messages);
        let output_tokens = count * output_tokens(&choice);
        let usage = json!({
            "prompt_tokens": input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": script.cached_tokens.unwrap_or(0), "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
        });
        Ok(Self {
            id: format!("chatcmpl-sim{number}"),
            model: model.to_owned(),
            created: now,
            choices: vec![choice; usize::try_from(count).unwrap_or(1)],
            input_tokens,
            output_tokens,
            usage: script.shown_usage(usage),
            shows_usage: request["stream_options"]["include_usage"] == true,
            shows_usage_always: script.usage_in_every_event == Some(true),
            service_tier: script.service_tier.clone().unwrap_or_else(|| "default".to_owned()),
            is_stream: request["stream"] == true,
        })
    }

    pub(crate) fn answer(self, script: Script, books: Arc<Books>, number: u64) -> Answer {
        if self.is_stream {
            return paced(self.into_events(), "text/event-stream; charset=utf-8", script, books, number);
        }
        let body = self.whole();
        if matches!(script.fault, Some(Fault::Cut | Fault::Stall)) {
            return paced(std::iter::once(body.to_string()), "application/json", script, books, number);
        }
        books.finish(number);
        json_answer(200, &body)
    }

    fn whole(&self) -> Value {
        let choices: Vec<Value> = self
            .choices
            .iter()
            .enumerate()
            .map(|(index, choice)| {
                let mut message = json!({"role": "assistant", "content": choice.pieces.concat(), "refusal": null,
                    "annotations": []});
                if let Some((name, arguments)) = &choice.tool {
                    message["content"] = Value::Null;
                    message["tool_calls"] = json!([tool_call(name, arguments)]);
                }
                json!({"index": index, "message": message, "logprobs": null, "finish_reason": choice.finish_reason})
            })
            .collect();
        let mut body = json!({"id": self.id, "object": "chat.completion", "created": self.created,
            "model": self.model, "choices": choices, "service_tier": self.service_tier, "system_fingerprint": "fp_simulated"});
        if let Some(usage) = &self.usage {
            body["usage"] = usage.clone();
        }
        body
    }

    fn into_events(self) -> impl Iterator<Item = String> + Send + 'static {
        let mut events = Vec::new();
        let mut made = 0;
        for (index, choice) in self.choices.iter().enumerate() {
            events.push(self.event(
                index,
                &json!({"role": "assistant", "content": "", "refusal": null}),
                None,
                made,
            ));
            if let Some((name, arguments)) = &choice.tool {
                let mut call = tool_call(name, "");
                call["index"] = json!(0);
                events.push(self.event(index, &json!({"tool_calls": [call]}), None, made));
                let arguments = json!({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]});
                events.push(self.event(index, &arguments, None, made));
            }
            for piece in &choice.pieces {
                made += 1;
                events.push(self.event(index, &json!({"content": piece}), None, made));
            }
            events.push(self.event(index, &json!({}), Some(choice.finish_reason), made));
        }
        if self.shows_usage && self.usage.is_some() {
            let mut last = self.chunk();
            last["choices"] = json!([]);
            last["usage"] = self.usage.clone().unwrap_or_default();
            events.push(format!("data: {last}\n\n"));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events.into_iter()
    }

    fn chunk(&self) -> Value {
        json!({"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "service_tier": self.service_tier, "system_fingerprint": "fp_simulated"})
    }

    /// `made` tokens of output are behind it.
    fn event(&self, index: usize, delta: &Value, finish_reason: Option<&str>, made: u64) -> String {
        let mut chunk = self.chunk();
        chunk["choices"] =
            json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": finish_reason}]);
        if self.shows_usage_always {
            chunk["usage"] = json!({"prompt_tokens": self.input_tokens, "completion_tokens": made,
                "total_tokens": self.input_tokens + made});
        } else if self.shows_usage {
            chunk["usage"] = Value::Null;
        }
        format!("data: {chunk}\n\n")
    }
}

fn choice(request: &Value, script: &Script, limit: u64) -> Choice {
    let wants_tool = script.tool_arguments.is_some()
        || request["tool_choice"] == "required"
        || request["tool_choice"].is_object();
    let tool = request["tools"][0]["function"]["name"].as_str().filter(|_| wants_tool);
    if let Some(name) = tool {
        let arguments = script.tool_arguments.clone().unwrap_or_else(|| "{}".to_owned());
        return Choice {
            pieces: Vec::new(),
            tool: Some((name.to_owned(), arguments)),
            finish_reason: "tool_calls",
        };
    }
    if let Some(text) = &script.text {
        let pieces = text.split_inclusive(' ').map(str::to_owned).collect();
        return Choice { pieces, tool: None, finish_reason: "stop" };
    }
    let (tokens, is_cut) = script.output_within(limit, OUTPUT_USUAL);
    let pieces = text::pieces(tokens).map(str::to_owned).collect();
    Choice { pieces, tool: None, finish_reason: if is_cut { "length" } else { "stop" } }
}

fn tool_call(name: &str, arguments: &str) -> Value {
    json!({"id": "call_simulated", "type": "function", "function": {"name": name, "arguments": arguments}})
}

fn output_tokens(choice: &Choice) -> u64 {
    match &choice.tool {
        Some((name, arguments)) => text::count(name) + text::count(arguments),
        None => text::count(&choice.pieces.concat()),
    }
}

/// What OpenAI's cookbook counts: three tokens a message, three for the answer's beginning, and the texts.
fn input_tokens(request: &Value, messages: &[Value]) -> u64 {
    let of_content = |content: &Value| match content {
        Value::String(text) => text::count(text),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).map(text::count).sum(),
        _ => 0,
    };
    let of_message = |message: &Value| {
        let role = message["role"].as_str().map_or(0, text::count);
        3 + role + of_content(&message["content"])
    };
    let tools = request["tools"].as_array().map_or(0, |_| text::count(&request["tools"].to_string()));
    3 + tools + messages.iter().map(of_message).sum::<u64>()
}
