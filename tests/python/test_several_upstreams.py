"""A model at several upstreams: who is asked, who is asked instead, and what is never asked twice."""

import socket
import ssl
import subprocess
import threading

import pytest

from harness import Fake, until

UPSTREAMS = "/tollgate/v1/upstreams"
LIMIT = {"threshold_amount": 1_000_000, "currency": "USD", "interval": "month"}


@pytest.fixture
def key(server):
    return server.key(server.default_project)["value"]


def fine(body, handler):
    return 200, Fake.completion()


def refuse(status, **headers):
    def answer(body, handler):
        handler.send_json(status, {"error": {"message": "no", "code": "rate_limit_exceeded"}}, **headers)
    return answer


def settings(server, fake, **more):
    made = server.post(f"{UPSTREAMS}/{fake.id}", more)
    assert made.status == 200, made
    return made.json


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def states(server):
    return [(row["state"], row["upstream"]) for row in server.requests()]


def test_requests_are_spread_by_weight(server, key):
    one, other = server.fake(fine), server.fake(fine)
    settings(server, one, weight=3)
    for _ in range(200):
        assert server.chat(key, model="fake").status == 200
    assert len(one.bodies) + len(other.bodies) == 200
    assert 110 <= len(one.bodies) <= 185, "three quarters, give or take five deviations"


def test_the_first_priority_is_asked_while_it_can_be(server, key):
    def closing(body, handler):
        handler.send_json(200, Fake.completion(), Connection="close")

    backup, first = server.fake(fine), server.fake(closing)
    settings(server, backup, priority=1)
    for _ in range(10):
        assert server.chat(key, model="fake").status == 200
    assert (len(first.bodies), len(backup.bodies)) == (10, 0)
    first.stop()
    answer = server.chat(key, model="fake")
    assert answer.status == 200 and answer.headers["x-tollgate-attempts"] == "2"
    assert len(backup.bodies) == 1


def test_what_cannot_be_reached_costs_nothing_and_another_is_asked(server, key):
    server.fake(fine)
    server.post("/v1/organization/spend_limit", LIMIT)
    dead = {"name": "dead", "base_url": f"http://127.0.0.1:{closed_port()}/v1", "models": ["fake"], "weight": 1000}
    assert server.post(UPSTREAMS, dead).status == 200
    for _ in range(10):
        answer = server.chat(key, model="fake")
        assert answer.status == 200, answer
    rows = server.requests()
    assert [row["state"] for row in rows].count("settled") == 10
    voided = [row for row in rows if row["state"] == "voided"]
    assert len(voided) == 3, "after three failures it is left alone"
    for row in voided:
        assert row["cost"] == "0.000000000" and row["attempt_of"] is None
    instead = [row for row in rows if row["attempt_of"]]
    assert sorted(row["attempt_of"] for row in instead) == sorted(row["id"] for row in voided)


def test_an_upstream_that_is_down_and_has_no_other_is_refused_at_once(server, key):
    body = {"name": "dead", "base_url": f"http://127.0.0.1:{closed_port()}/v1", "models": ["fake"]}
    made = server.post(UPSTREAMS, body).json
    for _ in range(3):
        assert server.chat(key, model="fake").error["code"] == "upstream_unreachable"
    refused = server.chat(key, model="fake")
    assert b'tollgate_upstream_up{upstream="dead"} 0' in server.get("/metrics").body
    assert (refused.status, refused.error["code"]) == (503, "upstream_unavailable"), refused
    assert 1 <= int(refused.headers["retry-after"]) <= 2
    assert len(server.requests()) == 3, "nothing was tried, so nothing is on the books"
    fake = Fake(fine)
    server.fakes.append(fake)
    assert server.post(f"{UPSTREAMS}/{made['id']}", {"base_url": fake.base_url}).status == 200
    # After its rest the first request tries it.
    assert until(lambda: server.chat(key, model="fake").status == 200)


