"""A pack of more than 400 requests that two readers might read differently, in front of an upstream that logs every byte (G18).

Of each the upstream sees nothing, or exactly one well-formed request: the one outside. What is hidden behind it carries no
key, so whatever of it reaches the upstream was smuggled.
"""

import json
import re
import socket
import threading

import pytest

from harness import SocketUpstream

OUTER = json.dumps({"model": "fake", "max_tokens": 1, "messages": [{"role": "user", "content": "outer"}]}).encode()
HIDDEN = json.dumps({"model": "fake", "max_tokens": 1, "messages": [{"role": "user", "content": "SMUGGLED"}]}).encode()
ANSWER = json.dumps({"id": "x", "object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}).encode()


class ByteLog(SocketUpstream):
    """Answers every request it can read, and keeps all bytes of every connection."""

    def __init__(self):
        self.lock, self.bytes, self.requests = threading.Lock(), b"", []
        super().__init__()

    def serve(self, connection):
        with connection:
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    more = connection.recv(65536)
                    if not more:
                        return
                    with self.lock:
                        self.bytes += more
                    data += more
                head, data = data.split(b"\r\n\r\n", 1)
                length = int(re.search(rb"\r\ncontent-length: (\d+)", head)[1])
                while len(data) < length:
                    more = connection.recv(65536)
                    if not more:
                        return
                    with self.lock:
                        self.bytes += more
                    data += more
                body, data = data[:length], data[length:]
                with self.lock:
                    self.requests.append((head, body))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER)

    def take(self):
        with self.lock:
            taken = self.bytes, self.requests
            self.bytes, self.requests = b"", []
            return taken


def hidden():
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN


def chunked(body):
    return b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


def head(key, fields, line=b"POST /v1/chat/completions HTTP/1.1", host=b"Host: x\r\n"):
    return line + b"\r\n" + host + b"Authorization: Bearer " + key + b"\r\nContent-Type: application/json\r\n" + fields + b"\r\n"


def codings():
    """Ways to write a coding that some reader takes for `chunked`, and some for something else."""
    values = [b"chunked", b" chunked", b"\tchunked", b"chunked ", b"chunked\t", b"\x0bchunked", b"\x0cchunked", b"chunked\x0b", b"xchunked", b"chunkedx", b"Chunked", b"CHUNKED",
              b"chunked, identity", b"identity, chunked", b"chunked, chunked", b"chunked,", b",chunked", b", chunked", b"chunked;q=1", b"\"chunked\"", b"'chunked'", b"chunked\x00", b"\x00chunked",
              b"chu\x00nked", b"chunk", b"identity", b"gzip, chunked", b"deflate", b"", b" ", b"\xffchunked", b"chunked\xff", b"chunked\x7f", b"chunked\x85", b"\xa0chunked", b"c\xe2\x84\xaahunked",
              b"chunked\r", b"\rchunked", b"chunked\r\n ", b"\r\n chunked", b"\r\n\tchunked", b"chun\r\n ked", b"identity\r\nTransfer-Encoding: chunked", b"chunked\r\nTransfer-Encoding: identity"]
    names = [b"Transfer-Encoding:", b"transfer-encoding:", b"Transfer-Encoding :", b"Transfer-Encoding\t:", b" Transfer-Encoding:", b"\tTransfer-Encoding:", b"Transfer_Encoding:", b"Transfer-Encoding\x00:",
             b"Transfer\x00-Encoding:", b"Transfer-Encoding\x0b:", b"X: y\nTransfer-Encoding:", b"X: y\rTransfer-Encoding:", b"X: y\r\n\rTransfer-Encoding:", b"Transfer-Encoding\r\n:", b"\x0bTransfer-Encoding:",
             b"Transfer-Encod\xc4\xb1ng:", b"T\xffransfer-Encoding:", b"\"Transfer-Encoding\":", b"Transfer-Encoding::", b"Foo: bar\r\n Transfer-Encoding:"]
    yield from (b"Transfer-Encoding:" + value for value in values)
    yield from (b"Transfer-Encoding: " + value for value in values)
    yield from (name + b" chunked" for name in names)


def lengths(length):
    values = [b"+%d", b"-%d", b" %d", b"%d ", b"\t%d", b"0%d", b"00%d", b"0x%x", b"%d.0", b"%de0", b"%d,", b",%d", b"%d, %d" % (length, length), b"%d,0" % length, b"0,%d", b"\"%d\"", b"%d\x00", b"\x00%d", b"%d\x0b",
              b"\x0b%d", b"%d;", b"%d 0" % length, b"1_0", b"", b" ", b"x", b"%d\r", b"\r%d", b"%d\r\n 0", b"\r\n %d", b"18446744073709551616", b"18446744073709551%03d" % 615, b"99999999999999999999999999", b"\xb2", b"%d\xff"]
    names = [b"Content-Length:", b"content-length:", b"Content-Length :", b"Content-Length\t:", b" Content-Length:", b"Content_Length:", b"Content-Length\x00:", b"Content-Length\x0b:", b"X: y\nContent-Length:",
             b"X: y\rContent-Length:", b"Content-Length\r\n:", b"Content-Length::", b"Foo: bar\r\n Content-Length:"]
    fill = lambda value: value.replace(b"%d", b"%d" % length).replace(b"%x", b"%x" % length)
    yield from (b"Content-Length: " + fill(value) for value in values)
    yield from (b"Content-Length:" + fill(value) for value in values)
    yield from (name + b" %d" % length for name in names)
    for other in [0, 1, length - 1, length, length + 1, length + 1000]:
        yield b"Content-Length: %d\r\nContent-Length: %d" % (length, other)
        yield b"Content-Length: %d\r\nContent-Length: %d" % (other, length)
        yield b"Content-Length: %d\r\ncontent-length : %d" % (length, other)


def chunks():
    """Bodies whose end two readers might see in two places."""
    size = b"%x" % len(OUTER)
    yield from (line + b"\r\n" + OUTER + b"\r\n0\r\n\r\n" for line in [
        size, size.upper(), b"0" + size, b"000" + size, b"0x" + size, b"+" + size, b"-" + size, b" " + size, size + b" ", size + b"\t", size + b";", size + b";a", size + b";a=b", size + b";a=\"b\"", size + b" ;a=b",
        size + b";a\rb", size + b";\x00", size + b"\x00", size + b"\x0b", size + b"\r", size + b",1", size + b"g", b"", b"\r\n" + size, b"1" + b"0" * 15 + size, b"f" * 16, b"f" * 17, b"8000000000000000" + size,
        size + b";" + b"x" * 300, size + b"\n", b"\xef\xbb\xbf" + size])
    good = size + b"\r\n" + OUTER
    yield from (good + end for end in [
        b"\r\n0\r\n\r\n", b"\n0\r\n\r\n", b"\r\n0\n\r\n", b"\r\n0\r\n\n", b"\r0\r\n\r\n", b"0\r\n\r\n", b"\r\n\r\n0\r\n\r\n", b"XX0\r\n\r\n", b"\r\n00\r\n\r\n", b"\r\n0;a=b\r\n\r\n", b"\r\n0\r\nX: y\r\n\r\n",
        b"\r\n0\r\nContent-Length: 5\r\n\r\n", b"\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", b"\r\n0\r\nX: y\n\r\n", b"\r\n0\r\n X: y\r\n\r\n", b"\r\n-0\r\n\r\n", b"\r\n0x0\r\n\r\n", b"\r\n \r\n\r\n", b"\r\n0 \r\n\r\n",
        b"\r\n0\r\n\r\nX", b"\r\n1\r\n\r\n", b"\r\n0\r\nX: " + b"y" * 9000 + b"\r\n\r\n", b"\r\n0\r\n" + b"X: y\r\n" * 2000 + b"\r\n"])


def lines(key):
    for line in [b"POST /v1/chat/completions HTTP/1.0", b"POST /v1/chat/completions HTTP/1.2", b"POST /v1/chat/completions HTTP/0.9", b"POST /v1/chat/completions HTTP/2.0", b"POST /v1/chat/completions HTTP/11",
                 b"POST /v1/chat/completions http/1.1", b"POST /v1/chat/completions HTTP/1.1 ", b"POST /v1/chat/completions  HTTP/1.1", b"POST\t/v1/chat/completions\tHTTP/1.1", b" POST /v1/chat/completions HTTP/1.1",
                 b"\r\nPOST /v1/chat/completions HTTP/1.1", b"\nPOST /v1/chat/completions HTTP/1.1", b"\r\n\r\nPOST /v1/chat/completions HTTP/1.1", b"POST /v1/chat/completions", b"POST  /v1/chat/completions HTTP/1.1",
                 b"post /v1/chat/completions HTTP/1.1", b"P\x00ST /v1/chat/completions HTTP/1.1", b"POST /v1/chat/completions\x00 HTTP/1.1", b"POST /v1/chat/completions\rX HTTP/1.1", b"POST http://evil/v1/chat/completions HTTP/1.1",
                 b"POST http://x/v1/chat/completions HTTP/1.1", b"POST //x/v1/chat/completions HTTP/1.1", b"POST /v1/../v1/chat/completions HTTP/1.1", b"POST /v1/chat%2fcompletions HTTP/1.1", b"POST /v1/chat/completions/ HTTP/1.1",
                 b"POST /v1/chat/completions#x HTTP/1.1", b"POST /v1/chat/completions?x HTTP/1.1", b"POST * HTTP/1.1", b"PUT /v1/chat/completions HTTP/1.1", b"HEAD /v1/chat/completions HTTP/1.1", b"TRACE /v1/chat/completions HTTP/1.1",
                 b"CONNECT x:80 HTTP/1.1", b"PRI * HTTP/2.0"]:
        for framing, body in [(b"Content-Length: %d\r\n" % len(OUTER), OUTER), (b"Transfer-Encoding: chunked\r\n", chunked(OUTER))]:
            yield head(key, framing, line=line) + body


def hosts(key):
    length = b"Content-Length: %d\r\n" % len(OUTER)
    for host in [b"", b"Host: x\r\nHost: y\r\n", b"Host: x\r\nHost: x\r\n", b"Host:\r\n", b"Host: x, y\r\n", b"Host : x\r\n", b"Host: x/v1/models?\r\n", b"Host: x#\r\n", b"Host: a@b\r\n", b"Host: x\r\n y\r\n", b"Host: x\x00y\r\n", b"Host: \xff\r\n"]:
        yield head(key, length, host=host) + OUTER
    for field in [b"Connection: content-length", b"Connection: authorization", b"Connection: close, x-request-id", b"Connection: keep-alive, upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
                  b"Upgrade: websocket\r\nConnection: Upgrade", b"Upgrade: TLS/1.0\r\nConnection: Upgrade", b"Expect: 100-continue", b"Expect: 100-continue, x", b"Expect: x", b"TE: trailers, chunked", b"Trailer: Content-Length",
                  b"X-HTTP-Method-Override: DELETE", b"X-Original-URL: /v1/organization/projects", b"X-Rewrite-URL: /", b"X-Forwarded-Host: evil", b"Forwarded: host=evil", b"Content-Encoding: gzip", b"Keep-Alive: timeout=0",
                  b"X-Api-Key: other", b"Authorization: Bearer other", b"Proxy-Connection: keep-alive", b"Max-Forwards: 0", b"Range: bytes=0-1", b"X: \r\n\r\n", b"X: y\r\n\r\n" + hidden()[:40], b"Content-Type: text/plain",
                  b"X\x00: y", b": y", b"X", b"X: \x00", b"X: \x01", b"X: \x7f", b"X(: y", b"X : y", b"X\xc3\xa9: y"]:
        yield head(key, length + field + b"\r\n") + OUTER


def pack(key):
    """All of it, each with a request hidden behind it."""
    both = [(coding, length) for coding in codings() for length in (None, b"Content-Length: 4", b"Content-Length: %d" % (len(chunked(OUTER)) + len(hidden())))]
    for coding, length in both:
        fields = coding + b"\r\n" + (length + b"\r\n" if length else b"")
        yield head(key, fields) + chunked(OUTER) + hidden()
    for length in lengths(len(OUTER)):
        yield head(key, length + b"\r\n") + OUTER + hidden()
    for body in chunks():
        yield head(key, b"Transfer-Encoding: chunked\r\n") + body + hidden()
    yield from (request + hidden() for request in lines(key))
    yield from (request + hidden() for request in hosts(key))
    # HTTP/1.0, whose readers know no chunks.
    for coding in [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nConnection: keep-alive", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\nConnection: keep-alive"]:
        yield head(key, coding + b"\r\n", line=b"POST /v1/chat/completions HTTP/1.0") + chunked(OUTER) + hidden()
    # A body that is cut, or longer than it says.
    for more in range(-20, 20, 2):
        yield head(key, b"Content-Length: %d\r\n" % (len(OUTER) + more)) + OUTER + hidden()


def send(server, payload):
    host, port = server.url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        try:
            connection.sendall(payload)
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65536):
                received += more
        except (ConnectionResetError, BrokenPipeError):
            pass
        except OSError as error:
            if error.errno != 107:  # not connected any more
                raise
    return received


