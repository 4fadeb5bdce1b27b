"""Same seed, same requests, same answers (checklist 6). What follows the wall clock is left out of the comparison."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulator.calls import Api, Object, connected, json_spec, object_schema
from tests.simulator.test_runs import seconds_of

SCHEMA = json_spec(object_schema(facts={"type": "array", "items": {"type": "string"}}))


async def messages(api: Api, run: Object) -> list[tuple[str, str]]:
    events = await api.run_events(run["run_id"])
    return [(event["type"], event["message"]) for event in events if "message" in event]


async def conversation(seed: int) -> list[Any]:
    """Use everything once, and note ids and texts."""
    async with connected(seed=seed) as api:
        run = await api.create(processor="pro", task_spec=SCHEMA)
        told = await messages(api, run)
        result = await api.get(f"/v1/tasks/runs/{run['run_id']}/result")
        group = await api.post("/v1/tasks/groups")
        added = await api.add_runs(group["taskgroup_id"], {"input": "Coffee", "processor": "lite"})
        search = await api.post("/v1/search", search_queries=["coffee"])
        error = (await api.http.get("/v1/tasks/runs/none")).json()
    return [run["run_id"], told, result["output"], group["taskgroup_id"], added["run_ids"], search, error]


async def finds(seed: int) -> list[Any]:
    """Use FindAll, monitors and suggestions once, and note ids and texts."""
    async with connected(seed=seed) as api:
        path = await api.findall(match_limit=8)
        await api.post(f"{path}/enrich", output_schema=SCHEMA["output_schema"])
        await api.events(f"{path}/events")
        found = (await api.get(f"{path}/result"))["candidates"]
        monitor = await api.monitor("events=2 latency=0", frequency="30d")
        seen = (await api.get(f"{monitor}/events"))["events"][-2:]
        entities = await api.post("/v1beta/findall/entity-search", entity_type="people", objective="fusion")
    return [path, monitor, seen, entities, sorted(found, key=lambda candidate: candidate["candidate_id"])]


async def durations(seed: int) -> list[float]:
    async with connected(seed=seed) as api:
        runs = [await api.create() for _ in range(5)]
        ended = [(await api.get(f"/v1/tasks/runs/{run['run_id']}/result"))["run"] for run in runs]
    return [seconds_of(run["modified_at"]) - seconds_of(run["created_at"]) for run in ended]


async def test_same_seed_gives_the_same_ids_and_texts() -> None:
    assert await conversation(7) == await conversation(7)


async def test_same_seed_finds_and_sees_the_same() -> None:
    """An enrichment may come before or after a match, as the clock will have it; what it says does not change."""
    assert await finds(7) == await finds(7)


async def test_another_seed_judges_otherwise_but_knows_the_same_entities() -> None:
    """What there is follows from the objective alone."""
    one, other = await finds(7), await finds(8)

    assert one[0] != other[0]
    assert one[3]["entities"] == other[3]["entities"]


async def test_same_seed_gives_the_same_durations() -> None:
    assert await durations(7) == pytest.approx(await durations(7), abs=3e-6)  # stamps are microseconds


async def test_another_seed_gives_other_ids_and_durations() -> None:
    assert (await conversation(7))[0] != (await conversation(8))[0]
    assert await durations(7) != pytest.approx(await durations(8), abs=3e-6)


async def test_answers_do_not_depend_on_what_was_read_before() -> None:
    """Outputs and traces have dice of their own."""
    outputs: list[Object] = []
    for streams_first in (False, True):
        async with connected(seed=3) as api:
            run = await api.create(processor="pro", task_spec=SCHEMA)
            if streams_first:
                await api.run_events(run["run_id"])
            outputs.append((await api.get(f"/v1/tasks/runs/{run['run_id']}/result"))["output"])

    assert outputs[0] == outputs[1]
