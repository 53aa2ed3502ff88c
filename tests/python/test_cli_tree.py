"""The command line beside keys and money: any operation, profiles, formats, what is asked before something is lost, completions."""

import csv
import fcntl
import io
import json
import os
import pathlib
import pty
import re
import select
import struct
import subprocess
import termios
import time

import pytest

from harness import BINARY, ROOT, clean_environment, request, run


@pytest.fixture
def home(tmp_path):
    return {"TOLLGATE_CONFIG_HOME": str(tmp_path / "config")}


def in_terminal(*args, env, answers=(), width=None):
    """Runs the program in a terminal, and types answers where it waits; returns its exit code and what stood there."""
    master, slave = pty.openpty()
    if width:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = subprocess.Popen([BINARY, *map(str, args)], stdin=slave, stdout=slave, stderr=slave, env=clean_environment(**env), close_fds=True, start_new_session=True)
    os.close(slave)
    seen, answers, deadline = b"", list(answers), time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline, seen
        ready, _, _ = select.select([master], [], [], 0.2)
        if ready:
            try:
                piece = os.read(master, 65536)
            except OSError:
                break
            if not piece:
                break
            seen += piece
            if answers and seen.rstrip().endswith((b"?", b"[y/N]", b":")):
                os.write(master, answers.pop(0).encode() + b"\n")
        elif process.poll() is not None:
            break
    os.close(master)
    return process.wait(), seen.decode()


def test_any_operation_is_called_by_its_id_or_its_path(cli, gateway):
    project = cli.json("api", "create-project", "-f", "name=By id", "-f", 'labels={"team":"a"}')
    assert project["name"] == "By id" and project["labels"] == {"team": "a"}
    assert cli.json("api", "retrieve-project", "-f", f"project_id={project['id']}")["id"] == project["id"]
    assert cli.json("api", "GET", f"/v1/organization/projects/{project['id']}")["id"] == project["id"]
    listed = cli.json("api", "list-projects", "-f", "limit=1")
    assert len(listed["data"]) == 1 and listed["has_more"]
    made = cli.json("api", "create-project", "--input", "-", stdin='{"name": "From stdin"}')
    assert made["name"] == "From stdin"
    # Every row of the table can be named.
    table = json.loads(run("operations", check=0).stdout)
    for row in table:
        done = cli("api", row["id"], check=None, url="http://127.0.0.1:1/v1")
        assert done.returncode in (2, 7), (row["id"], done.stderr)
    for wrong, told in [(("api", "nonsense"), "no operation"), (("api", "retrieve-project"), "needs project_id"), (("api", "POST"), "path"), (("api", "list-projects", "/x"), "no method"),
                        (("api", "list-projects", "-f", "x"), "NAME=VALUE"), (("api", "projec"), "create-project")]:
        done = cli(*wrong, check=2)
        assert told in done.stderr, done.stderr
    assert cli("api", "retrieve-project", "-f", "project_id=proj_x", check=3).returncode == 3


@pytest.mark.parametrize("format", ["json", "jsonl", "yaml", "csv", "id", "table"])
def test_results_in_every_form(cli, gateway, format):
    gateway.project("=1+1, \"x\"")
    text = cli("project", "list", "-o", format).stdout
    rows = {"json": lambda: json.loads(text), "jsonl": lambda: [json.loads(line) for line in text.splitlines()], "csv": lambda: list(csv.DictReader(io.StringIO(text))),
            "id": lambda: text.split(), "table": lambda: text.splitlines()[1:], "yaml": lambda: re.findall(r"^- ", text, re.M)}[format]()
    assert len(rows) == 2, text
    if format == "csv":
        assert rows[1]["NAME"] == "'=1+1, \"x\""
    if format in ("json", "jsonl", "yaml"):
        error = cli("project", "get", "proj_x", "-o", format, check=3).stderr
        assert json.loads(error)["error"]["code"] == "not_found"


def test_only_some_fields(cli, gateway):
    project = gateway.project("Fields")
    gateway.key(project, "laptop")
    assert json.loads(cli("key", "list", "--project", project, "--json", "name,owner.type,owner.user.email").stdout) == [
        {"name": "laptop", "owner.type": "user", "owner.user.email": "owner@localhost"}]
    assert json.loads(cli("project", "get", project, "--json", "name,nothing").stdout) == {"name": "Fields", "nothing": None}


