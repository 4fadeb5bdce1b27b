"""The connections to the API: made at the first request, shared by all callers, never carrying a caller's key.

Calls, creates and streams have a pool each, because a pool serves its requests in turn and its work grows with the
connections it holds: thousands of open streams must not slow down a search, and a create wants a connection of its
own, so that no kept-alive one can break under it after the request was sent.
"""

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import httpx

from parallel_mcp import __version__
from parallel_mcp.api.failures import connection_failures, error_from
from parallel_mcp.errors import UpstreamUnreadable

USER_AGENT = f"parallel-mcp/{__version__} (+https://github.com/parallel-mcp/parallel-mcp)"

Pool = Literal["calls", "creates", "streams"]
_KEPT_ALIVE: dict[Pool, int] = {"calls": 10, "creates": 0, "streams": 0}


@dataclass(frozen=True)
class Timeouts:
    """Time-outs in seconds for each kind of request, from its start to the end of its answer."""

    connect_s: float = 5.0
    write_s: float = 10.0
    read_s: float = 15.0
    search_s: float = 20.0
    extract_s: float = 50.0
    create_s: float = 30.0
    result_s: float = 15.0


@dataclass(frozen=True)
class Request:
    """One request: where to, with what, and how long and how large its answer may be."""

    method: Literal["GET", "POST"]
    path: str
    timeout_s: float
    max_bytes: int = 1 << 20
    pool: Pool = "calls"
    json: Any = None
    query: Mapping[str, str | list[str]] | None = None
    betas: tuple[str, ...] = ()

    def headers(self, key: str, accept: str) -> dict[str, str]:
        """The headers of this request; `Accept-Encoding: identity` makes sizes on the wire the real sizes."""
        fixed = {"x-api-key": key, "Accept": accept, "Accept-Encoding": "identity"}
        return fixed | ({"parallel-beta": ",".join(self.betas)} if self.betas else {})


class Connections:
    """Sends requests and reads answers whole, or opens a stream."""

    def __init__(self, base_url: str, timeouts: Timeouts | None = None) -> None:
        self.timeouts = timeouts or Timeouts()
        self._base_url = base_url
        self._pools: dict[Pool, httpx.AsyncClient] = {}
        self._tls: ssl.SSLContext | None = None

    async def aclose(self) -> None:
        """Close every connection."""
        async with AsyncExitStack() as closing:
            for client in self._pools.values():
                closing.push_async_callback(client.aclose)
            self._pools.clear()

    async def fetch(self, request: Request, key: str) -> bytes:
        """Send a request and return the body of its answer.

        Raises:
            UpstreamError: The answer is not a success, is too large, or did not come; see `failures`.
        """
        with connection_failures(f"{request.method} {request.path}"), anyio.fail_after(request.timeout_s):
            async with self._open(request, key, "application/json", read_s=request.timeout_s) as response:
                body = await _read_bounded(response, request.max_bytes)
        if response.status_code >= 300:
            raise error_from(response, body)
        return body

    @asynccontextmanager
    async def stream(self, request: Request, key: str) -> AsyncGenerator[httpx.Response]:
        """Open an event stream whose status is already checked. How long it may stay silent is the reader's business.

        Raises:
            UpstreamError: The stream did not open.
        """
        async with AsyncExitStack() as open_stream:
            with connection_failures(f"{request.method} {request.path}"), anyio.fail_after(request.timeout_s):
                opening = self._open(request, key, "text/event-stream", read_s=None)
                response = await open_stream.enter_async_context(opening)
                if response.status_code >= 300:
                    raise error_from(response, await _read_bounded(response, request.max_bytes))
            yield response

    @asynccontextmanager
    async def _open(
        self, request: Request, key: str, accept: str, *, read_s: float | None
    ) -> AsyncGenerator[httpx.Response]:
        client = self._pool(request.pool)
        timeout = httpx.Timeout(
            connect=self.timeouts.connect_s, write=self.timeouts.write_s, pool=self.timeouts.connect_s, read=read_s
        )
        async with client.stream(
            request.method,
            request.path,
            json=request.json,
            params=request.query,
            headers=request.headers(key, accept),
            timeout=timeout,
        ) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise UpstreamUnreadable("The Parallel API answered with a compressed body, which was not asked for")
            yield response

    def _pool(self, name: Pool) -> httpx.AsyncClient:
        if name not in self._pools:
            # One TLS context for all: making it is the dearest part of a client.
            self._tls = self._tls or httpx.create_ssl_context()
            self._pools[name] = httpx.AsyncClient(
                base_url=self._base_url,
                headers={"User-Agent": USER_AGENT},
                verify=self._tls,
                follow_redirects=False,  # a redirect would carry the key to another host
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT_ALIVE[name]),
            )
        return self._pools[name]


async def _read_bounded(response: httpx.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise UpstreamUnreadable(f"The answer of the Parallel API is larger than {max_bytes >> 20} MiB")
    return bytes(body)
