"""What is refused, what is only warned of, and in which shape (checklist 3, 8; reference section 9.2)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulator.calls import QUESTION, Api, Object, json_spec, object_schema

TEXT = {"type": "string"}


def nested(levels: int) -> Object:
    schema = object_schema(leaf=TEXT)
    for _ in range(levels - 1):
        schema = object_schema(inner=schema)
    return schema


def one_field(**keywords: Any) -> Object:
    return json_spec(object_schema(field=keywords))


RECURSIVE = object_schema(node={"$ref": "#/$defs/node"}) | {
    "$defs": {"node": object_schema(next={"$ref": "#/$defs/node"})}
}
BAD_JSON = [
    b"",
    b"{",
    b"[1]",
    b"null",
    b'{"input": NaN}',
    b'{"input": 1e999}',
    b'"\\ud800"',
    b"\xff",
    b"[" * 100_000,
    b'{"input":' * 70 + b"1" + b"}" * 70,
]
BAD_SPECS = {
    "root is no object": json_spec({"type": "array", "items": TEXT}),
    "root without properties": json_spec({"type": "object"}),
    "root with anyOf": json_spec(object_schema(a=TEXT) | {"anyOf": [object_schema(a=TEXT)]}),
    "null alone": one_field(type="null"),
    "too deep": json_spec(nested(6)),
    "recursive": json_spec(RECURSIVE),
    "too many properties": json_spec(object_schema(**{f"f{n}": TEXT for n in range(101)})),
    "too many enum values": one_field(enum=[f"v{n}" for n in range(501)]),
    "large enum too long": one_field(enum=["v" * 30 + str(n) for n in range(251)]),
    "names too long": json_spec(object_schema(**{"n" * 25_001: TEXT})),
    "spec too long": one_field(type="string", description="d" * 15_000),
    "minimum": one_field(type="integer", minimum=1),
    "format": one_field(type="string", format="date"),
    "pattern inside items": one_field(type="array", items={"type": "string", "pattern": "a"}),
    "remote reference": one_field(**{"$ref": "https://schemas.example/a"}),
    "dangling reference": one_field(**{"$ref": "#/$defs/nothing"}),
    "unknown type": one_field(type="text"),
    "raw JSON schema": {"output_schema": object_schema(a=TEXT)},
    "unknown form": {"output_schema": {"type": "yaml"}},
    "no output schema": {"input_schema": "anything"},
    "auto as input": {"output_schema": "x", "input_schema": {"type": "auto"}},
}
BAD_MEMBERS: dict[str, Object] = {
    "no processor": {"processor": None},
    "no input": {"input": None},
    "input is a list": {"input": ["a"]},
    "metadata key too long": {"metadata": {"k" * 17: "v"}},
    "metadata value too long": {"metadata": {"k": "v" * 513}},
    "metadata value is an object": {"metadata": {"k": {}}},
    "input too long": {"input": "i" * 25_001},
    "too many MCP servers": {"mcp_servers": [{"name": str(n), "url": "https://a.example"} for n in range(11)]},
    "MCP server without name": {"mcp_servers": [{"url": "https://a.example"}]},
    "too many domains": {
        "source_policy": {"include_domains": ["a.example"] * 101, "exclude_domains": ["b.example"] * 100}
    },
    "domain with scheme": {"source_policy": {"include_domains": ["https://a.example"]}},
    "after_date is no date": {"source_policy": {"after_date": "2025-02-30"}},
    "enable_events is text": {"enable_events": "yes"},
    "webhook without url": {"webhook": {"event_types": ["task_run.status"]}},
    "unknown webhook event": {"webhook": {"url": "https://a.example", "event_types": ["task_run.born"]}},
    "bad memory scope": {"memory_scope_key": "a b"},
    "unknown story word": {"metadata": {"sim": "fals"}},
    "malformed story word": {"metadata": {"sim": "latency=soon"}},
}


@pytest.mark.parametrize("spec", BAD_SPECS.values(), ids=BAD_SPECS.keys())
async def test_bad_spec_is_refused(api: Api, spec: Object) -> None:
    response = await api.http.post("/v1/tasks/runs", json={"input": "x", "processor": "core", "task_spec": spec})

    error = response.json()["error"]
    assert (response.status_code, error["message"]) == (422, "Unprocessable content: request validation error")
    assert error["detail"]["errors"][0]["loc"][:2] == ["body", "task_spec"]


@pytest.mark.parametrize("members", BAD_MEMBERS.values(), ids=BAD_MEMBERS.keys())
async def test_bad_request_is_refused_and_creates_nothing(api: Api, members: Object) -> None:
    body = {key: value for key, value in ({"input": QUESTION, "processor": "lite"} | members).items() if value}

    response = await api.http.post("/v1/tasks/runs", json=body)

    assert response.status_code == 422
    assert response.json()["error"]["detail"]["errors"]
    assert api.simulator.accepted_runs == 0


@pytest.mark.parametrize("body", BAD_JSON)
@pytest.mark.parametrize("path", ["/v1/tasks/runs", "/v1/search", "/v1/extract", "/v1/tasks/groups"])
async def test_what_is_no_json_object_is_refused(api: Api, path: str, body: bytes) -> None:
    assert (await api.http.post(path, content=body)).status_code == 422


async def test_misspelt_story_is_named_in_the_answer(api: Api) -> None:
    body = {"input": QUESTION, "processor": "lite", "metadata": {"sim": "latency=3 drop_afer=2"}}

    response = await api.http.post("/v1/tasks/runs", json=body)

    assert "drop_afer=2" in response.text


async def test_unknown_processor_is_forbidden(api: Api) -> None:
    response = await api.http.post("/v1/tasks/runs", json={"input": "x", "processor": "mega"})

    assert (response.status_code, response.json()["error"]["message"]) == (
        403,
        "Forbidden: invalid processor in request",
    )


@pytest.mark.parametrize(
    "spec",
    [
        json_spec(nested(5)),
        {"output_schema": "a bare string"},
        {"output_schema": {"json_schema": object_schema(a=TEXT)}},
        {"output_schema": {"type": "text"}},
        {"output_schema": {}},
        {"output_schema": {"type": "auto"}, "input_schema": {"type": "text", "description": None}},
        one_field(anyOf=[{"type": "null"}, {"type": "string"}]),
        json_spec(object_schema(format={"type": "string"}, minimum={"type": ["integer", "null"]})),
        json_spec(object_schema(a={"$ref": "#/$defs/a"}) | {"$defs": {"a": TEXT}}),
    ],
)
async def test_spec_within_the_rules_is_accepted_without_a_warning(api: Api, spec: Object) -> None:
    run = await api.create(task_spec=spec, processor="core")

    assert run["warnings"] is None


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        (json_spec(object_schema([], a=TEXT)), "spec_validation_warning", "required: a"),
        (
            json_spec({"type": "object", "properties": {"a": TEXT}, "required": ["a"]}),
            "spec_validation_warning",
            "false",
        ),
        (json_spec(object_schema(sources=TEXT)), "spec_validation_warning", '"sources" is not needed'),
        (json_spec(object_schema(a=TEXT, b=TEXT, c=TEXT)), "spec_validation_warning", "Too many output fields"),
        (
            {"output_schema": "x", "input_schema": {"type": "json", "json_schema": object_schema(country=TEXT)}},
            "input_validation_warning",
            "does not match",
        ),
    ],
)
async def test_questionable_spec_is_accepted_with_a_warning(api: Api, spec: Object, kind: str, words: str) -> None:
    run = await api.create({"year": 2023}, processor="lite", task_spec=spec)

    assert [warning["type"] for warning in run["warnings"]] == [kind]
    assert words in run["warnings"][0]["message"]


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "https://schemas.example/a"}, {"$ref": "#"}, {"$id": "http://[", "$ref": "a"}],
)
async def test_input_schema_that_cannot_be_applied_is_a_warning(api: Api, schema: Object) -> None:
    """Nothing is fetched, and nothing fails."""
    spec = {"output_schema": "x", "input_schema": {"type": "json", "json_schema": schema}}

    run = await api.create("text", task_spec=spec)

    assert [warning["type"] for warning in run["warnings"]] == ["input_validation_warning"]


async def test_unreachable_mcp_server_is_a_warning(api: Api) -> None:
    run = await api.create(mcp_servers=[{"name": "lost", "url": "https://lost.invalid/mcp"}])

    (warning,) = run["warnings"]
    assert warning["type"] == "warning"
    assert warning["message"].startswith("Error listing tools from MCP server lost. Reference ID: ")
    assert warning["detail"] == {}


async def test_unknown_members_of_a_run_are_ignored(api: Api) -> None:
    """A misspelt webhook fails quietly, as it would on the real API."""
    run = await api.create(webhook_url="https://hooks.example/", timeout=3)

    assert run["status"] == "queued"
