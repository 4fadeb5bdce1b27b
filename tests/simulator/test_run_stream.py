"""The event stream of a run (checklist 17 to 25)."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator

import anyio.lowlevel
import httpx
import pytest

from parallel_mcp.simulator import Simulator, SimulatorConfig, serving
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.sse import written
from parallel_mcp.simulator.stories import read_story
from tests.patience import PATIENCE_S
from tests.simulator.calls import (
    KEY,
    QUESTION,
    STILL,
    Api,
    Object,
    connected,
    ever_slower,
    read_events,
)

STATE, STATS, MESSAGE = "task_run.state", "task_run.progress_stats", "task_run.progress_msg."


def messages(events: list[Object]) -> list[Object]:
    return [event for event in events if event["type"].startswith(MESSAGE)]


def stats(events: list[Object]) -> list[Object]:
    return [event for event in events if event["type"] == STATS]


async def events_since_the_queue(processor: str, story: str = "") -> tuple[list[Object], Object]:
    """The events of a run whose stream was opened before it started; and its result."""
    events, result = list[Object](), Object()
    for speed in ever_slower(2000):
        async with connected(speed=speed) as api:
            run = await api.create(processor=processor, sim=f"latency=500 queue=400 {story}")
            events = await api.run_events(run["run_id"])
            result = await api.get(f"/v1/tasks/runs/{run['run_id']}/result")
        if events[0]["run"]["status"] == "queued":
            break
    return events, result


async def test_stream_tells_the_run_from_its_first_state_to_its_output() -> None:
    events, result = await events_since_the_queue("pro")

    first, *between, last = events
    assert between
    assert (first["type"], last["type"]) == (STATE, STATE)
    assert STATE not in [event["type"] for event in between]
    assert (first["run"]["status"], first["output"]) == ("queued", None)
    assert (last["run"]["status"], last["run"]["is_active"]) == ("completed", False)
    assert last["output"] == result["output"]
    assert [first["event_id"], last["event_id"], first["input"], last["input"]] == [None] * 4


async def test_wire_format_is_event_and_data_lines_only(api: Api) -> None:
    run = await api.create(processor="pro")

    response = await api.http.get(f"/v1/tasks/runs/{run['run_id']}/events")

    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.removesuffix("\n\n").split("\n\n")
    assert all([line.split(":")[0] for line in block.split("\n")] == ["event", "data"] for block in blocks)


async def test_messages_follow_the_research(api: Api) -> None:
    run = await api.create(processor="core", enable_events=True)

    told = messages(await api.run_events(run["run_id"]))

    kinds = [event["type"].removeprefix(MESSAGE) for event in told]
    assert kinds[:2] == ["plan", "search"]
    assert QUESTION in told[0]["message"]
    assert 'Searching for "' in told[1]["message"]
    assert any("Solid-state batteries leave the laboratory" in event["message"] for event in told)


async def test_core_run_sends_eight_to_twenty_messages(api: Api) -> None:
    runs = [await api.create(processor="core", enable_events=True) for _ in range(10)]

    counts = [len(messages(await api.run_events(run["run_id"]))) for run in runs]

    assert all(8 <= count <= 20 for count in counts)
    assert len(set(counts)) > 1


async def test_meter_rises_and_sources_are_named(api: Api) -> None:
    run = await api.create(processor="pro")

    told = stats(await api.run_events(run["run_id"]))

    meters = [event["progress_meter"] for event in told]
    assert meters == sorted(meters)
    assert all(0 <= meter <= 100 for meter in meters)
    last = told[-1]["source_stats"]
    assert last["num_sources_considered"] >= last["num_sources_read"] > 0
    assert last["sources_read_sample"][0].endswith("/solid-state-batteries-2026")


async def test_reconnecting_replays_messages_with_their_timestamps_and_the_newest_stats(api: Api) -> None:
    run = await api.create(processor="pro")
    first = await api.run_events(run["run_id"])

    again = await api.events(f"/v1/tasks/runs/{run['run_id']}/events", last_event_id="7")

    assert (again[0]["run"]["status"], again[0]["output"]) == ("completed", None)
    assert again[1:-2] == messages(first)
    assert again[-2] == stats(first)[-1]
    assert again[-1] == first[-1]


async def test_timestamps_rise_within_the_run(api: Api) -> None:
    run = await api.create(processor="pro")

    events = await api.run_events(run["run_id"])

    stamps = [run["created_at"], *(event["timestamp"] for event in messages(events)), events[-1]["run"]["modified_at"]]
    assert stamps == sorted(stamps)


async def test_failed_run_ends_its_stream_with_the_error(api: Api) -> None:
    run = await api.create(processor="pro", sim="fails")

    last = (await api.run_events(run["run_id"]))[-1]

    assert (last["run"]["status"], last["output"]) == ("failed", None)
    assert last["run"]["error"]["message"]


@pytest.mark.parametrize(
    ("processor", "members", "talks"),
    [
        ("lite", {}, False),
        ("lite", {"enable_events": True}, False),
        ("base", {"enable_events": True}, True),
        ("core", {}, False),
        ("core", {"enable_events": True}, True),
        ("pro", {}, True),
        ("pro-fast", {}, True),
        ("ultra", {"enable_events": False}, False),
    ],
)
async def test_who_sends_messages(api: Api, processor: str, members: Object, talks: bool) -> None:
    run = await api.create(processor=processor, **members)

    events = await api.run_events(run["run_id"])

    assert bool(messages(events)) == talks
    assert talks or len(stats(events)) <= 2


async def test_story_sets_the_number_of_messages(api: Api) -> None:
    run = await api.create(processor="lite", enable_events=True, sim="messages=40")

    told = messages(await api.run_events(run["run_id"]))

    assert len(told) == 40
    assert len({(event["type"], event["timestamp"], event["message"]) for event in told}) == 40


async def test_stream_closes_after_570_seconds_without_a_last_state() -> None:
    async with connected(speed=20_000) as api:
        run = await api.create(processor="pro", sim="never latency=100")
        events = await api.run_events(run["run_id"])

        assert [event["type"] for event in events].count(STATE) == 1
        assert (await api.run(run["run_id"]))["is_active"]


async def test_finished_early_run_tells_only_what_had_happened() -> None:
    async with connected(speed=STILL) as api:
        run = await api.create(processor="ultra8x", sim="never")
        api.simulator.finish(run["run_id"])
        events = await api.run_events(run["run_id"])

    assert events[-1]["run"]["status"] == "completed"
    assert messages(events) == []


async def test_legacy_path_gives_the_same_stream(api: Api) -> None:
    run = await api.create(processor="pro")
    events = await api.run_events(run["run_id"])
    again = await api.run_events(run["run_id"])

    legacy = await api.events(f"/v1beta/tasks/runs/{run['run_id']}/events")

    assert legacy == again
    assert legacy[-1] == events[-1]


def test_events_arrive_while_the_run_goes_on() -> None:
    """On a socket, the first messages come long before the end: here there is none."""
    simulator = Simulator(SimulatorConfig())
    with serving(simulator) as url, httpx.Client(base_url=url, headers=KEY, timeout=PATIENCE_S) as http:
        body = {"input": QUESTION, "processor": "pro", "metadata": {"sim": "never latency=2 queue=0 messages=50"}}
        run_id = http.post("/v1/tasks/runs", json=body).json()["run_id"]
        with http.stream("GET", f"/v1/tasks/runs/{run_id}/events") as stream:
            names = [line for line in itertools.islice(stream.iter_lines(), 9) if line.startswith("event")]
            still_running = http.get(f"/v1/tasks/runs/{run_id}").json()["is_active"]

    assert still_running
    assert names[0] == "event: task_run.state"
    assert names[1].startswith("event: task_run.progress_msg.")


async def test_story_can_withhold_the_trace_once_the_run_has_ended(api: Api) -> None:
    run = await api.create(processor="pro", sim="never latency=1 no_trace_after_end")
    live = await api.run_events(run["run_id"])
    api.simulator.finish(run["run_id"])

    later = await api.run_events(run["run_id"])

    assert messages(live)
    assert not messages(later)
    assert [event["type"] for event in later] == [STATE, STATS, STATE]


async def test_meter_may_be_missing_or_fall() -> None:
    missing, _ = await events_since_the_queue("pro", "meter=missing")
    falling, _ = await events_since_the_queue("ultra", "meter=drops")

    without = stats(missing)
    meters = [event["progress_meter"] for event in stats(falling)]

    assert without
    assert not any("progress_meter" in event for event in without)
    assert any(later < earlier for earlier, later in itertools.pairwise(meters))


async def test_counts_may_be_null(api: Api) -> None:
    run = await api.create(processor="pro", sim="null_counts")

    told = stats(await api.run_events(run["run_id"]))

    assert {count for event in told for count in event["source_stats"].values()} == {None}


@pytest.mark.parametrize(
    ("story", "kind"),
    [
        ("legacy_events", "task_run.progress_msg.tool"),
        ("legacy_events", "task_run.progress_msg.extract"),
        ("unknown_events", "task_run.something_new"),
        ("error_event", "error"),
    ],
)
async def test_unusual_events_come_midway_and_the_run_completes(api: Api, story: str, kind: str) -> None:
    run = await api.create(processor="pro", sim=story)

    events = await api.run_events(run["run_id"])

    assert kind in [event["type"] for event in events]
    assert events[-1]["run"]["status"] == "completed"


async def test_line_separators_reach_the_reader_unharmed(api: Api) -> None:
    run = await api.create(processor="pro", sim="u2028")

    response = await api.http.get(f"/v1/tasks/runs/{run['run_id']}/events")

    assert "\u2028\u0085" in response.text
    assert all("\u2028" in event["message"] for event in messages(read_events(response)))


async def test_client_that_leaves_amid_small_pieces_holds_nobody_up() -> None:
    """Each gives way: what is written to a connection that is gone would never have to wait by itself."""
    turns = 0
    pieces: list[bytes] = []

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async def one() -> AsyncGenerator[JsonObject]:
        yield {"type": STATE, "output": "x" * 1_000}

    async with anyio.create_task_group() as others:
        others.start_soon(take_turns)
        pieces += [piece async for piece in written(one(), read_story("chunk=1"), breaks=False)]
        others.cancel_scope.cancel()

    assert len(pieces) > 1_000
    assert turns >= len(pieces) - 1
