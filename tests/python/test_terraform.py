"""What OpenAI's Terraform provider sends, resource by resource: create, read, change, read, delete, read."""

import pytest

from harness import request

AGENT = {"User-Agent": "terraform-provider-openai/1.0.0", "Accept": "application/json"}


@pytest.fixture
def provider(server):
    """As the provider asks: no body where there is nothing to say, pages followed by `next`, or else by the last id."""
    class Provider:
        organization = server.organization

        def call(self, method, path, body=None):
            return request(server.url, method, "/v1" + path, key=server.admin_key, body=body, headers=AGENT)

        def done(self, method, path, body=None):
            answer = self.call(method, path, body)
            assert answer.status == 200, (method, path, answer)
            return answer.json

        def all(self, path):
            items, after, seen = [], None, set()
            while True:
                page = self.done("GET", path + (f"{'&' if '?' in path else '?'}after={after}" if after else ""))
                assert isinstance(page["data"], list) and isinstance(page["has_more"], bool)
                items += page["data"]
                if not page["has_more"]:
                    return items
                after = page.get("next") or page["data"][-1]["id"]
                assert after not in seen, "a cursor that comes twice"
                seen.add(after)

        def gone(self, path):
            """Removed from the state; deleting what is gone is tolerated."""
            assert self.call("GET", path).status == 404
            assert self.call("DELETE", path).status == 404

    return Provider()


def test_a_project_is_read_from_the_list_and_deleted_by_archiving(provider):
    made = provider.done("POST", "/organization/projects", {"name": "Platform"})
    find = lambda: [one for one in provider.all("/organization/projects?include_archived=true&limit=100") if one["id"] == made["id"]]
    assert find()[0]["name"] == "Platform" and find()[0]["status"] == "active"
    provider.done("POST", f"/organization/projects/{made['id']}", {"name": "Platform 2"})
    assert find()[0]["name"] == "Platform 2"
    provider.done("POST", f"/organization/projects/{made['id']}/archive")
    assert find()[0]["status"] == "archived"
    provider.done("POST", f"/organization/projects/{made['id']}/archive")


def test_members_accounts_and_limits_of_a_project(provider, server):
    project, ada = server.project(), server.user()
    one = f"/organization/projects/{project}"
    assert provider.done("POST", one + "/users", {"user_id": ada, "role": "member"})["role"] == "member"
    assert provider.done("POST", f"{one}/users/{ada}", {"role": "owner"})["role"] == provider.done("GET", f"{one}/users/{ada}")["role"] == "owner"
    provider.done("DELETE", f"{one}/users/{ada}")
    provider.gone(f"{one}/users/{ada}")
    account = provider.done("POST", one + "/service_accounts", {"name": "robot", "create_service_account_only": True})
    assert (account["role"], account["api_key"]) == ("none", None)
    assert provider.done("GET", f"{one}/service_accounts/{account['id']}")["name"] == "robot"
    provider.done("DELETE", f"{one}/service_accounts/{account['id']}")
    provider.gone(f"{one}/service_accounts/{account['id']}")
    provider.gone(one + "/spend_limit")
    limit = {"threshold_amount": 5_000, "currency": "USD", "interval": "month"}
    assert provider.done("POST", one + "/spend_limit", limit)["threshold_amount"] == 5_000
    assert provider.done("POST", one + "/spend_limit", {**limit, "threshold_amount": 6_000})["threshold_amount"] == provider.done("GET", one + "/spend_limit")["threshold_amount"] == 6_000
    provider.done("DELETE", one + "/spend_limit")
    provider.gone(one + "/spend_limit")


