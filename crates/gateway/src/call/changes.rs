//! What an upstream is told that the client did not say, or said in another way.

use std::ops::Range;

use serde_json::Value;
use serde_json::value::RawValue;
use tollgate_core::{Error, Result, input};

use crate::body::{ModelName, StreamOptions};
use crate::edit::Edit;

/// The change that names a model, if the body does not name it already.
pub(super) fn name_model(body: &[u8], name: &str) -> Result<Option<Edit>> {
    let given: ModelName<'_> = input::from_json(body)?;
    let name = Value::from(name).to_string();
    Ok(match given.model.0.map(RawValue::get) {
        Some(given) if given == name => None,
        Some(given) => Some(Edit { range: Edit::range_of(body, given), text: name }),
        None => Some(Edit::insert(body, &format!("\"model\":{name}"))),
    })
}

/// The change that makes a stream report its usage. Without it what a stream cost would be a guess.
pub(super) fn ask_for_usage(body: &[u8], options: Option<&RawValue>) -> Result<Option<Edit>> {
    let Some(options) = options else {
        return Ok(Some(Edit::insert(body, r#""stream_options":{"include_usage":true}"#)));
    };
    let refuse =
        |what: String| Error::invalid("stream_options", format!("Invalid 'stream_options': {what}."));
    let given: Option<StreamOptions<'_>> =
        serde_json::from_str(options.get()).map_err(|error| refuse(error.to_string()))?;
    if given.is_some_and(|given| given.include_usage == Some(true)) {
        return Ok(None);
    }
    let given: Option<serde_json::Map<String, Value>> =
        serde_json::from_str(options.get()).map_err(|error| refuse(error.to_string()))?;
    let mut given = given.unwrap_or_default();
    given.insert("include_usage".to_owned(), Value::Bool(true));
    let range = Edit::range_of(body, options.get());
    Ok(Some(Edit { range, text: Value::Object(given).to_string() }))
}

/// The change that asks for the tier whose price is known.
pub(super) fn ask_for_tier(body: &[u8], given: Option<Range<usize>>, tier: &str) -> Option<Edit> {
    let tier = format!("\"{tier}\"");
    match given {
        Some(range) if body.get(range.clone()) == Some(tier.as_bytes()) => None,
        Some(range) => Some(Edit { range, text: tier }),
        None => Some(Edit::insert(body, &format!("\"service_tier\":{tier}"))),
    }
}
