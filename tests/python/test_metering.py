"""What is charged, whatever becomes of a request: each attempt once, and each record says where its usage is from."""

import http.client
import json
import socket
import threading
import time

import pytest

from harness import Fake, SocketUpstream, request, settled, until

HELLO = [{"role": "user", "content": "Hello"}]


def key_of(gateway, cents=None):
    key = gateway.key(gateway.default_project)["value"]
    if cents:
        gateway.limit(gateway.default_project, cents)
    return key


# The provider enforces what was paid for


@pytest.mark.parametrize("reads", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("given", [{"max_tokens": 7}, {"max_completion_tokens": 7}, {"max_tokens": 7, "max_completion_tokens": 5}, {}])
def test_the_upstream_is_told_of_the_limit_under_the_name_it_reads(server, simulator, reads, given):
    """A server that overlooks the other name would make, and bill, as much as it can."""
    server.upstream(simulator, output_limit_field=reads)
    simulator.config(output_tokens="max", output_limit_field=reads)
    key = key_of(server, 1000)
    if not given:
        server.post("/tollgate/v1/models/gpt-4o-mini", {"max_output_tokens": 7})
    answer = server.chat(key, **given)
    assert answer.status == 200, answer
    [recorded] = server.requests()
    made = 5 if len(given) == 2 and reads == "max_completion_tokens" else 7
    assert recorded["output_tokens"] == made and float(recorded["cost"]) <= float(recorded["bound"])
    assert simulator.requests[0]["billed_output"] == made


def test_servers_that_people_run_read_the_older_name_unless_told_otherwise(server, simulator):
    made = server.upstream(simulator)
    assert made["output_limit_field"] == "max_tokens"
    path = f"/tollgate/v1/upstreams/{made['id']}"
    assert server.post(path, {"output_limit_field": "max_completion_tokens"}).json["output_limit_field"] == "max_completion_tokens"
    assert server.post(path, {"output_limit_field": None}).json["output_limit_field"] == "max_tokens"
    openai = {"name": "openai", "base_url": "https://api.openai.com/v1", "models": ["m"], "api_key": None}
    assert server.post("/tollgate/v1/upstreams", openai).json["output_limit_field"] == "max_completion_tokens"
    for change, param in [({"output_limit_field": "tokens"}, "output_limit_field"), ({"on_client_gone": "wait"}, "on_client_gone")]:
        refused = server.post(path, change)
        assert refused.status == 400 and refused.error["param"] == param


def test_what_an_operator_says_a_model_makes_at_most_the_upstream_is_told(gateway, simulator):
    simulator.config(output_tokens="max")
    gateway.post("/tollgate/v1/models/gpt-4o-mini", {"max_output_tokens": 50})
    key = key_of(gateway)
    assert gateway.chat(key).json["usage"]["completion_tokens"] == 50
    assert gateway.chat(key, max_completion_tokens=20).json["usage"]["completion_tokens"] == 20
    assert gateway.chat(key, max_completion_tokens=60).json["usage"]["completion_tokens"] == 50
    unlimited = gateway.chat(key, model="gpt-4o", max_completion_tokens=70)
    assert unlimited.json["usage"]["completion_tokens"] == 70, "what nobody limits passes as it came"


# Usage as upstreams report it


@pytest.mark.parametrize("usage, flag", [
    ({"prompt_tokens": -5, "completion_tokens": 1}, "usage_absurd"), ({"prompt_tokens": 5, "completion_tokens": -1}, "usage_absurd"),
    ({"prompt_tokens": 10**15, "completion_tokens": 1}, "usage_absurd"), ({"prompt_tokens": 1.5, "completion_tokens": 1}, "usage_absurd"),
    ({"prompt_tokens": 10**8, "completion_tokens": 1}, "usage_absurd"), ({"prompt_tokens": "5", "completion_tokens": 1}, "usage_absurd"),
    ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, "usage_contradictory"),
    ({"prompt_tokens": 5, "completion_tokens": 0}, "usage_contradictory"), ({"prompt_tokens": 5}, "usage_contradictory")])
