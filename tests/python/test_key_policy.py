"""What an organization asks of new keys, the same wherever they are made."""


import pytest

POLICY = "/tollgate/v1/organization/key_policy"


def made(server, project):
    """Every way to make a key, by what it is called."""
    account = server.admin.projects.service_accounts.create(project, name="robot", create_service_account_only=True).id
    one = f"/v1/organization/projects/{project}"
    return {
        "project key": (one + "/api_keys", {"name": "x"}), "key of an account": (one + "/api_keys", {"name": "x", "service_account_id": account}),
        "account": (one + "/service_accounts", {"name": "y"}), "second key": (f"{one}/service_accounts/{account}/api_keys", {}),
        "admin key": ("/v1/organization/admin_api_keys", {"name": "x"}),
    }


def expiry(server, answer):
    assert answer.status == 200, answer
    body = answer.json
    key = body.get("api_key") or body
    server.remember(key["value"])
    return key["expires_at"] and key["expires_at"] - key["created_at"]


def test_the_policy_is_shown_and_changed_part_by_part(server):
    usual = {"object": "tollgate.key_policy", "default_expires_in_seconds": None, "max_expires_in_seconds": None, "key_owners": "any"}
    assert server.get(POLICY).json == usual == server.post(POLICY, {}).json
    assert server.post(POLICY, {"max_expires_in_seconds": 86_400}).json == {**usual, "max_expires_in_seconds": 86_400}
    assert server.post(POLICY, {"default_expires_in_seconds": 3_600, "key_owners": "service_accounts"}).json["max_expires_in_seconds"] == 86_400
    server.restart()
    assert server.get(POLICY).json == {**usual, "default_expires_in_seconds": 3_600, "max_expires_in_seconds": 86_400, "key_owners": "service_accounts"}
    assert server.post(POLICY, {"default_expires_in_seconds": None, "max_expires_in_seconds": None, "key_owners": "any"}).json == usual


@pytest.mark.parametrize("body, param", [
    ({"max_expires_in_seconds": 0}, "max_expires_in_seconds"), ({"max_expires_in_seconds": 31_536_001}, "max_expires_in_seconds"),
    ({"default_expires_in_seconds": "x"}, "default_expires_in_seconds"), ({"key_owners": "nobody"}, "key_owners"), ({"x": 1}, "x"),
    ({"default_expires_in_seconds": 100, "max_expires_in_seconds": 99}, "default_expires_in_seconds"),
])
def test_a_bad_policy_is_refused_by_parameter(server, body, param):
    refused = server.post(POLICY, body)
    assert refused.status == 400 and refused.error["param"] == param, refused


def test_every_way_to_make_a_key_obeys_it(server):
    project = server.project()
    ways = made(server, project)
    make = lambda way, **more: server.post(way[0], {**way[1], **more})
    assert {name: expiry(server, make(way)) for name, way in ways.items()} == dict.fromkeys(ways)
    server.post(POLICY, {"default_expires_in_seconds": 3_600})
    assert {name: expiry(server, make(way)) for name, way in ways.items()} == dict.fromkeys(ways, 3_600)
    assert expiry(server, make(ways["project key"], expires_in_seconds=7_200)) == 7_200
    server.post(POLICY, {"default_expires_in_seconds": None, "max_expires_in_seconds": 86_400})
    for name, way in ways.items():
        for more, code in [({}, "missing_required_parameter"), ({"expires_in_seconds": 86_401}, "integer_above_max_value")]:
            refused = make(way, **more)
            assert refused.status == 400 and (refused.error["param"], refused.error["code"]) == ("expires_in_seconds", code), (name, refused)
        assert expiry(server, make(way, expires_in_seconds=86_400)) == 86_400
    key = server.get(f"/v1/organization/projects/{project}/api_keys").json["data"][0]["id"]
    longer = server.post(f"/v1/organization/projects/{project}/api_keys/{key}", {"expires_in_seconds": 90_000})
    assert longer.status == 400 and longer.error["param"] == "expires_in_seconds"


def test_moving_an_expiry_again_and_again_does_not_outlive_the_maximum(server):
    project = server.project()
    server.post(POLICY, {"max_expires_in_seconds": 86_400})
    key = server.key(project, expires_in_seconds=3_600)
    path = f"/v1/organization/projects/{project}/api_keys/{key['id']}"
    assert server.post(path, {"expires_in_seconds": 80_000}).status == 200
    assert server.process.stop() == 0
    with server.database() as database:
        database.execute("UPDATE api_key SET created_at = created_at - 80000 WHERE id = ?", (key["id"],))
    server.start()
    refused = server.post(path, {"expires_in_seconds": 80_000})
    assert refused.status == 400 and refused.error["param"] == "expires_in_seconds", refused
    assert server.post(path, {"expires_in_seconds": 3_600}).status == 200


def test_a_default_that_nobody_asked_for_refuses_nobody(server):
    short = server.post("/v1/organization/admin_api_keys", {"name": "short", "expires_in_seconds": 3_600}).json
    server.remember(short["value"])
    server.post(POLICY, {"default_expires_in_seconds": 86_400})
    made = server.post("/v1/organization/admin_api_keys", {"name": "x"}, key=short["value"])
    server.remember(made.json["value"])
    assert made.status == 200 and made.json["expires_at"] == short["expires_at"]


def test_an_organization_can_ask_for_keys_of_accounts_only(server):
    project = server.project()
    ways = made(server, project)
    server.post(POLICY, {"key_owners": "service_accounts"})
    for name, (path, body) in ways.items():
        answer = server.post(path, body)
        if name == "project key":
            assert answer.status == 400 and (answer.error["param"], answer.error["code"]) == ("user_id", "service_accounts_only")
        else:
            expiry(server, answer)
