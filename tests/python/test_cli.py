"""The command line over the API, on real output in a terminal and in a pipe."""

import json
import os
import pty
import re
import stat
import subprocess
import time

import pytest

from harness import BINARY, clean_environment, run


def test_a_project_and_a_key_from_creation_to_the_bill(cli, gateway):
    project = cli.json("project", "create", "From the shell")["id"]
    secret = gateway.remember(cli("key", "create", "k", "--project", project, "-q").stdout.strip())
    assert secret.startswith("sk-tgproj-") and gateway.chat(secret).status == 200
    [key] = cli.json("key", "list", "--project", project)
    assert cli.json("key", "get", key["id"], "--project", project)["last_used_at"]
    cli("spend-limit", "set", "50usd/month", "--project", project)
    limit = cli.json("spend-limit", "get", "--project", project)
    assert limit["threshold_amount"] == 5000
    [cost] = cli.json("cost", "--by", "project", "--since", "1d")
    assert cost["project_id"] == project and cost["amount"]["value"] > 0
    [usage] = cli.json("usage", "--by", "model,key", "--since", "1h", "--bucket", "1h")
    assert usage["model"] == "gpt-4o-mini" and usage["output_tokens"] == 24 and usage["api_key_id"] == key["id"]
    updated = cli.json("key", "update", key["id"], "--project", project, "--scope", "api.model.read", "--expires", "90d")
    assert updated["scopes"] == ["api.model.read"] and updated["expires_at"]
    assert cli("key", "revoke", key["id"], "--project", project).stderr.strip() == "Done."
    assert gateway.chat(secret).status == 401
    cli("spend-limit", "clear", "--project", project)
    assert cli("spend-limit", "get", "--project", project, check=3).stderr.startswith("error: ")
    assert cli.json("project", "update", project, "--name", "Renamed")["name"] == "Renamed"
    assert cli.json("project", "archive", project)["status"] == "archived"
    assert project not in cli("project", "list", "-o", "id").stdout
    assert project in cli("project", "list", "--archived", "-o", "id").stdout


def test_service_accounts_upstreams_and_models(cli, gateway):
    project = gateway.default_project
    out = gateway.home / "key.spared"
    made = cli("sa", "create", "robot", "--project", project, "--out", out, "-o", "json")
    secret = gateway.remember(out.read_text().strip())
    assert stat.S_IMODE(out.stat().st_mode) == 0o600 and secret not in made.stdout + made.stderr
    account = json.loads(made.stdout)["id"]
    assert cli("service-account", "create", "again", "--project", project, "--out", out, check=2).stderr.endswith("exists already.\n")
    assert len(cli.json("sa", "list", "--project", project)) == 1, "and nothing was made"
    assert gateway.chat(secret).status == 200
    assert cli.json("sa", "update", account, "--project", project, "--role", "owner")["role"] == "owner"
    owned = cli("key", "create", "second", "--project", project, "--owner", account, "--scope", "api.model.read", "-q")
    assert gateway.remember(owned.stdout.strip()).startswith("sk-tgsvc-")
    cli("sa", "delete", account, "--project", project)
    assert gateway.chat(secret).status == 401

    added = cli.json("upstream", "add", "local", "--base-url", "http://127.0.0.1:9/v1", "--model", "a", "--model", "b", "--api-key-file", "-",
                     stdin="sk-from-stdin-0123456789\n")
    gateway.remember("sk-from-stdin-0123456789")
    assert added["models"] == ["a", "b"] and added["has_api_key"] is True
    assert cli.json("upstream", "update", added["id"], "--name", "renamed")["name"] == "renamed"
    priced = cli.json("model", "set", "a", "--input", "0.5", "--output-price", "2", "--max-output", "100")
    assert (priced["input_price"], priced["output_price"], priced["max_output_tokens"]) == ("0.5", "2", 100)
    assert cli.json("model", "get", "a") == priced and "a" in cli("model", "list", "-o", "id").stdout.split()
    cli("model", "reset", "a")
    assert cli("upstream", "rm", added["id"], "-q").stderr == ""


def test_a_pipe_gets_tabs_and_a_terminal_a_table(cli, gateway):
    piped = cli("project", "list").stdout
    assert piped.splitlines()[0] == "ID\tNAME\tSTATUS\tCREATED\tLABELS\tFROZEN"
    assert piped.splitlines()[1].split("\t")[:3] == [gateway.default_project, "Default project", "active"]
    assert "\x1b" not in piped

    reader, writer = pty.openpty()
    env = clean_environment(TOLLGATE_URL=gateway.base_url, TOLLGATE_ADMIN_KEY=gateway.admin_key, TERM="dumb")
    subprocess.run([BINARY, "project", "list"], env=env, stdout=writer, check=True)
    os.close(writer)
    shown = os.read(reader, 65536).decode()
    os.close(reader)
    assert "\t" not in shown and re.search(r"ID +NAME +STATUS", shown) and gateway.default_project in shown