@pytest.mark.parametrize("is_limited", [False, True])
def test_usage_that_cannot_be_is_kept_flagged_and_not_believed(gateway, usage, flag, is_limited):
    key = key_of(gateway, 1000 if is_limited else None)
    assert gateway.chat(key, max_completion_tokens=50, simulate={"usage": usage, "output_tokens": "max"}).status == 200
    [recorded] = gateway.requests()
    assert recorded["flags"] == [flag] and recorded["reported_usage"] == usage and recorded["usage_source"] == "bound", recorded
    assert recorded["output_tokens"] == 50 and float(recorded["cost"]) > 0
    assert [r["id"] for r in gateway.requests(flagged="true")] == [recorded["id"]] and gateway.requests(flagged="false") == []


def test_usage_that_contradicts_itself_is_believed_where_it_says_more(gateway):
    key = key_of(gateway, 1000)
    gateway.chat(key, max_completion_tokens=100, simulate={"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 60}})
    [recorded] = gateway.requests()
    assert (recorded["input_tokens"], recorded["output_tokens"], recorded["flags"]) == (10, 50, ["usage_contradictory"])
    assert recorded["usage_source"] == "upstream"


def test_a_tier_of_another_price_is_told(gateway):
    gateway.chat(key_of(gateway), simulate={"service_tier": "priority"})
    [recorded] = gateway.requests()
    assert recorded["flags"] == ["service_tier"] and recorded["usage_source"] == "upstream"


def test_an_answer_above_its_bound_is_charged_in_full_and_raises_the_next(gateway):
    key = key_of(gateway, 100_000)
    model = lambda: gateway.get("/tollgate/v1/models/gpt-4o-mini").json["bound_violations"]
    assert model() is None
    gateway.chat(key, max_completion_tokens=100)
    before = float(gateway.requests()[0]["bound"])
    gateway.chat(key, max_completion_tokens=100, simulate={"usage": {"prompt_tokens": 9, "completion_tokens": 250, "total_tokens": 259}})
    above = gateway.requests()[0]
    assert above["flags"] == ["above_bound"] and float(above["cost"]) == pytest.approx(9 * 0.15e-6 + 250 * 0.6e-6)
    assert model()["count"] == 1 and model()["output_extra_tokens"] == 150 and model()["output_factor"] == model()["input_factor"] == "1"
    assert float(model()["excess"]) == pytest.approx(float(above["cost"]) - float(above["bound"]))
    gateway.chat(key, max_completion_tokens=100)
    raised = float(gateway.requests()[0]["bound"])
    assert raised - before == pytest.approx(150 * 0.6e-6, rel=0.02), "the next is held for what this one made"
    gateway.restart()
    assert model()["count"] == 1
    gateway.chat(key, max_completion_tokens=100)
    assert float(gateway.requests()[0]["bound"]) == raised
    gateway.chat(key, max_completion_tokens=4000)
    assert float(gateway.requests()[0]["bound"]) - raised == pytest.approx(3900 * 0.6e-6, rel=0.001), "a few tokens are no factor"
    assert gateway.post("/tollgate/v1/models/gpt-4o-mini", {"bound_violations": None}).status == 200 and model() is None
    gateway.chat(key, max_completion_tokens=100)
    assert float(gateway.requests()[0]["bound"]) == before


def test_a_large_answer_above_its_bound_raises_the_next_by_the_same_part(gateway):
    key = key_of(gateway, 100_000)
    def bound_of(output):
        usage = {"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output}
        assert gateway.chat(key, max_completion_tokens=2000, simulate={"usage": usage}).status == 200
        return float(gateway.requests()[0]["bound"])
    first = bound_of(5000)
    second = until(lambda: (bound := bound_of(2000)) > first and bound)
    violations = gateway.get("/tollgate/v1/models/gpt-4o-mini").json["bound_violations"]
    assert violations["count"] == 1 and violations["output_factor"] == "2.5" and violations["output_extra_tokens"] == 0
    assert second - first == pytest.approx(3000 * 0.6e-6, rel=0.001)


def served_as(server, model, answer):
    """An upstream that serves a model whose price and tokenizer are known."""
    fake = Fake(answer, models=(model,))
    server.fakes.append(fake)
    made = server.post("/tollgate/v1/upstreams", {"name": f"of {model}", "base_url": fake.base_url})
    assert made.status == 200, made
    return fake


TEXT = "The quick brown fox jumps over the lazy dog. " * 4000


@pytest.mark.parametrize("body", [
    {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"properties": {"image_url": {"description": TEXT}}}}}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT, "TEXT": "a"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x", "detail": TEXT}}]}]},
    {"messages": [{"role": "user", "content": "x", "image_url": TEXT}]},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"image_url": TEXT}}}},
])
def test_text_counts_wherever_it_stands(server, body):
    """Where its bytes do not fit its tokens are counted, all of them: some forty thousand cost ten cents."""
    def answer(body, handler):
        tokens = len(json.dumps(body)) // 5
        return 200, Fake.completion(output=1, prompt_tokens=tokens, total_tokens=tokens + 1)
    fake = served_as(server, "gpt-4o", answer)
    key = key_of(server, 5)
    raw = json.dumps({"model": "gpt-4o", "max_tokens": 1, "messages": HELLO, **body}).replace('"TEXT"', '"text"').encode()
    refused = request(server.url, "POST", "/v1/chat/completions", key=key, body=raw)
    assert refused.status == 429 and refused.error["code"] == "project_spend_limit_exceeded" and fake.bodies == []
    server.limit(server.default_project, 50)
    assert request(server.url, "POST", "/v1/chat/completions", key=key, body=raw).status == 200
    [recorded] = server.requests()
    assert float(recorded["cost"]) <= float(recorded["bound"]) and recorded["flags"] == []


