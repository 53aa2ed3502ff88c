"""HTTP/2, to clients and to upstreams."""

import asyncio
import concurrent.futures
import json
import signal
import socket
import ssl
import subprocess
import threading

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import httpx2 as httpx
import pytest

from harness import Fake, Server, request, simulate, until


HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def key(gateway):
    return gateway.key(gateway.default_project)["value"]


@pytest.fixture
def http2(gateway, key):
    with httpx.Client(http1=False, http2=True, base_url=gateway.url, timeout=60, headers={"Authorization": f"Bearer {key}"}) as client:
        yield client


class Raw:
    """A connection of frames."""

    def __init__(self, server, **config):
        host, port = server.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False, **config))
        self.h2.initiate_connection()
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def headers(self, key, path="/v1/chat/completions", method="POST", *more):
        return [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path), ("authorization", f"Bearer {key}"), *more]

    def open(self, headers, body=None, end=True):
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=body is None and end)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=end)
        self.flush()
        return stream

    def events(self):
        """What came, until the connection ends."""
        while True:
            try:
                data = self.socket.recv(65536)
            except (TimeoutError, ConnectionResetError):
                return
            if not data:
                return
            try:
                events = self.h2.receive_data(data)
                self.flush()
            except (h2.exceptions.ProtocolError, BrokenPipeError, ConnectionResetError):
                return
            yield from events

    def outcome(self, stream):
        """The status of a stream's answer, or None if it was reset or the connection ended."""
        for event in self.events():
            if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                return int(dict(event.headers)[":status"])
            if isinstance(event, h2.events.StreamReset) and event.stream_id == stream or isinstance(event, h2.events.ConnectionTerminated):
                return None
        return None


def test_all_of_it_over_one_connection(gateway, http2, simulator):
    answer = http2.post("/v1/chat/completions", json={"model": "gpt-4o-mini", "messages": HELLO, **simulate(output_tokens=7)})
    assert (answer.http_version, answer.status_code) == ("HTTP/2", 200) and answer.json()["usage"]["completion_tokens"] == 7
    assert answer.headers["x-request-id"].startswith("req_") and "connection" not in answer.headers and "transfer-encoding" not in answer.headers
    with http2.stream("POST", "/v1/chat/completions", json={"model": "gpt-4o-mini", "messages": HELLO, "stream": True, **simulate(output_tokens=50)}) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and len(lines) > 50
    assert http2.get("/v1/models").json()["object"] == "list"
    assert http2.head("/healthz").status_code == 200 and http2.get("/nothing").status_code == 404
    assert http2.get("/v1/models", headers={"Authorization": "Bearer x"}).json()["error"]["code"] == "invalid_api_key"
    assert http2.post("/v1/chat/completions", content=b"{").status_code == 400
    assert http2.post("/v1/chat/completions", content=b" " * 11_000_000).status_code == 413
    admin = http2.get("/v1/organization/projects", headers={"Authorization": f"Bearer {gateway.admin_key}"})
    assert admin.status_code == 200
    assert [(r["input_tokens"], r["output_tokens"]) for r in gateway.requests()[::-1]] == [(e["billed_input"], e["billed_output"]) for e in simulator.requests]


def test_the_sdk_over_tls_agrees_on_it(tmp_path, simulator):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem", "-subj", "/CN=localhost", "-days", "2",
                    "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    server = Server.__new__(Server)
    with pytest.MonkeyPatch.context() as patch:
        # The harness speaks plainly; this one server is asked over TLS.
        trust = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        patch.setattr("harness.request", lambda url, *args, **more: request(url, *args, **{**more, "tls": trust}))
        server.__init__(tmp_path, "--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem")
        server.upstream(simulator)
        key = server.key(server.default_project)["value"]
        with httpx.Client(http2=True, verify=trust) as client:
            sdk = server.client(key, http_client=client)
            raw = sdk.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
            assert raw.http_response.http_version == "HTTP/2" and raw.parse().choices[0].message.content
            text = "".join(chunk.choices[0].delta.content or "" for chunk in sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True))
            assert text
        with httpx.Client(http2=False, verify=trust) as client:
            assert client.get(server.url + "/healthz").http_version == "HTTP/1.1"
    assert server.process.stop() == 0


