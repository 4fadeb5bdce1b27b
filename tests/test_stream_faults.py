"""A watch whose event stream fails, falls silent, floods or never ends a line: it ends right all the same."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client

from parallel_mcp.api.client import ParallelApi
from parallel_mcp.tasks.feed import Pace
from parallel_mcp.tasks.feeds import Feeds, sharing_feeds
from parallel_mcp.tasks.run_feed import RunFeed
from parallel_mcp.tasks.trace import FORGOTTEN, KEPT_MESSAGES, Message, Replay, Trace
from tests.conftest import Upstream
from tests.connecting import KEY, connected, create, failure, http_client, structured, text_of
from tests.faults import Fault, ScriptedFault, cut_body, faulty, replace_body, reset_after_accept, respond, stall
from tests.faults.wire import LAST_CHUNK, Ending, Exchange, frame_chunk
from tests.recorded_run import (
    RUN_ID,
    STREAM_HEAD,
    connected_api,
    event,
    events,
    message,
    recorded_run,
    state,
    stats,
    stream_of,
)

EVENTS = r"/v1/tasks/runs/[^/]+/events"
HTML = {"content-type": "text/html"}
LAST_STEP = "Writing the answer."  # of every simulated run that tells steps


async def watch(client: Client, run_id: str = RUN_ID, **arguments: Any) -> dict[str, Any]:
    """The structured half of a watch."""
    return structured(await client.call_tool("watch_progress", {"id": run_id, **arguments}))


@asynccontextmanager
async def meanwhile(*tasks: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[None]:
    """Let tasks run while the block does."""
    async with anyio.create_task_group() as running:
        for task in tasks:
            running.start_soon(task)
        yield
        running.cancel_scope.cancel()


# ---- breaking


async def test_stream_closed_early_three_times_gives_one_answer_over_four_connections() -> None:
    """Each connection replays from the start; the watcher is told each step once, and progress only rises."""
    steps = [message(f"step {number}") for number in range(6)]
    early = [events(state(), *steps[:count], stats(10.0 * count)) for count in (2, 2, 4)]
    whole = events(state(), *steps, stats(90.0), state("completed"))
    values: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        values.append(progress)

    with recorded_run() as run:
        run.streams(*(stream_of(part) for part in early), stream_of(whole))
        async with connected("memory", run.proxy.url) as client:
            answer = await client.call_tool("watch_progress", {"id": RUN_ID}, progress_callback=note)

    assert structured(answer)["status"] == "completed"
    assert structured(answer)["untrusted_messages"] == [f"step {number}" for number in range(6)]
    assert run.count("/events") == 4
    assert values == sorted(set(values))
    assert values[-1] == 100


def cut_in_the_last_event(then: Literal["close", "reset"]) -> Fault:
    """The connection is lost in the middle of the JSON of the final state."""

    async def fault(exchange: Exchange) -> Ending:
        async with exchange.forward() as answer:
            await exchange.send(answer.head.raw)
            async for piece in answer.pieces():
                at = piece.find(b'"status":"completed"')
                if at >= 0:
                    await exchange.send(answer.frame(piece[: at + 10]))
                    return then
                await exchange.send(answer.frame(piece))
        raise ValueError("the run did not complete on this connection")

    return fault


BROKEN: dict[str, Fault] = {
    "cut in the last event": cut_in_the_last_event("close"),
    "reset in the last event": cut_in_the_last_event("reset"),
    "cut after the headers": cut_body(0),
    "reset before the headers": reset_after_accept(),
    "500": respond(500, b'{"error": {"message": "oops", "ref_id": "r1"}}'),
    "503": respond(503, b""),
    "HTML 502": respond(502, b"<html><title>Bad gateway</title></html>", HTML),
    "404": respond(404, b'{"error": {"message": "Run id not found"}}'),
    "405": respond(405, b"{}"),
    "JSON instead": replace_body(b'{"status": "running"}'),
    "HTML with status 200": respond(200, b"<html></html>", HTML),
}


@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
@pytest.mark.parametrize("broken", BROKEN)
async def test_broken_stream_ends_with_the_result_of_the_run(
    upstream: Upstream, broken: str, times: int | None
) -> None:
    """Once: no step is missing. Always: the status and the result do without the stream."""
    with faulty(upstream.url) as proxy:
        async with connected("memory", proxy.url) as client, connected("memory", upstream.url) as unhindered:
            run_id = await create(client, "never latency=40 messages=6")
            proxy.add(ScriptedFault(path=EVENTS, fault=BROKEN[broken], times=times))
            all_told = anyio.Event()
            awaited = LAST_STEP if "last event" in broken else "running"

            async def note(progress: float, total: float | None, message: str | None) -> None:
                if awaited in str(message):
                    all_told.set()

            async def complete() -> None:
                await all_told.wait()
                await anyio.sleep(1)  # the last of its steps comes within 40 s, at 60 times the speed
                upstream.simulator.finish(run_id)

            async with meanwhile(complete):
                watched = structured(await client.call_tool("watch_progress", {"id": run_id}, progress_callback=note))
            result = structured(await client.call_tool("get_result", {"id": run_id}))
            expected = structured(await unhindered.call_tool("get_result", {"id": run_id}))
            steps = (await watch(unhindered, run_id))["untrusted_messages"]

    assert watched["status"] == "completed"
    assert result == expected
    assert len(steps) == 6
    assert watched["untrusted_messages"] == (steps if times or "last event" in broken else [])


async def test_stream_cut_while_an_ended_run_is_replayed_is_read_again() -> None:
    """The state of an ended run comes first: knowing it must not cost the steps behind it."""
    told = events(state("completed"), message("one"))
    with recorded_run() as run:
        run.status = "completed"
        whole = told + events(message("two"), state("completed"))
        run.streams(stream_of(told, then="cut"), stream_of(whole))
        async with connected("memory", run.proxy.url) as client:
            assert (await watch(client))["untrusted_messages"] == ["one", "two"]


async def test_orderly_end_of_a_long_lived_stream_is_followed_by_the_next_at_once() -> None:
    """The API ends each after 570 s: a run of two hours needs thirteen, each with news, and no pauses that grow."""
    steps = [message(f"step {number}") for number in range(13)]
    parts = [events(state(), *steps[: count + 1]) for count in range(13)]
    with recorded_run() as run:
        run.streams(*(stream_of(part) for part in parts), stream_of(parts[-1] + event(state("completed"))))
        async with connected("memory", run.proxy.url) as client:
            started = time.monotonic()
            answer = await watch(client)

    assert [*answer["untrusted_messages"]] == [f"step {number}" for number in range(13)]
    assert run.count("/events") == 14
    assert time.monotonic() - started < 40  # at most half a second each; growing pauses would take minutes


async def test_error_events_in_masses_do_not_become_requests_in_masses() -> None:
    """An error leaves open what became of the run; asking a thousand times does not tell more."""
    errors = event({"type": "error", "error": {"ref_id": "r", "message": "a tool failed"}}) * 1_000
    with recorded_run() as run:
        run.streams(stream_of(events(state()), errors, events(message("one"), state("completed"))))
        async with connected("memory", run.proxy.url) as client:
            assert (await watch(client))["untrusted_messages"] == ["one"]

    assert 1 <= run.count(RUN_ID) < 20


# ---- silence


async def test_run_that_completes_behind_a_silent_stream_is_answered_within_25_seconds(upstream: Upstream) -> None:
    """With default settings: a connection that died somewhere on the way looks just like a run that thinks."""

    async def one_event_then_silence(exchange: Exchange) -> Ending:
        async with exchange.forward() as answer:
            await exchange.send(answer.head.raw)
            async for piece in answer.pieces():
                await exchange.send(answer.frame(piece))
                break
            return await exchange.hang()

    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(path=EVENTS, fault=one_event_then_silence))
        async with connected("memory", proxy.url) as client:
            run_id = await create(client, "never messages=2")
            completed_at = time.monotonic()

            async def complete() -> None:
                nonlocal completed_at
                await proxy.wait_for(lambda: any(request.path.endswith("/events") for request in proxy.requests))
                await anyio.sleep(0.5)
                upstream.simulator.finish(run_id)
                completed_at = time.monotonic()

            async with meanwhile(complete):
                answer = await watch(client, run_id, timeout_s=45)
            waited_s = time.monotonic() - completed_at

    assert answer["status"] == "completed"
    assert waited_s < 25


@pytest.mark.parametrize("fault", [stall(), stream_of(then="hang")], ids=["without headers", "without events"])
async def test_stream_that_says_nothing_at_all_is_not_waited_for(upstream: Upstream, fault: Fault) -> None:
    """The state as it is comes first and at once: where it does not, the status has it."""
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(path=EVENTS, fault=fault, times=None))
        async with connected("memory", proxy.url) as client:
            run_id = await create(client, "latency=1")
            started = time.monotonic()
            assert (await watch(client, run_id))["status"] == "completed"

    assert time.monotonic() - started < 15  # what a silence later in the stream may take


QUICK = Pace(
    first_event_s=0.05,
    silence_s=0.1,
    silent_connection_s=0.3,
    last_words_s=20,
    pause_s=0.02,
    poll_s=0.02,
    max_poll_s=0.2,
    tick_s=0.01,
)


ATTENTIVE = replace(QUICK, silent_connection_s=4)
"""Looks several times before it gives a connection up, also on a busy machine."""


UNTROUBLED = replace(QUICK, first_event_s=60, silence_s=60, silent_connection_s=60)
"""Takes no halt of a busy machine for a silence."""


async def followed(url: str, pace: Pace) -> RunFeed:
    """A feed that has followed the recorded run to its end, at a pace that a test can wait for."""
    async with connected_api(url) as api, sharing_feeds(pace) as feeds:
        return await followed_by(feeds, api)


async def followed_by(feeds: Feeds, api: ParallelApi, owner: str = "owner") -> RunFeed:
    """As `followed`, by feeds that go on afterwards."""
    async with feeds.of_run(api, owner, RUN_ID) as feed:
        with anyio.fail_after(20):
            while not feed.ended:
                await feed.changed.wait()
    assert feed.failure is None
    return feed


async def test_final_state_ends_the_watch_at_once_though_the_stream_stays_open() -> None:
    """Nobody has to wait for a server to hang up."""
    with recorded_run() as run:
        run.streams(stream_of(events(state(), message("one"), state("completed")), then="hang"))
        feed = await followed(run.proxy.url, replace(UNTROUBLED, last_words_s=60))

    assert [step.text for step in feed.trace.since(0)] == ["one"]
    assert run.count(RUN_ID) == 0


async def test_long_replay_of_an_ended_run_is_heard_out() -> None:
    """The state comes first: what takes longer than silence is allowed to is still no silence."""
    steps = [message(f"step {number}") for number in range(60)]

    async def slowly(exchange: Exchange) -> Ending:
        await exchange.send(STREAM_HEAD)
        for content in [state("completed"), *steps, state("completed")]:
            await exchange.send(frame_chunk(event(content)))
            await anyio.sleep(0.1)
        return await exchange.hang()

    with recorded_run() as run:
        run.streams(slowly)
        patience = Pace(first_event_s=4, silence_s=4, silent_connection_s=4, last_words_s=4)
        feed = await followed(run.proxy.url, patience)

    assert len(feed.trace) == 60
    assert run.count("/events") == 1


async def test_silent_connection_is_replaced_and_steps_it_missed_are_heard() -> None:
    """Half-open connections never break by themselves."""
    whole = events(state(), message("one"), message("two"), state("completed"))
    with recorded_run() as run:
        run.streams(stream_of(events(state(), message("one")), then="hang"), stream_of(whole))
        feed = await followed(run.proxy.url, ATTENTIVE)

    assert [step.text for step in feed.trace.since(0)] == ["one", "two"]
    assert run.count("/events") == 2
    assert run.count(RUN_ID) >= 3


async def test_run_that_ends_while_its_stream_says_to_wait_is_found_by_the_status() -> None:
    """Only the stream is overloaded: the status is read meanwhile."""
    with recorded_run() as run:
        run.streams(respond(503, headers={"retry-after": "60"}))
        async with anyio.create_task_group() as following:

            async def follow() -> None:
                feed = await followed(run.proxy.url, QUICK)
                assert feed.run is not None
                assert feed.run.status == "completed"

            following.start_soon(follow)
            await run.proxy.wait_for(lambda: run.count("/events") == 1 and run.count(RUN_ID) >= 2)
            run.status = "completed"


async def test_question_for_the_status_ends_with_the_connection_whose_silence_it_was_about() -> None:
    """Its answer may take long to come, and the stream may tell the end meanwhile."""
    with recorded_run() as run:

        async def silent_until_asked(exchange: Exchange) -> Ending:
            await run.proxy.wait_for(lambda: run.count(RUN_ID) == 1)
            return await stream_of(events(state(), state("completed")))(exchange)

        run.proxy.add(ScriptedFault(path=EVENTS, fault=silent_until_asked))
        run.proxy.add(ScriptedFault(path=".*", fault=stream_of(then="hang"), times=None))
        async with connected_api(run.proxy.url) as api, sharing_feeds(replace(QUICK, silent_connection_s=60)) as feeds:
            await followed_by(feeds, api)
            await run.proxy.wait_for(lambda: run.proxy.open_connections == 0)

    assert run.count(RUN_ID) == run.count("/events") == 1


async def test_nothing_runs_while_nothing_is_watched_and_silences_are_noticed_again_afterwards() -> None:
    """A server waits for days between two watches."""
    with recorded_run() as run:
        async with connected_api(run.proxy.url) as api, sharing_feeds(ATTENTIVE) as feeds:
            idle = asyncio.all_tasks()
            for owner in ("one", "another"):  # who saw the end does not look for it again
                run.status = "running"
                silent = stream_of(events(state()), then="hang")
                run.streams(silent, stream_of(events(state(), state("completed"))))
                asked_before = run.count(RUN_ID)
                await followed_by(feeds, api, owner)
                assert run.count(RUN_ID) - asked_before >= 3
                with anyio.fail_after(20):
                    for task in asyncio.all_tasks() - idle:
                        await asyncio.wait([task])


@pytest.mark.parametrize("fruitless", [respond(503), stream_of(events(state()), then="hang")], ids=["503", "silent"])
async def test_stream_is_tried_again_between_polls_and_taken_up_where_it_comes_back(fruitless: Fault) -> None:
    """After three connections without news the status is polled meanwhile, ever less often."""
    steps = [message(f"step {number}") for number in range(3)]
    whole = events(state(), *steps, state("completed"))
    with recorded_run() as run:
        run.streams(*[fruitless] * 4, stream_of(whole))
        feed = await followed(run.proxy.url, replace(UNTROUBLED, silent_connection_s=0.1))
        paths = [request.path.rpartition("/")[2] for request in run.proxy.requests]

    assert [step.text for step in feed.trace.since(0)] == ["step 0", "step 1", "step 2"]
    assert run.count("/events") == 5
    polls = [len(list(group)) for path, group in itertools.groupby(paths) if path == RUN_ID]
    assert max(polls[:2]) < 4 <= polls[-1]


async def test_run_that_ends_while_polled_is_found_and_its_steps_are_heard() -> None:
    """The stream is tried once more for the steps that nobody has heard."""
    with recorded_run() as run:
        last = stream_of(events(state("completed"), message("one"), state("completed")))

        async def completing(exchange: Exchange) -> Ending:
            run.status = "completed"
            return await respond(503)(exchange)

        run.streams(respond(503), respond(503), respond(503), completing, last)
        feed = await followed(run.proxy.url, QUICK)

    assert feed.run is not None
    assert feed.run.status == "completed"
    assert [step.text for step in feed.trace.since(0)] == ["one"]


async def test_connection_is_never_older_than_its_bound() -> None:
    """One that always has something to say would otherwise be kept for ever."""

    async def talking(exchange: Exchange) -> Ending:
        await exchange.send(STREAM_HEAD + frame_chunk(event(state())))
        for number in itertools.count():
            await exchange.send(frame_chunk(event(stats(50.0, number))))
            await anyio.sleep(0.02)
        raise AssertionError

    assert Pace().connection_s == 600
    with recorded_run() as run:
        run.streams(talking, stream_of(events(state(), state("completed"))))
        feed = await followed(run.proxy.url, replace(UNTROUBLED, connection_s=0.5))

    assert feed.run is not None
    assert feed.run.status == "completed"
    assert run.count("/events") >= 2


async def test_refused_stream_is_not_asked_for_again_before_the_time_it_named() -> None:
    """`Retry-After` holds for streams too."""
    refusal = respond(429, b"{}", {"retry-after": "1"})
    with recorded_run() as run:
        run.streams(refusal, stream_of(events(state(), state("completed"))))
        started = time.monotonic()
        await followed(run.proxy.url, QUICK)

    assert time.monotonic() - started >= 1


async def test_watchers_that_are_told_to_wait_together_do_not_come_back_together() -> None:
    """A service that is overloaded, and says so to all, would be overloaded again at one moment."""
    asked_at: dict[str, list[float]] = {}

    async def refuse(exchange: Exchange) -> Ending:
        asked_at.setdefault(exchange.request.path, []).append(time.monotonic())
        return await respond(429, b"{}", {"retry-after": "60"})(exchange)

    async def watch_twice(feeds: Feeds, api: ParallelApi, run_id: str) -> None:
        async with feeds.of_run(api, "owner", run_id):
            await run.proxy.wait_for(lambda: run.count(f"{run_id}/events") >= 2)

    with recorded_run() as run:
        run.streams(refuse)
        pace = replace(QUICK, max_pause_s=1.0)
        async with (
            connected_api(run.proxy.url) as api,
            sharing_feeds(pace) as feeds,
            anyio.create_task_group() as watching,
        ):
            for number in range(10, 30):
                watching.start_soon(watch_twice, feeds, api, f"{RUN_ID}{number}")

    pauses_s = [second - first for first, second, *_ in asked_at.values()]
    assert min(pauses_s) >= 1
    assert max(pauses_s) - min(pauses_s) > 0.1


# ---- too much


@contextmanager
def server_process(base_url: str) -> Generator[tuple[str, int]]:
    """A server of its own, over HTTP: its address and process id."""
    command = [sys.executable, "-W", "error", "-m", "parallel_mcp", "serve", "--http", "--port", "0"]
    environment = {**os.environ, "PARALLEL_BASE_URL": base_url, "PARALLEL_MCP_LEDGER": "memory"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            first_line = cast("IO[str]", process.stderr).readline()
            yield first_line.split()[-1].removesuffix("/mcp"), process.pid
        finally:
            process.kill()


def peak_mib(pid: int) -> float:
    """The most memory that a process has had so far."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("this system does not tell how much memory a process has had")
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 1024


