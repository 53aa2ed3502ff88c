//! OpenAI's hard monthly spend limits of an organization and of a project: its objects, with what was spent and held as
//! extensions. They are the limits of [`super::spend_limits`] whose interval is the month in UTC.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::budget::{Budget, Mode, Scope};
use tollgate_core::id::kind;
use tollgate_core::{Error, Interval, Money, Permission, Result, Timestamp, Zone};
use tollgate_ledger::spend_limit::{self, Wanted};

use crate::arguments::PathId;
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::projects;
use crate::resource::spend_limits::{self, read_amount, read_currency};

pub(crate) fn operations() -> Operations {
    use Permission::{SpendLimitsRead, SpendLimitsWrite};
    const ORGANIZATION: &str = "/v1/organization/spend_limit";
    const PROJECT: &str = "/v1/organization/projects/{project_id}/spend_limit";
    const WRITE: crate::operation::Access = Needs(SpendLimitsWrite);
    Operations::new()
        .get(ORGANIZATION, "retrieve-organization-spend-limit", Needs(SpendLimitsRead), retrieve_organization)
        .after_settling()
        .post(
            ORGANIZATION,
            "modify-organization-spend-limit",
            WRITE,
            Event::OrganizationUpdated,
            update_organization,
        )
        .after_settling()
        .delete(
            ORGANIZATION,
            "delete-organization-spend-limit",
            WRITE,
            Event::OrganizationUpdated,
            delete_organization,
        )
        .get(PROJECT, "retrieve-project-spend-limit", Needs(SpendLimitsRead), retrieve_project)
        .after_settling()
        .post(PROJECT, "modify-project-spend-limit", WRITE, Event::ProjectUpdated, update_project)
        .after_settling()
        .delete(PROJECT, "delete-project-spend-limit", WRITE, Event::ProjectUpdated, delete_project)
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct SpendLimit {
    object: &'static str,
    /// In cents.
    threshold_amount: i64,
    currency: &'static str,
    interval: &'static str,
    enforcement: Enforcement,
    // Extensions; amounts in decimal dollars.
    spent: Money,
    held: Money,
    remaining: Money,
    period_start: Timestamp,
    period_end: Timestamp,
    time_zone: String,
    mode: &'static str,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Enforcement {
    status: &'static str,
}

impl Enforcement {
    pub(crate) fn of(budget: &Budget) -> Self {
        Self { status: if budget.is_enforcing() { "enforcing" } else { "inactive" } }
    }
}

fn shown(budget: &Budget) -> SpendLimit {
    let limit = &budget.limit;
    let object = match limit.scope {
        Scope::Organization(_) => "organization.spend_limit",
        _ => "project.spend_limit",
    };
    SpendLimit {
        object,
        threshold_amount: limit.amount.cents(),
        currency: "USD",
        interval: limit.interval.as_str(),
        enforcement: Enforcement::of(budget),
        spent: budget.settled,
        held: budget.held,
        remaining: budget.remaining(),
        period_start: budget.period.start,
        period_end: budget.period.end,
        time_zone: limit.zone.name().to_owned(),
        mode: limit.mode.as_str(),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfOrganization {}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfProject {
    project_id: PathId<kind::Project>,
}

async fn retrieve_organization(cx: &mut Cx, _: OfOrganization) -> Result<SpendLimit> {
    retrieve(cx, Scope::Organization(cx.organization())).await
}

async fn retrieve_project(cx: &mut Cx, input: OfProject) -> Result<SpendLimit> {
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    retrieve(cx, Scope::Project(project)).await
}

async fn retrieve(cx: &mut Cx, scope: Scope) -> Result<SpendLimit> {
    let limit = spend_limit::find(&mut cx.tx, scope, Interval::Month).await?;
    let limit = limit.ok_or_else(|| Error::not_found("spend limit"))?;
    Ok(shown(&spend_limit::current(&mut cx.tx, limit, cx.now).await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetOfOrganization {
    threshold_amount: i64,
    currency: String,
    interval: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetOfProject {
    project_id: PathId<kind::Project>,
    threshold_amount: i64,
    currency: String,
    interval: String,
}

async fn update_organization(cx: &mut Cx, input: SetOfOrganization) -> Result<SpendLimit> {
    let wanted = wanted(input.threshold_amount, &input.currency, &input.interval)?;
    update(cx, Scope::Organization(cx.organization()), &wanted).await
}

async fn update_project(cx: &mut Cx, input: SetOfProject) -> Result<SpendLimit> {
    let wanted = wanted(input.threshold_amount, &input.currency, &input.interval)?;
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    update(cx, Scope::Project(project), &wanted).await
}

/// OpenAI's limit enforces, over the month in UTC: setting it replaces whatever monthly limit there was.
fn wanted(threshold_amount: i64, currency: &str, interval: &str) -> Result<Wanted> {
    read_currency(currency)?;
    if interval != "month" {
        let message = format!(
            "Invalid 'interval': expected 'month', but got '{interval}'. Other intervals are at /tollgate/v1."
        );
        return Err(Error::invalid("interval", message));
    }
    let amount = read_amount(threshold_amount)?;
    Ok(Wanted { interval: Interval::Month, zone: Zone::UTC, amount, mode: Mode::Enforce })
}

async fn update(cx: &mut Cx, scope: Scope, wanted: &Wanted) -> Result<SpendLimit> {
    let budget = spend_limits::set(cx, scope, wanted).await?;
    Ok(shown(&budget))
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct LimitDeleted {
    object: &'static str,
    deleted: bool,
}

async fn delete_organization(cx: &mut Cx, _: OfOrganization) -> Result<LimitDeleted> {
    delete(cx, Scope::Organization(cx.organization()), "organization.spend_limit.deleted").await
}

async fn delete_project(cx: &mut Cx, input: OfProject) -> Result<LimitDeleted> {
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    delete(cx, Scope::Project(project), "project.spend_limit.deleted").await
}

async fn delete(cx: &mut Cx, scope: Scope, object: &'static str) -> Result<LimitDeleted> {
    let limit = spend_limit::find(&mut cx.tx, scope, Interval::Month).await?;
    let limit = limit.ok_or_else(|| Error::not_found("spend limit"))?;
    spend_limits::remove(cx, &limit).await?;
    Ok(LimitDeleted { object, deleted: true })
}
