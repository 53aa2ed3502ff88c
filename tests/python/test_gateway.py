import json
import time

import openai
import pytest

from harness import UPSTREAM_SECRET, Fake, request, settled, simulate, until

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(gateway):
    return gateway.client(gateway.key(gateway.default_project)["value"])


def test_chat_completions_with_tools_and_choices(client):
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, n=3, max_completion_tokens=5)
    assert len(answer.choices) == 3 and answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 15
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
    answer = client.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, tools=tools, tool_choice="required", **simulate(tool_arguments='{"city":"Bern"}'))
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, call.function.arguments, answer.choices[0].finish_reason) == ("weather", '{"city":"Bern"}', "tool_calls")


@pytest.mark.parametrize("asks", [None, False, True])
def test_a_stream_reports_usage_only_to_who_asked(gateway, client, asks):
    options = {} if asks is None else {"stream_options": {"include_usage": asks}}
    stream = client.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, stream=True, n=2, **options, **simulate(output_tokens=10))
    chunks = list(stream)
    texts = ["".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == n) for n in (0, 1)]
    assert [len(text.split()) for text in texts] == [10, 10]
    assert sum(1 for chunk in chunks if chunk.usage) == (1 if asks else 0)
    assert sum(1 for chunk in chunks if not chunk.choices) == (1 if asks else 0)
    # The SDK stops at the last event, which is before the answer ends.
    [recorded] = until(lambda: [row for row in gateway.requests() if row["state"] == "settled"])
    assert recorded["usage_source"] == "upstream" and recorded["output_tokens"] == 20


def test_a_stream_of_a_tool_call(client):
    tools = [{"type": "function", "function": {"name": "weather"}}]
    stream = client.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, stream=True, tools=tools, **simulate(tool_arguments='{"a":1}'))
    calls = [call for chunk in stream for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert calls[0].function.name == "weather" and calls[-1].function.arguments == '{"a":1}'


def test_the_pieces_of_a_stream_pass_as_they_come(client):
    started, times = time.monotonic(), []
    stream = client.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, stream=True, **simulate(output_tokens=5, chunk_ms=100))
    for _ in stream:
        times.append(time.monotonic() - started)
    assert times[0] < times[-1] / 2, "the first did not wait for the last"


def test_embeddings_in_both_encodings(gateway, client):
    model, texts = "text-embedding-3-small", ["Hello", "World"]
    plain = client.embeddings.create(model=model, input=texts, dimensions=16, encoding_format="float")
    assert len(plain.data) == 2 and plain.usage.prompt_tokens == 2
    # Unasked the SDK wants base64 and decodes it, which its own strict validation does not expect.
    lenient = gateway.client(client.api_key, _strict_response_validation=False)
    decoded = lenient.embeddings.create(model=model, input=texts, dimensions=16)
    assert [item.embedding for item in decoded.data] == [pytest.approx(item.embedding) for item in plain.data]
    assert lenient.embeddings.create(model=model, input=[[1, 2, 3]]).usage.prompt_tokens == 3


INSTRUCT = "gpt-3.5-turbo-instruct"


def test_completions_of_prompts(gateway, client, simulator):
    simulator.config(output_tokens=7)
    answer = client.completions.create(model=INSTRUCT, prompt="Say something.", max_tokens=5, n=2)
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 2 and answer.usage.completion_tokens == 10
    assert len(client.completions.create(model=INSTRUCT, prompt=["a", "b", "c"], n=2).choices) == 6
    assert client.completions.create(model=INSTRUCT, prompt=[[1, 2], [3]]).usage.prompt_tokens == 3
    assert gateway.requests()[0]["input_tokens"] == 3 and gateway.requests()[0]["usage_source"] == "upstream"
    lenient = gateway.client(client.api_key, _strict_response_validation=False)
    for asks in [None, True]:
        options = {"stream_options": {"include_usage": True}} if asks else {}
        # OpenAI's own streams do not pass its SDK's strict check: the reason to finish is null until there is one.
        stream = lenient.completions.create(model=INSTRUCT, prompt="x", stream=True, **options)
        chunks = list(stream)
        assert len("".join(choice.text for chunk in chunks for choice in chunk.choices).split()) == 7
        assert sum(1 for chunk in chunks if chunk.usage) == (1 if asks else 0)
        assert settled(gateway)[0]["output_tokens"] == 7 and gateway.requests()[0]["usage_source"] == "upstream"
    billed = sum(entry["billed_output"] for entry in simulator.requests)
    assert billed == sum(recorded["output_tokens"] for recorded in settled(gateway))
    usage = gateway.get("/v1/organization/usage/completions", start_time=int(time.time()) - 86_400).json["data"]
    assert sum(result["output_tokens"] for bucket in usage for result in bucket["results"]) == billed


