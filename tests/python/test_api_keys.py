import datetime

import openai
import pytest

from harness import request

KEYS = "/v1/organization/projects/{}/api_keys"


def test_keys_are_read_through_the_sdk(server):
    keys = server.admin.projects.api_keys
    project = server.project()
    made = [server.key(project, name=f"k{n}")["id"] for n in range(5)]
    assert [k.id for k in keys.list(project, limit=2)] == made
    key = keys.retrieve(made[0], project_id=project)
    assert (key.object, key.name, key.last_used_at, key.expires_at) == ("organization.project.api_key", "k0", None, None)
    assert key.owner.type == "user" and key.owner.user.email == "owner@localhost" and key.owner.user.role == "owner"
    assert key.owner_project_access == "active"
    assert keys.delete(made[0], project_id=project).deleted
    with pytest.raises(openai.NotFoundError):
        keys.delete(made[0], project_id=project)


def test_a_key_can_be_made_for_another_member_or_a_service_account(gateway):
    project, ada = gateway.project(), gateway.user()
    body = {"name": "x", "user_id": ada}
    refused = gateway.post(KEYS.format(project), body)
    assert refused.status == 400 and refused.error["param"] == "user_id", "no member of the project"
    gateway.admin.projects.users.create(project, user_id=ada, role="member")
    key = gateway.key(project, user_id=ada)
    assert key["owner"]["user"]["id"] == ada and key["value"].startswith("sk-tgproj-")

    account = gateway.admin.projects.service_accounts.create(project, name="robot")
    gateway.remember(account.api_key.value)
    key = gateway.key(project, service_account_id=account.id)
    assert key["owner"]["type"] == "service_account" and key["owner"]["service_account"]["id"] == account.id
    assert key["value"].startswith("sk-tgsvc-")
    assert gateway.chat(key["value"]).status == 200


@pytest.mark.parametrize("body, param", [
    ({}, "name"), ({"name": "x" * 256}, "name"), ({"name": "x", "expires_in_seconds": 0}, "expires_in_seconds"),
    ({"name": "x", "expires_in_seconds": 31536001}, "expires_in_seconds"), ({"name": "x", "expires_in_seconds": "1"}, "expires_in_seconds"),
    ({"name": "x", "scopes": ["api.nonsense"]}, "scopes[0]"), ({"name": "x", "scopes": ["api.organization.projects.read"]}, "scopes[0]"),
    ({"name": "x", "scopes": "api.model.request"}, "scopes"), ({"name": "x", "value": "mine"}, "value"),
    ({"name": "x", "user_id": "user-00000000000000000000000000"}, "user_id"), ({"name": "x", "user_id": "nonsense"}, "user_id"),
    ({"name": "x", "service_account_id": "svc_acct_00000000000000000000000000"}, "service_account_id"),
    ({"name": "x", "user_id": "u", "service_account_id": "s"}, "service_account_id"), ({"name": "x", "project_id": "proj_1"}, "project_id"),
])
def test_a_bad_key_is_refused_by_parameter(server, body, param):
    answer = server.post(KEYS.format(server.default_project), body)
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_scopes_are_enforced_and_can_be_changed(gateway):
    key = gateway.key(gateway.default_project, scopes=["api.model.read"])
    client = gateway.client(key["value"])
    assert key["scopes"] == ["api.model.read"]
    assert client.models.list().data
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.chat.completions.create(model="gpt-4o-mini", messages=[])
    assert "Missing scopes: api.model.request" in str(refused.value)

    keys = gateway.admin.projects.api_keys
    keys.update(key["id"], project_id=gateway.default_project, scopes=["api.model.request"])
    assert gateway.chat(key["value"]).status == 200
    with pytest.raises(openai.PermissionDeniedError):
        client.models.list()
    keys.update(key["id"], project_id=gateway.default_project, scopes=["api.all.read"])
    assert client.models.list().data and gateway.chat(key["value"]).status == 403
    keys.update(key["id"], project_id=gateway.default_project, scopes=[])
    assert gateway.chat(key["value"]).status == 200, "no scopes means all"


