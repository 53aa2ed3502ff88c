//! What is called: of the body what concerns permission, money and metering. The rest is the upstream's business, and its
//! bytes are not touched.

mod anthropic;
mod changes;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde_json::value::RawValue;
use tollgate_core::price::Kinds;
use tollgate_core::price_book::ModelFacts;
use tollgate_core::upstream::OutputLimitField;
use tollgate_core::{Error, Result, input};
use tollgate_replica::Upstream;

use crate::body::{Body, ResponseFormat, TextFormat};
use crate::edit::{self, Edit};
use crate::fields::Raw;
use crate::growth;
use crate::messages::{Input, Items, Messages};
use crate::output_limit::OutputLimit;
use crate::route::Endpoint;
use crate::upstream::usual_tier;

/// A request's body as far as it is understood here.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) endpoint: Endpoint,
    pub(crate) model: String,
    /// Whether the body names another model, or none.
    is_named_elsewhere: bool,
    pub(crate) is_stream: bool,
    /// How the body is changed whatever the upstream is: to have a stream end with its usage.
    changes: Vec<Edit>,
    /// Whether the usage at the end of the stream is for us alone.
    pub(crate) strips_usage: bool,
    /// The tier of service that is asked for, as it stands in the body; `None` if there is none.
    tier: Option<Range<usize>>,
    output_limit: OutputLimit,
    /// Whether its answer has to have a form, so that it must not be cut shorter than it asked for.
    pub(crate) is_structured: bool,
    has_tools: bool,
    /// A search of the web that the provider would run.
    pub(crate) search: Option<Search>,
    /// The most tokens in which the provider describes tools of its own, which the client runs.
    described_tokens: u64,
    body_bytes: u64,
    messages: u64,
    images: u64,
    /// Where the addresses of images stand in the body.
    addresses: Vec<Range<usize>>,
    /// Whether there is content whose size the body does not show.
    has_files: bool,
    /// What of its tokens may have a price of its own.
    pub(crate) kinds: Kinds,
    /// Texts that are gone on from, each in a context of its own.
    prompts: u64,
    choices: u64,
    has_prediction: bool,
    /// Whether the provider keeps the response.
    pub(crate) is_kept: bool,
    /// The response that it goes on from, which the provider keeps.
    pub(crate) previous: Option<String>,
    /// Items that are only named, for the provider keeps them.
    pub(crate) named: Vec<String>,
    /// Whether it is made with nobody connected.
    pub(crate) is_background: bool,
    /// Parameters that are not known to leave the cost as it is.
    unknown: Vec<String>,
}

/// A search of the web that the provider runs, as often as the model likes, and charges for each time.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) kind: String,
    /// Where it stands.
    pub(crate) param: String,
    /// What says how often it may be run, and how often that is.
    pub(crate) calls_param: String,
    pub(crate) calls_max: Option<u64>,
    /// How the body is changed so that there is none; `None` if the model has to search.
    without: Option<Edit>,
}

impl Search {
    /// Whether the answer is one that the model could have given without it.
    pub(crate) fn is_optional(&self) -> bool {
        self.without.is_some()
    }
}

/// Tokens a provider may add around the messages.
const FRAMING_TOKENS: u64 = 64;
/// And so many to tell a model how to call tools, if it is not known how it is told. 530 is the most that is published.
const TOOLS_FRAMING_TOKENS: u64 = 1_024;
/// What a provider says of a tool that it describes itself, at most.
const DESCRIPTION_TOKENS: u64 = 1_024;
const BYTES_PER_TOKEN: u64 = 4;
const CHOICES_MAX: i64 = 128;

