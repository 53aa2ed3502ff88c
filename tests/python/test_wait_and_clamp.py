"""What happens to a request that does not fit: it waits for what is only held, then it is refused or clamped."""

import json
import socket
import threading
import time

import pytest

from harness import request, until

# gpt-4o costs $10 per million tokens of output: a thousand tokens are a cent.
THOUSAND = {"model": "gpt-4o", "max_completion_tokens": 1000}


@pytest.fixture
def key(gateway):
    return gateway.key(gateway.default_project)["value"]


def policy(gateway, **change):
    path = f"/tollgate/v1/projects/{gateway.default_project}/spend_policy"
    answer = gateway.post(path, change) if change else gateway.get(path)
    assert answer.status == 200, answer
    return answer.json


def at_once(count, call):
    answers = [None] * count
    def run(number):
        answers[number] = call(number)
    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return answers


def in_flight(gateway, simulator, key):
    """A request that has reached the provider and waits for it."""
    thread = threading.Thread(target=lambda: gateway.chat(key, **THOUSAND))
    thread.start()
    until(lambda: simulator.requests)
    return thread


def test_a_policy_is_read_and_changed_field_by_field(gateway):
    usual = policy(gateway)
    assert usual == {"object": "tollgate.spend_policy", "project_id": gateway.default_project, "when_exceeded": "refuse",
                     "min_output_tokens": 256, "wait_ms": usual["wait_ms"]} and usual["wait_ms"] > 0
    assert policy(gateway, when_exceeded="clamp") == {**usual, "when_exceeded": "clamp"}
    assert policy(gateway, min_output_tokens=16, wait_ms=0)["min_output_tokens"] == 16
    gateway.restart()
    assert policy(gateway) == {**usual, "when_exceeded": "clamp", "min_output_tokens": 16, "wait_ms": 0}
    assert policy(gateway, when_exceeded=None, min_output_tokens=None, wait_ms=None) == usual
    path = f"/tollgate/v1/projects/{gateway.default_project}/spend_policy"
    for bad, param in [({"when_exceeded": "shrink"}, "when_exceeded"), ({"min_output_tokens": 0}, "min_output_tokens"),
                       ({"wait_ms": -1}, "wait_ms"), ({"wait_ms": 30_001}, "wait_ms"), ({"wait_ms": 1.5}, "wait_ms"), ({"mode": 1}, "mode")]:
        refused = gateway.post(path, bad)
        assert refused.status == 400 and refused.error["param"] == param, refused
    assert gateway.get("/tollgate/v1/projects/proj_absent/spend_policy").status == 404
    assert [event for event in gateway.get("/v1/organization/audit_logs", limit=100).json["data"] if "spend_policy" in json.dumps(event)]


def test_who_only_waits_for_requests_in_flight_is_served_and_not_refused(gateway, simulator, key):
    """There is room for two bounds, and twenty come at once, each of which costs next to nothing."""
    policy(gateway, wait_ms=30_000)
    gateway.limit(gateway.default_project, 3)
    simulator.config(output_tokens=1, latency_ms=20)
    answers = at_once(20, lambda _: gateway.chat(key, **THOUSAND))
    assert {answer.status for answer in answers} == {200}, answers
    assert float(answers[0].headers["x-tollgate-budget-remaining"]) >= 0


def test_two_answers_tell_who_may_try_again_and_who_may_not(gateway, simulator, key):
    policy(gateway, wait_ms=0)
    gateway.limit(gateway.default_project, 2)
    simulator.config(output_tokens=1, latency_ms=1000)
    first = in_flight(gateway, simulator, key)
    held = gateway.chat(key, **THOUSAND)
    assert held.status == 429 and held.error["code"] == "budget_held_by_inflight", held
    assert int(held.headers["retry-after"]) >= 1 and held.headers.get("x-should-retry") != "false"
    never = gateway.chat(key, model="gpt-4o", max_completion_tokens=5000)
    assert never.status == 429 and never.error["code"] == "project_spend_limit_exceeded"
    assert never.headers["x-should-retry"] == "false" and "retry-after" not in never.headers
    first.join()
    simulator.config(output_tokens=1)
    assert gateway.chat(key, **THOUSAND).status == 200


def test_waiting_is_bounded_in_time(gateway, simulator, key):
    policy(gateway, wait_ms=100)
    gateway.limit(gateway.default_project, 2)
    simulator.config(output_tokens=1, latency_ms=2000)
    first = in_flight(gateway, simulator, key)
    waited = gateway.chat(key, **THOUSAND)
    assert waited.status == 429 and waited.error["code"] == "budget_held_by_inflight"
    first.join()


