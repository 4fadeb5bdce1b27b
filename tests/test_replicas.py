"""Two server processes behind one address, each request to the other one: nothing is remembered between requests."""

from collections.abc import Generator
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ResourceTemplateReference

from parallel_mcp.http.app import MCP_PATH
from parallel_mcp.simulator import Simulator
from tests.conftest import Upstream
from tests.connecting import KEY, LEGACY, MODERN, create, http_client, structured, text_of
from tests.processes import serving_process
from tests.replicas import behind_one_address
from tests.task_client import TakesTasks, TaskState, for_a_moment

SERVE = ["-W", "error", "-m", "parallel_mcp", "serve", "--http", "--port", "0"]
STORY = "never latency=180 messages=20 size=6000"  # until it is finished


@pytest.fixture
def address(upstream: Upstream, tmp_path: Path) -> Generator[str]:
    """Where both are reached; they share a ledger, and no memory."""
    environment = {"PARALLEL_BASE_URL": upstream.url, "PARALLEL_MCP_LEDGER": str(tmp_path / "ledger.sqlite")}
    with (
        serving_process(*SERVE, environment=environment) as one,
        serving_process(*SERVE, environment=environment) as other,
        behind_one_address([one.removesuffix(MCP_PATH), other.removesuffix(MCP_PATH)]) as address,
    ):
        yield address


async def watch(client: Client, run_id: str, simulator: Simulator) -> tuple[int, list[float]]:
    """Watch a run to its end, two seconds at a time: the number of calls, and the progress that was told.

    It ends in the middle of the watch.
    """
    told: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    cursor = ""
    for calls in count(1):
        arguments = {"id": run_id, "timeout_s": 2, "cursor": cursor}
        watched = structured(await client.call_tool("watch_progress", arguments, progress_callback=note))
        if watched["result_ready"]:
            return calls, told
        cursor = watched["cursor"]
        if calls == 2:
            simulator.finish(run_id)
    raise AssertionError


async def pages(client: Client, run_id: str) -> list[dict[str, Any]]:
    """All pages of a result."""
    found = [structured(await client.call_tool("get_result", {"id": run_id, "max_chars": 2000}))]
    while cursor := found[-1].get("cursor"):
        arguments = {"id": run_id, "max_chars": 2000, "cursor": cursor}
        found.append(structured(await client.call_tool("get_result", arguments)))
    return found


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_research_goes_on_wherever_each_request_lands(upstream: Upstream, address: str, mode: str) -> None:
    """A service is several processes, and clients cannot be made to stay with one."""
    async with http_client(address, KEY, mode=mode) as client:
        run_id = await create(client, STORY)
        repeated = await create(client, STORY)
        calls, told = await watch(client, run_id, upstream.simulator)
        found = await pages(client, run_id)
        report = await client.read_resource(f"parallel://runs/{run_id}/report.md")
        offered = await client.complete(
            ResourceTemplateReference(uri="parallel://runs/{run_id}/report.md"), {"name": "run_id", "value": "trun_"}
        )
        recent = structured(await client.call_tool("get_status", {}))["items"]

    assert repeated == run_id
    assert upstream.simulator.accepted_runs == 1
    assert calls > 2
    assert told
    assert [page["page"]["start"] for page in found] == [0, *(page["page"]["end"] for page in found[:-1])]
    assert len(found) > 1
    assert report.contents
    assert offered.completion.values == [run_id]
    assert [item["id"] for item in recent] == [run_id]


async def test_task_is_followed_wherever_each_look_lands(upstream: Upstream, address: str) -> None:
    """Nothing but the id of the task says which run it is."""

    async def until_both_were_asked(state: TaskState) -> None:
        if len(takes.seen) > 2:
            upstream.simulator.finish(state.task_id)
        await for_a_moment(state)

    takes = TakesTasks(until_both_were_asked)
    async with (
        httpx2.AsyncClient(headers={"x-api-key": KEY}, timeout=60) as http,
        Client(
            streamable_http_client(f"{address}{MCP_PATH}", http_client=http), mode=MODERN, extensions=[takes]
        ) as client,
    ):
        result = await client.call_tool("run_task", {"input": "Battery storage", "metadata": {"sim": STORY}})

    assert "Sources" in text_of(result)
    assert len(takes.seen) > 3
