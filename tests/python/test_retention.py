"""How long requests are kept: an end to them, and none to what they cost."""

import time
from decimal import Decimal

import pytest

from harness import until

PATH = "/tollgate/v1/organization/retention"
DAY = 86_400
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def older(id, days):
    """The id that a request of so many days before would have had."""
    number = 0
    for letter in id.removeprefix("req_"):
        number = number * 32 + ALPHABET.index(letter)
    number -= days * DAY * 1000 << 80
    return "req_" + "".join(ALPHABET[number >> 5 * place & 31] for place in range(25, -1, -1))


def backdate(server, days):
    """As if all had happened so many days ago."""
    assert server.process.stop() == 0
    shift = days * DAY
    with server.database() as database:
        rows = list(database.execute("SELECT id FROM attempt"))
        for id, in rows:
            database.execute("UPDATE attempt SET id = ?, created_at = created_at - ?, resolved_at = resolved_at - ? WHERE id = ?", (older(id, days), shift, shift, id))
        for table in ("usage_rollup", "usage_total"):
            database.execute(f"UPDATE {table} SET bucket_start = (bucket_start - ?) / width * width", (shift,))
        database.execute("DELETE FROM budget")
    server.start()


def test_old_requests_go_and_what_they_cost_stays(gateway):
    key = gateway.key(gateway.default_project)
    for _ in range(5):
        assert gateway.chat(key["value"]).status == 200
    backdate(gateway, 40)
    assert gateway.chat(key["value"]).status == 200
    span = {"start_time": int(time.time()) - 60 * DAY, "limit": 180}
    costs = lambda: sum(Decimal(str(r["amount"]["value"])) for b in gateway.get("/v1/organization/costs", **span).json["data"] for r in b["results"])
    before = costs()
    assert gateway.get(PATH).json == {"object": "tollgate.retention", "requests_days": None, "requests_from": None}
    assert gateway.post(PATH, {"requests_days": 45}).json["requests_days"] == 45
    gateway.restart()
    until(lambda: gateway.get(PATH).json["requests_from"] is not None)
    assert len(gateway.requests()) == 6, "they are not as old as that"
    assert gateway.post(PATH, {"requests_days": 35}).status == 200
    gateway.restart()
    until(lambda: len(gateway.requests()) == 1)
    assert costs() == before and before > 0
    kept = gateway.get(PATH).json["requests_from"]
    assert abs(time.time() - 35 * DAY - kept) < 2 * DAY
    attempt = {"threshold_amount": 1, "interval": "day"}
    refused = gateway.get("/tollgate/v1/organization/spend_limits/try", **attempt, since=kept - DAY)
    assert refused.status == 400 and (refused.error["code"], refused.error["param"]) == ("not_kept", "since"), refused
    assert gateway.get("/tollgate/v1/organization/spend_limits/try", **attempt, since=kept + DAY).json["requests"] == 1
    assert gateway.post(PATH, {"requests_days": None}).json["requests_days"] is None
    assert gateway.get(PATH).json["requests_from"] == kept, "what is gone is gone"


@pytest.mark.parametrize("days", [0, 34, -1, 40_000, "40", 40.5])
def test_what_limits_count_is_kept_as_long_as_they_count_it(server, days):
    refused = server.post(PATH, {"requests_days": days})
    assert refused.status == 400 and refused.error["param"] == "requests_days", refused
