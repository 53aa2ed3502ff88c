//! What each endpoint can be asked.

use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_ledger::usage::Dimension;

use super::span::{BucketWidth, When};

/// What all of them are asked alike.
pub(crate) trait Asked {
    fn when(&self) -> When<'_>;
    fn dimensions(&self) -> Vec<Dimension>;
    fn filters(&self) -> Vec<(Dimension, Vec<String>)>;
}

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
            pub(crate) group_by: Vec<$group_by>,
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
                        stringify!($name), self.group_by, [$(&self.$filter),*] as [&Vec<String>; _], ($(&self.$more,)*)
                    ),
                }
            }

            fn dimensions(&self) -> Vec<Dimension> {
                self.group_by.iter().filter_map(|group| group.dimension()).collect()
            }

            fn filters(&self) -> Vec<(Dimension, Vec<String>)> {
                vec![$(($dimension, self.$filter.clone())),*]
            }
        }
    };
}

/// What results can be grouped by. A dimension in which nothing here differs has no column.
macro_rules! group_by {
    ($(#[$doc:meta])* $name:ident: $($value:ident = $dimension:expr),*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub(crate) enum $name { $($value,)* }

        impl $name {
            pub(crate) fn dimension(self) -> Option<Dimension> {
                match self { $(Self::$value => $dimension,)* }
            }
        }
    };
}

group_by! {
    ByRequest: ProjectId = Some(Dimension::Project), UserId = Some(Dimension::Owner), ApiKeyId = Some(Dimension::Key),
    Model = Some(Dimension::Model), Batch = None, ServiceTier = Some(Dimension::ServiceTier), ApiSource = None
}
group_by! {
    ByInput: ProjectId = Some(Dimension::Project), UserId = Some(Dimension::Owner), ApiKeyId = Some(Dimension::Key),
    Model = Some(Dimension::Model)
}
group_by! {
    ByImage: ProjectId = Some(Dimension::Project), UserId = Some(Dimension::Owner), ApiKeyId = Some(Dimension::Key),
    Model = Some(Dimension::Model), Size = None, Source = None
}
group_by! {
    ByFileSearch: ProjectId = Some(Dimension::Project), UserId = Some(Dimension::Owner),
    ApiKeyId = Some(Dimension::Key), VectorStoreId = None
}
group_by! {
    ByWebSearch: ProjectId = Some(Dimension::Project), UserId = Some(Dimension::Owner),
    ApiKeyId = Some(Dimension::Key), Model = Some(Dimension::Model), ContextLevel = None, ApiSource = None
}
group_by! { ByProject: ProjectId = Some(Dimension::Project) }
group_by! {
    /// Of our own question, over all kinds of requests.
    ByAll: ProjectId = Some(Dimension::Project), UserId = Some(Dimension::Owner), ApiKeyId = Some(Dimension::Key),
    Model = Some(Dimension::Model), UpstreamId = Some(Dimension::Upstream),
    ServiceTier = Some(Dimension::ServiceTier), Endpoint = Some(Dimension::Endpoint)
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