class OtherCaller:
    """Asks for a status ten times a second, and notes how long each answer takes."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.waits_s: list[float] = []

    async def keep_asking(self) -> None:
        async with http_client(self._address, "key-of-another") as client:
            while True:
                started = time.monotonic()
                structured(await client.call_tool("get_status", {"ids": ["trun_other"]}))
                self.waits_s.append(time.monotonic() - started)
                await anyio.sleep(0.1)

    def usual_wait_s(self) -> float:
        """What nine of ten answers took at most."""
        return sorted(self.waits_s)[len(self.waits_s) * 9 // 10]


@dataclass
class Neighbours:
    """A caller of a server under strain, and one of a server with nothing else to do, on the same machine."""

    strained: OtherCaller
    quiet: OtherCaller

    def assert_served_alike(self) -> None:
        """The machine may be busy for both; the strain must not add half a second, nor leave out most answers."""
        assert len(self.strained.waits_s) >= len(self.quiet.waits_s) / 4
        assert self.strained.usual_wait_s() < 0.5 + 3 * self.quiet.usual_wait_s()


@asynccontextmanager
async def neighbours(strained: str, quiet: str) -> AsyncGenerator[Neighbours]:
    """Two who keep asking while the block runs, and each of whom has had an answer before it ends."""
    both = Neighbours(OtherCaller(strained), OtherCaller(quiet))
    async with meanwhile(both.strained.keep_asking, both.quiet.keep_asking):
        yield both
        with anyio.fail_after(20):
            while not (both.strained.waits_s and both.quiet.waits_s):  # noqa: ASYNC110
                await anyio.sleep(0.1)


def flood(count: int, seconds: float) -> Fault:
    """That many steps in that time, and the end."""
    a_time = count // 500

    async def fault(exchange: Exchange) -> Ending:
        await exchange.send(STREAM_HEAD + frame_chunk(event(state())))
        started = time.monotonic()
        for first in range(0, count, a_time):
            batch = (event(message(f"step {number}")) for number in range(first, first + a_time))
            await exchange.send(b"".join(frame_chunk(step) for step in batch))
            await anyio.sleep(max(0, started + seconds * first / count - time.monotonic()))
        await exchange.send(frame_chunk(event(state("completed"))) + LAST_CHUNK)
        return "close"

    return fault


async def test_fifty_thousand_events_in_five_seconds_starve_nobody() -> None:
    """Neither the watcher with notifications, nor another caller of the same server."""
    notified_at: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        notified_at.append(time.monotonic())

    with (
        recorded_run() as run,
        server_process(run.proxy.url) as (address, pid),
        server_process(run.proxy.url) as (elsewhere, _),
    ):
        run.streams(flood(50_000, seconds=5))
        async with http_client(address, KEY) as client:
            await client.call_tool("get_status", {"ids": ["trun_other"]})
            before_mib = peak_mib(pid)
            started = time.monotonic()
            async with neighbours(address, elsewhere) as others:
                answer = await client.call_tool("watch_progress", {"id": RUN_ID}, progress_callback=note)
                took_s = time.monotonic() - started
        grown_mib = peak_mib(pid) - before_mib

    assert structured(answer)["status"] == "completed"
    assert structured(answer)["untrusted_messages"][-1] == "step 49999"
    assert "49900 older ones left out" in text_of(answer)
    assert 2 <= len(notified_at) <= 1 + took_s / 0.5
    others.assert_served_alike()
    assert grown_mib < 50


def endless_line(beginning: bytes, mebibytes: int) -> Fault:
    """A line that does not end, for as long as anybody reads it."""

    async def fault(exchange: Exchange) -> Ending:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + event(state()) + beginning)
        for _ in range(mebibytes):
            await exchange.send(b"x" * (1 << 20))
        return "close"

    return fault


@pytest.mark.parametrize(
    "beginning",
    [b'data: {"type": "task_run.state", "output": "', b'data: {"type": "task_run.progress_msg.plan", "message": "'],
    ids=["state", "step"],
)
async def test_line_of_300_mebibytes_costs_less_than_100_and_harms_no_other_caller(beginning: bytes) -> None:
    """The watch goes on without the stream, to the end of the run."""
    with (
        recorded_run() as run,
        server_process(run.proxy.url) as (address, pid),
        server_process(run.proxy.url) as (elsewhere, _),
    ):
        run.streams(endless_line(beginning, 300))

        async def complete() -> None:
            await run.proxy.wait_for(lambda: run.count("/events") >= 3)
            run.status = "completed"

        async with http_client(address, KEY) as client:
            await client.call_tool("get_status", {"ids": ["trun_other"]})
            before_mib = peak_mib(pid)
            async with neighbours(address, elsewhere) as others, meanwhile(complete):
                answer = await watch(client)
        grown_mib = peak_mib(pid) - before_mib

    assert answer["status"] == "completed"
    assert grown_mib < 100
    others.assert_served_alike()


async def test_output_of_three_mebibytes_arrives_whole(upstream: Upstream) -> None:
    """In the stream it is passed over; in the pages of the result nothing is missing."""
    async with connected("memory", upstream.url) as client:
        run_id = await create(client, f"latency=10 size={3 << 20}", output="a very long report")
        watched = await watch(client, run_id)
        pages: list[str] = []
        cursor = ""
        while not pages or cursor:
            arguments = {"id": run_id, "max_chars": 40_000, "citations": "none", "cursor": cursor}
            page = structured(await client.call_tool("get_result", arguments))
            pages.append(page["untrusted"]["content"])
            cursor = page.get("cursor", "")
        async with connected_api(upstream.url) as api:
            output = (await api.run_result(run_id)).output

    assert watched["status"] == "completed"
    assert watched["untrusted_messages"]
    assert len("".join(pages)) >= 3 << 20
    assert "".join(pages).rstrip() == str(output.content).rstrip()


# ---- ends that are none, or no good ones


async def test_run_that_wants_attention_is_told_promptly_and_with_the_link(upstream: Upstream) -> None:
    """Waiting would help nobody: a person must look at the platform."""
    async with connected("memory", upstream.url) as client:
        started = time.monotonic()
        arguments = {"input": "x", "processor": "core-fast", "metadata": {"sim": "latency=30 status=action_required"}}
        ran = await client.call_tool("run_task", arguments)
        watched = await watch(client, structured(ran)["id"])

    assert time.monotonic() - started < 30  # each would wait for 45 s
    link = f"https://platform.parallel.ai/view/task-run/{structured(ran)['id']}"
    assert structured(ran)["status"] == watched["status"] == "action_required"
    assert not structured(ran)["is_final"]
    assert link in structured(ran)["next"]
    assert link in text_of(ran)
    assert link in watched["next"]


async def test_failed_run_gives_its_own_error_and_reference_wherever_it_is_asked_for(upstream: Upstream) -> None:
    """The reference is what the operator of the API asks for."""
    async with connected("memory", upstream.url) as client:
        ran = await failure(client, "run_task", {"input": "x", "metadata": {"sim": "latency=10 fails"}})
        run_id = await create(client, "latency=10 fails")
        watched = await watch(client, run_id)
        asked = await failure(client, "get_result", {"id": run_id})
        waited = await failure(client, "get_result", {"id": run_id, "wait_s": 5})

    assert watched["status"] == "failed"
    message, _, reference = watched["untrusted_error"].rpartition(" (reference ")
    assert reference.endswith(")")
    for text in (ran, asked, waited):
        assert message in text
        assert "Reference: " in text
        assert "Code: run_failed" in text
    assert f"Reference: {reference[:-1]}" in asked


async def test_cancelled_run_is_said_to_be_cancelled_by_run_task(upstream: Upstream) -> None:
    """Somebody stopped it on the platform; it did not fail."""
    async with connected("memory", upstream.url) as client:
        arguments = {"input": "x", "metadata": {"sim": "latency=10 status=cancelled"}}
        assert "was cancelled" in await failure(client, "run_task", arguments)


# ---- the messages of a run, however many


steps_of_a_run = st.lists(st.builds(Message, st.just("plan"), st.just(""), st.integers(0, 99).map(str)), unique=True)


@given(steps_of_a_run, st.data())
def test_replay_that_leaves_steps_out_repeats_none_and_loses_none(told: list[Message], data: st.DataObject) -> None:
    """The API may no longer replay the first ones of a long run."""
    known = Trace()
    first = Replay(known)
    for step in told[: data.draw(st.integers(0, len(told)))]:
        first.add(step)

    later = Replay(known)
    heard = len(known)
    for step in told[data.draw(st.integers(0, heard)) :]:
        later.add(step)

    assert list(known.since(0)) == told


def test_trace_keeps_places_and_cursors_of_steps_whose_text_it_dropped() -> None:
    """Memory is bounded; counts, order and cursors are those of the whole run."""
    told = [Message("plan", str(number), f"step {number}") for number in range(3 * KEPT_MESSAGES)]
    known = Trace()
    first, again = Replay(known), Replay(known)

    assert all(first.add(step) for step in told)
    assert not any(again.add(step) for step in told)
    assert len(known) == len(known.since(0)) == len(told)
    assert known.since(len(told) - 2) == tuple(told[-2:])
    assert known.since(0)[0] == FORGOTTEN
    assert known.since(2 * KEPT_MESSAGES - 1)[:2] == (FORGOTTEN, told[2 * KEPT_MESSAGES])
