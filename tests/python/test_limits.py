"""Limits of an organization, a project, a user and a key, by day, week and month in any zone."""

import datetime
import itertools
import threading
import zoneinfo

import pytest

from harness import Answer

# gpt-4o costs $10 per million tokens of output: a thousand tokens are a cent.
CENT = {"model": "gpt-4o", "max_completion_tokens": 1000, "simulate": {"output_tokens": "max"}}
CODES = {"organization": "organization_spend_limit_exceeded", "project": "project_spend_limit_exceeded",
         "user": "user_spend_limit_exceeded", "api_key": "api_key_spend_limit_exceeded"}


class Scopes:
    """A key, and the four scopes that its spending counts in."""

    def __init__(self, gateway):
        self.gateway, self.project = gateway, gateway.default_project
        self.ada = gateway.user()
        gateway.admin.projects.users.create(self.project, user_id=self.ada, role="member")
        self.key = gateway.key(self.project, user_id=self.ada)
        self.ids = {"organization": gateway.organization, "project": self.project, "user": self.ada, "api_key": self.key["id"]}
        self.paths = {
            "organization": "/tollgate/v1/organization/spend_limits", "project": f"/tollgate/v1/projects/{self.project}/spend_limits",
            "user": f"/tollgate/v1/users/{self.ada}/spend_limits", "api_key": f"/tollgate/v1/api_keys/{self.key['id']}/spend_limits"}

    def set(self, scope, cents, interval="month", **more) -> Answer:
        return self.gateway.post(self.paths[scope], {"threshold_amount": cents, "interval": interval, **more})

    def limit(self, scope, cents, interval="month", **more):
        answer = self.set(scope, cents, interval, **more)
        assert answer.status == 200, answer
        return answer.json

    def list(self, scope):
        return self.gateway.get(self.paths[scope]).json["data"]

    def chat(self, **more):
        return self.gateway.chat(self.key["value"], **{**CENT, **more})


@pytest.fixture
def scopes(gateway):
    return Scopes(gateway)