def test_a_raised_or_removed_limit_lets_those_who_wait_through(gateway, simulator, key):
    policy(gateway, wait_ms=30_000)
    for change in [lambda: gateway.limit(gateway.default_project, 1000),
                   lambda: gateway.delete(f"/v1/organization/projects/{gateway.default_project}/spend_limit")]:
        gateway.limit(gateway.default_project, 2)
        simulator.reset()
        simulator.config(output_tokens=1, latency_ms=3000)
        first = in_flight(gateway, simulator, key)
        simulator.config(output_tokens=1)
        answers = []
        second = threading.Thread(target=lambda: answers.append(gateway.chat(key, **THOUSAND)))
        second.start()
        change()
        second.join()
        assert answers[0].status == 200 and first.is_alive(), "it did not wait for the first"
        first.join()


def send(gateway, key, **more):
    """A request on a connection of its own, which is not waited for."""
    host, port = gateway.url.removeprefix("http://").split(":")
    body = json.dumps({**THOUSAND, "messages": [{"role": "user", "content": "x"}], **more}).encode()
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
                       f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def test_who_hangs_up_while_waiting_takes_nothing_and_holds_nobody_up(gateway, simulator, key):
    policy(gateway, wait_ms=30_000)
    gateway.limit(gateway.default_project, 2)
    simulator.config(output_tokens=1, latency_ms=3000)
    first = in_flight(gateway, simulator, key)
    simulator.config(output_tokens=1)
    gone = [send(gateway, key, user="gone") for _ in range(5)]
    # Something small would fit, and stands behind those who came before.
    answers = []
    small = threading.Thread(target=lambda: answers.append(gateway.chat(key, **{**THOUSAND, "max_completion_tokens": 10})))
    small.start()
    [connection.close() for connection in gone]
    small.join()
    assert answers[0].status == 200 and first.is_alive(), "it stood behind those who have gone"
    first.join()
    assert gateway.chat(key, **THOUSAND).status == 200
    assert len(simulator.requests) == 3, "nothing was sent for those who have gone"
    until(lambda: not any(recorded["state"] == "held" for recorded in gateway.requests()))
    limit = gateway.get(f"/v1/organization/projects/{gateway.default_project}/spend_limit").json
    assert limit["held"] == "0.000000000" and float(limit["spent"]) < 0.02


def test_a_key_that_is_revoked_while_its_request_waits_sends_nothing(gateway, simulator, key):
    policy(gateway, wait_ms=30_000)
    gateway.limit(gateway.default_project, 2)
    simulator.config(output_tokens=1, latency_ms=2500)
    first = in_flight(gateway, simulator, key)
    revoked, answers = gateway.key(gateway.default_project), []
    second = threading.Thread(target=lambda: answers.append(gateway.chat(revoked["value"], **THOUSAND)))
    second.start()
    assert gateway.delete(f"/v1/organization/projects/{gateway.default_project}/api_keys/{revoked['id']}").status == 200
    second.join()
    first.join()
    assert answers[0].status == 401 and len(simulator.requests) == 1


def test_whoever_waits_for_much_keeps_no_other_project_waiting(gateway, simulator, key):
    policy(gateway, wait_ms=30_000)
    assert gateway.post("/v1/organization/spend_limit", {"threshold_amount": 3, "currency": "USD", "interval": "month"}).status == 200
    simulator.config(output_tokens=1, latency_ms=3000)
    first = in_flight(gateway, simulator, key)
    waits = threading.Thread(target=lambda: gateway.chat(key, model="gpt-4o", max_completion_tokens=2500))
    waits.start()
    other = gateway.key(gateway.project("other"))["value"]
    simulator.config(output_tokens=1)
    small = {"model": "gpt-4o", "max_completion_tokens": 10}
    assert [gateway.chat(other, **small).status for _ in range(5)] == [200] * 5 and first.is_alive()
    waits.join()
    first.join()


def test_a_project_that_clamps_gets_what_fits(gateway, simulator, key):
    policy(gateway, when_exceeded="clamp", min_output_tokens=50)
    simulator.config(output_tokens="max")
    gateway.limit(gateway.default_project, 3)
    first = gateway.chat(key, model="gpt-4o", max_completion_tokens=2000)
    assert first.status == 200 and "x-tollgate-max-output-clamped" not in first.headers
    second = gateway.chat(key, model="gpt-4o", max_completion_tokens=2000)
    clamped = int(second.headers["x-tollgate-max-output-clamped"])
    assert second.status == 200 and 50 <= clamped < 1000
    assert second.json["choices"][0]["finish_reason"] == "length" and second.json["usage"]["completion_tokens"] == clamped
    [recorded, _] = gateway.requests()
    assert recorded["max_output_clamped"] == clamped and float(recorded["cost"]) <= float(recorded["bound"])
    third = gateway.chat(key, model="gpt-4o", max_completion_tokens=2000)
    assert third.status == 429 and third.error["code"] == "project_spend_limit_exceeded", "what is left is below the floor"
    me = gateway.get("/tollgate/v1/me", key=key).json
    usage = gateway.get("/v1/organization/usage/completions", start_time=int(time.time()) - 86_400, group_by="api_key_id").json["data"]
    [of_key] = [result for bucket in usage for result in bucket["results"]]
    assert (of_key["num_model_requests"], of_key["num_clamped_requests"]) == (2, 1)
    assert me["clamped_requests"] == 1 and 0 <= float(me["remaining"]) < 0.001
    billed = sum(entry["billed_input"] * 2.5e-6 + entry["billed_output"] * 10e-6 for entry in simulator.requests)
    assert billed <= 0.03


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_names_no_limit_is_clamped_as_well(gateway, simulator, key, stream):
    policy(gateway, when_exceeded="clamp", min_output_tokens=1)
    simulator.config(output_tokens="max")
    gateway.limit(gateway.default_project, 5)
    answer = gateway.chat(key, model="gpt-4o", stream=stream)
    clamped = int(answer.headers["x-tollgate-max-output-clamped"])
    assert 4000 < clamped < 5000 and simulator.requests[0]["billed_output"] == clamped
    assert gateway.requests()[0]["output_tokens"] == clamped