def test_a_prompt_is_bounded_by_its_texts_and_the_sixteen_tokens_it_makes_unless_it_says(server):
    fake = server.fake(lambda body, handler: (200, Fake.completion(output=body.get("max_tokens", 1))))
    key = server.key(server.default_project)["value"]
    server.limit(server.default_project, 100)
    complete = lambda **more: request(server.url, "POST", "/v1/completions", key=key, body={"model": "fake", **more})
    bounds = []
    for more in [{"prompt": "x"}, {"prompt": "x", "max_tokens": 16}, {"prompt": ["x", "y"]}, {"prompt": ["x", "y"], "n": 2, "best_of": 3}]:
        assert complete(**more).status == 200
        assert fake.bodies[-1]["max_tokens"] == 16, "an upstream may have another idea of the usual"
        bounds.append(float(server.requests()[0]["bound"]))
    outputs = [bound * 1e5 // 16 for bound in bounds]
    assert outputs[0] == outputs[1] and outputs[2] == 2 * outputs[0] and outputs[3] == 6 * outputs[0], bounds
    for bad, param in [({}, "prompt"), ({"prompt": True}, "prompt"), ({"prompt": "x", "max_tokens": -1}, "max_tokens"),
                       ({"prompt": "x", "n": 0}, "n"), ({"prompt": "x", "service_tier": "flex"}, "service_tier")]:
        refused = complete(**bad)
        assert refused.status == 400 and refused.error["param"] == param, refused
    assert complete(prompt=[{"prompt_embeds": "x"}]).status == 200
    assert float(server.requests()[0]["bound"]) > 8192e-6, "what shows nothing of its size may fill the context"


def test_moderations_are_free_and_recorded(gateway, client):
    gateway.limit(gateway.default_project, 1)
    answer = client.moderations.create(input=["peace", "violence"])
    assert [result.flagged for result in answer.results] == [False, True] and answer.model == "omni-moderation-latest"
    parts = [{"type": "text", "text": "violence"}, {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    assert client.moderations.create(model="omni-moderation-latest", input=parts).results[0].flagged
    recorded = gateway.requests()
    assert {(r["model"], r["cost"], r["usage_source"], r["state"]) for r in recorded} == {("omni-moderation-latest", "0.000000000", "observed", "settled")}
    usage = gateway.get("/v1/organization/usage/moderations", start_time=int(time.time()) - 86_400, group_by="model").json["data"]
    [result] = [result for bucket in usage for result in bucket["results"]]
    assert result["object"] == "organization.usage.moderations.result" and result["num_model_requests"] == 2 and result["input_tokens"] > 0
    assert gateway.admin.usage.moderations(start_time=int(time.time()) - 86_400).data
    with pytest.raises(openai.BadRequestError) as refused:
        client.moderations.create(input=[], extra_body={"input": None})
    assert refused.value.param == "input"


def test_models_are_those_of_the_upstreams(gateway, client):
    ids = [model.id for model in client.models.list()]
    assert ids == sorted(ids) and "gpt-4o" in ids
    assert client.models.retrieve("gpt-4o").object == "model"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-99")
    assert refused.value.code == "model_not_found"
    gateway.post("/tollgate/v1/upstreams", {"name": "odd", "base_url": "http://127.0.0.1:9/v1", "models": ["org/odd model"]})
    assert gateway.get("/v1/models/org%2Fodd%20model", key=client.api_key).json["id"] == "org/odd model"
    assert gateway.get("/v1/models/org/odd%20model", key=client.api_key).status == 200


def test_the_headers_of_an_answer(gateway):
    answer = gateway.chat(gateway.key(gateway.default_project)["value"])
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["openai-organization"] == gateway.organization
    assert answer.headers["openai-version"] == "2020-10-01"
    assert int(answer.headers["openai-processing-ms"]) >= 0
    [recorded] = gateway.requests()
    assert recorded["id"] == answer.headers["x-request-id"]


def test_what_the_provider_billed_is_what_is_recorded(gateway, client, simulator):
    client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Count to three, please."}])
    client.embeddings.create(model="text-embedding-3-small", input="Hello there", encoding_format="float")
    list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    theirs = {e["request_id"]: (e["billed_input"], e["billed_output"]) for e in simulator.requests}
    ours = {r["id"]: (r["input_tokens"], r["output_tokens"]) for r in settled(gateway)}
    assert theirs == ours and len(ours) == 3


def test_cached_input_is_cheaper(gateway):
    key = gateway.key(gateway.default_project)["value"]
    text = "word " * 1000
    gateway.chat(key, text, simulate={"output_tokens": 1})
    gateway.chat(key, text, simulate={"output_tokens": 1, "cached_tokens": 900})
    cached, plain = gateway.requests()
    assert cached["cached_input_tokens"] == 900 and cached["input_tokens"] == plain["input_tokens"]
    # 900 tokens at $0.075 instead of $0.15 per million.
    assert float(plain["cost"]) - float(cached["cost"]) == pytest.approx(900 * 0.075e-6)


@pytest.mark.parametrize("body, param", [
    ({}, "model"), ({"model": ""}, "model"), ({"model": 5}, "model"), ({"model": "gpt-4o"}, "messages"),
    ({"model": "gpt-4o", "messages": "hi"}, "messages"), ({"model": "gpt-4o", "messages": [], "n": 0}, "n"),
    ({"model": "gpt-4o", "messages": [], "max_tokens": -1}, "max_tokens"),
    ({"model": "gpt-4o", "messages": [], "max_tokens": 0}, "max_tokens"),
    ({"model": "gpt-4o", "messages": [], "max_completion_tokens": 9223372036854775807}, "max_completion_tokens"),
    ({"model": "gpt-4o", "messages": [], "stream": 1}, "stream"), ({"model": "gpt-4o", "messages": [], "store": True}, "store"),
    ({"model": "gpt-4o", "messages": [], "service_tier": "flex"}, "service_tier"),
    ({"model": "gpt-4o", "messages": [], "MODEL": "other"}, "MODEL"),
])
def test_a_bad_call_names_its_parameter(gateway, body, param):
    key = gateway.key(gateway.default_project)["value"]
    answer = gateway.call("POST", "/v1/chat/completions", body, key=key)
    assert answer.status == 400 and answer.error["param"] == param, answer
    assert gateway.requests() == []


def test_a_call_that_is_no_json_or_too_large(gateway):
    key = gateway.key(gateway.default_project)["value"]
    for body in [b"", b"{", b"[]", b'{"model":"a","model":"b"}', b"\xff", b"[" * 100_000]:
        answer = gateway.call("POST", "/v1/chat/completions", body, key=key)
        assert answer.status == 400 and answer.error["message"], answer
    answer = gateway.call("POST", "/v1/chat/completions", b" " * (11 * 1024 * 1024), key=key)
    assert answer.status == 413 and answer.error["code"] == "request_too_large"


PATHS = ["/v1/chat/completions", "/chat/completions", "/openai/v1/chat/completions", "/openai/deployments/gpt-4o-mini/chat/completions"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("field", ["Authorization", "x-api-key", "API-Key"])
def test_a_key_is_read_where_any_provider_s_client_puts_it_and_paths_have_other_names(gateway, path, field):
    key = gateway.key(gateway.default_project)["value"]
    value = f"Bearer {key}" if field == "Authorization" else key
    body = {"model": "gpt-4o-mini", "messages": HELLO, "max_tokens": 3}
    answer = request(gateway.url, "POST", path, body=body, headers={field: value}, query={"api-version": "2024-10-21"})
    assert answer.status == 200 and answer.json["usage"]["completion_tokens"] == 3, answer
    assert request(gateway.url, "GET", path, headers={field: value}).status == 405


def test_one_key_is_presented_and_no_other(gateway):
    one, two = (gateway.key(gateway.default_project)["value"] for _ in range(2))
    call = lambda **headers: request(gateway.url, "GET", "/v1/models", headers={name.replace("_", "-"): value for name, value in headers.items()})
    assert call(Authorization=f"Bearer {one}", x_api_key=one, api_key=one).status == 200
    for other in [two, "sk-wrong", "x\xff"]:
        for headers in [{"Authorization": f"Bearer {one}", "x_api_key": other}, {"api_key": other, "x_api_key": one}]:
            refused = call(**headers)
            assert refused.status == 400 and refused.error["code"] == "conflicting_api_keys", refused
    assert call(Authorization="Basic abc", x_api_key=one).status == 200, "another scheme is no key"
    assert call(x_api_key="").status == 401 and call(api_key="nonsense").error["code"] == "invalid_api_key"
    assert request(gateway.url, "GET", "/v1/organization/projects", headers={"x-api-key": gateway.admin_key}).status == 401


def test_azure_s_client_names_the_model_in_the_path(gateway):
    key = gateway.key(gateway.default_project)["value"]
    client = openai.AzureOpenAI(azure_endpoint=gateway.url, api_key=key, api_version="2024-10-21", max_retries=0)
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert answer.model == "gpt-4o-mini" and gateway.requests()[0]["model"] == "gpt-4o-mini"
    named = openai.AzureOpenAI(azure_endpoint=gateway.url, azure_deployment="gpt-4o", api_key=key, api_version="2024-10-21", max_retries=0)
    assert named.chat.completions.create(model="whatever", messages=HELLO).model == "gpt-4o"
    assert gateway.requests()[0]["model"] == "gpt-4o", "the path goes before the body"
    assert client.embeddings.create(model="text-embedding-3-small", input="x").model == "text-embedding-3-small"
    for path in ["/openai/deployments/none/chat/completions", "/openai/deployments/gpt-4o/models", "/openai/deployments//chat/completions",
                 "/openai/deployments/gpt-4o", "/openai/nonsense", "/modelsx", "/chat/completionsx"]:
        assert request(gateway.url, "POST", path, key=key, body={"messages": HELLO}).status == 404, path


def test_unknown_paths_and_methods(gateway):
    key = gateway.key(gateway.default_project)["value"]
    assert gateway.get("/v1/nonsense", key=key).error["message"] == "Invalid URL (GET /v1/nonsense)"
    assert gateway.get("/nonsense", key=key).error["message"] == "Invalid URL (GET /nonsense)"
    missing = gateway.post("/v1/messages/batches", {}, key=key)
    assert missing.status == 404 and "not served by this version" in missing.error["message"]
    assert gateway.get("/v1/organization/certificates").status == 404
    wrong = gateway.get("/v1/chat/completions", key=key)
    assert wrong.status == 405 and wrong.headers["allow"] == "POST"


# Upstreams that misbehave


def outcome(gateway):
    recorded = gateway.requests()[0]
    return recorded["state"], recorded["usage_source"]


def test_an_upstream_that_is_down_is_a_502_and_costs_nothing(gateway):
    gateway.post("/tollgate/v1/upstreams", {"name": "down", "base_url": "http://127.0.0.1:9/v1", "models": ["gpt-down"]})
    gateway.post("/tollgate/v1/models/gpt-down", {"input_price": "1", "output_price": "1", "max_output_tokens": 100})
    gateway.limit(gateway.default_project, 100)
    answer = gateway.chat(gateway.key(gateway.default_project)["value"], model="gpt-down")
    assert answer.status == 502 and answer.error["code"] == "upstream_unreachable" and answer.error["type"] == "server_error"
    assert outcome(gateway) == ("voided", None)


@pytest.mark.parametrize("status, told, code, expected", [
    (400, 400, None, ("voided", None)), (429, 429, "upstream_rate_limited", ("voided", None)),
    (500, 502, "upstream_failed", ("settled", "bound")), (503, 503, "upstream_unavailable", ("settled", "bound"))])
def test_an_error_of_the_upstream_is_told_and_what_concerns_its_account_is_not(gateway, status, told, code, expected):
    answer = gateway.chat(gateway.key(gateway.default_project)["value"], simulate={"fault": "status", "status": status, "retry_after": 7})
    assert answer.status == told and answer.headers["retry-after"] == "7" and answer.error["code"] == code
    assert ("The script says so." in answer.error["message"]) == (status == 400)
    assert outcome(gateway) == expected


def test_a_refused_credential_is_our_fault_and_not_the_callers(gateway):
    answer = gateway.chat(gateway.key(gateway.default_project)["value"], simulate={"fault": "status", "status": 401})
    assert answer.status == 502 and answer.error["code"] == "upstream_authentication_failed"
    assert outcome(gateway) == ("voided", None)


def test_an_answer_that_never_comes_is_settled_at_its_bound(gateway):
    answer = gateway.chat(gateway.key(gateway.default_project)["value"], simulate={"fault": "drop"})
    assert answer.status == 502 and answer.error["code"] == "upstream_failed"
    assert outcome(gateway) == ("settled", "bound")


@pytest.mark.parametrize("after", [0, 1, 300, 2000])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("is_limited", [False, True])
def test_a_cut_answer_has_one_record_that_says_where_its_usage_is_from(gateway, after, stream, is_limited):
    key = gateway.key(gateway.default_project)["value"]
    if is_limited:
        gateway.limit(gateway.default_project, 1000)
    script = {"fault": "cut", "after_bytes": after, "output_tokens": 1000}
    try:
        answer = gateway.chat(key, stream=stream, simulate=script)
        assert answer.status == 502, answer
        assert not stream
    except Exception as error:
        assert stream and "IncompleteRead" in repr(error), repr(error)
    [recorded] = gateway.requests()
    seen = stream and after == 2000 and not is_limited
    assert recorded["state"] == "settled" and recorded["usage_source"] == ("observed" if seen else "bound")
    if seen:
        assert 0 < recorded["output_tokens"] < 1000
    else:
        # At its bound, but for the input, which is counted.
        assert recorded["output_tokens"] == 16_384 and float(recorded["cost"]) <= float(recorded["bound"])


@pytest.mark.parametrize("stream", [False, True])
def test_usage_that_is_missing_or_absurd_is_never_zero(gateway, stream):
    key = gateway.key(gateway.default_project)["value"]
    wrongs = ["none", {"prompt_tokens": -5, "completion_tokens": 1}, {"prompt_tokens": 10**15, "completion_tokens": 1}, {"x": 1}]
    for wrong in wrongs:
        answer = gateway.chat(key, stream=stream, simulate={"usage": wrong, "output_tokens": 50})
        assert answer.status == 200
        recorded = gateway.requests()[0]
        assert recorded["usage_source"] == ("observed" if stream else "bound"), recorded
        assert recorded["output_tokens"] >= 50


def test_usage_above_the_bound_is_charged_in_full(gateway):
    key = gateway.key(gateway.default_project)["value"]
    gateway.limit(gateway.default_project, 1000)
    gateway.chat(key, max_tokens=10, simulate={"usage": {"prompt_tokens": 100_000, "completion_tokens": 100_000}})
    [recorded] = gateway.requests()
    assert recorded["usage_source"] == "upstream" and float(recorded["cost"]) > float(recorded["bound"])


def test_a_client_that_leaves_does_not_spare_the_bill(gateway, simulator):
    key = gateway.key(gateway.default_project)["value"]
    client = gateway.client(key)
    stream = client.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, stream=True, **simulate(output_tokens=200, chunk_ms=2))
    next(iter(stream))
    stream.response.close()
    deadline = time.monotonic() + 30
    while gateway.requests()[0]["state"] == "held" and time.monotonic() < deadline:
        pass
    [recorded] = gateway.requests()
    assert (recorded["usage_source"], recorded["output_tokens"]) == ("upstream", 200)


def test_the_callers_key_never_reaches_the_upstream_and_the_upstreams_never_the_caller(gateway, tmp_path):
    import http.server
    import threading

    seen = {}

    class Upstream(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            seen.update(headers=dict(self.headers.items()), path=self.path, body=self.rfile.read(int(self.headers["Content-Length"])))
            body = b'{"object":"chat.completion","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
            self.send_response(200)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), "Set-Cookie": "a=b",
                                "X-Internal": "secret", "x-request-id": "theirs", "openai-organization": "theirs"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{upstream.server_port}/deep/v1/"
    gateway.post("/tollgate/v1/upstreams", {"name": "own", "base_url": base, "api_key": UPSTREAM_SECRET, "models": ["own"]})
    key = gateway.key(gateway.default_project)["value"]
    body = {"model": "own", "messages": HELLO, "seed": 1, "odd": {"kept": [1.50, "\u00e9"]}}
    raw = json.dumps(body, ensure_ascii=False).encode()
    answer = request(gateway.url, "POST", "/v1/chat/completions", key=key, body=raw, headers={
        "Cookie": "c=d", "X-Forwarded-For": "1.2.3.4", "Connection": "x-hop", "X-Hop": "1", "OpenAI-Beta": "assistants=v2",
        "Accept-Encoding": "gzip", "api_base": "http://evil/"})
    upstream.shutdown()
    headers = {k.lower(): v for k, v in seen["headers"].items()}
    assert headers["authorization"] == f"Bearer {UPSTREAM_SECRET}" and key not in repr(seen)
    assert headers["x-request-id"] == answer.headers["x-request-id"] != "theirs"
    assert headers["openai-beta"] == "assistants=v2" and headers["accept-encoding"] == "identity"
    assert not {"cookie", "x-forwarded-for", "x-hop", "api_base", "connection"} & set(headers)
    assert seen["path"] == "/deep/v1/chat/completions" and seen["body"] == raw, "the bytes pass untouched"
    assert not {"set-cookie", "x-internal"} & set(answer.headers)
    assert answer.headers["openai-organization"] == gateway.organization
