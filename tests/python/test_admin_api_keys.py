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


def machine(server, **more):
    account = server.post(f"/v1/organization/projects/{server.default_project}/service_accounts", {"name": "ci", "create_service_account_only": True}).json["id"]
    body = {"name": "ci", "service_account_id": account, "scopes": ["api.organization.projects.read", "api.organization.projects.write", "api.organization.projects.api_keys.write"], **more}
    made = server.post("/v1/organization/admin_api_keys", body)
    assert made.status == 200, made
    server.remember(made.json["value"])
    return account, made.json


def test_a_service_account_can_own_an_admin_key_and_does_what_its_scopes_say(server):
    account, made = machine(server)
    assert (made["owner"]["type"], made["owner"]["id"], made["project_ids"]) == ("service_account", account, None)
    key = made["value"]
    project = server.post("/v1/organization/projects", {"name": "By a machine"}, key=key)
    assert project.status == 200 and server.get("/v1/organization/projects", key=key).status == 200
    path = f"/v1/organization/projects/{project.json['id']}/api_keys"
    unowned = server.post(path, {"name": "whose"}, key=key)
    assert unowned.status == 400 and unowned.error["param"] == "user_id"
    for_owner = server.post(path, {"name": "hers", "user_id": server.owner}, key=key)
    assert for_owner.status == 200 and server.remember(for_owner.json["value"])
    for method, refused in [("GET", "/v1/organization/users"), ("GET", "/v1/organization/audit_logs"), ("POST", "/v1/organization/admin_api_keys"), ("GET", "/tollgate/v1/upstreams/x/test"),
                            ("POST", "/v1/organization/invites"), ("POST", f"/v1/organization/users/{server.owner}/roles")]:
        assert server.call(method, refused, {} if method == "POST" else None, key=key).status == 403, refused
    me = server.get("/tollgate/v1/me", key=key).json
    assert me["owner"]["service_account"]["id"] == account and not me["is_operator"]
    made_by = [e for e in server.get("/v1/organization/audit_logs").json["data"] if e["type"] == "project.created" and e["project.created"]["data"]["name"] == "By a machine"]
    assert made_by[0]["actor"]["api_key"]["service_account"]["id"] == account
    [found] = [k for k in server.admin.admin_api_keys.list() if k.id == made["id"]]
    assert found.owner.type == "service_account"
    server.restart()
    assert server.get("/v1/organization/projects", key=key).status == 200
    assert server.delete(f"/v1/organization/projects/{server.default_project}/service_accounts/{account}").status == 200
    assert server.get("/v1/organization/projects", key=key).status == 401, "its keys end with it"
    assert server.get(f"/v1/organization/admin_api_keys/{made['id']}").status == 404


def test_an_admin_key_of_a_machine_outlives_who_made_it_and_is_told_of(server):
    ada = server.user("ada@example.com", role="owner")
    key = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "ada"}).json["value"])
    assert server.process.stop() == 0
    with server.database() as database:
        database.execute("UPDATE api_key SET user_id = ? WHERE name = 'ada'", (ada,))
    server.start()
    account = server.post(f"/v1/organization/projects/{server.default_project}/service_accounts", {"name": "ci"}).json
    server.remember(account["api_key"]["value"])
    made = server.post("/v1/organization/admin_api_keys", {"name": "ci", "service_account_id": account["id"], "scopes": ["api.organization.projects.read"]}, key=key).json
    server.remember(made["value"])
    removed = server.delete(f"/v1/organization/users/{ada}").json
    assert made["id"] in removed["made_api_key_ids"] and account["id"] in removed["service_account_ids"], removed
    assert server.get("/v1/organization/projects", key=made["value"]).status == 200 and server.get("/v1/organization/projects", key=key).status == 401