@pytest.fixture
def upstream(server):
    log = ByteLog()
    server.fakes.append(log)
    made = server.post("/tollgate/v1/upstreams", {"name": "log", "base_url": log.base_url, "models": ["fake"]})
    assert made.status == 200, made
    server.post("/tollgate/v1/models/fake", {"input_price": "1", "output_price": "1", "max_output_tokens": 10, "context_tokens": 1000})
    return log


def check(server, upstream, payload):
    """The upstream saw nothing, or the one request outside; returns whether it saw it."""
    received = send(server, payload)
    seen, requests = upstream.take()
    assert b"SMUGGLED" not in seen, (payload, seen)
    assert len(requests) <= 1, (payload, seen)
    for head, body in requests:
        assert seen == head + b"\r\n\r\n" + body, (payload, seen)
        assert json.loads(body) == json.loads(OUTER), (payload, body)
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:"), head
        names = [line.split(b":")[0] for line in head.split(b"\r\n")[1:]]
        assert len(names) == len(set(names)) and set(names) <= {b"host", b"content-length", b"content-type", b"accept", b"accept-encoding", b"user-agent", b"x-request-id"}, head
    if not requests:
        assert seen == b"", (payload, seen)
        first = re.match(rb"HTTP/1\.1 (\d{3}) ", received)
        assert first is None or int(first[1]) >= 400, (payload, received)
    return bool(requests)


