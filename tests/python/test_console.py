"""The console in a real browser: what people do in it day to day, and what must not be possible."""

import datetime
import json
import re
import urllib.parse

import pytest
from axe_playwright_python.sync_playwright import Axe

from browser import PASSWORD, Person, chromium, path_of
from harness import FULL, Process, request, run, until

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def people(browser, gateway):
    """Makes persons, each with a browser of their own, and in the end looks whether anything went wrong in these."""
    made = []

    def person(**options):
        options = {"viewport": {"width": 1280, "height": 800}, **options}
        context = browser.new_context(**options)
        context.set_default_timeout(20_000)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=gateway.url)
        made.append(Person(gateway, context))
        return made[-1]

    yield person
    for one in made:
        assert not one.faults, one.faults
        one.context.close()


@pytest.fixture
def owner(people):
    owner = people()
    owner.sign_in_with_key()
    return owner


def chat(server, secret):
    return request(server.url, "POST", "/v1/chat/completions", key=secret, body=CHAT)


def test_the_first_day_of_an_owner(gateway, people):
    """First run, sign in, a project, a key, a request, a limit that is reached, another secret, the end of the key, and its record."""
    owner = people()
    page = owner.page
    owner.open("/projects")
    owner.heading("Sign in")
    owner.shot("sign-in")
    owner.check_accessible()
    page.get_by_role("link", name="Set one with an admin key").click()
    page.get_by_label("Admin key").fill("sk-tgadmin-nonsense")
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_role("button", name="Set the password").click()
    assert "Incorrect API key" in page.locator(".alert").inner_text()
    page.get_by_label("Admin key").fill(gateway.admin_key)
    page.get_by_label("New password").fill("short")
    page.get_by_role("button", name="Set the password").click()
    assert "from 12 to" in page.locator("#password-error").inner_text()
    owner.sign_in_with_key()
    # A lost session: signing in again leads back to where one was.
    page.get_by_role("button", name="Sign out").click()
    owner.heading("Sign in")
    owner.open("/projects/new?x=1")
    owner.sign_in("owner@localhost", "wrong password 1")
    assert "not right" in page.locator(".alert").inner_text()
    owner.sign_in("owner@localhost")
    owner.heading("New project")
    assert page.url == gateway.url + "/projects/new?x=1"

    # A form keeps what was typed, and has its message under the field.
    page.get_by_label("Name").fill("Research & <b>more</b>")
    page.get_by_label("Labels").fill("team")
    page.get_by_role("button", name="Create the project").click()
    assert "not a name" in page.locator("#labels-error").inner_text() and page.get_by_label("Name").input_value() == "Research & <b>more</b>"
    owner.check_accessible()
    page.get_by_label("Labels").fill("team=search")
    page.get_by_role("button", name="Create the project").click()
    owner.heading("Research & <b>more</b>")
    project = path_of(page.url).split("/")[2]

    # A key in its three states: what it is to be, its secret this once, its place in the list.
    page.get_by_role("link", name="Keys", exact=True).click()
    owner.heading(": keys")
    page.keyboard.press("c")
    owner.heading("create a key")
    page.get_by_label("Name").fill("laptop")
    page.get_by_label("Limit in dollars").fill("0.01")
    page.get_by_label("Expires in").select_option("2592000")
    page.get_by_role("button", name="Create the key").click()
    owner.heading("the new key")
    secret = owner.secret()
    assert "covered" in page.locator("[data-secret]").get_attribute("class") and secret not in page.url
    owner.shot("new-key")
    owner.check_accessible()
    page.get_by_role("button", name="Copy").first.click()
    until(lambda: "Copied" in page.locator(".said").inner_text())
    assert page.evaluate("navigator.clipboard.readText()") == secret
    page.get_by_role("button", name="Done").click()
    assert page.locator("tr.made th").inner_text().startswith("laptop") and secret not in page.content()
    assert page.evaluate("Object.values(localStorage).concat(Object.values(sessionStorage)).join()").find(secret) < 0

    # It is used, and the page moves by itself.
    page.get_by_role("link", name="laptop").click()
    owner.heading("laptop")
    assert "No request yet" in owner.text()
    assert chat(gateway, secret).status == 200
    page.locator("#usage td", has_text="settled").first.wait_for(timeout=30_000)
    # Its limit is reached, and seen on the page.
    until(lambda: request(gateway.url, "POST", "/v1/chat/completions", key=secret, body={**CHAT, "max_completion_tokens": 16000, "metadata": {"simulate": json.dumps({"output_tokens": 9000})}}).status == 429)
    owner.open(path_of(page.url))
    assert re.search(r"of \$0\.01", owner.text()) and "$0.00" in owner.text()
    owner.shot("key")
    owner.check_accessible()

    # Rotate with a grace, see the old one, end it.
    page.get_by_role("link", name="Rotate").click()
    page.get_by_label("How long").select_option("3600")
    page.get_by_role("button", name="Rotate").click()
    owner.heading("The new secret")
    turned = owner.secret()
    page.get_by_label("I have stored it").check()
    page.get_by_role("button", name="Done").click()
    me = lambda key: request(gateway.url, "GET", "/tollgate/v1/me", key=key).status
    assert me(secret) == me(turned) == 200
    page.get_by_role("button", name="End it now").click()
    owner.heading("laptop")
    assert (me(secret), me(turned)) == (401, 200)

    # Revoke: it says what it will hit, and wants the name typed.
    page.get_by_role("link", name="Revoke").click()
    assert "requests in the last 24 hours" in owner.text() and "Programs that used it" in owner.text()
    assert re.search(r"does not say\s+\d", page.locator("table").inner_text())
    page.get_by_label("Type laptop").fill("lap")
    page.get_by_role("button", name="Revoke the key").click()
    assert "That is not laptop" in page.locator("#confirm-error").inner_text() and me(turned) == 200
    owner.check_accessible()
    page.get_by_label("Type laptop").fill("laptop")
    page.get_by_role("button", name="Revoke the key").click()
    owner.heading("keys")
    assert me(turned) == 401 and "laptop" not in page.inner_text("table") if page.locator("table").count() else me(turned) == 401

    # All of it is on record, by who did it.
    owner.open("/audit?type=api_key.created,api_key.updated,api_key.deleted,project.created,login.succeeded,login.failed")
    told = owner.text()
    assert {"api_key.created", "api_key.updated", "api_key.deleted", "project.created", "login.succeeded", "login.failed"} <= set(told.split())
    page.get_by_text("api_key.deleted").first.click()
    assert '"type": "session"' in page.locator("details[open] pre").inner_text()
    owner.shot("audit")
    # Found by the names that people know.
    owner.open("/audit?type=api_key&actor=owner&project=more&resource=laptop")
    rows = page.locator("tbody tr").all_inner_texts()
    assert len(rows) > 3 and all("laptop" in row for row in rows), rows
    assert page.locator("tbody a[href*='/keys/']").count() == 0, "it is gone, and nothing leads to where it was"
    today = datetime.date.today()
    owner.open(f"/audit?type=api_key&since={today - datetime.timedelta(days=1)}&until={today + datetime.timedelta(days=1)}")
    assert page.locator("tbody tr").count() > 3 and page.locator(".alert").count() == 0
    owner.open(f"/audit?until={today - datetime.timedelta(days=2)}")
    assert "Nothing that fits" in owner.text()
    owner.open("/audit?type=nonsense")
    assert "No event is called anything like" in owner.text()

    # What needs somebody stands on the first page.
    key = gateway.key(project, name="busy")
    gateway.limit(project, 2)
    cent = {"model": "gpt-4o", "max_completion_tokens": 1000, "simulate": {"output_tokens": "max"}}
    assert [gateway.chat(key["value"], **cent).status for _ in range(2)] == [200, 429]
    owner.open("/")
    assert "busy was refused 1 time," in owner.text()
    owner.shot("overview-attention")


