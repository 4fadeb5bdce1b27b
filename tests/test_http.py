"""The network service: who may reach it, with whose key, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from typing import IO, Any, cast

import anyio
import httpx
import pytest

from parallel_mcp.errors import SettingsError
from parallel_mcp.http.app import check_exposure
from parallel_mcp.http.serve import DRAIN_S
from parallel_mcp.settings import load_settings
from parallel_mcp.simulator import Simulator, serving
from parallel_mcp.tools import CORE_TOOLS
from tests.conftest import Upstream
from tests.connecting import KEY, LEGACY, MODERN, create, http_client, serving_http, structured, text_of
from tests.faults import ScriptedFault, faulty
from tests.faults.kinds import pass_through
from tests.faults.wire import Ending, Exchange

META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
ACCEPT = "application/json, text/event-stream"
PATIENCE_S = 120.0


@pytest.fixture
def address(upstream: Upstream) -> Generator[str]:
    """Our server over HTTP, each caller with a key of its own."""
    with serving_http(load_settings({"base_url": upstream.url, "api_key": "the-operators-own-key"})) as address:
        yield address


def post(address: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> httpx.Response:
    """A `tools/list` of the modern era, as raw HTTP."""
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
    fixed = {
        "accept": ACCEPT,
        "content-type": "application/json",
        "mcp-protocol-version": MODERN,
        "mcp-method": "tools/list",
    }
    content, given = body or json.dumps(request), {**fixed, **(headers or {})}
    return httpx.post(f"{address}/mcp", content=content, headers=given, timeout=PATIENCE_S)


def test_request_with_a_key_is_answered(address: str) -> None:
    """In either of the two headers that clients can set."""
    for header in ({"x-api-key": KEY}, {"Authorization": f"Bearer {KEY}"}):
        answer = post(address, header)
        assert answer.status_code == 200
        assert len(answer.json()["result"]["tools"]) == len(CORE_TOOLS)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": "two words"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"},
    ],
)
def test_request_without_a_usable_key_is_refused_before_mcp_runs(
    upstream: Upstream, address: str, headers: dict[str, str]
) -> None:
    """Neither the operator's key nor a token that was issued for somebody else may be spent on it."""
    answer = post(address, headers)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "x-api-key" in answer.json()["message"]
    assert upstream.simulator.requests == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost:6274"}, 200),
    ],
)
def test_wrong_host_or_origin_is_refused(address: str, headers: dict[str, str], status: int) -> None:
    """A web page in the user's browser must not reach a server on their machine."""
    assert post(address, {"x-api-key": KEY, **headers}).status_code == status


def test_large_body_is_refused(address: str) -> None:
    """Nothing that the API accepts is longer."""
    assert post(address, {"x-api-key": KEY}, body=b"x" * ((256 << 10) + 1)).status_code == 413


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_only_post_reaches_mcp(address: str, method: str) -> None:
    """There are no sessions to listen to or to end, and an open GET would hold a connection for nothing."""
    headers = {"x-api-key": KEY, "accept": ACCEPT}
    answer = httpx.request(method, f"{address}/mcp", headers=headers, timeout=PATIENCE_S)

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


def test_health_needs_no_key(address: str) -> None:
    """Load balancers have none."""
    answer = httpx.get(f"{address}/health", timeout=PATIENCE_S)

    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_interleaved_callers_reach_the_upstream_with_their_own_key_only(
    upstream: Upstream, address: str, mode: str
) -> None:
    """Mixing up keys is the worst that a shared server can do."""

    async def research(caller: int) -> None:
        async with http_client(address, f"key-of-caller-{caller}", mode=mode) as client:
            run_id = await create(client, "latency=6 messages=3", input=f"question of caller {caller}")
            await client.call_tool("watch_progress", {"id": run_id})
            await client.call_tool("search", {"objective": f"question of caller {caller}"})

    async with anyio.create_task_group() as callers:
        for caller in range(20):
            callers.start_soon(research, caller)

    owners: dict[str, str] = {}
    for request in upstream.simulator.requests:
        key = request.headers["x-api-key"]
        if asked := re.search(rb"question of caller (\d+)", request.body):
            assert key == f"key-of-caller-{int(asked[1])}"
        if run := re.search(r"trun_\w+", request.path):
            assert owners.setdefault(run[0], key) == key
    assert len({request.headers["x-api-key"] for request in upstream.simulator.requests}) == 20
    assert len(owners) == 20
    assert len(set(owners.values())) == 20