@pytest.mark.parametrize("scope", CODES)
def test_a_limit_of_every_scope_is_reached_raised_and_removed(scopes, scope):
    made = scopes.limit(scope, 2)
    assert (made["object"], made["scope"], made["scope_id"]) == ("tollgate.spend_limit", scope, scopes.ids[scope])
    assert made["id"].startswith("spend_limit_") and made["mode"] == "enforce" and made["time_zone"] == "UTC"
    assert [scopes.chat().status for _ in range(3)] == [200, 429, 429], "the input makes two cost more than two cents"
    refused = scopes.chat()
    assert refused.error["code"] == CODES[scope] and refused.error["type"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    one = f"{scopes.paths[scope]}/{made['id']}"
    state = scopes.gateway.get(one).json
    assert float(state["spent"]) + float(state["remaining"]) == pytest.approx(0.02) and state["held"] == "0.000000000"
    assert scopes.gateway.post(one, {"threshold_amount": 4}).json["threshold_amount"] == 4
    assert [scopes.chat().status for _ in range(3)] == [200, 200, 429]
    assert scopes.gateway.post(one, {"threshold_amount": 1}).json["enforcement"]["status"] == "enforcing"
    assert scopes.chat(max_completion_tokens=1).status == 429, "lowered below what is spent"
    assert scopes.gateway.delete(one).json == {"object": "tollgate.spend_limit.deleted", "id": made["id"], "deleted": True}
    assert scopes.chat().status == 200 and scopes.list(scope) == []
    assert scopes.gateway.get(one).status == 404
    assert scopes.limit(scope, 2)["enforcement"]["status"] == "enforcing", "a new limit counts what was spent before it"
    assert scopes.chat().status == 429


@pytest.mark.parametrize("wider, narrower", list(itertools.combinations(CODES, 2)))
def test_of_several_that_refuse_the_widest_names_the_code(scopes, wider, narrower):
    scopes.limit(narrower, 1)
    assert scopes.chat().error["code"] == CODES[narrower]
    scopes.limit(wider, 1)
    assert scopes.chat().error["code"] == CODES[wider]


def test_the_tightest_of_all_is_what_is_left(scopes):
    for scope, cents in [("organization", 500), ("project", 40), ("user", 300), ("api_key", 200)]:
        scopes.limit(scope, cents)
    left = float(scopes.chat().headers["x-tollgate-budget-remaining"])
    assert 0.38 < left < 0.40
    me = scopes.gateway.get("/tollgate/v1/me", key=scopes.key["value"]).json
    assert float(me["remaining"]) == pytest.approx(0.4 - float(me["spent"]))


def test_a_user_s_limit_holds_over_all_their_projects_and_no_one_else(scopes):
    gateway = scopes.gateway
    other = gateway.project("other")
    gateway.admin.projects.users.create(other, user_id=scopes.ada, role="member")
    second = gateway.key(other, user_id=scopes.ada)["value"]
    others = gateway.key(other)["value"]
    scopes.limit("user", 3)
    assert scopes.chat().status == 200 and gateway.chat(second, **CENT).status == 200
    assert scopes.chat().status == gateway.chat(second, **CENT).status == 429
    assert gateway.chat(others, **CENT).status == 200
    account = gateway.post(f"/v1/organization/projects/{other}/service_accounts", {"name": "robot"}).json
    assert gateway.chat(gateway.remember(account["api_key"]["value"]), **CENT).status == 200, "an account is no user"


def test_days_weeks_and_months_count_beside_each_other(scopes):
    for interval, cents in [("month", 300), ("week", 200), ("day", 2)]:
        scopes.limit("project", cents, interval)
    assert [scopes.chat().status for _ in range(2)] == [200, 429]
    listed = scopes.list("project")
    assert [limit["interval"] for limit in listed] == ["month", "week", "day"]
    assert len({limit["spent"] for limit in listed}) == 1 and float(listed[0]["spent"]) > 0.01
    assert [limit["enforcement"]["status"] for limit in listed] == ["inactive", "inactive", "enforcing"], "the day's refused"
    assert listed[0] | {"object": "project.spend_limit"} == listed[0] | scopes.gateway.get(
        f"/v1/organization/projects/{scopes.project}/spend_limit").json


def expected_period(zone, interval, at):
    local = datetime.datetime.fromtimestamp(at, zoneinfo.ZoneInfo(zone))
    day = local.date()
    if interval == "week":
        day -= datetime.timedelta(days=day.weekday())
    if interval == "month":
        day = day.replace(day=1)
    end = {"day": day + datetime.timedelta(days=1), "week": day + datetime.timedelta(days=7),
           "month": (day.replace(day=1) + datetime.timedelta(days=32)).replace(day=1)}[interval]
    midnight = lambda date: int(datetime.datetime.combine(date, datetime.time(), zoneinfo.ZoneInfo(zone)).timestamp())
    return midnight(day), midnight(end)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Kiritimati", "Pacific/Niue"])
def test_periods_begin_at_midnight_of_their_zone(scopes, zone):
    for interval in ["day", "week", "month"]:
        before = datetime.datetime.now().timestamp()
        made = scopes.limit("api_key", 100, interval, time_zone=zone)
        after = datetime.datetime.now().timestamp()
        assert made["time_zone"] == zone
        period = (made["period_start"], made["period_end"])
        assert period in {expected_period(zone, interval, at) for at in (before, after)}, (interval, period)


def test_a_new_zone_counts_what_was_spent_in_its_own_period(scopes):
    assert scopes.chat().status == 200
    made = scopes.limit("project", 100, "day", time_zone="Europe/Berlin")
    assert float(made["spent"]) > 0.01
    one = f"{scopes.paths['project']}/{made['id']}"
    for zone in ["Pacific/Kiritimati", "Pacific/Niue", "UTC"]:
        moved = scopes.gateway.post(one, {"time_zone": zone}).json
        assert moved["time_zone"] == zone and moved["threshold_amount"] == 100
        assert moved["period_start"] <= int(datetime.datetime.now().timestamp()) < moved["period_end"]
        assert float(moved["spent"]) > 0.01, "it was spent a moment ago, whatever the zone"


BAD = [
    ({"threshold_amount": 0}, "threshold_amount"), ({"threshold_amount": -1}, "threshold_amount"),
    ({"threshold_amount": 1.5}, "threshold_amount"), ({"threshold_amount": "1"}, "threshold_amount"),
    ({"threshold_amount": 10**18}, "threshold_amount"), ({"threshold_amount": 10**30}, "threshold_amount"),
    ({"threshold_amount": None}, "threshold_amount"), ({"currency": "EUR"}, "currency"), ({"interval": "year"}, "interval"),
    ({"interval": "Month"}, "interval"), ({"interval": None}, "interval"), ({"time_zone": "Mars/Olympus"}, "time_zone"),
    ({"time_zone": "+02:00"}, "time_zone"), ({"time_zone": ""}, "time_zone"), ({"time_zone": 2}, "time_zone"),
    ({"mode": "warn"}, "mode"), ({"colour": "red"}, "colour"), ({"project_id": "proj_x"}, "project_id"),
]


@pytest.mark.parametrize("scope", CODES)
def test_bad_terms_are_refused_by_parameter(scopes, scope):
    for change, param in BAD:
        if param == "project_id" and scope == "project":
            continue
        body = {"threshold_amount": 100, "interval": "month", **change}
        answer = scopes.gateway.post(scopes.paths[scope], body)
        assert answer.status == 400 and answer.error["param"] == param, (change, answer)
    for missing in ["threshold_amount", "interval"]:
        body = {"threshold_amount": 100, "interval": "month"}
        del body[missing]
        answer = scopes.gateway.post(scopes.paths[scope], body)
        assert answer.status == 400 and answer.error["param"] == missing, answer
    assert scopes.list(scope) == []


@pytest.mark.parametrize("scope", CODES)
def test_there_is_one_limit_for_a_scope_and_an_interval(scopes, scope):
    made = scopes.limit(scope, 100, "week")
    again = scopes.set(scope, 200, "week", time_zone="Europe/Berlin")
    assert again.status == 400 and again.error["param"] == "interval" and again.error["code"] == "already_exists"
    assert scopes.list(scope) == [made]
    assert scopes.set(scope, 200, "day").status == 200
    bad = scopes.gateway.post(f"{scopes.paths[scope]}/{made['id']}", {"interval": "day"})
    assert bad.status == 400 and bad.error["param"] == "interval", "an interval is not changed"


def test_limits_set_at_the_same_time_are_one(scopes):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(scopes.set("project", 100, "day").status)) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(answers) == [200] + [400] * 7 and len(scopes.list("project")) == 1


