"""Members of the organization and of projects, and what becomes of their keys."""

import openai
import pytest


def test_the_life_of_a_member(server):
    users = server.admin.users
    created = server.post("/tollgate/v1/users", {"email": " Ada@Example.com ", "name": "Ada", "role": "reader"}).json
    ada = users.retrieve(created["id"])
    assert (ada.object, ada.email, ada.name, ada.role) == ("organization.user", "ada@example.com", "Ada", "reader")
    assert {u.id for u in users.list()} == {server.owner, ada.id}
    assert [u.id for u in users.list(emails=["ADA@example.com"])] == [ada.id]
    assert users.update(ada.id, role="owner").role == "owner"
    labelled = users.update(ada.id, developer_persona="tinkerer", technical_level="high")
    assert (labelled.developer_persona, labelled.technical_level, labelled.role) == ("tinkerer", "high", "owner")
    deleted = users.delete(ada.id)
    assert deleted.deleted and deleted.object == "organization.user.deleted"
    with pytest.raises(openai.NotFoundError):
        users.retrieve(ada.id)
    again = server.post("/tollgate/v1/users", {"email": "ada@example.com", "role": "reader"})
    assert again.json["id"] == ada.id, "the same person"


@pytest.mark.parametrize("body, param", [
    ({"email": "x@y.z", "role": "admin"}, "role"), ({"role": "reader"}, "email"), ({"email": "nonsense", "role": "reader"}, "email"),
    ({"email": "a b@c.d", "role": "reader"}, "email"), ({"email": "x@y.z"}, "role"), ({"email": "x@y.z", "role": "reader", "x": 1}, "x"),
    ({"email": "owner@localhost", "role": "reader"}, "email"),
])
def test_a_bad_member_is_refused_by_parameter(server, body, param):
    answer = server.post("/tollgate/v1/users", body)
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_the_last_owner_cannot_leave_or_step_down(server):
    with pytest.raises(openai.BadRequestError) as refused:
        server.admin.users.delete(server.owner)
    assert refused.value.code == "last_owner"
    with pytest.raises(openai.BadRequestError) as refused:
        server.admin.users.update(server.owner, role="reader")
    assert refused.value.code == "last_owner"
    other = server.user(role="owner")
    server.admin.users.update(other, role="reader")
    assert server.admin.users.retrieve(server.owner).role == "owner"


def test_the_life_of_a_project_member(server):
    project, ada = server.project(), server.user()
    members = server.admin.projects.users
    added = members.create(project, user_id=ada, role="member")
    assert (added.object, added.id, added.role, added.email) == ("organization.project.user", ada, "member", "ada@example.com")
    assert members.create(project, email="ada@example.com", role="member") == added, "adding again changes nothing"
    assert [m.id for m in members.list(project)] == [ada]
    assert members.retrieve(ada, project_id=project) == added
    assert members.update(ada, project_id=project, role="owner").role == "owner"
    assert members.delete(ada, project_id=project).object == "organization.project.user.deleted"
    with pytest.raises(openai.NotFoundError):
        members.retrieve(ada, project_id=project)


@pytest.mark.parametrize("body, param", [
    ({"role": "member"}, "user_id"), ({"role": "member", "user_id": "a", "email": "b"}, "user_id"),
    ({"role": "member", "user_id": "user-00000000000000000000000000"}, "user_id"), ({"role": "member", "email": "x@y.z"}, "email"),
    ({"role": "king", "email": "owner@localhost"}, "role"), ({"email": "owner@localhost"}, "role"),
])
def test_a_bad_project_member_is_refused_by_parameter(server, body, param):
    answer = server.post(f"/v1/organization/projects/{server.default_project}/users", body)
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_removal_from_a_project_stops_the_keys_and_return_leaves_them_off(gateway):
    project, ada = gateway.project(), gateway.user()
    members, keys = gateway.admin.projects.users, gateway.admin.projects.api_keys
    members.create(project, user_id=ada, role="member")
    key = gateway.key(project, user_id=ada)
    gone = gateway.key(project, user_id=ada)
    keys.delete(gone["id"], project_id=project)
    assert gateway.chat(key["value"]).status == 200

    members.delete(ada, project_id=project)
    refused = gateway.chat(key["value"])
    assert refused.status == 401 and refused.error["code"] == "invalid_api_key"
    assert [k.id for k in keys.list(project)] == [], "hidden, as its owner has no access"
    inactive = [k for k in keys.list(project, owner_project_access="inactive")]
    assert [(k.id, k.owner_project_access) for k in inactive] == [(key["id"], "inactive")]
    assert [k.id for k in keys.list(project, owner_project_access="any")] == [key["id"]]

    members.create(project, user_id=ada, role="member")
    assert gateway.chat(key["value"]).status == 401
    body = {"user_id": ada, "role": "member", "reactivate_keys": True}
    assert gateway.post(f"/v1/organization/projects/{project}/users", body).status == 200
    assert gateway.chat(key["value"]).status == 200
    assert gateway.chat(gone["value"]).status == 401, "a revoked key never comes back"


def test_removal_from_the_organization_ends_all_keys_and_lists_them(gateway):
    project, ada = gateway.project(), gateway.user(role="owner")
    gateway.admin.projects.users.create(project, user_id=ada, role="member")
    here = gateway.key(project, user_id=ada)
    there = gateway.key(gateway.default_project, user_id=ada)
    other = gateway.key(project)

    answer = gateway.delete(f"/v1/organization/users/{ada}").json
    assert sorted(answer["revoked_api_key_ids"]) == sorted([here["id"], there["id"]])
    assert {gateway.chat(key["value"]).status for key in (here, there)} == {401}
    assert gateway.chat(other["value"]).status == 200

    gateway.post("/tollgate/v1/users", {"email": "ada@example.com", "role": "owner"})
    body = {"user_id": ada, "role": "member", "reactivate_keys": True}
    assert gateway.post(f"/v1/organization/projects/{project}/users", body).status == 200
    assert {gateway.chat(key["value"]).status for key in (here, there)} == {401}, "for good"


def test_an_owner_who_becomes_a_reader_keeps_only_the_projects_they_are_in(gateway):
    inside, outside, ada = gateway.project("in"), gateway.project("out"), gateway.user(role="owner")
    gateway.admin.projects.users.create(inside, user_id=ada, role="member")
    kept, lost = gateway.key(inside, user_id=ada), gateway.key(outside, user_id=ada)
    gateway.admin.users.update(ada, role="reader")
    assert gateway.chat(kept["value"]).status == 200
    assert gateway.chat(lost["value"]).status == 401
    gateway.admin.users.update(ada, role="owner")
    assert gateway.chat(lost["value"]).status == 401, "nothing comes back by itself"
