//! `--jq`: what is wanted of a result, in the language of jq.

use std::io::Write;

use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, data, unwrap_valr};
use jaq_json::{Val, read};
use serde_json::Value;

/// A filter that can be run, as it was written.
#[derive(Clone, Debug)]
pub struct Filter(String);

type Compiled = jaq_core::compile::Filter<jaq_core::Native<data::JustLut<Val>>>;

impl Filter {
    /// What cannot be understood is said before anything is sent.
    pub fn read(text: &str) -> Result<Self, String> {
        let filter = Self(text.to_owned());
        filter.compiled()?;
        Ok(filter)
    }

    fn compiled(&self) -> Result<Compiled, String> {
        let wrong = || format!("`{}` is no filter of jq's.", self.0);
        let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
        let arena = Arena::default();
        let program = File { code: self.0.as_str(), path: () };
        let modules = Loader::new(defs).load(&arena, program).map_err(|_| wrong())?;
        Compiler::default().with_funs(funs).compile(modules).map_err(|_| wrong())
    }

    /// Whether a field of this name can be in what comes of it.
    pub(crate) fn could_show(&self, field: &str) -> bool {
        self.0.trim() == "." || self.0.contains(field)
    }

    /// Writes what comes of a value, a line each: texts as they are, everything else as JSON.
    pub(crate) fn write(&self, value: &Value) -> Result<(), super::session::Failure> {
        let filter = self.compiled()?;
        let input = read::parse_single(value.to_string().as_bytes())
            .map_err(|error| format!("The answer is no JSON to jq: {error}."))?;
        let context = Ctx::<data::JustLut<Val>>::new(&filter.lut, Vars::new([]));
        let mut out = std::io::stdout().lock();
        for found in filter.id.run((context, input)).map(unwrap_valr) {
            let text = found.map_err(|error| format!("--jq: {error}"))?.to_string();
            match serde_json::from_str(&text) {
                Ok(Value::String(plain)) => writeln!(out, "{plain}")?,
                _ => writeln!(out, "{text}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in [".", ".[].id", "map(select(.name | test(\"^a\")))", "length"] {
            assert!(Filter::read(text).is_ok(), "{text}");
        }
        for text in ["", "][", ".a |", "nonsense"] {
            assert!(Filter::read(text).is_err(), "{text}");
        }
        assert!(Filter::read(".value").unwrap().could_show("value"));
        assert!(!Filter::read(".id").unwrap().could_show("value"));
    }
}
