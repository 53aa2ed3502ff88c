"""What became of requests beside their money, who sent them, and which limits are nearly used up."""

import time

import pytest

from harness import request, until

CENT = {"model": "gpt-4o", "max_completion_tokens": 1000, "simulate": {"output_tokens": "max"}}
ACTIVITY = "/tollgate/v1/activity"


def of_key(server, project, key):
    return server.get(f"/tollgate/v1/projects/{project}/api_keys/{key['id']}/activity").json


def send(server, key, agent):
    return request(server.url, "GET", "/v1/models", key=key["value"], headers={"user-agent": agent})


def told(reasons):
    return {reason["code"]: reason["num_requests"] for reason in reasons}


def test_what_was_answered_refused_and_failed_is_told_at_once(gateway):
    project = gateway.project()
    key, other = gateway.key(project), gateway.key(project)
    nothing = gateway.get(ACTIVITY).json
    assert (nothing["num_requests"], nothing["duration_p95_ms"], nothing["refused_api_keys"]) == (0, None, [])
    assert nothing["start_time"] % 3600 == 0 and nothing["end_time"] - nothing["start_time"] <= 86_400
    gateway.limit(project, 3)
    assert [gateway.chat(key["value"], **CENT).status for _ in range(4)] == [200, 200, 429, 429]
    assert gateway.chat(other["value"], model="absent").status == 404
    assert gateway.chat(other["value"], model="gpt-4o-mini", simulate={"fault": "status", "status": 400}).status == 400
    # The last is counted just after its answer.
    until(lambda: gateway.get(ACTIVITY).json["num_requests"] == 6)
    activity = gateway.get(ACTIVITY).json
    assert (activity["num_requests"], activity["num_answered"], activity["num_refused"], activity["num_failed"]) == (6, 2, 3, 1)
    assert told(activity["refused"]) == {"project_spend_limit_exceeded": 2, "model_not_found": 1} and told(activity["failed"]) == {"upstream_400": 1}
    assert 0 < activity["duration_p50_ms"] <= activity["duration_p95_ms"]
    assert [(one["api_key_id"], one["name"], one["project_id"], one["num_refused"]) for one in activity["refused_api_keys"]] == [
        (key["id"], key["name"], project, 2), (other["id"], other["name"], project, 1)]
    own = of_key(gateway, project, key)
    assert (own["num_answered"], told(own["refused"]), own["start_time"] % 86_400) == (2, {"project_spend_limit_exceeded": 2}, 0)
    gateway.restart()
    assert {**gateway.get(ACTIVITY).json, "end_time": 0} == {**activity, "end_time": 0}, "it outlives the process"
    assert {**of_key(gateway, project, key), "end_time": 0} == {**own, "end_time": 0}


def test_whoever_tries_a_key_that_opens_nothing_is_seen(gateway):
    project = gateway.project()
    key = gateway.key(project)
    gateway.post(f"/tollgate/v1/projects/{project}/api_keys/{key['id']}/freeze", {})
    assert [send(gateway, key, "old-job/1.0").status for _ in range(3)] == [401] * 3
    until(lambda: of_key(gateway, project, key)["num_requests"] == 3)
    own = of_key(gateway, project, key)
    assert told(own["refused"]) == {"frozen": 3} and [(one["user_agent"], one["num_requests"]) for one in own["clients"]] == [("old-job/1.0", 3)]
    # Whoever has not the secret counts for nothing.
    assert request(gateway.url, "GET", "/v1/models", key=key["value"][:-4] + "AAAA").status == 401
    assert of_key(gateway, project, key)["num_requests"] == 3


def test_the_programs_of_a_key_are_told_apart_and_there_is_an_end_to_them(gateway):
    project = gateway.project()
    key = gateway.key(project)
    assert send(gateway, key, "OpenAI/Python 2.8.0").status == 200
    for number in range(40):
        assert send(gateway, key, f"agent-{number}").status == 200
        if number % 8 == 0:
            of_key(gateway, project, key)
    until(lambda: of_key(gateway, project, key)["num_requests"] == 41)
    clients = of_key(gateway, project, key)["clients"]
    assert sum(client["num_requests"] for client in clients) == 41 and len(clients) == 17
    assert clients[0]["user_agent"] == "others" and "OpenAI/Python 2.8.0" in [client["user_agent"] for client in clients]
    # A key that somebody puts there by mistake is not kept.
    other = gateway.key(project)
    assert send(gateway, other, f"my-agent ({key['value']})").status == 200
    until(lambda: of_key(gateway, project, other)["clients"])
    assert [client["user_agent"] for client in of_key(gateway, project, other)["clients"]] == ["hidden, for it looks like a secret"]


