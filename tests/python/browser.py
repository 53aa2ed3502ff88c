"""A browser for the console: Chromium, with an empty profile, that talks to nobody but the server."""

import contextlib
import pathlib
import shutil
import urllib.parse

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from harness import ROOT

PASSWORD = "correct horse battery"
SHOTS = ROOT / "target/screenshots"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]


class Person:
    """Somebody with a browser of their own."""

    def __init__(self, server, context):
        self.server, self.context = server, context
        self.page = context.new_page()
        self.faults = []
        self.page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        self.page.on("console", lambda message: self.faults.append(f"console: {message.text}") if "Content Security Policy" in message.text else None)
        self.page.on("request", lambda request: self.faults.append(f"left the site: {request.url}") if not request.url.startswith((server.url, "data:", "blob:")) else None)

    def open(self, path):
        answer = self.page.goto(self.server.url + path)
        self.remember_cookie()
        return answer

    def remember_cookie(self):
        for cookie in self.context.cookies():
            self.server.remember(cookie["value"])

    def sign_in_with_key(self, key=None, password=PASSWORD):
        self.server.remember(password)
        self.open("/setup")
        self.page.get_by_label("Admin key").fill(key or self.server.admin_key)
        self.page.get_by_label("New password").fill(password)
        self.page.get_by_role("button", name="Set the password").click()
        self.page.get_by_role("heading", name="Overview").wait_for()
        self.remember_cookie()

    def sign_in(self, email, password=PASSWORD):
        self.page.get_by_label("E-mail address").fill(email)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in", exact=True).click()

    def heading(self, name):
        self.page.get_by_role("heading", level=1, name=name).wait_for()
        self.remember_cookie()

    def text(self):
        return self.page.inner_text("main")

    def shot(self, name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    def secret(self):
        """The one that the page shows this once."""
        return self.server.remember(self.page.locator("[data-secret]").inner_text())

    def check_accessible(self):
        """Nothing that axe calls serious, of the rules of WCAG 2.2 AA and of good practice."""
        found = Axe().run(self.page).response["violations"]
        serious = [(one["id"], one["impact"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found if one["impact"] in ("serious", "critical")]
        assert not serious, (self.page.url, serious)


@contextlib.contextmanager
def chromium(**options):
    assert CHROMIUM, "missing: chromium. Install it, on Debian with: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, **options)
        yield browser
        browser.close()


def path_of(url):
    return urllib.parse.urlsplit(url).path
