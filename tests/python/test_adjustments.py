"""Corrections and refunds: further rows, with who made them and why; every sum follows."""

import time

import pytest

THOUSAND = {"model": "gpt-4o", "max_completion_tokens": 1000, "simulate": {"output_tokens": "max"}}


@pytest.fixture
def spent(gateway):
    gateway.key_made = gateway.key(gateway.default_project)
    gateway.limit(gateway.default_project, 100)
    for scope in [f"projects/{gateway.default_project}", f"api_keys/{gateway.key_made['id']}"]:
        assert gateway.post(f"/tollgate/v1/{scope}/spend_limits", {"threshold_amount": 50, "interval": "day", "time_zone": "Asia/Tokyo"}).status == 200
    gateway.one = gateway.chat(gateway.key_made["value"], **THOUSAND).headers["x-request-id"]
    return gateway


def sums(gateway):
    """What every place says was spent."""
    limits = [limit for scope in [f"projects/{gateway.default_project}", f"api_keys/{gateway.key_made['id']}"]
              for limit in gateway.get(f"/tollgate/v1/{scope}/spend_limits").json["data"]]
    costs = gateway.get("/v1/organization/costs", start_time=int(time.time()) - 86_400).json["data"]
    me = gateway.get("/tollgate/v1/me", key=gateway.key_made["value"]).json
    said = {float(limit["spent"]) for limit in limits} | {float(me["spent"])}
    said |= {sum(result["amount"]["value"] for bucket in costs for result in bucket["results"])}
    assert max(said) - min(said) < 1e-12, said
    return said.pop()


def test_a_correction_changes_every_sum_and_is_a_row_of_its_own(spent):
    path = f"/tollgate/v1/requests/{spent.one}"
    before = spent.get(path).json
    cost = float(before["cost"])
    assert sums(spent) == pytest.approx(cost) and before["adjusted"] == "0.000000000"
    made = spent.post(f"{path}/corrections", {"cost": "0.25", "output_tokens": 900, "reason": "invoice 7"})
    assert made.status == 200, made
    made = made.json
    assert (made["object"], made["kind"], made["request_id"], made["reason"]) == ("tollgate.adjustment", "correction", spent.one, "invoice 7")
    assert float(made["cost"]) == pytest.approx(0.25 - cost) and made["output_tokens"] == -100 and made["created_by"] == spent.owner
    assert sums(spent) == pytest.approx(0.25)
    after = spent.get(path).json
    assert after["cost"] == "0.250000000" and float(after["adjusted"]) == pytest.approx(0.25 - cost)
    again = spent.post(f"{path}/corrections", {"cost": "0.01", "reason": "it was less"}).json
    assert sums(spent) == pytest.approx(0.01)
    assert [a["id"] for a in spent.get(f"{path}/adjustments").json["data"]] == [made["id"], again["id"]]


def test_a_refund_gives_back_at_most_what_it_cost(spent):
    path = f"/tollgate/v1/requests/{spent.one}"
    cost = sums(spent)
    assert spent.post(f"{path}/refunds", {"amount": "0.004", "reason": "half an answer"}).json["kind"] == "refund"
    assert sums(spent) == pytest.approx(cost - 0.004)
    refused = spent.post(f"{path}/refunds", {"amount": "0.01", "reason": "all of it"})
    assert refused.status == 400 and refused.error["param"] == "amount"
    rest = spent.get(path).json["cost"]
    assert spent.post(f"{path}/refunds", {"amount": rest, "reason": "the rest"}).status == 200
    assert sums(spent) == pytest.approx(0)
    assert spent.post(f"{path}/refunds", {"amount": "0.000000001", "reason": "more"}).status == 400