def test_what_a_provider_refuses_or_cuts_is_not_told_as_ours(gateway):
    project = gateway.project()
    key = gateway.key(project)
    assert gateway.chat(key["value"], simulate={"fault": "status", "status": 429}).status == 429
    assert gateway.chat(key["value"], simulate={"fault": "status", "status": 500}).status == 502
    until(lambda: of_key(gateway, project, key)["num_requests"] == 2)
    own = of_key(gateway, project, key)
    assert (own["num_refused"], own["num_failed"]) == (0, 2) and all(reason["code"].startswith("upstream_") for reason in own["failed"]), own


@pytest.mark.parametrize("path, query", [
    (ACTIVITY, {"start_time": 1}), (ACTIVITY, {"start_time": "x"}), (ACTIVITY, {"start_time": int(time.time()) + 10**6}),
    ("/tollgate/v1/spend_limits", {"used_percent_min": 0}), ("/tollgate/v1/spend_limits", {"used_percent_min": 101}), ("/tollgate/v1/spend_limits", {"limit": 0}),
])
def test_a_bad_question_is_refused_by_parameter(server, path, query):
    refused = server.get(path, **query)
    assert refused.status == 400 and refused.error["param"] == list(query)[0], refused


def test_limits_that_are_nearly_used_are_found_at_every_level(gateway):
    project, user = gateway.project(), gateway.user()
    gateway.admin.projects.users.create(project, user_id=user, role="member")
    key = gateway.key(project, user_id=user)
    places = {"project": f"projects/{project}", "user": f"users/{user}", "api_key": f"api_keys/{key['id']}", "organization": "organization"}
    for scope, path in places.items():
        amount = {"organization": 100, "project": 8, "user": 6, "api_key": 6}[scope]
        assert gateway.post(f"/tollgate/v1/{path}/spend_limits", {"threshold_amount": amount, "interval": "day", "mode": "enforce" if scope == "api_key" else "observe"}).status == 200
    used = lambda **query: [(one["scope"], one["scope_id"]) for one in gateway.get("/tollgate/v1/spend_limits", **query).json["data"]]
    assert used(used_percent_min=1) == []
    assert [gateway.chat(key["value"], **CENT).status for _ in range(6)] == [200] * 5 + [429]
    until(lambda: len(used(used_percent_min=1)) == 4)
    assert sorted(used()) == sorted([("user", user), ("api_key", key["id"])])
    assert used(used_percent_min=50)[2:] == [("project", project)] and len(used(used_percent_min=1)) == 4
    assert len(used(used_percent_min=1, limit=1)) == 1
    # Whoever may see limits alone is told no names.
    limits = gateway.post("/v1/organization/admin_api_keys", {"name": "limits", "scopes": ["api.organization.spend_limits.read"]}).json
    seen = request(gateway.url, "GET", "/tollgate/v1/spend_limits?used_percent_min=1", key=gateway.remember(limits["value"])).json["data"]
    assert all(one["scope_name"] == one["scope_id"] for one in seen if one["scope"] != "organization") and len(seen) == 4
    shown = {one["scope"]: one for one in gateway.get("/tollgate/v1/spend_limits").json["data"]}
    assert shown["api_key"]["scope_name"] == key["name"] and shown["api_key"]["project_id"] == project and shown["api_key"]["refused_at"]
    assert shown["api_key"]["used_percent"] == 83 and shown["user"]["scope_name"] and shown["user"]["project_id"] is None


def test_a_key_is_renamed(server):
    project = server.project()
    key = server.key(project)
    path = f"/v1/organization/projects/{project}/api_keys/{key['id']}"
    assert server.post(path, {"name": "another name"}).json["name"] == "another name" == server.get(path).json["name"]
    for bad in ("", None, 5, "x" * 1000):
        refused = server.post(path, {"name": bad})
        assert refused.status == 400 and refused.error["param"] == "name", refused
    event = server.get("/v1/organization/audit_logs", event_types="api_key.updated").json["data"][0]
    assert event["api_key.updated"]["changes_requested"] == {"name": "another name"}


