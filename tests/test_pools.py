"""Many open streams: what else the server does goes on beside them, and nothing of them is left."""

import os
import resource
from collections.abc import Generator

import anyio
import pytest
from pydantic import SecretStr

from parallel_mcp.api.client import ParallelApi
from parallel_mcp.api.connections import KEPT_ALIVE, Connections
from parallel_mcp.api.models import TaskRunInput
from tests.conftest import Upstream
from tests.connecting import KEY, connected, create, structured
from tests.faults import FaultyProxy, faulty

STREAMS = 150  # more than the 100 connections that HTTP clients allow themselves unless told otherwise
ENDLESS = TaskRunInput(processor="lite", input="What does grid storage cost?", metadata={"sim": "never messages=1"})


@pytest.fixture(autouse=True)
def room_for_connections() -> Generator[None]:
    """Both ends of each connection are in this process, and some systems allow it 256 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4_096 if hard == resource.RLIM_INFINITY else min(4_096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def endless_runs(url: str) -> list[str]:
    """Runs to watch, made without the server, which limits how many of its own may be active."""
    connections = Connections(url)
    api = ParallelApi(connections, SecretStr(KEY))
    try:
        return [(await api.create_run(ENDLESS)).run_id for _ in range(STREAMS)]
    finally:
        await connections.aclose()


def open_files() -> int:
    """How many file descriptors this process holds."""
    return len(os.listdir("/dev/fd"))


def streamed_runs(proxy: FaultyProxy) -> int:
    """Of how many runs an event stream was asked for; one that ends by itself is asked for again."""
    return len({request.path for request in proxy.requests if request.path.endswith("/events")})


async def test_open_streams_hold_up_nothing_else_and_leave_nothing_behind(upstream: Upstream) -> None:
    """A busy server must still search, answer and create; and one that leaks a connection a watch stops one day."""
    run_ids = await endless_runs(upstream.url)
    with faulty(upstream.url) as proxy:
        async with connected("memory", proxy.url) as client:
            await create(client)
            before = open_files()

            async with anyio.create_task_group() as watchers:
                for run_id in run_ids:
                    watchers.start_soon(client.call_tool, "watch_progress", {"id": run_id, "timeout_s": 40})
                await proxy.wait_for(lambda: streamed_runs(proxy) == STREAMS)
                with anyio.fail_after(20):  # a place in a pool would come free after 40 s
                    assert structured(await client.call_tool("search", {"objective": "grid storage"}))
                    asked = {"ids": run_ids[:1]}
                    assert structured(await client.call_tool("get_status", asked))["items"][0]["is_active"]
                    assert await create(client, input="What are the rules for heat pumps?")
                watchers.cancel_scope.cancel()

            await proxy.wait_for(lambda: proxy.open_connections <= KEPT_ALIVE)  # for calls
            with anyio.fail_after(20):
                while open_files() > before + 2 * KEPT_ALIVE:  # noqa: ASYNC110 - nothing announces that a file was closed
                    await anyio.sleep(0.05)
