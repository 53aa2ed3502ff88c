//! The span of time of a question, in buckets and pages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::secret::hex;
use tollgate_core::{Error, Result, Timestamp};
use tollgate_ledger::usage::{Group, Width};

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
    pub(crate) fn page<R>(&self, mut groups: Vec<Group>, show: impl Fn(&Group) -> Vec<R>) -> Buckets<R> {
        let width = self.width.seconds();
        let mut data = Vec::new();
        let mut start = self.start;
        while start < self.page_end {
            let later = groups.iter().position(|group| group.bucket_start > start).unwrap_or(groups.len());
            let of_bucket: Vec<Group> = groups.drain(..later).collect();
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum BucketWidth {
    #[serde(rename = "1m")]
    Minute,
    #[serde(rename = "1h")]
    Hour,
    #[serde(rename = "1d")]
    Day,
}

impl BucketWidth {
    pub(crate) fn width(self) -> Width {
        match self {
            Self::Minute => Width::Minute,
            Self::Hour => Width::Hour,
            Self::Day => Width::Day,
        }
    }

    /// The least, most and usual number of buckets on a page.
    pub(crate) fn limits(self) -> (i64, i64, i64) {
        match self {
            Self::Minute => (1, 1440, 60),
            Self::Hour => (1, 168, 24),
            Self::Day => (1, 31, 7),
        }
    }
}
