"""Traces, as a collector of OpenTelemetry gets them."""

import http.server
import json
import threading

import pytest

from harness import Server, request, run, until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    def __init__(self):
        collector = self
        self.posts, self.status = [], 200

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.posts.append((self.path, dict(self.headers), json.loads(body)))
                self.send_response(collector.status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self):
        return [span for _, _, post in self.posts for resource in post["resourceSpans"] for scope in resource["scopeSpans"] for span in scope["spans"]]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def attributes(span):
    return {attribute["key"]: next(iter(attribute["value"].values())) for attribute in span["attributes"]}


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture
def traced(tmp_path, collector, simulator):
    server = Server(tmp_path, "--otlp-endpoint", collector.url, env={"TOLLGATE_OTLP_HEADERS": "api-key=collector-secret-1,x-team=a"})
    server.remember("collector-secret-1")
    server.upstream(simulator)
    yield server
    assert server.process.stop() == 0
    assert "collector-secret-1" not in server.log.read_text()


def test_a_request_is_two_spans_of_its_caller_s_trace(traced, collector):
    key = traced.key(traced.default_project)
    prompt = "a-prompt-that-no-collector-gets"
    answer = traced.chat(key["value"], headers={"traceparent": PARENT}, messages=[{"role": "user", "content": prompt}], simulate={"output_tokens": 7})
    server, client = until(lambda: collector.spans)
    assert {server["traceId"], client["traceId"]} == {PARENT.split("-")[1]}
    assert server["parentSpanId"] == PARENT.split("-")[2] and client["parentSpanId"] == server["spanId"]
    assert (server["name"], server["kind"], client["name"], client["kind"]) == ("POST /v1/chat/completions", 2, "chat gpt-4o-mini", 3)
    own, way = attributes(server), attributes(client)
    assert own["tollgate.request_id"] == answer.headers["x-request-id"] and own["http.response.status_code"] == "200"
    assert (own["tollgate.project_id"], own["tollgate.api_key_id"]) == (traced.default_project, key["id"])
    assert (way["gen_ai.request.model"], way["gen_ai.operation.name"], way["gen_ai.usage.output_tokens"], way["tollgate.upstream"]) == ("gpt-4o-mini", "chat", "7", "simulator")
    assert int(server["startTimeUnixNano"]) <= int(client["startTimeUnixNano"]) <= int(client["endTimeUnixNano"]) <= int(server["endTimeUnixNano"])
    path, headers, post = collector.posts[0]
    assert path == "/v1/traces" and (headers["api-key"], headers["x-team"]) == ("collector-secret-1", "a")
    assert prompt not in json.dumps(post) and key["value"] not in json.dumps(post)
    assert attributes(post["resourceSpans"][0]["resource"])["service.name"] == "tollgate"


def test_the_upstream_is_told_of_the_second_span(traced, collector):
    seen = []
    traced.fake(lambda body, handler: seen.append(handler.headers["traceparent"]) or (200, {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}))
    key = traced.key(traced.default_project)["value"]
    for given in [PARENT, None, "nonsense"]:
        assert traced.chat(key, model="fake", headers={"traceparent": given} if given else {}).status == 200
    until(lambda: len(collector.spans) == 6)
    clients = [span for span in collector.spans if span["kind"] == 3]
    assert seen == [f"00-{span['traceId']}-{span['spanId']}-01" for span in clients]
    assert "parentSpanId" not in next(span for span in collector.spans if span["kind"] == 2 and span["traceId"] == clients[1]["traceId"])


def test_what_is_not_sampled_is_not_sent_and_errors_are_told(traced, collector):
    key = traced.key(traced.default_project)["value"]
    traced.chat(key, headers={"traceparent": PARENT[:-2] + "00"})
    traced.chat(key, simulate={"fault": "drop"})
    traced.chat("sk-garbage")
    until(lambda: len(collector.spans) >= 2)
    # Two workers tell of them, and either may be the first.
    refused, failed = sorted(collector.spans, key=lambda span: attributes(span)["http.response.status_code"])
    assert failed["status"]["code"] == 2 and attributes(failed)["http.response.status_code"] == "502"
    assert refused["status"]["code"] == 0 and attributes(refused)["http.response.status_code"] == "401" and "tollgate.api_key_id" not in attributes(refused)
    assert request(traced.url, "GET", "/healthz").status == 200 and traced.get("/v1/organization/projects").status == 200
    traced.chat(key)
    until(lambda: len(collector.spans) == 4)


def test_requests_do_not_depend_on_the_collector(traced, collector):
    key = traced.key(traced.default_project)["value"]
    collector.status = 500
    assert traced.chat(key).status == 200
    until(lambda: collector.posts)
    collector.stop()
    assert all(traced.chat(key).status == 200 for _ in range(5))
    until(lambda: "could not be sent" in traced.log.read_text())


def test_a_collector_that_cannot_be_is_refused(tmp_path):
    for flags, env in [(["--otlp-endpoint", "127.0.0.1:4318"], {}), (["--otlp-endpoint", "http://127.0.0.1:4318"], {"TOLLGATE_OTLP_HEADERS": "secret-without-a-name"})]:
        done = run("serve", "--data", tmp_path / "data", "--listen", "127.0.0.1:0", "--bootstrap-file", tmp_path / "b.json", *flags, env=env)
        assert done.returncode == 1 and done.stderr.startswith("error: ") and "secret-without" not in done.stderr