@pytest.mark.parametrize("more", [
    {"n_predict": 4000}, {"fallbacks": ["dear"]}, {"enable_search": True}, {"preset": "x"}, {"extra_body": {"google": {"cached_content": "x"}}},
    {"mm_processor_kwargs": {"max_pixels": 10**9}}, {"options": {"num_predict": 10**6}},
])
def test_what_may_change_the_cost_is_refused_under_a_limit_unless_an_operator_allows_it(server, more):
    fake = server.fake(lambda body, handler: (200, Fake.completion()))
    key = key_of(server)
    [name] = more
    assert server.chat(key, model="fake", **more).status == 200 and fake.bodies[-1][name] == more[name]
    server.limit(server.default_project, 1000)
    refused = server.chat(key, model="fake", **more)
    assert refused.status == 400 and refused.error["code"] == "cost_not_boundable" and refused.error["param"] == name, refused
    assert server.chat(key, model="fake", temperature=1, top_k=5, seed=1, stop=["x"], user="u").status == 200
    upstream = f"/tollgate/v1/upstreams/{fake.id}"
    assert server.post(upstream, {"allowed_parameters": [name, "other"]}).json["allowed_parameters"] == [name, "other"]
    assert server.chat(key, model="fake", **more).status == 200
    assert server.post(upstream, {"allowed_parameters": None}).json["allowed_parameters"] == []
    assert server.chat(key, model="fake", **more).status == 400
    for bad in [["a b"], [""], ["x" * 65], ["x"] * 101, "x", [1]]:
        assert server.post(upstream, {"allowed_parameters": bad}).error["param"].startswith("allowed_parameters")


def test_embeddings_of_what_is_no_text_cannot_be_bounded(server):
    server.fake(lambda body, handler: (200, {"object": "list", "data": [], "model": "fake", "usage": {"prompt_tokens": 4000, "total_tokens": 4000}}))
    key = key_of(server)
    embed = lambda value: request(server.url, "POST", "/v1/embeddings", key=key, body={"model": "fake", "input": value})
    assert embed([{"image": "https://x/a.png"}]).status == 200
    server.limit(server.default_project, 100)
    refused = embed([{"image": "https://x/a.png"}])
    assert refused.status == 400 and refused.error["code"] == "cost_not_boundable"
    assert [embed(value).status for value in ["a", ["a", "b"], [1, 2], [[1], [2]]]] == [200] * 4


def test_a_rounded_figure_of_the_catalog_hides_no_cost(server):
    """The window of a model is known a little too small. What was used beyond it is charged and told."""
    served_as(server, "gpt-5.5", lambda body, handler: (200, Fake.completion(output=1, prompt_tokens=1_090_000, total_tokens=1_090_001)))
    key = key_of(server, 100_000)
    assert server.chat(key, "word " * 500_000, model="gpt-5.5", max_completion_tokens=1).status == 200
    [recorded] = server.requests()
    assert recorded["usage_source"] == "upstream" and recorded["input_tokens"] == 1_090_000 and recorded["flags"] == ["above_bound"]
    assert server.chat(key, "word " * 500_000, model="gpt-5.5", max_completion_tokens=1).status == 200
    assert server.requests()[0]["flags"] == [], "the next is bounded by what this one was able to"


