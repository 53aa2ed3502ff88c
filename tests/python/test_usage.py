"""Usage and costs as people who pay look at them: every endpoint, every way to ask, the same money however it is asked for."""

import csv
import io
import json
import random
import subprocess
import sys
import time
from decimal import Decimal

import pytest

from harness import Fake, Simulator, billed, clean_environment, request, run

COSTS, USAGE, ALL = "/v1/organization/costs", "/v1/organization/usage/", "/tollgate/v1/usage"
WHO = {"project_ids", "user_ids", "api_key_ids", "models"}
# By endpoint: what results are called, what counts, what can be grouped by, filters and a value for each that is one of few.
ENDPOINTS = {
    "completions": ("completions", ["project_id", "user_id", "api_key_id", "model", "batch", "service_tier", "api_source"], WHO | {"batch=false"}),
    "decisions": ("decisions", ["project_id", "user_id", "api_key_id", "model", "batch", "service_tier", "api_source"], WHO | {"batch=true"}),
    "embeddings": ("embeddings", ["project_id", "user_id", "api_key_id", "model"], WHO),
    "moderations": ("moderations", ["project_id", "user_id", "api_key_id", "model"], WHO),
    "images": ("images", ["project_id", "user_id", "api_key_id", "model", "size", "source"], WHO | {"sizes=256x256", "sources=image.edit"}),
    "audio_speeches": ("audio_speeches", ["project_id", "user_id", "api_key_id", "model"], WHO),
    "audio_transcriptions": ("audio_transcriptions", ["project_id", "user_id", "api_key_id", "model"], WHO),
    "vector_stores": ("vector_stores", ["project_id"], {"project_ids"}),
    "code_interpreter_sessions": ("code_interpreter_sessions", ["project_id"], {"project_ids"}),
    "file_search_calls": ("file_searches", ["project_id", "user_id", "api_key_id", "vector_store_id"], {"project_ids", "user_ids", "api_key_ids", "vector_store_ids"}),
    "web_search_calls": ("web_searches", ["project_id", "user_id", "api_key_id", "model", "context_level", "api_source"], WHO | {"context_levels=low"}),
}


def now():
    return int(time.time())


def buckets(server, path, key=None, **query):
    """All pages of a question."""
    query = {"start_time": now() - 3_600, **query}
    answer, found = server.get(path, key=key, **query), []
    while True:
        assert answer.status == 200, answer
        # As text: a float has no nano-dollars to spare.
        page = json.loads(answer.body, parse_float=Decimal, parse_int=int)
        found += page["data"]
        if page["next_page"] is None:
            return found
        answer = server.get(path, key=key, **query, page=page["next_page"])


def results(server, path, key=None, **query):
    return [result for bucket in buckets(server, path, key, **query) for result in bucket["results"]]


def money(server, key=None, path=COSTS, **query):
    return sum(Decimal(r["amount"]["value"] if path == COSTS else r["cost"]) for r in results(server, path, key, **query))


def robot(server, project, name="robot"):
    made = server.post(f"/v1/organization/projects/{project}/service_accounts", {"name": name}).json
    server.remember(made["api_key"]["value"])
    return made["id"]


@pytest.fixture
def world(gateway, simulator, tmp_path):
    """Three projects with two keys each, one a service account's; chat, embeddings and another upstream."""
    server, draw = gateway, random.Random(7)
    (tmp_path / "second").mkdir()
    second = Simulator(tmp_path / "second")
    server.projects, server.keys, server.first, server.second = [server.project(f"Project {number}") for number in range(3)], [], simulator, second
    try:
        server.upstream(second, name="second")
        for number, project in enumerate(server.projects[1:]):
            server.post(f"/v1/organization/projects/{project}", {"labels": {"team": f"team {number}"}})
        for project in server.projects:
            for owner in ({}, {"service_account_id": robot(server, project)}):
                labels = {"labels": {"robot": "yes"}} if owner else {}
                server.keys.append({**server.key(project, **owner, **labels), "project_id": project})
        for turn in range(40):
            key = draw.choice(server.keys)["value"]
            model = draw.choice(["gpt-4o-mini", "gpt-4o", "gpt-4o"])
            assert server.chat(key, model=model, simulate={"output_tokens": draw.randrange(1, 50)}).status == 200
            if turn % 5 == 0:
                server.client(key).embeddings.create(model="text-embedding-3-small", input="Hello", encoding_format="float")
        yield server
    finally:
        second.stop()


