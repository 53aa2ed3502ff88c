"""Signing in by a provider of identities, which the tests start."""

import base64
import concurrent.futures
import hashlib
import http.server
import json
import re
import secrets
import threading
import time
import urllib.parse

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from browser import Person, chromium
from harness import Server, request, run, until


class Provider:
    """A provider of identities with one person at a time, who is `claims`; `change` of a token spoils it."""

    def __init__(self):
        provider = self
        self.client_id, self.secret = "tollgate-tests", "client-secret-canary-0123456789"
        self.claims = {"sub": "1", "email": "ada@example.com", "email_verified": True, "name": "Ada"}
        self.of_userinfo = {}
        self.change, self.header, self.signs = {}, {}, None
        self.codes, self.seen = {}, []
        self.gate = threading.Event()
        self.gate.set()
        self.methods = ["client_secret_basic"]
        self.new_key()

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, value, status=200):
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                path, query = urllib.parse.urlsplit(self.path).path, dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
                provider.seen.append(path)
                provider.gate.wait(30)
                if path == "/realm/.well-known/openid-configuration":
                    self.answer({"issuer": provider.issuer, "authorization_endpoint": provider.issuer + "/authorize", "token_endpoint": provider.issuer + "/token",
                                 "jwks_uri": provider.issuer + "/keys", "userinfo_endpoint": provider.issuer + "/userinfo", "token_endpoint_auth_methods_supported": provider.methods})
                elif path == "/realm/keys":
                    self.answer({"keys": [{**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(provider.key.public_key())), "kid": provider.kid, "use": "sig", "alg": "RS256"}]})
                elif path == "/realm/authorize":
                    assert query["response_type"] == "code" and query["client_id"] == provider.client_id and query["code_challenge_method"] == "S256" and "openid" in query["scope"].split()
                    code = secrets.token_hex(8)
                    provider.codes[code] = query
                    self.send_response(302)
                    self.send_header("Location", query["redirect_uri"] + "?" + urllib.parse.urlencode({"code": code, "state": query["state"]}))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif path == "/realm/userinfo" and self.headers["Authorization"] == "Bearer access-token":
                    self.answer({"sub": provider.claims["sub"], **provider.of_userinfo})
                else:
                    self.answer({}, 404)

            def do_POST(self):
                form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                asked = provider.codes.pop(form.get("code"), None)
                basic = "Basic " + base64.b64encode(f"{provider.client_id}:{provider.secret}".encode()).decode()
                knows = self.headers["Authorization"] == basic if provider.methods == ["client_secret_basic"] else form.get("client_secret") == provider.secret
                if not knows:
                    return self.answer({"error": "invalid_client"}, 401)
                challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest()).rstrip(b"=").decode()
                if asked is None or asked["redirect_uri"] != form["redirect_uri"] or asked["code_challenge"] != challenge:
                    return self.answer({"error": "invalid_grant"}, 400)
                now = int(time.time())
                claims = {"iss": provider.issuer, "aud": provider.client_id, "iat": now, "exp": now + 300, "nonce": asked["nonce"], **provider.claims, **provider.change}
                self.answer({"token_type": "Bearer", "access_token": "access-token", "id_token": provider.sign({name: value for name, value in claims.items() if value is not None})})

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.root = f"http://127.0.0.1:{self.server.server_port}"
        self.issuer = self.root + "/realm"

    def new_key(self):
        self.key, self.kid = rsa.generate_private_key(public_exponent=65537, key_size=2048), secrets.token_hex(4)

    def sign(self, claims):
        if self.signs:
            return self.signs(claims)
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": self.kid, **self.header})

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def provider():
    provider = Provider()
    yield provider
    provider.stop()


@pytest.fixture
def start(tmp_path, provider):
    """Starts a server that people sign in to by the provider."""
    started = []

    def start(*flags):
        home = tmp_path / "server"
        home.mkdir(exist_ok=True)
        server = Server(home, "--oidc-issuer", provider.issuer, "--oidc-client-id", provider.client_id, *flags, env={"TOLLGATE_OIDC_CLIENT_SECRET": provider.secret})
        server.remember(provider.secret)
        started.append(server)
        return server

    yield start
    for server in started:
        server.finish()


