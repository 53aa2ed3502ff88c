//! Upstreams: provider connections, which operators make. Credentials go in and never come out.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate_core::id::kind;
use tollgate_core::page::{self, Page};
use tollgate_core::patch::Patch;
use tollgate_core::secret::Secret;
use tollgate_core::upstream::{Authentication, OnClientGone, OutputLimitField};
use tollgate_core::{Address, Error, Permission, Result, Timestamp, UpstreamId, seal};
use tollgate_store::{Entity, FromRow, Row, params};

use crate::arguments::{self, Arguments, PathId};
use crate::audit::Event;
use crate::gate::{Admin, Cx};
use crate::operation::Access::{Operator, OperatorOr};
use crate::operation::{Operations, Preparing};
use crate::resource::Deleted;

pub(crate) fn operations() -> Operations {
    const ALL: &str = "/tollgate/v1/upstreams";
    const ONE: &str = "/tollgate/v1/upstreams/{upstream_id}";
    Operations::new()
        .get(ALL, "list-upstreams", OperatorOr(Permission::UpstreamsRead), list)
        .post(ALL, "create-upstream", Operator, Event::OrganizationUpdated, create)
        .prepared_by(read_models)
        .get(ONE, "retrieve-upstream", OperatorOr(Permission::UpstreamsRead), retrieve)
        .post(ONE, "modify-upstream", Operator, Event::OrganizationUpdated, update)
        .delete(ONE, "delete-upstream", Operator, Event::OrganizationUpdated, delete)
}

const MODELS_MAX: usize = 2_000;

/// To an operator all of it, to an owner of an organization its name and models only.
#[derive(Debug, Serialize)]
pub(crate) struct Upstream {
    object: &'static str,
    id: UpstreamId,
    name: String,
    models: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    has_api_key: Option<bool>,
    /// How the credential is presented.
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication: Option<&'static str>,
    /// The field in which it reads the most output of one choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    output_limit_field: Option<&'static str>,
    /// What becomes of an answer whose client has gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_client_gone: Option<&'static str>,
    /// Parameters that are let through under a hard limit though they are not known to leave the cost as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_parameters: Option<Vec<String>>,
    created_at: Timestamp,
}

impl FromRow for Upstream {
    fn from_row(row: &Row) -> Result<Self> {
        let base_url: String = row.get("base_url")?;
        let field: Option<String> = row.get("output_limit_field")?;
        let gone: Option<String> = row.get("on_client_gone")?;
        let allowed: Option<String> = row.get("allowed_parameters")?;
        let address = read_address(&base_url)?;
        let authentication: Option<String> = row.get("authentication")?;
        let authentication = authentication.and_then(|word| Authentication::parse(&word));
        let field = field.and_then(|word| OutputLimitField::parse(&word));
        let gone = gone.and_then(|word| OnClientGone::parse(&word)).unwrap_or(OnClientGone::Drain);
        Ok(Self {
            object: "tollgate.upstream",
            id: row.get("id")?,
            name: row.get("name")?,
            models: Vec::new(),
            base_url: Some(base_url),
            authentication: Some(authentication.unwrap_or_else(|| Authentication::usual(&address)).as_str()),
            output_limit_field: Some(field.unwrap_or_else(|| OutputLimitField::usual(&address)).as_str()),
            on_client_gone: Some(gone.as_str()),
            allowed_parameters: Some(
                allowed.iter().flat_map(|names| names.split(' ')).map(str::to_owned).collect(),
            ),
            has_api_key: Some(row.get::<Option<Vec<u8>>>("credential")?.is_some()),
            created_at: row.get("created_at")?,
        })
    }
}

