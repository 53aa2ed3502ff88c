"""Searches of the web that the provider runs: its fee for each, bounded where it has to be, and never silently nothing."""

import json
import time
from decimal import Decimal

import pytest

from harness import request, settled

LIMIT = {"threshold_amount": 1_000_000, "currency": "USD", "interval": "month"}
SEARCH, FUNCTION = {"type": "web_search"}, {"type": "function", "name": "f", "parameters": {}}
FEE = {"web_search_price": "0.01"}


def item(action):
    return {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": action}}


def response(searches, **usage):
    usage = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100, **usage}
    output = [item("search")] * searches + [item("open_page"), {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Found."}]}]
    return {"id": "resp_1", "object": "response", "status": "completed", "model": "fake", "output": output, "usage": usage}


def answering(searches):
    def answer(body, handler):
        found = response(searches if any(tool["type"].startswith("web_search") for tool in body.get("tools") or []) else 0)
        if not body.get("stream"):
            return 200, found
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        events = [{"type": "response.created", "response": {**found, "status": "in_progress", "output": [], "usage": None}}]
        for _ in range(searches):
            events += [{"type": f"response.web_search_call.{step}", "item_id": "ws_1"} for step in ("in_progress", "searching", "completed")]
        events += [{"type": "response.output_text.delta", "delta": "Found."}]
        if body.get("metadata", {}).get("cut") != "yes":
            events += [{"type": "response.completed", "response": found}]
        for event in events:
            handler.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode())
        return None
    return answer


@pytest.fixture
def key(server):
    return server.key(server.default_project)["value"]


def ask(server, key, **more):
    body = {"model": "fake", "input": "What is new?", "max_output_tokens": 100, "tools": [SEARCH], "store": False, **more}
    return server.call("POST", "/v1/responses", body, key=key)


def charged(searches, tokens=(1000, 100)):
    return Decimal(tokens[0] * 1 + tokens[1] * 10) / 1_000_000 + searches * Decimal("0.01")


@pytest.mark.parametrize("stream", [False, True])
def test_each_search_is_charged_and_bounded_by_how_many_there_may_be(server, key, stream):
    fake = server.fake(answering(3), **FEE)
    server.post("/v1/organization/spend_limit", LIMIT)
    answer = ask(server, key, max_tool_calls=5, stream=stream)
    assert answer.status == 200 and "x-tollgate-tools-removed" not in answer.headers, answer
    assert fake.bodies[0]["tools"] == [SEARCH] and fake.bodies[0]["max_tool_calls"] == 5
    [row] = server.requests()
    assert Decimal(row["cost"]) == charged(3) and row["web_search_calls"] == 3 and row["flags"] == []
    # Six turns, each with all that was found before, and five fees.
    assert Decimal(row["bound"]) >= Decimal("0.05") + 6 * Decimal(8192) / 1_000_000 + Decimal(1000) / 1_000_000
    span = {"start_time": int(time.time()) - 60}
    [used] = [r for b in server.get("/v1/organization/usage/web_search_calls", **span, group_by=["model", "api_source"]).json["data"] for r in b["results"]]
    assert (used["num_requests"], used["num_model_requests"], used["model"], used["context_level"]) == (3, 1, "fake", None)
    items = {r["line_item"]: (r["quantity"], r["quantity_unit"], Decimal(str(r["amount"]["value"]))) for b in server.get("/v1/organization/costs", **span, group_by="line_item").json["data"] for r in b["results"]}
    assert items["fake, web_search_calls"] == (3, "calls", Decimal("0.03")) and sum(amount for *_, amount in items.values()) == charged(3)
    assert [b["results"] for b in server.get("/v1/organization/usage/web_search_calls", **span, context_levels="high").json["data"] if b["results"]] == []


def test_where_nothing_says_how_often_it_is_taken_out_under_a_limit_and_left_in_elsewhere(server, key):
    fake = server.fake(answering(2), **FEE)
    assert ask(server, key, tools=[FUNCTION, SEARCH]).status == 200
    [row] = server.requests()
    assert fake.bodies[-1]["tools"] == [FUNCTION, SEARCH] and Decimal(row["cost"]) == charged(2) and row["flags"] == [] and row["bound"] is None
    assert server.get("/tollgate/v1/models/fake").json["bound_violations"] is None
    server.post("/v1/organization/spend_limit", LIMIT)
    answer = ask(server, key, tools=[FUNCTION, SEARCH])
    assert answer.status == 200 and answer.headers["x-tollgate-tools-removed"] == "web_search"
    assert fake.bodies[-1]["tools"] == [FUNCTION] and Decimal(server.requests()[0]["cost"]) == charged(0)
    refused = ask(server, key, tool_choice={"type": "web_search"})
    assert refused.status == 400 and (refused.error["code"], refused.error["param"]) == ("cost_not_boundable", "max_tool_calls"), refused
    assert ask(server, key, tool_choice={"type": "web_search"}, max_tool_calls=2).status == 200 and Decimal(server.requests()[0]["cost"]) == charged(2)
    # What an operator says that no request costs more than bounds it as well.
    server.post("/tollgate/v1/models/fake", {"request_cost_max": "0.5"})
    assert ask(server, key).status == 200 and fake.bodies[-1]["tools"] == [SEARCH] and server.requests()[0]["bound"] == "0.500000000"


def test_a_search_whose_fee_is_not_known_is_never_run_silently(server, key):
    fake = server.fake(answering(2))
    answer = ask(server, key, max_tool_calls=2)
    assert answer.status == 200 and answer.headers["x-tollgate-tools-removed"] == "web_search" and fake.bodies[-1]["tools"] == []
    refused = ask(server, key, tool_choice="required")
    assert refused.status == 400 and refused.error["param"] == "tools[0].type" and "web_search_price" in refused.error["message"], refused
    for tool in [{"type": "file_search", "vector_store_ids": ["vs_1"]}, {"type": "code_interpreter", "container": {"type": "auto"}}, {"type": "mcp"}, {"type": "image_generation"}]:
        assert ask(server, key, tools=[tool]).error["param"] == "tools[0].type"
    assert server.call("POST", "/v1/chat/completions", {"model": "fake", "messages": [{"role": "user", "content": "x"}], "tools": [SEARCH]}, key=key).error["param"] == "tools[0].type"
    # A provider that searches all the same is told of.
    unasked = server.fake(lambda body, handler: (200, response(2)))
    server.delete(f"/tollgate/v1/upstreams/{fake.id}")
    assert ask(server, key, tools=[]).status == 200 and unasked.bodies
    row = server.requests()[0]
    assert "tools" in row["flags"] and row["web_search_calls"] == 2 and Decimal(row["cost"]) == charged(0)


def test_more_searches_than_were_asked_for_are_charged_and_told(server, key):
    server.fake(answering(60), **FEE)
    server.post("/v1/organization/spend_limit", LIMIT)
    assert ask(server, key, max_tool_calls=1).status == 200
    [row] = server.requests()
    assert Decimal(row["cost"]) == charged(60) and row["flags"] == ["above_bound"]


def test_a_stream_that_breaks_off_is_charged_for_the_searches_that_were_seen(server, key):
    server.fake(answering(4), **FEE)
    ask(server, key, stream=True, metadata={"cut": "yes"})
    [row] = settled(server)
    assert row["usage_source"] == "observed" and row["web_search_calls"] == 4 and Decimal(row["cost"]) >= Decimal("0.04")
    server.post("/v1/organization/spend_limit", LIMIT)
    ask(server, key, stream=True, max_tool_calls=5, metadata={"cut": "yes"})
    row = settled(server)[0]
    assert row["usage_source"] == "bound" and row["cost"] == row["bound"]


def test_what_nobody_counts_is_told(server, key):
    broken = []

    def answer(body, handler):
        if not body.get("stream"):
            return 500, {"error": {"message": "x"}}
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for _ in range(3):
            handler.wfile.write(b'data: {"type":"response.web_search_call.searching","item_id":"ws_1"}\n\n')
        return broken.append(True)

    server.fake(answer, **FEE)
    ask(server, key, stream=True)
    row = settled(server)[0]
    assert row["web_search_calls"] == 3 and Decimal(row["cost"]) >= Decimal("0.03") and row["flags"] == ["tools"], "before any text"
    assert ask(server, key).status >= 500
    assert server.requests()[0]["flags"] == ["tools"], "it may have searched"


def test_a_nonsense_number_of_searches_is_not_believed(server, key):
    usage = {"input_tokens": 1000, "output_tokens": 100, "server_tool_use": {"web_search_requests": 1_000_000_000}}
    server.fake(lambda body, handler: (200, {"id": "msg_1", "type": "message", "role": "assistant", "model": "fake", "content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn", "usage": usage}), **FEE)
    server.post("/v1/organization/spend_limit", LIMIT)
    body = {"model": "fake", "max_tokens": 100, "messages": [{"role": "user", "content": "x"}], "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}]}
    assert request(server.url, "POST", "/v1/messages", key=key, body=body).status == 200
    row = server.requests()[0]
    assert row["flags"] == ["usage_absurd"] and row["usage_source"] == "bound" and row["cost"] == row["bound"] and Decimal(row["cost"]) < 1


def test_a_bound_that_is_not_to_be_had_is_none_for_a_search_that_need_not_be(server, key):
    fake = server.fake(answering(1), context_tokens=None, **FEE)
    server.post("/v1/organization/spend_limit", LIMIT)
    answer = ask(server, key, max_tool_calls=3)
    assert answer.status == 200 and answer.headers["x-tollgate-tools-removed"] == "web_search" and fake.bodies[-1]["tools"] == []


@pytest.mark.parametrize("calls", [0, -1, 1.5, "2", 100_000])
def test_a_number_of_searches_that_cannot_be_is_refused(server, key, calls):
    server.fake(answering(1), **FEE)
    refused = ask(server, key, max_tool_calls=calls)
    assert refused.status == 400 and refused.error["param"] == "max_tool_calls", refused


def test_searches_of_messages_are_charged_as_anthropic_counts_them(server, key):
    usage = {"input_tokens": 1000, "output_tokens": 100, "server_tool_use": {"web_search_requests": 2}}
    fake = server.fake(lambda body, handler: (200, {"id": "msg_1", "type": "message", "role": "assistant", "model": "fake", "content": [{"type": "text", "text": "Found."}], "stop_reason": "end_turn", "usage": usage}), **FEE)
    tool = {"type": "web_search_20250305", "name": "web_search"}
    say = lambda tool: request(server.url, "POST", "/v1/messages", key=key, headers={"anthropic-version": "2023-06-01"},
                               body={"model": "fake", "max_tokens": 100, "messages": [{"role": "user", "content": "x"}], "tools": [tool]})
    assert say(tool).status == 200 and Decimal(server.requests()[0]["cost"]) == charged(2)
    server.post("/v1/organization/spend_limit", LIMIT)
    refused = say(tool)
    assert refused.status == 400 and "tools[0].max_uses" in refused.body.decode(), refused
    assert say({**tool, "max_uses": 0}).status == 400
    assert say({**tool, "max_uses": 3}).status == 200 and fake.bodies[-1]["tools"] == [{**tool, "max_uses": 3}]
    row = server.requests()[0]
    assert Decimal(row["cost"]) == charged(2) and row["web_search_calls"] == 2 and Decimal(row["bound"]) > Decimal("0.03") + 4 * Decimal(8192) / 1_000_000
    server.post("/tollgate/v1/models/fake", {"web_search_price": None})
    assert "web_search_price" in say({**tool, "max_uses": 3}).body.decode()
    assert say({"type": "code_execution_20250825", "name": "code_execution"}).status == 400
