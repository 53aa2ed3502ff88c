"""Service tiers, at prices of their own."""

import pytest

from harness import Fake, request

LIMIT = {"threshold_amount": 1_000_000, "currency": "USD", "interval": "month"}
FACTORS = {"flex_price_factor": "0.5", "priority_price_factor": "2"}


def served_in(tier):
    return lambda body, handler: (200, {**Fake.completion(output=1000), "service_tier": tier})


@pytest.fixture
def key(server):
    return server.key(server.default_project)["value"]


@pytest.mark.parametrize("asked, served, factor", [
    ("flex", "flex", 0.5), ("flex", "default", 1), ("priority", "priority", 2), ("priority", "default", 1), (None, "default", 1), ("auto", "default", 1), ("auto", "priority", 2), (None, "priority", 2), ("flex", None, 1), ("priority", None, 2)])
def test_what_is_charged_is_the_tier_that_served(server, key, asked, served, factor):
    fake = server.fake(served_in(served), **FACTORS)
    server.post("/v1/organization/spend_limit", LIMIT)
    more = {"service_tier": asked} if asked else {}
    assert server.chat(key, model="fake", max_tokens=1000, **more).status == 200
    assert fake.bodies[0].get("service_tier") == asked
    [row] = server.requests()
    assert float(row["cost"]) == pytest.approx((10 * 1 + 1000 * 10) / 1e6 * factor) and "service_tier" not in row["flags"]
    assert float(row["cost"]) <= float(row["bound"]), "either may serve it"


def test_a_tier_of_no_known_price_is_refused_where_it_is_asked_for_and_told_where_it_is_not(server, key):
    fake = server.fake(served_in("priority"))
    for tier in ["flex", "priority", "scale", "fast"]:
        refused = server.chat(key, model="fake", service_tier=tier)
        assert refused.status == 400 and refused.error["param"] == "service_tier", refused
    assert fake.bodies == []
    assert server.chat(key, model="fake").status == 200
    assert server.requests()[0]["flags"] == ["service_tier"]
    server.post("/tollgate/v1/models/fake", FACTORS)
    assert server.chat(key, model="fake", service_tier="priority").status == 200 and server.requests()[0]["flags"] == []
    refused = request(server.url, "POST", "/v1/embeddings", key=key, body={"model": "fake", "input": "x", "service_tier": "flex"})
    assert refused.status == 400 and refused.error["param"] == "service_tier"


def test_factors_are_set_and_shown(server, cli):
    made = server.post("/tollgate/v1/models/m", {"input_price": "1", "output_price": "2", **FACTORS}).json
    assert (made["flex_price_factor"], made["priority_price_factor"]) == ("0.5", "2")
    assert server.post("/tollgate/v1/models/m", {"flex_price_factor": None}).json["flex_price_factor"] is None
    for bad in ["-1", "1000", "half", 0.5]:
        assert server.post("/tollgate/v1/models/m", {"priority_price_factor": bad}).error["param"] == "priority_price_factor"
    cli("model", "set", "m", "--flex-factor", "0.25", "--priority-factor", "none")
    seen = server.get("/tollgate/v1/models/m").json
    assert (seen["flex_price_factor"], seen["priority_price_factor"]) == ("0.25", None)
