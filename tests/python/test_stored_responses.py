"""Responses that the provider keeps: each project has its own, and nobody else's."""

import json
import socket
import threading

import openai
import pytest

from harness import Fake, billed, recorded, request, simulate, until


@pytest.fixture
def project(gateway):
    return gateway.default_project


@pytest.fixture
def client(gateway, project):
    return gateway.client(gateway.key(project)["value"])


@pytest.fixture
def stranger(gateway):
    """A key of another project, to which everything here is absent."""
    return gateway.key(gateway.project("Another"))["value"]


def test_a_response_is_kept_and_can_be_had_again(gateway, client, simulator):
    made = client.responses.create(model="gpt-4o-mini", input="Hello", **simulate(output_tokens=7))
    again = client.responses.retrieve(made.id)
    assert again.output_text == made.output_text and again.usage == made.usage
    items = client.responses.input_items.list(made.id, limit=5, order="asc")
    assert items.data[0].content[0].text == "Hello"
    client.responses.delete(made.id)
    for call in [client.responses.retrieve, client.responses.cancel, client.responses.delete, lambda id: client.responses.input_items.list(id)]:
        with pytest.raises(openai.NotFoundError) as absent:
            call(made.id)
        assert absent.value.body["message"] == f"Response with id '{made.id}' not found."
    assert recorded(gateway) == billed(simulator), "only what was made was charged"
    assert len(gateway.requests()) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_goes_on_from_another(gateway, client, simulator, stream):
    first = client.responses.create(model="gpt-4o-mini", input="Hello", stream=stream, **simulate(output_tokens=7))
    id = list(first)[-1].response.id if stream else first.id
    second = client.responses.create(model="gpt-4o-mini", input="And then?", previous_response_id=id, **simulate(output_tokens=5))
    assert second.previous_response_id == id and second.usage.input_tokens > 10
    assert recorded(gateway) == billed(simulator)
    bounds = [float(row["bound"]) if row["bound"] else 0 for row in gateway.requests()]
    assert bounds[0] > 100_000 * 0.15e-6, "what was said before may be as long as the model takes"
    client.responses.delete(id)
    with pytest.raises(openai.BadRequestError) as absent:
        client.responses.create(model="gpt-4o-mini", input="And then?", previous_response_id=id)
    assert (absent.value.code, absent.value.param) == ("previous_response_not_found", "previous_response_id")


