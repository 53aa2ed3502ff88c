"""What a node tells of itself: figures, and a line for every request."""

import json
import re
import socket
import threading

import pytest

from harness import ROOT, Fake, Server, request, until

LIMIT = {"threshold_amount": 5_000, "currency": "USD", "interval": "month"}


def read(text):
    """The figures of a page by name and labels; every line must be one that Prometheus reads."""
    figures, kinds = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            found = re.fullmatch(r'([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)+\})? (-?[0-9.]+)', line)
            assert found, line
            labels = tuple(sorted(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', found[2] or "")))
            assert (found[1], labels) not in figures, f"twice: {line}"
            figures[found[1], labels] = float(found[3])
            base = re.sub(r"_(bucket|sum|count)$", "", found[1])
            assert kinds.get(found[1]) or kinds.get(base) == "histogram", line
    return figures


@pytest.fixture
def figures(gateway):
    def get():
        answer = gateway.get("/metrics")
        assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain"), answer
        return read(answer.body.decode())
    return get


def test_requests_tokens_and_money_are_counted(gateway, figures, simulator):
    project = gateway.default_project
    key = gateway.key(project)["value"]
    gateway.post(f"/v1/organization/projects/{project}/spend_limit", LIMIT)
    for _ in range(3):
        assert gateway.chat(key, simulate={"output_tokens": 10}).status == 200
    stream = request(gateway.url, "POST", "/v1/chat/completions", key=key, body={"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "Hi"}]})
    assert stream.status == 200
    assert gateway.chat("sk-proj-garbage").status == 401
    assert gateway.chat(key, model="nobody").status == 404
    rows = gateway.requests()
    cost, output = sum(float(row["cost"]) for row in rows), sum(row["output_tokens"] for row in rows)
    seen = figures()
    by = lambda name, **labels: seen[name, tuple(sorted(labels.items()))]
    route = "/v1/chat/completions"
    assert by("tollgate_http_requests_total", route=route, method="POST", code="200") == 4
    assert by("tollgate_http_requests_total", route=route, method="POST", code="401") == 1
    assert by("tollgate_http_request_duration_seconds_count", route=route) == 6
    assert by("tollgate_gateway_overhead_seconds_count") == 4 and by("tollgate_time_to_first_chunk_seconds_count") == 1
    assert by("tollgate_upstream_request_duration_seconds_count", upstream="simulator", model="gpt-4o-mini", code="200") == 4
    assert by("tollgate_tokens_total", project=project, model="gpt-4o-mini", type="output") == output
    assert by("tollgate_cost_usd_total", project=project, model="gpt-4o-mini") == pytest.approx(cost)
    assert by("tollgate_budget_limit_usd", project=project, interval="month", mode="enforce") == 50
    assert by("tollgate_budget_spent_usd", project=project, interval="month", mode="enforce") == pytest.approx(cost)
    assert by("tollgate_budget_reserved_usd", project=project, interval="month", mode="enforce") == 0
    assert by("tollgate_requests_refused_total", reason="model_not_found") == 1
    assert by("tollgate_auth_failures_total", reason="invalid_api_key") == 1
    assert by("tollgate_keys", status="active") == 2 and by("tollgate_requests_in_flight") == 0
    assert by("tollgate_ledger_lag_seconds") >= 0 and ("tollgate_key_expiry_days_min", ()) not in seen
    gateway.key(project, expires_in_seconds=3 * 86_400 + 3_600)
    assert figures()["tollgate_key_expiry_days_min", ()] == 3
    buckets = [value for (name, labels), value in figures().items() if name == "tollgate_http_request_duration_seconds_bucket" and ("route", route) in labels]
    assert len(buckets) == 23 and max(buckets) == 6


def test_what_nobody_knows_makes_no_line_of_its_own(gateway, figures):
    for number in range(20):
        request(gateway.url, "GET", f"/v1/nothing{number}")
        request(gateway.url, f"METHOD{number}", "/v1/models")
        request(gateway.url, "GET", f"/v1/models/m{number}", key="x")
        request(gateway.url, "GET", f"/v1/organization/projects/p{number}", key="x")
    routes = {(dict(labels)["route"], dict(labels)["method"]) for name, labels in figures() if name == "tollgate_http_requests_total"}
    assert len(routes) < 15, routes


def test_metrics_are_for_operators_or_on_an_address_of_their_own(gateway, tmp_path):
    assert request(gateway.url, "GET", "/metrics").status == 401
    key = gateway.key(gateway.default_project)["value"]
    assert request(gateway.url, "GET", "/metrics", key=key).status == 403
    reader = gateway.post("/v1/organization/admin_api_keys", {"name": "x", "scopes": ["api.management.read"]}).json["value"]
    gateway.remember(reader)
    assert request(gateway.url, "GET", "/metrics", key=reader).status == 403
    (tmp_path / "open").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    server = Server(tmp_path / "open", "--metrics-listen", address)
    try:
        answer = request(f"http://{address}", "GET", "/metrics")
        assert answer.status == 200 and read(answer.body.decode())["tollgate_build_info", (("version", "0.1.0"),)] == 1
        assert request(f"http://{address}", "GET", "/v1/models").status == 404
    finally:
        assert server.process.stop() == 0


def test_the_access_log_has_a_line_for_each_request_and_nothing_else_of_it(tmp_path, simulator):
    log = tmp_path / "access.log"
    server = Server(tmp_path, "--access-log", log)
    try:
        upstream = server.upstream(simulator)
        key = server.key(server.default_project)
        prompt = "a-prompt-that-nobody-logs"
        ok = server.chat(key["value"], messages=[{"role": "user", "content": prompt}])
        assert ok.status == 200
        request(server.url, "GET", f"/v1/models/{key['value']}?key={key['value']}", key="sk-proj-wrong-secret-0123456789")
        request(server.url, "GET", f"/{key['value']}")
        lines = until(lambda: [line for line in map(json.loads, log.read_text().splitlines())] if log.read_text().count("\n") >= 5 else None)
        [chat] = [line for line in lines if line["route"] == "/v1/chat/completions"]
        assert chat["request_id"] == ok.headers["x-request-id"] and chat["status"] == 200 and chat["complete"] is True
        assert (chat["method"], chat["client"], chat["model"], chat["upstream"]) == ("POST", "127.0.0.1", "gpt-4o-mini", upstream["name"])
        assert (chat["organization_id"], chat["project_id"], chat["api_key_id"]) == (server.organization, server.default_project, key["id"])
        assert chat["bytes_sent"] > len(ok.body) and chat["milliseconds"] >= 0
        # Each connection writes its own line when its answer is out: one for each request, in no order among them.
        made = ["/tollgate/v1/upstreams", "/v1/organization/projects/{project_id}/api_keys"]
        assert sorted(line["route"] for line in lines) == sorted([*made, "/v1/chat/completions", "/v1/models/{model}", "other"])
        text = log.read_text()
        assert prompt not in text and "sk-" not in text and "a real" not in text
        # A log that is moved away begins anew.
        log.rename(tmp_path / "access.log.1")
        assert server.chat(key["value"]).status == 200
        until(lambda: log.exists() and log.read_text().count("\n") >= 1)
    finally:
        assert server.process.stop() == 0
    assert run_fails(tmp_path)


def run_fails(tmp_path):
    from harness import run
    done = run("serve", "--data", tmp_path / "other", "--listen", "127.0.0.1:0", "--bootstrap-file", tmp_path / "b.json", "--access-log", tmp_path / "no" / "such")
    return done.returncode == 1 and "access log" in done.stderr


def test_more_than_it_takes_is_refused_and_operators_still_get_through(tmp_path):
    server = Server(tmp_path, "--in-flight-max", "2")
    release = threading.Event()
    try:
        server.fake(lambda body, handler: release.wait(60) and (200, Fake.completion()))
        key = server.key(server.default_project)["value"]
        threads = [threading.Thread(target=server.chat, args=(key,), kwargs={"model": "fake"}) for _ in range(2)]
        [thread.start() for thread in threads]
        until(lambda: len(server.requests()) == 2)
        refused = server.chat(key, model="fake")
        assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
        assert server.chat("sk-garbage").status == 401, "a key that opens nothing is told so first"
        assert server.get("/v1/organization/projects").status == 200 and request(server.url, "GET", "/readyz").status == 200
        assert server.get("/v1/models", key=key).status == 200
        release.set()
        [thread.join() for thread in threads]
        assert server.chat(key, model="fake").status == 200
    finally:
        release.set()
        server.fakes[0].stop()
        assert server.process.stop() == 0


def test_a_body_without_a_length_takes_the_room_of_the_longest_only_while_it_comes(server):
    """Of 512 MiB for all bodies, 10 for each that does not say how long it is: sixty at once are more."""
    release = threading.Event()
    fake = server.fake(lambda body, handler: release.wait(60) and (200, Fake.completion()))
    key = server.key(server.default_project)["value"]
    body = json.dumps({"model": "fake", "messages": [{"role": "user", "content": "x"}]}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    wire = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    connections = []
    for number in range(60):
        connections.append(socket.create_connection((host, int(port)), timeout=60))
        connections[-1].sendall(wire)
        until(lambda: len(fake.bodies) == number + 1)
    release.set()
    for connection in connections:
        assert connection.recv(64).startswith(b"HTTP/1.1 200 ")
        connection.close()
    until(lambda: all(row["state"] == "settled" for row in server.requests()))


def test_a_long_lived_key_does_not_work_from_a_browser_unless_its_project_says_so(gateway):
    project = gateway.default_project
    long, short = gateway.key(project)["value"], gateway.key(project, expires_in_seconds=86_400)["value"]
    browser = {"Origin": "https://app.example"}
    refused = gateway.chat(long, headers=browser)
    assert (refused.status, refused.error["code"]) == (403, "browser_request_refused")
    assert gateway.chat(long).status == 200 and gateway.chat(short, headers=browser).status == 200
    assert request(gateway.url, "GET", "/v1/models", key=long, headers={"Origin": "null"}).status == 403
    path = f"/tollgate/v1/projects/{project}/access_policy"
    assert gateway.get(path).json["browser_requests"] == "refuse"
    assert gateway.post(path, {"browser_requests": "allow"}).json["browser_requests"] == "allow"
    answer = gateway.chat(long, headers=browser)
    assert answer.status == 200 and not [name for name in answer.headers if name.startswith("access-control")]
    assert gateway.post(path, {"browser_requests": "sometimes"}).error["param"] == "browser_requests"
    assert gateway.post(path, {"browser_requests": None}).json["browser_requests"] == "refuse"
    assert gateway.chat(long, headers=browser).status == 403
    assert gateway.get("/tollgate/v1/projects/proj_x/access_policy").status == 404
    preflight = request(gateway.url, "OPTIONS", "/v1/chat/completions", headers={**browser, "Access-Control-Request-Method": "POST"})
    assert preflight.status == 405 and not [name for name in preflight.headers if name.startswith("access-control")]


def test_the_board_shows_figures_that_there_are(gateway, figures):
    """Every name and label of contrib/grafana.json is on the page of a node that has served something."""
    project = gateway.default_project
    key = gateway.key(project, expires_in_seconds=86_400 * 3)["value"]
    gateway.post(f"/v1/organization/projects/{project}/spend_limit", LIMIT)
    assert gateway.chat(key).status == 200 and gateway.chat(key, model="nobody").status == 404 and gateway.chat("sk-proj-garbage").status == 401
    assert request(gateway.url, "POST", "/v1/chat/completions", key=key, body={"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}).status == 200
    labels = {}
    for name, pairs in figures():
        labels.setdefault(name, set()).update(label for label, _ in pairs)
    board = json.loads((ROOT / "contrib/grafana.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) > 15 and len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    used = set()
    for panel in panels:
        for target in panel["targets"]:
            names = re.findall(r"tollgate_[a-z_]+", target["expr"])
            assert names and all(name in labels for name in names), (target, sorted(labels))
            used |= {re.sub(r"_(bucket|count)$", "", name) for name in names}
            grouped = {label for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            there = set().union(*(labels[name] for name in names))
            optional = {"organization", "project"} if any("budget" in name for name in names) else set()
            assert grouped | shown <= there | optional, target
    # And nothing that there is is missing, but for the version.
    page = {re.sub(r"_(bucket|sum|count)$", "", name) if name.endswith(("_bucket", "_sum")) or re.sub("_count$", "_sum", name) in labels else name for name in labels}
    assert page - used == {"tollgate_build_info"}, page ^ used
