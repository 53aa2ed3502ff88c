//! Embeddings: vectors that depend on the text alone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::script::Script;
use crate::text;

const DIMENSIONS_USUAL: u64 = 256;
const DIMENSIONS_MAX: u64 = 4_096;

/// The answer's body and the tokens it is billed for; a message if the request is wrong.
pub(crate) fn embed(request: &Value, script: &Script) -> Result<(Value, u64), &'static str> {
    let model = request["model"].as_str().ok_or("you must provide a model parameter")?;
    let inputs = inputs(&request["input"])?;
    let dimensions = request["dimensions"].as_u64().unwrap_or(DIMENSIONS_USUAL).min(DIMENSIONS_MAX);
    let is_base64 = request["encoding_format"] == "base64";
    let tokens: u64 = inputs.iter().map(|input| input.tokens).sum();
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let vector = vector(input.seed, dimensions);
            let embedding = if is_base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
                json!(STANDARD.encode(bytes))
            } else {
                json!(vector)
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let mut body = json!({"object": "list", "data": data, "model": model});
    if let Some(usage) = script.shown_usage(json!({"prompt_tokens": tokens, "total_tokens": tokens})) {
        body["usage"] = usage;
    }
    Ok((body, tokens))
}

pub(crate) struct Input {
    pub(crate) tokens: u64,
    seed: u64,
}

pub(crate) fn inputs(input: &Value) -> Result<Vec<Input>, &'static str> {
    let of_text = |text: &str| Input { tokens: text::count(text), seed: hash(text.as_bytes()) };
    let of_tokens = |tokens: &[Value]| Input {
        tokens: tokens.len() as u64,
        seed: hash(Value::from(tokens).to_string().as_bytes()),
    };
    match input {
        Value::String(text) => Ok(vec![of_text(text)]),
        Value::Array(items) if items.iter().all(Value::is_u64) && !items.is_empty() => {
            Ok(vec![of_tokens(items)])
        }
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(of_text(text)),
                Value::Array(tokens) => Ok(of_tokens(tokens)),
                _ => Err("input must be texts or tokens"),
            })
            .collect(),
        _ => Err("input must be a text or an array"),
    }
}

fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[expect(clippy::float_arithmetic, reason = "a vector's coordinates are floats")]
fn vector(seed: u64, dimensions: u64) -> Vec<f32> {
    let mut state = seed | 1;
    (0..dimensions)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            f32::from(u16::try_from(state & 0xffff).unwrap_or(0)) / 32_768.0 - 1.0
        })
        .collect()
}
