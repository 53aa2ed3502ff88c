//! Labels of projects, service accounts and keys: read, checked and told in the same way.

use serde::Serialize;
use serde_json::{Value, json};
use tollgate_core::Result;
use tollgate_core::labels::{Labels, LabelsSaid};
use tollgate_core::patch::Patch;
use tollgate_store::Row;

/// Of a row with a column `labels`.
pub(crate) fn read(row: &Row) -> Result<Labels> {
    let stored: Option<String> = row.get("labels")?;
    stored.as_deref().map_or_else(|| Ok(Labels::default()), Labels::from_stored)
}

/// What is to be set; `None` if nothing is said of them. Null takes all away.
pub(crate) fn checked(said: &Patch<LabelsSaid>) -> Result<Option<Labels>> {
    match said {
        Patch::Absent => Ok(None),
        Patch::Null => Ok(Some(Labels::default())),
        Patch::Value(LabelsSaid(said)) => Labels::checked(said, "labels").map(Some),
    }
}

/// What stands in the column: nothing for none.
pub(crate) fn to_stored(labels: &Labels) -> Option<String> {
    (!labels.is_empty()).then(|| labels.to_stored())
}

/// Adds what was asked for to what an audit event says.
pub(crate) fn tell(event: &mut Value, name: &str, value: Option<&impl Serialize>) {
    if let Some(value) = value {
        event[name] = json!(value);
    }
}
