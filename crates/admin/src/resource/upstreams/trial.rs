//! Trying an upstream: does it answer, does it take the credential, does it have the models.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Value, json};
use tollgate_core::upstream::Protocol;
use tollgate_core::{Error, Result, UpstreamId};

use crate::arguments::{Arguments, PathId};
use crate::gate::{Admin, Cx};
use crate::operation::Preparing;
use crate::resource::upstreams::OneUpstream;

/// What was found, which no caller can give: it is put in place of all that was asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Found {
    found: Value,
}

impl JsonSchema for Found {
    fn schema_name() -> Cow<'static, str> {
        OneUpstream::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        OneUpstream::json_schema(generator)
    }
}

/// Asks the upstream for its models, as a call of a model would be asked: same address, credential, headers, trust. It
/// costs nothing, so it takes no hold.
pub(crate) fn make(admin: &Admin, arguments: Arguments) -> Preparing<'_> {
    Box::pin(async move {
        let OneUpstream { upstream_id } = arguments.read()?;
        let found = ask(admin, &upstream_id).await?;
        let found = [("found".to_owned(), found)].into_iter().collect();
        Ok(Arguments::Body(found))
    })
}

pub(crate) async fn show(_: &mut Cx, input: Found) -> Result<Value> {
    Ok(input.found)
}

async fn ask(admin: &Admin, id: &PathId<tollgate_core::id::kind::Upstream>) -> Result<Value> {
    let id: UpstreamId = id.id()?;
    let snapshot = admin.desk.replica.snapshot();
    let upstream = snapshot.upstream(id).cloned().ok_or_else(|| Error::not_found("upstream"))?;
    let dialer = admin.dialer.set_up(&upstream.settings).map_err(Error::internal)?;
    let fields = match Protocol::of_models(&upstream.address) {
        Protocol::OpenAi => &upstream.header_fields,
        Protocol::Anthropic => &upstream.native_fields,
    };
    let listing = tollgate_wire::list_models(&dialer, &upstream.address, fields).await;
    let (listed, error) = match listing.listed {
        Ok(listed) => (Some(listed.models), None),
        Err(why) => (None, Some(why)),
    };
    let named =
        |model: &str| upstream.settings.model_mapping.get(model).map_or(model, String::as_str).to_owned();
    let served = snapshot.models().filter(|model| model.upstreams.iter().any(|one| one.id == id));
    let mut missing: Vec<String> = served
        .filter(|model| listed.as_ref().is_some_and(|listed| !listed.contains(&named(&model.id))))
        .map(|model| model.id.to_string())
        .collect();
    missing.sort();
    let millis = |time: Option<std::time::Duration>| {
        time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    };
    Ok(json!({
        "object": "tollgate.upstream.test",
        "upstream_id": id,
        "ok": error.is_none(),
        "status": listing.status,
        "connect_ms": millis(listing.connect_time),
        "answer_ms": millis(listing.answer_time),
        "models": listed,
        "missing_models": missing,
        "error": error,
    }))
}
