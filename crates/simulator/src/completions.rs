//! Completions of prompts, the older way to ask a model.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::answer::{Answer, json_answer, paced};
use crate::books::Books;
use crate::embeddings::inputs;
use crate::script::{Fault, Script};
use crate::text;

/// What is made if the request does not say.
const OUTPUT_USUAL: u64 = 16;

pub(crate) struct Completion {
    chunk: Value,
    /// The pieces of each choice's text.
    choices: Vec<Vec<String>>,
    finish_reason: &'static str,
    usage: Option<Value>,
    shows_usage: bool,
    is_stream: bool,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
}

impl Completion {
    pub(crate) fn new(request: &Value, script: &Script, now: i64, number: u64) -> Result<Self, &'static str> {
        let model = request["model"].as_str().ok_or("you must provide a model parameter")?;
        let prompts = inputs(&request["prompt"])?;
        let limit = request["max_tokens"].as_u64().unwrap_or(OUTPUT_USUAL);
        let (tokens, is_cut) = script.output_within(limit, OUTPUT_USUAL);
        let pieces: Vec<String> = text::pieces(tokens).map(str::to_owned).collect();
        let count = prompts.len() as u64 * request["n"].as_u64().unwrap_or(1).clamp(1, 128);
        let input_tokens: u64 = prompts.iter().map(|prompt| prompt.tokens).sum();
        let output_tokens = count * text::count(&pieces.concat());
        let usage = json!({"prompt_tokens": input_tokens, "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens});
        Ok(Self {
            chunk: json!({"id": format!("cmpl-sim{number}"), "object": "text_completion", "created": now, "model": model}),
            choices: vec![pieces; usize::try_from(count).unwrap_or(1)],
            finish_reason: if is_cut { "length" } else { "stop" },
            usage: script.shown_usage(usage),
            shows_usage: request["stream_options"]["include_usage"] == true,
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
        let choices = self.choices.iter().enumerate();
        let choices: Vec<Value> = choices
            .map(|(index, pieces)| choice(index, &pieces.concat(), Some(self.finish_reason)))
            .collect();
        let mut body = self.with(choices);
        if let Some(usage) = &self.usage {
            body["usage"] = usage.clone();
        }
        if matches!(script.fault, Some(Fault::Cut | Fault::Stall)) {
            return paced(std::iter::once(body.to_string()), "application/json", script, books, number);
        }
        books.finish(number);
        json_answer(200, &body)
    }

    fn events(&self) -> Vec<String> {
        let mut events = Vec::new();
        for (index, pieces) in self.choices.iter().enumerate() {
            let pieces = pieces.iter().map(|piece| choice(index, piece, None));
            let last = choice(index, "", Some(self.finish_reason));
            events
                .extend(pieces.chain([last]).map(|choice| format!("data: {}\n\n", self.with(vec![choice]))));
        }
        if let Some(usage) = self.usage.as_ref().filter(|_| self.shows_usage) {
            let mut last = self.with(Vec::new());
            last["usage"] = usage.clone();
            events.push(format!("data: {last}\n\n"));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events
    }

    fn with(&self, choices: Vec<Value>) -> Value {
        let mut chunk = self.chunk.clone();
        chunk["choices"] = Value::Array(choices);
        chunk
    }
}

fn choice(index: usize, text: &str, finish_reason: Option<&str>) -> Value {
    json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish_reason})
}
