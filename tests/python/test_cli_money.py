"""Limits, books, corrections and the examination of an installation, from the shell."""

import json
import re

import pytest

from harness import Server, clean_environment, run

THOUSAND = {"model": "gpt-4o", "max_completion_tokens": 1000, "simulate": {"output_tokens": "max"}}


def test_limits_of_every_scope(cli, gateway):
    project = gateway.default_project
    key = gateway.key(project)
    for scope in [["--organization"], ["--project", project], ["--user", gateway.owner], ["--api-key-id", key["id"]]]:
        made = cli.json("spend-limit", "set", "2usd/day", *scope, "--time-zone", "Europe/Berlin")
        assert (made["threshold_amount"], made["interval"], made["time_zone"]) == (200, "day", "Europe/Berlin")
        again = cli.json("spend-limit", "set", "$3/day", *scope, "--observe")
        assert (again["id"], again["threshold_amount"], again["time_zone"], again["mode"]) == (made["id"], 300, "Europe/Berlin", "observe")
        assert cli.json("spend-limit", "set", "4/day", *scope)["mode"] == "observe", "only the amount was to change"
        assert cli.json("spend-limit", "set", "4/day", *scope, "--enforce", "--time-zone", "UTC")["mode"] == "enforce"
        cli("spend-limit", "set", "3/day", *scope, "--observe")
        cli("spend-limit", "set", "50", *scope)
        assert [limit["interval"] for limit in cli.json("spend-limit", "list", *scope)] == ["month", "day"]
        assert cli.json("spend-limit", "get", *scope)["threshold_amount"] == 5000
        assert cli.json("spend-limit", "get", *scope, "--interval", "day")["mode"] == "observe"
        cli("spend-limit", "clear", *scope, "--interval", "day")
        assert cli("spend-limit", "get", *scope, "--interval", "day", check=3).stderr.startswith("error: There is no spend limit")
        cli("spend-limit", "clear", *scope)
        assert cli.json("spend-limit", "list", *scope) == []
    assert cli.json("spend-limit", "set", "1", TOLLGATE_PROJECT=project)["scope_id"] == project
    for amount, why in [("0", "not more than nothing"), ("-5usd", "not more than nothing"), ("50eur", "US dollars"), ("99999999999999usd", "at most")]:
        assert why in cli("spend-limit", "set", amount, "--organization", check=2).stderr
    assert "see spend-limit list" in cli("spend-limit", "get", "--organization", check=3).stderr
    assert cli("project", "list", url=gateway.url).stdout == cli("project", "list").stdout
    assert "usually ends in /v1" in cli("project", "list", url=gateway.url + "/other", check=3).stderr
    assert "Say whose limit" in cli("spend-limit", "list", check=2).stderr
    cli("spend-limit", "set", "1", "--organization", "--user", "u", check=2)
    assert cli("spend-limit", "set", "1/day", "--organization", "--time-zone", "Mars", check=1).stderr.startswith("error: ")
    only = cli("spend-limit", "set", "1/day", "--project", project, url="https://api.openai.com/v1", check=2)
    assert "OpenAI's API has no way to" in only.stderr


def test_defaults_a_policy_and_what_no_limit_holds(cli, gateway):
    key = gateway.key(gateway.default_project)["id"]
    assert cli("spend-limit", "unlimited", "-o", "id").stdout.split() == [key]
    set_ = cli.json("spend-limit", "default", "set", "--for", "api_keys", "5usd/month", "1usd/day")
    assert [limit["interval"] for limit in set_["api_keys"]] == ["day", "month"] and set_["projects"] == []
    assert "api_keys\t5.00\tmonth" in cli("spend-limit", "default", "get").stdout
    gateway.key(gateway.default_project, "limited")
    assert cli("spend-limit", "unlimited", "-o", "id").stdout.split() == [key]
    assert cli.json("spend-limit", "default", "set", "--for", "api_keys")["api_keys"] == []
    policy = ["--project", gateway.default_project]
    assert cli.json("spend-limit", "policy", "set", *policy, "--when-exceeded", "clamp", "--min-output-tokens", "9", "--wait-ms", "0")["wait_ms"] == 0
    assert cli.json("spend-limit", "policy", "get", *policy)["when_exceeded"] == "clamp"


