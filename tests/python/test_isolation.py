"""What belongs to another organization is as absent as what does not exist: the same status, the same bytes."""

import time

import pytest

ABSENT = "00000000000000000000000000"


@pytest.fixture
def foreign(server):
    """Another organization beside ours, as a later version will make it; its ids, by the names in paths."""
    project = server.project("theirs")
    user = server.user("theirs@example.com")
    server.admin.projects.users.create(project, user_id=user, role="member")
    key = server.key(project, user_id=user)
    account = server.admin.projects.service_accounts.create(project, name="robot")
    server.remember(account.api_key.value)
    admin = server.post("/v1/organization/admin_api_keys", {"name": "theirs"}).json
    server.remember(admin["value"])
    server.limit(project, 500)
    group = server.admin.groups.create(name="theirs").id
    server.admin.groups.users.create(group, user_id=user)
    server.admin.projects.groups.create(project, group_id=group, role="role-api-project-member")
    role = server.admin.roles.create(role_name="theirs", permissions=[]).id
    server.admin.users.roles.create(user, role_id=role)
    project_role = server.admin.projects.roles.create(project, role_name="theirs", permissions=[]).id
    limit = server.get(f"/tollgate/v1/projects/{project}/spend_limits").json["data"][0]["id"]
    assert server.process.stop() == 0
    with server.database() as database:
        other = "org-" + ABSENT[:-1] + "1"
        database.execute("INSERT INTO organization (id, name, created_at) VALUES (?, 'Other', 0)", (other,))
        for table, column, value in [("project", "id", project), ("organization_user", "user_id", user), ("api_key", "project_id", project),
                                     ("api_key", "id", admin["id"]), ("spend_limit", "id", limit), ("user_group", "id", group),
                                     ("role", "id", role), ("role_assignment", "principal_id", user), ("role_assignment", "principal_id", group)]:
            database.execute(f"UPDATE {table} SET organization_id = ? WHERE {column} = ?", (other, value))
        for table, column in [("role", "id"), ("role_assignment", "role_id")]:
            database.execute(f"UPDATE {table} SET resource_id = ? WHERE {column} = ?", (other, role))
    server.start()
    return {"project_id": project, "user_id": user, "api_key_id": key["id"], "service_account_id": account.id, "key_id": admin["id"], "spend_limit_id": limit,
            "group_id": group, "role_id": role, "project_role_id": project_role}


