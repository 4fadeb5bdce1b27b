"""Whoever stops waiting leaves nothing behind: no stream, no task, no descriptor; and the run goes on."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import IO, Any, Literal, cast
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from mcp import Client
from mcp.client.stdio import stdio_client
from mcp.types import CallToolResult

from parallel_mcp.api.connections import KEPT_ALIVE
from parallel_mcp.settings import load_settings
from tests.bare_client import META
from tests.conftest import Upstream
from tests.connecting import (
    KEY,
    LEGACY,
    MODERN,
    connected,
    create,
    http_client,
    serving_http,
    stdio_server,
    structured,
)
from tests.faults import FaultyProxy, ScriptedFault, faulty, stall

EVENTS = "/v1/tasks/runs/[^/]+/events"
CLOSED_WITHIN_S = 3.0
PATIENCE_S = 30
WATCHES = 500
AT_ONCE = 30
LEGACY_VERSION = "2025-11-25"

Moment = Literal["before the first event", "in the middle"]


def raw_call(address: str, mode: str, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A call as one HTTP request of either era; leaving its answer is how a caller over HTTP cancels."""
    params: dict[str, Any] = {"name": tool, "arguments": arguments, "_meta": {"progressToken": "t"}}
    headers = {"accept": "application/json, text/event-stream", "x-api-key": KEY}
    if mode == MODERN:
        params["_meta"] |= META
        headers |= {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": tool}
    else:
        headers |= {"mcp-protocol-version": LEGACY_VERSION}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return {"url": f"{address}/mcp", "json": body, "headers": headers}


async def initialize(http: httpx.AsyncClient, address: str) -> None:
    """The handshake of the legacy era, which a server without sessions forgets at once."""
    client = {"protocolVersion": LEGACY_VERSION, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": client}
    accept = {"accept": "application/json, text/event-stream", "x-api-key": KEY}
    answer = await http.post(f"{address}/mcp", json=body, headers=accept)
    assert f'"protocolVersion":"{LEGACY_VERSION}"' in answer.text


@asynccontextmanager
async def raw_http() -> AsyncGenerator[httpx.AsyncClient]:
    """A connection for each request, so that leaving its answer is leaving the server."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    transport = httpx.AsyncHTTPTransport(retries=5, limits=limits)  # a server on a thread may not listen yet
    async with httpx.AsyncClient(timeout=PATIENCE_S, transport=transport) as http:
        yield http


async def leave_when_told(http: httpx.AsyncClient, request: dict[str, Any]) -> None:
    """Read the first of an answer, and go."""
    async with http.stream("POST", **request) as answer:
        await anext(answer.aiter_raw())


async def leave_after(seconds: float, http: httpx.AsyncClient, request: dict[str, Any]) -> None:
    """Read an answer for so long, and go."""
    with anyio.move_on_after(seconds):
        async with http.stream("POST", **request) as answer:
            async for _ in answer.aiter_raw():
                pass


def streams(proxy: FaultyProxy) -> int:
    """How often a stream was asked for."""
    return sum(request.path.endswith("/events") for request in proxy.requests)


def open_streams(proxy: FaultyProxy) -> int:
    """How many streams are open. A connection for calls may be kept alive beside them."""
    return proxy.being_answered(EVENTS)


@pytest.fixture
def proxy(upstream: Upstream) -> Generator[FaultyProxy]:
    """What counts our connections to the API."""
    with faulty(upstream.url) as proxy:
        yield proxy


async def run_of(upstream: Upstream, story: str) -> str:
    """A run created past the proxy, so that the watch alone connects through it."""
    async with connected("memory", upstream.url) as client:
        return await create(client, story)


def let_it_wait_for(proxy: FaultyProxy, moment: Moment) -> None:
    """Before the first event: the stream's answer never comes."""
    if moment == "before the first event":
        proxy.add(ScriptedFault(method="GET", path=EVENTS, fault=stall(), times=None))


def assert_untouched(upstream: Upstream, run_id: str) -> None:
    """Nothing but reading was asked of the API."""
    assert {request.method for request in upstream.simulator.requests if run_id in request.path} == {"GET"}


@pytest.mark.parametrize("moment", ["before the first event", "in the middle"])
@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_cancel_over_stdio_closes_the_stream_and_leaves_the_run_and_the_session(
    upstream: Upstream, proxy: FaultyProxy, mode: str, moment: Moment
) -> None:
    """A user who presses Escape wants the wait to end; the work is paid for, and its result is asked for later."""
    run_id = await run_of(upstream, "never messages=9")
    let_it_wait_for(proxy, moment)
    async with Client(stdio_client(stdio_server(proxy.url, KEY, os.environ)), mode=mode) as client:
        async with anyio.create_task_group() as calls:
            calls.start_soon(client.call_tool, "watch_progress", {"id": run_id, "timeout_s": 40})
            await proxy.wait_for(lambda: streams(proxy) == 1)
            calls.cancel_scope.cancel()  # the SDK's client sends notifications/cancelled
        await proxy.wait_for(lambda: open_streams(proxy) == 0, CLOSED_WITHIN_S)
        proxy.clear()
        upstream.simulator.finish(run_id)
        result = structured(await client.call_tool("get_result", {"id": run_id}))

    assert result["status"] == "completed"
    assert_untouched(upstream, run_id)


@pytest.mark.parametrize("moment", ["before the first event", "in the middle"])
@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_disconnect_over_http_closes_the_stream_and_leaves_the_run(
    upstream: Upstream, proxy: FaultyProxy, mode: str, moment: Moment
) -> None:
    """In both eras, leaving the answer is the only sign that nobody waits any more."""
    run_id = await run_of(upstream, "never messages=9")
    let_it_wait_for(proxy, moment)
    with serving_http(load_settings({"base_url": proxy.url})) as address:
        async with raw_http() as http:
            if mode == LEGACY:
                await initialize(http, address)
            watch = raw_call(address, mode, "watch_progress", {"id": run_id, "timeout_s": 40})
            async with http.stream("POST", **watch):
                await proxy.wait_for(lambda: streams(proxy) == 1)
            await proxy.wait_for(lambda: open_streams(proxy) == 0, CLOSED_WITHIN_S)
        proxy.clear()
        upstream.simulator.finish(run_id)
        async with http_client(address, KEY, mode=mode) as client:
            result = structured(await client.call_tool("get_result", {"id": run_id}))

    assert result["status"] == "completed"
    assert_untouched(upstream, run_id)


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_disconnect_of_one_watcher_over_http_leaves_the_stream_to_the_other(
    upstream: Upstream, proxy: FaultyProxy, mode: str
) -> None:
    """They share one; the other must not notice."""
    run_id = await run_of(upstream, "never messages=9")
    answers: list[CallToolResult] = []
    with serving_http(load_settings({"base_url": proxy.url})) as address:
        watch = raw_call(address, mode, "watch_progress", {"id": run_id})

        async def stay() -> None:
            async with http_client(address, KEY, mode=mode) as client:
                answers.append(await client.call_tool("watch_progress", {"id": run_id, "timeout_s": 40}))

        async with raw_http() as http, anyio.create_task_group() as staying:
            staying.start_soon(stay)
            await proxy.wait_for(lambda: streams(proxy) == 1)
            for _ in range(2):
                await leave_when_told(http, watch)
            await anyio.sleep(1.5)  # longer than a stream stays that nobody watches any more
            upstream.simulator.finish(run_id)

    assert structured(answers[0])["status"] == "completed"
    assert streams(proxy) == 1


async def runs_for(upstream: Upstream, dice: random.Random) -> list[str]:
    """A run for each watch: half of them runs of their own, the rest five that are shared."""
    async with httpx.AsyncClient(base_url=upstream.url, headers={"x-api-key": KEY}, timeout=PATIENCE_S) as api:

        async def run(number: int) -> str:
            body = {"input": f"question {number}", "processor": "core-fast", "metadata": {"sim": "never messages=5"}}
            return str((await api.post("/v1/tasks/runs", json=body)).json()["run_id"])

        own = [await run(number) for number in range(WATCHES // 2)]
        shared = [await run(WATCHES + number) for number in range(5)]
    watched = own + [dice.choice(shared) for _ in range(WATCHES - len(own))]
    dice.shuffle(watched)
    return watched


async def test_500_cancelled_watches_leave_no_task_and_no_connection(upstream: Upstream, proxy: FaultyProxy) -> None:
    """A server runs for weeks; one task left per cancel would end it."""
    dice = random.Random(7)
    run_ids = await runs_for(upstream, dice)
    async with connected("memory", proxy.url) as client:
        await client.call_tool("get_status", {"ids": ["trun_nobody"]})
        before = len(asyncio.all_tasks())
        limit = anyio.CapacityLimiter(AT_ONCE)

        async def watch(run_id: str) -> None:
            async with limit:
                with anyio.move_on_after(dice.choice([0, 0.01, 0.05, dice.uniform(0, 0.5)])):
                    await client.call_tool("watch_progress", {"id": run_id, "timeout_s": 40}, progress_callback=_ignore)

        async with anyio.create_task_group() as watchers:
            for run_id in run_ids:
                watchers.start_soon(watch, run_id)
        assert streams(proxy) >= 10
        await proxy.wait_for(lambda: open_streams(proxy) == 0)
        await proxy.wait_for(lambda: proxy.open_connections <= KEPT_ALIVE)
        with anyio.fail_after(PATIENCE_S):
            while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 - nothing announces that a task is over
                await anyio.sleep(0.05)

        assert structured(await client.call_tool("get_status", {"ids": run_ids[:1]}))["items"][0]["is_active"]


async def _ignore(progress: float, total: float | None, message: str | None) -> None:
    """Asks for progress, and does not care."""


@contextmanager
def http_process(base_url: str) -> Generator[tuple[str, int]]:
    """A server of its own process; its address and process id."""
    command = [sys.executable, "-W", "error", "-m", "parallel_mcp", "serve", "--http", "--port", "0"]
    environment = {**os.environ, "PARALLEL_BASE_URL": base_url, "PARALLEL_MCP_LEDGER": "memory"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = cast("IO[str]", process.stderr).readline().split()[-1].removesuffix("/mcp")
            yield address, process.pid
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=PATIENCE_S) == 0
            assert "Exception in ASGI application" not in cast("IO[str]", process.stderr).read()
        finally:
            process.kill()


def test_caller_that_leaves_in_the_middle_of_its_request_is_no_error_in_the_log(upstream: Upstream) -> None:
    """Anybody can do that, as often as they like; a traceback each time would bury what matters."""
    request = raw_call("", MODERN, "get_status", {})
    head = "".join(f"{name}: {value}\r\n" for name, value in request["headers"].items())
    with http_process(upstream.url) as (address, _):
        host = urlsplit(address).netloc
        with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port)) as caller:
            lines = f"POST /mcp HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{head}"
            caller.sendall(f'{lines}content-length: 100\r\n\r\n{{"jsonrpc"'.encode())
        assert httpx.get(f"{address}/health", timeout=PATIENCE_S).status_code == 200


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
async def test_500_disconnects_over_http_leave_no_descriptor_and_no_connection(
    upstream: Upstream, proxy: FaultyProxy
) -> None:
    """Descriptors run out before anything else does."""
    dice = random.Random(8)
    run_ids = await runs_for(upstream, dice)
    limit = anyio.CapacityLimiter(AT_ONCE)
    with http_process(proxy.url) as (address, pid):

        def descriptors() -> int:
            return len(os.listdir(f"/proc/{pid}/fd"))

        async def watch(run_id: str) -> None:
            request = raw_call(address, dice.choice([MODERN, LEGACY]), "watch_progress", {"id": run_id})
            async with limit:
                await leave_after(dice.choice([0.02, dice.uniform(0, 1), dice.uniform(0, 1)]), http, request)

        async with raw_http() as http:
            await leave_after(1, http, raw_call(address, MODERN, "watch_progress", {"id": run_ids[0]}))
        await proxy.wait_for(lambda: open_streams(proxy) == 0)
        before = descriptors()
        async with raw_http() as http, anyio.create_task_group() as watchers:
            for run_id in run_ids:
                watchers.start_soon(watch, run_id)
        assert streams(proxy) >= 10
        await proxy.wait_for(lambda: open_streams(proxy) == 0)
        await proxy.wait_for(lambda: proxy.open_connections <= KEPT_ALIVE)
        with anyio.fail_after(PATIENCE_S):
            while descriptors() > before + KEPT_ALIVE + 5:  # noqa: ASYNC110 - nothing announces that a file was closed
                await anyio.sleep(0.05)

        async with http_client(address, KEY) as client:
            assert structured(await client.call_tool("get_status", {"ids": run_ids[:1]}))["items"][0]["is_active"]