def sign_in(server, next="/me", tamper=None):
    """As a browser would: the cookie that is kept, the provider's answer, and what comes of it."""
    begun = request(server.url, "GET", f"/oidc?next={urllib.parse.quote(next)}")
    assert begun.status == 303, begun
    kept = begun.headers["set-cookie"]
    assert "SameSite=Lax" in kept and "HttpOnly" in kept and kept.startswith("__Host-tollgate-oidc=")
    cookie = kept.split(";")[0]
    location = urllib.parse.urlsplit(begun.headers["location"])
    went = request(f"http://{location.netloc}", "GET", f"{location.path}?{location.query}")
    back = urllib.parse.urlsplit(went.headers["location"])
    assert f"{back.scheme}://{back.netloc}{back.path}" == server.url + "/oidc/callback"
    query = back.query
    if tamper:
        cookie, query = tamper(cookie, query)
    answer = request(server.url, "GET", f"/oidc/callback?{query}", headers={"cookie": cookie} if cookie else {})
    answer.query, answer.kept = query, cookie
    answer.cookie = None
    if answer.status == 200 and "set-cookie" in answer.headers:
        found = re.search(r"__Host-tollgate=([0-9a-f]{64})", answer.headers["set-cookie"])
        if found:
            answer.cookie = f"__Host-tollgate={server.remember(found[1])}"
    return answer


def text(answer):
    return re.sub(r"<[^>]+>", " ", answer.body.decode())


def test_whoever_the_provider_knows_signs_in_and_comes_back_to_where_they_were(start, provider):
    server = start("--oidc-default", "reader")
    done = sign_in(server, next="/me?x=1")
    assert done.cookie and b"url=/me?x=1" in done.body, done
    page = request(server.url, "GET", "/me", headers={"cookie": done.cookie})
    assert page.status == 200 and b"ada@example.com" in page.body and b"oidc" in page.body
    [ada] = server.get("/v1/organization/users", emails="ada@example.com").json["data"]
    assert (ada["name"], ada["role"]) == ("Ada", "reader")
    events = [event["type"] for event in server.get("/v1/organization/audit_logs").json["data"]]
    assert events.count("user.added") == 2 and events.count("login.succeeded") == 1
    # The second time there is nothing to change.
    assert sign_in(server).cookie
    events = [event["type"] for event in server.get("/v1/organization/audit_logs").json["data"]]
    assert events.count("user.added") == 2 and events.count("login.succeeded") == 2
    # A code works once.
    again = request(server.url, "GET", f"/oidc/callback?{done.query}", headers={"cookie": done.kept})
    assert again.status == 401 and "used or is too old" in text(again)


def test_in_a_browser(start, provider):
    server = start("--oidc-default", "reader")
    with chromium() as browser:
        context = browser.new_context()
        ada = Person(server, context)
        ada.page.goto(server.url + "/projects")
        ada.heading("Sign in")
        ada.page.get_by_role("link", name="Sign in by").click()
        ada.heading("Projects")
        assert ada.page.url == server.url + "/projects"
        assert all(fault.startswith("left the site: " + provider.root) for fault in ada.faults), ada.faults
        # What follows from another site's link brings the strict cookie after one step of our own.
        ada.page.goto(provider.root + "/elsewhere")
        ada.page.evaluate(f"location.href = '{server.url}/me'")
        ada.heading("You and your keys")
        context.close()


