//! What is called: of the body what concerns permission, money and metering. The rest is the upstream's business, and its
//! bytes are not touched.

use std::ops::Range;

use serde_json::Value;
use serde_json::value::RawValue;
use tollgate_core::price_book::ModelFacts;
use tollgate_core::upstream::OutputLimitField;
use tollgate_core::{Error, Result, input};

use crate::body::{Body, ModelName, StreamOptions};
use crate::edit::{self, Edit};
use crate::growth;
use crate::output_limit::OutputLimit;
use crate::route::Endpoint;

/// A request's body as far as it is understood here.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) endpoint: Endpoint,
    pub(crate) model: String,
    pub(crate) is_stream: bool,
    /// How the body is changed so that it names the model that the path did.
    model_edit: Option<Edit>,
    /// How the body is changed so that a stream ends with its usage; `None` if it does already, or is no stream.
    usage_edit: Option<Edit>,
    /// The tier of service that is asked for, as it stands in the body; `None` if there is none.
    tier: Option<Range<usize>>,
    output_limit: OutputLimit,
    /// Whether its answer has to have a form, so that it must not be cut shorter than it asked for.
    pub(crate) is_structured: bool,
    has_tools: bool,
    body_bytes: u64,
    messages: u64,
    images: u64,
    /// Where the addresses of images stand in the body.
    addresses: Vec<Range<usize>>,
    /// Whether there is content whose size the body does not show.
    has_files: bool,
    choices: u64,
    has_prediction: bool,
    /// Parameters that are not known to leave the cost as it is.
    unknown: Vec<String>,
}

/// Tokens a provider may add around the messages.
const FRAMING_TOKENS: u64 = 64;
/// And so many to tell a model how to call tools, if it is not known how it is told. 530 is the most that is published.
const TOOLS_FRAMING_TOKENS: u64 = 1_024;
const BYTES_PER_TOKEN: u64 = 4;
const CHOICES_MAX: i64 = 128;

impl Call {
    /// `deployment` is the model that the path names, which goes before that of the body.
    pub(crate) fn read(endpoint: Endpoint, bytes: &[u8], deployment: Option<&str>) -> Result<Self> {
        // What is passed over below would not be looked at either, and other readers make something of it.
        if std::str::from_utf8(bytes).is_err() {
            return Err(Error::bad_request("The body is not UTF-8."));
        }
        let body: Body<'_> = input::from_json(bytes)?;
        let named = deployment.or_else(|| endpoint.usual_model().filter(|_| body.model.is_none()));
        let model = named.or(body.model.as_deref()).filter(|model| !model.is_empty());
        let model = model.ok_or_else(|| missing("model"))?;
        let mut call = Self {
            endpoint,
            model: model.to_owned(),
            is_stream: false,
            model_edit: named.map(|name| name_model(bytes, name)).transpose()?.flatten(),
            usage_edit: None,
            tier: None,
            output_limit: OutputLimit::default(),
            is_structured: body.is_structured(),
            has_tools: body.has_tools(),
            body_bytes: bytes.len() as u64,
            messages: 0,
            images: 0,
            addresses: Vec::new(),
            has_files: false,
            choices: 1,
            has_prediction: body.prediction.is_some(),
            unknown: Vec::new(),
        };
        match endpoint {
            Endpoint::Embeddings | Endpoint::Moderations => {
                call.has_files = !body.input.as_ref().ok_or_else(|| missing("input"))?.is_text;
                call.unknown = body.others;
                return Ok(call);
            }
            Endpoint::Completions => {
                body.refuse_what_is_missing(None)?;
                let prompt = body.prompt.as_ref().ok_or_else(|| missing("prompt"))?;
                call.has_files = !prompt.is_text;
                call.choices = prompt.count.max(1);
            }
            Endpoint::ChatCompletions => {
                let messages = body.messages.as_ref().ok_or_else(|| missing("messages"))?;
                body.refuse_what_is_missing(messages.audio_at)?;
                (call.messages, call.images) = (messages.count, messages.images);
                call.addresses = messages.addresses.iter().map(|text| Edit::range_of(bytes, text)).collect();
                call.has_files = messages.has_files;
            }
        }
        let limits = [
            (OutputLimitField::MaxTokens, body.max_tokens),
            (OutputLimitField::MaxCompletionTokens, body.max_completion_tokens),
        ];
        call.output_limit = OutputLimit::read(bytes, limits)?;
        // Of the second kind only the best are answered, and all are billed.
        let each = choices("n", body.n)?.max(choices("best_of", body.best_of)?);
        call.choices = call.choices.saturating_mul(each);
        call.is_stream = body.stream.unwrap_or(false);
        if call.is_stream {
            call.usage_edit = ask_for_usage(bytes, body.stream_options.0)?;
        }
        call.tier = body.service_tier.0.map(|raw| Edit::range_of(bytes, raw.get()));
        call.unknown = body.others;
        Ok(call)
    }

