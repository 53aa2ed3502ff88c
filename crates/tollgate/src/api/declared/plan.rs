//! What would have to change, and in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::read::State;
use super::secret_file;
use super::text;
use super::thing::{Fields, Kind, Name, Things};
use super::written::time;
use crate::api::output::Format;
use crate::api::session::{Done, Session};
use crate::api::table;

const UNDELIVERED: &str = "another secret, for the one before did not get to where it belongs";
const BEYOND: &str = "on the server, and not in the file";

/// One change.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Create(Name, Fields),
    /// A field, what it is, and what it is to be.
    Change(Name, Vec<(String, Value, Value)>),
    /// A key that was made and whose secret did not get to where it belongs: it gets another.
    Deliver(Name, Fields),
    Remove(Name),
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// What is there and not in the file, and stays.
    beyond: Vec<Name>,
    /// What cannot be done, and what has to be seen to elsewhere.
    notes: Vec<(Name, String)>,
    /// What is not in the file and cannot be taken away.
    stays: Vec<(Name, String)>,
    /// What would stop it: nothing is begun before the file is mended.
    pub(super) problems: Vec<(Name, String)>,
    /// The file, and where things stand in it.
    file: String,
    lines: BTreeMap<Name, u64>,
}

impl Plan {
    pub(super) fn new(
        wished: &Things,
        state: &State,
        pending: &BTreeSet<Name>,
        deletes: bool,
        is_openai: bool,
    ) -> Self {
        let mut plan = Self::default();
        let is_meant = |kind: Kind| !is_openai || kind.is_at_openai();
        for (name, thing) in wished.iter().filter(|(name, _)| is_meant(name.kind)) {
            let Some(known) = state.things.all.get(name) else {
                let problem = problem(name, &thing.said, wished, state);
                plan.problems.extend(problem.map(|problem| (name.clone(), problem)));
                plan.steps.push(Step::Create(name.clone(), thing.said.clone()));
                continue;
            };
            let mut changes = Vec::new();
            for (field, value) in &thing.said.fields {
                let before = known.said.fields.get(field).cloned().unwrap_or(Value::Null);
                if before == *value || (is_openai && !is_field_of_openai(field)) {
                    continue;
                }
                if name.kind == Kind::Key && field == "owner" {
                    let told = format!(
                        "its owner is {}; a key keeps its owner: revoke it, or rename it in the file",
                        shown(&before)
                    );
                    plan.notes.push((name.clone(), told));
                    continue;
                }
                changes.push((field.clone(), before, value.clone()));
            }
            if !changes.is_empty() {
                plan.steps.push(Step::Change(name.clone(), changes));
            }
            if known.said.at_first.contains_key("expired") {
                let told = "it has expired, for good: revoke it, or rename it in the file";
                plan.notes.push((name.clone(), told.to_owned()));
            }
            if pending.contains(name) {
                plan.steps.push(Step::Deliver(name.clone(), thing.said.clone()));
            }
        }
        let is_listed = |name: &Name| {
            wished.whole.iter().any(|whole| whole.kind == name.kind && name.path.starts_with(&whole.path))
        };
        let beyond = state
            .things
            .all
            .keys()
            .filter(|name| is_listed(name) && !wished.all.contains_key(name) && is_meant(name.kind));
        for name in beyond {
            // With a project goes all that is in it.
            if deletes && state.default_project.as_ref() == Some(name) {
                let told = "it is not in the file, and stays: it is the default project";
                plan.stays.push((name.clone(), told.to_owned()));
            } else if deletes && !name.kind.is_always_there() {
                plan.steps.push(Step::Remove(name.clone()));
            } else {
                plan.beyond.push(name.clone());
            }
        }
        plan.keep_an_owner(wished, state, deletes);
        // Made in the order of the kinds, for one needs another; removed the other way round.
        plan.steps.sort_by_key(|step| match step {
            Step::Create(name, _) | Step::Change(name, _) => (0, i32::from(name.kind as u8), name.clone()),
            Step::Deliver(name, _) => (1, i32::from(name.kind as u8), name.clone()),
            Step::Remove(name) => (2, -i32::from(name.kind as u8), name.clone()),
        });
        plan
    }

