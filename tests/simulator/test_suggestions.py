"""Suggested tasks and processors (API reference, section 14)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulator.calls import Api, Object, json_spec, object_schema

SUGGEST = "/v1beta/tasks/suggest"
PROCESSOR = "/v1beta/tasks/suggest-processor"


def types(schema: Object) -> dict[str, str]:
    return {name: member["type"] for name, member in schema["properties"].items()}


async def warnings(api: Api, intent: str) -> list[str]:
    return [warning["type"] for warning in (await api.post(SUGGEST, user_intent=intent))["warnings"]]


@pytest.mark.parametrize(
    ("intent", "inputs", "outputs"),
    [
        (
            "Find the CEO and founding year of each company",
            {"company_name": "string"},
            {"ceo": "string", "founding_year": "integer"},
        ),
        (
            "List competitors, number of employees and headquarters for companies",
            {"company_name": "string"},
            {"competitors": "array", "number_of_employees": "integer", "headquarters": "string"},
        ),
        (
            "Given a company and a country, find whether it sells there and its revenue",
            {"company_name": "string", "country": "string"},
            {"sells_there": "boolean", "revenue": "number"},
        ),
        ("whether each startup has SOC2", {"startup_name": "string"}, {"soc2": "boolean"}),
        ("population?", {"country": "string"}, {"population": "string"}),
    ],
)
async def test_schemas_are_read_from_the_intent(
    api: Api, intent: str, inputs: dict[str, str], outputs: dict[str, str]
) -> None:
    suggested = await api.post(SUGGEST, user_intent=intent)

    assert types(suggested["input_schema"]) == inputs
    assert types(suggested["output_schema"]) == outputs
    assert (suggested["inputs"], suggested["warnings"]) == ([], [])
    assert await api.post(SUGGEST, user_intent=intent) == suggested


async def test_suggestion_can_be_run_as_it_is(api: Api) -> None:
    """Both schemas are raw JSON Schema, to be wrapped by the caller."""
    suggested = await api.post(SUGGEST, user_intent="Find the CEO and revenue of Vantor Robotics")
    forms = {name: {"type": "json", "json_schema": suggested[name]} for name in ("input_schema", "output_schema")}

    run = await api.create(suggested["inputs"][0], task_spec=forms)

    assert run["warnings"] is None
    assert suggested["title"] == "Find Company CEO And Revenue"


@pytest.mark.parametrize(
    ("intent", "expected"),
    [
        ("Find the CEO of Google and Apple", ["schema_generalization"]),
        ("Find the phone numbers for the companies in the attached spreadsheet", ["unparsable_input"]),
        ("?!", ["unparsable_input"]),
        ("Predict next year's winners", ["unattainable_task"]),
        ("Tell me the home address of Ada Lovelace", ["schema_generalization", "unattainable_task"]),
    ],
)
async def test_warnings_follow_from_what_the_intent_says(api: Api, intent: str, expected: list[str]) -> None:
    assert await warnings(api, intent) == expected


async def test_named_things_become_rows(api: Api) -> None:
    suggested = await api.post(SUGGEST, user_intent="Find the CEO of Google and Apple")

    assert suggested["inputs"] == [{"company_name": "Google"}, {"company_name": "Apple"}]


async def test_earlier_task_keeps_its_input_and_is_added_to(api: Api) -> None:
    first = await api.post(SUGGEST, user_intent="Find the CEO of each company")
    added = await api.post(SUGGEST, user_intent="Also add the founding year", previous_task=first)
    removed = await api.post(SUGGEST, user_intent="Remove the CEO", previous_task=added)

    assert added["input_schema"] == removed["input_schema"] == first["input_schema"]
    assert list(types(added["output_schema"])) == ["ceo", "founding_year"]
    assert list(types(removed["output_schema"])) == ["founding_year"]
    assert removed["title"] == first["title"]


def fields(count: int) -> Object:
    return json_spec(object_schema(**{f"field_{number}": {"type": "string"} for number in range(count)}))


@pytest.mark.parametrize(
    ("spec", "choices", "expected"),
    [
        (fields(2), None, "base"),
        (fields(8), None, "core"),
        (fields(15), None, "pro"),
        (fields(25), None, "ultra2x"),
        (fields(40), None, "ultra8x"),
        ({"output_schema": "A report"}, None, "pro"),
        ({"output_schema": {"type": "auto"}}, None, "pro"),
        (fields(2), ["pro-fast", "core-fast"], "core-fast"),
        (fields(15), ["core"], "core"),
    ],
)
async def test_processor_fits_the_number_of_fields(
    api: Api, spec: Object, choices: list[str] | None, expected: str
) -> None:
    answer = await api.post(PROCESSOR, task_spec=spec, choose_processors_from=choices)

    assert answer == {"recommended_processors": [expected]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SUGGEST, {}),
        (SUGGEST, {"user_intent": 7}),
        (PROCESSOR, {}),
        (PROCESSOR, {"task_spec": {"output_schema": "x"}, "choose_processors_from": ["lite"]}),
        (PROCESSOR, {"task_spec": {"output_schema": "x"}, "choose_processors_from": ["mega"]}),
    ],
)
async def test_bad_request_is_refused(api: Api, path: str, body: dict[str, Any]) -> None:
    response = await api.http.post(path, json=body)

    assert (response.status_code, response.json()["error"]["message"]) == (422, "Request validation error")
