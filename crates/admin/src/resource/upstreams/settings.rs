//! What an operator sets of an upstream, read strictly.

use std::collections::BTreeMap;

use serde_json::Value;
use tollgate_core::patch::Patch;
use tollgate_core::secret::Secret;
use tollgate_core::upstream::{
    Authentication, HttpVersion, OnClientGone, OutputLimitField, Settings, is_own_field,
};
use tollgate_core::{Error, Result};

use crate::arguments;
use crate::resource::upstreams::Given;

const NUMBER_MAX: i64 = 1_000;
const CONCURRENCY_MAX: i64 = 100_000;
const SECONDS_MAX: i64 = 3_600;
const PEM_BYTES_MAX: usize = 256 * 1024;
const MAPPING_MAX: usize = 2_000;

/// Puts what is given into the settings. Null goes back to the usual.
pub(crate) fn apply(settings: &mut Settings, given: &Given) -> Result<()> {
    let usual = Settings::default();
    word("authentication", &given.authentication, &mut settings.authentication, read_authentication)?;
    word("output_limit_field", &given.output_limit_field, &mut settings.output_limit_field, read_field)?;
    word("http_version", &given.http_version, &mut settings.http_version, read_version)?;
    word("on_client_gone", &given.on_client_gone, &mut settings.on_client_gone, read_gone)?;
    set(&given.allowed_parameters, &mut settings.allowed_parameters, Vec::new(), |names| {
        read_parameters(names)
    })?;
    set(&given.priority, &mut settings.priority, usual.priority, |number| {
        read_number("priority", *number, 0, NUMBER_MAX)
    })?;
    set(&given.weight, &mut settings.weight, usual.weight, |number| {
        read_number("weight", *number, 1, NUMBER_MAX)
    })?;
    set(&given.concurrency_max, &mut settings.concurrency_max, None, |number| {
        read_number("concurrency_max", *number, 1, CONCURRENCY_MAX).map(Some)
    })?;
    let timeouts = [
        ("connect_timeout", &given.connect_timeout, &mut settings.connect_timeout),
        ("answer_timeout", &given.answer_timeout, &mut settings.answer_timeout),
        ("stall_timeout", &given.stall_timeout, &mut settings.stall_timeout),
    ];
    for (name, seconds, place) in timeouts {
        set(seconds, place, None, |number| read_number(name, *number, 1, SECONDS_MAX).map(Some))?;
    }
    set(&given.model_mapping, &mut settings.model_mapping, BTreeMap::new(), read_mapping)?;
    set(&given.ca_certificates, &mut settings.ca_certificates, None, |pem| read_pem(pem).map(Some))
}

fn set<G, T>(given: &Patch<G>, place: &mut T, usual: T, read: impl FnOnce(&G) -> Result<T>) -> Result<()> {
    match given {
        Patch::Absent => {}
        Patch::Null => *place = usual,
        Patch::Value(value) => *place = read(value)?,
    }
    Ok(())
}

