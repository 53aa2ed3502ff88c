//! An organization as a file: written by `export`, compared by `plan`, brought about by `apply`.
//!
//! Things are known by what people call them, and not by ids, so that one file serves several installations. What the file
//! says nothing of is left alone; where it has a list, the list is meant to be all there is, and what is beyond it is shown,
//! and removed only with `--delete`. Secrets are never in it: those of new keys go where the file says.

mod apply;
mod file;
mod plan;
mod read;
mod shape;
mod text;
mod thing;
mod written;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::api::output::Format;
use crate::api::session::{Done, Failure, Session};

use apply::Apply;
use plan::Plan;

#[derive(Args, Debug)]
pub struct ExportOptions {
    /// Only these projects, by their names
    #[arg(long = "project", value_name = "NAME")]
    projects: Vec<String>,
}

#[derive(Args, Debug)]
pub struct PlanOptions {
    /// The file; - for stdin
    file: PathBuf,
    /// Remove what is not in the file, where the file has a list of such things
    #[arg(long)]
    delete: bool,
    /// Exit with 1 if anything would have to change
    #[arg(long)]
    check: bool,
}

#[derive(Args, Debug)]
pub struct ApplyOptions {
    /// The file; - for stdin
    file: PathBuf,
    /// Remove what is not in the file, where the file has a list of such things
    #[arg(long)]
    delete: bool,
}

impl Session {
    pub async fn export(&self, options: &ExportOptions) -> Done {
        // It has no rows, and so neither columns nor ids.
        if self.view.format == Format::Csv || self.view.format == Format::Id {
            return Err("An organization is written as YAML, or with -o json as JSON.".to_owned().into());
        }
        let state = read::read(self, None, Some(&options.projects)).await?;
        let organization = written::organization(&state);
        if self.view.is_chosen() || matches!(self.view.format, Format::Json | Format::Jsonl) {
            let value = serde_json::to_value(&organization).map_err(|error| error.to_string())?;
            return self.show(&[], &value);
        }
        let text = file::written(&organization)?;
        std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
        Ok(())
    }

    /// Whether nothing would change, or nobody asked.
    pub async fn plan(&self, options: &PlanOptions) -> Result<bool, Failure> {
        let (_, plan) = self.planned(&options.file, options.delete).await?;
        plan.show(self)?;
        Ok(plan.problems.is_empty() && (!options.check || plan.is_settled()))
    }

    pub async fn apply(&self, options: &ApplyOptions) -> Done {
        let (state, plan) = self.planned(&options.file, options.delete).await?;
        match plan.show(self) {
            // What is to be done does not depend on who watches.
            Ok(()) | Err(Failure::NobodyReads) => {}
            Err(failure) => return Err(failure),
        }
        if plan.is_empty() || self.client.is_dry() {
            return Ok(());
        }
        if !plan.problems.is_empty() {
            return Err("What is marked with ! has to be mended in the file first. Nothing was done."
                .to_owned()
                .into());
        }
        if plan.loses() {
            self.confirm("apply", "What is marked with - is removed, and secrets that are replaced end.")?;
        }
        Apply::new(self, state, &options.file).run(plan).await
    }

    async fn planned(&self, file: &Path, deletes: bool) -> Result<(read::State, Plan), Failure> {
        // What is wrong with the file is said before anything is sent.
        let organization = file::read(file)?;
        let called = file::called(file);
        let wished = organization.things().map_err(|wrong| wrong.of(&called))?;
        let pending = apply::pending(file, &self.client.address().origin())?;
        if self.client.is_openai() {
            for (what, _) in wished.iter().filter(|(_, thing)| !thing.kind.is_at_openai()) {
                self.say(&format!("not at OpenAI: {what}"));
            }
        }
        let state = read::read(self, Some(&wished), None).await?;
        let mut plan = Plan::new(&wished, &state, &pending, deletes, self.client.is_openai());
        plan.check_secrets(file);
        plan.place(&called, wished.lines);
        Ok((state, plan))
    }
}

/// The file for a secret, beside that of the organization unless its path is whole.
fn secret_file(organization: &Path, said: &thing::Fields) -> Option<PathBuf> {
    let file = said.at_first.get("secret")?["file"].as_str()?;
    Some(organization.parent().map_or_else(|| PathBuf::from(file), |beside| beside.join(file)))
}
