"""Responses, of which the provider keeps nothing."""

import json
import socket
import time

import openai
import pytest

from harness import Fake, billed, recorded, request, settled, simulate, until


@pytest.fixture
def client(gateway):
    return gateway.client(gateway.key(gateway.default_project)["value"])


def test_a_response_in_one_piece_and_as_a_stream(gateway, client, simulator):
    answer = client.responses.create(model="gpt-4o-mini", input="Hello", instructions="Be brief.", **simulate(output_tokens=7))
    assert answer.status == "completed" and len(answer.output_text.split()) == 7 and answer.store is True
    stream = client.responses.create(model="gpt-4o-mini", input=[{"role": "user", "content": "Hello"}], stream=True, **simulate(output_tokens=9))
    events = list(stream)
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"] and events[-1].type == "response.completed"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == events[-1].response.output_text
    short = client.responses.create(model="gpt-4o-mini", input="Hello", max_output_tokens=16, **simulate(output_tokens="max"))
    assert short.status == "incomplete" and short.usage.output_tokens == 16
    assert recorded(gateway) == billed(simulator) and {r["usage_source"] for r in gateway.requests()} == {"upstream"}
    usage = gateway.get("/v1/organization/usage/completions", start_time=int(time.time()) - 86_400).json["data"]
    assert sum(result["num_model_requests"] for bucket in usage for result in bucket["results"]) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_the_call_of_a_tool_and_its_answer(gateway, client, simulator, stream):
    tools = [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False}]
    given = {"model": "gpt-4o-mini", "input": "Weather?", "tools": tools, "stream": stream, **simulate(tool_arguments='{"city":"Bern"}')}
    answer = client.responses.create(**given)
    call = (list(answer)[-1].response if stream else answer).output[0]
    assert (call.type, call.name, call.arguments) == ("function_call", "weather", '{"city":"Bern"}')
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}, call.model_dump(exclude_none=True),
             {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}]
    assert client.responses.create(model="gpt-4o-mini", input=items).status == "completed"
    assert recorded(gateway) == billed(simulator)


def test_what_is_kept_is_the_client_s_choice_and_what_is_not_served_is_refused(server):
    fake = server.fake(lambda body, handler: (200, {"id": "x", "object": "response", "usage": {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}}))
    key = server.key(server.default_project)["value"]
    for given in [{}, {"store": False}, {"store": None}, {"store": True}]:
        body = {"model": "fake", "input": "x", "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"], **given}
        assert request(server.url, "POST", "/v1/responses", key=key, body=body).status == 200
        assert fake.bodies[-1] == {**body, "max_output_tokens": 4096}
    for more, param in [({"background": True, "store": False}, "background"), ({"background": 1}, "background"), ({"previous_response_id": "resp_1"}, "previous_response_id"),
                        ({"previous_response_id": 5}, "previous_response_id"),
                        ({"conversation": "c"}, "conversation"), ({"prompt": {"id": "p"}}, "prompt"), ({"input": 5}, "input"), ({"input": None}, "input"),
                        ({"input": [{"content": [{"type": "input_audio"}]}]}, "input[0].content"), ({"store": 1}, "store"), ({"tools": [{"type": "file_search"}]}, "tools[0].type"),
                        ({"input": [{"type": "item_reference"}]}, "input[0].id"), ({"input": [{"id": 5}]}, "input[0].id"), ({"input": [{"type": "item_reference", "id": "x"}] * 1001}, "input"),
                        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0]"),
                        ({"input": [{"type": "function_call_output", "output": [{"type": "input_image", "file_id": "f"}]}]}, "input[0]"),
                        ({"input": [{"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "file_id": "f"}}]}, "input[0]"),
                        ({"max_output_tokens": -1}, "max_output_tokens"), ({"max_output_tokens": "5"}, "max_output_tokens"), ({"service_tier": "flex"}, "service_tier"),
                        ({"input": [{"content": 5}]}, "input[0].content"), ({"input": ["x"]}, "input[0]")]:
        refused = request(server.url, "POST", "/v1/responses", key=key, body={"model": "fake", "input": "x", **more})
        assert refused.status == 400 and refused.error["param"] == param, (more, refused)
    refused = request(server.url, "POST", "/v1/responses/compact/x", key=key)
    assert refused.status == 404 and "are not served" in refused.error["message"]
    assert request(server.url, "GET", "/v1/responses", key=key).status == 405


def test_a_limit_holds_for_responses(gateway, client, simulator):
    gateway.limit(gateway.default_project, 2)
    spend = lambda **more: client.responses.create(model="gpt-4o", input="x", **{"max_output_tokens": 1000, **more}, **simulate(output_tokens="max"))
    assert spend().usage.output_tokens == 1000
    with pytest.raises(openai.RateLimitError) as refused:
        spend()
    assert refused.value.code == "project_spend_limit_exceeded"
    policy = f"/tollgate/v1/projects/{gateway.default_project}/spend_policy"
    assert gateway.post(policy, {"when_exceeded": "clamp"}).status == 200
    clamped = spend()
    assert 800 < clamped.usage.output_tokens < 1000 and clamped.status == "incomplete"
    with pytest.raises(openai.RateLimitError):
        spend(text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}})
    assert sum(output for _, output in billed(simulator)) * 10e-6 <= 0.02


def test_images_and_files_are_bounded_as_elsewhere(server):
    server.fake(lambda body, handler: (200, {"usage": {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}}), image_tokens=1000, context_tokens=100_000)
    key = server.key(server.default_project)["value"]
    server.limit(server.default_project, 1000)
    bounds = []
    shown = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "x"}]}
    body = {"model": "fake", "max_output_tokens": 16, "input": [shown]}
    assert request(server.url, "POST", "/v1/responses", key=key, body=body).status == 200
    assert float(server.requests()[0]["bound"]) * 1e6 > 100_000, "reasoning that is named may be looked up and be anything"
    for parts in [[], [{"type": "input_image", "image_url": "data:image/png;base64," + "A" * 50_000}], [{"type": "input_file", "file_data": "JVBERi0="}]]:
        content = [{"type": "input_text", "text": "x"}, *parts]
        for items in [[{"role": "user", "content": content}], [{"type": "function_call_output", "call_id": "c", "output": content}]]:
            body = {"model": "fake", "max_output_tokens": 16, "input": items}
            assert request(server.url, "POST", "/v1/responses", key=key, body=body).status == 200
            bounds.append(float(server.requests()[0]["bound"]) * 1e6)
    assert bounds[0] < 500 and 1000 < bounds[2] < 1600 and 1000 < bounds[3] < 1600 and min(bounds[4:]) > 100_000, bounds


