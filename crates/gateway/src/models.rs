//! `GET /v1/models`: the models the caller may use.

use serde_json::{Value, json};
use tollgate_core::Result;
use tollgate_replica::Model;
use tollgate_wire::Reply;

use crate::{Gateway, permit};

pub(crate) fn list(gateway: &Gateway) -> Reply {
    let snapshot = gateway.replica.snapshot();
    let mut models: Vec<&Model> = snapshot.models().map(AsRef::as_ref).collect();
    models.sort_by(|a, b| a.id.cmp(&b.id));
    let data: Vec<Value> = models.into_iter().map(object).collect();
    Reply::json(200, json!({"object": "list", "data": data}).to_string().into_bytes())
}

pub(crate) fn one(gateway: &Gateway, name: &str) -> Result<Reply> {
    let model = permit::model(gateway, name)?;
    Ok(Reply::json(200, object(&model).to_string().into_bytes()))
}

fn object(model: &Model) -> Value {
    json!({"id": model.id, "object": "model", "created": model.created_at, "owned_by": "tollgate"})
}
