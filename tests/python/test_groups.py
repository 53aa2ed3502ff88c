"""Groups: their users have what the group has, for as long as they are in it."""

import openai
import pytest


def test_the_life_of_a_group(server):
    groups = server.admin.groups
    made = [groups.create(name=f"Team {number}") for number in range(3)]
    first = made[0]
    assert (first.name, first.group_type, first.is_scim_managed) == ("Team 0", "group", False)
    assert [group.id for group in groups.list(limit=1)] == [group.id for group in made], "page by page"
    assert [group.id for group in groups.list(order="desc")] == [group.id for group in reversed(made)]
    assert server.get("/v1/organization/groups", limit=0).json == {"object": "list", "data": [], "has_more": False, "next": None}
    assert groups.update(first.id, name="Ours").name == groups.retrieve(first.id).name == "Ours"
    deleted = groups.delete(first.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (first.id, True, "group.deleted")
    for call in [groups.retrieve, groups.delete, lambda id: groups.update(id, name="x"), lambda id: groups.users.list(id), lambda id: groups.roles.list(id)]:
        with pytest.raises(openai.NotFoundError):
            call(first.id)


def test_the_users_of_a_group(server):
    groups, ada, bob = server.admin.groups, server.user(), server.user("bob@example.com")
    group = groups.create(name="Team").id
    added = groups.users.create(group, user_id=ada)
    assert (added.object, added.group_id, added.user_id) == ("group.user", group, ada)
    assert groups.users.create(group, user_id=ada) == added, "adding again changes nothing"
    groups.users.create(group, user_id=bob)
    assert [user.id for user in groups.users.list(group, limit=1)] == [bob, ada], "the newest first"
    assert [user.id for user in groups.users.list(group, order="asc")] == [ada, bob]
    one = groups.users.retrieve(ada, group_id=group)
    assert (one.email, one.is_service_account, one.user_type) == ("ada@example.com", False, "user")
    assert groups.users.delete(ada, group_id=group).object == "group.user.deleted"
    for call in [groups.users.retrieve, groups.users.delete]:
        with pytest.raises(openai.NotFoundError):
            call(ada, group_id=group)
    server.admin.users.delete(bob)
    assert list(groups.users.list(group)) == [], "whoever leaves the organization leaves its groups"


def test_a_group_of_a_project(server):
    group, project = server.admin.groups.create(name="Team").id, server.project()
    groups = server.admin.projects.groups
    added = groups.create(project, group_id=group, role="role-api-project-member")
    assert (added.object, added.project_id, added.group_id, added.group_name) == ("project.group", project, group, "Team")
    assert groups.create(project, group_id=group, role="role-api-project-member") == added == groups.retrieve(group, project_id=project)
    others = [server.admin.groups.create(name=f"Other {number}").id for number in range(2)]
    for other in others:
        groups.create(project, group_id=other, role="role-api-project-viewer")
    assert [one.group_id for one in groups.list(project, limit=1)] == [group, *others]
    assert [role.name for role in groups.roles.list(group, project_id=project)] == ["member"]
    assert groups.delete(group, project_id=project).object == "project.group.deleted"
    with pytest.raises(openai.NotFoundError):
        groups.retrieve(group, project_id=project)
    with pytest.raises(openai.NotFoundError):
        groups.roles.list(group, project_id=project)
    for body, param in [({"group_id": "group_absent", "role": "role-api-project-member"}, "group_id"), ({"group_id": group, "role": "role_absent"}, "role"),
                        ({"group_id": group}, "role"), ({"group_id": group, "role": "role-api-organization-owner"}, "role")]:
        refused = server.post(f"/v1/organization/projects/{project}/groups", body)
        assert refused.status == 400 and refused.error["param"] == param, (body, refused)


@pytest.mark.parametrize("body, param", [({}, "name"), ({"name": ""}, "name"), ({"name": "x" * 256}, "name"), ({"name": 5}, "name"), ({"name": "Team"}, "name"),
                                         ({"name": "x", "y": 1}, "y")])
def test_a_bad_group_is_refused_by_parameter(server, body, param):
    assert server.post("/v1/organization/groups", {"name": "Team"}).status == 200
    refused = server.post("/v1/organization/groups", body)
    assert refused.status == 400 and refused.error["param"] == param, refused


@pytest.mark.parametrize("end", ["leave the group", "delete the group", "take the group out", "leave the organization"])
def test_access_through_a_group_ends_with_it(gateway, end):
    """And so do the keys that stood on it; those of whoever is in the project in person go on."""
    server, project = gateway, gateway.project()
    ada, bob = server.user(), server.user("bob@example.com")
    group = server.admin.groups.create(name="Team").id
    refused = server.post(f"/v1/organization/projects/{project}/api_keys", {"name": "x", "user_id": ada})
    assert refused.status == 400 and refused.error["param"] == "user_id", "not yet a member"
    for user in (ada, bob):
        server.admin.groups.users.create(group, user_id=user)
    server.admin.projects.groups.create(project, group_id=group, role="role-api-project-member")
    server.admin.projects.users.create(project, user_id=bob, role="member")
    keys = [server.key(project, user_id=user) for user in (ada, bob)]
    assert [server.chat(key["value"]).status for key in keys] == [200, 200]
    if end == "leave the group":
        server.admin.groups.users.delete(ada, group_id=group)
    elif end == "delete the group":
        server.admin.groups.delete(group)
    elif end == "take the group out":
        server.admin.projects.groups.delete(group, project_id=project)
    else:
        server.admin.users.delete(ada)
    assert [server.chat(key["value"]).status for key in keys] == [401, 200], "from the next request on"
    if end != "leave the organization":
        shown = server.admin.projects.api_keys.retrieve(keys[0]["id"], project_id=project)
        assert shown.owner_project_access == "inactive"


def test_a_group_is_a_member_s_only_as_far_as_its_adder_could_give(server):
    """Whoever may fill groups cannot make themselves an owner by it."""
    group = server.admin.groups.create(name="Owners").id
    server.admin.groups.roles.create(group, role_id="role-api-organization-owner")
    helper = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "helper", "scopes": ["api.groups.write", "api.groups.read"]}).json["value"])
    ada = server.user()
    refused = server.post(f"/v1/organization/groups/{group}/users", {"user_id": ada}, key=helper)
    assert refused.status == 403, refused
    plain = server.admin.groups.create(name="Plain").id
    assert server.post(f"/v1/organization/groups/{plain}/users", {"user_id": ada}, key=helper).status == 200
    assert server.post(f"/v1/organization/groups/{group}/users", {"user_id": ada}).status == 200
    assert server.admin.users.retrieve(ada).role == "owner"