def test_nobody_gives_a_machine_more_than_they_hold(server):
    account = server.post(f"/v1/organization/projects/{server.default_project}/service_accounts", {"name": "ci", "create_service_account_only": True}).json["id"]
    narrow = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "n", "scopes": ["api.organization.admin_api_keys.write", "api.organization.projects.read"]}).json["value"])
    path, wish = "/v1/organization/admin_api_keys", {"name": "m", "service_account_id": account}
    beyond = server.post(path, {**wish, "scopes": ["api.organization.projects.write"]}, key=narrow)
    assert beyond.status == 403, beyond
    for body, param in [({"scopes": []}, "scopes"), ({}, "scopes"), ({"scopes": ["tollgate.operator"]}, "scopes"), ({"scopes": ["api.organization.projects.read"], "project_ids": []}, "project_ids"),
                        ({"scopes": ["api.organization.projects.read"], "project_ids": ["proj_x"]}, "project_ids[0]"), ({"scopes": ["api.organization.projects.read"], "service_account_id": "svc_acct_x"}, "service_account_id")]:
        answer = server.post(path, {**wish, **body})
        assert answer.status == 400 and answer.error["param"] == param, (body, answer)
    strong = server.post(path, {**wish, "scopes": ["api.organization.projects.read", "api.organization.projects.write"]}).json
    server.remember(strong["value"])
    assert server.delete(f"{path}/{strong['id']}", key=narrow).status == 403, "nor do the weaker end what may more than they"


def test_an_admin_key_is_fenced_to_its_projects(server):
    inside, outside = server.project("Inside"), server.project("Outside")
    made = server.post("/v1/organization/admin_api_keys", {"name": "fenced", "project_ids": [inside, inside]}).json
    key = server.remember(made["value"])
    assert made["project_ids"] == [inside]
    assert server.get(f"/v1/organization/projects/{inside}", key=key).status == 200
    child = server.post(f"/v1/organization/projects/{inside}/api_keys", {"name": "child"}, key=key)
    assert child.status == 200 and server.remember(child.json["value"])
    for path in [f"/v1/organization/projects/{outside}", "/v1/organization/projects", "/v1/organization/users", "/tollgate/v1/upstreams", "/tollgate/v1/requests"]:
        assert server.get(path, key=key).status == 403, path
    assert server.post("/v1/organization/admin_api_keys", {"name": "wider"}, key=key).status == 403
    assert server.post("/v1/organization/projects", {"name": "new"}, key=key).status == 403
    me = server.get("/tollgate/v1/me", key=key).json
    assert me["is_operator"] is False and me["project_ids"] == [inside], "an operator's key that is fenced operates nothing"
    assert server.get("/v1/organization/users", key=key).error["code"] == "restricted_to_projects"
    operating = server.post("/v1/organization/admin_api_keys", {"name": "o", "project_ids": [inside], "scopes": ["tollgate.operator"]})
    assert operating.status == 400 and operating.error["param"] == "scopes"
    server.restart()
    assert server.get(f"/v1/organization/projects/{outside}", key=key).status == 403
    assert server.get(f"/v1/organization/projects/{inside}", key=key).status == 200


def test_a_project_takes_the_admin_keys_of_its_machines_with_it(server):
    project = server.project("Ends")
    account = server.post(f"/v1/organization/projects/{project}/service_accounts", {"name": "ci", "create_service_account_only": True}).json["id"]
    key = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "m", "service_account_id": account, "scopes": ["api.organization.projects.read"]}).json["value"])
    assert server.get("/v1/organization/projects", key=key).status == 200
    assert server.post(f"/v1/organization/projects/{project}/archive").status == 200
    assert server.get("/v1/organization/projects", key=key).status == 401


