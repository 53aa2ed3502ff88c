"""Another secret for the same key: what it is and what it has spent stays, and the secret before ends when it is to."""

import re

import pytest

from harness import request, run

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


def chat(server, secret):
    return request(server.url, "POST", "/v1/chat/completions", key=secret, body=CHAT)


def rotate(server, project, key, **body):
    answer = server.post(f"/v1/organization/projects/{project}/api_keys/{key}/rotate", body)
    assert answer.status == 200, answer
    server.remember(answer.json["value"])
    return answer.json


def test_the_key_stays_and_the_secret_before_ends_at_once(gateway):
    project = gateway.project()
    key = gateway.key(project, scopes=["api.model.request"], expires_in_seconds=86_400)
    gateway.post(f"/tollgate/v1/api_keys/{key['id']}/spend_limits", {"threshold_amount": 1_000, "interval": "month"})
    assert chat(gateway, key["value"]).status == 200
    turned = rotate(gateway, project, key["id"])
    assert turned["value"] != key["value"] and turned["redacted_value"] != key["redacted_value"]
    assert {name: turned[name] for name in ("id", "name", "scopes", "expires_at", "owner", "created_at", "labels")} == {
        name: key[name] for name in ("id", "name", "scopes", "expires_at", "owner", "created_at", "labels")}
    assert turned["previous_secret"] is None and turned["rotated_at"] >= key["created_at"]
    before = chat(gateway, key["value"])
    assert before.status == 401 and before.error["code"] == "invalid_api_key"
    assert chat(gateway, turned["value"]).status == 200
    # What it has spent under both counts together, under the same limit.
    assert len(gateway.get("/tollgate/v1/requests", api_key_id=key["id"]).json["data"]) == 2
    me = request(gateway.url, "GET", "/tollgate/v1/me", key=turned["value"]).json
    [limit] = gateway.get(f"/tollgate/v1/api_keys/{key['id']}/spend_limits").json["data"]
    assert me["id"] == key["id"] and me["spent"] == limit["spent"] != "0.000000000"


def test_in_its_grace_the_secret_before_works_and_is_seen_being_used(gateway):
    project = gateway.project()
    key = gateway.key(project)
    turned = rotate(gateway, project, key["id"], grace_seconds=3_600)
    old = turned["previous_secret"]
    assert old["redacted_value"] == key["redacted_value"] and old["expires_at"] - old["replaced_at"] == 3_600 and old["last_used_at"] is None
    assert chat(gateway, turned["value"]).status == 200
    one = f"/v1/organization/projects/{project}/api_keys/{key['id']}"
    assert gateway.get(one).json["previous_secret"]["last_used_at"] is None, "only the new one was used"
    answer = chat(gateway, key["value"])
    assert answer.status == 200 and answer.headers["x-tollgate-key-expires-at"]
    assert gateway.get(one).json["previous_secret"]["last_used_at"] >= old["replaced_at"]
    # It survives a restart, and is told apart still.
    gateway.restart()
    seen = gateway.get(one).json
    assert seen["previous_secret"]["last_used_at"] >= old["replaced_at"] and chat(gateway, key["value"]).status == 200
    for secret in (key, turned):
        assert gateway.get("/tollgate/v1/me", key=secret["value"]).json["redacted_value"] == secret["redacted_value"], "of the secret that was asked with"
    ended = gateway.delete(one + "/previous_secret")
    assert ended.status == 200 and ended.json["previous_secret"] is None
    assert chat(gateway, key["value"]).status == 401 and chat(gateway, turned["value"]).status == 200
    assert gateway.delete(one + "/previous_secret").status == 404
    # A revoked key has no secret at all.
    again = rotate(gateway, project, key["id"], grace_seconds=60)
    assert gateway.delete(one).status == 200
    assert chat(gateway, again["value"]).status == chat(gateway, turned["value"]).status == 401


def test_two_secrets_at_most(gateway):
    project = gateway.project()
    first = gateway.key(project)
    second = rotate(gateway, project, first["id"], grace_seconds=3_600)
    third = rotate(gateway, project, first["id"], grace_seconds=3_600)
    assert [chat(gateway, key["value"]).status for key in (first, second, third)] == [401, 200, 200]
    assert third["previous_secret"]["redacted_value"] == second["redacted_value"]


