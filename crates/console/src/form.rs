//! What a form, or the query of a page, says.

use tollgate_core::secret::{MasterKey, Pepper, Secret, hex};
use tollgate_core::{Error, Result};
use tollgate_wire::{percent_decoded, percent_encoded};

/// Names and values, in their order. A name may be given more than once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    pub(crate) fn read(text: &str) -> Result<Self> {
        let decoded = |text: &str| {
            percent_decoded(&text.replace('+', " "))
                .ok_or_else(|| Error::bad_request("The form is not properly percent-encoded."))
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(name)?, decoded(value)?))
        });
        pairs.collect::<Result<_>>().map(Self)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// What was typed, without spaces around it; `None` if that is nothing.
    pub(crate) fn typed(&self, name: &str) -> Option<&str> {
        self.get(name).map(str::trim).filter(|value| !value.is_empty())
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.typed(name).unwrap_or("")
    }

    pub(crate) fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A whole number, or nothing; what is neither is told under its field.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>> {
        let Some(text) = self.typed(name) else { return Ok(None) };
        let wrong = || Error::invalid(name, format!("'{text}' is not a whole number."));
        text.parse().map(Some).map_err(|_| wrong())
    }

    /// The same with one name given anew, or taken out, as a query string.
    pub(crate) fn with(&self, name: &str, value: Option<&str>) -> String {
        let kept = self.0.iter().filter(|(known, _)| known != name);
        let kept = kept.map(|(name, value)| (name.as_str(), value.as_str()));
        let pairs: Vec<String> = kept
            .chain(value.map(|value| (name, value)))
            .map(|(name, value)| format!("{}={}", percent_encoded(name), percent_encoded(value)))
            .collect();
        pairs.join("&")
    }
}

/// What the forms of a session carry, and no other site can know: a digest of the session's token, the same on every node.
pub(crate) fn token(session: &Secret) -> String {
    let digest = Pepper::new(MasterKey::from_bytes(0, *b"tollgate: the forms of a session"));
    hex(&digest.verifier(session.reveal()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_as_browsers_write_it() {
        let form = Form::read("name=Caf%C3%A9+%26+Co&scope=a&scope=b&empty=&count=+7").unwrap();
        assert_eq!(form.typed("name"), Some("Café & Co"));
        assert_eq!(form.all("scope").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((form.typed("empty"), form.has("empty"), form.has("absent")), (None, true, false));
        assert_eq!(form.number("count").unwrap(), Some(7));
        assert_eq!(form.number("name").unwrap_err().param.as_deref(), Some("name"));
        let with = Form::read("a=1&scope=b&scope=c").unwrap();
        assert_eq!(with.with("scope", Some("d e")), "a=1&scope=d%20e");
        assert_eq!(with.with("scope", None), "a=1");
        assert!(Form::read("a=%zz").is_err());
    }
}