@pytest.mark.parametrize("args, code", [
    (["project", "get", "proj_absent"], 3), (["project", "create", ""], 1), (["nonsense"], 2), (["project"], 2), ([], 2),
    (["spend-limit", "set", "lots", "--project", "p"], 2), (["key", "create", "x", "--project", "p", "--expires", "soon"], 2),
    (["upstream", "add", "simulator", "--base-url", "http://127.0.0.1:9/v1", "--model", "m"], 5),
])
def test_exit_codes_tell_what_went_wrong(cli, args, code):
    assert cli(*args, check=code).stdout == ""


def test_a_wrong_key_or_server_has_its_own_exit_code(cli, gateway):
    assert cli("project", "list", key="sk-wrong", check=4).stderr.startswith("error: Incorrect API key provided: ***")
    assert cli("project", "list", url="http://127.0.0.1:9/v1", check=7)
    assert "Invalid URL" in cli("project", "list", url=gateway.base_url + "/nowhere", check=3).stderr
    assert "no admin key" in cli("project", "list", key=None, check=2, TOLLGATE_ADMIN_KEY=None).stderr
    assert cli("project", "list", url="nonsense", check=2)


def test_errors_are_objects_to_programs(cli):
    done = cli("project", "create", "x" * 300, "-o", "json", check=1)
    error = json.loads(done.stderr)
    assert error["error"]["param"] == "name" and error["request_id"].startswith("req_")


@pytest.mark.parametrize("flag", ["--api-key", "--admin-key", "--key", "--token"])
def test_a_secret_on_the_command_line_is_refused_with_the_right_way(cli, flag):
    done = cli("project", "list", flag, "sk-secret", check=2)
    assert "TOLLGATE_ADMIN_KEY" in done.stderr and "sk-secret" not in done.stderr


def test_keys_come_from_files_and_stdin(cli, gateway):
    file = gateway.home / "admin.spared"
    file.write_text(gateway.admin_key + "\n")
    for args, stdin in [(["--admin-key-file", file], None), (["--admin-key-file", "-"], gateway.admin_key)]:
        assert gateway.default_project in cli("project", "list", *args, stdin=stdin, TOLLGATE_ADMIN_KEY=None).stdout
    assert cli("project", "list", TOLLGATE_ADMIN_KEY=None, OPENAI_ADMIN_KEY=gateway.admin_key)
    # An OpenAI key goes only to a server that was named.
    refused = run("project", "list", env={"OPENAI_ADMIN_KEY": gateway.admin_key})
    assert refused.returncode == 2 and "no admin key" in refused.stderr


def test_lists_go_through_all_pages(cli, gateway):
    made = [gateway.project(f"p{n}") for n in range(130)]
    ids = cli("project", "list", "-o", "id").stdout.split()
    assert ids == [gateway.default_project, *made]
    some = cli("project", "list", "-o", "id", "--limit", "105")
    assert some.stdout.split() == ids[:105] and "more than 105" in some.stderr


def test_what_openai_lacks_is_said_before_anything_is_sent(cli):
    for args in [["key", "create", "x", "--project", "p"], ["upstream", "list"], ["model", "list"]]:
        done = cli(*args, url="https://api.openai.com/v1", check=2)
        assert "OpenAI's API has no way to" in done.stderr


def test_dev_prints_commands_that_work_as_they_are(tmp_path):
    """A newcomer's first minute: everything printed is pasted into a shell."""
    with open(tmp_path / "dev.log", "w") as log:
        dev = subprocess.Popen([BINARY, "dev", "--listen", "127.0.0.1:0"], env=clean_environment(TMPDIR=str(tmp_path)), stdout=subprocess.PIPE,
                               stderr=log, text=True)
    lines = []
    while not lines or "/v1/models" not in lines[-1]:
        lines.append(dev.stdout.readline())
        assert lines[-1] != "" or dev.poll() is None
    text = "".join(lines)
    exports = "\n".join(line.strip() for line in lines if line.strip().startswith("export "))
    commands = [block.strip("\n") for block in text.split("\n\n") if block.strip().startswith(("curl", "for ", "python3"))]
    assert len(commands) == 5

    def paste(command):
        script = f"{exports}\n{command.replace('python3 ', os.sys.executable + ' ')}"
        return subprocess.run(["bash", "-c", script], env=clean_environment(), capture_output=True, text=True, timeout=60).stdout

    assert json.loads(paste(commands[0]))["object"] == "chat.completion"
    assert paste(commands[1]).strip()
    answers = [line for line in paste(commands[2]).splitlines() if line]
    served = [line for line in answers if '"finish_reason":"length"' in line]
    refused = [line for line in answers if "project_spend_limit_exceeded" in line]
    assert len(answers) == 10 and 3 <= len(served) <= 5 and len(refused) == 10 - len(served)
    limit, revoked = paste(commands[3]), paste(commands[4])
    assert json.loads(limit)["enforcement"]["status"] == "enforcing" and float(json.loads(limit)["spent"]) <= 0.05
    assert '"deleted":true' in revoked and '"invalid_api_key"' in revoked
    dev.terminate()
    assert dev.wait(timeout=60) == 0
    assert list(tmp_path.glob("tollgate-dev-*")) == [], "nothing is left behind"