def test_what_is_given_back_can_be_spent_and_what_is_added_cannot(spent):
    key = spent.key_made["value"]
    limit = f"/v1/organization/projects/{spent.default_project}/spend_limit"
    spent.limit(spent.default_project, 2)
    assert spent.chat(key, **THOUSAND).status == 429
    spent.post(f"/tollgate/v1/requests/{spent.one}/refunds", {"amount": "0.01", "reason": "sorry"})
    assert spent.chat(key, **THOUSAND).status == 200
    spent.limit(spent.default_project, 50)
    spent.post(f"/tollgate/v1/requests/{spent.one}/corrections", {"cost": "0.60", "reason": "invoice"})
    state = spent.get(limit).json
    assert float(state["remaining"]) == 0 and float(state["spent"]) > 0.6
    assert spent.chat(key, **THOUSAND).error["code"] == "project_spend_limit_exceeded"


def test_adjustments_survive_a_restart_and_count_in_a_limit_made_later(spent):
    spent.post(f"/tollgate/v1/requests/{spent.one}/corrections", {"cost": "0.3", "reason": "invoice"})
    spent.restart()
    assert sums(spent) == pytest.approx(0.3)
    made = spent.post(f"/tollgate/v1/users/{spent.owner}/spend_limits", {"threshold_amount": 100, "interval": "week"}).json
    assert float(made["spent"]) == pytest.approx(0.3)


@pytest.mark.parametrize("kind, change, param", [
    ("corrections", {"cost": "-1"}, "cost"), ("corrections", {"cost": "x"}, "cost"), ("corrections", {"cost": 0.5}, "cost"),
    ("corrections", {"cost": "0.0000000001"}, "cost"), ("corrections", {"cost": "99999999999"}, "cost"), ("corrections", {"cost": "10000.000000001"}, "cost"), ("corrections", {"cost": None}, "cost"),
    ("corrections", {"input_tokens": -1}, "input_tokens"), ("corrections", {"output_tokens": 10**10}, "output_tokens"),
    ("corrections", {"reason": ""}, "reason"), ("corrections", {"reason": "x" * 501}, "reason"), ("corrections", {"extra": 1}, "extra"),
    ("refunds", {"amount": "0"}, "amount"), ("refunds", {"amount": "-0.1"}, "amount"), ("refunds", {"reason": None}, "reason"),
])
def test_bad_adjustments_are_refused_by_parameter(spent, kind, change, param):
    body = {"reason": "why", **({"cost": "0.1"} if kind == "corrections" else {"amount": "0.001"}), **change}
    refused = spent.post(f"/tollgate/v1/requests/{spent.one}/{kind}", body)
    assert refused.status == 400 and refused.error["param"] == param, refused
    assert spent.get(f"/tollgate/v1/requests/{spent.one}/adjustments").json["data"] == []


def test_only_what_was_charged_can_be_adjusted_and_only_by_who_may(spent):
    refused = spent.chat(spent.key_made["value"], simulate={"fault": "status", "status": 400})
    voided = spent.requests()[0]
    assert refused.status == 400 and voided["state"] == "voided"
    answer = spent.post(f"/tollgate/v1/requests/{voided['id']}/corrections", {"cost": "1", "reason": "x"})
    assert answer.status == 400, answer
    for absent in ["req_absent", "req_" + "0" * 26]:
        assert spent.post(f"/tollgate/v1/requests/{absent}/corrections", {"cost": "1", "reason": "x"}).status == 404
    reader = spent.post("/v1/organization/admin_api_keys", {"name": "reader", "scopes": ["api.usage.read"]})
    key = spent.remember(reader.json["value"])
    assert spent.get(f"/tollgate/v1/requests/{spent.one}", key=key).status == 200
    refused = spent.post(f"/tollgate/v1/requests/{spent.one}/refunds", {"amount": "0.001", "reason": "x"}, key=key)
    assert refused.status in (401, 403), refused


def test_adjustments_are_told_in_the_audit_log(spent):
    made = spent.post(f"/tollgate/v1/requests/{spent.one}/refunds", {"amount": "0.001", "reason": "sorry"}).json
    events = spent.get("/v1/organization/audit_logs", limit=10).json["data"]
    [told] = [event for event in events if made["id"] in str(event)]
    assert told["type"] == "project.updated" and "sorry" in str(told) and told["project"]["id"] == spent.default_project
