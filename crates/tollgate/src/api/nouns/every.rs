//! The table: each noun with its verbs, and the operation that each verb is.

use super::{Kind, Noun, Said, Verb, flag, list, needed, verb, word};
use crate::api::table;

const KEY: Said = word("key_id", "Its name or id");
const USER: Said = word("user_id", "Address or id of the user");
const GROUP: Said = word("group_id", "Name or id of the group");
const INVITE: Said = word("invite_id", "Its address or id");
const PROJECT: Said = needed("project_id", "project", Kind::Text, "Name or id of the project");
const GRACE: Said = flag(
    "grace_seconds",
    "grace",
    Kind::Seconds,
    "For so long the secret before goes on, such as 24h; it ends at once if not given",
);
const EMAIL: Said = flag(
    "notification_channel",
    "email",
    Kind::Email,
    "By mail to this address; may be given more than once",
);
const WEBHOOK: Said = flag("notification_channel", "webhook", Kind::Webhook, "By signed webhook to this URL");
const SLACK: Said = flag("notification_channel", "slack", Kind::Slack, "To this webhook of Slack's");
const ALERT: Said = word("alert_id", "Its id");
const ENDS_KEYS: &str = "Keys end for good.";

pub(super) const NOUNS: &[Noun] = &[
    Noun {
        name: "admin-key",
        alias: "",
        about: "Admin keys, which open the administration",
        verbs: &[
            list("admin-api-keys-list", &[], table::ADMIN_KEYS, "Show them"),
            verb("get", "admin-api-keys-get", &[KEY], table::ADMIN_KEYS, "Show one"),
            verb(
                "create",
                "admin-api-keys-create",
                &[
                    word("name", "What or who uses it"),
                    flag("scopes", "scope", Kind::Texts, "What it may do; all that you may if not given"),
                    flag("expires_in_seconds", "expires", Kind::Seconds, "Such as 90d"),
                    flag("project_ids", "only-project", Kind::Texts, "Only in this project"),
                    flag(
                        "service_account_id",
                        "service-account",
                        Kind::Text,
                        "The service account that owns it",
                    ),
                ],
                table::ADMIN_KEYS,
                "Make one; its secret is shown once",
            )
            .with_secret("/value"),
            verb(
                "rotate",
                "admin-api-keys-rotate",
                &[KEY, GRACE],
                table::ADMIN_KEYS,
                "Give it another secret",
            )
            .with_secret("/value"),
            verb(
                "end-previous",
                "admin-api-keys-delete-previous-secret",
                &[KEY],
                table::ADMIN_KEYS,
                "End the grace of the secret before",
            ),
            verb("revoke", "admin-api-keys-delete", &[KEY], &[], "End it for good").losing(ENDS_KEYS),
            verb("freeze", "freeze-admin-api-key", &[KEY], &[], "Refuse it until it is unfrozen"),
            verb("unfreeze", "unfreeze-admin-api-key", &[KEY], &[], "Take that back"),
        ],
    },
    Noun {
        name: "user",
        alias: "member",
        about: "Members of the organization",
        verbs: &[
            list(
                "list-users",
                &[
                    flag("emails", "email", Kind::Texts, "Only of this address"),
                    flag("name", "name", Kind::Text, "Only with this in their names or addresses"),
                ],
                table::USERS,
                "Show them",
            ),
            verb("get", "retrieve-user", &[USER], table::USERS, "Show one"),
            verb(
                "add",
                "create-user",
                &[
                    word("email", "Their address"),
                    needed("role", "role", Kind::Text, "owner or reader"),
                    flag("name", "name", Kind::Text, "Their name"),
                ],
                table::USERS,
                "Add somebody without an invite",
            ),
            verb(
                "set-role",
                "modify-user",
                &[USER, word("role", "owner or reader")],
                table::USERS,
                "Change the role of one",
            ),
            verb(
                "freeze",
                "freeze-user",
                &[USER],
                &[],
                "Refuse all that somebody does, until they are unfrozen",
            ),
            verb("unfreeze", "unfreeze-user", &[USER], &[], "Take that back"),
            verb("remove", "delete-user", &[USER], &[], "Take somebody out, and end all their keys")
                .losing(ENDS_KEYS),
        ],
    },
    Noun {
        name: "project-user",
        alias: "project-member",
        about: "Members of a project",
        verbs: &[
            list("list-project-users", &[PROJECT], table::PROJECT_USERS, "Show them"),
            verb(
                "add",
                "create-project-user",
                &[
                    word("email", "Address of a member of the organization"),
                    PROJECT,
                    needed("role", "role", Kind::Text, "owner or member"),
                ],
                table::PROJECT_USERS,
                "Add one",
            ),
            verb(
                "set-role",
                "modify-project-user",
                &[USER, word("role", "owner or member"), PROJECT],
                table::PROJECT_USERS,
                "Change the role of one",
            ),
            verb("remove", "delete-project-user", &[USER, PROJECT], &[], "Take somebody out of it")
                .losing("Their keys there stop."),
        ],
    },
    Noun {
        name: "invite",
        alias: "",
        about: "Invites into the organization",
        verbs: &[
            list("list-invites", &[], table::INVITES, "Show them"),
            verb("get", "retrieve-invite", &[INVITE], table::INVITES, "Show one"),
            verb(
                "create",
                "inviteUser",
                &[
                    word("email", "Whom to invite"),
                    needed("role", "role", Kind::Text, "owner or reader"),
                    flag(
                        "projects",
                        "project",
                        Kind::InvitedTo,
                        "Into this project as a member; may be given more than once",
                    ),
                ],
                table::INVITES,
                "Invite somebody; the link is shown once",
            )
            .with_secret("/accept_url"),
            verb(
                "resend",
                "resend-invite",
                &[INVITE],
                table::INVITES,
                "Make another link; the one before ends",
            )
            .with_secret("/accept_url"),
            verb("delete", "delete-invite", &[INVITE], &[], "Withdraw it").losing("Its link ends."),
        ],
    },
    Noun {
        name: "group",
        alias: "",
        about: "Groups, whose users have their roles",
        verbs: &[
            list("list-groups", &[], table::GROUPS, "Show them"),
            verb("get", "retrieve-group", &[GROUP], table::GROUPS, "Show one"),
            verb("create", "create-group", &[word("name", "Its name")], table::GROUPS, "Make one"),
            verb(
                "rename",
                "update-group",
                &[GROUP, word("name", "Its new name")],
                table::GROUPS,
                "Rename one",
            ),
            verb("delete", "delete-group", &[GROUP], &[], "Delete one").losing("Its users lose its roles."),
            Verb {
                name: "users",
                ..list("list-group-users", &[GROUP], table::GROUP_USERS, "Show who is in it")
            },
            verb("add-user", "add-group-user", &[GROUP, USER], &[], "Put somebody into it"),
            verb("remove-user", "remove-group-user", &[GROUP, USER], &[], "Take somebody out of it")
                .losing("They lose its roles."),
            Verb {
                name: "roles",
                ..list("list-group-role-assignments", &[GROUP], table::ROLES, "Show its roles")
            },
            verb(
                "add-role",
                "assign-group-role",
                &[GROUP, word("role_id", "Name or id of the role")],
                &[],
                "Give it a role of the organization",
            ),
            verb(
                "remove-role",
                "unassign-group-role",
                &[GROUP, word("role_id", "Name or id of the role")],
                &[],
                "Take one",
            ),
        ],
    },
    Noun {
        name: "role",
        alias: "",
        about: "Roles of the organization; those of a project by `tollgate api`",
        verbs: &[
            list("list-roles", &[], table::ROLES, "Show them"),
            verb("get", "retrieve-role", &[word("role_id", "Its name or id")], table::ROLES, "Show one"),
            verb(
                "create",
                "create-role",
                &[
                    word("role_name", "Its name"),
                    needed(
                        "permissions",
                        "permission",
                        Kind::Texts,
                        "What it allows; may be given more than once",
                    ),
                    flag("description", "description", Kind::Text, "What it is for"),
                ],
                table::ROLES,
                "Make one",
            ),
            verb(
                "update",
                "update-role",
                &[
                    word("role_id", "Its name or id"),
                    flag("role_name", "name", Kind::Text, "Its new name"),
                    flag("permissions", "permission", Kind::Texts, "All that it allows"),
                    flag("description", "description", Kind::Text, "What it is for"),
                ],
                table::ROLES,
                "Change one",
            ),
            verb("delete", "delete-role", &[word("role_id", "Its name or id")], &[], "Delete one")
                .losing("Whoever has it loses what it allows."),
            verb(
                "assign",
                "assign-user-role",
                &[
                    word("role_id", "Its name or id"),
                    needed("user_id", "user", Kind::Text, "Address or id of the user"),
                ],
                &[],
                "Give it to somebody",
            ),
            verb(
                "unassign",
                "unassign-user-role",
                &[
                    word("role_id", "Its name or id"),
                    needed("user_id", "user", Kind::Text, "Address or id of the user"),
                ],
                &[],
                "Take it",
            ),
            Verb {
                name: "of-user",
                ..list("list-user-role-assignments", &[USER], table::ROLES, "Show the roles of somebody")
            },
        ],
    },
    Noun {
        name: "spend-alert",
        alias: "",
        about: "Who is told when the organization has spent an amount in a month",
        verbs: &[
            list("list-organization-spend-alerts", &[], table::SPEND_ALERTS, "Show them"),
            verb(
                "create",
                "create-organization-spend-alert",
                &[
                    Said {
                        parameter: "threshold_amount",
                        flag: "",
                        kind: Kind::Cents,
                        is_required: true,
                        help: "US dollars",
                    },
                    EMAIL,
                    WEBHOOK,
                    SLACK,
                ],
                table::SPEND_ALERTS,
                "Make one; the secret that webhooks are signed with is shown once",
            )
            .with_secret("/signing_secret"),
            verb("delete", "delete-organization-spend-alert", &[ALERT], &[], "Delete one")
                .losing("Nobody is told by it any more."),
        ],
    },
    Noun {
        name: "project-spend-alert",
        alias: "",
        about: "The same of a project",
        verbs: &[
            list("list-project-spend-alerts", &[PROJECT], table::SPEND_ALERTS, "Show them"),
            verb(
                "create",
                "create-project-spend-alert",
                &[
                    Said {
                        parameter: "threshold_amount",
                        flag: "",
                        kind: Kind::Cents,
                        is_required: true,
                        help: "US dollars",
                    },
                    PROJECT,
                    EMAIL,
                    WEBHOOK,
                    SLACK,
                ],
                table::SPEND_ALERTS,
                "Make one; the secret that webhooks are signed with is shown once",
            )
            .with_secret("/signing_secret"),
            verb("delete", "delete-project-spend-alert", &[ALERT, PROJECT], &[], "Delete one")
                .losing("Nobody is told by it any more."),
        ],
    },
    Noun {
        name: "event-alert",
        alias: "",
        about: "Who is told of limits that are reached, keys that end or rest, upstreams that fail",
        verbs: &[
            list("list-event-alerts", &[], table::EVENT_ALERTS, "Show them"),
            verb(
                "create",
                "create-event-alert",
                &[
                    needed(
                        "events",
                        "event",
                        Kind::Texts,
                        "spend_limit.reached, api_key.expiring, api_key.unused, upstream.down",
                    ),
                    flag("project_id", "project", Kind::Text, "Only of this project"),
                    flag(
                        "unused_after_days",
                        "unused-after-days",
                        Kind::Number,
                        "When a key counts as resting",
                    ),
                    EMAIL,
                    WEBHOOK,
                    SLACK,
                ],
                table::EVENT_ALERTS,
                "Make one; the secret that webhooks are signed with is shown once",
            )
            .with_secret("/signing_secret"),
            verb("delete", "delete-event-alert", &[word("event_alert_id", "Its id")], &[], "Delete one")
                .losing("Nobody is told by it any more."),
        ],
    },
    Noun {
        name: "notification",
        alias: "",
        about: "What was told, and what could not be",
        verbs: &[
            list(
                "list-notifications",
                &[flag("status", "status", Kind::Text, "pending, delivered or failed")],
                table::NOTIFICATIONS,
                "Show them",
            ),
            verb(
                "get",
                "retrieve-notification",
                &[word("notification_id", "Its id")],
                table::NOTIFICATIONS,
                "Show one",
            ),
            verb(
                "retry",
                "retry-notification",
                &[word("notification_id", "Its id")],
                table::NOTIFICATIONS,
                "Try it again",
            ),
        ],
    },
    Noun {
        name: "rate-limit",
        alias: "limit",
        about: "OpenAI's rate limits of a project's models; Tollgate has none yet, and says so",
        verbs: &[
            list("list-project-rate-limits", &[PROJECT], table::RATE_LIMITS, "Show them"),
            verb(
                "set",
                "update-project-rate-limits",
                &[
                    word("rate_limit_id", "Its id"),
                    PROJECT,
                    flag("max_requests_per_1_minute", "rpm", Kind::Number, "Requests per minute"),
                    flag("max_tokens_per_1_minute", "tpm", Kind::Number, "Tokens per minute"),
                    flag("max_requests_per_1_day", "rpd", Kind::Number, "Requests per day"),
                    flag("max_images_per_1_minute", "ipm", Kind::Number, "Images per minute"),
                    flag(
                        "batch_1_day_max_input_tokens",
                        "batch-tokens",
                        Kind::Number,
                        "Input tokens of batches per day",
                    ),
                ],
                table::RATE_LIMITS,
                "Change one",
            ),
        ],
    },
    Noun {
        name: "model-permission",
        alias: "",
        about: "OpenAI's list of a project's models; Tollgate has none yet, and says so",
        verbs: &[
            verb(
                "get",
                "retrieve-project-model-permissions",
                &[PROJECT],
                table::MODEL_PERMISSIONS,
                "Show it",
            ),
            verb(
                "set",
                "update-project-model-permissions",
                &[
                    word("mode", "allow_list or deny_list"),
                    PROJECT,
                    needed("model_ids", "model", Kind::Texts, "A model of it; may be given more than once"),
                ],
                table::MODEL_PERMISSIONS,
                "Replace it",
            ),
            verb("delete", "delete-project-model-permissions", &[PROJECT], &[], "Allow every model again")
                .losing("Every model is allowed then."),
        ],
    },
    Noun {
        name: "retention",
        alias: "",
        about: "How long single requests are kept; what was used and spent stays",
        verbs: &[
            verb("get", "retrieve-retention", &[], table::RETENTION, "Show it"),
            verb(
                "set",
                "modify-retention",
                &[Said {
                    parameter: "requests_days",
                    flag: "",
                    kind: Kind::DaysOrForever,
                    is_required: true,
                    help: "Days, 35 or more, or forever",
                }],
                table::RETENTION,
                "Set it",
            )
            .losing("Requests that are older are deleted."),
        ],
    },
    Noun {
        name: "key-policy",
        alias: "",
        about: "What new keys of the organization have to be",
        verbs: &[
            verb("get", "retrieve-key-policy", &[], table::KEY_POLICY, "Show it"),
            verb(
                "set",
                "modify-key-policy",
                &[
                    flag(
                        "default_expires_in_seconds",
                        "default-expires",
                        Kind::SecondsOrNone,
                        "Of a key that is made without a word of it, such as 90d; none for never",
                    ),
                    flag(
                        "max_expires_in_seconds",
                        "max-expires",
                        Kind::SecondsOrNone,
                        "No new key lives longer; none for no limit",
                    ),
                    flag("key_owners", "owners", Kind::Text, "any or service_accounts"),
                ],
                table::KEY_POLICY,
                "Change it",
            ),
        ],
    },
];
