"""Freezing: as quick as revoking, and it can be undone."""

import pytest

from harness import run


@pytest.fixture
def held(gateway):
    """A project with a user's key and a service account's; all it takes to freeze them."""
    project, ada = gateway.project(), gateway.user()
    gateway.admin.projects.users.create(project, user_id=ada, role="member")
    key = gateway.key(project, user_id=ada)
    account = gateway.admin.projects.service_accounts.create(project, name="robot")
    gateway.remember(account.api_key.value)
    return {"project": project, "user": ada, "key": key, "robot": account.api_key.value}


@pytest.mark.parametrize("what, of_user, of_robot", [("key", 401, 200), ("user", 401, 200), ("project", 401, 401), ("organization", 401, 401)])
def test_what_is_frozen_opens_nothing_until_it_is_thawed(gateway, held, what, of_user, of_robot):
    path = {"key": f"/tollgate/v1/projects/{held['project']}/api_keys/{held['key']['id']}", "user": f"/tollgate/v1/users/{held['user']}",
            "project": f"/tollgate/v1/projects/{held['project']}", "organization": "/tollgate/v1/organization"}[what]
    use = lambda: (gateway.chat(held["key"]["value"]).status, gateway.chat(held["robot"]).status)
    assert use() == (200, 200)
    frozen = gateway.post(path + "/freeze", {})
    assert frozen.status == 200 and frozen.json["object"] == "tollgate.freeze" and frozen.json["frozen"] and frozen.json["frozen_at"], frozen
    assert use() == (of_user, of_robot)
    refused = gateway.chat(held["key"]["value"])
    assert refused.error["code"] == "frozen" and held["key"]["value"] not in refused.error["message"]
    again = gateway.post(path + "/freeze", {})
    assert again.json == frozen.json, "twice is once"
    gateway.restart()
    assert use() == (of_user, of_robot)
    thawed = gateway.post(path + "/unfreeze", {}).json
    assert (thawed["frozen"], thawed["frozen_at"]) == (False, None) and use() == (200, 200)
    event = {"key": "api_key.updated", "user": "user.updated", "project": "project.updated", "organization": "organization.updated"}[what]
    told = [entry[event]["changes_requested"] for entry in gateway.get("/v1/organization/audit_logs", event_types=event).json["data"]]
    assert told[:2] == [{"frozen": False}, {"frozen": True}]


def test_what_is_frozen_says_so(gateway, held):
    project = f"/v1/organization/projects/{held['project']}"
    shown = [f"{project}/api_keys/{held['key']['id']}", f"/v1/organization/users/{held['user']}", project]
    assert [gateway.get(path).json["frozen_at"] for path in shown] == [None] * 3
    for path in [f"projects/{held['project']}/api_keys/{held['key']['id']}", f"users/{held['user']}", f"projects/{held['project']}"]:
        assert gateway.post(f"/tollgate/v1/{path}/freeze", {}).status == 200
    assert all(gateway.get(path).json["frozen_at"] for path in shown)


def test_a_frozen_admin_administers_nothing(server):
    other = server.user("other@example.com", role="owner")
    key = server.post("/v1/organization/admin_api_keys", {"name": "second"}).json
    second, path = server.remember(key["value"]), f"/tollgate/v1/admin_api_keys/{key['id']}"
    assert server.get("/v1/organization/projects", key=second).status == 200
    own = server.post(f"{path}/freeze", {}, key=second)
    assert own.status == 400 and own.error["code"] == "own_key"
    assert server.post(f"{path}/freeze", {}).status == 200
    assert server.get("/v1/organization/projects", key=second).status == 401
    assert server.post("/v1/organization/projects", {"name": "x"}, key=second).error["code"] == "frozen"
    assert server.post(f"{path}/unfreeze", {}).status == 200 and server.get("/v1/organization/projects", key=second).status == 200
    me = server.post(f"/tollgate/v1/users/{server.owner}/freeze", {})
    assert me.status == 400 and me.error["code"] == "own_user"
    # A frozen owner is none to fall back on.
    assert server.post(f"/tollgate/v1/users/{other}/freeze", {}).status == 200
    assert server.admin.users.retrieve(other).role == "owner"
    stay = server.post(f"/v1/organization/users/{server.owner}", {"role": "reader"})
    assert stay.status == 400 and stay.error["code"] == "last_owner"


def test_absent_things_cannot_be_frozen(server):
    project = server.project()
    for path in ["projects/proj_absent", f"projects/{project}/api_keys/key_absent", "users/user-absent", "admin_api_keys/key_absent"]:
        for word in ("freeze", "unfreeze"):
            assert server.post(f"/tollgate/v1/{path}/{word}", {}).status == 404
    server.admin.projects.archive(project)
    assert server.post(f"/tollgate/v1/projects/{project}/freeze", {}).error["code"] == "project_archived"


def test_the_weaker_cannot_freeze_the_stronger(server):
    """Not one who owns through a group either, nor their admin keys."""
    group, ada = server.admin.groups.create(name="Owners").id, server.user()
    server.admin.groups.roles.create(group, role_id="role-api-organization-owner")
    server.admin.groups.users.create(group, user_id=ada)
    own = server.post("/v1/organization/admin_api_keys", {"name": "owner's"}).json
    server.remember(own["value"])
    weak = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "weak", "scopes": ["api.organization.users.write", "api.organization.admin_api_keys.write"]}).json["value"])
    for method, path in [("POST", f"/tollgate/v1/users/{ada}/freeze"), ("DELETE", f"/v1/organization/users/{ada}")]:
        assert server.call(method, path, {} if method == "POST" else None, key=weak).status == 403
    # Another's keys are another's power; one's own are one's own to end.
    assert server.call("DELETE", f"/v1/organization/admin_api_keys/{own['id']}", key=weak).status == 200


def test_a_frozen_owner_is_recovered_at_the_machine(server):
    other = server.user("other@example.com", role="owner")
    assert server.post(f"/tollgate/v1/users/{other}/freeze", {}).status == 200
    assert server.process.stop() == 0
    key = server.remember(run("recover", *server.place_and_secrets, "--owner-email", "other@example.com", check=0).stdout.strip())
    server.start()
    assert server.get("/v1/organization/users", key=key).status == 200 and server.admin.users.retrieve(other).frozen_at is None
    assert run("audit", "verify", *server.place_and_secrets).returncode == 0
