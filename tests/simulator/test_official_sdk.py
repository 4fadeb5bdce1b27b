"""Parallel's own Python SDK against the simulator: a client that knows nothing of it."""

from __future__ import annotations

from collections.abc import Generator

import parallel
import pytest
from parallel.types import MonitorEventStreamEvent, TaskRunTextOutput
from parallel.types.beta import FindAllCandidateMatchStatusEvent, FindAllRunStatusEvent
from parallel.types.task_run_event import TaskRunEvent
from parallel.types.task_run_progress_message_event import TaskRunProgressMessageEvent
from parallel.types.task_run_progress_stats_event import TaskRunProgressStatsEvent
from pydantic import BaseModel

from parallel_mcp.simulator import Simulator, SimulatorConfig, serving


class Price(BaseModel):
    price_in_dollars: float


@pytest.fixture(scope="module")
def client() -> Generator[parallel.Parallel]:
    simulator = Simulator(SimulatorConfig(speed=1000))
    with serving(simulator) as url, parallel.Parallel(api_key="key", base_url=url, max_retries=0) as client:
        yield client


def test_search(client: parallel.Parallel) -> None:
    found = client.search(search_queries=["coffee price"], objective="Why is coffee expensive?", mode="turbo")

    assert found.results[0].url == "https://foodscience.example/coffee-prices"
    assert found.session_id


def test_extract(client: parallel.Parallel) -> None:
    extracted = client.extract(urls=["https://foodscience.example/coffee-prices", "https://nowhere.example/"])

    assert extracted.results[0].title == "Why coffee became expensive"
    assert extracted.errors[0].url == "https://nowhere.example/"


def test_run_is_created_retrieved_and_answered(client: parallel.Parallel) -> None:
    run = client.task_run.create(input="How do night trains compare with flights?", processor="core")
    result = client.task_run.result(run.run_id, api_timeout=30)

    assert run.status == "queued"
    assert client.task_run.retrieve(run.run_id).status == "completed"
    assert isinstance(result.output, TaskRunTextOutput)
    assert result.output.basis[0].citations


def test_structured_output_is_parsed(client: parallel.Parallel) -> None:
    result = client.task_run.execute(input="What does coffee cost?", processor="lite", output=Price)

    assert result.output.parsed == Price(price_in_dollars=4)


def test_events_of_a_run(client: parallel.Parallel) -> None:
    story: dict[str, str | float | bool] = {"sim": "latency=300"}
    run = client.task_run.create(input="Offshore wind", processor="pro", enable_events=True, metadata=story)

    with client.task_run.events(run.run_id) as stream:
        events = list(stream)

    kinds = {type(event) for event in events}
    assert kinds == {TaskRunEvent, TaskRunProgressMessageEvent, TaskRunProgressStatsEvent}
    assert isinstance(events[-1], TaskRunEvent)
    assert events[-1].run.status == "completed"
    assert events[-1].output


def test_group_of_three_runs(client: parallel.Parallel) -> None:
    group = client.task_group.create(metadata={"batch": "a"})
    added = client.task_group.add_runs(
        group.task_group_id,
        inputs=[{"input": subject, "processor": "lite"} for subject in ("Coffee", "Passkeys", "Suez Canal")],
    )
    with client.task_group.events(group.task_group_id) as stream:
        ended = [event.run.run_id for event in stream if isinstance(event, TaskRunEvent)]
    with client.task_group.get_runs(group.task_group_id, include_output=True) as stream:
        listed = [event for event in stream if isinstance(event, TaskRunEvent)]

    assert sorted(ended) == sorted(added.run_ids)
    assert [event.run.run_id for event in listed] == added.run_ids
    assert all(event.output for event in listed)
    assert client.task_group.retrieve(group.task_group_id).status.task_run_status_counts == {"completed": 3}


