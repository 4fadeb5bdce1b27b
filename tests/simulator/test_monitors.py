"""Monitors: what they are, what they see, and how it is paged (checklist 36)."""

from __future__ import annotations

import re
import time

import httpx
import pytest

from tests.simulator.calls import (
    FAST,
    KEY,
    MONITOR,
    QUESTION,
    STILL,
    Api,
    Object,
    connected,
    ever_slower,
    json_spec,
    object_schema,
)
from tests.simulator.test_runs import seconds_of

NOW = "latency=0 "
OTHER = {"x-api-key": "other"}
FIELDS = object_schema(price={"type": "number"}, maker={"type": "string"}, sold={"type": "boolean"})


async def trigger(api: Api, path: str, times: int = 1) -> None:
    for _ in range(times):
        assert (await api.http.post(f"{path}/trigger")).status_code == 204


async def events_of(api: Api, path: str, **params: object) -> list[Object]:
    return (await api.get(f"{path}/events", **params))["events"]


async def ids(api: Api, **params: object) -> list[str]:
    return [monitor["monitor_id"] for monitor in (await api.get("/v1/monitors", **params))["monitors"]]


async def test_new_monitor_is_active_and_shows_what_was_asked() -> None:
    async with connected(speed=1) as api:
        webhook = {"url": "https://hooks.example/", "event_types": ["monitor.event.detected"]}
        settings = {"query": "night trains", "include_backfill": True}
        body = MONITOR | {"webhook": webhook, "metadata": {"ticket": "7"}, "settings": settings, "processor": "base"}
        response = await api.http.post("/v1/monitors", json=body)
        monitor = response.json()
        again = await api.get(f"/v1/monitors/{monitor['monitor_id']}")

    assert response.status_code == 201
    assert re.fullmatch(r"monitor_[0-9a-f]{32}", monitor["monitor_id"])
    assert (monitor["type"], monitor["status"], monitor["frequency"]) == ("event_stream", "active", "1h")
    assert (monitor["webhook"], monitor["metadata"], monitor["processor"]) == (webhook, {"ticket": "7"}, "base")
    assert monitor["settings"] == settings | {"output_schema": None, "advanced_settings": None}
    assert (monitor["output"], monitor["last_run_at"]) == (None, None)
    assert again == monitor


async def test_monitor_executes_at_once_and_then_at_its_frequency() -> None:
    async with connected(speed=36_000) as api:
        path = await api.monitor(NOW + "events=1")
        events: list[Object] = []
        while len(events) < 3:
            events = await events_of(api, path)
        monitor = await api.get(path)

    assert len({event["event_group_id"] for event in events}) == len(events)
    waited_s = seconds_of(monitor["last_run_at"]) - seconds_of(monitor["created_at"])
    assert round(waited_s * 36_000 / 3600, 2) >= 2


async def test_trigger_executes_out_of_turn() -> None:
    async with connected(speed=1) as api:
        path = await api.monitor(NOW + "events=1")
        await trigger(api, path, 2)
        events = await events_of(api, path)

    assert len(events) == 3
    assert len({event["event_id"] for event in events}) == 3


async def test_monitor_is_still_looking_for_a_while() -> None:
    """An event is not there the moment it is asked for."""
    async with connected(speed=STILL) as api:
        path = await api.monitor("events=1")
        await trigger(api, path)
        events = await events_of(api, path)

    assert events == []


@pytest.mark.parametrize(
    ("story", "shown", "with_completions"),
    [
        ("events=0", [], ["completion", "completion"]),
        ("events=1", ["event_stream"] * 2, ["event_stream"] * 2),
        ("events=2", ["event_stream"] * 4, ["event_stream"] * 4),
        ("fails", ["error"] * 2, ["error"] * 2),
        ("never", [], []),
    ],
)
async def test_story_decides_what_is_seen(story: str, shown: list[str], with_completions: list[str]) -> None:
    async with connected(speed=1) as api:
        path = await api.monitor(NOW + story)
        await trigger(api, path)
        kinds = [event["event_type"] for event in await events_of(api, path)]
        all_kinds = [event["event_type"] for event in await events_of(api, path, include_completions=True)]

    assert (kinds, all_kinds) == (shown, with_completions)