def test_the_grace_ends_by_itself(gateway):
    project = gateway.project()
    key = gateway.key(project)
    turned = rotate(gateway, project, key["id"], grace_seconds=3_600)
    assert gateway.process.stop() == 0
    with gateway.database() as database:
        database.execute("UPDATE api_key_secret SET expires_at = 1000 WHERE replaced_at IS NOT NULL")
    gateway.start()
    refused = chat(gateway, key["value"])
    assert refused.status == 401 and "expired" in refused.error["message"]
    assert chat(gateway, turned["value"]).status == 200
    assert gateway.get(f"/v1/organization/projects/{project}/api_keys/{key['id']}").json["previous_secret"] is None


@pytest.mark.parametrize("grace", [-1, 2_592_001, "soon", None, 1.5])
def test_a_grace_is_some_seconds_of_a_month(gateway, grace):
    project = gateway.project()
    key = gateway.key(project)
    answer = gateway.post(f"/v1/organization/projects/{project}/api_keys/{key['id']}/rotate", {"grace_seconds": grace})
    if grace is None:
        assert answer.status == 200
        gateway.remember(answer.json["value"])
    else:
        assert answer.status == 400 and answer.error["param"] == "grace_seconds"
        assert chat(gateway, key["value"]).status == 200, "nothing was changed"


def test_nobody_gets_a_secret_of_more_than_they_have(gateway):
    project, user = gateway.project(), gateway.user("lead@example.com")
    gateway.admin.projects.users.create(project, user_id=user, role="owner")
    key = gateway.key(project)
    path = f"/v1/organization/projects/{project}/api_keys/{key['id']}/rotate"
    machine = gateway.post("/v1/organization/projects/{}/service_accounts".format(project), {"name": "robot", "create_service_account_only": True}).json["id"]
    keeper = gateway.post("/v1/organization/admin_api_keys", {"name": "reads", "scopes": ["api.organization.projects.api_keys.read"]}).json
    gateway.remember(keeper["value"])
    assert gateway.post(path, {}, key=keeper["value"]).status == 403
    # An admin key acts for its owner: nobody else gets a secret of it.
    made = gateway.post("/v1/organization/admin_api_keys", {"name": "robot's", "service_account_id": machine, "scopes": ["api.organization.admin_api_keys.write"]}).json
    gateway.remember(made["value"])
    other = gateway.post("/v1/organization/admin_api_keys", {"name": "owner's"}).json
    gateway.remember(other["value"])
    refused = gateway.post(f"/v1/organization/admin_api_keys/{other['id']}/rotate", {}, key=made["value"])
    assert refused.status == 403, refused
    narrow = gateway.post("/v1/organization/admin_api_keys", {"name": "narrow", "scopes": ["api.organization.admin_api_keys.write"], "expires_in_seconds": 3_600}).json
    gateway.remember(narrow["value"])
    for reason, answer in {"scopes": gateway.post(f"/v1/organization/admin_api_keys/{other['id']}/rotate", {}, key=narrow["value"])}.items():
        assert answer.status == 403 and reason in answer.error["message"], answer
    turned = gateway.post(f"/v1/organization/admin_api_keys/{other['id']}/rotate", {"grace_seconds": 60})
    assert turned.status == 200
    gateway.remember(turned.json["value"])
    assert [gateway.get("/v1/organization/projects", key=secret).status for secret in (other["value"], turned.json["value"])] == [200, 200]
    assert gateway.delete(f"/v1/organization/admin_api_keys/{other['id']}/previous_secret").status == 200
    assert gateway.get("/v1/organization/projects", key=other["value"]).status == 401


def test_an_expired_and_an_absent_key_cannot_be_rotated(gateway):
    project = gateway.project()
    key = gateway.key(project)
    assert gateway.process.stop() == 0
    with gateway.database() as database:
        database.execute("UPDATE api_key SET expires_at = 1000 WHERE id = ?", (key["id"],))
    gateway.start()
    refused = gateway.post(f"/v1/organization/projects/{project}/api_keys/{key['id']}/rotate", {})
    assert refused.status == 400 and refused.error["code"] == "api_key_expired"
    other = gateway.project("Other")
    assert gateway.post(f"/v1/organization/projects/{other}/api_keys/{key['id']}/rotate", {}).status == 404