impl Upstream {
    async fn shown_to(mut self, cx: &mut Cx) -> Result<Self> {
        let rows: Vec<Row> = cx
            .tx
            .all("SELECT model FROM upstream_model WHERE upstream_id = $1 ORDER BY model", &params![self.id])
            .await?;
        self.models = rows.iter().map(|row| row.at(0)).collect::<Result<_>>()?;
        if !cx.actor.acts_as_operator() {
            (self.base_url, self.has_api_key, self.authentication) = (None, None, None);
            (self.output_limit_field, self.on_client_gone, self.allowed_parameters) = (None, None, None);
        }
        Ok(self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListUpstreams {
    after: Option<String>,
    limit: Option<i64>,
}

async fn list(cx: &mut Cx, input: ListUpstreams) -> Result<Page<Upstream>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<UpstreamId> = page::cursor("after", input.after.as_deref())?;
    let rows: Vec<Upstream> = cx
        .tx
        .all(
            "SELECT * FROM upstream WHERE $1 IS NULL OR id > $1 ORDER BY id LIMIT $2",
            &params![after, limit + 1],
        )
        .await?;
    let mut shown = Vec::with_capacity(rows.len());
    for row in rows {
        shown.push(row.shown_to(cx).await?);
    }
    Ok(Page::new(shown, limit, |upstream| upstream.id.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateUpstream {
    name: String,
    base_url: String,
    api_key: Option<Secret>,
    models: Option<Vec<String>>,
    authentication: Option<String>,
    output_limit_field: Option<String>,
    on_client_gone: Option<String>,
    allowed_parameters: Option<Vec<String>>,
}

async fn create(cx: &mut Cx, input: CreateUpstream) -> Result<Upstream> {
    let name = arguments::text("name", &input.name, 64)?;
    let address = read_address(&input.base_url)?;
    let credential = input.api_key.as_ref().map(read_credential).transpose()?;
    let models = read_list(&input.models.unwrap_or_default())?;
    let authentication = read_word("authentication", Authentication::WORDS, input.authentication.as_deref())?;
    let field =
        read_word("output_limit_field", OutputLimitField::WORDS, input.output_limit_field.as_deref())?;
    let gone = read_word("on_client_gone", OnClientGone::WORDS, input.on_client_gone.as_deref())?;
    let allowed = read_parameters(input.allowed_parameters.as_deref().unwrap_or_default())?;
    let id: UpstreamId = cx.id();
    let sealed = match credential {
        Some(credential) => {
            Some(seal::seal(&cx.desk.keyring, &seal::upstream_binding(id, &address), credential)?)
        }
        None => None,
    };
    cx.tx
        .execute(
            "INSERT INTO upstream (id, name, base_url, credential, created_at, output_limit_field, on_client_gone,
                allowed_parameters, authentication)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &params![id, name, address.to_string(), sealed, cx.now, field, gone, allowed, authentication],
        )
        .await?;
    set_models(cx, id, &models).await?;
    cx.changed(Entity::Upstream, id).await?;
    tell(cx, id, &json!({"created": {"name": name, "models": models}}));
    find(cx, id).await?.shown_to(cx).await
}

/// OpenAI has no event for upstreams: it is told as a change of the organization whose operator made it. Addresses are
/// the operator's business, and the audit log is read by owners as well.
fn tell(cx: &mut Cx, id: UpstreamId, what: &Value) {
    let organization = cx.organization();
    let payload = json!({"id": organization, "changes_requested": {"upstream_id": id, "upstream": what}});
    cx.record(Event::OrganizationUpdated, id, None, payload);
}

/// Reads the upstream's own list of models where the request names none.
fn read_models(admin: &Admin, arguments: Arguments) -> Preparing<'_> {
    Box::pin(async move {
        let Arguments::Body(mut body) = arguments else { return Ok(arguments) };
        if body.get("models").is_some_and(|models| !models.is_null()) {
            return Ok(Arguments::Body(body));
        }
        let Some(base_url) = body.get("base_url").and_then(Value::as_str) else {
            return Ok(Arguments::Body(body));
        };
        let address = read_address(base_url)?;
        let credential = body.get("api_key").and_then(Value::as_str).map(Secret::new);
        credential.as_ref().map(read_credential).transpose()?;
        let named = read_word(
            "authentication",
            Authentication::WORDS,
            body.get("authentication").and_then(Value::as_str),
        )?;
        let authentication =
            named.and_then(Authentication::parse).unwrap_or_else(|| Authentication::usual(&address));
        let credential = credential.as_ref().map(|secret| (authentication, secret));
        let listed =
            tollgate_wire::list_models(&admin.dialer, &address, credential).await.map_err(|why| {
                let message =
                    format!("The upstream's list of models could not be read: {why}. Name them in 'models'.");
                Error::invalid("models", message).code("upstream_unreachable")
            })?;
        // What the server calls itself tells what it does when nobody listens any more.
        let gone = OnClientGone::of_models_owned_by(&listed.owner);
        body.entry("on_client_gone").or_insert_with(|| json!(gone.as_str()));
        body.insert("models".to_owned(), json!(listed.models));
        Ok(Arguments::Body(body))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneUpstream {
    upstream_id: PathId<kind::Upstream>,
}

async fn retrieve(cx: &mut Cx, input: OneUpstream) -> Result<Upstream> {
    find(cx, input.upstream_id.id()?).await?.shown_to(cx).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateUpstream {
    upstream_id: PathId<kind::Upstream>,
    name: Option<String>,
    base_url: Option<String>,
    #[serde(default)]
    api_key: Patch<Secret>,
    models: Option<Vec<String>>,
    /// Null goes back to the usual.
    #[serde(default)]
    authentication: Patch<String>,
    #[serde(default)]
    output_limit_field: Patch<String>,
    #[serde(default)]
    on_client_gone: Patch<String>,
    #[serde(default)]
    allowed_parameters: Patch<Vec<String>>,
}

/// Fields left out stay. A credential is for one origin: with a new one it has to be given again.
async fn update(cx: &mut Cx, input: UpdateUpstream) -> Result<Upstream> {
    let before = find(cx, input.upstream_id.id()?).await?;
    let id = before.id;
    let name = input.name.as_deref().map(|name| arguments::text("name", name, 64)).transpose()?;
    let old = read_address(before.base_url.as_deref().unwrap_or(""))?;
    let address = input.base_url.as_deref().map(read_address).transpose()?.unwrap_or_else(|| old.clone());
    let models = input.models.as_deref().map(read_list).transpose()?;
    let binding = seal::upstream_binding(id, &address);
    match &input.api_key {
        Patch::Value(credential) => {
            let sealed = seal::seal(&cx.desk.keyring, &binding, read_credential(credential)?)?;
            cx.tx.execute("UPDATE upstream SET credential = $1 WHERE id = $2", &params![sealed, id]).await?;
        }
        Patch::Null => {
            cx.tx.execute("UPDATE upstream SET credential = NULL WHERE id = $1", &params![id]).await?;
        }
        Patch::Absent if before.has_api_key == Some(true) && address.origin() != old.origin() => {
            let message =
                "The credential was given for another origin. Give 'api_key' again, or null for none.";
            return Err(Error::invalid("api_key", message));
        }
        Patch::Absent => {}
    }
    cx.tx
        .execute(
            "UPDATE upstream SET name = COALESCE($1, name), base_url = $2 WHERE id = $3",
            &params![name, address.to_string(), id],
        )
        .await?;
    if let Some(models) = &models {
        set_models(cx, id, models).await?;
    }
    if !input.authentication.is_absent() {
        let word =
            read_word("authentication", Authentication::WORDS, input.authentication.value().as_deref())?;
        cx.tx.execute("UPDATE upstream SET authentication = $1 WHERE id = $2", &params![word, id]).await?;
    }
    if !input.output_limit_field.is_absent() {
        let word = read_word(
            "output_limit_field",
            OutputLimitField::WORDS,
            input.output_limit_field.value().as_deref(),
        )?;
        cx.tx
            .execute("UPDATE upstream SET output_limit_field = $1 WHERE id = $2", &params![word, id])
            .await?;
    }
    if !input.on_client_gone.is_absent() {
        let word = read_word("on_client_gone", OnClientGone::WORDS, input.on_client_gone.value().as_deref())?;
        cx.tx.execute("UPDATE upstream SET on_client_gone = $1 WHERE id = $2", &params![word, id]).await?;
    }
    if !input.allowed_parameters.is_absent() {
        let allowed = read_parameters(input.allowed_parameters.value().as_deref().unwrap_or_default())?;
        cx.tx
            .execute("UPDATE upstream SET allowed_parameters = $1 WHERE id = $2", &params![allowed, id])
            .await?;
    }
    cx.changed(Entity::Upstream, id).await?;
    let is_moved = address.to_string() != old.to_string();
    let what = json!({"updated": {"name": name, "models": models, "is_address_changed": is_moved,
        "is_credential_changed": !input.api_key.is_absent()}});
    tell(cx, id, &what);
    find(cx, id).await?.shown_to(cx).await
}

async fn delete(cx: &mut Cx, input: OneUpstream) -> Result<Deleted<UpstreamId>> {
    let upstream = find(cx, input.upstream_id.id()?).await?;
    cx.tx.execute("DELETE FROM upstream_model WHERE upstream_id = $1", &params![upstream.id]).await?;
    cx.tx.execute("DELETE FROM upstream WHERE id = $1", &params![upstream.id]).await?;
    cx.changed(Entity::Upstream, upstream.id).await?;
    tell(cx, upstream.id, &json!({"deleted": {"name": upstream.name}}));
    Ok(Deleted::new("tollgate.upstream.deleted", upstream.id))
}

async fn set_models(cx: &mut Cx, id: UpstreamId, models: &[String]) -> Result<()> {
    cx.tx.execute("DELETE FROM upstream_model WHERE upstream_id = $1", &params![id]).await?;
    for model in models {
        cx.tx
            .execute("INSERT INTO upstream_model (upstream_id, model) VALUES ($1, $2)", &params![id, model])
            .await?;
    }
    Ok(())
}

fn read_address(url: &str) -> Result<Address> {
    Address::parse(url).map_err(|why| Error::invalid("base_url", format!("Invalid 'base_url': {why}.")))
}

/// A credential goes into a header, so it is of the characters that can be there.
fn read_credential(credential: &Secret) -> Result<&Secret> {
    let text = credential.reveal();
    let is_token = !text.is_empty() && text.len() <= 4096 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token {
        Ok(credential)
    } else {
        Err(Error::invalid("api_key", "Invalid 'api_key': it cannot be a credential."))
    }
}

/// One of the words that a setting can be.
fn read_word(
    name: &'static str,
    words: &'static [&'static str],
    given: Option<&str>,
) -> Result<Option<&'static str>> {
    let Some(given) = given else { return Ok(None) };
    let known = words.iter().find(|word| **word == given);
    known.map(|word| Some(*word)).ok_or_else(|| {
        let expected: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let message = format!("Invalid '{name}': expected {}, but got '{given}'.", expected.join(" or "));
        Error::invalid(name, message)
    })
}

/// Names as they are stored: with spaces between them, nothing for none.
fn read_parameters(names: &[String]) -> Result<Option<String>> {
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
    Ok((!names.is_empty()).then(|| names.join(" ")))
}

fn read_list(models: &[String]) -> Result<Vec<String>> {
    if models.len() > MODELS_MAX {
        return Err(Error::invalid("models", format!("Invalid 'models': at most {MODELS_MAX}.")));
    }
    let mut read = Vec::with_capacity(models.len());
    for model in models {
        let model = arguments::name("models", model)?;
        if !read.contains(&model) {
            read.push(model);
        }
    }
    Ok(read)
}

async fn find(cx: &mut Cx, id: UpstreamId) -> Result<Upstream> {
    let found = cx.tx.optional("SELECT * FROM upstream WHERE id = $1", &params![id]).await?;
    found.ok_or_else(|| Error::not_found("upstream"))
}
