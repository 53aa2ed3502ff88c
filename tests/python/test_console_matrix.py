"""Who may do what on the console: every row of its table, by every kind of visitor, on what is theirs, foreign and absent."""

import json
import re
import urllib.parse

import pytest

from harness import request, run
from test_console import PASSWORD, signed_in
from test_isolation import stored
from test_matrix import furnish

# What a path names, in its order; by the beginning of the path.
NAMES = [
    ("/me/keys/", ["api_key_id"]), ("/me/sessions/", ["session_id"]), (r"/projects/{}/keys/{}/limits/", ["project_id", "api_key_id", "limit_of_key"]), ("/projects/{}/keys/", ["project_id", "api_key_id"]),
    ("/projects/{}/service-accounts/", ["project_id", "service_account_id"]), ("/projects/{}/members/", ["project_id", "user_id"]), ("/projects/{}/limits/", ["project_id", "limit_of_project"]), ("/projects/", ["project_id"]),
    ("/admin-keys/", ["key_id"]), ("/requests/", ["request_id"]), ("/limits/{}", ["limit"]), ("/alerts/spend/", ["alert_id"]), ("/alerts/events/", ["event_alert_id"]), ("/alerts/notifications/", ["notification_id"]),
    ("/people/invites/", ["invite_id"]), ("/people/", ["user_id"]), ("/groups/{}/users/", ["group_id", "user_id"]), ("/groups/{}/roles/", ["group_id", "role_id"]), ("/groups/", ["group_id"]), ("/roles/", ["role_id"]),
    ("/prices/{}/prices/", ["model", "price"]), ("/prices/", ["model"]), ("/upstreams/", ["upstream_id"])]
# What is somebody's own to do, whoever they are.
OWN = {"/logout", "/organization", "/me/keys/new", "/me/password"}


def named(path, ids):
    names = next((names for begins, names in NAMES if path.startswith(begins)), [])
    parts = [urllib.parse.quote(str(ids[name]), safe="") for name in names]
    assert path.count("{}") <= len(parts), path
    return re.sub(r"\{\}", lambda _: parts.pop(0), path)


@pytest.fixture
def world(gateway):
    server = gateway
    theirs = server.post("/tollgate/v1/organizations", {"name": "Theirs", "owner_email": "eve@example.com"}).json
    server.remember(theirs["admin_api_key"])
    upstream = server.get("/tollgate/v1/upstreams").json["data"][0]["id"]

    def complete(ids):
        limits = ids["limits"]
        return {**ids, "limit": limits["organization"], "limit_of_project": limits["projects"], "limit_of_key": limits["api_keys"], "session_id": "session_" + "0" * 26,
                "model": "gpt-4o-mini", "price": "price_1", "upstream_id": upstream}

    own = complete(furnish(server, server.admin_key, server.project("Ours")))
    foreign = complete(furnish(server, theirs["admin_api_key"], theirs["project_id"]))
    absent = {name: re.sub(r"[0-9a-z]{26}$", "0" * 26, value) if isinstance(value, str) else value for name, value in own.items()}
    people = {"reader": server.user("reader@example.com"), "member": server.user("member@example.com"), "lead": server.user("lead@example.com")}
    server.admin.projects.users.create(own["project_id"], user_id=people["member"], role="member")
    server.admin.projects.users.create(own["project_id"], user_id=people["lead"], role="owner")
    keys = {name: server.post("/v1/organization/admin_api_keys", {"name": name}).json for name in people}
    for made in keys.values():
        server.remember(made["value"])
    assert server.process.stop() == 0
    with server.database() as database:
        for name, user in people.items():
            database.execute("UPDATE api_key SET user_id = ? WHERE id = ?", (user, keys[name]["id"]))
    server.start()
    visitors = {name: signed_in(server, keys[name]["value"]) for name in people}
    visitors["foreign owner"] = signed_in(server, theirs["admin_api_key"])
    return server, {"own": own, "foreign": foreign, "absent": absent}, visitors


def ask(server, method, path, cookie="", **form):
    headers = {"cookie": cookie} if cookie else {}
    body = None
    if method == "POST":
        headers["content-type"], body = "application/x-www-form-urlencoded", urllib.parse.urlencode(form, doseq=True).encode()
    return request(server.url, method, path, headers=headers, body=body)


