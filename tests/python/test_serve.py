"""The contract for automation: first start, later starts, secrets, TLS, signals, work at the machine itself."""

import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time
import urllib.parse

import pytest

from harness import BINARY, POSTGRES, Embedded, Fake, Postgres, Process, Server, clean_environment, request, run, until

PASSWORD = "correct horse battery staple"


def test_the_first_start_writes_the_file_and_later_ones_leave_it_alone(server):
    assert set(server.bootstrap) == {"base_url", "organization_id", "project_id", "user_id", "admin_api_key"}
    assert server.bootstrap["base_url"] == server.url + "/v1"
    assert stat.S_IMODE(server.bootstrap_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    before = server.bootstrap_file.read_bytes()
    server.restart()
    assert server.bootstrap_file.read_bytes() == before
    assert server.get("/tollgate/v1/me").json["is_operator"] is True
    server.bootstrap_file.unlink()
    server.restart()
    assert not server.bootstrap_file.exists()
    server.bootstrap_file.write_bytes(before)


def test_ready_is_ready_and_alive_is_alive(server):
    assert request(server.url, "GET", "/readyz").json == {"status": "ready"}
    assert request(server.url, "GET", "/healthz").json == {"status": "ok"}


def refused(*args, env=None):
    done = run("serve", *args, env=env)
    assert done.returncode == 1 and any(line.startswith("error: ") for line in done.stderr.splitlines()), done
    return done.stderr


def test_a_start_that_cannot_be_right_says_why(tmp_path):
    data = tmp_path / "data"
    listen = ["--listen", "127.0.0.1:0"]
    assert "--data" in refused()
    assert "--bootstrap-file" in refused("--data", data, *listen)
    assert not (data / "secrets/master.json").exists(), "nothing that is in the way of a second try"
    existing = tmp_path / "existing.json"
    existing.write_text("precious")
    assert "exists already" in refused("--data", data, *listen, "--bootstrap-file", existing)
    assert existing.read_text() == "precious"
    assert "--insecure-http" in refused("--data", data, "--listen", "0.0.0.0:0")
    assert "not supported by this version" in refused("--data", data, "--valkey=redis://x")
    for wrong in ["mysql://x/y", "postgres://x", "postgres://x/y?sslmode=maybe"]:
        assert "--database cannot be used" in refused("--data", data, env={"TOLLGATE_DATABASE": wrong})
    assert "--secrets" in refused("--database", "postgres://localhost/x")
    assert "go together" in refused("--data", data, "--tls-cert", existing)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "Cannot listen" in refused("--data", data, "--listen", address, "--bootstrap-file", tmp_path / "b.json")
    config = tmp_path / "bad.toml"
    config.write_text("lisen = 5")
    assert "lisen" in refused("--config", config)
    assert not (tmp_path / "b.json").exists(), "a start that failed handed out no key"


def test_settings_come_from_flags_then_environment_then_file(tmp_path):
    config = tmp_path / "tollgate.toml"
    config.write_text(f'data = "{tmp_path}/data"\nlisten = "127.0.0.1:0"\nowner-email = "file@example.com"\nbootstrap-file = "{tmp_path}/b.json"\n')
    process = Process(tmp_path / "log", "serve", "--config", config, env={"TOLLGATE_OWNER_EMAIL": "env@example.com"})
    key = json.loads((tmp_path / "b.json").read_text())["admin_api_key"]
    users = request(process.url, "GET", "/v1/organization/users", key=key).json["data"]
    assert process.stop() == 0 and [u["email"] for u in users] == ["env@example.com"]


class SetUp:
    """An installation that `tollgate setup` made, and its link."""

    def __init__(self, home):
        self.home, self.store = home, Postgres() if POSTGRES else Embedded(home / "data")
        self.place = [*self.store.flags, "--data", home / "data", "--secrets", home / "master.json"]
        self.command = ["setup", *self.place, "--out", home / "admin.key", "--owner-email", "ada@example.com"]
        self.process = None

    def run(self, *more, check=0):
        done = run(*self.command, *more, check=check)
        self.token = done.stdout.strip().split("?token=")[-1]
        return done

    def serve(self):
        self.process = Process(self.home / "log", "serve", *self.place, "--listen", "127.0.0.1:0")
        self.key = (self.home / "admin.key").read_text().strip()

    def get(self, path):
        return request(self.process.url, "GET", path, key=self.key)

    def set_password(self, password=PASSWORD, token=None):
        """What the page behind the link sends."""
        form = urllib.parse.urlencode({"token": token or self.token, "password": password}).encode()
        return request(self.process.url, "POST", "/setup", body=form, headers={"content-type": "application/x-www-form-urlencoded"})

    def stop(self):
        assert self.process.stop() == 0
        assert PASSWORD not in (self.home / "log").read_text() and self.token not in (self.home / "log").read_text()
        assert self.token.encode() not in self.store.dump()

    def finish(self):
        run("fsck", *self.place[:-2], check=0)
        self.store.drop()


@pytest.fixture
def installation(tmp_path):
    installation = SetUp(tmp_path)
    yield installation
    if installation.process and installation.process.process.poll() is None:
        installation.stop()
    installation.finish()


def test_it_is_set_up_before_it_serves(installation, tmp_path):
    """`tollgate setup` hands out the owner's key in a file, and a link that is good once, for a day."""
    assert "--out" in run("setup", *installation.place, check=2).stderr, "a key that nobody has is of no use"
    assert installation.run("--dry-run", check=2).stdout == "" and not (tmp_path / "data").exists()
    (tmp_path / "admin.key").write_text("mine")
    assert "exists already" in installation.run(check=1).stderr and (tmp_path / "admin.key").read_text() == "mine"
    (tmp_path / "admin.key").unlink()
    wrong = run(*installation.command[:-1], "nobody", "-o", "json", check=1)
    told = json.loads(wrong.stderr.splitlines()[-1])["error"]["message"]  # there may be lines of the log before it
    assert "--owner-email" in told and "e-mail" in told and not (tmp_path / "admin.key").exists()
    assert "is no filter" in installation.run("--jq", "{", check=2).stderr
    # The link is shown once, and not lost.
    for hides in (["-o", "id"], ["-o", "csv"], ["--json", "link"], ["--jq", ".link"]):
        assert "setup_url" in installation.run(*hides, check=2).stderr and not (tmp_path / "admin.key").exists()
    assert "goes into a file" in run("setup", *installation.place, "--out", "-", check=1).stderr
    done = installation.run("--public-url", "https://ai.example.com/v1")
    key = (tmp_path / "admin.key").read_text().strip()
    assert done.stdout.startswith("https://ai.example.com/setup?token=") and "admin.key" in done.stderr
    assert stat.S_IMODE((tmp_path / "admin.key").stat().st_mode) == 0o600 and key not in done.stdout + done.stderr
    again = run("setup", *installation.place, "--out", tmp_path / "other.key", check=1)
    assert "set up already" in again.stderr and not (tmp_path / "other.key").exists()

    installation.token = done.stdout.strip().split("?token=")[1]
    installation.serve()
    assert "in use by another process" in run("setup", *installation.place, "--out", tmp_path / "other.key", check=1).stderr
    users = installation.get("/v1/organization/users").json["data"]
    assert [(user["email"], user["role"]) for user in users] == [("ada@example.com", "owner")]
    shown = installation.get(f"/setup?token={installation.token}").body
    assert installation.token.encode() in shown and b"admin_key" not in shown
    for forged in ["x", installation.token[:-1] + ("0" if installation.token[-1] != "0" else "1"), installation.token * 3]:
        answer = installation.set_password(token=forged)
        assert answer.status == 400 and b"no link that" in answer.body and "set-cookie" not in str(answer.headers).lower(), forged
    short = installation.set_password("short")
    assert short.status == 400 and b"password-error" in short.body and installation.token.encode() in short.body, "the link is kept for another try"
    # Of several that come at once one is served.
    answers = []
    threads = [threading.Thread(target=lambda n=n: answers.append(installation.set_password(f"{PASSWORD} {n}"))) for n in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(answer.status for answer in answers) == [200, 400, 400, 400], answers
    [signed_in] = [answer for answer in answers if answer.status == 200]
    assert "__Host-" in signed_in.headers["set-cookie"] and all(b"used up" in answer.body for answer in answers if answer is not signed_in)
    log = installation.get("/v1/organization/audit_logs").json["data"]
    assert ["login.succeeded", "user.updated"] == sorted(event["type"] for event in log[:2]) and installation.token not in json.dumps(log)
    # Neither does it come back when the password goes.
    installation.stop()
    run("password", "clear", "ada@example.com", *installation.place, check=0)
    installation.serve()
    assert b"used up" in installation.set_password().body


def test_the_link_of_setup_ends_with_another_way_in_and_with_its_day(installation):
    installation.run()
    run("password", "clear", "ada@example.com", *installation.place, check=0)
    installation.serve()
    assert b"used up" in installation.set_password().body, "somebody else may have had it"
    installation.stop()
    with installation.store.open() as database:
        assert database.execute("SELECT COUNT(*) FROM installation WHERE name = 'first_sign_in'").fetchone()[0] == 0


def test_the_link_of_setup_is_good_for_a_day_and_for_who_is_not_frozen(installation):
    installation.run()
    with installation.store.open() as database:
        offer = json.loads(database.execute("SELECT value FROM installation WHERE name = 'first_sign_in'").fetchone()[0])
        database.execute("UPDATE organization_user SET frozen_at = 1")
    assert 86_000 < offer["until"] - time.time() <= 86_400 and set(offer) == {"owner", "until", "pepper_version", "verifier"}
    installation.serve()
    frozen = installation.set_password()
    assert frozen.status == 403 and "set-cookie" not in str(frozen.headers).lower()
    installation.stop()
    with installation.store.open() as database:
        assert database.execute("SELECT COUNT(*) FROM app_user WHERE password IS NOT NULL").fetchone()[0] == 0
        database.execute("UPDATE organization_user SET frozen_at = NULL")
        database.execute("UPDATE installation SET value = ? WHERE name = 'first_sign_in'", [json.dumps({**offer, "until": 1})])
    installation.serve()
    assert b"good for a day" in installation.set_password().body


def test_setup_leaves_alone_what_an_older_version_serves(installation, tmp_path):
    installation.run()
    applied = "SELECT * FROM schema_migration ORDER BY version"
    with installation.store.open() as database:
        rows = list(database.execute(applied))
        database.execute("DELETE FROM schema_migration WHERE version = ?", [len(rows)])
    assert "set up already" in run("setup", *installation.place, "--out", tmp_path / "other.key", check=1).stderr
    with installation.store.open() as database:
        assert list(database.execute(applied)) == rows[:-1], "it was not migrated"
        database.execute(f"INSERT INTO schema_migration VALUES ({', '.join('?' * len(rows[-1]))})", rows[-1])


def test_setup_reads_the_file_of_the_server_and_tells_programs_in_json(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/tollgate.toml").write_text(f'secrets = "{tmp_path}/master.json"\nowner-email = "file@example.com"\nlisten = "127.0.0.1:9999"\nbootstrap-file = "{tmp_path}/b.json"\n')
    setup = ["setup", "--data", tmp_path / "data", "--out", tmp_path / "key"]
    told = json.loads(run(*setup, "-o", "json", check=0).stdout)
    assert told["setup_url"].startswith("http://127.0.0.1:9999/setup?token=") and told["owner_email"] == "file@example.com"
    assert told["admin_key_file"] == str(tmp_path / "key") and told["project_id"].startswith("proj_")
    assert (tmp_path / "master.json").exists() and not (tmp_path / "data/secrets").exists() and not (tmp_path / "b.json").exists()
    assert run("audit", "verify", "--data", tmp_path / "data", "--secrets", tmp_path / "master.json", check=0)


def test_a_second_server_on_one_directory_refuses(server, tmp_path):
    message = refused(*server.place_and_secrets, "--listen", "127.0.0.1:0")
    assert "is in use by another process" in message and f"pid {server.process.process.pid}" in message
    for command in [["recover"], ["operator", "grant", "owner@localhost"]]:
        done = run(*command, *server.place_and_secrets)
        assert done.returncode == 1 and "is in use by another process" in done.stderr


def test_a_server_wants_its_own_secrets(server, tmp_path):
    key = server.key(server.default_project)["value"]
    assert server.process.stop() == 0
    master = server.data / "secrets/master.json"
    assert stat.S_IMODE(master.stat().st_mode) == 0o600
    kept = server.home / "kept.spared"
    master.rename(kept)
    missing = refused(*server.place_and_secrets, "--listen", "127.0.0.1:0")
    assert str(master) in missing and "is missing" in missing

    (tmp_path / "other-home").mkdir()
    other = Server(tmp_path / "other-home")
    assert other.process.stop() == 0
    wrong = refused(*server.place, "--listen", "127.0.0.1:0", "--secrets", other.data / "secrets/master.json")
    assert "is not the one of this installation" in wrong
    kept.chmod(0o644)
    assert "chmod 600" in refused(*server.place, "--listen", "127.0.0.1:0", "--secrets", kept)
    kept.chmod(0o600)
    server.master = kept
    server.start()
    assert server.get("/v1/models", key=key).status == 200
    server.process.stop()
    other.store.drop()


def test_a_newer_schema_is_refused(server):
    assert server.process.stop() == 0
    with server.database() as database:
        database.execute("INSERT INTO schema_migration VALUES (9999, 'x', 0)")
    message = refused(*server.place_and_secrets, "--listen", "127.0.0.1:0")
    assert "schema version 9999" in message
    assert "schema version 9999" in run("fsck", *server.place).stderr
    with server.database() as database:
        database.execute("DELETE FROM schema_migration WHERE version = 9999")


@pytest.fixture
def certificate(tmp_path):
    def make(name):
        cert, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                        "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
                       check=True, capture_output=True)
        return cert, key
    return make


def test_tls_and_a_certificate_that_is_replaced_while_serving(tmp_path, certificate):
    cert, key = certificate("first")
    home = tmp_path / "home"
    home.mkdir()
    server = Server(home, "--tls-cert", cert, "--tls-key", key)
    assert server.bootstrap["base_url"].startswith("https://")

    def subject():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        host, port = server.url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain) as tls:
            return ssl.DER_cert_to_PEM_cert(tls.getpeercert(True))

    trusted = ssl.create_default_context(cafile=str(cert))
    answer = request(server.url, "GET", "/v1/organization/projects", key=server.admin_key, tls=trusted)
    assert answer.status == 200
    assert subject() == cert.read_text()

    new_cert, new_key = certificate("second")
    os.replace(new_key, key)
    os.replace(new_cert, cert)
    deadline = time.monotonic() + 30
    while subject() != cert.read_text() and time.monotonic() < deadline:
        pass
    assert subject() == cert.read_text(), "the new certificate is in use without a restart"
    server.finish()


def test_the_address_of_a_caller_is_believed_only_from_a_trusted_proxy(tmp_path):
    for flags, expected in [((), "127.0.0.1"), (("--trusted-proxies", "127.0.0.0/8,10.0.0.0/8"), "203.0.113.9")]:
        home = tmp_path / str(len(flags))
        home.mkdir()
        server = Server(home, *flags)
        headers = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9, 10.1.2.3"}
        server.call("POST", "/v1/organization/projects", {"name": "x"}, headers=headers)
        event = server.get("/v1/organization/audit_logs").json["data"][0]
        assert event["actor"]["ip_address"] == expected
        server.finish()


def test_a_public_url_is_what_clients_are_told(tmp_path):
    server = Server(tmp_path, "--public-url", "https://ai.example.com")
    assert server.bootstrap["base_url"] == "https://ai.example.com/v1"
    assert server.process.stop() == 0


def test_sigterm_lets_requests_end_and_refuses_new_ones(gateway):
    key = gateway.key(gateway.default_project)["value"]
    answers = []
    script = {"output_tokens": 20, "chunk_ms": 100}
    running = threading.Thread(target=lambda: answers.append(gateway.chat(key, stream=True, simulate=script)))
    running.start()
    until(lambda: gateway.requests(state="held"))
    gateway.process.process.send_signal(signal.SIGTERM)
    running.join()
    assert gateway.process.process.wait(timeout=60) == 0
    assert answers[0].status == 200 and answers[0].body.endswith(b"data: [DONE]\n\n")
    gateway.start()
    assert [r["usage_source"] for r in gateway.requests()] == ["upstream"]


def test_what_does_not_end_in_time_is_cut_and_settled(gateway):
    key = gateway.key(gateway.default_project)["value"]
    gateway.flags = ("--drain-seconds", "1")
    gateway.restart()
    script = {"fault": "stall", "after_bytes": 2000, "output_tokens": 50}

    def call():
        try:
            gateway.chat(key, stream=True, simulate=script)
        except Exception:
            pass

    running = threading.Thread(target=call)
    running.start()
    until(lambda: gateway.requests(state="held"))
    started = time.monotonic()
    assert gateway.process.stop() == 0
    assert time.monotonic() - started < 20
    running.join()
    gateway.start()
    [recorded] = gateway.requests()
    assert recorded["state"] == "settled" and recorded["recovered"] is False


def test_recover_makes_a_key_for_an_owner_who_lost_theirs(server):
    assert server.process.stop() == 0
    out = server.home / "recovered.spared"
    done = run("recover", *server.place_and_secrets, "--out", out, check=0)
    assert "sk-tg" not in done.stdout + done.stderr
    key = server.remember(out.read_text().strip())
    printed = server.remember(run("recover", *server.place_and_secrets, check=0).stdout.strip())
    assert run("recover", *server.place_and_secrets, "--out", out).returncode == 1, "nothing is overwritten"
    assert run("recover", *server.place_and_secrets, "--owner-email", "nobody@example.com").returncode == 1
    server.start()
    for secret in (key, printed):
        assert server.get("/tollgate/v1/me", key=secret).json["is_operator"] is True
    newest = server.get("/v1/organization/audit_logs").json["data"][0]
    assert newest["type"] == "api_key.created" and newest["actor"] == {"type": "session", "session": {"user": {"id": "", "email": ""}, "ip_address": ""}, "host": True}


def test_being_an_operator_is_given_and_taken_on_the_host_only(server):
    me = lambda: server.get("/tollgate/v1/me").json["is_operator"]
    assert me() is True
    assert server.process.stop() == 0
    assert "no operator now" in run("operator", "revoke", "owner@localhost", *server.place_and_secrets, check=0).stdout
    assert "already" in run("operator", "revoke", "owner@localhost", *server.place_and_secrets, check=0).stdout
    assert run("operator", "grant", "nobody@example.com", *server.place_and_secrets).returncode == 1
    server.start()
    assert me() is False
    assert server.post("/tollgate/v1/models/m", {}).status == 403
    body = {"email": "x@example.com", "role": "owner", "is_operator": True}
    assert server.post("/tollgate/v1/users", body).error["param"] == "is_operator"
    assert server.process.stop() == 0
    run("operator", "grant", "owner@localhost", *server.place_and_secrets, check=0)
    server.start()
    assert me() is True


def test_fsck_finds_books_that_do_not_balance(gateway):
    gateway.limit(gateway.default_project, 1000)
    assert gateway.chat(gateway.key(gateway.default_project)["value"]).status == 200
    live = gateway.fsck()
    assert live.returncode == 0 and "balanced" in live.stdout, "also beside a running server"
    assert gateway.process.stop() == 0
    for tamper, repair in [
        ("UPDATE attempt SET output_cost = output_cost + 1", "UPDATE attempt SET output_cost = output_cost - 1"),
        ("UPDATE budget SET settled = settled - 1", "UPDATE budget SET settled = settled + 1"),
        ("UPDATE usage_rollup SET output_cost = output_cost + 1", "UPDATE usage_rollup SET output_cost = output_cost - 1"),
    ]:
        for statement, balanced in [(tamper, False), (repair, True)]:
            with gateway.database() as database:
                database.execute(statement)
            done = gateway.fsck()
            assert (done.returncode == 0) is balanced, (statement, done.stdout)
    assert run("fsck", "--data", gateway.home / "nothing").returncode == 1


@pytest.mark.embedded
def test_a_nearly_full_disk_admits_nothing_new(gateway):
    key = gateway.key(gateway.default_project)["value"]
    gateway.flags = ("--free-mebibytes-min", str(2**40))
    gateway.restart()
    answer = gateway.chat(key)
    assert answer.status == 503 and answer.error["code"] == "storage_low"
    assert gateway.get("/v1/models", key=key).status == 200
    gateway.flags = ()
    gateway.restart()
    assert gateway.chat(key).status == 200


@pytest.mark.embedded
def test_a_file_that_cannot_grow_refuses_and_loses_nothing(gateway):
    """The disk is full for the database alone: its files may not grow beyond what they are."""
    key = gateway.key(gateway.default_project)["value"]
    assert gateway.chat(key).status == 200
    assert gateway.process.stop() == 0
    size = (gateway.data / "tollgate.db").stat().st_size // 1024 + 256
    command = ["bash", "-c", f'ulimit -f {size}; exec "$@"', "x", BINARY, "serve", "--data", gateway.data, "--listen", "127.0.0.1:0"]
    with open(gateway.log, "ab") as log:
        limited = subprocess.Popen(
            ["env", "--ignore-signal=XFSZ", *command], env=clean_environment(**gateway.env), stdout=subprocess.PIPE, stderr=log, text=True)
    url = limited.stdout.readline().strip()
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}
    served, codes = 0, set()
    for _ in range(600):
        answer = request(url, "POST", "/v1/chat/completions", key=key, body=body)
        if answer.status == 200:
            served += 1
        else:
            codes.add((answer.status, answer.error["code"]))
        if len(codes) and served:
            break
    limited.send_signal(signal.SIGKILL)
    limited.wait()
    # Also storage_low: it may have been an end that found no room first.
    full = {"ledger_unavailable", "storage_unavailable", "storage_low", "overloaded"}
    assert codes and codes <= {(503, code) for code in full}, codes
    gateway.start()
    settled = [r for r in gateway.requests() if r["state"] == "settled"]
    assert len(settled) >= served + 1, "nothing that was served is missing"


