import asyncio
import json
import resource

import openai
import pytest

from harness import Answer

LIMIT = "/v1/organization/projects/{}/spend_limit"
# gpt-4o costs $10 per million tokens of output: a thousand tokens are a cent.
CENT = {"model": "gpt-4o", "max_completion_tokens": 1000, "simulate": {"output_tokens": "max"}}


def test_the_life_of_a_spend_limit(server):
    limits = server.admin.projects.spend_limit
    project = server.project()
    with pytest.raises(openai.NotFoundError):
        limits.retrieve(project)
    made = limits.update(project, threshold_amount=500, currency="USD", interval="month")
    assert (made.object, made.threshold_amount, made.currency, made.interval) == ("project.spend_limit", 500, "USD", "month")
    assert made.enforcement.status == "inactive"
    assert limits.retrieve(project) == made
    assert limits.update(project, threshold_amount=700, currency="USD", interval="month").threshold_amount == 700
    assert limits.delete(project).object == "project.spend_limit.deleted"
    with pytest.raises(openai.NotFoundError):
        limits.delete(project)


@pytest.mark.parametrize("change, param", [
    ({"threshold_amount": 0}, "threshold_amount"), ({"threshold_amount": -5}, "threshold_amount"),
    ({"threshold_amount": 1.5}, "threshold_amount"), ({"threshold_amount": "5"}, "threshold_amount"),
    ({"threshold_amount": 10**18}, "threshold_amount"), ({"threshold_amount": 10**30}, "threshold_amount"),
    ({"threshold_amount": None}, "threshold_amount"), ({"currency": "EUR"}, "currency"), ({"currency": "usd"}, "currency"),
    ({"interval": "day"}, "interval"), ({"extra": 1}, "extra"),
])
def test_a_bad_limit_is_refused_by_parameter(server, change, param):
    body = {"threshold_amount": 100, "currency": "USD", "interval": "month", **change}
    answer = server.post(LIMIT.format(server.default_project), body)
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_the_limit_is_reached_and_raised_and_reached_and_removed(gateway):
    project = gateway.default_project
    key = gateway.key(project)["value"]
    gateway.limit(project, 3)
    assert [gateway.chat(key, **CENT).status for _ in range(4)] == [200, 200, 429, 429]
    refused = gateway.chat(key, **CENT)
    assert refused.error["code"] == "project_spend_limit_exceeded" and refused.error["type"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    state = gateway.get(LIMIT.format(project)).json
    assert state["enforcement"]["status"] == "enforcing" and float(state["spent"]) < 0.03
    assert gateway.get("/v1/models", key=key).status == 200, "only what costs money is refused"

    assert gateway.limit(project, 4)["enforcement"]["status"] == "inactive"
    assert [gateway.chat(key, **CENT).status for _ in range(2)] == [200, 429]
    assert gateway.delete(LIMIT.format(project)).status == 200
    assert gateway.chat(key, **CENT).status == 200
    gateway.limit(project, 4)
    assert gateway.chat(key, **CENT).status == 429, "a new limit counts what was spent this month"


def test_the_answer_says_what_is_left(gateway):
    project = gateway.default_project
    key = gateway.key(project)["value"]
    assert "x-tollgate-budget-remaining" not in gateway.chat(key).headers
    gateway.limit(project, 100)
    before = float(gateway.chat(key, max_completion_tokens=1000).headers["x-tollgate-budget-remaining"])
    assert 0.9 < before < 1.0
    state = gateway.get(LIMIT.format(project)).json
    assert state["held"] == "0.000000000" and float(state["remaining"]) + float(state["spent"]) == pytest.approx(1)
    assert state["period_start"] < state["period_end"]


def test_a_request_that_could_cost_too_much_is_told_how_much_and_what_to_do(gateway):
    project = gateway.default_project
    key = gateway.key(project)["value"]
    gateway.limit(project, 1)
    refused = gateway.chat(key, model="gpt-4o")
    assert refused.status == 429
    assert "could cost up to $0.16" in refused.error["message"] and "max_completion_tokens" in refused.error["message"]
    assert gateway.chat(key, model="gpt-4o", max_completion_tokens=100).status == 200


def test_what_cannot_be_bounded_is_refused_under_a_limit_and_flagged_without(gateway):
    project = gateway.default_project
    key = gateway.key(project)["value"]
    answer = gateway.chat(key, model="simulated-unpriced")
    assert answer.status == 200 and answer.headers["x-tollgate-unpriced"] == "true"
    [recorded] = gateway.requests()
    assert recorded["priced"] is False and recorded["cost"] == "0.000000000" and recorded["output_tokens"] == 24

    gateway.limit(project, 10_000)
    refused = gateway.chat(key, model="simulated-unpriced")
    assert refused.status == 400 and refused.error["code"] == "model_price_unknown" and refused.error["param"] == "model"
    gateway.post("/tollgate/v1/models/simulated-unpriced", {"input_price": "1", "output_price": "2"})
    refused = gateway.chat(key, model="simulated-unpriced")
    assert refused.status == 400 and refused.error["code"] == "cost_not_boundable"
    assert gateway.chat(key, model="simulated-unpriced", max_tokens=10).status == 200
    gateway.post("/tollgate/v1/models/simulated-unpriced", {"max_output_tokens": 100})
    answer = gateway.chat(key, model="simulated-unpriced")
    assert answer.status == 200 and "x-tollgate-unpriced" not in answer.headers


async def at_once(server, key, body, count):
    """Opens so many connections, and only then sends a request on each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, port = server.url.removeprefix("http://").split(":")
    content = json.dumps({"messages": [{"role": "user", "content": "x"}], **body}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(content)}\r\n\r\n"
    connections = [await asyncio.open_connection(host, port) for _ in range(count)]

    async def call(reader, writer):
        writer.write(head.encode() + content)
        received = await reader.read()
        writer.close()
        head_, body_ = received.split(b"\r\n\r\n", 1)
        first, *fields = head_.decode().split("\r\n")
        return Answer(int(first.split()[1]), dict(field.lower().split(": ", 1) for field in fields), body_)

    return await asyncio.gather(*(call(*connection) for connection in connections))


@pytest.mark.parametrize("stream", [False, True])
def test_a_thousand_requests_at_once_never_overspend(gateway, simulator, report, stream):
    """The limit has room for 37.5 requests, and the provider bills each at its maximum."""
    project = gateway.default_project
    key = gateway.key(project)["value"]
    simulator.config(output_tokens="max", latency_ms=500)
    body = {"model": "gpt-4o", "max_completion_tokens": 1000, "stream": stream}
    gateway.limit(project, 1_000_000)
    assert gateway.chat(key, **body).status == 200
    bound = float(gateway.requests()[0]["bound"])
    spent = float(gateway.get(LIMIT.format(project)).json["spent"])
    cents = int((37.5 * bound + spent) * 100)
    limit = cents / 100
    gateway.limit(project, cents)

    answers = asyncio.run(at_once(gateway, key, body, 1000))
    served = [answer for answer in answers if answer.status == 200]
    refused = {(answer.status, answer.error["code"]) for answer in answers if answer.status != 200}
    assert refused <= {(429, "budget_held_by_inflight"), (429, "project_spend_limit_exceeded")}, refused
    held = [answer for answer in answers if answer.status == 429 and answer.error["code"] == "budget_held_by_inflight"]
    assert all(answer.headers["retry-after"] for answer in held)

    billed = sum(entry["billed_input"] * 2.5e-6 + entry["billed_output"] * 10e-6 for entry in simulator.requests)
    assert billed <= limit, "what the provider bills is within the limit"
    assert len(served) == len(simulator.requests) - 1
    simulator.config(output_tokens="max")
    # Whoever comes later gets what is left: the limit is used to within one request of its end.
    while gateway.chat(key, **body).status == 200:
        pass
    billed = sum(entry["billed_input"] * 2.5e-6 + entry["billed_output"] * 10e-6 for entry in simulator.requests)
    assert limit - bound <= billed <= limit
    assert {request["state"] for request in gateway.requests()} == {"settled"}
    report(f"1000 at once, stream {stream}: {len(served)} served, {len(held)} told that money is held; in the end the provider billed "
           f"${billed:.6f} of ${limit:.2f}, a request being ${bound:.6f} at most")