def test_usage_so_far_is_not_the_whole_of_it(gateway):
    """Some upstreams report in each event. A stream that is cut has reported what it had made, and bills what it made."""
    script = {"usage_in_every_event": True, "output_tokens": 100, "fault": "cut", "after_bytes": 4000}
    for cents, source in [(None, "observed"), (1000, "bound")]:
        key = key_of(gateway, cents)
        with pytest.raises(http.client.IncompleteRead):
            gateway.chat(key, stream=True, max_completion_tokens=100, simulate=script)
        recorded = settled(gateway)[0]
        assert recorded["usage_source"] == source and (recorded["output_tokens"] == 100) == bool(cents)
    gateway.chat(key, stream=True, max_completion_tokens=100, simulate={"usage_in_every_event": True, "output_tokens": 100})
    assert settled(gateway)[0]["usage_source"] == "upstream" and gateway.requests()[0]["output_tokens"] == 100


# Clients that leave


def leave(gateway, key, bytes_read=600, **more):
    """Reads the beginning of a stream and hangs up."""
    body = json.dumps({"model": "gpt-4o-mini", "stream": True, "messages": HELLO, **more}).encode()
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        read = 0
        while read < bytes_read:
            piece = connection.recv(512)
            assert piece
            read += len(piece)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # as a process that is killed


def test_an_upstream_that_bills_all_of_it_is_read_to_the_end_and_the_unread_is_an_item_of_its_own(gateway, simulator):
    simulator.config(output_tokens=200, chunk_ms=3)
    leave(gateway, key_of(gateway, 1000), max_completion_tokens=300)
    [recorded] = settled(gateway)
    assert (recorded["usage_source"], recorded["output_tokens"]) == ("upstream", 200)
    drained = recorded["drained_output_tokens"]
    assert 0 < drained <= 200
    costs = gateway.get("/v1/organization/costs", start_time=int(time.time()) - 86_400, group_by="line_item").json["data"]
    items = {r["line_item"]: r for bucket in costs for r in bucket["results"]}
    assert items["gpt-4o-mini, drained_output_tokens"]["quantity"] == drained
    assert items["gpt-4o-mini, drained_output_tokens"]["amount"]["value"] == pytest.approx(drained * 0.6e-6)
    assert sum(item["amount"]["value"] for item in items.values()) == pytest.approx(float(recorded["cost"]))
    assert items.get("gpt-4o-mini, output_tokens", {"quantity": 0})["quantity"] == 200 - drained


@pytest.mark.parametrize("is_limited", [False, True])
def test_an_upstream_that_stops_is_cancelled_and_bills_what_it_made(server, simulator, is_limited):
    made = server.upstream(simulator, on_client_gone="cancel")
    assert made["on_client_gone"] == "cancel"
    simulator.config(output_tokens=5000, chunk_ms=3, stops_when_client_gone=True)
    leave(server, key_of(server, 1000 if is_limited else None), 5000)
    [recorded] = settled(server)
    assert recorded["usage_source"] == "observed" and 0 < recorded["output_tokens"] < 2000
    deadline = time.monotonic() + 30
    while simulator.requests[0]["billed_output"] == 5000:
        assert time.monotonic() < deadline, "the upstream went on"


def test_an_answer_in_one_piece_is_cancelled_as_well(server, simulator):
    server.upstream(simulator, on_client_gone="cancel")
    simulator.config(latency_ms=30_000)
    key = key_of(server, 1000)
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "gpt-4o-mini", "messages": HELLO}).encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: simulator.requests)
    [recorded] = settled(server)
    assert recorded["state"] == "settled" and recorded["usage_source"] == "bound", "how far it had come nobody saw"