def test_machines_give_no_roles_and_make_keys_for_no_other_machine(server):
    full = {"scopes": ["api.management.read", "api.management.write"]}
    account, made = machine(server, **full)
    key, reader = made["value"], server.user("reader@example.com")
    other = server.post(f"/v1/organization/projects/{server.default_project}/service_accounts", {"name": "other", "create_service_account_only": True}).json["id"]
    group = server.post("/v1/organization/groups", {"name": "Owners"}).json["id"]
    for path, body in [("/tollgate/v1/users", {"email": "planted@example.com", "role": "owner"}), (f"/v1/organization/users/{reader}", {"role": "owner"}),
                       (f"/v1/organization/users/{reader}/roles", {"role_id": "role-api-organization-owner"}), (f"/v1/organization/groups/{group}/roles", {"role_id": "role-api-organization-owner"}),
                       (f"/v1/organization/projects/{server.default_project}/users", {"user_id": reader, "role": "owner"}), ("/v1/organization/roles", {"role_name": "r", "permissions": ["api.organization.projects.read"]}),
                       ("/v1/organization/invites", {"email": "invited@example.com", "role": "owner", "projects": []}),
                       ("/v1/organization/admin_api_keys", {"name": "planted", "service_account_id": other, **full})]:
        answer = server.post(path, body, key=key)
        assert answer.status == 403, (path, answer)
    own = server.post("/v1/organization/admin_api_keys", {"name": "mine", **full}, key=key)
    assert own.status == 200 and own.json["owner"]["id"] == account and server.remember(own.json["value"])
    assert [u["email"] for u in server.get("/v1/organization/users").json["data"]] == ["owner@localhost", "reader@example.com"]


def test_who_may_not_call_models_hands_none_out_through_a_machine(server):
    keeper = server.user("keeper@example.com")
    role = server.post("/v1/organization/roles", {"role_name": "Keeper", "permissions": ["api.organization.admin_api_keys.write", "api.organization.projects.api_keys.write", "api.organization.projects.read"]}).json["id"]
    assert server.post(f"/v1/organization/users/{keeper}/roles", {"role_id": role}).status == 200
    key = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "keeper"}).json["value"])
    account = server.post(f"/v1/organization/projects/{server.default_project}/service_accounts", {"name": "ci", "create_service_account_only": True}).json["id"]
    assert server.process.stop() == 0
    with server.database() as database:
        database.execute("UPDATE api_key SET user_id = ? WHERE name = 'keeper'", (keeper,))
    server.start()
    wish = {"name": "m", "service_account_id": account}
    refused = server.post("/v1/organization/admin_api_keys", {**wish, "scopes": ["api.organization.projects.api_keys.write"]}, key=key)
    assert refused.status == 403 and "api.model.re" in refused.error["message"], refused
    allowed = server.post("/v1/organization/admin_api_keys", {**wish, "scopes": ["api.organization.projects.read"]}, key=key)
    assert allowed.status == 200 and server.remember(allowed.json["value"])


def test_a_machines_key_is_ended_only_by_who_could_have_made_it_and_freezes_with_its_project(server):
    project = server.project("Machines")
    account = server.post(f"/v1/organization/projects/{project}/service_accounts", {"name": "ci", "create_service_account_only": True}).json["id"]
    made = server.post("/v1/organization/admin_api_keys", {"name": "wide", "service_account_id": account, "scopes": ["api.organization.users.read", "api.organization.projects.write"]}).json
    key = server.remember(made["value"])
    fenced = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "fenced", "project_ids": [project]}).json["value"])
    assert server.delete(f"/v1/organization/projects/{project}/service_accounts/{account}", key=fenced).status == 403
    assert server.post(f"/v1/organization/projects/{project}/archive", key=fenced).status == 403
    assert server.get("/v1/organization/users", key=key).status == 200
    assert server.post(f"/tollgate/v1/projects/{project}/freeze").status == 200
    frozen = server.get("/v1/organization/users", key=key)
    assert frozen.status == 401 and frozen.error["code"] == "frozen"
    assert server.post(f"/tollgate/v1/projects/{project}/unfreeze", key=key).status == 401, "it does not thaw itself"
    assert server.post(f"/tollgate/v1/projects/{project}/unfreeze").status == 200
    assert server.get("/v1/organization/users", key=key).status == 200
