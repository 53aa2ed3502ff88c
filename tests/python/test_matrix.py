"""Who may call which operation: every row of the table, by every kind of caller, on what is theirs, foreign and absent."""

import json
import re
import time

import pytest

from harness import request, run, until
from test_isolation import stored

ABSENT = "0" * 26
PREFIXES = {"project_id": "proj_", "user_id": "user-", "group_id": "group_", "role_id": "role_", "spend_limit_id": "spend_limit_", "api_key_id": "key_", "upstream_id": "upstream_",
            "service_account_id": "svc_acct_", "key_id": "key_", "request_id": "req_", "invite_id": "invite-", "alert_id": "spend_alert_", "notification_id": "notification_", "model": "absent-model-", "price": "price_", "event_alert_id": "event_alert_", "organization_id": "org-"}
# What belongs to the installation is nobody's in particular.
SHARED = {"upstream_id", "model", "price", "organization_id"}
REFUSED = {"none": 401, "garbage": 401, "revoked": 401, "expired": 401}


def furnish(server, admin_key, project):
    """One of everything, in the organization of an admin key; the ids by what paths call them."""
    post = lambda path, body=None: request(server.url, "POST", path, key=admin_key, body=body or {})
    made = lambda answer: answer.json if answer.status == 200 else pytest.fail(str(answer))
    one = f"/v1/organization/projects/{project}"
    user = made(post("/tollgate/v1/users", {"email": f"{project[-6:]}@example.com", "role": "reader"}))["id"]
    made(post(one + "/users", {"user_id": user, "role": "member"}))
    group = made(post("/v1/organization/groups", {"name": "Team"}))["id"]
    made(post(f"/v1/organization/groups/{group}/users", {"user_id": user}))
    made(post(one + "/groups", {"group_id": group, "role": "role-api-project-member"}))
    role = made(post("/v1/organization/roles", {"role_name": "Made", "permissions": []}))["id"]
    role_there = made(post(f"/v1/projects/{project}/roles", {"role_name": "Made", "permissions": []}))["id"]
    for holder in (f"users/{user}", f"groups/{group}"):
        made(post(f"/v1/organization/{holder}/roles", {"role_id": role}))
        made(post(f"/v1/projects/{project}/{holder}/roles", {"role_id": role_there}))
    key = made(post(one + "/api_keys", {"name": "x", "user_id": user}))
    account = made(post(one + "/service_accounts", {"name": "robot"}))
    admin = made(post("/v1/organization/admin_api_keys", {"name": "furniture"}))
    for secret in (key["value"], account["api_key"]["value"], admin["value"]):
        server.remember(secret)
    sent = made(post("/v1/organization/invites", {"email": f"invited-{project[-6:]}@example.com", "role": "reader", "projects": []}))
    server.remember(sent["accept_url"].split("=")[1])
    alert = {"threshold_amount": 1_000_000, "currency": "USD", "interval": "month", "notification_channel": {"type": "email", "recipients": ["a@example.com"]}}
    alerts = [made(post(f"{path}/spend_alerts", alert))["id"] for path in ("/v1/organization", one)]
    watch = made(post("/tollgate/v1/event_alerts", {"events": ["api_key.unused"], "notification_channel": alert["notification_channel"]}))["id"]
    limits = {}
    for scope in ("organization", f"projects/{project}", f"users/{user}", f"api_keys/{key['id']}"):
        limits[scope.split("/")[0]] = made(post(f"/tollgate/v1/{scope}/spend_limits", {"threshold_amount": 100_000, "interval": "day"}))["id"]
    assert request(server.url, "POST", "/v1/chat/completions", key=key["value"], body={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}).status == 200
    asked = request(server.url, "GET", "/tollgate/v1/requests", key=admin_key).json["data"][0]["id"]
    # A notification that nobody sends any more.
    reached = made(post("/v1/organization/spend_alerts", {**alert, "threshold_amount": 0}))["id"]
    told = until(lambda: [n["id"] for n in request(server.url, "GET", "/tollgate/v1/notifications", key=admin_key).json["data"] if n["attempts"] > 0])[0]
    assert request(server.url, "DELETE", f"/v1/organization/spend_alerts/{reached}", key=admin_key).status == 200
    return {"project_id": project, "user_id": user, "group_id": group, "role_id": role, "role_there": role_there, "api_key_id": key["id"], "service_account_id": account["id"], "key_id": admin["id"],
            "invite_id": sent["id"], "request_id": asked, "alert_id": alerts[0], "event_alert_id": watch, "alert_there": alerts[1], "notification_id": told, "limits": limits, "key": key["value"], "robot": account["api_key"]["value"]}


