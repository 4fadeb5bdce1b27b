"""Waiting for a run: bounded, resumable, and whole over any number of calls."""

import json
import threading
import time
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, Implementation

from parallel_mcp.server import build_server
from parallel_mcp.settings import load_settings
from parallel_mcp.simulator import Fault
from parallel_mcp.tools.call import App, Call
from parallel_mcp.tools.waiting import allowed_wait_s
from tests.conftest import Upstream
from tests.connecting import LEGACY, MODERN, connected, create, failure, structured, text_of
from tests.faults import ScriptedFault, faulty, respond, stall, stall_after
from tests.faults.wire import Ending, Exchange, frame_chunk
from tests.recorded_run import RUN_ID, STREAM_HEAD, events, message, recorded_run, state, stream_of

EVENTS = r"/v1/tasks/runs/[^/]+/events"
LAST_STEP = "Writing the answer."  # of every simulated run that tells steps
PATIENCE_S = 20


async def watch_to_the_end(client: Client, run_id: str, timeout_s: float) -> list[dict[str, Any]]:
    """Watch in slices, each going on where the last one ended."""
    slices: list[dict[str, Any]] = []
    cursor = ""
    while not slices or slices[-1]["is_active"]:
        arguments = {"id": run_id, "timeout_s": timeout_s, "cursor": cursor}
        slices.append(structured(await told(client, "watch_progress", arguments)))
        cursor = slices[-1]["cursor"]
    return slices


async def told(client: Client, tool: str, arguments: dict[str, Any]) -> CallToolResult:
    """The answer to a short wait: one whose last look at the status the machine had no time for says so."""
    with anyio.fail_after(PATIENCE_S):
        while (answer := await client.call_tool(tool, arguments)).is_error:
            assert "did not say in time" in text_of(answer)
    return answer


