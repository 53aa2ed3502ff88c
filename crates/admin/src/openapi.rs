//! The OpenAPI document of the administration, made of the table of operations and the types they read and answer.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use crate::acceptance::{self, Acceptance, Accepted};
use crate::operation::{Access, Method, Operation, Operations};

const SCHEMAS: &str = "/components/schemas";

/// The document, as OpenAPI 3.1. What it says of an operation beyond OpenAPI: `x-tollgate-permission` is what a key needs,
/// `x-tollgate-event` what a call is called in the audit log.
pub fn document(operations: &Operations) -> Value {
    let settings = || {
        SchemaSettings::draft2020_12().with(|settings| {
            settings.meta_schema = None;
            settings.definitions_path = SCHEMAS.into();
        })
    };
    let mut answers = settings().for_serialize().into_generator();
    let mut questions =
        settings().for_deserialize().with(|settings| settings.inline_subschemas = true).into_generator();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations.iter() {
        let described = describe(operation, &mut questions, &mut answers);
        paths.entry(operation.path).or_default().insert(operation.method.as_str().to_lowercase(), described);
    }
    paths
        .entry(acceptance::API)
        .or_default()
        .insert("post".to_owned(), accept_invite(&mut questions, &mut answers));
    let mut schemas = answers.take_definitions(true);
    schemas.insert("Error".to_owned(), error());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tollgate administration",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "OpenAI's administration API with extensions. Paths below /tollgate/v1 are extensions as a whole.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"adminKey": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"adminKey": {"type": "http", "scheme": "bearer"}},
        },
    })
}

/// OpenAI's envelope.
fn error() -> Value {
    let text_or_null = json!({"type": ["string", "null"]});
    json!({
        "type": "object",
        "required": ["error"],
        "properties": {"error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": text_or_null,
                "code": text_or_null,
            },
        }},
    })
}

/// The one operation that is in no table, for nobody has a key yet.
fn accept_invite(questions: &mut SchemaGenerator, answers: &mut SchemaGenerator) -> Value {
    let content = |schema: Value| json!({"application/json": {"schema": schema}});
    let body = Acceptance::json_schema(questions).to_value();
    json!({
        "operationId": "accept-invite",
        "summary": "Accept invite",
        "tags": ["invites"],
        "security": [],
        "requestBody": {"required": true, "content": content(body)},
        "responses": {
            "200": {"description": "Done.", "content": content(answers.subschema_for::<Accepted>().to_value())},
            "default": {
                "description": "Not done.",
                "content": content(json!({"$ref": format!("#{SCHEMAS}/Error")})),
            },
        },
    })
}

fn describe(operation: &Operation, questions: &mut SchemaGenerator, answers: &mut SchemaGenerator) -> Value {
    let mut input = (operation.input)(questions).to_value();
    let required: Vec<String> = input
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let mut properties = match input.get_mut("properties").map(Value::take) {
        Some(Value::Object(properties)) => properties,
        _ => Map::new(),
    };
    let names = path_names(operation.path);
    let mut parameters: Vec<Value> = names
        .iter()
        .map(|name| {
            let schema = properties.remove(*name).unwrap_or_else(|| json!({"type": "string"}));
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    let output = (operation.output)(answers).to_value();
    let content = |schema: Value| json!({"application/json": {"schema": schema}});
    let mut described = json!({
        "operationId": operation.id,
        "summary": summary(operation.id),
        "tags": [tag(operation.path)],
        "responses": {
            "200": {"description": "Done.", "content": content(output)},
            "default": {
                "description": "Not done.",
                "content": content(json!({"$ref": format!("#{SCHEMAS}/Error")})),
            },
        },
    });
    if operation.method == Method::Post {
        let required: Vec<&String> = required.iter().filter(|name| properties.contains_key(*name)).collect();
        let is_required = !required.is_empty();
        let mut body = json!({"type": "object", "properties": properties, "additionalProperties": false});
        if is_required {
            body["required"] = json!(required);
        }
        described["requestBody"] = json!({"required": is_required, "content": content(body)});
    } else {
        parameters.extend(properties.into_iter().map(|(name, schema)| {
            let schema = without_null(schema);
            let style = if schema["type"] == "object" { "deepObject" } else { "form" };
            let is_required = required.contains(&name);
            json!({"name": name, "in": "query", "required": is_required, "style": style, "explode": true, "schema": schema})
        }));
    }
    if !parameters.is_empty() {
        described["parameters"] = json!(parameters);
    }
    described["x-tollgate-permission"] = json!(match operation.access {
        Access::Needs(permission) | Access::WithinProjects(permission) | Access::OperatorOr(permission) =>
            permission.as_str(),
        Access::Operator => "tollgate.operator",
        Access::AnyKey => "any key",
        Access::Oneself => "a person",
    });
    if let Some(event) = operation.event {
        described["x-tollgate-event"] = json!(event.as_str());
    }
    described
}

fn path_names(path: &str) -> Vec<&str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect()
}

/// `list-project-users` is "List project users".
fn summary(id: &str) -> String {
    let mut words = String::new();
    for letter in id.chars() {
        match letter {
            '-' | '_' => words.push(' '),
            letter if letter.is_uppercase() && !words.is_empty() => {
                words.push(' ');
                words.extend(letter.to_lowercase());
            }
            letter if words.is_empty() => words.extend(letter.to_uppercase()),
            letter => words.push(letter),
        }
    }
    words
}

/// The noun that a path is about.
fn tag(path: &str) -> &str {
    let fixed = |part: &&str| !part.is_empty() && !part.starts_with('{');
    let parts: Vec<&str> = path.split('/').filter(fixed).collect();
    match parts.as_slice() {
        ["v1", "organization", noun, ..] | ["tollgate", "v1", noun, ..] | ["v1", noun, ..] => noun,
        _ => "other",
    }
}

/// In a query there is no null: what is not given is left out.
fn without_null(mut schema: Value) -> Value {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|of| of != "null");
        if let [only] = types.as_slice() {
            schema["type"] = only.clone();
        }
    }
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    if let Some(Value::Array(cases)) = schema.get_mut("anyOf") {
        cases.retain(|case| case["type"] != "null");
        if let [only] = cases.as_mut_slice() {
            let only = only.take();
            let description = schema.get("description").cloned();
            schema = only;
            if let Some(description) = description {
                schema["description"] = description;
            }
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for property in properties.values_mut() {
            *property = without_null(property.take());
        }
    }
    schema
}
