"""A client of our server over each transport, and what tests read from its answers."""

import os
import sys
import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import httpx2
import uvicorn
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent
from starlette.types import ASGIApp

from parallel_mcp.api.connections import Timeouts
from parallel_mcp.http.app import http_app
from parallel_mcp.server import build_server
from parallel_mcp.settings import Settings, load_settings

KEY = "canary-key-c0ffee"

Transport = Literal["memory", "stdio", "http"]
MODERN = "2026-07-28"
LEGACY = "legacy"


@asynccontextmanager
async def connected(
    transport: Transport,
    base_url: str,
    *,
    mode: str = MODERN,
    key: str = KEY,
    timeouts: Timeouts | None = None,
    stderr: TextIO = sys.stderr,
    **settings: Any,
) -> AsyncGenerator[Client]:
    """A client of a new server that uses the API at `base_url`."""
    flags = {"base_url": base_url, "ledger": "memory", **settings}
    match transport:
        case "memory":
            server = build_server(load_settings({**flags, "api_key": key or None}), timeouts=timeouts)
            async with Client(server, mode=mode) as client:
                yield client
        case "stdio":
            async with Client(stdio_client(stdio_server(base_url, key), stderr), mode=mode) as client:
                yield client
        case "http":
            with serving_http(load_settings(flags)) as address:
                async with http_client(address, key, mode=mode) as client:
                    yield client


def stdio_server(base_url: str, key: str, environment: Mapping[str, str] | None = None) -> StdioServerParameters:
    """How an MCP client starts the server."""
    given = {
        "PARALLEL_BASE_URL": base_url,
        "PARALLEL_MCP_LEDGER": "memory",
        **({"PARALLEL_API_KEY": key} if key else {}),
        **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},  # the code that is being tested
        **(environment or {}),
    }
    return StdioServerParameters(command=sys.executable, args=["-W", "error", "-m", "parallel_mcp"], env=given)


@asynccontextmanager
async def http_client(address: str, key: str, *, mode: str = MODERN) -> AsyncGenerator[Client]:
    """A client that sends a key with each request."""
    headers = {"x-api-key": key} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{address}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@contextmanager
def serving_http(settings: Settings) -> Generator[str]:
    """Serve over HTTP on a free loopback port, on a thread; gives the address."""
    with serving_app(http_app(build_server(settings), settings)) as address:
        yield address


@contextmanager
def serving_app(app: ASGIApp) -> Generator[str]:
    """Serve an application in the same way."""
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="on")
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    listener.listen()  # whoever connects before the server is ready waits for it
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join()
        listener.close()


@asynccontextmanager
async def asked_client(
    base_url: str, questions: list[str], *, approves: bool, mode: str = MODERN, **settings: Any
) -> AsyncGenerator[Client]:
    """A client whose user answers every question in the same way; the questions are noted."""

    async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
        questions.append(params.message)
        return ElicitResult(action="accept", content={"approve": approves})

    loaded = load_settings({"base_url": base_url, "api_key": KEY, "ledger": "memory", **settings})
    async with Client(build_server(loaded), mode=mode, elicitation_callback=answer) as client:
        yield client


def text_of(result: CallToolResult) -> str:
    """The text half of a result."""
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def structured(result: CallToolResult) -> dict[str, Any]:
    """The typed half of a successful result."""
    assert not result.is_error, text_of(result)
    return cast("dict[str, Any]", result.structured_content)


async def failure(client: Client, tool: str, arguments: dict[str, Any]) -> str:
    """The text of a tool error."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, text_of(result)
    assert result.structured_content is None
    return text_of(result)


async def create(client: Client, story: str = "", **arguments: Any) -> str:
    """Create a run that behaves as the simulator's story words say; its id."""
    request = {"input": "What does grid-scale battery storage cost?", "processor": "core-fast", **arguments}
    if story:
        request["metadata"] = {"sim": story}
    return str(structured(await client.call_tool("create_task", request))["run_id"])


ROOT = Path(__file__).parent.parent
