"""Roles, predefined and made; who has which; and what they allow from the next request on."""

import openai
import pytest

OWNER, READER = "role-api-organization-owner", "role-api-organization-reader"
PROJECT_OWNER, MEMBER, VIEWER = "role-api-project-owner", "role-api-project-member", "role-api-project-viewer"


def roles_of(server, where, project):
    return server.admin.roles if where == "organization" else server.admin.projects.roles


def arguments(where, project):
    return [] if where == "organization" else [project]


@pytest.mark.parametrize("where", ["organization", "project"])
def test_the_life_of_a_role(server, where):
    project = server.project()
    roles, at = roles_of(server, where, project), arguments(where, project)
    named = {} if where == "organization" else {"project_id": project}
    made = roles.create(*at, role_name="Helper", permissions=["api.model.read", "api.groups.read"], description="Helps.")
    assert (made.object, made.name, made.description, made.predefined_role) == ("role", "Helper", "Helps.", False)
    assert made.resource_type == f"api.{where}" and sorted(made.permissions) == ["api.groups.read", "api.model.read"]
    listed = list(roles.list(*at, limit=1))
    assert [role.name for role in listed] == (["owner", "reader"] if where == "organization" else ["owner", "member", "viewer"]) + ["Helper"]
    assert [role.predefined_role for role in listed] == [True] * (len(listed) - 1) + [False]
    assert [role.id for role in roles.list(*at, order="desc")] == [role.id for role in reversed(listed)]
    updated = roles.update(made.id, role_name="Assistant", permissions=["api.usage.read"], **named)
    assert (updated.name, updated.permissions, updated.description) == ("Assistant", ["api.usage.read"], "Helps.")
    cleared = server.post(f"/v1/{'organization' if where == 'organization' else 'projects/' + project}/roles/{made.id}", {"description": None}).json
    assert cleared["description"] is None and roles.retrieve(made.id, **named).name == "Assistant"
    deleted = roles.delete(made.id, **named)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "role.deleted", True)
    for call in [roles.retrieve, roles.delete, lambda id, **more: roles.update(id, role_name="x", **more)]:
        with pytest.raises(openai.NotFoundError):
            call(made.id, **named)


@pytest.mark.parametrize("where", ["organization", "project"])
def test_a_predefined_role_has_two_spellings_and_stays_as_it_is(server, where):
    project = server.project()
    roles, at = roles_of(server, where, project), arguments(where, project)
    named = {} if where == "organization" else {"project_id": project}
    resource = server.organization if where == "organization" else project
    for role in roles.list(*at):
        alias, rest = role.id.split("__", 1)
        assert rest == f"api-{where}__{resource}"
        short = roles.retrieve(alias, **named)
        assert short.id == alias and short.permissions == role.permissions and roles.retrieve(role.id, **named) == role
        for call in [roles.delete, lambda id, **more: roles.update(id, role_name="x", **more)]:
            with pytest.raises(openai.BadRequestError) as refused:
                call(role.id, **named)
            assert refused.value.code == "predefined_role"
    elsewhere = f"role-api-project-owner__api-project__{server.default_project}"
    with pytest.raises(openai.NotFoundError):
        server.admin.projects.roles.retrieve(elsewhere, project_id=project)


@pytest.mark.parametrize("body, param", [
    ({"permissions": []}, "role_name"), ({"role_name": "x"}, "permissions"), ({"role_name": "owner", "permissions": []}, "role_name"),
    ({"role_name": "Taken", "permissions": []}, "role_name"), ({"role_name": "x", "permissions": ["api.model.read", "api.nonsense"]}, "permissions[1]"),
    ({"role_name": "x", "permissions": ["tollgate.operator"]}, "permissions[0]"), ({"role_name": "x", "permissions": "api.model.read"}, "permissions"),
    ({"role_name": "", "permissions": []}, "role_name"), ({"role_name": "x", "permissions": [], "description": "x" * 1001}, "description"),
])
def test_a_bad_role_is_refused_by_parameter(server, body, param):
    assert server.post("/v1/organization/roles", {"role_name": "Taken", "permissions": []}).status == 200
    refused = server.post("/v1/organization/roles", body)
    assert refused.status == 400 and refused.error["param"] == param, refused
    if "nonsense" in str(body):
        assert "'api.nonsense'" in refused.error["message"] and "api.usage.read" in refused.error["message"]