def test_a_second_person_is_invited_and_sees_what_is_theirs(gateway, owner, people):
    project = gateway.project("Shared")
    gateway.project("Secret plans")
    page = owner.page
    owner.open("/people")
    page.get_by_label("E-mail address").fill("ada@example.com")
    page.get_by_label("Into these projects").fill(project)
    page.get_by_role("button", name="Make the link").click()
    link = owner.secret()
    gateway.remember(link.split("=")[1])
    owner.check_accessible()

    ada = people()
    ada.open(link.removeprefix(gateway.url))
    ada.heading("You are invited")
    ada.check_accessible()
    ada.page.get_by_label("Your name").fill("Ada <script>alert(1)</script>")
    ada.page.get_by_label("Password").fill(gateway.remember("ada's own password"))
    ada.page.get_by_role("button", name="Accept").click()
    ada.heading("Overview")
    # What they may see is what there is to see.
    shown = ada.page.inner_text("nav[aria-label=Pages]")
    assert "You and your keys" in shown and "Audit log" not in shown and "Admin keys" not in shown and "Upstreams" not in shown
    for path in ("/audit", "/people", "/admin-keys", "/keys", "/usage", "/limits", "/settings", "/upstreams/new"):
        answer = ada.open(path)
        assert answer.status == 403, path
    ada.open("/projects")
    assert "Shared" in ada.text() and "Secret plans" not in ada.text()
    ada.shot("projects-of-a-member")
    # A key of their own, without asking anybody.
    ada.open("/me")
    ada.page.get_by_role("link", name="Create a key").click()
    ada.page.get_by_label("Name").fill("notebook")
    ada.page.get_by_role("button", name="Create the key").click()
    ada.heading("Your new key")
    secret = ada.secret()
    assert chat(gateway, secret).status == 200
    ada.page.get_by_label("I have stored it").check()
    ada.page.get_by_role("button", name="Done").click()
    ada.heading("You and your keys")
    assert re.search(r"notebook.*\$0\.0", ada.text().replace("\n", " "))
    ada.check_accessible()
    # The owner sees them by name, as text.
    owner.open("/people?q=ada")
    assert "Ada <script>alert(1)</script>" in owner.text()
    # Frozen, they are nowhere; removed, their key is nothing.
    page.get_by_role("link", name="Ada").click()
    page.get_by_role("button", name="Freeze").click()
    assert "frozen" in owner.text()
    ada.open("/me")
    ada.heading("Sign in")
    page.get_by_role("button", name="Unfreeze").click()
    page.get_by_role("link", name="Remove").click()
    page.get_by_label("Type ada@example.com").fill("ada@example.com")
    page.get_by_role("button", name="Remove them").click()
    owner.heading("Removed")
    assert chat(gateway, secret).status == 401