@pytest.mark.parametrize(("backfills", "events"), [(False, 0), (True, 2)])
async def test_first_execution_finds_older_events_only_when_asked_to(backfills: bool, events: int) -> None:
    async with connected(speed=1) as api:
        path = await api.monitor(NOW, settings={"query": "coffee", "include_backfill": backfills})
        found = await events_of(api, path)

    assert len(found) == events


async def test_events_are_cited_and_do_not_repeat() -> None:
    async with connected(speed=1) as api:
        path = await api.monitor(NOW + "events=3")
        events = await events_of(api, path)

    assert len({event["output"]["content"] for event in events}) == 3
    for event in events:
        assert event["output"]["type"] == "text"
        assert event["output"]["basis"][0]["citations"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", event["event_date"])
        assert re.fullmatch(r"mevtgrp_[0-9a-f]{48}", event["event_group_id"])


async def test_events_of_a_query_nobody_writes_about_are_events_all_the_same() -> None:
    async with connected(speed=1) as api:
        path = await api.monitor(NOW + "events=1", settings={"query": "Zyxxian quokkaflux"})
        events = await events_of(api, path)

    assert events[0]["output"]["basis"][0]["citations"] == []


async def test_schema_makes_events_structured() -> None:
    async with connected(speed=1) as api:
        settings = {"query": "coffee prices", "output_schema": {"type": "json", "json_schema": FIELDS}}
        path = await api.monitor(NOW + "events=1", settings=settings)
        event = (await events_of(api, path))[0]

    assert list(event["output"]["content"]) == ["price", "maker", "sold"]
    assert [entry["field"] for entry in event["output"]["basis"]] == ["price", "maker", "sold"]


async def test_pages_of_events_lose_nothing_while_new_ones_arrive() -> None:
    async with connected(speed=1) as api:
        path = await api.monitor(NOW + "events=3")
        await trigger(api, path, 2)
        expected = [event["event_id"] for event in await events_of(api, path)]
        seen: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = await api.get(f"{path}/events", limit=2, **cursor)
            seen += [event["event_id"] for event in page["events"]]
            await trigger(api, path)
            if "next_cursor" not in page:
                break
            cursor = {"cursor": page["next_cursor"]}

    assert len(expected) == 9
    assert seen == expected


async def test_group_narrows_events_to_one_execution() -> None:
    async with connected(speed=1) as api:
        path = await api.monitor(NOW + "events=2")
        await trigger(api, path, 2)
        events = await events_of(api, path)
        group_id = events[2]["event_group_id"]
        narrowed = await events_of(api, path, event_group_id=group_id, limit=1)
        nothing = await events_of(api, path, event_group_id="mevtgrp_none")

    assert narrowed == events[2:4]
    assert nothing == []


async def test_only_the_last_three_hundred_executions_are_known() -> None:
    """A monitor is bounded in memory, however long it runs."""
    async with connected(speed=1e9) as api:
        path = await api.monitor(NOW + "events=0")
        while await hours_watched(api, path) < 400:
            pass
        await api.post(f"{path}/cancel")
        completions: list[Object] = []
        page: Object = {"next_cursor": ""}
        while "next_cursor" in page:
            cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
            page = await api.get(f"{path}/events", include_completions=True, limit=100, **cursor)
            completions += page["events"]

    assert len(completions) == 300


async def hours_watched(api: Api, path: str) -> float:
    monitor = await api.get(path)
    last_run_at = monitor["last_run_at"] or monitor["created_at"]
    return (seconds_of(last_run_at) - seconds_of(monitor["created_at"])) * 1e9 / 3600


async def snapshot(api: Api, sim: str, spec: Object | None = None) -> str:
    run = await api.create(processor="lite", sim="latency=0", task_spec=spec)
    await api.get(f"/v1/tasks/runs/{run['run_id']}/result")
    return await api.monitor(sim, type="snapshot", settings={"task_run_id": run["run_id"]})


async def test_snapshot_tells_what_changed_and_what_it_was() -> None:
    async with connected(speed=1) as api:
        path = await snapshot(api, NOW + "events=1", json_spec(FIELDS))
        first = (await events_of(api, path))[0]
        await trigger(api, path)
        second = (await events_of(api, path))[0]
        monitor = await api.get(path)

    assert monitor["settings"]["query"] == QUESTION
    assert monitor["settings"]["output_schema"]["json_schema"] == FIELDS
    for event in (first, second):
        changed, previous = event["changed_output"]["content"], event["previous_output"]["content"]
        assert len(changed) == 1
        assert all(previous[name] != value for name, value in changed.items())
        assert [entry["field"] for entry in event["changed_output"]["basis"]] == list(changed)
    assert second["previous_output"]["content"] == {
        **first["previous_output"]["content"],
        **first["changed_output"]["content"],
    }
    assert monitor["output"]["latest_snapshot"]["content"] == {
        **second["previous_output"]["content"],
        **second["changed_output"]["content"],
    }


async def test_snapshot_of_a_text_grows() -> None:
    async with connected(speed=1) as api:
        path = await snapshot(api, NOW + "events=1", {"output_schema": "A short text."})
        event = (await events_of(api, path))[0]

    assert event["changed_output"]["content"].startswith(event["previous_output"]["content"])
    assert event["changed_output"]["content"] != event["previous_output"]["content"]


async def test_snapshot_has_no_state_before_its_first_execution() -> None:
    async with connected(speed=1) as api:
        path = await snapshot(api, "never")
        monitor = await api.get(path)

    assert monitor["output"] == {"latest_snapshot": None}


async def test_list_is_newest_first_and_active_unless_asked_otherwise(api: Api) -> None:
    one, two, three = [(await api.monitor("never")).rpartition("/")[2] for _ in range(3)]
    await api.post(f"/v1/monitors/{two}/cancel")

    assert await ids(api) == [three, one]
    assert await ids(api, status="cancelled") == [two]
    assert (
        await ids(api, status=["active", "cancelled"]) == await ids(api, status="active,cancelled") == [three, two, one]
    )
    assert await ids(api, type="snapshot") == []


async def test_list_comes_in_pages(api: Api) -> None:
    made = [(await api.monitor("never")).rpartition("/")[2] for _ in range(5)]
    pages: list[list[str]] = []
    page: Object = {"next_cursor": ""}
    while "next_cursor" in page:
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
        page = await api.get("/v1/monitors", limit=2, **cursor)
        pages.append([monitor["monitor_id"] for monitor in page["monitors"]])

    assert pages == [[made[4], made[3]], [made[2], made[1]], [made[0]]]


async def test_update_changes_what_is_given_and_null_clears() -> None:
    async with connected(speed=1) as api:
        settings = {"query": "old", "advanced_settings": {"location": "de"}}
        path = await api.monitor(metadata={"a": "1"}, webhook={"url": "https://hooks.example/"}, settings=settings)
        renamed = await api.post(f"{path}/update", type="event_stream", settings={"query": "new"})
        cleared = await api.post(f"{path}/update", webhook=None, metadata=None, processor="base", frequency="2w")
        settings = {"advanced_settings": None}
        bare = await api.post(f"{path}/update", type="event_stream", settings=settings)

    assert renamed["settings"]["query"] == "new"
    assert renamed["settings"]["advanced_settings"]["location"] == "de"
    assert (renamed["metadata"], renamed["frequency"], renamed["processor"]) == ({"a": "1"}, "1h", "lite")
    assert (cleared["webhook"], cleared["metadata"]) == (None, None)
    assert (cleared["frequency"], cleared["processor"]) == ("2w", "base")
    assert (bare["settings"]["query"], bare["settings"]["advanced_settings"]) == ("new", None)


async def test_new_frequency_counts_from_the_last_execution() -> None:
    waited_s = 0.0
    for speed in ever_slower(7200):
        async with connected(speed=speed) as api:
            created_at = time.monotonic()
            path = await api.monitor(NOW + "events=0", frequency="30d")
            await api.post(f"{path}/update", frequency="1h")
            took_s = time.monotonic() - created_at
            completions: list[Object] = []
            while len(completions) < 2:
                completions = await events_of(api, path, include_completions=True)
        *_, second, first = completions
        waited_s = (seconds_of(second["timestamp"]) - seconds_of(first["timestamp"])) * speed
        if took_s < 3600 / speed:
            break

    assert waited_s == pytest.approx(3600, abs=0.1)


async def test_execution_under_way_is_given_up_with_the_monitor() -> None:
    events: list[Object] = []
    for speed in ever_slower(FAST):
        async with connected(speed=speed) as api:
            created_at = time.monotonic()
            cancelled = await api.monitor("events=1 latency=3000")
            await api.post(f"{cancelled}/cancel")
            took_s = time.monotonic() - created_at
            other = await api.monitor("events=1 latency=3000")
            while not await events_of(api, other):
                pass
            events = await events_of(api, cancelled)
        if took_s < 3000 / speed:
            break

    assert events == []


async def test_cancelled_monitor_stays_as_it_is() -> None:
    async with connected(speed=1) as api:
        path = await api.monitor(NOW + "events=1")
        cancelled = [await api.post(f"{path}/cancel") for _ in range(2)]
        refused = [
            await api.http.post(f"{path}/trigger"),
            await api.http.post(f"{path}/update", json={"frequency": "2h"}),
        ]
        events = await events_of(api, path)

    assert [monitor["status"] for monitor in cancelled] == ["cancelled", "cancelled"]
    assert [answer.status_code for answer in refused] == [422, 422]
    assert len(events) == 1


@pytest.mark.parametrize(
    ("method", "action"),
    [("GET", ""), ("GET", "/events"), ("POST", "/update"), ("POST", "/cancel"), ("POST", "/trigger")],
)
async def test_monitor_exists_for_its_own_key_only(api: Api, method: str, action: str) -> None:
    path = await api.monitor()
    body = {"frequency": "2h"}

    answers: list[httpx.Response] = [
        await api.http.request(method, url, headers=headers, json=body)
        for url, headers in ((f"{path}{action}", OTHER), (f"/v1/monitors/none{action}", KEY))
    ]
    listed = await api.http.get("/v1/monitors", headers=OTHER)

    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, "Monitor not found")
    assert listed.json() == {"monitors": []}


