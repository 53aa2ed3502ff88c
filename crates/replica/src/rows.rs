//! Reading the rows that a snapshot is made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};

use foldhash::{HashMap, HashMapExt};
use tollgate_core::key::{KeyKind, Locator};
use tollgate_core::labels::{Labels, RequestLabels};
use tollgate_core::price::Overrun;
use tollgate_core::price_book::{Figures, Limits, OwnPrice, Schedule, embedded};
use tollgate_core::secret::Keyring;
use tollgate_core::upstream::{OnClientGone, OutputLimitField, Protocol, Settings};
use tollgate_core::{
    Address, Error, GroupId, KeyId, OrganizationId, Permissions, Principal, ProjectId, Resource, Result,
    RoleId, RoleRef, Scopes, ServiceAccountId, Timestamp, UpstreamId, UserId, seal,
};
use tollgate_store::{FromRow, FromValue, Row, Sql, Tx, params};

use crate::snapshot::{
    Catalog, Fence, Group, Key, Model, Organization, Project, SpendPolicy, Upstream, User,
};

/// A secret's row: its locator, and the key if it still opens anything.
pub(crate) struct SecretRow {
    pub(crate) locator: Locator,
    pub(crate) key: Option<Key>,
    /// Of the key.
    pub(crate) labels: Option<Arc<Labels>>,
}

/// The columns of [`SECRETS`], by their places: a node reads millions of them when it starts, and looking for a name costs.
mod column {
    pub(super) const LOCATOR: usize = 0;
    pub(super) const VERIFIER: usize = 1;
    pub(super) const SCHEME: usize = 2;
    pub(super) const PEPPER_VERSION: usize = 3;
    pub(super) const SECRET_EXPIRES_AT: usize = 4;
    pub(super) const ID: usize = 5;
    pub(super) const NUMBER: usize = 6;
    pub(super) const KIND: usize = 7;
    pub(super) const ORGANIZATION: usize = 8;
    pub(super) const PROJECT: usize = 9;
    pub(super) const USER: usize = 10;
    pub(super) const SERVICE_ACCOUNT: usize = 11;
    pub(super) const SCOPES: usize = 12;
    pub(super) const EXPIRES_AT: usize = 13;
    pub(super) const LAST_USED_AT: usize = 14;
    pub(super) const IS_ACTIVE: usize = 15;
    pub(super) const REVOKED_AT: usize = 16;
    pub(super) const FROZEN_AT: usize = 17;
    pub(super) const OWNER_HAS_ROLE: usize = 18;
    pub(super) const LABELS: usize = 19;
    pub(super) const REPLACED_AT: usize = 20;
}

impl FromRow for SecretRow {
    fn from_row(row: &Row) -> Result<Self> {
        let locator: Locator = row.at(column::LOCATOR)?;
        let verifier = row.bytes_at(column::VERIFIER)?.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let pepper = u32::try_from(row.at::<i64>(column::PEPPER_VERSION)?).ok();
        let is_revoked = row.at::<Option<Timestamp>>(column::REVOKED_AT)?.is_some();
        // A verifier of a scheme that this version does not know proves nothing.
        let is_known = !is_revoked && row.text_at(column::SCHEME)? == "hmac-sha256";
        let key = match verifier.zip(pepper).filter(|_| is_known) {
            Some(proof) => Some(read_key(row, locator, proof)?),
            None => None,
        };
        let labels = read_labels(row.at::<Option<String>>(column::LABELS)?.as_deref())?;
        Ok(Self { locator, key, labels })
    }
}