def test_rotation_is_on_record_without_the_secret(gateway):
    project = gateway.project()
    key = gateway.key(project)
    rotate(gateway, project, key["id"], grace_seconds=60)
    gateway.delete(f"/v1/organization/projects/{project}/api_keys/{key['id']}/previous_secret")
    events = gateway.get("/v1/organization/audit_logs", resource_ids=key["id"]).json["data"]
    told = [event["api_key.updated"]["changes_requested"] for event in events if event["type"] == "api_key.updated"]
    assert told == [{"secret": "previous_ended"}, {"secret": "rotated", "grace_seconds": 60}]


def test_a_person_has_keys_of_their_own(gateway):
    """Who may use a project's models may have keys for that, and looks after them without being an owner."""
    project, other = gateway.project(), gateway.project("Other")
    ada, eve = gateway.user("ada@example.com"), gateway.user("eve@example.com")
    gateway.admin.projects.users.create(project, user_id=ada, role="member")
    keys = {}
    for name, user in {"ada": ada, "eve": eve}.items():
        made = gateway.post("/v1/organization/admin_api_keys", {"name": name}).json
        keys[name] = gateway.remember(made["value"])
        assert gateway.process.stop() == 0
        with gateway.database() as database:  # An admin key is its maker's.
            database.execute("UPDATE api_key SET user_id = ? WHERE id = ?", (user, made["id"]))
        gateway.start()
    assert [one["id"] for one in gateway.get("/tollgate/v1/me/projects", key=keys["ada"]).json["data"]] == [project]
    assert gateway.get("/tollgate/v1/me/projects", key=keys["eve"]).json["data"] == []
    made = gateway.post("/tollgate/v1/me/api_keys", {"project_id": project, "name": "laptop"}, key=keys["ada"])
    assert made.status == 200 and made.json["owner"]["user"]["id"] == ada, made
    gateway.remember(made.json["value"])
    assert chat(gateway, made.json["value"]).status == 200
    for who, where in [("ada", other), ("eve", project), ("ada", "proj_nonsense")]:
        refused = gateway.post("/tollgate/v1/me/api_keys", {"project_id": where, "name": "x"}, key=keys[who])
        assert refused.status == 400 and refused.error["param"] == "project_id", refused
    [own] = gateway.get("/tollgate/v1/me/api_keys", key=keys["ada"]).json["data"]
    assert own["id"] == made.json["id"] and own["spent"] != "0.000000000" and own["held"] == "0.000000000"
    assert gateway.get("/tollgate/v1/me/api_keys", key=keys["eve"]).json["data"] == []
    one = f"/tollgate/v1/me/api_keys/{own['id']}"
    assert gateway.post(one + "/rotate", {}, key=keys["eve"]).status == gateway.delete(one, key=keys["eve"]).status == 404
    turned = gateway.post(one + "/rotate", {"grace_seconds": 60}, key=keys["ada"])
    assert turned.status == 200
    gateway.remember(turned.json["value"])
    assert gateway.delete(one + "/previous_secret", key=keys["ada"]).status == 200
    assert [chat(gateway, key["value"]).status for key in (made.json, turned.json)] == [401, 200]
    assert gateway.delete(one, key=keys["ada"]).status == 200 and chat(gateway, turned.json["value"]).status == 401
    # The organization's key policy is for these too.
    assert gateway.post("/tollgate/v1/organization/key_policy", {"key_owners": "service_accounts"}).status == 200
    assert gateway.post("/tollgate/v1/me/api_keys", {"project_id": project, "name": "x"}, key=keys["ada"]).status == 400
    # It opens nothing to whoever holds a project's key.
    assert gateway.get("/tollgate/v1/me/api_keys", key=gateway.key(project, service_account_id=gateway.post(f"/v1/organization/projects/{project}/service_accounts", {"name": "r", "create_service_account_only": True}).json["id"])["value"]).status == 403