def test_the_pack_is_read_in_one_way_or_not_at_all(server, upstream):
    key = server.key(server.default_project)["value"].encode()
    payloads = list(pack(key))
    assert len(payloads) >= 400, len(payloads)
    passed = sum(check(server, upstream, payload) for payload in payloads)
    print(f"\n{len(payloads)} payloads: {passed} were one request, {len(payloads) - passed} were none")
    assert 20 < passed < len(payloads) / 2, "some of them are harmless, and most are not"
    plain = head(key, b"Content-Length: %d\r\nConnection: close\r\n" % len(OUTER)) + OUTER
    assert check(server, upstream, plain), "and all is well afterwards"


# The published holes of other proxies that touch this path (reproduced by their bytes).

def test_cve_2025_4366_pingora_a_body_that_a_cache_hit_left_unread_is_no_request(server, upstream):
    """What was not read of a body must not be read as the next request."""
    key = server.key(server.default_project)["value"].encode()
    for path, method in [(b"/v1/models", b"GET"), (b"/healthz", b"GET"), (b"/v1/models/fake", b"GET"), (b"/nothing", b"POST")]:
        line = method + b" " + path + b" HTTP/1.1"
        for framed in [b"Content-Length: %d\r\n" % len(hidden()), b"Transfer-Encoding: chunked\r\n"]:
            body = hidden() if framed.startswith(b"Content") else chunked(hidden())
            received = send(server, head(key, framed, line=line) + body)
            assert len(re.findall(rb"HTTP/1\.1 \d{3} ", received)) == 1 and upstream.take() == (b"", []), (line, received)


