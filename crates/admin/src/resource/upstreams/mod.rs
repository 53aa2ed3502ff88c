//! Upstreams: provider connections, which operators make. Credentials go in and never come out.

mod settings;
mod trial;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate_core::id::kind;
use tollgate_core::page::{self, Page};
use tollgate_core::patch::Patch;
use tollgate_core::secret::Secret;
use tollgate_core::upstream::{
    Authentication, HttpVersion, OnClientGone, OutputLimitField, Protocol, Settings,
};
use tollgate_core::{Address, Error, Permission, Result, Timestamp, UpstreamId, input, seal};
use tollgate_store::{Entity, FromRow, Row, params};

use crate::arguments::{self, Arguments, Order, PathId};
use crate::audit::Event;
use crate::gate::{Admin, Cx};
use crate::operation::Access::{Operator, OperatorOr};
use crate::operation::{Operations, Preparing};
use crate::resource::Deleted;
use settings::{read_credential, read_headers};

pub(crate) fn operations() -> Operations {
    const ALL: &str = "/tollgate/v1/upstreams";
    const ONE: &str = "/tollgate/v1/upstreams/{upstream_id}";
    const TEST: &str = "/tollgate/v1/upstreams/{upstream_id}/test";
    Operations::new()
        .get(ALL, "list-upstreams", OperatorOr(Permission::UpstreamsRead), list)
        .post(ALL, "create-upstream", Operator, Event::OrganizationUpdated, create)
        .prepared_by(read_models)
        .get(ONE, "retrieve-upstream", OperatorOr(Permission::UpstreamsRead), retrieve)
        .post(ONE, "modify-upstream", Operator, Event::OrganizationUpdated, update)
        .delete(ONE, "delete-upstream", Operator, Event::OrganizationUpdated, delete)
        .get(TEST, "test-upstream", Operator, trial::show)
        .prepared_by(trial::make)
}

const MODELS_MAX: usize = 2_000;

/// To an operator all of it, to an owner of an organization its name and models only.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Upstream {
    object: &'static str,
    id: UpstreamId,
    name: String,
    models: Vec<String>,
    /// As this node has seen it.
    health: Health,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    connection: Option<Connection>,
    created_at: Timestamp,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Health {
    Up,
    /// It cannot be reached, or refuses or fails what it is asked, and rests.
    Down,
    /// Nobody has asked it yet.
    Unknown,
}

impl Health {
    fn of(cx: &Cx, id: UpstreamId) -> Self {
        match (cx.desk.upstreams_down)(id) {
            Some(true) => Self::Down,
            Some(false) => Self::Up,
            None => Self::Unknown,
        }
    }
}

/// What only operators see. Names and meanings are those of [`Settings`], with the usual where nothing is set.
#[derive(Debug, Serialize, JsonSchema)]
struct Connection {
    base_url: String,
    has_api_key: bool,
    header_names: Vec<String>,
    authentication: Authentication,
    output_limit_field: OutputLimitField,
    on_client_gone: OnClientGone,
    http_version: HttpVersion,
    allowed_parameters: Vec<String>,
    priority: u32,
    weight: u32,
    concurrency_max: Option<u32>,
    connect_timeout: Option<u32>,
    answer_timeout: Option<u32>,
    stall_timeout: Option<u32>,
    model_mapping: BTreeMap<String, String>,
    ca_certificates: Option<String>,
}

/// An upstream as it is stored, its secrets still sealed.
struct Stored {
    id: UpstreamId,
    name: String,
    address: Address,
    settings: Settings,
    has_api_key: bool,
    has_headers: bool,
    created_at: Timestamp,
}

impl FromRow for Stored {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            name: row.get("name")?,
            address: read_address(&row.get::<String>("base_url")?)?,
            settings: Settings::from_stored(&row.get::<String>("settings")?)?,
            has_api_key: row.get::<Option<Vec<u8>>>("credential")?.is_some(),
            has_headers: row.get::<Option<Vec<u8>>>("headers")?.is_some(),
            created_at: row.get("created_at")?,
        })
    }
}

impl Stored {
    async fn shown_to(self, cx: &mut Cx) -> Result<Upstream> {
        let rows: Vec<Row> = cx
            .tx
            .all("SELECT model FROM upstream_model WHERE upstream_id = $1 ORDER BY model", &params![self.id])
            .await?;
        let models = rows.iter().map(|row| row.at(0)).collect::<Result<_>>()?;
        let (id, name, created_at) = (self.id, self.name.clone(), self.created_at);
        let (health, is_operator) = (Health::of(cx, id), cx.actor.acts_as_operator());
        let connection = is_operator.then(|| self.into_connection());
        Ok(Upstream { object: "tollgate.upstream", id, name, models, health, connection, created_at })
    }

