"""Same seed, same requests, same answers (checklist 6)."""

from __future__ import annotations

import re
from typing import Any

from tests.simulator.calls import connected, json_spec, object_schema

SCHEMA = json_spec(object_schema(facts={"type": "array", "items": {"type": "string"}}))
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


async def conversation(seed: int) -> list[str]:
    """Use everything once; what follows the wall clock is left out: timestamps, and the status on connecting."""
    answers: list[Any] = []
    async with connected(seed=seed) as api:
        run = await api.create(processor="pro", task_spec=SCHEMA)
        answers += (await api.run_events(run["run_id"]))[1:]
        group = await api.post("/v1/tasks/groups")
        answers.append(await api.add_runs(group["taskgroup_id"], {"input": "Coffee", "processor": "lite"}))
        answers.append(await api.events(f"/v1/tasks/groups/{group['taskgroup_id']}/runs", include_input=True))
        answers.append(await api.post("/v1/search", search_queries=["coffee"]))
        answers.append((await api.http.get("/v1/tasks/runs/none")).json())
    return [STAMP.sub("", str(answer)) for answer in answers]


async def test_same_seed_gives_the_same_ids_and_texts() -> None:
    assert await conversation(7) == await conversation(7)


async def test_another_seed_gives_other_ids() -> None:
    assert await conversation(7) != await conversation(8)


async def test_answers_do_not_depend_on_what_was_read_before() -> None:
    """Outputs and traces have dice of their own."""
    outputs: list[Any] = []
    for streams_first in (False, True):
        async with connected(seed=3) as api:
            run = await api.create(processor="pro", task_spec=SCHEMA)
            if streams_first:
                await api.run_events(run["run_id"])
            outputs.append((await api.get(f"/v1/tasks/runs/{run['run_id']}/result"))["output"])

    assert outputs[0] == outputs[1]