@pytest.mark.parametrize("cents, source", [(None, "observed"), (1000, "bound")])
def test_a_cut_stream_is_charged_by_its_pieces_once(gateway, simulator, cents, source):
    """Each piece of text stands in the stream again when its part is done, and once more in the end."""
    key = gateway.key(gateway.default_project)["value"]
    if cents:
        gateway.limit(gateway.default_project, cents)
    length = len(request(simulator.root, "POST", "/v1/responses", body={"model": "gpt-4o-mini", "input": "x", "stream": True, "max_output_tokens": 100,
                                                                       **simulate(output_tokens=100)}).body)
    script = {"output_tokens": 100, "fault": "cut", "after_bytes": length - 200}
    host, port = gateway.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "gpt-4o-mini", "input": "x", "stream": True, "max_output_tokens": 100, **simulate(**script)}).encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        while connection.recv(65536):
            pass
    until(lambda: all(r["state"] != "held" for r in gateway.requests()))
    [made] = gateway.requests()
    assert made["usage_source"] == source and 100 <= made["output_tokens"] <= 115, made


def test_an_upstream_that_speaks_no_responses_says_so(server):
    server.fake(lambda body, handler: (404, {"error": {"message": "Not Found", "type": "invalid_request_error", "param": None, "code": None}}))
    key = server.key(server.default_project)["value"]
    answer = request(server.url, "POST", "/v1/responses", key=key, body={"model": "fake", "input": "x"})
    assert answer.status == 404 and answer.error["message"] == "Not Found"
    assert server.requests()[0]["state"] == "voided"


def test_the_order_of_a_body_s_fields_does_not_matter(server):
    fake = server.fake(lambda body, handler: (200, {"usage": {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}}))
    key = server.key(server.default_project)["value"]
    server.limit(server.default_project, 100)
    for body in [{"max_tokens": 9, "model": "fake", "input": "x"}, {"max_completion_tokens": 9, "max_tokens": 5000, "model": "fake", "input": "x"}]:
        assert request(server.url, "POST", "/v1/responses", key=key, body=body).status == 200
        assert fake.bodies[-1]["max_output_tokens"] <= 4096 and fake.bodies[-1].get("max_completion_tokens", 0) <= 4096
    chat = {"max_completion_tokens": 9, "stream": True, "model": "fake", "messages": [{"role": "user", "content": "x"}]}
    assert request(server.url, "POST", "/v1/chat/completions", key=key, body=chat).status == 200
    assert fake.bodies[-1]["max_tokens"] == 9


@pytest.mark.parametrize("last", [None, {"type": "response.failed", "response": {"status": "failed", "usage": None}}])
def test_usage_before_the_end_is_not_the_whole_of_it(server, last):
    early = {"type": "response.created", "response": {"status": "in_progress", "usage": {"input_tokens": 5, "output_tokens": 0, "total_tokens": 5}}}

    def answer(body, handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for event in filter(None, [early, last]):
            handler.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        handler.close_connection = True

    server.fake(answer)
    key = server.key(server.default_project)["value"]
    server.limit(server.default_project, 100)
    assert request(server.url, "POST", "/v1/responses", key=key, body={"model": "fake", "input": "x", "stream": True}).status == 200
    [made] = settled(server)
    assert made["usage_source"] == "bound" and made["cost"] == made["bound"]


def test_a_deep_answer_harms_nobody(server):
    def answer(body, handler):
        text = b'{"response":' * 50_000 + b"1" + b"}" * 50_000
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    server.fake(answer)
    key = server.key(server.default_project)["value"]
    assert request(server.url, "POST", "/v1/responses", key=key, body={"model": "fake", "input": "x"}).status == 200
    assert server.requests()[0]["usage_source"] == "bound"


def test_a_model_that_costs_nothing_bounds_nothing_that_chooses_another(server):
    fake = server.fake(lambda body, handler: (200, Fake.completion()), input_price="0", output_price="0")
    key = server.key(server.default_project)["value"]
    server.limit(server.default_project, 100)
    assert server.chat(key, model="fake").status == 200 and len(fake.bodies) == 1
    refused = server.chat(key, model="fake", fallbacks=["dear"])
    assert refused.status == 400 and refused.error["param"] == "fallbacks"
