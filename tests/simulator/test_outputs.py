"""What runs answer: relevant, cited word for word, in the requested shape (checklist 14)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from parallel_mcp.simulator.corpus import load_corpus
from tests.simulator.calls import QUESTION, Api, Object, connected, json_spec, object_schema

NOWHERE = "Best sushi in Ulaanbaatar"
QUESTIONS = {
    "What obstacles do solid-state batteries face?": "solid-state-batteries-2026",
    "Why did coffee become so expensive?": "coffee-prices",
    "When was the Suez Canal opened?": "suez-canal",
    "How do passkeys protect against phishing?": "passkeys",
    "Who leads Vantor Robotics?": "vantor-robotics",
    "What does the EU AI Act demand of high-risk systems?": "ai-act-timeline",
    "How does SQLite rank full-text search results?": "sqlite-full-text-search",
    "How effective are GLP-1 medicines against obesity?": "glp1-medicines",
}
COMPANY = object_schema(
    ceo_name={"type": "string"},
    founding_date={"type": "string", "description": "Founding date of the company"},
    employees={"type": ["integer", "null"]},
    revenue_in_millions={"type": "number"},
    is_listed={"type": "boolean", "description": "listed on a stock exchange"},
    headquarters={"enum": ["Osaka", "Rotterdam", None]},
    top_3_facts={"type": "array", "items": {"type": "string"}},
    product=object_schema(name={"type": "string"}, price={"anyOf": [{"type": "null"}, {"type": "number"}]}),
)


def citations(output: Object) -> list[Object]:
    return [citation for entry in output["basis"] for citation in entry["citations"]]


def cited_urls(output: Object) -> list[str]:
    return [citation["url"] for citation in citations(output)]


def assert_verbatim(output: Object) -> None:
    pages = {page.url: page for page in load_corpus().pages}
    for citation in citations(output):
        page = pages[citation["url"]]
        excerpts: list[str] = citation["excerpts"] or []
        assert citation["title"] in (page.title, None)
        assert set(excerpts) <= set(page.sentences)


@pytest.mark.parametrize(("question", "page"), QUESTIONS.items())
async def test_question_is_answered_from_the_page_about_it(api: Api, question: str, page: str) -> None:
    output = await api.output(question, processor="core")

    assert output["type"] == "text"
    assert cited_urls(output)[0].endswith(f"/{page}")
    assert_verbatim(output)


async def test_different_questions_get_different_answers(api: Api) -> None:
    answers = [(await api.output(question))["content"] for question in QUESTIONS]

    assert len(set(answers)) == len(QUESTIONS)


async def test_text_output_is_a_linked_report_with_one_basis_entry(api: Api) -> None:
    output = await api.output("Compare grid storage and sodium-ion batteries", processor="core")

    (entry,) = output["basis"]
    assert entry["field"] == "output"
    assert len(entry["citations"]) > 1
    assert output["content"].startswith("# Compare grid storage and sodium-ion batteries\n\n## Summary\n\n")
    for url in cited_urls(output):
        assert f"]({url})" in output["content"]


async def test_description_steers_the_text(api: Api) -> None:
    short = await api.output(task_spec={"output_schema": "one sentence"})
    bullets = await api.output(task_spec={"output_schema": {"type": "text", "description": "A bullet list"}})

    assert "\n" not in short["content"]
    assert "\n- " in bullets["content"]


@pytest.mark.parametrize("processor", ["lite", "pro"])
async def test_question_without_a_page_is_answered_honestly(api: Api, processor: str) -> None:
    output = await api.output(NOWHERE, processor=processor)

    assert "Little was found" in str(output["content"])
    assert {entry["confidence"] for entry in output["basis"]} == {"low"}
    assert cited_urls(output) == []


async def test_json_output_draws_each_field_from_the_page(api: Api) -> None:
    output = await api.output({"company": "Vantor Robotics"}, processor="core", task_spec=json_spec(COMPANY))

    content = output["content"]
    assert content["ceo_name"] == "Ilse Bakker"
    assert content["founding_date"] == "March 2016"
    assert content["employees"] == 1840
    assert content["revenue_in_millions"] == 412
    assert content["is_listed"] is False
    assert content["headquarters"] == "Rotterdam"
    assert len(content["top_3_facts"]) == 3
    assert output["output_schema"] is None
    assert_verbatim(output)


async def test_json_output_says_null_or_not_found_where_nothing_is_known(api: Api) -> None:
    output = await api.output(NOWHERE, task_spec=json_spec(COMPANY))

    assert output["content"]["employees"] is None
    assert output["content"]["headquarters"] is None
    assert output["content"]["ceo_name"] == "Not found"
    assert output["content"]["top_3_facts"] == []


async def test_json_output_has_one_basis_entry_per_field(api: Api) -> None:
    output = await api.output("Vantor Robotics", task_spec=json_spec(COMPANY))

    assert [entry["field"] for entry in output["basis"]] == list(COMPANY["properties"])


@pytest.mark.parametrize("on", ["create", "result"])
async def test_element_basis_is_added_on_request(api: Api, on: str) -> None:
    beta = "field-basis-2025-11-25"
    schema = object_schema(top_2_facts={"type": "array", "items": {"type": "string"}})
    run = await api.create("Vantor Robotics", task_spec=json_spec(schema), beta=beta if on == "create" else "")

    headers = {"parallel-beta": beta if on == "result" else ""}
    result = await api.http.get(f"/v1/tasks/runs/{run['run_id']}/result", headers=headers)

    fields = [entry["field"] for entry in result.json()["output"]["basis"]]
    assert fields == ["top_2_facts", "top_2_facts.0", "top_2_facts.1"]


def _array_of(items: Object) -> Object:
    return {"type": "array", "items": items}


def _pair_of(items: list[Object]) -> Object:
    return {"type": "array", "prefixItems": items}


def _object_of(members: dict[str, Object]) -> Object:
    return object_schema(**members)


def schemas(levels: int) -> st.SearchStrategy[Object]:
    """Any schema the API accepts, more or less."""
    leaves: st.SearchStrategy[Object] = st.sampled_from(
        [
            {"type": "string"},
            {"type": "integer"},
            {"type": "number"},
            {"type": "boolean"},
            {"type": ["null", "integer"]},
            {"type": ["string", "null"], "description": "the year it was founded"},
            {"enum": ["red", "green", 3, None]},
            {"const": 7},
            {"anyOf": [{"type": "null"}, {"type": "string"}]},
            {"allOf": [{"type": "string"}, {"description": "a name"}]},
            {"$ref": "#/$defs/shared"},
            {},
        ]
    )
    if levels == 0:
        return leaves
    inner = schemas(levels - 1)
    arrays = inner.map(_array_of)
    pairs = st.lists(inner, min_size=1, max_size=2).map(_pair_of)
    names = st.sampled_from(["name", "top_5_dates", "price", "website", "is_open", "x.0"])
    objects = st.dictionaries(names, inner, max_size=3).map(_object_of)
    return leaves | arrays | pairs | objects


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    members=st.dictionaries(st.sampled_from(["a", "company_name", "year"]), schemas(2), min_size=1), found=st.booleans()
)
async def test_json_output_is_valid_against_any_schema(members: dict[str, Any], found: bool) -> None:
    schema = object_schema(**members) | {"$defs": {"shared": object_schema(part={"type": "string"})}}
    async with connected(speed=1e6) as api:
        output = await api.output("Vantor Robotics" if found else NOWHERE, task_spec=json_spec(schema))

    Draft202012Validator(schema).validate(output["content"])  # pyright: ignore[reportUnknownMemberType]
    assert [entry["field"] for entry in output["basis"]] == list(members)


@pytest.mark.parametrize("spec", [None, {"output_schema": {"type": "auto"}}], ids=["omitted", "auto"])
async def test_auto_mode_is_structured_on_pro_and_text_below(api: Api, spec: Object | None) -> None:
    structured = await api.output(processor="pro", task_spec=spec)
    plain = await api.output(processor="core", task_spec=spec)

    Draft202012Validator(structured["output_schema"]).validate(  # pyright: ignore[reportUnknownMemberType]
        structured["content"]
    )
    assert "executive_summary" in structured["content"]
    assert any("." in entry["field"] for entry in structured["basis"])
    assert plain["type"] == "text"


async def test_confidence_varies() -> None:
    async with connected() as api:
        outputs = [await api.output(question, task_spec=json_spec(COMPANY)) for question in (*QUESTIONS, NOWHERE)]

    assert {entry["confidence"] for output in outputs for entry in output["basis"]} == {"low", "medium", "high"}


async def test_some_citations_lack_title_or_excerpts(api: Api) -> None:
    outputs = [await api.output(question, task_spec=json_spec(COMPANY)) for question in QUESTIONS]

    given = [citation for output in outputs for citation in citations(output)]
    assert {citation["title"] is None for citation in given} == {True, False}
    assert {citation["excerpts"] is None for citation in given} == {True, False}


async def test_sources_stay_within_the_policy_of_the_run(api: Api) -> None:
    policy = {"exclude_domains": ["energy.gridjournal.example"]}
    output = await api.output("Compare grid storage and electric buses", source_policy=policy)

    assert cited_urls(output)
    assert not any("gridjournal" in url for url in cited_urls(output))


@pytest.mark.parametrize(("processor", "calls"), [("lite", 1), ("pro", 2)])
async def test_mcp_servers_are_called(api: Api, processor: str, calls: int) -> None:
    servers = [
        {"name": "a", "url": "https://a.example/mcp", "allowed_tools": ["lookup"]},
        {"name": "lost", "url": "https://lost.invalid/mcp"},
        {"name": "b", "url": "https://b.example/mcp"},
    ]
    output = await api.output(processor=processor, mcp_servers=servers)

    made = output["mcp_tool_calls"]
    assert [call["server_name"] for call in made] == ["a", "b"][:calls]
    assert made[0]["tool_name"] == "lookup"


@pytest.mark.parametrize("spec", [None, json_spec(COMPANY)], ids=["text", "json"])
async def test_output_is_as_large_as_the_story_wants(api: Api, spec: Object | None) -> None:
    output = await api.output(QUESTION, sim="size=100000", task_spec=spec)

    assert 100_000 <= len(str(output["content"]).encode()) < 130_000


@pytest.mark.parametrize(
    ("story", "key", "value"),
    [("no_confidence", "confidence", None), ("empty_confidence", "confidence", "")],
)
async def test_story_takes_confidence_away(api: Api, story: str, key: str, value: str | None) -> None:
    output = await api.output(sim=story, task_spec=json_spec(COMPANY))

    assert {entry[key] for entry in output["basis"]} == {value}


@pytest.mark.parametrize(("story", "key"), [("null_titles", "title"), ("null_excerpts", "excerpts")])
async def test_story_takes_parts_of_citations_away(api: Api, story: str, key: str) -> None:
    output = await api.output(sim=story)

    assert {citation[key] for citation in citations(output)} == {None}


async def test_story_gives_json_content_as_text(api: Api) -> None:
    output = await api.output(sim="json_text", task_spec=json_spec(object_schema(price={"type": "number"})))

    assert output["content"].startswith('{"price":')