def test_results_through_a_filter(cli, gateway):
    project = gateway.project("Search")
    assert cli("project", "list", "--jq", '.[] | select(.name == "Search") | .id').stdout == project + "\n"
    assert cli("project", "get", "Search", "--jq", "{name, labels}").stdout == '{"name":"Search","labels":{}}\n'
    assert cli("api", "list-projects", "--jq", ".data | length").stdout == "2\n"
    assert cli("project", "list", "--json", "name", "--jq", "map(.name) | sort | join(\",\")").stdout == "Default project,Search\n"
    for bad in ("][", "nonsense", ".a |"):
        assert "no filter of jq's" in cli("project", "create", "x", "--jq", bad, check=2).stderr
    assert "--jq: " in cli("project", "get", "Search", "--jq", ".name.x", check=2).stderr
    # A secret is not lost to a filter.
    assert "--out FILE" in cli("key", "create", "x", "--project", "Search", "--jq", ".id", check=2).stderr
    secret = gateway.remember(cli("key", "create", "x", "--project", "Search", "--jq", ".value").stdout.strip())
    assert gateway.get("/v1/models", key=secret).status == 200
    assert len(cli.json("project", "list")) == 2


def test_a_key_rotates_and_is_revoked_by_its_secret(cli, gateway, tmp_path):
    project = gateway.project()
    key = gateway.key(project)
    done = cli("key", "rotate", key["id"], "--project", project, "--grace", "1h", "-q")
    secret = gateway.remember(done.stdout.strip())
    assert secret.startswith("sk-tgproj-") and secret != key["value"]
    shown = cli.json("key", "check", stdin=secret, key="unused")
    assert shown["id"] == key["id"]
    file = tmp_path / "secret"
    file.write_text(key["value"])
    assert cli.json("key", "check", file)["id"] == key["id"]
    assert "check sum" in cli("key", "check", stdin=secret[:-1] + "x", check=2).stderr
    assert cli.json("key", "end-previous", key["id"], "--project", project)["previous_secret"] is None
    assert cli("key", "check", file, check=4)
    out = tmp_path / "rotated"
    cli("key", "rotate", key["id"], "--project", project, "--out", out)
    turned = gateway.remember(out.read_text().strip())
    assert oct(out.stat().st_mode & 0o777) == "0o600" and turned != secret
    assert cli("key", "rotate", key["id"], "--project", project, "--out", out, check=2)
    done = cli("key", "revoke", "-", stdin=turned)
    assert key["id"] in done.stderr and done.stdout == ""
    assert request(gateway.url, "GET", "/tollgate/v1/me", key=turned).status == 401
    assert cli("key", "revoke", key["id"], check=2)


def test_people_groups_roles_invites_and_admin_keys(cli, gateway):
    ada = cli.json("user", "add", "ada@example.com", "--role", "reader", "--name", "Ada")
    assert [row["id"] for row in cli.json("user", "list", "--name", "ada")] == [ada["id"]]
    assert cli.json("member", "set-role", ada["id"], "owner")["role"] == "owner"
    group = cli.json("group", "create", "Engineers")
    cli("group", "add-user", group["id"], ada["id"])
    assert [row["id"] for row in cli.json("group", "users", group["id"])] == [ada["id"]]
    role = cli.json("role", "create", "Accountant", "--permission", "api.usage.read", "--permission", "api.organization.projects.read")
    cli("group", "add-role", group["id"], role["id"])
    assert [row["name"] for row in cli.json("group", "roles", group["id"])] == ["Accountant"]
    cli("role", "assign", role["id"], "--user", ada["id"])
    cli("role", "unassign", role["id"], "--user", ada["id"])
    project = gateway.project()
    assert cli.json("project-user", "add", "ada@example.com", "--project", project, "--role", "member")["role"] == "member"
    assert cli("project-user", "list", TOLLGATE_PROJECT=project).stdout.count("ada@example.com") == 1
    cli("project-user", "remove", ada["id"], "--project", project)
    invite = cli.json("invite", "create", "eve@example.com", "--role", "reader", "--project", project)
    gateway.remember(invite["accept_url"].split("=")[1])
    assert invite["projects"] == [{"id": project, "role": "member"}]
    cli("invite", "delete", invite["id"])
    key = cli.json("admin-key", "create", "ci", "--scope", "api.management.read", "--expires", "90d", "--only-project", project)
    gateway.remember(key["value"])
    assert key["project_ids"] == [project] and key["scopes"] == ["api.management.read"]
    turned = cli("admin-key", "rotate", key["id"], "--grace", "1h", "-q").stdout.strip()
    gateway.remember(turned)
    cli("admin-key", "revoke", key["id"])
    assert cli("admin-key", "get", key["id"], check=3)
    cli("user", "remove", ada["id"])
    alert = cli.json("spend-alert", "create", "40usd", "--email", "a@example.com", "--email", "b@example.com")
    assert alert["threshold_amount"] == 4000 and alert["notification_channel"]["recipients"] == ["a@example.com", "b@example.com"]
    event = cli.json("event-alert", "create", "--event", "api_key.expiring", "--event", "upstream.down", "--webhook", "https://example.com/hook")
    gateway.remember(event["signing_secret"])
    assert "Say who is told" in cli("event-alert", "create", "--event", "api_key.unused", check=2).stderr
    assert "said twice" in cli("spend-alert", "create", "1", "--email", "a@b.co", "--slack", "https://x", check=2).stderr
    cli("event-alert", "delete", event["id"])
    assert cli.json("retention", "set", "90")["requests_days"] == 90 and cli.json("retention", "set", "forever")["requests_days"] is None
    assert cli.json("key-policy", "set", "--max-expires", "90d")["max_expires_in_seconds"] == 7_776_000
    assert cli.json("key-policy", "set", "--max-expires", "none")["max_expires_in_seconds"] is None
    assert cli.json("notification", "list") == []
    for what in (["project", "freeze", project], ["project", "unfreeze", project], ["organization", "freeze"], ["organization", "unfreeze"]):
        cli(*what)