def test_settings_of_the_environment_are_read_as_flags_are(tmp_path):
    for value, starts in [("1", True), ("true", True), ("0", False)]:
        home = tmp_path / value
        home.mkdir()
        env = {"TOLLGATE_INSECURE_HTTP": value, "TOLLGATE_DATA": str(home / "data"), "TOLLGATE_LISTEN": "0.0.0.0:0",
               "TOLLGATE_BOOTSTRAP_FILE": str(home / "bootstrap.json"), "TOLLGATE_DURABILITY": "overlap"}
        if starts:
            assert Process(tmp_path / "log", "serve", env=env).stop() == 0
        else:
            refused = run("serve", env=env)
            assert refused.returncode != 0 and "--insecure-http" in refused.stderr


def test_secrets_that_others_can_read_are_refused_but_for_a_credential_of_systemd(server, tmp_path):
    assert server.process.stop() == 0
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    master = credentials / "master.json"
    shutil.copy2(server.data / "secrets/master.json", master)
    master.chmod(0o440)
    given = ("serve", *server.place, "--listen", "127.0.0.1:0", "--secrets", master)
    refused = run(*given)
    assert refused.returncode == 1 and "master.json" in refused.stderr, refused
    assert Process(server.log, *given, env={"CREDENTIALS_DIRECTORY": str(credentials)}).stop() == 0
    master.chmod(0o444)
    assert run(*given, env={"CREDENTIALS_DIRECTORY": str(credentials)}).returncode == 1, "everybody is too many"


