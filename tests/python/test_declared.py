"""An organization as a file: written, planned, applied; also killed in the middle and run again."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import time

import pytest

from harness import BINARY, FULL, Server, clean_environment, request, run, until

ORGANIZATION = """
tollgate: 1
key_policy: {max_expires: 365d}
retention: {requests_days: 90}
default_spend_limits:
  api_keys: [{limit: 5usd/day}]
spend_limits: [{limit: 1000usd/month, time_zone: Europe/Berlin}]
spend_alerts: [{amount: 800usd, email: [finance@example.com]}]
event_alerts: [{events: [api_key.expiring, spend_limit.reached], email: [ops@example.com]}]
roles:
  - {name: Accountant, description: Reads money, permissions: [api.usage.read, api.organization.projects.read]}
users:
  - {email: owner@localhost, role: owner}
  - {email: Ada@example.com, role: reader, roles: [Accountant]}
  - {email: eve@example.com, role: reader}
groups:
  - {name: Engineers, users: [eve@example.com], roles: [Accountant]}
projects:
  - name: Default project
  - name: Search
    labels: {team: search}
    request_labels: {feature: [chat, search]}
    browser_requests: allow
    spend_limits: [{limit: 50usd/month}, {limit: 5usd/day, mode: observe}]
    spend_policy: {when_exceeded: clamp, min_output_tokens: 128, wait_ms: 500}
    spend_alerts: [{amount: 40usd, email: [lead@example.com]}]
    users: [{email: ada@example.com, role: owner}]
    groups: [{name: Engineers, role: member}]
    service_accounts: [{name: indexer, role: member, labels: {tier: gold}}]
    keys:
      - name: indexer-prod
        owner: service account indexer
        scopes: [api.model.request]
        labels: {env: prod}
        expires: 90d
        spend_limits: [{limit: 10usd/month}, {limit: 5usd/day}]
        secret: {file: secrets/indexer}
      - {name: ada, owner: ada@example.com, expires: 30d, secret: {command: [sh, -c, "cat >> ada.secret"]}}