fn word<T>(
    name: &'static str,
    given: &Patch<String>,
    place: &mut Option<T>,
    read: fn(&'static str, &str) -> Result<T>,
) -> Result<()> {
    set(given, place, None, |word| read(name, word).map(Some))
}

pub(crate) fn read_authentication(name: &'static str, word: &str) -> Result<Authentication> {
    Authentication::parse(word).ok_or_else(|| no_such_word(name, Authentication::WORDS, word))
}

fn read_field(name: &'static str, word: &str) -> Result<OutputLimitField> {
    OutputLimitField::parse(word).ok_or_else(|| no_such_word(name, OutputLimitField::WORDS, word))
}

fn read_version(name: &'static str, word: &str) -> Result<HttpVersion> {
    HttpVersion::parse(word).ok_or_else(|| no_such_word(name, HttpVersion::WORDS, word))
}

fn read_gone(name: &'static str, word: &str) -> Result<OnClientGone> {
    OnClientGone::parse(word).ok_or_else(|| no_such_word(name, OnClientGone::WORDS, word))
}

fn no_such_word(name: &'static str, words: &[&str], given: &str) -> Error {
    let expected: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let message = format!("Invalid '{name}': expected {}, but got '{given}'.", expected.join(" or "));
    Error::invalid(name, message)
}

fn read_number(name: &'static str, given: i64, min: i64, max: i64) -> Result<u32> {
    u32::try_from(given).ok().filter(|_| (min..=max).contains(&given)).ok_or_else(|| {
        let code = if given < min { "integer_below_min_value" } else { "integer_above_max_value" };
        let message = format!("Invalid '{name}': expected a value from {min} to {max}, but got {given}.");
        Error::invalid(name, message).code(code)
    })
}

fn read_parameters(names: &[String]) -> Result<Vec<String>> {
    const MAX: usize = 100;
    let is_name = |name: &String| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        !name.is_empty() && name.len() <= 64 && name.bytes().all(is_plain)
    };
    if names.len() > MAX || !names.iter().all(is_name) {
        let message = format!(
            "Invalid 'allowed_parameters': expected at most {MAX} names of parameters, of letters, digits, '_', '-' and '.'."
        );
        return Err(Error::invalid("allowed_parameters", message));
    }
    Ok(names.to_vec())
}

fn read_mapping(mapping: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    if mapping.len() > MAPPING_MAX {
        let message = format!("Invalid 'model_mapping': at most {MAPPING_MAX} models.");
        return Err(Error::invalid("model_mapping", message));
    }
    for name in mapping.iter().flat_map(|(ours, theirs)| [ours, theirs]) {
        arguments::name("model_mapping", name)?;
    }
    Ok(mapping.clone())
}

fn read_pem(pem: &str) -> Result<String> {
    let refuse = |why: &str| {
        let message = format!("Invalid 'ca_certificates': {why}.");
        Err(Error::invalid("ca_certificates", message))
    };
    if pem.len() > PEM_BYTES_MAX {
        return refuse("it is too long");
    }
    if pem.contains("PRIVATE KEY") {
        return refuse("it has a private key in it, which belongs nowhere but on its owner's machine");
    }
    match tollgate_wire::client_config_trusting(pem) {
        Ok(_) => Ok(pem.to_owned()),
        Err(why) => refuse(&why),
    }
}

/// A credential goes into a header, so it is of the characters that can be there.
pub(crate) fn read_credential(credential: &Secret) -> Result<&Secret> {
    let text = credential.reveal();
    let is_token = !text.is_empty() && text.len() <= 4096 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token {
        Ok(credential)
    } else {
        Err(Error::invalid("api_key", "Invalid 'api_key': it cannot be a credential."))
    }
}

/// Extra headers, as the text that is sealed; nothing for none.
pub(crate) fn read_headers(given: &BTreeMap<String, Secret>) -> Result<Option<Secret>> {
    const MAX: usize = 32;
    let refuse = |why: &str| Error::invalid("headers", format!("Invalid 'headers': {why}."));
    if given.len() > MAX {
        return Err(refuse(&format!("at most {MAX}")));
    }
    let mut headers: BTreeMap<String, Value> = BTreeMap::new();
    for (name, value) in given {
        let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || name.len() > 128 || !name.bytes().all(is_token_byte) {
            return Err(refuse(&format!("'{}' is no name of a header", name.escape_default())));
        }
        let name = name.to_ascii_lowercase();
        if is_own_field(&name) {
            return Err(refuse(&format!("'{name}' is Tollgate's own to write")));
        }
        let text = value.reveal();
        let is_plain = !text.is_empty()
            && text.len() <= 4096
            && text.trim() == text
            && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if !is_plain {
            return Err(refuse(&format!("the value of '{name}' cannot be in a header")));
        }
        if headers.insert(name.clone(), Value::from(text)).is_some() {
            return Err(refuse(&format!("'{name}' is given twice")));
        }
    }
    let text = serde_json::to_string(&headers).map_err(|error| Error::internal(error.to_string()))?;
    Ok((!headers.is_empty()).then(|| Secret::new(&text)))
}
