import pytest

from harness import UPSTREAM_SECRET, Fake

UPSTREAMS = "/tollgate/v1/upstreams"
MODELS = "/tollgate/v1/models"


def test_the_life_of_an_upstream(server, simulator):
    made = server.upstream(simulator, name="mine")
    assert made["object"] == "tollgate.upstream" and made["has_api_key"] is True and "gpt-4o" in made["models"]
    assert UPSTREAM_SECRET not in str(made)
    path = f"{UPSTREAMS}/{made['id']}"
    assert server.get(path).json == made and server.get(UPSTREAMS).json["data"] == [made]
    changed = server.post(path, {"name": "yours", "models": ["a", "b", "a"]}).json
    assert (changed["name"], changed["models"], changed["has_api_key"]) == ("yours", ["a", "b"], True)
    assert server.post(path, {"api_key": None}).json["has_api_key"] is False
    assert server.delete(path).json["deleted"] is True
    assert server.get(path).status == 404 and server.delete(path).status == 404


def test_a_changed_upstream_is_in_force_for_the_next_request(gateway, simulator):
    key = gateway.key(gateway.default_project)["value"]
    [upstream] = gateway.get(UPSTREAMS).json["data"]
    assert gateway.chat(key).status == 200
    gateway.post(f"{UPSTREAMS}/{upstream['id']}", {"models": ["gpt-4o"]})
    refused = gateway.chat(key)
    assert refused.status == 404 and refused.error["code"] == "model_not_found"
    gateway.delete(f"{UPSTREAMS}/{upstream['id']}")
    assert gateway.chat(key, model="gpt-4o").status == 404


def test_a_new_origin_needs_its_credential_again(server, simulator):
    path = f"{UPSTREAMS}/{server.upstream(simulator)['id']}"
    refused = server.post(path, {"base_url": "http://127.0.0.1:9/v1"})
    assert refused.status == 400 and refused.error["param"] == "api_key"
    assert server.post(path, {"base_url": simulator.root + "/other"}).status == 200, "the same origin"
    assert server.post(path, {"base_url": "http://127.0.0.1:9/v1", "api_key": UPSTREAM_SECRET}).status == 200
    assert server.post(path, {"base_url": "http://127.0.0.1:10/v1", "api_key": None}).json["has_api_key"] is False


@pytest.mark.parametrize("change, param", [
    ({"name": ""}, "name"), ({"name": "x" * 65}, "name"), ({"name": "taken"}, "name"), ({"base_url": "ftp://x"}, "base_url"),
    ({"base_url": "https://u:p@x/v1"}, "base_url"), ({"base_url": "x"}, "base_url"), ({"base_url": "https://x/?a"}, "base_url"),
    ({"api_key": ""}, "api_key"), ({"api_key": "a b"}, "api_key"), ({"api_key": "a\r\nX: y"}, "api_key"), ({"models": [""]}, "models"),
    ({"models": "gpt"}, "models"), ({"api_base": "x"}, "api_base"), ({"models": ["x"] * 2001}, "models"),
])
def test_a_bad_upstream_is_refused_by_parameter(server, change, param):
    good = {"name": "good", "base_url": "http://127.0.0.1:9/v1", "models": ["m"]}
    assert server.post(UPSTREAMS, {**good, "name": "taken"}).status == 200
    answer = server.post(UPSTREAMS, {**good, **change})
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_a_list_of_models_that_cannot_be_read_asks_for_one(server, simulator):
    for base_url in ["http://127.0.0.1:9/v1", simulator.root + "/nothing", "http://169.254.169.254/v1"]:
        answer = server.post(UPSTREAMS, {"name": "x", "base_url": base_url})
        assert answer.status == 400 and answer.error["param"] == "models", answer


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "[::ffff:169.254.169.254]", "0.0.0.0", "[fe80::1]"])
def test_addresses_inside_of_a_cloud_are_never_dialled(server, host):
    body = {"name": "inside", "base_url": f"http://{host}/v1", "models": ["m"]}
    made = server.post(UPSTREAMS, body)
    if made.status == 200:
        answer = server.chat(server.key(server.default_project)["value"], model="m")
        assert answer.status == 502 and answer.error["code"] == "upstream_unreachable", answer
        assert server.requests()[0]["state"] == "voided"


def test_an_owner_who_is_no_operator_sees_names_and_models_only(server, simulator):
    server.upstream(simulator)
    key = server.post("/v1/organization/admin_api_keys", {"name": "x", "scopes": ["api.management.read", "api.management.write"]}).json
    server.remember(key["value"])
    [seen] = server.get(UPSTREAMS, key=key["value"]).json["data"]
    assert set(seen) == {"object", "id", "name", "models", "health", "created_at"}
    for refused in [server.post(UPSTREAMS, {"name": "x"}, key=key["value"]), server.post(f"{MODELS}/m", {}, key=key["value"]),
                    server.delete(f"{UPSTREAMS}/{seen['id']}", key=key["value"])]:
        assert refused.status == 403 and "tollgate.operator" in refused.error["message"]


