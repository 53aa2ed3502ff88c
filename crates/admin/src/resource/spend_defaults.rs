//! Limits that new projects and new keys of an organization begin with, so that none is forgotten.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::budget::{Mode, Scope};
use tollgate_core::{Error, Interval, Money, Permission, Result, Zone};
use tollgate_ledger::spend_limit::Wanted;
use tollgate_store::{FromRow, Row, params};

use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::spend_limits::{self, read_amount, read_currency, read_interval, read_mode, read_zone};

pub(crate) fn operations() -> Operations {
    use Permission::{SpendLimitsRead, SpendLimitsWrite};
    const PATH: &str = "/tollgate/v1/organization/default_spend_limits";
    Operations::new().get(PATH, "retrieve-default-spend-limits", Needs(SpendLimitsRead), retrieve).post(
        PATH,
        "modify-default-spend-limits",
        Needs(SpendLimitsWrite),
        Event::OrganizationUpdated,
        update,
    )
}

/// What a default belongs to.
#[derive(Clone, Copy)]
enum Of {
    Project,
    Key,
}

impl Of {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Key => "api_key",
        }
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Defaults {
    object: &'static str,
    projects: Vec<Default>,
    api_keys: Vec<Default>,
}

#[derive(Serialize, JsonSchema)]
struct Default {
    threshold_amount: i64,
    currency: &'static str,
    interval: String,
    time_zone: String,
    mode: String,
}

struct Stored(Wanted);

impl FromRow for Stored {
    fn from_row(row: &Row) -> Result<Self> {
        let broken = || Error::internal("a default spend limit that this version does not know");
        let text = |column: &str| row.get::<String>(column);
        Ok(Self(Wanted {
            interval: Interval::parse(&text("period")?).ok_or_else(broken)?,
            zone: Zone::parse(&text("time_zone")?).ok_or_else(broken)?,
            amount: row.get::<Money>("amount")?,
            mode: Mode::parse(&text("mode")?).ok_or_else(broken)?,
        }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

async fn retrieve(cx: &mut Cx, _: Nothing) -> Result<Defaults> {
    show(cx).await
}

async fn show(cx: &mut Cx) -> Result<Defaults> {
    Ok(Defaults {
        object: "tollgate.default_spend_limits",
        projects: of(cx, Of::Project).await?.iter().map(shown).collect(),
        api_keys: of(cx, Of::Key).await?.iter().map(shown).collect(),
    })
}

fn shown(wanted: &Wanted) -> Default {
    Default {
        threshold_amount: wanted.amount.cents(),
        currency: "USD",
        interval: wanted.interval.as_str().to_owned(),
        time_zone: wanted.zone.name().to_owned(),
        mode: wanted.mode.as_str().to_owned(),
    }
}

async fn of(cx: &mut Cx, of: Of) -> Result<Vec<Wanted>> {
    let rows: Vec<Stored> = cx
        .tx
        .all(
            "SELECT * FROM default_spend_limit WHERE organization_id = $1 AND scope = $2 ORDER BY period",
            &params![cx.organization(), of.as_str()],
        )
        .await?;
    Ok(rows.into_iter().map(|stored| stored.0).collect())
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateDefaults {
    projects: Option<Vec<Given>>,
    api_keys: Option<Vec<Given>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Given {
    threshold_amount: i64,
    currency: Option<String>,
    interval: String,
    time_zone: Option<String>,
    mode: Option<String>,
}

/// Replaces each list that is given. For what is made from now on.
async fn update(cx: &mut Cx, input: UpdateDefaults) -> Result<Defaults> {
    for (what, param, given) in
        [(Of::Project, "projects", &input.projects), (Of::Key, "api_keys", &input.api_keys)]
    {
        let Some(given) = given else { continue };
        let wanted = read(param, given)?;
        cx.tx
            .execute(
                "DELETE FROM default_spend_limit WHERE organization_id = $1 AND scope = $2",
                &params![cx.organization(), what.as_str()],
            )
            .await?;
        for wanted in wanted {
            insert(cx, what, &wanted).await?;
        }
    }
    let (organization, defaults) = (cx.organization(), show(cx).await?);
    let payload = json!({"id": organization, "changes_requested": {"default_spend_limits": defaults}});
    cx.record(Event::OrganizationUpdated, organization, None, payload);
    Ok(defaults)
}

fn read(param: &str, given: &[Given]) -> Result<Vec<Wanted>> {
    let mut wanted: Vec<Wanted> = Vec::with_capacity(given.len());
    for (at, given) in given.iter().enumerate() {
        let named = |mut error: Error| {
            error.param = error.param.map(|name| format!("{param}[{at}].{name}"));
            error
        };
        given.currency.as_deref().map_or(Ok(()), read_currency).map_err(named)?;
        let one = Wanted {
            interval: read_interval(&given.interval).map_err(named)?,
            zone: given.time_zone.as_deref().map_or(Ok(Zone::UTC), read_zone).map_err(named)?,
            amount: read_amount(given.threshold_amount).map_err(named)?,
            mode: given.mode.as_deref().map_or(Ok(Mode::Enforce), read_mode).map_err(named)?,
        };
        if wanted.iter().any(|other| other.interval == one.interval) {
            let message = format!("There can be one default limit by the {}.", given.interval);
            return Err(named(Error::invalid("interval", message).code("already_exists")));
        }
        wanted.push(one);
    }
    Ok(wanted)
}

async fn insert(cx: &mut Cx, what: Of, wanted: &Wanted) -> Result<()> {
    cx.tx
        .execute(
            "INSERT INTO default_spend_limit (organization_id, scope, period, time_zone, amount, mode)
             VALUES ($1, $2, $3, $4, $5, $6)",
            &params![
                cx.organization(),
                what.as_str(),
                wanted.interval.as_str(),
                wanted.zone.name(),
                wanted.amount,
                wanted.mode.as_str()
            ],
        )
        .await?;
    Ok(())
}

/// Gives a new project or key its default limits. The event of its creation goes before theirs.
pub(crate) async fn apply(cx: &mut Cx, scope: Scope) -> Result<()> {
    let what = match scope {
        Scope::Project(_) => Of::Project,
        Scope::Key(_) => Of::Key,
        Scope::Organization(_) | Scope::User(..) => return Ok(()),
    };
    for wanted in of(cx, what).await? {
        spend_limits::set(cx, scope, &wanted).await?;
    }
    Ok(())
}
