"""Every administration operation that is served, called by OpenAI's Python SDK with strict response validation: made, read, listed
over several pages, changed, ended, and absent afterwards. What is called is taken down and compared with what is served."""

import re
import time

import httpx2
import openai
import pytest
from openai import OpenAI

from test_openapi import document, same_path, sdk_operations  # noqa: F401, the fixture

USD = {"currency": "USD", "interval": "month", "threshold_amount": 500}


class Recorder(httpx2.HTTPTransport):
    """Notes the method and the path of each call."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def handle_request(self, request):
        self.calls.append((request.method, request.url.path))
        return super().handle_request(request)


@pytest.fixture
def recorded(server):
    calls = []
    client = OpenAI(base_url=server.base_url, api_key="unused", admin_api_key=server.admin_key, max_retries=0, _strict_response_validation=True,
                    http_client=httpx2.Client(transport=Recorder(calls)))
    yield client.admin.organization, calls
    client.close()


def gone(call, *args, **names):
    with pytest.raises(openai.NotFoundError):
        call(*args, **names)


def all_of(pages, id_of=lambda item: item.id):
    """Pages of one item each, to the end."""
    return [id_of(item) for item in pages]


def test_every_operation_that_is_served_is_called_through_the_sdk(server, recorded, document):  # noqa: F811
    org, calls = recorded
    projects = [org.projects.create(name=f"Project {number}").id for number in range(3)]
    project = projects[0]
    assert all_of(org.projects.list(limit=1)) == [server.default_project, *projects]
    assert org.projects.retrieve(project).name == "Project 0" and org.projects.update(project, name="Renamed").name == "Renamed"
    people = [server.user(f"user{number}@example.com") for number in range(3)]
    user = people[0]

    # Users of the organization and of a project
    assert set(people) <= set(all_of(org.users.list(limit=1)))
    assert org.users.retrieve(user).email == "user0@example.com" and org.users.update(user, developer_persona="builder").developer_persona == "builder"
    for one in people:
        org.projects.users.create(project, user_id=one, role="member")
    assert all_of(org.projects.users.list(project, limit=1)) == people
    assert org.projects.users.retrieve(user, project_id=project).role == "member"
    assert org.projects.users.update(user, project_id=project, role="owner").role == "owner"

    # Roles of the organization and of a project
    made = [org.roles.create(role_name=f"Role {number}", permissions=["api.organization.projects.read"]).id for number in range(3)]
    there = [org.projects.roles.create(project, role_name=f"There {number}", permissions=["api.model.request"]).id for number in range(3)]
    role, role_there = made[0], there[0]
    assert set(made) <= set(all_of(org.roles.list(limit=1))) and set(there) <= set(all_of(org.projects.roles.list(project, limit=1)))
    assert org.roles.retrieve(role).name == "Role 0" and org.projects.roles.retrieve(role_there, project_id=project).name == "There 0"
    assert org.roles.update(role, description="d").description == "d"
    assert org.projects.roles.update(role_there, project_id=project, description="d").description == "d"

    # Groups: their users, their roles, at projects
    groups = [org.groups.create(name=f"Group {number}").id for number in range(3)]
    group = groups[0]
    assert all_of(org.groups.list(limit=1)) == groups and org.groups.retrieve(group).name == "Group 0"
    assert org.groups.update(group, name="Renamed").name == "Renamed"
    for one in people:
        org.groups.users.create(group, user_id=one)
    assert set(all_of(org.groups.users.list(group, limit=1))) == set(people) and org.groups.users.retrieve(user, group_id=group).email == "user0@example.com"
    for at in projects[:2]:
        org.projects.groups.create(at, group_id=group, role="role-api-project-member")
    org.projects.groups.create(project, group_id=groups[1], role="role-api-project-member")
    assert all_of(org.projects.groups.list(project, limit=1), lambda item: item.group_id) == groups[:2]
    assert org.projects.groups.retrieve(group, project_id=project).group_name == "Renamed"

    # Who has which role
    holders = [(org.users.roles, user, {}), (org.groups.roles, group, {}), (org.projects.users.roles, user, {"project_id": project}), (org.projects.groups.roles, group, {"project_id": project})]
    for roles, holder, where in holders:
        given = there if where else made
        for one in given:
            roles.create(holder, role_id=one, **where)
        assert set(given) <= set(all_of(roles.list(holder, limit=1, **where)))
        name = "user_id" if holder == user else "group_id"
        assert roles.retrieve(given[0], **{name: holder}, **where).id == given[0]
        for one in given:
            roles.delete(one, **{name: holder}, **where)
        gone(roles.retrieve, given[0], **{name: holder}, **where)

    # Service accounts and keys
    accounts = [org.projects.service_accounts.create(project, name=f"Account {number}") for number in range(3)]
    for account in accounts:
        server.remember(account.api_key.value)
    account = accounts[0].id
    assert all_of(org.projects.service_accounts.list(project, limit=1)) == [one.id for one in accounts]
    assert org.projects.service_accounts.retrieve(account, project_id=project).name == "Account 0"
    assert org.projects.service_accounts.update(account, project_id=project, name="Renamed").name == "Renamed"
    server.remember(org.projects.service_accounts.api_keys.create(account, project_id=project, name="more").value)
    keys = all_of(org.projects.api_keys.list(project, limit=1))
    assert len(keys) == 4 and org.projects.api_keys.retrieve(keys[0], project_id=project).id == keys[0]
    assert org.projects.api_keys.update(keys[0], project_id=project, scopes=["api.model.read"]).id == keys[0]
    assert org.projects.api_keys.delete(keys[0], project_id=project).deleted
    gone(org.projects.api_keys.retrieve, keys[0], project_id=project)
    admin = [org.admin_api_keys.create(name=f"Admin {number}") for number in range(2)]
    for one in admin:
        server.remember(one.value)
    assert {one.id for one in admin} <= set(all_of(org.admin_api_keys.list(limit=1))) and org.admin_api_keys.retrieve(admin[0].id).name == "Admin 0"
    assert org.admin_api_keys.delete(admin[0].id).deleted
    gone(org.admin_api_keys.retrieve, admin[0].id)

    # Invites, limits, usage, the audit log
    invites = [org.invites.create(email=f"invited{number}@example.com", role="reader") for number in range(3)]
    for one in invites:
        server.remember(one.accept_url.split("=")[1])
    assert all_of(org.invites.list(limit=1)) == [one.id for one in invites] and org.invites.retrieve(invites[0].id).status == "pending"
    assert org.invites.delete(invites[0].id).deleted
    gone(org.invites.retrieve, invites[0].id)
    for limit, where in ((org.spend_limit, ()), (org.projects.spend_limit, (project,))):
        assert limit.update(*where, **USD).threshold_amount == limit.retrieve(*where).threshold_amount == 500
        assert limit.delete(*where).deleted
        gone(limit.retrieve, *where)
    for alerts, where in ((org.spend_alerts, {}), (org.projects.spend_alerts, {"project_id": project})):
        told = {"notification_channel": {"type": "email", "recipients": ["money@example.com"]}, "currency": "USD", "interval": "month"}
        made = [alerts.create(**where, **told, threshold_amount=cents).id for cents in (100, 200, 300)]
        assert all_of(alerts.list(**where, limit=1)) == made and alerts.retrieve(made[0], **where).threshold_amount == 100
        assert alerts.update(made[0], **where, **told, threshold_amount=150).threshold_amount == 150
        assert alerts.delete(made[0], **where).deleted
        gone(alerts.retrieve, made[0], **where)
    since = int(time.time()) - 86_400
    for usage in ("completions", "decisions", "embeddings", "moderations", "images", "audio_speeches", "audio_transcriptions", "vector_stores", "code_interpreter_sessions", "file_search_calls",
                  "web_search_calls", "costs"):
        assert getattr(org.usage, usage)(start_time=since).data
    types = {event.type for event in org.audit_logs.list(limit=10)}
    assert {"project.created", "role.assignment.created", "invite.deleted", "api_key.deleted"} <= types

    # The end of all of it
    for end, retrieve, args, names in [
        (org.projects.service_accounts.delete, org.projects.service_accounts.retrieve, (account,), {"project_id": project}),
        (org.projects.users.delete, org.projects.users.retrieve, (user,), {"project_id": project}),
        (org.projects.groups.delete, org.projects.groups.retrieve, (group,), {"project_id": project}),
        (org.projects.roles.delete, org.projects.roles.retrieve, (role_there,), {"project_id": project}),
        (org.groups.users.delete, org.groups.users.retrieve, (user,), {"group_id": group}),
        (org.groups.delete, org.groups.retrieve, (groups[2],), {}),
        (org.roles.delete, org.roles.retrieve, (role,), {}),
        (org.users.delete, org.users.retrieve, (people[2],), {}),
    ]:
        assert end(*args, **names).deleted is True
        gone(retrieve, *args, **names)
    assert org.projects.archive(projects[2]).status == "archived"
    assert projects[2] not in all_of(org.projects.list(limit=1)) and projects[2] in all_of(org.projects.list(limit=1, include_archived=True))

    served = [(method.upper(), path) for path, item in document["paths"].items() for method in item]
    expected = {f"{op.method} {op.path}" for op in sdk_operations() if any(m == op.method and same_path(p, op.path) for m, p in served)}
    shapes = {name: re.compile(re.sub(r"\{\w+\}", "[^/]+", name.split(" ", 1)[1]) + "$") for name in expected}
    missed = {name for name in expected if not any(method == name.split()[0] and shapes[name].match(path) for method, path in calls)}
    assert not missed and len(expected) > 95, missed
