"""Watching a group: rows that end are its messages, and the API's own event ids its cursors."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

import anyio
import httpx
import pytest
from mcp import Client

from parallel_mcp.tasks.event_cursor import event_cursor
from tests.conftest import Upstream
from tests.connecting import KEY, connected, failure, structured, text_of
from tests.faults import Fault, FaultyProxy, ScriptedFault, cut_body, faulty, respond
from tests.faults.wire import Ending, Exchange
from tests.recorded_run import events, run_object, stream_of

EVENTS = r"/v1/tasks/groups/[^/]+/events"


async def new_group(upstream: Upstream, *stories: str, labels: bool = True) -> str:
    """A group with a run for each story, made without our server."""
    return (await new_group_with_runs(upstream, *stories, labels=labels))[0]


async def new_group_with_runs(upstream: Upstream, *stories: str, labels: bool = True) -> tuple[str, list[str]]:
    """As `new_group`, and its runs."""
    async with httpx.AsyncClient(base_url=upstream.url, headers={"x-api-key": KEY}, timeout=60) as http:
        group_id = str((await http.post("/v1/tasks/groups", json={})).json()["taskgroup_id"])
        return group_id, await add_runs(http, group_id, *stories, labels=labels) if stories else []


async def add_runs(http: httpx.AsyncClient, group_id: str, *stories: str, labels: bool = True) -> list[str]:
    """Add a run for each story, labelled with its row number."""

    def row(number: int, story: str) -> Mapping[str, object]:
        label = {"row": str(number)} if labels else {}
        return {"processor": "lite", "input": f"Fact {number}", "metadata": {"sim": story, **label}}

    inputs = [row(number, story) for number, story in enumerate(stories, 1)]
    answer = await http.post(f"/v1/tasks/groups/{group_id}/runs", json={"inputs": inputs})
    return answer.raise_for_status().json()["run_ids"]


async def watch(client: Client, group_id: str, **arguments: Any) -> dict[str, Any]:
    return structured(await client.call_tool("watch_progress", {"id": group_id, **arguments}))


async def watch_until_told(client: Client, group_id: str, row: int, **arguments: Any) -> dict[str, Any]:
    """Watch, again and again, until that tells of a row: on a busy machine the time may be up before."""
    with anyio.fail_after(60):
        while row not in told_rows(state := await watch(client, group_id, **arguments)):
            pass
    return state


def told_rows(state: dict[str, Any]) -> list[int]:
    """The numbers of the rows that a watch has told."""
    return [int(message.split(" ")[1]) for message in state["untrusted_messages"]]


async def test_progress_is_the_share_of_rows_that_ended_and_each_is_told_once(
    upstream: Upstream, client: Client
) -> None:
    """The person who waits for a table wants to know how much of it is there."""
    group_id = await new_group(upstream, *(f"latency={30 + 15 * row}" for row in range(10)))
    seen: list[tuple[float, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, message))

    answer = await client.call_tool("watch_progress", {"id": group_id}, progress_callback=note)
    state = structured(answer)

    assert (state["status"], state["rows"], state["counts"]) == ("completed", 10, {"completed": 10})
    assert state["percent"] == 100
    assert [message.split(" (")[0] for message in state["untrusted_messages"]] == [f"row {n}" for n in range(1, 11)]
    values = [progress for progress, _ in seen]
    assert values == sorted(set(values))
    assert values[-1] == 100
    assert any("of 10 rows ended" in (message or "") for _, message in seen)
    assert "10 rows, 10 completed" in text_of(answer)


async def test_slices_of_a_group_go_on_where_the_last_one_ended_in_any_process(upstream: Upstream) -> None:
    """The cursor is the API's own event id: no state of ours is needed."""
    group_id, runs = await new_group_with_runs(upstream, *["never"] * 12)
    told: list[str] = []
    cursor, status, streams = "", "", 0
    while status != "completed":
        for run_id in runs[4 * streams : 4 * streams + 4]:
            upstream.simulator.finish(run_id)
        with faulty(upstream.url) as proxy:
            async with connected("memory", proxy.url) as client:
                state = await watch(client, group_id, timeout_s=2, cursor=cursor)
        streams += 1
        resumed_after = [request.query for request in proxy.requests if request.path.endswith("/events")]
        assert all(("last_event_id" in query) == bool(cursor) for query in resumed_after)
        told += state["untrusted_messages"]
        cursor, status = state["cursor"], state["status"]
        assert len(cursor) <= 200
        assert "remark" not in state

    assert streams >= 3
    assert [message.split(" (")[0] for message in told] == [f"row {n}" for n in range(1, 13)]


