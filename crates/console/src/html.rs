//! Answers of the console as HTTP: what a browser is told of each page besides the page.

use maud::Markup;
use tollgate_wire::Reply;

/// No script and no style but ours, no frame around us, no form to elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

fn headers(kind: &str) -> Vec<(&'static str, String)> {
    let headers = [
        ("content-type", kind),
        // Some pages show a secret, all of them show what is not for caches.
        ("cache-control", "no-store"),
        ("content-security-policy", POLICY),
        ("cross-origin-opener-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
        ("referrer-policy", "same-origin"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ];
    headers.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

pub(crate) fn document(status: u16, markup: &Markup) -> Reply {
    let body = format!("<!doctype html>{}", markup.0).into_bytes();
    Reply { status, headers: headers("text/html; charset=utf-8"), body }
}

/// A page of which nothing is told to what follows: the link of an invite is in the address of its page.
pub(crate) fn alone(status: u16, markup: &Markup) -> Reply {
    let mut reply = document(status, markup);
    for (name, value) in &mut reply.headers {
        if *name == "referrer-policy" {
            "no-referrer".clone_into(value);
        }
    }
    reply
}

pub(crate) fn fragment(markup: &Markup) -> Reply {
    let body = markup.0.clone().into_bytes();
    Reply { status: 200, headers: headers("text/html; charset=utf-8"), body }
}

/// Go there, with GET.
pub(crate) fn see(path: &str) -> Reply {
    let mut headers = headers("text/plain; charset=utf-8");
    headers.push(("location", local(path)));
    Reply { status: 303, headers, body: Vec::new() }
}

/// A page that goes on by itself: what follows begins on this site, so that strict cookies are sent with it.
pub(crate) fn go_on(path: &str) -> Reply {
    let path = local(path);
    let markup = maud::html! {
        html lang="en" {
            head {
                meta charset="utf-8";
                link rel="icon" href=(crate::asset::address("/assets/icon.svg"));
                meta http-equiv="refresh" content=(format!("0;url={path}"));
                title { "Tollgate" }
            }
            body { p { a href=(path) { "Go on" } } }
        }
    };
    document(200, &markup)
}

pub(crate) fn file(name: &str, kind: &'static str, body: Vec<u8>) -> Reply {
    let mut headers = headers(kind);
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    headers.push(("content-disposition", format!("attachment; filename=\"{plain}\"")));
    Reply { status: 200, headers, body }
}

/// Go to another site, whose address is the operator's word.
pub(crate) fn elsewhere(url: &str) -> Reply {
    let mut headers = headers("text/plain; charset=utf-8");
    headers.push(("location", url.to_owned()));
    Reply { status: 303, headers, body: Vec::new() }
}

/// Only paths of this site are gone to.
pub(crate) fn local(path: &str) -> String {
    let is_local = path.starts_with('/')
        && !path.starts_with("//")
        && !path.contains('\\')
        && path.bytes().all(|byte| byte.is_ascii_graphic());
    if is_local { path.to_owned() } else { "/".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_site() {
        for elsewhere in
            ["https://evil.example", "//evil.example", "/\\evil.example", "evil", "", "/a b", "/a\r\nx: y"]
        {
            assert_eq!(local(elsewhere), "/", "{elsewhere}");
        }
        assert_eq!(local("/projects?after=x"), "/projects?after=x");
    }
}