# Every page that an owner can look at.
PAGES = ["/", "/me", "/me/keys/new", "/me/password", "/projects", "/projects/new", "/projects/{project}", "/projects/{project}/keys", "/projects/{project}/keys/new", "/projects/{project}/keys/{key}",
         "/projects/{project}/keys/{key}/edit", "/projects/{project}/keys/{key}/rotate", "/projects/{project}/keys/{key}/revoke", "/projects/{project}/service-accounts", "/projects/{project}/members",
         "/projects/{project}/limits", "/projects/{project}/settings", "/projects/{project}/archive", "/keys", "/keys?show=ending", "/admin-keys", "/admin-keys/new", "/usage", "/usage?range=24h&what=tokens&by=model",
         "/requests", "/requests/{request}", "/limits", "/alerts", "/people", "/people/{user}", "/groups", "/groups/{group}", "/roles", "/roles/new", "/audit", "/settings", "/settings/freeze", "/prices", "/prices/gpt-4o-mini",
         "/upstreams", "/upstreams/new", "/upstreams/{upstream}", "/upstreams/{upstream}/test"]


@pytest.fixture
def furnished(gateway):
    """One of everything, with names that would do harm if they were not only names."""
    evil = '"><img src=x onerror=alert(1)>'
    project = gateway.project(f"Project {evil}")
    key = gateway.key(project, f"Key {evil}", expires_in_seconds=86_400, labels={"team": "a/b"})
    gateway.post(f"/v1/organization/projects/{project}/service_accounts", {"name": f"Account {evil}", "create_service_account_only": True})
    user = gateway.user("ada@example.com", name=f"Ada {evil}")
    gateway.admin.projects.users.create(project, user_id=user, role="member")
    group = gateway.post("/v1/organization/groups", {"name": f"Group {evil}"}).json["id"]
    gateway.post(f"/v1/organization/groups/{group}/users", {"user_id": user})
    gateway.post("/v1/organization/roles", {"role_name": f"Role {evil}", "permissions": ["api.organization.projects.read"]})
    for scope in ("organization", f"projects/{project}", f"api_keys/{key['id']}"):
        assert gateway.post(f"/tollgate/v1/{scope}/spend_limits", {"threshold_amount": 5_000, "interval": "month"}).status == 200
    gateway.post("/tollgate/v1/event_alerts", {"events": ["api_key.unused"], "notification_channel": {"type": "email", "recipients": ["a@example.com"]}})
    assert chat(gateway, key["value"]).status == 200
    answered = gateway.get("/tollgate/v1/requests").json["data"][0]["id"]
    upstream = gateway.get("/tollgate/v1/upstreams").json["data"][0]["id"]
    return {"project": project, "key": key["id"], "user": user, "group": group, "request": answered, "upstream": upstream}


