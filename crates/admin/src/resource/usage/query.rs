//! What each endpoint can be asked.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IntoDeserializer};
use tollgate_core::labels::Labels;
use tollgate_ledger::usage::Dimension;

use super::span::{BucketWidth, When};

/// What all of them are asked alike.
pub(crate) trait Asked {
    fn when(&self) -> When<'_>;
    fn dimensions(&self) -> Vec<Dimension>;
    /// Names of labels to group by.
    fn labels(&self) -> Vec<String>;
    fn filters(&self) -> Vec<(Dimension, Vec<String>)>;
}

/// What results are grouped by: a dimension, or as an extension the label NAME as `label:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum By<G> {
    Dimension(G),
    Label(String),
}

impl<'de, G: Deserialize<'de>> Deserialize<'de> for By<G> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_prefix(LABEL) {
            Some(name) if Labels::is_name(name) => Ok(Self::Label(name.to_owned())),
            Some(_) => Err(D::Error::custom(format!("`{text}` does not name a label"))),
            None => G::deserialize(text.into_deserializer()).map(Self::Dimension),
        }
    }
}

impl<G: JsonSchema> JsonSchema for By<G> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}OrLabel", G::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let dimension = generator.subschema_for::<G>();
        let label = schemars::json_schema!({
            "type": "string", "pattern": "^label:[A-Za-z0-9_./-]{1,64}$", "description": "Extension.",
        });
        schemars::json_schema!({"anyOf": [dimension, label]})
    }
}

const LABEL: &str = "label:";

/// Parameters that are lists of ids.
macro_rules! query {
    ($name:ident by $group_by:ident: $($filter:ident = $dimension:expr),* $(; $more:ident: $type:ty)*) => {
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            start_time: i64,
            end_time: Option<i64>,
            bucket_width: Option<BucketWidth>,
            limit: Option<i64>,
            page: Option<String>,
            #[serde(default)]
            pub(crate) group_by: Vec<By<$group_by>>,
            /// Some clients of OpenAI's send it for `project_ids`.
            project_id: Option<String>,
            $(#[serde(default)] $filter: Vec<String>,)*
            $(#[serde(default)] pub(crate) $more: $type,)*
        }

        impl Asked for $name {
            fn when(&self) -> When<'_> {
                let bucket_width = self.bucket_width.unwrap_or(BucketWidth::Day);
                When {
                    start_time: self.start_time,
                    end_time: self.end_time,
                    width: bucket_width.width(),
                    limit: self.limit,
                    limits: bucket_width.limits(),
                    page: self.page.as_deref(),
                    rest: format!(
                        "{}{bucket_width:?}{:?}{:?}{:?}",
                        stringify!($name), self.group_by, (&self.project_id, [$(&self.$filter),*] as [&Vec<String>; _]),
                        ($(&self.$more,)*)
                    ),
                }
            }

            fn dimensions(&self) -> Vec<Dimension> {
                let dimension = |by: &By<$group_by>| match by {
                    By::Dimension(group) => group.dimension(),
                    By::Label(_) => Some(Dimension::LabelSet),
                };
                self.group_by.iter().filter_map(dimension).collect()
            }

            fn labels(&self) -> Vec<String> {
                let mut names: Vec<String> = Vec::new();
                for by in &self.group_by {
                    if let By::Label(name) = by && !names.contains(name) {
                        names.push(name.clone());
                    }
                }
                names
            }

            fn filters(&self) -> Vec<(Dimension, Vec<String>)> {
                let project = self.project_id.iter().cloned().collect();
                vec![(Dimension::Project, project), $(($dimension, self.$filter.clone())),*]
            }
        }
    };
}

