"""Several organizations in one installation, and nothing of one seen from another."""

import json

import openai
import pytest

from harness import request, run

ALL = "/tollgate/v1/organizations"


def second(server, name="Other", email="eve@example.com"):
    made = server.post(ALL, {"name": name, "owner_email": email})
    assert made.status == 200, made
    server.remember(made.json["admin_api_key"])
    return made.json


def test_an_operator_makes_and_names_them(server):
    made = second(server)
    assert (made["object"], made["name"], made["frozen_at"]) == ("tollgate.organization", "Other", None)
    assert [one["id"] for one in server.get(ALL).json["data"]] == [server.organization, made["id"]] and server.get(ALL, limit=1).json["has_more"]
    assert server.post(f"{ALL}/{made['id']}", {"name": "Theirs"}).json["name"] == server.get(f"{ALL}/{made['id']}").json["name"] == "Theirs"
    assert server.get(f"{ALL}/org-absent").status == 404
    for body, param in [({"name": "x"}, "owner_email"), ({"owner_email": "a@b.c"}, "name"), ({"name": "", "owner_email": "a@b.c"}, "name"), ({"name": "x", "owner_email": "x"}, "owner_email")]:
        refused = server.post(ALL, body)
        assert refused.status == 400 and refused.error["param"] == param, refused


def test_only_operators_do(server):
    made = second(server)
    for method, path, body in [("GET", ALL, None), ("POST", ALL, {"name": "x", "owner_email": "a@b.c"}), ("GET", f"{ALL}/{made['id']}", None), ("POST", f"{ALL}/{made['id']}", {"name": "x"})]:
        assert server.call(method, path, body, key=made["admin_api_key"]).status == 403


def test_each_is_alone_in_its_house(gateway):
    server, made = gateway, second(gateway)
    theirs = made["admin_api_key"]
    admin = server.client(admin_key=theirs).admin.organization
    assert [project.id for project in admin.projects.list()] == [made["project_id"]] and [user.id for user in admin.users.list()] == [made["user_id"]]
    assert admin.users.retrieve(made["user_id"]).role == "owner"
    key = server.remember(request(server.url, "POST", f"/v1/organization/projects/{made['project_id']}/api_keys", key=theirs, body={"name": "x"}).json["value"])
    assert server.chat(key).status == 200 and server.chat(server.key(server.default_project)["value"]).status == 200
    ours = {name: server.get(path).json["data"] for name, path in {"requests": "/tollgate/v1/requests", "audit": "/v1/organization/audit_logs", "keys": "/tollgate/v1/api_keys"}.items()}
    seen = {name: request(server.url, "GET", path, key=theirs).json["data"] for name, path in {"requests": "/tollgate/v1/requests", "audit": "/v1/organization/audit_logs", "keys": "/tollgate/v1/api_keys"}.items()}
    assert len(ours["requests"]) == len(seen["requests"]) == 1
    for name in ours:
        assert not {one["id"] for one in ours[name]} & {one["id"] for one in seen[name]}, name
    for call in [lambda: admin.projects.retrieve(server.default_project), lambda: admin.users.retrieve(server.owner), lambda: admin.projects.api_keys.list(server.default_project)]:
        with pytest.raises(openai.NotFoundError):
            call()
    mismatched = server.client(key, organization=server.organization)
    with pytest.raises(openai.AuthenticationError):
        mismatched.models.list()
    # The founder is in their log as one who operates the installation, and no more.
    founding = [event for event in seen["audit"] if event["type"] == "user.added"][0]
    assert founding["actor"] == {"type": "session", "session": {"user": {"id": "", "email": ""}, "ip_address": ""}, "operator": True}
    assert run("audit", "verify", *server.place_and_secrets).returncode == 0


def test_the_same_person_owns_in_two(server):
    made = second(server, email="owner@localhost")
    assert made["user_id"] == server.owner
    # What the person may in one says nothing of the other.
    server.user("other@example.com", role="owner")
    server.admin.users.update(server.owner, role="reader")
    assert server.get("/v1/organization/users").status == 403
    assert request(server.url, "GET", "/v1/organization/users", key=made["admin_api_key"]).status == 200
    assert request(server.url, "POST", f"/v1/organization/projects/{server.default_project}/archive", key=made["admin_api_key"], body={}).status == 404


def test_founding_one_gives_nobody_the_keys_of_another(server):
    """Nor more than the founder's own key may, for as long as that may."""
    server.user("other@example.com", role="owner")
    made = server.post(ALL, {"name": "Theirs", "owner_email": "other@example.com"}).json
    assert made["admin_api_key"] is None and made["user_id"] != server.owner
    short = server.post("/v1/organization/admin_api_keys", {"name": "short", "scopes": ["tollgate.operator"], "expires_in_seconds": 3600}).json
    server.remember(short["value"])
    mine = server.post(ALL, {"name": "Mine", "owner_email": "owner@localhost"}, key=short["value"]).json
    server.remember(mine["admin_api_key"])
    me = server.get("/tollgate/v1/me", key=mine["admin_api_key"]).json
    assert (me["scopes"], me["expires_at"]) == (["tollgate.operator"], short["expires_at"])


def test_a_frozen_one_leaves_the_others_alone(gateway):
    made = second(gateway)
    key = gateway.remember(request(gateway.url, "POST", f"/v1/organization/projects/{made['project_id']}/api_keys", key=made["admin_api_key"], body={"name": "x"}).json["value"])
    ours = gateway.key(gateway.default_project)["value"]
    assert request(gateway.url, "POST", "/tollgate/v1/organization/freeze", key=made["admin_api_key"], body={}).status == 200
    assert (gateway.chat(key).status, gateway.chat(ours).status) == (401, 200)
    assert gateway.get(f"{ALL}/{made['id']}").json["frozen_at"]


def test_the_command_line_makes_one(server, tmp_path):
    environment = {"TOLLGATE_URL": server.base_url, "TOLLGATE_ADMIN_KEY": server.admin_key}
    done = run("organization", "create", "Theirs", "--owner-email", "eve@example.com", "--out", tmp_path / "key", "--output", "json", env=environment, check=0)
    key = server.remember((tmp_path / "key").read_text().strip())
    made = json.loads(done.stdout)
    assert made["admin_api_key"] is None and request(server.url, "GET", "/v1/organization/users", key=key).json["data"][0]["email"] == "eve@example.com"
    shown = run("organization", "list", env=environment, check=0).stdout
    assert "Theirs" in shown and made["id"] in shown
    assert "Ours" in run("organization", "update", made["id"], "--name", "Ours", env=environment, check=0).stdout
