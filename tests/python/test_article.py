"""The article that named the endpoint, step by step: create a key by POST, list, use, delete, and be refused."""

import openai
import pytest


@pytest.mark.parametrize("spelling", ["apikeys", "api_keys"])
def test_a_project_key_from_its_creation_to_the_clear_401(gateway, spelling):
    keys = f"/v1/organization/projects/{gateway.default_project}/{spelling}"

    created = gateway.post(keys, {"name": "from the article"})
    assert created.status == 200, created
    assert created.headers["cache-control"] == "no-store"
    key = created.json
    gateway.remember(key["value"])
    assert key["object"] == "organization.project.api_key"
    assert key["value"].startswith("sk-tgproj-") and len(key["value"]) == len("sk-tgproj-") + 61
    assert key["scopes"] == [] and key["expires_at"] is None
    assert key["owner"]["user"]["id"] == gateway.owner

    listed = gateway.get(keys).json
    assert [item["id"] for item in listed["data"]] == [key["id"]]
    assert "value" not in listed["data"][0]
    assert gateway.get(f"{keys}/{key['id']}").json["redacted_value"].endswith(key["value"][-4:])

    used = gateway.client(key["value"]).chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}])
    assert used.choices[0].message.content

    collection = gateway.delete(keys)
    assert collection.status == 405
    assert collection.headers["allow"] == "GET, POST"
    assert f"DELETE {keys}/{{id}}" in collection.error["message"]

    deleted = gateway.delete(f"{keys}/{key['id']}")
    assert deleted.json == {"object": "organization.project.api_key.deleted", "id": key["id"], "deleted": True}

    with pytest.raises(openai.AuthenticationError) as refused:
        gateway.client(key["value"]).chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}])
    assert refused.value.code == "invalid_api_key"
    assert refused.value.request_id.startswith("req_")
    assert key["value"] not in str(refused.value)
    assert gateway.get(f"{keys}/{key['id']}").status == 404