@pytest.mark.parametrize("where", ["organization", "project"])
def test_a_role_and_who_has_it(provider, server, where):
    project, ada = server.project(), server.user()
    server.admin.projects.users.create(project, user_id=ada, role="member")
    group = provider.done("POST", "/organization/groups", {"name": "Team"})["id"]
    provider.done("POST", f"/organization/projects/{project}/groups", {"group_id": group, "role": "role-api-project-member"})
    base = "/organization" if where == "organization" else f"/projects/{project}"
    made = provider.done("POST", base + "/roles", {"role_name": "Reporter", "permissions": ["api.usage.read"], "description": "Reports."})
    assert provider.done("GET", f"{base}/roles/{made['id']}") == made
    changed = provider.done("POST", f"{base}/roles/{made['id']}", {"role_name": "Reporter", "permissions": ["api.model.read", "api.usage.read"], "description": None})
    assert changed["permissions"] == ["api.model.read", "api.usage.read"] and changed["description"] is None
    predefined = [role for role in provider.all(base + "/roles") if role["predefined_role"]]
    assert {role["name"] for role in predefined} == ({"owner", "reader"} if where == "organization" else {"owner", "member", "viewer"})
    for holder in (f"users/{ada}", f"groups/{group}"):
        # A role is named by its id, a predefined one by either spelling, and is read back by what it was named.
        for role in (made["id"], predefined[0]["id"], predefined[0]["id"].split("__")[0]):
            given = provider.done("POST", f"{base}/{holder}/roles", {"role_id": role})
            assert given["role"]["id"] == role and provider.done("GET", f"{base}/{holder}/roles/{role}")["id"] == role
            assert role.split("__")[0] in [one["id"].split("__")[0] for one in provider.all(f"{base}/{holder}/roles?limit=1")]
            provider.done("DELETE", f"{base}/{holder}/roles/{role}")
            provider.gone(f"{base}/{holder}/roles/{role}")
    provider.done("DELETE", f"{base}/roles/{made['id']}")
    provider.gone(f"{base}/roles/{made['id']}")


def test_groups_and_what_is_in_them(provider, server):
    project, ada = server.project(), server.user()
    groups = [provider.done("POST", "/organization/groups", {"name": f"Team {number}"})["id"] for number in range(3)]
    one = f"/organization/groups/{groups[0]}"
    assert provider.done("POST", one, {"name": "Ours"})["name"] == provider.done("GET", one)["name"] == "Ours"
    assert provider.done("POST", one + "/users", {"user_id": ada})["user_id"] == provider.done("GET", f"{one}/users/{ada}")["id"] == ada
    assert [user["id"] for user in provider.all(one + "/users")] == [ada]
    for group in groups:
        provider.done("POST", f"/organization/projects/{project}/groups", {"group_id": group, "role": "role-api-project-viewer"})
    # Its items have no id: the cursor has to be given.
    assert [item["group_id"] for item in provider.all(f"/organization/projects/{project}/groups?limit=1")] == groups
    provider.done("DELETE", f"/organization/projects/{project}/groups/{groups[0]}")
    assert groups[0] not in [item["group_id"] for item in provider.all(f"/organization/projects/{project}/groups")]
    provider.done("DELETE", f"{one}/users/{ada}")
    provider.gone(f"{one}/users/{ada}")
    provider.done("DELETE", one)
    provider.gone(one)


def test_an_invite_and_the_role_of_a_user(provider, server):
    sent = provider.done("POST", "/organization/invites", {"email": "ada@example.com", "role": "reader", "projects": []})
    server.remember(sent["accept_url"].split("=")[1])
    shown = provider.done("GET", f"/organization/invites/{sent['id']}")
    assert shown == {name: value for name, value in sent.items() if name != "accept_url"}
    provider.done("DELETE", f"/organization/invites/{sent['id']}")
    provider.gone(f"/organization/invites/{sent['id']}")
    bob = server.user("bob@example.com")
    assert provider.done("POST", f"/organization/users/{bob}", {"role": "owner"})["role"] == "owner"
    assert provider.done("POST", f"/organization/users/{bob}", {"role_id": "role-api-organization-reader"})["role"] == "reader"
    assert {user["email"] for user in provider.all("/organization/users?limit=1")} == {"owner@localhost", "bob@example.com"}


def test_what_is_not_served_is_absent_to_it(provider, server):
    one = f"/organization/projects/{server.project()}"
    for path in [one + "/model_permissions", one + "/rate_limits", one + "/hosted_tool_permissions", one + "/service_tier_settings", "/organization/certificates", "/organization/data_retention"]:
        refused = provider.call("GET", path)
        assert refused.status == 404 and "not served by this version" in refused.error["message"], (path, refused)