def test_groups_are_given_and_taken_at_every_signing_in(start, provider):
    server = start()
    group = server.post("/v1/organization/groups", {"name": "Engineers"}).json["id"]
    role = server.post("/v1/organization/roles", {"role_name": "Accountant", "permissions": ["api.usage.read"]}).json["id"]
    assert server.process.stop() == 0
    server.flags = [*server.flags, "--oidc-groups", f"eng={group}", f"money={role}", "bosses=owner"]
    server.start()
    # Nobody becomes anything by a group that means nothing.
    provider.claims["groups"] = ["other"]
    refused = sign_in(server)
    assert refused.status == 403 and "member of no organization" in text(refused) and refused.cookie is None
    provider.claims["groups"] = ["eng", "money", "other"]
    done = sign_in(server)
    assert done.cookie
    [ada] = server.get("/v1/organization/users", emails="ada@example.com").json["data"]
    roles = lambda: sorted(role["name"] for role in server.get(f"/v1/organization/users/{ada['id']}/roles").json["data"])
    members = lambda: [user["id"] for user in server.get(f"/v1/organization/groups/{group}/users").json["data"]]
    assert members() == [ada["id"]] and roles() == ["Accountant", "reader"]
    assert request(server.url, "GET", "/usage", headers={"cookie": done.cookie}).status == 200
    provider.claims["groups"] = "bosses"
    assert sign_in(server).cookie
    assert members() == [] and roles() == ["owner", "reader"]
    # What an older session may is what its person may now.
    assert request(server.url, "GET", "/people", headers={"cookie": done.cookie}).status == 200
    provider.claims["groups"] = []
    assert sign_in(server).cookie
    assert roles() == ["reader"] and request(server.url, "GET", "/people", headers={"cookie": done.cookie}).status == 403
    told = [event["type"] for event in server.get("/v1/organization/audit_logs", limit=100).json["data"]]
    assert told.count("group.updated") == 2 and told.count("role.assignment.deleted") == 2
    # Removed by hand, and known to the provider in no group that counts: out.
    assert server.delete(f"/v1/organization/users/{ada['id']}").status == 200
    assert request(server.url, "GET", "/me", headers={"cookie": done.cookie}).status == 303
    assert sign_in(server).status == 403


def test_the_last_owner_stays_one(start, provider):
    server = start("--oidc-groups", "bosses=owner")
    provider.claims |= {"email": "owner@localhost.example", "groups": ["bosses"]}
    assert sign_in(server).cookie
    assert server.post(f"/v1/organization/users/{server.owner}", {"role": "reader"}).status == 200
    provider.claims["groups"] = []
    assert sign_in(server).cookie
    with server.database() as database:
        assert database.execute("SELECT COUNT(*) FROM role_assignment WHERE role_id = 'role-api-organization-owner'").fetchone()[0] == 1


def test_an_account_is_found_by_its_subject_and_not_given_to_the_next_of_its_address(start, provider):
    server = start("--oidc-default", "reader")
    assert sign_in(server).cookie
    provider.claims |= {"email": "ada.married@example.com"}
    assert sign_in(server).cookie
    assert len(server.get("/v1/organization/users").json["data"]) == 2, "she is who she was"
    provider.claims |= {"sub": "2", "email": "ada@example.com"}
    refused = sign_in(server)
    assert refused.status == 401 and "somebody else" in text(refused)
    for verified in (False, "false", None):
        provider.claims |= {"sub": "3", "email": "owner@localhost", "email_verified": verified}
        refused = sign_in(server)
        assert refused.status == 401 and "not verified" in text(refused), verified
    provider.claims["email"] = None
    assert "no e-mail address" in text(sign_in(server))


def test_an_address_is_believed_where_the_operator_says_so(start, provider):
    server = start("--oidc-default", "reader", "--oidc-trust-addresses")
    provider.claims["email_verified"] = None
    assert sign_in(server).cookie
    provider.claims |= {"sub": "2", "email": "eve@example.com", "email_verified": False}
    assert "not verified" in text(sign_in(server)), "that it is not is said"