@pytest.mark.parametrize("status", [401, 402, 403, 429, 529])
def test_a_refusal_is_taken_elsewhere_and_costs_nothing(server, key, status):
    first, backup = server.fake(refuse(status)), server.fake(fine)
    settings(server, backup, priority=1)
    server.post("/v1/organization/spend_limit", LIMIT)
    answer = server.chat(key, model="fake")
    assert answer.status == 200 and answer.headers["x-tollgate-attempts"] == "2"
    assert states(server) == [("settled", backup.id), ("voided", first.id)]
    # While it rests it is not asked again. Whether somebody may use a model says nothing of the others.
    again = server.chat(key, model="fake").headers.get("x-tollgate-attempts")
    assert again == ("2" if status == 403 else None) and len(backup.bodies) == 2
    assert len(first.bodies) == (2 if status == 403 else 1)


def test_a_limit_of_one_model_is_no_rest_for_the_others(server, key):
    first, backup = server.fake(lambda body, handler: refuse(429, **{"Retry-After": "60"})(body, handler) if body["model"] == "fake" else fine(body, handler)), server.fake(fine)
    for fake, priority in [(first, 0), (backup, 1)]:
        settings(server, fake, priority=priority, models=["fake", "other"])
    server.post("/tollgate/v1/models/other", {"input_price": "1", "output_price": "1", "max_output_tokens": 10, "context_tokens": 1000})
    assert server.chat(key, model="fake").headers["x-tollgate-attempts"] == "2"
    assert server.chat(key, model="other").status == 200 and first.bodies[-1]["model"] == "other"
    assert server.chat(key, model="fake").status == 200 and [body["model"] for body in backup.bodies] == ["fake", "fake"]


def test_who_refuses_is_told_of_if_all_refuse(server, key):
    server.fake(refuse(429, **{"Retry-After": "7"}))
    server.fake(refuse(429, **{"Retry-After": "7"}))
    answer = server.chat(key, model="fake")
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, "upstream_rate_limited", "7")
    assert [row["state"] for row in server.requests()] == ["voided", "voided"]


def test_one_that_rests_is_asked_if_there_is_no_other(server, key):
    answers = [refuse(429, **{"Retry-After": "60"}), fine]
    server.fake(lambda body, handler: answers.pop(0)(body, handler))
    assert server.chat(key, model="fake").status == 429
    assert server.chat(key, model="fake").status == 200, "whether it takes more is for it to say"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_what_may_have_run_is_not_run_again(server, key, status):
    first, backup = server.fake(refuse(status)), server.fake(fine)
    settings(server, backup, priority=1)
    answer = server.chat(key, model="fake")
    assert answer.status >= 500 and (len(first.bodies), len(backup.bodies)) == (1, 0)
    for _ in range(4):
        server.chat(key, model="fake")
    assert server.chat(key, model="fake").status == 200, "after five failures in a row it rests"


def test_a_bad_request_of_one_is_nobody_else_s_trouble(server, key):
    only = server.fake(lambda body, handler: (500, {"error": {}}) if body["messages"][0]["content"] == "poison" else fine(body, handler))
    for _ in range(8):
        assert server.chat(key, model="fake", messages=[{"role": "user", "content": "poison"}]).status == 502
    assert server.chat(key, model="fake").status == 200 and len(only.bodies) == 9