# What every form takes, so that whatever is allowed would be done.
FORM = {"name": "Changed", "confirm": "Changed", "role": "owner", "email": "new@example.com", "threshold_amount": "1", "interval": "week", "mode": "enforce", "role_id": "role-api-organization-owner",
        "grace_seconds": "0", "key_owners": "service_accounts", "requests_days": "35", "permissions": "all", "role_name": "Changed", "events": "api_key.unused", "channel": "email", "recipients": "a@example.com",
        "input_price": "0", "base_url": "http://127.0.0.1:1/v1", "max_output_tokens": "1", "when_exceeded": "clamp", "expires": "86400", "browser_requests": "allow"}


@pytest.mark.timeout(600)
def test_every_page_by_every_visitor(world):
    server, ids, visitors = world
    routes = json.loads(run("operations", "--pages", check=0).stdout)
    assert len(routes) > 110
    before, seen = stored(server), 0
    for route in routes:
        method, path = route["method"], route["path"]
        variants = ("own", "foreign", "absent") if "{}" in path else ("own",)
        for variant in variants:
            there = named(path, ids[variant])
            nobody = ask(server, method, there, **FORM)
            if route["signed_in"]:
                assert nobody.status == 303 and nobody.headers["location"].startswith("/login"), (route, nobody)
                assert not nobody.body
            forged = ask(server, method, there, cookie="__Host-tollgate=" + "0" * 64, **FORM)
            assert not route["signed_in"] or forged.status == 303, (route, forged)
            for who, (cookie, token) in visitors.items():
                if not route["signed_in"]:
                    continue
                seen += 1
                if method == "POST":
                    unsealed = ask(server, method, there, cookie, **FORM)
                    assert unsealed.status == 403 and b"another session" in unsealed.body, (route, who, unsealed)
                    is_theirs = (who == "foreign owner" and (variant == "foreign" or "{}" not in path)) or path in OWN
                    # A lead may do in their project what leads do.
                    if is_theirs or (who == "lead" and variant == "own" and path.startswith("/projects/{}")):
                        continue
                    answer = ask(server, method, there, cookie, form_token=token, **FORM)
                    assert answer.status in (400, 403, 404), (route, who, variant, answer)
                else:
                    answer = ask(server, method, there, cookie)
                    assert answer.status in (200, 400, 403, 404), (route, who, variant, answer)
                    if who == "foreign owner" and variant == "own" and not path.startswith(("/prices", "/upstreams")) and "{}" in path:
                        assert answer.status == 404, (route, answer)
                    if who in ("reader", "member") and path.startswith(("/people", "/audit", "/admin-keys", "/settings", "/limits", "/alerts", "/usage", "/requests", "/keys")):
                        assert answer.status in (403, 404), (route, who, answer)
    after = stored(server)
    # Who is signed in is written down now and then.
    for state in (before, after):
        state.pop("person_session", None)
    assert after == before, "nothing was changed by whoever may not"
    assert seen > 700


def test_a_lead_runs_their_project_and_no_other(world):
    server, ids, visitors = world
    cookie, token = visitors["lead"]
    own, foreign = ids["own"]["project_id"], ids["foreign"]["project_id"]
    other = server.project("Another of ours")
    create = lambda project: ask(server, "POST", f"/projects/{project}/keys/new", cookie, form_token=token, name="by the lead", permissions="all", expires="86400", owner="")
    made = create(own)
    assert made.status == 200 and b"You will not see it again" in made.body
    server.remember(re.search(rb"sk-tgproj-\w+", made.body)[0].decode())
    assert [create(project).status for project in (other, foreign)] == [403, 404] or [create(project).status for project in (other, foreign)] == [403, 403]
    # The limit is set by those who pay.
    refused = ask(server, "POST", f"/projects/{own}/limits", cookie, form_token=token, threshold_amount="1", interval="week", mode="enforce")
    assert refused.status == 403
    # Nobody gives what they do not hold.
    promoted = ask(server, "POST", f"/people/{ids['own']['user_id']}/role", cookie, form_token=token, role="owner")
    assert promoted.status == 403