def test_what_an_id_token_does_not_say_the_provider_is_asked(start, provider):
    server = start("--oidc-default", "reader", "--oidc-groups", "bosses=owner", "--oidc-groups-claim", "teams")
    provider.methods = ["client_secret_post"]
    provider.claims = {"sub": "1"}
    provider.of_userinfo = {"email": "ada@example.com", "email_verified": True, "teams": ["bosses"]}
    assert sign_in(server).cookie
    [ada] = server.get("/v1/organization/users", emails="ada@example.com").json["data"]
    assert ada["role"] == "owner"
    provider.of_userinfo["sub"] = "2"
    assert "somebody else" in text(sign_in(server))


def forged(provider, **more):
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return lambda claims: jwt.encode({**claims, **more}, other, algorithm="RS256", headers={"kid": provider.kid})


@pytest.mark.parametrize("what", ["nonce", "no nonce", "audience", "issuer", "expired", "not yet", "azp", "none", "hmac", "other key", "unknown kid", "curve", "no expiry", "no subject", "rubbish"])
def test_a_token_that_does_not_prove_it_is_refused(start, provider, what):
    server = start("--oidc-default", "owner")
    now = int(time.time())
    public = provider.key.public_key().public_numbers()
    spoil = {
        "nonce": {"nonce": "0" * 64}, "no nonce": {"nonce": None}, "audience": {"aud": "another"}, "issuer": {"iss": "http://127.0.0.1:1/realm"}, "expired": {"exp": now - 120},
        "not yet": {"nbf": now + 600}, "azp": {"aud": [provider.client_id, "another"], "azp": "another"}, "no expiry": {"exp": None}, "no subject": {"sub": None}}
    provider.change = spoil.get(what, {})
    unsigned = lambda claims: ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in [b'{"alg":"none","typ":"JWT"}', json.dumps(claims).encode(), b""])
    signs = {
        "none": unsigned, "hmac": lambda claims: jwt.encode(claims, f"{public.n}".encode(), algorithm="HS256", headers={"kid": provider.kid}), "other key": forged(provider),
        "unknown kid": lambda claims: jwt.encode(claims, provider.key, algorithm="RS256", headers={"kid": "unknown"}),
        "curve": lambda claims: jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={"kid": provider.kid}), "rubbish": lambda claims: "a.b.c"}
    provider.signs = signs.get(what)
    refused = sign_in(server)
    assert refused.status in (401, 502) and refused.cookie is None, (what, refused)
    assert len(server.get("/v1/organization/users").json["data"]) == 1
    # Nothing of it stays: an honest one is believed after it.
    provider.change, provider.signs = {}, None
    assert sign_in(server).cookie


def test_new_keys_of_the_provider_are_looked_for(start, provider):
    server = start("--oidc-default", "reader")
    assert sign_in(server).cookie
    provider.new_key()
    # Not more often than every half minute, or anybody could make us ask.
    early = sign_in(server)
    assert early.status == 401
    asked = provider.seen.count("/realm/keys")
    assert sign_in(server).status == 401 and provider.seen.count("/realm/keys") == asked


def test_however_many_come_at_once_one_asks_the_provider(start, provider):
    server = start()
    provider.gate.clear()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        came = [pool.submit(request, server.url, "GET", "/oidc?next=/me") for _ in range(12)]
        # The provider answers only when all of them have come.
        until(lambda: provider.seen)
        provider.gate.set()
        assert [one.result().status for one in came] == [303] * 12
    assert provider.seen.count("/realm/.well-known/openid-configuration") == provider.seen.count("/realm/keys") == 1


def test_another_browser_or_state_is_refused(start, provider):
    server = start("--oidc-default", "reader")
    tampers = {
        "no cookie": lambda cookie, query: ("", query), "another state": lambda cookie, query: (cookie, query.rsplit("=", 1)[0] + "=" + "0" * 64),
        "another cookie": lambda cookie, query: (f"__Host-tollgate-oidc={'0' * 64}.{'0' * 64}.{'0' * 64}~%2F", query),
        "no code": lambda cookie, query: (cookie, query.split("&", 1)[1]), "an error": lambda cookie, query: (cookie, "error=access_denied&error_description=%3Cb%3ENo%3C%2Fb%3E"),
    }
    for what, tamper in tampers.items():
        refused = sign_in(server, tamper=tamper)
        assert refused.status in (401, 502) and refused.cookie is None and b"<b>No" not in refused.body, (what, refused)


