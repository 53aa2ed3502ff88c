"""Anthropic's messages, under Anthropic's own SDK."""

import json
import socket

import anthropic
import pytest

from harness import Fake, billed, recorded, request, until

MODEL = "claude-sonnet-5"
LIMIT = {"threshold_amount": 1_000_000, "currency": "USD", "interval": "month"}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def key(gateway):
    return gateway.key(gateway.default_project)["value"]


@pytest.fixture
def client(gateway, key):
    return anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0, _strict_response_validation=True)


def simulate(**script):
    return {"extra_body": {"metadata": {"simulate": json.dumps(script)}}}


def native(usage=None, text="Hello"):
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "fake", "stop_reason": "end_turn", "stop_sequence": None,
            "content": [{"type": "text", "text": text}], "usage": usage or {"input_tokens": 10, "output_tokens": 5}}


def post(server, key, body, path="/v1/messages", **headers):
    return request(server.url, "POST", path, body=body, headers={"x-api-key": key, **headers})


def test_a_message_in_one_piece_and_as_a_stream(gateway, client, simulator):
    answer = client.messages.create(model=MODEL, max_tokens=100, messages=HELLO, system="Be brief.", **simulate(output_tokens=7))
    assert answer.stop_reason == "end_turn" and len(answer.content[0].text.split()) == 7 and answer._request_id.startswith("req_")
    with client.messages.stream(model=MODEL, max_tokens=100, messages=HELLO, **simulate(output_tokens=9)) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text and len(text.split()) == 9 and final.usage.output_tokens == 9
    short = client.messages.create(model=MODEL, max_tokens=5, messages=HELLO, **simulate(output_tokens="max"))
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 5)
    assert recorded(gateway) == billed(simulator) and {r["usage_source"] for r in gateway.requests()} == {"upstream"}
    assert {r["endpoint"] for r in gateway.requests()} == {"completions"}


