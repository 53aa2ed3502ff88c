"""Programs that people use complete a task with nothing set but base URL and key. Part of `./test full`, which installs them."""

import json
import subprocess

import pytest

from harness import FULL, ROOT, billed, clean_environment, recorded

PYTHON = ROOT / "target/test-clients/bin"
AIDER = ROOT / "target/test-aider/bin/aider"
ASYNC_OPENAI = ROOT / "target/test-async-openai/debug/tollgate-async-openai"
CODEX = ROOT / "target/test-codex/node_modules/.bin/codex"


def check_books(gateway, simulator):
    rows = gateway.requests()
    assert rows and {row["usage_source"] for row in rows} == {"upstream"}
    assert sorted(recorded(gateway)) == sorted(billed(simulator))


def run(command, cwd, gateway, key, **more):
    env = clean_environment(HOME=str(cwd), OPENAI_API_KEY=key, OPENAI_BASE_URL=gateway.base_url, **more)
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout


@pytest.fixture
def key(gateway):
    # A hard limit is what such programs are given: nothing they send may be unboundable.
    gateway.post("/v1/organization/spend_limit", {"threshold_amount": 100_000, "currency": "USD", "interval": "month"})
    return gateway.key(gateway.default_project)["value"]


def use(simulator, gateway, *models):
    [upstream] = gateway.get("/tollgate/v1/upstreams").json["data"]
    gateway.post(f"/tollgate/v1/upstreams/{upstream['id']}", {"models": upstream["models"] + list(models)})


if FULL:
    def test_async_openai(server, tmp_path):
        """A sample of the administration through the Rust community's client."""
        done = subprocess.run([ASYNC_OPENAI, server.base_url, server.admin_key, server.owner], env=clean_environment(HOME=str(tmp_path)), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "events" in done.stdout, done.stderr

    def test_llm(gateway, key, simulator, tmp_path):
        simulator.config(text="A haiku about a gate.")
        said = run([PYTHON / "llm", "-m", "gpt-4o-mini", "Write a haiku."], tmp_path, gateway, key)
        assert "A haiku about a gate." in said
        said = run([PYTHON / "llm", "-m", "gpt-4o-mini", "--no-stream", "-s", "Be brief.", "Again."], tmp_path, gateway, key)
        assert "A haiku about a gate." in said
        vector = run([PYTHON / "llm", "embed", "-m", "3-small", "-c", "a gate"], tmp_path, gateway, key)
        assert len(json.loads(vector)) > 100
        check_books(gateway, simulator)

    def test_langchain_openai(gateway, key, simulator, tmp_path):
        script = """
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
model = ChatOpenAI(model="gpt-4o-mini")
print(model.invoke("Hello").content)
print("".join(chunk.content for chunk in model.stream("Hello")))
def weather(city: str) -> str:
    "The weather of a city."
bound = model.bind_tools([weather], tool_choice="any")
print(bound.invoke("Weather in Bern?").tool_calls[0]["name"])
print(len(ChatOpenAI(model="gpt-4o-mini", use_responses_api=True).invoke("Hello").text))
print(len(OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False).embed_query("Hello")))
"""
        lines = run([PYTHON / "python", "-c", script], tmp_path, gateway, key).splitlines()
        assert lines[0] == lines[1] and lines[2] == "weather" and int(lines[3]) > 0 and int(lines[4]) > 100
        check_books(gateway, simulator)

    def test_aider(gateway, key, simulator, tmp_path):
        (tmp_path / "gate.py").write_text("def is_open():\n    return False\n")
        simulator.config(text="gate.py\n```python\n<<<<<<< SEARCH\n    return False\n=======\n    return True\n>>>>>>> REPLACE\n```\n")
        command = [AIDER, "--model", "openai/gpt-4o-mini", "--edit-format", "diff", "--no-git", "--yes-always", "--no-check-update", "--analytics-disable", "--no-show-model-warnings", "--map-tokens", "0",
                   "--message", "Open the gate.", "gate.py"]
        run(command, tmp_path, gateway, key, OPENAI_API_BASE=gateway.base_url)
        assert "return True" in (tmp_path / "gate.py").read_text()
        check_books(gateway, simulator)

    def test_codex(gateway, key, simulator, tmp_path):
        use(simulator, gateway, "gpt-5-codex")
        home, work = tmp_path / "codex", tmp_path / "work"
        home.mkdir(), work.mkdir()
        last = work / "last.txt"
        command = [CODEX, "exec", "--skip-git-repo-check", "-c", f'openai_base_url="{gateway.base_url}"', "-m", "gpt-5-codex", "-o", last, "Say something."]
        run(command, work, gateway, key, CODEX_HOME=str(home), CODEX_API_KEY=key)
        assert "the answer is not from a real model" in last.read_text()
        check_books(gateway, simulator)
        page = gateway.get("/metrics").body.decode()
        assert 'route="/v1/responses",method="POST",code="200"' in page and 'code="400"' not in page


def test_what_such_a_program_sends_is_taken_under_a_hard_limit(server):
    """The shape of what codex sends, for every run of the tests: a search that the provider would run, a namespace of tools."""
    fake = server.fake(lambda body, handler: (200, {"id": "x", "usage": {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}}))
    server.post("/v1/organization/spend_limit", {"threshold_amount": 100_000, "currency": "USD", "interval": "month"})
    key = server.key(server.default_project)["value"]
    function = {"type": "function", "name": "exec_command", "strict": False, "parameters": {}}
    namespace = {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "wait"}]}
    search = {"type": "web_search", "external_web_access": False}
    body = {"model": "fake", "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}], "tools": [function, search, namespace, search], "tool_choice": "auto",
            "parallel_tool_calls": True, "reasoning": {"summary": "auto"}, "store": False, "stream": False, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "x", "client_metadata": {"a": "b"}}
    answer = server.call("POST", "/v1/responses", body, key=key)
    assert answer.status == 200 and answer.headers["x-tollgate-tools-removed"] == "web_search", answer
    assert fake.bodies[0]["tools"] == [function, namespace] and fake.bodies[0]["client_metadata"] == {"a": "b"}
    for more in [{"tool_choice": {"type": "web_search"}}, {"tool_choice": "required"}, {"tools": [{**namespace, "tools": [search]}]}, {"tools": [{"type": "code_interpreter"}]}, {"tools": [{"type": "mcp"}, search]}]:
        refused = server.call("POST", "/v1/responses", {**body, **more}, key=key)
        assert refused.status == 400 and refused.error["param"].startswith("tools["), refused
    assert len(fake.bodies) == 1
    websocket = server.call("GET", "/v1/responses", key=key, headers={"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"})
    assert websocket.status == 426 and websocket.error["code"] == "websocket_not_served"
