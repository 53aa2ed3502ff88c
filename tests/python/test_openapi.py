"""The OpenAPI document: made of the table of operations, kept in docs, served, and compared with OpenAI's own SDK."""

import importlib
import inspect
import json
import pathlib
import pkgutil
import re
import subprocess
import sys
import typing

import openai.resources.admin.organization as sdk
import pydantic
import pytest
from openai._resource import SyncAPIResource
from openai._types import Omit

from harness import FULL, POSTGRES, ROOT, request, run

DOCUMENT = ROOT / "docs/openapi.json"
# What we serve of the SDK's operations differs so: by operation, what each side has that the other has not. It can only shrink.
DIFFERENCES = pathlib.Path(__file__).with_name("openapi_differences.json")


@pytest.fixture(scope="module")
def document():
    return json.loads(run("openapi", check=0).stdout)


def test_the_document_in_docs_is_that_of_the_program(document):
    kept = json.loads(DOCUMENT.read_text()) if DOCUMENT.exists() else None
    assert kept == document, "docs/openapi.json is stale: target/debug/tollgate openapi >docs/openapi.json"


def test_the_document_is_served_to_anybody(server, document):
    answer = request(server.url, "GET", "/openapi.json")
    assert answer.status == 200 and answer.headers["content-type"].startswith("application/json")
    assert answer.json == document
    assert request(server.url, "POST", "/openapi.json").status == 404


def test_the_document_has_every_operation_once(document):
    rows = json.loads(run("operations", check=0).stdout)
    described = {(method.upper(), path, operation["operationId"]) for path, item in document["paths"].items() for method, operation in item.items()}
    # Nobody has a key yet who accepts an invite, so that it is in no table of who may what.
    accept = ("POST", "/tollgate/v1/invites/accept", "accept-invite")
    assert described == {(row["method"], row["path"], row["id"]) for row in rows} | {accept}
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))
    text = json.dumps(document)
    for name in set(re.findall(r'"#/components/schemas/([^"]+)"', text)):
        assert name in document["components"]["schemas"], name
    assert not [name for name in document["components"]["schemas"] if name[-1].isdigit()], "two types of one name"


# What the SDK says

class Called(typing.NamedTuple):
    method: str
    path: str
    required: set
    optional: set
    model: type


def sdk_operations():
    modules = [sdk] + [importlib.import_module(m.name) for m in pkgutil.walk_packages(sdk.__path__, sdk.__name__ + ".")]
    for module in modules:
        for cls in list(vars(module).values()):
            if not (inspect.isclass(cls) and issubclass(cls, SyncAPIResource) and cls.__module__ == module.__name__):
                continue
            for function in list(vars(cls).values()):
                source = inspect.getsource(function) if inspect.isfunction(function) else ""
                if found := re.search(r'self\._(get_api_list|get|post|delete)\(\s*(?:path_template\(\s*)?"([^"]+)"', source):
                    yield called(module, function, source, *found.groups())


def called(module, function, source, verb, path):
    hints = typing.get_type_hints(function, vars(module))
    required, optional = set(), set()
    names = dict(re.findall(r"(\w+)=(\w+)", source.split("path_template(")[1].split(")")[0])) if "path_template(" in source else {}
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        if name in ("extra_headers", "extra_query", "extra_body", "timeout") or name in names.values():
            continue
        is_optional = parameter.default is not inspect.Parameter.empty or Omit in typing.get_args(hints[name])
        (optional if is_optional else required).add(name)
    model = re.search(r"(?:cast_to|model)=(?:cast\(\s*Any, )?([\w.]+)", source)
    model = eval(model[1], vars(module)) if verb == "get_api_list" else hints["return"]
    if verb == "get_api_list":
        verb = "post" if 'method="post"' in source else "get"
    return Called(verb.upper(), "/v1" + path, required, optional, model)


def fields(model):
    """Names on the wire, and those of them that are always there."""
    found = {(field.alias or name): field.is_required() for name, field in model.model_fields.items()}
    return set(found), {name for name, is_required in found.items() if is_required}


# What the document says

def resolved(document, schema):
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def properties(document, schema):
    schema = resolved(document, schema)
    names, required = set(schema.get("properties", {})), set(schema.get("required", []))
    for part in schema.get("allOf", []):
        more, needed = properties(document, part)
        names, required = names | more, required | needed
    return names, required


def described(document, operation):
    required, optional = set(), set()
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "query":
            (required if parameter["required"] else optional).add(parameter["name"])
    if "requestBody" in operation:
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        required |= set(body.get("required", []))
        optional |= set(body["properties"]) - set(body.get("required", []))
    return required, optional


def same_path(ours, theirs):
    return re.sub(r"\{\w+\}", "{}", ours) == re.sub(r"\{\w+\}", "{}", theirs)


