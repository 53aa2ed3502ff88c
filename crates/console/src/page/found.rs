//! Things found by a part of what they are called, where a field takes names and ids.

use serde_json::Value;
use tollgate_admin::Given;
use tollgate_core::{Error, Result};

use crate::show;
use crate::visit::Visit;

/// So many words of a field are looked for.
const WORDS_MAX: usize = 10;
/// So many things of a list are looked for by a word.
const FOUND_MAX: usize = 40;

/// What is typed into a field, with commas between.
pub(crate) fn typed<'v>(visit: &'v Visit<'_>, name: &'v str) -> Result<Vec<&'v str>> {
    let words = visit.query.all(name).flat_map(|text| text.split(','));
    let words: Vec<&str> = words.map(str::trim).filter(|text| !text.is_empty()).collect();
    if words.len() > WORDS_MAX {
        return Err(Error::invalid(name, format!("At most {WORDS_MAX} at a time are looked for.")));
    }
    Ok(words)
}

/// Whether a text is an id: a word for its kind, and 26 letters and digits.
pub(crate) fn is_id(text: &str) -> bool {
    let digits = text.rsplit(['_', '-']).next().unwrap_or("");
    digits.len() == 26
        && digits.len() < text.len()
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

/// A field of what has a text in its name, as far as somebody may see it, also of what is gone.
pub(crate) async fn found(
    visit: &Visit<'_>,
    param: &str,
    list: &str,
    text: &str,
    field: &str,
) -> Result<Vec<String>> {
    let items = called_like(visit, param, list, text).await?;
    Ok(items.iter().map(|item| show::text(item, field).to_owned()).collect())
}

/// Lists that cannot be searched are read and looked through.
async fn called_like(visit: &Visit<'_>, param: &str, list: &str, text: &str) -> Result<Vec<Value>> {
    let is_searched = !matches!(list, "list-groups" | "list-roles");
    let mut given = Given::default().query("limit", "100");
    if is_searched {
        given = given.query("name", text);
    }
    given = match list {
        "list-organization-api-keys" => given.query("status", "any"),
        "list-projects" => given.query("include_archived", "true"),
        _ => given,
    };
    let answer = visit.if_allowed(list, given).await?;
    let text = text.to_lowercase();
    let fits = |item: &&Value| {
        is_searched || item["name"].as_str().is_some_and(|name| name.to_lowercase().contains(&text))
    };
    let items: Vec<Value> = answer.iter().flat_map(show::items).filter(fits).cloned().collect();
    let is_cut = is_searched && answer.as_ref().is_some_and(|answer| answer["has_more"] == true);
    if items.len() > FOUND_MAX || is_cut {
        return Err(Error::invalid(
            param,
            format!("Too many are called something like '{text}': write more of it."),
        ));
    }
    Ok(items)
}

/// The ids of what is called just so, or else of all that has it in its name; or the id that it is.
pub(crate) async fn ids_of(visit: &Visit<'_>, param: &str, list: &str, text: &str) -> Result<Vec<String>> {
    if is_id(text) {
        return Ok(vec![text.to_owned()]);
    }
    let items = called_like(visit, param, list, text).await?;
    let is_just_so = |item: &&Value| {
        let called = ["name", "email"].iter().filter_map(|field| item[*field].as_str());
        called.map(str::to_lowercase).any(|name| name == text.to_lowercase())
    };
    let ids = |items: &mut dyn Iterator<Item = &Value>| -> Vec<String> {
        items.map(|item| show::text(item, "id").to_owned()).collect()
    };
    let mut found = ids(&mut items.iter().filter(is_just_so));
    if found.is_empty() {
        found = ids(&mut items.iter());
    }
    if found.is_empty() {
        return Err(Error::invalid(param, format!("Nothing is called anything like '{text}'.")));
    }
    Ok(found)
}