def test_another_project_s_is_as_absent_as_one_that_never_was(gateway, client, stranger, simulator):
    made = client.responses.create(model="gpt-4o-mini", input="secret words", background=True, **simulate(output_tokens=7, background_ms=60_000))
    before = len(simulator.requests)
    for method, suffix in [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items"), ("GET", "?stream=true")]:
        foreign = request(gateway.url, method, f"/v1/responses/{made.id}{suffix}", key=stranger)
        absent = request(gateway.url, method, f"/v1/responses/resp_absent{suffix}", key=stranger)
        assert foreign.status == absent.status == 404, (method, suffix, foreign)
        assert foreign.body.replace(made.id.encode(), b"resp_absent") == absent.body
    body = {"model": "gpt-4o-mini", "input": "What was that?"}
    foreign = request(gateway.url, "POST", "/v1/responses", key=stranger, body={**body, "previous_response_id": made.id})
    absent = request(gateway.url, "POST", "/v1/responses", key=stranger, body={**body, "previous_response_id": "resp_absent"})
    assert foreign.status == absent.status == 400 and foreign.body.replace(made.id.encode(), b"resp_absent") == absent.body
    assert len(simulator.requests) == before, "nothing of it reached the provider"
    assert client.responses.retrieve(made.id).id == made.id
    client.responses.cancel(made.id)


@pytest.mark.parametrize("stream", [False, True])
def test_an_item_is_named_instead_of_being_sent(gateway, project, client, stranger, simulator, stream):
    gateway.limit(project, 1000)
    first = client.responses.create(model="gpt-4o-mini", input="secret words", stream=stream, max_output_tokens=100, **simulate(output_tokens=7))
    first = list(first)[-1].response if stream else first
    [item] = first.output
    named = [{"type": "item_reference", "id": item.id}, {"role": "user", "content": "And then?"}]
    second = client.responses.create(model="gpt-4o-mini", input=named, max_output_tokens=100, **simulate(output_tokens=5))
    assert second.usage.input_tokens > 7 + 3
    assert recorded(gateway) == billed(simulator)
    assert float(gateway.requests()[0]["bound"]) > 100_000 * 0.15e-6, "what is named may be as long as the model takes"
    # What stands in an input somebody has put there, under whatever id: seeing it makes it nobody's own.
    [of_input] = client.responses.input_items.list(first.id).data
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt-4o-mini", input=[{"type": "item_reference", "id": of_input.id}], max_output_tokens=100)

    before = len(simulator.requests)
    for form in [{"type": "item_reference"}, {}, {"type": None}, {"type": "message"}, {"type": "reasoning", "summary": []}, {"type": "reasoning", "summary": [], "content": []},
                 {"type": "reasoning", "summary": [], "encrypted_content": ""}, {"type": "image_generation_call"}]:
        refused = [request(gateway.url, "POST", "/v1/responses", key=stranger, body={"model": "gpt-4o-mini", "input": [{**form, "id": id}]}) for id in (item.id, "msg_absent")]
        assert [(answer.status, answer.error["param"]) for answer in refused] == [(404, "input")] * 2, (form, refused)
        assert refused[0].body.replace(item.id.encode(), b"msg_absent") == refused[1].body
    assert len(simulator.requests) == before, "nothing of it reached the provider"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt-4o-mini", input=named)


def test_items_made_in_the_background_are_known_when_they_are_seen(gateway, client, simulator):
    made = client.responses.create(model="gpt-4o-mini", input="Hello", background=True, **simulate(output_tokens=7, background_ms=1))
    done = until(lambda: [seen for seen in [client.responses.retrieve(made.id)] if seen.status == "completed"])[0]
    assert client.responses.create(model="gpt-4o-mini", input=[{"type": "item_reference", "id": done.output[0].id}]).status == "completed"
    until(lambda: not [row for row in gateway.requests() if row["state"] == "held"])


def test_reasoning_is_named_where_it_was_made(server):
    def named(name):
        def answer(body, handler):
            output = [{"type": "reasoning", "id": f"rs_{name}", "summary": []}, {"type": "message", "id": f"msg_{name}", "role": "assistant", "content": []}]
            return 200, {"id": f"resp_{name}", "status": "completed", "output": output, "usage": {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}}
        return answer

    one, other = server.fake(named("one")), server.fake(named("other"))
    key = server.key(server.default_project)["value"]
    create = lambda input="x": request(server.url, "POST", "/v1/responses", key=key, body={"model": "fake", "input": input})
    reasoning = lambda name: {"type": "reasoning", "id": f"rs_{name}", "summary": []}
    for first, second in [(one, other), (other, one)]:
        server.post(f"/tollgate/v1/upstreams/{first.id}", {"priority": 0})
        server.post(f"/tollgate/v1/upstreams/{second.id}", {"priority": 1})
        assert create().status == 200
    # The first of them is preferred no longer, and is asked all the same.
    for name, fake in [("one", one), ("other", other)]:
        before = len(fake.bodies)
        assert create([reasoning(name), {"role": "user", "content": "And then?"}]).json["id"] == f"resp_{name}" and len(fake.bodies) == before + 1
    both = create([reasoning("one"), reasoning("other")])
    assert both.status == 404 and "rs_other" in both.error["message"], "no provider has both"
    encrypted = {**reasoning("elsewhere"), "encrypted_content": "gAAAA"}
    assert create([encrypted]).status == 200, "what is all there is nobody's but the client's"
    server.delete(f"/tollgate/v1/upstreams/{one.id}")
    assert create([reasoning("one")]).status == 404


@pytest.mark.parametrize("id", ["..", ".", "a%2Fb", "a%3Fb=c", "x" * 300, "a%00b", "%2e%2e%2fmodels"])
def test_an_id_leads_nowhere_else(gateway, client, simulator, id):
    answer = request(gateway.url, "GET", f"/v1/responses/{id}", key=client.api_key)
    assert answer.status in (400, 404), answer


def test_a_query_passes_as_far_as_it_is_known(server):
    seen = []
    fake = server.fake(lambda body, handler: (200, {"id": "resp_1", "status": "completed", "usage": {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}}))
    handler = fake.server.RequestHandlerClass

    def get(self):
        seen.append((self.path, dict(self.headers)))
        self.send_json(200, {"id": "resp_1"})

    handler.do_GET = get
    key = server.key(server.default_project)["value"]
    assert request(server.url, "POST", "/v1/responses", key=key, body={"model": "fake", "input": "x"}).status == 200
    assert request(server.url, "GET", "/v1/responses/resp_1?include[]=message.output_text.logprobs&starting_after=5", key=key).status == 200
    assert request(server.url, "GET", "/responses/resp_1/input_items?limit=5&after=x", key=key).status == 200
    assert [path for path, _ in seen] == ["/v1/responses/resp_1?include[]=message.output_text.logprobs&starting_after=5", "/v1/responses/resp_1/input_items?limit=5&after=x"]
    assert all(headers["x-request-id"].startswith("req_") and "Content-Length" not in headers for _, headers in seen)
    refused = request(server.url, "GET", "/v1/responses/resp_1?api-key=x", key=key)
    assert refused.status == 400 and refused.error["param"] == "api-key" and len(seen) == 2
    wrong = request(server.url, "PUT", "/v1/responses/resp_1", key=key)
    assert wrong.status == 405 and wrong.headers["allow"] == "GET, DELETE"


@pytest.mark.parametrize("cents", [None, 1000])
def test_a_response_in_the_background_is_charged_when_it_has_come_to_its_end(gateway, project, client, simulator, cents):
    if cents:
        gateway.limit(project, cents)
    made = client.responses.create(model="gpt-4o-mini", input="Hello", background=True, max_output_tokens=100, **simulate(output_tokens=7, background_ms=1500))
    assert made.status == "queued"
    [row] = gateway.requests()
    assert row["state"] == "held", "it still runs, so its money is still held"
    [row] = until(lambda: [row for row in gateway.requests() if row["state"] != "held"])
    assert (row["state"], row["usage_source"]) == ("settled", "upstream") and recorded(gateway) == billed(simulator)
    done = client.responses.retrieve(made.id)
    assert done.status == "completed" and len(done.output_text.split()) == 7
    events = list(client.responses.retrieve(made.id, stream=True))
    assert events[-1].type == "response.completed" and len(gateway.requests()) == 1


def test_a_response_in_the_background_can_be_cancelled(gateway, client, simulator):
    made = client.responses.create(model="gpt-4o-mini", input="Hello", background=True, **simulate(output_tokens=7, background_ms=60_000))
    assert client.responses.cancel(made.id).status == "cancelled"
    [row] = until(lambda: [row for row in gateway.requests() if row["state"] != "held"])
    assert row["state"] == "settled"


def test_whose_client_goes_away_in_the_background_goes_on(server):
    """Also at an upstream that otherwise stops: what it makes in the background it makes without a connection."""
    proceed, asked = threading.Event(), []

    def answer(body, handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.wfile.write(b'event: response.queued\ndata: {"type":"response.queued","response":{"id":"resp_9","status":"queued","store":true}}\n\n')
        handler.wfile.flush()
        proceed.wait(60)
        handler.close_connection = True

    fake = server.fake(answer)
    server.post(f"/tollgate/v1/upstreams/{fake.id}", {"on_client_gone": "cancel"})

    def get(self):
        asked.append(self.path)
        self.send_json(200, {"id": "resp_9", "status": "completed", "usage": {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}})

    fake.server.RequestHandlerClass.do_GET = get
    key = server.key(server.default_project)["value"]
    body = json.dumps({"model": "fake", "input": "x", "background": True, "stream": True}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        while b"resp_9" not in connection.recv(65536):
            pass
        assert request(server.url, "GET", "/v1/responses/resp_9", key=key).status == 200, "its id was known before the client saw it"
    proceed.set()
    [row] = until(lambda: [row for row in server.requests() if row["state"] != "held"])
    assert (row["usage_source"], row["input_tokens"], row["output_tokens"]) == ("upstream", 5, 3) and len(asked) >= 2


def test_it_goes_on_where_it_is_kept(server):
    bodies = []

    def named(name):
        def answer(body, handler):
            bodies.append((name, body))
            return 200, {"id": f"resp_{name}{len(bodies)}", "status": "completed", "usage": {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}}
        return answer

    one, other = server.fake(named("one")), server.fake(named("other"))
    server.post(f"/tollgate/v1/upstreams/{other.id}", {"priority": 1})
    key = server.key(server.default_project)["value"]
    create = lambda **more: request(server.url, "POST", "/v1/responses", key=key, body={"model": "fake", "input": "x", **more})
    first = create().json["id"]
    server.post(f"/tollgate/v1/upstreams/{one.id}", {"priority": 2})
    assert create().json["id"].startswith("resp_other")
    assert create(previous_response_id=first).json["id"].startswith("resp_one")
    server.delete(f"/tollgate/v1/upstreams/{one.id}")
    assert create(previous_response_id=first).error["code"] == "previous_response_not_found"
    assert request(server.url, "GET", f"/v1/responses/{first}", key=key).status == 404


def test_what_is_not_kept_is_not_known(gateway, client):
    made = client.responses.create(model="gpt-4o-mini", input="Hello", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_whose_a_response_is_outlives_a_restart(gateway, project, simulator):
    key = gateway.key(project)["value"]
    made = gateway.client(key).responses.create(model="gpt-4o-mini", input="Hello")
    gateway.restart()
    assert gateway.client(key).responses.retrieve(made.id).output_text == made.output_text
