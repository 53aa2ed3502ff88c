//! The style, the script and the picture that pages load, from the binary.

use tollgate_core::secret::{MasterKey, Pepper, hex};
use tollgate_wire::{Headers, Reply};

use std::sync::LazyLock;

struct Asset {
    path: &'static str,
    kind: &'static str,
    body: &'static str,
    /// Of its content.
    tag: String,
}

static ASSETS: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    let asset = |path, kind, body: &'static str| {
        let digest = Pepper::new(MasterKey::from_bytes(0, *b"tollgate: the assets of the page"));
        Asset { path, kind, body, tag: hex(&digest.verifier(body)[..8]) }
    };
    [
        asset("/assets/console.css", "text/css; charset=utf-8", include_str!("../assets/console.css")),
        asset("/assets/console.js", "text/javascript; charset=utf-8", include_str!("../assets/console.js")),
        asset("/assets/icon.svg", "image/svg+xml", include_str!("../assets/icon.svg")),
    ]
});

/// Where a page finds an asset: another content has another address, and so it can be kept for ever.
pub(crate) fn address(path: &str) -> String {
    let tag = ASSETS.iter().find(|asset| asset.path == path).map_or("", |asset| asset.tag.as_str());
    format!("{path}?v={tag}")
}

pub(crate) fn find(method: &str, path: &str, headers: &Headers) -> Option<Reply> {
    let asset = ASSETS.iter().find(|asset| asset.path == path && ["GET", "HEAD"].contains(&method))?;
    let tag = format!("\"{}\"", asset.tag);
    let is_known = headers.get("if-none-match") == Some(tag.as_str());
    let headers = [
        ("content-type", asset.kind.to_owned()),
        ("cache-control", "public, max-age=31536000, immutable".to_owned()),
        ("etag", tag),
        ("x-content-type-options", "nosniff".to_owned()),
    ];
    let body = if is_known { Vec::new() } else { asset.body.as_bytes().to_vec() };
    Some(Reply { status: if is_known { 304 } else { 200 }, headers: headers.to_vec(), body })
}