async def test_watchers_of_a_group_share_one_stream(upstream: Upstream) -> None:
    """Those with a cursor too, as long as the stream that is open goes back far enough."""
    group_id, runs = await new_group_with_runs(upstream, *["never"] * 8)
    with faulty(upstream.url) as proxy:
        async with connected("memory", proxy.url) as client:
            upstream.simulator.finish(runs[0])
            early = await watch_until_told(client, group_id, 1, timeout_s=1)
            watching: set[int] = set()
            all_watch = anyio.Event()
            finals: list[dict[str, Any]] = []

            async def follow(number: int, cursor: str) -> None:
                async def note(progress: float, total: float | None, message: str | None) -> None:
                    watching.add(number)
                    if len(watching) == 10:
                        all_watch.set()

                arguments = {"id": group_id, "cursor": cursor}
                answer = await client.call_tool("watch_progress", arguments, progress_callback=note)
                finals.append(structured(answer))

            async with anyio.create_task_group() as watchers:
                watchers.start_soon(follow, 0, early["cursor"])
                for number in range(1, 10):
                    watchers.start_soon(follow, number, "")
                with anyio.fail_after(60):
                    await all_watch.wait()
                for run_id in runs[1:]:
                    upstream.simulator.finish(run_id)

    assert sum(request.path.endswith("/events") for request in proxy.requests) == 1
    assert {state["status"] for state in finals} == {"completed"}
    rest, *_, whole = sorted((state["untrusted_messages"] for state in finals), key=len)
    assert early["untrusted_messages"] + rest == whole


async def test_stream_of_a_group_that_breaks_is_resumed_after_its_last_event(upstream: Upstream) -> None:
    """What was received is not asked for again, and nothing between is lost."""
    group_id, runs = await new_group_with_runs(upstream, *["never"] * 8)
    for run_id in runs[:-1]:
        upstream.simulator.finish(run_id)
    states: list[dict[str, Any]] = []
    with faulty(upstream.url) as proxy:
        proxy.add(
            ScriptedFault(path=EVENTS, fault=cut_body(2_500)),
            ScriptedFault(path=EVENTS, fault=respond(503)),
            ScriptedFault(path=EVENTS, fault=cut_body(1_500, "reset")),
        )

        def queries() -> list[str]:
            return [request.query for request in proxy.requests if request.path.endswith("/events")]

        async def follow() -> None:
            states.append(await watch(client, group_id))

        async with connected("memory", proxy.url) as client, anyio.create_task_group() as watching:
            watching.start_soon(follow)
            await proxy.wait_for(lambda: len(queries()) == 4)
            upstream.simulator.finish(runs[-1])

    (state,) = states
    assert told_rows(state) == list(range(1, 9))
    assert len(queries()) == 4
    assert "last_event_id" not in queries()[0]
    assert all("last_event_id" in query for query in queries()[1:])


async def test_end_of_a_group_is_found_without_its_stream(upstream: Upstream) -> None:
    """The counts are enough to know that nothing is left to wait for."""
    group_id = await new_group(upstream, "latency=60", "latency=90")
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(path=EVENTS, fault=respond(404, b"{}"), times=None))
        async with connected("memory", proxy.url) as client:
            state = await watch(client, group_id, timeout_s=30)

    assert (state["status"], state["counts"]) == ("completed", {"completed": 2})


