"""Audit log, usage, costs, requests: what is told of what happened."""

import itertools
import time

import pytest

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def spent(gateway):
    """Two projects with two keys each, which called two models."""
    ada = gateway.user(role="owner")
    projects = [gateway.project("one"), gateway.project("two")]
    gateway.keys = {}
    for project, owner in itertools.product(projects, [gateway.owner, ada]):
        key = gateway.key(project, user_id=owner)
        gateway.keys[key["id"]] = (project, owner)
        for model, tokens in [("gpt-4o-mini", 10), ("gpt-4o", 20)]:
            assert gateway.chat(key["value"], model=model, simulate={"output_tokens": tokens}).status == 200
        client = gateway.client(key["value"])
        client.embeddings.create(model="text-embedding-3-small", input="Hello", encoding_format="float")
    gateway.projects, gateway.ada = projects, ada
    return gateway


def now():
    return int(time.time())


def results(page):
    return [result for bucket in page.data for result in bucket.results]


def test_costs_of_every_grouping_add_up_to_the_same(spent):
    costs = spent.admin.usage.costs
    total = sum(r.amount.value for r in results(costs(start_time=now() - 86400)))
    by_requests = sum(float(r["cost"]) for r in spent.requests())
    assert total == pytest.approx(by_requests, abs=1e-12) and total > 0
    names = ["project_id", "user_id", "api_key_id", "line_item", "api_source"]
    for count in range(1, len(names) + 1):
        for group_by in itertools.combinations(names, count):
            grouped = results(costs(start_time=now() - 86400, group_by=list(group_by)))
            assert sum(r.amount.value for r in grouped) == pytest.approx(total, abs=1e-12), group_by
            for r in grouped:
                assert r.object == "organization.costs.result" and r.amount.currency == "usd"
                assert [getattr(r, name) is not None for name in names] == [name in group_by for name in names], r
    items = results(costs(start_time=now() - 86400, group_by=["line_item"]))
    assert {(r.line_item, r.quantity, r.quantity_unit) for r in items} >= {
        ("gpt-4o, output_tokens", 80.0, "tokens"), ("gpt-4o-mini, output_tokens", 40.0, "tokens")}


def test_costs_are_filtered(spent):
    costs = spent.admin.usage.costs
    since = now() - 86400
    one, two = spent.projects
    of_one = sum(r.amount.value for r in results(costs(start_time=since, project_ids=[one])))
    both = sum(r.amount.value for r in results(costs(start_time=since, project_ids=[one, two])))
    assert both == pytest.approx(2 * of_one, abs=1e-12)
    key = next(iter(spent.keys))
    assert sum(r.amount.value for r in results(costs(start_time=since, api_key_ids=[key]))) == pytest.approx(both / 4, abs=1e-12)
    output = results(costs(start_time=since, line_items=["gpt-4o, output_tokens"]))
    assert sum(r.amount.value for r in output) == pytest.approx(80 * 10e-6, abs=1e-12)
    assert results(costs(start_time=since, project_ids=["proj_absent"])) == []


def test_usage_by_bucket_width_and_group(spent):
    usage = spent.admin.usage
    for width in ["1m", "1h", "1d"]:
        page = usage.completions(start_time=now() - 600, bucket_width=width)
        found = results(page)
        assert sum(r.num_model_requests for r in found) == 8 and sum(r.output_tokens for r in found) == 120, width
        assert all(b.object == "bucket" and b.start_time < b.end_time for b in page.data)
    grouped = results(usage.completions(start_time=now() - 600, group_by=["model", "project_id", "user_id", "api_key_id"]))
    assert len(grouped) == 8 and {r.output_tokens for r in grouped} == {10, 20}
    assert {(r.project_id, r.user_id) for r in grouped} == set(spent.keys.values())
    others = results(usage.completions(start_time=now() - 600, group_by=["batch", "service_tier", "api_source"]))
    assert [(r.batch, r.service_tier, r.api_source) for r in others] == [(False, "default", "unlabeled")]
    only = results(usage.completions(start_time=now() - 600, models=["gpt-4o"], user_ids=[spent.ada]))
    assert sum(r.output_tokens for r in only) == 40
    assert results(usage.completions(start_time=now() - 600, batch=True)) == []
    embedded = results(usage.embeddings(start_time=now() - 600, group_by=["model"]))
    assert [(r.model, r.input_tokens, r.num_model_requests) for r in embedded] == [("text-embedding-3-small", 4, 4)]


