//! Pages of lists, in OpenAI's shape: `{"object":"list","data","first_id","last_id","has_more"}`.

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::id::{Id, Identified};

/// One page of `T`. The next page is asked for with `after=<last_id>`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct Page<T> {
    object: &'static str,
    pub data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl<T> Page<T> {
    /// Makes a page of `rows`, which were asked for with one row more than `limit`; that row only says there is more.
    pub fn new(mut rows: Vec<T>, limit: usize, id_of: impl Fn(&T) -> String) -> Self {
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Self::with_more(rows, has_more, id_of)
    }

    /// Makes a page of exactly `rows`.
    pub fn with_more(rows: Vec<T>, has_more: bool, id_of: impl Fn(&T) -> String) -> Self {
        let (first_id, last_id) = (rows.first().map(&id_of), rows.last().map(&id_of));
        Self { object: "list", first_id, last_id, data: rows, has_more }
    }
}

/// One page in the shape of OpenAI's newer lists: `{"object":"list","data","has_more","next"}`. The next page is asked for with
/// `after=<next>`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}NextPage")]
pub struct NextPage<T> {
    object: &'static str,
    pub data: Vec<T>,
    has_more: bool,
    next: Option<String>,
}

impl<T> NextPage<T> {
    /// Makes a page of `rows`, of which what is beyond `limit` only says that there is more.
    pub fn new(mut rows: Vec<T>, limit: usize, id_of: impl Fn(&T) -> String) -> Self {
        // A page of nothing has no end to go on from.
        let has_more = rows.len() > limit && limit > 0;
        rows.truncate(limit);
        let next = if has_more { rows.last().map(id_of) } else { None };
        Self { object: "list", data: rows, has_more, next }
    }
}

/// Checks a page size; `default` when it is not given.
pub fn limit(limit: Option<i64>, default: i64, min: i64, max: i64) -> Result<usize> {
    let limit = limit.unwrap_or(default);
    if limit < min || limit > max {
        let message =
            format!("Invalid 'limit': expected a value from {min} to {max}, but got {limit} instead.");
        let code = if limit < min { "integer_below_min_value" } else { "integer_above_max_value" };
        return Err(Error::invalid("limit", message).code(code));
    }
    usize::try_from(limit).map_err(|_| Error::invalid("limit", "Invalid 'limit'."))
}

/// Reads a cursor: the id of the item the page begins after. Empty means the beginning, as some clients send it.
pub fn cursor<K: Identified>(name: &'static str, cursor: Option<&str>) -> Result<Option<Id<K>>> {
    match cursor {
        None | Some("") => Ok(None),
        Some(text) => match Id::parse(text) {
            Some(id) => Ok(Some(id)),
            None => Err(Error::invalid(
                name,
                format!("Invalid '{name}': expected the id of {}, as in an earlier page.", article(K::NAME)),
            )),
        },
    }
}

fn article(name: &str) -> String {
    let article = if name.starts_with(['A', 'E', 'I', 'O', 'a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ProjectId, kind};

    #[test]
    fn the_extra_row_only_says_there_is_more() {
        let page = Page::new(vec![1, 2, 3], 2, ToString::to_string);
        assert_eq!((page.data.len(), page.has_more), (2, true));
        assert_eq!(page.last_id.as_deref(), Some("2"));
        let empty = Page::new(Vec::<i32>::new(), 2, ToString::to_string);
        assert_eq!((empty.first_id, empty.has_more), (None, false));
    }

    #[test]
    fn a_cursor_is_an_id_or_a_clear_error() {
        let id = ProjectId::from_bits(9);
        assert_eq!(cursor::<kind::Project>("after", Some(&id.to_string())).unwrap(), Some(id));
        assert_eq!(cursor::<kind::Project>("after", Some("")).unwrap(), None);
        let error = cursor::<kind::Project>("after", Some("proj_x")).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("after"));
    }
}