async def test_state_that_is_replayed_after_the_end_does_not_leave_a_group_active(upstream: Upstream) -> None:
    """A stream that is resumed may begin with what was; a watch that ended there would say that rows still run."""
    group_id = await new_group(upstream, "latency=1", "latency=1")
    counts = {"num_task_runs": 2, "task_run_status_counts": {"running": 2}, "is_active": True}
    old_state = json.dumps({"taskgroup_id": group_id, "status": counts}).encode()
    old_event = json.dumps({"type": "task_group_status", "event_id": "0", "status": counts}).encode()
    plain = {"content-type": "text/event-stream"}
    async with connected("memory", upstream.url) as client:
        assert (await watch(client, group_id))["status"] == "completed"
    with faulty(upstream.url) as proxy:
        proxy.add(
            ScriptedFault(path=f"/v1/tasks/groups/{group_id}", fault=respond(200, old_state)),
            ScriptedFault(path=EVENTS, fault=respond(200, b"data: " + old_event + b"\n\n", plain), times=None),
        )
        async with connected("memory", proxy.url) as client:
            state = await watch(client, group_id)

    assert (state["status"], state["counts"]) == ("completed", {"completed": 2})


async def test_rows_that_fail_are_counted_and_say_why(upstream: Upstream, client: Client) -> None:
    """In the API's words, so under the untrusted field only."""
    group_id = await new_group(upstream, "latency=5", "latency=10 fails", "latency=15 status=cancelled")

    answer = await client.call_tool("watch_progress", {"id": group_id})
    state = structured(answer)

    assert state["counts"] == {"completed": 1, "failed": 1, "cancelled": 1}
    assert state["percent"] == 100
    failed = next(message for message in state["untrusted_messages"] if message.startswith("row 2 "))
    assert " failed: " in failed
    marked = text_of(answer).partition("<untrusted-web-content>")[2].partition("</untrusted-web-content>")[0]
    assert failed in marked


@pytest.mark.parametrize("labels", [True, False])
async def test_cursor_that_is_none_of_the_group_counts_as_none_and_is_remarked(
    upstream: Upstream, client: Client, labels: bool
) -> None:
    """A model that mixes up two cursors must not lose rows."""
    group_id, other = [await new_group(upstream, "latency=5", "latency=9", labels=labels) for _ in range(2)]
    whole = await watch(client, group_id)
    foreign = (await watch(client, other))["cursor"]

    for cursor in ("nonsense", "../x", "x" * 5_000, foreign):
        state = await watch(client, group_id, cursor=cursor)
        assert state["untrusted_messages"] == whole["untrusted_messages"]
        assert "does not belong" in state["remark"]
    assert (await watch(client, group_id, cursor=whole["cursor"]))["untrusted_messages"] == []


GROUP_ID = "tgrp_recorded"


@contextmanager
def recorded_group(streams: Mapping[str, Fault]) -> Generator[FaultyProxy]:
    """A group that is active, and what its stream tells those who resume it after an event ("" is the beginning)."""
    status = {"num_task_runs": 9, "task_run_status_counts": {"running": 9}, "is_active": True}
    body = json.dumps({"taskgroup_id": GROUP_ID, "status": status}).encode()

    async def tell(exchange: Exchange) -> Ending:
        (after,) = parse_qs(exchange.request.query).get("last_event_id", [""])
        return await streams[after](exchange)

    with faulty("http://127.0.0.1:9") as proxy:
        proxy.add(ScriptedFault(path=EVENTS, fault=tell, times=None))
        proxy.add(ScriptedFault(path=f"/v1/tasks/groups/{GROUP_ID}", fault=respond(200, body), times=None))
        yield proxy


def ended_rows(first: int, last: int, *, with_ids: bool = True) -> bytes:
    """The events that tell that these rows have ended; their ids are the numbers of the rows."""
    return events(
        *(
            {
                "type": "task_run.state",
                "event_id": str(n) if with_ids else None,
                "run": run_object("completed", f"trun_{n}", metadata={"row": str(n)}),
            }
            for n in range(first, last + 1)
        )
    )