def test_prices_are_embedded_and_overridable(server):
    known = server.get(f"{MODELS}/gpt-4o-mini").json
    assert (known["input_price"], known["cached_input_price"], known["output_price"]) == ("0.15", "0.075", "0.6")
    assert known["overridden"] is False and known["max_output_tokens"] == 16384
    assert server.get(f"{MODELS}/llama3").status == 404
    own = server.post(f"{MODELS}/meta%2Fllama3", {"input_price": "0", "output_price": "0.000001", "context_tokens": 8192}).json
    assert (own["id"], own["input_price"], own["output_price"], own["cached_input_price"]) == ("meta/llama3", "0", "0.000001", None)
    assert [m["id"] for m in server.get(MODELS).json["data"]] == ["meta/llama3"]
    partly = server.post(f"{MODELS}/gpt-4o-mini", {"input_price": "1.5"}).json
    assert (partly["input_price"], partly["output_price"], partly["cached_input_price"]) == ("1.5", "0.6", None)
    back = server.post(f"{MODELS}/gpt-4o-mini", {"input_price": None}).json
    assert (back["input_price"], back["cached_input_price"], back["overridden"]) == ("0.15", "0.075", False)
    assert server.delete(f"{MODELS}/meta%2Fllama3").status == 200
    assert server.get(f"{MODELS}/meta%2Fllama3").status == 404 and server.delete(f"{MODELS}/meta%2Fllama3").status == 404


@pytest.mark.parametrize("body, param", [
    ({"input_price": "-1"}, "input_price"), ({"input_price": "0.0000001"}, "input_price"), ({"input_price": 0.15}, "input_price"),
    ({"output_price": "1e3"}, "output_price"), ({"output_price": "many"}, "output_price"), ({"output_price": "99999999"}, "output_price"),
    ({"context_tokens": 0}, "context_tokens"), ({"max_output_tokens": -1}, "max_output_tokens"), ({"max_output_tokens": 10**12}, "max_output_tokens"),
    ({"price": "1"}, "price"),
])
def test_a_bad_price_is_refused_by_parameter(server, body, param):
    answer = server.post(f"{MODELS}/m", body)
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_a_new_price_is_for_new_requests(gateway):
    key = gateway.key(gateway.default_project)["value"]
    gateway.chat(key, simulate={"output_tokens": 1000})
    gateway.post(f"{MODELS}/gpt-4o-mini", {"input_price": "0", "output_price": "1000"})
    gateway.chat(key, simulate={"output_tokens": 1000})
    new, old = gateway.requests()
    assert new["cost"] == "1.000000000" and float(old["cost"]) < 0.01


def test_no_list_of_models_is_the_upstream_s_own(server, simulator):
    for number, given in enumerate([{}, {"models": None}]):
        made = server.post(UPSTREAMS, {"name": f"u{number}", "base_url": simulator.base_url, **given})
        assert made.status == 200 and "gpt-4o" in made.json["models"], made


@pytest.mark.parametrize("how, name, value", [
    (None, "Authorization", "Bearer {}"), ("bearer", "Authorization", "Bearer {}"), ("x-api-key", "x-api-key", "{}"), ("api-key", "api-key", "{}")])
def test_a_credential_is_presented_as_the_upstream_reads_it(server, how, name, value):
    seen = []
    fake = Fake(lambda body, handler: seen.append(dict(handler.headers)) or (200, Fake.completion()))
    server.fakes.append(fake)
    handler = fake.server.RequestHandlerClass
    listing = handler.do_GET
    handler.do_GET = lambda self: seen.append(dict(self.headers)) or listing(self)
    body = {"name": "one", "base_url": fake.base_url, "api_key": server.remember("sk-of-the-upstream-1234567"), **({"authentication": how} if how else {})}
    made = server.post(UPSTREAMS, body).json
    assert made["authentication"] == (how or "bearer")
    key = server.key(server.default_project)["value"]
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
    assert server.chat(key, model="fake", headers=trace).status == 200
    for headers in seen:  # the list of models, and the request
        presented = {field.lower(): given for field, given in headers.items() if field.lower() in ("authorization", "x-api-key", "api-key")}
        assert presented == {name.lower(): value.format("sk-of-the-upstream-1234567")}
    assert len(seen) == 2 and {name: seen[1][name] for name in trace} == trace
    one = f"{UPSTREAMS}/{made['id']}"
    assert server.post(one, {"authentication": "api-key"}).json["authentication"] == "api-key"
    assert server.post(one, {"authentication": None}).json["authentication"] == "bearer"
    for bad in ["basic", "", "Bearer"]:
        assert server.post(one, {"authentication": bad}).error["param"] == "authentication"
        assert server.post(UPSTREAMS, {**body, "name": "two", "authentication": bad}).error["param"] == "authentication"