def test_what_only_an_organization_can_give_no_role_of_a_project_has(server):
    refused = server.post(f"/v1/projects/{server.project()}/roles", {"role_name": "x", "permissions": ["api.organization.users.read"]})
    assert refused.status == 400 and refused.error["param"] == "permissions[0]"


@pytest.mark.parametrize("who", ["user", "group"])
@pytest.mark.parametrize("where", ["organization", "project"])
def test_the_life_of_an_assignment(server, where, who):
    project, ada = server.project(), server.user()
    group = server.admin.groups.create(name="Team").id
    at = arguments(where, project)
    if where == "project":
        server.admin.projects.users.create(project, user_id=ada, role="member")
        server.admin.projects.groups.create(project, group_id=group, role=VIEWER)
    holders = server.admin if where == "organization" else server.admin.projects
    holders, holder = (holders.users, ada) if who == "user" else (holders.groups, group)
    at = {f"{who}_id": holder, **({"project_id": project} if where == "project" else {})}
    first = {("organization", "user"): ["reader"], ("organization", "group"): [], ("project", "user"): ["member"], ("project", "group"): ["viewer"]}[where, who]
    listing = lambda **more: [role.name for role in holders.roles.list(holder, **{k: v for k, v in at.items() if k == "project_id"}, **more)]
    assert listing() == first
    made = roles_of(server, where, project).create(*arguments(where, project), role_name="Helper", permissions=["api.usage.read"])
    given = holders.roles.create(holder, role_id=made.id, **{k: v for k, v in at.items() if k == "project_id"})
    assert given.object == f"{who}.role" and given.role == made and getattr(given, who).id == holder
    assert holders.roles.create(holder, role_id=made.id, **{k: v for k, v in at.items() if k == "project_id"}) == given, "giving it again changes nothing"
    assert sorted(listing()) == sorted(listing(limit=1)) == sorted([*first, "Helper"])
    one = holders.roles.retrieve(made.id, **at)
    assert (one.name, one.permissions, one.predefined_role) == ("Helper", ["api.usage.read"], False)
    assert [(source.principal_type, source.principal_id) for source in one.assignment_sources] == [(who, holder)]
    refused = server.delete(f"/v1/{'organization' if where == 'organization' else 'projects/' + project}/roles/{made.id}")
    assert refused.status == 400 and refused.error["code"] == "role_in_use"
    gone = holders.roles.delete(made.id, **at)
    assert gone.deleted and gone.object == f"{who}.role.deleted"
    for call in [holders.roles.retrieve, holders.roles.delete]:
        with pytest.raises(openai.NotFoundError):
            call(made.id, **at)
    other = OWNER if where == "project" else MEMBER
    for role in ["role_absent", other]:
        with pytest.raises(openai.BadRequestError) as bad:
            holders.roles.create(holder, role_id=role, **{k: v for k, v in at.items() if k == "project_id"})
        assert bad.value.param == "role_id"


def test_a_role_of_a_group_is_shown_with_its_users(server):
    ada, group = server.user(), server.admin.groups.create(name="Team").id
    server.admin.groups.users.create(group, user_id=ada)
    server.admin.groups.roles.create(group, role_id=READER)
    [role] = list(server.admin.users.roles.list(ada))
    assert role.name == "reader" and [source.principal_id for source in role.assignment_sources] == [group, ada]
    assert server.delete(f"/v1/organization/users/{ada}/roles/{READER}").status == 200
    [role] = list(server.admin.users.roles.list(ada))
    assert [source.principal_type for source in role.assignment_sources] == ["group"]
    assert server.delete(f"/v1/organization/users/{ada}/roles/{READER}").status == 404, "it is the group's"