def test_an_unknown_durability_is_refused(tmp_path):
    refused = run("serve", "--data", tmp_path / "data", "--durability", "fast")
    assert refused.returncode == 1 and "strict" in refused.stderr and "overlap" in refused.stderr


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def asking(url, key, stop, failures, answers):
    """Asks on a new connection each time, without a pause."""
    while not stop.is_set():
        try:
            answers.append(request(url, "GET", "/v1/models", key=key).status)
        except OSError as error:
            failures.append(error)


def test_a_process_that_takes_over_fails_no_connection_and_cuts_no_stream(tmp_path):
    listen = f"127.0.0.1:{free_port()}"
    flags = ["--data", tmp_path / "data", "--listen", listen, "--bootstrap-file", tmp_path / "bootstrap.json"]
    first = Process(tmp_path / "first.log", "serve", *flags, env={"TOLLGATE_BALLAST_MEBIBYTES": "1"})
    admin = json.loads((tmp_path / "bootstrap.json").read_text())
    call = lambda method, path, body=None: request(first.url, method, path, key=admin["admin_api_key"], body=body).json
    proceed = threading.Event()

    def answer(body, handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b'data: {"choices":[{"delta":{"content":"one"}}]}\n\n')
        handler.wfile.flush()
        proceed.wait(60)
        handler.wfile.write(b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}\n\ndata: [DONE]\n\n')

    fake = Fake(answer)
    call("POST", "/tollgate/v1/upstreams", {"name": "fake", "base_url": fake.base_url})
    key = call("POST", f"/v1/organization/projects/{admin['project_id']}/api_keys", {"name": "x"})["value"]
    stop, failures, answers, streamed = threading.Event(), [], [], []
    body = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    stream = threading.Thread(target=lambda: streamed.append(request(first.url, "POST", "/v1/chat/completions", key=key, body=body)))
    stream.start()
    until(lambda: fake.bodies)
    askers = [threading.Thread(target=asking, args=(first.url, key, stop, failures, answers)) for _ in range(4)]
    [asker.start() for asker in askers]
    until(lambda: len(answers) > 20)
    started = []
    second = threading.Thread(target=lambda: started.append(Process(tmp_path / "second.log", "serve", *flags, "--take-over", env={"TOLLGATE_BALLAST_MEBIBYTES": "1"})))
    second.start()
    until(lambda: not (tmp_path / "data/handover.sock").exists() or "taken the listening socket" in (tmp_path / "first.log").read_text() or first.process.poll() is not None or socket_is_idle(answers))
    proceed.set()
    second.join()
    assert first.process.wait(60) == 0, "it ended what it was at, and went"
    before = len(answers)
    until(lambda: len(answers) > before + 20)
    stop.set()
    [asker.join() for asker in askers]
    stream.join()
    assert failures == [] and set(answers) == {200}, (failures[:3], set(answers))
    assert streamed[0].status == 200 and streamed[0].body.endswith(b"data: [DONE]\n\n")
    [row] = request(started[0].url, "GET", "/tollgate/v1/requests", key=admin["admin_api_key"]).json["data"]
    assert (row["state"], row["usage_source"]) == ("settled", "upstream")
    assert (tmp_path / "data/handover.sock").exists(), "and it can be taken over in turn"
    assert started[0].stop() == 0
    assert not (tmp_path / "data/handover.sock").exists()
    run("fsck", "--data", tmp_path / "data", check=0)
    fake.stop()


