"""Prices: every kind of them charged, with versions and dates, imported and compared, and never silently nothing."""

import json
import time
from decimal import Decimal

import pytest

from harness import Fake, until

LIMIT = {"threshold_amount": 1_000_000, "currency": "USD", "interval": "month"}
MODELS, PRICES = "/tollgate/v1/models", "/tollgate/v1/prices"
DAY = 86_400


def now():
    return int(time.time())


@pytest.fixture
def key(server):
    return server.key(server.default_project)["value"]


def ask(server, key, **more):
    answer = server.chat(key, model="fake", max_tokens=1000, **more)
    assert answer.status == 200, answer
    return server.requests()[0]


def cost(server, key, **more):
    return Decimal(ask(server, key, **more)["cost"])


def test_reasoning_images_and_requests_have_prices_of_their_own(server, key):
    details = {"prompt_tokens_details": {"cached_tokens": 2, "image_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 60, "image_tokens": 30}}
    fake = server.fake(lambda body, handler: (200, Fake.completion(output=100, **details)), reasoning_price="20", image_input_price="5", image_output_price="40", request_price="0.01")
    server.post("/v1/organization/spend_limit", LIMIT)
    row = ask(server, key, modalities=["text", "image"])
    # The cached tokens have no price of their own here.
    assert Decimal(row["cost"]) == Decimal("0.01") + Decimal(5 * 1 + 3 * 5 + 2 * 1 + 60 * 20 + 30 * 40 + 10 * 10) / 1_000_000
    assert fake.bodies[0]["modalities"] == ["text", "image"]
    assert Decimal(row["cost"]) <= Decimal(row["bound"]) and row["flags"] == []
    items = {r["line_item"].split(", ")[1]: (Decimal(str(r["amount"]["value"])), r["quantity"], r["quantity_unit"])
             for bucket in server.get("/v1/organization/costs", start_time=now() - 60, group_by="line_item").json["data"] for r in bucket["results"]}
    assert items["requests"] == (Decimal("0.01"), 1, "requests")
    assert sum(amount for amount, *_ in items.values()) == Decimal(row["cost"])
    [used] = [r for bucket in server.get("/v1/organization/usage/completions", start_time=now() - 60).json["data"] for r in bucket["results"]]
    assert (used["input_image_tokens"], used["output_image_tokens"], used["output_text_tokens"]) == (3, 30, 70)


def test_a_picture_that_nobody_counts_is_charged_as_one(server, key):
    server.fake(lambda body, handler: (200, Fake.completion(output=100)), image_output_price="40")
    assert cost(server, key) == Decimal(10 * 1 + 100 * 10) / 1_000_000
    assert cost(server, key, modalities=["image", "text"]) == Decimal(10 * 1 + 100 * 40) / 1_000_000


def test_a_hold_has_room_for_pictures_whoever_asked_for_them(server, key):
    details = {"prompt_tokens_details": {"image_tokens": 9}, "completion_tokens_details": {"image_tokens": 900}}
    server.fake(lambda body, handler: (200, Fake.completion(output=1000, **details)), image_input_price="1000", image_output_price="1000")
    server.post("/v1/organization/spend_limit", LIMIT)
    row = ask(server, key)
    assert Decimal(row["cost"]) > Decimal("0.9") and Decimal(row["bound"]) >= Decimal(row["cost"]) - Decimal("0.009"), "a model that draws may draw unasked"
    file = [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "file", "file": {"filename": "x.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}]}]
    row = ask(server, key, messages=file)
    assert Decimal(row["bound"]) >= Decimal(8192) * 1000 / 1_000_000, "what is in a file may be seen"
    # What costs more than its hold all the same is learned, though no bound of tokens is exceeded.
    server.post("/tollgate/v1/models/fake", {"audio_output_price": "100000"})
    server.fake(lambda body, handler: (200, Fake.completion(output=1000, completion_tokens_details={"audio_tokens": 1000})))
    while server.requests()[0]["flags"] != ["above_bound"]:
        ask(server, key)
    assert server.get(f"{MODELS}/fake").json["bound_violations"]["count"] == 1


def test_a_dearer_tier_that_nobody_can_rule_out_is_held(server, key):
    usage = {"input_tokens": 10, "output_tokens": 1000, "service_tier": "priority"}
    server.fake(lambda body, handler: (200, {"id": "msg_1", "type": "message", "role": "assistant", "model": "fake", "content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn", "usage": usage}), priority_price_factor="3")
    server.post("/v1/organization/spend_limit", LIMIT)
    body = {"model": "fake", "max_tokens": 1000, "messages": [{"role": "user", "content": "x"}]}
    assert server.call("POST", "/v1/messages", body, key=key).status == 200
    row = server.requests()[0]
    assert Decimal(row["cost"]) == 3 * Decimal(10 + 1000 * 10) / 1_000_000 <= Decimal(row["bound"]) and row["flags"] == []
    assert server.post(f"{MODELS}/fake", {"batch_price_factor": "1.1"}).error["param"] == "batch_price_factor"


def test_pictures_without_a_price_are_refused_under_a_hard_limit_and_flagged_elsewhere(server, key):
    server.fake(lambda body, handler: (200, Fake.completion()))
    answer = server.chat(key, model="fake", max_tokens=10, modalities=["image"])
    assert answer.status == 200 and answer.headers["x-tollgate-unpriced"] == "true" and server.requests()[0]["priced"] is False
    server.post("/v1/organization/spend_limit", LIMIT)
    assert server.chat(key, model="fake", max_tokens=10, modalities=["image"]).error["code"] == "model_price_unknown"


def test_a_request_costs_what_it_costs_beside_its_tokens_once_and_only_if_it_ran(server, key):
    failing = []
    server.fake(lambda body, handler: (400, {"error": {"message": "x"}}) if failing else (200, Fake.completion(output=0, text="")), input_price="0", output_price="0", request_price="0.25")
    server.limit(server.default_project, 100)
    assert [cost(server, key) for _ in range(3)] == [Decimal("0.25")] * 3
    failing.append(True)
    server.chat(key, model="fake", max_tokens=10)
    failing.clear()
    assert cost(server, key) == Decimal("0.25")
    refused = server.chat(key, model="fake", max_tokens=10)
    assert refused.status == 429, "a dollar buys four"


def test_an_own_long_context_price_holds_for_the_whole_request(server, key):
    used = {}
    server.fake(lambda body, handler: (200, Fake.completion(output=10, prompt_tokens=used["input"], total_tokens=used["input"] + 10)),
                long_context_above=1000, long_input_price="2", long_output_price="15")
    used["input"] = 1000
    assert cost(server, key) == Decimal(1000 * 1 + 10 * 10) / 1_000_000
    used["input"] = 1001
    assert cost(server, key) == Decimal(1001 * 2 + 10 * 15) / 1_000_000


def test_a_price_holds_from_its_time_on_and_every_request_says_which(server, key):
    server.fake(lambda body, handler: (200, Fake.completion(output=0, text="", prompt_tokens=1_000_000, total_tokens=1_000_000)), output_price="0", context_tokens=2_000_000)
    first = ask(server, key)
    assert Decimal(first["cost"]) == 1 and first["price_version"] == "price_1"
    soon = now() + 2
    made = server.post(f"{MODELS}/fake/prices", {"effective_from": soon, "effective_until": soon + 3 * DAY, "prices": {"input_price": "3", "output_price": "0"}})
    assert made.status == 200 and made.json["id"] == "price_2" and made.json["in_force"] is False and made.json["effective_from"] == soon, made
    until(lambda: ask(server, key)["price_version"] == "price_2")
    assert cost(server, key) == 3
    assert {row["price_version"] for row in server.requests() if Decimal(row["cost"]) == 1} == {"price_1"}
    versions = server.get(f"{MODELS}/fake/prices").json["data"]
    assert [(v["id"], v["in_force"], v["effective_until"]) for v in versions] == [
        ("price_1", False, soon), ("price_2", True, soon + 3 * DAY), ("price_3", False, None)], "after it what was before goes on"
    assert versions[2]["effective_from"] == soon + 3 * DAY and versions[2]["prices"]["input_price"] == "1"
    model = server.get(f"{MODELS}/fake").json
    assert (model["input_price"], model["price_version"]) == ("3", "price_2")
    # What is set now ends what is in force, and not what is planned.
    assert server.post(f"{MODELS}/fake", {"input_price": "7"}).json["price_version"] == "price_4"
    assert cost(server, key) == 7
    assert [v["id"] for v in server.get(f"{MODELS}/fake/prices").json["data"]][-1] == "price_3"
    assert server.restart() is None and cost(server, key) == 7


def test_embedded_prices_say_their_day_and_what_an_operator_adds_to_them(gateway, simulator):
    key = gateway.key(gateway.default_project)["value"]
    assert gateway.chat(key, model="gpt-4o-mini").status == 200
    version = gateway.requests()[0]["price_version"]
    assert version.startswith("embedded-20")
    gateway.post(f"{MODELS}/gpt-4o-mini", {"priority_price_factor": "2"})
    gateway.chat(key, model="gpt-4o-mini")
    assert gateway.requests()[0]["price_version"] == f"price_1+{version}"
    listed = gateway.get(f"{MODELS}/gpt-4o-mini/prices").json["data"]
    assert [(v["id"], v["in_force"], v["effective_from"] is None) for v in listed] == [(version, False, True), ("price_1", True, False)]
    assert listed[0]["prices"]["input_price"] == "0.15" and listed[1]["prices"]["input_price"] is None
    assert gateway.delete(f"{MODELS}/gpt-4o-mini").status == 200
    gateway.chat(key, model="gpt-4o-mini")
    assert gateway.requests()[0]["price_version"] == version
    gateway.chat(key, model="simulated-unpriced")
    assert gateway.requests()[0]["price_version"] is None and gateway.requests()[0]["priced"] is False


def test_a_planned_price_can_be_taken_back_and_a_past_one_stays(server):
    set_ = lambda **more: server.post(f"{MODELS}/m/prices", {"prices": {"input_price": "1", "output_price": "2"}, **more})
    assert set_().json["id"] == "price_1"
    later = set_(effective_from=now() + DAY).json
    assert server.get(f"{MODELS}/m/prices").json["data"][0]["effective_until"] == later["effective_from"]
    assert server.delete(f"{MODELS}/m/prices/{later['id']}").json == {"object": "tollgate.model.price.deleted", "id": later["id"], "deleted": True}
    assert [(v["id"], v["effective_until"]) for v in server.get(f"{MODELS}/m/prices").json["data"]] == [("price_1", None)], "what was before it goes on"
    assert server.delete(f"{MODELS}/m/prices/price_1").status == 200
    assert server.get(f"{MODELS}/m").status == 404
    assert server.delete(f"{MODELS}/m/prices/price_1").error["code"] == "price_ended"
    # A price for a time that is ended early gives way to what was before, and not to nothing.
    first = set_().json["id"]
    offer = server.post(f"{MODELS}/m/prices", {"effective_until": now() + DAY, "prices": {"input_price": "0.5", "output_price": "1"}}).json["id"]
    assert server.get(f"{MODELS}/m").json["input_price"] == "0.5"
    assert server.delete(f"{MODELS}/m/prices/{offer}").status == 200
    assert server.get(f"{MODELS}/m").json["input_price"] == "1"
    assert server.post(f"{MODELS}/m", {"input_price": "3"}).json["input_price"] == "3"
    versions = server.get(f"{MODELS}/m/prices").json["data"]
    assert versions[-1]["prices"]["input_price"] == "3" and versions[-1]["effective_until"] is None, "nothing of the offer ends what is set after it"
    assert len({v["id"] for v in versions} | {later["id"], first}) == 6, "no number is used again"
    assert server.delete(f"{MODELS}/m").status == 200 and server.get(f"{MODELS}/m").status == 404
    for gone in ["price_9", "embedded-2026-01-01", "x"]:
        assert server.delete(f"{MODELS}/m/prices/{gone}").status == 404
    assert server.get(f"{MODELS}/nobody/prices").status == 404


@pytest.mark.parametrize("body, param", [
    ({"prices": {"input_price": "0.1234567"}}, "prices.input_price"),
    ({"prices": {"input_price": "-1"}}, "prices.input_price"),
    ({"prices": {"input_price": 1}}, "prices.input_price"),
    ({"prices": {"input_price": "1e3"}}, "prices.input_price"),
    ({"prices": {"input_price": "1000001"}}, "prices.input_price"),
    ({"prices": {"request_price": "0.0000000001"}}, "prices.request_price"),
    ({"prices": {"long_input_price": "1"}}, "prices.long_input_price"),
    ({"prices": {"long_context_above": 10}}, "prices.long_context_above"),
    ({"prices": {"long_context_above": -1, "long_input_price": "1"}}, "prices.long_context_above"),
    ({"prices": {"inputs": "1"}}, "prices.inputs"),
    ({"prices": {}}, "prices"),
    ({}, "prices"),
    ({"prices": {"input_price": "1"}, "effective_from": 1_000_000}, "effective_from"),
    ({"prices": {"input_price": "1"}, "effective_from": 99_999_999_999}, "effective_from"),
    ({"prices": {"input_price": "1"}, "effective_until": 5}, "effective_until"),
    ({"prices": {"input_price": "1"}, "effective_until": 9_223_372_036_854_775_807}, "effective_until"),
    ({"prices": {"input_price": "1"}, "effective_from": "soon"}, "effective_from"),
    ({"prices": {"input_price": "1"}, "until": 1}, "until"),
])
def test_prices_that_cannot_be_are_refused(server, body, param):
    before = server.stored()
    refused = server.post(f"{MODELS}/m/prices", body)
    assert refused.status == 400 and refused.error["param"] == param, refused
    imported = server.post(PRICES, {"prices": [{"model": "a", "prices": {"input_price": "1"}}, {"model": "m", **body}]})
    assert imported.status == 400 and imported.error["param"] == f"prices[1].{param}", imported
    assert server.stored() == before, "all or nothing"


def test_versions_that_overlap_are_refused(server):
    at = now() + DAY
    set_ = lambda **more: server.post(f"{MODELS}/m/prices", {"prices": {"input_price": "1"}, **more})
    assert set_(effective_from=at, effective_until=at + 100).status == 200
    for more in [{"effective_from": at}, {"effective_from": at - 10, "effective_until": at + 1}, {"effective_until": at + 500}]:
        refused = set_(**more)
        assert refused.status == 400 and refused.error["code"] == "prices_overlap" and refused.error["param"] == "effective_from", refused
    assert set_().json["effective_until"] == at, "without an end until the next begins"
    twice = {"prices": [{"model": "n", "effective_from": at, "prices": {"input_price": price}} for price in "12"]}
    refused = server.post(PRICES, twice)
    assert refused.error["code"] == "prices_overlap" and refused.error["param"] == "prices[1].effective_from" and "prices[0]" in refused.error["message"]
    assert server.get(PRICES).json["data"][-1]["model"] == "m"


def test_a_list_corrects_what_it_planned_and_can_be_imported_again_when_it_holds(server, key):
    entry = lambda price, at: {"model": "m", "effective_from": at, "prices": {"input_price": price, "output_price": "1"}}
    take = lambda *entries, **more: server.post(PRICES, {"prices": list(entries), **more}).json
    at = now() + DAY
    assert take(entry("1", at))["created"] == 1
    changed = take(entry("2", at), dry_run=True)
    assert changed["created"] == 1 and server.get(f"{MODELS}/m/prices").json["data"][0]["prices"]["input_price"] == "1"
    assert take(entry("2", at))["created"] == 1 and take(entry("2", at))["unchanged"] == 1
    assert [v["prices"]["input_price"] for v in server.get(f"{MODELS}/m/prices").json["data"]] == ["2"]
    soon = now() + 1
    assert take(entry("3", soon))["created"] == 1
    until(lambda: server.get(f"{MODELS}/m").json.get("input_price") == "3")
    until(lambda: now() > soon + 1)
    assert take(entry("3", soon))["unchanged"] == 1, "it has begun, and is as it says"
    assert server.post(PRICES, {"prices": [entry("4", soon)]}).error["param"] == "prices[0].effective_from"


def test_a_long_list_is_one_change(server, key):
    server.fake(lambda body, handler: (200, Fake.completion()))
    entries = [{"model": f"model-{number}", "prices": {"input_price": "1"}} for number in range(5_000)]
    assert server.post(PRICES, {"prices": entries}).json["created"] == 5_000
    assert ask(server, key)["priced"] and server.get(f"{MODELS}/model-4999").json["input_price"] == "1"


def test_a_price_list_is_compared_and_imported_from_the_command_line(gateway, cli, tmp_path):
    at = now() // DAY * DAY + 30 * DAY
    day = time.strftime("%Y-%m-%d", time.gmtime(at))
    sheet = tmp_path / "prices.csv"
    sheet.write_text(f"model,effective_from,input_price,output_price,request_price,long_context_above,long_input_price\n"
                     f"local,,0.1,0.2,,,\nlocal,{day},0.2,0.4,0.001,,\n\"odd, model\",,1,2,,1000,3\ngpt-4o-mini,{day},0.3,,,,\n")
    differing = cli.json("model", "price", "diff", sheet, check=1)
    assert (differing["dry_run"], differing["created"], differing["unchanged"]) == (True, 4, 0)
    assert differing["data"][3] == {"model": "gpt-4o-mini", "effective_from": at, "effective_until": None, "price_id": None,
                                    "changes": {"input_price": {"from": "0.15", "to": "0.3"}, "cached_input_price": {"from": "0.075", "to": None}, "web_search_price": {"from": "0.01", "to": None}}}
    assert gateway.get(PRICES).json["data"] == []
    shown = cli("model", "price", "diff", sheet, check=1).stdout
    assert "request_price" in shown and "0.001" in shown
    cli("model", "price", "import", sheet)
    again = cli.json("model", "price", "diff", sheet)
    assert (again["created"], again["unchanged"]) == (0, 4)
    exported = json.loads(cli("model", "price", "export").stdout)
    for name, text in [("list.json", json.dumps(exported)), ("bare.json", json.dumps(exported["prices"])), ("lines.jsonl", "\n".join(map(json.dumps, exported["prices"])))]:
        (tmp_path / name).write_text(text)
        assert cli.json("model", "price", "diff", tmp_path / name)["created"] == 0, name
    assert cli.json("model", "price", "diff", "-", stdin=json.dumps(exported))["unchanged"] == 4
    rows = cli.json("model", "price", "list", "local")
    assert [(row["prices"]["input_price"], row["effective_from"] == at) for row in rows] == [("0.1", False), ("0.2", True)]
    cli("model", "price", "delete", "local", rows[1]["id"])
    cli("model", "price", "set", "local", "--input", "5", "--output-price", "6", "--reasoning", "7", "--from", day, "--until", "60d")
    assert cli.json("model", "price", "list", "local")[1]["prices"]["reasoning_price"] == "7"
    for bad, said in [("model,input_price\nx\n", "line"), ("model,price\nx,1\n", "`price`"), ("input_price\n1\n", "`model`"), ("model;input_price\nx;1\n", "semicolons"), ("model,input_price,input_price\nx,1,2\n", "two columns"), ("", "model"), ("model,effective_from,input_price\nx,someday,1\n", "someday"),
                      ('{"prices":[{"model":"x","prices":{"input_price":"-1"}}]}', "prices[0].prices.input_price"), ("[{]", "bad")]:
        (tmp_path / "bad").write_text(bad)
        failed = cli("model", "price", "import", tmp_path / "bad", check=None)
        assert failed.returncode != 0 and said in failed.stderr, (bad, failed.stderr)


def test_only_operators_set_prices(server):
    ada = server.user("ada@example.com", role="owner")
    assert ada
    project_key = server.key(server.default_project)["value"]
    for path in [PRICES, f"{MODELS}/m/prices"]:
        assert server.post(path, {"prices": []}, key=project_key).status in (401, 403)


def test_what_models_cost_by_the_minute_the_image_or_elsewhere_is_never_silently_nothing(gateway):
    """Names that have misled price tables before: unpriced, so refused under a hard limit and told everywhere else."""
    for trap in ["whisper-1", "gpt-4o-transcribe", "tts-1", "gpt-image-1", "dall-e-3", "sora-2", "gpt-realtime", "gpt-4o-search-preview", "openai/gpt-4o", "azure/gpt-4o", "gpt-4o:free"]:
        assert gateway.get(f"{MODELS}/{trap.replace('/', '%2F')}").status == 404, trap
        gateway.post("/tollgate/v1/upstreams", {"name": trap.replace("/", "-").replace(":", "-"), "base_url": "http://127.0.0.1:9/v1", "models": [trap]})
        gateway.post("/v1/organization/spend_limit", LIMIT)
        key = gateway.key(gateway.default_project)["value"]
        refused = gateway.chat(key, model=trap)
        assert refused.status == 400 and refused.error["code"] == "model_price_unknown", (trap, refused)
