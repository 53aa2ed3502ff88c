"""What only a database on a server can do to a node: go away, come back, be somebody else's, ask for a password.

Each test has a server of PostgreSQL of its own, which it may stop. The other tests run on PostgreSQL as they do on the
embedded database, see `TOLLGATE_TEST_POSTGRES`.
"""

import concurrent.futures
import contextlib
import subprocess
import threading

import psycopg
import pytest

from harness import ROOT, Postgres, Server, request, run, until

SCRIPT = ROOT / "tests/postgres"


class Cluster:
    def __init__(self, directory, *settings):
        self.directory, self.settings = directory, settings
        self.start()

    def start(self):
        done = subprocess.run([SCRIPT, "start", self.directory, *self.settings], stdout=subprocess.PIPE, text=True, check=True, timeout=120)
        self.url = done.stdout.strip()

    def stop(self):
        subprocess.run([SCRIPT, "stop", self.directory], check=True, timeout=120)

    def execute(self, sql, database="postgres"):
        with psycopg.connect(self.url.rsplit("/", 1)[0] + "/" + database, autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else None

    def database(self, name="tollgate"):
        self.execute(f"CREATE DATABASE {name}")
        return self.url.rsplit("/", 1)[0] + "/" + name


@pytest.fixture
def cluster(tmp_path_factory):
    # Below /tmp, and not in the test's directory, which only its owner may enter.
    directory = subprocess.run(["mktemp", "-d", "/tmp/tollgate-postgres-XXXXXX"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    subprocess.run(["chmod", "755", directory], check=True)
    made = []

    def make(*settings):
        made.append(Cluster(f"{directory}/{len(made)}", *settings))
        return made[-1]

    yield make
    for one in made:
        subprocess.run([SCRIPT, "stop", one.directory], stderr=subprocess.DEVNULL, timeout=120)
    subprocess.run(["rm", "-rf", directory], check=True)


class Node(Server):
    """A server without a directory: all there is of it is in the database."""

    def __init__(self, home, url, *flags, env=None):
        self.url_of_database = url
        super().__init__(home, *flags, env=env)

    def make_place(self):
        (self.home / "secrets").mkdir(exist_ok=True)
        self.master = self.home / "secrets/master.json"
        self.place = ["--database", self.url_of_database]
        self.store = Postgres(self.url_of_database)

    def finish(self):
        [fake.stop() for fake in self.fakes]
        if self.process.process.poll() is None:
            assert self.process.stop() == 0, self.log.read_text()
        checked = self.fsck()
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "panicked" not in self.log.read_text(errors="replace")
        self.assert_no_secret_is_stored()
        return checked.stdout


@pytest.fixture
def node(cluster, tmp_path, simulator):
    made = cluster()
    node = Node(tmp_path, made.database())
    node.cluster = made
    node.upstream(simulator)
    yield node
    if node.process.process.poll() is None:
        node.finish()


def ready(node):
    return request(node.url, "GET", "/readyz").status == 200


def test_a_node_needs_no_directory(node, tmp_path):
    key = node.key(node.default_project)["value"]
    assert node.chat(key).status == 200
    node.restart()
    assert node.chat(key).status == 200
    for command in (["recover"], ["operator", "grant", "owner@localhost"]):
        done = run(*command, *node.place_and_secrets)
        assert done.returncode == 1 and "in use by another process" in done.stderr, done
    assert run("audit", "verify", *node.place_and_secrets).returncode == 0, "what only reads works beside it"
    second = run("serve", *node.place_and_secrets, "--listen", "127.0.0.1:0")
    assert second.returncode == 1 and "in use by another process" in second.stderr
    assert node.process.stop() == 0
    assert run("recover", *node.place_and_secrets).stdout.startswith("sk-tgadmin-")
    assert "is an operator already" in run("operator", "grant", "owner@localhost", *node.place_and_secrets).stdout
    node.start()


def test_a_database_that_goes_away_is_told_and_comes_back(node):
    key = node.key(node.default_project)["value"]
    node.limit(node.default_project, 100)
    node.cluster.stop()
    refused = node.chat(key)
    assert refused.status == 503 and refused.error["code"] == "ledger_unavailable", refused
    for answer in (node.get("/v1/organization/projects"), node.post("/v1/organization/projects", {"name": "Never"})):
        assert answer.status == 503 and answer.error["code"] == "database_unavailable", answer
        assert "postgres" not in answer.error["message"], "where it is is nobody's business"
    until(lambda: not ready(node))
    assert request(node.url, "GET", "/healthz").status == 200
    node.cluster.start()
    until(lambda: ready(node))
    assert until(lambda: node.chat(key).status == 200)
    assert [p["name"] for p in node.get("/v1/organization/projects").json["data"]] == ["Default project"]


def test_a_key_that_cannot_be_proved_current_stops_working(node):
    key = node.key(node.default_project)["value"]
    assert request(node.url, "GET", "/v1/models", key=key).status == 200
    node.cluster.stop()
    stale = until(lambda: (answer := request(node.url, "GET", "/v1/models", key=key)).status == 503 and answer)
    assert stale.error["code"] == "auth_stale"
    node.cluster.start()
    until(lambda: request(node.url, "GET", "/v1/models", key=key).status == 200)


@pytest.mark.parametrize("is_limited", [True, False])
def test_connections_cut_at_any_moment_lose_nothing_and_leave_no_hold(node, simulator, is_limited):
    """Also while a commit is under way, when nobody knows whether it was done."""
    project = node.default_project
    if is_limited:
        node.limit(project, 1_000)
    key = node.key(project)["value"]
    over = threading.Event()

    def cut():
        with psycopg.connect(node.cluster.url, autocommit=True) as connection:
            cuts = 0
            while cuts < 40:
                cuts += len(connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tollgate'").fetchall())
                over.wait(0.02)
        over.set()

    def call(_):
        statuses = []
        while not over.is_set():
            statuses.append(node.chat(key).status)
        return statuses

    with concurrent.futures.ThreadPoolExecutor(17) as threads:
        cutting = threads.submit(cut)
        answers = [status for statuses in threads.map(call, range(16)) for status in statuses]
        cutting.result()
    assert set(answers) == {200, 503}, set(answers)
    until(lambda: node.chat(key).status == 200)
    until(lambda: ready(node) and node.get("/tollgate/v1/requests").status == 200)
    # Without a restart: what was granted and not told is void again. A reader that was cut while it rested says so once.
    def ended():
        try:
            found = node.requests()
        except AssertionError as refused:
            assert "database_unavailable" in str(refused)
            return None
        return found if all(r["state"] != "held" for r in found) else None

    settled = [r for r in until(ended) if r["state"] == "settled"]
    assert len(settled) >= answers.count(200)
    billed = sum(r["billed_input"] + r["billed_output"] for r in simulator.requests)
    assert sum(r["input_tokens"] + r["output_tokens"] for r in settled) == billed
    assert "balanced" in node.finish()


@contextlib.contextmanager
def lock_taken_from(node):
    """Somebody else has the lock of the one that writes."""
    with psycopg.connect(node.url_of_database, autocommit=True) as other:
        [(lock,)] = other.execute("SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory'").fetchall()
        other.execute("SET lock_timeout = 0")
        taken = threading.Thread(target=lambda: other.execute(f"SELECT pg_advisory_lock({lock})"))
        taken.start()
        until(lambda: node.cluster.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))
        node.cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        taken.join()
        yield


def test_a_node_that_lost_its_lock_writes_no_more(node):
    """As after a network split: somebody else has the database now."""
    key = node.key(node.default_project)["value"]
    with lock_taken_from(node):
        assert node.post("/v1/organization/projects", {"name": "Never"}).status == 503
        assert node.chat(key).status == 503
    assert until(lambda: node.post("/v1/organization/projects", {"name": "Again"}).status == 200)
    assert [p["name"] for p in node.get("/v1/organization/projects").json["data"]] == ["Default project", "Again"]


def ended(node):
    """A node ends by itself where what it knows is not what is stored."""
    until(lambda: node.process.process.poll() is not None)
    assert node.process.process.returncode != 0
    return node.log.read_text()


def test_a_node_that_finds_somebody_else_has_served_ends(node, tmp_path):
    """As after a network split that was long enough for a supervisor to start another. Its holds were settled by the other."""
    key = node.key(node.default_project)["value"]
    node.cluster.execute("UPDATE installation SET value = 'another' WHERE name = 'served_by'", database="tollgate")
    node.cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tollgate'")
    assert "another process has served" in ended(node)
    node.start()
    assert node.chat(key).status == 200


@pytest.mark.parametrize("is_newer", [False, True])
def test_a_node_ends_when_its_database_is_an_older_copy(node, is_newer):
    """As after a failover to a standby that lacks the last commits, or a restore: a key that was revoked would live."""
    node.project("Before")
    if is_newer:
        # The other history has gone on, with as many changes of its own.
        node.cluster.execute("UPDATE change_log SET entity_id = 'proj_other' WHERE seq = (SELECT MAX(seq) FROM change_log)", database="tollgate")
    else:
        node.cluster.execute("DELETE FROM change_log WHERE seq = (SELECT MAX(seq) FROM change_log)", database="tollgate")
    assert "older copy of itself" in ended(node)
    node.start()
    assert node.get("/v1/organization/projects").status == 200


def test_an_idle_node_is_ready_again_by_itself(node):
    with lock_taken_from(node):
        until(lambda: not ready(node))
    until(lambda: ready(node))


@pytest.fixture
def authority(tmp_path):
    """A certificate of 127.0.0.1 and the authority that signed it, where PostgreSQL can read them."""
    directory = subprocess.run(["mktemp", "-d", "/tmp/tollgate-postgres-tls-XXXXXX"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    ca, key, cert = (f"{directory}/{name}" for name in ("ca.pem", "server.key", "server.pem"))
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
    subprocess.run([*openssl, "-keyout", f"{directory}/ca.key", "-out", ca, "-subj", "/CN=Test CA"], check=True, stderr=subprocess.DEVNULL)
    subprocess.run([*openssl, "-CA", ca, "-CAkey", f"{directory}/ca.key", "-keyout", key, "-out", cert, "-subj", "/CN=database",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["chown", "-R", "nobody:nogroup", directory], check=False)
    yield ca, cert, key
    subprocess.run(["rm", "-rf", directory], check=True)


def test_tls_is_verified_and_a_password_is_shown_nowhere(cluster, authority, tmp_path):
    ca, cert, key = authority
    made = cluster("ssl=on", f"ssl_cert_file={cert}", f"ssl_key_file={key}")
    made.database()
    made.execute("CREATE ROLE app LOGIN PASSWORD 'canary-password'")
    made.execute("GRANT CREATE ON SCHEMA public TO app", database="tollgate")
    with open(f"{made.directory}/data/pg_hba.conf", "w") as rules:
        rules.write("host all tollgate 127.0.0.1/32 trust\nhostssl all app 127.0.0.1/32 scram-sha-256\n")
    made.execute("SELECT pg_reload_conf()")
    port = made.url.split(":")[-1].split("/")[0]
    url = f"postgres://app:canary-password@127.0.0.1:{port}/tollgate"

    def refused(url):
        done = run("serve", "--database", url, "--secrets", tmp_path / "s.json", "--listen", "127.0.0.1:0", "--bootstrap-file", tmp_path / "b.json")
        assert done.returncode == 1 and "canary-password" not in done.stderr, done.stderr
        return done.stderr

    assert "certificate" in refused(f"{url}?sslmode=require"), "an authority that the system does not know"
    assert "no encryption" in refused(f"{url}?sslmode=disable")
    assert "password authentication failed" in refused(f"{url.replace('canary', 'wrong')}?sslmode=verify-full&sslrootcert={ca}")
    assert "cannot be read" in refused(f"{url}?sslmode=require&sslrootcert={tmp_path}/none.pem")
    node = Node(tmp_path, f"{url}?sslmode=verify-full&sslrootcert={ca}")
    [(encrypted,)] = made.execute("SELECT bool_and(ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE application_name = 'tollgate'")
    assert encrypted
    node.finish()
    assert "canary-password" not in node.log.read_text()
    assert "canary-password" not in run("serve", "--help", env={"TOLLGATE_DATABASE": url}).stdout


def test_a_database_that_is_not_usable_is_told(cluster, tmp_path):
    made = cluster()
    made.execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    serve = ["serve", "--secrets", tmp_path / "s.json", "--listen", "127.0.0.1:0", "--bootstrap-file", tmp_path / "b.json", "--database"]
    base = made.url.rsplit("/", 1)[0]
    assert "ENCODING 'UTF8'" in run(*serve, f"{base}/latin", check=1).stderr
    assert 'database "none" does not exist' in run(*serve, f"{base}/none", check=1).stderr
    made.stop()
    assert "cannot be reached" in run(*serve, f"{base}/postgres", check=1).stderr
    assert not (tmp_path / "b.json").exists()


@pytest.mark.embedded
def test_an_installation_moves_to_postgresql_with_all_it_has(server, simulator, cluster, tmp_path):
    server.upstream(simulator)
    project = server.project("Moved")
    key, revoked = server.key(project), server.key(project, "revoked")
    server.limit(project, 1_000)
    server.delete(f"/v1/organization/projects/{project}/api_keys/{revoked['id']}")
    group = server.post("/v1/organization/groups", {"name": "Team"}).json["id"]
    server.post(f"/v1/organization/groups/{group}/users", {"user_id": server.owner})
    assert {server.chat(key["value"]).status for _ in range(20)} == {200}
    [page] = [server.get(path).json for path in (f"/v1/organization/projects/{project}/spend_limit",)]
    requests = server.requests()
    made = cluster()
    url = made.database()
    running = run("copy", "--from", server.data, "--to", url)
    assert running.returncode == 1 and "in use by another process" in running.stderr, "not while it is served"
    assert server.process.stop() == 0
    first = run("copy", "--from", server.data, "--to", url, check=0)
    books = [line.split(": ", 1)[1] for line in first.stdout.splitlines() if "balanced" in line]
    assert len(books) == 2 and books[0] == books[1] and books[0].startswith("20 attempts, 0 open holds"), first.stdout
    assert run("copy", "--from", server.data, "--to", url, check=0).stdout == first.stdout, "as often as you like"

    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "secrets").mkdir()
    (moved / "secrets/master.json").write_bytes(server.master.read_bytes())
    (moved / "secrets/master.json").chmod(0o600)
    (moved / "bootstrap.json").write_text(server.bootstrap_file.read_text())
    node = Node(moved, url)
    assert node.requests() == requests
    assert node.get(f"/v1/organization/projects/{project}/spend_limit").json == page
    assert node.chat(key["value"]).status == 200 and node.chat(revoked["value"]).status == 401
    assert node.get(f"/v1/organization/groups/{group}/users").json["data"][0]["id"] == server.owner
    assert len(node.requests()) == 21
    assert node.process.stop() == 0
    refused = run("copy", "--from", server.data, "--to", url)
    assert refused.returncode == 1 and "has been served since" in refused.stderr, "nothing is overwritten"
    assert run("audit", "verify", *node.place_and_secrets).returncode == 0
    node.finish()
    server.start()


@pytest.mark.embedded
def test_both_engines_have_the_same_tables(server, cluster):
    made = cluster()
    url = made.database()
    server.process.stop()
    run("copy", "--from", server.data, "--to", url, check=0)
    assert Postgres(url).columns() == server.store.columns()
