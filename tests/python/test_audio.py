"""Audio in and out of chat completions."""

import json

import pytest

from harness import request

LIMIT = {"threshold_amount": 1_000_000, "currency": "USD", "interval": "month"}
USAGE = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150, "prompt_tokens_details": {"cached_tokens": 20, "audio_tokens": 60, "text_tokens": 40},
         "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 30, "text_tokens": 20}}
HEARD = [{"role": "user", "content": [{"type": "text", "text": "What is said?"}, {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}]}]
SPOKEN = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}


def answer(body, handler):
    message = {"role": "assistant", "content": None, "audio": {"id": "audio_1", "data": "UklGRg==", "transcript": "Hello", "expires_at": 1}}
    if body.get("stream"):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for event in [{"choices": [{"index": 0, "delta": {"audio": {"transcript": "Hello"}}}]}, {"choices": [{"index": 0, "delta": {"audio": {"data": "UklGRg=="}}}]}, {"choices": [], "usage": USAGE}]:
            handler.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        handler.wfile.write(b"data: [DONE]\n\n")
        return None
    return 200, {"id": "x", "object": "chat.completion", "created": 1, "model": "fake", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE}


@pytest.fixture
def key(server):
    return server.key(server.default_project)["value"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_heard_and_spoken_has_prices_of_its_own(server, key, stream):
    fake = server.fake(answer, input_price="2.5", cached_input_price="1.25", output_price="10", audio_input_price="32", audio_output_price="64")
    server.post("/v1/organization/spend_limit", LIMIT)
    made = server.chat(key, model="fake", messages=HEARD, stream=stream, max_tokens=100, **SPOKEN)
    assert made.status == 200 and b"audio" in made.body, made
    sent = fake.bodies[0]
    assert sent["messages"] == HEARD and sent["audio"] == SPOKEN["audio"] and sent["modalities"] == SPOKEN["modalities"]
    [row] = server.requests()
    cost = (20 * 2.5 + 60 * 32 + 20 * 1.25 + 20 * 10 + 30 * 64) / 1e6
    assert float(row["cost"]) == pytest.approx(cost) and row["flags"] == [] and row["usage_source"] == "upstream"
    assert float(row["bound"]) > 8_000 * 32e-6, "how long audio is does not show: as much as the model takes, at what hearing costs"


def test_a_dearer_half_is_held_only_by_who_asks_for_it(server, key):
    server.fake(answer, input_price="1", output_price="1", audio_input_price="100", audio_output_price="100", max_output_tokens=1000)
    server.post("/v1/organization/spend_limit", LIMIT)
    bounds = []
    for more in [{}, SPOKEN]:
        server.chat(key, model="fake", max_tokens=1000, **more)
        bounds.append(float(server.requests()[0]["bound"]))
    assert bounds[0] < 0.0021 and bounds[1] > 0.1


def test_audio_without_a_price_is_not_charged_as_text(server, key):
    server.fake(answer)
    unpriced = server.chat(key, model="fake", messages=HEARD)
    assert unpriced.status == 200 and unpriced.headers["x-tollgate-unpriced"] == "true" and server.requests()[0]["priced"] is False
    server.post("/v1/organization/spend_limit", LIMIT)
    for more in [{"messages": HEARD}, SPOKEN]:
        refused = server.chat(key, model="fake", **more)
        assert refused.status == 400 and refused.error["code"] == "model_price_unknown", refused
    assert server.chat(key, model="fake", modalities=["text"]).status == 200, "text alone is as before"


@pytest.mark.parametrize("path, more, param", [
    ("chat/completions", {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "messages[0]"), ("chat/completions", {"modalities": ["video"]}, "modalities"), ("completions", {"prompt": "x", "modalities": ["image"]}, "modalities"),
    ("chat/completions", {"modalities": "audio"}, "modalities"), ("completions", {"prompt": "x", "modalities": ["audio"]}, "modalities"),
    ("responses", {"input": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "input[0].content")])
def test_what_is_not_served_is_refused_by_name(server, key, path, more, param):
    fake = server.fake(answer, audio_input_price="32", audio_output_price="64")
    refused = request(server.url, "POST", f"/v1/{path}", key=key, body={"model": "fake", "messages": [{"role": "user", "content": "x"}], **more})
    assert refused.status == 400 and refused.error["param"] == param and fake.bodies == [], refused


def test_embedded_prices_have_audio(server):
    known = server.get("/tollgate/v1/models/gpt-audio").json
    assert (known["input_price"], known["output_price"], known["audio_input_price"], known["audio_output_price"]) == ("2.5", "10", "32", "64")
    assert server.post("/tollgate/v1/models/gpt-audio", {"audio_input_price": "40"}).json["audio_output_price"] == "64"
    assert server.post("/tollgate/v1/models/m", {"audio_input_price": "-1"}).error["param"] == "audio_input_price"
