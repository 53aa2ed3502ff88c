//! Commands that are one operation each, as a table: what each is called, what is said to it, what is shown of its answer.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Map, Value, json};

use crate::api::amount;
use crate::api::arguments::Many;
use crate::api::client::encoded;
use crate::api::operation::Row;
use crate::api::secret_input::Out;
use crate::api::session::{Done, Failure, Session};
use crate::api::table::{self, Column};

/// What a word on the command line is to the operation.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// May be given more than once.
    Texts,
    Number,
    /// A whole number of days, or `forever`.
    DaysOrForever,
    /// A time such as 90d or never, in seconds.
    Seconds,
    /// The same, of what may be taken away by `none`.
    SecondsOrNone,
    /// US dollars such as 12.50, in cents.
    Cents,
    /// Projects that somebody becomes a member of.
    InvitedTo,
    /// Where it is told: by mail, by webhook, to Slack.
    Email,
    Webhook,
    Slack,
}

struct Said {
    /// The operation's name for it.
    parameter: &'static str,
    /// The flag; empty for a word that stands by itself.
    flag: &'static str,
    kind: Kind,
    is_required: bool,
    help: &'static str,
}

pub(crate) struct Verb {
    name: &'static str,
    about: &'static str,
    operation: &'static str,
    said: &'static [Said],
    columns: &'static [Column],
    /// Whether it is a list, of which all pages are wanted.
    is_list: bool,
    /// Where the answer has a secret that is shown this once.
    secret: &'static str,
    /// What is lost, where something is.
    loses: &'static str,
}

pub(crate) struct Noun {
    pub(crate) name: &'static str,
    alias: &'static str,
    about: &'static str,
    verbs: &'static [Verb],
}

const fn word(parameter: &'static str, help: &'static str) -> Said {
    Said { parameter, flag: "", kind: Kind::Text, is_required: true, help }
}

const fn flag(parameter: &'static str, flag: &'static str, kind: Kind, help: &'static str) -> Said {
    Said { parameter, flag, kind, is_required: false, help }
}

const fn needed(parameter: &'static str, flag: &'static str, kind: Kind, help: &'static str) -> Said {
    Said { parameter, flag, kind, is_required: true, help }
}

const fn verb(
    name: &'static str,
    operation: &'static str,
    said: &'static [Said],
    columns: &'static [Column],
    about: &'static str,
) -> Verb {
    Verb { name, about, operation, said, columns, is_list: false, secret: "", loses: "" }
}

const fn list(
    operation: &'static str,
    said: &'static [Said],
    columns: &'static [Column],
    about: &'static str,
) -> Verb {
    Verb { is_list: true, ..verb("list", operation, said, columns, about) }
}

impl Verb {
    const fn with_secret(self, secret: &'static str) -> Self {
        Self { secret, ..self }
    }

    const fn losing(self, loses: &'static str) -> Self {
        Self { loses, ..self }
    }
}

const KEY: Said = word("key_id", "Its id");
const USER: Said = word("user_id", "Id of the user");
const GROUP: Said = word("group_id", "Id of the group");
const INVITE: Said = word("invite_id", "Its id");
const PROJECT: Said = needed("project_id", "project", Kind::Text, "Id of the project");
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