def test_a_process_that_cannot_take_over_leaves_the_other_where_it_is(tmp_path):
    server = Server(tmp_path)
    flags = ["--data", server.data, "--bootstrap-file", server.bootstrap_file, "--take-over"]
    assert "is handed over" in refused(*flags, "--listen", f"127.0.0.1:{free_port()}")
    missing = tmp_path / "missing.pem"
    assert "TLS" in refused(*flags, "--listen", server.url.removeprefix("http://"), "--tls-cert", missing, "--tls-key", missing)
    with socket.socket(socket.AF_UNIX) as curious:
        curious.connect(str(server.data / "handover.sock"))
    assert server.get("/tollgate/v1/me").status == 200 and server.process.process.poll() is None
    assert server.process.stop() == 0


def socket_is_idle(answers):
    """Whether nobody is answered any more, because the old process accepts no more and the new one does not yet."""
    before = len(answers)
    threading.Event().wait(0.3)
    return len(answers) == before


def test_an_answer_that_begins_while_the_server_stops_is_the_last_of_its_connection(tmp_path):
    server = Server(tmp_path)
    proceed = threading.Event()
    server.fake(lambda body, handler: proceed.wait(60) and (200, Fake.completion()))
    key, answers = server.key(server.default_project)["value"], []
    asking = threading.Thread(target=lambda: answers.append(server.chat(key, model="fake")))
    asking.start()
    until(lambda: server.fakes[0].bodies)
    server.process.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping" in server.log.read_text() or not connects(server.url))
    proceed.set()
    asking.join()
    assert answers[0].status == 200 and answers[0].headers["connection"] == "close"
    assert server.process.process.wait(60) == 0
    server.fakes[0].stop()


