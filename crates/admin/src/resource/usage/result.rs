//! What the buckets of each endpoint hold. A dimension that is not grouped by is null.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use tollgate_ledger::usage::{Dimension, Group};

use super::query::{By, ByRequest};

#[derive(Serialize, JsonSchema)]
pub(crate) struct CompletionsResult {
    object: &'static str,
    input_tokens: i64,
    output_tokens: i64,
    num_model_requests: i64,
    /// Extension: how many of them had less output than they asked for.
    num_clamped_requests: i64,
    input_cached_tokens: i64,
    input_cache_write_tokens: i64,
    /// Extension: of these, what is kept for an hour.
    input_cache_write_1h_tokens: i64,
    input_uncached_tokens: i64,
    input_text_tokens: i64,
    input_cached_text_tokens: i64,
    output_text_tokens: i64,
    input_audio_tokens: i64,
    input_image_tokens: i64,
    input_cached_audio_tokens: i64,
    output_audio_tokens: i64,
    /// What is read from the cache is not told apart.
    input_cached_image_tokens: i64,
    output_image_tokens: i64,
    project_id: Option<String>,
    user_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    batch: Option<bool>,
    service_tier: Option<String>,
    api_source: Option<&'static str>,
    /// Extension: of the labels that are grouped by.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<LabelValues>,
}

impl CompletionsResult {
    pub(crate) fn of(group: &Group, group_by: &[By<ByRequest>], labels: &[String]) -> Self {
        let sums = &group.sums;
        let uncached = sums.uncached_input_tokens();
        let is_grouped = |by: ByRequest| group_by.contains(&By::Dimension(by));
        Self {
            object: "organization.usage.completions.result",
            input_tokens: sums.input_tokens,
            output_tokens: sums.output_tokens,
            num_model_requests: sums.requests,
            num_clamped_requests: sums.clamped_requests,
            input_cached_tokens: sums.cached_input_tokens,
            input_cache_write_tokens: sums.cache_write_tokens,
            input_cache_write_1h_tokens: sums.cache_write_1h_tokens,
            input_uncached_tokens: uncached,
            input_text_tokens: uncached - sums.audio_input_tokens - sums.image_input_tokens,
            input_cached_text_tokens: sums.cached_input_tokens,
            output_text_tokens: sums.output_tokens - sums.audio_output_tokens - sums.image_output_tokens,
            input_audio_tokens: sums.audio_input_tokens,
            input_image_tokens: sums.image_input_tokens,
            // Reports that tell of it are read as text: it is charged as such.
            input_cached_audio_tokens: 0,
            output_audio_tokens: sums.audio_output_tokens,
            input_cached_image_tokens: 0,
            output_image_tokens: sums.image_output_tokens,
            project_id: owned(group, Dimension::Project),
            user_id: owned(group, Dimension::Owner),
            api_key_id: owned(group, Dimension::Key),
            model: owned(group, Dimension::Model),
            batch: is_grouped(ByRequest::Batch).then_some(false),
            service_tier: owned(group, Dimension::ServiceTier),
            api_source: is_grouped(ByRequest::ApiSource).then_some("unlabeled"),
            labels: labelled(group, labels),
        }
    }
}

/// Of what takes tokens and makes none.
#[derive(Serialize, JsonSchema)]
pub(crate) struct InputResult {
    object: &'static str,
    input_tokens: i64,
    num_model_requests: i64,
    project_id: Option<String>,
    user_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    /// Extension: of the labels that are grouped by.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<LabelValues>,
}

impl InputResult {
    pub(crate) fn of(object: &'static str, group: &Group, labels: &[String]) -> Self {
        Self {
            object,
            input_tokens: group.sums.input_tokens,
            num_model_requests: group.sums.requests,
            project_id: owned(group, Dimension::Project),
            user_id: owned(group, Dimension::Owner),
            api_key_id: owned(group, Dimension::Key),
            model: owned(group, Dimension::Model),
            labels: labelled(group, labels),
        }
    }
}

/// Of searches of the web that providers ran.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WebSearchResult {
    object: &'static str,
    /// All requests of the group, whether they searched or not.
    num_model_requests: i64,
    num_requests: i64,
    project_id: Option<String>,
    user_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    context_level: Option<&'static str>,
    api_source: Option<&'static str>,
    /// Extension: of the labels that are grouped by.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<LabelValues>,
}

impl WebSearchResult {
    /// `None` for a group without a search.
    pub(crate) fn of(group: &Group, by_source: bool, labels: &[String]) -> Option<Self> {
        let result = Self {
            object: "organization.usage.web_searches.result",
            num_model_requests: group.sums.requests,
            num_requests: group.sums.web_search_calls,
            project_id: owned(group, Dimension::Project),
            user_id: owned(group, Dimension::Owner),
            api_key_id: owned(group, Dimension::Key),
            model: owned(group, Dimension::Model),
            context_level: None,
            api_source: by_source.then_some("unlabeled"),
            labels: labelled(group, labels),
        };
        (result.num_requests > 0).then_some(result)
    }
}

pub(crate) fn owned(group: &Group, dimension: Dimension) -> Option<String> {
    group.dimension(dimension).map(str::to_owned)
}

/// The values of the labels that are grouped by; null where there is none.
pub(crate) type LabelValues = BTreeMap<String, Option<String>>;

/// `None` if it is not grouped by labels.
pub(crate) fn labelled(group: &Group, names: &[String]) -> Option<LabelValues> {
    let values = names.iter().cloned().zip(group.labels.iter().cloned());
    (!names.is_empty()).then(|| values.collect())
}

/// Shapes of what is not served, and so has not been used: they stand in the document, and no bucket holds one.
macro_rules! unused {
    ($name:ident: $($field:ident: $type:ty),*) => {
        #[derive(Serialize, JsonSchema)]
        pub(crate) struct $name {
            object: &'static str,
            $($field: $type,)*
            project_id: Option<String>,
        }
    };
}

unused! {
    SpeechesResult: characters: i64, num_model_requests: i64, user_id: Option<String>, api_key_id: Option<String>,
    model: Option<String>
}
unused! {
    TranscriptionsResult: seconds: i64, num_model_requests: i64, user_id: Option<String>, api_key_id: Option<String>,
    model: Option<String>
}
unused! {
    ImagesResult: images: i64, num_model_requests: i64, user_id: Option<String>, api_key_id: Option<String>,
    model: Option<String>, size: Option<String>, source: Option<String>
}
unused! {
    FileSearchResult: num_requests: i64, user_id: Option<String>, api_key_id: Option<String>,
    vector_store_id: Option<String>
}
unused! { VectorStoresResult: usage_bytes: i64 }
unused! { CodeInterpreterResult: num_sessions: u64 }