def test_what_a_limit_would_have_stopped(cli, gateway):
    key = gateway.key(gateway.default_project)["value"]
    ids = [gateway.chat(key, **THOUSAND).headers["x-request-id"] for _ in range(4)]
    tried = cli("spend-limit", "try", "--project", gateway.default_project, "0.03usd/month", "--since", "30d")
    assert ids[2] in tried.stdout and ids[3] in tried.stdout and ids[1] not in tried.stdout
    assert re.search(r"It would have refused 2 of 4 requests, \$0.02\d* of \$0.04\d*\.", tried.stderr)
    assert cli("spend-limit", "try", "--organization", "0.03", "-o", "id").stdout.split() == ids[2:]
    assert cli.json("spend-limit", "try", "--api-key-id", gateway.requests()[0]["api_key_id"], "5usd/week")["refused_requests"] == 0


def test_the_ledger_is_listed_corrected_and_refunded(cli, gateway):
    key = gateway.key(gateway.default_project)
    one = gateway.chat(key["value"], **THOUSAND).headers["x-request-id"]
    odd = gateway.chat(key["value"], simulate={"usage": {"prompt_tokens": -1, "completion_tokens": 1}}).headers["x-request-id"]
    assert cli("ledger", "list", "-o", "id").stdout.split() == [odd, one]
    assert cli("ledger", "list", "--flagged", "-o", "id").stdout.split() == [odd]
    assert cli.json("ledger", "list", "--recovered") == [] == cli.json("ledger", "list", "--state", "held")
    assert len(cli.json("ledger", "list", "--api-key-id", key["id"], "--project", gateway.default_project)) == 2
    assert "usage_absurd" in cli("ledger", "get", odd).stdout
    corrected = cli.json("ledger", "correct", one, "--cost", "$0.02", "--output-tokens", "1500", "--reason", "invoice 7")
    assert (corrected["kind"], corrected["reason"], corrected["output_tokens"]) == ("correction", "invoice 7", 500)
    assert cli.json("ledger", "refund", one, "0.01usd", "--reason", "sorry")["cost"] == "-0.010000000"
    assert [row["kind"] for row in cli.json("ledger", "adjustments", one)] == ["correction", "refund"]
    assert cli("ledger", "refund", one, "5", "--reason", "too much", check=1).stderr.startswith("error: ")
    assert cli("ledger", "get", "req_absent", check=3)


def test_books_are_checked_on_a_running_server(cli, gateway):
    gateway.chat(gateway.key(gateway.default_project)["value"])
    report = cli.json("fsck")
    assert report["is_balanced"] is True and report["attempts"] == 1 and report["faults"] == []
    assert cli("fsck").stdout.splitlines()[1].startswith("true\t1\t")
    user = gateway.user()
    assert cli("fsck", *gateway.place).stdout.strip(), "and so is the directory beside it"
    reader = gateway.post("/v1/organization/admin_api_keys", {"name": "r", "scopes": ["api.usage.read"]}).json["value"]
    assert cli("fsck", key=gateway.remember(reader), check=4) and user


