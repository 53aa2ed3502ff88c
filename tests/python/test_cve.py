"""The published holes of other gateways that touch the path of a request, each by its name.

Those of the HTTP readers are in test_desync.py.
"""

import json
import socket
import threading

import pytest

from harness import Fake, request, until

LIMIT = {"threshold_amount": 1, "currency": "USD", "interval": "month"}


@pytest.fixture
def key(server):
    return server.key(server.default_project)["value"]


def fine(body, handler):
    return 200, Fake.completion()


@pytest.mark.parametrize("path, more", [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}), ("/v1/embeddings", {"input": "x"}), ("/v1/completions", {"prompt": "x"}),
    ("/v1/responses", {"input": "x"}), ("/v1/moderations", {"input": "x"}), ("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]})])
def test_cve_2024_6587_litellm_an_address_of_a_request_is_never_dialled(server, key, path, more):
    """`api_base` in a body sent the provider's key wherever the caller wanted."""
    trap = socket.create_server(("127.0.0.1", 0))
    trap.settimeout(0)
    evil = f"http://127.0.0.1:{trap.getsockname()[1]}"
    fake = server.fake(lambda body, handler: (200, {**Fake.completion(), "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "input_tokens": 1, "output_tokens": 1}}))
    body = {"model": "fake", **more, **{name: evil for name in ["api_base", "base_url", "api_url", "url", "endpoint", "host", "proxy", "custom_llm_provider"]}}
    headers = {"X-Api-Base": evil, "X-Forwarded-Host": evil, "X-Upstream": evil, "Api-Base": evil, "OpenAI-Base-Url": evil}
    answer = request(server.url, "POST", path, key=key, body=body, headers=headers)
    assert answer.status == 200 and len(fake.bodies) == 1, answer
    with pytest.raises(BlockingIOError):
        trap.accept()
    trap.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_ghsa_9f46_w24h_69w4_new_api_a_redirect_is_not_followed(server, key, status):
    """A 302 of an upstream led to the metadata service of the cloud."""
    trap = socket.create_server(("127.0.0.1", 0))
    trap.settimeout(0)
    evil = f"http://127.0.0.1:{trap.getsockname()[1]}/latest/meta-data"
    server.fake(lambda body, handler: handler.send_json(status, {}, Location=evil))
    answer = server.chat(key, model="fake")
    assert answer.status == 502 and answer.error["code"] == "upstream_failed" and "location" not in answer.headers
    listing = Fake(fine)
    listing.server.RequestHandlerClass.do_GET = lambda self: self.send_json(status, {}, Location=evil)
    server.fakes.append(listing)
    assert server.post("/tollgate/v1/upstreams", {"name": "x", "base_url": listing.base_url}).error["param"] == "models"
    with pytest.raises(BlockingIOError):
        trap.accept()
    trap.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "0x0", "[::]", "[::ffff:0.0.0.0]", "0.0.0.0.", "[64:ff9b::169.254.169.254]"])
def test_go_2026_5652_new_api_the_address_0_0_0_0_is_never_dialled(server, key, host):
    fake = Fake(fine)
    server.fakes.append(fake)
    made = server.post("/tollgate/v1/upstreams", {"name": "zero", "base_url": f"http://{host}:{fake.server.server_port}/v1", "models": ["fake"]})
    if made.status == 200:
        assert server.chat(key, model="fake").error["code"] == "upstream_unreachable"
    assert fake.bodies == []


@pytest.mark.parametrize("presented", [
    "' OR '1'='1", "sk-proj-x' OR '1'='1' --", "'; DROP TABLE api_key; --", "sk-proj-\" OR 1=1", "\\' OR 1=1 #", "sk-proj-%27%20OR%201%3D1", "x' UNION SELECT * FROM api_key --", "sk-proj-' AND SLEEP(5) --", "%", "_", "*",
])
def test_cve_2026_42208_litellm_a_key_is_no_sql(server, key, presented):
    """The check of a key was put together as SQL, before anybody was authenticated. Here it costs no query at all."""
    for headers in [{"Authorization": f"Bearer {presented}"}, {"x-api-key": presented}, {"api-key": presented}]:
        assert request(server.url, "GET", "/v1/models", headers=headers).status == 401
    assert request(server.url, "GET", "/v1/organization/projects", headers={"Authorization": f"Bearer {presented}"}).status == 401
    assert request(server.url, "GET", "/v1/models", key=key).status == 200


def test_cve_2026_35030_litellm_a_key_is_itself_and_not_its_beginning(server, key):
    """A cache by the first characters of a token took one for another."""
    for cut in range(len(key)):
        assert request(server.url, "GET", "/v1/models", key=key[:cut] or "x").status == 401, cut
    for position in range(8, len(key)):
        other = key[:position] + ("A" if key[position] != "A" else "B") + key[position + 1:]
        assert request(server.url, "GET", "/v1/models", key=other).status == 401, position
    assert request(server.url, "GET", "/v1/models", key=key + "A").status == 401
    assert request(server.url, "GET", "/v1/models", key=key).status == 200


def test_cve_2024_9606_litellm_no_part_of_a_key_is_logged(server, key):
    """Keys were masked but for what was left of them. The harness looks for whole ones; here are the parts."""
    for presented in [key, key[:-3] + "xyz"]:
        server.chat(presented)
        request(server.url, "GET", f"/v1/models/{presented}")
    server.restart()
    text = server.log.read_text()
    secret = key.removeprefix("sk-proj-")
    parts = [secret[at:at + 12] for at in range(12, len(secret) - 12)]
    assert not [part for part in parts if part in text]


def test_bifrost_2873_no_route_skips_the_budget(server, key):
    """Routes that only passed requests on skipped it. Here a hold is what opens a connection."""
    fake = server.fake(lambda body, handler: (200, {**Fake.completion(), "input_tokens": 1}))
    server.post("/v1/organization/spend_limit", LIMIT)
    server.post("/tollgate/v1/models/fake", {"input_price": "100000", "output_price": "100000", "context_tokens": 8192})
    bodies = {"chat/completions": {"messages": [{"role": "user", "content": "x"}]}, "responses": {"input": "x"}, "completions": {"prompt": "x"}, "embeddings": {"input": "x"}, "moderations": {"input": "x"},
              "messages": {"max_tokens": 100, "messages": [{"role": "user", "content": "x"}]}}
    for base in ["/v1/", "/", "/openai/v1/", "/openai/", "/openai/deployments/fake/", "/anthropic/v1/"]:
        for path, body in bodies.items():
            answer = request(server.url, "POST", base + path, key=key, body={"model": "fake", **body})
            assert answer.status in (429, 404), (base, path, answer)
            assert answer.status == 429 or answer.error.get("code") == "unknown_url", (base, path, answer)
    assert fake.bodies == [], "nothing was sent"


def test_cve_2026_30886_new_api_what_a_provider_keeps_is_its_project_s(server, key):
    """Any key read any video with the victim's credentials. See test_stored_responses.py for all of it."""
    fake = server.fake(lambda body, handler: (200, {"id": "resp_1", "status": "completed", "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}}))
    fake.server.RequestHandlerClass.do_GET = lambda self: self.send_json(200, {"id": "resp_1", "secret": True})
    request(server.url, "POST", "/v1/responses", key=key, body={"model": "fake", "input": "x"})
    assert request(server.url, "GET", "/v1/responses/resp_1", key=key).json["secret"] is True
    stranger = server.key(server.project("Another"))["value"]
    assert request(server.url, "GET", "/v1/responses/resp_1", key=stranger).status == 404
    for path in ["/v1/videos/x/content", "/v1/files/x/content", "/v1/batches/x"]:
        assert request(server.url, "GET", path, key=key).status == 404


def test_one_api_2388_the_address_of_an_image_is_not_fetched(server, key):
    trap = socket.create_server(("127.0.0.1", 0))
    trap.settimeout(0)
    evil = f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"
    fake = server.fake(fine, image_tokens=100)
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": evil}}]}]
    assert server.chat(key, model="fake", messages=messages).status == 200
    assert fake.bodies[0]["messages"] == messages
    with pytest.raises(BlockingIOError):
        trap.accept()
    trap.close()


def test_one_api_2440_requests_at_once_do_not_spend_a_quota_twice(server, key):
    """A check and a later charge let everybody through who came at the same time."""
    fake = server.fake(lambda body, handler: (200, Fake.completion(output=1000)), max_output_tokens=1000)
    server.post("/v1/organization/spend_limit", {**LIMIT, "threshold_amount": 5})
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(server.chat(key, model="fake").status)) for _ in range(40)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    until(lambda: all(row["state"] != "held" for row in server.requests()))
    spent = sum(float(row["cost"]) for row in server.requests())
    assert statuses.count(200) == len(fake.bodies) == 4 and spent <= 0.05, (statuses, spent)


def test_pysec_2026_1545_litellm_a_body_that_is_no_json_is_refused_at_once(server, key):
    """A boundary of a multipart body kept a parser busy for ever."""
    for kind in ["multipart/form-data; boundary=" + "-" * 60_000, "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]:
        answer = request(server.url, "POST", "/v1/chat/completions", key=key, body=b"--x\r\n" * 1000, headers={"Content-Type": kind})
        assert answer.status in (400, 413, 431), answer


def test_cve_2025_11203_litellm_health_tells_nothing(server, key):
    for path in ["/healthz", "/readyz"]:
        assert set(request(server.url, "GET", path).json) == {"status"}
    for path in ["/health", "/health/readiness", "/config", "/config/update", "/debug", "/docs", "/global/spend/logs", "/prompts/test", "/mcp/tools/list", "/sso/debug/login"]:
        assert request(server.url, "GET", path).status == 404 and request(server.url, "POST", path, key=key, body={}).status == 404


def test_cve_2025_45809_litellm_ids_in_bodies_are_no_sql(server, key):
    for id in ["x' OR '1'='1", "'; DROP TABLE upstream; --", "resp_%", "_"]:
        refused = request(server.url, "POST", "/v1/responses", key=key, body={"model": id, "input": "x"})
        assert refused.status == 404
        fake = request(server.url, "GET", f"/v1/responses/{id.replace(' ', '%20').replace(';', '%3B')}", key=key)
        assert fake.status in (400, 404)
    assert server.get("/tollgate/v1/upstreams").status == 200


def test_deep_and_doubled_json_is_refused(server, key):
    """GHSA of many: a parser's stack, or two readers of one name."""
    deep = b'{"model":"fake","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    block = b'{"type":"tool_result","tool_use_id":"x","content":['
    nested = b'{"model":"fake","max_tokens":5,"messages":[{"role":"user","content":[' + block * 20_000 + b"]}" * 20_000 + b"]}]}"
    assert request(server.url, "POST", "/v1/messages", key=key, body=nested).status == 400
    document = b'{"type":"document","source":{"type":"content","content":['
    nested = b'{"model":"fake","max_tokens":5,"messages":[{"role":"user","content":[' + document * 20_000 + b"]}}" * 20_000 + b"]}]}"
    assert request(server.url, "POST", "/v1/messages", key=key, body=nested).status == 400
    space = b'{"type":"namespace","tools":['
    nested = b'{"model":"fake","input":"x","tools":[' + space * 50_000 + b"]}" * 50_000 + b"]}"
    assert request(server.url, "POST", "/v1/responses", key=key, body=nested).status == 400
    assert request(server.url, "GET", "/healthz").status == 200
    for body in [deep, b'{"model":"fake","model":"other","messages":[]}', b'{"a":' * 50_000, json.dumps({"model": "fake", "messages": [{"role": "user", "content": [[[[]]]]}]}).encode()]:
        assert request(server.url, "POST", "/v1/chat/completions", key=key, body=body).status == 400