def test_what_is_not_there_or_another_s_is_not_found(scopes):
    gateway = scopes.gateway
    made = scopes.limit("project", 100)
    for path in ["/tollgate/v1/projects/proj_absent/spend_limits", "/tollgate/v1/users/user-absent/spend_limits",
                 "/tollgate/v1/api_keys/key_absent/spend_limits", f"/tollgate/v1/projects/{'x' * 300}/spend_limits"]:
        assert gateway.get(path).status == gateway.post(path, {"threshold_amount": 1, "interval": "day"}).status == 404, path
    # A limit is found where it belongs only.
    assert gateway.get(f"{scopes.paths['organization']}/{made['id']}").status == 404
    assert gateway.delete(f"{scopes.paths['api_key']}/{made['id']}").status == 404
    # An admin key spends nothing, and a revoked one nothing any more.
    admin = gateway.get("/v1/organization/admin_api_keys").json["data"][0]["id"]
    assert gateway.get(f"/tollgate/v1/api_keys/{admin}/spend_limits").status == 404
    assert gateway.delete(f"/v1/organization/projects/{scopes.project}/api_keys/{scopes.key['id']}").status == 200
    assert scopes.set("api_key", 100).status == 404
    assert gateway.call("DELETE", scopes.paths["project"]).status == 405


def test_a_reader_may_look_and_not_touch(scopes):
    gateway = scopes.gateway
    made = gateway.post("/v1/organization/admin_api_keys", {"name": "reader"})
    assert made.status == 200
    limit = scopes.limit("project", 100)
    account = gateway.key(scopes.project)["value"]
    for key in [account, scopes.key["value"]]:
        assert gateway.get(scopes.paths["project"], key=key).status in (401, 403)
        assert gateway.post(scopes.paths["project"], {"threshold_amount": 1, "interval": "day"}, key=key).status in (401, 403)
        assert gateway.delete(f"{scopes.paths['project']}/{limit['id']}", key=key).status in (401, 403)
    gateway.remember(made.json["value"])


def test_a_limit_that_observes_counts_what_it_would_have_refused(scopes):
    made = scopes.limit("project", 1, mode="observe")
    one = f"{scopes.paths['project']}/{made['id']}"
    assert [scopes.chat().status for _ in range(3)] == [200, 200, 200]
    assert "x-tollgate-budget-remaining" not in scopes.chat().headers, "it is no hard limit"
    state = scopes.gateway.get(one).json
    assert state["would_have_refused"] == 4 and state["enforcement"]["status"] == "inactive" and float(state["spent"]) > 0.04
    assert scopes.gateway.post(one, {"mode": "enforce"}).json["enforcement"]["status"] == "enforcing"
    assert scopes.chat().error["code"] == "project_spend_limit_exceeded"
    scopes.limit("organization", 1_000)
    assert scopes.gateway.post(one, {"mode": "observe"}).status == 200
    assert scopes.chat().status == 200