def test_openai_s_role_field_replaces_the_predefined_role_and_leaves_the_others(server):
    ada, project = server.user(), server.project()
    made = server.admin.roles.create(role_name="Helper", permissions=["api.usage.read"]).id
    assert server.admin.users.update(ada, role_id=made).role == "reader"
    assert server.admin.users.update(ada, role="owner").role == "owner"
    assert sorted(role.name for role in server.admin.users.roles.list(ada)) == ["Helper", "owner"]
    assert server.admin.users.update(ada, role_id=READER).role == "reader"
    assert sorted(role.name for role in server.admin.users.roles.list(ada)) == ["Helper", "reader"]
    both = server.post(f"/v1/organization/users/{ada}", {"role": "owner", "role_id": READER})
    assert both.status == 400 and both.error["param"] == "role_id"
    members = server.admin.projects.users
    assert members.create(project, user_id=ada, role="viewer").role == "viewer"
    assert members.update(ada, project_id=project, role="owner").role == "owner"
    assert [role.name for role in members.roles.list(ada, project_id=project)] == ["owner"]


def test_what_a_role_allows_is_in_force_with_the_next_request(gateway):
    server, project, ada = gateway, gateway.project(), gateway.user()
    members = server.admin.projects.users
    members.create(project, user_id=ada, role="member")
    key = server.key(project, user_id=ada)["value"]
    asks = lambda: server.chat(key).status
    sees = lambda: server.get("/v1/models", key=key).status
    assert (asks(), sees()) == (200, 200)
    members.update(ada, project_id=project, role=VIEWER)
    assert (asks(), sees()) == (403, 200), "who only looks uses no model"
    made = server.admin.projects.roles.create(project, role_name="Caller", permissions=["api.model.request"]).id
    members.roles.create(ada, project_id=project, role_id=made)
    assert asks() == 200
    server.admin.projects.roles.update(made, project_id=project, permissions=["api.usage.read"])
    assert asks() == 403
    server.admin.projects.roles.update(made, project_id=project, permissions=["api.model.request"])
    assert asks() == 200
    members.roles.delete(made, project_id=project, user_id=ada)
    assert asks() == 403
    group = server.admin.groups.create(name="Team").id
    server.admin.groups.users.create(group, user_id=ada)
    server.admin.projects.groups.create(project, group_id=group, role=MEMBER)
    assert asks() == 200, "through a group"
    server.admin.projects.groups.roles.delete(MEMBER, project_id=project, group_id=group)
    assert asks() == 403
    everywhere = server.admin.roles.create(role_name="Everywhere", permissions=["api.model.request"]).id
    server.admin.groups.roles.create(group, role_id=everywhere)
    assert asks() == 200, "a role of the organization reaches into all projects"
    server.admin.groups.users.delete(ada, group_id=group)
    assert asks() == 403
    server.restart()
    assert (asks(), sees()) == (403, 200), "and so it is after a restart"


def demoted(server, *permissions, project=None, project_role=None):
    """Leaves the owner of the server's admin key with just these permissions, and makes another owner."""
    role = server.admin.roles.create(role_name="Helper", permissions=list(permissions)).id if permissions else None
    server.user("other@example.com", role="owner")
    if role:
        server.admin.users.roles.create(server.owner, role_id=role)
    if project:
        server.admin.projects.users.create(project, user_id=server.owner, role=project_role)
    server.admin.users.update(server.owner, role="reader")