def test_every_endpoint_answers_every_question_that_openai_takes(world):
    one, key = world.projects[0], world.keys[0]
    values = {"project_ids": one, "user_ids": world.owner, "api_key_ids": key["id"], "models": "gpt-4o", "vector_store_ids": "vs_1"}
    for endpoint, (called, groups, filters) in ENDPOINTS.items():
        ask = getattr(world.admin.usage, endpoint)
        for width, seconds, most in [("1m", 60, 1440), ("1h", 3_600, 168), ("1d", 86_400, 31)]:
            page = ask(start_time=now() - 3_600, bucket_width=width, group_by=groups, limit=most)
            assert page.object == "page" and page.next_page is None and {b.end_time - b.start_time for b in page.data} == {seconds}
            found = [result for bucket in page.data for result in bucket.results]
            assert {result.object for result in found} <= {f"organization.usage.{called}.result"}
            assert bool(found) == (endpoint in ("completions", "embeddings")), endpoint
            assert world.get(USAGE + endpoint, start_time=now() - 3_600, bucket_width=width, limit=most + 1).error["param"] == "limit"
        for group in {g for _, others, _ in ENDPOINTS.values() for g in others}:
            answer = world.get(USAGE + endpoint, start_time=now() - 3_600, group_by=group)
            assert answer.status == (200 if group in groups else 400), (endpoint, group, answer)
            assert group in groups or answer.error["param"].startswith("group_by"), answer
        for each in {f for _, _, others in ENDPOINTS.values() for f in others}:
            name, _, value = each.partition("=")
            answer = world.get(USAGE + endpoint, start_time=now() - 3_600, **{name: value or values[name]})
            is_taken = name in {f.partition("=")[0] for f in filters}
            assert answer.status == (200 if is_taken else 400), (endpoint, name, answer)
            assert is_taken or answer.error["param"] == name, answer
    for name in ("sizes", "sources"):
        assert world.get(USAGE + "images", start_time=now(), **{name: "odd"}).status == 400
    assert world.get(USAGE + "web_search_calls", start_time=now(), context_levels="deep").status == 400


def test_money_is_the_same_however_it_is_asked_for(world):
    """Every grouping, and filters that cut the whole into parts, at each width; and the requests themselves."""
    total = sum(Decimal(row["cost"]) for row in world.requests())
    assert total > 0 and len(world.requests()) == 48
    ids = {"project_ids": world.projects, "api_key_ids": [key["id"] for key in world.keys], "models": ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"],
           "user_ids": [world.owner, *{r["user_id"] for r in results(world, ALL, group_by="user_id")}.difference({world.owner})],
           "upstream_ids": [u["id"] for u in world.get("/tollgate/v1/upstreams").json["data"]]}
    groups = ["project_id", "user_id", "api_key_id", "line_item", "api_source", "model", "upstream_id", "label:team", "label:absent"]
    of_all = ["project_id", "user_id", "api_key_id", "model", "upstream_id", "service_tier", "endpoint", "label:team", "label:robot"]
    assert len({r["upstream_id"] for r in results(world, COSTS, group_by="upstream_id")}) == 2
    draw = random.Random(11)
    for turn in range(120):
        width, path = draw.choice(["1m", "1h", "1d"]), draw.choice([COSTS, ALL])
        names = groups if path == COSTS else of_all
        group_by = ",".join(draw.sample(names, draw.randrange(0, len(names) + 1)))
        query = {"bucket_width": width, "limit": draw.choice([1, 31]), **({"group_by": group_by} if group_by else {})}
        if width == "1m":
            query |= {"limit": 1440}
        assert money(world, path=path, **query) == total, query
        cut = draw.choice(list(ids))
        parts = [money(world, path=path, **query, **{cut: each}) for each in ids[cut]]
        assert sum(parts) == total, (query, cut, parts)
    # Line items, each asked for by itself.
    items = {r["line_item"] for r in results(world, COSTS, group_by="line_item")}
    assert sum(money(world, **{"line_items[]": item}) for item in sorted(items)) == total
    assert sum(money(world, **{"line_items[]": item}, group_by="model") for item in sorted(items)) == total
    # And what the provider says that it billed.
    tokens = [sum(column) for column in zip(*(billed(world.first) + billed(world.second)))]
    told = results(world, ALL)[0]
    assert [told["input_tokens"], told["output_tokens"]] == tokens


