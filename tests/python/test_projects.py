import openai
import pytest


def test_the_life_of_a_project(server):
    projects = server.admin.projects
    created = projects.create(name="Research")
    assert created.object == "organization.project" and created.status == "active" and created.archived_at is None
    assert projects.retrieve(created.id) == created
    assert projects.update(created.id, name="Research 2").name == "Research 2"
    assert [p.id for p in projects.list()] == [server.default_project, created.id]

    archived = projects.archive(created.id)
    assert archived.status == "archived" and archived.archived_at
    assert projects.archive(created.id) == archived, "archiving again changes nothing"
    assert [p.id for p in projects.list()] == [server.default_project]
    assert [p.id for p in projects.list(include_archived=True)] == [server.default_project, created.id]


def test_lists_page_through_everything_in_the_order_it_was_made(server):
    made = [server.default_project] + [server.project(f"p{n}") for n in range(7)]
    assert [p.id for p in server.admin.projects.list(limit=3)] == made
    page = server.get("/v1/organization/projects", limit=3).json
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", made[0], made[2], True)
    rest = server.get("/v1/organization/projects", limit=100, after=made[6]).json
    assert [p["id"] for p in rest["data"]] == [made[7]] and rest["has_more"] is False
    none = server.get("/v1/organization/projects", after=made[7]).json
    assert none == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_an_archived_project_can_neither_be_used_nor_changed(gateway):
    project = gateway.project()
    key = gateway.key(project)
    user = gateway.user()
    assert gateway.chat(key["value"]).status == 200
    gateway.admin.projects.archive(project)

    refused = gateway.chat(key["value"])
    assert refused.status == 401 and refused.error["code"] == "not_authorized_invalid_project"
    path = f"/v1/organization/projects/{project}"
    for call in [
        lambda: gateway.post(path, {"name": "again"}),
        lambda: gateway.post(f"{path}/api_keys", {"name": "more"}),
        lambda: gateway.post(f"{path}/users", {"user_id": user, "role": "member"}),
        lambda: gateway.get(f"{path}/users"),
        lambda: gateway.get(f"{path}/service_accounts"),
        lambda: gateway.post(f"{path}/service_accounts", {"name": "more"}),
        lambda: gateway.post(f"{path}/spend_limit", {"threshold_amount": 1, "currency": "USD", "interval": "month"}),
    ]:
        answer = call()
        assert answer.status == 400 and answer.error["code"] == "project_archived", answer
    assert gateway.get(f"{path}/api_keys").status == 200, "history can still be read"


def test_the_default_project_stays(server):
    for call in [
        lambda: server.admin.projects.archive(server.default_project),
        lambda: server.admin.projects.update(server.default_project, name="x"),
    ]:
        with pytest.raises(openai.BadRequestError) as refused:
            call()
        assert refused.value.code == "default_project"


@pytest.mark.parametrize("body, param, code", [
    ({}, "name", "missing_required_parameter"),
    ({"name": ""}, "name", "string_below_min_length"),
    ({"name": "  "}, "name", "string_below_min_length"),
    ({"name": "x" * 256}, "name", "string_above_max_length"),
    ({"name": 5}, "name", "invalid_type"),
    ({"name": None}, "name", "invalid_type"),
    ({"name": "a\nb"}, "name", "invalid_value"),
    ({"name": "x", "nam": 1}, "nam", "unknown_parameter"),
    ({"name": "x", "geography": "EU"}, "geography", "unsupported_value"),
    ({"name": "x", "residency": "eu"}, "residency", "unsupported_value"),
    ({"name": "x", "external_key_id": "extkey_1"}, "external_key_id", "unsupported_value"),
])
def test_a_bad_body_names_its_parameter(server, body, param, code):
    answer = server.post("/v1/organization/projects", body)
    assert answer.status == 400, answer
    assert (answer.error["param"], answer.error["code"]) == (param, code), answer
    assert answer.error["type"] == "invalid_request_error" and answer.error["message"]


def test_what_cannot_be_enforced_may_be_null(server):
    body = {"name": "x" * 255, "geography": None, "residency": None, "external_key_id": None}
    assert server.post("/v1/organization/projects", body).status == 200


@pytest.mark.parametrize("query, param", [
    ({"limit": 0}, "limit"), ({"limit": 101}, "limit"), ({"limit": "x"}, "limit"), ({"limit": -1}, "limit"),
    ({"after": "nonsense"}, "after"), ({"after": "user-00000000000000000000000000"}, "after"),
    ({"include_archived": "maybe"}, "include_archived"), ({"unknown": "1"}, "unknown"),
])
def test_a_bad_query_names_its_parameter(server, query, param):
    answer = server.get("/v1/organization/projects", **query)
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_a_body_that_is_no_object_is_told_so(server):
    for body in [b"", b"{", b"[]", b"null", b"5", b'"x"', b'{"name":"a","name":"b"}', b"\xff\xfe", b"[" * 10_000]:
        answer = server.call("POST", "/v1/organization/projects", body)
        assert answer.status == 400 and answer.error["message"], (body[:20], answer)


def test_null_is_a_body_of_nothing(server):
    project = server.project("Null")
    answer = server.call("POST", f"/v1/organization/projects/{project}/archive", b"null")
    assert answer.status == 200 and answer.json["status"] == "archived"
    assert server.call("POST", "/v1/organization/projects", b"null").error["param"] == "name"