async def test_one_callers_runs_are_not_listed_to_another(address: str) -> None:
    """They share a process and its ledger, nothing else."""
    async with http_client(address, "key-a") as one, http_client(address, "key-b") as other:
        run_id = await create(one)
        own = structured(await one.call_tool("get_status", {}))
        foreign = await other.call_tool("get_status", {})

    assert [item["id"] for item in own["items"]] == [run_id]
    assert structured(foreign)["items"] == []
    assert structured(foreign)["spent_usd_last_day"] == 0
    assert run_id not in text_of(foreign)


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_caller_that_goes_away_closes_the_upstream_stream(mode: str) -> None:
    """A watch nobody reads must not hold a connection; by itself this one would end after 45 seconds of silence."""
    opened, closed = threading.Event(), threading.Event()

    async def noted(exchange: Exchange) -> Ending:
        opened.set()
        try:
            return await pass_through(exchange)
        finally:
            closed.set()

    with (
        serving(Simulator()) as url,
        faulty(url) as proxy,
        serving_http(load_settings({"base_url": proxy.url})) as address,
    ):
        proxy.add(ScriptedFault(path=".*/events", fault=noted))
        async with http_client(address, KEY, mode=mode) as client, anyio.create_task_group() as watching:
            run_id = await create(client, "never messages=2")
            watching.start_soon(client.call_tool, "watch_progress", {"id": run_id})
            assert await anyio.to_thread.run_sync(opened.wait, 30)
            watching.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(closed.wait, 30)


async def test_local_server_uses_its_own_key_for_requests_without_one(upstream: Upstream) -> None:
    """For one person on one machine, who set the key once."""
    settings = load_settings({"base_url": upstream.url, "api_key": "own-key", "auth": "local"})
    with serving_http(settings) as address:
        async with http_client(address, key="") as client:
            await client.call_tool("search", {"objective": "grid storage"})
        async with http_client(address, key="callers-key") as client:
            await client.call_tool("search", {"objective": "grid storage"})

    assert [request.headers["x-api-key"] for request in upstream.simulator.requests] == ["own-key", "callers-key"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"host": "0.0.0.0"}, "PARALLEL_MCP_ALLOWED_HOSTS"),
        ({"host": "::"}, "PARALLEL_MCP_ALLOWED_HOSTS"),
        ({"host": "0.0.0.0", "allowed_hosts": "mcp.example.com", "auth": "local"}, "PARALLEL_MCP_AUTH=caller"),
        ({"allowed_hosts": "localhost,mcp.example.com", "auth": "local"}, "PARALLEL_MCP_AUTH=caller"),
    ],
)
def test_way_in_without_protection_is_refused_with_the_setting_to_change(flags: dict[str, Any], named: str) -> None:
    """An accident in one flag must not open a server, or its key behind a proxy, to the world."""
    with pytest.raises(SettingsError, match=named):
        check_exposure(load_settings({**flags, "api_key": KEY}))
    command = [sys.executable, "-m", "parallel_mcp", "serve", "--http", "--port", "0"]
    for name, value in flags.items():
        command += [f"--{name.replace('_', '-')}", value]
    environment = {**os.environ, "PARALLEL_API_KEY": KEY}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert finished.returncode == 2
    assert named in finished.stderr


def test_open_bind_with_named_hosts_is_accepted() -> None:
    """The way in which it is meant to be opened."""
    check_exposure(load_settings({"host": "0.0.0.0", "allowed_hosts": "mcp.example.com"}))


@pytest.mark.parametrize("name", ["localhost:8080", "Localhost", "127.0.0.1:8931", "[::1]", "[::1]:8080", "::1"])
def test_name_of_loopback_is_accepted_for_ones_own_key_with_a_port_too(name: str) -> None:
    """Nobody else can reach it."""
    check_exposure(load_settings({"auth": "local", "allowed_hosts": name, "api_key": KEY}))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_server_finishes_the_call_on_its_way_and_exits_cleanly(
    upstream: Upstream, number: signal.Signals
) -> None:
    """A rolling restart must not cut answers."""
    command = [sys.executable, "-W", "error", "-m", "parallel_mcp", "serve", "--http", "--port", "0"]
    environment = {"PARALLEL_BASE_URL": upstream.url, "PARALLEL_MCP_LEDGER": "memory"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            stderr = cast("IO[str]", process.stderr)
            address = stderr.readline().split()[-1].removesuffix("/mcp")
            run_id = _call(address, "create_task", {"input": "x", "metadata": {"sim": "never"}})["run_id"]
            with httpx.stream("POST", **_request(address, "watch_progress", {"id": run_id, "timeout_s": 3})) as answer:
                lines = answer.iter_lines()
                next(line for line in lines if line.startswith("data:"))
                process.send_signal(number)
                last = [line for line in lines if line.startswith("data:")][-1]
            answered = time.monotonic()
            status = process.wait(timeout=PATIENCE_S)
            waited_s = time.monotonic() - answered
        finally:
            process.kill()

    assert json.loads(last.removeprefix("data:"))["result"]["structuredContent"]["is_active"]
    assert status == 0
    assert waited_s < DRAIN_S, "it waited for calls when there were none any more"


def _request(address: str, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments, "_meta": {**META, "progressToken": "t"}}
    return {
        "url": f"{address}/mcp",
        "json": {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
        "headers": {
            "accept": ACCEPT,
            "mcp-protocol-version": MODERN,
            "mcp-method": "tools/call",
            "mcp-name": tool,
            "x-api-key": KEY,
        },
        "timeout": PATIENCE_S,
    }


def _call(address: str, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return cast(
        "dict[str, Any]", httpx.post(**_request(address, tool, arguments)).json()["result"]["structuredContent"]
    )
