//! What is wrong with a request's body, in OpenAI's words: which parameter, and why.

use serde::de::{Deserialize, DeserializeOwned};
use serde_json::Value;
use serde_path_to_error::Path;

use crate::error::{Error, Result};

/// Reads the text of a JSON object. What `T` borrows stays borrowed.
pub fn from_json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T> {
    match std::str::from_utf8(bytes) {
        Ok(text) => from_text(text),
        Err(_) => Err(Error::bad_request("The body is not UTF-8.")),
    }
}

/// [`from_json`] of what is known to be UTF-8.
pub fn from_text<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T> {
    // A list would be read as the object's values in their order.
    if text.trim_ascii_start().starts_with('[') {
        return Err(Error::bad_request(
            "Invalid type for the body: expected an object, but got an array instead.",
        )
        .code("invalid_type"));
    }
    let first = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if !first.is_data() {
        return Err(Error::bad_request(format!(
            "We could not parse the JSON body of your request: {first}. The API expects a JSON payload."
        )));
    }
    // Only a body that is refused is read again, to learn where.
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => Err(Error::bad_request(first.to_string())),
        Err(error) => Err(explain(error.path(), &error.inner().to_string())),
    }
}

/// Reads an already parsed object.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_path_to_error::deserialize::<_, T>(value)
        .map_err(|error| explain(error.path(), &error.inner().to_string()))
}

/// Reads the value of one parameter, which stands in the text of a body.
pub fn from_part<'de, T: Deserialize<'de>>(name: &str, text: &'de str) -> Result<T> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize::<_, T>(&mut deserializer).map_err(|error| {
        let below = error.path().to_string();
        let dot = if below.starts_with('[') { "" } else { "." };
        let at = if below == "." { name.to_owned() } else { format!("{name}{dot}{below}") };
        explain_at(&at, &error.inner().to_string())
    })
}

/// Turns a complaint of the deserializer into an error that names the parameter.
pub fn explain(path: &Path, complaint: &str) -> Error {
    let path = path.to_string();
    explain_at(if path == "." { "" } else { path.trim_start_matches('.') }, complaint)
}

fn explain_at(at: &str, complaint: &str) -> Error {
    let complaint = complaint.split(" at line ").next().unwrap_or(complaint);
    let child = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    if let Some(name) = quoted(complaint, "missing field `") {
        let param = child(name);
        return Error::bad_request(format!("Missing required parameter: '{param}'."))
            .code("missing_required_parameter")
            .param(param);
    }
    if let Some(name) = quoted(complaint, "unknown field `") {
        // The path ends in the unknown name itself.
        let param = if at.ends_with(name) { at.to_owned() } else { child(name) };
        return Error::bad_request(format!("Unknown parameter: '{param}'."))
            .code("unknown_parameter")
            .param(param);
    }
    if let Some(name) = quoted(complaint, "duplicate field `") {
        let param = if at.ends_with(name) { at.to_owned() } else { child(name) };
        return Error::bad_request(format!("Duplicate parameter: '{param}'."))
            .code("duplicate_parameter")
            .param(param);
    }
    let param = if at.is_empty() { "body" } else { at };
    if let Some((found, expected)) =
        complaint.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    {
        let (expected, found) = (in_json(expected), in_json(found));
        let message = format!("Invalid type for '{param}': expected {expected}, but got {found} instead.");
        return Error::bad_request(message).code("invalid_type").param(param);
    }
    Error::invalid(param, format!("Invalid value for '{param}': {complaint}."))
}

/// What a type of the program's is called in JSON.
fn in_json(text: &str) -> &str {
    match text {
        "i64" | "u64" | "i32" | "u32" | "usize" => "an integer",
        "map" => "an object",
        "sequence" | "a sequence" => "an array",
        "unit" | "unit value" => "null",
        _ if text.starts_with("struct ") => "an object",
        _ => text,
    }
}

fn quoted<'m>(complaint: &'m str, before: &str) -> Option<&'m str> {
    complaint.strip_prefix(before).and_then(|rest| rest.split('`').next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read from JSON")]
    struct Body {
        name: String,
        #[serde(default)]
        parts: Vec<Part>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read from JSON")]
    struct Part {
        count: i64,
    }

    fn refusal(text: &str) -> (String, Option<String>, Option<&'static str>) {
        let error = from_json::<Body>(text.as_bytes()).unwrap_err();
        (error.message, error.param, error.code)
    }

    #[test]
    fn every_complaint_names_its_parameter() {
        let cases = [
            ("{}", "name", "missing_required_parameter"),
            (r#"{"name":5}"#, "name", "invalid_type"),
            (r#"{"name":null}"#, "name", "invalid_type"),
            (r#"{"name":"x","nam":1}"#, "nam", "unknown_parameter"),
            (r#"{"name":"x","name":"y"}"#, "name", "duplicate_parameter"),
            (r#"{"name":"x","parts":[{"count":1},{}]}"#, "parts[1].count", "missing_required_parameter"),
            (r#"{"name":"x","parts":[{"count":"1"}]}"#, "parts[0].count", "invalid_type"),
            (r#"{"name":"x","parts":[{"count":1,"x":1}]}"#, "parts[0].x", "unknown_parameter"),
            (r#"{"name":"x","parts":[{"count":1.5}]}"#, "parts[0].count", "invalid_type"),
            (r#""x""#, "body", "invalid_type"),
        ];
        for (text, param, code) in cases {
            let (message, found, found_code) = refusal(text);
            assert_eq!((found.as_deref(), found_code), (Some(param), Some(code)), "{text}: {message}");
        }
    }

    #[test]
    fn a_complaint_is_in_the_words_of_json() {
        assert_eq!(
            refusal(r#"{"name":"x","parts":[5]}"#).0,
            "Invalid type for 'parts[0]': expected an object, but got integer `5` instead."
        );
        assert!(refusal(r#"{"name":"x","parts":[{"count":true}]}"#).0.contains("expected an integer"));
        assert!(refusal(r#"{"name":"x","parts":{}}"#).0.contains("expected an array, but got an object"));
    }

    #[test]
    fn a_list_is_not_an_object() {
        assert_eq!(refusal(r#" ["x",[]]"#).2, Some("invalid_type"));
    }

    #[test]
    fn broken_json_is_told_apart_from_wrong_json() {
        for text in ["", "{", "{\"name\":}", "nonsense", "{\"name\":\"x\"} trailing", "\u{feff}{}"] {
            let (message, param, _) = refusal(text);
            assert!(message.starts_with("We could not parse the JSON body"), "{text}: {message}");
            assert_eq!(param, None);
        }
    }
}
