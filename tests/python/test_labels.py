"""Labels: whose money it was, in words of one's own, as it was when it was spent."""

import csv
import io
import json
from decimal import Decimal

import pytest

from harness import request
from test_usage import ALL, COSTS, USAGE, money, now, results

PROJECTS = "/v1/organization/projects"


def account(server, project, **more):
    made = server.post(f"{PROJECTS}/{project}/service_accounts", {"name": "robot", **more}).json
    server.remember(made["api_key"]["value"])
    return made


def by_label(server, *names, path=COSTS, **query):
    found = results(server, path, group_by=[*query.pop("group_by", []), *(f"label:{name}" for name in names)], **query)
    values = {}
    for result in found:
        key = tuple(result["labels"][name] for name in names)
        assert key not in values and set(result["labels"]) == set(names)
        values[key] = Decimal(result["amount"]["value"]) if path == COSTS else result["num_model_requests"]
    return values


def test_costs_are_told_apart_by_labels_of_project_account_key_and_request(gateway):
    made = gateway.post(PROJECTS, {"name": "Search", "labels": {"team": "search", "env": "prod"}, "request_labels": {"feature": ["chat", "rank"]}}).json
    assert made["labels"] == {"env": "prod", "team": "search"} and made["request_labels"] == {"feature": ["chat", "rank"]}
    robot = account(gateway, made["id"], labels={"env": "batch", "robot": "yes"})
    assert robot["labels"] == {"env": "batch", "robot": "yes"}
    plain, own = gateway.key(made["id"]), gateway.key(made["id"], labels={"env": "test"})
    assert own["labels"] == {"env": "test"} and plain["labels"] == {}
    other = gateway.key(gateway.default_project)
    calls = [(plain["value"], None), (plain["value"], "feature=chat"), (own["value"], "feature=rank"), (robot["api_key"]["value"], None), (other["value"], None)]
    for key, label in calls:
        headers = {"x-tollgate-label": label} if label else {}
        answer = request(gateway.url, "POST", "/v1/chat/completions", key=key, body={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}, headers=headers)
        assert answer.status == 200, answer
    total, one = money(gateway), money(gateway) / 5
    assert by_label(gateway, "team") == {("search",): 4 * one, (None,): one}
    assert by_label(gateway, "env") == {("prod",): 2 * one, ("test",): one, ("batch",): one, (None,): one}
    assert by_label(gateway, "feature", "env") == {("chat", "prod"): one, (None, "prod"): one, ("rank", "test"): one, (None, "batch"): one, (None, None): one}
    assert by_label(gateway, "absent") == {(None,): total}
    assert by_label(gateway, "env", path=USAGE + "completions") == {("prod",): 2, ("test",): 1, ("batch",): 1, (None,): 1}
    for width in ("1m", "1h", "1d"):
        assert by_label(gateway, "team", bucket_width=width) == {("search",): 4 * one, (None,): one}, width
    assert by_label(gateway, "team", project_ids=[made["id"]]) == {("search",): 4 * one}
    assert by_label(gateway, "team", api_key_ids=[other["id"]]) == {(None,): one}
    items = results(gateway, COSTS, group_by=["label:team", "line_item"])
    assert sum(Decimal(r["amount"]["value"]) for r in items if r["labels"] == {"team": "search"}) == 4 * one
    assert sum(Decimal(r["cost"]) for r in results(gateway, ALL, group_by=["label:team", "model"]) if r["labels"]["team"]) == 4 * one
    assert all("labels" not in r for r in results(gateway, COSTS, group_by="project_id"))
    assert gateway.requests()[0]["labels"] == {}
    assert [row["labels"] for row in gateway.requests()[1:]] == [
        {"team": "search", "env": "batch", "robot": "yes"}, {"team": "search", "env": "test", "feature": "rank"},
        {"team": "search", "env": "prod", "feature": "chat"}, {"team": "search", "env": "prod"}]


def test_history_does_not_change_with_the_labels(gateway):
    project = gateway.project()
    key = gateway.key(project)
    path = f"{PROJECTS}/{project}"
    for labels in [{}, {"team": "a"}, {"team": "b"}, None]:
        assert gateway.post(path, {"labels": labels}).json["labels"] == (labels or {})
        assert gateway.chat(key["value"]).status == 200
    gateway.post(f"{path}/api_keys/{key['id']}", {"labels": {"team": "c"}})
    assert gateway.chat(key["value"]).status == 200
    gateway.delete(f"{path}/api_keys/{key['id']}")
    gateway.post(f"{path}/archive")
    found = by_label(gateway, "team", path=USAGE + "completions")
    assert found == {(None,): 2, ("a",): 1, ("b",): 1, ("c",): 1}
    # A correction lands on the labels of its request.
    row = gateway.requests()[-2]
    assert row["labels"] == {"team": "a"}
    assert gateway.post(f"/tollgate/v1/requests/{row['id']}/corrections", {"cost": "2", "reason": "x"}).status == 200
    assert by_label(gateway, "team")["a",] == 2