def test_findall_from_ingest_to_result(client: parallel.Parallel) -> None:
    findall = client.beta.findall
    schema = findall.ingest(objective="Find robotics companies that build warehouse automation")
    run = findall.create(
        objective=schema.objective,
        entity_type=schema.entity_type,
        match_conditions=[condition.model_dump() for condition in schema.match_conditions],  # pyright: ignore[reportArgumentType]
        generator="preview",
        match_limit=5,
    )
    with findall.events(run.findall_id) as stream:
        kinds = {type(event) for event in stream}
    result = findall.result(run.findall_id)

    assert run.status.status == "queued"
    assert kinds == {FindAllRunStatusEvent, FindAllCandidateMatchStatusEvent}
    assert findall.retrieve(run.findall_id).status.status == "completed"
    assert result.candidates[0].name == "Vantor Robotics"
    assert result.last_event_id


def test_findall_is_enriched_extended_and_cancelled(client: parallel.Parallel) -> None:
    findall = client.beta.findall
    run = findall.create(
        objective="Find bakeries",
        entity_type="bakeries",
        match_conditions=[{"name": "open_check", "description": "open on Sunday"}],
        generator="base",
        match_limit=5,
        metadata={"sim": "never"},
    )
    form: dict[str, object] = {"type": "object", "properties": {"rating": {"type": "number"}}}
    enriched = findall.enrich(run.findall_id, output_schema={"json_schema": form}, processor="lite")
    extended = findall.extend(run.findall_id, additional_match_limit=3)
    findall.cancel(run.findall_id)
    with findall.events(run.findall_id) as stream:
        *_, last = stream

    assert enriched.enrichments
    assert (extended.match_limit, findall.schema(run.findall_id).match_limit) == (8, 8)
    assert isinstance(last, FindAllRunStatusEvent)
    assert last.data.status.termination_reason == "user_cancelled"
    with pytest.raises(parallel.ConflictError):
        findall.cancel(run.findall_id)


def test_entity_search(client: parallel.Parallel) -> None:
    found = client.beta.findall.entity_search(entity_type="people", objective="fusion", match_limit=5)

    assert len(found.entities) == 5


def test_monitor_from_creation_to_cancellation(client: parallel.Parallel) -> None:
    monitor = client.monitor.create(
        type="event_stream",
        frequency="1d",
        settings={"query": "coffee prices"},
        metadata={"sim": "events=1 latency=0"},
    )
    client.monitor.trigger(monitor.monitor_id)
    updated = client.monitor.update(monitor.monitor_id, frequency="2d", type="event_stream", settings={"query": "tea"})
    page = client.monitor.events(monitor.monitor_id, limit=1)
    event = page.events[0]
    assert isinstance(event, MonitorEventStreamEvent)
    group = client.monitor.events(monitor.monitor_id, event_group_id=event.event_group_id)
    listed = client.monitor.list(status=["active", "cancelled"], limit=5)
    cancelled = client.monitor.cancel(monitor.monitor_id)

    assert (updated.frequency, client.monitor.retrieve(monitor.monitor_id).frequency) == ("2d", "2d")
    assert page.next_cursor
    assert group.events == [event]
    assert [item.monitor_id for item in listed.monitors] == [monitor.monitor_id]
    assert cancelled.status == "cancelled"


def test_failing_run(client: parallel.Parallel) -> None:
    run = client.task_run.create(input="x", processor="lite", metadata={"sim": "fails"})

    with pytest.raises(parallel.NotFoundError, match="Run failed or run id not found"):
        client.task_run.result(run.run_id)
    with client.task_run.events(run.run_id) as stream:
        *_, last = stream

    assert isinstance(last, TaskRunEvent)
    assert last.run.error
    assert client.task_run.retrieve(run.run_id).status == "failed"


def test_refusals_arrive_as_the_sdk_s_own_errors(client: parallel.Parallel) -> None:
    with pytest.raises(parallel.PermissionDeniedError):
        client.task_run.create(input="x", processor="mega")
    with pytest.raises(parallel.UnprocessableEntityError):
        client.search(search_queries=[])
    with pytest.raises(parallel.NotFoundError):
        client.task_group.retrieve("tgrp_none")