    /// The server refuses to take the last owner away, and would be asked when much else is gone already.
    fn keep_an_owner(&mut self, wished: &Things, state: &State, deletes: bool) {
        const TOLD: &str = "nobody would be left who is an owner by a role of their own";
        if !is_ownerless(wished, state, deletes) {
            return;
        }
        let is_owner = |name: &Name| {
            name.kind == Kind::User && state.things.all.get(name).is_some_and(|thing| is_owner(&thing.said))
        };
        let mut stays = Vec::new();
        self.steps.retain(|step| match step {
            Step::Remove(name) if is_owner(name) => {
                stays.push((name.clone(), format!("it stays: {TOLD}")));
                false
            }
            _ => true,
        });
        if !stays.is_empty() {
            self.stays.extend(stays);
            return;
        }
        // One whose role the file changes: an owner by a group may be there still, which the server knows.
        let changed = self.steps.iter().find_map(|step| match step {
            Step::Change(name, _) if is_owner(name) => Some(name.clone()),
            _ => None,
        });
        self.notes.extend(changed.map(|name| (name, TOLD.to_owned())));
    }

    /// Looks at where secrets are to go: into files that are not there, and into no file two.
    pub(super) fn check_secrets(&mut self, file: &Path) {
        let mut taken = BTreeSet::new();
        for step in &self.steps {
            let Step::Create(name, said) = step else { continue };
            let Some(path) = secret_file(file, said) else { continue };
            let told = if !taken.insert(path.clone()) {
                "another secret goes there too"
            } else if std::fs::metadata(&path).is_ok_and(|there| there.len() > 0) {
                "which exists already"
            } else {
                continue;
            };
            self.problems.push((name.clone(), format!("its secret goes to {}: {told}", path.display())));
        }
    }

    /// Says where things stand in the file.
    pub(super) fn place(&mut self, file: &str, lines: BTreeMap<Name, u64>) {
        (self.file, self.lines) = (file.to_owned(), lines);
    }