def test_no_more_than_its_places_are_under_way(server, key):
    lock, under_way, most, release = threading.Lock(), [0], [0], threading.Event()

    def answer(body, handler):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        release.wait(60)
        with lock:
            under_way[0] -= 1
        return fine(body, handler)

    fake = server.fake(answer)
    settings(server, fake, concurrency_max=2)
    results = []
    threads = [threading.Thread(target=lambda: results.append(server.chat(key, model="fake").status)) for _ in range(6)]
    [thread.start() for thread in threads]
    until(lambda: under_way[0] == 2)
    release.set()
    [thread.join() for thread in threads]
    assert results == [200] * 6 and most[0] == 2
    # With the places of one taken, another is asked.
    release.clear()
    other = server.fake(fine)
    settings(server, other, priority=1)
    threads = [threading.Thread(target=lambda: server.chat(key, model="fake")) for _ in range(2)]
    [thread.start() for thread in threads]
    until(lambda: under_way[0] == 2)
    assert server.chat(key, model="fake").status == 200 and len(other.bodies) == 1
    release.set()
    [thread.join() for thread in threads]


def test_whoever_waits_for_money_takes_no_place_from_others(server, key):
    """Of two places one is used, and somebody who has no money left waits: a third has the second place."""
    release = threading.Event()
    fake = server.fake(lambda body, handler: release.wait(60) and fine(body, handler), max_output_tokens=1000)
    settings(server, fake, concurrency_max=2)
    poor = server.project("Poor")
    server.post(f"/v1/organization/projects/{poor}/spend_limit", {**LIMIT, "threshold_amount": 2})
    server.post(f"/tollgate/v1/projects/{poor}/spend_policy", {"wait_ms": 30_000})
    poor_key = server.key(poor)["value"]
    results = []
    ask = lambda key, **more: threading.Thread(target=lambda: results.append(server.chat(key, model="fake", **more).status))
    first = ask(poor_key, max_tokens=1000)
    first.start()
    until(lambda: len(fake.bodies) == 1)
    waiting = [ask(poor_key, max_tokens=1200) for _ in range(5)]
    [thread.start() for thread in waiting]
    rich = ask(key)
    rich.start()
    until(lambda: len(fake.bodies) == 2)
    release.set()
    [thread.join() for thread in [first, rich, *waiting]]
    assert results.count(200) >= 2


def test_what_broke_late_on_a_kept_connection_is_not_run_again(server, key):
    """A connection that was dead as it was written to breaks at once; one that breaks later may have been working."""
    bodies = []

    def answer(body, handler):
        bodies.append(body)
        if len(bodies) == 2:
            threading.Event().wait(1.5)
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return None
        return fine(body, handler)

    server.fake(answer)
    assert server.chat(key, model="fake").status == 200
    broken = server.chat(key, model="fake")
    assert (broken.status, broken.error["code"]) == (502, "upstream_failed") and len(bodies) == 2


