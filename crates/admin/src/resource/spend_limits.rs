//! Spend limits at every level: of an organization, a project, a user and an API key, by day, week and month in a time
//! zone, at most one for each interval. OpenAI's monthly limit is one of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::budget::{Budget, Limit, Mode, Scope};
use tollgate_core::id::kind;
use tollgate_core::page::Page;
use tollgate_core::{
    Error, Interval, KeyId, Money, Permission, ProjectId, Result, SpendLimitId, Timestamp, Zone,
};
use tollgate_ledger::replay;
use tollgate_ledger::spend_limit::{self, Wanted};
use tollgate_store::{Row, params};

use crate::arguments::PathId;
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::spend_limit::Enforcement;
use crate::resource::{Deleted, projects, users};

/// The four levels: what distinguishes them is a name in the path.
const ORGANIZATION: u8 = 0;
const PROJECT: u8 = 1;
const USER: u8 = 2;
const KEY: u8 = 3;

macro_rules! rows {
    ($operations:expr, $kind:ident, $name:literal, $base:literal, $event:expr) => {
        $operations
            .get(
                concat!("/tollgate/v1/", $base, "/spend_limits"),
                concat!("list-", $name, "-spend-limits"),
                Needs(Permission::SpendLimitsRead),
                list::<$kind>,
            )
            .after_settling()
            .post(
                concat!("/tollgate/v1/", $base, "/spend_limits"),
                concat!("create-", $name, "-spend-limit"),
                Needs(Permission::SpendLimitsWrite),
                $event,
                create::<$kind>,
            )
            .after_settling()
            .get(
                concat!("/tollgate/v1/", $base, "/spend_limits/try"),
                concat!("try-", $name, "-spend-limit"),
                Needs(Permission::UsageRead),
                rehearse::<$kind>,
            )
            .after_settling()
            .reading_long()
            .get(
                concat!("/tollgate/v1/", $base, "/spend_limits/{spend_limit_id}"),
                concat!("retrieve-one-", $name, "-spend-limit"),
                Needs(Permission::SpendLimitsRead),
                retrieve::<$kind>,
            )
            .after_settling()
            .post(
                concat!("/tollgate/v1/", $base, "/spend_limits/{spend_limit_id}"),
                concat!("modify-one-", $name, "-spend-limit"),
                Needs(Permission::SpendLimitsWrite),
                $event,
                update::<$kind>,
            )
            .after_settling()
            .delete(
                concat!("/tollgate/v1/", $base, "/spend_limits/{spend_limit_id}"),
                concat!("delete-one-", $name, "-spend-limit"),
                Needs(Permission::SpendLimitsWrite),
                $event,
                delete::<$kind>,
            )
    };
}