def test_costs_by_model_and_upstream_are_named_and_narrowed(world):
    found = results(world, COSTS, group_by="model,upstream_id")
    assert {r["model"] for r in found} == {"gpt-4o", "gpt-4o-mini", "text-embedding-3-small"}
    assert all(r["upstream_id"].startswith("upstream_") and r["project_id"] is None for r in found)
    items = results(world, COSTS, group_by="line_item,model", models="gpt-4o")
    assert {(r["model"], r["line_item"]) for r in items} == {("gpt-4o", "gpt-4o, input_tokens"), ("gpt-4o", "gpt-4o, output_tokens")}
    assert {r["model"] for r in results(world, COSTS, group_by="line_item")} == {None}
    assert results(world, COSTS, models="absent") == results(world, COSTS, upstream_ids="upstream_absent") == []
    assert results(world, COSTS, models="gpt-4o-mini", **{"line_items[]": "gpt-4o, output_tokens"}) == []


def test_what_is_corrected_lands_on_the_day_of_its_request_in_every_sum(world):
    row = world.requests()[0]
    before = money(world)
    assert world.post(f"/tollgate/v1/requests/{row['id']}/refunds", {"amount": row["cost"], "reason": "late"}).status == 200
    for query in ({}, {"group_by": "project_id"}, {"group_by": "api_key_id"}, {"bucket_width": "1h"}, {"bucket_width": "1m", "limit": 1440}):
        assert money(world, **query) == before - Decimal(row["cost"]), query
    adjusted = [r for r in results(world, ALL, group_by="api_key_id") if Decimal(r["adjusted_cost"])]
    assert [r["api_key_id"] for r in adjusted] == [row["api_key_id"]]


def test_tiers_audio_and_what_is_kept_are_counted_apart(server):
    details = {"prompt_tokens_details": {"cached_tokens": 20, "audio_tokens": 60}, "completion_tokens_details": {"audio_tokens": 30}}
    answers = iter([("flex", details), ("priority", {}), (None, {}), ("default", {})])

    def answer(body, handler):
        tier, more = next(answers)
        usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150, **more}
        return 200, {**Fake.completion(), "usage": usage, **({"service_tier": tier} if tier else {})}

    server.fake(answer, audio_input_price="32", audio_output_price="64", flex_price_factor="0.5", priority_price_factor="2")
    key = server.key(server.default_project)["value"]
    for _ in range(4):
        assert server.chat(key, model="fake").status == 200
    for width in ("1m", "1h", "1d"):
        found = {r["service_tier"]: r for r in results(server, USAGE + "completions", group_by="service_tier", bucket_width=width, limit=31)} if width != "1m" else \
            {r["service_tier"]: r for r in results(server, USAGE + "completions", group_by="service_tier", bucket_width=width, limit=1440)}
        assert {tier: r["num_model_requests"] for tier, r in found.items()} == {"flex": 1, "priority": 1, "default": 2}
        flex = found["flex"]
        assert (flex["input_audio_tokens"], flex["output_audio_tokens"], flex["input_text_tokens"], flex["output_text_tokens"], flex["input_cached_tokens"]) == (60, 30, 20, 20, 20)
        assert found["default"]["input_audio_tokens"] == 0
    assert sum(r["num_model_requests"] for r in results(server, USAGE + "completions", user_ids=server.owner, group_by="service_tier,api_key_id")) == 4


