import openai
import pytest


def test_the_life_of_a_service_account(gateway):
    project = gateway.project()
    accounts = gateway.admin.projects.service_accounts
    created = accounts.create(project, name="robot")
    gateway.remember(created.api_key.value)
    assert (created.object, created.role) == ("organization.project.service_account", "member")
    assert created.api_key.object == "organization.project.service_account.api_key"
    assert created.api_key.value.startswith("sk-tgsvc-")
    assert gateway.chat(created.api_key.value).status == 200

    second = accounts.api_keys.create(created.id, project_id=project, name="second", scopes=["api.model.read"], expires_in_seconds=60)
    gateway.remember(second.value)
    assert second.name == "second" and second.expires_at
    assert gateway.chat(second.value).status == 403 and gateway.get("/v1/models", key=second.value).status == 200

    assert [a.id for a in accounts.list(project)] == [created.id]
    assert accounts.update(created.id, project_id=project, name="robot 2", role="owner").role == "owner"
    assert accounts.retrieve(created.id, project_id=project).name == "robot 2"
    listed = gateway.admin.projects.api_keys.list(project)
    assert {k.owner.service_account.id for k in listed} == {created.id}

    gateway.admin.projects.api_keys.delete(second.id, project_id=project)
    assert gateway.chat(created.api_key.value).status == 200, "deleting one key leaves the account and its other keys"

    assert accounts.delete(created.id, project_id=project).object == "organization.project.service_account.deleted"
    assert gateway.chat(created.api_key.value).status == 401
    with pytest.raises(openai.NotFoundError):
        accounts.retrieve(created.id, project_id=project)
    assert list(gateway.admin.projects.api_keys.list(project, owner_project_access="any")) == []


def test_an_account_alone_has_neither_role_nor_key_and_its_keys_can_do_nothing_yet(gateway):
    project = gateway.project()
    accounts = gateway.admin.projects.service_accounts
    alone = accounts.create(project, name="alone", create_service_account_only=True)
    assert alone.role == "none" and alone.api_key is None
    key = gateway.remember(accounts.api_keys.create(alone.id, project_id=project).value)
    assert gateway.chat(key).status == 403
    accounts.update(alone.id, project_id=project, role="member")
    assert gateway.chat(key).status == 200


@pytest.mark.parametrize("body, param", [
    ({}, "name"), ({"name": ""}, "name"), ({"name": "x", "role": "owner"}, "role"), ({"name": "x", "expires_in_seconds": 0}, "expires_in_seconds"),
    ({"name": "x", "create_service_account_only": True, "expires_in_seconds": 5}, "expires_in_seconds"),
    ({"name": "x", "create_service_account_only": "yes"}, "create_service_account_only"),
])
def test_a_bad_account_is_refused_by_parameter(server, body, param):
    answer = server.post(f"/v1/organization/projects/{server.default_project}/service_accounts", body)
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_an_account_of_another_project_is_absent(server):
    here, there = server.project("here"), server.project("there")
    account = server.admin.projects.service_accounts.create(here, name="robot")
    server.remember(account.api_key.value)
    path = f"/v1/organization/projects/{there}/service_accounts/{account.id}"
    absent = f"/v1/organization/projects/{there}/service_accounts/svc_acct_00000000000000000000000000"
    assert server.get(path).body == server.get(absent).body
    assert server.get(path).status == 404
    assert server.post(f"{path}/api_keys", {"name": "x"}).status == 404
    assert server.delete(path).status == 404
    assert server.post(f"/v1/organization/projects/{there}/api_keys", {"name": "x", "service_account_id": account.id}).status == 400