def test_foreign_and_absent_are_answered_alike_and_nothing_changes(server, foreign):
    prefixes = {"project_id": "proj_", "user_id": "user-", "api_key_id": "key_", "service_account_id": "svc_acct_", "key_id": "key_", "spend_limit_id": "spend_limit_",
                "group_id": "group_", "role_id": "role_", "project_role_id": "role_"}
    absent = {name: prefix + ABSENT for name, prefix in prefixes.items()}
    project = "/v1/organization/projects/{project_id}"
    limit = {"threshold_amount": 1, "currency": "USD", "interval": "month"}
    operations = [
        ("GET", project, None), ("POST", project, {"name": "x"}), ("POST", project + "/archive", {}),
        ("GET", project + "/users", None), ("POST", project + "/users", {"email": "owner@localhost", "role": "member"}),
        ("GET", project + "/users/{user_id}", None), ("POST", project + "/users/{user_id}", {"role": "owner"}),
        ("DELETE", project + "/users/{user_id}", None),
        ("GET", project + "/api_keys", None), ("POST", project + "/api_keys", {"name": "x"}), ("GET", project + "/api_keys/{api_key_id}", None),
        ("POST", project + "/api_keys/{api_key_id}", {"scopes": []}), ("DELETE", project + "/api_keys/{api_key_id}", None),
        ("GET", project + "/service_accounts", None), ("POST", project + "/service_accounts", {"name": "x"}),
        ("GET", project + "/service_accounts/{service_account_id}", None),
        ("POST", project + "/service_accounts/{service_account_id}", {"name": "x"}),
        ("DELETE", project + "/service_accounts/{service_account_id}", None),
        ("POST", project + "/service_accounts/{service_account_id}/api_keys", {"name": "x"}),
        ("GET", project + "/spend_limit", None), ("POST", project + "/spend_limit", limit), ("DELETE", project + "/spend_limit", None),
        ("GET", "/v1/organization/users/{user_id}", None), ("POST", "/v1/organization/users/{user_id}", {"role": "owner"}),
        ("DELETE", "/v1/organization/users/{user_id}", None),
        ("GET", "/v1/organization/admin_api_keys/{key_id}", None), ("DELETE", "/v1/organization/admin_api_keys/{key_id}", None),
    ]
    group, of_project = "/v1/organization/groups/{group_id}", "/v1/projects/{project_id}"
    member = {"role_id": "role-api-organization-reader"}
    operations += [
        ("GET", group, None), ("POST", group, {"name": "x"}), ("DELETE", group, None), ("GET", group + "/users", None), ("POST", group + "/users", {"user_id": server.owner}),
        ("GET", group + "/users/{user_id}", None), ("DELETE", group + "/users/{user_id}", None), ("GET", group + "/roles", None), ("POST", group + "/roles", member),
        ("GET", group + "/roles/{role_id}", None), ("DELETE", group + "/roles/{role_id}", None),
        ("GET", "/v1/organization/roles/{role_id}", None), ("POST", "/v1/organization/roles/{role_id}", {"role_name": "x"}), ("DELETE", "/v1/organization/roles/{role_id}", None),
        ("GET", "/v1/organization/users/{user_id}/roles", None), ("POST", "/v1/organization/users/{user_id}/roles", member),
        ("GET", "/v1/organization/users/{user_id}/roles/{role_id}", None), ("DELETE", "/v1/organization/users/{user_id}/roles/{role_id}", None),
        ("GET", project + "/groups", None), ("POST", project + "/groups", {"group_id": "x", "role": "role-api-project-member"}),
        ("GET", project + "/groups/{group_id}", None), ("DELETE", project + "/groups/{group_id}", None),
        ("GET", of_project + "/roles", None), ("POST", of_project + "/roles", {"role_name": "x", "permissions": []}),
        ("GET", of_project + "/roles/{project_role_id}", None), ("POST", of_project + "/roles/{project_role_id}", {"role_name": "x"}),
        ("DELETE", of_project + "/roles/{project_role_id}", None),
    ]
    for holder in ["users/{user_id}", "groups/{group_id}"]:
        roles = f"{of_project}/{holder}/roles"
        operations += [("GET", roles, None), ("POST", roles, {"role_id": "role-api-project-member"}), ("GET", roles + "/{project_role_id}", None), ("DELETE", roles + "/{project_role_id}", None)]
    for scope in ["projects/{project_id}", "users/{user_id}", "api_keys/{api_key_id}"]:
        limits = f"/tollgate/v1/{scope}/spend_limits"
        ours = {"threshold_amount": 1, "interval": "day"}
        operations += [("GET", limits, None), ("POST", limits, ours), ("GET", limits + "/try?threshold_amount=1&interval=day", None),
                       ("GET", limits + "/{spend_limit_id}", None), ("POST", limits + "/{spend_limit_id}", {"threshold_amount": 1}),
                       ("DELETE", limits + "/{spend_limit_id}", None)]
    policy = "/tollgate/v1/projects/{project_id}/spend_policy"
    operations += [("GET", policy, None), ("POST", policy, {"wait_ms": 1})]
    one = "/tollgate/v1/organization/spend_limits/{spend_limit_id}"
    operations += [("GET", one, None), ("POST", one, {"threshold_amount": 1}), ("DELETE", one, None)]
    # Each foreign thing is also asked for under a project of ours.
    own = {**foreign, "project_id": server.default_project}
    before = stored(server)
    for method, path, body in operations:
        theirs = server.call(method, path.format(**foreign), body)
        nothing = server.call(method, path.format(**absent), body)
        malformed = server.call(method, path.format(**{name: "x%27;--" for name in foreign}), body)
        assert theirs.status == 404 and theirs.error["code"] == "not_found", (method, path, theirs)
        assert theirs.body == nothing.body == malformed.body, (method, path)
        if path.startswith(project + "/") and path.endswith("_id}"):
            assert server.call(method, path.format(**own), body).body == nothing.body.replace(b"such project", b"such " + _name(path)), (method, path)
    assert stored(server) == before
    _unite(server)