fn read_key(row: &Row, locator: Locator, (verifier, pepper_version): ([u8; 32], u32)) -> Result<Key> {
    let kind = KeyKind::parse(row.text_at(column::KIND)?);
    let owner = match (row.at(column::USER)?, row.at(column::SERVICE_ACCOUNT)?) {
        (Some(user), None) => Principal::User(user),
        (None, Some(account)) => Principal::ServiceAccount(account),
        _ => return Err(Error::internal("an API key has no single owner")),
    };
    let expiries: [Option<Timestamp>; 2] = [row.at(column::EXPIRES_AT)?, row.at(column::SECRET_EXPIRES_AT)?];
    let last_used_at: Option<Timestamp> = row.at(column::LAST_USED_AT)?;
    Ok(Key {
        id: row.at(column::ID)?,
        number: row.at(column::NUMBER)?,
        locator,
        kind: kind.ok_or_else(|| Error::internal("an API key of an unknown kind"))?,
        organization: row.at(column::ORGANIZATION)?,
        project: row.at(column::PROJECT)?,
        owner,
        scopes: Scopes::from_stored(row.text_at(column::SCOPES)?),
        expires_at: expiries.into_iter().flatten().min(),
        is_active: row.at(column::IS_ACTIVE)?,
        is_frozen: row.at::<Option<Timestamp>>(column::FROZEN_AT)?.is_some(),
        owner_has_role: row.at(column::OWNER_HAS_ROLE)?,
        is_replaced: row.at::<Option<Timestamp>>(column::REPLACED_AT)?.is_some(),
        pepper_version,
        verifier,
        last_used_at: AtomicI64::new(last_used_at.map_or(0, |at| at.0)),
        is_use_unwritten: AtomicBool::new(false),
    })
}

const SECRETS: &str = "SELECT s.locator, s.verifier, s.scheme, s.pepper_version, s.expires_at AS secret_expires_at,
        k.id, k.number, k.kind, k.organization_id, k.project_id, k.user_id, k.service_account_id, k.scopes, k.expires_at,
        s.last_used_at, k.is_active, k.revoked_at, k.frozen_at, COALESCE(a.role, 'user') <> 'none' AS owner_has_role,
        k.labels, s.replaced_at
    FROM api_key_secret s JOIN api_key k ON k.id = s.api_key_id
        LEFT JOIN service_account a ON a.id = k.service_account_id ";

/// The highest number of a key.
pub(crate) async fn last_number(tx: &mut Tx) -> Result<i64> {
    let row: Row = tx.one("SELECT COALESCE(MAX(number), 0) FROM api_key", &[]).await?;
    row.at(0)
}

/// The keys above a number up to another, with each of their secrets that opens something.
pub(crate) async fn keys_between(
    tx: &mut Tx,
    above: i64,
    up_to: i64,
    mut each: impl FnMut(Key) + Send,
) -> Result<()> {
    let sql = Sql::from(SECRETS)
        .push("WHERE k.number > $1 AND k.number <= $2 AND s.verifier IS NOT NULL AND k.revoked_at IS NULL");
    tx.for_each(sql, &params![above, up_to], |secret: SecretRow| {
        secret.key.into_iter().for_each(&mut each);
        Ok(())
    })
    .await
}

/// All secrets a key ever had.
pub(crate) async fn secrets_of(tx: &mut Tx, key: &str) -> Result<Vec<SecretRow>> {
    tx.all(Sql::from(SECRETS).push("WHERE k.id = $1"), &params![key]).await
}

/// Labels as they are stored; none are nothing.
fn read_labels(stored: Option<&str>) -> Result<Option<Arc<Labels>>> {
    let labels = stored.map(Labels::from_stored).transpose()?;
    Ok(labels.filter(|labels| !labels.is_empty()).map(Arc::new))
}

/// The labels of all keys that have some.
pub(crate) async fn labels_of_keys(tx: &mut Tx) -> Result<Vec<(KeyId, Arc<Labels>)>> {
    let sql = "SELECT id, labels FROM api_key WHERE labels IS NOT NULL AND revoked_at IS NULL";
    let rows: Vec<Row> = tx.all(sql, &[]).await?;
    let mut labels = Vec::with_capacity(rows.len());
    for row in &rows {
        let id = row.at(0)?;
        labels.extend(read_labels(row.at::<Option<String>>(1)?.as_deref())?.map(|labels| (id, labels)));
    }
    Ok(labels)
}