@pytest.mark.parametrize("stream", [False, True])
def test_the_call_of_a_tool_and_its_answer(gateway, client, simulator, stream):
    tools = [{"name": "weather", "description": "Tells it.", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]
    given = {"model": MODEL, "max_tokens": 100, "messages": HELLO, "tools": tools, **simulate(tool_arguments='{"city":"Bern"}')}
    if stream:
        with client.messages.stream(**given) as events:
            answer = events.get_final_message()
    else:
        answer = client.messages.create(**given)
    [call] = answer.content
    assert (answer.stop_reason, call.name, call.input) == ("tool_use", "weather", {"city": "Bern"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Rain."}]}
    messages = HELLO + [{"role": "assistant", "content": [call.model_dump(exclude_none=True)]}, {"role": "user", "content": [result]}]
    assert client.messages.create(model=MODEL, max_tokens=100, messages=messages, tools=tools).stop_reason == "end_turn"
    assert recorded(gateway) == billed(simulator)


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_cached_is_priced_by_how_long_it_is_kept(gateway, client, simulator, stream):
    script = simulate(output_tokens=10, cached_tokens=20, cache_write_tokens=30, cache_write_1h_tokens=12)
    system = [{"type": "text", "text": "word " * 100, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    given = {"model": MODEL, "max_tokens": 100, "messages": HELLO, "system": system, **script}
    if stream:
        with client.messages.stream(**given) as events:
            events.until_done()
    else:
        client.messages.create(**given)
    [row] = gateway.requests()
    [(input_tokens, output_tokens)] = billed(simulator)
    assert (row["input_tokens"], row["output_tokens"], row["cached_input_tokens"]) == (input_tokens, output_tokens, 20)
    # Dollars per million: 2 plain, 0.20 read, 2.50 written, 4 written for an hour, 10 output.
    cost = (input_tokens - 50) * 2 + 20 * 0.2 + 18 * 2.5 + 12 * 4 + 10 * 10
    assert float(row["cost"]) == pytest.approx(cost / 1e6) and row["flags"] == []
    assert float(row["cost"]) < float(row["bound"])


def test_the_hold_has_room_for_the_dearest_way_to_keep_it(server):
    usage = {"input_tokens": 0, "cache_creation_input_tokens": 200, "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 200}, "output_tokens": 1}
    server.fake(lambda body, handler: (200, native(usage)), input_price="1", cache_write_price="1.25", cache_write_1h_price="2", output_price="10")
    key = server.key(server.default_project)["value"]
    for ttl in ['"1h"', '"1\\u0068"', '"\\u0031h"']:
        body = '{"model":"fake","max_tokens":1,"messages":[{"role":"user","content":[{"type":"text","text":"' + "x" * 100 + '","cache_control":{"type":"ephemeral","ttl":' + ttl + "}}]}]}"
        assert post(server, key, body.encode()).status == 200
        row = server.requests()[0]
        assert float(row["cost"]) == pytest.approx((200 * 2 + 10) / 1e6) and row["flags"] == [] and float(row["bound"]) >= float(row["cost"])


def test_tokens_are_counted_for_nothing(gateway, client, simulator):
    gateway.post("/v1/organization/spend_limit", LIMIT)
    counted = client.messages.count_tokens(model=MODEL, messages=HELLO, system="Be brief.")
    assert counted.input_tokens > 3
    [row] = gateway.requests()
    assert (row["state"], row["cost"], row["bound"], row["endpoint"], row["input_tokens"]) == ("settled", "0.000000000", "0.000000000", "token_counts", 0)


def test_errors_are_in_the_form_that_its_clients_read(gateway, client, key, simulator):
    with pytest.raises(anthropic.AuthenticationError) as refused:
        client.with_options(api_key="sk-proj-nonsense").messages.create(model=MODEL, max_tokens=1, messages=HELLO)
    assert refused.value.body["type"] == "error" and refused.value.body["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.NotFoundError) as refused:
        client.messages.create(model="nobody", max_tokens=1, messages=HELLO)
    assert refused.value.body["error"]["code"] == "model_not_found" and refused.value.request_id == refused.value.body["request_id"]
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(model=MODEL, max_tokens=0, messages=HELLO)
    assert refused.value.body["error"]["param"] == "max_tokens"
    with pytest.raises(anthropic.RateLimitError) as refused:
        client.messages.create(model=MODEL, max_tokens=1, messages=HELLO, **simulate(fault="status", status=429, retry_after=3))
    assert refused.value.response.headers["retry-after"] == "3"
    with pytest.raises(anthropic.InternalServerError):
        client.messages.create(model=MODEL, max_tokens=1, messages=HELLO, **simulate(fault="drop"))
    gateway.post("/v1/organization/spend_limit", {**LIMIT, "threshold_amount": 1})
    with pytest.raises(anthropic.RateLimitError) as refused:
        client.messages.create(model=MODEL, max_tokens=1000, messages=HELLO)
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert post(gateway, key, b"{", path="/messages").json["error"]["type"] == "invalid_request_error"
    assert post(gateway, key, {}, path="/v1/messages/batches").status == 404


def test_a_provider_s_own_refusal_passes_as_it_came(server):
    refusal = {"type": "error", "error": {"type": "invalid_request_error", "message": "messages: roles must alternate"}}
    server.fake(lambda body, handler: (400, refusal))
    answer = post(server, server.key(server.default_project)["value"], {"model": "fake", "max_tokens": 1, "messages": HELLO})
    assert (answer.status, answer.json) == (400, refusal) and server.requests()[0]["state"] == "voided"


def test_its_own_headers_pass_and_a_key_goes_where_it_is_read(server):
    seen = []
    server.fake(lambda body, handler: seen.append((handler.path, dict(handler.headers))) or (200, native()))
    key = server.key(server.default_project)["value"]
    body = {"model": "fake", "max_tokens": 5, "messages": HELLO}
    betas = {"anthropic-version": "2024-01-01", "anthropic-beta": "interleaved-thinking-2025-05-14", "anthropic-organization-id": "x", "Cookie": "a=b"}
    for path, headers in [("/v1/messages", {}), ("/messages", betas), ("/anthropic/v1/messages", {})]:
        assert post(server, key, body, path, **headers).status == 200
    assert {path for path, _ in seen} == {"/v1/messages"}
    sent = [{name.lower(): value for name, value in headers.items()} for _, headers in seen]
    assert [headers["anthropic-version"] for headers in sent] == ["2023-06-01", "2024-01-01", "2023-06-01"]
    assert sent[1]["anthropic-beta"] == betas["anthropic-beta"]
    assert not {"anthropic-organization-id", "cookie", "x-api-key"} & set(sent[1])
    assert {json.dumps(b, sort_keys=True) for b in server.fakes[0].bodies} == {json.dumps(body, sort_keys=True)}


@pytest.mark.parametrize("more, param", [
    ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, "tools[0].type"),
    ({"tools": [{"name": "a", "input_schema": {}}, {"type": "code_execution_20250825", "name": "x"}]}, "tools[1].type"),
    ({"mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}]}, "mcp_servers"), ({"container": "container_1"}, "container"),
    ({"service_tier": "priority"}, "service_tier"), ({"max_tokens": None}, "max_tokens"), ({"max_tokens": "5"}, "max_tokens"),
    ({"messages": "x"}, "messages"), ({"messages": None}, "messages"), ({"system": 5}, "system"), ({"model": ""}, "model"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "file_1"}}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "file_1"}]}]}, "messages"),
    ({"Max_Tokens": 5}, "Max_Tokens"),
])
def test_what_cannot_be_metered_is_refused_by_name(gateway, key, simulator, more, param):
    body = {"model": MODEL, "max_tokens": 5, "messages": HELLO, **more}
    answer = post(gateway, key, body)
    assert answer.status == 400 and answer.error["param"] == param, answer
    assert answer.json["type"] == "error" and simulator.requests == []


@pytest.mark.parametrize("more, headers, name", [
    ({"speed": "fast"}, {}, "speed"), ({"inference_geo": "us"}, {}, "inference_geo"),
    ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, {}, "context_management"),
    ({}, {"anthropic-beta": "claude-code-20250219, context-1m-2025-08-07"}, "context-1m-2025-08-07"),
])
def test_what_may_cost_more_is_refused_where_a_limit_is_hard(gateway, key, simulator, more, headers, name):
    body = {"model": MODEL, "max_tokens": 5, "messages": HELLO, **more}
    assert post(gateway, key, body, **headers).status == 200, "without a limit all passes"
    gateway.post("/v1/organization/spend_limit", LIMIT)
    refused = post(gateway, key, body, **headers)
    assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "cost_not_boundable", name), refused
    [upstream] = gateway.get("/tollgate/v1/upstreams").json["data"]
    gateway.post(f"/tollgate/v1/upstreams/{upstream['id']}", {"allowed_parameters": [name]})
    assert post(gateway, key, body, **headers).status == 200
    harmless = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "temperature": 1, "stop_sequences": ["x"], "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}
    assert post(gateway, key, {"model": MODEL, "max_tokens": 5, "messages": HELLO, **harmless}).status == 200


