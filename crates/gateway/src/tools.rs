//! The tools a call offers: those that the client runs, and those that the provider runs at a fee of its own.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::fields::{Text, fields, nested};

#[derive(Debug, Default)]
pub(crate) struct Tools<'a> {
    pub(crate) count: usize,
    /// Of those that the client runs, the ones that the provider describes: the body does not show their size.
    pub(crate) described: u64,
    /// The first that the provider runs, other than a search: its position and its type, if it says one.
    pub(crate) hosted: Option<(usize, Option<String>)>,
    /// The first search of the web, which the provider runs.
    pub(crate) search: Option<(usize, String)>,
    /// All but the searches, as they stand in the body.
    others: Vec<&'a str>,
}

fields! {
    struct Tool {
        r#type: Option<Text<'a>>,
        tools: Option<Tools<'a>>,
    }
}

impl Tools<'_> {
    /// The list without its searches.
    pub(crate) fn without_searches(&self) -> String {
        format!("[{}]", self.others.join(","))
    }

    fn is_of_client(&self) -> bool {
        self.hosted.is_none() && self.search.is_none()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Tools<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seq;
        impl<'de> Visitor<'de> for Seq {
            type Value = Tools<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of tools")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Tools<'de>, S::Error> {
                let mut tools = Tools::default();
                while let Some(raw) = seq.next_element::<&'de RawValue>()? {
                    let tool: Tool<'de> = nested(raw.get()).map_err(S::Error::custom)?;
                    let kind = tool.r#type.map(|Text(kind)| kind.into_owned());
                    let mut is_search = false;
                    match kind.as_deref() {
                        Some("function" | "custom") => {}
                        Some("local_shell" | "apply_patch") => tools.described += 1,
                        Some("namespace") if tool.tools.as_ref().is_some_and(Tools::is_of_client) => {
                            tools.described += tool.tools.map_or(0, |inner| inner.described);
                        }
                        Some(kind) if kind.starts_with("web_search") => {
                            is_search = true;
                            tools.search.get_or_insert_with(|| (tools.count, kind.to_owned()));
                        }
                        _ => _ = tools.hosted.get_or_insert((tools.count, kind)),
                    }
                    if !is_search {
                        tools.others.push(raw.get());
                    }
                    tools.count += 1;
                }
                Ok(tools)
            }
        }
        deserializer.deserialize_seq(Seq)
    }
}