/// What holds admin keys that are restricted or a service account's: of one key, or of all.
pub(crate) async fn fences(tx: &mut Tx, only: Option<&str>) -> Result<Vec<(KeyId, Arc<Fence>)>> {
    let sql = "SELECT k.id, k.restricted_to, a.project_id AS home
        FROM api_key k LEFT JOIN service_account a ON a.id = k.service_account_id
        WHERE k.project_id IS NULL AND k.revoked_at IS NULL
            AND (k.restricted_to IS NOT NULL OR k.service_account_id IS NOT NULL)";
    let rows: Vec<Row> = one_or_all(tx, sql, " AND k.id = $1", only).await?;
    let read = |row: &Row| {
        let projects: Option<String> = row.get("restricted_to")?;
        let projects = projects.as_deref().map(read_projects);
        Ok((row.get("id")?, Arc::new(Fence { projects, home: row.get("home")? })))
    };
    rows.iter().map(read).collect()
}

/// Reads the column `restricted_to`. What is no project opens none.
pub fn read_projects(text: &str) -> Arc<[ProjectId]> {
    text.split_whitespace().filter_map(ProjectId::parse).collect()
}

/// Whether something has happened, of which a column says when.
fn is_set(row: &Row, column: &str) -> Result<bool> {
    Ok(row.get::<Option<Timestamp>>(column)?.is_some())
}

impl FromRow for Project {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            organization: row.get("organization_id")?,
            name: row.get("name")?,
            is_archived: is_set(row, "archived_at")?,
            is_frozen: is_set(row, "frozen_at")?,
            spend_policy: read_spend_policy(row)?,
            allows_browsers: row.get::<Option<String>>("browser_requests")?.as_deref() == Some("allow"),
            labels: read_labels(row.get::<Option<String>>("labels")?.as_deref())?,
            request_labels: row
                .get::<Option<String>>("request_labels")?
                .map(|stored| RequestLabels::from_stored(&stored))
                .transpose()?
                .unwrap_or_default(),
            account_labels: HashMap::new(),
        })
    }
}

/// Reads the columns of a project that say what is done with a request that does not fit; NULL is the usual.
pub fn read_spend_policy(row: &Row) -> Result<SpendPolicy> {
    let usual = SpendPolicy::default();
    let clamps = row.get::<Option<String>>("when_exceeded")?.as_deref() == Some("clamp");
    let floor: Option<u64> = row.get("clamp_output_min")?;
    Ok(SpendPolicy {
        wait_millis: row.get::<Option<u64>>("budget_wait_ms")?.unwrap_or(usual.wait_millis),
        clamp_to: clamps.then(|| floor.unwrap_or(SpendPolicy::CLAMP_TO_USUAL)),
    })
}

/// One project, or all.
pub(crate) async fn projects(tx: &mut Tx, only: Option<&str>) -> Result<Vec<Project>> {
    let sql =
        "SELECT id, organization_id, name, archived_at, frozen_at, when_exceeded, clamp_output_min, budget_wait_ms,
        browser_requests, labels, request_labels FROM project";
    let mut projects: Vec<Project> = one_or_all(tx, sql, " WHERE id = $1", only).await?;
    let sql =
        "SELECT project_id, id, labels FROM service_account WHERE labels IS NOT NULL AND deleted_at IS NULL";
    let rows: Vec<Row> = one_or_all(tx, sql, " AND project_id = $1", only).await?;
    let mut accounts: HashMap<ProjectId, HashMap<ServiceAccountId, Arc<Labels>>> = HashMap::new();
    for row in &rows {
        let account = row.at(1)?;
        let labels = read_labels(row.at::<Option<String>>(2)?.as_deref())?.map(|labels| (account, labels));
        accounts.entry(row.at(0)?).or_default().extend(labels);
    }
    for project in &mut projects {
        project.account_labels = accounts.remove(&project.id).unwrap_or_default();
    }
    Ok(projects)
}