def test_what_an_observing_limit_counts_is_what_enforcing_would_refuse(scopes):
    """Bytes bound a text at four times its tokens: what fits by its tokens is counted by no limit."""
    text = "The quick brown fox jumps over the lazy dog. " * 200
    for mode in ["observe", "enforce"]:
        limit = scopes.limit("project", 2, mode=mode)
        one = f"{scopes.paths['project']}/{limit['id']}"
        answer = scopes.gateway.chat(scopes.key["value"], text, model="gpt-4o", max_completion_tokens=10)
        assert answer.status == 200, answer
        state = scopes.gateway.get(one).json
        assert state["would_have_refused"] == 0 and scopes.gateway.delete(one).status == 200
        assert float(scopes.gateway.requests()[0]["bound"]) < 0.01


def test_openai_s_limit_of_an_organization(scopes):
    limits = scopes.gateway.admin.spend_limit
    made = limits.update(threshold_amount=1, currency="USD", interval="month")
    assert (made.object, made.threshold_amount, made.enforcement.status) == ("organization.spend_limit", 1, "inactive")
    assert scopes.chat().error["code"] == "organization_spend_limit_exceeded"
    limits.update(threshold_amount=500, currency="USD", interval="month")
    assert scopes.chat().status == 200 and limits.retrieve().enforcement.status == "inactive"
    [ours] = scopes.list("organization")
    assert ours["threshold_amount"] == 500 and ours["interval"] == "month"
    assert limits.delete().object == "organization.spend_limit.deleted" and scopes.list("organization") == []


def test_openai_s_limit_replaces_one_that_observes_in_a_zone(scopes):
    made = scopes.limit("project", 900, mode="observe", time_zone="Asia/Tokyo")
    set_by_openai = scopes.gateway.limit(scopes.project, 500)
    assert (set_by_openai["time_zone"], set_by_openai["mode"]) == ("UTC", "enforce")
    [now] = scopes.list("project")
    assert now["threshold_amount"] == 500 and now["mode"] == "enforce" and now["scope_id"] == made["scope_id"]


def test_what_a_limit_would_have_stopped(scopes):
    gateway = scopes.gateway
    ids = [scopes.chat().headers["x-request-id"] for _ in range(6)]
    path = f"{scopes.paths['project']}/try"
    tried = gateway.get(path, threshold_amount=4, interval="month").json
    assert tried["requests"] == 6 and tried["refused_requests"] == 3
    assert [stopped["request_id"] for stopped in tried["data"]] == ids[3:]
    assert float(tried["cost"]) == pytest.approx(2 * float(tried["refused_cost"]))
    [period] = tried["periods"]
    assert period["refused_requests"] == 3 and float(period["spent"]) < 0.04 and period["first_refused_at"]
    assert gateway.get(path, threshold_amount=4, interval="month", limit=2).json["has_more"] is True
    assert gateway.get(path, threshold_amount=4000, interval="day", time_zone="Europe/Paris").json["refused_requests"] == 0
    assert scopes.list("project") == [], "nothing was changed"
    for scope in CODES:
        assert gateway.get(f"{scopes.paths[scope]}/try", threshold_amount=1, interval="week").json["refused_requests"] == 6
    for query, param in [({"threshold_amount": 0}, "threshold_amount"), ({"interval": "year"}, "interval"), ({"since": -1}, "since"),
                         ({"since": 10**12}, "since"), ({"time_zone": "x"}, "time_zone"), ({"limit": 5000}, "limit"), ({"nonsense": 1}, "nonsense")]:
        answer = gateway.get(path, **{"threshold_amount": 1, "interval": "month", **query})
        assert answer.status == 400 and answer.error["param"] == param, (query, answer)


