//! Models and their prices: what is embedded, and what an operator says instead. Prices are decimal texts in US dollars
//! per million tokens; "0" is a price, null is none.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::patch::Patch;
use tollgate_core::price_book::{self, Figures, FiguresPatch};
use tollgate_core::{Error, Money, Permission, Result, Timestamp, UnitPrice};
use tollgate_store::{Entity, FromRow, Row, params};

use crate::arguments;
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::{Operator, OperatorOr};
use crate::operation::Operations;
use crate::resource::{Deleted, model_prices};

pub(crate) fn operations() -> Operations {
    const ONE: &str = "/tollgate/v1/models/{model}";
    Operations::new()
        .get("/tollgate/v1/models", "list-tollgate-models", OperatorOr(Permission::UpstreamsRead), list)
        .get(ONE, "retrieve-tollgate-model", OperatorOr(Permission::UpstreamsRead), retrieve)
        .post(ONE, "modify-tollgate-model", Operator, Event::OrganizationUpdated, update)
        .delete(ONE, "delete-tollgate-model", Operator, Event::OrganizationUpdated, delete)
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Model {
    object: &'static str,
    id: String,
    /// Names of the upstreams that serve it.
    upstreams: Vec<String>,
    /// Which prices these are, such as `price_12` or `embedded-2026-11-26`; null if it has none.
    price_version: Option<String>,
    /// Those in force.
    #[serde(flatten)]
    prices: Figures,
    context_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    /// The most tokens that one image is counted as.
    image_tokens: Option<u64>,
    /// What no request costs more than, in decimal dollars, as an operator says.
    request_cost_max: Option<Money>,
    /// Whether an operator set any of these.
    overridden: bool,
    /// Answers that exceeded their bounds; null if none did. Of all organizations, and so for operators only.
    bound_violations: Option<Violations>,
}

/// What answers of a model exceeded their bounds by. The bounds of later requests are raised by as much.
#[derive(Debug, Serialize, JsonSchema)]
struct Violations {
    count: i64,
    /// Beyond the bounds, in decimal dollars. It was charged.
    excess: Money,
    /// Larger bounds of input and output are multiplied by these.
    input_factor: String,
    output_factor: String,
    /// To smaller ones so many are added.
    input_extra_tokens: i64,
    output_extra_tokens: i64,
    last_at: Timestamp,
}

impl FromRow for Violations {
    fn from_row(row: &Row) -> Result<Self> {
        // A million millionths is a factor of one, as dollars per million tokens are written.
        let factor = |column: &str| Ok::<_, Error>(UnitPrice(row.get(column)?).per_million());
        Ok(Self {
            count: row.get("violations")?,
            excess: row.get("excess")?,
            input_factor: factor("input_ppm")?,
            output_factor: factor("output_ppm")?,
            input_extra_tokens: row.get("input_tokens")?,
            output_extra_tokens: row.get("output_tokens")?,
            last_at: row.get("last_at")?,
        })
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Models {
    object: &'static str,
    data: Vec<Model>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// All models that are served or overridden, by name.
async fn list(cx: &mut Cx, _: Nothing) -> Result<Models> {
    let rows: Vec<Row> =
        cx.tx.all("SELECT model FROM upstream_model UNION SELECT model FROM model_override UNION SELECT model FROM model_price", &[]).await?;
    let names: BTreeSet<String> = rows.iter().map(|row| row.at(0)).collect::<Result<_>>()?;
    let mut data = Vec::with_capacity(names.len());
    for name in names {
        data.push(show(cx, &name).await?);
    }
    Ok(Models { object: "list", data })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneModel {
    pub(crate) model: String,
}

/// Also a model that nobody serves, if anything is known of it.
async fn retrieve(cx: &mut Cx, input: OneModel) -> Result<Model> {
    let model = show(cx, &input.model).await?;
    if model.upstreams.is_empty() && !model.overridden && !price_book::embedded(&input.model).is_known() {
        return Err(Error::not_found("model"));
    }
    Ok(model)
}

async fn show(cx: &mut Cx, name: &str) -> Result<Model> {
    let own_limits = find(cx, name).await?;
    let versions = model_prices::of(cx, name).await?;
    let upstreams: Vec<Row> = cx
        .tx
        .all(
            "SELECT u.name FROM upstream_model m JOIN upstream u ON u.id = m.upstream_id
             WHERE m.model = $1 ORDER BY u.created_at, u.id",
            &params![name],
        )
        .await?;
    let facts = own_limits.unwrap_or_default().over(price_book::embedded(name).limits);
    let (version, prices) = price_book::in_force(name, &versions.0, cx.now);
    let exceeded = if cx.actor.acts_as_operator() {
        cx.tx.optional("SELECT * FROM bound_violation WHERE model = $1", &params![name]).await?
    } else {
        None
    };
    Ok(Model {
        object: "tollgate.model",
        id: name.to_owned(),
        upstreams: upstreams.iter().map(|row| row.at(0)).collect::<Result<_>>()?,
        price_version: prices.input_price.map(|_| version.to_string()),
        prices,
        context_tokens: facts.context_tokens,
        max_output_tokens: facts.max_output_tokens,
        image_tokens: facts.image_tokens,
        request_cost_max: facts.request_cost_max,
        overridden: own_limits.is_some() || versions.in_force(cx.now).is_some(),
        bound_violations: exceeded,
    })
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct UpdateModel {
    model: String,
    /// Those that change; null is what the embedded data says. For requests admitted from now on.
    #[serde(flatten)]
    prices: FiguresPatch,
    #[serde(default)]
    context_tokens: Patch<i64>,
    #[serde(default)]
    max_output_tokens: Patch<i64>,
    #[serde(default)]
    image_tokens: Patch<i64>,
    #[serde(default)]
    request_cost_max: Patch<String>,
    /// Only null: forgets what was exceeded, so that bounds are what they were.
    #[serde(default)]
    bound_violations: Patch<serde_json::Value>,
}

/// Fields left out stay as they are; null goes back to the embedded figure. In force for requests admitted from now on.
async fn update(cx: &mut Cx, input: UpdateModel) -> Result<Model> {
    let model = arguments::name("model", &input.model)?;
    let before = find(cx, &model).await?.unwrap_or_default();
    let limits = price_book::Limits {
        context_tokens: tokens("context_tokens", &input.context_tokens, before.context_tokens)?,
        max_output_tokens: tokens("max_output_tokens", &input.max_output_tokens, before.max_output_tokens)?,
        image_tokens: tokens("image_tokens", &input.image_tokens, before.image_tokens)?,
        request_cost_max: ceiling(&input.request_cost_max, before.request_cost_max)?,
    };
    match input.bound_violations {
        Patch::Absent => {}
        Patch::Null => {
            cx.tx.execute("DELETE FROM bound_violation WHERE model = $1", &params![model]).await?;
        }
        Patch::Value(_) => {
            let message = "Invalid 'bound_violations': it can only be set to null, which forgets them.";
            return Err(Error::invalid("bound_violations", message));
        }
    }
    model_prices::patch(cx, &model, &input.prices).await?;
    cx.tx.execute("DELETE FROM model_override WHERE model = $1", &params![model]).await?;
    if limits != price_book::Limits::default() {
        cx.tx
            .execute(
                "INSERT INTO model_override (model, context_tokens, max_output_tokens, image_tokens, request_cost_max,
                    updated_at)
                 VALUES ($1, $2, $3, $4, $5, $6)",
                &params![
                    model,
                    limits.context_tokens,
                    limits.max_output_tokens,
                    limits.image_tokens,
                    limits.request_cost_max,
                    cx.now,
                ],
            )
            .await?;
    }
    told(cx, &model).await
}

/// Has the change take effect, and the audit log say what it made of the model.
pub(crate) async fn told(cx: &mut Cx, model: &str) -> Result<Model> {
    cx.changed_named(Entity::Model, model).await?;
    let shown = show(cx, model).await?;
    let organization = cx.organization();
    // OpenAI has no event for prices: it is told as a change of the organization whose operator made it.
    let payload = json!({"id": organization, "changes_requested": {"model": shown}});
    cx.record(Event::OrganizationUpdated, model, None, payload);
    Ok(shown)
}

fn tokens(param: &'static str, patch: &Patch<i64>, before: Option<u64>) -> Result<Option<u64>> {
    const MAX: i64 = 100_000_000;
    match patch {
        Patch::Absent => Ok(before),
        Patch::Null => Ok(None),
        Patch::Value(tokens @ 1..=MAX) => Ok(u64::try_from(*tokens).ok()),
        Patch::Value(tokens) => Err(Error::invalid(
            param,
            format!("Invalid '{param}': expected a value from 1 to {MAX}, but got {tokens}."),
        )),
    }
}

fn ceiling(patch: &Patch<String>, before: Option<Money>) -> Result<Option<Money>> {
    match patch {
        Patch::Absent => Ok(before),
        Patch::Null => Ok(None),
        Patch::Value(text) => {
            let amount = Money::parse(text).filter(|amount| *amount > Money::ZERO);
            let wrong = || {
                let message = format!(
                    "Invalid 'request_cost_max': expected US dollars as a decimal text such as \"0.50\", but got '{text}'."
                );
                Error::invalid("request_cost_max", message)
            };
            amount.map(Some).ok_or_else(wrong)
        }
    }
}

/// Goes back to the embedded figures, and forgets what was exceeded.
async fn delete(cx: &mut Cx, input: OneModel) -> Result<Deleted<String>> {
    let values = params![input.model];
    let figures = cx.tx.execute("DELETE FROM model_override WHERE model = $1", &values).await?;
    let prices = model_prices::reset(cx, &input.model).await?;
    let violations = cx.tx.execute("DELETE FROM bound_violation WHERE model = $1", &values).await?;
    if figures + violations == 0 && !prices {
        let message =
            format!("Nothing was set for the model `{}`: its figures are the embedded ones.", input.model);
        return Err(Error { message, ..Error::not_found("model") });
    }
    told(cx, &input.model).await?;
    Ok(Deleted::new("tollgate.model.deleted", input.model))
}

async fn find(cx: &mut Cx, model: &str) -> Result<Option<price_book::Limits>> {
    let row: Option<Row> =
        cx.tx.optional("SELECT * FROM model_override WHERE model = $1", &params![model]).await?;
    row.as_ref().map(tollgate_replica::read_limits).transpose()
}
