//! Versions of a model's prices: each holds from a time on, and one whose time has begun is never changed, only followed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate_core::price::PriceVersion;
use tollgate_core::price_book::{self, Figures, FiguresPatch, OwnPrice, Versions};
use tollgate_core::{Error, Permission, Result, Timestamp};
use tollgate_store::{Entity, Row, params};

use crate::arguments;
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::{Operator, OperatorOr};
use crate::operation::Operations;
use crate::resource::Deleted;
use crate::resource::models::{self, OneModel};

/// So many prices are taken at once.
const IMPORTED_MAX: usize = 10_000;
/// Nobody knows what it costs later than this.
const AHEAD_MAX: i64 = 10 * 366 * 86_400;

pub(crate) fn operations() -> Operations {
    const ALL: &str = "/tollgate/v1/prices";
    const OF_MODEL: &str = "/tollgate/v1/models/{model}/prices";
    const ONE: &str = "/tollgate/v1/models/{model}/prices/{price}";
    const READ: crate::operation::Access = OperatorOr(Permission::UpstreamsRead);
    Operations::new()
        .get(ALL, "list-prices", READ, list)
        .post(ALL, "import-prices", Operator, Event::OrganizationUpdated, import)
        .get(OF_MODEL, "list-model-prices", READ, list_of_model)
        .post(OF_MODEL, "create-model-price", Operator, Event::OrganizationUpdated, create)
        .delete(ONE, "delete-model-price", Operator, Event::OrganizationUpdated, delete)
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct ModelPrice {
    object: &'static str,
    /// Such as `price_12`; of embedded prices the day of the data.
    id: String,
    model: String,
    /// Null for what is embedded: that holds wherever no other does.
    effective_from: Option<Timestamp>,
    /// Null: until further notice.
    effective_until: Option<Timestamp>,
    in_force: bool,
    /// What is null here is as the embedded data has it.
    prices: Figures,
    created_at: Option<Timestamp>,
    /// Of the user or service account who set it.
    created_by: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Prices {
    object: &'static str,
    data: Vec<ModelPrice>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// All versions that operators set, by model and time.
async fn list(cx: &mut Cx, _: Nothing) -> Result<Prices> {
    let rows: Vec<Row> =
        cx.tx.all("SELECT * FROM model_price ORDER BY model, effective_from, version", &[]).await?;
    Ok(Prices { object: "list", data: all_shown(cx, &rows)? })
}

/// But for those that were withdrawn.
fn all_shown(cx: &Cx, rows: &[Row]) -> Result<Vec<ModelPrice>> {
    let shown = rows.iter().map(|row| shown(cx, row));
    shown.filter_map(Result::transpose).collect()
}

/// `None` for one that was withdrawn.
fn shown(cx: &Cx, row: &Row) -> Result<Option<ModelPrice>> {
    let price = tollgate_replica::read_price(row)?;
    let created_by: Option<String> = row.get("created_by")?;
    let shown = ModelPrice {
        object: "tollgate.model.price",
        id: PriceVersion::new(Some(price.version), None).to_string(),
        model: row.get("model")?,
        effective_from: Some(price.from),
        effective_until: price.until,
        in_force: price.is_in_force(cx.now),
        prices: price.figures,
        created_at: row.get("created_at")?,
        // Who operates the installation is nobody else's business.
        created_by: created_by.filter(|_| cx.actor.acts_as_operator()),
    };
    Ok((!price.is_withdrawn()).then_some(shown))
}

/// The versions of one model in the order of time, before them what is embedded.
async fn list_of_model(cx: &mut Cx, input: OneModel) -> Result<Prices> {
    let now = cx.now;
    let rows: Vec<Row> = cx
        .tx
        .all(
            "SELECT * FROM model_price WHERE model = $1 ORDER BY effective_from, version",
            &params![input.model],
        )
        .await?;
    let own = all_shown(cx, &rows)?;
    let (version, prices) = price_book::in_force(&input.model, &[], now);
    let is_known = prices != Figures::default();
    if !is_known && own.is_empty() {
        return Err(Error::not_found("model"));
    }
    let embedded = ModelPrice {
        object: "tollgate.model.price",
        id: version.to_string(),
        model: input.model,
        effective_from: None,
        effective_until: None,
        in_force: own.iter().all(|price| !price.in_force),
        prices,
        created_at: None,
        created_by: None,
    };
    Ok(Prices { object: "list", data: is_known.then_some(embedded).into_iter().chain(own).collect() })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateModelPrice {
    model: String,
    /// In Unix seconds, not in the past; from now on if it is left out.
    effective_from: Option<i64>,
    /// Until the next version, or until further notice, if it is left out.
    effective_until: Option<i64>,
    prices: FiguresPatch,
}

async fn create(cx: &mut Cx, input: CreateModelPrice) -> Result<ModelPrice> {
    let model = arguments::name("model", &input.model)?;
    let wanted = Wanted::read(cx.now, input.effective_from, input.effective_until, &input.prices, "")?;
    let mut book = Book::open(cx).await?;
    let before = of(cx, &model).await?;
    let mut after = before.clone();
    let version = book.set(&mut after, &wanted, cx.now, "")?;
    book.write(cx, &model, &before, &after).await?;
    models::told(cx, &model).await?;
    let row: Row = cx.tx.one("SELECT * FROM model_price WHERE version = $1", &params![version]).await?;
    shown(cx, &row)?.ok_or_else(|| Error::internal("a new price is not there"))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OnePrice {
    model: String,
    price: String,
}

/// Withdraws a version whose time has not come, or ends one that is in force; what it had ended goes on in its place.
async fn delete(cx: &mut Cx, input: OnePrice) -> Result<Deleted<String>> {
    let mut book = Book::open(cx).await?;
    let before = of(cx, &input.model).await?;
    let mut after = before.clone();
    let version = input.price.strip_prefix("price_").and_then(|number| number.parse::<i64>().ok());
    let version = version
        .filter(|version| before.0.iter().any(|price| price.version == *version && !price.is_withdrawn()));
    let version = version.ok_or_else(|| Error::not_found("price"))?;
    if !after.end(version, cx.now, &mut book.next) {
        let message =
            format!("The price `{}` has ended, and is kept for what was charged at it.", input.price);
        return Err(Error::bad_request(message).code("price_ended"));
    }
    book.write(cx, &input.model, &before, &after).await?;
    models::told(cx, &input.model).await?;
    Ok(Deleted::new("tollgate.model.price.deleted", input.price))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportPrices {
    prices: Vec<CreateModelPrice>,
    /// Only says what would change.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct PriceImport {
    object: &'static str,
    dry_run: bool,
    created: usize,
    unchanged: usize,
    /// What changes, in the order in which it was given.
    data: Vec<PriceChange>,
}

/// From when on a model costs something else.
#[derive(Serialize, JsonSchema)]
struct PriceChange {
    model: String,
    effective_from: Timestamp,
    effective_until: Option<Timestamp>,
    /// Null in a dry run.
    price_id: Option<String>,
    /// By the name of the price: what it is without the change, and with it.
    #[schemars(with = "BTreeMap<String, BTreeMap<String, Option<String>>>")]
    changes: BTreeMap<&'static str, Value>,
}

/// Takes all of them or none.
async fn import(cx: &mut Cx, input: ImportPrices) -> Result<PriceImport> {
    if input.prices.len() > IMPORTED_MAX {
        let message = format!("Invalid 'prices': at most {IMPORTED_MAX} at once.");
        return Err(Error::invalid("prices", message));
    }
    let mut book = Book::open(cx).await?;
    let mut models: BTreeMap<String, (Versions, Versions)> = BTreeMap::new();
    let mut seen: BTreeMap<(String, Timestamp), usize> = BTreeMap::new();
    let mut data = Vec::new();
    let mut unchanged = 0;
    for (at, entry) in input.prices.iter().enumerate() {
        let param = format!("prices[{at}].");
        let model = arguments::name("model", &entry.model)
            .map_err(|error| Error { param: Some(format!("{param}model")), ..error })?;
        if !models.contains_key(&model) {
            let stored = of(cx, &model).await?;
            models.insert(model.clone(), (stored.clone(), stored));
        }
        let Some((_, after)) = models.get_mut(&model) else { continue };
        let from = Timestamp(entry.effective_from.unwrap_or(cx.now.0));
        if let Some(other) = seen.insert((model.clone(), from), at) {
            let param = format!("{param}effective_from");
            let message =
                format!("Invalid '{param}': 'prices[{other}]' is of the same model and the same time.");
            return Err(Error::invalid(param, message).code("prices_overlap"));
        }
        match book.plan(after, &model, entry, cx.now, &param)? {
            Some((version, change)) => {
                let price_id = (!input.dry_run).then(|| PriceVersion::new(Some(version), None).to_string());
                data.push(PriceChange { price_id, ..change });
            }
            None => unchanged += 1,
        }
    }
    if input.dry_run {
        cx.unchanged();
    } else {
        for (model, (before, after)) in models.iter().filter(|(_, (before, after))| before != after) {
            book.write(cx, model, before, after).await?;
        }
        tell_import(cx, &data).await?;
    }
    Ok(PriceImport {
        object: "tollgate.price_import",
        dry_run: input.dry_run,
        created: data.len(),
        unchanged,
        data,
    })
}

/// All of them take effect as one, and are one event of the audit log.
async fn tell_import(cx: &mut Cx, data: &[PriceChange]) -> Result<()> {
    let Some(first) = data.first() else {
        cx.unchanged();
        return Ok(());
    };
    cx.changed_named(Entity::Model, &first.model).await?;
    let organization = cx.organization();
    let prices: Vec<Value> = data
        .iter()
        .map(|change| serde_json::json!({"model": change.model, "id": change.price_id, "effective_from": change.effective_from}))
        .collect();
    let payload = serde_json::json!({"id": organization, "changes_requested": {"prices": prices}});
    cx.record(Event::OrganizationUpdated, organization, None, payload);
    Ok(())
}

fn differences(old: &Figures, new: &Figures) -> BTreeMap<&'static str, Value> {
    let changed = old.values().into_iter().zip(new.values()).filter(|(old, new)| old.1 != new.1);
    changed.map(|((name, old), (_, new))| (name, serde_json::json!({"from": old, "to": new}))).collect()
}

/// Sets some prices of a model from now on, and leaves the others as they are.
pub(crate) async fn patch(cx: &mut Cx, model: &str, patch: &FiguresPatch) -> Result<()> {
    if patch.is_empty() {
        return Ok(());
    }
    let before = of(cx, model).await?;
    let current = before.in_force(cx.now).copied();
    let figures = patch.apply(current.map(|price| price.figures).unwrap_or_default(), "")?;
    if figures == current.map(|price| price.figures).unwrap_or_default() {
        return Ok(());
    }
    let mut book = Book::open(cx).await?;
    let mut after = before.clone();
    if figures == Figures::default() {
        after.end_current(cx.now);
    } else {
        // As long as what it takes the place of would have held.
        let until = current.and_then(|price| price.until.filter(|until| price.asked_until == Some(*until)));
        book.set(&mut after, &Wanted { from: cx.now, until, figures }, cx.now, "")?;
    }
    book.write(cx, model, &before, &after).await
}

/// Ends all that operators said of a model's prices; `false` if there was nothing.
pub(crate) async fn reset(cx: &mut Cx, model: &str) -> Result<bool> {
    let before = of(cx, model).await?;
    let mut after = before.clone();
    after.end_all(cx.now);
    if before == after {
        return Ok(false);
    }
    Book::open(cx).await?.write(cx, model, &before, &after).await?;
    Ok(true)
}

/// What operators said of a model's prices.
pub(crate) async fn of(cx: &mut Cx, model: &str) -> Result<Versions> {
    let rows: Vec<Row> = cx
        .tx
        .all("SELECT * FROM model_price WHERE model = $1 ORDER BY effective_from, version", &params![model])
        .await?;
    rows.iter().map(tollgate_replica::read_price).collect::<Result<_>>().map(Versions)
}

/// A version as it is asked for.
struct Wanted {
    from: Timestamp,
    until: Option<Timestamp>,
    figures: Figures,
}

impl Wanted {
    /// `at` is the name under which it stands, such as `prices[3].`.
    fn read(
        now: Timestamp,
        from: Option<i64>,
        until: Option<i64>,
        prices: &FiguresPatch,
        at: &str,
    ) -> Result<Self> {
        let from = Timestamp(from.unwrap_or(now.0));
        let wrong = |name: &str, what: String| {
            let param = format!("{at}{name}");
            Err(Error::invalid(param.clone(), format!("Invalid '{param}': {what}")))
        };
        if from < now {
            let what = format!(
                "it is {from}, which has passed. What was charged stays; corrections of requests change what they cost."
            );
            return wrong("effective_from", what);
        }
        if from.0 > now.0 + AHEAD_MAX {
            return wrong("effective_from", "it is more than ten years away.".to_owned());
        }
        if until.is_some_and(|until| until <= from.0) {
            return wrong("effective_until", "it has to be after 'effective_from'.".to_owned());
        }
        if until.is_some_and(|until| until > now.0 + AHEAD_MAX) {
            return wrong("effective_until", "it is more than ten years away.".to_owned());
        }
        let figures = prices.apply(Figures::default(), &format!("{at}prices."))?;
        if figures == Figures::default() {
            return wrong("prices", "there has to be one.".to_owned());
        }
        Ok(Self { from, until: until.map(Timestamp), figures })
    }
}

/// Numbers new versions, and writes what has become of those of a model.
struct Book {
    next: i64,
}

impl Book {
    async fn open(cx: &mut Cx) -> Result<Self> {
        let row: Row = cx.tx.one("SELECT COALESCE(MAX(version), 0) + 1 FROM model_price", &[]).await?;
        Ok(Self { next: row.at(0)? })
    }

    /// The number of the new version.
    fn set(&mut self, versions: &mut Versions, wanted: &Wanted, now: Timestamp, at: &str) -> Result<i64> {
        let Wanted { from, until, figures } = *wanted;
        let version = self.next;
        self.next += 1;
        let new = OwnPrice { version, from, until, asked_until: until, figures };
        versions.set(new, now, &mut self.next).map_err(|(version, from)| {
            let param = format!("{at}effective_from");
            let later = format!("price_{version} from {from}");
            let message = format!(
                "Invalid '{param}': it would hold at the same time as {later}. Delete that first, or say an \
                 'effective_until' before it."
            );
            Error::invalid(param, message).code("prices_overlap")
        })?;
        Ok(version)
    }

    /// What an entry of a list changes, if it changes anything; its number and what differs.
    fn plan(
        &mut self,
        versions: &mut Versions,
        model: &str,
        entry: &CreateModelPrice,
        now: Timestamp,
        at: &str,
    ) -> Result<Option<(i64, PriceChange)>> {
        let from = Timestamp(entry.effective_from.unwrap_or(now.0));
        let figures = entry.prices.apply(Figures::default(), &format!("{at}prices."))?;
        // What was imported once is there when it is imported again.
        let has_begun = |price: &OwnPrice| {
            let until = entry.effective_until.map(Timestamp);
            price.from == from && price.figures == figures && price.asked_until == until
        };
        if from < now && versions.0.iter().any(has_begun) {
            return Ok(None);
        }
        let wanted = Wanted::read(now, entry.effective_from, entry.effective_until, &entry.prices, at)?;
        let is_there = versions.in_force(wanted.from).is_some_and(|price| {
            let ends_alike = match wanted.until {
                // One that another follows is there still.
                None => price.asked_until.is_none(),
                until => until == price.until || until == price.asked_until,
            };
            price.figures == wanted.figures && ends_alike
        });
        if is_there {
            return Ok(None);
        }
        let (_, old) = price_book::in_force(model, &versions.0, wanted.from);
        // What is planned for the same time is what the list corrects.
        let planned =
            |price: &&OwnPrice| price.from == wanted.from && wanted.from > now && !price.is_withdrawn();
        if let Some(planned) = versions.0.iter().find(planned).map(|price| price.version) {
            versions.end(planned, now, &mut self.next);
        }
        let version = self.set(versions, &wanted, now, at)?;
        let (_, new) = price_book::in_force(model, &versions.0, wanted.from);
        let set = versions.0.iter().find(|price| price.version == version);
        let change = PriceChange {
            model: model.to_owned(),
            effective_from: wanted.from,
            effective_until: set.and_then(|price| price.until),
            price_id: None,
            changes: differences(&old, &new),
        };
        Ok(Some((version, change)))
    }

    async fn write(&self, cx: &mut Cx, model: &str, before: &Versions, after: &Versions) -> Result<()> {
        let by = cx.actor.owner;
        let find = |versions: &Versions, version: i64| {
            versions.0.iter().find(|price| price.version == version).copied()
        };
        for price in &before.0 {
            match find(after, price.version) {
                Some(now) if now != *price => {
                    cx.tx
                        .execute(
                            "UPDATE model_price SET effective_until = $1, asked_until = $2 WHERE version = $3",
                            &params![now.until, now.asked_until, price.version],
                        )
                        .await?;
                }
                _ => {}
            }
        }
        for price in after.0.iter().filter(|price| find(before, price.version).is_none()) {
            cx.tx
                .execute(
                    "INSERT INTO model_price (version, model, effective_from, effective_until, asked_until, figures,
                        created_at, created_by)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                    &params![
                        price.version,
                        model,
                        price.from,
                        price.until,
                        price.asked_until,
                        price.figures.to_stored(),
                        cx.now,
                        by,
                    ],
                )
                .await?;
        }
        Ok(())
    }
}
