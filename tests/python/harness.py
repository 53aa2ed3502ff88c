"""A real server process over a real simulated provider, and clients for both.

Each test has its own. When it ends, the server must stop cleanly, the books must balance, and none of the secrets it
handled may be found in anything the server wrote.
"""

import base64
import contextlib
import http.client
import http.server
import json
import os
import pathlib
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
import urllib.parse
import uuid

import psycopg
from openai import OpenAI

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("TOLLGATE_BINARY", ROOT / "target/debug/tollgate"))
FULL = bool(os.environ.get("TOLLGATE_TEST_FULL"))
# The URL of a PostgreSQL server for tests, as `tests/postgres start` prints it; without it the embedded database is tested.
POSTGRES = os.environ.get("TOLLGATE_TEST_POSTGRES")
START_TIMEOUT = 60
UPSTREAM_SECRET = "sk-upstream-canary-0123456789abcdef"


def clean_environment(**more):
    """The environment without anything that would configure the program or the SDK by accident."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TOLLGATE_", "OPENAI_"))}
    return {**kept, **more}


def run(*args, stdin=None, env=None, check=None):
    """Runs the program to its end."""
    done = subprocess.run(
        [BINARY, *map(str, args)], input=stdin, env=clean_environment(**(env or {})), capture_output=True, text=True,
        timeout=120)
    if check is not None:
        assert done.returncode == check, (done.returncode, done.stdout, done.stderr)
    return done


def until(condition, seconds=60):
    """Asks again and again until the answer is yes, and returns it. A test that waits for what never comes fails."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
    return found


class Process:
    """A program that says on its first line where it listens."""

    def __init__(self, log, *args, env=None):
        self.log = log
        with open(log, "ab") as stderr:
            self.process = subprocess.Popen(
                [BINARY, *map(str, args)], env=clean_environment(**(env or {})), stdout=subprocess.PIPE, stderr=stderr,
                text=True)
        line = []
        reader = threading.Thread(target=lambda: line.append(self.process.stdout.readline()), daemon=True)
        reader.start()
        reader.join(START_TIMEOUT)
        self.url = line[0].strip() if line else ""
        if not self.url:
            self.process.kill()
            raise AssertionError(f"did not start: {pathlib.Path(log).read_text()}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def kill(self):
        self.process.kill()
        self.process.wait(timeout=60)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]

    def __repr__(self):
        return f"{self.status} {self.body[:500]!r}"


def request(url, method, path, key=None, body=None, headers=None, query=None, tls=None):
    """One request, without any SDK's help. A `body` that is not bytes goes as JSON."""
    address = urllib.parse.urlsplit(url)
    if address.scheme == "https":
        connection = http.client.HTTPSConnection(address.hostname, address.port, timeout=60, context=tls)
    else:
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    headers = dict(headers or {})
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
    if query:
        path += "?" + urllib.parse.urlencode(query, doseq=True)
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class Simulator:
    def __init__(self, home):
        self.process = Process(home / "simulator.log", "simulate", "--listen", "127.0.0.1:0")
        self.base_url = self.process.url
        self.root = self.base_url.removesuffix("/v1")

    def config(self, **script):
        answer = request(self.root, "POST", "/_simulate/config", body=script)
        assert answer.status == 200, answer

    def reset(self):
        assert request(self.root, "POST", "/_simulate/reset", body={}).status == 200

    @property
    def requests(self):
        return request(self.root, "GET", "/_simulate/requests").json["data"]

    def stop(self):
        self.process.stop()