impl FromRow for Organization {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self { id: row.get("id")?, name: row.get("name")?, is_frozen: is_set(row, "frozen_at")? })
    }
}

pub(crate) async fn organizations(tx: &mut Tx) -> Result<HashMap<OrganizationId, Arc<Organization>>> {
    let all: Vec<Organization> = tx.all("SELECT id, name, frozen_at FROM organization", &[]).await?;
    Ok(all.into_iter().map(|organization| (organization.id, Arc::new(organization))).collect())
}

/// Who belongs to what: a pair of ids, and whether there is something more.
struct Membership<W, B>(W, B, bool);

impl<W: FromValue + Send, B: FromValue + Send> FromRow for Membership<W, B> {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self(row.at(0)?, row.at(1)?, row.at(2)?))
    }
}

/// One user, or all, each with all organizations, groups and roles.
pub(crate) async fn users(tx: &mut Tx, only: Option<&str>) -> Result<Vec<User>> {
    let sql = "SELECT id, email, is_operator FROM app_user";
    let all: Vec<Membership<UserId, String>> = one_or_all(tx, sql, " WHERE id = $1", only).await?;
    let mut users: HashMap<UserId, User> = HashMap::with_capacity(all.len());
    for Membership(id, email, is_operator) in all {
        let (organizations, frozen_in, roles, groups) = Default::default();
        users.insert(id, User { id, email, is_operator, organizations, frozen_in, roles, groups });
    }
    let sql = "SELECT user_id, organization_id, frozen_at IS NOT NULL FROM organization_user";
    let all: Vec<Membership<UserId, OrganizationId>> =
        one_or_all(tx, sql, " WHERE user_id = $1", only).await?;
    for Membership(user, organization, is_frozen) in all {
        let Some(user) = users.get_mut(&user) else { continue };
        user.organizations.push(organization);
        if is_frozen {
            user.frozen_in.push(organization);
        }
    }
    let sql = "SELECT user_id, group_id, TRUE FROM group_user";
    let all: Vec<Membership<UserId, GroupId>> = one_or_all(tx, sql, " WHERE user_id = $1", only).await?;
    for Membership(user, group, _) in all {
        if let Some(user) = users.get_mut(&user) {
            user.groups.push(group);
        }
    }
    for assignment in assignments(tx, only).await? {
        if let Some(user) = assignment.user.and_then(|user| users.get_mut(&user)) {
            user.roles.extend(assignment.role);
        }
    }
    Ok(users.into_values().collect())
}

/// One group, or all.
pub(crate) async fn groups(tx: &mut Tx, only: Option<&str>) -> Result<Vec<Group>> {
    let rows: Vec<Row> = one_or_all(tx, "SELECT id FROM user_group", " WHERE id = $1", only).await?;
    let mut groups: HashMap<GroupId, Group> = HashMap::with_capacity(rows.len());
    for row in rows {
        let id = row.get("id")?;
        groups.insert(id, Group { id, roles: Vec::new() });
    }
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    for assignment in assignments(tx, only).await? {
        if let Some(group) = assignment.group.and_then(|group| groups.get_mut(&group)) {
            group.roles.extend(assignment.role);
        }
    }
    Ok(groups.into_values().collect())
}

/// A role that one of the two has been given.
struct Assignment {
    user: Option<UserId>,
    group: Option<GroupId>,
    /// A role that this version does not know allows nothing.
    role: Option<(Resource, RoleRef)>,
}