    /// The most tokens the input can be. Every token of a text stands for at least one of its bytes, and the body has
    /// all the text, which a model whose tokenizer is not known may `reshape` before it is cut into tokens; an image is
    /// at most what the model's provider publishes; and all of it is within the context.
    pub(crate) fn input_max(&self, facts: &ModelFacts, reshape: Option<&[u8]>) -> Option<u64> {
        let addresses: usize = self.addresses.iter().map(Range::len).sum();
        let growth = match reshape {
            Some(body) if self.has_tools => growth::bytes(body) + growth::layout(body) + TOOLS_FRAMING_TOKENS,
            Some(body) => growth::bytes(body),
            None => 0,
        };
        let text = self.body_bytes - addresses as u64 + FRAMING_TOKENS + growth;
        let counted = self.image_tokens(facts).map(|images| images.saturating_add(text));
        counted.into_iter().chain(self.context(facts)).min()
    }

    /// The most input that the model takes. A list of embeddings inputs may be longer than the context: each has it to
    /// itself.
    pub(crate) fn context(&self, facts: &ModelFacts) -> Option<u64> {
        // Published figures are often rounded: 1,047,576 and 1,050,000 are both called a million.
        let with_room = |tokens: u64| tokens.saturating_add(tokens / 16);
        facts.context_tokens.map(with_room).filter(|_| self.makes_output())
    }

    /// The most output of one choice as the request limits it, and what is known of the model; `None` if nothing does.
    pub(crate) fn output_each(&self, facts: &ModelFacts) -> Option<u64> {
        if !self.makes_output() {
            return Some(0);
        }
        let of_model = facts.max_output_tokens.or(facts.context_tokens);
        let asked = self.output_limit.tokens().or(self.endpoint.usual_output());
        asked.into_iter().chain(of_model).min()
    }

    pub(crate) fn makes_output(&self) -> bool {
        self.endpoint.makes_output()
    }

    /// What the images can be at most; `None` if that is not known of the model, or there is content that shows nothing
    /// of its size.
    pub(crate) fn image_tokens(&self, facts: &ModelFacts) -> Option<u64> {
        match self.images {
            _ if self.has_files => None,
            0 => Some(0),
            images => facts.image_tokens.map(|one| one.saturating_mul(images)),
        }
    }

    /// A parameter of which neither we nor the upstream's operator know that it leaves the cost as it is.
    pub(crate) fn unknown_parameter(&self, allowed: &[String]) -> Option<&str> {
        self.unknown.iter().find(|name| !allowed.contains(name)).map(String::as_str)
    }

    pub(crate) fn choices(&self) -> u64 {
        self.choices
    }

    /// Tokens of a prediction that was rejected are billed as output, whatever the limit.
    pub(crate) fn output_extra(&self) -> u64 {
        if self.has_prediction { self.body_bytes } else { 0 }
    }

    pub(crate) fn input_estimate(&self) -> u64 {
        self.body_bytes.div_ceil(BYTES_PER_TOKEN)
    }

    /// Whether the answer shows what is made as it is made. Of a call of a tool many servers show nothing until it is
    /// whole.
    pub(crate) fn is_shown(&self) -> bool {
        self.is_stream && !self.has_tools
    }

    /// Whether the usage at the end of the stream is for us alone.
    pub(crate) fn strips_usage(&self) -> bool {
        self.usage_edit.is_some()
    }

    /// The text of the body that is cut into tokens, and the number of messages in it.
    pub(crate) fn text(&self, body: &[u8]) -> (Vec<u8>, u64) {
        let without = |range: &Range<usize>| Edit { range: range.clone(), text: "null".to_owned() };
        let edits: Vec<Edit> = self.addresses.iter().map(without).collect();
        (edit::apply(body, &edits).into_owned(), self.messages)
    }

