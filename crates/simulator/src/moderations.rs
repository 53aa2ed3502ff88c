//! Moderations: what is asked about is harmless, unless it says `violence`.

use serde_json::{Map, Value, json};

const CATEGORIES: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

/// The answer's body; a message if the request is wrong.
pub(crate) fn moderate(request: &Value, number: u64) -> Result<Value, &'static str> {
    let model = request["model"].as_str().unwrap_or("omni-moderation-latest");
    let results: Vec<Value> = match &request["input"] {
        Value::String(text) => vec![result(text)],
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).map(result).collect()
        }
        // Parts of one input, of which the texts are looked at.
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            vec![result(&texts.concat())]
        }
        _ => return Err("input must be a text or an array"),
    };
    Ok(json!({"id": format!("modr-sim{number}"), "model": model, "results": results}))
}

fn result(text: &str) -> Value {
    let is_found = |category: &str| category == "violence" && text.contains(category);
    let of_all = |value: &dyn Fn(&str) -> Value| -> Value {
        CATEGORIES
            .iter()
            .map(|category| ((*category).to_owned(), value(category)))
            .collect::<Map<_, _>>()
            .into()
    };
    json!({
        "flagged": CATEGORIES.iter().any(|category| is_found(category)),
        "categories": of_all(&|category| json!(is_found(category))),
        "category_scores": of_all(&|category| json!(u8::from(is_found(category)))),
        "category_applied_input_types": of_all(&|_| json!(["text"])),
    })
}