def named_by(path, ids):
    """What a path names, by the names it has for it."""
    special = {"role_id": "role_there" if path.startswith("/v1/projects/") else "role_id", "alert_id": "alert_there" if "/projects/" in path else "alert_id", "spend_limit_id": None}
    return {name: ids[special.get(name, name)] if special.get(name, name) else ids["limits"][path.split("/")[3]] for name in re.findall(r"\{(\w+)\}", path)}


@pytest.fixture
def world(gateway):
    server = gateway
    theirs = server.post("/tollgate/v1/organizations", {"name": "Theirs", "owner_email": "eve@example.com"}).json
    server.remember(theirs["admin_api_key"])
    own, foreign = furnish(server, server.admin_key, server.project("Ours")), furnish(server, theirs["admin_api_key"], theirs["project_id"])
    planned = server.post("/tollgate/v1/models/gpt-4o-mini/prices", {"effective_from": int(time.time()) + 86_400, "prices": {"input_price": "1"}}).json["id"]
    absent = {name: prefix + ABSENT for name, prefix in PREFIXES.items()}
    absent |= {"role_there": absent["role_id"], "alert_there": absent["alert_id"], "limits": dict.fromkeys(own["limits"], absent["spend_limit_id"])}
    shared = {"upstream_id": server.get("/tollgate/v1/upstreams").json["data"][0]["id"], "model": "gpt-4o-mini", "price": planned, "organization_id": theirs["id"]}
    keys = {"none": None, "garbage": "sk-tgadmin-nonsense", "project key": own["key"], "service-account key": own["robot"], "foreign owner": theirs["admin_api_key"], "owner": server.admin_key}
    users = {"reader": server.user("reader@example.com"), "member": server.user("member@example.com"), "project owner": server.user("lead@example.com")}
    server.admin.projects.users.create(own["project_id"], user_id=users["member"], role="member")
    server.admin.projects.users.create(own["project_id"], user_id=users["project owner"], role="owner")
    ids = {}
    for name in ["revoked", "expired", "restricted", *users]:
        scopes = {"scopes": ["api.organization.projects.read"]} if name == "restricted" else {}
        made = server.post("/v1/organization/admin_api_keys", {"name": name, **scopes}).json
        keys[name], ids[name] = server.remember(made["value"]), made["id"]
    fence = {"own project": {"project_ids": [own["project_id"]]}, "machine": {"service_account_id": own["service_account_id"], "scopes": MACHINE},
             "fenced machine": {"service_account_id": own["service_account_id"], "scopes": MACHINE, "project_ids": [own["project_id"]]}}
    for name, more in fence.items():
        made = server.post("/v1/organization/admin_api_keys", {"name": name, **more}).json
        keys[name] = server.remember(made["value"])
    keys["reading robot"] = server.key(own["project_id"], service_account_id=own["service_account_id"], scopes=["api.usage.read"])["value"]
    server.admin.admin_api_keys.delete(ids["revoked"])
    assert server.process.stop() == 0
    with server.database() as database:
        database.execute("UPDATE api_key SET expires_at = 1000 WHERE id = ?", (ids["expired"],))
        for name, user in users.items():
            # An admin key is its maker's; these people have no other way to one yet.
            database.execute("UPDATE api_key SET user_id = ? WHERE id = ?", (user, ids[name]))
    server.start()
    permissions = {role["id"].split("__")[0]: set(role["permissions"]) for role in server.get("/v1/organization/roles").json["data"] + server.get(f"/v1/projects/{own['project_id']}/roles").json["data"]}
    return {"server": server, "own": {**shared, **own}, "foreign": {**shared, **foreign}, "absent": absent, "keys": keys, "permissions": permissions}


