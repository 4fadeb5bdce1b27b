"""The whole server on a Redis that dies while a create is on its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
from mcp import Client

from tests.conftest import Upstream
from tests.connecting import connected, create, failure, structured
from tests.faults import ScriptedFault, faulty, late
from tests.ledger.conftest import redis_running
from tests.patience import PATIENCE_S

RUNS = "/v1/tasks/runs"
TASK: dict[str, Any] = {"input": "What does grid-scale battery storage cost?", "metadata": {"sim": "never"}}


async def test_redis_killed_in_the_middle_of_a_create_loses_and_buys_nothing(
    upstream: Upstream, tmp_path: Path
) -> None:
    """The caller gets its run; while Redis is away nothing else is bought; once it is back, the run is written down."""
    answers: list[str] = []
    refused, read = "", dict[str, Any]()
    with redis_running(tmp_path) as redis, faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(method="POST", path=RUNS, fault=late(1), times=1, skip=1))
        async with connected("memory", proxy.url, ledger=redis.url) as client:
            before = await create(client, "never", input="asked before")

            async def create_meanwhile() -> None:
                answers.append(str(structured(await client.call_tool("create_task", TASK))["run_id"]))

            async with anyio.create_task_group() as creating:
                creating.start_soon(create_meanwhile)
                with anyio.fail_after(PATIENCE_S):
                    while upstream.simulator.accepted_runs < 2:  # noqa: ASYNC110 - the simulator tells nobody
                        await anyio.sleep(0.01)
                redis.kill()
                refused = await failure(client, "create_task", {"input": "asked while it was away"})
                read = structured(await client.call_tool("get_status", {"ids": [before]}))
            redis.start()
            with anyio.fail_after(PATIENCE_S):
                while len(await listed(client)) < 2:  # noqa: ASYNC110 - nothing tells when the ledger has caught up
                    await anyio.sleep(0.05)
            repeated = structured(await client.call_tool("create_task", TASK))

    assert "Code: ledger_unavailable" in refused
    assert read["items"][0]["id"] == before
    assert (repeated["run_id"], repeated["deduplicated"]) == (answers[0], True)
    assert upstream.simulator.accepted_runs == 2


async def listed(client: Client) -> list[str]:
    """The runs that the ledger knows by their ids."""
    items = structured(await client.call_tool("get_status", {}))["items"]
    return [item["id"] for item in items if item["id"]]


async def test_replicas_on_one_redis_give_one_run_for_one_key(upstream: Upstream, tmp_path: Path) -> None:
    """Any replica may get the repeat of a call."""
    run_ids: list[str] = []
    with redis_running(tmp_path) as redis:
        async with (
            connected("memory", upstream.url, ledger=redis.url) as one,
            connected("memory", upstream.url, ledger=redis.url) as other,
            anyio.create_task_group() as creating,
        ):

            async def create_keyed(client: Client) -> None:
                run_ids.append(await create(client, idempotency_key="report-1"))

            for client in (one, other) * 5:
                creating.start_soon(create_keyed, client)

    assert len(run_ids) == 10
    assert len(set(run_ids)) == 1
    assert upstream.simulator.accepted_runs == 1
