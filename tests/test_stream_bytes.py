"""What the bytes of an event stream may be like, as seen by somebody who watches the run."""

import json
from dataclasses import replace
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client

from parallel_mcp.api.client import ParallelApi
from parallel_mcp.api.event_stream import KEPT_EVENT_BYTES, MAX_EVENT_BYTES
from parallel_mcp.tasks.feeds import Feeds, sharing_feeds
from parallel_mcp.tasks.trace import Message
from parallel_mcp.tasks.watching import RunSnapshot, watching_run
from tests.connecting import connected, structured
from tests.faults import Fault
from tests.faults.wire import Ending, Exchange
from tests.recorded_run import (
    RUN_ID,
    Json,
    RecordedRun,
    connected_api,
    event,
    events,
    message,
    recorded_run,
    state,
    stats,
    stream_of,
)

LINE_ENDS = [b"\n", b"\r\n", b"\r"]
STEPS = ["計画 🚀", "a\u2028b\u0085c"]
MARK = b"\xef\xbb\xbf"


def recording(end: bytes = b"\n", *, mark: bool = True, run_id: str = RUN_ID) -> bytes:
    """One run's stream: byte-order mark, comments, and JSON over several lines, short enough to cut everywhere."""
    run: Json = {"type": "task_run.state", "run": {"run_id": run_id, "status": "running"}}
    end_of_run: Json = {"type": "task_run.state", "run": {"run_id": run_id, "status": "completed"}}
    lines: list[str] = []
    for content in [stats(40.0), run, *(message(step, at="t") for step in STEPS), end_of_run]:
        spread = content["type"] == "task_run.state"
        text = json.dumps(content, ensure_ascii=False, indent=0 if spread else None, separators=(",", ":"))
        lines += [*(f"data:{line}" for line in text.split("\n")), "", ": ping"]
    return (MARK if mark else b"") + end.join(line.encode() for line in [*lines, "", ""])


async def watched(client: Client, run_id: str = RUN_ID) -> dict[str, Any]:
    """What a watch from the start says at its end, but for what depends on the id and the clock."""
    answer = structured(await client.call_tool("watch_progress", {"id": run_id}))
    return {name: value for name, value in answer.items() if name not in ("id", "next", "elapsed_s")}


async def whole_answer(client: Client, run: RecordedRun) -> dict[str, Any]:
    """The answer that every form of the recording must give."""
    run.streams(stream_of(recording(mark=False)))
    answer = await watched(client)
    assert answer["status"] == "completed"
    assert answer["sources_read"] == 1
    assert answer["untrusted_messages"] == ["計画 🚀", "a bc"]
    return answer


@pytest.mark.parametrize("end", LINE_ENDS, ids=["LF", "CRLF", "CR"])
async def test_stream_in_two_pieces_is_the_same_wherever_it_is_parted(end: bytes) -> None:
    """Inside the byte-order mark, between CR and LF, inside a character. Without tools, for its many cases."""
    body = recording(end)
    parted = iter(range(1, len(body)))

    async def in_two(exchange: Exchange) -> Ending:
        at = next(parted)
        return await stream_of(body[:at], body[at:])(exchange)

    with recorded_run() as run:
        async with connected_api(run.proxy.url) as api, sharing_feeds() as feeds:
            run.streams(stream_of(recording(mark=False)))
            expected = await last_snapshot(feeds, api)
            assert [step.text for step in expected.new_messages] == STEPS
            run.streams(in_two)
            for _ in range(1, len(body)):
                assert await last_snapshot(feeds, api) == expected


async def last_snapshot(feeds: Feeds, api: ParallelApi, run_id: str = RUN_ID) -> RunSnapshot:
    """The last snapshot of a watch, with all messages that it brought."""
    messages: list[Message] = []
    last: RunSnapshot | None = None
    with anyio.fail_after(60):
        async with watching_run(feeds, api, "owner", run_id) as snapshots:
            async for last in snapshots:
                messages += last.new_messages
    assert last is not None
    return replace(last, new_messages=tuple(messages))


