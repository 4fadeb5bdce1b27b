"""A whole life cycle, every object of it held against the OpenAPI document, in both styles of writing nulls."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.simulator.calls import QUESTION, Api, connected, json_spec, object_schema
from tests.simulator.document import assert_is, assert_is_event, document_path

pytestmark = pytest.mark.skipif(document_path() is None, reason="PARALLEL_OPENAPI does not name the OpenAPI document")

STORIES = [
    "",
    "fails",
    "status=action_required",
    "status=cancelled",
    "null_titles null_excerpts no_confidence size=9000",
]
FIELDS = object_schema(price={"type": "number"}, obstacles={"type": "array", "items": {"type": "string"}})
SPECS = [None, {"output_schema": "A short text."}, {"output_schema": {"type": "auto"}}, json_spec(FIELDS)]


@pytest.fixture(params=[False, True], ids=["nulls", "sparse"])
async def styled_api(request: pytest.FixtureRequest) -> AsyncGenerator[Api]:
    async with connected(omit_nulls=request.param) as api:
        yield api


@pytest.mark.parametrize("spec", SPECS, ids=["no spec", "text", "auto", "json"])
@pytest.mark.parametrize("processor", ["core", "pro"])
async def test_run_from_creation_to_result(styled_api: Api, processor: str, spec: object) -> None:
    servers = [{"name": "notes", "url": "https://notes.example/mcp", "headers": {"Authorization": "Bearer x"}}]

    run = await styled_api.create(
        processor=processor, task_spec=spec, mcp_servers=servers, enable_events=True, beta="field-basis-2025-11-25"
    )
    path = f"/v1/tasks/runs/{run['run_id']}"

    assert_is("TaskRun", run)
    assert_is("TaskRunInput", await styled_api.get(f"{path}/input"))
    for event in await styled_api.run_events(run["run_id"]):
        assert_is_event(event)
    assert_is("TaskRunResult", await styled_api.get(f"{path}/result"))
    assert_is("TaskRun", await styled_api.run(run["run_id"]))


@pytest.mark.parametrize("story", STORIES)
async def test_run_with_another_story(styled_api: Api, story: str) -> None:
    run = await styled_api.create(processor="pro", sim=story)

    events = await styled_api.run_events(run["run_id"])
    result = await styled_api.http.get(f"/v1/tasks/runs/{run['run_id']}/result")

    for event in events:
        assert_is_event(event)
    assert_is("TaskRun", await styled_api.run(run["run_id"]))
    assert_is("TaskRunResult" if result.status_code == 200 else "ErrorResponse", result.json())


async def test_group_from_creation_to_the_last_event(styled_api: Api) -> None:
    group = await styled_api.post("/v1/tasks/groups", metadata={"batch": 7})
    path = f"/v1/tasks/groups/{group['taskgroup_id']}"
    added = await styled_api.add_runs(group["taskgroup_id"], {"input": QUESTION, "processor": "lite"})
    listing = {"include_input": True, "include_output": True}

    events = await styled_api.events(f"{path}/events") + await styled_api.events(f"{path}/runs", **listing)

    assert_is("TaskGroupResponse", group)
    assert_is("TaskGroupRunResponse", added)
    for event in events:
        assert_is_event(event)
    assert_is("TaskGroupResponse", await styled_api.get(path))
    assert_is("TaskRun", await styled_api.get(f"{path}/runs/{added['run_ids'][0]}"))


async def test_search_and_extract(styled_api: Api) -> None:
    search = await styled_api.post("/v1/search", search_queries=["night trains"], advanced_settings={"location": "uk"})
    urls = [search["results"][0]["url"], "https://nowhere.example/"]
    extract = await styled_api.post("/v1/extract", urls=urls, advanced_settings={"full_content": True})

    assert_is("V1SearchResponse", search)
    assert_is("V1ExtractResponse", extract)


async def test_findall_from_ingest_to_extension(styled_api: Api) -> None:
    schema = await styled_api.post("/v1beta/findall/ingest", objective="Find robotics companies that build arms")
    body = schema | {"match_limit": 5, "generator": "base", "exclude_list": [{"name": "a", "url": "b"}]}
    run = await styled_api.post("/v1beta/findall/runs", **body)
    path = f"/v1beta/findall/runs/{run['findall_id']}"
    form = {"type": "json", "json_schema": object_schema(ceo={"type": ["string", "null"]}, age={"type": "integer"})}
    servers = [{"name": "notes", "url": "https://notes.example/mcp", "headers": {"Authorization": "Bearer x"}}]
    enriched = await styled_api.post(f"{path}/enrich", output_schema=form, mcp_servers=servers)
    before = await styled_api.events(f"{path}/events")
    extended = await styled_api.post(f"{path}/extend", additional_match_limit=2)

    for event in before + await styled_api.events(f"{path}/events"):
        assert_is_event(event)
    for written in (schema, enriched, extended, await styled_api.get(f"{path}/schema")):
        assert_is("FindAllSchema", written)
    for told in (run, await styled_api.get(path)):
        assert_is("FindAllRun", told)
    assert_is("FindAllRunResult", await styled_api.get(f"{path}/result"))
    late = await styled_api.http.post(f"{path}/cancel")
    assert_is("ErrorResponse", late.json())


@pytest.mark.parametrize("story", ["fails", "matches=0", "status=cancelled", "no_confidence null_titles null_excerpts"])
async def test_findall_with_another_story(styled_api: Api, story: str) -> None:
    path = await styled_api.findall(story)

    for event in await styled_api.events(f"{path}/events"):
        assert_is_event(event)
    assert_is("FindAllRunResult", await styled_api.get(f"{path}/result"))


async def test_former_entity_search(styled_api: Api) -> None:
    body = {"entity_type": "people", "objective": "fusion"}

    assert_is("FindAllCandidatesResponse", await styled_api.post("/v1beta/findall/candidates", **body))


@pytest.mark.parametrize("story", ["events=2", "events=0", "fails"])
@pytest.mark.parametrize("kind", ["text", "json", "snapshot"])
async def test_monitor_with_its_events(styled_api: Api, kind: str, story: str) -> None:
    form = {"type": "json", "json_schema": FIELDS}
    settings = {"query": "coffee", "output_schema": form if kind == "json" else None}
    if kind == "snapshot":
        run = await styled_api.create(task_spec=json_spec(FIELDS))
        await styled_api.get(f"/v1/tasks/runs/{run['run_id']}/result")
        settings = {"task_run_id": run["run_id"]}
    monitor_type = "snapshot" if kind == "snapshot" else "event_stream"
    path = await styled_api.monitor(f"{story} latency=0", type=monitor_type, settings=settings)

    assert_is("MonitorResponse", await styled_api.get(path))
    assert_is("PaginatedMonitorEvents", await styled_api.get(f"{path}/events", include_completions=True, limit=1))
    assert_is("PaginatedMonitorResponse", await styled_api.get("/v1/monitors"))
    assert_is("MonitorResponse", await styled_api.post(f"{path}/update", frequency="2d"))
    assert_is("MonitorResponse", await styled_api.post(f"{path}/cancel"))


async def test_sparse_style_leaves_out_optional_nulls_but_keeps_what_the_caller_sent() -> None:
    async with connected(omit_nulls=True) as api:
        schema = object_schema(price={"type": ["number", "null"]})
        run = await api.create("Best sushi in Ulaanbaatar", task_spec=json_spec(schema))
        result = await api.get(f"/v1/tasks/runs/{run['run_id']}/result")
        events = await api.run_events(run["run_id"])
        error = (await api.http.get("/v1/tasks/runs/none")).json()["error"]

        assert error.keys() == {"ref_id", "message"}
        assert {"warnings", "error", "taskgroup_id"}.isdisjoint(run)
        assert result["output"]["content"] == {"price": None}
        assert events[0]["event_id"] is None