pub(crate) const NOUNS: &[Noun] = &[
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
            verb("delete", "delete-invite", &[INVITE], &[], "Withdraw it"),
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
                &[GROUP, word("role_id", "Id of the role")],
                &[],
                "Give it a role of the organization",
            ),
            verb(
                "remove-role",
                "unassign-group-role",
                &[GROUP, word("role_id", "Id of the role")],
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
            verb("get", "retrieve-role", &[word("role_id", "Its id")], table::ROLES, "Show one"),
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
                    word("role_id", "Its id"),
                    flag("role_name", "name", Kind::Text, "Its new name"),
                    flag("permissions", "permission", Kind::Texts, "All that it allows"),
                    flag("description", "description", Kind::Text, "What it is for"),
                ],
                table::ROLES,
                "Change one",
            ),
            verb("delete", "delete-role", &[word("role_id", "Its id")], &[], "Delete one")
                .losing("Whoever has it loses what it allows."),
            verb(
                "assign",
                "assign-user-role",
                &[word("role_id", "Its id"), needed("user_id", "user", Kind::Text, "Id of the user")],
                &[],
                "Give it to somebody",
            ),
            verb(
                "unassign",
                "unassign-user-role",
                &[word("role_id", "Its id"), needed("user_id", "user", Kind::Text, "Id of the user")],
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
            verb("delete", "delete-organization-spend-alert", &[ALERT], &[], "Delete one"),
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
            verb("delete", "delete-project-spend-alert", &[ALERT, PROJECT], &[], "Delete one"),
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
            verb("delete", "delete-event-alert", &[word("event_alert_id", "Its id")], &[], "Delete one"),
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

/// Adds the table to what can be said.
pub fn added_to(command: Command) -> Command {
    NOUNS.iter().fold(command, |command, noun| {
        let mut sub =
            Command::new(noun.name).about(noun.about).subcommand_required(true).arg_required_else_help(true);
        if !noun.alias.is_empty() {
            sub = sub.alias(noun.alias);
        }
        command.subcommand(noun.verbs.iter().fold(sub, |sub, verb| sub.subcommand(verb.command())))
    })
}

/// The verb that was said, if it is one of the table's, and what was said to it.
pub fn find(matches: &ArgMatches) -> Option<(&'static str, &'static str, &ArgMatches)> {
    let (name, matches) = matches.subcommand()?;
    let noun = NOUNS.iter().find(|noun| noun.name == name)?;
    let (name, matches) = matches.subcommand()?;
    let verb = noun.verbs.iter().find(|verb| verb.name == name)?;
    Some((noun.name, verb.name, matches))
}

impl Verb {
    fn command(&self) -> Command {
        let command = Command::new(self.name).about(self.about);
        let mut command = self.said.iter().fold(command, |command, said| command.arg(said.arg()));
        if self.is_list {
            let limit = Arg::new("limit").long("limit").value_name("COUNT").help("At most so many");
            command = command.arg(limit.value_parser(value_parser!(usize)).default_value("1000"));
        }
        if !self.secret.is_empty() {
            let out = Arg::new("out").long("out").value_name("FILE");
            command = command
                .arg(out.help("Write the secret to this file (0600, must not exist) instead of stdout"));
        }
        command
    }
}

impl Said {
    /// Its name among what was said: two may be one parameter.
    const fn id(&self) -> &'static str {
        if self.flag.is_empty() { self.parameter } else { self.flag }
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.id()).help(self.help).required(self.is_required);
        let arg = match self.kind {
            Kind::Texts | Kind::InvitedTo | Kind::Email => arg.action(ArgAction::Append),
            Kind::Number => arg.value_parser(value_parser!(i64)),
            _ => arg,
        };
        let value = match self.kind {
            Kind::Text | Kind::Texts => "TEXT",
            Kind::Number => "COUNT",
            Kind::DaysOrForever => "DAYS",
            Kind::Seconds | Kind::SecondsOrNone => "TIME",
            Kind::Cents => "USD",
            Kind::InvitedTo => "ID",
            Kind::Email => "ADDRESS",
            Kind::Webhook | Kind::Slack => "URL",
        };
        match self.flag {
            "" => arg.value_name(self.parameter),
            "project" if self.is_required => {
                arg.long("project").short('p').env("TOLLGATE_PROJECT").value_name("ID")
            }
            flag => arg.long(flag).value_name(value),
        }
    }

    /// Puts what was said into what the operation takes.
    fn add(&self, matches: &ArgMatches, given: &mut Map<String, Value>) -> Done {
        let one = || matches.get_one::<String>(self.id());
        let many = || matches.get_many::<String>(self.id()).map(|all| all.cloned().collect::<Vec<_>>());
        let value = match self.kind {
            Kind::Text => one().map(|text| json!(text)),
            Kind::Texts => many().map(|all| json!(all)),
            Kind::Number => matches.get_one::<i64>(self.id()).map(|number| json!(number)),
            Kind::DaysOrForever => match one().map(String::as_str) {
                Some("forever") => Some(Value::Null),
                Some(days) => Some(json!(
                    days.trim_end_matches('d')
                        .parse::<i64>()
                        .map_err(|_| { format!("`{days}` is neither a number of days nor `forever`.") })?
                )),
                None => None,
            },
            Kind::Seconds => match one() {
                Some(text) => amount::seconds(text)?.map(|seconds| json!(seconds)),
                None => None,
            },
            Kind::SecondsOrNone => match one().map(String::as_str) {
                Some("none" | "never") => Some(Value::Null),
                Some(text) => amount::seconds(text)?.map(|seconds| json!(seconds)),
                None => None,
            },
            Kind::Cents => one().map(|text| amount::cents(text).map(|cents| json!(cents))).transpose()?,
            Kind::InvitedTo => {
                many().map(|all| all.iter().map(|id| json!({"id": id, "role": "member"})).collect())
            }
            Kind::Email => many().map(|all| json!({"type": "email", "recipients": all})),
            Kind::Webhook => one().map(|url| json!({"type": "webhook", "url": url})),
            Kind::Slack => one().map(|url| json!({"type": "slack", "url": url})),
        };
        if let Some(value) = value
            && given.insert(self.parameter.to_owned(), value).is_some()
        {
            return Err(format!("{} is said twice.", self.parameter.replace('_', " ")).into());
        }
        Ok(())
    }
}

