//! What is called: of the body what concerns permission, money and metering. The rest is the upstream's business, and its
//! bytes are not touched.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::value::RawValue;
use tollgate_core::price_book::ModelFacts;
use tollgate_core::{Error, Result, input};

use crate::body::Body;
use crate::route::Endpoint;

/// A request's body as far as it is understood here.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) endpoint: Endpoint,
    pub(crate) model: String,
    pub(crate) is_stream: bool,
    /// How the body is changed so that a stream ends with its usage; `None` if it does already, or is no stream.
    pub(crate) usage_edit: Option<Edit>,
    body_length: u64,
    /// Whether all of the input is in the body as text. Images and files cost tokens that are not in their address.
    is_text: bool,
    /// The most output of one choice, as the request limits it.
    output_limit: Option<u64>,
    choices: u64,
    has_prediction: bool,
}

/// A change of the body: these bytes are replaced by that text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) range: Range<usize>,
    pub(crate) text: String,
}

/// Tokens a provider may add around the messages.
const FRAMING_TOKENS: u64 = 64;
const BYTES_PER_TOKEN: u64 = 4;
const CHOICES_MAX: i64 = 128;

impl Call {
    pub(crate) fn read(endpoint: Endpoint, bytes: &[u8]) -> Result<Self> {
        let body: Body<'_> = input::from_json(bytes)?;
        let model =
            body.model.as_deref().filter(|model| !model.is_empty()).ok_or_else(|| missing("model"))?;
        let mut call = Self {
            endpoint,
            model: model.to_owned(),
            is_stream: false,
            usage_edit: None,
            body_length: bytes.len() as u64,
            is_text: true,
            output_limit: None,
            choices: 1,
            has_prediction: body.prediction.is_some(),
        };
        if endpoint == Endpoint::Embeddings {
            body.input.ok_or_else(|| missing("input"))?;
            return Ok(call);
        }
        let messages = body.messages.as_ref().ok_or_else(|| missing("messages"))?;
        body.refuse_what_is_missing(messages)?;
        call.is_text = !messages.has_files;
        call.output_limit = body.max_tokens.max(body.max_completion_tokens).map(non_negative).transpose()?;
        call.choices = match body.n.unwrap_or(1) {
            n @ 1..=CHOICES_MAX => u64::try_from(n).unwrap_or(1),
            n => {
                return Err(Error::invalid(
                    "n",
                    format!("Invalid 'n': expected a value from 1 to {CHOICES_MAX}, but got {n}."),
                ));
            }
        };
        call.is_stream = body.stream.unwrap_or(false);
        if call.is_stream {
            call.usage_edit = ask_for_usage(bytes, body.stream_options.0)?;
        }
        Ok(call)
    }

    /// The most tokens the input can be. Every token of a text stands for at least one of its bytes, and the body has
    /// all the text; what is not in the body is limited by the context alone.
    pub(crate) fn input_max(&self, facts: &ModelFacts) -> Option<u64> {
        let by_bytes = self.is_text.then_some(self.body_length + FRAMING_TOKENS);
        // A list of embeddings inputs may be longer than the context: each has it to itself.
        let by_context = facts.context_tokens.filter(|_| self.endpoint == Endpoint::ChatCompletions);
        by_bytes.into_iter().chain(by_context).min()
    }

    /// The most tokens the output can be, over all choices; `None` if nothing limits it.
    pub(crate) fn output_max(&self, facts: &ModelFacts) -> Option<u64> {
        if self.endpoint == Endpoint::Embeddings {
            return Some(0);
        }
        let one = self.output_limit.or(facts.max_output_tokens).or(facts.context_tokens)?;
        // Tokens of a prediction that was rejected are billed as output.
        let prediction = if self.has_prediction { self.body_length } else { 0 };
        Some(one.saturating_add(prediction).saturating_mul(self.choices))
    }

    pub(crate) fn input_estimate(&self) -> u64 {
        self.body_length.div_ceil(BYTES_PER_TOKEN)
    }

    /// The body as it is sent on.
    pub(crate) fn edited<'b>(&self, body: &'b [u8]) -> Cow<'b, [u8]> {
        match &self.usage_edit {
            None => Cow::Borrowed(body),
            Some(Edit { range, text }) => {
                Cow::Owned([&body[..range.start], text.as_bytes(), &body[range.end..]].concat())
            }
        }
    }
}

fn missing(name: &str) -> Error {
    Error::bad_request(format!("Missing required parameter: '{name}'."))
        .code("missing_required_parameter")
        .param(name)
}

fn non_negative(tokens: i64) -> Result<u64> {
    u64::try_from(tokens).map_err(|_| {
        Error::invalid("max_completion_tokens", "The most tokens to generate cannot be negative.")
    })
}