impl Call {
    /// `deployment` is the model that the path names, which goes before that of the body.
    pub(crate) fn read(endpoint: Endpoint, bytes: &[u8], deployment: Option<&str>) -> Result<Self> {
        // What is passed over below would not be looked at either, and other readers make something of it.
        let text = std::str::from_utf8(bytes).map_err(|_| Error::bad_request("The body is not UTF-8."))?;
        if endpoint.is_native() {
            return Self::read_native(endpoint, text, deployment);
        }
        let mut body: Body<'_> = input::from_text(text)?;
        let named = deployment.or_else(|| endpoint.usual_model().filter(|_| body.model.is_none()));
        let model = named.or(body.model.as_deref()).filter(|model| !model.is_empty());
        let model = model.ok_or_else(|| missing("model"))?;
        let mut call = Self::new(endpoint, model, bytes);
        call.is_named_elsewhere = named.is_some();
        let tools = body.tools()?;
        call.has_tools = tools.count > 0 || body.has_functions();
        call.is_structured = call.has_tools || body.is_structured();
        call.described_tokens = tools.described * DESCRIPTION_TOKENS;
        call.has_prediction = body.prediction.is_some();
        call.kinds.audio_output = body.speaks();
        call.kinds.image_output = body.draws();
        call.kinds.tier = body.tier();
        call.unknown = std::mem::take(&mut body.others);
        call.unknown.extend(body.foreign_to(endpoint));
        body.refuse_what_is_missing(endpoint, &tools)?;
        if let (Some((at, kind)), Some(raw)) = (&tools.search, body.tools.0) {
            let range = Edit::range_of(bytes, raw.get());
            call.search = Some(Search {
                kind: kind.clone(),
                param: format!("tools[{at}].type"),
                calls_param: "max_tool_calls".to_owned(),
                calls_max: body.max_tool_calls()?,
                without: body.is_choice_free().then(|| Edit { range, text: tools.without_searches() }),
            });
        }
        call.read_input(bytes, &body)?;
        if !call.makes_output() {
            return Ok(call);
        }
        let limits = [
            ("max_tokens", body.max_tokens),
            ("max_completion_tokens", body.max_completion_tokens),
            ("max_output_tokens", body.max_output_tokens),
        ];
        // The last is of responses alone.
        let known = if endpoint == Endpoint::Responses { &limits[..] } else { &limits[..2] };
        call.output_limit = OutputLimit::read(bytes, known)?;
        // Of the second kind only the best are answered, and all are billed.
        let each = choices("n", body.n)?.max(choices("best_of", body.best_of)?);
        call.choices = call.prompts.saturating_mul(each);
        call.is_stream = body.stream.unwrap_or(false);
        // A response says in its last event what it used, whether asked or not.
        if call.is_stream && endpoint != Endpoint::Responses {
            let asked = changes::ask_for_usage(bytes, body.stream_options.0)?;
            call.strips_usage = asked.is_some();
            call.changes.extend(asked);
        }
        call.tier = body.service_tier.0.map(|raw| Edit::range_of(bytes, raw.get()));
        Ok(call)
    }

    /// A call of a model of which no more is known.
    fn new(endpoint: Endpoint, model: &str, bytes: &[u8]) -> Self {
        Self {
            endpoint,
            model: model.to_owned(),
            is_named_elsewhere: false,
            is_stream: false,
            changes: Vec::new(),
            strips_usage: false,
            tier: None,
            output_limit: OutputLimit::default(),
            is_structured: false,
            has_tools: false,
            search: None,
            described_tokens: 0,
            body_bytes: bytes.len() as u64,
            messages: 0,
            images: 0,
            addresses: Vec::new(),
            has_files: false,
            kinds: Kinds::default(),
            prompts: 1,
            choices: 1,
            has_prediction: false,
            is_kept: false,
            previous: None,
            named: Vec::new(),
            is_background: false,
            unknown: Vec::new(),
        }
    }

    /// Reads what the model is given, which has another form at each endpoint.
    fn read_input(&mut self, bytes: &[u8], body: &Body<'_>) -> Result<()> {
        match self.endpoint {
            // These have another body.
            Endpoint::Messages | Endpoint::CountTokens => {}
            Endpoint::Embeddings | Endpoint::Moderations => {
                self.has_files = !part::<Input>("input", body.input)?.is_text;
            }
            Endpoint::Completions => {
                let prompt: Input = part("prompt", body.prompt)?;
                self.has_files = !prompt.is_text;
                self.prompts = prompt.count.max(1);
            }
            Endpoint::ChatCompletions => {
                let messages = body.messages.as_ref().ok_or_else(|| missing("messages"))?;
                self.hold_messages("messages", bytes, messages)?;
            }
            Endpoint::Responses => {
                body.refuse_what_is_kept()?;
                if body.text.0.is_some_and(|raw| raw.get() != "null") {
                    let text: TextFormat<'_> = part("text", body.text)?;
                    self.is_structured |= text.format.as_ref().is_some_and(ResponseFormat::is_form);
                }
                let Items(items) = part("input", body.input)?;
                self.hold_messages("input", bytes, &items)?;
                self.is_kept = body.store.0.is_none_or(|raw| raw.get() != "false");
                self.previous = body.previous_response_id()?;
                self.named = items.names()?;
                // What was said before is not in the body.
                self.has_files |= self.previous.is_some() || !self.named.is_empty();
                self.is_background = body.is_background(self.is_kept)?;
                // And may be seen.
                self.kinds.image_input |= self.has_files;
            }
        }
        Ok(())
    }