def test_a_page_shows_so_many_buckets_and_leads_to_the_next(world):
    start = now() - 5 * 86_400
    page = world.get(COSTS, start_time=start, limit=2).json
    assert len(page["data"]) == 2 and page["has_more"] and all(bucket["results"] == [] for bucket in page["data"])
    found = buckets(world, COSTS, start_time=start, limit=2)
    edges = [bucket["start_time"] for bucket in found]
    assert edges == sorted(set(edges)) and len(edges) == 6 and found[-1]["results"]
    for other in ({"limit": 2, "start_time": start - 86_400}, {"limit": 2, "start_time": start, "group_by": "model"}, {"limit": 2, "start_time": start, "bucket_width": "1h"}):
        assert world.get(COSTS, **other, page=page["next_page"]).error["param"] == "page", other
    # The same question with another size of page is the same question.
    assert world.get(COSTS, start_time=start, limit=3, page=page["next_page"]).status == 200


@pytest.mark.parametrize("query, param", [
    ({}, "start_time"), ({"start_time": "x"}, "start_time"), ({"start_time": -1}, "start_time"), ({"start_time": 2**40}, "start_time"), ({"start_time": 200, "end_time": 100}, "end_time"),
    ({"start_time": 200, "end_time": 200}, "end_time"), ({"start_time": 1, "end_time": 2**40}, "end_time"), ({"start_time": 1, "limit": 0}, "limit"), ({"start_time": 1, "limit": 1000}, "limit"),
    ({"start_time": 1, "bucket_width": "1w"}, "bucket_width"), ({"start_time": 1, "group_by": "colour"}, "group_by"), ({"start_time": 1, "page": "page_1_2"}, "page"), ({"start_time": 1, "colours": "red"}, "colours")])
def test_what_cannot_be_asked_is_said(server, query, param):
    for path in (COSTS, ALL, USAGE + "completions", USAGE + "vector_stores"):
        answer = server.get(path, **query)
        assert answer.status == 400 and answer.error["param"].split("[")[0] == param, (path, answer)


