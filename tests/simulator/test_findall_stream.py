"""The event stream of FindAll runs: the whole log, resumable, with heartbeats (checklist 36)."""

from __future__ import annotations

import itertools

import pytest

from parallel_mcp.simulator import ConnectionDropped
from tests.simulator.calls import STILL, Api, Object, connected, ever_slower

STATUS = "findall.status"


def statuses(events: list[Object]) -> list[str]:
    """Return the statuses told, each once: heartbeats repeat them."""
    told = [event["data"]["status"]["status"] for event in events if event["type"] == STATUS]
    return [status for status, _ in itertools.groupby(told)]


def without_heartbeats(events: list[Object]) -> list[Object]:
    """Leave out what the log does not hold: their ids lie between those of its entries."""
    entry = int(events[0]["event_id"], 16) % 4096
    return [event for event in events if int(event["event_id"], 16) % 4096 == entry]


async def test_stream_tells_the_run_from_its_beginning_to_its_end(api: Api) -> None:
    path = await api.findall()

    events = await api.events(f"{path}/events")

    assert statuses(events) == ["queued", "running", "completed"]
    assert events[-1]["data"] == await api.get(path)
    told = [event["data"] for event in events if event["type"].startswith("findall.candidate.")]
    assert {candidate["candidate_id"]: candidate for candidate in told} == {
        candidate["candidate_id"]: candidate for candidate in (await api.get(f"{path}/result"))["candidates"]
    }


async def test_every_candidate_is_generated_before_it_is_judged(api: Api) -> None:
    events = await api.events(f"{await api.findall(match_limit=40)}/events")

    seen: dict[str, list[str]] = {}
    for event in events:
        if event["type"].startswith("findall.candidate."):
            assert event["type"] == f"findall.candidate.{event['data']['match_status']}"
            seen.setdefault(event["data"]["candidate_id"], []).append(event["data"]["match_status"])
    assert {tuple(steps) for steps in seen.values()} == {
        ("generated", "matched"),
        ("generated", "unmatched"),
        ("generated", "discarded"),
    }


async def test_ids_rise_and_resume_behind_what_was_seen(api: Api) -> None:
    path = await api.findall()
    events = without_heartbeats(await api.events(f"{path}/events"))
    ids = [int(event["event_id"], 16) for event in events]

    rest = await api.events(f"{path}/events", last_event_id=events[4]["event_id"])

    assert ids == sorted({*ids})
    assert rest == events[5:]


async def test_nothing_is_left_behind_the_last_event_of_a_run_that_has_ended(api: Api) -> None:
    path = await api.findall()
    await api.events(f"{path}/events")
    last = (await api.get(f"{path}/result"))["last_event_id"]

    assert await api.events(f"{path}/events", last_event_id=last) == []


async def test_heartbeat_repeats_the_status_and_resumes_where_it_stands() -> None:
    events, resumed = list[Object](), list[Object]()
    for speed in ever_slower(500):
        async with connected(speed=speed) as api:
            path = await api.findall("never candidates=0 queue=0")
            events = await api.events(f"{path}/events", timeout=200 / speed)
            resumed = await api.events(f"{path}/events", last_event_id=events[-1]["event_id"], timeout=0)
        if len(events) >= 4:
            break

    beats = events[2:]
    assert statuses(events) == ["queued", "running"]
    assert 2 <= len(beats) <= 20
    assert len({event["event_id"] for event in events}) == len(events)
    assert resumed == []


async def test_timeout_ends_the_stream_while_the_run_goes_on() -> None:
    async with connected(speed=STILL) as api:
        path = await api.findall("never")
        events = await api.events(f"{path}/events", timeout=0.01)
        run = await api.get(path)

    assert statuses(events) == ["queued"]
    assert run["status"]["is_active"]


async def test_stream_ends_as_soon_as_the_run_is_ended_from_outside() -> None:
    async with connected(speed=STILL) as api:
        path = await api.findall("never")
        run_id = path.rpartition("/")[2]
        events = await api.events_during(f"{path}/events", lambda: api.simulator.finish(run_id))

    assert statuses(events) == ["queued", "completed"]


async def test_stream_breaks_as_the_story_says_and_can_be_resumed(api: Api) -> None:
    path = await api.findall("drop_after=3 drops=1")

    with pytest.raises(ConnectionDropped):
        await api.events(f"{path}/events")
    events = await api.events(f"{path}/events")

    assert statuses(events)[-1] == "completed"


async def test_stream_may_be_refused_with_an_html_page(api: Api) -> None:
    path = await api.findall("stream_status=502 drops=1")

    refused = await api.http.get(f"{path}/events")

    assert (refused.status_code, refused.text[:6]) == (502, "<html>")
    assert await api.events(f"{path}/events")
