"""Clients built before revision 2026-07-28: the SDKs 1.x of Python and of TypeScript, in processes of their own.

`MCP_OLD_PYTHON` names a Python that has `mcp<2`; the other SDK comes from npm (see `tests.node_programs`).
"""

import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, Literal

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from parallel_mcp.settings import load_settings
from tests.conftest import Upstream
from tests.connecting import KEY, serving_http, stdio_server
from tests.faults import faulty
from tests.node_programs import NODE_MODULES, needs_node
from tests.replicas import behind_one_address
from tests.test_transports import TOOLS

HERE = Path(__file__).parent
PYTHON = os.environ.get("MCP_OLD_PYTHON", "")
MAX_LINE_BYTES = 1 << 20

CLIENTS = {
    "python": [PYTHON, str(HERE / "python_sdk_1.py")],
    "typescript": [str(NODE_MODULES / ".bin" / "node"), str(HERE / "typescript_sdk_1.mjs"), str(NODE_MODULES)],
}

needs_old_python = pytest.mark.skipif(not PYTHON, reason="MCP_OLD_PYTHON is not set")


class OldClient:
    """A client in a process of its own, which says what it sees as lines of JSON."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)

    async def seen(self) -> dict[str, Any]:
        """What it says next."""
        return json.loads(await self._stdout.receive_until(b"\n", MAX_LINE_BYTES))

    async def go_on(self) -> None:
        """Let it go on, after it has given up waiting."""
        await self._stdin.send(b"\n")


@asynccontextmanager
async def old_client(command: list[str], base_url: str, transport: str) -> AsyncGenerator[OldClient]:
    """An old client of a new server, or over HTTP of two; at the end of the block it has ended, without an error."""

    @asynccontextmanager
    async def running(where: dict[str, Any]) -> AsyncGenerator[OldClient]:
        process = await anyio.open_process([*command, json.dumps(where)], stdin=PIPE, stdout=PIPE, stderr=None)
        async with process:
            yield OldClient(process)
            assert await process.wait() == 0

    if transport == "stdio":
        server = stdio_server(base_url, KEY)
        async with running({"command": server.command, "args": server.args, "env": server.env}) as client:
            yield client
    else:
        settings = load_settings({"base_url": base_url, "ledger": "memory"})
        with (
            serving_http(settings) as one,
            serving_http(settings) as other,
            behind_one_address([one, other]) as address,
        ):
            async with running({"url": f"{address}/mcp", "headers": {"x-api-key": KEY}}) as client:
                yield client


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize(
    "language", [pytest.param("python", marks=needs_old_python), pytest.param("typescript", marks=needs_node)]
)
async def test_old_client_can_do_its_research(
    upstream: Upstream, language: Literal["python", "typescript"], transport: str
) -> None:
    """Most hosts are such clients, and will be for a while."""
    with faulty(upstream.url) as proxy, anyio.fail_after(180):
        async with old_client(CLIENTS[language], proxy.url, transport) as client:
            seen = await client.seen()
            if transport == "stdio":
                # The cancelled call has let go of its stream; a kept-alive connection may stay. Over HTTP an old
                # client's cancelling comes as a request of its own, with nothing to say which replica it is for:
                # there a call ends with its time, or with its connection.
                await proxy.wait_for(lambda: proxy.open_connections <= 1)
            await client.go_on()
            status = (await client.seen())["status"]
        await proxy.wait_for(lambda: proxy.open_connections <= 1)

    assert seen["server"] == "parallel-mcp"
    assert seen["tools"] == TOOLS
    assert "parallel://runs/{run_id}/report.md" in seen["templates"]
    assert "deep_research" in seen["prompts"]
    values = [value for value, _, _ in seen["progress"]]
    assert len(values) >= 3
    assert values == sorted(set(values))
    assert all(total == 100 and message for _, total, message in seen["progress"])
    assert seen["watched"]["result_ready"]
    assert "battery" in seen["result"]
    assert "battery" in seen["report"]
    assert "timed out" in seen["gave_up"].lower()
    assert [item["is_active"] for item in status["items"]] == [True]