    fn hold_messages(&mut self, name: &str, body: &[u8], messages: &Messages<'_>) -> Result<()> {
        if let Some(at) = messages.audio_at {
            if self.endpoint != Endpoint::ChatCompletions {
                return Err(Error::unsupported(
                    format!("{name}[{at}].content"),
                    "Audio input is served by chat completions only.",
                ));
            }
            self.kinds.audio_input = true;
        }
        if let Some((at, what)) = messages.stored_at {
            let message = format!("{what} are not served yet. Send the content itself.");
            return Err(Error::unsupported(format!("{name}[{at}]"), message));
        }
        (self.messages, self.images) = (messages.count, messages.images);
        self.kinds.image_input = self.images > 0;
        self.addresses = messages.addresses.iter().map(|text| Edit::range_of(body, text)).collect();
        // How long audio is does not show.
        self.has_files = messages.has_files || self.kinds.audio_input;
        self.kinds.image_input |= messages.has_files;
        Ok(())
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
        let text = self.body_bytes - addresses as u64 + FRAMING_TOKENS + self.described_tokens + growth;
        let counted = self.image_tokens(facts).map(|images| images.saturating_add(text));
        counted.into_iter().chain(self.context(facts)).min()
    }

    /// The most input that the model takes. A list of embeddings inputs may be longer than the context: each has it to
    /// itself.
    pub(crate) fn context(&self, facts: &ModelFacts) -> Option<u64> {
        // Published figures are often rounded: 1,047,576 and 1,050,000 are both called a million.
        let with_room = |tokens: u64| tokens.saturating_add(tokens / 16).saturating_mul(self.prompts);
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

    /// What of its tokens may have a price of its own at an upstream.
    pub(crate) fn kinds_at(&self, upstream: &Upstream) -> Kinds {
        // One that cannot be told a tier serves in what its account is set to.
        let is_told = self.endpoint.has_tiers() && usual_tier(&upstream.address).is_some();
        let any_tier = self.kinds.tier.is_none() && !is_told;
        Kinds { any_tier, ..self.kinds }
    }

    /// The search that is not sent on, where so many are granted.
    pub(crate) fn removed_search(&self, searches: Option<u64>) -> Option<&Search> {
        self.search.as_ref().filter(|_| searches == Some(0))
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

    /// The text of the body that is cut into tokens, and the number of messages in it.
    pub(crate) fn text(&self, body: &[u8]) -> (Vec<u8>, u64) {
        let without = |range: &Range<usize>| Edit { range: range.clone(), text: "null".to_owned() };
        let edits: Vec<Edit> = self.addresses.iter().map(without).collect();
        (edit::apply(body, &edits).into_owned(), self.messages)
    }

    /// The changes for some upstream.
    pub(crate) fn edits_for_fuzzing(&self, body: &[u8]) -> Result<Vec<Edit>> {
        self.edits(body, &crate::refusal::any_upstream(), Some(5), Some("default"), Some(0))
    }

    /// How the body is changed for an upstream: it names the model as the upstream does, and limits the output of each
    /// choice to `limit` in the field that it reads; and it is served in the usual tier, if that is given. Otherwise the
    /// tier is what the account at the provider is set to, at a price that nobody here knows.
    pub(crate) fn edits(
        &self,
        body: &[u8],
        upstream: &Upstream,
        limit: Option<u64>,
        usual_tier: Option<&'static str>,
        searches: Option<u64>,
    ) -> Result<Vec<Edit>> {
        let mut edits = self.changes.clone();
        edits.extend(self.removed_search(searches).and_then(|search| search.without.clone()));
        let renamed = upstream.settings.model_mapping.get(&self.model);
        if let Some(name) = renamed.or(self.is_named_elsewhere.then_some(&self.model)) {
            edits.extend(changes::name_model(body, name)?);
        }
        if !self.makes_output() {
            return Ok(edits);
        }
        let name = match self.endpoint {
            Endpoint::Completions | Endpoint::Messages => OutputLimitField::MaxTokens.as_str(),
            Endpoint::Responses => "max_output_tokens",
            _ => upstream.output_limit_field.as_str(),
        };
        edits.extend(self.output_limit.edits(body, name, limit));
        if let Some(tier) = usual_tier.filter(|_| self.kinds.tier.is_none() && self.endpoint.has_tiers()) {
            edits.extend(changes::ask_for_tier(body, self.tier.clone(), tier));
        }
        Ok(edits)
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

/// A part of the body that has another form at each endpoint.
fn part<'a, T: serde::Deserialize<'a>>(name: &'static str, raw: Raw<'a>) -> Result<T> {
    let text = raw.0.map(RawValue::get).filter(|text| *text != "null").ok_or_else(|| missing(name))?;
    input::from_part(name, text)
}