@pytest.mark.parametrize(
    "change",
    [
        {"type": "weather"},
        {"type": "snapshot"},
        {"type": "snapshot", "settings": {"task_run_id": "trun_none"}},
        {"settings": {}},
        {"settings": {"query": "x", "output_schema": {"json_schema": {"type": "array"}}}},
        {"frequency": "30m"},
        {"frequency": "0h"},
        {"frequency": "31d"},
        {"frequency": "5w"},
        {"processor": "core"},
        {"metadata": {"k": 1}},
        {"metadata": {"k" * 17: "v"}},
        {"metadata": {"k": "v" * 513}},
        {"metadata": {"sim": "sings"}},
        {"webhook": {"url": "https://hooks.example/", "event_types": ["task_run.status"]}},
    ],
)
async def test_bad_monitor_is_refused(api: Api, change: Object) -> None:
    response = await api.http.post("/v1/monitors", json=MONITOR | change)

    assert response.status_code == 422
    assert response.json()["error"]["message"] == "Unprocessable content: request validation error"
    assert api.simulator.accepted_monitors == 0


@pytest.mark.parametrize("frequency", ["1h", "720h", "30d", "4w"])
async def test_frequencies_up_to_thirty_days_are_accepted(api: Api, frequency: str) -> None:
    assert (await api.get(await api.monitor(frequency=frequency)))["frequency"] == frequency


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": "event_stream"},
        {"frequency": None},
        {"processor": None},
        {"type": None, "frequency": "2h"},
        {"settings": {"query": "new"}},
        {"type": "snapshot", "settings": {}},
        {"type": "snapshot", "frequency": "2h"},
        {"type": "event_stream", "settings": {"query": None}},
        {"frequency": "3m"},
    ],
)
async def test_bad_update_is_refused_and_changes_nothing(api: Api, body: Object) -> None:
    path = await api.monitor("never")
    before = await api.get(path)

    response = await api.http.post(f"{path}/update", json=body)

    assert response.status_code == 422
    assert await api.get(path) == before


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 101}, {"cursor": "!"}, {"cursor": "YWJj"}])
async def test_bad_page_of_events_is_refused(api: Api, params: Object) -> None:
    response = await api.http.get(f"{await api.monitor()}/events", params=params)

    assert response.status_code == 422
    assert response.json()["error"]["message"].startswith("Unprocessable content: invalid cursor")


@pytest.mark.parametrize("params", [{"limit": 10_001}, {"cursor": "!"}, {"type": "weather"}, {"status": "paused"}])
async def test_bad_page_of_monitors_is_refused_in_the_second_shape(api: Api, params: Object) -> None:
    response = await api.http.get("/v1/monitors", params=params)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"][0] == "query"


async def test_creating_too_often_is_429() -> None:
    async with connected(monitors_per_minute=1, speed=1) as api:
        statuses = [(await api.http.post("/v1/monitors", json=MONITOR)).status_code for _ in range(2)]

    assert statuses == [201, 429]