impl Session {
    /// Does what one row of the table says.
    pub async fn noun(&self, noun: &str, verb: &str, matches: &ArgMatches) -> Done {
        let found = NOUNS.iter().find(|known| known.name == noun);
        let found = found.and_then(|noun| noun.verbs.iter().find(|known| known.name == verb));
        let verb = found.ok_or_else(|| Failure::Usage(format!("There is no `{noun} {verb}`.")))?;
        let row = Row::of(verb.operation)?;
        let mut given = Map::new();
        for said in verb.said {
            said.add(matches, &mut given)?;
        }
        if noun.ends_with("spend-alert") && verb.name == "create" {
            given.insert("currency".to_owned(), json!("USD"));
            given.insert("interval".to_owned(), json!("month"));
        }
        if verb.name == "create"
            && verb.said.iter().any(|said| matches!(said.kind, Kind::Email))
            && !given.contains_key("notification_channel")
        {
            return Err("Say who is told: --email, --webhook or --slack.".to_owned().into());
        }
        if noun == "invite" && !given.contains_key("projects") && verb.name == "create" {
            given.insert("projects".to_owned(), json!([]));
        }
        self.needs_operation(&row)?;
        if !verb.loses.is_empty() {
            self.confirm(&format!("{noun} {}", verb.name), verb.loses)?;
        }
        let out = match matches.try_get_one::<String>("out").ok().flatten() {
            Some(path) => Some(Out::create(std::path::Path::new(path))?),
            None => None,
        };
        if verb.is_list {
            let limit = matches.get_one::<usize>("limit").copied().unwrap_or(1000);
            let (path, query) = row.split(given)?;
            let query: Vec<(&str, String)> =
                query.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            return self.list(verb.columns, &path, &query, &Many { limit }).await;
        }
        let answer = self.perform(&row, given).await?;
        let secret = answer.pointer(verb.secret).filter(|_| !verb.secret.is_empty());
        match secret.filter(|secret| secret.is_string()) {
            Some(secret) => self.show_secret(verb.columns, &answer, &secret.clone(), out),
            None if verb.columns.is_empty() => self.done(&answer),
            None => self.show(verb.columns, &answer),
        }
    }
}

/// A part of a path.
pub(crate) fn part(value: &Value) -> String {
    match value {
        Value::String(text) => encoded(text),
        other => encoded(&other.to_string()),
    }
}