def test_a_key_of_a_project_with_the_scope_sees_its_project_and_nothing_else(world):
    one, two = world.projects[:2]
    account = robot(world, one, "accountant")
    reading = world.key(one, name="Reader", service_account_id=account, scopes=["api.usage.read"])
    own, everything = money(world, project_ids=one), money(world)
    assert 0 < own < everything
    for path in (COSTS, ALL):
        for group_by in ("project_id", "api_key_id", "model"):
            assert money(world, key=reading["value"], path=path, group_by=group_by) == own
        assert {r["project_id"] for r in results(world, path, reading["value"], group_by="project_id")} == {one}
        assert money(world, key=reading["value"], path=path, project_ids=two) == 0, "another's is as one that is not there"
        theirs = [key["id"] for key in world.keys if key["project_id"] == two]
        assert money(world, key=reading["value"], path=path, api_key_ids=theirs[0]) == 0
    for endpoint in ENDPOINTS:
        assert world.get(USAGE + endpoint, key=reading["value"], start_time=now() - 60).status == 200
    assert {(r["user_name"], r["api_key_name"], r["project_name"]) for r in results(world, ALL, reading["value"], group_by="user_id,api_key_id,project_id")} == {(None, None, "Project 0")}
    narrow = world.remember(world.post("/v1/organization/admin_api_keys", {"name": "costs", "scopes": ["api.usage.read"]}).json["value"])
    assert {(r["user_name"], r["api_key_name"]) for r in results(world, ALL, narrow, group_by="user_id,api_key_id")} == {(None, None)}, "names are told to who may read them"
    assert results(world, COSTS, project_ids="") == results(world, ALL, project_ids="", group_by="project_id") == []
    # It looks, and does nothing else: no model, no list of requests.
    assert world.chat(reading["value"]).status == 403
    refused = world.get("/tollgate/v1/requests", key=reading["value"])
    assert refused.status == 403 and refused.error["code"] == "admin_key_required"
    assert world.get("/v1/organization/projects", key=reading["value"]).status == 403
    # Without the scope itself a key sees nothing, not even one that may everything.
    for scopes in ([], ["api.all.read"], ["api.model.request"]):
        other = world.key(one, service_account_id=account, scopes=scopes)
        assert world.get(COSTS, key=other["value"], start_time=1).status == 403, scopes
    idle = world.admin.projects.service_accounts.create(one, name="idle", create_service_account_only=True).id
    assert world.get(COSTS, key=world.key(one, service_account_id=idle, scopes=["api.usage.read"])["value"], start_time=1).error["code"] == "owner_not_permitted"
    world.delete(f"/v1/organization/projects/{one}/api_keys/{reading['id']}")
    assert world.get(COSTS, key=reading["value"], start_time=1).status == 401


def test_a_persons_key_sees_what_its_owner_may(server):
    member, lead = server.user("member@example.com"), server.user("lead@example.com")
    project = server.project()
    server.admin.projects.users.create(project, user_id=member, role="member")
    server.admin.projects.users.create(project, user_id=lead, role="owner")
    keys = {who: server.key(project, user_id=who, scopes=["api.usage.read"])["value"] for who in (member, lead)}
    assert server.get(COSTS, key=keys[member], start_time=1).status == 403
    assert server.get(COSTS, key=keys[lead], start_time=now()).status == 200
    server.admin.projects.users.update(lead, project_id=project, role="member")
    assert server.get(COSTS, key=keys[lead], start_time=now()).status == 403, "for the next request"


def test_nobody_gives_the_scope_who_does_not_hold_it(server):
    project = server.project()
    maker = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "m", "scopes": ["api.organization.projects.api_keys.write", "api.organization.projects.service_accounts.write"]}).json["value"])
    account = robot(server, project)
    path = f"/v1/organization/projects/{project}/api_keys"
    refused = request(server.url, "POST", path, key=maker, body={"name": "x", "service_account_id": account, "scopes": ["api.usage.read"]})
    assert refused.status == 403 and "api.usage.read" in refused.error["message"]
    made = request(server.url, "POST", path, key=maker, body={"name": "x", "service_account_id": account, "scopes": ["api.model.request"]}).json
    server.remember(made["value"])
    assert request(server.url, "POST", f"{path}/{made['id']}", key=maker, body={"scopes": ["api.usage.read"]}).status == 403


def test_an_admin_key_that_is_restricted_to_projects_sees_their_usage(world):
    one, two, three = world.projects
    fenced = world.remember(world.post("/v1/organization/admin_api_keys", {"name": "fenced", "project_ids": [one, two]}).json["value"])
    assert {r["project_id"] for r in results(world, COSTS, fenced, group_by="project_id")} == {one, two}
    assert money(world, key=fenced) == money(world, project_ids=f"{one},{two}") < money(world)
    assert money(world, key=fenced, project_ids=three) == 0