@pytest.mark.parametrize("owner, gone", [("vllm", "cancel"), ("library", "cancel"), ("system", "drain")])
def test_how_an_upstream_stops_is_read_from_its_list_of_models(server, owner, gone):
    fake = Fake(lambda body, handler: None)
    handler = fake.server.RequestHandlerClass
    handler.do_GET = lambda self: self.send_json(200, {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": owner}]})
    made = server.post("/tollgate/v1/upstreams", {"name": "own", "base_url": fake.base_url}).json
    fake.stop()
    assert made["on_client_gone"] == gone


# Connections that die


class ClosingUpstream(SocketUpstream):
    """Keeps connections open, and closes one without a word when the second request comes on it, once."""

    def __init__(self):
        self.requests, self.has_closed = [], False
        super().__init__()

    def serve(self, connection):
        reader = connection.makefile("rb")
        for number in range(100):
            head = []
            while (line := reader.readline()) not in (b"\r\n", b""):
                head.append(line.decode().strip())
            if not head:
                return
            fields = dict(line.lower().split(": ", 1) for line in head[1:])
            reader.read(int(fields["content-length"]))
            self.requests.append(fields["x-request-id"])
            if number == 1 and not self.has_closed:
                self.has_closed = True
                reader.close()
                connection.shutdown(socket.SHUT_RDWR)
                connection.close()
                return
            body = json.dumps(Fake.completion()).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def test_each_attempt_after_a_dead_connection_is_on_its_own_account(server):
    upstream = ClosingUpstream()
    server.post("/tollgate/v1/upstreams", {"name": "closing", "base_url": upstream.base_url, "models": ["fake"]})
    server.post("/tollgate/v1/models/fake", {"input_price": "1", "output_price": "10", "max_output_tokens": 100, "context_tokens": 8192})
    key = key_of(server, 1000)
    while not upstream.has_closed:  # each worker keeps connections of its own
        answer = server.chat(key, model="fake")
        assert answer.status == 200, answer
        assert answer.headers.get("x-tollgate-attempts") == ("2" if upstream.has_closed else None)
    upstream.stop()
    again, dead, *whole = server.requests()
    assert (dead["id"], again["attempt_of"]) == (answer.headers["x-request-id"], dead["id"])
    assert all(recorded["attempt_of"] is None for recorded in [dead, *whole])
    assert (dead["usage_source"], again["usage_source"]) == ("bound", "upstream"), "the first may have been billed"
    assert [again["id"], dead["id"], *(r["id"] for r in whole)] == upstream.requests[::-1]


# What has no text


def image(**more):
    return [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {
        "url": "data:image/png;base64," + "A" * 200_000, **more}}]}]


def test_images_are_bounded_by_what_the_model_s_provider_publishes(gateway):
    key = key_of(gateway, 10_000)
    assert gateway.get("/tollgate/v1/models/gpt-4o").json["image_tokens"] > 0
    body = {"messages": image(), "max_completion_tokens": 10}
    answer = gateway.call("POST", "/v1/chat/completions", {"model": "gpt-4o", **body}, key=key)
    assert answer.status == 200, answer
    bound = float(gateway.requests()[0]["bound"])
    assert bound < 0.05, "its bytes are no text"
    gateway.post("/tollgate/v1/models/simulated-unpriced", {"input_price": "1", "output_price": "2"})
    refused = gateway.call("POST", "/v1/chat/completions", {"model": "simulated-unpriced", **body}, key=key)
    assert refused.status == 400 and refused.error["code"] == "cost_not_boundable", refused
    gateway.post("/tollgate/v1/models/simulated-unpriced", {"image_tokens": 1000})
    assert gateway.call("POST", "/v1/chat/completions", {"model": "simulated-unpriced", **body}, key=key).status == 200


