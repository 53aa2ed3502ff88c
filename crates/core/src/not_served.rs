//! What a client of OpenAI's may ask for and this version does not serve: an honest 404 that says so.

use crate::error::{Error, Kind};

/// Paths, `*` standing for one part, and what lies at and below them.
const NOT_YET: &[(&str, &str)] = &[
    ("/v1/organization/certificates", "certificates"),
    ("/v1/organization/data_retention", "data retention"),
    ("/v1/organization/external_keys", "external keys"),
    ("/v1/organization/external_storage", "external storage"),
    ("/v1/organization/spend_alerts", "spend alerts"),
    ("/v1/organization/usage", "usage of other endpoints than completions, embeddings and moderations"),
    ("/v1/organization/workload_identity_providers", "workload identity"),
    ("/v1/organization/projects/*/certificates", "certificates"),
    ("/v1/organization/projects/*/data_retention", "data retention"),
    ("/v1/organization/projects/*/hosted_tool_permissions", "hosted tool permissions"),
    ("/v1/organization/projects/*/model_permissions", "model permissions"),
    ("/v1/organization/projects/*/rate_limits", "rate limits"),
    ("/v1/organization/projects/*/service_tier_settings", "service tiers"),
    ("/v1/organization/projects/*/spend_alerts", "spend alerts"),
    ("/v1/assistants", "assistants"),
    ("/v1/audio", "audio"),
    ("/v1/batches", "batches"),
    ("/v1/containers", "containers"),
    ("/v1/conversations", "conversations"),
    ("/v1/evals", "evals"),
    ("/v1/files", "files"),
    ("/v1/fine_tuning", "fine-tuning"),
    ("/v1/images", "images"),
    ("/v1/messages/batches", "batches of messages"),
    ("/v1/realtime", "realtime"),
    ("/v1/responses", "parts of responses other than their input items"),
    ("/v1/threads", "threads"),
    ("/v1/uploads", "uploads"),
    ("/v1/vector_stores", "vector stores"),
    ("/v1/videos", "videos"),
    ("/oauth/token", "token exchange"),
];

/// The answer to a method and path that nothing serves.
pub fn unknown_url(method: &str, path: &str) -> Error {
    const SHOWN_MAX: usize = 200;
    let shown: String = path.chars().take(SHOWN_MAX).collect();
    let what = match NOT_YET.iter().find(|(pattern, _)| is_below(path, pattern)) {
        Some((_, what)) => format!(": {what} are not served by this version of Tollgate yet."),
        None => String::new(),
    };
    Error::new(Kind::NotFound, format!("Invalid URL ({method} {shown}){what}")).code("unknown_url")
}

fn is_below(path: &str, pattern: &str) -> bool {
    let mut parts = path.split('/');
    pattern.split('/').all(|wanted| parts.next().is_some_and(|part| wanted == "*" || wanted == part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_apart_from_what_does_not_exist() {
        let message = |path| unknown_url("GET", path).message;
        assert_eq!(message("/v1/nonsense"), "Invalid URL (GET /v1/nonsense)");
        assert!(
            message("/v1/organization/projects/proj_1/rate_limits/rl-x")
                .contains("rate limits are not served")
        );
        assert!(
            message("/v1/files/file_1").ends_with("files are not served by this version of Tollgate yet.")
        );
        assert_eq!(message("/v1/responsesx"), "Invalid URL (GET /v1/responsesx)");
    }
}