def compared(document):
    """By operation of the SDK, in what we differ; and the operations that we do not serve."""
    differences, absent = {}, []
    for theirs in sdk_operations():
        name = f"{theirs.method} {theirs.path}"
        ours = [item[theirs.method.lower()] for path, item in document["paths"].items() if same_path(path, theirs.path) and theirs.method.lower() in item]
        if not ours:
            absent.append(name)
            continue
        [ours] = ours
        found = {}
        required, optional = described(document, ours)
        found["parameters we do not take"] = (theirs.required | theirs.optional) - required - optional
        found["parameters that only we need"] = required - theirs.required
        found["parameters that only they need"] = theirs.required - required
        answer = ours["responses"]["200"]["content"]["application/json"]["schema"]
        if "data" in properties(document, answer)[0] and not (inspect.isclass(theirs.model) and "data" in fields(theirs.model)[0]):
            answer = resolved(document, answer)["properties"]["data"]["items"]
        if inspect.isclass(theirs.model) and issubclass(theirs.model, pydantic.BaseModel):
            names, always = fields(theirs.model)
            our_names, our_always = properties(document, answer)
            found["fields we do not answer"] = names - our_names
            found["fields they always have and we do not"] = (always & our_names) - our_always
        found = {what: sorted(names) for what, names in found.items() if names}
        if found:
            differences[name] = found
    return differences, sorted(absent)


def test_operations_parameters_and_fields_are_those_of_openais_sdk(document):
    differences, absent = compared(document)
    kept = json.loads(DIFFERENCES.read_text())
    assert differences == kept["differences"], "intended? then in openapi_differences.json, with the reason in the commit"
    assert absent == kept["absent"]


def test_the_comparison_sees_what_is_missing(document):
    """A comparison that cannot fail would be worth nothing."""
    broken = json.loads(json.dumps(document))
    del broken["paths"]["/v1/organization/projects/{project_id}/archive"]
    create = broken["paths"]["/v1/organization/projects"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    del create["properties"]["name"]
    create["required"] = []
    del broken["components"]["schemas"]["Project"]["properties"]["status"]
    differences, absent = compared(broken)
    assert "POST /v1/organization/projects/{project_id}/archive" in absent
    assert differences["POST /v1/organization/projects"]["parameters we do not take"] == ["name"]
    assert "status" in differences["GET /v1/organization/projects/{project_id}"]["fields we do not answer"]


@pytest.mark.timeout(1500 if FULL else 300)
def test_no_request_of_the_document_s_making_is_answered_by_a_fault(server, tmp_path, report):
    """Well-formed and broken requests of every operation: none is a 5xx, and what is answered is what the document says."""
    project = server.project("Fuzzed")
    user, group = server.user("fuzzed@example.com"), server.post("/v1/organization/groups", {"name": "fuzzed"}).json["id"]
    assert server.post(f"/v1/organization/projects/{project}/users", {"user_id": user, "role": "member"}).status == 200
    ids = {
        "project_id": project, "user_id": user, "group_id": group,
        "role_id": server.post("/v1/organization/roles", {"role_name": "fuzzed", "permissions": ["api.organization.projects.read"]}).json["id"],
        "api_key_id": server.key(project)["id"],
        "service_account_id": server.post(f"/v1/organization/projects/{project}/service_accounts", {"name": "fuzzed"}).json["id"],
        "invite_id": server.post("/v1/organization/invites", {"email": "invited@example.com", "role": "reader", "projects": []}).json["id"],
    }
    flags = ["-H", f"Authorization: Bearer {server.admin_key}", "--checks", "not_a_server_error,response_schema_conformance,content_type_conformance",
             "--continue-on-failure", "--suppress-health-check", "all", "--generation-database", "none",
             # One worker: two threads that parse Python at once fail now and then before 3.12 (CPython's gh-106905).
             "--warnings", "off", "--no-color", "--workers", "1"]

    def fuzz(examples, phases, *more, **parameters):
        config = tmp_path / "schemathesis.toml"
        config.write_text("[parameters]\n" + "".join(f'"path.{name}" = "{value}"\n' for name, value in parameters.items()))
        program = pathlib.Path(sys.executable).with_name("schemathesis")
        done = subprocess.run([program, "--config-file", config, "run", f"{server.url}/openapi.json", *flags, "--phases", phases, "-n", str(examples), *more],
                              capture_output=True, text=True, timeout=1500, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        report("requests of the OpenAPI document: " + re.search(r"(\d+) generated, (\d+) passed", done.stdout)[0])

    # Of what is there, as long as nothing ends it; then of whatever the document allows. A key that revokes itself is for
    # another test.
    ending = ["--exclude-method", "DELETE", "--exclude-operation-id-regex", "archive|freeze|modify-key-policy"]
    # Outside of full the other engine gets fewer, for the shapes are the same.
    phases = "coverage,fuzzing" if FULL or not POSTGRES else "fuzzing"
    fuzz(40 if FULL else 2, phases, *ending, **ids)
    fuzz(40 if FULL else 4, "coverage,fuzzing" if FULL else "fuzzing", "--exclude-operation-id", "delete-me")
    server.post("/tollgate/v1/organization/unfreeze")