    /// How the body is changed for an upstream that reads `field`, so that no choice has more output than `limit`; and so
    /// that it is served in the usual tier, if that is asked for. Otherwise the tier is what the account at the provider
    /// is set to, at a price that nobody here knows.
    pub(crate) fn edits(
        &self,
        body: &[u8],
        field: OutputLimitField,
        limit: Option<u64>,
        is_usual_tier: bool,
    ) -> Vec<Edit> {
        let mut edits: Vec<Edit> = self.model_edit.iter().cloned().collect();
        if !self.makes_output() {
            return edits;
        }
        // Of a prompt there is only the older name.
        let field = if self.endpoint == Endpoint::Completions { OutputLimitField::MaxTokens } else { field };
        edits.extend(self.output_limit.edits(body, field, limit));
        edits.extend(self.usage_edit.clone());
        if is_usual_tier {
            edits.extend(ask_for_usual_tier(body, self.tier.clone()));
        }
        edits
    }
}

fn missing(name: &str) -> Error {
    Error::bad_request(format!("Missing required parameter: '{name}'."))
        .code("missing_required_parameter")
        .param(name)
}

fn choices(name: &str, count: Option<i64>) -> Result<u64> {
    match count.unwrap_or(1) {
        count @ 1..=CHOICES_MAX => Ok(count.unsigned_abs()),
        count => Err(Error::invalid(
            name,
            format!("Invalid '{name}': expected a value from 1 to {CHOICES_MAX}, but got {count}."),
        )),
    }
}

/// The change that names a model, if the body does not name it already.
fn name_model(body: &[u8], name: &str) -> Result<Option<Edit>> {
    let given: ModelName<'_> = input::from_json(body)?;
    let name = Value::from(name).to_string();
    Ok(match given.model.0.map(RawValue::get) {
        Some(given) if given == name => None,
        Some(given) => Some(Edit { range: Edit::range_of(body, given), text: name }),
        None => Some(Edit::insert(body, &format!("\"model\":{name}"))),
    })
}

