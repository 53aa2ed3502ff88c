//! What is read of a request's body, and what of it is refused until it can be metered.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tollgate_core::price::{Tier, TokenUsage};
use tollgate_core::{Error, Result, input};

use crate::fields::{Raw, Text, fields};
use crate::messages::Messages;
use crate::parameters;
use crate::route::Endpoint;
use crate::tools::Tools;

fields! {
    /// The fields that are looked at, of all endpoints.
    struct Body {
        model: Option<Cow<'a, str>>,
        messages: Option<Messages<'a>>,
        input: Raw<'a>,
        prompt: Raw<'a>,
        stream: Option<bool>,
        stream_options: Raw<'a>,
        max_tokens: Raw<'a>,
        max_completion_tokens: Raw<'a>,
        n: Option<i64>,
        best_of: Option<i64>,
        tools: Raw<'a>,
        tool_choice: Raw<'a>,
        functions: Option<Vec<IgnoredAny>>,
        response_format: Option<ResponseFormat<'a>>,
        prediction: Option<IgnoredAny>,
        service_tier: Raw<'a>,
        store: Raw<'a>,
        modalities: Option<Vec<String>>,
        audio: Option<IgnoredAny>,
        web_search_options: Option<IgnoredAny>,
        search_parameters: Option<IgnoredAny>,
        plugins: Option<IgnoredAny>,
        data_sources: Option<IgnoredAny>,
        models: Option<IgnoredAny>,
        chat_template: Option<IgnoredAny>,
        reasoning: Raw<'a>,
        instructions: Raw<'a>,
        max_output_tokens: Raw<'a>,
        text: Raw<'a>,
        background: Raw<'a>,
        previous_response_id: Raw<'a>,
        conversation: Raw<'a>,
        context_management: Raw<'a>,
        max_tool_calls: Raw<'a>,
        ; others: not parameters::is_harmless,
    }
}

fields! {
    struct ModelName {
        model: Raw<'a>,
    }
}

fields! {
    struct StreamOptions {
        include_usage: Option<bool>,
    }
}

fields! {
    /// How a response is to be written.
    struct TextFormat {
        format: Option<ResponseFormat<'a>>,
    }
}

fields! {
    struct Reasoning {
        effort: Option<IgnoredAny>,
        summary: Option<IgnoredAny>,
        generate_summary: Option<IgnoredAny>,
        ; others: not no_other,
    }
}

fields! {
    struct ResponseFormat {
        r#type: Option<Text<'a>>,
    }
}

/// Whether there is something that is no null.
fn is_given(raw: Raw<'_>) -> bool {
    raw.0.is_some_and(|raw| raw.get() != "null")
}

const fn no_other(_: &str) -> bool {
    false
}

impl ResponseFormat<'_> {
    /// Whether it is more than text.
    pub(crate) fn is_form(&self) -> bool {
        self.r#type.as_ref().is_some_and(|Text(kind)| kind != "text")
    }
}

impl<'a> Body<'a> {
    /// The tools it offers.
    pub(crate) fn tools(&self) -> Result<Tools<'a>> {
        match self.tools.0.map(RawValue::get).filter(|text| *text != "null") {
            Some(text) => input::from_part("tools", text),
            None => Ok(Tools::default()),
        }
    }
}

