//! The three states of making a key: what it is to be, its secret this once, and its place in the list.

use maud::{Markup, html};
use serde_json::Value;

use crate::answer::Answer;
use crate::layout::copy;
use crate::show;
use crate::visit::Visit;

/// The page that shows a secret, which is never shown again. `back` is where the key stands from now on.
pub(crate) fn secret(visit: &Visit<'_>, title: &str, key: &Value, back: &str, is_admin: bool) -> Answer {
    let value = show::text(key, "value");
    let name = show::text(key, "name");
    let body = html! {
        p { "The secret of " strong { (name) } ". " strong { "You will not see it again." } " Put it where it belongs now." }
        @if let Some(at) = show::number(key, "expires_at") { p { "It ends on " (show::day(at)) "." } }
        div.secret {
            code id="secret" data-secret { (value) }
            div.buttons {
                button type="button" data-reveal="secret" hidden { "Hide" }
                button.primary type="button" data-copy=(value) hidden { "Copy" }
                button type="button" data-download=(dotenv(visit, value, is_admin)) data-name=".env" hidden { "Download as .env" }
            }
            p.said role="status" aria-live="polite" {}
        }
        (snippets(visit, "...", is_admin))
        form method="get" action=(back) {
            input type="hidden" name="made" value=(show::text(key, "id"));
            label.check { input type="checkbox" required; " I have stored it" }
            div.buttons { button.primary { "Done" } }
        }
    };
    Answer::page(title, body)
}

fn dotenv(visit: &Visit<'_>, value: &str, is_admin: bool) -> String {
    let name = if is_admin { "OPENAI_ADMIN_KEY" } else { "OPENAI_API_KEY" };
    format!("OPENAI_BASE_URL={}/v1\n{name}={value}\n", visit.admin.public_url())
}

/// How to use a key, with the address filled in; and the key too, where it is there.
pub(crate) fn snippets(visit: &Visit<'_>, value: &str, is_admin: bool) -> Markup {
    let base = visit.admin.public_url();
    let environment = dotenv(visit, value, is_admin);
    let (curl, python) = if is_admin {
        (
            format!(
                "curl {base}/v1/organization/projects \\\n  -H \"Authorization: Bearer $OPENAI_ADMIN_KEY\""
            ),
            "from openai import OpenAI\nprint(OpenAI().admin.organization.projects.list().data)".to_owned(),
        )
    } else {
        (
            format!(
                "curl {base}/v1/chat/completions \\\n  -H \"Authorization: Bearer $OPENAI_API_KEY\" \\\n  \
                 -H \"Content-Type: application/json\" \\\n  \
                 -d '{{\"model\":\"gpt-4o-mini\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'"
            ),
            "from openai import OpenAI\nprint(OpenAI().chat.completions.create(\n    model=\"gpt-4o-mini\", \
             messages=[{\"role\": \"user\", \"content\": \"Hello\"}]))"
                .to_owned(),
        )
    };
    let node = "import OpenAI from \"openai\";\nconsole.log(await new OpenAI().models.list());".to_owned();
    let all = [("Environment", environment), ("curl", curl), ("Python", python), ("Node", node)];
    html! {
        div.snippets {
            @for (called, text) in &all {
                details open[*called == "Environment"] {
                    summary { (called) }
                    pre tabindex="0" { code { (text) } }
                    (copy(text))
                }
            }
        }
    }
}
