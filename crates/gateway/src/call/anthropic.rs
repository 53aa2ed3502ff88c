//! Messages, as Anthropic's clients ask for them.

use std::borrow::Cow;

use memchr::memmem;
use serde_json::value::RawValue;
use tollgate_core::price::TokenUsage;
use tollgate_core::{Error, Result, input};

use super::{Call, DESCRIPTION_TOKENS, Search, missing};
use crate::blocks::{Blocks, NativeTools, Turns};
use crate::edit::Edit;
use crate::fields::{Raw, Text, fields};
use crate::output_limit::OutputLimit;
use crate::route::Endpoint;

fields! {
    struct NativeBody {
        model: Option<Cow<'a, str>>,
        messages: Option<Turns<'a>>,
        system: Option<Blocks<'a>>,
        max_tokens: Raw<'a>,
        stream: Option<bool>,
        tools: Option<NativeTools>,
        service_tier: Raw<'a>,
        output_format: Raw<'a>,
        output_config: Raw<'a>,
        context_management: Raw<'a>,
        mcp_servers: Raw<'a>,
        container: Raw<'a>,
        ; others: not is_harmless,
    }
}

fields! {
    struct OutputConfig {
        format: Raw<'a>,
    }
}

fields! {
    struct ContextManagement {
        edits: Option<Vec<ContextEdit<'a>>>,
        ; others: not no_other,
    }
}

fields! {
    struct ContextEdit {
        r#type: Option<Text<'a>>,
    }
}

/// How tokens are chosen, and what is told beside them.
fn is_harmless(name: &str) -> bool {
    const HARMLESS: [&str; 8] = [
        "cache_control",
        "metadata",
        "stop_sequences",
        "temperature",
        "thinking",
        "tool_choice",
        "top_k",
        "top_p",
    ];
    HARMLESS.contains(&name)
}

const fn no_other(_: &str) -> bool {
    false
}