# What the admin keys of a service account may.
MACHINE = ["api.organization.projects.read", "api.organization.projects.api_keys.write", "api.usage.read"]


def allowed(world, caller, operation, variant):
    needs, is_at_own_project = operation["needs"], variant == "own" and "{project_id}" in operation["path"]
    if caller in REFUSED:
        return False
    if operation["oneself"]:
        return caller in ("reader", "member", "project owner", "owner", "foreign owner")
    if needs is None:
        return True
    if caller in ("project key", "service-account key"):
        return False
    # What tells a key of its projects alone.
    is_within = operation["within_projects"]
    if caller == "reading robot":
        return is_within and needs == "api.usage.read"
    roles = {"reader": [], "member": ["role-api-project-member"], "project owner": ["role-api-project-owner"]}
    if caller in roles:
        held = world["permissions"]["role-api-organization-reader"]
        if is_at_own_project:
            held = held.union(*[world["permissions"][role] for role in roles[caller]])
        return needs in held
    if caller in ("own project", "fenced machine") and not is_at_own_project and not is_within:
        return False
    if caller in ("machine", "fenced machine"):
        return needs in MACHINE
    if caller == "own project":
        return needs != "tollgate.operator"
    if caller == "restricted":
        return needs == "api.organization.projects.read"
    if caller == "foreign owner":
        return needs != "tollgate.operator"
    return True


def test_every_operation_by_every_caller(world):
    server = world["server"]
    table = json.loads(run("operations", check=0).stdout)
    assert len(table) > 140 and len({row["id"] for row in table}) == len({(row["method"], row["path"]) for row in table}) == len(table)
    before, refused, answered = stored(server), 0, 0
    for operation in table:
        method, path = operation["method"], operation["path"]
        named = set(re.findall(r"\{(\w+)\}", path))
        variants = [variant for variant in ("own", "foreign", "absent") if named or variant == "own"]
        for caller, key in world["keys"].items():
            answers = {}
            for variant in variants:
                # Nothing takes this parameter, so that what is allowed changes nothing either.
                body = {"no_such_parameter": 1} if method == "POST" else None
                is_allowed = allowed(world, caller, operation, variant)
                if is_allowed and method == "DELETE" and (variant == "own" or named <= SHARED) and caller != "foreign owner":
                    continue
                if is_allowed and operation["id"] == "delete-me":
                    continue
                if is_allowed and caller == "foreign owner" and method == "DELETE" and (variant == "foreign" or not named):
                    continue
                answer = request(server.url, method, path.format(**named_by(path, world[variant])), key=key, body=body)
                context = (operation["id"], caller, variant, answer)
                if is_allowed:
                    answered += 1
                    assert answer.status not in (401, 403) and answer.status < 500, context
                    if method == "GET" and variant == "own" and caller == "owner":
                        # The key that the paths name is somebody else's own.
                        assert answer.status in (200, 400) or operation["id"] == "retrieve-own-api-key" or operation["id"].endswith("spend-limit"), context
                else:
                    refused += 1
                    assert answer.status == REFUSED.get(caller, 403), context
                    answers.setdefault("refused", answer.body)
                    assert answer.body == answers["refused"], (context, "a refusal tells nothing of what is there")
                answers[variant] = answer
            if {"foreign", "absent"} <= set(answers) and caller != "foreign owner" and not named & SHARED:
                told, theirs, nobodys = answers["foreign"].body, named_by(path, world["foreign"]), named_by(path, world["absent"])
                for name in named:
                    told = told.replace(theirs[name].encode(), nobodys[name].encode())
                assert (answers["foreign"].status, told) == (answers["absent"].status, answers["absent"].body), (operation["id"], caller)
            if caller == "foreign owner" and {"own", "absent"} <= set(answers) and not named & SHARED:
                assert answers["own"].status == answers["absent"].status, (operation["id"], answers)
    assert stored(server) == before, "no refusal changes anything"
    assert refused > 2_000 and answered > 500