impl FromRow for Assignment {
    fn from_row(row: &Row) -> Result<Self> {
        let principal = row.text_at(0)?;
        Ok(Self {
            user: UserId::parse(principal),
            group: GroupId::parse(principal),
            role: Resource::parse(row.text_at(1)?).zip(RoleRef::from_stored(row.text_at(2)?)),
        })
    }
}

async fn assignments(tx: &mut Tx, only: Option<&str>) -> Result<Vec<Assignment>> {
    let sql = "SELECT principal_id, resource_id, role_id FROM role_assignment";
    one_or_all(tx, sql, " WHERE principal_id = $1", only).await
}

/// What one role allows that somebody has made, or all.
pub(crate) async fn roles(tx: &mut Tx, only: Option<&str>) -> Result<Vec<(RoleId, Permissions)>> {
    let rows: Vec<Row> = one_or_all(tx, "SELECT id, permissions FROM role", " WHERE id = $1", only).await?;
    let read = |row: &Row| Ok((row.get("id")?, Permissions::from_stored(&row.get::<String>("permissions")?)));
    rows.iter().map(read).collect()
}

async fn one_or_all<T: FromRow>(
    tx: &mut Tx,
    all: &'static str,
    one: &'static str,
    only: Option<&str>,
) -> Result<Vec<T>> {
    match only {
        Some(id) => tx.all(Sql::from(all).push(one), &params![id]).await,
        None => tx.all(all, &[]).await,
    }
}

/// Upstreams, models and what the operator says of them.
pub(crate) async fn catalog(tx: &mut Tx, keyring: &Keyring) -> Result<Catalog> {
    let mut catalog = Catalog::default();
    let rows: Vec<Row> = tx.all("SELECT * FROM upstream", &[]).await?;
    for row in &rows {
        let upstream = read_upstream(row, keyring)?;
        catalog.upstreams.insert(upstream.id, Arc::new(upstream));
    }
    let limits = model_limits(tx).await?;
    let prices = prices(tx).await?;
    let overruns = overruns(tx).await?;
    let offered: Vec<Row> = tx
        .all(
            "SELECT m.model, m.upstream_id, u.created_at FROM upstream_model m JOIN upstream u ON u.id = m.upstream_id
             ORDER BY u.created_at, u.id",
            &[],
        )
        .await?;
    let mut models: HashMap<String, Model> = HashMap::new();
    for row in &offered {
        let id: String = row.get("model")?;
        let upstream: UpstreamId = row.get("upstream_id")?;
        let created_at = row.get("created_at")?;
        let Some(upstream) = catalog.upstreams.get(&upstream) else { continue };
        let model = models.entry(id.clone()).or_insert_with(|| {
            let own = limits.get(&id).copied().unwrap_or_default();
            let facts = own.over(embedded(&id).limits);
            let [input_overrun, output_overrun] = overruns.get(&id).copied().unwrap_or_default();
            Model {
                id: Arc::from(id.as_str()),
                upstreams: Vec::new(),
                facts,
                prices: Schedule::new(&id, prices.get(&id).map_or(&[], Vec::as_slice)),
                input_overrun,
                output_overrun,
                created_at,
            }
        });
        model.upstreams.push(Arc::clone(upstream));
    }
    catalog.models = models.into_iter().map(|(id, model)| (id, Arc::new(model))).collect();
    Ok(catalog)
}

/// By how much answers of models have exceeded their bounds.
async fn overruns(tx: &mut Tx) -> Result<HashMap<String, [Overrun; 2]>> {
    let rows: Vec<Row> = tx.all("SELECT * FROM bound_violation", &[]).await?;
    let read = |row: &Row| {
        let overrun = |what: &str| {
            let column = |kind: &str| row.get(&format!("{what}_{kind}"));
            Ok::<_, Error>(Overrun { ppm: column("ppm")?, tokens: column("tokens")?, seen: column("seen")? })
        };
        Ok((row.get("model")?, [overrun("input")?, overrun("output")?]))
    };
    rows.iter().map(read).collect()
}