def test_new_projects_and_keys_begin_with_the_default_limits(gateway):
    path = "/tollgate/v1/organization/default_spend_limits"
    assert gateway.get(path).json == {"object": "tollgate.default_spend_limits", "projects": [], "api_keys": []}
    before = gateway.project("before")
    body = {"projects": [{"threshold_amount": 5000, "interval": "month"}],
            "api_keys": [{"threshold_amount": 2, "interval": "day", "time_zone": "Europe/Berlin"}]}
    assert gateway.post(path, body).status == 200
    admin = gateway.post("/v1/organization/admin_api_keys", {"name": "an admin key calls no model"})
    assert admin.status == 200, admin
    gateway.remember(admin.json["value"])
    after = gateway.project("after")
    assert gateway.get(f"/tollgate/v1/projects/{before}/spend_limits").json["data"] == []
    [limit] = gateway.get(f"/tollgate/v1/projects/{after}/spend_limits").json["data"]
    assert (limit["threshold_amount"], limit["interval"], limit["scope"]) == (5000, "month", "project")
    for make in [lambda: gateway.key(before), lambda: gateway.post(f"/v1/organization/projects/{after}/service_accounts", {"name": "x"}).json["api_key"]]:
        key = make()
        gateway.remember(key["value"])
        [limit] = gateway.get(f"/tollgate/v1/api_keys/{key['id']}/spend_limits").json["data"]
        assert (limit["threshold_amount"], limit["interval"], limit["time_zone"]) == (2, "day", "Europe/Berlin")
        assert [gateway.chat(key["value"], **CENT).status for _ in range(2)] == [200, 429]
    assert gateway.post(path, {"projects": []}).json["projects"] == [], "a list that is given is replaced, the other stays"
    assert len(gateway.get(path).json["api_keys"]) == 1
    for bad, param in [({"projects": [{"threshold_amount": 0, "interval": "day"}]}, "projects"), ({"keys": []}, "keys"),
                       ({"api_keys": [{"threshold_amount": 1, "interval": "day"}] * 2}, "api_keys")]:
        answer = gateway.post(path, bad)
        assert answer.status == 400 and answer.error["param"].startswith(param), answer


def test_keys_that_no_limit_holds_are_listed(scopes):
    gateway = scopes.gateway
    unlimited = lambda: {key["id"] for key in gateway.get("/tollgate/v1/api_keys", has_spend_limit="false", limit=100).json["data"]}
    other = gateway.key(gateway.project("other"))["id"]
    assert unlimited() == {scopes.key["id"], other}
    made = scopes.limit("project", 100, mode="observe")
    assert unlimited() == {scopes.key["id"], other}, "one that observes holds nothing"
    gateway.post(f"{scopes.paths['project']}/{made['id']}", {"mode": "enforce"})
    assert unlimited() == {other}
    listed = gateway.get("/tollgate/v1/api_keys", limit=100).json["data"]
    assert {key["id"]: key["has_spend_limit"] for key in listed} == {scopes.key["id"]: True, other: False}
    scopes.limit("organization", 100)
    assert unlimited() == set()
    first = gateway.get("/tollgate/v1/api_keys", limit=1).json
    assert first["has_more"] and gateway.get("/tollgate/v1/api_keys", limit=1, after=first["last_id"]).json["data"][0]["id"] == other


def test_changes_of_limits_are_told_in_the_audit_log(scopes):
    made = {scope: scopes.limit(scope, 100, "day")["id"] for scope in CODES}
    for scope, one in made.items():
        scopes.gateway.delete(f"{scopes.paths[scope]}/{one}")
    events = scopes.gateway.get("/v1/organization/audit_logs", limit=100).json["data"]
    told = [event for event in events if "spend_limit" in str(event)]
    assert len(told) == 8
    kinds = {event["type"] for event in told}
    assert kinds == {"organization.updated", "project.updated", "user.updated", "api_key.updated"}


def test_limits_survive_a_restart_with_what_was_spent(scopes):
    scopes.limit("organization", 500)
    scopes.limit("user", 2, "day")
    assert scopes.chat().status == 200
    before = [scopes.list(scope) for scope in CODES]
    scopes.gateway.restart()
    assert [scopes.list(scope) for scope in CODES] == before
    assert scopes.chat().error["code"] == "user_spend_limit_exceeded"


def test_archived_projects_keep_their_limits_and_take_no_new_ones(scopes):
    gateway = scopes.gateway
    project = gateway.project("old")
    path = f"/tollgate/v1/projects/{project}/spend_limits"
    made = gateway.post(path, {"threshold_amount": 100, "interval": "day"}).json
    gateway.post(f"/v1/organization/projects/{project}/archive")
    assert gateway.get(path).json["data"][0]["id"] == made["id"]
    for answer in [gateway.post(path, {"threshold_amount": 100, "interval": "week"}), gateway.delete(f"{path}/{made['id']}"),
                   gateway.post(f"{path}/{made['id']}", {"threshold_amount": 1})]:
        assert answer.status == 400, answer