def test_files_and_audio_are_not_bounded_and_a_ceiling_bounds_anything(gateway):
    key = key_of(gateway, 10_000)
    body = {"model": "gpt-4o", "max_completion_tokens": 10,
            "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}}]}]}
    assert gateway.call("POST", "/v1/chat/completions", body, key=key).status == 200
    assert float(gateway.requests()[0]["bound"]) == pytest.approx(136_000 * 2.5e-6 + 10 * 10e-6), "all of it is within the context, with room for a rounded figure"
    gateway.post("/tollgate/v1/models/simulated-unpriced", {"input_price": "1", "output_price": "2"})
    body["model"] = "simulated-unpriced"
    refused = gateway.call("POST", "/v1/chat/completions", body, key=key)
    assert refused.status == 400 and refused.error["code"] == "cost_not_boundable"
    audio = {**body, "messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}]}
    assert gateway.call("POST", "/v1/chat/completions", audio, key=key).status == 400
    assert len(gateway.requests()) == 1
    gateway.post("/tollgate/v1/models/simulated-unpriced", {"request_cost_max": "0.25"})
    assert gateway.call("POST", "/v1/chat/completions", body, key=key).status == 200
    assert gateway.requests()[0]["bound"] == "0.250000000"


def test_no_request_may_cost_a_fortune(gateway):
    gateway.post("/tollgate/v1/models/simulated-unpriced", {"input_price": "1", "output_price": "90000"})
    refused = gateway.chat(key_of(gateway), model="simulated-unpriced", max_completion_tokens=10_000_000)
    assert refused.status == 400 and refused.error["code"] == "cost_not_boundable" and refused.error["param"] == "max_completion_tokens"
    assert "$10000" in refused.error["message"].replace(",", ""), refused.error


def test_extra_fields_that_cost_are_refused(gateway):
    key = key_of(gateway)
    for field in ["models", "plugins", "search_parameters", "data_sources", "web_search_options"]:
        answer = gateway.call("POST", "/v1/chat/completions", {"model": "gpt-4o", "messages": HELLO, field: {"x": 1}}, key=key)
        assert answer.status == 400 and answer.error["param"] == field, answer
    hosted = {"model": "gpt-4o", "messages": HELLO, "tools": [{"type": "web_search"}]}
    assert gateway.call("POST", "/v1/chat/completions", hosted, key=key).status == 400
    assert gateway.requests() == []


# Errors of providers


def test_a_provider_s_words_about_its_account_are_not_passed_on(server):
    said = {"error": {"message": "org-OPERATOR has sk-proj-abcd exceeded", "type": "insufficient_quota", "code": "insufficient_quota"}}
    statuses = iter([429, 401, 500])
    server.fake(lambda body, handler: (next(statuses), said))
    key = key_of(server, 1000)
    for status, code in [(503, "upstream_quota_exhausted"), (502, "upstream_authentication_failed"), (502, "upstream_failed")]:
        answer = server.chat(key, model="fake")
        assert (answer.status, answer.error["code"]) == (status, code) and b"OPERATOR" not in answer.body
    assert "OPERATOR" not in server.log.read_text()
    assert [r["state"] for r in server.requests()] == ["settled", "voided", "voided"]


def test_what_is_cut_is_charged_its_input_by_tokens_where_they_can_be_counted(gateway):
    key = key_of(gateway, 100_000)
    text = "The quick brown fox jumps over the lazy dog. " * 500
    whole = gateway.chat(key, text, max_completion_tokens=10).json["usage"]["prompt_tokens"]
    gateway.chat(key, text, max_completion_tokens=10, simulate={"fault": "cut", "after_bytes": 10})
    recorded = gateway.requests()[0]
    assert recorded["usage_source"] == "bound" and whole <= recorded["input_tokens"] < whole * 1.1 < len(text) / 2
    assert float(recorded["cost"]) < float(recorded["bound"])


def test_accounting_of_many_streams_left_at_once(gateway, simulator):
    """All of them drain or are cut off by the bound on how many may; none is lost, none is counted twice."""
    simulator.config(output_tokens=30, chunk_ms=2)
    key = key_of(gateway, 100_000)
    threads = [threading.Thread(target=leave, args=(gateway, key, 300)) for _ in range(100)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    recorded = settled(gateway, 100)
    assert len(recorded) == 100 == len(simulator.requests)
    billed = {e["request_id"]: e["billed_output"] for e in simulator.requests}
    assert {r["id"] for r in recorded} == set(billed) and all(r["output_tokens"] >= billed[r["id"]] for r in recorded)


def test_the_project_header_given_twice_is_refused(gateway):
    key = key_of(gateway)
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nOpenAI-Project: \r\n"
                           "OpenAI-Project: proj_other\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert answer.split(b" ")[1] in (b"400", b"401", b"403"), answer


def test_a_key_that_loses_its_scope_while_its_body_trickles_in_is_refused(gateway, simulator):
    project = gateway.default_project
    key = gateway.key(project)
    body = json.dumps({"model": "gpt-4o-mini", "messages": HELLO}).encode()
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key['value']}\r\n"
                           f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body[:10])
        path = f"/v1/organization/projects/{project}/api_keys/{key['id']}"
        begun = time.monotonic()
        assert gateway.post(path, {"scopes": ["api.model.read"]}).status == 200
        while time.monotonic() - begun < 1.1:  # longer than a body may take before its key is looked at again
            pass
        connection.sendall(body[10:])
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 401") or answer.startswith(b"HTTP/1.1 403"), answer
    assert simulator.requests == []