def test_nobody_gives_what_they_do_not_hold(server):
    ada, project = server.user(), server.project()
    strong = server.admin.roles.create(role_name="Strong", permissions=["api.usage.read", "api.organization.audit_logs.read"]).id
    weak = server.admin.roles.create(role_name="Weak", permissions=["api.usage.read"]).id
    group = server.admin.groups.create(name="Strong ones").id
    server.admin.groups.roles.create(group, role_id=strong)
    mine = ["api.usage.read", "api.roles.read", "api.roles.write", "api.groups.read", "api.groups.write", "api.organization.users.read", "api.organization.users.write",
            "api.organization.projects.read", "api.organization.projects.users.read", "api.organization.projects.users.write"]
    demoted(server, *mine)
    give = lambda role: server.post(f"/v1/organization/users/{ada}/roles", {"role_id": role})
    assert give(weak).status == 200
    for refused in [
        give(strong), give(OWNER),
        server.post("/v1/organization/roles", {"role_name": "x", "permissions": ["api.organization.audit_logs.read"]}),
        server.post("/v1/organization/roles", {"role_name": "x", "permissions": ["api.management.write"]}),
        server.post(f"/v1/organization/roles/{weak}", {"permissions": ["api.all.read"]}),
        server.post(f"/v1/organization/groups/{group}/users", {"user_id": ada}),
        server.post(f"/v1/organization/groups/{group}/roles", {"role_id": OWNER}),
        server.post(f"/v1/organization/users/{ada}", {"role": "owner"}), server.post(f"/v1/organization/users/{server.owner}", {"role": "owner"}),
        server.post("/tollgate/v1/users", {"email": "eve@example.com", "role": "owner"}),
        server.post(f"/v1/organization/projects/{project}/users", {"user_id": ada, "role": "owner"}),
    ]:
        assert refused.status == 403 and "permission" in refused.error["message"].lower(), refused
    made = server.post("/v1/organization/roles", {"role_name": "Mine", "permissions": ["api.usage.read", "api.roles.read"]})
    assert made.status == 200 and server.post(f"/v1/organization/roles/{made.json['id']}", {"role_name": "Still mine"}).status == 200
    assert server.post("/tollgate/v1/users", {"email": "eve@example.com", "role": "reader"}).status == 200


def test_the_weaker_cannot_disarm_the_stronger(server):
    project, ada, bob = server.project(), server.user(), server.user("bob@example.com")
    strong = server.admin.roles.create(role_name="Strong", permissions=["api.organization.audit_logs.read"]).id
    server.admin.users.roles.create(bob, role_id=strong)
    group = server.admin.groups.create(name="Strong ones").id
    server.admin.groups.roles.create(group, role_id=strong)
    server.admin.groups.users.create(group, user_id=bob)
    server.admin.projects.users.create(project, user_id=ada, role="member")
    server.admin.projects.users.create(project, user_id=bob, role="owner")
    demoted(server, "api.organization.users.write", "api.organization.users.read", "api.roles.write", "api.groups.write", "api.organization.projects.users.write",
            "api.organization.projects.read")
    [other] = server.get("/v1/organization/users", emails="other@example.com").json["data"]
    for method, path, body in [
        ("DELETE", f"/v1/organization/users/{other['id']}", None), ("POST", f"/v1/organization/users/{other['id']}", {"role": "reader"}),
        ("DELETE", f"/v1/organization/users/{bob}", None), ("DELETE", f"/v1/organization/users/{bob}/roles/{strong}", None),
        ("POST", f"/v1/organization/roles/{strong}", {"permissions": []}), ("DELETE", f"/v1/organization/groups/{group}", None),
        ("DELETE", f"/v1/organization/groups/{group}/users/{bob}", None), ("DELETE", f"/v1/organization/groups/{group}/roles/{strong}", None),
        ("DELETE", f"/v1/organization/projects/{project}/users/{bob}", None), ("POST", f"/v1/organization/projects/{project}/users/{bob}", {"role": "member"}),
    ]:
        refused = server.call(method, path, body)
        assert refused.status == 403, (method, path, refused)
    assert server.delete(f"/v1/organization/projects/{project}/users/{ada}").status == 200, "a plain member"
    assert server.delete(f"/v1/organization/users/{ada}").status == 200


