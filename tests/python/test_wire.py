"""What comes over a socket: malformed heads, two lengths, floods, slow peers, pipelines, old versions."""

import json
import re
import socket
import time

import pytest

from harness import request


def talk(server, *pieces, timeout=30, pause=0):
    """Sends bytes as they are and reads until the server closes or is silent."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        received = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
                if pause:
                    time.sleep(pause)
            while chunk := connection.recv(65536):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
        except TimeoutError:
            received += b"<still open>"
        return received


def statuses(received):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


@pytest.mark.parametrize("fields", [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Content-Length: 5\r\nContent-Length: 5",
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Content-Length: 5, 5",
    b"Content-Length: +5",
    b"Content-Length: -1",
    b"Content-Length: 5 5",
    b"Content-Length: 18446744073709551616",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding:chunked\r\nTransfer-Encoding: x",
    b"Transfer-Encoding : chunked",
    b"X: y\r\n folded: z",
    b"X: y\nBare: z",
    b"X\r: y",
    b"Host: other",
    b"\x00: y",
    b": y",
    b"X y",
])
def test_a_head_that_two_readers_might_read_differently_is_refused_and_the_connection_closed(server, fields):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n\r\n"
    smuggled = b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    received = talk(server, head + smuggled)
    assert statuses(received) == [400], received
    assert b"connection: close" in received and b'"invalid_request_error"' in received


@pytest.mark.parametrize("line", [
    b"GET / HTTP/1.1 extra", b"GET /", b"GET  / HTTP/1.1", b"/ HTTP/1.1", b"GET / HTTP/1.2", b"GET / HTTP/3", b"GET / http/1.1", b"G\xffT / HTTP/1.1",
    b"GET http://other/ HTTP/1.1", b"GET * HTTP/1.1", b"CONNECT x:443 HTTP/1.1", b"GET /a#b HTTP/1.1", b"\x16\x03\x01\x02\x00\x01\x00",
])
def test_a_request_line_that_is_none_is_refused(server, line):
    received = talk(server, line + b"\r\nHost: x\r\n\r\n")
    assert statuses(received) in ([400], []), received


def test_chunks_that_lie_are_refused(server):
    head = b"POST /v1/organization/projects HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + server.admin_key.encode()
    head += b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    for body in [b"zz\r\n", b"4\r\nWikipedia\r\n0\r\n\r\n", b"4\nWiki\r\n0\r\n\r\n", b"-4\r\n", b"0x4\r\nWiki\r\n0\r\n\r\n", b"\r\n"]:
        received = talk(server, head + body)
        assert statuses(received) == [400], (body, received)


def test_a_chunked_body_is_read(server):
    body = json.dumps({"name": "chunked"}).encode()
    head = b"POST /v1/organization/projects HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer " + server.admin_key.encode()
    chunks = b"".join(b"1;ext=1\r\n" + bytes([byte]) + b"\r\n" for byte in body)
    received = talk(server, head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n")
    assert statuses(received) == [200] and b'"chunked"' in received


def test_floods_of_headers_are_refused(server):
    many = b"".join(b"X-%d: y\r\n" % n for n in range(200))
    received = talk(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n")
    assert statuses(received) == [400] and b"header_fields_too_many" in received
    long = b"X: " + b"y" * 100_000 + b"\r\n"
    received = talk(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + long + b"\r\n")
    assert statuses(received) in ([400], []), "refused, or cut while it was still being sent"
    large = b"X: " + b"y" * 60_000 + b"\r\nConnection: close\r\n"
    assert statuses(talk(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + large + b"\r\n")) == [200], "OpenAI accepts 64 KiB"


def test_a_head_that_drips_is_cut_off(server):
    started = time.monotonic()
    received = talk(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
    assert statuses(received) == [408] and 8 < time.monotonic() - started < 25


def test_a_body_that_drips_is_cut_off(gateway):
    key = gateway.key(gateway.default_project)["value"].encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nAuthorization: Bearer " + key
    received = talk(gateway, head + b"\r\n\r\n{", timeout=60)
    assert statuses(received) == [408], received


def test_requests_in_a_row_and_pipelined_share_a_connection(server):
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert statuses(talk(server, one * 5 + last)) == [200] * 6
    # A refused request with a small body leaves the connection usable.
    refused = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"
    assert statuses(talk(server, refused + last)) == [401, 200]
    assert statuses(talk(server, b"GET http://x/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")) == [200]


def test_old_clients_and_expectations(server):
    received = talk(server, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert statuses(received) == [200]
    received = talk(server, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert statuses(received) == [200] and received.endswith(b"\r\n\r\n")
    body = b'{"name":"patient"}'
    head = b"POST /v1/organization/projects HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n"
    head += b"Authorization: Bearer " + server.admin_key.encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    received = talk(server, head, body, pause=0.2)
    assert statuses(received) == [100, 200]
    wrong = talk(server, head.replace(server.admin_key.encode(), b"wrong"), timeout=5)
    assert statuses(wrong) == [401], "told before it sends its body"


def test_a_host_header_moves_nothing(server):
    for host in ["evil?", "evil#", "127.0.0.1/v1/models", "[::1]", "a" * 1000]:
        answer = request(server.url, "GET", "/v1/organization/projects", headers={"Host": host})
        assert answer.status in (401, 400), (host, answer)
        answer = request(server.url, "GET", "/v1/organization/projects", key=server.admin_key, headers={"Host": host})
        assert answer.status == 200, (host, answer)


def test_odd_spellings_of_a_path_open_nothing(server):
    for path in ["//v1/organization/projects", "/v1//organization/projects", "/v1/../v1/organization/projects", "/V1/organization/projects",
                 "/v1/organization/projects/", "/v1/organization/projects;x", "/v1/organization%2Fprojects", "/%761/organization/projects",
                 "/v1/organization/projects/%2e%2e/projects", "/tollgate/v1/../../healthz"]:
        assert request(server.url, "GET", path).status in (401, 404), path
        assert request(server.url, "GET", path, key=server.admin_key).status == 404, path


def test_a_list_in_a_query_has_a_limit(server):
    for path, name in [("/v1/organization/costs", "project_ids"), ("/v1/organization/usage/completions", "models"),
                       ("/v1/organization/audit_logs", "actor_ids")]:
        answer = server.get(path, start_time=0, **{name: ["x"] * 257})
        assert answer.status == 400 and answer.error["param"].startswith(name), answer