@pytest.mark.parametrize("spelling", ["group_by=model&group_by=project_id", "group_by[]=model&group_by[]=project_id", "group_by=model,project_id"])
def test_lists_in_a_query_come_in_every_spelling(spent, spelling):
    answer = spent.get(f"/v1/organization/usage/completions?start_time={now() - 600}&{spelling}")
    assert answer.status == 200 and len(answer.json["data"][-1]["results"]) == 4


def test_buckets_come_in_pages_that_belong_to_their_query(spent):
    path, start = "/v1/organization/usage/completions", now() - 9 * 86400
    pages, page = [], None
    while True:
        query = {"start_time": start, "limit": 4, **({"page": page} if page else {})}
        answer = spent.get(path, **query).json
        assert answer["object"] == "page" and answer["has_more"] == (answer["next_page"] is not None)
        pages.append(answer["data"])
        page = answer["next_page"] or page
        if not answer["has_more"]:
            break
    buckets = [bucket for page_ in pages for bucket in page_]
    assert [len(p) for p in pages] == [4, 4, 2]
    assert all(a["end_time"] == b["start_time"] for a, b in zip(buckets, buckets[1:]))
    assert sum(r["output_tokens"] for b in buckets for r in b["results"]) == 120
    other = spent.get(path, start_time=start, limit=4, group_by="model", page=page)
    assert other.status == 400 and other.error["param"] == "page"


@pytest.mark.parametrize("query, param", [
    ({}, "start_time"), ({"start_time": "x"}, "start_time"), ({"start_time": -1}, "start_time"), ({"start_time": 100, "end_time": 50}, "end_time"),
    ({"start_time": 1, "limit": 0}, "limit"), ({"start_time": 1, "limit": 32}, "limit"), ({"start_time": 1, "bucket_width": "2d"}, "bucket_width"),
    ({"start_time": 1, "bucket_width": "1h", "limit": 169}, "limit"), ({"start_time": 1, "bucket_width": "1m", "limit": 1441}, "limit"),
    ({"start_time": 1, "group_by": "nonsense"}, "group_by[0]"), ({"start_time": 1, "page": "nonsense"}, "page"), ({"start_time": 1, "x": 1}, "x"),
])
def test_a_bad_query_names_its_parameter(server, query, param):
    answer = server.get("/v1/organization/usage/completions", **query)
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_requests_are_listed_newest_first_and_filtered(spent):
    everything = spent.requests()
    assert len(everything) == 12 and [r["id"] for r in everything] == sorted((r["id"] for r in everything), reverse=True)
    one = spent.projects[0]
    assert {r["project_id"] for r in spent.requests(project_id=one)} == {one}
    key = next(iter(spent.keys))
    assert [r["api_key_id"] for r in spent.requests(api_key_id=key)] == [key] * 3
    assert spent.requests(state="voided") == [] and spent.requests(project_id="nonsense") == []
    assert spent.get("/tollgate/v1/requests", state="nonsense").error["param"] == "state"
    assert spent.get(f"/tollgate/v1/requests/{everything[0]['id']}").json == everything[0]
    assert spent.get("/tollgate/v1/requests/req_nonsense").status == 404