/// The change that makes a stream report its usage. Without it what a stream cost would be a guess.
fn ask_for_usage(body: &[u8], options: Option<&RawValue>) -> Result<Option<Edit>> {
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
fn ask_for_usual_tier(body: &[u8], given: Option<Range<usize>>) -> Option<Edit> {
    match given {
        Some(range) if body.get(range.clone()) == Some(br#""default""#) => None,
        Some(range) => Some(Edit { range, text: r#""default""#.to_owned() }),
        None => Some(Edit::insert(body, r#""service_tier":"default""#)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = r#""model":"m","messages":[{"role":"user","content":"hi"}]"#;

    fn chat(fields: &str) -> Result<Call> {
        Call::read(Endpoint::ChatCompletions, format!("{{{CHAT}{fields}}}").as_bytes(), None)
    }

    fn sent(text: &str) -> Value {
        let call = Call::read(Endpoint::ChatCompletions, text.as_bytes(), None).unwrap();
        let edits = call.edits(text.as_bytes(), OutputLimitField::MaxTokens, None, false);
        serde_json::from_slice(&edit::apply(text.as_bytes(), &edits)).unwrap()
    }

    #[test]
    fn a_stream_always_asks_for_its_usage_and_nothing_else_changes() {
        for options in
            ["", r#","stream_options":null"#, r#", "stream_options" : {"include_usage":false,"x":1}"#]
        {
            let text = format!(r#" {{{CHAT},"stream":true{options},"seed":1.50}}"#);
            let sent = sent(&text);
            assert_eq!(sent["stream_options"]["include_usage"], true, "{options}");
            let mut before: Value = serde_json::from_str(&text).unwrap();
            before["stream_options"] = sent["stream_options"].clone();
            assert_eq!(sent, before);
        }
        let asked = chat(r#","stream":true,"stream_options":{"include_usage":true}"#).unwrap();
        assert_eq!(asked.usage_edit, None);
        assert_eq!(chat("").unwrap().usage_edit, None);
        for options in [
            r#"{"include_usage":true,"INCLUDE_USAGE":false}"#,
            r#"{"include_usage":true,"include_usage":false}"#,
        ] {
            let error = chat(&format!(r#","stream":true,"stream_options":{options}"#)).unwrap_err();
            assert_eq!(error.param.as_deref(), Some("stream_options"), "{options}");
        }
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
            r#","messages":[{"role":"user","Content":[{"type":"image_url"}]}]"#,
            r#","tools":[{"Type":"live_search"}]"#,
        ] {
            assert!(chat(fields).is_err(), "{fields}");
        }
        assert!(chat(r#","modelx":1,"temperature":0.5,"ключ":1"#).is_ok());
    }

    #[test]
    fn the_usual_tier_is_asked_for_where_it_has_to_be() {
        for tier in
            ["", r#","service_tier":"auto""#, r#","service_tier":null"#, r#", "service_tier" : "default""#]
        {
            let text = format!("{{{CHAT}{tier}}}");
            let call = Call::read(Endpoint::ChatCompletions, text.as_bytes(), None).unwrap();
            let sent = |is_usual_tier| {
                let edits = call.edits(text.as_bytes(), OutputLimitField::MaxTokens, None, is_usual_tier);
                serde_json::from_slice::<Value>(&edit::apply(text.as_bytes(), &edits)).unwrap()
            };
            assert_eq!(sent(true)["service_tier"], "default");
            assert_eq!(sent(false), serde_json::from_str::<Value>(&text).unwrap());
        }
    }

    #[test]
    fn the_model_of_the_path_is_the_one_that_is_sent() {
        for (body, expected) in [
            (r#"{"messages":[]}"#, r#"{"model":"a\"b","messages":[]}"#),
            (r#"{"model":"c","messages":[]}"#, r#"{"model":"a\"b","messages":[]}"#),
            (r#"{"messages":[], "model" : "a\"b"}"#, r#"{"messages":[], "model" : "a\"b"}"#),
        ] {
            let call = Call::read(Endpoint::ChatCompletions, body.as_bytes(), Some("a\"b")).unwrap();
            let edits = call.edits(body.as_bytes(), OutputLimitField::MaxTokens, None, false);
            assert_eq!(edit::apply(body.as_bytes(), &edits).as_ref(), expected.as_bytes());
            assert_eq!(call.model, "a\"b");
        }
    }

    #[test]
    fn only_parameters_that_are_known_to_do_no_harm_are_passed_over() {
        let call = chat(r#","temperature":1,"top_k":5,"n_predict":4000,"fallbacks":[],"seed":1"#).unwrap();
        assert_eq!(call.unknown_parameter(&[]), Some("n_predict"));
        assert_eq!(call.unknown_parameter(&["n_predict".to_owned()]), Some("fallbacks"));
        assert_eq!(call.unknown_parameter(&["n_predict".to_owned(), "fallbacks".to_owned()]), None);
        assert!(
            Call::read(
                Endpoint::ChatCompletions,
                b"{\"model\":\"m\",\"messages\":[],\"user\":\"\xff\"}",
                None
            )
            .is_err()
        );
    }

    #[test]
    fn only_the_addresses_of_images_are_no_text() {
        let part = |image: &str| {
            format!(
                r#"{{"model":"m","messages":[{{"content":[{{"type":"image_url","image_url":{image}}}]}}]}}"#
            )
        };
        for (image, rest) in [
            (r#""http://x""#, "null"),
            (r#"{"url":"http://x"}"#, r#"{"url":null}"#),
            (
                r#"{"detail":"low","url":"http://x","more":"text"}"#,
                r#"{"detail":"low","url":null,"more":"text"}"#,
            ),
            (r#"{"url":5}"#, r#"{"url":5}"#),
        ] {
            let body = part(image);
            let call = Call::read(Endpoint::ChatCompletions, body.as_bytes(), None).unwrap();
            assert_eq!(String::from_utf8(call.text(body.as_bytes()).0).unwrap(), part(rest));
        }
        assert!(
            Call::read(Endpoint::ChatCompletions, part(r#"{"url":"a","url":"b"}"#).as_bytes(), None).is_err()
        );
    }

    #[test]
    fn embeddings_of_what_is_no_text_have_no_bound() {
        let none = ModelFacts::default();
        let bound = |input: &str| {
            let text = format!(r#"{{"model":"m","input":{input}}}"#);
            Call::read(Endpoint::Embeddings, text.as_bytes(), None).map(|call| call.input_max(&none, None))
        };
        for input in [r#""a""#, r#"["a","b"]"#, "[1,2]", "[[1],[2,3]]", "[]"] {
            assert!(bound(input).unwrap().is_some(), "{input}");
        }
        for input in
            [r#"[{"image":"https://x"}]"#, r#"{"text":"a"}"#, "5", r#"[["a"]]"#, "[[[1]]]", r#"["a",{}]"#]
        {
            assert_eq!(bound(input).unwrap(), None, "{input}");
        }
        assert!(bound("[true]").is_err());
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
            (r#","best_of":0"#, "best_of"),
            (r#","max_tokens":-1"#, "max_tokens"),
            (r#","models":["dear"]"#, "models"),
            (r#","plugins":[]"#, "plugins"),
            (r#","search_parameters":{}"#, "search_parameters"),
            (r#","data_sources":[]"#, "data_sources"),
            (r#","chat_template":"x""#, "chat_template"),
            (r#","tools":[{"type":"function"},{"type":"live_search"}]"#, "tools[1].type"),
            (r#","tools":[{"google_search":{}}]"#, "tools[0].type"),
            (r#","max_tokens":"5""#, "max_tokens"),
            (r#","stream":"yes""#, "stream"),
        ] {
            assert_eq!(chat(fields).unwrap_err().param.as_deref(), Some(param), "{fields}");
        }
        let audio = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{}}]}]}"#;
        let error = Call::read(Endpoint::ChatCompletions, audio.as_bytes(), None).unwrap_err();
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
                Call::read(endpoint, text.as_bytes(), None).unwrap_err().param.as_deref(),
                Some(param),
                "{text}"
            );
        }
    }

    #[test]
    fn bounds_come_from_the_request_then_the_model() {
        let facts = ModelFacts {
            context_tokens: Some(8_000),
            max_output_tokens: Some(1_000),
            ..ModelFacts::default()
        };
        let none = ModelFacts::default();
        let plain = chat("").unwrap();
        assert_eq!((plain.output_each(&facts), plain.output_each(&none)), (Some(1_000), None));
        assert_eq!(plain.input_max(&none, None), Some(plain.body_bytes + FRAMING_TOKENS));
        let grown = plain.input_max(&none, Some("\u{fdfa}".as_bytes()));
        assert_eq!(grown, Some(plain.body_bytes + FRAMING_TOKENS + 30));
        let tools = chat(r#","tools":[{"type":"function"}]"#).unwrap();
        let grown = tools.input_max(&none, Some(b"[1]"));
        assert_eq!(grown, Some(tools.body_bytes + FRAMING_TOKENS + TOOLS_FRAMING_TOKENS + 6));
        let limited = chat(r#","max_tokens":10,"max_completion_tokens":20,"n":3"#).unwrap();
        assert_eq!((limited.output_each(&facts), limited.choices()), (Some(20), 3));
        assert_eq!(chat(r#","n":2,"best_of":5"#).unwrap().choices(), 5);
        let endless = chat(r#","max_tokens":9000000"#).unwrap();
        assert_eq!(endless.output_each(&facts), Some(1_000), "a model makes no more than it can");
        let predicted = chat(r#","max_tokens":10,"prediction":{"type":"content","content":"x"}"#).unwrap();
        assert_eq!((plain.output_extra(), predicted.output_extra()), (0, predicted.body_bytes));
        let image = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}]}"#;
        let image = Call::read(Endpoint::ChatCompletions, image.as_bytes(), None).unwrap();
        assert_eq!(
            (image.input_max(&facts, None), image.input_max(&none, None)),
            (Some(8_500), None),
            "with room for a rounded figure"
        );
        let seen = ModelFacts { image_tokens: Some(1_445), ..none };
        assert_eq!(image.input_max(&seen, None), Some(1_445 + image.body_bytes - 3 + FRAMING_TOKENS));
        let embeddings = Call::read(Endpoint::Embeddings, br#"{"model":"m","input":["a"]}"#, None).unwrap();
        assert_eq!(
            (embeddings.output_each(&none), embeddings.input_max(&none, None)),
            (Some(0), Some(27 + FRAMING_TOKENS))
        );
    }
}