def test_a_path_alone_says_who_is_meant(server):
    """Its permission is that of the path: a name in the query or the body must not turn it on somebody else."""
    ada, project, group = server.user(), server.project(), server.admin.groups.create(name="Team").id
    server.admin.projects.users.create(project, user_id=ada, role="member")
    of_group, of_project = f"/v1/organization/groups/{group}/roles", f"/v1/projects/{project}"
    for method, path, body, param in [
        ("DELETE", f"{of_group}/{OWNER}?user_id={server.owner}", None, "user_id"), ("GET", f"{of_group}?user_id={ada}", None, "user_id"),
        ("POST", of_group, {"role_id": READER, "user_id": ada}, "user_id"), ("POST", of_group, {"role_id": MEMBER, "project_id": project}, "project_id"),
        ("GET", f"/v1/organization/users/{ada}/roles?group_id={group}", None, "group_id"), ("GET", f"/v1/organization/users/{ada}/roles?project_id={project}", None, "project_id"),
        ("POST", f"{of_project}/users/{ada}/roles", {"role_id": VIEWER, "group_id": group}, "group_id"),
        ("POST", "/v1/organization/roles", {"role_name": "x", "permissions": [], "project_id": project}, "project_id"),
        ("GET", f"/v1/organization/roles?project_id={project}", None, "project_id"),
    ]:
        refused = server.call(method, path, body)
        assert refused.status == 400 and (refused.error["code"], refused.error["param"]) == ("unknown_parameter", param), (method, path, refused)


def test_an_account_s_key_is_no_way_to_what_its_maker_may_not(server):
    project = server.project()
    weak = server.admin.projects.roles.create(project, role_name="Accounts", permissions=["api.organization.projects.service_accounts.write", "api.organization.projects.read"]).id
    sleeping = server.admin.projects.service_accounts.create(project, name="none", create_service_account_only=True).id
    demoted(server, project=project, project_role=weak)
    accounts = f"/v1/organization/projects/{project}/service_accounts"
    assert server.post(accounts, {"name": "x"}).status == 403
    assert server.post(f"{accounts}/{sleeping}", {"role": "member"}).status == 403
    assert server.post(accounts, {"name": "x", "create_service_account_only": True}).status == 200


def test_whoever_may_manage_everything_can_make_an_owner(server):
    key = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "all", "scopes": ["api.management.read", "api.management.write"]}).json["value"])
    assert server.post("/tollgate/v1/users", {"email": "ada@example.com", "role": "owner"}, key=key).status == 200


def test_whoever_loses_every_role_can_be_given_one_again(server):
    project, ada = server.project(), server.user()
    members = server.admin.projects.users
    members.create(project, user_id=ada, role="member")
    members.roles.delete(MEMBER, project_id=project, user_id=ada)
    assert list(members.roles.list(ada, project_id=project)) == []
    members.create(project, user_id=ada, role="member")
    assert [role.name for role in members.roles.list(ada, project_id=project)] == ["member"]


def test_a_key_says_of_itself_what_it_may(gateway):
    project, ada = gateway.project(), gateway.user()
    gateway.admin.projects.users.create(project, user_id=ada, role=VIEWER)
    key = gateway.key(project, user_id=ada)["value"]
    assert gateway.get("/tollgate/v1/me", key=key).json["models"] == [] and gateway.chat(key).status == 403
    gateway.admin.projects.users.update(ada, project_id=project, role="member")
    assert gateway.get("/tollgate/v1/me", key=key).json["models"] and gateway.chat(key).status == 200