def test_a_provider_that_cannot_be_used_is_told_and_passwords_still_work(start, provider):
    server = start("--oidc-default", "reader")
    real, provider.issuer = provider.issuer, provider.root + "/another"
    refused = request(server.url, "GET", "/oidc")
    assert refused.status == 502 and "cannot be used" in text(refused)
    provider.issuer = real
    provider.secret += "x"
    refused = sign_in(server)
    assert refused.status == 502 and "invalid_client" in text(refused)
    provider.stop()
    assert request(server.url, "GET", "/login").status == 200


def test_without_a_provider_there_is_none(server):
    assert request(server.url, "GET", "/oidc").status == 404
    assert b"Sign in by" not in request(server.url, "GET", "/login").body


def test_a_password_that_somebody_else_chose_opens_nothing_of_whom_the_provider_knows(start, provider):
    """Whoever may invite can make an account of any address: its password is theirs, and the provider's word is not for it."""
    server = start("--oidc-default", "reader", "--oidc-groups", "bosses=owner")
    sent = server.post("/v1/organization/invites", {"email": "ada@example.com", "role": "reader", "projects": []}).json
    token = server.remember(sent["accept_url"].split("=")[1])
    password = server.remember("the password of mallory")
    assert request(server.url, "POST", "/tollgate/v1/invites/accept", body={"token": token, "name": "Mallory", "password": password}).status == 200
    provider.claims["groups"] = ["bosses"]
    refused = sign_in(server)
    assert refused.status == 401 and "with a password" in text(refused) and refused.cookie is None
    [ada] = server.get("/v1/organization/users", emails="ada@example.com").json["data"]
    assert ada["role"] == "reader", "nothing was given to it"
    # Whoever has signed in with it in the same browser has proved that it is theirs.
    post = request(server.url, "POST", "/login", body=urllib.parse.urlencode({"email": "ada@example.com", "password": password}).encode(), headers={"content-type": "application/x-www-form-urlencoded"})
    session = post.headers["set-cookie"].split(";")[0]
    server.remember(session.split("=")[1])
    done = sign_in(server, tamper=lambda cookie, query: (f"{cookie}; {session}", query))
    assert done.cookie
    # Or the operator takes it away, with what it had opened.
    provider.claims |= {"sub": "2", "email": "eve@example.com", "groups": []}
    sent = server.post("/v1/organization/invites", {"email": "eve@example.com", "role": "reader", "projects": []}).json
    token = server.remember(sent["accept_url"].split("=")[1])
    assert request(server.url, "POST", "/tollgate/v1/invites/accept", body={"token": token, "name": "Mallory", "password": password}).status == 200
    post = request(server.url, "POST", "/login", body=urllib.parse.urlencode({"email": "eve@example.com", "password": password}).encode(), headers={"content-type": "application/x-www-form-urlencoded"})
    session = post.headers["set-cookie"].split(";")[0]
    server.remember(session.split("=")[1])
    assert server.process.stop() == 0
    run("password", "clear", "eve@example.com", *server.place_and_secrets, check=0)
    server.start()
    assert request(server.url, "GET", "/me", headers={"cookie": session}).status == 303
    assert sign_in(server).cookie


def test_a_stranger_leaves_nothing_behind(start, provider):
    server = start()
    with server.database() as database:
        count = lambda: [database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("app_user", "person_identity", "audit_log")]
        before = count()
        assert sign_in(server).status == 403
        assert count() == before
    server.post("/tollgate/v1/users", {"email": "ada@example.com", "role": "reader"})
    assert sign_in(server).cookie
    told = [event for event in server.get("/v1/organization/audit_logs").json["data"] if event["type"] == "user.updated"]
    assert told[0]["user.updated"]["changes_requested"]["identity"] == "linked"