def test_the_doctor_names_what_should_be_looked_at(cli, gateway):
    project = gateway.default_project
    key = gateway.key(project, "forgotten")
    gateway.chat(key["value"], simulate={"usage": {"prompt_tokens": -1, "completion_tokens": 1}})
    assert gateway.post("/tollgate/v1/upstreams", {"name": "own", "base_url": "http://127.0.0.1:9/v1", "models": ["endless"]}).status == 200
    assert gateway.post("/tollgate/v1/models/endless", {"input_price": "1", "output_price": "1"}).status == 200
    findings = cli.json("doctor")
    of = lambda check: [(f["status"], f["subject"], f["finding"]) for f in findings if f["check"] == check]
    assert of("books") == [("ok", "", "1 requests, balanced.")]
    [(status, subject, finding)] = of("keys")
    assert (status, subject) == ("warning", key["id"]) and "forgotten" in finding and key["value"] not in finding
    assert [(status, subject) for status, subject, _ in of("models")] == [("warning", "endless"), ("warning", "simulated-unpriced")], (
        "a model whose context is known is bounded by that")
    assert [status for status, _, _ in of("requests")] == ["ok", "warning", "warning"]
    [bound] = cli("ledger", "list", "--usage-source", "bound", "-o", "id").stdout.split()
    assert bound == gateway.requests()[0]["id"] and cli("ledger", "list", "--usage-source", "observed", "-o", "id").stdout == ""
    gateway.limit(project, 100)
    gateway.chat(key["value"], max_completion_tokens=10, simulate={"usage": {"prompt_tokens": 9, "completion_tokens": 50, "total_tokens": 59}})
    shown = cli("doctor").stdout
    assert "A limit holds every key." in shown and "model set gpt-4o-mini --forget-violations" in shown
    assert cli.json("model", "set", "gpt-4o-mini", "--forget-violations")["bound_violations"] is None
    other = gateway.post("/v1/organization/admin_api_keys", {"name": "owner", "scopes": ["api.management.read"]}).json["value"]
    assert "skipped\tbooks" in cli("doctor", key=gateway.remember(other)).stdout


def test_models_and_upstreams_are_told_all_they_can_be(cli, gateway):
    added = cli.json("upstream", "add", "local", "--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--on-client-gone", "cancel",
                     "--output-limit-field", "max_completion_tokens")
    assert (added["on_client_gone"], added["output_limit_field"]) == ("cancel", "max_completion_tokens")
    assert cli.json("upstream", "update", added["id"], "--on-client-gone", "drain")["on_client_gone"] == "drain"
    model = cli.json("model", "set", "m", "--input", "1", "--cache-write", "1.25", "--image-tokens", "765", "--request-cost-max", "0.5")
    assert (model["cache_write_price"], model["image_tokens"], model["request_cost_max"]) == ("1.25", 765, "0.500000000")
    assert cli.json("model", "set", "m", "--image-tokens", "none")["image_tokens"] is None


@pytest.fixture
def above(gateway, tmp_path):
    """A second installation whose upstream is the first: its provider's costs API is Tollgate's own."""
    home = tmp_path / "above"
    home.mkdir()
    above = Server(home)
    gateway.provider_key = gateway.key(gateway.default_project, "for the other")
    made = above.post("/tollgate/v1/upstreams", {"name": "below", "base_url": gateway.base_url, "api_key": gateway.provider_key["value"]})
    assert made.status == 200, made
    above.remember(gateway.provider_key["value"])
    above.upstream_id = made.json["id"]
    yield above
    above.finish()