def test_things_are_called_by_their_names(cli, gateway):
    project = gateway.project("Search")
    for name in ("Search and more", "Twice", "Twice"):
        gateway.project(name)
    ada = cli.json("user", "add", "ada@example.com", "--role", "reader")["id"]
    assert cli.json("project", "get", "Search")["id"] == project
    assert "several projects called 'Twice'" in cli("project", "get", "Twice", check=2).stderr
    assert "There is no project called 'search'" in cli("project", "get", "search", check=3).stderr
    assert cli.json("user", "get", "Ada@example.com")["id"] == ada
    assert cli.json("project-user", "add", "ada@example.com", "--project", "Search", "--role", "member")["id"] == ada
    cli("group", "create", "Engineers")
    cli("group", "add-user", "Engineers", "ada@example.com")
    cli("role", "create", "Accountant", "--permission", "api.usage.read")
    cli("group", "add-role", "Engineers", "Accountant")
    cli("role", "assign", "Accountant", "--user", "ada@example.com")
    assert [role["name"] for role in cli.json("group", "roles", "Engineers")] == ["Accountant"]
    assert "Accountant" in [role["name"] for role in cli.json("role", "of-user", "ada@example.com")]
    key = cli.json("key", "create", "laptop", "--project", "Search", "--owner", "ada@example.com")
    gateway.remember(key["value"])
    assert key["owner"]["user"]["id"] == ada
    account = cli.json("sa", "create", "robot", "--project", "Search", "--no-key")["id"]
    robot = cli.json("key", "create", "robot's", "--project", "Search", "--owner", "sa:robot")
    gateway.remember(robot["value"])
    assert robot["owner"]["service_account"]["id"] == account == cli.json("sa", "get", "robot", "--project", "Search")["id"]
    assert cli.json("key", "update", "laptop", "--project", "Search", "--name", "desktop")["name"] == "desktop"
    cli("spend-limit", "set", "5usd/day", "--project", "Search")
    cli("spend-limit", "set", "4usd/day", "--user", "ada@example.com")
    assert [limit["threshold_amount"] for limit in cli.json("spend-limit", "list", "--user", ada)] == [400]
    assert cli.json("invite", "create", "eve@example.com", "--role", "reader", "--project", "Search", "-q")["projects"][0]["id"] == project
    cli("invite", "delete", "eve@example.com")
    cli("key", "revoke", "desktop", "--project", "Search")
    assert cli("key", "get", "desktop", "--project", "Search", check=3)
    assert cli.json("cost", "--project", "Search") == [] and cli.json("ledger", "list", "--project", "Search") == []
    assert cli("project", "archive", "Default project", check=5)
    odd = cli.json("project", "create", "proj_odd")["id"]
    ops = cli.json("user", "add", "user-ops@example.com", "--role", "reader")["id"]
    assert cli.json("project", "get", "proj_odd")["id"] == odd and cli.json("user", "get", "user-ops@example.com")["id"] == ops


