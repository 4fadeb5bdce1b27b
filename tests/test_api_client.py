"""What a tool cannot show of the API client: bounds, retries, headers, streams byte by byte, groups."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from parallel_mcp.api.client import ParallelApi
from parallel_mcp.api.connections import Connections, Timeouts
from parallel_mcp.api.models import (
    Event,
    ExtractRequest,
    GroupStatusEvent,
    ProgressMessageEvent,
    RunStateEvent,
    SearchRequest,
    TaskRun,
    TaskRunInput,
    TaskRunResult,
    UnknownEvent,
)
from parallel_mcp.api.retry import retry_after_s
from parallel_mcp.errors import OutcomeUnknown, RateLimited, UpstreamUnavailable, UpstreamUnreadable
from parallel_mcp.simulator import Fault
from tests.conftest import Upstream
from tests.connecting import KEY
from tests.faults import ScriptedFault, faulty, gzip_bomb, raw_stream, redirect, reset_after_accept, slow, stall

SEARCH = SearchRequest(search_queries=["grid storage"])
TASK = TaskRunInput(processor="lite", input="What does grid storage cost?")


@asynccontextmanager
async def api(url: str, timeouts: Timeouts | None = None) -> AsyncGenerator[ParallelApi]:
    """The client alone, with connections that are closed at the end."""
    connections = Connections(url, timeouts)
    try:
        yield ParallelApi(connections, SecretStr(KEY))
    finally:
        await connections.aclose()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_search_is_sent_again_on_passing_failures(upstream: Upstream, status: int) -> None:
    """It changes nothing, so a repeat is harmless."""
    upstream.simulator.add_fault(Fault("POST", "/v1/search", times=2, status=status, headers={"Retry-After": "0"}))
    async with api(upstream.url) as client:
        answer = await client.search(SEARCH)

    assert answer.results
    assert len(upstream.sent("POST", "/v1/search")) == 3


async def test_read_is_sent_three_times_at_most(upstream: Upstream) -> None:
    """A model waits behind it."""
    upstream.simulator.add_fault(Fault("GET", ".*", times=None, status=503))
    async with api(upstream.url) as client:
        with pytest.raises(UpstreamUnavailable):
            await client.retrieve_run("trun_1")

    assert len(upstream.simulator.requests) == 3


async def test_read_is_sent_again_after_a_broken_connection_or_no_answer(upstream: Upstream) -> None:
    """The commonest failures of a network."""
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(method="POST", path="/v1/search", fault=reset_after_accept()))
        proxy.add(ScriptedFault(method="POST", path="/v1/search", fault=stall()))
        async with api(proxy.url, Timeouts(search_s=4)) as client:
            assert (await client.search(SEARCH)).results

    assert len(proxy.requests) == 3


async def test_trickling_answer_ends_at_the_deadline(upstream: Upstream) -> None:
    """A byte a second would outlast any time-out that starts anew with each byte."""
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(path="/v1/.*", fault=slow(size=1, interval_s=0.2, head=True), times=None))
        async with api(proxy.url, Timeouts(create_s=2)) as client:
            with anyio.fail_after(20), pytest.raises(OutcomeUnknown):  # its bytes would take minutes
                await client.create_run(TASK)


async def test_body_over_its_bound_is_refused(upstream: Upstream) -> None:
    """Neither a huge nor a compressed answer may fill the memory."""
    upstream.simulator.add_fault(Fault("POST", "/v1/search", status=200, body=b" " * ((1 << 20) + 1)))
    async with api(upstream.url) as client:
        with pytest.raises(UpstreamUnreadable, match="larger than 1 MiB"):
            await client.search(SEARCH)
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(path="/v1/.*", fault=gzip_bomb(64), times=None))
        async with api(proxy.url) as client:
            with pytest.raises(UpstreamUnreadable, match="compressed"):
                await client.search(SEARCH)


async def test_key_does_not_follow_a_redirect(upstream: Upstream) -> None:
    """httpx would strip `Authorization` on the way to another host, but not `x-api-key`."""
    with faulty(upstream.url) as elsewhere, faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(path=".*", fault=redirect(f"{elsewhere.url}/v1/search"), times=None))
        async with api(proxy.url) as client:
            with pytest.raises(UpstreamUnreadable, match="redirect"):
                await client.search(SEARCH)

    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 11:59:30 GMT", None),
        ("-5", None),
        ("1e9", None),
        ("nan", None),
        ("soon", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float | None) -> None:
    """Senseless values are ignored."""
    assert retry_after_s(header, now=datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)) == seconds


async def test_retry_after_longer_than_a_minute_is_not_waited_for(upstream: Upstream) -> None:
    """The caller is told instead."""
    upstream.simulator.add_fault(Fault("POST", "/v1/search", times=None, status=429, headers={"Retry-After": "120"}))
    async with api(upstream.url) as client:
        with anyio.fail_after(20), pytest.raises(RateLimited) as refused:
            await client.search(SEARCH)

    assert refused.value.retry_after_s == 120
    assert len(upstream.simulator.requests) == 1


async def test_requests_carry_the_headers_the_api_wants(upstream: Upstream) -> None:
    """The key, beta values that older nodes ask for, and who we are."""
    async with api(upstream.url) as client:
        run = await client.create_run(TASK.model_copy(update={"enable_events": True}))
        await client.retrieve_run(run.run_id)

    created, read = (request.headers for request in upstream.simulator.requests)
    assert created["x-api-key"] == KEY
    assert created["parallel-beta"] == "field-basis-2025-11-25,events-sse-2025-07-24"
    assert created["accept-encoding"] == "identity"
    assert created["user-agent"].startswith("parallel-mcp/")
    assert "parallel-beta" not in read


async def test_every_endpoint_of_runs_and_groups_is_read(upstream: Upstream) -> None:
    """Against the simulator, which is held to the published OpenAPI document by tests of its own."""
    inputs = [TASK.model_copy(update={"input": f"question {number}"}) for number in range(3)]
    async with api(upstream.url) as client:
        run = await client.create_run(TASK)
        assert (await client.run_input(run.run_id)).input == TASK.input
        assert (await client.run_result(run.run_id, timeout_s=30)).output.content
        group = await client.create_group({"purpose": "test"})
        added = await client.add_runs(group.taskgroup_id, inputs, refresh_status=False)
        assert (await client.group_run(group.taskgroup_id, added.run_ids[0])).taskgroup_id == group.taskgroup_id
        async with client.group_events(group.taskgroup_id, timeout_s=30) as events:
            live = [event async for event in events]
        async with client.group_runs(group.taskgroup_id, include_input=True, include_output=True) as events:
            listed = [event async for event in events if isinstance(event, RunStateEvent)]
        async with client.group_runs(group.taskgroup_id, last_event_id=listed[0].event_id) as events:
            rest = [event async for event in events]
        status = (await client.retrieve_group(group.taskgroup_id)).status
        extracted = await client.extract(ExtractRequest(urls=["https://nowhere.example"]))

    assert [event.run.run_id for event in listed] == added.run_ids
    assert all(event.output is not None and event.input is not None for event in listed)
    assert len(rest) == 2
    assert any(isinstance(event, GroupStatusEvent) for event in live)
    assert (status.num_task_runs, status.is_active) == (3, False)
    assert extracted.errors[0].url == "https://nowhere.example"


def test_answers_with_missing_null_or_new_values_are_read() -> None:
    """The API adds fields, statuses and event types without notice, and old samples lack some."""
    sparse = TaskRun.model_validate({"run_id": "trun_1", "status": "resting", "error": None, "brand_new": 1})
    nulls: dict[str, Any] = {
        "run": {"run_id": "trun_1", "status": "completed", "metadata": None, "warnings": None, "interaction_id": None},
        "output": {
            "type": "json",
            "content": '{"a": 1}',
            "basis": [{"field": "a", "reasoning": None, "citations": None, "confidence": None}, {"field": "b"}],
        },
    }
    result = TaskRunResult.model_validate(nulls)

    assert (sparse.interaction_id, sparse.is_active, sparse.is_final) == ("trun_1", False, False)
    assert result.output.content == {"a": 1}
    assert result.output.basis[0].citations == []
    assert not result.run.is_active


# ---- streams, byte by byte

RUN: dict[str, Any] = {"run_id": "trun_1", "status": "running", "is_active": True, "processor": "core"}
FINAL: dict[str, Any] = {**RUN, "status": "completed", "is_active": False}
GOOD: list[dict[str, Any]] = [
    {"type": "task_run.state", "event_id": None, "run": RUN, "input": None, "output": None},
    {"type": "task_run.progress_msg.plan", "message": "naïve 計画 🚀 a\u2028b\u0085c", "timestamp": "t1"},
    {"type": "task_run.progress_stats", "source_stats": None, "progress_meter": None},
    {"type": "task_run.something_new", "value": 1},
    {"type": "task_run.state", "event_id": "", "run": FINAL, "output": {"type": "text", "content": "é", "basis": []}},
]
JUNK = [b": ping", b"event: nothing", b"retry: 100", b"id: 7", b"data: {broken", b"data: [1]", b"data: \xff\xfe"]


def recorded_stream(end: bytes = b"\n", *, junk: bool = False, bom: bool = False, split: bool = False) -> bytes:
    """One run's stream as bytes, in one of the forms the format allows."""
    blocks: list[bytes] = []
    for number, event in enumerate(GOOD):
        data = json.dumps(event, ensure_ascii=False, indent=1 if split else None).encode()
        lines = [b"data: " + line for line in data.split(b"\n")]
        blocks.append(end.join([f"event: {event['type']}".encode(), *lines]))
        if junk:
            blocks.append(JUNK[number % len(JUNK)])
            blocks.append(JUNK[(number + 3) % len(JUNK)])
    return (b"\xef\xbb\xbf" if bom else b"") + b"".join(block + end + end for block in blocks)