def test_usage_is_exported_for_spreadsheets_and_programs(world, cli):
    project = world.project('=HYPERLINK("http://x"), odd')
    key = world.key(project, name="-1+1")
    assert world.chat(key["value"], model="gpt-4o-mini").status == 200
    total = money(world)
    rows = list(csv.DictReader(io.StringIO(cli("usage", "export", "--since", "2h").stdout)))
    assert sum(Decimal(row["cost"]) for row in rows) == total
    [odd] = [row for row in rows if row["project_id"] == project]
    assert odd["project_name"] == "'" + '=HYPERLINK("http://x"), odd' and odd["api_key_name"] == "'-1+1" and odd["start_time"].endswith("Z")
    assert (odd["model"], odd["endpoint"], odd["service_tier"], odd["num_requests"]) == ("gpt-4o-mini", "completions", "default", "1") and "@" in odd["user_name"]
    lines = [json.loads(line) for line in cli("usage", "export", "--since", "2h", "--to", "jsonl", "--bucket", "1h").stdout.splitlines()]
    assert sum(Decimal(line["cost"]) for line in lines) == total and all(line["end_time"] - line["start_time"] == 3_600 for line in lines)
    by_model = list(csv.DictReader(io.StringIO(cli("usage", "export", "--since", "40d", "--by", "model").stdout)))
    assert {row["model"]: Decimal(row["cost"]) for row in by_model} == {r["model"]: Decimal(r["amount"]["value"]) for r in results(world, COSTS, group_by="model")}
    assert all(row["project_id"] == "" for row in by_model)
    assert list(csv.DictReader(io.StringIO(cli("usage", "export", "--since", "2d", "--until", "1d").stdout))) == [] or now() % 86_400 < 7_200
    table = cli("cost", "--by", "model,upstream", "--bucket", "1h").stdout.splitlines()
    assert table[0].split("\t")[0] == "FROM" and len(table) > 3
    assert "TIER" in cli("usage", "--by", "tier").stdout
    today = time.strftime("%Y-%m-%d", time.gmtime(now() - 3_600))
    assert sum(Decimal(json.loads(line)["cost"]) for line in cli("usage", "export", "--since", today, "-o", "json").stdout.splitlines()) == total
    assert "2026-11-01" in run("cost", "--since", "yesterday", env={"TOLLGATE_URL": world.base_url, "TOLLGATE_ADMIN_KEY": world.admin_key}, check=2).stderr
    refused = run("usage", "export", "--bucket", "1m", check=2)
    assert "1h" in refused.stderr


def test_an_exporter_written_for_openai_reports_ours(world, tmp_path):
    """openai-usage-report, with nothing changed but the host."""
    script = f"""
import openai_usage.api as api, openai_usage.cli as cli, openai_usage.pricing as pricing
for name in [name for name in vars(api) if name.startswith("API_BASE_URL")]:
    setattr(api, name, getattr(api, name).replace("https://api.openai.com/v1", {world.base_url!r}))
cli.load_pricing = lambda: pricing.FALLBACK_PRICING  # it would fetch them from the internet
cli.main()
"""
    env = clean_environment(HOME=str(tmp_path), OPENAI_ADMIN_API_KEY=world.admin_key)
    done = subprocess.run([sys.executable, "-c", script, "--group-by", "project", "key", "model"], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Error" not in done.stderr and "Warning" not in done.stderr, (done.stdout, done.stderr)
    found = {}
    for line in done.stdout.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[1].startswith("Project "):
            found[cells[1], cells[2]] = found.get((cells[1], cells[2]), Decimal(0)) + Decimal(cells[7])
    expected = {(r["project_name"], r["model"]): Decimal(r["cost"]) for r in results(world, ALL, group_by="project_id,model", endpoints="completions")}
    # Its cells have four places, and there are two keys in each sum.
    assert found.keys() == expected.keys() and all(abs(found[key] - expected[key]) <= Decimal("0.0002") for key in found), (found, expected)
    # It names the project in the singular, as OpenAI's documents do not.
    for path in (COSTS, ALL, USAGE + "completions"):
        assert len(results(world, path, project_id=world.projects[0], group_by="project_id")) == 1
        assert results(world, path, project_id=world.projects[0], project_ids=world.projects[1]) == []