def connects(url):
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        return True
    except OSError:
        return False


def test_taking_over_from_nobody_is_a_start_like_any_other(tmp_path):
    server = Server(tmp_path, "--take-over")
    assert server.get("/tollgate/v1/me").status == 200 and server.process.stop() == 0


def test_a_socket_of_systemd_is_taken(tmp_path):
    """As systemd hands it: descriptor 3, and two variables of the environment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        script = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execv(sys.argv[2], sys.argv[2:])"
        command = ["python3", "-c", script, str(listener.fileno()), BINARY, "serve", "--data", tmp_path / "data", "--bootstrap-file", tmp_path / "b.json"]
        start = lambda *more: subprocess.Popen([*map(str, command), *more], env=clean_environment(TOLLGATE_BALLAST_MEBIBYTES="1"), pass_fds=[listener.fileno()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process = start("--listen", "127.0.0.1:0")
        assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}"
        assert request(f"http://127.0.0.1:{port}", "GET", "/readyz").status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        # Whoever connects now waits for the next process.
        waiting, answers = threading.Thread(target=lambda: answers.append(request(f"http://127.0.0.1:{port}", "GET", "/readyz").status)), []
        waiting.start()
        process = start("--listen", f"127.0.0.1:{port}")
        waiting.join()
        assert answers == [200]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        other = start("--listen", "127.0.0.1:1")
        assert other.wait(60) == 1 and "is handed over" in other.stderr.read()