def stored(server):
    """All rows, but for when keys were last used, which every request moves."""
    return server.stored()


def _name(path):
    return {"user_id": b"user", "api_key_id": b"API key", "service_account_id": b"service account", "group_id": b"group"}[path.rsplit("{", 1)[1].rstrip("}")]


def test_lists_and_filters_show_nothing_foreign(server, foreign):
    assert [p["id"] for p in server.get("/v1/organization/projects", include_archived="true").json["data"]] == [server.default_project]
    assert [u["id"] for u in server.get("/v1/organization/users").json["data"]] == [server.owner]
    assert foreign["key_id"] not in server.get("/v1/organization/admin_api_keys").body.decode()
    for query in [{"project_ids": foreign["project_id"]}, {"user_ids": foreign["user_id"]}, {"api_key_ids": foreign["api_key_id"]}]:
        page = server.get("/v1/organization/usage/completions", start_time=1, limit=1, **query).json
        assert page["data"][0]["results"] == []
    body = {"name": "x", "user_id": foreign["user_id"]}
    refused = server.post(f"/v1/organization/projects/{server.default_project}/api_keys", body)
    assert refused.status == 400 and refused.error["param"] == "user_id"
    _unite(server)


def _unite(server):
    """Puts things back, so that the books are checked as one organization's."""
    assert server.process.stop() == 0
    with server.database() as database:
        for table in ("role", "role_assignment"):
            database.execute(f"UPDATE {table} SET resource_id = ? WHERE resource_id LIKE 'org-%'", (server.organization,))
        for table in ("project", "organization_user", "api_key", "spend_limit", "user_group", "role", "role_assignment"):
            database.execute(f"UPDATE {table} SET organization_id = ?", (server.organization,))
        database.execute("DELETE FROM organization WHERE id <> ?", (server.organization,))
    server.start()


def test_an_operator_without_management_sees_what_operators_see_and_nothing_else(gateway):
    made = gateway.post("/v1/organization/admin_api_keys", {"name": "operator", "scopes": ["tollgate.operator"]})
    if made.status == 200:
        key = gateway.remember(made.json["value"])
        assert gateway.get("/tollgate/v1/upstreams", key=key).json["data"][0]["base_url"]
        assert gateway.get("/tollgate/v1/fsck", key=key).status == gateway.get("/tollgate/v1/models", key=key).status == 200
        assert gateway.get("/v1/organization/projects", key=key).status in (401, 403)
        assert gateway.get("/tollgate/v1/requests", key=key).status in (401, 403)
    reader = gateway.remember(gateway.post("/v1/organization/admin_api_keys", {"name": "r", "scopes": ["api.management.read"]}).json["value"])
    assert gateway.get("/tollgate/v1/fsck", key=reader).status == 403
    upstream = gateway.get("/tollgate/v1/upstreams").json["data"][0]["id"]
    assert gateway.get(f"/tollgate/v1/upstreams/{upstream}/costs", key=reader, start_time=0).status == 403


def test_an_upstream_s_costs_are_for_its_operator(gateway):
    upstream = gateway.get("/tollgate/v1/upstreams").json["data"][0]["id"]
    key = gateway.key(gateway.default_project)["value"]
    for _ in range(2):
        assert gateway.chat(key).status == 200
    buckets = gateway.get(f"/tollgate/v1/upstreams/{upstream}/costs", start_time=int(time.time()) - 86_400).json["data"]
    [result] = [result for bucket in buckets for result in bucket["results"]]
    recorded = gateway.requests()
    assert result["requests"] == 2 and result["model"] == "gpt-4o-mini"
    assert result["output_tokens"] == sum(r["output_tokens"] for r in recorded)
    assert float(result["cost"]) == pytest.approx(sum(float(r["cost"]) for r in recorded))
    assert gateway.get("/tollgate/v1/upstreams/upstream_absent/costs", start_time=0).status == 404
    refused = gateway.get(f"/tollgate/v1/upstreams/{upstream}/costs")
    assert refused.status == 400 and refused.error["param"] == "start_time"