def test_cve_2026_2833_pingora_what_follows_an_upgrade_is_no_tunnel(server, upstream):
    key = server.key(server.default_project)["value"].encode()
    for upgrade in [b"websocket", b"h2c", b"TLS/1.2", b"foo"]:
        fields = b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n"
        received = send(server, head(key, fields, line=b"GET /v1/models HTTP/1.1") + hidden())
        assert b" 101 " not in received and b"SMUGGLED" not in upstream.take()[0]


def test_cve_2026_2835_pingora_http_1_0_has_no_chunks_and_a_length_is_one(server, upstream):
    key = server.key(server.default_project)["value"].encode()
    for fields in [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"Transfer-Encoding: identity, chunked\r\nConnection: keep-alive"]:
        assert not check(server, upstream, head(key, fields + b"\r\n", line=b"POST /v1/chat/completions HTTP/1.0") + chunked(OUTER) + hidden())


def test_cve_2026_2836_pingora_nothing_is_cached_by_a_host_or_a_path(server, upstream):
    """There is no cache: two hosts, two keys and two projects never share an answer."""
    key = server.key(server.default_project)["value"].encode()
    for host in [b"Host: a\r\n", b"Host: b\r\n"]:
        assert check(server, upstream, head(key, b"Content-Length: %d\r\nConnection: close\r\n" % len(OUTER), host=host) + OUTER)


def test_cve_2026_49468_litellm_a_host_moves_no_route(server, upstream):
    """Authorization follows the path that is dispatched, and never one that was put together with Host."""
    key = server.key(server.default_project)["value"].encode()
    for host in [b"x/v1/models?", b"x/v1/models#", b"x?/healthz", b"x#/healthz", b"/healthz?", b"x/healthz#"]:
        line = b"GET /v1/organization/projects HTTP/1.1"
        received = send(server, line + b"\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
        assert re.match(rb"HTTP/1\.1 (400|401) ", received), received
        received = send(server, line + b"\r\nHost: " + host + b"\r\nAuthorization: Bearer " + key + b"\r\nConnection: close\r\n\r\n")
        assert re.match(rb"HTTP/1\.1 (400|401|403) ", received), received