def test_keys_are_found_by_what_matters_of_them(gateway):
    project, other = gateway.project(), gateway.project("Other")
    soon = gateway.key(project, "Ends soon", expires_in_seconds=86_400)
    late = gateway.key(other, "ends_late 50%", expires_in_seconds=31_536_000)
    never = gateway.key(project, "Never")
    gateway.post(f"/tollgate/v1/projects/{project}/api_keys/{never['id']}/freeze")
    found = lambda **query: [key["id"] for key in gateway.get("/tollgate/v1/api_keys", **query).json["data"]]
    now = soon["created_at"]
    assert found() == [soon["id"], late["id"]]
    assert found(expires_before=now + 14 * 86_400) == [soon["id"]]
    assert found(expires="false") == [] and found(expires="false", status="frozen") == [never["id"]]
    assert found(name="ENDS") == [soon["id"], late["id"]] and found(name="_late 50%") == [late["id"]] and found(name="%e%") == []
    assert found(project_id=other) == [late["id"]] and found(user_id=gateway.owner) == [soon["id"], late["id"]]
    assert found(unused_since=now + 10) == [soon["id"], late["id"]] and found(unused_since=now - 10) == []
    assert chat(gateway, soon["value"]).status == 200
    assert found(status="expired") == [] and found(status="inactive") == []
    assert gateway.get("/tollgate/v1/api_keys", status="odd").status == 400


def test_projects_and_people_are_found_by_name(server):
    ids = {name: server.project(name) for name in ("Search", "research 100%", "Chat")}
    found = lambda **query: [one["id"] for one in server.get("/v1/organization/projects", **query).json["data"]]
    assert found(name="search") == [ids["Search"], ids["research 100%"]] and found(name="100%") == [ids["research 100%"]]
    assert found(name="x") == []
    ada = server.user("ada@example.com")
    assert [one["id"] for one in server.get("/v1/organization/users", name="ADA@").json["data"]] == [ada]


def test_the_secret_before_cannot_make_itself_last(gateway):
    """A leaked admin key in its grace gives neither a secret without an end, nor a password."""
    made = gateway.post("/v1/organization/admin_api_keys", {"name": "leaked"}).json
    gateway.remember(made["value"])
    turned = gateway.post(f"/v1/organization/admin_api_keys/{made['id']}/rotate", {"grace_seconds": 600})
    gateway.remember(turned.json["value"])
    refused = gateway.post(f"/v1/organization/admin_api_keys/{made['id']}/rotate", {}, key=made["value"])
    assert refused.status == 403 and "outlives" in refused.error["message"], refused
    again = gateway.post(f"/v1/organization/admin_api_keys/{made['id']}/rotate", {"grace_seconds": 60}, key=turned.json["value"])
    assert again.status == 200
    gateway.remember(again.json["value"])


def test_metrics_count_a_key_once(gateway):
    project = gateway.project()
    key = gateway.key(project)
    count = lambda: re.search(r'tollgate_api_keys\{[^}]*active[^}]*\} (\d+)|tollgate_keys\{[^}]*active[^}]*\} (\d+)', gateway.get("/metrics").body.decode())[0].split()[-1]
    before = count()
    rotate(gateway, project, key["id"], grace_seconds=3_600)
    assert count() == before


def test_names_beyond_ascii_are_found(server):
    id = server.project("Ärzte & Co")
    found = lambda name: [one["id"] for one in server.get("/v1/organization/projects", name=name).json["data"]]
    assert found("Ärzte") == [id] and found("rzte & co") == [id]


def test_a_policy_against_peoples_keys_is_one_against_their_new_secrets(gateway):
    key = gateway.post("/tollgate/v1/me/api_keys", {"project_id": gateway.default_project, "name": "own"}).json
    gateway.remember(key["value"])
    assert gateway.post("/tollgate/v1/organization/key_policy", {"key_owners": "service_accounts"}).status == 200
    assert gateway.post(f"/tollgate/v1/me/api_keys/{key['id']}/rotate", {}).status == 400
    assert gateway.delete(f"/tollgate/v1/me/api_keys/{key['id']}").status == 200