async def test_watch_without_a_cursor_gets_all_rows_also_beside_one_whose_events_have_no_ids() -> None:
    """A stream that was resumed cannot serve those who have nothing yet."""
    rows = stream_of(ended_rows(1, 5), then="hang")
    with recorded_group({"3": stream_of(ended_rows(4, 5, with_ids=False), then="hang"), "": rows}) as proxy:
        async with connected("memory", proxy.url) as client:
            known = str(event_cursor(GROUP_ID, "3"))
            resumed = await watch_until_told(client, GROUP_ID, 5, cursor=known, timeout_s=1)
            fresh = await watch_until_told(client, GROUP_ID, 5, timeout_s=1)

    assert told_rows(resumed) == [4, 5]
    assert resumed["cursor"] == known
    assert told_rows(fresh) == [1, 2, 3, 4, 5]


async def test_refused_cursor_of_one_watcher_says_nothing_of_anothers() -> None:
    """Each is told about its own."""
    streams = {"99": respond(422, b"{}"), "": stream_of(ended_rows(1, 5), then="hang")}
    with recorded_group(streams) as proxy:
        async with connected("memory", proxy.url) as client:
            unknown, known = event_cursor(GROUP_ID, "99"), event_cursor(GROUP_ID, "4")
            refused = await watch_until_told(client, GROUP_ID, 5, cursor=unknown, timeout_s=1)
            joined = await watch_until_told(client, GROUP_ID, 5, cursor=known, timeout_s=1)

    assert (told_rows(refused), told_rows(joined)) == ([1, 2, 3, 4, 5], [5])
    assert "does not belong" in refused["remark"]
    assert "remark" not in joined
    assert len([request for request in proxy.requests if request.path.endswith("/events")]) == 2


async def test_rows_that_are_told_again_are_said_to_be_and_nobody_loses_any() -> None:
    """The API may forget an event in the middle of a watch that began behind others."""
    streams = {
        "3": stream_of(ended_rows(4, 4)),
        "4": respond(422, b"{}"),
        "2": respond(422, b"{}"),
        "": stream_of(ended_rows(1, 6), then="hang"),
    }
    with recorded_group(streams) as proxy:
        async with connected("memory", proxy.url) as client:
            known, older = event_cursor(GROUP_ID, "3"), event_cursor(GROUP_ID, "2")
            resumed = await watch_until_told(client, GROUP_ID, 6, cursor=known, timeout_s=2)
            other = await watch_until_told(client, GROUP_ID, 6, cursor=older, timeout_s=1)

    assert sorted(told_rows(resumed)) == [1, 2, 3, 4, 5, 6]
    assert "does not belong" in resumed["remark"]
    assert {3, 4, 5, 6} <= set(told_rows(other))


async def test_group_without_runs_is_answered_at_once(upstream: Upstream, client: Client) -> None:
    """An empty group is not active: waiting for it to become so would be waiting for nothing."""
    state = await watch(client, await new_group(upstream))

    assert (state["status"], state["is_active"], state["result_ready"], state["rows"]) == ("empty", False, False, 0)


async def test_group_that_outlasts_the_wait_comes_back_with_the_next_call(upstream: Upstream, client: Client) -> None:
    """As a run does."""
    group_id = await new_group(upstream, "latency=0", "never")

    state = await watch_until_told(client, group_id, 1, timeout_s=1)

    assert (state["status"], state["is_active"], state["percent"]) == ("running", True, 50)
    assert state["next"] == f'watch_progress(id="{group_id}", timeout_s=1.0, cursor="{state["cursor"]}")'


async def test_unknown_group_is_an_error_at_once(client: Client) -> None:
    """Not after the whole wait."""
    assert "Code: not_found" in await failure(client, "watch_progress", {"id": "tgrp_nobody"})