def test_a_project_s_owner_rules_the_project_and_nothing_else(server):
    ours, theirs, ada = server.project("Ours"), server.project("Theirs"), server.user()
    demoted(server, project=ours, project_role="owner")
    one, other = f"/v1/organization/projects/{ours}", f"/v1/organization/projects/{theirs}"
    assert server.get(one).status == server.get(one + "/users").status == server.get(one + "/spend_limit").status - 204 == 200
    assert server.post(one + "/users", {"user_id": ada, "role": "member"}).status == 200
    assert server.post(one + "/api_keys", {"name": "x", "user_id": ada}).status == 200
    assert server.post(one + "/service_accounts", {"name": "robot"}).status == 200
    assert server.post(f"/v1/projects/{ours}/roles", {"role_name": "x", "permissions": ["api.model.read"]}).status == 200
    for key in server.get(one + "/api_keys").json["data"]:
        assert server.delete(f"{one}/api_keys/{key['id']}").status == 200
    limit = {"threshold_amount": 100, "currency": "USD", "interval": "month"}
    for method, path, body in [("POST", one + "/spend_limit", limit), ("POST", one + "/archive", {}), ("GET", other, None), ("GET", other + "/users", None),
                               ("POST", other + "/api_keys", {"name": "x"}), ("GET", "/v1/organization/projects/proj_absent/users", None), ("GET", "/v1/organization/users", None),
                               ("POST", "/v1/organization/projects", {"name": "x"}), ("GET", "/v1/organization/audit_logs", None),
                               ("POST", "/v1/organization/admin_api_keys", {"name": "x"}), ("GET", f"/v1/projects/{theirs}/roles", None)]:
        refused = server.call(method, path, body)
        if path == f"/v1/projects/{theirs}/roles":
            # Roles can be seen by whoever is in the organization.
            assert refused.status == 200
        else:
            assert refused.status == 403, (method, path, refused)


def test_changes_of_roles_and_groups_are_in_the_audit_log(server):
    ada, project = server.user(), server.project()
    group = server.admin.groups.create(name="Team").id
    server.admin.groups.update(group, name="Our team")
    server.admin.groups.users.create(group, user_id=ada)
    role = server.admin.roles.create(role_name="Helper", permissions=["api.usage.read"]).id
    server.admin.roles.update(role, permissions=["api.model.read"])
    server.admin.groups.roles.create(group, role_id=role)
    server.admin.groups.roles.delete(role, group_id=group)
    server.admin.roles.delete(role)
    server.admin.projects.groups.create(project, group_id=group, role=MEMBER)
    server.admin.groups.delete(group)
    events = {}
    for event in server.admin.audit_logs.list(limit=100):
        events.setdefault(event.type, []).append(event)
    [created] = events["role.created"]
    assert (created.role_created.role_name, created.role_created.permissions, created.role_created.resource_type) == ("Helper", ["api.usage.read"], "api.organization")
    changes = events["role.updated"][0].role_updated.changes_requested
    assert (changes.permissions_added, changes.permissions_removed) == (["api.model.read"], ["api.usage.read"])
    assert events["role.deleted"][0].role_deleted.id == role
    given = events["role.assignment.created"][-1].role_assignment_created
    assert (given.principal_id, given.principal_type, given.resource_id, given.resource_type) == (group, "group", server.organization, "api.organization")
    assert given.id == f"role_assignment_{role}_{group}" == events["role.assignment.deleted"][0].role_assignment_deleted.id
    assert events["group.created"][0].group_created.data.group_name == "Team" and events["group.deleted"][0].group_deleted.id == group
    assert {"group.updated", "project.updated"} <= set(events)


def test_whoever_removes_somebody_is_told_which_keys_they_have_seen(server):
    server.user(role="owner")
    project = server.project()
    mine = server.admin.projects.service_accounts.create(project, name="robot")
    server.remember(mine.api_key.value)
    bob = server.user("bob@example.com")
    server.admin.projects.users.create(project, user_id=bob, role="member")
    for_bob = server.key(project, user_id=bob)["id"]
    left = server.delete(f"/v1/organization/users/{server.owner}").json
    assert left["service_account_ids"] == [mine.id] and left["made_api_key_ids"] == [mine.api_key.id, for_bob]