"""


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "org.yaml"
    file.write_text(ORGANIZATION)
    return file


@pytest.fixture
def declared(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return cli


def remember_all(server, folder):
    for path in [*(folder / "secrets").glob("*"), *folder.glob("*.secret")]:
        for line in path.read_text().split():
            server.remember(line)


def test_a_file_is_planned_and_applied_and_then_there_is_nothing_to_do(declared, gateway, file, tmp_path):
    before = gateway.stored()
    plan = declared("plan", file)
    assert gateway.stored() == before, "a plan changes nothing"
    for line in ["+ project Search", "+ key Search / indexer-prod (labels {env=prod}, owner service account indexer, scopes [api.model.request], expires 90d, secret to secrets/indexer)", "~ key policy: max_expires never -> 365d", "+ role Accountant", "~ retention: requests_days nothing -> 90",
                 "+ user ada@example.com (role reader)", "+ spend limit of key Search / indexer-prod / month"]:
        assert line in plan.stdout, (line, plan.stdout)
    assert declared("plan", file, "--check", check=1)
    done = declared("apply", file)
    remember_all(gateway, tmp_path)
    assert "done." in done.stderr and (tmp_path / "secrets/indexer").stat().st_mode & 0o777 == 0o600
    secret, adas = (tmp_path / "secrets/indexer").read_text().strip(), (tmp_path / "ada.secret").read_text().strip()
    assert secret not in done.stdout + done.stderr and adas not in done.stdout + done.stderr
    for one in (secret, adas):
        assert request(gateway.url, "POST", "/v1/chat/completions", key=one, body={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}).status == 200
    assert json.loads(declared("plan", file, "-o", "json").stdout) == []
    again = declared("plan", file, "--check")
    assert again.stdout == "" and "0 to make, 0 to change, 0 to remove" in again.stderr, again.stdout
    state = gateway.stored()
    declared("apply", file)
    assert gateway.stored() == state, "it is idempotent"
    # All of it is what it says.
    project = next(one for one in gateway.get("/v1/organization/projects").json["data"] if one["name"] == "Search")
    limits = {limit["interval"]: (limit["threshold_amount"], limit["mode"]) for limit in gateway.get(f"/tollgate/v1/projects/{project['id']}/spend_limits").json["data"]}
    assert limits == {"month": (5_000, "enforce"), "day": (500, "observe")}
    keys = {key["name"]: key for key in gateway.get(f"/v1/organization/projects/{project['id']}/api_keys").json["data"]}
    assert keys["indexer-prod"]["expires_at"] - keys["indexer-prod"]["created_at"] == 90 * 86_400
    # A key gets the default of the organization besides what the file says, as any new key.
    of_key = {limit["interval"]: limit["threshold_amount"] for limit in gateway.get(f"/tollgate/v1/api_keys/{keys['indexer-prod']['id']}/spend_limits").json["data"]}
    assert of_key == {"month": 1_000, "day": 500}
    assert gateway.get(f"/tollgate/v1/projects/{project['id']}/spend_policy").json["min_output_tokens"] == 128


def test_drift_is_shown_and_mended_and_what_is_beyond_stays_unless_asked(declared, gateway, file, tmp_path):
    declared("apply", file)
    remember_all(gateway, tmp_path)
    ids = {one["name"]: one["id"] for one in gateway.get("/v1/organization/projects").json["data"]}
    search = ids["Search"]
    gateway.post(f"/v1/organization/projects/{search}", {"labels": {"team": "other"}})
    gateway.post(f"/tollgate/v1/projects/{search}/access_policy", {"browser_requests": "refuse"})
    extra = gateway.key(search, "by hand", expires_in_seconds=86_400)
    by_hand = gateway.project("By hand")
    plan = declared("plan", file).stdout
    assert "~ project Search: labels {team=other} -> {team=search}" in plan and "~ access policy Search: browser_requests refuse -> allow" in plan
    assert "? key Search / by hand: on the server, and not in the file" in plan and "? project By hand" in plan
    # The same for programs.
    rows = {row["title"]: row for row in json.loads(declared("plan", file, "-o", "json").stdout)}
    drifted = rows["project Search"]
    assert (drifted["action"], drifted["kind"], drifted["name"]) == ("change", "project", ["Search"]), drifted
    assert drifted["changes"] == [{"field": "labels", "before": {"team": "other"}, "after": {"team": "search"}}]
    assert ORGANIZATION.splitlines()[drifted["line"] - 1].strip() == "- name: Search"
    assert rows["project By hand"]["action"] == rows["key Search / by hand"]["action"] == "unlisted" and rows["project By hand"]["line"] is None
    removed = json.loads(declared("plan", file, "--delete", "--jq", '[.[] | select(.action == "remove") | .title]').stdout)
    assert {"project By hand", "key Search / by hand"} <= set(removed)
    declared("apply", file)
    assert request(gateway.url, "GET", "/tollgate/v1/me", key=extra["value"]).status == 200
    assert "- key Search / by hand" in declared("plan", file, "--delete").stdout
    declared("apply", file, "--delete")
    assert request(gateway.url, "GET", "/tollgate/v1/me", key=extra["value"]).status == 401
    assert gateway.get(f"/v1/organization/projects/{by_hand}").json["status"] == "archived"
    assert declared("plan", file, "--check", "--delete").stdout == ""
    # What the file says nothing of is left alone.
    small = tmp_path / "small.yaml"
    small.write_text("tollgate: 1\nprojects:\n  - name: Search\n    labels: {team: new}\n")
    plan = declared("plan", small, "--delete").stdout
    assert "~ project Search: labels" in plan and "user" not in plan and "key" not in plan
    # A key keeps its owner, which no call can mend.
    changed = ORGANIZATION.replace("{name: ada, owner: ada@example.com", "{name: ada, owner: eve@example.com")
    file.write_text(changed)
    assert re.search(r"^! \S+org.yaml:\d+: key Search / ada: its owner is ada@example.com", declared("plan", file).stdout)
    [blocked] = json.loads(declared("plan", file, "--check", "-o", "json", check=1).stdout)
    assert (blocked["action"], blocked["title"]) == ("blocked", "key Search / ada") and "its owner is ada" in blocked["text"]
    assert list(csv.reader(declared("plan", file, "-o", "csv").stdout.splitlines()))[1][:3] == ["blocked", "key", "key Search / ada"]


def test_it_goes_round(declared, gateway, file, tmp_path):
    """What is exported says what there is: nothing to do here, and elsewhere the same comes of it."""
    declared("apply", file)
    remember_all(gateway, tmp_path)
    exported = declared("export").stdout
    (tmp_path / "exported.yaml").write_text(exported)
    assert declared("plan", tmp_path / "exported.yaml", "--check", "--delete").stdout == "", exported
    for secret in gateway.secrets:
        assert secret not in exported
    home = tmp_path / "other"
    home.mkdir()
    other = Server(home)
    text = re.sub(r"( +)- name: (\S+)\n +owner: ", r"\1- name: \2\n\1  expires: 30d\n\1  secret: {file: elsewhere/\2.secret}\n\1  owner: ", exported)
    (tmp_path / "elsewhere.yaml").write_text(text)
    declared("apply", tmp_path / "elsewhere.yaml", url=other.base_url, key=other.admin_key)
    for path in (tmp_path / "elsewhere").glob("*.secret"):
        other.remember(path.read_text().strip())
    assert declared("export", url=other.base_url, key=other.admin_key).stdout == exported
    other.finish()
    only = declared("export", "--project", "Search").stdout
    assert "name: Search" in only and "Default project" not in only
    assert "no project `Nothing`" in declared("export", "--project", "Nothing", check=2).stderr


@pytest.mark.parametrize("text, place, told", [
    ("tollgate: 1\nprojects:\n  - nam: x\n", ":3:5", "unknown field `nam`"),
    ("tollgate: 1\nprojects:\n  - name: [1]\n", ":3:11", "expected string"),
    ("tollgate: 1\nprojects:\n - name: x\n  y: 1\n", ":4:3", ""),
    ("tollgate: 2\n", "", "does not know"),
    ("projects: []\n", ":1:1", "missing field `tollgate`"),
    ("tollgate: 1\nprojects:\n  - {name: x}\n  - {name: x}\n", ":4: project: ", "There are two of project x"),
    ("tollgate: 1\nspend_limits: [{limit: 5}]\n", "", "month"),
    ("tollgate: 1\nspend_limits:\n  - {limit: 5usd/month}\n  - {limit: 5 apples/day}\n", ":4: limit: ", "5 apples"),
    ("tollgate: 1\nspend_limits:\n  - {limit: 5usd/day, mode: maybe}\n", ":3: mode: ", "`maybe` is none of enforce, observe"),
    ("tollgate: 1\nspend_limits:\n  - {limit: 5usd/day, time_zone: Mars/Olympus}\n", ":3: time_zone: ", "no time zone"),
    ("tollgate: 1\nusers:\n  - {email: a@b.co, role: king}\n", ":3: role: ", "`king` is none of owner, reader"),
    ("tollgate: 1\nevent_alerts:\n  - events:\n      - nope.event\n    email: [a@b.co]\n", ":4: events: ", "`nope.event` is none of"),
    ("tollgate: 1\nkey_policy: {key_owners: nobody}\n", ":2: key_owners: ", "`nobody` is none of"),
    ("tollgate: 1\nprojects:\n  - name: x\n    spend_policy: {when_exceeded: explode}\n", ":3: when_exceeded: ", "`explode` is none of"),
    ("tollgate: 1\nkey_policy:\n  max_expires: soon\n", ":3: max_expires: ", "`soon` is not a time"),
    ("tollgate: 1\nprojects:\n  - name: x\n    keys:\n      - {name: k, owner: a@b.co, expires: soon}\n", ":5: expires: ", "`soon` is not a time"),
    ("tollgate: 1\ngroups:\n  - name: g\n    users:\n      - a@b.co\n      - A@b.co\n", ":6: user of group: ", "There are two of user of group g / a@b.co"),
    ("tollgate: 1\nspend_alerts: [{amount: 5usd, email: [a@b.co], webhook: https://x}]\n", ":2: spend_alerts: ", "one of email, webhook and slack"),
    ("tollgate: 1\nprojects: [{name: x, keys: [{name: k, owner: me, secret: {}}]}]\n", ":2: secret: ", "either a file or a command"),
    ("{", ":1:", ""),
])
def test_what_is_wrong_with_a_file_is_said_before_anything_is_sent(cli, tmp_path, text, place, told):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    done = cli("apply", file, check=None, url="http://127.0.0.1:1/v1")
    if text == "tollgate: 1\nspend_limits: [{limit: 5}]\n":
        assert done.returncode in (2, 7)  # by the month, unless it says otherwise; or no text at all
        return
    assert done.returncode == 2 and told in done.stderr and (f"bad.yaml{place}" in done.stderr or not place), done.stderr


def test_what_would_stop_it_is_told_before_anything_is_done(declared, gateway, tmp_path):
    file, before = tmp_path / "org.yaml", gateway.stored()
    for text, told in [("    keys: [{name: k, owner: nobody@example.com, secret: {file: k.secret}}]", "there is no user nobody@example.com"), ("    keys: [{name: k, owner: owner@localhost}]", "where its secret goes"),
                       ("    users: [{email: nobody@example.com, role: member}]", "there is no user nobody@example.com"), ("    groups: [{name: None, role: member}]", "there is no group None"),
                       ("    keys: [{name: k, owner: service account robot, secret: {file: k}}]", "there is no service account New / robot"),
                       ("    spend_alerts: [{amount: 5usd, slack: https://hooks.example.com/...}]", "only the server is known"), ("    spend_alerts: [{amount: 5usd, webhook: https://example.com/x}]", "that it is signed with")]:
        file.write_text("tollgate: 1\nprojects:\n  - name: New\n" + text + "\n")
        plan = declared("plan", file, check=1).stdout
        assert f"! {file}:4: " in plan and told in plan, text
        assert declared("plan", file, "--check", check=1)
        problem = json.loads(declared("plan", file, "-o", "json", check=1).stdout)[-1]
        assert problem["action"] == "error" and problem["line"] == 4 and told in problem["message"]
        assert "Nothing was done" in declared("apply", file, check=2).stderr
    assert gateway.stored() == before and not (tmp_path / "k.secret").exists()
    # So do secrets that have no place, and keys that do not end where they must.
    (tmp_path / "there").write_text("mine")
    for text, told in [("    keys: [{name: k, owner: owner@localhost, secret: {file: there}}]", "which exists already"),
                       ("    keys: [{name: j, owner: owner@localhost, secret: {file: one}}, {name: k, owner: owner@localhost, secret: {file: one}}]", "another secret goes there too"),
                       ("    keys: [{name: k, owner: owner@localhost, secret: {file: one}}]\nkey_policy: {max_expires: 30d}", "end within 30d"),
                       ("    keys: [{name: k, owner: owner@localhost, secret: {file: one}, expires: 60d}]\nkey_policy: {max_expires: 30d}", "end within 30d")]:
        file.write_text("tollgate: 1\nprojects:\n  - name: New\n" + text + "\n")
        plan = declared("plan", file, check=1).stdout
        assert f"! {file}:4: " in plan and told in plan, plan
        assert "Nothing was done" in declared("apply", file, check=2).stderr
    assert gateway.stored() == before
    for text, told in [("keys: [{name: k, name: k, owner: a@b.c}]", "duplicate mapping key: name"), ("spend_limits: [{limit: 5usd/month}, {limit: 6usd/month}]", "one for each interval")]:
        file.write_text("tollgate: 1\nprojects:\n  - name: New\n    " + text + "\n")
        wrong = declared("plan", file, check=2).stderr
        assert told in wrong and "DuplicateKeyPolicy" not in wrong, wrong
    # What the server refuses stops it, with what was done.
    file.write_text("tollgate: 1\nprojects:\n  - name: New\n    groups: [{name: Nobodys, role: king}]\ngroups: [{name: Nobodys}]\n")
    done = declared("apply", file, check=2).stderr
    assert "Stopped after 2 of 3" in done and f"{file}:4: group of project New / Nobodys" in done, done
    quiet = declared("apply", file, "-q", check=2).stderr
    assert quiet.startswith(f"error: {file}:4: group of project New / Nobodys") and "Stopped" not in quiet, quiet
    # What is known to stay is not tried.
    file.write_text("tollgate: 1\nprojects: [{name: New}]\nusers: []\n")
    plan = declared("plan", file, "--delete").stdout
    assert "! project Default project: it is not in the file, and stays: it is the default project" in plan and "- project Default" not in plan
    assert "! user owner@localhost: it stays: nobody would be left who is an owner" in plan and "- user owner" not in plan
    assert "1 to make" not in declared("apply", file, "--delete").stderr and gateway.get("/v1/organization/projects").status == 200
    assert declared("plan", file, "--delete", "--check").stdout.count("stays") == 2, "what stays is no drift"
    # One owner stays, and so another can stop being one.
    gateway.user("ada@example.com", role="owner")
    file.write_text("tollgate: 1\nusers: [{email: ada@example.com, role: reader}]\n")
    actions = json.loads(declared("plan", file, "--delete", "--jq", "[.[] | .action]").stdout)
    assert actions == ["change", "stays"]
    declared("apply", file, "--delete")
    assert declared("plan", file, "--delete", "--check")


def test_what_is_called_alike_is_numbered(declared, gateway, tmp_path):
    first, second = gateway.project("Twice"), gateway.project("Twice")
    gateway.key(first, "k"), gateway.key(first, "k")
    file = tmp_path / "org.yaml"
    file.write_text(declared("export").stdout)
    assert "name: Twice (2)" in file.read_text() and "name: k (2)" in file.read_text()
    assert declared("plan", file, "--check", "--delete").stdout == ""


def test_alerts_by_webhook_come_to_rest(declared, gateway, tmp_path):
    """Of their addresses the server shows a part; what they are signed with goes where the file says."""
    file = tmp_path / "org.yaml"
    file.write_text("tollgate: 1\nspend_alerts:\n  - {amount: 5usd, webhook: https://example.com/a/b?c, secret: {file: hook.secret}}\n  - {amount: 5usd, slack: https://hooks.example.com/T/B/x}\nevent_alerts: []\n")
    done = declared("apply", file)
    signed = gateway.remember((tmp_path / "hook.secret").read_text().strip())
    assert signed.startswith("whsec_") and signed not in done.stdout + done.stderr
    assert declared("plan", file, "--check", "--delete").stdout == ""
    declared("apply", file)
    assert len(gateway.get("/v1/organization/spend_alerts").json["data"]) == 2
    exported = tmp_path / "exported.yaml"
    exported.write_text(declared("export").stdout)
    assert declared("plan", exported, "--check", "--delete").stdout == ""


def test_a_journal_is_of_its_server(declared, gateway, tmp_path):
    """What was cut off elsewhere takes no secret away here."""
    key = gateway.key(gateway.default_project, "k")
    file = tmp_path / "org.yaml"
    file.write_text("tollgate: 1\nprojects:\n  - name: Default project\n    keys: [{name: k, owner: owner@localhost, secret: {file: k.secret}}]\n")
    (tmp_path / "org.yaml.pending").write_text(json.dumps(["https://staging.example.com:443", "Default project", "k"]) + "\n")
    assert declared("plan", file, "--check").stdout == ""
    declared("apply", file)
    assert request(gateway.url, "GET", "/tollgate/v1/me", key=key["value"]).status == 200 and (tmp_path / "org.yaml.pending").exists()


def test_an_expired_key_is_told(declared, gateway, tmp_path):
    key = gateway.key(gateway.default_project, "k", expires_in_seconds=60)
    assert gateway.process.stop() == 0
    with gateway.database() as database:
        database.execute("UPDATE api_key SET expires_at = 1000 WHERE id = ?", (key["id"],))
    gateway.start()
    file = tmp_path / "org.yaml"
    file.write_text("tollgate: 1\nprojects:\n  - name: Default project\n    keys: [{name: k, owner: owner@localhost}]\n")
    assert "it has expired" in declared("plan", file, "--check", check=1, url=gateway.base_url).stdout


def test_a_secret_that_did_not_arrive_is_made_again(declared, gateway, tmp_path):
    file = tmp_path / "org.yaml"
    say = lambda command: file.write_text("tollgate: 1\nprojects:\n  - name: Default project\n    keys:\n      - {name: k, owner: owner@localhost, secret: {command: %s}}\n" % json.dumps(command))
    say(["false"])
    failed = declared("apply", file, check=2)
    assert "run it again" in failed.stderr and (tmp_path / "org.yaml.pending").exists()
    say(["sh", "-c", "cat > k.secret"])
    assert "another secret" in declared("plan", file).stdout
    declared("apply", file)
    secret = gateway.remember((tmp_path / "k.secret").read_text().strip())
    assert request(gateway.url, "GET", "/tollgate/v1/me", key=secret).json["name"] == "k" and not (tmp_path / "org.yaml.pending").exists()
    assert declared("plan", file, "--check").stdout == ""


def large(projects):
    lines = ["tollgate: 1", "groups:", *(f"  - {{name: Group {n}}}" for n in range(5)), "projects:", "  - name: Default project"]
    for n in range(projects):
        lines += [f"  - name: Project {n}", f"    labels: {{team: t{n % 7}}}", f"    spend_limits: [{{limit: {n + 1}usd/month}}]", f"    groups: [{{name: Group {n % 5}, role: member}}]",
                  "    service_accounts: [{name: robot, role: member}]", "    keys:", f"      - {{name: robot, owner: service account robot, scopes: [api.model.request], secret: {{file: secrets/{n}}}}}"]
    return "\n".join(lines) + "\n"


@pytest.mark.timeout(900)
def test_killed_at_any_moment_and_run_again_it_comes_to_the_same(declared, gateway, tmp_path):
    count = 120 if FULL else 25
    file = tmp_path / "large.yaml"
    file.write_text(large(count))
    env = clean_environment(TOLLGATE_URL=gateway.base_url, TOLLGATE_ADMIN_KEY=gateway.admin_key)
    chance, kills, is_done = random.Random(7), 0, False

    def changes():
        with gateway.database() as database:
            return database.execute("SELECT COUNT(*) FROM audit_log").fetchone()[0]

    while not is_done:
        # So many changes later, and somewhere within the next one.
        enough = changes() + chance.randint(1, count)
        process = subprocess.Popen([BINARY, "apply", file, "-q"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path)
        until(lambda: process.poll() is not None or changes() >= enough)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        is_done = process.returncode == 0
        assert is_done or process.returncode == -signal.SIGKILL, said
        kills += not is_done
    declared("apply", file)
    # A project with its parts is five changes.
    assert kills >= 5 and declared("plan", file, "--check", "--delete").stdout == ""
    assert not (tmp_path / "large.yaml.pending").exists()
    # Every key is there once, and its secret is where it belongs.
    projects = gateway.admin.projects.list(limit=100)
    assert len(list(projects)) == count + 1
    secrets = [gateway.remember(path.read_text().strip()) for path in (tmp_path / "secrets").iterdir()]
    assert len(secrets) == count
    names = {request(gateway.url, "GET", "/tollgate/v1/me", key=secret).json["project_name"] for secret in secrets}
    assert names == {f"Project {n}" for n in range(count)}
    exported = tmp_path / "exported.yaml"
    exported.write_text(declared("export").stdout)
    assert declared("plan", exported, "--check", "--delete").stdout == ""



def test_the_same_file_at_openai_leaves_out_what_openai_lacks(declared, gateway, tmp_path):
    """No request leaves: it is said what is left out, and the first request fails to reach anything."""
    file = tmp_path / "org.yaml"
    file.write_text(ORGANIZATION)
    done = declared("plan", file, check=None, url="https://api.openai.com/v1", key="sk-admin-nothing", TOLLGATE_TEST="1")
    assert done.returncode in (4, 7), done
    for what in ("retention", "key policy", "key Search / indexer-prod", "spend policy Search", "event alert"):
        assert f"not at OpenAI: {what}" in done.stderr, done.stderr
