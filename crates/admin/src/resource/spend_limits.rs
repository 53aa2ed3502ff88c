//! The hard monthly spend limit of a project: OpenAI's object, with what was spent and held as extensions.

use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::id::kind;
use tollgate_core::{Error, Money, Permission, Result, Timestamp};
use tollgate_ledger::spend_limit::{self, OpenBudget, Scope};

use crate::arguments::PathId;
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::projects;

pub(crate) fn operations() -> Operations {
    use Permission::{SpendLimitsRead, SpendLimitsWrite};
    const ONE: &str = "/v1/organization/projects/{project_id}/spend_limit";
    Operations::new()
        .get(ONE, "retrieve-project-spend-limit", Needs(SpendLimitsRead), retrieve)
        .after_settling()
        .post(ONE, "modify-project-spend-limit", Needs(SpendLimitsWrite), Event::ProjectUpdated, update)
        .after_settling()
        .delete(ONE, "delete-project-spend-limit", Needs(SpendLimitsWrite), Event::ProjectUpdated, delete)
}

#[derive(Serialize)]
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
}

#[derive(Serialize)]
struct Enforcement {
    status: &'static str,
}

impl From<OpenBudget> for SpendLimit {
    fn from(budget: OpenBudget) -> Self {
        Self {
            object: "project.spend_limit",
            threshold_amount: budget.limit.amount.cents(),
            currency: "USD",
            interval: "month",
            enforcement: Enforcement { status: if budget.is_enforcing() { "enforcing" } else { "inactive" } },
            spent: budget.settled,
            held: budget.held,
            remaining: budget.remaining(),
            period_start: budget.period.start,
            period_end: budget.period.end,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneLimit {
    project_id: PathId<kind::Project>,
}

async fn retrieve(cx: &mut Cx, input: OneLimit) -> Result<SpendLimit> {
    let project = projects::find(cx, input.project_id.id()?).await?.id;
    let current = spend_limit::current(&mut cx.tx, Scope::Project(project), cx.now).await?;
    current.map(SpendLimit::from).ok_or_else(|| Error::not_found("spend limit"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetLimit {
    project_id: PathId<kind::Project>,
    threshold_amount: i64,
    currency: String,
    interval: String,
}

async fn update(cx: &mut Cx, input: SetLimit) -> Result<SpendLimit> {
    let amount = amount(&input)?;
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    let budget = spend_limit::set(&mut cx.tx, Scope::Project(project), amount, &cx.desk.clock).await?;
    let limit = json!({"threshold_amount": input.threshold_amount, "currency": "USD", "interval": "month"});
    // OpenAI has no event for spend limits: it is told as a change of the project.
    let payload = json!({"id": project, "changes_requested": {"spend_limit": limit}});
    cx.record(Event::ProjectUpdated, project, Some(project), payload);
    Ok(budget.into())
}

fn amount(input: &SetLimit) -> Result<Money> {
    if input.currency != "USD" {
        let message = format!("Invalid 'currency': expected 'USD', but got '{}'.", input.currency);
        return Err(Error::invalid("currency", message));
    }
    if input.interval != "month" {
        let message = format!("Invalid 'interval': expected 'month', but got '{}'.", input.interval);
        return Err(Error::invalid("interval", message));
    }
    let cents = input.threshold_amount;
    let amount = Money::from_cents(cents).filter(|amount| *amount > Money::ZERO);
    amount.ok_or_else(|| {
        let max = Money::MAX.cents();
        let message = format!("Invalid 'threshold_amount': expected cents from 1 to {max}, but got {cents}.");
        Error::invalid("threshold_amount", message)
    })
}

#[derive(Serialize)]
pub(crate) struct LimitDeleted {
    object: &'static str,
    deleted: bool,
}

async fn delete(cx: &mut Cx, input: OneLimit) -> Result<LimitDeleted> {
    let project = projects::live(cx, input.project_id.id()?).await?.id;
    if !spend_limit::remove(&mut cx.tx, Scope::Project(project)).await? {
        return Err(Error::not_found("spend limit"));
    }
    let payload = json!({"id": project, "changes_requested": {"spend_limit": null}});
    cx.record(Event::ProjectUpdated, project, Some(project), payload);
    Ok(LimitDeleted { object: "project.spend_limit.deleted", deleted: true })
}
