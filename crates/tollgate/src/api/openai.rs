//! What OpenAI's administration has and Tollgate's does not: a server that lacks it says so.

use tollgate_admin::Method::{self, Delete, Get, Post};

/// Ids, methods and paths, as OpenAI's OpenAPI document has them.
pub(crate) const OPERATIONS: &[(&str, Method, &str)] = &[
    ("listOrganizationCertificates", Get, "/v1/organization/certificates"),
    ("uploadCertificate", Post, "/v1/organization/certificates"),
    ("activateOrganizationCertificates", Post, "/v1/organization/certificates/activate"),
    ("deactivateOrganizationCertificates", Post, "/v1/organization/certificates/deactivate"),
    ("getCertificate", Get, "/v1/organization/certificates/{certificate_id}"),
    ("modifyCertificate", Post, "/v1/organization/certificates/{certificate_id}"),
    ("deleteCertificate", Delete, "/v1/organization/certificates/{certificate_id}"),
    ("retrieve-organization-data-retention", Get, "/v1/organization/data_retention"),
    ("update-organization-data-retention", Post, "/v1/organization/data_retention"),
    ("listProjectCertificates", Get, "/v1/organization/projects/{project_id}/certificates"),
    ("activateProjectCertificates", Post, "/v1/organization/projects/{project_id}/certificates/activate"),
    ("deactivateProjectCertificates", Post, "/v1/organization/projects/{project_id}/certificates/deactivate"),
    ("retrieve-project-data-retention", Get, "/v1/organization/projects/{project_id}/data_retention"),
    ("update-project-data-retention", Post, "/v1/organization/projects/{project_id}/data_retention"),
    (
        "retrieve-project-hosted-tool-permissions",
        Get,
        "/v1/organization/projects/{project_id}/hosted_tool_permissions",
    ),
    (
        "update-project-hosted-tool-permissions",
        Post,
        "/v1/organization/projects/{project_id}/hosted_tool_permissions",
    ),
    ("retrieve-project-model-permissions", Get, "/v1/organization/projects/{project_id}/model_permissions"),
    ("update-project-model-permissions", Post, "/v1/organization/projects/{project_id}/model_permissions"),
    ("delete-project-model-permissions", Delete, "/v1/organization/projects/{project_id}/model_permissions"),
    ("list-project-rate-limits", Get, "/v1/organization/projects/{project_id}/rate_limits"),
    (
        "update-project-rate-limits",
        Post,
        "/v1/organization/projects/{project_id}/rate_limits/{rate_limit_id}",
    ),
];