/// The change that makes a stream report its usage. Without it what a stream cost would be a guess.
fn ask_for_usage(body: &[u8], options: Option<&RawValue>) -> Result<Option<Edit>> {
    const ASK: &str = r#""stream_options":{"include_usage":true}"#;
    let Some(options) = options else {
        let open = body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
        let is_empty = body[open..].trim_ascii_start().first() == Some(&b'}');
        let comma = if is_empty { "" } else { "," };
        return Ok(Some(Edit { range: open..open, text: format!("{ASK}{comma}") }));
    };
    let given: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(options.get())
        .map_err(|_| {
            Error::invalid("stream_options", "Invalid type for 'stream_options': expected an object.")
        })?;
    let mut given = given.unwrap_or_default();
    if given.get("include_usage") == Some(&serde_json::Value::Bool(true)) {
        return Ok(None);
    }
    given.insert("include_usage".to_owned(), serde_json::Value::Bool(true));
    let start = options.get().as_ptr().addr() - body.as_ptr().addr();
    let range = start..start + options.get().len();
    Ok(Some(Edit { range, text: serde_json::Value::Object(given).to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = r#""model":"m","messages":[{"role":"user","content":"hi"}]"#;

    fn chat(fields: &str) -> Result<Call> {
        Call::read(Endpoint::ChatCompletions, format!("{{{CHAT}{fields}}}").as_bytes())
    }

    fn sent(text: &str) -> serde_json::Value {
        let call = Call::read(Endpoint::ChatCompletions, text.as_bytes()).unwrap();
        serde_json::from_slice(&call.edited(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_stream_always_asks_for_its_usage_and_nothing_else_changes() {
        for options in
            ["", r#","stream_options":null"#, r#", "stream_options" : {"include_usage":false,"x":1}"#]
        {
            let text = format!(r#" {{{CHAT},"stream":true{options},"seed":1.50}}"#);
            let sent = sent(&text);
            assert_eq!(sent["stream_options"]["include_usage"], true, "{options}");
            let mut before: serde_json::Value = serde_json::from_str(&text).unwrap();
            before["stream_options"] = sent["stream_options"].clone();
            assert_eq!(sent, before);
        }
        let asked = chat(r#","stream":true,"stream_options":{"include_usage":true}"#).unwrap();
        assert_eq!(asked.usage_edit, None);
        assert_eq!(chat("").unwrap().usage_edit, None);
        assert_eq!(
            chat(r#","stream":true,"stream_options":7"#).unwrap_err().param.as_deref(),
            Some("stream_options")
        );
    }

    #[test]
    fn a_field_that_another_reader_might_see_differently_is_refused() {
        for fields in [
            r#","model":"other""#,
            r#","MODEL":"other""#,
            r#","Max_Tokens":5"#,
            r#","meſſages":[]"#,
            r#","\u006dodel":"other""#,
            r#","max_tokenſ":5"#,
        ] {
            assert!(chat(fields).is_err(), "{fields}");
        }
        assert!(chat(r#","modelx":1,"temperature":0.5,"ключ":1"#).is_ok());
    }

    #[test]
    fn what_is_not_served_yet_is_refused_by_name() {
        for (fields, param) in [
            (r#","service_tier":"priority""#, "service_tier"),
            (r#","store":true"#, "store"),
            (r#","web_search_options":{}"#, "web_search_options"),
            (r#","modalities":["text","audio"]"#, "modalities"),
            (r#","audio":{"voice":"x"}"#, "audio"),
            (r#","n":0"#, "n"),
            (r#","n":129"#, "n"),
            (r#","max_tokens":-1"#, "max_completion_tokens"),
            (r#","max_tokens":"5""#, "max_tokens"),
            (r#","stream":"yes""#, "stream"),
        ] {
            assert_eq!(chat(fields).unwrap_err().param.as_deref(), Some(param), "{fields}");
        }
        let audio = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{}}]}]}"#;
        let error = Call::read(Endpoint::ChatCompletions, audio.as_bytes()).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("messages[0].content"));
        assert!(chat(r#","service_tier":null,"store":false,"modalities":["text"]"#).is_ok());
    }

    #[test]
    fn what_must_be_there_is_asked_for_by_name() {
        for (endpoint, text, param) in [
            (Endpoint::ChatCompletions, "{}", "model"),
            (Endpoint::ChatCompletions, r#"{"model":""}"#, "model"),
            (Endpoint::ChatCompletions, r#"{"model":"m"}"#, "messages"),
            (Endpoint::ChatCompletions, r#"{"model":"m","messages":"hi"}"#, "messages"),
            (Endpoint::ChatCompletions, r#"{"model":5}"#, "model"),
            (Endpoint::Embeddings, r#"{"model":"m"}"#, "input"),
        ] {
            assert_eq!(
                Call::read(endpoint, text.as_bytes()).unwrap_err().param.as_deref(),
                Some(param),
                "{text}"
            );
        }
    }

    #[test]
    fn bounds_come_from_the_request_then_the_model() {
        let facts = ModelFacts { price: None, context_tokens: Some(8_000), max_output_tokens: Some(1_000) };
        let none = ModelFacts::default();
        let plain = chat("").unwrap();
        assert_eq!((plain.output_max(&facts), plain.output_max(&none)), (Some(1_000), None));
        assert_eq!(plain.input_max(&none), Some(plain.body_length + FRAMING_TOKENS));
        let limited = chat(r#","max_tokens":10,"max_completion_tokens":20,"n":3"#).unwrap();
        assert_eq!(limited.output_max(&facts), Some(60));
        let predicted = chat(r#","max_tokens":10,"prediction":{"type":"content","content":"x"}"#).unwrap();
        assert_eq!(predicted.output_max(&facts), Some(10 + predicted.body_length));
        let image = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}]}"#;
        let image = Call::read(Endpoint::ChatCompletions, image.as_bytes()).unwrap();
        assert_eq!((image.input_max(&facts), image.input_max(&none)), (Some(8_000), None));
        let embeddings = Call::read(Endpoint::Embeddings, br#"{"model":"m","input":["a"]}"#).unwrap();
        assert_eq!(
            (embeddings.output_max(&none), embeddings.input_max(&none)),
            (Some(0), Some(27 + FRAMING_TOKENS))
        );
    }
}