def test_the_log_is_asked_by_names_and_times(cli, gateway):
    gateway.project("Search")
    ask = lambda *words: [event["type"] for event in cli.json("audit", "list", *words)]
    assert ask("--project", "Search", "--since", "1h") == ["project.created"] == ask("--project", "Search", "--actor", "owner@localhost")
    assert ask("--project", "Search", "--until", "1h") == [] == ask("--actor", "nobody@localhost")
    assert ask("--type", "project.created", "--since", str(int(time.time()) - 3600))[0] == "project.created"
    assert "neither a time ago" in cli("audit", "list", "--since", "yesterday", check=2).stderr
    assert ask("--project", "Search", "--actor", "Owner@localhost") == ["project.created"]
    assert "not some by these" in cli("audit", "list", "--actor", "a@b.co", "--actor", "user-x", check=2).stderr
    cli("project", "archive", "Search")
    assert "project.archived" in ask("--project", "Search"), "what is gone is asked for as well"


def test_a_secret_that_would_not_be_seen_is_not_made(cli, gateway, tmp_path):
    project = gateway.project()
    for form in ("id", "csv"):
        assert "--out FILE" in cli("key", "create", "x", "--project", project, "-o", form, check=2).stderr
        assert cli("sa", "create", "x", "--project", project, "-o", form, check=2) and cli("admin-key", "create", "x", "-o", form, check=2)
        assert cli("invite", "create", "x@example.com", "--role", "reader", "--json", "id", check=2)
    assert "--out FILE" in cli("key", "create", "x", "--project", project, "--json", "id,name", check=2).stderr
    assert gateway.get(f"/v1/organization/projects/{project}/api_keys").json["data"] == []
    shown = json.loads(cli("key", "create", "y", "--project", project, "--json", "id,value").stdout)
    gateway.remember(shown["value"])
    cli("key", "revoke", shown["id"], "--project", project)
    made = cli("key", "create", "x", "--project", project, "-q", "-o", "id", "--out", tmp_path / "secret").stdout.strip()
    gateway.remember((tmp_path / "secret").read_text().strip())
    assert cli.json("key", "get", made, "--project", project)["name"] == "x"


