//! Usage by bucket of time: OpenAI's endpoints, one for each kind of request, and ours over all of them.

mod all;
mod query;
mod result;
mod span;

use tollgate_core::{Permission, Result};
use tollgate_ledger::Endpoint;
use tollgate_ledger::usage::{self, Dimension, Group, Query};

use crate::gate::Cx;
use crate::operation::Access;
use crate::operation::Operations;
pub(crate) use query::{Asked, By, ByCost, CostsQuery};
use query::{
    ByWebSearch, CompletionsQuery, FileSearchQuery, ImagesQuery, InputQuery, ProjectQuery, WebSearchQuery,
};
use result::{
    CodeInterpreterResult, CompletionsResult, FileSearchResult, ImagesResult, InputResult, SpeechesResult,
    TranscriptionsResult, VectorStoresResult, WebSearchResult,
};
pub(crate) use result::{LabelValues, labelled};
pub(crate) use span::{Buckets, Span, When};

pub(crate) const ACCESS: Access = Access::WithinProjects(Permission::UsageRead);

macro_rules! endpoints {
    ($($path:literal $id:literal $run:expr;)*) => {
        Operations::new()$(
            .get(concat!("/v1/organization/usage/", $path), $id, ACCESS, $run)
            .after_settling()
            .reading_long()
        )*
    };
}

pub(crate) fn operations() -> Operations {
    endpoints! {
        "completions" "usage-completions" completions;
        "decisions" "usage-decisions" decisions;
        "embeddings" "usage-embeddings" embeddings;
        "moderations" "usage-moderations" moderations;
        "images" "usage-images" images;
        "audio_speeches" "usage-audio-speeches" audio_speeches;
        "audio_transcriptions" "usage-audio-transcriptions" audio_transcriptions;
        "vector_stores" "usage-vector-stores" vector_stores;
        "code_interpreter_sessions" "usage-code-interpreter-sessions" code_interpreter_sessions;
        "file_search_calls" "usage-file-search-calls" file_search_calls;
        "web_search_calls" "usage-web-search-calls" web_search_calls;
    }
    .and(all::operations())
}

async fn completions(cx: &mut Cx, input: CompletionsQuery) -> Result<Buckets<CompletionsResult>> {
    let (group_by, labels) = (input.group_by.clone(), input.labels());
    // There are no batches, so a filter for them finds nothing.
    let none = input.batch == Some(true);
    let show = move |group: &Group| {
        if none { Vec::new() } else { vec![CompletionsResult::of(group, &group_by, &labels)] }
    };
    find(cx, &input, Endpoint::Completions, show).await
}

async fn embeddings(cx: &mut Cx, input: InputQuery) -> Result<Buckets<InputResult>> {
    let labels = input.labels();
    let show = |group: &Group| vec![InputResult::of("organization.usage.embeddings.result", group, &labels)];
    find(cx, &input, Endpoint::Embeddings, show).await
}

async fn moderations(cx: &mut Cx, input: InputQuery) -> Result<Buckets<InputResult>> {
    let labels = input.labels();
    let show = |group: &Group| vec![InputResult::of("organization.usage.moderations.result", group, &labels)];
    find(cx, &input, Endpoint::Moderations, show).await
}

// What the gateway does not serve has not been used.

async fn decisions(cx: &mut Cx, input: CompletionsQuery) -> Result<Buckets<CompletionsResult>> {
    nothing(cx, &input)
}

async fn images(cx: &mut Cx, input: ImagesQuery) -> Result<Buckets<ImagesResult>> {
    nothing(cx, &input)
}

async fn audio_speeches(cx: &mut Cx, input: InputQuery) -> Result<Buckets<SpeechesResult>> {
    nothing(cx, &input)
}

async fn audio_transcriptions(cx: &mut Cx, input: InputQuery) -> Result<Buckets<TranscriptionsResult>> {
    nothing(cx, &input)
}

async fn vector_stores(cx: &mut Cx, input: ProjectQuery) -> Result<Buckets<VectorStoresResult>> {
    nothing(cx, &input)
}

async fn code_interpreter_sessions(
    cx: &mut Cx,
    input: ProjectQuery,
) -> Result<Buckets<CodeInterpreterResult>> {
    nothing(cx, &input)
}

async fn file_search_calls(cx: &mut Cx, input: FileSearchQuery) -> Result<Buckets<FileSearchResult>> {
    nothing(cx, &input)
}

/// Of whatever kind of requests; those of one size of context are not told apart.
async fn web_search_calls(cx: &mut Cx, input: WebSearchQuery) -> Result<Buckets<WebSearchResult>> {
    let span = Span::of(&input.when(), cx.now)?;
    if !input.context_levels.is_empty() {
        return Ok(span.page(Vec::new(), |_| Vec::new()));
    }
    let query = question(cx, &span, None, &input, Vec::new());
    let groups = usage::sums(&mut cx.tx, &query).await?;
    let by_source = input.group_by.contains(&By::Dimension(ByWebSearch::ApiSource));
    let labels = input.labels();
    Ok(span.page(groups, |group| WebSearchResult::of(group, by_source, &labels).into_iter().collect()))
}

fn nothing<R>(cx: &Cx, input: &impl Asked) -> Result<Buckets<R>> {
    Ok(Span::of(&input.when(), cx.now)?.page(Vec::new(), |_| Vec::new()))
}

async fn find<R>(
    cx: &mut Cx,
    input: &impl Asked,
    endpoint: Endpoint,
    show: impl Fn(&Group) -> Vec<R>,
) -> Result<Buckets<R>> {
    let span = Span::of(&input.when(), cx.now)?;
    let query = question(cx, &span, Some(endpoint), input, Vec::new());
    let groups = usage::sums(&mut cx.tx, &query).await?;
    Ok(span.page(groups, show))
}

/// What is asked of the books: of what the key may be told.
pub(crate) fn question(
    cx: &Cx,
    span: &Span,
    endpoint: Option<Endpoint>,
    asked: &impl Asked,
    filters: Vec<(Dimension, Vec<String>)>,
) -> Query {
    let mut group_by = Vec::new();
    for dimension in asked.dimensions() {
        if !group_by.contains(&dimension) {
            group_by.push(dimension);
        }
    }
    // A filter that names nothing is none.
    let filters = asked.filters().into_iter().chain(filters);
    let mut filters: Vec<_> = filters.filter(|(_, values)| !values.is_empty()).collect();
    if let Some(projects) = cx.actor.projects() {
        filters.push((Dimension::Project, projects.iter().map(ToString::to_string).collect()));
    }
    Query {
        organization: Some(cx.organization()),
        endpoint,
        width: span.width,
        start: span.start(),
        end: span.page_end(),
        group_by,
        labels: asked.labels(),
        filters,
    }
}