/// What results can be grouped by. A dimension in which nothing here differs has no column.
macro_rules! group_by {
    ($(#[$doc:meta])* $name:ident: $($text:literal $value:ident $dimension:expr;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
        pub(crate) enum $name { $(#[serde(rename = $text)] $value,)* }

        impl $name {
            const DIMENSIONS: &[Option<Dimension>] = &[$($dimension,)*];

            fn dimension(self) -> Option<Dimension> {
                Self::DIMENSIONS[self as usize]
            }
        }
    };
}

group_by! {
    ByRequest:
    "project_id" Project Some(Dimension::Project);
    "user_id" User Some(Dimension::Owner);
    "api_key_id" Key Some(Dimension::Key);
    "model" Model Some(Dimension::Model);
    "batch" Batch None;
    "service_tier" ServiceTier Some(Dimension::ServiceTier);
    "api_source" ApiSource None;
}
group_by! {
    ByInput:
    "project_id" Project Some(Dimension::Project);
    "user_id" User Some(Dimension::Owner);
    "api_key_id" Key Some(Dimension::Key);
    "model" Model Some(Dimension::Model);
}
group_by! {
    ByImage:
    "project_id" Project Some(Dimension::Project);
    "user_id" User Some(Dimension::Owner);
    "api_key_id" Key Some(Dimension::Key);
    "model" Model Some(Dimension::Model);
    "size" Size None;
    "source" Source None;
}
group_by! {
    ByFileSearch:
    "project_id" Project Some(Dimension::Project);
    "user_id" User Some(Dimension::Owner);
    "api_key_id" Key Some(Dimension::Key);
    "vector_store_id" VectorStore None;
}
group_by! {
    ByWebSearch:
    "project_id" Project Some(Dimension::Project);
    "user_id" User Some(Dimension::Owner);
    "api_key_id" Key Some(Dimension::Key);
    "model" Model Some(Dimension::Model);
    "context_level" ContextLevel None;
    "api_source" ApiSource None;
}
group_by! {
    ByProject:
    "project_id" Project Some(Dimension::Project);
}
group_by! {
    /// Of costs. A line item is a model and a kind of token; models and upstreams are extensions.
    ByCost:
    "project_id" Project Some(Dimension::Project);
    "user_id" User Some(Dimension::Owner);
    "line_item" LineItem Some(Dimension::Model);
    "api_key_id" Key Some(Dimension::Key);
    "api_source" ApiSource None;
    "model" Model Some(Dimension::Model);
    "upstream_id" Upstream Some(Dimension::Upstream);
}
group_by! {
    /// Of our own question, over all kinds of requests.
    ByAll:
    "project_id" Project Some(Dimension::Project);
    "user_id" User Some(Dimension::Owner);
    "api_key_id" Key Some(Dimension::Key);
    "model" Model Some(Dimension::Model);
    "upstream_id" Upstream Some(Dimension::Upstream);
    "service_tier" ServiceTier Some(Dimension::ServiceTier);
    "endpoint" Endpoint Some(Dimension::Endpoint);
}

query! {
    CompletionsQuery by ByRequest: project_ids = Dimension::Project, user_ids = Dimension::Owner,
    api_key_ids = Dimension::Key, models = Dimension::Model; batch: Option<bool>
}
query! {
    InputQuery by ByInput: project_ids = Dimension::Project, user_ids = Dimension::Owner,
    api_key_ids = Dimension::Key, models = Dimension::Model
}
query! {
    ImagesQuery by ByImage: project_ids = Dimension::Project, user_ids = Dimension::Owner,
    api_key_ids = Dimension::Key, models = Dimension::Model; sizes: Vec<Size>; sources: Vec<Source>
}
query! {
    FileSearchQuery by ByFileSearch: project_ids = Dimension::Project, user_ids = Dimension::Owner,
    api_key_ids = Dimension::Key; vector_store_ids: Vec<String>
}
query! {
    WebSearchQuery by ByWebSearch: project_ids = Dimension::Project, user_ids = Dimension::Owner,
    api_key_ids = Dimension::Key, models = Dimension::Model; context_levels: Vec<ContextLevel>
}
query! { ProjectQuery by ByProject: project_ids = Dimension::Project }
query! {
    CostsQuery by ByCost: project_ids = Dimension::Project, user_ids = Dimension::Owner,
    api_key_ids = Dimension::Key, models = Dimension::Model, upstream_ids = Dimension::Upstream;
    line_items: Vec<String>
}
query! {
    AllQuery by ByAll: project_ids = Dimension::Project, user_ids = Dimension::Owner, api_key_ids = Dimension::Key,
    models = Dimension::Model, upstream_ids = Dimension::Upstream, service_tiers = Dimension::ServiceTier,
    endpoints = Dimension::Endpoint
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum Size {
    #[serde(rename = "256x256")]
    Small,
    #[serde(rename = "512x512")]
    Medium,
    #[serde(rename = "1024x1024")]
    Large,
    #[serde(rename = "1792x1792")]
    Largest,
    #[serde(rename = "1024x1792")]
    Tall,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum Source {
    #[serde(rename = "image.generation")]
    Generation,
    #[serde(rename = "image.edit")]
    Edit,
    #[serde(rename = "image.variation")]
    Variation,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ContextLevel {
    Low,
    Medium,
    High,
}