def test_labels_are_in_force_at_once_and_stay_over_a_restart(gateway):
    key = gateway.key(gateway.default_project, labels={"a": "1"})
    robot = account(gateway, gateway.default_project)
    path = f"{PROJECTS}/{gateway.default_project}"
    seen = lambda value: gateway.chat(value).status == 200 and gateway.requests()[0]["labels"]
    assert seen(key["value"]) == {"a": "1"}
    assert gateway.post(f"{path}/service_accounts/{robot['id']}", {"labels": {"b": "2"}}).json["labels"] == {"b": "2"}
    assert gateway.post(path, {"labels": {"c": "3", "b": "9"}}).status == 200, "the default project as well, though not its name"
    for _ in range(2):
        assert seen(key["value"]) == {"a": "1", "b": "9", "c": "3"} and seen(robot["api_key"]["value"]) == {"b": "2", "c": "3"}
        gateway.restart()
    assert gateway.post(f"{path}/api_keys/{key['id']}", {"labels": None}).json["labels"] == {}
    assert seen(key["value"]) == {"b": "9", "c": "3"}
    assert gateway.post(f"{path}/service_accounts/{robot['id']}", {"name": "r2"}).json["labels"] == {"b": "2"}, "what is not said stays"
    assert gateway.post(path, {"name": "x"}).error["code"] == "default_project"


def test_a_request_adds_only_what_its_project_allows(gateway):
    project = gateway.post(PROJECTS, {"name": "P", "request_labels": {"feature": ["chat"]}}).json["id"]
    key = gateway.key(project, labels={"feature": "none"})["value"]
    ask = lambda *labels: request(gateway.url, "POST", "/v1/chat/completions", key=key, body={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]},
                                  headers={"x-tollgate-label": labels[0]} if labels else {})
    assert ask("feature=chat").status == 200 and gateway.requests()[0]["labels"] == {"feature": "chat"}, "the request knows best"
    for bad in ["feature=other", "team=chat", "feature", "", "feature=chat,", "=", "feature=" + "x" * 500, "feature=chat=chat"]:
        refused = ask(bad)
        assert refused.status == 400 and refused.error["param"] == "x-tollgate-label", (bad, refused)
    assert len(gateway.requests()) == 1
    gateway.post(f"{PROJECTS}/{project}", {"request_labels": {}})
    assert ask("feature=chat").error["code"] == "label_not_allowed"
    twice = gateway.client(key).chat.completions.with_raw_response
    assert twice is not None


@pytest.mark.parametrize("labels", [{"a b": "x"}, {"": "x"}, {"a": ""}, {"a": "x" * 129}, {"a": "x\u0001"}, {"a": " x"}, {f"l{n}": "x" for n in range(17)}, {"x" * 65: "y"}, {"a": 1}, ["a"], "a=b"])
def test_labels_that_cannot_be_are_refused_everywhere(server, labels):
    project = server.project()
    key = server.key(project)["id"]
    robot = account(server, project)["id"]
    before = server.stored()
    for path, body in [(PROJECTS, {"name": "x"}), (f"{PROJECTS}/{project}", {}), (f"{PROJECTS}/{project}/api_keys", {"name": "x"}), (f"{PROJECTS}/{project}/api_keys/{key}", {}),
                       (f"{PROJECTS}/{project}/service_accounts", {"name": "x"}), (f"{PROJECTS}/{project}/service_accounts/{robot}", {})]:
        refused = server.post(path, {**body, "labels": labels})
        assert refused.status == 400 and refused.error["param"].startswith("labels"), (path, refused)
    many = {"request_labels": {name: ["x"] for name in labels} if isinstance(labels, dict) and len(labels) > 1 else {"a": [] if labels == {"a": ""} else ["x" * 129]}}
    refused = server.post(f"{PROJECTS}/{project}", many)
    assert refused.status == 400 and refused.error["param"].startswith("request_labels"), refused
    assert server.stored() == before


def test_questions_about_labels_that_cannot_be_are_refused(server):
    for name in ["label:", "label:a b", "label:" + "x" * 65, "labels:a", "label"]:
        refused = server.get(COSTS, start_time=now(), group_by=name)
        assert refused.status == 400 and "group_by" in refused.error["param"], refused


def test_labels_on_the_command_line(gateway, cli, tmp_path):
    project = cli.json("project", "create", "Labelled", "--label", "team=ml", "--request-label", "feature=chat,search")["id"]
    secret = tmp_path / "key"
    key = cli.json("key", "create", "k", "-p", project, "--label", "env=prod", "--out", secret)["id"]
    gateway.remember(secret.read_text().strip())
    assert gateway.chat(secret.read_text().strip()).status == 200
    assert gateway.chat(secret.read_text().strip(), model="gpt-4o").status == 200
    [total] = cli.json("cost", "--label", "team", "--total", "--since", "30d")
    assert Decimal(str(total["amount"]["value"])) == money(gateway) and total["labels"] == {"team": "ml"}
    shown = cli("cost", "--label", "team", "--label", "env").stdout
    assert "env=prod team=ml" in shown
    rows = list(csv.DictReader(io.StringIO(cli("usage", "export", "--by", "model", "--label", "team", "--bucket", "1h").stdout)))
    assert sorted((row["model"], row["label:team"], row["num_requests"]) for row in rows) == [("gpt-4o", "ml", "1"), ("gpt-4o-mini", "ml", "1")]
    lines = [json.loads(line) for line in cli("usage", "export", "--by", "model", "--label", "team", "--to", "jsonl").stdout.splitlines()]
    assert lines[0]["labels"] == {"team": "ml"}
    assert cli.json("project", "update", project, "--label", "none")["labels"] == {}
    assert cli.json("key", "update", key, "-p", project, "--label", "tier=gold")["labels"] == {"env": "prod", "tier": "gold"}, "others stay"
    assert cli.json("key", "update", key, "-p", project, "--label", "env=test", "--label", "tier=")["labels"] == {"env": "test"}
    robot = cli.json("service-account", "create", "r", "-p", project, "--label", "a=b", "--out", tmp_path / "robot")
    gateway.remember((tmp_path / "robot").read_text().strip())
    assert robot["labels"] == {"a": "b"}
    assert cli("project", "create", "x", "--label", "team", check=None).returncode == 2