class SocketUpstream:
    """An upstream that does with every connection as `serve(connection)` of a subclass says, bytes and all."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.base_url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def stop(self):
        self.listener.close()


def simulate(**script):
    """What the simulated provider is to do, as it stands in a request."""
    return {"metadata": {"simulate": json.dumps(script)}}


def billed(simulator):
    """Input and output tokens of each request, as the simulated provider counted them."""
    return [(entry["billed_input"], entry["billed_output"]) for entry in simulator.requests]


def recorded(gateway):
    """The same as it stands on the books, in the order of the requests."""
    return [(r["input_tokens"], r["output_tokens"]) for r in settled(gateway, 0)[::-1]]


def settled(gateway, count=1):
    """All requests, the newest first, when there are so many and none is under way: a stream may be at its end for its
    reader before that is written."""
    ended = lambda rows: len(rows) >= count and all(row["state"] != "held" for row in rows) and [rows]
    return until(lambda: ended(gateway.requests()))[0]


class Fake:
    """An upstream that does as a test says: `answer(body, handler)` returns a status and an object, or writes by itself."""

    def __init__(self, answer, models=("fake",)):
        fake = self
        self.bodies = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def send_json(self, status, value, **headers):
                body = json.dumps(value).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.send_json(200, {"object": "list", "data": [{"id": model, "object": "model", "owned_by": "fake"} for model in models]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.bodies.append(body)
                answered = answer(body, self)
                if answered is not None:
                    self.send_json(*answered)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.base_url = f"http://127.0.0.1:{self.server.server_port}/v1"

    @staticmethod
    def completion(output=5, text="Hello", **usage):
        usage = {"prompt_tokens": 10, "completion_tokens": output, "total_tokens": 10 + output, **usage}
        return {"id": "x", "object": "chat.completion", "created": 1, "model": "fake", "usage": usage,
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}]}

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Embedded:
    """The embedded database of a server, looked at from outside."""

    def __init__(self, data):
        self.file = data / "tollgate.db"
        self.flags = []

    @contextlib.contextmanager
    def open(self):
        database = sqlite3.connect(self.file)
        with database:
            yield database
        database.close()

    def columns(self):
        with self.open() as database:
            tables = [name for name, in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            return {table: [row[1] for row in database.execute(f"PRAGMA table_info({table})")] for table in tables}

    def dump(self):
        return b""  # its files are in the server's directory

    def drop(self):
        pass


class Postgres:
    """A database of its own on the server for tests."""

    def __init__(self, url=None):
        self.url = url
        if url is None:
            self.name = f"test_{uuid.uuid4().hex}"
            self.maintain(f"CREATE DATABASE {self.name}")
            self.url = POSTGRES.rsplit("/", 1)[0] + "/" + self.name
        self.flags = ["--database", self.url]

    @staticmethod
    def maintain(sql):
        with psycopg.connect(POSTGRES, autocommit=True) as connection:
            connection.execute(sql)

    @contextlib.contextmanager
    def open(self):
        with psycopg.connect(self.url) as connection:
            yield Translating(connection)

    def columns(self):
        sql = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' ORDER BY ordinal_position"
        columns = {}
        with self.open() as database:
            for table, column in database.execute(sql):
                columns.setdefault(table, []).append(column)
        return columns

    def dump(self):
        with self.open() as database:
            return "\n".join(
                (bytes(value).hex() if isinstance(value, (bytes, memoryview)) else str(value))
                for table in self.columns() for row in database.execute(f"SELECT * FROM {table}") for value in row).encode()

    def drop(self):
        self.maintain(f"DROP DATABASE {self.name} WITH (FORCE)")


class Translating:
    """What tests write for the embedded database, on PostgreSQL."""

    def __init__(self, connection):
        self.connection = connection

    def execute(self, sql, values=()):
        return self.connection.execute(sql.replace("%", "%%").replace("?", "%s"), values)


class Server:
    """A server in a directory of its own."""

    def __init__(self, home, *flags, env=None):
        # Hundreds of servers share the disk of a test machine: what each puts aside is small.
        self.home, self.flags, self.env = home, flags, {"TOLLGATE_BALLAST_MEBIBYTES": "1", **(env or {})}
        self.data = home / "data"
        self.make_place()
        self.log = home / "server.log"
        self.bootstrap_file = home / "bootstrap.json"
        self.secrets = set()
        self.fakes = []
        self.process = None
        self.start()
        self.bootstrap = json.loads(self.bootstrap_file.read_text())
        self.admin_key = self.remember(self.bootstrap["admin_api_key"])
        self.organization = self.bootstrap["organization_id"]
        self.default_project = self.bootstrap["project_id"]
        self.owner = self.bootstrap["user_id"]

    def make_place(self):
        self.store = Postgres() if POSTGRES else Embedded(self.data)
        self.place = [*self.store.flags, "--data", self.data]
        self.master = self.data / "secrets/master.json"

    def start(self):
        self.process = Process(
            self.log, "serve", *self.place_and_secrets, "--listen", "127.0.0.1:0", "--bootstrap-file", self.bootstrap_file,
            *self.flags, env=self.env)
        self.url = self.process.url
        self.base_url = self.url + "/v1"

    @property
    def place_and_secrets(self):
        return [*self.place, "--secrets", self.master]

    def restart(self):
        assert self.process.stop() == 0
        self.start()

    def database(self):
        """Its database, past the program. `execute` takes `?` for parameters."""
        return self.store.open()

    def stored(self):
        """All there is in the database, but for when keys were last used."""
        columns = {table: [name for name in names if name != "last_used_at"] for table, names in self.store.columns().items()}
        with self.database() as database:
            return {table: sorted(map(repr, database.execute(f"SELECT {', '.join(names)} FROM {table}"))) for table, names in columns.items()}

    def remember(self, secret):
        """Notes a secret that must not be found anywhere when the test is over."""
        self.secrets.add(secret)
        return secret

    # Clients

    def client(self, key=None, admin_key=None, **options):
        options = {"max_retries": 0, "_strict_response_validation": True, **options}
        return OpenAI(base_url=self.base_url, api_key=key or "unused", admin_api_key=admin_key, **options)

    @property
    def admin(self):
        """The administration resources of the official SDK, as the owner."""
        return self.client(admin_key=self.admin_key).admin.organization

    def call(self, method, path, body=None, key=None, **more):
        return request(self.url, method, path, key=key or self.admin_key, body=body, **more)

    def get(self, path, key=None, **query):
        return self.call("GET", path, key=key, query=query)

    def post(self, path, body=None, key=None):
        return self.call("POST", path, body if body is not None else {}, key=key)

    def delete(self, path, key=None):
        return self.call("DELETE", path, key=key)

    # What most tests begin with

    def fake(self, answer, **facts):
        """An upstream with the model `fake`, at a dollar per million tokens in and ten out."""
        fake = Fake(answer)
        self.fakes.append(fake)
        made = self.post("/tollgate/v1/upstreams", {"name": f"fake{len(self.fakes)}", "base_url": fake.base_url})
        assert made.status == 200, made
        fake.id = made.json["id"]
        facts = {"input_price": "1", "output_price": "10", "max_output_tokens": 4096, "context_tokens": 8192, **facts}
        assert self.post("/tollgate/v1/models/fake", facts).status == 200
        return fake

    def upstream(self, simulator, **more):
        body = {"name": "simulator", "base_url": simulator.base_url, "api_key": UPSTREAM_SECRET, **more}
        self.remember(body["api_key"])
        answer = self.post("/tollgate/v1/upstreams", body)
        assert answer.status == 200, answer
        return answer.json

    def project(self, name="Project"):
        answer = self.post("/v1/organization/projects", {"name": name})
        assert answer.status == 200, answer
        return answer.json["id"]

    def key(self, project, name="Key", **more):
        answer = self.post(f"/v1/organization/projects/{project}/api_keys", {"name": name, **more})
        assert answer.status == 200, answer
        self.remember(answer.json["value"])
        return answer.json

    def user(self, email="ada@example.com", role="reader", **more):
        answer = self.post("/tollgate/v1/users", {"email": email, "name": email.split("@")[0], "role": role, **more})
        assert answer.status == 200, answer
        return answer.json["id"]

    def limit(self, project, cents):
        body = {"threshold_amount": cents, "currency": "USD", "interval": "month"}
        answer = self.post(f"/v1/organization/projects/{project}/spend_limit", body)
        assert answer.status == 200, answer
        return answer.json

    def chat(self, key, text="Hello", headers=None, **body):
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **body}
        if "simulate" in body:
            body["metadata"] = {"simulate": json.dumps(body.pop("simulate"))}
        return request(self.url, "POST", "/v1/chat/completions", key=key, body=body, headers=headers)

    def requests(self, **query):
        found, after = [], None
        while True:
            page = self.get("/tollgate/v1/requests", limit=100, **query, **({"after": after} if after else {}))
            assert page.status == 200, page
            found += page.json["data"]
            after = page.json["last_id"]
            if not page.json["has_more"]:
                return found

    # The end

    def fsck(self):
        return run("fsck", *self.place)

    def finish(self):
        [fake.stop() for fake in self.fakes]
        if self.process.process.poll() is None:
            self.assert_no_secret_is_stored()  # while the database has its log beside it
            assert self.process.stop() == 0, self.log.read_text()
        checked = self.fsck()
        assert checked.returncode == 0, checked.stdout
        assert "panicked" not in self.log.read_text(errors="replace"), self.log.read_text(errors="replace")
        self.assert_no_secret_is_stored()
        self.store.drop()

    def assert_no_secret_is_stored(self):
        master = self.master
        spared = {self.bootstrap_file, master, *self.home.glob("*.spared")}
        needles = {}
        for secret in self.secrets:
            raw = secret.encode()
            needles[raw] = needles[raw.hex().encode()] = needles[raw.hex().upper().encode()] = secret
            # In base64 a text looks different at each of three offsets; the middle of each is the same everywhere.
            for offset in range(3):
                coded = base64.b64encode(b"\0" * offset + raw)
                needles[coded[4:-4]] = secret
        if master.exists():
            for keys in json.loads(master.read_text()).values():
                for key in keys:
                    raw = base64.b64decode(key["key"])
                    needles[raw] = needles[key["key"].encode()] = needles[raw.hex().encode()] = "a master key"
        dump = self.store.dump()
        for needle, secret in needles.items():
            assert needle not in dump, f"{secret} is in the database"
        for path in self.home.rglob("*"):
            if path.is_file() and path not in spared:
                content = path.read_bytes()
                for needle, secret in needles.items():
                    assert needle not in content, f"{secret} is in {path}"
