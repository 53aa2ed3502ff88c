//! Usage of completions, embeddings and moderations, by bucket of time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::secret::hex;
use tollgate_core::{Error, Permission, Result, Timestamp};
use tollgate_ledger::Endpoint;
use tollgate_ledger::usage::{self, Dimension, Query, Sums, Width};

use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;

pub(crate) fn operations() -> Operations {
    Operations::new()
        .get(
            "/v1/organization/usage/completions",
            "usage-completions",
            Needs(Permission::UsageRead),
            completions,
        )
        .after_settling()
        .reading_long()
        .get(
            "/v1/organization/usage/embeddings",
            "usage-embeddings",
            Needs(Permission::UsageRead),
            embeddings,
        )
        .after_settling()
        .reading_long()
        .get(
            "/v1/organization/usage/moderations",
            "usage-moderations",
            Needs(Permission::UsageRead),
            moderations,
        )
        .after_settling()
        .reading_long()
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{R}Buckets")]
pub(crate) struct Buckets<R> {
    object: &'static str,
    data: Vec<Bucket<R>>,
    has_more: bool,
    next_page: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{R}Bucket")]
struct Bucket<R> {
    object: &'static str,
    start_time: Timestamp,
    end_time: Timestamp,
    results: Vec<R>,
}

/// The span of time of a query and the part of it that one page shows.
pub(crate) struct Span {
    pub(crate) width: Width,
    start: Timestamp,
    end: Timestamp,
    page_end: Timestamp,
    fingerprint: String,
}

/// What of a query says which time it is about.
pub(crate) struct When<'a> {
    pub(crate) start_time: i64,
    pub(crate) end_time: Option<i64>,
    pub(crate) width: Width,
    pub(crate) limit: Option<i64>,
    /// The least and most buckets on a page, and how many there are unasked.
    pub(crate) limits: (i64, i64, i64),
    pub(crate) page: Option<&'a str>,
    /// All else that the query says: a page token is good for the query it came from.
    pub(crate) rest: String,
}

impl Span {
    /// Buckets are aligned to UTC, and one that the query begins or ends in is shown whole.
    pub(crate) fn of(when: &When<'_>, now: Timestamp) -> Result<Self> {
        let (min, max, usual) = when.limits;
        let buckets = tollgate_core::page::limit(when.limit, usual, min, max)?;
        let width = when.width.seconds();
        let (first, last) = (0, i64::from(u32::MAX));
        if !(first..=last).contains(&when.start_time) {
            return Err(Error::invalid(
                "start_time",
                "Invalid 'start_time': expected a time in Unix seconds.",
            ));
        }
        let end_time = when.end_time.unwrap_or(now.0 + 1);
        if end_time <= when.start_time && when.end_time.is_some() || end_time > last {
            return Err(Error::invalid(
                "end_time",
                "Invalid 'end_time': it must be after 'start_time', in Unix seconds.",
            ));
        }
        let fingerprint =
            fingerprint(&[&when.start_time.to_string(), &format!("{:?}", when.end_time), &when.rest]);
        let aligned = Timestamp(when.start_time).floor_to(width);
        let end = Timestamp(end_time + width - 1).floor_to(width).max(aligned);
        let start = match when.page {
            None => aligned,
            Some(token) => read_token(token, &fingerprint)
                .filter(|start| (aligned..=end).contains(start) && start.floor_to(width) == *start)
                .ok_or_else(|| {
                    Error::invalid("page", "Invalid 'page': it is not the next page of this query.")
                })?,
        };
        let page_end = Timestamp(start.0 + i64::try_from(buckets).unwrap_or(1) * width).min(end);
        Ok(Self { width: when.width, start, end, page_end, fingerprint })
    }

    pub(crate) fn start(&self) -> Timestamp {
        self.start
    }

    pub(crate) fn page_end(&self) -> Timestamp {
        self.page_end
    }

    /// One page: every bucket of it, those without usage too.
    pub(crate) fn page<R>(&self, mut sums: Vec<Sums>, show: impl Fn(&Sums) -> Vec<R>) -> Buckets<R> {
        let width = self.width.seconds();
        let mut data = Vec::new();
        let mut start = self.start;
        while start < self.page_end {
            let later = sums.iter().position(|sums| sums.bucket_start > start).unwrap_or(sums.len());
            let of_bucket: Vec<Sums> = sums.drain(..later).collect();
            data.push(Bucket {
                object: "bucket",
                start_time: start,
                end_time: start.plus_seconds(width),
                results: of_bucket.iter().flat_map(&show).collect(),
            });
            start = start.plus_seconds(width);
        }
        let has_more = self.page_end < self.end;
        let next_page = has_more.then(|| format!("page_{:x}_{}", self.page_end.0, self.fingerprint));
        Buckets { object: "page", data, has_more, next_page }
    }
}

fn read_token(token: &str, fingerprint: &str) -> Option<Timestamp> {
    let (start, of) = token.strip_prefix("page_")?.split_once('_')?;
    (of == fingerprint).then(|| i64::from_str_radix(start, 16).ok().map(Timestamp))?
}

fn fingerprint(parts: &[&str]) -> String {
    let hash = parts.join("\0").bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hex(&hash.to_be_bytes())
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(crate) enum BucketWidth {
    #[serde(rename = "1m")]
    Minute,
    #[serde(rename = "1h")]
    Hour,
    #[serde(rename = "1d")]
    Day,
}

impl BucketWidth {
    fn width(self) -> Width {
        match self {
            Self::Minute => Width::Minute,
            Self::Hour => Width::Hour,
            Self::Day => Width::Day,
        }
    }

    /// The least, most and usual number of buckets on a page.
    fn limits(self) -> (i64, i64, i64) {
        match self {
            Self::Minute => (1, 1440, 60),
            Self::Hour => (1, 168, 24),
            Self::Day => (1, 31, 7),
        }
    }
}

/// What OpenAI groups by. Dimensions that cannot differ here have one value each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GroupBy {
    ProjectId,
    UserId,
    ApiKeyId,
    Model,
    Batch,
    ServiceTier,
    ApiSource,
}

impl GroupBy {
    pub(crate) fn dimension(self) -> Option<Dimension> {
        match self {
            Self::ProjectId => Some(Dimension::Project),
            Self::UserId => Some(Dimension::Owner),
            Self::ApiKeyId => Some(Dimension::Key),
            Self::Model => Some(Dimension::Model),
            Self::Batch | Self::ServiceTier | Self::ApiSource => None,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsageQuery {
    start_time: i64,
    end_time: Option<i64>,
    bucket_width: Option<BucketWidth>,
    limit: Option<i64>,
    page: Option<String>,
    #[serde(default)]
    group_by: Vec<GroupBy>,
    #[serde(default)]
    project_ids: Vec<String>,
    #[serde(default)]
    user_ids: Vec<String>,
    #[serde(default)]
    api_key_ids: Vec<String>,
    #[serde(default)]
    models: Vec<String>,
    batch: Option<bool>,
}

async fn completions(cx: &mut Cx, input: UsageQuery) -> Result<Buckets<CompletionsResult>> {
    let group_by = input.group_by.clone();
    // There are no batches, so a filter for them finds nothing.
    let none = input.batch == Some(true);
    let show =
        move |sums: &Sums| if none { Vec::new() } else { vec![CompletionsResult::of(sums, &group_by)] };
    find(cx, input, Endpoint::Completions, show).await
}

async fn embeddings(cx: &mut Cx, input: UsageQuery) -> Result<Buckets<InputResult>> {
    refuse_what_is_of_completions("embeddings", &input)?;
    find(cx, input, Endpoint::Embeddings, |sums| {
        vec![InputResult::of("organization.usage.embeddings.result", sums)]
    })
    .await
}

async fn moderations(cx: &mut Cx, input: UsageQuery) -> Result<Buckets<InputResult>> {
    refuse_what_is_of_completions("moderations", &input)?;
    find(cx, input, Endpoint::Moderations, |sums| {
        vec![InputResult::of("organization.usage.moderations.result", sums)]
    })
    .await
}

fn refuse_what_is_of_completions(what: &str, input: &UsageQuery) -> Result<()> {
    if input.batch.is_some() {
        return Err(Error::bad_request("Unknown parameter: 'batch'.")
            .code("unknown_parameter")
            .param("batch"));
    }
    match input.group_by.iter().find(|group| group.dimension().is_none()) {
        Some(other) => {
            Err(Error::invalid("group_by", format!("Invalid 'group_by': {what} have no {other:?}.")))
        }
        None => Ok(()),
    }
}

async fn find<R>(
    cx: &mut Cx,
    input: UsageQuery,
    endpoint: Endpoint,
    show: impl Fn(&Sums) -> Vec<R>,
) -> Result<Buckets<R>> {
    let bucket_width = input.bucket_width.unwrap_or(BucketWidth::Day);
    let rest =
        format!("{endpoint:?}{bucket_width:?}{:?}", (&input.group_by, &input.project_ids, &input.user_ids))
            + &format!("{:?}", (&input.api_key_ids, &input.models, input.batch));
    let when = When {
        start_time: input.start_time,
        end_time: input.end_time,
        width: bucket_width.width(),
        limit: input.limit,
        limits: bucket_width.limits(),
        page: input.page.as_deref(),
        rest,
    };
    let span = Span::of(&when, cx.now)?;
    let query = Query {
        organization: Some(cx.organization()),
        endpoint: Some(endpoint),
        width: span.width,
        start: span.start(),
        end: span.page_end(),
        group_by: dimensions(&input.group_by),
        filters: filters([
            (Dimension::Project, input.project_ids),
            (Dimension::Owner, input.user_ids),
            (Dimension::Key, input.api_key_ids),
            (Dimension::Model, input.models),
        ]),
    };
    let sums = usage::sums(&mut cx.tx, &query).await?;
    Ok(span.page(sums, show))
}

pub(crate) fn dimensions(group_by: &[GroupBy]) -> Vec<Dimension> {
    let mut dimensions = Vec::new();
    for dimension in group_by.iter().filter_map(|group| group.dimension()) {
        if !dimensions.contains(&dimension) {
            dimensions.push(dimension);
        }
    }
    dimensions
}

/// A filter that names nothing is none.
pub(crate) fn filters<const N: usize>(given: [(Dimension, Vec<String>); N]) -> Vec<(Dimension, Vec<String>)> {
    given.into_iter().filter(|(_, values)| !values.is_empty()).collect()
}

#[derive(Serialize, JsonSchema)]
struct CompletionsResult {
    object: &'static str,
    input_tokens: i64,
    output_tokens: i64,
    num_model_requests: u64,
    /// Extension: how many of them had less output than they asked for.
    num_clamped_requests: u64,
    input_cached_tokens: i64,
    input_cache_write_tokens: i64,
    input_uncached_tokens: i64,
    input_text_tokens: i64,
    input_cached_text_tokens: i64,
    output_text_tokens: i64,
    input_audio_tokens: i64,
    input_cached_audio_tokens: i64,
    output_audio_tokens: i64,
    project_id: Option<String>,
    user_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    batch: Option<bool>,
    service_tier: Option<&'static str>,
    api_source: Option<&'static str>,
}

impl CompletionsResult {
    fn of(sums: &Sums, group_by: &[GroupBy]) -> Self {
        let uncached = sums.uncached_input_tokens();
        let is_grouped = |group: GroupBy| group_by.contains(&group);
        Self {
            object: "organization.usage.completions.result",
            input_tokens: sums.input_tokens,
            output_tokens: sums.output_tokens,
            num_model_requests: sums.requests,
            num_clamped_requests: sums.clamped_requests,
            input_cached_tokens: sums.cached_input_tokens,
            input_cache_write_tokens: sums.cache_write_tokens,
            input_uncached_tokens: uncached,
            input_text_tokens: uncached,
            input_cached_text_tokens: sums.cached_input_tokens,
            output_text_tokens: sums.output_tokens,
            input_audio_tokens: 0,
            input_cached_audio_tokens: 0,
            output_audio_tokens: 0,
            project_id: sums.dimension(Dimension::Project).map(str::to_owned),
            user_id: sums.dimension(Dimension::Owner).map(str::to_owned),
            api_key_id: sums.dimension(Dimension::Key).map(str::to_owned),
            model: sums.dimension(Dimension::Model).map(str::to_owned),
            batch: is_grouped(GroupBy::Batch).then_some(false),
            service_tier: is_grouped(GroupBy::ServiceTier).then_some("default"),
            api_source: is_grouped(GroupBy::ApiSource).then_some("unlabeled"),
        }
    }
}

/// Of what takes tokens and makes none.
#[derive(Serialize, JsonSchema)]
struct InputResult {
    object: &'static str,
    input_tokens: i64,
    num_model_requests: u64,
    project_id: Option<String>,
    user_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
}

impl InputResult {
    fn of(object: &'static str, sums: &Sums) -> Self {
        Self {
            object,
            input_tokens: sums.input_tokens,
            num_model_requests: sums.requests,
            project_id: sums.dimension(Dimension::Project).map(str::to_owned),
            user_id: sums.dimension(Dimension::Owner).map(str::to_owned),
            api_key_id: sums.dimension(Dimension::Key).map(str::to_owned),
            model: sums.dimension(Dimension::Model).map(str::to_owned),
        }
    }
}