fn read_upstream(row: &Row, keyring: &Keyring) -> Result<Upstream> {
    let id: UpstreamId = row.get("id")?;
    let base_url: String = row.get("base_url")?;
    let address = Address::parse(&base_url).map_err(|why| {
        Error::internal(format!("the stored address of upstream {id} cannot be used: {why}"))
    })?;
    let settings = Settings::from_stored(&row.get::<String>("settings")?)?;
    let open = |column: &str, binding: String| {
        let sealed: Option<Vec<u8>> = row.get(column)?;
        sealed.map(|sealed| seal::open(keyring, &binding, &sealed)).transpose()
    };
    let credential = open("credential", seal::upstream_binding(id, &address))?;
    let headers = open("headers", seal::upstream_headers_binding(id, &address))?;
    let fields = |protocol| settings.header_fields(&address, protocol, credential.as_ref(), headers.as_ref());
    Ok(Upstream {
        id,
        name: row.get("name")?,
        header_fields: fields(Protocol::OpenAi)?,
        native_fields: fields(Protocol::Anthropic)?,
        output_limit_field: settings.output_limit_field.unwrap_or_else(|| OutputLimitField::usual(&address)),
        on_client_gone: settings.on_client_gone.unwrap_or(OnClientGone::Drain),
        address,
        settings,
    })
}

/// What operators say of how much models take and make.
async fn model_limits(tx: &mut Tx) -> Result<HashMap<String, Limits>> {
    let rows: Vec<Row> = tx.all("SELECT * FROM model_override", &[]).await?;
    rows.iter().map(|row| Ok((row.get("model")?, read_limits(row)?))).collect()
}

/// Reads the columns of `model_override`.
pub fn read_limits(row: &Row) -> Result<Limits> {
    Ok(Limits {
        context_tokens: row.get("context_tokens")?,
        max_output_tokens: row.get("max_output_tokens")?,
        image_tokens: row.get("image_tokens")?,
        request_cost_max: row.get("request_cost_max")?,
    })
}

/// What operators say of prices, by model.
async fn prices(tx: &mut Tx) -> Result<HashMap<String, Vec<OwnPrice>>> {
    let rows: Vec<Row> = tx.all("SELECT * FROM model_price ORDER BY effective_from", &[]).await?;
    let mut prices: HashMap<String, Vec<OwnPrice>> = HashMap::new();
    for row in &rows {
        prices.entry(row.get("model")?).or_default().push(read_price(row)?);
    }
    Ok(prices)
}

/// Reads the columns of `model_price`.
pub fn read_price(row: &Row) -> Result<OwnPrice> {
    Ok(OwnPrice {
        version: row.get("version")?,
        from: row.get("effective_from")?,
        until: row.get("effective_until")?,
        asked_until: row.get("asked_until")?,
        figures: Figures::from_stored(&row.get::<String>("figures")?)?,
    })
}

/// Writes when keys were last used. No event and no change: nothing that authorizes depends on it.
pub(crate) async fn write_last_use(tx: &mut Tx, uses: &[(Locator, String, Timestamp)]) -> Result<()> {
    const DAY: i64 = 86_400;
    let secrets = uses.iter().map(|(locator, _, at)| params![at, locator]);
    tx.execute_each("UPDATE api_key_secret SET last_used_at = $1 WHERE locator = $2", secrets).await?;
    // That of its other secret may be later.
    let sql =
        "UPDATE api_key SET last_used_at = $1 WHERE id = $2 AND (last_used_at IS NULL OR last_used_at < $1)";
    tx.execute_each(sql, uses.iter().map(|(_, key, at)| params![at, key])).await?;
    // Once a day.
    let sql = "UPDATE api_key SET rests_since = $1 WHERE id = $2 AND rests_since < $1";
    tx.execute_each(sql, uses.iter().map(|(_, key, at)| params![at.floor_to(DAY), key])).await?;
    Ok(())
}