async def watch_until_told(client: Client, run_id: str) -> dict[str, Any]:
    """Short watches from the start, until one brings messages."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            watched = structured(await told(client, "watch_progress", {"id": run_id, "timeout_s": 2}))
            if watched["untrusted_messages"]:
                return watched


async def test_slices_give_each_message_once_and_in_order(upstream: Upstream, client: Client) -> None:
    """A model with a 60 s clock follows a long run in many calls, and must not read its steps twice."""
    run_id = await create(client, "latency=420 messages=40")

    slices = await watch_to_the_end(client, run_id, timeout_s=1)
    whole = structured(await client.call_tool("watch_progress", {"id": run_id}))["untrusted_messages"]

    assert len(slices) >= 3
    assert sum(bool(part["untrusted_messages"]) for part in slices) >= 3
    assert [message for part in slices for message in part["untrusted_messages"]] == whole
    assert len(whole) == 40
    assert slices[-1]["status"] == "completed"
    assert slices[-1]["result_ready"]


async def test_end_that_was_seen_is_taken_back_by_no_tool(upstream: Upstream) -> None:
    """Some machines of the API may hear of it late; a model that is told `running` again watches for nothing."""
    with faulty(upstream.url) as proxy:
        async with connected("memory", proxy.url) as client:
            run_id = await create(client, "never queue=0")
            running = upstream.run_now(run_id)
            upstream.simulator.finish(run_id)
            first = structured(await client.call_tool("watch_progress", {"id": run_id}))
            late = events(state(run=json.loads(running)))
            proxy.add(ScriptedFault(path=f"/v1/tasks/runs/{run_id}", fault=respond(200, running), times=None))
            proxy.add(ScriptedFault(path=f"/v1/tasks/runs/{run_id}/result", fault=respond(408, b"{}"), times=None))
            proxy.add(ScriptedFault(path=EVENTS, fault=stream_of(late), times=None))
            calls: list[tuple[str, dict[str, Any]]] = [
                ("watch_progress", {"id": run_id, "timeout_s": 0}),
                ("watch_progress", {"id": run_id, "timeout_s": 1}),
                ("get_result", {"id": run_id}),
                ("get_result", {"id": run_id, "wait_s": 1}),
            ]
            said = [structured(await told(client, *call))["status"] for call in calls]
            (item,) = structured(await client.call_tool("get_status", {"ids": [run_id]}))["items"]

    assert [first["status"], *said, item["status"]] == ["completed"] * 6


async def test_cursor_is_understood_by_another_process(upstream: Upstream) -> None:
    """No state of ours is needed to go on: any replica can answer."""
    async with connected("memory", upstream.url) as first:
        run_id = await create(first, "latency=300 messages=30")
        early = await watch_until_told(first, run_id)
    async with connected("memory", upstream.url) as second:
        rest = structured(await second.call_tool("watch_progress", {"id": run_id, "cursor": early["cursor"]}))
        whole = structured(await second.call_tool("watch_progress", {"id": run_id}))

    assert early["untrusted_messages"] + rest["untrusted_messages"] == whole["untrusted_messages"]


@pytest.mark.parametrize("timeout_s", [0, 1, 2])
async def test_run_that_outlasts_the_wait_comes_back_with_handle_status_and_next_call(
    client: Client, timeout_s: float
) -> None:
    """The answer must be there before the client gives up."""
    run_id = await create(client, "never messages=3")
    started = time.monotonic()

    watched = await told(client, "watch_progress", {"id": run_id, "timeout_s": timeout_s})

    assert time.monotonic() - started < PATIENCE_S
    state = structured(watched)
    assert state["id"] == run_id
    assert state["status"] in ("queued", "running")
    assert state["is_active"]
    assert not state["result_ready"]
    assert state["next"].startswith(f'watch_progress(id="{run_id}"')
    assert state["next"] in text_of(watched)


async def test_operator_bounds_the_wait(upstream: Upstream) -> None:
    """Whatever the model asks for."""
    async with connected("memory", upstream.url) as unbounded:
        run_id = await create(unbounded, "never")
    async with connected("memory", upstream.url, max_wait_s=0.5) as client:
        started = time.monotonic()
        await client.call_tool("watch_progress", {"id": run_id, "timeout_s": 40})

    assert time.monotonic() - started < PATIENCE_S


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize(("name", "longest_s"), [("claude-code", 280), ("Visual Studio Code", 280), ("somebody", 45)])
async def test_wait_is_as_long_as_the_client_is_known_to_allow(mode: str, name: str, longest_s: float) -> None:
    """A client that allows more needs fewer calls; one that is not known gets an answer before it gives up."""
    seen: list[float] = []

    async def probe(context: Context[App]) -> str:
        seen.append(allowed_wait_s(1_000, Call(context.request_context.lifespan_context, context)))
        return "seen"

    server = build_server(load_settings())
    server.add_tool(probe)
    async with Client(server, mode=mode, client_info=Implementation(name=name, version="1")) as client:
        await client.call_tool("probe", {})

    assert seen == [longest_s]


async def test_wrong_cursor_counts_as_none_and_is_remarked(client: Client) -> None:
    """A model that garbles a cursor must not lose messages."""
    run_id = await create(client, "latency=30 messages=5")
    other = await create(client, "latency=30 messages=5", input="What are the rules for heat pumps?")
    whole = structured(await client.call_tool("watch_progress", {"id": run_id}))
    foreign = structured(await client.call_tool("watch_progress", {"id": other}))["cursor"]

    longer = await create(client, "latency=30 messages=9", input="What are the rules for heat pumps?")
    beyond = structured(await client.call_tool("watch_progress", {"id": longer}))["cursor"]

    for cursor in ("nonsense", "../x", "x" * 5_000, foreign, beyond):
        watched = structured(await client.call_tool("watch_progress", {"id": run_id, "cursor": cursor}))
        assert watched["untrusted_messages"] == whole["untrusted_messages"]
        assert "does not belong" in watched["remark"]
        assert len(watched["cursor"]) <= 200


BROKEN_STREAMS = [
    "clean_close_after=4 drops=3",
    "drop_after=3 drops=2",
    "half_event=5 drops=2",
    "half_event_eof=5 drops=2",
    "stream_status=502 drops=2",
    "stream_status=503",
    "crlf",
    "multiline",
    "u2028",
    "pings",
    "ids",
    "chunk=1",
    "legacy_events",
    "unknown_events",
    "error_event",
    "meter=missing",
    "meter=drops",
    "null_counts",
]


@pytest.mark.parametrize("story", BROKEN_STREAMS)
async def test_stream_that_breaks_or_varies_loses_no_message_and_no_end(
    upstream: Upstream, client: Client, story: str
) -> None:
    """Whatever the stream does, the run ends once and each of its steps is told once; progress only rises."""
    run_id = await create(client, f"never latency=60 messages=12 {story}")
    has_no_stream = story == "stream_status=503"
    values: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        values.append(progress)
        # Only then: a run that has ended is not asked for its steps as often as some of these streams break.
        if ("running" if has_no_stream else LAST_STEP) in str(message):
            upstream.simulator.finish(run_id)

    watched = await client.call_tool("watch_progress", {"id": run_id, "timeout_s": 40}, progress_callback=note)
    state = structured(watched)

    assert state["status"] == "completed"
    messages = state["untrusted_messages"]
    assert len(set(messages)) == len(messages)
    if not has_no_stream:
        assert len(messages) >= 12
    assert values == sorted(set(values))
    assert values[-1] == 100


async def test_missing_meter_is_not_invented(client: Client) -> None:
    """A made-up percentage misleads the person who waits."""
    run_id = await create(client, "latency=60 messages=12 meter=missing")
    values: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        values.append(progress)

    state = structured(await client.call_tool("watch_progress", {"id": run_id}, progress_callback=note))

    assert "percent" not in state
    assert max(values[:-1]) < 5


async def test_silent_run_is_reported_now_and_then() -> None:
    """Idle timers of clients and proxies run on when nothing happens."""
    seen: list[float] = []
    lags_s: list[float] = []

    with recorded_run() as run:
        run.streams(stream_of(events(state()), then="hang"))
        async with connected("memory", run.proxy.url) as client, anyio.create_task_group() as watching:

            async def note(progress: float, total: float | None, message: str | None) -> None:
                seen.append(time.monotonic())
                if len(seen) == 3:  # the start, the first state, and what comes though nothing happened
                    watching.cancel_scope.cancel()

            async def watch() -> None:
                await client.call_tool("watch_progress", {"id": RUN_ID}, progress_callback=note)

            watching.start_soon(watch)
            while True:
                started = time.monotonic()
                await anyio.sleep(0.1)
                lags_s.append(time.monotonic() - started - 0.1)

    assert len(seen) == 3
    assert max(later - earlier for earlier, later in pairwise(seen)) < 10 + sum(lags_s)


async def test_busy_run_is_reported_twice_a_second_at_most(upstream: Upstream, client: Client) -> None:
    """Hundreds of steps a second would flood the client."""
    run_id = await create(client, "never latency=180 messages=300")
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)
        if LAST_STEP in str(message):
            upstream.simulator.finish(run_id)

    started = time.monotonic()
    watched = structured(await client.call_tool("watch_progress", {"id": run_id}, progress_callback=note))
    took_s = time.monotonic() - started

    assert watched["status"] == "completed"
    assert 3 <= len(seen) <= 1 + took_s / 0.5


async def test_failed_run_says_why(client: Client) -> None:
    """In the watch as data; where a result was asked for, as an error."""
    run_id = await create(client, "latency=10 fails")

    watched = structured(await client.call_tool("watch_progress", {"id": run_id}))
    text = await failure(client, "get_result", {"id": run_id})

    assert watched["status"] == "failed"
    message, _, reference = watched["untrusted_error"].rpartition(" (reference ")
    assert message in text
    assert f"Reference: {reference[:-1]}" in text
    assert "Code: run_failed" in text


async def test_stopped_run_that_wants_attention_is_not_taken_for_finished(client: Client) -> None:
    """`action_required` is inactive but not final: only a person can go on, on the platform."""
    run_id = await create(client, "latency=10 status=action_required")

    watched = structured(await client.call_tool("watch_progress", {"id": run_id}))
    result = structured(await client.call_tool("get_result", {"id": run_id}))

    assert watched["status"] == "action_required"
    assert not watched["result_ready"]
    assert f"https://platform.parallel.ai/view/task-run/{run_id}" in watched["next"]
    assert not result["is_final"]
    assert "https://platform.parallel.ai" in result["next"]


async def test_cancelled_run_is_said_to_be_cancelled(client: Client) -> None:
    """Neither a failure of ours nor a result."""
    run_id = await create(client, "latency=10 status=cancelled")

    assert structured(await client.call_tool("watch_progress", {"id": run_id}))["status"] == "cancelled"
    assert "was cancelled" in await failure(client, "get_result", {"id": run_id})


async def test_unknown_run_is_an_error_at_once(client: Client) -> None:
    """Not after the whole wait."""
    started = time.monotonic()

    assert "Code: not_found" in await failure(client, "watch_progress", {"id": "trun_nobody"})
    assert time.monotonic() - started < PATIENCE_S


async def test_run_that_ends_while_the_stream_cannot_be_opened_is_found_by_its_status(upstream: Upstream) -> None:
    """The final answer never depends on the stream."""
    upstream.simulator.add_fault(Fault("GET", EVENTS, times=None, status=404, body="{}"))
    async with connected("memory", upstream.url) as client:
        run_id = await create(client, "latency=60")
        watched = structured(await client.call_tool("watch_progress", {"id": run_id, "timeout_s": 45}))

    assert watched["status"] == "completed"


async def test_leaving_a_watch_closes_the_stream_and_leaves_the_run_alone(upstream: Upstream) -> None:
    """There is no cancel upstream; the paid work goes on and its result can be fetched later."""
    async with connected("memory", upstream.url) as client:
        run_id = await create(client, "never messages=5")
        with faulty(upstream.url) as proxy:
            proxy.add(ScriptedFault(path=EVENTS, fault=stall_after(10)))  # it does not end by itself
            async with connected("memory", proxy.url) as watcher:
                await watcher.call_tool("watch_progress", {"id": run_id, "timeout_s": 1})
                await proxy.wait_for(lambda: proxy.being_answered(EVENTS) == 1)
                # It lingers for the next slice, and then goes.
                await proxy.wait_for(lambda: proxy.being_answered(EVENTS) == 0)
        upstream.simulator.finish(run_id)
        result = structured(await client.call_tool("get_result", {"id": run_id, "wait_s": 20}))

    assert result["status"] == "completed"


async def test_watchers_of_one_run_share_one_upstream_stream() -> None:
    """Also the slices of one wait; each watcher has its own place in the messages."""
    steps = [message(f"step {number}") for number in range(20)]
    all_watch = threading.Event()

    async def ends_when_all_watch(exchange: Exchange) -> Ending:
        await exchange.send(STREAM_HEAD + frame_chunk(events(state(), *steps[:10])))
        while not all_watch.is_set():  # noqa: ASYNC110 - set on another thread than the proxy's
            await anyio.sleep(0.01)
        await exchange.send(frame_chunk(events(*steps[10:], state("completed"))))
        return await exchange.hang()

    with recorded_run() as run:
        run.streams(ends_when_all_watch)
        async with connected("memory", run.proxy.url) as client:
            early = await watch_until_told(client, RUN_ID)
            watching: set[int] = set()
            finals: list[dict[str, Any]] = []

            async def watch(number: int, cursor: str) -> None:
                async def note(progress: float, total: float | None, message: str | None) -> None:
                    watching.add(number)
                    if len(watching) == 50:
                        all_watch.set()

                arguments = {"id": RUN_ID, "cursor": cursor}
                finals.append(structured(await client.call_tool("watch_progress", arguments, progress_callback=note)))

            async with anyio.create_task_group() as watchers:
                for number in range(50):
                    watchers.start_soon(watch, number, "" if number else early["cursor"])

    assert run.count("/events") == 1
    resumed = min(finals, key=lambda state: len(state["untrusted_messages"]))
    whole = max(finals, key=lambda state: len(state["untrusted_messages"]))
    assert {state["status"] for state in finals} == {"completed"}
    assert len(early["untrusted_messages"]) == 10
    assert len(whole["untrusted_messages"]) == 20
    assert early["untrusted_messages"] + resumed["untrusted_messages"] == whole["untrusted_messages"]


@pytest.mark.parametrize("tool", ["watch_progress", "view_run"])
async def test_next_slice_of_a_wait_joins_the_stream_that_the_last_one_left(tool: str) -> None:
    """A model thinks for seconds between two slices; each stream that is opened anew replays the whole run."""
    with recorded_run() as run:
        run.streams(stream_of(events(state(), message("one")), then="hang"))
        async with connected("memory", run.proxy.url) as client:
            cursor = ""
            for _ in range(3):
                arguments = {"id": RUN_ID, "cursor": cursor} | ({"timeout_s": 1} if tool == "watch_progress" else {})
                cursor = structured(await told(client, tool, arguments))["cursor"]
                await anyio.sleep(1.5)  # the pause of the model, or of the page

    assert run.count("/events") == 1


async def test_cancelled_watch_closes_its_stream_and_not_that_of_another() -> None:
    """The last one turns off the light."""
    arguments = {"id": RUN_ID, "timeout_s": 40}
    with recorded_run() as run:
        run.streams(stream_of(events(state()), then="hang"))
        async with connected("memory", run.proxy.url) as client:
            async with anyio.create_task_group() as watchers:
                watchers.start_soon(client.call_tool, "watch_progress", arguments)
                await run.proxy.wait_for(lambda: run.proxy.being_answered(EVENTS) == 1)
                async with anyio.create_task_group() as leaving:

                    async def leave(progress: float, total: float | None, message: str | None) -> None:
                        leaving.cancel_scope.cancel()

                    leaving.start_soon(partial(client.call_tool, "watch_progress", arguments, progress_callback=leave))
                await anyio.sleep(1.5)  # longer than a stream stays that nobody watches any more
                assert (run.proxy.being_answered(EVENTS), run.count("/events")) == (1, 1)
                watchers.cancel_scope.cancel()
            await run.proxy.wait_for(lambda: run.proxy.being_answered(EVENTS) == 0, timeout_s=3)


async def test_wait_for_a_result_that_cannot_be_read_ends_in_time(upstream: Upstream) -> None:
    """The bound holds for the whole call, not only for its waiting part."""
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(method="GET", path=".*/result", fault=stall(), times=None))
        async with connected("memory", proxy.url) as client:
            run_id = await create(client, "latency=6")
            started = time.monotonic()
            result = structured(await client.call_tool("get_result", {"id": run_id, "wait_s": 4}))

    assert time.monotonic() - started < 7  # the wait, the second after it that is promised, and two for the machine
    assert result["status"] == "completed"
    assert result["next"] == f'get_result(id="{run_id}")'


async def test_bound_holds_in_a_process_that_has_yet_to_open_its_first_connection(upstream: Upstream) -> None:
    """Every conversation starts a new one."""
    async with connected("memory", upstream.url) as client:
        run_id = await create(client, "never")
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(path=".*", fault=stall(), times=None))
        for timeout_s in (0, 1):
            async with connected("stdio", proxy.url) as client:
                await client.list_tools()
                started = time.monotonic()
                await failure(client, "watch_progress", {"id": run_id, "timeout_s": timeout_s})
                assert time.monotonic() - started < timeout_s + 10  # a request may take 15 s


async def test_copied_next_call_keeps_the_wait_that_the_caller_chose(client: Client) -> None:
    """A caller with a short clock must not be sent into a long wait."""
    run_id = await create(client, "never")

    state = structured(await told(client, "watch_progress", {"id": run_id, "timeout_s": 0.5}))

    assert "timeout_s=0.5" in state["next"]
