import openai
import pytest


def test_the_life_of_an_admin_key(server):
    keys = server.admin.admin_api_keys
    created = keys.create(name="ops", expires_in_seconds=3600)
    server.remember(created.value)
    assert created.object == "organization.admin_api_key" and created.value.startswith("sk-tgadmin-")
    assert created.owner.id == server.owner and created.owner.role == "owner" and created.owner.type == "user"
    assert created.expires_at - created.created_at == 3600
    assert server.get("/v1/organization/projects", key=created.value).status == 200
    assert keys.retrieve(created.id).last_used_at
    ids = [k.id for k in keys.list()]
    assert ids[-1] == created.id and [k.id for k in keys.list(order="desc", limit=1)] == ids[::-1]
    assert keys.delete(created.id).object == "organization.admin_api_key.deleted"
    assert server.get("/v1/organization/projects", key=created.value).status == 401
    with pytest.raises(openai.NotFoundError):
        keys.retrieve(created.id)


def made(server, key=None, **body):
    answer = server.post("/v1/organization/admin_api_keys", {"name": "x", **body}, key=key)
    if answer.status == 200:
        server.remember(answer.json["value"])
    return answer


def test_scopes_restrict_an_admin_key(server):
    reader = made(server, scopes=["api.management.read"]).json["value"]
    assert server.get("/v1/organization/projects", key=reader).status == 200
    refused = server.post("/v1/organization/projects", {"name": "x"}, key=reader)
    assert refused.status == 403 and "api.organization.projects.write" in refused.error["message"]
    assert server.get("/tollgate/v1/upstreams", key=reader).status == 200
    assert server.post("/tollgate/v1/upstreams", {}, key=reader).status == 403, "no operator"
    operator = made(server, scopes=["tollgate.operator"]).json["value"]
    assert server.post("/tollgate/v1/models/m", {"input_price": "1"}, key=operator).status == 200
    assert server.get("/v1/organization/projects", key=operator).status == 403


def test_a_key_made_by_a_key_has_at_most_its_scopes_and_its_life(server):
    parent = made(server, scopes=["api.organization.admin_api_keys.write"], expires_in_seconds=1000).json
    child = made(server, key=parent["value"])
    assert child.json["scopes"] == parent["scopes"] and child.json["expires_at"] == parent["expires_at"]
    wider = made(server, key=parent["value"], scopes=["api.management.write"])
    assert wider.status == 403 and wider.error["param"] == "scopes"
    everything = made(server, key=parent["value"], scopes=[])
    assert everything.status == 403, "an empty list would be all"
    longer = made(server, key=parent["value"], expires_in_seconds=2000)
    assert longer.status == 400 and longer.error["param"] == "expires_in_seconds"


def test_a_key_is_judged_anew_at_every_request(server):
    ada = server.user(role="owner")
    # There is no way to make a key for somebody else, so the first owner steps down.
    assert server.admin.users.update(server.owner, role="reader").role == "reader"
    refused = server.get("/v1/organization/projects")
    assert refused.status == 403
    assert server.get("/tollgate/v1/me").status == 200
    assert ada


@pytest.mark.parametrize("body, param", [
    ({"name": ""}, "name"), ({"name": "x", "expires_in_seconds": 31536001}, "expires_in_seconds"),
    ({"name": "x", "scopes": ["api.model.request"]}, "scopes[0]"), ({"name": "x", "projects": []}, "projects"),
])
def test_a_bad_admin_key_is_refused_by_parameter(server, body, param):
    answer = server.post("/v1/organization/admin_api_keys", body)
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_an_admin_key_can_end_itself(server):
    key = made(server).json
    assert server.delete(f"/v1/organization/admin_api_keys/{key['id']}", key=key["value"]).status == 200
    assert server.get("/tollgate/v1/me", key=key["value"]).status == 401