def test_many_at_once_share_a_connection(gateway, key):
    async def all_of_them():
        # Threads sharing one client mix up the order of its streams; tasks do not.
        async with httpx.AsyncClient(http1=False, http2=True, base_url=gateway.url, timeout=60, headers={"Authorization": f"Bearer {key}"}) as client:
            bodies = [{"model": "gpt-4o-mini", "messages": HELLO, **simulate(output_tokens=number + 1, latency_ms=50)} for number in range(100)]
            return [answer.json()["usage"]["completion_tokens"] for answer in await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for body in bodies))]

    assert asyncio.run(all_of_them()) == list(range(1, 101))


def test_whoever_gives_a_stream_up_does_not_spare_the_bill(gateway, key, simulator):
    raw = Raw(gateway)
    body = json.dumps({"model": "gpt-4o-mini", "stream": True, "messages": HELLO, **simulate(output_tokens=40, chunk_ms=10)}).encode()
    stream = raw.open(raw.headers(key), body)
    for event in raw.events():
        if isinstance(event, h2.events.DataReceived):
            break
    raw.h2.reset_stream(stream)
    raw.flush()
    [row] = until(lambda: [row for row in gateway.requests() if row["state"] == "settled"])
    assert row["usage_source"] == "upstream" and row["output_tokens"] == 40 and row["drained_output_tokens"] > 0
    # The connection is as good as before.
    assert raw.outcome(raw.open(raw.headers(key, "/v1/models", "GET"))) == 200


@pytest.mark.parametrize("more", [
    [("connection", "close")], [("transfer-encoding", "chunked")], [("keep-alive", "x")], [("upgrade", "h2c")], [("host", "other")], [("X-Upper", "y")], [("x", "a\r\nb: c")], [("x y", "z")],
    [(":path", "/v1/models")], [(":unknown", "x")], [("content-length", "5")], [("content-length", "1"), ("content-length", "2")], [("content-length", "-1")], [("te", "gzip")]])
def test_a_head_that_is_none_is_refused(gateway, key, more):
    raw = Raw(gateway)
    status = raw.outcome(raw.open(raw.headers(key, "/v1/models", "GET", *more)))
    assert status in (None, 400), status
    assert request(gateway.url, "GET", "/v1/models", key=key).status == 200


def test_a_body_that_lies_about_its_length_is_refused(gateway, key, simulator):
    body = json.dumps({"model": "gpt-4o-mini", "messages": HELLO}).encode()
    for length in [len(body) - 1, len(body) + 1, 0, 10**12]:
        raw = Raw(gateway)
        status = raw.outcome(raw.open(raw.headers(key, "/v1/chat/completions", "POST", ("content-length", str(length))), body))
        assert status in (None, 400, 413), (length, status)
    assert simulator.requests == []


def test_cve_2023_44487_rapid_reset(gateway, key, simulator):
    """Requests that are given up at once, without end, each of which cost the server more than the client."""
    raw = Raw(gateway)
    body = json.dumps({"model": "gpt-4o-mini", "messages": HELLO}).encode()
    sent, closed = 0, False
    try:
        for _ in range(5_000):
            stream = raw.open(raw.headers(key), body)
            raw.h2.reset_stream(stream)
            raw.flush()
            sent += 1
    except (BrokenPipeError, ConnectionResetError, h2.exceptions.ProtocolError):
        closed = True
    if not closed:
        closed = any(isinstance(event, h2.events.ConnectionTerminated) for event in raw.events()) or True
    assert request(gateway.url, "GET", "/v1/models", key=key).status == 200
    until(lambda: all(row["state"] != "held" for row in gateway.requests()))
    assert len(simulator.requests) < 1_000, f"{len(simulator.requests)} of {sent} were begun"


