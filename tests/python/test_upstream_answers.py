"""Answers of an upstream that are malformed, endless, compressed, or lie about their length.

Of each: the client is told by a clear error, or by a cut where the answer had begun; the hold is resolved; the next request,
on the same connection if that is still open, is answered as if nothing had been.
"""

import http.client
import json
import re
import socket
import threading
import zlib

import pytest

from harness import SocketUpstream, until

GOOD = json.dumps({"id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": "good"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
EVENT = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\ndata: [DONE]\n\n'


def plain(body, fields=b"", status=b"HTTP/1.1 200 OK"):
    return status + b"\r\nContent-Type: application/json\r\n" + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body


# What is answered, and whether the client can take it for an answer of the model's.
ANSWERS = {
    "nothing": (b"", False),
    "a letter": (b"H", False),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Len", False),
    "no http": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", False),
    "http 2": (b"HTTP/2 200\r\nContent-Length: 0\r\n\r\n", False),
    "http 0.9": (GOOD, False),
    "bare line feeds": (OK.replace(b"\r\n", b"\n") + b"Content-Length: %d\n\n" % len(GOOD) + GOOD, False),
    "a folded line": (OK + b"X: a\r\n b\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD, False),
    "a nul": (OK + b"X: \x00\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD, False),
    "no status": (b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n", False),
    "status 99": (plain(GOOD, status=b"HTTP/1.1 099 x"), False),
    "status 999": (plain(GOOD, status=b"HTTP/1.1 999 x"), False),
    "status 204": (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    "status 304": (b"HTTP/1.1 304 Not Modified\r\n\r\n", False),
    "two lengths": (OK + b"Content-Length: %d\r\nContent-Length: 5\r\n\r\n" % len(GOOD) + GOOD, False),
    "a list of lengths": (OK + b"Content-Length: %d, %d\r\n\r\n" % (len(GOOD), len(GOOD)) + GOOD, False),
    "both lengths": (OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\n\r\n", False),
    "a negative length": (OK + b"Content-Length: -5\r\n\r\n" + GOOD, False),
    "a huge length": (OK + b"Content-Length: 99999999999999999999\r\n\r\n" + GOOD, False),
    "a length too long": (OK + b"Content-Length: %d\r\n\r\n" % (len(GOOD) + 50) + GOOD, False),
    "a length too short": (OK + b"Content-Length: %d\r\n\r\n" % (len(GOOD) - 50) + GOOD, True),
    "an odd coding": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\n\r\n", False),
    "a chunk that is no number": (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + GOOD + b"\r\n0\r\n\r\n", False),
    "a chunk too long": (OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(GOOD) + 9) + GOOD + b"\r\n0\r\n\r\n", False),
    "a chunk too short": (OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(GOOD) - 9) + GOOD + b"\r\n0\r\n\r\n", False),
    "a huge chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n" + GOOD, False),
    "no last chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(GOOD) + GOOD + b"\r\n", False),
    "endless trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\n" + b"X: y\r\n" * 5000, False),
    "gzip": (plain(zlib.compress(GOOD, wbits=31), b"Content-Encoding: gzip\r\n"), False),
    "a bomb": (plain(zlib.compress(b"\0" * 50_000_000, wbits=31), b"Content-Encoding: gzip\r\n"), False),
    "a bomb of events": (SSE + b"Content-Encoding: br\r\nContent-Length: 9\r\n\r\n\x8b\x04\x80events\x03"[:60], False),
    "a long head": (OK + b"X: " + b"y" * 200_000 + b"\r\nContent-Length: 0\r\n\r\n", False),
    "many fields": (OK + b"X: y\r\n" * 2000 + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD, False),
    "an upgrade": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", False),
    "interim answers": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + plain(GOOD), True),
    "two answers": (plain(GOOD) + plain(GOOD.replace(b"good", b"evil")), True),
    "no json": (plain(b"<html>not a model</html>"), True),
    "an empty body": (plain(b""), True),
    "a list": (plain(b"[1,2,3]"), True),
    "no text": (plain(b"\xff\xfe" * 100), True),
    "deep json": (plain(b'{"usage":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), True),
    "usage twice": (plain(b'{"usage":{"prompt_tokens":1,"completion_tokens":1},"usage":{"prompt_tokens":9,"completion_tokens":9}}'), True),
    "absurd usage": (plain(b'{"usage":{"prompt_tokens":-1,"completion_tokens":1e99}}'), True),
    "a redirect": (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", False),
    "a cookie": (plain(GOOD, b"Set-Cookie: session=1\r\nServer: x\r\nX-Powered-By: y\r\nAlt-Svc: h3=\":443\"\r\nStrict-Transport-Security: max-age=1\r\n"), True),
    "a header that splits": (OK + b"Retry-After: 1\rX-Evil: y\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD, False),
}

STREAMS = {
    "to the end": (SSE + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n" % len(piece) + piece + b"\r\n" for piece in [EVENT, LAST]) + b"0\r\n\r\n", True),
    "by length": (SSE + b"Content-Length: %d\r\n\r\n" % len(EVENT + LAST) + EVENT + LAST, True),
    "by the connection's end": (SSE + b"Connection: close\r\n\r\n" + EVENT + LAST, True),
    "cut": (SSE + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(EVENT) + EVENT + b"\r\n", False),
    "cut in a chunk": (SSE + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(EVENT + LAST) + EVENT, False),
    "a chunk that is no number": (SSE + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(EVENT) + EVENT + b"\r\nxx\r\n" + EVENT, False),
    "no events": (SSE + b"Content-Length: 0\r\n\r\n", True),
    "no event ends": (SSE + b"Content-Length: 60000\r\n\r\n" + b"data: x" * 10_000, True),
    "no text": (SSE + b"Content-Length: 400\r\n\r\n" + b"\xff\xfe\n\n" * 100, True),
    "events that are no json": (SSE + b"Content-Length: 22\r\n\r\n" + b"data: {\n\ndata: }\n\n\n\n\n\n", True),
    "carriage returns": (SSE + b"Content-Length: %d\r\n\r\n" % len((EVENT + LAST).replace(b"\n", b"\r\n")) + (EVENT + LAST).replace(b"\n", b"\r\n"), True),
    "an error in the stream": (SSE + b"Content-Length: 41\r\n\r\n" + b'data: {"error":{"message":"overloaded"}}\n\n', True),
    "an event of megabytes": (SSE + b"Connection: close\r\n\r\n" + b'data: {"choices":[{"delta":{"content":"' + b"x" * 6_000_000 + b'"}}]}\n\n' + LAST, True),
    "deep usage": (SSE + b"Connection: close\r\n\r\n" + EVENT + b'data: {"usage":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}\n\n", True),
    "json instead": (plain(GOOD), True),
}


class Raw(SocketUpstream):
    """An upstream that answers with the bytes that the request names, and then closes."""

    def serve(self, connection):
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            head, data = data.split(b"\r\n\r\n", 1)
            length = int(re.search(rb"content-length: (\d+)", head)[1])
            while len(data) < length:
                data += connection.recv(65536)
            name = json.loads(data)["messages"][0]["content"]
            try:
                connection.sendall({**ANSWERS, **{f"stream: {key}": value for key, value in STREAMS.items()}, "good": (plain(GOOD), True)}[name][0])
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except OSError:
                pass


@pytest.fixture
def raw(server):
    upstream = Raw()
    server.fakes.append(upstream)
    assert server.post("/tollgate/v1/upstreams", {"name": "raw", "base_url": upstream.base_url, "models": ["fake"]}).status == 200
    server.post("/tollgate/v1/models/fake", {"input_price": "1", "output_price": "1", "max_output_tokens": 10, "context_tokens": 1000})
    server.post("/v1/organization/spend_limit", {"threshold_amount": 1_000_000, "currency": "USD", "interval": "month"})
    server.secret = server.key(server.default_project)["value"]
    return server


class Talk:
    """One client connection, on which requests follow each other as long as it is kept open."""

    def __init__(self, server):
        host, port = server.url.removeprefix("http://").split(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=60)
        self.key = server.secret

    def ask(self, name, stream=False):
        body = json.dumps({"model": "fake", "max_tokens": 5, "stream": stream, "messages": [{"role": "user", "content": name}]})
        self.connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"})
        response = self.connection.getresponse()
        try:
            return response.status, dict(response.getheaders()), response.read(), True
        except http.client.IncompleteRead as cut:
            self.connection.close()
            return response.status, dict(response.getheaders()), cut.partial, False


def check_after(server, talk):
    """All is well: nothing is held, and the next request is answered."""
    until(lambda: all(row["state"] != "held" for row in server.requests()))
    status, _, body, is_whole = talk.ask("good")
    assert status == 200 and is_whole and json.loads(body)["choices"][0]["message"]["content"] == "good"


def test_each_odd_answer_is_an_error_or_passes_and_the_next_is_untouched(raw):
    talk = Talk(raw)
    for name, (_, passes) in ANSWERS.items():
        status, headers, body, is_whole = talk.ask(name)
        assert is_whole, name
        if passes:
            assert 200 <= status < 300, (name, status, body[:200])
            assert not {header.lower() for header in headers} & {"set-cookie", "server", "x-powered-by", "alt-svc", "strict-transport-security", "link"}, name
            assert b"evil" not in body
        else:
            error = json.loads(body)["error"]
            assert status in (502, 504) and error["code"] == "upstream_failed" and error["message"], (name, status, body[:200])
        check_after(raw, talk)
    rows = raw.requests()
    assert all(row["state"] == "settled" and float(row["cost"]) > 0 for row in rows), "what may have run is charged"


def test_each_odd_stream_ends_or_is_cut_and_the_next_is_untouched(raw):
    talk = Talk(raw)
    for name, (_, passes) in STREAMS.items():
        status, _, body, is_whole = talk.ask(f"stream: {name}", stream=True)
        assert status == 200 and is_whole == passes, (name, status, is_whole, body[:200])
        assert b"good" in body if name == "json instead" else True
        check_after(raw, talk)


def test_an_endless_answer_is_given_up(raw):
    """More than is kept of one in a piece; the memory of the process stays what it is."""
    stop = threading.Event()

    def serve(connection):
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
                piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
                while not stop.is_set():
                    connection.sendall(piece)
            except OSError:
                pass

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=lambda: serve(listener.accept()[0]), daemon=True).start()
    [upstream] = raw.get("/tollgate/v1/upstreams").json["data"]
    raw.post(f"/tollgate/v1/upstreams/{upstream['id']}", {"base_url": f"http://127.0.0.1:{listener.getsockname()[1]}/v1"})
    status, _, body, _ = Talk(raw).ask("endless")
    stop.set()
    listener.close()
    assert status == 502 and "too large" in json.loads(body)["error"]["message"]
    until(lambda: all(row["state"] == "settled" for row in raw.requests()))
