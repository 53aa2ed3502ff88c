"""The article that named the endpoint, step by step: create a key by POST, list, use, delete, and be refused."""

import re
import subprocess
import sys

import openai
import pytest

from harness import ROOT, clean_environment


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


def test_the_readme_s_way_from_python_asks_the_server_that_it_names(gateway):
    readme = (ROOT / "README.md").read_text()
    [code] = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "from Python" in block]
    env = clean_environment(T=gateway.url, PROJECT=gateway.default_project, OPENAI_ADMIN_KEY=gateway.admin_key)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    secret = gateway.remember(done.stdout.strip())
    assert gateway.get("/tollgate/v1/me", key=secret).json["name"] == "from Python"