def test_several_choices_share_what_fits(gateway, simulator, key):
    policy(gateway, when_exceeded="clamp", min_output_tokens=10)
    simulator.config(output_tokens="max")
    gateway.limit(gateway.default_project, 4)
    answer = gateway.chat(key, model="gpt-4o", max_completion_tokens=2000, n=4)
    clamped = int(answer.headers["x-tollgate-max-output-clamped"])
    assert 900 < clamped < 1000 and answer.json["usage"]["completion_tokens"] == 4 * clamped


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


@pytest.mark.parametrize("more", [
    {"tools": TOOLS}, {"response_format": SCHEMA}, {"response_format": {"type": "json_object"}}, {"functions": [{"name": "f", "parameters": {}}]}])
def test_what_has_a_form_is_never_clamped(gateway, key, more):
    policy(gateway, when_exceeded="clamp", min_output_tokens=1)
    gateway.limit(gateway.default_project, 2)
    refused = gateway.chat(key, model="gpt-4o", max_completion_tokens=5000, **more)
    assert refused.status == 429 and refused.error["code"] == "project_spend_limit_exceeded"
    assert gateway.chat(key, model="gpt-4o", max_completion_tokens=1000, **more).status == 200
    assert gateway.chat(key, model="gpt-4o", max_completion_tokens=5000, response_format={"type": "text"}).status == 200


def test_embeddings_have_nothing_to_clamp(gateway, key):
    policy(gateway, when_exceeded="clamp", min_output_tokens=1)
    gateway.limit(gateway.default_project, 1)
    body = {"model": "text-embedding-3-small", "input": "word " * 700_000}
    refused = request(gateway.url, "POST", "/v1/embeddings", key=key, body=body)
    assert refused.status in (200, 429)
    assert "x-tollgate-max-output-clamped" not in refused.headers


def test_a_clamp_is_told_under_the_name_that_the_upstream_reads(server, simulator):
    server.upstream(simulator, output_limit_field="max_tokens")
    simulator.config(output_tokens="max", output_limit_field="max_tokens")
    key = server.key(server.default_project)["value"]
    policy(server, when_exceeded="clamp", min_output_tokens=10)
    server.limit(server.default_project, 2)
    answer = server.chat(key, model="gpt-4o", max_completion_tokens=4000)
    assert answer.status == 200 and simulator.requests[0]["billed_output"] == int(answer.headers["x-tollgate-max-output-clamped"])


def test_bytes_bound_first_and_tokens_are_counted_before_anyone_is_refused(gateway, key):
    """The prompt is 100 kB of words: a quarter of a dollar by its bytes, six cents by its tokens."""
    gateway.limit(gateway.default_project, 10)
    text = "The quick brown fox jumps over the lazy dog. " * 2200
    answer = gateway.chat(key, text, model="gpt-4o", max_completion_tokens=10)
    assert answer.status == 200, answer
    [recorded] = gateway.requests()
    assert float(recorded["cost"]) <= float(recorded["bound"]) < 0.07
    gateway.limit(gateway.default_project, 1000)
    gateway.chat(key, text, model="gpt-4o", max_completion_tokens=10)
    assert float(gateway.requests()[0]["bound"]) > 0.2, "where there is room enough nobody counts"


def test_a_policy_is_of_one_project(gateway, simulator, key):
    other = gateway.project("other")
    second = gateway.key(other)["value"]
    policy(gateway, when_exceeded="clamp", min_output_tokens=1)
    for project in [gateway.default_project, other]:
        gateway.limit(project, 1)
    assert gateway.chat(key, model="gpt-4o", max_completion_tokens=5000).status == 200
    assert gateway.chat(second, model="gpt-4o", max_completion_tokens=5000).status == 429
