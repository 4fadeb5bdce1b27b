"""The connections to the API: made at the first request, never carrying a caller's key from one request to another.

Calls share a pool of kept-alive connections. A create and a stream have a client, and so a connection, of their own:
no kept-alive connection can break under a create after it was sent; and since the work of httpx's pool grows with
the connections it holds, thousands of open streams slow down neither each other nor a search.
"""

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import httpx

from parallel_mcp import __version__
from parallel_mcp.api.failures import connection_failures, error_from
from parallel_mcp.errors import UpstreamUnreadable

USER_AGENT = f"parallel-mcp/{__version__} (+https://github.com/parallel-mcp/parallel-mcp)"

KEPT_ALIVE = 10
OPENING_AT_ONCE = 100  # streams; a thousand at once would all be slow, and pass their time-outs together


@dataclass(frozen=True)
class Timeouts:
    """Time-outs in seconds for each kind of request, from its start to the end of its answer.

    `read_back_s`: the pauses before a group is asked, once more each time, for runs whose answer was lost.
    """

    connect_s: float = 5.0
    write_s: float = 10.0
    read_s: float = 15.0
    search_s: float = 20.0
    extract_s: float = 50.0
    create_s: float = 30.0
    result_s: float = 15.0
    read_back_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 15.0)


@dataclass(frozen=True)
class Request:
    """One request: where to, with what, and how long and how large its answer may be."""

    method: Literal["GET", "POST"]
    path: str
    timeout_s: float
    max_bytes: int = 1 << 20
    fresh: bool = False
    """Whether it goes over a connection of its own."""
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
        self._shared: httpx.AsyncClient | None = None
        self._tls: ssl.SSLContext | None = None
        self._opening = anyio.CapacityLimiter(OPENING_AT_ONCE)

    async def aclose(self) -> None:
        """Close the connections that are kept alive; the others end with their requests."""
        client, self._shared = self._shared, None
        if client is not None:
            await client.aclose()

    async def fetch(self, request: Request, key: str) -> bytes:
        """Send a request and return the body of its answer.

        Raises:
            UpstreamError: The answer is not a success, is too large, or did not come; see `failures`.
        """
        with connection_failures(f"{request.method} {request.path}"), anyio.fail_after(request.timeout_s):
            response = await self._send(request, key, "application/json", read_s=request.timeout_s)
            async with aclosing(response):
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
        async with self._opening:
            response = await self._opened(request, key)
        async with aclosing(response):
            yield response

    async def _opened(self, request: Request, key: str) -> httpx.Response:
        with connection_failures(f"{request.method} {request.path}"), anyio.fail_after(request.timeout_s):
            response = await self._send(request, key, "text/event-stream", read_s=None)
            if response.status_code < 300:
                return response
            async with aclosing(response):
                raise error_from(response, await _read_bounded(response, request.max_bytes))

    async def _send(self, request: Request, key: str, accept: str, *, read_s: float | None) -> httpx.Response:
        """Send a request; its answer is open and has to be closed."""
        # A fresh client need not be kept and closed: it keeps no connection alive, so closing the answer closes all.
        client = self._client(kept_alive=0) if request.fresh else self._shared_client()
        timeout = httpx.Timeout(
            connect=self.timeouts.connect_s, write=self.timeouts.write_s, pool=self.timeouts.connect_s, read=read_s
        )
        sent = client.build_request(
            request.method,
            request.path,
            json=request.json,
            params=request.query,
            headers=request.headers(key, accept),
            timeout=timeout,
        )
        response = await client.send(sent, stream=True)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise UpstreamUnreadable("The Parallel API answered with a compressed body, which was not asked for")
        return response

    def _shared_client(self) -> httpx.AsyncClient:
        self._shared = self._shared or self._client(KEPT_ALIVE)
        return self._shared

    def _client(self, kept_alive: int) -> httpx.AsyncClient:
        # One TLS context for all: making it is the dearest part of a client by far.
        self._tls = self._tls or httpx.create_ssl_context()
        return httpx.AsyncClient(
            base_url=self._base_url,
            headers={"User-Agent": USER_AGENT},
            verify=self._tls,
            follow_redirects=False,  # a redirect would carry the key to another host
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=kept_alive),
        )


async def _read_bounded(response: httpx.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise UpstreamUnreadable(f"The answer of the Parallel API is larger than {max_bytes >> 20} MiB")
    return bytes(body)