def test_the_last_owner_may_be_one_through_a_group(server):
    group, ada = server.admin.groups.create(name="Owners").id, server.user()
    server.admin.groups.roles.create(group, role_id="role-api-organization-owner")
    refused = server.delete(f"/v1/organization/users/{server.owner}")
    assert refused.error["code"] == "last_owner", "an empty group owns nothing"
    server.admin.groups.users.create(group, user_id=ada)
    # The owner's own key goes on with less.
    assert server.admin.users.update(server.owner, role="reader").role == "reader"
    server.admin.groups.retrieve(group)
    for method, path, body in [("POST", "/v1/organization/groups", {"name": "x"}), ("DELETE", f"/v1/organization/groups/{group}", None)]:
        assert server.call(method, path, body).status == 403


@pytest.mark.parametrize("path", ["/v1/organization/groups/{group}", "/v1/organization/groups/{group}/users/{user}",
                                  "/v1/organization/groups/{group}/roles/role-api-organization-owner"])
def test_what_would_leave_no_owner_is_refused(server, path):
    group, ada = server.admin.groups.create(name="Owners").id, server.user()
    server.admin.groups.roles.create(group, role_id="role-api-organization-owner")
    server.admin.groups.users.create(group, user_id=server.owner)
    server.admin.groups.users.create(group, user_id=ada)
    assert server.delete(f"/v1/organization/groups/{group}/users/{ada}").status == 200
    # Now an owner through the group alone.
    assert server.delete(f"/v1/organization/users/{server.owner}/roles/role-api-organization-owner").status == 200
    refused = server.delete(path.format(group=group, user=server.owner))
    assert refused.status == 400 and refused.error["code"] == "last_owner", refused
    assert server.admin.users.retrieve(server.owner).role == "owner"