def test_every_change_is_in_the_audit_log_and_reading_is_not(server):
    """One change of each kind, each with its event; the SDK with strict validation reads them all."""
    project = server.project("audited")
    ada = server.user()
    base = f"/v1/organization/projects/{project}"
    server.post(base, {"name": "renamed"})
    server.post(f"{base}/users", {"user_id": ada, "role": "member"})
    server.post(f"{base}/users/{ada}", {"role": "owner"})
    key = server.key(project, user_id=ada, scopes=["api.model.read"])
    server.post(f"{base}/api_keys/{key['id']}", {"scopes": []})
    account = server.admin.projects.service_accounts.create(project, name="robot")
    server.remember(account.api_key.value)
    server.post(f"{base}/service_accounts/{account.id}", {"name": "robot 2"})
    server.limit(project, 5)
    server.delete(f"{base}/spend_limit")
    server.delete(f"{base}/service_accounts/{account.id}")
    server.delete(f"{base}/users/{ada}")
    server.post(f"/v1/organization/users/{ada}", {"role": "owner"})
    server.delete(f"/v1/organization/users/{ada}")
    upstream = server.post("/tollgate/v1/upstreams", {"name": "u", "base_url": "http://127.0.0.1:9/v1", "models": ["m"]}).json
    server.post(f"/tollgate/v1/upstreams/{upstream['id']}", {"name": "v"})
    server.post("/tollgate/v1/models/m", {"input_price": "1"})
    server.delete("/tollgate/v1/models/m")
    server.delete(f"/tollgate/v1/upstreams/{upstream['id']}")
    server.post(f"{base}/archive")
    before = server.get("/v1/organization/audit_logs", limit=100).json["data"]
    server.get(base), server.get("/v1/organization/users"), server.post(f"{base}/archive")
    assert server.get("/v1/organization/audit_logs", limit=100).json["data"] == before

    events = list(reversed(list(server.admin.audit_logs.list(limit=7))))
    assert [e.type for e in events] == [
        "project.created", "user.added", "api_key.created",  # the first start
        "project.created", "user.added", "project.updated", "user.added", "user.updated",
        "api_key.created", "api_key.updated", "service_account.created", "api_key.created", "service_account.updated",
        "project.updated", "project.updated", "api_key.deleted", "service_account.deleted", "user.deleted",
        "user.updated", "api_key.deleted", "user.deleted",
        "organization.updated", "organization.updated", "organization.updated", "organization.updated", "organization.updated",
        "project.archived",
    ]
    made = events[8]
    assert made.api_key_created.id == key["id"] and made.api_key_created.data.scopes == ["api.model.read"]
    assert made.project.id == project and made.project.name == "renamed"
    assert made.actor.type == "api_key" and made.actor.api_key.user.email == "owner@localhost"
    assert made.actor.api_key.id == server.get("/tollgate/v1/me").json["id"], "which key it was, not only whose"
    raw = before[-9]
    assert raw["api_key.created"]["data"]["owner_id"] == ada and raw["api_key.created"]["data"]["created_by"] == server.owner
    assert raw["actor"]["ip_address"] == "127.0.0.1"
    assert "sk-" not in str(before)


def test_the_audit_log_is_filtered_and_paged(server):
    projects = [server.project(f"p{n}") for n in range(5)]
    logs = server.admin.audit_logs
    created = [e.project_created.id for e in logs.list(event_types=["project.created"])]
    assert created == [*reversed(projects), server.default_project]
    assert [e.project.id for e in logs.list(project_ids=[projects[2]])] == [projects[2]]
    assert [e.type for e in logs.list(resource_ids=[projects[1]])] == ["project.created"]
    assert len(list(logs.list(actor_emails=["owner@localhost"]))) == 5
    assert len(list(logs.list(actor_ids=[server.owner], event_types=["project.created", "api_key.created"]))) == 5
    assert list(logs.list(effective_at={"lt": 1000})) == [] and len(list(logs.list(effective_at={"gte": 1000}))) == 8
    assert list(logs.list(tenant_only=True)) == []
    page = server.get("/v1/organization/audit_logs", limit=3).json
    older = server.get("/v1/organization/audit_logs", limit=3, after=page["last_id"]).json
    newer = server.get("/v1/organization/audit_logs", limit=3, before=older["first_id"]).json
    assert [e["id"] for e in newer["data"]] == [e["id"] for e in page["data"]]
    assert server.get("/v1/organization/audit_logs", after="x").error["param"] == "after"


def test_me_says_what_a_key_is_and_may(gateway):
    key = gateway.key(gateway.default_project, name="mine", scopes=["api.model.request"], expires_in_seconds=500)
    gateway.chat(key["value"])
    me = gateway.get("/tollgate/v1/me", key=key["value"]).json
    assert (me["id"], me["name"], me["kind"], me["project_id"]) == (key["id"], "mine", "project", gateway.default_project)
    assert me["scopes"] == ["api.model.request"] and me["expires_at"] == key["expires_at"] and "gpt-4o" in me["models"]
    assert float(me["spent"]) > 0 and me["held"] == "0.000000000" and me["remaining"] is None
    gateway.limit(gateway.default_project, 100)
    me = gateway.get("/tollgate/v1/me", key=key["value"]).json
    assert float(me["remaining"]) + float(me["spent"]) == pytest.approx(1)
    admin = gateway.get("/tollgate/v1/me").json
    assert admin["kind"] == "admin" and admin["is_operator"] and admin["models"] is None


def test_whoever_holds_a_key_can_end_it(gateway):
    key = gateway.key(gateway.default_project)["value"]
    assert gateway.delete("/tollgate/v1/me", key=key).json["deleted"] is True
    assert gateway.chat(key).status == 401 and gateway.get("/tollgate/v1/me", key=key).status == 401
    assert gateway.get("/v1/organization/audit_logs").json["data"][0]["type"] == "api_key.deleted"