    /// Where something stands, before what is said of it.
    pub(super) fn place_of(&self, name: &Name) -> String {
        text::place(&self.file, self.lines.get(name).copied().unwrap_or(0))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether there is nothing to do, and nothing that could not be done.
    pub(super) fn is_settled(&self) -> bool {
        self.steps.is_empty() && self.notes.is_empty() && self.problems.is_empty()
    }

    /// Whether something ends: what is removed, and secrets that are replaced.
    pub(super) fn loses(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Remove(_) | Step::Deliver(..)))
    }

    /// Shows it as a diff: what is made, changed, removed; and what is beyond the file. To programs as a list of objects.
    pub(super) fn show(&self, session: &Session) -> Done {
        let rows = self.rows();
        let view = &session.view;
        // A plan has no ids.
        if !view.is_chosen() && matches!(view.format, Format::Table | Format::Id) {
            show_diff(&rows, session.is_coloured)?;
        } else {
            session.show(table::PLAN, &Value::Array(rows))?;
        }
        session.say(&self.summary());
        Ok(())
    }

    /// `{"action", "kind", "name": [...], "title", "line", "changes": [{"field", "before", "after"}], "message", "text"}` of each
    /// change, and of what is in its way. `line` is where it stands in the file, or null; `text` is all of it as people read it.
    fn rows(&self) -> Vec<Value> {
        let steps = self.steps.iter().map(|step| self.step(step));
        let beyond = self
            .beyond
            .iter()
            .map(|name| self.row("unlisted", name, &[], Some(BEYOND), &format!("{name}: {BEYOND}")));
        let others = [("stays", &self.stays), ("blocked", &self.notes), ("error", &self.problems)];
        let others = others.into_iter().flat_map(|(action, all)| {
            all.iter().map(move |(name, told)| {
                let text = format!("{}{name}: {told}", self.place_of(name));
                self.row(action, name, &[], Some(told.as_str()), &text)
            })
        });
        steps.chain(beyond).chain(others).collect()
    }

    fn step(&self, step: &Step) -> Value {
        let change = |field: &str, before: &Value, after: &Value| json!({"field": field, "before": before, "after": after});
        match step {
            Step::Create(name, said) => {
                let ends = said.at_first.get_key_value("expires_in_seconds");
                let place = said.at_first.get("secret").map(place_told);
                let said = said.fields.iter().filter(|(_, value)| !is_nothing(value)).chain(ends);
                let said: Vec<_> = said.collect();
                let fields = said.iter().map(|(field, value)| told(field, value));
                let fields: Vec<String> = fields.chain(place).collect();
                let text = if fields.is_empty() {
                    name.to_string()
                } else {
                    format!("{name} ({})", fields.join(", "))
                };
                let changes = said.into_iter().map(|(field, value)| change(field, &Value::Null, value));
                self.row("create", name, &changes.collect::<Vec<_>>(), None, &text)
            }
            Step::Change(name, changes) => {
                let fields: Vec<String> = changes
                    .iter()
                    .map(|(field, before, after)| {
                        format!("{} -> {}", told(field, before), amount(field, after))
                    })
                    .collect();
                let text = format!("{name}: {}", fields.join(", "));
                let changes = changes.iter().map(|(field, before, after)| change(field, before, after));
                self.row("change", name, &changes.collect::<Vec<_>>(), None, &text)
            }
            Step::Deliver(name, _) => {
                let text = format!("{name}: {UNDELIVERED}");
                self.row("replace_secret", name, &[], Some(UNDELIVERED), &text)
            }
            Step::Remove(name) => self.row("remove", name, &[], None, &name.to_string()),
        }
    }

    fn row(&self, action: &str, name: &Name, changes: &[Value], message: Option<&str>, text: &str) -> Value {
        json!({"action": action, "kind": name.kind.name(), "name": name.path, "title": name.to_string(),
            "line": self.lines.get(name), "changes": changes, "message": message, "text": text})
    }

    fn summary(&self) -> String {
        let count = |wanted: fn(&Step) -> bool| self.steps.iter().filter(|step| wanted(step)).count();
        format!(
            "{} to make, {} to change, {} to remove{}.",
            count(|step| matches!(step, Step::Create(..))),
            count(|step| matches!(step, Step::Change(..) | Step::Deliver(..))),
            count(|step| matches!(step, Step::Remove(_))),
            if self.beyond.is_empty() {
                String::new()
            } else {
                format!("; {} beyond the file, which --delete removes", self.beyond.len())
            },
        )
    }
}

fn show_diff(rows: &[Value], is_coloured: bool) -> Done {
    let mut out = std::io::stdout().lock();
    for row in rows {
        let (sign, colour) = match row["action"].as_str() {
            Some("create") => ('+', "32"),
            Some("change" | "replace_secret") => ('~', "33"),
            Some("remove") => ('-', "31"),
            Some("unlisted") => ('?', "2"),
            _ => ('!', "2"),
        };
        let text = row["text"].as_str().unwrap_or("");
        if is_coloured {
            writeln!(out, "\x1b[{colour}m{sign} {text}\x1b[0m")?;
        } else {
            writeln!(out, "{sign} {text}")?;
        }
    }
    Ok(())
}