    fn into_connection(self) -> Connection {
        let Self { address, settings, .. } = self;
        Connection {
            base_url: address.to_string(),
            has_api_key: self.has_api_key,
            header_names: settings.header_names,
            authentication: settings.authentication.unwrap_or_else(|| Authentication::usual(&address)),
            output_limit_field: settings
                .output_limit_field
                .unwrap_or_else(|| OutputLimitField::usual(&address)),
            on_client_gone: settings.on_client_gone.unwrap_or(OnClientGone::Drain),
            http_version: settings.http_version.unwrap_or(HttpVersion::Http11),
            allowed_parameters: settings.allowed_parameters,
            priority: settings.priority,
            weight: settings.weight,
            concurrency_max: settings.concurrency_max,
            connect_timeout: settings.connect_timeout,
            answer_timeout: settings.answer_timeout,
            stall_timeout: settings.stall_timeout,
            model_mapping: settings.model_mapping,
            ca_certificates: settings.ca_certificates,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListUpstreams {
    after: Option<String>,
    limit: Option<i64>,
}

async fn list(cx: &mut Cx, input: ListUpstreams) -> Result<Page<Upstream>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<UpstreamId> = page::cursor("after", input.after.as_deref())?;
    let rows: Vec<Stored> = cx
        .tx
        .all(
            "SELECT * FROM upstream WHERE id > $1 ORDER BY id LIMIT $2",
            &params![Order::Asc.beyond(after), limit + 1],
        )
        .await?;
    let mut shown = Vec::with_capacity(rows.len());
    for row in rows {
        shown.push(row.shown_to(cx).await?);
    }
    Ok(Page::new(shown, limit, |upstream| upstream.id.to_string()))
}

/// What is given of an upstream, when it is made and when it is changed. Null goes back to the usual.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Given {
    /// From the path of a change.
    upstream_id: Option<PathId<kind::Upstream>>,
    name: Option<String>,
    base_url: Option<String>,
    #[serde(default)]
    api_key: Patch<Secret>,
    models: Option<Vec<String>>,
    #[serde(default)]
    headers: Patch<BTreeMap<String, Secret>>,
    #[serde(default)]
    authentication: Patch<String>,
    #[serde(default)]
    output_limit_field: Patch<String>,
    #[serde(default)]
    http_version: Patch<String>,
    #[serde(default)]
    on_client_gone: Patch<String>,
    #[serde(default)]
    allowed_parameters: Patch<Vec<String>>,
    #[serde(default)]
    priority: Patch<i64>,
    #[serde(default)]
    weight: Patch<i64>,
    #[serde(default)]
    concurrency_max: Patch<i64>,
    #[serde(default)]
    connect_timeout: Patch<i64>,
    #[serde(default)]
    answer_timeout: Patch<i64>,
    #[serde(default)]
    stall_timeout: Patch<i64>,
    #[serde(default)]
    model_mapping: Patch<BTreeMap<String, String>>,
    #[serde(default)]
    ca_certificates: Patch<String>,
}

impl Given {
    /// What has to be given of a new one.
    fn new_one(&self) -> Result<(String, Address)> {
        let missing = |name: &str| {
            Error::bad_request(format!("Missing required parameter: '{name}'."))
                .code("missing_required_parameter")
                .param(name)
        };
        if self.upstream_id.is_some() {
            let message = "Unknown parameter: 'upstream_id'.";
            return Err(Error::bad_request(message).code("unknown_parameter").param("upstream_id"));
        }
        let name = arguments::text("name", self.name.as_deref().ok_or_else(|| missing("name"))?, 64)?;
        let address = read_address(self.base_url.as_deref().ok_or_else(|| missing("base_url"))?)?;
        Ok((name, address))
    }