def test_whoever_has_seen_enough_is_not_told_of_a_broken_pipe(cli, gateway, tmp_path):
    for number in range(5):
        gateway.project(f"Project {number}")
    env = clean_environment(TOLLGATE_URL=gateway.base_url, TOLLGATE_ADMIN_KEY=gateway.admin_key)
    for form in ("table", "json", "jsonl", "csv", "yaml", "id"):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([BINARY, "project", "list", "-o", form], env=env, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, ""), form
    for words in (["openapi"], ["operations"], ["completion", "bash"], ["completion", "zsh"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([BINARY, *words], env=env, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, ""), words
    # What is to be done does not depend on who watches.
    file = tmp_path / "org.yaml"
    file.write_text("tollgate: 1\nprojects: [{name: Unwatched}]\n")
    reader, writer = os.pipe()
    os.close(reader)
    assert subprocess.run([BINARY, "apply", file], env=env, stdout=writer, stderr=subprocess.PIPE, text=True).returncode == 0
    os.close(writer)
    assert cli.json("project", "get", "Unwatched")["name"] == "Unwatched"


def test_whoever_holds_a_secret_needs_no_admin_key(cli, gateway):
    project = gateway.project()
    key = gateway.key(project)
    nobody = {"TOLLGATE_ADMIN_KEY": None}
    assert cli.json("key", "check", stdin=key["value"], **nobody)["id"] == key["id"]
    assert cli.json("key", "revoke", "-", stdin=key["value"], **nobody)["deleted"]
    assert "no admin key" in cli("key", "list", "--project", project, check=2, **nobody).stderr


def test_a_person_is_asked_before_what_holds_money_goes(cli, gateway):
    env = {"TOLLGATE_URL": gateway.base_url, "TOLLGATE_ADMIN_KEY": gateway.admin_key}
    cli("spend-limit", "set", "5usd/day", "--organization")
    code, seen = in_terminal("spend-limit", "clear", "--organization", "--interval", "day", env=env, answers=["n"])
    assert code == 2 and "It stops nothing" in seen and len(cli.json("spend-limit", "list", "--organization")) == 1
    project = gateway.project()
    key = gateway.key(project)
    code, seen = in_terminal("key", "rotate", key["id"], "--project", project, env=env, answers=["n"])
    assert code == 2 and "ends at once" in seen and gateway.get("/v1/models", key=key["value"]).status == 200
    code, seen = in_terminal("organization", "freeze", env=env, answers=["n"])
    assert code == 2 and gateway.get("/v1/models", key=key["value"]).status == 200


def test_what_only_openai_has_is_asked_for_and_its_absence_said(cli, gateway):
    for words in (["rate-limit", "list", "--project", gateway.default_project], ["limit", "set", "rl-x", "--project", gateway.default_project, "--rpm", "5"],
                  ["model-permission", "get", "--project", gateway.default_project], ["api", "listOrganizationCertificates"]):
        assert "not served by this version of Tollgate" in cli(*words, check=3).stderr, words


def test_a_change_can_be_only_shown(cli, gateway, tmp_path):
    before = gateway.stored()
    shown = cli("project", "create", "Dry", "--dry-run").stdout
    assert shown.startswith("POST /v1/organization/projects\n") and '"name": "Dry"' in shown
    secret = tmp_path / "secret"
    secret.write_text(gateway.remember("sk-provider-canary-0123456789"))
    shown = cli("upstream", "add", "x", "--base-url", "https://api.example.com/v1", "--api-key-file", secret, "--dry-run").stdout
    assert "canary" not in shown and "(a secret)" in shown
    assert "DELETE /v1/organization/users/user-x" in cli("user", "remove", "user-x", "--dry-run").stdout
    shown = cli("key", "create", "x", "--project", gateway.default_project, "--cap", "5usd/day", "--out", tmp_path / "unwritten", "--dry-run").stdout
    assert f"POST /v1/organization/projects/{gateway.default_project}/api_keys\n" in shown and "/spend_limits\n" in shown and '"threshold_amount": 500' in shown
    assert not (tmp_path / "unwritten").exists()
    assert gateway.stored() == before
    assert cli("project", "list", "--dry-run").stdout.count("\n") == 2, "what only looks is done"


def test_a_person_is_asked_before_something_is_lost(cli, gateway):
    project = gateway.project("Precious")
    env = {"TOLLGATE_URL": gateway.base_url, "TOLLGATE_ADMIN_KEY": gateway.admin_key, "TERM": "xterm"}
    code, seen = in_terminal("project", "archive", project, env=env, answers=["n"])
    assert code == 2 and "Go on?" in seen and "Nothing was done" in seen
    assert gateway.get(f"/v1/organization/projects/{project}").json["status"] == "active"
    code, seen = in_terminal("project", "archive", project, "--yes", env=env)
    assert code == 0 and "Go on?" not in seen
    other = gateway.project("Other")
    code, _ = in_terminal("project", "archive", other, env=env, answers=["y"])
    assert code == 0 and gateway.get(f"/v1/organization/projects/{other}").json["status"] == "archived"
    # A program has said what it wants.
    third = gateway.project("Third")
    cli("project", "archive", third)


def test_tables_on_a_terminal_and_tabs_in_a_pipe(cli, gateway):
    gateway.project("Seen")
    env = {"TOLLGATE_URL": gateway.base_url, "TOLLGATE_ADMIN_KEY": gateway.admin_key, "TERM": "xterm"}
    code, seen = in_terminal("project", "list", env=env)
    assert code == 0 and "\t" not in seen and "Seen" in seen and "LABELS" not in seen, "a column that nothing stands in is left out"
    assert "\t" in cli("project", "list").stdout and "\x1b" not in cli("project", "list").stdout


def test_costs_are_shown_by_names_at_a_terminal(cli, gateway):
    """By ids to programs, and to people by what they call things: also what is gone."""
    [upstream] = gateway.get("/tollgate/v1/upstreams").json["data"]
    project = gateway.project("Search")
    key, gone = gateway.key(project, "laptop"), gateway.key(project, "gone")
    for one in (key, gone):
        assert gateway.chat(one["value"]).status == 200
    cli("key", "revoke", gone["id"], "--project", project)
    env = {"TOLLGATE_URL": gateway.base_url, "TOLLGATE_ADMIN_KEY": gateway.admin_key, "TERM": "xterm"}
    for more in ([], ["--total"]):
        code, seen = in_terminal("cost", "--by", "project,key,user,upstream", "--since", "1d", *more, env=env, width=200)
        assert code == 0 and all(name in seen for name in ("Search", "laptop", "gone", "owner@localhost", upstream["name"])), seen
        assert not any(id in seen for id in (project, key["id"], gone["id"], upstream["id"])), seen
    code, seen = in_terminal("usage", "--by", "key", "--since", "1d", env=env, width=200)
    assert code == 0 and "laptop" in seen and key["id"] not in seen
    # Of two that are called alike each says which it is.
    assert gateway.post(f"/v1/organization/projects/{project}/api_keys/{key['id']}", {"name": "gone"}).status == 200
    code, seen = in_terminal("cost", "--by", "key", "--since", "1d", env=env, width=200)
    assert code == 0 and f"gone ({key['id']})" in seen and f"gone ({gone['id']})" in seen, seen
    assert project in cli("cost", "--by", "project", "--since", "1d").stdout
    assert cli.json("cost", "--by", "key", "--since", "1d", "--total")[0]["api_key_id"].startswith("key_")


def test_costs_of_nothing_that_there_is_are_an_error(cli, gateway):
    """Where nothing is called so, nothing spent would be the wrong answer."""
    project = gateway.project("Search")
    account = cli.json("service-account", "create", "indexer", "--project", "Search", "--expires", "30d")
    gateway.remember(account["api_key"]["value"])
    made = cli.json("key", "list", "--project", "Search", "--jq", ".[0] | .expires_at - .created_at")
    assert made == 30 * 86_400
    assert gateway.chat(account["api_key"]["value"]).status == 200
    key = gateway.key(project, "laptop")
    assert gateway.chat(key["value"]).status == 200
    own = lambda *more: cli.json("cost", "--total", "--since", "1d", *more)
    assert own("--api-key-id", "laptop") == own("--api-key-id", key["id"]) != own()
    assert own("--user", "sa:indexer", "--project", "Search") == own("--user", account["id"]) != own()
    for wrong, told, code in [(["--api-key-id", "nothing"], "no key called 'nothing'", 3), (["--api-key-id", "key_nope"], "no key called", 3), (["--user", "indexer"], "--project", 2),
                              (["--user", "sa:nobody", "--project", "Search"], "no service account called", 3), (["--user", "nobody@example.com"], "no user called", 3),
                              (["--project", "nothing"], "no project called", 3), (["--project", "proj_nope"], "no project called", 3), (["--until", "2d"], "is before", 2)]:
        done = cli("cost", "--since", "1d", *wrong, check=code)
        assert told in done.stderr, (wrong, done.stderr)
        assert cli("usage", "export", "--since", "1d", *wrong, check=code).stdout == ""
    assert "no project called 'proj_nope'" in cli("audit", "list", "--project", "proj_nope", check=3).stderr
    assert "no service account called" in cli("cost", "--user", "svc_acct_x", "--project", "Search", check=3).stderr
    assert "no event `nonsense`" in cli("audit", "list", "--type", "nonsense", check=2).stderr
    assert "is before" in cli("audit", "export", "--since", "1d", "--until", "2d", check=2).stderr
    env = {"TOLLGATE_URL": gateway.base_url, "TOLLGATE_ADMIN_KEY": gateway.admin_key, "TERM": "xterm"}
    code, seen = in_terminal("cost", "--by", "user", "--since", "1d", env=env, width=200)
    assert code == 0 and "indexer" in seen and "owner@localhost" in seen and account["id"] not in seen, seen


def test_what_is_written_line_by_line_heeds_what_is_wanted_of_it(cli, gateway):
    assert gateway.chat(gateway.key(gateway.default_project, "laptop")["value"]).status == 200
    assert cli("usage", "export", "--by", "key", "--jq", ".api_key_name").stdout.splitlines() == ["laptop"]
    assert [json.loads(line) for line in cli("usage", "export", "--by", "key", "--json", "api_key_name,num_requests").stdout.splitlines()] == [{"api_key_name": "laptop", "num_requests": 1}]
    assert "api_key.created" in cli("audit", "export", "--jq", ".type").stdout.splitlines()
    assert "lines of JSON" in cli("audit", "export", "-o", "csv", check=2).stderr and "lines of JSON" in cli("usage", "export", "-o", "yaml", check=2).stderr
    assert cli.json("export")["tollgate"] == 1 and cli("export", "--jq", ".projects[].name").stdout.splitlines() == ["Default project"]
    assert "as YAML" in cli("export", "-o", "csv", check=2).stderr


def test_no_operation_makes_a_secret_that_nobody_sees(cli, gateway):
    project, keys = gateway.default_project, lambda: len(gateway.get(f"/v1/organization/projects/{gateway.default_project}/api_keys").json["data"])
    before = keys()
    for hides in (["--jq", ".id"], ["--json", "id,name"], ["-o", "id"]):
        assert "shown once" in cli("api", "create-project-api-key", "-f", f"project_id={project}", "-f", "name=x", *hides, check=2).stderr
        assert "shown once" in cli("api", "POST", f"/v1/organization/projects/{project}/api_keys", "-f", "name=x", *hides, check=2).stderr
    assert "api_key.value" in cli("api", "create-project-service-account", "-f", f"project_id={project}", "-f", "name=x", "--jq", ".id", check=2).stderr
    alert = gateway.post("/v1/organization/spend_alerts", {"threshold_amount": 100, "currency": "USD", "interval": "month", "notification_channel": {"type": "email", "recipients": ["a@example.com"]}}).json
    change = ["POST", f"/v1/organization/spend_alerts/{alert['id']}", "-f", "threshold_amount=100", "-f", "currency=USD", "-f", "interval=month"]
    hooked = ["-f", 'notification_channel={"type":"webhook","url":"https://example.com/hook"}']
    assert "signing_secret" in cli("api", *change, *hooked, "--jq", ".id", check=2).stderr
    assert cli("api", *change, "-f", 'notification_channel={"type":"email","recipients":["b@example.com"]}', "--jq", ".id").stdout.strip() == alert["id"]
    assert keys() == before
    secret = cli("api", "create-project-api-key", "-f", f"project_id={project}", "-f", "name=x", "--jq", ".value").stdout.strip()
    assert gateway.get("/tollgate/v1/me", key=gateway.remember(secret)).status == 200
    assert cli("api", "create-project-service-account", "-f", f"project_id={project}", "-f", "name=x", "-f", "create_service_account_only=true", "--jq", ".id").stdout.startswith("svc_acct_")


def test_profiles_keep_servers_and_keys_apart(cli, gateway, home, tmp_path):
    env = {**home, "TOLLGATE_URL": None, "key": None}
    plain = lambda *args, stdin=None, check=0, **more: run(*args, env={**home, **more}, stdin=stdin, check=check)
    done = plain("login", "--url", gateway.base_url, "--with-token", stdin=gateway.admin_key, check=0)
    assert "default is in use" in done.stderr and gateway.admin_key not in done.stdout + done.stderr
    credentials = pathlib.Path(home["TOLLGATE_CONFIG_HOME"]) / "credentials.toml"
    assert oct(credentials.stat().st_mode & 0o777) == "0o600" and gateway.admin_key not in (credentials.parent / "config.toml").read_text()
    assert plain("whoami").stdout.count("owner@localhost") == 1
    assert plain("project", "list").stdout.count("Default project") == 1
    # Another server does not get the key, whoever names it.
    for more in ({}, {"TOLLGATE_URL": "http://127.0.0.1:1/v1"}):
        arguments = ["project", "list", *([] if more else ["--url", "http://127.0.0.1:1/v1"])]
        refused = plain(*arguments, check=2, **more)
        assert "is not sent to" in refused.stderr, refused.stderr
    # A wrong profile is said before anything is sent.
    assert "no profile `prod`" in plain("project", "list", "--profile", "prod", check=2).stderr
    assert plain("login", "--profile", "broken", "--url", "nonsense", "--with-token", stdin="x", check=2)
    assert plain("login", "--profile", "bad", "--url", gateway.base_url, "--with-token", stdin="sk-tgadmin-wrong", check=4)
    assert [row["name"] for row in json.loads(plain("profile", "list", "-o", "json").stdout)] == ["default"]
    # One that a flag names takes nothing from the environment, whose key is another's.
    plain("login", "--profile", "second", "--url", gateway.base_url, "--with-token", stdin=gateway.admin_key)
    assert plain("project", "list", "--profile", "second", TOLLGATE_ADMIN_KEY="sk-tgadmin-wrong", TOLLGATE_URL="http://127.0.0.1:1/v1").returncode == 0
    # A key from the environment is not for the server of the profile in use, unless that is named.
    assert plain("project", "list", "--timeout", "2", check=7, TOLLGATE_ADMIN_KEY="sk-tgadmin-wrong", TOLLGATE_URL="http://127.0.0.1:1/v1")
    assert plain("project", "list", check=4, TOLLGATE_ADMIN_KEY="sk-tgadmin-wrong", TOLLGATE_PROFILE="second")
    # A profile that a flag names keeps its server, whatever the environment says.
    plain("login", "--profile", "second", "--with-token", stdin=gateway.admin_key, TOLLGATE_URL="http://127.0.0.1:1/v1")
    # A base URL ends in /v1, and that is meant where nothing is said.
    assert plain("project", "list", "--url", gateway.url, "--profile", "second").stdout.count("Default project") == 1
    of_project = gateway.key(gateway.default_project)["value"]
    assert "opens no administration" in plain("login", "--profile", "third", "--url", gateway.base_url, "--with-token", stdin=of_project, check=2).stderr
    plain("profile", "use", "default")
    plain("logout")
    assert "no admin key" in plain("project", "list", check=2).stderr
    plain("profile", "rm", "second")
    assert gateway.admin_key not in credentials.read_text()
    credentials.chmod(0o644)
    assert "can be read by others" in plain("login", "--url", gateway.base_url, "--with-token", stdin=gateway.admin_key, check=2).stderr
    credentials.chmod(0o600)


def test_a_key_is_asked_for_without_showing_it(gateway, home):
    code, seen = in_terminal("login", "--url", gateway.base_url, env={**home, "TERM": "xterm"}, answers=[gateway.admin_key])
    assert code == 0 and gateway.admin_key not in seen and "Admin key:" in seen
    for file in pathlib.Path(home["TOLLGATE_CONFIG_HOME"]).iterdir():
        file.unlink()


def test_openai_is_told_apart(cli):
    """What OpenAI lacks is said before anything is sent; no request leaves."""
    for words in (["key", "rotate", "x", "--project", "p"], ["retention", "get"], ["event-alert", "list"], ["user", "freeze", "x"], ["api", "create-project-api-key", "-f", "project_id=x"],
                  ["project", "freeze", "x"], ["admin-key", "rotate", "x"]):
        done = cli(*words, url="https://api.openai.com/v1", check=2)
        assert "OpenAI's API has no way to" in done.stderr, (words, done.stderr)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell", "elvish"])
def test_completions(shell):
    text = run("completion", shell, check=0).stdout
    assert "admin-key" in text and "spend-limit" in text and "event-alert" in text


def test_bash_takes_its_completions():
    text = run("completion", "bash", check=0).stdout
    done = subprocess.run(["bash"], input=text + "\ncomplete -p tollgate\n", capture_output=True, text=True)
    assert done.returncode == 0 and "_tollgate" in done.stdout, done.stderr


def test_the_schema_is_looked_at_beside_a_server(server):
    done = run("migrate", "--check", *server.place, check=0)
    assert re.fullmatch(r"schema version (\d+); this version of Tollgate has \1\n", done.stdout)
    assert re.fullmatch(r"tollgate \d+\.\d+\.\d+ \(schema \d+\)\n", run("version", check=0).stdout)
    assert server.process.stop() == 0
    assert run("migrate", *server.place, check=0).stdout.startswith("schema version")
    server.start()


def test_a_new_key_gets_its_cap_with_it(cli, gateway):
    project = gateway.project()
    key = cli.json("key", "create", "capped", "--project", project, "--cap", "5usd/day")
    gateway.remember(key["value"])
    [limit] = gateway.get(f"/tollgate/v1/api_keys/{key['id']}/spend_limits").json["data"]
    assert (limit["threshold_amount"], limit["interval"]) == (500, "day")
    # A cap holds, also where the organization's default only observes.
    assert gateway.post("/tollgate/v1/organization/default_spend_limits", {"api_keys": [{"threshold_amount": 900, "currency": "USD", "interval": "day", "mode": "observe"}]}).status == 200
    held = cli.json("key", "create", "held", "--project", project, "--cap", "5usd/day")
    gateway.remember(held["value"])
    [limit] = gateway.get(f"/tollgate/v1/api_keys/{held['id']}/spend_limits").json["data"]
    assert (limit["threshold_amount"], limit["mode"]) == (500, "enforce")
    assert cli("key", "create", "x", "--project", project, "--cap", "5 apples", check=2)
    assert [one["name"] for one in gateway.get(f"/v1/organization/projects/{project}/api_keys").json["data"]] == ["capped", "held"]


def test_every_command_is_in_the_documentation():
    text = (ROOT / "docs/cli.md").read_text()
    top = run("--help", check=0).stdout.split("Commands:")[1].split("Options:")[0]
    names = re.findall(r"^  ([a-z-]+)", top, re.M)
    assert len(names) > 35
    for name in names:
        assert name == "help" or f"`{name}" in text, name