@pytest.mark.parametrize("body, param", [
    ({}, "name"), ({"scopes": None}, "scopes"), ({"expires_in_seconds": None}, "expires_in_seconds"),
    ({"name": ""}, "name"), ({"expires_in_seconds": 0}, "expires_in_seconds"), ({"scopes": ["x"]}, "scopes[0]"),
])
def test_an_update_needs_something_to_change(server, body, param):
    key = server.key(server.default_project)
    answer = server.post(f"{KEYS.format(server.default_project)}/{key['id']}", body)
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_an_update_stores_both_fields_or_none(server):
    key = server.key(server.default_project)
    path = f"{KEYS.format(server.default_project)}/{key['id']}"
    assert server.post(path, {"scopes": ["nonsense"], "expires_in_seconds": 60}).status == 400
    assert server.get(path).json["expires_at"] is None
    updated = server.post(path, {"scopes": ["api.model.read"], "expires_in_seconds": 60}).json
    assert updated["scopes"] == ["api.model.read"] and updated["expires_at"] > updated["created_at"]
    assert "value" not in updated


def test_last_use_moves_and_survives_a_restart(gateway):
    key = gateway.key(gateway.default_project)
    path = f"{KEYS.format(gateway.default_project)}/{key['id']}"
    assert gateway.get(path).json["last_used_at"] is None
    gateway.client(key["value"]).models.list()
    used = gateway.get(path).json["last_used_at"]
    assert used >= key["created_at"]
    gateway.restart()
    assert gateway.get(path).json["last_used_at"] >= used


def test_a_key_opens_nothing_but_its_own_project(gateway):
    key = gateway.key(gateway.default_project)["value"]
    other = gateway.project()
    for headers, code in [
        ({"OpenAI-Organization": "org-other"}, "mismatched_organization"),
        ({"OpenAI-Project": other}, "mismatched_project"),
    ]:
        refused = gateway.chat(key, headers=headers)
        assert refused.status == 401 and refused.error["code"] == code
    assert gateway.chat(key, headers={"OpenAI-Organization": gateway.organization, "OpenAI-Project": gateway.default_project}).status == 200
    refused = gateway.get("/v1/organization/projects", key=key)
    assert refused.status == 403 and "Missing scopes: api.organization.projects.read" in refused.error["message"]
    refused = gateway.chat(gateway.admin_key)
    assert refused.status == 403 and "api.model.request" in refused.error["message"]


@pytest.mark.parametrize("key, message", [
    (None, "You didn't provide an API key"),
    ("", "You didn't provide an API key"),
    ("short", "Incorrect API key provided: ***."),
    ("sk-tgproj-tooshort", "Incorrect API key provided: ***."),
    ("sk-proj-" + "x" * 40 + "abcd", "Incorrect API key provided: sk-proj-***abcd."),
    ("sk-tgproj-" + "A" * 61, "Incorrect API key provided: sk-tgproj-***AAAA."),
    ("x" * 200, "Incorrect API key provided: ***xxxx."),
])
def test_a_credential_that_is_none_gets_a_401_that_gives_nothing_away(gateway, key, message):
    for path in ["/v1/models", "/v1/organization/projects"]:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        answer = request(gateway.url, "GET", path, headers=headers)
        assert answer.status == 401, answer
        assert answer.error["message"].startswith(message), answer
        assert answer.headers["x-request-id"].startswith("req_")
    basic = request(gateway.url, "GET", "/v1/models", headers={"Authorization": "Basic eDp5"})
    assert basic.status == 401



def test_answers_say_when_their_key_expires_for_its_last_two_weeks(gateway):
    project = gateway.project()
    for days, is_told in [(13, True), (15, False), (None, False)]:
        more = {"expires_in_seconds": days * 86_400} if days else {}
        key = gateway.key(project, **more)
        answers = [gateway.chat(key["value"]), gateway.get("/v1/models", key=key["value"]), gateway.chat(key["value"], model="absent"), gateway.get("/tollgate/v1/me", key=key["value"])]
        assert [answer.status for answer in answers] == [200, 200, 404, 200]
        for answer in answers:
            told = answer.headers.get("x-tollgate-key-expires-at")
            assert (told is not None) == is_told, (days, answer)
            assert not told or datetime.datetime.fromisoformat(told).timestamp() == key["expires_at"]