impl Body<'_> {
    /// What only one endpoint knows is as unknown at another as what none knows.
    pub(crate) fn foreign_to(&self, endpoint: Endpoint) -> Vec<String> {
        let of_responses = [
            ("instructions", self.instructions),
            ("max_output_tokens", self.max_output_tokens),
            ("text", self.text),
            ("background", self.background),
            ("previous_response_id", self.previous_response_id),
            ("conversation", self.conversation),
            ("context_management", self.context_management),
        ];
        let mut foreign: Vec<&str> = Vec::new();
        if endpoint != Endpoint::Responses {
            foreign.extend(of_responses.iter().filter(|(_, raw)| is_given(*raw)).map(|(name, _)| *name));
        }
        if is_given(self.prompt) && endpoint != Endpoint::Completions {
            foreign.push("prompt");
        }
        // A budget of reasoning may go before the limit of the output.
        let reasoning = self.reasoning.0.map(|raw| serde_json::from_str::<Option<Reasoning<'_>>>(raw.get()));
        let is_foreign = |read: Option<Reasoning<'_>>| read.is_some_and(|read| !read.others.is_empty());
        if reasoning.is_some_and(|read| read.map_or(true, is_foreign)) {
            foreign.push("reasoning");
        }
        foreign.into_iter().map(str::to_owned).collect()
    }

    /// What of a response is kept by the provider, and refused until it belongs to a project here.
    pub(crate) fn refuse_what_is_kept(&self) -> Result<()> {
        let kept = [
            ("prompt", self.prompt, "A prompt that the provider keeps"),
            ("conversation", self.conversation, "A conversation that the provider keeps"),
            ("context_management", self.context_management, "Compaction by the provider"),
        ];
        if let Some((name, _, what)) = kept.iter().find(|(_, raw, _)| is_given(*raw)) {
            return Err(Error::unsupported(*name, format!("{what} is not served yet. Leave '{name}' out.")));
        }
        Ok(())
    }

    /// The stored response that it goes on from.
    pub(crate) fn previous_response_id(&self) -> Result<Option<String>> {
        let Some(raw) = self.previous_response_id.0.filter(|raw| raw.get() != "null") else {
            return Ok(None);
        };
        input::from_part("previous_response_id", raw.get()).map(Some)
    }

    /// Whether it is to be made with nobody connected. What nobody keeps nobody could ask for.
    pub(crate) fn is_background(&self, is_kept: bool) -> Result<bool> {
        match self.background.0.map_or("null", RawValue::get) {
            "null" | "false" => Ok(false),
            "true" if is_kept => Ok(true),
            "true" => {
                let message =
                    "A response in the background has to be stored. Leave 'store' out or set it to true.";
                Err(Error::invalid("background", message))
            }
            _ => Err(Error::invalid("background", "Invalid type for 'background': expected a boolean.")),
        }
    }

    /// The tier that is asked for, if it has a price of its own.
    pub(crate) fn tier(&self) -> Option<Tier> {
        let word = self.service_tier.0?.get().strip_prefix('"')?.strip_suffix('"')?;
        Tier::parse(word).filter(|tier| matches!(tier, Tier::Flex | Tier::Priority))
    }

    /// Whether the answer may be spoken.
    pub(crate) fn speaks(&self) -> bool {
        self.modalities.iter().flatten().any(|modality| modality == "audio")
    }

    /// Whether there may be pictures in the answer.
    pub(crate) fn draws(&self) -> bool {
        self.modalities.iter().flatten().any(|modality| modality == "image")
    }

    /// Whether the model is free to call a tool or not.
    pub(crate) fn is_choice_free(&self) -> bool {
        matches!(self.tool_choice.0.map_or("null", RawValue::get), "null" | r#""auto""# | r#""none""#)
    }

    /// How often the provider may run tools for a response; `None` if nothing is said of it.
    pub(crate) fn max_tool_calls(&self) -> Result<Option<u64>> {
        let Some(raw) = self.max_tool_calls.0.filter(|raw| raw.get() != "null") else { return Ok(None) };
        match input::from_part("max_tool_calls", raw.get())? {
            calls @ 1..=TokenUsage::WEB_SEARCHES_MAX => Ok(Some(calls)),
            calls => {
                let message = format!(
                    "Invalid 'max_tool_calls': expected a value from 1 to {}, but got {calls}.",
                    TokenUsage::WEB_SEARCHES_MAX
                );
                Err(Error::invalid("max_tool_calls", message))
            }
        }
    }

    pub(crate) fn has_functions(&self) -> bool {
        self.functions.as_ref().is_some_and(|functions| !functions.is_empty())
    }

    /// Whether the answer has to have a form, so that cutting it short would break it.
    pub(crate) fn is_structured(&self) -> bool {
        self.response_format.as_ref().is_some_and(ResponseFormat::is_form)
    }

    /// What would be metered or priced wrongly is refused, until it is served.
    pub(crate) fn refuse_what_is_missing(&self, endpoint: Endpoint, tools: &Tools<'_>) -> Result<()> {
        let tier = self.service_tier.0.map_or("null", RawValue::get);
        let is_known = matches!(tier, "null" | r#""auto""# | r#""default""#);
        if !is_known && (self.tier().is_none() || !endpoint.has_tiers()) {
            let tier: String = tier.trim_matches('"').chars().take(40).collect();
            let message = format!("The service tier '{tier}' is not served yet. Leave 'service_tier' out.");
            return Err(Error::unsupported("service_tier", message));
        }
        match self.store.0.map_or("null", RawValue::get) {
            "null" | "false" => {}
            "true" if endpoint == Endpoint::Responses => {}
            "true" => {
                let message =
                    "Only responses are stored at the provider. Leave 'store' out or set it to false.";
                return Err(Error::unsupported("store", message));
            }
            _ => return Err(Error::invalid("store", "Invalid type for 'store': expected a boolean.")),
        }
        let extras = [
            ("web_search_options", self.web_search_options.is_some(), "Hosted web search"),
            ("search_parameters", self.search_parameters.is_some(), "Hosted search"),
            ("plugins", self.plugins.is_some(), "A provider's plugins"),
            ("data_sources", self.data_sources.is_some(), "Data that the provider adds to the prompt"),
            ("models", self.models.is_some(), "A choice of models by the provider"),
            ("chat_template", self.chat_template.is_some(), "A chat template of the request"),
        ];
        if let Some((name, _, what)) = extras.iter().find(|(_, is_given, _)| *is_given) {
            return Err(Error::unsupported(*name, format!("{what} is not served yet. Leave '{name}' out.")));
        }
        // The provider searches for responses alone.
        let search = tools.search.as_ref().filter(|_| endpoint != Endpoint::Responses);
        let search = search.map(|(at, kind)| (*at, Some(kind.clone())));
        if let Some((at, kind)) = &tools.hosted.clone().or(search) {
            let message = match kind {
                Some(kind) => format!("Tools that the provider runs, such as '{kind}', are not served yet."),
                None => "Say the type of the tool: 'function', or 'custom'.".to_owned(),
            };
            return Err(Error::unsupported(format!("tools[{at}].type"), message));
        }
        let other = self
            .modalities
            .iter()
            .flatten()
            .find(|modality| !matches!(modality.as_str(), "text" | "audio" | "image"));
        if let Some(other) = other {
            let other: String = other.chars().take(40).collect();
            return Err(Error::unsupported("modalities", format!("Output of '{other}' is not served yet.")));
        }
        if (self.speaks() || self.audio.is_some()) && endpoint != Endpoint::ChatCompletions {
            let param = if self.speaks() { "modalities" } else { "audio" };
            return Err(Error::unsupported(param, "Audio output is served by chat completions only."));
        }
        if self.draws() && endpoint != Endpoint::ChatCompletions {
            return Err(Error::unsupported("modalities", "Images are made by chat completions only."));
        }
        Ok(())
    }
}