pub(crate) fn operations() -> Operations {
    let all =
        rows!(Operations::new(), ORGANIZATION, "organization", "organization", Event::OrganizationUpdated);
    let all = rows!(all, PROJECT, "project", "projects/{project_id}", Event::ProjectUpdated);
    let all = rows!(all, USER, "user", "users/{user_id}", Event::UserUpdated);
    rows!(all, KEY, "api-key", "api_keys/{api_key_id}", Event::ApiKeyUpdated)
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TollgateSpendLimit")]
pub(crate) struct SpendLimit {
    object: &'static str,
    id: SpendLimitId,
    scope: &'static str,
    scope_id: String,
    /// In cents.
    threshold_amount: i64,
    currency: &'static str,
    interval: &'static str,
    time_zone: String,
    mode: &'static str,
    enforcement: Enforcement,
    /// Decimal dollars, in the current period.
    spent: Money,
    held: Money,
    remaining: Money,
    period_start: Timestamp,
    period_end: Timestamp,
    /// Requests of the current period that it would have refused had it not only observed.
    would_have_refused: u64,
}

impl From<&Budget> for SpendLimit {
    fn from(budget: &Budget) -> Self {
        let limit = &budget.limit;
        let (scope, scope_id) = spend_limit::columns(limit.scope);
        Self {
            object: "tollgate.spend_limit",
            id: limit.id,
            scope,
            scope_id,
            threshold_amount: limit.amount.cents(),
            currency: "USD",
            interval: limit.interval.as_str(),
            time_zone: limit.zone.name().to_owned(),
            mode: limit.mode.as_str(),
            enforcement: Enforcement::of(budget),
            spent: budget.settled,
            held: budget.held,
            remaining: budget.remaining(),
            period_start: budget.period.start,
            period_end: budget.period.end,
            would_have_refused: budget.observed,
        }
    }
}

/// What a path names, whatever it is.
struct Named {
    project: Option<PathId<kind::Project>>,
    user: Option<PathId<kind::User>>,
    key: Option<PathId<kind::Key>>,
}

/// Declares an input that has what the path names besides fields of its own.
macro_rules! scoped {
    (struct $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        #[derive(Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            project_id: Option<PathId<kind::Project>>,
            user_id: Option<PathId<kind::User>>,
            api_key_id: Option<PathId<kind::Key>>,
            $($(#[$attribute])* $field: $type,)*
        }

        impl $name {
            fn named(&mut self) -> Named {
                Named {
                    project: self.project_id.take(),
                    user: self.user_id.take(),
                    key: self.api_key_id.take(),
                }
            }
        }
    };
}

impl Named {
    /// The scope of a level. What belongs to another level is no parameter here.
    async fn scope(self, cx: &mut Cx, level: u8) -> Result<Scope> {
        let strangers = [
            ("project_id", self.project.is_some() && level != PROJECT),
            ("user_id", self.user.is_some() && level != USER),
            ("api_key_id", self.key.is_some() && level != KEY),
        ];
        if let Some((name, _)) = strangers.iter().find(|(_, is_given)| *is_given) {
            let message = format!("Unknown parameter: '{name}'.");
            return Err(Error::bad_request(message).code("unknown_parameter").param(*name));
        }
        match (self.project, self.user, self.key) {
            (Some(project), _, _) => Ok(Scope::Project(projects::find(cx, project.id()?).await?.id)),
            (_, Some(user), _) => {
                let user = users::find(cx, user.id()?).await?.id;
                Ok(Scope::User(cx.organization(), user))
            }
            (_, _, Some(key)) => Ok(Scope::Key(project_key(cx, key.id()?).await?.0)),
            _ => Ok(Scope::Organization(cx.organization())),
        }
    }
}

/// A key of some project of the organization that can still be used, and its project. An admin key spends nothing.
async fn project_key(cx: &mut Cx, id: KeyId) -> Result<(KeyId, ProjectId)> {
    let row: Option<Row> = cx
        .tx
        .optional(
            "SELECT id, project_id FROM api_key
             WHERE id = $1 AND organization_id = $2 AND project_id IS NOT NULL AND revoked_at IS NULL",
            &params![id, cx.organization()],
        )
        .await?;
    let row = row.ok_or_else(|| Error::not_found("API key"))?;
    Ok((row.at(0)?, row.at(1)?))
}

scoped! { struct ListLimits {} }

/// The longest interval first.
async fn list<const LEVEL: u8>(cx: &mut Cx, mut input: ListLimits) -> Result<Page<SpendLimit>> {
    let scope = input.named().scope(cx, LEVEL).await?;
    let mut shown = Vec::new();
    for limit in spend_limit::of_scope(&mut cx.tx, scope).await? {
        shown.push(SpendLimit::from(&spend_limit::current(&mut cx.tx, limit, cx.now).await?));
    }
    Ok(Page::with_more(shown, false, |limit| limit.id.to_string()))
}

scoped! {
    struct CreateLimit {
        threshold_amount: i64,
        interval: String,
        currency: Option<String>,
        time_zone: Option<String>,
        mode: Option<String>,
    }
}

async fn create<const LEVEL: u8>(cx: &mut Cx, mut input: CreateLimit) -> Result<SpendLimit> {
    let wanted = Wanted {
        interval: read_interval(&input.interval)?,
        zone: input.time_zone.as_deref().map_or(Ok(Zone::UTC), read_zone)?,
        amount: read_amount(input.threshold_amount)?,
        mode: input.mode.as_deref().map_or(Ok(Mode::Enforce), read_mode)?,
    };
    input.currency.as_deref().map_or(Ok(()), read_currency)?;
    let scope = input.named().scope(cx, LEVEL).await?;
    must_be_live(cx, scope).await?;
    if spend_limit::find(&mut cx.tx, scope, wanted.interval).await?.is_some() {
        let message = format!("There is a limit by the {} already. Change that one.", input.interval);
        return Err(Error::invalid("interval", message).code("already_exists"));
    }
    Ok(SpendLimit::from(&set(cx, scope, &wanted).await?))
}

/// An archived project can be looked at, and not changed any more.
async fn must_be_live(cx: &mut Cx, scope: Scope) -> Result<()> {
    if let Scope::Project(project) = scope {
        projects::live(cx, project).await?;
    }
    Ok(())
}

/// Sets a limit and tells of it.
pub(crate) async fn set(cx: &mut Cx, scope: Scope, wanted: &Wanted) -> Result<Budget> {
    let organization = cx.organization();
    let budget = spend_limit::set(&mut cx.tx, organization, scope, wanted, &cx.desk.clock).await?;
    let told = json!({
        "threshold_amount": wanted.amount.cents(), "currency": "USD", "interval": wanted.interval.as_str(),
        "time_zone": wanted.zone.name(), "mode": wanted.mode.as_str(),
    });
    tell(cx, scope, &told).await?;
    Ok(budget)
}

pub(crate) async fn remove(cx: &mut Cx, limit: &Limit) -> Result<()> {
    let organization = cx.organization();
    spend_limit::remove(&mut cx.tx, organization, limit).await?;
    let told = if limit.interval == Interval::Month {
        json!(null)
    } else {
        json!({"interval": limit.interval.as_str(), "threshold_amount": null})
    };
    tell(cx, limit.scope, &told).await
}

/// OpenAI has no event for spend limits: they are told as a change of what they belong to.
async fn tell(cx: &mut Cx, scope: Scope, spend_limit: &serde_json::Value) -> Result<()> {
    let (_, id) = spend_limit::columns(scope);
    let (event, project) = match scope {
        Scope::Organization(_) => (Event::OrganizationUpdated, None),
        Scope::Project(project) => (Event::ProjectUpdated, Some(project)),
        Scope::User(..) => (Event::UserUpdated, None),
        Scope::Key(key) => (Event::ApiKeyUpdated, Some(project_key(cx, key).await?.1)),
    };
    let payload = json!({"id": id, "changes_requested": {"spend_limit": spend_limit}});
    cx.record(event, id, project, payload);
    Ok(())
}

scoped! { struct OneLimit { spend_limit_id: PathId<kind::SpendLimit>, } }

async fn retrieve<const LEVEL: u8>(cx: &mut Cx, mut input: OneLimit) -> Result<SpendLimit> {
    let scope = input.named().scope(cx, LEVEL).await?;
    let limit = find(cx, scope, input.spend_limit_id.id()?).await?;
    Ok(SpendLimit::from(&spend_limit::current(&mut cx.tx, limit, cx.now).await?))
}

async fn find(cx: &mut Cx, scope: Scope, id: SpendLimitId) -> Result<Limit> {
    let limits = spend_limit::of_scope(&mut cx.tx, scope).await?;
    limits.into_iter().find(|limit| limit.id == id).ok_or_else(|| Error::not_found("spend limit"))
}

scoped! {
    struct UpdateLimit {
        spend_limit_id: PathId<kind::SpendLimit>,
        threshold_amount: Option<i64>,
        currency: Option<String>,
        time_zone: Option<String>,
        mode: Option<String>,
    }
}

/// Fields left out stay. In force for the next request.
async fn update<const LEVEL: u8>(cx: &mut Cx, mut input: UpdateLimit) -> Result<SpendLimit> {
    input.currency.as_deref().map_or(Ok(()), read_currency)?;
    let (amount, zone, mode) = (
        input.threshold_amount.map(read_amount).transpose()?,
        input.time_zone.as_deref().map(read_zone).transpose()?,
        input.mode.as_deref().map(read_mode).transpose()?,
    );
    let scope = input.named().scope(cx, LEVEL).await?;
    must_be_live(cx, scope).await?;
    let before = find(cx, scope, input.spend_limit_id.id()?).await?;
    let wanted = Wanted {
        interval: before.interval,
        zone: zone.unwrap_or(before.zone),
        amount: amount.unwrap_or(before.amount),
        mode: mode.unwrap_or(before.mode),
    };
    Ok(SpendLimit::from(&set(cx, scope, &wanted).await?))
}

async fn delete<const LEVEL: u8>(cx: &mut Cx, mut input: OneLimit) -> Result<Deleted<SpendLimitId>> {
    let scope = input.named().scope(cx, LEVEL).await?;
    must_be_live(cx, scope).await?;
    let limit = find(cx, scope, input.spend_limit_id.id()?).await?;
    remove(cx, &limit).await?;
    Ok(Deleted::new("tollgate.spend_limit.deleted", limit.id))
}

scoped! {
    struct TryLimit {
        threshold_amount: i64,
        interval: String,
        currency: Option<String>,
        time_zone: Option<String>,
        /// Unix seconds.
        since: Option<i64>,
        limit: Option<i64>,
    }
}

/// What a limit would have done: replays the books, and changes nothing.
async fn rehearse<const LEVEL: u8>(cx: &mut Cx, mut input: TryLimit) -> Result<replay::Rehearsal> {
    const DAYS_USUAL: i64 = 30;
    const DAYS_MAX: i64 = 400;
    input.currency.as_deref().map_or(Ok(()), read_currency)?;
    let listed = tollgate_core::page::limit(input.limit, 20, 0, 1_000)?;
    let (interval, amount) = (read_interval(&input.interval)?, read_amount(input.threshold_amount)?);
    let zone = input.time_zone.as_deref().map_or(Ok(Zone::UTC), read_zone)?;
    let since = input.since.unwrap_or(cx.now.0 - DAYS_USUAL * 86_400);
    if !(cx.now.0 - DAYS_MAX * 86_400..=cx.now.0).contains(&since) {
        let message =
            format!("Invalid 'since': expected a time within the last {DAYS_MAX} days, in Unix seconds.");
        return Err(Error::invalid("since", message));
    }
    let scope = input.named().scope(cx, LEVEL).await?;
    let limit = Limit {
        id: SpendLimitId::from_bits(0),
        scope,
        interval,
        zone,
        amount,
        mode: Mode::Enforce,
        since: Timestamp(since),
    };
    let organization = cx.organization();
    replay::rehearse(&mut cx.tx, organization, limit, Timestamp(since), cx.now, listed).await
}

pub(crate) fn read_amount(cents: i64) -> Result<Money> {
    let amount = Money::from_cents(cents).filter(|amount| *amount > Money::ZERO);
    amount.ok_or_else(|| {
        let max = Money::MAX.cents();
        let message = format!("Invalid 'threshold_amount': expected cents from 1 to {max}, but got {cents}.");
        Error::invalid("threshold_amount", message)
    })
}

pub(crate) fn read_currency(currency: &str) -> Result<()> {
    if currency == "USD" {
        return Ok(());
    }
    Err(Error::invalid("currency", format!("Invalid 'currency': expected 'USD', but got '{currency}'.")))
}

pub(crate) fn read_interval(interval: &str) -> Result<Interval> {
    Interval::parse(interval).ok_or_else(|| {
        let message = format!("Invalid 'interval': expected 'day', 'week' or 'month', but got '{interval}'.");
        Error::invalid("interval", message)
    })
}

pub(crate) fn read_zone(name: &str) -> Result<Zone> {
    Zone::parse(name).ok_or_else(|| {
        let message = format!(
            "Invalid 'time_zone': expected an IANA time zone such as 'Europe/Berlin', but got '{name}'."
        );
        Error::invalid("time_zone", message)
    })
}

pub(crate) fn read_mode(mode: &str) -> Result<Mode> {
    Mode::parse(mode).ok_or_else(|| {
        Error::invalid("mode", format!("Invalid 'mode': expected 'enforce' or 'observe', but got '{mode}'."))
    })
}