@pytest.mark.parametrize("mark", [True, False], ids=["mark", "no-mark"])
@pytest.mark.parametrize("end", LINE_ENDS, ids=["LF", "CRLF", "CR"])
async def test_stream_byte_by_byte_is_the_same(end: bytes, mark: bool) -> None:
    """The slowest network there is."""
    body = recording(end, mark=mark)
    with recorded_run() as run:
        async with connected("memory", run.proxy.url) as client:
            expected = await whole_answer(client, run)
            run.streams(stream_of(*(bytes([byte]) for byte in body)))
            assert await watched(client) == expected


@given(data=st.data(), end=st.sampled_from(LINE_ENDS))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_stream_in_any_pieces_is_the_same(data: st.DataObject, end: bytes) -> None:
    """Networks cut where they like."""
    body = recording(end)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=40)))
    pieces = [body[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    async def check() -> None:
        with recorded_run() as run:
            async with connected_api(run.proxy.url) as api, sharing_feeds() as feeds:
                run.streams(stream_of(recording(mark=False)), stream_of(*pieces))
                assert await last_snapshot(feeds, api) == await last_snapshot(feeds, api)

    anyio.run(check)


async def test_connection_lost_at_any_byte_loses_no_step_and_repeats_none() -> None:
    """Each run's first connection ends at another byte, orderly or not; its second one gives everything."""
    length = len(recording(b"\r\n", run_id="trun_000"))
    lost: set[str] = set()

    async def lost_at_first(exchange: Exchange) -> Ending:
        run_id = exchange.request.path.split("/")[4]
        body = recording(b"\r\n", run_id=run_id)
        if run_id in lost:
            return await stream_of(body)(exchange)
        lost.add(run_id)
        at = int(run_id.removeprefix("trun_"))
        return await stream_of(body[:at], then="cut" if at % 2 else "end")(exchange)

    with recorded_run() as run:
        async with connected_api(run.proxy.url) as api, sharing_feeds() as feeds:
            run.streams(lost_at_first)
            at_once = anyio.CapacityLimiter(100)

            async def check(at: int) -> None:
                run_id = f"trun_{at:03d}"
                async with at_once:
                    last = await last_snapshot(feeds, api, run_id)
                assert (last.run.run_id, last.run.status, last.meter) == (run_id, "completed", 40.0)
                assert [step.text for step in last.new_messages] == STEPS

            async with anyio.create_task_group() as watches:
                for at in range(length):
                    watches.start_soon(check, at)

    assert len(lost) == length


JUNK = [
    b"event: task_run.state\n\n",
    b"data: {broken\n\n",
    b"data: [1, 2]\n\n",
    b"data: 7\n\n",
    b'data: {"type": 7}\n\n',
    b'data: {"type": "task_run.state", "run": null}\n\n',
    b'data: {"type": "task_run.state", "run": {"run_id": "../../x", "status": "completed", "is_active": false}}\n\n',
    b'data: {"type": "task_run.something_new", "value": 1}\n\n',
    b"data: \xff\xfe\xc3\n\n",
    b"retry: 100\n\n",
    b"retry: soon\n\n",
    b"id: 7\n\nid: \x00\n\n",
    b"\n\n\n",
    b": comment\n\n",
    b"data\n\n",
    b"data:" + b"[" * 5_000 + b"\n\n",
    b"nonsense: x\n\n",
]


async def test_junk_between_events_costs_none_of_them() -> None:
    """Each kind of junk before, between and after the good events; and all of it, through the tool."""
    good = [state(), stats(40.0), *(message(step) for step in STEPS), state("completed")]

    def amid(junk: bytes) -> Fault:
        return stream_of(junk + b"".join(event(content) + junk for content in good))

    with recorded_run() as run:
        async with connected_api(run.proxy.url) as api, sharing_feeds() as feeds:
            run.streams(stream_of(events(*good)), *(amid(junk) for junk in JUNK))
            expected = await last_snapshot(feeds, api)
            for _ in JUNK:
                assert await last_snapshot(feeds, api) == expected
        async with connected("memory", run.proxy.url) as client:
            run.streams(amid(b"".join(JUNK)))
            answer = await watched(client)

    assert (answer["status"], answer["sources_read"]) == ("completed", 1)
    assert answer["untrusted_messages"] == ["計画 🚀", "a bc"]


def padded(content: Json, size: int) -> bytes:
    """An event of about that many bytes; the padding comes last, as an output would."""
    return event({**content, "output": {"type": "text", "content": "x" * size, "basis": []}})


async def test_step_too_long_to_keep_is_skipped_and_the_stream_goes_on() -> None:
    """It would not be shown anyway, and one event must not take the memory of a thousand."""
    long_step = message("x" * (KEPT_EVENT_BYTES + 1), at="t")
    with recorded_run() as run:
        run.streams(stream_of(events(state(), message("one"), long_step, message("two"), state("completed"))))
        async with connected("memory", run.proxy.url) as client:
            answer = await watched(client)

    assert answer["untrusted_messages"] == ["one", "two"]
    assert run.count("/events") == 1


async def test_length_of_an_event_is_counted_to_its_end_wherever_that_is_parted() -> None:
    """Events that are short enough one by one must not be taken for a long one."""
    steps = [event(message(f"{number}" * (KEPT_EVENT_BYTES // 2), at="t")) for number in range(1, 5)]
    parted = [piece for step in steps for piece in (step[:-1], step[-1:])]
    with recorded_run() as run:
        run.streams(stream_of(events(state()), *parted, event(state("completed"))))
        async with connected_api(run.proxy.url) as api, sharing_feeds() as feeds:
            last = await last_snapshot(feeds, api)

    assert [step.text[0] for step in last.new_messages] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("size", [KEPT_EVENT_BYTES - 500, KEPT_EVENT_BYTES, 3 << 20])
async def test_final_state_of_any_size_ends_the_watch_at_once(size: int) -> None:
    """Its output is not needed here. The connection stays open and the status says `running`: nothing else ends it."""
    with recorded_run() as run:
        run.streams(stream_of(events(state(), message("one")), padded(state("completed"), size), then="hang"))
        async with connected("memory", run.proxy.url) as client:
            with anyio.fail_after(30):
                answer = await watched(client)

    assert answer["status"] == "completed"
    assert answer["untrusted_messages"] == ["one"]


async def test_final_state_that_cannot_be_read_for_its_length_is_found_by_the_status() -> None:
    """The order of the names in a JSON object is not promised: here the output comes first."""
    unreadable = event({"output": "x" * KEPT_EVENT_BYTES, **state("completed")})
    with recorded_run() as run:
        run.status = "completed"
        run.streams(stream_of(events(state(), message("one")), unreadable, then="hang"))
        async with connected("memory", run.proxy.url) as client:
            with anyio.fail_after(12):
                answer = await watched(client)

    assert answer["status"] == "completed"
    assert answer["untrusted_messages"] == ["one"]


async def test_event_beyond_all_bounds_ends_the_connection_and_not_the_watch() -> None:
    """The stream is opened again, and the steps behind it are heard."""
    endless = b'data: {"type": "task_run.progress_msg.plan", "message": "' + b"x" * (MAX_EVENT_BYTES + 1)
    whole = events(state(), message("one"), message("two"), state("completed"))
    with recorded_run() as run:
        run.streams(stream_of(events(state(), message("one")), endless), stream_of(whole))
        async with connected("memory", run.proxy.url) as client:
            answer = await watched(client)

    assert answer["untrusted_messages"] == ["one", "two"]
    assert run.count("/events") == 2