def test_the_organization_says_whether_it_is_frozen(server):
    own = server.get("/tollgate/v1/organization").json
    assert own["object"] == "tollgate.organization" and own["frozen_at"] is None
    server.post("/tollgate/v1/organization/freeze", {})
    assert server.get("/tollgate/v1/organization").json["frozen_at"]


def test_an_upstream_says_how_it_is(gateway):
    health = lambda: {one["name"]: one["health"] for one in gateway.get("/tollgate/v1/upstreams").json["data"]}
    before = health()
    assert set(before.values()) == {"unknown"}
    key = gateway.key(gateway.default_project)
    assert gateway.chat(key["value"]).status == 200
    assert set(health().values()) == {"up"}
    gone = gateway.post("/tollgate/v1/upstreams", {"name": "gone", "base_url": "http://127.0.0.1:9/v1", "models": ["gone-model"]})
    assert gone.status == 200 and gone.json["health"] == "unknown", gone
    assert gateway.post("/tollgate/v1/models/gone-model", {"input_price": "1", "output_price": "1", "max_output_tokens": 100, "context_tokens": 1000}).status == 200
    for _ in range(6):
        assert gateway.chat(key["value"], model="gone-model").status >= 500
    assert health()["gone"] == "down"


def test_lists_of_keys_by_a_time_begin_with_the_first_and_go_on(server):
    project = server.project()
    ends = [server.key(project, name=f"ends {days}", expires_in_seconds=days * 86_400) for days in (9, 3, 12, 5)]
    server.key(project, name="endless")
    soon = int(time.time()) + 11 * 86_400
    ask = lambda **query: server.get("/tollgate/v1/api_keys", **query).json
    assert [key["name"] for key in ask(expires_before=soon)["data"]] == ["ends 3", "ends 5", "ends 9"]
    first = ask(expires_before=soon, limit=2)
    assert first["has_more"] and [key["name"] for key in ask(expires_before=soon, limit=2, after=first["last_id"])["data"]] == ["ends 9"]
    assert ask(unused_since=int(time.time()) - 86_400)["data"] == []
    assert server.process.stop() == 0
    with server.database() as database:
        for position, key in enumerate(ends):
            used = None if position == 2 else (5 - position) * 86_400 + 7
            database.execute("UPDATE api_key SET created_at = ?, last_used_at = ?, rests_since = ? WHERE id = ?", (1_000, used, (used or 1_000) // 86_400 * 86_400, key["id"]))
    server.start()
    rests = ask(unused_since=10 * 86_400, limit=3)
    assert [key["name"] for key in rests["data"]] == ["ends 12", "ends 5", "ends 3"] and rests["has_more"]
    # What is used meanwhile takes nothing from the rest of the list.
    assert server.process.stop() == 0
    with server.database() as database:
        database.execute("UPDATE api_key SET last_used_at = ?, rests_since = ? WHERE id = ?", (10**9, 10**9 // 86_400 * 86_400, ends[1]["id"]))
    server.start()
    assert [key["name"] for key in ask(unused_since=10 * 86_400, limit=3, after=rests["last_id"])["data"]] == ["ends 9"]
    for bad in ("x", "1.key_x", key["id"]):
        refused = server.get("/tollgate/v1/api_keys", unused_since=10 * 86_400, after=bad)
        assert refused.status == 400 and refused.error["param"] == "after", refused
    assert server.delete(f"/v1/organization/projects/{project}/api_keys/{ends[0]['id']}").status == 200
    assert [(key["name"], key["revoked_at"] is None) for key in ask(status="revoked")["data"]] == [("ends 9", False)]
    assert "ends 9" in [key["name"] for key in ask(status="any", limit=100)["data"]]
    assert [key["name"] for key in ask(status="any", ids=[ends[0]["id"], ends[3]["id"], "key_absent"])["data"]] == ["ends 9", "ends 5"]
    assert [key["name"] for key in ask(user_id=server.owner, limit=100)["data"]] == [key["name"] for key in ask(limit=100)["data"]]