async def events_of(url: str) -> list[Event]:
    """The events of a stream, to its end."""
    async with api(url) as client, client.run_events("trun_1") as events:
        return [event async for event in events]


def http_answer(body: bytes, content_type: bytes = b"text/event-stream") -> bytes:
    """A response with that body, ended by closing."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: " + content_type + b"\r\nconnection: close\r\n\r\n" + body


def check_events(events: list[Event]) -> None:
    """The good events, whatever stood between them."""
    kinds = [type(event) for event in events if not (isinstance(event, UnknownEvent) and not event.type)]
    assert [kind.__name__ for kind in kinds] == [
        "RunStateEvent",
        "ProgressMessageEvent",
        "ProgressStatsEvent",
        "UnknownEvent",
        "RunStateEvent",
    ]
    message = next(event for event in events if isinstance(event, ProgressMessageEvent))
    assert message.message == "naïve 計画 🚀 a\u2028b\u0085c"
    last = events[-1] if isinstance(events[-1], RunStateEvent) else events[-2]
    assert isinstance(last, RunStateEvent)
    assert last.output is not None


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize(
    "form", [{}, {"junk": True}, {"bom": True}, {"split": True}], ids=["plain", "junk", "mark", "multi-line"]
)
async def test_every_form_of_a_stream_gives_the_same_events(end: bytes, form: dict[str, bool]) -> None:
    """Junk between good events is skipped, never fatal."""
    with faulty("http://127.0.0.1:9") as proxy:
        proxy.add(ScriptedFault(path=".*", fault=raw_stream(http_answer(recorded_stream(end, **form)), sizes=(1,))))
        check_events(await events_of(proxy.url))


@given(seed=st.integers(0, 2**31), end=st.sampled_from([b"\n", b"\r\n", b"\r"]))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_stream_cut_anywhere_gives_the_same_events(seed: int, end: bytes) -> None:
    """Networks cut where they like, also inside a character."""

    async def read() -> list[Event]:
        with faulty("http://127.0.0.1:9") as proxy:
            proxy.add(ScriptedFault(path=".*", fault=raw_stream(http_answer(recorded_stream(end)), seed=seed)))
            return await events_of(proxy.url)

    check_events(anyio.run(read))


async def test_answer_that_is_no_stream_is_an_error_and_not_an_empty_stream() -> None:
    """A proxy's page with status 200."""
    with faulty("http://127.0.0.1:9") as proxy:
        proxy.add(ScriptedFault(path=".*", fault=raw_stream(http_answer(b"{}", b"application/json"))))
        with pytest.raises(UpstreamUnreadable, match="event stream"):
            await events_of(proxy.url)


async def test_event_without_end_is_refused_at_its_bound() -> None:
    """A line that never ends must not fill the memory."""
    with faulty("http://127.0.0.1:9") as proxy:
        endless = http_answer(recorded_stream() + b"data: " + b"x" * (33 << 20))
        proxy.add(ScriptedFault(path=".*", fault=raw_stream(endless)))
        with pytest.raises(UpstreamUnreadable, match="An event of the Parallel API is larger"):
            await events_of(proxy.url)


async def test_broken_connection_in_a_stream_is_an_error(upstream: Upstream) -> None:
    """Not an end: the run may still go on."""
    async with api(upstream.url) as client:
        run = await client.create_run(TASK.model_copy(update={"metadata": {"sim": "drop_after=1"}}))
        async with client.run_events(run.run_id) as events:
            first = await anext(events)
            with pytest.raises(UpstreamUnavailable):
                await anext(events)

    assert isinstance(first, RunStateEvent)