def test_a_model_is_called_what_its_upstream_calls_it(server, key):
    fake = server.fake(fine)
    settings(server, fake, model_mapping={"fake": "my deployment \"x\""})
    assert server.chat(key, model="fake").status == 200
    azure = server.call("POST", "/openai/deployments/fake/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, key=key)
    assert azure.status == 200
    assert [body["model"] for body in fake.bodies] == ["my deployment \"x\""] * 2
    assert settings(server, fake, model_mapping={"alias": "theirs"})["models"] == ["alias", "fake"], "what is mapped is served"
    assert {row["model"] for row in server.requests()} == {"fake"}


def test_extra_headers_are_sent_and_never_shown(server, key):
    seen = []
    fake = server.fake(lambda body, handler: seen.append(dict(handler.headers)) or fine(body, handler))
    secret = server.remember("gateway-secret-0123456789")
    made = settings(server, fake, headers={"X-Gateway-Auth": secret, "OpenAI-Beta": "ours"})
    assert made["header_names"] == ["openai-beta", "x-gateway-auth"] and secret not in str(made)
    answer = server.chat(key, model="fake", headers={"OpenAI-Beta": "theirs"})
    assert answer.status == 200 and seen[0]["x-gateway-auth"] == secret and seen[0]["openai-beta"] == "ours"
    moved = server.post(f"{UPSTREAMS}/{fake.id}", {"base_url": "http://127.0.0.1:9/v1"})
    assert moved.status == 400 and moved.error["param"] == "headers", "they were given for another origin"
    assert settings(server, fake, headers=None)["header_names"] == []
    server.chat(key, model="fake")
    assert "x-gateway-auth" not in seen[1]


@pytest.mark.parametrize("change, param", [
    ({"priority": -1}, "priority"), ({"priority": 1001}, "priority"), ({"weight": 0}, "weight"), ({"weight": "1"}, "weight"),
    ({"concurrency_max": 0}, "concurrency_max"), ({"connect_timeout": 0}, "connect_timeout"), ({"answer_timeout": 3601}, "answer_timeout"),
    ({"stall_timeout": 1.5}, "stall_timeout"), ({"model_mapping": {"a": ""}}, "model_mapping"), ({"model_mapping": ["a"]}, "model_mapping"),
    ({"headers": {"Host": "x"}}, "headers"), ({"headers": {"Authorization": "x"}}, "headers"), ({"headers": {"a b": "x"}}, "headers"),
    ({"headers": {"x-a": "1\r\nx-b: 2"}}, "headers"), ({"headers": {"x-a": ""}}, "headers"), ({"headers": {"X-A": "1", "x-a": "2"}}, "headers"),
    ({"ca_certificates": "none"}, "ca_certificates"), ({"ca_certificates": "-----BEGIN PRIVATE KEY-----"}, "ca_certificates"),
    ({"upstream_id": "x"}, "upstream_id"), ({"health": "x"}, "health"),
])
def test_a_bad_setting_is_refused_by_name(server, change, param):
    good = {"name": "good", "base_url": "http://127.0.0.1:9/v1", "models": ["m"]}
    answer = server.post(UPSTREAMS, {**good, **change})
    assert answer.status == 400 and answer.error["param"].split(".")[0].split("[")[0] == param, answer


def test_settings_are_shown_and_go_back_to_the_usual(server):
    fake = server.fake(fine)
    usual = server.get(f"{UPSTREAMS}/{fake.id}").json
    own = {"priority": 2, "weight": 5, "concurrency_max": 7, "connect_timeout": 3, "answer_timeout": 4, "stall_timeout": 5,
           "model_mapping": {"fake": "x"}, "allowed_parameters": ["top_k"], "on_client_gone": "cancel"}
    assert {name: settings(server, fake, **own)[name] for name in own} == own
    assert settings(server, fake, **{name: None for name in own}) == {**usual, "on_client_gone": "drain"}


def test_an_answer_that_does_not_come_in_time_is_given_up(server, key):
    release = threading.Event()
    fake = server.fake(lambda body, handler: release.wait(60) and fine(body, handler))
    settings(server, fake, answer_timeout=1)
    answer = server.chat(key, model="fake")
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    release.set()


def certificate(home, name):
    """A certificate authority of its own with one server."""
    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=home, check=True, capture_output=True)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}-ca.key", "-out", f"{name}-ca.pem", "-subj", f"/CN={name}", "-days", "2")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=127.0.0.1")
    (home / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{name}-ca.pem", "-CAkey", f"{name}-ca.key", "-CAcreateserial", "-out", f"{name}.pem",
            "-days", "2", "-extfile", f"{name}.ext")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / f"{name}.pem", home / f"{name}.key")
    return (home / f"{name}-ca.pem").read_text(), context