impl Call {
    pub(super) fn read_native(endpoint: Endpoint, text: &str, deployment: Option<&str>) -> Result<Self> {
        let (body, bytes): (NativeBody<'_>, _) = (input::from_text(text)?, text.as_bytes());
        let model = deployment.or(body.model.as_deref()).filter(|model| !model.is_empty());
        let mut call = Self::new(endpoint, model.ok_or_else(|| missing("model"))?, bytes);
        call.is_named_elsewhere = deployment.is_some();
        body.refuse_what_is_missing()?;
        let tools = body.tools.unwrap_or_default();
        let is_form = |raw: Raw<'_>| raw.0.is_some_and(|raw| raw.get() != "null");
        let config = body.output_config.0.map(RawValue::get).filter(|text| *text != "null");
        let config: OutputConfig<'_> = config
            .map_or_else(|| Ok(OutputConfig::default()), |text| input::from_part("output_config", text))?;
        call.has_tools = tools.count > 0;
        call.is_structured = call.has_tools || is_form(body.output_format) || is_form(config.format);
        call.described_tokens = tools.described * DESCRIPTION_TOKENS;
        call.search = search(&tools)?;
        call.kinds.kept_1h = mentions_1h(bytes);
        call.unknown = body.others;
        if !is_only_clearing(body.context_management) {
            call.unknown.push("context_management".to_owned());
        }
        let turns = body.messages.ok_or_else(|| missing("messages"))?;
        let mut blocks = turns.blocks;
        blocks.add(body.system.unwrap_or_default());
        if blocks.has_stored {
            let message = "Files that the provider keeps are not served yet. Send the content itself.";
            return Err(Error::unsupported("messages", message));
        }
        call.messages = turns.count;
        call.images = blocks.images;
        call.kinds.image_input = call.images > 0 || blocks.has_files;
        call.addresses = blocks.addresses.iter().map(|text| Edit::range_of(bytes, text)).collect();
        call.has_files = blocks.has_files;
        if endpoint == Endpoint::CountTokens {
            return Ok(call);
        }
        call.output_limit = OutputLimit::read(bytes, &[("max_tokens", body.max_tokens)])?;
        if call.output_limit.tokens().is_none() {
            return Err(missing("max_tokens"));
        }
        call.is_stream = body.stream.unwrap_or(false);
        call.tier = body.service_tier.0.map(|raw| Edit::range_of(bytes, raw.get()));
        Ok(call)
    }

    /// Takes in what a client asks for in `anthropic-beta`, names with commas between them. Some let a request read more,
    /// or cost more, than its body shows.
    pub(crate) fn with_betas(mut self, betas: Option<&str>) -> Self {
        const HARMLESS: [&str; 19] = [
            "adaptive-thinking-",
            "claude-code-",
            "computer-use-",
            "context-management-",
            "effort-",
            "extended-cache-ttl-",
            "fine-grained-tool-streaming-",
            "interleaved-thinking-",
            "max-tokens-",
            "oauth-",
            "output-128k-",
            "pdfs-",
            "prompt-caching-",
            "structured-outputs-",
            "token-counting-",
            "token-efficient-tools-",
            "tool-examples-",
            "advanced-tool-use-",
            "prompt-caching-scope-",
        ];
        let names = betas.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
        let unknown = names.filter(|name| !HARMLESS.iter().any(|known| name.starts_with(known)));
        self.unknown.extend(unknown.map(str::to_owned));
        self
    }
}

/// A search that is not free to be left out: whoever names it wants it.
fn search(tools: &NativeTools) -> Result<Option<Search>> {
    let Some((at, kind, max_uses)) = &tools.search else { return Ok(None) };
    let calls_param = format!("tools[{at}].max_uses");
    if let Some(uses) = max_uses.filter(|uses| !(1..=TokenUsage::WEB_SEARCHES_MAX).contains(uses)) {
        let message = format!(
            "Invalid '{calls_param}': expected a value from 1 to {}, but got {uses}.",
            TokenUsage::WEB_SEARCHES_MAX
        );
        return Err(Error::invalid(calls_param, message));
    }
    Ok(Some(Search {
        kind: kind.clone(),
        param: format!("tools[{at}].type"),
        calls_param,
        calls_max: *max_uses,
        without: None,
    }))
}

impl NativeBody<'_> {
    fn refuse_what_is_missing(&self) -> Result<()> {
        let tier = self.service_tier.0.map_or("null", RawValue::get);
        if !matches!(tier, "null" | r#""auto""# | r#""standard_only""#) {
            let tier: String = tier.trim_matches('"').chars().take(40).collect();
            let message = format!("The service tier '{tier}' is not served yet. Leave 'service_tier' out.");
            return Err(Error::unsupported("service_tier", message));
        }
        let is_given = |raw: Raw<'_>| raw.0.is_some_and(|raw| !matches!(raw.get(), "null" | "[]"));
        for (name, raw, message) in [
            ("mcp_servers", self.mcp_servers, "Tools of servers that the provider calls are not served yet."),
            ("container", self.container, "Containers that the provider runs are not served yet."),
        ] {
            if is_given(raw) {
                return Err(Error::unsupported(name, format!("{message} Leave '{name}' out.")));
            }
        }
        if let Some((at, kind)) = self.tools.as_ref().and_then(|tools| tools.hosted.as_ref()) {
            let message = format!("Tools that the provider runs, such as '{kind}', are not served yet.");
            return Err(Error::unsupported(format!("tools[{at}].type"), message));
        }
        Ok(())
    }
}

/// Whether input may be kept for an hour. A text that is written with escapes says the same.
fn mentions_1h(body: &[u8]) -> bool {
    [br#"1h""#.as_slice(), br"\u0031", br"\u0068"].iter().any(|text| memmem::find(body, text).is_some())
}

/// Whether the provider only leaves parts of the context out. To sum it up is another call of a model.
fn is_only_clearing(raw: Raw<'_>) -> bool {
    let Some(text) = raw.0.map(RawValue::get).filter(|text| *text != "null") else { return true };
    serde_json::from_str::<ContextManagement<'_>>(text).is_ok_and(|management| {
        let is_clearing = |edit: &ContextEdit<'_>| {
            edit.r#type.as_ref().is_some_and(|Text(kind)| kind.starts_with("clear_"))
        };
        management.others.is_empty() && management.edits.iter().flatten().all(is_clearing)
    })
}
