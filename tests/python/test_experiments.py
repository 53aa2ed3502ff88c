"""The promises under force: kill -9 at any moment, and a key revoked while it is in use. Counts, not timings."""

import http.client
import json
import os
import random
import resource
import socket
import subprocess
import threading
import time

import pytest

from harness import BINARY, FULL, Server, clean_environment, until

pytestmark = pytest.mark.timeout(3600 if FULL else 300)

BODY = json.dumps({"model": "gpt-4o-mini", "max_completion_tokens": 20, "messages": [{"role": "user", "content": "x"}]})


class Caller(threading.Thread):
    """Calls one endpoint again and again on one connection until told to stop; notes when each call began."""

    def __init__(self, server, key, method="POST", path="/v1/chat/completions", body=BODY):
        super().__init__(daemon=True)
        self.address = server.url.removeprefix("http://")
        self.request = (method, path, body, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
        self.calls, self.stopping = [], False

    def run(self):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        while not self.stopping:
            begun = time.monotonic()
            try:
                connection.request(*self.request)
                answer = connection.getresponse()
                answer.read()
                self.calls.append((begun, answer.status, answer.headers["x-request-id"]))
            except (OSError, http.client.HTTPException):
                self.calls.append((begun, None, None))
                connection.close()
                if self.stopping:
                    return

    def stop(self):
        self.stopping = True


@pytest.mark.parametrize("durability", ["strict", "overlap"])
def test_kill_9_at_random_moments_loses_nothing_and_counts_nothing_twice(gateway, simulator, report, durability):
    """Half of the rounds under a hard limit. The simulator's own list is the witness."""
    gateway.flags = ("--durability", durability)
    gateway.restart()
    rounds = 200 if FULL else 20
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown if it fails
    moments = random.Random(seed)
    simulator.config(latency_ms=2, output_tokens="max")
    project = gateway.default_project
    key = gateway.key(project)["value"]
    answered = set()
    for number in range(rounds):
        if number == rounds // 2:
            gateway.limit(project, 100_000)
        callers = [Caller(gateway, key) for _ in range(16)]
        [caller.start() for caller in callers]
        moment = moments.randrange(1, 200)
        until(lambda: sum(len(caller.calls) for caller in callers) >= moment)
        gateway.process.kill()
        [caller.stop() for caller in callers]
        [caller.join() for caller in callers]
        answered |= {request_id for caller in callers for _, status, request_id in caller.calls if status == 200}
        gateway.start()

    served = [entry["request_id"] for entry in simulator.requests]
    recorded = {request["id"]: request for request in gateway.requests()}
    assert len(served) == len(set(served)) > rounds
    assert not set(served) - set(recorded), "the provider served what the books do not have"
    assert answered <= set(served)
    assert {request["state"] for request in recorded.values()} <= {"settled", "voided"}
    recovered = [request for request in recorded.values() if request["recovered"]]
    assert all(request["state"] == "settled" and request["usage_source"] == "bound" for request in recovered)
    billed = {e["request_id"]: e["billed_input"] * 150 + e["billed_output"] * 600 for e in simulator.requests}
    limited = sorted(recorded)[len(recorded) // 2:]
    for request_id in limited:
        cost = int(recorded[request_id]["cost"].replace(".", ""))
        assert cost >= billed.get(request_id, 0) or not recorded[request_id]["recovered"]
    checked = gateway.fsck()
    assert checked.returncode == 0, checked.stdout
    report(f"{rounds} kills, {durability}: {len(served)} served, {len(recorded)} recorded, {len(recovered)} recovered; {checked.stdout.strip()}")


def test_no_request_that_starts_after_a_delete_has_returned_succeeds(gateway, report):
    rounds = 40 if FULL else 5
    project, late, before = gateway.default_project, 0, 0
    for number in range(rounds):
        key = gateway.key(project)
        request = ("POST", "/v1/chat/completions", BODY) if number % 2 else ("GET", "/v1/models", None)
        callers = [Caller(gateway, key["value"], *request) for _ in range(50)]
        [caller.start() for caller in callers]
        until(lambda: not any(len(caller.calls) < 3 for caller in callers))
        assert gateway.delete(f"/v1/organization/projects/{project}/api_keys/{key['id']}").status == 200
        returned = time.monotonic()
        until(lambda: not any(not caller.calls or caller.calls[-1][0] <= returned for caller in callers))
        [caller.stop() for caller in callers]
        [caller.join() for caller in callers]
        calls = [call for caller in callers for call in caller.calls]
        started_later = [status for begun, status, _ in calls if begun > returned]
        assert started_later and set(started_later) == {401}, started_later
        late += len(started_later)
        before += sum(1 for begun, status, _ in calls if begun <= returned and status == 200)
    report(f"{rounds} revocations, {before} calls served before, {late} begun after: all refused")


def test_archiving_and_removal_are_as_immediate_as_revoking(gateway):
    ada = gateway.user()
    project = gateway.project()
    gateway.admin.projects.users.create(project, user_id=ada, role="member")
    key = gateway.key(project, user_id=ada)["value"]
    ends = [
        (lambda: gateway.delete(f"/v1/organization/projects/{project}/users/{ada}"), lambda: gateway.post(
            f"/v1/organization/projects/{project}/users", {"user_id": ada, "role": "member", "reactivate_keys": True})),
        (lambda: gateway.post(f"/v1/organization/projects/{project}/archive"), None),
    ]
    for end, undo in ends:
        callers = [Caller(gateway, key, "GET", "/v1/models", None) for _ in range(20)]
        [caller.start() for caller in callers]
        until(lambda: not any(len(caller.calls) < 3 for caller in callers))
        assert end().status == 200
        returned = time.monotonic()
        until(lambda: not any(caller.calls[-1][0] <= returned for caller in callers))
        [caller.stop() for caller in callers]
        [caller.join() for caller in callers]
        later = {status for caller in callers for begun, status, _ in caller.calls if begun > returned}
        assert later == {401}
        if undo:
            assert undo().status == 200


# The cap


def challenge(gateway, simulator, dollars, *more):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gateway.restart()  # with as many files as it takes
    gateway.limit(gateway.default_project, int(dollars * 100))
    key, admin = gateway.home / "challenged.spared", gateway.home / "admin.spared"
    key.write_text(gateway.key(gateway.default_project)["value"])
    admin.write_text(gateway.admin_key)
    done = subprocess.run(
        [BINARY, "challenge", "--target", gateway.base_url, "--key-file", key, "--admin-key-file", admin, "--simulator",
         simulator.base_url, *more, "-o", "json"], env=clean_environment(), capture_output=True, text=True, timeout=1800)
    return json.loads(done.stdout)


def test_a_storm_at_a_thousand_at_once_never_overspends(gateway, simulator, report):
    """The simulator bills every request at its most, and its sum is the witness."""
    count, dollars = (100_000, 20) if FULL else (4_000, 1)
    page = challenge(gateway, simulator, dollars, "--requests", str(count), "--concurrency", "1000", "--streams", "60")
    billed, left = float(page["provider"]["billed"]), float(page["limit"])
    recorded = float(page["gateway"]["spent"])
    bound = float(page["storm"]["bound"])
    assert page["overspend"] == "0.000000000" and billed <= recorded <= left
    assert left - recorded < 2 * bound, "it is spent to within a request"
    assert page["held"], page
    report(f"storm: {count} requests, 1000 at once, ${left:.2f}: {page['storm']['served']} served, provider billed ${billed:.9f}, recorded "
           f"${recorded:.9f}, a request ${bound:.6f}; overspend ${page['overspend']}, false refusals {page['false_refusals']} of "
           f"{page['agents']['served'] + page['storm']['served']}, unrecorded {page['unrecorded_requests']}; a deleted key lived "
           f"{page['seconds_a_deleted_key_lived']} s over {page['race']['calls_after']} later calls")


def test_agents_on_a_small_budget_are_not_refused_for_nothing(gateway, simulator, report):
    """Twenty agents, each request bounded to two dollars, on a limit of twenty-five of which they spend a few."""
    each = 250 if FULL else 25
    gateway.post("/tollgate/v1/models/simulated-unpriced", {"input_price": "1", "output_price": "125", "max_output_tokens": 16_000, "context_tokens": 128_000})
    gateway.limit(gateway.default_project, 2_500)
    key = gateway.key(gateway.default_project)["value"]
    simulator.config(output_tokens=4, latency_ms=40)
    body = json.dumps({"model": "simulated-unpriced", "messages": [{"role": "user", "content": "x"}]})

    class Agent(Caller):
        def run(self):
            connection = http.client.HTTPConnection(self.address, timeout=60)
            for _ in range(each):
                connection.request(*self.request)
                answer = connection.getresponse()
                answer.read()
                self.calls.append(answer.status)

    agents = [Agent(gateway, key, body=body) for _ in range(20)]
    [agent.start() for agent in agents]
    [agent.join() for agent in agents]
    statuses = [status for agent in agents for status in agent.calls]
    bound = float(gateway.requests()[0]["bound"])
    refused = len(statuses) - statuses.count(200)
    assert len(statuses) == 20 * each and 1.99 < bound < 2.01
    assert refused <= len(statuses) / 1000, f"{refused} of {len(statuses)}"
    spent = gateway.get(f"/v1/organization/projects/{gateway.default_project}/spend_limit").json["spent"]
    report(f"agents: 20 with bounds of ${bound:.2f} on $25, {len(statuses)} requests: {refused} refused; ${spent} spent")


def all_ended(server):
    """What is recorded, once nothing is in flight any more."""
    deadline = time.monotonic() + 120
    while True:
        requests = server.requests()
        if all(request["state"] != "held" for request in requests):
            return requests
        assert time.monotonic() < deadline


# Cuts


STREAM = {"model": "gpt-4o-mini", "max_completion_tokens": 12, "stream": True, "messages": [{"role": "user", "content": "Say something."}]}


def read_stream(gateway, key, bytes_max=None):
    """Reads an answer to its end, or hangs up after so many bytes of it."""
    body = json.dumps(STREAM).encode()
    host, port = gateway.url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while bytes_max is None or len(received) < bytes_max:
            piece = connection.recv(4096 if bytes_max is None else bytes_max - len(received))
            if not piece:
                break
            received += piece
        if bytes_max is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return received


@pytest.mark.parametrize("who", ["provider", "client"])
@pytest.mark.parametrize("is_limited", [False, True])
def test_a_stream_cut_at_any_byte_is_one_record(gateway, simulator, report, who, is_limited):
    key = gateway.key(gateway.default_project)["value"]
    if is_limited:
        gateway.limit(gateway.default_project, 1_000_000)
    simulator.config(output_tokens="max")
    length = len(read_stream(gateway, key)) if who == "client" else len(simulator_body(simulator))
    offsets = range(length) if FULL else sorted({*range(0, length, 40), length - 1})
    for offset in offsets:
        if who == "provider":
            simulator.config(output_tokens="max", fault="cut", after_bytes=offset)
            read_stream(gateway, key)
        else:
            read_stream(gateway, key, offset)
    requests = all_ended(gateway)
    served = {entry["request_id"]: entry["billed_input"] * 150 + entry["billed_output"] * 600 for entry in simulator.requests}
    recorded = {request["id"]: request for request in requests}
    assert len(requests) == len(recorded) and set(served) <= set(recorded)
    missed = [request for request in requests if request["id"] not in served]
    assert all(request["state"] == "voided" and not request["cost"] for request in missed), "hung up before it was sent"
    sources = {"upstream": 0, "observed": 0, "bound": 0}
    for request_id, billed in served.items():
        request = recorded[request_id]
        cost = int(request["cost"].replace(".", ""))
        sources[request["usage_source"]] += 1
        assert request["state"] == "settled"
        if is_limited:
            assert cost >= billed, request
        assert request["usage_source"] != "upstream" or abs(cost - billed) <= billed / 20, (request, billed)
    report(f"cut by the {who} at {len(offsets)} of {length} offsets, {'under a limit' if is_limited else 'no limit'}: {len(served)} served, "
           f"{len(recorded)} records, by {sources}")


def simulator_body(simulator):
    connection = http.client.HTTPConnection(simulator.root.removeprefix("http://"), timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps({**STREAM, "stream_options": {"include_usage": True}}))
    body = connection.getresponse().read()
    simulator.reset()
    return body


# A disk with no room


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = [] if os.getuid() == 0 else ["sudo", "-n"]
    done = subprocess.run([*mount, "mount", "-t", "tmpfs", "-o", f"size=16m,mode=0777,uid={os.getuid()}", "tmpfs", disk], capture_output=True, text=True)
    assert done.returncode == 0, f"this experiment needs to mount a small disk: run it as root ({done.stderr.strip()})"
    yield disk
    subprocess.run([*mount, "umount", "-l", disk], check=True)


@pytest.mark.embedded
def test_a_full_disk_refuses_before_it_loses_and_recovers_by_itself(small_disk, simulator, tmp_path, report):
    server = Server(small_disk, "--free-mebibytes-min", "2", "--ballast-mebibytes", "1")
    server.log = tmp_path / "server.log"  # logs are elsewhere
    server.restart()
    server.upstream(simulator)
    project = server.default_project
    key = server.key(project)["value"]
    server.limit(project, 100_000)
    free = lambda: os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    answered = []

    def call():
        answer = server.chat(key, max_completion_tokens=5)
        if answer.status == 200:
            answered.append(answer.headers["x-request-id"])
        return answer

    # Somebody else fills the disk while it is in use, up to what must be left free: refused before anything is lost.
    assert [call().status for _ in range(20)] == [200] * 20
    filler = small_disk / "filler"
    with open(filler, "wb") as file:
        file.write(b"\0" * (free() - 1024 * 1024))
    deadline = time.monotonic() + 60
    while (answer := call()).status == 200:
        assert time.monotonic() < deadline
    assert answer.status == 503 and answer.error["code"] == "storage_low", answer
    assert server.get("/v1/models", key=key).status == 200
    filler.unlink()
    while (answer := call()).status != 200:
        assert answer.status == 503 and time.monotonic() < deadline, answer

    # And at once, to the last byte, while requests are in flight: nothing new is sent, what ends is kept.
    simulator.config(output_tokens=5, latency_ms=1500)
    before = len(simulator.requests)
    threads = [threading.Thread(target=call) for _ in range(20)]
    [thread.start() for thread in threads]
    while len(simulator.requests) < before + 20:
        assert time.monotonic() < deadline
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    assert free() == 0
    [thread.join() for thread in threads]
    simulator.config(output_tokens=5)
    refused = call()
    while refused.status == 200:  # what the ballast gave back
        refused = call()
    assert refused.status == 503 and refused.error["code"] in ("storage_low", "storage_unavailable", "ledger_unavailable", "overloaded"), refused
    filler.unlink()
    while (answer := call()).status != 200:
        assert answer.status == 503 and time.monotonic() < deadline + 60, answer

    served = {entry["request_id"] for entry in simulator.requests}
    recorded = {request["id"]: request for request in all_ended(server)}
    assert served <= set(recorded) and set(answered) <= served
    assert all(recorded[request_id]["state"] == "settled" for request_id in served)
    assert "panicked" not in server.log.read_text()
    server.finish()
    report(f"disk of 16 MiB, filled twice: {len(served)} served, {len(answered)} answered, all recorded; refused by 503 until there was room")