@pytest.mark.timeout(300)
def test_every_page_is_sound(gateway, owner, furnished):
    """Served, without a fault in a script or a breach of the policy, and with nothing that axe calls serious, in both schemes and narrow."""
    page = owner.page
    for number, path in enumerate(PAGES):
        answer = owner.open(path.format(**furnished))
        assert answer.status == 200, (path, answer.status, owner.text())
        name = re.sub(r"\W+", "-", path).strip("-") or "overview"
        owner.shot(name)
        owner.check_accessible()
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, (path, "it is wider than a phone")
        if number % 8 == 0 or FULL:
            owner.shot(f"narrow-{name}")
        page.emulate_media(color_scheme="dark")
        owner.check_accessible()
        if number % 8 == 1 or FULL:
            owner.shot(f"dark-{name}")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 1280, "height": 800})
    assert page.locator("img").count() == 0


def test_it_is_used_by_the_keyboard_alone(gateway, owner, furnished):
    page = owner.page
    owner.open("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the page"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for key, heading in {"p": "Projects", "u": "Usage and costs", "a": "Audit log", "k": "All keys"}.items():
        page.keyboard.press("g")
        page.keyboard.press(key)
        owner.heading(heading)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.type("gp?c")
    assert page.evaluate("document.activeElement.value") == "gp?c", "no single keys while somebody types"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    owner.check_accessible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    # The palette: a page by its name, and a key by its own.
    page.keyboard.press("Control+k")
    page.keyboard.type("audit")
    page.keyboard.press("Enter")
    owner.heading("Audit log")
    page.keyboard.press("Control+k")
    page.keyboard.type("ada@")
    page.locator("#palette li[data-found]").first.wait_for()
    owner.check_accessible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    owner.heading("Ada")
    # Single keys can be turned off.
    page.keyboard.press("?")
    page.get_by_label("Single keys do something").uncheck()
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    assert not page.locator("#help").is_visible()
    # A form from its first field to its end.
    owner.open("/projects/new")
    page.get_by_label("Name").focus()
    page.keyboard.type("By keyboard")
    page.keyboard.press("Enter")
    owner.heading("By keyboard")


def test_pages_work_without_scripts(gateway, people):
    person = people(java_script_enabled=False)
    person.sign_in_with_key()
    person.page.get_by_role("link", name="Projects", exact=True).click()
    person.page.get_by_role("link", name="New project").click()
    person.page.get_by_label("Name").fill("Plain")
    person.page.get_by_role("button", name="Create the project").click()
    person.heading("Plain")
    person.page.get_by_role("link", name="Keys", exact=True).click()
    person.page.get_by_role("link", name="Create a key").click()
    person.page.get_by_label("Name").fill("plain key")
    person.page.get_by_role("button", name="Create the key").click()
    assert chat(gateway, person.secret()).status == 200


def post_form(server, path, cookie="", headers=None, **form):
    headers = {"content-type": "application/x-www-form-urlencoded", **(headers or {})}
    if cookie:
        headers["cookie"] = cookie
    return request(server.url, "POST", path, body=urllib.parse.urlencode(form).encode(), headers=headers)


def signed_in(server, key=None, password=PASSWORD):
    """A cookie and the token of its forms, without a browser."""
    server.remember(password)
    answer = post_form(server, "/setup", admin_key=key or server.admin_key, password=password)
    assert answer.status == 200, answer
    cookie = answer.headers["set-cookie"].split(";")[0]
    server.remember(cookie.split("=")[1])
    page = request(server.url, "GET", "/me/password", headers={"cookie": cookie})
    return cookie, re.search(rb'name="form_token" value="([0-9a-f]+)"', page.body)[1].decode()


def test_the_link_of_setup_signs_the_first_owner_in(browser, tmp_path):
    place = ["--data", tmp_path / "data"]
    token = run("setup", *place, "--out", tmp_path / "admin.key", check=0).stdout.strip().split("?token=")[1]
    process = Process(tmp_path / "log", "serve", *place, "--listen", "127.0.0.1:0")
    page = browser.new_page()
    page.goto(f"{process.url}/setup?token={token}")
    assert "owner@localhost" in page.inner_text("main")
    for password in ("short", PASSWORD):
        page.get_by_label("New password").fill(password)
        page.get_by_role("button", name="Set the password").click()
        if password == "short":
            assert "12" in page.locator("#password-error").inner_text()
            serious = [one["id"] for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
            assert not serious, serious
    page.get_by_role("heading", level=1, name="Overview").wait_for()
    page.close()
    page = browser.new_page()
    page.goto(f"{process.url}/setup?token={token}")
    assert "used up" in page.get_by_role("alert").inner_text() and page.get_by_label("New password").count() == 0
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("E-mail address").fill("owner@localhost")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("heading", level=1, name="Overview").wait_for()
    page.close()
    assert process.stop() == 0 and run("fsck", *place, check=0)


def test_the_audit_log_calls_keys_as_they_are_called_now(gateway, owner):
    key = gateway.key(gateway.default_project, "laptop")
    assert gateway.post(f"/v1/organization/projects/{gateway.default_project}/api_keys/{key['id']}", {"name": "ci"}).status == 200
    owner.open("/audit?type=api_key.created&resource=ci")
    assert owner.page.locator("tbody tr td:last-child").all_inner_texts()[0].split()[0] == "ci"
    assert owner.page.locator(f"tbody a[href$='/keys/{key['id']}']").count() == 1


def test_usage_is_narrowed_by_names(gateway, owner):
    project = gateway.project("Search")
    for name in ("laptop", "server"):
        assert chat(gateway, gateway.key(project, name)["value"]).status == 200
    assert chat(gateway, gateway.key(gateway.default_project, "elsewhere")["value"]).status == 200
    page = owner.page
    owner.open("/usage?by=api_key")
    assert all(name in owner.text() for name in ("laptop", "server", "elsewhere"))
    page.get_by_label("Project", exact=True).fill("sea")
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_url("**project_ids=sea**")
    assert all(name in owner.text() for name in ("laptop", "server")) and "elsewhere" not in owner.text()
    assert page.get_by_label("Project", exact=True).input_value() == "sea"
    page.get_by_label("Key", exact=True).fill("lap, elsew")
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_url("**api_key_ids=lap**")
    assert "laptop" in owner.text() and "server" not in owner.text() and "elsewhere" not in owner.text(), "both must fit"
    # What is called just so goes before what has it in its name.
    assert chat(gateway, gateway.key(gateway.project("Research"), "other")["value"]).status == 200
    owner.open("/usage?by=project&project_ids=search")
    assert "Search" in owner.text() and "Research" not in owner.text()
    owner.open("/usage?by=project&project_ids=sear")
    assert "Search" in owner.text() and "Research" in owner.text()
    page.get_by_label("Key", exact=True).fill("nothing")
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_url("**api_key_ids=nothing**")
    assert "Nothing is called anything like 'nothing'" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("Key", exact=True).input_value() == "nothing"
    owner.shot("usage-narrowed")


def test_a_form_of_another_site_does_nothing(server):
    cookie, token = signed_in(server)
    create = lambda headers=None, **form: post_form(server, "/projects/new", cookie, headers, **{"name": "Forged", **form})
    for refused in [create(), create(form_token="0" * 64), create({"sec-fetch-site": "cross-site"}, form_token=token),
                    create({"sec-fetch-site": "same-site"}, form_token=token), create({"origin": "https://evil.example"}, form_token=token), create({"origin": "null"}, form_token=token)]:
        assert refused.status == 403, refused
    assert [one["name"] for one in server.get("/v1/organization/projects").json["data"]] == ["Default project"]
    assert create({"sec-fetch-site": "same-origin"}, form_token=token).status == 303
    # Signing somebody in as somebody else is refused as well.
    assert post_form(server, "/login", headers={"sec-fetch-site": "cross-site"}, email="owner@localhost", password=PASSWORD).status == 403
    # The token of one session is not another's.
    server.post("/tollgate/v1/users", {"email": "eve@example.com", "role": "reader"})
    other, _ = signed_in(server)
    assert post_form(server, "/projects/new", other, name="x", form_token=token).status == 403


def test_what_a_browser_is_told_of_every_page(server):
    cookie, _ = signed_in(server)
    for path in ("/", "/login", "/projects", "/nothing", "/people/user-x"):
        headers = request(server.url, "GET", path, headers={"cookie": cookie}).headers
        if path == "/nothing":
            continue
        policy = headers["content-security-policy"]
        assert "unsafe" not in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "script-src 'self'" in policy
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store", path
        assert "x-request-id" in headers
    body = request(server.url, "GET", "/", headers={"cookie": cookie}).body
    assert b" style=" not in body and b" onclick" not in body and body.count(b"<script") == 1
    asset = re.search(rb'src="(/assets/console.js\?v=\w+)"', body)[1].decode()
    kept = request(server.url, "GET", asset)
    assert "immutable" in kept.headers["cache-control"] and request(server.url, "GET", asset, headers={"if-none-match": kept.headers["etag"]}).status == 304
    assert request(server.url, "GET", "/assets/../Cargo.toml").status == 404


def test_nobody_is_led_to_another_site(server):
    server.remember(PASSWORD)
    signed_in(server)
    for elsewhere in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        answer = post_form(server, "/login", email="owner@localhost", password=PASSWORD, next=elsewhere)
        assert answer.status == 200 and b"evil" not in answer.body and b"javascript:" not in answer.body and b"url=/" in answer.body
        server.remember(answer.headers["set-cookie"].split("=", 1)[1].split(";")[0])


def test_framing_is_refused(gateway, owner, people):
    visitor = people()
    visitor.page.goto("data:text/html,<p>Elsewhere</p>")
    visitor.page.set_content(f'<iframe src="{gateway.url}/login"></iframe>')
    frame = visitor.page.frames[-1]
    visitor.page.wait_for_timeout(500)
    assert "Sign in" not in (frame.content() if frame.url.startswith("http") else "")
    visitor.faults.clear()


def test_sessions_end_when_they_should(server):
    cookie, token = signed_in(server)
    me = lambda cookie: request(server.url, "GET", "/me", headers={"cookie": cookie}).status
    assert me(cookie) == 200
    # Signing in again in the same browser ends the session before: nobody can plant one.
    again = post_form(server, "/login", cookie, email="owner@localhost", password=PASSWORD)
    second = again.headers["set-cookie"].split(";")[0]
    server.remember(second.split("=")[1])
    assert second != cookie and (me(cookie), me(second)) == (303, 200)
    # Sessions live through a restart, and end with sign-out on the server's side.
    server.restart()
    assert me(second) == 200
    token = re.search(rb'name="form_token" value="([0-9a-f]+)"', request(server.url, "GET", "/me/password", headers={"cookie": second}).body)[1].decode()
    out = post_form(server, "/logout", second, form_token=token)
    assert out.status == 303 and "Max-Age=0" in out.headers["set-cookie"] and me(second) == 303
    # A new password ends all others.
    third = post_form(server, "/login", email="owner@localhost", password=PASSWORD).headers["set-cookie"].split(";")[0]
    fourth = post_form(server, "/login", email="owner@localhost", password=PASSWORD).headers["set-cookie"].split(";")[0]
    for one in (third, fourth):
        server.remember(one.split("=")[1])
    token = re.search(rb'name="form_token" value="([0-9a-f]+)"', request(server.url, "GET", "/me/password", headers={"cookie": fourth}).body)[1].decode()
    new = server.remember("another good password")
    wrong = post_form(server, "/me/password", fourth, form_token=token, current_password="x" * 12, new_password=new)
    assert wrong.status == 400 and b"current_password-error" in wrong.body
    assert post_form(server, "/me/password", fourth, form_token=token, current_password=PASSWORD, new_password=new).status == 303
    assert (me(third), me(fourth)) == (303, 200)
    # So does being nobody any more, in the middle of it.
    user = server.user("boss@example.com", role="owner")
    assert server.get(f"/v1/organization/users/{user}").status == 200
    assert server.process.stop() == 0
    with server.database() as database:
        assert database.execute("SELECT COUNT(*) FROM person_session").fetchone()[0] >= 1
        database.execute("UPDATE person_session SET last_seen_at = last_seen_at - 43201")
    server.start()
    assert me(fourth) == 303, "half a day of nothing ends it"


def test_passwords_are_throttled_and_tell_nothing(server):
    signed_in(server)
    answers = [post_form(server, "/login", email="nobody@example.com", password="x" * 12) for _ in range(3)]
    known = post_form(server, "/login", email="owner@localhost", password="x" * 12)
    strip = lambda body: re.sub(rb'value="[^"]*"', b"", body)
    assert {answer.status for answer in answers} == {401} and strip(answers[0].body) == strip(known.body)
    # A minute may end in the middle of them.
    last = [post_form(server, "/login", email="owner@localhost", password="x" * 12).status for _ in range(22)]
    assert 429 in last
    until(lambda: any(event["type"] == "login.failed" for event in server.get("/v1/organization/audit_logs").json["data"]))


def test_a_password_is_set_by_a_whole_key_alone(server):
    project = server.project()
    scoped = server.post("/v1/organization/admin_api_keys", {"name": "x", "scopes": ["api.management.read"]}).json["value"]
    ending = server.post("/v1/organization/admin_api_keys", {"name": "x", "expires_in_seconds": 60}).json["value"]
    fenced = server.post("/v1/organization/admin_api_keys", {"name": "x", "project_ids": [project]}).json["value"]
    of_project = server.key(project)["value"]
    for key in (scoped, ending, fenced, of_project):
        server.remember(key)
        answer = post_form(server, "/setup", admin_key=key, password=PASSWORD)
        assert answer.status == 400 and b"set-cookie" not in str(answer.headers).lower().encode() and b"admin_key-error" in answer.body
    with server.database() as database:
        assert database.execute("SELECT COUNT(*) FROM app_user WHERE password IS NOT NULL").fetchone()[0] == 0


def test_another_organization_is_another_world(gateway, people):
    """Somebody in two organizations looks at one at a time, and somebody in one sees nothing of the other."""
    owner = people()
    owner.sign_in_with_key()
    theirs = gateway.post("/tollgate/v1/organizations", {"name": "Theirs", "owner_email": "owner@localhost"}).json
    gateway.remember(theirs["admin_api_key"])
    gateway.project("Ours alone")
    owner.open("/projects")
    assert "Ours alone" in owner.text()
    owner.page.get_by_label("Organization").select_option(label="Theirs")
    owner.page.get_by_role("button", name="Switch").click()
    owner.heading("Overview")
    owner.open("/projects")
    assert "Ours alone" not in owner.text()
    with gateway.database() as database:
        owners = [row[0] for row in database.execute("SELECT organization_id FROM person_session")]
    assert owners == [theirs["id"]]


def test_a_key_of_one_organization_opens_no_other(server):
    """A password is all of somebody's; a key is one organization's."""
    theirs = server.post("/tollgate/v1/organizations", {"name": "Theirs", "owner_email": "bob@example.com"}).json
    key = server.remember(theirs["admin_api_key"])
    server.user("bob@example.com")
    refused = post_form(server, "/setup", admin_key=key, password=server.remember(PASSWORD))
    assert refused.status == 400 and b"several organizations" in refused.body


def test_what_is_saved_as_it_was_stays_as_it_was(server):
    """Forms show all that they save."""
    cookie, token = signed_in(server)
    default = {"threshold_amount": 5_000, "currency": "USD", "interval": "month", "mode": "observe", "time_zone": "Europe/Berlin"}
    assert server.post("/tollgate/v1/organization/default_spend_limits", {"projects": [default]}).status == 200
    page = request(server.url, "GET", "/limits", headers={"cookie": cookie}).body.decode()
    shown = re.search(r'name="projects"[^>]*value="([^"]*)"', page)[1]
    assert shown == "50.00/month observe Europe/Berlin"
    assert post_form(server, "/limits/defaults", cookie, form_token=token, projects=shown, api_keys="5/day").status == 303
    assert server.get("/tollgate/v1/organization/default_spend_limits").json["projects"] == [default]
    assert server.post("/tollgate/v1/organization/key_policy", {"max_expires_in_seconds": 129_600}).status == 200
    page = request(server.url, "GET", "/settings", headers={"cookie": cookie}).body.decode()
    shown = re.search(r'name="max_expires_in_seconds"[^>]*value="([^"]*)"', page)[1]
    assert shown == "36h" and post_form(server, "/settings/key-policy", cookie, form_token=token, max_expires_in_seconds=shown, default_expires_in_seconds="", key_owners="any").status == 303
    assert server.get("/tollgate/v1/organization/key_policy").json["max_expires_in_seconds"] == 129_600
    project = server.project()
    key = server.key(project, scopes=["api.usage.read"], expires_in_seconds=60)
    assert post_form(server, f"/projects/{project}/keys/{key['id']}/edit", cookie, form_token=token, name="renamed", permissions="", labels="team=a", expires="").status == 303
    assert server.get(f"/v1/organization/projects/{project}/api_keys/{key['id']}").json["scopes"] == ["api.usage.read"]
    assert server.get(f"/v1/organization/projects/{project}/api_keys/{key['id']}").json["name"] == "renamed"
    # A key that was to be held is not given out without its limit.
    for cap in ("0", "-5", "1,50", "x"):
        refused = post_form(server, f"/projects/{project}/keys/new", cookie, form_token=token, name="capped", permissions="all", expires="60", cap=cap, cap_interval="month", owner="")
        assert refused.status == 400 and b"cap-error" in refused.body, cap
    assert len(server.get(f"/v1/organization/projects/{project}/api_keys").json["data"]) == 1
    assert server.post("/tollgate/v1/organization/default_spend_limits", {"api_keys": [{**default, "interval": "day"}]}).status == 200
    made = post_form(server, f"/projects/{project}/keys/new", cookie, form_token=token, name="capped", permissions="all", expires="60", cap="1.50", cap_interval="day", owner="")
    assert made.status == 200, made.body
    server.remember(re.search(rb"sk-[\w-]{20,}", made.body)[0].decode())
    capped = server.get(f"/v1/organization/projects/{project}/api_keys").json["data"][-1]
    [limit] = server.get(f"/tollgate/v1/api_keys/{capped['id']}/spend_limits").json["data"]
    assert capped["name"] == "capped" and (limit["threshold_amount"], limit["mode"]) == (150, "enforce")


def test_service_accounts_models_and_limits_by_the_console(gateway):
    cookie, token = signed_in(gateway)
    project = gateway.project()
    send = lambda path, **form: post_form(gateway, path, cookie, form_token=token, **form)
    assert send(f"/projects/{project}/service-accounts", name="robot", role="member").status == 303
    [account] = gateway.get(f"/v1/organization/projects/{project}/service_accounts").json["data"]
    key = gateway.key(project, service_account_id=account["id"])["value"]
    assert account["role"] == "member" and chat(gateway, key).status == 200
    # A model that nothing is known of gets its price.
    assert request(gateway.url, "GET", "/prices/simulated-unpriced", headers={"cookie": cookie}).status == 200
    assert send("/prices/simulated-unpriced/prices", input_price="1", output_price="2").status == 303
    assert gateway.get("/tollgate/v1/models/simulated-unpriced").json["input_price"] == "1"
    # A limit is changed where it is.
    assert send(f"/projects/{project}/limits", threshold_amount="50", interval="month", time_zone="UTC", mode="enforce").status == 303
    [limit] = gateway.get(f"/tollgate/v1/projects/{project}/spend_limits").json["data"]
    assert send(f"/projects/{project}/limits/{limit['id']}", amount="60.50", mode="observe").status == 303
    [limit] = gateway.get(f"/tollgate/v1/projects/{project}/spend_limits").json["data"]
    assert (limit["threshold_amount"], limit["mode"]) == (6_050, "observe")
    # What is wrong with an alert is told where it was typed.
    refused = send("/alerts/spend", threshold_amount="x", channel="email", recipients="a@example.com")
    assert refused.status == 400 and b"<details open" in refused.body and b"threshold_amount-error" in refused.body
    missing = request(gateway.url, "GET", "/nothing/here", headers={"accept": "text/html", "cookie": cookie})
    assert missing.status == 404 and b"<h1>There is nothing here" in missing.body
