//! The page for people: a form, and what came of it. It works without scripts and loads nothing.

use serde::Deserialize;
use tollgate_core::secret::Secret;
use tollgate_core::{Error, Kind, Result};
use tollgate_wire::{Exchange, Reply};

use super::{Acceptance, FORM_MAX, PAGE, pending};
use crate::actor::Origin;
use crate::gate::Admin;
use crate::query::Query;

/// Answers whoever opens the link, or sends the form.
pub(crate) async fn serve_page(admin: &Admin, exchange: &mut Exchange, origin: Origin) {
    let answer =
        match exchange.head.method() {
            "GET" | "HEAD" => {
                let link = Query::parse(exchange.head.query()).and_then(Query::read::<Link>);
                match link {
                    Ok(link) => show(admin, link, &origin).await,
                    Err(error) => Err(error),
                }
            }
            "POST" => submit(admin, exchange, origin).await,
            _ => Err(Error::new(Kind::MethodNotAllowed, "Open the link of the invite.")
                .header("allow", "GET, POST")),
        };
    let (status, body) = match answer {
        Ok(body) => (200, body),
        Err(error) => (error.status(), page("Invite", &format!("<p>{}</p>", escaped(&error.message)))),
    };
    exchange.respond(&html(status, body)).await;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    token: Secret,
}

/// The form, for an invite that can still be accepted.
async fn show(admin: &Admin, link: Link, origin: &Origin) -> Result<String> {
    admin.throttle.pass_address(origin.ip, admin.desk.clock.now())?;
    let (desk, token) = (admin.desk.clone(), link.token.clone());
    let looking =
        admin.db.read(move |tx| Box::pin(async move { pending(tx, &desk, &token).await.map(|_| ()) }));
    looking.await?;
    Ok(form(link.token.reveal(), None))
}

async fn submit(admin: &Admin, exchange: &mut Exchange, origin: Origin) -> Result<String> {
    admin.throttle.pass_address(origin.ip, admin.desk.clock.now())?;
    let bytes = exchange.read_body(FORM_MAX).await.map_err(|error| error.into_error(FORM_MAX))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::bad_request("The form is not UTF-8."))?;
    let input: Acceptance = Query::parse(&text)?.read()?;
    let token = input.token.clone();
    match admin.accept(input, None, origin).await {
        Ok(accepted) => {
            let told = format!("<p>You are a member now, as {}.</p>", escaped(&accepted.email));
            Ok(page("Welcome", &told))
        }
        // What can be mended in the form is mended there.
        Err(error) if matches!(error.param.as_deref(), Some("password" | "name")) => {
            Ok(form(token.reveal(), Some(&error.message)))
        }
        Err(error) => Err(error),
    }
}

fn form(token: &str, complaint: Option<&str>) -> String {
    let complaint =
        complaint.map(|text| format!("<p role=\"alert\">{}</p>", escaped(text))).unwrap_or_default();
    page(
        "You are invited",
        &format!(
            "{complaint}<form method=\"post\" action=\"{PAGE}\"><input type=\"hidden\" name=\"token\" value=\"{}\">\
             <p><label>Your name<br><input name=\"name\" autocomplete=\"name\" maxlength=\"255\"></label></p>\
             <p><label>Password, of 12 characters or more; if you have an account, its password<br>\
             <input type=\"password\" name=\"password\" autocomplete=\"new-password\" required></label></p>\
             <p><button>Accept</button></p></form>",
            escaped(token)
        ),
    )
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\"></head>\
         <body><main><h1>{title}</h1>{body}</main></body></html>"
    )
}

fn html(status: u16, body: String) -> Reply {
    let headers = [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        // The link is in the address of the page.
        ("referrer-policy", "no-referrer"),
        (
            "content-security-policy",
            "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ];
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Reply { status, headers, body: body.into_bytes() }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_written_cannot_leave_its_place_in_a_page() {
        assert_eq!(escaped("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
    }
}