def test_an_upstream_with_an_authority_of_its_own(server, key, tmp_path):
    ours, context = certificate(tmp_path, "ours")
    theirs, _ = certificate(tmp_path, "theirs")
    fake = Fake(fine)
    fake.server.socket = context.wrap_socket(fake.server.socket, server_side=True)
    server.fakes.append(fake)
    body = {"name": "tls", "base_url": fake.base_url.replace("http:", "https:")}
    refused = server.post(UPSTREAMS, body)
    assert refused.status == 400 and refused.error["param"] == "models"
    made = server.post(UPSTREAMS, {**body, "ca_certificates": ours}).json
    assert made["models"] == ["fake"] and made["ca_certificates"] == ours
    assert server.chat(key, model="fake").status == 200
    server.post(f"{UPSTREAMS}/{made['id']}", {"ca_certificates": theirs})
    assert server.chat(key, model="fake").error["code"] == "upstream_unreachable", "not even over a kept connection"
    server.post(f"{UPSTREAMS}/{made['id']}", {"ca_certificates": ours})
    assert server.chat(key, model="fake").status == 200
    server.post(f"{UPSTREAMS}/{made['id']}", {"ca_certificates": None})
    assert server.chat(key, model="fake").error["code"] == "upstream_unreachable"


def test_trying_an_upstream(server, cli):
    seen = []
    fake = server.fake(fine)
    handler = fake.server.RequestHandlerClass
    listing = handler.do_GET
    handler.do_GET = lambda self: seen.append(dict(self.headers)) or listing(self)
    settings(server, fake, api_key=server.remember("sk-upstream-key-1"), headers={"X-Team": server.remember("team-secret-1")}, models=["fake", "gone", "alias"],
             model_mapping={"alias": "fake"})
    found = server.get(f"{UPSTREAMS}/{fake.id}/test").json
    assert (found["ok"], found["status"], found["models"], found["missing_models"], found["error"]) == (True, 200, ["fake"], ["gone"], None)
    assert found["connect_ms"] >= 0 and found["answer_ms"] >= 0
    assert seen[0]["authorization"] == "Bearer sk-upstream-key-1" and seen[0]["x-team"] == "team-secret-1"
    done = cli("upstream", "test", fake.id, check=1)
    assert "gone" in done.stdout, "a model that it does not have is no success"
    settings(server, fake, models=["fake"])
    cli("upstream", "test", fake.id)
    fake.stop()
    found = server.get(f"{UPSTREAMS}/{fake.id}/test").json
    assert (found["ok"], found["status"], found["models"]) == (False, None, None) and found["error"]
    assert "refused" in cli("upstream", "test", fake.id, check=1).stdout
    assert server.get(f"{UPSTREAMS}/upstream_x/test").status == 404
    assert server.get(f"{UPSTREAMS}/{fake.id}/test", found="x").error["code"] == "unknown_parameter"
    key = server.key(server.default_project)["value"]
    assert server.get(f"{UPSTREAMS}/{fake.id}/test", key=key).status in (401, 403)
    assert server.requests() == []


def test_settings_from_a_shell(server, cli, tmp_path):
    fake = server.fake(fine)
    secret = server.remember("from-a-file-0123456789")
    (tmp_path / "headers").write_text(f"X-One: {secret}\n\nX-Two: b\n")
    args = ["--priority", "2", "--weight", "3", "--concurrency-max", "4", "--connect-timeout", "5", "--map-model", "fake=x=y",
            "--headers-file", tmp_path / "headers"]
    assert cli("upstream", "update", fake.id, *args).returncode == 0
    seen = server.get(f"{UPSTREAMS}/{fake.id}").json
    assert (seen["priority"], seen["weight"], seen["concurrency_max"], seen["connect_timeout"]) == (2, 3, 4, 5)
    assert seen["model_mapping"] == {"fake": "x=y"} and seen["header_names"] == ["x-one", "x-two"]
    (tmp_path / "headers").write_text("")
    assert cli("upstream", "update", fake.id, "--concurrency-max", "none", "--map-model", "none", "--headers-file", tmp_path / "headers").returncode == 0
    seen = server.get(f"{UPSTREAMS}/{fake.id}").json
    assert (seen["concurrency_max"], seen["model_mapping"], seen["header_names"]) == (None, {}, [])
    (tmp_path / "headers").write_text("no colon in here\n")
    bad = cli("upstream", "update", fake.id, "--headers-file", tmp_path / "headers", check=2)
    assert "no colon" not in bad.stderr