    fn headers(&self) -> Result<(Option<Secret>, Vec<String>)> {
        match &self.headers {
            Patch::Value(headers) => {
                let names = headers.keys().map(|name| name.to_ascii_lowercase()).collect();
                Ok((read_headers(headers)?, names))
            }
            Patch::Absent | Patch::Null => Ok((None, Vec::new())),
        }
    }
}

async fn create(cx: &mut Cx, input: Given) -> Result<Upstream> {
    let (name, address) = input.new_one()?;
    let models = read_list(input.models.as_deref().unwrap_or_default())?;
    let mut settings = Settings::default();
    settings::apply(&mut settings, &input)?;
    let (headers, header_names) = input.headers()?;
    settings.header_names = header_names;
    let id: UpstreamId = cx.id();
    cx.tx
        .execute(
            "INSERT INTO upstream (id, name, base_url, created_at, settings) VALUES ($1, $2, $3, $4, $5)",
            &params![id, name, address.to_string(), cx.now, settings.to_stored()?],
        )
        .await?;
    if let Patch::Value(credential) = &input.api_key {
        set_credential(cx, id, &address, Some(read_credential(credential)?)).await?;
    }
    set_headers(cx, id, &address, headers.as_ref()).await?;
    set_models(cx, id, &models).await?;
    add_models(cx, id, settings.model_mapping.keys()).await?;
    cx.changed(Entity::Upstream, id).await?;
    tell(cx, id, &json!({"created": {"name": name, "models": models}}));
    find(cx, id).await?.shown_to(cx).await
}

async fn set_credential(
    cx: &mut Cx,
    id: UpstreamId,
    address: &Address,
    credential: Option<&Secret>,
) -> Result<()> {
    let binding = seal::upstream_binding(id, address);
    let sealed = credential.map(|secret| seal::seal(&cx.desk.keyring, &binding, secret)).transpose()?;
    cx.tx.execute("UPDATE upstream SET credential = $1 WHERE id = $2", &params![sealed, id]).await?;
    Ok(())
}

async fn set_headers(cx: &mut Cx, id: UpstreamId, address: &Address, headers: Option<&Secret>) -> Result<()> {
    let binding = seal::upstream_headers_binding(id, address);
    let sealed = headers.map(|secret| seal::seal(&cx.desk.keyring, &binding, secret)).transpose()?;
    cx.tx.execute("UPDATE upstream SET headers = $1 WHERE id = $2", &params![sealed, id]).await?;
    Ok(())
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
        let given: Given = input::from_value(Value::Object(body.clone()))?;
        let (_, address) = given.new_one()?;
        let mut settings = Settings::default();
        settings::apply(&mut settings, &given)?;
        let (headers, _) = given.headers()?;
        let credential = given.api_key.value();
        credential.as_ref().map(read_credential).transpose()?;
        let fields = settings.header_fields(
            &address,
            Protocol::of_models(&address),
            credential.as_ref(),
            headers.as_ref(),
        )?;
        let dialer = admin.dialer.set_up(&settings).map_err(Error::internal)?;
        let listing = tollgate_wire::list_models(&dialer, &address, &fields).await;
        let listed = listing.listed.map_err(|why| {
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

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneUpstream {
    upstream_id: PathId<kind::Upstream>,
}

async fn retrieve(cx: &mut Cx, input: OneUpstream) -> Result<Upstream> {
    find(cx, input.upstream_id.id()?).await?.shown_to(cx).await
}

/// Fields left out stay. Secrets are for one origin: with a new one they have to be given again.
async fn update(cx: &mut Cx, input: Given) -> Result<Upstream> {
    let id = input.upstream_id.as_ref().ok_or_else(|| Error::not_found("upstream"))?.id()?;
    let before = find(cx, id).await?;
    let name = input.name.as_deref().map(|name| arguments::text("name", name, 64)).transpose()?;
    let old = before.address;
    let address = input.base_url.as_deref().map(read_address).transpose()?.unwrap_or_else(|| old.clone());
    let models = input.models.as_deref().map(read_list).transpose()?;
    let mut settings = before.settings;
    settings::apply(&mut settings, &input)?;
    let (headers, header_names) = input.headers()?;
    if !input.headers.is_absent() {
        settings.header_names = header_names;
    }
    if address.origin() != old.origin() {
        let again = |name: &'static str, what: &str| {
            let message = format!("{what} given for another origin. Give '{name}' again, or null for none.");
            Err(Error::invalid(name, message))
        };
        if input.api_key.is_absent() && before.has_api_key {
            return again("api_key", "The credential was");
        }
        if input.headers.is_absent() && before.has_headers {
            return again("headers", "The headers were");
        }
    }
    cx.tx
        .execute(
            "UPDATE upstream SET name = COALESCE($1, name), base_url = $2, settings = $3 WHERE id = $4",
            &params![name, address.to_string(), settings.to_stored()?, id],
        )
        .await?;
    match &input.api_key {
        Patch::Absent => {}
        Patch::Null => set_credential(cx, id, &address, None).await?,
        Patch::Value(credential) => {
            set_credential(cx, id, &address, Some(read_credential(credential)?)).await?;
        }
    }
    if !input.headers.is_absent() {
        set_headers(cx, id, &address, headers.as_ref()).await?;
    }
    if let Some(models) = &models {
        set_models(cx, id, models).await?;
    }
    if !input.model_mapping.is_absent() || models.is_some() {
        add_models(cx, id, settings.model_mapping.keys()).await?;
    }
    cx.changed(Entity::Upstream, id).await?;
    let is_moved = address.to_string() != old.to_string();
    let what = json!({"updated": {"name": name, "models": models, "is_address_changed": is_moved,
        "is_credential_changed": !input.api_key.is_absent() || !input.headers.is_absent()}});
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

/// What an upstream calls otherwise it serves, whether or not it is named among the others.
async fn add_models(cx: &mut Cx, id: UpstreamId, models: impl Iterator<Item = &String>) -> Result<()> {
    for model in models {
        cx.tx
            .execute(
                "INSERT INTO upstream_model (upstream_id, model) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                &params![id, model],
            )
            .await?;
    }
    Ok(())
}

fn read_address(url: &str) -> Result<Address> {
    Address::parse(url).map_err(|why| Error::invalid("base_url", format!("Invalid 'base_url': {why}.")))
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

async fn find(cx: &mut Cx, id: UpstreamId) -> Result<Stored> {
    let found = cx.tx.optional("SELECT * FROM upstream WHERE id = $1", &params![id]).await?;
    found.ok_or_else(|| Error::not_found("upstream"))
}