def test_rustsec_2024_0332_continuation_flood(gateway, key):
    """A head that never ends, in frames that no limit of a list counts."""
    raw = Raw(gateway)
    frame = lambda kind, flags, payload: len(payload).to_bytes(3, "big") + bytes([kind, flags]) + (1).to_bytes(4, "big") + payload
    # Literal fields without indexing, each a name and a value of one letter.
    field = b"\x00\x01x\x01y"
    sent = 0
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        raw.socket.sendall(frame(1, 0, field * 10))
        for _ in range(20_000):
            raw.socket.sendall(frame(9, 0, field * 2_000))
            sent += 10_000
    assert sent < 20_000 * 10_000 / 2
    assert request(gateway.url, "GET", "/v1/models", key=key).status == 200


def test_a_server_that_stops_ends_what_is_under_way(tmp_path):
    server = Server(tmp_path)
    proceed = threading.Event()
    server.fake(lambda body, handler: proceed.wait(60) and (200, Fake.completion()))
    key = server.key(server.default_project)["value"]
    raw = Raw(server)
    stream = raw.open(raw.headers(key), json.dumps({"model": "fake", "messages": HELLO}).encode())
    until(lambda: len(server.requests()) == 1)
    server.process.process.send_signal(signal.SIGTERM)
    # By hand: to this client's machine nothing may come after a GOAWAY.
    data, kinds = b"", []

    def frames():
        nonlocal data
        while True:
            while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
                end = 9 + int.from_bytes(data[:3], "big")
                kind, flags, id, payload = data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:end]
                data = data[end:]
                if kind == 6 and not flags:
                    raw.socket.sendall(b"\0\0\x08\x06\x01\0\0\0\0" + payload)
                yield kind, id, payload
            more = raw.socket.recv(65536)
            if not more:
                return
            data += more

    for kind, id, payload in frames():
        kinds.append(kind)
        if kind == 7:
            assert payload[4:8] == bytes(4), "it takes no more, and nothing is wrong"
            proceed.set()
        if kind == 0 and id == stream:
            assert b'"chat.completion"' in payload
    assert kinds.index(7) < kinds.index(1), "the answer came after it had said so"
    assert server.process.process.wait(60) == 0
    server.fakes[0].stop()


def test_an_upstream_is_spoken_to_in_it_by_choice(tmp_path, gateway, key, simulator):
    """Another Tollgate is one that speaks it."""
    (tmp_path / "front").mkdir()
    front = Server(tmp_path / "front")
    try:
        made = front.post("/tollgate/v1/upstreams", {"name": "behind", "base_url": gateway.base_url, "api_key": front.remember(key), "http_version": "2"})
        assert made.status == 200 and made.json["http_version"] == "2" and "gpt-4o-mini" in made.json["models"], made
        own = front.key(front.default_project)["value"]
        assert front.chat(own, simulate={"output_tokens": 7}).json["usage"]["completion_tokens"] == 7
        client = front.client(own)
        chunks = list(client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True, **{"metadata": {"simulate": json.dumps({"output_tokens": 30})}}))
        assert len(chunks) > 30
        big = front.chat(own, messages=[{"role": "user", "content": "x " * 500_000}], max_tokens=1)
        assert big.status == 200, big
        with concurrent.futures.ThreadPoolExecutor(30) as pool:
            assert set(pool.map(lambda _: front.chat(own, simulate={"latency_ms": 100}).status, range(60))) == {200}
        usage = lambda server: [(r["input_tokens"], r["output_tokens"], r["usage_source"]) for r in server.requests()]
        assert sorted(usage(front)) == sorted(usage(gateway))
        page = gateway.get("/metrics").body.decode()
        assert 'route="/v1/chat/completions"' in page
        # What it does not agree on is an error, and no guess.
        fake = Fake(lambda body, handler: (200, Fake.completion()))
        plain = front.post("/tollgate/v1/upstreams", {"name": "plain", "base_url": fake.base_url, "models": ["fake"], "http_version": "2"})
        assert plain.status == 200
        answer = front.chat(own, model="fake")
        assert answer.status in (502, 504), answer
        fake.stop()
        assert front.post("/tollgate/v1/upstreams", {"name": "x", "base_url": "http://127.0.0.1:9/v1", "models": ["m"], "http_version": "3"}).error["param"] == "http_version"
        assert front.post(f"/tollgate/v1/upstreams/{made.json['id']}", {"http_version": None}).json["http_version"] == "1.1"
        assert front.chat(own).status == 200
    finally:
        assert front.process.stop() == 0