/// Why something could not be made: what it names is neither there nor in the file, or what it needs is not said.
fn problem(name: &Name, said: &Fields, wished: &Things, state: &State) -> Option<String> {
    let is_known = |other: &Name| state.ids.contains_key(other) || wished.all.contains_key(other);
    let missing = |other: Name| {
        (!is_known(&other)).then(|| format!("there is no {other}, neither on the server nor in the file"))
    };
    let named = |kind: Kind| missing(Name::new(kind, [name.last()]));
    match name.kind {
        Kind::UserRole | Kind::GroupRole => named(Kind::Role),
        Kind::GroupUser | Kind::ProjectUser => named(Kind::User),
        Kind::ProjectGroup => named(Kind::Group),
        Kind::Key => {
            let owner = said.fields.get("owner").and_then(Value::as_str).unwrap_or("");
            let owner = match owner.strip_prefix("service account ") {
                Some(account) => Name::new(Kind::ServiceAccount, [name.path[0].as_str(), account.trim()]),
                None => Name::new(Kind::User, [owner.to_lowercase()]),
            };
            let has_place = said.at_first.contains_key("secret");
            let policy = Name::new(Kind::KeyPolicy, [""; 0]);
            let of_policy = |field: &str| {
                let wished = wished.all.get(&policy).and_then(|policy| policy.said.fields.get(field));
                wished.or_else(|| state.things.all.get(&policy)?.said.fields.get(field))?.as_i64()
            };
            let max = of_policy("max_expires_in_seconds");
            let ends = said.at_first.get("expires_in_seconds").and_then(Value::as_i64);
            let ends = ends.or_else(|| of_policy("default_expires_in_seconds"));
            let unended = || {
                let max = max.filter(|max| ends.is_none_or(|ends| ends > *max))?;
                Some(format!("it is to end within {} by the key policy: `expires: ...`", time(&json!(max))))
            };
            let unplaced = || {
                "it is to be made, and the file does not say where its secret goes: `secret: {file: PATH}` or `secret: {command: [...]}`".to_owned()
            };
            missing(owner).or_else(|| (!has_place).then(unplaced)).or_else(unended)
        }
        Kind::SpendAlert | Kind::ProjectAlert | Kind::EventAlert => {
            let channel = &said.at_first["notification_channel"];
            let is_cut = channel["url"].as_str().is_some_and(|url| url.ends_with("/..."));
            if is_cut {
                return Some("of its address only the server is known; write the whole of it".to_owned());
            }
            let is_unplaced = channel["type"] == "webhook" && !said.at_first.contains_key("secret");
            is_unplaced.then(|| "the file does not say where the secret goes that it is signed with: `secret: {file: PATH}`".to_owned())
        }
        _ => None,
    }
}

fn is_owner(said: &Fields) -> bool {
    said.fields.get("role").and_then(Value::as_str) == Some("owner")
}

/// Whether nobody would be left who is an owner by a role of their own, where somebody is.
fn is_ownerless(wished: &Things, state: &State, deletes: bool) -> bool {
    let users = |things: &Things| {
        let users = things.iter().filter(|(name, _)| name.kind == Kind::User);
        users.map(|(name, thing)| (name.clone(), is_owner(&thing.said))).collect::<Vec<_>>()
    };
    let removes = deletes && wished.whole.iter().any(|whole| whole.kind == Kind::User);
    let (wanted, known) = (users(wished), users(&state.things));
    let stays = |(name, is_owner): &(Name, bool)| {
        let said = wanted.iter().find(|(other, _)| other == name);
        said.map_or(*is_owner && !removes, |(_, is_owner)| *is_owner)
    };
    known.iter().any(|(_, is_owner)| *is_owner)
        && !known.iter().any(stays)
        && !wanted.iter().any(|(_, is_owner)| *is_owner)
}

/// What OpenAI has of a thing that it has.
fn is_field_of_openai(field: &str) -> bool {
    !["labels", "request_labels", "time_zone", "mode"].contains(&field)
}

fn is_nothing(value: &Value) -> bool {
    value.is_null()
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
}

/// A field with its value, as the file has it.
fn told(field: &str, value: &Value) -> String {
    let called = if field == "threshold_amount" { "limit" } else { field };
    let called = called.strip_suffix("_in_seconds").unwrap_or(called);
    format!("{called} {}", amount(field, value))
}

/// Cents as dollars, seconds as days, and what is neither as it is.
fn amount(field: &str, value: &Value) -> String {
    match value.as_i64() {
        Some(cents) if field == "threshold_amount" => format!("{}.{:02}usd", cents / 100, cents % 100),
        _ if field.ends_with("_in_seconds") => time(value),
        _ => shown(value),
    }
}

/// Where a secret goes.
fn place_told(secret: &Value) -> String {
    match &secret["file"] {
        Value::String(file) => format!("secret to {file}"),
        _ => format!("secret to {}", shown(&secret["command"])),
    }
}

/// A value as people read it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) if all.iter().all(Value::is_string) => {
            format!("[{}]", all.iter().map(shown).collect::<Vec<_>>().join(", "))
        }
        Value::Object(all) if all.values().all(Value::is_string) => {
            let pairs: Vec<String> =
                all.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}