def test_images_and_documents_are_bounded(gateway, key):
    gateway.post("/v1/organization/spend_limit", {**LIMIT, "threshold_amount": 100_000_000})
    gateway.post(f"/tollgate/v1/models/{MODEL}", {"image_tokens": 1600, "context_tokens": 200_000})
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 100}}
    bounds = []
    for block in [image, {"type": "tool_result", "tool_use_id": "x", "content": [image]}, pdf]:
        answer = post(gateway, key, {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": [block]}]})
        assert answer.status == 200, answer
        bounds.append(float(gateway.requests()[0]["bound"]))
    assert 1600 * 2.5e-6 < bounds[0] < 2500 * 2.5e-6 and bounds[1] < 2500 * 2.5e-6, "as an image, not as its bytes"
    cited = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a. b. c."}, "citations": {"enabled": True}}
    post(gateway, key, {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": [cited]}]})
    assert float(gateway.requests()[0]["bound"]) > 200_000 * 2.5e-6, "what is cited from is numbered at a price of its own"
    assert bounds[2] > 200_000 * 2.5e-6, "a document shows nothing of its size: as much as the model takes"


def test_a_cut_stream_is_charged_at_its_bound_under_a_limit_and_by_what_was_seen_without(gateway, key):
    body = {"model": MODEL, "max_tokens": 50, "messages": HELLO, "stream": True, "metadata": {"simulate": json.dumps({"fault": "cut", "after_bytes": 1200, "output_tokens": 40})}}

    def cut():
        try:
            post(gateway, key, body)
        except Exception:
            pass
        return until(lambda: [row for row in gateway.requests() if row["state"] == "settled"])[0]

    row = cut()
    assert row["usage_source"] == "observed" and 0 < row["output_tokens"] < 40
    gateway.post("/v1/organization/spend_limit", LIMIT)
    first = row["id"]
    row = until(lambda: (row := cut())["id"] != first and row)
    assert row["usage_source"] == "bound" and row["output_tokens"] == 50


def test_the_end_counts_though_the_stream_is_cut_after_it(server):
    start = {"type": "message_start", "message": {**native(), "content": [], "usage": {"input_tokens": 100, "output_tokens": 1}}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}

    def answer(body, handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        for event in [start, {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}, end]:
            handler.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    server.fake(answer)
    with pytest.raises(Exception):
        post(server, server.key(server.default_project)["value"], {"model": "fake", "max_tokens": 50, "messages": HELLO, "stream": True})
    [row] = until(lambda: [row for row in server.requests() if row["state"] == "settled"])
    assert (row["usage_source"], row["input_tokens"], row["output_tokens"]) == ("upstream", 100, 9)


def test_models_are_listed_as_its_clients_read_them(gateway, client, key):
    listed = client.models.list()
    assert MODEL in [model.id for model in listed.data] and client.models.retrieve(MODEL).type == "model"
    assert gateway.get("/v1/models", key=key).json["object"] == "list"