def test_the_books_are_compared_with_the_provider_s_own_costs(gateway, above):
    key = above.key(above.default_project)["value"]
    for model in ["gpt-4o-mini", "gpt-4o", "gpt-4o"]:
        assert above.chat(key, model=model).status == 200
    costs_key = gateway.home / "costs.spared"
    costs_key.write_text(gateway.admin_key)

    def reconcile(*more, check=0):
        env = {"TOLLGATE_URL": above.base_url, "TOLLGATE_ADMIN_KEY": above.admin_key}
        return run("reconcile", "--upstream", above.upstream_id, "--costs-key-file", costs_key, "-o", "json", *more, env=env, check=check)

    agreed = json.loads(reconcile("--today").stdout)
    assert agreed["within_tolerance"] and {row["model"] for row in agreed["data"]} == {"gpt-4o", "gpt-4o-mini"}
    assert agreed["total"]["drift"] == "0.000000000" and float(agreed["total"]["ours"]) > 0
    # The provider bills what these books know nothing of.
    assert gateway.chat(gateway.provider_key["value"], **THOUSAND).status == 200
    drifted = json.loads(reconcile("--today", check=1).stdout)
    assert not drifted["within_tolerance"] and drifted["total"]["drift"].startswith("-0.010")
    [row] = [row for row in drifted["data"] if row["model"] == "gpt-4o"]
    assert float(row["drift_percent"]) < -80
    assert json.loads(reconcile("--today", "--tolerance", "100").stdout)["within_tolerance"]
    assert json.loads(reconcile().stdout)["data"] == [], "whole days only, unless asked"
    assert reconcile("--since", "never", check=2) and reconcile("--tolerance", "101", check=2)
    wrong = reconcile("--today", "--costs-url", "http://127.0.0.1:9/v1", check=7)
    assert "127.0.0.1:9" in wrong.stderr
    # A provider without such an API, and one whose figures cannot be read or are finer than ours.
    said = []
    other = above.fake(lambda body, handler: None)
    handler = other.server.RequestHandlerClass
    handler.do_GET = lambda self: self.send_json(*said)
    said = [404, {"error": {"message": "Not Found"}}]
    assert f"{other.base_url} gives no costs" in reconcile("--today", "--costs-url", other.base_url, check=3).stderr
    costs = lambda value: {"object": "page", "has_more": False, "next_page": None, "data": [
        {"start_time": 0, "results": [{"amount": {"value": value, "currency": "usd"}, "line_item": "gpt-4o, input"}]}]}
    said = [200, costs("0.13080438340307526")]
    assert json.loads(reconcile("--today", "--costs-url", other.base_url, check=1).stdout)["total"]["theirs"] == "0.130804383"
    said = [200, costs("much")]
    assert "is not an amount of dollars" in reconcile("--today", "--costs-url", other.base_url, check=2).stderr


def test_a_challenge_of_this_gateway(gateway, simulator, cli, report):
    """The page that anyone can make of any product; a small storm here, the whole one in the experiments."""
    gateway.limit(gateway.default_project, 100)
    key = gateway.key(gateway.default_project)
    files = {name: gateway.home / f"{name}.spared" for name in ["key", "admin"]}
    files["key"].write_text(key["value"])
    files["admin"].write_text(gateway.admin_key)
    given = ["challenge", "--target", gateway.base_url, "--key-file", files["key"], "--simulator", simulator.base_url]
    done = run(*given, "--admin-key-file", files["admin"], "--requests", "400", "--concurrency", "50", "--streams", "20", "-o", "json", check=0)
    page = json.loads(done.stdout)
    assert page["held"] and page["overspend"] == "0.000000000" and page["unrecorded_requests"] == 0 and page["unrecorded_cost"] == "0.000000000"
    assert page["seconds_a_deleted_key_lived"] == "0.000" and page["race"]["calls_after"] > 0
    assert page["agents"]["refused"] == 0 and page["storm"]["refused"] > 0
    assert gateway.chat(key["value"]).status == 401, "the key was revoked"
    report(f"challenge: {page['storm']['requests']} requests, ${page['provider']['billed']} billed of ${page['limit']}, false refusals {page['false_refusals']}")


def test_a_challenge_finds_what_leaks(gateway, simulator, tmp_path):
    """Without a limit on the key everything beyond the budget is overspend; a key that cannot be revoked is not measured."""
    key = tmp_path / "leaky.spared"
    key.write_text(gateway.remember(gateway.key(gateway.default_project)["value"]))
    given = ["challenge", "--target", gateway.base_url, "--key-file", key, "--simulator", simulator.base_url,
             "--requests", "200", "--concurrency", "20", "--streams", "4", "--watch", "5", "--limit", "0.5"]
    leaky = run(*given, "--spent-command", "echo 0.25", "--revoke-command", "true", check=1)
    assert re.search(r"overspend +\$0\.9", leaky.stdout) and "It did not hold." in leaky.stdout
    assert re.search(r"unrecorded cost +\$1\.", leaky.stdout), "what it says it spent does not grow"
    lived = float(re.search(r"a deleted key lived +(\S+)", leaky.stdout)[1])
    assert lived > 4, "a command that revokes nothing"
    assert "not measured" in run(*given, check=1).stdout
    assert "--limit" in run(*given[:-2], check=2).stderr
    wrong = run(*given[:5], "--simulator", gateway.base_url, "--limit", "1", check=2)
    assert "is not `tollgate simulate`" in wrong.stderr
