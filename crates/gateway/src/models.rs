//! `GET /v1/models`: the models the caller may use.

use serde_json::{Value, json};
use tollgate_core::Result;
use tollgate_replica::Model;
use tollgate_wire::Reply;

use crate::{Gateway, permit};

/// `is_native`: as Anthropic's clients read them.
pub(crate) fn list(gateway: &Gateway, is_native: bool) -> Reply {
    let snapshot = gateway.replica.snapshot();
    let mut models: Vec<&Model> = snapshot.models().map(AsRef::as_ref).collect();
    models.sort_by(|a, b| a.id.cmp(&b.id));
    let (first, last) = (models.first().map(|model| &*model.id), models.last().map(|model| &*model.id));
    let data: Vec<Value> = models.iter().map(|model| object(model, is_native)).collect();
    let shown = if is_native {
        json!({"data": data, "has_more": false, "first_id": first, "last_id": last})
    } else {
        json!({"object": "list", "data": data})
    };
    Reply::json(200, shown.to_string().into_bytes())
}

pub(crate) fn one(gateway: &Gateway, name: &str, is_native: bool) -> Result<Reply> {
    let model = permit::model(gateway, name)?;
    Ok(Reply::json(200, object(&model, is_native).to_string().into_bytes()))
}

fn object(model: &Model, is_native: bool) -> Value {
    if is_native {
        let created = model.created_at.to_string();
        return json!({"type": "model", "id": *model.id, "display_name": *model.id, "created_at": created,
            "lifecycle": "active", "max_input_tokens": model.facts.context_tokens,
            "max_tokens": model.facts.max_output_tokens});
    }
    json!({"id": *model.id, "object": "model", "created": model.created_at, "owned_by": "tollgate"})
}
